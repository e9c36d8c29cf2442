"""The lock-step driver: real keeper and reporter processes, and a chain that waits for them.

Time is compressed without making it easier: a block comes 12 seconds of chain time after the last, and only
when the keeper has journaled that it is done with the one before, or after one second of wall time, which is
counted. Nobody's clock but the chain's is read.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import IO, Protocol

import numpy as np

import keeper
from keeper.chain.wire import log_of
from keeper.domain import Fact, OracleView, Phase
from keeper.errors import ConfigError, KeeperError
from keeper.journal.reader import JournalReader
from keeper.lab.actors import Helpers, Maker
from keeper.lab.anvil import GWEI, Node, stop
from keeper.lab.hedges import HALF_LIFE_S, VOLS
from keeper.lab.paths import BLOCK_S, Paths
from keeper.lab.world import World
from keeper.protocols.hybrid.market import HybridMarket
from keeper.units import AccountKey, UnixS, Wei

PATIENCE_S = 1.0
"""How long the chain waits for the processes at each block."""
POLL_S = 0.002
START_S = 60.0
"""How long the processes may take to be ready for the first block."""
MOST_LATE = 60
"""Blocks in a row without a sign of life, after which the drill gives up."""
WICK_CLEARANCE = 12
"""Blocks before the false print without a kill: each second that a keeper takes to start costs one."""
KILL_WITHIN_S = 0.08
"""A kill comes at most so long after a block, so that it meets the keeper at work."""
FEE_GWEI = ((0.25, 0.40, 0.75, 1.0), (log(15), log(60), log(60), log(30)))
"""Parts of the run, and the base fee's logarithm there; straight in between."""
CONFIG = """\
[chain]
http = "{http}"
ws = "{ws}"
chain_id = {chain_id}
block_time_s = {block_time_s}

[deployment]
reader = "{reader}"
from_block = 0

[wallet]
sub_account = 0

[feed]
kind = "recorded"
path = "prices.csv"
max_age_s = 15

[journal]
path = "journal.sqlite"

[limits]
spend_day_native = "100"

[reporter]
deviation_bps = 10
heartbeat_s = 12
"""
STEWARD = """
[steward]
deviation_bps = 50
heartbeat_s = 60
half_life_s = {half_life_s}

[steward.vols]
"""
"""Half the default deviation: in a fall like this one the price runs away from an array within a minute."""
DONE = frozenset({"reporter.head_done", "steward.head_done"})
"""What the processes without a journal say when they are done with a head."""


class DrillFailed(KeeperError):
    """The drill could not be carried through; its text ends with what the processes said last."""


@dataclass(slots=True)
class Tally:
    """What the chain's events say so far."""

    phases: dict[AccountKey, Phase]
    acts: Counter[str] = field(default_factory=Counter)

    def add(self, facts: Iterable[Fact]) -> None:
        """Count events and follow each account's phase."""
        moves = {
            "Flagged": Phase.FLAGGED,
            "Confirmed": Phase.CONFIRMED,
            "Cleared": Phase.HEALTHY,
            "Expired": Phase.HEALTHY,
            "Cured": Phase.HEALTHY,
            "Insolvent": Phase.CLOSED,
        }
        for fact in facts:
            self.acts[fact.act] += 1
            if fact.act in moves:
                self.phases[fact.args["account"]] = moves[fact.act]

    def count(self, phase: Phase) -> int:
        return sum(found is phase for found in self.phases.values())


@dataclass(frozen=True, slots=True)
class Moment:
    """The drill after one block, for whoever watches."""

    block: int
    blocks: int
    timestamp_s: UnixS
    oracles: OracleView
    tally: Tally
    late_blocks: int
    kills: int
    wall_s: float


