"""How near accounts are looked at, and on which rungs they and the book stand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Self, TypeAlias

from pydantic import Field, model_validator

from keeper import ladder
from keeper.deployments import Address, Section
from keeper.errors import ConfigError


class Trigger(Section):
    """What is done between the heads, where prices move there, and how near the nearest accounts are."""

    ready: int = Field(default=32, ge=0, le=500)
    """So many accounts nearest to breach have their acts built and simulated after every head."""
    late_ms: float = Field(default=50, gt=0)
    """How late after a tick its suspects may be known before the log warns."""
    rehearse_ms: float = Field(default=0, ge=0, le=1_000)
    """Rest before the way from a tick to its act is gone through for nothing; below 1 none, 0: never."""
    measure_blocks: int = Field(default=10, gt=0)
    """So often the distance of the nearest accounts to breach is measured."""
    vol: float = Field(default=0.8, gt=0, le=5)
    """Annualised: what the volatility of a feed is taken for until its prices have shown another."""
    announced: tuple[Address, ...] = ()
    """Contracts of oracles: behind what is sent to them, and in no block yet, the keeper looks at once."""


class Rung(Section):
    """Below which health, and how near to breach, an account comes to a rung; and when it leaves it."""

    health: float = Field(gt=1, le=10)
    sigmas: float = Field(gt=0, le=100)
    leave_health: float = Field(gt=1, le=20)
    leave_sigmas: float = Field(gt=0, le=200)
    leave_after_s: int = Field(ge=0, le=86_400)

    @model_validator(mode="after")
    def _comes_down_farther_off(self) -> Self:
        if self.leave_health <= self.health or self.leave_sigmas <= self.sigmas:
            raise ValueError("leave_health and leave_sigmas must be more than health and sigmas")
        return self

    def bounds(self) -> ladder.Bounds:
        """Return them as the ladder takes them."""
        return ladder.Bounds(**self.model_dump())


def _rung(bounds: ladder.Bounds) -> Rung:
    return Rung(**asdict(bounds))


def _finite(bounds: ladder.Triple) -> tuple[float, ...]:
    return tuple(bound for bound in bounds if bound != ladder.NEVER)


Triple: TypeAlias = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=3)]


class Tide(Section):
    """At which value of each sign the book is elevated, stressed, halted; with fewer it goes no further."""

    false_alarms: Triple = _finite(ladder.Book().false_alarms)
    reverts: Triple = _finite(ladder.Book().reverts)
    divergence: Triple = _finite(ladder.Book().divergence)
    feeds_lost: Triple = _finite(ladder.Book().feeds_lost)
    head_age: Triple = _finite(ladder.Book().head_age)
    lagging: Triple = _finite(ladder.Book().lagging)
    flow: Triple = _finite(ladder.Book().flow)
    calm: float = Field(default=ladder.Book().calm, gt=0, lt=1)
    """A level is left where every sign is below so much of its bound,"""
    calm_s: int = Field(default=ladder.Book().calm_s, ge=0, le=86_400)
    """for so long."""

    def book(self) -> ladder.Book:
        """Return them as the ladder takes them; raise ConfigError where they do not rise."""
        signs = {}
        for sign in ladder.Sign:
            bounds: tuple[float, ...] = getattr(self, sign)
            if list(bounds) != sorted(bounds):
                raise ConfigError(f"ladder.book.{sign}: expected bounds that rise, found {list(bounds)}")
            first, second, third = (*bounds, *[ladder.NEVER] * 3)[:3]
            signs[sign.value] = (first, second, third)
        return ladder.Book(**signs, calm=self.calm, calm_s=self.calm_s)


class Ladder(Section):
    """The bounds of both ladders; ``keeper ladder`` shows them in force."""

    watch: Rung = Field(default_factory=lambda: _rung(ladder.Climb().watch))
    call: Rung = Field(default_factory=lambda: _rung(ladder.Climb().call))
    most_called: int = Field(default=ladder.Climb().most_called, ge=0, le=1_000_000)
    """Accounts that are called at the same time, the nearest first; 0 calls nobody."""
    book: Tide = Tide()

    @model_validator(mode="after")
    def _calls_whom_it_watches(self) -> Self:
        if self.call.health > self.watch.health or self.call.sigmas > self.watch.sigmas:
            raise ValueError("call must lie within watch, in health and in sigmas")
        return self

    def climb(self) -> ladder.Climb:
        """Return the bounds of the account's ladder."""
        return ladder.Climb(self.watch.bounds(), self.call.bounds(), self.most_called)
