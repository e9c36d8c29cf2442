"""What is told of a keeper, and what it is good for."""

import time
from dataclasses import replace

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from keeper.alerts import Sent
from keeper.chain.health import Health
from keeper.domain import Head, Level
from keeper.errors import ConfigError
from keeper.execute.transports import Tally
from keeper.metrics import Gauges, Reading, Status, judge, served
from keeper.ports import AlarmRecord, Leadership, Measure, Nearest, Spread, Switch, Thrown, Ticks, Vitals

NOW_S = 1_700_000_000
HEAD = Head(123, "0xab", "0xaa", NOW_S - 5, 7)
VITALS = Vitals(
    accounts=1_000,
    dirty=3,
    done=HEAD,
    mirror_at_s=HEAD.timestamp_s,
    degraded=None,
    checked=400,
    differences=0,
    cases=2,
    logs_waiting=0,
    facts_waiting=1,
)
FAST = Health("http://fast", 123, 0, 12.5, 0.0, None, None, 77, 0.5)
SLOW = Health("http://slow", None, None, None, 1.0, 0.0, "no answer", 3, 0.0)
READING = Reading(VITALS, [FAST, SLOW], True, None, 0.0, 0, 9)


@pytest.mark.parametrize(
    ("reading", "status", "why"),
    [
        (READING, Status.HEALTHY, ""),
        (replace(READING, vitals=replace(VITALS, degraded="1 accounts differed")), Status.DEGRADED, "1 acc"),
        (replace(READING, signer_fault="the signer is away"), Status.DEGRADED, "the signer is away"),
        (replace(READING, vitals=replace(VITALS, done=None)), Status.DOWN, "no head is done yet"),
        (
            replace(READING, vitals=replace(VITALS, done=replace(HEAD, timestamp_s=NOW_S - 61))),
            "down",
            "61 s",
        ),
        (
            replace(
                READING, clock_off_s=90.4, vitals=replace(VITALS, done=replace(HEAD, timestamp_s=NOW_S - 95))
            ),
            Status.DOWN,
            "95 s old, by a local clock that is off by 90 s",
        ),
        (replace(READING, fault="null"), Status.DOWN, "cannot be read: null"),
        (replace(READING, endpoints=[SLOW]), Status.DOWN, "no endpoint"),
    ],
)
def test_a_keeper_is_healthy_degraded_or_down_and_says_why(
    reading: Reading, status: Status, why: str
) -> None:
    found, reasons = judge(reading, NOW_S, 12)
    assert found is Status(status)
    assert why in "; ".join(reasons)
    assert bool(reasons) == (found is not Status.HEALTHY)


LEADER = Leadership(leads=True, holder="a/1", lease=7, left_s=3.5)
STANDBY = replace(READING, leadership=replace(LEADER, leads=False), vitals=replace(VITALS, done=None))


def test_a_standby_is_healthy_by_the_head_that_it_has_read() -> None:
    assert judge(STANDBY, NOW_S, 12) == (Status.HEALTHY, [])
    late = replace(STANDBY, vitals=replace(STANDBY.vitals, mirror_at_s=NOW_S - 61))
    assert judge(late, NOW_S, 12) == (Status.DOWN, ["the last head is 61 s old"])


def test_who_leads_is_told() -> None:
    for reading, leads in ((STANDBY, 0), (replace(READING, leadership=LEADER), 1)):
        found = {metric.name: metric for metric in Gauges(lambda told=reading: told).collect()}  # type: ignore[misc]
        values = [found[f"keeper_{name}"].samples[0].value for name in ("leads", "lease_number")]
        assert values == [leads, 7]
    assert "keeper_leads" not in {metric.name for metric in Gauges(lambda: READING).collect()}


def of_now(reading: Reading) -> Reading:
    """Make the head that was done last five seconds old: the pages go by the machine's own clock."""
    if reading.vitals.done is None:
        return reading
    head = replace(reading.vitals.done, timestamp_s=int(time.time()) - 5)
    return replace(reading, vitals=replace(reading.vitals, done=head, mirror_at_s=head.timestamp_s))


