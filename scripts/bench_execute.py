"""Time the one door: ``scripts/bench execute [--json [FILE]]``.

``reserve-sign-commit``: from a step that is due to its signed bytes on disk, as a keeper does it. Every limit
is checked, the unsigned transaction reserved with its nonce, signed by the local key, and committed; the
clock stops when the node is handed the bytes. Each step is of an account of its own, 10 ms after the last
one, in a journal with 2,000 steps of the last hour. ``-hot`` is without the pause, ``-no-disk`` without
waiting for the disk. ``burst-500``: one tick makes 500 accounts suspect; the row tells of each act how long
after the tick its transaction was with the node, and the note when the last one was. ``-batch`` has 32 acts
in a transaction. ``fdatasync`` is what this disk takes to keep 4 KiB more of a file. All in a folder beside
this repository's caches: a temporary one may lie in memory.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import structlog
import uvloop

from keeper.lab.bench import ROOT, Row, arguments, clocked, report, row_of
from keeper.lab.door import Door

BEFORE = 2_000
PASSES = 400
WARM_UP = 20
PAUSE_S = 0.010
BURST, BURSTS, BATCH = 500, 3, 32
PAGE = bytes(4_096)
MEDIAN_US = 2_500
"""What the paced passes may take."""


async def passes(path: Path, case: str, *, pause_s: float, durable: bool = True) -> Row:
    """Take steps through the door, one after the other."""
    door, times_us = Door(path / case, durable=durable), list[float]()
    try:
        await door.open(BEFORE)
        for _ in range(WARM_UP + PASSES):
            await asyncio.sleep(pause_s)
            times_us.append(await door.pass_through())
    finally:
        door.journal.close()
    return row_of(case, BEFORE, times_us[WARM_UP:])


async def burst(path: Path, case: str, *, batch: int) -> tuple[Row, float]:
    """Take the steps of a burst through the door; return them, and when the last was through [ms]."""
    door, times_us = Door(path / case, durable=True), list[list[float]]()
    try:
        await door.open(BEFORE)
        for _ in range(1 + BURSTS):
            times_us.append(await door.burst(BURST, batch))
    finally:
        door.journal.close()
    timed = times_us[1:]
    return row_of(case, BEFORE, [us for each in timed for us in each]), max(map(max, timed)) / 1e3


def bare(path: Path) -> Row:
    """Measure what the disk itself takes."""
    with (path / "bare").open("wb", buffering=0) as file:

        def keep() -> None:
            file.write(PAGE)
            os.fdatasync(file.fileno())

        return clocked("fdatasync", 1, [keep] * (WARM_UP + PASSES), pause_s=PAUSE_S, warm_up=WARM_UP)


def main() -> None:
    """Measure on one disk, the bare wait in between."""
    chosen = arguments(__doc__ or "")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=cache, prefix="bench-") as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        path = Path(name)
        rows = [
            runner.run(passes(path, "reserve-sign-commit", pause_s=PAUSE_S)).within(median_us=MEDIAN_US),
            bare(path),
            runner.run(passes(path, "reserve-sign-commit-hot", pause_s=0.0)),
            runner.run(passes(path, "reserve-sign-commit-no-disk", pause_s=PAUSE_S, durable=False)),
        ]
        bursts = {
            case: runner.run(burst(path, case, batch=batch))
            for case, batch in ((f"burst-{BURST}", 1), (f"burst-{BURST}-batch", BATCH))
        }
    rows += [row for row, _ in bursts.values()]
    notes = {f"{case}, ms until the last": f"{last_ms:,.1f}" for case, (_, last_ms) in bursts.items()}
    report("The one door: us per step", rows, json_path=chosen.json, notes=notes)


if __name__ == "__main__":
    main()
