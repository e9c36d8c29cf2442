"""Perpetual v2 (Curie) on a throw-away chain: two markets on real Uniswap v3 pools, and random takers."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keeper.lab.anvil import Node, Tx
from keeper.lab.foreign.base import ENDLESS, NONE, Lab, minted
from keeper.units import WAD, Wad

MAKER = "0x" + "11" * 20
WHALE = "0x" + "ee" * 20
BLOCK_S = 12
HISTORY_S = 2_000
"""Of a pool, before anybody may add liquidity: its mean is taken over half an hour."""
POOL_FEE = 10_000
OBSERVATIONS = 500
USDC = 10**6
DEPOSIT = 10**8
"""In dollars, of the maker and of the whale."""
CORE = (
    "ClearingHouse",
    "ClearingHouseConfig",
    "MarketRegistry",
    "OrderBook",
    "Exchange",
    "AccountBalance",
    "Vault",
    "InsuranceFund",
    "CollateralManager",
)


@dataclass(frozen=True, slots=True)
class Spec:
    """A market: its price in dollars, the maker's range of ticks, and how many tokens the maker offers."""

    dollars: int
    ticks: tuple[int, int]
    offered: int


SPECS: Mapping[str, Spec] = {
    "ETH": Spec(2_000, (70_000, 82_000), 10_000),
    "BTC": Spec(40_000, (100_000, 112_000), 500),
}


@dataclass(frozen=True, slots=True)
class Perp:
    """A deployment: the contracts by name, and each market's virtual token and index price."""

    lab: Lab
    at: Mapping[str, str]
    usdc: str
    bases: Mapping[str, str]
    indices: Mapping[str, str]

    def act(self, who: str, name: str, function: str, *arguments: object) -> Tx:
        return self.lab.tx(name, self.at[name], function, *arguments, sender=who)

    def deposit(self, who: str, dollars: int) -> list[Tx]:
        """Mint the settlement token and pay it in."""
        given = minted(self.lab, who, self.usdc, self.at["Vault"], dollars * USDC)
        return [*given, self.act(who, "Vault", "deposit", self.usdc, dollars * USDC)]

    def trade(self, who: str, symbol: str, amount_wad: Wad, *, sell: bool, in_quote: bool = True) -> Tx:
        """Build a market order for an amount of dollars, or of the asset itself."""
        is_exact_input = sell != in_quote
        order = (self.bases[symbol], sell, is_exact_input, amount_wad, 0, ENDLESS, 0, bytes(32))
        return self.act(who, "ClearingHouse", "openPosition", order)

    def close(self, who: str, symbol: str, owner: str, size_wad: Wad) -> Tx:
        """Build a takeover; a size of 0 means the most."""
        return self.act(who, "ClearingHouse", "liquidate", owner, self.bases[symbol], size_wad)

    def index(self, factors: Mapping[str, float]) -> None:
        """Set index prices to multiples of those at the start."""
        for symbol, factor in factors.items():
            value = int(SPECS[symbol].dollars * factor * WAD)
            self.lab.do("PriceSource", self.indices[symbol], "set", value)

    def press(self, size: Mapping[str, int], *, sell: bool) -> None:
        """Let the whale trade so many tokens of each: the mark follows the pool, and not the index alone."""
        orders = [
            self.trade(WHALE, symbol, tokens * WAD, sell=sell, in_quote=False)
            for symbol, tokens in size.items()
        ]
        self.lab.run(orders, after_s=BLOCK_S)


def deploy(node: Node, given: Mapping[str, str] = NONE) -> Perp:
    """Deploy all of it, open two markets, and let a maker offer liquidity; ``given`` are tokens there."""
    lab = Lab.of(node, "perp_curie")
    usdc = lab.token("USDC", 6, given)
    at = {name: lab.create(name) for name in CORE}
    # Of each pool the quote token must have the higher address.
    at["QuoteToken"] = max((lab.create("QuoteToken") for _ in range(6)), key=lambda each: int(each, 16))
    at["UniswapV3Factory"] = lab.create("UniswapV3Factory")
    _wire(lab, at, usdc)
    opened = {symbol: _open(lab, at, symbol, spec) for symbol, spec in SPECS.items()}
    bases = {symbol: base for symbol, (base, _) in opened.items()}
    indices = {symbol: index for symbol, (_, index) in opened.items()}
    perp = Perp(lab, at, usdc, bases, indices)
    node.fund([MAKER, WHALE])
    for who in (MAKER, WHALE):
        lab.run(perp.deposit(who, DEPOSIT))
    lab.pass_time(HISTORY_S)
    for symbol, spec in SPECS.items():
        amounts = (spec.offered * WAD, spec.offered * spec.dollars * WAD)
        order = (bases[symbol], *amounts, *spec.ticks, 0, 0, False, ENDLESS)
        lab.run([perp.act(MAKER, "ClearingHouse", "addLiquidity", order)])
    return perp


