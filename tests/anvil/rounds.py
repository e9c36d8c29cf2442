"""Two keepers on one journal, and the leader killed, frozen or cut off, round after round.

A crash goes on all the while: every few blocks another account comes into breach. In each round something
happens to whoever leads, the other takes over, and the first one comes back. In the end the chain and the
journal are compared: every transaction of the wallet is a step of the journal, no step went out twice. What
each leader taped is decided again.

    python -m tests.anvil.rounds --rounds 20 --seed 1 --jobs 2 --json FILE
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg

from keeper.journal.db import Shared
from keeper.journal.reader import JournalReader
from keeper.lab.anvil import Node, anvil, stop
from keeper.lab.deploy import QUOTE, Deployed, deploy
from keeper.lab.world import FOREVER, fast_prices, person, reporters, trade
from keeper.protocols.hybrid.signing import Order
from keeper.units import WAD, FeedId, Wad
from tests.postgres import Line, serving

ROOT = Path(__file__).resolve().parents[2]
GENESIS_S = 1_700_000_000
BLOCK_S = 12
"""Between blocks by the chain's clock; by the wall's a second passes."""
LEASE_S = 3.0
OWNERS = 24
STORY = 20
"""Rounds on one chain: by then most accounts are closed."""
KEEPER, MAKER = person(1, "keeper"), person(1, "maker")
REPORTERS = reporters(1)
FEEDS: dict[FeedId, str] = {"ETH/USD": "1510", "SYN/USD": "7.1"}
CALM, FALL = 3, 4
"""For how many blocks BTC's price stands still, and by how much it falls with each after its first leap."""
APART = 6
"""Blocks from one account's breach to the next one's."""
PATIENCE_S = 120.0
BLOCKS_TO_ACT = 2
"""A next leader that acts later is too slow."""


class Blow(StrEnum):
    """What happens to the leader."""

    KILLED = "killed"
    FROZEN = "frozen"
    """Stopped, and let go on after the other one has taken over."""
    CUT_OFF = "cut off"
    """From PostgreSQL; the node it still reaches."""
    SENDING = "frozen while it sends"
    """With signed bytes on the way: the node gets them when the other one has sent them long ago."""


def price(block: int) -> int:
    """Return BTC's price so many blocks after the beginning."""
    return 20_000 if block < CALM else 19_400 - FALL * (block - CALM)


class Wire:
    """The way of one keeper to the node; what it sends may be held up."""

    WORD = b"eth_sendRawTransaction"

    def __init__(self, port: int) -> None:
        self._node = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.holds = threading.Event()
        """Set where the next transaction is to be held up."""
        self.held: list[bytes] = []
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        for each in (self._listening, *self._ends):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def deliver(self) -> list[str]:
        """Give the node what was held up; return its answers."""
        said = []
        for request in self.held:
            body = request[request.index(b"{") :]
            node = HTTPConnection("127.0.0.1", self._node, timeout=30)
            with closing(node):
                node.request("POST", "/", body, {"Content-Type": "application/json"})
                told = json.loads(node.getresponse().read())
            said.append(told.get("error", {}).get("message", "taken"))
        self.held.clear()
        return said

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._node))
                self._ends += [near, far]
                threading.Thread(target=self._pass_on, args=(near, far), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(far, near), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while some := source.recv(2**20):
                if self.holds.is_set() and self.WORD in some:
                    self.held.append(some)
                    self.holds.clear()
                    return
                sink.sendall(some)
            sink.shutdown(socket.SHUT_WR)


@dataclass
class Process:
    """A keeper, and what it says."""

    name: str
    folder: Path
    env: Mapping[str, str]
    wire: Wire
    line: Line
    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):
                self.events.append(json.loads(line))

    def told(self, event: str) -> float | None:
        """Return when an event was logged first, by the wall clock; None where it was not."""
        for each in list(self.events):
            if each["event"] == event:
                return datetime.fromisoformat(each["timestamp"]).timestamp()
        return None

    def count(self, event: str) -> int:
        """Return how often an event was logged."""
        return sum(each["event"] == event for each in list(self.events))

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its code, and its last words."""
        code = self.process.wait(PATIENCE_S)
        self._ear.join(5)
        assert self.process.stderr is not None
        return code, self.process.stderr.read().strip()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        stop(self.process)  # type: ignore[arg-type]  # a text process is stopped like any other
        self._ear.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.wire.close()
        self.line.close()


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one blow."""

    blow: Blow
    act_blocks: int
    """Blocks from the end of the lease until the next leader had sent something, or had done a head on which
    nothing was due."""
    act_s: float
    """The same in seconds."""
    taken_s: float
    """And from the end of the lease until the next leader had it."""
    sent: bool
    old: str
    """How the old leader ended."""
    late: tuple[str, ...]
    """What the node said to bytes of the old leader that came late."""


