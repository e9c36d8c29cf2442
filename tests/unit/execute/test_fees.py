"""What is bid: by the base fee, by what others pay, by what a step brings; and how a bid is raised."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Call, Economics, Fees, Flag, Head, Refuse, Step
from keeper.errors import ChainFault
from keeper.execute.fees import FeeParams, Market, bid_for, choose_fees, grown, outbid, raised, tip_paid
from keeper.execute.levy import OpStack
from keeper.units import WAD

GWEI = 10**9
PARAMS = FeeParams(GWEI, 50 * GWEI)
wei = st.integers(0, 10**14)
fees = st.builds(lambda cap, tip: Fees(max(cap, tip), min(cap, tip)), wei, wei)


@pytest.mark.parametrize(
    ("base_fee", "expected"),
    [
        (10 * GWEI, Fees(21 * GWEI, GWEI)),
        (30 * GWEI, Fees(50 * GWEI, GWEI)),
        (50 * GWEI, Fees(50 * GWEI, GWEI)),
        (0, Fees(GWEI, GWEI)),
    ],
)
def test_fees_are_twice_the_base_fee_and_a_tip_up_to_the_cap(base_fee: int, expected: Fees) -> None:
    assert choose_fees(base_fee, PARAMS) == expected


def test_fees_refuse_where_the_cap_is_below_the_base_fee() -> None:
    refused = choose_fees(51 * GWEI, PARAMS)
    assert isinstance(refused, Refuse)
    assert str(refused.reason) == f"fees.cap: base fee {51 * GWEI} wei, bound max_fee_cap_wei {50 * GWEI} wei"


def test_the_tip_never_exceeds_the_whole_fee() -> None:
    assert choose_fees(0, FeeParams(5 * GWEI, GWEI)) == Fees(GWEI, GWEI)


@pytest.mark.parametrize(
    ("paid_wei", "tip_wei"), [(None, GWEI), (GWEI // 2, GWEI), (3 * GWEI, 3 * GWEI), (9 * GWEI, 4 * GWEI)]
)
def test_the_tip_is_what_others_pay_between_the_least_and_the_most(paid_wei: int, tip_wei: int) -> None:
    params = replace(PARAMS, max_priority_fee_wei=4 * GWEI)
    assert choose_fees(10 * GWEI, params, Market(paid_wei)) == Fees(20 * GWEI + tip_wei, tip_wei)


def test_a_chain_without_a_base_fee_has_one_gas_price() -> None:
    assert choose_fees(None, PARAMS, Market(gas_price_wei=7)) == Fees(7, 7, is_flat=True)
    for market, rule in ((Market(), "fees.unknown"), (Market(gas_price_wei=51 * GWEI), "fees.cap")):
        refused = choose_fees(None, PARAMS, market)
        assert isinstance(refused, Refuse)
        assert refused.reason.rule == rule


@given(wei, st.integers(1, 12))
def test_a_bid_covers_the_base_fee_of_as_many_full_blocks(base_fee: int, blocks: int) -> None:
    fee = base_fee
    for _ in range(blocks if blocks < 6 else blocks - 1):
        fee += max(fee // 8, 1) if fee else 0
    # A block moves it by at most an eighth, rounded down, and by one wei at the least.
    assert grown(base_fee, blocks) + blocks >= fee
    assert grown(base_fee, min(blocks, 5)) <= 2 * base_fee


def step(valid_until: int, *, income_wad: int = 0, gas_wad: int = 0) -> Step:
    found = Economics(income_wad, 0, gas_wad, 2 * gas_wad, gas_price_wei=11 * GWEI) if gas_wad else None
    return Step("case", Flag(b"\x01" * 32, WAD), valid_until, 1_000_000, WAD, economics=found)


@pytest.mark.parametrize(
    ("asked", "max_fee_wei"),
    [
        (step(101), 1125 * GWEI // 100 + GWEI),
        (step(102), 12_656_250_000 + GWEI),
        (step(1_000), 21 * GWEI),
        (step(1_000, income_wad=15 * WAD, gas_wad=10 * WAD), 165 * GWEI // 10),
        (step(1_000, income_wad=99 * WAD, gas_wad=10 * WAD), 21 * GWEI),
        (step(1_000, income_wad=10 * WAD + 1, gas_wad=10 * WAD), 11 * GWEI),
        (step(1_000, income_wad=9 * WAD, gas_wad=10 * WAD), 21 * GWEI),
    ],
    ids=[
        "one block",
        "two blocks",
        "long",
        "brings half as much again",
        "brings much",
        "just pays",
        "upkeep",
    ],
)
def test_a_step_bids_for_as_long_as_it_is_valid_and_no_more_than_it_brings(
    asked: Step, max_fee_wei: int
) -> None:
    assert bid_for(asked, 100, 10 * GWEI, PARAMS) == Fees(max_fee_wei, GWEI)


@given(fees)
def test_a_raised_bid_is_an_eighth_higher_in_both_fees(bid: Fees) -> None:
    found = raised(bid)
    assert 8 * found.max_fee_wei >= 9 * bid.max_fee_wei
    assert 8 * found.priority_fee_wei >= 9 * bid.priority_fee_wei
    assert found.priority_fee_wei <= found.max_fee_wei
    assert found.max_fee_wei > bid.max_fee_wei


@given(fees, fees, wei)
def test_a_replacement_outbids_in_both_fees_and_keeps_below_the_most(
    last: Fees, wanted: Fees, most_wei: int
) -> None:
    found = outbid(last, wanted, most_wei)
    if found is None:
        assert raised(last).max_fee_wei > most_wei
        return
    assert raised(last).max_fee_wei <= found.max_fee_wei <= most_wei
    assert raised(last).priority_fee_wei <= found.priority_fee_wei <= found.max_fee_wei
    assert outbid(last, wanted, found.max_fee_wei) == found


@pytest.mark.parametrize(
    ("history", "tip_wei"),
    [
        ({"reward": [["0x5"], ["0x1"], ["0x3"]]}, 3),
        ({"reward": [["0x0"], ["0x2"], ["0x0"], ["0x8"]]}, 2),
        ({"reward": [["0x0"]]}, None),
        ({"reward": None}, None),
        ({}, None),
    ],
)
def test_the_tip_paid_is_the_median_over_the_blocks_that_had_any(history: Any, tip_wei: int | None) -> None:
    assert tip_paid(history) == tip_wei


@given(fees)
def test_a_transaction_says_what_it_bids(bid: Fees) -> None:
    flat = Fees(bid.max_fee_wei, bid.max_fee_wei, is_flat=True)
    assert Fees.of(bid.fields()) == bid
    assert Fees.of(flat.fields()) == flat


def head(number: int, base_fee_wei: int | None = 10 * GWEI) -> Head:
    return Head(number, f"0xb{number}", f"0xb{number - 1}", number * 12, base_fee_wei)


async def heard(desk: Any, at: Head) -> Any:
    """Give a desk whose sender has heard of fees at a head."""
    await desk.sender.resume(at)
    await desk.sender.prepare()
    return desk.sender.fees(at)


async def test_others_tips_are_asked_for_once_a_head_and_kept_while_nobody_answers(desk: Any) -> None:
    desk.restart(fees=FeeParams(tip_percentile=60))
    desk.node.says["eth_feeHistory"] = {"reward": [[hex(3 * GWEI)]]}
    assert await heard(desk, head(100)) == Fees(23 * GWEI, 3 * GWEI)
    await desk.sender.prepare()
    assert desk.node.asked == [("eth_feeHistory", ["0xa", "0x64", [60]])]
    desk.node.says["eth_feeHistory"] = ChainFault("no such method")
    assert await heard(desk, head(120)) == Fees(23 * GWEI, 3 * GWEI)
    desk.node.says["eth_feeHistory"] = None
    assert await heard(desk, head(121)) == Fees(21 * GWEI, GWEI)


async def test_on_a_chain_without_a_base_fee_the_transaction_names_a_gas_price(desk: Any) -> None:
    desk.restart()
    desk.node.says["eth_gasPrice"] = hex(5 * GWEI)
    flat = await heard(desk, head(100, None))
    tx = desk.sender.transaction(Call("0x" + "d1" * 20, b""), 100_000, flat)
    assert tx["gasPrice"] == 5 * GWEI
    assert tx.keys().isdisjoint({"type", "maxFeePerGas", "maxPriorityFeePerGas"})
    signed = await desk.sender._signer.sign({**tx, "nonce": 0})
    assert signed.raw[0] >= 0xC0, "a legacy transaction is a bare list"


async def test_the_data_of_a_transaction_is_paid_for_where_the_chain_writes_it_to_another(desk: Any) -> None:
    desk.restart(levy=OpStack(500))
    await desk.sender.resume(head(100))
    refused = desk.sender.fees(head(100))
    assert refused.reason.rule == "fees.unknown"
    desk.node.says["eth_call"] = (10**12).to_bytes(32)
    assert isinstance(await heard(desk, head(101)), Fees)
    assert desk.sender.data_fee_wei == 2 * 10**12
    [(call, block)] = [params for method, params in desk.node.asked if method == "eth_call"]
    assert call["to"] == "0x420000000000000000000000000000000000000f"
    assert call["data"] == "0xf1c7a58b" + (500).to_bytes(32).hex()
    assert block == "0x65"
    desk.node.says["eth_call"] = b""
    await heard(desk, head(122))
    assert isinstance(desk.sender.fees(head(122)), Refuse), "nothing is no fee of 0"
