"""A part of a deployment's accounts: what one wallet keeps where several keep one deployment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

from keeper.units import AccountKey

OWNER = 20
"""Bytes of an account that are its owner's address."""


@dataclass(frozen=True, slots=True)
class Part:
    """Of all owners those whose address, as a number, leaves ``number - 1`` when it is divided by ``of``.

    With the other numbers up to ``of`` it makes up the whole: each account is in one of them, with all that
    its owner has. ``number`` is 1 at least, and ``of`` at most.
    """

    number: int = 1
    of: int = 1

    def __contains__(self, account: AccountKey) -> bool:
        return int.from_bytes(account[:OWNER]) % self.of == self.number - 1

    def pick(self, accounts: Iterable[AccountKey]) -> tuple[AccountKey, ...]:
        """Return those of some accounts that are in it, in their order."""
        return tuple(each for each in accounts if each in self)

    def meets(self, other: Part) -> bool:
        """Tell whether an account can be in both: by the Chinese remainder theorem."""
        return (self.number - other.number) % gcd(self.of, other.of) == 0

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Part()
