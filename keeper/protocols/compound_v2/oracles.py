"""From Venus's oracle to the feed of a token, and the same price at the fast quote.

Of the oracle's two checks, pivot and fallback, nothing is modelled: its price is the contract's own at both
clocks, moved by what the feed of its main source has moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keeper.abi import function
from keeper.lending.feeds import Answer, Answers, Feed
from keeper.units import FeedId, Wad, mul_div_down

TOKEN_CONFIG: Final = function("getTokenConfig(address)", "(address,address[3],bool[3])")
"""Of ResilientOracle: the sources of a token, main, pivot and fallback, and which of them count."""
FEED_CONFIG: Final = function("tokenConfigs(address)", "address, address, uint256")
"""Of ChainlinkOracle and those like it: the token, its feed, and how old that may be."""
NOBODY: Final = "0x" + "00" * 20


def main_oracle(config: Answers) -> str:
    """Return the main source of a token; empty where it has none."""
    if not config:
        return ""
    [(_, (main, *_), (is_enabled, *_))] = config
    return main.lower() if is_enabled and main != NOBODY else ""


def source_of(token: str, main: str, config: Answers, names: Mapping[str, FeedId]) -> str:
    """Return the feed of a token by its main source; the token itself where its whole price is named."""
    if token in names:
        return token if names[token] else ""
    feed = config[1].lower() if main and config else NOBODY
    return "" if feed == NOBODY else feed


def fast_price(price: int, feed: Feed | None, answer: Answer | None, fast: Mapping[FeedId, Wad]) -> int:
    """Return a price times fast quote over answer, rounded down; the same where one is not known."""
    quote_wad = fast.get(feed.feed) if feed else None
    return mul_div_down(price, quote_wad, answer.price_wad) if quote_wad and answer else price
