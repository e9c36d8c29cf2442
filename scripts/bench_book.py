"""Time the book and weigh it: ``scripts/bench book [--json [FILE]]``.

Random accounts of three legs and one collateral, with eight markets listed, in pages as the chain returns
them. Processor time, so that what else runs on the machine counts for little. ``docs/benchmarks.md`` keeps
the figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from keeper.columns.snapshot import Snapshot
from keeper.domain import Account
from keeper.lab.bench import Row, arguments, report, resident_mb, timed
from keeper.lab.pages import page
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.rows import HybridRows
from keeper.state.archive import Stamp
from keeper.state.book import Book

SIZES_OF_BOOKS = (10_000, 100_000, 1_000_000)
LISTED = 8
PAGE = 500
PASSES = 30
RNG = np.random.default_rng(1)
STAMP = Stamp(chain_id=31337, deployment="bench", block=1, block_hash="0x01")
SHAPE = HybridRows(LISTED, 1)


def main() -> None:
    """Measure every size, the small ones first."""
    chosen = arguments(__doc__ or "")
    rows, notes = list[Row](), dict[str, str]()
    decoded = partial(
        load("MarginReader").functions["rows"].result, page(np.arange(PAGE), RNG, listed=LISTED)
    )
    usual = timed("eth_abi: decode alone", PAGE, [decoded] * 4, per=PAGE)
    rows.append(usual)
    for n in SIZES_OF_BOOKS:
        rows += measure(n, usual, notes)
    report(
        "The book: us per account; freeze, holders and exact per call",
        rows,
        json_path=chosen.json,
        notes=notes,
    )


def measure(n: int, usual: Row, notes: dict[str, str]) -> Iterator[Row]:
    """Build a book of ``n`` accounts, change it, and bring it to disk and back."""
    before_mb = resident_mb()
    book = Book(SHAPE)
    pages = (page(np.arange(first, first + PAGE), RNG, listed=LISTED) for first in range(0, n, PAGE))
    yield timed("fold: new accounts", n, (partial(book.fold_rows, each, 1) for each in pages), per=PAGE)
    notes[f"{n:,} accounts of 4 positions"] = f"{resident_mb() - before_mb:,.0f} MB resident"

    def changed() -> Iterator[Callable[[], object]]:
        for _ in range(PASSES):
            yield partial(book.fold_rows, page(RNG.choice(n, PAGE, replace=False), RNG, listed=LISTED), 2)

    yield timed("fold: changed accounts", n, changed(), per=PAGE).against(usual)
    held: list[Snapshot] = []

    def beside_a_snapshot() -> Iterator[Callable[[], object]]:
        for work in changed():
            held[:] = [book.freeze()]
            yield work

    yield timed("fold: changed accounts, a snapshot held", n, beside_a_snapshot(), per=PAGE).against(usual)
    held.clear()
    yield timed("freeze", n, [book.freeze] * PASSES)
    yield timed("holders of a market that nobody holds", n, [partial(book.holders, [LISTED])] * PASSES)
    keys = book.keys[RNG.integers(0, n, PASSES)].tolist()
    yield timed("exact: one account", n, [partial(book.exact, key) for key in keys])
    yield from on_disk(book, n, notes)


def on_disk(book: Book[Account], n: int, notes: dict[str, str]) -> Iterator[Row]:
    """Save a book and load it again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "book")
        yield timed("save", n, [partial(book.save, path, STAMP)] * 3, per=n)
        load_it = partial(Book.load, path, SHAPE, chain_id=STAMP.chain_id, deployment=STAMP.deployment)
        found = timed("load", n, [load_it] * 3, per=n)
        notes[f"{n:,} accounts from disk"] = (
            f"{found.median_us * n / 1e6:.2f} s for {path.stat().st_size / 1e6:,.0f} MB"
        )
        yield found


if __name__ == "__main__":
    main()
