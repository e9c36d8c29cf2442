"""The websocket that listens: sockets that drop, go mute, lag, garble, and what is kept of a flood."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from keeper.chain import stream as stream_module
from keeper.chain.stream import Stream, expect_chain
from keeper.chain.wire import head_of
from keeper.domain import Head
from keeper.errors import ChainFault, ConfigError
from tests.stub_node import Block, Event, StubNode, Tree

EMITTER = "0x" + "e1" * 20
OTHER = "0x" + "f2" * 20
BLOCK_S = 0.05


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "SHORTEST_WAIT_S", 0.01)


async def becomes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(*stubs: StubNode) -> AsyncIterator[Stream]:
    """A stream that is up."""
    stream = Stream(
        [stub.ws_url for stub in stubs], [EMITTER.upper().replace("0X", "0x")], block_time_s=BLOCK_S
    )
    task = asyncio.create_task(stream.run())
    try:
        await becomes_true(lambda: stream.connected)
        stream.take()
        yield stream
    finally:
        task.cancel()
        await asyncio.wait([task])


def head(block: Block) -> Head:
    return head_of(block.header())


async def heard_of(stream: Stream) -> Head | None:
    async with asyncio.timeout(5):
        await stream.news.wait()
    return stream.take()


async def test_heads_and_logs_are_heard_and_of_heads_only_the_newest_is_kept() -> None:
    async with StubNode(Tree()) as node, listening(node) as stream:
        await node.mine(Event(EMITTER), Event(OTHER))
        last = await node.mine(Event(EMITTER))
        await becomes_true(lambda: len(stream.heard) == 2)
        assert await heard_of(stream) == head(last)
        assert stream.take() is None
        assert [sorted(logs) for logs in stream.heard.values()] == [[0], [0]]


async def test_what_a_reorg_removes_is_forgotten() -> None:
    async with StubNode(Tree()) as node, listening(node) as stream:
        old = await node.mine(Event(EMITTER))
        await becomes_true(lambda: bool(stream.heard.get(old.hash)))
        await node.reorg(1, (), (Event(EMITTER),))
        await becomes_true(lambda: not stream.heard[old.hash])


@pytest.mark.parametrize("how", ["dropped", "garbled", "of another shape", "not asked for", "too large"])
async def test_a_socket_that_fails_is_left_for_the_next_endpoint(how: str) -> None:
    tree = Tree()
    async with StubNode(tree) as first, StubNode(tree) as second, listening(first, second) as stream:
        foreign = first.tree.mine(Event(OTHER)).log(0)
        about = {"subscription": "0x2", "result": foreign}
        messages = {
            "garbled": "{",
            "of another shape": json.dumps({"jsonrpc": "2.0", "method": "eth_subscription", "params": []}),
            "not asked for": json.dumps({"jsonrpc": "2.0", "method": "eth_subscription", "params": about}),
            "too large": " " * (5 * 2**20),
        }
        if how == "dropped":
            await first.drop_sockets()
        else:
            await first.tell_all(messages[how])
        await becomes_true(lambda: second.sockets == 1)
        await becomes_true(lambda: stream.connected)
        assert await heard_of(stream) is None, "a new socket asks for a look"
        block = await second.mine()
        assert await heard_of(stream) == head(block)


async def test_one_endpoint_is_tried_again_until_it_is_back() -> None:
    async with StubNode(Tree()) as node, listening(node) as stream:
        await node.stop()
        await becomes_true(lambda: not stream.connected)
        await node.start()
        await becomes_true(lambda: stream.connected)


async def test_a_node_that_accepts_and_closes_is_dialled_less_and_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_module, "LONGEST_WAIT_S", 0.4)
    with capture_logs() as logs:
        async with StubNode(Tree()) as node, listening(node) as stream:
            closing = asyncio.create_task(_close_for_ever(node))
            await becomes_true(lambda: len(_waits(logs)) == 7)
            closing.cancel()
            assert _waits(logs)[:7] == [0.02, 0.04, 0.08, 0.16, 0.32, 0.4, 0.4]
            await becomes_true(lambda: stream.connected)
            await asyncio.sleep(0.45)
            await node.mine()
            await heard_of(stream)
            await node.drop_sockets()
            await becomes_true(lambda: len(_waits(logs)) > 7)
            assert _waits(logs)[-1] == 0.01, "after a socket that lasted, at once"


def _waits(logs: Sequence[MutableMapping[str, Any]]) -> list[float]:
    return [each["wait_s"] for each in logs if each["event"] == "chain.socket_lost"]


async def _close_for_ever(node: StubNode) -> None:
    while True:
        await asyncio.sleep(0.001)
        if node.sockets:
            await node.drop_sockets()


async def test_a_half_open_socket_is_closed_when_the_chain_goes_on_without_it() -> None:
    tree = Tree()
    async with StubNode(tree) as mute, StubNode(tree) as second, listening(mute, second) as stream:
        stream.confirm(head(mute.head))
        mute.mute = True
        for _ in range(20):
            stream.confirm(head(await mute.mine()))
            await asyncio.sleep(BLOCK_S / 2)
        await becomes_true(lambda: second.sockets == 1)


async def test_a_socket_that_announces_old_heads_is_closed_too() -> None:
    tree = Tree()
    for _ in range(10):
        tree.mine()
    async with StubNode(tree, lag=5) as behind, StubNode(tree) as second, listening(behind, second) as stream:
        stream.confirm(head(tree.tip))
        for _ in range(20):
            stream.confirm(head(tree.mine()))
            await behind.follow()
            await asyncio.sleep(BLOCK_S / 2)
        await becomes_true(lambda: second.sockets == 1)


async def test_a_socket_is_kept_while_the_chain_stands_still_or_is_announced_late() -> None:
    async with StubNode(Tree()) as node, listening(node) as stream:
        stream.confirm(head(node.head))
        await asyncio.sleep(5 * BLOCK_S)
        for _ in range(8):
            block = node.tree.mine()
            stream.confirm(head(block))
            await asyncio.sleep(BLOCK_S)
            await node.follow()
            await asyncio.sleep(BLOCK_S)
        await asyncio.sleep(5 * BLOCK_S)
        assert stream.connected
        assert node.connects == 1


async def test_of_a_flood_of_logs_the_oldest_blocks_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "LOGS_HEARD", 10)
    monkeypatch.setattr(stream_module, "BLOCKS_HEARD", 3)
    tree = Tree()
    stream = Stream(["ws://127.0.0.1:1"], [EMITTER])
    blocks = [tree.mine(*[Event(EMITTER)] * count) for count in (1, 1, 1, 1, 7, 3)]
    for block in blocks:
        for index in range(len(block.events)):
            stream._hear_log(block.log(index))
    assert list(stream.heard) == [block.hash for block in blocks[4:]]


# --- the chain expected ---------------------------------------------------------------------------


async def test_a_socket_of_another_chain_is_a_mistake_of_the_configuration() -> None:
    async with StubNode(Tree()) as one, StubNode(Tree(), chain_id=5) as other:
        await expect_chain([one.ws_url], 31337)
        with pytest.raises(ConfigError, match=r"chain 31337 is configured, but ws:.* serves 5"):
            await expect_chain([one.ws_url, other.ws_url], 31337)


async def test_one_silent_socket_is_no_reason_not_to_start_and_all_silent_are() -> None:
    silent = "ws://127.0.0.1:1/SECRET"
    async with StubNode(Tree()) as node:
        await expect_chain([silent, node.ws_url], 31337)
    with pytest.raises(ChainFault, match=r"ws://127\.0\.0\.1:1: no answer") as fault:
        await expect_chain([silent, silent], 31337)
    assert "SECRET" not in str(fault.value)


@pytest.mark.parametrize("urls", [["http://node.example/KEY"], ["ws://a", "node.example/KEY"], []])
def test_an_endpoint_that_is_no_websocket_is_refused_without_showing_its_key(urls: list[Any]) -> None:
    with pytest.raises(ConfigError) as refusal:
        Stream(urls, [])
    assert "KEY" not in str(refusal.value)
