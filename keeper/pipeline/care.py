"""Accounts under care: who is judged, what is sent for them, and what their cases say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import structlog

from keeper.columns.keys import Rows
from keeper.columns.snapshot import Snapshot
from keeper.desk.port import Alarm, Desk, Judgement
from keeper.domain import (
    Agree,
    Announced,
    CaseEvent,
    ChainTime,
    EventKind,
    Fees,
    Head,
    Posture,
    Quote,
    Record,
    Refuse,
    Seen,
    Step,
    Unknown,
    Wait,
)
from keeper.errors import ChainFault
from keeper.ladder import Rung, shown
from keeper.lifecycle import Status
from keeper.pipeline.acts import Acts, Planned, held_back
from keeper.pipeline.alarms import CASES, Alarms, left_to_others
from keeper.pipeline.case import Case, has_taken, made, new_case, said, taken_up, told, unknown
from keeper.pipeline.mirror import Mirror
from keeper.pipeline.moment import Moment
from keeper.pipeline.params import Params
from keeper.pipeline.reviews import Reviews
from keeper.pipeline.telling import notice_of, told_call
from keeper.pipeline.turns import Turns, batches
from keeper.ports import AlarmRecord, Alerts, Journal, Market, Mempool, Notice, Reader, Sender, StepState
from keeper.ports import Case as Recorded
from keeper.units import AccountKey, FeedId, UnixS

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])

BATCH = 8
"""Accounts judged in one go: a few milliseconds of the loop's time."""
CANDIDATES = 4
"""For so many times as many accounts as are to be ready, at most, it is asked whether they can be."""
RECHECK_BLOCKS = 64
"""At a start, how far back it is looked at again what was sold: as far as outcomes are."""
REST_MOST_S = 3_600
"""For so long it is known whom the keeper restored."""
ASKED = 4_096
"""Of so many accounts it is asked at a head, at most, what their owners are to be told."""
NOBODY = "0x" + "00" * 20
READ_GAS = 30_000_000
"""For a read behind announced transactions."""
AT_ONCE = 1_000
"""Margin calls that are journaled in one go: some 20 ms of the loop's time."""


