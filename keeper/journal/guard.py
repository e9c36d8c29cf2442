"""The one door to the wallet: every limit is checked, and the step committed, in one transaction.

Each rule is a pure function of what is asked, with what earlier steps add up to and the limits beside it; the
first that refuses names the limit, the value found and the bound. Time is chain time, from the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from keeper.domain import Agree, CaseEvent, EventKind, Fees, Liquidate, Permit, Reason, Refuse, Step
from keeper.errors import InvariantBroken
from keeper.journal import rows, switches, tally
from keeper.journal.db import Db
from keeper.journal.tally import DAY_S, GWEI, HOUR_S, Inventory, Sums
from keeper.ports import BREAKERS, LIVE, BidKind, Measure, StepRecord, StepState, Switch, Thrown
from keeper.units import WAD, AccountKey, Block, FeedId, UnixS, Wad, Wei

Added = TypeVar("Added", int, Inventory)
EACH = "*"
"""In the place of a market: each one that is not named."""
BREAKER_BOUNDS: Mapping[str, float] = {
    Switch.REVERTS: 1.0,
    Switch.DRIFT: 50,
    Switch.JUMP: 0.5,
    Switch.DIVERGENCE: 0.5,
}
"""Share of the last own steps that reverted, accounts that the mirror had otherwise, moves and distances as
shares of a price."""
MINED = (StepState.INCLUDED, StepState.REVERTED)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the wallet may do at most."""

    halted: bool = False
    """The kill switch: nothing new is permitted; what is in flight is still followed."""
    kill_file: Path | None = None
    """As long as it exists, nothing new is permitted either."""
    spend_day_wei: Wei = WAD // 2
    """Gas paid in the last 24 h, plus the most that transactions in flight may still cost,"""
    spend_hour_wei: Wei | None = None
    """and in an hour."""
    floor_wei: Wei = 0
    """What the wallet must have left once everything in flight has cost its most."""
    max_fee_wei: Wei = 500 * GWEI
    """The most that a transaction may bid per gas, tip included."""
    notional_block_wad: Wad = 10_000_000 * WAD
    """Position notional taken over by the steps reserved at one block, in quote,"""
    notional_hour_wad: Wad | None = None
    """and in an hour."""
    market_day_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What all steps may take of one market in 24 h, in quote; ``EACH`` for those not named."""
    inventory_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What may be taken over of one market and not be sold yet, long or short; likewise."""
    loss_hour_wad: Wad | None = None
    """What steps may lose in an hour, in quote: in flight or reverted the most they may, else as expected;"""
    loss_day_wad: Wad | None = None
    """and in 24 h."""
    attempts_hour: int = 60
    """Steps of one account in the last hour, whatever became of them."""
    backoff_s: int = 30
    """Pause of an account after a revert; it doubles with each further one in a row."""
    backoff_max_s: int = 1_800
    solvency_day_wad: Wad = 0
    """What steps may be expected to lose in 24 h, in quote, on accounts that are kept solvent at a cost."""
    depth_minute_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What all steps together may take of a feed within a minute, in quote."""
    accounts_allow: frozenset[str] = frozenset()
    """Owners, or whole keys, in lower hexadecimal with 0x: where any is named, nobody else is touched."""
    accounts_deny: frozenset[str] = frozenset()
    """These never are."""
    markets_allow: frozenset[str] = frozenset()
    """Feeds, or the protocol's own markets: where any is named, nothing is done that hangs on another one."""
    markets_deny: frozenset[str] = frozenset()
    """Nothing is done that hangs on one of these."""
    breakers: Mapping[str, float] = field(default_factory=lambda: dict(BREAKER_BOUNDS))
    """At which figure each breaker trips; one that is not named never does."""
    in_flight: int = 16
    """Transactions of the wallet at the same time: geth guarantees an account as many places in its pool."""
    foreign_stops: bool = True
    """Whether nothing new is permitted while another program uses the wallet's key."""
    breaker_rest_s: int = 600
    """After so long a breaker closes by itself, unless its figure is still at the bound."""

    def changes(self, other: Limits) -> str:
        """Say in which limits others are otherwise, and how."""
        was, now = (
            {each.name: getattr(limits, each.name) for each in fields(limits)} for limits in (self, other)
        )
        return ", ".join(f"{name} {was[name]} -> {now[name]}" for name in was if was[name] != now[name])

    def of_market(self, bounds: Mapping[FeedId, Wad], market: FeedId) -> Wad | None:
        """Return the bound of a market, or the one for all that are not named."""
        return bounds.get(market, bounds.get(EACH))


