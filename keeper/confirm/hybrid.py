"""What HybridMargin itself asks of the evidence, the floor under every policy; pure.

Pure rules over exact integers. They ask for what the contract will ask for, so that an act that the chain
would refuse is never sent, and answer with a value: ``Agree``, ``Wait`` with the block to ask again at, or
``Refuse`` with the evidence and the bound. ``confirm.weigh`` asks for what the policy wants besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keeper.confirm.weigh import apart_wad
from keeper.domain import Agree, Assessment, FeedView, OracleView, Reason, Refuse, Valuation, Verdict, Wait
from keeper.lending.words import Sight
from keeper.units import WAD, UnixS, Wad

MAX_DIVERGENCE_WAD: Final = 3 * WAD // 10
"""|fast / slow - 1| beyond which the contract confirms nothing."""
MIN_BLOCKS: Final = 2
"""Blocks between flag and confirmation."""


def sights(case: Assessment, oracles: OracleView) -> tuple[Sight, ...]:
    """Return both clocks of an account's feeds in the words that policies are asked in.

    A fast price that does not count is none. How old a slow one may be is the contract's to say, and how deep
    it must lie as well: it asks for evidence newer than the alarm, and for time to have passed.
    """
    views = (oracles[name] for name in case.feeds)
    now_s = case.at.timestamp_s
    return tuple(
        Sight(each.feed, each.fast_wad if each.fast_fresh(now_s) else None, each.slow_wad, 0)
        for each in views
    )


def divergence_wad(feed: FeedView) -> Wad:
    """Return |fast / slow - 1|, rounded up."""
    return apart_wad(feed.fast_wad, feed.slow_wad)


def has_slow_evidence(feed: FeedView, *, since_s: UnixS, now_s: UnixS) -> bool:
    """Tell whether the slow price is evidence about an alarm raised at ``since_s``.

    It is when its round is newer than the alarm; or, within its heartbeat, when the fast price has not
    left it by more than the feed's deviation. A fast price that is silent vouches for no older round
    (Liquidator._slowEvidence).
    """
    if feed.slow_updated_at_s >= since_s:
        return True
    young = now_s - feed.slow_updated_at_s <= feed.slow_heartbeat_s
    return not feed.slow_alone(now_s) and young and divergence_wad(feed) <= feed.slow_deviation_wad


def confirm_alarm(case: Assessment, oracles: OracleView, block_time_s: int = 12) -> Verdict:
    """Judge whether a flagged account can be confirmed in the block ``case.at``."""
    if case.breaker_level > 1:
        return _wait(case, "breaker.level", f"level {case.breaker_level}", "<= 1")
    flag = case.account.flag
    earliest_block = flag.flagged_block + MIN_BLOCKS
    if case.at.block < earliest_block:
        return _wait(
            case, "confirm.min_blocks", f"block {case.at.block}", f">= {earliest_block}", earliest_block
        )
    unusable = _unusable(case)
    if unusable is not None:
        return unusable
    for name in case.feeds:
        verdict = _judge_feed(case, oracles[name], block_time_s)
        if verdict is not None:
            return verdict
    return _breach_everywhere(case, "confirm", lambda at: at.breaches(case.flag_level_wad))


def confirm_slice(case: Assessment) -> Verdict:
    """Judge whether a confirmed account is still in breach at every price that the contract asks for."""
    if case.slices_halted:
        return _wait(case, "breaker.level", f"level {case.breaker_level}", "<= 2, or an hour without equity")
    return _unusable(case) or _breach_everywhere(case, "slope", lambda at: at.breaches_scaled(case.q_wad))


def confirm_purchase(case: Assessment) -> Agree:
    """Agree to the sale of collateral of an account that has only debt beside it: no price can change that.

    At which price it sells, and whether that counts, is the contract's own rule (``market.purchase``).
    """
    return _agree(case, f"owes {-case.account.cash_wad / WAD:.2f}, and has no position")


def contradicted(case: Assessment, oracles: OracleView) -> bool:
    """Tell whether both oracles, with evidence newer than the flag, show that the alarm was unfounded.

    The help that the account got since does not count (Liquidator._unfounded).
    """
    flag = case.account.flag
    if flag.reduced or _unusable(case) is not None:
        return False
    return all(_is_newer(oracles[name], case) for name in case.feeds) and all(
        (v.equity_wad - flag.aid_wad) * WAD >= case.flag_level_wad * v.requirement_wad
        for v in (case.fast, case.slow)
    )


def _is_newer(feed: FeedView, case: Assessment) -> bool:
    """Tell whether the oracles have spoken since the flag: the slow one, where the fast one is silent."""
    now_s, flagged_at_s = case.at.timestamp_s, case.account.flag.flagged_at_s
    spoken_s = feed.slow_updated_at_s if feed.slow_alone(now_s) else feed.fast_observed_at_s
    return spoken_s > flagged_at_s and has_slow_evidence(feed, since_s=flagged_at_s, now_s=now_s)


def _unusable(case: Assessment) -> Wait | None:
    """Wait where the account cannot be judged now: by its prices, or by the risk arrays of its options."""
    if not (case.fresh or case.slow_only):
        return _wait(case, "oracle.stale", "a feed of the account is stale", "both oracles fresh")
    if case.arrays_silent:
        return _wait(case, "array.silent", "a risk array of the account is too old", "renewed, or given up")
    return None


def _judge_feed(case: Assessment, feed: FeedView, block_time_s: int) -> Verdict | None:
    """Return what stands against a confirmation at this feed; None where nothing does."""
    flag, now = case.account.flag, case.at
    alone = feed.slow_alone(now.timestamp_s)
    delay_s = feed.min_delay_s * (2 if alone else 1)
    left_s = flag.flagged_at_s + delay_s - now.timestamp_s
    if left_s > 0:
        blocks = -(-left_s // block_time_s)
        age = f"{now.timestamp_s - flag.flagged_at_s} s after the flag"
        return _wait(case, "confirm.min_delay", age, f">= {delay_s} s", now.block + blocks)
    needed_s = flag.flagged_at_s + feed.min_delay_s // 2
    if not alone and feed.fast_observed_at_s < needed_s:
        found = f"{feed.feed} fast observed {feed.fast_observed_at_s - flag.flagged_at_s} s after the flag"
        return _wait(case, "confirm.fast_evidence", found, f">= {feed.min_delay_s // 2} s")
    apart = divergence_wad(feed)
    if not alone and apart > MAX_DIVERGENCE_WAD:
        found = f"{feed.feed} fast and slow are {apart / WAD:.2%} apart"
        return Refuse(Reason("oracle.divergent", found, f"<= {MAX_DIVERGENCE_WAD / WAD:.2%}", feed.feed))
    if not has_slow_evidence(feed, since_s=flag.flagged_at_s, now_s=now.timestamp_s):
        return _lacks_slow_evidence(case, feed, apart)
    return None


def _lacks_slow_evidence(case: Assessment, feed: FeedView, apart_wad: Wad) -> Wait:
    age_s = case.at.timestamp_s - feed.slow_updated_at_s
    found = f"{feed.feed} slow round is {age_s} s old, {apart_wad / WAD:.2%} away"
    near = f"within {feed.slow_deviation_wad / WAD:.2%} and {feed.slow_heartbeat_s} s"
    bound = "newer than the flag" + ("" if feed.slow_alone(case.at.timestamp_s) else f", or {near}")
    return _wait(case, "confirm.slow_evidence", found, bound)


def _breach_everywhere(case: Assessment, rule: str, breached: Callable[[Valuation], bool]) -> Verdict:
    for name, valuation in (("fast", case.fast), ("slow", case.slow), ("execution", case.execution)):
        if not breached(valuation):
            found = f"E {valuation.equity_wad / WAD:.2f} against M {valuation.requirement_wad / WAD:.2f}"
            return _wait(case, f"{rule}.no_breach_at_{name}", found, f"q {case.q_wad / WAD:.6f}")
    return _agree(case, f"breach at the fast, slow and execution price, q {case.q_wad / WAD:.6f}")


def _agree(case: Assessment, found: str) -> Agree:
    return Agree(found, "contract", case.account.key, case.at.block)


def _wait(case: Assessment, rule: str, evidence: str, bound: str, until_block: int = 0) -> Wait:
    return Wait(max(until_block, case.at.block + 1), Reason(rule, evidence, bound))
