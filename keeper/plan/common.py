"""What every plan is made of: gas, a step with its bounds, and the refusal of what does not pay."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from keeper.domain import Act, ChainTime, Reason, Refuse, Step, Wait
from keeper.units import WAD, Wad

GAS_RESERVE = 300_000
"""Gas allowed beyond twice the typical: an act may do more than one thing in one call."""


class Policy(StrEnum):
    """How much of an account is closed at once, where the protocol knows only a cliff."""

    RESTORE = "restore"
    """The least that brings it back above a target: the owner keeps what need not go."""
    MAX = "max"
    """The most that the contract allows: the keeper earns more at once, and the owner pays it."""


Decision: TypeAlias = Step | Wait | Refuse


@dataclass(frozen=True, slots=True)
class Gas:
    """Gas of an act: a base, and so much for each item of the account that it has to value."""

    base: int
    per_item: int

    def typical(self, items: int) -> int:
        """Return the gas that an act on an account with so many items should use."""
        return self.base + self.per_item * items


def step(
    case_id: str,
    act: Act,
    at: ChainTime,
    *,
    validity_blocks: int,
    gas: int,
    profit_wad: Wad,
    notional_wad: Wad = 0,
) -> Step:
    """Make the step of an act that typically uses so much gas, for block ``at`` and those after it."""
    return Step(
        case_id=case_id,
        act=act,
        valid_until_block=at.block - 1 + validity_blocks,
        gas_limit=gas * 2 + GAS_RESERVE,
        expected_profit_wad=profit_wad,
        notional_wad=notional_wad,
    )


def unprofitable(rule: str, profit_wad: Wad, min_profit_wad: Wad) -> Refuse:
    """Refuse what brings too little."""
    found = f"expected {profit_wad / WAD:.4f} after gas"
    return Refuse(Reason(rule, found, f">= {min_profit_wad / WAD:.4f}"))
