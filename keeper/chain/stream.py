"""The one websocket that only listens: new heads, and logs of the given addresses.

Calls never go over it: a socket that is busy answering cannot tell news, and its queue would be theirs.

It never waits for whoever consumes, and nothing in it grows without bound. Of heads only the newest is
kept; one that is overrun is found again by its number. Logs are kept for a cross-check, at most
``LOGS_HEARD`` of at most ``BLOCKS_HEARD`` blocks; beyond that those of the oldest block are dropped, which
loses the check of that block and no log, for logs are read from ``eth_getLogs``. A message larger than
``MESSAGE_BYTES`` ends the socket.

A socket that is lost or closed is left for that of the next endpoint, with a pause that grows until one is
heard for a while; so is one that does not announce the heads which the chain is found to have: half open,
behind, or on another fork. Each new one asks for a look at the chain, for what was announced in between is
gone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import aiohttp
import orjson
import structlog

from keeper.chain.rpc import without_secrets
from keeper.chain.wire import MALFORMED, head_of, log_of, quantity
from keeper.domain import Head, Log
from keeper.errors import ChainFault, ConfigError

log = structlog.get_logger()

OPEN_S = 10.0
"""For the handshake and all that is asked before anything is listened to."""
HEARTBEAT_S = 10.0
SHORTEST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
BLOCKS_HEARD = 256
LOGS_HEARD = 65_536
MESSAGE_BYTES = 4 * 2**20
HEADS_TOLD = 64
SILENT_BLOCKS = 3
"""For so many block times a socket may not announce the heads that the chain is found to have."""

CLOSE = aiohttp.ClientWSTimeout(ws_close=1.0)
ENDS = (ChainFault, aiohttp.ClientError, OSError, *MALFORMED)
"""What ends a socket, and nothing else."""

Socket: TypeAlias = aiohttp.ClientWebSocketResponse


async def expect_chain(urls: Sequence[str], chain_id: int) -> None:
    """Raise ConfigError where a websocket serves another chain, and ChainFault where all are silent."""
    found = await asyncio.gather(*(_chain_id_of(url) for url in urls), return_exceptions=True)
    for url, answer in zip(urls, found, strict=True):
        if isinstance(answer, int) and answer != chain_id:
            raise ConfigError(f"chain {chain_id} is configured, but {without_secrets(url)} serves {answer}")
        if isinstance(answer, BaseException) and not isinstance(answer, ChainFault):
            raise answer
    if all(isinstance(answer, ChainFault) for answer in found):
        raise ChainFault("; ".join(map(str, found)))


async def _chain_id_of(url: str) -> int:
    try:
        async with opened(url) as (socket, _):
            return quantity(await ask(socket, 1, "eth_chainId", []))
    except ENDS as error:
        # The cause is cut off: aiohttp's errors may hold the URL.
        raise ChainFault(f"{without_secrets(url)}: no answer ({type(error).__name__})") from None


class Stream:
    """Listens; ``news`` is set when there is a reason to look at the chain."""

    def __init__(
        self,
        urls: Sequence[str],
        addresses: Sequence[str],
        *,
        block_time_s: float = 12.0,
        flat_fees: bool = False,
    ) -> None:
        for endpoint in map(without_secrets, urls):
            if not endpoint.startswith(("ws://", "wss://")):
                raise ConfigError(f"a websocket endpoint must begin with ws:// or wss://, found {endpoint}")
        if not urls:
            raise ConfigError("expected at least one websocket endpoint, found none")
        self.news = asyncio.Event()
        self.connected = False
        self.heard: OrderedDict[str, dict[int, Log]] = OrderedDict()
        """Logs announced, by block hash and index."""
        self._urls = list(urls)
        self._addresses = [address.lower() for address in addresses]
        self._flat_fees = flat_fees
        self._silence_s = SILENT_BLOCKS * block_time_s
        self._announced: Head | None = None
        self._told: deque[str] = deque(maxlen=HEADS_TOLD)
        self._confirmed: Head | None = None
        self._is_new = True
        self._heard_s = 0.0
        """For how long the last socket was heard."""
        self._limit: asyncio.Timeout | None = None

    @property
    def endpoint(self) -> str:
        """The endpoint in use, or the next one to be tried, without secrets."""
        return without_secrets(self._urls[0])

    def take(self) -> Head | None:
        """Return the newest head announced since the last call; None asks to look for oneself."""
        head, self._announced = self._announced, None
        self.news.clear()
        return head

    def confirm(self, head: Head) -> None:
        """Tell of a head that the chain was found to have; the socket has some block times to announce it.

        The first one after a socket was opened may be older than the socket, and counts as announced.
        """
        self._confirmed = head
        if self._is_new:
            self._is_new = False
            self._told.append(head.hash)
        if self._limit is not None and head.hash in self._told:
            self._limit.reschedule(None)
        elif self._limit is not None and self._limit.when() is None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._silence_s)

    async def run(self) -> None:
        """Listen for ever."""
        wait_s = SHORTEST_WAIT_S
        while True:
            self._heard_s = 0.0
            why = await self._listen()
            wait_s = SHORTEST_WAIT_S if self._heard_s > LONGEST_WAIT_S else min(2 * wait_s, LONGEST_WAIT_S)
            if self.connected:
                self.connected = False
                self.news.set()
            log.warning("chain.socket_lost", endpoint=self.endpoint, why=why, wait_s=wait_s)
            self._urls.append(self._urls.pop(0))
            await asyncio.sleep(wait_s)

    async def _listen(self) -> str:
        """Listen until the socket is lost; say why it was."""
        try:
            async with opened(self._urls[0]) as (socket, limit):
                heads, logs = await self._subscribe(socket)
                limit.reschedule(None)
                await self._hear(socket, heads, logs)
        except ENDS as error:
            return str(error) if isinstance(error, ChainFault) else type(error).__name__
        return "closed by the node"

    def watch(self, addresses: Sequence[str]) -> None:
        """Have the logs of these contracts announced, from the next connection on: they are a cross-check."""
        self._addresses = [address.lower() for address in addresses]

    async def _subscribe(self, socket: Socket) -> tuple[str, str | None]:
        heads = await ask(socket, 1, "eth_subscribe", ["newHeads"])
        if not self._addresses:
            return heads, None
        return heads, await ask(socket, 2, "eth_subscribe", ["logs", {"address": self._addresses}])

    async def _hear(self, socket: Socket, heads: str, logs: str | None) -> None:
        self._told.clear()
        self._is_new, self.connected = True, True
        self.news.set()
        opened_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(None) as self._limit:
                async for message in socket:
                    self._heard_s = asyncio.get_running_loop().time() - opened_s
                    about = json_of(message)["params"]
                    if about["subscription"] == heads:
                        self._hear_head(about["result"])
                    elif about["subscription"] == logs:
                        self._hear_log(about["result"])
        except TimeoutError:
            if self._limit is None or not self._limit.expired():
                raise
            raise ChainFault(
                f"half open, behind or on another fork: {self._confirmed} not announced"
            ) from None
        finally:
            self._limit = None

    def _hear_head(self, raw: Mapping[str, Any]) -> None:
        head = head_of(raw, flat_fees=self._flat_fees)
        self._told.append(head.hash)
        if self._limit is not None and self._confirmed is not None and head.hash == self._confirmed.hash:
            self._limit.reschedule(None)
        self._announced = head
        self.news.set()

    def _hear_log(self, raw: Mapping[str, Any]) -> None:
        heard = log_of(raw)
        if heard.address not in self._addresses:
            raise ChainFault(f"a log of {heard.address}, which was not asked for")
        if raw.get("removed"):
            self.heard.get(heard.block_hash, {}).pop(heard.index, None)
            return
        self.heard.setdefault(heard.block_hash, {})[heard.index] = heard
        while len(self.heard) > BLOCKS_HEARD or sum(map(len, self.heard.values())) > LOGS_HEARD:
            self.heard.popitem(last=False)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Socket, asyncio.Timeout]]:
    """Open a websocket, and with it the limit that ends it: until it is rescheduled, ``OPEN_S`` from now.

    Raises what is in ``ENDS``.
    """
    async with (
        asyncio.timeout(OPEN_S) as limit,
        aiohttp.ClientSession() as session,
        session.ws_connect(url, heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES, timeout=CLOSE) as socket,
    ):
        yield socket, limit


async def ask(socket: Socket, number: int, method: str, params: list[Any]) -> str:
    """Ask and return the answer; what is announced before it is covered by the look that follows."""
    request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    await socket.send_str(orjson.dumps(request).decode())
    async for message in socket:
        answer = json_of(message)
        if answer.get("id") == number:
            if not isinstance(result := answer.get("result"), str):
                raise ChainFault(f"{method} was refused")
            return result
    raise ChainFault(f"closed before {method} was answered")


def json_of(message: aiohttp.WSMessage) -> dict[str, Any]:
    if message.type not in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
        raise ChainFault(f"expected a message, found {message.type.name}")
    read = orjson.loads(message.data)
    if not isinstance(read, dict) or read.get("jsonrpc") != "2.0":
        raise ChainFault("expected a JSON-RPC message")
    return read
