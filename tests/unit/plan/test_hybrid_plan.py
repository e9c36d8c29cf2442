"""Which act, how much of it, and whether it is worth its gas: every decision, rule by rule."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keeper.confirm.hybrid import confirm_slice
from keeper.domain import (
    Account,
    Act,
    Agree,
    Assessment,
    BucketView,
    BuyCollateral,
    ChainTime,
    Clear,
    Confirm,
    Cure,
    Expire,
    Flag,
    FlagState,
    Globals,
    Holding,
    Leg,
    Liquidate,
    OracleView,
    Phase,
    Poke,
    Refuse,
    Settle,
    Step,
    Valuation,
    Wait,
    WriteOff,
)
from keeper.plan.common import GAS_RESERVE, Decision, Gas
from keeper.plan.hybrid import (
    BISECTIONS,
    Means,
    Params,
    Slice,
    plan_alarm,
    plan_clock,
    plan_confirm,
    plan_purchase,
    plan_settlement,
    plan_slice,
    plan_upkeep,
)
from keeper.ports import SlicePreview
from keeper.protocols.hybrid import liquidator, math
from keeper.protocols.hybrid.clearing import worst_initial
from keeper.protocols.hybrid.market import HybridMarket
from keeper.units import WAD, Wad
from tests.unit.protocols.hybrid.books import (
    AT,
    CAP,
    PERPS,
    SLOPE,
    confirmed,
    deployment,
    feed_view,
    oracles,
    seen,
    setting,
    taker,
    worked_example,
)

GWEI = 10**9
BREACHED = Valuation(900 * WAD, 1000 * WAD, 20_000 * WAD)
HEALTHY = Valuation(1200 * WAD, 1000 * WAD, 20_000 * WAD)
AGREED = Agree("both clocks")
PARAMS = Params()
MARKET = HybridMarket(deployment())
SNAPSHOT = Path(__file__).parents[3] / "contracts" / "snapshots" / "episode.json"
MEASURED = {act: int(gas) for act, gas in json.loads(SNAPSHOT.read_text()).items()}
"""What whole transactions cost, by the act and the account's instruments."""


def suspected(phase: Phase = Phase.HEALTHY, **changes: object) -> Assessment:
    """An account in breach at all three prices, judged for block 100."""
    case = Assessment(
        account=Account(bytes(32), phase, 0, (Leg(1, 100 * WAD, -21_000 * WAD),), ()),
        at=AT,
        fast=BREACHED,
        slow=BREACHED,
        execution=BREACHED,
        feeds=("BTC/USD",),
        fresh=True,
        flag_level_wad=WAD,
        tau_s=0,
        since_confirmation_s=0,
        q_wad=WAD,
        fee_wad=WAD // 200,
        closeable_wad=WAD // 9,
        step_room_wad=WAD // 5,
        fast_fresh=True,
        bond_wad=50 * WAD,
        reward_wad=22 * WAD,
    )
    return replace(case, **changes)  # type: ignore[arg-type]


def indebted(phase: Phase = Phase.HEALTHY, *holdings: Holding, **changes: object) -> Assessment:
    """An account that holds no position any more, and owes 40."""
    account = Account(bytes(32), phase, -40 * WAD, (), holdings)
    return replace(suspected(), account=account, **changes)  # type: ignore[arg-type]


def means(**changes: object) -> Means:
    """Gas at 5 gwei and 2,000 a coin: 100,000 gas cost 1."""
    has = Means(
        taker=taker(),
        credit_wad=1_000 * WAD,
        gas_price_wei=5 * GWEI,
        native_price_wad=2_000 * WAD,
    )
    return replace(has, **changes)  # type: ignore[arg-type]


def cost_wad(*acts: Gas) -> Wad:
    """What acts on an account with one leg cost at these means."""
    return sum(gas.typical(1) for gas in acts) * WAD // 100_000


def on_chain(case: Assessment, held: str) -> Assessment:
    """The same case, with as many legs and collaterals as a measured account had."""
    legs = sum(int(count) for count in re.findall(r"(\d+) (?:perp|option)", held))
    holdings = (Holding(1, WAD),) if "collateral" in held else ()
    book = tuple(Leg(market, WAD, 0) for market in range(1, legs + 1))
    cash_wad = -WAD if "sale" in held else 0
    return replace(case, account=replace(case.account, cash_wad=cash_wad, legs=book, holdings=holdings))


def rule_of(decision: Decision | Slice) -> str:
    assert isinstance(decision, Wait | Refuse), decision
    return decision.reason.rule


# --- the alarm -----------------------------------------------------------------------------------


def alarm(case: Assessment, has: Means | None = None, params: Params = PARAMS) -> Decision:
    return plan_alarm("case", case, has or means(), params)


def test_gas_costs_what_it_says_in_quote_rounded_up() -> None:
    assert means().gas_cost_wad(100_000) == WAD
    assert means(gas_price_wei=1, native_price_wad=1).gas_cost_wad(1) == 1


