"""Two clocks where a protocol knows one: its own oracle is the slow one, the price off chain the fast one.

The contract decides by its own oracle, so that nothing is sent before that shows the breach; the fast price
has cases ready by then, and holds back where it says that the oracle is about to correct itself. Pure rules,
with the same answers as those of HybridMargin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.domain import Agree, ChainTime, Reason, Refuse, Verdict, Wait
from keeper.lending.words import Sight, Standing
from keeper.units import WAD, Wad


@dataclass(frozen=True, slots=True)
class Params:
    """What the keeper asks of the evidence."""

    max_divergence_wad: Wad = 3 * WAD // 10
    """|fast / oracle - 1| beyond which one of the two is not believed, and nothing is sent."""
    trust_chain_after_s: int = 24
    """How long an oracle's answer must stand before it outweighs a fast price that clears the account."""
    max_age_s: int = 90_000
    """The oldest answer that is evidence: a day, by which every feed is renewed, and an hour."""
    block_time_s: int = 12


def confirm(
    fast: Standing, chain: Standing, sights: Sequence[Sight], at: ChainTime, params: Params
) -> Verdict | None:
    """Judge whether an account may be closed in block ``at``; None where neither clock shows a breach.

    ``fast`` and ``chain`` are the account at both prices, ``sights`` the feeds that it hangs on.
    """
    if not chain.is_breached:
        if not fast.is_breached:
            return None
        found = f"health {_of(chain)} at the oracle's price, {_of(fast)} at the fast one"
        return _wait(at, "confirm.oracle_lags", found, "below 1 at the oracle's")
    return _doubt(fast, chain, sights, at, params) or _agreed(fast, chain, sights)


def _doubt(
    fast: Standing, chain: Standing, sights: Sequence[Sight], at: ChainTime, params: Params
) -> Wait | Refuse | None:
    """Return what stands against closing an account that is breached on chain."""
    if chain.unmet is not None:
        return Wait(at.block + 1, chain.unmet)
    for sight in sights:
        age_s = at.timestamp_s - sight.answered_at_s
        if sight.answered_at_s and age_s > params.max_age_s:
            return _wait(at, "oracle.stale", f"{sight.feed} is {age_s} s old", f"<= {params.max_age_s} s")
        apart_wad = divergence_wad(sight)
        if apart_wad > params.max_divergence_wad:
            found = f"{sight.feed} fast and on chain are {apart_wad / WAD:.2%} apart"
            bound = f"<= {params.max_divergence_wad / WAD:.2%}"
            return Refuse(Reason("oracle.divergent", found, bound))
    if fast.is_breached:
        return None
    youngest_s = min((at.timestamp_s - each.answered_at_s for each in sights), default=at.timestamp_s)
    if youngest_s >= params.trust_chain_after_s:
        return None
    left = -(-(params.trust_chain_after_s - youngest_s) // params.block_time_s)
    found = f"health {_of(fast)} at the fast price, the oracle's answer {youngest_s} s old"
    bound = f"below 1, or an answer that stood for {params.trust_chain_after_s} s"
    return Wait(at.block + left, Reason("confirm.fast_disagrees", found, bound))


def divergence_wad(sight: Sight) -> Wad:
    """Return |fast / oracle - 1| rounded up; 0 without a fast price."""
    if sight.fast_wad is None:
        return 0
    return -(-abs(sight.fast_wad - sight.chain_wad) * WAD // sight.chain_wad)


def _agreed(fast: Standing, chain: Standing, sights: Sequence[Sight]) -> Agree:
    silent = [each.feed for each in sights if each.fast_wad is None]
    without = f", without a fast price of {', '.join(silent)}" if silent else ""
    return Agree(f"health {_of(chain)} at the oracle's price, {_of(fast)} at the fast one{without}")


def _of(standing: Standing) -> str:
    return "endless" if standing.health_wad is None else f"{standing.health_wad / WAD:.6f}"


def _wait(at: ChainTime, rule: str, evidence: str, bound: str) -> Wait:
    return Wait(at.block + 1, Reason(rule, evidence, bound))
