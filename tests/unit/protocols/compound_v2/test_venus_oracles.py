"""From Venus's oracle to the feed of a token, and its price at the fast quote."""

from keeper.lending.feeds import Answer, Feed
from keeper.protocols.compound_v2.oracles import fast_price, main_oracle, source_of
from keeper.units import WAD

NOBODY = "0x" + "00" * 20
TOKEN, MAIN, FEED = ("0x" + digit * 40 for digit in "abc")


def test_the_main_source_counts_while_it_is_enabled() -> None:
    config = (TOKEN, ("0x" + "B" * 40, NOBODY, NOBODY), (True, False, False))
    assert main_oracle((config,)) == MAIN
    assert main_oracle(((*config[:2], (False, True, True)),)) == ""
    assert main_oracle(((TOKEN, (NOBODY,) * 3, (True,) * 3),)) == ""
    assert main_oracle(()) == ""


def test_a_token_follows_the_feed_of_its_main_source_unless_it_is_named() -> None:
    config = (TOKEN, "0x" + "C" * 40, 3_600)
    assert source_of(TOKEN, MAIN, config, {}) == FEED
    assert source_of(TOKEN, "", config, {}) == ""
    assert source_of(TOKEN, MAIN, (), {}) == ""
    assert source_of(TOKEN, MAIN, (TOKEN, NOBODY, 0), {}) == ""
    assert source_of(TOKEN, MAIN, config, {TOKEN: "A/USD"}) == TOKEN
    assert source_of(TOKEN, MAIN, config, {TOKEN: ""}) == ""


def test_a_fast_price_is_the_oracles_own_times_what_its_feed_has_moved() -> None:
    feed, answer = Feed(FEED, "A/USD", 8), Answer(2_000 * WAD, 1)
    assert fast_price(10**30, feed, answer, {"A/USD": 1_800 * WAD}) == 9 * 10**29
    assert fast_price(10, feed, answer, {"A/USD": 1_999 * WAD}) == 9
    assert fast_price(10**30, None, answer, {"A/USD": WAD}) == 10**30
    assert fast_price(10**30, feed, None, {"A/USD": WAD}) == 10**30
    assert fast_price(10**30, feed, answer, {}) == 10**30
