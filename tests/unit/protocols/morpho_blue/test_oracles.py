"""From an oracle to the feeds that it reads, and its price at fast quotes."""

import pytest

from keeper.protocols.morpho_blue.oracles import Answer, Feed, Path, answer_of, fast_price, feeds_of, path_of
from keeper.units import WAD

NOBODY = "0x" + "00" * 20
ORACLE, BASE, OTHER, QUOTE = ("0x" + digit * 40 for digit in "abcd")


def test_an_oracle_names_the_feeds_that_it_multiplies_and_divides_by() -> None:
    told = [(BASE.upper().replace("X", "x"),), (NOBODY,), (QUOTE,), (OTHER,)]
    assert path_of(ORACLE, told, {}) == Path((BASE,), (QUOTE, OTHER))
    assert path_of(ORACLE, [*told[:3], ()], {}) == Path()
    assert path_of(ORACLE, [()] * 4, {ORACLE: "ETH/USD"}) == Path((ORACLE,))
    assert path_of(ORACLE, told, {ORACLE: ""}) == Path()


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
    feeds, untraced = feeds_of({BASE: ((said,), (8,))}, {})
    assert [each.feed for each in feeds] == ([feed] if feed else [])
    assert len(untraced) == (feed is None)


def test_the_configuration_names_feeds_or_leaves_the_chains_price() -> None:
    told: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
        BASE: (("A rate",), (18,)),
        OTHER: (("ETH / USD",), (8,)),
        QUOTE: (("USDC / USD",), ()),
    }
    feeds, untraced = feeds_of(told, {BASE: "RATE", OTHER: ""})
    assert feeds == (Feed(BASE, "RATE", 18),)
    assert untraced == (f"feed {OTHER}: named none", f"feed {QUOTE}: it tells no decimals")


def test_a_fast_price_is_the_oracles_own_times_what_its_feeds_have_moved() -> None:
    feeds = {BASE: Feed(BASE, "ETH/USD", 8), QUOTE: Feed(QUOTE, "USDC/USD", 8)}
    heard = {BASE: Answer(2_000 * WAD, 1), QUOTE: Answer(WAD, 1)}
    path = Path((BASE, OTHER), (QUOTE,))
    assert fast_price(10**30, path, feeds, heard, {"ETH/USD": 1_800 * WAD}) == 9 * 10**29
    both = {"ETH/USD": 1_800 * WAD, "USDC/USD": 9 * WAD // 10}
    assert fast_price(10**30, path, feeds, heard, both) == 10**30
    assert fast_price(10**30, path, feeds, {}, both) == 10**30
    assert fast_price(10**30, path, {}, heard, both) == 10**30
    assert fast_price(10, Path((BASE,)), feeds, heard, {"ETH/USD": 1_999 * WAD}) == 9


def test_an_answer_that_is_no_price_is_none() -> None:
    feed = Feed(BASE, "ETH/USD", 8)
    assert answer_of(feed, 2_000 * 10**8, 7) == Answer(2_000 * WAD, 7)
    for told in (0, 2**256 - 1, 2**255):
        assert answer_of(feed, told, 7) is None
    assert answer_of(feed, 2_000 * 10**8, 2**256 - 1) is None
