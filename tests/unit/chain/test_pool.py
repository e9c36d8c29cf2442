"""Several nodes as one: who is asked, who is believed, who is set aside and comes back."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from structlog.testing import capture_logs

from keeper.answers import REFUSALS, read
from keeper.chain.health import Health
from keeper.chain.pool import Absent, Params, Pool
from keeper.chain.rpc import RpcError, Throttled, Unreachable
from keeper.errors import ChainFault, ConfigError, InvariantBroken
from tests.stub_node import METHODS, Event, Fault, Refused, StubNode, Tree

QUICK = Params(timeout_s=0.3, hedge_s=0.05, survey_s=3600, shortest_pause_s=0.02, longest_pause_s=0.2)
PATIENT = replace(QUICK, hedge_s=10, timeout_s=1.5)
EMITTER = "0x" + "e1" * 20
TOPIC = "0x" + "01" * 32
KEY = "0x" + "4c" * 32
CHAIN_ID = 31337


@asynccontextmanager
async def nodes(count: int = 2, blocks: int = 40, **settings: Any) -> AsyncIterator[list[StubNode]]:
    """Several nodes of one chain, all at its tip."""
    tree = Tree()
    for _ in range(blocks):
        tree.mine(Event(EMITTER, (TOPIC,)))
    stubs = [StubNode(tree, **settings) for _ in range(count)]
    for stub in stubs:
        await stub.start()
    try:
        yield stubs
    finally:
        for stub in stubs:
            await stub.stop()


@asynccontextmanager
async def pooled(stubs: list[StubNode], params: Params = PATIENT) -> AsyncIterator[Pool]:
    """A pool that surveys when told to."""
    pool = Pool([stub.http_url for stub in stubs], params)
    try:
        yield pool
    finally:
        await pool.close()


def aside(pool: Pool) -> list[str | None]:
    return [health.why for health in pool.health()]


async def becomes_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.005)


def raw_tx(nonce: int = 0, fee: int = 100) -> str:
    tx = {"type": 2, "chainId": CHAIN_ID, "to": "0x" + "11" * 20, "value": 0, "gas": 21_000}
    fees = {"nonce": nonce, "maxFeePerGas": fee, "maxPriorityFeePerGas": fee}
    return "0x" + bytes(Account.sign_transaction(tx | fees, KEY).raw_transaction).hex()


# --- reads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [fault for fault in Fault if fault not in {Fault.LEFT_OUT, Fault.INTERNAL, Fault.THROTTLED}]
)
async def test_a_read_fails_over_at_once_and_the_faulty_node_is_set_aside(fault: Fault) -> None:
    async with nodes() as (first, second), pooled([first, second]) as pool:
        first.fails(fault)
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        why, well = aside(pool)
        assert why is not None
        assert "SECRET" not in why
        assert well is None
        assert (first.posts, second.posts) == (1, 1)
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        assert (first.posts, second.posts) == (1, 2), "while it is aside it is not asked"


@pytest.mark.parametrize("fault", [Fault.LEFT_OUT, Fault.DUPLICATE_ID, Fault.WRONG_ID])
async def test_a_spoilt_batch_is_asked_for_elsewhere_as_a_whole(fault: Fault) -> None:
    async with nodes() as (first, second), pooled([first, second]) as pool:
        first.fails(fault)
        calls: list[tuple[str, list[Any]]] = [("eth_chainId", []), ("eth_blockNumber", [])]
        assert await pool.batch(calls) == [hex(CHAIN_ID), hex(40)]
        assert await pool.batch([]) == []
        assert [method for method, _ in second.asked] == ["eth_chainId", "eth_blockNumber"]


async def test_an_internal_error_is_asked_for_elsewhere_without_blame() -> None:
    async with nodes() as (first, second), pooled([first, second]) as pool:
        first.fails(Fault.INTERNAL)
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        assert aside(pool) == [None, None]
        first.fails(Fault.INTERNAL)
        second.fails(Fault.INTERNAL)
        with pytest.raises(RpcError, match="internal error"):
            await pool.request("eth_chainId", [])


async def test_who_is_refused_by_its_provider_is_set_aside_and_another_is_asked() -> None:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "project disabled"}}
    async with nodes() as (first, second), pooled([first, second]) as pool:
        first.answers_all = (403, error)
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        why, well = aside(pool)
        assert why is not None
        assert "project disabled (code -32000), with HTTP 403" in why
        assert well is None


async def test_a_refusal_is_an_answer_and_nobody_else_is_asked() -> None:
    def reverts(*_: Any) -> str:
        raise Refused(-32603, "execution reverted: block not found", "0xcafebabe")

    async with nodes(eth_call=reverts) as stubs, pooled(stubs) as pool:
        with pytest.raises(RpcError, match="execution reverted"):
            await pool.request("eth_call", [{"to": EMITTER, "data": "0x"}, "latest"])
        assert sum(stub.posts for stub in stubs) == 1


async def test_a_pool_of_one_tries_again_and_is_never_without_a_node() -> None:
    async with nodes(1) as (only,), pooled([only]) as pool:
        only.fails(Fault.BAD_GATEWAY, Fault.TRUNCATED)
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        assert only.posts == 3
        assert aside(pool) == [None]
        only.fails(Fault.BAD_GATEWAY, always=True)
        with pytest.raises(Unreachable, match="found HTTP 502"):
            await pool.request("eth_chainId", [])
        assert only.posts == 6
        assert aside(pool) != [None]
        only.recovers()
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        assert aside(pool) == [None]


async def test_the_pause_before_the_next_round_grows_up_to_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    longest_s: list[float] = []

    def at_once(least_s: float, most_s: float) -> float:
        longest_s.append(most_s)
        return least_s

    monkeypatch.setattr(random, "uniform", at_once)
    async with nodes(1) as (only,), pooled([only], replace(PATIENT, rounds=6)) as pool:
        await only.stop()
        with pytest.raises(Unreachable):
            await pool.request("eth_chainId", [])
    assert [*dict.fromkeys(longest_s)] == [0.1, 0.2, 0.4, 0.8, 1.0]


async def test_who_is_aside_is_asked_after_the_slowest() -> None:
    async with nodes() as (accused, slow), pooled([accused, slow]) as pool:
        pool._nodes[1].standing.answered(0, 9)
        pool._set_aside(pool._nodes[0], "left a log out")
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        assert (accused.posts, slow.posts) == (0, 1)


async def test_with_all_set_aside_they_are_still_asked() -> None:
    async with nodes() as (first, second), pooled([first, second], replace(PATIENT, rounds=1)) as pool:
        for stub in (first, second):
            stub.fails(Fault.BAD_GATEWAY)
        with pytest.raises(Unreachable):
            await pool.request("eth_chainId", [])
        assert None not in aside(pool)
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)


async def test_a_slow_read_is_asked_of_a_second_node_and_the_first_answer_wins() -> None:
    async with nodes() as (slow, quick), pooled([slow, quick], QUICK) as pool:
        slow.fails(Fault.STALLED)
        async with asyncio.timeout(0.25):
            assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        assert (slow.posts, quick.posts) == (1, 1)
        assert aside(pool) == [None, None], "who is slow once is not faulty"
        await pool.request("eth_chainId", [])
        assert (slow.posts, quick.posts) == (1, 2), "but no longer the first to be asked"


async def test_an_answer_in_time_is_not_hedged() -> None:
    async with nodes() as (first, second), pooled([first, second], replace(QUICK, hedge_s=0.2)) as pool:
        for _ in range(5):
            await pool.request("eth_chainId", [])
        assert (first.posts, second.posts) == (5, 0)


async def test_a_hedge_that_fails_does_not_end_the_read() -> None:
    async with nodes(delay_s=0.1) as (first, second), pooled([first, second], QUICK) as pool:
        second.delay_s = 0
        second.fails(Fault.BAD_JSON)
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        assert (first.posts, second.posts) == (1, 1)


async def test_a_read_that_is_given_up_leaves_nothing_running() -> None:
    async with nodes() as stubs, pooled(stubs, QUICK) as pool:
        for stub in stubs:
            stub.fails(Fault.STALLED, always=True)
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.request("eth_chainId", []), 0.1)
        for stub in stubs:
            await stub.stop()
        assert {task for task in asyncio.all_tasks() - before if "_ask" in repr(task)} == set()


# --- blocks ---------------------------------------------------------------------------------------


async def test_a_read_pinned_to_a_hash_goes_to_who_has_that_block() -> None:
    async with nodes(eth_call=lambda block, _: f"0x{block.number:02x}") as (behind, ahead):
        tip = ahead.tree.mine(Event(EMITTER))
        await ahead.follow()
        call = [{"to": EMITTER, "data": "0x"}, {"blockHash": tip.hash}]
        async with pooled([behind, ahead]) as pool:
            assert await pool.request("eth_call", call) == b"\x29"
            assert aside(pool) == [None, None], "behind, not faulty"
            assert pool.health()[0].lag == 1
            assert await pool.batch([("eth_call", call), ("eth_call", call)]) == [b"\x29", b"\x29"]
            assert (behind.posts, ahead.posts) == (1, 2), "it is not asked for that block again"
            await behind.follow()
            await ahead.stop()
            assert await pool.request("eth_call", call) == b"\x29"


@pytest.mark.parametrize("what", ["eth_getLogs", "eth_getBlockByHash", "eth_getBlockByNumber"])
async def test_a_block_that_one_node_lacks_is_read_from_the_other(what: str) -> None:
    async with nodes() as (behind, ahead):
        tip = ahead.tree.mine(Event(EMITTER))
        await ahead.follow()
        params: dict[str, list[Any]] = {
            "eth_getLogs": [{"address": [EMITTER], "blockHash": tip.hash}],
            "eth_getBlockByHash": [tip.hash, False],
            "eth_getBlockByNumber": [hex(tip.number), False],
        }
        async with pooled([behind, ahead]) as pool:
            assert await pool.request(what, params[what])
            assert (behind.posts, ahead.posts) == (1, 1)


async def test_a_block_that_no_node_has_is_answered_as_they_answer() -> None:
    async with nodes() as stubs, pooled(stubs) as pool:
        assert await pool.request("eth_getBlockByHash", ["0x" + "77" * 32, False]) is None
        with pytest.raises(RpcError, match="header for hash not found"):
            await pool.request("eth_call", [{"to": EMITTER}, {"blockHash": "0x" + "77" * 32}])
        assert aside(pool) == [None, None]
        assert [stub.posts for stub in stubs] == [2, 2]


async def test_a_range_above_a_node_s_head_is_not_taken_for_an_empty_one() -> None:
    async with nodes() as (behind, ahead):
        ahead.tree.mine(Event(EMITTER))
        await ahead.follow()
        asked = [{"address": [EMITTER], "fromBlock": hex(30), "toBlock": hex(41)}]
        async with pooled([behind, ahead]) as pool:
            assert len(await pool.request("eth_getLogs", asked)) == 12
        async with pooled([behind], replace(PATIENT, rounds=1)) as pool:
            with pytest.raises(Unreachable, match="block 41 is above its head"):
                await pool.request("eth_getLogs", asked)


@pytest.mark.parametrize("method", ["eth_call", "eth_getBalance", "eth_getTransactionCount", "eth_getCode"])
async def test_state_at_a_number_above_a_node_s_head_is_never_made_up(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Some nodes answer 0x for a block that they do not have yet."""
    monkeypatch.setitem(METHODS, method, lambda *_: "0x" if method in {"eth_call", "eth_getCode"} else "0x0")
    async with nodes(1) as stubs, pooled(stubs, replace(PATIENT, rounds=1)) as pool:
        asked = {"to": EMITTER} if method == "eth_call" else EMITTER
        assert await pool.request(method, [asked, hex(40)]) in {b"", "0x", "0x0"}
        with pytest.raises(Unreachable, match="block 41 is above its head"):
            await pool.request(method, [asked, hex(41)])


