"""When prices and risk arrays are signed and posted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from keeper.config.values import LISTEN, PathOf, PeerUrl, Several
from keeper.deployments import Section
from keeper.units import FeedId


class Reporter(Section):
    """When ``keeper report-prices`` posts; its keys are in KEEPER_REPORTER_KEYS."""

    deviation_bps: int = Field(default=10, ge=0, le=10_000)
    heartbeat_s: int = Field(default=12, gt=0)
    validity_s: int = Field(default=30, gt=0)
    lead_s: int = Field(default=10, ge=0)
    """How long after a head the price is observed."""
    confidence_bps: int = Field(default=10, ge=0, le=100)
    patience_s: int | None = Field(default=None, gt=0)
    """How long each reporter has its turn; a block by default, and never less."""
    listen: str | None = Field(default=None, pattern=LISTEN)
    """Where its reports are served, as host:port; nowhere without it."""
    peers: Several[PeerUrl] = ()
    """The other reporters; without any it is a quorum of its own."""
    closes: PathOf | None = None
    """Where what its feed says is kept for the steward; nowhere without it."""
    closes_s: int = Field(default=3600, ge=60)
    """How far apart."""


class Reports(Section):
    """Where ``keeper run`` hears reports, to post them with its own acts."""

    endpoints: Several[PeerUrl] = ()
    deviation_bps: int = Field(default=10, ge=0, le=10_000)
    """How far a signed price must be from a fresh one on chain to be posted with an act."""


Part = Annotated[float, Field(gt=0, lt=1)]


class Margins(Section):
    """How ``keeper steward`` estimates margins, from what data it does not, and what it publishes of them."""

    horizon_s: int = Field(default=14_400, gt=0)
    """How long a position may stay open against its owner's will."""
    level: float = Field(default=0.99, ge=0.9, lt=1)
    """Of the expected shortfall."""
    half_life_s: float = Field(default=864_000, gt=0)
    """Of the volatility's memory."""
    stressed_weight: float = Field(default=0.25, ge=0, le=1)
    """Of the highest volatility that the closes show."""
    joint_stress: float = Field(default=0.5, ge=0, le=1)
    """How far correlations are moved towards 1."""
    buffer: float = Field(default=0, ge=0, le=1)
    """Over what is calculated, to be used up before margins rise."""
    least_returns: int = Field(default=500, ge=100)
    max_age_s: int = Field(default=86_400, gt=0, le=172_800)
    """The contract takes no estimate whose last close is older than two days."""
    most_apart: Part = 0.1
    most_error: Part = 0.5
    most_still: int = Field(default=24, gt=0)
    ramp_s: int = Field(default=86_400, ge=86_400, le=7_776_000)
    validity_s: int = Field(default=600, gt=0)
    least_change: float = Field(default=0.05, ge=0, lt=1)
    """Of the margins published last."""
    most_rise: float = Field(default=0.25, gt=0, le=1)
    """In a day."""
    most_swing: float = Field(default=3, gt=1)
    tolerance: Part = 0.1
    """Between the closes of two sources."""
    most_breached: int = Field(default=0, ge=0)


class Steward(Section):
    """When ``keeper report-options`` posts, and at which volatilities; its keys are the reporters' own."""

    deviation_bps: int = Field(default=100, ge=1, le=200)
    """At 200 the contract takes an array for out of date."""
    heartbeat_s: int = Field(default=120, gt=0, lt=600)
    validity_s: int = Field(default=60, gt=0)
    most_arrays: int = Field(default=16, gt=0)
    """In one transaction."""
    vols: dict[FeedId, Annotated[float, Field(gt=0, le=5)]] = Field(default={})
    """Annualised, by feed: one volatility for all its options, or what the estimate starts from."""
    half_life_s: float | None = Field(default=None, gt=0)
    """Of an estimate from the feed's own returns; without it the volatilities stay as they are."""
    margins: Margins = Margins()
