"""What books may lose until they are closed: account by account, asset by asset, and all of it together.

A `Model` says how: by which method, at which level, over how many steps of the prices. Most methods make
scenarios of all assets' returns, in which every instrument is priced anew, options in full: their volatility
stays, and the time of the horizon passes. The parametric one takes a book for its deltas. What an asset adds
is its part of the expected shortfall: the parts of all assets, or of all accounts, sum to it.

Losses are in what the book settles in. Sources: ``tail``, method by method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.sparse import csr_array

from keeper.errors import BadInput
from keeper.risk import covariance, inputs, liquidity, tail
from keeper.risk.inputs import Floats
from keeper.risk.margin import DAYS_A_YEAR, Book, Numbers, revalued
from keeper.risk.prices import DAY_S, Prices
from keeper.risk.tail import Forecast, OutsideDomain, TailRisk

TILE = 1 << 22
"""So many losses are in memory at a time."""


class Method(Enum):
    """How a tail is found."""

    HISTORICAL = "historical"
    """Past returns as they were."""
    FILTERED = "filtered"
    """Past returns, scaled to the volatility that is expected now."""
    PARAMETRIC = "parametric"
    """Simple returns that are normal, or Student's t, with the covariance that is expected now."""
    CORNISH_FISHER = "cornish-fisher"
    """Four moments of what past returns would make of the book."""
    MONTE_CARLO = "monte-carlo"
    """Logarithmic returns that are drawn as such."""


SAMPLED = frozenset({Method.HISTORICAL, Method.FILTERED, Method.CORNISH_FISHER})
"""Those that know of the tail what the sample knows."""
WEIGHTED = frozenset({Method.FILTERED, Method.PARAMETRIC, Method.MONTE_CARLO})
"""Those that expect a volatility, by an EWMA."""
MOST_PATHS = 10_000_000
"""Drawn at once: more of them find no more, and fill a machine's memory."""


@dataclass(frozen=True, slots=True)
class Model:
    """How losses are forecast."""

    method: Method = Method.FILTERED
    level: float = 0.99
    decay: float = 0.94
    """Of the EWMA, from a return to the next."""
    dof: float | None = None
    """Of Student's t, where returns are taken or drawn as such; None is normal."""
    steps: int = 1
    """Of the prices, until a loss is counted."""
    paths: int = 100_000
    """Drawn, where any are."""
    seed: int = 0

    def __post_init__(self) -> None:
        inputs.probability("level", self.level)
        inputs.probability("decay", self.decay)
        inputs.count("steps", self.steps)
        inputs.count("paths", self.paths, most=MOST_PATHS)
        inputs.count("seed", self.seed, least=0)

    @property
    def least_returns(self) -> int:
        """Return how many returns it takes: one beyond the level, an EWMA that has forgotten its first."""
        beyond = math.ceil(round(1 / (1 - self.level), 9)) if self.method in SAMPLED else 2
        if self.method is Method.FILTERED:
            # A tenth may be left out.
            beyond = math.ceil(beyond / 0.9)
        settled = math.ceil(math.log(0.05) / math.log(self.decay)) if self.method in WEIGHTED else 2
        return max(beyond, settled)

    def returns_of(self, prices: Prices) -> Floats:
        """Return the logarithmic returns [n, a] that it goes by: of its steps, or single ones to draw from.

        Raises BadInput for fewer than `least_returns`, and to draw from fewer than a path has steps.
        """
        drawn = self.method is Method.FILTERED
        taken = prices if drawn else prices.every(self.steps)
        found, asked = len(taken.returns), f"{self.method.value} at {100 * self.level:g}%"
        if found < self.least_returns:
            raise BadInput(f"{asked}: expected {self.least_returns} returns at least, found {found}")
        if drawn and found < self.steps:
            raise BadInput(f"{asked}: expected a return for each of {self.steps} steps, found {found}")
        return taken.returns

    def forecast(self) -> Forecast:
        """Return what forecasts the next of a series of simple returns, a book by itself. One step only."""
        return {
            Method.HISTORICAL: lambda past: tail.historical(-past, self.level),
            Method.FILTERED: lambda past: tail.filtered_historical(past, self.level, decay=self.decay),
            Method.PARAMETRIC: self._parametric,
            Method.CORNISH_FISHER: lambda past: tail.cornish_fisher_of(-past, self.level),
            Method.MONTE_CARLO: lambda past: tail.historical(-self._drawn(past[:, None])[:, 0], self.level),
        }[self.method]

    def scenarios(self, returns: Floats) -> Floats:
        """Return by which fractions [s, a] prices may move, made of logarithmic returns [n, a]."""
        if self.method is Method.FILTERED:
            returns = tail.filtered_returns(
                returns, decay=self.decay, steps=self.steps, paths=self.paths, seed=self.seed
            )
        elif self.method is Method.MONTE_CARLO:
            returns = self._drawn(returns)
        return np.expm1(returns)

    def _drawn(self, returns: Floats) -> Floats:
        expected = covariance.ewma(returns, decay=self.decay)
        return tail.drawn_returns(expected, dof=self.dof, paths=self.paths, seed=self.seed)

    def _parametric(self, past: Floats) -> TailRisk:
        sd = math.sqrt(covariance.ewma(past, decay=self.decay))
        return tail.parametric(mean=0.0, sd=sd, level=self.level, dof=self.dof)


