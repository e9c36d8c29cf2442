"""After a drill: what happened, in figures, and whether every promise was kept.

Everything is computed from the chain's own events and states; the keeper's journal is asked only for what the
chain cannot know, and checked for itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.domain import Account, Fact, FeedView, Phase
from keeper.journal.reader import JournalReader
from keeper.lab import chronicle as chronicles
from keeper.lab import hedge_audit, twin
from keeper.lab.anvil import Node
from keeper.lab.chronicle import Chronicle
from keeper.lab.drill import Outcome
from keeper.lab.paths import BLOCK_S, Paths
from keeper.lab.world import World
from keeper.protocols.hybrid import codec
from keeper.protocols.hybrid.liquidator import TAKER_SHARE_WAD
from keeper.protocols.hybrid.math import leg_value_wad
from keeper.protocols.hybrid.params import Rules, SlopeParams, Terms
from keeper.protocols.hybrid.portfolio import setting_at
from keeper.units import WAD, AccountKey, Block, FeedId, Wad, mul_div_down

Floats: TypeAlias = NDArray[np.float64]

NATIVE_FEED: FeedId = "ETH/USD"
DUST_ROUNDING = 10**9
"""By so many wei may a slice that was raised to the smallest one exceed it."""
HEALTH_ROUNDING = Fraction(1, 10**9)
EQUITY_ROUNDING_WAD = 10**9


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one drill, by name, and what it broke."""

    figures: Mapping[str, Any]
    violations: tuple[str, ...]


def audit(node: Node, world: World, paths: Paths, outcome: Outcome, journal: Path) -> Report:
    """Read the drill back and judge it."""
    chronicle = chronicles.read(node, world, outcome.first_block, outcome.last_block)
    slices = measure_slices(chronicle, world.deployed.protocol.rules)
    healths = follow_health(chronicle, world, paths)
    purse = count_purse(node, chronicle, world)
    twins = twin.check(chronicle, world)
    hedges, hedges_broken = hedge_audit.follow(chronicle, world)
    reader = JournalReader(journal)
    try:
        summary, broken, latency_ms = reader.summary(), reader.verify(), reader.tick_to_tx_ms()
    finally:
        reader.close()
    acts = Counter(fact.act for fact in chronicle.facts)
    violations = [
        *judge(acts, slices, healths),
        *(f"journal: {line}" for line in broken),
        *unknown_transactions(len(chronicle.spent), summary.steps),
        *repeated_tranches(chronicle),
        *broken_books(node, chronicle, world),
        *(f"twin: {line}" for line in twins.mismatches),
        *hedges_broken,
    ]
    owners = {owner.person.account for owner in world.owners}
    closed = (fact for fact in chronicle.of("Tranche") if fact.args["account"] in owners)
    figures = {
        "mode": "lockstep",
        "units": {"money": "quote", "health": "E/M", "*_ms": "milliseconds of wall time"},
        "seed": paths.seed,
        "accounts": len(world.owners),
        "blocks": paths.blocks,
        "flagged": acts["Flagged"],
        "confirmed": acts["Confirmed"],
        "cleared": acts["Cleared"],
        "expired": acts["Expired"],
        "tranches": acts["Tranche"],
        "cured": acts["Cured"],
        "closed": acts["Insolvent"],
        "bad_debt": _money(sum(fact.args["amount_wad"] for fact in chronicle.of("BadDebt"))),
        "notional_closed": _money(sum(fact.args["notional_wad"] for fact in closed)),
        "cliff_notional_closed": round(sum(healths.cliff.values()), 2),
        "cliff_accounts": len(healths.cliff),
        "false_closes": len(healths.false_closes),
        "max_health_after_slice": _ratio(slices.highest),
        "min_health_after_slice": _ratio(slices.lowest),
        "min_health_gain": _ratio(slices.least_gain),
        "dust_slices": slices.dust,
        "owner_fees": _money(sum(fact.args["fee_wad"] for fact in chronicle.of("Tranche"))),
        "owners_topped_up": outcome.owners_topped_up,
        "top_ups": outcome.top_ups,
        "too_poor": outcome.too_poor,
        "keeper_fees": _money(purse.fees_wad),
        "keeper_rewards": _money(purse.rewards_wad),
        "keeper_bonds_slashed": _money(purse.slashed_wad),
        "keeper_gas": _money(purse.gas_wad),
        "keeper_transactions": len(chronicle.spent),
        "keeper_reverted": dict(Counter(s.revert.split("(")[0] for s in chronicle.spent if s.revert)),
        "keeper_inventory_pnl": _money(purse.inventory_wad),
        "keeper_margin": _money(purse.margin_wad),
        "tick_to_tx_ms": {"p50": _percentile(latency_ms, 50), "p99": _percentile(latency_ms, 99)},
        "block_ms": {"p50": _percentile(outcome.block_ms, 50), "p99": _percentile(outcome.block_ms, 99)},
        "late_blocks": outcome.late_blocks,
        "kills": outcome.kills,
        "wall_seconds": round(outcome.wall_s, 1),
        "chain_seconds_per_wall_second": round(paths.blocks * BLOCK_S / outcome.wall_s, 1),
        "waits": dict(summary.reasons.get("Waited", {})),
        "refusals": dict(summary.reasons.get("Refused", {})),
        "abandoned": dict(summary.reasons.get("Abandoned", {})),
        "cases": dict(summary.cases),
        "steps": dict(summary.steps),
        "twin_checked": twins.checked,
        "twin_skipped": twins.skipped,
        "twin_mismatches": len(twins.mismatches),
        "maker_trades": outcome.maker_trades,
        "maker_out_of_band": outcome.maker_out_of_band,
        "refused_by_chain": outcome.refused_by_chain,
        "wick": {
            "feed": paths.wick.feed,
            "depth": round(paths.wick.depth, 4),
            "seconds": paths.wick.last_s - paths.wick.first_s,
            "flagged": healths.wick_flags,
        },
        "risk_arrays": acts["RiskArraySet"],
        "options_settled": acts["OptionSettled"],
        "hedges": hedge_audit.rows(hedges),
        "violations": violations,
    }
    return Report(figures, tuple(violations))


