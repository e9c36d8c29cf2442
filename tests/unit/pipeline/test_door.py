"""What is watched over the door, and what people hear of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from keeper.domain import Head, Quote, Unknown
from keeper.pipeline.door import Door
from keeper.ports import Notice, Switch, Thrown
from keeper.units import WAD

ETH = "ETH/USD"
HALTED = Thrown(Switch.HALT, "", "SIGUSR1", "", 0)
FOREIGN = Thrown(Switch.FOREIGN, "", "rule", "nonce 4 is used and was not given out", 0)
PAUSED = Thrown(Switch.PAUSE, ETH, "command of user 7", "delisted", 0)
JUMPED = Thrown(Switch.JUMP, ETH, "rule", "0.6, bound 0.5", 0, 600)


class Kept:
    """A journal that keeps the figures, and a teller that keeps the notices."""

    def __init__(self) -> None:
        self.figures: list[Mapping[tuple[Switch, str], float]] = []
        self.thrown: tuple[Thrown, ...] = ()
        self.told: list[tuple[str, bool]] = []

    def watch(self, figures: Mapping[tuple[Switch, str], float], at_s: int) -> tuple[Thrown, ...]:
        del at_s
        self.figures.append(figures)
        return self.thrown

    def tell(self, notice: Notice) -> None:
        self.told.append((notice.text, notice.recovered))


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def door(kept: Kept) -> Door:
    both: Any = kept
    return Door(journal=both, alerts=both)


def head(at_s: int) -> Head:
    return Head(at_s // 12, "0x", "0x", at_s, 1)


MOVES = {
    "the farthest of the last minute counts": ([(0, 100), (12, 80), (24, 120)], 0.5),
    "a fall counts as a rise does": ([(0, 100), (12, 60)], 0.4),
    "what is older than a minute does not": ([(0, 100), (12, 150), (72, 150)], 0.0),
    "no price is no move": ([(0, 100), (12, 0)], None),
    "nor is the first one after it": ([(0, 0), (12, 100)], 0.0),
}


@pytest.mark.parametrize(("prices", "jump"), MOVES.values(), ids=MOVES)
def test_a_jump_is_held_against_the_breaker(
    door: Door, kept: Kept, prices: list[tuple[int, int]], jump: float | None
) -> None:
    for at_s, price in prices:
        door.look(head(at_s), {ETH: Quote(ETH, price * WAD, at_s), "BTC/USD": Unknown("BTC/USD", "no")}, None)
    found = kept.figures[-1]
    assert found == ({} if jump is None else {(Switch.JUMP, ETH): pytest.approx(jump)})


def test_the_distance_of_prices_is_held_against_the_breaker(door: Door, kept: Kept) -> None:
    door.look(head(0), {}, 0.25)
    assert kept.figures == [{(Switch.DIVERGENCE, ""): 0.25}]


def test_each_change_is_told_once_and_its_end_too(door: Door, kept: Kept) -> None:
    stands: list[tuple[Thrown, ...]] = [(), (HALTED,), (HALTED, PAUSED, JUMPED), (), ()]
    for number, thrown in enumerate(stands):
        kept.thrown = thrown
        door.look(head(12 * number), {}, None)
        assert door.thrown == thrown
    assert kept.told == [
        ("wallet halted by SIGUSR1", False),
        ("market ETH/USD paused by command of user 7: delisted", False),
        ("breaker jump ETH/USD tripped by rule: 0.6, bound 0.5", False),
        ("wallet resumed", True),
        ("market ETH/USD unpaused", True),
        ("breaker jump ETH/USD closed", True),
    ]


def test_that_the_key_is_trusted_again_is_not_told_as_the_end_of_a_halt(door: Door, kept: Kept) -> None:
    for number, thrown in enumerate([(HALTED, FOREIGN), (HALTED,), ()]):
        kept.thrown = thrown
        door.look(head(12 * number), {}, None)
    assert kept.told == [
        ("wallet halted by SIGUSR1", False),
        ("key of the wallet distrusted by rule: nonce 4 is used and was not given out", False),
        ("key of the wallet trusted", True),
        ("wallet resumed", True),
    ]
