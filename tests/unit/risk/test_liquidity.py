"""Two models of depth, each held against its inverse and against what is known of it by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.risk.liquidity import (
    LARGEST,
    Depth,
    most_by_book,
    most_by_sqrt_impact,
    sqrt_impact,
    walk_book,
)
from keeper.units import WAD

BOOK = ((0.001, 100_000.0), (0.002, 300_000.0), (0.01, 600_000.0))
sizes = st.floats(1.0, 1e9)
costs = st.floats(1e-5, 0.5)


def test_a_hundredth_of_a_days_volume_moves_the_price_by_a_tenth_of_a_days_deviation() -> None:
    assert sqrt_impact(1e6, volume_day=1e8, volatility_day=0.04) == pytest.approx(0.004)
    assert most_by_sqrt_impact(0.004, volume_day=1e8, volatility_day=0.04) == pytest.approx(1e6)
    assert sqrt_impact(1e6, volume_day=1e8, volatility_day=0.04, y=0.5) == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("notional", "mean"),
    [
        (0.0, 0.0),
        (50_000.0, 0.001),
        (100_000.0, 0.001),
        (200_000.0, 0.0015),
        (400_000.0, 700 / 400_000),
        (1_000_000.0, 6_700 / 1_000_000),
        (1_000_001.0, math.inf),
    ],
)
def test_a_book_is_sold_level_by_level(notional: float, mean: float) -> None:
    assert walk_book(notional, BOOK) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("cost", "most"),
    [
        (0.0, 0.0),
        (0.0009, 0.0),
        (0.001, 100_000.0),
        (0.0015, 200_000.0),
        (0.0067, 1_000_000.0),
        (0.5, 1_000_000.0),
    ],
)
def test_a_mean_distance_allows_so_much_of_a_book(cost: float, most: float) -> None:
    assert most_by_book(cost, BOOK) == pytest.approx(most)


@given(cost=costs, scale=st.floats(1e3, 1e10))
def test_the_largest_size_costs_what_is_allowed(cost: float, scale: float) -> None:
    by_volume = most_by_sqrt_impact(cost, volume_day=scale, volatility_day=0.04)
    assert sqrt_impact(by_volume, volume_day=scale, volatility_day=0.04) == pytest.approx(cost, rel=1e-9)
    book = [(distance, notional * scale) for distance, notional in BOOK]
    in_book = float(most_by_book(cost, book))
    assert walk_book(in_book * (1 - 1e-12), book) <= cost * (1 + 1e-9)
    if 0 < in_book < 1_000_000 * scale * (1 - 1e-9):
        assert walk_book(in_book * (1 + 1e-9), book) >= cost * (1 - 1e-9)


@given(few=sizes, more=sizes)
def test_more_never_costs_less(few: float, more: float) -> None:
    few, more = sorted((few, more))
    both = np.array([few, more])
    for cost in (
        sqrt_impact(both, volume_day=1e8, volatility_day=0.04),
        walk_book(both, BOOK),
    ):
        assert cost.shape == (2,)
        assert cost[0] <= cost[1] * (1 + 1e-12)


def test_arrays_of_costs_have_sizes_of_the_same_shape() -> None:
    assert most_by_book(np.array([0.001, 0.0015]), BOOK) == pytest.approx([100_000.0, 200_000.0])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="notional must not be negative"):
        sqrt_impact(-1.0, volume_day=1.0, volatility_day=0.1)
    with pytest.raises(ValueError, match="volume_day must be above 0"):
        most_by_sqrt_impact(0.1, volume_day=0.0, volatility_day=0.1)
    with pytest.raises(ValueError, match="further and further away"):
        walk_book(1.0, [(0.002, 1.0), (0.001, 1.0)])
    with pytest.raises(ValueError, match="a day's volume, or the levels"):
        Depth(10.0)


def test_a_depth_counts_the_dearer_of_its_models() -> None:
    by_book = Depth(15.0, levels=BOOK)
    by_both = Depth(15.0, levels=BOOK, volume_day=1e6, volatility=0.8)
    assert by_book.most_wad == 200_000 * WAD
    assert by_both.most_wad < by_book.most_wad
    assert by_both.cost(100_000.0) > by_book.cost(100_000.0) == pytest.approx(0.001)


def test_the_cost_of_a_sale_is_rounded_up_and_never_more_than_all() -> None:
    depth = Depth(15.0, levels=BOOK)
    assert depth.cost_wad(100_000 * WAD) == pytest.approx(100 * WAD, abs=100_000)
    assert depth.cost_wad(2_000_000 * WAD) == 2_000_000 * WAD
    assert depth.cost_wad(0) == 0


def test_a_market_that_does_not_move_takes_as_good_as_everything() -> None:
    assert Depth(10.0, volume_day=1e6, volatility=0.0).most_wad == int(LARGEST) * WAD
