"""The moment that decisions are made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keeper.domain import ChainTime, Head, Quote, Unknown
from keeper.units import AccountKey, FeedId


@dataclass(frozen=True, slots=True)
class Moment:
    """What decisions go by: a head, the block that comes next, and the fast prices then or later."""

    head: Head
    at: ChainTime
    quotes: Mapping[FeedId, Quote | Unknown]
    suspects: Mapping[AccountKey, str]
    """Why each is one, the worst first; after a head only those whom prices have made suspect since."""
    heard_ns: int
    """``time.monotonic_ns`` when head or tick arrived."""
    is_tick: bool = False
