"""Covariances, held against what other libraries and papers say, and against what must be true of them."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keeper.errors import BadInput, ConfigError
from keeper.risk.covariance import (
    Garch,
    absorption_ratio,
    constant_correlation,
    ewma,
    ewma_path,
    fit_garch,
    ledoit_wolf,
    nearest_correlation,
    stress_correlation,
)
from keeper.risk.inputs import Floats

GOLDEN, STATISTICS = (
    json.loads((Path(__file__).parents[2] / "golden" / name).read_text())
    for name in ("tail_risk.json", "statistics.json")
)
RETURNS = np.array(GOLDEN["returns"])
SERIES = np.array(GOLDEN["series"])
sizes = st.floats(-0.5, 0.5, allow_subnormal=False).map(lambda move: round(move, 9))
moves = arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(2, 5)), elements=sizes)


def semidefinite(matrix: Floats) -> bool:
    eigenvalues = np.linalg.eigvalsh(matrix)
    return bool(eigenvalues[0] >= -1e-9 * max(eigenvalues[-1], 1e-12))


# --- exponentially weighted ------------------------------------------------------------------------


def test_an_ewma_of_two_assets_is_what_it_is_by_hand() -> None:
    after_two = 0.9 * np.array([[1.0, 2.0], [2.0, 4.0]]) + 0.1 * np.array([[4.0, 2.0], [2.0, 1.0]])
    after_three = 0.9 * after_two + 0.1 * np.array([[9.0, 0.0], [0.0, 0.0]])
    returns = [[1.0, 2.0], [2.0, 1.0], [3.0, 0.0]]
    assert ewma(returns, decay=0.9) == pytest.approx(after_three)
    assert ewma_path(returns, decay=0.9)[1] == pytest.approx(after_two)
    assert ewma([1.0, 2.0, 3.0], decay=0.9) == pytest.approx(after_three[0, 0])


@pytest.mark.parametrize("decay", GOLDEN["ewma"])
def test_an_ewma_is_that_of_pandas(decay: str) -> None:
    path = ewma_path(SERIES, decay=float(decay))
    assert path == pytest.approx(np.array(GOLDEN["ewma"][decay]), rel=1e-12)


@pytest.mark.parametrize("decay", STATISTICS["ewma"])
def test_an_ewma_is_the_simple_exponential_smoothing_of_statsmodels(decay: str) -> None:
    path = ewma_path(STATISTICS["series"], decay=float(decay))
    assert path == pytest.approx(np.array(STATISTICS["ewma"][decay]), rel=1e-12)


@pytest.mark.parametrize(("decay", "days"), [(0.94, 74), (0.97, 151)])
def test_so_many_days_have_all_weight_but_one_percent(decay: float, days: int) -> None:
    """RiskMetrics Technical Document (1996), table 5.7: the observations that count at 1% tolerance."""
    returns = np.concatenate([np.ones(1000), np.zeros(days)])
    assert ewma(returns, decay=decay) == pytest.approx(0.01, abs=3e-4)


@given(returns=moves, decay=st.floats(0.5, 0.999), later=sizes)
def test_an_ewma_knows_no_later_return(returns: Floats, decay: float, later: float) -> None:
    path = ewma_path(returns, decay=decay)
    assert np.allclose(ewma(returns, decay=decay), path[-1], rtol=1e-9, atol=1e-15)
    assert semidefinite(path[-1])
    changed = returns.copy()
    changed[-1] = later
    assert np.array_equal(ewma_path(changed, decay=decay)[:-1], path[:-1])


# --- shrunk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "returns"), [("ledoit_wolf", RETURNS), ("ledoit_wolf_wide", RETURNS[:4])])
def test_a_shrunk_covariance_is_that_of_scikit_learn(name: str, returns: Floats) -> None:
    covariance, shrinkage = ledoit_wolf(returns)
    assert covariance == pytest.approx(np.array(GOLDEN[name]["covariance"]), rel=1e-10)
    assert shrinkage == pytest.approx(GOLDEN[name]["shrinkage"], rel=1e-10)


def test_one_correlation_for_all_is_what_the_papers_sums_say() -> None:
    """The appendix of the paper, sum by sum and without matrices."""
    x = RETURNS - RETURNS.mean(axis=0)
    n, size = x.shape
    s = [[sum(x[:, i] * x[:, j]) / n for j in range(size)] for i in range(size)]
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j]
    mean = sum(s[i][j] / (s[i][i] * s[j][j]) ** 0.5 for i, j in pairs) / len(pairs)
    target = np.array(
        [[s[i][i] if i == j else mean * (s[i][i] * s[j][j]) ** 0.5 for j in range(size)] for i in range(size)]
    )
    pi = sum(np.mean((x[:, i] * x[:, j] - s[i][j]) ** 2) for i in range(size) for j in range(size))
    rho = sum(np.mean((x[:, i] ** 2 - s[i][i]) ** 2) for i in range(size))
    for i, j in pairs:
        theta_ii = np.mean((x[:, i] ** 2 - s[i][i]) * (x[:, i] * x[:, j] - s[i][j]))
        theta_jj = np.mean((x[:, j] ** 2 - s[j][j]) * (x[:, i] * x[:, j] - s[i][j]))
        rho += mean / 2 * ((s[j][j] / s[i][i]) ** 0.5 * theta_ii + (s[i][i] / s[j][j]) ** 0.5 * theta_jj)
    part = (pi - rho) / float(((np.array(s) - target) ** 2).sum()) / n
    assert 0 < part < 1
    covariance, shrinkage = constant_correlation(RETURNS)
    assert shrinkage == pytest.approx(part, rel=1e-9)
    assert covariance == pytest.approx(part * target + (1 - part) * np.array(s), rel=1e-9)


@given(returns=moves)
def test_shrinking_keeps_the_sum_of_variances_and_what_is_semidefinite(returns: Floats) -> None:
    sample = np.cov(returns, rowvar=False, bias=True)
    covariance, shrinkage = ledoit_wolf(returns)
    assert 0 <= shrinkage <= 1
    assert np.trace(covariance) == pytest.approx(np.trace(sample), rel=1e-9, abs=1e-15)
    assert semidefinite(covariance)


# --- stressed --------------------------------------------------------------------------------------


@given(returns=moves, k=st.floats(0, 1))
def test_stressed_correlations_stay_correlations_and_fall_nowhere(returns: Floats, k: float) -> None:
    moved = returns + 1e-3 * np.random.default_rng(0).standard_normal(returns.shape)
    correlation = np.corrcoef(moved, rowvar=False)
    stressed = stress_correlation(correlation, k)
    assert semidefinite(stressed)
    assert np.allclose(np.diag(stressed), 1.0)
    assert (stressed >= correlation - 1e-9).all()


def test_stress_goes_from_what_is_there_to_all_as_one() -> None:
    calm = [[1.0, 0.2], [0.2, 1.0]]
    assert stress_correlation(calm, 0.0).tolist() == calm
    assert stress_correlation(calm, 0.5) == pytest.approx(np.array([[1.0, 0.6], [0.6, 1.0]]))
    assert stress_correlation(calm, 1.0).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_the_nearest_correlation_of_the_paper_is_found() -> None:
    """Higham (2002): a 3 x 3 example, to the four digits that are printed, and its distance."""
    found, distance = nearest_correlation([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    expected = [[1, 0.7607, 0.1573], [0.7607, 1, 0.7607], [0.1573, 0.7607, 1]]
    assert found == pytest.approx(np.array(expected), abs=5e-5)
    assert distance == pytest.approx(0.5278, abs=5e-5)


@given(given_=arrays(np.float64, (4, 4), elements=st.floats(-1, 1).map(lambda each: round(each, 6))))
def test_the_nearest_correlation_is_one_and_its_own_nearest(given_: Floats) -> None:
    matrix = (given_ + given_.T) / 2
    np.fill_diagonal(matrix, 1.0)
    found, distance = nearest_correlation(matrix, tolerance=1e-8)
    assert np.array_equal(np.diag(found), np.ones(4))
    assert semidefinite(found)
    assert nearest_correlation(found).distance < 1e-6
    for other in (np.eye(4), stress_correlation(found, 0.1)):
        assert distance <= np.linalg.norm(matrix - other) + 1e-6


def test_the_nearest_correlation_is_that_of_statsmodels() -> None:
    """Within what four thousand rounds of its `corr_nearest` leave."""
    matrix, wanted = (np.array(STATISTICS[name]) for name in ("inconsistent", "nearest"))
    found, distance = nearest_correlation(matrix)
    assert found == pytest.approx(wanted, abs=1e-9)
    assert distance == pytest.approx(np.linalg.norm(matrix - wanted), rel=1e-9)


def test_all_variance_is_absorbed_where_everything_moves_as_one() -> None:
    assert absorption_ratio(np.ones((4, 4))) == pytest.approx(1.0)
    assert absorption_ratio(np.eye(4)) == pytest.approx(0.25)
    assert absorption_ratio(np.diag([3.0, 2.0, 1.0]), components=2) == pytest.approx(5 / 6)


# --- GARCH -----------------------------------------------------------------------------------------


def golden_garch(name: str) -> tuple[Garch, dict[str, Any]]:
    found = GOLDEN[name]["parameters"]
    garch = Garch(found["omega"], found["alpha[1]"], found["beta[1]"], found.get("gamma[1]", 0.0))
    return garch, GOLDEN[name]


@pytest.mark.parametrize("name", ["garch", "gjr"])
def test_a_variance_follows_returns_as_that_of_arch_does(name: str) -> None:
    garch, golden = golden_garch(name)
    path = garch.path(100 * SERIES, initial=golden["variance"][0])
    assert path[:-1] == pytest.approx(np.array(golden["variance"]), rel=1e-10)
    assert path[-1] == pytest.approx(golden["next"], rel=1e-10)


def test_without_a_first_variance_that_of_the_returns_is_taken() -> None:
    path = Garch(0.0, 0.1, 0.9).path([1.0, -3.0])
    assert path.tolist() == pytest.approx([5.0, 4.6, 5.04])
    assert Garch(0.1, 0.1, 0.8, 0.1).persistence == pytest.approx(0.95)


@pytest.mark.parametrize("name", ["garch", "gjr"])
def test_a_fit_is_that_of_arch_in_units_of_the_returns(name: str) -> None:
    garch, _ = golden_garch(name)
    found = fit_garch(SERIES, asymmetric=name == "gjr")
    # The library stops where its likelihood is flat; the golden one was fitted to returns in percent.
    assert found.omega == pytest.approx(garch.omega / 1e4, rel=1e-3)
    assert [found.alpha, found.beta] == pytest.approx([garch.alpha, garch.beta], rel=1e-3)
    assert found.gamma == pytest.approx(garch.gamma, rel=1e-3)


def test_a_fit_that_finds_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    result = SimpleNamespace(message="Iteration limit reached")
    fitted = SimpleNamespace(convergence_flag=9, optimization_result=result)
    model = SimpleNamespace(fit=lambda **_: fitted)
    monkeypatch.setitem(sys.modules, "arch", SimpleNamespace(arch_model=lambda *_, **__: model))
    with pytest.raises(BadInput, match="no GARCH was found for 600 returns: Iteration limit reached"):
        fit_garch(SERIES)


def test_without_the_extra_a_fit_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arch", None)
    with pytest.raises(ConfigError, match=r"needs the extra: pip install 'hybrid-keeper\[risk\]'"):
        fit_garch(SERIES)


# --- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: ewma([], decay=0.9), "returns must not be empty"),
        (lambda: ewma([0.1, float("nan")], decay=0.9), "returns must be finite, found nan"),
        (lambda: ewma([0.1], decay=1.0), r"decay must lie in \(0, 1\), found 1.0"),
        (lambda: ewma([[[0.1]]], decay=0.9), "returns must have 1 or 2 dimensions"),
        (lambda: ewma(["much"], decay=0.9), "returns must be numbers"),
        (lambda: ledoit_wolf([0.1, 0.2]), "returns must have 2 dimensions"),
        (lambda: constant_correlation([[0.1], [0.2]]), "2 or more assets"),
        (lambda: constant_correlation([[0.1, 1.0], [0.2, 1.0]]), "all of which move"),
        (lambda: stress_correlation(np.eye(2), 1.1), r"k must lie in \[0, 1\]"),
        (lambda: stress_correlation(2 * np.eye(2), 0.1), "1 everywhere on its diagonal"),
        (lambda: stress_correlation([[1, 2], [2, 1]], 0.1), "must be positive semidefinite"),
        (lambda: nearest_correlation([[1, 0.5], [0.4, 1]]), "matrix must be symmetric"),
        (lambda: nearest_correlation([[1, 0.5]]), r"matrix must have the shape \[1, 1\]"),
        (lambda: nearest_correlation([[1, 1, 0], [1, 1, 1], [0, 1, 1]], rounds=2), "was found in 2 rounds"),
        (lambda: absorption_ratio(np.zeros((2, 2))), "a variance above 0"),
        (lambda: absorption_ratio(np.eye(2), components=3), r"a whole number in \[1, 2\], found 3"),
        (lambda: absorption_ratio(np.eye(2), components=1.5), "must be a whole number"),  # type: ignore[arg-type]
        (lambda: Garch(-0.1, 0.1, 0.8), "omega must not be negative"),
        (lambda: Garch(0.1, 0.1, 0.8, -0.2), r"alpha \+ gamma must not be negative"),
    ],
)
def test_what_has_no_answer_is_refused(ask: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask()
