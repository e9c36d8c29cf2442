"""Which act, how much of it, and whether it is worth its gas: every decision, rule by rule."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keeper.confirm import confirm_slice
from keeper.domain import (
    Account,
    Act,
    Agree,
    Assessment,
    BuyCollateral,
    ChainTime,
    Clear,
    Confirm,
    Cure,
    Expire,
    Flag,
    FlagState,
    Holding,
    Leg,
    Liquidate,
    OracleView,
    Phase,
    Refuse,
    Step,
    Valuation,
    Wait,
    WriteOff,
)
from keeper.plan import (
    BISECTIONS,
    GAS_RESERVE,
    Decision,
    Gas,
    Means,
    Params,
    Slice,
    plan_alarm,
    plan_confirm,
    plan_purchase,
    plan_slice,
    plan_upkeep,
)
from keeper.ports import SlicePreview
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.clearing import worst_initial
from keeper.protocols.hybrid.market import HybridMarket
from keeper.units import WAD, Wad
from tests.unit.protocols.hybrid.books import (
    AT,
    PERPS,
    SLOPE,
    confirmed,
    deployment,
    feed_view,
    oracles,
    rules,
    taker,
    worked_example,
)

GWEI = 10**9
BREACHED = Valuation(900 * WAD, 1000 * WAD, 20_000 * WAD)
HEALTHY = Valuation(1200 * WAD, 1000 * WAD, 20_000 * WAD)
AGREED = Agree("both clocks")
PARAMS = Params()
MARKET = HybridMarket(deployment())
SLICE_GAS = Gas(PARAMS.gas_slice.base + PARAMS.gas_per_taker_item, PARAMS.gas_slice.per_feed)
"""Of a slice of one leg, taken over by an account that holds nothing else."""


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
    """Gas at 10 gwei and 2,000 a coin: 100,000 gas cost 2."""
    has = Means(
        taker=taker(),
        credit_wad=1_000 * WAD,
        insurance_wad=0,
        gas_price_wei=10 * GWEI,
        native_price_wad=2_000 * WAD,
    )
    return replace(has, **changes)  # type: ignore[arg-type]


def cost_wad(*acts: Gas) -> Wad:
    """What acts on an account with one feed cost at these means."""
    return sum(gas.typical(1) for gas in acts) * 2 * WAD // 100_000


def rule_of(decision: Decision | Slice) -> str:
    assert isinstance(decision, Wait | Refuse), decision
    return decision.reason.rule


# --- the alarm -----------------------------------------------------------------------------------


def alarm(case: Assessment, has: Means | None = None, params: Params = PARAMS) -> Decision:
    return plan_alarm("case", case, has or means(), params)


def test_gas_costs_what_it_says_in_quote_rounded_up() -> None:
    assert means().gas_cost_wad(100_000) == 2 * WAD
    assert means(gas_price_wei=1, native_price_wad=1).gas_cost_wad(1) == 1


def test_an_alarm_worth_its_episode_is_a_flag_with_its_bond() -> None:
    step = alarm(suspected())
    assert isinstance(step, Step)
    assert step.act == Flag(bytes(32), 50 * WAD)
    assert step.gas_limit == 2 * (165_000 + 40_000) + GAS_RESERVE
    # The fee of a first slice of 1/9 of 20,000, four fifths of it the taker's, and the reward of 22.
    fee = (WAD // 9) * 20_000 // 200 * 8 // 10
    gas = cost_wad(PARAMS.gas_flag, PARAMS.gas_confirm, SLICE_GAS)
    assert step.expected_profit_wad == pytest.approx(22 * WAD + fee - gas, abs=2)
    assert (step.planned_at, step.valid_until_block) == (99, 102)


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
    ],
)
def test_an_alarm_that_the_chain_does_not_show_yet_waits_for_the_next_block(
    case: Assessment, rule: str
) -> None:
    decision = alarm(case)
    assert isinstance(decision, Wait)
    assert (decision.reason.rule, decision.until_block) == (rule, AT.block + 1)


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


def test_an_account_with_more_feeds_costs_more_gas() -> None:
    step = alarm(suspected(feeds=("BTC/USD", "ETH/USD", "SYN/USD")))
    assert isinstance(step, Step)
    assert step.gas_limit == 2 * (165_000 + 3 * 40_000) + GAS_RESERVE


# --- the confirmation ----------------------------------------------------------------------------


def test_a_confirmation_is_due_even_where_its_reward_does_not_pay_for_it() -> None:
    case = suspected(Phase.FLAGGED, reward_wad=0)
    step = plan_confirm("case", case, AGREED, means(), PARAMS)
    assert isinstance(step, Step)
    assert step.act == Confirm(bytes(32))
    assert step.gas_limit == 2 * (135_000 + 50_000) + GAS_RESERVE
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
        self,
        target: Assessment,
        taker: Account,
        oracles: OracleView,
        max_fraction_wad: Wad,
        insurance_wad: Wad = 0,
    ) -> SlicePreview | Refuse:
        del oracles, insurance_wad
        fraction = min(max_fraction_wad, self.allows_wad)
        return SlicePreview(
            fraction_wad=fraction,
            notional_wad=fraction * 20_000,
            taker_fee_wad=self.fee_wad,
            taker_mark_wad=self.mark_wad,
            after=HEALTHY,
            account_after=target.account,
            taker_after=taker,
            taker_passes=fraction <= self.bears_wad,
        )


def plan(
    case: Assessment,
    market: HybridMarket = MARKET,
    views: OracleView | None = None,
    has: Means | None = None,
    params: Params = PARAMS,
) -> Slice | Wait | Refuse:
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


def planned(decision: Slice | Wait | Refuse) -> tuple[Step, Liquidate, SlicePreview]:
    assert isinstance(decision, Slice), decision
    assert isinstance(decision.step.act, Liquidate)
    return decision.step, decision.step.act, decision.preview


def test_a_slice_says_how_much_for_how_much_and_until_when() -> None:
    step, act, preview = planned(plan(assessed(worked_example())))
    assert preview.fraction_wad == 100 * WAD // 900
    gas_cost = cost_wad(SLICE_GAS)
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
    assert step.gas_limit == 2 * (115_000 + 60_000) + GAS_RESERVE
    assert (step.planned_at, step.valid_until_block) == (AT.block - 1, AT.block + 2)
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
    margin = worst_initial(preview.taker_after, {"BTC/USD": 200 * WAD}, {"BTC/USD": 200 * WAD}, rules())
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
    views = {"BTC/USD": feed_view("BTC/USD", fast * WAD, 200 * WAD)}
    account = confirmed(cash_wad=1_500 * WAD, legs=(leg,))
    decision = plan(assessed(account, views), views=views)
    assert isinstance(decision, Wait)
    assert decision.reason.rule == "slope.price_worse_than_fast"
    assert "less at p_F than it costs at p_L" in decision.reason.evidence
    within = {"BTC/USD": feed_view("BTC/USD", 199 * WAD if fast < 200 else 201 * WAD, 200 * WAD)}
    assert isinstance(plan(assessed(account, within), views=within), Slice)


def test_a_slice_that_does_not_pay_for_its_gas_is_refused() -> None:
    decision = plan(assessed(worked_example()), has=means(gas_price_wei=100 * GWEI))
    assert isinstance(decision, Refuse)
    assert decision.reason.rule == "slope.unprofitable"
    assert decision.reason.evidence.startswith("expected -")


def test_an_operator_who_takes_losses_asks_for_no_more_than_the_fee_there_is() -> None:
    generous = Params(min_profit_wad=-1_000 * WAD)
    case, has = assessed(worked_example()), means(gas_price_wei=100 * GWEI)
    _, act, preview = planned(plan(case, has=has, params=generous))
    assert act.min_fee_wad == preview.taker_fee_wad < cost_wad(SLICE_GAS) * 10 // 2


def test_an_account_without_equity_is_worth_closing_while_the_insurance_pays() -> None:
    broke = confirmed(cash_wad=0, legs=(Leg(1, 100 * WAD, -20_500 * WAD),))
    case = assessed(broke)
    assert case.fast.equity_wad == -500 * WAD
    assert rule_of(plan(case)) == "slope.unprofitable"
    _, act, preview = planned(plan(case, has=means(insurance_wad=10_000 * WAD)))
    assert preview.fraction_wad == WAD
    assert preview.taker_fee_wad == 20_000 * SLOPE.k0_wad
    assert act.min_fee_wad <= preview.taker_fee_wad


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
    ],
)
def test_an_episode_is_ended_by_the_act_that_is_due(
    case: Assessment, contradicted: bool, act: Act | None
) -> None:
    step = upkeep(case, contradicted=contradicted)
    assert (step.act if step else None) == act
    assert upkeep(case, contradicted=contradicted, params=Params(upkeep=False)) is None


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
    views = {name: replace(view, fast_wad=view.fast_wad * 8 // 10) for name, view in oracles().items()}
    waited = purchase(left_with_debt(since_s=1), means(gas_price_wei=0), views)
    assert isinstance(waited, Wait)
    assert waited.reason.evidence.startswith("worth -")


def test_an_account_that_owes_nothing_sells_nothing() -> None:
    assert rule_of(purchase(suspected())) == "purchase.nothing_to_sell"


def test_upkeep_costs_its_gas_and_earns_nothing() -> None:
    step = upkeep(suspected(Phase.FLAGGED, curable=True))
    assert step is not None
    assert step.expected_profit_wad == -cost_wad(PARAMS.gas_upkeep)
    assert step.gas_limit == 2 * (90_000 + 55_000) + GAS_RESERVE


# --- whatever the account, the prices and the keeper's means --------------------------------------

BASES = {1: 200, 2: 1_500, 3: 7}
FEEDS = {market: perp.feed for market, perp in PERPS.items()}


@st.composite
def breaches(draw: st.DrawFn) -> tuple[Account, OracleView]:
    """Draw a confirmed account with some health below the cure level, and prices around the bases."""
    prices = {
        FEEDS[market]: base * draw(st.integers(700_000, 1_300_000)) * 10**12 for market, base in BASES.items()
    }
    views = {
        feed: feed_view(feed, fast, fast * draw(st.integers(985_000, 1_015_000)) // 10**6)
        for feed, fast in prices.items()
    }
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
    found = math.maintenance(account, prices, rules())
    health = draw(st.integers(-200_000, 1_140_000)) * 10**12
    cash = found.requirement_wad * health // WAD - found.equity_wad
    begun_s = AT.timestamp_s - draw(st.integers(0, 60))
    used = draw(st.integers(0, SLOPE.step_cap_wad))
    flag: FlagState = replace(account.flag, step_start_s=begun_s, step_used_wad=used)
    return replace(account, cash_wad=cash, flag=flag), views


takers = st.builds(taker, st.integers(0, 20_000).map(lambda quote: quote * WAD))


@settings(max_examples=200, deadline=None)
@given(breaches(), takers, st.integers(0, 2))
def test_a_planned_slice_keeps_to_the_slope_the_window_and_the_takers_margin(
    breach: tuple[Account, OracleView], keeper: Account, insured: int
) -> None:
    account, views = breach
    case = assessed(account, views)
    assume(isinstance(confirm_slice(case), Agree))
    has = means(taker=keeper, insurance_wad=insured * 1_000 * WAD, gas_price_wei=GWEI // 100)
    decision = plan(case, views=views, has=has, params=Params(min_profit_wad=-(10**6) * WAD))
    if not isinstance(decision, Slice):
        assert decision.reason.evidence
        return
    _, act, preview = planned(decision)
    asked = preview.fraction_wad
    assert 0 <= asked <= act.max_fraction_wad <= WAD
    assert asked > 0 or preview.taker_after.cash_wad < keeper.cash_wad

    allowed = min(case.closeable_wad, case.step_room_wad)
    notional = case.execution.notional_wad
    whole = asked == WAD
    excess_wad = (asked - allowed) * notional // WAD
    # A slice is raised to the smallest one, and to the whole where only dust would stay after that.
    assert excess_wad <= SLOPE.min_slice_wad + SLOPE.dust_wad

    listed = rules()
    for prices in ({f: v.fast_wad for f, v in views.items()}, {f: v.slow_wad for f, v in views.items()}):
        assert not math.initial(preview.taker_after, prices, listed).breaches()

    if case.execution.equity_wad > 0 and not whole:
        health = case.execution.equity_wad / case.execution.requirement_wad
        after = preview.after.equity_wad / preview.after.requirement_wad
        assert after >= health * (1 - 1e-12)
        if asked <= allowed:
            assert after <= (1 + SLOPE.beta_wad / WAD) * (1 + 1e-12)
