"""How much a book may lose: value at risk and expected shortfall, and what each position adds to them.

Losses are positive, and a level is the part of outcomes that lose no more: 0.99, not 0.01. Returns are
profits over the horizon that is asked about; nothing here scales by time. Logarithmic ones are profits only
once they are made simple, by expm1: of a rise a short loses more than its logarithm, of a fall a long loses
less. Everything is in the units of what is given.

Sources: Rockafellar, Uryasev, "Optimization of conditional value-at-risk" (2000) and Acerbi, Tasche, "On the
coherence of expected shortfall" (2002) for the shortfall of a sample; McNeil, Frey, Embrechts, "Quantitative
Risk Management", sections 2.3 (closed forms) and 8.5 (Euler's contributions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, ndtri, stdtrit

from keeper.errors import BadInput
from keeper.risk import inputs
from keeper.risk.covariance import ewma_path
from keeper.risk.inputs import Floats
from keeper.risk.upper import Collect, collecting, reaching, upper_ends

THREADS = 2
TILE = 640_000
"""Losses that one thread makes at a time: they stay in the caches next to it."""

Book: TypeAlias = ArrayLike | Callable[[Floats], Floats]
"""Exposures [i], or what a book gains [p] from returns [p, i]."""
Forecast: TypeAlias = Callable[[Floats], "TailRisk"]
"""From past returns [n], oldest first, to the tail of the next."""


@dataclass(frozen=True, slots=True)
class TailRisk:
    """What is lost at most at a level, and on average beyond it."""

    var: Floats
    """Value at risk: the least loss that is not exceeded with the probability of the level."""
    es: Floats
    """Expected shortfall: the mean of the worst 1 - level of all outcomes; never below ``var``."""
    standard_error: Floats
    """Of ``var``, from the number of outcomes; 0 of a closed form, infinite where too few of them tell."""


@dataclass(frozen=True, slots=True)
class Contributions:
    """Whose loss an expected shortfall is, by Euler: the parts add up to the whole."""

    es: float
    marginal: Floats
    """[i], what one unit more of each exposure adds."""
    component: Floats
    """[i], exposure times ``marginal``; below 0 for a hedge."""


class OutsideDomain(BadInput):
    """Moments of which Cornish and Fisher's expansion makes no quantile."""

    def __init__(self, skew: float, excess_kurtosis: float, place: int | None) -> None:
        super().__init__(
            "skew and excess_kurtosis must lie in the domain of the expansion, where it is monotone: "
            f"found {skew:.4g} and {excess_kurtosis:.4g}"
        )
        self.skew = skew
        self.excess_kurtosis = excess_kurtosis
        self.place = place
        """Whose they are of many, the first of such; None where only one was asked for."""


def historical(losses: ArrayLike, level: float) -> TailRisk:
    """Return the tail of a sample of losses [n], or of each column of [n, k].

    VaR is the smallest loss that at least n x level of them do not exceed (inverted_cdf: no interpolation),
    and ES = VaR + sum(max(L - VaR, 0)) / ((1 - level) n). The standard error takes the losses for
    independent.

    Raises BadInput for losses that are not finite or not there, and a level outside (0, 1).
    Property: ES >= VaR, both rise with the level and move with the losses; ES of a sum is at most the sum of
    ES.
    """
    sample = inputs.finite("losses", losses, 1, 2)
    part = inputs.probability("level", level)
    found = _tail(np.ascontiguousarray(np.atleast_2d(sample.T)), part)
    return found if sample.ndim == 2 else TailRisk(found.var[0], found.es[0], found.standard_error[0])


