"""The upper ends of many samples at once, in order.

A tail asks for the largest losses alone. To select them, the largest of every few are compared first: where
k of these reach a bound, so do k numbers, and nothing below it needs to be looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from keeper.risk.engine import compiles
from keeper.risk.inputs import Floats

GROUP = 32
"""So many numbers are told by their largest, or fewer where more are wanted."""
MANY = 10_000_000
"""Of so many numbers on, loading the compiler is worth its time."""
Collect: TypeAlias = Callable[[Floats, Floats], Floats]
"""From samples [m, n] and bounds [m] to what of each reaches its bound, [m, k], filled up with -inf."""


def collecting(numbers: int, *, compiled: bool | None) -> Collect:
    """Return what collects so many numbers: loops of numba or none, by None the faster."""
    if not compiles(asked=compiled, enough=numbers >= MANY):
        return reaching
    from keeper.risk.compiled import reaching as loops

    return loops


def upper_ends(samples: Floats, least: int, collect: Collect) -> Floats:
    """Return what comes at or above a rank in each row of samples [m, n], rising, [m, k].

    ``least`` is its place in rising order, 0 the first. Of some rows more is kept; others begin with -inf, so
    that places count from the end.
    """
    rows, length = samples.shape
    wanted = length - least
    group = min(GROUP, length // (2 * wanted))
    if group < 2:
        return np.sort(samples, axis=1)
    groups = length // group
    largest = samples[:, : groups * group].reshape(rows, group, groups).max(axis=1)
    bounds = np.partition(largest, groups - wanted, axis=1)[:, groups - wanted]
    return np.sort(collect(samples, bounds), axis=1)


def reaching(samples: Floats, bounds: Floats) -> Floats:
    """Collect by masks, as `Collect`."""
    rows, length = samples.shape
    kept = np.flatnonzero(samples >= bounds[:, None])
    row = kept // length
    widths = np.bincount(row, minlength=rows)
    ends = np.full((rows, widths.max()), -np.inf)
    ends[row, np.arange(len(kept)) - np.repeat(np.cumsum(widths) - widths, widths)] = samples.ravel()[kept]
    return ends