# --- the slices ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Slices:
    """Health after and gained by slices, as exact fractions; None without any that counts."""

    highest: Fraction | None = None
    lowest: Fraction | None = None
    least_gain: Fraction | None = None
    """Of accounts with equity: the quotient of one without says nothing, it falls as the requirement does."""
    dust: int = 0
    bound: Fraction = Fraction(0)
    overdrawn_wad: Wad = 0
    """The most that a slice took of an account without equity beyond its fee, in quote."""


def measure_slices(chronicle: Chronicle, rules: Rules) -> Slices:
    """Measure E/M at the execution price before and after each slice; all-dust ones count apart."""
    slope = default_slope(rules)
    found = Slices(bound=Fraction(WAD + slope.beta_wad, WAD))
    for fact in chronicle.of("Tranche"):
        if is_dust(fact, slope):
            found.dust += 1
            continue
        after = Fraction(fact.args["equity_after_wad"], fact.args["requirement_after_wad"])
        before = Fraction(fact.args["equity_before_wad"], fact.args["requirement_before_wad"])
        found.highest = after if found.highest is None else max(found.highest, after)
        found.lowest = after if found.lowest is None else min(found.lowest, after)
        if fact.args["equity_before_wad"] <= 0:
            lost_wad = fact.args["equity_before_wad"] - fact.args["equity_after_wad"]
            found.overdrawn_wad = max(found.overdrawn_wad, lost_wad - fact.args["fee_wad"])
            continue
        gain = after - before
        found.least_gain = gain if found.least_gain is None else min(found.least_gain, gain)
    return found


def default_slope(rules: Rules) -> SlopeParams:
    """Return the slope that everybody in a drill follows, for nobody chooses another."""
    return rules.slopes[rules.default_slope]


def is_dust(tranche: Fact, slope: SlopeParams) -> bool:
    """Tell whether a slice took all, or was raised to the smallest slice there is."""
    raised: bool = tranche.args["notional_wad"] <= slope.min_slice_wad + DUST_ROUNDING
    taken_whole: bool = tranche.args["requirement_after_wad"] == 0
    return raised or taken_whole


def repeated_tranches(chronicle: Chronicle) -> Iterator[str]:
    """Yield where an account's slices are not numbered without gap or repetition, one transaction each."""
    numbers: dict[AccountKey, list[int]] = defaultdict(list)
    for fact in chronicle.of("Tranche"):
        terms = twin.terms_of(chronicle.calldata[fact.tx_hash])
        numbers[terms.account].append(terms.tranche_nonce)
    for account, found in numbers.items():
        if found != list(range(found[0], found[0] + len(found))) or found[0] != 0:
            yield f"account 0x{account.hex()} has the tranches {found}"