class Story:
    """A crash on a chain of its own, a journal of its own, and the keepers on them."""

    def __init__(
        self, url: str, node: Node, folder: Path, dice: random.Random, stack: ExitStack, deployments: int
    ) -> None:
        name = f"story_{dice.getrandbits(64):016x}"
        self.places = [Shared(url, f"{name}_{n}", folder / f"{n}.sqlite") for n in range(deployments)]
        """Where the journal of each deployment is."""
        self._node = node
        self._folder = folder
        self._dice = dice
        self._stack = stack
        self.next: Process | None = None
        """The standby of the next round: it starts while the old leader ends."""
        self.transactions = self.replayed = 0
        self.blocks: list[float] = []
        """When each block was mined, by the wall clock."""
        self._over = threading.Event()
        self._names = iter(f"keeper{number}" for number in range(10**6))
        signers = [each.address for each in REPORTERS]
        self._deployed = [deploy(node, signers=signers) for _ in range(deployments)]
        node.fund([KEEPER.address, *signers])
        for each in self._deployed:
            self._open(each)
        self._began = node.block_number()
        self._began_s = node.timestamp_s()
        self._miner = threading.Thread(target=self._mine, daemon=True)

    def _open(self, deployed: Deployed) -> None:
        """Fund everybody, and open positions that come into breach one after the other."""
        node = self._node
        owners = [person(1, f"owner{number}") for number in range(OWNERS)]
        # Each is to hold ten of BTC, bought at 20,000.
        cash = {each.account: (16_100 + 10 * FALL * APART * rank) * WAD for rank, each in enumerate(owners)}
        cash |= {MAKER.account: 10**8 * WAD, KEEPER.account: 10**7 * WAD}
        node.run(deployed.mint(QUOTE, 2 * 10**8 * WAD))
        node.run(
            [
                deployed.give_credit(QUOTE, sum(cash.values()), deployed.admin),
                deployed.give_credit(QUOTE, 10**6 * WAD, KEEPER.address),
                *(deployed.deposit(account, QUOTE, amount) for account, amount in cash.items()),
            ]
        )
        prices = self._prices(0)
        self._post(prices, *(deployed.prove(feed) for feed in prices))
        opening = 20_000 * WAD
        for number, owner in enumerate(owners, start=1):
            order = Order(owner.account, 1, 10 * WAD, opening, number, FOREVER)
            self._post(prices, trade(deployed, owner, MAKER, order))

    @staticmethod
    def _prices(block: int) -> dict[FeedId, Wad]:
        others = {feed: int(float(text) * 1_000) * WAD // 1_000 for feed, text in FEEDS.items()}
        return {"BTC/USD": price(block) * WAD, **others}

    def _post(self, prices: dict[FeedId, Wad], *then: Any) -> None:
        at_s = self._node.timestamp_s() + BLOCK_S
        keys = [each.key for each in REPORTERS]
        rounds = [each.slow_round(feed, wad) for each in self._deployed for feed, wad in prices.items()]
        told = [fast_prices(each, keys, prices, at_s) for each in self._deployed]
        self._node.run([*rounds, *told, *then], at_s)

    def _mine(self) -> None:
        next_s = time.monotonic()
        while not self._over.is_set():
            self._post(self._prices(self._node.block_number() + 1 - self._began))
            self.blocks.append(time.time())
            next_s = max(next_s + 1, time.monotonic())
            self._over.wait(max(0.0, next_s - time.monotonic()))

    @contextmanager
    def mining(self) -> Iterator[None]:
        """Mine a block every second."""
        self._write_prices()
        self._miner.start()
        try:
            yield
        finally:
            self._over.set()
            self._miner.join()

    def _write_prices(self) -> None:
        lines = ["timestamp_s,feed,price"]
        for block in range(3_000):
            at_s = self._began_s + block * BLOCK_S
            texts = {"BTC/USD": str(price(block)), **FEEDS}
            lines += [f"{at_s},{feed},{text}" for feed, text in texts.items()]
        (self._folder / "prices.csv").write_text("\n".join(lines) + "\n")

    def start(self) -> Process:
        """Start a keeper with a folder and wires of its own."""
        name = next(self._names)
        folder = self._folder / name
        folder.mkdir()
        wire, line = Wire(int(self._node.http_url.rpartition(":")[2])), Line(self.places[0].url)
        files = [f"{place.path.stem}.toml" for place in self.places]
        for file, place, deployed in zip(files, self.places, self._deployed, strict=True):
            (folder / file).write_text(self._settings(place, deployed, wire))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("KEEPER_")}
        secrets = {"KEEPER_PRIVATE_KEY": "0x" + KEEPER.key.hex(), "KEEPER_JOURNAL__URL": line.url}
        env = {**inherited, **secrets, "PYTHONPATH": str(ROOT)}
        configs = [word for file in files for word in ("--config", file)]
        process = subprocess.Popen(
            [sys.executable, "-m", "keeper", "run", *configs],
            cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return self._stack.enter_context(closing(Process(name, folder, env, wire, line, process)))

    def _settings(self, place: Shared, deployed: Deployed, wire: Wire) -> str:
        return f"""
[chain]
http = "http://127.0.0.1:{wire.port}"
ws = "{self._node.http_url.replace("http", "ws", 1)}"
chain_id = {self._node.chain_id}
[deployment]
reader = "{deployed.protocol.reader}"
from_block = 0
[feed]
path = "{self._folder / "prices.csv"}"
[economics]
native_feed = "ETH/USD"
[mirror]
snapshot = "{place.path.stem}.book"
[journal]
path = "{place.path.name}"
schema_name = "{place.schema}"
lease_s = {LEASE_S}
"""

    def play(self, leader: Process, standby: Process, blow: Blow) -> Round:
        """Strike the leader, and wait until the other one leads."""
        until(lambda: standby.count("standby.waits") == len(self.places), standby)
        self._strike(leader, blow)
        ended_s = max(self._asked("SELECT extract(epoch FROM until) FROM {}.lease"))
        until(lambda: standby.told("lease.taken") is not None, standby)
        taken_s = standby.told("lease.taken") or 0.0
        done = f"SELECT min(done_at_s) FROM {{}}.heads WHERE done_at_s > {taken_s}"  # noqa: S608
        until(lambda: all(self._asked(done)), standby)
        first_sent_s, first_done_s = standby.told("tx.sent"), max(self._asked(done))
        acted_s = min(first_sent_s or first_done_s, first_done_s)
        blocks = sum(ended_s < each <= acted_s for each in self.blocks)
        self.next = self.start()
        old, late = self._end(leader, blow)
        waited_s, worked_s = round(taken_s - ended_s, 3), round(acted_s - ended_s, 3)
        return Round(blow, blocks, worked_s, waited_s, first_sent_s is not None, old, late)

    def _asked(self, query: str) -> list[float]:
        """Ask the server for one number of each journal, 0 where there is none."""
        with psycopg.connect(self.places[0].url, autocommit=True) as db:
            found = [db.execute(query.format(each.schema).encode()).fetchone() for each in self.places]
        return [float(row[0] or 0) for row in found if row is not None]

    def _strike(self, leader: Process, blow: Blow) -> None:
        time.sleep(self._dice.uniform(0, 2))
        if blow is Blow.KILLED:
            leader.process.kill()
        elif blow is Blow.CUT_OFF:
            leader.line.cut()
        elif blow is Blow.SENDING:
            leader.wire.holds.set()
            with suppress(AssertionError):
                until(lambda: bool(leader.wire.held), leader, patience_s=30)
            leader.process.send_signal(signal.SIGSTOP)
        else:
            leader.process.send_signal(signal.SIGSTOP)

    def _end(self, leader: Process, blow: Blow) -> tuple[str, tuple[str, ...]]:
        """Let an old leader go on, and see how it ends; give the node what it had on the way."""
        late = tuple(leader.wire.deliver())
        if blow in {Blow.FROZEN, Blow.SENDING}:
            leader.process.send_signal(signal.SIGCONT)
        code, words = leader.end()
        leader.line.mend()
        leader.close()
        return f"{code}: {words}", late

    def amiss(self, last: Process) -> list[str]:
        """Compare the journal with the chain, and with itself, by what the last leader was told.

        The chain stands still then: nobody else may ask the node meanwhile.
        """
        self._over.set()
        self._miner.join()
        found, steps = [], set()
        for place in self.places:
            with closing(JournalReader(place)) as reader:
                found += reader.verify()
                steps |= {raw_hash for _, raw_hash in reader.signed().values()}
        sent: Counter[int] = Counter()
        for number in range(self._began, self._node.block_number() + 1):
            block = self._node.rpc("eth_getBlockByNumber", hex(number), True)
            for tx in block["transactions"]:
                if tx["from"] == KEEPER.address:
                    sent[int(tx["nonce"], 16)] += 1
                    if tx["hash"] not in steps:
                        found.append(f"{tx['hash']} is on chain, and no step of the journal")
        found += [f"nonce {nonce} is on chain {count} times" for nonce, count in sent.items() if count > 1]
        self.transactions = sum(sent.values())
        return [*found, *(each for place in self.places for each in self._replayed(last, place))]

    def _replayed(self, last: Process, place: Shared) -> Iterator[str]:
        """Decide again what each leader taped; yield what came out otherwise."""
        done = subprocess.run(
            [sys.executable, "-m", "keeper", "replay", f"{place.path.stem}.toml"],
            cwd=last.folder, env=last.env, text=True, capture_output=True, check=False,
        )  # fmt: skip
        self.replayed += done.stdout.count("  equal, event for event")
        if done.returncode != 0:
            yield f"a replay ended with {done.returncode}: {done.stdout[-2_000:]} {done.stderr[-500:]}"


def until(told: Callable[[], bool], process: Process, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not told():
        assert time.monotonic() < deadline, (process.name, process.events[-5:])
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one story."""

    rounds: list[Round]
    amiss: list[str]
    transactions: int
    replayed: int
    """Runs of leaders that were decided again, all alike."""


def tell_story(
    number: int, seed: int, blows: Sequence[Blow], deployments: int, tell: Callable[[str], None]
) -> Told:
    """Strike one leader after the other, on a chain and a server of their own."""
    dice = random.Random(f"{seed} {number}")
    played: list[Round] = []
    amiss: list[str] = []
    with ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory(prefix="keeper-standby-")))
        url = open_.enter_context(serving(is_durable=True))
        node = open_.enter_context(anvil(timestamp_s=GENESIS_S))
        story = Story(url, node, folder, dice, open_, deployments)
        open_.enter_context(story.mining())
        leader = story.start()
        until(lambda: leader.told("lease.taken") is not None, leader)
        standby = story.start()
        for blow in blows:
            found = story.play(leader, standby, blow)
            tell(f"story {number}, round {len(played) + 1}: {found}")
            played.append(found)
            if found.taken_s < 0:
                amiss.append(f"story {number}, round {len(played)}: the lease was lost before the blow")
            assert story.next is not None
            leader, standby = standby, story.next
        # The standby first: it is not to lead for the moment that is left.
        for each in (standby, leader):
            each.process.send_signal(signal.SIGTERM)
            each.end()
        amiss += story.amiss(leader)
    return Told(played, amiss, story.transactions, story.replayed)


def play(
    rounds: int,
    seed: int,
    *,
    jobs: int = 1,
    deployments: int = 1,
    blows: Sequence[Blow] = tuple(Blow),
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Play rounds on as many chains as they take, some at a time; return what came of them."""
    all_blows = [blows[number % len(blows)] for number in range(rounds)]
    size = min(STORY, -(-rounds // jobs))
    stories = [all_blows[first : first + size] for first in range(0, rounds, size)]
    with ThreadPoolExecutor(jobs) as threads:
        begun = [
            threads.submit(tell_story, number, seed, each, deployments, tell)
            for number, each in enumerate(stories)
        ]
        told = [each.result() for each in begun]
    played = [each for story in told for each in story.rounds]
    blocks, seconds = [each.act_blocks for each in played], [each.act_s for each in played]
    late = Counter(words for each in played for words in each.late)
    return {
        "seed": seed,
        "commit": commit(),
        "jobs": jobs,
        "deployments": deployments,
        "rounds": len(played),
        "blows": Counter(each.blow for each in played),
        "transactions": sum(story.transactions for story in told),
        "replayed": sum(story.replayed for story in told),
        "amiss": [each for story in told for each in story.amiss],
        "too_slow": [number for number, each in enumerate(played, 1) if each.act_blocks > BLOCKS_TO_ACT],
        "sent_at_once": sum(each.sent for each in played),
        "blocks_to_act": {"most": max(blocks), "median": statistics.median(blocks)},
        "seconds_to_lease": max(each.taken_s for each in played),
        "seconds_to_act": {"most": max(seconds), "median": statistics.median(seconds)},
        "late_bytes": late,
        "stopped_by_itself": sum(each.old.startswith("2: keeper: ") for each in played),
        "ends": Counter(each.old[:70] for each in played),
        "each": [asdict(each) for each in played],
    }


def commit() -> str:
    """Name the code that is played, and say where it is not what was committed."""
    asked = ("git", "describe", "--always", "--dirty", "--exclude", "*")
    return subprocess.run(asked, cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="so many chains at the same time")
    parser.add_argument("--deployments", type=int, default=1, help="so many for each keeper, one wallet")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = play(
        asked.rounds,
        asked.seed,
        jobs=asked.jobs,
        deployments=asked.deployments,
        tell=partial(print, flush=True),
    )
    text = json.dumps(found, indent=2)
    sys.stdout.write(text + "\n")
    if asked.json:
        asked.json.write_text(text + "\n")
    sys.exit(bool(found["amiss"] or found["too_slow"]))


if __name__ == "__main__":
    main()
