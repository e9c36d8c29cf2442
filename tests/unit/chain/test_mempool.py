"""Transactions as nodes announce them."""

from __future__ import annotations

from typing import Any

import pytest

from keeper.chain.mempool import announced_of
from keeper.domain import Announced, Call

RAW = {
    "hash": "0x" + "a1" * 32,
    "from": "0x" + "AB" * 20,
    "to": "0x" + "CD" * 20,
    "input": "0x0102",
    "gas": "0x5208",
}
READ = Announced("0x" + "a1" * 32, "0x" + "ab" * 20, Call("0x" + "cd" * 20, b"\x01\x02"), 21_000, 7)


@pytest.mark.parametrize(
    "bid",
    [
        {"maxFeePerGas": "0xff", "maxPriorityFeePerGas": "0x7", "gasPrice": "0x50"},
        {"gasPrice": "0x7"},
        {"gasPrice": "0x7", "maxPriorityFeePerGas": None},
    ],
    ids=["with a tip of its own", "legacy", "legacy, spelled out"],
)
def test_a_transaction_is_read_with_what_it_bids_at_the_most(bid: dict[str, Any]) -> None:
    assert announced_of(RAW | bid) == READ
