"""Uniswap on a throw-away chain, v2 and v3, and our FlashLiquidator with somebody who lends to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Final

from keeper import abi
from keeper.lab.anvil import Tx
from keeper.lab.foreign.base import NOBODY, Lab, gathered
from keeper.lending.routes import Q96

FEE: Final = 3_000
WIDEST: Final = 887_220
"""The whole range of a pool with this fee."""
OWNER: Final = "0x" + "0e" * 20
OPERATOR: Final = "0x" + "09" * 20


@dataclass(frozen=True, slots=True)
class Exchange:
    """Every token has a pool and a pair with the one that it is counted in."""

    lab: Lab
    quote: str
    v3_factory: str
    v2_factory: str
    router: str
    maker: str
    morpho: str
    liquidator: str
    pools: Mapping[str, str]
    """The pool of v3 of each token with the quote."""
    pairs: Mapping[str, str]
    """The pair of v2 of each."""

    def price(self, prices: Mapping[str, float]) -> None:
        """Trade the pools to other prices, in whole tokens of the quote; the pairs stay where they are."""
        self.lab.run([self.moved(token, price) for token, price in prices.items()])

    def operated(self, operator: str) -> Exchange:
        """Deploy one more of our contracts on the same pools, with an operator and earnings of its own."""
        lenders = (self.morpho, NOBODY, self.v3_factory, self.v2_factory)
        return replace(self, liquidator=_liquidator(self.lab, operator, lenders))

    def moved(self, token: str, price: float) -> Tx:
        """Build the trade that brings one pool to a price."""
        pool = self.pools[token]
        root = _root(*(units for _, units in _worths(self.lab, token, self.quote, price)))
        return self.lab.tx("PoolMaker", self.maker, "moveTo", pool, root)


def deploy_exchange(
    lab: Lab,
    prices: Mapping[str, float],
    *,
    quote: str,
    aave: str = NOBODY,
    morpho: str = "",
    depth: float = 1e8,
) -> Exchange:
    """Deploy both exchanges, a pool and a pair of every token with the quote, and our contract.

    ``prices`` are in whole tokens of the quote; a pool trades as if it held ``depth`` of these on either
    side, a pair a tenth of it. Where no Morpho is named there is one that lends all tokens.
    """
    lab.contracts.update(gathered("exchange"))
    v3_factory, v2_factory = lab.create("UniswapV3Factory"), lab.create("UniswapV2Factory", NOBODY)
    router, maker = lab.create("SwapRouter", v3_factory, NOBODY), lab.create("PoolMaker")
    if not morpho:
        lab.contracts["Morpho"] = gathered("morpho_blue")["Morpho"]
        morpho = lab.create("Morpho", lab.admin)
        lab.run([lab.tx("TestToken", token, "mint", morpho, 10**36) for token in (*prices, quote)])
    lenders = (morpho, aave, v3_factory, v2_factory)
    liquidator = _liquidator(lab, OPERATOR, lenders)
    lab.node.fund([OWNER, OPERATOR])
    pools, pairs = {}, {}
    for token, price in prices.items():
        worths = _worths(lab, token, quote, price)
        pools[token] = _open_pool(lab, v3_factory, maker, worths, depth)
        pairs[token] = _open_pair(lab, v2_factory, worths, depth / 10)
    return Exchange(lab, quote, v3_factory, v2_factory, router, maker, morpho, liquidator, pools, pairs)


def _liquidator(lab: Lab, operator: str, lenders: tuple[str, ...]) -> str:
    lab.contracts["FlashLiquidator"] = abi.artifact("flash", "FlashLiquidator")
    return lab.create("FlashLiquidator", OWNER, operator, *lenders)


def _worths(lab: Lab, token: str, quote: str, price: float) -> list[tuple[str, float]]:
    """Return both tokens in a pool's order, each with its units that are worth one whole quote."""
    decimals = [lab.ask("TestToken", each, "decimals") for each in (token, quote)]
    return sorted([(token, 10 ** decimals[0] / price), (quote, 10.0 ** decimals[1])])


def _root(units0: float, units1: float) -> int:
    """Return the root of a price as a pool has it: of units of token1 for one of token0."""
    return int(sqrt(units1 / units0) * Q96)


def _open_pool(lab: Lab, factory: str, maker: str, worths: list[tuple[str, float]], depth: float) -> str:
    (token0, units0), (token1, units1) = worths
    lab.do("UniswapV3Factory", factory, "createPool", token0, token1, FEE)
    pool: str = lab.ask("UniswapV3Factory", factory, "getPool", token0, token1, FEE)
    lab.do("UniswapV3Pool", pool, "initialize", _root(units0, units1))
    lab.do("PoolMaker", maker, "add", pool, WIDEST, int(depth * sqrt(units0 * units1)))
    return pool


def _open_pair(lab: Lab, factory: str, worths: list[tuple[str, float]], depth: float) -> str:
    (token0, _), (token1, _) = worths
    lab.do("UniswapV2Factory", factory, "createPair", token0, token1)
    pair: str = lab.ask("UniswapV2Factory", factory, "getPair", token0, token1)
    for token, units in worths:
        lab.do("TestToken", token, "mint", pair, int(depth * units))
    lab.do("UniswapV2Pair", pair, "mint", lab.admin)
    return pair
