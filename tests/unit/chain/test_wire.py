"""What counts as a quantity, as bytes, and as the result of each method."""

from typing import Any

import pytest

from keeper.chain.wire import CHECKS, data, quantity, read_result
from keeper.errors import ChainFault
from tests.stub_node import Event, Tree

A, B = "0x" + "aa" * 20, "0x" + "bB" * 20
T, U = "0x" + "01" * 32, "0x" + "02" * 32
TREE = Tree()
BLOCK = TREE.mine(Event(A, (T,)), Event(B, (U, T)))
HEADER = BLOCK.header()
FIRST, SECOND = BLOCK.log(0), BLOCK.log(1)
BY_HASH = {"address": [A, B], "blockHash": BLOCK.hash}
OLD_HEADER = {key: HEADER[key] for key in HEADER if key != "baseFeePerGas"}
RECEIPT = {
    "transactionHash": T, "blockHash": U, "blockNumber": "0x1", "status": "0x1", "gasUsed": "0x1",
    "effectiveGasPrice": "0x1",
}  # fmt: skip


def takes(method: str, params: list[Any], result: Any) -> bool:
    try:
        read_result(method, params, result)
    except ChainFault:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "value"), [("0x0", 0), ("0x10", 16), ("0xfF", 255), ("0x" + "f" * 64, 2**256 - 1)]
)
def test_a_quantity_is_read(text: str, value: int) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize(
    "junk",
    ["", "0x", "0x00", "0x01", "10", "0X1", " 0x1", "0x1 ", "0x1\n", "0x_1", "0x1_0", "-0x1", "+0x1", "0xg",
     "0x" + "f" * 65, "0x\u0661", 1, 1.0, True, None, [], {}, b"0x1"],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(junk: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        quantity(junk)


def test_bytes_are_read() -> None:
    assert data("0x") == b""
    assert data("0xCafe") == b"\xca\xfe"
    assert data("0xcafe", 2) == b"\xca\xfe"


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "0",
        "cafe",
        "0xc",
        "0xca f",
        "0xca fe",
        "0x ca",
        "0Xcafe",
        "0xzz",
        "0xc\u0661",
        1,
        None,
        [],
        b"0xcafe",
    ],
)
def test_what_are_no_bytes_is_refused(junk: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        data(junk)
    with pytest.raises(ValueError, match="expected 2 bytes"):
        data("0xca", 2)


@pytest.mark.parametrize("method", sorted([*CHECKS, "eth_call"]))
@pytest.mark.parametrize("junk", [1, 1.5, True, [1], ["0x1"], {}, {"number": "0x1"}, "0xzz", ""])
def test_no_method_takes_junk_for_its_result(method: str, junk: Any) -> None:
    if (method, junk) != ("web3_clientVersion", "") and method != "web3_clientVersion":
        assert not takes(method, [T, False], junk)


SIMULATED = [{"blockStateCalls": [{"blockOverrides": {"number": "0x5"}, "calls": [{}, {}]}]}, "latest"]
SIMULATION: dict[str, Any] = {
    "number": "0x5",
    "calls": [{"status": "0x1", "returnData": "0x"}, {"status": "0x0", "returnData": "0xcafebabe"}],
}


@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("eth_blockNumber", [], "0x10"),
        ("eth_call", [{}, "latest"], "0x"),
        ("eth_sendRawTransaction", ["0x"], T),
        ("eth_simulateV1", SIMULATED, [SIMULATION]),
        ("eth_simulateV1", SIMULATED, [{"number": "0x4", "calls": []}, SIMULATION]),
        ("eth_feeHistory", ["0x1", "latest", []], {"oldestBlock": "0x1", "baseFeePerGas": ["0x1", "0x2"]}),
        ("eth_getBlockByHash", [BLOCK.hash.upper().replace("0X", "0x"), False], HEADER),
        ("eth_getBlockByHash", [BLOCK.hash, False], None),
        ("eth_getBlockByNumber", ["0x1", False], HEADER),
        ("eth_getBlockByNumber", ["latest", False], HEADER),
        ("eth_getBlockByNumber", ["0x1", False], OLD_HEADER),
        ("eth_getTransactionReceipt", [T], RECEIPT),
        ("eth_getTransactionReceipt", [T], None),
        ("eth_getTransactionByHash", [T], {"hash": T}),
        ("eth_getLogs", [BY_HASH], []),
        ("eth_getLogs", [BY_HASH], [SECOND, FIRST]),
        ("eth_getLogs", [{"address": A, "fromBlock": "0x1", "toBlock": "0x1"}], [FIRST]),
        ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "latest"}], [FIRST]),
        ("eth_getLogs", [{"topics": [[T, U]], "blockHash": BLOCK.hash}], [FIRST, SECOND]),
        ("eth_getLogs", [{"topics": [None, T], "blockHash": BLOCK.hash}], [SECOND]),
        ("eth_getLogs", [{"topics": [[], T], "blockHash": BLOCK.hash}], [SECOND]),
        ("web3_clientVersion", [], "Geth/v1"),
        ("evm_mine", [], {"whatever": 1}),
    ],
)  # fmt: skip
def test_a_result_of_its_method_is_taken(method: str, params: list[Any], result: Any) -> None:
    assert takes(method, params, result)


