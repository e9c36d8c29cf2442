"""A pool of Venus on a throw-away chain, with five markets and random accounts.

Its Comptroller is larger than the limit of a contract's code: the node must have been started without that
limit.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eth_utils.crypto import keccak

from keeper.lab.anvil import Node, Tx
from keeper.lab.foreign.base import ENDLESS, NOBODY, NONE, Lab, minted
from keeper.protocols.compound_v2.params import DEBTS_SLOT, Chosen
from keeper.units import WAD, Wad

LENDER = "0x" + "11" * 20
RESERVE = "0x" + "5e" * 20
"""Where the protocol's part goes: code that takes every call."""
PERCENT: Wad = WAD // 100
CLOSE_FACTOR_WAD: Wad = 50 * PERCENT
INCENTIVE_WAD: Wad = 110 * PERCENT
LEAST_COLLATERAL = 100 * WAD
BLOCKS_A_YEAR = 10_000
"""So few, because every block takes Anvil time: interest then comes to something in a handful."""
MOST_RATE_WAD: Wad = 10**15
LOOPS = 100
PERMITTED = (
    "setCloseFactor(uint256)",
    "setLiquidationIncentive(uint256)",
    "setMinLiquidatableCollateral(uint256)",
    "setCollateralFactor(address,uint256,uint256)",
    "setMarketSupplyCaps(address[],uint256[])",
    "setMarketBorrowCaps(address[],uint256[])",
    "setActionsPaused(address[],uint256[],bool)",
    "setForcedLiquidation(address,bool)",
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A market: its token's decimals, its price in dollars, and what may be borrowed on it, in percent."""

    decimals: int
    dollars: int
    factor: int
    threshold: int

    @property
    def price(self) -> int:
        """Of one unit, as the pool reads it."""
        return int(self.dollars * 10 ** (36 - self.decimals))

    def units(self, dollars: float) -> int:
        return int(dollars * 10**self.decimals / self.dollars)


ASSETS: Mapping[str, Asset] = {
    "WETH": Asset(18, 2_000, 75, 80),
    "WBTC": Asset(8, 40_000, 70, 75),
    "USDC": Asset(6, 1, 80, 85),
    "LINK": Asset(18, 10, 60, 66),
    "ALT": Asset(12, 3, 45, 55),
}


@dataclass(frozen=True, slots=True)
class Venus:
    """A deployment."""

    lab: Lab
    comptroller: str
    oracle: str
    tokens: Mapping[str, str]
    vtokens: Mapping[str, str]

    @property
    def chosen(self) -> Chosen:
        """Return what a keeper of it is told. Each token's price is taken for one feed, such as WETH/USD."""
        return Chosen(self.comptroller, {token: f"{symbol}/USD" for symbol, token in self.tokens.items()})

    def act(self, who: str, symbol: str, function: str, *arguments: object) -> Tx:
        """Build a call of one market."""
        return self.lab.tx("VToken", self.vtokens[symbol], function, *arguments, sender=who)

    def pool(self, who: str, function: str, *arguments: object) -> Tx:
        """Build a call of the Comptroller."""
        return self.lab.tx("Comptroller", self.comptroller, function, *arguments, sender=who)

    def close(self, who: str, collateral: str, debt: str, owner: str, amount: int) -> Tx:
        return self.act(who, debt, "liquidateBorrow", owner, amount, self.vtokens[collateral])

    def configure(self, function: str, *arguments: object) -> None:
        self.lab.do("Comptroller", self.comptroller, function, *arguments)

    def price(self, factors: Mapping[str, float], *, blocks: int = 1) -> None:
        """Set prices to multiples of those at the start, after some blocks."""
        if blocks > 1:
            self.lab.node.rpc("anvil_mine", hex(blocks - 1))
        changes = {symbol: int(ASSETS[symbol].price * factor) for symbol, factor in factors.items()}
        self.lab.run(
            [
                self.lab.tx("MockPriceOracle", self.oracle, "setPrice", self.tokens[symbol], price)
                for symbol, price in changes.items()
            ]
        )

    def debts(self, owners: Sequence[str]) -> list[tuple[int, int]]:
        """Read principal and index of each owner's debt in every market, zeros where there is none."""
        places = [
            int.from_bytes(keccak(bytes(12) + bytes.fromhex(who[2:]) + DEBTS_SLOT.to_bytes(32, "big")))
            for who in owners
        ]
        words = [
            ("eth_getStorageAt", (vtoken, hex(place + part), "latest"))
            for place in places
            for vtoken in self.vtokens.values()
            for part in (0, 1)
        ]
        found = [int(word, 16) for word in self.lab.node.batch(words)]
        return list(zip(found[::2], found[1::2], strict=True))

    def fund(self, who: str, symbols: Sequence[str]) -> list[Tx]:
        """Give tokens that the markets may take, and enter these markets."""
        entered = self.pool(who, "enterMarkets", [self.vtokens[each] for each in symbols])
        given = [
            tx for each in symbols for tx in minted(self.lab, who, self.tokens[each], self.vtokens[each])
        ]
        return [entered, *given]


def deploy(node: Node, given: Mapping[str, str] = NONE) -> Venus:
    """Deploy a pool, support every market, and let somebody lend; ``given`` are tokens that are there."""
    lab = Lab.of(node, "compound_v2")
    acm = lab.create("AccessControlManager")
    for signature in PERMITTED:
        lab.do("AccessControlManager", acm, "giveCallPermission", NOBODY, signature, lab.admin)
    # The admin stands in for the registry of pools, which alone may support a market.
    made = lab.create("Comptroller", lab.admin)
    comptroller = lab.create("ERC1967Proxy", made, lab.data("Comptroller", "initialize", LOOPS, acm))
    oracle = lab.create("MockPriceOracle")
    lab.do("Comptroller", comptroller, "setPriceOracle", oracle)
    tokens = {name: lab.token(name, asset.decimals, given) for name, asset in ASSETS.items()}
    found = Venus(lab, comptroller, oracle, tokens, _markets(lab, comptroller, acm, tokens))
    found.price(dict.fromkeys(ASSETS, 1.0))
    for symbol, asset in ASSETS.items():
        vtoken = found.vtokens[symbol]
        found.configure("supportMarket", vtoken)
        levels = (asset.factor * PERCENT, asset.threshold * PERCENT)
        found.configure("setCollateralFactor", vtoken, *levels)
    vtokens = list(found.vtokens.values())
    for caps in ("setMarketSupplyCaps", "setMarketBorrowCaps"):
        found.configure(caps, vtokens, [ENDLESS] * len(vtokens))
    found.configure("setCloseFactor", CLOSE_FACTOR_WAD)
    found.configure("setLiquidationIncentive", INCENTIVE_WAD)
    found.configure("setMinLiquidatableCollateral", LEAST_COLLATERAL)
    node.fund([LENDER])
    supplies = [found.act(LENDER, each, "mint", asset.units(4e7)) for each, asset in ASSETS.items()]
    lab.run([*found.fund(LENDER, list(ASSETS)), *supplies])
    return found


def _markets(lab: Lab, comptroller: str, acm: str, tokens: Mapping[str, str]) -> dict[str, str]:
    lab.node.rpc("anvil_setCode", RESERVE, "0x00")
    made = lab.create("VToken", False, BLOCKS_A_YEAR, MOST_RATE_WAD)
    slopes = (0, 4 * PERCENT, WAD, 80 * PERCENT)
    model = lab.create("JumpRateModelV2", *slopes, acm, False, BLOCKS_A_YEAR)
    found = {}
    for symbol, token in tokens.items():
        first_rate = 10 ** (ASSETS[symbol].decimals + 18 - 8)
        names = (f"v{symbol}", f"v{symbol}", 8)
        risks = ((RESERVE, RESERVE), 10 * PERCENT)
        arguments = (token, comptroller, model, first_rate, *names, lab.admin, acm, *risks)
        found[symbol] = lab.create("ERC1967Proxy", made, lab.data("VToken", "initialize", *arguments))
    return found


def populate(venus: Venus, count: int, seed: int) -> list[str]:
    """Open random accounts, a third of them small ones, and return their owners."""
    rng = random.Random(seed)
    owners = ["0x" + rng.randbytes(20).hex() for _ in range(count)]
    venus.lab.node.fund(owners)
    txs = []
    for number, who in enumerate(owners):
        held = rng.sample(list(ASSETS), rng.choice((1, 1, 2, 3, 5)))
        total = 10 ** (rng.uniform(1, 2) if number % 3 == 0 else rng.uniform(2.2, 5.3))
        shares = [rng.uniform(0.2, 1) for _ in held]
        worth = {each: total * share / sum(shares) for each, share in zip(held, shares, strict=True)}
        txs += venus.fund(who, held)
        txs += [venus.act(who, each, "mint", ASSETS[each].units(dollars)) for each, dollars in worth.items()]
        cap = sum(dollars * ASSETS[each].factor / 100 for each, dollars in worth.items())
        owed = rng.sample(list(ASSETS), rng.choice((1, 1, 2)))
        part = cap * rng.uniform(0.8, 0.99) / len(owed)
        txs += [venus.act(who, each, "borrow", ASSETS[each].units(part)) for each in owed]
    venus.lab.run(txs)
    return owners
