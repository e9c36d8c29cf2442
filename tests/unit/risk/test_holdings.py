"""What accounts are worth, and must have, once prices have moved: of books in a file."""

import math
from typing import Any

import numpy as np
import pytest

from keeper.domain import Kind
from keeper.errors import BadInput
from keeper.risk import options
from keeper.risk.holdings import LEAST, Portfolios, linear
from keeper.risk.margin import Book, Instrument, scan
from keeper.risk.scenarios import grid

BTC, ETH = 100.0, 10.0
PERP, OTHER = Instrument("BTC-PERP", "BTC"), Instrument("ETH-PERP", "ETH")
PUT = Instrument("BTC-PUT", "BTC", Kind.PUT, strike=90.0, vol=0.6, expiry_y=0.25)
SPAN = grid("span16")


def held(*rows: tuple[float, float, float], equity: float = 50.0, **changes: Any) -> Portfolios:
    """Accounts of a perp and a put on bitcoin, and a perp on ether."""
    book = Book.of([PERP, PUT, OTHER], {"BTC": BTC, "ETH": ETH}, np.array(rows), **changes)
    return Portfolios([f"account {row}" for row in range(len(rows))], book, np.full(len(rows), equity), SPAN)


def test_without_a_move_everybody_has_what_was_said_and_needs_what_the_grid_says() -> None:
    some = held((1, 0, 0), (-2, 1, 3))
    now = some.standing(np.zeros(2))
    assert now.equity == pytest.approx([50, 50])
    assert now.requirement == pytest.approx(scan(some.book, SPAN).maintenance)
    assert (some.accounts, some.assets) == (["account 0", "account 1"], ("BTC", "ETH"))


def test_each_asset_falls_by_itself() -> None:
    now = held((1, 0, 0), (0, 0, -4)).standing(np.array([0.1, -0.5]))
    assert now.equity == pytest.approx([50 - 10, 50 - 4 * 5])
    assert now.net == pytest.approx(now.equity)
    # What closing sells is told at the prices before, and of who is short nothing.
    assert now.sold == pytest.approx(np.array([[100, 0], [0, 0]]))
    assert now.bought == pytest.approx(np.array([[0, 0], [0, 40]]))


def test_an_option_is_revalued_whole_and_not_by_its_delta() -> None:
    there = held((0, 2, 0)).standing(np.array([0.5, 0.0]))
    worth = [
        float(options.price(spot=spot, strike=90.0, vol=0.6, years=0.25, is_call=False))
        for spot in (50.0, 100.0)
    ]
    assert there.equity == pytest.approx([50 + 2 * (worth[0] - worth[1])])


def test_exposures_are_what_accounts_gain_to_first_order() -> None:
    some, step = held((1, -3, 0), (0, 1, 2)), 1e-6
    for place in range(2):
        fall = np.zeros(2)
        fall[place] = -step
        gained = np.subtract(some.standing(fall).equity, some.standing(-fall).equity) / (2 * step)
        assert gained == pytest.approx(some.exposures[:, place], abs=1e-4)
    perps = linear(some)
    assert perps.legs.toarray().sum() == pytest.approx((some.exposures / some.spots).sum())


def test_a_book_in_coin_is_told_in_quote() -> None:
    inverse = Instrument("BTC-INV", "BTC", inverse=True)
    book = Book.of([inverse], {"BTC": BTC}, np.array([[1_000.0]]), in_coin=True)
    some = Portfolios(["a"], book, np.array([2.0]), SPAN)
    there = some.standing(np.array([0.2]))
    # 1,000 contracts lose 1,000 (1 / 80 - 1 / 100) = 2.5 coins of the 2.
    assert there.equity == pytest.approx([-0.5 * 80])
    assert there.bad_debt == pytest.approx([40])
    moved = Book.of([inverse], {"BTC": 80.0}, np.array([[1_000.0]]), in_coin=True)
    assert there.requirement == pytest.approx(scan(moved, SPAN).maintenance * 80)
    assert some.exposures == pytest.approx(np.array([[1_000 + 200]]))


def test_a_price_falls_no_further_than_to_a_millionth() -> None:
    there = held((1, 0, 0)).standing(np.array([1.0, 0.0]))
    assert there.equity == pytest.approx([50 - 100 * (1 - LEAST)])
    assert there.breached.all()


@pytest.mark.parametrize(
    ("equity", "words"),
    [([1.0, 2.0], r"equity must have the shape \[1\]"), ([math.nan], "equity must be finite")],
)
def test_an_equity_that_is_none_is_refused(equity: list[float], words: str) -> None:
    book = Book.of([PERP], {"BTC": BTC}, np.ones((1, 1)))
    with pytest.raises(BadInput, match=words):
        Portfolios(["a"], book, np.array(equity), SPAN)