async def test_who_left_logs_out_is_set_aside_when_accused() -> None:
    async with nodes(leaves_out=lambda *_: True) as (forgetful, honest), pooled([forgetful, honest]) as pool:
        honest.leaves_out = lambda *_: False
        asked = {"address": [EMITTER], "blockHash": honest.head.hash}
        assert await pool.request("eth_getLogs", [asked]) == []
        pool.accuse(asked, "left log 0 out")
        pool.accuse(asked, "nobody answered that")
        assert aside(pool) == ["left log 0 out", None]
        assert len(await pool.request("eth_getLogs", [asked])) == 1


# --- patience -------------------------------------------------------------------------------------


async def test_a_provider_that_asks_for_patience_is_left_alone_for_so_long() -> None:
    async with nodes() as (strict, other), pooled([strict, other]) as pool:
        strict.retry_after = "3600"
        strict.fails(Fault.THROTTLED)
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        await other.stop()
        with pytest.raises(Unreachable):
            await pool.request("eth_chainId", [])
        await pool.survey()
        assert strict.posts == 1, "not even as the last resort"


async def test_a_short_wait_that_a_provider_asks_for_is_waited() -> None:
    async with nodes(1, retry_after="1") as (only,), pooled([only]) as pool:
        only.fails(Fault.THROTTLED)
        began_s = asyncio.get_running_loop().time()
        assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
        assert asyncio.get_running_loop().time() - began_s >= 1
        assert only.posts == 2


