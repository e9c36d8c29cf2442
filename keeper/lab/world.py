"""The people of a drill: owners with mixed books, a deep maker, the keeper's means, the reporters.

Every position is opened by a trade that the contracts accept, with orders signed by both sides. Opening needs
initial margin, so accounts near the edge come from high leverage and a small adverse move: buyers opened 4.5%
above the price at which the drill starts, sellers 4.5% below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from coincurve import PrivateKey
from eth_utils.crypto import keccak

from keeper.domain import Account, Holding, Leg, Observation, Phase
from keeper.lab.anvil import Node, Tx
from keeper.lab.deploy import QUOTE, Deployed
from keeper.lab.hedges import STRIKE_STEP, HedgePlan, Stake, draw_hedges, price_wad, value
from keeper.lab.paths import Paths, wad
from keeper.protocols.hybrid import codec, math
from keeper.protocols.hybrid.params import Terms
from keeper.protocols.hybrid.portfolio import Setting
from keeper.protocols.hybrid.signing import Order, sign_order, sign_report, sign_risk_arrays
from keeper.steward.arrays import Post
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad

REPORTERS = 5
QUORUM = 3
DRIFT = 0.045
"""How far from the starting price positions were opened, against their side."""
SET_UP_S = 600
"""The set-up begins this long before the drill."""
HEDGE_S = 60
"""Books with options are opened so long before the drill, and drawn for that moment."""
MAKER_CASH = 1_000_000_000
FOREVER: UnixS = 2**40 - 1
SPARE = 1.002
"""Initial margin at opening is met with this to spare, for the rounding of the generator's floats."""
MICRO = WAD // 10**6
TRADE_GAS = 3_000_000
POST_GAS = 10_000_000
NONCES = 10**9
"""Of the orders that open the hedges; those of owners and of the maker's inventory lie below."""
MAX_TRADES = 1_200
"""At most so many between two fast prices: they go out of date."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a key and one account. The key comes from the run's seed: for throw-away chains only."""

    key: bytes
    address: str
    account: AccountKey

    def __repr__(self) -> str:
        return f"Person({self.address})"


class Zone(StrEnum):
    """How an account stands when the drill starts."""

    SAFE = "safe"
    NEAR = "near"
    DANGER = "danger"


PATTERN = (
    *(Zone.NEAR, Zone.SAFE, Zone.DANGER, Zone.SAFE, Zone.NEAR),
    *(Zone.SAFE, Zone.DANGER, Zone.SAFE, Zone.NEAR, Zone.SAFE),
)
HEALTH = {Zone.SAFE: (2.5, 12.0), Zone.NEAR: (1.3, 2.0), Zone.DANGER: (1.03, 1.28)}
WICKED_HEALTH = (1.35, 1.75)
"""Of those who are there for the false print: any depth of it takes them below 1, and calm alone does not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A book to be opened: signed sizes by market, collateral by symbol, cash."""

    zone: Zone
    legs: Mapping[FeedId, Wad]
    holdings: Mapping[str, Wad]
    cash_wad: Wad
    tops_up: bool
    """Whether the owner is one of those who come to help when their account is flagged."""

    @property
    def pocket_wad(self) -> Wad:
        """What the owner could still bring: half of the cash that is in the account already."""
        return self.cash_wad // 2 // MICRO * MICRO if self.tops_up else 0


@dataclass(frozen=True, slots=True)
class Owner:
    """An owner and the book that was opened for them."""

    person: Person
    plan: Plan


@dataclass(frozen=True, slots=True)
class Hedge:
    """A hedged book and its legs apart, each with its owner."""

    plan: HedgePlan
    whole: Person
    apart: tuple[Person, ...]

    @property
    def stakes(self) -> tuple[tuple[Person, Stake], ...]:
        """Return everyone with what they hold, the hedged book first."""
        return tuple(zip((self.whole, *self.apart), self.plan.stakes, strict=True))


@dataclass(frozen=True, slots=True)
class World:
    """Everyone in a drill."""

    deployed: Deployed
    owners: tuple[Owner, ...]
    maker: Person
    keeper: Person
    reporters: tuple[Person, ...]
    hedges: tuple[Hedge, ...] = ()
    dealers: Mapping[FeedId, Person] = field(default_factory=dict)
    """The other side of every option, a dealer for each underlying: an account holds eight legs at most."""

    @property
    def accounts(self) -> tuple[AccountKey, ...]:
        """Every account there is: the owners', the hedges', the dealers', the maker's, the keeper's."""
        people = [owner.person for owner in self.owners]
        people += [person for hedge in self.hedges for person, _ in hedge.stakes]
        people += [*self.dealers.values(), self.maker, self.keeper]
        return tuple(person.account for person in people)

    def opposite(self, market: int) -> Person:
        """Return who takes the other side of a market."""
        listed = self.deployed.protocol.rules.markets[market]
        return self.dealers[listed.feed] if listed.is_option else self.maker


