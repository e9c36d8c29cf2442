"""Two hundred thousand accounts at once: whatever crosses, the next tick is not kept waiting."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from keeper.cli import keeping
from keeper.domain import CaseEvent, EventKind
from keeper.ladder import Climb
from keeper.lifecycle import Status
from keeper.pipeline.care import AT_ONCE
from keeper.pipeline.turns import batches
from keeper.ports import Notice
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, Desk
from tests.unit.pipeline.ticking import Ticker
from tests.unit.protocols.hybrid.pages import page_of

CROWD = 200_000
LATE_S = 0.5
BTC = "BTC/USD"
pytestmark = pytest.mark.slow
SAFE, NEAR, BREACH = 220 * WAD, 204 * WAD, 200 * WAD
"""Prices at which the health of everybody is 2.45, 1.08 and 0.7."""


@pytest.fixture(scope="module")
def pages() -> list[bytes]:
    """The rows of the crowd, as the chain would tell them."""
    accounts = (
        replace(BREACHED, key=number.to_bytes(20) + bytes(12), cash_wad=1_700 * WAD)
        for number in range(1, CROWD + 1)
    )
    return [page_of(some) for some in iter(lambda: list(islice(accounts, 2_000)), [])]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Desk]:
    """A keeper on a journal on disk."""
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    yield desk
    desk.close()


@asynccontextmanager
async def ticking(desk: Desk) -> AsyncIterator[list[float]]:
    """Score a tick every ten milliseconds, and yield what was computed until each was known [s].

    Processor time of the loop, so that what else runs on the machine counts for nothing; and garbage is
    collected as in a daemon, which does not look through what was there when it began.
    """
    late: list[float] = []
    threshold = gc.get_threshold()
    keeping._spare_what_stays()

    async def tick() -> None:
        while True:
            began_s = time.thread_time()
            await asyncio.sleep(0.01)
            desk.pipeline.on_tick(time.monotonic_ns())
            late.append(time.thread_time() - began_s)

    task = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    try:
        yield late
    finally:
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gc.unfreeze()
        gc.set_threshold(*threshold)


async def crowded(desk: Desk, pages: list[bytes], climb: Climb) -> Ticker:
    """Bring the crowd into the mirror of a keeper, at a price at which nobody is near."""
    desk.climb = climb
    feed = desk.feed = Ticker(desk.chain, known={BTC: SAFE})
    desk.chain.fast[BTC] = desk.chain.slow[BTC] = SAFE
    desk.start()
    await desk.head()
    for each in pages:
        desk.pipeline.mirror.book.fold_rows(each, desk.chain.tip.number)
    await desk.head()
    assert desk.pipeline.vitals.rungs["margin_call"] == 0
    return feed


def move(desk: Desk, feed: Ticker, price_wad: int) -> None:
    feed.known[BTC] = desk.chain.fast[BTC] = desk.chain.slow[BTC] = price_wad


async def test_a_crowd_that_is_called_at_once_keeps_no_tick_waiting(kept: Desk, pages: list[bytes]) -> None:
    told: list[Notice] = []
    kept.notices = told.append
    feed = await crowded(kept, pages, Climb(most_called=500))
    async with ticking(kept) as late:
        move(kept, feed, NEAR)
        await kept.head()
    assert kept.pipeline.vitals.rungs["margin_call"] == CROWD
    assert sum(case.status is Status.CALLED for case in kept.journal.open_cases()) == 500
    assert sum(each.rung == "margin_call" for each in told) == 500
    assert max(late) < LATE_S

    async with ticking(kept) as late:
        move(kept, feed, SAFE)
        for _ in range(6):
            await kept.head()
    assert kept.pipeline.vitals.rungs["margin_call"] == 0
    assert kept.journal.open_cases() == ()
    assert max(late) < LATE_S


async def test_a_crowd_that_is_suspect_at_one_tick_does_not_delay_the_next(
    kept: Desk, pages: list[bytes]
) -> None:
    feed = await crowded(kept, pages, Climb(most_called=0))
    move(kept, feed, BREACH)
    took = []
    for _ in range(3):
        began_s = time.thread_time()
        kept.pipeline.on_tick(time.monotonic_ns())
        took.append(time.thread_time() - began_s)
    assert kept.pipeline.vitals.ticks is not None
    assert kept.pipeline.vitals.ticks.suspects == CROWD
    assert max(took) < LATE_S

    async with ticking(kept) as late:
        await kept.pipeline.on_alarm()
    assert max(late) < LATE_S


async def test_a_case_of_everybody_is_journaled_in_slices_that_pass_on(
    kept: Desk, pages: list[bytes]
) -> None:
    """As if everybody could be called at once: what the journal on disk takes, apart from the arithmetic."""
    await crowded(kept, pages, Climb(most_called=0))
    data = {"health": 1.08, "buffer": 1.15, "by_s": 1_700_000_000, "text": "deposit 71.3 0x" + "cc" * 20}
    events = [
        CaseEvent(
            f"0x{number:064x}@102-a102", number.to_bytes(20) + bytes(12), EventKind.CALLED, 102, 9, data
        )
        for number in range(1, CROWD + 1)
    ]
    async with ticking(kept) as late:
        for some in batches(events, AT_ONCE):
            kept.pipeline._care._note(some)
            await asyncio.sleep(0)
        await kept.head()
    assert len(kept.journal.open_cases()) == CROWD
    assert max(late) < LATE_S
