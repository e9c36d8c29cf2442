"""The sieve never misses: whatever prices and books do, a tick finds exactly the suspects of ``score``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.columns.keys import KEY
from keeper.columns.legs import ENTRY, Floats, Legs, Twins
from keeper.columns.pool import Pool
from keeper.columns.snapshot import Snapshot
from keeper.risk.marks import Marks
from keeper.risk.netting import Expiry, Underlying
from keeper.trigger import Trigger, compiled, engine, score, suspects, watch
from keeper.trigger.engine import Engine
from keeper.trigger.terms import HORIZON, SHELVES, Held, Terms

COLUMNS = 10
CLASSES = 3
NONE = np.zeros(0, np.intp)
NO_ROWS = np.zeros(0, np.int32)

SEEDS = st.integers(0, 2**32 - 1)
INNER = ("_is_at_rest", "_shelf")
"""What loops call themselves: it is kept on disk as a part of these."""
ENGINES = pytest.mark.parametrize("compiled", [False, True])


@dataclass
class World:
    """A small book that changes, at prices that move."""

    rng: np.random.Generator
    scenarios: int
    rows: int

    def __post_init__(self) -> None:
        self.cash = np.zeros(self.rows)
        self.positions = np.zeros((self.rows, COLUMNS))
        self.classes = self.rng.integers(0, CLASSES, self.rows).astype(np.uint16)
        self.prices = self.rng.uniform(1, 100, COLUMNS)
        self.levels = self.rng.choice([1.0, 1.0, 1.2], CLASSES)
        self.haircut = np.where(self.rng.random(COLUMNS) < 0.5, 1.0, self.rng.uniform(0, 1, COLUMNS))
        self.unknown = np.zeros(COLUMNS, np.bool_)
        self.doubtful = np.zeros(COLUMNS, np.bool_)
        self.write(np.arange(self.rows))

    def write(self, rows: np.ndarray) -> None:
        """Give some rows new positions, and so much cash that many are near a breach, or exactly on it."""
        rng, shape = self.rng, (len(rows), COLUMNS)
        held = rng.random(shape) < rng.choice([0.0, 0.2, 0.6], (len(rows), 1))
        self.positions[rows] = rng.normal(0, 10, shape) * held * rng.choice([0.0, 1.0, 1e6, 1e-9], shape)
        self.cash[rows] = 0.0
        scores = score(
            cash=self.cash[rows], positions=self.positions[rows], marks=self.marks, classes=self.classes[rows]
        )
        level = self.levels[self.classes[rows]]
        edge = np.nan_to_num(level * scores.requirement - scores.equity)
        apart = np.nan_to_num(scores.margin) * rng.choice([-2, -1, 0, 0.5, 1, 1.001, 1.02, 2], len(rows))
        far = rng.uniform(-0.05, 0.3, len(rows)) * (np.abs(self.positions[rows]) @ self.prices)
        self.cash[rows] = edge + np.where(rng.random(len(rows)) < 0.4, apart, far)
        self.cash[rows[rng.random(len(rows)) < 0.1]] = 0.0
        for odd in (np.nan, np.inf, -np.inf):
            self.cash[rows[rng.random(len(rows)) < 0.03]] = odd

    @property
    def marks(self) -> Marks:
        value = np.where(self.unknown, np.nan, self.prices * self.haircut)
        if not self.scenarios:
            gross = np.where(self.haircut < 1, 0.0, self.prices * 0.1)
            several = np.array([1.0, 0.9, 1.1])[:, None]
            return Marks(value * several, gross * several, self.levels)
        columns = np.flatnonzero(~self.unknown[: COLUMNS - 3])
        groups = [columns[columns % 2 == odd] for odd in (0, 1)]
        underlyings = tuple(self.underlying(each) for each in groups if len(each))
        gross = np.where(np.arange(COLUMNS) < COLUMNS - 3, 0.0, self.prices * 0.05)
        return Marks(value, gross, self.levels, underlyings)

    def underlying(self, columns: np.ndarray) -> Underlying:
        rng, prices = np.random.default_rng(len(columns)), self.prices[columns, None]
        risk = rng.normal(0, 0.1, (len(columns), self.scenarios)) * prices
        doubtful, width = self.doubtful[columns], len(columns)
        ends = np.array([0.0, 50.0])
        change = rng.normal(0, 5, (width, 2))
        expiry = Expiry(columns, ends, change, (columns % 3 == 0).astype(float), 60.0)
        short = 0.01 * prices[:, 0]
        return Underlying(
            columns, risk, np.zeros(width), short, doubtful, (expiry,) if doubtful.any() else ()
        )

    def book(self) -> Snapshot:
        return snapshot(self.cash, self.positions, self.classes)

    def move(self) -> np.ndarray:
        """Let prices move, jointly or one alone, a little or far; return the rows that changed as well."""
        rng = self.rng
        kind = rng.choice([0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 8])
        if kind == 0:
            self.prices *= rng.uniform(0.995, 1.005, COLUMNS)
        elif kind == 1:
            self.prices *= rng.choice([0.999, 1.015])
        elif kind == 2:
            self.prices[rng.integers(COLUMNS)] *= rng.choice([0.5, 0.97, 1.03, 3.0])
        elif kind == 3:
            self.prices *= rng.uniform(0.8, 1.2, COLUMNS)
        elif kind == 4:
            self.unknown[rng.integers(COLUMNS)] ^= True
        elif kind == 5:
            self.doubtful[rng.integers(COLUMNS)] ^= True
        elif kind == 8:
            self.prices *= np.where(rng.random(COLUMNS) < 0.4, rng.uniform(0.95, 1.05, COLUMNS), 1.0)
        elif kind == 7:
            column = rng.integers(COLUMNS)
            self.haircut[column] = 0.9 if self.haircut[column] == 1 else 1.0
        changed = rng.permutation(self.rows)[: rng.integers(0, 4)] if kind > 2 else NONE
        if len(changed):
            self.write(changed)
        return np.sort(changed).astype(np.intp)

    def grow(self) -> np.ndarray:
        """Add rows."""
        new = np.arange(self.rows, self.rows + 3)
        self.rows += len(new)
        self.cash = np.append(self.cash, np.zeros(len(new)))
        self.positions = np.vstack([self.positions, np.zeros((len(new), COLUMNS))])
        self.classes = np.append(self.classes, np.zeros(len(new), np.uint16))
        self.write(new)
        return new


def snapshot(cash: Floats, positions: Floats, classes: np.ndarray) -> Snapshot:
    of, columns = np.nonzero(positions)
    twins = Twins(cash, of, columns, positions[of, columns])
    pool = Pool(ENTRY)
    pool.grow(len(cash))
    pool.put(np.arange(len(cash)), *twins.runs(COLUMNS))
    first, counts, entries = pool.lend(len(cash))
    legs = Legs(first, counts, entries["code"], entries["size"], COLUMNS)
    return Snapshot(np.zeros(len(cash), KEY), classes, {}, cash.copy(), legs)


def expected(book: Snapshot, marks: Marks) -> tuple[list[int], int]:
    scores = score(cash=book.cash, positions=book.positions, marks=marks, classes=book.classes)
    found = suspects(scores, level=marks.levels[book.classes])
    return sorted(found.tolist()), int(scores.unknown.sum())


@ENGINES
@given(SEEDS, st.sampled_from([0, 2, 16]), st.integers(1, 200), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_tick_finds_exactly_the_suspects_of_a_full_scoring(
    compiled: bool, seed: int, scenarios: int, rows: int, prepared: bool, is_crowded: bool
) -> None:
    world = World(np.random.default_rng(seed), scenarios, rows)
    trigger = Trigger(loops=engine(compiled=compiled), threads=1)
    changed: np.ndarray | None = None
    seen: list[Marks] = []
    with pytest.MonkeyPatch.context() as patched:
        if is_crowded:
            # Whoever is reached is looked for in the lists, however many these are.
            patched.setattr(watch, "SHARE", 1)
        for number in range(16):
            book = world.book()
            seen.append(world.marks)
            for marks in (seen[-1], seen[number // 2], seen[-1]):
                found = trigger.tick(book, marks, changed)
                assert (sorted(found.rows.tolist()), found.unknown) == expected(book, marks)
                changed = NONE
            if prepared and number % 3 == 0:
                trigger.prepare(book, seen[number // 2])
            changed = world.grow() if number == 8 else world.move()


def at(book: Snapshot, marks: Marks) -> Callable[[], tuple[Snapshot, Marks]]:
    return lambda: (book, marks)


@ENGINES
@given(SEEDS, st.sampled_from([0, 2, 16]), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_what_is_rehearsed_between_ticks_changes_none_of_them(
    compiled: bool, seed: int, scenarios: int, rows: int
) -> None:
    """Be it at marks that were never ticked, over rows that have changed since, or over more of them."""
    world = World(np.random.default_rng(seed), scenarios, rows)
    plain, rehearsing = (Trigger(loops=engine(compiled=compiled), threads=1) for _ in range(2))
    changed: np.ndarray | None = None
    for number in range(12):
        book, marks = world.book(), world.marks
        list(rehearsing.rehearse(at(book, marks)))
        found = [each.tick(book, marks, changed) for each in (plain, rehearsing)]
        assert found[0].rows.tolist() == found[1].rows.tolist()
        list(rehearsing.rehearse(at(book, marks)))
        assert plain.is_due == rehearsing.is_due
        assert plain.nearest(9).tolist() == rehearsing.nearest(9).tolist()
        if number % 3 == 0:
            for each in (plain, rehearsing):
                each.prepare(book, marks)
        changed = world.grow() if number == 8 else world.move()


@given(SEEDS, st.sampled_from([0, 2, 16]), st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_compiled_loops_and_those_of_numpy_agree_to_the_bit(seed: int, scenarios: int, rows: int) -> None:
    world = World(np.random.default_rng(seed), scenarios, rows)
    world.move()
    states = [passed(engine(compiled=compiled), world) for compiled in (True, False)]
    for ours, theirs in zip(*states, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def passed(loops: Engine, world: World) -> list[np.ndarray]:
    """Run every loop once; return all that each wrote."""
    held, terms = Held.of(world.book()), Terms.of(world.marks, loops)
    rows, out = np.arange(world.rows, dtype=np.int32)[::-1].copy(), np.zeros(world.rows, np.int32)
    surplus, away = np.zeros(world.rows), np.zeros(world.rows, np.float32)
    counts = loops.sieve(held, terms, rows, 0, world.rows, surplus, out)
    loops.measure(held, terms, terms.units(), rows, 0, world.rows, surplus, away)
    seen = [terms.net, terms.against, surplus, np.array(counts), out[: counts[0]], away]
    seen += loops.index(held, COLUMNS, away)
    far, before = np.zeros(COLUMNS), world.prices
    world.prices = before * np.linspace(0.9, 1.1, COLUMNS)
    loops.apart(Terms.of(world.marks, loops), terms, terms.units(), far)
    world.prices = before
    return [*seen, far]


@ENGINES
def test_an_account_at_rest_is_no_candidate_whatever_dust_it_holds(compiled: bool) -> None:
    positions = np.zeros((3, COLUMNS))
    positions[1, 0], positions[2, 1] = 1e-15, 1e-15
    book = snapshot(np.zeros(3), positions, np.zeros(3, np.uint16))
    value, gross = np.ones(COLUMNS), np.zeros(COLUMNS)
    gross[1] = 1.0
    trigger, _ = prepared(book, Marks(value, gross, np.ones(1)), compiled=compiled, found=[2])
    assert trigger._away[:2].tolist() == [np.inf, np.inf]


@ENGINES
def test_threads_find_what_one_finds(compiled: bool) -> None:
    world = World(np.random.default_rng(7), 16, 70_000)
    book, marks = world.book(), world.marks
    alone, together = (Trigger(loops=engine(compiled=compiled), threads=threads) for threads in (1, 2))
    found = [trigger.tick(book, marks, None) for trigger in (alone, together)]
    assert found[0].rows.tolist() == found[1].rows.tolist()
    assert found[0].unknown == found[1].unknown > 0
    for trigger in (alone, together):
        trigger.prepare(book, marks)
    np.testing.assert_array_equal(alone._away, together._away)
    world.prices[0] *= 0.96
    found = [trigger.tick(book, world.marks, NONE) for trigger in (alone, together)]
    assert found[0].rows.tolist() == found[1].rows.tolist()
    assert sorted(found[0].rows.tolist()) == expected(book, world.marks)[0]


def prepared(
    book: Snapshot, marks: Marks, *, compiled: bool, found: list[int] | None = None
) -> tuple[Trigger, Asked]:
    """Return a trigger that knows a book at some marks, and whom ticks from there on look at."""
    asked = Asked(engine(compiled=compiled))
    trigger = Trigger(loops=asked, threads=1)
    assert trigger.tick(book, marks, None).rows.tolist() == (found or [])
    trigger.prepare(book, marks)
    asked.rows.clear()
    return trigger, asked


class Asked:
    """Loops that note which rows ticks look at."""

    def __init__(self, loops: Engine) -> None:
        self.fill, self.measure, self.apart, self.index = loops.fill, loops.measure, loops.apart, loops.index
        self._loops = loops
        self.rows: list[list[int]] = []

    def sieve(
        self,
        held: Held,
        terms: Terms,
        rows: np.ndarray,
        begin: int,
        end: int,
        surplus: Floats,
        out: np.ndarray,
        /,
    ) -> tuple[int, int]:
        self.rows.append(sorted(rows.tolist()))
        return self._loops.sieve(held, terms, rows, begin, end, surplus, out)


@ENGINES
def test_the_nearest_come_first_and_no_suspect_is_among_them(compiled: bool) -> None:
    positions = np.zeros((5, COLUMNS))
    positions[:4, 0] = -1.0
    book = snapshot(np.array([120.0, 101.0, 99.0, 103.0, 1.0]), positions, np.zeros(5, np.uint16))
    trigger, _ = prepared(book, marked(100.0, 0.0), compiled=compiled, found=[2])
    assert trigger.nearest(2).tolist() == [1, 3]
    assert trigger.nearest(9).tolist() == [1, 3, 0]


@ENGINES
def test_the_nearest_are_no_suspects_of_the_last_tick_wherever_they_were_measured(compiled: bool) -> None:
    book = of_one_column([101.0, 99.9, 105.0], [-1.0] * 3)
    trigger, _ = prepared(book, marked(100.0, 0.0), compiled=compiled, found=[1])
    assert set(trigger.tick(book, marked(101.5, 0.0), NONE).rows.tolist()) == {0, 1}
    assert trigger.nearest(3).tolist() == [2]
    assert not len(trigger.tick(book, marked(99.5, 0.0), NONE).rows)
    assert trigger.nearest(3).tolist() == [1, 0, 2]


def test_before_anything_is_known_nobody_is_the_nearest() -> None:
    trigger, book = Trigger(threads=1), of_one_column([101.0], [-1.0])
    trigger.tick(book, marked(100.0, 0.0), None)
    assert not len(trigger.nearest(1))
    trigger.prepare(book, marked(100.0, 0.0))
    assert trigger.nearest(1).tolist() == [0]


def of_one_column(cash: list[float], sizes: list[float]) -> Snapshot:
    positions = np.zeros((len(cash), COLUMNS))
    positions[:, 0] = sizes
    return snapshot(np.array(cash), positions, np.zeros(len(cash), np.uint16))


def marked(value: float, gross: float) -> Marks:
    values, charges = np.full(COLUMNS, 100.0), np.zeros(COLUMNS)
    values[0], charges[0] = value, gross
    return Marks(values, charges, np.ones(1))


@pytest.mark.parametrize("gross", [101.0, 1e-3])
@ENGINES
def test_what_begins_to_count_against_its_holder_wakes_who_was_at_rest(compiled: bool, gross: float) -> None:
    book = of_one_column([0.0] * 100, [1e-15] + [0.0] * 99)
    trigger, _ = prepared(book, marked(100.0, 0.0), compiled=compiled)
    assert trigger.tick(book, marked(100.0, gross), NONE).rows.tolist() == [0]


@ENGINES
def test_marks_of_another_kind_are_a_matter_of_everybody(compiled: bool) -> None:
    def at(level: float) -> Marks:
        columns, none = np.array([0]), np.zeros(1)
        nets = Underlying(columns, np.array([[-10.0, 10.0]]), none, none, np.zeros(1, np.bool_))
        return Marks(np.full(COLUMNS, 100.0), np.zeros(COLUMNS), np.array([level]), (nets,))

    book = of_one_column([114.0] + [1_000.0] * 99, [-1.0] * 100)
    trigger, asked = prepared(book, at(1.0), compiled=compiled)
    assert trigger.tick(book, at(1.5), NONE).rows.tolist() == [0]
    assert asked.rows == [[]]


# --- whom a move reaches -------------------------------------------------------------------------


@ENGINES
@given(
    st.one_of(
        st.integers(1, SHELVES - 1).map(lambda shelf: shelf * HORIZON / SHELVES), st.floats(1e-6, 0.0999)
    )
)
@settings(max_examples=200, deadline=None)
def test_whom_a_move_reaches_by_a_hair_is_found_in_the_lists(compiled: bool, move: float) -> None:
    cash = 100.0 * (1 + move) * (1 - 1e-13)
    book = of_one_column([cash] + [1_000.0] * 99, [-1.0] * 100)
    trigger, asked = prepared(book, marked(100.0, 0.0), compiled=compiled)
    assert trigger.tick(book, marked(100.0 * (1 + move), 0.0), NONE).rows.tolist() == [0]
    assert asked.rows == [[0]]


@ENGINES
def test_a_tick_looks_at_holders_of_what_moved_who_are_near_enough_and_at_nobody_else(compiled: bool) -> None:
    positions = np.zeros((200, COLUMNS))
    positions[:, 5] = -1.0
    positions[:4, 5], positions[:2, 0], positions[2:4, 1] = 0.0, -1.0, -1.0
    cash = np.full(200, 1_000.0)
    cash[:4] = [103.5, 108.5, 103.5, 101.5]
    book, zeros = snapshot(cash, positions, np.zeros(200, np.uint16)), np.zeros(COLUMNS)

    def at(first: float, second: float, other: float) -> Marks:
        value = np.full(COLUMNS, 100.0)
        value[:2], value[5] = [first, second], other
        return Marks(value, zeros, np.ones(1))

    trigger, asked = prepared(book, at(100.0, 100.0, 100.0), compiled=compiled)
    for prices, looked_at, suspect in [
        ((101.0, 100.0, 100.0), [], []),
        ((101.8, 100.0, 100.0), [3], []),
        ((100.0, 101.8, 100.0), [3], [3]),
        ((104.0, 100.0, 100.0), [0], [0]),
        ((104.0, 104.0, 100.0), [0, 2, 3], [0, 2, 3]),
        ((104.0, 104.0, 101.9), [0, 2, 3], [0, 2, 3]),
        ((109.0, 103.0, 100.0), [0, 1, 3], [0, 1, 3]),
    ]:
        asked.rows.clear()
        assert sorted(trigger.tick(book, at(*prices), NONE).rows.tolist()) == suspect
        assert [row for rows in asked.rows for row in rows] == looked_at
    assert not len(trigger.tick(book, at(100.0, 100.0, 100.0), NONE).rows)


@ENGINES
def test_a_move_beyond_the_horizon_is_a_matter_of_everybody_until_it_is_known(compiled: bool) -> None:
    book = of_one_column([1_000.0] * 99 + [150.0], [-1.0] * 100)
    trigger, asked = prepared(book, marked(100.0, 0.0), compiled=compiled)
    far, due = marked(151.0, 0.0), [trigger.is_due]
    for _ in range(2):
        assert trigger.tick(book, far, NONE).rows.tolist() == [99]
        due.append(trigger.is_due)
    trigger.prepare(book, far)
    assert trigger.tick(book, far, NONE).rows.tolist() == [99]
    assert asked.rows == [[], [], [], [99]]
    assert [*due, trigger.is_due] == [False, True, True, False]


@ENGINES
def test_ticks_change_nothing_of_what_is_known_and_nothing_is_learnt_where_it_is_near(compiled: bool) -> None:
    book = of_one_column([1_000.0] * 100, [-1.0] * 100)
    trigger, _ = prepared(book, marked(100.0, 0.0), compiled=compiled)
    known, away = trigger._known, trigger._away.copy()
    for price, is_due in [(101.9, False), (102.1, True), (50.0, True), (100.5, False)]:
        trigger.tick(book, marked(price, 0.0), NONE)
        assert trigger.is_due is is_due
        assert trigger._known is known
        np.testing.assert_array_equal(trigger._away, away)
    trigger.prepare(book, marked(100.5, 0.0))
    assert trigger._known is known


@ENGINES
def test_a_row_that_changed_since_is_reached_from_where_it_is_now(compiled: bool) -> None:
    before = of_one_column([1_000.0] * 100, [-1.0, -1.0, -9.7] + [0.0] * 97)
    trigger, asked = prepared(before, marked(100.0, 0.0), compiled=compiled)
    after = of_one_column([1_000.0] * 100, [-1.0, -9.6, -1.0] + [0.0] * 97)
    assert not len(trigger.tick(after, marked(100.0, 0.0), np.array([1, 2])).rows)
    asked.rows.clear()
    assert not len(trigger.tick(after, marked(104.0, 0.0), NONE).rows)
    assert trigger.tick(after, marked(104.5, 0.0), NONE).rows.tolist() == [1]
    # The lists still have the other one where it was.
    assert asked.rows == [[2], [1, 2]]
    assert trigger.nearest(1).tolist() == [0]


@ENGINES
def test_many_changes_make_lists_worth_building_again(compiled: bool) -> None:
    book = of_one_column([1_000.0] * 100, [-1.0] * 100)
    trigger, asked = prepared(book, marked(100.0, 0.0), compiled=compiled)
    due = []
    for changed in (np.array([5]), np.array([5, 6]), np.arange(50)):
        asked.rows.clear()
        trigger.tick(book, marked(100.0, 0.0), changed)
        due.append(trigger.is_due)
    assert asked.rows == [[]]
    trigger.prepare(book, marked(100.0, 0.0))
    trigger.tick(book, marked(100.0, 0.0), NONE)
    assert [*due, trigger.is_due] == [False, True, True, False]


@ENGINES
def test_who_comes_in_the_place_of_an_unknown_that_was_removed_is_counted_once(compiled: bool) -> None:
    marks, before = marked(100.0, 0.0), of_one_column([1.0] * 99 + [np.nan], [1.0] * 100)
    trigger, _ = prepared(before, marks, compiled=compiled)
    assert trigger.tick(before, marks, NONE).unknown == 1
    fewer = of_one_column([1.0] * 99, [1.0] * 99)
    assert trigger.tick(fewer, marks, NONE).unknown == 0
    trigger.prepare(fewer, marks)
    assert trigger.tick(of_one_column([1.0] * 100, [1.0] * 100), marks, np.array([99])).unknown == 0


@ENGINES
def test_rows_that_are_gone_are_looked_for_no_more(compiled: bool) -> None:
    trigger, _ = prepared(
        of_one_column([101.0] * 2 + [1e6] * 98, [-1.0] * 100), marked(100.0, 0.0), compiled=compiled
    )
    one = of_one_column([101.0], [-1.0])
    assert trigger.tick(one, marked(101.5, 0.0), NONE).rows.tolist() == [0]
    trigger.prepare(one, marked(101.5, 0.0))
    assert trigger._away[1:].tolist() == [np.inf] * (len(trigger._away) - 1)


def test_loops_are_compiled_for_a_book_that_is_worth_it() -> None:
    trigger, marks = Trigger(), marked(100.0, 0.0)
    trigger.tick(of_one_column([1.0] * 9_999, [1.0] * 9_999), marks, None)
    assert trigger._loops is engine(compiled=False)
    trigger.tick(of_one_column([1.0] * 10_000, [1.0] * 10_000), marks, None)
    assert trigger._loops is engine(compiled=True)


@ENGINES
def test_what_gets_its_price_late_is_measured_like_all_else(compiled: bool) -> None:
    book = of_one_column([1_000.0] * 100, [-1.0] * 100)
    trigger, asked = prepared(book, marked(np.nan, 0.0), compiled=compiled)
    assert trigger.tick(book, marked(np.nan, 0.0), NONE).unknown == 100
    assert asked.rows == []
    assert trigger.tick(book, marked(100.0, 0.0), NONE).unknown == 0
    assert asked.rows == [[]]
    trigger.prepare(book, marked(100.0, 0.0))
    asked.rows.clear()
    assert not len(trigger.tick(book, marked(100.1, 0.0), NONE).rows)
    assert asked.rows == []


@ENGINES
def test_what_has_no_price_is_not_far_from_having_none_whatever_else_is_said_of_it(compiled: bool) -> None:
    def at(loss: float) -> Marks:
        columns = np.array([0, 1])
        nets = Underlying(columns, np.full((2, 2), -loss), np.zeros(2), np.zeros(2), np.zeros(2, np.bool_))
        value = np.full(COLUMNS, 100.0)
        value[:2] = np.nan
        return Marks(value, np.zeros(COLUMNS), np.ones(1), (nets,))

    book = of_one_column([1_000.0] * 100, [-1.0] + [0.0] * 99)
    trigger, asked = prepared(book, at(1.0), compiled=compiled)
    assert trigger.tick(book, at(7.0), NONE).unknown == 1
    assert asked.rows == []


@pytest.mark.parametrize(
    ("cash", "size", "value", "away"),
    [
        (110.0, -1.0, 100.0, 0.1),
        (90.0, -1.0, 100.0, -0.1),
        (1.0, 0.0, 100.0, np.inf),
        (-1.0, 0.0, 100.0, -np.inf),
        (0.0, 0.0, 100.0, np.inf),
        (np.nan, -1.0, 100.0, np.nan),
        (1.0, -1.0, np.nan, np.nan),
        (-1.0, 1.0, 0.0, -np.inf),
        (1e300, -1e300, 1e10, -np.inf),
        (1e300, 1e-300, 1.0, np.inf),
    ],
)
@ENGINES
def test_how_far_away_an_account_is_is_told_or_that_it_must_be_looked_at(
    compiled: bool, cash: float, size: float, value: float, away: float
) -> None:
    loops, book = engine(compiled=compiled), of_one_column([cash], [size])
    held, terms = Held.of(book), Terms.of(marked(value, 0.0), loops)
    surplus, found = np.zeros(1), np.zeros(1, np.float32)
    with np.errstate(over="ignore"):
        loops.sieve(held, terms, NO_ROWS, 0, 1, surplus, np.zeros(1, np.int32))
        loops.measure(held, terms, terms.units(), NO_ROWS, 0, 1, surplus, found)
    assert found.tolist() == pytest.approx([away], rel=1e-5, nan_ok=True)
    if 0 < away < np.inf:
        assert found[0] < surplus[0] / (abs(size) * terms.units()[0, 1])


@pytest.mark.parametrize("scenarios", [0, 16])
def test_what_was_compiled_before_the_start_is_all_that_ticks_need(scenarios: int) -> None:
    world = World(np.random.default_rng(3), scenarios, 200)
    trigger, book = Trigger(threads=1), world.book()
    trigger.warm_up(book, 10_000)
    loops = [
        each for name, each in vars(compiled).items() if hasattr(each, "signatures") and name not in INNER
    ]
    before = [len(each.signatures) for each in loops]
    assert len(loops) == 7
    assert all(before)
    trigger.tick(book, world.marks, None)
    trigger.prepare(book, world.marks)
    for _ in range(30):
        changed = world.move()
        trigger.tick(world.book(), world.marks, changed)
    assert [len(each.signatures) for each in loops] == before


def test_a_small_book_is_not_worth_compiling_for() -> None:
    trigger = Trigger(threads=1)
    trigger.warm_up(of_one_column([1.0], [1.0]), 9_999)
    assert trigger._loops is engine(compiled=False)


@ENGINES
@given(SEEDS, st.sampled_from([0, 2, 16]), st.integers(1, 100), st.floats(0, 0.5))
@settings(max_examples=50, deadline=None)
def test_who_is_within_reach_at_some_marks_is_found_whatever_marks_are_known(
    compiled: bool, seed: int, scenarios: int, rows: int, share: float
) -> None:
    world = World(np.random.default_rng(seed), scenarios, rows)
    trigger, fresh = (Trigger(loops=engine(compiled=compiled), threads=1) for _ in range(2))
    trigger.tick(world.book(), world.marks, None)
    trigger.prepare(world.book(), world.marks)
    for _ in range(3):
        changed = world.move()
        book, marks = world.book(), world.marks
        trigger.tick(book, marks, changed)
        away = trigger.away(book, marks, np.arange(rows))
        np.testing.assert_array_equal(away, fresh.away(book, marks, np.arange(rows)))
        within = np.flatnonzero(away <= share).tolist()
        assert set(within) <= set(trigger.within(book, marks, share).tolist())