def person(seed: int, role: str, number: int = 0) -> Person:
    """Make the key of a role in this run."""
    key = keccak(text=f"hybrid-keeper drill, no value: seed {seed}, {role} {number}")
    public = PrivateKey(key).public_key.format(compressed=False)
    address: bytes = keccak(public[1:])[12:]
    return Person(key, "0x" + address.hex(), address + bytes(12))


def reporters(seed: int) -> tuple[Person, ...]:
    """Make the reporters of this run."""
    return tuple(person(seed, "reporter", number) for number in range(REPORTERS))


def fast_prices(
    deployed: Deployed, keys: Sequence[bytes], prices: Mapping[FeedId, Wad], observed_at_s: UnixS
) -> Tx:
    """Build the post of one fast price a feed, signed by a quorum of the reporters."""
    protocol = deployed.protocol
    oracle, chain_id = protocol.fast_oracle, protocol.chain_id
    bundles = []
    for feed, price in prices.items():
        seen = Observation(feed, price, 10, observed_at_s, observed_at_s + 60)
        bundles.append(
            tuple(sign_report(key, seen, fast_oracle=oracle, chain_id=chain_id) for key in keys[:QUORUM])
        )
    call = codec.post_newer_call(protocol.fast_oracle, bundles)
    return Tx(deployed.admin, call.to, call.data)


def risk_arrays(deployed: Deployed, keys: Sequence[bytes], post: Post) -> Tx:
    """Build a post of risk arrays, signed by a quorum of the reporters."""
    at, chain_id = deployed.protocol.risk_arrays, deployed.protocol.chain_id
    signatures = [
        sign_risk_arrays(key, post.arrays, post.valid_until_s, risk_arrays=at, chain_id=chain_id)
        for key in keys[:QUORUM]
    ]
    call = codec.post_arrays_call(at, post, signatures)
    return Tx(deployed.admin, call.to, call.data, POST_GAS)


def trade(deployed: Deployed, buyer: Person, seller: Person, leg: Order) -> Tx:
    """Build a trade at the price of ``leg``, an order of the buyer's; the seller signs its mirror image."""
    mirror = Order(seller.account, leg.market, -leg.size_wad, leg.limit_wad, leg.nonce, leg.deadline_s)
    clearing, chain_id = deployed.protocol.clearing, deployed.protocol.chain_id
    sides = [
        (order, sign_order(who.key, order, clearing=clearing, chain_id=chain_id))
        for who, order in ((buyer, leg), (seller, mirror))
    ]
    call = codec.trade_call(clearing, sides[0], sides[1], leg.limit_wad)
    return Tx(deployed.admin, call.to, call.data, TRADE_GAS)


def draw_plans(
    seed: int,
    accounts: int,
    start: Mapping[FeedId, Wad],
    terms: Terms,
    symbols: Mapping[str, int],
    wicked: FeedId,
) -> list[Plan]:
    """Draw the books: two in ten in danger, three near it, five well above, however many there are.

    One near account in three holds nothing but a long position in ``wicked``, the market of the false print,
    so that there is always somebody whom it puts under a false alarm.
    """
    rng = np.random.default_rng([seed, 0xB00C])
    drawer = _Drawer(rng, dict(start), terms, symbols, wicked)
    zones = [PATTERN[i % len(PATTERN)] for i in range(accounts)]
    return [drawer.draw(zone, turn) for zone, turn in zip(zones, _turns(zones), strict=True)]


def _turns(zones: Iterable[Zone]) -> Iterator[int]:
    """Count each zone's accounts for itself."""
    seen = dict.fromkeys(Zone, 0)
    for zone in zones:
        yield seen[zone]
        seen[zone] += 1


