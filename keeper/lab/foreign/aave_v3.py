"""Aave v3 on a throw-away chain, by the rules of 3.6 or of 3.0: twenty reserves and random accounts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eth_abi.abi import encode

from keeper.lab.anvil import Node, Tx
from keeper.lab.foreign.base import NOBODY, NONE, Lab, minted
from keeper.units import Bps

TREASURY = "0x" + "7e" * 20
CENT = 10**6
"""Prices are in dollars with eight decimals."""
VARIABLE = 2
"""The interest rate mode that there is."""
EMODE = 1
EMODE_BPS = (9_000, 9_300, 10_100)
FEE_BPS: Bps = 1_000
RAY = 10**27
RATES = (8_000, 0, 400, 6_000)
"""Of every reserve, in basis points: the best use, and what is paid at none, at the best and at all of it."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A reserve: its token's decimals, its price in cents, and what lending against it allows."""

    decimals: int
    cents: int
    ltv_bps: Bps
    threshold_bps: Bps
    bonus_bps: Bps
    emode: bool = False

    def units(self, dollars: float) -> int:
        """Return so many dollars' worth, in the token's units."""
        return int(dollars * 100 * 10**self.decimals / self.cents)


ASSETS: Mapping[str, Asset] = {
    "WETH": Asset(18, 200_000, 8_000, 8_250, 10_500, emode=True),
    "WBTC": Asset(8, 4_000_000, 7_300, 7_800, 10_600, emode=True),
    "USDC": Asset(6, 100, 7_700, 8_000, 10_450),
    "LINK": Asset(18, 1_000, 6_600, 7_100, 10_700),
    "EURS": Asset(6, 108, 6_500, 7_000, 10_750),
    "ISOL": Asset(12, 150, 4_000, 5_500, 11_000),
    **{
        f"A{i:02}": Asset((6, 8, 18)[i % 3], 7 * i * i, 5_000, 6_000 + 50 * i, 10_500 + 37 * i)
        for i in range(6, 20)
    },
}
ISOLATED = "ISOL"
"""The only one with a debt ceiling: who uses it as collateral borrows in isolation."""
NAMED = ("WETH", "WBTC", "USDC", "LINK", "EURS")


@dataclass(frozen=True, slots=True)
class Names:
    """What the contracts of one version are called."""

    pool: str
    configurator: str
    atoken: str
    debt_token: str
    rates: str


V3_6 = Names(
    "PoolInstance",
    "PoolConfiguratorInstance",
    "ATokenInstance",
    "VariableDebtTokenInstance",
    "DefaultReserveInterestRateStrategyV2",
)
V3_0 = Names("Pool", "PoolConfigurator", "AToken", "VariableDebtToken", "DefaultReserveInterestRateStrategy")


