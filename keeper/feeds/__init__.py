"""Sources of fast prices, all behind ``ports.Feed``; no price that is not believable leaves this room."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeAlias

from keeper.feeds.generated import GeneratedFeed
from keeper.feeds.live import LiveComposite, Source
from keeper.feeds.recorded import RecordedFeed

AnyFeed: TypeAlias = RecordedFeed | LiveComposite | GeneratedFeed


def listening(feed: AnyFeed) -> AbstractAsyncContextManager[None]:
    """Hear prices for as long as the context is open, where the feed is one that hears."""
    return nullcontext() if isinstance(feed, RecordedFeed) else feed.listening()


__all__ = ["AnyFeed", "GeneratedFeed", "LiveComposite", "RecordedFeed", "Source", "listening"]
