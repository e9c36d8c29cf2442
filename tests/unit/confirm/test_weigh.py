"""Evidence weighed by a policy: each rule, up and down, and what each preset makes of the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from keeper.confirm.policy import BALANCED, CAUTIOUS, FAST, PRESETS, Divergence, Policy
from keeper.confirm.weigh import Evidence, apart_wad, timed_out, weigh
from keeper.domain import Agree, ChainTime, Refuse, Unknown, Verdict, Wait, Witnessed
from keeper.lending.words import Sight
from keeper.units import WAD, FeedId, Wad

AT = ChainTime(101, 1_000_000)
LONG_AGO = ChainTime(1, AT.timestamp_s - 1_200)
ETH, BTC = "ETH/USD", "BTC/USD"
OLDER = AT.timestamp_s - 600


def sight(fast: float | None = 1.0, *, age_s: int = 600, feed: FeedId = ETH) -> Sight:
    return Sight(feed, None if fast is None else int(fast * WAD), WAD, AT.timestamp_s - age_s)


def says(price: float, witness: str = "market", *, at_s: int = AT.timestamp_s) -> Witnessed:
    return Witnessed(witness, int(price * WAD), at_s, 3_600, WAD // 100)


SILENT = Unknown("market", "no history")


def breached_below(limit: float) -> Any:
    """Hold one unit of each feed, in breach where their mean is below a limit."""

    def health(prices: Mapping[FeedId, Wad]) -> Wad:
        mean_wad = sum(prices.get(feed, WAD) for feed in (ETH, BTC)) // 2
        return mean_wad * WAD // int(limit * WAD)

    return health


def breached_above(limit: float) -> Any:
    """Owe one unit of it, in breach where its price is above a limit."""
    return lambda prices: int(limit * WAD) * WAD // prices.get(ETH, WAD)


WHO = bytes([7]) * 32
EVIDENCE = Evidence(
    WHO, "0.99 and 0.97", chain=True, fast=True, sights=(sight(),), health_at=breached_below(1.05)
)


def judge(policy: Policy = BALANCED, since: ChainTime = LONG_AGO, **changes: Any) -> Verdict:
    return weigh(policy, since, replace(EVIDENCE, **changes), AT, 12)


def heard(*witnesses: Witnessed | Unknown) -> Mapping[FeedId, tuple[Witnessed | Unknown, ...]]:
    return {ETH: witnesses}


def rule(verdict: Verdict) -> str:
    assert isinstance(verdict, Wait | Refuse), verdict
    return verdict.reason.rule


# --- both clocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", PRESETS, ids=lambda each: each.name)
def test_where_all_agree_every_preset_does_and_names_itself_and_who_spoke(policy: Policy) -> None:
    found = judge(policy, witnesses=heard(says(1.0)))
    names = "own" if policy is FAST else "own, market"
    assert isinstance(found, Agree)
    assert (found.policy, found.account, found.block) == (policy.name, WHO, AT.block)
    assert found.evidence in {f"0.99 and 0.97; ETH/USD by {names}", "0.99 and 0.97; ETH/USD by own, market"}


def test_while_only_the_fast_price_breaches_it_waits_for_the_oracle() -> None:
    verdict = judge(chain=False)
    assert isinstance(verdict, Wait)
    assert (verdict.until_block, verdict.reason.rule) == (102, "confirm.oracle_lags")
    assert verdict.reason.evidence == "0.99 and 0.97"


def test_a_fast_price_that_clears_the_account_holds_back_until_the_newest_answer_has_stood() -> None:
    young = judge(fast=False, sights=(sight(1.2, age_s=5), sight(age_s=1_000, feed=BTC)))
    assert isinstance(young, Wait)
    assert (young.until_block, young.reason.rule) == (101 + 3, "confirm.fast_disagrees")
    stood = judge(fast=False, sights=(sight(1.2, age_s=36),))
    assert isinstance(stood, Agree)
    assert stood.evidence.endswith("; the chain alone, 24 s after its newest answer")


@pytest.mark.parametrize(
    ("policy", "holds"), [(FAST, (5, 23)), (BALANCED, (12, 35)), (CAUTIOUS, (24, 86_400))], ids=str
)
def test_each_preset_trusts_the_chain_alone_after_a_time_of_its_own(
    policy: Policy, holds: tuple[int, int]
) -> None:
    for age_s in holds:
        assert rule(
            judge(replace(policy, confirmations=0), fast=False, sights=(sight(1.05, age_s=age_s),))
        ) == ("confirm.fast_disagrees")
    if policy.trust_chain_after_s is not None:
        # A block beyond it: in which block a step runs nobody knows when it is sent.
        late = judge(policy, fast=False, sights=(sight(1.05, age_s=policy.trust_chain_after_s + 12),))
        assert isinstance(late, Agree)


def test_a_feed_that_does_not_tell_its_time_is_taken_to_have_stood() -> None:
    assert isinstance(judge(fast=False, sights=(Sight(ETH, 12 * WAD // 10, WAD, 0),)), Agree)
    assert isinstance(judge(fast=False, sights=()), Agree)


def test_a_print_that_nobody_else_speaks_of_has_to_stand_as_well() -> None:
    stood = judge(sights=(sight(None),))
    assert isinstance(stood, Agree)
    assert stood.evidence == "0.99 and 0.97; ETH/USD by own; without a fast price of ETH/USD"
    lately = ChainTime(100, AT.timestamp_s - 12)
    assert rule(judge(since=lately, sights=(sight(None, age_s=12),))) == "confirm.unsupported"
    # A source that answers in every block has stood when the alarm has.
    assert isinstance(judge(sights=(sight(None, age_s=12),)), Agree)
    assert rule(judge(CAUTIOUS, sights=(sight(None),))) == "confirm.unsupported"
    assert rule(judge(CAUTIOUS, sights=())) == "confirm.unsupported"
    assert isinstance(judge(sights=(sight(None, age_s=12),), witnesses=heard(says(1.0))), Agree)


def test_of_a_feed_that_nobody_else_speaks_of_its_own_answer_has_to_stand() -> None:
    dollar = sight(None, feed=BTC, age_s=5_000)
    assert isinstance(judge(sights=(sight(age_s=12), dollar)), Agree)
    assert rule(judge(fast=False, sights=(sight(age_s=12), dollar))) == "confirm.fast_disagrees"


def test_an_answer_older_than_every_heartbeat_is_no_evidence() -> None:
    assert rule(judge(sights=(sight(age_s=90_001),))) == "oracle.stale"
    assert isinstance(judge(sights=(sight(age_s=90_000),)), Agree)


# --- divergence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("divergence", "kind", "name"),
    [
        (Divergence.WAIT, Wait, "oracle.divergent"),
        (Divergence.REFUSE, Refuse, "oracle.divergent"),
        (Divergence.BREAKER, Refuse, "oracle.breaker"),
    ],
)
def test_clocks_too_far_apart_are_believed_neither(divergence: Divergence, kind: type, name: str) -> None:
    policy = replace(BALANCED, divergence=divergence)
    for chain in (True, False):
        found = judge(policy, chain=chain, sights=(sight(0.69),))
        assert isinstance(found, kind)
        assert rule(found) == name
        assert isinstance(found, Wait | Refuse)
        assert found.reason.feed == ETH
    assert isinstance(judge(policy, sights=(sight(0.7),)), Agree)


def test_what_hangs_on_a_feed_whose_breaker_tripped_is_refused_whatever_it_says_now() -> None:
    found = judge(tripped=frozenset({ETH}))
    assert isinstance(found, Refuse)
    assert (found.reason.rule, found.reason.feed) == ("oracle.tripped", ETH)
    assert isinstance(judge(tripped=frozenset({BTC})), Agree)


def test_divergence_is_rounded_up() -> None:
    assert apart_wad(4, 3) == -(-WAD // 3)


# --- time ----------------------------------------------------------------------------------------


def test_an_alarm_has_to_be_as_old_as_the_policy_asks() -> None:
    policy = replace(BALANCED, min_blocks=3, min_delay_s=60)
    early = judge(policy, ChainTime(100, AT.timestamp_s - 12))
    assert isinstance(early, Wait)
    assert (rule(early), early.until_block) == ("confirm.min_blocks", 103)
    later = judge(policy, ChainTime(98, AT.timestamp_s - 36))
    assert isinstance(later, Wait)
    assert (rule(later), later.until_block) == ("confirm.min_delay", 103)
    assert isinstance(judge(policy, ChainTime(96, AT.timestamp_s - 60)), Agree)


def test_the_newest_answer_has_to_lie_as_deep_as_the_policy_asks() -> None:
    policy = replace(BALANCED, confirmations=3)
    shallow = judge(policy, sights=(sight(age_s=12), sight(feed=BTC)))
    assert isinstance(shallow, Wait)
    assert (rule(shallow), shallow.until_block) == ("confirm.shallow", 103)
    assert isinstance(judge(policy, sights=(sight(age_s=36), sight(feed=BTC))), Agree)


def test_where_answer_after_answer_shows_the_breach_the_first_counts_as_deep() -> None:
    policy = replace(BALANCED, confirmations=3)
    shown = [ChainTime(AT.block - deep, AT.timestamp_s - 12 * deep) for deep in range(5)]
    found = [judge(policy, sights=(sight(age_s=12),), shown=each) for each in (None, *shown)]
    assert [rule(each) for each in found[:4]] == ["confirm.shallow"] * 4
    assert [each.until_block for each in found[:4] if isinstance(each, Wait)] == [103, 103, 103, 102]
    assert all(isinstance(each, Agree) for each in found[4:])


def test_an_alarm_that_got_no_agreement_in_time_was_a_false_one() -> None:
    at = ChainTime(500, LONG_AGO.timestamp_s + 3_600)
    assert timed_out(BALANCED, LONG_AGO, at) is None
    found = timed_out(BALANCED, LONG_AGO, replace(at, timestamp_s=at.timestamp_s + 1))
    assert found is not None
    assert rule(found) == "confirm.timed_out"


# --- witnesses -----------------------------------------------------------------------------------

OUT = 1.2
"""A price at which the account of ``breached_below(1.05)`` is in no breach, if both feeds are at it."""
ALL = replace(BALANCED, agree=None)


@pytest.mark.parametrize(
    ("policy", "witnesses", "agrees"),
    [
        (BALANCED, (says(0.98),), True),
        (BALANCED, (says(OUT),), False),
        (FAST, (says(OUT),), True),
        (BALANCED, (says(OUT), says(0.98, "twap")), True),
        (ALL, (says(OUT), says(0.98, "twap")), False),
        (ALL, (says(1.001), says(0.98, "twap")), True),
        (BALANCED, (SILENT,), False),
        (BALANCED, (SILENT, says(0.98, "twap")), True),
        (ALL, (SILENT, says(0.98, "twap")), False),
        (FAST, (SILENT,), True),
        (BALANCED, (says(1.09),), True),
        (BALANCED, (), True),
    ],
    ids=[
        "a second one beyond the breach",
        "a second one that clears",
        "it is not asked",
        "one of two is enough",
        "not where all are asked",
        "all of three",
        "a silent one does not agree",
        "another one does",
        "not where all are asked, silent",
        "not asked, silent",
        "kinder, and still a breach",
        "none is configured",
    ],
)
def test_so_many_witnesses_as_the_policy_asks_must_show_the_breach(
    policy: Policy, witnesses: tuple[Witnessed | Unknown, ...], agrees: bool
) -> None:
    found = judge(policy, witnesses=heard(*witnesses))
    assert isinstance(found, Agree) == agrees, found
    if not agrees:
        assert rule(found) == "confirm.witnesses"


def test_a_witness_that_clears_is_told_with_how_far_it_is_from_the_protocol() -> None:
    found = judge(witnesses=heard(says(OUT), replace(says(1.0, "old"), at_s=0)))
    assert isinstance(found, Wait)
    assert found.reason.evidence == "ETH/USD: market +20.00%, old +0.00%, old is out of date"
    assert found.reason.feed == ETH


def test_a_witness_as_near_as_the_band_says_what_the_protocol_says() -> None:
    at_the_edge = breached_below(1.0001)
    assert isinstance(judge(health_at=at_the_edge, witnesses=heard(says(1.005))), Agree)
    assert rule(judge(health_at=at_the_edge, witnesses=heard(says(1.0051)))) == "confirm.witnesses"


def test_who_owes_is_hurt_by_higher_prices() -> None:
    owing = breached_above(0.95)
    assert isinstance(judge(health_at=owing, witnesses=heard(says(OUT))), Agree)
    assert rule(judge(health_at=owing, witnesses=heard(says(0.9)))) == "confirm.witnesses"
    assert isinstance(judge(health_at=owing, witnesses=heard(says(0.9), says(OUT, "twap"))), Agree)


def test_two_feeds_that_each_clear_a_half_of_the_breach_clear_all_of_it() -> None:
    both = {ETH: (says(1.08),), BTC: (says(1.08),)}
    sights = (sight(), sight(feed=BTC))
    assert isinstance(judge(sights=sights, witnesses={ETH: both[ETH]}), Agree)
    assert rule(judge(sights=sights, witnesses=both)) == "confirm.witnesses"


def test_nothing_is_agreed_to_that_cannot_be_judged_at_what_the_witnesses_say() -> None:
    assert rule(judge(health_at=lambda _: None, witnesses=heard(says(1.1)))) == "confirm.witnesses"


@pytest.mark.parametrize(
    ("told", "fast", "agrees"),
    [
        (says(0.98, at_s=LONG_AGO.timestamp_s), None, True),
        (says(0.98, at_s=LONG_AGO.timestamp_s - 1), 0.98, True),
        (says(0.98, at_s=LONG_AGO.timestamp_s - 1), 0.991, False),
        (says(0.98, at_s=LONG_AGO.timestamp_s - 1), None, False),
        (says(0.98, at_s=AT.timestamp_s - 3_601), 0.98, False),
    ],
    ids=["newer", "young, and not left", "left by the price", "nobody vouches for it", "past its heartbeat"],
)
def test_a_told_is_evidence_where_it_is_newer_than_the_alarm_or_still_holds(
    told: Witnessed, fast: float | None, agrees: bool
) -> None:
    found = judge(sights=(sight(fast),), witnesses=heard(told))
    assert isinstance(found, Agree) == agrees, found


# --- what ends how -------------------------------------------------------------------------------

STORIES: Mapping[str, tuple[Mapping[str, Any], tuple[str, str, str]]] = {
    "a false wick: the protocol's print alone, of the newest block": (
        {"fast": False, "sights": (sight(1.08, age_s=12),), "witnesses": heard(says(OUT))},
        ("confirm.fast_disagrees", "confirm.witnesses", "confirm.shallow"),
    ),
    "the same, a block later": (
        {"fast": False, "sights": (sight(1.08, age_s=24),), "witnesses": heard(says(OUT))},
        ("agrees", "confirm.witnesses", "confirm.witnesses"),
    ),
    "a stale oracle": (
        {"sights": (sight(age_s=100_000),)},
        ("oracle.stale",) * 3,
    ),
    "an oracle that jumps before the market does": (
        {"fast": False, "sights": (sight(1.08, age_s=8),)},
        ("confirm.fast_disagrees", "confirm.fast_disagrees", "confirm.shallow"),
    ),
    "a depeg that only the fast price sees": (
        {"chain": False, "sights": (sight(0.93),)},
        ("confirm.oracle_lags",) * 3,
    ),
    "a depeg further than any clock is believed": (
        {"chain": False, "sights": (sight(0.65),)},
        ("oracle.divergent", "oracle.divergent", "oracle.breaker"),
    ),
    "a slow grind": (
        {"witnesses": heard(says(1.003))},
        ("agrees",) * 3,
    ),
    "a gap crash, the mean of the pool behind": (
        {"health_at": breached_below(1.5), "witnesses": heard(says(1.25))},
        ("agrees",) * 3,
    ),
    "a gap crash through the limit, the mean of the pool still above it": (
        {"witnesses": heard(says(OUT))},
        ("agrees", "confirm.witnesses", "confirm.witnesses"),
    ),
}


@pytest.mark.parametrize(("changes", "ends"), STORIES.values(), ids=STORIES)
def test_each_story_ends_as_the_policy_says(changes: Mapping[str, Any], ends: tuple[str, str, str]) -> None:
    found = [judge(policy, **changes) for policy in PRESETS]
    assert tuple("agrees" if isinstance(each, Agree) else rule(each) for each in found) == ends