def of_books(
    exposures: ArrayLike, returns: ArrayLike, level: float, *, compiled: bool | None = None
) -> TailRisk:
    """Return the tails of many books at once [m]: of each `historical` of its losses, -(returns @ exposures).

    ``exposures`` [m, i] are what each book has in each factor, ``returns`` [n, i] what these did. Losses are
    made of a few books at a time, in threads, so that a hundred thousand books in ten thousand outcomes take
    some ten megabytes. numpy's own threads would be in their way: OPENBLAS_NUM_THREADS=1.
    ``compiled`` asks for loops of numba or none; by None many losses have them where numba is there.

    Raises BadInput as `historical`, and for shapes that do not fit.
    Property: equal to `historical` of every book by itself, to rounding.
    """
    held, moves = inputs.finite("exposures", exposures, 2), inputs.finite("returns", returns, 2)
    inputs.shaped("returns", moves, None, held.shape[1])
    part, lost = inputs.probability("level", level), np.ascontiguousarray(-moves.T)
    collect = collecting(len(held) * len(moves), compiled=compiled)
    at_once = max(1, TILE // len(moves))
    with ThreadPoolExecutor(THREADS) as threads:
        parts = np.split(held, range(at_once, len(held), at_once))
        found = list(threads.map(lambda books: _tail(books @ lost, part, collect), parts))
    return TailRisk(
        np.concatenate([each.var for each in found]),
        np.concatenate([each.es for each in found]),
        np.concatenate([each.standard_error for each in found]),
    )


def parametric(*, mean: ArrayLike, sd: ArrayLike, level: ArrayLike, dof: ArrayLike | None = None) -> TailRisk:
    """Return the tail of losses that are normal, or of Student's t with ``dof`` degrees of freedom.

    ``mean`` and ``sd`` are those of the losses, for t as well: it is scaled to a variance of 1 first. All
    broadcast.

    Raises BadInput for a negative sd, a level outside (0, 1), and dof not above 2, where no variance
    exists.
    """
    centre, spread = inputs.finite("mean", mean), inputs.not_negative("sd", sd)
    part = inputs.between("level", level, 0.0, 1.0)
    inputs.together(mean=centre, sd=spread, level=part, dof=0.0 if dof is None else dof)
    quantile, shortfall = _unit_tail(part, dof)
    var, es = centre + spread * quantile, centre + spread * shortfall
    return TailRisk(var[()], es[()], np.zeros_like(var)[()])


def cornish_fisher(
    *, mean: ArrayLike, sd: ArrayLike, skew: ArrayLike, excess_kurtosis: ArrayLike, level: ArrayLike
) -> TailRisk:
    """Return the tail of losses that are nearly normal, by Cornish and Fisher's expansion in four moments.

    ``skew`` and ``excess_kurtosis`` are population moments (1/n) of the losses: a skew above 0 is a long tail
    of losses. All broadcast.

    Raises OutsideDomain outside of Maillard's domain: there the expanded quantile falls with its level
    somewhere, so that it is no quantile. Raises BadInput for a negative sd, and a level outside (0, 1).

    Source: Maillard, "A user's guide to the Cornish Fisher expansion" (2012), the domain and the shortfall.
    """
    centre, spread = inputs.finite("mean", mean), inputs.not_negative("sd", sd)
    s, k = inputs.finite("skew", skew), inputs.finite("excess_kurtosis", excess_kurtosis)
    part = inputs.between("level", level, 0.0, 1.0)
    inputs.together(mean=centre, sd=spread, skew=s, excess_kurtosis=k, level=part)
    _check_monotone(s, k)
    z = ndtri(part)
    quantile = z + (z**2 - 1) * s / 6 + (z**3 - 3 * z) * k / 24 - (2 * z**3 - 5 * z) * s**2 / 36
    beyond, _, _ = _beyond(z, s, k)
    var = np.asarray(centre + spread * quantile)
    es = np.asarray(centre + spread * _density(z) / (1 - part) * beyond)
    return TailRisk(var[()], es[()], np.zeros_like(var)[()])


def filtered_historical(
    returns: ArrayLike,
    level: float,
    *,
    decay: float = 0.94,
    weights: ArrayLike | None = None,
    steps: int = 1,
    paths: int = 10_000,
    seed: int = 0,
) -> TailRisk:
    """Return the tail of the next returns, which are past ones as `filtered_returns` makes them.

    ``returns`` are those of the book [n], or of its assets [n, i] with ``weights`` [i].

    Raises BadInput as `filtered_returns`, for wrong shapes and a level outside (0, 1).
    Property: scaled returns give a scaled tail; of a constant volatility it is that of `historical`.
    """
    moves, held = _held(returns, weights)
    drawn = filtered_returns(moves, decay=decay, steps=steps, paths=paths, seed=seed)
    return historical(-drawn @ held, level)


def filtered_returns(
    returns: ArrayLike, *, decay: float = 0.94, steps: int = 1, paths: int = 10_000, seed: int = 0
) -> Floats:
    """Return what the next returns [m, i] may be: past ones [n, i], scaled to the volatility expected now.

    Each past return is divided by what an EWMA expected of it, from earlier ones alone, and multiplied by
    what it expects of the next. The first of them are left out, a tenth at most: by then an EWMA knows little
    more than the return that it began with. Of one step every past return counts once. Of several, so many
    paths are drawn, the volatility of each following its own returns, which add up. All assets of one path
    and step are of one past moment, so that they fall together as they did.

    Raises BadInput for fewer than 2 returns, none that moves, and a decay outside (0, 1).

    Source: Hull, White, "Incorporating volatility updating into the historical simulation method" (1998);
    Barone-Adesi, Giannopoulos, Vosper, "VaR without correlations" (1999), whose GARCH is an EWMA here.
    """
    moves, kept = inputs.finite("returns", returns, 2), inputs.probability("decay", decay)
    inputs.count("steps", steps)
    inputs.count("paths", paths)
    residuals, variance = _filtered(moves, kept)
    if steps == 1:
        return np.asarray(residuals * np.sqrt(variance))
    generator = np.random.default_rng(seed)
    total: Floats = np.zeros((paths, moves.shape[1]))
    sd = np.tile(np.sqrt(variance), (paths, 1))
    # A return of z deviations makes the next variance kept + (1 - kept) z^2 times what it was.
    growth = np.sqrt(kept + (1 - kept) * residuals**2)
    for _ in range(steps):
        drawn = generator.integers(len(residuals), size=paths)
        total += residuals[drawn] * sd
        sd *= growth[drawn]
    return total


def monte_carlo(
    book: Book,
    covariance: ArrayLike,
    level: float,
    *,
    mean: ArrayLike = 0.0,
    dof: float | None = None,
    paths: int = 100_000,
    seed: int = 0,
) -> TailRisk:
    """Return the tail of a book whose assets' returns are drawn as `drawn_returns` does.

    ``standard_error`` is sqrt(level (1 - level) / paths) / f(VaR), with the density f by the spacing of the
    drawn losses.

    Raises BadInput as `drawn_returns`, for wrong shapes and a level outside (0, 1).
    """
    drawn = drawn_returns(covariance, mean=mean, dof=dof, paths=paths, seed=seed)
    return historical(-_gains(book, drawn), level)


def drawn_returns(
    covariance: ArrayLike,
    *,
    mean: ArrayLike = 0.0,
    dof: float | None = None,
    paths: int = 100_000,
    seed: int = 0,
) -> Floats:
    """Return returns [paths, i] that are drawn jointly normal, or of Student's t.

    ``covariance`` [i, i] and ``mean`` [i] are those of the returns, for t as well. A seed makes the same
    paths everywhere. Raises BadInput for a covariance that is none, wrong shapes, and dof not above 2.
    """
    spread = inputs.positive_semidefinite("covariance", covariance)
    centre = inputs.one_or("mean", mean, len(spread))
    inputs.count("paths", paths)
    generator = np.random.default_rng(seed)
    eigenvalues, vectors = np.linalg.eigh(spread)
    root = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))).T
    drawn = generator.standard_normal((paths, len(spread))) @ root
    if dof is not None:
        heavy = inputs.scalar("dof", _degrees(dof))
        drawn *= np.sqrt((heavy - 2) / generator.chisquare(heavy, (paths, 1)))
    return np.asarray(centre + drawn)


