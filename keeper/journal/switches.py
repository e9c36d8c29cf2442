"""Switches by hand and by rule: what halts the wallet, pauses a market, or trips where something is off.

A switch is thrown by a row, and never changed: who, when and why is history, and the newest row of each
switch and subject says how it stands. Rows are in the journal, so that a command in another process throws a
switch for the keeper's next grant, and a restart finds it as it was left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keeper.journal.db import Db
from keeper.ports import Switch, Thrown
from keeper.units import UnixS

FILE = "file"
RULE = "rule"
"""Who throws what follows from figures."""
NO_STATE = (Switch.LIMITS,)
"""Written down as events only."""


def throw(db: Db, thrown: Thrown, *, on: bool) -> None:
    """Throw a switch on or off, inside an open transaction."""
    db.execute(
        "INSERT INTO switches (switch, subject, is_on, who, why, at_s, until_s, mark)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            thrown.switch, thrown.subject, int(on), thrown.who, thrown.why, thrown.at_s, thrown.until_s,
            thrown.mark,
        ),
    )  # fmt: skip


COLUMNS = "switch, subject, who, why, at_s, until_s, mark"


def standing(db: Db) -> tuple[Thrown, ...]:
    """Return the switches that are on, the one thrown first at their head."""
    query = (
        f"SELECT {COLUMNS} FROM switches WHERE is_on = 1 AND seq IN"  # noqa: S608
        " (SELECT max(seq) FROM switches GROUP BY switch, subject) ORDER BY seq"
    )
    found = (to_thrown(tuple(row)) for row in db.execute(query))
    return tuple(each for each in found if each.switch not in NO_STATE)


def last_thrown(db: Db, switch: Switch, subject: str = "") -> UnixS:
    """Return when a switch was thrown last, on or off; 0 where it never was."""
    query = "SELECT coalesce(max(at_s), 0) FROM switches WHERE switch = ? AND subject = ?"
    return int(db.execute(query, (switch, subject)).fetchone()[0])


def sold_before(db: Db, market: str, since_s: UnixS) -> int:
    """Return the last stake that was sold of a market, but for what heads from a time on have shown."""
    query = (
        "SELECT mark FROM switches WHERE switch = ? AND subject = ? AND NOT (who = ? AND at_s >= ?)"
        " ORDER BY seq DESC LIMIT 1"
    )
    found = db.execute(query, (Switch.SOLD, market, RULE, since_s)).fetchone()
    return int(found["mark"]) if found else 0


def history(db: Db, last: int) -> list[tuple[Thrown, bool]]:
    """Return the newest rows, oldest first, each with whether it was thrown on."""
    query = f"SELECT {COLUMNS}, is_on FROM switches ORDER BY seq DESC LIMIT ?"  # noqa: S608
    rows = [tuple(row) for row in db.execute(query, (last,))]
    return [(to_thrown(row[:-1]), bool(row[-1])) for row in reversed(rows)]


def of_thrown(thrown: Thrown) -> list[Any]:
    """Write down a switch as a row of the tape."""
    return [
        thrown.switch.value, thrown.subject, thrown.who, thrown.why, thrown.at_s, thrown.until_s, thrown.mark
    ]  # fmt: skip


def to_thrown(row: Any) -> Thrown:
    """Read it."""
    switch, *rest = row
    return Thrown(Switch(switch), *rest)


def halted_by_file(path: Path | None, at_s: UnixS) -> tuple[Thrown, ...]:
    """Return the halt that a file is; none where it does not exist.

    A place that cannot be looked at counts as a halt: nobody knows what was put there.
    """
    if path is None:
        return ()
    why = f"{path} exists"
    try:
        os.lstat(path)
    except FileNotFoundError:
        return ()
    except OSError as error:
        why = f"{path} cannot be looked for: {error.strerror}"
    return (Thrown(Switch.HALT, "", FILE, why, at_s),)


def tripped(
    figures: Mapping[tuple[Switch, str], float],
    bounds: Mapping[str, float],
    on: tuple[Thrown, ...],
    at_s: UnixS,
    rest_s: int,
) -> list[Thrown]:
    """Return the breakers to trip: those whose figure is at its bound, and that do not hold long enough yet.

    One that goes on being over its bound is tripped anew after half of its time, so that it holds.
    """
    until_s = {(each.switch, each.subject): each.until_s or 0 for each in on}
    found = []
    for (breaker, subject), figure in figures.items():
        bound = bounds.get(breaker)
        held_s = until_s.get((breaker, subject), 0) - at_s
        if bound is not None and figure >= bound and held_s < rest_s / 2:
            why = f"{figure:.4g}, bound {bound:g}"
            found.append(Thrown(breaker, subject, RULE, why, at_s, at_s + rest_s))
    return found
