"""Marks: what one unit of each instrument adds to equity, and what it requires."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.risk.netting import Floats, Underlying


@dataclass(frozen=True, slots=True)
class Marks:
    """equity = cash + positions @ value, requirement = |positions| @ gross; quote per unit.

    ``value`` and ``gross`` are [i], or [k, i] where they differ by the class of a row. NaN where the price is
    not known. What ``nets`` [i] is not charged by itself: ``underlyings`` say what the rows that hold it
    require.
    """

    value: Floats
    gross: Floats
    nets: NDArray[np.bool_]
    underlyings: tuple[Underlying, ...]
    levels: Floats
    """[k], the health below which a row is suspect, by its class."""
    relative: float = 1e-9
    """How far rounding may reach: so much of the gross money of an account,"""
    absolute: float = 1e-9
    """and so much quote."""
