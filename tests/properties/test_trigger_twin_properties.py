"""Trigger and twin say the same: what the contract's own integers find in breach is suspect."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from keeper.domain import Account, ArrayView, Assessment, Holding, Leg, OracleView, Phase, Quote
from keeper.protocols.hybrid import marks, portfolio
from keeper.protocols.hybrid.market import HybridMarket
from keeper.state.book import Book
from keeper.trigger import Scores, score, suspects
from keeper.units import WAD, FeedId, Wad
from tests.unit.protocols.hybrid.books import (
    AT,
    COLLATERALS,
    NOW_S,
    OPTIONS,
    OWNER,
    PERPS,
    PRICES,
    SLOPE,
    array,
    deployment,
    oracles,
)
from tests.unit.protocols.hybrid.pages import page_of

EARLY = replace(SLOPE, beta_wad=6 * WAD // 10, beta_flag_wad=3 * WAD // 10)
LISTED = deployment(markets=PERPS | OPTIONS)
MARKET = HybridMarket(replace(LISTED, rules=replace(LISTED.rules, slopes=(SLOPE, EARLY))))

UNITS = st.integers(-(10**4), 10**4).map(lambda hundredths: hundredths * WAD // 100)
ARRAYS = st.builds(
    lambda mark, delta, pnl, ref, age_s: array(mark, *pnl, ref=ref, delta=delta, age_s=age_s),
    st.integers(0, 30 * WAD),
    st.integers(-WAD, WAD),
    st.lists(st.integers(-20 * WAD, 20 * WAD), min_size=16, max_size=16),
    st.sampled_from([196 * WAD, 200 * WAD, 204 * WAD, 205 * WAD]),
    st.sampled_from([0, 60, 600, 601, 4199, 4200]),
)
POSTED = st.dictionaries(st.sampled_from([*OPTIONS]), ARRAYS)
SETTLED = st.dictionaries(st.sampled_from([*OPTIONS]), st.integers(1, 400 * WAD), max_size=1)
ACCOUNTS = st.builds(
    lambda cash, sizes, amounts, slope: Account(
        key=OWNER,
        phase=Phase.HEALTHY,
        cash_wad=cash,
        legs=tuple(Leg(market, size, -size) for market, size in sizes.items() if size),
        holdings=tuple(Holding(number, amount) for number, amount in amounts.items() if amount),
        slope_choice=slope,
    ),
    st.integers(-(10**5) * WAD, 10**5 * WAD),
    st.dictionaries(st.sampled_from([*PERPS, *OPTIONS]), UNITS, max_size=6),
    st.dictionaries(st.sampled_from([*COLLATERALS]), UNITS.map(abs)),
    st.sampled_from([0, 1]),
)
MOVES = st.sampled_from([0, 1, 19, 20, 21, -20, -21]).map(lambda thousandths: thousandths * WAD // 1000)


def scored(account: Account, seen: OracleView, prices: Mapping[FeedId, Wad]) -> Scores:
    book = Book(MARKET.shape)
    book.fold_rows(page_of([account]), AT.block)
    found = MARKET.marks(seen, {feed: Quote(feed, price, NOW_S) for feed, price in prices.items()}, NOW_S)
    frozen = book.freeze()
    return score(
        cash=frozen.cash,
        positions=frozen.positions,
        marks=found,
    )


@given(ACCOUNTS, POSTED, SETTLED, MOVES, st.none() | st.integers(-10, 10))
def test_what_the_contracts_integers_find_in_breach_is_suspect(
    account: Account,
    arrays: dict[int, ArrayView],
    settlements: dict[int, Wad],
    moved: Wad,
    edge_wad: Wad | None,
) -> None:
    prices = {feed: price * (WAD + moved) // WAD for feed, price in PRICES.items()}
    seen = oracles(prices, arrays=arrays, settlements=settlements)
    level_wad = MARKET.flag_levels_wad[account.slope_choice]
    case = MARKET.assess(account, seen, AT)
    assert isinstance(case, Assessment)
    if edge_wad is not None:
        # Within a few wei of the breach, where only the rounding margin keeps it suspect.
        apart = -(-level_wad * case.fast.requirement_wad // WAD) - case.fast.equity_wad
        account = replace(account, cash_wad=account.cash_wad + apart + edge_wad)
        case = MARKET.assess(account, seen, AT)
        assert isinstance(case, Assessment)
    assert case.flag_level_wad == level_wad
    assume(not case.arrays_silent)
    scores = scored(account, seen, prices)
    level = level_wad / WAD
    if case.fast.breaches(level_wad):
        assert suspects(scores, level=level).tolist() == [0]
    exact = (case.fast.equity_wad / WAD, case.fast.requirement_wad / WAD)
    np.testing.assert_allclose(
        (scores.equity[0], scores.requirement[0]), exact, rtol=1e-9, atol=scores.margin[0]
    )


def test_trigger_and_twin_judge_arrays_by_the_same_bounds() -> None:
    ours = (marks.CURRENT_FOR_S, marks.LOST_AFTER_S, marks.NEAR)
    assert ours == (portfolio.CURRENT_FOR_S, portfolio.LOST_AFTER_S, portfolio.NEAR)
