"""The contracts against their twin: random books, random prices, every slice equal to the wei."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from coincurve import PublicKey
from eth_utils.crypto import keccak

from keeper.confirm import Params as ConfirmParams
from keeper.confirm import confirm_alarm
from keeper.domain import (
    Account,
    Act,
    Agree,
    Assessment,
    BuyCollateral,
    Call,
    ChainTime,
    Confirm,
    Cure,
    Fact,
    FeedView,
    Flag,
    Liquidate,
    Log,
    Phase,
    Refuse,
)
from keeper.lab.anvil import Node, Tx, anvil
from keeper.lab.deploy import CollateralSpec, Deployed, FeedSpec, Spec, deploy, function_of
from keeper.protocols.hybrid import codec, math
from keeper.protocols.hybrid.clearing import worst_initial
from keeper.protocols.hybrid.liquidator import Slice, feeds_of, liquidate, prices_of
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import Perp, SlopeParams, feed_bytes
from keeper.protocols.hybrid.signing import Order, order_digest, report_digest, sign_order
from keeper.reporter import Observation
from keeper.risk.slope import floor_wad, lambda_wad
from keeper.units import WAD, AccountKey, FeedId, Wad, mul_div_up

pytestmark = pytest.mark.anvil

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

REVERTS = {
    "oracle.stale": "StaleOracle",
    "slope.not_confirmed": "WrongState",
    "slope.not_breached": "NotBreached",
    "slope.step_cap": "StepCapReached",
    "slope.slice_outside": "SliceOutside",
    "slope.empty_slice": "EmptySlice",
    "taker.too_many_legs": "TooManyLegs",
    "taker.no_cash": "NegativeCash",
}


def address_of(key: bytes) -> str:
    point = PublicKey.from_valid_secret(key).format(compressed=False)
    return "0x" + keccak(point[1:])[12:].hex()


def account_of(key: bytes, number: int) -> AccountKey:
    return bytes.fromhex(address_of(key)[2:]) + number.to_bytes(12, "big")


def spec_of(slope: SlopeParams) -> Spec:
    """Ten markets on five feeds, so that a taker can run out of legs; four collaterals of any decimals."""
    mmrs = [WAD * percent // 100 for percent in (3, 5, 4, 6, 8)]
    perps = [
        Perp(number, FEEDS[number % 5], mmr, mul_div_up(WAD + slope.beta_wad, mmr, WAD) + WAD // 200)
        for number, mmr in enumerate((*mmrs, *mmrs), 1)
    ]
    collaterals = (
        CollateralSpec("WETH", 18, "ETH/USD", 85 * WAD // 100, 80 * WAD // 100),
        CollateralSpec("WBTC", 8, "BTC/USD", 80 * WAD // 100, 75 * WAD // 100, 15 * WAD // 100),
        CollateralSpec("PAXG", 0, "XAU/USD", 60 * WAD // 100 + 1, 60 * WAD // 100, 30 * WAD // 100 + 7),
        CollateralSpec("SYN", 6, "SYN/USD", 30 * WAD // 100, 20 * WAD // 100, 65 * WAD // 100),
    )
    feeds = tuple(FeedSpec(feed) for feed in FEEDS)
    return Spec(feeds=feeds, perps=tuple(perps), collaterals=collaterals, slope=slope, quorum=1)


@dataclass
class World:
    """One deployment, its prices and accounts; every helper that mines sets the block's time itself."""

    node: Node
    deployed: Deployed
    dice: random.Random
    now_s: int
    nonce: int = 0
    targets: list[AccountKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.protocol = self.deployed.protocol
        self.rules = self.protocol.rules
        self.market = HybridMarket(self.protocol)
        self.fast = {feed: price * WAD for feed, price in BASE.items()}
        self.slow = dict(self.fast)
        self.seen: Counter[str] = Counter()

    # --- prices ---

    def post_prices(self, after_s: int) -> None:
        """Mine one block with a slow round and a signed report on every feed."""
        self.now_s += after_s
        bundles = []
        for feed in FEEDS:
            price, observed_s = self.fast[feed], self.now_s - self.dice.randrange(min(after_s, 5))
            observation = Observation(feed, price, 10, observed_s, self.now_s + 30)
            bundles.append([(observation, self.market.sign_report(observation, REPORTER))])
        rounds = [self.deployed.slow_round(feed, price) for feed, price in self.slow.items()]
        assert self.node.run([*rounds, self.tx(self.market.post_call(bundles))], self.now_s) == 1

    def drift(self, spread: float) -> None:
        """Move every price by up to ``spread``, and fast and slow apart by up to 3%."""
        for feed in FEEDS:
            level = self.slow[feed] * (1 + self.dice.uniform(-spread, spread))
            self.slow[feed] = int(level) // 10**10 * 10**10
            self.fast[feed] = int(self.slow[feed] * (1 + self.dice.uniform(-0.03, 0.03)))

    def oracles(self) -> Mapping[FeedId, FeedView]:
        return self.market.decode_prices(self.ask(self.market.prices_call()))

    # --- accounts ---

    def open_account(self, key: AccountKey, *, cash_wad: Wad, tokens: Mapping[str, Wad]) -> list[Tx]:
        owner = "0x" + key[:20].hex()
        funds = {"USDC": cash_wad, **tokens}
        pairs = [
            (
                self.deployed.give_credit(symbol, wad, owner),
                self.deployed.deposit(key, symbol, wad, sender=owner),
            )
            for symbol, wad in funds.items()
            if wad
        ]
        return [tx for pair in pairs for tx in pair]

    def trade(self, key: AccountKey, market: int, size_wad: Wad, *, secret: bytes = OWNER) -> Tx:
        """Trade against the rival at the fast price."""
        price = self.fast[self.rules.perps[market].feed]
        limit = (2**128 - 1, 0)
        self.nonce += 1
        deadline = self.now_s + 600
        mine = Order(key, market, size_wad, limit[size_wad < 0], self.nonce, deadline)
        theirs = Order(RIVALS[market > 5], market, -size_wad, limit[size_wad > 0], self.nonce, deadline)
        clearing, chain_id = self.protocol.clearing, self.protocol.chain_id
        a, b = (
            (order, sign_order(key, order, clearing=clearing, chain_id=chain_id))
            for order, key in ((mine, secret), (theirs, RIVAL))
        )
        return self.tx(codec.trade_call(clearing, a, b, price))

    def rows(self, keys: Sequence[AccountKey]) -> dict[AccountKey, Account]:
        rows = codec.decode_rows(self.ask(self.market.rows_call(keys)))
        return {account.key: account for account in rows}

    # --- the chain ---

    def ask(self, call: Call) -> bytes:
        return self.node.call(call.to, call.data)

    def view(self, contract: str, to: str, name: str, *values: object) -> tuple[Any, ...]:
        function = function_of(contract, name)
        return function.result(self.ask(function.call(to, *values)))

    def insurance_wad(self) -> Wad:
        return codec.decode_amount(self.ask(codec.insurance_call(self.protocol.clearing)))

    def tx(self, call: Call, sender: str | None = None) -> Tx:
        return Tx(sender or self.deployed.admin, call.to, call.data, GAS)

    def run(self, transactions: Sequence[Tx]) -> None:
        """Mine transactions that must succeed, from a second after the newest block."""
        self.now_s += self.node.run(transactions, self.now_s + 1)

    def next_block(self, after_s: int) -> ChainTime:
        return ChainTime(self.node.block_number() + 1, self.now_s + after_s)

    def act(self, acts: Sequence[Act], at: ChainTime) -> list[list[Fact] | str]:
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
        trace = self.node.rpc("debug_traceTransaction", tx_hash, {"tracer": "callTracer"})
        return codec.revert_name(bytes.fromhex(trace["output"][2:])).partition("(")[0]


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


RIVALS = [account_of(RIVAL, number) for number in range(2)]
"""Two, for neither could hold ten legs."""
TAKERS = [account_of(KEEPER, number) for number in range(5)]
RICH, EMPTY, BUSY, POOR, HEDGED = TAKERS
NEWCOMERS = 30
EVERY_RUN = (
    *("slices with a sale", "slices of several legs", "partial slices", "whole books", "empty slices"),
    *("fees at the cap", "paid by the insurance", "cured", "written off", "flagged with carry"),
    *("StaleOracle", "NotBreached", "StepCapReached", "SliceOutside", "TooManyLegs", "TakerBelowMargin"),
)
"""What every run must have seen, or it would not show much."""
TRACED = 8
"""Failures of one kind whose error is looked up; a trace takes as long as a slice."""


def populate(world: World) -> None:
    """Fund everybody; the takers differ in what they hold, and the insurance is thin."""
    deployed, keeper = world.deployed, address_of(KEEPER)
    minted = [tx for symbol in deployed.tokens for tx in deployed.mint(symbol, 10**12 * WAD)]
    world.node.fund([address_of(key) for key in (OWNER, RIVAL, KEEPER)])
    world.run(minted)
    world.post_prices(5)
    setup = [tx for key in RIVALS for tx in world.open_account(key, cash_wad=10**10 * WAD, tokens={})]
    for taker, cash in ((RICH, 10**8), (EMPTY, 10**7), (BUSY, 10**7), (POOR, 2_000), (HEDGED, 10**6)):
        tokens = {"WETH": 90 * WAD, "SYN": 10**5 * WAD} if taker == HEDGED else {}
        setup += world.open_account(taker, cash_wad=cash * WAD, tokens=tokens)
    setup.append(deployed.give_credit("USDC", 10**9 * WAD, keeper))
    clearing = world.protocol.clearing
    setup.append(deployed.tx("Clearing", "fundInsurance", clearing, 150 * WAD + 3, sender=keeper))
    run_in_turn(world, setup)
    world.post_prices(5)
    trades = [world.trade(BUSY, market, (-1) ** market * WAD, secret=KEEPER) for market in range(4, 11)]
    trades += [world.trade(HEDGED, market, -3 * WAD - market, secret=KEEPER) for market in (1, 3, 6)]
    world.run(trades)


def welcome(world: World) -> None:
    """Open random books for new accounts of the owner, most of them close to full leverage."""
    start = len(world.targets)
    newcomers = [account_of(OWNER, number) for number in range(start, start + NEWCOMERS)]
    books = [random_book(world.dice) for _ in newcomers]
    setup = [
        tx
        for key, (cash, tokens, _) in zip(newcomers, books, strict=True)
        for tx in world.open_account(key, cash_wad=cash, tokens=tokens)
    ]
    run_in_turn(world, setup)
    world.slow = {feed: price // 10**10 * 10**10 for feed, price in world.fast.items()}
    world.post_prices(5)
    trades = [
        world.trade(key, market, size)
        for key, (cash, tokens, legs) in zip(newcomers, books, strict=True)
        for market, size in sized(world, cash, tokens, legs)
    ]
    world.run(trades)
    world.targets += newcomers


def run_in_turn(world: World, transactions: Sequence[Tx]) -> None:
    """Run the admin's payments first, in a block of their own: senders are not ordered among each other."""
    admin = world.deployed.admin
    world.run([tx for tx in transactions if tx.sender == admin])
    world.run([tx for tx in transactions if tx.sender != admin])


Book = tuple[Wad, dict[str, Wad], list[tuple[int, float]]]


TOKENS = {"WETH": (18, "ETH/USD"), "WBTC": (8, "BTC/USD"), "PAXG": (0, "XAU/USD"), "SYN": (6, "SYN/USD")}


def random_book(dice: random.Random) -> Book:
    """Draw cash, collateral tokens, and markets with signed weights."""
    cash = dice.choice([0, dice.randrange(10**6), dice.randrange(50, 40_000) * WAD + dice.randrange(WAD)])
    cash = cash // 10**12 * 10**12
    tokens = {}
    kinds = dice.choice([0, 1, 1, 2, 4] if cash > WAD else [1, 2, 4])
    for symbol in dice.sample(sorted(TOKENS), kinds):
        places, feed = TOKENS[symbol]
        units = dice.randrange(100, 20_000) * 10**places // BASE[feed] + 1
        tokens[symbol] = units * 10 ** (18 - places)
    markets = dice.sample(range(1, 11), dice.choice([1, 1, 2, 3, 5]))
    return cash, tokens, [(market, dice.choice([-1, 1]) * dice.uniform(0.2, 1)) for market in markets]


def sized(
    world: World, cash: Wad, tokens: Mapping[str, Wad], legs: Sequence[tuple[int, float]]
) -> Iterator[tuple[int, Wad]]:
    """Turn weights into sizes that use most of what initial margin allows."""
    by_token = {terms.token: terms for terms in world.rules.collaterals.values()}
    equity = cash
    for symbol, amount in tokens.items():
        terms = by_token[world.deployed.tokens[symbol]]
        equity += amount * world.fast[terms.feed] // WAD * terms.h_im_wad // WAD
    used = equity * world.dice.uniform(0.9, 0.999)
    total = sum(abs(weight) for _, weight in legs)
    for market, weight in legs:
        perp = world.rules.perps[market]
        notional = used * weight / total * WAD / perp.imr_wad
        yield market, int(notional * WAD / world.fast[perp.feed])


def realise_losses(world: World) -> None:
    """Let every third owner close most of a losing leg, so that cash turns negative."""
    rows = world.rows(world.targets[::3])
    trades = []
    for account in rows.values():
        for leg in account.legs[:1]:
            profit = math.leg_profit_wad(leg, world.fast[world.rules.perps[leg.market].feed])
            if profit < 0 and account.phase is Phase.HEALTHY:
                trades.append(world.trade(account.key, leg.market, -leg.size_wad * 7 // 10))
    world.now_s += 1
    hashes = world.node.send(trades)
    world.node.mine(world.now_s)
    receipts = world.node.receipts()
    world.seen["losses realised"] += sum(receipts[tx]["status"] == "0x1" for tx in hashes)


def assess_all(
    world: World, accounts: Mapping[AccountKey, Account], at: ChainTime
) -> dict[AccountKey, Assessment]:
    oracles = world.oracles()
    found = {key: world.market.assess(account, oracles, at) for key, account in accounts.items()}
    assert all(isinstance(each, Assessment) for each in found.values()), found
    return found  # type: ignore[return-value]


def flag_everybody(world: World) -> None:
    """Flag every healthy account: those succeed that the twin finds below the flag level, with its bond."""
    at = world.next_block(2)
    healthy = {
        key: account for key, account in world.rows(world.targets).items() if account.phase is Phase.HEALTHY
    }
    judged = assess_all(world, healthy, at)
    outcomes = world.act([Flag(key, 0) for key in judged], at)
    after = world.rows(list(judged))
    for (key, expected), outcome in zip(judged.items(), outcomes, strict=True):
        if isinstance(outcome, str):
            assert not expected.fast.breaches(expected.flag_level_wad)
            continue
        world.seen["flagged"] += 1
        args = next(fact.args for fact in outcome if fact.act == "Flagged")
        assert args["bond_wad"] == expected.bond_wad
        assert args["equity_wad"] == expected.fast.equity_wad
        assert args["requirement_wad"] == expected.fast.requirement_wad
        assert after[key].flag.tau_s == expected.tau_s
        world.seen["flagged with carry"] += expected.tau_s > 0


def confirm_everybody(world: World) -> None:
    """Confirm every flagged account: those succeed that the confirmation room agrees to."""
    at = world.next_block(3)
    flagged = {
        key: account for key, account in world.rows(world.targets).items() if account.phase is Phase.FLAGGED
    }
    judged = assess_all(world, flagged, at)
    oracles = world.oracles()
    outcomes = world.act([Confirm(key) for key in judged], at)
    after = world.rows(list(judged))
    for (key, expected), outcome in zip(judged.items(), outcomes, strict=True):
        agreed = isinstance(confirm_alarm(expected, oracles, ConfirmParams()), Agree)
        assert agreed == (not isinstance(outcome, str)), (outcome, expected)
        if isinstance(outcome, str):
            continue
        world.seen["confirmed"] += 1
        args = next(fact.args for fact in outcome if fact.act == "Confirmed")
        assert args["reward_wad"] == expected.reward_wad
        assert args["equity_wad"] == expected.execution.equity_wad
        assert args["requirement_wad"] == expected.execution.requirement_wad
        account = after[key]
        assert account.flag.tau_s == expected.tau_s
        assert account.flag.fee_cap_wad == math.fee_cap(world.rules.slope, expected.execution)
        assert account.cash_wad == expected.account.cash_wad - expected.reward_wad


def slice_everybody(world: World, after_s: int) -> None:
    """Send one slice for every account in care, several in one block, and compare all with the twin."""
    at = world.next_block(after_s)
    rows = world.rows([*world.targets, *TAKERS])
    oracles, insurance = world.oracles(), world.insurance_wad()
    acts: list[Act] = []
    expected: list[Slice | str] = []
    for key in world.targets:
        account = rows[key]
        if account.phase is not Phase.CONFIRMED and world.dice.random() < 0.98:
            continue
        taker = world.dice.choices(TAKERS, (6, 3, 1, 1, 3))[0]
        most = world.dice.choice([WAD, WAD, world.dice.randrange(WAD // 3), world.dice.randrange(1, 10**15)])
        acts.append(Liquidate(key, taker, account.flag.tranche_nonce, at.timestamp_s, 0, most, 0))
        foreseen = liquidate(
            account, rows[taker], oracles, at, world.rules, max_fraction_wad=most, insurance_wad=insurance
        )
        if isinstance(foreseen, Refuse):
            expected.append(REVERTS[foreseen.reason.rule])
        elif foreseen.taker_margin.breaches():
            expected.append("TakerBelowMargin")
        else:
            check_preview(world, account, rows[taker], oracles, at, most, insurance, foreseen)
            expected.append(foreseen)
            rows |= {key: foreseen.account, taker: foreseen.taker}
            insurance += foreseen.fee.whole_wad - foreseen.fee.taker_wad - foreseen.fee.from_insurance_wad
    outcomes = world.act(acts, at)
    for outcome, told in zip(outcomes, expected, strict=True):
        compare(world, outcome, told)
    assert world.rows(list(rows)) == rows
    assert world.insurance_wad() == insurance


def wait(world: World, rounds: int) -> None:
    """Let the active clocks run: each poke counts up to half a minute."""
    for _ in range(rounds):
        world.post_prices(world.dice.choice([4, 31, 40]))
        rows = world.rows(world.targets)
        poked = [
            world.deployed.tx("Liquidator", "poke", world.protocol.liquidator, key)
            for key, account in rows.items()
            if account.phase in {Phase.FLAGGED, Phase.CONFIRMED}
        ]
        world.run(poked)
    world.post_prices(world.dice.choice([4, 12, 31, 300]))


def compare(world: World, outcome: list[Fact] | str, foreseen: Slice | str) -> None:
    """Compare one transaction with the twin: the events of a slice, or the error."""
    if isinstance(outcome, str) or isinstance(foreseen, str):
        assert isinstance(outcome, str)
        assert isinstance(foreseen, str)
        if world.seen[foreseen] < TRACED:
            assert world.error(outcome) == foreseen
        world.seen[foreseen] += 1
        return
    by_act = {fact.act: fact.args for fact in outcome}
    tranche = by_act["Tranche"]
    assert tranche["fraction_wad"] == foreseen.fraction_wad
    assert tranche["q_wad"] == foreseen.q_wad
    assert tranche["kappa_wad"] == foreseen.kappa_wad
    assert tranche["notional_wad"] == foreseen.fee.notional_wad
    assert tranche["fee_wad"] == foreseen.fee.whole_wad
    before, after = foreseen.before, foreseen.after
    assert (tranche["equity_before_wad"], tranche["requirement_before_wad"]) == (
        before.equity_wad,
        before.requirement_wad,
    )
    assert (tranche["equity_after_wad"], tranche["requirement_after_wad"]) == (
        after.equity_wad,
        after.requirement_wad,
    )
    assert by_act["Poked"]["tau_s"] == foreseen.account.flag.tau_s
    sold = [
        (fact.args["amount_wad"], fact.args["paid_wad"]) for fact in outcome if fact.act == "CollateralSold"
    ]
    assert sold == [(sale.amount_wad, sale.paid_wad) for sale in foreseen.sales]
    assert by_act.get("InsurancePaid", {"amount_wad": 0})["amount_wad"] == foreseen.fee.from_insurance_wad
    assert by_act.get("BadDebt", {"amount_wad": 0})["amount_wad"] == foreseen.bad_debt_wad
    world.seen.update(
        {
            "slices": 1,
            "slices with a sale": bool(sold),
            "sales": len(sold),
            "slices of several legs": len(foreseen.moves) > 1,
            "partial slices": 0 < foreseen.fraction_wad < WAD,
            "empty slices": foreseen.fraction_wad == 0,
            "whole books": foreseen.fraction_wad == WAD,
            "fees at the cap": 0 < foreseen.kappa_wad == foreseen.account.flag.fee_cap_wad,
            "paid by the insurance": foreseen.fee.from_insurance_wad > 0,
            "cured": foreseen.account.phase is Phase.HEALTHY,
            "written off": foreseen.account.phase is Phase.CLOSED,
        }
    )


def check_preview(
    world: World,
    account: Account,
    taker: Account,
    oracles: Mapping[FeedId, FeedView],
    at: ChainTime,
    most: Wad,
    insurance: Wad,
    foreseen: Slice,
) -> None:
    """Hold the market's preview and assessment against the slice that the chain is held against."""
    target = world.market.assess(account, oracles, at)
    assert isinstance(target, Assessment)
    preview = world.market.preview(target, taker, oracles, most, insurance)
    assert not isinstance(preview, Refuse)
    assert preview.taker_passes
    assert (preview.account_after, preview.taker_after) == (foreseen.account, foreseen.taker)
    assert (target.q_wad, target.fee_wad) == (foreseen.q_wad, foreseen.kappa_wad)
    assert target.execution == foreseen.before


def cure_everybody(world: World) -> None:
    """Cure every account in care: those succeed that the twin calls curable."""
    at = world.next_block(1)
    rows = world.rows(world.targets)
    in_care = {key: row for key, row in rows.items() if row.phase in {Phase.FLAGGED, Phase.CONFIRMED}}
    judged = assess_all(world, in_care, at)
    outcomes = world.act([Cure(key) for key in judged], at)
    for expected, outcome in zip(judged.values(), outcomes, strict=True):
        assert (not isinstance(outcome, str)) == expected.curable, (outcome, expected)
        world.seen["cured by hand"] += expected.curable


def compare_views(world: World) -> None:
    """Compare the contracts' own views with the twin at the newest block: margin, terms, execution price."""
    rows, oracles, slope = world.rows([*world.targets, *TAKERS]), world.oracles(), world.rules.slope
    liquidator, clearing = world.protocol.liquidator, world.protocol.clearing
    for key, account in rows.items():
        prices = prices_of(feeds_of(account, world.rules), oracles, slope, 0)
        worst = worst_initial(account, prices.fast, prices.slow, world.rules)
        told = world.view("Clearing", clearing, "meetsInitialMargin", key)
        assert told == (
            not worst.breaches(),
            (worst.equity_wad, worst.requirement_wad, worst.notional_wad),
        )
        confirmed, flag = account.phase is Phase.CONFIRMED, account.flag
        since = flag.tau_s - flag.tau_at_confirm_s if confirmed else 0
        execution = prices_of(feeds_of(account, world.rules), oracles, slope, since).execution
        cap = math.fee_cap(slope, math.maintenance(account, execution, world.rules))
        fee = math.fee(slope, since, min(cap, flag.fee_cap_wad) if confirmed else cap)
        assert world.view("Liquidator", liquidator, "reduceTerms", key) == (fee, since)
    for _ in range(20):
        fast, slow = (world.dice.randrange(1, 10**24) for _ in range(2))
        since = world.dice.choice([0, world.dice.randrange(2000)])
        fast = world.dice.choice([fast, slow * world.dice.randrange(80, 120) // 100])
        told = world.view("Liquidator", liquidator, "executionPrice", fast, slow, since)
        assert told == (math.execution_price(slope, fast, slow, since),)


def buy_from_debtors(world: World) -> None:
    """Buy what is left of collateral where only debt stands against it."""
    rows = world.rows(world.targets)
    debtors = [account for account in rows.values() if account.debt_since_s and account.holdings]
    acts = [
        BuyCollateral(account.key, RICH, account.holdings[0].collateral, -account.cash_wad)
        for account in debtors
    ]
    outcomes = world.act(acts, world.next_block(1))
    after = world.rows([account.key for account in debtors])
    for account, outcome in zip(debtors, outcomes, strict=True):
        assert not isinstance(outcome, str), world.error(outcome)
        (sold,) = (fact.args for fact in outcome if fact.act == "CollateralSold")
        written_off = sum(fact.args["amount_wad"] for fact in outcome if fact.act == "BadDebt")
        paid = after[account.key].cash_wad - account.cash_wad - written_off
        assert sold["paid_wad"] == paid
        world.seen["bought from debtors"] += 1


def enough(world: World) -> bool:
    return world.seen["slices"] >= 110 and all(world.seen[kind] for kind in EVERY_RUN)


@pytest.mark.parametrize(("slope", "seed"), [(SLOPE, 11), (EARLY, 111)], ids=["default", "early"])
def test_every_slice_on_chain_equals_the_twin_to_the_wei(slope: SlopeParams, seed: int) -> None:
    with anvil(timestamp_s=GENESIS_S) as node:
        deployed = deploy(node, signers=[address_of(REPORTER)], spec=spec_of(slope))
        world = World(node, deployed, random.Random(seed), node.timestamp_s())
        populate(world)
        for shock in (0.06, 0.1, 0.2, 0.1, 0.2, 0.1):
            if not enough(world):
                live_through(world, shock)
    assert enough(world), world.seen


def live_through(world: World, shock: float) -> None:
    """Open new accounts, let a shock hit everybody, and follow the alarms to their ends."""
    welcome(world)
    world.drift(shock)
    world.post_prices(20)
    compare_views(world)
    realise_losses(world)
    flag_everybody(world)
    world.drift(0.01)
    world.post_prices(20)
    confirm_everybody(world)
    for round_number in range(7):
        slice_everybody(world, world.dice.choice([1, 2, 5, 9]))
        slice_everybody(world, world.dice.choice([1, 3, 9]))
        world.drift(0.08 if round_number == 4 else 0.025)
        wait(world, round_number)
    cure_everybody(world)
    buy_from_debtors(world)


def test_digests_are_those_that_the_contracts_publish() -> None:
    with anvil(timestamp_s=GENESIS_S) as node:
        deployed = deploy(node, signers=[address_of(REPORTER)], spec=spec_of(SLOPE))
        protocol = deployed.protocol
        world = World(node, deployed, random.Random(3), node.timestamp_s())
        observation = Observation("ETH/USD", 1_234 * WAD + 5, 10, 1_600_000_000, 1_600_000_030)
        told = world.view(
            "FastOracle",
            protocol.fast_oracle,
            "reportDigest",
            feed_bytes("ETH/USD"),
            observation.price_wad,
            observation.confidence_bps,
            observation.observed_at_s,
            observation.valid_until_s,
        )
        digest = report_digest(observation, fast_oracle=protocol.fast_oracle, chain_id=protocol.chain_id)
        assert told == (digest,)
        order = Order(account_of(OWNER, 7), 3, -5 * WAD, 7 * WAD, 2**200, 1_600_000_100)
        told = world.view("Clearing", protocol.clearing, "orderDigest", order.fields)
        assert told == (order_digest(order, clearing=protocol.clearing, chain_id=protocol.chain_id),)
