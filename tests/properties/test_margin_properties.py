"""What must hold of every margin: a book twice needs twice as much, two together no more than apart."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Kind
from keeper.risk import scenarios
from keeper.risk.grids import PRESETS, Grid
from keeper.risk.margin import AddOns, Book, Instrument, Scan, scan

SPOTS = {"BTC": 60e3, "ETH": 3e3}
LISTED = (
    Instrument("PERP", "BTC"),
    Instrument("FUTURE", "BTC", expiry_y=0.25),
    Instrument("CALL", "BTC", Kind.CALL, 66e3, 0.6, 30 / 365),
    Instrument("PUT", "BTC", Kind.PUT, 50e3, 0.7, 7 / 365),
    Instrument("INVERSE", "BTC", Kind.CALL, 60e3, 0.6, 0.5, inverse=True),
    Instrument("ETH-PERP", "ETH"),
    Instrument("ETH-PUT", "ETH", Kind.PUT, 3e3, 0.8, 1 / 365),
)
HOMOGENEOUS = AddOns(short_option=0.01, net_delta=0.02, hedged_delta=0.01, basis_year=0.08, basis_least=0.01)
SIZES = st.lists(st.floats(-100.0, 100.0), min_size=len(LISTED), max_size=len(LISTED)).map(np.array)
GRIDS = st.sampled_from(list(PRESETS)).map(scenarios.grid)
PIECES: dict[str, Callable[[Scan], np.ndarray]] = {
    "scan": lambda found: found.net,
    "gross": lambda found: found.gross,
    "least by delta": lambda found: found.book.by_account(found.floor),
    "short options": lambda found: found.charges["short_option"],
    "basis": lambda found: found.charges["basis"],
    "initial margin": lambda found: found.initial,
    "maintenance margin": lambda found: found.maintenance,
}


def scanned(grid: Grid, *rows: np.ndarray, add_ons: AddOns = HOMOGENEOUS) -> Scan:
    return scan(Book.of(LISTED, SPOTS, np.array(rows)), grid, add_ons=add_ons)


@pytest.mark.parametrize("piece", list(PIECES))
@given(grid=GRIDS, first=SIZES, second=SIZES)
def test_two_books_together_need_no_more_than_apart(
    piece: str, grid: Grid, first: np.ndarray, second: np.ndarray
) -> None:
    one, other, both = PIECES[piece](scanned(grid, first, second, first + second))
    assert both <= one + other + 1e-9 * (1 + one + other)


@pytest.mark.parametrize("piece", list(PIECES))
@given(grid=GRIDS, sizes=SIZES, factor=st.floats(0.01, 100.0))
def test_a_multiple_of_a_book_needs_that_multiple(
    piece: str, grid: Grid, sizes: np.ndarray, factor: float
) -> None:
    one, many = PIECES[piece](scanned(grid, sizes, factor * sizes))
    assert many == pytest.approx(factor * one, rel=1e-9, abs=1e-6)


@given(grid=GRIDS, sizes=SIZES)
def test_hedges_only_take_away_and_legs_add_up_to_the_loss(grid: Grid, sizes: np.ndarray) -> None:
    found = scanned(grid, sizes)
    assert 0 <= found.net[0] <= found.gross[0] + 1e-9 * (1 + found.gross[0])
    assert found.book.by_row(found.contributions) == pytest.approx(found.loss, rel=1e-9, abs=1e-6)


@given(grid=GRIDS, size=st.floats(-1e3, 1e3), strike=st.floats(20e3, 180e3), days=st.floats(0.01, 400.0))
def test_a_book_that_is_hedged_perfectly_needs_nothing_before_add_ons(
    grid: Grid, size: float, strike: float, days: float
) -> None:
    """A call sold and a put bought are the perp sold, whatever spot and volatility do."""
    call, put = (
        Instrument(kind.value, "BTC", kind, strike, 0.6, days / 365) for kind in (Kind.CALL, Kind.PUT)
    )
    hedged = Book.of([LISTED[0], call, put], SPOTS, [[size, -size, size]])
    found = scan(hedged, grid)
    assert found.net[0] <= 1e-12 * (1 + found.gross[0])
    assert found.contributions.tolist() == [0.0] * hedged.legs.nnz


@given(sizes=SIZES, factor=st.floats(1.0, 100.0))
def test_concentration_and_liquidity_grow_faster_than_a_book(sizes: np.ndarray, factor: float) -> None:
    asked = AddOns(concentration=0.1, concentration_above=1e5, volume_day={"BTC": 1e9, "ETH": 1e9})
    found = scanned(PRESETS["tims10"], sizes, factor * sizes, add_ons=asked)
    for name in ("concentration", "liquidity"):
        one, many = found.charges[name]
        assert many >= factor * one * (1 - 1e-9) - 1e-6
