"""The feeds that the oracles of lending protocols read, and what they said last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from keeper.abi import function
from keeper.domain import Quote, Unknown
from keeper.units import WAD, FeedId, UnixS, Wad, mul_div_down

DESCRIPTION: Final = function("description()", "string")
DECIMALS: Final = function("decimals()", "uint8")

QUOTE: Final[FeedId] = "USD"
"""In the place of a feed: whatever is worth one of quote, by the operator's word."""
Answers = tuple[Any, ...]
"""What a question was answered with; empty where it was not."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A feed on chain, by the name that the source of fast prices has for it."""

    address: str
    feed: FeedId
    decimals: int
    is_oracle: bool = False
    """Whether it is a price of the protocol's own oracle that is taken for one feed."""

    def answer(self, told: int, updated_at_s: UnixS) -> Answer | None:
        """Return what it said, in WAD; None where that is no price above zero, or of no time."""
        price_wad = mul_div_down(told, WAD, 10**self.decimals)
        if price_wad == 0 or told >= 2**255 or updated_at_s >= 2**64:
            return None
        return Answer(price_wad, updated_at_s)


@dataclass(frozen=True, slots=True)
class Answer:
    """The newest answer of a feed."""

    price_wad: Wad
    answered_at_s: UnixS


def named(
    told: Mapping[str, tuple[Answers, Answers]], names: Mapping[str, FeedId]
) -> tuple[tuple[Feed, ...], tuple[str, ...]]:
    """Return the feeds that have a name, and say why the others have none.

    ``told`` is what each answers to ``DESCRIPTION`` and ``DECIMALS``; ``names`` goes first, and an empty name
    there leaves the chain's price.
    """
    feeds, untraced = [], []
    for address, (description, decimals) in told.items():
        name = names.get(address, _pair(description))
        if not name:
            why = "no pair in its description" if name is None else "named none"
            untraced.append(f"feed {address}: {why}")
        elif not decimals:
            untraced.append(f"feed {address}: it tells no decimals")
        else:
            feeds.append(Feed(address, name, *decimals))
    return tuple(feeds), tuple(untraced)


def fast_prices(quotes: Mapping[FeedId, Quote | Unknown]) -> Mapping[FeedId, Wad]:
    """Return the fast prices that are known."""
    known = {feed: quote for feed, quote in quotes.items() if isinstance(quote, Quote)}
    return {feed: quote.price_wad for feed, quote in known.items() if quote.price_wad > 0}


def spots(feeds: Iterable[Feed], heard: Mapping[str, Answer]) -> Mapping[FeedId, Wad]:
    """Return what feeds answered last, by name; of several that have one name what the first did."""
    told = {
        each.feed: heard[each.address].price_wad for each in reversed(tuple(feeds)) if each.address in heard
    }
    return {each: told[each] for each in sorted(told)}


def _pair(description: Answers) -> FeedId | None:
    """Read the name of a feed in what it says of itself, such as ``ETH / USD``."""
    sides = description[0].split(" / ") if description else []
    return "/".join(sides) if len(sides) == 2 and all(s and " " not in s for s in sides) else None
