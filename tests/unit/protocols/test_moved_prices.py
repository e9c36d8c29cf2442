"""The mirrored book of every protocol at prices that moved: held against the contract's integers there."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from keeper.desk.hybrid import HybridDesk
from keeper.desk.lending import LendingDesk
from keeper.desk.perp import PerpDesk
from keeper.domain import Quote
from keeper.lending.words import Standing
from keeper.ports import LendingMarket, Margin, Market
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.state.book import Book
from keeper.trigger.distance import Quotes
from keeper.trigger.mirrored import Mirrored
from keeper.units import WAD
from tests.unit.protocols.aave_v3 import pools as aave
from tests.unit.protocols.compound_v2 import made as venus
from tests.unit.protocols.hybrid import books as hybrid
from tests.unit.protocols.hybrid import pages as hybrid_pages
from tests.unit.protocols.morpho_blue import made as morpho
from tests.unit.protocols.perp_curie import perps as perp

MOVES: tuple[Mapping[str, float], ...] = (
    {},
    {"ETH/USD": 0.1},
    {"ETH/USD": 0.3, "USDC/USD": 0.05},
    {"ETH/USD": -0.2},
)


def mirrored(
    market: Market[Any, Any], page: bytes, world: Any, at_s: int, marks: Callable[..., Any]
) -> Mirrored:
    book = Book(market.shape)
    book.fold_rows(page, 1)
    return Mirrored(
        book.freeze(),
        {feed: Quote(feed, price_wad, at_s) for feed, price_wad in market.spots(world).items()},
        lambda quotes: marks(market, world, quotes, at_s),
        partial(market.worths, world, at_s=at_s),
    )


def falls_of(held: Mirrored, move: Mapping[str, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([move.get(feed, 0.0) for feed in held.assets])


def quotes_of(held: Mirrored, move: Mapping[str, float]) -> Quotes:
    spots = dict(zip(held.assets, held.spots.tolist(), strict=True))
    return {feed: Quote(feed, round(spots[feed] * (1 - fall) * WAD), 0) for feed, fall in move.items()}


Case = tuple[LendingMarket[Any, Any], bytes, Any, Any, int]


def aave_case() -> Case:
    market = AaveMarket(aave.deployment(traced=(aave.WETH, aave.USDC)))
    account = aave.row(1, {aave.WETH: 10**19}, {aave.USDC: 15_000 * 10**6})
    answers = ((2_000 * 10**8, aave.NOW_S - 60), (10**8, aave.NOW_S - 90))
    world = market.decode_prices(aave.world_answer(answers=answers))
    return market, aave.page_of([account]), world, account, aave.NOW_S


def venus_case() -> Case:
    account = venus.loan(1_500)
    return VenusMarket(venus.LISTING), venus.page_of([account]), venus.WORLD, account, venus.AT.timestamp_s


def morpho_case(authorised: tuple[int, ...] = ()) -> Case:
    account = morpho.loan(1_400 * 10**6, authorised=authorised)
    return (
        MorphoMarket(morpho.LISTING),
        morpho.page_of([account]),
        morpho.WORLD,
        account,
        morpho.AT.timestamp_s,
    )


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize(
    "case",
    [aave_case, venus_case, morpho_case, partial(morpho_case, (0, 1))],
    ids=["aave", "venus", "morpho", "pre"],
)
def test_a_loan_stands_as_its_protocol_says(case: Callable[[], Case], move: Mapping[str, float]) -> None:
    market, page, world, account, at_s = case()
    held = mirrored(market, page, world, at_s, LendingDesk.marks)
    there = held.standing(falls_of(held, move))
    stands = market.stand(account, market.fast(world, quotes_of(held, move)))
    assert isinstance(stands, Standing)
    assert stands.health_wad is not None
    assert there.requirement == pytest.approx([stands.debt_wad / WAD], rel=1e-6)
    assert there.equity / there.requirement == pytest.approx(stands.health_wad / WAD, rel=1e-6)
    assert there.net == pytest.approx([(stands.collateral_wad - stands.debt_wad) / WAD], rel=1e-6)


def test_a_loan_hangs_on_its_collaterals_price_and_on_its_debts() -> None:
    for case in (aave_case, venus_case):
        market, page, world, account, at_s = case()
        stands = market.stand(account, world)
        assert isinstance(stands, Standing)
        held = mirrored(market, page, world, at_s, LendingDesk.marks)
        assert next(iter(held.assets)) == "ETH/USD"
        assert held.exposures[0] == pytest.approx([stands.collateral_wad / WAD, -stands.debt_wad / WAD])


def test_a_loan_in_a_token_without_a_price_in_quote_is_left_out() -> None:
    unnamed = replace(morpho.LISTING, chosen=replace(morpho.CHOSEN, tokens={}))
    market = MorphoMarket(unnamed)
    page = morpho.page_of([morpho.loan(1)])
    held = mirrored(market, page, morpho.WORLD, morpho.AT.timestamp_s, LendingDesk.marks)
    assert (len(held), held.unknown) == (0, 1)


@pytest.mark.parametrize("fall", [0.0, 0.15, -0.1])
def test_a_trader_of_perpetual_stands_as_its_clearing_house_says(fall: float) -> None:
    trader, world = perp.account(1, 1_000, {0: (10, -19_500)}), perp.world(2_000)
    held = mirrored(perp.MARKET, perp.page_of([trader]), world, perp.NOW_S, PerpDesk.marks)
    move = {"ETH/USD": fall}
    there = held.standing(falls_of(held, move))
    stands = perp.MARKET.stand(trader, perp.MARKET.fast(world, quotes_of(held, move)))
    assert isinstance(stands, Margin)
    assert there.net == pytest.approx([stands.value_wad / WAD])
    # Funding that may have accrued unread is charged on top: a day's tenth, for forty minutes.
    assert there.requirement == pytest.approx([stands.required_wad / WAD], rel=0.05)
    assert held.assets == ["BTC/USD", "ETH/USD"]


@pytest.mark.parametrize("fall", [0.0, 0.02, 0.1])
def test_an_account_of_hybridmargin_stands_as_its_engine_says(fall: float) -> None:
    account, market = hybrid.worked_example(), HybridMarket(hybrid.deployment())
    held = mirrored(market, hybrid_pages.page_of([account]), hybrid.oracles(), hybrid.NOW_S, HybridDesk.marks)
    there = held.standing(falls_of(held, {"BTC/USD": fall}))
    prices = {**hybrid.PRICES, "BTC/USD": round(hybrid.PRICES["BTC/USD"] * (1 - fall))}
    exact = math.maintenance(account, prices, hybrid.setting())
    assert there.equity == pytest.approx([exact.equity_wad / WAD])
    level = market.flag_levels_wad[account.slope_choice] / WAD
    assert there.requirement == pytest.approx([level * exact.requirement_wad / WAD])
    # The collateral, 10 at 200, counts for a half or so, and is worth all of it.
    price = 200 * (1 - fall)
    assert there.net == pytest.approx([300 + 100 * price - 21_000 + 10 * price])
    assert there.sold[0, 0] == pytest.approx(110 * 200)


@pytest.mark.parametrize(
    ("changes", "price"),
    [
        ({}, 200),
        ({"slow_wad": 150 * WAD}, 200),
        ({"slow_wad": 150 * WAD, "slow_updated_at_s": hybrid.NOW_S}, 150),
        ({"slow_wad": 150 * WAD, "slow_ok": False, "slow_updated_at_s": hybrid.NOW_S}, 200),
        ({"slow_wad": 150 * WAD, "fast_ok": False}, 150),
        ({"slow_wad": 150 * WAD, "fast_wad": 0}, 150),
        ({"slow_ok": False, "fast_ok": False}, None),
    ],
)
def test_hybridmargins_price_is_the_newer_one_that_counts(
    changes: Mapping[str, Any], price: int | None
) -> None:
    view = hybrid.changed(hybrid.oracles(), "BTC/USD", **changes)
    found = HybridMarket(hybrid.deployment()).spots(view).get("BTC/USD")
    assert found == (None if price is None else price * WAD)
