"""Marks: what one unit of each instrument adds to equity, and what it requires."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.risk.netting import Floats, Underlying


@dataclass(frozen=True, slots=True)
class Marks:
    """equity = cash + positions @ value, requirement = |positions| @ gross; quote per unit, [i].

    NaN where the price is not known. What ``nets`` [i] is not charged by itself: ``underlyings`` say what the
    rows that hold it require.
    """

    value: Floats
    gross: Floats
    nets: NDArray[np.bool_]
    underlyings: tuple[Underlying, ...]
    levels: Floats
    """[k], the health below which a row is suspect, by its class."""
