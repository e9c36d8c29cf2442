"""What the confirmation of cases leaves in the journal, running and started anew before every head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keeper.confirm.policy import BALANCED, CAUTIOUS, Divergence, Policies, Policy
from keeper.desk.hybrid import HybridDesk, Params
from keeper.domain import ChainTime, EventKind, Head, Phase, Reason, Refuse, Unknown, Witnessed
from keeper.errors import ChainFault
from keeper.lifecycle import Status
from keeper.pipeline import AlarmParams
from keeper.pipeline.case import Case, said
from keeper.protocols.hybrid.abi import load
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, Desk, cured, flagged

BTC = "BTC/USD"


def by(desk: Desk, policy: Policy) -> None:
    """Have a desk confirm by a policy."""

    def deciding(wallet: str, taker: Any, params: Params) -> HybridDesk:
        return HybridDesk(wallet, taker, replace(params, confirm=Policies(policy)))

    desk.deciding = deciding  # type: ignore[assignment]
    desk.start()


def events(desk: Desk, kind: EventKind, case: int = 0) -> list[Any]:
    return [event.data for event in desk.history(case) if event.kind is kind]


async def to_flagged(desk: Desk) -> None:
    """Let the keeper flag an account, and the flag be mined."""
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True)


async def test_the_step_tells_the_policy_and_who_showed_the_breach(desk: Desk) -> None:
    await to_flagged(desk)
    await desk.head()
    flag, confirm = events(desk, EventKind.RESERVED)
    assert "agreed" not in flag
    assert not confirm["closes"]
    assert confirm["agreed"]["policy"] == "balanced"
    assert confirm["agreed"]["evidence"].endswith("; BTC/USD by own")


async def test_a_witness_holds_back_what_the_contract_would_confirm(desk: Desk) -> None:
    by(desk, replace(CAUTIOUS, min_delay_s=0))
    heard: dict[str, Any] = {BTC: (Unknown("pool", "no history"),)}

    async def head() -> None:
        # The node tells nothing of witnesses here: they are put in between reading and judging.
        desk.pipeline.mirror._panel = _Told(heard)  # type: ignore[assignment]
        await desk.head()

    desk.restarting = False
    await to_flagged(desk)
    await head()
    await head()
    assert desk.told()[-1] == "Waited confirm.witnesses"
    assert events(desk, EventKind.WAITED)[-1]["evidence"] == "BTC/USD: pool: no history"
    heard[BTC] = (Witnessed("pool", 202 * WAD, desk.chain.next.timestamp_s, 0, 0),)
    await head()
    assert desk.acts() == ["flag"]
    heard[BTC] = (Witnessed("pool", 199 * WAD, desk.chain.next.timestamp_s, 0, 0),)
    await head()
    assert desk.acts() == ["flag", "confirm"]


class _Told:
    """A panel that says what it is told to."""

    def __init__(self, heard: dict[str, Any]) -> None:
        self.heard = heard

    def calls(self) -> list[Any]:
        return []

    def decode(self, answers: Any, at_s: int) -> dict[str, Any]:
        del answers, at_s
        return self.heard


async def test_a_suspicion_that_leads_to_nothing_ends_as_a_false_alarm_and_begins_afresh(desk: Desk) -> None:
    by(desk, replace(BALANCED, timeout_s=24))
    desk.feed.known[BTC] = 180 * WAD
    desk.chain.fast[BTC] = 210 * WAD
    await desk.head(BREACHED)
    for _ in range(4):
        await desk.head()
    # What is waited for is said again after a start.
    began = ["Suspected", "Waited alarm.not_on_chain"]
    assert [*dict.fromkeys(desk.told())] == [*began, "Closed confirm.timed_out"]
    assert [*dict.fromkeys(desk.told(1))] == began
    record = desk.pipeline.vitals.alarms[BTC]
    assert (record.ended, record.false_rate, record.is_slowed) == (1, 1.0, False)


async def test_alarms_are_counted_once_however_often_a_start_fails(kept: Desk) -> None:
    by(kept, replace(BALANCED, timeout_s=24))
    kept.feed.known[BTC] = 180 * WAD
    kept.chain.fast[BTC] = 210 * WAD
    await kept.head(BREACHED)
    for _ in range(3):
        await kept.head()
    kept.start()
    kept.chain.fails = ["eth_getBalance"]
    with pytest.raises(ChainFault):
        await kept.hear()
    await kept.head()
    assert kept.pipeline.vitals.alarms[BTC].ended == 1


async def test_what_somebody_else_took_is_told_with_the_rule_that_held_us(desk: Desk) -> None:
    desk.chain.slow[BTC] = 202 * WAD
    await to_flagged(desk)
    for _ in range(3):
        await desk.head()
    assert desk.told()[-1] == "Waited confirm.no_breach_at_slow"
    await desk.head(emitted=("Liquidator", "Tranche", *_tranche()))
    await desk.head(replace(cured(BREACHED), phase=Phase.HEALTHY))
    [closed] = events(desk, EventKind.CLOSED)
    assert closed["left_to_others"]["rule"] == "confirm.no_breach_at_slow"
    assert closed["left_to_others"]["act"] == "Tranche"
    assert desk.pipeline.vitals.alarms[BTC].false_rate == 0


def _tranche() -> list[Any]:
    """Return values of the event of a slice that another taker took."""
    kinds = [kind for _, kind, _ in load("Liquidator").events["Tranche"].parameters]
    first = True
    values: list[Any] = []
    for kind in kinds:
        if kind == "bytes32":
            values.append(BREACHED.key if first else bytes([9]) * 32)
            first = False
        elif kind == "address":
            values.append("0x" + "99" * 20)
        elif kind.endswith("[]"):
            values.append([])
        else:
            values.append(0)
    return values


async def test_a_market_that_alarmed_falsely_is_slowed_after_a_restart_too(desk: Desk) -> None:
    desk.alarms = AlarmParams(least=2, most_false=0.5)
    by(desk, replace(BALANCED, timeout_s=24))
    desk.feed.known[BTC] = 180 * WAD
    desk.chain.fast[BTC] = 210 * WAD
    await desk.head(BREACHED)
    for _ in range(8):
        await desk.head()
    record = desk.pipeline.vitals.alarms[BTC]
    assert (record.false_rate, record.is_slowed) == (1.0, True)
    assert desk.pipeline._care._standing(ChainTime(0, 0)).slowed == {BTC}


async def test_a_restart_knows_what_became_of_alarms(kept: Desk) -> None:
    await to_flagged(kept)
    for _ in range(2):
        await kept.head()
    found = kept.pipeline.vitals.alarms
    assert (found[BTC].lead_s, found[BTC].lead_blocks) == (24, 2)
    kept.start()
    await kept.head()
    assert kept.pipeline.vitals.alarms == found


def test_the_same_rule_on_another_feed_is_said_again() -> None:
    case = Case("case", ChainTime(100, 0), Status.SUSPECTED)
    head = Head(100, "0xa", "0xb", 0, 0)
    told = []
    for feed in (BTC, BTC, "ETH/USD", BTC):
        tripped = Refuse(Reason("oracle.breaker", "2 %", "1 %", feed))
        told += said(case, bytes(32), tripped, head)
    assert [each.data["feed"] for each in told] == [BTC, "ETH/USD", BTC]


async def test_a_breaker_that_tripped_holds_after_the_clocks_have_met_again(desk: Desk) -> None:
    by(desk, replace(BALANCED, divergence=Divergence.BREAKER, max_divergence_wad=WAD // 100))
    await to_flagged(desk)
    desk.chain.slow[BTC] = 196 * WAD
    await desk.head()
    desk.chain.slow[BTC] = 200 * WAD
    for _ in range(3):
        await desk.head()
    assert desk.acts() == ["flag"]
    refused = [each["rule"] for each in events(desk, EventKind.REFUSED)]
    assert [*dict.fromkeys(refused)] == ["oracle.breaker", "oracle.tripped"]
    assert {each["feed"] for each in events(desk, EventKind.REFUSED)} == {BTC}
