"""Backtests of tails: published results, right and wrong forecasts, and a walk through returns."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from keeper.errors import BadInput
from keeper.risk.inputs import Floats
from keeper.risk.tail import TailRisk, filtered_historical, historical, parametric
from keeper.risk.tail_backtest import (
    acerbi_szekely,
    backtest,
    christoffersen,
    kupiec,
    traffic_light,
    walk_forward,
    walk_forward_by_slot,
)


def hits(n: int, *, alone: int, pairs: int) -> list[int]:
    """So many exceptions, some of them followed by another one, and none at either end."""
    found = [0] * n
    for number in range(alone + pairs):
        found[5 + 10 * number] = 1
        found[6 + 10 * number] = int(number < pairs)
    return found


# --- how many, and in which order ------------------------------------------------------------------


def test_the_published_example_of_a_toolbox_is_met() -> None:
    """MathWorks, Risk Management Toolbox, varbacktest: pof, cci, cc and tl of Normal95."""
    number = kupiec(exceptions=57, n=1043, level=0.95)
    assert (round(number.statistic, 5), round(number.p_value, 5), number.reject) == (0.46147, 0.49694, False)
    found = christoffersen(hits(1043, alone=49, pairs=4), 0.95)
    assert found.transitions == ((932, 53), (53, 4))
    assert found.unconditional == number
    order = found.independence
    assert (round(order.statistic, 5), round(order.p_value, 5), order.reject) == (0.25866, 0.61104, False)
    assert (round(found.statistic, 5), round(found.p_value, 5), found.reject) == (0.72013, 0.69763, False)
    light = traffic_light(exceptions=57, n=1043, level=0.95)
    assert (light.zone, round(light.cumulative, 5), round(light.at_least, 5)) == ("green", 0.77913, 0.26396)


@pytest.mark.parametrize(
    ("level", "n", "least", "most"),
    [
        (0.99, 255, 1, 6),
        (0.99, 510, 2, 10),
        (0.99, 1000, 5, 16),
        (0.975, 255, 3, 11),
        (0.975, 510, 7, 20),
        (0.975, 1000, 16, 35),
        (0.95, 255, 7, 20),
        (0.95, 510, 17, 35),
        (0.95, 1000, 38, 64),
    ],
)
def test_the_regions_that_do_not_reject_are_those_of_kupiecs_table(
    level: float, n: int, least: int, most: int
) -> None:
    """Kupiec (1995), table 3, as Jorion, "Value at Risk", prints it: 5%.

    In its first cell it says N < 7, but of no exception in 255 days the ratio is -510 ln 0.99 = 5.13 > 3.84.
    """
    kept = [x for x in range(n // 4) if not kupiec(exceptions=x, n=n, level=level).reject]
    assert kept == list(range(least, most + 1))


def test_what_is_tested_at_once_is_the_sum_of_both() -> None:
    """Critical values of chi-squared with one and two degrees of freedom."""
    found = christoffersen([0, 1, 0, 0], 0.9)
    assert found.unconditional.critical == pytest.approx(3.841, abs=1e-3)
    assert found.conditional.critical == pytest.approx(5.991, abs=1e-3)
    assert found.statistic == pytest.approx(found.unconditional.statistic + found.independence.statistic)


@pytest.mark.parametrize("series", [[0] * 250, [0] * 249 + [1], [1] + [0] * 249, [1] * 5, [0, 0]])
def test_none_or_one_or_only_exceptions_have_a_verdict(series: list[int]) -> None:
    found = christoffersen(series, 0.99)
    for each in (found.unconditional, found.independence, found.conditional):
        assert math.isfinite(each.statistic)
        assert each.statistic >= 0
        assert 0 <= each.p_value <= 1
    assert found.independence.p_value == pytest.approx(1.0)


def test_exceptions_may_be_the_sum_of_an_array() -> None:
    hit = np.array(hits(1043, alone=49, pairs=4), np.float64)
    assert kupiec(exceptions=hit.sum(), n=len(hit), level=0.95) == kupiec(exceptions=57, n=1043, level=0.95)


def test_no_exception_in_250_days_is_likely_at_99_percent_and_too_few_at_975() -> None:
    none = kupiec(exceptions=0, n=250, level=0.99)
    assert none.statistic == pytest.approx(-2 * 250 * math.log(0.99))
    assert none.reject
    assert not kupiec(exceptions=0, n=150, level=0.99).reject


def test_exceptions_in_a_row_are_not_independent() -> None:
    row = [0] * 500 + [1] * 10 + [0] * 490
    spread = hits(1000, alone=10, pairs=0)
    assert not christoffersen(row, 0.99).unconditional.reject
    assert christoffersen(row, 0.99).independence.reject
    assert not christoffersen(spread, 0.99).reject
    assert christoffersen(row, 0.99).reject


def test_a_test_rejects_the_truth_as_seldom_as_it_says() -> None:
    drawn = np.random.default_rng(1).random((2000, 1000)) < 0.2
    verdicts = [christoffersen(each, 0.8) for each in drawn]
    for name in ("unconditional", "independence", "conditional"):
        rate = np.mean([getattr(each, name).reject for each in verdicts])
        assert 0.035 < rate < 0.065, name


@pytest.mark.parametrize(
    ("exceptions", "zone", "percent"),
    [
        (0, "green", 8.11),
        (1, "green", 28.58),
        (2, "green", 54.32),
        (3, "green", 75.81),
        (4, "green", 89.22),
        (5, "yellow", 95.88),
        (6, "yellow", 98.63),
        (7, "yellow", 99.60),
        (8, "yellow", 99.89),
        (9, "yellow", 99.97),
        (10, "red", 99.99),
    ],
)
def test_the_zones_are_those_of_the_committee(exceptions: int, zone: str, percent: float) -> None:
    """BCBS 22 (1996), table 2: 250 days at 99%."""
    found = traffic_light(exceptions=exceptions, n=250, level=0.99)
    assert found.zone == zone
    assert round(100 * found.cumulative, 2) == pytest.approx(percent, abs=0.011)


# --- how large -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dof", "critical"), [(3, -0.82), (5, -0.74), (10, -0.71), (None, -0.70)])
def test_the_critical_values_of_z2_are_those_of_the_paper(dof: float | None, critical: float) -> None:
    """Acerbi, Szekely (2014), the table of thresholds at 5%: 250 days, 97.5%."""
    tail = parametric(mean=0.0, sd=1.0, level=0.975, dof=dof)
    losses = np.random.default_rng(0).standard_normal(250)
    found = acerbi_szekely(losses, var=tail.var, es=tail.es, level=0.975, dof=dof, paths=200_000)
    assert found.unconditional.critical == pytest.approx(critical, abs=0.012)


def test_both_statistics_are_what_they_are_by_hand() -> None:
    losses = [0.0, 3.0, -1.0, 1.0, 5.0]
    found = acerbi_szekely(losses, var=[2.0, 2.0, 2.0, 2.0, 4.0], es=[3.0, 2.5, 3.0, 3.0, 5.0], level=0.8)
    assert found.conditional is not None
    assert found.conditional.statistic == pytest.approx(1 - (3 / 2.5 + 5 / 5) / 2)
    assert found.unconditional.statistic == pytest.approx(1 - (3 / 2.5 + 5 / 5) / (0.2 * 5))


def test_a_shortfall_that_is_right_is_kept_and_one_that_is_small_is_not() -> None:
    losses = np.random.default_rng(11).standard_t(4, 2000) / math.sqrt(2)
    right, normal = (parametric(mean=0.0, sd=1.0, level=0.975, dof=dof) for dof in (4, None))
    kept = acerbi_szekely(losses, var=right.var, es=right.es, level=0.975, dof=4)
    refuted = acerbi_szekely(losses, var=normal.var, es=normal.es, level=0.975)
    assert kept.conditional is not None
    assert refuted.conditional is not None
    assert not kept.conditional.reject
    assert not kept.unconditional.reject
    assert refuted.conditional.reject
    assert refuted.unconditional.reject


def test_where_nothing_was_lost_the_size_has_no_verdict() -> None:
    found = acerbi_szekely([-1.0] * 100, var=2.0, es=3.0, level=0.975)
    assert found.conditional is None
    assert found.unconditional.statistic == 1.0
    assert not found.unconditional.reject


# --- through time ----------------------------------------------------------------------------------


def test_a_forecast_is_told_the_returns_before_and_nothing_else() -> None:
    told = []

    def forecast(past: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> TailRisk:
        told.append(past.tolist())
        return historical(-past, 0.5)

    losses, var, es = walk_forward([1.0, 2.0, 3.0, 4.0, 5.0], forecast, window=3)
    assert told == [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    assert losses.tolist() == [-4.0, -5.0]
    assert var.tolist() == [-2.0, -3.0]
    assert es.tolist() == pytest.approx([-4 / 3, -7 / 3])


def test_filtered_history_follows_a_changing_volatility_and_a_normal_ewma_does_not_its_tails() -> None:
    """Returns whose volatility clusters, and whose surprises are heavy-tailed, as those of the market are."""
    generator = np.random.default_rng(12)
    returns, variance = np.empty(2500), 1.0
    for day, shock in enumerate(generator.standard_t(4, 2500) / math.sqrt(2)):
        returns[day] = 0.02 * math.sqrt(variance) * shock
        variance = 0.05 + 0.08 * variance * shock**2 + 0.87 * variance

    def normal(past: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> TailRisk:
        weights = 0.06 * 0.94 ** np.arange(len(past) - 1, -1, -1.0)
        return parametric(mean=0.0, sd=math.sqrt(weights @ past**2), level=0.99)

    filtered, ewma = (
        walk_forward(returns, forecast, window=500)
        for forecast in (lambda past: filtered_historical(past, 0.99), normal)
    )
    exceptions = [int((losses > var).sum()) for losses, var, _ in (filtered, ewma)]
    assert not kupiec(exceptions=exceptions[0], n=2000, level=0.99).reject
    assert kupiec(exceptions=exceptions[1], n=2000, level=0.99).reject


def hours(n: int, *, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return returns of which a day has one slot of three times the others' size, and their slots."""
    slots = np.arange(n) % 6
    returns = 0.01 * np.random.default_rng(seed).standard_normal(n) * np.where(slots == 2, 3.0, 1.0)
    return returns, slots


