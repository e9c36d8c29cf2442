"""What a keeper asks of the evidence before it takes anything of an account, as policies with names; pure.

A policy is a set of bounds. Three of them are presets, from the fastest to the most cautious; an operator
changes single fields, and gives another policy to a feed. What hangs on several feeds is asked for all that
any of their policies asks. The conditions of a contract are the floor under every one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import reduce
from typing import Final

from keeper.domain import Posture
from keeper.units import WAD, Bps, FeedId, Wad


class Divergence(StrEnum):
    """What is done where two prices of a feed are further apart than a policy allows; the strictest last."""

    WAIT = "wait"
    """Ask again at the next block."""
    REFUSE = "refuse"
    """Refuse, for as long as they are."""
    BREAKER = "breaker"
    """Refuse, and take nothing that hangs on the feed for a while, whatever it says then."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The bounds of one policy; ``FAST``, ``BALANCED`` and ``CAUTIOUS`` are the presets."""

    name: str
    agree: int | None
    """So many of a feed's witnesses on chain must show the breach, the protocol's own price always among
    them; all where there are fewer, and None: all."""
    band_bps: Bps
    """A witness so near to the protocol's own price, or nearer, says what that says."""
    min_delay_s: int
    """How long after the alarm at the earliest."""
    min_blocks: int
    """How many blocks after it."""
    confirmations: int
    """How many blocks deep the breach on chain must lie, one of the head being one deep: for reorgs."""
    divergence: Divergence
    max_divergence_wad: Wad
    """How far two prices of one feed may be apart at all."""
    timeout_s: int
    """An alarm that found no agreement for so long was a false one. A tripped breaker holds as long."""
    trust_chain_after_s: int | None = None
    """How long the protocol's answer must stand before it counts alone, where neither a fast price nor a
    witness speaks of a feed; None, as in all presets: it never does. A fast price that clears the account
    holds it back for as long as it does."""
    max_age_s: int = 90_000
    """The oldest answer of the protocol's own source that is evidence: a day, by which every feed is renewed,
    and an hour."""
    rank: int = 0
    """Which preset it goes back to."""

    def slower(self, presets: int) -> Policy:
        """Return it so many presets more cautious: whatever is stricter of it and of that preset.

        But for what it does about divergence: in a fall the two clocks are apart, and whoever is to be slower
        then is not to stop.
        """
        if presets <= 0:
            return self
        return stricter(self, PRESETS[min(self.rank + presets, len(PRESETS) - 1)].diverging_as(self))

    def diverging_as(self, other: Policy) -> Policy:
        """Return it with what another one does about divergence, and a name that says so."""
        bounds = {"divergence": other.divergence, "max_divergence_wad": other.max_divergence_wad}
        if bounds == {name: getattr(self, name) for name in bounds}:
            return self
        return replace(self, name=f"{self.name}, divergence as {other.name}", **bounds)  # type: ignore[arg-type]


FAST: Final = Policy(
    name="fast",
    agree=1,
    band_bps=100,
    min_delay_s=0,
    min_blocks=0,
    confirmations=0,
    divergence=Divergence.WAIT,
    max_divergence_wad=3 * WAD // 10,
    timeout_s=1_800,
    rank=0,
)
"""The protocol's own price and the fast one are enough, at once; of witnesses one where that is silent.

For where others race for the same account, and a closing is small.
"""
BALANCED: Final = Policy(
    name="balanced",
    agree=2,
    band_bps=50,
    min_delay_s=0,
    min_blocks=0,
    confirmations=0,
    divergence=Divergence.REFUSE,
    max_divergence_wad=3 * WAD // 10,
    timeout_s=3_600,
    rank=1,
)
"""A second witness on chain, where there is one, must bear out the protocol and the fast price.

The default. It costs what others take until the witness has followed, and keeps away from what only one
market shows.
"""
CAUTIOUS: Final = Policy(
    name="cautious",
    agree=None,
    band_bps=25,
    min_delay_s=24,
    min_blocks=2,
    confirmations=2,
    divergence=Divergence.BREAKER,
    max_divergence_wad=WAD // 10,
    timeout_s=7_200,
    rank=2,
)
"""Every witness must show the breach, two blocks after the alarm, and after the answer that shows it.

For thin markets, and for feeds that gave false alarms. It leaves much to others: a witness that is late, or
silent, holds it up until the alarm is given up.
"""
PRESETS: Final = (FAST, BALANCED, CAUTIOUS)
_ORDER: Final = tuple(Divergence)


def stricter(one: Policy, other: Policy) -> Policy:
    """Return what asks for all that either of two asks for, under both names where they have two."""
    if one is other:
        return one
    first, second = sorted((one, other), key=lambda each: each.rank)
    both = Policy(
        name=_both(first.name, second.name),
        agree=_most(one.agree, other.agree),
        band_bps=min(one.band_bps, other.band_bps),
        min_delay_s=max(one.min_delay_s, other.min_delay_s),
        min_blocks=max(one.min_blocks, other.min_blocks),
        confirmations=max(one.confirmations, other.confirmations),
        divergence=max(one.divergence, other.divergence, key=_ORDER.index),
        max_divergence_wad=min(one.max_divergence_wad, other.max_divergence_wad),
        timeout_s=max(one.timeout_s, other.timeout_s),
        trust_chain_after_s=_most(one.trust_chain_after_s, other.trust_chain_after_s),
        max_age_s=min(one.max_age_s, other.max_age_s),
        rank=second.rank,
    )
    return next((each for each in (second, first) if replace(both, name=each.name) == each), both)


@dataclass(frozen=True, slots=True)
class Policies:
    """By which policy each feed is confirmed."""

    default: Policy = BALANCED
    feeds: Mapping[FeedId, Policy] = field(default_factory=dict)
    block_time_s: int = 12

    def of(self, feeds: Iterable[FeedId], posture: Posture) -> Policy:
        """Return what is asked for of an account that hangs on some feeds, as the keeper stands now."""
        asked = [
            self.feeds.get(feed, self.default).slower(posture.caution + (feed in posture.slowed))
            for feed in feeds
        ]
        return reduce(stricter, asked) if asked else self.default.slower(posture.caution)


def tuned(preset: Policy, **changes: object) -> Policy:
    """Return a preset with some fields of the operator's own, and a name that says which."""
    if not changes:
        return preset
    return replace(preset, name=f"{preset.name} (own {', '.join(sorted(changes))})", **changes)  # type: ignore[arg-type]


def _most(one: int | None, other: int | None) -> int | None:
    """Return the larger of two, None being larger than any."""
    return None if one is None or other is None else max(one, other)


def _both(one: str, other: str) -> str:
    return one if one == other else f"{one} + {other}"
