"""A book on disk: it comes back as it was, and a file that is not whole, or another's, is refused."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keeper.columns.keys import key_array
from keeper.columns.ledger import Page
from keeper.domain import Account, Head, Holding, Leg, Unknown
from keeper.errors import ConfigError
from keeper.state import archive, book
from keeper.state.archive import Stamp
from keeper.state.book import Book
from keeper.units import WAD
from tests.unit.protocols.hybrid.pages import EVERYTHING, account, key, page_of
from tests.unit.state.test_book import SHAPE, book_of, heads

STAMP = Stamp(chain_id=31337, deployment="0xliquidator", block=120, block_hash="0x" + "ab" * 32)
HELD = account(3, legs=(Leg(2, -WAD, 5), Leg(1, 2**100, -(2**100))), holdings=(Holding(2, WAD),))


def load(path: Path) -> tuple[Book[Account], Stamp]:
    return Book.load(path, SHAPE, chain_id=STAMP.chain_id, deployment=STAMP.deployment)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "book"
    book_of(account(1), EVERYTHING, HELD).save(found, STAMP)
    return found


def test_a_book_comes_back_from_disk_as_it_was(path: Path) -> None:
    found, stamp = load(path)
    assert stamp == STAMP
    assert [found.exact(each) for each in found.keys.tolist()] == [account(1), EVERYTHING, HELD]
    ours, theirs = book_of(account(1), EVERYTHING, HELD).freeze(), found.freeze()
    np.testing.assert_array_equal(theirs.cash, ours.cash)
    np.testing.assert_array_equal(theirs.positions, ours.positions)
    assert [each.name for each in path.parent.iterdir()] == ["book"]


def test_a_book_is_written_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "CHUNK", 4)
    accounts = [account(number, legs=(Leg(1, number, 0),) * (number % 3 > 0)) for number in range(1, 11)]
    book_of(*accounts).save(tmp_path / "book", STAMP)
    found, _ = load(tmp_path / "book")
    assert [found.exact(each.key) for each in accounts] == accounts


def test_an_empty_book_comes_back(tmp_path: Path) -> None:
    Book(SHAPE).save(tmp_path / "book", STAMP)
    assert len(load(tmp_path / "book")[0]) == 0


def test_what_was_dirty_is_dirty_again(tmp_path: Path) -> None:
    saved = book_of(account(1), account(2))
    saved.mark_dirty([key(9), key(2)], 120)
    saved.save(tmp_path / "book", STAMP)
    found, _ = load(tmp_path / "book")
    assert found.dirty() == (key(9), key(2))
    assert isinstance(found.exact(key(2)), Unknown)
    assert np.isnan(found.freeze().cash).tolist() == [False, True]
    assert found.known == 3


@pytest.mark.parametrize(("orphaned", "dirty"), [(heads(121), set()), (heads(121, 120), {1, 3, 7})])
def test_a_reorg_of_the_block_of_the_file_makes_everything_dirty(
    path: Path, orphaned: list[Head], dirty: set[int]
) -> None:
    found, _ = load(path)
    found.unwind(orphaned)
    assert set(found.dirty()) == {key(number) for number in dirty}


# --- refusals ------------------------------------------------------------------------------------


def say(path: Path, **changes: object) -> None:
    """Write another first line."""
    line, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(json.dumps({**json.loads(line), **changes}).encode() + b"\n" + rest)


def cut(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (Path.unlink, "cannot be read: No such file"),
        (lambda path: path.write_bytes(b""), "is not a book: its first line cannot be read"),
        (lambda path: path.write_bytes(bytes(10_000)), "is not a book: its first line cannot be read"),
        (lambda path: path.write_bytes(b"7\n"), "is not a book: its first line says 7"),
        (lambda path: path.write_bytes(b"{}\n"), "has format None, expected 'hybrid-keeper book, version 2"),
        (lambda path: say(path, format="hybrid-keeper book, version 1"), "has format .*version 1', expected"),
        (lambda path: say(path, chain_id=1), "has chain_id 1, expected 31337"),
        (lambda path: say(path, deployment="0x1"), "has deployment '0x1', expected '0xliquidator'"),
        (
            lambda path: say(path, layout="row: x"),
            "has layout 'row: x', expected .row: phases uint8, slopes ",
        ),
        (lambda path: say(path, block=119), "was cut short or changed"),
        (lambda path: cut(path, -1), "was cut short or changed"),
        (lambda path: cut(path, -40), "was cut short or changed"),
        (lambda path: cut(path, 900), "was cut short or changed"),
        (lambda path: flip(path, -1), "was cut short or changed"),
        (lambda path: flip(path, -200), "was cut short or changed"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "was cut short or changed"),
    ],
)
def test_a_file_that_is_no_whole_book_of_ours_is_refused(
    path: Path, damage: Callable[[Path], object], complaint: str
) -> None:
    damage(path)
    with pytest.raises(ConfigError, match=complaint):
        load(path)


def pages(*accounts: Account, **changes: Sequence[int]) -> list[Page]:
    """One page of some accounts; changed are counts of runs, or cells."""
    page = SHAPE.decode(page_of(accounts))
    changed = {name: np.array(numbers, np.uint8) for name, numbers in changes.items()}
    counts = {name: changed.get(name, counts) for name, counts in page.counts.items()}
    cells = {name: changed.get(name, cells) for name, cells in page.cells.items()}
    return [replace(page, counts=counts, cells=cells)]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (pages(HELD, legs=[1]), "a page counts 1 legs and has 2"),
        (pages(HELD, phases=[4]), "an account has the state 4"),
        (pages(HELD, HELD), "an account is in it twice"),
        ([*pages(HELD), *pages(HELD)], "an account is in it twice"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    tmp_path: Path, rows: Iterable[Page], complaint: str
) -> None:
    archive.write(tmp_path / "book", STAMP, shape=SHAPE, sizes=(0,) * 4, pages=rows, dirty=key_array([]))
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path / "book")


@pytest.mark.parametrize("sizes", [(1, 2, 3), (10**12, 0, 0, 0)])
def test_a_file_that_asks_for_more_room_than_it_can_fill_is_refused(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    archive.write(tmp_path / "book", STAMP, shape=SHAPE, sizes=sizes, pages=[], dirty=key_array([]))
    with pytest.raises(ConfigError, match="it has no room for"):
        load(tmp_path / "book")


def test_a_file_that_does_not_say_its_block_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = archive._parts
    without = dict.fromkeys(["chain_id", "deployment", "format", "layout"])
    monkeypatch.setattr(
        archive, "_parts", lambda said, *rest: parts({name: said[name] for name in without}, *rest)
    )
    archive.write(path, STAMP, shape=SHAPE, sizes=(0,) * 4, pages=[], dirty=key_array([]))
    with pytest.raises(ConfigError, match="does not say its block"):
        load(path)


def test_a_column_that_ends_too_early_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_parts", lambda said, *_: [json.dumps(said).encode() + b"\n", b"\1\0\0\0"])
    archive.write(tmp_path / "book", STAMP, shape=SHAPE, sizes=(0,) * 4, pages=[], dirty=key_array([]))
    with pytest.raises(ConfigError, match="it ends in the middle of a column"):
        load(tmp_path / "book")


def test_whoever_is_stopped_while_writing_leaves_the_old_book(path: Path) -> None:
    def stops() -> Iterable[Page]:
        yield from pages(account(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.write(path, STAMP, shape=SHAPE, sizes=(0,) * 4, pages=stops(), dirty=key_array([]))
    assert len(load(path)[0]) == 3


def test_a_disk_that_fills_up_leaves_the_old_book_and_nothing_beside_it(path: Path) -> None:
    def full() -> Iterator[Page]:
        yield from pages(HELD)
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        archive.write(path, STAMP, shape=SHAPE, sizes=(0,) * 4, pages=full(), dirty=key_array([]))
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
