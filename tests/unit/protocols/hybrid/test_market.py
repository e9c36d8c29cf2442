"""The market as the pipeline sees it: what it judges, foresees, refuses and explains."""

from dataclasses import replace

import numpy as np
import pytest
from eth_abi.abi import encode

from keeper.domain import (
    Account,
    Assessment,
    ChainTime,
    FlagState,
    Globals,
    Instrument,
    Kind,
    Leg,
    Phase,
    Quote,
    Reason,
    Refuse,
    Unknown,
)
from keeper.ports import SlicePreview, SlopeMarket
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import Ramp
from keeper.protocols.hybrid.rows import HybridRows
from keeper.reporter import Oracle
from keeper.units import WAD
from tests.unit.protocols.hybrid.books import (
    AT,
    CALL,
    COLLATERALS,
    EXPIRY_S,
    FLAT,
    NOW_S,
    OPTIONS,
    PERPS,
    PRICES,
    PUT,
    SLOPE,
    UNDERLYINGS,
    array,
    changed,
    confirmed,
    deployment,
    feed_view,
    oracles,
    seen,
    setting,
    taker,
    worked_example,
)

MARKET = HybridMarket(deployment())


def assessed(**changes: object) -> Assessment:
    account = replace(worked_example(), **changes)  # type: ignore[arg-type]
    found = MARKET.assess(account, oracles(), AT)
    assert isinstance(found, Assessment), found
    return found


def test_it_is_the_market_and_the_oracle_that_the_engines_ask_for() -> None:
    market: SlopeMarket = MARKET
    oracle: Oracle = MARKET
    assert isinstance(market, HybridMarket)
    assert isinstance(oracle, HybridMarket)


def test_a_confirmed_account_is_judged_at_three_prices_after_what_a_slice_begins_with() -> None:
    found = assessed()
    value = math.maintenance(worked_example(), PRICES, setting())
    assert found.fast == found.slow == found.execution == value
    assert found.feeds == ("BTC/USD",)
    assert found.fresh
    assert found.fast_fresh
    assert (found.tau_s, found.since_confirmation_s, found.q_wad) == (0, 0, WAD)
    assert found.fee_wad == SLOPE.k0_wad
    assert found.closeable_wad == 100 * WAD // 900
    assert found.step_room_wad == WAD // 5
    assert found.flag_level_wad == WAD
    assert (found.reward_wad, found.curable, found.expirable) == (0, False, False)


def test_the_fee_is_capped_by_the_equity_that_is_left() -> None:
    poor = assessed(cash_wad=1_150 * WAD, holdings=())
    assert poor.fee_wad == 375 * WAD // 100_000
    # With a debt it is the equity after the sale of collateral that counts: 50 more, at p_L without haircut.
    indebted = assessed(cash_wad=-450 * WAD)
    assert indebted.execution.equity_wad == 150 * WAD
    assert indebted.fee_wad == SLOPE.k0_wad
    frugal = assessed(flag=replace(worked_example().flag, fee_cap_wad=7))
    assert frugal.fee_wad == 7


def test_a_flagged_account_is_judged_as_if_confirmed_now() -> None:
    alarm = replace(worked_example().flag, tau_s=20, confirmed_at_s=0, tau_at_confirm_s=0, fee_cap_wad=0)
    found = assessed(phase=Phase.FLAGGED, flag=replace(alarm, last_poke_s=NOW_S - 12))
    assert (found.tau_s, found.since_confirmation_s) == (32, 0)
    assert found.fee_wad == SLOPE.k0_wad
    assert found.reward_wad == 22 * WAD
    assert found.closeable_wad > assessed().closeable_wad


def test_an_alarm_expires_after_half_an_hour_of_active_time_or_six_hours() -> None:
    alarm = FlagState(flagged_at_s=NOW_S - 1900, tau_at_flag_s=100, tau_s=1899, last_poke_s=NOW_S)
    assert not assessed(phase=Phase.FLAGGED, flag=alarm).expirable
    assert assessed(phase=Phase.FLAGGED, flag=replace(alarm, tau_s=1900)).expirable
    assert assessed(phase=Phase.FLAGGED, flag=replace(alarm, flagged_at_s=NOW_S - 6 * 3600)).expirable
    assert not assessed(flag=replace(alarm, tau_s=1900)).expirable


def test_an_account_in_care_is_curable_above_the_cure_level_or_without_open_risk() -> None:
    assert not assessed(cash_wad=499 * WAD).curable
    assert assessed(cash_wad=500 * WAD).curable
    assert not assessed(cash_wad=500 * WAD, phase=Phase.HEALTHY).curable
    assert assessed(legs=(), cash_wad=0).curable
    assert not assessed(legs=(), cash_wad=-1).curable


