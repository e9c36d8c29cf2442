"""Kill keepers again and again, and hold the chain against the journal: ``scripts/kills --help``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import structlog

from tests.kills.broken import BROKEN
from tests.kills.life import BATCHING, PLENTY, THRIFTY
from tests.kills.play import Report, play_all
from tests.kills.power import LosingSqlite
from tests.kills.stores import Postgres, Sqlite, Store
from tests.postgres import serving


@contextmanager
def _on_a_server() -> Iterator[Store]:
    with serving() as url:
        yield Postgres(url)


STORES: Mapping[str, Callable[[], AbstractContextManager[Store]]] = {
    "sqlite": lambda: nullcontext(Sqlite()),
    "power": lambda: nullcontext(LosingSqlite()),
    "postgres": _on_a_server,
}


def main() -> int:
    """Play, and tell what was found; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="scripts/kills", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first story")
    parser.add_argument(
        "--kills", type=int, default=1_000, help="end after so many, or where anything is wrong"
    )
    parser.add_argument(
        "--store", choices=STORES, default="sqlite", help="power: whoever dies, dies of a power loss"
    )
    parser.add_argument("--broken", choices=BROKEN, help="play a keeper that is broken in one way")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what was found, for programs")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    began_s, report = time.monotonic(), Report()
    keepers = [BROKEN[asked.broken]] if asked.broken else [PLENTY, THRIFTY, BATCHING]
    with STORES[asked.store]() as store:
        for report in play_all(asked.seed, asked.kills, store, keepers):
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{report.kills} kills in {report.rounds} rounds")
            if report.wrong:
                break
    told = told_of(report) | {"seed": asked.seed, "store": asked.store}
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=2) + "\n")
    sys.stdout.write(_in_words(report, time.monotonic() - began_s))
    return 1 if report.wrong else 0


def told_of(report: Report) -> dict[str, object]:
    """Return a report as plain values."""
    return {
        "rounds": report.rounds,
        "kills": report.kills,
        "blocks_missed": report.missed,
        "transactions": report.sent,
        "places": dict(report.places.most_common()),
        "never_killed_at": sorted(report.known - report.places.keys()),
        "wrong": report.wrong,
    }


def _in_words(report: Report, took_s: float) -> str:
    met = len(report.known & report.places.keys())
    lines = [f"{kills:6d}  {place}" for place, kills in report.places.most_common()]
    lines += [f"{'never':>6}  {place}" for place in sorted(report.known - report.places.keys())]
    summary = (
        f"{report.kills} kills in {report.rounds} rounds, at {met} of {len(report.known)} kinds of places,"
        f" {took_s:.0f} s; {report.missed} blocks came while no keeper lived,"
        f" {report.sent} transactions were handed over"
    )
    wrong = [f"wrong: {each}" for each in report.wrong]
    return "\n".join([*lines, summary, *wrong, f"{len(wrong)} findings", ""])


if __name__ == "__main__":
    sys.exit(main())