# --- health, against the cliff and against the truth ----------------------------------------------


@dataclass(slots=True)
class Healths:
    """What following every account's health gives."""

    cliff: dict[AccountKey, float] = field(default_factory=dict)
    """Notional that a cliff at the fast price would have closed: all of the book, at the first breach."""
    false_closes: list[str] = field(default_factory=list)
    wick_flags: int = 0


class _Books:
    """Accounts without options, with one perp a feed, as columns, kept up to date block by block."""

    def __init__(self, keys: Iterable[AccountKey], terms: Terms, feeds: tuple[FeedId, ...]) -> None:
        self.keys = tuple(keys)
        self.row = {key: i for i, key in enumerate(self.keys)}
        self._terms = terms
        self._feeds = {feed: i for i, feed in enumerate(feeds)}
        shape = (len(self.keys), len(feeds))
        self.fixed = np.zeros(len(self.keys))
        self.slope = np.zeros(shape)
        self.rate = np.zeros(shape)
        self.size = np.zeros(shape)

    def put(self, account: Account) -> None:
        """Take over one account: E = fixed + slope p, M = rate p, N = size p."""
        row = self.row.get(account.key)
        if row is None:
            return
        self.slope[row], self.rate[row], self.size[row] = 0, 0, 0
        self.fixed[row] = account.cash_wad / WAD
        for leg in account.legs:
            perp = self._terms.markets[leg.market]
            column = self._feeds[perp.feed]
            self.fixed[row] += leg.quote_leg_wad / WAD
            self.slope[row, column] += leg.size_wad / WAD
            self.rate[row, column] += abs(leg.size_wad) / WAD * (self._terms.risks[perp.feed].mmr_wad / WAD)
            self.size[row, column] += abs(leg.size_wad) / WAD
        for holding in account.holdings:
            terms = self._terms.collaterals[holding.collateral]
            self.slope[row, self._feeds[terms.feed]] += holding.amount_wad / WAD * (terms.h_mm_wad / WAD)

    def health(self, prices: Floats) -> Floats:
        """Return E/M [accounts, moments] at prices [moments, feeds]; infinite without requirement."""
        requirement = self.rate @ prices.T
        equity = self.fixed[:, None] + self.slope @ prices.T
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.where(requirement > 0, equity / requirement, np.inf)
        return found


def follow_health(chronicle: Chronicle, world: World, paths: Paths) -> Healths:
    """Follow the owners' health at the fast price, block by block, and at the true one, second by second.

    A slice is false where the account's true health, with its book of the time, had at no second fallen below
    the flag level since the account was last healthy.
    """
    rules = world.deployed.protocol.rules
    level = (WAD + default_slope(rules).beta_flag_wad) / WAD
    terms = rules.at(paths.start_s)
    books = _Books((owner.person.account for owner in world.owners), terms, paths.feeds)
    for key in books.keys:
        books.put(chronicle.at(key, chronicle.first))
    found = Healths()
    lowest = np.full(len(books.keys), np.inf)
    for block in range(chronicle.first + 1, chronicle.last + 1):
        second = BLOCK_S * (block - chronicle.first)
        seconds = paths.true[second - BLOCK_S : second + 1]
        lowest = np.minimum(lowest, books.health(seconds).min(axis=1))
        facts = chronicle.facts_of(block)
        _note_false_closes(found, facts, lowest, books, level, block)
        found.wick_flags += _flags_under_wick(facts, chronicle, paths, block)
        for account in chronicle.changed(block):
            books.put(account)
        for fact in facts:
            if fact.act in {"Cured", "Cleared", "Expired"} and fact.args["account"] in books.row:
                lowest[books.row[fact.args["account"]]] = np.inf
        _note_cliff(found, chronicle.views[block], books, paths.feeds)
    return found


def _note_cliff(
    found: Healths, views: Mapping[FeedId, FeedView], books: _Books, feeds: tuple[FeedId, ...]
) -> None:
    prices = np.array([[views[feed].fast_wad / WAD for feed in feeds]])
    breached = np.flatnonzero(books.health(prices)[:, 0] < 1)
    for row in breached:
        key = books.keys[row]
        if key not in found.cliff:
            found.cliff[key] = float(books.size[row] @ prices[0])


