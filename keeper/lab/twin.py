"""Every slice computed again: the adapter's exact mathematics against what the contract's events said.

Each block with a slice starts from the states and prices after the block before, and is played through in
the order of its logs: prices, trades and deposits first move what the slices then find. Where something that
is not played through touched an account earlier in the same block, its slice is skipped, and counted as that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Any

from eth_abi.abi import decode

from keeper.domain import Account, ChainTime, Fact, Holding, OracleView, Refuse
from keeper.lab.chronicle import SOCIALISED, Chronicle, SlowRound
from keeper.lab.world import World
from keeper.protocols.hybrid import clearing, liquidator
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.clearing import Move
from keeper.protocols.hybrid.liquidator import Slice
from keeper.protocols.hybrid.portfolio import setting_at
from keeper.units import WAD, AccountKey, Block, FeedId, Wad


@dataclass(frozen=True, slots=True)
class Terms:
    """What a taker asked of a slice, from the calldata."""

    account: AccountKey
    taker: AccountKey
    tranche_nonce: int
    max_fraction_wad: Wad


@dataclass(slots=True)
class TwinCheck:
    """How the slices compare."""

    checked: int = 0
    skipped: int = 0
    mismatches: list[str] = field(default_factory=list)


def terms_of(calldata: bytes) -> Terms:
    """Decode the calldata of ``liquidate``."""
    account, terms, _ = decode(load("Liquidator").functions["liquidate"].inputs, calldata[4:])
    taker, nonce, _, _, max_fraction, _ = terms
    return Terms(account, taker, nonce, max_fraction)


def check(chronicle: Chronicle, world: World) -> TwinCheck:
    """Compute every slice of a drill again."""
    result = TwinCheck()
    for block in dict.fromkeys(fact.block for fact in chronicle.of("Tranche")):
        _Stage(chronicle, world, block, result).play()
    return result


class _Stage:
    """One block, played through."""

    def __init__(self, chronicle: Chronicle, world: World, block: Block, result: TwinCheck) -> None:
        self._chronicle = chronicle
        self._rules = world.deployed.protocol.rules
        self._tokens = {
            world.deployed.tokens[symbol]: number for symbol, number in world.deployed.collaterals.items()
        }
        self._quote = world.deployed.protocol.quote
        self._block = block
        self._at = ChainTime(block, chronicle.timestamps[block])
        self._oracles: OracleView = chronicle.views[block - 1]
        self._accounts: dict[AccountKey, Account] = {}
        self._lost: set[AccountKey] = set()
        self._result = result

    def play(self) -> None:
        rounds = [r for r in self._chronicle.rounds if r.block == self._block]
        facts = self._chronicle.facts_of(self._block)
        in_order: list[Fact | SlowRound] = sorted([*facts, *rounds], key=attrgetter("log_index"))
        # A transaction's logs lie side by side; a slow round is a transaction of its own.
        for tx_hash, group in groupby(in_order, key=lambda each: getattr(each, "tx_hash", "")):
            logs = list(group)
            told = [each for each in logs if isinstance(each, Fact)]
            for each in logs:
                self._hear(each)
            tranche = next((fact for fact in told if fact.act == "Tranche"), None)
            if tranche is None:
                for fact in told:
                    self._move(fact)
            else:
                self._compare(tranche, terms_of(self._chronicle.calldata[tx_hash]), told)
            if any(fact.act == SOCIALISED for fact in told):
                self._lost.update(self._chronicle.accounts())
        self._compare_buckets()

    def _account(self, key: AccountKey) -> Account:
        if key not in self._accounts:
            self._accounts[key] = self._chronicle.at(key, self._block - 1)
        return self._accounts[key]

    def _hear(self, told: Fact | SlowRound) -> None:
        """Take in a price, a risk array or a settlement."""
        if isinstance(told, SlowRound):
            round_ = {"slow_wad": told.price_wad, "slow_updated_at_s": told.updated_at_s, "slow_ok": True}
            self._see_price(told.feed, **round_)
        elif told.act == "FastPrice":
            args = told.args
            seen = {"fast_wad": args["price_wad"], "fast_observed_at_s": args["observed_at_s"]}
            self._see_price(args["feed"], fast_ok=True, **seen)
        elif told.act == "RiskArraySet":
            # The event says too little of it; a market has one array a block, for the steward posts once.
            market = told.args["market"]
            posted = self._chronicle.views[self._block].arrays[market]
            self._oracles = replace(self._oracles, arrays={**self._oracles.arrays, market: posted})
        elif told.act == "SettlementSet":
            self._settle(told.args)

    def _see_price(self, feed: FeedId, **said: Any) -> None:
        seen = replace(self._oracles[feed], **said)
        self._oracles = replace(self._oracles, feeds={**self._oracles.feeds, feed: seen})

    def _settle(self, args: Mapping[str, Any]) -> None:
        expiry = (args["feed"], args["expiry_s"])
        fixed = {
            number: args["price_wad"]
            for number, market in self._rules.markets.items()
            if (market.feed, market.expiry_s) == expiry
        }
        self._oracles = replace(self._oracles, settlements={**self._oracles.settlements, **fixed})

    def _move(self, fact: Fact) -> None:
        """Do to the accounts what a log outside a slice says; give up those of which it says too little."""
        if fact.act == "Traded":
            self._trade(fact.args)
        elif fact.act == "Deposited":
            self._deposit(fact.args)
        elif fact.act == "OptionSettled":
            self._pay_out(fact.args)
        elif fact.act != "SlowPrice":
            self._lost.update(fact.touched)

    def _trade(self, args: Mapping[str, object]) -> None:
        market, size, price = args["market"], args["size_wad"], args["price_wad"]
        assert isinstance(market, int)
        assert isinstance(size, int)
        assert isinstance(price, int)
        value = size * price // WAD
        for side, sign in (("long", 1), ("short", -1)):
            key = args[side]
            assert isinstance(key, bytes)
            bought = Move(market, sign * size, sign * value)
            self._accounts[key] = clearing.move(self._account(key), bought, self._at.timestamp_s)

    def _deposit(self, args: Mapping[str, object]) -> None:
        key, amount, token = args["account"], args["amount_wad"], str(args["token"])
        assert isinstance(key, bytes)
        assert isinstance(amount, int)
        account = self._account(key)
        if token == self._quote:
            self._accounts[key] = replace(account, cash_wad=account.cash_wad + amount)
            return
        number = self._tokens[token]
        held = {holding.collateral: holding.amount_wad for holding in account.holdings}
        held[number] = held.get(number, 0) + amount
        holdings = tuple(Holding(collateral, amount_wad) for collateral, amount_wad in held.items())
        self._accounts[key] = replace(account, holdings=holdings)

    def _pay_out(self, args: Mapping[str, Any]) -> None:
        key, setting = args["account"], setting_at(self._rules, self._oracles, self._at.timestamp_s)
        self._accounts[key] = clearing.settle(self._account(key), args["market"], setting)

    def _compare(self, tranche: Fact, terms: Terms, told: Iterable[Fact]) -> None:
        keys = {terms.account, terms.taker}
        if keys & self._lost:
            self._result.skipped += 1
            self._lost |= keys
            return
        mine = self._slice(terms)
        self._result.checked += 1
        where = f"slice {terms.tranche_nonce} of 0x{terms.account.hex()} in block {self._block}"
        if isinstance(mine, Refuse):
            self._result.mismatches.append(f"{where}: the twin refuses it ({mine.reason})")
            self._lost |= keys
            return
        wrong = _differences(mine, tranche, told)
        self._accounts[terms.account], self._accounts[terms.taker] = mine.account, mine.taker
        wrong += self._unlike_chain(terms, told)
        if wrong:
            self._result.mismatches.append(f"{where}: {'; '.join(wrong)}")

    def _slice(self, terms: Terms) -> Slice | Refuse:
        """Carry the slice out; what the insurance may pay for this account is less than for all together."""
        before = self._oracles.world
        limit = self._chronicle.drawable_wad.get((self._block, terms.account), before.drawable_wad)
        mine_wad = min(before.drawable_wad, limit)
        mine = liquidator.liquidate(
            self._account(terms.account),
            self._account(terms.taker),
            replace(self._oracles, world=replace(before, drawable_wad=mine_wad)),
            self._at,
            self._rules,
            max_fraction_wad=terms.max_fraction_wad,
        )
        if isinstance(mine, Slice):
            after = mine.oracles.world
            drawable_wad = before.drawable_wad - (mine_wad - after.drawable_wad)
            self._oracles = replace(mine.oracles, world=replace(after, drawable_wad=drawable_wad))
        return mine

    def _compare_buckets(self) -> None:
        """Compare what the slices of the block filled, unless one of them was not played through."""
        chain = self._chronicle.views[self._block].buckets
        unlike = [feed for feed, bucket in self._oracles.buckets.items() if bucket != chain[feed]]
        if unlike and not self._lost:
            found = ", ".join(f"{feed} {chain[feed]}, twin {self._oracles.buckets[feed]}" for feed in unlike)
            self._result.mismatches.append(f"buckets after block {self._block}: {found}")

    def _unlike_chain(self, terms: Terms, told: Iterable[Fact]) -> list[str]:
        """Compare the account after its last log of the block with the row that the chain has of it."""
        last = max(fact.log_index for fact in told)
        later = [f for f in self._chronicle.facts_of(self._block) if f.log_index > last]
        if any(terms.account in fact.touched for fact in later):
            return []
        mine, chain = self._account(terms.account), self._chronicle.at(terms.account, self._block)
        parts = ("phase", "cash_wad", "legs", "holdings")
        return [
            f"{part} {getattr(chain, part)}, twin {getattr(mine, part)}"
            for part in parts
            if getattr(mine, part) != getattr(chain, part)
        ]


def _differences(mine: Slice, tranche: Fact, told: Iterable[Fact]) -> list[str]:
    """Name what the events of a slice say otherwise."""
    paid: Counter[str] = Counter()
    for fact in told:
        paid[fact.act] += fact.args.get("amount_wad", 0)
    insured = mine.fee.from_insurance_wad
    expected = {
        "fraction_wad": mine.fraction_wad,
        "q_wad": mine.q_wad,
        "kappa_wad": mine.kappa_wad,
        "notional_wad": mine.notional_wad,
        "fee_wad": mine.fee.whole_wad,
        "equity_before_wad": mine.before.equity_wad,
        "requirement_before_wad": mine.before.requirement_wad,
        "equity_after_wad": mine.after.equity_wad,
        "requirement_after_wad": mine.after.requirement_wad,
    }
    found = [(name, tranche.args[name], value) for name, value in expected.items()]
    found += [
        ("InsurancePaid", paid["InsurancePaid"], insured),
        ("BadDebt", paid["BadDebt"], mine.bad_debt_wad),
        ("BackstopPaid", paid["BackstopPaid"], insured + mine.covered_wad),
    ]
    return [f"{name} {chain}, twin {value}" for name, chain, value in found if chain != value]
