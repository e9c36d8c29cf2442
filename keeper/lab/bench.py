"""The one shape of a benchmark: a table for people, or with ``--json`` the same rows for machines."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
WIDTH = 180
STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class Row:
    """What one case takes at one size: times per account, or per call where the case says so."""

    case: str
    n: int
    min_us: float
    median_us: float
    p99_us: float
    baseline: str | None = None
    """The case that does the same in the usual way."""
    ratio: float | None = None
    """How many times as long the baseline takes, by the medians."""
    bounds: Mapping[str, float] | None = None
    """What it may be at most, or at least where it is the ratio, by name."""
    passed: bool | None = None
    """Whether it is within them."""

    def against(self, other: Row) -> Row:
        """Compare with a baseline."""
        return replace(self, baseline=other.case, ratio=other.median_us / self.median_us)

    def within(
        self, *, median_us: float | None = None, p99_us: float | None = None, ratio: float | None = None
    ) -> Row:
        """Hold it to what it may take at most, and how many times as long the baseline takes at least."""
        asked = {"median_us": median_us, "p99_us": p99_us, "ratio": ratio}
        bounds = {name: bound for name, bound in asked.items() if bound is not None}
        passed = all(
            (self.ratio or 0.0) >= bound if name == "ratio" else getattr(self, name) <= bound
            for name, bound in bounds.items()
        )
        return replace(self, bounds=bounds, passed=passed)


def timed(case: str, n: int, works: Iterable[Callable[[], object]], *, per: int = 1, warm_up: int = 1) -> Row:
    """Do each work once and measure it by processor time, divided by ``per``; the first ones do not count.

    What else runs on the machine counts for little.
    """
    times_us = []
    for work in works:
        began_ns = time.process_time_ns()
        work()
        times_us.append((time.process_time_ns() - began_ns) / 1e3 / per)
    return row_of(case, n, times_us[warm_up:])


def clocked(
    case: str, n: int, works: Iterable[Callable[[], object]], *, pause_s: float = 0.0, warm_up: int = 3
) -> Row:
    """Do each work once and measure how long it takes by the clock, after a pause; the first do not count."""
    times_us = []
    for work in works:
        if pause_s:
            time.sleep(pause_s)
        began_ns = time.perf_counter_ns()
        work()
        times_us.append((time.perf_counter_ns() - began_ns) / 1e3)
    return row_of(case, n, times_us[warm_up:])


def row_of(case: str, n: int, times_us: Sequence[float]) -> Row:
    """Sum up the times that one case took."""
    p99_us = quantiles(times_us, n=100, method="inclusive")[-1] if len(times_us) > 1 else times_us[0]
    return Row(case, n, min(times_us), median(times_us), p99_us)


def arguments(description: str, **switches: str) -> argparse.Namespace:
    """Read the command line that every benchmark has, and switches of one's own with what they are for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        type=Path,
        metavar="FILE",
        help="write the rows there as well; without FILE print them instead of the table",
    )
    for name, purpose in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=purpose)
    chosen = parser.parse_args()
    if chosen.json is not None and not chosen.json.parent.is_dir():
        parser.error(f"--json: there is no folder {chosen.json.parent}")
    return chosen


def report(
    title: str, rows: Sequence[Row], *, json_path: Path | None, notes: Mapping[str, str] | None = None
) -> None:
    """Print the table and what is not a time; write the rows to ``json_path``, or only print them."""
    if json_path is not None:
        written = {
            "commit": commit(),
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
            "notes": dict(notes or {}),
        }
        write_json(written, json_path)
    if json_path == STDOUT:
        return
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("case", no_wrap=True)
    for heading in ("n", "min us", "median us", "p99 us", "times as fast", "bounds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        times = [f"{us:,.2f}" for us in (row.min_us, row.median_us, row.p99_us)]
        faster = "" if row.ratio is None else f"{_short(row.ratio)} x {row.baseline}"
        table.add_row(row.case, f"{row.n:,}", *times, faster, _held_to(row))
    console = Console(width=WIDTH)
    console.print(table)
    for what, found in (notes or {}).items():
        console.print(f"{what}: {found}", highlight=False)


def _held_to(row: Row) -> str:
    """Say what a row is held to, and whether it is within that."""
    if row.bounds is None:
        return ""
    signs = {name: ">=" if name == "ratio" else "<=" for name in row.bounds}
    told = ", ".join(f"{name} {signs[name]} {bound:,g}" for name, bound in row.bounds.items())
    return f"{told}: {'passed' if row.passed else 'failed'}"


def _short(ratio: float) -> str:
    return f"{ratio:,.{0 if ratio >= 10 else 1 if ratio >= 1 else 4}f}"


def write_json(found: object, path: Path) -> None:
    """Write what was measured to a file, or to the standard output."""
    text = json.dumps(found, indent=2) + "\n"
    if path == STDOUT:
        sys.stdout.write(text)
    else:
        path.write_text(text)


def commit() -> str:
    """Return the commit that is checked out, and whether anything differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode
    return (head.stdout.strip() or "unknown") + (", changed" if changed else "")


def machine() -> str:
    """Say on what was measured."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    processor = f"{len(models)} x {models[0]}" if models else platform.processor()
    return f"{processor}, Python {platform.python_version()}, numpy {np.__version__}"


def resident_mb() -> float:
    """Return the memory that this process holds; of Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(kilobytes) * 1024 / 1e6
