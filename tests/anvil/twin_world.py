"""A whole deployment with random owners and random prices, for the differential test of slices.

Whatever mines a block sets its time itself: the twin is asked what that very block will do.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from coincurve import PublicKey
from eth_utils.crypto import keccak

from keeper.domain import (
    Account,
    Call,
    ChainTime,
    Fact,
    HybridAct,
    Kind,
    Leg,
    Log,
    Observation,
    OracleView,
    Phase,
)
from keeper.lab.anvil import Node, Tx, anvil
from keeper.lab.deploy import (
    CollateralSpec,
    Deployed,
    FeedSpec,
    OptionSpec,
    Spec,
    UnderlyingSpec,
    deploy,
    function_of,
)
from keeper.protocols.hybrid import codec, math
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import Listed, Rules
from keeper.protocols.hybrid.portfolio import Setting, setting_at, unit_value_wad
from keeper.protocols.hybrid.rows import accounts_of
from keeper.protocols.hybrid.signing import Order, sign_order, sign_risk_arrays
from keeper.risk.scenarios import Option, PackedArray, array_of, pack
from keeper.risk.slope import floor_wad, lambda_wad
from keeper.steward.arrays import Post
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad

GENESIS_S = 1_600_000_000
GAS = 8_000_000
BASE = {"BTC/USD": 20_000, "ETH/USD": 1_500, "XAU/USD": 1_900, "SOL/USD": 30, "SYN/USD": 7}
FEEDS = tuple(BASE)
REPORTER, OWNER, RIVAL, KEEPER = (keccak(text=name) for name in ("reporter", "owner", "rival", "keeper"))

SLOPE = Spec().slope
EARLY = replace(
    SLOPE,
    beta_wad=6 * WAD // 10,
    beta_cure_wad=5 * WAD // 10,
    beta_flag_wad=3 * WAD // 10,
    slope_s=300,
    lambda_wad=lambda_wad(beta_wad=6 * WAD // 10, slope_s=300),
    q_min_wad=floor_wad(6 * WAD // 10),
    k0_wad=WAD // 500,
    k1_wad=WAD // 100,
    fee_growth_s=77,
    step_cap_wad=WAD // 2,
    step_window_s=17,
    min_slice_wad=WAD,
    dust_wad=3 * WAD,
)

EXPIRY_S = GENESIS_S + 40 * 86_400
OPTIONS = (
    (Kind.CALL, 105, 0),
    (Kind.CALL, 120, 0),
    (Kind.PUT, 95, 0),
    (Kind.CALL, 100, 9),
    (Kind.PUT, 85, 9),
)
"""On two feeds each: kind, strike in percent of the price at the start, and days after the first expiry."""
VOL = 0.7

Book: TypeAlias = tuple[Wad, dict[str, Wad], list[tuple[int, float]]]
"""Cash, collateral tokens, and markets with signed weights."""

TOKENS = {"WETH": (18, "ETH/USD"), "WBTC": (8, "BTC/USD"), "PAXG": (0, "XAU/USD"), "SYN": (6, "SYN/USD")}
"""Decimals and feed of each collateral."""


def address_of(key: bytes) -> str:
    point = PublicKey.from_valid_secret(key).format(compressed=False)
    return "0x" + keccak(point[1:])[12:].hex()


def owner_of(account: AccountKey) -> str:
    return "0x" + account[:20].hex()


def account_of(key: bytes, number: int) -> AccountKey:
    return bytes.fromhex(address_of(key)[2:]) + number.to_bytes(12, "big")


RIVALS = [account_of(RIVAL, number) for number in range(4)]
"""Several, for none could hold all legs."""
TAKERS = [account_of(KEEPER, number) for number in range(7)]
RICH, EMPTY, BUSY, POOR, HEDGED, *FRESH = TAKERS
"""They differ in what they hold; who is fresh holds nothing until an expiry."""
NEWCOMERS = 30
BLOCK_TXS = 100


def spec() -> Spec:
    """Ten perps on five feeds, so that a taker can run out of legs; four collaterals of any decimals."""
    mmrs = [WAD * percent // 100 for percent in (3, 5, 4, 6, 8)]
    caps = [10**6, 10**5, 3 * 10**5, 10**5, 10**7]
    return Spec(
        feeds=tuple(FeedSpec(feed) for feed in FEEDS),
        underlyings=tuple(
            UnderlyingSpec(feed, mmr, mmr + WAD // 50, WAD // 100 + 7, cap * WAD)
            for feed, mmr, cap in zip(FEEDS, mmrs, caps, strict=True)
        ),
        perps=FEEDS * 2,
        options=tuple(
            OptionSpec(feed, kind, BASE[feed] * percent * WAD // 100, EXPIRY_S + days * 86_400)
            for feed in ("BTC/USD", "ETH/USD")
            for kind, percent, days in OPTIONS
        ),
        collaterals=(
            CollateralSpec("WETH", 18, "ETH/USD", 85 * WAD // 100, 80 * WAD // 100),
            CollateralSpec("WBTC", 8, "BTC/USD", 80 * WAD // 100, 75 * WAD // 100, 15 * WAD // 100),
            CollateralSpec("PAXG", 0, "XAU/USD", 60 * WAD // 100 + 1, 60 * WAD // 100, 30 * WAD // 100 + 7),
            CollateralSpec("SYN", 6, "SYN/USD", 30 * WAD // 100, 20 * WAD // 100, 65 * WAD // 100),
        ),
        slope=SLOPE,
        offered=(EARLY,),
        quorum=1,
    )


@contextmanager
def world_of(seed: int) -> Iterator[World]:
    """Deploy everything on a node of its own; random numbers come from the seed."""
    with anvil(timestamp_s=GENESIS_S) as node:
        deployed = deploy(node, signers=[address_of(REPORTER)], spec=spec())
        yield World(node, deployed, random.Random(seed), node.timestamp_s())


@dataclass
class World:
    """One deployment, its prices and accounts."""

    node: Node
    deployed: Deployed
    dice: random.Random
    now_s: UnixS
    nonce: int = 0
    accounts: int = 0
    """The owner's, so far."""
    targets: list[AccountKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.protocol = self.deployed.protocol
        self.market = HybridMarket(self.protocol)
        self.fast = {feed: price * WAD for feed, price in BASE.items()}
        self.slow = dict(self.fast)
        self.fast_silent: set[FeedId] = set()
        self.arrays_silent: set[FeedId] = set()
        self.proven = False
        self.takers: list[AccountKey] = [RICH] * 6 + [EMPTY] * 3 + [BUSY, POOR] + [HEDGED] * 3
        """Whom slices go to, each as often as it is named."""
        self.seen: Counter[str] = Counter()

    @property
    def rules(self) -> Rules:
        return self.market.deployment.rules

    # --- prices ---

    def post_prices(self, after_s: int) -> None:
        """Mine one block with a slow round, a signed report and the risk arrays of every feed that speaks."""
        self.now_s += after_s
        rounds = [self.deployed.slow_round(feed, price) for feed, price in self.slow.items()]
        posts = [*self._reports(after_s), *self._arrays()]
        proofs = [] if self.proven else [self.deployed.prove(feed) for feed in FEEDS]
        assert self.node.run([*rounds, *posts, *proofs], self.now_s) == 1
        self.proven = True

    def _reports(self, after_s: int) -> list[Tx]:
        bundles = []
        for feed in sorted(set(FEEDS) - self.fast_silent):
            observed_s = self.now_s - self.dice.randrange(min(after_s, 5))
            observation = Observation(feed, self.fast[feed], 10, observed_s, self.now_s + 30)
            bundles.append((self.market.sign_report(observation, REPORTER),))
        return [self.tx(self.market.post_call(bundles))] if bundles else []

    def _arrays(self) -> list[Tx]:
        live = (market for market in self.rules.markets.values() if market.expiry_s > self.now_s)
        packed = [self.packed(market) for market in live if market.feed not in self.arrays_silent]
        return [self.tx(self.signed(packed))] if packed else []

    def packed(self, market: Listed) -> PackedArray:
        """Value an option at the fast price."""
        option = Option(market.market, market.kind, market.strike_wad, market.expiry_s)
        mmr_wad = self.rules.at(self.now_s).risks[market.feed].mmr_wad
        spot = self.fast[market.feed] / WAD
        array = array_of(option, spot=spot, vol=VOL, mmr=mmr_wad / WAD, now_s=self.now_s)
        return pack(option, array, mmrs_wad=[mmr_wad])

    def signed(self, packed: Sequence[PackedArray]) -> Call:
        """Build the post of some arrays; one reporter is a quorum here."""
        valid_until_s, contract = self.now_s + 60, self.protocol.risk_arrays
        chain_id = self.protocol.chain_id
        signature = sign_risk_arrays(REPORTER, packed, valid_until_s, risk_arrays=contract, chain_id=chain_id)
        return self.market.post_arrays_call(Post(tuple(packed), valid_until_s), [signature])

    def drift(self, spread: float) -> None:
        """Move every price by up to ``spread``, and fast and slow apart by up to 3%."""
        for feed in FEEDS:
            self.slow[feed] = int(self.slow[feed] * (1 + self.dice.uniform(-spread, spread)))
            self.fast[feed] = int(self.slow[feed] * (1 + self.dice.uniform(-0.03, 0.03)))
        self._round_slow()

    def agree(self) -> None:
        """Let the slow prices follow the fast ones."""
        self.slow = dict(self.fast)
        self._round_slow()

    def _round_slow(self) -> None:
        """Keep the slow prices to the decimals of their aggregators."""
        self.slow = {feed: price // 10**10 * 10**10 for feed, price in self.slow.items()}

    def speak(self) -> None:
        """Let every oracle and every risk array speak again."""
        self.fast_silent, self.arrays_silent = set(), set()
        self.post_prices(20)

    def oracles(self) -> OracleView:
        return self.market.decode_prices(self.ask(self.market.prices_call()))

    def setting(self, now_s: UnixS) -> Setting:
        return setting_at(self.rules, self.oracles(), now_s)

    # --- accounts ---

    def open_account(self, key: AccountKey, *, cash_wad: Wad, tokens: Mapping[str, Wad]) -> list[Tx]:
        owner = owner_of(key)
        funds = {"USDC": cash_wad, **tokens}
        return [
            tx
            for symbol, wad in funds.items()
            for tx in (
                self.deployed.give_credit(symbol, wad, owner),
                self.deployed.deposit(key, symbol, wad, sender=owner),
            )
            if wad
        ]

    def trade(self, key: AccountKey, market: int, size_wad: Wad, *, secret: bytes = OWNER) -> Tx:
        """Trade against the rival at the fast price."""
        price = self.price_of(market)
        limit = (2**128 - 1, 0)
        self.nonce += 1
        deadline = self.now_s + 600
        mine = Order(key, market, size_wad, limit[size_wad < 0], self.nonce, deadline)
        theirs = Order(RIVALS[market // 6], market, -size_wad, limit[size_wad > 0], self.nonce, deadline)
        clearing, chain_id = self.protocol.clearing, self.protocol.chain_id
        a, b = (
            (order, sign_order(key, order, clearing=clearing, chain_id=chain_id))
            for order, key in ((mine, secret), (theirs, RIVAL))
        )
        return self.tx(codec.trade_call(clearing, a, b, price))

    def price_of(self, market: int) -> Wad:
        position = self.setting(self.now_s).position(Leg(market, WAD, 0))
        return unit_value_wad(position, self.fast[position.market.feed])

    def rows(self, keys: Sequence[AccountKey]) -> dict[AccountKey, Account]:
        rows = accounts_of(self.ask(self.market.rows_call(keys)))
        return {account.key: account for account in rows}

    # --- the chain ---

    def ask(self, call: Call) -> bytes:
        return self.node.call(call.to, call.data)

    def view(self, contract: str, to: str, name: str, *values: object) -> tuple[Any, ...]:
        function = function_of(contract, name)
        return function.result(self.ask(function.call(to, *values)))

    def drawable_by(self, key: AccountKey) -> Wad:
        (amount,) = self.view("Backstop", self.protocol.backstop, "drawableBy", key)
        assert isinstance(amount, int)
        return amount

    def tx(self, call: Call, sender: str | None = None) -> Tx:
        return Tx(sender or self.deployed.admin, call.to, call.data, GAS)

    def run(self, transactions: Sequence[Tx]) -> None:
        """Mine transactions that must succeed, from a second after the newest block."""
        self.now_s += self.node.run(transactions, self.now_s + 1)

    def next_block(self, after_s: int) -> ChainTime:
        return ChainTime(self.node.block_number() + 1, self.now_s + after_s)

    def act(self, acts: Sequence[HybridAct], at: ChainTime) -> list[list[Fact] | str]:
        """Mine the keeper's acts in order; return each one's facts, or its hash where it failed."""
        transactions = [self.tx(self.market.encode(act), address_of(KEEPER)) for act in acts]
        hashes = self.node.send(transactions)
        self.now_s = at.timestamp_s
        self.node.mine(at.timestamp_s)
        receipts = self.node.receipts()
        return [self._facts(receipts[tx]) if receipts[tx]["status"] == "0x1" else tx for tx in hashes]

    def _facts(self, receipt: Mapping[str, Any]) -> list[Fact]:
        facts = [self.market.decode(log_of(log)) for log in receipt["logs"]]
        return [fact for fact in facts if fact is not None]

    def error(self, tx_hash: str) -> str:
        """Name the error that a transaction failed with."""
        return self.node.reverts([tx_hash])[0].partition("(")[0]

    def refresh(self) -> None:
        """Read the rules anew, as a keeper does when the chain's version says so."""
        reading = self.market.refresh()
        calls = next(reading)
        try:
            while True:
                calls = reading.send(self.node.call_many([(call.to, call.data) for call in calls]))
        except StopIteration as found:
            self.market = found.value
        assert self.market.version == self.oracles().world.version


def log_of(raw: Mapping[str, Any]) -> Log:
    return Log(
        address=raw["address"],
        topics=tuple(bytes.fromhex(topic[2:]) for topic in raw["topics"]),
        data=bytes.fromhex(raw["data"][2:]),
        block_number=int(raw["blockNumber"], 16),
        block_hash=raw["blockHash"],
        tx_hash=raw["transactionHash"],
        index=int(raw["logIndex"], 16),
    )


def populate(world: World) -> None:
    """Fund everybody; the takers differ in what they hold, and the insurance is thin."""
    deployed, keeper = world.deployed, address_of(KEEPER)
    world.node.fund([address_of(key) for key in (OWNER, RIVAL, KEEPER)])
    world.run([tx for symbol in deployed.tokens for tx in deployed.mint(symbol, 10**12 * WAD)])
    world.post_prices(5)
    setup = [tx for key in RIVALS for tx in world.open_account(key, cash_wad=10**10 * WAD, tokens={})]
    for taker in TAKERS:
        cash = {RICH: 10**8, POOR: 2_000, HEDGED: 10**6}.get(taker, 10**7)
        tokens = {"WETH": 90 * WAD, "SYN": 10**5 * WAD} if taker == HEDGED else {}
        setup += world.open_account(taker, cash_wad=cash * WAD, tokens=tokens)
    setup.append(deployed.give_credit("USDC", 10**9 * WAD, keeper))
    setup.append(insure(world, 1_500 * WAD + 3))
    run_in_turn(world, setup)
    world.post_prices(5)
    trades = [world.trade(BUSY, market, (-1) ** market * WAD, secret=KEEPER) for market in range(4, 11)]
    trades += [world.trade(HEDGED, market, -3 * WAD - market, secret=KEEPER) for market in (1, 3, 6)]
    world.run(trades)


def insure(world: World, amount_wad: Wad) -> Tx:
    """Build a gift of the keeper's to the insurance."""
    backstop = world.protocol.backstop
    return world.deployed.tx("Backstop", "fund", backstop, amount_wad, sender=address_of(KEEPER))


def welcome(world: World, *, pool: Sequence[int] = range(1, 21), bare: bool = False) -> None:
    """Open random books in markets of the pool for new accounts of the owner, most close to full leverage.

    Every third one follows the early slope. Bare ones have cash and no collateral.
    """
    newcomers = [account_of(OWNER, world.accounts + number) for number in range(NEWCOMERS)]
    world.accounts += NEWCOMERS
    books = [random_book(world.dice, pool) for _ in newcomers]
    if bare:
        books = [(cash + 10_000 * WAD, {}, legs) for cash, _, legs in books]
    setup = [
        tx
        for key, (cash, tokens, _) in zip(newcomers, books, strict=True)
        for tx in world.open_account(key, cash_wad=cash, tokens=tokens)
    ]
    owner, slopes = address_of(OWNER), world.protocol.slopes
    choose = (
        world.deployed.tx("Slopes", "chooseSlope", slopes, key, 1, sender=owner) for key in newcomers[::3]
    )
    run_in_turn(world, [*setup, *choose])
    world.agree()
    world.post_prices(5)
    trades = [
        world.trade(key, market, size)
        for key, book in zip(newcomers, books, strict=True)
        for market, size in sized(world, key, book)
    ]
    for tx, failed in run_some(world, trades):
        world.seen["trades refused" if failed else "trades"] += 1
        assert not failed or world.error(tx) == "BelowInitialMargin"
    # Who came before the last ones has been through it all.
    world.targets = [*world.targets[-NEWCOMERS:], *newcomers]


def run_in_turn(world: World, transactions: Sequence[Tx]) -> None:
    """Run the admin's payments first, in a block of their own: senders are not ordered among each other."""
    admin = world.deployed.admin
    world.run([tx for tx in transactions if tx.sender == admin])
    world.run([tx for tx in transactions if tx.sender != admin])


def run_some(world: World, transactions: Sequence[Tx]) -> Iterator[tuple[str, bool]]:
    """Mine transactions of which some may fail; yield each one's hash, and whether it did."""
    for start in range(0, len(transactions), BLOCK_TXS):
        world.now_s += 1
        hashes = world.node.send(transactions[start : start + BLOCK_TXS])
        world.node.mine(world.now_s)
        receipts = world.node.receipts()
        yield from ((tx, receipts[tx]["status"] != "0x1") for tx in hashes)


def random_book(dice: random.Random, pool: Sequence[int]) -> Book:
    """Draw a book; some have no cash, some as little as a token of collateral can stand behind."""
    cash = dice.choice([0, dice.randrange(10**6), dice.randrange(50, 40_000) * WAD + dice.randrange(WAD)])
    cash = cash // 10**12 * 10**12
    tokens = {}
    for symbol in dice.sample(sorted(TOKENS), dice.choice([0, 1, 1, 2, 4] if cash > WAD else [1, 2, 4])):
        places, feed = TOKENS[symbol]
        units = dice.randrange(100, 20_000) * 10**places // BASE[feed] + 1
        tokens[symbol] = units * 10 ** (18 - places)
    markets = dice.sample(list(pool), dice.choice([1, 1, 2, 3, 5]))
    return cash, tokens, [(market, dice.choice([-1, 1]) * dice.uniform(0.2, 1)) for market in markets]


def sized(world: World, key: AccountKey, book: Book) -> Iterator[tuple[int, Wad]]:
    """Turn weights into sizes that use most of what initial margin allows."""
    cash, tokens, legs = book
    by_token = {terms.token: terms for terms in world.rules.collaterals.values()}
    setting, equity = world.setting(world.now_s), cash
    (account,) = world.rows([key]).values()
    beta = setting.terms.slope_of(account).beta_wad
    for symbol, amount in tokens.items():
        terms = by_token[world.deployed.tokens[symbol]]
        equity += amount * world.fast[terms.feed] // WAD * terms.h_im.to_wad // WAD
    used = equity * world.dice.uniform(0.9, 0.999)
    total = sum(abs(weight) for _, weight in legs)
    for market, weight in legs:
        alone = Account(key, Phase.HEALTHY, 0, (Leg(market, WAD if weight > 0 else -WAD, 0),), ())
        required = math.initial(alone, world.fast, setting, beta).requirement_wad
        if required > 0:
            yield market, int(used * weight / total * WAD / required)
