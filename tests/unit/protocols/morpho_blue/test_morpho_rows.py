"""Rows as they come, their classes, and books that were read under another listing."""

from pathlib import Path

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from keeper.columns.shape import rows_of
from keeper.errors import ChainFault, ConfigError, InvariantBroken
from keeper.protocols.morpho_blue.rows import Loan, MorphoRows
from keeper.state.archive import Stamp
from keeper.state.book import Book
from tests.unit.protocols.morpho_blue.made import FIRST, LISTING, OWNER, SECOND, loan, page_of

SHAPE = MorphoRows(LISTING.places, LISTING.mark)
STAMP = Stamp(1, "morpho", 7, "0x" + "07" * 32)
amounts = st.integers(0, 2**127 - 1)
loans = st.builds(
    Loan,
    st.binary(min_size=32, max_size=32),
    amounts,
    amounts,
    st.sets(st.integers(0, 63), max_size=4).map(lambda found: tuple(sorted(found))),
)


@given(st.lists(loans, max_size=4))
def test_a_page_says_the_accounts_in_its_order(page: list[Loan]) -> None:
    assert rows_of(SHAPE, page_of(page)) == tuple(page)
    SHAPE.check_names(page_of(page), [each.key for each in page])


def test_a_class_is_a_market_with_or_without_pre_liquidation() -> None:
    rows = [loan(1), loan(1, authorised=(1,)), loan(1, market=SECOND), Loan(OWNER + bytes(12), 0, 0)]
    page = SHAPE.decode(page_of(rows))
    assert page.cells["classes"].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    "page",
    [
        b"",
        page_of([loan(1)])[:-32],
        page_of([loan(1)]) + bytes(32),
        encode(["uint256[]"], [[1, 2]]),
        encode(["uint256[]"], [[1, 2**255, 0]]),
        encode(["uint256[]"], [[1, 0, 2**64]]),
    ],
    ids=["nothing", "cut short", "too long", "half a row", "an amount too large", "a bit too high"],
)
def test_what_is_no_page_of_rows_is_a_fault_of_the_chain(page: bytes) -> None:
    with pytest.raises(ChainFault, match="expected"):
        SHAPE.decode(page)


def test_rows_of_others_are_a_fault_of_the_chain() -> None:
    with pytest.raises(ChainFault, match="in another order"):
        SHAPE.check_names(
            page_of([loan(1), loan(1, market=SECOND)]), [OWNER + SECOND[:12], OWNER + FIRST[:12]]
        )


def test_a_book_comes_back_from_disk_unless_the_listing_is_another(tmp_path: Path) -> None:
    book, path = Book(SHAPE), tmp_path / "book"
    book.fold_rows(page_of([loan(1_000, authorised=(0, 1)), loan(5, market=SECOND)]), 7)
    book.save(path, STAMP)
    found, _ = Book.load(path, SHAPE, chain_id=1, deployment="morpho")
    assert found.exact(OWNER + FIRST[:12]) == loan(1_000, authorised=(0, 1))
    with pytest.raises(ConfigError, match="other markets"):
        Book.load(path, MorphoRows(LISTING.places, LISTING.mark + 1), chain_id=1, deployment="morpho")


def test_nobody_asks_for_the_holders_of_a_market() -> None:
    book = Book(SHAPE)
    assert book.holders(()) == ()
    with pytest.raises(InvariantBroken, match="name accounts"):
        book.holders([1])
