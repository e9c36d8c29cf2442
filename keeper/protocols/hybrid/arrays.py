"""What no model can dispute about a risk array: the bounds that the contract holds one to, to the wei.

Mirrors ``contracts/src/RiskArrays.sol``, ``_checkBounds``.
"""

from __future__ import annotations

from typing import Final

from keeper.domain import ArrayView, Kind, Reason
from keeper.protocols.hybrid.params import Listed
from keeper.protocols.hybrid.portfolio import THIRDS, ceiling_wad
from keeper.units import WAD, Wad

SLACK_WAD: Final = 2 * 10**10
"""How far rounding to 8 decimals may carry a value past its bounds."""


def broken_bound(array: ArrayView, market: Listed, mmr_wad: Wad) -> Reason | None:
    """Say which bound an array breaks where ``mmr_wad`` is the range in force; None for one without fault."""
    if array.ref_wad == 0:
        return Reason("array.no_ref", "reference price 0", "> 0")
    delta_wad = array.delta_wad if market.kind is Kind.CALL else -array.delta_wad
    if not 0 <= delta_wad <= WAD:
        return Reason("array.delta", f"{array.delta_wad / WAD:.9f}", "between none and the underlying's")
    third_wad = array.ref_wad * mmr_wad // (3 * WAD)
    values = (("array.mark", array.mark_wad, array.ref_wad), *_scenarios(array, third_wad))
    for rule, value_wad, price_wad in values:
        least, most = market.payoff_wad(price_wad), ceiling_wad(market, price_wad)
        if not least - SLACK_WAD <= value_wad <= most + SLACK_WAD:
            bound = f"{least / WAD:.8f} to {most / WAD:.8f} at {price_wad / WAD:.8f}"
            return Reason(rule, f"{value_wad / WAD:.8f}", bound)
    return None


def _scenarios(array: ArrayView, third_wad: Wad) -> list[tuple[str, Wad, Wad]]:
    """Return of every scenario its name, the option's value in it and the underlying's price."""
    return [
        (f"array.scenario_{number}", array.mark_wad + pnl_wad, max(0, array.ref_wad + third_wad * thirds))
        for number, (pnl_wad, thirds) in enumerate(zip(array.pnl_wad, THIRDS, strict=True))
    ]