async def test_a_long_wait_that_a_provider_asks_for_is_a_fault() -> None:
    async with nodes(1, retry_after="3600") as (only,), pooled([only]) as pool:
        only.fails(Fault.THROTTLED)
        for _ in range(2):
            with pytest.raises(Throttled):
                await pool.request("eth_chainId", [])
        assert only.posts == 1


async def test_a_read_goes_where_the_budget_has_room() -> None:
    async with nodes() as stubs, pooled(stubs, replace(PATIENT, requests_s=2)) as pool:
        async with asyncio.timeout(0.4):
            for _ in range(4):
                await pool.request("eth_chainId", [])
        assert [stub.posts for stub in stubs] == [2, 2]
        assert [health.budget_used for health in pool.health()] == [1, 1]


async def test_the_wait_for_the_own_budget_is_not_the_endpoint_s_latency() -> None:
    async with nodes(1) as stubs, pooled(stubs, replace(PATIENT, requests_s=20)) as pool:
        await asyncio.gather(*(pool.request("eth_chainId", []) for _ in range(40)))
        [health] = pool.health()
        assert health.calls == 40
        assert health.latency_ms is not None
        assert health.latency_ms < 300


# --- writes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["eth_sendRawTransaction", "evm_mine", "never_heard_of"])
async def test_what_is_not_a_read_is_sent_once_to_one_node(method: str) -> None:
    async with nodes() as stubs, pooled(stubs) as pool:
        for stub in stubs:
            stub.fails(Fault.BAD_GATEWAY, always=True)
        with pytest.raises(Unreachable):
            await pool.request(method, ["0x00"])
        with pytest.raises(Unreachable):
            await pool.batch([("eth_chainId", []), (method, ["0x00"])])
        assert sum(stub.posts for stub in stubs) == 2


