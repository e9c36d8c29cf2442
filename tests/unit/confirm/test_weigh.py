"""Evidence weighed by a policy: each rule, up and down, and what each preset makes of the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from keeper.confirm.policy import BALANCED, FAST, PRESETS, Divergence, Policy, tuned
from keeper.confirm.weigh import Evidence, apart_wad, timed_out, weigh
from keeper.domain import Agree, ChainTime, Reason, Refuse, Unknown, Verdict, Wait, Witnessed
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


OWN = tuned(BALANCED, trust_chain_after_s=24)
"""By the operator's own word the chain is enough where it has stood."""
LATELY = ChainTime(100, AT.timestamp_s - 12)


@pytest.mark.parametrize("policy", [*PRESETS, OWN], ids=lambda each: each.name)
@pytest.mark.parametrize("age_s", [24, 86_400])
def test_a_fast_price_that_clears_the_account_vetoes_however_long_the_answer_has_stood(
    policy: Policy, age_s: int
) -> None:
    held = judge(policy, fast=False, sights=(sight(1.05, age_s=age_s), sight(None, feed=BTC)))
    assert isinstance(held, Wait)
    assert held.until_block == AT.block + 1
    assert held.reason == Reason(
        "confirm.fast_disagrees", "0.99 and 0.97", f"a breach at both, by {policy.name}"
    )


@pytest.mark.parametrize("policy", PRESETS, ids=lambda each: each.name)
@pytest.mark.parametrize("age_s", [24, 86_400])
def test_by_no_preset_does_a_print_count_that_nobody_else_speaks_of(policy: Policy, age_s: int) -> None:
    for sights, of in (((sight(None, age_s=age_s),), ETH), ((sight(), sight(None, feed=BTC)), BTC)):
        held = judge(policy, sights=sights)
        assert isinstance(held, Wait)
        assert held.reason.rule == "confirm.unsupported"
        assert held.reason.evidence == f"0.99 and 0.97, nobody else speaks of {of}"
    assert rule(judge(policy, sights=())) == "confirm.unsupported"
    assert isinstance(judge(policy, sights=(sight(None),), witnesses=heard(says(1.0))), Agree)


def test_by_the_operator_s_own_word_it_counts_once_it_has_stood() -> None:
    stood = judge(OWN, sights=(sight(None),))
    assert isinstance(stood, Agree)
    assert stood.evidence == "0.99 and 0.97; ETH/USD by own; without a fast price of ETH/USD"
    # A block beyond it: in which block a step runs nobody knows when it is sent.
    assert isinstance(judge(OWN, LATELY, sights=(sight(None, age_s=36),)), Agree)
    young = judge(OWN, LATELY, sights=(sight(None, age_s=12),))
    assert isinstance(young, Wait)
    assert (young.until_block, young.reason.rule) == (AT.block + 2, "confirm.unsupported")
    assert young.reason.evidence.endswith(", nobody else speaks of ETH/USD, it has stood for 0 s")
    assert young.reason.bound == "another source, or that it has stood for 24 s"


BLIND = "token 0xdd"


@pytest.mark.parametrize("policy", PRESETS, ids=lambda each: each.name)
def test_by_no_preset_does_a_price_count_that_is_traced_to_no_feed(policy: Policy) -> None:
    for sights in ((sight(),), ()):
        held = judge(policy, sights=sights, unseen=(BLIND,), witnesses=heard(says(1.0)), shown=LONG_AGO)
        assert isinstance(held, Wait)
        assert held.reason.rule == "confirm.unsupported"
        assert held.reason.evidence == f"0.99 and 0.97, nobody else speaks of {BLIND}"
    both = judge(policy, sights=(sight(None),), unseen=(BLIND,), shown=LONG_AGO)
    assert isinstance(both, Wait)
    assert both.reason.evidence.endswith(f"speaks of {ETH}, {BLIND}")


UNTIMED: list[dict[str, Any]] = [
    {"sights": (sight(None, age_s=12),)},
    {"sights": (Sight(ETH, None, WAD, 0),)},
    {"sights": (sight(None), Sight(BTC, None, WAD, 0))},
    {"sights": (sight(),), "unseen": (BLIND,)},
    {"sights": (), "unseen": (BLIND,)},
    {"sights": ()},
]


