"""Every story ends as the policy says: live, from its tape, and told account by account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeper.confirm.policy import BALANCED, FAST, PRESETS, Policy, tuned
from keeper.why.account import UNSEEN
from keeper.why.explain import words_of
from tests.scenarios.refusals import FALL, NAMELESS, blind, witnessed
from tests.scenarios.stage import MORPHO, POOLS, PROTOCOLS, SIGHTED, Beat, Stage
from tests.scenarios.stories import NEVER_FOLLOWS, STORIES, Story
from tests.unit.pipeline.desk import FIRST

PLAYED = [
    pytest.param(story, protocol, policy, id=f"{story.name}, {protocol}, {policy.name}")
    for story in STORIES
    for protocol in PROTOCOLS
    for policy in story.policies(protocol)
]


async def expect_the_same_again(stage: Stage) -> None:
    """Expect the tape to give the same events, and every account an answer that agrees with them."""
    cases = {
        key: (str(case.status), case.said[0] if case.said else "")
        for key, case in stage.desk.pipeline._care._cases.items()
    }
    assert await stage.replayed() == []
    explained = await stage.explained()
    assert len(explained) >= 2
    for account, said in explained.items():
        expect_an_answer(said, *cases.get(bytes.fromhex(account[2:]), ("", "")))


def expect_an_answer(said: dict[str, Any], status: str, rule: str) -> None:
    """Expect the answer that the journal gave last, where it waits or has refused."""
    if said.get("own"):
        return
    decision = said["decision"]
    assert decision["kind"] in {"step", "wait", "refuse", "nothing", "in flight"}
    if status == "suspected" and rule:
        # A step is due, and whoever was asked for its permit, or tried it, said no.
        told = decision["done"][-1]["data"] if decision["kind"] == "step" else decision
        assert told["rule"] == rule


@pytest.mark.parametrize(("story", "protocol", "policy"), PLAYED)
async def test_each_story_ends_as_the_policy_says(
    story: Story, protocol: str, policy: Policy, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", protocol, policy)
    stage.open()
    await stage.play(story.beats)
    assert stage.told() == story.end(protocol, policy)
    await expect_the_same_again(stage)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_who_starts_anew_before_every_head_does_the_same(
    story: Story, protocol: str, tmp_path: Path
) -> None:
    through = Stage(tmp_path / "through.sqlite", protocol)
    anew = Stage(tmp_path / "anew.sqlite", protocol, restarting=True)
    for stage in (through, anew):
        stage.open()
        await stage.play(story.beats)
    assert anew.desk.acts() == through.desk.acts()
    through.desk.close()
    await expect_the_same_again(anew)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_alarm_that_nothing_bears_out_ends_as_false_and_begins_afresh(
    protocol: str, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", protocol, FAST)
    stage.open()
    await stage.play(NEVER_FOLLOWS.beats)
    assert stage.told() == NEVER_FOLLOWS.end(protocol, BALANCED)
    await expect_the_same_again(stage)


UNHEARD = (Beat(), Beat(silent=True), Beat(chain=0.95), Beat(times=8))
"""The fast price falls silent; then the protocol's own falls."""
UNSUPPORTED = "1: Called; 3: Suspected, Waited confirm.unsupported; 8: Called confirm.timed_out; 9: Suspected"
ENDS = {
    "fast": f"{UNSUPPORTED}, Waited confirm.unsupported",
    "balanced": f"{UNSUPPORTED}, Waited confirm.unsupported",
    "cautious": "1: Called; 3: Suspected, Waited confirm.min_blocks; 4: Waited confirm.unsupported;"
    " 8: Called confirm.timed_out; 9: Suspected, Waited confirm.min_blocks; 10: Waited confirm.unsupported",
}
"""With a minute's patience."""


