"""A live feed that a test moves by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from keeper.units import FeedId, Wad
from tests.unit.pipeline.desk import Tape


@dataclass
class Ticker(Tape):
    """Says what the chain's fast price is, until it is told another one."""

    moved: asyncio.Event = field(default_factory=asyncio.Event)
    moved_ns: int = 0
    awaited: int = 0
    """How often somebody came for the next tick."""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        yield

    async def tick(self) -> int:
        self.awaited += 1
        await self.moved.wait()
        self.moved.clear()
        return self.moved_ns

    def move(self, feed: FeedId, price_wad: Wad) -> int:
        """Let a price move; return when."""
        self.known[feed] = price_wad
        if not self.moved.is_set():
            self.moved_ns = time.monotonic_ns()
        self.moved.set()
        return self.moved_ns
