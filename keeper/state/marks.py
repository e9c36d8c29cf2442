"""From prices to marks: what one unit of each instrument adds to equity, and what it requires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.domain import Instrument, Quote, Unknown
from keeper.units import WAD, FeedId, Wad

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Marks:
    """equity = cash + positions @ value, requirement = |positions| @ gross; quote per unit, [i].

    NaN where the price is not known.
    """

    value: NDArray[np.float64]
    gross: NDArray[np.float64]


def marks_of(instruments: Sequence[Instrument], prices: Mapping[FeedId, Quote | Unknown]) -> Marks:
    """Mark every instrument, in the order of the book's columns."""
    found = [prices.get(each.feed) for each in instruments]
    known = [quote.price_wad if isinstance(quote, Quote) else None for quote in found]
    return Marks(
        value=np.array([_mark(p, each.value_wad) for p, each in zip(known, instruments, strict=True)]),
        gross=np.array([_mark(p, each.gross_wad) for p, each in zip(known, instruments, strict=True)]),
    )


def _mark(price_wad: Wad | None, factor_wad: Wad) -> float:
    return NAN if price_wad is None else price_wad * factor_wad / (WAD * WAD)
