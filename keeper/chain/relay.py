"""A private relay, and the stream on which an auction tells what is pending: asked once, never again unasked.

A relay is no node: it reads nothing, so there is nothing to survey, and whoever hands it a transaction has
somebody else to go to. Only a request for patience is kept to.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import orjson
import structlog

from keeper.chain.rpc import KEPT_S, Rpc, Throttled, Unreachable, without_secrets

log = structlog.get_logger()

HUSH_S = 1.0
"""How long a relay is left alone that asks for patience and does not say how long."""
KNOCK_S = 0.8 * KEPT_S
"""So often a relay is called on: from one act to the next its connection would be closed, and to open another
takes some of the time that the relay has to answer."""
UPDATES_KEPT = 16
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 30.0
SILENCE_S = 45.0
"""A stream says something every 15 s (MEV-Share, specs/events/v0.1.md); three times that is too long."""


class Relay:
    """Implements what transports ask of a relay. Raises ChainFault where a request came to nothing."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        headers: Callable[[bytes], Mapping[str, str]] | None = None,
        local: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self._rpc = Rpc(url, timeout_s=timeout_s, headers=headers)
        self._local = local or {}
        """Methods that are answered here."""
        self._quiet_until_s = 0.0

    async def request(self, method: str, params: list[Any]) -> Any:
        """Send one request, once, unless the relay has asked for patience."""
        if method in self._local:
            return self._local[method]()
        wait_s = self._quiet_until_s - time.monotonic()
        if wait_s > 0:
            raise Throttled(f"{method} at {self._rpc.endpoint}: told to wait {wait_s:.1f} s more", wait_s)
        try:
            [result] = await self._rpc.exchange([(method, params)])
        except Throttled as fault:
            self._hush(fault)
            raise
        return result

    def _hush(self, fault: Throttled) -> None:
        asked_s = HUSH_S if fault.retry_after_s is None else fault.retry_after_s
        self._quiet_until_s = time.monotonic() + asked_s

    @asynccontextmanager
    async def at_hand(self) -> AsyncIterator[None]:
        """Keep a connection open while the block lasts, and close it then."""
        try:
            async with _meanwhile(self._knock_for_ever(), "chain.relay"):
                yield
        finally:
            await self.close()

    async def _knock_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._quiet_until_s - time.monotonic())
            try:
                await self._rpc.knock()
            except Throttled as fault:
                self._hush(fault)
            except Unreachable as fault:
                log.warning("relay.unreachable", endpoint=self._rpc.endpoint, why=str(fault))
            await asyncio.sleep(KNOCK_S)

    async def close(self) -> None:
        """Close the connections."""
        await self._rpc.close()


@asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Have a task at work while the block lasts."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Updates:
    """The pending transactions that touch an oracle, as MEV-Share hints at them; newest last."""

    def __init__(self, url: str, oracles: Sequence[str], *, fresh_s: float) -> None:
        self._url = url
        self.endpoint = without_secrets(url)
        self._oracles = frozenset(address.lower() for address in oracles)
        self._fresh_s = fresh_s
        self._heard: deque[tuple[float, str]] = deque(maxlen=UPDATES_KEPT)

    def pending(self) -> list[str]:
        """Return the hashes heard of lately; what is older is included, or never will be."""
        since_s = time.monotonic() - self._fresh_s
        return [tx_hash for at_s, tx_hash in self._heard if at_s >= since_s]

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen while the block lasts; a stream that ends is opened again."""
        async with _meanwhile(self._listen(), "chain.hints"):
            yield

    async def _listen(self) -> None:
        pause_s = SHORTEST_PAUSE_S
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=SILENCE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(self._url, allow_redirects=False) as response:
                        response.raise_for_status()
                        async for line in response.content:
                            pause_s = SHORTEST_PAUSE_S
                            self.hear(line)
                    why = "it ended"
                except (aiohttp.ClientError, OSError, ValueError) as error:
                    # Not the error's own words: they may hold the URL.
                    why = type(error).__name__
                log.warning("hints.lost", endpoint=self.endpoint, why=why, pause_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def hear(self, line: bytes) -> None:
        """Take one line of the stream; keep the hash where it hints at an oracle of ours."""
        if not line.startswith(b"data:"):
            return
        try:
            tx_hash = _touching(orjson.loads(line[5:]), self._oracles)
        except (AttributeError, KeyError, TypeError, ValueError):
            log.warning("hints.malformed", endpoint=self.endpoint, line=line[:80])
            return
        if tx_hash is not None:
            self._heard.append((time.monotonic(), tx_hash))


def _touching(event: Mapping[str, Any], oracles: frozenset[str]) -> str | None:
    """Return the hash of what an event hints at, where it calls one of the addresses or logs there."""
    told = [each.get("to") for each in event.get("txs") or ()]
    told += [each["address"] for each in event.get("logs") or ()]
    if not any(address is not None and address.lower() in oracles for address in told):
        return None
    tx_hash: str = event["hash"]
    if len(bytes.fromhex(tx_hash.removeprefix("0x"))) != 32:
        raise ValueError("not a hash")
    return tx_hash