@dataclass(frozen=True, slots=True)
class Aave:
    """A deployment, and who owns an account on it."""

    lab: Lab
    names: Names
    pool: str
    configurator: str
    oracle: str
    sequencer: str
    tokens: Mapping[str, str]
    sources: Mapping[str, str]
    judge: str
    """LiquidationDataProvider, where the version has one."""

    def act(self, who: str, function: str, *arguments: object) -> Tx:
        """Build a call of the pool."""
        return self.lab.tx(self.names.pool, self.pool, function, *arguments, sender=who)

    def close(self, who: str, collateral: str, debt: str, owner: str, amount: int) -> Tx:
        """Build a liquidation that wants the collateral itself."""
        pair = (self.tokens[collateral], self.tokens[debt])
        return self.act(who, "liquidationCall", *pair, owner, amount, False)

    def configure(self, function: str, *arguments: object) -> None:
        """Change a setting as the admin."""
        self.lab.do(self.names.configurator, self.configurator, function, *arguments)

    def add_reserve(self, token: str, decimals: int) -> None:
        """List a token as the admin, as yet without any use."""
        there = self.lab.libraries
        if self.names is V3_6:
            held = [there[name] for name in (V3_6.atoken, V3_6.debt_token)]
            params = encode(["uint16", "uint32", "uint32", "uint32"], RATES)
            self.configure("initReserves", [(*held, token, "a", "a", "v", "v", b"", params)])
        else:
            held = [there[name] for name in (V3_0.atoken, "StableDebtToken", V3_0.debt_token)]
            terms = (decimals, there[V3_0.rates], token, TREASURY, NOBODY)
            self.configure("initReserves", [(*held, *terms, "a", "a", "v", "v", "s", "s", b"")])

    def price(self, factors: Mapping[str, float], *, after_s: int = 1) -> None:
        """Set prices to multiples of those at the start, all in one block."""
        changes = {symbol: int(ASSETS[symbol].cents * CENT * factor) for symbol, factor in factors.items()}
        sources = self.sources
        txs = [self.lab.tx("PriceSource", sources[each], "set", price) for each, price in changes.items()]
        self.lab.run(txs, after_s=after_s)

    def fund(self, who: str, symbols: Sequence[str]) -> list[Tx]:
        """Give tokens that the pool may take."""
        return [tx for each in symbols for tx in minted(self.lab, who, self.tokens[each], self.pool)]

    def supply(self, who: str, symbol: str, units: int) -> Tx:
        return self.act(who, "supply", self.tokens[symbol], units, who, 0)

    def borrow(self, who: str, symbol: str, units: int) -> Tx:
        return self.act(who, "borrow", self.tokens[symbol], units, VARIABLE, 0, who)

    def switch_off(self, who: str, symbol: str) -> Tx:
        """Build what stops a supply from counting as collateral."""
        return self.act(who, "setUserUseReserveAsCollateral", self.tokens[symbol], False)


def deploy(node: Node, tokens: Mapping[str, str] = NONE) -> Aave:
    """Deploy 3.6 with its sentinel and the judge of liquidations, list every asset, and let somebody lend.

    ``tokens`` are those that are there already, by symbol.
    """
    lab = Lab.of(node, "aave_v3.6")
    for name in ("BorrowLogic", "ConfiguratorLogic", "LiquidationLogic", "PoolLogic", "SupplyLogic"):
        lab.create(name)
    lab.create("FlashLoanLogic")
    provider = _provider(lab)
    rates = lab.create(V3_6.rates, provider)
    lab.do("PoolAddressesProvider", provider, "setPoolImpl", lab.create(V3_6.pool, provider, rates))
    aave = _around(lab, V3_6, provider, tokens)
    lab.create(V3_6.atoken, aave.pool, NOBODY, TREASURY)
    lab.create(V3_6.debt_token, aave.pool, NOBODY)
    for symbol, token in aave.tokens.items():
        aave.add_reserve(token, ASSETS[symbol].decimals)
    _list(aave)
    for symbol, asset in ASSETS.items():
        aave.configure("setReserveFlashLoaning", aave.tokens[symbol], True)
        if asset.emode:
            aave.configure("setAssetCollateralInEMode", aave.tokens[symbol], EMODE, True)
            aave.configure("setAssetBorrowableInEMode", aave.tokens[symbol], EMODE, True)
    _lend(aave)
    return aave


