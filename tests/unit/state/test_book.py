"""The mirror: folding pages, growing, what is dirty, what a reorg undoes, what a snapshot keeps."""

from dataclasses import replace

import numpy as np
import pytest
from eth_abi.abi import encode

from keeper.domain import Account, FlagState, Head, Holding, Leg, Phase, Unknown
from keeper.errors import ChainFault
from keeper.protocols.hybrid.rows import HybridRows
from keeper.state.book import EXACT, REMEMBERED_BLOCKS, Book
from keeper.units import WAD
from tests.unit.protocols.hybrid.pages import EVERYTHING, account, key, page_of

SHAPE = HybridRows(markets=3, collaterals=2)
PAGE = page_of([account(1)])
HEADS, STANDING = 4, 7
"""Where its words are that say how many words of heads there are, and how the account stands."""


def with_word(place: int, value: int) -> bytes:
    """Return the same page with another word in one place."""
    return PAGE[: 32 * place] + value.to_bytes(32) + PAGE[32 * (place + 1) :]


def heads(*numbers: int) -> list[Head]:
    return [Head(number, f"0x{number:064x}", f"0x{number - 1:064x}", 0, 0) for number in numbers]


def book_of(*accounts: Account, block: int = 100) -> Book[Account]:
    book = Book(SHAPE)
    book.fold_rows(page_of(accounts), block)
    return book


def test_every_field_of_a_row_comes_back_exactly_and_in_the_contracts_order() -> None:
    assert book_of(account(1), EVERYTHING).exact(key(7)) == EVERYTHING


def test_an_account_is_the_same_object_until_the_book_is_written_to() -> None:
    book = book_of(account(1), account(2))
    before = book.exact(key(1))
    assert book.exact(key(1)) is before
    book.fold_rows(page_of([account(2, cash_wad=5)]), 101)
    assert book.exact(key(1)) is not before
    assert book.exact(key(1)) == before


def test_a_snapshot_is_lent_once_and_copied_for_nobody() -> None:
    book = book_of(account(1), account(2))
    first = book.freeze()
    assert book.freeze() is first
    cells = first.cash.__array_interface__["data"]
    del first
    book.fold_rows(page_of([account(1, cash_wad=7 * WAD)]), 101)
    assert book.freeze().cash.__array_interface__["data"] == cells
    assert book.freeze().cash[0] == 7


def test_of_many_accounts_that_are_asked_for_only_the_last_ones_are_kept_as_objects() -> None:
    book = book_of(*(account(number) for number in range(1, EXACT + 2)))
    first = book.exact(key(1))
    for number in range(1, EXACT + 2):
        assert book.exact(key(number)) == account(number)
    assert book.exact(key(EXACT + 1)) is book.exact(key(EXACT + 1))
    assert book.exact(key(1)) is not first


def test_a_fold_replaces_old_rows_and_adds_new_ones() -> None:
    book = book_of(*(account(number) for number in range(1, 40)))
    changed = account(5, cash_wad=-3, phase=Phase.FLAGGED)
    assert book.fold_rows(page_of([account(50), changed]), 101) == 2
    assert len(book) == 40
    assert book.keys.tolist()[-1] == key(50)
    assert book.exact(key(5)) == changed
    assert book.exact(key(6)) == account(6)


