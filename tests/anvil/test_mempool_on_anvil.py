"""What is announced to an oracle, and what another transaction would do right behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector as selector

from keeper.chain.mempool import Mempool
from keeper.chain.pool import Pool
from keeper.domain import Announced, Call, ChainTime, Fees, Refuse
from keeper.errors import ChainFault
from keeper.lab.anvil import GWEI, Node, Tx
from keeper.lab.deploy import created_address
from keeper.protocols.hybrid.abi import artifact
from tests.anvil.conftest import GENESIS_S

pytestmark = pytest.mark.anvil

ADMIN, OTHER = "0x" + "a0" * 20, "0x" + "0b" * 20
AT = ChainTime(2, GENESIS_S + 60)


def calls(signature: str, types: list[str], *values: object) -> bytes:
    return bytes(selector(signature)) + encode(types, values)


def mint(to: str, units: int) -> bytes:
    return calls("mint(address,uint256)", ["address", "uint256"], to, units)


BALANCE = calls("balanceOf(address)", ["address"], OTHER)
MOVE = calls("transfer(address,uint256)", ["address", "uint256"], ADMIN, 5)


@pytest.fixture
def token(anvil: Node) -> str:
    """A token stands in for the oracle: what it holds for somebody is what is told."""
    anvil.fund([ADMIN, OTHER])
    made = bytes.fromhex(artifact("TestToken")["bytecode"][2:])
    arguments = encode(["string", "string", "uint8"], ["T", "T", 6])
    anvil.run([Tx(ADMIN, None, made + arguments, 5_000_000)], GENESIS_S + 30)
    return created_address(ADMIN, 0)


@asynccontextmanager
async def hearing(node: Node, *oracles: str) -> AsyncIterator[tuple[Mempool, AsyncIterator[Announced]]]:
    async with Pool([node.http_url]) as pool:
        mempool = Mempool(pool, [node.ws_url], oracles, {})
        async with aclosing(mempool.announced()) as news:
            yield mempool, news


async def heard(news: AsyncIterator[Announced], node: Node, *txs: Tx) -> Announced:
    """Send until the first is heard: when a node has begun to announce, nobody is told."""
    first = asyncio.ensure_future(anext(news))
    while not first.done():
        node.send(txs)
        await asyncio.wait({first}, timeout=0.2)
    return first.result()


async def test_only_what_is_sent_to_an_oracle_is_heard(anvil: Node, token: str) -> None:
    async with hearing(anvil, token.upper().replace("X", "x")) as (_, news):
        found = await heard(news, anvil, Tx(OTHER, ADMIN, b""), Tx(ADMIN, token, mint(OTHER, 7)))
    assert (found.sender, found.call) == (ADMIN, Call(token, mint(OTHER, 7)))
    assert found.fees.priority_fee_wei == GWEI
    assert found.gas == Tx(ADMIN, token, b"").gas


async def test_a_read_behind_it_sees_what_it_does_and_the_chain_does_not(anvil: Node, token: str) -> None:
    announced = Announced("0x01", ADMIN, Call(token, mint(OTHER, 7)), 100_000, Fees(9 * GWEI, GWEI))
    async with hearing(anvil, token) as (mempool, _):
        found = await mempool.behind([announced, announced], Call(token, BALANCE), AT, OTHER, 100_000)
    assert isinstance(found, bytes)
    assert int.from_bytes(found) == 14
    assert int.from_bytes(anvil.call(token, BALANCE)) == 0


async def test_a_revert_behind_it_is_told_with_its_data(anvil: Node, token: str) -> None:
    announced = Announced("0x01", ADMIN, Call(token, mint(OTHER, 4)), 100_000, Fees(9 * GWEI, GWEI))
    async with hearing(anvil, token) as (mempool, _):
        short = await mempool.behind([announced], Call(token, MOVE), AT, OTHER, 100_000)
        enough = await mempool.behind([announced] * 2, Call(token, MOVE), AT, OTHER, 100_000)
    assert isinstance(short, Refuse)
    assert short.reason.rule == "simulation.reverted"
    assert short.reason.evidence.startswith(
        "0x" + selector("ERC20InsufficientBalance(address,uint256,uint256)").hex()
    )
    assert isinstance(enough, bytes)


async def test_an_announced_transaction_that_would_revert_is_a_fault(anvil: Node, token: str) -> None:
    announced = Announced("0xfa11", OTHER, Call(token, MOVE), 100_000, Fees(9 * GWEI, GWEI))
    async with hearing(anvil, token) as (mempool, _):
        with pytest.raises(ChainFault, match="0xfa11 would revert"):
            await mempool.behind([announced], Call(token, BALANCE), AT, OTHER, 100_000)
