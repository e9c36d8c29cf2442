"""What is bid behind transactions that are announced."""

import pytest

from keeper.domain import Announced, Call, Fees, Reason, Refuse
from keeper.pipeline.acts import below

GWEI = 10**9
TIPS = (5 * GWEI, 4 * GWEI)
BEFORE = tuple(
    Announced("0x1", "0x" + "22" * 20, Call("0x" + "d1" * 20, b""), 100_000, tip_wei) for tip_wei in TIPS
)
BIDS = {
    "a tip that is above the least of theirs": (Fees(50 * GWEI, 9 * GWEI), Fees(50 * GWEI, 4 * GWEI - 1)),
    "a tip that is below it": (Fees(50 * GWEI, GWEI), Fees(50 * GWEI, GWEI)),
    "one gas price above theirs": (
        Fees(50 * GWEI, 50 * GWEI, is_flat=True),
        Fees(4 * GWEI - 1, 4 * GWEI - 1, is_flat=True),
    ),
}


@pytest.mark.parametrize(("fees", "bid"), BIDS.values(), ids=BIDS)
def test_behind_others_less_is_bid_than_they_do(fees: Fees, bid: Fees) -> None:
    assert below(fees, BEFORE) == bid
    assert below(fees, ()) == fees


def test_fees_that_nobody_knows_are_none_behind_others_either() -> None:
    refused = Refuse(Reason("fees.unknown", "the node does not tell its gas price", "a gas price"))
    assert below(refused, BEFORE) is refused
