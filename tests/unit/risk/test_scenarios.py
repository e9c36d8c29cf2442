"""The 16 scenarios, one option in them, its integers, and what the contract's make of a published book."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest

from keeper.domain import SCENARIOS, ArrayView, Kind
from keeper.protocols.hybrid.params import Listed, Risk
from keeper.protocols.hybrid.portfolio import Position, requirement_wad
from keeper.risk.options import YEAR_S, price
from keeper.risk.scenarios import (
    MOVES,
    SPAN,
    WEIGHTS,
    Option,
    PackedArray,
    RiskArray,
    VolShocks,
    array_of,
    pack,
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
    assert len(SPAN) == SCENARIOS
    assert (MOVES * WEIGHTS).tolist() == [float(each.move * each.weight) for each in SPAN]


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
    call = Listed(1, "SPX/USD", Kind.CALL, 410 * WAD, NOW_S + 30 * DAY_S)
    risk = Risk(mmr_wad=5 * WAD // 100, imr_wad=8 * WAD // 100, short_min_wad=0)

    def held(size: int, weighted: list[int]) -> Position:
        pnl_wad = tuple(value * WAD * (3 if place >= 14 else 1) for place, value in enumerate(weighted))
        return Position(call, size * WAD, 0, ArrayView(410 * WAD, 0, WAD // 2, NOW_S, pnl_wad))

    def required(*positions: Position) -> int:
        return requirement_wad(positions, 410 * WAD, risk=risk, rate_wad=risk.mmr_wad, now_s=NOW_S)

    written, future = held(-1, DEC_410), held(1, FUTURE)
    assert required(written, future) == 6620 * WAD
    assert required(written) == 8060 * WAD
    assert required(future) == 10_000 * WAD