@dataclass(frozen=True, slots=True)
class Standing:
    """What bears on a grant beside steps and limits: the tape has it, for a replay cannot know."""

    thrown: tuple[Thrown, ...] = ()
    """The switches that are on, a file that halts among them."""
    limits: Limits | None = None
    """Those that hold instead of the ones that the run began with."""

    def of(self, *kinds: Switch) -> tuple[Thrown, ...]:
        """Return some kinds of switches."""
        return tuple(each for each in self.thrown if each.switch in kinds)

    def sold_to(self, market: FeedId) -> int:
        """Return the last stake of a market that the operator has sold."""
        return next((each.mark for each in self.of(Switch.SOLD) if each.subject == market), 0)


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier step of the same account, as far as the limits look at it."""

    step_id: str
    state: StepState
    reserved_at_s: UnixS
    outcome_at_s: UnixS | None
    failed_together: bool = False
    """Whether it reverted only with a batch that did as a whole."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a step asks of the wallet, and all that the rules look at to answer."""

    account: AccountKey
    max_cost_wei: Wei
    notional_wad: Wad
    valid_until_block: Block
    block: Block
    at_s: UnixS
    own: tuple[Past, ...]
    """The account's steps in flight and those of the last day, oldest first."""
    spent_day_wei: Wei
    """Of all accounts, as all below: paid in the last day where the outcome is known, else the most."""
    notional_block_wad: Wad
    """What the steps reserved at this block take over, the abandoned ones left out."""
    limits: Limits
    closes: bool = False
    """Whether it takes something of the account."""
    agreed: Agree | None = None
    """What it rests on."""
    loss_wad: Wad = 0
    losses_day_wad: Wad = 0
    """What the steps of the last day lose to keep accounts solvent, the abandoned ones left out."""
    takes: tuple[tuple[FeedId, Wad], ...] = ()
    moved_minute_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What the steps of the last minute take of each feed, or have taken."""
    standing: Standing = Standing()
    markets: tuple[str, ...] = ()
    """What the account hangs on."""
    max_fee_wei: Wei = 0
    """What the transaction bids per gas."""
    balance_wei: Wei | None = None
    """Of the wallet, at the newest head; None where nobody has asked."""
    in_flight: int = 0
    """Transactions that may still be included,"""
    in_flight_wei: Wei = 0
    """and the most that they may cost."""
    risk_wad: Wad = 0
    """The most that the step may lose."""
    hour: Sums = field(default_factory=Sums)
    day: Sums = field(default_factory=Sums)
    taken_day_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What the steps of the last day take of each market, or have taken; of those that this one takes of."""
    inventory: Mapping[FeedId, Inventory] = field(default_factory=dict)
    """What is not sold of each of them."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the steps of a journal mean for the next one of their wallet, whichever journal that goes into."""

    nonces: frozenset[int] = frozenset()
    """Those not below the chain's that a transaction holds."""
    in_flight_wei: Wei = 0
    notional_block_wad: Wad = 0
    losses_day_wad: Wad = 0
    hour: Sums = field(default_factory=Sums)
    day: Sums = field(default_factory=Sums)
    moved_minute_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    taken_day_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    inventory: Mapping[FeedId, Inventory] = field(default_factory=dict)
    in_flight: int = 0

    def __add__(self, other: Claims) -> Claims:
        """Take two together."""
        if other is NO_CLAIMS:
            return self
        return Claims(
            self.nonces | other.nonces,
            self.in_flight_wei + other.in_flight_wei,
            self.notional_block_wad + other.notional_block_wad,
            self.losses_day_wad + other.losses_day_wad,
            self.hour + other.hour,
            self.day + other.day,
            _together(self.moved_minute_wad, other.moved_minute_wad, 0),
            _together(self.taken_day_wad, other.taken_day_wad, 0),
            _together(self.inventory, other.inventory, Inventory()),
            self.in_flight + other.in_flight,
        )


NO_CLAIMS = Claims()
"""Those of a wallet that has no other journal."""


def _together(one: Mapping[FeedId, Added], other: Mapping[FeedId, Added], none: Added) -> dict[FeedId, Added]:
    return {feed: one.get(feed, none) + other.get(feed, none) for feed in one.keys() | other.keys()}


def not_halted(ask: Ask) -> Refuse | None:
    """Refuse everything while the kill switch is set: in the settings, by a file, a command or a signal."""
    return _halted(ask.limits, ask.standing)


def _halted(limits: Limits, standing: Standing) -> Refuse | None:
    if limits.halted:
        return _refuse("halted", "the kill switch is set", "halted = false")
    for each in standing.of(Switch.HALT):
        bound = "no such file" if each.who == switches.FILE else "keeper resume"
        return _refuse("halted", f"halted {each.told}", bound)
    return None


def not_paused(ask: Ask) -> Refuse | None:
    """Refuse what hangs on a market that is paused."""
    for each in ask.standing.of(Switch.PAUSE):
        if each.subject in ask.markets:
            return _refuse("paused", f"{each.subject} paused {each.told}", f"keeper unpause {each.subject}")
    return None


def account_listed(ask: Ask) -> Refuse | None:
    """Refuse accounts that are denied, or that are not allowed where only some are."""
    limits, key = ask.limits, f"0x{ask.account.hex()}"
    if any(map(key.startswith, limits.accounts_deny)):
        return _refuse("account", key, "limits.accounts_deny")
    if limits.accounts_allow and not any(map(key.startswith, limits.accounts_allow)):
        return _refuse("account", key, "limits.accounts_allow")
    return None


def markets_listed(ask: Ask) -> Refuse | None:
    """Refuse what hangs on a market that is denied, or that is not allowed where only some are."""
    allowed, denied = ask.limits.markets_allow, ask.limits.markets_deny
    for market in ask.markets:
        if market in denied or (allowed and market not in allowed):
            return _refuse("market", market, f"limits.markets_{'deny' if market in denied else 'allow'}")
    return None


def no_breaker(ask: Ask) -> Refuse | None:
    """Refuse while a breaker is open: after reverts everything, else what takes something of an account."""
    for each in ask.standing.of(*BREAKERS):
        concerned = not each.subject or each.subject in ask.markets
        holds_it = concerned and (ask.closes or each.switch is Switch.REVERTS)
        if holds_it and each.holds(ask.at_s):
            bound = f"until {each.until_s}, or keeper reset {each.switch}"
            return _refuse("breaker", f"{each.name} {each.why}, tripped at {each.at_s}", bound)
    return None


