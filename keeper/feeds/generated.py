"""A generated path behind the same port: seeded geometric Brownian motion that ticks in real time.

For load tests and dry runs only: nothing in it is true. The same seed gives the same sequence of prices.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal

import numpy as np

from keeper.domain import Quote, Unknown
from keeper.units import WAD, FeedId, UnixS

YEAR_S = 365 * 86_400.0
UNITS = 10**8
"""Prices have eight decimals, and are at least one unit of the last."""


class GeneratedFeed:
    """Implements ``ports.LiveFeed`` without a source."""

    def __init__(
        self, start: Mapping[FeedId, Decimal], *, seed: int, volatility: float, tick_ms: int
    ) -> None:
        """Begin at the ``start`` prices; ``volatility`` is annualised, of every feed for itself."""
        self._feeds = tuple(start)
        self._log_prices = np.log(np.array([float(price) for price in start.values()]))
        self._rng = np.random.default_rng(seed)
        self._tick_s = tick_ms / 1e3
        self._deviation = volatility * math.sqrt(self._tick_s / YEAR_S)
        self._news = asyncio.Event()
        self._moved_ns = 0

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        """Return where the path is, observed just now by the local clock, whatever the chain's time is."""
        del now_s
        at_s = int(time.time())
        units = np.maximum(np.rint(np.exp(self._log_prices) * UNITS), 1)
        return {
            feed: Quote(feed, int(unit) * (WAD // UNITS), at_s)
            for feed, unit in zip(self._feeds, units, strict=True)
        }

    def step(self) -> None:
        """Go one step on."""
        noise = self._rng.standard_normal(len(self._feeds))
        self._log_prices += self._deviation * noise - self._deviation**2 / 2
        if not self._news.is_set():
            self._moved_ns = time.monotonic_ns()
            self._news.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Walk on while the context is open."""
        walking = asyncio.create_task(self._walk())
        try:
            yield
        finally:
            walking.cancel()
            await asyncio.wait({walking})

    async def _walk(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            self.step()

    async def tick(self) -> int:
        """Wait until the path has gone on; return when it did first."""
        await self._news.wait()
        self._news.clear()
        return self._moved_ns
