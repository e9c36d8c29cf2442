"""What brings an account's buffer back: the least of each thing that its owner can do, to the last unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from keeper.units import WAD, Wad

Health: TypeAlias = Callable[[Any], tuple[int, int]]
"""Returns of an account what it has and what it needs, in any one measure: health is their quotient."""


class Do(StrEnum):
    """What an owner can do about a margin call."""

    DEPOSIT = "deposit"
    REPAY = "repay"
    REDUCE = "reduce"


@dataclass(frozen=True, slots=True)
class Mend:
    """Something that an owner can do in any amount."""

    do: Do
    of: str
    """The token, the collateral, or the position that is reduced."""
    decimals: int
    """Digits of an amount behind the point."""
    scale: int
    """An amount that makes a difference, to measure by."""
    most: int
    applied: Callable[[int], Any]
    """Returns the account after so much of it."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing that brings the buffer back by itself: so much of it does, one unit less does not."""

    do: Do
    of: str
    amount: int
    decimals: int

    def __str__(self) -> str:
        return f"{self.do} {scaled(self.amount, self.decimals)} {self.of}"


def remedies(
    account: Any, mends: Iterable[Mend], health: Health, buffer_wad: Wad
) -> tuple[Remedy, ...] | None:
    """Return the least of each thing that brings an account to its buffer; None where it has it.

    What cannot, however much of it, is left out.
    """
    lacks = -_above(health(account), buffer_wad)
    if lacks <= 0:
        return None
    found = []
    for mend in mends:
        amount = _least(mend, lambda row: _above(health(row), buffer_wad), lacks)
        if amount is not None:
            found.append(Remedy(mend.do, mend.of, amount, mend.decimals))
    return tuple(found)


def ratio(found: tuple[int, int]) -> float | None:
    """Return a health for people; None of what needs nothing."""
    has, needs = found
    return has / needs if needs > 0 else None


def _above(found: tuple[int, int], buffer_wad: Wad) -> int:
    has, needs = found
    return has * WAD - buffer_wad * needs


def _least(mend: Mend, above: Callable[[Any], int], lacks: int) -> int | None:
    """Find the amount from where a straight line would have it: all these lines are straight, but rounded."""

    def restores(amount: int) -> bool:
        return above(mend.applied(amount)) >= 0

    if mend.most <= 0:
        return None
    scale = max(1, min(mend.scale, mend.most))
    gained = above(mend.applied(scale)) + lacks
    guess = -(-lacks * scale // gained) if gained > 0 else mend.most
    return least(restores, guess, mend.most)


def least(restores: Callable[[int], bool], guess: int, most: int) -> int | None:
    """Return an amount up to ``most`` that restores while one unit less does not; None where not even that.

    It gallops away from a guess, and halves what is left: a good guess takes a few questions.
    """
    high = max(1, min(guess, most))
    low, stride = 0, 1
    if restores(high):
        while high > stride and restores(high - stride):
            high, stride = high - stride, 2 * stride
        low = max(0, high - stride)
    else:
        while high < most and not restores(high):
            low, high, stride = high, min(most, high + stride), 2 * stride
        if not restores(high):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if restores(middle) else (middle, high)
    return high


def scaled(amount: int, decimals: int) -> str:
    """Write an amount in whole units, every digit of it."""
    whole, part = divmod(amount, 10**decimals)
    digits = f"{part:0{decimals}d}".rstrip("0") if decimals else ""
    return f"{whole}.{digits}" if digits else str(whole)
