"""How the keeper does, for whoever watches it: ``/metrics`` for Prometheus, ``/healthz`` for everybody else.

Served on the loopback address only, and read at the moment of the request: nothing is counted twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from keeper.errors import ConfigError
from keeper.ports import BREAKERS, AlarmRecord, Leadership, Measure, Spread, Switch, Thrown, Ticks, Vitals
from keeper.units import WAD, Block, UnixS

log = structlog.get_logger()

LOOPBACK = "127.0.0.1"
LATE_BLOCKS = 5
"""A keeper whose last head is older than so many block times is down."""


class Endpoint(Protocol):
    """What is told of one endpoint (``chain.health.Health``)."""

    @property
    def endpoint(self) -> str: ...
    @property
    def head(self) -> Block | None: ...
    @property
    def lag(self) -> Block | None: ...
    @property
    def latency_ms(self) -> float | None: ...
    @property
    def error_rate(self) -> float: ...
    @property
    def why(self) -> str | None: ...
    @property
    def calls(self) -> int: ...
    @property
    def budget_used(self) -> float: ...


class Alerted(Protocol):
    """What is told of notices (``alerts.Sent``)."""

    @property
    def sent(self) -> int: ...
    @property
    def suppressed(self) -> int: ...
    @property
    def failed(self) -> int: ...


class Transported(Protocol):
    """What is told of one transport (``execute.transports.Tally``)."""

    @property
    def answers(self) -> Mapping[str, int]: ...
    @property
    def answer_s(self) -> float: ...
    @property
    def included(self) -> int: ...
    @property
    def blocks(self) -> Block: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is told, as of one moment."""

    vitals: Vitals
    endpoints: Sequence[Endpoint]
    listening: bool
    """Whether the websocket is up."""
    fault: str | None
    """Why the newest head could not be read."""
    clock_off_s: float
    logs_left_out: int
    logs_heard: int
    """Announced logs that wait for their cross-check."""
    alerts: Alerted | None = None
    signer_fault: str | None = None
    """Why nobody signs."""
    measures: Sequence[Measure] = ()
    """How much of each limit is used."""
    endings: Mapping[str, int] = field(default_factory=dict)
    """How many steps of the last day ended how, and how many are in flight."""
    leadership: Leadership | None = None
    """Who leads, where the journal is shared."""
    transports: Mapping[str, Transported] = field(default_factory=dict)

    @property
    def worked_at_s(self) -> UnixS | None:
        """When the head was that was done last; of a standby, that was read last."""
        if self.leadership is not None and not self.leadership.leads:
            return self.vitals.mirror_at_s
        return self.vitals.done.timestamp_s if self.vitals.done else None


