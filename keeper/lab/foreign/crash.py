"""A crash on one chain with all four protocols deployed, and one keeper process for all of them.

Tokens are shared, and so are the real Uniswap v3 pools that a keeper sells on; Perpetual brings its own.
Beside it, on the same chain state and along the same prices, a plain bot as tutorials write it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

from eth_utils.address import to_checksum_address
from rich.console import Console
from rich.table import Table

import keeper
from keeper.errors import ConfigError
from keeper.journal.reader import JournalReader
from keeper.lab import report
from keeper.lab.anvil import Node, anvil, stop
from keeper.lab.audit import Report
from keeper.lab.demo import PLAIN_WIDTH, expect_writable
from keeper.lab.drill import POLL_S, DrillFailed, ended_by_signal
from keeper.lab.foreign.base import Lab, gathered
from keeper.lab.foreign.show import GENESIS_S, Chain, Play, Script, Side
from keeper.lab.foreign.stages import KINDS, Ground, Stage
from keeper.lab.world import Person, person

ACCOUNTS: Final = 300
ORDER: Final = ("perp_curie", "morpho_blue", "aave_v3", "compound_v2")
"""In which they are set up: Perpetual needs the most blocks, and in Venus every block bears interest."""
SHARED: Final = {"WETH": 18, "WBTC": 8, "LINK": 18, "USDC": 6}
LEADS: Final = "aave_v3"
"""Whose oracles the exchange moves with; it is one for all."""
FALL: Final = Script()
UNWARNED: Final = Script(false_depth=0.0)
"""Without the false print: nobody's alarms were false before, so that no market is slowed."""
BOT_PATIENCE_S: Final = 120.0


def run_crash(
    *, seed: int = 1, accounts: int = ACCOUNTS, false_print: bool = True, json_path: Path | None = None
) -> int:
    """Run it; return 0 where every invariant held, 1 where one did not. Raises as ``show.run_show`` does."""
    if seed < 0:
        raise ConfigError(f"--seed must not be negative, found {seed}")
    expect_writable(json_path)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    with ended_by_signal(), tempfile.TemporaryDirectory(prefix="keeper-demo-") as folder:
        script = FALL if false_print else UNWARNED
        found = rehearse_crash(Path(folder), console=console, seed=seed, accounts=accounts, script=script)
    summarise(console, found)
    if json_path is not None:
        json_path.write_text(json.dumps(found.figures, indent=2) + "\n")
        console.print(f"The same figures for machines: {json_path}", soft_wrap=True, highlight=False)
    return 1 if found.violations else 0


def rehearse_crash(
    folder: Path,
    *,
    console: Console,
    seed: int = 1,
    accounts: int = ACCOUNTS,
    script: Script = FALL,
) -> Report:
    """Set all stages on one chain, play the script for the keeper and then for the bot, and judge."""
    for kind in KINDS.values():
        for name in kind.gathered:
            gathered(name)
    keeper, bot = person(seed, "keeper"), person(seed, "tutorial")
    with anvil(timestamp_s=GENESIS_S, code_size_limit=False) as node:
        node.fund([keeper.address, bot.address])
        said = f"Four protocols on one local Anvil, their real contracts: {accounts} accounts, seed {seed}."
        console.print(said, soft_wrap=True, highlight=False)
        stages = _set_up(node, keeper.address, accounts, seed)
        for stage in stages.values():
            stage.lab.run(stage.plain.stocked(bot.address))
        mark = node.rpc("evm_snapshot")
        console.print("The keeper, one process:", highlight=False)
        chain = Chain(_sides(stages), keeper.address, script, seed)
        found = Play(chain, keeper, folder, seed, looks_behind=True).run(console)
        node.rpc("evm_revert", mark)
        console.print("The plain bot, on the same chain state:", highlight=False)
        beside = Chain(_sides(stages), bot.address, script, seed)
        blocks = found[0].figures["blocks"]
        _play_bot(beside, stages, bot, folder, blocks)
        return _judge(found, beside, folder, seed)


def _set_up(node: Node, keeper: str, accounts: int, seed: int) -> dict[str, Stage]:
    """Deploy the shared tokens and every protocol, each with its share of the accounts."""
    lab = Lab.of(node)
    ground = Ground({symbol: lab.token(symbol, decimals, {}) for symbol, decimals in SHARED.items()})
    share, rest = divmod(accounts, len(ORDER))
    return {
        protocol: KINDS[protocol].build(node, keeper, share + (number < rest), seed, ground)
        for number, protocol in enumerate(ORDER)
    }


def _sides(stages: Mapping[str, Stage]) -> list[Side]:
    return [
        Side(protocol, stage, trades=protocol in {LEADS, "perp_curie"}) for protocol, stage in stages.items()
    ]


# --- the bot -------------------------------------------------------------------------------------


def _play_bot(chain: Chain, stages: Mapping[str, Stage], bot: Person, folder: Path, blocks: int) -> None:
    """Play so many blocks for the bot; each comes when it has looked at everybody, or waits for a receipt."""
    site = folder / "tutorial.json"
    site.write_text(
        json.dumps(
            {
                "http": chain.node.http_url,
                "key": "0x" + bot.key.hex(),
                "abis": {name: abi for stage in stages.values() for name, abi in stage.plain.abis.items()},
                "accounts": [
                    {"protocol": protocol} | {name: _checksummed(value) for name, value in each.items()}
                    for protocol, stage in stages.items()
                    for each in stage.plain.accounts
                ],
            }
        )
    )
    with _running(site) as heard:
        for side in chain.sides:
            side.begin()
        for block in range(1, blocks + 1):
            heard.wait(chain.first + block - 1)
            chain.tell(block)
            chain.mine(block)


