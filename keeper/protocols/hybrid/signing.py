"""What reporters and owners sign: the EIP-712 digests of prices, of risk arrays, of margins and of orders.

Property: equal to the digests that the contracts publish (FastOracle.reportDigest, RiskSteward.digest,
Clearing.orderDigest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from coincurve import PrivateKey, PublicKey
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.domain import Observation, Report
from keeper.protocols.hybrid.params import feed_bytes
from keeper.protocols.hybrid.steward import MarginChange
from keeper.risk.scenarios import PackedArray
from keeper.units import AccountKey, UnixS, Wad

_DOMAIN: Final = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_REPORT: Final = "FastReport(bytes32 feedId,uint128 price,uint64 confBps,uint40 observedAt,uint40 validUntil)"
_ARRAYS: Final = "RiskArrays(bytes32 arraysHash,uint40 validUntil)"
_ARRAY_ROWS: Final = "(uint16,uint40,uint64,uint64,int32,int64[16])[]"
_CHANGE: Final = (
    "MarginChange(bytes32 feedId,uint64 mmr,uint64 imr,uint40 duration,uint40 observedAt,uint40 validUntil)"
)
_SIGNATURE: Final = 65
_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""Of secp256k1: ECDSA.recover refuses an s above it."""
_ORDER: Final = (
    "Order(bytes32 account,uint16 market,int128 size,uint128 limitPrice,uint256 nonce,uint40 deadline)"
)


class ArraysToSign(Protocol):
    """Risk arrays that are signed together; whoever computes them has a class of its own for it."""

    @property
    def arrays(self) -> Sequence[PackedArray]: ...
    @property
    def valid_until_s(self) -> UnixS: ...


@dataclass(frozen=True, slots=True)
class Order:
    """``size`` units of a market, at ``limit`` or better."""

    account: AccountKey
    market: int
    size_wad: Wad
    limit_wad: Wad
    nonce: int
    deadline_s: UnixS

    @property
    def fields(self) -> tuple[bytes, int, int, int, int, int]:
        """The struct ``Order`` of Clearing.sol."""
        return (self.account, self.market, self.size_wad, self.limit_wad, self.nonce, self.deadline_s)


def report_fields(observation: Observation) -> tuple[int, int, int, int]:
    """Return the struct ``Report`` of HybridTypes.sol without its signature."""
    times = (observation.observed_at_s, observation.valid_until_s)
    return (observation.price_wad, observation.confidence_bps, *times)


def report_digest(observation: Observation, *, fast_oracle: str, chain_id: int) -> bytes:
    """Return what a reporter signs (FastOracle.reportDigest)."""
    domain = _domain("HybridMargin FastOracle", fast_oracle, chain_id)
    values = (feed_bytes(observation.feed), *report_fields(observation))
    return _digest(domain, _REPORT, ("bytes32", "uint128", "uint64", "uint40", "uint40"), values)


def sign_report(key: bytes, observation: Observation, *, fast_oracle: str, chain_id: int) -> Report:
    """Return an observation with the reporter's signature."""
    digest = report_digest(observation, fast_oracle=fast_oracle, chain_id=chain_id)
    return Report(observation, _sign(key, digest), address_of(key))


def address_of(key: bytes) -> str:
    """Return the address of a key, in lower case."""
    return _address(PrivateKey(key).public_key)


def read_report(
    observation: Observation, signature: bytes, *, fast_oracle: str, chain_id: int
) -> Report | None:
    """Find out who signed an observation; None where the contract would call the signature none at all.

    An altered observation has another digest: its signature recovers to an address that nobody knows.
    """
    digest = report_digest(observation, fast_oracle=fast_oracle, chain_id=chain_id)
    s, v = int.from_bytes(signature[32:64]), signature[64] if len(signature) == _SIGNATURE else 0
    if v not in {27, 28} or s > _HALF_ORDER:
        return None
    try:
        public = PublicKey.from_signature_and_message(signature[:64] + bytes([v - 27]), digest, hasher=None)
    except ValueError:
        return None
    return Report(observation, signature, _address(public))


def risk_arrays_digest(
    arrays: Sequence[PackedArray], valid_until_s: UnixS, *, risk_arrays: str, chain_id: int
) -> bytes:
    """Return the one digest over all arrays of a post, which every member of its quorum signs.

    The struct holds the hash of the arrays as calldata has them, keccak256(abi.encode(RiskArray[])), and not
    of EIP-712's own encoding of an array of structs: one hash of one buffer is what the contract can afford.
    """
    domain = _domain("HybridMargin RiskArrays", risk_arrays, chain_id)
    arrays_hash = keccak(encode((_ARRAY_ROWS,), ([array.fields for array in arrays],)))
    return _digest(domain, _ARRAYS, ("bytes32", "uint40"), (arrays_hash, valid_until_s))


def sign_risk_arrays(
    key: bytes, arrays: Sequence[PackedArray], valid_until_s: UnixS, *, risk_arrays: str, chain_id: int
) -> bytes:
    """Return one signer's signature of a post."""
    return _sign(key, risk_arrays_digest(arrays, valid_until_s, risk_arrays=risk_arrays, chain_id=chain_id))


def margins_digest(change: MarginChange, *, steward: str, chain_id: int) -> bytes:
    """Return what every member of a quorum signs (RiskSteward.digest)."""
    domain = _domain("HybridMargin RiskSteward", steward, chain_id)
    types = ("bytes32", "uint64", "uint64", "uint40", "uint40", "uint40")
    return _digest(domain, _CHANGE, types, change.fields)


def sign_margins(key: bytes, change: MarginChange, *, steward: str, chain_id: int) -> bytes:
    """Return one signer's signature of a change."""
    return _sign(key, margins_digest(change, steward=steward, chain_id=chain_id))


def order_digest(order: Order, *, clearing: str, chain_id: int) -> bytes:
    """Return what an account's owner signs (Clearing.orderDigest)."""
    domain = _domain("HybridMargin Clearing", clearing, chain_id)
    types = ("bytes32", "uint16", "int128", "uint128", "uint256", "uint40")
    return _digest(domain, _ORDER, types, order.fields)


def sign_order(key: bytes, order: Order, *, clearing: str, chain_id: int) -> bytes:
    """Return the owner's signature."""
    return _sign(key, order_digest(order, clearing=clearing, chain_id=chain_id))


def _domain(name: str, contract: str, chain_id: int) -> bytes:
    types = ("bytes32", "bytes32", "bytes32", "uint256", "address")
    hashes = (keccak(text=_DOMAIN), keccak(text=name), keccak(text="1"))
    return keccak(encode(types, (*hashes, chain_id, contract)))


def _digest(domain: bytes, struct: str, types: tuple[str, ...], values: tuple[Any, ...]) -> bytes:
    hashed = keccak(encode(("bytes32", *types), (keccak(text=struct), *values)))
    return keccak(b"\x19\x01" + domain + hashed)


def _address(public: PublicKey) -> str:
    return "0x" + keccak(public.format(compressed=False)[1:])[12:].hex()


def _sign(key: bytes, digest: bytes) -> bytes:
    """Sign with a low s, as ECDSA.recover demands; 65 bytes, the last 27 or 28."""
    signature = PrivateKey(key).sign_recoverable(digest, hasher=None)
    return signature[:64] + bytes([27 + signature[64]])
