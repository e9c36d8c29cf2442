"""What lower prices would have liquidated, held against books that can be added up by hand."""

from collections.abc import Mapping

import numpy as np
import pytest

from keeper.columns.legs import Legs
from keeper.columns.snapshot import Snapshot
from keeper.domain import Quote, Unknown
from keeper.risk.inputs import Floats
from keeper.risk.marks import Marks
from keeper.trigger import cascade
from keeper.trigger.cascade import flows
from keeper.units import WAD, FeedId

ETH, BTC = "ETH/USD", "BTC/USD"
QUOTES: Mapping[FeedId, Quote | Unknown] = {
    ETH: Quote(ETH, 100 * WAD, 0),
    BTC: Quote(BTC, 1_000 * WAD, 0),
    "DOGE/USD": Unknown("DOGE/USD", "silent"),
}


def price(quotes: Mapping[FeedId, Quote | Unknown], gross: float = 0.05) -> Marks:
    """One column a feed; of each so much of its price is required."""
    value = np.array([_of(quotes[ETH]), _of(quotes[BTC])])
    return Marks(value, value * gross, np.ones(1))


def worth(quotes: Mapping[FeedId, Quote | Unknown]) -> Floats:
    return price(quotes).value


def _of(quote: Quote | Unknown) -> float:
    assert isinstance(quote, Quote)
    return quote.price_wad / WAD


def book(*rows: tuple[float, float, float]) -> Snapshot:
    """Accounts of cash, ether and bitcoin."""
    cash, eth, btc = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    sizes = np.column_stack([eth, btc]).ravel()
    codes = np.tile([0, 2], len(cash)) + (sizes < 0)
    first, counts = 2 * np.arange(len(cash)), np.full(len(cash), 2)
    legs = Legs(first.astype(np.uint32), counts.astype(np.uint8), codes.astype(np.uint16), sizes, 2)
    return Snapshot(np.zeros(len(cash), "V32"), np.zeros(len(cash), np.uint8), {}, cash, legs)


NEAR = (-900.0, 10.0, 0.0)
"""E = 100 and M = 50 at a price of 100; at 95, 50 and 47.5; at 90, 0 and 45: all of it is closed."""
SAFE = (0.0, 10.0, 0.0)


def test_nobody_in_breach_makes_no_flow() -> None:
    assert flows(book(NEAR, SAFE), QUOTES, price, worth, [ETH], 0.05) == {ETH: 0.0}


def test_who_has_nothing_left_at_the_lower_price_is_closed_whole() -> None:
    assert flows(book(NEAR, SAFE), QUOTES, price, worth, [ETH], 0.1) == pytest.approx({ETH: 900.0})


def test_of_others_goes_what_they_lack_over_what_they_must_have() -> None:
    # At 92: E = 20, M = 46, and 26 / 46 of 920 goes.
    assert flows(book(NEAR), QUOTES, price, worth, [ETH], 0.08) == pytest.approx({ETH: 26 / 46 * 920})


def test_who_must_have_more_than_is_required_is_closed_until_it_has() -> None:
    def twice(quotes: Mapping[FeedId, Quote | Unknown]) -> Marks:
        marks = price(quotes)
        return Marks(marks.value, marks.gross, np.full(1, 2.0))

    # At 92: E = 20, and 2 M = 92. Of the book 20 / 92 stays, which requires 10.
    assert flows(book(NEAR), QUOTES, twice, worth, [ETH], 0.08) == pytest.approx({ETH: 72 / 92 * 920})


def test_where_only_debts_must_be_covered_all_of_it_counts() -> None:
    loans = flows(book(NEAR), QUOTES, lambda quotes: price(quotes, 0.0), worth, [ETH], 0.11)
    assert loans == pytest.approx({ETH: 890.0})


@pytest.mark.parametrize(("unit", "closed"), [(0.01, 900.0), (float("nan"), 0.0)])
def test_what_counts_in_something_else_is_told_in_quote_where_its_worth_is_known(
    unit: float, closed: float
) -> None:
    def in_cents(quotes: Mapping[FeedId, Quote | Unknown]) -> Marks:
        marks = price(quotes)
        return Marks(marks.value * 100, marks.gross * 100, marks.levels, quote=np.array([unit]))

    def in_quote(quotes: Mapping[FeedId, Quote | Unknown]) -> Floats:
        return worth(quotes) * 100 * unit

    cents = (-90_000.0, 10.0, 0.0)
    assert flows(book(cents), QUOTES, in_cents, in_quote, [ETH], 0.1) == pytest.approx({ETH: closed})


def test_of_a_loan_so_much_is_repaid_as_leaves_the_rest_covered() -> None:
    def marks(quotes: Mapping[FeedId, Quote | Unknown]) -> Marks:
        # Ether held, of which 80% count, and dollars owed, in the column of bitcoin.
        return Marks(np.array([0.8 * _of(quotes[ETH]), 0.0]), np.array([0.0, 1.0]), np.ones(1))

    def worths(quotes: Mapping[FeedId, Quote | Unknown]) -> Floats:
        return np.array([_of(quotes[ETH]), -1.0])

    # At 90, 0.8 (900 - R) = 760 - R, so that R = 200.
    assert flows(book((0.0, 10.0, 760.0)), QUOTES, marks, worths, [ETH], 0.1) == pytest.approx({ETH: 200})


def test_feeds_fall_together_and_each_has_its_own_part() -> None:
    both = (-1_950.0, 10.0, 1.0)
    found = flows(book(both), QUOTES, price, worth, [ETH, BTC], 0.03)
    assert found == pytest.approx({ETH: 970.0, BTC: 970.0})
    # Ether alone: E = 20, M = 98.5.
    assert flows(book(both), QUOTES, price, worth, [ETH], 0.03) == pytest.approx({ETH: 78.5 / 98.5 * 970})


def test_a_feed_without_a_price_is_left_out_and_so_is_who_cannot_be_told() -> None:
    assert flows(book(NEAR), QUOTES, price, worth, ["DOGE/USD", "XRP/USD"], 0.1) == {}
    unread = (float("nan"), 10.0, 0.0)
    assert flows(book(unread, NEAR), QUOTES, price, worth, [ETH], 0.1) == pytest.approx({ETH: 900.0})


def test_of_a_crowd_a_sample_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = flows(book(*[NEAR] * 64), QUOTES, price, worth, [ETH], 0.1)
    monkeypatch.setattr(cascade, "SAMPLE", 16)
    assert flows(book(*[NEAR] * 64), QUOTES, price, worth, [ETH], 0.1) == pytest.approx(whole)
