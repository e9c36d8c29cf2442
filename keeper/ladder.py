"""Both ladders as data: of each account, and of the book as a whole; what leads up, and what leads down.

An account's rung up to ``MARGIN_CALL`` is a column of the book, recomputed at every head. From there on it
has a case, and the desk's exact judgement says which rung it is on. Bounds up and down are apart, and down
takes time: who trembles on a bound does not climb and fall at every block.

Health is E over level x M here: 1 is where the trigger suspects, whatever slope or class an account is of.
Sigmas are how far all prices together may move before that, in standard deviations of a day of the feed that
moves most: no price alone can reach it sooner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from keeper.domain import Level, Posture
from keeper.units import WAD, UnixS, Wad

# --- of an account -------------------------------------------------------------------------------


class Rung(IntEnum):
    """How far an account has come; up to ``MARGIN_CALL`` nothing is done that it could feel."""

    NORMAL = 0
    WATCH = 1
    MARGIN_CALL = 2
    SUSPECTED = 3
    CONFIRMED = 4
    DELEVERAGING = 5
    BACKSTOP = 6
    CLOSED = 7

    @property
    def label(self) -> str:
        """Its name as journal, metrics and configuration write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between which bounds an account stands on a rung that is a column of the book."""

    health: float
    """It comes up below this,"""
    sigmas: float
    """and where a breach is nearer than so many;"""
    leave_health: float
    """it comes down at this,"""
    leave_sigmas: float
    """or where a breach is farther than so many,"""
    leave_after_s: int
    """once that has been so for so long."""


@dataclass(frozen=True, slots=True)
class Climb:
    """The bounds of those rungs that have any."""

    watch: Bounds = field(default_factory=lambda: Bounds(1.5, 4.0, 1.6, 5.0, 300))
    call: Bounds = field(default_factory=lambda: Bounds(1.1, 2.0, 1.15, 3.0, 60))
    most_called: int = 2_000
    """Accounts that are called at the same time, the nearest first; 0 calls nobody."""

    @property
    def buffer_wad(self) -> Wad:
        """The health that a margin call asks for."""
        return round(self.call.leave_health * 10**9) * (WAD // 10**9)

    def of(self, rung: Rung) -> Bounds | None:
        """Return the bounds of a rung; None where chain and clocks decide."""
        return {Rung.WATCH: self.watch, Rung.MARGIN_CALL: self.call}.get(rung)


@dataclass(frozen=True, slots=True)
class Row:
    """A rung: what brings an account there, what that changes, and what brings it down."""

    rung: Rung
    up: str
    does: tuple[str, ...]
    down: str


RUNGS: tuple[Row, ...] = (
    Row(Rung.NORMAL, "none of the others holds", ("scored at every head and tick",), "-"),
    Row(
        Rung.WATCH,
        "E/M < {health:g} and breach within {sigmas:g} sigmas",
        (
            "read again within 11 heads where the protocol drifts",
            "first among those whose acts are ready",
        ),
        "E/M >= {leave_health:g} or breach beyond {leave_sigmas:g} sigmas, for {leave_after_s} s",
    ),
    Row(
        Rung.MARGIN_CALL,
        "E/M < {health:g} and breach within {sigmas:g} sigmas",
        ("a case begins", "the deposit or reduction that restores the buffer is told, and by when"),
        "E/M >= {leave_health:g} or breach beyond {leave_sigmas:g} sigmas, for {leave_after_s} s",
    ),
    Row(
        Rung.SUSPECTED,
        "the trigger cannot clear it, or one clock shows a breach",
        ("judged by exact integers at every head", "flag raised, where the protocol has one", "alert"),
        "neither clock shows a breach: called where the buffer is not back, else closed",
    ),
    Row(
        Rung.CONFIRMED,
        "both clocks agree, or the protocol says so",
        ("what the plan allows is taken, slice by slice", "alert"),
        "as suspected",
    ),
    Row(
        Rung.DELEVERAGING,
        "a step of ours that takes something was included",
        ("the next slice is judged on fresh state", "alert"),
        "as suspected",
    ),
    Row(
        Rung.BACKSTOP,
        "equity is gone: E <= 0, or collateral below debt",
        ("insurance pays who takes over, or bad debt is written off", "alert"),
        "as suspected",
    ),
    Row(Rung.CLOSED, "healthy with its buffer, or nothing is left", ("recovery notice",), "a new case"),
)


def shown(*, agreed: bool, taken: bool, solvent: bool) -> Rung:
    """Return the rung of an account that is suspected, by what chain and clocks show of it."""
    if not solvent:
        return Rung.BACKSTOP
    if taken:
        return Rung.DELEVERAGING
    return Rung.CONFIRMED if agreed else Rung.SUSPECTED


# --- of the book ---------------------------------------------------------------------------------


class Sign(StrEnum):
    """What speaks of the state of the keeper and its world."""

    FALSE_ALARMS = "false_alarms"
    REVERTS = "reverts"
    DIVERGENCE = "divergence"
    FEEDS_LOST = "feeds_lost"
    HEAD_AGE = "head_age"
    LAGGING = "lagging"
    FLOW = "flow"


MEANS: Mapping[Sign, str] = {
    Sign.FALSE_ALARMS: "share of the last alarms that the chain's clock never supported",
    Sign.REVERTS: "share of the last own steps that take something which reverted; alarms may, and cost gas",
    Sign.DIVERGENCE: "widest distance of a fast price from the chain's, as a share",
    Sign.FEEDS_LOST: "share of feeds without a fast price",
    Sign.HEAD_AGE: "block times that the newest head came after the one before",
    Sign.LAGGING: "share of endpoints that are behind, or out of service",
    Sign.FLOW: "liquidations expected at a further fall of prices by flow_fall, over what a minute takes",
}

Triple = tuple[float, float, float]
"""At which value of a sign the book is ELEVATED, STRESSED, HALTED; inf where a sign does not lead there."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Book:
    """The bounds of the book's ladder."""

    false_alarms: Triple = (0.9, NEVER, NEVER)
    reverts: Triple = (0.25, 0.5, 0.9)
    divergence: Triple = (0.2, 0.35, NEVER)
    feeds_lost: Triple = (0.01, 0.5, NEVER)
    head_age: Triple = (5.0, 25.0, 100.0)
    lagging: Triple = (0.34, 0.67, 1.0)
    flow: Triple = (0.5, 1.0, NEVER)
    calm: float = 0.8
    """It comes down where every sign is below so much of the bound,"""
    calm_s: int = 120
    """and has been for so long; one level at a time."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a level changes in every decision."""

    caution: int
    """So many presets is every confirmation slower."""
    pace: float
    """Of what a step could take, so much."""
    does: str