def agreement(ask: Ask) -> Refuse | None:
    """Refuse to take anything of an account without an agreement about it, given for the block to come."""
    if not ask.closes:
        return None
    if ask.agreed is None:
        return _refuse("agreement", "none", "what takes of an account rests on an agreement")
    about, block = ask.agreed.account, ask.agreed.block
    if (about, block) == (ask.account, ask.block + 1):
        return None
    evidence = f"one about 0x{about.hex()} for block {block}"
    return _refuse("agreement", evidence, f"0x{ask.account.hex()}, block {ask.block + 1}")


def still_valid(ask: Ask) -> Refuse | None:
    """Refuse a step whose validity ends before the next block."""
    if ask.block < ask.valid_until_block:
        return None
    return _refuse("validity", f"next block {ask.block + 1}", f"valid until block {ask.valid_until_block}")


def no_duplicate(ask: Ask) -> Refuse | None:
    """Refuse a second transaction while one of the account may still be included."""
    live = [p.step_id for p in ask.own if p.state in LIVE]
    return _refuse("duplicate", f"in flight: {', '.join(live)}", "1 transaction an account") if live else None


def max_fee(ask: Ask) -> Refuse | None:
    """Bound what a transaction bids per gas."""
    if ask.max_fee_wei <= ask.limits.max_fee_wei:
        return None
    return _refuse("max_fee", f"{ask.max_fee_wei} wei per gas", f"{ask.limits.max_fee_wei} wei per gas")


def wallet_floor(ask: Ask) -> Refuse | None:
    """Keep so much in the wallet, were everything in flight to cost its most."""
    if ask.balance_wei is None:
        unasked = ask.limits.floor_wei > 0
        return _refuse("wallet_floor", "balance unknown", f"{ask.limits.floor_wei} wei") if unasked else None
    left_wei = ask.balance_wei - ask.in_flight_wei - ask.max_cost_wei
    if left_wei >= ask.limits.floor_wei:
        return None
    used = f"{ask.in_flight_wei} wei in flight and {ask.max_cost_wei} wei for this step"
    evidence = f"{ask.balance_wei} wei less {used}"
    return _refuse("wallet_floor", evidence, f"{ask.limits.floor_wei} wei left")


def in_flight(ask: Ask) -> Refuse | None:
    """Bound the transactions of the wallet that wait at the same time, each behind those before it."""
    if ask.in_flight < ask.limits.in_flight:
        return None
    return _refuse("in_flight", f"{ask.in_flight} in flight", f"{ask.limits.in_flight} transactions")


def nobody_else(ask: Ask) -> Refuse | None:
    """Refuse while another program uses the wallet's key: its nonces are not ours to give out."""
    return _used_elsewhere(ask.limits, ask.standing)


def _used_elsewhere(limits: Limits, standing: Standing) -> Refuse | None:
    for each in standing.of(Switch.FOREIGN) if limits.foreign_stops else ():
        return Refuse(Reason("wallet.foreign", each.why, "keeper resume"))
    return None


def stopped(limits: Limits, standing: Standing) -> Refuse | None:
    """Refuse what has its permit and was never out, where a halt or a stranger came after it."""
    return _halted(limits, standing) or _used_elsewhere(limits, standing)


def spend_hour(ask: Ask) -> Refuse | None:
    """Bound what an hour may cost, transactions in flight counted at their maximum."""
    most_wei = ask.limits.spend_hour_wei
    if most_wei is None or ask.hour.spent_wei + ask.max_cost_wei <= most_wei:
        return None
    evidence = f"{ask.hour.spent_wei} wei in 1 h and {ask.max_cost_wei} wei for this step"
    return _refuse("spend_hour", evidence, f"{most_wei} wei")


def spend_day(ask: Ask) -> Refuse | None:
    """Bound what a day may cost, transactions in flight counted at their maximum."""
    if ask.spent_day_wei + ask.max_cost_wei <= ask.limits.spend_day_wei:
        return None
    evidence = f"{ask.spent_day_wei} wei in 24 h and {ask.max_cost_wei} wei for this step"
    return _refuse("spend_day", evidence, f"{ask.limits.spend_day_wei} wei")


def notional_block(ask: Ask) -> Refuse | None:
    """Bound the notional that the steps of one block take over."""
    if ask.notional_block_wad + ask.notional_wad <= ask.limits.notional_block_wad:
        return None
    evidence = f"{ask.notional_block_wad} wad at block {ask.block} and {ask.notional_wad} wad for this step"
    return _refuse("notional_block", evidence, f"{ask.limits.notional_block_wad} wad")


def notional_hour(ask: Ask) -> Refuse | None:
    """Bound the notional that the steps of an hour take over."""
    most_wad = ask.limits.notional_hour_wad
    if most_wad is None or ask.hour.notional_wad + ask.notional_wad <= most_wad:
        return None
    evidence = f"{ask.hour.notional_wad} wad in 1 h and {ask.notional_wad} wad for this step"
    return _refuse("notional_hour", evidence, f"{most_wad} wad")


