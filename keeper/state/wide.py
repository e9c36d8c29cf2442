"""Columns of exact int128 values: a signed high and an unsigned low limb of 64 bits each.

numpy has no integer wide enough for a WAD amount; object arrays would put a Python object in every cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDE = np.dtype([("hi", "<i8"), ("lo", "<u8")])
Wide = NDArray[np.void]
WORD = 32


def words(page: bytes, width: int) -> NDArray[np.uint8]:
    """View ABI words as bytes [n, width, 32]; raise ValueError where the page is not whole rows."""
    return np.frombuffer(page, dtype=np.uint8).reshape(-1, width, WORD)


def to_wide(cells: NDArray[np.uint8]) -> Wide:
    """Take the low 16 bytes of big-endian words [..., 32] as exact int128 values [...]."""
    limbs = np.ascontiguousarray(cells[..., 16:]).view(">u8")
    wide = np.empty(cells.shape[:-1], dtype=WIDE)
    wide["hi"] = limbs[..., 0].astype(np.uint64).view(np.int64)
    wide["lo"] = limbs[..., 1]
    return wide


def to_float(wide: Wide) -> NDArray[np.float64]:
    """Round to float64; the relative error is at most 2^-52 of the larger limb."""
    result: NDArray[np.float64] = wide["hi"].astype(np.float64) * 2.0**64 + wide["lo"].astype(np.float64)
    return result


def exact(cell: Any) -> int:
    """Return one cell as a Python integer."""
    return (int(cell["hi"]) << 64) + int(cell["lo"])


def small(cells: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Take the low 8 bytes of words that hold small numbers (times, ids, states) [..., 32] → [...]."""
    numbers: NDArray[np.int64] = np.ascontiguousarray(cells[..., 24:]).view(">i8")[..., 0].astype(np.int64)
    return numbers
