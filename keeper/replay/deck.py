"""The deck: plays a tape to a pipeline, record by record, so that all comes in the order in which it came.

Whoever asks waits until the tape has its answer; ticks, alarms and heads begin where they began. Between two
records everybody runs until nobody can go on without the next one, so that what ran beside each other then
does so again, step by step. Whoever asks what the tape does not have is told so at once: beyond the tape.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext, suppress
from typing import Any, TypeAlias

from keeper.domain import Announced, Bundle, Call, ChainTime, FeedView, Quote, Refuse, Unknown
from keeper.errors import ChainFault, SignerFault
from keeper.execute.signer import Signed
from keeper.journal import rows
from keeper.journal.guard import Standing
from keeper.journal.tape import (
    RPC,
    SIGN,
    Record,
    at_block,
    behind_key,
    call_id,
    calls_key,
    key_of,
    rerun_key,
    simulation_key,
    stacked_key,
    to_announced,
    to_head,
    to_quote,
    to_range,
    to_report,
    to_simulated,
    to_stacked,
    to_standing,
    to_update,
)
from keeper.pipeline import Pipeline
from keeper.ports import BlockUpdate, Drawn, Feed, Mempool, Range, Reports
from keeper.units import Block, FeedId, UnixS

Build: TypeAlias = Callable[["Deck"], Awaitable[Pipeline[Any]]]
BEGINS = frozenset({"discover", "head", "news", "tick", "settle", "alarm", "prepare", "announced"})
COUNT, BALANCE = WALLET = "eth_getTransactionCount", "eth_getBalance"
PLENTY = hex(2**128)
"""The balance of a wallet at which a tape of before never looked."""
QUIET = 6
"""Turns of the loop in which no task takes a step, after which none can: what wakes one takes fewer."""
THREAD_S = 30.0
"""How long work in a thread may take."""


class BeyondTape(ChainFault):
    """Something was asked that the tape does not have."""


class Deck:
    """Plays one run. Implements ``ports.Tape`` for the pipeline that it plays to."""

    def __init__(self, tape: Iterable[Sequence[Record]], signed: Mapping[str, tuple[bytes, str]]) -> None:
        self._tape = tape
        self._signed = signed
        self.beyond: list[str] = []
        """What was asked and is not on the tape, in order."""
        self.unasked = 0
        """Answers on the tape for which nobody asked."""
        self.heads = 0
        self._segment: list[Record] = []
        self._at = 0
        self._starts: list[int] = []
        self._ahead = Counter[str]()
        self._stock: dict[str, deque[Record]] = defaultdict(deque)
        self._pending: dict[str, deque[asyncio.Future[Record]]] = defaultdict(deque)
        self._calls: dict[tuple[str, str], Any] = {}
        self._wallet: dict[str, Any] = {BALANCE: PLENTY}
        """How many transactions of the wallet the chain had when a sender last asked, and what it held."""
        self._pulled: dict[str, deque[tuple[int, Record]]] = {}
        self._quotes: dict[FeedId, Quote | Unknown] = {}
        self._bundles: Mapping[FeedId, Bundle] = {}
        self._standing: Standing | None = None
        self._steps = 0
        self._main: asyncio.Task[Any] | None = None
        self._side: asyncio.Task[Any] | None = None
        self._is_parked = False
        """Whether that waits for what never came."""

    # --- the run ---

    async def play(
        self, build: Build, until: Callable[[BlockUpdate], bool] = lambda _: False
    ) -> Pipeline[Any] | None:
        """Play to the pipeline that ``build`` makes; return it, or None where no head was done.

        Ends before the first head of which ``until`` says so.
        """
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._task)
        pipeline: Pipeline[Any] | None = None
        try:
            for segment in _segments(self._tape):
                self._load(segment)
                if pipeline is None:
                    self._main = asyncio.create_task(_awaited(build(self)))
                for self._at, record in enumerate(segment):
                    if pipeline is None and record[0] in BEGINS:
                        await self._finish()
                        assert self._main is not None
                        pipeline = self._main.result()
                    if record[0] == "head" and until(to_update(record[1])):
                        await self._finish()
                        return pipeline
                    await self._turn(record, pipeline)
            self._at = len(self._segment)
            await self._finish()
            return pipeline if self.heads else None
        finally:
            await self._end(self._side)
            await self._end(self._main)
            loop.set_task_factory(None)

    async def _turn(self, record: Record, pipeline: Pipeline[Any] | None) -> None:
        """Let what the tape says next happen."""
        kind = record[0]
        if kind == "c":
            await self._deliver(calls_key(record[1], record[2]), record)
        elif kind in {"a", "!"}:
            await self._deliver(record[1], record)
        elif kind == "mark":
            await self._deliver(f"mark:{record[1]}", record)
        elif kind == "x":
            await self._give_up(record[1])
        elif kind in BEGINS:
            assert pipeline is not None
            await self._begin(record, pipeline)

    async def _begin(self, record: Record, pipeline: Pipeline[Any]) -> None:
        kind = record[0]
        if kind == "news":
            await self._settle()
            pipeline.on_news(0)
        elif kind == "tick":
            await self._settle()
            pipeline.on_tick(0)
        elif kind == "settle":
            await self._settle()
            pipeline.on_drift()
        elif kind == "prepare":
            await self._settle()
            self._is_parked = False
            self._side = asyncio.create_task(_unless_faulty(pipeline.prepare()))
        else:
            await self._finish()
            if kind == "head":
                self.heads += 1
                await self._end(self._side)
                begun: Coroutine[Any, Any, Any] = pipeline.on_update(to_update(record[1]))
            elif kind == "alarm":
                begun = pipeline.on_alarm()
            elif kind == "announced":
                begun = pipeline.on_announced(to_announced(record[1]))
            else:
                begun = pipeline.discover(record[1], to_head(record[2]))
            self._main = asyncio.create_task(_unless_faulty(begun))
        await self._settle()

    def _load(self, segment: list[Record]) -> None:
        """Take up what came with a head, up to the next one."""
        self._segment = segment
        self._starts = [at for at, record in enumerate(segment) if record[0] in BEGINS]
        self._ahead = Counter(filter(None, map(_key, segment)))
        self._stock.clear()
        self._calls = {
            (record[1], name): answer
            for record in segment
            if record[0] == "c"
            for name, answer in zip(record[2], record[3], strict=True)
        }
        self._pulled = {
            kind: deque((at, record) for at, record in enumerate(segment) if record[0] == kind)
            for kind in ("q", "b", "chance", "door", "doubt", "known")
        }

    async def _deliver(self, key: str, record: Record) -> None:
        """Hand an answer to whoever has asked for it; keep it where nobody has yet."""
        await self._settle()
        if key.startswith("mark:") and not self._pending[key]:
            await self._wait_for_thread(key)
        self._ahead[key] -= 1
        if record[0] == "c" and record[1] == RPC:
            named = [
                (name.partition(":")[0], answer) for name, answer in zip(record[2], record[3], strict=True)
            ]
            self._wallet |= {name: answer for name, answer in reversed(named) if name in WALLET}
        if waiting := self._pending[key]:
            waiting.popleft().set_result(record)
            await self._settle()
        else:
            self.unasked += not key.startswith("mark:")
            self._stock[key].append(record)

    async def _wait_for_thread(self, key: str) -> None:
        """Wait for somebody whose work in a thread comes before the next record."""
        deadline = asyncio.get_running_loop().time() + THREAD_S
        while not self._pending[key] and self._works_on():
            at_another = any(line for name, line in self._pending.items() if name.startswith("mark:"))
            if at_another or asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(0.0005)
            await self._settle()

    def _works_on(self) -> bool:
        """Tell whether somebody may still be in a thread: not who waits for the tape."""
        if self._side is not None and not self._side.done() and not self._is_parked:
            return True
        return self._main is not None and not self._main.done() and not any(self._pending.values())

    async def _give_up(self, key: str) -> None:
        """Take the question back: with whoever prepares, or as too late."""
        await self._settle()
        self._ahead[key] -= 1
        if self._main is not None and not self._main.done():
            if waiting := self._pending[key]:
                waiting.popleft().set_exception(TimeoutError())
        else:
            await self._end(self._side)
        await self._settle()

    async def _finish(self) -> None:
        """Let the work on a head or an alarm come to its end; what it still asks is beyond the tape."""
        while self._main is not None:
            await self._settle()
            if self._main.done():
                self._main.result()
                return
            asked = [(key, future) for key, line in self._pending.items() for future in line]
            self._pending.clear()
            for key, future in asked:
                self.beyond.append(key)
                future.set_exception(BeyondTape(f"beyond the tape: {key}"))
            if not asked:
                await asyncio.wait({self._main}, timeout=0.01)

    async def _end(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, TimeoutError):
                await task

    async def _settle(self) -> None:
        """Let everybody run until nobody can go on."""
        quiet = 0
        while quiet < QUIET:
            before = self._steps
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._steps == before else 0

    def _task(
        self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any
    ) -> asyncio.Future[Any]:  # what a task factory is given differs by version
        return asyncio.Task(_Counted(work, self), loop=loop, **options)

    def count(self) -> None:
        """Note that a task takes a step."""
        self._steps += 1

    # --- what is asked ---

    async def ask(self, key: str) -> Record:
        """Return what the tape has in answer, when its turn comes; raise what it has as a fault."""
        record = await self._record(key)
        if record[0] == "!":
            raise ChainFault(record[2])
        return record

    async def _record(self, key: str) -> Record:
        if self._stock[key]:
            return self._stock[key].popleft()
        if self._ahead[key] <= len(self._pending[key]):
            self.beyond.append(key)
            raise BeyondTape(f"beyond the tape: {key}")
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._pending[key].append(future)
        try:
            return await future
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._pending[key].remove(future)
            raise

    async def ask_all(self, of: str, ids: Sequence[str]) -> list[Any]:
        """Return the answers of several calls: as they were asked together, or else one by one."""
        key = calls_key(of, ids)
        if not (self._stock[key] or self._ahead[key] > len(self._pending[key])):
            known = [self._calls.get((of, name)) for name in ids]
            if None not in known:
                return known
            if of == RPC and COUNT in self._wallet:
                # Of a transaction that was never sent there is no receipt, and none of its nonces is used.
                self.beyond.append(key)
                return [self._calls.get((of, name), self._wallet.get(name.partition(":")[0])) for name in ids]
        return list((await self.ask(key))[3])

    def _pull(self, kind: str) -> Iterator[Record]:
        """Yield what was noted of a kind up to now, and the next one if it belongs to what goes on now."""
        line = self._pulled.get(kind, deque())
        place = bisect_right(self._starts, self._at)
        end = self._starts[place] if place < len(self._starts) else len(self._segment)
        while line and line[0][0] < self._at:
            yield line.popleft()[1]
        if line and line[0][0] < end:
            yield line.popleft()[1]

    def leads(self) -> bool:
        """Tell whether the keeper led at the head that is played now, or stood by."""
        return all(record[0] != "stood" for record in self._segment)

    # --- ports.Tape ---

    def note(self, what: str, *values: Any) -> None:
        """Keep nothing."""

    async def mark(self, what: str) -> None:
        """Wait until the tape goes on; who then never came so far waits to be given up, as then."""
        key = f"mark:{what}"
        is_there = self._stock[key] or self._ahead[key] > len(self._pending[key])
        if not is_there and asyncio.current_task() is self._side:
            self._is_parked = True
            await asyncio.get_running_loop().create_future()
        await self.ask(key)

    def chance(self, drawn: Drawn) -> Drawn:
        """Return what was drawn then."""
        for record in self._pull("chance"):
            drawn = record[1]
        return drawn

    def said(self, what: str, said: Drawn) -> Drawn:
        """Return what the journal said then; a tape of before has not asked it."""
        for record in self._pull(what):
            said = record[1]
        return said

    async def pack(self) -> None:
        """Have nothing to pack."""

    def aside(self) -> AbstractContextManager[None]:
        """Leave nothing out of nothing."""
        return nullcontext()

    # --- what is not asked of a port ---

    def standing(self, found: Standing) -> Standing:
        """Return what a grant went by then; where none was asked for then, what the one before it did."""
        for _, *row in self._pull("door"):
            self._standing = to_standing(row)
        return self._standing or found

    # --- the other ports ---

    def feed(self, *, live: bool) -> Feed:
        """Return the source of prices."""
        return _PlayedLiveFeed(self) if live else _PlayedFeed(self)

    @property
    def reader(self) -> Any:
        """Return the reader."""
        return _PlayedReader(self)

    @property
    def mempool(self) -> Mempool:
        """Return whoever hears what is announced."""
        return _PlayedMempool(self)

    @property
    def rpc(self) -> Any:
        """Return what a sender asks the nodes by."""
        return _PlayedRpc(self)

    @property
    def reports(self) -> Reports:
        """Return whoever hears reporters."""
        return _PlayedReports(self)

    def quotes(self) -> Mapping[FeedId, Quote | Unknown]:
        """Return the quotes of now."""
        for _, changed in self._pull("q"):
            for feed, row in changed.items():
                if row is None:
                    self._quotes.pop(feed, None)
                else:
                    self._quotes[feed] = to_quote(feed, row)
        return dict(self._quotes)

    def bundles(self) -> Mapping[FeedId, Bundle]:
        """Return the bundles of now."""
        for _, said in self._pull("b"):
            if said is not None:
                self._bundles = {feed: tuple(map(to_report, each)) for feed, each in said.items()}
        return self._bundles

    async def sign(self, unsigned: Mapping[str, Any]) -> Signed:
        """Return what was signed then; of another transaction, what nobody can send.

        Raises SignerFault where the tape says that it was not signed yet.
        """
        text = rows.dumps(unsigned)
        key = key_of(SIGN, text)
        if self._stock[key] or self._ahead[key] > len(self._pending[key]):
            try:
                await self.ask(key)
            except ChainFault as fault:
                raise SignerFault(str(fault)) from None
        return self.signed_then(unsigned)

    def signed_then(self, unsigned: Mapping[str, Any]) -> Signed:
        """Return the same where nobody was waited for."""
        text = rows.dumps(unsigned)
        if text in self._signed:
            return Signed(*self._signed[text])
        return Signed(text.encode(), key_of("unsigned", text))


class _PlayedReader:
    """Implements ``ports.Reader`` for whoever asks; updates come from the deck itself."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck
        self.lent: dict[str, str] = {}

    async def lend(self, address: str, creation: bytes) -> None:
        """Need no code: answers are there."""

    def watch(self, addresses: Sequence[str]) -> None:
        """Need not be told: logs come as they came."""

    async def search(self, first: Block, last: Block) -> AsyncIterator[Range]:
        while (found := (await self._deck.ask(key_of("search", first, last)))[2]) is not None:
            yield to_range(found)

    async def hash_at(self, number: Block) -> str | None:
        found: str | None = (await self._deck.ask(key_of("hash_at", number)))[2]
        return found

    async def call(self, call: Call, at_hash: str) -> bytes:
        return (await self.call_many([call], at_hash))[0]

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        found = await self._deck.ask_all(at_block(at_hash), [call_id(call) for call in calls])
        return list(map(bytes.fromhex, found))

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        return to_simulated((await self._deck.ask(simulation_key(sender, call, at, gas_limit)))[2])

    async def simulate_in_order(
        self, sender: str, calls: Sequence[tuple[Call, int]], at: ChainTime
    ) -> list[bytes | Refuse] | None:
        return to_stacked((await self._deck.ask(stacked_key(sender, calls, at)))[2])

    async def rerun(self, sender: str, call: Call, at_hash: str, gas_limit: int) -> bytes | Refuse:
        return to_simulated((await self._deck.ask(rerun_key(sender, call, at_hash, gas_limit)))[2])