def test_positions_are_dense_with_markets_first_and_cash_includes_the_quote_legs() -> None:
    legs = (Leg(3, -2 * WAD, 100 * WAD), Leg(1, WAD // 2, -30 * WAD))
    book = book_of(account(1), account(2, legs=legs, holdings=(Holding(2, 7 * WAD),)))
    snapshot = book.freeze()
    assert snapshot.positions.tolist() == [[0, 0, 0, 0, 0], [0.5, 0, -2, 0, 7]]
    assert snapshot.cash.tolist() == [1.0, 72.0]


def test_a_quote_leg_that_cancels_the_cash_leaves_its_small_rest() -> None:
    huge = 10**12 * WAD
    book = book_of(account(1, cash_wad=huge + 1, legs=(Leg(1, WAD, -huge),)))
    assert book.freeze().cash.tolist() == [1e-18]


def test_an_empty_page_changes_nothing() -> None:
    book = book_of(account(1))
    assert book.fold_rows(page_of([]), 101) == 0
    assert len(Book(HybridRows(0, 0)).freeze()) == 0
    assert len(book) == 1


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        (b"", "expected 4 whole columns of words, found 0 bytes"),
        (PAGE[:-32], "of 352 bytes, found 320"),
        (PAGE[:-1], "of 352 bytes, found 351"),
        (PAGE[:32] + PAGE, "whole columns"),
        (PAGE + bytes(32), "of 352 bytes, found 384"),
        (with_word(0, 2**255), "whole columns"),
        (with_word(HEADS, 2**63), "whole columns"),
        (page_of([account(1, legs=(Leg(4, WAD, 0),))]), "a market up to 3 in a page of rows, found 4"),
        (page_of([account(1, legs=(Leg(0, WAD, 0), Leg(2, WAD, 0)))]), "side by side, found a gap"),
        (
            page_of([account(1, legs=(Leg(0, WAD, 0),))]),
            "expected 0 words of legs",
        ),
        (page_of([account(1, holdings=(Holding(3, 1),))]), "a collateral up to 2 in a page of rows, found 3"),
        (page_of([account(1, holdings=(Holding(0, 1),))]), "expected 0 words of amounts"),
        (page_of([account(1, holdings=(Holding(1, 2**127),))]), "128-bit integers, found a larger one"),
        (page_of([account(1, holdings=(Holding(1, 2**256 - 1),))]), "unsigned"),
        (page_of([account(1, flag=FlagState(bond_wad=2**127))]), "128-bit integers, found a larger one"),
        (page_of([account(1, flag=FlagState(tau_s=2**64))]), "times and counts of 64 bits in an episode"),
        (with_word(STANDING, 4 << 40), "a state up to 3 in a page of rows, found 4"),
        (with_word(STANDING, 2 << 32), "a mark of an episode up to 1 in a page of rows, found 2"),
        (with_word(STANDING, 1 << 32), "expected 19 words of episodes in a page of rows, found 0"),
        (encode(["uint256[]"] * 4, [[1, 2], [], [], []]), "expected a multiple of 3 words of heads"),
    ],
)
def test_a_page_that_is_not_believable_is_refused_whole(page: bytes, complaint: str) -> None:
    book = book_of(account(1))
    with pytest.raises(ChainFault, match=complaint):
        book.fold_rows(page, 101)
    assert book.exact(key(1)) == account(1)
    assert len(book) == 1


def test_a_dirty_account_is_unknown_until_it_is_read_again() -> None:
    book = book_of(account(1), account(2))
    book.mark_dirty([key(2), key(3)], 101)
    assert book.dirty() == (key(2), key(3))
    assert book.exact(key(2)) == Unknown(f"account 0x{key(2).hex()}", "changed, and not read since")
    assert book.exact(key(3)) == Unknown(f"account 0x{key(3).hex()}", "never read")
    assert np.isnan(book.freeze().cash).tolist() == [False, True]
    book.fold_rows(page_of([account(3), account(2)]), 101)
    assert book.dirty() == ()
    assert book.freeze().cash.tolist() == [1.0, 2.0, 3.0]


def test_a_snapshot_keeps_what_it_saw() -> None:
    book = book_of(account(1, holdings=(Holding(1, WAD),)))
    before = book.freeze()
    book.fold_rows(page_of([account(1, phase=Phase.FLAGGED, cash_wad=0), account(2)]), 101)
    after = book.freeze()
    assert (before.cash.tolist(), before.positions.tolist()) == ([1.0], [[0, 0, 0, 1, 0]])
    assert (after.cash.tolist(), after.positions.tolist()) == ([0.0, 2.0], [[0] * 5, [0] * 5])
    assert (before.cells["phases"].tolist(), after.cells["phases"].tolist()) == ([0], [1, 0])
    assert (len(before), before.key(0)) == (1, key(1))
    with pytest.raises(ValueError, match="read-only"):
        before.legs.sizes[0] = 1


