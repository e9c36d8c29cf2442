"""Time the trigger: ``scripts/bench trigger [--json [FILE]]``.

A million accounts of four positions on 64 instruments in eight groups; of them 600,000 hold the largest
instrument, and 60,000 another. Where one of these moves, by 3%, so much of all money would bring 2% of the
accounts to breach, everywhere in the book, and in ``-reached`` all of them: a tick has to look at those that
hold it. ``full`` moves all prices by 15%, which concerns everybody.

By the clock, from new marks to the suspects: hot, one tick after the other, and ``-paced``, one each 10 ms.
``-numpy`` rows do the same without the compiler; all find the same. ``prepare`` is off the path of ticks:
what it takes to learn how far away everybody is. ``copy`` copies the positions once. ``docs/performance.md``
keeps the figures and says where the time goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeper.columns.legs import Floats, Legs
from keeper.columns.snapshot import Snapshot
from keeper.domain import ArrayView, Instrument, Kind, Quote
from keeper.lab.bench import Row, arguments, clocked, report, resident_mb
from keeper.lab.pages import page
from keeper.protocols.hybrid.marks import marks_of
from keeper.protocols.hybrid.rows import HybridRows
from keeper.risk.marks import Marks
from keeper.risk.netting import Underlying
from keeper.state.book import Book
from keeper.trigger import Trigger, engine
from keeper.trigger.terms import Held, Terms
from keeper.units import WAD

ACCOUNTS = 1_000_000
INSTRUMENTS = 64
GROUPS = 8
LARGEST, SOME = 0, 1
"""The instruments that 600,000 and 60,000 accounts hold."""
NEAR = 1_000
CROSS = 100
PASSES = 63
PAUSE_S = 0.010
BEYOND = 0.15
"""A move beyond the trigger's horizon."""
FAR = 0.03
"""One beyond its box."""
CLOSE = 0.005
"""One within it."""
WITHIN = 0.02
"""How many accounts lie within a far move, of one."""
GROWTH = [(250_000, 4, 0), (500_000, 4, 0), (500_000, 8, 0), (500_000, 4, 4), (500_000, 4, 32)]
"""Accounts, positions of each, scenarios."""
PAGE = 500
RNG = np.random.default_rng(1)
NO_CHANGES = np.zeros(0, np.intp)


@dataclass(frozen=True, slots=True)
class World:
    """A book, and its marks at any prices."""

    book: Snapshot
    base: Marks

    def marks(self, moves: Floats) -> Marks:
        """Return the marks after each instrument has moved by so much."""
        factor = 1 + moves
        underlyings = tuple(
            replace(each, risk=each.risk * factor[each.columns, None]) for each in self.base.underlyings
        )
        return replace(
            self.base, value=self.base.value * factor, gross=self.base.gross * factor, underlyings=underlyings
        )


def main() -> None:
    """Weigh first, while nothing else is in memory; then measure."""
    chosen = arguments(__doc__ or "")
    notes = weigh()
    plain = world(ACCOUNTS, 4, scenarios=0)
    copy = copied(plain.book)
    rows = [copy, *told("s1", plain, copy)]
    loops = looped(plain)
    rows += [each.against(rows[1]) for each in loops]
    for loop in loops:
        notes[loop.case] = f"{loop.median_us / rows[1].median_us:,.0f} times as long as {rows[1].case}"
    rows += told("s16", world(ACCOUNTS, 4, scenarios=16), copy)
    rows += full("full-100k-l8-s16", world(100_000, 8, scenarios=16))
    for accounts, legs, scenarios in GROWTH:
        found = world(accounts, legs, scenarios=scenarios)
        rows += full(f"full-{accounts // 1000}k-l{legs}-s{scenarios or 1}", found)[:1]
    rows.append(marked())
    report("The trigger: us per tick", rows, json_path=chosen.json, notes=notes)


