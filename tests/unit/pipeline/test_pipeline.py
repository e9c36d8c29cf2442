"""What a head leads to: every scenario running through, and again started from the journal before each head.

The fixtures hold every journal to its promises at the end, and every confirmation and slice to the recorded
agreement of both clocks.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace

import pytest
from eth_abi.abi import encode
from structlog.testing import capture_logs

from keeper.desk import hybrid
from keeper.domain import Account, ArrayView, EventKind, Holding, Leg, Log, Phase, Reason, Refuse
from keeper.errors import ChainFault, ConfigError
from keeper.journal.guard import Limits
from keeper.lifecycle import Status
from keeper.plan.hybrid import Params as PlanParams
from keeper.ports import BlockUpdate, Range
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.params import feed_bytes
from keeper.units import WAD
from tests.unit.pipeline.desk import (
    BREACHED,
    EMPTY,
    FIRST,
    KEEPER,
    MARKET,
    SIGNER,
    Chain,
    Desk,
    confirmed,
    cured,
    flagged,
)
from tests.unit.protocols.hybrid.books import CALL, EXPIRY_S, LATER, OPTIONS, PUT, SLOPE

GWEI = 10**9
OTHER = replace(BREACHED, key=b"\x0c" * 20 + bytes(12))
FLAGGED = ["Suspected", "Reserved flag", "Sent"]
READS = ["call_many", "batch"]
"""What a head asks a node for, in order."""


async def to_flagged(desk: Desk, account: Account = BREACHED) -> Account:
    """Bring an account to where the keeper's alarm stands."""
    await desk.head(account)
    alarm = flagged(account, desk.chain.next)
    await desk.head(alarm, mined=True)
    return alarm


async def to_confirmed(desk: Desk, account: Account = BREACHED) -> Account:
    """Bring an account to where the keeper's confirmation stands."""
    alarm = await to_flagged(desk, account)
    await desk.head()
    found = confirmed(alarm, desk.chain.next)
    await desk.head(found, mined=True)
    return found


# --- the whole way -------------------------------------------------------------------------------


async def test_a_breach_is_walked_from_the_alarm_to_the_slice_and_closed(desk: Desk) -> None:
    found = await to_confirmed(desk)
    await desk.head(replace(cured(found), phase=Phase.HEALTHY), mined=True)
    assert desk.told() == [
        *FLAGGED,
        *("Included", "Observed Poked", "Suspected", "Waited confirm.min_blocks"),
        *("Reserved confirm", "Sent"),
        *("Included", "Observed Poked", "Suspected", "Reserved liquidate", "Sent"),
        *("Included", "Observed Poked", "Closed"),
    ]
    assert desk.journal.open_cases() == ()
    assert len(set(desk.chain.sent)) == 3


async def test_who_was_just_cured_by_a_slice_is_flagged_again_only_if_worse_or_later(desk: Desk) -> None:
    found = await to_confirmed(desk)
    await desk.head(replace(cured(found), phase=Phase.HEALTHY), mined=True)
    again = replace(BREACHED, flag=found.flag, cash_wad=BREACHED.cash_wad + 95 * WAD)
    await desk.head(again)
    case = len(desk.cases()) - 1
    [suspected, waited] = desk.history(case)
    assert suspected.data["health"] == pytest.approx(0.995)
    assert waited.data["rule"] == "size.rest"
    assert "closed 24 s ago, health 0.995000 now" in waited.data["evidence"]
    await desk.head(replace(again, cash_wad=again.cash_wad - 20 * WAD))
    assert desk.acts() == ["flag", "confirm", "liquidate", "flag"]


async def test_a_slice_tells_in_the_journal_what_it_should_bring_and_what_it_takes(desk: Desk) -> None:
    await to_confirmed(desk)
    [reserved] = [
        each for each in desk.history() if "economics" in each.data and each.data["kind"] == "liquidate"
    ]
    economics = reserved.data["economics"]
    gross_wad = (economics["income_wad"] - economics["exit_wad"]) * economics["won_wad"] // WAD
    assert reserved.data["expected_profit_wad"] == gross_wad - economics["gas_wad"]
    assert economics["worst_gas_wad"] > economics["gas_wad"] > 0
    assert economics["won_wad"] == 9 * WAD // 10
    [moved] = desk.journal.record_at(reserved.at_s).moved_wad.values()
    assert 0 < moved <= reserved.data["notional_wad"]


async def test_a_suspect_opens_a_case_that_says_why(desk: Desk) -> None:
    await desk.head(BREACHED)
    assert desk.told() == FLAGGED
    suspected = desk.history()[0]
    assert suspected.account == BREACHED.key
    assert (suspected.data["score"], suspected.data["phase"]) == ("E 900.00, M 1000.00", "healthy")
    assert suspected.data["health"] == pytest.approx(0.9)


async def test_an_account_that_is_clear_has_no_case(desk: Desk) -> None:
    await desk.head(cured(BREACHED))
    await desk.head()
    assert desk.cases() == []
    assert desk.heads_done() == [FIRST + 1, FIRST + 2]


async def test_the_worst_suspect_is_served_first(desk: Desk) -> None:
    worse = replace(OTHER, cash_wad=1_500 * WAD)
    await desk.head(BREACHED, worse)
    assert [event.account for case in (0, 1) for event in desk.history(case)[:1]] == [worse.key, BREACHED.key]


async def test_an_alarm_raised_by_another_is_taken_up(desk: Desk) -> None:
    await desk.head(flagged(cured(BREACHED), desk.chain.tip, by="0x" + "fa" * 20))
    assert desk.told() == ["Suspected", "Reserved clear", "Sent"]


# --- agreement -----------------------------------------------------------------------------------


async def test_nothing_is_confirmed_while_the_slow_clock_disagrees(desk: Desk) -> None:
    desk.chain.slow["BTC/USD"] = 202 * WAD
    await to_flagged(desk)
    for _ in range(4):
        await desk.head()
    assert desk.acts() == ["flag"]
    assert desk.told()[-1] == "Waited confirm.no_breach_at_slow"
    desk.chain.slow["BTC/USD"] = 200 * WAD
    await desk.head()
    assert desk.acts() == ["flag", "confirm"]
    assert desk.told()[-3:] == ["Waited confirm.no_breach_at_slow", "Reserved confirm", "Sent"]


