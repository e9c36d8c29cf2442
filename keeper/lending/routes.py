"""Where tokens are sold: pools of Uniswap v2 and v3, and the routes through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of two tokens, the one with the lower address first."""

    address: str
    token0: str
    token1: str
    fee: int | None
    """Of Uniswap v3, in millionths; None for a pair of v2, which takes 3,000."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One sale: all that there is of a token, for the other one of a pool."""

    pool: Pool
    sells: str

    @property
    def buys(self) -> str:
        """Return the token that comes out."""
        return self.pool.token1 if self.sells == self.pool.token0 else self.pool.token0


Route: TypeAlias = tuple[Hop, ...]
"""Sales one after another; none where nothing has to be sold."""
