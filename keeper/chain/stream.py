"""The one websocket that only listens: new heads, and logs of the given addresses.

It never waits for whoever consumes: heads coalesce (the newest wins), logs are kept by block for a
cross-check. A lost socket is opened again with back-off, and each new one asks for a look at the chain,
for what was announced in between is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from web3 import AsyncWeb3, WebSocketProvider
from web3.exceptions import Web3Exception
from websockets.exceptions import WebSocketException

from keeper.chain.rpc import without_secrets
from keeper.chain.wire import head_of, log_of
from keeper.domain import Head, Log
from keeper.errors import ChainFault, ConfigError

log = structlog.get_logger()

SOCKET = {"open_timeout": 10, "ping_interval": 10, "ping_timeout": 10, "close_timeout": 1}
SHORTEST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
BLOCKS_HEARD = 256


async def chain_id_of(url: str) -> int:
    """Ask a websocket endpoint for its chain; raise ChainFault, without URL secrets, if it is silent."""
    provider = WebSocketProvider(url, websocket_kwargs=SOCKET, max_connection_retries=1)
    try:
        async with asyncio.timeout(10), AsyncWeb3(provider, middleware=[]) as w3:
            return int(await w3.eth.chain_id)
    except (TimeoutError, Web3Exception, WebSocketException, OSError, ValueError, KeyError) as error:
        raise ChainFault(f"{without_secrets(url)}: no answer ({type(error).__name__})") from None


class Stream:
    """Listens; ``news`` is set when there is a reason to look at the chain."""

    def __init__(self, url: str, addresses: Sequence[str]) -> None:
        self.endpoint = without_secrets(url)
        if not self.endpoint.startswith(("ws://", "wss://")):
            raise ConfigError(f"a websocket endpoint must begin with ws:// or wss://, found {self.endpoint}")
        self.news = asyncio.Event()
        self.connected = False
        self.heard: OrderedDict[str, dict[int, Log]] = OrderedDict()
        """Logs announced, by block hash and index."""
        self._url = url
        self._addresses = [AsyncWeb3.to_checksum_address(address) for address in addresses]
        self._announced: Head | None = None

    def take(self) -> Head | None:
        """Return the newest head announced since the last call; None asks to look for oneself."""
        head, self._announced = self._announced, None
        self.news.clear()
        return head

    async def run(self) -> None:
        """Listen for ever."""
        # At INFO web3 writes the whole URL, API key included.
        logging.getLogger("web3").setLevel(logging.WARNING)
        wait_s = SHORTEST_WAIT_S
        while True:
            why = await self._listen()
            wait_s = SHORTEST_WAIT_S if self.connected else min(2 * wait_s, LONGEST_WAIT_S)
            if self.connected:
                self.connected = False
                self.news.set()
            log.warning("chain.socket_lost", endpoint=self.endpoint, why=why, wait_s=wait_s)
            await asyncio.sleep(wait_s)

    async def _listen(self) -> str:
        """Listen until the socket is lost; say why it was."""
        provider = WebSocketProvider(self._url, websocket_kwargs=SOCKET, max_connection_retries=1)
        try:
            async with AsyncWeb3(provider, middleware=[]) as w3:
                heads = await w3.eth.subscribe("newHeads")
                if self._addresses:
                    await w3.eth.subscribe("logs", {"address": self._addresses})
                self.connected = True
                self.news.set()
                async for message in w3.socket.process_subscriptions():
                    if message["subscription"] == heads:
                        self._hear_head(message["result"])
                    else:
                        self._hear_log(message["result"])
        except (ChainFault, Web3Exception, WebSocketException, OSError, ValueError, KeyError) as error:
            return type(error).__name__
        return "closed by the node"

    def _hear_head(self, raw: Mapping[str, Any]) -> None:
        self._announced = head_of(raw)
        self.news.set()

    def _hear_log(self, raw: Mapping[str, Any]) -> None:
        heard = log_of(raw)
        if raw.get("removed"):
            self.heard.get(heard.block_hash, {}).pop(heard.index, None)
            return
        self.heard.setdefault(heard.block_hash, {})[heard.index] = heard
        if len(self.heard) > BLOCKS_HEARD:
            self.heard.popitem(last=False)
