"""A pool of Venus by worked numbers: marks at both clocks, standing, ways and closings of one account."""

from dataclasses import replace

import numpy as np
import pytest

from keeper import trigger
from keeper.domain import ChainTime, Quote, Refuse, Unknown
from keeper.lending.feeds import QUOTE
from keeper.lending.words import By, Close, Due, Heal, Order, RepayAll, Sight, Standing
from keeper.protocols.compound_v2 import math
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.compound_v2.math import Action
from keeper.protocols.compound_v2.params import World
from keeper.protocols.compound_v2.rows import Loan
from keeper.state.book import Book
from keeper.units import WAD, FeedId
from tests.unit.protocols.compound_v2.made import (
    AT,
    COMPTROLLER,
    DOLLAR,
    ETH,
    KEY,
    LISTING,
    POOL,
    USDC,
    USDC_USD,
    V_USDC,
    V_WETH,
    WETH,
    WORLD,
    loan,
    page_of,
)

MARKET = VenusMarket(LISTING)
UNIT = 10**6
"""A dollar in USDC."""


def quote(feed: FeedId, dollars: float) -> dict[FeedId, Quote | Unknown]:
    return {feed: Quote(feed, int(dollars * WAD), AT.timestamp_s)}


def stand(each: Loan, world: World = WORLD) -> Standing:
    found = MARKET.stand(each, world)
    assert isinstance(found, Standing)
    return found


def halted(*actions: Action) -> World:
    markets = tuple(replace(each, paused=frozenset(actions)) for each in POOL.markets)
    return replace(WORLD, pool=replace(POOL, markets=markets))


# --- standing ------------------------------------------------------------------------------------


def test_an_account_stands_by_its_thresholds() -> None:
    assert stand(loan(1_250)) == Standing(
        128 * WAD // 100, 1_250 * WAD, 2_000 * WAD, stand(loan(1_500)).unmet
    )
    assert stand(loan(1_600)).is_breached is False
    short = stand(loan(1_700))
    assert (short.is_breached, short.unmet) == (True, None)
    assert stand(loan(0)).health_wad is None


@pytest.mark.parametrize(
    ("each", "world", "words"),
    [
        (loan(1_500), WORLD, "InsufficientShortfall()"),
        (loan(1_700), halted(Action.LIQUIDATE), "ActionPaused(address,uint8)"),
        (loan(45, 0.025), halted(Action.LIQUIDATE), "ActionPaused(address,uint8)"),
        (loan(45, 0.025), halted(Action.SEIZE), "Nonzero borrow balance after liquidation"),
        (loan(60, 0.025), halted(Action.REPAY), "ActionPaused(address,uint8)"),
        (loan(30, 0.025), WORLD, "InsufficientShortfall()"),
        (loan(0), WORLD, "InsufficientShortfall()"),
    ],
    ids=[
        "healthy",
        "paused",
        "small and paused",
        "nothing to be seized",
        "to be healed and paused",
        "small and healthy",
        "no debt",
    ],
)
def test_what_stands_against_closing_is_told_in_the_contracts_words(
    each: Loan, world: World, words: str
) -> None:
    unmet = stand(each, world).unmet
    assert unmet is not None
    assert (unmet.rule, unmet.evidence) == ("venus.refuses", words)


def test_interest_that_a_close_would_bring_up_counts_where_it_opens_one() -> None:
    each = loan(1_600)
    assert stand(each).unmet is not None
    later = MARKET.carried(WORLD, ChainTime(AT.block + 100_000, AT.timestamp_s))
    assert stand(each, later).is_breached
    assert stand(each, later).unmet is None


