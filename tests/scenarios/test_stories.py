"""Every story ends as the policy says: live, from its tape, and told account by account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeper.confirm.policy import BALANCED, FAST, Policy
from tests.scenarios.stage import PROTOCOLS, Stage
from tests.scenarios.stories import NEVER_FOLLOWS, STORIES, Story

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
