"""The rungs of an account from the watch to the backstop and back, each head a block of twelve seconds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from keeper.desk.hybrid import HybridDesk
from keeper.desk.port import MarginCall
from keeper.domain import EventKind, Level, Phase
from keeper.errors import ChainFault
from keeper.journal.guard import Limits
from keeper.ladder import Bounds, Climb, Rung
from keeper.lifecycle import Status
from keeper.pipeline import care
from keeper.pipeline.rungs import Rungs, moved
from keeper.ports import Notice
from keeper.units import WAD, AccountKey
from tests.unit.pipeline.desk import BREACHED, EMPTY, Desk, confirmed, flagged
from tests.unit.protocols.hybrid.books import OWNER

CLIMB = Climb(
    watch=Bounds(1.5, 4.0, 1.6, 5.0, leave_after_s=300),
    call=Bounds(1.1, 2.0, 1.15, 3.0, leave_after_s=60),
)
N, W, C = Rung.NORMAL, Rung.WATCH, Rung.MARGIN_CALL
NAN = float("nan")

STEPS = [
    # was, calm since, health, sigmas, now: rung, calm since
    (N, 0, 1.6, 1.0, N, 0),
    (N, 0, 1.49, 4.1, N, 0),
    (N, 0, 1.49, 3.9, W, 0),
    (N, 0, 1.09, 3.9, W, 0),
    (N, 0, 1.09, 1.9, C, 0),
    (W, 0, 1.12, 1.9, W, 0),
    (W, 0, 1.09, 1.9, C, 0),
    (W, 0, 1.55, 4.5, W, 0),
    (W, 0, 1.6, 4.5, W, 1000),
    (W, 0, 1.55, 5.1, W, 1000),
    (W, 701, 1.6, 4.5, W, 701),
    (W, 700, 1.6, 4.5, N, 0),
    (W, 700, 1.55, 4.5, W, 0),
    (C, 0, 1.14, 2.9, C, 0),
    (C, 0, 1.15, 2.9, C, 1000),
    (C, 941, 1.15, 2.9, C, 941),
    (C, 940, 1.15, 2.9, W, 0),
    (C, 940, 1.14, 2.9, C, 0),
    (C, 940, 9.9, 99.0, W, 0),
    (C, 0, 0.9, -1.0, C, 0),
    (N, 0, NAN, 1.0, N, 0),
    (W, 0, NAN, NAN, W, 0),
    (C, 941, NAN, 1.0, C, 941),
]


@pytest.mark.parametrize(("was", "calm_s", "health", "sigmas", "now", "since"), STEPS)
def test_a_row_moves_up_at_once_and_down_after_a_time(
    was: Rung, calm_s: int, health: float, sigmas: float, now: Rung, since: int
) -> None:
    found = moved(
        np.array([was], np.uint8), np.array([calm_s]), np.array([health]), np.array([sigmas]), 1000, CLIMB
    )
    assert (int(found[0][0]), int(found[1][0])) == (now, since)


def test_all_rows_move_as_each_would_alone() -> None:
    was, calm_s, health, sigmas, now, since = (np.array(each) for each in zip(*STEPS, strict=True))
    rungs, calm = moved(was.astype(np.uint8), calm_s, health, sigmas, 1000, CLIMB)
    assert rungs.tolist() == now.tolist()
    assert calm.tolist() == since.tolist()


# --- with a keeper around it ---


def told(desk: Desk) -> list[str]:
    """Return a case's history without what the chain showed."""
    return [each for each in desk.told() if not each.startswith("Observed")]


NEAR = replace(BREACHED, cash_wad=2_060 * WAD)
"""E = 1,060 of M = 1,000."""
MENDED = replace(BREACHED, cash_wad=2_160 * WAD)
"""Above the buffer of 1.15."""


async def test_an_account_that_comes_near_is_called_with_what_restores_its_buffer(desk: Desk) -> None:
    await desk.head(NEAR)
    assert told(desk) == ["Called"]
    data = desk.history()[0].data
    assert data["health"] == pytest.approx(1.06)
    assert data["remedies"][0] == {
        "do": "deposit", "of": desk.chain.deployment.quote, "amount": 90 * WAD, "decimals": 18
    }  # fmt: skip
    assert data["by_s"] > desk.chain.tip.timestamp_s
    assert desk.acts() == []


