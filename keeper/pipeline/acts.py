"""Steps on their way out: tried, reserved, sent; and those that are kept ready between heads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from keeper.desk.port import Desk, Judgement, Tried
from keeper.domain import (
    Agree,
    Announced,
    Call,
    ChainTime,
    Fees,
    Head,
    Level,
    Permit,
    Posture,
    Reason,
    Refuse,
    Step,
    Wait,
)
from keeper.errors import ChainFault
from keeper.pipeline.batch import Batches
from keeper.pipeline.mirror import Mirror
from keeper.pipeline.moment import Moment
from keeper.pipeline.turns import batches
from keeper.ports import Journal, Market, Mempool, Reader, Sealed, Sender
from keeper.units import AccountKey, Block, Wei

MarketT = TypeVar("MarketT", bound=Market[Any, Any])

SIMULATIONS = 16
"""Steps simulated at the same time."""
BATCH = 8
"""Steps reserved and signed in one go: a few milliseconds of the loop's time."""
NO_PLACE = "limit.in_flight"
"""The one refusal that depends on who was there before, and on nothing of one's own."""
SOON_S = 0.002
"""For so long it pays to wait for a node's answer, and have one commit with what follows from it."""
RUNS = 4
"""How often at one head steps are tried in their order, where some of them are not sent after all."""

Decided: TypeAlias = tuple[Step, ...] | Wait | Refuse | None


def nothing() -> None:
    """Journal nothing."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Steps of which one is worth sending, and the judgement they follow from."""

    account: AccountKey
    steps: tuple[Step, ...]
    judged: Judgement[Any]


@dataclass(slots=True)
class Stack:
    """Accounts whose steps were tried on top of one another: each counts on those before it."""

    accounts: Collection[AccountKey] = ()
    is_broken: bool = False
    """Whether one that would have gone through is not sent after all."""
    left: list[Planned] = field(default_factory=list)
    """Those behind it."""

    def holds_back(self, each: Planned) -> bool:
        """Tell whether one counts on what is not sent, and is to be tried anew."""
        rests_on_it = self.is_broken and each.account in self.accounts
        if rests_on_it:
            self.left.append(each)
        return rests_on_it


class Cases(Protocol):
    """Whoever keeps the cases: is told what came of their steps."""

    def refused(self, account: AccountKey, doubt: Wait | Refuse, head: Head) -> None:
        """Take it that a step was not sent, and why."""
        ...

    def reserved(self, account: AccountKey, agreed: Agree | None, head: Head) -> None:
        """Take it that a step has its permit, with the agreement that it rests on."""
        ...


