"""The mean price of a Uniswap v3 pool over a whole window.

A mean over less than the window can be the mean of one block (Inverse Finance, April 2022): a pool whose
history does not reach back has no price, nor has one that keeps too few observations, or whose liquidity was
too thin by its harmonic mean, which one deep moment does not lift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Final

from keeper.abi import function
from keeper.domain import Call, Unknown, Witnessed
from keeper.errors import ChainFault
from keeper.units import WAD, UnixS, Wad

OBSERVE: Final = function("observe(uint32[])", "int56[],uint160[]")
SLOT: Final = function("slot0()", "uint160,int24,uint16,uint16,uint16,uint8,bool")
TOKENS: Final = (function("token0()", "address"), function("token1()", "address"))
DECIMALS: Final = function("decimals()", "uint8")
MAX_TICK: Final = 887_272
MOST_DECIMALS: Final = 36
_PRECISE: Final = Context(prec=60)
_STEP: Final = Decimal("1.0001")
_WORD_160: Final = 1 << 160


@dataclass(frozen=True, slots=True)
class Twap:
    """Implements ``Witness``: the mean ends at the block that is read."""

    witness: str
    pool: str
    base: str
    """The token that is priced, in lower case."""
    quote: str
    """What it is priced in; one of it is taken for one of the feed's quote."""
    window_s: int
    least_observations: int = 2
    """So many the pool must keep: with one, what it says of the past is its last trade."""
    least_liquidity: int = 0
    """In the pool's own unit, by its harmonic mean over the window."""

    def questions(self) -> Sequence[Call]:
        """Ask for both ends of the window, how much is kept, and what the pool trades."""
        return (
            OBSERVE.call(self.pool, [self.window_s, 0]),
            SLOT.call(self.pool),
            *(token.call(self.pool) for token in TOKENS),
            DECIMALS.call(self.base),
            DECIMALS.call(self.quote),
        )

    def read(self, answers: Sequence[bytes], at_s: UnixS) -> Witnessed | Unknown:
        """Read it."""
        found = self._price_wad(answers)
        if isinstance(found, str):
            return Unknown(self.witness, found)
        # It says something new in every block, and always up to now.
        return Witnessed(self.witness, found, at_s, 0, 0)

    def _price_wad(self, answers: Sequence[bytes]) -> Wad | str:
        observed, slot, *about = answers
        try:
            tokens = [each.result(told)[0].lower() for each, told in zip(TOKENS, about, strict=False)]
            decimals = [DECIMALS.result(told)[0] for told in about[len(TOKENS) :]]
            kept = SLOT.result(slot)[3]
        except ChainFault as fault:
            return f"no pool, or a token without decimals: {fault}"
        if sorted(tokens) != sorted((self.base, self.quote)):
            return f"a pool of {' and '.join(tokens)}"
        if max(decimals) > MOST_DECIMALS:
            return f"{max(decimals)} decimals, at most {MOST_DECIMALS}"
        if kept < self.least_observations:
            return f"it keeps {kept} observations, at least {self.least_observations}"
        tick = self._tick(observed)
        if isinstance(tick, str):
            return tick
        is_inverted = self.base == tokens[1]
        return (
            price_wad(-tick if is_inverted else tick, decimals[0] - decimals[1])
            or "less than the least price"
        )

    def _tick(self, observed: bytes) -> int | str:
        """Return the mean tick, rounded toward minus infinity, or why there is none."""
        try:
            ticks, per_liquidity = OBSERVE.result(observed)
        except ChainFault:
            return f"no history of {self.window_s} s"
        if len(ticks) != 2 or len(per_liquidity) != 2:
            return f"{len(ticks)} observations for two"
        tick = int(ticks[1] - ticks[0]) // self.window_s
        if abs(tick) > MAX_TICK:
            return f"tick {tick}, at most {MAX_TICK}"
        # The accumulator wraps by design, and no pool accumulates nothing over a second, however deep it is.
        accumulated = (per_liquidity[1] - per_liquidity[0]) % _WORD_160
        liquidity = (self.window_s << 128) // accumulated if accumulated else 0
        if liquidity < max(self.least_liquidity, 1):
            return f"a mean liquidity of {liquidity}, at least {self.least_liquidity}"
        return tick


def price_wad(tick: int, digits: int) -> Wad:
    """Return 1.0001^tick x 10^digits in WAD, rounded down.

    Sixty digits are carried: the last unit of the largest price, 1e75, may be off.
    """
    ratio = _PRECISE.power(_STEP, tick)
    return int(_PRECISE.multiply(ratio, Decimal(WAD).scaleb(digits)))
