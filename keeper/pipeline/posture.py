"""How the keeper as a whole stands: the signs of every head, and what follows from them for all decisions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import structlog

from keeper.domain import Head, Level, Posture, Quote, Unknown
from keeper.ladder import EFFECTS, Book, Sign, Stand, posture, step
from keeper.ports import Alerts, Journal, Notice
from keeper.units import FeedId

log = structlog.get_logger()

HOUR_S = 3_600
OUTCOMES = 20
"""Own steps of the last hour that are looked at, at most,"""
FEW = 4
"""and at least: of fewer no share is told."""

Lagging = Callable[[], float | None]
"""Returns the share of endpoints that are behind or out of service; None where that is not known."""


class Bearing:
    """Keeps the book's level, by the signs of each head.

    A restart keeps the level, and begins the calm time anew.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        served: Collection[FeedId],
        book: Book,
        block_time_s: int,
        alerts: Alerts,
        lagging: Lagging,
    ) -> None:
        self._journal = journal
        self._served = served
        self._book = book
        self._block_time_s = block_time_s
        self._alerts = alerts
        self._lagging = lagging
        self._last: Head | None = None
        self._lost: frozenset[FeedId] = frozenset()
        self.stand = Stand(journal.level(), None, "as before the start")

    def take_up(self) -> None:
        """Take the level from the journal, as at a start: another keeper may have moved it."""
        self.stand = Stand(self._journal.level(), None, "as before this keeper led")

    def look(
        self,
        head: Head,
        quotes: Mapping[FeedId, Quote | Unknown],
        *,
        divergence: float | None,
        false_alarms: float | None,
        flow: float | None,
        pace: float,
    ) -> Posture:
        """Return what the signs of a head change in decisions; journal, log and tell where the level moves.

        ``pace`` is what the expected flow of liquidations leaves of what a step could take.
        """
        known = {
            Sign.FALSE_ALARMS: false_alarms,
            Sign.REVERTS: self._reverts(head),
            Sign.DIVERGENCE: divergence,
            Sign.FEEDS_LOST: self._feeds_lost(quotes),
            Sign.HEAD_AGE: self._head_age(head),
            Sign.LAGGING: self._lagging(),
            Sign.FLOW: flow,
        }
        signs = {sign: value for sign, value in known.items() if value is not None}
        was, self.stand = self.stand, step(self.stand, signs, head.timestamp_s, self._book)
        if self.stand.level is not was.level:
            self._say(head, was.level, signs)
        return posture(self.stand.level, pace)

    def _say(self, head: Head, was: Level, signs: Mapping[Sign, float]) -> None:
        level, why = self.stand.level, self.stand.why or "calm"
        name = level.name.lower()
        self._journal.note_level(head, level, why, {sign.value: value for sign, value in signs.items()})
        say = log.warning if level > was else log.info
        say("book.level", level=name, was=was.name.lower(), block=head.number, why=why)
        text = f"the book is {name}: {EFFECTS[level].does} ({why})"
        self._alerts.tell(Notice("book", name, text, recovered=level is Level.NORMAL))

    def _reverts(self, head: Head) -> float | None:
        """Return the share of what the keeper took that reverted: alarms do where a print is gone again."""
        found = self._journal.outcomes_since(head.timestamp_s - HOUR_S, OUTCOMES)
        return found.count(False) / len(found) if len(found) >= FEW else None

    def _feeds_lost(self, quotes: Mapping[FeedId, Quote | Unknown]) -> float | None:
        """Return the share of feeds served that have no price now, and tell whenever that changes."""
        lost = frozenset(feed for feed in self._served if not isinstance(quotes.get(feed), Quote))
        for feed in sorted(lost - self._lost):
            self._alerts.tell(Notice(f"feed {feed}", "lost", f"{feed} has no fast price"))
        for feed in sorted(self._lost - lost):
            self._alerts.tell(
                Notice(f"feed {feed}", "back", f"{feed} has a fast price again", recovered=True)
            )
        self._lost = lost
        return len(lost) / len(self._served) if self._served else None

    def _head_age(self, head: Head) -> float | None:
        """Return how many block times after the last head that was worked on this one came, by chain time."""
        last, self._last = self._last, head
        return None if last is None else (head.timestamp_s - last.timestamp_s) / self._block_time_s
