"""Rows of a pool as they come: every account back in its order, and nothing believed that cannot be."""

import numpy as np
import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from keeper.columns.ledger import Ledger
from keeper.columns.legs import Twins
from keeper.columns.shape import rows_of
from keeper.errors import ChainFault
from keeper.protocols.aave_v3.math import Loan
from keeper.protocols.aave_v3.rows import AaveRow, AaveRows
from keeper.state.book import Book
from tests.unit.protocols.aave_v3.pools import LINK, USDC, WETH, key, page_of, row

SHAPE = AaveRows(4)
amounts = st.dictionaries(st.integers(0, 127), st.integers(0, 2**127 - 1), max_size=5)


@st.composite
def rows(draw: st.DrawFn) -> AaveRow:
    return row(draw(st.integers(0, 2**96)), draw(amounts), draw(amounts), draw(st.integers(0, 255)))


@given(st.lists(rows(), max_size=4))
def test_a_page_says_the_accounts_in_its_order(page: list[AaveRow]) -> None:
    assert rows_of(AaveRows(), page_of(page)) == tuple(page)


def test_a_row_is_a_loan_to_the_mathematics() -> None:
    assert row(1, {WETH: 5}, {USDC: 7}, 2).loan == Loan(2, {WETH: 5}, {USDC: 7})


def dense(found: Twins, width: int) -> list[list[float]]:
    positions = np.zeros((len(found.cash), width))
    positions[found.of, found.columns] = found.sizes
    return positions.tolist()


def test_columns_are_collateral_first_and_then_debt() -> None:
    ledger = _ledger([row(1, {WETH: 5, LINK: 6}, {USDC: 7}), row(2, {}, {WETH: 8})])
    found = SHAPE.twins(ledger, np.arange(2))
    assert found.cash.tolist() == [0, 0]
    assert dense(found, 8) == [[5, 0, 0, 6, 0, 7, 0, 0], [0, 0, 0, 0, 8, 0, 0, 0]]
    assert [*SHAPE.columns][:1] + [*SHAPE.columns][-1:] == [("collateral", 0), ("debt", 3)]


def test_who_owes_at_a_stable_rate_has_no_cash_that_is_a_number() -> None:
    ledger = _ledger([row(1, {WETH: 5}, {}, stable_debt=[USDC]), row(2, {WETH: 5}, {USDC: 1})])
    assert np.isnan(SHAPE.twins(ledger, np.arange(2)).cash).tolist() == [True, False]


def test_a_reserve_listed_later_has_no_column_before() -> None:
    ledger = _ledger([row(1, {LINK: 6}, {WETH: 7})])
    assert dense(AaveRows(2).twins(ledger, np.arange(1)), 4) == [[0, 0, 7, 0]]


def test_holders_are_found_by_reserve() -> None:
    ledger = _ledger([row(1, {WETH: 5}, {}), row(2, {}, {USDC: 1}), row(3, {USDC: 2}, {LINK: 3})])
    assert SHAPE.holders(ledger, [USDC]).tolist() == [1, 2]


def test_a_book_keeps_what_the_page_said() -> None:
    book, told = Book(SHAPE), row(1, {WETH: 2**120}, {USDC: 7}, 2)
    book.mark_dirty([told.key], 1)
    book.fold_rows(page_of([told]), 1)
    assert book.exact(told.key) == told
    assert book.freeze().classes.tolist() == [2]


def test_a_page_of_others_is_not_taken_for_these() -> None:
    page = page_of([row(1, {WETH: 5}, {}), row(2, {}, {})])
    SHAPE.check_names(page, [key(1), key(2)])
    for wrong in ([key(2), key(1)], [key(1)], []):
        with pytest.raises(ChainFault, match="found 2 of others or in another order"):
            SHAPE.check_names(page, wrong)


HEAD = int.from_bytes(key(1)[:20]) << 96
ENTRY = 1 << 128 | 5


@pytest.mark.parametrize(
    ("heads", "entries", "found"),
    [
        ([HEAD | 2], [ENTRY], "expected 2 entries in a page of rows, found 1"),
        ([HEAD], [ENTRY], "expected 0 entries in a page of rows, found 1"),
        ([HEAD | 1], [3 << 136 | ENTRY], "kind of an entry up to 2 in a page of rows, found 3"),
        ([HEAD | 1], [4 << 128], "reserve up to 3 in a page of rows, found 4"),
        ([HEAD | 1], [1 << 200], "nothing above the kind"),
        ([HEAD | 1], [2**127], "scaled amounts below 2\\^127"),
        ([HEAD | 1 << 24], [], "e-mode category up to 255 in a page of rows, found 256"),
        ([HEAD | 256], [0] * 256, "number of entries up to 255 in a page of rows, found 256"),
        ([HEAD | 1 << 70], [], "nothing between a user and its category"),
    ],
)
def test_what_no_row_can_say_is_a_fault_of_the_chain(
    heads: list[int], entries: list[int], found: str
) -> None:
    with pytest.raises(ChainFault, match=found):
        SHAPE.decode(encode(["uint256[]", "uint256[]"], [heads, entries]))


@pytest.mark.parametrize("cut", [1, 32, 64, 96, 128, 160])
def test_a_page_that_is_cut_short_is_a_fault_of_the_chain(cut: int) -> None:
    with pytest.raises(ChainFault, match="expected"):
        SHAPE.decode(page_of([row(1, {WETH: 5}, {USDC: 7})])[:-cut])


def test_an_archive_with_a_kind_that_is_none_is_told() -> None:
    page = SHAPE.decode(page_of([row(1, {WETH: 5}, {})]))
    assert SHAPE.broken_rule(page) is None
    page.runs["entries"]["kind"][0] = 7
    assert SHAPE.broken_rule(page) == "an account has an entry of kind 7"


def _ledger(told: list[AaveRow]) -> Ledger:
    ledger, page = Ledger(SHAPE.cells, SHAPE.runs), SHAPE.decode(page_of(told))
    ledger.grow(len(page))
    ledger.put(np.arange(len(page)), page)
    return ledger
