"""What falls liquidate: a slope never sells more than a cliff, flows grow as prices fall, cascades settle."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.risk.inputs import Floats
from keeper.risk.stress import Books, Closing, cascade, cliff, flow, share_to_close


@dataclass(frozen=True)
class Crowd:
    """Accounts that are long of two assets, on money that they owe."""

    books: Books

    @property
    def worth(self) -> Floats:
        return self.books.positions @ self.books.spots


@st.composite
def crowds(draw: st.DrawFn) -> Crowd:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 30))
    positions = rng.uniform(0, 10, (count, 2)) * (rng.random((count, 2)) < 0.8)
    spots = rng.uniform(1, 100, 2)
    cash = -(positions @ spots) * rng.uniform(0.0, 1.05, count)
    return Crowd(Books(cash, positions, spots, np.full(2, draw(st.floats(0.0, 0.4)))))


FALLS = st.lists(st.floats(0.0, 0.95), min_size=2, max_size=2)


@given(crowd=crowds(), falls=FALLS)
def test_a_slope_never_sells_more_than_a_cliff(crowd: Crowd, falls: list[float]) -> None:
    levels = np.array([falls])
    slope, whole = flow(crowd.books, levels), flow(crowd.books, levels, closing=cliff)
    assert (slope <= whole + 1e-9).all()
    assert (slope >= 0).all()
    assert (whole.sum() > 0) == (slope.sum() > 0)


@pytest.mark.parametrize("closing", [share_to_close, cliff])
@given(crowd=crowds(), falls=FALLS, part=st.floats(0.0, 1.0))
def test_the_lower_prices_are_the_more_units_are_sold(
    closing: Closing, crowd: Crowd, falls: list[float], part: float
) -> None:
    # Of all prices together: where only one falls, who requires less of the other may stand better.
    least, most = sorted([falls[0] * part, falls[0]])
    units = flow(crowd.books, [least, most], closing=closing) / (1 - np.array([[least], [most]]))
    assert (units[0] <= units[1] + 1e-6 * (1 + units[1])).all()


@pytest.mark.parametrize("closing", [share_to_close, cliff])
@given(crowd=crowds(), falls=FALLS, depth=st.floats(0.1, 100.0))
def test_a_cascade_ends_where_what_is_sold_holds_the_price(
    closing: Closing, crowd: Crowd, falls: list[float], depth: float
) -> None:
    volume = depth * (1.0 + float(crowd.worth.sum()))

    def impact(sold: Floats) -> Floats:
        return np.minimum(1.0, sold / volume)

    shock = np.array(falls)
    found = cascade(crowd.books, shock, impact, closing=closing)
    assert found.falls == pytest.approx(1 - (1 - shock) * (1 - impact(found.sold)), abs=1e-7)
    assert (found.falls >= shock - 1e-12).all()
    # Nobody who is in breach at the end is left to be closed further.
    at = crowd.books.standing(found.falls)
    assert (closing(at.equity, at.requirement, at.left) @ at.sold <= found.sold * (1 + 1e-6) + 1e-6).all()
    assert (found.sold <= crowd.books.positions.sum(axis=0) * crowd.books.spots + 1e-9).all()


@given(crowd=crowds(), falls=FALLS)
def test_a_first_round_of_a_slope_moves_prices_no_further(crowd: Crowd, falls: list[float]) -> None:
    sold: dict[Closing, list[Floats]] = {share_to_close: [], cliff: []}
    for closing, rounds in sold.items():

        def impact(found: Floats, rounds: list[Floats] = rounds) -> Floats:
            rounds.append(found)
            return np.zeros(2)

        cascade(crowd.books, falls, impact, closing=closing)
    assert (sold[share_to_close][0] <= sold[cliff][0] + 1e-9).all()
