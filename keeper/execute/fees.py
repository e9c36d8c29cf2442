"""What to bid, as pure functions: of the head, of what others paid, of what a step brings.

The base fee of a block differs from its parent's by at most an eighth (EIP-1559), so that a fee which covers
the base fee of ``n`` full blocks is known in advance. Pools take another transaction in the place of one
with the same nonce where both of its fees are higher by at least 10 % (geth's and Erigon's ``PriceBump``),
or by 12.5 % (OpenEthereum); a bid is raised by an eighth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import median_low
from typing import Any

from keeper.domain import Fees, Reason, Refuse, Step
from keeper.units import Block, Wei, mul_div_up

GWEI: Wei = 10**9
HISTORY_BLOCKS = 10
"""Of so many blocks it is asked what others paid."""


@dataclass(frozen=True, slots=True)
class FeeParams:
    """How much to bid."""

    priority_fee_wei: Wei = GWEI
    """The least tip per gas."""
    max_fee_cap_wei: Wei = 500 * GWEI
    """The most per gas, base fee and tip together."""
    tip_percentile: int = 50
    """Which of the tips that others paid of late to bid, where that is more."""
    max_priority_fee_wei: Wei = 50 * GWEI
    """The most of it."""
    full_blocks: Block = 6
    """How many full blocks in a row a bid outlasts at most; six nearly double the base fee."""


@dataclass(frozen=True, slots=True)
class Market:
    """What a node says of fees besides the base fee; None where it was not asked, or did not say."""

    tip_wei: Wei | None = None
    gas_price_wei: Wei | None = None


def choose_fees(
    base_fee_wei: Wei | None, params: FeeParams, market: Market | None = None, *, blocks: Block | None = None
) -> Fees | Refuse:
    """Bid what the base fee can become within so many blocks, and a tip, up to the cap.

    Refuses where the cap is below what a block asks for now. A chain without EIP-1559 has one gas price,
    and bids what the node calls it.
    """
    market = market or Market()
    now_wei = market.gas_price_wei if base_fee_wei is None else base_fee_wei
    if now_wei is None:
        return Refuse(Reason("fees.unknown", "the node does not tell its gas price", "a gas price"))
    if now_wei > params.max_fee_cap_wei:
        asked = "gas price" if base_fee_wei is None else "base fee"
        bound = f"max_fee_cap_wei {params.max_fee_cap_wei} wei"
        return Refuse(Reason("fees.cap", f"{asked} {now_wei} wei", bound))
    if base_fee_wei is None:
        return Fees(now_wei, now_wei, is_flat=True)
    tip_wei = max(params.priority_fee_wei, min(market.tip_wei or 0, params.max_priority_fee_wei))
    lasts = params.full_blocks if blocks is None else max(1, min(blocks, params.full_blocks))
    max_fee_wei = min(grown(base_fee_wei, lasts) + tip_wei, params.max_fee_cap_wei)
    return Fees(max_fee_wei, min(tip_wei, max_fee_wei))


def bid_for(
    step: Step, number: Block, base_fee_wei: Wei | None, params: FeeParams, market: Market | None = None
) -> Fees | Refuse:
    """Bid for one step: what the blocks need for which it is valid, and never more than it brings."""
    fees = choose_fees(base_fee_wei, params, market, blocks=step.valid_until_block - number)
    most_wei = None if step.economics is None else step.economics.affordable_wei
    if isinstance(fees, Refuse) or most_wei is None:
        return fees
    # It pays at the price of now, or it would not have been planned: rounding must not say otherwise.
    return capped(fees, max(most_wei, fees.price_wei(base_fee_wei)))


def capped(fees: Fees, most_wei: Wei) -> Fees:
    """Return a bid that is no more than a price."""
    max_fee_wei = min(fees.max_fee_wei, most_wei)
    return Fees(max_fee_wei, min(fees.priority_fee_wei, max_fee_wei), fees.is_flat)


@lru_cache(maxsize=64)
def grown(base_fee_wei: Wei, blocks: Block) -> Wei:
    """Return what a base fee becomes after so many full blocks, rounded up.

    Six count as twice the fee, which is 1.4 % short of what they make of it at the most.
    """
    if blocks >= 6:
        return mul_div_up(2 * base_fee_wei, 9 ** (blocks - 6), 8 ** (blocks - 6))
    return mul_div_up(base_fee_wei, 9**blocks, 8**blocks)


def raised(fees: Fees) -> Fees:
    """Return the least that outbids: both fees an eighth higher, rounded up, and at least by one wei."""
    max_fee_wei, tip_wei = (max(each + 1, mul_div_up(each, 9, 8)) for each in _both(fees))
    return Fees(max_fee_wei, min(tip_wei, max_fee_wei), fees.is_flat)


def outbid(last: Fees, wanted: Fees, most_wei: Wei) -> Fees | None:
    """Return a bid that replaces the last one and is what is wanted now; None where that is too much.

    At least ``raised``, and no more than ``most_wei``: what it brings, or what the operator allows.
    """
    least = raised(last)
    if least.max_fee_wei > most_wei:
        return None
    max_fee_wei = min(max(least.max_fee_wei, wanted.max_fee_wei), most_wei)
    tip_wei = min(max(least.priority_fee_wei, wanted.priority_fee_wei), max_fee_wei)
    return Fees(max_fee_wei, tip_wei, last.is_flat)


def tip_paid(history: Any) -> Wei | None:
    """Return the median over blocks of the tip at the percentile asked for; None where none was paid.

    ``history`` is the answer to eth_feeHistory with one percentile. A block without transactions reports 0.
    Raises TypeError where it is no object: some nodes answer null.
    """
    if not isinstance(history, Mapping):
        raise TypeError(f"eth_feeHistory is answered by an object, found {history!r}")
    tips = [int(each[0], 16) for each in history.get("reward") or ()]
    paid = [tip for tip in tips if tip > 0]
    return median_low(paid) if paid else None


def _both(fees: Fees) -> tuple[Wei, Wei]:
    return fees.max_fee_wei, fees.priority_fee_wei
