"""Morpho Blue on a throw-away chain: four markets, pre-liquidation on two of them, and random accounts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.lab.anvil import Node, Tx
from keeper.lab.foreign.base import NOBODY, NONE, Lab, minted
from keeper.lending.feeds import QUOTE
from keeper.protocols.morpho_blue.params import Chosen
from keeper.units import WAD, Wad

LENDER = "0x" + "11" * 20
PERCENT: Wad = WAD // 100
DECIMALS = {"WETH": 18, "WBTC": 8, "USDC": 6}
DOLLARS = {"WETH": 2_000, "WBTC": 40_000, "USDC": 1}

Params: TypeAlias = tuple[str, str, str, str, Wad]
"""Loan token, collateral token, oracle, interest rate model and LLTV: what Morpho calls MarketParams."""


@dataclass(frozen=True, slots=True)
class PreSpec:
    """What a pre-liquidation contract is made with; its price is that of the market, or one of its own."""

    lltv_wad: Wad
    close_wad: tuple[Wad, Wad]
    incentive_wad: tuple[Wad, Wad]
    has_own_oracle: bool = False


@dataclass(frozen=True, slots=True)
class Spec:
    """One market."""

    collateral: str
    loan: str
    lltv_wad: Wad
    is_adaptive: bool = True
    fee_wad: Wad = 0
    pre: PreSpec | None = None

    @property
    def price(self) -> int:
        """What one unit of collateral is worth in units of the loan, times 1e36, at the start."""
        shift = 36 + DECIMALS[self.loan] - DECIMALS[self.collateral]
        return int(DOLLARS[self.collateral] * 10**shift // DOLLARS[self.loan])


SPECS = (
    Spec(
        "WETH",
        "USDC",
        86 * PERCENT,
        fee_wad=10 * PERCENT,
        pre=PreSpec(80 * PERCENT, (5 * PERCENT, 50 * PERCENT), (101 * PERCENT, 104 * PERCENT)),
    ),
    Spec(
        "WBTC",
        "USDC",
        77 * PERCENT,
        pre=PreSpec(
            70 * PERCENT, (20 * PERCENT, 130 * PERCENT), (102 * PERCENT, 107 * PERCENT), has_own_oracle=True
        ),
    ),
    Spec("USDC", "WETH", 915 * PERCENT // 10),
    Spec("WBTC", "WETH", 385 * PERCENT // 10, is_adaptive=False),
)


@dataclass(frozen=True, slots=True)
class Market:
    """A market as it is there, with its pre-liquidation contract where it has one."""

    spec: Spec
    params: Params
    id: bytes
    oracle: str
    pre: str
    pre_oracle: str


@dataclass(frozen=True, slots=True)
class Morpho:
    """A deployment with its markets."""

    lab: Lab
    morpho: str
    irm: str
    markets: tuple[Market, ...]
    tokens: Mapping[str, str]
    feeds: Mapping[str, str]
    """What each token is worth in dollars, as Chainlink tells it."""

    @property
    def chosen(self) -> Chosen:
        """Return what a keeper of all of it is told. Each oracle is taken for one feed, such as WETH/USDC."""
        oracles = {
            oracle: f"{each.spec.collateral}/{each.spec.loan}"
            for each in self.markets
            for oracle in (each.oracle, each.pre_oracle)
            if oracle
        }
        dollars = {feed: f"{symbol}/USD" for symbol, feed in self.feeds.items()}
        return Chosen(
            morpho=self.morpho,
            markets=tuple("0x" + each.id.hex() for each in self.markets),
            pres=tuple(each.pre for each in self.markets if each.pre),
            feeds={**oracles, **dollars},
            tokens={self.tokens["USDC"]: QUOTE, self.tokens["WETH"]: "WETH/USD"},
        )

    def act(self, who: str, market: Market, function: str, *arguments: object) -> Tx:
        """Build a call of Morpho that concerns one market."""
        return self.lab.tx("Morpho", self.morpho, function, market.params, *arguments, sender=who)

    def close(self, who: str, market: Market, owner: str, seized: int, shares: int) -> Tx:
        return self.act(who, market, "liquidate", owner, seized, shares, b"")

    def pre_close(self, who: str, market: Market, owner: str, seized: int, shares: int) -> Tx:
        """Build a pre-liquidation; the owner must have allowed it."""
        arguments = (owner, seized, shares, b"")
        return self.lab.tx("PreLiquidation", market.pre, "preLiquidate", *arguments, sender=who)

    def price(self, factors: Sequence[tuple[float, float]], *, after_s: int = 1) -> None:
        """Set each market's price, and that of its pre-liquidation, to multiples of those at the start."""
        txs = []
        for market, (factor, pre_factor) in zip(self.markets, factors, strict=True):
            sources = {market.oracle: factor, market.pre_oracle: pre_factor} if market.pre_oracle else {}
            for source, times in {**sources, market.oracle: factor}.items():
                value = int(market.spec.price * times)
                txs.append(self.lab.tx("PriceSource", source, "set", value))
        self.lab.run(txs, after_s=after_s)

    def fund(self, who: str, symbols: Sequence[str], spenders: Sequence[str] = ()) -> list[Tx]:
        """Give tokens that Morpho, and others, may take."""
        return [
            tx
            for symbol in symbols
            for spender in (self.morpho, *spenders)
            for tx in minted(self.lab, who, self.tokens[symbol], spender)
        ]