class Watcher(Protocol):
    """Is shown every block."""

    def show(self, moment: Moment) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the driving went; what happened on chain is for the audit."""

    first_block: int
    last_block: int
    late_blocks: int
    kills: int
    wall_s: float
    block_ms: tuple[float, ...]
    owners_topped_up: int
    top_ups: int
    too_poor: int
    maker_trades: int
    maker_out_of_band: int
    refused_by_chain: int
    """Transactions of owners, maker and slow oracle that reverted."""


class Process:
    """One of our own programs, its output in a file beside the configuration."""

    def __init__(
        self,
        command: str,
        folder: Path,
        secrets: Mapping[str, str],
        configs: Sequence[str] = ("keeper.toml",),
    ) -> None:
        self.name = command
        options = [option for each in configs for option in ("--config", each)]
        self._command = [sys.executable, "-m", "keeper", command, *options]
        self._folder = folder
        self._log = folder / f"{command}.log"
        # Whatever the operator's own environment says of a keeper is not meant for this one.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEEPER_")}
        root = str(Path(keeper.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [root, inherited.get("PYTHONPATH")]))
        self._environment = {**inherited, **secrets, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._done = -1
        self.looked = Counter[str]()
        """How often it has looked behind each transaction that was announced."""

    def start(self) -> None:
        """Start it, or start it again."""
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self._process.stdout is not None
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def kill(self) -> None:
        """Kill it without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Ask it to end, and make sure that it does."""
        if self._process is not None:
            stop(self._process, patience_s=15.0)

    def check(self) -> None:
        """Raise DrillFailed where it has ended, which nobody asked it to."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise DrillFailed(f"keeper {self.name} ended with status {code}\n{self.last_words()}")

    def done_with(self, block: int) -> bool:
        """Tell whether it said that it is done with a block, or with a later one."""
        return self._done >= block

    def last_words(self, lines: int = 15) -> str:
        """Return the end of what it wrote."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(it wrote nothing)"

    def _listen(self, output: IO[bytes]) -> None:
        with output, self._log.open("ab") as log:
            for line in output:
                log.write(line)
                log.flush()
                if b"announced.looked" in line:
                    self.looked[json.loads(line)["tx_hash"]] += 1
                if b".head_done" in line:
                    self._done = max(self._done, _block_of(line))


class Ears:
    """Knows from the journal what the keeper is done with; the file appears when the keeper first runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: JournalReader | None = None

    def done_with(self, block: int) -> bool:
        if self._reader is None:
            if not self._path.exists():
                return False
            try:
                self._reader = JournalReader(self._path)
            except ConfigError:
                return False
        return self._reader.head_done(block)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def base_fee_wei(block: int, blocks: int) -> Wei:
    """Return a base fee: calm, crowded while prices fall, less so after. It grows slower than 12.5% a block.

    Anvil's own would sink to nothing in a chain with so few transactions, and gas would cost nothing.
    """
    parts, logs = FEE_GWEI
    return int(GWEI * np.exp(np.interp(block / blocks, parts, logs)))


