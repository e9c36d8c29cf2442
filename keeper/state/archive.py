"""A book on disk: a line that says what it is, pages of exact rows, and a digest of all of it.

The twins are not written: they are derived again. The file is replaced as a whole, and believed as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.columns.keys import KEY, KeyArray
from keeper.columns.ledger import Page
from keeper.columns.pool import Entries, Entry
from keeper.columns.shape import Shape
from keeper.errors import ConfigError
from keeper.units import Block

FORMAT = f"hybrid-keeper book, version 2, {sys.byteorder}-endian"
LONGEST_LINE = 4096
BLOCK_BYTES = 2**20
DIGEST_BYTES = 32

SIZES = np.dtype(np.uint32)
"""A page begins with its numbers of rows and of the entries of each run; one without rows is the last."""
Cells: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Stamp:
    """Of which deployment a book is, and the block up to which it was read."""

    chain_id: int
    deployment: str
    """Whatever tells the caller's deployments apart, such as the address of a contract."""
    block: Block
    block_hash: str


@dataclass(frozen=True, slots=True)
class Archive:
    """A book on disk whose digest is right: read its pages, then what is dirty, once."""

    stamp: Stamp
    shape: Shape[Any]
    sizes: tuple[int, ...]
    """How many rows and entries of each run its pages have in all."""
    path: Path
    file: BufferedReader

    def pages(self) -> Iterator[Page]:
        """Yield the rows in order."""
        while (sizes := self._cells((SIZES,), 1 + len(self.shape.runs)))[0]:
            rows, *entries = sizes.tolist()
            keys, cells = self._cells((KEY,), rows), self._columns(self.shape.cells, rows)
            counts, runs = dict[str, Cells](), dict[str, Entries]()
            for (name, entry), count in zip(self.shape.runs.items(), entries, strict=True):
                counts[name] = self._cells((np.uint8,), rows)
                runs[name] = self._columns(entry, count)
                if counts[name].sum(dtype=np.intp) != count:
                    raise self.damaged(f"a page counts {counts[name].sum()} {name} and has {count}")
            page = Page(keys, cells, counts, runs)
            if broken := self.shape.broken_rule(page):
                raise self.damaged(broken)
            yield page

    def dirty(self) -> KeyArray:
        """Return the accounts that had changed and were not read since, oldest mark first."""
        [count] = self._cells((SIZES,), 1).tolist()
        return self._cells((KEY,), count)

    def _columns(self, entry: Entry, count: int) -> Entries:
        return {name: self._cells(column, count) for name, column in entry.items()}

    def _cells(self, column: tuple[Any, ...], count: int) -> Cells:
        dtype, *width = column
        cells = np.empty((count, *width), dtype)
        if self.file.readinto(_bytes(cells)) != cells.nbytes:
            raise self.damaged("it ends in the middle of a column")
        return cells

    def damaged(self, why: str) -> ConfigError:
        """Return the refusal of a file whose digest is right and whose content is not."""
        return ConfigError(f"the book {self.path} contradicts itself: {why}")


def write(
    path: Path,
    stamp: Stamp,
    *,
    shape: Shape[Any],
    sizes: Sequence[int],
    pages: Iterable[Page],
    dirty: KeyArray,
) -> None:
    """Write a book beside ``path``, then put it there in one move."""
    said = {
        "format": FORMAT,
        "chain_id": stamp.chain_id,
        "deployment": stamp.deployment,
        "block": stamp.block,
        "block_hash": stamp.block_hash,
        "layout": layout_of(shape),
        "sizes": sizes,
    }
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            for part in _parts(said, shape, pages, dirty):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def opened(path: Path, shape: Shape[Any], *, chain_id: int, deployment: str) -> Iterator[Archive]:
    """Open a book; raise ConfigError where it is none, of another deployment, cut short or changed."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"the book {path} cannot be read: {error.strerror}") from error
    with file:
        said = _first_line(path, file)
        begin = file.tell()
        ours = {"format": FORMAT, "chain_id": chain_id, "deployment": deployment, "layout": layout_of(shape)}
        for name, expected in ours.items():
            if said.get(name) != expected:
                raise ConfigError(f"the book {path} has {name} {said.get(name)!r}, expected {expected!r}")
        file.seek(0)
        if not _is_whole(file):
            raise ConfigError(f"the book {path} was cut short or changed: its digest is another")
        file.seek(begin)
        try:
            stamp, sizes = (
                Stamp(chain_id, deployment, said["block"], said["block_hash"]),
                tuple(said["sizes"]),
            )
        except KeyError as error:
            raise ConfigError(f"the book {path} does not say its {error.args[0]}") from error
        found = Archive(stamp, shape, sizes, path, file)
        if len(sizes) != 1 + len(shape.runs) or sum(sizes) > os.fstat(file.fileno()).st_size:
            raise found.damaged(f"it has no room for {sizes} rows and entries")
        yield found


def stamp_of(path: Path) -> tuple[Block, str]:
    """Return block and hash that a book says it was read at; raise ConfigError where it says none."""
    try:
        with path.open("rb") as file:
            said = _first_line(path, file)
            return int(said["block"]), str(said["block_hash"])
    except OSError as error:
        raise ConfigError(f"the book {path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the book {path} does not say of which block it is") from error


def layout_of(shape: Shape[Any]) -> str:
    """Say of which cells rows and entries are made, and in which order."""
    of = {"row": shape.cells, **shape.runs}
    return "; ".join(f"{name}: {_layout(entry)}" for name, entry in of.items())


def _layout(entry: Entry) -> str:
    return ", ".join(f"{name} {np.dtype((dtype, tuple(width)))}" for name, (dtype, *width) in entry.items())


def _parts(
    said: Mapping[str, Any], shape: Shape[Any], pages: Iterable[Page], dirty: KeyArray
) -> Iterator[memoryview | bytes]:
    """Yield what is digested, in the order in which it is written."""
    yield json.dumps(said).encode() + b"\n"
    for page in pages:
        sizes = [len(next(iter(page.runs[name].values()))) for name in shape.runs]
        yield _bytes(np.array([len(page), *sizes], SIZES))
        yield _bytes(page.keys)
        yield from _columns(shape.cells, page.cells)
        for name, entry in shape.runs.items():
            yield _bytes(page.counts[name])
            yield from _columns(entry, page.runs[name])
    yield _bytes(np.zeros(1 + len(shape.runs), SIZES))
    yield _bytes(np.array([len(dirty)], SIZES))
    yield _bytes(dirty)


def _columns(entry: Entry, cells: Entries) -> Iterator[memoryview]:
    for name, (dtype, *_) in entry.items():
        yield _bytes(cells[name].astype(dtype, copy=False))


def _first_line(path: Path, file: BufferedReader) -> Mapping[str, Any]:
    try:
        said = json.loads(file.readline(LONGEST_LINE))
    except ValueError as error:
        raise ConfigError(f"{path} is not a book: its first line cannot be read") from error
    if not isinstance(said, dict):
        raise ConfigError(f"{path} is not a book: its first line says {said!r}")
    return said


def _is_whole(file: BufferedReader) -> bool:
    """Tell whether a file ends with the digest of what comes before."""
    left = os.fstat(file.fileno()).st_size - DIGEST_BYTES
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    while left > 0:
        block = file.read(min(left, BLOCK_BYTES))
        digest.update(block)
        left -= len(block)
    return file.read() == digest.digest()


def _bytes(cells: Cells) -> memoryview:
    return np.ascontiguousarray(cells).reshape(-1).view(np.uint8).data
