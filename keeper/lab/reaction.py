"""How long a keeper takes from a price on a venue's socket to a signed transaction on its node's socket.

The keeper is a process of its own, ``keeper run``, as a user starts it; nothing in it is left out or knows of
the clock. Its book is taken up from a file: a crowd that no price here concerns, and accounts on a ladder, of
which each new low of one price breaches the next. The deployment is real, on an Anvil, with a fast price on
chain at which all of the ladder is in breach already, so that who is to be flagged hangs on the live price
alone. Each flag is a transaction of its own, and the node takes as many of them as come at once; a block
includes them, the price goes back, and all begins anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from eth_abi.abi import encode

from keeper.errors import InvariantBroken
from keeper.lab.anvil import Node, anvil, stop
from keeper.lab.deploy import QUOTE, Deployed, deploy
from keeper.lab.pages import page
from keeper.lab.wires import Front, Venues
from keeper.lab.world import fast_prices, person, reporters
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.state.archive import Stamp
from keeper.state.book import Book
from keeper.units import WAD, FeedId, Wad

KEEPER = person(1, "keeper")
BTC = "BTC/USD"
PRICES: Mapping[FeedId, int] = {BTC: 20_000, "ETH/USD": 1_500, "SYN/USD": 25}
FALLEN = 19_900
"""What the fast price on chain is of BTC."""
FIRST, STEP = 19_995.0, 1.0
"""Below which price the first of the ladder is in breach, and how much further each next one."""
BURST = 19_920.0
"""Below which price all of those are who are to breach at once."""
SIZE_WAD, MARGIN = 10 * WAD, 0.05
PAGE = 500
AFTER_S = 0.02
"""From a transaction to the next price: the keeper writes down what the node said."""
PATIENCE_S = 30.0

CONFIG = """
[chain]
http = "{http}"
ws = "{ws}"
chain_id = {chain_id}
hand_over = "ws"
block_time_s = 12
[deployment]
reader = "{reader}"
from_block = 0
[economics]
native_feed = "ETH/USD"
[limits]
spend_day_native = 1000000
attempts_hour = 100000
[send]
in_flight = 1000
[mirror]
check_blocks = 1000000
snapshot_blocks = 1000000
[trigger]
rehearse_ms = 0.1
ready = {ready}
[ladder.book]
false_alarms = [2.0]
[health]
port = 0
[feed]
kind = "live"
"""


@dataclass(frozen=True, slots=True)
class Reaction:
    """One price and the transaction that it led to."""

    price_ns: int
    """``time.monotonic_ns`` before the price was said,"""
    wire_ns: int
    """and when the node had the transaction."""
    was_ready: bool
    """Whether the act was vouched for: the node was not asked in between."""

    @property
    def took_us(self) -> float:
        """How long it took."""
        return (self.wire_ns - self.price_ns) / 1e3


@dataclass
class Keeper:
    """The process, and where it tells how it does."""

    process: subprocess.Popen[bytes]
    address: str = ""


@dataclass
class Rig:
    """A keeper between its sockets, with so many accounts on the ladder, and in the burst."""

    node: Node
    deployed: Deployed
    folder: Path
    venues: Venues
    front: Front
    rungs: int
    burst: int
    ready: int
    keeper: Keeper = field(init=False)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    async def descend(self) -> AsyncIterator[Reaction]:
        """Let the price fall step by step, from a new block on; yield what each step led to."""
        await self.mine()
        for number in range(self.rungs):
            sent, simulated = len(self.front.handed), self.front.simulated
            price = FIRST - (number + 0.5) * STEP
            price_ns, [wire_ns] = await self._react(price, sent + 1)
            yield Reaction(price_ns, wire_ns, self.front.simulated == simulated)
            await asyncio.sleep(AFTER_S)
        await self.recover()

    async def crash(self) -> list[float]:
        """Let the price fall at once below where the burst begins; return how long each act took [us].

        Those of the ladder are flagged before.
        """
        async for _ in self.descend():
            pass
        await self.mine()
        sent = len(self.front.handed)
        price_ns, wires_ns = await self._react(BURST - STEP / 2, sent + self.rungs + self.burst)
        await self.recover()
        return [(wire_ns - price_ns) / 1e3 for wire_ns in wires_ns]

    async def _react(self, price: float, count: int) -> tuple[int, list[int]]:
        """Say a price, wait until the node was handed so many; return when it was said, and they came."""
        known = len(self.front.handed)
        _pass_part_of_ms(self.chance)
        began_ns = await self.venues.say("kraken", BTC, _venue_price(price))
        async with asyncio.timeout(PATIENCE_S):
            await self.front.until_handed(count)
        return began_ns, [each.heard_ns for each in self.front.handed[known:]]

    async def recover(self) -> None:
        """Let the price go back, and all that was sent be included."""
        await self.say_all()
        await self.mine()

    async def say_all(self) -> None:
        """Have both venues say every price as it is at the beginning."""
        for venue in self.venues.urls:
            for feed, price in PRICES.items():
                await self.venues.say(venue, feed, str(price))

    async def mine(self) -> None:
        """Mine a block, at whose end the keeper stands ready, and wait until it does."""
        await self.say_all()
        _post(self.node, self.deployed)
        self.front.include()
        tip, simulated = self.node.block_number(), self.front.simulated
        expected = min(self.ready, self.rungs + self.burst)
        async with asyncio.timeout(PATIENCE_S):
            while await self.done() != tip or self.front.simulated < simulated + expected:  # noqa: ASYNC110
                await asyncio.sleep(AFTER_S)
        # What comes after the acts that are kept ready: distances, in a thread.
        await asyncio.sleep(10 * AFTER_S)

    async def done(self) -> int | None:
        """Return the block that the keeper was done with last."""
        if self.keeper.process.poll() is not None:
            raise InvariantBroken(f"the keeper has ended, see {self.folder / 'keeper.log'}")
        log = (self.folder / "keeper.log").read_text()
        if not self.keeper.address:
            said = [json.loads(line) for line in log.splitlines() if '"health.served"' in line]
            if not said:
                return None
            self.keeper.address = said[0]["address"]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.keeper.address}/healthz") as answer,
        ):
            found: int | None = (await answer.json())["block"]
            return found


@asynccontextmanager
async def rig(
    folder: Path,
    *,
    accounts: int,
    rungs: int,
    burst: int = 0,
    ready: int = 32,
    stages: bool = False,
) -> AsyncIterator[Rig]:
    """Put everything together: a chain, sockets, a book of so many accounts, and a keeper that has begun.

    Once it has ended ``stages.read_stages`` has the stages that it noted, if it was to.
    """
    with anvil(timestamp_s=int(time.time()) - 60) as node:
        deployed = _deployed(node)
        async with Venues() as venues, Front(node, KEEPER.address) as front:
            found = Rig(node, deployed, folder, venues, front, rungs, burst, ready)
            await asyncio.to_thread(_write, found, accounts)
            with _running(folder, stages=stages) as process:
                found.keeper = Keeper(process)
                async with asyncio.timeout(10 * PATIENCE_S):
                    while min(venues.listeners.values()) == 0 or await found.done() is None:
                        await found.say_all()
                        await asyncio.sleep(0.1)
                yield found


async def least(folder: Path, count: int) -> AsyncIterator[float]:
    """Yield how long a process takes so many times that does the least there is to do (``floor``) [us]."""
    with anvil(timestamp_s=int(time.time())) as node:
        async with Venues() as venues, Front(node, KEEPER.address) as front:
            asked = [venues.urls["kraken"], front.url, str(folder / "floor.sqlite")]
            with _process(["keeper.lab.floor", *asked], folder, "floor.log"):
                async with asyncio.timeout(PATIENCE_S):
                    while venues.listeners["kraken"] == 0:  # noqa: ASYNC110
                        await asyncio.sleep(AFTER_S)
                for number in range(count):
                    price_ns = await venues.say("kraken", BTC, _venue_price(FIRST - number))
                    async with asyncio.timeout(PATIENCE_S):
                        await front.until_handed(number + 1)
                    yield (front.handed[-1].heard_ns - price_ns) / 1e3
                    await asyncio.sleep(AFTER_S)


@contextmanager
def _running(folder: Path, *, stages: bool) -> Iterator[subprocess.Popen[bytes]]:
    program = "keeper.lab.stages" if stages else "keeper"
    files = ["--config", "keeper.toml", "--snapshot", "crowd.snapshot"]
    secret = {"KEEPER_PRIVATE_KEY": "0x" + KEEPER.key.hex()}
    with _process([program, "run", *files], folder, "keeper.log", secret) as process:
        yield process


@contextmanager
def _process(
    command: Sequence[str], folder: Path, log: str, secret: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module in a folder for as long as the context is open."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEEPER_")}
    with (folder / log).open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=inherited | (secret or {}),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            stop(process)


def _deployed(node: Node) -> Deployed:
    """Deploy HybridMargin with the keeper's means, prices proven, and BTC fallen at the fast price alone."""
    deployed = deploy(node, signers=[each.address for each in reporters(seed=1)])
    node.fund([KEEPER.address])
    keys = [each.key for each in reporters(seed=1)]
    prices = {feed: price * WAD for feed, price in PRICES.items()}
    node.run(deployed.mint(QUOTE, 2 * 10**7 * WAD))
    node.run([deployed.give_credit(QUOTE, 10**7 * WAD, KEEPER.address)])
    at_s = node.timestamp_s() + 2
    rounds = [deployed.slow_round(feed, price) for feed, price in prices.items()]
    proofs = [deployed.prove(feed) for feed in prices]
    node.run([*rounds, fast_prices(deployed, keys, prices, at_s), *proofs], at_s)
    _post(node, deployed)
    return deployed


