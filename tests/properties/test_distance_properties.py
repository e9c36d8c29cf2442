"""Where an account is said to be breached it is, by the contract's own integers, and not before."""

from dataclasses import replace

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from keeper.domain import Account, ArrayView, Assessment, Quote, Unknown
from keeper.protocols.aave_v3.rows import AaveRow
from keeper.state.book import Book
from keeper.trigger.distance import FALLS, RISES, Distances, distances
from keeper.units import WAD, FeedId
from tests.properties.test_trigger_twin_properties import ACCOUNTS, MARKET, POSTED
from tests.unit.protocols.aave_v3 import pools
from tests.unit.protocols.aave_v3.test_aave_v3_stands import market, world
from tests.unit.protocols.hybrid.books import AT, NOW_S, PRICES, oracles
from tests.unit.protocols.hybrid.pages import page_of
from tests.unit.trigger.test_distance import sample

SOME = (*FALLS[::6], FALLS[-1], RISES[2], RISES[-1])
"""Places at which the exact answer is looked at where there is to be no breach."""
Arrays = dict[int, ArrayView]
NEAR = 1e-3
"""How far from the exact place a breach may be said to be."""


def quotes(of: dict[FeedId, int]) -> dict[FeedId, Quote | Unknown]:
    return {feed: Quote(feed, price, NOW_S) for feed, price in of.items()}


def of_hybrid(account: Account, arrays: Arrays) -> Distances:
    book = Book(MARKET.shape)
    book.fold_rows(page_of([account]), AT.block)
    view = oracles(arrays=arrays)
    return distances(sample(book), quotes(PRICES), lambda moved: MARKET.marks(view, moved, NOW_S))


def is_breached(account: Account, arrays: Arrays, feed: FeedId, factor: float) -> bool:
    moved = PRICES | {feed: round(PRICES[feed] * factor)}
    case = MARKET.assess(account, oracles(moved, arrays=arrays), AT)
    assert isinstance(case, Assessment)
    assume(not case.arrays_silent)
    return case.fast.breaches(case.flag_level_wad)


def towards_one(factor: float, by: float) -> float:
    return factor * (1 + by) if factor < 1 else factor * (1 - by)


@given(ACCOUNTS, POSTED)
def test_a_margin_account_is_breached_where_it_is_said_to_be(account: Account, arrays: Arrays) -> None:
    is_breached_now = is_breached(account, arrays, "BTC/USD", 1.0)
    found = of_hybrid(account, arrays)
    for feed, factor in zip(found.feeds, found.factors[0], strict=True):
        if is_breached_now:
            assert factor == 1
        elif np.isnan(factor):
            assert not any(is_breached(account, arrays, feed, each) for each in SOME)
        else:
            assert is_breached(account, arrays, feed, towards_one(factor, -1e-6))
            assert not is_breached(account, arrays, feed, towards_one(factor, NEAR))


UNITS = st.integers(1, 10**6)


@given(
    st.dictionaries(st.sampled_from(pools.NUMBERS), UNITS, min_size=1), UNITS, st.sampled_from(pools.NUMBERS)
)
def test_a_loan_is_breached_where_it_is_said_to_be(held: dict[int, int], owed: int, what: int) -> None:
    decimals = {number: terms.decimals for number, terms in pools.POOLED.items()}
    loan = pools.row(
        1,
        {number: amount * 10 ** decimals[number] for number, amount in held.items()},
        {what: owed * 10 ** decimals[what]},
    )
    here, of = world(), market()
    asked = quotes({"ETH/USD": 2_000 * WAD, "LINK/USD": 10 * WAD})
    book: Book[AaveRow] = Book(of.shape)
    book.fold_rows(pools.page_of([loan]), 1)
    now_s = pools.NOW_S

    def breached(feed: FeedId, factor: float) -> bool:
        quote = asked[feed]
        assert isinstance(quote, Quote)
        moved = {**asked, feed: replace(quote, price_wad=round(quote.price_wad * factor))}
        standing = of.stand(loan, of.fast(here, moved))
        assert not isinstance(standing, Unknown)
        return standing.is_breached

    found = distances(sample(book), asked, lambda moved: of.marks(of.fast(here, moved), {}, now_s))
    for feed, factor in zip(found.feeds, found.factors[0], strict=True):
        if np.isnan(factor):
            assert not any(breached(feed, each) for each in SOME)
        elif factor == 1:
            assert breached(feed, 1.0)
        else:
            assert breached(feed, towards_one(factor, -1e-6))
            assert not breached(feed, towards_one(factor, NEAR))
