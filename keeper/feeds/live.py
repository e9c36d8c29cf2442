"""Live fast prices: every venue listened to, one composite price for each feed.

Freshness is judged by the local clock, not by the chain's: a head is known for a block time and more, so
that bounding quotes by its timestamp would leave none. Quotes that look old or from the future are dropped: a
local clock that is off by more than those bounds leads to no price, and by less, to a price older by as much.
Such a feed has a meaning only on a chain whose time is that of the world.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import aiohttp
import structlog

from keeper.domain import Quote, Unknown
from keeper.errors import ConfigError
from keeper.feeds.composite import Composite, Offer, Params, compose
from keeper.feeds.heard import Heard
from keeper.feeds.socket import Line, pause_s, wall_ms
from keeper.feeds.venues import VENUES, Venue
from keeper.units import FeedId, UnixS, Wad

log = structlog.get_logger()

SAME_MS = 50
"""What only time could change is seen so much later: ages are bounded by seconds."""

PAIR = re.compile(r"[^/\s]+/[^/\s]+")


@dataclass(frozen=True, slots=True)
class Source:
    """One venue's symbol for a feed, and the feed of what it is quoted in, where that is another money."""

    venue: str
    symbol: str
    quoted_in: FeedId | None = None


class LiveComposite:
    """Implements ``ports.LiveFeed`` over the venues."""

    def __init__(
        self,
        sources: Mapping[FeedId, Sequence[Source]],
        params: Params,
        *,
        urls: Mapping[str, str] | None = None,
        venues: Mapping[str, Venue] = VENUES,
        clock_ms: Callable[[], int] = wall_ms,
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        """Put the lines together, connecting none; raise ConfigError where the sources make no sense."""
        self._sources = {feed: _checked(feed, named, venues) for feed, named in sources.items()}
        self._order = _ordered(self._sources)
        if short := [feed for feed, named in self._sources.items() if len(named) < params.min_venues]:
            raise ConfigError(f"{', '.join(short)}: fewer venues than min_venues, {params.min_venues}")
        self._params = params
        self._clock_ms = clock_ms
        self._heard: dict[str, Heard] = {}
        self._feeds: dict[tuple[str, str], list[FeedId]] = {}
        """By venue and symbol, the feeds that it is a source of."""
        self._quoted_in: dict[FeedId, list[FeedId]] = {}
        """By feed, those of which a source is quoted in it."""
        for feed in self._order:
            for source in self._sources[feed]:
                self._feeds.setdefault((source.venue, source.symbol), []).append(feed)
                if source.quoted_in is not None:
                    self._quoted_in.setdefault(source.quoted_in, []).append(feed)
        for name in dict.fromkeys(venue for venue, _ in self._feeds):
            symbols = [symbol for venue, symbol in self._feeds if venue == name]
            self._heard[name] = Heard(venues[name], symbols)
        self._lines = [
            Line(
                heard,
                (urls or {}).get(name, heard.venue.url),
                self._on_news,
                clock_ms=clock_ms,
                pause=pause,
            )
            for name, heard in self._heard.items()
        ]
        self._arrived: dict[FeedId, int] = {}
        """When the first news of each feed came that no tick has looked at."""
        self._news = asyncio.Event()
        self._last: dict[FeedId, Wad | None] = {}
        """The price of each feed when a tick last looked at it."""
        self._composed: dict[FeedId, Composite] = {}
        self._composed_ms: dict[FeedId, int] = {}
        """When each was, of all that has been heard until now."""
        self.composites()

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        """Return the composite of every feed as of now; ``now_s`` bounds nothing: see above."""
        del now_s
        return {feed: composite.quote for feed, composite in self.composites().items()}

    def composites(self) -> Mapping[FeedId, Composite]:
        """Return the composite of every feed as of now, with the venues in it and out of it."""
        now_ms = self._clock_ms()
        for feed in self._order:
            self._compose(feed, now_ms)
        return {feed: self._composed[feed] for feed in self._sources}

    @property
    def faults(self) -> Mapping[str, Mapping[str, int]]:
        """Return by venue what was wrong with its messages, how often since the start."""
        return {name: dict(heard.faults) for name, heard in self._heard.items()}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Keep a connection to every venue while the context is open."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            tasks = [asyncio.create_task(line.run(session)) for line in self._lines]
            for task in tasks:
                task.add_done_callback(_say_if_broken)
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def tick(self) -> int:
        """Wait until a composite has moved; return when the first news of those that moved came in."""
        while True:
            await self._news.wait()
            self._news.clear()
            arrived, self._arrived = self._arrived, {}
            if moved := self._moved(arrived):
                return min(moved)

    def _moved(self, arrived: dict[FeedId, int]) -> list[int]:
        """Compose anew what there is news of, and what that is quoted in, whose age counts too."""
        if not arrived:
            return []
        now_ms, first_ns, moved = self._clock_ms(), min(arrived.values()), []
        for feed in self._order:
            if feed not in arrived and feed not in self._quoted_in:
                continue
            quote = self._compose(feed, now_ms).quote
            price_wad = quote.price_wad if isinstance(quote, Quote) else None
            if self._last.get(feed) != price_wad:
                self._last[feed] = price_wad
                moved.append(heard_ns := arrived.get(feed, first_ns))
                for other in self._quoted_in.get(feed, ()):
                    arrived.setdefault(other, heard_ns)
        return moved

    def _compose(self, feed: FeedId, now_ms: int) -> Composite:
        """Compose a feed as of now; for some milliseconds without news it is as before."""
        if 0 <= now_ms - self._composed_ms.get(feed, -SAME_MS) < SAME_MS:
            return self._composed[feed]
        offers = []
        for source in self._sources[feed]:
            heard = self._heard[source.venue]
            rate = None if source.quoted_in is None else self._composed[source.quoted_in].quote
            offers.append(Offer(source.venue, heard.quotes[source.symbol], heard.stands_ms, rate))
        composite = self._composed[feed] = compose(feed, offers, now_ms, self._params)
        self._composed_ms[feed] = now_ms
        return composite

    def _on_news(self, venue: str, symbols: Collection[str], heard_ns: int) -> None:
        for symbol in symbols:
            for feed in self._feeds[venue, symbol]:
                self._arrived.setdefault(feed, heard_ns)
                self._forget(feed)
        self._news.set()

    def _forget(self, feed: FeedId) -> None:
        """Have a feed composed anew, and what is quoted in it."""
        self._composed_ms.pop(feed, None)
        for other in self._quoted_in.get(feed, ()):
            self._forget(other)


def _say_if_broken(task: asyncio.Task[None]) -> None:
    """Say that a line ended by a fault of ours; its quotes grow old, and are dropped for that.

    Only the kind of the error is told: its text may hold a URL.
    """
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("feed.line_broken", why=type(error).__name__)


def _checked(feed: FeedId, sources: Sequence[Source], venues: Mapping[str, Venue]) -> tuple[Source, ...]:
    """Return the sources of a feed, symbols as the venues write them; refuse what is no price of it."""
    if PAIR.fullmatch(feed) is None:
        raise ConfigError(f"{feed[:80]!r} is no feed: expected what is priced and in what, such as ETH/USD")
    checked = []
    for source in sources:
        venue = venues[source.venue]
        symbol, place = venue.canonical(source.symbol), f"{feed} at {source.venue}"
        if (shape := venue.pattern.fullmatch(symbol)) is None:
            raise ConfigError(f"{place}: {source.symbol[:80]!r} is no symbol of this venue")
        _expect_quote(place, symbol, shape.groupdict().get("quote"), feed, source)
        checked.append(Source(source.venue, symbol, source.quoted_in))
    return tuple(checked)


def _expect_quote(place: str, symbol: str, told: str | None, feed: FeedId, source: Source) -> None:
    """Refuse a symbol that is quoted in another money than is said: a stablecoin is no dollar."""
    _, _, wanted = feed.partition("/")
    if source.quoted_in is not None:
        wanted, _, into = source.quoted_in.partition("/")
        if into != feed.partition("/")[2]:
            raise ConfigError(f"{place}: {source.quoted_in} is not a price in the quote of {feed}")
    if told is not None and told != wanted:
        raise ConfigError(f"{place}: {symbol} is quoted in {told}, expected {wanted}; say so by `in`")
    if source.venue == "binance" and (source.quoted_in is None or not symbol.endswith(wanted)):
        raise ConfigError(f'{place}: say by `in` what {symbol} is quoted in, such as in = "USDT/USD"')


def _ordered(sources: Mapping[FeedId, Sequence[Source]]) -> tuple[FeedId, ...]:
    """Return the feeds in an order in which each comes after those it is converted by."""
    needs = {
        feed: [source.quoted_in for source in named if source.quoted_in is not None]
        for feed, named in sources.items()
    }
    if unknown := {needed for named in needs.values() for needed in named} - sources.keys():
        raise ConfigError(f"something is quoted in {', '.join(sorted(unknown))}, which has no sources")
    try:
        return tuple(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise ConfigError(
            f"feeds are quoted in each other, in a circle: {', '.join(error.args[1])}"
        ) from None