def draw_kills(paths: Paths, kills: int) -> dict[int, float]:
    """Draw the blocks after which the keeper is killed, and how many seconds after.

    Not shortly before nor under the false print: a keeper that sleeps through it proves nothing about it.
    """
    chance = random.Random(f"{paths.seed} kills")
    start, end = ((at - paths.start_s) // BLOCK_S for at in (paths.wick.first_s, paths.wick.last_s))
    kept = range(start - WICK_CLEARANCE, end + 3)
    possible = [block for block in range(5, paths.blocks - 10) if block not in kept]
    chosen = chance.sample(possible, min(kills, len(possible)))
    return {block: chance.uniform(0, KILL_WITHIN_S) for block in chosen}


class Drill:
    """One run, block by block."""

    def __init__(self, node: Node, world: World, paths: Paths, folder: Path, *, kills: int = 0) -> None:
        self._node = node
        self._world = world
        self._paths = paths
        self._folder = folder
        self._market = HybridMarket(world.deployed.protocol)
        self._helpers = Helpers(node, world, paths.seed)
        self._maker = Maker(node, world)
        self._tally = Tally({owner.person.account: Phase.HEALTHY for owner in world.owners})
        self._kills = draw_kills(paths, kills)
        self._killed = 0
        self._late = 0
        self._late_in_a_row = 0
        self._refused = 0
        self._block_ms: list[float] = []
        keys = ",".join("0x" + reporter.key.hex() for reporter in world.reporters)
        self._keeper = Process("run", folder, {"KEEPER_PRIVATE_KEY": "0x" + world.keeper.key.hex()})
        self._reporters = [Process("report-prices", folder, {"KEEPER_REPORTER_KEYS": keys})]
        if world.hedges:
            self._reporters.append(Process("report-options", folder, {"KEEPER_REPORTER_KEYS": keys}))
        self._ears = Ears(folder / "journal.sqlite")

    def run(self, watcher: Watcher) -> Outcome:
        """Walk through the whole window; raise DrillFailed where it cannot be."""
        self._write_files()
        first = self._node.block_number()
        with self._processes():
            self._wait(first, START_S)
            if not self._all_done(first):
                raise DrillFailed(self._silence(first))
            began = time.monotonic()
            oracles = self._read_oracles()
            for block in range(1, self._paths.blocks + 1):
                at = time.monotonic()
                oracles = self._one_block(block, first, oracles)
                self._block_ms.append(1000 * (time.monotonic() - at))
                watcher.show(self._moment(block, oracles, time.monotonic() - began))
            wall_s = time.monotonic() - began
        return Outcome(
            first_block=first,
            last_block=first + self._paths.blocks,
            late_blocks=self._late,
            kills=self._killed,
            wall_s=wall_s,
            block_ms=tuple(self._block_ms),
            owners_topped_up=len(self._helpers.topped_up),
            top_ups=self._helpers.top_ups,
            too_poor=self._helpers.too_poor,
            maker_trades=self._maker.traded,
            maker_out_of_band=self._maker.out_of_band,
            refused_by_chain=self._refused,
        )

    def _write_files(self) -> None:
        node, protocol = self._node, self._world.deployed.protocol
        text = CONFIG.format(
            http=node.http_url,
            ws=node.ws_url,
            chain_id=node.chain_id,
            block_time_s=BLOCK_S,
            reader=protocol.reader,
        )
        if self._world.hedges:
            text += STEWARD.format(half_life_s=HALF_LIFE_S)
            text += "".join(f'"{feed}" = {vol}\n' for feed, vol in VOLS.items())
        (self._folder / "keeper.toml").write_text(text)
        self._paths.write_csv(self._folder / "prices.csv")

    @contextmanager
    def _processes(self) -> Iterator[None]:
        with ExitStack() as stack:
            # Each is stopped even where an interrupt meets the stopping of another.
            stack.callback(self._ears.close)
            for process in (*self._reporters, self._keeper):
                stack.callback(process.stop)
            for process in (self._keeper, *self._reporters):
                process.start()
            yield

    def _one_block(self, block: int, first: int, oracles: OracleView) -> OracleView:
        """Send what everybody else does, mine, and wait for the keeper and the reporter."""
        rounds = self._paths.rounds.get(block, ())
        transactions = [self._world.deployed.slow_round(r.feed, r.price_wad) for r in rounds]
        at_s = self._paths.block_time_s(block)
        transactions += self._helpers.act(block, at_s, oracles)
        transactions += self._maker.act(block, at_s, oracles)
        hashes = self._node.send(transactions) if transactions else []
        fee = hex(base_fee_wei(block, self._paths.blocks))
        self._node.batch(
            [
                ("anvil_setNextBlockBaseFeePerGas", (fee,)),
                ("evm_setNextBlockTimestamp", (at_s,)),
            ]
        )
        self._node.mine()
        mined_at = time.monotonic()
        self._maybe_kill(block)
        oracles = self._observe(first + block, block, hashes)
        self._wait(first + block, PATIENCE_S - (time.monotonic() - mined_at))
        self._note_lateness(first + block)
        return oracles

    def _maybe_kill(self, block: int) -> None:
        delay_s = self._kills.get(block)
        if delay_s is None:
            return
        time.sleep(delay_s)
        self._keeper.check()
        self._keeper.kill()
        self._keeper.start()
        self._killed += 1

    def _observe(self, number: int, block: int, hashes: Sequence[str]) -> OracleView:
        """Read what the block did, for the owners, the display and the next transactions."""
        protocol = self._world.deployed.protocol
        prices = self._market.prices_call()
        raw_logs, answer, *receipts = self._node.batch(
            [
                (
                    "eth_getLogs",
                    ({"address": protocol.contracts, "fromBlock": hex(number), "toBlock": hex(number)},),
                ),
                ("eth_call", ({"to": prices.to, "data": "0x" + prices.data.hex()}, hex(number))),
                *(("eth_getTransactionReceipt", (tx_hash,)) for tx_hash in hashes),
            ]
        )
        facts = [fact for raw in raw_logs if (fact := self._market.decode(log_of(raw))) is not None]
        self._tally.add(facts)
        self._helpers.hear(facts, block)
        self._refused += sum(receipt is None or receipt["status"] != "0x1" for receipt in receipts)
        return self._market.decode_prices(bytes.fromhex(answer[2:]))

    def _read_oracles(self) -> OracleView:
        call = self._market.prices_call()
        return self._market.decode_prices(self._node.call(call.to, call.data))

    def _wait(self, number: int, patience_s: float) -> None:
        """Wait until every process is done with a block, or patience ends."""
        deadline = time.monotonic() + patience_s
        while not self._all_done(number) and time.monotonic() < deadline:
            for process in (self._keeper, *self._reporters):
                process.check()
            time.sleep(POLL_S)

    def _all_done(self, number: int) -> bool:
        reported = all(reporter.done_with(number) for reporter in self._reporters)
        return reported and self._ears.done_with(number)

    def _note_lateness(self, number: int) -> None:
        if self._all_done(number):
            self._late_in_a_row = 0
            return
        self._late += 1
        self._late_in_a_row += 1
        if self._late_in_a_row >= MOST_LATE:
            raise DrillFailed(self._silence(number))

    def _silence(self, number: int) -> str:
        silent = (reporter for reporter in self._reporters if not reporter.done_with(number))
        quiet = next(silent, self._keeper) if self._ears.done_with(number) else self._keeper
        return f"keeper {quiet.name} is not done with block {number}\n{quiet.last_words()}"

    def _moment(self, block: int, oracles: OracleView, wall_s: float) -> Moment:
        at = self._paths.block_time_s(block)
        return Moment(block, self._paths.blocks, at, oracles, self._tally, self._late, self._killed, wall_s)


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an ordinary way out, so that nothing that was started stays behind."""

    def leave(number: int, frame: object) -> None:
        del frame
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _block_of(line: bytes) -> int:
    try:
        event = json.loads(line)
    except ValueError:
        return -1
    named = isinstance(event, dict) and event.get("event") in DONE
    block = event.get("block") if named else None
    return block if isinstance(block, int) else -1