async def test_no_slice_is_taken_while_one_price_shows_no_breach(desk: Desk) -> None:
    found = confirmed(flagged(BREACHED, desk.chain.tip), desk.chain.tip)
    desk.chain.slow["BTC/USD"] = 202 * WAD
    await desk.head(found)
    assert desk.acts() == []
    assert desk.told()[-1] == "Waited slope.no_breach_at_slow"
    desk.chain.slow["BTC/USD"] = 200 * WAD
    await desk.head()
    assert desk.acts() == ["liquidate"]


async def test_an_alarm_that_both_clocks_contradict_is_cleared(desk: Desk) -> None:
    alarm = await to_flagged(desk)
    desk.chain.fast["BTC/USD"] = desk.chain.slow["BTC/USD"] = 203 * WAD
    await desk.head()
    assert desk.told()[-2:] == ["Reserved clear", "Sent"]
    await desk.head(replace(alarm, phase=Phase.HEALTHY), mined=True)
    assert desk.told()[-1] == "Closed"
    assert desk.acts() == ["flag", "clear"]


async def test_the_clock_of_an_account_that_is_neither_safe_nor_to_be_sliced_is_kept_going(
    desk: Desk,
) -> None:
    found = replace(BREACHED, cash_wad=2_060 * WAD)
    await desk.head(confirmed(flagged(found, desk.chain.tip), desk.chain.tip))
    assert desk.told()[-1] == "Waited slope.no_breach_at_fast"
    assert desk.acts() == []
    await desk.head()
    assert desk.acts() == ["poke"]


# --- saying so, once -----------------------------------------------------------------------------


async def test_a_wait_is_journaled_once_for_as_long_as_its_rule_is_the_same(kept: Desk) -> None:
    kept.feed.known["BTC/USD"] = 200 * WAD
    kept.chain.fast["BTC/USD"] = 203 * WAD
    await kept.head(BREACHED)
    for _ in range(3):
        await kept.head()
    assert kept.told() == ["Suspected", "Waited alarm.not_on_chain"]
    kept.chain.fast_age_s = 16
    await kept.head()
    await kept.head()
    assert kept.told() == ["Suspected", "Waited alarm.not_on_chain", "Waited oracle.stale"]
    waited = kept.history()[1]
    assert waited.data["evidence"] == "E 1200.00 against M 1015.00 on chain"
    assert (waited.data["bound"], waited.data["until_block"]) == ("E < 1.0000 M", FIRST + 3)


async def test_a_restart_says_once_more_why_it_waits(kept: Desk) -> None:
    kept.limits = Limits(halted=True)
    kept.start()
    for _ in range(2):
        await kept.head(BREACHED)
    kept.start()
    for _ in range(2):
        await kept.head()
    assert kept.told() == ["Suspected", "Refused limit.halted", "Observed Poked", "Refused limit.halted"]


async def test_a_simulation_that_reverts_is_refused_in_the_contracts_words(desk: Desk) -> None:
    stale = load("Liquidator").errors["StaleOracle"].selector + encode(["bytes32"], [BREACHED.key])
    desk.chain.reverts = {"flag": stale}
    await desk.head(BREACHED)
    assert desk.told() == ["Suspected", "Refused simulation.reverted"]
    assert desk.history()[-1].data["evidence"].startswith("StaleOracle(")
    assert desk.chain.sent == []


async def test_a_base_fee_above_the_cap_is_refused(desk: Desk) -> None:
    desk.chain.base_fee_wei = 501 * GWEI
    desk.plan = PlanParams(min_profit_wad=-(10**6) * WAD)
    desk.start()
    await desk.head(BREACHED)
    assert desk.told() == ["Suspected", "Refused fees.cap"]
    assert desk.chain.simulated == []


# --- means ---------------------------------------------------------------------------------------


async def test_the_steps_of_one_block_share_the_credit(desk: Desk) -> None:
    desk.chain.credit = (99 * WAD).to_bytes(32)
    await desk.head(BREACHED, OTHER)
    assert desk.acts() == ["flag"]
    assert desk.told(1) == ["Suspected", "Refused alarm.no_credit"]
    assert desk.history(1)[-1].data["evidence"] == "credit 49.00"


async def test_collateral_is_not_bought_twice_with_the_same_credit(desk: Desk) -> None:
    desk.chain.credit = (60 * WAD).to_bytes(32)
    indebted = replace(EMPTY, cash_wad=-300 * WAD, holdings=(Holding(1, 2 * WAD),), debt_since_s=1)
    await desk.head(replace(indebted, key=BREACHED.key), replace(indebted, key=OTHER.key))
    assert desk.acts() == ["buycollateral", "buycollateral"]
    reserved = [event for case in (0, 1) for event in desk.history(case) if event.kind == EventKind.RESERVED]
    spent = [event.data["act"]["max_quote_wad"] for event in reserved]
    assert spent == [30 * WAD, 15 * WAD]


async def test_a_simulation_that_fails_holds_up_its_own_step_only(desk: Desk) -> None:
    desk.chain.fails.append("simulate")
    await desk.head(BREACHED, OTHER)
    assert desk.acts() == ["flag"]
    assert sorted(desk.told(case)[-1] for case in (0, 1)) == ["Sent", "Waited simulation.unknown"]
    assert desk.heads_done() == [FIRST + 1]
    await desk.head()
    assert desk.acts() == ["flag", "flag"]


async def test_acts_of_one_head_are_simulated_on_top_of_one_another(desk: Desk) -> None:
    desk.chain.stacked = [b"", Refuse(Reason("simulation.reverted", "0x", "must not revert"))]
    await desk.head(BREACHED, OTHER)
    assert desk.acts() == ["flag"]
    assert sorted(desk.told(case)[-1] for case in (0, 1)) == ["Refused simulation.reverted", "Sent"]
    assert desk.chain.simulated == []


