"""The demo of another protocol: its real contracts, a false print, a fall, and the real keeper beside it.

Told in lock-step like the drill: a block is mined when the keeper has journaled that it is done with the one
before. What happened is read from the chain, block by block; only reasons come from the keeper's journal.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console

from keeper.domain import ChainTime
from keeper.errors import ConfigError
from keeper.feeds.recorded import HEADER
from keeper.journal.reader import JournalReader, Summary
from keeper.lab import report
from keeper.lab.anvil import Tx, anvil
from keeper.lab.audit import Report
from keeper.lab.demo import PLAIN_WIDTH, expect_writable
from keeper.lab.drill import POLL_S, START_S, DrillFailed, Ears, Process, ended_by_signal
from keeper.lab.foreign.base import gathered
from keeper.lab.foreign.stages import KINDS, Cut, Stage, price_of, read
from keeper.lab.report import Rows
from keeper.lab.world import Person, person
from keeper.ports import LIVE, StepState
from keeper.units import WAD, AccountKey, FeedId

GENESIS_S: Final = 1_700_000_000
NATIVE_FEED: Final[FeedId] = "ETH/USD"
ACCOUNTS: Final = 48
DEVIATION: Final = 0.005
"""How far a price must have moved before an oracle tells it: that of Chainlink's feeds for large assets."""
NOISE: Final = 0.0003
PATIENCE_S: Final = 60.0
"""How long the chain waits for the keeper at each block."""
LINES: Final = 10
BEYOND_REPAIR: Final = "size.harm"
"""The refusal that names a debt which closing a part of makes worse."""
CONFIG: Final = """\
[chain]
http = "{http}"
ws = "{ws}"
chain_id = {chain_id}
block_time_s = {block_s}

{settings}
[feed]
path = "prices.csv"

[journal]
path = "{name}.sqlite"

[mirror]
snapshot = "{name}.book"

[limits]
spend_day_native = "100"
priority_fee_gwei = "0.5"
"""
"""The oracle's transactions bid a gwei: in one block with the keeper's they come first."""


@dataclass(frozen=True, slots=True)
class Script:
    """How prices go, in blocks: calm, in it a false print, then the fall; calm again until all is well."""

    calm: int = 8
    false_at: int = 4
    fall: int = 20
    depth: float = 0.14
    false_depth: float = 0.15
    most_after: int = 40
    """So many blocks of calm beyond those of the stage there are at most, while somebody is below."""

    def moves(self, seed: int, after: int) -> list[float]:
        """Return how far ether has truly moved by each block, and a little noise; block 0 is the start."""
        rng = random.Random(f"{seed} path")
        ends = self.calm + self.fall
        fallen = (
            min(max(block - self.calm, 0), self.fall) for block in range(ends + after + self.most_after)
        )
        return [
            exp(log(1 - self.depth) * blocks / self.fall + rng.gauss(0, NOISE)) if number else 1.0
            for number, blocks in enumerate(fallen)
        ]


@dataclass(slots=True)
class Tale:
    """What the chain says of the accounts of one protocol, and of a liquidator's transactions there."""

    owed: float = 0.0
    breached: dict[AccountKey, int] = field(default_factory=dict)
    """With the block at which they were below their limit first."""
    below: int = 0
    """Accounts below their limit at the newest block."""
    closings: list[tuple[AccountKey, Cut]] = field(default_factory=list)
    late: dict[AccountKey, int] = field(default_factory=dict)
    """Blocks from an account's breach to its first closing."""
    cliff: list[Cut] = field(default_factory=list)
    lowest: float = float("inf")
    bad_debt_wad: int = 0
    """Of the accounts as they stand."""
    forgiven_wad: int = 0
    """Debt that closings have wiped out without anybody paying it."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Of the wallet's transactions, as their receipts have it."""
    gas: float = 0.0
    wasted: float = 0.0
    """Of that, what was paid for transactions that failed,"""
    reverts: Counter[str] = field(default_factory=Counter)
    """and why they did."""