@dataclass(frozen=True, slots=True)
class AtRisk:
    """What accounts [n] of a book may lose, and all of them as one."""

    accounts: TailRisk
    """[n] each."""
    by_asset: Floats
    """[n, a], what each asset adds to an account's ES; below 0 where it hedges."""
    whole: TailRisk
    whole_by_asset: Floats
    """[a], what each adds to the ES of all together,"""
    whole_by_account: Floats
    """[n], and each account."""


def at_risk(book: Book, prices: Prices, model: Model) -> AtRisk:
    """Return what a book may lose within the model's steps of the prices.

    Raises BadInput where an underlying has no prices, or too few for the model, and as the method does:
    OutsideDomain has the place of an account, or None of all together.
    Property: ES >= VaR; what assets and accounts add sums to ES; a book of twice the size loses twice.
    """
    if not book.accounts or not book.spots:
        raise BadInput(f"expected accounts and assets, found {book.accounts} and {len(book.spots)}")
    returns = model.returns_of(prices.of(list(book.spots)))
    if model.method is Method.PARAMETRIC:
        return _of_deltas(book, covariance.ewma(np.expm1(returns), decay=model.decay), model)
    moves = model.scenarios(returns).T[_asset_of(book)]
    gains = revalued(book, moves, roll_days=model.steps * prices.step_s / DAY_S)
    return _of_gains(book, gains, model)


def cost_of_selling(
    book: Book,
    volume_day: Mapping[str, float],
    *,
    volatility: float = liquidity.VOLATILITY,
    depth: float = 1.0,
) -> tuple[Floats, float]:
    """Return what selling the net delta of each account [n] costs, and that of all of them as one.

    By the square-root law, underlying by underlying, in the part of a day's volume (in quote) that is left,
    ``depth``. ``volatility`` is annualised. Raises BadInput for an underlying that is held and has no volume,
    and as `liquidity.liquidity_adjusted_es`.
    """
    held = book.deltas
    day = volatility / DAYS_A_YEAR**0.5
    volumes = _volumes(book, held, volume_day)

    def cost(net: Floats) -> Floats:
        costs = liquidity.liquidity_adjusted_es(
            es=0.0, notional=np.abs(net), volume_day=volumes, volatility_day=day, depth=depth
        )
        return np.asarray(costs.sum(axis=-1) / book.unit)

    return cost(held), float(cost(held.sum(axis=0)))


def time_to_sell_s(book: Book, volume_day: Mapping[str, float], *, share: float) -> float:
    """Return how long it takes to sell the net delta of all accounts, being so much of a market's volume.

    The slowest underlying counts. Raises BadInput as `cost_of_selling`, and for a share outside (0, 1].
    """
    part = float(inputs.within("share", inputs.positive("share", share), 0.0, 1.0))
    held = book.deltas
    days = np.abs(held.sum(axis=0)) / (part * _volumes(book, held, volume_day))
    return float(days.max()) * DAY_S


