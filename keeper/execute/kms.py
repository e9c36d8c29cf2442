"""A key in AWS KMS, of the kind ECC_SECG_P256K1: it never leaves the service, and is asked for signatures.

https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html: with the message type DIGEST what is given
is signed as it is, and the answer is DER (ANS X9.62). API_GetPublicKey.html, beside it: the public key comes
as a SubjectPublicKeyInfo (RFC 5280).

boto3 waits in its own threads; it is the extra ``kms``, and only asked for here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from eth_utils.crypto import keccak

from keeper.errors import ConfigError, SignerFault
from keeper.execute.signer import address_of

SPKI = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a03420004")
"""A public key of secp256k1, uncompressed, up to its x (RFC 5480)."""
THREADS = 8
"""Questions at the same time: as many as steps are signed in one go."""
INTEGER, SEQUENCE = 0x02, 0x30


@dataclass(frozen=True, slots=True)
class Params:
    """Which key; credentials come from where boto3 finds them."""

    key_id: str
    """Its id, its ARN, or an alias."""
    region: str | None = None
    endpoint: str | None = None
    """Another address of the service, such as that of a VPC endpoint."""
    timeout_s: float = 1.0


class AwsKms:
    """Implements ``Holder``."""

    def __init__(self, client: Any, key_id: str, threads: ThreadPoolExecutor) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        self._client = client
        self._key_id = key_id
        self._threads = threads
        self._refused, self._failed = ClientError, BotoCoreError

    @property
    def name(self) -> str:
        """Which key it is."""
        return f"AWS KMS key {self._key_id}"

    async def addresses(self) -> frozenset[str]:
        """Ask for the public key."""
        found = await self._ask(partial(self._client.get_public_key, KeyId=self._key_id))
        spki = bytes(found["PublicKey"])
        if not spki.startswith(SPKI) or len(spki) != len(SPKI) + 64:
            raise SignerFault("it is not of the kind ECC_SECG_P256K1")
        return frozenset({address_of(spki[len(SPKI) :])})

    async def sign(self, unsigned: bytes, address: str) -> bytes:
        """Have the hash signed; there is one key, whose address is proven by the signature."""
        del address
        asked = partial(
            self._client.sign,
            KeyId=self._key_id,
            Message=keccak(unsigned),
            MessageType="DIGEST",
            SigningAlgorithm="ECDSA_SHA_256",
        )
        return compact_of(bytes((await self._ask(asked))["Signature"]))

    async def _ask(self, asked: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, asked)
        except self._refused as error:
            why = str(error.response.get("Error", {}).get("Code"))
        except self._failed as error:
            why = type(error).__name__
        raise SignerFault(why)


def compact_of(der: bytes) -> bytes:
    """Return r and s of a signature in DER, 32 bytes each; raise SignerFault where it is none."""
    try:
        both, after = _value(SEQUENCE, der)
        r, following = _value(INTEGER, both)
        s, within = _value(INTEGER, following)
        compact = b"".join(int.from_bytes(each, signed=True).to_bytes(32) for each in (r, s))
    except (IndexError, ValueError, OverflowError):
        compact, after, within = b"", b"", b""
    if not compact or after or within:
        raise SignerFault("its signature is no DER of two integers")
    return compact


def _value(tag: int, der: bytes) -> tuple[bytes, bytes]:
    """Split off one value, of fewer than 128 bytes, from what follows it."""
    end = 2 + der[1]
    if der[0] != tag or end > len(der):
        raise ValueError(tag)
    return der[2:end], der[end:]


@asynccontextmanager
async def aws_kms(params: Params) -> AsyncIterator[AwsKms]:
    """Keep a client; raise ConfigError where boto3 is missing, or does not know where to ask."""
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kms")
    try:
        client = await asyncio.get_running_loop().run_in_executor(threads, _client, params)
        yield AwsKms(client, params.key_id, threads)
    finally:
        # Who still waits for the service is not waited for: its answer is of no use any more.
        threads.shutdown(wait=False, cancel_futures=True)


def _client(params: Params) -> Any:
    try:
        from boto3.session import Session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ConfigError(
            'signer.kind = "aws_kms" needs the extra kms: pip install "hybrid-keeper[kms]"'
        ) from None
    once = Config(
        connect_timeout=params.timeout_s,
        read_timeout=params.timeout_s,
        retries={"total_max_attempts": 1},
        max_pool_connections=THREADS,
    )
    try:
        session = Session(region_name=params.region)
        return session.client("kms", endpoint_url=params.endpoint, config=once)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"no client for AWS KMS: {error}") from None
