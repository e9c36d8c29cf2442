"""How far a long search is: a bar where a person looks on, a line in the log now and then where none does."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

log = structlog.get_logger()

LOG_EVERY_S = 10.0
WINDOW_S = 60.0
"""The pace of so long a time says how long the rest will take: the past grows denser toward the head."""


class Pace:
    """Estimates the time left from what was done lately; pure."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def left_s(self, now_s: float, done: int, of: int) -> float | None:
        """Take in how far the work is; return how long the rest will take, None where nothing tells."""
        self._marks.append((now_s, done))
        while len(self._marks) > 2 and self._marks[1][0] <= now_s - WINDOW_S:
            self._marks.popleft()
        began_s, before = self._marks[0]
        if done <= before or now_s <= began_s:
            return None
        return (of - done) * (now_s - began_s) / (done - before)


class Blocks:
    """Implements ``ports.Progress`` for a search of blocks."""

    def __init__(self, bar: Bar | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("searching", total=None, left="")
        self._clock = clock
        self._pace = Pace()
        self._pace.left_s(clock(), 0, 0)
        self._told_s = clock()

    def at(self, done: int, of: int) -> None:
        """Show how far it is."""
        now_s = self._clock()
        left_s = self._pace.left_s(now_s, done, of)
        if self._bar is not None and self._task is not None:
            left = "" if left_s is None else f"{left_s:,.0f} s left"
            self._bar.update(self._task, completed=done, total=of, left=left)
        elif now_s - self._told_s >= LOG_EVERY_S or done == of:
            self._told_s = now_s
            log.info("search.progress", blocks=done, of=of, left_s=None if left_s is None else round(left_s))


@contextmanager
def shown() -> Iterator[Blocks]:
    """Show progress while the block lasts, on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield Blocks(None)
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    ]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Blocks(bar)
