"""The loop of a scan, compiled: ``margin.worst_scenarios`` without the profits of all scenarios in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array

Column = NDArray[np.float64]
Numbers = NDArray[np.intp]
VECTOR = 8
"""Numbers that a processor takes at a time, at most."""
Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(loop: Loop) -> Loop:
    """Compile a loop, and keep it on disk; where nothing can be kept, it is compiled at every start."""
    try:
        kept = njit(nogil=True, cache=True)(loop)
    except RuntimeError:
        kept = njit(nogil=True)(loop)
    return cast("Loop", kept)


def worst_scenarios(legs: csr_array, risk: Column) -> tuple[Column, Numbers]:
    """Return the cost of each row's worst scenario [m], 0 at least, and which it is; the first of equals."""
    loss, worst = np.empty(legs.shape[0]), np.empty(legs.shape[0], np.intp)
    # The last scenario is repeated to a whole number of vectors; the first of equals counts.
    padded = np.pad(risk, ((0, 0), (0, -risk.shape[1] % VECTOR)), mode="edge")
    _scan(legs.indptr, legs.indices, legs.data, padded, loss, worst)
    return loss, worst


@compiled
def _scan(
    indptr: NDArray[Any], indices: NDArray[Any], sizes: Column, risk: Column, loss: Column, worst: Numbers
) -> None:
    # Unsigned and in one row, so that no index is taken to count from the end.
    scenarios, arrays = np.uintp(risk.shape[1]), risk.ravel()
    gains = np.empty(risk.shape[1])
    for row in range(len(loss)):
        gains[:] = 0.0
        for leg in range(indptr[row], indptr[row + 1]):
            size, first = sizes[leg], np.uintp(indices[leg]) * scenarios
            for each in range(scenarios):
                gains[each] += size * arrays[first + each]
        least, place = gains[0], 0
        for each in range(1, len(gains)):
            if gains[each] < least:
                least, place = gains[each], each
        loss[row] = max(-least, 0.0)
        worst[row] = place
