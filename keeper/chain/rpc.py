"""JSON-RPC over HTTP: one node, one session, time-outs, and retries for reads only.

A plain aiohttp session, not web3's HTTP provider, because that one retries on its own, writes the whole
URL, API key included, into its log and its errors, and costs four times as much a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import orjson
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from keeper.errors import ChainFault, ConfigError

READS = frozenset({
    "eth_blockNumber", "eth_call", "eth_chainId", "eth_estimateGas", "eth_feeHistory", "eth_getBalance",
    "eth_getBlockByHash", "eth_getBlockByNumber", "eth_getCode", "eth_getLogs", "eth_getStorageAt",
    "eth_getTransactionByHash", "eth_getTransactionCount", "eth_getTransactionReceipt", "web3_clientVersion",
})  # fmt: skip
"""What may be asked twice. Everything else is sent once: who sends it knows what a second time means."""


class RpcError(ChainFault):
    """The node's own refusal of one request."""

    def __init__(self, method: str, endpoint: str, error: Mapping[str, Any]) -> None:
        self.code = error.get("code")
        self.message = str(error.get("message", ""))
        self.data = error.get("data")
        """Revert data, as the node gives it: mostly 0x-hex text, or None."""
        super().__init__(f"{method} at {endpoint}: {self.message} (code {self.code})")


class Unreachable(ChainFault):
    """No answer that can be understood: refused, timed out, cut off, not JSON-RPC."""


def without_secrets(url: str) -> str:
    """Return scheme, host and port; user, path and query may hold an API key."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an invalid URL"
    return f"{parts.scheme}://{parts.hostname}{port}"


class Rpc:
    """A JSON-RPC client of one node. Raises RpcError for its refusals and Unreachable for silence."""

    def __init__(self, url: str, *, timeout_s: float = 10.0, attempts: int = 3) -> None:
        self.endpoint = without_secrets(url)
        if not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"an RPC endpoint must begin with http:// or https://, found {self.endpoint}")
        self._url = url
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._ids = count(1)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(self, method: str, params: list[Any]) -> Any:
        """Send one request and return its result; try again only what is in READS."""
        call = self._call(method, params)
        [result] = await self._exchange([call], body=call)
        return result

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        """Send several requests as one and return their results in order; the first refusal is raised."""
        batch = [self._call(method, params) for method, params in calls]
        return await self._exchange(batch, body=batch) if batch else []

    def _call(self, method: str, params: list[Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}

    async def _exchange(self, calls: Sequence[Mapping[str, Any]], body: object) -> list[Any]:
        retry = all(call["method"] in READS for call in calls)
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(Unreachable),
            stop=stop_after_attempt(self._attempts if retry else 1),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        )
        return await attempts(self._once, calls, orjson.dumps(body))

    async def _once(self, calls: Sequence[Mapping[str, Any]], body: bytes) -> list[Any]:
        name = (
            calls[0]["method"] if len(calls) == 1 else f"a batch of {len(calls)}, {calls[0]['method']} first,"
        )
        answer = await self._post(name, body)
        answers = answer if isinstance(answer, list) else [answer]
        by_id = {each.get("id"): each for each in answers if isinstance(each, dict)}
        results = []
        for call in calls:
            # An answer without an id refuses everything that was asked.
            found = by_id.get(call["id"], by_id.get(None, {}))
            if isinstance(error := found.get("error"), dict):
                raise RpcError(call["method"], self.endpoint, error)
            if "result" not in found or found.get("id") is None:
                raise Unreachable(
                    f"{name} at {self.endpoint}: an answer without the result of {call['method']}"
                )
            results.append(found["result"])
        return results

    async def _post(self, name: str, body: bytes) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                headers={"Content-Type": "application/json"},
            )
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                text = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            # The cause is cut off: aiohttp's errors may hold the URL.
            why = getattr(error, "strerror", None) or type(error).__name__
            raise Unreachable(f"{name} at {self.endpoint}: no answer ({why})") from None
        try:
            answer = orjson.loads(text)
        except orjson.JSONDecodeError:
            answer = None
        if response.status == 429 or not isinstance(answer, dict | list):
            raise Unreachable(f"{name} at {self.endpoint}: expected JSON-RPC, found HTTP {response.status}")
        return answer
