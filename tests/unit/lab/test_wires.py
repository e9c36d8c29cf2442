"""What the node of the bench says by itself is what a keeper takes from any node."""

from typing import Any

import orjson
import pytest

from keeper.chain.reader import STACKED
from keeper.chain.rpc import results_of
from keeper.lab.anvil import Node
from keeper.lab.wires import Front

WALLET = "0x" + "aa" * 20
AT = {"number": "0x10", "time": "0x6553f100"}
ACT = {"from": WALLET, "to": "0x" + "bb" * 20, "data": "0x12", "gas": "0x5208"}


async def told(front: Front, method: str, params: list[Any]) -> Any:
    """Ask the front as a keeper does, and read its answer as one."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = await front.answer(orjson.dumps(asked), heard_ns=0)
    [result] = results_of([asked], 200, answer, "the front")
    return result


@pytest.fixture
def front() -> Front:
    return Front(Node(port=1, chain_id=31337), WALLET)


@pytest.mark.parametrize("acts", [2, STACKED])
async def test_acts_in_order_run_in_the_block_asked_for(front: Front, acts: int) -> None:
    block = {"blockOverrides": AT, "calls": [ACT] * acts}
    [found] = await told(
        front, "eth_simulateV1", [{"blockStateCalls": [block], "validation": False}, "latest"]
    )
    assert [call["status"] for call in found["calls"]] == ["0x1"] * acts
    assert front.simulated == acts


async def test_an_act_alone_goes_through(front: Front) -> None:
    assert await told(front, "eth_call", [ACT, "latest"]) == b""
    assert front.simulated == 1
