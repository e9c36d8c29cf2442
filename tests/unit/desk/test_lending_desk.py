"""What is decided about loans at one head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from keeper.desk.lending import LendingDesk, Params, Sitting
from keeper.desk.port import Judgement, Tried
from keeper.domain import Agree, Call, Quote, Reason, Refuse, Unknown, Wait
from keeper.errors import ChainFault, ConfigError
from keeper.lending.routes import Hop, Pool, Route
from keeper.lending.words import Lender, Repay
from keeper.plan import lending as plan
from keeper.plan.common import Policy
from keeper.units import WAD, AccountKey, FeedId, Wad
from tests.unit.toy_lending import AT, COLLATERAL, DEBT, FEED, ONE, OWNER, VENUE, Loan, market

WALLET = "0x" + "aa" * 20
ROUTE: Route = (Hop(Pool("0x" + "90" * 20, COLLATERAL, DEBT, 3_000), COLLATERAL),)
FLASH = plan.Params(flash=plan.FlashParams("0x" + "f1" * 20, Lender.MORPHO))
RICH = plan.Purse({DEBT: 10**30}, {(DEBT, VENUE): 10**30})
BREACHED = Loan(1_000 * ONE, 810 * ONE)
ASKED = Call(VENUE, b"")


@dataclass
class Book:
    """A book of some loans."""

    loans: Mapping[AccountKey, Loan] = field(default_factory=lambda: {OWNER: BREACHED})

    def exact(self, key: AccountKey) -> Loan | Unknown:
        return self.loans.get(key) or Unknown("account", "not read")


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
    return at_desk.sit(toy, read, chain, funds, quotes=quotes, gas_price_wei=10**9, at=AT)


def judge(at: Sitting, params: plan.Params | None = None, suspicion: str | None = "E 1, M 2") -> Any:
    return desk(params).judge(at, OWNER, "case", suspicion)


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


# --- the frame -----------------------------------------------------------------------------------


def test_suspects_come_first_and_open_cases_after() -> None:
    other: AccountKey = b"\x01" * 32
    at_desk: Any = desk()
    assert at_desk.under_care(None, None, {OWNER: "E"}, [other, OWNER]) == [OWNER, other]


def test_without_a_price_of_gas_nothing_is_decided() -> None:
    toy: Any = market()
    for quotes in ({}, {"ETH/USD": Unknown("ETH/USD", "too old")}):
        with pytest.raises(ChainFault, match="ETH/USD has no price"):
            desk().sit(toy, Book(), WAD, RICH, quotes=quotes, gas_price_wei=1, at=AT)  # type: ignore[arg-type]


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
    ready: Any = desk(FLASH).ready(waiting, OWNER)
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
    assert desk().ready(at, OWNER) == ()


def test_the_wallets_own_account_is_never_ready() -> None:
    own = desk().account
    assert desk().is_own(own)
    assert desk().ready(sitting(book=Book({own: BREACHED})), own) == ()


def test_a_simulation_vouches_for_the_same_closing_with_a_least_profit_that_was_left() -> None:
    waiting = sitting(fast=102 * WAD // 100, answered_at_s=AT.timestamp_s)
    ready = desk(FLASH).ready(waiting, OWNER)[0]
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