def market_day(ask: Ask) -> Refuse | None:
    """Bound what the steps of a day take of one market."""
    for market, wad in ask.takes:
        most_wad = ask.limits.of_market(ask.limits.market_day_wad, market)
        taken_wad = ask.taken_day_wad.get(market, 0)
        if most_wad is not None and taken_wad + abs(wad) > most_wad:
            evidence = f"{market}: {taken_wad} wad in 24 h and {abs(wad)} wad for this step"
            return _refuse("market_day", evidence, f"{most_wad} wad")
    return None


def inventory(ask: Ask) -> Refuse | None:
    """Bound what is taken over of one market and not sold, long or short; what brings it down may pass."""
    for market, wad in ask.takes:
        most_wad = ask.limits.of_market(ask.limits.inventory_wad, market)
        found = ask.inventory.get(market, Inventory())
        after_wad = found.held_wad + found.rising_wad + wad
        if wad < 0:
            after_wad = -(found.held_wad + found.falling_wad + wad)
        if most_wad is not None and wad and after_wad > most_wad:
            flying = f"{found.rising_wad} and {found.falling_wad} wad in flight"
            evidence = f"{market}: {found.held_wad} wad held, {flying}, {wad} wad for this step"
            return _refuse("inventory", evidence, f"{most_wad} wad")
    return None


def depth_minute(ask: Ask) -> Refuse | None:
    """Bound what all steps of a minute take of a feed: so the depth of its market paces the whole keeper."""
    for feed, wad in ask.takes:
        most_wad, moved_wad = ask.limits.depth_minute_wad.get(feed), ask.moved_minute_wad.get(feed, 0)
        if most_wad is not None and moved_wad + abs(wad) > most_wad:
            evidence = f"{feed}: {moved_wad} wad in 1 min and {abs(wad)} wad for this step"
            return _refuse("depth_minute", evidence, f"{most_wad} wad")
    return None


def solvency_day(ask: Ask) -> Refuse | None:
    """Bound what steps lose in a day on accounts that are kept solvent at a cost."""
    if ask.loss_wad == 0 or ask.losses_day_wad + ask.loss_wad <= ask.limits.solvency_day_wad:
        return None
    evidence = f"{ask.losses_day_wad} wad lost in 24 h and {ask.loss_wad} wad by this step"
    return _refuse("solvency_day", evidence, f"{ask.limits.solvency_day_wad} wad")


def loss_hour(ask: Ask) -> Refuse | None:
    """Bound what the steps of an hour may lose."""
    most_wad = ask.limits.loss_hour_wad
    if most_wad is None or ask.hour.loss_wad + ask.risk_wad <= most_wad:
        return None
    evidence = f"{ask.hour.loss_wad} wad in 1 h and at most {ask.risk_wad} wad by this step"
    return _refuse("loss_hour", evidence, f"{most_wad} wad")


def loss_day(ask: Ask) -> Refuse | None:
    """Bound what the steps of a day may lose."""
    most_wad = ask.limits.loss_day_wad
    if most_wad is None or ask.day.loss_wad + ask.risk_wad <= most_wad:
        return None
    evidence = f"{ask.day.loss_wad} wad in 24 h and at most {ask.risk_wad} wad by this step"
    return _refuse("loss_day", evidence, f"{most_wad} wad")


def attempts_hour(ask: Ask) -> Refuse | None:
    """Bound the steps of one account in an hour."""
    attempts = sum(p.reserved_at_s > ask.at_s - HOUR_S for p in ask.own)
    if attempts < ask.limits.attempts_hour:
        return None
    return _refuse("attempts_hour", f"{attempts} attempts in 1 h", f"{ask.limits.attempts_hour} attempts")


def backoff(ask: Ask) -> Refuse | None:
    """Pause an account after reverts: twice as long for each further one in a row.

    A batch that reverted whole pauses nobody: one act may have been the reason, and each goes alone next.
    """
    mined = (p for p in reversed(ask.own) if p.state in MINED and not p.failed_together)
    reverts = list(takewhile(lambda p: p.state is StepState.REVERTED, mined))
    if not reverts:
        return None
    doubled_s = ask.limits.backoff_s << min(len(reverts) - 1, 32)
    pause_s = min(doubled_s, ask.limits.backoff_max_s)
    since_s = ask.at_s - max(p.outcome_at_s or 0 for p in reverts)
    if since_s >= pause_s:
        return None
    return _refuse("backoff", f"{since_s} s since revert {len(reverts)} in a row", f"{pause_s} s")


RULES: tuple[Callable[[Ask], Refuse | None], ...] = (
    not_halted, agreement, still_valid, no_duplicate, in_flight, account_listed, markets_listed, not_paused,
    no_breaker, max_fee, wallet_floor, spend_hour, spend_day, notional_block, notional_hour, market_day,
    inventory, depth_minute, solvency_day, loss_hour, loss_day, attempts_hour, backoff,
)  # fmt: skip


def check(ask: Ask) -> Refuse | None:
    """Return the first refusal of the rules; None where all agree."""
    return next((refusal for rule in (*RULES, nobody_else) if (refusal := rule(ask))), None)


def _refuse(rule: str, evidence: str, bound: str) -> Refuse:
    return Refuse(Reason(f"limit.{rule}", evidence, bound))


@dataclass(frozen=True, slots=True)
class View:
    """What one journal says to a step that asks for its permit."""

    step: Step
    held: Claims
    """What all steps mean for it."""
    own: tuple[Past, ...]
    """The steps of its account."""
    attempts: int
    """How many steps of its case there were for the same."""


