"""The on-chain prices of every feed: bulk reads of the router, and what events say in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from keeper.domain import FeedView, Head, OracleView
from keeper.units import Block, FeedId, UnixS, Wad


class OracleBoard:
    """The newest ``FeedView`` of each feed. A feed not on it is not known, and so nothing is done on it."""

    def __init__(self, feeds: Sequence[FeedId]) -> None:
        self._feeds = tuple(feeds)
        self._views: dict[FeedId, FeedView] = {}
        self._blocks: dict[FeedId, Block] = {}

    @property
    def view(self) -> OracleView:
        """The board as it is now; later folds do not change what was handed out."""
        return MappingProxyType(dict(self._views))

    def missing(self) -> tuple[FeedId, ...]:
        """Return the feeds that must be read."""
        return tuple(feed for feed in self._feeds if feed not in self._views)

    def fold_read(self, views: OracleView, block: Block) -> None:
        """Take over one bulk read of the router, made at ``block``."""
        self._views.update(views)
        self._blocks.update(dict.fromkeys(views, block))

    def fold_fast(self, feed: FeedId, price_wad: Wad, observed_at_s: UnixS, block: Block) -> None:
        """Take over one ``FastPrice`` event; of a feed never read in full, it says too little to be kept."""
        if view := self._views.get(feed):
            self._views[feed] = replace(view, fast_wad=price_wad, fast_observed_at_s=observed_at_s)
            self._blocks[feed] = block

    def unwind(self, orphaned: Sequence[Head]) -> None:
        """Forget every feed whose newest word came from an orphaned block, until it is read again."""
        gone = {head.number for head in orphaned}
        for feed in [feed for feed in self._views if self._blocks[feed] in gone]:
            del self._views[feed]
