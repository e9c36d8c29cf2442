"""Time the trigger on books of 100,000 accounts: ``scripts/bench trigger [--json FILE]``.

Random books from a fixed seed, and processor time, so that what else runs on the machine counts for little.
``docs/benchmarks.md`` keeps the figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keeper import trigger
from keeper.domain import ArrayView, Instrument, Kind, Quote
from keeper.lab.bench import Row, arguments, report, timed
from keeper.protocols.hybrid.marks import marks_of
from keeper.risk.marks import Marks
from keeper.risk.netting import Floats, Underlying
from keeper.units import WAD

ACCOUNTS = 100_000
PASSES = 31
NOW_S = 1_700_000_000
FEEDS = [f"F{number}/USD" for number in range(4)]
PRICE_WAD = 200 * WAD
RNG = np.random.default_rng(1)


def main() -> None:
    """Measure one book after the other."""
    chosen = arguments(__doc__ or "")
    perps = [Instrument(f"P{number}/USD", kind=Kind.PERP, range_wad=WAD // 20) for number in range(12)]
    collaterals = [Instrument(FEEDS[number % 4], 8 * WAD // 10) for number in range(8)]
    book = positions(20, legs=4)
    rows = [told("12 perps, 8 collaterals, no option listed", book, [*perps, *collaterals])]

    options = [
        option(feed, strike, kind) for feed in FEEDS for strike in range(5) for kind in (Kind.CALL, Kind.PUT)
    ]
    mixed = [
        *(Instrument(feed, kind=Kind.PERP, range_wad=WAD // 20) for feed in FEEDS),
        *options,
        *collaterals,
    ]
    for share in (0.0, 0.1, 1.0):
        book = positions(len(mixed), legs=4)
        book[int(share * ACCOUNTS) :, 4:44] = 0.0
        name = f"4 perps, 40 options, 8 collaterals; {share:.0%} hold options"
        rows.append(told(name, book, mixed))
        if share:
            moved = f"the same, every array left behind by its price; {share:.0%} hold options"
            rows.append(told(moved, book, mixed, price_wad=PRICE_WAD * 103 // 100))

    for columns, classes in ((120, 40), (2, 2_000)):
        name = f"{columns} columns, {classes:,} classes of rows"
        rows.append(by_class(name, positions(columns, legs=2), classes))

    book = positions(10, legs=10)
    risk = RNG.normal(size=(10, 31))
    dense = Underlying(np.arange(10), risk, np.zeros(10), np.zeros(10), np.zeros(10, np.bool_))
    alone = "portfolio margin alone: 10 legs x 31 scenarios, all accounts"
    rows.append(timed(alone, ACCOUNTS, [lambda: dense.requirement(book)] * PASSES))
    report("The trigger: us per pass over the whole book", rows, json_path=chosen.json)


def option(feed: str, strike: int, kind: Kind) -> Instrument:
    """Return an option with a new array, 80% to 120% of the price."""
    pnl = tuple(int(change * WAD) for change in RNG.normal(size=16) * 5)
    array = ArrayView(PRICE_WAD, 20 * WAD, WAD // 2 if kind is Kind.CALL else -WAD // 2, NOW_S - 60, pnl)
    return Instrument(
        feed,
        kind=kind,
        range_wad=WAD // 20,
        short_wad=WAD // 100,
        strike_wad=(160 + 20 * strike) * WAD,
        expiry_s=NOW_S + 86_400,
        array=array,
    )


def positions(columns: int, *, legs: int) -> Floats:
    """Draw a dense book with so many positions an account."""
    book = np.zeros((ACCOUNTS, columns))
    rows = np.arange(ACCOUNTS)
    for _ in range(legs):
        book[rows, RNG.integers(0, columns, ACCOUNTS)] = RNG.normal(size=ACCOUNTS) * 10
    return book


def told(name: str, book: Floats, instruments: Sequence[Instrument], price_wad: int = PRICE_WAD) -> Row:
    """Measure what marking and scoring a book take."""
    quotes = {each.feed: Quote(each.feed, price_wad, NOW_S) for each in instruments}
    cash = RNG.uniform(5e3, 5e4, ACCOUNTS)

    def whole() -> None:
        marks = marks_of(instruments, quotes, NOW_S)
        trigger.suspects(scored(cash, book, marks))

    return timed(name, ACCOUNTS, [whole] * PASSES)


def by_class(name: str, book: Floats, classes: int) -> Row:
    """Measure what scoring a book takes whose marks differ by class of row."""
    shape = (classes, book.shape[1])
    levels = np.ones(classes)
    marks = Marks(RNG.random(shape), RNG.random(shape), levels)
    cash, of = RNG.uniform(5e3, 5e4, ACCOUNTS), RNG.integers(0, classes, ACCOUNTS).astype(np.uint16)

    def whole() -> None:
        scores = trigger.score(cash=cash, positions=book, marks=marks, classes=of)
        trigger.suspects(scores, level=levels[of])

    return timed(name, ACCOUNTS, [whole] * PASSES)


def scored(cash: Floats, book: Floats, marks: Marks) -> trigger.Scores:
    """Score a book."""
    return trigger.score(
        cash=cash,
        positions=book,
        marks=marks,
    )


if __name__ == "__main__":
    main()