@pytest.mark.parametrize(
    "changes",
    UNTIMED,
    ids=["new in every block", "no time", "one of two", "traced to no feed", "to none of all", "none known"],
)
def test_what_does_not_tell_how_long_it_stands_has_stood_since_the_chain_shows_the_breach(
    changes: dict[str, Any],
) -> None:
    def shown(ago_s: int) -> ChainTime:
        return ChainTime(AT.block - ago_s // 12, AT.timestamp_s - ago_s)

    # However old the alarm: before the chain followed, there was nothing that could have stood.
    assert rule(judge(OWN, LONG_AGO, **changes)) == "confirm.unsupported"
    for since, left in ((shown(12), 2), (shown(24), 1)):
        young = judge(OWN, LONG_AGO, shown=since, **changes)
        assert isinstance(young, Wait)
        assert (young.until_block, young.reason.rule) == (AT.block + left, "confirm.unsupported")
    assert isinstance(judge(OWN, LATELY, shown=shown(36), **changes), Agree)


def test_of_a_feed_that_nobody_else_speaks_of_its_own_answer_has_to_stand() -> None:
    dollar = sight(None, feed=BTC, age_s=5_000)
    assert isinstance(judge(OWN, LATELY, sights=(sight(age_s=12), dollar)), Agree)
    assert rule(judge(OWN, LATELY, sights=(sight(age_s=12), sight(None, feed=BTC, age_s=12)))) == (
        "confirm.unsupported"
    )


@pytest.mark.parametrize("policy", [*PRESETS, OWN], ids=lambda each: each.name)
def test_where_the_fast_price_is_silent_a_witness_stands_in_for_it(policy: Policy) -> None:
    quiet = (sight(None),)
    borne_out = judge(policy, sights=quiet, witnesses=heard(says(1.02)))
    assert isinstance(borne_out, Agree)
    assert borne_out.evidence == "0.99 and 0.97; ETH/USD by own, market"
    for witness in (says(OUT), SILENT, says(1.02, at_s=OLDER - 900)):
        assert rule(judge(policy, sights=quiet, witnesses=heard(witness))) == "confirm.witnesses"
    # Whoever asks for one only takes the one that bears it out.
    two = judge(FAST, sights=quiet, witnesses=heard(says(OUT), says(1.02, "twap")))
    assert isinstance(two, Agree)


def test_what_stands_in_for_a_silent_fast_price_is_held_to_the_same_distance() -> None:
    assert isinstance(judge(sights=(sight(None),), witnesses=heard(says(0.7))), Agree)
    found = judge(sights=(sight(None),), witnesses=heard(says(0.69)))
    assert isinstance(found, Wait)
    assert found.reason.rule == "confirm.witnesses"
    assert found.reason.evidence == "ETH/USD: market: 31.00% away"
    # Beside a fast price the mean of a pool may be as far behind as it will: it is counted, or it clears.
    assert isinstance(judge(witnesses=heard(says(0.5))), Agree)


@pytest.mark.parametrize("policy", [*PRESETS, OWN], ids=lambda each: each.name)
def test_the_fast_price_of_one_feed_and_a_witness_of_another_have_to_show_the_breach_together(
    policy: Policy,
) -> None:
    said = {BTC: (says(1.06),)}
    together, apart = (
        judge(policy, sights=(sight(fast), sight(None, feed=BTC)), witnesses=said) for fast in (1.03, 1.06)
    )
    assert isinstance(together, Agree)
    assert rule(apart) == "confirm.fast_disagrees"

    def unknown(prices: Mapping[FeedId, Wad]) -> Wad | None:
        return None if ETH in prices else 0

    found = judge(policy, sights=(sight(), sight(None, feed=BTC)), witnesses=said, health_at=unknown)
    assert rule(found) == "confirm.fast_disagrees"


def test_a_contract_that_waits_longer_without_a_fast_price_needs_none() -> None:
    for policy in PRESETS:
        found = judge(policy, sights=(Sight(ETH, None, WAD, 0),), waited=True)
        assert isinstance(found, Agree)
        assert found.evidence.endswith("; without a fast price of ETH/USD")


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
    assert found.reason.evidence == "ETH/USD: market +20.00%, old +0.00%, old: out of date"
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
        ("confirm.fast_disagrees", "confirm.witnesses", "confirm.witnesses"),
    ),
    "a stale oracle": (
        {"sights": (sight(age_s=100_000),)},
        ("oracle.stale",) * 3,
    ),
    "an oracle that jumps before the market does": (
        {"fast": False, "sights": (sight(1.08, age_s=8),)},
        ("confirm.fast_disagrees", "confirm.fast_disagrees", "confirm.shallow"),
    ),
    "the same, and long ago": (
        {"fast": False, "sights": (sight(1.08),)},
        ("confirm.fast_disagrees",) * 3,
    ),
    "all sources silent but the protocol's own": (
        {"sights": (sight(None),)},
        ("confirm.unsupported",) * 3,
    ),
    "a fast price that is silent, and a witness that shows the breach": (
        {"sights": (sight(None),), "witnesses": heard(says(1.003))},
        ("agrees",) * 3,
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
