"""Which notices are told, and when: each once until it is over, and no more of them than people can read."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from keeper.ports import Notice

KEPT = 10_000
"""Subjects whose last rung is remembered: of one that is forgotten the same rung is told again."""


@dataclass(frozen=True, slots=True)
class Params:
    """How many notices there may be."""

    burst: int = 20
    """At once,"""
    every_s: float = 30.0
    """and one more in so many seconds."""
    queued: int = 200
    """Notices that may wait to be sent; what comes beyond is only counted."""
    timeout_s: float = 15.0
    """How long a messenger may take."""


@dataclass(slots=True)
class Sent:
    """What came of notices so far."""

    sent: int = 0
    suppressed: int = 0
    """Summed up instead of told."""
    failed: int = 0
    """Given up: a messenger refused, or was not to be reached."""


@dataclass(slots=True)
class Sieve:
    """Lets through what is news, at a bounded rate; pure, by the seconds of any one clock."""

    params: Params
    _tokens: float = field(init=False)
    _filled_s: float | None = field(default=None, init=False)
    _rungs: OrderedDict[str, str] = field(default_factory=OrderedDict, init=False)
    _held: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        self._tokens = float(self.params.burst)

    def take(self, notice: Notice, now_s: float) -> Notice | None:
        """Return a notice that is to be sent now; None of what was told, or is too much and is counted.

        A recovery is told where its trouble was, and ends it.
        """
        told = self._rungs.get(notice.about)
        if told == notice.rung or (notice.recovered and told is None):
            return None
        self._note(notice)
        if not self._may(now_s):
            self._held[notice.rung] += 1
            return None
        return notice

    def _note(self, notice: Notice) -> None:
        self._rungs.pop(notice.about, None)
        if notice.recovered:
            return
        self._rungs[notice.about] = notice.rung
        if len(self._rungs) > KEPT:
            self._rungs.popitem(last=False)

    @property
    def held(self) -> int:
        """How many were counted instead of told, and are not summed up yet."""
        return self._held.total()

    def summary(self, now_s: float) -> str | None:
        """Return in one line what was counted instead of told; None where nothing is, or has to wait."""
        if not self._held or not self._may(now_s):
            return None
        held, self._held = self._held, Counter()
        return f"and {held.total()} more: " + ", ".join(
            f"{count} {rung}" for rung, count in sorted(held.items())
        )

    def _may(self, now_s: float) -> bool:
        """Take a token of the bucket, if one is there."""
        since_s = 0.0 if self._filled_s is None else now_s - self._filled_s
        self._filled_s = now_s
        self._tokens = min(float(self.params.burst), self._tokens + since_s / self.params.every_s)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
