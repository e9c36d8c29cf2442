"""The one rule of confirmation: what is known for and against an alarm, weighed by a policy; pure.

Every desk brings the same: how the account stands at either clock, what both say of its feeds, who else
speaks on chain, and how it would stand at other prices. What a contract asks for is for the desk to see to
first; nothing here agrees to what the protocol's own price does not show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from keeper.confirm.policy import Divergence, Policy
from keeper.domain import Agree, ChainTime, Reason, Refuse, Unknown, Verdict, Wait, Witnessed, Witnesses
from keeper.lending.words import Sight
from keeper.units import BPS, WAD, AccountKey, FeedId, UnixS, Wad

HealthAt = Callable[[Mapping[FeedId, Wad]], Wad | None]
"""How an account stands with some of the protocol's prices put at others: below 1 it is in breach, None says
that it cannot be."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known for and against taking something of one account."""

    account: AccountKey
    found: str
    """How it stands at either clock, for people."""
    chain: bool
    """Whether it is in breach at the protocol's own prices."""
    fast: bool
    """Whether at the fast ones; where there are none, what the chain says."""
    sights: Sequence[Sight]
    """Its feeds at both clocks."""
    health_at: HealthAt
    unseen: Sequence[str] = ()
    """The prices that it hangs on besides: traced to no feed, or to one without an answer. The protocol's own
    oracle is all that speaks of them."""
    witnesses: Witnesses = field(default_factory=dict)
    tripped: frozenset[FeedId] = frozenset()
    shown: ChainTime | None = None
    """Since which head the protocol's own prices have shown the breach; None where not before now."""
    waited: bool = False
    """Whether the contract itself has had an account wait longer of which a fast price is silent: then it may
    act without one."""


def weigh(policy: Policy, since: ChainTime, evidence: Evidence, at: ChainTime, block_time_s: int) -> Verdict:
    """Judge in block ``at`` whether the evidence on an alarm raised at ``since`` is what a policy asks for.

    A Wait names the block at which the answer can change, as far as that is known.
    """
    against = (
        _divergence(policy, evidence, at)
        or _lag(evidence, at)
        or _age(policy, evidence, at)
        or _haste(policy, since, at, block_time_s)
        or _shallow(policy, evidence, at, block_time_s)
    )
    if against is not None:
        return against
    voices = [_voices(policy, since, sight, evidence, at) for sight in evidence.sights]
    lacking = _witnesses(policy, voices, evidence, at)
    if lacking is not None:
        return lacking
    if _cleared(voices, evidence):
        return _wait(at, 1, "confirm.fast_disagrees", evidence.found, f"a breach at both, by {policy.name}")
    alone = _unsupported(policy, voices, evidence, at, block_time_s)
    if isinstance(alone, Wait):
        return alone
    told = [f"{each.sight.feed} by {', '.join(each.names)}" for each in voices]
    found = "; ".join([evidence.found, *told, *([alone] if alone else [])])
    return Agree(found, policy.name, evidence.account, at.block)


def timed_out(policy: Policy, since: ChainTime, at: ChainTime) -> Refuse | None:
    """Refuse an alarm that got no agreement in the time that its policy gives it: it was a false one."""
    age_s = at.timestamp_s - since.timestamp_s
    if age_s <= policy.timeout_s:
        return None
    bound = f"<= {policy.timeout_s} s by {policy.name}"
    return Refuse(Reason("confirm.timed_out", f"no agreement within {age_s} s", bound))


