"""What the loop itself needs, protocol and policy apart."""

from __future__ import annotations

from dataclasses import dataclass

from keeper.units import Block

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
    measure_blocks: Block = 10
    """How often it is measured how far the nearest accounts are from breach."""
    vol: float = 0.8
    """Annualised, of every feed: what the volatility is taken for until its prices have shown another."""
