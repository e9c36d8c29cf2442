"""The one door to the wallet: every limit is checked, and the step committed, in one transaction.

Each rule is a pure function of what is asked, with the steps of the last day and the limits beside it; the
first that refuses names the limit, the value found and the bound. Time is chain time, from the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count, takewhile
from typing import Any

from keeper.domain import Agree, CaseEvent, EventKind, Liquidate, Permit, Reason, Refuse, Step
from keeper.journal import rows
from keeper.journal.db import Db
from keeper.ports import LIVE, StepState
from keeper.units import WAD, AccountKey, Block, FeedId, UnixS, Wad, Wei

DAY_S = 86_400
GWEI: Wei = 10**9
HOUR_S = 3_600
MINUTE_S = 60
MINED = (StepState.INCLUDED, StepState.REVERTED)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the wallet may do at most."""

    halted: bool = False
    """The kill switch: nothing new is permitted; what is in flight is still followed."""
    spend_day_wei: Wei = WAD // 2
    """Gas paid in the last 24 h, plus the most that transactions in flight may still cost."""
    notional_block_wad: Wad = 10_000_000 * WAD
    """Position notional taken over by the steps reserved at one block, in quote."""
    attempts_hour: int = 60
    """Steps of one account in the last hour, whatever became of them."""
    backoff_s: int = 30
    """Pause of an account after a revert; it doubles with each further one in a row."""
    backoff_max_s: int = 1_800
    solvency_day_wad: Wad = 0
    """What steps may be expected to lose in 24 h, in quote, on accounts that are kept solvent at a cost."""
    depth_minute_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What all steps together may take of a feed within a minute, in quote."""


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier step of the same account, as far as the limits look at it."""

    step_id: str
    state: StepState
    reserved_at_s: UnixS
    outcome_at_s: UnixS | None


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
    """Of all accounts: paid in the last day where the outcome is known, else the most it may cost."""
    notional_block_wad: Wad
    """Of all accounts: what the steps reserved at this block take over, the abandoned ones left out."""
    limits: Limits
    closes: bool = False
    """Whether it takes something of the account."""
    agreed: Agree | None = None
    """What it rests on."""
    loss_wad: Wad = 0
    losses_day_wad: Wad = 0
    """Of all accounts: what the steps of the last day are expected to lose, the abandoned ones left out."""
    takes: tuple[tuple[FeedId, Wad], ...] = ()
    moved_minute_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """Of all accounts: what the steps of the last minute take of each feed, or have taken."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the steps of a journal mean for the next one of their wallet, whichever journal that goes into."""

    nonces: frozenset[int] = frozenset()
    """Those not below the chain's that a transaction holds."""
    spent_day_wei: Wei = 0
    notional_block_wad: Wad = 0
    losses_day_wad: Wad = 0
    moved_minute_wad: Mapping[FeedId, Wad] = field(default_factory=dict)

    def __add__(self, other: Held) -> Held:
        """Take two together."""
        moved = dict(self.moved_minute_wad)
        for feed, wad in other.moved_minute_wad.items():
            moved[feed] = moved.get(feed, 0) + wad
        return Held(
            self.nonces | other.nonces,
            self.spent_day_wei + other.spent_day_wei,
            self.notional_block_wad + other.notional_block_wad,
            self.losses_day_wad + other.losses_day_wad,
            moved,
        )


def not_halted(ask: Ask) -> Refuse | None:
    """Refuse everything while the kill switch is set."""
    return _refuse("halted", "the kill switch is set", "halted = false") if ask.limits.halted else None


def agreement(ask: Ask) -> Refuse | None:
    """Refuse to take anything of an account on which the clocks were not asked, or did not agree."""
    if not ask.closes or ask.agreed is not None:
        return None
    return _refuse("agreement", "none", "what takes of an account rests on an agreement")


def still_valid(ask: Ask) -> Refuse | None:
    """Refuse a step whose validity ends before the next block."""
    if ask.block < ask.valid_until_block:
        return None
    return _refuse("validity", f"next block {ask.block + 1}", f"valid until block {ask.valid_until_block}")


def no_duplicate(ask: Ask) -> Refuse | None:
    """Refuse a second transaction while one of the account may still be included."""
    live = [p.step_id for p in ask.own if p.state in LIVE]
    return _refuse("duplicate", f"in flight: {', '.join(live)}", "1 transaction an account") if live else None


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


