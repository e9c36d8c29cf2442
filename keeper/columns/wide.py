"""Exact 128-bit integers in numpy: two limbs a cell, value = hi x 2^64 + lo.

An int64 holds 9.2 WAD; a float64 holds 16 digits. What money depends on lives in these cells, and becomes
a Python int one cell at a time, or a float64 array all at once.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.errors import ChainFault

Wides: TypeAlias = NDArray[np.void]
"""An array of WIDE cells."""
Words: TypeAlias = NDArray[np.uint64]
"""Big-endian 32-byte words as they come from the ABI: [..., 4] limbs of 64 bits, highest first."""

WIDE = np.dtype([("hi", np.int64), ("lo", np.uint64)])
BIG_ENDIAN = np.dtype(">u8")
LOW = 0xFFFF_FFFF


def decode(words: Words) -> Wides:
    """Read 32-byte words as int128 cells [...]; raise ChainFault where one does not fit."""
    cells = np.empty(words.shape[:-1], WIDE)
    cells["hi"] = words[..., 2].astype(np.uint64).view(np.int64)
    cells["lo"] = words[..., 3]
    sign = (cells["hi"] >> 63).view(np.uint64)
    outside = (words[..., 0] != sign) | (words[..., 1] != sign)
    if outside.any():
        raise ChainFault(f"expected 128-bit integers, found a larger one at {_first(outside)}")
    return cells


def halves(words: Words) -> Wides:
    """Read words [n, 4] that hold two int128 each, as cells [n, 2]."""
    limbs = words.reshape(-1, 2, 2)
    cells = np.empty(limbs.shape[:-1], WIDE)
    cells["hi"] = limbs[..., 0].astype(np.uint64).view(np.int64)
    cells["lo"] = limbs[..., 1]
    return cells


def to_ints(cells: Wides) -> list[int]:
    """Return the exact values of a row of cells [k]."""
    return [(hi << 64) | lo for hi, lo in cells.tolist()]


def to_floats(cells: Wides) -> NDArray[np.float64]:
    """Return the nearest float64 of every cell, within 3 roundings (relative error below 2^-51)."""
    return _join(*_limbs(cells))


def sum_to_floats(cells: Wides) -> NDArray[np.float64]:
    """Add up the last axis exactly, then round as ``to_floats``: terms that cancel leave no error behind."""
    return _join(*(limb.sum(axis=-1) for limb in _limbs(cells)))


Limbs: TypeAlias = NDArray[np.int64]


def _limbs(cells: Wides) -> tuple[Limbs, Limbs, Limbs, Limbs]:
    """Cut cells into limbs of 32 bits, lowest first, the highest signed: sums of 2^31 of them fit."""
    low = cells["lo"]
    return (low & LOW).view(np.int64), (low >> 32).view(np.int64), cells["hi"] & LOW, cells["hi"] >> 32


def _join(a: Limbs, b: Limbs, c: Limbs, d: Limbs) -> NDArray[np.float64]:
    """Round a + b 2^32 + c 2^64 + d 2^96, sign and magnitude apart: nothing cancels between the limbs."""
    b = b + (a >> 32)
    c = c + (b >> 32)
    d = d + (c >> 32)
    negative = d < 0
    flip = np.where(negative, LOW, 0)
    magnitude = (d ^ -negative.astype(np.int64)).astype(np.float64)
    for limb in (c, b):
        magnitude = magnitude * 2.0**32 + ((limb & LOW) ^ flip)
    magnitude = magnitude * 2.0**32 + (((a & LOW) ^ flip) + negative)
    return np.where(negative, -magnitude, magnitude)


def _first(mask: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.argwhere(mask)[0])
