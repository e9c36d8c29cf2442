"""Questions that contracts need not answer."""

import pytest
from eth_abi.abi import encode

from keeper.abi import function, load
from keeper.errors import ChainFault
from keeper.lending.feeds import DECIMALS, DESCRIPTION
from keeper.lending.trying import tried

READER, FEED, TOKEN = "0x" + "ee" * 20, "0x" + "1" * 40, "0x" + "2" * 40
BALANCE = function("balanceOf(address)", "uint256")
QUESTIONS = ((FEED, DESCRIPTION), (FEED, DECIMALS), (TOKEN, BALANCE, FEED))


def test_what_is_not_answered_or_answered_in_another_form_comes_back_empty() -> None:
    rounds = tried(READER, "MorphoReader", *QUESTIONS)
    [call] = next(rounds)
    told = [encode(["string"], ["ETH / USD"]), b"\x08", b""]
    function_ = load("readers", "MorphoReader").functions["tried"]
    asked = [DESCRIPTION.selector, DECIMALS.selector, BALANCE.call(TOKEN, FEED).data]
    assert call == function_.call(READER, [FEED, FEED, TOKEN], asked)
    with pytest.raises(StopIteration) as done:
        rounds.send([encode(["bytes[]"], [told])])
    assert done.value.value == [("ETH / USD",), (), ()]


@pytest.mark.parametrize("page", [b"", encode(["bytes[]"], [[b""]])], ids=["nothing", "one answer of three"])
def test_answers_to_other_questions_are_a_fault_of_the_chain(page: bytes) -> None:
    rounds = tried(READER, "MorphoReader", *QUESTIONS)
    next(rounds)
    with pytest.raises(ChainFault, match="expected"):
        rounds.send([page])