@dataclass(frozen=True, slots=True)
class _Drawer:
    rng: np.random.Generator
    start: dict[FeedId, Wad]
    terms: Terms
    symbols: Mapping[str, int]
    wicked: FeedId

    @property
    def perps(self) -> dict[FeedId, int]:
        """Return the perps' market numbers."""
        return {market.feed: number for number, market in self.terms.markets.items() if not market.is_option}

    @property
    def setting(self) -> Setting:
        """Return what the margin of books without options depends on beside prices: the terms alone."""
        return Setting(self.terms, arrays={}, settlements={}, now_s=0)

    def draw(self, zone: Zone, turn: int) -> Plan:
        """Draw one book; ``turn`` counts the accounts of its zone."""
        false_alarm = zone is Zone.NEAR and turn % 3 == 0
        legs = self._legs(zone, false_alarm=false_alarm)
        health = float(self.rng.uniform(*(WICKED_HEALTH if false_alarm else HEALTH[zone])))
        requirement = math.maintenance(self._account(legs, {}), self.start, self.setting).requirement_wad
        wanted = int(health * requirement)
        holdings = self._holdings(zone, wanted)
        has = math.maintenance(self._account(legs, holdings), self.start, self.setting).equity_wad
        longs = {feed: size for feed, size in legs.items() if size > 0}
        # Buyers open first, at the higher prices; sellers at the lower ones, where longs have lost already.
        missing = max(wanted - has, self._missing_at_opening(longs, holdings, 1 + DRIFT))
        if len(longs) < len(legs):
            missing = max(missing, self._missing_at_opening(legs, holdings, 1 - DRIFT))
        cash = max(0, missing) // MICRO * MICRO + MICRO
        return Plan(zone, legs, holdings, cash, tops_up=zone is not Zone.SAFE and turn % 3 == 1)

    def _missing_at_opening(
        self, legs: Mapping[FeedId, Wad], holdings: Mapping[str, Wad], level: float
    ) -> Wad:
        """Return the cash that initial margin asks for when the last of some legs is opened."""
        prices = opening_prices(self.start, level)
        beta_wad = self.terms.slopes[self.terms.default_slope].beta_wad
        margin = math.initial(self._account(legs, holdings), prices, self.setting, beta_wad)
        return int(margin.requirement_wad * SPARE) - margin.equity_wad

    def _legs(self, zone: Zone, *, false_alarm: bool) -> dict[FeedId, Wad]:
        notional = float(np.clip(self.rng.lognormal(np.log(20_000), 1.1), 1_500, 400_000))
        feeds = [str(feed) for feed in self.rng.permutation(list(self.perps))]
        if false_alarm:
            return {self.wicked: self._size(self.wicked, notional)}
        if zone is Zone.SAFE:
            feeds = feeds[: int(self.rng.integers(1, 4))]
            signs = self.rng.choice([1, -1], len(feeds), p=[0.6, 0.4])
        else:
            feeds = feeds[: 1 + int(self.rng.random() < 0.35)]
            # Near the edge all legs lie on one side: the move since their opening hurt all of them.
            signs = np.full(len(feeds), 1 if self.rng.random() < 0.75 else -1)
        shares = self.rng.dirichlet(np.full(len(feeds), 3.0))
        parts = zip(feeds, signs, shares, strict=True)
        return {feed: int(sign) * self._size(feed, notional * float(share)) for feed, sign, share in parts}

    def _size(self, feed: FeedId, notional: float) -> Wad:
        return round(notional * 1e6) * MICRO * WAD // self.start[feed] // MICRO * MICRO

    def _holdings(self, zone: Zone, equity_wad: Wad) -> dict[str, Wad]:
        """Give a part of the equity as collateral; little near the edge, where it counts less at opening."""
        if self.rng.random() < 0.4:
            return {}
        share = float(self.rng.uniform(0.1, 0.35 if zone is Zone.DANGER else 0.7))
        count = int(self.rng.integers(1, len(self.symbols) + 1))
        chosen = [str(symbol) for symbol in self.rng.permutation(list(self.symbols))[:count]]
        each = int(share * 1e6) * MICRO * equity_wad // WAD // count
        amounts = {}
        for symbol in chosen:
            terms = self.terms.collaterals[self.symbols[symbol]]
            amount = each * WAD // terms.h_mm_wad * WAD // self.start[terms.feed]
            amounts[symbol] = amount // MICRO * MICRO + MICRO
        return amounts

    def _account(self, legs: Mapping[FeedId, Wad], holdings: Mapping[str, Wad]) -> Account:
        """Imagine the book as opened, without cash: longs above the starting price, shorts below it."""
        opened = []
        for feed, market in self.perps.items():
            if size := legs.get(feed, 0):
                paid = opening_prices(self.start, 1 + DRIFT if size > 0 else 1 - DRIFT)[feed]
                opened.append(Leg(market, size, -size * paid // WAD))
        held = tuple(Holding(self.symbols[symbol], amount) for symbol, amount in holdings.items())
        return Account(bytes(32), Phase.HEALTHY, 0, tuple(opened), held)


def opening_prices(start: Mapping[FeedId, Wad], level: float) -> dict[FeedId, Wad]:
    """Return the prices at ``level`` times the starting ones, with the digits that feeds have."""
    return {feed: wad(price / WAD * level) for feed, price in start.items()}


def populate(node: Node, deployed: Deployed, paths: Paths, accounts: int, *, hedges: int = 0) -> World:
    """Bring everyone onto the chain; the last block has the drill's first prices and ``paths.start_s``.

    ``hedges`` is the number of hedged books of each strategy, each with its legs apart besides.
    """
    seed = paths.seed
    start = {feed: wad(price) for feed, price in paths.true_at(paths.start_s).items()}
    terms = deployed.protocol.rules.at(paths.start_s)
    plans = draw_plans(seed, accounts, start, terms, deployed.collaterals, paths.wick.feed)
    owners = tuple(Owner(person(seed, "owner", i), plan) for i, plan in enumerate(plans))
    world = World(
        deployed,
        owners,
        person(seed, "maker"),
        person(seed, "keeper"),
        reporters(seed),
        tuple(
            _hedges(seed, draw_hedges(seed, hedges, deployed.protocol.rules, start, paths.start_s - HEDGE_S))
        )
        if hedges
        else (),
        {feed: person(seed, f"dealer of {feed}") for feed in STRIKE_STEP} if hedges else {},
    )
    keys = [reporter.key for reporter in world.reporters]
    clock = _Clock(node, paths.start_s - SET_UP_S)
    _fund(world, start, clock)
    for level, side in ((1 + DRIFT, 1), (1 - DRIFT, -1)):
        prices = opening_prices(start, level)
        first_prices = [*_slow(deployed, prices), fast_prices(deployed, keys, prices, clock.now_s)]
        proofs = [deployed.prove(feed) for feed in prices] if side > 0 else []
        clock.run([*first_prices, *proofs])
        trades = _opening_trades(world, prices, side)
        for first in range(0, len(trades), MAX_TRADES):
            if first:
                clock.run([fast_prices(deployed, keys, prices, clock.now_s)])
            clock.run(trades[first : first + MAX_TRADES])
    if hedges:
        clock.now_s = paths.start_s - HEDGE_S
        _open_hedges(world, start, clock)
    clock.now_s = paths.start_s
    last = [deployed.slow_round(r.feed, r.price_wad) for r in paths.rounds[0]]
    last.append(fast_prices(deployed, keys, start, paths.start_s))
    if hedges:
        last.append(risk_arrays(deployed, keys, value(deployed.protocol.rules, start, paths.start_s)))
    clock.run(last)
    return world


def _hedges(seed: int, plans: Iterable[HedgePlan]) -> Iterator[Hedge]:
    """Give every account of the books an owner."""
    for number, plan in enumerate(plans):
        whole, *apart = (
            person(seed, f"hedge {number}, account", index) for index, _ in enumerate(plan.stakes)
        )
        yield Hedge(plan, whole, tuple(apart))


def keeper_means(plans: Iterable[Plan], start: Mapping[FeedId, Wad], hedged_wad: Wad = 0) -> tuple[Wad, Wad]:
    """Return the keeper's margin cash and its credit for bonds: finite, and in proportion to what it keeps.

    A twentieth of all notional as margin lets it hold some 60% of it at once; the credit pays bonds of $50 to
    $5,000, and buys collateral from accounts that have only debt left. ``hedged_wad`` is the notional of the
    books with options and of their legs apart.
    """
    every = list(plans)
    notional = hedged_wad + sum(
        abs(size) * start[feed] // WAD for plan in every for feed, size in plan.legs.items()
    )
    margin = max(100_000 * WAD, notional // 20) // MICRO * MICRO
    return margin, (20_000 + 500 * len(every)) * WAD


@dataclass(slots=True)
class _Clock:
    """Runs blocks of the set-up, one second apart."""

    node: Node
    now_s: UnixS

    def run(self, transactions: Sequence[Tx]) -> None:
        self.now_s += self.node.run(transactions, self.now_s)


def _fund(world: World, start: Mapping[FeedId, Wad], clock: _Clock) -> None:
    """Mint, pay into the Vault, and deposit for everyone."""
    deployed = world.deployed
    plans = [owner.plan for owner in world.owners]
    margin, credit = keeper_means(plans, start, _hedged_notional(world, start))
    insurance = max(20_000 * WAD, margin // 5) // MICRO * MICRO
    cash = {owner.person.account: owner.plan.cash_wad for owner in world.owners}
    cash |= {who.account: MAKER_CASH * WAD for who in (world.maker, *world.dealers.values())}
    cash |= {who.account: stake.cash_wad for hedge in world.hedges for who, stake in hedge.stakes}
    for hedge in world.hedges:
        cash[hedge.whole.account] += _lent(hedge)
    cash |= {world.keeper.account: margin}
    pockets = {o.person.address: o.plan.pocket_wad for o in world.owners if o.plan.pocket_wad}
    pockets |= {world.keeper.address: credit, deployed.admin: sum(cash.values()) + insurance}
    holdings = [
        (owner.person, symbol, amount)
        for owner in world.owners
        for symbol, amount in owner.plan.holdings.items()
    ]
    minted = {QUOTE: sum(pockets.values())}
    for _, symbol, amount in holdings:
        minted[symbol] = minted.get(symbol, 0) + amount
    everybody = [world.maker, world.keeper, *world.reporters, *(owner.person for owner in world.owners)]
    everybody += [*world.dealers.values(), *(hedge.whole for hedge in world.hedges)]
    clock.node.fund([who.address for who in everybody])
    clock.run([tx for symbol, amount in minted.items() for tx in deployed.mint(symbol, amount)])
    clock.run(
        [
            *(deployed.give_credit(QUOTE, amount, holder) for holder, amount in pockets.items()),
            *(deployed.give_credit(symbol, amount, who.address) for who, symbol, amount in holdings),
        ]
    )
    clock.run(
        [
            deployed.tx("Backstop", "fund", deployed.protocol.backstop, insurance),
            *(deployed.deposit(account, QUOTE, amount) for account, amount in cash.items()),
            *(
                deployed.deposit(who.account, symbol, amount, sender=who.address)
                for who, symbol, amount in holdings
            ),
        ]
    )


def _slow(deployed: Deployed, prices: Mapping[FeedId, Wad]) -> list[Tx]:
    return [deployed.slow_round(feed, price) for feed, price in prices.items()]


def _opening_trades(world: World, prices: Mapping[FeedId, Wad], side: int) -> list[Tx]:
    """Build the trades that open every leg of one side against the maker."""
    trades = []
    for number, owner in enumerate(world.owners):
        for feed, size in owner.plan.legs.items():
            if (size > 0) == (side > 0):
                market = world.deployed.perps[feed]
                nonce = 10 * number + market
                leg = Order(owner.person.account, market, size, prices[feed], nonce, FOREVER)
                trades.append(trade(world.deployed, owner.person, world.maker, leg))
    return trades


def _hedged_notional(world: World, start: Mapping[FeedId, Wad]) -> Wad:
    markets = world.deployed.protocol.rules.markets
    sizes = (
        (market, size)
        for hedge in world.hedges
        for _, stake in hedge.stakes
        for market, size in stake.legs.items()
    )
    return sum(abs(size) * start[markets[market].feed] // WAD for market, size in sizes)


def _lent(hedge: Hedge) -> Wad:
    """Return what a hedged book needs besides while it is opened leg by leg, and gives back."""
    return sum(stake.cash_wad for stake in hedge.plan.apart)


def _open_hedges(world: World, start: Mapping[FeedId, Wad], clock: _Clock) -> None:
    """Open the books and their legs at the marks of the starting prices, and take back what was lent."""
    deployed = world.deployed
    rules, keys = deployed.protocol.rules, [reporter.key for reporter in world.reporters]
    post = value(rules, start, clock.now_s)
    arrays = {array.market: array.view for array in post.arrays}
    setting = Setting(rules.at(clock.now_s), arrays, settlements={}, now_s=clock.now_s)
    orders = [
        (who, Order(who.account, market, size, price_wad(market, setting, start), 0, FOREVER))
        for hedge in world.hedges
        for who, stake in hedge.stakes
        for market, size in stake.legs.items()
    ]
    first_prices = [*_slow(deployed, start), fast_prices(deployed, keys, start, clock.now_s)]
    clock.run([*first_prices, risk_arrays(deployed, keys, post)])
    # The nonces of the other side are of its own: an order's mirror image has the same one.
    trades = [
        trade(deployed, who, world.opposite(order.market), replace(order, nonce=NONCES + number))
        for number, (who, order) in enumerate(orders)
    ]
    for first in range(0, len(trades), MAX_TRADES):
        if first:
            clock.run([fast_prices(deployed, keys, start, clock.now_s)])
        clock.run(trades[first : first + MAX_TRADES])
    clearing, quote = deployed.protocol.clearing, deployed.protocol.quote
    clock.run(
        [
            deployed.tx(
                "Clearing",
                "withdraw",
                clearing,
                hedge.whole.account,
                quote,
                _lent(hedge),
                sender=hedge.whole.address,
            )
            for hedge in world.hedges
        ]
    )
