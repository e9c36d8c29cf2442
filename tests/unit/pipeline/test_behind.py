"""What is bid behind transactions that are announced."""

import pytest

from keeper.domain import Announced, Call, Fees, Reason, Refuse
from keeper.pipeline.acts import below

GWEI = 10**9
BASE = 10 * GWEI
ANNOUNCED = {
    "by its tip": Fees(20 * GWEI, 4 * GWEI),
    "by the highest fee that leaves less": Fees(14 * GWEI, 9 * GWEI),
    "by a gas price": Fees(14 * GWEI, 14 * GWEI, is_flat=True),
}


def announced(fees: Fees) -> Announced:
    return Announced("0x1", "0x" + "22" * 20, Call("0x" + "d1" * 20, b""), 100_000, fees)


BIDS = {
    "a tip that is above the least of theirs": (Fees(50 * GWEI, 9 * GWEI), Fees(50 * GWEI, 4 * GWEI - 1)),
    "a tip that is below it": (Fees(50 * GWEI, GWEI), Fees(50 * GWEI, GWEI)),
}


@pytest.mark.parametrize("theirs", ANNOUNCED.values(), ids=ANNOUNCED)
@pytest.mark.parametrize(("fees", "bid"), BIDS.values(), ids=BIDS)
def test_behind_others_less_is_bid_than_they_do(fees: Fees, bid: Fees, theirs: Fees) -> None:
    before = announced(Fees(40 * GWEI, 5 * GWEI)), announced(theirs)
    assert below(fees, before, BASE) == bid
    assert below(fees, (), BASE) == fees


def test_where_there_is_one_gas_price_blocks_are_ordered_by_that() -> None:
    theirs, own = Fees(4 * GWEI, 4 * GWEI, is_flat=True), Fees(50 * GWEI, 50 * GWEI, is_flat=True)
    less = 4 * GWEI - 1
    assert below(own, [announced(theirs)], None) == Fees(less, less, is_flat=True)


def test_behind_what_leaves_no_tip_none_is_bid() -> None:
    assert below(Fees(50 * GWEI, GWEI), [announced(Fees(9 * GWEI, GWEI))], BASE) == Fees(50 * GWEI, 0)


def test_fees_that_nobody_knows_are_none_behind_others_either() -> None:
    refused = Refuse(Reason("fees.unknown", "the node does not tell its gas price", "a gas price"))
    assert below(refused, [announced(Fees(40 * GWEI, GWEI))], BASE) is refused
