"""What a sender asks of whoever holds the wallet's key, and the check of what came from elsewhere.

A signer elsewhere is asked for nothing but a signature over bytes that are ours: the transaction is put
together here, so that it cannot come back with other fields, and the signature has to recover to the
wallet's address, so that it cannot be of another key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from coincurve import PublicKey
from eth_hash.auto import keccak

from keeper.errors import InvariantBroken, SignerFault

T = TypeVar("T")
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of the group of secp256k1 (SEC 2, section 2.4.1)."""
UNSENDABLE: Mapping[str, Any] = {
    "type": 2,
    "chainId": 1,
    "nonce": 2**64 - 1,
    "to": "0x" + "00" * 20,
    "data": "0x",
    "value": 0,
    "gas": 0,
    "maxFeePerGas": 0,
    "maxPriorityFeePerGas": 0,
}
"""A transaction without gas, and with a nonce that EIP-2681 rules out."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed transaction as it goes over the wire, and its hash."""

    raw: bytes
    tx_hash: str


class Signer(Protocol):
    """Signs for one address. Neither prints nor pickles what it signs with."""

    @property
    def address(self) -> str:
        """The wallet's address in lower case."""
        ...

    @property
    def fault(self) -> str | None:
        """Why it could not sign when it was asked last; None where it could."""
        ...

    async def sign(self, tx: Mapping[str, Any]) -> Signed:
        """Sign a transaction. With a key of this process it comes back without giving up its turn.

        Raises SignerFault where there is no signature of the wallet, and InvariantBroken where the
        transaction is none.
        """
        ...

    @property
    def at_once(self) -> Callable[[Mapping[str, Any]], Signed] | None:
        """Signs likewise, and waits for nobody; None where the key is elsewhere."""
        ...


class Holder(Protocol):
    """Whoever holds keys elsewhere, as far as it is asked; raises SignerFault where it does not answer."""

    @property
    def name(self) -> str:
        """How it is told of; no secret."""
        ...

    async def addresses(self) -> Collection[str]:
        """Return the addresses, in lower case, that it signs for."""
        ...

    async def sign(self, unsigned: bytes, address: str) -> bytes:
        """Return a signature of the keccak hash of ``unsigned``: r and s, 32 bytes each."""
        ...