class Status(StrEnum):
    """What a keeper is good for."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """It works, on a mirror that was found to differ from the chain, or it is kept from acting."""
    DOWN = "down"
    """It does not follow the chain."""


def judge(reading: Reading, now_s: float, block_time_s: float) -> tuple[Status, list[str]]:
    """Return how a keeper does, and all that speaks against it; pure."""
    down = []
    age_s = _age_s(reading.worked_at_s, now_s)
    if age_s is None:
        down.append("no head is done yet")
    elif age_s > LATE_BLOCKS * block_time_s:
        off_s = reading.clock_off_s
        by = f", by a local clock that is off by {off_s:.0f} s" if off_s else ""
        down.append(f"the last head is {age_s:.0f} s old{by}")
    if reading.fault is not None:
        down.append(f"the newest head cannot be read: {reading.fault}")
    if reading.endpoints and all(each.why is not None for each in reading.endpoints):
        down.append("no endpoint is in service")
    doubts = [why for why in (reading.vitals.degraded, reading.signer_fault) if why]
    doubts += map(stopped, reading.vitals.thrown)
    if down:
        return Status.DOWN, [*down, *doubts]
    return (Status.DEGRADED, doubts) if doubts else (Status.HEALTHY, [])


def stopped(thrown: Thrown) -> str:
    """Say what stops the wallet, and why."""
    state = "tripped" if thrown.switch in BREAKERS else "is on"
    return f"{thrown.name} {state} {thrown.told}"


@dataclass(frozen=True, slots=True)
class Gauges(Collector):
    """Tells Prometheus what a reading holds."""

    read: Callable[[], Reading]
    clock: Callable[[], float] = time.time

    def collect(self) -> Iterator[Metric]:
        """Take a reading, and yield it in Prometheus' words."""
        reading, now_s = self.read(), self.clock()
        vitals = reading.vitals
        done = vitals.done
        yield from _gauges(
            {
                "head_block": ("Number of the head that was done last.", done.number if done else None),
                "head_age_seconds": (
                    "Its age, by the local clock.",
                    _age_s(done.timestamp_s if done else None, now_s),
                ),
                "mirror_age_seconds": ("Age of the rows, likewise.", _age_s(vitals.mirror_at_s, now_s)),
                "accounts": ("Accounts in the mirror.", vitals.accounts),
                "rows_dirty": ("Accounts to be read at the next head.", vitals.dirty),
                "degraded": ("1 while the mirror is in doubt.", int(vitals.degraded is not None)),
                "cases_open": ("Accounts under care.", vitals.cases),
                "signer_up": ("0 while nobody signs.", int(reading.signer_fault is None)),
                "websocket_up": ("1 while heads and logs are announced.", int(reading.listening)),
                "clock_off_seconds": ("By how much the local clock is off.", reading.clock_off_s),
            }
        )
        if (leadership := reading.leadership) is not None:
            yield from _gauges(
                {
                    "leads": ("1 while this keeper leads, 0 while it stands by.", int(leadership.leads)),
                    "lease_number": ("One more with every leader.", leadership.lease),
                    "lease_left_seconds": ("Until the lease ends, when it was last seen.", leadership.left_s),
                }
            )
        yield from _counters(
            {
                "accounts_checked": ("Accounts held against the chain.", vitals.checked),
                "mismatches": ("Accounts that the chain had otherwise.", vitals.differences),
                "logs_left_out": ("Logs announced that no read had delivered.", reading.logs_left_out),
            }
        )
        depths = {
            "logs": vitals.logs_waiting,
            "facts": vitals.facts_waiting,
            "announced": reading.logs_heard,
        }
        yield _by("queue_depth", "What waits.", "queue", depths)
        yield from _gauges({"book_level": ("0 normal, 1 elevated, 2 stressed, 3 halted.", vitals.level)})
        yield _by("accounts_rung", "Accounts on each rung of their ladder.", "rung", {**vitals.rungs})
        yield from _of_limits(reading.measures, vitals.thrown)
        ended = "Steps of the last 24 h by how they ended, and those in flight."
        yield _by("steps", ended, "outcome", reading.endings)
        if reading.alerts is not None:
            yield from _of_alerts(reading.alerts)
        if vitals.ticks is not None:
            yield from _of_ticks(vitals.ticks)
        if vitals.nearest is not None:
            yield from _gauges(
                {
                    "nearest_sigmas": (
                        "Days' standard deviations to the nearest breach.",
                        vitals.nearest.sigmas,
                    )
                }
            )
            within = {str(bound): count for bound, count in vitals.nearest.within.items()}
            yield _by("accounts_near", "Accounts within so many of them, of 64.", "sigmas", within)
        yield from _of_alarms(vitals.alarms)
        if vitals.flow is not None:
            by_feed = vitals.flow.by_feed
            flows = {feed: flow_wad / WAD for feed, (flow_wad, _) in by_feed.items()}
            depths_there = {feed: depth_wad / WAD for feed, (_, depth_wad) in by_feed.items()}
            yield _by("flow_quote", "What lower prices would have liquidated.", "feed", flows)
            yield _by("depth_quote", "What the market takes of it within a minute.", "feed", depths_there)
            ratio = ("The flow over the depth, where it is worst.", vitals.flow.ratio)
            yield from _gauges({"flow_ratio": ratio})
        yield from _of_transports(reading.transports)
        yield from self._of_endpoints(reading.endpoints)

    @staticmethod
    def _of_endpoints(endpoints: Sequence[Endpoint]) -> Iterator[Metric]:
        def by(name: str, text: str, of: Callable[[Endpoint], float | None]) -> Metric:
            return _by(name, text, "endpoint", {each.endpoint: of(each) for each in endpoints})

        yield by("rpc_head_block", "The endpoint's head.", lambda each: each.head)
        yield by("rpc_lag_blocks", "Blocks behind the best.", lambda each: each.lag)
        yield by(
            "rpc_latency_seconds",
            "Mean time to an answer.",
            lambda each: None if each.latency_ms is None else each.latency_ms / 1e3,
        )
        yield by("rpc_error_rate", "Running share of faults.", lambda each: each.error_rate)
        yield by("rpc_in_service", "0 while set aside.", lambda each: int(each.why is None))
        yield by("rpc_budget_used", "Share of the last second's budget.", lambda each: each.budget_used)
        calls = CounterMetricFamily("keeper_rpc_calls", "Calls since the start.", labels=["endpoint"])
        for each in endpoints:
            calls.add_metric([each.endpoint], each.calls)
        yield calls