async def test_a_breach_thousands_of_years_away_has_no_date(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rungs, "sigmas", lambda *_: 2_000.0)
    heard: list[Notice] = []
    desk.notices = heard.append
    await desk.head(NEAR)
    assert desk.history()[0].data["by_s"] is None
    assert " by " not in heard[0].text


async def test_a_called_account_is_let_go_once_it_has_had_its_buffer_for_a_while(desk: Desk) -> None:
    desk.restarting = False
    await desk.head(NEAR)
    await desk.head(MENDED)
    for _ in range(4):
        await desk.head()
        assert told(desk) == ["Called"]
    await desk.head()
    assert told(desk) == ["Called", "Closed"]
    assert desk.history()[-1].data["phase"] == "recovered"


async def test_a_called_account_is_let_go_though_the_head_at_which_it_came_down_was_not_worked_on_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ChainFault("the node has gone")

    desk.restarting = False
    await desk.head(NEAR)
    for _ in range(5):
        await desk.head(MENDED)
    with monkeypatch.context() as patch:
        patch.setattr(HybridDesk, "under_care", fail)
        with pytest.raises(ChainFault):
            await desk.head()
    assert told(desk) == ["Called"]
    await desk.head()
    assert told(desk) == ["Called", "Closed"]


async def test_a_called_account_stays_called_between_the_bounds(desk: Desk) -> None:
    await desk.head(NEAR)
    for _ in range(9):
        await desk.head(replace(BREACHED, cash_wad=2_140 * WAD))
    assert told(desk) == ["Called"]


async def test_a_breach_of_a_called_account_goes_on_in_its_case(desk: Desk) -> None:
    await desk.head(NEAR)
    await desk.head(BREACHED)
    assert told(desk) == ["Called", "Suspected", "Reserved flag", "Sent"]


async def test_a_suspect_without_its_buffer_is_called_again_and_suspected_anew(desk: Desk) -> None:
    desk.chain.reverts = {"flag": b""}
    await desk.head(BREACHED)
    await desk.head(NEAR)
    await desk.head(BREACHED)
    assert [event.kind for event in desk.history()].count(EventKind.CALLED) == 1
    [case] = desk.journal.open_cases()
    assert case.status is Status.SUSPECTED
    assert case.suspected is not None
    assert case.suspected.block == desk.chain.tip.number
    assert case.opened_block == desk.chain.tip.number - 2


async def test_a_case_tells_the_rungs_that_clocks_and_chain_show(desk: Desk) -> None:
    await desk.head(BREACHED)
    alarm = flagged(BREACHED, desk.chain.next)
    await desk.head(alarm, mined=True)
    await desk.head()
    found = confirmed(alarm, desk.chain.next)
    await desk.head(found, mined=True)
    found = replace(found, flag=replace(found.flag, tranche_nonce=1))
    await desk.head(found, mined=True)
    assert desk.rungs() == ["confirmed", "deleveraging"]
    await desk.head(replace(found, cash_wad=900 * WAD, flag=replace(found.flag, tranche_nonce=2)), mined=True)
    assert desk.rungs()[-1] == "backstop"


async def test_no_more_are_called_than_may_be_and_nobody_suspect_is_left_out(kept: Desk) -> None:
    kept.climb = Climb(most_called=2)
    kept.start()
    others = [replace(NEAR, key=bytes([number]) * 20 + bytes(12)) for number in range(20, 26)]
    await kept.head(*others, BREACHED)
    statuses = [case.status for case in kept.journal.open_cases()]
    assert statuses.count(Status.CALLED) == 2
    assert len(statuses) == 3
    assert kept.pipeline.vitals.rungs["margin_call"] == 6
    assert kept.pipeline.vitals.rungs["suspected"] == 1


