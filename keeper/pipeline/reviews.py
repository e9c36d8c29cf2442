"""What is to be said of how the keeper's own transactions ended, beside what their receipts say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import structlog

from keeper.desk.port import Desk
from keeper.domain import Booking, Head, Quote, Unknown
from keeper.errors import ChainFault
from keeper.pipeline.mirror import Mirror
from keeper.ports import Aftermath, Market, Outcome, StepRecord
from keeper.units import WAD, FeedId, UnixS, Wad, mul_div_up

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])


class Reviews(Generic[MarketT]):
    """Implements ``ports.Review`` for the heads of a pipeline, at the prices of each."""

    def __init__(
        self,
        mirror: Mirror[MarketT],
        *,
        desk: Desk[MarketT, Any],
        latest: Callable[[UnixS], Mapping[FeedId, Quote | Unknown]],
    ) -> None:
        self._mirror = mirror
        self._desk = desk
        self._latest = latest

    async def of(self, head: Head, ended: Sequence[tuple[StepRecord, Outcome]]) -> Sequence[Aftermath]:
        """Say what became of steps, as is known at a head that was read."""
        mirror = self._mirror
        quotes = self._latest(head.timestamp_s)
        native_price_wad = self._desk.native_price_wad(mirror.market, mirror.world, quotes)
        return [Aftermath(self._booked(step, outcome, native_price_wad)) for step, outcome in ended]

    def _booked(self, step: StepRecord, outcome: Outcome, native_price_wad: Wad | Unknown) -> Booking | None:
        """Say what a transaction moved, and what it has cost; that it cannot be told holds up nothing."""
        try:
            found = self._desk.booked(self._mirror.market, self._mirror.world, outcome.logs)
        except ChainFault as fault:
            log.warning("tx.unbooked", step_id=step.step_id, tx_hash=outcome.tx_hash, why=str(fault))
            return None
        if isinstance(native_price_wad, Unknown):
            return found
        return replace(found, gas_wad=mul_div_up(outcome.gas_cost_wei, native_price_wad, WAD))
