"""More than ten thousand malformed answers: none crashes the reader, and no wrong value is accepted.

The answers are those of the stub node to one exchange of each kind, and what its websocket announces, spoilt
in every way that leaves them recognisably wrong, under any HTTP status. Only ChainFault may come of one;
where one is accepted nevertheless, since the spoiling hit what nobody looks at, its values must be the true
ones.
"""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from keeper.chain.rpc import results_of
from keeper.chain.stream import ENDS, Stream
from keeper.chain.wire import head_of, log_of, quantity
from keeper.errors import ChainFault
from tests.stub_node import Event, StubNode, Tree, Tx

SEED = 20_260_101
ANSWERS = 24_000
EMITTER = "0x" + "e1" * 20
SENT = Tx("0x" + "5e" * 32, EMITTER, 0, 100, 1)
STATUSES = [200, 200, 200, 200, 201, 204, 301, 400, 401, 403, 404, 418, 500, 502, 503]
JUNK: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, 2**63, 2**64, 10**400, "", "0x", "0X1", "0x00", "0x_1", " 0x1",
    "0x1\n", "0x" + "f" * 65, "0xzz", "latest", "NaN", "\u0000", "\ud800", "9" * 5000, [], [[]], {},
    {"": None},
]  # fmt: skip


def exchanges() -> list[tuple[list[dict[str, Any]], list[Any]]]:
    """Return what can be asked, as it is sent, and the true results."""
    tree = Tree()
    block = tree.tip
    for number in range(4):
        block = tree.mine(*[Event(EMITTER, ("0x" + f"{number:064x}",), "0x" + "ab" * 40)] * 3, txs=(SENT,))
    node = StubNode(tree, eth_call=lambda at, _: f"0x{at.number:064x}")
    call = [{"to": EMITTER, "data": "0x"}, {"blockHash": block.hash}]
    logs = [{"address": [EMITTER], "blockHash": block.hash}]
    asked: list[list[tuple[str, list[Any]]]] = [
        [("eth_chainId", [])],
        [("eth_call", call)],
        [("eth_getLogs", logs)],
        [("eth_getBlockByNumber", ["latest", False])],
        [("eth_getBlockByHash", [block.hash, False]), ("eth_blockNumber", [])],
        [("eth_getLogs", [{"address": [EMITTER], "fromBlock": "0x1", "toBlock": "0x3"}])],
        [("eth_getTransactionReceipt", [SENT.hash])],
        [("eth_feeHistory", ["0x2", "latest", []])],
        [("eth_call", call)] * 3 + [("eth_getLogs", logs), ("eth_getTransactionCount", [EMITTER, "latest"])],
    ]
    found = []
    for calls in asked:
        sent = [
            {"jsonrpc": "2.0", "id": 100 + at, "method": method, "params": params}
            for at, (method, params) in enumerate(calls)
        ]
        found.append((sent, [node._answer(each)["result"] for each in sent]))
    return found


def answer_to(sent: list[dict[str, Any]], results: list[Any]) -> Any:
    answers = [{"jsonrpc": "2.0", "id": c["id"], "result": r} for c, r in zip(sent, results, strict=True)]
    return answers if len(answers) > 1 else answers[0]


# --- ways to spoil --------------------------------------------------------------------------------


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with each of its keys."""
    for key in tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from places(tree[key])


def cut(answer: Any, rng: random.Random) -> bytes:
    text = json.dumps(answer).encode()
    return text[: rng.randrange(len(text))]


def wrong_bytes(answer: Any, rng: random.Random) -> bytes:
    """Overwrite, drop or insert bytes that are no hex digits: a digit for a digit is another valid answer."""
    text = bytearray(json.dumps(answer).encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        byte = rng.choice([each for each in range(256) if chr(each) not in "0123456789abcdefABCDEF"])
        match rng.randrange(3):
            case 0:
                text[at] = byte
            case 1:
                text.insert(at, byte)
            case _:
                text[at:at] = bytes([byte]) * rng.randint(2, 2000)
    return bytes(text)


def junk(answer: Any, rng: random.Random) -> bytes:
    """Put junk in one place: an envelope's part, an id, a result, or a field of it."""
    spoilt = json.loads(json.dumps(answer))
    at, key = rng.choice(list(places(spoilt)))
    # No bytes for bytes and no list for a list: that is another valid answer, though an incomplete one.
    at[key] = rng.choice(
        [each for each in JUNK if each not in ("0x", "0x00", []) or type(each) is not type(at[key])]
    )
    return json.dumps(spoilt).encode()


def missing(answer: Any, rng: random.Random) -> bytes:
    """Leave out a part of the envelope or a field; a log fewer is another valid answer."""
    spoilt = json.loads(json.dumps(answer))
    at, key = rng.choice([(at, key) for at, key in places(spoilt) if at is spoilt or isinstance(at, dict)])
    del at[key]
    return json.dumps(spoilt).encode()


