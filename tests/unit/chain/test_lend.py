"""A contract that is not deployed: which nodes can call one, and what is said of those that cannot."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from keeper.chain.pool import Pool
from keeper.chain.reader import ONE, SAYS_ONE, ChainReader
from keeper.chain.rpc import RpcError, Unreachable
from keeper.domain import Call
from keeper.errors import ConfigError
from tests.stub_node import Fault, Refused, StubNode
from tests.unit.chain.test_pool import aside, nodes, pooled

NOWHERE, WS_URL = "0x" + "4e" * 20, "ws://127.0.0.1:1"
CREATION, CODE, ROWS = "0xc0de", "0xabcd", "0x" + "0a" * 40


def evm(_: Any, tx: dict[str, Any]) -> str:
    """Run the one creation code that there is, and the code that it leaves."""
    if "to" not in tx:
        assert tx == {"data": CREATION}
        return CODE
    return {SAYS_ONE: "0x" + ONE.hex(), CODE: ROWS}.get(tx.get("code", ""), "0x")


def no_creation(block: Any, tx: dict[str, Any]) -> str:
    if "to" not in tx:
        raise Refused(-32602, "missing to")
    return evm(block, tx)


def empty_creation(block: Any, tx: dict[str, Any]) -> str:
    return evm(block, tx) if "to" in tx else "0x"


def deaf(block: Any, tx: dict[str, Any]) -> str:
    return evm(block, {name: value for name, value in tx.items() if name != "code"})


def reverting(*_: Any) -> str:
    raise Refused(3, "execution reverted", "0x")


def reader_of(pool: Pool) -> ChainReader:
    return ChainReader(pool, [WS_URL], [])


async def rows_of(reader: ChainReader, node: StubNode) -> bytes:
    return await reader.call(Call(NOWHERE, b"\x01"), node.head.hash)


def incapable(node: StubNode, how: Callable[..., str] | None) -> None:
    """Have a node refuse overrides, or answer calls in another way."""
    node.takes_overrides = how is not None
    node.eth_call = how or evm


LACKS = pytest.mark.parametrize(
    ("how", "why"),
    [
        (None, "too many arguments"),
        (deaf, "eth_call does not heed state overrides"),
        (no_creation, "missing to"),
        (empty_creation, "eth_call runs no creation code"),
    ],
)


async def test_what_is_lent_goes_with_every_call_there_and_with_no_other() -> None:
    async with nodes(1, eth_call=evm) as (node,), pooled([node]) as pool:
        reader = reader_of(pool)
        await reader.lend(NOWHERE, bytes.fromhex(CREATION[2:]))
        assert (await rows_of(reader, node)).hex() == ROWS[2:]
        assert await reader.call(Call("0x" + "4f" * 20, b"\x01"), node.head.hash) == b""
        other = ChainReader(pool, [WS_URL], [], lent=reader.lent)
        assert (await rows_of(other, node)).hex() == ROWS[2:]


async def test_a_call_takes_codes_of_its_own_along() -> None:
    async with nodes(1, eth_call=evm) as (node,), pooled([node]) as pool:
        reader, at = reader_of(pool), node.head.hash
        assert (await reader.call(Call(NOWHERE, b"\x01", ((NOWHERE, CODE),)), at)).hex() == ROWS[2:]
        other = "0x" + "4f" * 20
        _, params = reader._pinned(Call(NOWHERE, b"\x01", ((other, CODE),)), at)
        assert params[2:] == [{other: {"code": CODE}}]
        reader.lent[NOWHERE] = CODE
        _, params = reader._pinned(Call(NOWHERE, b"\x01", ((other, CODE),)), at)
        assert params[2:] == [{other: {"code": CODE}, NOWHERE: {"code": CODE}}]


@LACKS
@pytest.mark.parametrize("count", [1, 2])
async def test_a_node_that_cannot_is_named(how: Callable[..., str] | None, why: str, count: int) -> None:
    async with nodes(count, eth_call=evm) as stubs, pooled(stubs) as pool:
        incapable(stubs[-1], how)
        address = f"http://127.0.0.1:{stubs[-1].port}"
        expected = rf"^{address} cannot call a contract that is not deployed: .*{why}"
        with pytest.raises(ConfigError, match=expected) as said:
            await reader_of(pool).lend(NOWHERE, bytes.fromhex(CREATION[2:]))
        assert "SECRET" not in str(said.value)
        assert "\n" not in str(said.value)


async def test_a_creation_that_reverts_is_no_lack_of_the_node() -> None:
    async with nodes(1, eth_call=reverting) as (node,), pooled([node]) as pool:
        with pytest.raises(RpcError, match="execution reverted"):
            await reader_of(pool).lend(NOWHERE, bytes.fromhex(CREATION[2:]))


async def test_without_any_answer_nothing_is_said_of_the_nodes() -> None:
    async with nodes(eth_call=evm) as stubs, pooled(stubs) as pool:
        for stub in stubs:
            stub.fails(Fault.BAD_GATEWAY, always=True)
        with pytest.raises(Unreachable):
            await reader_of(pool).lend(NOWHERE, bytes.fromhex(CREATION[2:]))


@pytest.mark.parametrize(
    ("how", "believed"),
    [(None, False), (deaf, False), (no_creation, True), (empty_creation, True), (evm, True)],
)
async def test_a_node_that_was_silent_has_to_show_that_it_can_before_it_is_believed(
    how: Callable[..., str] | None, *, believed: bool
) -> None:
    """But for the creation, which is over."""
    async with nodes(eth_call=evm) as (late, steady), pooled([late, steady]) as pool:
        await late.stop()
        reader = reader_of(pool)
        await reader.lend(NOWHERE, bytes.fromhex(CREATION[2:]))
        incapable(late, how)
        await late.start()
        await asyncio.sleep(0.1)
        await pool.survey()
        assert (aside(pool)[0] is None) == believed
        assert aside(pool)[1] is None
        for _ in range(3):
            assert (await rows_of(reader, steady)).hex() == ROWS[2:]
