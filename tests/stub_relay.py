"""A relay and its stream of hints, as Flashbots documents them, without builders behind it.

Methods, parameters and the signature are those of docs.flashbots.net, "JSON-RPC Endpoints"; bundles that
follow a hint are those of github.com/flashbots/mev-share, specs/bundles/v0.1.md. It keeps what it takes until
a test asks what it would put into a block, and misbehaves as told.
"""

import asyncio
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from aiohttp import web
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak


class Manner(StrEnum):
    """How it treats what it is sent."""

    INCLUDES = "includes"
    SWALLOWS = "swallows"
    """It takes everything, and nothing comes of it."""
    STALLS = "stalls"
    REFUSES = "refuses"
    FAILS = "fails"
    """An error that is no JSON-RPC."""
    FORBIDS = "forbids"
    THROTTLES = "throttles"


@dataclass(eq=False)
class StubRelay:
    """One relay; ``async with`` serves it."""

    manner: Manner = Manner.INCLUDES
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    signers: set[str] = field(default_factory=set)
    """Whose signatures were seen, and right."""
    port: int = 0
    streams: dict[web.StreamResponse, asyncio.Event] = field(default_factory=dict)
    """Who listens for hints, and what ends it."""
    retry_after: str = "1"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{rest:.*}", self._post)
        app.router.add_get("/{rest:.*}", self._stream, allow_head=False)
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/SECRET-SECRET"

    def block(self, number: int) -> list[str]:
        """Return what it puts into a block, each once."""
        if self.manner is Manner.SWALLOWS:
            return []
        return list(
            dict.fromkeys(raw for method, told in self.asked for raw in _of_block(method, told, number))
        )

    async def tell(self, *lines: str) -> None:
        """Say something on every stream of hints."""
        for stream in self.streams:
            await stream.write("".join(f"{line}\n" for line in lines).encode() + b"\n")

    async def hang_up(self) -> None:
        """End every stream of hints."""
        for ended in self.streams.values():
            ended.set()
        self.streams.clear()

    async def _post(self, request: web.Request) -> web.Response:
        body = await request.read()
        call = json.loads(body)
        if not self._is_signed(body, request.headers.get("X-Flashbots-Signature", "")):
            return _error(call, "error in signature check", status=403)
        match self.manner:
            case Manner.STALLS:
                await asyncio.sleep(3600)
            case Manner.REFUSES:
                return _error(call, "unable to decode txs")
            case Manner.FAILS:
                return web.json_response({"error": "block param must be a hex int"}, status=400)
            case Manner.FORBIDS:
                return _error(call, "you are not served", status=403)
            case Manner.THROTTLES:
                return web.Response(status=429, headers={"Retry-After": self.retry_after})
        [told] = call["params"]
        self.asked.append((call["method"], told))
        return web.json_response(
            {"jsonrpc": "2.0", "id": call["id"], "result": _answer(call["method"], told)}
        )

    def _is_signed(self, body: bytes, header: str) -> bool:
        address, _, signature = header.partition(":")
        if not signature.startswith("0x"):
            return False
        message = encode_defunct(text="0x" + keccak(body).hex())
        if Account.recover_message(message, signature=signature) != address:
            return False
        self.signers.add(address)
        return True

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        self.streams[stream] = ended = asyncio.Event()
        await ended.wait()
        return stream


def hash_of(raw: str) -> str:
    return "0x" + keccak(bytes.fromhex(raw[2:])).hex()


def _of_block(method: str, told: dict[str, Any], number: int) -> list[str]:
    """Return the bytes of one request that are good for a block."""
    if method == "eth_sendBundle":
        return told["txs"] if int(told["blockNumber"], 16) == number else []
    if method == "eth_sendPrivateTransaction":
        return [told["tx"]] if number <= int(told.get("maxBlockNumber", hex(number)), 16) else []
    first, last = (int(told["inclusion"][name], 16) for name in ("block", "maxBlock"))
    return [each["tx"] for each in told["body"] if "tx" in each] if first <= number <= last else []


def _answer(method: str, told: dict[str, Any]) -> Any:
    if method == "eth_sendPrivateTransaction":
        return hash_of(told["tx"])
    raws = told["txs"] if method == "eth_sendBundle" else [each.get("tx", "0x") for each in told["body"]]
    return {"bundleHash": hash_of("0x" + "".join(raw[2:] for raw in raws))}


def _error(call: dict[str, Any], message: str, *, status: int = 200) -> web.Response:
    error = {"code": -32600, "message": message}
    return web.json_response({"jsonrpc": "2.0", "id": call["id"], "error": error}, status=status)
