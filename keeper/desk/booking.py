"""What one transaction of the keeper moved, read from its own logs, and what that was worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from keeper.abi import event
from keeper.domain import Booking, Log, Unknown
from keeper.errors import ChainFault
from keeper.units import Wad

TRANSFER = event("Transfer(address indexed from, address indexed to, uint256 value)")
"""Of ERC-20. ERC-721 has the same topic, with the token's number among them."""


def transfers(logs: Sequence[Log], own: Collection[str]) -> Counter[str]:
    """Return by token how many units some addresses received, less what they gave away."""
    moved = Counter[str]()
    for log in logs:
        if not log.topics or log.topics[0] != TRANSFER.topic or len(log.topics) != 3:
            continue
        try:
            giver, taker, units = TRANSFER.values(log.topics, log.data)
        except ChainFault:
            # Somebody's own idea of a Transfer: no token that the keeper deals in.
            continue
        moved[log.address.lower()] += units * ((taker.lower() in own) - (giver.lower() in own))
    return moved


def booking(moved: Mapping[str, int], worth_wad: Callable[[str, int], Wad | Unknown]) -> Booking:
    """Add up what moved, at prices of now: what was received rounded down, what was given away up."""
    kept = {what: amount for what, amount in sorted(moved.items()) if amount}
    worths = {what: _signed(worth_wad(what, abs(amount)), amount) for what, amount in kept.items()}
    known = {what: wad for what, wad in worths.items() if wad is not None}
    whole_wad = sum(known.values()) if len(known) == len(worths) else None
    return Booking(tuple(kept.items()), whole_wad, tuple(known.items()))


def _signed(worth_wad: Wad | Unknown, amount: int) -> Wad | None:
    if isinstance(worth_wad, Unknown):
        return None
    return worth_wad if amount > 0 else -worth_wad - 1
