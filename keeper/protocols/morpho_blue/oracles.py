"""What a market's price is made of: the feeds of its oracle, and the same price at fast quotes.

Of an oracle nothing is modelled but the feeds that it multiplies and divides by; rates of vaults, decimals
and scales stay in its own price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keeper.abi import function
from keeper.units import WAD, FeedId, UnixS, Wad, mul_div_down

QUOTE: Final[FeedId] = "USD"
"""In the place of a feed: a token that is worth one of quote."""
GETTERS: Final = tuple(
    function(f"{side}_FEED_{number}()", "address") for side in ("BASE", "QUOTE") for number in (1, 2)
)
"""Of MorphoChainlinkOracleV2, which most markets use."""
DESCRIPTION: Final = function("description()", "string")
DECIMALS: Final = function("decimals()", "uint8")
NOBODY: Final = "0x" + "00" * 20

Answers = tuple[Any, ...]
"""What a question was answered with; empty where it was not."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A feed on chain, by the name that the source of fast prices has for it."""

    address: str
    feed: FeedId
    decimals: int
    is_oracle: bool = False
    """Whether it is an oracle that is taken for one feed, and so is asked for its price."""


@dataclass(frozen=True, slots=True)
class Path:
    """The feeds that an oracle multiplies by, and those that it divides by; none where it is not traced."""

    base: tuple[str, ...] = ()
    quote: tuple[str, ...] = ()

    @property
    def feeds(self) -> tuple[str, ...]:
        """Return both."""
        return self.base + self.quote


@dataclass(frozen=True, slots=True)
class Answer:
    """The newest answer of a feed."""

    price_wad: Wad
    answered_at_s: UnixS


def path_of(oracle: str, answers: Sequence[Answers], names: Mapping[str, FeedId]) -> Path:
    """Return the feeds of an oracle from what it answers to ``GETTERS``; of one that is named, itself."""
    if oracle in names:
        return Path((oracle,)) if names[oracle] else Path()
    if not all(answers):
        return Path()
    base1, base2, *quotes = (address for (address,) in answers)
    return Path(_set([base1, base2]), _set(quotes))


def feeds_of(
    told: Mapping[str, tuple[Answers, Answers]], names: Mapping[str, FeedId]
) -> tuple[tuple[Feed, ...], tuple[str, ...]]:
    """Return the feeds that have a name, and say why the others have none.

    ``told`` is the answers of each feed to ``DESCRIPTION`` and ``DECIMALS``.
    """
    feeds, untraced = [], []
    for address, (description, decimals) in told.items():
        name = names.get(address, _pair(description))
        if not name:
            untraced.append(
                f"feed {address}: {'no pair in its description' if name is None else 'named none'}"
            )
        elif not decimals:
            untraced.append(f"feed {address}: it tells no decimals")
        else:
            feeds.append(Feed(address, name, *decimals))
    return tuple(feeds), tuple(untraced)


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


def answer_of(feed: Feed, told: int, updated_at_s: UnixS) -> Answer | None:
    """Return what a feed said, in WAD; None where it is no price above zero, or of no time."""
    if not 0 < told < 2**255 or updated_at_s >= 2**64:
        return None
    return Answer(mul_div_down(told, WAD, 10**feed.decimals), updated_at_s)


def _set(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(each.lower() for each in addresses if each != NOBODY)


def _pair(description: Answers) -> FeedId | None:
    """Read the name of a feed in what it says of itself, such as ``ETH / USD``."""
    sides = [side.strip() for side in description[0].split(" / ")] if description else []
    return "/".join(sides) if len(sides) == 2 and all(sides) and not any(" " in s for s in sides) else None
