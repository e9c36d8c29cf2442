"""Whether losses agree with the tail that was forecast of them.

An exception is a loss above its forecast VaR. All tests ask the same: how likely is what was seen, if the
forecasts are right? ``p_value`` says so, and ``reject`` where that is below the significance, 5% unless told.
Not to reject is no proof: 250 days at 99% expect 2.5 exceptions, and few models are told apart by so few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, chdtrc, chdtri, ndtri, stdtrit, xlogy

from keeper.errors import BadInput
from keeper.risk import inputs
from keeper.risk.inputs import Floats
from keeper.risk.intraday import DAY_H, calm_factors, slots_of
from keeper.risk.tail import Forecast, parametric

Zone: TypeAlias = Literal["green", "yellow", "red"]
SIGNIFICANCE = 0.05
YELLOW, RED = 0.95, 0.9999
"""Where the zones begin, by the probability of so many exceptions or fewer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one test says of the forecasts."""

    statistic: float
    critical: float
    """Where rejection begins, at the significance."""
    p_value: float
    """Of a statistic as extreme as this or more, if the forecasts are right."""
    significance: float = SIGNIFICANCE

    @property
    def reject(self) -> bool:
        """Tell whether the forecasts are refuted."""
        return self.p_value < self.significance


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether exceptions are as many as forecast, whether they come alone, and both at once."""

    unconditional: Verdict
    independence: Verdict
    conditional: Verdict
    """Both: its statistic is the sum of theirs."""
    transitions: tuple[tuple[int, int], tuple[int, int]]
    """[before][after]: how often no exception (0) or one (1) was followed by none or one."""

    @property
    def statistic(self) -> float:
        """Return that of both at once, as `p_value` and `reject` do."""
        return self.conditional.statistic

    @property
    def p_value(self) -> float:
        return self.conditional.p_value

    @property
    def reject(self) -> bool:
        return self.conditional.reject


@dataclass(frozen=True, slots=True)
class TrafficLight:
    """What a supervisor makes of so many exceptions."""

    zone: Zone
    cumulative: float
    """The probability of so many exceptions or fewer, if the forecasts are right."""
    at_least: float
    """That of so many or more: how often a right model would be blamed."""


@dataclass(frozen=True, slots=True)
class ShortfallTests:
    """Whether losses beyond VaR are as large as the forecast ES says. Below 0 means larger than that."""

    conditional: Verdict | None
    """Z1, the size of exceptions alone; None where there is none to judge by."""
    unconditional: Verdict
    """Z2, their size and number."""


