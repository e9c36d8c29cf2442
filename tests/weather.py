"""The whole keeper, from the pool to the journal, over strict nodes whose accounts follow a script.

Every block changes some accounts and says so by an event, as every change on chain does.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from keeper.chain.pool import Params as PoolParams
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader, Params
from keeper.chain.wire import head_of
from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import Account, Call, Leg
from keeper.errors import ChainFault
from keeper.execute.sender import ChainSender
from keeper.journal.guard import Limits
from keeper.journal.store import SqliteJournal
from keeper.pipeline import Pipeline
from keeper.protocols.hybrid.abi import load
from keeper.state.book import Book
from keeper.units import WAD, AccountKey
from tests.stub_node import Block, Event, StubNode, Tree
from tests.unit.pipeline.desk import EMPTY, KEEPER, MARKET, SIGNER, Chain, Tape
from tests.unit.protocols.hybrid.books import NOW_S

KEYS = [bytes([number]) * 20 + bytes(12) for number in range(1, 7)]
BLOCK_S = 0.05
PATIENCE = Params(poll_s=0.02, deaf_poll_s=0.01, longest_pause_s=0.02, block_time_s=BLOCK_S)
POOL = PoolParams(timeout_s=0.5, hedge_s=0.2, survey_s=BLOCK_S, shortest_pause_s=0.01, longest_pause_s=0.02)

Change = tuple[int, int]
"""An account, by its number, and what becomes of it."""


class Killed(BaseException):
    """The process is gone, in the middle of whatever it did."""


class MortalPool(Pool):
    """Dies at its n-th exchange."""

    lives: int | None = None

    async def _exchange(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise Killed
        return await super()._exchange(calls)


@dataclass
class World:
    """The blocks of all forks, and the accounts as of each."""

    tree: Tree = field(default_factory=lambda: Tree(genesis_s=NOW_S))

    def __post_init__(self) -> None:
        owner = replace(EMPTY, key=KEEPER, cash_wad=100_000 * WAD)
        self.states: dict[str, dict[AccountKey, Account]] = {self.tree.tip.hash: {KEEPER: owner}}

    def mine(self, changes: Sequence[Change], on: Block | None = None) -> Block:
        parent = on or self.tree.tip
        state, events = dict(self.states[parent.hash]), []
        for number, value in changes:
            key = KEYS[number]
            legs = (Leg(1 + value % 2, value * WAD + 1, -value),) if value % 3 else ()
            # Far from any breach: 10,000 a unit.
            state[key] = replace(EMPTY, key=key, cash_wad=1_000_000 * WAD + value, legs=legs)
            events.append(poked(key))
        block = self.tree.mine(*events, on=parent)
        self.states[block.hash] = state
        return block

    def answer(self, at: Block, tx: dict[str, Any]) -> str:
        chain = Chain(heads=[head_of(at.header())], accounts=self.states[at.hash])
        return "0x" + chain._answer(Call(tx["to"], bytes.fromhex(tx["data"][2:]))).hex()


def poked(key: AccountKey) -> Event:
    topic = load("Liquidator").events["Poked"].topic
    return Event(MARKET.deployment.liquidator, ("0x" + topic.hex(), "0x" + key.hex()), "0x" + "00" * 32)


class Keeper:
    """One process of the keeper after the other, on one journal."""

    def __init__(self, *nodes: StubNode, folder: Path) -> None:
        self._nodes = nodes
        self._path = folder / "journal"

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _open(self) -> None:
        self.pool = await MortalPool([node.http_url for node in self._nodes], POOL).__aenter__()
        ws_urls = [node.ws_url for node in self._nodes]
        self.reader = ChainReader(self.pool, ws_urls, MARKET.deployment.contracts, PATIENCE)
        self._journal = SqliteJournal(self._path, identity={"of": "a test"}, limits=Limits())
        self.pipeline = Pipeline(
            reader=self.reader,
            market=MARKET,
            desk=HybridDesk(SIGNER.address, KEEPER, DeskParams("ETH/USD")),
            feed=Tape(Chain()),
            journal=self._journal,
            sender=ChainSender(self.pool, self._journal, SIGNER, chain_id=31337),
        )
        self._updates = self.reader.updates()
        self._started = False

    async def _close(self) -> None:
        await self._updates.aclose()  # type: ignore[attr-defined]
        await self.reader.close()
        await self.pool.close()
        self._journal.close()

    async def restart(self) -> None:
        await self._close()
        await self._open()

    async def hears(self) -> None:
        """Wait until the websocket is up."""
        async with asyncio.timeout(10):
            while not self.reader.listening:  # noqa: ASYNC110 nothing announces it
                await asyncio.sleep(0.005)

    async def catch_up(self, tip: Block, *, dies_after: int | None = None) -> None:
        """Work until a head is done with; die once on the way, and start again."""
        self.pool.lives = dies_after
        async with asyncio.timeout(20):
            while not self._started or self._done != tip.hash:
                try:
                    await self._go_on()
                except Killed:
                    await self.restart()
                except ChainFault:
                    continue
        self.pool.lives = None

    async def _go_on(self) -> None:
        if not self._started:
            head = head_of(await self.pool.request("eth_getBlockByNumber", ["latest", False]))
            await self.reader.start(await self.pipeline.discover(0, head))
            self._started, self._done = True, ""
        update = await anext(self._updates)
        self._done = ""
        await self.pipeline.on_update(update)
        self._done = update.head.hash


async def as_read_in_bulk(keeper: Keeper, tip: Block, keys: Sequence[AccountKey]) -> Book[Account]:
    """Read accounts anew, all at one block."""
    book = Book(MARKET.shape)
    book.fold_rows(await keeper.reader.call(MARKET.rows_call(keys), tip.hash), tip.number)
    return book


async def agrees(keeper: Keeper, world: World, tip: Block) -> None:
    """Hold the mirror against a bulk read, and both against what was put there."""
    mirror, state = keeper.pipeline.mirror.book, world.states[tip.hash]
    keys = [key for key in (KEEPER, *KEYS) if key in state or key in mirror]
    read = await as_read_in_bulk(keeper, tip, keys)
    assert mirror.dirty() == ()
    for key in keys:
        assert mirror.exact(key) == read.exact(key) == state.get(key, replace(EMPTY, key=key))
