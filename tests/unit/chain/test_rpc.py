"""The JSON-RPC client against a node that stalls, refuses, garbles and drops."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from keeper.chain.rpc import Rpc, RpcError, Unreachable, without_secrets
from keeper.errors import ConfigError

Answer = Callable[[Any], Awaitable[web.StreamResponse]]


@dataclass
class Node:
    """Answers the first requests as scripted and all later ones as the last."""

    answers: list[Answer]
    url: str = ""
    bodies: list[Any] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        return await self.answers[min(len(self.bodies), len(self.answers)) - 1](body)


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Node]:
    node = Node(list(answers))
    app = web.Application()
    app.router.add_post("/{rest:.*}", node.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    node.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v2/SECRET"
    try:
        yield node
    finally:
        await runner.cleanup()


async def echo(body: Any) -> web.StreamResponse:
    """Return each call's parameters, a batch in the wrong order."""
    if isinstance(body, list):
        return web.json_response([_result(call) for call in reversed(body)])
    return web.json_response(_result(body))


def _result(call: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call["id"], "result": call["params"]}


def refusing(code: int, message: str, data: str | None = None) -> Answer:
    async def answer(body: Any) -> web.StreamResponse:
        error = {"code": code, "message": message} | ({"data": data} if data else {})
        last = body[-1] if isinstance(body, list) else body
        refusal = {"jsonrpc": "2.0", "id": last["id"], "error": error}
        return web.json_response(
            [*map(_result, body[:-1]), refusal] if isinstance(body, list) else refusal, status=200
        )

    return answer


def saying(text: str, status: int = 200) -> Answer:
    async def answer(_: Any) -> web.StreamResponse:
        return web.Response(text=text, status=status)

    return answer


async def stall(_: Any) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def test_a_result_comes_back_as_the_node_gave_it() -> None:
    async with serving(echo) as node, Rpc(node.url) as rpc:
        assert await rpc.request("eth_call", [{"to": "0x1"}, "latest"]) == [{"to": "0x1"}, "latest"]
    assert node.bodies[0].keys() == {"jsonrpc", "id", "method", "params"}


async def test_a_batch_returns_results_in_the_order_of_the_calls() -> None:
    async with serving(echo) as node, Rpc(node.url) as rpc:
        assert await rpc.batch([("eth_call", [number]) for number in range(5)]) == [[n] for n in range(5)]
        assert await rpc.batch([]) == []
    assert len(node.bodies) == 1


async def test_a_refusal_carries_code_message_and_revert_data() -> None:
    async with serving(refusing(3, "execution reverted", "0xcafebabe")) as node, Rpc(node.url) as rpc:
        with pytest.raises(RpcError) as refusal:
            await rpc.request("eth_call", [])
    assert (refusal.value.code, refusal.value.message, refusal.value.data) == (
        3,
        "execution reverted",
        "0xcafebabe",
    )
    assert len(node.bodies) == 1


async def test_one_refusal_in_a_batch_is_raised() -> None:
    async with serving(refusing(-32000, "header not found")) as node, Rpc(node.url) as rpc:
        with pytest.raises(RpcError, match=r"eth_getLogs at .*: header not found"):
            await rpc.batch([("eth_call", [1]), ("eth_getLogs", [2])])


async def test_a_batch_refused_as_a_whole_is_raised() -> None:
    whole = saying(json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": "too large"}}))
    async with serving(whole) as node, Rpc(node.url) as rpc:
        with pytest.raises(RpcError, match=r"eth_call at .*: too large"):
            await rpc.batch([("eth_call", [1]), ("eth_call", [2])])


@pytest.mark.parametrize(
    "bad",
    [
        saying("bad gateway", 502),
        saying('{"error": {"code": 429, "message": "slow down"}}', 429),
        saying("not json"),
        saying('"text"'),
        saying("{}"),
        saying('{"id": 1, "error": "text"}'),
        saying('{"result": 1}'),
        saying("[]"),
        saying("[1]"),
        saying("", 301),
    ],
)
async def test_a_read_is_tried_again_until_it_is_understood(bad: Answer) -> None:
    async with serving(bad, bad, echo) as node, Rpc(node.url, attempts=3) as rpc:
        assert await rpc.request("eth_blockNumber", ["x"]) == ["x"]
    assert len(node.bodies) == 3


async def test_a_batch_of_reads_is_tried_again() -> None:
    async with serving(saying("bad gateway", 502), echo) as node, Rpc(node.url) as rpc:
        assert await rpc.batch([("eth_call", [1])]) == [[1]]
    assert len(node.bodies) == 2


@pytest.mark.parametrize("method", ["eth_sendRawTransaction", "evm_mine", "never_heard_of"])
async def test_what_is_not_a_read_is_sent_once(method: str) -> None:
    async with serving(saying("bad gateway", 502), echo) as node, Rpc(node.url, attempts=5) as rpc:
        with pytest.raises(Unreachable):
            await rpc.request(method, [])
        node.bodies.clear()
        node.answers = [saying("bad gateway", 502)]
        with pytest.raises(Unreachable):
            await rpc.batch([("eth_call", []), (method, [])])
    assert len(node.bodies) == 1


async def test_a_stalled_node_is_given_up_after_the_time_out() -> None:
    async with serving(stall) as node, Rpc(node.url, timeout_s=0.05, attempts=2) as rpc:
        with pytest.raises(Unreachable, match=r"eth_call at http://127\.0\.0\.1:[0-9]+: no answer") as fault:
            await rpc.request("eth_call", [])
    assert "SECRET" not in str(fault.value)
    assert len(node.bodies) == 2


async def test_a_fault_has_no_cause_that_could_hold_the_url() -> None:
    async with Rpc("http://127.0.0.1:1/SECRET", attempts=1) as rpc:
        with pytest.raises(Unreachable) as fault:
            await rpc.request("eth_call", [])
    assert fault.value.__cause__ is None
    assert fault.value.__suppress_context__


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
    with pytest.raises(ConfigError, match="must begin with http:// or https://") as refusal:
        Rpc(url)
    assert "KEY" not in str(refusal.value)
