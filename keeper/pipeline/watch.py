"""The watch: scores the book at the fast prices, and says who is suspect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import structlog

from keeper.domain import ChainTime, Head, Quote, Unknown
from keeper.pipeline.care import Moment
from keeper.pipeline.mirror import Mirror
from keeper.pipeline.params import Params
from keeper.ports import Feed, Market
from keeper.trigger import Trigger
from keeper.units import AccountKey, FeedId

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])


class Watch(Generic[MarketT]):
    """Holds the book against the fast prices."""

    def __init__(self, mirror: Mirror[MarketT], *, feed: Feed, params: Params) -> None:
        self._mirror = mirror
        self._feed = feed
        self._params = params
        self._trigger = Trigger()
        self._unpriced: dict[FeedId, str] = {}

    def look(self, head: Head) -> tuple[Moment, Mapping[AccountKey, str]]:
        """Score the book at a head; return why each suspect is one, the worst first."""
        at = ChainTime(head.number + 1, head.timestamp_s + self._params.block_time_s)
        quotes = self._feed.latest(head.timestamp_s)
        self._warn_of_unpriced(quotes)
        book = self._mirror.book.freeze()
        marks = self._mirror.market.marks(self._mirror.world, quotes, at.timestamp_s)
        found = self._trigger.tick(book, marks, self._mirror.book.take_changed())
        if found.unknown:
            log.warning("accounts.unknown", block=head.number, accounts=found.unknown, of=len(book))
        suspects = {
            book.key(int(row)): f"E {equity:.2f}, M {requirement:.2f}"
            for row, equity, requirement in zip(
                found.rows, found.scores.equity, found.scores.requirement, strict=True
            )
        }
        return Moment(head, at, quotes), suspects

    def _warn_of_unpriced(self, quotes: Mapping[FeedId, Quote | Unknown]) -> None:
        """Say aloud which feeds have no fast price, whenever that changes."""
        found = {
            feed: quotes.get(feed, Unknown(feed, "the feed does not serve it"))
            for feed in sorted(self._mirror.market.feeds)
        }
        unpriced = {feed: quote.why for feed, quote in found.items() if isinstance(quote, Unknown)}
        if unpriced.keys() != self._unpriced.keys():
            log.warning("feed.unknown", feeds=unpriced) if unpriced else log.info("feed.all_known")
        self._unpriced = unpriced
