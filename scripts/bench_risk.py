"""Time the risk engine: ``scripts/bench risk [--json [FILE]]``.

- ``arrays`` prices a thousand options of BTC at ten expiries in 31 scenarios; ``scan`` does that and finds
  the worst scenario of 100,000 accounts with ten of them each, in numpy and compiled;
- ``tails`` finds VaR and ES at 99% of 100,000 books of 20 factors in 10,000 outcomes, in numpy and compiled;
- ``flow-lending`` finds what 200 levels of prices would liquidate of 1,000,000 loans, ``flow-slices`` of as
  many accounts with four perps and options on eight underlyings, judged by 16 scenarios and closed in slices.
  Both are compiled.

Against plain loops, which do a hundredth or a thousandth of it and are multiplied, against QuantLib's Black
formula, and against numpy alone. By the clock, on two threads.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array

from keeper.domain import Kind
from keeper.lab.bench import ROOT, Row, arguments, clocked, report, row_of
from keeper.risk import levels, scenarios, stress, tail
from keeper.risk.grids import Grid
from keeper.risk.inputs import Floats
from keeper.risk.margin import Book, Instrument, risk_arrays, scan

ACCOUNTS, LEGS, LISTED, SCENARIOS = 100_000, 10, 1_000, 31
PART = 100
"""The plain loops over these do one in so many."""
BOOKS, FACTORS, OUTCOMES, LEVEL = 100_000, 20, 10_000, 0.99
CROWD, FALLS = 1_000_000, np.linspace(0.0, 0.5, 200)
SMALL_PART = 1_000
"""The plain loops over these do one in so many."""
PASSES = 20
FEW_PASSES = 5
SPOT = 60_000.0
OWN_ENVIRONMENT = ROOT / ".cache" / "golden" / "venv" / "bin" / "python"


def main() -> None:
    """Measure each part against what does the same in the usual way."""
    chosen = arguments(__doc__ or "")
    tails = of_tails()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    rows = [*tails, *of_margins(), *of_loans(), *of_slices()]
    took_us = {row.case: row.median_us for row in rows}
    notes = {
        "loops": f"timed on one in {PART}, or in {SMALL_PART:,} of tails and loans, and multiplied",
        "arrays": f"{took_us['arrays-quantlib'] / took_us['arrays']:,.0f} times as fast as QuantLib",
        "tails": f"{peak_mb:,.0f} MB resident at most",
    }
    report("Risk: us per call", rows, json_path=chosen.json, notes=notes)


def whole(row: Row, part: int) -> Row:
    """Tell of all what was timed of a part."""
    return replace(row, min_us=part * row.min_us, median_us=part * row.median_us, p99_us=part * row.p99_us)


# --- tails ----------------------------------------------------------------------------------------


def of_tails() -> list[Row]:
    """Measure the tails of many books, and of one after the other."""
    rng = np.random.default_rng(1)
    returns = 0.02 * rng.standard_t(4, (OUTCOMES, FACTORS))
    exposures = rng.normal(0.0, 1e4, (BOOKS, FACTORS))
    plain, compiled = (
        clocked(
            name,
            BOOKS,
            [partial(tail.of_books, exposures, returns, LEVEL, compiled=each)] * FEW_PASSES,
            warm_up=1,
        )
        for name, each in (("tails", False), ("tails-compiled", True))
    )
    some = exposures[: BOOKS // SMALL_PART]
    looped = clocked("tails-loop", BOOKS, [lambda: tails_in_a_loop(some, returns)] * FEW_PASSES, warm_up=1)
    looped = whole(looped, SMALL_PART)
    return [
        plain.against(looped).within(median_us=5_000_000),
        compiled.against(looped).within(median_us=1_500_000),
        looped,
    ]


def tails_in_a_loop(exposures: Floats, returns: Floats) -> list[tuple[float, float]]:
    """Sort the losses of one book after the other."""
    beyond = OUTCOMES - math.ceil(OUTCOMES * LEVEL)
    found = []
    for book in exposures:
        losses = np.sort(-(returns @ book))
        found.append((float(losses[-beyond - 1]), float(losses[-beyond:].mean())))
    return found


# --- margins --------------------------------------------------------------------------------------


def of_margins() -> list[Row]:
    """Measure pricing and scanning, each against a plain loop."""
    grid = replace(scenarios.grid("paradex24"), rows=scenarios.grid("deribit").rows[:SCENARIOS])
    book = world()
    arrays = clocked("arrays", LISTED, [lambda: risk_arrays(book, grid)] * PASSES)
    plain = clocked("scan", ACCOUNTS, [lambda: scan(book, grid, compiled=False)] * PASSES)
    compiled = clocked("scan-compiled", ACCOUNTS, [lambda: scan(book, grid, compiled=True)] * PASSES)
    priced, looped = priced_in_a_loop(book, grid), scanned_in_a_loop(book, grid)
    by_quantlib = priced_by_quantlib(book, grid)
    return [
        arrays.against(priced).within(median_us=1_500),
        priced,
        by_quantlib,
        plain.against(looped).within(median_us=35_000),
        compiled.against(looped).within(median_us=12_000),
        looped,
    ]


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

    return whole(clocked("arrays-loop", LISTED, [loop] * PASSES), PART)


def priced_by_quantlib(book: Book, grid: Grid) -> Row:
    """Have QuantLib price them in its own environment; the spreads are handed to it."""
    columns = book.columns
    spreads = grid.vols(columns.vol, columns.years * 365) * np.sqrt(columns.years)[:, None]
    spots = (SPOT * (1 + grid.moves)).tolist()
    rows = [
        (each.kind is Kind.CALL, each.strike, spots, spread)
        for each, spread in zip(book.instruments, spreads.tolist(), strict=True)
    ]
    done = subprocess.run(
        [str(OWN_ENVIRONMENT), str(Path(__file__).with_name("price_by_quantlib.py"))],
        input=json.dumps({"rows": rows, "passes": FEW_PASSES}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return row_of("arrays-quantlib", LISTED, json.loads(done.stdout))


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

    return whole(clocked("scan-loop", ACCOUNTS, [loop] * 5, warm_up=1), PART)


# --- flows ----------------------------------------------------------------------------------------


def of_loans() -> list[Row]:
    """Measure the flow of loans of quote against two of eight collaterals each."""
    rng = np.random.default_rng(2)
    prices, positions = rng.uniform(1.0, 1_000.0, 8), np.zeros((CROWD, 8))
    for _ in range(2):
        positions[np.arange(CROWD), rng.integers(0, 8, CROWD)] = rng.uniform(0.0, 1e4, CROWD)
    owed = positions @ prices * rng.uniform(0.3, 0.98, CROWD)
    books = stress.Books(-owed, positions, prices, np.zeros(8))
    found = clocked("flow-lending", CROWD, [lambda: stress.flow(books, FALLS, compiled=True)] * PASSES)
    loans = [
        (debt, {asset: size for asset, size in enumerate(held) if size})
        for debt, held in zip(owed[::SMALL_PART].tolist(), positions[::SMALL_PART].tolist(), strict=True)
    ]
    looped = clocked(
        "flow-lending-loop", CROWD, [lambda: loans_in_a_loop(loans, prices.tolist())] * 3, warm_up=1
    )
    looped = whole(looped, SMALL_PART)
    return [found.against(looped).within(median_us=100_000), looped]


def loans_in_a_loop(loans: list[tuple[float, dict[int, float]]], prices: list[float]) -> list[list[float]]:
    """Go through the loans level by level."""
    found = []
    for fall in FALLS.tolist():
        sold = [0.0] * len(prices)
        for debt, held in loans:
            if sum(size * prices[asset] * (1 - fall) for asset, size in held.items()) < debt:
                for asset, size in held.items():
                    sold[asset] += size * prices[asset] * (1 - fall)
        found.append(sold)
    return found


def of_slices() -> list[Row]:
    """Measure the flow of perps and options on eight underlyings, closed in slices."""
    rng = np.random.default_rng(3)
    spots = {f"U{number}": 1_000.0 for number in range(8)}
    listed = [
        Instrument(
            f"{name}-{number}",
            name,
            (Kind.PERP, Kind.CALL, Kind.PUT)[number % 3],
            float(rng.uniform(600.0, 1_600.0)),
            float(rng.uniform(0.3, 1.2)),
            (number + 1) / 24 if number % 3 else 0.0,
        )
        for name in spots
        for number in range(8)
    ]
    held, rows = rng.integers(0, len(listed), CROWD * 4), np.repeat(np.arange(CROWD), 4)
    positions = coo_array((rng.normal(0.0, 5.0, CROWD * 4), (rows, held)), shape=(CROWD, len(listed)))
    book, grid = Book.of(listed, spots, positions), scenarios.on_chain(mmr=0.05)
    equity = rng.uniform(0.0, 2.0, CROWD) * scan(book, grid).gross * 2
    by = levels.Slices(q=0.9, fee=0.005, short_option=0.01)

    def flow(book: Book, equity: Floats, falls: Floats, *, compiled: bool) -> Floats:
        return levels.flow(book, equity, grid, falls, slices=by, compiled=compiled)

    found = clocked("flow-slices", CROWD, [lambda: flow(book, equity, FALLS, compiled=True)] * 3, warm_up=1)
    few = Book.of(listed, spots, positions.tocsr()[::PART])
    some = equity[::PART], FALLS[::20]
    one = clocked("flow-slices-numpy", CROWD, [lambda: flow(few, *some, compiled=False)] * 3, warm_up=1)
    numpy = whole(one, 20 * PART)
    return [found.against(numpy).within(median_us=5_000_000), numpy]


if __name__ == "__main__":
    main()
