"""What positions on one underlying are worth and require together: by hand, and what always holds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import ArrayView, Kind, Leg
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.arrays import SLACK_WAD, broken_bound
from keeper.protocols.hybrid.params import Listed, Ramp, Risk
from keeper.protocols.hybrid.portfolio import (
    THIRDS,
    Position,
    is_current,
    is_silent,
    requirement_wad,
    unit_value_wad,
)
from keeper.units import WAD, Wad
from tests.unit.protocols.hybrid.books import (
    CALL,
    EXPIRY_S,
    NOW_S,
    OPTIONS,
    PERPS,
    PRICES,
    PUT,
    array,
    confirmed,
    oracles,
    setting,
    still,
)

PRICE = 200 * WAD
RISK = Risk(5 * WAD // 100, 8 * WAD // 100, WAD // 100)
"""A range of 10 a unit, and 2 for each short option."""
PERP, OTHER_PERP = Listed(1, "BTC/USD"), Listed(7, "BTC/USD")
CALL_210, CALL_230 = OPTIONS[CALL], Listed(8, "BTC/USD", Kind.CALL, 230 * WAD, EXPIRY_S)
PUT_190, CALL_LATER = OPTIONS[PUT], replace(OPTIONS[CALL], market=9, expiry_s=EXPIRY_S + 1)
# In the order of SPAN: flat, +1/3, -1/3, +2/3, -2/3, +3/3, -3/3, volatility up and down, and the extremes.
PNL = [each * WAD for each in (1, -1, 3, 1, -1, -3, 5, 3, -2, -4, 8, 6, -3, -5, 30, -9)]
LIVE = array(9 * WAD, *PNL)


def perp(units: int, market: Listed = PERP) -> Position:
    return Position(market, units * WAD, 0)


def option(units: int, market: Listed = CALL_210, of: ArrayView | None = LIVE) -> Position:
    return Position(market, units * WAD, 0, of)


def required(*positions: Position, rate: Wad = RISK.mmr_wad, now_s: int = NOW_S) -> Wad:
    return requirement_wad(positions, PRICE, risk=RISK, rate_wad=rate, now_s=now_s)


def quote(amount: str) -> Wad:
    """Read an amount of quote with up to 18 decimals."""
    whole, _, decimals = amount.partition(".")
    return int(whole) * WAD + int(decimals.ljust(18, "0"))


# --- worth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("market", "price", "expected"),
    [
        (CALL_210, 200, "9"),
        (CALL_210, 204, "11"),
        (CALL_210, 196, "7"),
        (CALL_210, 170, "0"),
        (CALL_210, 400, "190"),
        (PUT_190, 200, "9"),
        (PUT_190, 150, "40"),
        (PUT_190, 0, "190"),
    ],
)
def test_a_mark_moves_along_its_delta_between_payoff_and_ceiling(
    market: Listed, price: int, expected: str
) -> None:
    mine = LIVE if market.kind is Kind.CALL else replace(LIVE, delta_wad=-WAD // 2)
    assert unit_value_wad(option(1, market, mine), price * WAD) == quote(expected)


def test_a_mark_above_what_an_option_can_be_worth_counts_as_that() -> None:
    assert unit_value_wad(option(1, of=array(300 * WAD)), PRICE) == PRICE
    assert unit_value_wad(option(1, PUT_190, array(300 * WAD, delta=0)), PRICE) == 190 * WAD


def test_an_option_without_an_array_is_worth_its_payoff_and_a_settled_one_its_last() -> None:
    bare = option(1, of=None)
    assert unit_value_wad(bare, 250 * WAD) == 40 * WAD
    assert unit_value_wad(replace(bare, settlement_wad=211 * WAD), 999 * WAD) == WAD
    assert unit_value_wad(replace(option(1, PUT_190), settlement_wad=150 * WAD), 999 * WAD) == 40 * WAD


def test_a_mark_is_rounded_down_whichever_way_the_price_moved() -> None:
    third = array(9 * WAD, delta=WAD // 3)
    for moved, expected in ((2, 0), (-2, -1)):
        assert unit_value_wad(option(1, of=third), PRICE + moved) == 9 * WAD + expected


# --- perps ---------------------------------------------------------------------------------------


def test_perps_of_one_underlying_require_their_net_position() -> None:
    assert required(perp(3)) == 30 * WAD
    assert required(perp(3), perp(-1, OTHER_PERP)) == 20 * WAD
    assert required(perp(-3), perp(3, OTHER_PERP)) == 0


# --- scenarios -----------------------------------------------------------------------------------


def test_an_option_held_long_requires_its_worst_scenario() -> None:
    assert required(option(1)) == 5 * WAD


def test_an_option_sold_requires_its_worst_scenario_and_the_least_for_a_short_one() -> None:
    # The extreme loses 30, of which a third counts: more than the 8 of the whole range.
    assert required(option(-1)) == (10 + 2) * WAD


def test_a_covered_call_requires_less_than_its_parts() -> None:
    assert required(option(-1), perp(1)) == (7 + 2) * WAD
    assert required(perp(1)) == 10 * WAD


def test_what_gains_in_every_scenario_requires_nothing() -> None:
    assert required(option(1, of=array(9 * WAD, *[WAD] * 16))) == 0


def test_losses_round_up_and_gains_down_in_every_scenario() -> None:
    # Half a wei gained is nothing and half a wei lost a wei; 1% of 200 wei comes besides.
    tiny = Position(CALL_210, 1, 0, array(9 * WAD, *[WAD // 2] * 16))
    assert required(tiny) == 0
    assert required(replace(tiny, size_wad=-1)) == 1 + 2


def test_initial_margin_grows_the_range_and_all_that_comes_with_it() -> None:
    assert required(perp(1), rate=RISK.imr_wad) == 16 * WAD
    assert required(option(-1), rate=RISK.imr_wad) == (10 + 2) * 8 * WAD // 5
    assert required(option(1), rate=RISK.imr_wad) == 8 * WAD


# --- without current arrays ----------------------------------------------------------------------


def test_an_array_is_current_for_ten_minutes_and_two_per_cent() -> None:
    assert is_current(LIVE, 204 * WAD, LIVE.observed_at_s + 600)
    assert not is_current(LIVE, 204 * WAD + 1, LIVE.observed_at_s)
    assert not is_current(LIVE, 196 * WAD - 1, LIVE.observed_at_s)
    assert not is_current(LIVE, PRICE, LIVE.observed_at_s + 601)
    assert not is_current(None, PRICE, NOW_S)


@pytest.mark.parametrize(("age_s", "expected"), [(600, False), (601, True), (4199, True), (4200, False)])
def test_an_array_is_silent_from_ten_to_seventy_minutes(age_s: int, expected: bool) -> None:
    position = option(1)
    now_s = LIVE.observed_at_s + age_s
    assert is_silent(position, now_s) is expected
    assert not is_silent(replace(position, settlement_wad=PRICE), now_s)
    assert not is_silent(option(1, of=None), now_s)
    assert not is_silent(perp(1), now_s)


LATE = NOW_S + 600
MAX_LOSSES = [
    ("a bought call can lose its mark", (option(1),), "9"),
    # Bought back at the end of the range above, 210; its mark of 9 was received.
    ("a sold call can lose without end", (option(-1),), "203"),
    ("a sold put can lose its strike", (option(-1, PUT_190, array(9 * WAD, delta=0)),), "183"),
    ("a spread can lose what it is worth", (option(1), option(-1, CALL_230, array(3 * WAD))), "8"),
    ("a sold spread the width of it", (option(-1), option(1, CALL_230, array(3 * WAD))), "16"),
    # What covers the second call is worth 210 at the strike, and nothing at a price of nothing.
    ("a sold put beside it loses at the other end", (option(-1), option(-1, PUT_190, None)), "395"),
    ("expiries do not cover each other", (option(1), option(-1, CALL_LATER)), "212"),
    ("perps require what they do alone", (option(1), perp(1)), "19"),
    ("a perp covers a sold call", (option(-1), perp(1)), "12"),
    ("a sold perp covers a sold put", (option(-1, PUT_190, None), perp(-1)), "12"),
    # The array is a call's: in a rise both lose.
    ("cover takes nothing off the last arrays", (option(-1, PUT_190), perp(-1)), "22"),
    ("a sold perp covers no call", (option(-1), perp(-1)), "213"),
    ("perps that cancel cover nothing", (option(-1), perp(1), perp(-1, OTHER_PERP)), "203"),
    # Half of 201 each.
    ("perps cover an equal part", (option(-1), option(-1, CALL_LATER), perp(1)), "215"),
    ("a bought call costs its mark", (option(-1), option(1, CALL_230, array(3 * WAD)), perp(1)), "15"),
    # Without the call sold the other could lose its 9.
    ("cover that asks for more is left", (option(1), option(-1, CALL_230, array(3 * WAD)), perp(1)), "18"),
    ("nothing posted is worth its payoff", (option(1, of=None), option(-1, CALL_230, None)), "2"),
]


@pytest.mark.parametrize(
    ("positions", "expected"), [row[1:] for row in MAX_LOSSES], ids=[row[0] for row in MAX_LOSSES]
)
def test_options_with_old_arrays_require_the_most_that_they_can_lose(
    positions: tuple[Position, ...], expected: str
) -> None:
    assert required(*positions, now_s=LATE) == quote(expected)


def test_one_old_array_among_the_options_of_an_underlying_takes_all_to_their_most_loss() -> None:
    old = replace(LIVE, observed_at_s=NOW_S - 601)
    assert required(option(1), option(1, CALL_230, replace(old, mark_wad=3 * WAD))) == 12 * WAD


# --- whole books ---------------------------------------------------------------------------------


def test_underlyings_do_not_offset_each_other_and_settled_legs_require_nothing() -> None:
    account = confirmed(
        cash_wad=0, legs=(Leg(1, WAD, 0), Leg(2, -WAD, 0), Leg(CALL, -2 * WAD, 5 * WAD), Leg(PUT, WAD, 0))
    )
    view = oracles(arrays={PUT: array(9 * WAD, *PNL, delta=0)}, settlements={CALL: 213 * WAD})
    found = math.maintenance(account, PRICES, setting(view, markets=PERPS | OPTIONS))
    # 5% of 200 against the put's gains: -10 with -3 or -5, and +10 with +8; 4% of 1500 besides.
    assert found.requirement_wad == (15 + 60) * WAD
    assert found.notional_wad == (200 + 1_500 + 200) * WAD
    assert found.equity_wad == (200 - 1_500 - 6 + 5 + 9) * WAD


# --- terms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now_s", "expected"), [(0, 10), (100, 10), (101, 10), (110, 11), (199, 19), (200, 20), (10**9, 20)]
)
def test_a_ramp_goes_straight_and_never_ahead_of_the_line(now_s: int, expected: int) -> None:
    assert Ramp(10, 20, 100, 200).at(now_s) == expected


def test_a_falling_ramp_is_rounded_toward_its_start_too() -> None:
    assert [Ramp(20, 10, 100, 200).at(now_s) for now_s in (100, 101, 110, 199, 200)] == [20, 20, 19, 11, 10]
    assert still(7).at(0) == 7


# --- bounds of an array --------------------------------------------------------------------------


def scenario_prices(ref: Wad) -> list[Wad]:
    return [max(0, ref + ref * RISK.mmr_wad // (3 * WAD) * thirds) for thirds in THIRDS]


def at_payoff(market: Listed) -> ArrayView:
    """The least that an option can be worth, in every scenario."""
    mark = market.payoff_wad(PRICE)
    delta = 0 if market.kind is Kind.CALL else -0
    return array(mark, *(market.payoff_wad(price) - mark for price in scenario_prices(PRICE)), delta=delta)


@pytest.mark.parametrize("market", [CALL_210, PUT_190])
def test_an_array_at_its_bounds_is_accepted_and_one_beyond_the_slack_is_not(market: Listed) -> None:
    least = at_payoff(market)
    assert broken_bound(least, market, RISK.mmr_wad) is None
    lower = replace(least, pnl_wad=tuple(pnl - SLACK_WAD for pnl in least.pnl_wad))
    assert broken_bound(lower, market, RISK.mmr_wad) is None
    for number in range(16):
        pnl = [*lower.pnl_wad]
        pnl[number] -= 1
        broken = broken_bound(replace(lower, pnl_wad=tuple(pnl)), market, RISK.mmr_wad)
        assert broken is not None
        assert broken.rule == f"array.scenario_{number}"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"ref_wad": 0}, "array.no_ref"),
        ({"delta_wad": -1}, "array.delta"),
        ({"delta_wad": WAD + 1}, "array.delta"),
        ({"mark_wad": PRICE + SLACK_WAD + 1}, "array.mark"),
        ({"mark_wad": PRICE}, "array.scenario_4"),
    ],
)
def test_an_array_that_no_model_gives_is_refused(changes: dict[str, Wad], rule: str) -> None:
    broken = broken_bound(replace(at_payoff(CALL_210), **changes), CALL_210, RISK.mmr_wad)  # type: ignore[arg-type]
    assert broken is not None
    assert broken.rule == rule


# --- properties ----------------------------------------------------------------------------------

sizes = st.integers(1, 10**24).flatmap(lambda size: st.sampled_from([size, -size]))
pnls = st.lists(st.integers(-(10**20), 10**20), min_size=16, max_size=16)
options = st.builds(
    Position,
    st.sampled_from([CALL_210, CALL_230, PUT_190]),
    sizes,
    st.just(0),
    pnls.map(lambda pnl: array(9 * WAD, *pnl, delta=0)),
)
perps = st.builds(Position, st.just(PERP), sizes, st.just(0))
groups = st.lists(st.one_of(options, perps), min_size=1, max_size=4)


@given(st.lists(perps, min_size=1, max_size=5))
def test_perps_require_the_same_with_scenarios_and_without_but_for_a_wei_each(group: list[Position]) -> None:
    beside = replace(option(1, of=array(0, delta=0)), size_wad=1)
    assert 0 <= required(*group, beside) - required(*group) <= len(group)


@given(groups, groups)
def test_books_together_require_no_more_than_apart(one: list[Position], other: list[Position]) -> None:
    assert required(*one, *other) <= required(*one) + required(*other) + 1


@given(groups, groups)
def test_with_old_arrays_no_more_than_with_perps_and_options_apart(
    one: list[Position], other: list[Position]
) -> None:
    """A perp sold takes away what another perp covers."""
    parts = [
        [each for each in book if each.market.is_option is option]
        for book in (one, other)
        for option in (False, True)
    ]
    together = required(*one, *other, now_s=LATE)
    assert together <= sum(required(*part, now_s=LATE) for part in parts) + 1


@given(groups, st.integers(2, 1000), st.sampled_from([NOW_S, LATE]))
def test_the_requirement_grows_with_the_book(group: list[Position], times: int, now_s: int) -> None:
    larger = [replace(position, size_wad=position.size_wad * times) for position in group]
    # Each position rounds by a few wei, and by a wei of size where it is covered in part, 210 and 200 to pay
    # at most; the smaller book counts that so many times.
    slack = (8 if now_s == NOW_S else 8 + 410) * times * len(group)
    assert abs(required(*larger, now_s=now_s) - times * required(*group, now_s=now_s)) <= slack


@given(groups)
def test_the_most_loss_leaves_what_the_worst_payoff_leaves(group: list[Position]) -> None:
    sold = [position for position in group if position.market.is_option]
    loss = required(*sold, now_s=LATE) if sold else 0
    worth = sum(position.size_wad * unit_value_wad(position, PRICE) // WAD for position in sold)
    for end in (0, 100 * WAD, 190 * WAD, 205 * WAD, 210 * WAD):
        ends = sum(position.size_wad * position.market.payoff_wad(end) for position in sold) // WAD
        assert worth - loss <= ends + len(sold)
