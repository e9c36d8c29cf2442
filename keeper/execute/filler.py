"""Uses up nonces that no transaction holds, below transactions that are out and wait for them.

A nonce is left free where its step was given up before it was ever out, or where a reorg takes back what
somebody else did with the key. The next step would fill it, but nobody knows when that comes. What fills it
is a transfer of nothing to oneself, permitted and on disk like every bid of the step that waits for it, and
handed over at every head until its nonce is used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from keeper.domain import Fees, Head, Reason, Refuse
from keeper.errors import SignerFault
from keeper.execute.fees import outbid
from keeper.execute.signer import Signed, Signer
from keeper.execute.stuck import Patience, is_stuck
from keeper.ports import Bid, BidKind, Outbox, StepRecord
from keeper.units import Wei

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Purse:
    """What may be paid at a head."""

    fees: Fees | Refuse
    """What is bid now."""
    most_wei: Wei
    """The most per gas."""
    balance_wei: Wei
    gas: int
    """What a transfer of nothing takes, its bytes paid for."""
    data_fee_wei: Wei
    """What a transaction pays for its data besides its gas, at the most."""


class Filler:
    """Fills gaps below the steps of one journal; ``deliver`` hands over what is signed, and never fails."""

    def __init__(
        self,
        outbox: Outbox,
        signer: Signer,
        deliver: Callable[[StepRecord, Signed], Awaitable[None]],
        *,
        chain_id: int,
        patience: Patience,
    ) -> None:
        self._outbox = outbox
        self._signer = signer
        self._deliver = deliver
        self._patience = patience
        self._transfer = {"chainId": chain_id, "to": signer.address, "data": "0x", "value": 0}

    async def fill(self, gaps: Sequence[int], head: Head, chain_nonce: int, purse: Purse) -> None:
        """Bid for new gaps, bid more for those that stay, and hand over what fills them.

        ``gaps`` are nonces that nobody holds, each below the nonce of a step whose bytes are signed.
        """
        for nonce in gaps:
            above = (step for step in self._outbox.live_steps() if step.nonce > nonce)
            self._bid(next(step for step in above if step.signed_tx is not None), nonce, None, head, purse)
        for step, last in self._open(chain_nonce):
            if is_stuck(last, head, chain_nonce, self._patience):
                self._bid(step, last.nonce, last, head, purse)
        for step, last in self._open(chain_nonce):
            signed = await self._signed(step, last)
            if signed is None:
                # What is above waits for this one, and nobody waits for the signer again and again.
                return
            await self._deliver(replace(step, nonce=last.nonce), signed)

    def _open(self, chain_nonce: int) -> list[tuple[StepRecord, Bid]]:
        """Return the last bid for each nonce that is to be filled, lowest first, and the step above it."""
        live = self._outbox.live_steps()
        found = [(step, fill) for step in live for fill in newest(step) if fill.nonce >= chain_nonce]
        return sorted(found, key=lambda each: each[1].nonce)

    def _bid(self, step: StepRecord, nonce: int, last: Bid | None, head: Head, purse: Purse) -> None:
        """Have a transaction permitted on a nonce below a step; where that cannot be, the next head tries."""
        told = {"nonce": nonce, "step_id": step.step_id, "block": head.number}
        fees = _fees(last, purse)
        granted = fees if isinstance(fees, Refuse) else self._granted(step, nonce, fees, head, purse)
        if isinstance(granted, Refuse):
            log.warning("nonce.unfilled", why=str(granted.reason), **told)
        else:
            log.warning("nonce.filled", **told)

    def _granted(
        self, step: StepRecord, nonce: int, fees: Fees, head: Head, purse: Purse
    ) -> StepRecord | Refuse:
        return self._outbox.rebid(
            step.step_id,
            BidKind.FILL,
            {**self._transfer, "nonce": nonce, "gas": purse.gas, **fees.fields()},
            balance_wei=purse.balance_wei,
            block=head.number,
            at_s=head.timestamp_s,
            data_fee_wei=purse.data_fee_wei,
        )

    async def _signed(self, step: StepRecord, fill: Bid) -> Signed | None:
        """Return a fill's bytes, on disk; None while nobody signs them."""
        if fill.signed_tx is not None and fill.tx_hash is not None:
            return Signed(fill.signed_tx, fill.tx_hash)
        try:
            signed = await self._signer.sign(fill.unsigned_tx)
        except SignerFault as fault:
            log.warning("tx.unsigned", step_id=step.step_id, nonce=fill.nonce, why=str(fault))
            return None
        self._outbox.sign(step.step_id, signed.raw, signed.tx_hash, bid=fill.number)
        return signed


def newest(step: StepRecord) -> Iterator[Bid]:
    """Yield of each nonce that is filled for a step what was bid last."""
    yield from {fill.nonce: fill for fill in step.fills}.values()


def _fees(last: Bid | None, purse: Purse) -> Fees | Refuse:
    """Return what is bid for a nonce: what the market asks for, and more than was bid for it last."""
    if last is None or isinstance(purse.fees, Refuse):
        return purse.fees
    raised = outbid(Fees.of(last.unsigned_tx), purse.fees, purse.most_wei)
    least = f"an eighth more than {Fees.of(last.unsigned_tx).max_fee_wei} wei"
    return raised or Refuse(Reason("fees.cap", least, f"max_fee_cap_wei {purse.most_wei} wei"))