def parametric_contributions(
    weights: ArrayLike,
    covariance: ArrayLike,
    level: float,
    *,
    mean: ArrayLike = 0.0,
    dof: float | None = None,
) -> Contributions:
    """Return what each exposure [i] adds to the shortfall of `parametric`; ``mean`` is that of the returns.

    Raises BadInput as `parametric`, for wrong shapes, and where the book has no variance: there the
    shortfall has an edge, and no contributions.
    """
    held = inputs.finite("weights", weights, 1)
    spread = inputs.positive_semidefinite("covariance", covariance)
    inputs.shaped("covariance", spread, len(held), len(held))
    centre = inputs.one_or("mean", mean, len(held))
    pull = spread @ held
    variance = float(held @ pull)
    if not variance > 0:
        raise BadInput("the book has no variance: nothing can be said of what each position adds to it")
    _, shortfall = _unit_tail(np.asarray(inputs.probability("level", level)), dof)
    return _contributions(held, shortfall * pull / math.sqrt(variance) - centre)


def historical_contributions(returns: ArrayLike, weights: ArrayLike, level: float) -> Contributions:
    """Return what each exposure [i] adds to the shortfall of `historical` over returns [n, i].

    Each is its mean loss where the book loses most, outcome by outcome as `historical_weights` count them.

    Raises BadInput as `historical`, and for wrong shapes.
    Source: Tasche, "Risk contributions and performance measurement" (1999).
    """
    moves = inputs.finite("returns", returns, 2)
    moves, held = _held(moves, weights)
    return _contributions(held, -historical_weights(-moves @ held, level) @ moves)


