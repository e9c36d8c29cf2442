"""What a desk says of a protocol by both clocks: the chain's own prices, and the fast ones in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from keeper.desk.port import MarginCall
from keeper.domain import Quote, Unknown
from keeper.ports import LendingMarket, PerpMarket
from keeper.remedies import Health, ratio, remedies
from keeper.units import FeedId, Wad

Clocked: TypeAlias = LendingMarket[Any, Any] | PerpMarket[Any, Any]
Pair: TypeAlias = Callable[[Any], tuple[int, int] | None]
"""Reads from what a market makes of an account what that has and needs; None where it is not known."""


def called(
    market: Clocked, exact: Any, worlds: tuple[Any, Any], pair: Pair, buffer_wad: Wad
) -> MarginCall | None:
    """Say what would bring an account's health up to a buffer, at the worse of both clocks.

    None where it is there already, or where either clock does not tell.
    """

    def health_in(world: Any) -> Health:
        return lambda account: pair(market.stand(account, world)) or (0, 1)

    if isinstance(exact, Unknown) or any(pair(market.stand(exact, world)) is None for world in worlds):
        return None
    world = min(worlds, key=lambda each: ratio(health_in(each)(exact)) or 0.0)
    health = health_in(world)
    found = remedies(exact, market.mends(exact, world), health, buffer_wad)
    return None if found is None else MarginCall(ratio(health(exact)), buffer_wad, found)


def divergence(market: Clocked, world: Any, quotes: Mapping[FeedId, Quote | Unknown]) -> float | None:
    """Return how far the fast marks are from the chain's at most, as a share; None where none has both."""
    chain, fast = (market.marks(each, {}, 0) for each in (world, market.fast(world, quotes)))
    widest = None
    for was, now in ((chain.value, fast.value), (chain.gross, fast.gross)):
        both = np.isfinite(was) & np.isfinite(now) & (was != 0)
        if both.any():
            widest = max(widest or 0.0, float(np.abs(now[both] / was[both] - 1).max()))
    return widest
