"""Accounts under care: who is judged, what is sent for them, and what their cases say."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, TypeVar

import structlog

from keeper.desk.port import Desk, Judgement, Tried
from keeper.domain import (
    CaseEvent,
    ChainTime,
    EventKind,
    Fees,
    Head,
    Permit,
    Quote,
    Reason,
    Refuse,
    Step,
    Unknown,
    Wait,
)
from keeper.errors import ChainFault
from keeper.lifecycle import Status, advance
from keeper.pipeline.mirror import Mirror
from keeper.pipeline.params import Params
from keeper.ports import Journal, Market, Reader, Sender
from keeper.units import AccountKey, Block, FeedId

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])
T = TypeVar("T")

SIMULATIONS = 16
"""Steps simulated at the same time."""
BATCH = 8
"""Accounts judged, or steps reserved and signed, in one go: a few milliseconds of the loop's time."""
CANDIDATES = 4
"""For so many times as many accounts as are to be ready, at most, it is asked whether they can be."""
TURN_NS = 5_000_000
"""How long the work on many accounts keeps the loop to itself."""


@dataclass(slots=True)
class Case:
    """An open case, its status in the journal, and the rule it last waited for or was refused by."""

    case_id: str
    status: Status | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """Steps of which one is worth sending, and the judgement they follow from."""

    account: AccountKey
    steps: tuple[Step, ...]
    judged: Judgement[Any]


@dataclass(frozen=True, slots=True)
class Moment:
    """What decisions go by: a head, the block that comes next, and the fast prices then or later."""

    head: Head
    at: ChainTime
    quotes: Mapping[FeedId, Quote | Unknown]
    suspects: Mapping[AccountKey, str]
    """Why each is one, the worst first; after a head only those whom prices have made suspect since."""
    heard_ns: int
    """``time.monotonic_ns`` when head or tick arrived."""
    is_tick: bool = False