def test_an_alarm_worth_its_episode_is_a_flag_with_its_bond() -> None:
    step = alarm(suspected())
    assert isinstance(step, Step)
    assert step.act == Flag(bytes(32), 50 * WAD)
    assert step.gas_limit == 2 * (230_000 + 60_000) + GAS_RESERVE
    # The fee of a first slice of 1/9 of 20,000, four fifths of it the taker's, and the reward of 22.
    fee = (WAD // 9) * 20_000 // 200 * 8 // 10
    gas = cost_wad(PARAMS.gas_flag, PARAMS.gas_confirm, PARAMS.gas_slice)
    assert step.expected_profit_wad == pytest.approx(22 * WAD + fee - gas, abs=2)
    assert step.valid_until_block == 102


@pytest.mark.parametrize(
    ("earliest", "until_block"),
    [
        (ChainTime(AT.block, AT.timestamp_s + 1), AT.block + 1),
        (ChainTime(AT.block, AT.timestamp_s + 12), AT.block + 1),
        (ChainTime(AT.block, AT.timestamp_s + 13), AT.block + 2),
        (ChainTime(AT.block + 1, AT.timestamp_s), AT.block + 1),
        (ChainTime(AT.block + 3, AT.timestamp_s + 13), AT.block + 3),
    ],
)
def test_the_owners_cool_off_waits_for_the_block_in_which_it_ends(
    earliest: ChainTime, until_block: int
) -> None:
    decision = alarm(suspected(earliest_alarm=earliest))
    assert isinstance(decision, Wait)
    assert (decision.reason.rule, decision.until_block) == ("alarm.cool_off", until_block)
    assert isinstance(alarm(suspected(earliest_alarm=AT)), Step)


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        (suspected(fast_fresh=False), "oracle.stale"),
        (suspected(fast=HEALTHY), "alarm.not_on_chain"),
        (suspected(arrays_silent=True), "array.silent"),
        (suspected(breaker_level=2), "breaker.level"),
    ],
)
def test_an_alarm_that_the_chain_does_not_show_yet_waits_for_the_next_block(
    case: Assessment, rule: str
) -> None:
    decision = alarm(case)
    assert isinstance(decision, Wait)
    assert (decision.reason.rule, decision.until_block) == (rule, AT.block + 1)


def test_the_slow_oracle_alone_raises_an_alarm_and_the_first_breaker_level_lets_it() -> None:
    assert isinstance(alarm(suspected(fast_fresh=False, slow_only=True)), Step)
    assert isinstance(alarm(suspected(breaker_level=1)), Step)


def test_an_alarm_on_an_account_without_equity_counts_on_what_the_insurance_offers() -> None:
    broke = suspected(fee_wad=0, reward_wad=0)
    assert rule_of(alarm(broke)) == "alarm.unprofitable"
    assert isinstance(alarm(replace(broke, incentive_wad=100 * WAD)), Step)


