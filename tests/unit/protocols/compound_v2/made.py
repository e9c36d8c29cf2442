"""A pool of two markets of round numbers, and answers about it."""

from collections.abc import Sequence
from dataclasses import replace

from eth_abi.abi import encode

from keeper.domain import ChainTime
from keeper.lending.feeds import Answer, Feed
from keeper.protocols.compound_v2 import math
from keeper.protocols.compound_v2.math import Debt, Market, Pool
from keeper.protocols.compound_v2.params import Chosen, Listed, Listing, World
from keeper.protocols.compound_v2.rows import Loan
from keeper.units import WAD

COMPTROLLER, READER, ORACLE = "0x" + "c0" * 20, "0x" + "ee" * 20, "0x" + "0a" * 20
V_WETH, V_USDC = "0x" + "d1" * 20, "0x" + "d2" * 20
WETH, USDC = "0x" + "1" * 40, "0x" + "2" * 40
ETH_USD, USDC_USD = "0x" + "7" * 40, "0x" + "8" * 40
OWNER = bytes.fromhex("a5" * 20)
KEY = OWNER + bytes(12)
PERCENT = WAD // 100
AT = ChainTime(100, 1_700_000_000)
ETH, DOLLAR = 0, 1
"""The numbers of the markets."""

CHOSEN = Chosen(COMPTROLLER, reader=READER)
LISTING = Listing(
    CHOSEN,
    (Listed(V_WETH, WETH, ETH_USD), Listed(V_USDC, USDC, USDC_USD)),
    (Feed(ETH_USD, "ETH/USD", 8), Feed(USDC_USD, "USDC/USD", 8)),
    (),
    77,
    is_timed=False,
)
MARKET = Market(
    price=2_000 * WAD,
    threshold_wad=80 * PERCENT,
    cash=900 * WAD,
    borrows=100 * WAD,
    bad_debt=0,
    reserves=0,
    supply=1_000 * 10**8,
    first_rate_wad=10**28,
    borrow_index_wad=2 * WAD,
    accrued_at=AT.block,
    borrow_rate_wad=10**10,
    reserve_factor_wad=10 * PERCENT,
    seize_share_wad=5 * PERCENT,
)
"""Of WETH: a vToken of 8 decimals is worth one of 18, and debts have doubled since the beginning."""
OF_USDC = replace(
    MARKET,
    price=10**30,
    threshold_wad=85 * PERCENT,
    cash=9 * 10**11,
    borrows=10**11,
    supply=10**6 * 10**8,
    first_rate_wad=10**16,
)
POOL = Pool((MARKET, OF_USDC), 50 * PERCENT, 110 * PERCENT, 100 * WAD)
HEARD = {
    ETH_USD: Answer(2_000 * WAD, AT.timestamp_s - 60),
    USDC_USD: Answer(WAD, AT.timestamp_s - 600),
}
WORLD = World(AT, 77, POOL, frozenset(), HEARD)


def loan(dollars: int, ether: float = 1.0) -> Loan:
    """Owe so many USDC against WETH, since the index was half of what it is."""
    debts = {DOLLAR: Debt(dollars * 10**6 // 2, WAD)} if dollars else {}
    return Loan(KEY, math.Loan((ETH, DOLLAR), {ETH: int(ether * 10**8)} if ether else {}, debts))


def page_of(loans: Sequence[Loan]) -> bytes:
    """Encode rows as the reader does."""
    heads, entries = [], []
    for each in loans:
        heads.append(int.from_bytes(each.key) | len(each.state.entered))
        for number in each.state.entered:
            debt = each.state.debts.get(number, Debt(0, 0))
            entries += [number, each.state.held.get(number, 0) << 128 | debt.principal, debt.index_wad]
    return encode(["uint256[]", "uint256[]"], [heads, entries])


def market_words(market: Market) -> list[int]:
    """Say a market as the reader does."""
    paused = sum(1 << action.value for action in market.paused)
    stored = (market.cash, market.borrows, market.bad_debt, market.reserves, market.supply)
    interest = (market.borrow_index_wad, market.accrued_at, market.borrow_rate_wad)
    shares = (market.reserve_factor_wad, market.seize_share_wad)
    values = (market.price, market.threshold_wad, *stored, market.exchange_rate_wad, *interest, *shares)
    return [*values, paused, int(market.is_forced)]


def world_words(
    markets: Sequence[Sequence[int]] = (market_words(MARKET), market_words(OF_USDC)),
    rounds: Sequence[tuple[int, int]] = (
        (2_000 * 10**8, AT.timestamp_s - 60),
        (10**8, AT.timestamp_s - 600),
    ),
    at: ChainTime = AT,
) -> bytes:
    """Encode what the reader says of the world."""
    pool = (at.block, at.timestamp_s, POOL.close_factor_wad, POOL.incentive_wad, POOL.least_collateral, 77)
    told = [*pool, *(word for each in markets for word in each), *(word for each in rounds for word in each)]
    return encode(["uint256[]"], [told])
