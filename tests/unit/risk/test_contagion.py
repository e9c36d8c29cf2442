"""Clearing and distress: what others have printed, what a linear programme finds, and what must hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from keeper.risk.contagion import clearing_vector, debtrank

Floats = NDArray[np.float64]

THREE = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
"""The example of default_clearing in the R package systemicrisk, and what it prints."""
THREE_ASSETS, THREE_OUTSIDE = np.array([1 / 2, 5 / 8, 3 / 4]), np.array([3 / 2, 1 / 2, 1 / 2])

LENT = np.array([[0, 1, 0], [10, 0, 3], [3, 2, 0]])
"""What each has lent to each in the README of the R package NetworkRiskMeasures, version 0.1."""
BUFFER, WEIGHTS = np.array([2.0, 5.0, 2.0]), np.array([10.0, 100.0, 30.0])


def test_the_clearing_vector_is_what_others_print() -> None:
    paid = clearing_vector(THREE, THREE_ASSETS, external_liabilities=THREE_OUTSIDE)
    assert paid == pytest.approx([1.473214, 1.419643, 1.5], abs=5e-7)
    costly = clearing_vector(THREE, THREE_ASSETS, external_liabilities=THREE_OUTSIDE, alpha=0.5, beta=0.7)
    assert costly == pytest.approx([0.5020200, 0.5147049, 0.5653806], abs=5e-8)


@pytest.mark.parametrize(
    ("liabilities", "assets", "paid"),
    [
        # Nobody owes anything; everybody can pay; a chain of which the first cannot.
        ([[0, 0], [0, 0]], [1, 0], [0, 0]),
        ([[0, 5], [0, 0]], [7, 0], [5, 0]),
        ([[0, 10, 0], [0, 0, 8], [0, 0, 0]], [6, 1, 0], [6, 7, 0]),
        # Two that owe each other and have nothing: any equal payments clear, and the greatest is all.
        ([[0, 5], [5, 0]], [0, 0], [5, 5]),
        ([[0, 5], [5, 0]], [1e-9, 0], [5, 5]),
        # The second is owed less than it owes: what it lacks goes round until both have paid what they can.
        ([[0, 5, 0], [5, 0, 5], [0, 0, 0]], [0, 2, 0], [2, 4, 0]),
    ],
)
def test_who_owes_whom_decides_who_pays(liabilities: Any, assets: Any, paid: Any) -> None:
    assert clearing_vector(liabilities, assets) == pytest.approx(np.array(paid, float), abs=1e-8)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Floats, Floats]:
    nodes = draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    owed = rng.uniform(0, 10, (nodes, nodes)) * (rng.random((nodes, nodes)) < draw(st.floats(0, 1)))
    np.fill_diagonal(owed, 0)
    assets = rng.uniform(0, 10, nodes) * (rng.random(nodes) < draw(st.floats(0, 1)))
    return owed, assets


@given(network=networks())
def test_limited_liability_absolute_priority_and_proportion(network: tuple[Floats, Floats]) -> None:
    owed, assets = network
    due = owed.sum(axis=1)
    paid = clearing_vector(owed, assets)
    proportion = owed / np.where(due > 0, due, 1)[:, None]
    has = assets + paid @ proportion
    assert (paid <= has + 1e-9).all()
    assert (paid <= due).all()
    assert (paid >= 0).all()
    assert np.minimum(due, has) == pytest.approx(paid, abs=1e-9)


@settings(deadline=None)
@given(network=networks())
def test_no_vector_that_clears_pays_more(network: tuple[Floats, Floats]) -> None:
    # The greatest solves max Σp, p <= p̄, p <= e + Πᵀ p (Eisenberg and Noe, lemma 4).
    owed, assets = network
    due = owed.sum(axis=1)
    proportion = owed / np.where(due > 0, due, 1)[:, None]
    best = linprog(
        -np.ones(len(due)),
        A_ub=np.eye(len(due)) - proportion.T,
        b_ub=assets,
        bounds=[(0, each) for each in due],
        method="highs",
    )
    assert clearing_vector(owed, assets) == pytest.approx(best.x, abs=1e-6)


@given(network=networks(), alpha=st.floats(0, 1), beta=st.floats(0, 1))
def test_defaults_that_cost_something_pay_less_and_still_clear(
    network: tuple[Floats, Floats], alpha: float, beta: float
) -> None:
    owed, assets = network
    due = owed.sum(axis=1)
    proportion = owed / np.where(due > 0, due, 1)[:, None]
    paid = clearing_vector(owed, assets, alpha=alpha, beta=beta)
    assert (paid <= clearing_vector(owed, assets) + 1e-9).all()
    received = paid @ proportion
    solvent = assets + received >= due * (1 - 1e-9)
    assert np.where(solvent, due, alpha * assets + beta * received) == pytest.approx(paid, abs=1e-7)
    # From above, every round of the map stays above the greatest vector that clears.
    upper = due
    for _ in range(50):
        got = upper @ proportion
        upper = np.where(assets + got >= due, due, alpha * assets + beta * got)
    assert (paid <= upper + 1e-9).all()


@given(network=networks(), more=st.floats(0, 10))
def test_more_assets_never_pay_anybody_less(network: tuple[Floats, Floats], more: float) -> None:
    owed, assets = network
    richer = clearing_vector(owed, assets + more)
    assert (richer >= clearing_vector(owed, assets) - 1e-9).all()


def test_the_debtrank_of_2012_is_what_others_print() -> None:
    every = debtrank(LENT.T, BUFFER, 0.1, weights=WEIGHTS, single_hit=True)
    assert every.levels == pytest.approx([0.15, 0.26, 0.30])
    assert every.added == pytest.approx(0.1607, abs=5e-5)
    alone = [debtrank(LENT.T, BUFFER, first, weights=WEIGHTS, single_hit=True) for first in np.eye(3)]
    assert [each.added for each in alone] == pytest.approx([0.9285714, 0.25, 0.6642857], abs=5e-8)
    assert [each.defaulted - 1 for each in alone] == [2, 1, 0]


NODES = ("bridge", "stablecoin", "lending", "perps", "maker", "whale")
OWED = np.array(
    [
        # bridge, stablecoin, lending, perps, maker, whale: what the row owes the column, in millions.
        [0, 0, 30, 20, 5, 0],
        [0, 0, 40, 25, 5, 10],
        [10, 5, 0, 10, 15, 20],
        [0, 0, 5, 0, 20, 15],
        [0, 5, 20, 15, 0, 0],
        [0, 0, 25, 10, 5, 0],
    ],
    float,
)
EQUITY = np.array([60.0, 80.0, 120.0, 90.0, 50.0, 70.0])


def test_what_comes_back_around_a_cycle_is_counted_by_the_linear_variant_alone() -> None:
    """The example of docs/risk/stress.md."""
    once, again = debtrank(OWED, EQUITY, 0.1, single_hit=True), debtrank(OWED, EQUITY, 0.1)
    assert once.added == pytest.approx(0.0670, abs=5e-5)
    assert again.added == pytest.approx(0.1640, abs=5e-5)
    # Nobody defaults, so that the levels solve (1 − W) h = h(0).
    lent = OWED.T / EQUITY[:, None]
    assert again.levels == pytest.approx(np.linalg.solve(np.eye(6) - lent, np.full(6, 0.1)))
    assert (again.rounds, once.rounds, again.defaulted) > (once.rounds, 0, -1)


@pytest.mark.parametrize("lent", [0.1, 0.5, 0.9])
def test_around_a_ring_the_linear_variant_sums_every_lap(lent: float) -> None:
    # Each has lent a part of its equity to the next: h = h(0) + lent h, and once hit, (1 + lent) h(0).
    ring = 10 * lent * np.roll(np.eye(4), 1, axis=1)
    shock = 0.05
    again, once = (debtrank(ring, np.full(4, 10.0), shock, single_hit=hit) for hit in (False, True))
    assert again.levels == pytest.approx(np.full(4, shock / (1 - lent)))
    assert once.levels == pytest.approx(np.full(4, shock * (1 + lent)))


def test_along_a_chain_both_variants_agree() -> None:
    owed = [[0, 8, 0], [0, 0, 6], [0, 0, 0]]
    first = [0.5, 0, 0]
    for single_hit in (False, True):
        found = debtrank(owed, [10, 10, 10], first, single_hit=single_hit)
        assert found.levels == pytest.approx([0.5, 0.4, 0.24])
        assert found.added == pytest.approx(0.64 / 3)


@given(network=networks(), shock=st.floats(0, 1), scale=st.floats(0.5, 20))
def test_distress_settles_where_it_no_longer_spreads(
    network: tuple[Floats, Floats], shock: float, scale: float
) -> None:
    owed, assets = network
    equity = scale * (assets + 1)
    again = debtrank(owed, equity, shock)
    first, lent = np.full(len(equity), shock), owed.T / equity[:, None]
    assert again.levels == pytest.approx(np.minimum(1, first + lent @ again.levels), abs=1e-9)
    once = debtrank(owed, equity, shock, single_hit=True)
    assert (first <= once.levels).all()
    assert (once.levels <= again.levels + 1e-9).all()
    assert 0 <= once.added <= again.added + 1e-9 <= 1 - shock + 1e-6


GOOD: Mapping[str, Any] = {"liabilities": [[0, 1], [1, 0]], "external_assets": [1, 1]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"liabilities": [[0, -1], [1, 0]]}, "liabilities must not be negative"),
        ({"liabilities": [[1, 1], [1, 0]]}, "nobody may owe itself"),
        ({"liabilities": [[0, 1, 2], [1, 0, 2]]}, r"liabilities must have the shape \[2, 2\]"),
        ({"liabilities": [0, 1]}, r"liabilities must have the shape \[any, any\]"),
        ({"liabilities": []}, "liabilities must not be empty"),
        ({"external_assets": [1, np.nan]}, "external_assets must be finite"),
        ({"external_assets": [1]}, r"external_assets must have the shape \[2\]"),
        ({"external_liabilities": [-1, 0]}, "external_liabilities must not be negative"),
        ({"alpha": 1.1}, r"alpha must lie in \[0, 1\]"),
        ({"beta": -0.1}, r"beta must lie in \[0, 1\]"),
    ],
)
def test_debts_that_make_no_sense_are_refused(changed: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        clearing_vector(**{**GOOD, **changed})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"equity": [1, 0]}, "equity must be above 0"),
        ({"shock": 1.5}, r"shock must lie in \[0, 1\]"),
        ({"shock": [0.1]}, r"shock must have the shape \[2\]"),
        ({"weights": [0, 0]}, "weights must not all be 0"),
    ],
)
def test_shocks_that_make_no_sense_are_refused(changed: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        debtrank(**{"liabilities": [[0, 1], [1, 0]], "equity": [1, 1], "shock": 0.1, **changed})