def attempts_hour(ask: Ask) -> Refuse | None:
    """Bound the steps of one account in an hour."""
    attempts = sum(p.reserved_at_s > ask.at_s - HOUR_S for p in ask.own)
    if attempts < ask.limits.attempts_hour:
        return None
    return _refuse("attempts_hour", f"{attempts} attempts in 1 h", f"{ask.limits.attempts_hour} attempts")


def backoff(ask: Ask) -> Refuse | None:
    """Pause an account after reverts: twice as long for each further one in a row."""
    mined = (p for p in reversed(ask.own) if p.state in MINED)
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
    not_halted, agreement, still_valid, no_duplicate, spend_day, notional_block, depth_minute, solvency_day,
    attempts_hour, backoff
)  # fmt: skip


def check(ask: Ask) -> Refuse | None:
    """Return the first refusal of the rules; None where all agree."""
    return next((refusal for rule in RULES if (refusal := rule(ask))), None)


def _refuse(rule: str, evidence: str, bound: str) -> Refuse:
    return Refuse(Reason(f"limit.{rule}", evidence, bound))


def reserve(
    db: Db,
    limits: Limits,
    step: Step,
    tx: Mapping[str, Any],
    *,
    agreed: Agree | None,
    chain_nonce: int,
    block: Block,
    at_s: UnixS,
    beside: Held,
) -> Permit | Refuse:
    """Grant the one Permit of a step, or refuse; the caller holds the write lock and commits.

    The whole unsigned transaction is stored with the nonce given out here, so that a restart signs the
    same bytes again. ``beside`` is what other journals of the wallet hold.
    """
    all_held = held(db, step, chain_nonce=chain_nonce, block=block, at_s=at_s) + beside
    max_cost_wei = int(tx["gas"]) * int(tx["maxFeePerGas"]) + int(tx.get("value", 0))
    asked = Ask(
        account=step.act.account,
        max_cost_wei=max_cost_wei,
        notional_wad=step.notional_wad,
        valid_until_block=step.valid_until_block,
        block=block,
        at_s=at_s,
        own=_own(db, step.act.account, at_s),
        spent_day_wei=all_held.spent_day_wei,
        notional_block_wad=all_held.notional_block_wad,
        limits=limits,
        closes=step.act.closes,
        agreed=agreed,
        loss_wad=step.loss_wad,
        losses_day_wad=all_held.losses_day_wad,
        takes=step.takes,
        moved_minute_wad=all_held.moved_minute_wad,
    )
    return check(asked) or _grant(db, step, {**tx, "nonce": free_nonce(all_held.nonces, chain_nonce)}, asked)


def held(db: Db, step: Step, *, chain_nonce: int, block: Block, at_s: UnixS) -> Held:
    """Return what the steps of one journal mean for a step; what it does not ask for is left out."""
    return Held(
        _held_nonces(db, chain_nonce),
        _spent_wei(db, at_s),
        _reserved_wad(db, block),
        _lost_wad(db, at_s) if step.loss_wad else 0,
        moved_wad(db, at_s) if step.takes else {},
    )


def _grant(db: Db, step: Step, tx: Mapping[str, Any], asked: Ask) -> Permit:
    """Write down the step with its whole transaction, and the event of its case."""
    tranche_nonce = step.act.tranche_nonce if isinstance(step.act, Liquidate) else None
    attempt = 1 + _attempts(db, step, tranche_nonce)
    step_id = f"{step.case_id}:{step.kind}:{'-' if tranche_nonce is None else tranche_nonce}:{attempt}"
    told = {
        "step_id": step_id,
        "kind": step.kind,
        "act": asdict(step.act),
        "closes": step.act.closes,
        "nonce": tx["nonce"],
        "max_cost_wei": asked.max_cost_wei,
        "notional_wad": step.notional_wad,
        "expected_profit_wad": step.expected_profit_wad,
        **({"agreed": asdict(asked.agreed)} if asked.agreed else {}),
        **_told(step),
    }
    event = CaseEvent(step.case_id, asked.account, EventKind.RESERVED, asked.block, asked.at_s, told)
    rows.append(db, event)
    unsigned_tx = rows.dumps(tx)
    db.execute(
        "INSERT INTO steps (step_id, case_id, account, kind, tranche_nonce, attempt, nonce, state,"
        " reserved_block, reserved_at_s, valid_until_block, notional_wad, expected_profit_wad,"
        " max_cost_wei, unsigned_tx) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            step_id, step.case_id, asked.account, step.kind, tranche_nonce, attempt, tx["nonce"],
            StepState.RESERVED, asked.block, asked.at_s, step.valid_until_block, str(step.notional_wad),
            str(step.expected_profit_wad), str(asked.max_cost_wei), unsigned_tx,
        ),
    )  # fmt: skip
    db.execute(
        "INSERT INTO terms (step_id, ends_at_wad, loss_wad, takes) VALUES (?, ?, ?, ?)",
        (
            step_id,
            None if step.ends_at_wad is None else str(step.ends_at_wad),
            str(step.loss_wad),
            rows.dumps({feed: str(wad) for feed, wad in step.takes}),
        ),
    )
    return Permit(step_id, step.case_id, int(tx["nonce"]), json.loads(unsigned_tx))


