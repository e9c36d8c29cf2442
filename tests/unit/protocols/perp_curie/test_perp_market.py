"""One deployment at both clocks: marks that miss no breach, and what its desk asks."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper import trigger
from keeper.domain import Quote, Refuse, Unknown
from keeper.lending.words import Sight
from keeper.ports import Margin, Offer, Takeover
from keeper.protocols.perp_curie.codec import PerpWorld
from keeper.protocols.perp_curie.market import PerpCurieMarket
from keeper.protocols.perp_curie.rows import Account
from keeper.units import WAD, FeedId
from tests.unit.protocols.perp_curie.perps import (
    BTC,
    DEPLOYMENT,
    ETH,
    MARKET,
    NOW_S,
    account,
    book_of,
    view,
    world,
)


def quotes(eth: int | None = None, btc: int | None = None) -> dict[FeedId, Quote | Unknown]:
    said = {"ETH/USD": eth, "BTC/USD": btc}
    return {
        feed: Quote(feed, price * WAD, NOW_S) if price else Unknown(feed, "silent")
        for feed, price in said.items()
    }


def suspects(seen: PerpWorld, said: dict[FeedId, Quote | Unknown], *accounts: Account) -> set[bytes]:
    book = book_of(*accounts).freeze()
    marks = MARKET.marks(seen, said, NOW_S)
    scores = trigger.score(cash=book.cash, positions=book.positions, marks=marks, classes=book.classes)
    return {book.key(int(row)) for row in trigger.suspects(scores, level=marks.levels[book.classes])}


LAGGING = replace(view(2_000), spot_wad=1_800 * WAD)
"""The pool has fallen to 1,800; its mean and the index have not."""
LONG = account(1, 1_000, {0: (10, -20_000)})
SHORT = account(2, 1_000, {0: (-10, 20_000)})


def test_the_fast_mark_is_the_contracts_formula_with_the_fast_index() -> None:
    for fast, mark in ((1_700, 1_800), (1_900, 1_900), (2_100, 2_000)):
        moved = MARKET.fast(world(LAGGING), quotes(eth=fast))
        assert [each.mark_wad for each in moved.markets] == [mark * WAD, 40_000 * WAD]


def test_without_a_fast_price_a_feed_or_an_open_market_the_mark_stays() -> None:
    assert MARKET.fast(world(LAGGING), quotes()) == world(LAGGING)
    closed = world(view(2_000, is_open=False))
    assert MARKET.fast(closed, quotes(eth=1_000)) == closed
    unnamed = PerpCurieMarket(replace(DEPLOYMENT, feeds=(None, "BTC/USD")))
    assert unnamed.fast(world(LAGGING), quotes(eth=1_700)) == world(LAGGING)
    assert (unnamed.feeds, MARKET.untraced) == (("BTC/USD",), ())
    assert unnamed.untraced == (f"market {ETH}: its index names no pair",)


def test_a_breach_at_either_clock_is_a_suspicion() -> None:
    assert suspects(world(2_050), quotes(), LONG, SHORT) == {SHORT.key}
    rich = account(3, 9_000, {0: (10, -20_000)})
    assert suspects(world(LAGGING), quotes(eth=1_700), LONG, rich) == {LONG.key}
    rising = replace(view(1_900), spot_wad=2_100 * WAD)
    assert suspects(world(rising), quotes(eth=2_100), SHORT) == {SHORT.key}


def test_an_account_in_a_market_without_a_mark_is_unknown_and_nobody_else() -> None:
    marks = MARKET.marks(world(replace(view(2_000), mark_wad=0)), quotes(eth=1_700), NOW_S)
    assert np.isnan(marks.value[0])
    assert np.isfinite(marks.value[1])
    found = MARKET.stand(LONG, world(replace(view(2_000), mark_wad=0)))
    assert found == Unknown(f"market {ETH}", "it has no mark")


def test_an_account_in_a_market_whose_index_is_zero_is_not_judged() -> None:
    found = MARKET.stand(LONG, world(replace(view(2_000), index_wad=0)))
    assert found == Unknown(f"market {ETH}", "its index is zero")


prices = st.integers(500, 4_000)
sizes = st.floats(-20, 20).map(lambda size: round(size, 6))


@settings(max_examples=200, deadline=None)
@given(
    spot=prices,
    twap=prices,
    index=prices,
    fast=prices,
    eth=sizes,
    btc=sizes,
    paid=st.floats(-50_000, 50_000),
    cash=st.floats(-5_000, 20_000),
)
def test_no_breach_at_either_clock_is_missed(
    spot: int, twap: int, index: int, fast: int, eth: float, btc: float, paid: float, cash: float
) -> None:
    mark = sorted((spot, twap, index))[1]
    seen = world(replace(view(mark, index=index), spot_wad=spot * WAD, twap_wad=twap * WAD), 1_000)
    one = account(1, cash, {0: (eth, paid), 1: (btc, -paid / 2)})
    said = quotes(eth=fast, btc=900)
    found = [MARKET.stand(one, each) for each in (seen, MARKET.fast(seen, said))]
    breached = [margin for margin in found if isinstance(margin, Margin) and not margin.covers()]
    assert len(found) == 2
    assert not breached or suspects(seen, said, one) == {one.key}


def test_makers_and_other_collateral_are_unknown_by_name() -> None:
    maker = account(4, 10, {0: (1, -2_000)}, barred=1)
    owner = "0x" + "00" * 19 + "04"
    assert MARKET.stand(maker, world(2_000)) == Unknown(
        f"trader {owner}", "has orders, and makers are not judged"
    )
    assert isinstance(MARKET.free_wad(replace(maker, barred=2), world(2_000)), Unknown)
    assert suspects(world(1_000), quotes(), maker) == set()


def test_both_prices_of_every_feed_that_an_account_hangs_on_are_told() -> None:
    both = account(1, 0, {0: (1, -2_000), 1: (1, -40_000)})
    assert MARKET.sights(both, world(2_000), quotes(eth=1_990)) == (
        Sight("ETH/USD", 1_990 * WAD, 2_000 * WAD, NOW_S),
        Sight("BTC/USD", None, 40_000 * WAD, NOW_S),
    )
    assert MARKET.sights(both, world(view(2_000, is_open=False), view(1, is_open=False)), quotes()) == ()
    assert MARKET.index_wad("BTC/USD", world(2_000)) == 40_000 * WAD
    assert MARKET.index_wad("DOGE/USD", world(2_000)) is None


def test_a_market_that_no_feed_moves_is_named_while_it_is_open() -> None:
    both = account(1, 0, {0: (1, -2_000), 1: (1, -40_000)})
    blind = PerpCurieMarket(replace(MARKET.deployment, feeds=("ETH/USD", None)))
    assert MARKET.unseen(both, world(2_000)) == ()
    assert blind.unseen(both, world(2_000)) == (f"market {BTC}",)
    assert blind.unseen(account(1, 0, {0: (1, -2_000)}), world(2_000)) == ()
    assert blind.unseen(both, world(2_000, view(1, is_open=False))) == ()


def test_positions_are_offered_most_worth_first_and_none_of_a_market_that_is_not_open() -> None:
    low = account(1, 0, {0: (1, -2_000), 1: (1, -40_000)})
    assert MARKET.offers(low, world(2_000)) == (Offer(BTC, WAD), Offer(ETH, WAD))
    assert MARKET.offers(low, world(view(2_000, is_open=False))) == (Offer(BTC, WAD),)
    assert MARKET.offers(account(1, 9_000, {0: (1, -2_000)}), world(2_000)) == ()


def test_a_takeover_is_told_with_what_it_leaves_or_refused_in_the_contracts_words() -> None:
    found = MARKET.take_over(LONG, Offer(ETH, 5 * WAD), 5 * WAD, world(1_980))
    assert found == Takeover(
        market=ETH,
        size_wad=5 * WAD,
        notional_wad=9_900 * WAD,
        reward_wad=123 * WAD + 3 * WAD // 4,
        margin=Margin(552 * WAD + WAD // 2, 618 * WAD + 3 * WAD // 4),
    )
    assert isinstance(found, Takeover)
    taker = MARKET.taken(account(9, 1_000, {}), found)
    assert taker == account(9, 1_000, {0: (5, -9_776.25)})
    assert MARKET.free_wad(taker, world(1_980)) == 22 * WAD + 375 * WAD // 1_000
    healthy = MARKET.take_over(LONG, Offer(ETH, WAD), WAD, world(2_100))
    assert isinstance(healthy, Refuse)
    assert healthy.reason.evidence == "CH_EAV: the account has enough value"


def test_nothing_is_taken_over_while_the_protocol_is_paused() -> None:
    found = MARKET.take_over(LONG, Offer(ETH, WAD), WAD, replace(world(1_980), paused=True))
    assert isinstance(found, Refuse)
    assert found.reason.evidence == "the protocol is paused"


def test_an_empty_account_that_deposits_the_margin_bears_a_takeover_and_with_a_unit_less_it_does_not() -> (
    None
):
    at = world(1_980)
    for size in (5 * WAD, -5 * WAD):
        held = {0: (10, -20_000)} if size > 0 else {0: (-10, 19_000)}
        found = MARKET.take_over(account(1, 1_000, held), Offer(ETH, size), size, at)
        assert isinstance(found, Takeover)
        margin_wad = MARKET.margin_wad(found, at)
        # A tenth of what is borrowed: for a long less its reward.
        assert 900 * WAD < margin_wad < 1_000 * WAD
        for spare_wad in (0, -1):
            taker = account(9, 0, {})
            taker = replace(taker, trader=replace(taker.trader, cash_wad=margin_wad + spare_wad))
            assert MARKET.free_wad(MARKET.taken(taker, found), at) == spare_wad
    assert MARKET.unit_wad(at) == 10**12
