"""Margins that a quorum of reporters may move: what the contract allows, to the wei.

Mirrors ``contracts/src/RiskSteward.sol`` and the terms that it may move in ``Instruments.sol``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain import Call, Reason
from keeper.protocols.hybrid.params import Deployment, Ramp, Underlying, ask, ask_all, feed_bytes
from keeper.units import WAD, FeedId, UnixS, Wad

RAMP_MIN_S: Final = 86_400
"""Least duration of a change, up or down."""
RAMP_MAX_S: Final = 90 * 86_400
MAX_AGE_S: Final = 2 * 86_400
"""How old the newest price of an estimate may be when it is posted."""
NOBODY: Final = "0x" + "00" * 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between what a quorum may move an underlying's margins, in the order of the contract's struct."""

    mmr_least_wad: Wad
    mmr_most_wad: Wad
    imr_least_wad: Wad
    imr_most_wad: Wad
    rise_wad: Wad
    """How much of today's value one change may add."""
    fall_wad: Wad
    interval_s: int
    """Least time between two changes."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a quorum may do with one underlying, and when it last did."""

    bounds: Bounds | None
    """None where the owner allows nothing."""
    observed_at_s: UnixS = 0
    changed_at_s: UnixS = 0

    @property
    def earliest_s(self) -> UnixS:
        """When the next change may be."""
        return self.changed_at_s + (self.bounds.interval_s if self.bounds else 0)

    def reach(self, mmr_wad: Wad, imr_wad: Wad) -> tuple[tuple[Wad, Wad], tuple[Wad, Wad]]:
        """Return the least and the most of mmr, and of imr, from today's values (RiskSteward._checkReach)."""
        limits = self.bounds
        assert limits is not None
        return (
            _reach(mmr_wad, limits.mmr_least_wad, limits.mmr_most_wad, limits),
            _reach(imr_wad, limits.imr_least_wad, limits.imr_most_wad, limits),
        )


@dataclass(frozen=True, slots=True)
class MarginChange:
    """What a quorum signs for one underlying."""

    feed: FeedId
    mmr_wad: Wad
    imr_wad: Wad
    duration_s: int
    observed_at_s: UnixS
    """When the newest price was seen that the margins were estimated from."""
    valid_until_s: UnixS

    @property
    def fields(self) -> tuple[bytes, int, int, int, int, int]:
        """The struct ``MarginChange`` of RiskSteward.sol."""
        times = (self.duration_s, self.observed_at_s, self.valid_until_s)
        return (feed_bytes(self.feed), self.mmr_wad, self.imr_wad, *times)


@dataclass(frozen=True, slots=True)
class Stewardship:
    """The contract by which a quorum moves margins, and what it allows."""

    address: str
    allowed: Mapping[FeedId, Allowed]


def read_stewardship(deployment: Deployment) -> Generator[list[Call], list[bytes], Stewardship | None]:
    """Find out, in two rounds of one block, what a quorum may move; None where it may move nothing."""
    (address,) = yield from ask(("Instruments", deployment.instruments, "steward"))
    if address == NOBODY:
        return None
    feeds = tuple(deployment.rules.underlyings)
    answers = yield from ask_all(
        *(("RiskSteward", address, "bounds", feed_bytes(feed)) for feed in feeds),
        *(("RiskSteward", address, "last", feed_bytes(feed)) for feed in feeds),
    )
    told = zip(feeds, answers[: len(feeds)], answers[len(feeds) :], strict=True)
    return Stewardship(
        address,
        {feed: Allowed(Bounds(*limits) if limits[1] else None, *last) for feed, limits, last in told},
    )


def broken_bound(change: MarginChange, allowed: Allowed, terms: Underlying, at_s: UnixS) -> Reason | None:
    """Say which bound of the chain a change breaks at ``at_s``, if any, its signatures apart."""
    checks = (_times, _reaches, _order)
    if allowed.bounds is None:
        return _reason(change, "no_bounds", "the owner allows no change", "bounds by RiskSteward.setBounds")
    return next(filter(None, (check(change, allowed, terms, at_s) for check in checks)), None)


def with_margins(deployment: Deployment, changes: Iterable[MarginChange]) -> Deployment:
    """Return a deployment in which these margins are reached, and all others stand where they end."""
    rules = deployment.rules
    ended = {
        feed: replace(each, mmr=_at_rest(each.mmr.to_wad), imr=_at_rest(each.imr.to_wad))
        for feed, each in rules.underlyings.items()
    }
    for change in changes:
        mmr, imr = _at_rest(change.mmr_wad), _at_rest(change.imr_wad)
        ended[change.feed] = replace(ended[change.feed], mmr=mmr, imr=imr)
    return replace(deployment, rules=replace(rules, underlyings=ended))


def _at_rest(value_wad: Wad) -> Ramp:
    return Ramp(value_wad, value_wad, 0, 0)


def _reach(today_wad: Wad, least_wad: Wad, most_wad: Wad, limits: Bounds) -> tuple[Wad, Wad]:
    lowest = today_wad - today_wad * limits.fall_wad // WAD
    highest = today_wad + today_wad * limits.rise_wad // WAD
    return max(least_wad, lowest), min(most_wad, highest)


def _times(change: MarginChange, allowed: Allowed, terms: Underlying, at_s: UnixS) -> Reason | None:
    del terms
    observed_s, duration_s = change.observed_at_s, change.duration_s
    age_s = at_s - observed_s
    for rule, broken, evidence, bound in (
        ("validity", at_s > change.valid_until_s, f"at {at_s}", f"{change.valid_until_s} or before"),
        ("not_newer", observed_s <= allowed.observed_at_s, f"{observed_s}", f"after {allowed.observed_at_s}"),
        ("age", not 0 <= age_s <= MAX_AGE_S, f"{age_s} s old", f"0 to {MAX_AGE_S} s"),
        ("too_soon", at_s < allowed.earliest_s, f"at {at_s}", f"{allowed.earliest_s} or later"),
        (
            "duration",
            not RAMP_MIN_S <= duration_s <= RAMP_MAX_S,
            f"{duration_s} s",
            f"{RAMP_MIN_S} to {RAMP_MAX_S} s",
        ),
    ):
        if broken:
            return _reason(change, rule, evidence, bound)
    return None


def _reaches(change: MarginChange, allowed: Allowed, terms: Underlying, at_s: UnixS) -> Reason | None:
    reach = allowed.reach(terms.mmr.at(at_s), terms.imr.at(at_s))
    asked = (("mmr", change.mmr_wad), ("imr", change.imr_wad))
    for (name, value_wad), (least_wad, most_wad) in zip(asked, reach, strict=True):
        if not least_wad <= value_wad <= most_wad:
            return _reason(
                change, name, _percent(value_wad), f"{_percent(least_wad)} to {_percent(most_wad)}"
            )
    return None


def _order(change: MarginChange, allowed: Allowed, terms: Underlying, at_s: UnixS) -> Reason | None:
    del allowed, at_s
    short_min_wad = terms.short_min.to_wad
    if change.imr_wad <= change.mmr_wad:
        return _reason(change, "imr", _percent(change.imr_wad), f"above {_percent(change.mmr_wad)}")
    if change.mmr_wad < short_min_wad:
        return _reason(change, "short_min", _percent(change.mmr_wad), f"{_percent(short_min_wad)} or more")
    return None


def _percent(value_wad: Wad) -> str:
    return f"{value_wad / WAD:.4%}"


def _reason(change: MarginChange, rule: str, evidence: str, bound: str) -> Reason:
    return Reason(f"margins.{rule}", evidence, bound, change.feed)
