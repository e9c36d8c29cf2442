"""Rows as they come: every account back in the order of the page, and nothing for what it does not have."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Account, FlagState, Holding, Leg, Phase
from keeper.errors import ChainFault
from keeper.protocols.hybrid.rows import COLUMNS, EPISODE_WORDS, HEAD_WORDS, accounts_of
from tests.unit.protocols.hybrid.pages import EVERYTHING, account, page_of

wads = st.integers(-(2**127), 2**127 - 1)
amounts = st.integers(1, 2**127 - 1)


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    markets = draw(st.lists(st.integers(1, 2**16 - 1), max_size=8, unique=True))
    kinds = draw(st.lists(st.integers(1, 255), max_size=4, unique=True))
    numbers = {name: draw(st.integers(0, 2**16 - 1)) for name in FlagState.__slots__}
    flag = replace(
        FlagState(**numbers),  # type: ignore[arg-type]
        flagger="0x" + draw(st.binary(min_size=20, max_size=20)).hex(),
        bond_wad=draw(amounts),
        reduced=draw(st.booleans()),
    )
    return Account(
        key=draw(st.binary(min_size=32, max_size=32)),
        phase=draw(st.sampled_from(Phase)),
        cash_wad=draw(wads),
        legs=tuple(Leg(market, draw(wads), draw(wads)) for market in markets),
        holdings=tuple(Holding(kind, draw(amounts)) for kind in kinds),
        last_risk_s=draw(st.integers(0, 2**40 - 1)),
        last_risk_block=draw(st.integers(0, 2**40 - 1)),
        flag=flag,
        debt_since_s=draw(st.integers(0, 2**40 - 1)),
        slope_choice=draw(st.integers(0, 2**16 - 1)),
    )


@given(st.lists(accounts(), max_size=3))
def test_a_page_read_by_itself_says_the_accounts_in_its_order(page: list[Account]) -> None:
    assert accounts_of(page_of(page)) == tuple(page)


def test_a_page_that_is_cut_short_is_a_fault_of_the_chain() -> None:
    with pytest.raises(ChainFault, match="expected a page of rows of 352 bytes, found 320"):
        accounts_of(page_of([account(1)])[:-32])


def test_what_an_account_does_not_have_takes_no_room() -> None:
    words = COLUMNS + COLUMNS + HEAD_WORDS
    assert len(page_of([account(1)])) == 32 * words
    positions, holdings = len(EVERYTHING.legs), len(EVERYTHING.holdings)
    assert len(page_of([EVERYTHING])) == 32 * (words + positions + holdings + EPISODE_WORDS)
