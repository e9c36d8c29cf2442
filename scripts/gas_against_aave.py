"""Measure what liquidating costs here and with Aave v3, in whole transactions on one local Anvil.

    .venv/bin/python scripts/gas_against_aave.py

Ours is deployed from ``abis/``. Aave's contracts are those of its own npm package, in ``.cache`` and checked
against the pinned hash; they are under their own licence and no part of this project. Both get price feeds of
the simplest kind, and takers who hold nothing at first. Needs scripts/setup --dev; docs/gas.md says what the
figures mean, and keeps those of one run.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_utils.abi import function_abi_to_4byte_selector, get_abi_input_types

from keeper.lab.anvil import Node, Tx, anvil
from keeper.lab.deploy import (
    QUOTE,
    CollateralSpec,
    Deployed,
    FeedSpec,
    Spec,
    UnderlyingSpec,
    created_address,
    deploy,
)
from keeper.lab.world import Person, fast_prices, person, reporters, trade
from keeper.protocols.hybrid.signing import Order
from keeper.units import WAD, UnixS, Wad

ROOT = Path(__file__).resolve().parent.parent
FETCHED = ROOT / ".cache" / "protocols" / "aave-core-v3"
AAVE = FETCHED / "artifacts" / "contracts"
START_S: UnixS = 1_600_000_000
BLOCK_S = 12
GAS_CREATE = 25_000_000
GAS_CALL = 10_000_000
NOBODY = "0x" + "00" * 20


@dataclass(slots=True)
class Chain:
    """A node whose blocks come when they are asked for."""

    node: Node
    now_s: UnixS = START_S

    def run(self, transactions: Sequence[Tx], *, after_s: int = 1) -> None:
        """Mine the transactions; ChainFault with the revert where one fails."""
        self.now_s += after_s
        self.now_s += self.node.run(transactions, self.now_s) - 1

    def gas(self, transaction: Tx, *, after_s: int = 1) -> int:
        """Mine one transaction in a block of its own and return the gas that its sender pays for."""
        self.run([transaction], after_s=after_s)
        (receipt,) = self.node.receipts().values()
        return int(receipt["gasUsed"], 16)


# --- Aave ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Aave:
    """Aave v3 with three assets, set up by one address as its own deployment scripts do."""

    chain: Chain
    admin: str = "0x" + "a0" * 20
    nonce: int = 0
    libraries: dict[str, str] = field(default_factory=dict)

    def create(self, path: str, *arguments: object) -> str:
        """Deploy a contract or a library, linked to the libraries that are there already."""
        built = artifact(path)
        constructors = [part for part in built["abi"] if part["type"] == "constructor"]
        types = get_abi_input_types(constructors[0]) if constructors else []
        code = bytes.fromhex(linked(built, self.libraries)) + encode(types, arguments)
        address = created_address(self.admin, self.nonce)
        self.send(Tx(self.admin, None, code, GAS_CREATE))
        self.libraries[path.rsplit("/", 1)[-1]] = address
        return address

    def do(self, path: str, to: str, function: str, *arguments: object) -> None:
        """Call a function as the admin."""
        self.send(call(path, to, function, *arguments, sender=self.admin))

    def send(self, tx: Tx) -> None:
        self.chain.run([tx])
        self.nonce += 1


def artifact(path: str) -> Mapping[str, Any]:
    """Return what Aave's authors compiled."""
    built: Mapping[str, Any] = json.loads(
        (AAVE / f"{path}.sol" / f"{path.rsplit('/', 1)[-1]}.json").read_text()
    )
    return built


def linked(built: Mapping[str, Any], libraries: Mapping[str, str]) -> str:
    """Return creation code in hexadecimal, with the libraries' addresses where they belong."""
    code: str = built["bytecode"][2:]
    for file in built["linkReferences"].values():
        for name, places in file.items():
            for place in places:
                start, end = 2 * place["start"], 2 * (place["start"] + place["length"])
                code = code[:start] + libraries[name][2:] + code[end:]
    return code