def run_show(protocol: str, *, seed: int = 1, json_path: Path | None = None) -> int:
    """Run the demo of one protocol; return 0 where every invariant held, 1 where one did not.

    Raises ConfigError where it cannot begin, and KeeperError where it cannot be carried through.
    """
    if seed < 0:
        raise ConfigError(f"--seed must not be negative, found {seed}")
    expect_writable(json_path)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    with ended_by_signal(), tempfile.TemporaryDirectory(prefix="keeper-demo-") as folder:
        found = rehearse(protocol, Path(folder), console=console, seed=seed)
    summarise(console, found)
    if json_path is not None:
        json_path.write_text(json.dumps(found.figures, indent=2) + "\n")
        console.print(f"The same figures for machines: {json_path}", soft_wrap=True, highlight=False)
    return 1 if found.violations else 0


def rehearse(
    protocol: str,
    folder: Path,
    *,
    console: Console,
    seed: int = 1,
    accounts: int = ACCOUNTS,
    script: Script | None = None,
) -> Report:
    """Set the stage on a chain of our own, play the script on it, and judge what came of it."""
    kind, keeper = KINDS[protocol], person(seed, "keeper")
    for name in kind.gathered:
        gathered(name)
    with anvil(timestamp_s=GENESIS_S, code_size_limit=kind.code_size_limit) as node:
        node.fund([keeper.address])
        said = f"{kind.title} on a local Anvil, its real contracts: {accounts} accounts, seed {seed}."
        console.print(said, soft_wrap=True, highlight=False)
        stage = kind.build(node, keeper.address, accounts, seed, None)
        chain = Chain([Side(protocol, stage)], keeper.address, script or Script(), seed)
        [found] = Play(chain, keeper, folder, seed).run(console)
        return found