def look(
    db: Db,
    limits: Limits,
    step: Step,
    *,
    standing: Standing,
    chain_nonce: int,
    block: Block,
    at_s: UnixS,
    before: View | None = None,
) -> View:
    """Look at what a permit depends on in one journal.

    What another step saw ``before``, with all but the step as it is now, is not looked at again.
    """
    if before is not None and _sums_of(before.step) == _sums_of(step):
        found = before.held
    else:
        found = held(db, step, limits, standing=standing, chain_nonce=chain_nonce, block=block, at_s=at_s)
    if before is not None and _whose(before.step) == _whose(step):
        return View(step, found, before.own, before.attempts)
    return View(step, found, _own(db, step.act.account, at_s), _attempts(db, step))


def _sums_of(step: Step) -> tuple[object, ...]:
    """Return that of a step by which ``held`` finds what it does."""
    return step.loss_wad != 0, [market for market, _ in step.takes]


def _whose(step: Step) -> tuple[object, ...]:
    return step.act.account, step.case_id, step.kind, _tranche_nonce(step)


def reserve(
    db: Db,
    limits: Limits,
    step: Step,
    tx: Mapping[str, Any],
    *,
    agreed: Agree | None,
    markets: Iterable[str],
    balance_wei: Wei | None,
    standing: Standing,
    chain_nonce: int,
    block: Block,
    at_s: UnixS,
    view: View,
    beside: Claims,
    data_fee_wei: Wei = 0,
    joins: Permit | None = None,
) -> Permit | Refuse:
    """Grant the one Permit of a step, or refuse; the caller holds the write lock and commits.

    The whole unsigned transaction is stored with the nonce given out here, so that a restart signs the
    same bytes again. ``view`` is what the journal says, ``beside`` what other journals of the wallet hold. A
    step that ``joins`` another's transaction asks for what that costs more with it.
    """
    before_wei = _most_wei(_unsigned(db, joins)) if joins else 0
    found = view.held + beside
    asked = Ask(
        account=step.act.account,
        max_cost_wei=_most_wei(tx) - before_wei + data_fee_wei,
        notional_wad=step.notional_wad,
        valid_until_block=step.valid_until_block,
        block=block,
        at_s=at_s,
        own=view.own,
        spent_day_wei=found.day.spent_wei,
        notional_block_wad=found.notional_block_wad,
        limits=limits,
        closes=step.act.closes,
        agreed=agreed,
        loss_wad=step.loss_wad,
        losses_day_wad=found.losses_day_wad,
        takes=step.takes,
        moved_minute_wad=found.moved_minute_wad,
        standing=standing,
        markets=tuple(markets) or tuple(market for market, _ in step.takes),
        max_fee_wei=Fees.of(tx).max_fee_wei,
        balance_wei=balance_wei,
        in_flight=found.in_flight - (joins is not None),
        in_flight_wei=found.in_flight_wei,
        risk_wad=tally.risk_wad(step),
        hour=found.hour,
        day=found.day,
        taken_day_wad=found.taken_day_wad,
        inventory=found.inventory,
    )
    nonce = joins.nonce if joins else free_nonce(found.nonces, chain_nonce)
    return check(asked) or _grant(db, step, {**tx, "nonce": nonce}, asked, view.attempts + 1, joins)


def _unsigned(db: Db, carrier: Permit) -> Mapping[str, Any]:
    """Return a reserved step's transaction as it stands; raise InvariantBroken where it is signed already."""
    query = "SELECT unsigned_tx FROM steps WHERE step_id = ? AND state = 'reserved' AND signed_tx IS NULL"
    found = db.execute(query, (carrier.step_id,)).fetchone()
    if found is None:
        raise InvariantBroken(f"step {carrier.step_id} takes no other along: it is signed, or over")
    tx: Mapping[str, Any] = json.loads(found["unsigned_tx"])
    return tx


BIDS: Mapping[BidKind, tuple[Callable[[Ask], Refuse | None], ...]] = {
    BidKind.RAISE: (
        not_halted, max_fee, wallet_floor, spend_hour, spend_day, loss_hour, loss_day, nobody_else
    ),
    BidKind.CANCEL: (max_fee, spend_hour, spend_day),
    BidKind.FILL: (max_fee, spend_hour, spend_day),
}  # fmt: skip
"""What is asked of a later bid. One that uses a nonce up takes nothing, and is permitted in a halt."""
ACTS: Mapping[BidKind, str] = {BidKind.RAISE: "Outbid", BidKind.CANCEL: "Cancel", BidKind.FILL: "Fill"}
"""What its event calls it."""


