"""What may be spent, what is bid, and who is handed a transaction."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from keeper.config.values import AccountName, HttpUrl, PathOf, Several, as_key
from keeper.deployments import Address, Section
from keeper.execute.transports import Via
from keeper.journal.guard import BREAKER_BOUNDS
from keeper.ports import Switch
from keeper.units import FeedId


class MarketLimits(Section):
    """What may be taken of one market; quote amounts."""

    notional_day: Decimal | None = Field(default=None, ge=0)
    inventory: Decimal | None = Field(default=None, ge=0)
    """Taken over and not sold."""


class Breakers(Section):
    """At which figure each breaker trips, 0 for never; and for how long it holds."""

    reverts: float = Field(default=BREAKER_BOUNDS[Switch.REVERTS], ge=0, le=1)
    """Share of the last own steps of an hour that take something."""
    drift: int = Field(default=int(BREAKER_BOUNDS[Switch.DRIFT]), ge=0)
    """Accounts found otherwise than in the mirror since all were found the same."""
    jump: float = Field(default=BREAKER_BOUNDS[Switch.JUMP], ge=0, le=10)
    """Move of a fast price within a minute, as a share."""
    divergence: float = Field(default=BREAKER_BOUNDS[Switch.DIVERGENCE], ge=0, le=10)
    """Widest distance of a fast price from the chain's, as a share."""
    rest_s: int = Field(default=600, ge=1, le=86_400)

    def bounds(self) -> dict[str, float]:
        """Return the bounds of those that trip at all."""
        named = self.model_dump(exclude={"rest_s"})
        return {name: float(bound) for name, bound in named.items() if bound}


class Spending(Section):
    """The limits that every Permit is checked against."""

    halted: bool = False
    kill_file: PathOf = Path("keeper.halt")
    """As long as it exists, nothing new is permitted."""
    spend_hour_native: Decimal | None = Field(default=None, ge=0)
    spend_day_native: Decimal = Field(default=Decimal("0.5"), ge=0)
    wallet_floor_native: Decimal = Field(default=Decimal(0), ge=0)
    """What the wallet must have left once all in flight has cost its most."""
    loss_hour: Decimal | None = Field(default=None, ge=0)
    loss_day: Decimal | None = Field(default=None, ge=0)
    notional_block: Decimal = Field(default=Decimal(10_000_000), ge=0)
    notional_hour: Decimal | None = Field(default=None, ge=0)
    attempts_hour: int = Field(default=60, ge=1)
    backoff_s: int = Field(default=30, ge=0, le=3_600)
    """Pause of an account after a revert, twice as long after each further one in a row,"""
    backoff_max_s: int = Field(default=1_800, ge=0, le=86_400)
    """up to this."""
    accounts_allow: tuple[AccountName, ...] = ()
    accounts_deny: tuple[AccountName, ...] = ()
    markets_allow: tuple[FeedId, ...] = ()
    markets_deny: tuple[FeedId, ...] = ()
    markets: dict[Annotated[FeedId, AfterValidator(as_key)], MarketLimits] = Field(default={})
    """By feed, or by token where tokens are seized; ``*`` for all that are not named."""
    breakers: Breakers = Breakers()
    priority_fee_gwei: Decimal = Field(default=Decimal(1), ge=0, le=10_000)
    max_fee_gwei: Decimal = Field(default=Decimal(500), ge=Decimal("0.001"), le=1_000_000)


class Send(Section):
    """What is bid, and how long is waited (docs/sending.md); and who is handed it (docs/transports.md)."""

    tip_percentile: int = Field(default=50, ge=0, le=100)
    """Which of the tips that others paid of late is bid, where it is more than ``priority_fee_gwei``."""
    max_priority_fee_gwei: Decimal = Field(default=Decimal(50), ge=0, le=10_000)
    full_blocks: int = Field(default=6, ge=1, le=24)
    """How many full blocks in a row a first bid outlasts at most."""
    raise_after_blocks: int = Field(default=2, ge=1, le=1_000)
    """A transaction that is next in line and waits for so long is outbid, or cancelled when late."""
    in_flight: int = Field(default=16, ge=1, le=1_000)
    """Transactions of the wallet that wait at the same time."""
    batch: int = Field(default=1, ge=1, le=64)
    """Acts in one transaction, at the most, where the protocol has a contract for that."""
    foreign: Literal["stop", "warn"] = "stop"
    """What another program does that uses the wallet's key: no new steps, or words only."""
    via: Annotated[Several[Via], Field(min_length=1)] = (Via.PUBLIC,)
    """One after the other; each but the last has a transaction to itself for a while."""
    private_blocks: int = Field(default=3, ge=1, le=25)
    """So long."""
    relay: HttpUrl | None = None
    """Of ``bundle``, ``private`` and ``auction``; its key is in KEEPER_RELAY_KEY."""
    relay_ms: int = Field(default=1_000, ge=50, le=10_000)
    """How long it may take to answer."""
    hints: HttpUrl | None = None
    """The stream of ``auction``."""
    oracles: Several[Address] = ()
    """Whose pending updates are followed there."""

    @model_validator(mode="after")
    def _can_send(self) -> Self:
        if len(set(self.via)) != len(self.via):
            raise ValueError("via names each transport once")
        if self.via[-1] is Via.AUCTION:
            raise ValueError("via cannot end with auction: it takes nothing while no update is pending")
        if self.relay is None and set(self.via) != {Via.PUBLIC}:
            raise ValueError("bundle, private and auction need send.relay")
        if Via.AUCTION in self.via and (self.hints is None or not self.oracles):
            raise ValueError("auction needs send.hints and send.oracles")
        return self