def apart_wad(fast_wad: Wad, chain_wad: Wad) -> Wad:
    """Return |fast / chain - 1|, rounded up (Liquidator._apart)."""
    return -(-abs(fast_wad - chain_wad) * WAD // chain_wad)


@dataclass(frozen=True, slots=True)
class _Voices:
    """Who speaks of one feed, at which price the policy has the account judged, and who says as much."""

    sight: Sight
    asked: int
    """How many must."""
    of: int
    """How many there are, with the protocol's own."""
    price_wad: Wad | None
    """The price that enough of them reach on the side of the breach; None where too few speak."""
    names: tuple[str, ...]
    silent: tuple[str, ...]
    """Why others do not count."""

    @property
    def is_alone(self) -> bool:
        """Tell whether the protocol's own source is all there is."""
        return self.sight.fast_wad is None and self.of == 1


def _divergence(policy: Policy, evidence: Evidence, at: ChainTime) -> Wait | Refuse | None:
    """Believe neither of two clocks that are too far apart."""
    for sight in evidence.sights:
        if sight.feed in evidence.tripped:
            found = f"the prices of {sight.feed} were too far apart of late"
            return Refuse(Reason("oracle.tripped", found, f"{policy.timeout_s} s of rest", sight.feed))
        if sight.fast_wad is None:
            continue
        apart = apart_wad(sight.fast_wad, sight.chain_wad)
        if apart <= policy.max_divergence_wad:
            continue
        found = f"{sight.feed} fast and on chain are {apart / WAD:.2%} apart"
        bound = f"<= {policy.max_divergence_wad / WAD:.2%}"
        if policy.divergence is Divergence.WAIT:
            return Wait(at.block + 1, Reason("oracle.divergent", found, bound, sight.feed))
        rule = "oracle.breaker" if policy.divergence is Divergence.BREAKER else "oracle.divergent"
        return Refuse(Reason(rule, found, bound, sight.feed))
    return None


def _lag(evidence: Evidence, at: ChainTime) -> Wait | None:
    if evidence.chain:
        return None
    return _wait(at, 1, "confirm.oracle_lags", evidence.found, "a breach at the oracle's price")


def _age(policy: Policy, evidence: Evidence, at: ChainTime) -> Wait | None:
    for sight in evidence.sights:
        age_s = at.timestamp_s - sight.answered_at_s
        if sight.answered_at_s and age_s > policy.max_age_s:
            old = f"{sight.feed} is {age_s} s old"
            return _wait(at, 1, "oracle.stale", old, f"<= {policy.max_age_s} s")
    return None


def _haste(policy: Policy, since: ChainTime, at: ChainTime, block_time_s: int) -> Wait | None:
    """Wait until the alarm is as old as the policy asks, in blocks and in seconds."""
    blocks = since.block + policy.min_blocks - at.block
    if blocks > 0:
        found = f"{at.block - since.block} blocks after the alarm"
        return _wait(at, blocks, "confirm.min_blocks", found, f">= {policy.min_blocks}")
    left_s = since.timestamp_s + policy.min_delay_s - at.timestamp_s
    if left_s > 0:
        found = f"{at.timestamp_s - since.timestamp_s} s after the alarm"
        return _wait(
            at, _blocks(left_s, block_time_s), "confirm.min_delay", found, f">= {policy.min_delay_s} s"
        )
    return None


def _shallow(policy: Policy, evidence: Evidence, at: ChainTime, block_time_s: int) -> Wait | None:
    """Wait until the breach on chain lies so deep that no common reorg takes it back.

    It is as deep as the newest answer, or as the head since which answer after answer has shown it: some
    sources answer anew in every block.
    """
    answered_at_s = _newest_s(evidence.sights)
    deep = (at.timestamp_s - answered_at_s) // block_time_s
    if evidence.shown is not None:
        deep = max(deep, at.block - evidence.shown.block)
    if not answered_at_s or deep >= policy.confirmations:
        return None
    bound = f">= {policy.confirmations} blocks"
    return _wait(at, policy.confirmations - deep, "confirm.shallow", f"the breach is {deep} deep", bound)


def _voices(policy: Policy, since: ChainTime, sight: Sight, evidence: Evidence, at: ChainTime) -> _Voices:
    """Hear the witnesses of one feed; where its fast price is silent one of them at least, if there is one.

    The price that counts is the kindest to the account of the protocol's own and of those others that, the
    worst first, make up the number asked for. So whoever is in breach at it is so by that many voices.
    """
    found = evidence.witnesses.get(sight.feed, ())
    of = 1 + len(found)
    least = 2 if sight.fast_wad is None else 1
    asked = of if policy.agree is None else min(max(policy.agree, least), of)
    silent = {each.what: each.why for each in found if isinstance(each, Unknown)}
    heard = []
    for each in found:
        if not isinstance(each, Witnessed):
            continue
        if why := _doubt(policy, each, sight, since, at.timestamp_s):
            silent[each.witness] = why
        else:
            heard.append(each)
    why_not = tuple(f"{witness}: {why}" for witness, why in silent.items())
    if len(heard) < asked - 1:
        return _Voices(sight, asked, of, None, (), why_not)
    near_wad = policy.band_bps * WAD // BPS
    said = {
        each.witness: sight.chain_wad
        if apart_wad(each.price_wad, sight.chain_wad) <= near_wad
        else each.price_wad
        for each in heard
    }
    worst = _worst_first(sight.feed, {*said.values(), sight.chain_wad}, evidence.health_at)
    ranked = sorted(said.values(), key=worst.index)[: asked - 1]
    price_wad = max([sight.chain_wad, *ranked], key=worst.index)
    names = (name for name, said_wad in said.items() if worst.index(said_wad) <= worst.index(price_wad))
    return _Voices(sight, asked, of, price_wad, ("own", *names), why_not)


def _worst_first(feed: FeedId, prices_wad: set[Wad], health_at: HealthAt) -> list[Wad]:
    """Sort prices of a feed by what they do to the account: whether it is hurt by higher or by lower ones."""
    rising = sorted(prices_wad)
    if len(rising) == 1:
        return rising
    low, high = (health_at({feed: each}) for each in (rising[0], rising[-1]))
    is_short = high is not None and (low is None or high < low)
    return rising[::-1] if is_short else rising


def _doubt(policy: Policy, told: Witnessed, sight: Sight, since: ChainTime, now_s: UnixS) -> str:
    """Say why a witness is no evidence about an alarm; nothing where it is.

    It has to be newer than the alarm; or young, and not left by the fast price. In the place of a fast price
    that is silent it has to be as near to the protocol's own as that would; else it may lag as it will.
    """
    apart = apart_wad(told.price_wad, sight.chain_wad)
    if sight.fast_wad is None and apart > policy.max_divergence_wad:
        return f"{apart / WAD:.2%} away"
    if told.at_s >= since.timestamp_s:
        return ""
    is_young = now_s - told.at_s <= told.heartbeat_s
    holds = sight.fast_wad is not None and apart_wad(sight.fast_wad, told.price_wad) <= told.deviation_wad
    return "" if is_young and holds else "out of date"


def _witnesses(policy: Policy, voices: Sequence[_Voices], evidence: Evidence, at: ChainTime) -> Wait | None:
    """Wait where too few speak of a feed, or the account is in no breach where enough of them are heard."""
    for each in voices:
        if each.price_wad is None:
            found = f"{each.sight.feed}: {'; '.join(each.silent)}"
            return _wait(at, 1, "confirm.witnesses", found, f"{each.asked} of {each.of}", each.sight.feed)
    kinder = {
        each.sight.feed: each.price_wad
        for each in voices
        if each.price_wad is not None and each.price_wad != each.sight.chain_wad
    }
    health_wad = evidence.health_at(kinder) if kinder else 0
    if health_wad is not None and health_wad < WAD:
        return None
    found = "; ".join(_told(each, evidence) for each in voices if each.sight.feed in kinder)
    asked = "all" if policy.agree is None else str(policy.agree)
    return _wait(at, 1, "confirm.witnesses", found, f"a breach by {asked} of the witnesses", min(kinder))


def _told(voices: _Voices, evidence: Evidence) -> str:
    sight = voices.sight
    said = [
        f"{each.witness} {each.price_wad / sight.chain_wad - 1:+.2%}"
        for each in evidence.witnesses[sight.feed]
        if isinstance(each, Witnessed)
    ]
    return f"{sight.feed}: {', '.join([*said, *voices.silent])}"


def _cleared(voices: Sequence[_Voices], evidence: Evidence) -> bool:
    """Tell whether the fast prices clear the account, witnesses standing in for those that are silent."""
    if not evidence.fast:
        return True
    if all(each.sight.fast_wad is not None or each.is_alone for each in voices):
        return False
    said = {each.sight.feed: each.sight.fast_wad or each.price_wad or each.sight.chain_wad for each in voices}
    health_wad = evidence.health_at(said)
    return health_wad is None or health_wad >= WAD


def _unsupported(
    policy: Policy, voices: Sequence[_Voices], evidence: Evidence, at: ChainTime, block_time_s: int
) -> Wait | str:
    """Hold back a print that nobody else speaks of until it has stood; tell of which prices it is one.

    By the presets it never has.
    """
    alone = [each.sight for each in voices if each.is_alone]
    prices = [*(each.feed for each in alone), *evidence.unseen]
    if voices and not prices:
        return ""
    named = ", ".join(prices) or "any feed"
    # What they will say in the block of the step nobody knows yet: it has stood up to the one before.
    age_s = at.timestamp_s - block_time_s - _stands_since_s(alone, evidence, at)
    left_s = None if policy.trust_chain_after_s is None else policy.trust_chain_after_s - age_s
    if evidence.waited or (left_s is not None and left_s <= 0):
        return f"without a fast price of {named}"
    found = f"{evidence.found}, nobody else speaks of {named}"
    if left_s is None:
        return _wait(at, 1, "confirm.unsupported", found, f"another source, by {policy.name}")
    bound = f"another source, or that it has stood for {policy.trust_chain_after_s} s"
    blocks = _blocks(left_s, block_time_s)
    return _wait(at, blocks, "confirm.unsupported", f"{found}, it has stood for {max(0, age_s)} s", bound)


def _stands_since_s(alone: Sequence[Sight], evidence: Evidence, at: ChainTime) -> UnixS:
    """Return since when the prices have stood of which nobody else speaks.

    Since their newest answer; or since the head from which on the protocol has shown the breach, for some
    sources answer anew in every block. Where one does not tell when it answered, only since that head.
    """
    shown_s = (evidence.shown or at).timestamp_s
    are_timed = not evidence.unseen and all(each.answered_at_s for each in alone)
    return min(_newest_s(alone), shown_s) if alone and are_timed else shown_s


def _newest_s(sights: Sequence[Sight]) -> UnixS:
    return max((each.answered_at_s for each in sights), default=0)


def _blocks(left_s: int, block_time_s: int) -> int:
    return -(-left_s // block_time_s)


def _wait(at: ChainTime, blocks: int, rule: str, evidence: str, bound: str, feed: FeedId = "") -> Wait:
    return Wait(at.block + blocks, Reason(rule, evidence, bound, feed))
