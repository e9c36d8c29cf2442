"""Marks: what one unit of each instrument adds to equity, and what it requires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.risk.netting import Floats, Underlying

Groups = NDArray[np.int16]

ALONE = -1
"""The group of what nets with nothing."""


@dataclass(frozen=True, slots=True)
class Netting:
    """What the columns of a book [i] require together, group by group: the worst of s scenarios."""

    group: Groups
    """[i], which others each nets with; ``ALONE`` with none, and then its ``gross`` counts."""
    risk: Floats
    """[i, s], what one unit gains in each scenario, weighted; 0 of what is alone or doubtful."""
    alone: Floats
    """[i, 2], times a size above 0 and below: what it requires with nothing else in its group, at worst."""
    short: Floats
    """[i], the least requirement of one unit sold."""
    doubtful: NDArray[np.bool_]
    """[i], what may not be judged by ``risk``: whoever holds it is judged by its ``Underlying``."""
    money: Floats
    """[i], the most that one unit can be charged: what rounding is measured by."""

    @classmethod
    def of(cls, width: int, underlyings: Sequence[Underlying]) -> Netting:
        """Put together what each underlying says of its own columns."""
        scenarios = max((each.risk.shape[1] for each in underlyings), default=0)
        found = cls(
            np.full(width, ALONE, np.int16),
            np.zeros((width, scenarios)),
            np.zeros((width, 2)),
            np.zeros(width),
            np.zeros(width, np.bool_),
            np.zeros(width),
        )
        for number, each in enumerate(underlyings):
            found.group[each.columns] = number
            found.risk[each.columns, : each.risk.shape[1]] = each.risk
            found.short[each.columns] = each.short
            found.doubtful[each.columns] = each.doubtful
            found.money[each.columns] = each.money
        found.risk[found.doubtful] = 0.0
        found.alone[:, 0] = -found.risk.min(axis=1, initial=0.0)
        found.alone[:, 1] = -found.risk.max(axis=1, initial=0.0)
        return found


@lru_cache(maxsize=16)
def _nothing(width: int) -> Netting:
    """Return what columns require together that net with nothing, the same at every tick."""
    return Netting.of(width, ())


@dataclass(frozen=True, slots=True)
class Marks:
    """equity = cash + positions @ value, requirement = |positions| @ gross; quote per unit, or `quote`.

    ``value`` and ``gross`` are [i], or [k, i] where they differ by the class of a row. NaN where the price is
    not known. What lies in one of the ``underlyings`` is not charged by itself: these say what the rows that
    hold it require.
    """

    value: Floats
    gross: Floats
    levels: Floats
    """[k], the health below which a row is suspect, by its class."""
    underlyings: tuple[Underlying, ...] = ()
    relative: float = 1e-9
    """How far rounding may reach: so much of the gross money of an account,"""
    absolute: float = 1e-9
    """and so much quote."""
    quote: Floats | None = None
    """[k], what one of what a class counts in is worth in quote, NaN where nobody knows; None for quote."""
    netting: Netting = field(init=False)

    def __post_init__(self) -> None:
        width = self.value.shape[-1]
        netting = Netting.of(width, self.underlyings) if self.underlyings else _nothing(width)
        object.__setattr__(self, "netting", netting)

    def in_quote(self, classes: NDArray[np.unsignedinteger[Any]]) -> Floats:
        """Return what one of what each row counts in is worth in quote, by its class [n]."""
        return np.ones(len(classes)) if self.quote is None else self.quote[classes]

    @property
    def nets(self) -> NDArray[np.bool_]:
        """Tell of which columns [i] the charge is not ``gross``."""
        nets: NDArray[np.bool_] = self.netting.group != ALONE
        return nets

    @property
    def money(self) -> Floats:
        """What one unit of each column can count for, as ``value``: rounding is a part of that."""
        return np.abs(self.value) + self.gross + self.netting.money
