"""JSON-RPC over HTTP: one node, one session, one try; ``pool`` chooses nodes and tries again.

A plain aiohttp session, not web3's HTTP provider, because that one retries on its own, writes the whole
URL, API key included, into its log and its errors, and costs four times as much a call.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection

from keeper.chain.budget import Budget
from keeper.chain.wire import read_result
from keeper.errors import ChainFault, ConfigError, InvariantBroken

READS = frozenset({
    "eth_blockNumber", "eth_call", "eth_chainId", "eth_estimateGas", "eth_feeHistory", "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash", "eth_getBlockByNumber", "eth_getCode", "eth_getLogs", "eth_getStorageAt",
    "eth_getTransactionByHash", "eth_getTransactionCount", "eth_getTransactionReceipt", "eth_simulateV1",
    "web3_clientVersion",
})  # fmt: skip
"""What may be asked twice. Everything else is sent once: who sends it knows what a second time means."""

Calls: TypeAlias = Sequence[tuple[str, list[Any]]]

REVERTED = 3
"""The code that nodes give a revert with data."""
TOO_MANY = 429
UNAVAILABLE = 503
NOT_SERVED = frozenset({401, 402, 403, *range(500, 600)})
"""With these an error is the word of whoever stands before the node: it says nothing about the call."""
BODY_BYTES = 64 * 2**20
"""No answer is read further. A batch of account pages is some 8 MiB; a node that answers a range of logs with
more than this would take the memory of the keeper, and is better asked for less."""
AT_ONCE_BYTES = 2**15
"""A body up to this is written without waiting for room, which aiohttp would do above twice as much."""
KEPT_S = 50.0
"""So long a connection is kept that nobody uses: over some empty slots of a chain, but less than the minute
after which common balancers close it, for a request that meets their closing is lost."""
SHORTEST_KEY = 8
LONGEST_PATIENCE_S = 600.0
"""A longer wait is not believed: a provider with a wrong clock or unit would never be asked again."""
RATE_LIMITED = re.compile(
    "rate.?limit|too many requests|request limit|request count exceeded|compute units|credits limited",
    re.IGNORECASE,
)
"""How providers say 429 in a body with status 200; what a range of logs is refused with is not among it."""


class RpcError(ChainFault):
    """The node's own refusal of one request."""

    def __init__(self, method: str, endpoint: str, error: Mapping[str, Any]) -> None:
        self.code = error.get("code")
        self.message = str(error.get("message", ""))[:500]
        self.data = error.get("data")
        """Revert data, as the node gives it: mostly 0x-hex text, or None."""
        super().__init__(f"{method} at {endpoint}: {self.message} (code {self.code})")

    @property
    def is_revert(self) -> bool:
        """Tell whether a contract speaks here: whatever words it chose are not the node's."""
        return self.code == REVERTED or "revert" in self.message.lower()


class Unreachable(ChainFault):
    """No answer that can be understood: refused, timed out, cut off, not JSON-RPC."""


class Throttled(Unreachable):
    """The provider asks for patience: nothing more is sent there for so long, if it says how long."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(text)


def without_secrets(url: str) -> str:
    """Return scheme, host and port; user, path and query may hold an API key."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an invalid URL"
    return f"{parts.scheme}://{parts.hostname}{port}"


def secrets_of(url: str) -> list[bytes]:
    """Return what may be a key in a URL, the longest first; shorter parts are words such as ``jsonrpc``."""
    parts = urlsplit(url)
    text = f"{parts.username}/{parts.password}/{parts.path}/{parts.query}/{parts.fragment}"
    pieces = {piece for each in (text, unquote(text)) for piece in re.split("[/?&=#]", each)}
    return [piece.encode() for piece in sorted(pieces, key=len, reverse=True) if len(piece) >= SHORTEST_KEY]


class _AtOnce(aiohttp.ClientRequest):
    """A request that is on the wire before anything else runs.

    aiohttp has a task of its own write the body. Before Python 3.12 a task begins a turn of the loop later,
    behind all that is due by then.
    """

    def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> Coroutine[Any, Any, None]:
        """Write the body; return what is left to do, where it is long or the connection is full."""
        writing = super().write_bytes(writer, conn, content_length)
        full = conn.protocol is None or conn.protocol.writing_paused
        if full or content_length is None or content_length > AT_ONCE_BYTES:
            return writing
        try:
            writing.send(None)
        except StopIteration:
            return _done()
        raise InvariantBroken(f"{content_length} bytes were not written at once")


async def _done() -> None:
    pass


