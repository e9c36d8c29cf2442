"""EIP-1559 fees, as a pure function of the head's base fee."""

from __future__ import annotations

from dataclasses import dataclass

from keeper.domain import Fees, Reason, Refuse
from keeper.units import Wei

GWEI: Wei = 10**9


@dataclass(frozen=True, slots=True)
class FeeParams:
    """How much to bid."""

    priority_fee_wei: Wei = GWEI
    """The tip per gas."""
    max_fee_cap_wei: Wei = 500 * GWEI
    """The most per gas, base fee and tip together."""


def choose_fees(base_fee_wei: Wei, params: FeeParams) -> Fees | Refuse:
    """Bid twice the base fee and the tip, up to the cap; refuse where the cap is below the base fee.

    Twice the base fee stays includable for five full blocks (+12.5 % each, EIP-1559).
    """
    if base_fee_wei > params.max_fee_cap_wei:
        return Refuse(
            Reason(
                "fees.cap", f"base fee {base_fee_wei} wei", f"max_fee_cap_wei {params.max_fee_cap_wei} wei"
            )
        )
    max_fee_wei = min(2 * base_fee_wei + params.priority_fee_wei, params.max_fee_cap_wei)
    return Fees(max_fee_wei, min(params.priority_fee_wei, max_fee_wei))
