"""What volatility a price shows: exponentially weighted, from quotes however far apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

from keeper.domain import Quote, Unknown
from keeper.risk.options import YEAR_S
from keeper.units import FeedId

HALF_LIFE_S = 82_000.0
SAMPLE_S = 60


class Ewma:
    """The volatility of some feeds, older returns counting ever less.

    The variance per second h becomes w h + (1 - w) r² / t with the log return r of the last t seconds and
    w = 2^(-t / half-life), however far apart two prices are; it starts from a volatility that is given, and
    does so again after a restart. It knows the past only.

    Source: RiskMetrics Technical Document (1996); the default half-life is that of 0.97 on hourly returns.
    """

    def __init__(
        self,
        initial: Mapping[FeedId, float],
        *,
        half_life_s: float = HALF_LIFE_S,
        sample_s: int = SAMPLE_S,
        least: float = 0.05,
        most: float = 5.0,
    ) -> None:
        """Start from ``initial``, annualised; returns span ``sample_s`` at least, for quotes are noisy."""
        self._variance = {name: vol * vol / YEAR_S for name, vol in initial.items()}
        self._last: dict[FeedId, Quote] = {}
        self._half_life_s = half_life_s
        self._sample_s = sample_s
        self._least, self._most = least, most

    def vol(self, feed: FeedId) -> float | Unknown:
        """Return the annualised volatility of a feed within the bounds."""
        if feed not in self._variance:
            return Unknown(feed, "no volatility to start from is set for it")
        vol = math.sqrt(self._variance[feed] * YEAR_S)
        return min(max(vol, self._least), self._most)

    def hear(self, quote: Quote) -> None:
        """Take in a quote; of a feed without a volatility to start from it says nothing."""
        if quote.feed not in self._variance:
            return
        last = self._last.setdefault(quote.feed, quote)
        apart_s = quote.observed_at_s - last.observed_at_s
        if apart_s < self._sample_s:
            return
        kept = 0.5 ** (apart_s / self._half_life_s)
        change = math.log(quote.price_wad / last.price_wad)
        shown = change * change / apart_s
        self._variance[quote.feed] = kept * self._variance[quote.feed] + (1 - kept) * shown
        self._last[quote.feed] = quote
