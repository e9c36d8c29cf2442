"""The 16 scenarios, one option in them, its integers, and what a book requires."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from keeper.domain import SCENARIOS, Kind
from keeper.risk import scenarios
from keeper.risk.options import YEAR_S, price
from keeper.risk.scenarios import (
    SPAN,
    WEIGHTS,
    Group,
    Option,
    OptionLeg,
    PackedArray,
    RiskArray,
    VolShocks,
    array_of,
    mark_at,
    max_loss,
    pack,
    requirement,
)
from keeper.units import WAD

NOW_S = 1_700_000_000
DAY_S = 86_400
MMR_WAD = 5 * WAD // 100
CALL = Option(2, Kind.CALL, 60_000 * WAD, NOW_S + 30 * DAY_S)
PUT = Option(3, Kind.PUT, 55_000 * WAD, NOW_S + 30 * DAY_S)
UNITS_E8 = 10**8

# One S&P future and one Dec 410 call, held long, with the extremes at the weight that counts.
FUTURE = [0, 0, 3330, 3330, -3330, -3330, 6670, 6670, -6670, -6670, 10000, 10000, -10000, -10000, 7000, -7000]
DEC_410 = [
    460,
    -610,
    2640,
    1730,
    -1270,
    -2340,
    5210,
    4540,
    -2540,
    -3430,
    8060,
    7640,
    -3380,
    -3990,
    3130,
    -1500,
]


def array(option: Option = CALL, *, spot: float = 60_000.0, vol: float = 0.6, mmr: float = 0.05) -> RiskArray:
    return array_of(option, spot=spot, vol=vol, mmr=mmr, now_s=NOW_S)


def flat(mark: float, *, spot: float = 100.0, delta: float = 0.5) -> RiskArray:
    """An array that changes in no scenario."""
    return RiskArray(spot, mark, delta, NOW_S, (0.0,) * SCENARIOS)


def dated(kind: Kind, strike: int, *, days: int = 30) -> Option:
    return Option(strike, kind, strike * WAD, NOW_S + days * DAY_S)


# --- the scenarios --------------------------------------------------------------------------------


def test_the_scenarios_are_spans_in_spans_order() -> None:
    thirds = [0, 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 9, -9]
    assert [each.move for each in SPAN] == [Fraction(each, 3) for each in thirds]
    assert [each.vol for each in SPAN] == [1, -1] * 7 + [0, 0]
    assert [each.weight for each in SPAN] == [1] * 14 + [Fraction(1, 3)] * 2
    assert len(SPAN) == SCENARIOS == len(WEIGHTS)


def test_every_value_is_the_price_in_its_scenario_less_the_price_now() -> None:
    found = array(mmr=0.06)
    given = {"strike": 60_000.0, "years": 30 * DAY_S / YEAR_S, "is_call": True}
    assert found.mark == price(spot=60_000.0, vol=0.6, **given)  # type: ignore[arg-type]
    cases = {0: (60_000, 0.78), 3: (61_200, 0.42), 8: (57_600, 0.78), 13: (56_400, 0.42)}
    cases |= {14: (70_800, 0.6), 15: (49_200, 0.6)}
    for index, (spot, vol) in cases.items():
        value = price(spot=float(spot), vol=vol, **given)  # type: ignore[arg-type]
        assert found.pnl[index] == pytest.approx(float(value) - found.mark, abs=1e-8)


@pytest.mark.parametrize(
    ("days", "power", "up", "down"),
    [
        (30.0, 0.30, 0.65, 0.35),
        (7.5, 0.30, 0.5 * (1 + 0.3 * 4**0.30), 0.5 * (1 - 0.3 * 4**0.30)),
        (1.0, 0.30, 0.5 * (1 + 0.3 * 30**0.30), 0.5 * (1 - 0.3 * 30**0.30)),
        (0.01, 0.30, 0.5 * (1 + 0.3 * 30**0.30), 0.5 * (1 - 0.3 * 30**0.30)),
        (120.0, 0.50, 0.575, 0.425),
        (1.0, 0.0, 0.65, 0.35),
        (1.0, 0.5, 0.5 * (1 + 0.3 * 30**0.5), 0.0),
    ],
)
def test_shocks_of_volatility_grow_as_an_option_gets_short(
    days: float, power: float, up: float, down: float
) -> None:
    vols = VolShocks(power=power).shocked(0.5, days)
    assert vols[:14:2] == pytest.approx([up] * 7)
    assert vols[1:14:2] == pytest.approx([down] * 7)
    assert vols[14:].tolist() == [0.5, 0.5]


def test_volatility_may_fall_by_another_share_than_it_rises() -> None:
    vols = VolShocks(up=0.5, down=0.25).shocked(0.8, 30.0)
    assert vols[:3] == pytest.approx([1.2, 0.6, 1.2])


def test_the_extreme_of_a_wide_range_is_an_underlying_worth_nothing() -> None:
    assert array(PUT, mmr=0.40).pnl[15] == pytest.approx(55_000.0 - array(PUT, mmr=0.40).mark)
    assert array(CALL, mmr=0.40).pnl[15] == -array(CALL, mmr=0.40).mark


def test_at_expiry_an_array_holds_payoffs_and_after_it_nothing() -> None:
    over = replace(CALL, expiry_s=NOW_S)
    found = array(over, spot=60_600.0)
    assert (found.mark, found.delta) == (600.0, 1.0)
    assert found.pnl[10] == pytest.approx(3030.0)
    assert found.pnl[12] == -600.0
    assert math.isnan(array(replace(CALL, expiry_s=NOW_S - 1)).mark)


# --- the integers ---------------------------------------------------------------------------------


def test_a_packed_array_has_8_decimals_and_9_of_its_delta() -> None:
    found = array()
    packed = pack(CALL, found, mmrs_wad=[MMR_WAD])
    assert (packed.market, packed.observed_at_s) == (2, NOW_S)
    assert packed.ref_e8 == 60_000 * UNITS_E8
    assert abs(packed.mark_e8 / UNITS_E8 - found.mark) <= 0.6e-8
    assert abs(packed.delta_e9 / 10**9 - found.delta) <= 0.6e-9
    for got, expected in zip(packed.pnl_e8, found.pnl, strict=True):
        assert abs(got / UNITS_E8 - expected) <= 1.1e-8


def test_the_fields_come_in_the_order_of_the_contracts_struct() -> None:
    packed = PackedArray(7, NOW_S, 11, 22, -33, tuple(range(16)))
    assert packed.fields == (7, NOW_S, 11, 22, -33, tuple(range(16)))


def test_on_chain_an_array_is_counted_in_wad() -> None:
    view = PackedArray(7, NOW_S, 11, 22, -33, (-1, *range(15))).view
    assert (view.ref_wad, view.mark_wad, view.delta_wad) == (11 * 10**10, 22 * 10**10, -33 * 10**9)
    assert view.pnl_wad[:3] == (-(10**10), 0, 10**10)
    assert view.observed_at_s == NOW_S


@pytest.mark.parametrize(
    ("option", "mark", "expected"),
    [
        (dated(Kind.CALL, 90), 9.0, 10 * UNITS_E8),
        (dated(Kind.CALL, 90), 101.0, 100 * UNITS_E8),
        (dated(Kind.CALL, 110), -1.0, 0),
        (dated(Kind.PUT, 110), 9.0, 10 * UNITS_E8),
        (dated(Kind.PUT, 110), 111.0, 110 * UNITS_E8),
        (dated(Kind.PUT, 90), -1.0, 0),
    ],
)
def test_a_mark_is_held_between_the_payoff_and_the_most_an_option_can_be_worth(
    option: Option, mark: float, expected: int
) -> None:
    assert pack(option, flat(mark), mmrs_wad=[MMR_WAD]).mark_e8 == expected


@pytest.mark.parametrize(
    ("option", "delta", "expected"),
    [
        (CALL, 1.1, 10**9),
        (CALL, -0.1, 0),
        (PUT, 0.1, 0),
        (PUT, -1.1, -(10**9)),
        (PUT, -0.25, -250_000_000),
    ],
)
def test_a_delta_is_held_between_nothing_and_the_whole_underlying(
    option: Option, delta: float, expected: int
) -> None:
    packed = pack(option, replace(array(option), delta=delta), mmrs_wad=[MMR_WAD])
    assert packed.delta_e9 == expected


def test_in_every_scenario_the_value_is_held_inside_its_bounds() -> None:
    option = dated(Kind.CALL, 90)
    packed = pack(option, flat(12.0), mmrs_wad=[10 * WAD // 100])
    values = [packed.mark_e8 + pnl for pnl in packed.pnl_e8]
    assert values[0] == 12 * UNITS_E8
    assert values[10] == 20 * UNITS_E8
    assert values[14] == 40 * UNITS_E8


def test_while_a_margin_ramps_the_bounds_of_both_ends_hold() -> None:
    option = dated(Kind.CALL, 50)
    soon, then = 10 * WAD // 100, 11 * WAD // 100
    found = array_of(option, spot=100.0, vol=0.01, mmr=0.10, now_s=NOW_S)
    alone = pack(option, found, mmrs_wad=[soon])
    both = pack(option, found, mmrs_wad=[soon, then])
    assert alone.mark_e8 + alone.pnl_e8[10] == 60 * UNITS_E8
    assert both.mark_e8 + both.pnl_e8[10] == 61 * UNITS_E8
    assert both.pnl_e8[12] == alone.pnl_e8[12]
    assert pack(option, found, mmrs_wad=[then, soon]) == both


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["spot", "mark", "delta", "pnl"])
def test_what_is_not_finite_is_never_packed(name: str, bad: float) -> None:
    value = (*array().pnl[:15], bad) if name == "pnl" else bad
    with pytest.raises(ValueError, match=r"^the risk array of market 2 must be finite"):
        pack(CALL, replace(array(), **{name: value}), mmrs_wad=[MMR_WAD])  # type: ignore[arg-type]


@pytest.mark.parametrize(("spot", "name"), [(1e-9, "refPrice"), (0.0, "refPrice"), (2e11, "refPrice")])
def test_a_price_beyond_its_integer_is_refused(spot: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must lie in"):
        pack(CALL, array(spot=spot), mmrs_wad=[MMR_WAD])


def test_a_change_beyond_its_integer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^pnl must lie in"):
        pack(CALL, array(spot=1.5e11, mmr=0.30), mmrs_wad=[30 * WAD // 100])


# --- what a book requires -------------------------------------------------------------------------


def test_a_covered_write_needs_what_the_published_example_says() -> None:
    """McMillan, "Options as a Strategic Investment", chapter 34: one future long, one call written."""
    option = dated(Kind.CALL, 410)
    unweighted = tuple(value / weight for value, weight in zip(DEC_410, WEIGHTS.tolist(), strict=True))
    future = tuple(value / weight for value, weight in zip(FUTURE, WEIGHTS.tolist(), strict=True))
    legs = (
        OptionLeg(-1.0, option, RiskArray(410.0, 0.0, 0.5, NOW_S, unweighted)),
        OptionLeg(1.0, option, RiskArray(410.0, 0.0, 0.5, NOW_S, future)),
    )
    lost = scenarios.losses(Group(legs=legs), price=410.0, mmr=0.05)
    assert -lost == pytest.approx([f - c for f, c in zip(FUTURE, DEC_410, strict=True)])
    assert lost.argmax() == 12
    assert requirement(Group(legs=legs), price=410.0, mmr=0.05, short_min=0.0) == pytest.approx(6620.0)
    for leg, alone in zip(legs, (8060.0, 10_000.0), strict=True):
        one = Group(legs=(leg,))
        assert requirement(one, price=410.0, mmr=0.05, short_min=0.0) == pytest.approx(alone)


@pytest.mark.parametrize("sizes", [(2.0,), (-2.0,), (5.0, -3.0), (1.0, 1.0)])
@pytest.mark.parametrize("current", [True, False])
def test_perps_alone_need_their_margin_netted(sizes: tuple[float, ...], current: bool) -> None:
    """The extremes too: three times the move, of which a third counts."""
    group = Group(perps=sizes)
    found = requirement(group, price=60_000.0, mmr=0.05, short_min=0.01, current=current)
    assert found == pytest.approx(6_000.0)
    lost = scenarios.losses(group, price=60_000.0, mmr=0.05)
    assert np.flatnonzero(np.isclose(lost, 6_000.0)).tolist() in ([10, 11, 14], [12, 13, 15])


def test_a_short_option_is_charged_at_least_its_minimum() -> None:
    option = dated(Kind.CALL, 200)
    far = flat(0.0, delta=0.0)
    short, long = (Group(legs=(OptionLeg(size, option, far),)) for size in (-2.0, 2.0))
    assert requirement(short, price=100.0, mmr=0.05, short_min=0.01) == pytest.approx(2.0)
    assert requirement(long, price=100.0, mmr=0.05, short_min=0.01) == 0.0


def test_a_mark_follows_its_delta_between_its_bounds() -> None:
    call, put = dated(Kind.CALL, 90), dated(Kind.PUT, 110)
    at = flat(15.0)
    assert mark_at(call, at, 104.0) == 17.0
    assert mark_at(call, at, 200.0) == 110.0
    assert mark_at(call, at, 1.0) == 0.0
    assert mark_at(call, replace(at, mark=90.0, delta=0.0), 20.0) == 20.0
    assert mark_at(put, flat(100.0, delta=-0.5), 60.0) == 110.0
    assert mark_at(put, flat(15.0, delta=-0.5), 96.0) == 17.0
    assert mark_at(put, flat(15.0, delta=-0.5), 20.0) == 90.0


def test_an_option_that_was_never_valued_counts_for_its_payoff() -> None:
    assert mark_at(dated(Kind.CALL, 90), None, 100.0) == 10.0
    assert mark_at(dated(Kind.PUT, 90), None, 100.0) == 0.0


def test_without_an_array_there_is_no_loss_by_scenario() -> None:
    group = Group(legs=(OptionLeg(1.0, CALL, None),))
    with pytest.raises(ValueError, match=r"^market 2 has no risk array$"):
        requirement(group, price=100.0, mmr=0.05, short_min=0.01)


def test_a_bought_option_can_lose_its_mark_and_no_more() -> None:
    option = dated(Kind.CALL, 90)
    assert max_loss([OptionLeg(2.0, option, flat(15.0))], price=100.0) == 30.0


def test_a_call_spread_can_lose_what_lies_between_its_strikes() -> None:
    low, high = dated(Kind.CALL, 90), dated(Kind.CALL, 110)
    sold = [OptionLeg(-1.0, low, flat(15.0)), OptionLeg(1.0, high, flat(5.0))]
    bought = [replace(leg, size=-leg.size) for leg in sold]
    assert max_loss(sold, price=100.0) == -10.0 + 20.0
    assert max_loss(bought, price=100.0) == 10.0


def test_a_sold_put_can_lose_its_strike() -> None:
    put = dated(Kind.PUT, 90)
    assert max_loss([OptionLeg(-1.0, put, flat(4.0, delta=-0.2))], price=100.0) == 86.0


def test_a_call_sold_without_another_is_charged_the_underlying() -> None:
    call, other = dated(Kind.CALL, 90), dated(Kind.CALL, 110)
    naked = OptionLeg(-3.0, call, flat(15.0))
    assert max_loss([naked], price=100.0) == 3 * (100.0 - 15.0)
    paired = OptionLeg(2.0, other, flat(5.0))
    assert max_loss([naked, paired], price=100.0) == (-45.0 + 10.0) + 60.0 + 100.0


def test_a_bare_call_is_charged_to_beyond_the_highest_strike_held() -> None:
    """However little is held there."""
    call, far = dated(Kind.CALL, 90), dated(Kind.CALL, 900)
    bare = OptionLeg(-1.0, call, flat(15.0))
    crumb = OptionLeg(1 / 1024, far, flat(0.0, delta=0.0))
    assert max_loss([bare], price=100.0) == 85.0
    assert max_loss([bare, crumb], price=100.0) == -15.0 + 810.0 + (1 - 1 / 1024) * 100.0


def test_expiries_do_not_help_each_other() -> None:
    near, far = dated(Kind.CALL, 90, days=7), dated(Kind.CALL, 90, days=30)
    legs = [OptionLeg(1.0, near, flat(12.0)), OptionLeg(-1.0, far, flat(15.0))]
    assert max_loss(legs, price=100.0) == 12.0 + 85.0


def test_where_arrays_are_not_current_perps_are_charged_apart_from_options() -> None:
    put = dated(Kind.PUT, 90)
    group = Group(perps=(-2.0,), legs=(OptionLeg(-1.0, put, None),))
    assert requirement(group, price=100.0, mmr=0.05, short_min=0.01, current=False) == 10.0 + 90.0 + 1.0
