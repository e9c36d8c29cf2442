"""What the book would have liquidated at lower prices, held against what the markets there can take."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Generic, TypeVar

import structlog

from keeper.desk.port import Desk
from keeper.pipeline.mirror import Mirror
from keeper.pipeline.moment import Moment
from keeper.pipeline.params import Params
from keeper.ports import Flow, Market
from keeper.trigger.cascade import flows
from keeper.units import WAD, Block

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])


class Cascade(Generic[MarketT]):
    """Measures it every so many heads, on a head's own path, so that a replay finds the same."""

    def __init__(self, mirror: Mirror[MarketT], *, desk: Desk[MarketT, Any], params: Params) -> None:
        self._mirror = mirror
        self._desk = desk
        self._params = params
        self._measured_at: Block = 0
        self.found: Flow | None = None
        """What was measured last; None where no depth is known, or nothing was measured yet."""

    async def measure(self, moment: Moment) -> None:
        """Measure, where it is due and a depth is known; in a thread, for it takes some milliseconds."""
        head, params = moment.head.number, self._params
        due = self.found is None or head >= self._measured_at + params.measure_blocks
        if not params.depth or not due:
            return
        mirror, at_s = self._mirror, moment.at.timestamp_s
        price = partial(self._desk.marks, mirror.market, mirror.world, at_s=at_s)
        worth = partial(mirror.market.worths, mirror.world, at_s=at_s)
        book = mirror.book.freeze()
        found = await asyncio.to_thread(
            flows, book, moment.quotes, price, worth, list(params.depth), params.flow_fall
        )
        del book
        await mirror.tape.mark("flow")
        self._measured_at = head
        by_feed = {
            feed: (int(notional) * WAD, params.depth[feed].most_wad) for feed, notional in found.items()
        }
        self.found = Flow(head, params.flow_fall, by_feed) if by_feed else None
        if self.found is not None and self.found.ratio > 1:
            worst = self.found.worst
            log.warning("flow.exceeds_depth", block=head, feed=worst, times=round(self.found.ratio, 2))
