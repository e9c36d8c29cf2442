"""One life of a keeper: the real pipeline, journal, tape and sender, in a process that may die anywhere."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import Call, ChainTime, Quote, Refuse
from keeper.execute.sender import ChainSender
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.lock import alone
from keeper.journal.shared import PostgresJournal
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.journal.tape import Recorder
from keeper.pipeline import Params, Pipeline, Shelf
from keeper.ports import BlockUpdate, Range
from keeper.units import WAD, Block, FeedId, UnixS
from tests.kills.points import Points
from tests.kills.stores import Store
from tests.unit.pipeline.desk import KEEPER, MARKET, SIGNER

CHAIN_ID = 31337
LENGTH = struct.Struct(">I")
LEASE_S = 600.0
"""Longer than any life."""
REHEARSED = 8
"""Pieces of the way from a tick to its act that a keeper goes through before each tick."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """How keepers of a round are made."""

    limits: Limits = field(default_factory=Limits)
    durable: bool = True
    batch: int = 1

    def journal(self, place: Path | Shared) -> StoredJournal:
        """Open the journal; of several keepers that share one, the others are dead."""
        told = {"chain_id": str(CHAIN_ID), "wallet": SIGNER.address}
        if isinstance(place, Path):
            return SqliteJournal(place, identity=told, limits=self.limits, durable=self.durable)
        # Each round has a chain of its own: what others have left on the server is of another wallet.
        told["genesis"] = place.schema
        journal = PostgresJournal(place, identity=told, limits=self.limits, lease_s=LEASE_S)
        assert journal.leads(), f"{journal.leadership} leads"
        return journal

    def sender(self, rpc: Any, journal: Any) -> ChainSender:
        return ChainSender(rpc, journal, SIGNER, chain_id=CHAIN_ID)


PLENTY = Keeper()
THRIFTY = Keeper(Limits(spend_day_wei=WAD // 100, attempts_hour=5))
"""Its limits end most stories before all accounts are safe."""
BATCHING = Keeper(batch=4)
"""It puts what is due at once into one transaction."""


class Line:
    """What keeper and world say to each other, over a socket: one asks, the other answers."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def say(self, *what: Any) -> None:
        told = pickle.dumps(what)
        self._end.sendall(LENGTH.pack(len(told)) + told)

    def hear(self) -> tuple[Any, ...] | None:
        """Return what is said next; None where nobody is left to say anything."""
        length = self._read(LENGTH.size)
        if not length:
            return None
        found: tuple[Any, ...] = pickle.loads(self._read(*LENGTH.unpack(length)))  # noqa: S301
        return found

    def _read(self, length: int) -> bytes:
        parts = []
        while length and (part := self._end.recv(length)):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


class Node:
    """Reader, node and market as a keeper has them, who can die before it asks, and before it knows."""

    def __init__(self, line: Line, points: Points) -> None:
        self._line = line
        self._points = points

    def ask(self, what: str, *asked: Any) -> Any:
        """Ask the world; raise what it answers with."""
        self._line.say(what, *asked)
        answer = self._line.hear()
        assert answer, "the world is gone"
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    def _send(self, what: str, method: str, asked: Any) -> Any:
        self._points.come_by(f"{method}: not asked yet")
        try:
            return self.ask(what, method, asked) if what == "request" else self.ask(what, asked)
        finally:
            self._points.come_by(f"{method}: done, and the answer not heard")

    # --- the sender's node ---

    async def request(self, method: str, params: list[Any]) -> Any:
        return self._send("request", method, params)

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        found: list[Any] = self._send("batch", calls[-1][0], calls)
        return found

    # --- the reader ---

    def watch(self, addresses: Sequence[str]) -> None:
        self.ask("watch", addresses)

    async def search(self, first: Block, last: Block) -> AsyncIterator[Range]:
        for each in self.ask("search", first, last):
            yield each

    async def hash_at(self, number: Block) -> str | None:
        found: str | None = self.ask("hash_at", number)
        return found

    async def call(self, call: Call, at_hash: str) -> bytes:
        return (await self.call_many([call], at_hash))[0]

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        self._points.come_by("eth_call: not asked yet")
        found: list[bytes] = self.ask("call_many", calls, at_hash)
        return found

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        self._points.come_by("simulation: not asked yet")
        found: bytes | Refuse = self.ask("simulate", sender, call, at, gas_limit)
        return found

    async def simulate_in_order(
        self, sender: str, calls: Sequence[tuple[Call, int]], at: ChainTime
    ) -> list[bytes | Refuse] | None:
        del sender, calls, at
        return None

    async def rerun(self, sender: str, call: Call, at_hash: str, gas_limit: int) -> bytes | Refuse:
        self._points.come_by("rerun: not asked yet")
        found: bytes | Refuse = self.ask("rerun", sender, call, at_hash, gas_limit)
        return found

    def updates(self) -> AsyncIterator[BlockUpdate]:
        raise NotImplementedError("blocks are handed on one by one")

    # --- the market ---

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote]:
        found: Mapping[FeedId, Quote] = self.ask("latest", now_s)
        return found

    def listening(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def tick(self) -> int:
        raise NotImplementedError("ticks are handed on one by one")


async def live(node: Node, keeper: Keeper, place: Path | Shared, folder: Path) -> None:
    """Keep, from the newest block on until the story is over."""
    with alone(folder / "journal"):
        journal = keeper.journal(place)
        tape = Recorder()
        shelf = Shelf(folder / "book", CHAIN_ID, MARKET.deployment.liquidator, every_blocks=5)
        book = shelf.path if shelf.path.exists() else None
        started = {"wallet": SIGNER.address, "signs_at_once": True, "chain_id": CHAIN_ID}
        journal.keep_tape(tape, started, book=book)
        reader = tape.reader(node)
        pipeline = Pipeline(
            reader=reader,
            market=MARKET,
            desk=HybridDesk(SIGNER.address, KEEPER, DeskParams("ETH/USD")),
            feed=tape.feed(node),
            journal=journal,
            sender=keeper.sender(tape.rpc(node), journal),
            params=Params(batch=keeper.batch),
            shelf=shelf,
            tape=tape,
        )
        happens: Any = node.ask("since", await pipeline.discover(0, node.ask("tip")))
        while happens is not None:
            if isinstance(happens, BlockUpdate):
                await pipeline.on_update(happens)
                await pipeline.prepare()
            else:
                for _ in range(REHEARSED):
                    pipeline.rehearse()
                if pipeline.on_news(0):
                    await pipeline.on_alarm()
                pipeline.on_tick(0)
                await pipeline.on_alarm()
            happens = node.ask("next")
        journal.close()


def begin(
    store: Store, keeper: Keeper, folder: Path, die_at: int | None, seed: str
) -> tuple[int, socket.socket]:
    """Fork a keeper that lives until it dies, or until all is over; return its process, and where it asks."""
    ours, theirs = socket.socketpair()
    process = os.fork()
    if process:
        theirs.close()
        return process, ours
    ours.close()
    line, code = Line(theirs), 1
    try:
        random.seed(seed)
        points = Points(die_at, lambda place: line.say("died", place))
        with store.mortal(folder, points):
            asyncio.run(live(Node(line, points), keeper, store.place(folder), folder))
        line.say("done", points.passed)
        code = 0
    except BaseException:  # noqa: BLE001 whatever it was, the parent is to hear of it
        line.say("failed", traceback.format_exc())
    finally:
        os._exit(code)
