"""Tails of losses: published figures, values of other libraries, integrals, and what holds of any tail."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keeper.errors import BadInput
from keeper.risk.inputs import Floats
from keeper.risk.tail import (
    TailRisk,
    cornish_fisher,
    cornish_fisher_of,
    cornish_fisher_weights,
    drawn_returns,
    filtered_historical,
    historical,
    historical_contributions,
    historical_weights,
    horizon,
    monte_carlo,
    of_books,
    parametric,
    parametric_contributions,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tail_risk.json").read_text())
levels = st.floats(0.01, 0.999)
sizes = st.floats(-1e3, 1e3).map(lambda loss: round(loss, 6))
samples = arrays(np.float64, st.integers(1, 60), elements=sizes)
tables = arrays(np.float64, st.tuples(st.integers(2, 40), st.just(3)), elements=sizes)
holdings = arrays(np.float64, 3, elements=st.floats(-10, 10).map(lambda each: round(each, 3)))


def pair(tail: TailRisk) -> tuple[float, float]:
    return float(tail.var), float(tail.es)


# --- of a sample -----------------------------------------------------------------------------------


def test_of_500_losses_the_tail_at_99_percent_is_the_sixth_worst_and_the_mean_of_five() -> None:
    found = historical(np.random.default_rng(0).permutation(np.arange(1.0, 501.0)), 0.99)
    assert pair(found) == pytest.approx((495.0, 498.0))


def test_a_tail_that_ends_inside_an_outcome_counts_a_part_of_it() -> None:
    """Of 10 losses at 85% the worst 1.5 count: 10, and half of 9."""
    found = historical(np.arange(1.0, 11.0), 0.85)
    assert pair(found) == pytest.approx((9.0, (10 + 9 / 2) / 1.5))


@pytest.mark.parametrize(("level", "var"), GOLDEN["var"])
def test_the_value_at_risk_of_a_sample_is_that_of_quantlib(level: float, var: float) -> None:
    assert historical(-np.array(GOLDEN["series"][:-1]), level).var == var


@pytest.mark.parametrize("n", [7, 20, 100, 1000])
def test_rounding_moves_no_quantile(n: int) -> None:
    losses = np.arange(1.0, n + 1)
    for hundredths in range(1, 100):
        assert historical(losses, hundredths / 100).var == -(-n * hundredths // 100)


@given(losses=samples, level=levels, other=levels)
def test_a_shortfall_is_no_less_than_its_quantile_and_both_rise_with_the_level(
    losses: Floats, level: float, other: float
) -> None:
    low, high = (historical(losses, each) for each in sorted((level, other)))
    assert low.var <= low.es * (1 + math.copysign(1e-12, float(low.es)))
    assert high.var >= low.var
    assert high.es >= low.es - 1e-9
    assert high.es <= losses.max() + 1e-9


@given(losses=samples, level=levels, shift=sizes, scale=st.floats(0.01, 100))
def test_a_tail_moves_and_grows_with_its_losses(
    losses: Floats, level: float, shift: float, scale: float
) -> None:
    before, after = historical(losses, level), historical(losses * scale + shift, level)
    assert after.var == pytest.approx(before.var * scale + shift, rel=1e-9, abs=1e-6)
    assert after.es == pytest.approx(before.es * scale + shift, rel=1e-9, abs=1e-6)


@given(losses=tables, level=levels)
def test_the_shortfall_of_a_sum_is_at_most_the_sum_of_shortfalls(losses: Floats, level: float) -> None:
    alone = historical(losses, level)
    assert historical(losses.sum(axis=1), level).es <= alone.es.sum() + 1e-6
    for column in range(3):
        assert historical(losses[:, column], level).var == alone.var[column]


def test_a_value_at_risk_may_be_more_than_its_parts_and_a_shortfall_may_not() -> None:
    """Two loans, each of which fails in 4 of 100 cases, never together."""
    loans = np.zeros((100, 2))
    loans[:4, 0] = loans[4:8, 1] = 1.0
    alone, both = historical(loans, 0.95), historical(loans.sum(axis=1), 0.95)
    assert alone.var.sum() == 0.0
    assert both.var == 1.0
    assert both.es <= alone.es.sum()


def test_the_standard_error_of_a_quantile_is_how_far_it_scatters() -> None:
    generator = np.random.default_rng(5)
    found = [historical(generator.standard_normal(2000), 0.99) for _ in range(400)]
    scatter = np.std([each.var for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(scatter, rel=0.15)
    assert historical([1.0], 0.99).standard_error == math.inf


# --- of many books ---------------------------------------------------------------------------------

books = arrays(np.float64, st.tuples(st.integers(1, 9), st.just(2)), elements=st.integers(-3, 3).map(float))
outcomes = arrays(np.float64, st.tuples(st.integers(1, 400), st.just(2)), elements=sizes)


@given(exposures=books, returns=outcomes, level=levels, compiled=st.booleans())
def test_many_books_have_the_tails_that_each_has_by_itself(
    exposures: Floats, returns: Floats, level: float, compiled: bool
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("keeper.risk.tail.TILE", 2 * len(returns))
        found = of_books(exposures, returns, level, compiled=compiled)
    alone = [historical(-returns @ each, level) for each in exposures]
    assert found.var == pytest.approx([each.var for each in alone], rel=1e-12, abs=1e-9)
    assert found.es == pytest.approx([each.es for each in alone], rel=1e-12, abs=1e-9)
    assert found.standard_error == pytest.approx([each.standard_error for each in alone], rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.975, 0.99, 0.999, 0.9999])
def test_the_tails_of_long_histories_are_those_by_definition(level: float, compiled: bool) -> None:
    generator = np.random.default_rng(4)
    returns, exposures = generator.standard_t(3, (10_000, 3)), generator.normal(size=(70, 3))
    # Rows that are all alike, and rows of few different losses, are tails too.
    exposures[3] = 0.0
    returns[:, 0] = np.round(returns[:, 0])
    exposures[4, 1:] = 0.0
    found = of_books(exposures, returns, level, compiled=compiled)
    ordered = np.sort(-returns @ exposures.T, axis=0)
    var = ordered[math.ceil(10_000 * level - 1e-6) - 1]
    es = var + np.maximum(ordered - var, 0).sum(axis=0) / ((1 - level) * 10_000)
    assert found.var == pytest.approx(var, rel=1e-12, abs=1e-12)
    assert found.es == pytest.approx(es, rel=1e-9, abs=1e-9)


# --- closed forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "normal_var", "t4_var", "normal_es"),
    [
        (0.90, 162.1, 137.1, 222.0),
        (0.95, 208.1, 190.7, 260.9),
        (0.975, 247.9, 248.3, 295.7),
        (0.99, 294.3, 335.1, 337.1),
        (0.995, 325.8, 411.8, 365.8),
    ],
)
def test_a_textbooks_table_is_met(level: float, normal_var: float, t4_var: float, normal_es: float) -> None:
    """McNeil, Frey, Embrechts, "Quantitative Risk Management": 10,000 in a stock, 20% a year of 250 days."""
    sd = 0.2 * 10_000 / math.sqrt(250)
    normal, heavy = (parametric(mean=0.0, sd=sd, level=level, dof=dof) for dof in (None, 4))
    assert normal.var == pytest.approx(normal_var, abs=0.06)
    assert heavy.var == pytest.approx(t4_var, abs=0.06)
    assert normal.es == pytest.approx(normal_es, abs=0.06)


@pytest.mark.parametrize("dof", [None, 2.5, 4, 30])
def test_a_shortfall_is_the_mean_of_all_quantiles_beyond(dof: float | None) -> None:
    points, weights = np.polynomial.legendre.leggauss(40)
    # With u = 1 - (1 - level) x^4 the quantile's pole at 1 is smooth enough to integrate.
    x = (points + 1) / 2
    quantiles = parametric(mean=1.0, sd=2.0, level=1 - 0.025 * x**4, dof=dof).var
    mean = float((weights / 2 * 4 * x**3 * quantiles).sum())
    assert parametric(mean=1.0, sd=2.0, level=0.975, dof=dof).es == pytest.approx(mean, rel=1e-4)


def test_many_degrees_of_freedom_are_a_normal() -> None:
    found = [parametric(mean=0.0, sd=1.0, level=0.99, dof=dof).es for dof in (1e6, None)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@given(mean=sizes, sd=st.floats(0, 100), level=levels, other=levels)
def test_a_closed_form_obeys_what_a_sample_does(mean: float, sd: float, level: float, other: float) -> None:
    found = parametric(mean=mean, sd=sd, level=sorted((level, other)), dof=5)
    assert (found.es >= found.var - 1e-9).all()
    assert found.var[0] <= found.var[1]
    assert found.es[0] <= found.es[1] + 1e-9
    assert (found.standard_error == 0).all()


def test_an_expansion_without_skew_and_kurtosis_is_a_normal() -> None:
    moments = {"mean": 0.5, "sd": 2.0, "level": 0.99}
    expanded, normal = cornish_fisher(**moments, skew=0.0, excess_kurtosis=0.0), parametric(**moments)
    assert pair(expanded) == pytest.approx(pair(normal))


def test_an_expansion_is_what_it_is_by_hand() -> None:
    z, s, k = 2.3263478740408408, 0.2, 1.0
    by_hand = z + (z**2 - 1) * s / 6 + (z**3 - 3 * z) * k / 24 - (2 * z**3 - 5 * z) * s**2 / 36
    assert cornish_fisher(mean=0, sd=1, skew=s, excess_kurtosis=k, level=0.99).var == pytest.approx(by_hand)


@given(skew=st.floats(-3, 3), kurtosis=st.floats(-2, 10))
def test_an_expansion_answers_where_its_quantile_rises_and_nowhere_else(skew: float, kurtosis: float) -> None:
    z = np.linspace(-60, 60, 24_001)
    slope = 1 + z * skew / 3 + (3 * z**2 - 3) * kurtosis / 24 - (6 * z**2 - 5) * skew**2 / 36
    moments = {"mean": 0.0, "sd": 1.0, "skew": skew, "excess_kurtosis": kurtosis}
    if slope.min() < 0:
        with pytest.raises(BadInput, match="must lie in the domain of the expansion"):
            cornish_fisher(**moments, level=0.99)
    elif slope.min() > 1e-3 and kurtosis / 8 > skew**2 / 6 + 1e-3:
        found = cornish_fisher(**moments, level=np.linspace(0.01, 0.99, 99))
        assert (np.diff(found.var) >= 0).all()
        assert (found.es >= found.var - 1e-9).all()


def test_of_many_books_the_first_without_an_expansion_is_named() -> None:
    skews, kurtoses = [0.0, 2.0, 3.0], [0.0, 1.0, 1.0]
    with pytest.raises(BadInput, match=r"found 2 and 1$"):
        cornish_fisher(mean=0.0, sd=1.0, skew=skews, excess_kurtosis=kurtoses, level=0.99)


def test_the_shortfall_of_an_expansion_is_the_mean_of_all_quantiles_beyond() -> None:
    moments = {"mean": 0.0, "sd": 1.0, "skew": 0.3, "excess_kurtosis": 1.5}
    beyond = cornish_fisher(**moments, level=1 - 0.025 * (np.arange(200_000) + 0.5) / 200_000).var
    assert cornish_fisher(**moments, level=0.975).es == pytest.approx(beyond.mean(), rel=1e-4)


# --- filtered --------------------------------------------------------------------------------------


def test_a_filtered_tail_is_past_surprises_at_the_volatility_of_now() -> None:
    """By hand for ten returns: the first only begins the EWMA, which knows each return after it came."""
    returns = np.array([1.0, -2.0, 0.5, 3.0, -1.0, 2.0, -4.0, 1.0, 0.5, -1.5])
    variance, losses = returns[0] ** 2, []
    for each in returns[1:]:
        losses.append(-each / math.sqrt(variance))
        variance = 0.9 * variance + 0.1 * each**2
    found = filtered_historical(returns, 0.7, decay=0.9)
    expected = historical(np.array(losses) * math.sqrt(variance), 0.7)
    assert pair(found) == pytest.approx(pair(expected))


def test_after_days_twice_as_wild_the_tail_is_twice_as_long() -> None:
    returns = 0.01 * np.random.default_rng(2).standard_normal(600)
    wild = returns.copy()
    wild[-120:] *= 2
    calm, now = (filtered_historical(each, 0.99).var for each in (returns, wild))
    assert now / calm == pytest.approx(2.0, rel=0.1)
    assert historical(-wild, 0.99).var / historical(-returns, 0.99).var < 1.8


@given(scale=st.floats(0.01, 100), steps=st.integers(1, 3))
def test_a_filtered_tail_grows_with_its_returns(scale: float, steps: int) -> None:
    returns = np.random.default_rng(4).standard_normal(120)
    options = {"steps": steps, "paths": 50}
    before, after = (filtered_historical(returns * each, 0.9, **options) for each in (1.0, scale))
    assert after.es == pytest.approx(before.es * scale, rel=1e-9)


def test_one_quiet_first_day_does_not_rule_the_tail() -> None:
    returns = 0.01 * np.random.default_rng(6).standard_normal(500)
    returns[0] = 1e-9
    assert filtered_historical(returns, 0.99).es < 0.06


def test_over_several_steps_losses_add_up_and_the_seed_decides() -> None:
    returns = 0.01 * np.random.default_rng(7).standard_normal(1000)
    one, four = filtered_historical(returns, 0.95), filtered_historical(returns, 0.95, steps=4)
    assert four.var / one.var == pytest.approx(2.0, rel=0.15)
    assert filtered_historical(returns, 0.95, steps=4) == four
    assert filtered_historical(returns, 0.95, steps=4, seed=1) != four


def test_on_a_path_the_volatility_follows_the_returns_that_were_drawn() -> None:
    """Path by path, with the recursion as it is written in RiskMetrics."""
    returns = 0.01 * np.random.default_rng(10).standard_normal(19)
    variance, surprises = returns[0] ** 2, []
    for each in returns[1:]:
        surprises.append(each / math.sqrt(variance))
        variance = 0.94 * variance + 0.06 * each**2
    generator, paths, steps = np.random.default_rng(3), 40, 3
    drawn = [generator.integers(len(surprises), size=paths) for _ in range(steps)]
    losses = np.zeros(paths)
    for path in range(paths):
        expected = variance
        for step in range(steps):
            move = surprises[drawn[step][path]] * math.sqrt(expected)
            losses[path] -= move
            expected = 0.94 * expected + 0.06 * move**2
    found = filtered_historical(returns, 0.9, steps=steps, paths=paths, seed=3)
    assert pair(found) == pytest.approx(pair(historical(losses, 0.9)))


@pytest.mark.parametrize("steps", [1, 3])
def test_assets_fall_together_as_they_did(steps: int) -> None:
    """One asset twice is that asset twice, and against itself it is nothing."""
    asset = 0.01 * np.random.default_rng(8).standard_normal(300)
    pair = np.column_stack([asset, asset])
    alone = filtered_historical(asset, 0.99, steps=steps)
    assert filtered_historical(pair, 0.99, weights=[1, 1], steps=steps).es == pytest.approx(2 * alone.es)
    assert filtered_historical(pair, 0.99, weights=[1, -1], steps=steps).es == pytest.approx(0.0, abs=1e-15)


# --- drawn -----------------------------------------------------------------------------------------

COVARIANCE = np.array([[4.0, 1.2, 0.0], [1.2, 1.0, -0.2], [0.0, -0.2, 0.25]])
WEIGHTS = np.array([1.0, -2.0, 3.0])


@pytest.mark.parametrize("dof", [None, 5])
def test_a_drawn_tail_is_that_of_the_closed_form_within_its_error(dof: float | None) -> None:
    mean = [0.1, 0.0, -0.2]
    sd = math.sqrt(WEIGHTS @ COVARIANCE @ WEIGHTS)
    exact = parametric(mean=-(WEIGHTS @ mean), sd=sd, level=0.99, dof=dof)
    found = monte_carlo(WEIGHTS, COVARIANCE, 0.99, mean=mean, dof=dof)
    assert abs(found.var - exact.var) < 3 * found.standard_error
    assert found.es == pytest.approx(exact.es, rel=0.03)


def test_the_error_of_a_drawn_tail_is_what_its_density_says() -> None:
    found = monte_carlo([1.0], [[1.0]], 0.99)
    density = math.exp(-(2.3263478740408408**2) / 2) / math.sqrt(2 * math.pi)
    assert found.standard_error == pytest.approx(math.sqrt(0.99 * 0.01 / 100_000) / density, rel=0.15)


def test_a_book_may_be_a_function_of_returns() -> None:
    linear = monte_carlo(WEIGHTS, COVARIANCE, 0.95, paths=5000)
    assert monte_carlo(lambda returns: returns @ WEIGHTS, COVARIANCE, 0.95, paths=5000) == linear
    assert monte_carlo(WEIGHTS, COVARIANCE, 0.95, paths=5000, seed=1) != linear
    bought = monte_carlo(lambda returns: np.maximum(returns[:, 0], 0.0) - 1, COVARIANCE, 0.95, paths=5000)
    assert pair(bought) == pytest.approx((1.0, 1.0))


# --- whose losses they are -------------------------------------------------------------------------


@given(returns=tables, weights=holdings, level=levels)
def test_contributions_of_a_sample_add_up_to_its_shortfall(
    returns: Floats, weights: Floats, level: float
) -> None:
    found = historical_contributions(returns, weights, level)
    whole = historical(-returns @ weights, level).es
    assert found.es == pytest.approx(whole, rel=1e-9, abs=1e-6)
    assert found.component.sum() == pytest.approx(found.es, rel=1e-9, abs=1e-6)
    assert found.component == pytest.approx(weights * found.marginal)


@given(weights=holdings, level=levels, dof=st.sampled_from([None, 4.0]))
def test_contributions_of_a_closed_form_add_up_to_its_shortfall(
    weights: Floats, level: float, dof: float | None
) -> None:
    mean = np.array([0.1, 0.0, -0.2])
    variance = weights @ COVARIANCE @ weights
    if variance < 1e-6:
        return
    found = parametric_contributions(weights, COVARIANCE, level, mean=mean, dof=dof)
    whole = parametric(mean=-(weights @ mean), sd=math.sqrt(variance), level=level, dof=dof).es
    assert found.component.sum() == pytest.approx(whole, rel=1e-9, abs=1e-9)


@given(losses=tables, level=levels)
def test_the_weights_of_a_sample_make_its_shortfall_and_are_of_one_outcome(
    losses: Floats, level: float
) -> None:
    weights = historical_weights(losses, level)
    assert weights.sum(axis=0) == pytest.approx(np.ones(3))
    assert (weights >= 0).all()
    assert (weights * losses).sum(axis=0) == pytest.approx(historical(losses, level).es, abs=1e-6)
    assert historical_weights(losses[:, 1], level) == pytest.approx(weights[:, 1])


HEAVY = np.random.default_rng(5).standard_t(9, (300, 2)) @ np.array([[1.0, 0.4], [0.0, 2.0]]) + 0.1


def test_an_expansion_of_losses_is_that_of_their_moments() -> None:
    unit = (HEAVY - HEAVY.mean(axis=0)) / HEAVY.std(axis=0)
    wanted = cornish_fisher(
        mean=HEAVY.mean(axis=0),
        sd=HEAVY.std(axis=0),
        skew=(unit**3).mean(axis=0),
        excess_kurtosis=(unit**4).mean(axis=0) - 3,
        level=0.99,
    )
    found = cornish_fisher_of(HEAVY, 0.99)
    assert found.var == pytest.approx(wanted.var)
    assert found.es == pytest.approx(wanted.es)
    assert pair(cornish_fisher_of([2.0, 2.0, 2.0], 0.99)) == (2.0, 2.0)


def test_the_weights_of_an_expansion_are_how_its_shortfall_changes_with_each_loss() -> None:
    weights = cornish_fisher_weights(HEAVY, 0.99)
    assert (weights * HEAVY).sum(axis=0) == pytest.approx(cornish_fisher_of(HEAVY, 0.99).es)
    for at in (0, 100, int(HEAVY[:, 0].argmax()), int(HEAVY[:, 0].argmin())):
        step = np.zeros_like(HEAVY)
        step[at] = 1e-5
        above, below = (cornish_fisher_of(HEAVY + sign * step, 0.99).es for sign in (1, -1))
        assert weights[at] == pytest.approx((above - below) / 2e-5, rel=1e-5, abs=1e-9)
    assert cornish_fisher_weights([2.0, 2.0], 0.99).tolist() == [0.5, 0.5]


def test_drawn_returns_have_the_moments_that_were_asked_for() -> None:
    spread = np.array([[4.0, 1.0], [1.0, 9.0]])
    for dof in (None, 9.0):
        drawn = drawn_returns(spread, mean=[1.0, -1.0], dof=dof, paths=200_000)
        assert drawn.mean(axis=0) == pytest.approx([1.0, -1.0], abs=0.03)
        assert np.cov(drawn.T) == pytest.approx(spread, abs=0.15)


def test_a_marginal_contribution_is_what_one_unit_more_adds() -> None:
    returns = np.random.default_rng(9).multivariate_normal([0.0] * 3, COVARIANCE, 2000)
    sampled = historical_contributions(returns, WEIGHTS, 0.975)
    closed = parametric_contributions(WEIGHTS, COVARIANCE, 0.975)
    for place in range(3):
        more = WEIGHTS + 1e-6 * np.eye(3)[place]
        by_sample = (historical(-returns @ more, 0.975).es - sampled.es) / 1e-6
        sd = math.sqrt(more @ COVARIANCE @ more)
        in_closed_form = (parametric(mean=0.0, sd=sd, level=0.975).es - closed.es) / 1e-6
        assert sampled.marginal[place] == pytest.approx(by_sample, abs=1e-4)
        assert closed.marginal[place] == pytest.approx(in_closed_form, abs=1e-4)


def test_a_hedge_contributes_less_than_nothing() -> None:
    found = parametric_contributions([1.0, -0.5], [[1.0, 0.9], [0.9, 1.0]], 0.99)
    assert found.component[0] > found.es > 0 > found.component[1]


# --- the time --------------------------------------------------------------------------------------


def test_a_loss_is_measured_over_the_slowest_of_three() -> None:
    assert horizon(liquidation=600, oracle=60, finality=780) == 780
    assert horizon(liquidation=[600, 900], oracle=60, finality=780).tolist() == [780, 900]


# --- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: historical([], 0.99), "losses must not be empty"),
        (lambda: historical([1.0, math.inf], 0.99), "losses must be finite, found inf"),
        (lambda: historical(1.0, 0.99), "losses must have 1 or 2 dimensions"),
        (lambda: historical([1.0], 1.0), r"level must lie in \(0, 1\), found 1.0"),
        (lambda: historical([1.0], 99), r"level must lie in \(0, 1\), found 99.0"),
        (lambda: historical([1.0], [0.9, 0.99]), "level must be one number"),  # type: ignore[arg-type]
        (lambda: of_books([1.0], [[1.0]], 0.99), "exposures must have 2 dimensions"),
        (lambda: of_books([[1.0, 2.0]], [[1.0]], 0.99), r"returns must have the shape \[any, 2\]"),
        (lambda: of_books([[1.0]], [[math.nan]], 0.99), "returns must be finite, found nan"),
        (lambda: of_books([[1.0]], [[1.0]], 99), r"level must lie in \(0, 1\), found 99.0"),
        (lambda: parametric(mean=0, sd=-1, level=0.99), "sd must not be negative, found -1.0"),
        (lambda: parametric(mean=math.nan, sd=1, level=0.99), "mean must be finite"),
        (lambda: parametric(mean=0, sd=1, level=0.99, dof=2), "dof must be above 2, found 2"),
        (
            lambda: cornish_fisher(mean=0, sd=1, skew=1, excess_kurtosis=1, level=0.99),
            "must lie in the domain of the expansion",
        ),
        (lambda: filtered_historical([1.0], 0.99), "returns must be 2 or more"),
        (lambda: filtered_historical([0.0, 0.0, 0.0], 0.99), "returns must move from the start"),
        (lambda: filtered_historical([1.0, 2.0], 0.99, decay=1.5), r"decay must lie in \(0, 1\)"),
        (
            lambda: filtered_historical([1.0, 2.0], 0.99, steps=0),
            "steps must be a whole number of at least 1",
        ),
        (lambda: filtered_historical([[1.0, 2.0]], 0.99), "need weights"),
        (
            lambda: filtered_historical([[1.0, 2.0]], 0.99, weights=[1.0]),
            r"returns must have the shape \[any, 1\], found \[1, 2\]",
        ),
        (lambda: monte_carlo([1.0], [[1.0, 0.0], [0.0, 1.0]], 0.99), r"book must have the shape \[2\]"),
        (lambda: monte_carlo([1, 1], [[1, 2], [2, 1]], 0.99), "covariance must be positive semidefinite"),
        (lambda: monte_carlo([1.0], [[1.0]], 0.99, mean=[1, 2]), r"mean must have the shape \[1\]"),
        (
            lambda: monte_carlo(lambda returns: returns, [[1.0]], 0.99, paths=9),
            r"what the book gains must have the shape \[9\]",
        ),
        (lambda: parametric_contributions([1, -1], np.ones((2, 2)), 0.99), "the book has no variance"),
        (lambda: parametric_contributions([1], np.eye(2), 0.99), r"covariance must have the shape \[1, 1\]"),
        (lambda: historical_contributions([1.0], [1.0], 0.99), "returns must have 2 dimensions"),
        (lambda: horizon(liquidation=-1, oracle=0, finality=0), "liquidation must not be negative"),
    ],
)
def test_what_has_no_answer_is_refused(ask: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask()
