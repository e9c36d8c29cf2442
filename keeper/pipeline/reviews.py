"""What is to be said of how the keeper's own transactions ended, beside what their receipts say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import structlog

from keeper.desk.port import Desk
from keeper.domain import Booking, Call, EventKind, Head, Quote, Reason, Refuse, Rival, Unknown
from keeper.errors import ChainFault
from keeper.pipeline.mirror import Mirror
from keeper.ports import Aftermath, Journal, Market, Outcome, Reader, StepRecord
from keeper.units import WAD, FeedId, UnixS, Wad, mul_div_up

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])

PASSES = "nothing: run at the end of its block it goes through"
LONGEST = 500
"""So much is kept of what a contract says."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What another's transaction did to an account, and where in its block."""

    rival: Rival
    tx_index: int | None
    closes: bool


class Reviews(Generic[MarketT]):
    """Implements ``ports.Review`` for the heads of a pipeline, each with its prices and its facts."""

    def __init__(
        self,
        mirror: Mirror[MarketT],
        *,
        reader: Reader,
        desk: Desk[MarketT, Any],
        journal: Journal,
        wallet: str,
        latest: Callable[[UnixS], Mapping[FeedId, Quote | Unknown]],
    ) -> None:
        self._mirror = mirror
        self._reader = reader
        self._desk = desk
        self._journal = journal
        self._wallet = wallet
        self._latest = latest

    async def of(self, head: Head, ended: Sequence[tuple[StepRecord, Outcome]]) -> Sequence[Aftermath]:
        """Say what became of steps, as is known at a head that was read and is not observed yet."""
        mirror = self._mirror
        quotes = self._latest(head.timestamp_s)
        native_price_wad = self._desk.native_price_wad(mirror.market, mirror.world, quotes)
        found = []
        for step, outcome in ended:
            # One after the other: where nothing is asked nobody else gets a turn, and a tape needs no mark.
            why = await self._why(step, outcome)
            booking = self._booked(step, outcome, native_price_wad)
            found.append(Aftermath(booking, why, self._lost_to(step, outcome)))
        return found

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

    async def _why(self, step: StepRecord, outcome: Outcome) -> str:
        """Ask the node why a transaction reverted; that it does not answer holds up nothing.

        At the end of the block: what others did behind ours is in that state too, and what was so only in the
        middle of the block is not. Of an act of a batch that failed alone, its own log tells.
        """
        if outcome.kind is not EventKind.REVERTED:
            return ""
        if outcome.error:
            failed = Refuse(Reason("simulation.reverted", f"0x{outcome.error.hex()}", "must not fail"))
            return self._mirror.market.explain(failed).reason.evidence
        if step.place:
            return ""
        bid = step.bid_of(outcome.tx_hash)
        tx = bid.unsigned_tx if bid else step.unsigned_tx
        call = Call(tx["to"], bytes.fromhex(tx["data"][2:]))
        try:
            result = await self._reader.rerun(self._wallet, call, outcome.block_hash, tx["gas"])
        except ChainFault as fault:
            log.warning("tx.unexplained", step_id=step.step_id, tx_hash=outcome.tx_hash, why=str(fault))
            return ""
        if not isinstance(result, Refuse):
            return PASSES
        return self._mirror.market.explain(result).reason.evidence[:LONGEST]

    def _lost_to(self, step: StepRecord, outcome: Outcome) -> Rival | None:
        """Return who was before a step that reverted, or was cancelled because it was late."""
        if outcome.kind is EventKind.INCLUDED or outcome.tx_hash is None:
            return None
        before = [each for each in self._seen(step) if _is_before(each, step, outcome)]
        closing = (each for each in before if each.closes)
        found = next(closing, next(iter(before), None))
        if found is None:
            return None
        log.warning("race.lost", step_id=step.step_id, tx_hash=outcome.tx_hash, to=found.rival.tx_hash)
        return found.rival

    def _seen(self, step: StepRecord) -> Iterator[Seen]:
        """Yield what others did to the account of a step: what its case tells, and what is not in it yet."""
        history = self._journal.history(step.case_id)
        ours = {event.data.get("tx_hash") for event in history if event.kind is not EventKind.OBSERVED}
        ours.update(step.hashes)
        for event in history:
            data = event.data
            if event.kind is EventKind.OBSERVED and data.get("tx_hash", None) not in {None, *ours}:
                rival = Rival(data["act"], data["tx_hash"], event.block)
                yield Seen(rival, data.get("tx_index"), data.get("closes", False))
        for fact in self._mirror.facts:
            if step.account in fact.touched and fact.tx_hash not in ours:
                yield Seen(Rival(fact.act, fact.tx_hash, fact.block), fact.tx_index, fact.closes)


def _is_before(seen: Seen, step: StepRecord, outcome: Outcome) -> bool:
    """Tell whether something was done after a step was reserved, and before its transaction ran.

    In the same block by its place there, where the node tells both.
    """
    block = seen.rival.block
    if not step.reserved_block < block <= outcome.block or seen.rival.tx_hash == outcome.tx_hash:
        return False
    if block < outcome.block or seen.tx_index is None or outcome.tx_index is None:
        return True
    return seen.tx_index < outcome.tx_index