@pytest.mark.parametrize("policy", PRESETS, ids=lambda policy: policy.name)
async def test_a_print_of_which_nobody_else_speaks_ends_as_a_false_alarm_by_every_preset(
    policy: Policy, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", MORPHO, tuned(policy, timeout_s=60))
    stage.desk.tide = SIGHTED
    stage.open()
    await stage.play(UNHEARD)
    assert stage.told() == ENDS[policy.name.split()[0]]
    assert not stage.taking()
    await expect_the_same_again(stage)


@pytest.mark.parametrize("policy", PRESETS, ids=lambda policy: policy.name)
@pytest.mark.parametrize("share", [0.95, 1.0])
async def test_where_the_fast_price_is_silent_a_witness_bears_a_print_out_or_does_not(
    policy: Policy, share: float, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", MORPHO, policy)
    stage.desk.tide = SIGHTED
    witnessed(share)(stage)
    stage.open()
    await stage.play(UNHEARD)
    assert bool(stage.taking()) == (share < stage.edge)
    waited = [each.data["evidence"] for each in stage.events if each.data.get("rule") == "confirm.witnesses"]
    assert waited == ([] if share < stage.edge else ["ETH/USD: link +5.26%"])
    await expect_the_same_again(stage)


async def test_by_the_operator_s_own_word_a_print_counts_once_it_has_stood(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "journal.sqlite", MORPHO, tuned(BALANCED, trust_chain_after_s=24))
    stage.desk.tide = SIGHTED
    stage.open()
    await stage.play(UNHEARD)
    assert stage.told() == (
        "1: Called; 3: Suspected, Waited confirm.unsupported;"
        " 5: Moved confirmed, Reserved repay, Sent; 6: Included, Taken, Called"
    )
    [reserved] = [each.data for each in stage.taking().values() if each is not None]
    assert reserved["agreed"]["policy"] == "balanced (own trust_chain_after_s)"
    assert reserved["agreed"]["evidence"].endswith("without a fast price of ETH/USD")
    await expect_the_same_again(stage)


BLIND = "1: Called; 2: Suspected, Waited confirm.unsupported"
BLIND_ENDS = {
    "fast": BLIND,
    "balanced": BLIND,
    "cautious": "1: Called; 2: Suspected, Waited confirm.min_blocks; 3: Waited confirm.unsupported",
}
"""With a minute's patience: that nobody can be asked makes it no false alarm."""


@pytest.mark.parametrize("policy", PRESETS, ids=lambda policy: policy.name)
async def test_what_hangs_on_a_price_that_no_feed_tells_of_is_never_closed_by_any_preset(
    policy: Policy, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", MORPHO, tuned(policy, timeout_s=60))
    stage.desk.tide = SIGHTED
    blind(stage)
    stage.open()
    await stage.play(FALL)
    assert stage.told() == BLIND_ENDS[policy.name.split()[0]]
    assert not stage.taking()
    told = [each.data for each in stage.events if each.data.get("rule") == "confirm.unsupported"]
    [evidence] = {each["evidence"] for each in told}
    assert evidence.endswith(f"nobody else speaks of feed {NAMELESS}")
    await expect_the_same_again(stage)
    explained = await stage.explained()
    assert f"  feed {NAMELESS}, oracle: {UNSEEN}" in list(words_of(explained["0x" + stage.key.hex()]))


async def test_by_the_operator_s_own_word_it_is_closed_once_the_chain_has_shown_it_for_so_long(
    tmp_path: Path,
) -> None:
    """The alarm is older: but before the chain followed there was no print that could have stood."""
    stage = Stage(tmp_path / "journal.sqlite", MORPHO, tuned(BALANCED, trust_chain_after_s=24))
    stage.desk.tide = SIGHTED
    blind(stage)
    stage.open()
    await stage.play((Beat(), Beat(fast=0.95, times=4), Beat(chain=0.95), Beat(times=4)))
    assert stage.told() == (
        "1: Called; 2: Suspected, Waited confirm.oracle_lags; 6: Waited confirm.unsupported;"
        " 8: Moved confirmed, Reserved repay, Sent; 9: Included, Taken, Called"
    )
    [reserved] = [each.data for each in stage.taking().values() if each is not None]
    assert reserved["agreed"]["evidence"].endswith(f"without a fast price of feed {NAMELESS}")
    await expect_the_same_again(stage)


@pytest.mark.parametrize("protocol", POOLS)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_each_story_ends_in_a_pool_as_it_does_in_a_market(
    story: Story, protocol: str, tmp_path: Path
) -> None:
    """Whatever the protocol that lends: its integers are its own, what is decided by both clocks is not."""
    stage = Stage(tmp_path / "journal.sqlite", protocol)
    stage.open()
    await stage.play(story.beats)
    assert stage.told() == story.end(protocol, BALANCED)
    await expect_the_same_again(stage)


async def test_since_when_the_chain_has_shown_a_breach_is_told_as_it_was_decided_by(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "journal.sqlite", MORPHO, tuned(BALANCED, trust_chain_after_s=24))
    stage.desk.tide = SIGHTED
    blind(stage)
    stage.open()
    beats = (Beat(), Beat(fast=0.95, times=4), Beat(chain=0.95), Beat(times=2, mined=False))
    await stage.play(beats)
    told = []
    for block in range(FIRST + 5, FIRST + 9):
        said = await stage.explained(block)
        told.append(said["0x" + stage.key.hex()])
    shown = [each["shown"] for each in told]
    assert shown == [None, None, *({"block": FIRST + 6, "age_s": age_s} for age_s in (12, 24))]
    assert "  The chain has shown the breach since block 106, for 24 s." in list(words_of(told[-1]))
    assert [each["decision"]["kind"] for each in told] == ["wait", "wait", "wait", "step"]
