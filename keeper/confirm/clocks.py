"""Two clocks where a protocol knows one: its own oracle is the slow one, the price off chain the fast one.

The contract decides by its own prices, so that nothing is sent before those show the breach; the fast price
has cases ready by then, and holds back where it says that the oracle is about to correct itself. Pure rules
over what both clocks say of the feeds of one account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.domain import Agree, ChainTime, Reason, Refuse, Verdict, Wait
from keeper.lending.words import Sight
from keeper.units import WAD, Wad


@dataclass(frozen=True, slots=True)
class Params:
    """What is asked of the prices, beside the contract's own conditions."""

    max_divergence_wad: Wad = 3 * WAD // 10
    """|fast / chain - 1| of one feed beyond which one of the two is not believed, and nothing is sent."""
    trust_chain_after_s: int = 24
    """How long an oracle's answer must stand before it outweighs a fast price that clears the account."""
    max_age_s: int = 90_000
    """The oldest answer that is evidence: a day, by which every feed is renewed, and an hour."""
    block_time_s: int = 12


def confirm(
    *, chain: bool, fast: bool, found: str, sights: Sequence[Sight], at: ChainTime, params: Params
) -> Verdict:
    """Judge in block ``at`` an account that is in breach at the ``chain``'s or at the ``fast`` prices.

    ``found`` says how it stands at either. Where there is no fast price, ``fast`` is what the chain says; a
    feed that does not tell when it answered is taken to have stood.
    """
    for sight in sights:
        apart_wad = divergence_wad(sight)
        if apart_wad > params.max_divergence_wad:
            apart = f"{sight.feed} fast and on chain are {apart_wad / WAD:.2%} apart"
            return Refuse(Reason("oracle.divergent", apart, f"<= {params.max_divergence_wad / WAD:.2%}"))
    if not chain:
        return _wait(at, 1, "confirm.oracle_lags", found, "a breach at the oracle's price")
    for sight in sights:
        age_s = at.timestamp_s - sight.answered_at_s
        if sight.answered_at_s and age_s > params.max_age_s:
            old = f"{sight.feed} is {age_s} s old"
            return _wait(at, 1, "oracle.stale", old, f"<= {params.max_age_s} s")
    if fast:
        return Agree(found + _unheard(sights))
    age_s = at.timestamp_s - max((each.answered_at_s for each in sights), default=0)
    if age_s >= params.trust_chain_after_s:
        return Agree(f"{found}; the chain alone, {age_s} s after its newest answer")
    blocks = -(-(params.trust_chain_after_s - age_s) // params.block_time_s)
    bound = f"a breach at both, or {params.trust_chain_after_s} s after the newest answer"
    return _wait(at, blocks, "confirm.fast_disagrees", f"{found}, {age_s} s after it", bound)


def divergence_wad(sight: Sight) -> Wad:
    """Return |fast / chain - 1| rounded up; 0 without a fast price."""
    if sight.fast_wad is None:
        return 0
    return -(-abs(sight.fast_wad - sight.chain_wad) * WAD // sight.chain_wad)


def _unheard(sights: Sequence[Sight]) -> str:
    silent = [each.feed for each in sights if each.fast_wad is None]
    return f", without a fast price of {', '.join(silent)}" if silent else ""


def _wait(at: ChainTime, blocks: int, rule: str, evidence: str, bound: str) -> Wait:
    return Wait(at.block + blocks, Reason(rule, evidence, bound))
