"""What a fall of prices would have liquidated of margined books, level by level and in slices.

``stress.flow`` asks the same of accounts that are linear in prices, such as those of lending.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from keeper.risk import slope
from keeper.risk.engine import compiles
from keeper.risk.grids import Grid
from keeper.risk.inputs import Floats, between, finite, shaped, within
from keeper.risk.margin import MANY_LEGS, AddOns, Book, revalued, risk_arrays, scan

THREADS = 2
AT_ONCE = 50
"""Levels that one thread looks at together."""


@dataclass(frozen=True, slots=True)
class Slices:
    """How much of a book in breach is closed at once: HybridMargin's slope, somewhere along it."""

    q: float = 1.0
    """The share of positive equity that counts: 1 where the slope begins, 1 / (1 + beta) at its end."""
    fee: float = 0.0
    """Of the notional that is closed."""
    short_option: float = 0.0
    """What is required on top, of the spot for each unit of an option sold."""

    def __post_init__(self) -> None:
        for name in Slices.__slots__:
            within(name, getattr(self, name), 0.0, 1.0)


def flow(
    book: Book,
    equity: ArrayLike,
    grid: Grid,
    falls: ArrayLike,
    *,
    slices: Slices | None = None,
    compiled: bool | None = None,
) -> Floats:
    """Return what slices would sell of each underlying at each level of prices, [l, u], in quote as fallen.

    ``equity`` [n] is that at the book's spots, in what the book settles in; ``falls`` [l] of all spots alike,
    or [l, u]. Where it is below the maintenance margin that the grid asks at a level, a slice is closed
    (`slope.closeable_fraction`), and by its delta that much of each underlying is sold. What those short of
    one buy back is not counted against it, and what a level closes does not include what the way there would
    have closed. Volatilities stay as they are. ``compiled`` asks for loops of numba or none; by None large
    books have them where numba is there.

    Raises BadInput for shapes that do not fit, and falls outside [0, 1).
    """
    held = shaped("equity", finite("equity", equity), book.accounts)
    levels = between("falls", falls, -np.finfo(np.float64).tiny, 1.0)
    levels = np.repeat(levels[:, None], len(book.spots), axis=1) if levels.ndim == 1 else levels
    shaped("falls", levels, None, len(book.spots))
    sold = _loops(book) if compiles(asked=compiled, enough=book.legs.nnz >= MANY_LEGS) else _sold
    by = slices or Slices()
    with ThreadPoolExecutor(THREADS) as threads:
        parts = np.split(levels, range(AT_ONCE, len(levels), AT_ONCE))
        found = threads.map(lambda part: sold([Level.of(book, held, fall) for fall in part], grid, by), parts)
        return np.concatenate(list(found))


@dataclass(frozen=True, slots=True)
class Level:
    """A book where its spots have fallen."""

    book: Book
    equity: Floats
    """[n], before the fall."""
    gained: Floats
    """[i], by one unit since then; below 0 of what lost."""

    @classmethod
    def of(cls, book: Book, equity: Floats, fall: Floats) -> Level:
        """Let each spot fall by a fraction [u]."""
        spots = np.array(list(book.spots.values())) * (1.0 - fall)
        fallen = replace(book, spots=dict(zip(book.spots, spots.tolist(), strict=True)))
        moves = fallen.columns.spot / book.columns.spot - 1.0
        return cls(fallen, equity, revalued(book, moves[:, None])[:, 0])

    @property
    def notional(self) -> Floats:
        """What one unit counts for where a fee is paid [i]: the spot, or the quote of an inverse contract."""
        columns = self.book.columns
        notional = np.where(columns.inverse, 1.0, columns.spot)
        notional[columns.options] = columns.spot[columns.options]
        return notional / self.book.unit


def _sold(levels: Sequence[Level], grid: Grid, slices: Slices) -> Floats:
    """Return what is sold of each underlying [l, u]."""
    return np.array([_sold_at(level, grid, slices) for level in levels])


def _sold_at(level: Level, grid: Grid, slices: Slices) -> Floats:
    book = level.book
    found = scan(book, grid, add_ons=AddOns(short_option=slices.short_option), compiled=False)
    share = slope.closeable_fraction(
        equity=level.equity + book.by_account(book.legs @ level.gained),
        requirement=found.maintenance,
        notional=book.by_account(abs(book.legs) @ level.notional),
        fee=slices.fee,
        q=slices.q,
    )
    long = np.maximum(book.legs @ book.columns.deltas, 0.0)
    return np.bincount(book.group, share[book.account] * long, len(book.spots)).astype(np.float64)


def _loops(book: Book) -> Callable[[Sequence[Level], Grid, Slices], Floats]:
    """Return `_sold` in loops that are compiled, for levels of one book."""
    from keeper.risk.compiled import slices_sold

    first = np.searchsorted(book.account, np.arange(book.accounts + 1))
    legs = (book.legs.indptr, book.legs.indices, book.legs.data)

    def sold(levels: Sequence[Level], grid: Grid, slices: Slices) -> Floats:
        risks = [risk_arrays(level.book, grid) * grid.maintenance for level in levels]
        short = slices.short_option * (grid.maintenance if grid.of_all else 1.0)
        units = [_units(level, risk, short) for level, risk in zip(levels, risks, strict=True)]
        accounts, slope = (first, book.group, levels[0].equity), (slices.q, slices.fee)
        found = np.zeros((len(book.spots), len(levels)))
        slices_sold(legs, accounts, np.stack(units, axis=-1), np.stack(risks, axis=-1), slope, found)
        return found.T

    return sold


def _units(level: Level, risk: Floats, short: float) -> Floats:
    """Return what one unit of each instrument counts for [6, i].

    Its gain; what it requires by itself, bought and sold; its minimum sold, a part of that; the notional that
    a fee is paid of; its delta.
    """
    book = level.book
    least = short * book.columns.spot_of_options / book.unit
    bought, sold = np.maximum(-risk.min(axis=1), 0.0), np.maximum(risk.max(axis=1), 0.0)
    return np.stack([level.gained, bought, sold + least, least, level.notional, book.columns.deltas])
