"""The demo: a chain of its own, a crash, the real keeper, and an audit that decides the exit status."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from keeper.errors import ConfigError
from keeper.lab import report as reports
from keeper.lab.anvil import anvil
from keeper.lab.audit import Report, audit
from keeper.lab.deploy import Spec, deploy
from keeper.lab.drill import Drill, ended_by_signal
from keeper.lab.hedges import listing
from keeper.lab.paths import Paths, generate
from keeper.lab.world import QUORUM, SET_UP_S, populate, reporters

FEWEST, MOST = 20, 500
PLAIN_WIDTH = 110
BEFORE_S = 60
"""The chain begins so long before the set-up."""


def run_demo(
    *,
    seed: int = 1,
    accounts: int = 200,
    fast: bool = False,
    options: bool = False,
    json_path: Path | None = None,
    kills: int = 0,
    keep_dir: Path | None = None,
) -> int:
    """Run the demo; return 0 where every invariant held, 1 where one did not.

    Raises ConfigError where it cannot begin, and KeeperError where it cannot be carried through.
    """
    _check(seed, accounts, kills, json_path)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    paths = generate(seed, fast=fast)
    with ended_by_signal(), _folder(keep_dir) as folder:
        reports.introduce(console, paths, accounts, str(folder))
        hedges = hedges_of(accounts) if options else 0
        report = rehearse(paths, accounts, folder, console=console, kills=kills, hedges=hedges)
    reports.summarise(console, report)
    if json_path is not None:
        json_path.write_text(json.dumps(report.figures, indent=2) + "\n")
        console.print(f"The same figures for machines: {json_path}", soft_wrap=True, highlight=False)
    reports.whats_next(console, str(keep_dir) if keep_dir else None)
    return 1 if report.violations else 0


def hedges_of(accounts: int) -> int:
    """Return how many hedged books of each strategy come with a number of accounts."""
    return 2 + accounts // 200


def rehearse(
    paths: Paths, accounts: int, folder: Path, *, console: Console, kills: int = 0, hedges: int = 0
) -> Report:
    """Set everything up on a chain of our own, drive through the crash, and audit it.

    ``hedges`` is the number of hedged books of each strategy.
    """
    with anvil(timestamp_s=paths.start_s - SET_UP_S - BEFORE_S) as node:
        signers = [reporter.address for reporter in reporters(paths.seed)]
        spec = Spec(options=listing(paths) if hedges else (), quorum=QUORUM)
        deployed = deploy(node, signers=signers, spec=spec)
        world = populate(node, deployed, paths, accounts, hedges=hedges)
        reports.opened(console, world)
        drill = Drill(node, world, paths, folder, kills=kills)
        with reports.watching(console) as watcher:
            outcome = drill.run(watcher)
        return audit(node, world, paths, outcome, folder / "journal.sqlite")


def _check(seed: int, accounts: int, kills: int, json_path: Path | None) -> None:
    if not FEWEST <= accounts <= MOST:
        raise ConfigError(f"--accounts must be {FEWEST} to {MOST}, found {accounts}")
    if seed < 0:
        raise ConfigError(f"--seed must not be negative, found {seed}")
    if kills < 0:
        raise ConfigError(f"--kills must not be negative, found {kills}")
    expect_writable(json_path)


def expect_writable(json_path: Path | None) -> None:
    """Raise ConfigError where the figures could not be written in the end."""
    if json_path is not None:
        try:
            json_path.open("a").close()
        except OSError as error:
            raise ConfigError(f"--json: {json_path} cannot be written: {error.strerror}") from error


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Give the folder to work in: one to keep, which must be new or empty, or a temporary one."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="keeper-demo-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise ConfigError(f"--keep: the folder {keep} is not empty")
    except OSError as error:
        raise ConfigError(f"--keep: the folder {keep} cannot be used: {error.strerror}") from error
    yield keep.resolve()