def rebid(
    db: Db,
    limits: Limits,
    step: StepRecord,
    kind: BidKind,
    tx: Mapping[str, Any],
    *,
    balance_wei: Wei | None,
    standing: Standing,
    block: Block,
    at_s: UnixS,
    beside: Claims,
    data_fee_wei: Wei = 0,
) -> Refuse | None:
    """Permit another transaction for a step in flight, or refuse; the caller holds the write lock.

    Of all transactions on one nonce one is included: the dearest counts, and this one in the place of those
    before it. What fills a nonce below counts besides.
    """
    _expect_higher(step, kind, tx)
    nonce, max_fee_wei = int(tx["nonce"]), Fees.of(tx).max_fee_wei
    found = beside + held(db, None, limits, standing=standing, chain_nonce=nonce, block=block, at_s=at_s)
    if kind is BidKind.FILL and nonce in found.nonces - {each.nonce for each in step.fills}:
        # Another deployment of the wallet was first: it looked for gaps at the same head.
        return Refuse(Reason("nonce.held", f"nonce {nonce}", "a nonce that nobody holds"))
    own = tally.at_stake(db, step.step_id)
    # Of a batch every act counts by itself, and all of them are bid for at once.
    whole = sum((tally.at_stake(db, each.step_id) for each in step.carries), own)
    before = _in_its_place(step, kind, nonce, whole, data_fee_wei)
    transactions = 1 if kind is BidKind.FILL else 1 + len(step.carries)
    risks_wad = [_risk_wad(db, each, kind, max_fee_wei) for each in (step, *step.carries)]
    asked = _asked_again(
        step,
        found,
        before,
        limits=limits,
        standing=standing,
        max_cost_wei=_most_wei(tx) + data_fee_wei * transactions,
        max_fee_wei=max_fee_wei,
        risk_wad=sum(risks_wad),
        balance_wei=balance_wei,
        block=block,
        at_s=at_s,
    )
    refused = next((refusal for rule in BIDS[kind] if (refusal := rule(asked))), None)
    if refused is None:
        dearer_wei = max(0, asked.max_cost_wei - before.spent_wei)
        _grant_bid(db, step, kind, tx, asked, own.spent_wei + dearer_wei)
        for each, risk_wad in zip((step, *step.carries), risks_wad, strict=True):
            tally.count_risk(db, each.step_id, risk_wad)
    return refused


def _risk_wad(db: Db, step: StepRecord, kind: BidKind, max_fee_wei: Wei) -> Wad:
    """Return what a step may lose at most once so much is bid for it."""
    risk_wad = tally.at_stake(db, step.step_id).loss_wad
    if kind is BidKind.RAISE and (reserved := rows.reserved(db, step.step_id)):
        return max(risk_wad, tally.raised_risk_wad(reserved, max_fee_wei))
    return risk_wad


def _expect_higher(step: StepRecord, kind: BidKind, tx: Mapping[str, Any]) -> None:
    """Raise InvariantBroken where a bid is on no nonce of its step, or no higher than the last one there."""
    nonce = int(tx["nonce"])
    is_below = nonce < step.nonce and step.signed_tx is not None and step.state in LIVE
    if not (is_below if kind is BidKind.FILL else step.state is StepState.SENT and nonce == step.nonce):
        raise InvariantBroken(f"step {step.step_id} is {step.state}: no bid on nonce {nonce}")
    there = [each for each in step.fills if each.nonce == nonce] if kind is BidKind.FILL else [step.last]
    if any(Fees.of(tx).max_fee_wei <= Fees.of(each.unsigned_tx).max_fee_wei for each in there):
        raise InvariantBroken(f"step {step.step_id}: a bid that is no higher than the last one")


def _in_its_place(step: StepRecord, kind: BidKind, nonce: int, whole: Sums, data_fee_wei: Wei) -> Sums:
    """Return what a step counts for on a nonce: of what fills gaps below it, and of itself.

    Each nonce pays once for its data, whatever was bid for it.
    """
    dearest: dict[int, Wei] = {}
    for each in step.fills:
        dearest[each.nonce] = max(dearest.get(each.nonce, 0), _most_wei(each.unsigned_tx) + data_fee_wei)
    if kind is BidKind.FILL:
        return Sums(spent_wei=dearest.get(nonce, 0))
    return whole - Sums(spent_wei=sum(dearest.values()))


def _asked_again(
    step: StepRecord, found: Claims, before: Sums, *, block: Block, at_s: UnixS, **asked: Any
) -> Ask:
    """Return what a later bid asks: as the step did, in the place of what was bid ``before``."""
    return Ask(
        account=step.account,
        notional_wad=0,
        valid_until_block=step.valid_until_block,
        block=block,
        at_s=at_s,
        own=(),
        spent_day_wei=found.day.spent_wei - before.spent_wei,
        notional_block_wad=0,
        in_flight_wei=found.in_flight_wei - before.spent_wei,
        hour=found.hour - before,
        day=found.day - before,
        **asked,
    )


def _grant_bid(
    db: Db, step: StepRecord, kind: BidKind, tx: Mapping[str, Any], asked: Ask, whole_wei: Wei
) -> None:
    """Write down a later bid with its whole transaction, and count the step by the dearest of all."""
    query = "SELECT coalesce(max(bid), 1) + 1 FROM sends WHERE step_id = ?"
    number = int(db.execute(query, (step.step_id,)).fetchone()[0])
    told = {
        "act": ACTS[kind],
        "step_id": step.step_id,
        "bid": number,
        "max_fee_wei": asked.max_fee_wei,
        "max_cost_wei": whole_wei,
    }
    if kind is BidKind.FILL:
        told["nonce"] = tx["nonce"]
    event = CaseEvent(step.case_id, step.account, EventKind.OBSERVED, asked.block, asked.at_s, told)
    rows.append(db, event)
    db.execute(
        "INSERT INTO sends (step_id, bid, kind, nonce, block, unsigned_tx) VALUES (?, ?, ?, ?, ?, ?)",
        (step.step_id, number, kind, tx["nonce"], asked.block, rows.dumps(tx)),
    )
    db.execute("UPDATE steps SET max_cost_wei = ? WHERE step_id = ?", (str(whole_wei), step.step_id))
    tally.raise_most(db, step.step_id, whole_wei)


