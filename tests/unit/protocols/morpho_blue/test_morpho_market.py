"""Morpho Blue by worked numbers: marks at both clocks, standing, ways and closings of one account."""

from dataclasses import replace

import numpy as np
import pytest

from keeper import trigger
from keeper.domain import ChainTime, Quote, Refuse, Unknown
from keeper.lending.words import By, Close, Sight, Standing
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.protocols.morpho_blue.oracles import Path
from keeper.protocols.morpho_blue.params import World
from keeper.protocols.morpho_blue.rows import Loan
from keeper.state.book import Book
from keeper.units import WAD, FeedId
from tests.unit.protocols.morpho_blue.made import (
    AT,
    EARLY,
    ETH_USD,
    LATE,
    LISTING,
    MORPHO,
    ORACLE,
    OTHER_ORACLE,
    OWNER,
    PRE_ORACLE,
    PRICE,
    SECOND,
    USDC,
    USDC_USD,
    WBTC,
    WETH,
    WORLD,
    loan,
    page_of,
)

MARKET = MorphoMarket(LISTING)
DOLLAR = 10**6
"""Units of USDC."""


def quote(feed: FeedId, dollars: float) -> dict[FeedId, Quote | Unknown]:
    return {feed: Quote(feed, int(dollars * WAD), AT.timestamp_s)}


def stand(each: Loan, world: World = WORLD) -> Standing:
    found = MARKET.stand(each, world)
    assert isinstance(found, Standing)
    return found


# --- standing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dollars", "authorised", "health", "unmet"),
    [
        (1_400, (), 1720 / 1400, "position is healthy"),
        (1_720, (), 1.0, "position is healthy"),
        (1_721, (), 1720 / 1721, None),
        (1_400, (0, 1), 1500 / 1400, "position is healthy"),
        (1_550, (0, 1), 1500 / 1550, None),
        (1_550, (1,), 1600 / 1550, "position is healthy"),
        (1_721, (0,), 1500 / 1721, None),
    ],
)
def test_health_is_by_the_limit_that_is_met_first(
    dollars: int, authorised: tuple[int, ...], health: float, unmet: str | None
) -> None:
    stands = stand(loan(dollars * DOLLAR, authorised=authorised))
    assert stands.health_wad is not None
    assert stands.health_wad / WAD == pytest.approx(health, rel=1e-9)
    assert stands.is_breached == (health < 1)
    assert (stands.unmet.evidence if stands.unmet else None) == unmet
    assert stands.debt_wad == dollars * WAD
    assert stands.collateral_wad == 2_000 * WAD


def test_an_account_that_owes_nothing_has_no_health() -> None:
    assert stand(loan(0)).health_wad is None


