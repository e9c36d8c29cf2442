"""What a secret may look like where it must not be, and all that a keeper has written."""

from __future__ import annotations

import sqlite3
import zlib
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path


def forms_of(secret: bytes) -> set[bytes]:
    """Return a secret as it is, in hexadecimal, as a number, and in base64."""
    hexadecimal = secret.hex().encode()
    spoken = {hexadecimal, hexadecimal.upper(), str(int.from_bytes(secret)).encode()}
    # What of base64 depends on neither the padding nor what follows.
    coded = {code(secret)[: len(secret) // 3 * 4] for code in (b64encode, urlsafe_b64encode)}
    return {secret, *spoken, *coded}


def expect_nothing_of(secrets: Collection[bytes], text: bytes) -> None:
    """Check that no form of any secret is in a text; does not show the text where one is."""
    shown = sum(form in text for secret in secrets for form in forms_of(secret))
    assert shown == 0


def written_in(folder: Path, *given: str) -> bytes:
    """Return all that is in the files of a folder but those that were given, and what its journals hold."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in given]
    written = [path.read_bytes() for path in files]
    for path in files:
        if path.suffix == ".sqlite":
            written += _values(path)
    return b"\n".join(written)


def _values(path: Path) -> Iterator[bytes]:
    """Yield every value of a database: a page may cut one in two, and a tape is packed."""
    with closing(sqlite3.connect(path)) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in db.execute(f"SELECT * FROM {table}"):  # noqa: S608 a name of the database itself
                for value in row:
                    raw = value if isinstance(value, bytes) else str(value).encode()
                    yield raw
                    with suppress(zlib.error):
                        yield zlib.decompress(raw)


def command_lines(pid: int) -> bytes:
    """Return the command lines of a process and all that it has started."""
    with suppress(FileNotFoundError, ProcessLookupError):
        own = Path(f"/proc/{pid}/cmdline").read_bytes()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return b"\n".join([own, *(command_lines(int(child)) for child in children)])
    return b""