def test_an_alarm_below_a_flag_level_above_one_is_raised() -> None:
    barely = replace(HEALTHY, equity_wad=1_040 * WAD)
    assert rule_of(alarm(suspected(fast=barely))) == "alarm.not_on_chain"
    assert isinstance(alarm(suspected(fast=barely, flag_level_wad=105 * WAD // 100)), Step)


def test_an_alarm_needs_the_credit_for_its_bond() -> None:
    decision = alarm(suspected(), means(credit_wad=50 * WAD - 1))
    assert isinstance(decision, Refuse)
    assert decision.reason.rule == "alarm.no_credit"
    assert (decision.reason.evidence, decision.reason.bound) == ("credit 50.00", "bond 50.00")
    assert isinstance(alarm(suspected(), means(credit_wad=50 * WAD)), Step)


def test_an_alarm_that_does_not_pay_is_refused_with_what_it_would_bring() -> None:
    decision = alarm(suspected(), means(gas_price_wei=1_000 * GWEI))
    assert isinstance(decision, Refuse)
    assert decision.reason.rule == "alarm.unprofitable"
    assert decision.reason.evidence.startswith("expected -")
    assert decision.reason.bound == ">= 0.0000"
    worth = alarm(suspected())
    assert isinstance(worth, Step)
    dear = Params(min_profit_wad=worth.expected_profit_wad + 1)
    assert rule_of(alarm(suspected(), params=dear)) == "alarm.unprofitable"
    assert isinstance(
        alarm(suspected(), params=replace(dear, min_profit_wad=worth.expected_profit_wad)), Step
    )


def test_every_leg_and_every_collateral_costs_gas_whatever_their_feeds() -> None:
    case = on_chain(suspected(reward_wad=50 * WAD), "1 perp and 3 options, and collateral")
    step = alarm(case)
    assert isinstance(step, Step)
    assert step.gas_limit == 2 * (230_000 + 5 * 60_000) + GAS_RESERVE


# --- the confirmation ----------------------------------------------------------------------------


def test_a_confirmation_is_due_even_where_its_reward_does_not_pay_for_it() -> None:
    case = suspected(Phase.FLAGGED, reward_wad=0)
    step = plan_confirm("case", case, AGREED, means(), PARAMS)
    assert isinstance(step, Step)
    assert step.act == Confirm(bytes(32))
    assert step.gas_limit == 2 * (175_000 + 65_000) + GAS_RESERVE
    assert step.expected_profit_wad == -cost_wad(PARAMS.gas_confirm)


# --- the slice -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bearing(HybridMarket):
    """A market whose taker bears slices up to some part of the book, and where the slope allows others."""

    bears_wad: Wad
    allows_wad: Wad = WAD
    fee_wad: Wad = 100 * WAD
    mark_wad: Wad = 0

    def preview(
        self, target: Assessment, taker: Account, oracles: OracleView, max_fraction_wad: Wad
    ) -> SlicePreview | Refuse:
        del target
        fraction = min(max_fraction_wad, self.allows_wad)
        return SlicePreview(
            fraction_wad=fraction,
            notional_wad=fraction * 20_000,
            taker_fee_wad=self.fee_wad,
            taker_mark_wad=self.mark_wad,
            taker_after=taker,
            taker_passes=fraction <= self.bears_wad,
            oracles_after=oracles,
        )


def plan(
    case: Assessment,
    market: HybridMarket = MARKET,
    views: OracleView | None = None,
    has: Means | None = None,
    params: Params = PARAMS,
) -> Slice | Decision:
    return plan_slice(
        "case",
        case,
        AGREED,
        market=market,
        oracles=oracles() if views is None else views,
        means=has or means(),
        params=params,
    )


def assessed(account: Account, views: OracleView | None = None, market: HybridMarket = MARKET) -> Assessment:
    found = market.assess(account, oracles() if views is None else views, AT)
    assert isinstance(found, Assessment), found
    return found


def planned(decision: Slice | Decision) -> tuple[Step, Liquidate, SlicePreview]:
    assert isinstance(decision, Slice), decision
    assert isinstance(decision.step.act, Liquidate)
    return decision.step, decision.step.act, decision.preview


def test_a_slice_says_how_much_for_how_much_and_until_when() -> None:
    step, act, preview = planned(plan(assessed(worked_example())))
    assert preview.fraction_wad == 100 * WAD // 900
    gas_cost = cost_wad(PARAMS.gas_slice, Gas(PARAMS.gas_per_valued, 0))
    assert act == Liquidate(
        account=worked_example().key,
        taker=taker().key,
        tranche_nonce=3,
        deadline_s=AT.timestamp_s + 3 * 12,
        min_fraction_wad=0,
        max_fraction_wad=WAD,
        min_fee_wad=gas_cost // 2,
    )
    assert step.expected_profit_wad == preview.taker_fee_wad - gas_cost
    assert step.notional_wad == preview.notional_wad
    assert step.gas_limit == 2 * (290_000 + 185_000 + 40_000) + GAS_RESERVE
    assert step.valid_until_block == AT.block + 2
    longer = Params(validity_blocks=5, block_time_s=2)
    step, act, _ = planned(plan(assessed(worked_example()), params=longer))
    assert (act.deadline_s, step.valid_until_block) == (AT.timestamp_s + 10, AT.block + 4)


def test_a_window_that_is_used_up_waits() -> None:
    spent = replace(worked_example().flag, step_start_s=AT.timestamp_s - 10, step_used_wad=WAD // 5)
    case = assessed(replace(worked_example(), flag=spent))
    assert case.step_room_wad == 0
    decision = plan(case)
    assert isinstance(decision, Wait)
    assert (decision.reason.rule, decision.until_block) == ("slope.step_cap", AT.block + 1)
    assert decision.reason.evidence.startswith("0.2000 of the book")


def test_a_bucket_without_room_waits_and_says_whose() -> None:
    full = replace(oracles(), buckets=dict.fromkeys(oracles(), BucketView(9 * WAD, AT.timestamp_s, 9 * WAD)))
    case = assessed(worked_example(), full)
    assert case.bucket_room_wad == 0
    decision = plan(case, views=full)
    assert isinstance(decision, Wait)
    assert (decision.reason.rule, decision.until_block) == ("bucket.empty", AT.block + 1)
    assert "BTC/USD" in decision.reason.evidence


def test_a_slice_is_bounded_by_the_room_that_the_bucket_has() -> None:
    some = replace(oracles(), buckets=dict.fromkeys(oracles(), BucketView(0, 0, 2_000 * WAD)))
    case = assessed(worked_example(), some)
    assert (case.bucket_room_wad, case.bucket_feed) == (WAD // 10, "BTC/USD")
    _, _, preview = planned(plan(case, views=some))
    assert preview.fraction_wad == WAD // 10


def test_a_second_slice_of_a_block_finds_the_bucket_that_the_first_has_filled() -> None:
    some = replace(oracles(), buckets=dict.fromkeys(oracles(), BucketView(0, 0, 2_000 * WAD)))
    case = assessed(worked_example(), some)
    _, _, first = planned(plan(case, views=some))
    decision = plan(case, views=first.oracles_after)
    assert isinstance(decision, Wait)
    assert decision.reason.rule == "bucket.empty"


@pytest.mark.parametrize("phase", [Phase.FLAGGED, Phase.CONFIRMED, Phase.CLOSED])
def test_a_keeper_that_is_not_healthy_itself_takes_nothing(phase: Phase) -> None:
    decision = plan(assessed(worked_example()), has=means(taker=replace(taker(), phase=phase)))
    assert isinstance(decision, Refuse)
    assert decision.reason.rule == "taker.not_healthy"
    assert phase in decision.reason.evidence


@given(st.integers(WAD // 1_000, WAD - 1), st.integers(WAD // 100, WAD))
def test_what_the_takers_margin_bears_is_found_and_nine_tenths_of_it_asked_for(
    bears_wad: Wad, allows_wad: Wad
) -> None:
    assume(bears_wad < allows_wad)
    market = Bearing(bears_wad=bears_wad, allows_wad=allows_wad)
    decision = plan(suspected(Phase.CONFIRMED), market)
    found_wad = bears_wad - allows_wad // 2**BISECTIONS - 1
    if found_wad <= 0 and isinstance(decision, Wait):
        assert decision.reason.rule == "taker.no_margin"
        return
    _, act, preview = planned(decision)
    assert preview.taker_passes
    assert preview.fraction_wad == act.max_fraction_wad
    assert found_wad * 9 // 10 <= act.max_fraction_wad <= bears_wad * 9 // 10


def test_a_slice_that_the_takers_margin_bears_whole_may_grow_until_it_is_included() -> None:
    _, act, preview = planned(plan(suspected(Phase.CONFIRMED), Bearing(bears_wad=WAD, allows_wad=WAD // 3)))
    assert (act.max_fraction_wad, preview.fraction_wad) == (WAD, WAD // 3)


def test_no_margin_at_all_waits_and_says_so() -> None:
    decision = plan(suspected(Phase.CONFIRMED), Bearing(bears_wad=-1))
    assert isinstance(decision, Wait)
    assert (decision.reason.rule, decision.until_block) == ("taker.no_margin", AT.block + 1)


@pytest.mark.parametrize("cash", [45, 80, 120, 165])
def test_on_the_real_market_the_largest_slice_is_taken_that_leaves_initial_margin(cash: int) -> None:
    case, poor = assessed(worked_example()), taker(cash_wad=cash * WAD)
    _, act, preview = planned(plan(case, has=means(taker=poor, gas_price_wei=GWEI)))
    assert preview.taker_passes
    assert preview.fraction_wad == act.max_fraction_wad < case.closeable_wad
    prices = {"BTC/USD": 200 * WAD}
    margin = worst_initial(preview.taker_after, prices, prices, setting(), SLOPE.beta_wad)
    assert 0.85 < margin.requirement_wad / margin.equity_wad < 0.95
    more = act.max_fraction_wad * 10 // 9 + 2 * case.closeable_wad // 2**BISECTIONS
    beyond = MARKET.preview(case, poor, oracles(), more)
    assert isinstance(beyond, SlicePreview)
    assert not beyond.taker_passes


def test_on_the_real_market_a_keeper_below_its_own_margin_waits() -> None:
    decision = plan(assessed(worked_example()), has=means(taker=taker(cash_wad=0)))
    assert isinstance(decision, Wait)
    assert decision.reason.rule == "taker.no_margin"


@pytest.mark.parametrize(
    ("leg", "fast"), [(Leg(1, 100 * WAD, -21_000 * WAD), 196), (Leg(1, -100 * WAD, 18_900 * WAD), 204)]
)
def test_an_execution_price_worse_for_the_taker_than_the_fast_one_waits(leg: Leg, fast: int) -> None:
    views = seen({"BTC/USD": feed_view("BTC/USD", fast * WAD, 200 * WAD)})
    account = confirmed(cash_wad=1_500 * WAD, legs=(leg,))
    decision = plan(assessed(account, views), views=views)
    assert isinstance(decision, Wait)
    assert decision.reason.rule == "slope.price_worse_than_fast"
    assert "less at p_F than it costs at p_L" in decision.reason.evidence
    within = seen({"BTC/USD": feed_view("BTC/USD", 199 * WAD if fast < 200 else 201 * WAD, 200 * WAD)})
    assert isinstance(plan(assessed(account, within), views=within), Slice)


ODD = 200 * WAD + WAD // 300
"""A price by which sizes seldom come out whole."""


@pytest.mark.parametrize(
    ("leg", "cash_wad", "holdings"),
    [
        (Leg(1, -100 * WAD - 1_234_567_890_123_457, 20_000 * WAD), 900 * WAD, ()),
        (Leg(1, 100 * WAD + 1_234_567_890_123_457, -20_000 * WAD), 899 * WAD, ()),
        (Leg(1, 100 * WAD, -19_150 * WAD), -100 * WAD, (Holding(1, WAD // 3),)),
    ],
)
def test_a_slice_at_the_fast_price_never_waits_for_a_wei_of_rounding(
    leg: Leg, cash_wad: Wad, holdings: tuple[Holding, ...]
) -> None:
    views = seen({"BTC/USD": feed_view("BTC/USD", ODD)})
    account = confirmed(cash_wad=cash_wad, legs=(leg,), holdings=holdings)
    _, _, preview = planned(plan(assessed(account, views), views=views))
    assert preview.taker_mark_wad >= 0


def test_a_slice_that_does_not_pay_for_its_gas_is_refused() -> None:
    decision = plan(assessed(worked_example()), has=means(gas_price_wei=100 * GWEI))
    assert isinstance(decision, Refuse)
    assert decision.reason.rule == "slope.unprofitable"
    assert decision.reason.evidence.startswith("expected -")


def test_an_operator_who_takes_losses_asks_for_no_more_than_the_fee_there_is() -> None:
    generous = Params(min_profit_wad=-1_000 * WAD)
    case, has = assessed(worked_example()), means(gas_price_wei=100 * GWEI)
    _, act, preview = planned(plan(case, has=has, params=generous))
    assert act.min_fee_wad == preview.taker_fee_wad < cost_wad(PARAMS.gas_slice) * 20 // 2


def test_an_account_without_equity_is_worth_closing_while_the_insurance_pays() -> None:
    broke = confirmed(cash_wad=0, legs=(Leg(1, 100 * WAD, -20_500 * WAD),))
    empty = oracles(world=Globals())
    case = assessed(broke, empty)
    assert (case.fast.equity_wad, case.incentive_wad) == (-500 * WAD, 0)
    assert rule_of(plan(case, views=empty)) == "slope.unprofitable"
    _, act, preview = planned(plan(assessed(broke)))
    assert preview.fraction_wad == WAD
    assert preview.taker_fee_wad == 20_000 * SLOPE.k0_wad
    assert act.min_fee_wad <= preview.taker_fee_wad


def small_and_broke(*, tau_s: int = 0, insolvent_tau_s: int = 0) -> Account:
    """Long 10 at 200 and without equity: 10 is offered at once, 100 after ten minutes."""
    account = confirmed(cash_wad=0, legs=(Leg(1, 10 * WAD, -2_050 * WAD),), tau_s=tau_s)
    return replace(account, flag=replace(account.flag, insolvent_tau_s=insolvent_tau_s))


GREEDY = Params(min_profit_wad=20 * WAD)


def test_an_offer_too_small_is_begun_where_it_will_pay_and_then_awaited() -> None:
    poke = plan(assessed(small_and_broke()), params=GREEDY)
    assert isinstance(poke, Step)
    assert poke.act == Poke(worked_example().key)
    assert poke.expected_profit_wad == -cost_wad(PARAMS.gas_upkeep)
    begun = assessed(small_and_broke(tau_s=72, insolvent_tau_s=1))
    assert begun.incentive_wad == 12 * WAD
    assert rule_of(plan(begun, params=GREEDY)) == "slope.unprofitable"
    late = assessed(small_and_broke(tau_s=600, insolvent_tau_s=1))
    _, _, preview = planned(plan(late, params=GREEDY))
    assert preview.taker_fee_wad == 100 * WAD


def offered(*, poked_s: int = 30, **changes: object) -> Assessment:
    """The same account: 12 of 100 are offered, and its clock was last advanced so long ago."""
    case = assessed(small_and_broke(tau_s=72, insolvent_tau_s=1))
    flag = replace(case.account.flag, last_poke_s=AT.timestamp_s - poked_s)
    case = replace(case, account=replace(case.account, flag=flag), incentive_wad=12 * WAD)
    return replace(case, **changes)  # type: ignore[arg-type]


def offer_of(case: Assessment, params: Params = GREEDY, has: Means | None = None) -> Slice | Decision:
    """What follows where a slice brings 12, less than the keeper asks."""
    return plan(case, Bearing(WAD, fee_wad=12 * WAD), has=has or means(), params=params)


def test_an_offer_that_rises_with_the_clock_is_kept_rising_by_pokes() -> None:
    step = offer_of(offered())
    assert isinstance(step, Step)
    assert step.act == Poke(worked_example().key)
    assert step.expected_profit_wad == -cost_wad(PARAMS.gas_upkeep)


@pytest.mark.parametrize(
    ("case", "params"),
    [
        (offered(poked_s=29), GREEDY),
        (offered(fresh=False, slow_only=True), GREEDY),
        (offered(breaker_level=2), GREEDY),
        (offered(), replace(GREEDY, upkeep=False)),
        (offered(), replace(GREEDY, poke_after_s=31)),
        (offered(incentive_most_wad=26 * WAD), GREEDY),
        (offered(incentive_wad=100 * WAD), GREEDY),
    ],
)
def test_an_offer_that_a_poke_would_not_raise_is_left_alone(case: Assessment, params: Params) -> None:
    assert rule_of(offer_of(case, params)) == "slope.unprofitable"


def test_no_poke_costs_more_than_it_raises_the_offer_by() -> None:
    # One in twenty of 100; a poke costs 0.4 at a gwei.
    assert isinstance(offer_of(offered(), has=means(gas_price_wei=12 * GWEI)), Step)
    assert rule_of(offer_of(offered(), has=means(gas_price_wei=13 * GWEI))) == "slope.unprofitable"
    # Nor is an offer begun that nobody would keep rising.
    assert rule_of(offer_of(assessed(small_and_broke()), has=means(gas_price_wei=13 * GWEI))) == (
        "slope.unprofitable"
    )


def test_an_offer_is_begun_by_the_slow_oracle_alone_too() -> None:
    case = replace(assessed(small_and_broke()), fresh=False, slow_only=True)
    step = plan(case, params=GREEDY)
    assert isinstance(step, Step)
    assert step.act == Poke(worked_example().key)


@pytest.mark.parametrize("changes", [{"breaker_level": 2}, {"incentive_wad": 0}])
def test_nobody_pokes_where_the_contract_would_note_nothing(changes: dict[str, object]) -> None:
    case = replace(assessed(small_and_broke()), **changes)  # type: ignore[arg-type]
    assert rule_of(plan(case, params=GREEDY)) == "slope.unprofitable"


def test_no_offer_begins_while_collateral_is_left() -> None:
    crumb = replace(small_and_broke(), cash_wad=WAD, holdings=(Holding(1, 1),))
    case = assessed(crumb)
    assert case.incentive_wad > 0
    assert rule_of(plan(case, params=GREEDY)) == "slope.unprofitable"


def test_an_offer_that_will_never_pay_is_not_begun() -> None:
    assert rule_of(plan(assessed(small_and_broke()), params=Params(min_profit_wad=95 * WAD))) == (
        "slope.unprofitable"
    )
    poor = oracles(world=Globals(drawable_wad=11 * WAD))
    case = assessed(small_and_broke(), poor)
    assert rule_of(plan(case, views=poor, params=GREEDY)) == "slope.unprofitable"


def test_what_the_contract_would_refuse_is_refused_in_its_words() -> None:
    calm = replace(assessed(worked_example()), account=replace(worked_example(), cash_wad=400 * WAD))
    assert rule_of(plan(calm)) == "slope.not_breached"


# --- the end of an episode -----------------------------------------------------------------------


def upkeep(
    case: Assessment, *, contradicted: bool = False, has: Means | None = None, params: Params = PARAMS
) -> Step | None:
    return plan_upkeep("case", case, contradicted=contradicted, means=has or means(), params=params)


KEY, TAKER, DEBT = bytes(32), taker().key, 40 * WAD
CONTRADICTED = True


@pytest.mark.parametrize(
    ("case", "contradicted", "act"),
    [
        (suspected(Phase.FLAGGED), CONTRADICTED, Clear(KEY)),
        (suspected(Phase.FLAGGED), False, None),
        (suspected(Phase.CONFIRMED), CONTRADICTED, None),
        (suspected(Phase.HEALTHY), CONTRADICTED, None),
        (suspected(Phase.FLAGGED, curable=True), CONTRADICTED, Clear(KEY)),
        (suspected(Phase.FLAGGED, curable=True), False, Cure(KEY)),
        (suspected(Phase.CONFIRMED, curable=True), False, Cure(KEY)),
        (suspected(Phase.FLAGGED, expirable=True), False, Expire(KEY)),
        (suspected(Phase.FLAGGED, expirable=True, curable=True), False, Cure(KEY)),
        (suspected(Phase.CONFIRMED, expirable=True), False, None),
        (indebted(Phase.HEALTHY, Holding(1, WAD)), False, None),
        (indebted(Phase.HEALTHY), False, WriteOff(KEY)),
        (indebted(Phase.CONFIRMED), False, WriteOff(KEY)),
        (indebted(Phase.CLOSED), False, None),
        (suspected(Phase.HEALTHY, settlable=(4, 6)), False, None),
        (suspected(Phase.CONFIRMED, settlable=(6,), curable=True), False, Cure(KEY)),
    ],
)
def test_an_episode_is_ended_by_the_act_that_is_due(
    case: Assessment, contradicted: bool, act: Act | None
) -> None:
    step = upkeep(case, contradicted=contradicted)
    assert (step.act if step else None) == act
    assert upkeep(case, contradicted=contradicted, params=Params(upkeep=False)) is None


def test_an_option_that_can_be_settled_is_settled_in_any_phase_where_the_keeper_does_upkeep() -> None:
    for phase in (Phase.HEALTHY, Phase.FLAGGED, Phase.CONFIRMED):
        step = plan_settlement("case", suspected(phase, settlable=(4, 6)), means(), PARAMS)
        assert step is not None
        assert step.act == Settle(KEY, 4)
        assert step.expected_profit_wad == -cost_wad(PARAMS.gas_upkeep)
    assert plan_settlement("case", suspected(), means(), PARAMS) is None
    assert plan_settlement("case", suspected(settlable=(4,)), means(), Params(upkeep=False)) is None


def between(**changes: object) -> Assessment:
    """A confirmed account above its requirement and not safe, whose clock was last looked at 30 s ago."""
    case = suspected(
        Phase.CONFIRMED, fast=HEALTHY, slow=HEALTHY, execution=HEALTHY, least_q_wad=WAD * 8 // 10
    )
    flag = FlagState(last_poke_s=AT.timestamp_s - 30)
    return replace(case, account=replace(case.account, flag=flag), **changes)  # type: ignore[arg-type]


def test_a_clock_that_stands_between_breach_and_cure_is_poked() -> None:
    step = plan_clock("case", between(), means(), PARAMS)
    assert step is not None
    assert step.act == Poke(KEY)
    assert step.expected_profit_wad == -cost_wad(PARAMS.gas_upkeep)


@pytest.mark.parametrize(
    ("case", "params"),
    [
        (between(fresh=False), PARAMS),
        (between(fresh=False, slow_only=True), PARAMS),
        (between(arrays_silent=True), PARAMS),
        (between(breaker_level=2), PARAMS),
        (between(curable=True), PARAMS),
        (between(q_wad=WAD * 8 // 10), PARAMS),
        (between(fee_wad=0), PARAMS),
        (between(), Params(upkeep=False)),
        (between(), Params(poke_after_s=31)),
        (replace(between(), account=replace(between().account, phase=Phase.FLAGGED)), PARAMS),
    ],
)
def test_a_clock_that_cannot_run_or_leads_nowhere_is_left_alone(case: Assessment, params: Params) -> None:
    assert plan_clock("case", case, means(), params) is None


def test_an_early_slope_reaches_its_first_slice_by_pokes_alone() -> None:
    early = replace(SLOPE, beta_wad=WAD // 4, beta_cure_wad=WAD // 5, q_min_wad=WAD * 8 // 10)
    early = replace(early, beta_flag_wad=WAD // 10, lambda_wad=185_952_959_428_508)
    market = HybridMarket(deployment(early))
    account = confirmed(cash_wad=2_060 * WAD, legs=(Leg(1, 100 * WAD, -21_000 * WAD),))

    def judged(now_s: int) -> Assessment:
        views = seen({"BTC/USD": replace(feed_view("BTC/USD", 200 * WAD), fast_observed_at_s=now_s)})
        case = market.assess(account, views, ChainTime(AT.block, now_s))
        assert isinstance(case, Assessment)
        return case

    now_s = AT.timestamp_s
    while not isinstance(confirm_slice(judged(now_s)), Agree) and now_s < AT.timestamp_s + 1_200:
        if plan_clock("case", judged(now_s), means(), PARAMS):
            account = replace(account, flag=liquidator.poked(account.flag, now_s))
        now_s += 12
    # ln(1.06) / lambda is 313 s, and of every 36 s 30 count.
    assert 313 <= judged(now_s).tau_s <= 343
    assert now_s - AT.timestamp_s <= 400


def purchase(case: Assessment, has: Means | None = None, views: OracleView | None = None) -> Decision:
    return plan_purchase(
        "case", case, market=MARKET, oracles=views or oracles(), means=has or means(), params=PARAMS
    )


def left_with_debt(*, since_s: int, **changes: object) -> Assessment:
    """An account that owes 40 against one collateral, for so long."""
    case = indebted(Phase.HEALTHY, Holding(1, WAD), **changes)
    return replace(case, account=replace(case.account, debt_since_s=AT.timestamp_s - since_s))


def test_collateral_is_bought_once_the_discount_pays_for_the_gas() -> None:
    waited = purchase(left_with_debt(since_s=1))
    assert isinstance(waited, Wait)
    assert waited.reason.rule == "purchase.unprofitable"
    free = means(gas_price_wei=0)
    step = purchase(left_with_debt(since_s=SLOPE.slope_s), free)
    assert isinstance(step, Step)
    assert isinstance(step.act, BuyCollateral)
    assert step.act.max_quote_wad == DEBT
    assert step.expected_profit_wad > 0


def test_half_of_the_credit_is_kept_for_bonds() -> None:
    step = purchase(left_with_debt(since_s=SLOPE.slope_s), means(gas_price_wei=0, credit_wad=7 * WAD))
    assert isinstance(step, Step)
    assert isinstance(step.act, BuyCollateral)
    assert step.act.max_quote_wad == 7 * WAD // 2
    assert rule_of(purchase(left_with_debt(since_s=SLOPE.slope_s), means(credit_wad=0))) == (
        "purchase.unprofitable"
    )


def test_collateral_is_not_bought_above_the_fast_price() -> None:
    views = seen({name: replace(view, fast_wad=view.fast_wad * 8 // 10) for name, view in oracles().items()})
    waited = purchase(left_with_debt(since_s=1), means(gas_price_wei=0), views)
    assert isinstance(waited, Wait)
    assert waited.reason.evidence.startswith("worth -")


def test_an_account_that_owes_nothing_sells_nothing() -> None:
    assert rule_of(purchase(suspected())) == "purchase.nothing_to_sell"


def test_upkeep_costs_its_gas_and_earns_nothing() -> None:
    step = upkeep(suspected(Phase.FLAGGED, curable=True))
    assert step is not None
    assert step.expected_profit_wad == -cost_wad(PARAMS.gas_upkeep)
    assert step.gas_limit == 2 * (150_000 + 50_000) + GAS_RESERVE


# --- gas -----------------------------------------------------------------------------------------


def gas_limit(act: str, held: str) -> int:
    """What is allowed for an act on an account that holds what a measured one held."""
    flagged_, confirmed_ = (on_chain(suspected(phase), held) for phase in (Phase.FLAGGED, Phase.CONFIRMED))
    if act == "flag":
        step = alarm(on_chain(suspected(), held), params=Params(min_profit_wad=-(10**6) * WAD))
    elif act == "confirm":
        step = plan_confirm("case", flagged_, AGREED, means(), PARAMS)
    elif act == "cure":
        step = upkeep(replace(confirmed_, curable=True)) or pytest.fail("no cure")
    elif act == "poke":
        broke = replace(
            confirmed_, incentive_wad=1, incentive_most_wad=1_000_000 * WAD, incentive_step_wad=1_000 * WAD
        )
        step = plan(broke, Bearing(WAD, fee_wad=0))  # type: ignore[assignment]
    else:
        found = plan(confirmed_, Bearing(WAD), params=Params(min_profit_wad=-(10**6) * WAD))
        step = found.step if isinstance(found, Slice) else found
    assert isinstance(step, Step), step
    return step.gas_limit


@pytest.mark.parametrize(("act", "gas"), MEASURED.items(), ids=list(MEASURED))
def test_whatever_was_measured_stays_within_three_quarters_of_its_limit(act: str, gas: int) -> None:
    name, held = act.split(", ", maxsplit=1)
    assert gas <= gas_limit(name, held) * 3 // 4


@pytest.mark.parametrize(("act", "gas"), MEASURED.items(), ids=list(MEASURED))
def test_a_profit_is_judged_by_about_the_gas_that_was_measured(act: str, gas: int) -> None:
    name, held = act.split(", ", maxsplit=1)
    typical = (gas_limit(name, held) - GAS_RESERVE) // 2
    assert 0.8 <= typical / gas <= 1.4


def test_what_the_taker_has_besides_costs_gas_and_what_it_takes_over_is_counted_once() -> None:
    case, free = suspected(Phase.CONFIRMED), Params(min_profit_wad=-(10**6) * WAD)

    def limit(keeper: Account) -> int:
        step, _, _ = planned(plan(case, Bearing(WAD), has=means(taker=keeper), params=free))
        return step.gas_limit

    bare = limit(taker())
    assert limit(taker(legs=(Leg(1, WAD, 0),))) == bare
    assert limit(taker(legs=(Leg(1, WAD, 0), Leg(2, WAD, 0)))) == bare + 2 * PARAMS.gas_per_valued
    assert limit(replace(taker(), holdings=(Holding(1, WAD),))) == bare + 2 * PARAMS.gas_per_valued


# --- whatever the account, the prices and the keeper's means --------------------------------------

BASES = {1: 200, 2: 1_500, 3: 7}
FEEDS = {market: perp.feed for market, perp in PERPS.items()}


@st.composite
def breaches(draw: st.DrawFn) -> tuple[Account, OracleView]:
    """Draw a confirmed account with some health below the cure level, and prices around the bases."""
    prices = {
        FEEDS[market]: base * draw(st.integers(700_000, 1_300_000)) * 10**12 for market, base in BASES.items()
    }
    caps = st.sampled_from([CAP, 2_000 * WAD, 50_000 * WAD])
    view = seen(
        {
            feed: feed_view(feed, fast, fast * draw(st.integers(985_000, 1_015_000)) // 10**6)
            for feed, fast in prices.items()
        },
        buckets={feed: BucketView(1_000 * WAD, AT.timestamp_s - 6, draw(caps)) for feed in prices},
    )
    markets = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=3, unique=True))
    legs = []
    for market in markets:
        size = draw(st.integers(10**6, 200_000 * 10**6)) * 10**12 // BASES[market]
        size = draw(st.sampled_from([size, -size]))
        entry = BASES[market] * draw(st.integers(700_000, 1_300_000)) * 10**12
        legs.append(Leg(market, size, -size * entry // WAD))
    tau_s = draw(st.integers(0, 2_400))
    since_s = draw(st.integers(0, tau_s))
    holdings = draw(st.sampled_from([(), (Holding(1, WAD),), (Holding(2, 20 * WAD), Holding(1, WAD // 2))]))
    account = confirmed(
        cash_wad=0, legs=tuple(legs), holdings=holdings, tau_s=tau_s, since_confirmation_s=since_s
    )
    found = math.maintenance(account, prices, setting())
    health = draw(st.integers(-200_000, 1_140_000)) * 10**12
    cash = found.requirement_wad * health // WAD - found.equity_wad
    begun_s = AT.timestamp_s - draw(st.integers(0, 60))
    used = draw(st.integers(0, SLOPE.step_cap_wad))
    flag: FlagState = replace(account.flag, step_start_s=begun_s, step_used_wad=used)
    return replace(account, cash_wad=cash, flag=flag), view


takers = st.builds(taker, st.integers(0, 20_000).map(lambda quote: quote * WAD))


@settings(max_examples=200)
@given(breaches(), takers, st.integers(0, 2))
def test_a_planned_slice_keeps_to_the_slope_the_window_the_buckets_and_the_takers_margin(
    breach: tuple[Account, OracleView], keeper: Account, insured: int
) -> None:
    account, views = breach
    views = replace(views, world=Globals(drawable_wad=insured * 1_000 * WAD))
    case = assessed(account, views)
    assume(isinstance(confirm_slice(case), Agree))
    has = means(taker=keeper, gas_price_wei=GWEI // 100)
    decision = plan(case, views=views, has=has, params=Params(min_profit_wad=-(10**6) * WAD))
    assert not isinstance(decision, Step)
    if not isinstance(decision, Slice):
        assert decision.reason.evidence
        if decision.reason.rule == "slope.price_worse_than_fast":
            found = liquidator.outlook(account, views, AT, MARKET.deployment.rules).prices
            assert found.execution != found.fast
        return
    _, act, preview = planned(decision)
    asked = preview.fraction_wad
    assert 0 <= asked <= act.max_fraction_wad <= WAD
    assert asked > 0 or preview.taker_after.cash_wad < keeper.cash_wad

    allowed = min(case.closeable_wad, case.step_room_wad, case.bucket_room_wad)
    notional = case.execution.notional_wad
    whole = asked == WAD
    excess_wad = (asked - allowed) * notional // WAD
    # A slice is raised to the smallest one, and to the whole where only dust would stay after that.
    assert excess_wad <= SLOPE.min_slice_wad + SLOPE.dust_wad

    for prices in ({f: v.fast_wad for f, v in views.items()}, {f: v.slow_wad for f, v in views.items()}):
        assert not math.initial(preview.taker_after, prices, setting(), SLOPE.beta_wad).breaches()

    if case.execution.equity_wad > 0 and not whole:
        health = case.execution.equity_wad / case.execution.requirement_wad
        done = liquidator.liquidate(
            account, keeper, views, AT, MARKET.deployment.rules, max_fraction_wad=act.max_fraction_wad
        )
        assert isinstance(done, liquidator.Slice)
        after = done.after.equity_wad / done.after.requirement_wad
        assert after >= health * (1 - 1e-12)
        if asked <= allowed:
            assert after <= (1 + SLOPE.beta_wad / WAD) * (1 + 1e-12)
