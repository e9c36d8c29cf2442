"""Hysteresis: an account at the edge is left alone for a while after the keeper closed something of it.

Only where that should have ended the breach. Slices along a slope, and closings that a bound kept small,
are one episode: what follows them is not held up.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeper.domain import ChainTime, Reason, Seen, Wait
from keeper.units import WAD, Wad


@dataclass(frozen=True, slots=True)
class Rest:
    """How long, and how much worse an account has to be to be touched again before."""

    rest_s: int = 60
    band_wad: Wad = WAD // 100
    block_time_s: int = 12

    def wait(self, closed: Seen | None, health_wad: Wad | None, at: ChainTime) -> Wait | None:
        """Wait where the account was closed so short a time ago, and is at the edge again.

        That is no further below its limit, or below where it was then if that was higher, than the band.
        """
        if closed is None or health_wad is None:
            return None
        left_s = closed.at_s + self.rest_s - at.timestamp_s
        edge_wad = max(closed.health_wad, WAD) - self.band_wad
        if left_s <= 0 or health_wad < edge_wad:
            return None
        found = f"closed {self.rest_s - left_s} s ago, health {health_wad / WAD:.6f} now"
        bound = f"{self.rest_s} s, or health < {edge_wad / WAD:.6f}"
        return Wait(at.block + -(-left_s // self.block_time_s), Reason("size.rest", found, bound))
