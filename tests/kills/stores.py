"""The stores of a journal, each with what the death of its keeper does to it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

from keeper.journal import postgres, sqlite
from keeper.journal.db import Shared
from tests.kills.points import Points, mortal

NAME = "journal.sqlite"


class Store(Protocol):
    """Where journals are."""

    def place(self, folder: Path) -> Path | Shared:
        """Return where the journal of a keeper is that has a folder of its own."""
        ...

    def mortal(self, folder: Path, points: Points) -> AbstractContextManager[None]:
        """Have whatever journal is opened in the context die at points."""
        ...

    def strike(self, folder: Path, chance: random.Random) -> None:
        """Do to a journal what its keeper's death does to it, beyond ending the keeper."""
        ...

    def left(self, folder: Path, scratch: Path) -> Path | Shared:
        """Return what there is to read of a journal without touching it."""
        ...


class Sqlite:
    """A file; what was written to it stays when its keeper is killed."""

    def place(self, folder: Path) -> Path:
        return folder / NAME

    @contextmanager
    def mortal(self, folder: Path, points: Points) -> Iterator[None]:
        """Die around the statements that write."""
        del folder
        with patch("keeper.journal.sqlite.SqliteDb", mortal(sqlite.SqliteDb, points)):
            yield

    def strike(self, folder: Path, chance: random.Random) -> None:
        """Leave all as it is."""

    def left(self, folder: Path, scratch: Path) -> Path:
        """Copy it: reading would already mend it."""
        scratch.mkdir()
        for each in folder.glob(f"{NAME}*"):
            shutil.copy(each, scratch)
        return scratch / NAME


class Postgres:
    """A schema for each round; its server lives on."""

    def __init__(self, url: str) -> None:
        self._url = url

    def place(self, folder: Path) -> Shared:
        return Shared(self._url, folder.parent.name, folder / NAME)

    @contextmanager
    def mortal(self, folder: Path, points: Points) -> Iterator[None]:
        """Die around the statements that write."""
        del folder
        with patch("keeper.journal.postgres.PostgresDb", mortal(postgres.PostgresDb, points)):
            yield

    def strike(self, folder: Path, chance: random.Random) -> None:
        """Let the lease end, as it does in time; first the server notices that its holder is gone."""
        del chance
        with closing(postgres.connect(self.place(folder))) as db:
            if "meta" in db.tables():
                db.execute("UPDATE lease SET until = clock_timestamp()")

    def left(self, folder: Path, scratch: Path) -> Shared:
        del scratch
        return self.place(folder)