class Column(Protocol):
    """What is asked of the rungs below suspicion (``pipeline.rungs.Rungs``)."""

    def of(self, account: AccountKey) -> Rung:
        """Return the rung of one account, as of the last head."""
        ...

    def below_call(self, accounts: Sequence[AccountKey]) -> list[AccountKey]:
        """Return those of some accounts that stand below ``MARGIN_CALL``; who was not read yet is none."""
        ...

    def sigmas(self, account: AccountKey) -> float:
        """Return how far one account is from breach; infinity where that was not looked at."""
        ...

    def seed(self, accounts: Iterable[AccountKey]) -> None:
        """Put back where they were those whose cases the journal holds, at the first head after a start."""
        ...


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
        rungs: Column,
        alerts: Alerts,
        latest: Callable[[UnixS], Mapping[FeedId, Quote | Unknown]],
        mempool: Mempool | None = None,
    ) -> None:
        """Take parts; ``latest`` gives the fast prices of a time."""
        self._mirror = mirror
        self._mempool = mempool
        self._desk = desk
        self._journal = journal
        self._sender = sender
        self._params = params
        self._cases: dict[AccountKey, Case] = {}
        self._unjudged: set[str] = set()
        """Why some of those under care cannot be judged."""
        self._left: Any = None
        """What the decisions since the last head leave for others."""
        self._posture = Posture()
        self._alarms = Alarms(params.alarms)
        self._record = Record()
        self._closed: Mapping[AccountKey, Seen] = {}
        """Whom the keeper restored within the last hour."""
        self._rungs = rungs
        self._alerts = alerts
        self._acts = Acts(
            mirror,
            reader=reader,
            desk=desk,
            journal=journal,
            sender=sender,
            cases=self,
            mempool=mempool,
            dry_run=params.dry_run,
            batch=params.batch,
        )
        self._reviews = Reviews(
            mirror, reader=reader, desk=desk, journal=journal, wallet=sender.address, latest=latest
        )
        self._foreseen: tuple[tuple[Any, ...], Judgement[Any] | Unknown] | None = None
        """What a rehearsal has judged last, and what that rested on."""
        self._in_vain: set[AccountKey] = set()
        """For whom no call was found of late."""
        self._read_to = 0
        """The event of the journal up to which the cases are known."""
        self.has_started = False

    @property
    def cases(self) -> int:
        """How many cases are open."""
        return len(self._cases)

    @property
    def ready(self) -> int:
        """How many accounts have their acts ready."""
        return self._acts.ready

    @property
    def alarms(self) -> Mapping[str, AlarmRecord]:
        """What became of the last alarms of each market."""
        return self._alarms.records

    @property
    def false_alarms(self) -> float | None:
        """What share of the last alarms of all markets was false; None where too few have ended."""
        return self._alarms.false_rate

    def stand(self, posture: Posture, at: ChainTime) -> None:
        """Take how the keeper as a whole stands: decisions go by it until they are told otherwise.

        The tape has it, with the event of the journal that the cases are known up to, and what no event says.
        """
        self._posture = posture
        since = [
            [account, case.shown.block, case.shown.timestamp_s]
            for account, case in self._cases.items()
            if case.shown is not None
        ]
        self._mirror.tape.note("posture", self._read_to, self._standing(at), since)

    async def follow(self, head: Head) -> None:
        """See what became of our transactions, and take from the journal the cases that have moved.

        A reorg may open again a case that was closed; where its account has a newer one, that one goes first.
        """
        review = partial(self._reviews.of, head)
        if self.has_started:
            settled = await self._sender.track(head, self._mirror.orphaned, review)
        else:
            await self._warn_of_means()
            # Nobody has heard of blocks that were taken back since; what is gone is noted anew.
            self._journal.unsell(head.timestamp_s - RECHECK_BLOCKS * self._params.block_time_s)
            settled = await self._sender.resume(head, review)
            # Nothing that could fail comes after: what is heard twice would count twice.
            self._alarms.hear(self._journal.alarms(CASES), aloud=False)
            if slowed := self._alarms.slowed:
                log.warning("market.slowed", block=head.number, market=sorted(slowed))
        if self._mirror.orphaned:
            self._acts.forget_ready()
            self._journal.unsell(min(each.timestamp_s for each in self._mirror.orphaned))
            for each in self._cases.values():
                each.shown = None
        self._mirror.orphaned.clear()
        self._take_cases()
        for step in settled:
            case = self._cases.get(step.account)
            # Of an older case of its account a step may be included late.
            if case is not None and case.case_id == step.case_id and step.state is StepState.INCLUDED:
                case.taken = case.taken or has_taken(self._journal.history(case.case_id), step.step_id)
        if not self.has_started:
            # An account under care may be one that no event since ``from_block`` has touched.
            self._mirror.book.mark_dirty(
                [each for each in self._cases if each not in self._mirror.book], head.number
            )
            self._rungs.seed(self._cases)
        self._closed = self._journal.closed_since(head.timestamp_s - REST_MOST_S)
        self._record = self._journal.record_at(head.timestamp_s)
        self.has_started = True

    def _take_cases(self) -> None:
        """Take from the journal whatever has moved since it was asked last; at a start, all that is open."""
        read_to = self._journal.last_event()
        if self.has_started:
            moved: Mapping[AccountKey, Recorded | None] = self._journal.moved_since(self._read_to)
        else:
            moved = {each.account: each for each in self._journal.open_cases()}
        for account, found in moved.items():
            case = self._cases.get(account)
            if found is None:
                self._cases.pop(account, None)
            elif case is not None and case.case_id == found.case_id:
                case.status = found.status
            else:
                self._cases[account] = taken_up(found)
        self._read_to = read_to

    async def _warn_of_means(self) -> None:
        """Say aloud at the start what the wallet lacks to act with."""
        lacking = self._desk.lacking(self._mirror.book, self._mirror.funds)
        if await self._sender.balance() == 0:
            lacking = ["native currency for gas", *lacking]
        if lacking:
            log.warning("wallet.lacks", what=lacking, wallet=self._sender.address)
            text = f"the wallet {self._sender.address} lacks {', '.join(lacking)}"
            self._alerts.tell(Notice("wallet", "lacks", text))

    def observe(self, head: Head) -> None:
        """Write into open cases what the chain shows of their accounts, whoever did it."""
        events = []
        for fact in self._mirror.facts:
            data = {"act": fact.act, "tx_hash": fact.tx_hash, "log_index": fact.log_index, **fact.args}
            if fact.closes:
                data["closes"] = True
            if fact.tx_index is not None:
                data["tx_index"] = fact.tx_index
            for account in self._mirror.concerned(fact):
                case = self._cases.get(account)
                if case is not None:
                    case.touched |= fact.closes
                    seen = replace(head, number=fact.block)
                    events.append(made(case, account, EventKind.OBSERVED, seen, data))
        self._journal.record(events)
        self._mirror.facts.clear()

    def part(self, head: Head) -> None:
        """Keep no account any more of what was taken over and has left the keeper, however that went."""
        mirror, held = self._mirror, self._journal.holding()
        if not held:
            return
        for market in self._desk.parted(mirror.market, mirror.book, mirror.funds, held):
            why = "the keeper has none of it any more"
            self._journal.note_sold(market, why, at_s=head.timestamp_s)
            log.info("inventory.parted", block=head.number, market=market)

    # --- what to do about it ---

    async def attend(self, moment: Moment) -> None:
        """Judge at a head every account that is suspect or under care, and do what is due, in order."""
        sitting = self._sit(moment)
        book = self._mirror.book.freeze()
        since = {key: case.since for key, case in self._cases.items() if case.status is not Status.CALLED}
        cared = self._desk.under_care(sitting, book, moment.suspects, since)
        del book
        if self._mirror.market.drifts:
            await self._mirror.read_again(cared, moment.head)
        planned: list[Planned] = []
        unjudged = Counter[str]()
        turns = Turns()
        for some in batches(cared, BATCH):
            found, events, sitting = self._judge_all(sitting, some, moment, unjudged)
            self._note(events)
            planned += found
            await turns.pass_on()
        self._left = sitting
        self._warn_of_unjudged(unjudged, moment.head)
        await self._acts.act(planned, moment)

    async def answer(self, moment: Moment) -> None:
        """Judge those whom a tick made suspect, and do what is due; what is ready goes without a question.

        The worst are through before the others are looked at. Who cannot be judged waits for the next head.
        """
        is_own, sitting = self._desk.is_own, self._desk.carry(self._left, self._sit(moment))
        if self._mirror.market.drifts:
            is_read = self._acts.ready_at(moment.head)
            if unread := [each for each in moment.suspects if each not in is_read and not is_own(each)]:
                await self._mirror.read_again(unread, moment.head)
        turns = Turns()
        # In a fall the worst are on their way already: nobody new waits behind batches of them.
        waiting = (each for each in moment.suspects if not self._is_on_its_way(each) and not is_own(each))
        for some in batches(waiting, max(BATCH, self._params.batch)):
            planned: list[Planned] = []
            events: list[CaseEvent] = []
            for few in batches(some, BATCH):
                self._note(events)
                await turns.pass_on()
                found, events, sitting = self._judge_all(sitting, few, moment, Counter())
                self._left, planned = sitting, [*planned, *found]
            await self._acts.act_at_once(planned, moment, partial(self._note, events))
            await asyncio.sleep(0)

    def _is_on_its_way(self, account: AccountKey) -> bool:
        """Tell whether a step of an account was permitted, of which it is not known how it ended."""
        case = self._cases.get(account)
        return case is not None and case.status in {Status.RESERVED, Status.IN_FLIGHT}

    async def look_behind(self, moment: Moment, before: Sequence[Announced]) -> None:
        """Judge those under care at the prices that announced transactions bring, and act right behind them.

        Whoever needs no more than what is announced is acted on in its block, where the policy asks for no
        depth. Nothing of it counts as shown on chain: it is not there yet.
        """
        waiting = [key for key, case in self._cases.items() if case.status is Status.SUSPECTED]
        world = await self._world_behind(moment, before) if waiting else None
        if world is None:
            return
        if self._mirror.market.drifts:
            await self._mirror.read_again(waiting, moment.head)
        now = replace(moment, is_tick=True)
        sitting = self._desk.carry(self._left, self._sit(now, world))
        shown = {key: self._cases[key].shown for key in waiting}
        for some in batches(waiting, BATCH):
            planned, events, sitting = self._judge_all(sitting, some, now, Counter())
            self._note(events)
            self._left = sitting
            for key in some:
                self._cases[key].shown = shown[key]
            await self._acts.act(planned, now, before)
            await asyncio.sleep(0)

    async def _world_behind(self, moment: Moment, before: Sequence[Announced]) -> Any:
        """Return prices as they will be behind transactions; None where the listing would be another."""
        assert self._mempool is not None
        market = self._mirror.market
        found = await self._mempool.behind(before, market.prices_call(), moment.at, NOBODY, READ_GAS)
        if isinstance(found, Refuse):
            raise ChainFault(f"prices cannot be read behind what is announced: {found.reason.evidence}")
        world = market.decode_prices(found)
        return world if world.version == market.version else None

    async def prepare(
        self, moment: Moment, nearest: Iterable[AccountKey], keep: Callable[[Sequence[AccountKey]], None]
    ) -> None:
        """Build and simulate what would be due at once of those near to breach; tell ``keep`` who is ready.

        Open cases come first, then ``nearest`` in its order. Nothing of it is reserved or sent.
        """
        most = self._params.ready
        if not most:
            return
        waiting = [key for key, case in self._cases.items() if case.status is Status.SUSPECTED]
        candidates = [*islice(dict.fromkeys((*waiting, *nearest)), CANDIDATES * most)]
        planned = await self._plan_ahead(candidates, moment)
        if self._mirror.market.drifts and planned:
            await self._mirror.read_again(list(planned), moment.head)
            planned = await self._plan_ahead(planned, moment)
        await self._acts.make_ready(planned, moment)
        # Before anybody else has a turn: a replay knows of no tick between the two.
        keep(list(planned))
        # Those who are next are not simulated, but what the contract would find of them is known then.
        await self._plan_ahead([each for each in candidates if each not in planned], moment)

    def rehearse(self, moment: Moment) -> Iterator[None]:
        """Judge one account whose act is ready, and keep nothing of it: the next alarm does not run cold."""
        ready = sorted(self._acts.ready_at(moment.head), key=self._is_on_its_way)
        if not ready or self._left is None:
            return
        account = ready[0]
        case = self._cases.get(account) or new_case(account, moment.head)
        alarm = self._as_known(case, account, moment.head, suspected=True)
        sitting = self._desk.carry(self._left, self._sit(moment))
        judged = self._desk.judge(sitting, account, alarm)
        self._foreseen = self._asked(sitting, account, alarm), judged
        yield
        if not isinstance(judged, Unknown) and isinstance(judged.decision, tuple):
            yield from self._acts.rehearse(Planned(account, judged.decision, judged), moment)

    async def _plan_ahead(
        self, accounts: Iterable[AccountKey], moment: Moment
    ) -> dict[AccountKey, tuple[Step, ...]]:
        """Return what would be due at once of the first accounts of which anything would."""
        sitting, turns = self._sit(moment), Turns()
        planned: dict[AccountKey, tuple[Step, ...]] = {}
        for account in accounts:
            if len(planned) == self._params.ready:
                break
            case = self._cases.get(account) or new_case(account, moment.head)
            alarm = self._alarm(case, account, moment.head, suspected=False)
            if steps := self._desk.ready(sitting, account, alarm):
                planned[account] = steps
            await turns.pass_on()
        return planned

    def _judge_all(
        self,
        sitting: Any,
        accounts: Sequence[AccountKey],
        moment: Moment,
        unjudged: Counter[str],
    ) -> tuple[list[Planned], list[CaseEvent], Any]:
        """Judge some accounts; return what to do, what to journal before, and what others find then."""
        head, at, suspects = moment.head, moment.at, moment.suspects
        planned: list[Planned] = []
        events: list[CaseEvent] = []
        for account in accounts:
            if self._is_on_its_way(account):
                continue
            case = self._cases.get(account)
            taken = case or new_case(account, head)
            alarm = self._alarm(taken, account, head, suspected=account in suspects)
            judged = self._judge(sitting, account, alarm)
            if isinstance(judged, Unknown):
                unjudged[f"{judged.what}: {judged.why}"] += 1
                events += said(case, account, Wait(at.block, unknown(judged)), head)
                continue
            if moment.is_tick and not judged.cared:
                # Opened and closed at one head, a case would have the name of the next one.
                continue
            case = taken
            events += self._take_up(case, account, judged, suspects.get(account), head)
            sitting, decision = judged.left, held_back(judged.decision, self._posture)
            if isinstance(decision, tuple):
                planned.append(Planned(account, decision, judged))
            elif decision is not None:
                events += said(case, account, decision, head)
        return planned, events, sitting

    def _note(self, events: Sequence[CaseEvent]) -> None:
        """Journal events, learn from them, and tell people of those that they should hear of."""
        if not events:
            return
        self._journal.record(events)
        self._alarms.hear(events)
        for event in events:
            case = self._cases.get(event.account)
            goes_on = case is not None and case.rung > Rung.SUSPECTED and event.kind is EventKind.SUSPECTED
            if not goes_on and (notice := notice_of(event)) is not None:
                self._alerts.tell(notice)

    def _judge(self, sitting: Any, account: AccountKey, alarm: Alarm) -> Judgement[Any] | Unknown:
        """Judge one account, unless a rehearsal has just found what comes of the very same."""
        if self._foreseen is not None and self._foreseen[0] == self._asked(sitting, account, alarm):
            return self._foreseen[1]
        return self._desk.judge(sitting, account, alarm)

    def _asked(self, sitting: Any, account: AccountKey, alarm: Alarm) -> tuple[Any, ...]:
        """Return all that a judgement rests on; of the book that is the account as it was read."""
        return account, alarm, self._mirror.book.exact(account), sitting

    def _alarm(self, case: Case, account: AccountKey, head: Head, *, suspected: bool) -> Alarm:
        """Return what a desk is told of a case, with what the journal knows of its account."""
        if case.first is None and case.status not in {None, Status.CALLED}:
            case.first = self._journal.alarm(case.case_id)
        return self._as_known(case, account, head, suspected=suspected)

    def _as_known(self, case: Case, account: AccountKey, head: Head, *, suspected: bool) -> Alarm:
        alarm = case.alarm(head, suspected=suspected)
        return replace(alarm, first=case.first, closed=self._closed.get(account))

    def _warn_of_unjudged(self, unjudged: Mapping[str, int], head: Head) -> None:
        """Say aloud why some cannot be judged, whenever that changes: without a case no journal tells it."""
        if unjudged.keys() != self._unjudged:
            log.warning("accounts.unjudged", block=head.number, accounts=dict(unjudged))
        self._unjudged = set(unjudged)

    def _take_up(
        self, case: Case, account: AccountKey, judged: Judgement[Any], suspicion: str | None, head: Head
    ) -> list[CaseEvent]:
        """Open the case of an account, say how far it has come, or close it; a called one stays called."""
        outcome = {"phase": judged.phase, "health": judged.health}
        if not judged.cared:
            return self._let_go(case, account, judged, outcome, head)
        self._cases[account] = case
        case.shown = (case.shown or ChainTime(head.number, head.timestamp_s)) if judged.shown else None
        events = []
        if case.status is not Status.SUSPECTED:
            if case.status in {None, Status.CALLED}:
                case.since = ChainTime(head.number, head.timestamp_s)
            data = {"score": suspicion, "markets": judged.markets, **outcome}
            events = [made(case, account, EventKind.SUSPECTED, head, data)]
        found = shown(agreed=judged.agreed is not None, taken=case.taken, solvent=judged.solvent)
        if found > case.rung:
            case.rung = found
            data = {"rung": found.label, **outcome}
            events.append(made(case, account, EventKind.MOVED, head, data))
        return events

    def _let_go(
        self,
        case: Case,
        account: AccountKey,
        judged: Judgement[Any],
        outcome: Mapping[str, object],
        head: Head,
    ) -> list[CaseEvent]:
        """Close the case of an account that is in no danger now, or call its owner where it soon may be."""
        case.shown = None
        if account not in self._cases or case.status is Status.CALLED:
            return []
        ending, call = self._ending(case, judged), self._call(judged.left, account, head)
        if call is None:
            del self._cases[account]
            return [made(case, account, EventKind.CLOSED, head, {**outcome, **ending})]
        case.rung, case.said, case.first = Rung.SUSPECTED, None, None
        case.agreed = case.touched = case.taken = False
        return [made(case, account, EventKind.CALLED, head, {**call, **ending})]

    def _ending(self, case: Case, judged: Judgement[Any]) -> Mapping[str, object]:
        """Say of an alarm that ends why, where a rule ended it, and what it left to others, if it did."""
        why = told(judged.decision.reason) if isinstance(judged.decision, Refuse) else {}
        left = left_to_others(self._journal.history(case.case_id)) if case.touched else None
        return {**why, "left_to_others": left} if left else why

    # --- whom to call ---

    async def call(self, near: Rows, moment: Moment) -> None:
        """Call the owners of accounts that have come near, the nearest first; let go those who came down.

        These by where they stand, for the head at which they came down may have failed. So many are called as
        may be at once, each with what brings its buffer back; after those of whom that is not known come the
        next. Others have their turn in between, and what is found is journaled in slices, so that no crowd
        holds up the next tick.
        """
        book, turns, events = self._mirror.book.freeze(), Turns(), list[CaseEvent]()
        called = [key for key, case in self._cases.items() if case.status is Status.CALLED]
        for account in self._rungs.below_call(called):
            events.append(self._recovered(account, moment.head))
        most, sitting = self._params.climb.most_called - self.called, self._sit(moment)
        for account in islice(self._uncalled(book, near), ASKED):
            if most <= 0:
                break
            data = self._call(sitting, account, moment.head)
            if data is not None:
                case = new_case(account, moment.head)
                self._cases[account] = case
                events.append(made(case, account, EventKind.CALLED, moment.head, data))
                most -= 1
            else:
                self._in_vain.add(account)
            await turns.pass_on()
        for some in batches(events, AT_ONCE):
            self._note(some)
            await asyncio.sleep(0)

    def _uncalled(self, book: Snapshot, rows: Rows) -> Iterator[AccountKey]:
        """Yield the accounts of rows without a case; who was asked about in vain, once all others were."""
        for row in rows.tolist():
            account = book.key(row)
            if account in self._cases or account in self._in_vain or self._desk.is_own(account):
                continue
            yield account
        self._in_vain.clear()

    def _recovered(self, account: AccountKey, head: Head) -> CaseEvent:
        case = self._cases.pop(account)
        return made(case, account, EventKind.CLOSED, head, {"phase": "recovered", "health": None})

    def _call(self, sitting: Any, account: AccountKey, head: Head) -> dict[str, object] | None:
        """Return what a call says; None where nobody is to be called, or nothing exact is known."""
        may = self._params.climb.most_called and not self._desk.is_own(account)
        if not may or self._rungs.of(account) < Rung.MARGIN_CALL:
            return None
        call = self._desk.call(sitting, account, self._params.climb.buffer_wad)
        if call is None:
            return None
        sigmas = max(0.0, self._rungs.sigmas(account))
        return told_call(call, self._params.climb.call.leave_health, sigmas, head)

    @property
    def called(self) -> int:
        """How many owners are called."""
        return sum(case.status is Status.CALLED for case in self._cases.values())

    @property
    def rungs(self) -> dict[str, int]:
        """How many cases stand on each rung above being called."""
        of = Counter(case.rung.label for case in self._cases.values() if case.status is not Status.CALLED)
        return {rung.label: of[rung.label] for rung in Rung if Rung.SUSPECTED <= rung < Rung.CLOSED}

    def _sit(self, moment: Moment, world: Any = None) -> Any:
        """Open the desk for the decisions of a head, at its prices or at others."""
        mirror, fees = self._mirror, self._sender.fees(moment.head)
        base_fee_wei = moment.head.base_fee_wei
        price_wei = fees.price_wei(base_fee_wei) if isinstance(fees, Fees) else base_fee_wei or 0
        worst_wei = fees.max_fee_wei if isinstance(fees, Fees) else 0
        return self._desk.sit(
            mirror.market,
            mirror.book,
            mirror.world if world is None else world,
            mirror.funds,
            quotes=moment.quotes,
            gas_price_wei=price_wei,
            at=moment.at,
            posture=self._standing(moment.at),
            witnesses=mirror.witnesses,
            record=replace(
                self._record,
                worst_gas_wei=worst_wei,
                data_fee_wei=self._sender.data_fee_wei,
                data_gas=self._sender.data_gas,
            ),
        )

    def _standing(self, at: ChainTime) -> Posture:
        """Return how the keeper stands, with the markets that its alarms have slowed."""
        alarms, posture = self._alarms, self._posture
        slowed, tripped = alarms.slowed, alarms.tripped(at.timestamp_s)
        if not slowed and tripped == posture.tripped:
            return posture
        return replace(posture, slowed=posture.slowed | slowed, tripped=tripped)

    # --- what came of it ---

    def refused(self, account: AccountKey, doubt: Wait | Refuse, head: Head) -> None:
        """Journal why a step was not sent."""
        self._note(said(self._cases.get(account), account, doubt, head))

    def reserved(self, account: AccountKey, agreed: Agree | None, head: Head) -> None:
        """Count an agreement; until the next head asks the journal, a tick is not to do the same again."""
        case = self._cases[account]
        case.status = Status.RESERVED
        if agreed:
            case.agreed = True
            data, kind = {"agreed": agreed.told}, EventKind.RESERVED
            self._alarms.hear([CaseEvent(case.case_id, account, kind, head.number, head.timestamp_s, data)])