def test_a_reorg_makes_dirty_what_the_orphaned_blocks_touched() -> None:
    book = book_of(*(account(number) for number in range(1, 6)))
    for block, touched in ((101, [1]), (102, [2, 3]), (103, [3])):
        book.mark_dirty([key(number) for number in touched], block)
        book.fold_rows(page_of([account(number, cash_wad=0) for number in touched]), block)
    book.unwind(heads(103, 102))
    assert set(book.dirty()) == {key(2), key(3)}


def test_accounts_touched_on_the_adopted_branch_become_dirty_as_well() -> None:
    book = book_of(account(1), account(2))
    book.mark_dirty([key(1)], 101)
    book.fold_rows(page_of([account(1, cash_wad=0)]), 101)
    book.unwind(heads(101))
    book.mark_dirty([key(2)], 101)
    assert set(book.dirty()) == {key(1), key(2)}
    book.fold_rows(page_of([account(1), account(2)]), 101)
    book.unwind(heads(101))
    assert set(book.dirty()) == {key(2)}


@pytest.mark.parametrize("depth", [1, 10])
def test_a_reorg_of_the_block_of_the_first_read_makes_everything_dirty(depth: int) -> None:
    book = book_of(account(1), account(2), block=100)
    book.unwind(heads(*range(100, 100 - depth, -1)))
    assert set(book.dirty()) == {key(1), key(2)}


def test_a_reorg_beyond_memory_makes_everything_dirty() -> None:
    book = book_of(account(1), account(2), block=100)
    book.mark_dirty([key(1)], 101)
    book.mark_dirty([], 101 + REMEMBERED_BLOCKS)
    book.fold_rows(page_of([account(1)]), 101)
    book.unwind(heads(102))
    assert book.dirty() == ()
    book.unwind(heads(101))
    assert set(book.dirty()) == {key(1), key(2)}


def test_a_snapshot_tells_the_slope_that_each_owner_chose_as_its_class() -> None:
    assert book_of(account(1), account(2, slope_choice=3)).freeze().classes.tolist() == [0, 3]


def test_a_page_that_says_an_account_twice_is_refused() -> None:
    with pytest.raises(ChainFault, match="expected each account once"):
        book_of(account(1), account(2), account(1))


# --- who is in it --------------------------------------------------------------------------------


def held(number: int) -> Account:
    """An account that has something in every column."""
    return replace(EVERYTHING, key=key(number), cash_wad=number, legs=(Leg(3, number, 1), Leg(1, -WAD, 2)))


def test_the_last_rows_take_the_places_of_those_removed() -> None:
    book = book_of(*(held(number) for number in range(1, 6)))
    before = book.freeze()
    book.remove([key(5), key(1), key(9)])
    assert book.keys.tolist() == [key(4), key(2), key(3)]
    assert [book.exact(key(number)) for number in (2, 3, 4)] == [held(number) for number in (2, 3, 4)]
    assert book.exact(key(1)) == Unknown(f"account 0x{key(1).hex()}", "never read")
    assert book.holders([3]) == (key(4), key(2), key(3))
    fresh = book_of(held(4), held(2), held(3)).freeze()
    after = book.freeze()
    for name in ("classes", "cash", "positions"):
        np.testing.assert_array_equal(getattr(after, name), getattr(fresh, name))
    np.testing.assert_array_equal(after.cells["phases"], fresh.cells["phases"])
    assert [before.key(row) for row in range(5)] == [key(number) for number in range(1, 6)]


