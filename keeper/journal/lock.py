"""One keeper to a journal: a second one would plan the same acts, and sign them with the same nonces."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keeper.errors import ConfigError


@contextmanager
def alone(journal: Path) -> Iterator[None]:
    """Hold the lock beside a journal; raise ConfigError where another process holds it.

    The system lets go of it with the process, however that ends; the empty file stays.
    """
    path = journal.with_name(journal.name + ".lock")
    try:
        file = path.open("a")
    except OSError as error:
        raise ConfigError(f"the journal {journal} cannot be used: {path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another keeper works with the journal {journal}") from error
        yield