def told(name: str, found: World, copy: Row) -> Iterator[Row]:
    """Measure all cases on one book of a million."""
    whole, *others = full(f"full-1m-{name}", found)
    yield from (whole.against(copy), *others)
    some, reached = placed(found, WITHIN, FAR / 3), placed(found, 1.0, FAR * 0.9)
    yield from column(f"tick-60k-{name}", some, SOME)
    yield from column(f"tick-600k-{name}", some, LARGEST)
    yield from column(f"tick-60k-reached-{name}", reached, SOME)
    yield from (prepared(f"prepare-{name}", some), prepared(f"prepare-reached-{name}", reached))
    suffix = "" if name == "s1" else f"-{name}"
    yield from safe("tick-safe", suffix, found)


def full(case: str, found: World) -> list[Row]:
    """Measure a tick after which every account is scored: all prices have gone beyond the horizon."""
    signs = RNG.choice([-1.0, 1.0], INSTRUMENTS)
    return both(case, found, [found.marks(BEYOND * signs), found.marks(-BEYOND * signs)])


def column(case: str, found: World, instrument: int) -> Iterator[Row]:
    """Measure ticks of one instrument, each beyond the box."""
    moves = np.zeros(INSTRUMENTS)
    moves[instrument] = FAR
    holders = int((found.book.legs.codes >> 1 == instrument).sum())
    for row in both(case, found, [found.marks(moves), found.marks(-moves)]):
        yield replace(row, n=holders)