def denied(desk: Desk, *accounts: Account) -> None:
    """Have the door grant nothing for some accounts."""
    desk.limits = Limits(accounts_deny=frozenset(f"0x{each.key.hex()}" for each in accounts))
    desk.start()


@pytest.mark.parametrize("reverts", [True, False], ids=["reverts without it", "goes through without it"])
async def test_what_counted_on_a_step_that_is_not_granted_is_simulated_anew(
    desk: Desk, reverts: bool
) -> None:
    denied(desk, BREACHED)
    desk.chain.stacks = True
    desk.chain.reverts = {"flag": b"\x01"} if reverts else {}
    await desk.head(BREACHED, OTHER)
    assert desk.told(0) == ["Suspected", "Refused limit.account"]
    assert (desk.chain.lines, desk.chain.simulated) == ([2], ["flag"])
    assert desk.acts() == ([] if reverts else ["flag"])


async def test_who_was_refused_a_permit_goes_last_at_the_next_head(kept: Desk) -> None:
    denied(kept, BREACHED)
    kept.chain.stacks, kept.chain.reverts = True, {"flag": b"\x01"}
    await kept.head(BREACHED, OTHER)
    assert kept.acts() == []
    await kept.head()
    assert (kept.chain.lines, kept.chain.simulated) == ([2, 2], ["flag"]), "nobody counts on it any more"
    assert kept.acts() == ["flag"]
    assert kept.told(0)[-1] == "Refused limit.account"


async def test_behind_many_that_are_not_granted_a_step_waits_and_has_its_turn_at_the_next_head(
    kept: Desk,
) -> None:
    fleet = [replace(BREACHED, key=bytes([number]) * 32) for number in range(1, 7)]
    denied(kept, *fleet[:-1])
    kept.chain.stacks = True
    await kept.head(*fleet)
    assert kept.chain.lines == [6, 5, 4, 3]
    assert [kept.told(case)[-1] for case in (0, 3, 4, 5)] == [
        "Refused limit.account", "Refused limit.account", "Waited simulation.order", "Waited simulation.order"
    ]  # fmt: skip
    await kept.head()
    assert kept.told(5)[-2:] == ["Reserved flag", "Sent"]


async def test_where_a_node_fails_at_several_each_is_simulated_by_itself(desk: Desk) -> None:
    desk.chain.fails.append("simulate_in_order")
    await desk.head(BREACHED, OTHER)
    assert desk.acts() == desk.chain.simulated == ["flag", "flag"]


async def test_the_slices_of_one_block_share_the_takers_margin(desk: Desk) -> None:
    tip = desk.chain.tip
    mine = replace(EMPTY, key=KEEPER, cash_wad=190 * WAD)
    await desk.head(mine, *(confirmed(flagged(each, tip), tip) for each in (BREACHED, OTHER)))
    assert desk.acts() == ["liquidate"]
    assert desk.told(1) == ["Suspected", "Waited taker.no_margin"]


async def test_the_slices_of_one_block_share_the_buckets_and_the_next_head_reads_them_anew(
    desk: Desk,
) -> None:
    tip = desk.chain.tip
    desk.chain.bucket_cap_wad = 2_000 * WAD
    await desk.head(*(confirmed(flagged(each, tip), tip) for each in (BREACHED, OTHER)))
    assert desk.acts() == ["liquidate"]
    assert desk.told(1) == ["Suspected", "Waited bucket.empty"]
    await desk.head()
    assert desk.acts() == ["liquidate", "liquidate"]


async def test_gas_without_a_price_on_chain_is_not_taken_for_free(desk: Desk) -> None:
    desk.chain.fast["ETH/USD"] = desk.chain.slow["ETH/USD"] = 0
    with pytest.raises(ChainFault, match="ETH/USD has no price on chain"):
        await desk.head(BREACHED)
    assert desk.cases() == []
    desk.chain.fast["ETH/USD"] = desk.chain.slow["ETH/USD"] = 1_500 * WAD
    await desk.head()
    assert desk.told() == FLAGGED


def test_a_native_feed_that_the_deployment_has_not_is_a_configuration_error(kept: Desk) -> None:
    kept.native_feed = "DOGE/USD"
    with pytest.raises(
        ConfigError, match=r"native_feed DOGE/USD is not a feed .*: BTC/USD, ETH/USD, SYN/USD"
    ):
        kept.start()


def test_a_price_source_that_serves_not_every_feed_is_a_configuration_error(kept: Desk) -> None:
    kept.feed.unserved = {"BTC/USD", "SYN/USD"}
    with pytest.raises(ConfigError, match="no entry for BTC/USD, SYN/USD"):
        kept.start()


async def test_a_keeper_without_means_says_at_its_start_what_it_lacks(kept: Desk) -> None:
    with capture_logs() as logs:
        await kept.head()
    assert not [each for each in logs if each["event"] == "wallet.lacks"]
    kept.chain.balance_wei, kept.chain.credit = 0, bytes(32)
    kept.start()
    with capture_logs() as logs:
        await kept.head(replace(EMPTY, key=KEEPER))
        await kept.head()
    (said,) = [each for each in logs if each["event"] == "wallet.lacks"]
    lacking = ["native currency for gas", "credit in the vault for bonds", "a funded margin account"]
    assert (said["what"], said["wallet"]) == (lacking, SIGNER.address)


async def test_an_answer_that_is_no_amount_is_a_fault_of_the_chain(desk: Desk) -> None:
    desk.chain.credit = b""
    with pytest.raises(ChainFault, match="expected one word, found 0 bytes"):
        await desk.head(BREACHED)
    assert desk.chain.sent == []


# --- one transaction at a time --------------------------------------------------------------------


async def test_the_permit_and_the_signed_bytes_are_on_disk_before_anything_is_sent(desk: Desk) -> None:
    seen = []

    def look() -> None:
        with closing(sqlite3.connect(desk.path)) as other:
            seen.extend(other.execute("SELECT kind, state, signed_tx IS NOT NULL FROM steps").fetchall())
            seen.append(tuple(row[0] for row in other.execute("SELECT number FROM heads")))

    desk.chain.on_send = look
    await desk.head(BREACHED)
    assert seen == [("flag", "reserved", 1), ()]
    assert desk.heads_done() == [FIRST + 1]