def _note_false_closes(
    found: Healths, facts: Iterable[Fact], lowest: Floats, books: _Books, level: float, block: Block
) -> None:
    for fact in facts:
        key = fact.args.get("account")
        if fact.act == "Tranche" and key in books.row and lowest[books.row[key]] >= level:
            health = lowest[books.row[key]]
            found.false_closes.append(f"0x{key.hex()} in block {block}, true health never below {health:.4f}")


def _flags_under_wick(facts: Iterable[Fact], chronicle: Chronicle, paths: Paths, block: Block) -> int:
    """Count alarms raised while the chain's fast price was the false one."""
    observed = chronicle.views[block][paths.wick.feed].fast_observed_at_s
    if not paths.wick.first_s <= observed < paths.wick.last_s + BLOCK_S:
        return 0
    return sum(fact.act == "Flagged" for fact in facts)


# --- the keeper's purse ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Purse:
    """What the keeper earned and paid, all in quote."""

    fees_wad: Wad
    rewards_wad: Wad
    slashed_wad: Wad
    gas_wad: Wad
    inventory_wad: Wad
    """All else that its wealth at the fast price gained or lost: positions and collateral taken over."""
    margin_wad: Wad


def count_purse(node: Node, chronicle: Chronicle, world: World) -> Purse:
    """Split the change of the keeper's wealth into fees, rewards, slashed bonds and inventory; gas apart."""
    keeper = world.keeper
    fees = sum(
        fact.args["fee_wad"] * TAKER_SHARE_WAD // WAD
        for fact in chronicle.of("Tranche")
        if fact.args["taker"] == keeper.account
    )
    paid = chronicle.of("InsurancePaid")
    fees += sum(fact.args["amount_wad"] for fact in paid if fact.args["taker"] == keeper.account)
    flaggers: dict[AccountKey, str] = {}
    rewards = 0
    for fact in chronicle.facts:
        if fact.act == "Flagged":
            flaggers[fact.args["account"]] = fact.args["flagger"]
        elif fact.act == "Confirmed" and flaggers.get(fact.args["account"]) == keeper.address:
            rewards += fact.args["reward_wad"]
    settled = [f for f in chronicle.of("BondSettled") if f.args["flagger"] == keeper.address]
    slashed = sum(fact.args["slashed_wad"] for fact in settled)
    gas = sum(
        spent.gas_wei * chronicle.views[spent.block][NATIVE_FEED].fast_wad // WAD for spent in chronicle.spent
    )
    wealth = {block: _wealth(node, chronicle, world, block) for block in (chronicle.first, chronicle.last)}
    gained = wealth[chronicle.last] - wealth[chronicle.first]
    return Purse(
        fees_wad=fees,
        rewards_wad=rewards,
        slashed_wad=slashed,
        gas_wad=gas,
        inventory_wad=gained - fees - rewards + slashed,
        margin_wad=chronicle.at(keeper.account, chronicle.first).cash_wad,
    )


def _wealth(node: Node, chronicle: Chronicle, world: World, block: Block) -> Wad:
    """Value the keeper's account, credits and bonds at the fast prices of a block."""
    deployed, keeper = world.deployed, world.keeper
    rules, vault = deployed.protocol.rules, deployed.protocol.vault
    views = chronicle.views[block]
    account = chronicle.at(keeper.account, block)
    setting = setting_at(rules, views, chronicle.timestamps[block])
    wealth = account.cash_wad
    for position in setting.positions(account):
        wealth += leg_value_wad(position, views[position.market.feed].fast_wad)
    collateral_tokens = [(terms.token, views[terms.feed].fast_wad) for terms in rules.collaterals.values()]
    for token, price in [(deployed.protocol.quote, WAD), *collateral_tokens]:
        call = codec.credit_call(vault, token, keeper.address)
        wealth += mul_div_down(codec.decode_amount(node.call(call.to, call.data, block)), price, WAD)
    held = (chronicle.at(key, block) for key in chronicle.accounts())
    return wealth + sum(a.flag.bond_wad for a in held if a.flag.flagger.lower() == keeper.address)


# --- what must hold -------------------------------------------------------------------------------


