"""What an operator throws, by command or by signal, and what the limits of a file are read anew for."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from keeper.alerts import Params, Teller
from keeper.cli import app
from keeper.cli.together import Board, on_switches
from keeper.config import load
from keeper.domain import CaseEvent, EventKind, Flag, Permit, Step
from keeper.errors import ConfigError
from keeper.journal.store import SqliteJournal
from keeper.ports import Switch
from keeper.units import WAD

LEAST = """
[chain]
http = "http://127.0.0.1:1"
ws = "ws://127.0.0.1:1"
chain_id = 31337

[deployment]
reader = "0x1111111111111111111111111111111111111111"

[feed]
path = "prices.csv"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keeper.toml"
    path.write_text(LEAST)
    (tmp_path / "prices.csv").write_text("timestamp_s,feed,price\n0,ETH/USD,2000\n0,BTC/USD,60000\n")
    return path


@pytest.fixture
def journal(file: Path) -> Iterator[SqliteJournal]:
    config = load(file)
    path = config.journal.path
    with closing(SqliteJournal(path, identity={"of": "a test"}, limits=config.limits_for_guard())) as journal:
        yield journal


def more(file: Path, text: str) -> Path:
    """Write more into a configuration."""
    file.write_text(LEAST + text)
    return file


def told(file: Path, *arguments: str) -> str:
    """Run a command; return what it says, or raise what it refuses with."""
    found = CliRunner().invoke(app, [*arguments, "--config", str(file)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output.strip()


def names(journal: SqliteJournal) -> list[str]:
    return [each.name for each in journal.thrown()]


def test_commands_throw_what_a_running_keeper_goes_by(file: Path, journal: SqliteJournal) -> None:
    assert told(file, "halt", "--reason", "odd prices") == "halted"
    assert told(file, "pause", "ETH/USD") == "ETH/USD paused"
    assert names(journal) == ["halt", "pause ETH/USD"]
    assert journal.thrown()[0].told == f"by command of user {os.getuid()}: odd prices"
    assert told(file, "resume").splitlines()[0] == "resumed"
    assert "pause ETH/USD is on" in told(file, "resume")
    assert told(file, "unpause", "ETH/USD") == "ETH/USD unpaused"
    assert names(journal) == []


def test_a_breaker_is_reset_of_one_feed_or_of_all(file: Path, journal: SqliteJournal) -> None:
    journal.watch({(Switch.JUMP, feed): 0.9 for feed in ("BTC/USD", "ETH/USD", "LINK/USD")}, int(time.time()))
    assert told(file, "reset", "jump", "--market", "ETH/USD") == "jump ETH/USD closed"
    assert names(journal) == ["jump BTC/USD", "jump LINK/USD"]
    assert told(file, "reset", "jump") == "jump BTC/USD closed\njump LINK/USD closed"
    assert names(journal) == []


@pytest.mark.parametrize("arguments", [("unpause", "ETH/USD"), ("reset", "jump"), ("reset", "halt")])
def test_what_is_not_on_cannot_be_taken_back(
    file: Path, journal: SqliteJournal, arguments: tuple[str, ...]
) -> None:
    del journal
    with pytest.raises(ConfigError, match=r"is not on|expected one of"):
        told(file, *arguments)


def test_a_journal_that_is_not_there_is_not_made(file: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        told(file, "halt")
    assert not load(file).journal.path.exists()


def test_a_journal_without_tables_is_said_to_be_empty(file: Path) -> None:
    load(file).journal.path.touch()
    with pytest.raises(ConfigError, match="is empty, or no keeper's: start the keeper once before"):
        told(file, "halt")


def test_a_damaged_journal_is_named_with_what_to_do(file: Path) -> None:
    path = load(file).journal.path
    path.write_text("no database" * 1_000)
    with pytest.raises(ConfigError, match=rf"{path} cannot be read: file is not a database; keep the file"):
        told(file, "limits")


@pytest.mark.parametrize("command", ["pause", "unpause", "sold"])
def test_a_market_without_a_name_is_refused(file: Path, journal: SqliteJournal, command: str) -> None:
    assert "expected the name of a market, found nothing" in told(file, command, "")
    assert journal.switched(1) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("pause", "expected one of BTC/USD, ETH/USD, found ETH-USD"),
        ("sold", "expected one of BTC/USD, found ETH-USD"),
    ],
)
def test_a_market_that_nobody_knows_is_refused_with_those_that_are_known(
    file: Path, journal: SqliteJournal, command: str, said: str
) -> None:
    taken(journal, "BTC/USD")
    with pytest.raises(ConfigError, match=f"^{said}$"):
        told(file, command, "ETH-USD")
    assert journal.switched(1) == []


def test_a_market_is_sold_only_where_something_was_taken_over(file: Path, journal: SqliteJournal) -> None:
    with pytest.raises(ConfigError, match=r"^expected one of none, found BTC/USD$"):
        told(file, "sold", "BTC/USD")
    taken(journal, "BTC/USD")
    assert told(file, "sold", "BTC/USD") == "BTC/USD sold"


def test_a_market_of_the_protocols_own_is_paused_by_its_identifier(
    file: Path, journal: SqliteJournal
) -> None:
    market = "0x" + "ab" * 32
    text = LEAST.replace('reader = "0x1111111111111111111111111111111111111111"', "")
    file.write_text(
        text.replace(
            "[deployment]",
            f'[deployment]\nprotocol = "morpho_blue"\nmorpho = "0x{"11" * 20}"\nmarkets = ["{market}"]',
        )
    )
    assert told(file, "pause", market) == f"{market} paused"
    with pytest.raises(ConfigError, match=f"^expected one of BTC/USD, ETH/USD, {market}, found 0x1$"):
        told(file, "pause", "0x1")
    assert names(journal) == [f"pause {market}"]


def taken(journal: SqliteJournal, market: str) -> None:
    """Have a permit for a step that takes something of a market."""
    account = bytes(32)
    journal.record([CaseEvent("case", account, EventKind.SUSPECTED, 100, 1_200, {})])
    tx = {"to": "0x" + "d1" * 20, "data": "0x", "value": 0, "gas": 10**6, "maxFeePerGas": 10**9}
    step = Step("case", Flag(account, 1), 1_000, 1_000_000, WAD, takes=((market, WAD),))
    granted = journal.reserve(step, {**tx, "maxPriorityFeePerGas": 1}, chain_nonce=0, block=100, at_s=1_200)
    assert isinstance(granted, Permit)


def test_limits_are_shown_with_what_stops_the_wallet(file: Path, journal: SqliteJournal) -> None:
    journal.throw(Switch.SOLD, "ETH/USD", on=True, who="a test")
    (file.parent / "keeper.halt").touch()
    shown = told(file, "limits")
    assert "spend_day" in shown
    assert "10,000,000" in shown
    assert f"halt is on by file: {file.parent / 'keeper.halt'} exists" in shown
    assert "sold ETH/USD on by a test" in shown
    said = json.loads(told(file, "limits", "--json"))
    assert {
        "journal": str(journal.name), "limit": "spend_day", "subject": "", "used": 0.0, "bound": 0.5,
        "unit": "native", "own": 0.0,
    } in said["limits"]  # fmt: skip
    assert [each["who"] for each in said["stopped"]] == ["file"]


@dataclass(frozen=True)
class Fleet:
    """Configurations of several deployments: two of one wallet, and one of another."""

    files: tuple[Path, ...]

    @property
    def named(self) -> list[str]:
        return [word for file in self.files for word in ("--config", str(file))]

    def told(self, *arguments: str) -> str:
        found = CliRunner().invoke(app, [*arguments, *self.named])
        assert found.exit_code == 0, found.output
        return found.output

    def limits(self) -> dict[tuple[str, str], dict[str, Any]]:
        said = json.loads(self.told("limits", "--json"))
        return {(Path(each["journal"]).stem, each["limit"]): each for each in said["limits"]}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    files = []
    with ExitStack() as stack:
        for number, wallet in enumerate(("0xa", "0xa", "0xb"), start=1):
            file = tmp_path / f"{number}.toml"
            file.write_text(f'{LEAST}\n[journal]\npath = "{number}.sqlite"\n[send]\nin_flight = {number}0\n')
            identity = {"chain_id": "31337", "wallet": wallet, "deployment": str(number)}
            path = load(file).journal.path
            journal = stack.enter_context(closing(SqliteJournal(path, identity=identity)))
            for case in range(number):
                account = bytes([case]) * 32
                journal.record([CaseEvent(f"case{case}", account, EventKind.SUSPECTED, 100, 1_200, {})])
                step = Step(f"case{case}", Flag(account, 1), 1_000, 1_000_000, WAD)
                tx = {"to": "0x" + "d1" * 20, "data": "0x", "value": 0, "gas": 10**6, "maxFeePerGas": 10**9}
                tx["maxPriorityFeePerGas"] = 1
                granted = journal.reserve(step, tx, chain_nonce=0, block=100, at_s=1_200)
                assert isinstance(granted, Permit)
            files.append(file)
        yield Fleet(tuple(files))


def test_limits_of_several_files_are_summed_over_each_wallet(fleet: Fleet) -> None:
    said = fleet.limits()
    assert [said[name, "in_flight"]["used"] for name in "123"] == [3, 3, 3]
    assert [said[name, "in_flight"]["own"] for name in "123"] == [1, 2, 3]
    assert [said[name, "in_flight"]["bound"] for name in "123"] == [10, 20, 30]
    spent = [(said[name, "spend_day"]["used"], said[name, "spend_day"]["own"]) for name in "123"]
    assert spent == [(0.003, 0.001), (0.003, 0.002), (0.003, 0.003)]
    alone = Fleet(fleet.files[:1]).limits()["1", "in_flight"]
    assert (alone["used"], alone["own"]) == (1, 1)
    twice = Fleet((*fleet.files[:1], *fleet.files[:1])).limits()["1", "in_flight"]
    assert twice == alone


def test_the_table_of_each_journal_says_whose_it_is_and_what_is_its_own(fleet: Fleet) -> None:
    shown = fleet.told("limits")
    for file in fleet.files:
        assert str(file.with_suffix(".sqlite")) in "".join(shown.split())
    assert re.search(r"in_flight +│ +│ 3 +│ 1 +│ 10 +│ transactions", shown)
    assert "of these here" not in Fleet(fleet.files[:1]).told("limits")


def test_one_command_halts_and_resumes_several_deployments(fleet: Fleet) -> None:
    fleet.told("halt", "--reason", "odd prices")
    stopped = json.loads(fleet.told("limits", "--json"))["stopped"]
    assert [(Path(each["journal"]).stem, each["switch"]) for each in stopped] == [
        (name, "halt") for name in "123"
    ]
    assert fleet.told("resume").strip() == "resumed"


def test_a_stranger_is_shown_by_all_journals_of_the_wallet_and_cleared_at_once(fleet: Fleet) -> None:
    identity = {"chain_id": "31337", "wallet": "0xa", "deployment": "1"}
    with closing(SqliteJournal(load(fleet.files[0]).journal.path, identity=identity)) as journal:
        journal.note_foreign("nonce 7 was used by another", at_s=1_212)
    stopped = json.loads(fleet.told("limits", "--json"))["stopped"]
    assert [(Path(each["journal"]).stem, each["switch"]) for each in stopped] == [
        (name, "foreign") for name in "12"
    ]
    assert fleet.told("resume").strip() == "resumed"


async def test_signals_halt_resume_and_read_limits_anew(
    file: Path, journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = asyncio.Event()

    def noted(act: Callable[..., None]) -> Callable[..., None]:
        def noting(*values: Any, **named: Any) -> None:
            act(*values, **named)
            heard.set()

        return noting

    for name in ("throw", "reload"):
        monkeypatch.setattr(journal, name, noted(getattr(journal, name)))
    on_switches([Board(more(file, "[limits]\nattempts_hour = 7\n"), journal, Teller([], Params()))])
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        os.kill(os.getpid(), number)
        await asyncio.wait_for(heard.wait(), 30)
        heard.clear()
    found = [(each.switch, on, each.told) for each, on in journal.switched(9)]
    assert found == [
        (Switch.HALT, True, "by SIGUSR1"),
        (Switch.HALT, False, "by SIGUSR2"),
        (Switch.LIMITS, True, "by SIGHUP: attempts_hour 60 -> 7"),
    ]
    assert journal.limits == load(file).limits_for_guard()


@pytest.mark.parametrize(
    "text", ["[limits]\nattempts_hour = 0\n", "[limits]\nattempt_hours = 7\n", "[limits"], ids=str
)
def test_a_broken_file_changes_no_limit_and_says_so(
    file: Path, journal: SqliteJournal, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = journal.limits
    Board(more(file, text), journal, Teller([], Params())).reload()
    assert (journal.limits, journal.switched(9)) == (before, [])
    assert "limits.not_reloaded" in capsys.readouterr().out