async def test_a_case_in_flight_is_only_bid_for(desk: Desk) -> None:
    await desk.head(BREACHED)
    for _ in range(5):
        await desk.head()
    told = desk.told()
    assert told[: len(FLAGGED)] == FLAGGED
    assert {*told[len(FLAGGED) :]} == {"Observed Outbid", "Observed Cancel"}
    assert {desk.chain.nonces[each] for each in desk.chain.sent} == {0}


async def test_who_found_no_place_in_the_wallets_line_is_not_put_behind_who_comes_later(desk: Desk) -> None:
    desk.limits = Limits(in_flight=1)
    desk.start()
    first, second, third = (replace(BREACHED, key=bytes([at]) * 20 + bytes(12)) for at in (30, 31, 32))
    await desk.head(first, second)
    assert [desk.told(case)[-1] for case in range(2)] == ["Sent", "Refused limit.in_flight"]
    await desk.head(flagged(first, desk.chain.next), third, mined=True)
    waiting = {desk.history(case)[0].account: desk.told(case)[-1] for case in range(3)}
    assert waiting[second.key] == "Sent"
    assert waiting[third.key] == "Refused limit.in_flight"


async def test_where_the_wallets_line_is_full_nobody_behind_is_tried_anew(desk: Desk) -> None:
    desk.limits = Limits(in_flight=1)
    desk.chain.stacks = True
    desk.start()
    await desk.head(*(replace(BREACHED, key=bytes([at]) * 20 + bytes(12)) for at in range(30, 36)))
    assert desk.chain.lines == [6]
    told = [desk.told(case)[-1] for case in range(6)]
    assert sorted(told) == ["Refused limit.in_flight"] * 5 + ["Sent"]


