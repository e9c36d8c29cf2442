"""A slice by the contract's rules: the worked example, the sale, the window, dust, and what never changes."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keeper.domain import (
    Account,
    BucketView,
    ChainTime,
    FlagState,
    Globals,
    Holding,
    Leg,
    OracleView,
    Phase,
    Refuse,
)
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.clearing import Move, move, settle
from keeper.protocols.hybrid.liquidator import Slice, bond_wad, carry, liquidate, outlook, reward_wad
from keeper.protocols.hybrid.params import SlopeParams
from keeper.units import WAD, FeedId, Wad
from tests.unit.protocols.hybrid.books import (
    AT,
    BARE,
    CALL,
    COLLATERALS,
    FLAT,
    NOW_S,
    OPTIONS,
    PERPS,
    PRICES,
    PUT,
    SLOPE,
    array,
    changed,
    confirmed,
    feed_view,
    oracles,
    rules,
    seen,
    setting,
    taker,
    worked_example,
)


def slice_of(
    account: Account,
    slope: SlopeParams = BARE,
    *,
    by: Account | None = None,
    prices: dict[FeedId, Wad] | None = None,
    at: ChainTime = AT,
    most: Wad = WAD,
    insurance: Wad = 0,
) -> Slice:
    view = oracles(prices, world=Globals(insurance_wad=insurance, drawable_wad=insurance))
    found = liquidate(account, by or taker(), view, at, rules(slope), max_fraction_wad=most)
    assert isinstance(found, Slice), found
    return found


def test_the_worked_example_to_the_wei() -> None:
    buyer = taker(cash_wad=10_000 * WAD)
    done = slice_of(worked_example(), FLAT, by=buyer)
    assert done.fraction_wad == 125 * WAD // 1000
    assert done.moves == (Move(1, 125 * WAD // 10, 2_500 * WAD, 2_500 * WAD),)
    assert done.account.legs == (Leg(1, 875 * WAD // 10, -18_375 * WAD),)
    assert done.account.cash_wad == 150 * WAD
    assert (done.after.equity_wad, done.after.requirement_wad) == (875 * WAD, 875 * WAD)
    assert done.taker.legs == (Leg(1, 125 * WAD // 10, -2_500 * WAD),)
    assert done.taker.cash_wad == 10_020 * WAD
    assert done.fee.whole_wad - done.fee.taker_wad == 5 * WAD
    assert done.account.flag.tranche_nonce == 4
    assert done.account.flag.step_used_wad == 125 * WAD // 1000
    assert (done.taker.last_risk_s, done.taker.last_risk_block) == (NOW_S, 100)
    before = (300 - 21_000) * WAD
    assert done.account.cash_wad + sum(leg.quote_leg_wad for leg in done.account.legs) == -18_225 * WAD
    assert before == -18_225 * WAD + 20 * WAD - 2_500 * WAD + 5 * WAD


@pytest.mark.parametrize(
    ("tau_s", "equity_wad", "requirement_wad"),
    [(0, 875 * WAD, 875 * WAD), (1201, 847368421052631579000, 736842105263157895000)],
)
def test_the_slope_ends_where_its_published_rows_say(
    tau_s: int, equity_wad: Wad, requirement_wad: Wad
) -> None:
    slope = replace(FLAT, step_cap_wad=WAD, beta_cure_wad=WAD)
    done = slice_of(replace(worked_example(), flag=replace(worked_example().flag, tau_s=tau_s)), slope)
    assert (done.after.equity_wad, done.after.requirement_wad) == (equity_wad, requirement_wad)


def test_collateral_is_sold_for_a_debt_at_no_discount_in_the_first_second() -> None:
    account = replace(worked_example(), cash_wad=-100 * WAD, holdings=(Holding(1, 12 * WAD),))
    done = slice_of(account)
    assert [(sale.amount_wad, sale.paid_wad) for sale in done.sales] == [(WAD // 2, 100 * WAD)]
    assert done.account.holdings == (Holding(1, 115 * WAD // 10),)
    assert done.taker_mark_wad == 0


def test_the_discount_of_a_sale_grows_with_the_time_since_confirmation() -> None:
    account = confirmed(
        cash_wad=-100 * WAD,
        legs=(Leg(1, 100 * WAD, -21_000 * WAD),),
        holdings=(Holding(1, 12 * WAD),),
        tau_s=600,
        since_confirmation_s=600,
    )
    (sale,) = slice_of(account).sales
    # Half of 15% after half of the slope; rounded up, lest a debt of a few wei stays.
    assert sale.amount_wad == 100 * WAD // 185 + 1
    assert sale.paid_wad == 100 * WAD


def test_a_holding_that_is_sold_whole_gives_its_place_to_the_last() -> None:
    account = confirmed(
        cash_wad=-900 * WAD,
        legs=(Leg(1, 100 * WAD, -20_100 * WAD),),
        holdings=(Holding(1, 2 * WAD), Holding(2, 200 * WAD)),
    )
    done = slice_of(account)
    assert [sale.feed for sale in done.sales] == ["BTC/USD", "SYN/USD"]
    assert done.account.holdings[0].collateral == 2
    # The debt is paid; then each unit realises the loss of one quote, and the fee is taken.
    assert done.account.cash_wad == -done.moves[0].size_wad - done.fee.whole_wad


def test_the_window_lets_through_a_fifth_and_then_nothing() -> None:
    account = replace(worked_example(), cash_wad=-50 * WAD, holdings=(Holding(1, 10 * WAD),))
    first = slice_of(account, replace(SLOPE, min_slice_wad=0), by=taker())
    assert first.fraction_wad == WAD // 5
    again = liquidate(first.account, taker(), oracles(), AT, rules(), max_fraction_wad=WAD)
    assert isinstance(again, Refuse)
    assert again.reason.rule == "slope.step_cap"


def test_a_window_that_is_over_begins_anew() -> None:
    flag = replace(worked_example().flag, step_start_s=NOW_S - 30, step_used_wad=WAD // 5)
    look = outlook(replace(worked_example(), flag=flag), oracles(), AT, rules())
    assert look.step_room_wad == WAD // 5
    assert (look.flag.step_start_s, look.flag.step_used_wad) == (NOW_S, 0)


def test_what_is_left_of_a_window_is_a_part_of_what_is_left_of_the_book() -> None:
    flag = replace(worked_example().flag, step_start_s=NOW_S - 29, step_used_wad=WAD // 10)
    look = outlook(replace(worked_example(), flag=flag), oracles(), AT, rules())
    assert look.step_room_wad == WAD // 10 * WAD // (9 * WAD // 10)


def test_dust_goes_whole() -> None:
    small = confirmed(cash_wad=9 * WAD, legs=(Leg(1, WAD, -200 * WAD),))
    assert slice_of(small, SLOPE).fraction_wad == WAD
    left = confirmed(cash_wad=54 * WAD, legs=(Leg(1, 6 * WAD, -1_200 * WAD),))
    assert slice_of(left, SLOPE).fraction_wad == WAD


def test_a_slice_is_raised_to_the_smallest_one() -> None:
    barely = confirmed(cash_wad=999 * WAD, legs=(Leg(1, 100 * WAD, -20_000 * WAD),))
    assert slice_of(barely, SLOPE).fraction_wad == WAD * 500 // 20_000
    refused = liquidate(barely, taker(), oracles(), AT, rules(SLOPE), max_fraction_wad=WAD // 100)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "slope.slice_outside"


def test_an_insolvent_account_pays_no_fee_and_its_taker_is_paid_by_the_insurance() -> None:
    account = confirmed(cash_wad=-10 * WAD, legs=(Leg(1, 100 * WAD, -20_000 * WAD),))
    done = slice_of(account, SLOPE, insurance=40 * WAD)
    assert done.fraction_wad == WAD
    assert (done.fee.whole_wad, done.fee.from_insurance_wad) == (0, 40 * WAD)
    assert slice_of(account, SLOPE, insurance=10**6 * WAD).fee.from_insurance_wad == 100 * WAD
    assert (done.bad_debt_wad, done.covered_wad) == (10 * WAD, 0)
    assert slice_of(account, SLOPE, insurance=107 * WAD).covered_wad == 7 * WAD
    assert done.account.phase is Phase.CLOSED
    assert done.account.cash_wad == 0


def test_debt_with_collateral_behind_it_starts_the_clock_of_its_sale() -> None:
    account = confirmed(
        cash_wad=-10 * WAD,
        legs=(Leg(1, 100 * WAD, -20_000 * WAD), Leg(3, WAD, -8_000 * WAD)),
        holdings=(Holding(1, 30 * WAD),),
    )
    done = slice_of(account, SLOPE)
    assert done.account.phase is Phase.CONFIRMED
    assert not done.account.legs
    assert done.account.debt_since_s == NOW_S


def test_an_account_that_the_slice_makes_safe_is_cured_and_keeps_its_tau_for_an_hour() -> None:
    account = replace(worked_example(), flag=replace(worked_example().flag, tau_s=1300))
    done = slice_of(account)
    assert done.account.phase is Phase.HEALTHY
    assert (done.account.flag.carry_tau_s, done.account.flag.carried_at_s) == (1300, NOW_S)
    assert carry(done.account.flag, SLOPE, NOW_S) == 1200
    assert carry(done.account.flag, SLOPE, NOW_S + 3600) in {599, 600}
    assert carry(done.account.flag, SLOPE, NOW_S + 3601) == 0


def test_the_clock_advances_by_at_most_half_a_minute_and_stands_while_a_feed_is_stale() -> None:
    account = worked_example()
    for waited_s, passed_s in ((0, 0), (7, 7), (12, 12), (13, 0)):
        look = outlook(account, oracles(), ChainTime(101, NOW_S + waited_s), rules())
        assert (look.sight.fresh, look.flag.tau_s) == (waited_s <= 12, passed_s)
    poked_long_ago = replace(account, flag=replace(account.flag, last_poke_s=NOW_S - 100))
    assert outlook(poked_long_ago, oracles(), AT, rules()).flag.tau_s == 30
    silent = changed(oracles(), "BTC/USD", slow_ok=False)
    assert outlook(poked_long_ago, silent, AT, rules()).flag.tau_s == 0


def test_a_healthy_account_is_judged_as_if_flagged_and_confirmed_now() -> None:
    carried = FlagState(
        carry_tau_s=600, carried_at_s=NOW_S, fee_cap_wad=1, step_used_wad=WAD, confirmed_at_s=5
    )
    look = outlook(replace(worked_example(), phase=Phase.HEALTHY, flag=carried), oracles(), AT, rules())
    assert (look.flag.tau_s, look.since_confirmation_s) == (600, 0)
    assert look.kappa_wad == SLOPE.k0_wad
    assert look.step_room_wad == WAD // 5


def test_bond_and_reward_have_bounds() -> None:
    m = math.maintenance(worked_example(), PRICES, setting())
    assert bond_wad(m) == 50 * WAD
    assert bond_wad(replace(m, notional_wad=10**6 * WAD)) == 200 * WAD
    assert bond_wad(replace(m, notional_wad=10**9 * WAD)) == 5_000 * WAD
    fresh = FlagState(flagged_at_s=NOW_S)
    assert reward_wad(fresh, m) == 22 * WAD
    assert reward_wad(fresh, replace(m, equity_wad=100 * WAD)) == 10 * WAD
    assert reward_wad(fresh, replace(m, equity_wad=-WAD)) == 0
    assert reward_wad(replace(fresh, carried_at_s=NOW_S - 3600), m) == 0


def test_a_taker_that_turns_its_position_keeps_its_place_and_realises_the_closed_part() -> None:
    short = taker(legs=(Leg(2, WAD, 0), Leg(1, -10 * WAD, 2_100 * WAD), Leg(3, WAD, 0)))
    turned = move(short, Move(1, 25 * WAD, 5_000 * WAD), NOW_S)
    assert turned.legs[1] == Leg(1, 15 * WAD, -3_000 * WAD)
    assert turned.cash_wad == short.cash_wad + 100 * WAD
    closed = move(short, Move(2, -WAD, -1_500 * WAD), NOW_S)
    assert [leg.market for leg in closed.legs] == [3, 1]


REFUSALS = [
    ("slope.not_confirmed", {"phase": Phase.FLAGGED}, {}),
    ("slope.not_breached", {"cash_wad": 400 * WAD}, {}),
    ("taker.own_account", {}, {"key": worked_example().key[:20] + b"\1" * 12}),
    ("taker.not_healthy", {}, {"phase": Phase.FLAGGED}),
    ("taker.no_cash", {"cash_wad": -100 * WAD, "holdings": (Holding(1, 12 * WAD),)}, {"cash_wad": 99 * WAD}),
    ("taker.too_many_legs", {}, {"legs": tuple(Leg(number, WAD, 0) for number in range(2, 10))}),
]


@pytest.mark.parametrize(("rule", "of_account", "of_taker"), REFUSALS)
def test_what_the_contract_reverts_on_is_refused(
    rule: str, of_account: dict[str, object], of_taker: dict[str, object]
) -> None:
    account = replace(worked_example(), **of_account)  # type: ignore[arg-type]
    buyer = replace(taker(), **of_taker)  # type: ignore[arg-type]
    found = liquidate(account, buyer, oracles(), AT, rules(), max_fraction_wad=WAD)
    assert isinstance(found, Refuse)
    assert found.reason.rule == rule


def test_a_stale_feed_of_either_side_is_refused() -> None:
    late = ChainTime(101, NOW_S + 13)
    stale = liquidate(worked_example(), taker(), oracles(), late, rules(), max_fraction_wad=WAD)
    views = changed(oracles(), "SYN/USD", slow_ok=False)
    held = taker(legs=(Leg(3, WAD, -7 * WAD),))
    of_taker = liquidate(worked_example(), held, views, AT, rules(), max_fraction_wad=WAD)
    for found in (stale, of_taker):
        assert isinstance(found, Refuse)
        assert found.reason.rule == "oracle.stale"


def test_nothing_to_close_and_nothing_to_sell_is_refused() -> None:
    found = liquidate(worked_example(), taker(), oracles(), AT, rules(), max_fraction_wad=0)
    assert isinstance(found, Refuse)
    assert found.reason.rule == "slope.empty_slice"


# --- whose slope ---------------------------------------------------------------------------------

EARLY = replace(SLOPE, beta_wad=60 * WAD // 100, beta_cure_wad=40 * WAD // 100, beta_flag_wad=8 * WAD // 100)


def test_an_episode_keeps_the_slope_that_it_began_with() -> None:
    both = rules(SLOPE, EARLY)
    chosen = replace(worked_example(), slope_choice=1)
    assert outlook(chosen, oracles(), AT, both).slope is SLOPE
    assert outlook(replace(chosen, phase=Phase.HEALTHY), oracles(), AT, both).slope is EARLY
    begun = replace(worked_example(), flag=replace(worked_example().flag, slope=1))
    assert outlook(begun, oracles(), AT, both).slope is EARLY
    as_if_flagged = outlook(replace(chosen, phase=Phase.HEALTHY), oracles(), AT, both)
    assert as_if_flagged.flag.slope == 1


def test_who_chose_nothing_has_the_default_slope() -> None:
    later = replace(rules(SLOPE, EARLY), default_slope=1)
    calm = replace(worked_example(), phase=Phase.HEALTHY)
    assert outlook(calm, oracles(), AT, later).slope is EARLY


def test_a_takers_initial_margin_is_that_of_its_own_slope() -> None:
    steep = replace(EARLY, beta_wad=3 * WAD // 2)
    for choice, percent in ((0, 8), (1, 12.5)):
        buyer = replace(taker(), slope_choice=choice)
        done = liquidate(
            worked_example(), buyer, oracles(), AT, rules(SLOPE, steep), max_fraction_wad=WAD // 8
        )
        assert isinstance(done, Slice)
        assert done.taker_margin.requirement_wad == pytest.approx(
            percent / 100 * done.notional_wad, rel=1e-12
        )


# --- the slow oracle alone -----------------------------------------------------------------------


def silenced(view: OracleView, *feeds: FeedId) -> OracleView:
    for feed in feeds:
        view = changed(view, feed, fast_observed_at_s=NOW_S - 600)
    return view


def test_where_the_fast_price_is_silent_a_slice_is_judged_and_made_at_the_slow_one() -> None:
    feeds = {"BTC/USD": feed_view("BTC/USD", 150 * WAD, 200 * WAD)}
    view = silenced(seen(feeds), "BTC/USD")
    waiting = replace(worked_example(), flag=replace(worked_example().flag, last_poke_s=NOW_S - 20))
    look = outlook(waiting, view, AT, rules())
    assert (look.sight.fresh, look.sight.slow_only) == (False, True)
    assert look.found.fast == look.found.slow == look.found.execution
    # The clock stands: nobody can tell how long the breach has lasted.
    assert look.flag.tau_s == 0
    done = liquidate(waiting, taker(), view, AT, rules(FLAT), max_fraction_wad=WAD)
    assert isinstance(done, Slice)
    assert done.moves == (Move(1, 125 * WAD // 10, 2_500 * WAD, 2_500 * WAD),)


def test_the_slow_oracle_does_not_act_alone_before_ten_minutes_or_while_it_is_stale_itself() -> None:
    stale = changed(oracles(), "BTC/USD", fast_observed_at_s=NOW_S - 599)
    dead = changed(silenced(oracles(), "BTC/USD"), "BTC/USD", slow_ok=False)
    for view in (stale, dead):
        found = liquidate(worked_example(), taker(), view, AT, rules(), max_fraction_wad=WAD)
        assert isinstance(found, Refuse)
        assert found.reason.rule == "oracle.stale"


def test_one_feed_may_be_silent_and_another_fresh() -> None:
    account = replace(worked_example(), legs=(*worked_example().legs, Leg(2, WAD // 100, -15 * WAD)))
    look = outlook(account, silenced(oracles(), "ETH/USD"), AT, rules())
    assert (look.sight.fast, look.sight.slow_only) == (False, True)


def test_a_taker_with_a_silent_feed_is_judged_only_where_the_account_was_judged_so() -> None:
    buyer = taker(legs=(Leg(2, WAD, -1_500 * WAD),))
    alone = silenced(oracles(), "BTC/USD", "ETH/USD")
    for view, passes in ((silenced(oracles(), "ETH/USD"), False), (alone, True)):
        found = liquidate(worked_example(), buyer, view, AT, rules(), max_fraction_wad=WAD)
        assert isinstance(found, Slice) is passes


# --- options -------------------------------------------------------------------------------------

ALL = PERPS | OPTIONS


def writer() -> Account:
    """An account that sold two calls for 8 each, worth 9 now; what they require leaves it short."""
    return confirmed(cash_wad=20 * WAD, legs=(Leg(CALL, -2 * WAD, 16 * WAD), Leg(PUT, -WAD, 0)))


def option_slice(view: OracleView, account: Account | None = None) -> Slice | Refuse:
    listed = rules(BARE, markets=ALL)
    return liquidate(account or writer(), taker(), view, AT, listed, max_fraction_wad=WAD // 2)


def test_options_change_hands_at_their_marks_and_count_the_underlying_as_notional() -> None:
    view = oracles(arrays={CALL: array(9 * WAD, *[10 * WAD] * 16), PUT: array(4 * WAD, delta=0)})
    done = option_slice(view)
    assert isinstance(done, Slice)
    assert done.moves == (Move(CALL, -WAD, -9 * WAD, 200 * WAD), Move(PUT, -WAD // 2, -2 * WAD, 100 * WAD))
    assert done.account.legs == (Leg(CALL, -WAD, 8 * WAD), Leg(PUT, -WAD // 2, 0))
    # Of the call one lost; of the put two, for nothing was received for it.
    assert done.account.cash_wad == 20 * WAD - WAD - 2 * WAD - done.fee.whole_wad
    assert done.notional_wad == 300 * WAD
    assert done.taker_mark_wad == 0


def test_a_settled_option_moves_at_its_payoff_and_counts_no_notional() -> None:
    view = oracles(arrays={CALL: array(9 * WAD, *[20 * WAD] * 16)}, settlements={PUT: 180 * WAD})
    done = option_slice(view)
    assert isinstance(done, Slice)
    assert done.moves[1] == Move(PUT, -WAD // 2, -5 * WAD, 0)
    assert done.notional_wad == 200 * WAD
    assert done.oracles.buckets["BTC/USD"].used_wad == 100 * WAD


def test_while_a_risk_array_is_silent_nothing_is_sliced_and_the_clock_stands() -> None:
    account = replace(writer(), flag=replace(writer().flag, last_poke_s=NOW_S - 20))
    for age_s, silent in ((600, False), (601, True), (4199, True), (4200, False)):
        view = oracles(arrays={CALL: array(9 * WAD, *[10 * WAD] * 16, age_s=age_s)})
        found = option_slice(view, account)
        assert (isinstance(found, Refuse) and found.reason.rule == "array.silent") is silent
        look = outlook(account, view, AT, rules(markets=ALL))
        assert (look.flag.tau_s, look.sight.arrays_silent) == (0 if silent else 20, silent)


def test_a_settlement_turns_the_payoff_into_cash_and_drops_the_leg() -> None:
    view = oracles(settlements={CALL: 213 * WAD})
    done = settle(writer(), CALL, setting(view, markets=ALL))
    assert done.legs == (Leg(PUT, -WAD, 0),)
    assert done.cash_wad == (20 - 6 + 16) * WAD
    owing = settle(replace(writer(), legs=(Leg(CALL, -20 * WAD, 0),)), CALL, setting(view, markets=ALL))
    assert (owing.cash_wad, owing.debt_since_s) == (-40 * WAD, NOW_S)


# --- buckets -------------------------------------------------------------------------------------


def with_bucket(used: int, cap: int, *, age_s: int = 0) -> OracleView:
    """Buckets of one size; 12,500 of notional is what the slope allows of the worked example here."""
    bucket = BucketView(used * WAD, NOW_S - age_s, cap * WAD)
    return oracles(buckets=dict.fromkeys(PRICES, bucket))


def bucket_slice(view: OracleView, account: Account | None = None) -> Slice | Refuse:
    target = account or replace(worked_example(), cash_wad=-50 * WAD)
    return liquidate(target, taker(), view, AT, rules(BARE), max_fraction_wad=WAD)


def test_a_slice_takes_no_more_than_the_bucket_has_room_for() -> None:
    done = bucket_slice(with_bucket(3_000, 5_000))
    assert isinstance(done, Slice)
    assert done.fraction_wad == WAD // 10
    assert done.oracles.buckets["BTC/USD"] == BucketView(5_000 * WAD, NOW_S, 5_000 * WAD)
    assert done.oracles.buckets["ETH/USD"] == with_bucket(3_000, 5_000).buckets["ETH/USD"]


def test_a_bucket_fuller_than_its_cap_drains_from_its_cap_on() -> None:
    (bucket,) = outlook(worked_example(), with_bucket(9_000, 5_000, age_s=30), AT, rules()).rooms
    assert (bucket.used_wad, bucket.part_wad) == (2_500 * WAD, WAD // 8)


def test_an_option_fills_a_bucket_by_its_delta_and_one_without_an_array_whole() -> None:
    account = confirmed(cash_wad=900 * WAD, legs=(Leg(1, 100 * WAD, -20_000 * WAD), Leg(CALL, -8 * WAD, 0)))
    for arrays, notional in (
        ({CALL: array(0, delta=0)}, 20_000),
        ({CALL: array(WAD, delta=WAD // 4)}, 20_400),
        ({}, 21_600),
    ):
        (room,) = outlook(account, oracles(arrays=arrays), AT, rules(markets=ALL)).rooms
        assert room.notional_wad == notional * WAD


def test_a_book_whose_options_have_no_delta_needs_no_room() -> None:
    account = confirmed(cash_wad=5 * WAD, legs=(Leg(CALL, -8 * WAD, 0),))
    bucket = dict.fromkeys(PRICES, BucketView(0, 0, 0))
    view = oracles(arrays={CALL: array(0, delta=0)}, buckets=bucket)
    done = liquidate(account, taker(), view, AT, rules(BARE, markets=ALL), max_fraction_wad=WAD)
    assert isinstance(done, Slice)
    assert done.fraction_wad > 0
    assert done.oracles.buckets == bucket


@pytest.mark.parametrize(("used", "cap", "age_s"), [(5_000, 5_000, 0), (6_000, 5_000, 0), (0, 0, 0)])
def test_a_full_bucket_lets_nothing_through_and_one_without_size_is_closed(
    used: int, cap: int, age_s: int
) -> None:
    found = bucket_slice(with_bucket(used, cap, age_s=age_s))
    assert isinstance(found, Refuse)
    assert found.reason.rule == "bucket.empty"
    assert "BTC/USD" in found.reason.evidence


def test_a_bucket_drains_by_its_size_in_a_minute() -> None:
    for age_s, room in ((0, 0), (6, 500), (30, 2_500), (60, 5_000), (10**6, 5_000)):
        look = outlook(worked_example(), with_bucket(5_000, 5_000, age_s=age_s), AT, rules())
        (bucket,) = look.rooms
        assert bucket.cap_wad - bucket.used_wad == room * WAD


def test_the_tightest_of_several_buckets_bounds_the_slice() -> None:
    both = replace(worked_example(), legs=(Leg(1, 100 * WAD, -21_250 * WAD), Leg(2, WAD, -1_500 * WAD)))
    view = replace(
        with_bucket(0, 10**6),
        buckets={"BTC/USD": BucketView(0, 0, 2_000 * WAD)}
        | {feed: BucketView(0, 0, 75 * WAD) for feed in ("ETH/USD", "SYN/USD")},
    )
    done = bucket_slice(view, both)
    assert isinstance(done, Slice)
    assert done.fraction_wad == WAD // 20
    look = outlook(both, view, AT, rules())
    assert look.tightest is not None
    assert look.tightest.feed == "ETH/USD"


def test_an_account_close_to_ruin_is_not_held_back_but_fills_the_bucket_to_the_brim() -> None:
    ruined = replace(worked_example(), cash_wad=-200 * WAD)
    assert 2 * outlook(ruined, oracles(), AT, rules()).sold.execution.equity_wad < 1_000 * WAD
    done = bucket_slice(with_bucket(5_000, 5_000), ruined)
    assert isinstance(done, Slice)
    assert done.oracles.buckets["BTC/USD"] == BucketView(5_000 * WAD, NOW_S, 5_000 * WAD)


# --- insolvency ----------------------------------------------------------------------------------


def broke(*, tau_s: int = 0, insolvent_tau_s: int = 0, holdings: tuple[Holding, ...] = ()) -> Account:
    """Long 100 at 200, and 10 short of nothing: M = 1000, N = 20000."""
    legs = (Leg(1, 100 * WAD, -20_000 * WAD),)
    account = confirmed(cash_wad=-10 * WAD, legs=legs, holdings=holdings, tau_s=tau_s)
    return replace(account, flag=replace(account.flag, insolvent_tau_s=insolvent_tau_s))


@pytest.mark.parametrize(
    ("since_s", "expected"),
    [(1, 100), (60, 100), (61, 101 + 2 / 3), (300, 500), (600, 1_000), (9_999, 1_000)],
)
def test_the_insurance_offers_more_the_longer_nobody_comes(since_s: int, expected: float) -> None:
    done = slice_of(broke(tau_s=since_s, insolvent_tau_s=1), SLOPE, insurance=10**6 * WAD)
    assert done.fee.from_insurance_wad == pytest.approx(expected * WAD, abs=1000)
    assert done.taker.cash_wad == taker().cash_wad + done.fee.from_insurance_wad


def test_a_part_of_the_book_is_paid_a_part_of_the_offer() -> None:
    done = slice_of(broke(tau_s=600, insolvent_tau_s=1), BARE, most=WAD // 4, insurance=10**6 * WAD)
    assert done.fee.from_insurance_wad == 250 * WAD


def test_the_insurance_pays_what_it_may_and_the_next_slice_finds_less() -> None:
    view = oracles(world=Globals(insurance_wad=500 * WAD, drawable_wad=120 * WAD))
    first = liquidate(
        broke(tau_s=600, insolvent_tau_s=1), taker(), view, AT, rules(BARE), max_fraction_wad=WAD // 10
    )
    assert isinstance(first, Slice)
    assert first.fee.from_insurance_wad == 100 * WAD
    assert (first.oracles.world.insurance_wad, first.oracles.world.drawable_wad) == (400 * WAD, 20 * WAD)
    then = liquidate(first.account, taker(), first.oracles, AT, rules(BARE), max_fraction_wad=WAD)
    assert isinstance(then, Slice)
    assert then.fee.from_insurance_wad == 20 * WAD


@pytest.mark.parametrize(("level", "offered"), [(0, 550), (2, 500)])
def test_the_offer_rises_by_half_a_minute_after_any_silence_and_not_while_the_clock_stands(
    level: int, offered: int
) -> None:
    account = broke(tau_s=300, insolvent_tau_s=1)
    account = replace(account, flag=replace(account.flag, last_poke_s=NOW_S - 3600))
    world = Globals(breaker_level=level, insurance_wad=10**6 * WAD, drawable_wad=10**6 * WAD)
    done = liquidate(account, taker(), oracles(world=world), AT, rules(), max_fraction_wad=WAD)
    assert isinstance(done, Slice)
    assert done.fee.from_insurance_wad == offered * WAD


def test_the_offer_for_options_is_no_more_than_for_as_many_of_the_underlying() -> None:
    """Long 10 calls worth 100 of which the price is far: M = 1000 at max loss, 5% of 2000 as perps."""
    account = confirmed(cash_wad=-WAD, legs=(Leg(CALL, 10 * WAD, -1_000 * WAD),), tau_s=600)
    account = replace(account, flag=replace(account.flag, insolvent_tau_s=1))
    view = oracles(arrays={CALL: array(100 * WAD, ref=100 * WAD, delta=0)})
    done = liquidate(account, taker(), view, AT, rules(BARE, markets=ALL), max_fraction_wad=WAD // 2)
    assert isinstance(done, Slice)
    assert done.before.requirement_wad == 1_000 * WAD
    assert done.fee.from_insurance_wad == 50 * WAD


def test_equity_lost_at_the_execution_price_alone_leaves_the_smallest_fee_by_worth() -> None:
    """750 short at 200 with 5 of collateral: E = 50 there and -54 at 199, where the book is worth 145."""
    account = confirmed(
        cash_wad=WAD, legs=(Leg(1, 100 * WAD, -20_751 * WAD),), holdings=(Holding(1, 5 * WAD),)
    )
    view = changed(oracles(), "BTC/USD", fast_wad=199 * WAD)
    done = liquidate(account, taker(), view, AT, rules(SLOPE), max_fraction_wad=WAD)
    assert isinstance(done, Slice)
    assert done.before.equity_wad == -54 * WAD
    assert done.fee.whole_wad == pytest.approx(725 * WAD // 10, abs=10**6)
    assert done.fee.from_insurance_wad == 0
    assert done.account.flag.fee_cap_wad == account.flag.fee_cap_wad


def test_the_count_begins_when_nothing_is_left_and_ends_when_something_is() -> None:
    assert outlook(broke(), oracles(), AT, rules()).flag.insolvent_tau_s == 1
    assert outlook(broke(tau_s=40), oracles(), AT, rules()).flag.insolvent_tau_s == 41
    assert outlook(broke(tau_s=40, insolvent_tau_s=7), oracles(), AT, rules()).flag.insolvent_tau_s == 7
    held = broke(insolvent_tau_s=7, holdings=(Holding(1, WAD // 10**9),))
    assert outlook(held, oracles(), AT, rules()).flag.insolvent_tau_s == 0
    helped = replace(broke(insolvent_tau_s=7), cash_wad=WAD)
    assert outlook(helped, oracles(), AT, rules()).flag.insolvent_tau_s == 0
    stale = changed(oracles(), "BTC/USD", slow_ok=False)
    assert outlook(broke(insolvent_tau_s=7), stale, AT, rules()).flag.insolvent_tau_s == 7


# --- the breaker ---------------------------------------------------------------------------------


def braked(level: int, *, since_s: int = 0) -> OracleView:
    return oracles(world=Globals(breaker_level=level, breaker_raised_at_s=NOW_S - since_s))


@pytest.mark.parametrize(("level", "tau_s"), [(0, 20), (1, 20), (2, 0)])
def test_from_the_second_level_on_the_clock_stands_while_slices_go_on(level: int, tau_s: int) -> None:
    account = replace(worked_example(), flag=replace(worked_example().flag, last_poke_s=NOW_S - 20))
    done = liquidate(account, taker(), braked(level), AT, rules(), max_fraction_wad=WAD)
    assert isinstance(done, Slice)
    assert done.account.flag.tau_s == tau_s


@pytest.mark.parametrize(
    ("account", "since_s", "sliced"),
    [
        (worked_example(), 10**6, False),
        (broke(), 3599, False),
        (broke(), 3600, True),
    ],
)
def test_the_third_level_holds_every_slice_back_but_of_who_has_nothing_for_an_hour(
    account: Account, since_s: int, sliced: bool
) -> None:
    found = liquidate(account, taker(), braked(3, since_s=since_s), AT, rules(), max_fraction_wad=WAD)
    assert isinstance(found, Slice) is sliced
    if isinstance(found, Refuse):
        assert found.reason.rule == "breaker.level"


# --- properties ----------------------------------------------------------------------------------

sizes = st.integers(10**15, 10**22).flatmap(lambda size: st.sampled_from([size, -size]))
prices = st.fixed_dictionaries(
    {
        "BTC/USD": st.integers(10**18, 10**23),
        "ETH/USD": st.integers(10**17, 10**22),
        "SYN/USD": st.integers(10**16, 10**20),
    }
)


@st.composite
def breached(draw: st.DrawFn, ratio: st.SearchStrategy[float]) -> tuple[Account, dict[FeedId, Wad]]:
    """Draw a confirmed account whose equity is some part of its requirement at one price vector."""
    marks = draw(prices)
    markets = draw(st.lists(st.sampled_from(sorted(PERPS)), min_size=1, max_size=3, unique=True))
    legs = tuple(Leg(market, draw(sizes), draw(st.integers(-(10**24), 10**24))) for market in markets)
    kinds = draw(st.lists(st.sampled_from(sorted(COLLATERALS)), max_size=2, unique=True))
    holdings = tuple(Holding(kind, draw(st.integers(1, 10**21))) for kind in kinds)
    tau_s = draw(st.integers(0, 2000))
    since_s = draw(st.integers(0, tau_s))
    account = confirmed(cash_wad=0, legs=legs, holdings=holdings, tau_s=tau_s, since_confirmation_s=since_s)
    m = math.maintenance(account, marks, setting())
    assume(m.notional_wad > 10**16)
    cash = int(m.requirement_wad * draw(ratio)) - m.equity_wad
    account = replace(account, cash_wad=cash)
    cap = math.fee_cap(SLOPE, math.maintenance(account, marks, setting()))
    return replace(account, flag=replace(account.flag, fee_cap_wad=cap)), marks


def slack(account: Account, marks: dict[FeedId, Wad]) -> Wad:
    """Bound what the roundings of one slice may move, in wei: a wei of size is worth its price."""
    return sum(marks[PERPS[leg.market].feed] // WAD + 8 for leg in account.legs) + 8 * len(account.holdings)


def quote_in(account: Account) -> Wad:
    return account.cash_wad + sum(leg.quote_leg_wad for leg in account.legs)


def contracts_in(*accounts: Account) -> Counter[int]:
    total: Counter[int] = Counter()
    for account in accounts:
        total.update({leg.market: leg.size_wad for leg in account.legs})
    return Counter({market: size for market, size in total.items() if size})


taker_books = st.lists(
    st.tuples(st.sampled_from(sorted(PERPS)), sizes, st.integers(-(10**24), 10**24)),
    max_size=3,
    unique_by=lambda leg: leg[0],
).map(lambda legs: tuple(Leg(*leg) for leg in legs))


@given(
    case=breached(st.floats(-1, 0.999)),
    legs=taker_books,
    most=st.integers(1, WAD),
    insurance=st.integers(0, 10**22),
    slope=st.sampled_from([BARE, SLOPE]),
)
def test_cash_quote_legs_and_contracts_are_conserved(
    case: tuple[Account, dict[FeedId, Wad]],
    legs: tuple[Leg, ...],
    most: Wad,
    insurance: Wad,
    slope: SlopeParams,
) -> None:
    account, marks = case
    buyer = taker(cash_wad=10**30, legs=legs)
    view = oracles(marks, world=Globals(insurance_wad=insurance, drawable_wad=insurance))
    done = liquidate(account, buyer, view, AT, rules(slope), max_fraction_wad=most)
    if isinstance(done, Refuse):
        assert done.reason.rule in {"slope.slice_outside", "slope.not_breached", "slope.empty_slice"}
        return
    left = done.oracles.world.insurance_wad
    assert left >= 0
    to_insurance = left - insurance
    uncovered = done.bad_debt_wad - done.covered_wad
    after = quote_in(done.account) + quote_in(done.taker) + to_insurance - uncovered
    assert after == quote_in(account) + quote_in(buyer)
    assert contracts_in(done.account, done.taker) == contracts_in(account, buyer)
    sold = sum(sale.amount_wad for sale in done.sales)
    kept = sum(holding.amount_wad for holding in done.account.holdings)
    assert kept + sold == sum(holding.amount_wad for holding in account.holdings)


@given(case=breached(st.floats(0.05, 0.999)), most=st.integers(1, WAD))
def test_a_slice_lowers_no_health_and_does_not_overshoot(
    case: tuple[Account, dict[FeedId, Wad]], most: Wad
) -> None:
    account, marks = case
    done = liquidate(account, taker(10**30), oracles(marks), AT, rules(BARE), max_fraction_wad=most)
    assume(isinstance(done, Slice))
    assert isinstance(done, Slice)
    before, after, error = done.before, done.after, slack(account, marks)
    gained = after.equity_wad * before.requirement_wad - before.equity_wad * after.requirement_wad
    assert gained >= -error * (before.requirement_wad + before.equity_wad)
    if done.fraction_wad < WAD:
        assert math.scaled(after.equity_wad, done.q_wad) <= after.requirement_wad + 2 * error
    part_left = before.requirement_wad * (WAD - done.fraction_wad)
    assert abs(after.requirement_wad * WAD - part_left) <= error * WAD


@given(case=breached(st.floats(0.1, 0.99)), first=st.integers(1, WAD))
def test_splitting_a_slice_at_one_q_closes_the_same(
    case: tuple[Account, dict[FeedId, Wad]], first: Wad
) -> None:
    account, marks = case
    slope = replace(BARE, beta_cure_wad=BARE.beta_wad - 1)
    whole = liquidate(account, taker(10**30), oracles(marks), AT, rules(slope), max_fraction_wad=WAD)
    part = liquidate(account, taker(10**30), oracles(marks), AT, rules(slope), max_fraction_wad=first)
    assume(isinstance(whole, Slice) and isinstance(part, Slice))
    assert isinstance(whole, Slice)
    assert isinstance(part, Slice)
    assume(not whole.sales and whole.fraction_wad < WAD and part.account.phase is Phase.CONFIRMED)
    rest = liquidate(part.account, taker(10**30), oracles(marks), AT, rules(slope), max_fraction_wad=WAD)
    left = rest.account if isinstance(rest, Slice) else part.account
    # The error of E and M, over M - q kappa N, which is at least half of M, in each of three slices.
    error = 3 * 4 * slack(account, marks) * WAD // whole.before.requirement_wad + 200
    for one, other, leg in zip(whole.account.legs, left.legs, account.legs, strict=True):
        assert abs(one.size_wad - other.size_wad) <= abs(leg.size_wad) * error // WAD + 4


@given(case=breached(st.floats(0.1, 0.99)), parts=st.lists(st.integers(1, WAD // 2), min_size=1, max_size=6))
def test_all_fees_together_stay_within_theta_of_the_equity_at_confirmation(
    case: tuple[Account, dict[FeedId, Wad]], parts: list[Wad]
) -> None:
    account, marks = case
    budget = SLOPE.theta_wad * math.maintenance(account, marks, setting()).equity_wad // WAD
    paid, at = 0, AT
    for most in parts:
        at = ChainTime(at.block + 1, at.timestamp_s + 1)
        done = liquidate(account, taker(10**30), oracles(marks), at, rules(BARE), max_fraction_wad=most)
        if isinstance(done, Refuse) or done.account.phase is not Phase.CONFIRMED:
            break
        account, paid = done.account, paid + done.fee.whole_wad
        # A sale of collateral raises equity above what it was at confirmation; the stored cap does not rise.
        assert paid <= budget + slack(account, marks)