def judge(acts: Mapping[str, int], slices: Slices, healths: Healths) -> Iterator[str]:
    """Yield one line for every promise of the demo that was broken."""
    for line in healths.false_closes:
        yield f"false close: {line}"
    if slices.highest is not None and slices.highest > slices.bound + HEALTH_ROUNDING:
        yield f"a slice left health {float(slices.highest):.9f}, above {float(slices.bound):.2f}"
    if slices.least_gain is not None and slices.least_gain < 0:
        yield f"a slice lowered health by {-float(slices.least_gain):.3e}"
    if slices.overdrawn_wad > EQUITY_ROUNDING_WAD:
        yield f"a slice took {slices.overdrawn_wad / WAD:.3e} beyond its fee of an account without equity"
    for act, least in (("Tranche", "slice"), ("Cured", "cure"), ("Cleared", "cleared alarm")):
        if not acts.get(act, 0):
            yield f"expected at least one {least}, found none"


def unknown_transactions(on_chain: int, steps: Mapping[str, int]) -> Iterator[str]:
    """Yield where the wallet's transactions on chain are not those that the journal let through.

    A step that was displaced has had its nonce used, too: by its cancel.
    """
    ended = sum(steps.get(state, 0) for state in ("included", "reverted", "displaced"))
    live = steps.get("reserved", 0) + steps.get("sent", 0)
    if not ended <= on_chain <= ended + live:
        known = f"its journal knows {ended}, and {live} in flight"
        yield f"the keeper's wallet has {on_chain} transactions on chain, {known}"


def broken_books(node: Node, chronicle: Chronicle, world: World) -> Iterator[str]:
    """Yield where the protocol's accounts do not add up.

    To the wei, but for what rounding against accounts leaves with the Clearing: at most ``slack_wei``.
    """
    protocol = world.deployed.protocol
    block = chronicle.last
    view = chronicle.views[block]
    setting = setting_at(protocol.rules, view, chronicle.timestamps[block])
    accounts = [chronicle.at(key, block) for key in chronicle.accounts()]
    call = codec.credit_call(protocol.vault, protocol.quote, protocol.clearing)
    credit = codec.decode_amount(node.call(call.to, call.data, block))
    owed = view.world.insurance_wad - view.world.bad_debt_wad
    for account in accounts:
        owed += account.cash_wad + sum(leg.quote_leg_wad for leg in account.legs)
        # One side of a settled option may have been paid out before the other.
        settled = (position for position in setting.positions(account) if position.is_settled)
        owed += sum(leg_value_wad(position, 0) - position.quote_leg_wad for position in settled)
    slack = slack_wei(chronicle)
    if not 0 <= credit - owed <= slack:
        yield (
            "books: cash, quote legs, settled options and insurance less bad debt are "
            f"{owed}, the credit is {credit}, at most {slack} wei more expected"
        )
    for market in protocol.rules.markets.keys() - view.settlements.keys():
        net = sum(leg.size_wad for account in accounts for leg in account.legs if leg.market == market)
        if net:
            yield f"books: the sizes of market {market} add up to {net}, not to 0"
    for number, terms in protocol.rules.collaterals.items():
        held = sum(h.amount_wad for account in accounts for h in account.holdings if h.collateral == number)
        call = codec.credit_call(protocol.vault, terms.token, protocol.clearing)
        credit = codec.decode_amount(node.call(call.to, call.data, block))
        if held != credit:
            yield f"books: accounts hold {held} of collateral {number}, the Clearing has credit for {credit}"
    for account in accounts:
        if account.flag.bond_wad and account.phase is not Phase.FLAGGED:
            yield f"books: 0x{account.key.hex()} is {account.phase}, and its bond is still held"


def slack_wei(chronicle: Chronicle) -> int:
    """Return how many wei rounding may have left with the Clearing.

    A settlement rounds each side down. A socialised loss rounds up the index, which counts for every unit of
    open interest, and the share of each account that holds some.
    """
    settled = chronicle.views[chronicle.last].settlements
    left = (leg for key in chronicle.accounts() for leg in chronicle.at(key, chronicle.last).legs)
    slack = len(chronicle.of("OptionSettled")) + sum(leg.market in settled for leg in left)
    for fact in chronicle.of(chronicles.SOCIALISED):
        market, block = fact.args["market"], fact.block - 1
        held = [leg for key in chronicle.accounts() for leg in chronicle.at(key, block).legs]
        sizes = [abs(leg.size_wad) for leg in held if leg.market == market]
        slack += len(sizes) + 2 * (sum(sizes) // WAD + 1)
    return slack


def _money(amount_wad: Wad) -> float:
    return round(amount_wad / WAD, 2)


def _ratio(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


def _percentile(values: Iterable[float], percent: float) -> float | None:
    found = list(values)
    return round(float(np.percentile(found, percent)), 2) if found else None
