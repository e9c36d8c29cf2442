"""Oracles whose every value waits in public before it counts: our DelayedFeed, after Maker's OSM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keeper.abi import function
from keeper.domain import Call, Unknown, Witnessed
from keeper.errors import ChainFault
from keeper.units import FeedId, UnixS, Wad

READ: Final = function("read(bytes32)", "uint256,uint256,bool")
"""Of ISlowOracle: price in WAD, when it was queued, and whether it counts."""
FEED_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Queued:
    """Implements ``Witness``: the value that is current."""

    witness: str
    address: str
    feed: FeedId
    heartbeat_s: int
    """How old a value may be when the next one takes its place: two delays, and the time until a poke."""
    deviation_wad: Wad

    def questions(self) -> Sequence[Call]:
        """Ask for the current value."""
        return (READ.call(self.address, self.feed.encode().ljust(FEED_BYTES, b"\0")),)

    def read(self, answers: Sequence[bytes], at_s: UnixS) -> Witnessed | Unknown:
        """Read it."""
        [current] = answers
        try:
            price_wad, queued_at_s, is_ok = READ.result(current)
        except ChainFault:
            return Unknown(self.witness, "no current value")
        if not is_ok or price_wad == 0:
            return Unknown(self.witness, "its value does not count")
        if queued_at_s > at_s:
            return Unknown(self.witness, f"a value of {queued_at_s - at_s} s too late")
        return Witnessed(self.witness, price_wad, queued_at_s, self.heartbeat_s, self.deviation_wad)
