"""Marks: what prices make of instruments, and that an unknown price stays unknown."""

import numpy as np

from keeper.domain import Instrument, Quote, Unknown
from keeper.state.marks import marks_of
from keeper.units import WAD

BTC = Instrument("BTC/USD", WAD, WAD * 5 // 100)
ETH = Instrument("ETH/USD", WAD * 9 // 10, 0)


def test_a_perp_is_worth_its_price_and_requires_its_maintenance_margin() -> None:
    marks = marks_of([BTC], {"BTC/USD": Quote("BTC/USD", 60_000 * WAD, 0)})
    assert (marks.value.tolist(), marks.gross.tolist()) == ([60_000.0], [3_000.0])


def test_a_collateral_is_worth_its_price_after_the_haircut_and_requires_nothing() -> None:
    marks = marks_of([ETH], {"ETH/USD": Quote("ETH/USD", 3_000 * WAD, 0)})
    assert (marks.value.tolist(), marks.gross.tolist()) == ([2_700.0], [0.0])


def test_a_price_that_is_unknown_or_missing_makes_marks_that_are_not_numbers() -> None:
    marks = marks_of([ETH, BTC], {"ETH/USD": Unknown("ETH/USD", "stale")})
    assert np.isnan(marks.value).all()
    assert np.isnan(marks.gross).all()


def test_marks_keep_the_order_of_the_columns_and_share_a_feed() -> None:
    perp = Instrument("ETH/USD", WAD, WAD // 10)
    marks = marks_of([BTC, perp, ETH], {"ETH/USD": Quote("ETH/USD", 1_000 * WAD, 0)})
    np.testing.assert_array_equal(marks.value, [np.nan, 1_000.0, 900.0])
    np.testing.assert_array_equal(marks.gross, [np.nan, 100.0, 0.0])


def test_no_instruments_have_no_marks() -> None:
    marks = marks_of([], {})
    assert (marks.value.shape, marks.gross.shape) == ((0,), (0,))
