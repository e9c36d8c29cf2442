"""Hours of the day and jumps, planted in returns and found again."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.errors import BadInput
from keeper.risk.inputs import Floats
from keeper.risk.intraday import (
    _medians,
    bipower_variance,
    calm_factors,
    diurnal_factors,
    jumps,
    without_jumps,
)

HOURS = np.arange(24 * 400) % 24
SHAPE = 1 + 0.5 * np.sin(2 * np.pi * np.arange(24) / 24)


def calm(n: int = 24 * 400, seed: int = 3) -> Floats:
    return 0.01 * np.random.default_rng(seed).standard_normal(n)


def test_the_factors_of_hours_are_those_that_made_them() -> None:
    factors = diurnal_factors(calm() * SHAPE[HOURS], HOURS)
    assert np.mean(factors**2) == pytest.approx(1.0)
    assert factors == pytest.approx(SHAPE / np.sqrt(np.mean(SHAPE**2)), rel=0.12)


def test_returns_over_their_factors_have_one_variance_in_every_slot() -> None:
    returns = calm() * SHAPE[HOURS]
    even = returns / diurnal_factors(returns, HOURS)[HOURS]
    assert diurnal_factors(even, HOURS) == pytest.approx(np.ones(24))


def test_neither_a_jump_makes_an_hour_busy_nor_a_busy_hour_is_full_of_jumps() -> None:
    shape = np.where(np.arange(24) < 4, 5.0, 1.0)
    returns = calm() * shape[HOURS]
    wanted = shape / np.sqrt(np.mean(shape**2))
    assert calm_factors(returns, HOURS) == pytest.approx(wanted, rel=0.15)
    # Of one slot one hour in a hundred is a jump.
    returns[24 * 50 + 10 :: 24 * 100] = 0.5
    assert diurnal_factors(returns, HOURS)[10] > 3 * wanted[10]
    assert calm_factors(returns, HOURS) == pytest.approx(wanted, rel=0.15)


def test_calm_factors_of_even_hours_are_those_of_their_sizes() -> None:
    """Of returns of one size in each slot there is no jump, and their median is that size."""
    sizes = np.array([1.0, 2.0, 0.5])
    signs = np.random.default_rng(1).choice([-1.0, 1.0], 3 * 101)
    returns = np.tile(sizes, 101) * signs
    found = calm_factors(returns, np.arange(303) % 3, count=3)
    assert found == pytest.approx(sizes / np.sqrt(np.mean(sizes**2)))
    with pytest.raises(BadInput, match="most returns of every slot must differ from 0, found others in 3"):
        calm_factors(returns, np.arange(303) % 3, count=4)


@given(sizes=st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6)), min_size=1, max_size=40))
def test_medians_by_slot_are_those_of_numpy(sizes: list[tuple[int, float]]) -> None:
    slots, values = np.array([slot for slot, _ in sizes]), np.array([size for _, size in sizes])
    wanted = [np.median(values[slots == slot]) if slot in slots else 0.0 for slot in range(5)]
    assert _medians(values, slots, 5) == pytest.approx(np.array(wanted))


def test_slots_may_be_of_any_number() -> None:
    assert diurnal_factors([1.0, -7.0, 1.0], [0, 1, 0], count=2) == pytest.approx(np.array([0.2, 1.4]))


def test_the_bipower_variance_hardly_sees_a_jump() -> None:
    returns = calm(5000)
    assert bipower_variance(returns) == pytest.approx(1e-4, rel=0.05)
    returns[2500] = 0.5
    assert np.mean(returns**2) > 1.4e-4
    assert bipower_variance(returns) == pytest.approx(1e-4, rel=0.06)


def test_planted_jumps_are_found_and_little_else() -> None:
    returns = calm(5000)
    places = [700, 701, 2000, 4999]
    returns[places] = [0.09, -0.09, 0.08, -0.2]
    assert np.flatnonzero(jumps(returns)).tolist() == places
    cut = without_jumps(returns)
    assert not jumps(cut)[[700, 2000, 4999]].any()
    assert (np.sign(cut[places]) == np.sign(returns[places])).all()
    assert np.array_equal(np.delete(cut, places), np.delete(returns, places))


def test_returns_without_jumps_are_called_one_as_seldom_as_was_asked() -> None:
    found = [bool(jumps(calm(2000, seed)).any()) for seed in range(300)]
    assert np.mean(found) < 0.05


def test_of_the_first_returns_nothing_is_said_and_later_ones_change_nothing() -> None:
    returns = calm(400)
    returns[100] = 5.0
    assert not jumps(returns)[:156].any()
    changed = returns.copy()
    changed[300:] = 0.0
    assert np.array_equal(without_jumps(changed)[:300], without_jumps(returns)[:300])


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: diurnal_factors([1.0, 2.0], [0]), "slots must be 2 integers"),
        (lambda: diurnal_factors([1.0, 2.0], [0.0, 1.0]), "slots must be 2 integers, found float64"),
        (lambda: diurnal_factors([1.0, 2.0], [0, 24]), r"slots must lie in \[0, 23\], found 0 to 24"),
        (lambda: diurnal_factors([1.0, 0.0], [0, 1], count=2), "found none in 1"),
        (
            lambda: calm_factors([1.0, 0.0, 0.0, 2.0], [0, 1, 1, 1], count=2),
            "of every slot must differ from 0",
        ),
        (lambda: bipower_variance([1.0]), "returns must be 2 or more"),
        (lambda: jumps([0.1] * 156), "must be more than the window of 156, found 156"),
        (lambda: jumps([0.1] * 9, window=3), "window must be a whole number of at least 4"),
        (lambda: jumps([0.1] * 9, window=4, significance=0.0), r"significance must lie in \(0, 1\)"),
    ],
)
def test_what_has_no_answer_is_refused(ask: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask()
