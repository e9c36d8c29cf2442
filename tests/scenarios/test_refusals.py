"""What may hold an act up, each in a table: live, and from the tape, and told by whoever asks why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeper.confirm.policy import BALANCED, Policy
from keeper.domain import CaseEvent, EventKind
from keeper.journal.guard import Limits
from keeper.ports import Switch
from keeper.units import WAD
from tests.scenarios.refusals import ON_BOTH, ON_ONE, Set, at_a_loss, both
from tests.scenarios.stage import PROTOCOLS, Beat, Stage
from tests.scenarios.test_stories import expect_the_same_again

HELD = [
    *(
        pytest.param(rule, protocol, BALANCED, *found, id=f"{rule}, {protocol}")
        for rule, found in ON_BOTH.items()
        for protocol in PROTOCOLS
    ),
    *(
        pytest.param(rule, protocol, *found, id=f"{rule}, {protocol}")
        for (rule, protocol), found in ON_ONE.items()
    ),
]


def reasons(events: Iterable[CaseEvent]) -> Iterator[Mapping[str, Any]]:
    """Yield by what each act was held up, given up or kept small."""
    for event in events:
        if event.kind in {EventKind.WAITED, EventKind.REFUSED, EventKind.ABANDONED}:
            yield event.data
        yield from event.data.get("bounds", ())


@pytest.mark.parametrize(("rule", "protocol", "policy", "change", "beats"), HELD)
async def test_what_holds_an_act_up_is_journaled_replayed_and_explained(
    rule: str, protocol: str, policy: Policy, change: Set, beats: Sequence[Beat], tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", protocol, policy)
    change(stage)
    stage.open()
    await stage.play(beats)
    held = list(reasons(stage.events))
    assert rule in {each["rule"] for each in held}, [each["rule"] for each in held]
    assert all(each["evidence"] and each["bound"] for each in held)
    await expect_the_same_again(stage)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_stops_the_wallet_for_a_while_stops_it_in_a_replay_for_as_long(
    protocol: str, tmp_path: Path
) -> None:
    stage = Stage(tmp_path / "journal.sqlite", protocol)
    stage.desk.limits = Limits(kill_file=tmp_path / "halt")
    stage.open()

    async def held_up_by(rule: str, beat: Beat) -> None:
        seen = len(stage.events)
        await stage.play((beat,))
        assert rule in {each["rule"] for each in reasons(stage.events[seen:])}

    await stage.play((Beat(),))
    (tmp_path / "halt").touch()
    await held_up_by("limit.halted", both(0.95, 4))
    (tmp_path / "halt").unlink()
    stage.desk.journal.throw(Switch.PAUSE, stage.feed_id, on=True, who="a test")
    await held_up_by("limit.paused", Beat())
    stage.desk.journal.throw(Switch.PAUSE, stage.feed_id, on=False, who="a test")
    stage.desk.journal.reload(replace(stage.desk.limits, spend_day_wei=1), "a test", "less")
    await held_up_by("limit.spend_day", Beat())
    stage.desk.journal.reload(stage.desk.limits, "a test", "as before")
    assert not stage.taking()
    await stage.play((Beat(times=6),))
    assert stage.taking()
    await expect_the_same_again(stage)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_who_is_kept_solvent_at_a_cost_is_closed_at_a_loss(protocol: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path / "journal.sqlite", protocol)
    at_a_loss(4 * 10**11, 10**9 * WAD)(stage)
    stage.open()
    await stage.play((Beat(), both(0.84, 7)))
    taking = [each.data for each in stage.taking().values() if each is not None]
    assert taking
    assert all(each["loss_wad"] > 0 for each in taking)
    await expect_the_same_again(stage)