def _wire(lab: Lab, at: Mapping[str, str], usdc: str) -> None:
    """Initialise the contracts and introduce them to one another, in the order of their own deployment."""
    config, vault, quote = at["ClearingHouseConfig"], at["Vault"], at["QuoteToken"]
    registry, book, exchange = at["MarketRegistry"], at["OrderBook"], at["Exchange"]
    balance, fund, factory = at["AccountBalance"], at["InsuranceFund"], at["UniswapV3Factory"]
    ratios = (750_000, 500_000, 2_000, 30_000, 10_000 * USDC, 500 * USDC)
    steps: list[tuple[Any, ...]] = [
        ("QuoteToken", "initialize", "vUSD", "vUSD"),
        ("InsuranceFund", "initialize", usdc),
        ("ClearingHouseConfig", "initialize"),
        ("MarketRegistry", "initialize", factory, quote),
        ("OrderBook", "initialize", registry),
        ("Exchange", "initialize", registry, book, config),
        ("OrderBook", "setExchange", exchange),
        ("AccountBalance", "initialize", config, book),
        ("Vault", "initialize", fund, config, balance, exchange),
        ("InsuranceFund", "setVault", vault),
        ("AccountBalance", "setVault", vault),
        ("CollateralManager", "initialize", config, vault, 5, *ratios),
        ("ClearingHouse", "initialize", config, vault, quote, factory, exchange, balance, fund),
        ("ClearingHouseConfig", "setSettlementTokenBalanceCap", ENDLESS),
        ("QuoteToken", "mintMaximumTo", at["ClearingHouse"]),
        ("Exchange", "setAccountBalance", balance),
        ("Vault", "setCollateralManager", at["CollateralManager"]),
        ("QuoteToken", "addWhitelist", at["ClearingHouse"]),
    ]
    served = ("MarketRegistry", "OrderBook", "Exchange", "AccountBalance", "Vault")
    steps += [(name, "setClearingHouse", at["ClearingHouse"]) for name in served]
    for name, function, *arguments in steps:
        lab.do(name, at[name], function, *arguments)


def _open(lab: Lab, at: Mapping[str, str], symbol: str, spec: Spec) -> tuple[str, str]:
    """Open a market and return its virtual token and its index."""
    index = lab.create("PriceSource", 18, spec.dollars * WAD)
    quote, factory = at["QuoteToken"], at["UniswapV3Factory"]
    base = lab.create("BaseToken")
    while int(base, 16) > int(quote, 16):
        base = lab.create("BaseToken")
    lab.do("BaseToken", base, "initialize", symbol, symbol, index)
    lab.do("BaseToken", base, "mintMaximumTo", at["ClearingHouse"])
    lab.do("UniswapV3Factory", factory, "createPool", base, quote, POOL_FEE)
    pool = lab.ask("UniswapV3Factory", factory, "getPool", base, quote, POOL_FEE)
    for allowed in (at["ClearingHouse"], pool):
        lab.do("BaseToken", base, "addWhitelist", allowed)
    lab.do("QuoteToken", quote, "addWhitelist", pool)
    lab.do("UniswapV3Pool", pool, "initialize", math.isqrt(spec.dollars << 192))
    lab.do("UniswapV3Pool", pool, "increaseObservationCardinalityNext", OBSERVATIONS)
    registry = at["MarketRegistry"]
    lab.do("MarketRegistry", registry, "addPool", base, POOL_FEE)
    lab.do("MarketRegistry", registry, "setFeeRatio", base, 1_000)
    # Otherwise trades would be refused as soon as pool and index are ten percent apart.
    lab.do("MarketRegistry", registry, "setMarketMaxPriceSpreadRatio", base, 900_000)
    lab.do("Exchange", at["Exchange"], "setMaxTickCrossedWithinBlock", base, 1_000)
    return base, index


def populate(perp: Perp, count: int, seed: int) -> list[str]:
    """Open random positions of one to four thousand dollars, five to eight times the deposit."""
    rng = random.Random(seed)
    owners = ["0x" + rng.randbytes(20).hex() for _ in range(count)]
    perp.lab.node.fund(owners)
    txs = []
    for who in owners:
        chosen = rng.sample(list(SPECS), rng.choice((1, 1, 2)))
        wanted = [(symbol, rng.random() < 0.5, 10 ** rng.uniform(1.8, 3.6)) for symbol in chosen]
        txs += perp.deposit(who, 2 + int(sum(dollars for *_, dollars in wanted) * rng.uniform(0.13, 0.2)))
        txs += [perp.trade(who, symbol, int(dollars * WAD), sell=sell) for symbol, sell, dollars in wanted]
    perp.lab.run(txs, after_s=BLOCK_S)
    return owners