def _volumes(book: Book, held: Floats, volume_day: Mapping[str, float]) -> Floats:
    """Return the volume of each underlying [a]; of what nobody holds any will do."""
    missing = [
        name for place, name in enumerate(book.spots) if held[:, place].any() and name not in volume_day
    ]
    if missing:
        raise BadInput(
            f"expected a day's volume of {', '.join(missing)}, found {', '.join(volume_day) or 'none'}"
        )
    return inputs.positive("volume_day", [volume_day.get(name, 1.0) for name in book.spots])


def _asset_of(book: Book) -> Numbers:
    """Return the place of each instrument's underlying among the spots [i]."""
    places = {name: place for place, name in enumerate(book.spots)}
    return np.array([places[each.underlying] for each in book.instruments], np.intp)


def _of_deltas(book: Book, expected: Floats, model: Model) -> AtRisk:
    """Take a book for its deltas, and simple returns for normal or Student's t with a covariance [a, a]."""
    held = book.deltas / book.unit
    together = held.sum(axis=0)
    unit = tail.parametric(mean=0.0, sd=1.0, level=model.level, dof=model.dof)

    def sd_of(exposures: Floats) -> Floats:
        variance = (exposures * (exposures @ expected)).sum(axis=-1)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def adds(parts: Floats, sd: Floats) -> Floats:
        """Return the shortfall's share of each part of a variance; none where nothing varies."""
        return np.divide(unit.es * parts, sd, out=np.zeros_like(parts), where=sd > 0)

    sd, sd_whole = sd_of(held), sd_of(together)
    return AtRisk(
        TailRisk(unit.var * sd, unit.es * sd, np.zeros_like(sd)),
        adds(held * (held @ expected), sd[:, None]),
        TailRisk(unit.var * sd_whole, unit.es * sd_whole, np.zeros_like(sd_whole)),
        adds(together * (expected @ together), sd_whole),
        adds(held @ (expected @ together), sd_whole),
    )


def _of_gains(book: Book, gains: Floats, model: Model) -> AtRisk:
    """Find the tail of what instruments gain in scenarios [i, s]."""
    found, weights_of = _sampled(model)
    by_asset = np.zeros((book.accounts, len(book.spots)))
    tails = list[TailRisk]()
    for accounts, rows in _tiles(book, gains.shape[1]):
        lost = -(book.legs[rows] @ gains)
        of_account = book.account[rows] - accounts.start
        losses = _summing(of_account, accounts.stop - accounts.start) @ lost
        try:
            tails.append(found(losses.T, model.level))
        except OutsideDomain as error:
            of_all = accounts.start + (error.place or 0)
            raise OutsideDomain(error.skew, error.excess_kurtosis, of_all) from None
        weights = weights_of(losses.T, model.level).T
        by_asset[book.account[rows], book.group[rows]] = (weights[of_account] * lost).sum(axis=1)
    lost = -((_summing(book.group, len(book.spots)) @ book.legs) @ gains)
    weights = weights_of(lost.sum(axis=0), model.level)
    return AtRisk(
        TailRisk(*(np.concatenate([getattr(each, name) for each in tails]) for name in TailRisk.__slots__)),
        by_asset,
        found(lost.sum(axis=0), model.level),
        lost @ weights,
        book.by_account(-(book.legs @ (gains @ weights))),
    )


def _sampled(model: Model) -> tuple[Callable[[Floats, float], TailRisk], Callable[[Floats, float], Floats]]:
    """Return what finds the tail of losses, and how much each of them counts for it."""
    if model.method is Method.CORNISH_FISHER:
        return tail.cornish_fisher_of, tail.cornish_fisher_weights
    return tail.historical, tail.historical_weights


def _summing(groups: Numbers, count: int) -> csr_array:
    """Return what sums rows [m] by their group, [count, m]."""
    rows = np.arange(len(groups))
    return csr_array((np.ones(len(groups)), (groups, rows)), shape=(count, len(groups)))


def _tiles(book: Book, scenarios: int) -> Iterator[tuple[slice, slice]]:
    """Yield accounts, and the rows of what they hold, a few at a time."""
    many = max(TILE // scenarios, 1)
    for first in range(0, book.accounts, many):
        last = min(first + many, book.accounts)
        begin, end = np.searchsorted(book.account, [first, last])
        yield slice(first, last), slice(int(begin), int(end))