async def test_a_signed_transaction_goes_to_every_node_where_so_configured() -> None:
    async with nodes(3) as stubs, pooled(stubs, replace(PATIENT, broadcast=True)) as pool:
        tx_hash = await pool.request("eth_sendRawTransaction", [raw_tx()])
        await becomes_true(lambda: all(tx_hash in stub.pool for stub in stubs))
        assert [stub.posts for stub in stubs] == [1, 1, 1]


async def test_a_transaction_that_one_node_takes_is_taken_whatever_the_others_say() -> None:
    async with nodes(3) as stubs, pooled(stubs, replace(PATIENT, broadcast=True)) as pool:
        known, down, last = stubs
        async with pooled([known], PATIENT) as alone:
            tx_hash = await alone.request("eth_sendRawTransaction", [raw_tx()])
        down.fails(Fault.BAD_GATEWAY)
        assert await pool.request("eth_sendRawTransaction", [raw_tx()]) == tx_hash
        assert tx_hash in last.pool


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("known", "already known"),
        ("down", "found HTTP 502"),
        ("internal", "internal error"),
        ("refuses", "replacement transaction underpriced"),
    ],
)
async def test_a_transaction_is_refused_only_where_nobody_can_have_it(second: str, said: str) -> None:
    async with nodes() as stubs, pooled(stubs, replace(PATIENT, broadcast=True)) as pool:
        for stub, fee in ((stubs[0], 1000), (stubs[1], 100 if second == "known" else 1000)):
            async with pooled([stub], PATIENT) as alone:
                await alone.request("eth_sendRawTransaction", [raw_tx(fee=fee)])
        if second in {"down", "internal"}:
            stubs[1].fails(Fault.BAD_GATEWAY if second == "down" else Fault.INTERNAL)
        with pytest.raises(ChainFault, match=said):
            await pool.request("eth_sendRawTransaction", [raw_tx(fee=100)])


