"""Headers and logs as nodes send them, to the words of the domain.

Two spellings arrive: hex text over HTTP, and what web3 has already made of it on the websocket.
Addresses and hashes become lower-case hex.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keeper.domain import Head, Log
from keeper.errors import ChainFault


def quantity(value: int | str) -> int:
    return value if isinstance(value, int) else int(value, 16)


def data(value: bytes | str) -> bytes:
    return bytes(value) if isinstance(value, bytes) else bytes.fromhex(value.removeprefix("0x"))


def lower_hex(value: bytes | str) -> str:
    return "0x" + data(value).hex()


def head_of(raw: Mapping[str, Any] | None) -> Head:
    """Read a block header; raise ChainFault where there is none, or a part of it is missing."""
    if raw is None:
        raise ChainFault("expected a block header, found null: the node does not have that block")
    if "baseFeePerGas" not in raw:
        raise ChainFault("a block header without baseFeePerGas: only chains with EIP-1559 fees are supported")
    try:
        return Head(
            number=quantity(raw["number"]),
            hash=lower_hex(raw["hash"]),
            parent_hash=lower_hex(raw["parentHash"]),
            timestamp_s=quantity(raw["timestamp"]),
            base_fee_wei=quantity(raw["baseFeePerGas"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ChainFault(f"a block header cannot be read: {error!r}") from error


def log_of(raw: Mapping[str, Any]) -> Log:
    """Read a log of an included transaction; raise ChainFault where a part of it is missing."""
    try:
        return Log(
            address=lower_hex(raw["address"]),
            topics=tuple(data(topic) for topic in raw["topics"]),
            data=data(raw["data"]),
            block_number=quantity(raw["blockNumber"]),
            block_hash=lower_hex(raw["blockHash"]),
            tx_hash=lower_hex(raw["transactionHash"]),
            index=quantity(raw["logIndex"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ChainFault(f"a log cannot be read: {error!r}") from error
