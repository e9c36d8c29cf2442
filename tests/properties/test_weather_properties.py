"""For any sequence of blocks, reorgs, faults and restarts, the folded mirror is what a bulk read gives."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stub_node import Fault, StubNode
from tests.weather import KEYS, Keeper, World, agrees

FAULTS = [Fault.BAD_JSON, Fault.TRUNCATED, Fault.DROPPED, Fault.WRONG_ID, Fault.LEFT_OUT, Fault.BAD_GATEWAY]

CHANGES = st.lists(st.tuples(st.integers(0, len(KEYS) - 1), st.integers(0, 90)), max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("mine"), st.lists(CHANGES, min_size=1, max_size=3)),
    st.tuples(st.just("reorg"), st.tuples(st.integers(1, 10), st.lists(CHANGES, min_size=1, max_size=12))),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("dies after"), st.integers(0, 6)),
    st.tuples(st.just("fails"), st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3)),
    st.tuples(st.just("drops sockets"), st.none()),
    st.tuples(st.just("catches up"), st.none()),
)


async def walk(steps: Sequence[tuple[str, Any]]) -> None:
    world = World()
    with TemporaryDirectory() as folder:
        async with StubNode(world.tree, eth_call=world.answer) as node:
            await node.follow(world.mine([(0, 1), (1, 2)]))
            async with Keeper(node, folder=Path(folder)) as keeper:
                dies_after: int | None = None
                for name, what in [*steps, ("catches up", None)]:
                    match name:
                        case "mine":
                            for changes in what:
                                await node.follow(world.mine(changes, on=node.head))
                        case "reorg":
                            depth, blocks = what
                            tip = world.tree.below(node.head, depth)
                            for changes in blocks:
                                tip = world.mine(changes, on=tip)
                            await node.follow(tip)
                        case "restart":
                            await keeper.restart()
                        case "dies after":
                            dies_after = what
                        case "fails":
                            node.fails(*what)
                        case "drops sockets":
                            await node.drop_sockets()
                        case _:
                            await keeper.catch_up(node.head, dies_after=dies_after)
                            dies_after = None
                            node.recovers()
                            await agrees(keeper, world, node.head)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=10))
def test_the_folded_mirror_is_the_bulk_read_one_whatever_happens(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(walk(steps))
