"""What the loop itself needs, protocol and policy apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keeper.ladder import Book, Climb
from keeper.pipeline.alarms import Params as Alarms
from keeper.risk.liquidity import Depth
from keeper.state.part import WHOLE, Part
from keeper.units import Block, FeedId

PAGE = 200
"""Accounts per bulk read, at most."""


@dataclass(frozen=True, slots=True)
class Params:
    """What the loop itself needs."""

    block_time_s: int = 12
    dry_run: bool = False
    page: int = PAGE
    """Accounts per bulk read: fewer where a row takes much gas."""
    check_blocks: Block = 10
    """How often accounts are read again to check the mirror."""
    check_rows: int = PAGE
    """How many of them."""
    ready: int = 32
    """Accounts nearest to breach whose acts are kept built and simulated while prices tick between heads."""
    late_ms: float = 50.0
    """How late suspects may be known after a tick arrived before the log warns."""
    rehearse_ms: float = 0.0
    """The rest between rehearsals of the way from a tick to its act; below 1: none; at 0 no rehearsals."""
    measure_blocks: Block = 10
    """How often it is measured how far the nearest accounts are from breach."""
    alarms: Alarms = field(default_factory=Alarms)
    vol: float = 0.8
    """Annualised, of every feed: what the volatility is taken for until its prices have shown another."""
    depth: Mapping[FeedId, Depth] = field(default_factory=dict)
    """How deep the market of each feed is, as far as it is known."""
    flow_fall: float = 0.05
    """The further fall of all prices at which the book's liquidations are measured."""
    batch: int = 1
    """The most acts in one transaction, where the protocol has a contract for that."""
    climb: Climb = field(default_factory=Climb)
    """The bounds of every account's ladder,"""
    tide: Book = field(default_factory=Book)
    """and of the book's."""
    scope: str = ""
    """The markets whose accounts are searched for, between spaces; empty where that is all of them."""
    part: Part = WHOLE
    """The accounts that are kept; of all others nothing is read."""
