"""Two real keepers on one journal: whatever happens to the leader, the other one goes on."""

from __future__ import annotations

import pytest

from tests.anvil.rounds import Blow, play

pytestmark = [pytest.mark.anvil, pytest.mark.slow, pytest.mark.timeout(600)]


def test_whatever_happens_to_the_leader_the_next_one_goes_on_and_nothing_is_paid_twice() -> None:
    told: list[str] = []
    found = play(len(Blow), seed=1, tell=told.append)
    assert found["amiss"] == [], told
    assert found["rounds"] == len(Blow)
    assert found["transactions"] > 0
    # Bytes that came late were sent by the next leader before.
    assert not found["late_bytes"].get("taken"), told
    assert found["stopped_by_itself"] == len(Blow) - 1, told
    assert found["replayed"] == len(Blow) + 1, told


def test_several_deployments_of_one_wallet_go_on_together() -> None:
    told: list[str] = []
    found = play(4, seed=1, deployments=2, blows=[Blow.KILLED, Blow.FROZEN], tell=told.append)
    assert found["amiss"] == [], told
    assert found["transactions"] > 0
    # Five leaders, each with a run for each deployment.
    assert found["replayed"] == 10
