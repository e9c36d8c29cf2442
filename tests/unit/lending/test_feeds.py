"""What feeds are called, and what they said."""

import pytest

from keeper.domain import Quote, Unknown
from keeper.lending.feeds import Answer, Feed, fast_prices, named
from keeper.units import WAD

BASE, OTHER, QUOTE = ("0x" + digit * 40 for digit in "bcd")


@pytest.mark.parametrize(
    ("said", "feed"),
    [
        ("ETH / USD", "ETH/USD"),
        ("wstETH / ETH", "wstETH/ETH"),
        ("wstETH-stETH Exchange Rate", None),
        ("Calculated ETH / USD", None),
        ("", None),
    ],
)
def test_a_feed_is_called_what_it_says_where_that_is_a_pair(said: str, feed: str | None) -> None:
    feeds, untraced = named({BASE: ((said,), (8,))}, {})
    assert [each.feed for each in feeds] == ([feed] if feed else [])
    assert len(untraced) == (feed is None)


def test_the_configuration_names_feeds_or_leaves_the_chains_price() -> None:
    told: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
        BASE: (("A rate",), (18,)),
        OTHER: (("ETH / USD",), (8,)),
        QUOTE: (("USDC / USD",), ()),
    }
    feeds, untraced = named(told, {BASE: "RATE", OTHER: ""})
    assert feeds == (Feed(BASE, "RATE", 18),)
    assert untraced == (f"feed {OTHER}: named none", f"feed {QUOTE}: it tells no decimals")


def test_an_answer_that_is_no_price_is_none() -> None:
    feed = Feed(BASE, "ETH/USD", 8)
    assert feed.answer(2_000 * 10**8, 7) == Answer(2_000 * WAD, 7)
    for told in (0, 2**256 - 1, 2**255):
        assert feed.answer(told, 7) is None
    assert feed.answer(2_000 * 10**8, 2**256 - 1) is None
    assert Feed(BASE, "ETH/USD", 24).answer(1, 7) is None, "less than anything in WAD"


def test_a_fast_price_is_one_that_is_known_and_above_zero() -> None:
    quotes: dict[str, Quote | Unknown] = {
        "A": Quote("A", 5, 1),
        "B": Unknown("B", "silent"),
        "C": Quote("C", 0, 1),
    }
    assert fast_prices(quotes) == {"A": 5}
