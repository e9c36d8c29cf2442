"""Rounds: one story each, through which keepers live and die until it is over; and what was found."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keeper.errors import ChainFault
from tests.kills.audit import after_death, at_the_end
from tests.kills.life import BATCHING, PLENTY, Keeper, Line, begin
from tests.kills.stores import Store
from tests.kills.world import Ended, World

MOST_DEATHS = 12
"""After so many the next keeper of a round lives to its end."""
ANYWHERE = 20
"""So many first keepers of a story die anywhere, beside those that die at a place of each kind."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen in one round."""

    seed: int
    """Of the story."""
    round: int
    first: int | None
    """The place at which the first keeper dies."""
    waits: bool
    """Whether the chain stands still while no keeper lives."""


@dataclass
class Found:
    """What came of a round."""

    plan: Plan
    deaths: list[str] = field(default_factory=list)
    """Where keepers died, in order."""
    passed: list[str] = field(default_factory=list)
    """What the last keeper came by."""
    missed: int = 0
    """Blocks that came while no keeper lived."""
    sent: int = 0
    wrong: list[str] = field(default_factory=list)
    ended: Ended = field(default_factory=Ended)


def play(plan: Plan, store: Store, keeper: Keeper) -> Found:
    """Play one round."""
    found, world = Found(plan), World(plan.seed)
    chance = random.Random(f"{plan.seed} {plan.round} deaths")
    die_at = plan.first
    with TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name) / "keeper"
        folder.mkdir()
        while not found.wrong:
            life = len(found.deaths)
            last_words = _one_life(world, store, keeper, folder, die_at, f"{plan.seed} {plan.round} {life}")
            if last_words[0] == "died":
                store.strike(folder, chance)
            left = store.left(folder, Path(name) / f"left-{life}")
            match last_words:
                case ("done", passed):
                    found.passed = passed
                    found.wrong += at_the_end(left, world.ledger, keeper.limits)
                    break
                case ("died", place):
                    found.deaths.append(place)
                    found.wrong += after_death(left, world.ledger, keeper.limits)
                case (_, why):
                    found.wrong.append(f"the keeper failed: {why}")
            die_at = _next_death(chance) if life < MOST_DEATHS else None
            if not plan.waits:
                found.missed += _let_pass(world, chance)
    found.sent, found.ended = len(world.ledger.handed), world.ended()
    return found


def _next_death(chance: random.Random) -> int | None:
    """Draw where the next keeper dies: soon, while it takes up what was left, later, or nowhere."""
    soon, later = chance.randint(1, 60), chance.randint(1, 300)
    return chance.choice([soon, soon, later, later, None])


def _let_pass(world: World, chance: random.Random) -> int:
    """Let blocks come while no keeper lives, none of those at the end: in these all is to be made good."""
    blocks = chance.choice([0, 0, 1, 2, 4])
    for passed in range(blocks):
        if world.is_quiet:
            return passed
        world.go_on()
    return blocks


def _one_life(
    world: World, store: Store, keeper: Keeper, folder: Path, die_at: int | None, seed: str
) -> tuple[Any, ...]:
    """Answer one keeper until it is gone; return its last words."""
    process, end = begin(store, keeper, folder, die_at, seed)
    line = Line(end)
    last: tuple[Any, ...] = ("failed", "it said nothing")
    while (said := line.hear()) is not None:
        if said[0] in {"died", "done", "failed"}:
            last = said
            continue
        try:
            line.say(world.answer(*said))
        except ChainFault as fault:
            line.say(fault)
    end.close()
    _, status = os.waitpid(process, 0)
    was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert was_killed == (last[0] == "died"), f"{last} and then {status}"
    return last


# --- many of them ----------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of many rounds."""

    rounds: int = 0
    kills: int = 0
    missed: int = 0
    sent: int = 0
    places: Counter[str] = field(default_factory=Counter)
    """How often a keeper died where."""
    known: set[str] = field(default_factory=set)
    """Where one can die in a life without kills."""
    wrong: list[str] = field(default_factory=list)


def play_all(seed: int, kills: int, store: Store, keepers: Sequence[Keeper]) -> Iterator[Report]:
    """Play rounds until so many keepers were killed; yield what was found so far after each of them.

    Each story is first played without kills, by one of the keepers in turn: so it is known where a first
    keeper can die, and how all ends. Every other round of it the chain waits for whoever was killed.
    """
    report = Report()
    for story in count(seed):
        keeper = keepers[story % len(keepers)]
        calm = play(Plan(story, 0, None, waits=True), store, keeper)
        yield _noted(report, calm, [])
        for number, place in enumerate(_places(calm.passed, story), 1):
            if report.kills >= kills:
                return
            found = play(Plan(story, number, place, waits=bool(number % 2)), store, keeper)
            yield _noted(report, found, _otherwise(calm, found, keeper))


def _places(passed: Sequence[str], story: int) -> list[int]:
    """Choose where first keepers die: once at every kind of place, and anywhere."""
    chance = random.Random(f"{story} places")
    by_kind: dict[str, list[int]] = {}
    for number, place in enumerate(passed, 1):
        by_kind.setdefault(place, []).append(number)
    chosen = [chance.choice(numbers) for numbers in by_kind.values()]
    chosen += [chance.randint(1, len(passed)) for _ in range(ANYWHERE)]
    chance.shuffle(chosen)
    return chosen


def _otherwise(calm: Found, found: Found, keeper: Keeper) -> list[str]:
    """Say what ended otherwise than without kills.

    Where the chain waited for whoever was killed, that is anything: the same acts in the same blocks, the
    same integers in every account. Where blocks were missed, later acts take other amounts; then it is an
    account that is not safe again, unless limits are what keeps it from that.
    """
    if found.wrong:
        return []
    if found.plan.waits:
        same = found.ended == calm.ended
        return [] if same else [f"ended as {found.ended.acts}, and without kills as {calm.ended.acts}"]
    is_free = any(keeper is each for each in (PLENTY, BATCHING))
    left = found.ended.cared_for - calm.ended.cared_for if is_free else ()
    return [f"{account.hex()[:4]} is not safe at the end" for account in left]


def _noted(report: Report, found: Found, otherwise: Sequence[str]) -> Report:
    report.rounds += 1
    report.kills += len(found.deaths)
    report.missed += found.missed
    report.sent += found.sent
    report.places.update(found.deaths)
    report.known.update(() if found.deaths else found.passed)
    plan = found.plan
    where = f"seed {plan.seed}, round {plan.round}, killed {', then '.join(found.deaths) or 'nowhere'}"
    report.wrong += [f"{where}: {each}" for each in (*found.wrong, *otherwise)]
    return report