def test_where_the_day_has_one_slot_its_factor_changes_nothing() -> None:
    returns, _ = hours(400, seed=1)

    def forecast(past: Floats) -> TailRisk:
        return historical(-past, 0.9)

    plain = walk_forward(returns, forecast, window=300)
    found = walk_forward_by_slot(returns, np.zeros(400, int), forecast, window=300, count=1)
    for one, other in zip(found, plain, strict=True):
        assert one == pytest.approx(other)


def test_a_busy_slot_is_forecast_as_busy_from_what_was_before_alone() -> None:
    returns, slots = hours(1_000, seed=2)

    def forecast(past: Floats) -> TailRisk:
        return historical(-past, 0.95)

    losses, var, es = walk_forward_by_slot(returns, slots, forecast, window=600, count=6)
    busy = slots[600:] == 2
    assert var[busy].mean() / var[~busy].mean() == pytest.approx(3.0, rel=0.15)
    assert (es >= var).all()
    assert losses.tolist() == (-returns[600:]).tolist()
    later = np.concatenate([returns[:800], 10 * returns[800:]])
    _, same, _ = walk_forward_by_slot(later, slots, forecast, window=600, count=6)
    assert same[:201].tolist() == var[:201].tolist()


def test_all_tests_are_asked_of_one_series_of_forecasts() -> None:
    losses = np.random.default_rng(4).standard_normal(1_000)
    right = parametric(mean=0.0, sd=1.0, level=0.975)
    var, es = np.full(1_000, right.var), np.full(1_000, right.es)
    found = backtest(losses, var=var, es=es, level=0.975)
    assert found.exceptions == int((losses > right.var).sum()) == found.hits.sum()
    assert found.expected == pytest.approx(25)
    assert found.coverage == christoffersen(losses > var, 0.975)
    assert found.light == traffic_light(exceptions=found.exceptions, n=1_000, level=0.975)
    assert found.size == acerbi_szekely(losses, var=right.var, es=right.es, level=0.975)
    assert found.refuted == ()
    low = backtest(losses, var=var / 2, es=es / 2, level=0.975)
    assert low.refuted == ("too many exceptions", "larger than ES says")
    assert backtest(losses, var=5 * var, es=5 * es, level=0.975).refuted == ("too few exceptions",)
    ordered = backtest(np.sort(losses), var=var, es=es, level=0.975)
    assert ordered.refuted == ("exceptions come together",)
    assert backtest(losses, var=var / 2, es=es / 2, level=0.975, significance=1e-9).refuted == low.refuted[:1]


