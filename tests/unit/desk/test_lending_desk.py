"""What is decided about loans at one head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from keeper.columns.keys import Rows, key_array
from keeper.columns.legs import Legs
from keeper.columns.snapshot import Snapshot
from keeper.confirm.policy import BALANCED, Policies, tuned
from keeper.desk.lending import LendingDesk, Params, Sitting
from keeper.desk.port import Alarm, Judgement, Tried
from keeper.domain import (
    Agree,
    Call,
    ChainTime,
    Posture,
    Quote,
    Reason,
    Record,
    Refuse,
    Seen,
    Unknown,
    Wait,
    Witnessed,
    Witnesses,
)
from keeper.errors import ChainFault, ConfigError
from keeper.lending.feeds import QUOTE
from keeper.lending.routes import Hop, Pool, Route
from keeper.lending.words import Lender, Repay
from keeper.plan import lending as plan
from keeper.plan.common import Policy
from keeper.plan.economics import Prudence
from keeper.plan.pace import Pace
from keeper.risk.liquidity import Depth
from keeper.units import WAD, AccountKey, FeedId, Wad
from tests.unit.toy_lending import AT, COLLATERAL, DEBT, FEED, ONE, OWNER, VENUE, Loan, market

WALLET = "0x" + "aa" * 20
ROUTE: Route = (Hop(Pool("0x" + "90" * 20, COLLATERAL, DEBT, 3_000), COLLATERAL),)
FLASH = plan.Params(flash=plan.FlashParams("0x" + "f1" * 20, Lender.MORPHO))
RICH = plan.Purse({DEBT: 10**30}, {(DEBT, VENUE): 10**30})
BREACHED = Loan(1_000 * ONE, 810 * ONE)
ASKED = Call(VENUE, b"")
ALARM = Alarm("case", False, AT)


@dataclass
class Book:
    """A book of some loans."""

    loans: Mapping[AccountKey, Loan] = field(default_factory=lambda: {OWNER: BREACHED})

    def exact(self, key: AccountKey) -> Loan | Unknown:
        return self.loans.get(key) or Unknown("account", "not read")

    def rows(self, keys: Sequence[AccountKey]) -> Rows:
        return np.full(len(keys), -1)


class Roads:
    def routes(self, sell: str, buy: str) -> Sequence[Route]:
        assert (sell, buy) == (COLLATERAL, DEBT)
        return (ROUTE,)

    def lender(self, token: str, route: Route) -> Pool | None:
        raise NotImplementedError


def desk(params: plan.Params | None = None) -> LendingDesk:
    return LendingDesk(WALLET, Params("ETH/USD", plan=params or plan.Params()), Roads())


def sitting(
    fast: Wad | None = WAD, chain: Wad = WAD, book: Any = None, *, funds: plan.Purse = RICH, **changes: Any
) -> Sitting:
    quotes: dict[FeedId, Quote | Unknown] = {"ETH/USD": Quote("ETH/USD", fast or 0, 0)}
    if fast is None:
        quotes = {FEED: Unknown(FEED, "silent"), "GAS/USD": Quote("GAS/USD", WAD, 0)}
    toy: Any = market(**changes)
    read: Any = book or Book()
    at_desk = replace(desk(), params=Params("ETH/USD" if fast is not None else "GAS/USD"))
    return at_desk.sit(
        toy,
        read,
        chain,
        funds,
        quotes=quotes,
        gas_price_wei=10**9,
        at=AT,
        posture=Posture(),
        witnesses={},
        record=Record(),
    )


def judge(at: Sitting, params: plan.Params | None = None, *, suspected: bool = True) -> Any:
    return desk(params).judge(at, OWNER, Alarm("case", suspected, AT))


def judged(at: Sitting, params: plan.Params | None = None) -> Judgement[Sitting]:
    found = judge(at, params)
    assert isinstance(found, Judgement)
    return found


def steps(found: Judgement[Any]) -> tuple[Any, ...]:
    assert isinstance(found.decision, tuple)
    return found.decision


# --- judgements ----------------------------------------------------------------------------------


def test_an_account_that_both_clocks_see_in_breach_is_closed_with_the_evidence() -> None:
    found = judged(sitting())
    assert (found.phase, found.cared) == ("breached", True)
    assert found.health == pytest.approx(0.987654, abs=1e-6)
    assert isinstance(found.agreed, Agree)
    assert isinstance(steps(found)[0].act, Repay)


def test_an_account_below_its_limit_at_the_fast_price_only_has_a_case_and_waits() -> None:
    found = judged(sitting(fast=99 * WAD // 100, chain=102 * WAD // 100))
    assert (found.phase, found.cared, found.agreed) == ("warned", True, None)
    assert isinstance(found.decision, Wait)
    assert found.decision.reason.rule == "confirm.oracle_lags"


def test_a_price_that_nobody_else_speaks_of_counts_by_the_operator_s_own_word_alone() -> None:
    at, own = sitting(untold=("token 0xdd",)), Policies(tuned(BALANCED, trust_chain_after_s=24))
    held = judged(at)
    assert isinstance(held.decision, Wait)
    assert (held.cared, held.agreed, held.decision.reason.rule) == (True, None, "confirm.unsupported")
    assert held.decision.reason.evidence.endswith("nobody else speaks of token 0xdd")
    trusting = replace(desk(), params=replace(desk().params, confirm=own))
    shown = [ChainTime(AT.block - deep, AT.timestamp_s - 12 * deep) for deep in (2, 3)]
    young, stood = (trusting.judge(at, OWNER, replace(ALARM, shown=each)) for each in shown)
    assert isinstance(young, Judgement)
    assert isinstance(young.decision, Wait)
    assert isinstance(stood, Judgement)
    assert isinstance(stood.agreed, Agree)
    assert stood.agreed.evidence.endswith("without a fast price of token 0xdd")


def test_what_is_worth_one_of_quote_is_so_to_the_fast_clock_and_is_no_market() -> None:
    assert sitting().quotes[QUOTE] == Quote(QUOTE, WAD, AT.timestamp_s)
    assert judged(sitting()).markets == (FEED,)
    assert judged(sitting(feed=QUOTE)).markets == ()


def test_what_the_protocol_refuses_now_is_waited_for_in_its_own_words() -> None:
    paused = Reason("protocol.ReservePaused", "paused", "open")
    found = judged(sitting(refusing=paused))
    assert (found.cared, found.decision, found.agreed) == (True, Wait(AT.block + 1, paused), None)


def test_a_suspicion_that_neither_clock_bears_out_opens_no_case() -> None:
    found = judged(sitting(fast=102 * WAD // 100, chain=102 * WAD // 100))
    assert (found.phase, found.cared, found.decision) == ("healthy", False, None)


def test_an_account_without_debt_is_healthy_without_a_number() -> None:
    found = judged(sitting(book=Book({OWNER: Loan(ONE, 0)})))
    assert (found.health, found.cared) == (None, False)


def test_what_is_unknown_is_told_and_not_judged() -> None:
    assert judge(sitting(book=Book({}))) == Unknown("account", "not read")


def test_the_state_changes_with_the_account() -> None:
    [first, second] = (judged(sitting(book=Book({OWNER: Loan(1_000 * ONE, debt)}))) for debt in (810, 811))
    assert first.state != second.state


def test_what_one_step_takes_of_the_wallet_the_next_one_of_the_block_does_not_find() -> None:
    purse = plan.Purse({DEBT: 900 * ONE}, {(DEBT, VENUE): 10**30})
    first = judged(sitting(funds=purse))
    assert first.left.means.purse.balances == {DEBT: 90 * ONE}
    [second] = steps(judged(first.left))
    assert second.act.takes == 90 * ONE
    refused = judged(sitting(funds=plan.Purse({}, {})))
    assert refused.left.means.purse.balances == {}


def test_a_loan_that_was_just_restored_rests_unless_it_is_worse_than_before() -> None:
    edge = Loan(1_000 * ONE, 805 * ONE)
    at = sitting(book=Book({OWNER: edge}))
    health_wad = edge.collateral * 8 * WAD // (10 * edge.debt)

    def rule_after(ago_s: int, was_wad: Wad) -> str | None:
        closed = Seen(AT.timestamp_s - ago_s, was_wad)
        found = desk().judge(at, OWNER, replace(ALARM, closed=closed))
        assert isinstance(found, Judgement)
        return found.decision.reason.rule if isinstance(found.decision, Wait) else None

    assert rule_after(12, health_wad) == "size.rest"
    assert rule_after(12, health_wad + 2 * WAD // 100) is None
    assert rule_after(60, health_wad) is None


def test_the_pace_of_a_loan_is_its_own_times_that_of_the_whole_keeper() -> None:
    def asked(posture: Posture, share_wad: Wad = WAD) -> int:
        params = plan.Params(prudence=Prudence(pace=Pace(share_wad=share_wad)))
        found = judged(replace(sitting(), posture=posture), params)
        assert isinstance(found.decision, tuple)
        return max(step.act.asked for step in found.decision if isinstance(step.act, Repay))

    half = Posture(pace_wad=WAD // 2)
    assert asked(half, WAD // 2) == pytest.approx(asked(Posture(), WAD // 4), abs=1)
    assert asked(half) == pytest.approx(2 * asked(half, WAD // 2), abs=2)


def test_what_one_closing_takes_is_no_longer_there_for_the_next() -> None:
    first = judged(sitting())
    assert isinstance(first.decision, tuple)
    most_wad = max(wad for step in first.decision for _, wad in step.takes)
    left = first.left.means
    assert left.record.moved_wad == {COLLATERAL: most_wad}
    assert left.coming_wad == {COLLATERAL: most_wad}
    later = desk().carry(first.left, sitting())
    assert later.means.record == left.record
    assert later.means.coming_wad == left.coming_wad


def test_a_depth_must_be_of_something_that_can_be_seized() -> None:
    params = plan.Params(prudence=Prudence(depth={"0xdead": Depth(10.0, volume_day=1.0)}))
    with pytest.raises(ConfigError, match="depth: 0xdead is nothing that the deployment lists"):
        desk(params).expect(market(), {"ETH/USD"})


# --- the frame -----------------------------------------------------------------------------------


def test_suspects_come_first_and_open_cases_after() -> None:
    other: AccountKey = b"\x1f" * 32
    at, nobody = sitting(), np.zeros(0)
    legs = Legs(nobody.astype(np.uint32), nobody.astype(np.uint8), nobody.astype(np.uint16), nobody, 1)
    snapshot = Snapshot(key_array([]), nobody.astype(np.uint8), {}, nobody, legs)
    assert desk().under_care(at, snapshot, {OWNER: "E"}, {other: AT, OWNER: AT}) == [OWNER, other]


def test_without_a_price_of_gas_nothing_is_decided() -> None:
    toy: Any = market()
    for quotes in ({}, {"ETH/USD": Unknown("ETH/USD", "too old")}):
        with pytest.raises(ChainFault, match="ETH/USD has no price"):
            desk().sit(
                toy,
                Book(),  # type: ignore[arg-type]
                WAD,
                RICH,
                quotes=quotes,
                gas_price_wei=1,
                at=AT,
                posture=Posture(),
                witnesses={},
                record=Record(),
            )


def test_gas_must_be_valued_by_a_feed_that_is_served_and_no_other_need_be() -> None:
    toy: Any = market()
    desk().expect(toy, {"ETH/USD"})
    with pytest.raises(ConfigError, match="no entry for ETH/USD, which values gas"):
        desk().expect(toy, {"BTC/USD"})


def test_what_is_converted_into_must_be_a_token_of_the_deployment() -> None:
    toy: Any = market()
    desk(plan.Params(convert=plan.ConvertParams(VENUE, DEBT))).expect(toy, {"ETH/USD"})
    with pytest.raises(ConfigError, match=f"closing.into {VENUE} is no token"):
        desk(plan.Params(convert=plan.ConvertParams(VENUE, VENUE))).expect(toy, {"ETH/USD"})


def test_a_wallet_that_pays_itself_is_told_that_it_has_nothing() -> None:
    book: Any = Book()
    assert desk().lacking(book, plan.Purse({DEBT: 0}, {})) == ["tokens to repay debts with"]
    assert desk().lacking(book, RICH) == []
    assert desk(FLASH).lacking(book, plan.Purse({}, {})) == []


# --- what was simulated --------------------------------------------------------------------------


def tried(found: Judgement[Sitting], *results: bytes | Refuse) -> list[Tried]:
    return [Tried(step, ASKED, each) for step, each in zip(steps(found), results, strict=False)]


def test_the_smallest_closing_that_paid_in_its_simulation_is_picked() -> None:
    found = judged(sitting(), FLASH)
    reverted = Refuse(Reason("simulation.reverted", "Unprofitable", "success"))
    simulated = tried(found, reverted, (50 * ONE).to_bytes(32), (90 * ONE).to_bytes(32))
    picked = desk(FLASH).pick(found.left, simulated)
    assert picked.step.act is simulated[1].step.act
    assert picked.step.expected_profit_wad == 50 * WAD - (300_000 + 180_000 + 110_000) * 10**9
    best = replace(FLASH, policy=Policy.MAX)
    assert desk(best).pick(found.left, simulated).step.act is simulated[2].step.act


def test_where_none_went_through_the_first_tells_why() -> None:
    found = judged(sitting(), FLASH)
    reverted = Refuse(Reason("simulation.reverted", "Unprofitable", "success"))
    assert desk(FLASH).pick(found.left, tried(found, reverted, reverted)).result is reverted


def test_what_went_through_and_does_not_pay_is_refused() -> None:
    found = judged(sitting(), FLASH)
    picked = desk(FLASH).pick(found.left, tried(found, (0).to_bytes(32)))
    assert isinstance(picked.result, Refuse)
    assert picked.result.reason.rule == "close.unprofitable"


def test_what_the_wallet_pays_for_is_known_before() -> None:
    found = judged(sitting())
    picked = desk().pick(found.left, tried(found, b""))
    assert picked.step is steps(found)[0]


def test_a_later_sitting_has_the_purse_that_an_earlier_one_left() -> None:
    left = judged(sitting(funds=plan.Purse({DEBT: 900 * ONE}, {(DEBT, VENUE): 10**30}))).left
    later = desk().carry(left, sitting(fast=99 * WAD // 100))
    assert later.means.purse.balances == {DEBT: 90 * ONE}
    assert later.fast == 99 * WAD // 100


# --- ready ---------------------------------------------------------------------------------------


def test_an_account_that_waits_for_the_fast_price_has_its_closings_ready() -> None:
    waiting = sitting(fast=102 * WAD // 100, answered_at_s=AT.timestamp_s)
    found = judged(waiting, FLASH)
    assert isinstance(found.decision, Wait)
    assert found.decision.reason.rule == "confirm.fast_disagrees"
    ready: Any = desk(FLASH).ready(waiting, OWNER, ALARM)
    agreed = steps(judged(sitting(answered_at_s=AT.timestamp_s), FLASH))
    assert [each.act for each in agreed] == [
        replace(each.act, flash=due.act.flash) for each, due in zip(ready, agreed, strict=True)
    ]


@pytest.mark.parametrize(
    "at",
    [
        sitting(fast=99 * WAD // 100, chain=102 * WAD // 100),
        sitting(fast=102 * WAD // 100, chain=102 * WAD // 100),
        sitting(fast=2 * WAD),
        sitting(book=Book({})),
        sitting(funds=plan.Purse({}, {})),
    ],
    ids=["the oracle lags", "healthy", "divergent", "not read", "no tokens"],
)
def test_what_more_than_the_fast_price_stands_against_is_not_ready(at: Sitting) -> None:
    assert desk().ready(at, OWNER, ALARM) == ()


def test_the_wallets_own_account_is_never_ready() -> None:
    own = desk().account
    assert desk().is_own(own)
    assert desk().ready(sitting(book=Book({own: BREACHED})), own, ALARM) == ()


def test_a_simulation_vouches_for_the_same_closing_with_a_least_profit_that_was_left() -> None:
    waiting = sitting(fast=102 * WAD // 100, answered_at_s=AT.timestamp_s)
    ready = desk(FLASH).ready(waiting, OWNER, ALARM)[0]
    due = steps(judged(sitting(answered_at_s=AT.timestamp_s), FLASH))[0]
    assert isinstance(due.act, Repay)
    assert due.act.flash is not None
    least = due.act.flash.min_profit
    other = replace(due, act=replace(due.act, asked=due.act.asked + 1))
    for profit, step, vouches in ((least, due, True), (least - 1, due, False), (least, other, False)):
        tried_ = Tried(ready, ASKED, profit.to_bytes(32))
        assert desk(FLASH).vouches(tried_, step) == vouches
    reverted = Tried(ready, ASKED, Refuse(Reason("simulation.reverted", "Unprofitable", "success")))
    assert not desk(FLASH).vouches(reverted, due)
    assert not desk(FLASH).vouches(Tried(ready, ASKED, least.to_bytes(32)), replace(due, gas_limit=1))


def test_what_the_wallet_pays_for_is_vouched_for_by_the_same_act_only() -> None:
    due = steps(judged(sitting()))[0]
    assert desk().vouches(Tried(due, ASKED, b""), due)
    assert not desk().vouches(Tried(due, ASKED, b""), replace(due, act=replace(due.act, takes=1)))


# --- policies ------------------------------------------------------------------------------------

SINCE = ChainTime(AT.block - 300, AT.timestamp_s - 3_601)


def judged_by(at: Sitting, policies: Policies = Policies(), **alarm: Any) -> Judgement[Sitting]:  # noqa: B008
    asked = replace(desk(), params=Params("ETH/USD", policies))
    found = asked.judge(at, OWNER, Alarm("case", True, **{"since": AT, **alarm}))
    assert isinstance(found, Judgement)
    return found


def rule_of(found: Judgement[Any]) -> str:
    assert isinstance(found.decision, Wait | Refuse), found.decision
    return found.decision.reason.rule


def says(price: Wad) -> Witnesses:
    return {FEED: (Witnessed("pool", price, AT.timestamp_s, 0, 0),)}


def test_a_witness_that_sees_no_breach_holds_back_what_the_oracle_prints() -> None:
    seen = replace(sitting(), witnesses=says(102 * WAD // 100))
    assert rule_of(judged_by(seen)) == "confirm.witnesses"
    found = judged_by(replace(seen, witnesses=says(99 * WAD // 100)))
    assert isinstance(found.agreed, Agree)
    assert found.agreed.evidence.endswith("; ETH/USD by own, pool")
    assert found.agreed.policy == "balanced"


def test_a_feed_that_is_slowed_is_confirmed_more_cautiously() -> None:
    young = sitting(answered_at_s=AT.timestamp_s - 12)
    assert isinstance(judged_by(young).agreed, Agree)
    for posture in (Posture(slowed=frozenset({FEED})), Posture(caution=1)):
        assert rule_of(judged_by(replace(young, posture=posture))) == "confirm.min_blocks"
    elsewhere = replace(young, posture=Posture(slowed=frozenset({"BTC/USD"})))
    assert isinstance(judged_by(elsewhere).agreed, Agree)


def test_a_market_of_its_own_can_be_slowed_too() -> None:
    at = replace(sitting(name="0xmarket"), posture=Posture(slowed=frozenset({"0xmarket"})))
    found = judged_by(at)
    assert found.markets == (FEED, "0xmarket")
    assert rule_of(found) == "confirm.min_blocks"


def test_an_alarm_without_agreement_ends_in_time_and_one_that_had_one_goes_on() -> None:
    lagging = sitting(fast=99 * WAD // 100, chain=102 * WAD // 100)
    ended = judged_by(lagging, since=SINCE)
    assert (ended.cared, rule_of(ended)) == (False, "confirm.timed_out")
    for alarm in (
        {"since": SINCE, "agreed": True},
        {"since": replace(SINCE, timestamp_s=AT.timestamp_s - 3_600)},
    ):
        going = judged_by(lagging, **alarm)
        assert (going.cared, rule_of(going)) == (True, "confirm.oracle_lags")


def test_what_the_protocol_refuses_for_long_is_no_false_alarm() -> None:
    paused = Reason("protocol.ReservePaused", "paused", "open")
    found = judged_by(sitting(refusing=paused), since=SINCE)
    assert (found.cared, rule_of(found)) == (True, "protocol.ReservePaused")


def test_what_nobody_can_be_asked_about_is_no_false_alarm_while_the_chain_shows_it() -> None:
    held = judged_by(sitting(untold=("token 0xdd",)), since=SINCE)
    assert (held.cared, rule_of(held)) == (True, "confirm.unsupported")
    lagging = sitting(fast=99 * WAD // 100, chain=102 * WAD // 100, untold=("token 0xdd",))
    given_up = judged_by(lagging, since=SINCE)
    assert (given_up.cared, rule_of(given_up)) == (False, "confirm.timed_out")


def test_nothing_is_taken_that_hangs_on_a_feed_whose_breaker_tripped() -> None:
    found = judged_by(replace(sitting(), posture=Posture(tripped=frozenset({FEED}))))
    assert (found.cared, found.agreed, rule_of(found)) == (True, None, "oracle.tripped")