class Side:
    """One protocol of a play: its stage, and its part of the tale."""

    def __init__(self, protocol: str, stage: Stage, *, trades: bool = True) -> None:
        """``trades`` says whether the exchange follows the oracles of this one."""
        self.protocol = protocol
        self.stage = stage
        self._trades = trades
        self.tale = Tale()
        self._answers = {feed: price_of(feed, 1.0) for feed in stage.market.feeds}
        self._rows: tuple[Any, ...] = ()

    def begin(self) -> None:
        """Read everybody before the first block."""
        _, self._rows = read(self.stage)

    def told(self, moved: float) -> list[Tx]:
        """Build what oracles tell anew: a price that has moved far enough from the last one told."""
        now = {feed: price_of(feed, moved) for feed in self._answers}
        told = {
            feed: price for feed, price in now.items() if abs(price / self._answers[feed] - 1) >= DEVIATION
        }
        self._answers |= told
        return self.stage.follow(told, trades=self._trades)

    def look(self, block: int, at: ChainTime) -> None:
        """Read what a block did to the accounts."""
        tale, stage = self.tale, self.stage
        world, rows = read(stage)
        views = [stage.view(row, world, at) for row in rows]
        tale.owed = tale.owed or sum(view.owed_wad for view in views) / WAD
        tale.below = sum(view.health < 1 for view in views)
        tale.lowest = min(tale.lowest, *(view.health for view in views))
        tale.bad_debt_wad = sum(max(0, -view.equity_wad) for view in views)
        for key, row, before, view in zip(stage.keys, rows, self._rows, views, strict=True):
            if row != before:
                was = stage.view(before, world, at)
                cut = Cut(was.owed_wad - view.owed_wad, was.equity_wad - view.equity_wad)
                if cut.closed_wad > 0:
                    if was.health < 1 and key not in tale.breached:
                        # Closed in the block that put it below: at no head is it seen there.
                        tale.breached[key] = block
                        tale.cliff.append(stage.most(before, world, at))
                    tale.closings.append((key, cut))
                    tale.late.setdefault(key, block - tale.breached.get(key, block))
                    tale.forgiven_wad += max(0, -cut.paid_wad)
            if view.health < 1 and key not in tale.breached:
                tale.breached[key] = block
                tale.cliff.append(stage.most(row, world, at))
        self._rows = rows

    def count(self, receipt: Mapping[str, Any], ether: float) -> None:
        """Take a transaction of the liquidator's wallet into account."""
        self.tale.statuses[receipt["status"]] += 1
        spent_wei = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
        self.tale.gas += spent_wei / WAD * ether
        if receipt["status"] != "0x1":
            self.tale.wasted += spent_wei / WAD * ether
            self.tale.reverts.update(self.stage.lab.node.reverts([receipt["transactionHash"]]))

    def figures(self) -> dict[str, Any]:
        """Return what the chain says of it in the end."""
        tale, stage = self.tale, self.stage
        world, _ = read(stage)
        earned = stage.earned_wad(world) / WAD
        sizes = [cut.closed_wad / WAD for _, cut in tale.closings]
        transactions = tale.statuses.total()
        return {
            "accounts": len(stage.keys),
            "owed_at_start": round(tale.owed, 2),
            "breached": len(tale.breached),
            "liquidated": len(tale.late),
            "below_at_end": tale.below,
            "blocks_late": sorted(tale.late.values()),
            "bad_debt": round((tale.bad_debt_wad + tale.forgiven_wad) / WAD, 2),
            "closings": len(sizes),
            "closing_median": round(median(sizes), 2) if sizes else 0.0,
            "closing_largest": round(max(sizes, default=0.0), 2),
            "closed": round(sum(sizes), 2),
            "paid": round(sum(cut.paid_wad for _, cut in tale.closings) / WAD, 2),
            "cliff_accounts": len(tale.cliff),
            "cliff_closed": round(sum(cut.closed_wad for cut in tale.cliff) / WAD, 2),
            "cliff_paid": round(sum(cut.paid_wad for cut in tale.cliff) / WAD, 2),
            "keeper_earned": round(earned, 2),
            "keeper_gas": round(tale.gas, 2),
            "keeper_profit": round(earned - tale.gas, 2),
            "keeper_transactions": transactions,
            "keeper_reverted": transactions - tale.statuses["0x1"],
            "gas_wasted": round(tale.wasted, 2),
            "reverts": dict(tale.reverts),
            "lowest_health": round(tale.lowest, 6),
        }


class Chain:
    """The chain of a play: prices move, oracles follow, and a liquidator's wallet is watched."""

    def __init__(self, sides: Sequence[Side], wallet: str, script: Script, seed: int) -> None:
        self.sides = sides
        self.script = script
        self.node = sides[0].stage.lab.node
        self.block_s = max(side.stage.block_s for side in sides)
        self.least = script.calm + script.fall + max(side.stage.after for side in sides)
        self._base_fee_wei = min(side.stage.base_fee_wei for side in sides)
        self._wallet = wallet
        self.moves = script.moves(seed, max(side.stage.after for side in sides))
        self.first, self.start_s = self.node.block_number(), self.node.timestamp_s()

    def tell(self, block: int) -> dict[str, int]:
        """Let the oracles follow the price of a block before; return how many sides look behind each."""
        looked = {}
        for side in self.sides:
            txs = side.told(self.moves[block - 1])
            for tx, tx_hash in zip(txs, self.node.send(txs), strict=True):
                looked[tx_hash] = sum((tx.to or "").lower() in each.stage.told_by for each in self.sides)
        return looked

    def mine(self, block: int) -> None:
        """Mine a block, and look at everybody."""
        at_s = self.start_s + block * self.block_s
        self.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(self._base_fee_wei))
        self.node.mine(at_s)
        for side in self.sides:
            side.look(block, ChainTime(self.first + block + 1, at_s + self.block_s))
        ether = price_of(NATIVE_FEED, self.moves[block])
        for receipt in self.node.receipts().values():
            if receipt["from"] == self._wallet:
                self._whose(receipt["to"]).count(receipt, ether)

    def _whose(self, to: str) -> Side:
        """Return the side that a transaction of the wallet goes to."""
        if len(self.sides) == 1:
            return self.sides[0]
        [side] = [each for each in self.sides if to in each.stage.doors]
        return side

    def fast(self, block: int) -> float:
        """Return how far ether seems to have moved, to whoever reads the fast price."""
        seen = 1 - self.script.false_depth if block == self.script.false_at else 1.0
        return self.moves[block] * seen

    @property
    def below(self) -> int:
        """How many accounts are below their limit."""
        return sum(side.tale.below for side in self.sides)

    @property
    def closings(self) -> int:
        """How often something was taken of one."""
        return sum(len(side.tale.closings) for side in self.sides)


