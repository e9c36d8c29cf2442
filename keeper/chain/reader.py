"""The chain as ``ports.Reader``: every head once, reorgs resolved by parent hash, every answer pinned.

What is announced only says where to look. Logs come from ``eth_getLogs`` by block hash, so that they belong
to the block they are delivered with; the logs heard on the websocket check that none was left out.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from web3 import AsyncWeb3

from keeper.chain.branch import Branch, DeepReorg
from keeper.chain.clock import BlockClock
from keeper.chain.pool import Pool
from keeper.chain.rpc import REVERTED, RpcError
from keeper.chain.search import Search
from keeper.chain.stream import Stream
from keeper.chain.wire import data, head_of, log_of, lower_hex
from keeper.domain import Call, ChainTime, Head, Log, Reason, Refuse
from keeper.errors import ChainFault, ConfigError, InvariantBroken
from keeper.ports import BlockUpdate, Range
from keeper.units import Block

log = structlog.get_logger()

INVALID_PARAMS = -32602
EXECUTION_ENDED = (
    "revert",
    "out of gas",
    "outofgas",
    "gas required exceeds",
    "invalid opcode",
    "vm execution",
)
"""Words by which they say that the execution itself failed, where they use another code."""

LACKING = frozenset({-32601, -32004})
"""The codes by which they say that they do not have a method."""
STACKED, STACKED_GAS = 16, 30_000_000
"""So many transactions, and so much gas, are simulated in one block: geth bounds a request to 50 million gas
(``--rpc.gascap``), and to what a block may hold."""
HEX = re.compile("0x[0-9a-fA-F]{8,}")
SAYS_ONE, ONE = "0x600160005260206000f3", (1).to_bytes(32)
"""Code that returns one word, and that word."""


@dataclass(frozen=True, slots=True)
class Params:
    """How deep a reorg may be, and how patient the reader is."""

    reorg_depth: int = 64
    """What lies deeper is final for the whole keeper: ``pipeline.SETTLED`` is no less."""
    flat_fees: bool = False
    """The chain has no base fee."""
    poll_s: float | None = None
    """Look for a new head without being told, after so long a silence; a block time where it is not said."""
    deaf_poll_s: float = 1.0
    """The same while there is no websocket."""
    longest_pause_s: float = 5.0
    """Longest pause after reads that failed."""
    search_failures: int | None = None
    """After so many in a row a search of logs is given up; None waits for ever."""
    batch_size: int = 128
    """Small requests (headers, logs of a block) in one JSON-RPC batch."""
    calls_per_batch: int = 8
    """Calls in one batch: a page of accounts is most of a megabyte."""
    block_time_s: float = 12.0
    """What the websocket's silence and the local clock are measured by."""


