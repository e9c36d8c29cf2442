"""When prices and risk arrays are signed and posted."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from keeper.config.values import LISTEN, PeerUrl, Several
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


class Reports(Section):
    """Where ``keeper run`` hears reports, to post them with its own acts."""

    endpoints: Several[PeerUrl] = ()
    deviation_bps: int = Field(default=10, ge=0, le=10_000)
    """How far a signed price must be from a fresh one on chain to be posted with an act."""


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