def deploy_v3_0(node: Node) -> Aave:
    """Deploy 3.0 with its sentinel, list every asset, and let somebody lend."""
    lab = Lab.of(node, "aave_v3.0")
    for name in ("BorrowLogic", "BridgeLogic", "ConfiguratorLogic", "EModeLogic"):
        lab.create(name)
    for name in ("FlashLoanLogic", "LiquidationLogic", "PoolLogic", "SupplyLogic"):
        lab.create(name)
    provider = _provider(lab)
    lab.do("PoolAddressesProvider", provider, "setPoolImpl", lab.create(V3_0.pool, provider))
    aave = _around(lab, V3_0, provider, NONE)
    lab.do(
        "PoolAddressesProvider",
        provider,
        "setPoolDataProvider",
        lab.create("AaveProtocolDataProvider", provider),
    )
    for name in (V3_0.atoken, "StableDebtToken", V3_0.debt_token):
        lab.create(name, aave.pool)
    best, *paid = (each * RAY // 10_000 for each in RATES)
    stable = (RAY // 200, RAY, RAY // 50, RAY // 20, RAY // 5)
    lab.create(V3_0.rates, provider, best, *paid, *stable)
    for symbol, token in aave.tokens.items():
        aave.add_reserve(token, ASSETS[symbol].decimals)
    _list(aave)
    for symbol, asset in ASSETS.items():
        if asset.emode:
            aave.configure("setAssetEModeCategory", aave.tokens[symbol], EMODE)
    _lend(aave)
    return aave


def _provider(lab: Lab) -> str:
    """Deploy the directory of a market, with the admin in every role."""
    provider = lab.create("PoolAddressesProvider", "lab", lab.admin)
    lab.do("PoolAddressesProvider", provider, "setACLAdmin", lab.admin)
    acl = lab.create("ACLManager", provider)
    lab.do("PoolAddressesProvider", provider, "setACLManager", acl)
    for role in ("addPoolAdmin", "addAssetListingAdmin", "addEmergencyAdmin"):
        lab.do("ACLManager", acl, role, lab.admin)
    return provider


def _around(lab: Lab, names: Names, provider: str, given: Mapping[str, str]) -> Aave:
    """Deploy what stands around a pool: tokens, prices, the sentinel, and the judge where there is one."""
    tokens = {name: lab.token(name, asset.decimals, given) for name, asset in ASSETS.items()}
    sources = {name: lab.create("PriceSource", 8, asset.cents * CENT) for name, asset in ASSETS.items()}
    feeds = (list(tokens.values()), list(sources.values()))
    oracle = lab.create("AaveOracle", provider, *feeds, NOBODY, NOBODY, 10**8)
    lab.do("PoolAddressesProvider", provider, "setPriceOracle", oracle)
    configurator = lab.create(names.configurator)
    lab.do("PoolAddressesProvider", provider, "setPoolConfiguratorImpl", configurator)
    sequencer = lab.create("SequencerOracle", lab.admin)
    sentinel = lab.create("PriceOracleSentinel", provider, sequencer, 3_600)
    lab.do("PoolAddressesProvider", provider, "setPriceOracleSentinel", sentinel)
    pool, configurator = (
        lab.ask("PoolAddressesProvider", provider, name) for name in ("getPool", "getPoolConfigurator")
    )
    judge = "LiquidationDataProvider"
    judged = lab.create(judge, pool, provider) if judge in lab.contracts else NOBODY
    return Aave(lab, names, pool, configurator, oracle, sequencer, tokens, sources, judged)


def _list(aave: Aave) -> None:
    # Once it counts as collateral, only a look for its suppliers would allow a ceiling.
    aave.configure("setDebtCeiling", aave.tokens[ISOLATED], 10**12)
    for symbol, asset in ASSETS.items():
        token = aave.tokens[symbol]
        levels = (asset.ltv_bps, asset.threshold_bps, asset.bonus_bps)
        aave.configure("configureReserveAsCollateral", token, *levels)
        aave.configure("setReserveBorrowing", token, True)
        aave.configure("setLiquidationProtocolFee", token, FEE_BPS)
    aave.configure("setBorrowableInIsolation", aave.tokens["USDC"], True)
    source = () if aave.names is V3_6 else (NOBODY,)
    aave.configure("setEModeCategory", EMODE, *EMODE_BPS, *source, "ETH and BTC")


def _lend(aave: Aave) -> None:
    """Let somebody lend a hundred million dollars of everything."""
    lender = "0x" + "11" * 20
    aave.lab.node.fund([lender])
    supplies = [aave.supply(lender, symbol, asset.units(10**8)) for symbol, asset in ASSETS.items()]
    aave.lab.run([*aave.fund(lender, list(ASSETS)), *supplies])


def populate(aave: Aave, count: int, seed: int) -> list[str]:
    """Open random accounts, of these kinds in turn, and return their owners.

    A mix of the named assets, e-mode, one collateral switched off, isolation, many reserves with dust in
    most; a third of all are so small that the dust rule holds for them.
    """
    rng = random.Random(seed)
    owners = ["0x" + rng.randbytes(20).hex() for _ in range(count)]
    aave.lab.node.fund(owners)
    kinds = (_mixed, _mixed, _emode, _mixed, _switched_off, _isolated, _mixed, _emode, _mixed, _many)
    txs = [tx for number, who in enumerate(owners) for tx in kinds[number % len(kinds)](aave, who, rng)]
    aave.lab.run(txs)
    return owners


def _mixed(aave: Aave, who: str, rng: random.Random) -> list[Tx]:
    held = rng.sample(NAMED, rng.choice((1, 1, 2, 3)))
    worth = {symbol: 10 ** rng.uniform(1.5, 5.5) for symbol in held}
    cap = sum(dollars * ASSETS[symbol].ltv_bps / 1e4 for symbol, dollars in worth.items())
    owed = rng.sample(NAMED, rng.choice((1, 2, 3)))
    return [*_opened(aave, who, worth), *_borrowed(aave, who, owed, cap * rng.uniform(0.8, 0.98))]


def _emode(aave: Aave, who: str, rng: random.Random) -> list[Tx]:
    """Collateral in the category, sometimes some outside as well; debt inside."""
    held = ["WETH", "USDC"][: rng.choice((1, 1, 2))]
    worth = {symbol: 10 ** rng.uniform(1.5, 5.5) for symbol in held}
    cap = sum(dollars * (0.9 if ASSETS[symbol].emode else 0.77) for symbol, dollars in worth.items())
    owed = rng.sample(("WBTC", "WETH"), rng.choice((1, 2)))
    enter = aave.act(who, "setUserEMode", EMODE)
    return [*_opened(aave, who, worth), enter, *_borrowed(aave, who, owed, cap * rng.uniform(0.8, 0.98))]


def _switched_off(aave: Aave, who: str, rng: random.Random) -> list[Tx]:
    off, *held = rng.sample(NAMED, 3)
    worth = {symbol: 10 ** rng.uniform(2, 5) for symbol in held}
    cap = sum(dollars * ASSETS[symbol].ltv_bps / 1e4 for symbol, dollars in worth.items())
    opened = _opened(aave, who, {off: 10 ** rng.uniform(2, 5), **worth})
    owed = rng.sample(NAMED, 1)
    return [*opened, aave.switch_off(who, off), *_borrowed(aave, who, owed, cap * rng.uniform(0.8, 0.98))]


def _isolated(aave: Aave, who: str, rng: random.Random) -> list[Tx]:
    dollars = 10 ** rng.uniform(2, 5)
    enter = aave.act(who, "setUserUseReserveAsCollateral", aave.tokens[ISOLATED], True)
    return [
        *_opened(aave, who, {ISOLATED: dollars}),
        enter,
        *_borrowed(aave, who, ["USDC"], dollars * 0.4 * rng.uniform(0.8, 0.98)),
    ]


def _many(aave: Aave, who: str, rng: random.Random) -> list[Tx]:
    """Collateral in up to nineteen reserves, two of them with more than dust, and debt in four."""
    others = [symbol for symbol in ASSETS if symbol != ISOLATED]
    held = rng.sample(others, rng.randint(8, len(others)))
    worth = {symbol: 10 ** rng.uniform(-1, 1) for symbol in held}
    for symbol in held[:2]:
        worth[symbol] = 10 ** rng.uniform(2.5, 4.5)
    cap = sum(dollars * ASSETS[symbol].ltv_bps / 1e4 for symbol, dollars in worth.items())
    return [
        *_opened(aave, who, worth),
        *_borrowed(aave, who, rng.sample(others, 4), cap * rng.uniform(0.8, 0.98)),
    ]


def _opened(aave: Aave, who: str, worth: Mapping[str, float]) -> list[Tx]:
    supplied = [aave.supply(who, symbol, ASSETS[symbol].units(dollars)) for symbol, dollars in worth.items()]
    return [*aave.fund(who, list(worth)), *supplied]


def _borrowed(aave: Aave, who: str, owed: Sequence[str], dollars: float) -> list[Tx]:
    """Borrow so many dollars, the first of several assets as much as all others together."""
    shares = [1.0] if len(owed) == 1 else [0.5] + [0.5 / (len(owed) - 1)] * (len(owed) - 1)
    return [
        aave.borrow(who, symbol, ASSETS[symbol].units(dollars * share))
        for symbol, share in zip(owed, shares, strict=True)
    ]
