"""Searching a long past: every block once, whatever the nodes refuse, leave out, or sleep through."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from keeper.chain import search as search_module
from keeper.chain.pool import Params as PoolParams
from keeper.chain.pool import Pool
from keeper.chain.rpc import RpcError, Unreachable
from keeper.chain.search import Search, Span, bloom_mask
from keeper.ports import Range
from tests.stub_node import Block, Event, Fault, StubNode, Tree, bloom_of

OURS = "0x" + "e1" * 20
POOL = PoolParams(timeout_s=0.2, hedge_s=0.05, survey_s=0.02, shortest_pause_s=0.01, longest_pause_s=0.05)


def event(number: int) -> Event:
    return Event(OURS, (f"0x{number:064x}",))


def tree_of(blocks: int, *with_logs: int) -> Tree:
    tree = Tree()
    for number in range(1, blocks + 1):
        tree.mine(*[event(number)] if number in with_logs else [])
    return tree


async def found(pool: Pool, first: int, last: int) -> list[Range]:
    search = Search(pool, [OURS], longest_pause_s=0.05)
    async with asyncio.timeout(20):
        return [each async for each in search.ranges(first, last)]


def numbers(ranges: list[Range]) -> list[int]:
    return [log.block_number for each in ranges for log in each.logs]


@pytest.mark.parametrize(("blocks", "results"), [(7, None), (None, 3)])
async def test_a_range_that_is_refused_is_halved_and_no_block_is_left_out(
    blocks: int | None, results: int | None
) -> None:
    tree = tree_of(60, *range(1, 61, 2))
    stub = StubNode(tree, most_blocks=blocks, most_results=results)
    async with stub as node, Pool([node.http_url], POOL) as pool:
        ranges = await found(pool, 3, 60)
    assert numbers(ranges) == list(range(3, 61, 2))
    assert ranges[-1].last == 60
    assert [each.last_hash for each in ranges] == [tree.line(tree.tip)[each.last].hash for each in ranges]


async def test_a_single_block_that_is_refused_is_raised() -> None:
    async with StubNode(tree_of(4, 2), most_results=0) as node, Pool([node.http_url], POOL) as pool:
        with pytest.raises(RpcError, match="more than 0 results"):
            await found(pool, 1, 4)


async def test_a_little_silence_does_not_make_ranges_narrower() -> None:
    async with StubNode(tree_of(40, 9, 30)) as node, Pool([node.http_url], POOL) as pool:
        # Each read is tried three times.
        silences = [Fault.TRUNCATED, Fault.DROPPED, Fault.BAD_GATEWAY] * 2
        node.fails(*[*silences, Fault.INTERNAL] * 4, method="eth_getLogs")
        with capture_logs() as said:
            ranges = await found(pool, 1, 40)
    assert numbers(ranges) == [9, 30]
    assert [each.last for each in ranges] == [40]
    assert {each["event"] for each in said} >= {"chain.search_failed"}


@pytest.mark.parametrize("how", ["stalls", "drops"])
async def test_a_range_that_a_node_never_answers_is_halved(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Some proxies cut off what takes long, or is large, without a word of JSON-RPC."""
    tree = tree_of(40, 9, 30)
    node = StubNode(tree)
    faults = {"stalls": Fault.STALLED, "drops": Fault.BAD_GATEWAY}
    answer = node._post

    async def wide_ones_fail(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if isinstance(asked, dict) and asked["method"] == "eth_getLogs":
            low, high = (int(asked["params"][0][key], 16) for key in ("fromBlock", "toBlock"))
            if high - low >= 15:
                node.fails(faults[how])
        return await answer(request)

    monkeypatch.setattr(node, "_post", wide_ones_fail)
    params = replace(POOL, timeout_s=0.05, rounds=1)
    async with node, Pool([node.http_url], params) as pool:
        ranges = await found(pool, 1, 40)
    assert numbers(ranges) == [9, 30]
    assert len(ranges) < 10


async def test_a_node_that_goes_down_in_the_middle_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "FIRST_SPAN", 5)
    async with StubNode(tree_of(60, 3, 33, 58), most_blocks=5) as node, Pool([node.http_url], POOL) as pool:
        walk = Search(pool, [OURS], longest_pause_s=0.05).ranges(1, 60)
        ranges = [await anext(walk)]
        await node.stop()
        waiting = asyncio.ensure_future(anext(walk))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await node.start()
        async with asyncio.timeout(20):
            ranges += [await waiting, *[each async for each in walk]]
    assert numbers(ranges) == [3, 33, 58]
    assert [each.last for each in ranges] == sorted({each.last for each in ranges})


async def test_who_asks_once_gives_up_after_so_many_failures_in_a_row_and_says_the_last() -> None:
    node = StubNode(tree_of(4, 2))
    async with node, Pool([node.http_url], POOL) as pool:
        search = Search(pool, [OURS], longest_pause_s=0.01, most_failures=3)
        node.fails(*[Fault.DROPPED] * 6, method="eth_getLogs")
        assert numbers([each async for each in search.ranges(1, 4)]) == [2]
        await node.stop()
        with capture_logs() as said, pytest.raises(Unreachable, match="no answer"):
            await anext(search.ranges(1, 4))
    assert [each["event"] for each in said].count("chain.search_failed") == 2


async def test_a_log_that_a_range_leaves_out_is_found_by_the_bloom_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_module, "SAMPLE", 40)
    tree = tree_of(40, 20)
    async with (
        StubNode(tree, leaves_out=lambda block, _: block.number == 20) as liar,
        StubNode(tree, delay_s=0.03) as honest,
        Pool([liar.http_url, honest.http_url], POOL) as pool,
    ):
        with capture_logs() as said:
            assert numbers(await found(pool, 1, 40)) == [20]
    assert {"rpc.set_aside", "chain.search_failed"} <= {each["event"] for each in said}


async def test_a_filter_that_allows_for_us_by_chance_is_no_contradiction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Block.header

    def header(block: Block) -> dict[str, Any]:
        return original(block) | {"logsBloom": "0x" + "ff" * 256}

    monkeypatch.setattr(Block, "header", header)
    async with StubNode(tree_of(5)) as node, Pool([node.http_url], POOL) as pool:
        assert numbers(await found(pool, 1, 5)) == []
        assert [each.why for each in pool.health()] == [None]


def test_the_mask_of_an_address_is_in_the_filter_of_its_logs() -> None:
    assert int(bloom_of([event(1)]), 16) & bloom_mask(OURS) == bloom_mask(OURS)
    assert int(bloom_of([Event("0x" + "02" * 20)]), 16) & bloom_mask(OURS) != bloom_mask(OURS)


@pytest.mark.parametrize("most", [1, 37, 9_999, 10_000, 250_000])
def test_ranges_come_to_just_below_what_a_node_takes(most: int) -> None:
    span, taken, asked = Span(), 0, 0
    for _ in range(400):
        asked += 1
        if span.blocks <= most:
            taken += span.blocks
            span.taken(span.blocks)
        else:
            span.refused(span.blocks)
    assert taken > 0.7 * most * asked


def test_the_rest_of_a_range_does_not_count_as_an_answer_to_a_whole_one() -> None:
    span = Span(1_000)
    span.taken(10)
    assert span.blocks == 1_000
