"""A generated path: the same for the same seed, in real time, never a bad number."""

import asyncio
import time
from decimal import Decimal
from pathlib import Path

from keeper.domain import Quote
from keeper.feeds import GeneratedFeed, LiveComposite, RecordedFeed, listening
from keeper.feeds.composite import Params
from keeper.ports import LiveFeed
from keeper.units import WAD

START = {"ETH/USD": Decimal("3000.5"), "BTC/USD": Decimal(60_000)}


def feed_of(seed: int = 1, *, volatility: float = 0.8, tick_ms: int = 1) -> GeneratedFeed:
    return GeneratedFeed(START, seed=seed, volatility=volatility, tick_ms=tick_ms)


EVERY_LIVE_FEED: list[LiveFeed] = [feed_of(), LiveComposite({}, Params())]
"""For the type checker: they have the shape of the port."""


def prices(feed: GeneratedFeed) -> list[int]:
    quotes = feed.latest(0).values()
    return [quote.price_wad for quote in quotes if isinstance(quote, Quote)]


def test_the_path_begins_where_it_is_told_and_is_that_of_its_seed() -> None:
    first, second, other = feed_of(7), feed_of(7), feed_of(8)
    assert prices(first) == [30_005 * WAD // 10, 60_000 * WAD]
    for _ in range(50):
        for feed in (first, second, other):
            feed.step()
        assert prices(first) == prices(second) != prices(other)


def test_the_wildest_path_has_positive_prices_observed_now() -> None:
    feed = feed_of(volatility=5, tick_ms=60_000)
    for _ in range(10_000):
        feed.step()
    before_s = int(time.time())
    for quote in feed.latest(12).values():
        assert isinstance(quote, Quote)
        assert quote.price_wad > 0
        assert before_s <= quote.observed_at_s <= time.time()


async def test_it_ticks_while_it_is_listened_to_and_coalesces() -> None:
    feed = feed_of()
    before = prices(feed)
    start_ns = time.monotonic_ns()
    async with listening(feed):
        assert start_ns < await asyncio.wait_for(feed.tick(), 1) < time.monotonic_ns()
        assert prices(feed) != before
        ready_ns = time.monotonic_ns()
        await asyncio.sleep(0.02)
        assert ready_ns < await asyncio.wait_for(feed.tick(), 1) < time.monotonic_ns() - 10**7
    stopped = prices(feed)
    await asyncio.sleep(0.01)
    assert prices(feed) == stopped


async def test_a_recording_needs_no_listening(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_text("timestamp_s,feed,price\n")
    async with listening(RecordedFeed(path, max_age_s=1)):
        pass
