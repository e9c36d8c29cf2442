"""What an act asks of a node or a relay is on the wire at once, over a connection that is ready."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp.connector
import pytest
from structlog.testing import capture_logs

from keeper.chain import relay as relay_module
from keeper.chain.pool import Pool
from keeper.chain.relay import KNOCK_S, Relay
from keeper.chain.rpc import KEPT_S, Throttled

PATIENCE_S = 5.0


@asynccontextmanager
async def warm() -> AsyncIterator[tuple[Pool, socket.socket]]:
    """A pool of one node that has answered once, with a cookie, and the node's end of their connection."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        # By its name, for aiohttp keeps no cookies of an address anyway.
        pool = Pool([f"http://localhost:{listener.getsockname()[1]}"])
        asked = asyncio.create_task(pool.request("eth_chainId", []))
        line, _ = await loop.sock_accept(listener)
        with line:
            line.setblocking(False)
            await answer(line, "0x1")
            assert await asked == "0x1"
            try:
                yield pool, line
            finally:
                await pool.close()


@asynccontextmanager
async def asking(pool: Pool, method: str, params: list[Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """A request on its way, which is given up in the end."""
    task = asyncio.create_task(pool.request(method, params))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def heard_on(line: socket.socket) -> bytes:
    """Return what comes next; nothing where the keeper has closed the connection."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.get_running_loop().sock_recv(line, 2**16)


async def answer(line: socket.socket, result: str) -> None:
    """Read one request to its end, and answer it."""
    loop, heard = asyncio.get_running_loop(), b""
    while not heard.endswith(b"}"):
        heard += await loop.sock_recv(line, 2**16)
    call = json.loads(heard.partition(b"\r\n\r\n")[2])
    body = json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}).encode()
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: visitor=1; Path=/\r\nContent-Length: %d\r\n\r\n" % len(body)
    await loop.sock_sendall(line, head + body)


def heard_at_once(line: socket.socket) -> bytes:
    """Return what has come by now; whoever waits here keeps the loop from sending more."""
    line.settimeout(0.2)
    try:
        return line.recv(2**16)
    except TimeoutError:
        return b""
    finally:
        line.setblocking(False)


@pytest.mark.parametrize(
    ("method", "params"),
    [("eth_sendRawTransaction", ["0x" + "a5" * 330]), ("eth_call", [{"to": "0x" + "11" * 20}, "latest"])],
)
async def test_a_request_is_on_the_wire_within_its_first_turn(method: str, params: list[Any]) -> None:
    async with warm() as (pool, line), asking(pool, method, params):
        await asyncio.sleep(0)
        heard = heard_at_once(line)
        assert method.encode() in heard
        assert heard.endswith(b"}")


@pytest.mark.parametrize("size", [2**15, 2**16, 2**19])
async def test_a_request_of_any_length_arrives_whole(size: int) -> None:
    raw = "0x" + "a5" * (size // 2)
    async with warm() as (pool, line), asking(pool, "eth_sendRawTransaction", [raw]) as asked:
        await answer(line, "0x" + "ab" * 32)
        assert await asked == "0x" + "ab" * 32


@pytest.mark.parametrize(("idle_s", "is_kept"), [(40.0, True), (60.0, False)])
async def test_a_connection_outlives_empty_slots_but_no_balancer_s_patience(
    idle_s: float, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with warm() as (pool, line):
        now_s = time.monotonic() + idle_s
        monkeypatch.setattr(aiohttp.connector, "monotonic", lambda: now_s)
        async with asking(pool, "eth_sendRawTransaction", ["0x00"]):
            assert (b"eth_sendRawTransaction" in await heard_on(line)) == is_kept


async def test_a_connection_that_the_node_has_closed_is_not_written_to() -> None:
    async with warm() as (pool, line):
        line.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.05)
        async with asking(pool, "eth_sendRawTransaction", ["0x00"]):
            assert await heard_on(line) == b""


async def test_no_cookie_of_a_node_is_carried_along() -> None:
    async with warm() as (pool, line), asking(pool, "eth_chainId", []):
        heard = await heard_on(line)
        assert b"eth_chainId" in heard
        assert b"cookie" not in heard.lower()


@asynccontextmanager
async def called_on() -> AsyncIterator[tuple[Relay, socket.socket]]:
    """A relay that has been called on, and its end of the connection, on which it has not answered yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        relay = Relay(f"http://127.0.0.1:{listener.getsockname()[1]}/SECRET-SECRET", timeout_s=PATIENCE_S)
        async with relay.at_hand():
            line, _ = await asyncio.get_running_loop().sock_accept(listener)
            with line:
                line.setblocking(False)
                assert (await heard_on(line)).startswith(b"HEAD ")
                yield relay, line


async def say(line: socket.socket, status: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(line, b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)
    # The keeper reads it.
    await asyncio.sleep(0.05)


async def test_a_relay_is_called_on_before_an_act_and_the_act_uses_that_connection() -> None:
    async with called_on() as (relay, line):
        await say(line, b"405 Method Not Allowed")
        asked = asyncio.create_task(relay.request("eth_sendPrivateTransaction", [{"tx": "0x00"}]))
        async with asyncio.timeout(PATIENCE_S):
            await answer(line, "0x" + "ab" * 32)
            assert await asked == "0x" + "ab" * 32


async def test_a_relay_is_called_on_again_while_its_connection_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert KNOCK_S < KEPT_S
    monkeypatch.setattr(relay_module, "KNOCK_S", 0.01)
    async with called_on() as (_, line):
        for _ in range(3):
            await say(line, b"200 OK")
            assert (await heard_on(line)).startswith(b"HEAD ")


async def test_a_relay_that_asks_a_caller_for_patience_is_left_alone() -> None:
    async with called_on() as (relay, line):
        await say(line, b"429 Too Many Requests\r\nRetry-After: 60")
        with pytest.raises(Throttled, match="told to wait"):
            await relay.request("eth_sendPrivateTransaction", [{"tx": "0x00"}])


async def test_a_relay_that_cannot_be_called_on_is_told_of_without_its_key() -> None:
    with capture_logs() as logs:
        async with Relay("http://127.0.0.1:1/SECRET-SECRET", timeout_s=PATIENCE_S).at_hand():
            await asyncio.sleep(0.05)
    [told] = [entry for entry in logs if entry["event"] == "relay.unreachable"]
    assert "no answer" in told["why"]
    assert "SECRET" not in str(told)
