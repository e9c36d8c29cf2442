"""EIP-1559 transactions as bytes, to be signed and signed; pure.

By hand, for eth_account takes many times as long over the shapes that a transaction may have as the curve
takes over its signature. https://eips.ethereum.org/EIPS/eip-1559, and RLP after the yellow paper, appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

TYPE: Final = b"\x02"
BEFORE: Final = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")
FIELDS: Final = frozenset(("type", *BEFORE, "to", "value", "data"))
"""Those of a transaction without an access list, as JSON-RPC names them."""
NO_ACCESS_LIST: Final = b"\xc0"
SHORT: Final = 55
"""So many bytes at most, and their length goes into the first one."""
ADDRESS_BYTES: Final = 20


def is_plain(tx: Mapping[str, Any]) -> bool:
    """Tell whether a transaction is of the kind that this module knows."""
    return tx.keys() == FIELDS and tx["type"] == 2


def payload(tx: Mapping[str, Any]) -> bytes:
    """Encode the fields of a transaction, one after the other, without a list around them.

    Raises TypeError, ValueError or OverflowError where one is none.
    """
    to = bytes.fromhex(tx["to"].removeprefix("0x"))
    if len(to) != ADDRESS_BYTES:
        raise ValueError(f"expected an address of {ADDRESS_BYTES} bytes, found {len(to)}")
    fields = [*(number(tx[name]) for name in BEFORE), text(to), number(tx["value"])]
    return b"".join((*fields, text(bytes.fromhex(tx["data"].removeprefix("0x"))), NO_ACCESS_LIST))


def to_sign(fields: bytes) -> bytes:
    """Return what is hashed and signed."""
    return TYPE + _headed(0xC0, fields)


def signed(fields: bytes, signature: bytes) -> bytes:
    """Return what goes over the wire, by a signature of 65 bytes: r, s and the parity of the point."""
    parts = (signature[64], int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]))
    return to_sign(fields + b"".join(map(number, parts)))


def number(value: int) -> bytes:
    """Encode a number, without leading zeros."""
    return text(value.to_bytes((value.bit_length() + 7) // 8))


def text(value: bytes) -> bytes:
    """Encode a string of bytes."""
    return value if len(value) == 1 and value[0] < 0x80 else _headed(0x80, value)


def _headed(kind: int, value: bytes) -> bytes:
    if len(value) <= SHORT:
        return bytes([kind + len(value)]) + value
    length = len(value).to_bytes((len(value).bit_length() + 7) // 8)
    return bytes([kind + SHORT + len(length)]) + length + value