class Acts(Generic[MarketT]):
    """Tries steps, and sends what goes through."""

    def __init__(
        self,
        mirror: Mirror[MarketT],
        *,
        reader: Reader,
        desk: Desk[MarketT, Any],
        journal: Journal,
        sender: Sender,
        cases: Cases,
        mempool: Mempool | None,
        dry_run: bool,
        batch: int = 1,
    ) -> None:
        self._mirror = mirror
        self._reader = reader
        self._desk = desk
        self._journal = journal
        self._sender = sender
        self._cases = cases
        self._mempool = mempool
        self._dry_run = dry_run
        self._batch = batch
        self._rehearsed: dict[AccountKey, str] = {}
        self._simulations = asyncio.Semaphore(SIMULATIONS)
        self._preparations = asyncio.Semaphore(SIMULATIONS // 2)
        """What is only got ready does not stand in line before what is due."""
        self._ready: dict[AccountKey, list[Tried]] = {}
        self._ready_at: Block = 0
        self._passed_over: dict[AccountKey, tuple[Block, str]] = {}
        """Who was refused a permit, at which head, and by which rule."""

    @property
    def ready(self) -> int:
        """How many accounts have their acts ready."""
        return len(self._ready)

    def ready_at(self, head: Head) -> Collection[AccountKey]:
        """Return whose acts were got ready at a head."""
        return self._ready if self._ready_at == head.number else ()

    def forget_ready(self) -> None:
        """Forget what is ready: the blocks it was tried at were taken back."""
        self._ready.clear()

    async def make_ready(self, planned: Mapping[AccountKey, tuple[Step, ...]], moment: Moment) -> None:
        """Try steps that may be due at once before the next head. Nothing is reserved or sent."""
        _, tried = await asyncio.gather(
            self._sender.prepare(),
            asyncio.gather(
                *(self._try_all(steps, moment.at, self._preparations) for steps in planned.values())
            ),
        )
        await self._mirror.tape.mark("ready")
        self._ready, self._ready_at = dict(zip(planned, tried, strict=True)), moment.head.number

    def rehearse(self, planned: Planned, moment: Moment) -> Iterator[None]:
        """Find what is ready of one account, its transaction, and what its permit would look at.

        Nothing is reserved, and nothing signed that a chain would take.
        """
        found = self._vouched(planned, replace(moment, is_tick=True))
        if not found:
            return
        picked, head = self._desk.pick(planned.judged.left, found), moment.head
        yield
        yield from self._foresee(picked.step, picked.call, head)

    def _foresee(self, step: Step, call: Call, head: Head) -> Iterator[None]:
        """Look at what the permit of a step would look at, and have signed what its transaction would be.

        Without a permit these bytes go nowhere.
        """
        fees, bid = self._sender.fees(head), self._sender.bid(step, head)
        if isinstance(fees, Refuse) or isinstance(bid, Refuse):
            return
        nonce = self._journal.rehearse(
            step, chain_nonce=self._sender.chain_nonce, block=head.number, at_s=head.timestamp_s
        )
        yield
        if nonce is not None:
            tx = self._sender.transaction(call, step.gas_limit, bid.within(fees))
            self._sender.rehearse({**tx, "nonce": nonce})
            yield

    async def act_at_once(
        self, planned: Sequence[Planned], moment: Moment, suspect: Callable[[], None]
    ) -> None:
        """Send what is ready, then ask the node of the others, and send them.

        ``suspect`` journals why all of them are planned for. Where something is ready that is done in the
        commit which brings the permits and the signed bytes to disk, so that the disk is waited for once.
        """
        ready, others = [], []
        for each in planned:
            found = self._vouched(each, moment)
            if found is None:
                others.append(each)
            else:
                ready.append((each, found))
        if not self._sender.is_prepared or self._mirror.halted:
            suspect()
            suspect = nothing
        if ready:
            fees = await self._fees(moment)
            if isinstance(fees, Refuse):
                others = list(planned)
            else:
                await self._send(ready, fees, moment, first=suspect)
                suspect = nothing
        await self.act(others, moment, suspect=suspect)

    async def act(
        self,
        planned: Sequence[Planned],
        moment: Moment,
        before: Sequence[Announced] = (),
        *,
        suspect: Callable[[], None] = nothing,
    ) -> None:
        """Simulate steps together, and send those picked; behind what is announced they bid less.

        Why they are planned for ``suspect`` journals: with the permits, or while the node takes its time.
        """
        if not planned:
            suspect()
            return
        fees = below(await self._fees(moment), before, moment.head.base_fee_wei)
        if isinstance(fees, Refuse):
            suspect()
            for each in planned:
                self._cases.refused(each.account, fees, moment.head)
            return
        others = self._refused_last(planned, moment.head)
        sole = [each for each in others if len(each.steps) == 1 and not before]
        chosen = [each for each in others if len(each.steps) != 1 or before]
        trying = asyncio.create_task(self._try_planned(sole, chosen, moment.at, before))
        try:
            await asyncio.wait([trying], timeout=SOON_S)
            if not trying.done():
                suspect()
                suspect = nothing
                for first in sole[:1]:
                    call = self._mirror.market.encode(first.steps[0].act)
                    for _ in self._foresee(first.steps[0], call, moment.head):
                        pass
            tried, stack = await trying
        finally:
            trying.cancel()
        found = [(each, tried[each.account]) for each in others]
        await self._send(found, fees, moment, stack, first=suspect, in_public=bool(before))
        await self._send_left(stack.left, fees, moment)

    async def _try_planned(
        self,
        sole: Sequence[Planned],
        chosen: Sequence[Planned],
        at: ChainTime,
        before: Sequence[Announced],
    ) -> tuple[Mapping[AccountKey, Sequence[Tried]], Stack]:
        """Run the only steps of their accounts in their order, and beside them all others by themselves."""
        if chosen:
            (in_order, stack), each_alone = await asyncio.gather(
                self._try_in_order(sole, at),
                asyncio.gather(
                    *(self._try_all(each.steps, at, self._simulations, before) for each in chosen)
                ),
            )
        else:
            (in_order, stack), each_alone = await self._try_in_order(sole, at), []
        tried = {each.account: [found] for each, found in zip(sole, in_order, strict=True)}
        return tried | {each.account: found for each, found in zip(chosen, each_alone, strict=True)}, stack

    async def _fees(self, moment: Moment) -> Fees | Refuse:
        """Return what may be bid, or why nothing is sent."""
        if self._mirror.halted:
            return self._mirror.halted
        await self._sender.prepare()
        return self._sender.fees(moment.head)

    def _refused_last(self, planned: Sequence[Planned], head: Head) -> list[Planned]:
        """Put those last who were refused at the last head: they will likely be again.

        Who found no place in the wallet's line stands where he did: or those who come later would be before
        him, head after head.
        """
        passed = {key: why for key, why in self._passed_over.items() if why[0] >= head.number - 1}
        self._passed_over = passed
        last = {key for key, (_, rule) in passed.items() if rule != NO_PLACE}
        return sorted(planned, key=lambda each: each.account in last)

    async def _send_left(self, left: Sequence[Planned], fees: Fees, moment: Moment) -> None:
        """Try anew what counted on a step that was not sent, and send it; what is left then waits."""
        for _ in range(RUNS - 1):
            if not left:
                return
            in_order, stack = await self._try_in_order(left, moment.at)
            tried = [(each, [found]) for each, found in zip(left, in_order, strict=True)]
            await self._send(tried, fees, moment, stack)
            left = stack.left
        reason = Reason("simulation.order", f"behind {RUNS} steps that were not sent", "tried without them")
        for each in left:
            self._cases.refused(each.account, Wait(moment.at.block, reason), moment.head)

    async def _try_in_order(self, planned: Sequence[Planned], at: ChainTime) -> tuple[list[Tried], Stack]:
        """Run the only steps of their accounts on top of one another, in the order of their nonces.

        One that goes through only without those before it would be paid for, and revert. Where no node can do
        that, each runs by itself, as sizes and routes of one act do: of these only one is sent.
        """
        market, steps = self._mirror.market, [each.steps[0] for each in planned]
        calls, results = [], None
        if len(steps) > 1:
            calls = [(market.encode(step.act), step.gas_limit) for step in steps]
            async with self._simulations:
                with suppress(ChainFault):
                    results = await self._reader.simulate_in_order(self._sender.address, calls, at)
        if results is None:
            return await self._try_all(steps, at, self._simulations), Stack()
        tried = [
            Tried(step, call, market.explain(result) if isinstance(result, Refuse) else result)
            for step, (call, _), result in zip(steps, calls, results, strict=True)
        ]
        return tried, Stack(frozenset(each.account for each in planned))

    async def _try_all(
        self,
        steps: Sequence[Step],
        at: ChainTime,
        line: asyncio.Semaphore,
        before: Sequence[Announced] = (),
    ) -> list[Tried]:
        if len(steps) == 1:
            # Without a task, which begins a turn later.
            return [await self._try(steps[0], at, line, before)]
        return await asyncio.gather(*(self._try(step, at, line, before) for step in steps))

    async def _try(
        self, step: Step, at: ChainTime, line: asyncio.Semaphore, before: Sequence[Announced]
    ) -> Tried:
        """Run one step as if in its block. A fault of the node holds up that step only."""
        call = self._mirror.market.encode(step.act)
        async with line:
            try:
                if self._mempool is not None and before:
                    result = await self._mempool.behind(
                        before, call, at, self._sender.address, step.gas_limit
                    )
                else:
                    result = await self._reader.simulate(self._sender.address, call, at, step.gas_limit)
            except ChainFault as fault:
                unknown = Wait(at.block, Reason("simulation.unknown", str(fault), "an answer"))
                return Tried(step, call, unknown)
        return Tried(
            step, call, self._mirror.market.explain(result) if isinstance(result, Refuse) else result
        )

    async def _send(
        self,
        planned: Sequence[tuple[Planned, Sequence[Tried]]],
        fees: Fees,
        moment: Moment,
        stack: Stack | None = None,
        *,
        first: Callable[[], None] = nothing,
        in_public: bool = False,
    ) -> None:
        """Reserve what is picked, a batch in one commit, and send it; leave what ``stack`` holds back.

        What follows an announced transaction is sent where that one is: a relay that does not know it would
        see ours revert. ``first`` is journaled before all else.
        """
        stack = stack or Stack()
        for some in batches(planned, max(BATCH, self._batch)):
            permits, sealed = self._permit(some, fees, moment.head, stack, first)
            first = nothing
            if permits:
                answers = await self._sender.send(
                    permits, sealed=sealed, tick_ns=moment.heard_ns, in_public=in_public
                )
                refused = any(isinstance(answer, Refuse) for answer in answers)
                stack.is_broken |= refused and not self._dry_run
            await asyncio.sleep(0)

    def _permit(
        self,
        planned: Sequence[tuple[Planned, Sequence[Tried]]],
        fees: Fees,
        head: Head,
        stack: Stack,
        first: Callable[[], None],
    ) -> tuple[list[Permit], Sequence[Sealed]]:
        """Reserve what is picked, and sign it where the key is here, in one commit.

        That one waits for the disk, unless nothing will be signed in it: those who were refused a permit at
        this head will likely be again.
        """
        hopeful = any(self._passed_over.get(each.account, (None,))[0] != head.number for each, _ in planned)
        seals = hopeful and self._sender.seals
        with self._journal.together(lasting=seals):
            first()
            permits = self._reserve_all(planned, fees, head, stack)
            return permits, self._sender.seal(permits) if seals else ()

    def _reserve_all(
        self, planned: Sequence[tuple[Planned, Sequence[Tried]]], fees: Fees, head: Head, stack: Stack
    ) -> list[Permit]:
        """Reserve what was picked of the steps tried, inside an open transaction.

        Returns the first permit of each transaction: acts that it takes along are permitted by themselves.
        """
        permits: dict[int, Permit] = {}
        open_ = Batches(self._mirror.market, self._batch)
        for each, found in planned:
            if stack.holds_back(each):
                continue
            picked = self._desk.pick(each.judged.left, found)
            granted: Permit | None = None
            if not isinstance(picked.result, bytes):
                self._cases.refused(each.account, picked.result, head)
            elif self._is_rehearsed(each, picked.step):
                continue
            else:
                granted = self._reserve(each, picked, fees, head, open_)
            if granted is not None:
                permits.setdefault(granted.nonce, granted)
            elif any(isinstance(tried.result, bytes) for tried in found):
                stack.is_broken |= each.account in stack.accounts and not self._is_line_full(each, head)
        return list(permits.values())

    def _is_line_full(self, each: Planned, head: Head) -> bool:
        """Tell whether one found no place, and so nobody behind will: unless in another's transaction."""
        return self._batch == 1 and self._passed_over.get(each.account) == (head.number, NO_PLACE)

    def _reserve(self, each: Planned, picked: Tried, fees: Fees, head: Head, open_: Batches) -> Permit | None:
        """Ask for the permit of one step, with the agreement that it rests on."""
        bid = self._sender.bid(picked.step, head)
        if isinstance(bid, Refuse):
            self._cases.refused(each.account, bid, head)
            return None
        bid = bid.within(fees)
        # What reverted whole would take a batch along again.
        goes_alone = self._batch > 1 and self._journal.failed_whole(each.account)
        terms = None if goes_alone else (bid, picked.step.valid_until_block)
        batch = open_.place(picked.step, picked.call, terms)
        granted = self._journal.reserve(
            picked.step,
            self._sender.transaction(batch.call, batch.gas_limit, bid),
            agreed=each.judged.agreed,
            markets=each.judged.markets,
            balance_wei=self._sender.balance_wei,
            chain_nonce=self._sender.chain_nonce,
            block=head.number,
            at_s=head.timestamp_s,
            data_fee_wei=self._sender.data_fee_wei,
            joins=batch.permit,
        )
        if isinstance(granted, Refuse):
            self._passed_over[each.account] = head.number, granted.reason.rule
            self._cases.refused(each.account, granted, head)
            return None
        open_.note(batch, granted, terms)
        if self._dry_run:
            self._rehearsed[each.account] = _state(each, picked.step)
        self._cases.reserved(each.account, each.judged.agreed, head)
        return granted

    def _is_rehearsed(self, each: Planned, step: Step) -> bool:
        """In a dry run, where the sender withholds all, an act is said once a case and state."""
        return self._dry_run and self._rehearsed.get(each.account) == _state(each, step)

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
            call = tried.call if step.act == tried.step.act else self._mirror.market.encode(step.act)
            found.append(Tried(step, call, result))
        return found


def below(fees: Fees | Refuse, before: Sequence[Announced], base_fee_wei: Wei | None) -> Fees | Refuse:
    """Bid less than what is to come before, as it will be ordered at a base fee."""
    if isinstance(fees, Refuse) or not before:
        return fees
    most_wei = max(0, min(each.fees.tip_wei(base_fee_wei) for each in before) - 1)
    tip_wei = min(fees.priority_fee_wei, most_wei)
    # Where there is one gas price, that is what blocks are ordered by.
    return Fees(tip_wei if fees.is_flat else fees.max_fee_wei, tip_wei, fees.is_flat)


def _state(each: Planned, step: Step) -> str:
    return f"{step.case_id}:{step.kind}:{each.judged.state}"


def held_back(decision: Decided, posture: Posture) -> Decided:
    """Return what may be done of a decision as the keeper stands: halted, it takes nothing of anybody."""
    if not isinstance(decision, tuple) or posture.level is not Level.HALTED:
        return decision
    others = tuple(step for step in decision if not step.act.closes)
    return others or Refuse(Reason("book.halted", f"{decision[0].kind} is due", "a level below halted"))
