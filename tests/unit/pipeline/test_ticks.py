"""What a tick between two heads leads to, and what it never does."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from structlog.testing import capture_logs

from keeper.desk.hybrid import HybridDesk
from keeper.domain import Account, Leg, Log, Unknown
from keeper.errors import ChainFault, InvariantBroken
from keeper.execute.sender import ChainSender
from keeper.journal.guard import Limits
from keeper.journal.sqlite import SqliteDb
from keeper.journal.store import SqliteJournal
from keeper.pipeline import loop, watch
from keeper.pipeline.care import Care
from keeper.ports import BlockUpdate, Switch, Ticks
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.trigger import Trigger
from keeper.units import WAD, FeedId, Wad
from tests.unit.execute.distant import Distant
from tests.unit.pipeline.desk import (
    BREACHED,
    FIRST,
    KEEPER,
    KEY,
    SIGNER,
    Desk,
    confirmed,
    cured,
    flagged,
)
from tests.unit.pipeline.test_posting import posted, with_reports
from tests.unit.pipeline.ticking import Ticker

OTHER = replace(BREACHED, key=b"\x0c" * 20 + bytes(12))
FLAGGED = ["Suspected", "Reserved flag", "Sent"]
BTC, ABOVE, BELOW = "BTC/USD", 203 * WAD, 200 * WAD
"""At the first price off chain nobody is suspect; on chain the price is the second one."""
NOT_BREACHED = load("Liquidator").errors["NotBreached"].selector + encode(["int256", "uint256"], [7, 5])
STALE = load("Liquidator").errors["StaleOracle"].selector + encode(["bytes32"], [BREACHED.key])
SEND, TIPS = "eth_sendRawTransaction", "eth_feeHistory"


@pytest.fixture
def live(kept: Desk) -> Desk:
    """A keeper whose prices move between the heads; nobody is suspect at first."""
    kept.feed = Ticker(kept.chain, known={BTC: ABOVE})
    kept.start()
    return kept


def ticker(desk: Desk) -> Ticker:
    assert isinstance(desk.feed, Ticker)
    return desk.feed


def ticks(desk: Desk) -> Ticks:
    found = desk.pipeline.vitals.ticks
    assert found is not None
    return found


async def head(desk: Desk, *changes: Account) -> None:
    """Work on a head, and get ready."""
    await desk.head(*changes)
    await desk.pipeline.prepare()
    desk.chain.asked.clear()


async def tick(desk: Desk, price_wad: int) -> None:
    """Let the price move, and whoever it makes suspect be judged."""
    desk.pipeline.on_tick(ticker(desk).move(BTC, price_wad))
    await desk.pipeline.on_alarm()


# --- ready accounts ------------------------------------------------------------------------------


async def test_a_suspicion_becomes_a_signed_transaction_without_a_round_trip(live: Desk) -> None:
    await head(live, BREACHED)
    assert (live.cases(), live.chain.simulated, ticks(live).ready) == ([], ["flag"], 1)
    await tick(live, BELOW)
    assert live.chain.asked == [SEND]
    assert live.told() == FLAGGED
    assert live.history()[0].data["score"] == "E 900.00, M 1000.00"


@asynccontextmanager
async def scored(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[list[str]]]:
    """Run; yield what the node had been handed whenever a tick scored everybody."""
    found: list[list[str]] = []
    whole = Trigger.tick

    def tick(trigger: Trigger, *args: Any) -> Any:
        found.append([*desk.chain.asked])
        return whole(trigger, *args)

    monkeypatch.setattr(Trigger, "tick", tick)
    async with running(desk):
        await until(lambda: ticks(desk).ready)
        desk.chain.asked.clear()
        found.clear()
        yield found


async def test_what_is_ready_is_on_its_way_before_all_others_are_scored(
    live: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.chain.put(BREACHED)
    async with scored(live, monkeypatch) as found:
        ticker(live).move(BTC, BELOW)
        await until(lambda: found)
        assert found == [[SEND]]
        await until(lambda: live.told() == FLAGGED)
        # It is looked at no more before the others: its transaction is out.
        assert not live.pipeline._watch.is_free


async def test_where_nobody_is_suspect_of_those_who_are_ready_all_are_scored_at_once(
    live: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.chain.put(BREACHED)
    async with scored(live, monkeypatch) as found:
        ticker(live).move(BTC, ABOVE - WAD // 100)
        await until(lambda: found)
        assert found == [[]]
        assert live.pipeline._watch.is_free


async def test_nobody_is_looked_at_first_while_somebody_else_is_judged(
    live: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.chain.put(BREACHED)
    async with scored(live, monkeypatch) as found:
        async with live.pipeline.busy:
            ticker(live).move(BTC, BELOW)
            await until(lambda: found)
            assert found == [[]]
        await until(lambda: live.told() == FLAGGED)


async def test_a_glance_is_nothing_to_a_keeper_without_a_head(live: Desk) -> None:
    assert not live.pipeline.on_news(ticker(live).move(BTC, BELOW))
    await head(live, BREACHED)
    live.pipeline._moment = None
    assert not live.pipeline.on_news(ticker(live).move(BTC, BELOW))


async def test_a_head_lets_go_whom_a_glance_has_found(live: Desk) -> None:
    await head(live, BREACHED)
    assert live.pipeline.on_news(ticker(live).move(BTC, BELOW))
    ticker(live).move(BTC, ABOVE)
    await live.head()
    live.chain.asked.clear()
    await live.pipeline.on_alarm()
    assert (live.chain.asked, live.told()) == ([], [])


async def test_the_journal_has_the_time_from_the_tick_to_the_transaction(live: Desk) -> None:
    await head(live, BREACHED)
    await tick(live, BELOW)
    took_ms = live.history()[-1].data["tick_to_tx_ms"]
    assert isinstance(took_ms, float)
    assert 0 < took_ms < 1_000


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each transaction of a journal that was begun, whether its commit waits for the disk."""
    found: list[bool] = []

    def begin(db: SqliteDb, *, lasting: bool = True) -> None:
        found.append(lasting)
        whole(db, lasting=lasting)

    whole = SqliteDb.begin
    monkeypatch.setattr(SqliteDb, "begin", begin)
    return found


