"""The reader over a scripted node: what it does when answers fail, lag, lie by omission, or are refused."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from keeper.chain.branch import DeepReorg
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.chain.rpc import RpcError, Unreachable
from keeper.chain.wire import head_of, log_of
from keeper.domain import Call, ChainTime, Reason, Refuse
from keeper.errors import ChainFault, InvariantBroken

ADDRESS = "0x" + "Aa" * 20
AT = ChainTime(11, 2_000_000_000)


def block_hash(number: int, fork: int = 0) -> str:
    return f"0x{fork:032x}{number:032x}"


def raw_head(number: int, fork: int = 0) -> dict[str, Any]:
    return {
        "number": hex(number),
        "hash": block_hash(number, fork),
        "parentHash": block_hash(number - 1, fork) if number else "0x" + "ff" * 32,
        "timestamp": hex(1_700_000_000 + number),
        "baseFeePerGas": "0x7",
    }


def raw_log(number: int, index: int) -> dict[str, Any]:
    return {
        "address": ADDRESS,
        "topics": ["0x" + "01" * 32],
        "data": "0x",
        "blockNumber": hex(number),
        "blockHash": block_hash(number),
        "transactionHash": "0x" + "02" * 32,
        "logIndex": hex(index),
        "transactionIndex": "0x0",
    }


class Node(Pool):
    """A chain of empty blocks up to ``tip``; methods can be scripted."""

    def __init__(self, tip: int = 10) -> None:
        super().__init__(["http://127.0.0.1:1"])
        self.tip = tip
        self.scripts: dict[str, Callable[[list[Any]], Any]] = {"eth_getLogs": lambda _: []}
        self.asked: list[str] = []

    async def request(self, method: str, params: list[Any]) -> Any:
        self.asked.append("latest" if params[0] == "latest" else method)
        if method in self.scripts:
            return self.scripts[method](params)
        assert method == "eth_getBlockByNumber"
        number = self.tip if params[0] == "latest" else int(params[0], 16)
        return raw_head(number) if number <= self.tip else None

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        return [await self.request(method, params) for method, params in calls]


def failing(times: int, fault: ChainFault, then: Any) -> Callable[[list[Any]], Any]:
    left = [fault] * times

    def script(_: list[Any]) -> Any:
        if left:
            raise left.pop()
        return then

    return script


def refusal(code: int, message: str, data: Any = None) -> RpcError:
    return RpcError("eth_call", "http://node", {"code": code, "message": message, "data": data})


def reader_of(node: Node) -> ChainReader:
    params = Params(deaf_poll_s=0.01, longest_pause_s=0.01)
    return ChainReader(node, ["ws://127.0.0.1:1"], [ADDRESS], params)


async def test_a_read_that_fails_is_tried_again_and_said_meanwhile() -> None:
    node = Node()
    reader = reader_of(node)
    said: list[str | None] = []

    def logs(_: list[Any]) -> Any:
        said.append(reader.fault)
        if len(said) < 3:
            raise Unreachable("eth_getLogs at http://node: no answer (TimeoutError)")
        return []

    node.scripts["eth_getLogs"] = logs
    await reader.start()
    update = await anext(reader.updates())
    await reader.close()
    assert update.head.number == 10
    assert said == [None, *["eth_getLogs at http://node: no answer (TimeoutError)"] * 2]
    assert reader.fault is None


async def test_a_start_waits_for_a_node_that_is_silent() -> None:
    node = Node()
    reader = reader_of(node)
    said: list[str | None] = []

    def block(_: list[Any]) -> Any:
        said.append(reader.fault)
        if len(said) < 4:
            raise Unreachable("no answer")
        return raw_head(0)

    node.scripts["eth_getBlockByNumber"] = block
    assert (await reader.start()).number == 0
    await reader.close()
    assert [*said, reader.fault] == [None, *["no answer"] * 3, None]


async def test_without_a_word_about_it_a_block_time_is_waited_for_news() -> None:
    reader = ChainReader(Node(), ["ws://127.0.0.1:1"], [ADDRESS], Params(deaf_poll_s=60, block_time_s=0.01))
    await reader.start()
    updates = reader.updates()
    await anext(updates)
    reader._stream.connected = True
    reader._rpc.tip = 11  # type: ignore[attr-defined]
    async with asyncio.timeout(1):
        assert (await anext(updates)).head.number == 11
    await reader.close()


async def test_an_outage_of_any_length_is_survived() -> None:
    node = Node()
    reader = ChainReader(node, ["ws://127.0.0.1:1"], [ADDRESS], Params(longest_pause_s=0))
    node.scripts["eth_getLogs"] = failing(1500, Unreachable("no answer"), [])
    await reader.start()
    update = await anext(reader.updates())
    await reader.close()
    assert update.head.number == 10


async def test_a_node_that_does_not_have_the_announced_block_yet_is_waited_for() -> None:
    node = Node()
    reader = reader_of(node)
    await reader.start()
    updates = reader.updates()
    await anext(updates)
    reader._stream._hear_head(raw_head(13))
    waiting = asyncio.ensure_future(anext(updates))
    await asyncio.sleep(0.05)
    node.tip = 13
    update = await waiting
    await reader.close()
    assert [head.number for head in update.adopted] == [11, 12, 13]


@pytest.mark.parametrize("height", [2**24, 2**60, 2**200])
async def test_an_announced_head_of_any_height_costs_one_request(height: int) -> None:
    node = Node()
    reader = reader_of(node)
    await reader.start()
    updates = reader.updates()
    await anext(updates)
    node.asked.clear()
    reader._stream._hear_head(raw_head(11) | {"number": hex(height), "hash": "0x" + "77" * 32})
    waiting = asyncio.ensure_future(anext(updates))
    async with asyncio.timeout(1):
        while "latest" not in node.asked:  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.005)
    assert len(node.asked) <= Params().batch_size + 1
    node.tip = 11
    assert (await waiting).head.hash == block_hash(11)
    await reader.close()


async def test_after_a_fault_the_reader_looks_for_itself_whatever_is_announced() -> None:
    node = Node()
    reader = reader_of(node)
    await reader.start()
    updates = reader.updates()
    await anext(updates)

    def of_another_fork(_: list[Any]) -> None:
        reader._stream._hear_head(raw_head(13, fork=9))

    node.scripts["eth_getBlockByHash"] = of_another_fork
    reader._stream._hear_head(raw_head(11, fork=9))
    node.tip = 12
    async with asyncio.timeout(5):
        update = await anext(updates)
    await reader.close()
    assert [head.hash for head in update.adopted] == [block_hash(11), block_hash(12)]


async def test_a_head_far_below_is_no_reorg_and_one_that_grows_past_from_there_is() -> None:
    node = Node(tip=200)
    reader = reader_of(node)
    await reader.start(100)
    updates = reader.updates()
    await anext(updates)
    node.tip = 90
    waiting = asyncio.ensure_future(anext(updates))
    await asyncio.sleep(0.05)
    assert reader.fault is not None
    assert reader.fault.startswith("block 90 is behind")
    node.tip = 201
    assert [head.number for head in (await waiting).adopted] == [201]

    node.scripts["eth_getBlockByNumber"] = lambda params: raw_head(
        node.tip if params[0] == "latest" else int(params[0], 16), fork=9
    )
    node.scripts["eth_getBlockByHash"] = lambda params: raw_head(int(params[0][-32:], 16), fork=9)
    node.tip = 190
    waiting = asyncio.ensure_future(anext(updates))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    node.tip = 202
    with pytest.raises(DeepReorg, match="deeper than 64 blocks"):
        await waiting
    await reader.close()


async def test_a_log_that_the_websocket_heard_and_the_node_left_out_is_delivered_and_counted() -> None:
    node = Node()
    reader = reader_of(node)
    await reader.start()
    updates = reader.updates()
    await anext(updates)
    node.tip = 11
    node.scripts["eth_getLogs"] = lambda params: (
        [raw_log(11, 0), raw_log(11, 2)] if params[0]["blockHash"] == block_hash(11) else []
    )
    for index in (0, 1, 2):
        reader._stream._hear_log(raw_log(11, index))
    update = await anext(updates)
    assert [log.index for log in update.logs] == [0, 1, 2]
    assert reader.discrepancies == 1

    reader._stream._hear_log(raw_log(11, 1))
    reader._stream._hear_log(raw_log(11, 3))
    node.tip = 12
    late = await anext(updates)
    await reader.close()
    assert [(log.block_number, log.index) for log in late.logs] == [(11, 3)]
    assert reader.discrepancies == 2


async def test_a_log_taken_back_or_of_another_branch_is_not_missed() -> None:
    node = Node()
    reader = reader_of(node)
    await reader.start()
    updates = reader.updates()
    await anext(updates)
    reader._stream._hear_log(raw_log(11, 0))
    reader._stream._hear_log(raw_log(11, 0) | {"removed": True})
    reader._stream._hear_log(raw_log(11, 1) | {"blockHash": block_hash(11, fork=9)})
    node.tip = 11
    update = await anext(updates)
    await reader.close()
    assert update.logs == ()
    assert reader.discrepancies == 0


async def test_logs_of_another_block_than_asked_for_are_a_fault() -> None:
    node = Node()
    reader = reader_of(node)
    node.scripts["eth_getLogs"] = failing(0, ChainFault(""), [raw_log(3, 0)])
    await reader.start()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(reader.updates()), 0.1)
    await reader.close()
    assert reader.fault is not None
    assert "found another block's" in reader.fault


async def test_updates_need_a_start() -> None:
    with pytest.raises(InvariantBroken, match="must be started"):
        await anext(reader_of(Node()).updates())


async def test_a_node_that_takes_no_overrides_is_asked_without_them_from_then_on() -> None:
    node = Node()
    lengths: list[int] = []

    def call(params: list[Any]) -> Any:
        lengths.append(len(params))
        if len(params) > 2:
            raise refusal(-32602, "too many arguments, want at most 2")
        return b"\x01"

    node.scripts["eth_call"] = call
    reader = reader_of(node)
    assert await reader.simulate(ADDRESS, Call(ADDRESS, b""), AT, 100_000) == b"\x01"
    assert await reader.simulate(ADDRESS, Call(ADDRESS, b""), AT, 100_000) == b"\x01"
    assert lengths == [4, 2, 2]


@pytest.mark.parametrize(
    ("answer", "evidence"),
    [
        (refusal(3, "execution reverted", "0xcafebabe"), "0xcafebabe"),
        (refusal(-32000, "execution reverted: no", "0x"), "execution reverted: no"),
        (refusal(-32015, "VM execution error.", "Reverted 0xcafebabe"), "0xcafebabe"),
        (refusal(-32000, "out of gas"), "out of gas"),
        (refusal(3, "", {"unfamiliar": 1}), "no data, no message"),
    ],
)
async def test_an_execution_that_fails_is_a_refusal(answer: RpcError, evidence: str) -> None:
    node = Node()
    node.scripts["eth_call"] = failing(1, answer, b"")
    result = await reader_of(node).simulate(ADDRESS, Call(ADDRESS, b""), AT, 100_000)
    assert isinstance(result, Refuse)
    assert (result.reason.rule, result.reason.evidence) == ("simulation.reverted", evidence)


async def test_what_reverted_is_run_again_as_the_wallet_behind_its_block() -> None:
    node, asked = Node(), list[Any]()

    def call(params: list[Any]) -> Any:
        asked.append(params)
        raise refusal(3, "execution reverted", "0xcafebabe")

    node.scripts["eth_call"] = call
    found = await reader_of(node).rerun(ADDRESS, Call(ADDRESS, b"\x07"), block_hash(7), 100_000)
    assert isinstance(found, Refuse)
    assert found.reason.evidence == "0xcafebabe"
    tx = {"from": ADDRESS, "to": ADDRESS, "data": "0x07", "gas": hex(100_000)}
    assert asked == [[tx, {"blockHash": block_hash(7)}]]


async def test_a_block_whose_state_is_gone_tells_nothing_of_a_revert() -> None:
    node = Node()
    node.scripts["eth_call"] = failing(9, refusal(-32000, "missing trie node"), b"")
    with pytest.raises(ChainFault, match="missing trie node"):
        await reader_of(node).rerun(ADDRESS, Call(ADDRESS, b""), block_hash(7), 100_000)


def test_a_log_says_which_transaction_of_its_block_it_is_of() -> None:
    assert log_of(raw_log(5, 1) | {"transactionIndex": "0x1f"}).tx_index == 31
    with pytest.raises(ChainFault, match="transactionIndex"):
        log_of({name: value for name, value in raw_log(5, 1).items() if name != "transactionIndex"})


CALL = (Call(ADDRESS, b""), 1_000_000)


async def test_several_transactions_are_simulated_in_one_block_as_many_as_it_holds() -> None:
    node, asked = Node(), []

    def simulate(params: list[Any]) -> Any:
        [block] = params[0]["blockStateCalls"]
        asked.append((len(block["calls"]), block["blockOverrides"], params[0]["validation"], params[1]))
        return [{"calls": []}, {"calls": [{"status": "0x1", "returnData": "0x01"}] * len(block["calls"])}]

    node.scripts["eth_simulateV1"] = simulate
    found = await reader_of(node).simulate_in_order(ADDRESS, [CALL] * 17 + [(CALL[0], 29_500_000)] * 2, AT)
    assert found == [b"\x01"] * 19
    overrides = {"number": hex(AT.block), "time": hex(AT.timestamp_s)}
    assert asked == [(size, overrides, False, "latest") for size in (16, 1, 1, 1)]


@pytest.mark.parametrize(
    ("ended", "evidence"),
    [
        (
            {"returnData": "0x", "error": {"code": 3, "message": "reverted", "data": "0xcafebabe"}},
            "0xcafebabe",
        ),
        ({"returnData": "0xcafebabe", "error": {"code": -3200, "message": "failed"}}, "0xcafebabe"),
        ({"returnData": "0x", "error": {"code": -32015, "message": "out of gas"}}, "out of gas"),
        ({"returnData": "0x"}, "no data, no message"),
    ],
)
async def test_a_transaction_that_fails_on_top_of_others_is_a_refusal(ended: Any, evidence: str) -> None:
    node = Node()
    node.scripts["eth_simulateV1"] = lambda _: [
        {"calls": [{"status": "0x1", "returnData": "0x"}, {"status": "0x0", **ended}]}
    ]
    found = await reader_of(node).simulate_in_order(ADDRESS, [CALL, CALL], AT)
    assert found == [b"", Refuse(Reason("simulation.reverted", evidence, "must not revert"))]


@pytest.mark.parametrize(("code", "asked"), [(-32601, 1), (-32004, 1), (-38015, 2), (-38020, 2)])
async def test_a_node_without_the_method_is_asked_for_it_once(code: int, asked: int) -> None:
    node, refused = Node(), []

    def simulate(params: list[Any]) -> Any:
        refused.append(params)
        raise refusal(code, "not this one")

    node.scripts["eth_simulateV1"] = simulate
    reader = reader_of(node)
    for _ in range(2):
        assert await reader.simulate_in_order(ADDRESS, [CALL, CALL], AT) is None
    assert len(refused) == asked


@pytest.mark.parametrize("fault", [refusal(-32000, "header not found"), Unreachable("eth_call: no answer")])
async def test_a_simulation_that_the_node_could_not_run_is_a_fault_and_no_refusal(fault: ChainFault) -> None:
    node = Node()
    node.scripts["eth_call"] = failing(1, fault, b"")
    with pytest.raises(type(fault)):
        await reader_of(node).simulate(ADDRESS, Call(ADDRESS, b""), AT, 100_000)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (None, "the node does not have that block"),
        ({}, "without baseFeePerGas"),
        ({"baseFeePerGas": "0x1"}, "cannot be read: KeyError"),
        (raw_head(5) | {"number": None}, "cannot be read: TypeError"),
        (raw_head(5) | {"hash": "0xzz"}, "cannot be read: ValueError"),
    ],
)
def test_a_header_that_cannot_be_read_is_a_fault(raw: Any, complaint: str) -> None:
    with pytest.raises(ChainFault, match=complaint):
        head_of(raw)


def test_a_log_of_a_pending_transaction_is_a_fault() -> None:
    with pytest.raises(ChainFault, match="a log cannot be read"):
        log_of(raw_log(5, 1) | {"blockHash": None})


def test_what_is_always_watched_stays_whatever_else_is() -> None:
    beacon, listed = "0x" + "BE" * 20, "0x" + "0c" * 20
    reader = ChainReader(Node(), ["ws://127.0.0.1:1"], [ADDRESS], always=[beacon])
    assert reader._filter_of("0x1")["address"] == [ADDRESS.lower(), beacon.lower()]
    reader.watch([listed])
    assert reader._filter_of("0x1")["address"] == [listed, beacon.lower()]