def wrong_ids(answer: Any, rng: random.Random) -> bytes:
    spoilt = json.loads(json.dumps(answer if isinstance(answer, list) else [answer]))
    one, other = rng.choice(spoilt), rng.choice(spoilt)
    if rng.random() < 0.5 and one is not other:
        one["id"] = other["id"]
    else:
        one["id"] = rng.choice([one["id"] + rng.randint(1, 10**6), str(one["id"]), float(one["id"]), *JUNK])
    return json.dumps(spoilt if isinstance(answer, list) else spoilt[0]).encode()


def reshaped(answer: Any, rng: random.Random) -> bytes:
    """Nest, flatten, repeat or shorten the envelope."""
    listed = answer if isinstance(answer, list) else [answer]
    shapes: list[Any] = [
        listed if answer is not listed else listed[0], [answer], {"result": answer}, listed * 2, listed[1:],
        listed[0] | {"result": answer}, [*listed, rng.choice(JUNK)], json.dumps(answer), rng.choice(JUNK),
    ]  # fmt: skip
    return json.dumps(rng.choice(shapes)).encode()


def noise(_: Any, rng: random.Random) -> bytes:
    return rng.choice([rng.randbytes(rng.randrange(200)), b"[" * 10_000, b'{"a":' * 5000, b"", b"<html>"])


WAYS: list[Callable[[Any, random.Random], bytes]] = [
    cut, wrong_bytes, junk, missing, wrong_ids, reshaped, noise,
]  # fmt: skip


def values(sent: list[dict[str, Any]], results: list[Any]) -> list[Any]:
    """Return what the keeper reads of results."""
    found: list[Any] = []
    for call, result in zip(sent, results, strict=True):
        if call["method"] == "eth_getLogs":
            found.append([log_of(each) for each in result])
        elif call["method"] == "eth_getTransactionReceipt":
            if result is None:
                raise ChainFault("not included yet: an answer as well")
            read = ("blockNumber", "gasUsed", "effectiveGasPrice", "status")
            found.append([result["blockHash"].lower(), *(quantity(result[key]) for key in read)])
        elif call["method"] == "eth_feeHistory":
            fees = [quantity(fee) for fee in result["baseFeePerGas"]]
            found.append([quantity(result["oldestBlock"]), fees])
        elif call["method"] == "eth_call":
            found.append(bytes.fromhex(result[2:]) if isinstance(result, str) else result)
        else:
            found.append(head_of(result) if call["method"].startswith("eth_getBlock") else result)
    return found


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_no_malformed_answer_crashes_or_is_taken_for_a_true_one(seed: int) -> None:
    rng = random.Random(seed)
    asked = exchanges()
    outcomes: Counter[str] = Counter()
    for number in range(ANSWERS // 2):
        sent, truth = asked[number % len(asked)]
        way, status = rng.choice(WAYS), rng.choice(STATUSES)
        text = way(answer_to(sent, truth), rng)
        try:
            found = values(sent, results_of(sent, status, text, "http://node"))
        except ChainFault:
            outcomes["refused"] += 1
        else:
            assert status == 200
            assert found == values(sent, truth), (seed, number, way.__name__, text[:500])
            outcomes["accepted"] += 1
    assert outcomes["refused"] > 10_000, outcomes


async def test_no_malformed_announcement_crashes_or_is_taken_for_a_true_one() -> None:
    rng = random.Random(SEED)
    block = Tree().mine(Event(EMITTER, ("0x" + "01" * 32,), "0x" + "ab" * 40))
    head, log = head_of(block.header()), log_of(block.log(0))
    told: list[tuple[str, dict[str, Any]]] = [("0x1", block.header()), ("0x2", block.log(0))]
    messages = [
        {"jsonrpc": "2.0", "method": "eth_subscription", "params": {"subscription": name, "result": result}}
        for name, result in told
    ]
    outcomes: Counter[str] = Counter()
    for number in range(ANSWERS // 2):
        text = rng.choice([cut, wrong_bytes, junk, missing, noise])(messages[number % 2], rng)
        stream = Stream(["ws://127.0.0.1:1"], [EMITTER])
        try:
            await stream._hear(one_message(text), "0x1", "0x2")
        except ENDS:
            outcomes["refused"] += 1
        assert stream.take() in {None, head}, text
        assert stream.heard in ({}, {block.hash: {}}, {block.hash: {0: log}}), text
    assert outcomes["refused"] > 5_000, outcomes


def one_message(text: bytes) -> Any:
    async def messages() -> AsyncIterator[aiohttp.WSMessage]:
        yield aiohttp.WSMessage(aiohttp.WSMsgType.TEXT, text, None)

    return messages()


def test_the_true_answers_are_accepted_in_any_order() -> None:
    rng = random.Random(SEED)
    for sent, truth in exchanges():
        answer = answer_to(sent, truth)
        if isinstance(answer, list):
            rng.shuffle(answer)
        found = results_of(sent, 200, json.dumps(answer).encode(), "http://node")
        assert values(sent, found) == values(sent, truth)
