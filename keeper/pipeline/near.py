"""Who is near to breach: how far, price by price, and in which order they are kept ready."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import structlog

from keeper.desk.port import Desk
from keeper.domain import Quote, Unknown
from keeper.ladder import Rung
from keeper.pipeline.mirror import Mirror
from keeper.pipeline.moment import Moment
from keeper.pipeline.params import Params
from keeper.ports import Market, Nearest
from keeper.risk.options import YEAR_S
from keeper.risk.volatility import Ewma
from keeper.trigger import Trigger
from keeper.trigger.distance import Distances, Floats, Sample, distances
from keeper.units import WAD, AccountKey, Block, FeedId

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])

DAY = math.sqrt(86_400 / YEAR_S)
"""A day's standard deviation, for one of a year."""
NEAREST = 64
"""Accounts nearest to breach that are looked at more closely after a head."""
WITHIN = (1, 2, 3)
"""Standard deviations within which accounts are counted."""
TOLD = 5
"""How many of the nearest are told in the log."""


class Near(Generic[MarketT]):
    """Measures how far the accounts are from breach that the trigger finds nearest."""

    def __init__(
        self,
        mirror: Mirror[MarketT],
        *,
        trigger: Trigger,
        desk: Desk[MarketT, Any],
        served: Iterable[FeedId],
        params: Params,
        rung: Callable[[AccountKey], Rung],
    ) -> None:
        self._mirror = mirror
        self._rung = rung
        self._trigger = trigger
        self._desk = desk
        self._params = params
        self._served = tuple(served)
        self._vols = Ewma(dict.fromkeys(self._served, params.vol))
        self._sigmas: dict[AccountKey, float] = {}
        """How far accounts were that were measured last."""
        self._measured_at: Block = 0
        self.found: Nearest | None = None
        """What was measured last."""

    def hear(self, quotes: Mapping[FeedId, Quote | Unknown]) -> None:
        """Learn from the prices of a head how much they move."""
        for quote in quotes.values():
            if isinstance(quote, Quote):
                self._vols.hear(quote)

    @property
    def day(self) -> float:
        """What one standard deviation of a day is of the feed that moves most, as a share of its price."""
        return day(self._vols, self._served) if self._served else self._params.vol * DAY

    def accounts(self) -> list[AccountKey]:
        """Return the accounts nearest to breach that are not suspects.

        The trigger chooses them by their margin; in order come those who are watched, and then by how many
        standard deviations a price has to move, who was not measured yet before all others.
        """
        book = self._mirror.book.freeze()
        keys = [book.key(row) for row in self._trigger.nearest(NEAREST).tolist()]
        return sorted(keys, key=lambda key: (self._rung(key) < Rung.WATCH, self._sigmas.get(key, 0.0)))

    async def measure(self, moment: Moment) -> None:
        """Measure now and then how far the nearest accounts are from breach, price by price; say so.

        In a thread: it takes some 50 ms, and rests on a copy of a few rows alone.
        """
        head = moment.head.number
        if self.found is not None and head < self._measured_at + self._params.measure_blocks:
            return
        book, mirror, at_s = self._mirror.book.freeze(), self._mirror, moment.at.timestamp_s
        rows = self._trigger.nearest(NEAREST)
        keys = [book.key(row) for row in rows.tolist()]
        price = partial(self._desk.marks, mirror.market, mirror.world, at_s=at_s)
        some = Sample(book.cash[rows], book.legs.dense(rows), book.classes[rows])
        del book
        measured = await asyncio.to_thread(distances, some, moment.quotes, price)
        await mirror.tape.mark("measured")
        vols = {feed: vol for feed in measured.feeds if isinstance(vol := self._vols.vol(feed), float)}
        sigmas = measured.sigmas(vols)
        nearest = np.fmin.reduce(sigmas, axis=1, initial=np.inf)
        self._sigmas, self._measured_at = dict(zip(keys, nearest.tolist(), strict=True)), head
        least = float(nearest.min(initial=np.inf))
        within = {bound: int((nearest <= bound).sum()) for bound in WITHIN}
        self.found = Nearest(least if np.isfinite(least) else None, within)
        order = [row for row in np.argsort(nearest, kind="stable")[:TOLD].tolist() if nearest[row] < np.inf]
        told = [_far(keys[row], measured, sigmas, moment.quotes, row) for row in order]
        if told:
            log.info("accounts.nearest", block=head, within_sigmas=within, accounts=told)


def day(vols: Ewma, feeds: Iterable[FeedId]) -> float:
    """Return one standard deviation of a day of the feed that moves most of some, as a share of its price."""
    return max(vol for feed in feeds if isinstance(vol := vols.vol(feed), float)) * DAY


def _far(
    account: AccountKey, found: Distances, sigmas: Floats, quotes: Mapping[FeedId, Quote | Unknown], row: int
) -> dict[str, object]:
    """Say in a log's words by which feed an account is breached soonest."""
    place = int(np.nanargmin(sigmas[row]))
    feed, factor, away = found.feeds[place], float(found.factors[row, place]), float(sigmas[row, place])
    quote = quotes[feed]
    assert isinstance(quote, Quote)
    return {
        "account": f"0x{account.hex()}",
        "feed": feed,
        "price": round(quote.price_wad / WAD * factor, 6),
        "move": round(factor - 1, 4),
        "sigmas": round(away, 2),
        "days": round(away * away, 2),
    }
