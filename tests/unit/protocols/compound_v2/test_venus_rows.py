"""Rows as they come: markets entered, vTokens, and debts as they are stored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from keeper.columns.shape import rows_of
from keeper.errors import ChainFault, ConfigError, InvariantBroken
from keeper.protocols.compound_v2 import math
from keeper.protocols.compound_v2.rows import Loan, VenusRows
from keeper.state.archive import Stamp
from keeper.state.book import Book
from tests.unit.protocols.compound_v2.made import KEY, V_USDC, V_WETH, loan, page_of

SHAPE = VenusRows((V_WETH, V_USDC))
STAMP = Stamp(1, "venus", 7, "0x" + "07" * 32)
amounts = st.integers(1, 2**127 - 1)


@st.composite
def loans(draw: st.DrawFn) -> Loan:
    entered = draw(st.permutations([0, 1]).map(lambda found: tuple(found[: draw(st.integers(0, 2))])))
    owned = [number for number in entered if draw(st.booleans())]
    owed = [number for number in entered if draw(st.booleans())]
    debts = {number: math.Debt(draw(amounts), draw(amounts)) for number in owed}
    key = draw(st.binary(min_size=20, max_size=20)) + bytes(12)
    return Loan(key, math.Loan(entered, {number: draw(amounts) for number in owned}, debts))


@given(st.lists(loans(), max_size=4))
def test_a_page_says_the_accounts_in_its_order(page: list[Loan]) -> None:
    assert rows_of(SHAPE, page_of(page)) == tuple(page)
    SHAPE.check_names(page_of(page), [each.key for each in page])


def test_a_debt_is_a_position_over_its_index() -> None:
    book = Book(SHAPE)
    book.fold_rows(page_of([loan(1_500)]), 7)
    assert book.freeze().positions.tolist() == [[10**8, 0, 0, 750 * 10**6]]
    assert book.freeze().classes.tolist() == [0]
    assert book.exact(KEY) == loan(1_500)
    assert book.alike(loan(1_500), loan(1_500))
    assert not book.alike(loan(1_500), loan(1_501))


def test_an_account_without_anything_holds_nothing() -> None:
    book = Book(SHAPE)
    book.fold_rows(page_of([replace(loan(0), state=math.Loan((), {}, {}))]), 7)
    assert not book.freeze().positions.any()


HEAD = int.from_bytes(KEY)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b"", "two whole columns"),
        (page_of([loan(1)])[:-32], "two whole columns"),
        (page_of([loan(1)]) + bytes(32), "two whole columns"),
        (encode(["uint256[]", "uint256[]"], [[HEAD | 2], [0, 1, 1]]), "expected 6 words"),
        (encode(["uint256[]", "uint256[]"], [[HEAD | 256], []]), "at most 127 markets"),
        (encode(["uint256[]", "uint256[]"], [[HEAD | 128], [0, 1, 0] * 128]), "at most 127 markets"),
        (encode(["uint256[]", "uint256[]"], [[HEAD | 1], [2, 1, 1]]), "markets that are listed"),
        (encode(["uint256[]", "uint256[]"], [[HEAD | 1], [2**256 - 1, 1, 1]]), "markets that are listed"),
        (encode(["uint256[]", "uint256[]"], [[HEAD | 1], [0, 2**255, 1]]), "below 2\\^127"),
        (encode(["uint256[]", "uint256[]"], [[HEAD | 1], [0, 1, 2**127]]), "128-bit integers"),
        (encode(["uint256[]", "uint256[]"], [[HEAD | 1], [0, 1, 0]]), "an index with every debt"),
    ],
)
def test_what_is_no_page_of_rows_is_a_fault_of_the_chain(page: bytes, said: str) -> None:
    with pytest.raises(ChainFault, match=said):
        SHAPE.decode(page)


def test_rows_of_others_are_a_fault_of_the_chain() -> None:
    other = replace(loan(1), key=b"\x01" * 20 + bytes(12))
    with pytest.raises(ChainFault, match="in another order"):
        SHAPE.check_names(page_of([loan(1), other]), [other.key, KEY])


def test_a_book_comes_back_from_disk_unless_a_market_is_not_listed_any_more(tmp_path: Path) -> None:
    book, path = Book(SHAPE), tmp_path / "book"
    book.fold_rows(page_of([loan(1_500)]), 7)
    book.save(path, STAMP)
    found, _ = Book.load(path, SHAPE, chain_id=1, deployment="venus")
    assert found.exact(KEY) == loan(1_500)
    with pytest.raises(ConfigError, match="an account is in market 1"):
        Book.load(path, VenusRows((V_WETH,)), chain_id=1, deployment="venus")


def test_a_new_market_gets_columns_between_the_old_ones() -> None:
    book = Book(SHAPE)
    book.fold_rows(page_of([loan(1_500)]), 7)
    book.relist(VenusRows((V_WETH, V_USDC, "0x" + "d3" * 20)))
    assert np.flatnonzero(book.freeze().positions[0]).tolist() == [0, 4]


def test_nobody_asks_for_the_holders_of_a_market() -> None:
    with pytest.raises(InvariantBroken, match="name accounts"):
        Book(SHAPE).holders([1])
