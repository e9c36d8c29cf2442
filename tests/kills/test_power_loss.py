"""The disk that loses what was not synced, write by write."""

import random
from pathlib import Path

import pytest

from tests.kills.power import SECTOR, Disk


class Chance(random.Random):
    """Draws so large a share of what waits to come to the disk, and then evenly."""

    def __init__(self, share: float) -> None:
        super().__init__(7)
        self._share = share

    def choice(self, _: object) -> float:  # type: ignore[override]
        return self._share


NOTHING, HALF, ALL = Chance(0.0), Chance(0.5), Chance(1.0)
NAME = "journal.sqlite"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


def write(files: Path, data: bytes, offset: int = 0, *, name: str = NAME) -> Disk:
    """Write to a file, and to its disk."""
    (files / name).touch()
    with (files / name).open("r+b") as file:
        file.seek(offset)
        file.write(data)
    disk = Disk(files)
    disk.write(name, offset, data)
    return disk


@pytest.mark.parametrize(("chance", "left"), [(NOTHING, b"old"), (ALL, b"new")])
def test_what_was_synced_stays_and_what_was_not_may_be_lost(files: Path, chance: Chance, left: bytes) -> None:
    write(files, b"old").sync(NAME)
    write(files, b"new").fail(chance)
    assert (files / NAME).read_bytes() == left


def test_of_one_write_some_sectors_come_to_the_disk_and_others_do_not(files: Path) -> None:
    write(files, bytes(64 * SECTOR)).sync(NAME)
    write(files, b"\xff" * 64 * SECTOR).fail(HALF)
    left = (files / NAME).read_bytes()
    sectors = [left[at : at + SECTOR] for at in range(0, 64 * SECTOR, SECTOR)]
    assert set(sectors) == {bytes(SECTOR), b"\xff" * SECTOR}


@pytest.mark.parametrize(("chance", "length"), [(NOTHING, 900), (ALL, 100)])
def test_a_file_that_was_cut_may_be_as_long_as_before(files: Path, chance: Chance, length: int) -> None:
    write(files, bytes(900)).sync(NAME)
    disk = Disk(files)
    disk.write(NAME, 100, b"")
    disk.fail(chance)
    assert (files / NAME).stat().st_size == length


def test_of_a_file_that_was_never_synced_there_may_be_nothing(files: Path) -> None:
    write(files, b"new").fail(NOTHING)
    assert (files / NAME).read_bytes() == b""


@pytest.mark.parametrize(("is_synced", "there"), [(False, True), (True, False)])
def test_a_deleted_file_may_be_back_until_its_folder_is_synced(
    files: Path, is_synced: bool, there: bool
) -> None:
    log = f"{NAME}-journal"
    write(files, b"hot", name=log).sync(log)
    disk = Disk(files)
    (files / log).unlink()
    disk.delete(log)
    if is_synced:
        write(files, b"wal", name=f"{NAME}-wal").sync(f"{NAME}-wal")
    disk.fail(NOTHING)
    assert (files / log).exists() == there


def test_twice_the_power_fails_and_what_it_left_is_what_there_is(files: Path) -> None:
    write(files, b"old").sync(NAME)
    write(files, b"lost").fail(NOTHING)
    Disk(files).fail(ALL)
    assert (files / NAME).read_bytes() == b"old"
