"""The book against a plain dictionary of accounts: the same, integer for integer, whatever happens to it."""

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keeper.columns.column import Column
from keeper.columns.keys import NOBODY, Keys, key_array
from keeper.columns.pool import Pool
from keeper.columns.snapshot import Snapshot
from keeper.domain import Account, Head, Unknown
from keeper.protocols.hybrid.rows import HybridRows
from keeper.state.archive import Stamp
from keeper.state.book import Book
from keeper.units import AccountKey, Block
from tests.properties.test_mirror_properties import ACCOUNTS, COLLATERALS, KEYS, MARKETS, PAGES
from tests.unit.protocols.hybrid.pages import page_of

FIRST = 1000
STAMP = Stamp(chain_id=31337, deployment="0xliquidator", block=0, block_hash="0xabc")


@dataclass
class Model:
    """What the book should say, with an object for each account."""

    rows: dict[AccountKey, Account] = field(default_factory=dict)
    dirty: dict[AccountKey, None] = field(default_factory=dict)
    touched: dict[Block, set[AccountKey]] = field(default_factory=dict)
    complete_after: Block = 0
    block: Block = FIRST

    def fold(self, page: list[Account]) -> None:
        if any(each.key not in self.rows and each.key not in self.dirty for each in page):
            self.complete_after = max(self.complete_after, self.block)
        for each in page:
            self.rows[each.key] = each
            self.dirty.pop(each.key, None)

    def mark(self, keys: list[AccountKey]) -> None:
        self.dirty |= dict.fromkeys(keys)
        self.touched.setdefault(self.block, set()).update(keys)

    def unwind(self, head: Head) -> None:
        if head.number <= self.complete_after:
            self.dirty |= dict.fromkeys(self.rows)
        self.dirty |= dict.fromkeys(self.touched.pop(head.number, set()))


class Both:
    """A book and its model, through the same events."""

    def __init__(self) -> None:
        self.book = Book(HybridRows(MARKETS, COLLATERALS))
        self.model = Model()
        self.more = 0
        self.seen: list[tuple[Snapshot, list[list[float]]]] = []

    def fold(self, page: list[Account]) -> None:
        self.book.fold_rows(page_of(page), self.model.block)
        self.model.fold(page)

    def mark(self, keys: list[AccountKey]) -> None:
        self.book.mark_dirty(keys, self.model.block)
        self.model.mark(keys)

    def mine(self) -> None:
        self.model.block += 1

    def unwind(self, depth: int) -> None:
        heads = [Head(self.model.block - back, "", "", 0, 0) for back in range(depth)]
        self.book.unwind(heads)
        for head in heads:
            self.model.unwind(head)
        self.model.block -= depth

    def remove(self, keys: list[AccountKey]) -> None:
        self.book.remove(keys)
        for key in keys:
            self.model.rows.pop(key, None)

    def restart(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "book")
            stamp = Stamp(STAMP.chain_id, STAMP.deployment, self.model.block, STAMP.block_hash)
            self.book.save(path, stamp)
            self.book, read = Book.load(
                path, self.shape, chain_id=STAMP.chain_id, deployment=STAMP.deployment
            )
        assert read == stamp
        self.model.touched.clear()
        self.model.complete_after = self.model.block

    @property
    def shape(self) -> HybridRows:
        return HybridRows(MARKETS + self.more, COLLATERALS + self.more)

    def relist(self, more: int) -> None:
        self.more = more
        self.book.relist(self.shape)

    def freeze(self) -> None:
        snapshot = self.book.freeze()
        self.seen.append((snapshot, columns(snapshot)))


Deed: TypeAlias = Callable[[Both], None]
FULL = st.lists(ACCOUNTS, min_size=4, max_size=6, unique_by=lambda account: account.key)
SEVERAL = st.lists(KEYS, max_size=3)
DEEDS: st.SearchStrategy[Deed] = st.one_of(
    PAGES.map(lambda page: lambda both: both.fold(page)),
    SEVERAL.map(lambda keys: lambda both: both.mark(keys)),
    SEVERAL.map(lambda keys: lambda both: both.remove(keys)),
    st.integers(1, 3).map(lambda depth: lambda both: both.unwind(depth)),
    st.sampled_from([0, 2]).map(lambda more: lambda both: both.relist(more)),
    st.sampled_from([Both.mine, Both.restart, Both.freeze]),
)


def columns(snapshot: Snapshot) -> list[list[float]]:
    cash = np.nan_to_num(snapshot.cash, nan=-1e300)
    found = (snapshot.cells["phases"], snapshot.classes, cash, snapshot.positions)
    return [[*snapshot.keys.tolist()], *(each.tolist() for each in found)]


