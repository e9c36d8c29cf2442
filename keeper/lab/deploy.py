"""HybridMargin on a throw-away chain: deployed from the committed artifacts, set up, and checked.

For the demo and for every test that needs the real contracts::

    with anvil(timestamp_s=1_600_000_000) as node:
        deployed = deploy(node, signers=[...])
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.abi import Function
from keeper.domain import Kind
from keeper.errors import ChainFault
from keeper.lab.anvil import Node, Tx
from keeper.protocols.hybrid import codec
from keeper.protocols.hybrid.abi import artifact, load
from keeper.protocols.hybrid.params import (
    Collateral,
    Deployment,
    Listed,
    Ramp,
    Rules,
    SlopeParams,
    Underlying,
    feed_bytes,
    read_deployment,
)
from keeper.protocols.hybrid.steward import RAMP_MIN_S, Bounds
from keeper.risk.slope import floor_wad, lambda_wad
from keeper.units import WAD, FeedId, UnixS, Wad

QUOTE = "USDC"
QUOTE_DECIMALS = 6
AGGREGATOR_DECIMALS = 8
GAS_CREATE = 12_000_000
"""The Liquidator deploys the registry of its slopes besides itself."""
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
_EARLY_BETA_WAD = 6 * WAD // 10
EARLY_SLOPE = replace(
    SLOPE,
    beta_wad=_EARLY_BETA_WAD,
    beta_cure_wad=45 * WAD // 100,
    beta_flag_wad=3 * WAD // 10,
    lambda_wad=lambda_wad(beta_wad=_EARLY_BETA_WAD, slope_s=SLOPE.slope_s),
    q_min_wad=floor_wad(_EARLY_BETA_WAD),
    k0_wad=WAD // 500,
    k1_wad=WAD // 100,
)
"""For owners who choose it: small slices begin between initial and maintenance margin, for a lower fee."""

BOUNDS = Bounds(
    mmr_least_wad=2 * WAD // 100,
    mmr_most_wad=20 * WAD // 100,
    imr_least_wad=4 * WAD // 100,
    imr_most_wad=40 * WAD // 100,
    rise_wad=WAD // 4,
    fall_wad=WAD // 10,
    interval_s=RAMP_MIN_S,
)
"""Between what a quorum may move margins: a quarter up, a tenth down, once in the day that a ramp takes."""


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
class UnderlyingSpec:
    """What the margin of a feed's perps and options asks, and how fast slices may move it."""

    feed: FeedId
    mmr_wad: Wad
    imr_wad: Wad
    short_min_wad: Wad = WAD // 100
    bucket_cap_wad: Wad = 10**9 * WAD
    """Notional a minute."""
    bounds: Bounds | None = BOUNDS
    """Between what a quorum may move its margins."""


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """A European option."""

    feed: FeedId
    kind: Kind
    strike_wad: Wad
    expiry_s: UnixS


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


MILLION = 10**6 * WAD
DEPTH_SHARE = 20
"""One over the part of a market's depth that slices may move within a minute."""
DEPTHS_WAD: Mapping[FeedId, Wad] = {
    "BTC/USD": 200 * MILLION,
    "ETH/USD": 100 * MILLION,
    "SYN/USD": 20 * MILLION,
}
"""What the demo takes for the resting orders within 1% of the price: assumptions, not measurements."""


