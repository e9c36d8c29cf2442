"""Where a keeper can die: between any two things of it that somebody else could notice.

It kills itself, by SIGKILL, so that the same seed dies at the same place: nothing of it is flushed, closed or
unwound. What the system has taken from it stays, as after any kill.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from keeper.journal.db import Db, Found

WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE")
OURS = str(Path(__file__).parents[2] / "keeper")
JOURNAL = f"{OURS}{os.sep}journal"


class Points:
    """Counts the places that a life comes by, and ends it at one of them."""

    def __init__(self, die_at: int | None, last_words: Callable[[str], None]) -> None:
        self.passed: list[str] = []
        self._die_at = die_at
        self._last_words = last_words

    def come_by(self, place: str) -> None:
        """Count one place, and die there where that is the one."""
        self.passed.append(place)
        if len(self.passed) == self._die_at:
            self._last_words(place)
            os.kill(os.getpid(), signal.SIGKILL)


DbT = TypeVar("DbT", bound=Db)


def mortal(of: type[DbT], points: Points) -> type[DbT]:
    """Return a connection that can die before a transaction, after each write in it, and after its commit."""

    class Mortal(of):  # type: ignore[valid-type, misc]
        def begin(self, *, lasting: bool = True) -> None:
            _come_by(points, "before it begins")
            super().begin(lasting=lasting)

        def execute(self, sql: str, values: Sequence[Any] = (), /) -> Found:
            word = sql.split(maxsplit=1)[0]
            if word in WRITES and not self.in_transaction:
                _come_by(points, "before it is written")
            found: Found = super().execute(sql, values)
            if word in WRITES or word == "COMMIT":
                _come_by(points, "within" if self.in_transaction else "committed")
            return found

        def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Found:
            found: Found = super().executemany(sql, rows)
            _come_by(points, "within")
            return found

    return Mortal


def _come_by(points: Points, where: str) -> None:
    # What keeps a lease runs beside the keeper, by the clock: where that stood nobody could say again.
    if not threading.current_thread().name.startswith("lease"):
        points.come_by(f"{_whose()}: {where}")


def _whose() -> str:
    """Name what is being written: by the door of the journal, and by who came through it."""
    door, frame = "", sys._getframe(3)
    while (caller := frame.f_back) is not None and not _is_outside(frame):
        name = frame.f_code.co_name
        door = name if frame.f_code.co_filename.startswith(JOURNAL) and not name.startswith("_") else door
        frame = caller
    return f"{door or 'opening'} by {Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"


def _is_outside(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return not file.startswith(JOURNAL) and (file.startswith(OURS) or file.endswith("life.py"))
