"""Suspects of one tick in two transactions, one of them lost to somebody faster, on the real contracts."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.chain.wire import head_of
from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import Flag, Phase
from keeper.execute.sender import ChainSender
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal
from keeper.pipeline import Params as PipelineParams
from keeper.pipeline import Pipeline
from keeper.ports import StepState
from keeper.units import WAD
from tests.anvil.test_ticks_on_anvil import BTC, FALLEN, Feed
from tests.anvil.twin_world import OWNER, World, account_of, populate, world_of
from tests.unit.pipeline.desk import KEEPER, SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

ACCOUNTS = [account_of(OWNER, number) for number in range(6)]
LOST = ACCOUNTS[2]
RIVAL = "0x" + "99" * 20
GWEI = 10**9


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.01)


def open_longs(world: World) -> None:
    """Open ten BTC on 11,000 for every account: in breach below some 19,485."""
    for each in ACCOUNTS:
        world.run(world.open_account(each, cash_wad=11_000 * WAD, tokens={}))
    world.run([world.deployed.give_credit("USDC", 10**6 * WAD, wallet) for wallet in (SIGNER.address, RIVAL)])
    world.node.fund([SIGNER.address, RIVAL])
    world.post_prices(5)
    for each in ACCOUNTS:
        world.run([world.trade(each, 1, 10 * WAD)])
    world.post_prices(60)


def flag_first(world: World) -> None:
    """Have a rival bid more for the flag of one account than anybody."""
    call = world.market.encode(Flag(LOST, 0))
    world.node.rpc("anvil_impersonateAccount", RIVAL)
    fees = {"maxFeePerGas": hex(900 * GWEI), "maxPriorityFeePerGas": hex(800 * GWEI)}
    tx = {"from": RIVAL, "to": call.to, "data": "0x" + call.data.hex(), "gas": hex(10**6), **fees}
    world.node.rpc("eth_sendTransaction", tx)


async def test_one_lost_race_takes_no_other_account_of_its_batch_along(tmp_path: Path) -> None:
    with world_of(seed=3) as world:
        populate(world)
        open_longs(world)
        async with Pool([world.node.http_url]) as pool:
            reader = ChainReader(
                pool, [world.node.ws_url], world.protocol.contracts, Params(deaf_poll_s=0.02, poll_s=0.2)
            )
            journal = SqliteJournal(tmp_path / "journal", identity={"of": "a test"}, limits=Limits())
            feed = Feed()
            pipeline = Pipeline(
                reader=reader,
                market=world.market,
                desk=HybridDesk(SIGNER.address, KEEPER, DeskParams("ETH/USD")),
                feed=feed,
                journal=journal,
                sender=ChainSender(pool, journal, SIGNER, chain_id=world.node.chain_id),
                params=PipelineParams(block_time_s=1, batch=4),
            )
            head = head_of(await pool.request("eth_getBlockByNumber", ["latest", False]))
            await reader.start(await pipeline.discover(0, head))
            running = asyncio.create_task(pipeline.run())
            world.fast[BTC] = FALLEN
            world.post_prices(12)
            tip = world.node.block_number()
            await until(lambda: pipeline.vitals.done and pipeline.vitals.done.number == tip)
            feed.move(BTC, FALLEN)
            await until(lambda: world.node.rpc("txpool_status")["pending"] == "0x2")
            steps = journal.live_steps()
            flag_first(world)
            world.node.mine(world.now_s + 1)
            await until(lambda: pipeline.vitals.done and pipeline.vitals.done.number == tip + 1)
            running.cancel()
            await asyncio.wait({running})
            await reader.close()
        acts = [journal.step(each.step_id) for step in steps for each in (step, *step.carries)]
        told = {each.account: journal.history(each.case_id) for each in acts}
        journal.close()
        rows = world.rows(ACCOUNTS)
    assert [1 + len(step.carries) for step in steps] == [4, 2]
    assert {each.account: each.state for each in acts} == {
        each: StepState.REVERTED if each == LOST else StepState.INCLUDED for each in ACCOUNTS
    }
    assert {each.phase for each in rows.values()} == {Phase.FLAGGED}
    ours = {key for key, row in rows.items() if row.flag.flagger.lower() == SIGNER.address.lower()}
    assert ours == {*ACCOUNTS} - {LOST}
    [reverted] = [event for event in told[LOST] if event.kind == "Reverted"]
    assert reverted.data["why"] == "WrongState"
    with closing(JournalReader(tmp_path / "journal")) as found:
        assert found.verify() == []
