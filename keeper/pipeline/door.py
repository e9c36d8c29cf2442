"""What is watched over the door: how far prices jump and are apart; and telling what stops the wallet."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import structlog

from keeper.domain import Head, Quote, Unknown
from keeper.ports import BREAKERS, Alerts, Journal, Notice, Switch, Thrown
from keeper.units import FeedId, UnixS, Wad

log = structlog.get_logger()

WINDOW_S = 60
"""Within which a price jumps."""


class Door:
    """Has the journal trip its breakers at every head, and says what changes."""

    def __init__(self, *, journal: Journal, alerts: Alerts) -> None:
        self._journal = journal
        self._alerts = alerts
        self._heard: dict[FeedId, deque[tuple[UnixS, Wad]]] = {}
        self.thrown: tuple[Thrown, ...] = ()
        """What stops the wallet, whole or in part."""

    def look(self, head: Head, quotes: Mapping[FeedId, Quote | Unknown], divergence: float | None) -> None:
        """Hold the figures of a head against the breakers; log and tell what was thrown since the last."""
        figures = {
            (Switch.JUMP, feed): self._jump(feed, quote, head.timestamp_s)
            for feed, quote in quotes.items()
            if isinstance(quote, Quote) and quote.price_wad > 0
        }
        if divergence is not None:
            figures[Switch.DIVERGENCE, ""] = divergence
        before = {each.name: each for each in self.thrown}
        self.thrown = self._journal.watch(figures, head.timestamp_s)
        now = {each.name: each for each in self.thrown}
        for name, each in now.items():
            if name not in before:
                self._say(each, head, on=True)
        for name, each in before.items():
            if name not in now:
                self._say(each, head, on=False)

    def _jump(self, feed: FeedId, quote: Quote, at_s: UnixS) -> float:
        """Return how far a price is from the farthest one of the last minute, as a share of that."""
        heard = self._heard.setdefault(feed, deque())
        while heard and heard[0][0] <= at_s - WINDOW_S:
            heard.popleft()
        heard.append((at_s, quote.price_wad))
        return max(abs(quote.price_wad / before_wad - 1) for _, before_wad in heard)

    def _say(self, thrown: Thrown, head: Head, *, on: bool) -> None:
        what, states = "wallet", ("halted", "resumed")
        if thrown.switch is Switch.FOREIGN:
            # Its end is not that of a halt, which may go on.
            what, states = "key of the wallet", ("distrusted", "trusted")
        elif thrown.switch is Switch.PAUSE:
            what, states = f"market {thrown.subject}", ("paused", "unpaused")
        elif thrown.switch in BREAKERS:
            what, states = f"breaker {thrown.name}", ("tripped", "closed")
        state = states[0] if on else states[1]
        say = log.warning if on else log.info
        say(f"door.{state}", block=head.number, what=what, why=thrown.told)
        text = f"{what} {state} {thrown.told}" if on else f"{what} {state}"
        self._alerts.tell(Notice(what, state, text, recovered=not on))
