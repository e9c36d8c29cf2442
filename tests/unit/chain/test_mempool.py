"""Transactions as nodes announce them."""

from __future__ import annotations

from typing import Any

import pytest

from keeper.chain.mempool import announced_of
from keeper.domain import Announced, Call, Fees

RAW = {
    "hash": "0x" + "a1" * 32,
    "from": "0x" + "AB" * 20,
    "to": "0x" + "CD" * 20,
    "input": "0x0102",
    "gas": "0x5208",
}


@pytest.mark.parametrize(
    ("bid", "fees"),
    [
        ({"maxFeePerGas": "0xff", "maxPriorityFeePerGas": "0x7", "gasPrice": "0x50"}, Fees(255, 7)),
        ({"gasPrice": "0x7"}, Fees(7, 7, is_flat=True)),
        ({"gasPrice": "0x7", "maxFeePerGas": None, "maxPriorityFeePerGas": None}, Fees(7, 7, is_flat=True)),
    ],
    ids=["with a tip of its own", "legacy", "legacy, spelled out"],
)
def test_a_transaction_is_read_with_what_it_bids(bid: dict[str, Any], fees: Fees) -> None:
    call = Call("0x" + "cd" * 20, b"\x01\x02")
    assert announced_of(RAW | bid) == Announced("0x" + "a1" * 32, "0x" + "ab" * 20, call, 21_000, fees)
