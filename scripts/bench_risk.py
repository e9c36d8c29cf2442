"""Time portfolio margin: ``scripts/bench risk [--json [FILE]]``.

A thousand options of BTC at ten expiries; 100,000 accounts with ten of them each; 31 scenarios. ``arrays`` is
what it takes to price all options in all scenarios, ``scan`` that and every account's worst one, in numpy and
compiled. The plain loops do the same one option, or one leg, after the other, on a hundredth of it.
By the clock; a scan's bound is of the whole scan.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array

from keeper.domain import Kind
from keeper.lab.bench import Row, arguments, clocked, report
from keeper.risk import scenarios
from keeper.risk.grids import Grid
from keeper.risk.margin import Book, Instrument, risk_arrays, scan

ACCOUNTS = 100_000
LEGS = 10
LISTED = 1_000
SCENARIOS = 31
PART = 100
"""The plain loops do one in so many."""
PASSES = 20
SPOT = 60_000.0


def main() -> None:
    """Measure pricing and scanning, each against a plain loop."""
    chosen = arguments(__doc__ or "")
    grid = replace(scenarios.grid("paradex24"), rows=scenarios.grid("deribit").rows[:SCENARIOS])
    book = world()
    arrays = clocked("arrays", LISTED, [lambda: risk_arrays(book, grid)] * PASSES)
    plain = clocked("scan", ACCOUNTS, [lambda: scan(book, grid, compiled=False)] * PASSES)
    compiled = clocked("scan-compiled", ACCOUNTS, [lambda: scan(book, grid, compiled=True)] * PASSES)
    priced, looped = priced_in_a_loop(book, grid), scanned_in_a_loop(book, grid)
    rows = [
        arrays.against(priced).within(median_us=1_500),
        priced,
        plain.against(looped).within(median_us=35_000),
        compiled.against(looped).within(median_us=12_000),
        looped,
    ]
    notes = {"loops": f"timed on one in {PART} of the options and accounts, and multiplied"}
    report("Portfolio margin: us per call", rows, json_path=chosen.json, notes=notes)


def world() -> Book:
    """Draw the book."""
    rng = np.random.default_rng(1)
    listed = [
        Instrument(
            str(number),
            "BTC",
            (Kind.CALL, Kind.PUT)[number % 2],
            float(SPOT * rng.uniform(0.5, 2.0)),
            float(rng.uniform(0.3, 1.2)),
            (1 + number % 10) / 12,
        )
        for number in range(LISTED)
    ]
    held = rng.integers(0, LISTED, ACCOUNTS * LEGS)
    sizes = rng.normal(0.0, 5.0, ACCOUNTS * LEGS)
    rows = np.repeat(np.arange(ACCOUNTS), LEGS)
    return Book.of(listed, {"BTC": SPOT}, coo_array((sizes, (rows, held)), shape=(ACCOUNTS, LISTED)))


def priced_in_a_loop(book: Book, grid: Grid) -> Row:
    """Price options one after the other, by the standard library alone."""
    vols = grid.vols(book.columns.vol, book.columns.years * 365).tolist()

    def loop() -> list[list[float]]:
        return [
            [
                weight * (black(each, SPOT * (1 + move), vol) - black(each, SPOT, each.vol))
                for (move, _, weight), vol in zip(grid.rows, vols[place], strict=True)
            ]
            for place, each in enumerate(book.instruments[: LISTED // PART])
        ]

    return whole(clocked("arrays-loop", LISTED, [loop] * PASSES))


def black(option: Instrument, spot: float, vol: float) -> float:
    """Return an option's price."""
    spread = vol * math.sqrt(option.expiry_y)
    d1 = math.log(spot / option.strike) / spread + spread / 2
    sign = 1 if option.kind is Kind.CALL else -1
    up, down = (math.erfc(-sign * each / math.sqrt(2)) / 2 for each in (d1, d1 - spread))
    return sign * (spot * up - option.strike * down)


def scanned_in_a_loop(book: Book, grid: Grid) -> Row:
    """Find the worst scenario of accounts one after the other, with positions by name, as bots have them."""
    arrays = dict(enumerate(risk_arrays(book, grid).tolist()))
    legs = book.legs[: ACCOUNTS // PART]
    bounds = zip(legs.indptr.tolist(), legs.indptr[1:].tolist(), strict=False)
    held = list(zip(legs.indices.tolist(), legs.data.tolist(), strict=True))
    accounts = [dict(held[begin:end]) for begin, end in bounds]

    def loop() -> list[float]:
        return [
            max(
                0.0,
                -min(sum(size * arrays[name][at] for name, size in each.items()) for at in range(SCENARIOS)),
            )
            for each in accounts
        ]

    return whole(clocked("scan-loop", ACCOUNTS, [loop] * 5, warm_up=1))


def whole(row: Row) -> Row:
    """Tell of all what was timed of a part."""
    return replace(row, min_us=PART * row.min_us, median_us=PART * row.median_us, p99_us=PART * row.p99_us)


if __name__ == "__main__":
    main()