@pytest.mark.parametrize("second", ["txpool is full", Fault.STALLED])
@pytest.mark.parametrize("first", [0, 1])
async def test_a_refusal_does_not_outweigh_a_node_that_may_have_the_bytes(
    monkeypatch: pytest.MonkeyPatch, first: int, second: str | Fault
) -> None:
    async with nodes() as stubs, pooled(stubs, replace(QUICK, broadcast=True)) as pool:
        refuses, other = stubs[first], stubs[1 - first]

        def answer(stub: StubNode, *_: Any) -> str:
            raise Refused(-32000, "nonce too high" if stub is refuses else second)

        monkeypatch.setitem(METHODS, "eth_sendRawTransaction", answer)
        if isinstance(second, Fault):
            other.fails(second)
        with capture_logs() as said, pytest.raises(ChainFault) as fault:
            await pool.request("eth_sendRawTransaction", [raw_tx()])
        assert read(str(fault.value)) not in REFUSALS
        noted = {each["endpoint"] for each in said if each["event"] == "rpc.not_taken"}
        assert noted == {health.endpoint for health in pool.health()}


# --- surveys --------------------------------------------------------------------------------------


async def judged(pool: Pool, surveys: int = 2) -> list[str | None]:
    for _ in range(surveys):
        await pool.survey()
    return aside(pool)


async def test_a_node_that_lags_is_set_aside_and_returns_when_it_has_caught_up() -> None:
    async with nodes(lag=10) as (behind, ahead), pooled([behind, ahead]) as pool:
        ahead.lag = 0
        await behind.follow()
        assert await judged(pool, 1) == ["is 10 blocks behind", None]
        assert [(health.head, health.lag) for health in pool.health()] == [(30, 10), (40, 0)]
        assert await pool.request("eth_blockNumber", []) == hex(40)
        behind.lag = 0
        await behind.follow()
        await asyncio.sleep(0.05)
        assert await judged(pool, 1) == [None, None]


async def test_a_node_that_lacked_a_block_has_caught_up_when_a_survey_finds_its_head() -> None:
    async with nodes() as (late, early), pooled([late, early]) as pool:
        await pool.survey()
        tip = late.tree.mine()
        await early.follow()
        with pytest.raises(Absent):
            await pool._ask(pool._nodes[0], [("eth_getBlockByHash", [tip.hash, False])])
        assert pool.health()[0].lag == 1
        await late.follow()
        await pool.survey()
        assert [health.lag for health in pool.health()] == [0, 0]


async def test_a_node_on_another_fork_is_set_aside_by_the_majority() -> None:
    async with nodes(3) as (astray, second, third), pooled([astray, second, third]) as pool:
        tip = astray.tree.below(astray.head, 35)
        for _ in range(36):
            tip = astray.tree.mine(on=tip)
        await astray.follow(tip)
        why, *well = await judged(pool)
        assert why is not None
        assert why.startswith("is on another fork")
        assert well == [None, None]
        assert await pool.request("eth_blockNumber", []) == hex(second.head.number)


async def test_of_two_nodes_that_disagree_the_longer_fork_is_followed() -> None:
    async with nodes() as (short, long), pooled([short, long]) as pool:
        tip = long.tree.below(long.head, 35)
        for _ in range(38):
            tip = long.tree.mine(on=tip)
        await long.follow(tip)
        why, well = await judged(pool)
        assert why is not None
        assert why.startswith("is on another fork")
        assert well is None
        assert await pool.request("eth_blockNumber", []) == hex(43)


async def test_a_fork_of_one_is_not_the_chain_however_far_ahead_it_is() -> None:
    async with nodes(3) as (one, other, astray), pooled([one, other, astray]) as pool:
        tip = astray.tree.below(astray.head, 30)
        for _ in range(60):
            tip = astray.tree.mine(on=tip)
        await astray.follow(tip)
        *well, why = await judged(pool, 1)
        assert well == [None, None]
        assert why is not None
        assert why.startswith("is on another fork")
        assert await pool.request("eth_blockNumber", []) == hex(40)