def call(path: str, to: str, function: str, *arguments: object, sender: str) -> Tx:
    """Build a call of one of Aave's contracts."""
    named = [
        part for part in artifact(path)["abi"] if part["type"] == "function" and part["name"] == function
    ]
    (part,) = [part for part in named if len(part["inputs"]) == len(arguments)]
    data = function_abi_to_4byte_selector(part) + encode(get_abi_input_types(part), arguments)
    return Tx(sender, to, data, GAS_CALL)


LOGIC = "protocol/libraries/logic/"
POOL = "protocol/pool/Pool"
CONFIGURATOR = "protocol/pool/PoolConfigurator"
PROVIDER = "protocol/configuration/PoolAddressesProvider"
ACL = "protocol/configuration/ACLManager"
TOKEN = "mocks/tokens/MintableERC20"  # noqa: S105
AGGREGATOR = "mocks/oracle/CLAggregators/MockAggregator"
ORACLE = "misc/AaveOracle"
RAY = 10**27
ASSETS = {"WETH": (18, 2000), "WBTC": (8, 40_000), "LINK": (18, 10), "USDC": (6, 1)}
"""Decimals and price of each asset."""


@dataclass(slots=True)
class AaveMarket:
    """Aave with a lender's USDC in it, and what acting on it needs."""

    aave: Aave
    pool: str
    oracle: str
    tokens: Mapping[str, str]

    def act(self, who: str, function: str, *arguments: object) -> Tx:
        """Build a call of the pool."""
        return call(POOL, self.pool, function, *arguments, sender=who)

    def give(self, who: str, symbol: str, amount: int) -> None:
        """Mint, and let the pool take it."""
        token = self.tokens[symbol]
        units = amount * 10 ** ASSETS[symbol][0]
        mint = call(TOKEN, token, "mint", units, sender=who)
        self.aave.chain.run([mint, call(TOKEN, token, "approve", self.pool, 2**255, sender=who)])

    def supply(self, who: str, symbol: str, amount: int) -> None:
        """Mint and lend; it counts as collateral at once."""
        self.give(who, symbol, amount)
        units = amount * 10 ** ASSETS[symbol][0]
        self.aave.chain.run([self.act(who, "supply", self.tokens[symbol], units, who, 0)])

    def slice(self, owner: str, taker: str) -> int:
        """Repay 500 USDC for WETH and return the gas."""
        weth, usdc = self.tokens["WETH"], self.tokens["USDC"]
        act = self.act(taker, "liquidationCall", weth, usdc, owner, 500 * 10**6, False)
        return self.aave.chain.gas(act, after_s=BLOCK_S)

    def fall(self, percent: int) -> None:
        """Every price but the dollar's becomes that many hundredths of what it was at first."""
        symbols = [symbol for symbol in ASSETS if symbol != "USDC"]
        sources = [self.aave.create(AGGREGATOR, ASSETS[s][1] * 10**6 * percent) for s in symbols]
        self.aave.do(ORACLE, self.oracle, "setAssetSources", [self.tokens[s] for s in symbols], sources)


def open_aave(chain: Chain) -> AaveMarket:
    """Deploy Aave, list the assets, and let somebody lend a million USDC."""
    aave = Aave(chain)
    chain.node.fund([aave.admin], 10**24)
    for name in ("BorrowLogic", "BridgeLogic", "ConfiguratorLogic", "EModeLogic"):
        aave.create(LOGIC + name)
    for name in ("FlashLoanLogic", "LiquidationLogic", "PoolLogic", "SupplyLogic"):
        aave.create(LOGIC + name)
    provider = aave.create(PROVIDER, "gas", aave.admin)
    aave.do(PROVIDER, provider, "setACLAdmin", aave.admin)
    acl = aave.create(ACL, provider)
    aave.do(PROVIDER, provider, "setACLManager", acl)
    aave.do(ACL, acl, "addPoolAdmin", aave.admin)
    aave.do(ACL, acl, "addAssetListingAdmin", aave.admin)
    tokens = {name: aave.create(TOKEN, name, name, decimals) for name, (decimals, _) in ASSETS.items()}
    sources = [aave.create(AGGREGATOR, price * 10**8) for _, price in ASSETS.values()]
    oracle = aave.create(ORACLE, provider, list(tokens.values()), sources, NOBODY, NOBODY, 10**8)
    aave.do(PROVIDER, provider, "setPriceOracle", oracle)
    aave.do(PROVIDER, provider, "setPoolImpl", aave.create(POOL, provider))
    aave.do(PROVIDER, provider, "setPoolConfiguratorImpl", aave.create(CONFIGURATOR))
    aave.do(PROVIDER, provider, "setPoolDataProvider", aave.create("misc/AaveProtocolDataProvider", provider))
    pool, configurator = (ask(aave, PROVIDER, provider, name) for name in ("getPool", "getPoolConfigurator"))
    list_assets(aave, provider, pool, configurator, tokens)
    market = AaveMarket(aave, pool, oracle, tokens)
    lender = actor(chain, "b0")
    market.supply(lender, "USDC", 10**6)
    return market