async def test_a_revert_is_followed_by_a_pause_and_another_try(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(mined=True, status=0)
    assert desk.told() == [*FLAGGED, "Reverted", "Suspected", "Refused limit.backoff"]
    await desk.head()
    await desk.head()
    await desk.head()
    assert desk.acts() == ["flag", "flag"]


# --- the end of a case ---------------------------------------------------------------------------


async def test_a_case_is_closed_when_the_account_is_healthy_again(desk: Desk) -> None:
    desk.chain.fast_age_s = 16
    await desk.head(BREACHED)
    assert desk.told() == ["Suspected", "Waited oracle.stale"]
    await desk.head(cured(BREACHED))
    assert desk.told()[-2:] == ["Observed Poked", "Closed"]
    assert desk.history()[-1].data["phase"] == "healthy"
    await desk.head()
    assert len(desk.cases()) == 1


async def test_an_account_that_the_chain_has_closed_is_closed_here(desk: Desk) -> None:
    await to_flagged(desk)
    await desk.head(replace(EMPTY, key=BREACHED.key, phase=Phase.CLOSED))
    assert desk.told()[-1] == "Closed"


async def test_a_reorg_opens_a_closed_case_again(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(cured(BREACHED), mined=True)
    assert desk.told()[-1] == "Closed"
    await desk.head(reorg=1)
    assert desk.told()[-2:] == ["Closed", "Unincluded"]
    assert desk.journal.status(desk.cases()[0]) is Status.IN_FLIGHT
    await desk.head(mined=True)
    assert desk.told()[-2:] == ["Included", "Closed"]
    assert desk.acts() == ["flag"]
    assert len(set(desk.chain.sent)) == 1


async def test_a_case_that_a_reorg_opens_again_still_has_its_agreement(desk: Desk) -> None:
    await to_confirmed(desk)
    await desk.head(cured(BREACHED), mined=True)
    assert desk.told()[-1] == "Closed"
    await desk.head(reorg=1)
    assert desk.told()[-1] == "Unincluded"
    assert desk.pipeline._care._cases[BREACHED.key].agreed


async def test_a_late_slice_of_an_older_case_is_none_of_the_newer_one(desk: Desk) -> None:
    await to_confirmed(desk)
    assert desk.acts()[-1] == "liquidate"
    await desk.head(cured(BREACHED), mined=True)
    desk.chain.fast_age_s = 16
    await desk.head(BREACHED)
    await desk.head(reorg=2)
    await desk.head(BREACHED, mined=True)
    assert desk.told(0)[-1] == "Included"
    assert len(desk.cases()) == 2
    assert desk.rungs(1) == []
    assert not desk.pipeline._care._cases[BREACHED.key].taken


async def test_two_cases_of_one_account_after_a_reorg_both_come_to_their_end(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(cured(BREACHED), mined=True)
    desk.chain.fast_age_s = 16
    await desk.head(BREACHED)
    assert desk.told(1) == ["Suspected", "Waited oracle.stale"]
    await desk.head(reorg=2)
    assert desk.told(0)[-1] == "Unincluded"
    await desk.head(cured(BREACHED), mined=True)
    assert desk.told(1)[-1] == "Closed"
    assert desk.told(0)[-1] == "Included"
    await desk.head()
    assert desk.told(0)[-1] == "Closed"
    assert desk.journal.open_cases() == ()
    desk.chain.fast_age_s = 0
    await desk.head(BREACHED)
    assert desk.told(2) == FLAGGED


async def test_what_a_reorg_takes_back_is_read_again(desk: Desk) -> None:
    await desk.head(cured(BREACHED))
    await desk.head(BREACHED)
    assert desk.told() == FLAGGED
    desk.chain.accounts[BREACHED.key] = cured(BREACHED)
    await desk.head(reorg=1)
    desk.chain.mine(status=0)
    await desk.head()
    assert desk.told()[-2:] == ["Reverted", "Closed"]


# --- a node that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", READS)
async def test_a_fault_in_the_middle_of_a_head_loses_nothing_of_it(desk: Desk, method: str) -> None:
    desk.chain.fails.append(method)
    with pytest.raises(ChainFault, match=method):
        await desk.head(BREACHED)
    assert desk.chain.sent == []
    assert desk.heads_done() == []
    await desk.head()
    assert desk.told() == FLAGGED
    assert desk.heads_done() == [FIRST + 2]


@pytest.mark.parametrize("method", ["call_many", "batch"])
async def test_what_a_failed_head_had_learnt_is_told_at_the_next(kept: Desk, method: str) -> None:
    await kept.head(BREACHED)
    kept.chain.fails += [method, method]
    for account in (BREACHED, flagged(BREACHED, kept.chain.tip)):
        with pytest.raises(ChainFault):
            await kept.head(account, mined=True)
    await kept.head()
    after = ["Included", "Observed Poked", "Observed Poked", "Suspected"]
    assert kept.told()[:7] == [*FLAGGED, *after]
    assert kept.chain.read.count(BREACHED.key) >= 2
    assert kept.acts() == ["flag", "confirm"]


@pytest.mark.parametrize("method", ["call_many", "batch"])
async def test_a_reorg_at_a_failed_head_is_followed_up_at_the_next(desk: Desk, method: str) -> None:
    await desk.head(BREACHED)
    await desk.head(cured(BREACHED), mined=True)
    desk.chain.fails.append(method)
    desk.chain.accounts[BREACHED.key] = BREACHED
    with pytest.raises(ChainFault):
        await desk.head(reorg=1)
    await desk.head()
    assert desk.told()[-1] == "Unincluded"
    await desk.head(mined=True)
    assert desk.told()[-4:] == ["Included", *FLAGGED]


async def test_a_log_that_cannot_be_read_holds_back_all_that_comes_after_it(kept: Desk) -> None:
    await kept.head()
    kept.chain.garbled.add(len(kept.chain.logs))
    for changes in ((BREACHED, OTHER), (), ()):
        with pytest.raises(ChainFault, match="expected Poked"):
            await kept.head(*changes)
    assert kept.heads_done() == [FIRST + 1]
    kept.chain.garbled.clear()
    kept.start()
    await kept.head()
    assert kept.told(0) == kept.told(1) == FLAGGED


async def test_nobody_waits_for_ever_for_a_garbled_log(kept: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_: int, last: int) -> AsyncIterator[Range]:
        await asyncio.sleep(3_600)
        yield Range(last, "", ())

    await kept.head()
    kept.pipeline.mirror._params = replace(kept.pipeline.mirror._params, block_time_s=0)
    monkeypatch.setattr(kept.chain, "search", silent)
    kept.chain.garbled.add(len(kept.chain.logs))
    with pytest.raises(ChainFault, match="expected Poked"):
        await kept.head(BREACHED)


async def test_a_log_that_a_node_garbled_once_is_asked_for_again(kept: Desk) -> None:
    await kept.head()
    kept.chain.garbled.add(len(kept.chain.logs))
    with pytest.raises(ChainFault, match="expected Poked"):
        await kept.head(BREACHED, OTHER)
    kept.chain.garbled.clear()
    with pytest.raises(ChainFault, match="expected Poked"):
        await kept.head()
    await kept.head()
    assert kept.told(0) == kept.told(1) == FLAGGED
    assert kept.pipeline.vitals.logs_waiting == 0


async def test_a_log_that_cannot_be_read_is_forgotten_with_its_block(kept: Desk) -> None:
    await kept.head()
    gone = kept.chain.extend()
    kept.chain.put(OTHER)
    whole = kept.chain.logs[-1]
    with pytest.raises(ChainFault):
        await kept.pipeline.on_update(BlockUpdate(gone, (), (gone,), (replace(whole, data=whole.data[:-1]),)))
    await kept.head(BREACHED, reorg=1)
    assert kept.told() == FLAGGED


async def test_the_loop_outlives_a_failed_head(kept: Desk) -> None:
    kept.chain.put(BREACHED)
    kept.chain.extend()
    await kept.pipeline.discover(0, kept.chain.tip)
    kept.chain.fails.append("call_many")
    with capture_logs() as logs:
        await kept.pipeline.run()
    failed = [each for each in logs if each["event"] == "head.failed"]
    assert [(each["block"], each["why"]) for each in failed] == [(FIRST + 2, "call_many: no answer")]
    assert kept.told() == FLAGGED
    assert kept.heads_done() == [FIRST + 3]


@pytest.mark.parametrize("method", READS)
async def test_a_head_is_done_only_after_all_else(desk: Desk, method: str) -> None:
    await desk.head()
    desk.chain.fails.append(method)
    with pytest.raises(ChainFault):
        await desk.head(BREACHED)
    assert desk.heads_done() == [FIRST + 1]
    await desk.head()
    await desk.head()
    assert desk.heads_done() == [FIRST + 1, FIRST + 3, FIRST + 4]


# --- what happened while the keeper was down ------------------------------------------------------


async def test_what_happened_meanwhile_is_told_once_and_in_order(kept: Desk) -> None:
    kept.chain.fast_age_s = 16
    await kept.head(BREACHED)
    for cash_wad in (1_901 * WAD, 1_902 * WAD):
        kept.chain.extend()
        kept.chain.put(replace(BREACHED, cash_wad=cash_wad))
    kept.start()
    await kept.head(replace(BREACHED, cash_wad=1_903 * WAD))
    assert kept.told() == ["Suspected", "Waited oracle.stale", *["Observed Poked"] * 3, "Waited oracle.stale"]
    assert [event.block for event in kept.history()[2:5]] == [FIRST + 2, FIRST + 3, FIRST + 4]


async def test_a_start_on_the_head_that_was_done_last_tells_nothing_again(kept: Desk) -> None:
    kept.chain.fast_age_s = 16
    await kept.head(BREACHED)
    await kept.head(BREACHED)
    kept.start()
    await kept.hear()
    assert kept.told() == ["Suspected", "Waited oracle.stale", "Observed Poked", "Waited oracle.stale"]
    assert kept.heads_done() == [FIRST + 1, FIRST + 2, FIRST + 2]


# --- what is not known ---------------------------------------------------------------------------


async def test_an_account_whose_price_is_unknown_is_acted_on_by_nobody(desk: Desk) -> None:
    desk.feed.unknown.add("BTC/USD")
    eth = Leg(2, 100 * WAD, -165_000 * WAD)
    priced = replace(OTHER, cash_wad=15_500 * WAD, legs=(eth,))
    with capture_logs() as logs:
        await desk.head(BREACHED, priced)
    assert [desk.history(0)[0].account, len(desk.cases())] == [priced.key, 1]
    unknown = [each for each in logs if each["event"] == "accounts.unknown"]
    assert [(each["accounts"], each["of"]) for each in unknown] == [(1, 3)]
    desk.feed.unknown.clear()
    await desk.head()
    assert desk.told(1) == FLAGGED


async def test_an_account_under_care_that_was_never_read_waits_and_is_read(kept: Desk) -> None:
    kept.chain.fast_age_s = 16
    await kept.head(BREACHED)
    await kept.head()
    kept.from_block = kept.chain.tip.number
    kept.journal._db.execute("DELETE FROM accounts")
    kept.start()
    kept.chain.fast_age_s = 0
    await kept.head()
    assert kept.told()[-1] == "Waited unknown"
    assert "never read" in kept.history()[-1].data["evidence"]
    await kept.head()
    assert kept.told()[-2:] == ["Reserved flag", "Sent"]


async def test_a_feed_that_nobody_serves_any_more_is_judged_by_its_slow_price(desk: Desk) -> None:
    desk.feed.unknown.add("BTC/USD")
    await desk.head(BREACHED)
    assert desk.cases() == []
    desk.chain.silent.add("BTC/USD")
    await desk.head()
    assert desk.told() == FLAGGED
    assert desk.history()[0].data["score"] == "E 900.00, M 1000.00"


@pytest.mark.parametrize("sub_account", [0, 1])
async def test_the_keepers_own_accounts_are_never_acted_on(desk: Desk, sub_account: int) -> None:
    own = bytes.fromhex(SIGNER.address[2:]) + sub_account.to_bytes(12)
    await desk.head(replace(BREACHED, key=own))
    await desk.head(flagged(replace(BREACHED, key=own), desk.chain.tip))
    await desk.head()
    assert desk.cases() == []
    assert desk.chain.sent == []


async def test_a_stranger_s_log_says_nothing(desk: Desk) -> None:
    stranger = Log("0x" + "99" * 20, (b"\x01" * 32,), b"", FIRST, desk.chain.tip.hash, "0xt", 9)
    desk.chain.logs.append(stranger)
    await desk.head()
    assert MARKET.decode(stranger) is None
    assert desk.heads_done() == [FIRST + 1]


# --- what is listed ------------------------------------------------------------------------------

CALLS = Leg(CALL, -100 * WAD, 500 * WAD)
"""A hundred calls sold at 5."""


def array(chain: Chain, *, mark_wad: int = 5 * WAD, worst_wad: int = 0) -> ArrayView:
    """The call's risk array, new in the next block: nothing changes but in the first scenario."""
    pnl = (worst_wad, *[0] * 15)
    return ArrayView(200 * WAD, mark_wad, WAD // 2, chain.next.timestamp_s, pnl)


async def test_a_market_listed_meanwhile_is_taken_up_without_reading_anybody_again(kept: Desk) -> None:
    await kept.head(OTHER, cured(BREACHED))
    kept.chain.read.clear()
    kept.chain.relist(OPTIONS[CALL])
    with capture_logs() as logs:
        await kept.head(
            emitted=("Instruments", "MarketListed", 4, feed_bytes("BTC/USD"), 1, EXPIRY_S, 210 * WAD)
        )
    [read] = [each for each in logs if each["event"] == "listing.read"]
    assert (read["version"], read["columns"]) == (4, 6)
    assert set(kept.chain.read) == {KEEPER}
    assert kept.told() == FLAGGED


async def test_who_trades_a_new_market_is_judged_by_it(desk: Desk) -> None:
    await desk.head(OTHER)
    desk.chain.relist(OPTIONS[CALL])
    desk.chain.arrays[CALL] = array(desk.chain, worst_wad=10 * WAD)
    seller = replace(BREACHED, cash_wad=1_100 * WAD, legs=(CALLS,))
    await desk.head(seller)
    assert desk.told(1) == FLAGGED
    assert desk.history(1)[0].data["score"] == "E 1100.00, M 1200.00"


async def test_a_listing_that_a_reorg_takes_back_is_forgotten(kept: Desk) -> None:
    before = kept.chain.deployment
    kept.chain.relist(OPTIONS[CALL])
    kept.chain.arrays[CALL] = array(kept.chain, worst_wad=10 * WAD)
    await kept.head(replace(BREACHED, cash_wad=1_300 * WAD, legs=(CALLS,)))
    assert kept.told() == ["Called"]
    kept.chain.deployment = before
    await kept.head(BREACHED, reorg=1)
    assert kept.told() == ["Called", "Observed Poked", *FLAGGED]


async def test_a_listing_on_another_branch_is_read_even_where_its_version_is_the_same(kept: Desk) -> None:
    await kept.head()
    before = kept.chain.deployment
    kept.chain.relist(OPTIONS[CALL])
    await kept.head()
    kept.chain.deployment = before
    kept.chain.relist(replace(OPTIONS[CALL], strike_wad=150 * WAD))
    # Without an array the call that was sold is worth its payoff: 50 at this strike, nothing at the other.
    await kept.head(replace(BREACHED, cash_wad=7_500 * WAD, legs=(CALLS,)), reorg=1)
    assert kept.told() == FLAGGED
    assert kept.history()[0].data["score"].startswith("E 3000.00, ")


async def test_a_listing_that_cannot_be_read_after_a_reorg_is_read_at_the_next_head(kept: Desk) -> None:
    await kept.head()
    before = kept.chain.deployment
    kept.chain.relist(OPTIONS[CALL])
    await kept.head()
    kept.chain.deployment = before
    kept.chain.fails.append("listing")
    with pytest.raises(ChainFault, match="listing: no answer"):
        await kept.head(BREACHED, reorg=1)
    await kept.head()
    assert kept.told() == FLAGGED


async def test_a_listing_that_cannot_be_read_is_read_at_the_next_head(kept: Desk) -> None:
    await kept.head()
    kept.chain.relist(OPTIONS[CALL])
    kept.chain.fails.append("listing")
    with pytest.raises(ChainFault, match="listing: no answer"):
        await kept.head(BREACHED)
    await kept.head()
    assert kept.told() == FLAGGED


async def test_a_listing_that_the_book_cannot_take_is_not_judged_by_at_later_heads(
    kept: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept.head()
    monkeypatch.setattr("keeper.state.book.MOST_COLUMNS", len(kept.pipeline.mirror.market.shape.columns))
    kept.chain.relist(OPTIONS[CALL])
    for _ in range(2):
        with pytest.raises(ChainFault, match="instruments in a listing"):
            await kept.head(BREACHED)
    assert kept.cases() == []


async def test_a_listing_of_another_version_than_the_prices_is_a_fault_of_the_chain(kept: Desk) -> None:
    await kept.head()
    kept.chain.version_ahead = 1
    with pytest.raises(
        ChainFault, match=f"the listing of block {FIRST + 2} has version 3, its prices have 4"
    ):
        await kept.head(BREACHED)
    assert kept.cases() == []


async def test_an_account_is_flagged_at_the_level_of_the_slope_that_its_owner_chose(desk: Desk) -> None:
    desk.chain.relist(slopes=(replace(SLOPE, beta_wad=6 * WAD // 10, beta_flag_wad=3 * WAD // 10),))
    early = replace(BREACHED, cash_wad=2_200 * WAD)
    await desk.head(replace(early, slope_choice=1), replace(early, key=OTHER.key))
    assert [event.account for event in desk.history()[:1]] == [BREACHED.key]
    assert desk.told() == FLAGGED
    assert len(desk.cases()) == 1


# --- options -------------------------------------------------------------------------------------


@pytest.fixture
def listed(desk: Desk) -> Desk:
    """A keeper of a deployment with a call on BTC, whose array is new."""
    desk.chain.relist(OPTIONS[CALL])
    desk.chain.arrays[CALL] = array(desk.chain, worst_wad=10 * WAD)
    desk.start()
    return desk


async def test_a_new_risk_array_is_judged_by_although_it_touches_nobody(listed: Desk) -> None:
    await listed.head(replace(BREACHED, cash_wad=1_300 * WAD, legs=(CALLS,)))
    assert listed.told() == ["Called"]
    listed.chain.arrays[CALL] = array(listed.chain, worst_wad=12 * WAD)
    listed.chain.read.clear()
    prices = (200 * WAD, 5 * WAD, WAD // 2, listed.chain.next.timestamp_s)
    await listed.head(emitted=("RiskArrays", "RiskArraySet", CALL, *prices))
    assert listed.told() == ["Called", *FLAGGED]
    assert listed.history()[1].data["score"] == "E 1300.00, M 1400.00"


async def test_an_option_left_behind_by_the_price_counts_by_the_most_that_it_can_lose(listed: Desk) -> None:
    seller = replace(BREACHED, cash_wad=10_000 * WAD, legs=(CALLS,))
    await listed.head(seller)
    assert listed.cases() == []
    listed.chain.fast["BTC/USD"] = listed.chain.slow["BTC/USD"] = 205 * WAD
    await listed.head()
    assert listed.told() == FLAGGED
    # Worth 7.5 at most, covered at 205 and a range of 5%, less the payoff of the option's own strike.
    assert listed.history()[0].data["score"] == "E 9750.00, M 20980.00"


async def test_an_option_that_can_be_settled_is_settled_for_a_healthy_account(listed: Desk) -> None:
    holder = replace(BREACHED, cash_wad=50_000 * WAD, legs=(CALLS, Leg(1, WAD, -200 * WAD)))
    await listed.head(holder)
    listed.chain.settlements[CALL] = 215 * WAD
    values = (feed_bytes("BTC/USD"), EXPIRY_S, 215 * WAD)
    await listed.head(emitted=("RiskArrays", "SettlementSet", *values))
    assert listed.told() == ["Suspected", "Reserved settle", "Sent"]
    await listed.head(replace(holder, cash_wad=50_000 * WAD, legs=holder.legs[1:]), mined=True)
    assert listed.told()[-3:] == ["Included", "Observed Poked", "Closed"]
    assert listed.acts() == ["settle"]


async def test_an_alarm_does_not_wait_for_a_settlement(listed: Desk) -> None:
    listed.chain.settlements[CALL] = 215 * WAD
    dust = Leg(CALL, WAD // 10**6, 0)
    breached = replace(BREACHED, legs=(*BREACHED.legs, dust))
    await listed.head(breached)
    assert listed.told() == FLAGGED
    alarm = flagged(breached, listed.chain.next)
    await listed.head(alarm, mined=True)
    # While the alarm has to wait, there is time for it.
    assert listed.acts() == ["flag", "settle"]
    await listed.head(replace(alarm, legs=BREACHED.legs), mined=True)
    assert listed.acts() == ["flag", "settle", "confirm"]


async def test_a_slice_does_not_wait_for_a_settlement(listed: Desk) -> None:
    listed.chain.settlements[CALL] = 215 * WAD
    breached = replace(BREACHED, legs=(*BREACHED.legs, Leg(CALL, WAD // 10**6, 0)))
    await listed.head(confirmed(flagged(breached, listed.chain.tip), listed.chain.tip))
    assert listed.acts() == ["liquidate"]


async def test_the_keeper_settles_options_of_its_own_and_nothing_else(listed: Desk) -> None:
    mine = replace(EMPTY, key=KEEPER, cash_wad=100 * WAD, legs=(CALLS,))
    await listed.head(mine)
    assert listed.cases() == []
    listed.chain.settlements[CALL] = 215 * WAD
    await listed.head()
    assert listed.told() == ["Suspected", "Reserved settle", "Sent"]
    await listed.head(replace(mine, legs=(), cash_wad=100_000 * WAD), mined=True)
    assert listed.told()[-1] == "Closed"
    assert listed.acts() == ["settle"]


async def test_few_are_settled_at_the_same_time_and_the_keeper_first(
    listed: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "SETTLEMENTS", 2)
    others = [bytes([number]) * 20 + bytes(12) for number in (1, 2)]
    holders = [replace(EMPTY, key=key, cash_wad=10**6 * WAD, legs=(CALLS,)) for key in (*others, KEEPER)]
    listed.chain.settlements[CALL] = 215 * WAD
    await listed.head(*holders)
    assert [listed.history(case)[0].account for case in (0, 1)] == [KEEPER, others[0]]
    assert listed.acts() == ["settle", "settle"]
    await listed.head(*(replace(each, legs=()) for each in holders if each.key != others[1]), mined=True)
    assert listed.history(2)[0].account == others[1]
    assert listed.acts() == ["settle"] * 3


async def test_an_option_is_asked_about_until_it_is_settled_and_nobody_holds_it(kept: Desk) -> None:
    kept.chain.settlements[CALL] = 215 * WAD
    holder = replace(BREACHED, cash_wad=50_000 * WAD, legs=(CALLS, Leg(1, WAD, -200 * WAD)))
    kept.chain.relist(OPTIONS[CALL], OPTIONS[PUT])
    await kept.head(holder)
    assert kept.chain.asked_about == [CALL, PUT]
    assert kept.acts() == ["settle"]
    kept.chain.relist(OPTIONS[LATER])
    await kept.head(replace(holder, legs=holder.legs[1:]), mined=True)
    assert kept.chain.asked_about == [PUT, LATER]
    assert kept.told()[-1] == "Closed"


async def test_without_upkeep_nothing_is_settled(listed: Desk) -> None:
    listed.plan = PlanParams(upkeep=False)
    listed.start()
    listed.chain.settlements[CALL] = 215 * WAD
    await listed.head(replace(BREACHED, cash_wad=50_000 * WAD, legs=(CALLS,)))
    assert listed.cases() == []


# --- losses that are shared ----------------------------------------------------------------------


async def test_a_socialised_loss_is_read_from_whoever_holds_the_market_and_from_nobody_else(
    kept: Desk,
) -> None:
    eth = replace(OTHER, cash_wad=50_000 * WAD, legs=(Leg(2, WAD, -1_500 * WAD),))
    btc = cured(BREACHED)
    await kept.head(btc, eth)
    kept.chain.read.clear()
    kept.chain.accounts[btc.key] = BREACHED
    await kept.head(emitted=("Backstop", "LossSocialised", 1, 5_000 * WAD, WAD))
    assert set(kept.chain.read) == {KEEPER, btc.key}
    assert kept.told() == FLAGGED


async def test_a_socialised_loss_goes_into_the_history_of_those_who_bear_it(desk: Desk) -> None:
    desk.chain.fast_age_s = 16
    eth = replace(OTHER, cash_wad=16_000 * WAD, legs=(Leg(2, 100 * WAD, -165_000 * WAD),))
    await desk.head(BREACHED, eth)
    await desk.head(emitted=("Backstop", "LossSocialised", 2, 100 * WAD, WAD))
    told = {desk.history(case)[0].account: desk.told(case) for case in range(len(desk.cases()))}
    assert "Observed LossSocialised" in told[eth.key]
    assert "Observed LossSocialised" not in told[BREACHED.key]


async def test_a_reorg_of_a_socialised_loss_is_read_from_all_that_bore_it(kept: Desk) -> None:
    await kept.head(cured(BREACHED))
    kept.chain.accounts[BREACHED.key] = BREACHED
    await kept.head(emitted=("Backstop", "LossSocialised", 1, 5_000 * WAD, WAD))
    assert kept.told() == FLAGGED
    kept.chain.accounts[BREACHED.key] = cured(BREACHED)
    kept.chain.read.clear()
    await kept.head(reorg=1)
    assert BREACHED.key in kept.chain.read


# --- a dry run -----------------------------------------------------------------------------------


async def test_a_dry_run_journals_once_what_it_would_have_sent(kept: Desk) -> None:
    kept.dry_run = True
    kept.start()
    await kept.head(BREACHED)
    for _ in range(3):
        await kept.head()
    assert kept.told() == ["Suspected", "Reserved flag", "Abandoned dry_run", "Suspected"]
    reserved = kept.history()[1]
    assert reserved.data["act"] == {"account": "0x" + BREACHED.key.hex(), "bond_wad": 50 * WAD, "reports": []}
    await kept.head(flagged(BREACHED, kept.chain.tip))
    await kept.head()
    await kept.head(confirmed(flagged(BREACHED, kept.chain.tip), kept.chain.tip))
    await kept.head()
    assert kept.acts() == ["flag", "confirm", "liquidate"]
    assert kept.chain.sent == []


async def test_a_dry_run_journals_it_again_in_the_next_case(kept: Desk) -> None:
    kept.dry_run = True
    kept.start()
    for _ in range(2):
        await kept.head(BREACHED)
        await kept.head()
        await kept.head(cured(BREACHED))
    assert len(kept.cases()) == 2
    assert kept.acts() == ["flag", "flag"]


async def test_a_dry_run_sends_nothing_on_any_path(desk: Desk) -> None:
    desk.dry_run = True
    desk.start()
    await to_confirmed(desk)
    await desk.head(reorg=1)
    await desk.head(cured(BREACHED))
    assert desk.chain.sent == []
    assert "Sent" not in desk.told()


async def test_a_dry_run_follows_what_was_sent_before_it_and_sends_none_of_it_again(desk: Desk) -> None:
    await desk.head(BREACHED)
    assert len(desk.chain.sent) == 1
    desk.dry_run = True
    desk.start()
    for _ in range(5):
        await desk.head()
    await desk.head(mined=True)
    assert desk.told()[:4] == [*FLAGGED, "Included"]
    assert len(desk.chain.sent) == 1