@pytest.mark.parametrize("asked", [1, 4_096])
async def test_who_comes_after_those_for_whom_no_call_is_known_is_called(
    kept: Desk, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    others = [replace(NEAR, key=bytes([number]) * 20 + bytes(12)) for number in range(20, 23)]
    of = HybridDesk.call

    def call(desk: HybridDesk, sitting: Any, account: AccountKey, buffer_wad: int) -> MarginCall | None:
        return of(desk, sitting, account, buffer_wad) if account == others[-1].key else None

    monkeypatch.setattr(HybridDesk, "call", call)
    monkeypatch.setattr(care, "ASKED", asked)
    kept.climb = Climb(most_called=1)
    kept.start()
    await kept.head(*others)
    for _ in range(3):
        await kept.head()
    assert [case.account for case in kept.journal.open_cases()] == [others[-1].key]


async def test_nobody_is_called_where_nobody_may_be(kept: Desk) -> None:
    kept.climb = Climb(most_called=0)
    kept.start()
    await kept.head(NEAR)
    assert kept.cases() == []


async def test_people_are_told_of_every_rung(kept: Desk) -> None:
    notices: list[Notice] = []
    kept.notices = notices.append
    kept.start()
    await kept.head(NEAR)
    await kept.head(BREACHED)
    await kept.head(replace(BREACHED, cash_wad=9_000 * WAD, phase=Phase.HEALTHY), mined=True, status=0)
    of_accounts = [each for each in notices if each.about.startswith("0x")]
    assert [(each.rung, each.recovered) for each in of_accounts] == [
        ("margin_call", False), ("suspected", False), ("closed", True)
    ]  # fmt: skip
    assert "deposit 90 0x" in of_accounts[0].text


# --- the book as a whole ---


async def test_lost_feeds_raise_the_book_and_are_journaled(desk: Desk) -> None:
    await desk.head(replace(EMPTY, key=OWNER))
    desk.feed.unknown = {"ETH/USD"}
    await desk.head()
    assert desk.pipeline.vitals.level.name == desk.journal.level().name == "ELEVATED"
    assert "feeds_lost 0.3333" in desk.journal._rows("SELECT why FROM levels")[0]["why"]
    desk.feed.unknown = set()
    desk.restarting = False
    for _ in range(11):
        await desk.head()
    assert desk.pipeline.vitals.level.name == desk.journal.level().name == "NORMAL"
    assert [row["level"] for row in desk.journal._rows("SELECT level FROM levels")] == ["elevated", "normal"]


async def test_reverted_slices_of_the_last_hour_halt_the_book(kept: Desk) -> None:
    kept.limits = Limits(backoff_s=0)
    kept.start()
    await kept.head(BREACHED)
    alarm = flagged(BREACHED, kept.chain.next)
    await kept.head(alarm, mined=True)
    await kept.head()
    await kept.head(confirmed(alarm, kept.chain.next), mined=True)
    for _ in range(5):
        await kept.head(mined=True, status=0)
    assert kept.acts()[-1] == "liquidate"
    assert kept.pipeline.vitals.level is Level.HALTED
    assert kept.pipeline._care._posture.level is Level.HALTED


async def test_alarms_that_revert_as_a_print_is_gone_again_do_not_halt_the_book(kept: Desk) -> None:
    kept.limits = Limits(backoff_s=0)
    kept.start()
    for _ in range(6):
        await kept.head(BREACHED, mined=True, status=0)
    assert kept.told().count("Reverted") == 5
    assert kept.pipeline.vitals.level is Level.NORMAL


async def test_slices_of_one_case_are_told_by_their_rung_and_not_as_new_suspicions(kept: Desk) -> None:
    notices: list[Notice] = []
    kept.notices = notices.append
    kept.start()
    await kept.head(BREACHED)
    alarm = flagged(BREACHED, kept.chain.next)
    await kept.head(alarm, mined=True)
    await kept.head()
    found = confirmed(alarm, kept.chain.next)
    for nonce in range(4):
        await kept.head(replace(found, flag=replace(found.flag, tranche_nonce=nonce)), mined=True)
    told_of = [each.rung for each in notices if each.about.startswith("0x")]
    assert list(dict.fromkeys(told_of)) == ["suspected", "confirmed", "deleveraging"]
    assert told_of.count("confirmed") == told_of.count("deleveraging") == 1


async def test_a_degraded_mirror_and_an_empty_wallet_are_told(kept: Desk) -> None:
    notices: list[Notice] = []
    kept.notices = notices.append
    kept.chain.balance_wei = 0
    kept.start()
    await kept.head()
    kept.pipeline.mirror.audit.degraded = "2 accounts differ"
    kept.pipeline._tell_of_mirror()
    said = {each.about: each for each in notices}
    assert "native currency for gas" in said["wallet"].text
    assert ("degraded", False) in {(each.rung, each.recovered) for each in notices if each.about == "mirror"}