@asynccontextmanager
async def served(
    port: int | None, read: Callable[[], Reading], *, block_time_s: float
) -> AsyncIterator[int | None]:
    """Serve both pages while the block lasts; port 0 takes a free one, None serves nothing."""
    if port is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(Gauges(read))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )

    async def healthz(_: web.Request) -> web.Response:
        reading = read()
        status, why = judge(reading, time.time(), block_time_s)
        done = reading.vitals.done
        said = {
            "status": status,
            "why": why,
            "block": done.number if done else None,
            "clock_off_s": reading.clock_off_s,
            "level": reading.vitals.level.name.lower(),
            "level_why": reading.vitals.why,
            "stopped": [stopped(each) for each in reading.vitals.thrown],
        }
        if reading.leadership is not None:
            said |= {"leads": reading.leadership.leads, "leader": reading.leadership.holder}
        return web.json_response(said, status=503 if status is Status.DOWN else 200)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, LOOPBACK, port).start()
        except OSError as error:
            raise ConfigError(f"health.port {port} cannot be listened on: {error.strerror}") from error
        bound: int = runner.addresses[0][1]
        log.info("health.served", address=f"http://{LOOPBACK}:{bound}", pages=["/metrics", "/healthz"])
        yield bound
    finally:
        await runner.cleanup()


def _age_s(timestamp_s: UnixS | None, now_s: float) -> float | None:
    return None if timestamp_s is None else now_s - timestamp_s


def _gauges(values: dict[str, tuple[str, float | None]]) -> Iterator[Metric]:
    """Yield what is known; a gauge without a value is left out, not zero."""
    for name, (text, value) in values.items():
        if value is not None:
            yield GaugeMetricFamily(f"keeper_{name}", text, value=value)


def _counters(values: dict[str, tuple[str, float]]) -> Iterator[Metric]:
    for name, (text, value) in values.items():
        yield CounterMetricFamily(f"keeper_{name}", text, value=value)


def _of_alerts(alerts: Alerted) -> Iterator[Metric]:
    yield from _counters(
        {
            "alerts_sent": ("Notices that a messenger took.", alerts.sent),
            "alerts_suppressed": ("Notices that were only summed up.", alerts.suppressed),
            "alerts_failed": ("Notices that a messenger did not take.", alerts.failed),
        }
    )


