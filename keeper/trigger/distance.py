"""How far accounts are from breach: how much the price of one feed has to move, all others standing still.

The marks of a protocol are a function of prices, so that nothing is known here but them: the book is scored
at moved prices, over a grid first, and where the sign changes until the place is known to ``TOLERANCE``. A
breach that begins and ends between two places of the grid, some 10% apart, is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.domain import Quote, Unknown
from keeper.risk.marks import Marks
from keeper.risk.options import YEAR_S
from keeper.trigger.scores import score
from keeper.units import FeedId

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Quotes = Mapping[FeedId, Quote | Unknown]
Price = Callable[[Quotes], Marks]
"""Marks at some quotes, all else as it is."""
Surplus = Callable[[float, Rows], Floats]
"""E - level M of some rows, where a price is multiplied by a factor."""

TOLERANCE = 1e-4
"""How exactly, relative to itself, the price of a breach is known."""
FALLS = tuple(np.geomspace(1.0, 0.1, 25)[1:].tolist())
RISES = tuple(np.geomspace(1.0, 1.9, 8)[1:].tolist())
PROBES = (FALLS[0], FALLS[-1], RISES[0], RISES[-1])
DAY_S = 86_400
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, slots=True)
class Sample:
    """Some rows of a book, copied: [n], [n, i] and [n], as ``Snapshot`` has them."""

    cash: Floats
    positions: Floats
    classes: NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Distances:
    """By how much the price of each feed is multiplied where accounts are in breach, [n, f].

    The nearer one of a fall and a rise; 1 of an account that is in breach now, NaN where no move by up to
    90% breaches it, or what it holds has no price.
    """

    feeds: tuple[FeedId, ...]
    factors: Floats

    def sigmas(self, vols: Mapping[FeedId, float]) -> Floats:
        """Return |ln factor| in standard deviations of a day [n, f], by annualised volatilities.

        The time after which one standard deviation reaches the breach is the square of it, in days: the
        deviation of a random walk grows with the root of time.
        """
        daily = np.array([vols.get(feed, np.nan) for feed in self.feeds]) * np.sqrt(DAY_S / YEAR_S)
        away: Floats = np.abs(np.log(self.factors)) / daily
        return away


def distances(some: Sample, quotes: Quotes, price: Price) -> Distances:
    """Compute how far some accounts are from breach, for every feed that has a quote."""
    everyone = np.arange(len(some.cash))
    feeds = tuple(feed for feed, quote in quotes.items() if isinstance(quote, Quote))
    factors = [_breaches(_surplus(some, feed, quotes, price), everyone) for feed in feeds]
    return Distances(feeds, np.array(factors).reshape(len(feeds), len(everyone)).T)


def _surplus(some: Sample, feed: FeedId, quotes: Quotes, price: Price) -> Surplus:
    """Return the surplus of some accounts as a function of the price of one feed."""

    def surplus(factor: float, of: Rows) -> Floats:
        marks = price({**quotes, feed: moved(quotes[feed], factor)})
        classes = some.classes[of]
        found = score(cash=some.cash[of], positions=some.positions[of], marks=marks, classes=classes)
        left = found.equity - marks.levels[classes] * found.requirement
        # Who owes nothing and can lose nothing is in no breach, without equity either.
        return np.where(found.unknown, np.nan, np.where(found.at_rest, np.maximum(left, TINY), left))

    return surplus


def moved(quote: Quote | Unknown, factor: float) -> Quote | Unknown:
    """Return a quote with its price multiplied."""
    if isinstance(quote, Unknown):
        return quote
    return Quote(quote.feed, max(1, round(quote.price_wad * factor)), quote.observed_at_s)


def _breaches(surplus: Surplus, rows: Rows) -> Floats:
    """Return the factor nearest to 1, by its logarithm, at which each row is in breach."""
    now = surplus(1.0, rows)
    if all(np.array_equal(surplus(factor, rows), now, equal_nan=True) for factor in PROBES):
        # Nobody holds anything that hangs on this price: the grid would find nothing else.
        return np.where(now <= 0, 1.0, np.nan)
    fall, rise = (_first(surplus, grid, now) for grid in (FALLS, RISES))
    nearer = np.fmin(np.abs(np.log(fall)), np.abs(np.log(rise)))
    return np.where(np.abs(np.log(fall)) == nearer, fall, rise)


def _first(surplus: Surplus, grid: Sequence[float], now: Floats) -> Floats:
    """Return the first factor in a grid's range at which each row is in breach, seen from 1; NaN if none."""
    rows = np.arange(len(now))
    seen = np.array([now, *(surplus(factor, rows) for factor in grid)])
    factors, breached, found = (1.0, *grid), seen <= 0, np.full(len(now), np.nan)
    for row in np.flatnonzero(breached.any(axis=0)).tolist():
        at = int(breached[:, row].argmax())
        if at == 0:
            found[row] = 1.0
        elif not np.isnan(seen[at - 1, row]):
            clear = factors[at - 1], float(seen[at - 1, row])
            found[row] = _narrowed(surplus, row, clear, (factors[at], float(seen[at, row])))
    return found


def _narrowed(surplus: Surplus, row: int, clear: tuple[float, float], breached: tuple[float, float]) -> float:
    """Return where between two factors a breach begins, as the one that is in breach.

    By the chord, with a half of the tolerance to either side: where the surplus is straight in between, as
    it is without options, that is the end of it. The middle keeps all else from being slow.
    """
    while abs(breached[0] / clear[0] - 1) > TOLERANCE:
        chord = clear[0] + (breached[0] - clear[0]) * clear[1] / (clear[1] - breached[1])
        spare = np.copysign(TOLERANCE / 3 * chord, breached[0] - clear[0])
        for factor in (chord + spare, chord - spare, (clear[0] + breached[0]) / 2):
            if not min(clear[0], breached[0]) < factor < max(clear[0], breached[0]):
                continue
            left = float(surplus(factor, np.array([row]))[0])
            clear, breached = (clear, (factor, left)) if left <= 0 else ((factor, left), breached)
            if abs(breached[0] / clear[0] - 1) <= TOLERANCE:
                break
    return breached[0]
