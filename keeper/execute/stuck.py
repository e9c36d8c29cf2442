"""What becomes of a transaction that is not included: it is outbid while it holds, then its nonce is used up.

Pure: what is bid is for ``fees`` to say, and whether the limits allow it for the journal's guard.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from keeper.domain import Fees, Head
from keeper.ports import Bid, BidKind, StepRecord, StepState
from keeper.units import Block


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a bid is given, in blocks."""

    raise_after: Block = 2
    """Bid more when the last bid is this old and its transaction is the next in line."""
    outbids: bool = True
    """Whether waiting is a matter of price: where transactions run in the order in which they come, none is
    included sooner for a higher bid."""


def due(step: StepRecord, head: Head, chain_nonce: int, patience: Patience) -> BidKind | None:
    """Say which bid a step in flight should be followed by at a head; None while the last one may do.

    A bid below the base fee is outbid at once, wherever it stands; one that could be included only where
    nothing stands before it. What would come too late, or is a cancel already, is cancelled: an act that is
    late would be paid for and refused by its contract, or be one that nobody wants any more. What a reorg put
    back at this very head goes out as it was, first of all: its block may come back as well.
    """
    if step.state is not StepState.SENT or step.returned_block == head.number:
        return None
    is_late = head.number >= step.valid_until_block
    if step.last.kind is BidKind.CANCEL:
        return BidKind.CANCEL if is_stuck(step.last, head, chain_nonce, patience) else None
    if is_late:
        # It gives way to a cancel, whether bids count or not.
        patience = replace(patience, outbids=True)
    if not is_stuck(step.last, head, chain_nonce, patience):
        return None
    return BidKind.CANCEL if is_late else BidKind.RAISE


def is_stuck(bid: Bid, head: Head, chain_nonce: int, patience: Patience) -> bool:
    """Tell whether a bid that is out is not included because of what it bids."""
    age = head.number - bid.block
    if bid.signed_tx is None or age < 1:
        return False
    is_priced_out = head.base_fee_wei is not None and Fees.of(bid.unsigned_tx).max_fee_wei < head.base_fee_wei
    waits = patience.outbids and bid.nonce == chain_nonce and age >= patience.raise_after
    return is_priced_out or waits