def test_markets_on_one_underlying_lie_side_by_side_and_count_on_the_terms_of_the_moment() -> None:
    market = HybridMarket(deployment(markets=PERPS | OPTIONS))
    view = oracles(arrays={CALL: array(9 * WAD)}, settlements={PUT: 180 * WAD})
    columns = market.instruments(view, NOW_S)
    rows = HybridRows(6, 2, order=(1, 4, 5, 6, 2, 3))
    assert (market.shape, len(columns), len(market.shape.columns)) == (rows, 8, 8)
    assert columns[0] == Instrument("BTC/USD", kind=Kind.PERP, range_wad=5 * WAD // 100, short_wad=WAD // 100)
    call, put = columns[CALL - 1], columns[PUT - 1]
    assert (call.kind, call.strike_wad, call.expiry_s) == (Kind.CALL, 210 * WAD, EXPIRY_S)
    assert (call.array, call.settlement_wad) == (array(9 * WAD), None)
    assert (put.array, put.settlement_wad) == (None, 180 * WAD)
    assert columns[-1] == Instrument("SYN/USD", 40 * WAD // 100)


def test_terms_on_a_ramp_are_those_of_the_block_that_is_judged() -> None:
    rising = replace(UNDERLYINGS["BTC/USD"], mmr=Ramp(5 * WAD // 100, 6 * WAD // 100, NOW_S, NOW_S + 10))
    falling = replace(COLLATERALS[1], h_mm=Ramp(80 * WAD // 100, 70 * WAD // 100, NOW_S, NOW_S + 10))
    bare = deployment()
    listed = replace(
        bare.rules,
        underlyings=UNDERLYINGS | {"BTC/USD": rising},
        collaterals=COLLATERALS | {1: falling},
    )
    market = HybridMarket(replace(bare, rules=listed))
    for passed_s, requirement, equity in ((0, 1_000, 900), (5, 1_100, 800), (10, 1_200, 700)):
        found = market.assess(worked_example(), oracles(), ChainTime(100, NOW_S + passed_s))
        assert isinstance(found, Assessment)
        assert (found.fast.requirement_wad, found.fast.equity_wad) == (requirement * WAD, equity * WAD)
        columns = market.instruments(oracles(), NOW_S + passed_s)
        assert columns[0].range_wad * 20_000 == requirement * WAD


def test_nothing_is_judged_twice_and_nothing_else_by_the_same_judgement() -> None:
    market, account, view = HybridMarket(deployment()), worked_example(), oracles()
    found = market.assess(account, view, AT)
    assert market.assess(account, view, AT) is found
    richer = replace(account, cash_wad=account.cash_wad + 500 * WAD)
    fallen = changed(view, "BTC/USD", fast_wad=PRICES["BTC/USD"] - 100 * WAD)
    later = ChainTime(AT.block + 1, AT.timestamp_s + 12)
    for asked in ((richer, view, AT), (account, fallen, AT), (account, view, later)):
        assert market.assess(*asked) == HybridMarket(deployment()).assess(*asked) != found
    assert market.assess(account, view, AT) == found


def test_marks_are_those_of_the_view_and_the_moment_that_are_asked_for() -> None:
    rising = replace(UNDERLYINGS["BTC/USD"], mmr=Ramp(5 * WAD // 100, 6 * WAD // 100, NOW_S, NOW_S + 10))
    bare = deployment(markets=PERPS | OPTIONS)
    listed = replace(bare, rules=replace(bare.rules, underlyings=UNDERLYINGS | {"BTC/USD": rising}))
    quotes = {feed: Quote(feed, price_wad, NOW_S) for feed, price_wad in PRICES.items()}
    market, settled = HybridMarket(listed), oracles(settlements={PUT: 180 * WAD})
    for asked in ((oracles(), NOW_S), (settled, NOW_S), (settled, NOW_S + 10), (oracles(), NOW_S)):
        found, fresh = (each.marks(asked[0], quotes, asked[1]) for each in (market, HybridMarket(listed)))
        assert np.array_equal(found.value, fresh.value, equal_nan=True)
        assert np.array_equal(found.gross, fresh.gross, equal_nan=True)


def test_an_alarm_begins_at_the_level_of_the_slope_that_the_owner_chose() -> None:
    early = replace(SLOPE, beta_flag_wad=8 * WAD // 100)
    bare = deployment()
    market = HybridMarket(replace(bare, rules=replace(bare.rules, slopes=(SLOPE, early))))
    assert market.flag_levels_wad == (WAD, 108 * WAD // 100)
    second = HybridMarket(replace(bare, rules=replace(bare.rules, slopes=(early, SLOPE), default_slope=1)))
    assert second.flag_levels_wad == (WAD, WAD)
    for choice, level in ((0, 100), (1, 108)):
        account = replace(worked_example(), phase=Phase.HEALTHY, slope_choice=choice)
        found = market.assess(account, oracles(), AT)
        assert isinstance(found, Assessment)
        assert (found.slope, found.flag_level_wad) == (choice, level * WAD // 100)


def test_what_holds_an_act_up_is_told() -> None:
    view = oracles(
        arrays={CALL: array(9 * WAD, age_s=601)},
        settlements={PUT: 180 * WAD},
        world=Globals(breaker_level=3, breaker_raised_at_s=NOW_S - 1),
    )
    listed = HybridMarket(deployment(markets=PERPS | OPTIONS))
    account = confirmed(cash_wad=WAD, legs=(Leg(PUT, WAD, 0), Leg(CALL, -WAD, 0)))
    found = listed.assess(account, changed(view, "BTC/USD", fast_observed_at_s=NOW_S - 600), AT)
    assert isinstance(found, Assessment)
    assert (found.fresh, found.slow_only, found.arrays_silent) == (False, True, True)
    assert (found.breaker_level, found.slices_halted) == (3, True)
    assert found.settlable == (PUT,)


def test_a_steward_is_told_which_bound_an_array_breaks() -> None:
    listed = HybridMarket(deployment(markets=PERPS | OPTIONS))
    assert listed.broken_bound(PUT, array(40 * WAD, delta=-WAD), NOW_S) is None
    broken = listed.broken_bound(PUT, array(191 * WAD, delta=-WAD), NOW_S)
    assert broken is not None
    assert broken.rule == "array.mark"


def test_a_flag_is_foreseen_with_its_cool_off_and_its_bond() -> None:
    found = assessed(phase=Phase.HEALTHY, last_risk_s=NOW_S - 5, last_risk_block=99)
    assert found.earliest_alarm == ChainTime(100, NOW_S + 7)
    assert found.bond_wad == 50 * WAD
    assert found.reward_wad == 22 * WAD


def test_a_dead_slow_feed_is_judged_and_called_stale() -> None:
    dead = replace(feed_view("BTC/USD", 200 * WAD), slow_wad=0, slow_ok=False)
    found = MARKET.assess(replace(worked_example(), cash_wad=-WAD), seen({"BTC/USD": dead}), AT)
    assert isinstance(found, Assessment)
    assert (found.fresh, found.fast_fresh) == (False, True)
    assert found.execution.equity_wad == -21_001 * WAD


@pytest.mark.parametrize(
    ("account", "what"),
    [
        (replace(worked_example(), slope_choice=1), "slope 1"),
        (confirmed(cash_wad=0, legs=(Leg(9, WAD, 0),)), "market 9"),
        (confirmed(cash_wad=0, legs=(Leg(2, WAD, 0),)), "ETH/USD"),
    ],
)
def test_what_cannot_be_valued_is_unknown_and_not_previewed(account: Account, what: str) -> None:
    views = seen({"BTC/USD": feed_view("BTC/USD", 200 * WAD)})
    found = MARKET.assess(account, views, AT)
    assert isinstance(found, Unknown)
    assert found.what == what
    refused = MARKET.preview(assessed(), replace(account, key=taker().key), views, WAD)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "oracle.unknown"
    assert what in refused.reason.evidence


def test_a_preview_says_what_the_slice_brings_the_taker() -> None:
    market = HybridMarket(deployment(FLAT))
    found = market.assess(worked_example(), oracles(), AT)
    assert isinstance(found, Assessment)
    preview = market.preview(found, taker(cash_wad=220 * WAD), oracles(), WAD)
    assert isinstance(preview, SlicePreview)
    assert preview.fraction_wad == WAD // 8
    assert preview.notional_wad == 2_500 * WAD
    assert preview.taker_fee_wad == 20 * WAD
    assert preview.taker_mark_wad == 0
    assert preview.taker_after.cash_wad == 240 * WAD
    assert preview.taker_passes
    poor = market.preview(found, taker(cash_wad=179 * WAD), oracles(), WAD)
    assert isinstance(poor, SlicePreview)
    assert not poor.taker_passes


def test_the_taker_sees_what_an_execution_price_off_the_fast_one_costs() -> None:
    apart = seen({"BTC/USD": feed_view("BTC/USD", 196 * WAD, 200 * WAD)})
    found = MARKET.assess(worked_example(), apart, AT)
    assert isinstance(found, Assessment)
    preview = MARKET.preview(found, taker(), apart, WAD)
    assert isinstance(preview, SlicePreview)
    moved = preview.taker_after.legs[0].size_wad
    # p_L is 198, held a band of 1% below the slow price; the fast price is 2 lower.
    assert preview.taker_mark_wad == -2 * moved


def test_a_preview_refuses_as_the_contract_would() -> None:
    calm = replace(assessed(), account=replace(worked_example(), cash_wad=400 * WAD))
    found = MARKET.preview(calm, taker(), oracles(), WAD)
    assert isinstance(found, Refuse)
    assert found.reason.rule == "slope.not_breached"


def test_a_revert_is_explained_in_the_contracts_words() -> None:
    data = load("Liquidator").errors["NotBreached"].selector + encode(["int256", "uint256"], [-5, 7])
    raw = Refuse(Reason("simulation.reverted", "0x" + data.hex(), "must not revert"))
    explained = Reason("simulation.reverted", "NotBreached(equity=-5, requirement=7)", "must not revert")
    assert MARKET.explain(raw) == Refuse(explained)
    said = Refuse(Reason("simulation.reverted", "execution reverted", "must not revert"))
    assert MARKET.explain(said) == said
