"""What a market's price is made of: the feeds of its oracle, and the same price at fast quotes.

Of an oracle nothing is modelled but the feeds that it multiplies and divides by; rates of vaults, decimals
and scales stay in its own price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.abi import function
from keeper.lending.feeds import Answer, Answers, Feed
from keeper.units import FeedId, Wad, mul_div_down

GETTERS: Final = tuple(
    function(f"{side}_FEED_{number}()", "address") for side in ("BASE", "QUOTE") for number in (1, 2)
)
"""Of MorphoChainlinkOracleV2, which most markets use."""
NOBODY: Final = "0x" + "00" * 20


@dataclass(frozen=True, slots=True)
class Path:
    """The feeds that an oracle multiplies by, and those that it divides by; none where it is not traced."""

    base: tuple[str, ...] = ()
    quote: tuple[str, ...] = ()

    @property
    def feeds(self) -> tuple[str, ...]:
        """Return both."""
        return self.base + self.quote


def path_of(oracle: str, answers: Sequence[Answers], names: Mapping[str, FeedId]) -> Path:
    """Return the feeds of an oracle from what it answers to ``GETTERS``; of one that is named, itself."""
    if oracle in names:
        return Path((oracle,)) if names[oracle] else Path()
    if not all(answers):
        return Path()
    base1, base2, *quotes = (address for (address,) in answers)
    return Path(_set([base1, base2]), _set(quotes))


def fast_price(
    price: int, path: Path, feeds: Mapping[str, Feed], heard: Mapping[str, Answer], fast: Mapping[FeedId, Wad]
) -> int:
    """Return an oracle's price times fast quote over answer of each of its feeds, rounded down.

    Where a feed has no name, no answer or no fast quote, its part stays as it is.
    """
    times, over = 1, 1
    for addresses, is_base in ((path.base, True), (path.quote, False)):
        for address in addresses:
            feed, answer = feeds.get(address), heard.get(address)
            quote_wad = fast.get(feed.feed) if feed else None
            if quote_wad and answer:
                up, down = (quote_wad, answer.price_wad) if is_base else (answer.price_wad, quote_wad)
                times, over = times * up, over * down
    return mul_div_down(price, times, over)


def _set(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(each.lower() for each in addresses if each != NOBODY)