def test_an_account_that_was_removed_comes_back() -> None:
    book = book_of(account(1), account(2))
    book.mark_dirty([key(1)], 101)
    book.fold_rows(page_of([account(1)]), 101)
    book.remove([key(1)])
    assert key(1) not in book
    book.unwind(heads(101))
    assert book.dirty() == (key(1),)
    book.fold_rows(page_of([account(1, cash_wad=7)]), 101)
    assert book.exact(key(1)) == account(1, cash_wad=7)
    assert key(1) in book


def test_a_mark_outlives_the_removal_of_its_account() -> None:
    book = book_of(account(1), account(2))
    book.mark_dirty([key(1), key(3)], 101)
    book.remove([key(1)])
    assert (book.dirty(), book.known) == ((key(1), key(3)), 3)
    assert book.freeze().cash.tolist() == [2.0]


# --- what is listed ------------------------------------------------------------------------------


def test_a_new_market_and_a_new_collateral_get_columns_without_a_reading() -> None:
    legs, holdings = (Leg(3, 5 * WAD, 0), Leg(1, WAD, 0)), (Holding(2, 7 * WAD), Holding(1, WAD))
    book = book_of(account(1, legs=legs, holdings=holdings))
    before = book.freeze()
    book.relist(HybridRows(5, 3))
    assert before.positions.tolist() == [[1, 0, 5, 1, 7]]
    assert book.freeze().positions.tolist() == [[1, 0, 5, 0, 0, 1, 7, 0]]
    assert book.dirty() == ()
    book.fold_rows(page_of([account(2, legs=(Leg(5, -WAD, 0),), holdings=(Holding(3, WAD),))]), 101)
    assert book.freeze().positions[1].tolist() == [0, 0, 0, 0, -1, 0, 0, 1]
    assert book.exact(key(1)) == account(1, legs=legs, holdings=holdings)


def test_a_listing_that_a_reorg_took_back_loses_its_columns() -> None:
    book = book_of(account(1, holdings=(Holding(1, WAD),)))
    book.relist(HybridRows(4, 3))
    book.mark_dirty([key(2)], 101)
    book.fold_rows(page_of([account(2, legs=(Leg(4, WAD, 0),))]), 101)
    book.unwind(heads(101))
    book.relist(SHAPE)
    assert book.dirty() == (key(2),)
    book.fold_rows(page_of([account(2)]), 101)
    assert book.freeze().positions.tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]


def test_a_listing_of_more_than_legs_can_name_is_refused_every_time() -> None:
    book = book_of(account(1, legs=(Leg(3, WAD, 0),)))
    for _ in range(2):
        with pytest.raises(ChainFault, match="at most 32768 instruments in a listing, found 32769"):
            book.relist(HybridRows(2**15, 1))
    assert book.freeze().positions.tolist() == [[0, 0, 1, 0, 0]]
    with pytest.raises(ChainFault, match="at most 32768 instruments"):
        Book(HybridRows())


def test_the_holders_of_a_market_are_those_with_a_position_in_it() -> None:
    book = book_of(
        account(1),
        account(2, legs=(Leg(2, 1, 0),)),
        account(3, legs=(Leg(3, -WAD, 0),)),
        account(4, holdings=(Holding(2, WAD),)),
    )
    assert book.holders([2]) == (key(2),)
    assert book.holders([3, 2]) == (key(2), key(3))
    assert book.holders([]) == book.holders([4]) == ()


def test_what_touches_all_holders_touches_whoever_may_be_one_by_now() -> None:
    book = book_of(account(1), account(2, legs=(Leg(2, WAD, 0),)))
    book.mark_dirty([key(1)], 101)
    book.mark_holders_dirty(2, 102)
    assert set(book.dirty()) == {key(1), key(2)}
    book.fold_rows(page_of([account(1, legs=(Leg(2, WAD, -WAD),)), account(2)]), 102)
    book.unwind(heads(102))
    assert set(book.dirty()) == {key(1), key(2)}