def test_without_a_price_nothing_is_known_of_who_is_in_that_market() -> None:
    blind = replace(WORLD, unpriced=frozenset({ETH}))
    found = MARKET.stand(loan(1_700), blind)
    assert isinstance(found, Unknown)
    assert V_WETH in found.what
    way = MARKET.ways(loan(1_700), WORLD)[0]
    assert MARKET.ways(loan(1_700), blind) == ()
    assert MARKET.most(loan(1_700), way, blind) == 0
    refused = MARKET.close(loan(1_700), way, UNIT, blind)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "venus.unknown"
    assert MARKET.sweep(loan(45, 0.025), blind) is None
    assert isinstance(MARKET.worth_wad(WETH, 1, blind), Unknown)
    elsewhere = Loan(KEY, math.Loan((DOLLAR,), {DOLLAR: 1}, {}))
    assert isinstance(MARKET.stand(elsewhere, blind), Standing)


# --- both clocks ---------------------------------------------------------------------------------


def test_the_fast_world_has_the_oracles_price_times_what_its_feed_has_moved() -> None:
    fast = MARKET.fast(WORLD, quote("ETH/USD", 1_800))
    assert [each.price for each in fast.pool.markets] == [1_800 * WAD, 10**30]
    assert MARKET.fast(WORLD, {"ETH/USD": Unknown("ETH/USD", "silent")}) == WORLD


def test_marks_take_collateral_at_the_lower_clock_and_debt_at_the_higher() -> None:
    quotes = {**quote("ETH/USD", 1_800), **quote("USDC/USD", 1.1)}
    marks = MARKET.marks(WORLD, quotes, AT.timestamp_s)
    assert marks.value[ETH] * 10**8 == pytest.approx(1_800 * 0.8)
    assert marks.value[DOLLAR] * 10**8 == pytest.approx(0.85)
    assert marks.gross[2 + ETH] * WAD == pytest.approx(2_000 * 2, rel=1e-7)
    assert marks.gross[2 + DOLLAR] * UNIT == pytest.approx(1.1 * 2, rel=1e-7)
    assert marks.gross[2 + DOLLAR] * UNIT > 1.1 * 2
    assert not marks.value[2:].any()
    assert not marks.gross[:2].any()


def test_the_trigger_suspects_who_is_below_its_threshold() -> None:
    rows = [loan(1_500), loan(1_601), loan(0), loan(45, 0.025)]
    rows = [replace(each, key=bytes([at]) * 20 + bytes(12)) for at, each in enumerate(rows)]
    book = Book(MARKET.shape)
    book.fold_rows(page_of(rows), 1)
    seen, marks = book.freeze(), MARKET.marks(WORLD, {}, AT.timestamp_s)
    scores = trigger.score(cash=seen.cash, positions=seen.positions, marks=marks, classes=seen.classes)
    level = marks.levels[seen.classes]
    assert sorted(trigger.suspects(scores, level=level).tolist()) == [1, 3]
    blind = MARKET.marks(replace(WORLD, unpriced=frozenset({DOLLAR})), {}, AT.timestamp_s)
    scores = trigger.score(cash=seen.cash, positions=seen.positions, marks=blind, classes=seen.classes)
    assert np.flatnonzero(scores.unknown).tolist() == [0, 1, 3]


def test_what_a_feed_says_at_both_clocks_is_told_for_what_is_held_and_owed() -> None:
    eth = Sight("ETH/USD", 1_800 * WAD, 2_000 * WAD, AT.timestamp_s - 60)
    assert MARKET.sights(loan(0), WORLD, quote("ETH/USD", 1_800)) == (eth,)
    both = MARKET.sights(loan(1), WORLD, {})
    assert [(each.feed, each.fast_wad) for each in both] == [("ETH/USD", None), ("USDC/USD", None)]
    assert MARKET.sights(loan(1), replace(WORLD, heard={}), {}) == ()
    assert MARKET.unseen(loan(1), WORLD) == ()
    mute = replace(WORLD, heard={feed: each for feed, each in WORLD.heard.items() if feed != USDC_USD})
    assert MARKET.unseen(loan(1), mute) == (f"token {USDC}",)
    assert MARKET.unseen(loan(0), mute) == ()
    assert MARKET.feeds == ("ETH/USD", "USDC/USD")
    fixed = replace(LISTING, feeds=(LISTING.feeds[0], replace(LISTING.feeds[1], feed=QUOTE)))
    assert VenusMarket(fixed).feeds == ("ETH/USD",)
    assert (MARKET.version, MARKET.addresses) == (77, (COMPTROLLER, V_WETH, V_USDC))