EFFECTS: Mapping[Level, Effect] = {
    Level.NORMAL: Effect(0, 1.0, "as configured"),
    Level.ELEVATED: Effect(1, 1.0, "confirmations a preset slower"),
    Level.STRESSED: Effect(2, 0.5, "confirmations two presets slower, steps half as large"),
    Level.HALTED: Effect(2, 0.0, "nothing is taken of any account; alarms, upkeep and cures go on"),
}


@dataclass(frozen=True, slots=True)
class Stand:
    """Where the book stands on its ladder, and what put it there."""

    level: Level = Level.NORMAL
    calm_since_s: UnixS | None = None
    """Since when every sign has been below the bound of the level, with the slack; None while one is not."""
    why: str = ""


def step(stand: Stand, signs: Mapping[Sign, float], at_s: UnixS, book: Book) -> Stand:
    """Return where the book stands by the signs of a head: up at once, down a level after a calm time.

    A sign that is not known is left out: what has to be known says so by a sign of its own.
    """
    reached = {sign: _reached(getattr(book, sign), value) for sign, value in signs.items()}
    top = max(reached.values(), default=Level.NORMAL)
    if top > stand.level:
        return Stand(top, None, _why(top, reached, signs, book))
    if stand.level is Level.NORMAL:
        return Stand()
    if any(value >= getattr(book, sign)[stand.level - 1] * book.calm for sign, value in signs.items()):
        return Stand(stand.level, None, stand.why)
    since_s = at_s if stand.calm_since_s is None else stand.calm_since_s
    if at_s - since_s < book.calm_s:
        return Stand(stand.level, since_s, stand.why)
    below = Level(stand.level - 1)
    # One level at a time, and a calm time for each: what set it off may only have paused.
    return Stand(below, at_s if below else None, f"calm for {at_s - since_s} s" if below else "")


def posture(level: Level, pace: float = 1.0) -> Posture:
    """Return what a level changes in decisions; ``pace`` is what the expected flow leaves of it."""
    effect = EFFECTS[level]
    return Posture(level, effect.caution, int(min(effect.pace, pace) * WAD))


def _reached(bounds: Triple, value: float) -> Level:
    return Level(sum(value >= bound for bound in bounds))


def _why(top: Level, reached: Mapping[Sign, Level], signs: Mapping[Sign, float], book: Book) -> str:
    worst = [sign for sign, level in reached.items() if level is top]
    return ", ".join(f"{sign} {signs[sign]:.4g}, bound {getattr(book, sign)[top - 1]:g}" for sign in worst)


# --- as tables -----------------------------------------------------------------------------------


def told(climb: Climb, book: Book) -> dict[str, list[dict[str, Any]]]:
    """Return both ladders with the bounds in force, as plain values."""
    return {
        "account": [
            {
                "rung": row.rung.label,
                "up": _filled(row.up, climb.of(row.rung)),
                "does": list(row.does),
                "down": _filled(row.down, climb.of(row.rung)),
            }
            for row in RUNGS
        ],
        "book": [
            {
                "level": level.name.lower(),
                "up": {
                    sign.value: bound
                    for sign in Sign
                    if level and (bound := getattr(book, sign)[level - 1]) != NEVER
                },
                "caution": EFFECTS[level].caution,
                "pace": EFFECTS[level].pace,
                "does": EFFECTS[level].does,
                "down": f"every sign below {book.calm:g} of its bound for {book.calm_s} s" if level else "-",
            }
            for level in Level
        ],
        "signs": [{"sign": sign.value, "means": MEANS[sign]} for sign in Sign],
    }


def markdown(climb: Climb, book: Book) -> str:
    """Draw both ladders as tables, for ``docs/escalation.md``."""
    found = told(climb, book)
    accounts = [
        [each["rung"], each["up"], "; ".join(each["does"]), each["down"]] for each in found["account"]
    ]
    levels = [[plain(each[key]) for key in ("level", "up", "does", "down")] for each in found["book"]]
    signs = [[each["sign"], each["means"]] for each in found["signs"]]
    return "\n\n".join(
        (
            _table(("rung", "up where", "what it does", "down where"), accounts),
            _table(("level", "up where one sign is at least", "what it does", "down where"), levels),
            _table(("sign", "what it is"), signs),
        )
    )


def plain(value: object) -> str:
    """Write one of those values for people."""
    if isinstance(value, Mapping):
        return _bounds(value)
    return "; ".join(value) if isinstance(value, list) else str(value)


def _bounds(up: Mapping[str, float]) -> str:
    return ", ".join(f"{sign} {bound:g}" for sign, bound in up.items()) or "-"


def _filled(text: str, bounds: Bounds | None) -> str:
    return text.format(**asdict(bounds)) if bounds else text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