def _checksummed(value: Any) -> Any:
    """Write addresses as web3.py wants them."""
    if isinstance(value, tuple):
        return [_checksummed(each) for each in value]
    return to_checksum_address(value) if isinstance(value, str) and len(value) == 42 else value


class _Heard:
    """Where the bot is, by the lines that it prints."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._done = -1
        self._waiting = False
        assert process.stdout is not None
        self._listening = threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)
        self._listening.start()

    def _listen(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                word, _, block = line.decode().strip().partition(" ")
                if word == "waiting":
                    self._waiting = True
                elif word == "done":
                    self._done = int(block)

    def end(self) -> None:
        """Stop it, and hear it out."""
        stop(self._process)
        self._listening.join()

    def wait(self, newest: int) -> None:
        """Wait until it has worked on the newest block, or can go on only with another one."""
        deadline = time.monotonic() + BOT_PATIENCE_S
        while not (self._waiting or self._done >= newest):
            if self._process.poll() is not None:
                raise DrillFailed(f"the plain bot ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise DrillFailed(f"the plain bot is not done with block {newest}")
            time.sleep(POLL_S)
        self._waiting = False


@contextmanager
def _running(site: Path) -> Iterator[_Heard]:
    root = str(Path(keeper.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "keeper.lab.foreign.tutorial", str(site)]
    with (site.parent / "tutorial.log").open("ab") as errors:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    heard = _Heard(process)
    try:
        yield heard
    finally:
        heard.end()


# --- what came of it -----------------------------------------------------------------------------


def _judge(found: Sequence[Report], beside: Chain, folder: Path, seed: int) -> Report:
    protocols = {each.figures["protocol"]: each.figures for each in found}
    violations = [f"{name}: {line}" for name, each in protocols.items() for line in each["violations"]]
    violations += _nonces([folder / f"{name}.sqlite" for name in protocols])
    bot = {side.protocol: _of_bot(side) for side in beside.sides}
    figures = {
        "mode": "lockstep",
        "protocol": "all",
        "seed": seed,
        "accounts": sum(each["accounts"] for each in protocols.values()),
        "blocks": found[0].figures["blocks"],
        "protocols": protocols,
        "tutorial_bot": bot,
        "violations": violations,
    }
    return Report(figures, tuple(violations))


def _of_bot(side: Side) -> dict[str, Any]:
    """Return of the bot what can be compared: what it earned lies in tokens that it began with."""
    figures = side.figures()
    kept = ("breached", "liquidated", "below_at_end", "blocks_late", "bad_debt", "closings", "closed", "paid")
    named = {"gas": "keeper_gas", "transactions": "keeper_transactions", "reverted": "keeper_reverted"}
    told = {name: figures[name] for name in (*kept, "gas_wasted", "reverts", "lowest_health")}
    return told | {name: figures[other] for name, other in named.items()}


def _nonces(journals: Sequence[Path]) -> Iterator[str]:
    """Yield nonces that several journals of the wallet have signed, and those that none has."""
    held = Counter[int]()
    for path in journals:
        with closing(JournalReader(path)) as reader:
            # A step that was outbid has signed its nonce more than once.
            held.update({json.loads(unsigned)["nonce"] for unsigned in reader.signed()})
    yield from (f"nonce {nonce} was signed {count} times" for nonce, count in held.items() if count > 1)
    if held and (gaps := {*range(min(held), max(held))} - held.keys()):
        yield f"nobody has signed the nonces {sorted(gaps)}"


# --- for people ----------------------------------------------------------------------------------


def summarise(console: Console, found: Report) -> None:
    """Print what a run came to."""
    figures = found.figures
    console.print()
    console.print(_table("One keeper process", figures["protocols"], with_profit=True))
    left = Table("", "left alone", "last held back by", "accounts", title="Who was left alone, and why")
    for name, each in figures["protocols"].items():
        for words, rules in (("below its limit", "left_alone"), ("above it all the time", "held_back")):
            for rule, count in each[rules].items():
                left.add_row(name, words, rule, f"{count:,}")
    if left.rows:
        console.print(left)
    console.print(
        _table("A plain bot as tutorials write it (web3.py)", figures["tutorial_bot"], with_profit=False)
    )
    report.verdict(console, found.violations)


def _table(title: str, protocols: Mapping[str, Mapping[str, Any]], *, with_profit: bool) -> Table:
    table = Table(title=title, title_justify="left")
    counted = ("", "breached", "liquidated", "missed", "below at the end", "bad debt")
    columns = (*counted, "in the oracle's block", "blocks late", "reverted", "gas wasted")
    for name in (*columns, "profit after gas" if with_profit else "gas"):
        table.add_column(name, justify="left" if not name else "right")
    for name, each in protocols.items():
        late = each["blocks_late"]
        blocks = f"median {median(late):g}, most {max(late)}" if late else "-"
        reverted = each["keeper_reverted"] if with_profit else each["reverted"]
        money = each["keeper_profit"] if with_profit else each["gas"]
        missed = each["breached"] - each["liquidated"]
        counts = (each["breached"], each["liquidated"], missed, each["below_at_end"])
        table.add_row(
            name,
            *map(str, counts),
            report.usd(each["bad_debt"]),
            f"{late.count(0)} of {each['breached']}",
            blocks,
            str(reverted),
            report.usd(each["gas_wasted"]),
            report.usd(money),
        )
    return table
