"""Several nodes of one chain behind the interface of one: who is asked, how often, and who is believed.

A read goes to the healthiest endpoint, at once to the next where that one fails, and to a second one
beside it where the answer is slower than its past explains; the first believable answer wins. An endpoint
that does not have a block is behind, not faulty. Whatever else is wrong sets an endpoint aside, for a
pause that doubles; a survey of all endpoints, each block time, puts it back. An endpoint that is aside is
the last resort: a pool of one is never without a node. Two things are absolute: a provider's own request for
patience, and what a survey found to serve another chain or fork. That one is barred until a survey clears it,
for a wrong answer is worse than none. Who comes back after a failure may be another node by then: it is asked
first which chain it serves.

A write goes once to one endpoint. Whoever sent it knows what a second time means: of signed bytes nothing, so
that they may be offered on a socket first, or go to all.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import orjson
import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from keeper.answers import outweighing
from keeper.chain import handing
from keeper.chain.handing import Handing
from keeper.chain.health import Health, Standing
from keeper.chain.rpc import READS, Calls, Rpc, RpcError, Throttled, Unreachable
from keeper.errors import ChainFault, ConfigError, InvariantBroken
from keeper.units import Block

log = structlog.get_logger()

ABSENT = re.compile(
    r"(header|block|state|trie node)\b.*\b(not found|not available|unavailable|pruned|out of range)"
    r"|unknown block|missing trie node|could not be found|resource not found|BlockOutOfRange",
    re.IGNORECASE,
)
"""How nodes say that they do not have a block, or its state: geth, reth, Nethermind, Besu, Erigon, Anvil."""
ELSEWHERE = frozenset({-32601, -32603, -32004})
"""Not implemented, internal error, not supported: another node may well answer."""
INTERNAL = -32603
HUSH_S = 1.0
"""How long a provider that asks for patience is left alone, where it does not say how long."""
SERVED = 512
"""Of so many answers with logs it is remembered who gave them."""


@dataclass(frozen=True, slots=True)
class Params:
    """How patient a pool is."""

    timeout_s: float = 10.0
    rounds: int = 3
    """How often a read is tried with all endpoints."""
    patience_s: float = 5.0
    """A read waits so long for a provider that asks for patience; beyond it the fault is raised."""
    requests_s: float | None = None
    """Budget of each endpoint; a batch counts as many as it holds."""
    hedge_s: float = 0.25
    """The least time after which a second endpoint is asked beside the first."""
    broadcast: bool = False
    """Hand a signed transaction to every endpoint; the bytes are the same, so a second time means nothing."""
    lag_blocks: Block = 3
    """An endpoint further behind the best is set aside."""
    settled_blocks: Block = 16
    """Endpoints that differ about a block so deep are on different forks."""
    survey_s: float = 12.0
    shortest_pause_s: float = 0.5
    longest_pause_s: float = 120.0


class Absent(ChainFault):
    """The endpoint does not have the block; what it said is kept, in case none has."""

    def __init__(self, said: RpcError | list[Any]) -> None:
        self.said = said
        super().__init__("the endpoint does not have the block")


@dataclass(eq=False, slots=True)
class Node:
    """One endpoint: its client, its standing, and what the last survey found there."""

    name: str
    rpc: Rpc
    standing: Standing
    chain_id: int | None = None
    settled: tuple[Block, str] | None = None
    """The hash it gives for the block that all are asked about."""
    outvoted: bool = False
    """Its fork lost a vote, and it has not been cleared since."""


class Pool:
    """A JSON-RPC client of several nodes; ``async with`` keeps surveying them where there are more than one.

    Raises RpcError for a refusal, and Unreachable where no endpoint gave an answer that can be believed.
    """

    def __init__(
        self, urls: Sequence[str], params: Params | None = None, *, handing: Handing | None = None
    ) -> None:
        self._params = params or Params()
        self._handing = handing
        """Where a signed transaction is offered before all endpoints."""
        self._nodes: list[Node] = []
        self._chain_id: int | None = None
        self._demands: list[tuple[str, list[Any], Any]] = []
        """Requests, each with the answer that an endpoint must give to be believed after a failure."""
        self._served: OrderedDict[bytes, Node] = OrderedDict()
        self._background: set[asyncio.Task[Any]] = set()
        self._defect: BaseException | None = None
        seen: Counter[str] = Counter()
        for url in urls:
            rpc = Rpc(url, timeout_s=self._params.timeout_s, requests_s=self._params.requests_s)
            seen[rpc.endpoint] += 1
            nth = seen[rpc.endpoint]
            standing = Standing(
                shortest_pause_s=self._params.shortest_pause_s, longest_pause_s=self._params.longest_pause_s
            )
            # Two keys of one provider look the same without their secrets.
            self._nodes.append(Node(rpc.endpoint if nth == 1 else f"{rpc.endpoint} #{nth}", rpc, standing))
        if not self._nodes:
            raise ConfigError("expected at least one RPC endpoint, found none")

    async def __aenter__(self) -> Self:
        if self._handing is not None:
            self._spawn(self._handing.keep_open())
        if len(self._nodes) > 1:
            self._spawn(self._survey_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the surveys and close the connections; a later request opens new ones."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for node in self._nodes:
            await node.rpc.close()

    @property
    def endpoint(self) -> str:
        """The endpoints' names, without secrets."""
        return ", ".join(node.name for node in self._nodes)

    def health(self) -> list[Health]:
        """Return how each endpoint does, in the order of the configuration."""
        now_s, best = time.monotonic(), self._best()
        return [self._health_of(node, now_s, best) for node in self._nodes]

    async def request(self, method: str, params: list[Any]) -> Any:
        """Send one request and return its result."""
        [result] = await self._exchange([(method, params)])
        return result

    async def batch(self, calls: Calls) -> list[Any]:
        """Send several requests as one and return their results in order, all from one endpoint.

        The first refusal is raised.
        """
        return await self._exchange(calls) if calls else []

    async def expect(self, chain_id: int) -> None:
        """Raise ConfigError where an endpoint serves another chain, and ChainFault where all are silent."""
        self._chain_id = chain_id
        answers = await self.each([("eth_chainId", [])])
        for name, answer in answers:
            if isinstance(answer, list) and (found := int(answer[0], 16)) != chain_id:
                raise ConfigError(f"chain {chain_id} is configured, but {name} serves {found}")
        faults = [answer for _, answer in answers if isinstance(answer, ChainFault)]
        if len(faults) == len(answers):
            raise faults[0]
        self.demand("eth_chainId", [], hex(chain_id))

    async def each(self, calls: Calls) -> list[tuple[str, list[Any] | ChainFault]]:
        """Ask every endpoint by itself; return the name of each with what it answered, or why it did not."""
        answers: list[list[Any] | BaseException] = await asyncio.gather(
            *(self._persistently(partial(self._ask, node, calls)) for node in self._nodes),
            return_exceptions=True,
        )
        told: list[tuple[str, list[Any] | ChainFault]] = []
        for node, answer in zip(self._nodes, answers, strict=True):
            if not isinstance(answer, list | ChainFault):
                raise answer
            told.append((node.name, answer))
        return told

    def demand(self, method: str, params: list[Any], wanted: Any) -> None:
        """Believe an endpoint that has failed, or was silent so far, only once it answers this so."""
        self._demands.append((method, params, wanted))

    def accuse(self, asked: Mapping[str, Any], why: str) -> None:
        """Set aside whoever answered ``eth_getLogs`` of a filter last, for its answer was incomplete."""
        if node := self._served.pop(_key(asked), None):
            self._set_aside(node, why)

    # --- one exchange ---

    async def _exchange(self, calls: Calls) -> list[Any]:
        if self._defect is not None:
            raise InvariantBroken("the endpoints are no longer surveyed") from self._defect
        if not all(method in READS for method, _ in calls):
            return await self._write(calls)
        return await self._persistently(partial(self._read, calls))

    async def _persistently(self, ask: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        """Ask until there is an answer; raise Unreachable where rounds or patience are used up.

        What is answered at once has nothing to do with how it would be asked again.
        """
        try:
            return await ask()
        except Unreachable as fault:
            first = iter([fault])

        async def again() -> list[Any]:
            for fault in first:
                raise fault
            return await ask()

        rounds = AsyncRetrying(
            retry=retry_if_exception_type(Unreachable), stop=self._ends, wait=_pause_s, reraise=True
        )
        return await rounds(again)

    def _ends(self, state: RetryCallState) -> bool:
        return stop_after_attempt(self._params.rounds)(state) or _pause_s(state) > self._params.patience_s

    async def _read(self, calls: Calls) -> list[Any]:
        """Ask one endpoint after the other, the next one beside the first where that is slow."""
        waiting = deque(self._in_order(calls))
        if len(waiting) == 1:
            return await self._read_only(waiting[0], calls)
        running: dict[asyncio.Task[list[Any]], Node] = {}
        faults: list[ChainFault] = []
        hedged, hedge_at_s = False, 0.0
        try:
            while True:
                if not running and waiting:
                    node = waiting.popleft()
                    running[asyncio.create_task(self._ask(node, calls))] = node
                    hedge_at_s = time.monotonic() + max(self._params.hedge_s, node.standing.slow_after_s)
                elif not running:
                    return _verdict(faults)
                may_hedge = bool(waiting) and not hedged and waiting[0].rpc.budget.has_room(len(calls))
                patience_s = max(0.0, hedge_at_s - time.monotonic()) if may_hedge else None
                await asyncio.wait(running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                done = [task for task in running if task.done()]
                if not done and waiting:
                    hedged, node = True, waiting.popleft()
                    running[asyncio.create_task(self._ask(node, calls))] = node
                for task in done:
                    del running[task]
                    try:
                        return await task
                    except ChainFault as fault:
                        if not _ask_elsewhere(fault):
                            raise
                        faults.append(fault)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _read_only(self, node: Node, calls: Calls) -> list[Any]:
        """Ask the only endpoint there is, without the task that hedging needs, which begins a turn later."""
        try:
            return await self._ask(node, calls)
        except Absent as fault:
            return _verdict([fault])

    async def _write(self, calls: Calls) -> list[Any]:
        if [method for method, _ in calls] != [handing.METHOD]:
            return await self._ask(self._in_order(calls)[0], calls)
        if self._params.broadcast:
            return await self._broadcast(calls)
        said: list[ChainFault] = []
        for socket in self._sockets(calls):
            try:
                return await self._hand(socket, calls)
            except ChainFault as fault:
                said.append(fault)
        try:
            return await self._ask(self._in_order(calls)[0], calls)
        except ChainFault as fault:
            raise outweighing([fault, *said]) from None

    async def _broadcast(self, calls: Calls) -> list[Any]:
        """Hand one signed transaction to all endpoints in service; return the first that takes it.

        Where none does, raise the words that hold for all: refused it is only where everyone refuses.
        """
        order = self._in_order(calls)
        nodes = [node for node in order if node.standing.why is None] or order[:1]
        tasks = [self._spawn(self._offer(node, calls)) for node in nodes]
        tasks += [self._spawn(self._hand(socket, calls)) for socket in self._sockets(calls)]
        for done in asyncio.as_completed(tasks):
            with suppress(ChainFault):
                results: list[Any] = await done
                return results
        raise outweighing([fault for task in tasks if isinstance(fault := task.exception(), ChainFault)])

    def _sockets(self, calls: Calls) -> list[Handing]:
        """Return the socket, where there is one that would take a signed transaction."""
        socket = self._handing
        return [socket] if socket is not None and socket.would_take(calls[0][1][0]) else []

    async def _hand(self, socket: Handing, calls: Calls) -> list[Any]:
        """Offer a signed transaction on a socket, as ``_offer`` does to an endpoint."""
        try:
            return [await socket.offer(calls[0][1][0])]
        except ChainFault as fault:
            log.info("rpc.not_taken", endpoint=socket.endpoint, why=str(fault))
            raise

    async def _offer(self, node: Node, calls: Calls) -> list[Any]:
        """Ask one of several; what it says is told, for of all their words one is answered."""
        try:
            return await self._ask(node, calls)
        except ChainFault as fault:
            log.info("rpc.not_taken", endpoint=node.name, why=str(fault))
            raise

    async def _ask(self, node: Node, calls: Calls) -> list[Any]:
        """Ask one endpoint once, and keep what that says about it."""
        height = _height(calls)
        proves = height is not None and (node.standing.head is None or node.standing.head < height)
        asked: Calls = [("eth_blockNumber", []), *calls] if proves else calls
        # Not counted as the endpoint's latency.
        await node.rpc.budget.spend(len(asked))
        began_s = time.monotonic()
        try:
            if node.standing.why is not None:
                await self._prove(node)
                began_s = time.monotonic()
            results = await node.rpc.exchange(asked)
        except Throttled as fault:
            self._hush(node, fault)
            raise
        except Unreachable as fault:
            self._set_aside(node, str(fault))
            raise
        except RpcError as refusal:
            self._answered(node, began_s)
            if _is_absent(refusal) and all(method in READS for method, _ in calls):
                node.standing.missing = _pinned(calls)
                raise Absent(refusal) from None
            raise
        except asyncio.CancelledError:
            node.standing.outrun(time.monotonic() - began_s)
            raise
        self._answered(node, began_s)
        self._learn(node, asked, results)
        if proves and (node.standing.head or 0) < (height or 0):
            # Some nodes answer for a block above their head as if it were empty.
            raise Unreachable(f"{calls[0][0]} at {node.name}: block {height} is above its head")
        results = results[1:] if proves else results
        if any(
            result is None and method in HEADERS for (method, _), result in zip(calls, results, strict=True)
        ):
            node.standing.missing = _pinned(calls)
            raise Absent(results)
        return results

    async def _prove(self, node: Node) -> None:
        """Have an endpoint that has failed answer what is demanded of all; Unreachable where it does not."""
        for method, params, wanted in self._demands:
            await node.rpc.budget.spend(1)
            try:
                [found] = await node.rpc.exchange([(method, params)])
            except RpcError as refusal:
                raise Unreachable(str(refusal)) from None
            if (found.lower() if isinstance(found, str) else found) != wanted:
                raise Unreachable(f"{method} at {node.name}: expected {wanted!r}, found {found!r}")

    def _learn(self, node: Node, calls: Calls, results: Sequence[Any]) -> None:
        for (method, params), result in zip(calls, results, strict=True):
            if method == "eth_blockNumber":
                node.standing.head = int(result, 16)
            elif method == "eth_getBlockByNumber" and params[0] == "latest" and result is not None:
                node.standing.head = int(result["number"], 16)
            elif method == "eth_getLogs":
                self._served[_key(params[0])] = node
                if len(self._served) > SERVED:
                    self._served.popitem(last=False)
        if _pinned(calls):
            node.standing.missing = None

    # --- who is asked ---

    def _in_order(self, calls: Calls) -> list[Node]:
        """Return whom to ask, the best first.

        Raises Unreachable where all are barred, Throttled where every other provider has asked for patience.
        """
        now_s = time.monotonic()
        trusted = [node for node in self._nodes if not node.standing.barred]
        if not trusted:
            raise Unreachable(f"{calls[0][0]} at {self.endpoint}: all serve another chain or fork")
        open_to_us = [node for node in trusted if node.standing.quiet_until_s <= now_s]
        if not open_to_us:
            wait_s = min(node.standing.quiet_until_s for node in trusted) - now_s
            raise Throttled(f"{calls[0][0]} at {self.endpoint}: told to wait {wait_s:.1f} s more", wait_s)
        if len(open_to_us) == 1:
            return open_to_us
        best, pinned = self._best(), _pinned(calls)

        def cost(node: Node) -> tuple[Any, ...]:
            standing = node.standing
            return (
                standing.why is not None,
                standing.aside_until_s,
                pinned is not None and standing.missing == pinned,
                best is not None
                and standing.head is not None
                and best - standing.head > self._params.lag_blocks,
                not node.rpc.budget.has_room(len(calls)),
                standing.rank,
            )

        return sorted(open_to_us, key=cost)

    def _best(self) -> Block | None:
        """Return the height of the best head among endpoints in service."""
        heads = [node.standing.head for node in self._nodes if node.standing.why is None]
        return max((head for head in heads if head is not None), default=None)

    # --- how they do ---

    def _answered(self, node: Node, began_s: float) -> None:
        now_s = time.monotonic()
        node.standing.answered(now_s, now_s - began_s)
        if node.standing.why is not None and len(self._nodes) == 1:
            self._put_back(node)

    def _set_aside(self, node: Node, why: str) -> None:
        pause_s = node.standing.set_aside(time.monotonic(), why)
        if pause_s is not None:
            log.warning("rpc.set_aside", endpoint=node.name, why=why, pause_s=pause_s)

    def _bar(self, node: Node, why: str) -> None:
        self._set_aside(node, why)
        node.standing.barred = True

    def _hush(self, node: Node, fault: Throttled) -> None:
        self._set_aside(node, str(fault))
        asked_s = HUSH_S if fault.retry_after_s is None else fault.retry_after_s
        node.standing.hush(time.monotonic() + asked_s)
        fault.retry_after_s = asked_s

    def _put_back(self, node: Node) -> None:
        log.info("rpc.returned", endpoint=node.name, was=node.standing.why)
        node.standing.put_back(time.monotonic())

    def _health_of(self, node: Node, now_s: float, best: Block | None) -> Health:
        standing, budget = node.standing, node.rpc.budget
        lag = None if best is None or standing.head is None else max(0, best - standing.head)
        return Health(
            endpoint=node.name,
            head=standing.head,
            lag=max(lag or 0, 1) if standing.missing else lag,
            latency_ms=None if standing.latency_s is None else 1e3 * standing.latency_s,
            error_rate=standing.error_rate,
            aside_until_s=None if standing.why is None else time.time() + standing.aside_until_s - now_s,
            why=standing.why,
            calls=budget.spent,
            budget_used=budget.used,
        )

    # --- surveys ---

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Let nothing but a fault of the chain go by unseen."""
        self._background.discard(task)
        defect = None if task.cancelled() else task.exception()
        if defect is not None and not isinstance(defect, ChainFault):
            self._defect = defect

    async def _survey_for_ever(self) -> None:
        while True:
            await self.survey()
            await asyncio.sleep(self._params.survey_s)

    async def survey(self) -> None:
        """Look at every endpoint that is in service or has been aside for long enough, and judge them."""
        now_s = time.monotonic()
        nodes = [node for node in self._nodes if node.standing.due(now_s)]
        nodes = await self._that_answer(nodes, self._look_at)
        # Of the lower middle of their heads, for one that is far ahead must not ask the others too much.
        heads = sorted(node.standing.head or 0 for node in nodes)
        middle = heads[(len(heads) - 1) // 2] if heads else 0
        depth = max(0, middle - self._params.settled_blocks)
        self._judge(await self._that_answer(nodes, partial(self._look_below, depth)), now_s)

    @staticmethod
    async def _that_answer(nodes: Sequence[Node], look: Callable[[Node], Awaitable[bool]]) -> list[Node]:
        answered = await asyncio.gather(*map(look, nodes))
        return [node for node, well in zip(nodes, answered, strict=True) if well]

    async def _look_at(self, node: Node) -> bool:
        """Ask for chain and head; tell whether there was an answer."""
        found = await self._look(node, [("eth_chainId", []), ("eth_getBlockByNumber", ["latest", False])])
        if found:
            node.chain_id = int(found[0], 16)
        return found is not None

    async def _look_below(self, depth: Block, node: Node) -> bool:
        """Ask for the block that all must agree on; tell whether there was an answer."""
        found = await self._look(node, [("eth_getBlockByNumber", [hex(depth), False])])
        if found:
            node.settled = depth, found[0]["hash"]
        return found is not None

    async def _look(self, node: Node, calls: Calls) -> list[Any] | None:
        try:
            return await self._ask(node, calls)
        except Absent:
            self._set_aside(node, f"does not have block {calls[-1][1][0]}")
        except RpcError as refusal:
            self._set_aside(node, str(refusal))
        except Unreachable:
            pass
        return None

    def _judge(self, nodes: Sequence[Node], asked_s: float) -> None:
        """Set aside who serves another chain, another fork, or lags; put back who was aside and is well.

        The fork of most endpoints is the chain, however far one of the others is ahead; of equally many, that
        of the highest head, then that of the endpoint configured first. Endpoints that were outvoted do not
        win because the others are silent: that takes one that never was, or most of all that are configured.
        Who is behind is told by the heads of that fork alone. What was held against an endpoint since it was
        asked stands.
        """
        ours = [node for node in nodes if self._chain_id in {None, node.chain_id}]
        votes = Counter(node.settled for node in ours)
        heights = {fork: max(n.standing.head or 0 for n in ours if n.settled == fork) for fork in votes}
        trusted = {node.settled for node in ours if not node.outvoted}
        standing = [each for each in votes if each in trusted or 2 * votes[each] > len(self._nodes)]
        fork = max(standing, key=lambda each: (votes[each], heights[each]), default=None)
        best = heights.get(fork, 0)
        for node in nodes:
            if node not in ours:
                self._bar(node, f"serves chain {node.chain_id}, not {self._chain_id}")
                continue
            if fork is None:
                continue  # Outvoted before, and who outvoted it is silent.
            node.outvoted = node.standing.barred = node.settled != fork
            lag = best - (node.standing.head or 0)
            if lag <= 0:
                node.standing.missing = None
            if node.outvoted:
                self._bar(node, f"is on another fork: block and hash {node.settled}, others have {fork}")
            elif lag > self._params.lag_blocks:
                self._set_aside(node, f"is {lag} blocks behind")
            elif node.standing.why is not None and node.standing.due(asked_s):
                self._put_back(node)


HEADERS = frozenset({"eth_getBlockByHash", "eth_getBlockByNumber"})
BY_NUMBER = {
    "eth_getLogs": 0,
    "eth_call": 1,
    "eth_getBalance": 1,
    "eth_getCode": 1,
    "eth_getTransactionCount": 1,
}
"""Where a parameter names a block of which a node that lacks it may answer wrongly, instead of refusing."""


def _verdict(faults: Sequence[ChainFault]) -> list[Any]:
    """Say what a round without a good answer comes to: silence can be tried again, so it goes first."""
    if silent := [fault for fault in faults if isinstance(fault, Unreachable)]:
        raise min(
            silent, key=lambda fault: fault.retry_after_s or 0.0 if isinstance(fault, Throttled) else 0.0
        )
    last = faults[-1]
    if not isinstance(last, Absent):
        raise last
    if isinstance(last.said, RpcError):
        raise last.said
    return last.said


def _ask_elsewhere(fault: ChainFault) -> bool:
    if isinstance(fault, RpcError):
        return fault.code in ELSEWHERE and not fault.is_revert
    return True


def _is_absent(refusal: RpcError) -> bool:
    return ABSENT.search(refusal.message) is not None and not refusal.is_revert


def _pinned(calls: Calls) -> str | None:
    """Return the hash of the block that calls are about, if it is one and the same."""
    hashes = {
        param["blockHash"] if isinstance(param, dict) else param
        for method, params in calls
        for param in params
        if (isinstance(param, dict) and "blockHash" in param) or method == "eth_getBlockByHash"
        if not isinstance(param, bool)
    }
    return hashes.pop() if len(hashes) == 1 else None


def _key(asked: Mapping[str, Any]) -> bytes:
    return orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)


def _height(calls: Calls) -> Block | None:
    """Return the highest block whose logs or state are asked for by its number."""
    tags = [
        params[0].get("toBlock") if method == "eth_getLogs" else params[BY_NUMBER[method]]
        for method, params in calls
        if len(params) > BY_NUMBER.get(method, len(params))
    ]
    return max((int(tag, 16) for tag in tags if isinstance(tag, str) and tag.startswith("0x")), default=None)


BACKOFF = wait_random_exponential(multiplier=0.1, max=1.0)


def _pause_s(state: RetryCallState) -> float:
    """Wait as long as a provider asks, else at random, up to a bound that doubles with each round."""
    fault = state.outcome.exception() if state.outcome else None
    if isinstance(fault, Throttled) and fault.retry_after_s is not None:
        return fault.retry_after_s
    return BACKOFF(state)