class _PlayedMempool:
    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def announced(self) -> AsyncGenerator[Announced, None]:
        raise NotImplementedError("a deck plays what is announced itself")

    async def behind(
        self, before: Sequence[Announced], call: Call, at: ChainTime, sender: str, gas_limit: int
    ) -> bytes | Refuse:
        return to_simulated((await self._deck.ask(behind_key(before, call, at, sender, gas_limit)))[2])


class _PlayedRpc:
    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    async def request(self, method: str, params: list[Any]) -> Any:
        found = (await self._deck.ask(key_of(method, params)))[2]
        return bytes.fromhex(found) if method == "eth_call" else found

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        return await self._deck.ask_all(RPC, [key_of(method, params) for method, params in calls])


class _PlayedFeed:
    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        del now_s
        return self._deck.quotes()


class _PlayedLiveFeed(_PlayedFeed):
    def listening(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def tick(self) -> int:
        raise NotImplementedError("a deck plays ticks itself")


class _PlayedReports:
    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def bundles(self, oracles: Mapping[FeedId, FeedView], at: ChainTime) -> Mapping[FeedId, Bundle]:
        del oracles, at
        return self._deck.bundles()


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are counted."""

    def __init__(self, work: Any, deck: Deck) -> None:
        self._work = work
        self._deck = deck

    def send(self, value: Any) -> Any:
        self._deck.count()
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        self._deck.count()
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError("a task is what runs it")


def _key(record: Record) -> str | None:
    """Name what a record answers."""
    if record[0] == "c":
        return calls_key(record[1], record[2])
    if record[0] == "mark":
        return f"mark:{record[1]}"
    return str(record[1]) if record[0] in {"a", "!", "x"} else None


def _segments(tape: Iterable[Sequence[Record]]) -> Iterator[list[Record]]:
    """Cut a tape where heads begin."""
    segment: list[Record] = []
    has_head = False
    for records in tape:
        for record in records:
            if record[0] == "head":
                if has_head:
                    yield segment
                    segment = []
                has_head = True
            segment.append(record)
    if segment:
        yield segment


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def _unless_faulty(work: Coroutine[Any, Any, Any]) -> None:
    """Do what the loop does with faults of the node: nothing until the next head."""
    with suppress(ChainFault):
        await work