# --- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: kupiec(exceptions=3, n=2, level=0.99), r"exceptions must be .* in \[0, 2\], found 3"),
        (lambda: kupiec(exceptions=-1, n=2, level=0.99), "exceptions must be a whole number"),
        (lambda: kupiec(exceptions=0, n=0, level=0.99), "n must be a whole number of at least 1, found 0"),
        (lambda: kupiec(exceptions=1.5, n=2, level=0.99), "found 1.5"),
        (lambda: kupiec(exceptions=1, n=2, level=1.0), r"level must lie in \(0, 1\)"),
        (lambda: kupiec(exceptions=1, n=2, level=0.9, significance=0.0), "significance must lie in"),
        (lambda: christoffersen([1], 0.99), "hits must be 2 or more"),
        (lambda: christoffersen([0, 2], 0.99), "each 0 or 1"),
        (lambda: christoffersen([0, math.nan], 0.99), "hits must be finite"),
        (lambda: traffic_light(exceptions=5, n=4, level=0.99), "exceptions must be a whole number"),
        (lambda: acerbi_szekely([1.0], var=2.0, es=1.0, level=0.99), "es must not be below var"),
        (lambda: acerbi_szekely([1.0], var=-1.0, es=0.0, level=0.99), "es must be above 0"),
        (lambda: acerbi_szekely([1.0], var=[1.0, 2.0], es=3.0, level=0.99), r"var must have the shape \[1\]"),
        (lambda: acerbi_szekely([1.0], var=1.0, es=3.0, level=0.99, dof=2), "dof must be above 2"),
        (lambda: walk_forward([1.0], lambda past: historical(past, 0.9), window=1), "window must be"),
        (
            lambda: walk_forward_by_slot([1.0, 2.0], [0], lambda past: historical(past, 0.9), window=1),
            "slots must be 2 integers",
        ),
        (lambda: backtest([1.0, 2.0], var=1.0, es=[1.0, 2.0], level=0.9), r"var must have the shape \[2\]"),
    ],
)
def test_what_has_no_answer_is_refused(ask: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask()
