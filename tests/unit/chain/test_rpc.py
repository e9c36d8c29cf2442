"""One node, one try: what is taken for an answer, and what a node's faults become."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from keeper.chain import rpc as rpc_module
from keeper.chain.budget import Budget
from keeper.chain.rpc import Rpc, RpcError, Throttled, Unreachable, results_of, without_secrets
from keeper.errors import ConfigError
from tests.stub_node import Fault, Refused, StubNode, Tree

ONE = [{"jsonrpc": "2.0", "id": 7, "method": "eth_blockNumber", "params": []}]
TWO = [*ONE, {"jsonrpc": "2.0", "id": 8, "method": "eth_chainId", "params": []}]
SEVEN = {"jsonrpc": "2.0", "id": 7, "result": "0x10"}
EIGHT = {"jsonrpc": "2.0", "id": 8, "result": "0x1"}
SLOW_DOWN = {"code": -32005, "message": "daily request count exceeded, request rate limited"}


@asynccontextmanager
async def connected(node: StubNode, **options: Any) -> AsyncIterator[Rpc]:
    rpc = Rpc(node.http_url, **options)
    try:
        yield rpc
    finally:
        await rpc.close()


def read(sent: list[dict[str, Any]], answer: Any, status: int = 200) -> list[Any]:
    return results_of(sent, status, json.dumps(answer).encode(), "http://node")


# --- reading an answer ----------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_calls() -> None:
    assert read(TWO, [EIGHT, SEVEN]) == ["0x10", "0x1"]
    assert read(ONE, SEVEN) == ["0x10"]
    assert read(ONE, SEVEN | {"error": None}) == ["0x10"]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (ONE, None),
        (ONE, "text"),
        (ONE, {}),
        (ONE, []),
        (ONE, [SEVEN]),
        (ONE, SEVEN | {"jsonrpc": "1.0"}),
        (ONE, {"id": 7, "result": "0x10"}),
        (ONE, SEVEN | {"id": "7"}),
        (ONE, SEVEN | {"id": 7.0}),
        (ONE, SEVEN | {"id": True}),
        (ONE, SEVEN | {"id": None}),
        (ONE, SEVEN | {"id": [7]}),
        (ONE, SEVEN | {"id": 8}),
        (ONE, SEVEN | {"error": {"code": 1, "message": "no"}}),
        (ONE, {"jsonrpc": "2.0", "id": 7}),
        (ONE, {"jsonrpc": "2.0", "id": 7, "error": "text"}),
        (ONE, {"jsonrpc": "2.0", "id": 7, "error": {"message": "no"}}),
        (ONE, {"jsonrpc": "2.0", "id": 7, "error": {"code": "1", "message": "no"}}),
        (ONE, {"jsonrpc": "2.0", "id": 7, "error": {"code": 1, "message": ["no"]}}),
        (TWO, SEVEN),
        (TWO, [SEVEN]),
        (TWO, [SEVEN, SEVEN]),
        (TWO, [SEVEN, EIGHT, EIGHT]),
        (TWO, [SEVEN, EIGHT, SEVEN | {"id": 9}]),
        (TWO, [SEVEN, EIGHT, 1]),
        (TWO, [SEVEN, EIGHT | {"result": 1}]),
    ],
)
def test_what_is_not_exactly_the_answer_is_none(sent: list[dict[str, Any]], answer: Any) -> None:
    with pytest.raises(
        Unreachable, match=r"eth_blockNumber first, at|eth_blockNumber at http://node: expected"
    ):
        read(sent, answer)


@pytest.mark.parametrize(
    "text", [b"", b"not json", b'{"jsonrpc":"2.0","id":7,"result":"0x1', b"\xff", b"[" * 5000]
)
def test_what_is_no_json_is_no_answer(text: bytes) -> None:
    with pytest.raises(Unreachable, match=r"at http://node: expected JSON-RPC, found HTTP 200$"):
        results_of(ONE, 200, text, "http://node")


def test_a_result_is_believed_with_status_200_only() -> None:
    with pytest.raises(Unreachable, match="another status"):
        read(ONE, SEVEN, 500)


@pytest.mark.parametrize(
    ("status", "message", "is_answer"),
    [
        (400, "header not found", True),
        (404, "header not found", True),
        (500, "execution reverted", True),
        (401, "unauthorized", False),
        (402, "payment required", False),
        (403, "project disabled", False),
        (500, "internal error", False),
        (502, "header not found", False),
    ],
)
def test_a_refusal_is_the_node_s_unless_the_status_says_otherwise(
    status: int, message: str, is_answer: bool
) -> None:
    answer = {"jsonrpc": "2.0", "id": 7, "error": {"code": -32000, "message": message}}
    with pytest.raises(RpcError if is_answer else Unreachable, match=message):
        read(ONE, answer, status)


@pytest.mark.parametrize("given", [7, None])
def test_a_refusal_carries_code_message_and_revert_data(given: int | None) -> None:
    error = {"code": 3, "message": "execution reverted", "data": "0xcafebabe"}
    with pytest.raises(RpcError, match="eth_blockNumber at http://node: execution reverted") as refusal:
        read(ONE, {"jsonrpc": "2.0", "id": given, "error": error})
    said = refusal.value
    assert (said.code, said.message, said.data) == (3, "execution reverted", "0xcafebabe")


def test_a_batch_may_be_refused_in_part_or_as_a_whole() -> None:
    error = {"jsonrpc": "2.0", "id": 8, "error": {"code": 1, "message": "no"}}
    with pytest.raises(RpcError, match="eth_chainId at"):
        read(TWO, [error, SEVEN])
    with pytest.raises(RpcError, match="eth_blockNumber at"):
        read(TWO, error | {"id": None})
    with pytest.raises(RpcError, match="eth_blockNumber at"):
        read(TWO, [error | {"id": None}])


@pytest.mark.parametrize(
    ("error", "throttled"),
    [
        (SLOW_DOWN, True),
        ({"code": 429, "message": "Your app has exceeded its compute units per second capacity."}, True),
        ({"code": -32007, "message": "50/second request limit reached"}, True),
        ({"code": -32012, "message": "credits limited to 6000/sec"}, True),
        ({"code": -32005, "message": "query returned more than 10000 results"}, False),
        ({"code": -32602, "message": "range 1000000 exceeds limit of 10000"}, False),
        ({"code": -32602, "message": "Log response size exceeded."}, False),
        ({"code": 3, "message": "execution reverted: rate limit exceeded", "data": "0x"}, False),
        ({"code": 3, "message": "too many requests", "data": "0x"}, False),
        ({"code": -32000, "message": "VM Exception: reverted with reason 'rate limit'"}, False),
    ],
)
def test_a_provider_that_asks_for_patience_in_words_is_understood(error: Any, throttled: bool) -> None:
    with pytest.raises(Throttled if throttled else RpcError):
        read(ONE, {"jsonrpc": "2.0", "id": 7, "error": error})


def test_a_message_is_cut_before_it_floods_the_log() -> None:
    with pytest.raises(RpcError) as refusal:
        read(ONE, {"jsonrpc": "2.0", "id": 7, "error": {"code": 1, "message": "x" * 10**6}})
    assert len(str(refusal.value)) < 600


# --- over the wire --------------------------------------------------------------------------------


async def test_one_call_goes_alone_and_several_as_one_batch() -> None:
    async with StubNode(Tree()) as node, connected(node) as rpc:
        assert await rpc.exchange([("eth_chainId", [])]) == ["0x7a69"]
        assert await rpc.exchange([("eth_chainId", []), ("eth_blockNumber", [])]) == ["0x7a69", "0x0"]
    assert node.posts == 2


@pytest.mark.parametrize(
    "fault",
    [fault for fault in Fault if fault not in {Fault.STALLED, Fault.THROTTLED, Fault.INTERNAL}],
)
async def test_a_spoilt_answer_is_none_and_the_next_one_is_read(fault: Fault) -> None:
    calls: list[tuple[str, list[Any]]] = [("eth_chainId", []), ("eth_blockNumber", [])]
    async with StubNode(Tree()) as node, connected(node) as rpc:
        node.fails(fault)
        with pytest.raises(Unreachable) as silence:
            await rpc.exchange(calls)
        assert await rpc.exchange(calls) == ["0x7a69", "0x0"]
    assert "SECRET" not in str(silence.value)


async def test_a_stalled_node_is_given_up_after_the_time_out() -> None:
    async with StubNode(Tree()) as node, connected(node, timeout_s=0.05) as rpc:
        node.fails(Fault.STALLED)
        with pytest.raises(Unreachable, match=r"eth_chainId at http://127\.0\.0\.1:[0-9]+: no answer"):
            await rpc.exchange([("eth_chainId", [])])


async def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "BODY_BYTES", 2**20)
    async with StubNode(Tree(), answers_all=(200, " " * 2**24)) as node, connected(node) as rpc:
        with pytest.raises(Unreachable, match="more than 1048576 bytes"):
            await rpc.exchange([("eth_chainId", [])])
        node.answers_all = None
        assert await rpc.exchange([("eth_chainId", [])]) == ["0x7a69"]


async def test_a_node_that_reverts_is_quoted() -> None:
    def reverts(*_: Any) -> str:
        raise Refused(3, "execution reverted", "0xcafebabe")

    async with StubNode(Tree(), eth_call=reverts) as node, connected(node) as rpc:
        with pytest.raises(RpcError) as refusal:
            await rpc.exchange([("eth_call", [{"to": "0x" + "00" * 20, "data": "0x"}, "latest"])])
    assert refusal.value.data == "0xcafebabe"


@pytest.mark.parametrize("status", [200, 403, 429])
@pytest.mark.parametrize(
    "said",
    [
        {"error": {"code": -32000, "message": "key {} of {} is not enabled"}},
        {"error": {"code": "{}", "message": ""}},
        {"result": "{}"},
        {"id": "{}", "result": "0x1"},
        {"error": {"code": -32005, "message": "{}: rate limit"}},
    ],
)
async def test_a_key_that_a_provider_echoes_is_told_to_nobody(status: int, said: dict[str, Any]) -> None:
    node = StubNode(Tree())
    async with node:
        rpc = Rpc(f"{node.http_url}?apikey=HUSHHUSH%2Fword")
        for echo in ("SECRET-SECRET", "HUSHHUSH", "HUSHHUSH%2Fword", rpc._url):
            text = json.dumps({"jsonrpc": "2.0", "id": next(rpc._ids) + 1} | said).replace("{}", echo)
            node.answers_all = (status, text)
            with pytest.raises((RpcError, Unreachable)) as fault:
                await rpc.exchange([("eth_chainId", [])])
            assert "SECRET" not in str(fault.value)
            assert "HUSH" not in str(fault.value)
            assert fault.value.__context__ is None or fault.value.__suppress_context__
        await rpc.close()


async def test_a_fault_has_no_cause_that_could_hold_the_url() -> None:
    rpc = Rpc("http://127.0.0.1:1/SECRET")
    with pytest.raises(Unreachable) as fault:
        await rpc.exchange([("eth_chainId", [])])
    await rpc.close()
    assert fault.value.__cause__ is None
    assert fault.value.__suppress_context__


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("7", 7, 7),
        (" 120 ", 120, 120),
        (90, 60, 91),
        (-90, 0, 0),
        ("999999999", 600, 600),
        (10**6, 600, 600),
    ],
)
async def test_retry_after_is_seconds_or_a_date(said: str | int, least: float, most: float) -> None:
    if isinstance(said, int):
        said = format_datetime(datetime.now(UTC) + timedelta(seconds=said), usegmt=True)
    async with StubNode(Tree(), retry_after=said) as node, connected(node) as rpc:
        node.fails(Fault.THROTTLED)
        with pytest.raises(Throttled, match="HTTP 429") as throttled:
            await rpc.exchange([("eth_chainId", [])])
    assert throttled.value.retry_after_s is not None
    assert least <= throttled.value.retry_after_s <= most


@pytest.mark.parametrize(
    ("status", "said"),
    [(503, "<html>busy</html>"), (200, {"jsonrpc": "2.0", "id": 1, "error": SLOW_DOWN}), (429, "")],
)
async def test_retry_after_is_obeyed_however_patience_is_asked_for(status: int, said: Any) -> None:
    async with (
        StubNode(Tree(), retry_after="7", answers_all=(status, said)) as node,
        connected(node) as rpc,
    ):
        with pytest.raises(Throttled) as throttled:
            await rpc.exchange([("eth_chainId", [])])
    assert throttled.value.retry_after_s == 7


async def test_a_node_that_is_unavailable_and_names_no_time_is_silent() -> None:
    async with StubNode(Tree(), answers_all=(503, "busy")) as node, connected(node) as rpc:
        with pytest.raises(Unreachable, match="found HTTP 503") as silence:
            await rpc.exchange([("eth_chainId", [])])
    assert not isinstance(silence.value, Throttled)


@pytest.mark.parametrize("said", [None, "", "soon", "-1", "1e9", "nan", "9" * 20])
async def test_a_retry_after_that_says_nothing_is_none(said: str | None) -> None:
    async with StubNode(Tree(), retry_after=said) as node, connected(node) as rpc:
        node.fails(Fault.THROTTLED)
        with pytest.raises(Throttled) as throttled:
            await rpc.exchange([("eth_chainId", [])])
    assert throttled.value.retry_after_s is None


# --- the budget -----------------------------------------------------------------------------------


async def test_a_budget_lets_a_second_s_worth_through_and_makes_the_rest_wait() -> None:
    budget = Budget(50)
    assert budget.has_room(50)
    await asyncio.wait_for(budget.spend(50), 0.05)
    assert not budget.has_room()
    assert budget.used == 1
    before_s = asyncio.get_running_loop().time()
    await budget.spend(5)
    assert 0.05 < asyncio.get_running_loop().time() - before_s < 1
    assert budget.spent == 55


async def test_a_batch_larger_than_the_budget_takes_several_turns() -> None:
    budget = Budget(50)
    before_s = asyncio.get_running_loop().time()
    await budget.spend(60)
    assert 0.15 < asyncio.get_running_loop().time() - before_s < 1.5


async def test_without_a_budget_nothing_waits() -> None:
    budget = Budget()
    await asyncio.wait_for(budget.spend(10**6), 0.05)
    assert budget.has_room(10**6)
    assert budget.used == 0


# --- endpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@node.example:8545/v2/KEY?k=KEY#KEY", "https://node.example:8545"),
        ("wss://node.example/ws/KEY", "wss://node.example"),
        ("http://node.example:99999/KEY", "an invalid URL"),
        ("http://[::1/KEY", "an invalid URL"),
    ],
)
def test_an_endpoint_is_shown_without_credentials(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize("url", ["ws://node.example/KEY", "node.example/KEY", ""])
def test_an_endpoint_that_is_not_http_is_refused_without_showing_its_key(url: str) -> None:
    with pytest.raises(ConfigError, match="must be a URL that begins with http") as refusal:
        Rpc(url)
    assert "KEY" not in str(refusal.value)
