"""A price falls between two heads: the flag is with the node before the next one, on the real contracts."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.chain.wire import head_of
from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import Head, Quote, Refuse, Unknown
from keeper.execute.sender import ChainSender
from keeper.journal.guard import Limits
from keeper.journal.store import SqliteJournal
from keeper.pipeline import Params as PipelineParams
from keeper.pipeline import Pipeline
from keeper.units import WAD, FeedId, UnixS, Wad
from tests.anvil.twin_world import BASE, OWNER, World, account_of, populate, world_of
from tests.unit.pipeline.desk import KEEPER, SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(60)]

BTC = "BTC/USD"
ACCOUNT = account_of(OWNER, 0)
FALLEN = 19_300 * WAD
SEND = "eth_sendRawTransaction"


class Wire(Pool):
    """A pool that keeps what it was asked for."""

    asked: list[str]

    async def request(self, method: str, params: list[Any]) -> Any:
        self.asked.append(method)
        return await super().request(method, params)

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        self.asked += [method for method, _ in calls]
        return await super().batch(calls)


@dataclass
class Feed:
    """A live feed that the test moves."""

    prices: dict[FeedId, Wad] = field(
        default_factory=lambda: {feed: each * WAD for feed, each in BASE.items()}
    )
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    moved_ns: int = 0

    def latest(self, now_s: UnixS) -> dict[FeedId, Quote | Unknown]:
        return {feed: Quote(feed, price, now_s) for feed, price in self.prices.items()}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        yield

    async def tick(self) -> int:
        await self.moved.wait()
        self.moved.clear()
        return self.moved_ns

    def move(self, feed: FeedId, price_wad: Wad) -> None:
        self.prices[feed] = price_wad
        self.moved_ns = time.monotonic_ns()
        self.moved.set()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.002)


def open_long(world: World) -> None:
    """Open ten BTC on 11,000: in breach below some 19,485."""
    world.run(
        [
            *world.open_account(ACCOUNT, cash_wad=11_000 * WAD, tokens={}),
            world.deployed.give_credit("USDC", 10**6 * WAD, SIGNER.address),
        ]
    )
    world.node.fund([SIGNER.address])
    world.post_prices(5)
    world.run([world.trade(ACCOUNT, 1, 10 * WAD)])
    world.post_prices(60)


async def test_the_flag_is_with_the_node_before_the_next_head(tmp_path: Path) -> None:
    with world_of(seed=3) as world:
        populate(world)
        open_long(world)
        async with Wire([world.node.http_url]) as wire:
            wire.asked = []
            reader = ChainReader(
                wire, [world.node.ws_url], world.protocol.contracts, Params(deaf_poll_s=0.02, poll_s=0.2)
            )
            journal = SqliteJournal(tmp_path / "journal", identity={"of": "a test"}, limits=Limits())
            feed = Feed()
            pipeline = Pipeline(
                reader=reader,
                market=world.market,
                desk=HybridDesk(SIGNER.address, KEEPER, DeskParams("ETH/USD")),
                feed=feed,
                journal=journal,
                sender=ChainSender(wire, journal, SIGNER, chain_id=world.node.chain_id),
                params=PipelineParams(block_time_s=1),
            )
            head = head_of(await wire.request("eth_getBlockByNumber", ["latest", False]))
            await reader.start(await pipeline.discover(0, head))
            running = asyncio.create_task(pipeline.run())

            def ready() -> object:
                done: Head | None = pipeline.vitals.done
                tip = world.node.block_number()
                return (
                    done
                    and done.number == pipeline._care._acts._ready_at == tip
                    and ACCOUNT in pipeline._care._acts._ready
                )

            await until(ready)
            [tried] = pipeline._care._acts._ready[ACCOUNT]
            # Nothing but the breach is missing, in the contract's own words.
            assert isinstance(tried.result, Refuse)
            assert tried.result.reason.evidence.startswith("NotBreached(")
            world.fast[BTC] = FALLEN
            world.post_prices(12)
            await until(ready)
            assert journal.open_cases() == ()
            tip = world.node.block_number()
            wire.asked.clear()
            feed.move(BTC, FALLEN)
            await until(lambda: SEND in wire.asked and world.node.rpc("txpool_status")["pending"] == "0x1")
            assert wire.asked == [SEND]
            assert world.node.block_number() == tip
            [case] = journal.open_cases()
            world.node.mine(world.now_s + 1)
            await until(lambda: pipeline.vitals.done and pipeline.vitals.done.number == tip + 1)
            running.cancel()
            await asyncio.wait({running})
            await reader.close()
        history = journal.history(case.case_id)
        journal.close()
    assert [str(event.kind) for event in history[:4]] == ["Suspected", "Reserved", "Sent", "Included"]
    assert history[2].data["tick_to_tx_ms"] < 1_000
