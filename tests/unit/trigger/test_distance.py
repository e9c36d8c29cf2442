"""How far accounts are from breach."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from keeper.domain import Account, Holding, Leg, Quote, Unknown
from keeper.protocols.hybrid.market import HybridMarket
from keeper.risk.options import YEAR_S
from keeper.state.book import Book
from keeper.trigger.distance import DAY_S, Distances, Sample, distances
from keeper.units import WAD, FeedId
from tests.unit.pipeline.desk import BREACHED, EMPTY, MARKET, cured
from tests.unit.protocols.hybrid.books import NOW_S, OPTIONS, PERPS, PRICES, array, deployment, oracles
from tests.unit.protocols.hybrid.pages import page_of

QUOTES: dict[FeedId, Quote | Unknown] = {feed: Quote(feed, price, NOW_S) for feed, price in PRICES.items()}
LONG = replace(BREACHED, cash_wad=3_900 * WAD)
"""100 at 210: in breach where 3,900 + 100 P - 21,000 = 5 P, at 180."""
SHORT = replace(EMPTY, key=b"\x01" * 32, cash_wad=23_100 * WAD, legs=(Leg(1, -100 * WAD, 0),))
"""In breach where 23,100 - 100 P = 5 P, at 220."""


def sample(book: Book[Any]) -> Sample:
    """Take all of a book."""
    seen = book.freeze()
    return Sample(seen.cash, seen.positions, seen.classes)


def far(*accounts: Account, asked: dict[FeedId, Quote | Unknown] = QUOTES) -> Distances:
    book = Book(MARKET.shape)
    book.fold_rows(page_of(accounts), 1)
    return distances(sample(book), asked, lambda moved: MARKET.marks(oracles(), moved, NOW_S))


def test_a_long_is_breached_by_a_fall_and_a_short_by_a_rise() -> None:
    found = far(LONG, SHORT)
    assert found.feeds == ("BTC/USD", "ETH/USD", "SYN/USD")
    assert found.factors[:, 0] == pytest.approx([180 / 200, 220 / 200], rel=1e-4)
    assert np.isnan(found.factors[:, 1:]).all()


def test_collateral_and_a_short_of_one_feed_are_taken_together() -> None:
    either = replace(
        EMPTY, cash_wad=-20_000 * WAD, holdings=(Holding(1, 500 * WAD),), legs=(Leg(1, -WAD, 0),)
    )
    [[btc, *_]] = far(either).factors
    # -20,000 + (0.8 x 500 - 1 - 0.05) P = 0
    assert btc * 200 == pytest.approx(20_000 / 398.95, rel=1e-4)


@pytest.mark.parametrize("account", [EMPTY, cured(cured(LONG)), replace(EMPTY, cash_wad=WAD)])
def test_who_no_move_can_breach_is_at_no_distance_that_is_a_number(account: Account) -> None:
    rich = replace(account, cash_wad=account.cash_wad + 10**6 * WAD) if account.legs else account
    assert np.isnan(far(rich).factors).all()


def test_who_is_in_breach_is_at_a_factor_of_one() -> None:
    assert far(BREACHED).factors.tolist() == [[1.0, 1.0, 1.0]]


def test_what_has_no_price_is_at_no_known_distance() -> None:
    found = far(LONG, asked={**QUOTES, "BTC/USD": Unknown("BTC/USD", "too old")})
    assert found.feeds == ("ETH/USD", "SYN/USD")
    assert np.isnan(found.factors).all()


def test_of_nobody_and_without_prices_there_is_nothing_to_measure() -> None:
    assert far().factors.shape == (0, 3)
    assert far(LONG, asked={}).factors.shape == (1, 0)


def test_distance_is_told_in_days_standard_deviations() -> None:
    found = far(LONG)
    vol = 0.8
    daily = vol * np.sqrt(DAY_S / YEAR_S)
    sigmas = found.sigmas({"BTC/USD": vol})
    assert sigmas[0, 0] == pytest.approx(-np.log(0.9) / daily, rel=1e-3)
    assert np.isnan(sigmas[0, 1:]).all()
    assert far(BREACHED).sigmas({"BTC/USD": vol})[0, 0] == 0


def test_options_are_far_too() -> None:
    market = HybridMarket(deployment(markets=PERPS | OPTIONS))
    posted = {number: array(5 * WAD, *[10 * WAD] * 8, *[-10 * WAD] * 8) for number in OPTIONS}
    view = oracles(arrays=posted)
    seller = replace(EMPTY, cash_wad=4_000 * WAD, legs=(Leg(4, -100 * WAD, 500 * WAD),))
    book = Book(market.shape)
    book.fold_rows(page_of([seller]), 1)
    found = distances(sample(book), QUOTES, lambda moved: market.marks(view, moved, NOW_S))
    # Two percent away from its array's price the call counts by the most that it can lose, either way.
    assert abs(found.factors[0, 0] - 1) == pytest.approx(0.02, rel=1e-2)


def test_sixty_four_accounts_take_less_than_a_tenth_of_a_second() -> None:
    rng = np.random.default_rng(7)
    accounts = [
        replace(
            EMPTY,
            key=int(number).to_bytes(32),
            cash_wad=int(rng.uniform(2_500, 6_000) * WAD),
            legs=(Leg(1, 100 * WAD, -21_000 * WAD), Leg(2, -2 * WAD, 3_000 * WAD)),
        )
        for number in range(64)
    ]
    began_s = time.perf_counter()
    found = far(*accounts)
    took_s = time.perf_counter() - began_s
    assert np.isfinite(found.factors[:, 0]).all()
    # Some 45 ms where nothing else runs.
    assert took_s < 0.5
