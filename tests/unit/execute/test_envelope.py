"""Transactions by hand are, to the byte, those of eth_account."""

import asyncio
from typing import Any

from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from keeper.execute import envelope
from keeper.execute.keys import LocalSigner

KEYS = st.integers(1, 2**255).map(lambda number: number.to_bytes(32))
NUMBERS = st.sampled_from([0, 1, 127, 128, 255, 256]) | st.integers(0, 2**64 - 1)
DATA = st.binary(max_size=80) | st.sampled_from([1, 55, 56, 255, 256, 4_000]).map(lambda size: b"\x12" * size)


@st.composite
def transactions(draw: st.DrawFn) -> dict[str, Any]:
    tip = draw(NUMBERS)
    return {
        "type": 2,
        "chainId": draw(st.integers(1, 2**62)),
        "nonce": draw(NUMBERS.filter(lambda nonce: nonce < 2**64 - 1)),
        "to": "0x" + draw(st.binary(min_size=20, max_size=20)).hex(),
        "data": "0x" + draw(DATA).hex(),
        "value": draw(st.integers(0, 2**96)),
        "gas": draw(NUMBERS),
        "maxFeePerGas": tip + draw(NUMBERS),
        "maxPriorityFeePerGas": tip,
    }


@given(key=KEYS, tx=transactions())
def test_the_bytes_are_those_of_eth_account(key: bytes, tx: dict[str, Any]) -> None:
    account = Account.from_key(key)
    theirs = account.sign_transaction({**tx, "to": bytes.fromhex(tx["to"][2:])})
    ours = asyncio.run(LocalSigner(account).sign(tx))
    assert envelope.is_plain(tx)
    assert ours.raw == bytes(theirs.raw_transaction)
    assert ours.tx_hash == theirs.hash.to_0x_hex()


@given(tx=transactions())
def test_another_kind_of_transaction_is_left_to_the_library(tx: dict[str, Any]) -> None:
    legacy = {name: tx[name] for name in ("chainId", "nonce", "to", "data", "value", "gas")}
    legacy["gasPrice"] = tx["maxFeePerGas"]
    for other in (legacy, {**tx, "accessList": []}):
        signed = asyncio.run(LocalSigner(Account.from_key(b"\x4c" * 32)).sign(other))
        assert not envelope.is_plain(other)
        assert Account.recover_transaction(signed.raw) == Account.from_key(b"\x4c" * 32).address
