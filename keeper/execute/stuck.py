"""What becomes of a transaction that is not included: it is outbid while it holds, then its nonce is used up.

Pure: what is bid is for ``fees`` to say, and whether the limits allow it for the journal's guard.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeper.domain import Fees, Head
from keeper.ports import BidKind, StepRecord, StepState
from keeper.units import Block


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a bid is given, in blocks."""

    raise_after: Block = 2
    """Bid more when the last bid is this old and its transaction is the next in line."""


def due(step: StepRecord, head: Head, chain_nonce: int, patience: Patience) -> BidKind | None:
    """Say which bid a step in flight should be followed by at a head; None while the last one may do.

    A bid below the base fee is outbid at once, wherever it stands; one that could be included only where
    nothing stands before it. What would come too late, or is a cancel already, is cancelled: an act that is
    late would be paid for and refused by its contract, or be one that nobody wants any more.
    """
    if step.state is not StepState.SENT or step.last.signed_tx is None:
        return None
    age = head.number - step.last.block
    is_priced_out = head.base_fee_wei is not None and _most(step) < head.base_fee_wei
    is_next = step.nonce == chain_nonce
    if age < 1 or not (is_priced_out or (is_next and age >= patience.raise_after)):
        return None
    is_late = head.number >= step.valid_until_block or step.last.kind is BidKind.CANCEL
    return BidKind.CANCEL if is_late else BidKind.RAISE


def _most(step: StepRecord) -> int:
    return Fees.of(step.last.unsigned_tx).max_fee_wei
