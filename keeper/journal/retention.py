"""What a journal forgets: what is over and older than it is kept, piece by piece, never what still counts.

Never an open case, a step that may still be included, or anything of the last two days: the guard looks back
one, and no reorg reaches so far. A case goes whole, with its events and steps, so that what stays is sound.
Of the tape of a run what lies before a kept book may go; its beginning stays for as long as anything of it
does, and so does every listing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from keeper.journal.db import Db
from keeper.journal.runs import cut
from keeper.units import UnixS

DAY_S = 86_400
LEAST_DAYS = 2
"""Kept whatever the size."""
LOOKS_BACK_S = 7 * DAY_S
"""How old steps may be by which it is told how the next ones will do: a run that began so soon after what is
forgotten cannot be decided again."""
CASES = 50
REELS = 64
"""How much goes at a time: a few milliseconds."""
MB = 2**20


@dataclass(frozen=True, slots=True)
class Keep:
    """How much is kept."""

    days: int = 30
    mb: int = 2_000


def forget(db: Db, folder: Path, keep: Keep, now_s: UnixS) -> bool:
    """Forget a piece of what is older than it is kept, inside an open transaction; tell whether any was.

    ``folder`` is where the books lie. ``now_s`` is chain time. Where all that is kept is too much, the tape
    goes earlier, and cases only after it: what was done, and why, is told by them.
    """
    horizon_s, least_s = (now_s - max(days, LEAST_DAYS) * DAY_S for days in (keep.days, LEAST_DAYS))
    if _forget_all(db, folder, horizon_s):
        return True
    if db.size() <= keep.mb * MB:
        return False
    return _forget_tape(db, folder, least_s) or _forget_all(db, folder, least_s)


def _forget_all(db: Db, folder: Path, horizon_s: UnixS) -> bool:
    found = [
        _forget_cases(db, horizon_s),
        _forget_tape(db, folder, horizon_s),
        _forget_others(db, horizon_s),
    ]
    return any(found)


def _forget_cases(db: Db, horizon_s: UnixS) -> bool:
    """Forget the oldest closed cases of which nothing has happened since.

    No further than to the first one that began since: of all that are younger nothing is to be looked at.
    """
    query = (
        "SELECT case_id, (SELECT at_s FROM events WHERE events.case_id = cases.case_id ORDER BY seq LIMIT 1)"
        " AS began_s, status = 'closed'"
        " AND NOT EXISTS (SELECT 1 FROM events WHERE events.case_id = cases.case_id AND at_s >= ?)"
        " AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.case_id = cases.case_id"
        " AND (state IN ('reserved', 'sent') OR reserved_at_s >= ? OR outcome_at_s >= ?)) AS is_over"
        " FROM cases ORDER BY rowid"
    )
    found = db.execute(query, (horizon_s, horizon_s, horizon_s))
    old = takewhile(lambda row: row["began_s"] < horizon_s, found)
    over = [(row["case_id"],) for row in islice((row for row in old if row["is_over"]), CASES)]
    found.close()
    if not over:
        return False
    told = "SELECT max(seq), max(at_s) FROM events WHERE case_id = ?"
    lasts = [db.execute(told, each).fetchone() for each in over]
    for table in ("steps", "events", "cases"):
        db.executemany(f"DELETE FROM {table} WHERE case_id = ?", over)  # noqa: S608
    last, last_s = (max(each) for each in zip(*lasts, strict=True))
    cut(db, lambda run: run.events < last or run.began_s < last_s + LOOKS_BACK_S)
    return True


def _forget_tape(db: Db, folder: Path, horizon_s: UnixS) -> bool:
    """Forget what was taped before: of runs that ended then all, of another what a kept book has read."""
    first = db.execute(
        "SELECT seq, run FROM tape WHERE at_s >= ? ORDER BY at_s, seq LIMIT 1", (horizon_s,)
    ).fetchone()
    if first is None:
        return False
    seq, run = first
    if db.execute("SELECT 1 FROM runs WHERE run < ? LIMIT 1", (run,)).fetchone():
        return _forget_runs(db, folder, run)
    book = db.execute("SELECT max(seq) FROM books WHERE run = ? AND seq < ?", (run, seq)).fetchone()[0]
    opening = db.execute("SELECT min(seq) FROM tape WHERE run = ?", (run,)).fetchone()[0]
    if book is None:
        return False
    gone = db.execute(
        "DELETE FROM tape WHERE seq IN (SELECT seq FROM tape WHERE run = ? AND seq > ? AND seq <= ?"
        " AND listing = 0 ORDER BY seq LIMIT ?)",
        (run, opening, book, REELS),
    ).rowcount
    if gone:
        cut(db, lambda each: each.run == run)
    old = db.execute("SELECT rowid, file FROM books WHERE run = ? AND seq < ?", (run, book)).fetchall()
    _forget_books(db, folder, old)
    return gone > 0 or bool(old)


def _forget_runs(db: Db, folder: Path, run: int) -> bool:
    """Forget what was taped before a run, the oldest first."""
    oldest = db.execute("SELECT min(run) FROM runs WHERE run < ?", (run,)).fetchone()[0]
    cut(db, lambda each: each.run == oldest)
    gone = db.execute(
        "DELETE FROM tape WHERE seq IN (SELECT seq FROM tape WHERE run = ? ORDER BY seq LIMIT ?)",
        (oldest, REELS),
    ).rowcount
    if gone < REELS:
        _forget_books(
            db, folder, db.execute("SELECT rowid, file FROM books WHERE run = ?", (oldest,)).fetchall()
        )
        db.execute("DELETE FROM runs WHERE run = ?", (oldest,))
    return True


def _forget_books(db: Db, folder: Path, books: list[Any]) -> None:
    for rowid, file in books:
        (folder / file).unlink(missing_ok=True)
        db.execute("DELETE FROM books WHERE rowid = ?", (rowid,))


def _forget_others(db: Db, horizon_s: UnixS) -> bool:
    """Forget heads and levels, but for the last ones, and differences that a clean round has followed."""
    heads = db.execute(
        "DELETE FROM heads WHERE seq IN (SELECT seq FROM heads WHERE timestamp_s < ?"
        " AND seq < (SELECT max(seq) FROM heads) LIMIT ?)",
        (horizon_s, 10 * REELS),
    ).rowcount
    differences = db.execute(
        "DELETE FROM differences WHERE seq IN (SELECT seq FROM differences WHERE at_s < ?"
        " AND seq <= (SELECT coalesce(max(seq), 0) FROM healed) LIMIT ?)",
        (horizon_s, REELS),
    ).rowcount
    levels = db.execute(
        "DELETE FROM levels WHERE seq IN (SELECT seq FROM levels WHERE at_s < ?"
        " AND seq < (SELECT max(seq) FROM levels) LIMIT ?)",
        (horizon_s, REELS),
    ).rowcount
    return heads > 0 or differences > 0 or levels > 0