def _post(node: Node, deployed: Deployed) -> None:
    """Mine a block of now, with the fast prices."""
    at_s = max(int(time.time()), node.timestamp_s() + 1)
    prices = {feed: price * WAD for feed, price in {**PRICES, BTC: FALLEN}.items()}
    node.run([fast_prices(deployed, [each.key for each in reporters(seed=1)], prices, at_s)], at_s)


def _write(found: Rig, accounts: int) -> None:
    """Write the configuration, and the book that the keeper takes up."""
    node, protocol = found.node, found.deployed.protocol
    text = CONFIG.format(
        http=found.front.url,
        ws=found.front.ws_url,
        chain_id=node.chain_id,
        reader=protocol.reader,
        ready=found.ready,
    )
    symbols = {feed: {"kraken": feed, "okx": feed.replace("/", "-")} for feed in PRICES}
    for feed, names in symbols.items():
        text += f'[feed.sources."{feed}"]\n' + "".join(f'{at} = "{name}"\n' for at, name in names.items())
    text += "[feed.urls]\n" + "".join(f'{name} = "{url}"\n' for name, url in found.venues.urls.items())
    (found.folder / "keeper.toml").write_text(text)
    market = HybridMarket(protocol)
    book, head = Book(market.shape), node.rpc("eth_getBlockByNumber", "latest", False)
    block = int(head["number"], 16)
    rng = np.random.default_rng(1)
    for first in range(0, accounts, PAGE):
        numbers = np.arange(first, min(first + PAGE, accounts)) + 1
        book.fold_rows(
            page(numbers, rng, listed=3 + 1, cash=(4 * WAD, 5 * WAD), most_wad=WAD // 10**5), block
        )
    falls = [FIRST - number * STEP for number in range(found.rungs)] + [BURST] * found.burst
    book.fold_rows(_near(falls), block)
    book.save(found.folder / "crowd.snapshot", Stamp(node.chain_id, protocol.reader, block, head["hash"]))


def _near(falls: Sequence[float]) -> bytes:
    """Encode accounts that are long BTC, each in breach below one of some prices."""
    heads, legs = list[int](), list[int]()
    paid_wad = -PRICES[BTC] * SIZE_WAD
    for number, price in enumerate(falls, 1):
        cash_wad: Wad = round(((1 + MARGIN) * price - price + PRICES[BTC] - price) * 100) * SIZE_WAD // 100
        heads += [number << 224, cash_wad << 128 | 1 << 112, 1_700_000_000 << 192]
        legs.append(SIZE_WAD << 128 | paid_wad % 2**128)
    return encode(load("MarginReader").functions["rows"].outputs, [heads, legs, [], []])


def _pass_part_of_ms(chance: random.Random) -> None:
    """Wait for up to a millisecond: with one, all processes' timers end, and prices come in between."""
    until_ns = time.monotonic_ns() + chance.randrange(1_000_000)
    while time.monotonic_ns() < until_ns:
        pass


def _venue_price(price: float) -> str:
    """Return what one of two venues has to say for a composite, the mean of both."""
    return f"{2 * price - PRICES[BTC]:.2f}"
