"""Interfaces written down as signatures."""

import pytest
from eth_abi.abi import encode

from keeper.abi import event, function
from keeper.errors import ChainFault

PAIR = "liquidate((address,uint256),bytes)"


def test_a_function_is_called_by_its_selector_and_its_types() -> None:
    transfer = function("transfer(address,uint256)", "bool")
    call = transfer.call("0x" + "11" * 20, "0x" + "22" * 20, 5)
    assert call.data[:4].hex() == "a9059cbb"
    assert call.data[4:] == encode(["address", "uint256"], ["0x" + "22" * 20, 5])
    assert transfer.result(encode(["bool"], [True])) == (True,)


def test_a_struct_is_one_parameter() -> None:
    assert function(PAIR, "uint256, (int256,bool)[]").inputs == ("(address,uint256)", "bytes")
    assert function(PAIR, "uint256, (int256,bool)[]").outputs == ("uint256", "(int256,bool)[]")
    assert function("pause()").inputs == ()


def test_an_answer_of_other_types_is_a_fault_of_the_chain() -> None:
    with pytest.raises(ChainFault, match="expected balanceOf to give"):
        function("balanceOf(address)", "uint256").result(b"\x01")


def test_an_event_is_told_by_its_canonical_signature() -> None:
    transfer = event("Transfer(address indexed from, address indexed to, uint256 value)")
    assert transfer.topic.hex() == "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
    word = bytes(12) + b"\x11" * 20
    values = transfer.values([transfer.topic, word, word], (7).to_bytes(32))
    assert values == ("0x" + "11" * 20, "0x" + "11" * 20, 7)