async def test_why_what_and_the_signed_bytes_come_to_disk_by_one_commit(
    live: Desk, begun: list[bool]
) -> None:
    await head(live, BREACHED, OTHER)
    begun.clear()
    await tick(live, BELOW)
    assert [live.told(case) for case in range(2)] == [FLAGGED, FLAGGED]
    # The other one is what the node answered.
    assert begun == [True, False]


async def test_the_bytes_of_a_key_elsewhere_have_a_commit_of_their_own(live: Desk, begun: list[bool]) -> None:
    live.signer = Distant(KEY)
    live.start()
    await head(live, BREACHED)
    begun.clear()
    await tick(live, BELOW)
    assert live.told() == FLAGGED
    assert begun == [False, True, False]


async def test_whoever_was_refused_at_a_head_waits_for_no_disk(live: Desk, begun: list[bool]) -> None:
    await head(live, BREACHED)
    live.journal.throw(Switch.HALT, "", on=True, who="a test", why="enough")
    begun.clear()
    for price_wad in (BELOW, BELOW - WAD):
        await tick(live, price_wad)
    assert live.told() == ["Suspected", "Refused limit.halted"]
    assert begun == [True, False]
    passed_over = live.pipeline._care._acts._passed_over
    block, rule = passed_over[BREACHED.key]
    passed_over[BREACHED.key] = block - 1, rule
    begun.clear()
    await tick(live, BELOW)
    assert begun == [True]


