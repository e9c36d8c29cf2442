"""Both ladders, rung by rung and level by level, up and down again: live, and from the tape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from keeper.journal.guard import Limits
from keeper.ladder import RUNGS, Rung, Sign
from keeper.pipeline import AlarmParams
from keeper.risk.liquidity import Depth
from tests.scenarios.stage import HYBRID, MORPHO, PROTOCOLS, Beat, Stage


def both(share: float, times: int = 1, lagging: float = 0.0) -> Beat:
    """Let both clocks say the same."""
    return Beat(fast=share, chain=share, times=times, lagging=lagging)


CALM = 34
"""Blocks in which whoever is called comes down to the watch, and from there to where nobody is."""

ACCOUNTS = {
    f"{HYBRID}: to the slices and back": (
        HYBRID,
        (both(1.0), both(0.99), both(0.975), both(0.96, 9), both(1.1), Beat(times=CALM)),
        (
            "normal 1, watch 1, margin_call 1, suspected 2, confirmed 2, deleveraging 6,"
            " margin_call 4, watch 26, normal 4"
        ),
    ),
    f"{HYBRID}: to the backstop": (
        HYBRID,
        (both(1.0), both(0.7), Beat(times=8)),
        "normal 1, backstop 4, margin_call 5",
    ),
    f"{MORPHO}: to a closing and back": (
        MORPHO,
        (both(1.6), both(1.1), both(1.0), both(0.96, 3), both(1.6), Beat(times=CALM)),
        "normal 1, watch 1, margin_call 1, confirmed 1, margin_call 7, watch 26, normal 4",
    ),
    f"{MORPHO}: to a second closing": (
        MORPHO,
        (both(1.0), both(0.96), both(0.9), Beat(times=3)),
        "margin_call 1, confirmed 1, deleveraging 1, margin_call 3",
    ),
    f"{MORPHO}: to a call, and to and fro on its bound": (
        MORPHO,
        (both(1.0), both(1.085, 9), both(1.0), both(1.085, 9)),
        "margin_call 20",
    ),
    f"{MORPHO}: to a suspicion that one clock bears out": (
        MORPHO,
        (Beat(), Beat(fast=0.96, times=3), Beat(fast=1.0)),
        "margin_call 1, suspected 3, margin_call 1",
    ),
    f"{MORPHO}: to the backstop": (
        MORPHO,
        (both(1.0), both(0.7), Beat(times=8)),
        "margin_call 1, backstop 1, margin_call 5, watch 3",
    ),
}


@pytest.mark.parametrize(("protocol", "beats", "rungs"), ACCOUNTS.values(), ids=ACCOUNTS)
async def test_an_account_climbs_and_comes_down(
    protocol: str, beats: Sequence[Beat], rungs: str, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", protocol)
    stage.open()
    assert await stage.stood(beats, stage.rung) == rungs
    assert await stage.replayed() == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_rung_is_in_a_table(protocol: str) -> None:
    found = ", ".join(rungs for of, _, rungs in ACCOUNTS.values() if of == protocol)
    seen = {each.split()[0] for each in found.split(", ")}
    # Without a case an account is on a rung of the book; closed is what becomes of a case.
    assert seen == {row.rung.label for row in RUNGS} - {Rung.CLOSED.label}


BOOK = {
    Sign.DIVERGENCE: (
        (Beat(), Beat(fast=0.79), Beat(fast=0.6), Beat(fast=1.0), Beat(times=22)),
        "normal 1, elevated 1, stressed 11, elevated 10, normal 3",
    ),
    Sign.HEAD_AGE: (
        (Beat(), Beat(late_s=60), Beat(late_s=300), Beat(late_s=1_200), Beat(times=32)),
        "normal 1, elevated 1, stressed 1, halted 11, stressed 10, elevated 10, normal 2",
    ),
    Sign.LAGGING: (
        (Beat(), Beat(lagging=0.34), Beat(lagging=0.67), Beat(lagging=1.0), Beat(times=32)),
        "normal 1, elevated 1, stressed 1, halted 11, stressed 10, elevated 10, normal 2",
    ),
    Sign.REVERTS: (
        (both(0.95), Beat(reverts=True, times=5), both(1.2, 3), Beat(late_s=3_600), Beat(times=33)),
        "normal 4, halted 16, stressed 10, elevated 10, normal 3",
    ),
    Sign.FEEDS_LOST: (
        (Beat(), Beat(silent=True), Beat(silent=False), Beat(times=22)),
        "normal 1, stressed 11, elevated 10, normal 3",
    ),
    Sign.FALSE_ALARMS: (
        (Beat(), *(Beat(fast=share) for share in (0.95, 1.0, 0.95, 1.0)), Beat(times=3)),
        "normal 5, elevated 3",
    ),
    Sign.FLOW: (
        (both(1.0), both(1.6), Beat(times=32)),
        "normal 1, stressed 20, elevated 10, normal 3",
    ),
}
"""By the signs of Morpho Blue. Of false alarms it comes down when later ones are true."""


@pytest.mark.parametrize("sign", Sign)
async def test_the_book_goes_up_at_once_and_comes_down_level_by_level(sign: Sign, tmp_path: Path) -> None:
    stage = Stage(tmp_path / "journal.sqlite", MORPHO)
    stage.desk.limits = Limits(backoff_s=0)
    if sign is Sign.FALSE_ALARMS:
        # Each hangs on three markets, two feeds and the protocol's own, and is one alarm.
        stage.desk.alarms = AlarmParams(least=2)
    if sign is Sign.FLOW:
        stage.desk.depth = {stage.feed_id: Depth(20.0, levels=((0.002, 200.0),))}
    stage.open()
    beats, levels = BOOK[sign]
    assert await stage.stood(beats, stage.level) == levels
    reached = stage.desk.journal._rows("SELECT why FROM levels ORDER BY rowid LIMIT 1")
    assert reached[0]["why"].startswith(sign.value)
    assert await stage.replayed() == []


@pytest.mark.parametrize(
    ("protocol", "due"), [(HYBRID, "Reserved liquidate"), (MORPHO, "Reserved repay")], ids=PROTOCOLS
)
async def test_a_book_that_is_halted_takes_nothing_until_it_no_longer_is(
    protocol: str, due: str, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", protocol)
    stage.open()
    await stage.play([Beat(), both(0.95, lagging=1.0), Beat(times=8, lagging=1.0)])
    assert stage.level() == "halted"
    assert stage.taking() == {}
    assert stage.told().endswith("Refused book.halted")
    await stage.play([Beat(times=11)])
    assert stage.level() == "stressed"
    assert due in stage.told()
    assert await stage.replayed() == []
