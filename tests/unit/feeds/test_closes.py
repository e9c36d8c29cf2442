"""The file of closes: a row at each step, none twice, none missing between, and readable by the steward."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from keeper.domain import Quote, Unknown
from keeper.errors import ConfigError
from keeper.feeds.closes import Closes, keeping
from keeper.risk import prices
from keeper.units import WAD, FeedId, UnixS

FEEDS = ("BTC/USD", "ETH/USD")
STEP_S = 3600
START_S = 1_699_999_200
"""A full hour."""


def quotes(
    btc: int = 20_000, eth: int | None = 1_500, at_s: UnixS = START_S
) -> dict[FeedId, Quote | Unknown]:
    ether = Unknown("ETH/USD", "no venue") if eth is None else Quote("ETH/USD", eth * WAD, at_s)
    return {"BTC/USD": Quote("BTC/USD", btc * WAD, at_s), "ETH/USD": ether}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "closes.csv"


def kept(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_each_step_has_one_row_and_the_steward_reads_them(path: Path) -> None:
    closes = Closes(path, FEEDS, step_s=STEP_S)
    for late_s, price in ((0, 20_000), (1, 1), (STEP_S + 12, 20_100), (2 * STEP_S, 20_200)):
        closes.hear(quotes(price), START_S + late_s)
    with path.open(newline="") as file:
        found = prices.read(file)
    assert (found.assets, found.step_s) == (FEEDS, STEP_S)
    assert found.times.tolist() == [START_S, START_S + STEP_S, START_S + 2 * STEP_S]
    assert found.closes.tolist() == [[20_000, 1_500], [20_100, 1_500], [20_200, 1_500]]


def test_a_step_waits_for_every_feed_but_not_for_long(path: Path) -> None:
    closes = Closes(path, FEEDS, step_s=STEP_S)
    closes.hear(quotes(eth=None), START_S)
    assert not path.exists()
    closes.hear(quotes(), START_S + STEP_S // 10 + 1)
    assert not path.exists()
    closes.hear(quotes(), START_S + STEP_S // 10)
    assert kept(path)[1:] == [f"{START_S},20000.0,1500.0"]


def test_it_goes_on_where_another_life_ended(path: Path) -> None:
    Closes(path, FEEDS, step_s=STEP_S).hear(quotes(), START_S)
    again = Closes(path, FEEDS, step_s=STEP_S)
    again.hear(quotes(1), START_S + 5)
    again.hear(quotes(20_100), START_S + STEP_S)
    assert [line.partition(",")[0] for line in kept(path)] == ["time", str(START_S), str(START_S + STEP_S)]
    assert kept(path)[1].startswith(f"{START_S},20000")


def test_a_gap_begins_another_file_and_keeps_the_old_one(path: Path) -> None:
    closes = Closes(path, FEEDS, step_s=STEP_S)
    closes.hear(quotes(), START_S)
    with capture_logs() as logs:
        closes.hear(quotes(21_000), START_S + 2 * STEP_S)
    assert [each["event"] for each in logs] == ["closes.gap"]
    assert kept(path) == ["time,BTC/USD,ETH/USD", f"{START_S + 2 * STEP_S},21000.0,1500.0"]
    assert kept(path.with_name(f"closes.until-{START_S}.csv"))[1] == f"{START_S},20000.0,1500.0"


def test_what_was_put_aside_stays_where_the_disk_is_full_then(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closes = Closes(path, FEEDS, step_s=STEP_S)
    closes.hear(quotes(), START_S)

    def full(*_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", full)
        with pytest.raises(OSError, match="no space left"):
            closes.hear(quotes(21_000), START_S + 2 * STEP_S)
    closes.hear(quotes(21_000), START_S + 2 * STEP_S)
    assert kept(path.with_name(f"closes.until-{START_S}.csv"))[1] == f"{START_S},20000.0,1500.0"
    assert kept(path) == ["time,BTC/USD,ETH/USD", f"{START_S + 2 * STEP_S},21000.0,1500.0"]


def test_a_file_that_was_taken_away_is_begun_anew_after_a_gap_as_well(path: Path) -> None:
    closes = Closes(path, FEEDS, step_s=STEP_S)
    closes.hear(quotes(), START_S)
    path.unlink()
    closes.hear(quotes(21_000), START_S + 2 * STEP_S)
    assert kept(path) == ["time,BTC/USD,ETH/USD", f"{START_S + 2 * STEP_S},21000.0,1500.0"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("notes", "is no file of closes"),
        ("notes\nof something", "expected time, BTC/USD, ETH/USD every 3600 s, found notes"),
        ("time,BTC/USD\n1699999200,1\n", "expected time, BTC/USD, ETH/USD every 3600 s, found time, BTC/USD"),
        ("time,BTC/USD,ETH/USD\n1699999200,1,1\n1699999260,1,1\n", "every 60 s"),
        ("time,BTC/USD,ETH/USD\nyesterday,1,1\n", "is no file of closes"),
    ],
)
def test_a_file_of_something_else_is_refused(path: Path, text: str, why: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match=why):
        Closes(path, FEEDS, step_s=STEP_S)
    assert path.read_text() == text


def test_what_a_power_cut_left_of_a_row_is_dropped_wherever_it_was_cut(path: Path) -> None:
    """At every byte: rows that ended stay, and the file goes on as if the torn one had been missed."""
    closes = Closes(path, FEEDS, step_s=STEP_S)
    for step in range(2):
        closes.hear(quotes(20_000 + step), START_S + step * STEP_S)
    written = path.read_bytes()
    for cut in range(len(written)):
        path.write_bytes(written[:cut])
        with capture_logs() as logs:
            again = Closes(path, FEEDS, step_s=STEP_S)
        whole = written[:cut].rfind(b"\n") + 1
        assert path.read_bytes() == written[:whole]
        torn = [] if cut == whole else [("closes.torn", cut - whole)]
        assert [(each["event"], each["dropped_bytes"]) for each in logs] == torn
        for step in range(written[:whole].count(b"\r\n") or 1, 3):
            again.hear(quotes(20_000 + step - 1), START_S + (step - 1) * STEP_S)
        assert path.read_bytes() == written


class Filling(FileIO):
    """A file on a disk that takes a few bytes more."""

    room = 9

    def write(self, data: Any, /) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "no space left on device")
        taken = super().write(data[: self.room])
        self.room -= taken
        return taken


@pytest.mark.parametrize("begun", [True, False])
def test_what_a_full_disk_took_of_a_row_is_taken_back_and_the_row_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    closes = Closes(path, FEEDS, step_s=STEP_S)
    if begun:
        closes.hear(quotes(), START_S)
    before = path.read_bytes() if begun else b""
    with monkeypatch.context() as full:
        full.setattr(Path, "open", lambda self, *_, **__: Filling(self, "a"))
        with pytest.raises(OSError, match="no space left"):
            closes.hear(quotes(20_100), START_S + STEP_S)
    assert path.read_bytes() == before
    closes.hear(quotes(20_100), START_S + STEP_S + 1)
    assert kept(path)[-1] == f"{START_S + STEP_S},20100.0,1500.0"
    assert len(kept(path)) == 2 + begun
    Closes(path, FEEDS, step_s=STEP_S)


class Fixed:
    """A feed that always says the same."""

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        return quotes(at_s=now_s)


def test_it_is_kept_while_open_and_a_full_disk_is_said_and_survived(path: Path) -> None:
    folder = path.parent / "later"
    closes = Closes(folder / "closes.csv", FEEDS, step_s=STEP_S)

    async def live() -> None:
        async with keeping(Fixed(), closes, clock=lambda: START_S + 0.5):
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    with capture_logs() as logs:
        asyncio.run(live())
    assert [each["event"] for each in logs] == ["closes.not_kept"]
    folder.mkdir()
    asyncio.run(live())
    assert kept(folder / "closes.csv")[1] == f"{START_S},20000.0,1500.0"
