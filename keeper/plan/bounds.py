"""How much of what the contract allows the keeper takes: what each bound leaves, and which of them bind.

A part is a fraction of all that could be taken now, WAD, rounded down. What the contract allows, and what the
keeper's own margin bears, each kind of plan knows for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keeper.domain import Reason, Valuation
from keeper.risk.liquidity import Depth
from keeper.units import WAD, FeedId, Wad, mul_div_down

ROUNDING = 10**6
"""Of 1e18: how far health may seem to fall by rounding alone."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A part, and why it is no larger."""

    part_wad: Wad
    reason: Reason


def of_market(
    whole_wad: Mapping[FeedId, Wad],
    depth: Mapping[FeedId, Depth],
    *,
    moved_wad: Mapping[FeedId, Wad],
    held_wad: Mapping[FeedId, Wad],
) -> list[Bound]:
    """Return what depth and inventory leave of each feed.

    ``whole_wad`` is what the keeper would have more if it took all, below 0 for what it would be short;
    ``held_wad`` what it has. ``moved_wad`` is what it took within the last minute: a market recovers, and
    what all accounts together give it meanwhile is to cost no more than `Depth.most_bps`.
    """
    found = []
    for feed, wad in whole_wad.items():
        if wad and feed in depth:
            found += [_depth(feed, wad, depth[feed], moved_wad.get(feed, 0))]
            found += _inventory(feed, wad, depth[feed], held_wad.get(feed, 0))
    return [each for each in found if each.part_wad < WAD]


def of_pace(pace_wad: Wad, permitted_wad: Wad, smallest_wad: Wad = 0) -> list[Bound]:
    """Return the share that the pace takes of a permitted part, and no less than the contract's smallest."""
    if pace_wad >= WAD:
        return []
    part_wad = max(mul_div_down(permitted_wad, pace_wad, WAD), min(smallest_wad, permitted_wad))
    return [Bound(part_wad, Reason("size.pace", f"a pace of {pace_wad / WAD:.4f}", "of what is permitted"))]


def binding(bounds: Sequence[Bound], permitted_wad: Wad) -> tuple[Bound, ...]:
    """Return the bounds that are tighter than what is permitted, the tightest first."""
    tight = [each for each in bounds if each.part_wad < permitted_wad]
    return tuple(sorted(tight, key=lambda each: (each.part_wad, each.reason.rule, each.reason.evidence)))


def taken(takes: Mapping[FeedId, Wad], held_wad: Mapping[FeedId, Wad], depth: Mapping[FeedId, Depth]) -> Wad:
    """Return what it is expected to cost to sell what a step takes: what selling all costs more, at least 0.

    All of a feed that the keeper has is sold in one go; what the step takes the other way makes that less.
    """
    return sum(
        max(0, depth[feed].cost_wad(abs(held_wad.get(feed, 0) + wad)) - _cost(depth[feed], held_wad, feed))
        for feed, wad in takes.items()
        if feed in depth
    )


def harms(before: Valuation, after: Valuation) -> Reason | None:
    """Tell whether closing a part leaves an account with equity less healthy than before.

    The fee then eats more than the requirement falls. What closes all, and what has no equity left, is not
    asked: there is no health that it could cost.
    """
    if before.equity_wad <= 0 or after.requirement_wad == 0:
        return None
    health = before.equity_wad * after.requirement_wad * (WAD - ROUNDING)
    if after.equity_wad * before.requirement_wad * WAD >= health:
        return None
    now, then = (each.equity_wad / each.requirement_wad for each in (before, after))
    return Reason("size.harm", f"health {then:.6f} after the step", f">= {now:.6f}, as before")


def _cost(depth: Depth, held_wad: Mapping[FeedId, Wad], feed: FeedId) -> Wad:
    return depth.cost_wad(abs(held_wad.get(feed, 0)))


def _depth(feed: FeedId, wad: Wad, depth: Depth, moved_wad: Wad) -> Bound:
    most_wad = depth.most_wad
    room_wad = max(0, most_wad - moved_wad)
    found = f"{feed}: {abs(wad) / WAD:.2f}, and {moved_wad / WAD:.2f} taken within a minute"
    bound = f"{most_wad / WAD:.2f}, sold at {depth.most_bps:g} bps"
    return Bound(_part(room_wad, wad), Reason("size.depth", found, bound))


def _inventory(feed: FeedId, wad: Wad, depth: Depth, held_wad: Wad) -> list[Bound]:
    """Return what the limit leaves: what is taken the other way makes room first."""
    limit_wad = depth.inventory_wad
    if limit_wad is None:
        return []
    room_wad = max(0, limit_wad - (held_wad if wad > 0 else -held_wad))
    found = f"{feed}: {wad / WAD:.2f}, and {held_wad / WAD:.2f} held"
    return [Bound(_part(room_wad, wad), Reason("size.inventory", found, f"{limit_wad / WAD:.2f}"))]


def _part(room_wad: Wad, wad: Wad) -> Wad:
    return min(WAD, mul_div_down(room_wad, WAD, abs(wad)))
