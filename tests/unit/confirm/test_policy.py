"""Policies: presets in their order, what a slower one asks for, and which one an account is judged by."""

from dataclasses import replace
from itertools import pairwise

import pytest

from keeper.confirm.policy import (
    BALANCED,
    CAUTIOUS,
    FAST,
    PRESETS,
    Divergence,
    Policies,
    Policy,
    stricter,
    tuned,
)
from keeper.domain import Posture

EASY = tuned(CAUTIOUS, min_delay_s=0, agree=1)


@pytest.mark.parametrize(
    ("policy", "presets", "expected"),
    [
        (FAST, 0, FAST),
        (FAST, 1, BALANCED.diverging_as(FAST)),
        (FAST, 2, CAUTIOUS.diverging_as(FAST)),
        (BALANCED, 1, CAUTIOUS.diverging_as(BALANCED)),
        (BALANCED, 9, CAUTIOUS.diverging_as(BALANCED)),
        (CAUTIOUS, 1, CAUTIOUS),
        (EASY, 0, EASY),
    ],
)
def test_a_slower_policy_is_the_preset_that_is_so_many_more_cautious(
    policy: Policy, presets: int, expected: Policy
) -> None:
    slower = policy.slower(presets)
    assert slower == expected
    # In a fall the clocks are apart: who is to be slower then does not stop.
    assert (slower.divergence, slower.max_divergence_wad) == (policy.divergence, policy.max_divergence_wad)


def test_fields_of_the_operator_s_own_stay_where_they_are_the_stricter_ones() -> None:
    own = tuned(FAST, min_delay_s=300, trust_chain_after_s=0)
    slower = own.slower(1)
    assert (slower.min_delay_s, slower.trust_chain_after_s, slower.agree) == (300, None, 2)
    assert slower.name == (
        "fast (own min_delay_s, trust_chain_after_s) + balanced,"
        " divergence as fast (own min_delay_s, trust_chain_after_s)"
    )
    assert EASY.slower(1) == CAUTIOUS


def test_no_preset_asks_for_less_than_a_faster_one() -> None:
    for faster, slower in pairwise(PRESETS):
        assert stricter(faster, slower) == slower


def test_the_stricter_of_two_is_the_same_whichever_comes_first() -> None:
    odd = replace(FAST, name="odd", divergence=Divergence.BREAKER, agree=None, band_bps=1)
    for one in (*PRESETS, odd):
        for other in (*PRESETS, odd):
            both = stricter(one, other)
            assert both == stricter(other, one)
            assert stricter(both, one) == both


def test_an_account_is_asked_for_all_that_any_of_its_feeds_asks() -> None:
    policies = Policies(FAST, {"ETH/USD": BALANCED, "SHIB/USD": CAUTIOUS})
    plain = Posture()
    assert policies.of(["BTC/USD"], plain) == FAST
    assert policies.of(["BTC/USD", "ETH/USD"], plain) == BALANCED
    assert policies.of(["ETH/USD", "SHIB/USD"], plain) == CAUTIOUS
    assert policies.of([], plain) == FAST


def test_a_cautious_posture_and_a_feed_that_is_slowed_add_up() -> None:
    policies = Policies(FAST)
    assert policies.of(["ETH/USD"], Posture(caution=1)) == FAST.slower(1)
    assert policies.of(["ETH/USD"], Posture(slowed=frozenset({"ETH/USD"}))) == FAST.slower(1)
    assert policies.of(["ETH/USD"], Posture(caution=1, slowed=frozenset({"ETH/USD"}))) == FAST.slower(2)
    assert policies.of(["ETH/USD"], Posture(slowed=frozenset({"BTC/USD"}))) == FAST
    assert policies.of([], Posture(caution=2)) == FAST.slower(2)