def test_between_a_limit_at_its_own_oracle_and_the_markets_nobody_may_close() -> None:
    """Pre-liquidation at a price of its own may be too late before plain liquidation may begin."""
    world = replace(WORLD, prices={**WORLD.prices, PRE_ORACLE: PRICE * 9 // 10})
    stands = stand(loan(1_600 * DOLLAR, authorised=(1,)), world)
    assert stands.is_breached
    assert stands.unmet is not None
    assert (stands.unmet.rule, stands.unmet.evidence) == ("morpho.refuses", "LiquidatablePosition")


@pytest.mark.parametrize("price", [{}, {OTHER_ORACLE: 1}], ids=["none", "of another market"])
def test_without_a_price_nothing_is_known_of_that_market_alone(price: dict[str, int]) -> None:
    world = replace(WORLD, prices=price)
    found = MARKET.stand(loan(1_800 * DOLLAR), world)
    assert isinstance(found, Unknown)
    assert "its oracle has no price" in found.why
    assert MARKET.ways(loan(1_800 * DOLLAR), world) == ()
    way = MARKET.ways(loan(1_800 * DOLLAR), WORLD)[0]
    refused = MARKET.close(loan(1_800 * DOLLAR), way, DOLLAR, world)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "morpho.unknown"
    assert MARKET.most(loan(1_800 * DOLLAR), way, world) == 0
    assert isinstance(MARKET.stand(loan(1, market=SECOND), world), Standing) == bool(price)


def test_a_market_that_is_not_listed_is_unknown_by_name() -> None:
    found = MARKET.stand(Loan(OWNER + bytes(12), 1, 1), WORLD)
    assert isinstance(found, Unknown)
    assert "not listed" in found.why
    assert MARKET.sights(Loan(OWNER + bytes(12), 1, 1), WORLD, {}) == ()


def test_interest_is_carried_to_the_block_that_is_meant() -> None:
    stored = tuple(replace(each, rate_wad=10**10) for each in WORLD.stored)
    later = MARKET.carried(replace(WORLD, stored=stored), ChainTime(200, AT.timestamp_s + 86_400))
    grown = stand(loan(1_000 * DOLLAR), later).debt_wad / WAD
    assert grown == pytest.approx(1_000 * (1 + 10**10 * 86_400 / WAD), rel=1e-5)


# --- both clocks ---------------------------------------------------------------------------------


def test_the_fast_world_has_the_oracles_price_times_what_its_feeds_have_moved() -> None:
    fast = MARKET.fast(WORLD, quote("ETH/USD", 1_800))
    assert fast.prices[ORACLE] == PRICE * 9 // 10
    assert fast.prices[OTHER_ORACLE] == WORLD.prices[OTHER_ORACLE]
    assert MARKET.fast(WORLD, {"ETH/USD": Unknown("ETH/USD", "silent")}).prices == WORLD.prices


@pytest.mark.parametrize(("chain", "fast"), [(1_900, 2_000), (2_000, 1_900), (1_900, 1_800)])
def test_marks_are_those_of_the_worse_clock(chain: int, fast: int) -> None:
    world = replace(WORLD, prices={**WORLD.prices, ORACLE: PRICE * chain // 2_000})
    moved = {"ETH/USD": Quote("ETH/USD", 2_000 * WAD * fast // chain, AT.timestamp_s)}
    marks = MARKET.marks(world, moved, AT.timestamp_s)
    assert marks.value[0, 0] * WAD == pytest.approx(min(chain, fast) * 0.86 * DOLLAR)
    assert marks.value[1, 0] * WAD == pytest.approx(min(chain, fast) * 0.75 * DOLLAR)
    assert marks.gross[0, 1] == pytest.approx(1e-6)


def test_the_trigger_suspects_just_who_is_below_a_limit() -> None:
    rows = [
        loan(1_400 * DOLLAR, authorised=(0,)),
        loan(1_600 * DOLLAR),
        loan(1_600 * DOLLAR, held=WAD + 1, authorised=(1,)),
        replace(loan(1_721 * DOLLAR), key=b"\x01" * 20 + loan(1).key[20:]),
        loan(0, market=SECOND),
        Loan(OWNER + bytes(12), 0, 0),
    ]
    rows = [replace(each, key=bytes([at]) * 20 + each.key[20:]) for at, each in enumerate(rows)]
    book = Book(MARKET.shape)
    book.fold_rows(page_of(rows), 1)
    seen, marks = book.freeze(), MARKET.marks(WORLD, {}, AT.timestamp_s)
    scores = trigger.score(cash=seen.cash, positions=seen.positions, marks=marks, classes=seen.classes)
    level = marks.levels[seen.classes]
    assert sorted(trigger.suspects(scores, level=level).tolist()) == [2, 3]
    blind = MARKET.marks(replace(WORLD, prices={}), {}, AT.timestamp_s)
    scores = trigger.score(cash=seen.cash, positions=seen.positions, marks=blind, classes=seen.classes)
    assert np.flatnonzero(scores.unknown).tolist() == [0, 1, 2, 3, 4]


def test_what_a_feed_says_at_both_clocks_is_told_once() -> None:
    sights = MARKET.sights(loan(1, authorised=(0, 1)), WORLD, quote("ETH/USD", 1_800))
    assert sights == (
        Sight("ETH/USD", 1_800 * WAD, 2_000 * WAD, AT.timestamp_s - 60),
        Sight("USDC/USD", None, WAD, AT.timestamp_s - 600),
    )
    silent = replace(WORLD, heard={})
    assert MARKET.sights(loan(1), silent, {}) == ()
    assert MARKET.feeds == ("ETH/USD", "USDC/USD")


def test_the_oracles_and_feeds_that_nobody_tells_of_are_named() -> None:
    assert MARKET.unseen(loan(1, authorised=(0, 1)), WORLD) == ()
    assert MARKET.unseen(loan(1, market=SECOND), WORLD) == (f"oracle {OTHER_ORACLE}",)
    mute = replace(WORLD, heard={ETH_USD: WORLD.heard[ETH_USD]})
    assert MARKET.unseen(loan(1, authorised=(0, 1)), mute) == (f"feed {USDC_USD}",)
    nameless = MorphoMarket(replace(LISTING, feeds=LISTING.feeds[:1]))
    assert nameless.unseen(loan(1), WORLD) == (f"feed {USDC_USD}",)
    # The price of a pre-liquidation counts where there is one, and its owner agreed to it.
    blind = MorphoMarket(replace(LISTING, paths={**LISTING.paths, PRE_ORACLE: Path()}))
    assert blind.unseen(loan(1), WORLD) == ()
    assert blind.unseen(loan(1, authorised=(0, 1)), WORLD) == (f"oracle {PRE_ORACLE}",)
    unpriced = replace(WORLD, prices={ORACLE: PRICE})
    assert blind.unseen(loan(1, authorised=(0, 1)), unpriced) == ()
    assert MARKET.unseen(Loan(OWNER + bytes(12), 1, 1), WORLD) == ()


# --- closing -------------------------------------------------------------------------------------


def test_the_way_that_takes_least_of_the_owner_comes_first() -> None:
    agreed = MARKET.ways(loan(1_650 * DOLLAR, authorised=(0, 1)), WORLD)
    assert [way.venue for way in agreed] == [LATE, EARLY]
    assert agreed[0].bonus_wad < agreed[1].bonus_wad < 5 * WAD // 100
    [plain] = MARKET.ways(loan(1_750 * DOLLAR, authorised=(0, 1)), WORLD)
    assert (plain.venue, plain.debt, plain.collateral) == (MORPHO, USDC, WETH)
    assert plain.market == LISTING.markets[0].name
    assert MARKET.ways(loan(1_400 * DOLLAR, authorised=(0, 1)), WORLD) == ()


def test_a_close_repays_no_more_than_was_said() -> None:
    each = loan(1_750 * DOLLAR)
    [way] = MARKET.ways(each, WORLD)
    assert MARKET.most(each, way, WORLD) == 1_750 * DOLLAR
    part = MARKET.close(each, way, 500 * DOLLAR + 1, WORLD)
    assert isinstance(part, Close)
    assert (part.by, part.repaid, part.is_whole, part.bad_debt) == (By.SHARES, 500 * DOLLAR + 1, False, 0)
    assert part.health_after_wad is not None
    whole = MARKET.close(each, way, 2_000 * DOLLAR, WORLD)
    assert isinstance(whole, Close)
    assert (whole.repaid, whole.is_whole, whole.health_after_wad) == (1_750 * DOLLAR, True, None)
    assert isinstance(MARKET.close(each, way, 0, WORLD), Refuse)


def test_where_collateral_ends_first_all_of_it_is_asked_for_and_the_rest_is_bad() -> None:
    each = loan(2_500 * DOLLAR)
    [way] = MARKET.ways(each, WORLD)
    most = MARKET.most(each, way, WORLD)
    whole = MARKET.close(each, way, most, WORLD)
    assert isinstance(whole, Close)
    assert (whole.by, whole.asked, whole.seized) == (By.SEIZED, WAD, WAD)
    assert whole.repaid + whole.bad_debt == pytest.approx(2_500 * DOLLAR, abs=2)
    less = MARKET.close(each, way, most - DOLLAR, WORLD)
    assert isinstance(less, Close)
    assert (less.by, less.bad_debt) == (By.SHARES, 0)
    assert less.repaid <= most - DOLLAR


def test_no_account_is_swept() -> None:
    assert MARKET.sweep(loan(1), WORLD) is None


# --- worth ---------------------------------------------------------------------------------------


def test_collateral_is_worth_what_its_oracle_says_in_the_loans_token() -> None:
    assert MARKET.worth_wad(USDC, 5 * DOLLAR, WORLD) == 5 * WAD
    assert MARKET.worth_wad(WETH, WAD // 2, WORLD) == 1_000 * WAD
    assert MARKET.worth_wad(WBTC, 10**8, WORLD) == 40_000 * WAD
    assert isinstance(MARKET.worth_wad(ETH_USD, 1, WORLD), Unknown)


def test_a_loan_token_is_worth_its_feeds_fast_price_or_else_its_answer() -> None:
    chosen = replace(LISTING.chosen, tokens={USDC: "USDC/USD"})
    market = MorphoMarket(replace(LISTING, chosen=chosen))
    assert market.worth_wad(USDC, DOLLAR, WORLD) == WAD
    fast = market.fast(WORLD, quote("USDC/USD", 0.9))
    assert market.worth_wad(USDC, DOLLAR, fast) == 9 * WAD // 10
    assert isinstance(market.worth_wad(USDC, DOLLAR, replace(WORLD, heard={})), Unknown)
    bare = MorphoMarket(replace(LISTING, chosen=chosen, decimals={}))
    assert isinstance(bare.worth_wad(USDC, DOLLAR, WORLD), Unknown)
    unmapped = MorphoMarket(replace(LISTING, chosen=replace(chosen, tokens={})))
    assert isinstance(unmapped.stand(loan(1), WORLD), Unknown)
