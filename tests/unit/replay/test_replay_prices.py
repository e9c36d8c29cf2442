"""Decisions over recorded prices, and files of prices that are none."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from keeper.errors import ConfigError
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.pipeline import Shelf
from keeper.replay.prices import Clocks, check, decide, words_of
from keeper.replay.scene import scene_at
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, Desk
from tests.unit.protocols.hybrid.books import PRICES
from tests.unit.why.test_why import CALM, open_parts

HEADER = "timestamp_s,feed,price\n"


def written(path: Path, *lines: str) -> Path:
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("lines", "refusal"),
    [
        (("100,A,1", "100,A,1"), "prices.csv:3: A is told twice at 100"),
        (("100,A,1", "99,A,1"), "prices.csv:3: A goes back in time, from 100 to 99"),
        (("100,A,0",), "prices.csv:2: the price of A must be a positive decimal, found '0'"),
        (("100,A,-1",), "must be a positive decimal"),
        (("100,A,nan",), "must be a positive decimal"),
        (("100,A,1", "116,A,1"), "prices.csv:3: from 100 to 116 there is no price of A, longer than"),
        (("100,A",), "prices.csv:2: expected timestamp_s,feed,price, found '100,A'"),
        (("soon,A,1",), "expected timestamp_s,feed,price"),
    ],
)
def test_a_file_of_prices_that_is_none_is_refused_with_its_line(
    tmp_path: Path, lines: tuple[str, ...], refusal: str
) -> None:
    path = written(tmp_path / "prices.csv", *lines)
    with pytest.raises(ConfigError, match=refusal):
        check(path, 15)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", HEADER])
def test_a_file_without_prices_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match="must begin with the line"):
        check(path, 15)


def test_a_sound_file_says_when_it_begins_and_ends(tmp_path: Path) -> None:
    path = written(tmp_path / "prices.csv", "100,A,1", "100,B,2.5", "115,A,1", "112,B,2")
    assert check(path, 15) == (100, 115)


async def test_a_fall_in_a_file_raises_the_alarm_of_who_breaks_in_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    desk.taping, desk.shelf = True, Shelf(tmp_path / "book", 31337, "hybrid", 1)
    desk.chain.fast["BTC/USD"] = desk.chain.slow["BTC/USD"] = 210 * WAD
    desk.start()
    await desk.head(BREACHED, CALM)
    await desk.head()
    desk.close()
    lines = [
        f"{12 * at},{feed},{210 - at if feed == 'BTC/USD' else price // WAD}"
        for at in range(1, 25)
        for feed, price in PRICES.items()
    ]
    prices = written(tmp_path / "prices.csv", *lines)
    with closing(JournalReader(desk.path)) as reader:
        scene = await scene_at(reader, open_parts, None)
    clocks = Clocks()
    decided = await decide(scene, prices, tmp_path / "book", max_age_s=15, limits=Limits(), clocks=clocks)
    assert decided.last.number - decided.first.number == 24
    told = Counter(
        (event.account, event.data.get("kind")) for event in decided.events if event.kind == "Reserved"
    )
    assert told == {(BREACHED.key, "flag"): 1}
    words = "\n".join(words_of(decided, clocks, is_hybrid=True))
    assert "24 heads from block" in words
    assert "both clocks are simulated, and nothing is sent" in words
    assert "1 x Reserved" in words
