"""Pages of random accounts, as ``MarginReader.rows`` would answer: what books are measured with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from keeper.protocols.hybrid.rows import ACCT, CASH, HEAD_WORDS, STANDING
from keeper.units import WAD

Numbers = NDArray[np.int64]
LEGS = 3
"""Positions of each account, beside one collateral."""


def page(
    numbers: Numbers,
    rng: np.random.Generator,
    *,
    listed: int,
    cash: tuple[int, int] = (-WAD, WAD),
    most_wad: int = WAD,
) -> bytes:
    """Encode the rows of accounts by number, with three of so many markets and one collateral each.

    Their cash lies in a range, all else is at most so much.
    """
    n = len(numbers)
    heads = np.zeros((n, HEAD_WORDS, 4), ">u8")
    heads[:, ACCT, 1] = heads[:, ACCT, 3] = numbers
    _write(heads[:, CASH, :2], rng.integers(*cash, n))
    markets = np.zeros((n, 8), ">u2")
    markets[:, :LEGS] = 1 + (numbers[:, None] + np.arange(LEGS)) % (listed - 1)
    heads[:, CASH, 2:] = markets.view(">u8")
    heads[:, STANDING, 0] = 1_700_000_000
    heads[:, STANDING, 3] = 1 << 24
    legs = np.zeros((n * LEGS, 2, 2), ">u8")
    _write(legs, rng.integers(-most_wad, most_wad, (n * LEGS, 2)))
    amounts = np.zeros((n, 4), ">u8")
    _write(amounts, rng.integers(1, most_wad, n))
    columns = [each.tobytes() for each in (heads, legs, amounts)]
    return encode_columns([*columns, b""])


def encode_columns(columns: Sequence[bytes]) -> bytes:
    """Encode words as several ``uint256[]``."""
    begins = list(accumulate((32 + len(each) for each in columns), initial=32 * len(columns)))
    offsets = b"".join(each.to_bytes(32) for each in begins[:-1])
    return offsets + b"".join((len(each) // 32).to_bytes(32) + each for each in columns)


def _write(limbs: NDArray[np.uint64], numbers: Numbers) -> None:
    """Write signed numbers into limbs [..., k], the lowest last."""
    limbs[..., -1] = numbers.view(np.uint64)
    limbs[..., :-1] = (numbers >> 63).view(np.uint64)[..., None]
