"""The whole keeper in bad weather: whatever the nodes did, the mirror is at last what a bulk read gives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from keeper.chain import stream
from keeper.chain.reader import Params
from keeper.pipeline import SETTLED
from tests.stub_node import Fault, StubNode
from tests.weather import BLOCK_S, KEYS, Change, Keeper, World, agrees

PATIENCE_S = 10.0

EVERYBODY: list[Change] = [(number, 10 + number) for number in range(len(KEYS))]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SHORTEST_WAIT_S", 0.01)
    monkeypatch.setattr(stream, "LONGEST_WAIT_S", 0.05)


@asynccontextmanager
async def nodes(world: World, count: int) -> AsyncIterator[list[StubNode]]:
    async with AsyncExitStack() as stack:
        found = [StubNode(world.tree, eth_call=world.answer) for _ in range(count)]
        yield [await stack.enter_async_context(node) for node in found]


def old_chain() -> World:
    """Make a chain on which every account was touched long before the head."""
    world = World()
    for change in EVERYBODY:
        world.mine([change])
    for _ in range(20):
        world.mine([])
    return world


def test_no_reorg_that_is_followed_takes_back_what_counts_as_settled() -> None:
    assert Params().reorg_depth <= SETTLED


@pytest.mark.parametrize("exchange", range(12))
async def test_a_restart_at_every_point_of_the_sync(tmp_path: Path, exchange: int) -> None:
    world = old_chain()
    async with nodes(world, 1) as (node,), Keeper(node, folder=tmp_path) as keeper:
        await node.follow()
        await keeper.catch_up(node.head, dies_after=exchange)
        await agrees(keeper, world, node.head)
        assert len(keeper.pipeline.mirror.book) == len(KEYS) + 1


@pytest.mark.parametrize("fault", [Fault.DROPPED, Fault.STALLED, Fault.TRUNCATED])
async def test_a_socket_that_drops_in_the_middle_of_the_back_fill(tmp_path: Path, fault: Fault) -> None:
    world = old_chain()
    async with nodes(world, 1) as (node,), Keeper(node, folder=tmp_path) as keeper:
        await node.follow()
        node.fails(fault, fault, method="eth_getLogs")
        await keeper.catch_up(node.head)
        await agrees(keeper, world, node.head)
        assert len(keeper.pipeline.mirror.book) == len(KEYS) + 1


@pytest.mark.parametrize("depth", range(1, 11))
async def test_two_nodes_that_disagree_about_blocks_of_any_depth(tmp_path: Path, depth: int) -> None:
    world = old_chain()
    async with nodes(world, 2) as (first, second), Keeper(first, second, folder=tmp_path) as keeper:
        fork = world.tree.tip
        await first.follow()
        await second.follow()
        await keeper.catch_up(fork)
        tip, other = fork, fork
        for number in range(depth):
            tip = world.mine([(number % 3, 50 + number)], on=tip)
            other = world.mine([(3 + number % 3, 70 + number)], on=other)
        await first.follow(tip)
        await second.follow(other)
        await keeper.catch_up(tip)
        await agrees(keeper, world, tip)
        longer = world.mine([(0, 1)], on=other)
        await second.follow(longer)
        await first.follow(longer)
        await keeper.catch_up(longer)
        await agrees(keeper, world, longer)


async def test_a_node_on_a_fork_of_its_own_far_ahead_is_not_followed(tmp_path: Path) -> None:
    world = old_chain()
    async with (
        nodes(world, 3) as (astray, one, other),
        Keeper(astray, one, other, folder=tmp_path) as keeper,
    ):
        fork = world.tree.below(world.tree.tip, 18)
        for node in (astray, one, other):
            await node.follow(fork)
        await keeper.catch_up(fork)
        tip = fork
        for number in range(40):
            tip = world.mine([(number % 3, 50 + number)], on=tip)
        ahead = tip
        tip = fork
        for number in range(18):
            tip = world.mine([(3 + number % 3, 70 + number)], on=tip)
        await one.follow(tip)
        await other.follow(tip)
        await astray.follow(ahead)
        await keeper.catch_up(tip)
        async with asyncio.timeout(5):
            while not keeper.pool._nodes[0].standing.barred:  # noqa: ASYNC110 nothing announces it
                await asyncio.sleep(0.005)
        tip = world.mine([(0, 1)], on=tip)
        await one.follow(tip)
        await other.follow(tip)
        await keeper.catch_up(tip)
        await agrees(keeper, world, tip)
        assert [health.why for health in keeper.pool.health()][1:] == [None, None]


async def test_answers_that_are_valid_but_leave_logs_out(tmp_path: Path) -> None:
    world = old_chain()
    async with nodes(world, 1) as (node,), Keeper(node, folder=tmp_path) as keeper:
        await node.follow()
        await keeper.catch_up(node.head)
        await keeper.hears()
        node.leaves_out = lambda *_: True
        for change in EVERYBODY:
            await keeper.catch_up(await node.follow(world.mine([change])))
        # A log may be heard after its block was read; the next block tells.
        await keeper.catch_up(await node.follow(world.mine([])))
        assert keeper.reader.discrepancies == len(EVERYBODY)
        await agrees(keeper, world, node.head)


async def test_a_node_that_is_down_for_a_while(tmp_path: Path) -> None:
    world = old_chain()
    async with nodes(world, 1) as (node,), Keeper(node, folder=tmp_path) as keeper:
        await node.follow()
        await keeper.catch_up(node.head)
        await node.stop()
        for change in EVERYBODY:
            world.mine([change])
        tip = world.mine([(2, 5)], on=world.tree.below(world.tree.tip, 3))
        working = asyncio.create_task(keeper.catch_up(tip))
        # However slow the machine is; then a minute, in blocks of twelve seconds.
        async with asyncio.timeout(PATIENCE_S):
            while keeper.reader.fault is None:  # noqa: ASYNC110 nothing announces it
                await asyncio.sleep(BLOCK_S / 10)
        await asyncio.sleep(5 * BLOCK_S)
        assert not working.done()
        await node.follow(tip)
        await node.start()
        await working
        await agrees(keeper, world, node.head)
