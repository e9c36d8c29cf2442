"""Web3Signer as its specification and its source have it: eth1, with one key, and told how to fail.

``openapi-specs/eth1/web3signer.yaml``, ``Eth1SignForIdentifierHandler`` and ``SecpArtifactSignature`` of
Consensys/web3signer: what comes in ``data`` is hashed by keccak, and the signature goes out as r, s, v in
plain text.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak


@dataclass
class StubWeb3Signer:
    """Signs with one key; what it answers instead can be set."""

    key: bytes
    url: str = ""
    asked: list[str] = field(default_factory=list)
    signs_with: bytes | None = None
    """Another key than the one it says it has."""
    says: web.Response | None = None
    """Its answer to a request for a signature, where that is none."""
    is_slow: bool = False

    @property
    def identifier(self) -> str:
        return "0x" + PrivateKey(self.key).public_key.to_bytes().hex()

    async def public_keys(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        other = PrivateKey(b"\x07" * 32).public_key.to_bytes().hex()
        return web.json_response([f"0x{other}", self.identifier])

    async def sign(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.is_slow:
            await asyncio.Event().wait()
        if self.says is not None:
            # One response answers one request.
            return web.Response(status=self.says.status, body=self.says.body, headers=self.says.headers)
        if request.match_info["identifier"] != self.identifier:
            return web.Response(status=404)
        data = bytes.fromhex((await request.json())["data"].removeprefix("0x"))
        v, r, s = PrivateKey(self.signs_with or self.key).sign_msg_hash(keccak(data)).vrs
        return web.Response(text="0x" + (r.to_bytes(32) + s.to_bytes(32) + bytes([27 + v])).hex())

    @asynccontextmanager
    async def serving(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        app = web.Application()
        app.add_routes(
            [
                web.get("/api/v1/eth1/publicKeys", self.public_keys),
                web.post("/api/v1/eth1/sign/{identifier}", self.sign),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()
