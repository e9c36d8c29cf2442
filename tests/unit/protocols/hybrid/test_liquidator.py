"""A slice by the contract's rules: the worked example, the sale, the window, dust, and what never changes."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keeper.domain import Account, ChainTime, FlagState, Holding, Leg, Phase, Refuse
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.clearing import Move, move
from keeper.protocols.hybrid.liquidator import Slice, bond_wad, carry, liquidate, outlook, reward_wad
from keeper.protocols.hybrid.params import SlopeParams
from keeper.units import WAD, FeedId, Wad
from tests.unit.protocols.hybrid.books import (
    AT,
    BARE,
    COLLATERALS,
    FLAT,
    NOW_S,
    PERPS,
    PRICES,
    SLOPE,
    confirmed,
    feed_view,
    oracles,
    rules,
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
    found = liquidate(
        account,
        by or taker(),
        oracles(prices),
        at,
        rules(slope),
        max_fraction_wad=most,
        insurance_wad=insurance,
    )
    assert isinstance(found, Slice), found
    return found


def test_the_worked_example_to_the_wei() -> None:
    buyer = taker(cash_wad=10_000 * WAD)
    done = slice_of(worked_example(), FLAT, by=buyer)
    assert done.fraction_wad == 125 * WAD // 1000
    assert done.moves == (Move(1, 125 * WAD // 10, 2_500 * WAD),)
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
    assert done.bad_debt_wad == 10 * WAD
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
        assert (look.fresh, look.flag.tau_s) == (waited_s <= 12, passed_s)
    poked_long_ago = replace(account, flag=replace(account.flag, last_poke_s=NOW_S - 100))
    assert outlook(poked_long_ago, oracles(), AT, rules()).flag.tau_s == 30
    silent = {**oracles(), "BTC/USD": replace(feed_view("BTC/USD", 200 * WAD), slow_ok=False)}
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
    m = math.maintenance(worked_example(), PRICES, rules())
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
    views = {**oracles(), "SYN/USD": replace(feed_view("SYN/USD", 7 * WAD), slow_ok=False)}
    held = taker(legs=(Leg(3, WAD, -7 * WAD),))
    of_taker = liquidate(worked_example(), held, views, AT, rules(), max_fraction_wad=WAD)
    for found in (stale, of_taker):
        assert isinstance(found, Refuse)
        assert found.reason.rule == "oracle.stale"


def test_nothing_to_close_and_nothing_to_sell_is_refused() -> None:
    found = liquidate(worked_example(), taker(), oracles(), AT, rules(), max_fraction_wad=0)
    assert isinstance(found, Refuse)
    assert found.reason.rule == "slope.empty_slice"


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
    m = math.maintenance(account, marks, rules())
    assume(m.notional_wad > 10**16)
    cash = int(m.requirement_wad * draw(ratio)) - m.equity_wad
    account = replace(account, cash_wad=cash)
    cap = math.fee_cap(SLOPE, math.maintenance(account, marks, rules()))
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
    done = liquidate(
        account, buyer, oracles(marks), AT, rules(slope), max_fraction_wad=most, insurance_wad=insurance
    )
    if isinstance(done, Refuse):
        assert done.reason.rule in {"slope.slice_outside", "slope.not_breached", "slope.empty_slice"}
        return
    to_insurance = done.fee.whole_wad - done.fee.taker_wad - done.fee.from_insurance_wad
    assert insurance + to_insurance >= 0
    after = quote_in(done.account) + quote_in(done.taker) + to_insurance - done.bad_debt_wad
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
    # The error of E and M, over M - q kappa N, which is at least half of M.
    error = 4 * slack(account, marks) * WAD // whole.before.requirement_wad + 200
    for one, other, leg in zip(whole.account.legs, left.legs, account.legs, strict=True):
        assert abs(one.size_wad - other.size_wad) <= abs(leg.size_wad) * error // WAD + 4


@given(case=breached(st.floats(0.1, 0.99)), parts=st.lists(st.integers(1, WAD // 2), min_size=1, max_size=6))
def test_all_fees_together_stay_within_theta_of_the_equity_at_confirmation(
    case: tuple[Account, dict[FeedId, Wad]], parts: list[Wad]
) -> None:
    account, marks = case
    budget = SLOPE.theta_wad * math.maintenance(account, marks, rules()).equity_wad // WAD
    paid, at = 0, AT
    for most in parts:
        at = ChainTime(at.block + 1, at.timestamp_s + 1)
        done = liquidate(account, taker(10**30), oracles(marks), at, rules(BARE), max_fraction_wad=most)
        if isinstance(done, Refuse) or done.account.phase is not Phase.CONFIRMED:
            break
        account, paid = done.account, paid + done.fee.whole_wad
        # A sale of collateral raises equity above what it was at confirmation; the stored cap does not rise.
        assert paid <= budget + slack(account, marks)
