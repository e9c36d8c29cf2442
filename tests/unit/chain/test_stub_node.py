"""The stub node is strict: what a real node would refuse it refuses, in geth's words."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from tests.stub_node import Event, StubNode, Tree

KEY = "0x" + "4c" * 32
EMITTER = "0x" + "e1" * 20
NOWHERE = "0x" + "77" * 32
TOO_MANY = {"code": -32005, "message": "query returned more than 2 results"}


@pytest.fixture
async def node() -> AsyncIterator[StubNode]:
    tree = Tree()
    for _ in range(5):
        tree.mine(Event(EMITTER))
    async with StubNode(tree) as stub:
        yield stub


async def post(node: StubNode, body: Any) -> Any:
    async with aiohttp.ClientSession() as session, session.post(node.http_url, json=body) as response:
        return await response.json()


async def ask(node: StubNode, method: str, *params: Any) -> Any:
    answer = await post(node, {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
    return answer.get("error") or answer["result"]


def raw_tx(nonce: int, fee: int, tip: int) -> str:
    tx = {"type": 2, "chainId": 31337, "to": "0x" + "11" * 20, "value": 0, "gas": 21_000, "nonce": nonce}
    signed = Account.sign_transaction(tx | {"maxFeePerGas": fee, "maxPriorityFeePerGas": tip}, KEY)
    return "0x" + bytes(signed.raw_transaction).hex()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], -32600),
        (1, -32600),
        ({"id": 1, "method": "eth_chainId", "params": []}, -32600),
        ({"jsonrpc": "2.0", "id": None, "method": "eth_chainId", "params": []}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": {}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [1]}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "post", "params": []}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]}, -32601),
    ],
)
async def test_a_malformed_request_is_refused(node: StubNode, body: Any, code: int) -> None:
    assert (await post(node, body))["error"]["code"] == code


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("eth_getBlockByNumber", ["0x01", False], -32602),
        ("eth_getBlockByNumber", [1, False], -32602),
        ("eth_getBlockByNumber", ["latest"], -32602),
        ("eth_getBlockByHash", ["0x77", False], -32602),
        ("eth_getLogs", [{"blockHash": NOWHERE, "fromBlock": "0x0"}], -32602),
        ("eth_getLogs", [{"fromBlock": "0x2", "toBlock": "0x1"}], -32602),
        ("eth_getLogs", [{"from": "0x0"}], -32602),
        ("eth_getLogs", [{"blockHash": NOWHERE}], -32000),
        ("eth_call", [{"to": EMITTER}, {"blockHash": NOWHERE}], -32000),
        ("eth_call", [{"to": EMITTER}, "0x99"], -32000),
        ("eth_call", [{"too": EMITTER}, "latest"], -32602),
        ("eth_getTransactionCount", ["0x12", "latest"], -32602),
        ("eth_sendRawTransaction", ["0xzz"], -32602),
        ("eth_sendRawTransaction", ["0x02"], -32000),
        ("eth_sendBundle", [{"txs": [], "blockNumber": "0x1"}], -32602),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    node: StubNode, method: str, params: list[Any], code: int
) -> None:
    assert (await ask(node, method, *params))["code"] == code


async def test_a_node_shows_one_branch_only(node: StubNode) -> None:
    old = node.head
    await node.reorg(2, (), ())
    assert node.head.number == old.number
    assert await ask(node, "eth_getBlockByHash", old.hash, False) is None
    assert (await ask(node, "eth_getBlockByNumber", "latest", False))["hash"] == node.head.hash


async def test_too_many_logs_and_too_long_ranges_are_refused(node: StubNode) -> None:
    asked = {"fromBlock": "0x0", "toBlock": "0x5"}
    assert len(await ask(node, "eth_getLogs", asked)) == 5
    node.most_results = 2
    assert await ask(node, "eth_getLogs", asked) == TOO_MANY
    node.most_blocks = 3
    assert (await ask(node, "eth_getLogs", asked))["message"] == "range 6 exceeds limit of 3"


async def test_a_transaction_is_replaced_by_ten_percent_in_both_fees_only(node: StubNode) -> None:
    first = await ask(node, "eth_sendRawTransaction", raw_tx(0, 100, 10))
    assert first == "0x" + keccak(hexstr=raw_tx(0, 100, 10)).hex()
    assert (await ask(node, "eth_sendRawTransaction", raw_tx(0, 100, 10)))["message"] == "already known"
    for fee, tip in ((109, 11), (110, 10)):
        refused = await ask(node, "eth_sendRawTransaction", raw_tx(0, fee, tip))
        assert refused == {"code": -32000, "message": "replacement transaction underpriced"}
    second = await ask(node, "eth_sendRawTransaction", raw_tx(0, 110, 11))
    assert list(node.pool) == [second]
    await node.mine()
    assert (await ask(node, "eth_getTransactionReceipt", second))["blockHash"] == node.head.hash
    assert await ask(node, "eth_getTransactionReceipt", first) is None
    assert (await ask(node, "eth_sendRawTransaction", raw_tx(0, 200, 20)))["message"] == "nonce too low"
    sender = Account.from_key(KEY).address
    assert await ask(node, "eth_getTransactionCount", sender, "latest") == "0x1"


async def test_a_bundle_is_taken_for_a_block_to_come(node: StubNode) -> None:
    bundle = {"txs": [raw_tx(0, 100, 10)], "blockNumber": "0x6"}
    assert (await ask(node, "eth_sendBundle", bundle)).keys() == {"bundleHash"}
    assert node.bundles == [bundle]


async def test_a_bloom_holds_the_addresses_and_topics_of_its_block(node: StubNode) -> None:
    bloom = int((await ask(node, "eth_getBlockByNumber", "latest", False))["logsBloom"], 16)
    digest = keccak(hexstr=EMITTER)
    bits = [int.from_bytes(digest[at : at + 2]) & 2047 for at in (0, 2, 4)]
    assert all(bloom >> bit & 1 for bit in bits)
    assert bloom.bit_count() == len(set(bits))
