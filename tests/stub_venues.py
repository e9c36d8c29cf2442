"""Price venues without a market behind them: each speaks its documented messages, on a free port.

They are as strict as the documentation: who does not subscribe, or does not answer a ping, is cut off. Times
of patience are shortened; nothing else is.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from aiohttp import WSMsgType, web

PATIENCE_S = 0.8
"""In the place of Binance's minute, of Coinbase's 5 s and of OKX's 30 s."""
PYTH_ID = "ff61491a931112ddf1bd8147cd1b641375f79f5825126d665480874634fd0ace"
Socket = web.WebSocketResponse


def rfc3339(at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03}000000Z"


@dataclass
class StubVenue:
    """What is common: who is connected, what they said, and whom to turn away."""

    listed: Sequence[str]
    refusals: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    """Status and headers with which the next ones are turned away."""
    opened: int = 0
    said: list[tuple[float, str]] = field(default_factory=list)
    """What clients said, and when by the clock of the loop."""
    queries: list[str] = field(default_factory=list)
    sockets: set[Socket] = field(default_factory=set)
    number: int = 100
    heartbeat_s: ClassVar[float | None] = None
    """Between two ping frames; each must be answered within half of it."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(request.path_qs)
        if self.refusals:
            status, headers = self.refusals.popleft()
            return web.Response(status=status, headers=headers)
        self.opened += 1
        socket = Socket(heartbeat=self.heartbeat_s)
        await socket.prepare(request)
        self.sockets.add(socket)
        await self.greet(socket)
        try:
            async with asyncio.timeout(PATIENCE_S) as patience:
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        self.said.append((asyncio.get_running_loop().time(), message.data))
                        await self.answer(socket, message.data)
                        patience.reschedule(self.until())
        except TimeoutError:
            await socket.close(code=4004)
        finally:
            self.sockets.discard(socket)
        return socket

    def until(self) -> float | None:
        """Until when the next message must have come."""
        return None

    async def greet(self, socket: Socket) -> None:
        pass

    async def answer(self, socket: Socket, text: str) -> None:
        raise NotImplementedError

    def quote(self, symbol: str, bid: str, ask: str, at_ms: int) -> list[str]:
        raise NotImplementedError

    async def say(self, *messages: str | bytes) -> None:
        for socket in list(self.sockets):
            for message in messages:
                await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))

    async def hang_up(self, code: int = 1000) -> None:
        for socket in list(self.sockets):
            await socket.close(code=code)


class Binance(StubVenue):
    heartbeat_s = PATIENCE_S / 2

    async def answer(self, socket: Socket, text: str) -> None:
        assert json.loads(text)["method"] == "SUBSCRIBE"
        await socket.send_str('{"result":null,"id":1}')

    def quote(self, symbol: str, bid: str, ask: str, at_ms: int) -> list[str]:
        self.number += 1
        trade = {"e": "aggTrade", "E": at_ms, "s": symbol, "a": self.number, "p": bid, "q": "1"}
        trade |= {"f": 100, "l": 105, "T": at_ms, "m": True, "M": True}
        book = {"u": self.number, "s": symbol, "b": bid, "B": "31.21", "a": ask, "A": "40.66"}
        return [
            json.dumps({"stream": f"{symbol.lower()}@aggTrade", "data": trade}),
            json.dumps({"stream": f"{symbol.lower()}@bookTicker", "data": book}),
        ]


class Coinbase(StubVenue):
    """Numbers the messages of a connection from 0; there is only one at a time in these tests."""

    async def greet(self, socket: Socket) -> None:
        del socket
        self.number = -1

    async def answer(self, socket: Socket, text: str) -> None:
        asked = json.loads(text)
        if set(asked.get("product_ids", ())) - set(self.listed):
            await socket.send_str('{"type":"error","message":"product not found"}')
        else:
            await socket.send_str(self.message("subscriptions", {"subscriptions": {}}))

    def message(self, channel: str, event: Mapping[str, Any], at_ms: int = 1) -> str:
        self.number += 1
        told = {"channel": channel, "client_id": "", "timestamp": rfc3339(at_ms)}
        return json.dumps({**told, "sequence_num": self.number, "events": [event]})

    def quote(self, symbol: str, bid: str, ask: str, at_ms: int) -> list[str]:
        ticker = {"type": "ticker", "product_id": symbol, "price": bid, "volume_24_h": "16038.28770938"}
        ticker |= {"best_bid": bid, "best_bid_quantity": "2", "best_ask": ask, "best_ask_quantity": "3"}
        return [self.message("ticker", {"type": "update", "tickers": [ticker]}, at_ms)]

    def heartbeat(self) -> str:
        return self.message("heartbeats", {"current_time": "now", "heartbeat_counter": "3049"})


class Kraken(StubVenue):
    async def greet(self, socket: Socket) -> None:
        await socket.send_str(self.status("online"))

    def status(self, system: str) -> str:
        data = {"api_version": "v2", "connection_id": 13834774380200032777, "system": system}
        return json.dumps({"channel": "status", "type": "update", "data": [{**data, "version": "2.0.0"}]})

    async def answer(self, socket: Socket, text: str) -> None:
        params = json.loads(text)["params"]
        assert params["channel"] == "ticker"
        for symbol in params["symbol"]:
            told: dict[str, Any] = {"method": "subscribe", "req_id": 1, "time_in": rfc3339(1)}
            if symbol in self.listed:
                told |= {"success": True, "result": {"channel": "ticker", "symbol": symbol}}
            else:
                error = f"Currency pair not supported {symbol}"
                told |= {"success": False, "error": error, "symbol": symbol}
            await socket.send_str(json.dumps(told))
        await socket.send_str('{"channel":"heartbeat"}')

    def quote(self, symbol: str, bid: str, ask: str, at_ms: int) -> list[str]:
        # Prices are bare numbers here: they are put into the text as they are.
        head = f'{{"symbol":"{symbol}","bid":{bid},"bid_qty":0.5,"ask":{ask},"ask_qty":17.17988863,'
        tail = f'"last":{bid},"volume":2158.32346723,"timestamp":"{rfc3339(at_ms)}"}}'
        return [f'{{"channel":"ticker","type":"update","data":[{head}{tail}]}}']


class Okx(StubVenue):
    def until(self) -> float | None:
        return asyncio.get_running_loop().time() + PATIENCE_S

    async def answer(self, socket: Socket, text: str) -> None:
        if text == "ping":
            await socket.send_str("pong")
            return
        asked = json.loads(text)
        for arg in asked["args"]:
            if arg["instId"] in self.listed:
                told = {"event": asked["op"], "arg": arg, "connId": "a4d3ae55"}
            else:
                why = f"Wrong URL or channel:bbo-tbt,instId:{arg['instId']} doesn't exist."
                told = {"event": "error", "code": "60018", "msg": why, "connId": "a4d3ae55"}
            await socket.send_str(json.dumps(told))

    def quote(self, symbol: str, bid: str, ask: str, at_ms: int) -> list[str]:
        self.number += 7
        book = {"asks": [[ask, "55154", "0", "2"]], "bids": [[bid, "57745", "0", "2"]], "ts": str(at_ms)}
        arg = {"channel": "bbo-tbt", "instId": symbol}
        return [json.dumps({"arg": arg, "data": [{**book, "seqId": self.number}]})]


class Pyth(StubVenue):
    """Server-sent events; ``expo`` is -8, as it is for most."""

    streams: set[web.StreamResponse]

    def __init__(self, listed: Sequence[str]) -> None:
        super().__init__(listed)
        self.streams = set()
        self._ends = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(request.path_qs)
        assert request.path.endswith("/v2/updates/price/stream")
        assert request.query["parsed"] == "true"
        assert request.headers["Accept"] == "text/event-stream"
        if self.refusals:
            status, headers = self.refusals.popleft()
            return web.Response(status=status, headers=headers)
        if set(request.query.getall("ids[]")) - set(self.listed):
            return web.Response(status=404, text="Price ids not found")
        self.opened += 1
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        self.streams.add(stream)
        self._ends.clear()
        await self._ends.wait()
        self.streams.discard(stream)
        return stream

    def quote(self, symbol: str, bid: str, ask: str, at_ms: int) -> list[str]:
        self.number += 1
        low, high = (int(float(price) * 10**8) for price in (bid, ask))
        price = {"price": str((low + high) // 2), "conf": str((high - low) // 2), "expo": -8}
        price |= {"publish_time": at_ms // 1000}
        parsed = {"id": symbol, "price": price, "ema_price": price, "metadata": {"slot": self.number}}
        return [json.dumps({"binary": {"encoding": "base64", "data": ["UE5B"]}, "parsed": [parsed]})]

    async def say(self, *messages: str | bytes) -> None:
        for stream in list(self.streams):
            for message in messages:
                data = message.encode() if isinstance(message, str) else message
                event = b": keep-alive\r\n\r\ndata:" + data + b"\n\n"
                # In two pieces: an event may come in several reads.
                await stream.write(event[:20])
                await asyncio.sleep(0)
                await stream.write(event[20:])

    async def hang_up(self, code: int = 1000) -> None:
        del code
        self._ends.set()


class StubVenues:
    """All of them on one server; as a context, for as long as they are wanted."""

    def __init__(self) -> None:
        self.binance = Binance(["ETHUSDT", "BTCUSDT"])
        self.coinbase = Coinbase(["ETH-USD", "BTC-USD", "USDT-USD"])
        self.kraken = Kraken(["ETH/USD", "BTC/USD", "USDT/USD"])
        self.okx = Okx(["ETH-USDT", "BTC-USDT"])
        self.pyth = Pyth([PYTH_ID])
        self._port = 0

    @property
    def by_name(self) -> Mapping[str, StubVenue]:
        names = ("binance", "coinbase", "kraken", "okx", "pyth")
        return {name: getattr(self, name) for name in names}

    @property
    def urls(self) -> dict[str, str]:
        scheme = {name: "http" if name == "pyth" else "ws" for name in self.by_name}
        return {name: f"{scheme[name]}://127.0.0.1:{self._port}/{name}" for name in self.by_name}

    async def __aenter__(self) -> Self:
        app = web.Application()
        for name, venue in self.by_name.items():
            app.router.add_get(f"/{name}{{rest:.*}}", venue.serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for venue in self.by_name.values():
            await venue.hang_up()
        await self._runner.cleanup()