def _demo_underlying(feed: FeedId, mmr_percent: int, imr_percent: int) -> UnderlyingSpec:
    margins = (mmr_percent * WAD // 100, imr_percent * WAD // 100)
    return UnderlyingSpec(feed, *margins, bucket_cap_wad=DEPTHS_WAD[feed] // DEPTH_SHARE)


@dataclass(frozen=True, slots=True)
class Spec:
    """What to deploy; the defaults are those of the demo. Markets are numbered perps first, then options."""

    feeds: tuple[FeedSpec, ...] = (FeedSpec("BTC/USD"), FeedSpec("ETH/USD"), FeedSpec("SYN/USD"))
    underlyings: tuple[UnderlyingSpec, ...] = (
        _demo_underlying("BTC/USD", 5, 8),
        _demo_underlying("ETH/USD", 5, 8),
        _demo_underlying("SYN/USD", 8, 12),
    )
    perps: tuple[FeedId, ...] = ("BTC/USD", "ETH/USD", "SYN/USD")
    """The feeds of the perps, market 1 first; a feed may have several."""
    options: tuple[OptionSpec, ...] = ()
    collaterals: tuple[CollateralSpec, ...] = (
        CollateralSpec("WETH", 18, "ETH/USD", h_mm_wad=85 * WAD // 100, h_im_wad=80 * WAD // 100),
        CollateralSpec("WBTC", 8, "BTC/USD", h_mm_wad=80 * WAD // 100, h_im_wad=75 * WAD // 100),
    )
    slope: SlopeParams = SLOPE
    offered: tuple[SlopeParams, ...] = (EARLY_SLOPE,)
    """What owners may choose instead, slope 1 first."""
    quorum: int = 3

    def rules(self, tokens: Mapping[str, str] | None = None) -> Rules:
        """Return the rules that a deployment of it has, with its tokens where they are known."""
        addresses = tokens or {}
        perps = (Listed(number, feed) for number, feed in enumerate(self.perps, 1))
        options = (
            Listed(number, option.feed, option.kind, option.strike_wad, option.expiry_s)
            for number, option in enumerate(self.options, 1 + len(self.perps))
        )
        return Rules(
            slopes=(self.slope, *self.offered),
            default_slope=0,
            underlyings={
                each.feed: Underlying(
                    each.feed, _level(each.mmr_wad), _level(each.imr_wad), _level(each.short_min_wad)
                )
                for each in self.underlyings
            },
            markets={market.market: market for market in (*perps, *options)},
            collaterals={
                number: Collateral(
                    number, addresses.get(c.symbol, "0x" + "00" * 20), c.feed,
                    _level(c.h_mm_wad), _level(c.h_im_wad), c.sale_disc_max_wad,
                )
                for number, c in enumerate(self.collaterals, 1)
            },
        )  # fmt: skip


def _level(value_wad: Wad) -> Ramp:
    """Return a term that does not move."""
    return Ramp(value_wad, value_wad, 0, 0)


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
    perps: Mapping[FeedId, int]
    """Market numbers; of a feed with several perps the last one."""
    collaterals: Mapping[str, int]

    def slow_round(self, feed: FeedId, price_wad: Wad) -> Tx:
        """Build a round of the slow feed at its block's time."""
        answer = price_wad // 10 ** (18 - AGGREGATOR_DECIMALS)
        return self.tx("TestAggregator", "update", self.aggregators[feed], answer)

    def prove(self, feed: FeedId) -> Tx:
        """Build the end of a slow source's probation: both prices must be fresh, and close together."""
        return self.tx("OracleRouter", "prove", self.protocol.router, feed_bytes(feed))

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
    """Deploy and set up all of ``spec`` in one block; raise ChainFault where the result is something else.

    The slow sources are on probation: ``Deployed.prove`` ends it once there are prices.
    """
    spec = spec or Spec()
    plan = _Plan("0x" + secrets.token_hex(20), spec, signers)
    plan.set_up()
    node.fund([plan.admin], 10**24)
    node.run(plan.transactions, timestamp_s)
    protocol = find(node, plan.reader)
    plan.verify(node, protocol)
    return Deployed(
        admin=plan.admin,
        protocol=protocol,
        adapter=plan.adapter,
        tokens=plan.tokens,
        decimals=plan.decimals,
        aggregators=plan.aggregators,
        perps={m.feed: number for number, m in protocol.rules.markets.items() if not m.is_option},
        collaterals={c.symbol: number for number, c in enumerate(spec.collaterals, 1)},
    )


class _Plan:
    """The transactions of one fresh address; what they create has addresses that are known beforehand."""

    def __init__(self, admin: str, spec: Spec, signers: Sequence[str]) -> None:
        self.admin = admin
        self.transactions: list[Tx] = []
        self._spec = spec
        self._signers = list(signers)
        self.decimals = {QUOTE: QUOTE_DECIMALS, **{c.symbol: c.decimals for c in spec.collaterals}}
        self.tokens = {
            symbol: self._create("TestToken", symbol, symbol, places)
            for symbol, places in self.decimals.items()
        }
        quote = self.tokens[QUOTE]
        self.aggregators = {feed.feed: self._aggregator(feed) for feed in spec.feeds}
        self.fast_oracle = self._create("FastOracle", admin)
        self.adapter = self._create("ChainlinkAdapter", admin)
        self.router = self._create("OracleRouter", self.fast_oracle, admin)
        self.vault = self._create("Vault", admin)
        self.instruments = self._create("Instruments", self.vault, self.router, quote, admin)
        self.risk_arrays = self._create("RiskArrays", self.fast_oracle, self.router, self.instruments)
        priced = (self.router, self.instruments)
        self.clearing = self._create("Clearing", self.vault, *priced, self.risk_arrays, quote, admin)
        margined = (self.clearing, self.instruments, self.risk_arrays, self.router)
        self.engine = self._create("MarginEngine", *margined)
        self.backstop = self._create("Backstop", self.vault, self.clearing, *priced, quote, admin)
        self.breaker = self._create("Breaker", self.router, admin, admin)
        parts = (self.clearing, self.engine, self.instruments, self.backstop, self.breaker)
        self.liquidator = self._create("Liquidator", *parts, _values(spec.slope), admin)
        # A contract's own count of what it creates begins at 1.
        self.slopes = created_address(self.liquidator, 1)
        self.reader = self._create("MarginReader", self.clearing, self.liquidator)
        self.steward = self._create("RiskSteward", self.fast_oracle, self.instruments, admin)

    def set_up(self) -> None:
        """Name the reporters, route the feeds, bind the modules, list everything, offer the slopes."""
        spec = self._spec
        self._do("FastOracle", "setSigners", self.fast_oracle, self._signers, spec.quorum)
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
        for module in (self.clearing, self.liquidator, self.backstop):
            self._do("Vault", "addModule", self.vault, module)
        modules = (self.liquidator, self.engine, self.backstop, self.breaker)
        self._do("Clearing", "bind", self.clearing, *modules)
        self._list()
        for number, slope in enumerate(spec.offered, 1):
            self._do("Slopes", "addSlope", self.slopes, _values(slope))
            self._do("Slopes", "offerSlope", self.slopes, number, True)

    def _list(self) -> None:
        spec, listing = self._spec, ("Instruments", self.instruments)
        self._do(listing[0], "setSteward", listing[1], self.steward)
        for each in spec.underlyings:
            terms = (each.mmr_wad, each.imr_wad, each.short_min_wad, each.bucket_cap_wad)
            self._do(listing[0], "listUnderlying", listing[1], feed_bytes(each.feed), *terms)
            if each.bounds:
                allowed = astuple(each.bounds)
                self._do("RiskSteward", "setBounds", self.steward, feed_bytes(each.feed), allowed)
        for feed in spec.perps:
            self._do(listing[0], "listPerp", listing[1], feed_bytes(feed))
        for option in spec.options:
            contract = (option.strike_wad, option.expiry_s, option.kind is Kind.CALL)
            self._do(listing[0], "listOption", listing[1], feed_bytes(option.feed), *contract)
        for c in spec.collaterals:
            haircuts = (c.h_mm_wad, c.h_im_wad, c.sale_disc_max_wad, c.cap_wad)
            listed = (self.tokens[c.symbol], feed_bytes(c.feed), *haircuts)
            self._do(listing[0], "listCollateral", listing[1], *listed)

    def verify(self, node: Node, found: Deployment) -> None:
        """Compare what the chain says with what was asked for."""
        parts = (part.name for part in fields(Deployment) if hasattr(self, part.name))
        wrong = [name for name in parts if getattr(found, name) != getattr(self, name)]
        if found.quote != self.tokens[QUOTE]:
            wrong.append("quote")
        asked = _levels(self._spec.rules(self.tokens))
        wrong += [name for name, value in _levels(found.rules).items() if value != asked[name]]
        answers = _ask(node, [question for question, _ in self._asked()])
        wrong += [
            f"{question[0]}.{question[2]}"
            for (question, expected), answer in zip(self._asked(), answers, strict=True)
            if answer != expected
        ]
        world = codec.world_call(found.reader, found.rules)
        buckets = codec.decode_world(node.call(world.to, world.data), found).buckets
        caps = {each.feed: each.bucket_cap_wad for each in self._spec.underlyings}
        if {feed: bucket.cap_wad for feed, bucket in buckets.items() if feed in caps} != caps:
            wrong.append("bucket caps")
        if wrong:
            raise ChainFault(f"the deployment differs from what was asked for in: {', '.join(wrong)}")

    def _asked(self) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Name what a keeper does not read: contract, address, function, arguments; and the answer."""
        spec, modules = self._spec, (self.clearing, self.liquidator, self.backstop)
        questions: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = [
            (("FastOracle", self.fast_oracle, "quorum"), (spec.quorum,)),
            (("Breaker", self.breaker, "guardian"), (self.admin,)),
            (("Instruments", self.instruments, "steward"), (self.steward,)),
            *((("Vault", self.vault, "isModule", module), (True,)) for module in modules),
            *((("Slopes", self.slopes, "offered", 1 + i), (True,)) for i, _ in enumerate(spec.offered)),
        ]
        for i, signer in enumerate(self._signers):
            questions.append((("FastOracle", self.fast_oracle, "signers", i), (signer.lower(),)))
        for each in spec.underlyings:
            allowed = astuple(each.bounds) if each.bounds else (0,) * len(fields(Bounds))
            questions.append((("RiskSteward", self.steward, "bounds", feed_bytes(each.feed)), allowed))
        for symbol, places in self.decimals.items():
            scale = _power(18 - places)
            questions.append((("Vault", self.vault, "scaleOf", self.tokens[symbol]), (scale,)))
        for feed in spec.feeds:
            route = (self.adapter, feed.deviation_wad, feed.heartbeat_s, feed.min_delay_s, False)
            questions.append((("OracleRouter", self.router, "feeds", feed_bytes(feed.feed)), route))
        for number, c in enumerate(spec.collaterals, 1):
            question = ("Instruments", self.instruments, "collateral", number)
            terms = (self.tokens[c.symbol], feed_bytes(c.feed), c.h_mm_wad, c.cap_wad)
            questions.append((question, terms))
        return questions

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


def _ask(node: Node, questions: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Ask several contracts; yield the answers in order."""
    functions = [function_of(contract, name) for contract, _, name, *_ in questions]
    calls = [
        function.call(to, *arguments)
        for function, (_, to, _, *arguments) in zip(functions, questions, strict=True)
    ]
    answers = node.call_many([(call.to, call.data) for call in calls])
    yield from (function.result(answer) for function, answer in zip(functions, answers, strict=True))


def _values(slope: SlopeParams) -> tuple[int, ...]:
    """Return a slope as the contract's struct."""
    return tuple(getattr(slope, part.name) for part in fields(slope))


def _levels(rules: Rules) -> dict[str, object]:
    """Return the parts of rules whose terms do not move, whenever they were set."""

    def level(ramp: Ramp) -> Ramp:
        return replace(ramp, start_s=0, end_s=0)

    return {
        "slopes": (rules.slopes, rules.default_slope),
        "markets": dict(rules.markets),
        "underlyings": {
            feed: (level(each.mmr), level(each.imr), level(each.short_min))
            for feed, each in rules.underlyings.items()
        },
        "collaterals": {
            number: replace(each, h_mm=level(each.h_mm), h_im=level(each.h_im))
            for number, each in rules.collaterals.items()
        },
    }


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
