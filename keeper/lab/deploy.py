"""HybridMargin on a throw-away chain: deployed from the committed artifacts, set up, and checked.

For the demo and for every test that needs the real contracts::

    with anvil(timestamp_s=1_600_000_000) as node:
        deployed = deploy(node, signers=[...])
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.domain import Call
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

T = TypeVar("T")


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
    slope: SlopeParams = SlopeParams(
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

    def tx(self, contract: str, function: str, to: str, *values: Any, sender: str | None = None) -> Tx:
        """Build any transaction from the admin, or from ``sender``."""
        call = function_of(contract, function).call(to, *values)
        return Tx(sender or self.admin, call.to, call.data)

    def units(self, symbol: str, amount_wad: Wad) -> int:
        """Return an amount in the token's own units, rounded down."""
        return amount_wad // _power(18 - self.decimals[symbol])


def function_of(contract: str, name: str) -> Function:
    """Return a function of one of our contracts."""
    return load(contract).functions[name]


def ask(node: Node, questions: Callable[[], Any]) -> Any:
    """Answer a generator that yields lists of calls (``read_deployment``) from the newest block."""
    asking = questions()
    calls: list[Call] = next(asking)
    try:
        while True:
            calls = asking.send(node.call_many([(call.to, call.data) for call in calls]))
    except StopIteration as done:
        return done.value


class _Builder:
    """Collects transactions of one fresh address, and knows the addresses that its creations will get."""

    def __init__(self, admin: str) -> None:
        self.admin = admin
        self.transactions: list[Tx] = []

    def create(self, contract: str, *arguments: Any) -> str:
        built = artifact(contract)
        constructors = [part for part in built["abi"] if part["type"] == "constructor"]
        types = [_canonical(parameter) for part in constructors for parameter in part["inputs"]]
        code = bytes.fromhex(built["bytecode"].removeprefix("0x")) + encode(types, arguments)
        address = created_address(self.admin, len(self.transactions))
        self.transactions.append(Tx(self.admin, None, code, GAS_CREATE))
        return address

    def do(self, contract: str, function: str, to: str, *arguments: Any) -> None:
        call = function_of(contract, function).call(to, *arguments)
        self.transactions.append(Tx(self.admin, call.to, call.data))


def deploy(
    node: Node, *, signers: Sequence[str], spec: Spec | None = None, timestamp_s: UnixS | None = None
) -> Deployed:
    """Deploy and set up everything of ``spec`` in one block; raise ChainFault where the result is not that."""
    spec = spec or Spec()
    admin = "0x" + secrets.token_hex(20)
    node.fund([admin], 10**24)
    build = _Builder(admin)
    decimals = {QUOTE: QUOTE_DECIMALS, **{c.symbol: c.decimals for c in spec.collaterals}}
    tokens = {
        symbol: build.create("TestToken", symbol, symbol, places) for symbol, places in decimals.items()
    }
    unit = 10**AGGREGATOR_DECIMALS
    # The aggregator's own bounds lie outside the adapter's, as those of a real one should.
    aggregators = {
        f.feed: build.create(
            "TestAggregator", AGGREGATOR_DECIMALS, f.lowest * unit // 100, f.highest * unit * 100, admin
        )
        for f in spec.feeds
    }
    fast_oracle = build.create("FastOracle", admin)
    adapter = build.create("ChainlinkAdapter", admin)
    router = build.create("OracleRouter", fast_oracle, admin)
    vault = build.create("Vault", admin)
    clearing = build.create("Clearing", vault, router, tokens[QUOTE], admin)
    liquidator = build.create("Liquidator", clearing, _slope_tuple(spec.slope))
    reader = build.create("MarginReader", clearing, liquidator)
    _set_up(
        build, spec, tokens, aggregators, signers, fast_oracle, adapter, router, vault, clearing, liquidator
    )
    node.run(build.transactions, timestamp_s)

    protocol: Deployment = ask(node, lambda: read_deployment(node.chain_id, reader))
    deployed = Deployed(
        admin=admin,
        protocol=protocol,
        adapter=adapter,
        tokens=tokens,
        decimals=decimals,
        aggregators=aggregators,
        markets={perp.feed: number for number, perp in protocol.rules.perps.items()},
        collaterals={c.symbol: number for number, c in enumerate(spec.collaterals, 1)},
    )
    expected = {
        "fast oracle": fast_oracle,
        "router": router,
        "vault": vault,
        "clearing": clearing,
        "liquidator": liquidator,
        "quote": tokens[QUOTE],
    }
    _verify(deployed, spec, expected)
    return deployed


def _set_up(
    build: _Builder,
    spec: Spec,
    tokens: Mapping[str, str],
    aggregators: Mapping[FeedId, str],
    signers: Sequence[str],
    fast_oracle: str,
    adapter: str,
    router: str,
    vault: str,
    clearing: str,
    liquidator: str,
) -> None:
    build.do("FastOracle", "setSigners", fast_oracle, list(signers), spec.quorum)
    for feed in spec.feeds:
        name, aggregator = feed_bytes(feed.feed), aggregators[feed.feed]
        source = (name, aggregator, aggregator, feed.heartbeat_s + 300, feed.lowest * WAD, feed.highest * WAD)
        build.do("ChainlinkAdapter", "setSource", adapter, *source)
        route = (name, adapter, feed.deviation_wad, feed.heartbeat_s, feed.min_delay_s)
        build.do("OracleRouter", "setFeed", router, *route)
    for token in tokens.values():
        build.do("Vault", "acceptToken", vault, token)
    for module in (clearing, liquidator):
        build.do("Vault", "addModule", vault, module)
    build.do("Clearing", "setLiquidator", clearing, liquidator)
    for perp in spec.perps:
        build.do("Clearing", "listPerp", clearing, feed_bytes(perp.feed), perp.mmr_wad, perp.imr_wad)
    for c in spec.collaterals:
        terms = (c.h_mm_wad, c.h_im_wad, c.sale_disc_max_wad, c.cap_wad)
        build.do("Clearing", "listCollateral", clearing, tokens[c.symbol], feed_bytes(c.feed), *terms)


def _verify(deployed: Deployed, spec: Spec, expected: Mapping[str, str]) -> None:
    """Compare what the chain says with what was asked for."""
    protocol = deployed.protocol
    found = {
        "fast oracle": protocol.fast_oracle,
        "router": protocol.router,
        "vault": protocol.vault,
        "clearing": protocol.clearing,
        "liquidator": protocol.liquidator,
        "quote": protocol.quote,
    }
    wrong = [
        f"{what} {found[what]}, not {address}" for what, address in expected.items() if found[what] != address
    ]
    if protocol.rules.slope != spec.slope:
        wrong.append("another slope")
    if tuple(protocol.rules.perps.values()) != spec.perps:
        wrong.append("other perps")
    listed = [(c.feed, c.h_mm_wad, c.h_im_wad) for c in protocol.rules.collaterals.values()]
    if listed != [(c.feed, c.h_mm_wad, c.h_im_wad) for c in spec.collaterals]:
        wrong.append("other collaterals")
    if wrong:
        raise ChainFault(f"the deployment is not what was asked for: {'; '.join(wrong)}")


def _power(exponent: int) -> int:
    power: int = 10**exponent
    return power


def _slope_tuple(slope: SlopeParams) -> tuple[int, ...]:
    return tuple(getattr(slope, name) for name in slope.__slots__)


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
