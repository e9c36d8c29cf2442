"""A disk that loses what was not synced: SQLite's own idea of a disk, between SQLite and the real one.

Reads and writes go to the files as ever. Beside them is kept what would be on the disk: each write waits
until its file is synced, and a file that was deleted waits for its folder. Where the power fails, what waited
comes to the disk in part: any sector of any write may have, in no order, and a deletion may not. So SQLite
expects it of hardware (https://www.sqlite.org/atomiccommit.html, section 2); that a sector is never half
written, and that a write does no harm beside what it writes, it takes for given unless told otherwise
(https://www.sqlite.org/psow.html).

The standard library's SQLite takes no disk but the system's; so the journal runs on apsw here, by the few
methods that it asks of a connection.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import apsw

from keeper.journal.sqlite import SqliteDb
from tests.kills.points import Points
from tests.kills.stores import Sqlite

SECTOR = 512
RECORD = struct.Struct(">qI")
"""Where something was written, and how many bytes; or where a file was cut, and none."""
FOLDER_SYNCED = ("-journal", "-wal")
"""With the first sync of such a file SQLite syncs its folder, too."""


class Disk:
    """What is on the disk, and what is on its way there."""

    def __init__(self, files: Path) -> None:
        """Stand beside a folder of files."""
        self._files = files
        self._synced = files.with_name("synced")
        self._unsynced = files.with_name("unsynced")
        self._deleted = files.with_name("deleted")
        for folder in (self._synced, self._unsynced, self._deleted):
            folder.mkdir(exist_ok=True)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Note a write, or with no data that the file ends there now."""
        with (self._unsynced / name).open("ab") as waiting:
            waiting.write(RECORD.pack(offset, len(data)) + data)

    def sync(self, name: str) -> None:
        """Take it that all of a file is on the disk."""
        if name.endswith(FOLDER_SYNCED) and not (self._synced / name).exists():
            self.sync_folder()
        self._carry_out(name, lambda: True)

    def sync_folder(self) -> None:
        """Take it that what was deleted stays deleted."""
        for each in self._deleted.iterdir():
            each.unlink()

    def delete(self, name: str) -> None:
        """Take a file off the disk, as soon as its folder is synced."""
        (self._unsynced / name).unlink(missing_ok=True)
        if (self._synced / name).exists():
            (self._synced / name).replace(self._deleted / name)

    def fail(self, chance: random.Random) -> None:
        """Have the power fail: the files are what the disk makes of it."""
        share = chance.choice([0.0, 0.5, 0.9])
        for each in [*self._unsynced.iterdir()]:
            self._carry_out(each.name, lambda: chance.random() < share)
        for each in [*self._deleted.iterdir()]:
            if chance.random() < share or (self._synced / each.name).exists():
                each.unlink()
            else:
                each.replace(self._synced / each.name)
        for each in self._files.glob("*.sqlite*"):
            each.unlink()
        for each in self._synced.iterdir():
            shutil.copy(each, self._files)

    def _carry_out(self, name: str, comes: Callable[[], bool]) -> None:
        """Bring to the disk what waited of a file, as far as it comes there."""
        waiting, target = self._unsynced / name, self._synced / name
        told = waiting.read_bytes() if waiting.exists() else b""
        target.touch()
        with target.open("r+b") as file:
            for offset, data in _told(told):
                if data:
                    for begin, end in _sectors(offset, len(data)):
                        if comes():
                            file.seek(begin)
                            file.write(data[begin - offset : end - offset])
                elif comes():
                    file.truncate(offset)
        waiting.unlink(missing_ok=True)


