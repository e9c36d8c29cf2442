"""The two sockets that a keeper lives between, with a clock at each: price venues, and a node.

``Venues`` speaks Kraken's and OKX's documented messages. ``Front`` stands before an Anvil: the wallet's own
transactions it takes, counts and includes itself, and says of each act that it would go through; all else
Anvil answers. So a book may hold accounts of which the chain knows nothing, and what a keeper does about them
can be timed from the one socket to the other, on the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self, cast

import aiohttp
import orjson
from aiohttp import WSMsgType, web
from eth_utils.crypto import keccak

from keeper.lab.anvil import Node

LOOPBACK = "127.0.0.1"
HEARTBEAT_S = 0.5


class Venues:
    """Two venues on one port; as a context, for as long as they are wanted."""

    def __init__(self) -> None:
        self._sockets: dict[str, set[web.WebSocketResponse]] = {"kraken": set(), "okx": set()}
        self._wires: dict[web.WebSocketResponse, asyncio.WriteTransport] = {}
        self._number = 0
        self._port = 0

    @property
    def urls(self) -> Mapping[str, str]:
        """Where each listens."""
        return {name: f"ws://{LOOPBACK}:{self._port}/{name}" for name in self._sockets}

    @property
    def listeners(self) -> Mapping[str, int]:
        """How many have subscribed at each."""
        return {name: len(sockets) for name, sockets in self._sockets.items()}

    async def say(self, venue: str, feed: str, price: str) -> int:
        """Have a venue say a price; return ``time.monotonic_ns`` before the first byte was written."""
        self._number += 1
        at_ms = time.time_ns() // 1_000_000
        text = _kraken(feed, price, at_ms) if venue == "kraken" else _okx(feed, price, at_ms, self._number)
        frame, wires = _frame(text.encode()), [self._wires[socket] for socket in self._sockets[venue]]
        began_ns = time.monotonic_ns()
        for wire in wires:
            wire.write(frame)
        return began_ns

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([web.get("/kraken", self._serve_kraken), web.get("/okx", self._serve_okx)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, 0).start()
        self._port = self._runner.addresses[0][1]
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beating.cancel()
        for socket in [each for sockets in self._sockets.values() for each in sockets]:
            await socket.close()
        await self._runner.cleanup()

    async def _beat(self) -> None:
        while True:
            for socket in self._sockets["kraken"]:
                with suppress(ConnectionError):
                    await socket.send_str('{"channel":"heartbeat"}')
            await asyncio.sleep(HEARTBEAT_S)

    async def _opened(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        self._wires[socket] = cast("asyncio.WriteTransport", request.transport)
        return socket

    async def _serve_kraken(self, request: web.Request) -> web.WebSocketResponse:
        socket = await self._opened(request)
        await socket.send_str('{"channel":"status","type":"update","data":[{"system":"online"}]}')
        async for message in socket:
            if message.type is WSMsgType.TEXT and orjson.loads(message.data)["method"] == "subscribe":
                self._sockets["kraken"].add(socket)
                await socket.send_str('{"method":"subscribe","success":true}')
        self._sockets["kraken"].discard(socket)
        return socket

    async def _serve_okx(self, request: web.Request) -> web.WebSocketResponse:
        socket = await self._opened(request)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            if message.data == "ping":
                await socket.send_str("pong")
            else:
                self._sockets["okx"].add(socket)
                await socket.send_str('{"event":"subscribe"}')
        self._sockets["okx"].discard(socket)
        return socket


def _frame(text: bytes) -> bytes:
    """Return a whole text message of a server (RFC 6455, 5.2)."""
    size = len(text)
    head = bytes((0x81, size)) if size < 126 else bytes((0x81, 126)) + size.to_bytes(2)
    return head + text


def _kraken(feed: str, price: str, at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms / 1e3, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    head = f'{{"symbol":"{feed}","bid":{price},"bid_qty":0.5,"ask":{price},"ask_qty":17.17988863,'
    return f'{{"channel":"ticker","type":"update","data":[{head}"last":{price},"timestamp":"{at}"}}]}}'


def _okx(feed: str, price: str, at_ms: int, number: int) -> str:
    side = f'[["{price}","55154","0","2"]]'
    book = f'{{"asks":{side},"bids":{side},"ts":"{at_ms}","seqId":{number}}}'
    symbol = feed.replace("/", "-")
    return f'{{"arg":{{"channel":"bbo-tbt","instId":"{symbol}"}},"data":[{book}]}}'


@dataclass
class Handed:
    """A transaction that the node was handed."""

    tx_hash: str
    heard_ns: int
    """``time.monotonic_ns`` when its last byte was there."""
    block: int | None = None
    block_hash: str = ""


@dataclass
class Front:
    """A node before an Anvil, for one wallet; as a context, for as long as it is wanted."""

    anvil: Node
    wallet: str
    handed: list[Handed] = field(default_factory=list)
    """The wallet's transactions, in the order in which they came."""
    simulated: int = 0
    """How many of its acts were run without being sent."""

    @property
    def url(self) -> str:
        """Where it listens for requests."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def ws_url(self) -> str:
        """Where it listens for websockets."""
        return f"ws://{LOOPBACK}:{self._ws_port}"

    async def __aenter__(self) -> Self:
        self._news = asyncio.Event()
        self._session = aiohttp.ClientSession()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), LOOPBACK, 0)
        self._port: int = self._server.sockets[0].getsockname()[1]
        app = web.Application()
        app.add_routes([web.get("/", self._serve_socket)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, 0).start()
        self._ws_port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._runner.cleanup()
        await self._session.close()

    async def _serve_socket(self, request: web.Request) -> web.WebSocketResponse:
        """Answer on a websocket what is about the wallet, and pass all else on to Anvil and back."""
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        async with self._session.ws_connect(self.anvil.ws_url) as anvil:
            passing = asyncio.create_task(_pass_on(anvil, socket))
            async for message in socket:
                heard_ns = time.monotonic_ns()
                answer = self._own(orjson.loads(message.data), heard_ns)
                if answer is None:
                    await anvil.send_str(message.data)
                else:
                    await socket.send_str(orjson.dumps(answer).decode())
            passing.cancel()
        return socket

    async def until_handed(self, count: int) -> None:
        """Wait until it has been handed so many transactions."""
        while len(self.handed) < count:
            self._news.clear()
            await self._news.wait()

    def include(self) -> None:
        """Have the newest block hold all that was handed over and is in none yet."""
        newest = self.anvil.rpc("eth_getBlockByNumber", "latest", False)
        for each in self.handed:
            if each.block is None:
                each.block, each.block_hash = int(newest["number"], 16), newest["hash"]

    async def answer(self, body: bytes, heard_ns: int) -> bytes:
        """Answer one HTTP request."""
        asked = orjson.loads(body)
        calls = asked if isinstance(asked, list) else [asked]
        own = [self._own(call, heard_ns) for call in calls]
        others = [call for call, answer in zip(calls, own, strict=True) if answer is None]
        told = iter(await self._ask_anvil(others) if others else ())
        answers = [next(told) if answer is None else answer for answer in own]
        return orjson.dumps(answers if isinstance(asked, list) else answers[0])

    async def _ask_anvil(self, calls: Sequence[Mapping[str, Any]]) -> Iterable[Any]:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(
            self.anvil.http_url, data=orjson.dumps(calls), headers=headers
        ) as response:
            by_id = {answer["id"]: answer for answer in orjson.loads(await response.read())}
        return [by_id[call["id"]] for call in calls]

    def _own(self, call: Mapping[str, Any], heard_ns: int) -> Mapping[str, Any] | None:
        """Answer what is about the wallet; None to all else."""
        method, params = call["method"], call["params"]
        if method == "eth_sendRawTransaction":
            result: Any = self._take(params[0], heard_ns)
        elif method == "eth_getTransactionReceipt":
            result = self._receipt(params[0])
        elif method == "eth_getTransactionCount" and params[0].lower() == self.wallet:
            result = hex(self._count(params[1]))
        elif method == "eth_call" and params[0].get("from", "").lower() == self.wallet:
            self.simulated += 1
            result = "0x"
        elif method == "eth_simulateV1":
            result = [self._run(block) for block in params[0]["blockStateCalls"]]
        else:
            return None
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}

    def _run(self, block: dict[str, Any]) -> dict[str, Any]:
        self.simulated += len(block["calls"])
        calls = [{"status": "0x1", "returnData": "0x", "logs": []} for _ in block["calls"]]
        return {"number": block["blockOverrides"]["number"], "calls": calls}

    def _take(self, raw: str, heard_ns: int) -> str:
        tx_hash = "0x" + keccak(hexstr=raw).hex()
        self.handed.append(Handed(tx_hash, heard_ns))
        self._news.set()
        return tx_hash

    def _count(self, tag: str) -> int:
        upto = int(tag, 16) if tag.startswith("0x") else None
        return sum(each.block is not None and (upto is None or each.block <= upto) for each in self.handed)

    def _receipt(self, tx_hash: str) -> Mapping[str, Any] | None:
        found = next((each for each in self.handed if each.tx_hash == tx_hash), None)
        if found is None or found.block is None:
            return None
        return {
            "transactionHash": tx_hash,
            "blockNumber": hex(found.block),
            "blockHash": found.block_hash,
            "status": "0x1",
            "gasUsed": hex(150_000),
            "effectiveGasPrice": hex(10**9),
            "logs": [],
        }


async def _pass_on(anvil: aiohttp.ClientWebSocketResponse, socket: web.WebSocketResponse) -> None:
    async for message in anvil:
        await socket.send_str(message.data)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a JSON-RPC client speaks it: it is no part of what is timed."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._received = b""
        self._answering: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection."""
        # Of uvloop no class tells that it can be written to.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer each request that is whole."""
        heard_ns = time.monotonic_ns()
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if end and lengths and len(rest) >= (length := int(lengths[0])):
            self._received = rest[length:]
            task = asyncio.create_task(self._answer(rest[:length], heard_ns))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, body: bytes, heard_ns: int) -> None:
        text = await self._front.answer(body, heard_ns)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        if not self._transport.is_closing():
            self._transport.write(head.encode() + text)