def historical_weights(losses: ArrayLike, level: float) -> Floats:
    """Return by how much each of losses [n], or [n, k], counts for the shortfall of `historical`.

    Weighted so, losses sum to ES, and the losses of any part of a book to what it adds. Of outcomes that
    lose exactly the VaR so many count that 1 - level of all do, and all of them alike.

    Raises BadInput as `historical`.
    """
    sample = inputs.finite("losses", losses, 1, 2)
    part, n = inputs.probability("level", level), len(sample)
    var = historical(sample, part).var
    beyond, on = sample > var, sample == var
    counted = beyond + on * ((1 - part) * n - beyond.sum(axis=0)) / on.sum(axis=0)
    return np.asarray(counted / ((1 - part) * n))


def cornish_fisher_of(losses: ArrayLike, level: float) -> TailRisk:
    """Return `cornish_fisher` by the moments of losses [n], or of each column of [n, k].

    Losses that do not differ have that tail. Raises BadInput as `cornish_fisher`.
    """
    moments = _Moments.of(inputs.finite("losses", losses, 1, 2))
    return cornish_fisher(
        mean=moments.mean,
        sd=moments.sd,
        skew=moments.skew,
        excess_kurtosis=moments.excess_kurtosis,
        level=level,
    )


def cornish_fisher_weights(losses: ArrayLike, level: float) -> Floats:
    """Return how the shortfall of `cornish_fisher_of` changes with each of losses [n], or [n, k].

    Weighted so, losses sum to ES, and the losses of any part of a book to what it adds: the shortfall is
    homogeneous in the losses, by Euler. Losses that do not differ count alike. Raises BadInput as
    `cornish_fisher`.
    """
    sample = inputs.finite("losses", losses, 1, 2)
    moments, part = _Moments.of(sample), inputs.probability("level", level)
    _check_monotone(moments.skew, moments.excess_kurtosis)
    n, z = len(sample), float(ndtri(part))
    unit = moments.unit(sample)
    # The moments' own derivatives, in deviations: of the root of the second, of skew, of kurtosis.
    of_skew = 3 * (unit**2 - 1 - moments.skew * unit)
    of_kurtosis = 4 * (unit**3 - moments.skew - (moments.excess_kurtosis + 3) * unit)
    beyond, by_skew, by_kurtosis = _beyond(z, moments.skew, moments.excess_kurtosis)
    tail = np.where(moments.sd > 0, _density(np.asarray(z)) / (1 - part), 0.0)
    return np.asarray((1 + tail * (beyond * unit + by_skew * of_skew + by_kurtosis * of_kurtosis)) / n)


def horizon(*, liquidation: ArrayLike, oracle: ArrayLike, finality: ArrayLike) -> Floats:
    """Return the time over which to measure a loss: as long as the slowest of three takes, in their unit.

    Until a book is closed, until its oracle has told of a move, and until the chain cannot undo what was
    done. Raises BadInput for a negative time.
    """
    times = {"liquidation": liquidation, "oracle": oracle, "finality": finality}
    found = [inputs.not_negative(name, time) for name, time in times.items()]
    return np.asarray(np.maximum(np.maximum(found[0], found[1]), found[2]))[()]


def _tail(samples: Floats, part: float, collect: Collect = reaching) -> TailRisk:
    """Return the tails of samples of losses [m, n]."""
    n = samples.shape[1]
    at, low, high = _ranks(n, part)
    ends = upper_ends(samples, low, collect)
    # Ranks from the largest on, for of the others some are left out.
    below, var, above = (ends[:, ends.shape[1] - (n - rank)] for rank in (low, at, high))
    es = var + np.maximum(ends - var[:, None], 0.0).sum(axis=1) / ((1 - part) * n)
    if low == high:
        return TailRisk(var, es, np.full_like(var, np.inf))
    return TailRisk(var, es, math.sqrt(part * (1 - part) / n) * (above - below) * n / (high - low))


def _ranks(n: int, level: float) -> tuple[int, int, int]:
    """Return the place of a quantile among n in order, and two around it by whose distance its density goes.

    The distance is Bofinger's (1975), as in Koenker, "Quantile Regression" (2005), section 3.4.
    """
    # Rounding must not lift 0.07 x 100, which is 7.000000000000001, to the eighth.
    at = math.ceil(round(n * level, 9)) - 1
    z = float(ndtri(level))
    reach = (4.5 * float(_density(np.asarray(z))) ** 4 / (2 * z * z + 1) ** 2 / n) ** 0.2
    aside = max(1, round(n * min(reach, level / 2, (1 - level) / 2)))
    return at, max(at - aside, 0), min(at + aside, n - 1)


def _density(z: Floats) -> Floats:
    return np.asarray(np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))