class ChainReader:
    """Implements ``ports.Reader`` over the nodes of one chain: HTTP for answers, a websocket for news only.

    ``verify`` and ``start`` come first; one consumer iterates over ``updates``; ``close`` ends the
    listening. ``addresses`` are those whose logs are delivered, and
    ``always`` those that are whatever ``watch`` says.
    """

    def __init__(
        self,
        rpc: Pool,
        ws_urls: Sequence[str],
        addresses: Sequence[str],
        params: Params | None = None,
        *,
        lent: Mapping[str, str] | None = None,
        always: Sequence[str] = (),
    ) -> None:
        self._rpc = rpc
        self._always = [address.lower() for address in always]
        addresses = [*addresses, *self._always]
        self._addresses = [address.lower() for address in addresses]
        self._params = params or Params()
        self._stream = Stream(
            ws_urls, addresses, block_time_s=self._params.block_time_s, flat_fees=self._params.flat_fees
        )
        self._listening: asyncio.Task[None] | None = None
        self._branch = Branch((), first=0, depth=self._params.reorg_depth)
        self._delivered: dict[str, set[int]] = {}
        self._takes_overrides = True
        self._stacks = True
        """Whether a node may have eth_simulateV1: the first that is to use it finds out."""
        self.lent = dict(lent or {})
        """Code by address, which every call there carries; a second reader of the same nodes may take it."""
        self.discrepancies = 0
        """How many logs the websocket announced that ``eth_getLogs`` had left out."""
        self.fault: str | None = None
        """Why the newest head could not be read; None when all is well."""
        self.clock = BlockClock(self._params.block_time_s)
        """The local clock against the heads; ``clock.off_s`` is by how much it is not to be trusted."""

    @property
    def listening(self) -> bool:
        """Tell whether the websocket is up; without it, heads are polled for."""
        return self._stream.connected

    @property
    def logs_heard(self) -> int:
        """How many announced logs wait for their cross-check."""
        return sum(map(len, self._stream.heard.values()))

    def watch(self, addresses: Sequence[str]) -> None:
        """Deliver the logs of these contracts from the next head on."""
        self._addresses = [*(address.lower() for address in addresses), *self._always]
        self._stream.watch(self._addresses)

    # --- start and end ---

    async def verify(self, chain_id: int, contracts: Mapping[str, str]) -> None:
        """Raise ConfigError where a node serves another chain, or a named contract has no code there."""
        await self._rpc.expect(chain_id)
        for name, address in contracts.items():
            if not AsyncWeb3.is_address(address):
                raise ConfigError(f"{name} must be an address, found {address!r}")
        codes = await self._rpc.batch([("eth_getCode", [each, "latest"]) for each in contracts.values()])
        for (name, address), code in zip(contracts.items(), codes, strict=True):
            if code == "0x":
                raise ConfigError(f"{name} {address} has no code on chain {chain_id} at {self._rpc.endpoint}")

    async def start(self, from_block: Block | None = None) -> Head:
        """Begin to listen; return the node's head.

        The first update adopts that head, or every block from ``from_block`` on, and what came meanwhile. A
        read that fails is tried again, as later ones are: a long search may lie behind it.
        """
        failures = 0
        while True:
            try:
                head, self._branch = await self._seed(from_block)
            except ChainFault as fault:
                failures += 1
                await self._wait_out(fault, failures)
                continue
            self.fault = None
            self._stream.news.set()
            self._listening = asyncio.create_task(self._stream.run(), name="chain.stream")
            return head

    async def _seed(self, from_block: Block | None) -> tuple[Head, Branch]:
        head = await self._latest()
        first = head.number if from_block is None else from_block
        depth = self._params.reorg_depth
        seed = await self._numbered(range(max(0, first - depth - 1), first))
        return head, Branch(seed, first=first, depth=depth)

    async def close(self) -> None:
        """Stop listening. The Pool is closed by whoever made it."""
        if self._listening:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        self._listening = None

    # --- heads ---

    async def updates(self) -> AsyncIterator[BlockUpdate]:
        """Yield one update for the newest head, with all that came since the last one.

        ``orphaned`` is newest first, ``adopted`` oldest first; a head already known is passed over. A read
        that fails is tried again at whatever is the newest head then, and ``fault`` says why meanwhile.
        DeepReorg ends it.
        """
        failures = 0
        while True:
            try:
                head = await self._newest(patient=failures == 0)
                heard_ns = time.monotonic_ns()
                update = await self._advance(head, heard_ns)
            except DeepReorg:
                raise
            except ChainFault as fault:
                failures += 1
                await self._wait_out(fault, failures)
                continue
            failures, self.fault = 0, None
            if update:
                self._stream.confirm(update.head)
                self._check_clock(update.head)
                yield update

    async def _wait_out(self, fault: ChainFault, failures: int) -> None:
        self.fault = str(fault)
        pause_s = min(0.05 * 2 ** min(failures, 10), self._params.longest_pause_s)
        log.warning("chain.read_failed", why=self.fault, failures=failures, pause_s=pause_s)
        await asyncio.sleep(pause_s)

    def _check_clock(self, head: Head) -> None:
        """Say aloud when the local clock leaves block time, and when it is back."""
        was_off, off_s = self.clock.off_s != 0, self.clock.heard(head.timestamp_s, time.time())
        if off_s and not was_off:
            log.warning("chain.clock_off", off_s=round(off_s, 3), block=head.number)
        elif was_off and not off_s:
            log.info("chain.clock_agreed", block=head.number)

    async def _newest(self, *, patient: bool) -> Head:
        """Wait for news, or for the poll; return the newest head."""
        if self._listening is None:
            raise InvariantBroken("a reader must be started before its updates are read")
        if self._listening.done():
            raise InvariantBroken("the websocket listener has ended") from self._listening.exception()
        if patient:
            poll_s = self._params.poll_s or self._params.block_time_s
            silence_s = poll_s if self._stream.connected else self._params.deaf_poll_s
            with suppress(TimeoutError):
                async with asyncio.timeout(silence_s):
                    await self._stream.news.wait()
        announced = self._stream.take()
        # After a fault it looks for itself: a socket on another fork announces what no node has, for ever.
        return announced if patient and announced else await self._latest()

    async def _advance(self, head: Head, heard_ns: int) -> BlockUpdate | None:
        """Read all that leads to ``head``, then move there in one step; None where it is known already."""
        if head.hash in self._branch:
            return None
        adopted = await self._line_to(head)
        logs = await self._logs_of(adopted)
        orphaned = self._branch.orphaned_by(adopted[0])
        self._branch.adopt(adopted)
        logs = sorted([*logs, *self._left_out(logs)], key=lambda each: (each.block_number, each.index))
        return BlockUpdate(head, orphaned, tuple(adopted), tuple(logs), heard_ns)

    async def _line_to(self, head: Head) -> list[Head]:
        """Return the heads from the first one not known up to ``head``, linked by parent hash, oldest first.

        Missed heads are asked for by number, many at once. Numbers prove nothing: where one of them is not
        the parent, the parent is asked for by its hash. Raises DeepReorg only for a head that is as high as
        what is known: a lower one may be that of a node far behind, and a new chain grows past it.
        """
        missed = await self._numbered(range(self._branch.tip_number + 1, head.number))
        by_hash = {each.hash: each for each in missed}
        line = [head]
        while not self._joins(line[-1], head):
            parent = line[-1].parent_hash
            known = by_hash.get(parent)
            line.append(
                known or self._head_of(await self._rpc.request("eth_getBlockByHash", [parent, False]))
            )
        return line[::-1]

    def _joins(self, last: Head, head: Head) -> bool:
        try:
            return self._branch.joins(last)
        except DeepReorg:
            if head.number >= self._branch.tip_number:
                raise
            known = f"block {self._branch.tip_number}, which is known"
            raise ChainFault(f"block {head.number} is behind {known}, or of another fork") from None

    def _head_of(self, raw: Any) -> Head:
        return head_of(raw, flat_fees=self._params.flat_fees)

    async def _latest(self) -> Head:
        return self._head_of(await self._rpc.request("eth_getBlockByNumber", ["latest", False]))

    async def _numbered(self, numbers: range) -> list[Head]:
        """Return headers by number, read batch by batch: it ends at the first one above the node's head.

        So an announced head of any height costs one request, and not a list of all below it.
        """
        heads: list[Head] = []
        while numbers:
            batch, numbers = numbers[: self._params.batch_size], numbers[self._params.batch_size :]
            calls = [("eth_getBlockByNumber", [hex(number), False]) for number in batch]
            heads += [self._head_of(raw) for raw in await self._rpc.batch(calls)]
        return heads

    async def _in_batches(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        size = self._params.batch_size
        return [
            result
            for start in range(0, len(calls), size)
            for result in await self._rpc.batch(calls[start : start + size])
        ]

    # --- logs ---

    async def _logs_of(self, heads: Sequence[Head]) -> list[Log]:
        if not self._addresses:
            return []
        asked = [self._filter_of(head.hash) for head in heads]
        pages = await self._in_batches([("eth_getLogs", [each]) for each in asked])
        logs = [[log_of(raw) for raw in page] for page in pages]
        for head, page in zip(heads, logs, strict=True):
            if any(each.block_hash != head.hash for each in page):
                raise ChainFault(
                    f"expected the logs of block {head.number} {head.hash}, found another block's"
                )
        return [each for page in logs for each in page]

    def _filter_of(self, block_hash: str) -> dict[str, Any]:
        return {"address": self._addresses, "blockHash": block_hash}

    def _left_out(self, logs: Iterable[Log]) -> list[Log]:
        """Return the logs heard for known blocks that no ``eth_getLogs`` has delivered: now, or earlier."""
        self._delivered = {head.hash: self._delivered.get(head.hash, set()) for head in self._branch}
        for each in logs:
            self._delivered.setdefault(each.block_hash, set()).add(each.index)
        lost = []
        for block_hash, delivered in self._delivered.items():
            for index, heard in self._stream.heard.pop(block_hash, {}).items():
                if index not in delivered:
                    delivered.add(index)
                    lost.append(heard)
                    self._rpc.accuse(
                        self._filter_of(block_hash), f"left log {index} of block {block_hash} out"
                    )
                    log.warning(
                        "chain.logs_incomplete", block=heard.block_number, hash=block_hash, index=index
                    )
        self.discrepancies += len(lost)
        return lost

    def search(self, first: Block, last: Block) -> AsyncIterator[Range]:
        """Yield the logs of a range of blocks, both ends included; see ``chain.search``."""
        params = self._params
        search = Search(
            self._rpc,
            self._addresses,
            longest_pause_s=params.longest_pause_s,
            most_failures=params.search_failures,
        )
        return search.ranges(first, last)

    async def hash_at(self, number: Block) -> str | None:
        """Return the hash of a block of the chain, None where it has none of that number yet."""
        raw = await self._rpc.request("eth_getBlockByNumber", [hex(number), False])
        return None if raw is None else lower_hex(raw["hash"], 32)

    # --- calls ---

    async def call(self, call: Call, at_hash: str) -> bytes:
        """Run ``eth_call`` pinned to a block hash (EIP-1898)."""
        answer: bytes = await self._rpc.request(*self._pinned(call, at_hash))
        return answer

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        """Run several ``eth_call``, all pinned to one block hash, in as few JSON-RPC batches as fit."""
        size = self._params.calls_per_batch
        pinned = [self._pinned(call, at_hash) for call in calls]
        batches = [await self._rpc.batch(pinned[at : at + size]) for at in range(0, len(pinned), size)]
        return [result for results in batches for result in results]

    async def lend(self, address: str, creation: bytes) -> None:
        """Have calls to ``address`` run a contract that only reads, and is not deployed.

        A call to nobody runs its creation code and returns the code that this leaves. What many accounts hold
        cannot be returned so: it would count as code, of which nodes take 24,576 bytes (EIP-170). Therefore
        every call carries the code instead, and is bounded by gas alone.

        Raises ConfigError where an endpoint cannot do both, for any of them may be the one that is asked; one
        that is silent now has to show that it can when it comes back. Raises ChainFault where the creation
        reverts, or all are silent.
        """
        probe = ("eth_call", [{"to": address, "data": "0x"}, "latest", {address: {"code": SAYS_ONE}}])
        made = ("eth_call", [{"data": "0x" + creation.hex()}, "latest"])
        answers = await self._rpc.each([made, probe])
        for name, answer in answers:
            if isinstance(answer, RpcError) and _ended_execution(answer):
                raise answer
            if why := _cannot_lend(answer):
                raise ConfigError(f"{name} cannot call a contract that is not deployed: {why}")
        codes = [answer[0] for _, answer in answers if isinstance(answer, list)]
        if not codes:
            raise next(answer for _, answer in answers if isinstance(answer, ChainFault))
        self._rpc.demand(*probe, ONE)
        self.lent[address.lower()] = "0x" + codes[0].hex()

    def _pinned(self, call: Call, at_hash: str) -> tuple[str, list[Any]]:
        params: list[Any] = [{"to": call.to, "data": "0x" + call.data.hex()}, {"blockHash": at_hash}]
        codes = dict(call.codes)
        if code := self.lent.get(call.to.lower()):
            codes[call.to] = code
        if codes:
            params.append({address: {"code": code} for address, code in codes.items()})
        return "eth_call", params

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        """Run a transaction on the newest state as if it were in block ``at``.

        A revert comes back as a Refuse whose evidence is the revert data, selector first, or the node's
        words where it gives no data. On a node that refuses block overrides it runs in the newest block.
        """
        transaction = _transaction(sender, call, gas_limit)
        overrides = [{}, {"number": hex(at.block), "time": hex(at.timestamp_s)}]
        if self._takes_overrides:
            try:
                return await self._run([transaction, "latest", *overrides])
            except RpcError as refusal:
                if refusal.code != INVALID_PARAMS:
                    raise
                log.warning("chain.overrides_refused", endpoint=self._rpc.endpoint, why=refusal.message)
                self._takes_overrides = False
        return await self._run([transaction, "latest"])

    async def rerun(self, sender: str, call: Call, at_hash: str, gas_limit: int) -> bytes | Refuse:
        """Run a transaction again as if it were the last of a block, on the state that this has left.

        Raises ChainFault where no node has that state. A revert comes back as ``simulate`` returns it.
        """
        return await self._run([_transaction(sender, call, gas_limit), {"blockHash": at_hash}])

    async def _run(self, params: list[Any]) -> bytes | Refuse:
        try:
            answer: bytes = await self._rpc.request("eth_call", params)
        except RpcError as error:
            if not _ended_execution(error):
                raise
            return _reverted(error.data, error.message)
        return answer

    async def simulate_in_order(
        self, sender: str, calls: Sequence[tuple[Call, int]], at: ChainTime
    ) -> list[bytes | Refuse] | None:
        """Run transactions, each with its gas limit, on top of one another as if they were in block ``at``.

        By ``eth_simulateV1``, without its validation: fees, nonces and the balance are seen to elsewhere, and
        a transaction ends as it does with ``eth_call``. What does not fit into one block makes several, each
        on the newest state. None where no node has the method, or not for these.
        """
        if not self._stacks:
            return None
        found = await asyncio.gather(*(self._stacked(sender, some, at) for some in _that_fit(calls)))
        answers: list[bytes | Refuse] = []
        for some in found:
            if some is None:
                return None
            answers += some
        return answers

    async def _stacked(
        self, sender: str, calls: Sequence[tuple[Call, int]], at: ChainTime
    ) -> list[bytes | Refuse] | None:
        block = {
            "blockOverrides": {"number": hex(at.block), "time": hex(at.timestamp_s)},
            "calls": [_transaction(sender, call, gas_limit) for call, gas_limit in calls],
        }
        try:
            *_, last = await self._rpc.request(
                "eth_simulateV1", [{"blockStateCalls": [block], "validation": False}, "latest"]
            )
        except RpcError as refusal:
            if refusal.code in LACKING:
                log.info("chain.no_simulation", endpoint=self._rpc.endpoint, why=refusal.message)
                self._stacks = False
            return None
        return [_simulated(call) for call in last["calls"]]


def _cannot_lend(answer: list[bytes] | ChainFault) -> str | None:
    """Say what an endpoint lacks that was asked to create a contract, and to call one that is not there."""
    if isinstance(answer, RpcError):
        return str(answer)
    if isinstance(answer, ChainFault):
        return None
    created, called = answer
    if not created:
        return "eth_call runs no creation code"
    return None if called == ONE else "eth_call does not heed state overrides"


def _transaction(sender: str, call: Call, gas_limit: int) -> dict[str, Any]:
    return {"from": sender, "to": call.to, "data": "0x" + call.data.hex(), "gas": hex(gas_limit)}


def _that_fit(calls: Sequence[tuple[Call, int]]) -> Iterator[list[tuple[Call, int]]]:
    """Yield calls in their order, so many at a time as a node runs in one block."""
    some: list[tuple[Call, int]] = []
    for call, gas_limit in calls:
        gas = gas_limit + sum(each for _, each in some)
        if some and (gas > STACKED_GAS or len(some) == STACKED):
            yield some
            some = []
        some.append((call, gas_limit))
    yield some


def _simulated(call: Mapping[str, Any]) -> bytes | Refuse:
    """Read one call of a simulated block; geth has revert data in its error, Anvil in what is returned."""
    if call["status"] == "0x1":
        return data(call["returnData"])
    error = call.get("error") or {}
    return _reverted(error.get("data") or call["returnData"], str(error.get("message", ""))[:500])


def _reverted(said: Any, message: str) -> Refuse:
    revert_data = HEX.search(str(said))
    evidence = revert_data[0] if revert_data else message or "no data, no message"
    return Refuse(Reason("simulation.reverted", evidence, "must not revert"))


def _ended_execution(error: RpcError) -> bool:
    words = error.message.lower()
    return error.code == REVERTED or any(each in words for each in EXECUTION_ENDED)
