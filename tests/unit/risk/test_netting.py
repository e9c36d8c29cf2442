"""What positions on one underlying require together, on books small enough to reckon by hand."""

from dataclasses import replace

import numpy as np
import pytest

from keeper.risk.netting import Expiry, Underlying

# Columns 1 and 2 of a book: a perp at 200 with a range of 10, and a call struck at 210, worth 5, that moves
# by half as much. Column 0 is of another underlying.
EXPIRY = Expiry(
    columns=np.array([2]),
    ends=np.array([0.0, 210.0]),
    change=np.array([[-5.0, -5.0]]),
    calls=np.array([1.0]),
    cover=210.0,
)
BTC = Underlying(
    columns=np.array([1, 2]),
    risk=np.array([[0.0, 10.0, -10.0], [0.0, 5.0, -4.0]]),
    perps=np.array([10.0, 0.0]),
    short=np.array([0.0, 2.0]),
    doubtful=np.array([False, False]),
    expiries=(EXPIRY,),
)
DOUBTFUL = replace(BTC, doubtful=np.array([False, True]))


@pytest.mark.parametrize(
    ("perp", "call", "required"),
    [
        (3.0, 0.0, 30.0),
        (-3.0, 0.0, 30.0),
        (0.0, 3.0, 12.0),
        (0.0, -3.0, 15.0 + 6.0),
        (1.5, -3.0, 3.0 + 6.0),  # at the lower price the perp loses 15, the calls sold gain 12
        (-2.0, 4.0, 0.0 + 0.0),  # at the upper price the perp loses 20, the calls gain 20
        (0.0, 0.0, 0.0),
    ],
)
def test_gains_net_with_losses_scenario_by_scenario(perp: float, call: float, required: float) -> None:
    # Another underlying's position changes nothing.
    assert BTC.requirement(np.array([[99.0, perp, call]])).tolist() == [required]


@pytest.mark.parametrize(
    ("perp", "call", "required"),
    [
        (3.0, 0.0, 30.0),  # holds none that is doubtful
        (0.0, 3.0, 15.0),  # what the calls are worth
        (0.0, -1.0, 205.0 + 2.0),  # 210 to cover it, less the 5 for which it counts
        (1.0, -1.0, 10.0 + 2.0),  # the perp covers it, and can itself fall by the range
        (1.0, -4.0, 10.0 + 3 * 205.0 + 8.0),  # one of four is covered
        (2.0, -1.0, 20.0 + 2.0),
        (-1.0, -1.0, 10.0 + 205.0 + 2.0),  # a short perp covers no call
        (1.0, 1.0, 10.0 + 5.0),
    ],
)
def test_a_doubtful_option_is_charged_by_the_most_that_it_can_lose(
    perp: float, call: float, required: float
) -> None:
    held = np.array([[0.0, 1.0, 0.0], [0.0, perp, call]])
    assert DOUBTFUL.requirement(held).tolist() == [10.0, required]


def test_perps_cover_an_equal_part_of_every_put_sold_where_they_are_short() -> None:
    puts = replace(
        EXPIRY,
        columns=np.array([2, 3]),
        ends=np.array([0.0, 190.0, 200.0]),
        change=np.array([[180.0, -10.0, -10.0], [193.0, 3.0, -7.0]]),
        calls=np.zeros(2),
    )
    both = replace(
        DOUBTFUL,
        columns=np.array([1, 2, 3]),
        risk=np.zeros((3, 3)),
        perps=np.array([10.0, 0.0, 0.0]),
        short=np.array([0.0, 2.0, 2.0]),
        doubtful=np.array([False, True, True]),
        expiries=(puts,),
    )
    held = np.array([[0.0, -2.0, -1.0, -3.0], [0.0, 2.0, -1.0, -3.0], [0.0, -5.0, -1.0, -3.0]])
    assert both.requirement(held).tolist() == [
        20.0 + (180.0 + 3 * 193.0) / 2 + 8.0,
        20.0 + (180.0 + 3 * 193.0) + 8.0,
        50.0 + 8.0,
    ]


def test_calls_bought_pair_with_calls_sold_and_no_strike_of_others_counts() -> None:
    spread = Expiry(
        columns=np.array([0, 1, 2]),
        ends=np.array([0.0, 200.0, 210.0, 400.0]),
        change=np.array([[-10.0, -10.0, 0.0, 190.0], [-5.0, -5.0, -5.0, 185.0], [-1.0, -1.0, -1.0, -1.0]]),
        calls=np.ones(3),
        cover=210.0,
    )
    held = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    assert spread.loss(held).tolist() == [5.0, 5.0, 205.0]