# --- closing -------------------------------------------------------------------------------------


def test_a_close_repays_up_to_the_close_factor_and_gives_what_its_vtokens_redeem_for() -> None:
    each = loan(1_700)
    [way] = MARKET.ways(each, WORLD)
    assert (way.venue, way.debt, way.collateral, way.market) == (V_USDC, USDC, WETH, V_WETH)
    assert way.bonus_wad == 10 * WAD // 100
    assert MARKET.most(each, way, WORLD) == 850 * UNIT
    found = MARKET.close(each, way, 500 * UNIT, WORLD)
    assert isinstance(found, Close)
    assert (found.by, found.asked, found.repaid) == (By.REPAID, 500 * UNIT, 500 * UNIT)
    assert found.seized / WAD == pytest.approx(0.2625)
    assert (found.is_whole, found.bad_debt) == (False, 0)
    assert found.health_after_wad is not None
    assert found.health_after_wad / WAD == pytest.approx((2_000 - 550) * 0.8 / 1_200)
    refused = MARKET.close(each, way, 851 * UNIT, WORLD)
    assert isinstance(refused, Refuse)
    assert refused.reason.evidence == "TooMuchRepay()"


def test_the_largest_close_comes_first_and_one_that_takes_all_is_whole() -> None:
    state = math.Loan((ETH, DOLLAR), {ETH: 10**8, DOLLAR: 55 * 10**8}, {DOLLAR: math.Debt(1_000 * UNIT, WAD)})
    each = Loan(KEY, state)
    ways = MARKET.ways(each, WORLD)
    assert [way.market for way in ways] == [V_WETH, V_USDC]
    small = MARKET.most(each, ways[1], WORLD)
    whole = MARKET.close(each, ways[1], small, WORLD)
    assert isinstance(whole, Close)
    assert small == 50 * UNIT
    assert whole.is_whole


def test_a_small_account_is_repaid_whole_or_healed() -> None:
    paid = MARKET.sweep(loan(42, 0.025), WORLD)
    assert paid is not None
    assert paid.act == RepayAll(KEY, (Order(V_WETH, V_USDC, 42 * UNIT),))
    assert paid.pays == (Due(USDC, V_USDC, 42 * UNIT),)
    [(token, units)] = paid.gets
    assert token == WETH
    assert units / WAD == pytest.approx(42 * 1.05 / 2_000)
    healed = MARKET.sweep(loan(60, 0.025), WORLD)
    assert healed is not None
    assert healed.act == Heal(KEY)
    assert healed.pays[0].amount == pytest.approx(50 * UNIT / 1.1, abs=1)
    assert stand(loan(60, 0.025)).unmet is None
    assert MARKET.sweep(loan(1_700), WORLD) is None
    assert MARKET.sweep(loan(30, 0.025), WORLD) is None


def test_a_token_is_worth_the_pools_own_price() -> None:
    assert MARKET.worth_wad(WETH, WAD // 2, WORLD) == 1_000 * WAD
    assert MARKET.worth_wad(USDC, 3 * UNIT, WORLD) == 3 * WAD
    rate_wad = WORLD.pool.markets[0].exchange_rate_wad
    assert MARKET.worth_wad(V_WETH, 10**8, WORLD) == 10**8 * rate_wad // WAD * 2_000
    assert isinstance(MARKET.worth_wad("0x" + "99" * 20, 1, WORLD), Unknown)
