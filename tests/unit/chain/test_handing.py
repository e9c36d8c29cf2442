"""Signed transactions on a websocket: taken there they go nowhere else, and whatever is not goes by HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from keeper.answers import REFUSALS, read
from keeper.chain import handing as handing_module
from keeper.chain import stream
from keeper.chain.handing import Handing
from keeper.chain.pool import Pool
from keeper.chain.rpc import RpcError, Throttled, Unreachable
from tests.stub_node import METHODS, Fault, Refused, StubNode
from tests.unit.chain.test_pool import CHAIN_ID, PATIENT, becomes_true, nodes, raw_tx

SEND = "eth_sendRawTransaction"
BOTH_WAYS = pytest.mark.parametrize("broadcast", [False, True])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_module, "ANSWER_S", 0.1)
    monkeypatch.setattr(handing_module, "SHORTEST_WAIT_S", 0.01)
    monkeypatch.setattr(handing_module, "LONGEST_WAIT_S", 0.02)


@asynccontextmanager
async def handed(
    stubs: list[StubNode], *, sockets: list[StubNode] | None = None, broadcast: bool = False
) -> AsyncIterator[tuple[Pool, Handing]]:
    """A pool with a socket that is open."""
    handing = Handing([stub.ws_url for stub in sockets or stubs], CHAIN_ID)
    params = replace(PATIENT, broadcast=broadcast, survey_s=3600)
    async with Pool([stub.http_url for stub in stubs], params, handing=handing) as pool:
        await becomes_true(lambda: handing.is_open)
        yield pool, handing


async def test_what_is_taken_on_the_socket_is_asked_of_nobody_else() -> None:
    async with nodes(1) as [node], handed([node]) as (pool, _):
        tx_hash = await pool.request(SEND, [raw_tx()])
        assert tx_hash in node.pool
        assert node.posts == 0


async def test_several_at_once_each_get_their_own_answer() -> None:
    async with nodes(1) as [node], handed([node]) as (pool, _):
        raws = [raw_tx(fee=fee) for fee in (1_000, 2_000, 4_000)]
        found = await asyncio.gather(*(pool.request(SEND, [raw]) for raw in raws))
        assert len(set(found)) == 3
        assert found[-1] in node.pool
        assert node.posts == 0


async def test_nothing_else_goes_over_the_socket() -> None:
    async with nodes(1) as [node], handed([node]) as (pool, _):
        asked = len(node.asked)
        await pool.request("eth_blockNumber", [])
        await pool.batch([("eth_chainId", []), ("eth_blockNumber", [])])
        with pytest.raises(RpcError):
            await pool.request("evm_mine", [])
        assert len(node.asked) == asked + 4
        assert node.posts == 3


def answers(monkeypatch: pytest.MonkeyPatch, words: dict[StubNode, str]) -> None:
    """Have some nodes refuse every transaction, each in its own words."""
    whole = METHODS[SEND]

    def answer(stub: StubNode, params: Any) -> Any:
        if stub in words:
            raise Refused(-32000, words[stub])
        return whole(stub, params)

    monkeypatch.setitem(METHODS, SEND, answer)


async def test_what_the_socket_refuses_the_endpoints_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes() as (node, other), handed([node], sockets=[other]) as (pool, _):
        answers(monkeypatch, {other: "nonce too high"})
        with capture_logs() as said:
            assert await pool.request(SEND, [raw_tx()]) in node.pool
        assert [each["event"] for each in said] == ["rpc.not_taken"]
        assert "nonce too high" in said[0]["why"]


async def test_the_same_bytes_are_offered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_module, "OFFERED", 2)
    async with nodes() as (node, other), handed([node], sockets=[other]) as (pool, handing):
        raws = [raw_tx(fee=fee) for fee in (1_000, 2_000, 4_000)]
        tx_hash = await pool.request(SEND, raws[:1])
        assert tx_hash not in node.pool
        assert await pool.request(SEND, raws[:1]) == tx_hash
        assert tx_hash in node.pool
        for raw in raws[1:]:
            await pool.request(SEND, [raw])
        assert [handing.would_take(raw) for raw in raws] == [True, False, False]


@BOTH_WAYS
async def test_what_was_offered_and_not_answered_is_refused_by_nobody_else(
    monkeypatch: pytest.MonkeyPatch, broadcast: bool
) -> None:
    async with nodes() as (node, other), handed([node], sockets=[other], broadcast=broadcast) as (pool, _):
        answers(monkeypatch, {node: "nonce too high"})
        other.tight_lipped = True
        with pytest.raises(Unreachable, match="TimeoutError") as fault:
            await pool.request(SEND, [raw_tx()])
        assert read(str(fault.value)) not in REFUSALS
        assert len(other.pool) == 1


@BOTH_WAYS
@pytest.mark.parametrize("words", ["already known", "nonce too low", "txpool is full", "never heard of"])
async def test_what_the_socket_has_or_may_have_is_refused_by_nobody_else(
    monkeypatch: pytest.MonkeyPatch, broadcast: bool, words: str
) -> None:
    async with nodes() as (node, other), handed([node], sockets=[other], broadcast=broadcast) as (pool, _):
        answers(monkeypatch, {node: "nonce too high", other: words})
        with pytest.raises(RpcError, match=words):
            await pool.request(SEND, [raw_tx()])


@BOTH_WAYS
async def test_where_all_refuse_the_word_of_an_endpoint_holds(
    monkeypatch: pytest.MonkeyPatch, broadcast: bool
) -> None:
    async with nodes() as (node, other), handed([node], sockets=[other], broadcast=broadcast) as (pool, _):
        answers(monkeypatch, {node: "insufficient funds", other: "nonce too high"})
        with pytest.raises(RpcError, match="insufficient funds"):
            await pool.request(SEND, [raw_tx()])


async def test_an_endpoint_that_asks_for_patience_does_not_hold_up_the_socket() -> None:
    async with nodes() as (node, other), handed([node], sockets=[other]) as (pool, _):
        node.retry_after = "60"
        node.fails(Fault.THROTTLED)
        with pytest.raises(Throttled):
            await pool.request("evm_mine", [])
        assert await pool.request(SEND, [raw_tx()]) in other.pool


async def test_a_socket_that_is_silent_is_given_up_for_the_next() -> None:
    async with nodes(3) as stubs, handed(stubs[:1], sockets=stubs[1:]) as (pool, handing):
        node, silent, other = stubs
        silent.tight_lipped = True
        await pool.request(SEND, [raw_tx(fee=1_000)])
        assert node.posts == 1
        assert not handing.is_open
        await pool.request(SEND, [raw_tx(fee=2_000)])
        assert node.posts == 2
        await becomes_true(lambda: handing.is_open)
        assert await pool.request(SEND, [raw_tx(fee=4_000)]) in other.pool
        assert node.posts == 2
        await becomes_true(lambda: silent.sockets_open == 0)


async def test_a_handshake_that_nobody_answers_is_given_up_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "OPEN_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with nodes(1) as [node]:
            handing = Handing([f"ws://127.0.0.1:{silent.getsockname()[1]}", node.ws_url], CHAIN_ID)
            async with Pool([node.http_url], PATIENT, handing=handing):
                await becomes_true(lambda: handing.is_open)


async def test_a_refusal_of_all_that_was_asked_is_one_of_each() -> None:
    async with nodes() as (node, other), handed([node], sockets=[other]) as (pool, handing):
        other.tight_lipped = True
        asking = [asyncio.create_task(pool.request(SEND, [raw_tx(fee=fee)])) for fee in (1_000, 2_000)]
        await becomes_true(lambda: len(other.asked) >= 3)
        refusal = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "parse error"}}
        await other.tell_all(json.dumps(refusal))
        await asyncio.gather(*asking)
        assert handing.is_open
        assert node.posts == 2


async def test_a_socket_that_is_lost_while_it_is_asked_is_opened_anew() -> None:
    async with nodes() as (node, other), handed([node], sockets=[other]) as (pool, handing):
        other.tight_lipped = True
        asking = asyncio.create_task(pool.request(SEND, [raw_tx()]))
        await becomes_true(lambda: len(other.pool) == 1)
        other.tight_lipped = False
        await other.drop_sockets()
        assert await asking in node.pool
        await becomes_true(lambda: handing.is_open)
        assert other.connects == 2


@pytest.mark.parametrize("text", ["no json", "[]", '{"id": 1}', '{"jsonrpc": "1.0", "id": 1}'])
async def test_a_socket_that_talks_nonsense_is_left_for_the_next(text: str) -> None:
    async with nodes(3) as stubs, handed(stubs[:1], sockets=stubs[1:]) as (pool, handing):
        await stubs[1].tell_all(text)
        await becomes_true(lambda: handing.is_open and stubs[2].connects == 1)
        assert await pool.request(SEND, [raw_tx()]) in stubs[2].pool


@pytest.mark.parametrize("result", [None, "0x", "0x" + "ab" * 31, 7])
async def test_an_answer_that_is_no_hash_counts_as_none(monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    async with nodes() as (node, other), handed([node], sockets=[other]) as (pool, _):
        whole = METHODS[SEND]
        monkeypatch.setitem(METHODS, SEND, lambda stub, raw: result if stub is other else whole(stub, raw))
        assert await pool.request(SEND, [raw_tx()]) in node.pool


async def test_a_socket_of_another_chain_is_never_used() -> None:
    async with nodes() as (node, other):
        other.chain_id = 5
        handing = Handing([other.ws_url], CHAIN_ID)
        with capture_logs() as said:
            async with Pool([node.http_url], PATIENT, handing=handing) as pool:
                await becomes_true(lambda: other.connects > 1)
                assert not handing.is_open
                with pytest.raises(Unreachable, match="no socket is open"):
                    await handing.offer(raw_tx())
                assert await pool.request(SEND, [raw_tx()]) in node.pool
        assert {each["why"] for each in said} == {"serves chain 5, not 31337"}


async def test_where_all_are_to_have_it_the_socket_is_one_more() -> None:
    async with nodes(3) as stubs, handed(stubs[:2], sockets=stubs[2:], broadcast=True) as (pool, _):
        tx_hash = await pool.request(SEND, [raw_tx()])
        await becomes_true(lambda: all(tx_hash in stub.pool for stub in stubs))
        assert [[method for method, _ in stub.asked].count(SEND) for stub in stubs] == [1, 1, 1]


async def test_no_word_of_it_holds_a_key() -> None:
    async with nodes(1) as [node]:
        handing = Handing(["ws://user:hush@127.0.0.1:1/hush?key=hush"], CHAIN_ID)
        with capture_logs() as said:
            async with Pool([node.http_url], PATIENT, handing=handing) as pool:
                await becomes_true(lambda: len(said) > 1)
                await pool.request(SEND, [raw_tx()])
        assert "hush" not in f"{said}{handing.endpoint}"


@BOTH_WAYS
async def test_a_node_that_echoes_the_key_is_not_quoted_with_it(
    monkeypatch: pytest.MonkeyPatch, broadcast: bool
) -> None:
    async with nodes() as (node, other), handed([node], sockets=[other], broadcast=broadcast) as (pool, _):
        answers(monkeypatch, {node: "nonce too high", other: f"already known at {other.ws_url}"})
        with capture_logs() as said, pytest.raises(RpcError, match=r"already known at .*\*\*\*") as fault:
            await pool.request(SEND, [raw_tx()])
        assert "SECRET" not in f"{said}{fault.value}"
