"""The likeliest shock that breaks what is bent: by the formula where it is not, and by trial where it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.errors import BadInput
from keeper.risk.breaking import nearest
from keeper.risk.inputs import Floats
from keeper.risk.stress import reverse

COVARIANCE = np.array([[0.0016, 0.0018], [0.0018, 0.0025]])
HELD = np.array([1e6, 2e6])


@given(
    held=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3).filter(lambda each: abs(sum(each)) > 1e3),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=40)
def test_a_loss_along_a_line_breaks_where_the_formula_says(held: list[float], seed: int) -> None:
    moves = np.random.default_rng(seed).normal(0, 0.03, (9, 3))
    spread, weights = moves.T @ moves / 9, np.array(held)
    expected = reverse(weights, spread, 1e4)
    if expected.distance > 25:
        return
    found = nearest(lambda logs: float(-weights @ logs), spread, 1e4)
    assert found is not None
    assert found.distance == pytest.approx(expected.distance, rel=1e-3)
    assert np.log1p(found.shock) == pytest.approx(
        expected.shock, abs=3e-2 * float(np.abs(expected.shock).max())
    )


def bad_debt(logs: Floats) -> float:
    """What two accounts owe beyond all they have: one holds the first asset, one the second."""
    equity = np.array([1.5e5, 6e5])
    return float(np.maximum(HELD * -np.expm1(logs) - equity, 0.0).sum())


def test_no_shock_of_many_breaks_a_fund_nearer() -> None:
    found = nearest(bad_debt, COVARIANCE, 1e5)
    assert found is not None
    assert bad_debt(np.log1p(found.shock)) >= 1e5
    precision = np.linalg.inv(COVARIANCE)
    logs = np.log1p(found.shock)
    assert found.distance == pytest.approx(float(np.sqrt(logs @ precision @ logs)), rel=1e-6)
    angles = np.linspace(0, 2 * np.pi, 721)
    factor = np.linalg.cholesky(COVARIANCE)
    nearer = 0.995 * found.distance * np.stack([np.cos(angles), np.sin(angles)]).T @ factor.T
    assert max(map(bad_debt, nearer)) < 1e5


def test_an_asset_without_a_move_of_its_own_follows_the_other() -> None:
    singular = 0.0009 * np.array([[1.0, 2.0], [2.0, 4.0]])
    found = nearest(bad_debt, singular, 1e5)
    assert found is not None
    assert np.log1p(found.shock[1]) == pytest.approx(2 * np.log1p(found.shock[0]))


def test_what_nothing_breaks_is_said_to_hold() -> None:
    assert nearest(bad_debt, COVARIANCE, 1e8) is None
    assert nearest(bad_debt, np.zeros((2, 2)), 1e5) is None


@pytest.mark.parametrize(("bound", "words"), [(0.0, "bound must be above 0"), (1e-9, "without any shock")])
def test_a_bound_that_is_met_already_is_refused(bound: float, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        nearest(lambda logs: 1.0 + float(logs.sum()), COVARIANCE, bound)
