"""The stores of a journal, each with the ways in which a keeper on it can end."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

from tests.kills.points import Mortal, Points


class Sqlite:
    """A file; what was written to it stays when its keeper is killed."""

    @contextmanager
    def mortal(self, folder: Path, points: Points) -> Iterator[None]:
        """Die around the statements that write."""
        del folder
        made = type("Mortal", (Mortal,), {"points": points})
        with patch("sqlite3.connect", partial(sqlite3.connect, factory=made)):
            yield

    def strike(self, folder: Path, chance: random.Random) -> None:
        """Leave all as it is."""
