"""What falls of prices would liquidate of margined books: by hand, and compiled as in numpy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Kind
from keeper.errors import BadInput
from keeper.risk import scenarios
from keeper.risk.grids import Grid
from keeper.risk.levels import Slices, flow
from keeper.risk.margin import Book, Instrument

PERP = Instrument("PERP", "BTC")
LISTED = (
    PERP,
    Instrument("CALL", "BTC", Kind.CALL, 110.0, 0.6, 30 / 365),
    Instrument("PUT", "BTC", Kind.PUT, 90.0, 0.7, 7 / 365),
    Instrument("INVERSE", "BTC", expiry_y=0.25, inverse=True),
    Instrument("ETH-PERP", "ETH"),
    Instrument("ETH-PUT", "ETH", Kind.PUT, 11.0, 0.8, 1 / 365),
)
SPOTS = {"BTC": 100.0, "ETH": 10.0}
GRID = scenarios.on_chain(mmr=0.1)


def perps(*sizes: float) -> Book:
    return Book.of([PERP], {"BTC": 100.0}, np.array(sizes)[:, None])


def test_slices_are_added_up_by_hand() -> None:
    """Ten at 100 with equity of 150: at 95 equity is 100 and 95 are required, at 90 it is 50 of 90."""
    found = flow(perps(10.0, -10.0), [150.0, 150.0], GRID, [0.0, 0.05, 0.10, 0.20])
    assert found[:, 0] == pytest.approx([0.0, 0.0, 40 / 90 * 900, 800.0])


def test_a_slice_is_what_the_slope_and_its_fee_make_of_it() -> None:
    by = Slices(q=0.8, fee=0.01)
    found = flow(perps(10.0), [150.0], GRID, [0.0, 0.10], slices=by)
    # (M - q E) / (M - q fee N)
    assert found[:, 0] == pytest.approx([0.0, (90 - 0.8 * 50) / (90 - 0.8 * 0.01 * 900) * 900])


def test_options_are_sold_by_their_delta_and_require_their_minimum_on_top() -> None:
    put = Book.of(LISTED[2:3], {"BTC": 100.0}, np.array([[-10.0]]))
    bare, with_minimum = (
        flow(put, [20.0], GRID, [0.0, 0.05], slices=Slices(short_option=rate))[:, 0] for rate in (0.0, 0.05)
    )
    assert 0 < bare[1] < with_minimum[1] < 10 * 95
    # Who is short of the delta buys, which is not counted.
    call = Book.of(LISTED[1:2], {"BTC": 100.0}, np.array([[-10.0]]))
    assert flow(call, [1.0], GRID, [0.0])[0, 0] == 0.0


@given(
    seed=st.integers(0, 2**32 - 1),
    accounts=st.integers(1, 30),
    grid=st.sampled_from([GRID, scenarios.grid("deribit"), scenarios.grid("derive_pm1")]),
    slices=st.builds(Slices, st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 0.02]), st.just(0.01)),
)
def test_compiled_loops_sell_what_numpy_says(seed: int, accounts: int, grid: Grid, slices: Slices) -> None:
    dice = np.random.default_rng(seed)
    held = dice.normal(0, 10, (accounts, len(LISTED))) * dice.integers(0, 2, (accounts, len(LISTED)))
    book = Book.of(LISTED, SPOTS, held)
    equity, falls = dice.normal(300, 400, accounts), dice.uniform(0, 0.99, (5, 2))
    plain, loops = (flow(book, equity, grid, falls, slices=slices, compiled=each) for each in (False, True))
    assert loops == pytest.approx(plain, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_level_that_requires_nothing_sells_nothing(compiled: bool) -> None:
    """At 100 up to 5 may be lost, where 8 count by half; at 50 the put has each loss of the perp back."""
    perp, put = Instrument("PERP", "BTC"), Instrument("PUT", "BTC", Kind.PUT, 95.0, 0.0, 0.1)
    book = Book.of([perp, put], {"BTC": 100.0}, [[1.0, 1.0]])
    found = flow(book, [8.0], GRID, [0.0, 0.5], slices=Slices(q=0.5), compiled=compiled)
    assert found[:, 0] == pytest.approx([100 * (5 - 4) / 5, 0.0])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_book_in_coin_is_told_in_quote(compiled: bool) -> None:
    """A hundred inverse contracts, at a coin of 100 one coin's worth: at 50 they cost another coin."""
    book = Book.of(LISTED[3:4], {"BTC": 100.0}, [[100.0]], in_coin=True)
    found = flow(book, [0.9], GRID, [0.0, 0.5], slices=Slices(fee=0.01), compiled=compiled)
    assert found[:, 0] == pytest.approx([0.0, 100.0])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"equity": [1.0, 2.0]}, r"equity must have the shape \[1\]"),
        ({"equity": [np.nan]}, "equity must be finite"),
        ({"falls": [1.0]}, "falls must lie in"),
        ({"falls": [-0.1]}, "falls must lie in"),
        ({"falls": [[0.1, 0.1]]}, r"falls must have the shape \[any, 1\]"),
    ],
)
def test_levels_that_make_no_sense_are_refused(changed: dict[str, Any], words: str) -> None:
    asked = {"equity": [1.0], "falls": [0.1], **changed}
    with pytest.raises(BadInput, match=words):
        flow(perps(1.0), asked["equity"], GRID, asked["falls"])
    with pytest.raises(BadInput, match="fee must lie in"):
        Slices(fee=2.0)