async def parted(pool: Pool, good: StubNode, astray: StubNode) -> None:
    """Put one node on a longer fork, deep below its head."""
    tip = astray.tree.below(good.head, 30)
    for _ in range(60):
        tip = astray.tree.mine(on=tip)
    await astray.follow(tip)
    await judged(pool)


async def test_who_was_outvoted_is_not_the_last_resort() -> None:
    async with nodes(3) as (one, other, astray), pooled([one, other, astray]) as pool:
        await parted(pool, one, astray)
        before = astray.posts
        await one.stop()
        await other.stop()
        for _ in range(2):
            with pytest.raises(Unreachable, match="no answer"):
                await pool.request("eth_blockNumber", [])
            assert astray.posts == before
            await asyncio.sleep(0.25)
            await judged(pool)
            before = astray.posts
        why = aside(pool)[2]
        assert why is not None
        assert why.startswith("is on another fork"), "nor does it win a vote that nobody else takes part in"
        await one.start()
        await asyncio.sleep(0.25)
        await judged(pool)
        assert await pool.request("eth_blockNumber", []) == hex(40), "one of those who outvoted it is enough"
        await astray.follow(one.head)
        await asyncio.sleep(0.25)
        await judged(pool)
        assert aside(pool)[2] is None, "it returns with the others' fork"


async def test_most_of_all_that_are_configured_overrule_an_earlier_vote() -> None:
    async with nodes(3) as (one, other, astray), pooled([one, other, astray]) as pool:
        await other.stop()
        await parted(pool, one, astray)
        assert pool._nodes[0].standing.barred, "of two that disagree, the longer fork"
        await other.start()
        await asyncio.sleep(0.25)
        *well, why = await judged(pool, 1)
        assert well == [None, None]
        assert why is not None


async def test_with_every_node_on_another_chain_a_read_fails_loudly() -> None:
    async with nodes() as stubs, pooled(stubs, replace(PATIENT, rounds=1)) as pool:
        await pool.expect(CHAIN_ID)
        for stub in stubs:
            stub.chain_id = 5
        await pool.survey()
        for method in ("eth_blockNumber", "eth_sendRawTransaction"):
            with pytest.raises(Unreachable, match="all serve another chain or fork"):
                await pool.request(method, [])
        stubs[1].chain_id = CHAIN_ID
        await asyncio.sleep(0.05)
        await pool.survey()
        assert await pool.request("eth_blockNumber", []) == hex(40)


async def test_a_short_fork_at_the_tip_sets_nobody_aside() -> None:
    async with nodes() as (one, other), pooled([one, other]) as pool:
        await other.reorg(2, (), ())
        assert await judged(pool) == [None, None]


async def test_a_node_that_begins_to_serve_another_chain_is_set_aside() -> None:
    async with nodes() as (moved, steady), pooled([moved, steady]) as pool:
        await pool.expect(CHAIN_ID)
        moved.chain_id = 5
        assert await judged(pool) == ["serves chain 5, not 31337", None]


async def test_a_node_that_was_down_comes_back_by_itself() -> None:
    async with nodes() as (down, steady):
        params = replace(QUICK, survey_s=0.02)
        async with Pool([down.http_url, steady.http_url], params) as pool:
            await down.stop()
            await becomes_true(lambda: pool.health()[0].why is not None)
            for _ in range(10):
                assert await pool.request("eth_chainId", []) == hex(CHAIN_ID)
            await down.start()
            await becomes_true(lambda: pool.health()[0].why is None)


async def test_a_survey_lets_a_node_that_failed_return_after_a_pause_that_doubles() -> None:
    async with nodes() as (bad, good), pooled([bad, good], replace(PATIENT, shortest_pause_s=0.05)) as pool:
        pauses = []
        for _ in range(3):
            await bad.stop()
            await pool.survey()
            health = pool.health()[0]
            assert health.why is not None
            assert health.aside_until_s is not None
            pauses.append(health.aside_until_s)
            await bad.start()
            await pool.survey()
            assert pool.health()[0].why is not None, "not before its pause is over"
            await asyncio.sleep(0.25)
            await pool.survey()
            assert pool.health()[0].why is None


