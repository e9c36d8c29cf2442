"""How fast a breach is worked off: which share of what is permitted one step takes.

``plain`` takes the same share always. ``severity`` takes more where E / M has fallen faster since the alarm,
up to all: it waits where a price may come back, and runs where it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from keeper.domain import Seen
from keeper.units import WAD, UnixS, Wad, mul_div_up

MINUTE_S = 60


class Kind(StrEnum):
    """Which of the two."""

    PLAIN = "plain"
    SEVERITY = "severity"


@dataclass(frozen=True, slots=True)
class Pace:
    """A pace, and its measures."""

    kind: Kind = Kind.PLAIN
    share_wad: Wad = WAD
    """Of what is permitted: what ``plain`` takes, and the least that ``severity`` takes."""
    full_fall_wad: Wad = WAD // 50
    """``severity``: the fall of E / M in a minute from which on all is taken."""

    def of(self, alarm: Seen | None, health_wad: Wad | None, at_s: UnixS) -> Wad:
        """Return the share for an account of which the alarm saw one health, and which has another now.

        Where either is not known, or no time has passed, nothing speaks against the least share; an account
        whose health cannot be told, since nothing is required of it or all is lost, is not waited for.
        """
        if self.kind is Kind.PLAIN:
            return self.share_wad
        if health_wad is None or health_wad <= 0:
            return WAD
        if alarm is None or at_s <= alarm.at_s:
            return self.share_wad
        fallen_wad = max(0, alarm.health_wad - health_wad)
        speed_wad = mul_div_up(fallen_wad, MINUTE_S, at_s - alarm.at_s)
        more_wad = mul_div_up(WAD - self.share_wad, min(speed_wad, self.full_fall_wad), self.full_fall_wad)
        return min(WAD, self.share_wad + more_wad)