@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("eth_blockNumber", [], None),
        ("eth_sendRawTransaction", ["0x"], T[:-2]),
        ("eth_simulateV1", SIMULATED, []),
        ("eth_simulateV1", SIMULATED, [SIMULATION | {"number": "0x6"}]),
        ("eth_simulateV1", SIMULATED, [SIMULATION | {"calls": SIMULATION["calls"][:1]}]),
        ("eth_simulateV1", SIMULATED, [SIMULATION | {"calls": [{"status": "0x1"}] * 2}]),
        ("eth_simulateV1", SIMULATED, [SIMULATION | {"calls": [{"status": "0x2", "returnData": "0x"}] * 2}]),
        ("eth_getBlockByHash", [T, False], HEADER),
        ("eth_getBlockByNumber", ["0x2", False], HEADER),
        ("eth_getBlockByNumber", ["latest", False], [HEADER]),
        ("eth_getBlockByNumber", ["latest", False], HEADER | {"hash": None}),
        ("eth_getBlockByNumber", ["latest", False], HEADER | {"baseFeePerGas": 7}),
        ("eth_getTransactionReceipt", [U], RECEIPT),
        ("eth_getTransactionReceipt", [T], RECEIPT | {"status": "0x2"}),
        ("eth_getTransactionReceipt", [T], RECEIPT | {"blockNumber": None}),
        ("eth_getTransactionByHash", [U], {"hash": T}),
        ("eth_getLogs", [BY_HASH], None),
        ("eth_getLogs", [BY_HASH], {"0": FIRST}),
        ("eth_getLogs", [BY_HASH], [FIRST, FIRST]),
        ("eth_getLogs", [BY_HASH], [FIRST | {"removed": True}]),
        ("eth_getLogs", [BY_HASH], [FIRST | {"blockHash": T}]),
        ("eth_getLogs", [BY_HASH], [FIRST | {"address": "0x" + "cc" * 20}]),
        ("eth_getLogs", [BY_HASH], [FIRST | {"logIndex": None}]),
        ("eth_getLogs", [BY_HASH], [FIRST | {"topics": [T[:-2]]}]),
        ("eth_getLogs", [{"fromBlock": "0x2", "toBlock": "0x3"}], [FIRST]),
        ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "0x0"}], [FIRST]),
        ("eth_getLogs", [{"topics": [U], "blockHash": BLOCK.hash}], [FIRST]),
        ("eth_getLogs", [{"topics": [None, T], "blockHash": BLOCK.hash}], [FIRST]),
    ],
)
def test_a_result_of_another_question_is_refused(method: str, params: list[Any], result: Any) -> None:
    assert not takes(method, params, result)
