"""A small Perpetual: two markets, accounts, and what our reader would tell of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from eth_abi.abi import encode

from keeper.protocols.perp_curie.codec import MarketView, PerpWorld
from keeper.protocols.perp_curie.market import PerpCurieMarket
from keeper.protocols.perp_curie.math import Position, Terms, Trader
from keeper.protocols.perp_curie.params import Deployment, load
from keeper.protocols.perp_curie.rows import Account
from keeper.state.book import Book
from keeper.units import WAD, AccountKey, Wad

ETH, BTC = "0x" + "e0" * 20, "0x" + "b0" * 20
HOUSE, VAULT, READER = "0x" + "c1" * 20, "0x" + "c2" * 20, "0x" + "c3" * 20
USDC = "0x" + "c4" * 20
DEPLOYMENT = Deployment(
    HOUSE, VAULT, USDC, READER, {ETH: "ETH/USD", BTC: "BTC/USD"}, ("ETH/USD", "BTC/USD"), 7
)
MARKET = PerpCurieMarket(DEPLOYMENT)
TERMS = Terms(maintenance=62_500, penalty=25_000, decimals=6, insurance_wad=1_000 * WAD)
NOW_S = 1_700_000_000


def key(number: int) -> AccountKey:
    return number.to_bytes(20) + bytes(12)


def wad(amount: float) -> Wad:
    """Return an amount of at most six digits behind the point."""
    return round(amount * 10**6) * 10**12


def view(mark: int, *, index: int | None = None, is_open: bool = True) -> MarketView:
    """A market in which pool and index agree, but where another index is named."""
    index_wad = (mark if index is None else index) * WAD
    return MarketView(mark * WAD, is_open, mark * WAD, mark * WAD, 0, index_wad, NOW_S)


def world(eth: int | MarketView, btc: int | MarketView = 40_000) -> PerpWorld:
    views = tuple(each if isinstance(each, MarketView) else view(each) for each in (eth, btc))
    return PerpWorld(7, views, TERMS, initial=100_000, funding_rate=100_000, paused=False)


def account(number: int, cash: float, held: Mapping[int, tuple[float, float]], barred: int = 0) -> Account:
    """An account with settled money, and by market a size and what was paid for it."""
    positions = {market: Position(wad(size), wad(notional), 0) for market, (size, notional) in held.items()}
    return Account(key(number), Trader(wad(cash), positions, bool(barred & 1)), barred)


def funded(one: Account, funding_wad: Wad) -> Account:
    """The same account with so much funding due in each market."""
    due = {number: replace(each, funding_wad=funding_wad) for number, each in one.trader.positions.items()}
    return replace(one, trader=replace(one.trader, positions=due))


def _pair(high: int, low: int) -> int:
    return high % 2**128 << 128 | low % 2**128


def words_of(accounts: Sequence[Account]) -> tuple[list[int], list[int]]:
    """Return heads and entries as ``PerpReader.rows`` packs them."""
    heads, entries = list[int](), list[int]()
    for each in accounts:
        held = each.trader.positions
        heads += [int.from_bytes(each.key[:20]) << 96 | each.barred << 8 | len(held)]
        heads += [each.trader.cash_wad % 2**256]
        for number, position in held.items():
            entries += [_pair(position.size_wad, position.notional_wad), _pair(position.funding_wad, number)]
    return heads, entries


def page_of(accounts: Sequence[Account]) -> bytes:
    return encode(load("PerpReader").functions["rows"].outputs, words_of(accounts))


def book_of(*accounts: Account) -> Book[Account]:
    book = Book(MARKET.shape)
    book.fold_rows(page_of(accounts), 1)
    return book
