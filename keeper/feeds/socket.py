"""The one connection to a venue: made, kept alive, given up when it is silent, made again with full jitter.

Nothing in it grows without bound: of a symbol only the newest quote is kept, and a message larger than
``MESSAGE_BYTES`` ends the connection. A venue that says it was asked too often is left alone for as long as
it says. Of a URL nothing is ever logged: it may hold a key.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import aiohttp
import structlog

from keeper.feeds.heard import Heard

log = structlog.get_logger()

OPEN_S = 10.0
HEARTBEAT_S = 20.0
"""Between two ping frames of ours; those of the server are answered by the library."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
SETTLED_S = 60.0
"""A connection that was heard for so long makes up for those that failed before it."""
LIMITED_S = 60.0
"""The pause after a refusal for being asked too often, where nothing says how long."""
LONGEST_LIMIT_S = 900.0
PING_S = 1.0
MESSAGE_BYTES = 2**20
TOLD_FAULTS = frozenset(10**places for places in range(10))
"""So many are worth a line in the log: the first, the tenth, the hundredth."""

CLOSE = aiohttp.ClientWSTimeout(ws_close=1.0)
ENDS = (aiohttp.ClientError, OSError, EOFError)
"""What ends a connection, and nothing else; a timeout is an OSError."""
TOO_OFTEN = frozenset({418, 429})
"""HTTP: 418 is Binance's for an address that went on after 429."""
CLOSED_TOO_OFTEN = frozenset({1008, 1013})
"""Websocket: policy violation, try again later."""


def wall_ms() -> int:
    """Return the time of the local clock."""
    return time.time_ns() // 1_000_000


def pause_s(attempt: int) -> float:
    """Draw the pause before the next attempt: anywhere up to a bound that doubles with each that failed."""
    return random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt, 10)))


def limit_s(retry_after: str | None) -> float:
    """Return how long a venue asks to be left alone: its Retry-After in seconds, where it has one."""
    asked = retry_after or ""
    if not (asked.isascii() and asked.isdigit()):
        return LIMITED_S
    return min(float(asked), LONGEST_LIMIT_S)


class Line:
    """Keeps one connection, and passes what is said on it to ``Heard``."""

    def __init__(
        self,
        heard: Heard,
        url: str,
        news: Callable[[str, Collection[str], int], None],
        *,
        clock_ms: Callable[[], int] = wall_ms,
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        self._heard = heard
        self._venue = heard.venue
        self._url = heard.venue.address(url, list(heard.quotes))
        self._news = news
        self._clock_ms = clock_ms
        self._pause = pause
        self._limit_s = 0.0
        self._counted = 0

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Listen for ever."""
        attempt = 0
        while True:
            opened_s = time.monotonic()
            self._limit_s = 0.0
            why = await self._listen(session)
            if time.monotonic() - opened_s > SETTLED_S:
                attempt = 0
            wait_s = max(self._pause(attempt), self._limit_s)
            attempt += 1
            self._heard.lost(why)
            self._tell(self._heard.quotes)
            faults = dict(self._heard.faults)
            log.warning("feed.line_lost", venue=self._venue.name, why=why, wait_s=wait_s, faults=faults)
            await asyncio.sleep(wait_s)

    async def _listen(self, session: aiohttp.ClientSession) -> str:
        """Listen until the connection ends; say why it did. The cause is cut off: it may hold the URL."""
        patience_s = OPEN_S
        try:
            async with asyncio.timeout(patience_s) as limit:
                reach = self._events if self._venue.is_stream else self._messages
                async with reach(session) as messages:
                    self._heard.connected()
                    self._tell(self._heard.quotes)
                    async for message in messages:
                        patience_s = self._venue.silence_s
                        limit.reschedule(asyncio.get_running_loop().time() + patience_s)
                        self._take(message)
                        if self._heard.limited:
                            self._limit_s = LIMITED_S
                            return f"asked too often: {self._heard.limited}"
        except aiohttp.ClientResponseError as error:
            if error.status in TOO_OFTEN:
                self._limit_s = limit_s(error.headers.get("Retry-After") if error.headers else None)
            return f"HTTP status {error.status}"
        except TimeoutError:
            return f"silent for {patience_s:g} s"
        except ENDS as error:
            return type(error).__name__
        return "closed by the venue" + (", asked too often" if self._limit_s else "")

    def _take(self, message: str | bytes) -> None:
        # What is no text becomes what is no JSON, and is counted like that.
        text = message if isinstance(message, str) else message.decode(errors="replace")
        if touched := self._heard.take(text, self._clock_ms()):
            self._tell(touched)
        count = self._heard.faults.total()
        if count != self._counted:
            self._counted = count
            if count in TOLD_FAULTS:
                log.warning("feed.faults", venue=self._venue.name, faults=dict(self._heard.faults))

    def _tell(self, symbols: Collection[str]) -> None:
        self._news(self._venue.name, symbols, time.monotonic_ns())

    @asynccontextmanager
    async def _messages(self, session: aiohttp.ClientSession) -> AsyncIterator[AsyncIterator[str | bytes]]:
        """Open a websocket; ask for what is wanted while the first answers come in already."""
        async with session.ws_connect(
            self._url, heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES, timeout=CLOSE
        ) as socket:
            speaking = asyncio.create_task(self._speak(socket))
            try:
                yield self._read(socket)
            finally:
                speaking.cancel()
                await asyncio.wait({speaking})

    async def _speak(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Subscribe at a bounded pace, then ask for signs of life; a socket that is gone ends the reading."""
        try:
            for message in self._venue.subscriptions(list(self._heard.quotes)):
                await socket.send_str(message)
                await asyncio.sleep(self._venue.pace_s)
            while self._venue.ping is not None:
                await socket.send_str(self._venue.ping)
                await asyncio.sleep(PING_S)
        except ENDS:
            return

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[str | bytes]:
        async for message in socket:
            if message.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
                raise aiohttp.ClientConnectionError
            yield message.data
        if socket.close_code in CLOSED_TOO_OFTEN:
            self._limit_s = LIMITED_S

    @asynccontextmanager
    async def _events(self, session: aiohttp.ClientSession) -> AsyncIterator[AsyncIterator[str | bytes]]:
        """Open a stream of server-sent events."""
        headers = {"Accept": "text/event-stream"}
        async with session.get(self._url, headers=headers, raise_for_status=True) as response:
            yield _data_of(response.content)


async def _data_of(content: aiohttp.StreamReader) -> AsyncIterator[str | bytes]:
    """Yield the data of each event: the lines between two empty ones that begin with ``data:``."""
    data: list[bytes] = []
    size = 0
    async for line in _lines(content):
        size += len(line)
        if size > MESSAGE_BYTES:
            raise aiohttp.ClientPayloadError
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
        elif not line:
            if data:
                yield b"\n".join(data)
            data, size = [], 0


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")
        if len(rest) > MESSAGE_BYTES:
            raise aiohttp.ClientPayloadError
