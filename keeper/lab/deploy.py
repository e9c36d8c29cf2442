"""HybridMargin on a throw-away chain: deployed from the committed artifacts, set up, and checked.

For the demo and for every test that needs the real contracts::

    with anvil(timestamp_s=1_600_000_000) as node:
        deployed = deploy(node, signers=[...])
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.errors import ChainFault
from keeper.lab.anvil import Node, Tx
from keeper.protocols.hybrid.abi import Function, artifact, load
from keeper.protocols.hybrid.params import (
    Deployment,
    Perp,
    SlopeParams,
    feed_bytes,
    read_deployment,
)
from keeper.units import WAD, FeedId, UnixS, Wad

QUOTE = "USDC"
QUOTE_DECIMALS = 6
AGGREGATOR_DECIMALS = 8
GAS_CREATE = 8_000_000
GRACE_S = 300
"""How long after its heartbeat a slow round is still believed."""

SLOPE = SlopeParams(
    beta_wad=15 * WAD // 100,
    beta_cure_wad=WAD // 10,
    beta_flag_wad=0,
    lambda_wad=116_468_285_312_632,
    q_min_wad=869_565_217_391_304_348,
    slope_s=1200,
    k0_wad=WAD // 200,
    k1_wad=3 * WAD // 100,
    fee_growth_s=300,
    theta_wad=WAD // 2,
    band_base_wad=WAD // 100,
    band_rate_wad=WAD // 100,
    band_max_wad=15 * WAD // 100,
    step_cap_wad=WAD // 5,
    step_window_s=30,
    min_slice_wad=100 * WAD,
    dust_wad=1_000 * WAD,
)
"""The defaults of the specification: a target of 15% in 1,200 s, a fee of 0.5% to 3%."""


@dataclass(frozen=True, slots=True)
class FeedSpec:
    """A price feed: how the slow source behaves, and T_min."""

    feed: FeedId
    deviation_wad: Wad = WAD // 100
    """Twice the slow feed's nominal deviation of 0.5%."""
    heartbeat_s: int = 3600
    min_delay_s: int = 12
    lowest: int = 1
    """Believable range of the slow price, in quote units."""
    highest: int = 1_000_000


@dataclass(frozen=True, slots=True)
class CollateralSpec:
    """A token that counts as collateral."""

    symbol: str
    decimals: int
    feed: FeedId
    h_mm_wad: Wad
    h_im_wad: Wad
    sale_disc_max_wad: Wad = 5 * WAD // 100
    cap_wad: Wad = 10**9 * WAD