def _of_limits(measures: Sequence[Measure], thrown: Sequence[Thrown]) -> Iterator[Metric]:
    names = ["limit", "market", "unit"]
    used = GaugeMetricFamily("keeper_limit_used", "How much of a limit the wallet has used.", labels=names)
    own = GaugeMetricFamily("keeper_limit_own", "How much of it this deployment has.", labels=names)
    bounds = GaugeMetricFamily("keeper_limit_bound", "The limit, where there is one.", labels=names)
    for each in measures:
        labels = [each.limit, each.subject, each.unit]
        used.add_metric(labels, each.used)
        own.add_metric(labels, each.own)
        if each.bound is not None:
            bounds.add_metric(labels, each.bound)
    yield from (used, own, bounds)
    tripped = Counter(each.switch for each in thrown)
    halted = any(tripped[each] for each in (Switch.HALT, Switch.FOREIGN))
    yield _by(
        "breaker_open", "On how many feeds it is open.", "breaker", {each: tripped[each] for each in BREAKERS}
    )
    yield from _gauges(
        {
            "halted": ("1 while nothing is permitted.", int(halted)),
            "markets_paused": ("Markets on which nothing is permitted.", tripped[Switch.PAUSE]),
        }
    )


def _of_ticks(ticks: Ticks) -> Iterator[Metric]:
    yield from _counters(
        {
            "ticks": ("Ticks of prices between heads.", ticks.count),
            "ticks_coalesced": ("Ticks whose suspects joined others that still waited.", ticks.coalesced),
            "tick_suspects": ("Accounts that ticks handed over to be judged.", ticks.suspects),
        }
    )
    yield from _spread("trigger_lateness", "From a tick's arrival until its suspects are known.", ticks.late)
    yield from _spread("trigger_scoring", "What scoring takes of that.", ticks.scored)
    yield from _spread(
        "alarm", "From a tick's arrival until its suspects are judged and acted on.", ticks.answered
    )
    yield from _gauges({"accounts_ready": ("Accounts whose acts are built and simulated.", ticks.ready)})


def _of_transports(transports: Mapping[str, Transported]) -> Iterator[Metric]:
    answers = CounterMetricFamily("keeper_sends", "Transactions handed over.", labels=["via", "answer"])
    for via, each in transports.items():
        for answer, count in each.answers.items():
            answers.add_metric([via, answer], count)
    yield answers
    told: dict[str, tuple[str, Callable[[Transported], float]]] = {
        "send_seconds": ("How long the answers took, all together.", lambda each: each.answer_s),
        "sends_included": ("Transactions included that it had taken last.", lambda each: each.included),
        "sends_included_blocks": ("Blocks from permit to inclusion, all together.", lambda each: each.blocks),
    }
    for name, (text, of) in told.items():
        family = CounterMetricFamily(f"keeper_{name}", text, labels=["via"])
        for via, each in transports.items():
            family.add_metric([via], of(each))
        yield family


def _of_alarms(alarms: Mapping[str, AlarmRecord]) -> Iterator[Metric]:
    def by(name: str, text: str, of: Callable[[AlarmRecord], float | None]) -> Metric:
        return _by(name, text, "feed", {feed: of(each) for feed, each in alarms.items()})

    yield by("alarm_lead_seconds", "From an alarm to its agreement, the median.", lambda each: each.lead_s)
    yield by("alarm_lead_blocks", "The same in blocks.", lambda each: each.lead_blocks)
    yield by("false_alarm_rate", "Share of ended alarms that were false.", lambda each: each.false_rate)
    yield by("market_slowed", "1 while confirmed more cautiously.", lambda each: int(each.is_slowed))


def _spread(name: str, text: str, spread: Spread) -> Iterator[Metric]:
    """Yield a histogram, and the most that was ever measured."""
    bounds = [(f"{bound:g}", float(count)) for bound, count in spread.within.items()]
    buckets = [*bounds, ("+Inf", float(spread.count))]
    yield HistogramMetricFamily(f"keeper_{name}_seconds", text, buckets=buckets, sum_value=spread.total_s)
    yield from _gauges({f"{name}_most_seconds": (f"{text} The most since the start.", spread.most_s)})


def _by(name: str, text: str, label: str, values: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(f"keeper_{name}", text, labels=[label])
    for each, value in values.items():
        if value is not None:
            family.add_metric([each], value)
    return family
