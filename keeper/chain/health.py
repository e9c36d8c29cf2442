"""How one endpoint does, from what it was seen to do; pure: times are seconds of any one clock."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from keeper.units import Block

WEIGHT = 0.2
"""Of the newest sample in each running mean."""


@dataclass(frozen=True, slots=True)
class Health:
    """One endpoint as of now, for metrics."""

    endpoint: str
    head: Block | None
    lag: Block | None
    """Blocks behind the best head known."""
    latency_ms: float | None
    error_rate: float
    aside_until_s: float | None
    """Unix time at which it is tried again; None while it is in service."""
    why: str | None
    """Why it was set aside."""
    calls: int
    budget_used: float
    """Share of the last second's budget that is spent; 0 where there is no budget."""


class Standing:
    """One endpoint's running means, and whether it is in service."""

    def __init__(self, *, shortest_pause_s: float, longest_pause_s: float) -> None:
        self.head: Block | None = None
        self.missing: str | None = None
        """The last block that it did not have when it was asked for it."""
        self.error_rate = 0.0
        self.why: str | None = None
        self.barred = False
        """Not asked at all, not even as the last resort: it was found to serve another chain or fork."""
        self.aside_until_s = 0.0
        self.quiet_until_s = 0.0
        """Nothing at all is sent before: the provider said so."""
        self._latency_s: float | None = None
        self._deviation_s = 0.0
        self._pauses_s = shortest_pause_s, longest_pause_s
        self._strikes = 0
        self._returned_s = 0.0

    @property
    def latency_s(self) -> float | None:
        """The mean time to an answer."""
        return self._latency_s

    @property
    def slow_after_s(self) -> float:
        """How long an answer takes when something is amiss: mean and four deviations, as in RFC 6298."""
        return (self._latency_s or 0.0) + 4 * self._deviation_s

    @property
    def rank(self) -> int:
        """The cost of asking it, in steps of a factor of two above 10 ms, so that noise changes no order."""
        return int(log2(1 + ((self._latency_s or 0.0) + self.error_rate) / 0.01))

    def answered(self, now_s: float, latency_s: float) -> None:
        """Count an answer; after a long time without a fault, old faults are forgotten."""
        last = latency_s if self._latency_s is None else self._latency_s
        self._deviation_s += WEIGHT * (abs(latency_s - last) - self._deviation_s)
        self._latency_s = last + WEIGHT * (latency_s - last)
        self.error_rate *= 1 - WEIGHT
        if self.why is None and now_s - self._returned_s > self._pauses_s[1]:
            self._strikes = 0

    def outrun(self, waited_s: float) -> None:
        """Count an answer that was no longer waited for: it would have taken longer than so."""
        self._latency_s = max(waited_s, self._latency_s or 0.0)

    def set_aside(self, now_s: float, why: str) -> float | None:
        """Take it out of service; return for how long, twice as long each time; None where it was aside.

        What else fails while it is aside was mostly asked before, and lengthens nothing.
        """
        self.error_rate += WEIGHT * (1 - self.error_rate)
        if self.why is not None and now_s < self.aside_until_s:
            return None
        shortest_s, longest_s = self._pauses_s
        self.why = why
        pause_s = min(shortest_s * 2.0 ** min(self._strikes, 30), longest_s)
        self.aside_until_s = now_s + pause_s
        self._strikes += 1
        return pause_s

    def hush(self, until_s: float) -> None:
        """Send nothing before."""
        self.quiet_until_s = max(self.quiet_until_s, until_s)
        self.aside_until_s = max(self.aside_until_s, until_s)

    def put_back(self, now_s: float) -> None:
        """Take it into service again."""
        self.why, self.aside_until_s, self._returned_s = None, 0.0, now_s

    def due(self, now_s: float) -> bool:
        """Tell whether it may be looked at: in service, or set aside long enough ago."""
        return now_s >= max(self.aside_until_s, self.quiet_until_s)
