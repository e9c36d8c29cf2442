"""What a transaction pays for its bytes where another chain keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest
from eth_abi.abi import decode

from keeper.domain import Call, Fees
from keeper.errors import ChainFault
from keeper.execute.levy import ARBITRUM_NODE, Arbitrum, DataCost, OpStack, gas_of
from keeper.execute.stuck import Patience
from keeper.ports import BidKind, StepState
from tests.unit.execute.geth import GAS_USED, Geth
from tests.unit.execute.wallets import MARKET, Wallet, foreign

LEVY = Arbitrum(1_000)
BYTE_GAS = 700
PATIENCE = Patience(2, outbids=False)


def test_the_node_of_arbitrum_is_asked_about_noise_of_the_size() -> None:
    call = LEVY.call()
    assert (call.to, call.data[:4].hex()) == (ARBITRUM_NODE, "77d488a2")
    _, creates, noise = decode(["address", "bool", "bytes"], call.data[4:])
    assert (creates, len(noise)) == (False, 1_000)
    assert len(set(noise)) > 200, "nothing that could be compressed"
    assert LEVY.call() == call


def test_what_may_rise_is_taken_twice() -> None:
    answer = b"".join(each.to_bytes(32) for each in (7, 10**8, 10**10))
    assert LEVY.read(answer) == DataCost(gas=14)
    assert OpStack(1_000).read(answer[:32]) == DataCost(fee_wei=14)
    for levy in (LEVY, OpStack(1_000)):
        with pytest.raises(ValueError, match="expected a word of 32 bytes, found 0 bytes"):
            levy.read(b"")


def test_a_transaction_takes_gas_for_each_of_its_bytes() -> None:
    cost = DataCost(gas=2_000_000)
    assert [gas_of(cost, LEVY, size) for size in (0, 860, 10_000)] == [280_000, 2_000_000, 20_280_000]
    assert gas_of(DataCost(fee_wei=10**15), OpStack(1_000), 10_000) == 0


@pytest.fixture
async def wallet(tmp_path: Path) -> Wallet:
    wallet = Wallet(tmp_path / "journal.db", node=Geth(byte_gas=BYTE_GAS), levy=LEVY, patience=PATIENCE)
    await wallet.start()
    return wallet


async def test_gas_for_bytes_is_in_the_transaction_and_not_beside_it(wallet: Wallet) -> None:
    await wallet.sender.prepare()
    fees = wallet.sender.fees(wallet.node.head())
    assert isinstance(fees, Fees)
    bare, full = (
        wallet.sender.transaction(Call(MARKET, bytes(size)), 100_000, fees)["gas"] for size in (0, 1_000)
    )
    assert bare > 100_000 + BYTE_GAS * 140
    assert full > 100_000 + BYTE_GAS * 1_140
    assert (wallet.sender.data_gas, wallet.sender.data_fee_wei) == (2 * BYTE_GAS * 1_140, 0)


async def test_a_cancel_pays_for_its_bytes(wallet: Wallet) -> None:
    with pytest.raises(ChainFault, match="intrinsic gas too low"):
        wallet.node.take(foreign(0))
    late = await wallet.send(1, blocks=2)
    await wallet.blocks(4, empty=True)
    assert wallet.kinds(late) == [BidKind.CANCEL]
    assert wallet.node.pool[0].gas > GAS_USED + BYTE_GAS * 140
    await wallet.blocks(1)
    assert wallet.journal.step(late).state is StepState.DISPLACED
    assert wallet.violations() == []


async def test_what_fills_a_gap_pays_for_its_bytes(wallet: Wallet) -> None:
    wallet.node.byte_gas = 0
    wallet.node.take(foreign(0))
    await wallet.blocks(1)
    wallet.node.byte_gas = BYTE_GAS
    waiting = await wallet.send(1, blocks=30)
    orphaned = wallet.node.cut(1)
    await wallet.sender.track(wallet.node.mine(empty=True), orphaned)
    assert wallet.node.pool[0].gas > GAS_USED + BYTE_GAS * 140
    await wallet.blocks(1)
    assert wallet.journal.step(waiting).state is StepState.INCLUDED
    assert wallet.violations() == []
