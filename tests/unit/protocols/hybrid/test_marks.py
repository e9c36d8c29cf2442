"""Marks: what prices make of instruments, and that an unknown price stays unknown."""

from dataclasses import replace

import numpy as np
import pytest

from keeper.domain import ArrayView, Instrument, Kind, Quote, Unknown
from keeper.protocols.hybrid.marks import is_doubtful, mark_wad, marks_of
from keeper.units import WAD

NOW_S = 1_700_000_000
BTC = Instrument("BTC/USD", kind=Kind.PERP, range_wad=WAD * 5 // 100, short_wad=WAD // 100)
ETH = Instrument("ETH/USD", WAD * 9 // 10)
ARRAY = ArrayView(
    ref_wad=60_000 * WAD,
    mark_wad=2_500 * WAD,
    delta_wad=WAD // 2,
    observed_at_s=NOW_S - 60,
    pnl_wad=tuple(scenario * WAD for scenario in range(-8, 8)),
)
CALL = replace(BTC, kind=Kind.CALL, strike_wad=60_000 * WAD, expiry_s=NOW_S + 86_400, array=ARRAY)
PUT = replace(CALL, kind=Kind.PUT, array=replace(ARRAY, delta_wad=-WAD // 2))
AT_60_000 = {"BTC/USD": Quote("BTC/USD", 60_000 * WAD, NOW_S)}


def test_a_perp_is_worth_its_price_and_requires_its_maintenance_margin() -> None:
    marks = marks_of([BTC], AT_60_000, NOW_S)
    assert (marks.value.tolist(), marks.gross.tolist()) == ([60_000.0], [3_000.0])
    assert (marks.nets.tolist(), marks.underlyings) == ([False], ())


def test_a_collateral_is_worth_its_price_after_the_haircut_and_requires_nothing() -> None:
    marks = marks_of([ETH], {"ETH/USD": Quote("ETH/USD", 3_000 * WAD, 0)}, NOW_S)
    assert (marks.value.tolist(), marks.gross.tolist()) == ([2_700.0], [0.0])


def test_a_price_that_is_unknown_or_missing_makes_marks_that_are_not_numbers() -> None:
    marks = marks_of([ETH, BTC, CALL], {"ETH/USD": Unknown("ETH/USD", "stale")}, NOW_S)
    assert np.isnan(marks.value).all()
    assert np.isnan(marks.gross[:2]).all()
    assert marks.underlyings == ()


def test_marks_keep_the_order_of_the_columns_and_share_a_feed() -> None:
    perp = Instrument("ETH/USD", kind=Kind.PERP, range_wad=WAD // 10)
    marks = marks_of([BTC, perp, ETH], {"ETH/USD": Quote("ETH/USD", 1_000 * WAD, 0)}, NOW_S)
    np.testing.assert_array_equal(marks.value, [np.nan, 1_000.0, 900.0])
    np.testing.assert_array_equal(marks.gross, [np.nan, 100.0, 0.0])
    assert not marks.nets.any()


def test_no_instruments_have_no_marks() -> None:
    marks = marks_of([], {}, NOW_S)
    assert (marks.value.shape, marks.gross.shape, marks.nets.shape) == ((0,), (0,), (0,))


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "price", "worth"),
    [
        (CALL, 60_000, 2_500),
        (CALL, 61_000, 3_000),
        (CALL, 59_000, 2_000),
        (CALL, 50_000, 0),  # never below nothing
        (CALL, 70_000, 10_000),  # nor below what it pays
        (replace(CALL, array=None), 61_000, 1_000),
        (replace(CALL, array=replace(ARRAY, mark_wad=10**6 * WAD)), 60_000, 60_000),  # nor above the price
        (PUT, 61_000, 2_000),
        (PUT, 59_000, 3_000),
        (PUT, 40_000, 20_000),
        (replace(PUT, array=None), 61_000, 0),
        (replace(PUT, array=replace(ARRAY, mark_wad=10**6 * WAD)), 60_000, 60_000),
    ],
)
def test_an_options_mark_follows_delta_between_its_bounds(option: Instrument, price: int, worth: int) -> None:
    assert mark_wad(option, price * WAD) == worth * WAD
    marks = marks_of([option], {"BTC/USD": Quote("BTC/USD", price * WAD, NOW_S)}, NOW_S)
    assert (marks.value.tolist(), marks.gross.tolist()) == ([worth], [0.0])


def test_the_repricing_rounds_down() -> None:
    option = replace(CALL, array=replace(ARRAY, delta_wad=1))
    assert mark_wad(option, 60_000 * WAD + 1) == 2_500 * WAD
    assert mark_wad(option, 60_000 * WAD - 1) == 2_500 * WAD - 1


def test_a_settled_option_is_worth_its_payoff_whatever_the_price_and_requires_nothing() -> None:
    settled = replace(CALL, settlement_wad=60_700 * WAD)
    for prices in (AT_60_000, {}):
        marks = marks_of([settled], prices, NOW_S)
        assert (marks.value.tolist(), marks.gross.tolist(), marks.nets.tolist()) == ([700.0], [0.0], [True])
        [underlying] = marks.underlyings
        assert underlying.requirement(np.array([[2.0], [-2.0]])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("age_s", "price", "doubtful"),
    [
        (0, 60_000, False),
        (600, 61_200, False),
        (600, 58_800, False),
        (600, 61_201, True),  # left behind by the price
        (600, 58_799, True),
        (601, 61_201, False),  # silent: nobody can act on it
        (4_199, 30_000, False),
        (4_200, 60_000, True),  # lost
    ],
)
def test_an_array_is_doubtful_where_it_is_lost_or_young_and_left_behind(
    age_s: int, price: int, doubtful: bool
) -> None:
    array = replace(ARRAY, observed_at_s=NOW_S - age_s)
    assert is_doubtful(array, price * WAD, NOW_S) is doubtful
    quotes = {"BTC/USD": Quote("BTC/USD", price * WAD, NOW_S)}
    [underlying] = marks_of([BTC, replace(CALL, array=array)], quotes, NOW_S).underlyings
    assert underlying.doubtful.tolist() == [False, doubtful]
    assert len(underlying.expiries) == int(doubtful)


def test_an_option_without_an_array_is_doubtful() -> None:
    [underlying] = marks_of([replace(CALL, array=None)], AT_60_000, NOW_S).underlyings
    assert underlying.doubtful.tolist() == [True]


def test_perp_and_options_of_a_feed_make_one_underlying_in_the_order_of_their_columns() -> None:
    other = replace(CALL, feed="ETH/USD")
    prices = {**AT_60_000, "ETH/USD": Quote("ETH/USD", 60_000 * WAD, NOW_S)}
    marks = marks_of([CALL, other, BTC, replace(PUT, settlement_wad=WAD), ETH], prices, NOW_S)
    btc, eth, settled = marks.underlyings
    assert [each.columns.tolist() for each in (btc, eth, settled)] == [[0, 2], [1], [3]]
    assert (btc.perps.tolist(), btc.short.tolist()) == ([0.0, 3_000.0], [600.0, 0.0])
    assert btc.risk[0].tolist() == pytest.approx([*range(-8, 6), 6 / 3, 7 / 3])
    moves = [0, 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 3, -3]
    assert btc.risk[1].tolist() == pytest.approx([1_000 * move for move in moves])
    assert marks.nets.tolist() == [True, True, True, True, False]


def test_two_perps_on_one_feed_net() -> None:
    marks = marks_of([BTC, BTC], AT_60_000, NOW_S)
    assert marks.nets.tolist() == [True, True]
    [underlying] = marks.underlyings
    assert underlying.requirement(np.array([[2.0, -2.0], [1.0, 2.0]])).tolist() == [0.0, 9_000.0]