class RemoteSigner:
    """Implements ``Signer`` with a key elsewhere: asks in time, and believes only what is proven."""

    at_once = None

    def __init__(self, holder: Holder, address: str, *, timeout_s: float) -> None:
        self._holder = holder
        self._timeout_s = timeout_s
        self.address = address
        self.fault: str | None = None

    async def sign(self, tx: Mapping[str, Any]) -> Signed:
        """Have a transaction signed; raise SignerFault where no signature of the wallet comes in time."""
        fields = fields_of(tx)

        async def signed() -> Signed:
            return completed(fields, await self._holder.sign(fields.unsigned, self.address), self.address)

        return await self._asked(signed())

    async def check(self) -> None:
        """Raise SignerFault where whoever holds keys does not answer, or does not hold the wallet's."""

        async def held() -> None:
            if self.address not in (found := await self._holder.addresses()):
                raise SignerFault(f"it holds no key of {self.address}, only {len(found)} others")

        await self._asked(held())

    async def prove(self) -> None:
        """Have something signed that no chain takes; raise SignerFault where it is not."""
        await self.sign(UNSENDABLE)

    async def _asked(self, asking: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await asking
        except TimeoutError:
            why = f"no answer within {self._timeout_s:g} s"
        except SignerFault as fault:
            why = str(fault)
        else:
            self.fault = None
            return answer
        self.fault = f"{self._holder.name}: {why}"
        raise SignerFault(self.fault)

    def __repr__(self) -> str:
        return f"RemoteSigner({self.address})"


# --- transactions and their signatures ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fields:
    """A transaction as it is hashed, and what becomes of it with a signature."""

    prefix: bytes
    """The type of EIP-2718; none for a legacy transaction."""
    items: bytes
    """All of it but the signature, in RLP, without the head of the list."""
    chain_id: int

    @property
    def unsigned(self) -> bytes:
        """What is hashed and signed: EIP-1559, or EIP-155 for a legacy transaction."""
        replay = b"" if self.prefix else rlp(self.chain_id, 0, 0)
        return self.prefix + listed(self.items + replay)

    def signed(self, parity: int, r: int, s: int) -> Signed:
        """Put a signature to it, which is believed."""
        v = parity if self.prefix else parity + 35 + 2 * self.chain_id
        raw = self.prefix + listed(self.items + rlp(v, r, s))
        return Signed(raw, "0x" + keccak(raw).hex())


DYNAMIC = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas", "to", "value", "data")
LEGACY = ("nonce", "gasPrice", "gas", "to", "value", "data")
ADDRESS_BYTES = 20
NO_ACCESS = b"\xc0"
"""An access list with nothing in it."""


def fields_of(tx: Mapping[str, Any]) -> Fields:
    """Read a transaction of type 2, or a legacy one; raise InvariantBroken where it is neither, or has more.

    Not by eth-account, which takes many times as long over the shapes that a transaction may have as the
    curve takes over its signature, nor by ``rlp``, which takes as long as that; properties hold the bytes to
    its own.
    """
    kind = tx.get("type", 0)
    names = {0: LEGACY, 2: DYNAMIC}.get(kind)
    if names is None or tx.keys() - {"type"} != {*names, "chainId"}:
        raise InvariantBroken(f"the transaction cannot be signed: type {kind} of {', '.join(sorted(tx))}")
    try:
        values = tuple(_plain(name, tx[name]) for name in names)
    except (AttributeError, TypeError, ValueError) as error:
        raise InvariantBroken(f"the transaction cannot be signed: {error}") from error
    items = rlp(*values)
    if kind == 2:
        return Fields(b"\x02", items + NO_ACCESS, tx["chainId"])
    return Fields(b"", items, tx["chainId"])


def _plain(name: str, value: Any) -> bytes | int:
    """Return a field as it is encoded: bytes where it is text in hexadecimal, else a number."""
    if name not in {"to", "data"}:
        if type(value) is not int or value < 0:
            raise ValueError(f"{name}: expected a number, found {value!r}")
        return value
    raw = bytes.fromhex(value.removeprefix("0x"))
    if name == "to" and len(raw) != ADDRESS_BYTES:
        raise ValueError(f"to: expected an address of {ADDRESS_BYTES} bytes, found {len(raw)}")
    return raw


def rlp(*values: bytes | int) -> bytes:
    """Encode items one after the other (Yellow Paper, appendix B); numbers without zeros before them."""
    return b"".join([_item(each if isinstance(each, bytes) else _shortest(each)) for each in values])


def listed(items: bytes) -> bytes:
    """Put the head of a list before its items."""
    return _head(len(items), 0xC0) + items


def _item(raw: bytes) -> bytes:
    is_itself = len(raw) == 1 and raw[0] < 0x80
    return raw if is_itself else _head(len(raw), 0x80) + raw


def _head(size: int, kind: int) -> bytes:
    if size < 56:
        return bytes((kind + size,))
    told = _shortest(size)
    return bytes((kind + 55 + len(told),)) + told


def _shortest(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def completed(fields: Fields, signature: bytes, address: str) -> Signed:
    """Put a signature to a transaction; raise SignerFault where it is not one of the address.

    Of the two values of s that a signature may have the lower is taken, as EIP-2 demands; the parity, which
    not every holder tells, is the one that recovers to the address.
    """
    digest = keccak(fields.unsigned)
    if len(signature) != 64:
        raise SignerFault(f"a signature of 64 bytes was expected, and {len(signature)} came")
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    s = min(s, ORDER - s)
    for parity in (0, 1):
        if s > 0 and recovered(digest, parity, r, s) == address:
            return fields.signed(parity, r, s)
    raise SignerFault(f"what it returned is no signature of {address}")


def recovered(digest: bytes, parity: int, r: int, s: int) -> str | None:
    """Return the address whose key made a signature; None where it is none."""
    try:
        compact = r.to_bytes(32) + s.to_bytes(32) + bytes([parity])
        found = PublicKey.from_signature_and_message(compact, digest, hasher=None)
    except ValueError:
        return None
    return address_of(found.format(compressed=False)[1:])


def address_of(point: bytes) -> str:
    """Return the address of a public key, given as x and y."""
    return "0x" + keccak(point)[12:].hex()
