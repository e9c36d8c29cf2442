"""From an oracle to the feeds that it reads, and its price at fast quotes."""

from keeper.lending.feeds import Answer, Feed
from keeper.protocols.morpho_blue.oracles import Path, fast_price, path_of
from keeper.units import WAD

NOBODY = "0x" + "00" * 20
ORACLE, BASE, OTHER, QUOTE = ("0x" + digit * 40 for digit in "abcd")


def test_an_oracle_names_the_feeds_that_it_multiplies_and_divides_by() -> None:
    told = [(BASE.upper().replace("X", "x"),), (NOBODY,), (QUOTE,), (OTHER,)]
    assert path_of(ORACLE, told, {}) == Path((BASE,), (QUOTE, OTHER))
    assert path_of(ORACLE, [*told[:3], ()], {}) == Path()
    assert path_of(ORACLE, [()] * 4, {ORACLE: "ETH/USD"}) == Path((ORACLE,))
    assert path_of(ORACLE, told, {ORACLE: ""}) == Path()


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
