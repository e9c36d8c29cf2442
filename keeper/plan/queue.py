"""Who goes first where several accounts want one window, one wallet and one market's depth.

Whoever has waited too long goes before all others. Of the rest, whoever loses most with each unit of depth
that closing it takes: what is missing to its requirement, over what has to be moved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keeper.units import AccountKey, Block

OLD_BLOCKS: Block = 25


@dataclass(frozen=True, slots=True)
class Claim:
    """What one account asks for; quote."""

    account: AccountKey
    since_block: Block | None
    """The block at which its case began; None where it has none yet."""
    harm: float
    """What is missing to what it must be worth: 0 where nothing is."""
    depth: float
    """What would have to be moved to close it whole."""


def ordered(claims: Iterable[Claim], block: Block, *, old_blocks: Block = OLD_BLOCKS) -> list[Claim]:
    """Return all claims, the most urgent first; of two that are alike the one of the lower key."""

    def urgency(claim: Claim) -> tuple[bool, int, float, AccountKey]:
        since = claim.since_block
        is_old = since is not None and block - since > old_blocks
        return not is_old, since if is_old and since is not None else 0, -_worth(claim), claim.account

    return sorted(claims, key=urgency)


def _worth(claim: Claim) -> float:
    """Return the harm that a unit of depth avoids; what needs no depth is worth the most."""
    if not claim.harm > 0:
        return 0.0
    return claim.harm / claim.depth if claim.depth > 0 else float("inf")