def twins(snapshot: Snapshot, without: Collection[AccountKey]) -> dict[AccountKey, list[object]]:
    """What the trigger sees of each account that is not dirty."""
    seen = (snapshot.cells["phases"], snapshot.classes, snapshot.cash, snapshot.positions)
    rows = {snapshot.key(row): row for row in range(len(snapshot))}
    return {key: [each[row].tolist() for each in seen] for key, row in rows.items() if key not in without}


@given(FULL, st.lists(DEEDS, max_size=12))
def test_the_book_is_the_dictionary_of_its_accounts_whatever_happens(
    first: list[Account], deeds: list[Deed]
) -> None:
    both = Both()
    both.fold(first)
    for deed in deeds:
        # What was asked for before is not what is there afterwards.
        for key in both.model.rows:
            both.book.exact(key)
        deed(both)
    book, model = both.book, both.model
    assert set(book.dirty()) == model.dirty.keys()
    assert set(book.keys.tolist()) == model.rows.keys()
    assert book.known == len(model.rows.keys() | model.dirty.keys())
    snapshot = book.freeze()
    doubted = {snapshot.key(row) for row in np.flatnonzero(np.isnan(snapshot.cash)).tolist()}
    assert doubted == model.dirty.keys() & model.rows.keys()
    for key, account in model.rows.items():
        exact = book.exact(key)
        assert isinstance(exact, Unknown) if key in model.dirty else exact == account
    for market in range(1, MARKETS + 1):
        held = {key for key, each in model.rows.items() if market in {leg.market for leg in each.legs}}
        assert set(book.holders([market])) == held
    fresh = Book(both.shape)
    fresh.fold_rows(page_of(list(model.rows.values())), FIRST)
    assert twins(snapshot, model.dirty) == twins(fresh.freeze(), model.dirty)
    for seen, was in both.seen:
        assert columns(seen) == was


# --- what it is made of --------------------------------------------------------------------------

NUMBERS = st.lists(st.integers(0, 300), max_size=80, unique=True)


def key_of(number: int) -> AccountKey:
    """Return a key of which every byte counts."""
    return sha256(number.to_bytes(2)).digest()


@given(st.lists(st.tuples(st.booleans(), NUMBERS), max_size=12))
def test_every_key_is_found_in_its_row_and_no_other_is(deeds: list[tuple[bool, list[int]]]) -> None:
    keys, listed = Keys(), list[bytes]()
    for adds, numbers in deeds:
        named = [*map(key_of, numbers)]
        if adds:
            fresh = [key for key in named if key not in listed]
            assert keys.add(key_array(fresh)).tolist() == [*range(len(listed), len(listed) + len(fresh))]
            listed += fresh
        else:
            rows = keys.find(key_array(named))
            holes, movers = keys.remove(np.unique(rows[rows != NOBODY]))
            for hole, mover in zip(holes.tolist(), movers.tolist(), strict=True):
                listed[hole] = listed[mover]
            listed = listed[: len(keys)]
    everybody = [*map(key_of, range(301))]
    rows = keys.find(key_array(everybody)).tolist()
    assert rows == [listed.index(key) if key in listed else NOBODY for key in everybody]
    assert rows == [keys.row_of(key) for key in everybody]
    assert keys.lend().tolist() == listed


RUNS = st.dictionaries(st.integers(0, 39), st.lists(st.integers(1, 9), max_size=8), max_size=20)


@given(st.lists(st.tuples(st.booleans(), RUNS), max_size=30))
def test_a_pool_keeps_every_run_and_its_order(deeds: list[tuple[bool, dict[int, list[int]]]]) -> None:
    pool, model = Pool({"number": (np.uint16,)}), dict[int, list[int]]()
    pool.grow(40)
    for puts, runs in deeds:
        rows = np.array([*runs], np.intp)
        if puts:
            counts = np.array([len(run) for run in runs.values()], np.uint8)
            pool.put(rows, counts, {"number": np.array([each for run in runs.values() for each in run])})
            model |= runs
        else:
            pool.clear(rows)
            model |= {row: [] for row in runs}
    for row in range(40):
        assert pool["number"][pool.run(row)].tolist() == model.get(row, [])
    for number in range(1, 10):
        wanted = np.arange(10) == number
        held = sorted(row for row, run in model.items() if number in run)
        assert pool.owners("number", wanted).tolist() == held


@given(st.lists(st.tuples(st.sampled_from(["lend", "drop", "write", "grow"]), st.integers(0, 9))))
def test_what_was_lent_stays_as_it_was(deeds: list[tuple[str, int]]) -> None:
    column: Column[np.int64] = Column(np.int64)
    column.grow(10)
    lent = []
    for turn, (deed, number) in enumerate(deeds):
        if deed == "lend":
            view = column.lend(10)[number:]
            lent.append((view, view.tolist()))
        elif deed == "drop":
            del lent[number:]
        elif deed == "write":
            column.own[number] = turn
        else:
            column.grow(len(column) + number)
        for view, was in lent:
            assert view.tolist() == was