def list_assets(aave: Aave, provider: str, pool: str, configurator: str, tokens: Mapping[str, str]) -> None:
    """Make a reserve of each asset, to be lent against at 80% and liquidated at 82.5% with a bonus of 5%."""
    rates = (8 * RAY // 10, 0, 4 * RAY // 100, 60 * RAY // 100)
    stable = (5 * RAY // 1000, RAY, 2 * RAY // 100, 5 * RAY // 100, 2 * RAY // 10)
    strategy = aave.create("protocol/pool/DefaultReserveInterestRateStrategy", provider, *rates, *stable)
    folder = "protocol/tokenization/"
    held = [aave.create(folder + name, pool) for name in ("AToken", "StableDebtToken", "VariableDebtToken")]
    names = ("a", "a", "v", "v", "s", "s", b"")
    reserves = [
        (*held, ASSETS[symbol][0], strategy, token, aave.admin, NOBODY, *names)
        for symbol, token in tokens.items()
    ]
    aave.do(CONFIGURATOR, configurator, "initReserves", reserves)
    for token in tokens.values():
        aave.do(CONFIGURATOR, configurator, "configureReserveAsCollateral", token, 8000, 8250, 10_500)
        aave.do(CONFIGURATOR, configurator, "setReserveBorrowing", token, True)


def ask(aave: Aave, path: str, to: str, function: str) -> str:
    """Read an address."""
    answer = aave.chain.node.call(to, call(path, to, function, sender=aave.admin).data)
    return "0x" + answer[-20:].hex()


def actor(chain: Chain, byte: str) -> str:
    """Return an address that can pay for gas."""
    address = "0x" + byte * 20
    chain.node.fund([address])
    return address


def measure_aave(chain: Chain) -> dict[str, int]:
    """Measure liquidations of two accounts that owe 155,000 USDC on collateral of 200,000 before it fell."""
    market = open_aave(chain)
    books = {"1 collateral": {"WETH": 100}, "3 collaterals": {"WETH": 40, "WBTC": 2, "LINK": 4000}}
    owners, takers = [actor(chain, "c0"), actor(chain, "c1")], [actor(chain, "d0"), actor(chain, "d1")]
    for owner, taker, book in zip(owners, takers, books.values(), strict=True):
        for symbol, amount in book.items():
            market.supply(owner, symbol, amount)
        debt = (market.tokens["USDC"], 155_000 * 10**6, 2, 0, owner)
        chain.run([market.act(owner, "borrow", *debt)])
        market.give(taker, "USDC", 100_000)
    market.fall(92)
    gas = {}
    for owner, taker, what in zip(owners, takers, books, strict=True):
        gas[f"liquidationCall, {what}, first"] = market.slice(owner, taker)
        gas[f"liquidationCall, {what}, next"] = market.slice(owner, taker)
    return gas


# --- ours ----------------------------------------------------------------------------------------

FEEDS = ("ETH/USD", "BTC/USD", "SOL/USD", "XRP/USD")
PRICE: Wad = 100 * WAD
SPEC = Spec(
    feeds=tuple(FeedSpec(feed) for feed in FEEDS),
    underlyings=tuple(UnderlyingSpec(feed, 5 * WAD // 100, 10 * WAD // 100) for feed in FEEDS),
    perps=FEEDS,
    collaterals=(CollateralSpec("WETH", 18, "ETH/USD", h_mm_wad=8 * WAD // 10, h_im_wad=7 * WAD // 10),),
)
FOREVER: UnixS = 2**40 - 1
SEED = 1


@dataclass(slots=True)
class Ours:
    """Our protocol with a maker in it, and what acting on it needs."""

    chain: Chain
    deployed: Deployed
    maker: Person
    flagger: Person
    price_wad: Wad = PRICE
    orders: int = 0

    def gas(self, transaction: Tx) -> int:
        """Give fresh prices and measure a transaction."""
        self.print_prices()
        return self.chain.gas(transaction)

    def print_prices(self, *, after_s: int = BLOCK_S) -> None:
        """Let both oracles say the price of every feed."""
        observed_at_s = self.chain.now_s + after_s
        keys = [reporter.key for reporter in reporters(SEED)]
        prices = dict.fromkeys(FEEDS, self.price_wad)
        rounds = [self.deployed.slow_round(feed, self.price_wad) for feed in FEEDS]
        self.chain.run([*rounds, fast_prices(self.deployed, keys, prices, observed_at_s)], after_s=after_s)

    def fund(self, who: Person, symbol: str, amount_wad: Wad) -> None:
        """Mint, pay into the Vault, and deposit."""
        self.chain.node.fund([who.address])
        credit = self.deployed.give_credit(symbol, amount_wad, who.address)
        deposit = self.deployed.deposit(who.account, symbol, amount_wad, sender=who.address)
        self.chain.run([*self.deployed.mint(symbol, amount_wad), credit, deposit])

    def open(self, owner: Person, legs: int) -> None:
        """Buy perps worth 20,000 from the maker, the same of each."""
        for feed in FEEDS[:legs]:
            self.print_prices()
            self.orders += 1
            size = 20_000 * WAD * WAD // PRICE // legs
            market = self.deployed.perps[feed]
            order = Order(owner.account, market, size, PRICE, self.orders, FOREVER)
            self.chain.run([trade(self.deployed, owner, self.maker, order)])

    def act(self, who: Person, function: str, *arguments: object) -> Tx:
        """Build a call of the Liquidator."""
        liquidator = self.deployed.protocol.liquidator
        return self.deployed.tx("Liquidator", function, liquidator, *arguments, sender=who.address)

    def batch(self, who: Person, acts: Sequence[Tx]) -> Tx:
        """Build several acts in one."""
        return self.act(who, "batch", [act.data for act in acts])

    def slice(self, owner: Person, taker: Person, nonce: int = 0) -> Tx:
        """Build the next slice, whatever it brings."""
        return self.act(taker, "liquidate", owner.account, (taker.account, nonce, FOREVER, 0, WAD, 0), [])


def open_ours(chain: Chain) -> Ours:
    """Deploy ours, and give the flagger and the maker what they need."""
    signers = [reporter.address for reporter in reporters(SEED)]
    deployed = deploy(chain.node, signers=signers, spec=SPEC, timestamp_s=chain.now_s)
    ours = Ours(chain, deployed, person(SEED, "maker"), person(SEED, "flagger"))
    ours.fund(ours.maker, QUOTE, 1_000_000 * WAD)
    ours.fund(ours.flagger, QUOTE, WAD)
    chain.run(deployed.mint(QUOTE, 20_000 * WAD))
    holders = (ours.flagger.address, deployed.admin)
    chain.run([deployed.give_credit(QUOTE, 10_000 * WAD, holder) for holder in holders])
    chain.run([deployed.tx("Backstop", "fund", deployed.protocol.backstop, 10_000 * WAD)])
    ours.print_prices()
    chain.run([deployed.prove(feed) for feed in FEEDS])
    return ours


def measure_ours(chain: Chain) -> dict[str, int]:
    """Measure episodes of accounts with one and four perps, one with collateral, and a batch of four.

    An episode before them does not count: what the protocol itself keeps is written for the first time once.
    """
    ours = open_ours(chain)
    books = {"before": 4, "1 perp": 1, "4 perps": 4, "1 perp and collateral": 1}
    owners = {what: person(SEED, "owner", number) for number, what in enumerate(books)}
    together = [person(SEED, "owner", number) for number in range(10, 14)]
    for what, owner in owners.items():
        with_collateral = what.endswith("collateral")
        ours.fund(owner, *(("WETH", 31 * WAD) if with_collateral else (QUOTE, 2100 * WAD)))
        ours.open(owner, books[what])
    for owner in together:
        ours.fund(owner, QUOTE, 2100 * WAD)
        ours.open(owner, 1)
    takers = [person(SEED, "taker", number) for number in range(len(owners) + 1)]
    for taker in takers:
        ours.fund(taker, QUOTE, 100_000 * WAD)
    ours.price_wad = 93 * PRICE // 100
    gas: dict[str, int] = {}
    for (what, owner), taker in zip(owners.items(), takers, strict=False):
        gas |= {f"{act}, {what}": used for act, used in episode(ours, owner, taker).items()}
    gas |= batches(ours, together, takers[-1])
    return {what: used for what, used in gas.items() if not what.endswith("before")}


def episode(ours: Ours, owner: Person, taker: Person) -> dict[str, int]:
    """Measure one account's alarm, its confirmation, and two slices by a taker who holds nothing at first."""
    gas = {
        "flag": ours.gas(ours.act(ours.flagger, "flag", owner.account, [])),
        "confirm": ours.gas(ours.act(ours.flagger, "confirm", owner.account, [])),
        "slice, first": ours.gas(ours.slice(owner, taker)),
    }
    ours.print_prices(after_s=2 * BLOCK_S)
    return {**gas, "slice, next": ours.gas(ours.slice(owner, taker, 1))}


def batches(ours: Ours, owners: Sequence[Person], taker: Person) -> dict[str, int]:
    """Measure four accounts with a perp each, every act for all of them in one transaction."""
    steps: dict[str, list[Tx]] = {
        "flag": [ours.act(ours.flagger, "flag", owner.account, []) for owner in owners],
        "confirm": [ours.act(ours.flagger, "confirm", owner.account, []) for owner in owners],
        "slice, first": [ours.slice(owner, taker) for owner in owners],
    }
    whos = (ours.flagger, ours.flagger, taker)
    return {
        f"{act}, 1 perp, in a batch of 4, each": ours.gas(ours.batch(who, acts)) // len(acts)
        for who, (act, acts) in zip(whos, steps.items(), strict=True)
    }


# --- together ------------------------------------------------------------------------------------


def program_version(name: str) -> str:
    """Return the first line that one of our programs says of its version."""
    command = [str(ROOT / "tools" / "bin" / name), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def commit() -> str:
    """Return the commit that is checked out, and whether ``abis/`` is the one in it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "abis"], check=False).returncode
    return (head.stdout.strip() or "unknown") + (", with changes to abis" if changed else "")


def table(gas: Mapping[str, int], unit: int) -> str:
    """Write a table in Markdown, each row beside ``unit``."""
    rows = [f"| {what} | {used:,} | {used / unit:.2f} |" for what, used in gas.items()]
    return "\n".join(["| transaction | gas | times |", "|---|---:|---:|", *rows])


def main() -> None:
    version = json.loads((FETCHED / "package.json").read_text())["version"]
    with anvil(timestamp_s=START_S - 1) as node:
        theirs = measure_aave(Chain(node))
    with anvil(timestamp_s=START_S - 1) as node:
        ours = measure_ours(Chain(node))
    unit = theirs["liquidationCall, 1 collateral, first"]
    print(f"@aave/core-v3 {version}; {program_version('anvil')}; our commit {commit()}\n")
    print(f"{table(theirs, unit)}\n\n{table(ours, unit)}")


if __name__ == "__main__":
    main()