def _told(waiting: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield what waits for a disk, in its order."""
    at = 0
    while at < len(waiting):
        offset, length = RECORD.unpack_from(waiting, at)
        at += RECORD.size + length
        yield offset, waiting[at - length : at]


def _sectors(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield where the piece of each sector begins and ends."""
    begin, last = offset, offset + length
    while begin < last:
        end = min((begin // SECTOR + 1) * SECTOR, last)
        yield begin, end
        begin = end


# --- between SQLite and the files ------------------------------------------------------------------


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], disk: Disk, points: Points) -> None:
        super().__init__("unix", name, flags)
        self._name = Path(name if isinstance(name, str) else name.filename()).name
        self._disk = disk
        self._points = points

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._points.come_by(f"{self._kind}: before a write")
        super().xWrite(data, offset)
        self._disk.write(self._name, offset, data)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._points.come_by(f"{self._kind}: before it is cut")
        super().xTruncate(newsize)
        self._disk.write(self._name, newsize, b"")

    def xSync(self, flags: int) -> None:  # noqa: N802
        del flags
        self._points.come_by(f"{self._kind}: before a sync")
        self._disk.sync(self._name)
        self._points.come_by(f"{self._kind}: synced")

    @property
    def _kind(self) -> str:
        return next(
            (f"the file's {suffix[1:]}" for suffix in FOLDER_SYNCED if self._name.endswith(suffix)),
            "the file",
        )


class _Vfs(apsw.VFS):
    NAME = "losing"

    def __init__(self, disk: Disk, points: Points) -> None:
        super().__init__(self.NAME, "unix")
        self._disk = disk
        self._points = points

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(name, flags, self._disk, self._points)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self._points.come_by("a file: before it is deleted")
        super().xDelete(filename, syncdir)
        self._disk.delete(Path(filename).name)
        if syncdir:
            self._disk.sync_folder()


# --- apsw, as the journal has the standard library's --------------------------------------------------


class Row(tuple[Any, ...]):
    """A row with names."""

    __slots__ = ()
    names: ClassVar[tuple[str, ...]]

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(self.names.index(at) if isinstance(at, str) else at)

    def keys(self) -> list[str]:
        return list(self.names)


class Cursor:
    """What a statement returns."""

    def __init__(self, db: apsw.Connection, rows: apsw.Cursor) -> None:
        self.rowcount = db.changes()
        try:
            names = tuple(each[0] for each in rows.getdescription())
        except apsw.ExecutionCompleteError:
            names = ()
        self._rows = rows
        self._row = type("NamedRow", (Row,), {"names": names, "__slots__": ()})

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self._rows)

    def fetchone(self) -> Row | None:
        return next(iter(self), None)

    def fetchall(self) -> list[Row]:
        return list(self)

    def close(self) -> None:
        self._rows.close()


class LosingDb:
    """Implements ``db.Db`` as far as it is asked; which commits wait for the disk is SQLite's own to say."""

    Fault: type[Exception] = apsw.Error
    durable = True
    _lasting: bool | None = None
    begin = SqliteDb.begin
    begin_adding = SqliteDb.begin_adding
    expect = SqliteDb.expect
    look = SqliteDb.look
    version = SqliteDb.version
    tables = SqliteDb.tables
    key = SqliteDb.key

    def __init__(self, path: Path) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        self._db = apsw.Connection(str(path), flags=flags, vfs=_Vfs.NAME)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Cursor:
        return Cursor(self._db, self._db.cursor().execute(sql, tuple(values)))

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Cursor:
        return Cursor(self._db, self._db.cursor().executemany(sql, rows))

    def glance(self, most_s: float) -> list[str]:
        del most_s
        return [row[0] for row in self.execute("PRAGMA quick_check") if row[0] != "ok"]

    def told(self, error: BaseException) -> str:
        return str(error)

    def close(self) -> None:
        self._db.close()


class LosingSqlite(Sqlite):
    """A file on such a disk; whenever its keeper dies, the power fails."""

    @contextmanager
    def mortal(self, folder: Path, points: Points) -> Iterator[None]:
        """Die around all that reaches the disk."""
        vfs = _Vfs(Disk(folder), points)
        with patch("keeper.journal.sqlite.connect", LosingDb):
            yield
        vfs.unregister()

    def strike(self, folder: Path, chance: random.Random) -> None:
        """Let the power fail."""
        Disk(folder).fail(chance)
