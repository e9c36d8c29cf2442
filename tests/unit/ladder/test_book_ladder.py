"""The book's ladder as a table: every sign up and down every level, and what holds it there."""

import pytest

from keeper.domain import Level
from keeper.ladder import EFFECTS, NEVER, Book, Sign, Stand, posture, step
from keeper.units import WAD

BOOK = Book()
BOUNDS = [
    (sign, level, getattr(BOOK, sign)[level - 1])
    for sign in Sign
    for level in list(Level)[1:]
    if getattr(BOOK, sign)[level - 1] != NEVER
]


@pytest.mark.parametrize(("sign", "level", "bound"), BOUNDS)
def test_a_sign_leads_up_at_its_bound_and_says_so(sign: Sign, level: Level, bound: float) -> None:
    found = step(Stand(), {sign: bound}, 1_000, BOOK)
    assert found.level is level
    assert found.why == f"{sign} {bound:.4g}, bound {bound:g}"
    assert step(Stand(), {sign: bound * 0.999}, 1_000, BOOK).level == level - 1


@pytest.mark.parametrize(("sign", "level", "bound"), BOUNDS)
def test_a_level_is_left_below_the_slack_after_a_calm_time(sign: Sign, level: Level, bound: float) -> None:
    stand = step(Stand(), {sign: bound}, 1_000, BOOK)
    assert step(stand, {sign: bound * BOOK.calm}, 9_000, BOOK) == stand
    calm = step(stand, {sign: bound * BOOK.calm * 0.999}, 1_010, BOOK)
    assert (calm.level, calm.calm_since_s) == (level, 1_010)
    still = step(calm, {sign: 0.0}, 1_010 + BOOK.calm_s - 1, BOOK)
    assert still.level is level
    assert step(still, {sign: 0.0}, 1_010 + BOOK.calm_s, BOOK).level == level - 1


def test_a_restless_sign_begins_the_calm_time_anew() -> None:
    stand = step(Stand(), {Sign.REVERTS: 0.5}, 1_000, BOOK)
    calm = step(stand, {Sign.REVERTS: 0.0}, 1_010, BOOK)
    restless = step(calm, {Sign.REVERTS: 0.45}, 1_100, BOOK)
    assert restless.calm_since_s is None
    assert step(restless, {Sign.REVERTS: 0.0}, 1_140, BOOK).level is Level.STRESSED


def test_it_comes_down_a_level_at_a_time() -> None:
    stand = step(Stand(), {Sign.HEAD_AGE: 150.0}, 0, BOOK)
    seen: list[tuple[int, Level]] = []
    for at_s in range(12, 12 * 60, 12):
        stand = step(stand, {Sign.HEAD_AGE: 1.0}, at_s, BOOK)
        if not seen or seen[-1][1] is not stand.level:
            seen.append((at_s, stand.level))
    assert seen == [
        (12, Level.HALTED),
        (132, Level.STRESSED),
        (252, Level.ELEVATED),
        (372, Level.NORMAL),
    ]
    assert stand == Stand()


def test_the_worst_sign_decides_and_an_unknown_one_says_nothing() -> None:
    signs = {Sign.REVERTS: 0.3, Sign.DIVERGENCE: 0.4}
    assert step(Stand(), signs, 0, BOOK).level is Level.STRESSED
    assert step(Stand(), {}, 0, BOOK) == Stand()


@pytest.mark.parametrize("level", Level)
def test_a_level_never_asks_for_less_or_takes_more_than_the_one_below(level: Level) -> None:
    found = posture(level)
    assert (found.level, found.caution) == (level, EFFECTS[level].caution)
    if level:
        below = posture(Level(level - 1))
        assert found.caution >= below.caution
        assert found.pace_wad <= below.pace_wad


def test_the_flow_expected_slows_what_a_level_leaves() -> None:
    assert posture(Level.NORMAL, 0.25).pace_wad == WAD // 4
    assert posture(Level.HALTED, 0.25).pace_wad == 0
