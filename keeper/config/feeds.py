"""Where fast prices come from."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from keeper.config.values import HttpUrl, PathOf, WsUrl
from keeper.deployments import Section
from keeper.feeds import GeneratedFeed, LiveComposite, RecordedFeed, Source
from keeper.feeds.composite import Params as CompositeParams
from keeper.units import FeedId


class RecordedSource(Section):
    """Fast prices from a CSV file of ``timestamp_s,feed,price``, read by chain time."""

    kind: Literal["recorded"] = "recorded"
    path: PathOf
    max_age_s: int = Field(default=15, gt=0)

    def open(self) -> RecordedFeed:
        """Read the file."""
        return RecordedFeed(self.path, max_age_s=self.max_age_s)


class Quoted(Section):
    """A symbol of a venue, and the feed of what it is quoted in, where that is not the quote of the feed."""

    symbol: str
    quoted_in: FeedId | None = Field(default=None, alias="in")


def _as_quoted(value: object) -> object:
    return {"symbol": value} if isinstance(value, str) else value


Symbol: TypeAlias = Annotated[Quoted, BeforeValidator(_as_quoted)] | None


class Venues(Section):
    """What a feed is at each venue."""

    binance: Symbol = None
    coinbase: Symbol = None
    kraken: Symbol = None
    okx: Symbol = None
    pyth: Symbol = None


class VenueUrls(Section):
    """Where venues are listened to, instead of their public endpoints; may hold a key."""

    binance: WsUrl | None = None
    coinbase: WsUrl | None = None
    kraken: WsUrl | None = None
    okx: WsUrl | None = None
    pyth: HttpUrl | None = None


class LiveSource(Section):
    """Fast prices from venues: the median of those that are fresh and agree."""

    kind: Literal["live"]
    sources: dict[FeedId, Venues] = Field(min_length=1)
    urls: VenueUrls = VenueUrls()
    min_venues: int = Field(default=2, ge=1, le=5)
    max_age_ms: int = Field(default=3_000, ge=100, le=60_000)
    max_standing_ms: int = Field(default=60_000, ge=1_000, le=3_600_000)
    max_future_ms: int = Field(default=500, ge=0, le=10_000)
    outlier_bps: int = Field(default=100, ge=1, le=1_000)
    max_dispersion_bps: int = Field(default=150, ge=1, le=2_000)

    def open(self) -> LiveComposite:
        """Put the sources together; raise ConfigError where they make no sense."""
        sources = {
            feed: [
                Source(venue, quoted.symbol, quoted.quoted_in)
                for venue, quoted in venues
                if quoted is not None
            ]
            for feed, venues in self.sources.items()
        }
        params = self.model_dump(exclude={"kind", "sources", "urls"})
        return LiveComposite(sources, CompositeParams(**params), urls=self.urls.model_dump(exclude_none=True))


class GeneratedSource(Section):
    """Invented prices, for load tests and dry runs: a seeded random walk that ticks in real time."""

    kind: Literal["generated"]
    start: dict[FeedId, Annotated[Decimal, Field(ge=Decimal("1e-8"), lt=10**9)]] = Field(min_length=1)
    seed: int = Field(default=1, ge=0)
    volatility: float = Field(default=0.8, gt=0, le=5)
    """Annualised."""
    tick_ms: int = Field(default=100, ge=1, le=60_000)

    def open(self) -> GeneratedFeed:
        """Begin the walk."""
        return GeneratedFeed(self.start, seed=self.seed, volatility=self.volatility, tick_ms=self.tick_ms)


def _kind(raw: Any) -> str | None:
    """Tell the kind of a section [feed]; recorded where it names none, None where it is no section."""
    return str(raw.get("kind", "recorded")) if isinstance(raw, dict) else getattr(raw, "kind", None)


FeedSource: TypeAlias = Annotated[
    Annotated[RecordedSource, Tag("recorded")]
    | Annotated[LiveSource, Tag("live")]
    | Annotated[GeneratedSource, Tag("generated")],
    Discriminator(
        _kind,
        custom_error_type="feed_kind",
        custom_error_message="kind should be 'recorded', 'live' or 'generated'",
    ),
]
"""Where fast prices come from."""