async def test_what_is_suspected_is_journaled_where_the_node_tells_no_nonce(
    live: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await head(live, BREACHED)
    monkeypatch.setattr(live.pipeline._care._sender, "_chain_nonce", None)
    live.chain.fails.append("batch")
    with pytest.raises(ChainFault):
        await tick(live, BELOW)
    assert live.told() == ["Suspected"]


async def test_a_flag_that_lacks_nothing_but_the_breach_is_ready(live: Desk) -> None:
    live.chain.reverts = {"flag": NOT_BREACHED}
    await head(live, BREACHED)
    await tick(live, BELOW)
    assert live.chain.asked == [SEND]
    assert live.told() == FLAGGED


async def test_a_flag_that_the_contract_refuses_for_another_reason_is_simulated_anew(live: Desk) -> None:
    live.chain.reverts = {"flag": STALE}
    await head(live, BREACHED)
    await tick(live, BELOW)
    assert live.chain.asked == ["simulate"]
    assert live.told() == ["Suspected", "Refused simulation.reverted"]


@pytest.mark.parametrize(
    ("signed", "asked"),
    [({BTC: ABOVE, "ETH/USD": ABOVE}, [SEND]), ({BTC: ABOVE}, [SEND]), ({}, ["simulate", SEND])],
)
async def test_a_flag_is_ready_for_newer_reports_of_feeds_whose_reports_were_tried(
    kept: Desk, signed: dict[FeedId, Wad], asked: list[str]
) -> None:
    kept.feed = Ticker(kept.chain, known={BTC: ABOVE})
    reports = with_reports(kept)
    reports.prices = dict(signed)
    kept.chain.fast[BTC] = ABOVE
    kept.chain.reverts = {"flag": NOT_BREACHED} if signed else {}
    await head(kept, BREACHED)
    reports.prices = {BTC: BELOW}
    await tick(kept, BELOW)
    assert kept.chain.asked == asked
    assert posted(kept) == {BTC: BELOW}


async def test_who_is_not_ready_is_simulated_first(live: Desk) -> None:
    await live.head(BREACHED)
    live.chain.asked.clear()
    await tick(live, BELOW)
    assert live.chain.asked == ["batch", TIPS, "simulate", SEND]
    assert live.told() == FLAGGED


@pytest.mark.parametrize(
    ("blocks", "asked"), [(1, ["batch", TIPS, SEND]), (2, ["batch", TIPS, "simulate", SEND])]
)
async def test_a_simulation_serves_for_one_block_more(live: Desk, blocks: int, asked: list[str]) -> None:
    await head(live, BREACHED)
    for _ in range(blocks):
        await live.head()
    live.chain.asked.clear()
    await tick(live, BELOW)
    assert live.chain.asked == asked


async def test_what_was_simulated_on_another_branch_is_worth_nothing(live: Desk) -> None:
    await head(live, BREACHED)
    await live.head(BREACHED, reorg=1)
    live.chain.asked.clear()
    await tick(live, BELOW)
    assert live.chain.asked == ["batch", "simulate", SEND]


async def test_what_cannot_be_made_ready_is_no_reason_to_stop(live: Desk) -> None:
    live.chain.fails += ["batch"]
    await live.head(BREACHED)
    with capture_logs() as logs:
        await live.pipeline.prepare()
    assert logs[0]["event"] == "ready.failed"
    await tick(live, BELOW)
    assert live.told() == FLAGGED


async def test_after_a_head_the_journal_rests(live: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    log = live.path.with_name(f"{live.path.name}-wal")
    rests: list[int] = []
    monkeypatch.setattr(SqliteJournal, "rest", lambda _: rests.append(log.stat().st_size))
    await live.head(BREACHED)
    assert rests == []
    await live.pipeline.prepare()
    assert rests == [log.stat().st_size]


async def test_no_more_accounts_are_kept_ready_than_are_wanted(live: Desk) -> None:
    live.pipeline._care._params = replace(live.pipeline._care._params, ready=2)
    keys = [bytes([number]) * 20 + bytes(12) for number in range(70, 75)]
    await head(live, *(replace(BREACHED, key=key) for key in keys))
    assert live.chain.simulated == ["flag", "flag"]
    assert ticks(live).ready == 2


async def test_a_tick_knows_who_is_ready_before_those_who_are_next_are_looked_at(
    live: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    knew: list[bool] = []
    whole = Care._plan_ahead

    async def planning(care: Care[Any], *args: Any) -> Any:
        knew.append(live.pipeline._watch.is_free)
        return await whole(care, *args)

    monkeypatch.setattr(Care, "_plan_ahead", planning)
    await head(live, BREACHED)
    assert knew == [False, True]


class Circle:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


async def test_after_a_head_garbage_is_collected(live: Desk) -> None:
    await live.head(BREACHED)
    gc.disable()
    try:
        circle = weakref.ref(Circle())
        assert circle() is not None
        await live.pipeline.prepare()
        assert circle() is None
    finally:
        gc.enable()


async def test_nobody_waits_behind_those_whose_steps_are_on_their_way(
    live: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = [replace(BREACHED, key=bytes([number]) * 20 + bytes(12)) for number in range(70, 90)]
    later = replace(OTHER, cash_wad=BREACHED.cash_wad + 150 * WAD)
    live.chain.credit = (100_000 * WAD).to_bytes(32)
    live.limits = Limits(spend_day_wei=10**21, in_flight=100)
    live.start()
    await head(live, *crowd, later)
    await tick(live, BELOW)
    assert len(live.chain.sent) == len(crowd)
    judged: list[list[bytes]] = []
    judge_all = Care._judge_all

    def noted(care: Care[Any], sitting: Any, accounts: list[bytes], *rest: Any) -> Any:
        judged.append(accounts)
        return judge_all(care, sitting, accounts, *rest)

    monkeypatch.setattr(Care, "_judge_all", noted)
    await tick(live, BELOW - 2 * WAD)
    assert judged == [[later.key]]


async def test_nothing_is_got_ready_where_none_is_wanted(live: Desk) -> None:
    live.pipeline._care._params = replace(live.pipeline._care._params, ready=0)
    await live.head(BREACHED)
    live.chain.asked.clear()
    await live.pipeline.prepare()
    assert (live.chain.asked, ticks(live).ready) == ([], 0)


class Drifting(HybridMarket):
    """Its accounts are said to change by themselves."""

    drifts = True  # type: ignore[misc]


async def test_where_accounts_drift_who_was_read_to_be_ready_is_not_read_again(live: Desk) -> None:
    live.protocol = Drifting
    live.start()
    await head(live, BREACHED)
    await tick(live, BELOW)
    assert live.chain.asked == [SEND]


async def test_where_accounts_drift_others_are_read_before_they_are_judged(live: Desk) -> None:
    live.protocol = Drifting
    live.start()
    await live.head(BREACHED)
    live.chain.asked.clear()
    live.chain.accounts[BREACHED.key] = cured(BREACHED)
    await tick(live, BELOW)
    assert live.chain.asked == ["call_many"]
    assert live.told() == ["Suspected", "Waited alarm.not_on_chain"]


# --- who is near ---------------------------------------------------------------------------------


async def test_how_far_the_nearest_are_from_breach_is_told_now_and_then(live: Desk) -> None:
    further = replace(OTHER, cash_wad=BREACHED.cash_wad + 2_000 * WAD)
    with capture_logs() as logs:
        await head(live, BREACHED, further)
        await head(live)
    [told] = [each for each in logs if each["event"] == "accounts.nearest"]
    first, second, *_ = told["accounts"]
    # 1,900 + 100 P - 21,000 = 5 P, at 0.8 a year.
    assert (first["account"], first["feed"]) == (f"0x{BREACHED.key.hex()}", BTC)
    assert first["price"] == pytest.approx(19_100 / 95, rel=1e-4)
    assert first["sigmas"] == pytest.approx(0.23, abs=0.01)
    assert first["days"] == pytest.approx(0.05, abs=0.01)
    assert second["account"] == f"0x{further.key.hex()}"
    nearest = live.pipeline.vitals.nearest
    assert nearest is not None
    assert nearest.sigmas == pytest.approx(first["sigmas"], abs=0.01)
    assert nearest.within == {1: 1, 2: 1, 3: 2}


async def test_the_nearest_by_standard_deviations_are_kept_ready(live: Desk) -> None:
    live.pipeline._care._params = replace(live.pipeline._care._params, ready=1)
    # A third of a percent of all its money away from breach, but of no feed has it more than a third.
    legs = (Leg(1, 50 * WAD, 0), Leg(2, -677 * WAD // 100, 0), Leg(3, 1_450 * WAD, 0))
    mixed = replace(OTHER, cash_wad=-8_290 * WAD, legs=legs)
    await head(live, BREACHED, mixed)
    assert list(live.pipeline._care._acts._ready) == [mixed.key]
    await head(live)
    assert list(live.pipeline._care._acts._ready) == [BREACHED.key]


# --- the one door, and both clocks ---------------------------------------------------------------


async def test_the_door_is_the_same_for_what_is_ready(live: Desk) -> None:
    live.limits = Limits(halted=True)
    live.start()
    await head(live, BREACHED)
    await tick(live, BELOW)
    assert live.told() == ["Suspected", "Refused limit.halted"]
    assert live.chain.sent == []


async def test_an_account_is_flagged_once_however_often_it_is_suspected(live: Desk) -> None:
    await head(live, BREACHED)
    for price in (BELOW, ABOVE, BELOW, ABOVE, BELOW):
        await tick(live, price)
    assert live.told() == FLAGGED
    await live.head()
    assert live.acts() == ["flag"]


async def test_the_alarms_of_one_head_share_the_credit(live: Desk) -> None:
    live.chain.credit = (99 * WAD).to_bytes(32)
    later = replace(OTHER, cash_wad=BREACHED.cash_wad + 90 * WAD)
    await head(live, BREACHED, later)
    await tick(live, 202 * WAD)
    await tick(live, 199 * WAD)
    assert live.told(0) == FLAGGED
    assert live.told(1) == ["Suspected", "Refused alarm.no_credit"]
    assert live.history(1)[-1].data["evidence"] == "credit 49.00"


async def test_whom_a_later_tick_clears_before_it_is_judged_raises_no_alarm(live: Desk) -> None:
    await head(live, BREACHED)
    live.pipeline.on_tick(ticker(live).move(BTC, BELOW))
    await tick(live, ABOVE)
    assert (live.cases(), live.chain.asked) == ([], [])
    await tick(live, BELOW)
    assert live.told() == FLAGGED


async def test_the_price_off_chain_alone_raises_no_alarm_on_chain(live: Desk) -> None:
    live.chain.fast[BTC] = ABOVE
    await head(live, BREACHED)
    await tick(live, 150 * WAD)
    assert live.told() == ["Suspected", "Waited alarm.not_on_chain"]
    assert live.chain.asked == []


async def test_a_tick_closes_nothing_while_the_slow_clock_disagrees(live: Desk) -> None:
    live.chain.slow[BTC] = ABOVE
    tip = live.chain.tip
    await head(live, flagged(BREACHED, tip), confirmed(flagged(OTHER, tip), tip))
    for price in (BELOW, 150 * WAD, ABOVE, 100 * WAD):
        await tick(live, price)
    assert live.acts() == []


async def test_a_suspicion_that_a_tick_takes_back_is_closed_at_the_next_head(live: Desk) -> None:
    live.chain.fast[BTC] = ABOVE
    await head(live, BREACHED)
    for price in (BELOW, ABOVE, BELOW, ABOVE):
        await tick(live, price)
    assert live.told() == ["Suspected", "Waited alarm.not_on_chain"]
    await live.head()
    assert live.told()[-1] == "Closed"
    assert len(live.cases()) == 1


async def test_the_keepers_own_account_raises_no_alarm(live: Desk) -> None:
    own = bytes.fromhex(SIGNER.address[2:]) + (1).to_bytes(12)
    await head(live, replace(BREACHED, key=own))
    await tick(live, BELOW)
    assert (live.cases(), live.chain.asked) == ([], [])


async def test_an_alarm_that_was_sent_is_known_after_a_restart(live: Desk) -> None:
    await head(live, BREACHED)
    await tick(live, BELOW)
    live.start()
    await live.head(flagged(BREACHED, live.chain.next), mined=True)
    assert live.told()[:4] == [*FLAGGED, "Included"]
    assert live.acts() == ["flag"]


# --- heads and ticks at the same time ------------------------------------------------------------


async def test_nothing_is_done_about_a_tick_before_the_first_head(live: Desk) -> None:
    live.chain.put(BREACHED)
    await tick(live, BELOW)
    assert (ticks(live).count, ticks(live).suspects) == (1, 0)
    assert live.cases() == []


async def test_an_account_that_changed_and_was_not_read_is_not_acted_on(live: Desk) -> None:
    await head(live, BREACHED)
    live.chain.fails.append("call_many")
    with pytest.raises(ChainFault):
        await live.head(cured(BREACHED))
    await tick(live, BELOW)
    assert live.cases() == []
    await live.head()
    assert live.cases() == []


async def test_after_a_head_that_failed_the_next_one_answers_the_alarms(live: Desk) -> None:
    await head(live, BREACHED)
    live.chain.fails.append("call_many")
    with pytest.raises(ChainFault):
        await live.head()
    live.chain.asked.clear()
    await tick(live, BELOW)
    assert (ticks(live).suspects, live.chain.asked) == (1, [])
    await live.head()
    assert live.told() == FLAGGED


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[asyncio.Queue[BlockUpdate]]:
    """Let the keeper run on the heads that are put into the queue."""
    heads: asyncio.Queue[BlockUpdate] = asyncio.Queue()

    async def updates() -> AsyncIterator[BlockUpdate]:
        while True:
            yield await heads.get()

    desk.chain.updates = updates  # type: ignore[method-assign]
    first = await desk.pipeline.discover(0, desk.chain.tip)
    adopted = tuple(each for each in desk.chain.heads if each.number >= first)
    heads.put_nowait(BlockUpdate(desk.chain.tip, (), adopted, _logs(desk)))
    task = asyncio.create_task(desk.pipeline.run())
    try:
        yield heads
    finally:
        task.cancel()
        await asyncio.wait({task})


def _logs(desk: Desk) -> tuple[Log, ...]:
    return tuple(log for each in desk.chain.heads for log in desk.chain.logs_of(each))


def next_head(desk: Desk, *changes: Account) -> BlockUpdate:
    tip = desk.chain.extend()
    for each in changes:
        desk.chain.put(each)
    return BlockUpdate(tip, (), (tip,), desk.chain.logs_of(tip))


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds, some seconds at most."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.001)


async def test_the_loop_answers_ticks_between_the_heads(live: Desk) -> None:
    live.chain.put(BREACHED)
    async with running(live):
        await until(lambda: ticks(live).ready)
        live.chain.asked.clear()
        ticker(live).move(BTC, BELOW)
        await until(lambda: live.chain.sent)
    assert live.chain.asked == [SEND]
    assert (live.told(), live.heads_done()) == (FLAGGED, [FIRST])


async def test_ticks_are_scored_in_time_while_a_simulation_hangs(live: Desk) -> None:
    live.chain.put(BREACHED)
    live.chain.answering.clear()
    async with running(live) as heads:
        await until(lambda: "simulate" in live.chain.asked)
        heads.put_nowait(next_head(live, replace(OTHER, cash_wad=1_500 * WAD)))
        await until(live.cases)
        for number in range(20):
            ticker(live).move(BTC, ABOVE - number)
            await until(lambda: not ticker(live).moved.is_set())
        ticker(live).move(BTC, BELOW)
        await until(lambda: ticks(live).suspects == 1)
        # Who is newly suspect waits for the head in work, not the other way round.
        assert live.told(1) == []
        live.chain.answering.set()
        await until(lambda: len(live.chain.sent) == 2)
    assert ticks(live).count >= 20
    # A tick that waited for the simulation would wait for ever.
    assert ticks(live).late.within[0.05] > 0.8 * ticks(live).count
    assert sorted(live.acts()) == ["flag", "flag"]


class Slow(HybridDesk):
    """Takes its time over every account, and comes to nothing."""

    def judge(self, *_: Any) -> Unknown:
        until_s = time.perf_counter() + 0.0005
        while time.perf_counter() < until_s:
            pass
        return Unknown("account", "too hard")


async def test_ticks_are_scored_in_time_while_two_thousand_accounts_are_judged(live: Desk) -> None:
    live.deciding = Slow
    live.feed.known.clear()
    live.start()
    for number in range(2_000):
        live.chain.put(replace(BREACHED, key=number.to_bytes(20) + bytes(12)))
    async with running(live):
        await until(lambda: live.pipeline._watch._head)
        began_s = time.perf_counter()
        while not live.heads_done():
            ticker(live).move("ETH/USD", 1_600 * WAD + ticks(live).count)
            await asyncio.sleep(0.002)
        took_s = time.perf_counter() - began_s
        late = ticks(live).late
    # Some 10 ms on a machine that has nothing else to do; no tick waits until all are judged.
    assert took_s > 1
    assert late.most_s < took_s / 2
    assert late.within[0.05] > 0.9 * late.count > 20


async def test_suspects_of_several_ticks_are_answered_together(live: Desk) -> None:
    better = replace(OTHER, cash_wad=BREACHED.cash_wad + 110 * WAD)
    await head(live, BREACHED, better)
    for price in (BELOW, 198 * WAD):
        live.pipeline.on_tick(ticker(live).move(BTC, price))
    await live.pipeline.on_alarm()
    found = ticks(live)
    assert (found.count, found.coalesced, found.suspects, found.answered.count) == (2, 1, 2, 1)
    assert len(live.cases()) == 2


async def test_a_crowd_in_line_is_taken_a_part_at_a_time(live: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST", 2)
    await head(live, *(replace(BREACHED, key=number.to_bytes(20) + bytes(12)) for number in range(5)))
    live.pipeline.on_tick(ticker(live).move(BTC, BELOW))
    for served in (2, 4, 5):
        assert live.pipeline._watch.alarmed.is_set()
        await live.pipeline.on_alarm()
        assert len(live.chain.sent) == served
    assert not live.pipeline._watch.alarmed.is_set()


async def test_the_trigger_learns_prices_that_went_far_before_the_next_head(
    live: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SETTLE_S", 0.01)
    live.chain.put(BREACHED)
    trigger = live.pipeline._trigger
    async with running(live):
        await until(lambda: ticks(live).ready)
        async with live.pipeline.busy:
            ticker(live).move(BTC, 2 * ABOVE)
            await until(lambda: trigger.is_due)
            await asyncio.sleep(0.05)
            # Whoever works on a head or an alarm is not held up.
            waited = trigger.is_due
        assert waited
        await until(lambda: not trigger.is_due)
        before = ticks(live).count
        ticker(live).move(BTC, 2 * ABOVE + 1)
        await until(lambda: ticks(live).count > before)
        assert not trigger.is_due
    assert live.heads_done() == [FIRST]


async def test_a_tick_near_what_is_known_gives_nothing_to_learn(live: Desk) -> None:
    await head(live, BREACHED)
    watched = live.pipeline._watch
    live.pipeline.on_tick(ticker(live).move(BTC, ABOVE + WAD // 100))
    assert not watched.drifted.is_set()
    live.pipeline.on_tick(ticker(live).move(BTC, 2 * ABOVE))
    assert watched.drifted.is_set()
    watched.settle()
    assert not watched.drifted.is_set()


async def test_nothing_is_learnt_before_the_first_head(live: Desk) -> None:
    live.pipeline._watch.settle()
    assert live.pipeline._trigger.is_due


# --- rehearsals ----------------------------------------------------------------------------------


@pytest.fixture
def went(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was gone through on the way from a tick to its act."""
    found: list[str] = []
    ways: list[tuple[type, str]] = [
        (Trigger, "_judge"),
        (HybridDesk, "judge"),
        (HybridDesk, "pick"),
        (ChainSender, "transaction"),
        (SqliteJournal, "_standing"),
        (ChainSender, "rehearse"),
    ]
    for owner, name in ways:
        whole = getattr(owner, name)

        def going(*args: Any, _whole: Callable[..., Any] = whole, _name: str = name, **kwargs: Any) -> Any:
            found.append(_name)
            return _whole(*args, **kwargs)

        monkeypatch.setattr(owner, name, going)
    return found


def rehearse(live: Desk) -> None:
    """Rehearse all pieces of the way."""
    live.pipeline.rehearse()
    pieces = live.pipeline._pieces
    while live.pipeline._pieces is pieces:
        live.pipeline.rehearse()


async def test_a_rehearsal_goes_all_the_way_and_leaves_nothing_behind(live: Desk, went: list[str]) -> None:
    await head(live, BREACHED, OTHER)
    went.clear()
    before = live.journal.last_event(), live.pipeline.vitals
    for _ in range(3):
        rehearse(live)
    assert went == ["_judge", "judge", "pick", "_standing", "transaction", "rehearse"] * 3
    assert (live.journal.last_event(), live.pipeline.vitals) == before
    assert live.chain.asked == []
    await tick(live, BELOW)
    assert [live.told(case) for case in range(2)] == [FLAGGED, FLAGGED]


async def test_prices_wait_for_a_piece_of_a_rehearsal_at_most(live: Desk, went: list[str]) -> None:
    await head(live, BREACHED, OTHER)
    went.clear()
    pieces: list[list[str]] = []
    for _ in range(8):
        live.pipeline.rehearse()
        pieces.append(went.copy())
        went.clear()
    assert [each for each in pieces if each] == [
        ["_judge"], ["judge"], ["pick"], ["_standing"], ["transaction", "rehearse"],
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["head", "alarm"])
async def test_a_rehearsal_of_what_is_past_is_not_gone_on_with(
    live: Desk, went: list[str], what: str
) -> None:
    await head(live, BREACHED, OTHER)
    while "judge" not in went[-1:]:
        live.pipeline.rehearse()
    await (head(live, BREACHED, OTHER) if what == "head" else tick(live, BELOW))
    went.clear()
    for _ in range(3):
        live.pipeline.rehearse()
    assert "pick" not in went


async def test_a_tape_knows_of_no_rehearsal(live: Desk) -> None:
    live.taping = True
    reports = with_reports(live)
    assert live.tape is not None
    await head(live, BREACHED)
    reports.prices = {BTC: BELOW}
    await live.tape.pack()
    rehearse(live)
    assert b"".join(live.tape._records) == b""
    await tick(live, BELOW)
    # What only a rehearsal has heard until then is news to the tape.
    assert sum(record.startswith(b'["b",{"BTC/USD"') for record in live.tape._records) == 1


async def test_who_has_a_case_is_rehearsed_as_well(live: Desk, went: list[str]) -> None:
    await head(live, BREACHED)
    live.journal.throw(Switch.HALT, "", on=True, who="a test", why="enough")
    await tick(live, BELOW)
    await head(live, BREACHED)
    assert live.told()[:2] == ["Suspected", "Refused limit.halted"]
    went.clear()
    rehearse(live)
    assert went == ["judge", "pick", "_standing", "transaction", "rehearse"]


async def test_what_a_rehearsal_has_judged_is_not_judged_again(live: Desk, went: list[str]) -> None:
    await head(live, BREACHED, OTHER)
    rehearse(live)
    went.clear()
    await tick(live, BELOW)
    assert [live.told(case) for case in range(2)] == [FLAGGED, FLAGGED]
    # Of one it was known; the other finds what that one has left.
    assert went.count("judge") == 1


@pytest.mark.parametrize("what", ["account", "prices"])
async def test_a_judgement_rests_on_all_that_a_rehearsal_went_by(
    live: Desk, went: list[str], what: str
) -> None:
    await head(live, BREACHED)
    rehearse(live)
    care = live.pipeline._care
    assert care._foreseen is not None
    (account, alarm, exact, sitting), judged = care._foreseen
    if what == "account":
        exact = replace(exact, cash_wad=7)
    else:
        sitting = replace(sitting, oracles=replace(sitting.oracles, feeds={}))
    care._foreseen = (account, alarm, exact, sitting), judged
    went.clear()
    await tick(live, BELOW)
    assert went.count("judge") == 1
    assert live.told() == FLAGGED


async def test_nothing_is_rehearsed_without_a_head_that_was_worked_on_whole(
    live: Desk, went: list[str]
) -> None:
    live.pipeline.rehearse()
    live.chain.fails.append("call_many")
    with pytest.raises(ChainFault):
        await live.head(BREACHED)
    went.clear()
    live.pipeline.rehearse()
    assert went == []


async def test_where_nobody_is_ready_the_scoring_alone_is_rehearsed(live: Desk, went: list[str]) -> None:
    await live.head(BREACHED)
    went.clear()
    rehearse(live)
    assert set(went) == {"_judge"}


@pytest.mark.parametrize(("rest_ms", "is_rehearsed"), [(1.0, True), (0.1, True), (0.0, False)])
async def test_the_loop_rehearses_where_it_is_to(
    live: Desk, monkeypatch: pytest.MonkeyPatch, rest_ms: float, is_rehearsed: bool
) -> None:
    rehearsed: list[None] = []
    live.pipeline._rehearse_ms = rest_ms
    monkeypatch.setattr(live.pipeline, "rehearse", lambda: rehearsed.append(None))
    live.chain.put(BREACHED)
    async with running(live):
        await until(lambda: ticks(live).ready)
        await asyncio.sleep(0.05)
    assert (len(rehearsed) > 2) == is_rehearsed


@pytest.mark.parametrize("rest_ms", [0.1, 1.0, 5.0])
async def test_nothing_is_rehearsed_while_somebody_waits_to_be_judged(
    live: Desk, monkeypatch: pytest.MonkeyPatch, rest_ms: float
) -> None:
    await head(live, BREACHED)
    rehearsed: list[None] = []
    live.pipeline._rehearse_ms = rest_ms
    monkeypatch.setattr(live.pipeline, "rehearse", lambda: rehearsed.append(None))
    alarmed = live.pipeline._watch.alarmed
    alarmed.set()
    task = asyncio.create_task(live.pipeline._rehearse())
    await asyncio.sleep(0.02)
    assert rehearsed == []
    alarmed.clear()
    await until(lambda: rehearsed)
    task.cancel()


async def slept_by(live: Desk, monkeypatch: pytest.MonkeyPatch, rest_ms: float) -> list[object]:
    """Return what a rehearsal of two pieces sleeps, and when it goes through one."""
    done: list[object] = []
    passing = asyncio.sleep

    async def sleep(delay_s: float) -> None:
        done.append(delay_s)
        await passing(delay_s)

    def rehearse() -> bool:
        done.append("piece")
        return done.count("piece") % 2 == 1

    live.pipeline._rehearse_ms = rest_ms
    monkeypatch.setattr(live.pipeline, "rehearse", rehearse)
    monkeypatch.setattr("keeper.pipeline.loop.asyncio.sleep", sleep)
    rehearsing = asyncio.create_task(live.pipeline._rehearse())
    await asyncio.wait({rehearsing}, timeout=0.02)
    rehearsing.cancel()
    return done


@pytest.mark.parametrize(("rest_ms", "rest_s"), [(3.0, 0.003), (0.1, 0.0)])
async def test_what_has_come_is_heard_before_each_piece_of_a_rehearsal(
    live: Desk, monkeypatch: pytest.MonkeyPatch, rest_ms: float, rest_s: float
) -> None:
    await head(live, BREACHED)
    # It is read in the first turn, taken by the feed in the second, and looked at in the third.
    done = await slept_by(live, monkeypatch, rest_ms)
    assert done[:10] == [rest_s, 0, 0, 0, "piece", 0, 0, 0, "piece", rest_s]


async def test_a_rehearsal_that_nobody_can_make_rests(live: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    done = await slept_by(live, monkeypatch, 0.1)
    assert done[:5] == [0.001, 0, 0, 0, 0.001]


async def test_what_its_act_takes_is_got_ready_while_a_slow_node_simulates_it(
    live: Desk, went: list[str]
) -> None:
    await live.head(BREACHED)
    live.chain.answering.clear()
    ticking = asyncio.create_task(tick(live, BELOW))
    await until(lambda: "rehearse" in went)
    assert went[-3:] == ["_standing", "transaction", "rehearse"]
    assert live.chain.sent == []
    live.chain.answering.set()
    await ticking
    assert live.told() == FLAGGED


async def test_a_keeper_lives_on_where_its_own_account_is_not_known_for_a_rehearsal(live: Desk) -> None:
    await head(live, BREACHED)
    live.pipeline.mirror.book.mark_dirty([KEEPER], live.chain.tip.number)
    with pytest.raises(ChainFault, match="own account"):
        rehearse(live)
    live.pipeline._rehearse_ms = 1.0
    rehearsing = asyncio.create_task(live.pipeline._rehearse())
    await asyncio.wait({rehearsing}, timeout=0.05)
    assert not rehearsing.done()
    rehearsing.cancel()


async def test_a_feed_that_breaks_ends_the_keeper(live: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: Ticker) -> int:
        raise InvariantBroken("a bug")

    monkeypatch.setattr(Ticker, "tick", broken)
    with pytest.raises(InvariantBroken, match="a bug"):
        async with asyncio.timeout(5):
            await live.pipeline.run()


async def test_lateness_is_told_once_in_a_while(live: Desk) -> None:
    await head(live, BREACHED)
    with capture_logs() as logs:
        for _ in range(3):
            live.pipeline.on_tick(time.monotonic_ns() - 10**8)
    late = [each for each in logs if each["event"] == "trigger.late"]
    assert [(each["bound_ms"], each["times"]) for each in late] == [(50.0, 1)]
    assert late[0]["late_ms"] >= 100
    found = ticks(live).late
    assert (found.count, found.within[0.05], found.within[0.25]) == (3, 0, 3)
    assert 0.1 <= found.most_s <= found.total_s


async def test_five_hundred_suspects_of_one_tick_go_out_in_batches(live: Desk) -> None:
    live.chain.credit = (100_000 * WAD).to_bytes(32)
    live.chain.balance_wei = 10**21
    live.limits = Limits(spend_day_wei=10**21, in_flight=500)
    live.start()
    accounts = [replace(BREACHED, key=number.to_bytes(20) + bytes(12)) for number in range(500)]
    await head(live, *accounts)
    began_s = time.process_time()
    await tick(live, BELOW)
    # 1.0 s where nothing else runs, most of it for the journal and the signatures.
    assert time.process_time() - began_s < 5
    assert len(live.chain.sent) == 500
    # The 32 nearest were ready.
    assert live.chain.asked.count("simulate") == 500 - 32
    assert live.chain.asked.index("simulate") > live.chain.asked.index(SEND)