async def test_an_accusation_during_a_survey_stands() -> None:
    async with nodes(delay_s=0.05) as stubs, pooled(stubs, replace(PATIENT, shortest_pause_s=60)) as pool:
        surveying = asyncio.create_task(pool.survey())
        await becomes_true(lambda: stubs[0].posts == 1)
        pool._set_aside(pool._nodes[0], "left a log out")
        await surveying
        assert aside(pool) == ["left a log out", None]


async def test_a_defect_of_the_surveys_stops_the_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes() as stubs, Pool([stub.http_url for stub in stubs], replace(QUICK, survey_s=0)) as pool:
        await pool.request("eth_chainId", [])
        monkeypatch.setattr(pool, "_judge", lambda *_: 1 / 0)
        await becomes_true(lambda: pool._defect is not None)
        with pytest.raises(InvariantBroken, match="no longer surveyed"):
            await pool.request("eth_chainId", [])


async def test_health_is_plain_values_without_secrets() -> None:
    async with nodes() as stubs, pooled([*stubs, stubs[0]]) as pool:
        await pool.survey()
        found = pool.health()
        assert all(isinstance(each, Health) for each in found)
        assert [each.head for each in found] == [40, 40, 40]
        assert all(each.latency_ms and each.latency_ms > 0 for each in found)
        assert [(each.lag, each.error_rate, each.aside_until_s, each.calls) for each in found] == [
            (0, 0, None, 3)
        ] * 3
        assert found[2].endpoint == f"{found[0].endpoint} #2"
        assert "SECRET" not in str(found)


# --- the chain expected ---------------------------------------------------------------------------


async def test_one_node_of_another_chain_is_a_mistake_of_the_configuration() -> None:
    async with nodes() as (one, other), pooled([one, other]) as pool:
        await pool.expect(CHAIN_ID)
        other.chain_id = 5
        with pytest.raises(ConfigError, match=r"chain 31337 is configured, but http://.* serves 5"):
            await pool.expect(CHAIN_ID)


async def test_one_silent_node_is_no_reason_not_to_start_and_all_silent_are() -> None:
    async with nodes() as (one, other), pooled([one, other]) as pool:
        await one.stop()
        await pool.expect(CHAIN_ID)
        await other.stop()
        with pytest.raises(Unreachable, match="eth_chainId at"):
            await pool.expect(CHAIN_ID)


@pytest.mark.parametrize("method", ["eth_blockNumber", "eth_sendRawTransaction"])
async def test_an_only_node_that_comes_back_with_another_chain_is_not_believed(method: str) -> None:
    params = [raw_tx()] if method == "eth_sendRawTransaction" else []
    async with nodes(1) as (only,), pooled([only], replace(PATIENT, rounds=1)) as pool:
        await pool.expect(CHAIN_ID)
        await only.stop()
        with pytest.raises(Unreachable):
            await pool.request("eth_blockNumber", [])
        only.chain_id = 5
        await only.start()
        for _ in range(2):
            with pytest.raises(Unreachable, match=r"eth_chainId at .*: expected '0x7a69', found '0x5'"):
                await pool.request(method, params)
        assert aside(pool) != [None]
        assert method not in {asked for asked, _ in only.asked}
        only.chain_id = CHAIN_ID
        assert await pool.request(method, params)
        assert aside(pool) == [None]
        only.asked.clear()
        await pool.request("eth_blockNumber", [])
        assert only.asked == [("eth_blockNumber", [])], "who is well is not asked again"


async def test_a_last_resort_that_serves_another_chain_is_not_believed() -> None:
    async with nodes() as (moved, other), pooled([moved, other], replace(PATIENT, rounds=1)) as pool:
        await pool.expect(CHAIN_ID)
        moved.fails(Fault.BAD_GATEWAY)
        moved.chain_id = 5
        await pool.request("eth_blockNumber", [])
        await other.stop()
        with pytest.raises(Unreachable):
            await pool.request("eth_blockNumber", [])
        assert None not in aside(pool)


def test_a_pool_without_endpoints_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Pool([])