class Play:
    """One run of the keeper, block by block: one process for all sides."""

    def __init__(
        self, chain: Chain, keeper: Person, folder: Path, seed: int, *, looks_behind: bool = False
    ) -> None:
        """``looks_behind`` says whether it acts right behind what oracles announce."""
        self._chain = chain
        self._looks_behind = looks_behind
        self._sides = chain.sides
        self._folder = folder
        self._seed = seed
        self._names = [side.protocol for side in self._sides] if len(self._sides) > 1 else ["keeper"]
        self._journals = [folder / f"{each}.sqlite" for each in self._names]
        secrets = {"KEEPER_PRIVATE_KEY": "0x" + keeper.key.hex()}
        self._process = Process("run", folder, secrets, [f"{each}.toml" for each in self._names])

    def run(self, console: Console) -> list[Report]:
        """Play all of it; raise DrillFailed where that cannot be done. Returns what came of each side."""
        chain = self._chain
        self._write_files()
        began = time.monotonic()
        with self._process_of_its_own() as ears:
            self._wait(ears, chain.first, START_S)
            for side in self._sides:
                side.begin()
            suspected = [0] * len(self._sides)
            sent = list(suspected)
            for block in range(1, len(chain.moves)):
                told_now = chain.tell(block)
                if self._looks_behind:
                    self._wait_looked(told_now)
                chain.mine(block)
                self._wait(ears, chain.first + block, PATIENCE_S)
                if block == chain.script.false_at + 1:
                    told = [self._summary(each) for each in self._journals]
                    suspected = [sum(each.cases.values()) for each in told]
                    sent = [sum(each.steps.values()) for each in told]
                if block % max(1, chain.least // LINES) == 0:
                    self._show(console, block)
                if block >= chain.least and not chain.below and not self._is_acting():
                    break
        wall_s = time.monotonic() - began
        return [
            self._judge(side, journal, block, found, taken, wall_s)
            for side, journal, found, taken in zip(self._sides, self._journals, suspected, sent, strict=True)
        ]

    # --- the way there ---

    def _write_files(self) -> None:
        chain, node = self._chain, self._chain.node
        for name, side in zip(self._names, self._sides, strict=True):
            text = CONFIG.format(
                http=node.http_url,
                ws=node.ws_url,
                chain_id=node.chain_id,
                block_s=chain.block_s,
                settings=side.stage.settings,
                name=name,
            )
            if self._looks_behind and (sources := sorted(side.stage.told_by)):
                text += f"\n[trigger]\nannounced = {json.dumps(sources)}\n"
            (self._folder / f"{name}.toml").write_text(text)
        feeds = dict.fromkeys(
            [*(feed for side in self._sides for feed in side.stage.market.feeds), NATIVE_FEED]
        )
        lines = [
            f"{chain.start_s + block * chain.block_s},{feed},{price_of(feed, chain.fast(block)):.12f}"
            for block in range(len(chain.moves))
            for feed in feeds
        ]
        (self._folder / "prices.csv").write_text("\n".join([HEADER, *lines, ""]))

    @contextmanager
    def _process_of_its_own(self) -> Iterator[list[Ears]]:
        ears = [Ears(each) for each in self._journals]
        try:
            self._process.start()
            yield ears
        finally:
            self._process.stop()
            for each in ears:
                each.close()

    def _wait(self, ears: Sequence[Ears], number: int, patience_s: float) -> None:
        """Wait until the keeper is done with a block; raise DrillFailed where it never is."""
        deadline = time.monotonic() + patience_s
        while not all(each.done_with(number) for each in ears):
            self._process.check()
            if time.monotonic() > deadline:
                raise DrillFailed(f"keeper run is not done with block {number}\n{self._process.last_words()}")
            time.sleep(POLL_S)

    def _wait_looked(self, expected: Mapping[str, int]) -> None:
        """Wait until the keeper has looked behind all that was announced."""
        deadline = time.monotonic() + PATIENCE_S
        while any(self._process.looked[tx_hash] < times for tx_hash, times in expected.items()):
            self._process.check()
            if time.monotonic() > deadline:
                raise DrillFailed(f"keeper run has not looked behind all\n{self._process.last_words()}")
            time.sleep(POLL_S)

    def _show(self, console: Console, block: int) -> None:
        chain = self._chain
        said = f"{chain.below} below their limit, {chain.closings} closings so far"
        ether = price_of(NATIVE_FEED, chain.fast(block))
        line = f"block {block}/{chain.least}: ETH {ether:,.0f}; {said}"
        console.print(line, soft_wrap=True, highlight=False)

    def _summary(self, journal: Path) -> Summary:
        with closing(JournalReader(journal)) as reader:
            return reader.summary()

    def _is_acting(self) -> bool:
        """Tell whether a transaction of the keeper is on its way."""
        told = map(self._summary, self._journals)
        return any(each.steps.get(state) for each in told for state in LIVE)

    # --- what came of it ---

    def _judge(
        self, side: Side, journal: Path, blocks: int, suspected: int, sent: int, wall_s: float
    ) -> Report:
        tale = side.tale
        with closing(JournalReader(journal)) as reader:
            summary, broken = reader.summary(), reader.verify()
            reasons = reader.last_rules()
        left = {key: reasons.get(key, "no reason given") for key in side.stage.below()}
        strangers = tale.late.keys() - tale.breached.keys()
        violations = [
            *([f"{sent} steps were taken at the false print"] if sent else []),
            *(
                f"account 0x{key[:20].hex()} is below its limit at the end: {rule}"
                for key, rule in left.items()
                if rule != BEYOND_REPAIR
            ),
            *(f"account 0x{key[:20].hex()} was closed and never below its limit" for key in strangers),
            *_unlike(tale.statuses, summary, may_revert=self._looks_behind),
            *(f"journal: {line}" for line in broken),
        ]
        alone = Counter(
            reasons.get(key, "no reason given") for key in tale.breached.keys() - tale.late.keys()
        )
        held_back = Counter(
            rule for key, rule in reasons.items() if key not in tale.breached and key not in tale.late
        )
        figures = {
            "mode": "lockstep",
            "protocol": side.protocol,
            "seed": self._seed,
            "blocks": blocks,
            "false_print": {
                "depth": self._chain.script.false_depth,
                "suspected": suspected,
                "closed": sent,
            },
            **side.figures(),
            "left_alone": dict(alone),
            "held_back": dict(held_back),
            "waits": dict(summary.reasons.get("Waited", {})),
            "refusals": dict(summary.reasons.get("Refused", {})),
            "abandoned": dict(summary.reasons.get("Abandoned", {})),
            "steps": dict(summary.steps),
            "beyond_repair": sum(rule == BEYOND_REPAIR for rule in left.values()),
            "wall_seconds": round(wall_s, 1),
            "violations": violations,
        }
        return Report(figures, tuple(violations))


def _unlike(statuses: Counter[str], summary: Summary, *, may_revert: bool) -> Iterator[str]:
    """Yield where not every transaction that the journal knows of was included, and did what it was for.

    One that goes behind what is only announced may revert, where another answer comes in between. A step that
    came too late is displaced by its cancel.
    """
    included, reverted = (summary.steps.get(each, 0) for each in (StepState.INCLUDED, StepState.REVERTED))
    included += summary.steps.get(StepState.DISPLACED, 0)
    if statuses["0x1"] != included or statuses.total() != included + reverted:
        found = f"{statuses.total()} transactions of the wallet are on chain, {statuses['0x1']} successful"
        yield f"{found}; the journal has {included}, and {reverted} that reverted"
    for state in (*LIVE, *(() if may_revert else (StepState.REVERTED,))):
        if count := summary.steps.get(state):
            yield f"{count} steps ended as {state}"


# --- for people ----------------------------------------------------------------------------------


def summarise(console: Console, found: Report) -> None:
    """Print what a run came to."""
    for title, rows in _sections(found.figures):
        console.print()
        console.print(report.section(title, rows))
    report.verdict(console, found.violations)


def _sections(f: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    false = f["false_print"]
    print_ = f"fast prices {-false['depth']:.0%} for a block; the oracle did not follow"
    is_perp = f["protocol"] == "perp_curie"
    owed = "in positions" if is_perp else "of debt"
    yield (
        "Alarms",
        [
            ("accounts on stage", f"{f['accounts']:,}", f"{report.usd(f['owed_at_start'])} {owed}"),
            ("suspected at the false print", f"{false['suspected']:,}", print_),
            ("closed at the false print", f"{false['closed']:,}", "must be 0"),
            ("below their limit later", f"{f['breached']:,}", "by the contract's own prices"),
            ("lowest health", f"{f['lowest_health']:.4f}", "at the contract's own prices"),
        ],
    )
    yield "Slope against cliff", _closings(f, is_perp=is_perp)
    yield (
        "Keeper",
        [
            ("earned", report.usd(f["keeper_earned"]), _earned(is_perp=is_perp)),
            ("gas", report.usd(-f["keeper_gas"]), _sent(f)),
            ("profit", report.usd(f["keeper_profit"]), ""),
        ],
    )
    reasons = [
        (rule, f"{count:,}", kind)
        for kind, rules in (("waited", "waits"), ("refused", "refusals"), ("abandoned", "abandoned"))
        for rule, count in sorted(f[rules].items(), key=lambda item: -item[1])
    ]
    if reasons:
        yield "Why it waited, refused, or gave up", reasons


def _closings(f: Mapping[str, Any], *, is_perp: bool) -> Rows:
    share = f["closed"] / f["cliff_closed"] - 1 if f["cliff_closed"] else 0.0
    less = f["paid"] / f["cliff_paid"] - 1 if f["cliff_paid"] else 0.0
    sizes = f"median {report.usd(f['closing_median'])}, largest {report.usd(f['closing_largest'])}"
    once = f"{f['cliff_accounts']} accounts, the most allowed, once, at the first breach"
    taken = "positions taken over" if is_perp else "debt repaid"
    price = "penalties paid by owners" if is_perp else "bonus paid by owners"
    seized = [] if is_perp else [("collateral seized", report.usd(f["closed"] + f["paid"]), "")]
    return [
        ("closings", f"{f['closings']:,}", sizes),
        (taken, report.usd(f["closed"]), f"{share:+.0%} against the cliff"),
        *seized,
        (price, report.usd(f["paid"]), f"{less:+.0%} against the cliff"),
        (f"{taken}, cliff", report.usd(f["cliff_closed"]), once),
        (f"{price}, cliff", report.usd(f["cliff_paid"]), ""),
        ("beyond repair", f"{f['beyond_repair']:,}", "below their limit at the end, named by the journal"),
    ]


def _earned(*, is_perp: bool) -> str:
    if is_perp:
        return "half of the penalties, and what the positions taken over have gained or lost at the mark"
    return "left in the FlashLiquidator, once it had paid back what it borrowed"


def _sent(f: Mapping[str, Any]) -> str:
    return f"{f['keeper_transactions']} transactions, {f['keeper_reverted']} reverted"
