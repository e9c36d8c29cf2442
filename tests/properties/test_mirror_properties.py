"""What must hold of the mirror for every sequence of reads: exact integers back, twins that follow."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keeper.columns import wide
from keeper.domain import Account, FlagState, Holding, Leg, Phase, Unknown
from keeper.protocols.hybrid.rows import HybridRows
from keeper.state.book import Book
from keeper.units import WAD
from tests.unit.protocols.hybrid.pages import page_of

MARKETS, COLLATERALS = 9, 5
RELATIVE = Fraction(1, 2**51)

INT128 = st.integers(-(2**127), 2**127 - 1)
WAD128 = st.integers(0, 2**127 - 1)
UINT64 = st.integers(0, 2**64 - 1)
TIMES_S = st.integers(0, 2**40 - 1)
SECONDS = st.integers(0, 2**32 - 1)
SLOPES = st.integers(0, 2**16 - 1)
KEYS = st.sampled_from([bytes([number]) * 20 + bytes(12) for number in range(6)])

FLAGS = st.builds(
    FlagState,
    flagger=st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
    bond_wad=WAD128,
    flagged_at_s=TIMES_S,
    flagged_block=TIMES_S,
    tau_at_flag_s=SECONDS,
    tau_s=SECONDS,
    last_poke_s=TIMES_S,
    tau_at_confirm_s=SECONDS,
    confirmed_at_s=TIMES_S,
    fee_cap_wad=UINT64,
    step_start_s=TIMES_S,
    step_used_wad=UINT64,
    tranche_nonce=UINT64,
    aid_wad=WAD128,
    reduced=st.booleans(),
    carry_tau_s=SECONDS,
    carried_at_s=TIMES_S,
    slope=SLOPES,
    insolvent_tau_s=TIMES_S,
)
LEGS = st.lists(
    st.builds(Leg, st.integers(1, MARKETS), INT128, INT128), max_size=8, unique_by=lambda leg: leg.market
).map(tuple)
HOLDINGS = st.lists(
    st.builds(Holding, st.integers(1, COLLATERALS), WAD128),
    max_size=4,
    unique_by=lambda each: each.collateral,
).map(tuple)
ACCOUNTS = st.builds(
    Account,
    key=KEYS,
    phase=st.sampled_from(Phase),
    cash_wad=INT128,
    legs=LEGS,
    holdings=HOLDINGS,
    last_risk_s=TIMES_S,
    last_risk_block=TIMES_S,
    flag=FLAGS,
    debt_since_s=TIMES_S,
    slope_choice=SLOPES,
)
PAGES = st.lists(ACCOUNTS, max_size=5, unique_by=lambda account: account.key)


def cells(*numbers: int) -> wide.Wides:
    raw = b"".join(number.to_bytes(32, signed=True) for number in numbers)
    return wide.decode(np.frombuffer(raw, wide.BIG_ENDIAN).reshape(len(numbers), 4))


def near(found: float, exact: Fraction) -> bool:
    return abs(Fraction(found) - exact) <= abs(exact) * RELATIVE


@given(st.lists(INT128, min_size=1, max_size=20))
def test_every_128_bit_integer_survives_the_round_trip(numbers: list[int]) -> None:
    assert wide.to_ints(cells(*numbers)) == numbers


@given(st.lists(INT128, min_size=1, max_size=20))
def test_the_float_twin_is_within_four_roundings(numbers: list[int]) -> None:
    for found, exact in zip(wide.to_floats(cells(*numbers)).tolist(), numbers, strict=True):
        assert near(found, Fraction(exact))


@given(st.lists(INT128, min_size=1, max_size=20), st.booleans())
def test_a_sum_is_rounded_only_once_all_terms_are_added(numbers: list[int], cancels: bool) -> None:
    if cancels:
        numbers = [*numbers, *(-number for number in numbers[:-1] if number > -(2**127))]
    assert near(float(wide.sum_to_floats(cells(*numbers))), Fraction(sum(numbers)))


@given(st.lists(st.tuples(PAGES, st.lists(KEYS, max_size=3)), max_size=6))
def test_the_mirror_equals_what_was_read_last_and_doubts_what_changed_since(
    history: list[tuple[list[Account], list[bytes]]],
) -> None:
    book = Book(HybridRows(MARKETS, COLLATERALS))
    read: dict[bytes, Account] = {}
    dirty: set[bytes] = set()
    for block, (page, touched) in enumerate(history):
        book.fold_rows(page_of(page), block)
        book.mark_dirty(touched, block)
        read |= {account.key: account for account in page}
        dirty = (dirty - {account.key for account in page}) | set(touched)
    assert set(book.dirty()) == dirty
    assert set(book.keys.tolist()) == read.keys()
    for key, account in read.items():
        exact = book.exact(key)
        assert isinstance(exact, Unknown) if key in dirty else exact == account


@given(st.lists(PAGES, max_size=4))
def test_the_float_view_follows_the_exact_rows(pages: list[list[Account]]) -> None:
    book = Book(HybridRows(MARKETS, COLLATERALS))
    for block, page in enumerate(pages):
        book.fold_rows(page_of(page), block)
    snapshot = book.freeze()
    for row in range(len(snapshot)):
        account = book.exact(snapshot.key(row))
        assert isinstance(account, Account)
        exact = [Fraction(0)] * (MARKETS + COLLATERALS)
        for leg in account.legs:
            exact[leg.market - 1] = Fraction(leg.size_wad, WAD)
        for holding in account.holdings:
            exact[MARKETS + holding.collateral - 1] = Fraction(holding.amount_wad, WAD)
        assert all(map(near, snapshot.positions[row].tolist(), exact))
        cash_wad = account.cash_wad + sum(leg.quote_leg_wad for leg in account.legs)
        assert near(float(snapshot.cash[row]), Fraction(cash_wad, WAD))
        assert list(Phase)[snapshot.cells["phases"][row]] is account.phase