class Rpc:
    """A JSON-RPC client of one node. Raises RpcError for its refusals and Unreachable for silence."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 10.0,
        requests_s: float | None = None,
        headers: Callable[[bytes], Mapping[str, str]] | None = None,
    ) -> None:
        self.endpoint = without_secrets(url)
        if not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"an RPC endpoint must be a URL that begins with http:// or https://, found {self.endpoint}"
            )
        self.budget = Budget(requests_s)
        self._url = url
        self._secrets = secrets_of(url)
        self._timeout_s = timeout_s
        self._headers = headers
        """What goes with a body, such as a signature of it."""
        self._ids = count(1)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def exchange(self, calls: Calls) -> list[Any]:
        """Send calls once and return their results in order; the first refusal is raised.

        One call goes alone, several go as one JSON-RPC batch. The budget is spent by whoever asks.
        """
        sent = [
            {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
            for method, params in calls
        ]
        body = orjson.dumps(sent if len(sent) > 1 else sent[0])
        status, wait_s, text = await self._sent("POST", _name(calls), body)
        try:
            return results_of(sent, status, text, self.endpoint, self._secrets)
        except Throttled as fault:
            fault.retry_after_s = wait_s
            raise

    async def knock(self) -> None:
        """Ask for nothing, so that a connection is open for what comes next; any answer will do.

        Raises Unreachable where there is none, and Throttled.
        """
        await self._sent("HEAD", "a knock", None)

    async def _sent(self, method: str, name: str, body: bytes | None) -> tuple[int, float | None, bytes]:
        """Send one HTTP request; return the status of its answer, the patience asked for, and the body."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=KEPT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json"},
                request_class=_AtOnce,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            )
        headers = self._headers(body) if self._headers is not None and body is not None else None
        try:
            async with self._session.request(
                method, self._url, data=body, headers=headers, allow_redirects=False
            ) as response:
                text = await self._text_of(response, name)
        except (aiohttp.ClientError, OSError) as error:
            # The cause is cut off: aiohttp's errors may hold the URL.
            why = getattr(error, "strerror", None) or type(error).__name__
            raise Unreachable(f"{name} at {self.endpoint}: no answer ({why})") from None
        wait_s = _retry_after_s(response.headers)
        if response.status == TOO_MANY or (response.status == UNAVAILABLE and wait_s is not None):
            raise Throttled(f"{name} at {self.endpoint}: HTTP {response.status}", wait_s)
        return response.status, wait_s, text

    async def _text_of(self, response: aiohttp.ClientResponse, name: str) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > BODY_BYTES:
                raise Unreachable(f"{name} at {self.endpoint}: more than {BODY_BYTES} bytes")
        return b"".join(parts)


# --- reading an answer ----------------------------------------------------------------------------


def results_of(
    sent: Sequence[Mapping[str, Any]],
    status: int,
    text: bytes,
    endpoint: str,
    secrets: Sequence[bytes] = (),
) -> list[Any]:
    """Return the results of an HTTP answer in the order of the calls sent; pure.

    Every call must be answered once, under its own id, by a result of its method's shape; anything else
    is Unreachable, as if there had been no answer. A node's refusal is RpcError, or Throttled; that of
    whoever stands before it, as the status tells, is Unreachable. No fault holds one of the ``secrets``.
    """
    with suppress(RpcError, Unreachable):
        return _results_of(sent, status, text, endpoint)
    # A provider may echo the URL: what is said of a fault is read from its answer without the key.
    for secret in secrets:
        text = text.replace(secret, b"***")
    return _results_of(sent, status, text, endpoint)


def _results_of(sent: Sequence[Mapping[str, Any]], status: int, text: bytes, endpoint: str) -> list[Any]:
    name = _name([(call["method"], call["params"]) for call in sent])
    try:
        answers = _by_id(sent, orjson.loads(text))
        results = []
        for call in sent:
            answer = answers.get(call["id"]) or answers[None]
            results.append(_result(call, status, answer, endpoint))
    except (RpcError, Unreachable):
        raise
    except (ChainFault, KeyError, TypeError, ValueError) as error:
        why = "" if isinstance(error, orjson.JSONDecodeError) else f": {error}"
        raise Unreachable(f"{name} at {endpoint}: expected JSON-RPC, found HTTP {status}{why}") from None
    return results


def _result(call: Mapping[str, Any], status: int, answer: Mapping[str, Any], endpoint: str) -> Any:
    method, params = call["method"], call["params"]
    if answer.get("error") is not None:
        refusal = _refusal(method, endpoint, answer["error"])
        if status in NOT_SERVED and isinstance(refusal, RpcError) and not refusal.is_revert:
            raise Unreachable(f"{refusal}, with HTTP {status}")
        raise refusal
    if status != 200:
        raise ValueError("a result with another status than 200")
    return read_result(method, params, answer["result"])


def _by_id(sent: Sequence[Mapping[str, Any]], answer: Any) -> dict[int | None, Mapping[str, Any]]:
    """Return answers by id; raise ValueError where they are not those of ``sent``, each once.

    One without an id refuses all that was asked.
    """
    if isinstance(answer, list) == (len(sent) == 1) and not _refuses_all(answer):
        raise ValueError("one answer for several calls, or several for one")
    asked = {call["id"] for call in sent}
    found: dict[int | None, Mapping[str, Any]] = {}
    for each in answer if isinstance(answer, list) else [answer]:
        if not isinstance(each, dict) or each.get("jsonrpc") != "2.0":
            raise ValueError("an answer without jsonrpc 2.0")
        given = each.get("id")
        if not _refuses_all(each) and (type(given) is not int or given not in asked):
            raise ValueError(f"an answer to {str(given)[:20]}, which was not asked")
        if given in found:
            raise ValueError(f"two answers to {given}")
        if ("result" in each) == (each.get("error") is not None):
            raise ValueError(f"the answer to {given} must have either a result or an error")
        found[given] = each
    return found


def _refuses_all(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("id") is None and answer.get("error") is not None


def _refusal(method: str, endpoint: str, error: Any) -> RpcError | Throttled:
    if type(error["code"]) is not int or not isinstance(error.get("message", ""), str):
        raise TypeError("an error must have a code and a message")
    refusal = RpcError(method, endpoint, error)
    if refusal.code == TOO_MANY or (RATE_LIMITED.search(refusal.message) and not refusal.is_revert):
        return Throttled(str(refusal))
    return refusal


def _name(calls: Calls) -> str:
    """Name an exchange by its first method."""
    method = calls[0][0]
    return method if len(calls) == 1 else f"a batch of {len(calls)}, {method} first,"


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After, in seconds or as a date; a date counts from the server's own, if it gives one."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if re.fullmatch("[0-9]{1,9}", value):
        return min(float(value), LONGEST_PATIENCE_S)
    try:
        until_s = parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    try:
        now_s = parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except (TypeError, ValueError, OverflowError):
        now_s = time.time()
    return min(max(0.0, until_s - now_s), LONGEST_PATIENCE_S)
