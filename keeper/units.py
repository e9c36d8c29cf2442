"""Units and the integer arithmetic that money needs.

Aliases, not new types: they say what an ``int`` counts. The rounding direction is always in the
function's name. A WAD never goes into an int64 array: it overflows silently at 9.2.
"""

from decimal import Decimal
from typing import TypeAlias

Wad: TypeAlias = int
"""A quote amount, price, size or fraction times 1e18; may be negative."""
Wei: TypeAlias = int
Bps: TypeAlias = int
Block: TypeAlias = int
UnixS: TypeAlias = int
"""Seconds of chain time since 1970."""
FeedId: TypeAlias = str
"""The name of a price feed, such as ``BTC/USD``; on chain its ASCII bytes, padded to 32."""
AccountKey: TypeAlias = bytes
"""A row of a book: 20 bytes of owner and 12 bytes of sub-account."""

WAD: Wad = 10**18
BPS: Bps = 10_000


def mul_div_down(a: int, b: int, divisor: int) -> int:
    """Return floor(a * b / divisor): toward minus infinity, exact."""
    return a * b // divisor


def mul_div_up(a: int, b: int, divisor: int) -> int:
    """Return ceil(a * b / divisor): toward plus infinity, exact."""
    return -(-a * b // divisor)


def mul_div_trunc(a: int, b: int, divisor: int) -> int:
    """Return a * b / divisor cut toward zero, as Solidity's signed division does."""
    product = a * b
    quotient = abs(product) // abs(divisor)
    return quotient if (product < 0) == (divisor < 0) else -quotient


def in_figures(number: float, most: int = 6) -> str:
    """Write a number for people: so many figures, or all before the point, and no powers of ten."""
    figures = Decimal(f"{number:.{most}g}")
    return f"{number:,.0f}" if abs(figures) >= 10**most else f"{figures:,f}"