@dataclass(frozen=True, slots=True)
class Backtest:
    """What all tests say of one series of forecasts."""

    level: float
    losses: Floats
    """[n], and what was forecast of each:"""
    var: Floats
    es: Floats
    coverage: Coverage
    light: TrafficLight
    size: ShortfallTests

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Tell which losses [n] are exceptions."""
        return self.losses > self.var

    @property
    def exceptions(self) -> int:
        return int(self.hits.sum())

    @property
    def expected(self) -> float:
        return (1 - self.level) * len(self.losses)

    @property
    def refuted(self) -> tuple[str, ...]:
        """Say what the forecasts are refuted by, by number, order and size; nothing where no test rejects."""
        number = "too many exceptions" if self.exceptions > self.expected else "too few exceptions"
        found = {
            number: self.coverage.unconditional.reject,
            "exceptions come together": self.coverage.independence.reject,
            "larger than ES says": self.size.unconditional.reject,
        }
        return tuple(words for words, rejected in found.items() if rejected)


def backtest(
    losses: ArrayLike,
    *,
    var: ArrayLike,
    es: ArrayLike,
    level: float,
    dof: float | None = None,
    significance: float = SIGNIFICANCE,
) -> Backtest:
    """Return what `christoffersen`, `traffic_light` and `acerbi_szekely` say of losses and forecasts [n].

    Raises BadInput as they do.
    """
    lost = inputs.finite("losses", losses, 1)
    bound = inputs.shaped("var", inputs.finite("var", var), len(lost))
    mean = inputs.shaped("es", inputs.finite("es", es), len(lost))
    hits = lost > bound
    return Backtest(
        level,
        lost,
        bound,
        mean,
        christoffersen(hits, level, significance=significance),
        traffic_light(exceptions=int(hits.sum()), n=len(lost), level=level),
        acerbi_szekely(lost, var=bound, es=mean, level=level, dof=dof, significance=significance),
    )


def walk_forward(returns: ArrayLike, forecast: Forecast, *, window: int) -> tuple[Floats, Floats, Floats]:
    """Return the losses [m] after the first ``window`` returns [n], and the VaR and ES [m] forecast of each.

    Each forecast is told the ``window`` returns before, and nothing else. Raises BadInput for returns no more
    than the window, and as the forecast does.
    """
    moves = inputs.finite("returns", returns, 1)
    inputs.count("window", window, least=1, most=len(moves) - 1)
    found = [forecast(moves[end - window : end]) for end in range(window, len(moves))]
    return -moves[window:], np.array([each.var for each in found]), np.array([each.es for each in found])


def walk_forward_by_slot(
    returns: ArrayLike, slots: ArrayLike, forecast: Forecast, *, window: int, count: int = DAY_H
) -> tuple[Floats, Floats, Floats]:
    """Return what `walk_forward` does, of returns [n] within the day; ``slots`` [n] say the hour of each.

    Each forecast is told the returns before over the factors of their hours, and is multiplied by that of the
    hour it is for. The factors are those of the window, jumps cut; what is forecast knows the jumps.

    Raises BadInput as `walk_forward` and `calm_factors`.
    Property: of returns whose hours are all alike it is `walk_forward`, but for the factors' error.
    """
    moves = inputs.finite("returns", returns, 1)
    at = slots_of(slots, moves.shape, count)
    inputs.count("window", window, least=1, most=len(moves) - 1)
    var, es = np.empty(len(moves) - window), np.empty(len(moves) - window)
    for now in range(window, len(moves)):
        past = slice(now - window, now)
        factors = calm_factors(moves[past], at[past], count=count)
        found = forecast(moves[past] / factors[at[past]])
        var[now - window], es[now - window] = found.var * factors[at[now]], found.es * factors[at[now]]
    return -moves[window:], var, es


def kupiec(
    *,
    exceptions: SupportsIndex | float,
    n: SupportsIndex | float,
    level: float,
    significance: float = SIGNIFICANCE,
) -> Verdict:
    """Return whether ``exceptions`` among n are as many as the level says: the proportion of failures.

    A likelihood ratio, chi-squared with one degree of freedom. Raises BadInput for counts that are none,
    more exceptions than n, and a level or significance outside (0, 1).

    Source: Kupiec, "Techniques for verifying the accuracy of risk measurement models" (1995), equation 5.
    """
    days = inputs.count("n", n)
    hits = inputs.count("exceptions", exceptions, least=0, most=days)
    rate = 1 - inputs.probability("level", level)
    ratio = _log_likelihood(hits, days, hits / days) - _log_likelihood(hits, days, rate)
    return _by_chi_squared(2 * ratio, 1, significance)


def christoffersen(hits: ArrayLike, level: float, *, significance: float = SIGNIFICANCE) -> Coverage:
    """Return whether exceptions, ``hits`` [n] of 0 and 1 in order, are as many as forecast and come alone.

    The number is tested on all n, as `kupiec` does, and independence on the n - 1 transitions between
    neighbours; a probability of 0 to the power of 0 counts 1, so that no exception, or one, has a verdict
    too.

    Raises BadInput for fewer than 2 hits, others than 0 and 1, and a level or significance outside (0, 1).
    Source: Christoffersen, "Evaluating interval forecasts" (1998), section 3.
    """
    series = inputs.finite("hits", hits, 1)
    if len(series) < 2 or not np.isin(series, (0.0, 1.0)).all():
        raise BadInput("hits must be 2 or more, each 0 or 1")
    hit = series.astype(np.int64)
    (n00, n01), (n10, n11) = np.bincount(2 * hit[:-1] + hit[1:], minlength=4).reshape(2, 2).tolist()
    after = _log_likelihood(n01, n00 + n01) + _log_likelihood(n11, n10 + n11)
    ratio = 2 * (after - _log_likelihood(n01 + n11, len(hit) - 1))
    independence = _by_chi_squared(ratio, 1, significance)
    number = kupiec(exceptions=int(hit.sum()), n=len(hit), level=level, significance=significance)
    both = _by_chi_squared(number.statistic + independence.statistic, 2, significance)
    return Coverage(number, independence, both, ((n00, n01), (n10, n11)))


def traffic_light(
    *, exceptions: SupportsIndex | float, n: SupportsIndex | float, level: float
) -> TrafficLight:
    """Return the zone of so many exceptions among n: yellow from a probability of 95% on, red from 99.99%.

    Raises BadInput as `kupiec`.
    Source: Basel Committee, "Supervisory framework for the use of backtesting" (BCBS 22, 1996), table 2: of
    250 days at 99% 0 to 4 are green, 5 to 9 yellow.
    """
    days = inputs.count("n", n)
    hits = inputs.count("exceptions", exceptions, least=0, most=days)
    rate = 1 - inputs.probability("level", level)
    so_many, fewer = float(bdtr(hits, days, rate)), float(bdtr(hits - 1, days, rate)) if hits else 0.0
    zone: Zone = "green" if so_many < YELLOW else "yellow" if so_many < RED else "red"
    return TrafficLight(zone, so_many, 1 - fewer)


def acerbi_szekely(
    losses: ArrayLike,
    *,
    var: ArrayLike,
    es: ArrayLike,
    level: float,
    dof: float | None = None,
    paths: int = 10_000,
    seed: int = 0,
    significance: float = SIGNIFICANCE,
) -> ShortfallTests:
    """Return whether losses [n] beyond their forecast VaR are as large as their forecast ES says.

    Z1 = 1 - mean(L / ES) over the exceptions, Z2 = 1 - sum(L / ES over the exceptions) / ((1 - level) n): 0
    is expected, less is worse, and only that rejects. Their distribution is simulated for losses that are
    normal, or of Student's t with ``dof``, with a mean of 0 and any volatility; at 97.5% and 250 days Z2
    rejects near -0.7 for all of them but the heaviest tails. ``var`` and ``es`` are one number or [n].

    Raises BadInput for shapes that differ, an ES that is not above 0 or below its VaR, and as `kupiec`.
    Source: Acerbi, Szekely, "Back-testing expected shortfall" (2014), tests 1 and 2.
    """
    lost = inputs.finite("losses", losses, 1)
    part = inputs.probability("level", level)
    rare = inputs.probability("significance", significance)
    inputs.count("paths", paths)
    bound, mean = (
        inputs.one_or("var", var, len(lost)),
        inputs.positive("es", inputs.one_or("es", es, len(lost))),
    )
    if not (mean >= bound).all():
        raise BadInput("es must not be below var")
    ratios = (lost / mean)[lost > bound]
    numbers, sums = _shortfalls(len(lost), part, dof, paths, seed)
    expected = (1 - part) * len(lost)
    second = _by_simulation(1 - float(ratios.sum()) / expected, 1 - sums / expected, rare)
    some = numbers > 0
    if not len(ratios) or not some.any():
        return ShortfallTests(None, second)
    first = _by_simulation(1 - float(ratios.mean()), 1 - sums[some] / numbers[some], rare)
    return ShortfallTests(first, second)


def _log_likelihood(hits: int, n: int, rate: float | None = None) -> float:
    """Return that of so many hits among n, at the rate that makes it largest unless one is given."""
    likely = hits / max(n, 1) if rate is None else rate
    return float(xlogy(hits, likely) + xlogy(n - hits, 1 - likely))


def _by_chi_squared(statistic: float, freedom: int, significance: float) -> Verdict:
    rare = inputs.probability("significance", significance)
    # A ratio of equal likelihoods may be rounded to less than 0.
    found = max(statistic, 0.0)
    return Verdict(found, float(chdtri(freedom, rare)), float(chdtrc(freedom, found)), rare)


def _by_simulation(statistic: float, simulated: Floats, significance: float) -> Verdict:
    """Place a statistic among simulated ones, itself counted, so that no p-value is 0."""
    as_low = (1 + int((simulated <= statistic).sum())) / (1 + len(simulated))
    critical = float(np.quantile(simulated, significance, method="inverted_cdf"))
    return Verdict(statistic, critical, as_low, significance)


def _shortfalls(n: int, level: float, dof: float | None, paths: int, seed: int) -> tuple[Floats, Floats]:
    """Simulate the number of exceptions [paths], and the sum of their losses over ES."""
    generator = np.random.default_rng(seed)
    numbers = generator.binomial(n, 1 - level, paths)
    ranks = 1 - (1 - level) * generator.random(int(numbers.sum()))
    es = float(parametric(mean=0.0, sd=1.0, level=level, dof=dof).es)
    beyond = ndtri(ranks) if dof is None else stdtrit(dof, ranks) * math.sqrt((dof - 2) / dof)
    sums = np.bincount(np.repeat(np.arange(paths), numbers), beyond / es, minlength=paths)
    return numbers.astype(np.float64), sums.astype(np.float64)