def _told(step: Step) -> Mapping[str, Any]:
    """Return what made a step as large as it is, and what it should bring, where the plan says it."""
    told: dict[str, Any] = {}
    if step.economics is not None:
        told["economics"] = asdict(step.economics)
    if step.bounds:
        told["bounds"] = [asdict(each) for each in step.bounds]
    if step.loss_wad:
        told["loss_wad"] = step.loss_wad
    return told


def free_nonce(taken: Collection[int], chain_nonce: int) -> int:
    """Return the lowest nonce from the chain's up that no transaction of ours holds.

    Not one more than the highest: an abandoned step leaves a hole, which would block all above it.
    """
    return next(nonce for nonce in count(chain_nonce) if nonce not in taken)


def _held_nonces(db: Db, chain_nonce: int) -> frozenset[int]:
    query = "SELECT nonce FROM steps WHERE state <> 'abandoned' AND nonce >= ?"
    return frozenset(row["nonce"] for row in db.execute(query, (chain_nonce,)))


def _attempts(db: Db, step: Step, tranche_nonce: int | None) -> int:
    query = "SELECT count(*) FROM steps WHERE case_id = ? AND kind = ? AND coalesce(tranche_nonce, -1) = ?"
    found = db.execute(query, (step.case_id, step.kind, -1 if tranche_nonce is None else tranche_nonce))
    return int(found.fetchone()[0])


RECENT = "(state IN ('reserved', 'sent') OR reserved_at_s > ?)"


def _own(db: Db, account: AccountKey, at_s: UnixS) -> tuple[Past, ...]:
    columns = "step_id, state, reserved_at_s, outcome_at_s"
    query = f"SELECT {columns} FROM steps WHERE account = ? AND {RECENT} ORDER BY rowid"  # noqa: S608
    found = db.execute(query, (account, at_s - DAY_S))
    return tuple(
        Past(row["step_id"], StepState(row["state"]), row["reserved_at_s"], row["outcome_at_s"])
        for row in found
    )


def _spent_wei(db: Db, at_s: UnixS) -> Wei:
    """Sum in whole gwei, each cost rounded up: a day's wei may be more than SQLite's integers hold."""
    gwei = f"(CAST(coalesce(gas_cost_wei, max_cost_wei) AS BIGINT) + {GWEI - 1}) / {GWEI}"
    query = f"SELECT coalesce(sum({gwei}), 0) FROM steps WHERE {RECENT}"  # noqa: S608
    return int(db.execute(query, (at_s - DAY_S,)).fetchone()[0]) * GWEI


def moved_wad(db: Db, at_s: UnixS) -> Mapping[FeedId, Wad]:
    """Return what the steps of the last minute take of each feed, those that took nothing left out."""
    query = (
        "SELECT takes FROM steps JOIN terms USING (step_id) WHERE reserved_at_s > ? AND reserved_at_s <= ?"
        " AND state IN ('reserved', 'sent', 'included')"
    )
    moved: dict[FeedId, Wad] = {}
    for row in db.execute(query, (at_s - MINUTE_S, at_s)):
        for feed, wad in json.loads(row["takes"]).items():
            moved[feed] = moved.get(feed, 0) + abs(int(wad))
    return moved


def _lost_wad(db: Db, at_s: UnixS) -> Wad:
    query = (
        "SELECT loss_wad FROM steps JOIN terms USING (step_id)"
        " WHERE reserved_at_s > ? AND state <> 'abandoned' AND loss_wad <> '0'"
    )
    return sum(int(row["loss_wad"]) for row in db.execute(query, (at_s - DAY_S,)))


def _reserved_wad(db: Db, block: Block) -> Wad:
    query = "SELECT notional_wad FROM steps WHERE reserved_block = ? AND state <> 'abandoned'"
    return sum(int(row["notional_wad"]) for row in db.execute(query, (block,)))