def drop_bid(db: Db, step: StepRecord, number: int, reason: Reason, block: Block, at_s: UnixS) -> None:
    """Have a later bid never go out; raise InvariantBroken where it was signed, or is none of the step's."""
    update = "UPDATE sends SET kind = ? WHERE step_id = ? AND bid = ? AND signed_tx IS NULL AND kind <> ?"
    if db.execute(update, (rows.DROPPED, step.step_id, number, rows.DROPPED)).rowcount != 1:
        raise InvariantBroken(f"step {step.step_id} has no bid {number} that nobody has signed")
    why = {"rule": reason.rule, "evidence": reason.evidence, "bound": reason.bound}
    told = {"act": "Dropped", "step_id": step.step_id, "bid": number, **why}
    rows.append(db, CaseEvent(step.case_id, step.account, EventKind.OBSERVED, block, at_s, told))


def sign_bid(db: Db, step: StepRecord, number: int, raw: bytes, tx_hash: str) -> None:
    """Write down the signed bytes of a later bid; the same bytes again change nothing."""
    [bid] = (each for each in (*step.bids, *step.fills) if each.number == number)
    if bid.tx_hash is None:
        values = raw, tx_hash, step.step_id, number
        db.execute("UPDATE sends SET signed_tx = ?, tx_hash = ? WHERE step_id = ? AND bid = ?", values)
    elif (bid.tx_hash, bid.signed_tx) != (tx_hash, raw):
        raise InvariantBroken(f"bid {number} of step {step.step_id} is {bid.tx_hash}, not {tx_hash}")


def _most_wei(tx: Mapping[str, Any]) -> Wei:
    return int(tx["gas"]) * Fees.of(tx).max_fee_wei + int(tx.get("value", 0))


def held(
    db: Db,
    step: Step | None,
    limits: Limits,
    *,
    standing: Standing,
    chain_nonce: int,
    block: Block,
    at_s: UnixS,
) -> Claims:
    """Return what the steps of one journal mean for a step; what no limit asks for is left out.

    Without one, of what concerns gas alone.
    """
    taken = [market for market, _ in step.takes] if step else []
    by_day = [market for market in taken if limits.of_market(limits.market_day_wad, market) is not None]
    kept = [market for market in taken if limits.of_market(limits.inventory_wad, market) is not None]
    return Claims(
        held_nonces(db, chain_nonce),
        tally.in_flight_wei(db),
        tally.reserved_wad(db, block),
        tally.kept_solvent_wad(db, at_s) if step and step.loss_wad else 0,
        *tally.hour_and_day(db, at_s),
        tally.moved_wad(db, at_s) if taken else {},
        {market: tally.taken_wad(db, market, at_s - DAY_S) for market in by_day},
        {market: tally.inventory(db, market, standing.sold_to(market)) for market in kept},
        tally.in_flight(db, chain_nonce),
    )


def _grant(
    db: Db, step: Step, tx: Mapping[str, Any], asked: Ask, attempt: int, joins: Permit | None
) -> Permit:
    """Write down the step with its whole transaction, and the event of its case."""
    place = _next_place(db, joins.nonce) if joins else 0
    tranche_nonce = _tranche_nonce(step)
    step_id = f"{step.case_id}:{step.kind}:{'-' if tranche_nonce is None else tranche_nonce}:{attempt}"
    told = {
        "step_id": step_id,
        "kind": step.kind,
        "act": step.act,
        "closes": step.act.closes,
        "nonce": tx["nonce"],
        **({"place": place} if place else {}),
        "max_cost_wei": asked.max_cost_wei,
        "notional_wad": step.notional_wad,
        "expected_profit_wad": step.expected_profit_wad,
        **({"agreed": asked.agreed.told} if asked.agreed else {}),
        **_told(step),
    }
    event = CaseEvent(step.case_id, asked.account, EventKind.RESERVED, asked.block, asked.at_s, told)
    rows.append(db, event)
    unsigned_tx = rows.dumps(tx)
    if joins:
        db.execute("UPDATE steps SET unsigned_tx = ? WHERE step_id = ?", (unsigned_tx, joins.step_id))
        # That one is its transaction, too.
        unsigned_tx = rows.dumps({"nonce": joins.nonce})
    db.execute(
        "INSERT INTO steps (step_id, case_id, account, kind, tranche_nonce, attempt, nonce, state,"
        " reserved_block, reserved_at_s, valid_until_block, notional_wad, expected_profit_wad,"
        " max_cost_wei, unsigned_tx, place, ends_at_wad, loss_wad, takes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            step_id, step.case_id, asked.account, step.kind, tranche_nonce, attempt, tx["nonce"],
            StepState.RESERVED, asked.block, asked.at_s, step.valid_until_block, str(step.notional_wad),
            str(step.expected_profit_wad), str(asked.max_cost_wei), unsigned_tx, place,
            None if step.ends_at_wad is None else str(step.ends_at_wad), str(step.loss_wad),
            rows.dumps({feed: str(wad) for feed, wad in step.takes}),
        ),
    )  # fmt: skip
    tally.enter(db, step_id, step, asked.max_cost_wei, asked.at_s)
    return Permit(step_id, step.case_id, int(tx["nonce"]), json.loads(unsigned_tx))


def _told(step: Step) -> Mapping[str, Any]:
    """Return what made a step as large as it is, and what it should bring, where the plan says it."""
    told: dict[str, Any] = {}
    if step.economics is not None:
        told["economics"] = step.economics
    if step.bounds:
        told["bounds"] = step.bounds
    if step.loss_wad:
        told["loss_wad"] = step.loss_wad
    return told


