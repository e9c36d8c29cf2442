"""A websocket on which signed transactions are offered to a node: what it takes need not be sent by HTTP.

A request on an open socket is one write; an HTTP client takes 0.2 ms more until its own is on the wire. It is
an attempt and nothing else: what was not taken here, whatever the reason, is handed over by HTTP as well. The
bytes are the same, so that a second time means nothing; but once they were on the socket the node may have
them, and no refusal from elsewhere says otherwise. The same bytes are offered once: should a node keep to
itself what it takes, all later times go by HTTP.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from itertools import count, cycle
from typing import Any

import aiohttp
import orjson
import structlog

from keeper.chain.rpc import Unreachable, results_of, secrets_of, without_secrets
from keeper.chain.stream import ENDS, LONGEST_WAIT_S, SHORTEST_WAIT_S, Socket, ask, json_of, opened
from keeper.chain.wire import quantity
from keeper.errors import ChainFault

log = structlog.get_logger()

METHOD = "eth_sendRawTransaction"
ANSWER_S = 0.5
"""So long an answer is waited for, and not longer; a node takes some milliseconds."""
OFFERED = 1_024
"""Of so many transactions it is remembered that they were offered."""


class Handing:
    """Keeps one socket open while ``keep_open`` runs, at the first of some URLs that serves the chain."""

    def __init__(self, urls: Sequence[str], chain_id: int) -> None:
        self._urls = urls
        self._chain_id = chain_id
        self._secrets = [secret for url in urls for secret in secrets_of(url)]
        self._socket: Socket | None = None
        self._limit: asyncio.Timeout | None = None
        """Ends the socket when it is rescheduled."""
        self._open_s = 0.0
        """For how long the last socket was open."""
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = count(1)
        self._offered: OrderedDict[str, None] = OrderedDict()
        self.endpoint = without_secrets(urls[0])
        """Where the socket leads, or led last, without secrets."""

    @property
    def is_open(self) -> bool:
        """Whether a socket is open on which everything was answered so far."""
        return self._socket is not None

    def would_take(self, raw: str) -> bool:
        """Whether a signed transaction can be offered, and was not before."""
        return self.is_open and raw not in self._offered

    async def offer(self, raw: str) -> Any:
        """Send a signed transaction once, and return its hash.

        Raises RpcError where the node refuses it, Throttled where it asks for patience, and Unreachable where
        no socket is open or nobody answers in time; that socket is given up then.
        """
        if (socket := self._socket) is None:
            raise Unreachable(f"{METHOD} at {self.endpoint}: no socket is open")
        self._offered[raw] = None
        if len(self._offered) > OFFERED:
            self._offered.popitem(last=False)
        number = next(self._numbers)
        call = {"jsonrpc": "2.0", "id": number, "method": METHOD, "params": [raw]}
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_S):
                await socket.send_str(orjson.dumps(call).decode())
                text = await answer
        except (aiohttp.ClientError, OSError) as error:
            # A time-out is one as well. The cause is cut off: aiohttp's errors may hold the URL.
            if socket is self._socket:
                self._give_up()
            why = type(error).__name__
            raise Unreachable(f"{METHOD} at {self.endpoint}: no answer ({why})") from None
        finally:
            del self._waiting[number]
        [result] = results_of([call], 200, text, self.endpoint, self._secrets)
        return result

    def _give_up(self) -> None:
        self._socket = None
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def keep_open(self) -> None:
        """Open the socket, and another one where it is lost, for ever."""
        wait_s = SHORTEST_WAIT_S
        for url in cycle(self._urls):
            self.endpoint, self._open_s = without_secrets(url), 0.0
            why = await self._open(url)
            wait_s = SHORTEST_WAIT_S if self._open_s > LONGEST_WAIT_S else min(2 * wait_s, LONGEST_WAIT_S)
            log.warning("chain.handing_lost", endpoint=self.endpoint, why=why, wait_s=wait_s)
            await asyncio.sleep(wait_s)

    async def _open(self, url: str) -> str:
        """Take answers until the socket is lost or given up; say why it was."""
        try:
            async with opened(url) as (socket, limit):
                found = quantity(await ask(socket, 0, "eth_chainId", []))
                if found != self._chain_id:
                    return f"serves chain {found}, not {self._chain_id}"
                limit.reschedule(None)
                await self._take_answers(socket, limit)
        except ENDS as error:
            return str(error) if isinstance(error, ChainFault) else type(error).__name__
        return "closed by the node"

    async def _take_answers(self, socket: Socket, limit: asyncio.Timeout) -> None:
        opened_s = asyncio.get_running_loop().time()
        self._socket, self._limit = socket, limit
        try:
            async for message in socket:
                self._hear(json_of(message).get("id"), message)
        finally:
            self._open_s = asyncio.get_running_loop().time() - opened_s
            self._socket = self._limit = None
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ConnectionResetError())

    def _hear(self, number: object, message: aiohttp.WSMessage) -> None:
        """Pass an answer to whoever waits for it, and one to nobody in particular to all.

        One that comes late was handed over elsewhere since.
        """
        data = message.data if isinstance(message.data, bytes) else message.data.encode()
        for each, answer in self._waiting.items():
            if number in {None, each} and not answer.done():
                answer.set_result(data)