async def told(reading: Reading) -> tuple[dict[tuple[str, str], float], int, dict[str, object]]:
    """Return every sample by name and label, and what /healthz answers."""
    reading = of_now(reading)
    async with (
        served(0, lambda: reading, block_time_s=12) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        async with session.get("/metrics") as answer:
            families = list(text_string_to_metric_families(await answer.text()))
        async with session.get("/healthz") as answer:
            status, said = answer.status, await answer.json()
    samples = {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in families
        for sample in family.samples
    }
    return samples, status, said


async def test_what_each_transport_did_is_told() -> None:
    tally = Tally(included=2, blocks=5)
    for answer in ("taken", "taken", "unknown"):
        tally.note(answer, 0.25)
    samples, *_ = await told(replace(READING, transports={"bundle": tally}))
    assert samples["keeper_sends_total", "taken"] == 2
    assert samples["keeper_sends_total", "unknown"] == 1
    assert samples["keeper_send_seconds_total", "bundle"] == 0.75
    assert samples["keeper_sends_included_total", "bundle"] == 2
    assert samples["keeper_sends_included_blocks_total", "bundle"] == 5


async def test_how_steps_ended_is_told() -> None:
    samples, *_ = await told(replace(READING, endings={"reverted": 2, "race_lost": 5}))
    assert (samples["keeper_steps", "reverted"], samples["keeper_steps", "race_lost"]) == (2, 5)


async def test_everything_is_told_under_its_name() -> None:
    samples, status, said = await told(READING)
    assert samples["keeper_head_block", ""] == 123
    assert 5 <= samples["keeper_head_age_seconds", ""] < 60
    assert 5 <= samples["keeper_mirror_age_seconds", ""] < 60
    assert samples["keeper_rows_dirty", ""] == 3
    assert samples["keeper_mismatches_total", ""] == 0
    assert samples["keeper_queue_depth", "announced"] == 9
    assert samples["keeper_rpc_lag_blocks", "http://fast"] == 0
    assert samples["keeper_rpc_latency_seconds", "http://fast"] == 0.0125
    assert samples["keeper_rpc_calls_total", "http://slow"] == 3
    assert samples["keeper_rpc_budget_used", "http://fast"] == 0.5
    assert samples["keeper_rpc_in_service", "http://slow"] == 0
    expected = {"status": "healthy", "why": [], "block": 123, "clock_off_s": 0.0}
    assert (status, said) == (200, {**expected, "level": "normal", "level_why": "", "stopped": []})
    assert (samples["keeper_halted", ""], samples["keeper_breaker_open", "jump"]) == (0, 0)


@pytest.mark.parametrize(
    ("switch", "halted"), [(Switch.HALT, 1), (Switch.FOREIGN, 1), (Switch.PAUSE, 0), (Switch.JUMP, 0)]
)
async def test_whatever_stops_everything_shows_as_a_halt(switch: Switch, halted: int) -> None:
    thrown = (Thrown(switch, "", "rule", "", NOW_S),)
    samples, *_ = await told(replace(READING, vitals=replace(VITALS, thrown=thrown)))
    assert samples["keeper_halted", ""] == halted


async def test_limits_and_what_stops_the_wallet_are_told() -> None:
    thrown = (
        Thrown(Switch.HALT, "", "SIGUSR1", "", NOW_S),
        Thrown(Switch.PAUSE, "ETH/USD", "command of user 7", "delisted", NOW_S),
        Thrown(Switch.JUMP, "ETH/USD", "rule", "0.6, bound 0.5", NOW_S, NOW_S + 600),
    )
    measures = (
        Measure("spend_day", "", 0.25, 0.5, "native", own=0.125),
        Measure("inventory", "ETH/USD", 7, None, "quote", own=7),
    )
    samples, status, said = await told(
        replace(READING, vitals=replace(VITALS, thrown=thrown), measures=measures)
    )
    assert samples["keeper_limit_used", "spend_day"] == 0.25
    assert samples["keeper_limit_own", "spend_day"] == 0.125
    assert samples["keeper_limit_bound", "spend_day"] == 0.5
    assert samples["keeper_limit_used", "inventory"] == 7
    assert ("keeper_limit_bound", "inventory") not in samples
    assert samples["keeper_breaker_open", "jump"] == 1
    assert (samples["keeper_halted", ""], samples["keeper_markets_paused", ""]) == (1, 1)
    assert (status, said["status"]) == (200, "degraded")
    assert said["stopped"] == [
        "halt is on by SIGUSR1",
        "pause ETH/USD is on by command of user 7: delisted",
        "jump ETH/USD tripped by rule: 0.6, bound 0.5",
    ]


async def test_how_late_the_trigger_is_is_told_as_a_histogram() -> None:
    spread = Spread({0.01: 2, 0.05: 3}, 4, 0.5, 0.25)
    found = Ticks(4, coalesced=1, suspects=7, late=spread, scored=spread, answered=spread, ready=32)
    samples, _, _ = await told(replace(READING, vitals=replace(VITALS, ticks=found)))
    assert samples["keeper_trigger_lateness_seconds_bucket", "0.01"] == 2
    assert samples["keeper_trigger_lateness_seconds_bucket", "+Inf"] == 4
    assert samples["keeper_trigger_lateness_seconds_sum", ""] == 0.5
    assert samples["keeper_trigger_lateness_most_seconds", ""] == 0.25
    assert samples["keeper_alarm_seconds_count", ""] == 4
    assert (samples["keeper_ticks_total", ""], samples["keeper_ticks_coalesced_total", ""]) == (4, 1)
    assert (samples["keeper_tick_suspects_total", ""], samples["keeper_accounts_ready", ""]) == (7, 32)


async def test_how_good_alarms_are_is_told_by_feed() -> None:
    alarms = {
        "ETH/USD": AlarmRecord(9, 0.25, 36, 3, is_slowed=True),
        "BTC/USD": AlarmRecord(0, None, None, None, is_slowed=False),
    }
    samples, _, _ = await told(replace(READING, vitals=replace(VITALS, alarms=alarms)))
    assert samples["keeper_alarm_lead_seconds", "ETH/USD"] == 36
    assert samples["keeper_alarm_lead_blocks", "ETH/USD"] == 3
    assert samples["keeper_false_alarm_rate", "ETH/USD"] == 0.25
    assert [samples["keeper_market_slowed", feed] for feed in alarms] == [1, 0]
    assert ("keeper_alarm_lead_seconds", "BTC/USD") not in samples


async def test_rungs_level_and_notices_are_told() -> None:
    vitals = replace(VITALS, rungs={"watch": 7, "margin_call": 2}, level=Level.STRESSED, why="reverts 0.5")
    samples, status, said = await told(
        replace(READING, vitals=vitals, alerts=Sent(3, suppressed=2, failed=1))
    )
    assert (samples["keeper_accounts_rung", "watch"], samples["keeper_accounts_rung", "margin_call"]) == (
        7,
        2,
    )
    assert samples["keeper_book_level", ""] == 2
    names = ("sent", "suppressed", "failed")
    assert [samples[f"keeper_alerts_{name}_total", ""] for name in names] == [3, 2, 1]
    assert (status, said["level"], said["level_why"]) == (200, "stressed", "reverts 0.5")


async def test_how_near_the_nearest_are_is_told() -> None:
    near = Nearest(1.5, {1: 0, 2: 3, 3: 7})
    samples, _, _ = await told(replace(READING, vitals=replace(VITALS, nearest=near)))
    assert samples["keeper_nearest_sigmas", ""] == 1.5
    assert [samples["keeper_accounts_near", str(bound)] for bound in (1, 2, 3)] == [0, 3, 7]
    far = replace(VITALS, nearest=Nearest(None, {1: 0}))
    samples, _, _ = await told(replace(READING, vitals=far))
    assert ("keeper_nearest_sigmas", "") not in samples


async def test_without_ticks_nothing_is_told_of_them() -> None:
    samples, _, _ = await told(READING)
    assert not [name for name, _ in samples if "tick" in name or "ready" in name]


async def test_what_is_not_known_is_left_out_and_not_zero() -> None:
    samples, status, said = await told(replace(READING, vitals=replace(VITALS, done=None, mirror_at_s=None)))
    assert not {"keeper_head_age_seconds", "keeper_mirror_age_seconds"} & {name for name, _ in samples}
    assert ("keeper_rpc_lag_blocks", "http://slow") not in samples
    assert (status, said["status"]) == (503, "down")


async def test_a_degraded_keeper_is_no_reason_for_a_restart() -> None:
    samples, status, said = await told(replace(READING, vitals=replace(VITALS, degraded="2 differed")))
    assert (status, said["status"]) == (200, "degraded")
    assert samples["keeper_degraded", ""] == 1


async def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    async with served(0, lambda: READING, block_time_s=12) as port:
        with pytest.raises(ConfigError, match=f"health.port {port}"):
            async with served(port, lambda: READING, block_time_s=12):
                pass


async def test_without_a_port_nothing_is_served() -> None:
    async with served(None, lambda: READING, block_time_s=12) as port:
        assert port is None