def free_nonce(taken: Collection[int], chain_nonce: int) -> int:
    """Return the lowest nonce from the chain's up that no transaction of ours holds.

    Not one more than the highest: an abandoned step leaves a hole, which would block all above it.
    """
    return next(nonce for nonce in count(chain_nonce) if nonce not in taken)


def held_nonces(db: Db, chain_nonce: int) -> frozenset[int]:
    """Return the nonces from the chain's up that transactions of one journal hold."""
    query = (
        "SELECT nonce FROM steps WHERE state <> 'abandoned' AND nonce >= ?"
        " UNION SELECT sends.nonce FROM steps JOIN sends USING (step_id)"
        " WHERE state <> 'abandoned' AND steps.nonce > ? AND sends.kind = ? AND sends.nonce >= ?"
    )
    values = chain_nonce, chain_nonce, BidKind.FILL, chain_nonce
    return frozenset(row["nonce"] for row in db.execute(query, values))


def _next_place(db: Db, nonce: int) -> int:
    query = "SELECT 1 + max(place) FROM steps WHERE nonce = ? AND state <> 'abandoned'"
    return int(db.execute(query, (nonce,)).fetchone()[0])


def _tranche_nonce(step: Step) -> int | None:
    return step.act.tranche_nonce if isinstance(step.act, Liquidate) else None


def _attempts(db: Db, step: Step) -> int:
    tranche_nonce = _tranche_nonce(step)
    query = "SELECT count(*) FROM steps WHERE case_id = ? AND kind = ? AND coalesce(tranche_nonce, -1) = ?"
    found = db.execute(query, (step.case_id, step.kind, -1 if tranche_nonce is None else tranche_nonce))
    return int(found.fetchone()[0])


def _own(db: Db, account: AccountKey, at_s: UnixS) -> tuple[Past, ...]:
    return tuple(
        Past(
            row["step_id"],
            StepState(row["state"]),
            row["reserved_at_s"],
            row["outcome_at_s"],
            bool(row["failed_together"]),
        )
        for row in tally.own(db, account, at_s)
    )


# --- how they stand ------------------------------------------------------------------------------


Gauge: TypeAlias = tuple[str, str, Callable[[Claims], int], int | None, str]
"""A limit, the market that it is of, what is used of it, the bound, and the unit of both."""


def used(db: Db, limits: Limits, standing: Standing, block: Block, at_s: UnixS) -> Claims:
    """Return what the steps of one journal use of every limit that adds something up, as of a head."""
    markets = {*tally.markets(db), *limits.depth_minute_wad} - {EACH}
    hour, day = tally.hour_and_day(db, at_s)
    return Claims(
        notional_block_wad=tally.reserved_wad(db, block),
        losses_day_wad=tally.kept_solvent_wad(db, at_s) if limits.solvency_day_wad else 0,
        hour=hour,
        day=day,
        moved_minute_wad=tally.moved_wad(db, at_s),
        taken_day_wad={market: tally.taken_wad(db, market, at_s - DAY_S) for market in markets},
        inventory={market: tally.inventory(db, market, standing.sold_to(market)) for market in markets},
        in_flight=tally.in_flight(db),
    )


def measures(limits: Limits, own: Claims, beside: Claims) -> tuple[Measure, ...]:
    """Return how much is used of every limit: by all journals of the wallet, and by one of them alone."""
    both = own + beside
    markets = sorted(both.inventory)
    rows: list[Gauge] = [
        ("in_flight", "", lambda held: held.in_flight, limits.in_flight, "transactions"),
        ("spend_hour", "", lambda held: held.hour.spent_wei, limits.spend_hour_wei, "native"),
        ("spend_day", "", lambda held: held.day.spent_wei, limits.spend_day_wei, "native"),
        ("notional_block", "", lambda held: held.notional_block_wad, limits.notional_block_wad, "quote"),
        ("notional_hour", "", lambda held: held.hour.notional_wad, limits.notional_hour_wad, "quote"),
        ("loss_hour", "", lambda held: held.hour.loss_wad, limits.loss_hour_wad, "quote"),
        ("loss_day", "", lambda held: held.day.loss_wad, limits.loss_day_wad, "quote"),
        ("solvency_day", "", lambda held: held.losses_day_wad, limits.solvency_day_wad, "quote"),
        *(row for market in markets for row in _of_market(limits, market)),
    ]
    return tuple(
        Measure(
            limit,
            subject,
            _plain(of(both), unit),
            None if bound is None else _plain(bound, unit),
            unit,
            own=_plain(of(own), unit),
        )
        for limit, subject, of, bound, unit in rows
    )


def _of_market(limits: Limits, market: FeedId) -> Iterator[Gauge]:
    day_wad = limits.of_market(limits.market_day_wad, market)
    most_wad = limits.of_market(limits.inventory_wad, market)
    depth_wad = limits.depth_minute_wad.get(market)
    yield "market_day", market, lambda held: held.taken_day_wad.get(market, 0), day_wad, "quote"
    yield "inventory", market, lambda held: _inventory(held, market), most_wad, "quote"
    yield "depth_minute", market, lambda held: held.moved_minute_wad.get(market, 0), depth_wad, "quote"


def _inventory(held: Claims, market: FeedId) -> Wad:
    return held.inventory.get(market, Inventory()).most_wad


def _plain(amount: int, unit: str) -> float:
    """Write a count as it is, and wei and wad in whole units."""
    return float(amount) if unit == "transactions" else amount / WAD