def deploy(node: Node, given: Mapping[str, str] = NONE) -> Morpho:
    """Deploy Morpho with its adaptive rates, open every market, and let somebody lend.

    ``given`` are tokens that are there already, by symbol.
    """
    lab = Lab.of(node, "morpho_blue")
    morpho = lab.create("Morpho", lab.admin)
    irm = lab.create("AdaptiveCurveIrm", morpho)
    for model in (irm, NOBODY):
        lab.do("Morpho", morpho, "enableIrm", model)
    tokens = {name: lab.token(name, decimals, given) for name, decimals in DECIMALS.items()}
    markets = tuple(
        open_market(lab, morpho, irm if spec.is_adaptive else NOBODY, tokens, spec) for spec in SPECS
    )
    feeds = {name: lab.create("PriceSource", 8, dollars * 10**8) for name, dollars in DOLLARS.items()}
    found = Morpho(lab, morpho, irm, markets, tokens, feeds)
    node.fund([LENDER])
    lab.run(found.fund(LENDER, list(tokens)))
    for market in markets:
        # About half of it will be borrowed, so that there is interest worth carrying.
        units = 20_000_000 * 10 ** DECIMALS[market.spec.loan] // DOLLARS[market.spec.loan]
        lab.run([found.act(LENDER, market, "supply", units, 0, LENDER, b"")])
    return found


def open_market(
    lab: Lab, morpho: str, irm: str, tokens: Mapping[str, str], spec: Spec, oracle: str = ""
) -> Market:
    """Open a market at an oracle, or at a price of its own, with pre-liquidation where it is to have some."""
    oracle = oracle or lab.create("PriceSource", 36, spec.price)
    params = (tokens[spec.loan], tokens[spec.collateral], oracle, irm, spec.lltv_wad)
    lab.do("Morpho", morpho, "enableLltv", spec.lltv_wad)
    lab.do("Morpho", morpho, "createMarket", params)
    if spec.fee_wad:
        lab.do("Morpho", morpho, "setFee", params, spec.fee_wad)
    market_id = keccak(encode(["(address,address,address,address,uint256)"], [params]))
    pre = pre_oracle = ""
    if spec.pre:
        pre_oracle = lab.create("PriceSource", 36, spec.price) if spec.pre.has_own_oracle else oracle
        terms = (spec.pre.lltv_wad, *spec.pre.close_wad, *spec.pre.incentive_wad, pre_oracle)
        pre = lab.create("PreLiquidation", morpho, market_id, terms)
    return Market(spec, params, market_id, oracle, pre, pre_oracle)


def populate(morpho: Morpho, count: int, seed: int) -> list[tuple[str, int]]:
    """Open random accounts and return each owner with the market's number; all allow pre-liquidation."""
    rng = random.Random(seed)
    accounts = [("0x" + rng.randbytes(20).hex(), number % len(morpho.markets)) for number in range(count)]
    morpho.lab.node.fund([who for who, _ in accounts])
    txs = []
    for who, number in accounts:
        market = morpho.markets[number]
        spec = market.spec
        dollars = 10 ** rng.uniform(0, 5.3)
        held = int(dollars * 10 ** DECIMALS[spec.collateral] / DOLLARS[spec.collateral])
        share = spec.lltv_wad / WAD * rng.uniform(0.6, 0.999)
        borrowed = int(dollars * share * 10 ** DECIMALS[spec.loan] / DOLLARS[spec.loan])
        txs += [
            *morpho.fund(who, [spec.collateral]),
            morpho.act(who, market, "supplyCollateral", held, who, b""),
            morpho.act(who, market, "borrow", borrowed, 0, who, who),
        ]
        if market.pre:
            txs.append(
                morpho.lab.tx("Morpho", morpho.morpho, "setAuthorization", market.pre, True, sender=who)
            )
    morpho.lab.run(txs)
    return accounts