def _beyond(z: Floats | float, skew: Floats, kurtosis: Floats) -> tuple[Floats, Floats, Floats]:
    """Return by what a normal shortfall is multiplied, and how that changes with skew and excess kurtosis."""
    factor = 1 + z * skew / 6 + (z**2 - 1) * kurtosis / 24 - (2 * z**2 - 1) * skew**2 / 36
    by_kurtosis = np.asarray((z**2 - 1) / 24)
    return np.asarray(factor), np.asarray(z / 6 - (2 * z**2 - 1) * skew / 18), by_kurtosis


@dataclass(frozen=True, slots=True)
class _Moments:
    """Those of the population: sums are divided by n."""

    mean: Floats
    sd: Floats
    skew: Floats
    """0, as the next, where nothing differs."""
    excess_kurtosis: Floats

    @classmethod
    def of(cls, sample: Floats) -> _Moments:
        mean, sd = sample.mean(axis=0), sample.std(axis=0)
        unit = (sample - mean) / np.where(sd > 0, sd, 1.0)
        kurtosis = np.where(sd > 0, (unit**4).mean(axis=0) - 3, 0.0)
        return cls(np.asarray(mean), np.asarray(sd), np.asarray((unit**3).mean(axis=0)), kurtosis)

    def unit(self, sample: Floats) -> Floats:
        """Return how many deviations each of the sample is from its mean."""
        return np.asarray((sample - self.mean) / np.where(self.sd > 0, self.sd, 1.0))


def _degrees(dof: ArrayLike) -> Floats:
    heavy = inputs.finite("dof", dof)
    if not (heavy > 2).all():
        raise BadInput(f"dof must be above 2, found {heavy.min():g}: no variance exists")
    return heavy


def _unit_tail(level: Floats, dof: ArrayLike | None) -> tuple[Floats, Floats]:
    """Return the quantile and the shortfall of a variable with mean 0 and variance 1."""
    if dof is None:
        z = np.asarray(ndtri(level))
        return z, np.asarray(_density(z) / (1 - level))
    heavy = _degrees(dof)
    t = np.asarray(stdtrit(heavy, level))
    norm = gammaln((heavy + 1) / 2) - gammaln(heavy / 2) - np.log(heavy * math.pi) / 2
    density = np.exp(norm - (heavy + 1) / 2 * np.log1p(t**2 / heavy))
    unit = np.sqrt((heavy - 2) / heavy)
    shortfall = unit * density / (1 - level) * (heavy + t**2) / (heavy - 1)
    return np.asarray(unit * t), np.asarray(shortfall, np.float64)


def _check_monotone(skew: Floats, kurtosis: Floats) -> None:
    """Refuse moments for which the slope of the expansion in z, a z^2 + b z + c, is below 0 anywhere."""
    a, b, c = kurtosis / 8 - skew**2 / 6, skew / 3, 1 - kurtosis / 8 + 5 * skew**2 / 36
    outside = ~((a >= 0) & (c >= 0) & (b**2 <= 4 * a * c))
    if outside.any():
        place = int(outside.argmax())
        first, second = (float(each.flat[place]) for each in np.broadcast_arrays(skew, kurtosis))
        raise OutsideDomain(first, second, place if outside.ndim else None)


def _held(returns: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    """Return returns [n, i] and the exposures [i] to them; of a series alone, one of 1."""
    moves = inputs.finite("returns", returns, 1, 2)
    if weights is None:
        if moves.ndim > 1:
            raise BadInput(f"returns of shape {moves.shape} need weights")
        return moves[:, None], np.ones(1)
    held = inputs.finite("weights", weights, 1)
    return inputs.shaped("returns", moves, None, len(held)), held


def _filtered(moves: Floats, decay: float) -> tuple[Floats, Floats]:
    """Return returns over what was expected of them [m, i], and the variance that is expected next [i]."""
    n = len(moves)
    if n < 2:
        raise BadInput("returns must be 2 or more: the first is only what the next is measured by")
    variance = np.stack([ewma_path(each, decay=decay) for each in moves.T], axis=1)
    # After so many the first return weighs 5%.
    first = max(1, min(n // 10, math.ceil(math.log(0.05) / math.log(decay))))
    expected = variance[first - 1 : -1]
    if not (expected > 0).all():
        raise BadInput(f"returns must move from the start, found none that does among the first {first}")
    return moves[first:] / np.sqrt(expected), variance[-1]


def _gains(book: Book, returns: Floats) -> Floats:
    if callable(book):
        found = inputs.finite("what the book gains", book(returns))
        return inputs.shaped("what the book gains", found, len(returns))
    held = inputs.shaped("book", inputs.finite("book", book), returns.shape[1])
    return np.asarray(returns @ held)


def _contributions(held: Floats, marginal: Floats) -> Contributions:
    component = held * marginal
    return Contributions(float(component.sum()), marginal, component)