@dataclass(frozen=True, slots=True)
class Spec:
    """What to deploy; the defaults are those of the demo."""

    feeds: tuple[FeedSpec, ...] = (FeedSpec("BTC/USD"), FeedSpec("ETH/USD"), FeedSpec("SYN/USD"))
    perps: tuple[Perp, ...] = (
        Perp(1, "BTC/USD", mmr_wad=5 * WAD // 100, imr_wad=8 * WAD // 100),
        Perp(2, "ETH/USD", mmr_wad=5 * WAD // 100, imr_wad=8 * WAD // 100),
        Perp(3, "SYN/USD", mmr_wad=8 * WAD // 100, imr_wad=12 * WAD // 100),
    )
    collaterals: tuple[CollateralSpec, ...] = (
        CollateralSpec("WETH", 18, "ETH/USD", h_mm_wad=85 * WAD // 100, h_im_wad=80 * WAD // 100),
        CollateralSpec("WBTC", 8, "BTC/USD", h_mm_wad=80 * WAD // 100, h_im_wad=75 * WAD // 100),
    )
    slope: SlopeParams = SLOPE
    quorum: int = 3


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment of ours: what any keeper reads from the chain, and what only its deployer knows."""

    admin: str
    """Owns the contracts, and mints and pays whatever a test needs; the node impersonates it."""
    protocol: Deployment
    adapter: str
    tokens: Mapping[str, str]
    """Token addresses by symbol, the quote token among them."""
    decimals: Mapping[str, int]
    aggregators: Mapping[FeedId, str]
    markets: Mapping[FeedId, int]
    collaterals: Mapping[str, int]

    def slow_round(self, feed: FeedId, price_wad: Wad) -> Tx:
        """Build a round of the slow feed at its block's time."""
        answer = price_wad // 10 ** (18 - AGGREGATOR_DECIMALS)
        return self.tx("TestAggregator", "update", self.aggregators[feed], answer)

    def mint(self, symbol: str, amount_wad: Wad) -> list[Tx]:
        """Build what gives the admin tokens that the Vault may take."""
        token, units = self.tokens[symbol], self.units(symbol, amount_wad)
        return [
            self.tx("TestToken", "mint", token, self.admin, units),
            self.tx("TestToken", "approve", token, self.protocol.vault, units),
        ]

    def give_credit(self, symbol: str, amount_wad: Wad, holder: str) -> Tx:
        """Build the deposit of minted tokens into the Vault, for anyone."""
        units = self.units(symbol, amount_wad)
        return self.tx("Vault", "deposit", self.protocol.vault, self.tokens[symbol], units, holder)

    def deposit(self, account: bytes, symbol: str, amount_wad: Wad, *, sender: str | None = None) -> Tx:
        """Build the move of the sender's credit into an account; of the admin's where no sender is given."""
        token = self.tokens[symbol]
        return self.tx(
            "Clearing", "deposit", self.protocol.clearing, account, token, amount_wad, sender=sender
        )

    def tx(self, contract: str, function: str, to: str, *values: object, sender: str | None = None) -> Tx:
        """Build any transaction from the admin, or from ``sender``."""
        call = function_of(contract, function).call(to, *values)
        return Tx(sender or self.admin, call.to, call.data)

    def units(self, symbol: str, amount_wad: Wad) -> int:
        """Return an amount in the token's own units, rounded down."""
        return amount_wad // _power(18 - self.decimals[symbol])


def function_of(contract: str, name: str) -> Function:
    """Return a function of one of our contracts."""
    return load(contract).functions[name]


def find(node: Node, reader: str) -> Deployment:
    """Read a deployment from the address of its MarginReader, as any keeper does."""
    asking = read_deployment(node.chain_id, reader)
    calls = next(asking)
    try:
        while True:
            calls = asking.send(node.call_many([(call.to, call.data) for call in calls]))
    except StopIteration as found:
        deployment: Deployment = found.value
        return deployment


def deploy(
    node: Node, *, signers: Sequence[str], spec: Spec | None = None, timestamp_s: UnixS | None = None
) -> Deployed:
    """Deploy and set up all of ``spec`` in one block; raise ChainFault where the result is something else."""
    spec = spec or Spec()
    plan = _Plan("0x" + secrets.token_hex(20), spec)
    plan.set_up(signers)
    node.fund([plan.admin], 10**24)
    node.run(plan.transactions, timestamp_s)
    protocol = find(node, plan.reader)
    plan.verify(protocol)
    return Deployed(
        admin=plan.admin,
        protocol=protocol,
        adapter=plan.adapter,
        tokens=plan.tokens,
        decimals=plan.decimals,
        aggregators=plan.aggregators,
        markets={perp.feed: number for number, perp in protocol.rules.perps.items()},
        collaterals={c.symbol: number for number, c in enumerate(spec.collaterals, 1)},
    )


class _Plan:
    """The transactions of one fresh address; what they create has addresses that are known beforehand."""

    def __init__(self, admin: str, spec: Spec) -> None:
        self.admin = admin
        self.transactions: list[Tx] = []
        self._spec = spec
        self.decimals = {QUOTE: QUOTE_DECIMALS, **{c.symbol: c.decimals for c in spec.collaterals}}
        self.tokens = {
            symbol: self._create("TestToken", symbol, symbol, places)
            for symbol, places in self.decimals.items()
        }
        self.aggregators = {feed.feed: self._aggregator(feed) for feed in spec.feeds}
        self.fast_oracle = self._create("FastOracle", admin)
        self.adapter = self._create("ChainlinkAdapter", admin)
        self.router = self._create("OracleRouter", self.fast_oracle, admin)
        self.vault = self._create("Vault", admin)
        self.clearing = self._create("Clearing", self.vault, self.router, self.tokens[QUOTE], admin)
        slope = tuple(getattr(spec.slope, field.name) for field in fields(spec.slope))
        self.liquidator = self._create("Liquidator", self.clearing, slope)
        self.reader = self._create("MarginReader", self.clearing, self.liquidator)

    def set_up(self, signers: Sequence[str]) -> None:
        """Name the reporters, route the feeds, bind the modules, list markets and collaterals."""
        spec = self._spec
        self._do("FastOracle", "setSigners", self.fast_oracle, list(signers), spec.quorum)
        for feed in spec.feeds:
            name, aggregator = feed_bytes(feed.feed), self.aggregators[feed.feed]
            bounds = (feed.lowest * WAD, feed.highest * WAD)
            age = feed.heartbeat_s + GRACE_S
            self._do(
                "ChainlinkAdapter", "setSource", self.adapter, name, aggregator, aggregator, age, *bounds
            )
            route = (feed.deviation_wad, feed.heartbeat_s, feed.min_delay_s)
            self._do("OracleRouter", "setFeed", self.router, name, self.adapter, *route)
        for token in self.tokens.values():
            self._do("Vault", "acceptToken", self.vault, token)
        for module in (self.clearing, self.liquidator):
            self._do("Vault", "addModule", self.vault, module)
        self._do("Clearing", "setLiquidator", self.clearing, self.liquidator)
        for perp in spec.perps:
            terms = (feed_bytes(perp.feed), perp.mmr_wad, perp.imr_wad)
            self._do("Clearing", "listPerp", self.clearing, *terms)
        for c in spec.collaterals:
            haircuts = (c.h_mm_wad, c.h_im_wad, c.sale_disc_max_wad, c.cap_wad)
            listed = (self.tokens[c.symbol], feed_bytes(c.feed), *haircuts)
            self._do("Clearing", "listCollateral", self.clearing, *listed)

    def verify(self, found: Deployment) -> None:
        """Compare what the chain says with what was asked for."""
        addresses = ("fast_oracle", "router", "vault", "clearing", "liquidator", "reader")
        wrong = [name for name in addresses if getattr(found, name) != getattr(self, name)]
        if found.quote != self.tokens[QUOTE]:
            wrong.append("quote")
        if found.rules.slope != self._spec.slope:
            wrong.append("slope")
        if tuple(found.rules.perps.values()) != self._spec.perps:
            wrong.append("perps")
        asked = [(c.feed, c.h_mm_wad, c.h_im_wad, c.sale_disc_max_wad) for c in self._spec.collaterals]
        listed = found.rules.collaterals.values()
        if [(c.feed, c.h_mm_wad, c.h_im_wad, c.sale_disc_max_wad) for c in listed] != asked:
            wrong.append("collaterals")
        if wrong:
            raise ChainFault(f"the deployment differs from what was asked for in: {', '.join(wrong)}")

    def _aggregator(self, feed: FeedSpec) -> str:
        """Create an aggregator whose own bounds lie outside the adapter's, as those of a real one should."""
        unit = 10**AGGREGATOR_DECIMALS
        bounds = (feed.lowest * unit // 100, feed.highest * unit * 100)
        return self._create("TestAggregator", AGGREGATOR_DECIMALS, *bounds, self.admin)

    def _create(self, contract: str, *arguments: object) -> str:
        built = artifact(contract)
        constructors = [part for part in built["abi"] if part["type"] == "constructor"]
        types = [_canonical(parameter) for part in constructors for parameter in part["inputs"]]
        code = bytes.fromhex(built["bytecode"].removeprefix("0x")) + encode(types, arguments)
        address = created_address(self.admin, len(self.transactions))
        self.transactions.append(Tx(self.admin, None, code, GAS_CREATE))
        return address

    def _do(self, contract: str, function: str, to: str, *arguments: object) -> None:
        call = function_of(contract, function).call(to, *arguments)
        self.transactions.append(Tx(self.admin, call.to, call.data))


def created_address(sender: str, nonce: int) -> str:
    """Return the address of the contract that a sender's transaction of some nonce creates: keccak of RLP."""
    digits = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    item = digits if 0 < nonce < 0x80 else bytes([0x80 + len(digits)]) + digits
    payload = b"\x94" + bytes.fromhex(sender[2:]) + item
    return "0x" + keccak(bytes([0xC0 + len(payload)]) + payload)[12:].hex()


def _canonical(parameter: Mapping[str, Any]) -> str:
    kind: str = parameter["type"]
    if not kind.startswith("tuple"):
        return kind
    inner = ",".join(_canonical(part) for part in parameter["components"])
    return f"({inner}){kind.removeprefix('tuple')}"


def _power(exponent: int) -> int:
    power: int = 10**exponent
    return power
