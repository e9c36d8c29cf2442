"""Sources of fast prices, all behind ``ports.Feed``; no price that is not believable leaves this room."""

from keeper.feeds.recorded import RecordedFeed

__all__ = ["RecordedFeed"]