class Care(Generic[MarketT]):
    """Judges accounts one after the other, and acts; one head or one alarm at a time."""

    def __init__(
        self,
        mirror: Mirror[MarketT],
        *,
        reader: Reader,
        desk: Desk[MarketT, Any],
        journal: Journal,
        sender: Sender,
        params: Params,
    ) -> None:
        self._mirror = mirror
        self._reader = reader
        self._desk = desk
        self._journal = journal
        self._sender = sender
        self._params = params
        self._cases: dict[AccountKey, Case] = {}
        self._rehearsed: dict[AccountKey, str] = {}
        self._unjudged: set[str] = set()
        """Why some of those under care cannot be judged."""
        self._simulations = asyncio.Semaphore(SIMULATIONS)
        self._preparations = asyncio.Semaphore(SIMULATIONS // 2)
        """What is only got ready does not stand in line before what is due."""
        self._ready: dict[AccountKey, list[Tried]] = {}
        self._ready_at: Block = 0
        self._left: Any = None
        """What the decisions since the last head leave for others."""
        self.has_started = False

    @property
    def cases(self) -> int:
        """How many cases are open."""
        return len(self._cases)

    async def follow(self, head: Head) -> None:
        """See what became of our transactions, and take the open cases from the journal.

        A reorg may open again a case that was closed; where its account has a newer one, that one goes first.
        """
        if self.has_started:
            await self._sender.track(head, self._mirror.orphaned)
        else:
            await self._sender.resume(head)
            await self._warn_of_means()
            self.has_started = True
        if self._mirror.orphaned:
            self._ready.clear()
        self._mirror.orphaned.clear()
        said = {case.case_id: case.said for case in self._cases.values()}
        self._cases = {
            case.account: Case(case.case_id, case.status, said.get(case.case_id, ""))
            for case in self._journal.open_cases()
        }
        # The first head after a start may find one that no event since ``from_block`` has touched.
        self._mirror.book.mark_dirty(
            [each for each in self._cases if each not in self._mirror.book], head.number
        )

    async def _warn_of_means(self) -> None:
        """Say aloud at the start what the wallet lacks to act with."""
        lacking = self._desk.lacking(self._mirror.book, self._mirror.funds)
        if await self._sender.balance() == 0:
            lacking = ["native currency for gas", *lacking]
        if lacking:
            log.warning("wallet.lacks", what=lacking, wallet=self._sender.address)

    def observe(self, head: Head) -> None:
        """Write into open cases what the chain shows of their accounts, whoever did it."""
        events = []
        for fact in self._mirror.facts:
            data = {"act": fact.act, "tx_hash": fact.tx_hash, "log_index": fact.log_index, **fact.args}
            for account in self._mirror.concerned(fact):
                case = self._cases.get(account)
                if case is not None:
                    seen = replace(head, number=fact.block)
                    events.append(_event(case, account, EventKind.OBSERVED, seen, data))
        self._journal.record(events)
        self._mirror.facts.clear()

    # --- what to do about it ---

    async def attend(self, moment: Moment) -> None:
        """Judge at a head every account that is suspect or under care, and do what is due, in order."""
        sitting = self._sit(moment)
        book = self._mirror.book.freeze()
        cared = self._desk.under_care(sitting, book, moment.suspects, self._cases)
        del book
        if self._mirror.market.drifts:
            await self._mirror.read_again(cared, moment.head)
        planned: list[Planned] = []
        unjudged = Counter[str]()
        turns = Turns()
        for some in _batches(cared, BATCH):
            found, sitting = self._judge_all(sitting, some, moment, unjudged)
            planned += found
            await turns.pass_on()
        self._left = sitting
        self._warn_of_unjudged(unjudged, moment.head)
        await self._act(planned, moment)

    async def answer(self, moment: Moment) -> None:
        """Judge those whom a tick made suspect, and do what is due; what is ready goes without a question.

        The worst are through before the others are looked at. Who cannot be judged waits for the next head.
        """
        accounts = [each for each in moment.suspects if not self._desk.is_own(each)]
        sitting = self._desk.carry(self._left, self._sit(moment))
        if self._mirror.market.drifts:
            is_read = self._ready if self._ready_at == moment.head.number else {}
            if unread := [each for each in accounts if each not in is_read]:
                await self._mirror.read_again(unread, moment.head)
        for some in _batches(accounts, BATCH):
            planned, sitting = self._judge_all(sitting, some, moment, Counter())
            self._left = sitting
            await self._act(planned, moment)
            await asyncio.sleep(0)

    async def prepare(self, moment: Moment, nearest: Iterable[AccountKey]) -> Sequence[AccountKey]:
        """Build and simulate what would be due at once of accounts near to breach; return who is ready.

        Open cases come first, then ``nearest`` in its order. Nothing of it is reserved or sent.
        """
        most = self._params.ready
        if not most:
            return ()
        waiting = [key for key, case in self._cases.items() if case.status is Status.SUSPECTED]
        candidates = islice(dict.fromkeys((*waiting, *nearest)), CANDIDATES * most)
        planned = await self._plan_ahead(candidates, moment)
        if self._mirror.market.drifts and planned:
            await self._mirror.read_again(list(planned), moment.head)
            planned = await self._plan_ahead(planned, moment)
        _, tried = await asyncio.gather(
            self._sender.prepare(),
            asyncio.gather(
                *(self._try_all(steps, moment.at, self._preparations) for steps in planned.values())
            ),
        )
        self._ready, self._ready_at = dict(zip(planned, tried, strict=True)), moment.head.number
        return list(planned)

    async def _plan_ahead(
        self, accounts: Iterable[AccountKey], moment: Moment
    ) -> dict[AccountKey, tuple[Step, ...]]:
        """Return what would be due at once of the first accounts of which anything would."""
        sitting, turns = self._sit(moment), Turns()
        planned: dict[AccountKey, tuple[Step, ...]] = {}
        for account in accounts:
            if len(planned) == self._params.ready:
                break
            if steps := self._desk.ready(sitting, account):
                planned[account] = steps
            await turns.pass_on()
        return planned

    @property
    def ready(self) -> int:
        """How many accounts have their acts ready."""
        return len(self._ready)

    def _ready_of(self, account: AccountKey, moment: Moment) -> list[Tried] | None:
        """Return what was tried for an account between heads, where that is at most one block old."""
        is_new = moment.is_tick and moment.head.number - self._ready_at <= 1
        return self._ready.get(account) if is_new else None

    def _vouched(self, planned: Planned, moment: Moment) -> list[Tried] | None:
        """Return the steps as tried, where what is ready vouches for every one; None otherwise."""
        ready = self._ready_of(planned.account, moment) or []
        found = []
        for step in planned.steps:
            tried = next((each for each in ready if self._desk.vouches(each, step)), None)
            if tried is None:
                return None
            result = tried.result if isinstance(tried.result, bytes) else b""
            found.append(Tried(step, self._mirror.market.encode(step.act), result))
        return found

    def _judge_all(
        self,
        sitting: Any,
        accounts: Sequence[AccountKey],
        moment: Moment,
        unjudged: Counter[str],
    ) -> tuple[list[Planned], Any]:
        """Judge some accounts, and journal what is found; return what to do, and what others find then."""
        head, at, suspects = moment.head, moment.at, moment.suspects
        planned: list[Planned] = []
        events: list[CaseEvent] = []
        for account in accounts:
            case = self._cases.get(account)
            if case is not None and case.status in {Status.RESERVED, Status.IN_FLIGHT}:
                continue
            # The hash too: after a reorg the same account may be suspected again at the same height.
            case_id = case.case_id if case else f"0x{account.hex()}@{head.number}-{head.hash[2:10]}"
            judged = self._desk.judge(sitting, account, case_id, suspects.get(account))
            if isinstance(judged, Unknown):
                unjudged[f"{judged.what}: {judged.why}"] += 1
                events += self._say(case, account, Wait(at.block, _unknown(judged)), head)
                continue
            if moment.is_tick and not judged.cared:
                # Opened and closed at one head, a case would have the name of the next one.
                continue
            case = case or Case(case_id)
            events += self._take_up(case, account, judged, suspects.get(account), head)
            sitting, decision = judged.left, judged.decision
            if isinstance(decision, tuple):
                planned.append(Planned(account, decision, judged))
            elif decision is not None:
                events += self._say(case, account, decision, head)
        if events:
            self._journal.record(events)
        return planned, sitting

    def _warn_of_unjudged(self, unjudged: Mapping[str, int], head: Head) -> None:
        """Say aloud why some cannot be judged, whenever that changes: without a case no journal tells it."""
        if unjudged.keys() != self._unjudged:
            log.warning("accounts.unjudged", block=head.number, accounts=dict(unjudged))
        self._unjudged = set(unjudged)

    def _take_up(
        self, case: Case, account: AccountKey, judged: Judgement[Any], suspicion: str | None, head: Head
    ) -> list[CaseEvent]:
        """Open the case of an account, or close it."""
        outcome = {"phase": judged.phase, "health": judged.health}
        if not judged.cared:
            closed = self._cases.pop(account, None)
            return [_event(case, account, EventKind.CLOSED, head, outcome)] if closed else []
        self._cases[account] = case
        if case.status is Status.SUSPECTED:
            return []
        return [_event(case, account, EventKind.SUSPECTED, head, {"score": suspicion, **outcome})]

    def _sit(self, moment: Moment) -> Any:
        """Open the desk for the decisions of a head."""
        mirror, fees = self._mirror, self._sender.fees(moment.head)
        tip_wei = fees.priority_fee_wei if isinstance(fees, Fees) else 0
        return self._desk.sit(
            mirror.market,
            mirror.book,
            mirror.world,
            mirror.funds,
            quotes=moment.quotes,
            gas_price_wei=moment.head.base_fee_wei + tip_wei,
            at=moment.at,
        )

    # --- and to do it ---

    async def _act(self, planned: Sequence[Planned], moment: Moment) -> None:
        """Send at once what is ready; simulate all other steps together, and send those picked."""
        if not planned:
            return
        fees = self._mirror.halted or self._sender.fees(moment.head)
        if isinstance(fees, Refuse):
            for each in planned:
                self._refuse(each.account, fees, moment.head)
            return
        ready, others = [], []
        for each in planned:
            found = self._vouched(each, moment)
            if found is None:
                others.append(each)
            else:
                ready.append((each, found))
        await self._sender.prepare()
        await self._send(ready, fees, moment)
        simulating = (self._try_all(each.steps, moment.at, self._simulations) for each in others)
        tried = await asyncio.gather(*simulating)
        await self._send(list(zip(others, tried, strict=True)), fees, moment)

    async def _try_all(self, steps: Sequence[Step], at: ChainTime, line: asyncio.Semaphore) -> list[Tried]:
        return await asyncio.gather(*(self._try(step, at, line) for step in steps))

    async def _try(self, step: Step, at: ChainTime, line: asyncio.Semaphore) -> Tried:
        """Run one step as if in its block. A fault of the node holds up that step only."""
        call = self._mirror.market.encode(step.act)
        async with line:
            try:
                result = await self._reader.simulate(self._sender.address, call, at, step.gas_limit)
            except ChainFault as fault:
                unknown = Wait(at.block, Reason("simulation.unknown", str(fault), "an answer"))
                return Tried(step, call, unknown)
        return Tried(
            step, call, self._mirror.market.explain(result) if isinstance(result, Refuse) else result
        )

    async def _send(
        self, planned: Sequence[tuple[Planned, Sequence[Tried]]], fees: Fees, moment: Moment
    ) -> None:
        """Reserve what is picked, a batch in one commit, and send it."""
        for some in _batches(planned, BATCH):
            if permits := self._reserve_all(some, fees, moment.head):
                await self._sender.send(permits, tick_ns=moment.heard_ns)
            await asyncio.sleep(0)

    def _reserve_all(
        self, planned: Sequence[tuple[Planned, Sequence[Tried]]], fees: Fees, head: Head
    ) -> list[Permit]:
        """Reserve in one commit what was picked of the steps tried."""
        permits = []
        with self._journal.together():
            for each, found in planned:
                picked = self._desk.pick(each.judged.left, found)
                if not isinstance(picked.result, bytes):
                    self._refuse(each.account, picked.result, head)
                elif not self._is_rehearsed(each, picked.step):
                    permits += self._reserve(each, picked, fees, head)
        return permits

    def _reserve(self, each: Planned, picked: Tried, fees: Fees, head: Head) -> list[Permit]:
        """Ask for the permit of one step; the agreement that it rests on goes into the same commit."""
        granted = self._journal.reserve(
            picked.step,
            self._sender.transaction(picked.call, picked.step.gas_limit, fees),
            chain_nonce=self._sender.chain_nonce,
            block=head.number,
            at_s=head.timestamp_s,
        )
        if isinstance(granted, Refuse):
            self._refuse(each.account, granted, head)
            return []
        account, agreed = each.account, each.judged.agreed
        self._rehearsed[account] = _state(each, picked.step)
        if agreed:
            data = {"act": "Agreed", "step_id": granted.step_id, "evidence": agreed.evidence}
            self._journal.record([_event(self._cases[account], account, EventKind.OBSERVED, head, data)])
        # Until the next head asks the journal: a tick is not to do the same again.
        self._cases[account].status = Status.RESERVED
        return [granted]

    def _is_rehearsed(self, each: Planned, step: Step) -> bool:
        """In a dry run, where the sender withholds all, an act is said once per state of its account."""
        return self._params.dry_run and self._rehearsed.get(each.account) == _state(each, step)

    def _refuse(self, account: AccountKey, doubt: Wait | Refuse, head: Head) -> None:
        self._journal.record(self._say(self._cases.get(account), account, doubt, head))

    def _say(
        self, case: Case | None, account: AccountKey, decision: Wait | Refuse, head: Head
    ) -> list[CaseEvent]:
        """Journal a wait or a refusal where the rule is another than last time."""
        reason = decision.reason
        if case is None or case.status is not Status.SUSPECTED or case.said == reason.rule:
            return []
        case.said = reason.rule
        kind = EventKind.WAITED if isinstance(decision, Wait) else EventKind.REFUSED
        data: dict[str, object] = {"rule": reason.rule, "evidence": reason.evidence, "bound": reason.bound}
        if isinstance(decision, Wait):
            data["until_block"] = decision.until_block
        return [_event(case, account, kind, head, data)]


def _state(each: Planned, step: Step) -> str:
    return f"{step.kind}:{each.judged.state}"


def _event(
    case: Case, account: AccountKey, kind: EventKind, head: Head, data: Mapping[str, object]
) -> CaseEvent:
    """Make an event and bring the case's status to where the journal's will be."""
    case.status = advance(case.status, kind)
    return CaseEvent(case.case_id, account, kind, head.number, head.timestamp_s, data)


def _unknown(unknown: Unknown) -> Reason:
    return Reason("unknown", f"{unknown.what}: {unknown.why}", "a known value")


class Turns:
    """Gives others their turn on the loop, wherever work goes on for long."""

    def __init__(self) -> None:
        self._since_ns = time.monotonic_ns()

    async def pass_on(self) -> None:
        """Let others go first, if the last time is long ago."""
        if time.monotonic_ns() - self._since_ns >= TURN_NS:
            await asyncio.sleep(0)
            self._since_ns = time.monotonic_ns()


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])
