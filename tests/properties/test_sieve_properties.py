"""The sieve never misses: whatever prices and books do, a tick finds exactly the suspects of ``score``."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

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
from keeper.trigger.terms import AT_REST, Held, Terms

COLUMNS = 10
CLASSES = 3
NONE = np.zeros(0, np.intp)

SEEDS = st.integers(0, 2**32 - 1)
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
        kind = rng.choice([0, 1, 2, 2, 2, 3, 4, 5, 6, 7])
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
@given(SEEDS, st.sampled_from([0, 2, 16]), st.integers(1, 200), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_tick_finds_exactly_the_suspects_of_a_full_scoring(
    compiled: bool, seed: int, scenarios: int, rows: int, indexed: bool
) -> None:
    world = World(np.random.default_rng(seed), scenarios, rows)
    trigger = Trigger(loops=engine(compiled=compiled), threads=1)
    changed: np.ndarray | None = None
    seen: list[Marks] = []
    for number in range(16):
        book = world.book()
        seen.append(world.marks)
        for marks in (seen[-1], seen[number // 2], seen[-1]):
            found = trigger.tick(book, marks, changed)
            assert (sorted(found.rows.tolist()), found.unknown) == expected(book, marks)
            changed = NONE
        if indexed and number % 3 == 0:
            trigger.prepare(book)
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
    state = np.zeros((world.rows, 2))
    loops.measure(held, terms.units(), rows[:0], 0, world.rows, state)
    counts = loops.sieve(held, terms, rows, 0, world.rows, state, 0.02, True, out)
    seen = [terms.net, terms.against, state.copy(), np.array(counts), out[: counts[0]].copy()]
    near = loops.within(rows, state, 0.01, out)
    seen.append(out[:near].copy())
    legs = int(held.counts.sum())
    starts, of, sizes = np.zeros(COLUMNS + 1, np.int64), np.zeros(legs, np.int32), np.zeros(legs)
    loops.index(held, COLUMNS, starts, of, sizes)
    seen += [starts, of, sizes]
    moved = np.full((len(terms.levels), 2), 0.25)
    stale = np.arange(world.rows) % 3 == 0
    out = np.zeros(legs, np.int32)
    for begin, end in pairwise(starts.tolist()):
        count = loops.shift(of, sizes, held.classes, moved, stale, state, 0.02, begin, end, out)
        seen += [out[begin : begin + count].copy(), state.copy()]
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
    trigger = Trigger(loops=engine(compiled=compiled), threads=1)
    found = trigger.tick(book, Marks(value, gross, np.ones(1)), None)
    assert found.rows.tolist() == [2]
    assert trigger._state[:2, 0].tolist() == [AT_REST, AT_REST]


@ENGINES
def test_threads_find_what_one_finds(compiled: bool) -> None:
    world = World(np.random.default_rng(7), 16, 70_000)
    book, marks = world.book(), world.marks
    alone, together = (Trigger(loops=engine(compiled=compiled), threads=threads) for threads in (1, 2))
    found = [trigger.tick(book, marks, None) for trigger in (alone, together)]
    assert found[0].rows.tolist() == found[1].rows.tolist()
    assert found[0].unknown == found[1].unknown > 0
    assert sorted(alone._near.tolist()) == sorted(together._near.tolist())


@ENGINES
def test_the_nearest_come_first_and_no_suspect_is_among_them(compiled: bool) -> None:
    positions = np.zeros((4, COLUMNS))
    positions[:, 0] = -1.0
    book = snapshot(np.array([120.0, 101.0, 99.0, 103.0]), positions, np.zeros(4, np.uint16))
    trigger = Trigger(loops=engine(compiled=compiled), threads=1)
    marks = Marks(np.full(COLUMNS, 100.0), np.zeros(COLUMNS), np.ones(1))
    assert trigger.tick(book, marks, None).rows.tolist() == [2]
    assert trigger.nearest(2).tolist() == [1, 3]
    assert trigger.nearest(9).tolist() == [1, 3, 0]


@ENGINES
def test_the_nearest_are_those_of_the_last_tick_wherever_surpluses_were_computed(compiled: bool) -> None:
    book = of_one_column([101.0, 99.9, 105.0], [-1.0] * 3)
    trigger = Trigger(loops=engine(compiled=compiled), threads=1)
    trigger.tick(book, marked(100.0, 0.0), None)
    assert set(trigger.tick(book, marked(101.5, 0.0), NONE).rows.tolist()) == {0, 1}
    assert trigger.nearest(3).tolist() == [2]
    assert not len(trigger.tick(book, marked(99.5, 0.0), NONE).rows)
    assert trigger.nearest(3).tolist() == [1, 0, 2]


def of_one_column(cash: list[float], sizes: list[float]) -> Snapshot:
    positions = np.zeros((len(cash), COLUMNS))
    positions[:, 0] = sizes
    return snapshot(np.array(cash), positions, np.zeros(len(cash), np.uint16))


def marked(value: float, gross: float) -> Marks:
    values, charges = np.full(COLUMNS, 100.0), np.zeros(COLUMNS)
    values[0], charges[0] = value, gross
    return Marks(values, charges, np.ones(1))


@ENGINES
def test_what_begins_to_count_against_its_holder_wakes_who_was_at_rest(compiled: bool) -> None:
    book = of_one_column([0.0] * 100, [1e-15] + [0.0] * 99)
    trigger = Trigger(loops=engine(compiled=compiled), threads=1)
    assert not len(trigger.tick(book, marked(100.0, 0.0), None).rows)
    trigger.prepare(book)
    assert trigger.tick(book, marked(100.0, 101.0), NONE).rows.tolist() == [0]


@ENGINES
def test_a_row_that_changed_after_the_index_was_built_moves_with_the_prices(compiled: bool) -> None:
    trigger = Trigger(loops=engine(compiled=compiled), threads=1)
    before = of_one_column([1_000.0] * 100, [-1.0] * 2 + [0.0] * 98)
    trigger.tick(before, marked(100.0, 0.0), None)
    trigger.prepare(before)
    after = of_one_column([1_000.0] * 100, [-1.0, -8.0] + [0.0] * 98)
    assert not len(trigger.tick(after, marked(100.0, 0.0), np.array([1])).rows)
    assert trigger.tick(after, marked(130.0, 0.0), NONE).rows.tolist() == [1]


@ENGINES
def test_who_comes_in_the_place_of_an_unknown_that_was_removed_is_counted_once(compiled: bool) -> None:
    trigger, marks = Trigger(loops=engine(compiled=compiled), threads=1), marked(100.0, 0.0)
    assert trigger.tick(of_one_column([1.0] * 99 + [np.nan], [1.0] * 100), marks, None).unknown == 1
    assert trigger.tick(of_one_column([1.0] * 99, [1.0] * 99), marks, NONE).unknown == 0
    assert trigger.tick(of_one_column([1.0] * 100, [1.0] * 100), marks, np.array([99])).unknown == 0


def test_loops_are_compiled_for_a_book_that_is_worth_it() -> None:
    trigger, marks = Trigger(), marked(100.0, 0.0)
    trigger.tick(of_one_column([1.0] * 9_999, [1.0] * 9_999), marks, None)
    assert trigger._loops is engine(compiled=False)
    trigger.tick(of_one_column([1.0] * 10_000, [1.0] * 10_000), marks, None)
    assert trigger._loops is engine(compiled=True)


def test_after_so_many_moves_every_surplus_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SHIFTS", 3)
    book = of_one_column([1e6] * 100, [-1.1] * 30 + [0.0] * 70)
    trigger = Trigger(threads=1)
    prices = [100.0, 103.3, 99.7, 104.1, 98.9, 103.7]
    for price in prices:
        trigger.tick(book, marked(price, 0.0), NONE if trigger._rows else None)
        trigger.prepare(book)
        anew = Trigger(threads=1)
        anew.tick(book, marked(price, 0.0), None)
        exact = bool((anew._state[:30, 0] == trigger._state[:30, 0]).all())
        assert exact or price != prices[4]
    assert trigger._shifts == 1


@ENGINES
def test_what_gets_its_price_late_is_measured_like_all_else(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = of_one_column([1_000.0] * 100, [-1.0] * 100)
    trigger = Trigger(loops=engine(compiled=compiled), threads=1)
    trigger.tick(book, marked(np.nan, 0.0), None)
    trigger.tick(book, marked(100.0, 0.0), NONE)
    monkeypatch.setattr(trigger, "_whole", lambda *_: pytest.fail("looked at the whole book"))
    assert not len(trigger.tick(book, marked(100.1, 0.0), NONE).rows)


@pytest.mark.parametrize("scenarios", [0, 16])
def test_what_was_compiled_before_the_start_is_all_that_ticks_need(scenarios: int) -> None:
    world = World(np.random.default_rng(3), scenarios, 200)
    trigger, book = Trigger(threads=1), world.book()
    trigger.warm_up(book, 10_000)
    loops = [
        each for each in (getattr(compiled, name) for name in vars(compiled)) if hasattr(each, "signatures")
    ]
    before = [len(each.signatures) for each in loops]
    assert len(loops) == 10
    assert all(before)
    trigger.tick(book, world.marks, None)
    trigger.prepare(book)
    for _ in range(30):
        changed = world.move()
        trigger.tick(world.book(), world.marks, changed)
    assert [len(each.signatures) for each in loops] == before


def test_a_small_book_is_not_worth_compiling_for() -> None:
    trigger = Trigger(threads=1)
    trigger.warm_up(of_one_column([1.0], [1.0]), 9_999)
    assert trigger._loops is engine(compiled=False)
