"""All four protocols on one chain in one short fall: one keeper process, and a plain bot beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from keeper.journal.reader import JournalReader
from keeper.lab.foreign.crash import ORDER, rehearse_crash, summarise
from keeper.lab.foreign.show import Script

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(300)]

SHORT = Script(calm=4, false_at=2, fall=8, depth=0.14)


def test_one_process_keeps_four_deployments_through_a_fall(tmp_path: Path) -> None:
    found = rehearse_crash(tmp_path, console=Console(quiet=True), accounts=24, script=SHORT)
    assert found.violations == ()
    figures, bot = found.figures["protocols"], found.figures["tutorial_bot"]
    assert tuple(figures) == tuple(bot) == ORDER
    for each in figures.values():
        assert each["false_print"]["closed"] == 0
        assert each["liquidated"] > 0
        assert each["below_at_end"] == 0
        assert each["keeper_transactions"] == each["steps"]["included"] > 0
        assert (each["keeper_reverted"], each["gas_wasted"], each["bad_debt"]) == (0, 0, 0)
    assert 0 in {late for each in figures.values() for late in each["blocks_late"]}
    assert sum(each["transactions"] for each in bot.values()) > 0
    _expect_nonces_in_turns(tmp_path)
    for protocol in ORDER:
        _expect_replayed(tmp_path / f"{protocol}.sqlite")
    summarise(Console(quiet=True), found)


def _expect_nonces_in_turns(folder: Path) -> None:
    """Expect one sequence of nonces over all journals, in which their deployments take turns."""
    taken = []
    for protocol in ORDER:
        with closing(JournalReader(folder / f"{protocol}.sqlite")) as reader:
            taken += [(json.loads(unsigned)["nonce"], protocol) for unsigned in reader.signed()]
    taken.sort()
    # Those below were of the deposit with which it comes to Perpetual.
    assert [nonce for nonce, _ in taken] == list(range(taken[0][0], taken[0][0] + len(taken)))
    assert sum(one != other for (_, one), (_, other) in pairwise(taken)) > len(ORDER)


def _expect_replayed(journal: Path) -> None:
    """Expect that a replay, which has no other journal beside it, decides the same."""
    command = [sys.executable, "-m", "keeper", "replay", str(journal)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
