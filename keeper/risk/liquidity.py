"""What it costs to sell quickly: how a price gives way to a size, and the largest size that a cost allows.

Two models of a market's depth, each with its inverse. Costs are fractions of the notional, 0.001 being ten
basis points; notionals and volumes are in quote. All take scalars or float64 arrays of shape [n].
They estimate, and so bound and price what is planned; what moves is sized in exact integers, to which `Depth`
rounds against the keeper.

Sources: the square-root law, Almgren, Thum, Hauptmann, Li, "Direct estimation of equity market impact" (2005)
and Donier, Bonart (arXiv 1412.4503: it holds on Bitcoin over four decades of size).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.units import BPS, WAD, Wad, mul_div_up

Column: TypeAlias = NDArray[np.float64]
Levels: TypeAlias = Sequence[tuple[float, float]]
"""Of one side of an order book: the distance from the mid as a fraction, rising, and the notional there."""

DAYS_A_YEAR = 365
VOLATILITY = 0.8
"""Annualised: what a feed's is taken for where nothing else is said."""


LARGEST = 1e15
"""Quote: where a price is said not to move at all, so much is as good as everything."""


def sqrt_impact(
    notional: Column | float,
    *,
    volume_day: Column | float,
    volatility_day: Column | float,
    y: Column | float = 1.0,
) -> Column:
    """Return Y sigma sqrt(Q / V): how far selling Q moves a market that trades V a day.

    Counted whole as the cost of the sale: its mean on the way there is two thirds of it.
    Raises ValueError for a negative notional, volatility or Y, and for a volume that is not above 0.
    """
    _check_not_negative(notional=notional, volatility_day=volatility_day, y=y)
    _check_positive(volume_day=volume_day)
    return np.asarray(np.multiply(y, volatility_day) * np.sqrt(np.divide(notional, volume_day)))


def most_by_sqrt_impact(
    cost: Column | float,
    *,
    volume_day: Column | float,
    volatility_day: Column | float,
    y: Column | float = 1.0,
) -> Column:
    """Return V (cost / Y sigma)^2, the largest notional whose `sqrt_impact` is no more than a cost.

    Infinite where the price does not move. Raises ValueError as `sqrt_impact`, and for a negative cost.
    """
    _check_not_negative(cost=cost, volatility_day=volatility_day, y=y)
    _check_positive(volume_day=volume_day)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.divide(cost, np.multiply(y, volatility_day))
    still = np.multiply(y, volatility_day) == 0
    return np.asarray(np.where(still, np.inf, np.multiply(volume_day, np.square(ratio))))


def walk_book(notional: Column | float, levels: Levels) -> Column:
    """Return the mean distance at which a notional is sold, level by level; infinite beyond the last one.

    0 for nothing. Raises ValueError for a negative notional, and for levels that do not rise or hold nothing.
    """
    _check_not_negative(notional=notional)
    distances, filled, paid = _summed(levels)
    asked = np.asarray(notional, np.float64)
    at = np.minimum(np.searchsorted(filled[1:], asked, side="left"), len(distances) - 1)
    cost = paid[at] + (asked - filled[at]) * distances[at]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(asked == 0, 0.0, cost / asked)
    return np.asarray(np.where(asked > filled[-1], np.inf, mean))


def most_by_book(cost: Column | float, levels: Levels) -> Column:
    """Return the largest notional that `walk_book` sells at no more than a mean distance.

    Raises ValueError as `walk_book`, and for a negative cost.
    """
    _check_not_negative(cost=cost)
    distances, filled, paid = _summed(levels)
    allowed = np.asarray(cost, np.float64)
    # Within level i the mean is reached where paid_i + (Q - filled_i) d_i = cost Q. It never falls with Q, so
    # that the first level whose end costs too much is the last one to be touched.
    beyond, spare = distances - allowed[..., None], filled[:-1] * distances - paid[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = np.where(beyond > 0, spare / beyond, np.inf)
    return np.asarray(np.minimum(reached, filled[-1]).min(axis=-1))


@dataclass(frozen=True, slots=True)
class Depth:
    """How deep the market of one feed is taken to be, and what the keeper may hold of it.

    By a day's volume, by a book, or by both: then the dearer one counts.
    """

    most_bps: float
    """The expected cost of selling what the keeper takes within a minute is to be no more."""
    volume_day: float | None = None
    volatility: float = VOLATILITY
    """Annualised."""
    y: float = 1.0
    levels: tuple[tuple[float, float], ...] = ()
    """As `Levels`."""
    inventory_wad: Wad | None = None
    """The most that the keeper holds of it, long or short; None sets no limit."""

    def __post_init__(self) -> None:
        if self.volume_day is None and not self.levels:
            raise ValueError("a depth needs a day's volume, or the levels of a book")

    @property
    def volatility_day(self) -> float:
        """Return one standard deviation of a day's move."""
        return self.volatility / math.sqrt(DAYS_A_YEAR)

    def cost(self, notional: float) -> float:
        """Return what selling costs as a fraction, 1 at most: beyond a book nothing is sold."""
        costs = list[float]()
        if self.volume_day is not None:
            by = {"volume_day": self.volume_day, "volatility_day": self.volatility_day, "y": self.y}
            costs.append(float(sqrt_impact(notional, **by)))
        if self.levels:
            costs.append(float(walk_book(notional, self.levels)))
        return min(1.0, max(costs))

    def cost_wad(self, notional_wad: Wad) -> Wad:
        """Return what selling costs in quote, rounded up."""
        return mul_div_up(notional_wad, math.ceil(self.cost(notional_wad / WAD) * WAD), WAD)

    @property
    def most_wad(self) -> Wad:
        """Return the largest notional that costs no more than `most_bps`, rounded down to whole quote."""
        cost, found = self.most_bps / BPS, [LARGEST]
        if self.volume_day is not None:
            by = {"volume_day": self.volume_day, "volatility_day": self.volatility_day, "y": self.y}
            found.append(float(most_by_sqrt_impact(cost, **by)))
        if self.levels:
            found.append(float(most_by_book(cost, self.levels)))
        return math.floor(min(found)) * WAD


def _summed(levels: Levels) -> tuple[Column, Column, Column]:
    """Return the distances [l], and what is sold and paid for it before each level and after all [l + 1]."""
    book = np.asarray(levels, np.float64).reshape(-1, 2)
    distances, notionals = book[:, 0], book[:, 1]
    rises = bool((np.diff(distances) > 0).all()) and bool((distances >= 0).all())
    if not len(book) or not rises or not (notionals > 0).all():
        raise ValueError(f"expected levels further and further away, each with a notional, found {levels}")
    filled = np.concatenate([[0.0], np.cumsum(notionals)])
    return distances, filled, np.concatenate([[0.0], np.cumsum(distances * notionals)])


def _check_not_negative(**values: Column | float) -> None:
    for name, value in values.items():
        if not bool(np.all(np.greater_equal(value, 0))):
            raise ValueError(f"{name} must not be negative, found {value}")


def _check_positive(**values: Column | float) -> None:
    for name, value in values.items():
        if not bool(np.all(np.greater(value, 0))):
            raise ValueError(f"{name} must be above 0, found {value}")
