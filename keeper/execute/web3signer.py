"""Keys in Web3Signer, asked over its REST API for eth1.

https://docs.web3signer.consensys.io, and in the repository Consensys/web3signer: the specification
``core/src/main/resources/openapi-specs/eth1/web3signer.yaml``, where ``data`` is hexadecimal and the answer a
signature in plain text; ``CredentialSigner`` in ``signing``, which hashes the data by keccak before it signs;
``SecpArtifactSignature`` there, which writes r, s and v. It knows a key by its public key, x and y.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from keeper.errors import ConfigError, SignerFault
from keeper.execute.keys import expect_private
from keeper.execute.signer import address_of

SIGN: Final = "/api/v1/eth1/sign/"
KEYS: Final = "/api/v1/eth1/publicKeys"
KEY: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{128})")
SIGNATURE: Final = re.compile(r"0x([0-9a-fA-F]{128})[0-9a-fA-F]{2}")
MAX_BYTES: Final = 4 * 2**20
"""Of an answer: some 30,000 public keys."""
SAID: Final = {
    400: "it does not take the request",
    403: "it does not take requests for this host name (http-host-allowlist)",
    404: "it has no such key",
    500: "it failed",
}


@dataclass(frozen=True, slots=True)
class Params:
    """Where Web3Signer is, and by which certificates both sides know each other."""

    url: str
    timeout_s: float = 1.0
    ca_file: Path | None = None
    """Who vouches for it; None: whom the system trusts."""
    cert_file: Path | None = None
    """The keeper's own certificate, for a Web3Signer that asks for it,"""
    key_file: Path | None = None
    """and its key, without a passphrase."""


class Web3Signer:
    """Implements ``Holder``."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._identifiers: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Where it is."""
        return f"Web3Signer at {self._url}"

    async def addresses(self) -> frozenset[str]:
        """Ask which keys it has now."""
        try:
            listed = [KEY.fullmatch(key) for key in orjson.loads(await self._ask("GET", KEYS))]
        except (TypeError, ValueError):
            raise SignerFault("its list of public keys is none") from None
        keys = [match[1].lower() for match in listed if match]
        self._identifiers = {address_of(bytes.fromhex(key)): f"0x{key}" for key in keys}
        return frozenset(self._identifiers)

    async def sign(self, unsigned: bytes, address: str) -> bytes:
        """Have it hash and sign; its own word on the recovery id is not needed."""
        if address not in self._identifiers and address not in await self.addresses():
            raise SignerFault(f"it has no key of {address}")
        answer = await self._ask("POST", SIGN + self._identifiers[address], {"data": "0x" + unsigned.hex()})
        match = SIGNATURE.fullmatch(answer.decode("ascii", "replace").strip())
        if match is None:
            raise SignerFault("its signature is not 65 bytes in hexadecimal")
        return bytes.fromhex(match[1])

    async def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> bytes:
        """Ask, and once more where there was no connection: nothing was sent."""
        try:
            with suppress(aiohttp.ClientConnectorError):
                return await self._asked(method, path, body)
            return await self._asked(method, path, body)
        except (aiohttp.ClientError, OSError) as error:
            raise SignerFault(f"it cannot be asked: {str(error) or type(error).__name__}") from None

    async def _asked(self, method: str, path: str, body: dict[str, str] | None) -> bytes:
        async with self._session.request(
            method, self._url + path, json=body, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise SignerFault(
                    f"HTTP {response.status}: {SAID.get(response.status, 'an answer was expected')}"
                )
            answer = b""
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > MAX_BYTES:
                    raise SignerFault(f"its answer is longer than {MAX_BYTES} bytes")
            return answer


@asynccontextmanager
async def web3signer(params: Params) -> AsyncIterator[Web3Signer]:
    """Keep connections to Web3Signer; raise ConfigError where a certificate cannot be used."""
    connector = aiohttp.TCPConnector(ssl=_trust(params))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Web3Signer(session, params.url)


def _trust(params: Params) -> ssl.SSLContext:
    """Trust nobody but the named authority, if one is named."""
    try:
        context = ssl.create_default_context(cafile=params.ca_file)
    except OSError:
        raise ConfigError(f"signer.ca_file {params.ca_file} is no certificate in PEM") from None
    if params.cert_file is None or params.key_file is None:
        return context
    expect_private(params.key_file)
    try:
        # A passphrase is given, so that none is asked for on the terminal.
        context.load_cert_chain(params.cert_file, params.key_file, password="")
    except OSError:
        found = "no certificate and its key in PEM, without a passphrase"
        raise ConfigError(f"signer.cert_file and signer.key_file are {found}") from None
    return context
