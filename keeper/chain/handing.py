"""A websocket on which signed transactions are handed to a node: what it takes need not be asked by HTTP.

A request on an open socket is one write; an HTTP client takes 0.2 ms more until its own is on the wire. It is
an attempt and nothing else. What was not taken here, whatever the reason, is handed over by HTTP as well: the
bytes are the same, so that a second time means nothing, and what a node refuses is read from there alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count, cycle
from typing import Any

import aiohttp
import orjson
import structlog

from keeper.chain.rpc import Unreachable, results_of, without_secrets
from keeper.chain.stream import CLOSE, ENDS, HEARTBEAT_S, MESSAGE_BYTES, OPEN_S, Socket, ask, json_of
from keeper.chain.wire import quantity
from keeper.errors import ChainFault

log = structlog.get_logger()

ANSWER_S = 0.5
"""So long an answer is waited for until the next way is tried; a node takes some milliseconds."""
PAUSE_S = 1.0
"""Until a socket that was lost is opened anew, at the next endpoint."""


class Handing:
    """Keeps one socket open while ``keep_open`` runs; raises ChainFault for what is not taken on it."""

    def __init__(self, urls: Sequence[str], chain_id: int) -> None:
        self._urls = urls
        self._chain_id = chain_id
        self._socket: Socket | None = None
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = count(1)
        self.endpoint = without_secrets(urls[0])
        """Where the socket leads, or led last, without secrets."""

    @property
    def is_open(self) -> bool:
        """Whether somebody answers there."""
        return self._socket is not None

    async def request(self, method: str, params: list[Any]) -> Any:
        """Send one request, once, and return its result.

        After one that nobody has answered in time the socket is left alone until something is heard on it.
        """
        if (socket := self._socket) is None:
            raise Unreachable(f"{method} at {self.endpoint}: no socket is open")
        number = next(self._numbers)
        call = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_S):
                await socket.send_str(orjson.dumps(call).decode())
                text = await answer
        except (aiohttp.ClientError, OSError) as error:
            # A time-out is one as well. The cause is cut off: aiohttp's errors may hold the URL.
            self._socket = None
            why = type(error).__name__
            raise Unreachable(f"{method} at {self.endpoint}: no answer ({why})") from None
        finally:
            del self._waiting[number]
        [result] = results_of([call], 200, text, self.endpoint)
        return result

    async def keep_open(self) -> None:
        """Open the socket, and another one where it is lost, for ever."""
        for url in cycle(self._urls):
            self.endpoint = without_secrets(url)
            why = await self._open(url)
            log.warning("chain.handing_lost", endpoint=self.endpoint, why=why, wait_s=PAUSE_S)
            await asyncio.sleep(PAUSE_S)

    async def _open(self, url: str) -> str:
        """Take answers until the socket is lost; say why it was."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(
                    url, heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES, timeout=CLOSE
                ) as socket,
            ):
                async with asyncio.timeout(OPEN_S):
                    found = quantity(await ask(socket, 0, "eth_chainId", []))
                if found != self._chain_id:
                    return f"serves chain {found}, not {self._chain_id}"
                self._socket = socket
                async for message in socket:
                    self._hear(json_of(message).get("id"), message)
                    self._socket = socket
        except ENDS as error:
            return str(error) if isinstance(error, ChainFault) else type(error).__name__
        finally:
            self._socket = None
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ConnectionResetError())
        return "closed by the node"

    def _hear(self, number: object, message: aiohttp.WSMessage) -> None:
        """Pass an answer to whoever waits for it; one that comes late was handed over elsewhere since."""
        answer = self._waiting.get(number) if isinstance(number, int) else None
        if answer is not None and not answer.done():
            answer.set_result(message.data if isinstance(message.data, bytes) else message.data.encode())
