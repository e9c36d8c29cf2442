"""The reader over nodes that fail in every way: what it delivers is the chain, whatever the weather."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from keeper.chain import stream as stream_module
from keeper.chain.pool import Params as PoolParams
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.domain import Call
from keeper.ports import BlockUpdate
from tests.stub_node import Block, Event, Fault, StubNode, Tree

EMITTER = "0x" + "e1" * 20
BLOCK_S = 0.05
PATIENCE = Params(poll_s=BLOCK_S, deaf_poll_s=0.01, longest_pause_s=0.02, block_time_s=BLOCK_S)
POOL = PoolParams(timeout_s=0.2, hedge_s=0.05, survey_s=0.02, shortest_pause_s=0.01, longest_pause_s=0.05)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "SHORTEST_WAIT_S", 0.01)
    monkeypatch.setattr(stream_module, "LONGEST_WAIT_S", 0.05)


def event(number: int) -> Event:
    return Event(EMITTER, (f"0x{number:064x}",))


class Mirror:
    """The chain and its logs, from nothing but the updates."""

    def __init__(self, reader: ChainReader) -> None:
        self.chain: list[str] = []
        self.logs: dict[str, list[int]] = {}
        self._updates = reader.updates()

    async def until(self, block: Block) -> None:
        async with asyncio.timeout(10):
            while not self.chain or self.chain[-1] != block.hash:
                self.fold(await anext(self._updates))

    def fold(self, update: BlockUpdate) -> None:
        for orphan in update.orphaned:
            assert self.chain.pop() == orphan.hash
            del self.logs[orphan.hash]
        for head in update.adopted:
            self.chain.append(head.hash)
            self.logs[head.hash] = []
        for log in update.logs:
            self.logs[log.block_hash].append(int.from_bytes(log.topics[0]))

    def is_that_of(self, tree: Tree, tip: Block) -> bool:
        line = tree.line(tip)
        return self.chain == [block.hash for block in line] and self.logs == {
            block.hash: [int(each.topics[0], 16) for each in block.events] for block in line
        }


@asynccontextmanager
async def watching(
    *stubs: StubNode, params: PoolParams = POOL
) -> AsyncIterator[tuple[ChainReader, Mirror, Pool]]:
    async with Pool([stub.http_url for stub in stubs], params) as pool:
        reader = ChainReader(pool, [stub.ws_url for stub in stubs], [EMITTER], PATIENCE)
        await reader.start(0)
        try:
            yield reader, Mirror(reader), pool
        finally:
            await reader.close()


async def becomes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.005)


def hears(reader: ChainReader, block: Block) -> bool:
    return len(reader._stream.heard.get(block.hash, {})) == len(block.events)


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.STALLED])
async def test_every_fault_of_one_node_is_survived_by_trying_again(fault: Fault) -> None:
    tree = Tree()
    async with StubNode(tree, retry_after="0") as node, watching(node) as (_, mirror, _):
        for number in range(3):
            node.fails(fault, fault)
            await mirror.until(await node.mine(event(number)))
        assert mirror.is_that_of(tree, tree.tip)


@pytest.mark.parametrize("fault", list(Fault))
async def test_with_two_nodes_one_may_fail_at_everything(fault: Fault) -> None:
    tree = Tree()
    async with StubNode(tree, retry_after="0") as bad, StubNode(tree) as good:
        bad.fails(fault, always=True)
        async with watching(bad, good) as (_, mirror, _):
            for number in range(5):
                await bad.follow(tree.mine(event(number)))
                await good.follow()
                await mirror.until(tree.tip)
            assert mirror.is_that_of(tree, tree.tip)


async def test_a_node_down_for_a_while_leaves_no_gap() -> None:
    tree = Tree()
    async with StubNode(tree) as node, watching(node) as (reader, mirror, _):
        await mirror.until(await node.mine(event(0)))
        await node.stop()
        for number in range(1, 30):
            node.tree.mine(event(number))
        reading = asyncio.create_task(mirror.until(tree.tip))
        # A minute, in blocks of twelve seconds.
        await asyncio.sleep(5 * BLOCK_S)
        await becomes_true(lambda: reader.fault is not None)
        assert not reading.done()
        await node.start()
        await node.follow()
        await reading
        assert mirror.is_that_of(tree, tree.tip)
        await becomes_true(lambda: reader.listening)


@pytest.mark.parametrize("depth", range(1, 11))
async def test_a_reorg_of_any_depth_leaves_the_mirror_of_the_new_branch(depth: int) -> None:
    tree = Tree()
    async with StubNode(tree) as node, watching(node) as (_, mirror, _):
        for number in range(12):
            await node.mine(event(number), event(100 + number))
        await mirror.until(tree.tip)
        tip = await node.reorg(depth, *[(event(200 + number),) for number in range(depth + 1)])
        await mirror.until(tip)
        assert mirror.is_that_of(tree, tip)


async def test_two_nodes_that_disagree_at_the_tip_give_one_branch_in_the_end() -> None:
    tree = Tree()
    async with StubNode(tree) as one, StubNode(tree) as other, watching(one, other) as (_, mirror, _):
        for number in range(5):
            await one.follow(tree.mine(event(number)))
            await other.follow()
        fork = tree.mine(event(50), on=tree.below(tree.tip, 2))
        await other.follow(fork)
        await asyncio.sleep(0.1)
        await other.follow(one.head)
        for number in range(5, 8):
            await one.follow(tree.mine(event(number), on=one.head))
            await other.follow()
        await mirror.until(one.head)
        assert mirror.is_that_of(tree, one.head)


async def test_a_websocket_on_the_fork_that_was_outvoted_misleads_nobody() -> None:
    tree = Tree()
    astray, *others = (StubNode(tree) for _ in range(3))
    fork = tree.mine(event(0))
    async with astray, others[0], others[1], watching(astray, *others) as (reader, mirror, pool):
        await becomes_true(lambda: reader.listening)
        assert astray.sockets == 1
        good = bad = fork
        for number in range(40):
            good, bad = tree.mine(event(100 + number), on=good), tree.mine(event(500 + number), on=bad)
            for other in others:
                await other.follow(good)
            await astray.follow(bad)
            if number >= 20:
                await becomes_true(lambda: pool._nodes[0].standing.barred)
                await mirror.until(good)
        assert mirror.is_that_of(tree, good)
        assert astray.sockets == 0
        assert [health.why for health in pool.health()][1:] == [None, None]


async def test_logs_that_a_node_leaves_out_are_heard_and_it_is_asked_no_more() -> None:
    tree, params = Tree(), replace(POOL, shortest_pause_s=60, longest_pause_s=60)
    forgetful, honest = StubNode(tree, leaves_out=lambda *_: True), StubNode(tree)
    async with forgetful, honest, watching(forgetful, honest, params=params) as (reader, mirror, pool):
        await becomes_true(lambda: reader.listening)
        for number in range(5):
            block = tree.mine(event(number), event(100 + number))
            await honest.follow()
            await forgetful.follow()
            await becomes_true(partial(hears, reader, block))
            await mirror.until(block)
        assert mirror.is_that_of(tree, tree.tip)
        assert reader.discrepancies == 2
        # At which block it was caught hangs on which of the two was asked first.
        caught, well = (health.why for health in pool.health())
        assert caught in {f"left log 0 of block {each.hash} out" for each in tree.line(tree.tip)}
        assert well is None


async def test_an_answer_never_mixes_two_blocks() -> None:
    """Calls of one head are answered at that head, or not at all, while the nodes move on."""
    tree = Tree()
    nodes = [StubNode(tree, eth_call=lambda block, _: f"0x{block.number:064x}") for _ in range(2)]
    first, second = nodes
    async with first, second, watching(first, second) as (reader, mirror, _):
        for number in range(20):
            block = tree.mine(event(number))
            second.lag = number % 2
            await second.follow()
            await first.follow()
            await mirror.until(block)
            first.fails(*[Fault.DROPPED] * (number % 3))
            answers = await reader.call_many([Call(EMITTER, b"")] * 20, block.hash)
            assert {int.from_bytes(answer) for answer in answers} == {block.number}


async def test_a_clock_that_is_off_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(genesis_s=2_000_000_000)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000 - 3600.0)
    async with StubNode(tree) as node, watching(node) as (reader, mirror, _):
        await mirror.until(await node.mine())
        assert reader.clock.off_s == pytest.approx(-3610)


@pytest.mark.parametrize("seed", range(3))
async def test_in_any_weather_the_mirror_is_the_chain(seed: int) -> None:
    rng = random.Random(seed)
    tree = Tree()
    nodes = [StubNode(tree, retry_after="0") for _ in range(3)]
    async with nodes[0], nodes[1], nodes[2], watching(*nodes) as (_, mirror, _):
        tip = tree.tip
        for number in range(60):
            depth = rng.choice([0, 0, 0, 0, 1, 2, 5])
            for at in range(depth + 1):
                tip = tree.mine(
                    *[event(1000 * number + at)] * rng.randrange(3), on=tree.below(tip, 0 if at else depth)
                )
            for node in nodes:
                node.lag = rng.choice([0, 0, 0, 1, 2])
                node.mute = rng.random() < 0.1
                node.fails(
                    *rng.choices([each for each in Fault if each is not Fault.STALLED], k=rng.randrange(3))
                )
                await node.follow(tip)
                if rng.random() < 0.1:
                    await node.drop_sockets()
            if rng.random() < 0.3:
                await asyncio.sleep(0.01)
        for node in nodes:
            node.lag, node.mute = 0, False
            node.recovers()
            await node.follow(tree.mine(event(7), on=tip) if node is nodes[0] else tree.tip)
        await mirror.until(tree.tip)
        assert mirror.is_that_of(tree, tree.tip)