def prepared(case: str, found: World) -> Row:
    """Measure how long it takes to learn how far away everybody is, and to list who is near."""
    trigger = Trigger()

    def prepare() -> None:
        trigger.is_due = True
        trigger.prepare(found.book, found.base)

    return clocked(case, len(found.book), [prepare] * (PASSES // 4))


def safe(case: str, suffix: str, found: World) -> Iterator[Row]:
    """Measure ticks of all prices within the box: nobody near; then a thousand, of whom a hundred cross."""
    ticks = [found.marks(CLOSE * RNG.choice([-1.0, 1.0], INSTRUMENTS)) for _ in range(8)]
    yield from both(f"{case}-none{suffix}", found, ticks)
    near = brought_near(found, ticks[0])
    for each in ready(near):
        assert len(each.tick(near.book, ticks[0], NO_CHANGES).rows) == CROSS
    yield from both(f"{case}{suffix}", near, ticks[:1])


def brought_near(found: World, tick: Marks) -> World:
    """Take so much cash from some accounts that they lie within 1% of breach, and some cross at a tick."""
    surplus, reach = known(found.book, found.base)
    after, _ = known(found.book, tick)
    loss = (surplus - after) / reach
    rows = np.flatnonzero(loss > CLOSE / 20)[:NEAR]
    cross = np.arange(NEAR) < CROSS
    return moved_to(found, rows, loss[rows] + np.where(cross, -CLOSE / 100, CLOSE / 2))


def placed(found: World, share: float, least: float) -> World:
    """Take so much cash from a share of the accounts, all over the book, that a far move reaches them.

    They lie evenly between the least move that does so and this one; one instrument alone breaches few.
    """
    rows = np.flatnonzero(RNG.random(ACCOUNTS) < share)
    return moved_to(found, rows, RNG.uniform(least, FAR, len(rows)))


def moved_to(found: World, rows: NDArray[np.intp], away: Floats) -> World:
    """Take so much cash from some accounts that they are so far away."""
    surplus, reach = known(found.book, found.base)
    cash = found.book.cash.copy()
    cash[rows] -= surplus[rows] - away * reach[rows]
    return replace(found, book=replace(found.book, cash=cash))


def known(book: Snapshot, marks: Marks) -> tuple[Floats, Floats]:
    """Return surplus and reach of every account [n] at some marks, to place accounts exactly."""
    loops, held, nobody = engine(), Held.of(book), np.zeros(0, np.int32)
    terms, everybody = Terms.of(marks, loops), len(book)
    surplus, away = np.empty(everybody), np.empty(everybody, np.float32)
    loops.sieve(held, terms, nobody, 0, everybody, surplus, np.empty(everybody, np.int32))
    loops.measure(held, terms, terms.units(), nobody, 0, everybody, surplus, away)
    return surplus, surplus / away


def both(case: str, found: World, ticks: list[Marks]) -> list[Row]:
    """Measure ticks with compiled loops, hot and paced, and with those of numpy, which must find the same."""
    rows, suspects = list[Row](), list[list[int]]()
    for trigger, suffix in zip(ready(found), ("", "-numpy"), strict=True):
        heard = [partial(trigger.tick, found.book, each, NO_CHANGES) for each in ticks]
        passes = PASSES // 4 if suffix else PASSES
        rows.append(clocked(case + suffix, len(found.book), islice(cycle(heard), passes)))
        if not suffix:
            works = islice(cycle(heard), passes)
            rows.append(clocked(f"{case}-paced", len(found.book), works, pause_s=PAUSE_S))
        suspects.append([int(row) for each in heard for row in each().rows])
    if suspects[0] != suspects[1]:
        raise SystemExit(f"{case}: the compiled loops found {len(suspects[0])}, numpy {len(suspects[1])}")
    return rows


def ready(found: World) -> Iterator[Trigger]:
    """Yield triggers that know a book at its first marks, with compiled loops and with those of numpy."""
    for compiled in (True, False):
        trigger = Trigger(loops=engine(compiled=compiled))
        trigger.tick(found.book, found.base, None)
        trigger.prepare(found.book, found.base)
        yield trigger


def world(accounts: int, legs: int, *, scenarios: int) -> World:
    """Draw a book in which nobody is near breach; half of the sizes are short where hedges count."""
    columns = drawn(accounts, legs)
    sizes = RNG.uniform(1, 20, (accounts, legs))
    if scenarios:
        sizes *= RNG.choice([-1.0, 1.0], (accounts, legs))
    codes = (2 * columns + (sizes < 0)).astype(np.uint16).ravel()
    first = (np.arange(accounts) * legs).astype(np.uint32)
    held = Legs(first, np.full(accounts, legs, np.uint8), codes, sizes.ravel(), INSTRUMENTS)
    value = RNG.uniform(1, 100, INSTRUMENTS)
    base = (
        Marks(value, np.zeros(INSTRUMENTS), np.ones(1), tuple(groups(value, scenarios)))
        if scenarios
        else Marks(value * (np.arange(INSTRUMENTS) % 2), value * (1 - np.arange(INSTRUMENTS) % 2), np.ones(1))
    )
    keys, classes = np.zeros(accounts, "V32"), np.zeros(accounts, np.uint16)
    money = (np.abs(sizes) * value[columns]).sum(axis=1)
    book = Snapshot(keys, classes, {}, RNG.uniform(2, 3, accounts) * money, held)
    return World(book, base)


def drawn(accounts: int, legs: int) -> NDArray[np.int64]:
    """Draw different instruments for each account, in order; as many hold the two that ticks are of."""
    order = RNG.random((accounts, INSTRUMENTS - 2)).argpartition(legs, axis=1)[:, :legs] + 2
    order[: accounts * 6 // 10, 0] = LARGEST
    order[RNG.choice(accounts, accounts * 6 // 100, replace=False), 1] = SOME
    return np.sort(order, axis=1)


def groups(value: Floats, scenarios: int) -> Iterator[Underlying]:
    """Make eight underlyings of eight instruments each."""
    for columns in np.split(np.arange(INSTRUMENTS), GROUPS):
        none = np.zeros(len(columns))
        risk = RNG.normal(0, 0.1, (len(columns), scenarios)) * value[columns, None]
        yield Underlying(columns, risk, none, none, np.zeros(len(columns), np.bool_))


def copied(book: Snapshot) -> Row:
    """Measure what it takes to copy the positions: sizes and codes."""
    legs = book.legs
    sizes, codes = np.empty_like(legs.sizes), np.empty_like(legs.codes)

    def copy() -> None:
        np.copyto(sizes, legs.sizes)
        np.copyto(codes, legs.codes)

    return clocked("copy", len(book), [copy] * PASSES)


def looped(found: World) -> list[Row]:
    """Measure a plain loop over the same accounts, each with its positions by name, as bots have them.

    In the integers that the chain gives, and in floats.
    """
    legs, rows = found.book.legs, list[Row]()
    names = [f"I{number}" for number in range(INSTRUMENTS)]
    kinds: list[tuple[str, Any, Any]] = [
        ("", wads, is_below_in_wads),
        ("-floats", float, is_below_in_floats),
    ]
    for suffix, number, is_below in kinds:
        value = dict(zip(names, map(number, found.base.value.tolist()), strict=True))
        gross = dict(zip(names, map(number, found.base.gross.tolist()), strict=True))
        held = zip((legs.codes >> 1).tolist(), map(number, legs.sizes.tolist()), strict=True)
        accounts = [
            (number(cash), {names[column]: size for column, size in islice(held, 4)})
            for cash in found.book.cash.tolist()
        ]

        def loop() -> list[int]:
            return [
                number
                for number, (cash, positions) in enumerate(accounts)  # noqa: B023 - called at once
                if is_below(cash, positions, value, gross)  # noqa: B023
            ]

        rows.append(clocked(f"python-loop{suffix}", len(found.book), [loop] * 4, warm_up=1))
    return rows


def wads(quantity: float) -> int:
    """Return a quantity as the chain has it."""
    return round(quantity * 1e6) * (WAD // 10**6)


def is_below_in_wads(
    cash: int, positions: dict[str, int], value: dict[str, int], gross: dict[str, int]
) -> bool:
    """Tell whether an account is in breach."""
    equity, required = cash, 0
    for name, size in positions.items():
        equity += size * value[name] // WAD
        required += abs(size) * gross[name] // WAD
    return equity < required


def is_below_in_floats(
    cash: float, positions: dict[str, float], value: dict[str, float], gross: dict[str, float]
) -> bool:
    """Tell whether an account is in breach."""
    equity, required = cash, 0.0
    for name, size in positions.items():
        equity += size * value[name]
        required += abs(size) * gross[name]
    return equity < required


def marked() -> Row:
    """Measure how long HybridMargin's own marks take: 8 perps, 48 options and 8 collaterals on 8 feeds."""
    feeds = [f"F{number}/USD" for number in range(GROUPS)]
    arrays = ArrayView(200 * WAD, 20 * WAD, WAD // 2, 0, tuple(RNG.integers(-WAD, WAD, 16).tolist()))
    listed = [
        Instrument(feed, kind=kind, range_wad=WAD // 20, strike_wad=200 * WAD, expiry_s=600, array=arrays)
        for feed in feeds
        for kind in (Kind.PERP, *[Kind.CALL, Kind.PUT] * 3)
    ]
    listed += [Instrument(feed, 8 * WAD // 10) for feed in feeds]
    ticks = [{feed: Quote(feed, 200 * WAD + at, 0) for feed in feeds} for at in range(PASSES)]
    return clocked("marks-64", len(listed), [partial(marks_of, listed, tick, 60) for tick in ticks])


def weigh() -> dict[str, str]:
    """Build the mirror of a million accounts of four positions, and a trigger on it; weigh both."""
    notes, before_mb = {}, resident_mb()
    for scenarios in (0, 16):
        had_mb = resident_mb()
        book = Book(HybridRows(INSTRUMENTS - 1, 1))
        for first in range(0, ACCOUNTS, PAGE):
            book.fold_rows(page(np.arange(first, first + PAGE), RNG, listed=INSTRUMENTS - 1), 1)
        mirror_mb = resident_mb() - had_mb
        value = RNG.uniform(1, 100, INSTRUMENTS)
        marks = Marks(value, value / 10, np.ones(1), tuple(groups(value, scenarios)) if scenarios else ())
        trigger = Trigger()
        trigger.tick(book.freeze(), marks, book.take_changed())
        trigger.prepare(book.freeze(), marks)
        told = f"{resident_mb() - before_mb:,.0f} MB resident, the mirror {mirror_mb:,.0f} of them"
        notes[f"memory, mirror and trigger, {ACCOUNTS:,} x 4, {scenarios or 1} scenarios"] = told
        del book, trigger
    return notes


if __name__ == "__main__":
    main()
