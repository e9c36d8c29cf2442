"""The local clock against block time; pure. A clock that is off spoils every rule about staleness."""

from __future__ import annotations

from collections import deque

from keeper.units import UnixS

HEADS = 16
TOLERANCE_S = 2.0


class BlockClock:
    """Compares when heads are first heard of with their timestamps.

    A block is dated when its making begins and arrives up to a block time later; a missed block, a slow
    node and a long read make it later still. So only the promptest of the last heads tells anything, and
    ``off_s`` is by how much it lies outside [0, block time], beyond a tolerance: positive where the local
    clock is ahead (or the chain stands still), negative where it is behind. One old head proves nothing, one
    from the future does.
    """

    def __init__(self, block_time_s: float, tolerance_s: float = TOLERANCE_S) -> None:
        self._late_s = block_time_s + tolerance_s
        self._early_s = -tolerance_s
        self._ages_s: deque[float] = deque(maxlen=HEADS)
        self.off_s = 0.0

    def heard(self, timestamp_s: UnixS, now_s: float) -> float:
        """Take in a head; return ``off_s``."""
        self._ages_s.append(now_s - timestamp_s)
        age_s = min(self._ages_s)
        late_s = max(0.0, age_s - self._late_s) if len(self._ages_s) > 1 else 0.0
        self.off_s = late_s + min(0.0, age_s - self._early_s)
        return self.off_s
