"""The reader's pages: exact both ways, and refused where they are none."""

from dataclasses import replace

import numpy as np
import pytest
from eth_abi.abi import encode

from keeper.columns.shape import rows_of
from keeper.errors import ChainFault
from keeper.protocols.perp_curie.params import load
from keeper.protocols.perp_curie.rows import why_barred
from keeper.units import WAD
from tests.unit.protocols.perp_curie.perps import MARKET, account, book_of, funded, key, page_of, words_of

SHAPE = MARKET.shape
ONE = funded(account(1, 812.5, {0: (10, -20_000), 1: (-0.25, 9_000)}), -3 * WAD // 7)
BARE = account(2, -1.5, {})
MAKER = account(3, 50, {1: (2, -70_000)}, barred=1)


def encoded(heads: list[int], entries: list[int]) -> bytes:
    return encode(load("PerpReader").functions["rows"].outputs, [heads, entries])


def test_accounts_come_back_to_the_last_unit() -> None:
    assert rows_of(SHAPE, page_of([ONE, BARE, MAKER])) == (ONE, BARE, MAKER)
    assert rows_of(SHAPE, page_of([])) == ()
    assert ONE.owner == "0x" + "00" * 19 + "01"


def test_the_twins_add_money_and_what_was_paid_less_the_funding_due() -> None:
    frozen = book_of(ONE, BARE).freeze()
    assert frozen.cash.tolist() == pytest.approx([812.5 - 11_000 + 6 / 7, -1.5], rel=1e-15)
    assert frozen.positions.tolist() == [[10.0, -0.25], [0.0, 0.0]]


def test_whoever_is_not_judged_has_no_number_for_money_and_says_why() -> None:
    frozen = book_of(MAKER).freeze()
    assert np.isnan(frozen.cash[0])
    assert frozen.classes.tolist() == [1]
    assert why_barred(ONE) == ""
    assert why_barred(replace(MAKER, barred=3)) == (
        "has orders, and makers are not judged and has collateral beside the settlement token"
    )


def test_holders_are_found_by_market() -> None:
    book = book_of(ONE, BARE, MAKER)
    assert book.holders([0]) == (key(1),)
    assert book.holders([1]) == (key(1), key(3))


def test_funding_accrues_and_fees_come_in_without_an_event() -> None:
    assert SHAPE.alike(ONE, funded(ONE, WAD))
    assert SHAPE.alike(MAKER, account(3, 60, {}, barred=1))
    assert not SHAPE.alike(MAKER, account(3, 50, {1: (2, -70_000)}))
    assert not SHAPE.alike(ONE, account(1, 812.5, {0: (10, -20_000)}))
    assert not SHAPE.alike(BARE, account(2, -1.25, {}))


def test_who_cannot_be_read_stays_as_unread_as_before() -> None:
    lost = account(2, 0, {}, barred=8)
    page = page_of([ONE, lost, MAKER])
    SHAPE.check_names(page, [key(1), key(2), key(3)])
    assert rows_of(SHAPE, page) == (ONE, MAKER)
    book = book_of(ONE, BARE)
    book.mark_dirty([key(1), key(2)], 2)
    book.fold_rows(page, 2)
    assert (book.exact(key(1)), book.dirty()) == (ONE, (key(2),))
    book.fold_rows(page_of([BARE]), 3)
    assert (book.exact(key(2)), book.dirty()) == (BARE, ())
    with pytest.raises(ChainFault, match="expected no positions of accounts that cannot be read"):
        SHAPE.decode(page_of([replace(ONE, barred=8)]))


def garbled(column: int, place: int, word: int) -> bytes:
    """Return a page with one word of its heads or entries replaced."""
    columns = words_of([ONE])
    columns[column][place] = word
    return encoded(*columns)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        page_of([ONE])[:-1],
        page_of([ONE])[:-32],
        page_of([ONE]) + bytes(32),
        bytes(32) + page_of([ONE]),
        encoded(words_of([ONE])[0][:-1], words_of([ONE])[1]),
        encoded(words_of([ONE])[0], words_of([ONE])[1][:-1]),
        encoded(words_of([ONE])[0], words_of([ONE])[1][:-2]),
        garbled(0, 1, 2**127),
        garbled(0, 0, 1 << 96 | 16 << 8 | 2),
        garbled(0, 0, 1 << 96 | 1 << 16 | 2),
        garbled(1, 1, 2),
        garbled(1, 1, 2**127),
    ],
)
def test_what_is_not_a_page_of_believable_rows_is_refused(page: bytes) -> None:
    with pytest.raises(ChainFault, match="expected"):
        SHAPE.decode(page)


def test_a_page_of_others_is_refused() -> None:
    page = page_of([ONE, BARE])
    SHAPE.check_names(page, [key(1), key(2)])
    for asked in ([key(2), key(1)], [key(1)], [key(1), key(2), key(3)]):
        with pytest.raises(ChainFault, match=f"expected the rows of {len(asked)} accounts"):
            SHAPE.check_names(page, asked)


def test_a_page_from_elsewhere_may_claim_no_flag_and_no_market_that_is_none() -> None:
    page = SHAPE.decode(page_of([ONE]))
    assert SHAPE.broken_rule(page) is None
    assert SHAPE.broken_rule(replace(page, cells={**page.cells, "barred": np.array([16])})) == (
        "an account has the flags 16"
    )
    positions = {**page.runs["positions"], "market": np.array([0, 2])}
    assert SHAPE.broken_rule(replace(page, runs={"positions": positions})) == (
        "an account has a position in market 2"
    )
