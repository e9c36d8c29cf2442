"""Suspects of one tick go out together: several acts in one transaction, each of them permitted by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import decode

from keeper.domain import Account, Call, Fees, Flag, Permit, Step
from keeper.journal.guard import Limits
from keeper.pipeline.batch import MOST_BYTES, MOST_GAS, Batch, Batches
from keeper.ports import StepState
from keeper.protocols.hybrid.abi import load
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, MARKET, Desk, act_of, confirmed, flagged
from tests.unit.pipeline.ticking import Ticker

BATCH = load("Liquidator").functions["batch"]
BTC, ABOVE, BELOW = "BTC/USD", 203 * WAD, 200 * WAD
FEES, OTHER = Fees(3 * 10**9, 10**9), Fees(4 * 10**9, 10**9)
CALL = Call(MARKET.deployment.liquidator, b"\x12")


def breached(count: int) -> list[Account]:
    return [replace(BREACHED, key=bytes([60 + at]) * 20 + bytes(12)) for at in range(count)]


@pytest.fixture
def batching(tmp_path: Path) -> Iterator[Desk]:
    """A keeper that puts up to four acts into one transaction, and whose prices move between the heads."""
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    desk.batch = 4
    desk.feed = Ticker(desk.chain, known={BTC: ABOVE})
    desk.start()
    yield desk
    assert desk.violations() == []
    desk.close()


async def tick(desk: Desk) -> None:
    assert isinstance(desk.feed, Ticker)
    desk.pipeline.on_tick(desk.feed.move(BTC, BELOW))
    await desk.pipeline.on_alarm()


def sent(desk: Desk) -> list[list[str]]:
    """Return the acts of each transaction that is in flight, by its own calldata."""
    found = []
    for step in desk.journal.live_steps():
        data = bytes.fromhex(step.unsigned_tx["data"][2:])
        calls = decode(BATCH.inputs, data[4:])[0] if data[:4] == BATCH.selector else [data]
        assert len(calls) == 1 + len(step.carries)
        found.append([act_of(each) for each in calls])
    return found


def gas_limits(desk: Desk) -> list[int]:
    return [step.unsigned_tx["gas"] for step in desk.journal.live_steps()]


# --- what goes out -------------------------------------------------------------------------------


async def test_suspects_of_one_tick_share_transactions(batching: Desk) -> None:
    await batching.head(*breached(10))
    await tick(batching)
    assert [len(acts) for acts in sent(batching)] == [4, 4, 2]
    assert {act for acts in sent(batching) for act in acts} == {"flag"}
    assert len(batching.chain.sent) == 3
    assert [batching.told(case) for case in range(10)] == [["Suspected", "Reserved flag", "Sent"]] * 10


async def test_those_of_a_head_do_too(batching: Desk) -> None:
    batching.feed.known.clear()
    await batching.head(*breached(5))
    assert [len(acts) for acts in sent(batching)] == [4, 1]


async def test_acts_of_every_kind_go_together(batching: Desk) -> None:
    batching.feed.known.clear()
    tip = batching.chain.tip
    first, second, third = breached(3)
    for _ in range(3):
        await batching.head()
    await batching.head(first, flagged(second, tip), confirmed(flagged(third, tip), tip))
    [acts] = sent(batching)
    assert sorted(acts) == ["confirm", "flag", "liquidate"]


async def test_alone_an_act_is_called_as_it_is(batching: Desk) -> None:
    await batching.head(*breached(1))
    await tick(batching)
    assert (
        batching.journal.live_steps()[0].unsigned_tx["data"][2:10]
        == load("Liquidator").functions["flag"].selector.hex()
    )


async def test_by_default_every_act_has_a_transaction_of_its_own(batching: Desk) -> None:
    batching.batch = 1
    batching.start()
    await batching.head(*breached(3))
    await tick(batching)
    assert sent(batching) == [["flag"]] * 3


async def test_what_a_limit_keeps_out_holds_nobody_else_back(batching: Desk) -> None:
    denied = breached(3)[1].key
    batching.limits = Limits(accounts_deny=frozenset({"0x" + denied.hex()}))
    batching.start()
    await batching.head(*breached(3))
    await tick(batching)
    assert sent(batching) == [["flag", "flag"]]
    [refused] = [case for case in range(3) if batching.told(case)[-1] == "Refused limit.account"]
    assert batching.history(refused)[0].account == denied


async def test_many_more_suspects_than_transactions_in_flight_get_through(batching: Desk) -> None:
    batching.limits = Limits(in_flight=2)
    batching.start()
    await batching.head(*breached(9))
    await tick(batching)
    assert [len(acts) for acts in sent(batching)] == [4, 4]
    refused = [case for case in range(9) if batching.told(case)[-1] == "Refused limit.in_flight"]
    assert len(refused) == 1


async def test_a_dry_run_says_every_act(batching: Desk) -> None:
    batching.dry_run = True
    batching.start()
    await batching.head(*breached(3))
    await tick(batching)
    assert [batching.told(case)[-2:] for case in range(3)] == [["Reserved flag", "Abandoned dry_run"]] * 3
    assert batching.chain.sent == []


async def test_each_case_goes_on_from_the_outcome_of_its_own_act(batching: Desk) -> None:
    await batching.head(*breached(3))
    await tick(batching)
    [step] = batching.journal.live_steps()
    failed = load("Liquidator").events["ActFailed"]
    data = (1).to_bytes(32) + b"\x01\x02\x03\x04" + bytes(28)
    lost = {"address": MARKET.deployment.liquidator, "topics": ["0x" + failed.topic.hex()]}
    place = {"blockHash": "0x", "transactionHash": step.tx_hash, "logIndex": "0x0", "blockNumber": "0x65"}
    batching.chain.extend()
    batching.chain.mine()
    receipt: dict[str, Any] = batching.chain.receipts[step.tx_hash or ""]
    receipt["logs"] = [{**lost, **place, "data": "0x" + data.hex()}]
    await batching.hear((), (batching.chain.tip,))
    assert [batching.told(case)[3] for case in range(3)] == ["Included", "Reverted", "Included"]
    states = [batching.journal.step(each.step_id).state for each in (step, *step.carries)]
    assert states == [StepState.INCLUDED, StepState.REVERTED, StepState.INCLUDED]


async def test_after_a_batch_that_reverts_whole_each_goes_alone_until_it_gets_through(batching: Desk) -> None:
    batching.feed.known.clear()
    await batching.head(*breached(3))
    assert [len(acts) for acts in sent(batching)] == [3]
    await batching.head(mined=True, status=0)
    assert [batching.told(case)[3:] for case in range(3)] == [
        ["Reverted", "Suspected", "Reserved flag", "Sent"]
    ] * 3
    assert sent(batching) == [["flag"]] * 3
    # The one that made it revert does so again, and nobody else waits for it.
    culprit, *others = batching.journal.live_steps()
    batching.chain.extend()
    batching.chain.mine()
    batching.chain.receipts[culprit.tx_hash or ""]["status"] = "0x0"
    await batching.hear((), (batching.chain.tip,))
    states = [batching.journal.step(each.step_id).state for each in (culprit, *others)]
    assert states == [StepState.REVERTED, StepState.INCLUDED, StepState.INCLUDED]
    paused = [batching.told(case)[-1] == "Refused limit.backoff" for case in range(3)]
    assert paused == [batching.history(case)[0].account == culprit.account for case in range(3)]


async def test_the_gas_of_a_batch_is_enough_for_every_act_by_itself(batching: Desk) -> None:
    await batching.head(*breached(4))
    await tick(batching)
    [whole] = gas_limits(batching)
    batching.batch = 1
    [alone] = {each.data["max_cost_wei"] for case in range(1) for each in batching.history(case)[1:2]}
    [price] = {step.unsigned_tx["maxFeePerGas"] for step in batching.journal.live_steps()}
    assert whole == -(-4 * (alone // price) * 64 // 63)


# --- who may go with whom ------------------------------------------------------------------------


def placed(batches: Batches, gas: int = 100_000, call: Call = CALL, terms: Any = (FEES, 7)) -> Batch:
    """Have one more act permitted; return the transaction in which it goes."""
    found = batches.place(Step("case", Flag(bytes(32), 0), 7, gas, 0), call, terms)
    batches.note(found, Permit("first" if len(found.acts) == 1 else "next", "case", 5, {}), terms)
    return found


def sizes(found: Sequence[Batch]) -> list[int]:
    return [len(each.acts) for each in found]


def test_a_transaction_takes_no_more_acts_than_it_may() -> None:
    batches = Batches(MARKET, 3)
    found = [placed(batches) for _ in range(7)]
    assert sizes(found) == [1, 2, 3, 1, 2, 3, 1]
    assert [each.permit and each.permit.step_id for each in found[:4]] == [None, "first", "first", None]


def test_acts_that_bid_otherwise_or_hold_otherwise_go_apart() -> None:
    batches = Batches(MARKET, 3)
    found = [placed(batches, terms=each) for each in [(FEES, 7), (OTHER, 7), (FEES, 8), (FEES, 7)]]
    assert sizes(found) == [1, 1, 1, 2]


def test_an_act_without_terms_shares_its_transaction_with_nobody() -> None:
    batches = Batches(MARKET, 3)
    found = [placed(batches, terms=each) for each in [None, (FEES, 7), None, None, (FEES, 7)]]
    assert sizes(found) == [1, 1, 1, 1, 2]


def test_a_transaction_takes_no_more_gas_than_the_chain_lets_it() -> None:
    batches = Batches(MARKET, 64)
    found = [placed(batches, gas=MOST_GAS // 3) for _ in range(3)]
    assert sizes(found) == [1, 2, 1]
    assert found[1].gas_limit <= MOST_GAS


def test_a_transaction_is_no_larger_than_pools_take() -> None:
    batches = Batches(MARKET, 64)
    large = replace(CALL, data=bytes(MOST_BYTES // 2))
    assert sizes([placed(batches, call=large) for _ in range(3)]) == [1, 1, 1]


def test_a_call_of_another_contract_goes_alone() -> None:
    batches = Batches(MARKET, 64)
    other = replace(CALL, to=MARKET.deployment.clearing)
    assert sizes([placed(batches), placed(batches, call=other)]) == [1, 1]


def test_a_market_without_such_a_contract_has_no_batches() -> None:
    market: Any = object()
    batches = Batches(market, 64)
    assert sizes([placed(batches), placed(batches)]) == [1, 1]


def test_a_batch_is_encoded_as_the_contract_decodes_it() -> None:
    calls = [replace(CALL, data=bytes([at]) * at) for at in (1, 2, 40)]
    whole = MARKET.batch(calls)
    assert whole is not None
    assert decode(BATCH.inputs, whole.data[4:])[0] == tuple(each.data for each in calls)
    assert json.dumps(whole.to) == json.dumps(MARKET.deployment.liquidator)


@pytest.mark.slow
async def test_five_hundred_suspects_of_one_tick_are_on_the_wire_in_few_transactions(batching: Desk) -> None:
    batching.batch, count = 16, 500
    batching.limits = Limits(spend_day_wei=10**6 * WAD, in_flight=32)
    batching.chain.credit = (10**6 * WAD).to_bytes(32)
    batching.chain.balance_wei = 10**6 * WAD
    batching.start()
    crowd = [replace(BREACHED, key=(1_000 + at).to_bytes(20) + bytes(12)) for at in range(count)]
    await batching.head(*crowd)
    await tick(batching)
    steps = batching.journal.live_steps()
    assert len(batching.chain.sent) == len(steps) == 32
    assert sum(1 + len(step.carries) for step in steps) == count
    assert max(gas_limits(batching)) <= MOST_GAS
