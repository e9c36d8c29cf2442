"""Reorgs of every depth over deposits, trades and liquidations: the mirror is what a fresh sync reads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.chain.wire import head_of
from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import Account, Confirm, Flag, Liquidate, Phase, Quote, Unknown
from keeper.execute.sender import ChainSender
from keeper.execute.sender import Params as SenderParams
from keeper.journal.guard import Limits
from keeper.journal.store import SqliteJournal
from keeper.pipeline import Params as PipelineParams
from keeper.pipeline import Pipeline
from keeper.ports import BlockUpdate
from keeper.state.book import Book
from keeper.units import WAD, FeedId, UnixS
from tests.anvil.twin_world import RICH, World, owner_of, populate, run_some, welcome, world_of
from tests.unit.pipeline.desk import SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(300)]

DEPTHS = range(1, 11)


class Keeper:
    """A keeper that only watches."""

    def __init__(self, world: World, pool: Pool, path: Path) -> None:
        self._world = world
        self._journal = SqliteJournal(path, identity={"of": "a test"}, limits=Limits())
        contracts = world.protocol.contracts
        self._pool = pool
        self._reader = ChainReader(pool, [world.node.ws_url], contracts, Params(deaf_poll_s=0.02, poll_s=0.2))
        sender = ChainSender(
            pool,
            self._journal,
            SIGNER,
            chain_id=world.node.chain_id,
            params=SenderParams(dry_run=True),
        )
        self.pipeline = Pipeline(
            reader=self._reader,
            market=world.market,
            desk=HybridDesk(SIGNER.address, RICH, DeskParams("ETH/USD")),
            feed=self,
            journal=self._journal,
            sender=sender,
            params=PipelineParams(dry_run=True),
        )
        self.orphaned = 0
        self._updates = self._reader.updates()

    @property
    def book(self) -> Book[Account]:
        return self.pipeline.mirror.book

    def latest(self, now_s: UnixS) -> dict[FeedId, Quote | Unknown]:
        """Serve the fast prices as they are on chain."""
        return {feed: Quote(feed, price, now_s) for feed, price in self._world.fast.items()}

    async def start(self) -> None:
        head = head_of(await self._pool.request("eth_getBlockByNumber", ["latest", False]))
        await self._reader.start(await self.pipeline.discover(0, head))

    async def catch_up(self) -> None:
        tip = self._world.node.rpc("eth_getBlockByNumber", "latest", False)["hash"]
        async with asyncio.timeout(30):
            update: BlockUpdate | None = None
            while update is None or update.head.hash != tip:
                update = await anext(self._updates)
                self.orphaned = max(self.orphaned, len(update.orphaned))
                await self.pipeline.on_update(update)

    async def close(self) -> None:
        await self._reader.close()
        self._journal.close()


@asynccontextmanager
async def watching(world: World, path: Path) -> AsyncIterator[Keeper]:
    async with Pool([world.node.http_url]) as pool:
        keeper = Keeper(world, pool, path)
        try:
            await keeper.start()
            await keeper.catch_up()
            yield keeper
        finally:
            await keeper.close()


def block(world: World) -> None:
    """Mine a block of one kind: new prices, alarms and slices of all accounts, deposits, or trades."""
    rows = world.rows(world.targets)
    match world.dice.choice(["prices", "care", "care", "deposits", "trades"]):
        case "prices":
            world.drift(0.08)
            world.post_prices(12)
        case "care":
            at = world.next_block(3)
            outcomes = world.act(
                [
                    Flag(key, 0)
                    if account.phase is Phase.HEALTHY
                    else Confirm(key)
                    if account.phase is Phase.FLAGGED
                    else Liquidate(key, RICH, account.flag.tranche_nonce, at.timestamp_s, 0, WAD, 0)
                    for key, account in rows.items()
                ],
                at,
            )
            done = (facts for facts in outcomes if not isinstance(facts, str))
            world.seen.update(fact.act for facts in done for fact in facts)
        case "deposits":
            keys = world.dice.sample(world.targets, 5)
            deposits = (world.open_account(key, cash_wad=WAD, tokens={})[-1] for key in keys)
            list(run_some(world, list(deposits)))
            world.seen["Deposited"] += 5
        case _:
            keys = world.dice.sample(world.targets, 5)
            trades = [
                world.trade(key, leg.market, -leg.size_wad // 10)
                for key in keys
                for leg in rows[key].legs[:1]
            ]
            world.seen["Traded"] += sum(not failed for _, failed in run_some(world, trades))


def agrees(world: World, kept: Book[Account], fresh: Book[Account]) -> None:
    """Hold the mirror and a fresh one against what the chain says of every account that either knows."""
    keys = sorted({*kept.keys.tolist(), *fresh.keys.tolist()})
    assert kept.dirty() == fresh.dirty() == ()
    assert set(fresh.keys.tolist()) <= set(kept.keys.tolist())
    for key, account in world.rows(keys).items():
        assert kept.exact(key) == account
        assert fresh.exact(key) == account or key not in fresh


async def test_after_a_reorg_of_any_depth_the_mirror_is_what_a_fresh_sync_reads(tmp_path: Path) -> None:
    with world_of(seed=5) as world:
        populate(world)
        welcome(world)
        credit = [world.deployed.give_credit("USDC", 10**6 * WAD, owner_of(world.targets[0]))]
        world.run(credit)
        async with watching(world, tmp_path / "kept") as kept:
            for depth in DEPTHS:
                snapshot, now_s = world.node.rpc("evm_snapshot"), world.now_s
                first = world.node.block_number()
                while world.node.block_number() < first + depth:
                    block(world)
                await kept.catch_up()
                world.node.rpc("evm_revert", snapshot)
                world.now_s, kept.orphaned = now_s, 0
                while world.node.block_number() <= first + depth:
                    block(world)
                await kept.catch_up()
                assert kept.orphaned >= depth
                async with watching(world, tmp_path / f"fresh {depth}") as fresh:
                    agrees(world, kept.book, fresh.book)
    assert {"Deposited", "Traded", "Flagged", "Confirmed", "Tranche"} <= world.seen.keys(), world.seen
