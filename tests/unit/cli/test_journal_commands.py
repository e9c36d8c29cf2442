"""What an operator does with a journal beside the keeper."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keeper.cli import app
from keeper.domain import CaseEvent, EventKind
from keeper.errors import ConfigError
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal
from tests.postgres import drop

READER = "0x" + "11" * 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "prices.csv").write_text("timestamp_s,feed,price\n")
    (tmp_path / "keeper.toml").write_text(
        '[chain]\nhttp = "http://127.0.0.1:1"\nws = "ws://127.0.0.1:1"\nchain_id = 31337\n'
        f'[deployment]\nreader = "{READER}"\n[feed]\npath = "prices.csv"\n'
    )
    with closing(SqliteJournal(tmp_path / "journal.sqlite", identity={"chain_id": "31337"})) as journal:
        for number in (1, 2):
            account = bytes([number]) * 32
            journal.record([CaseEvent(f"case{number}", account, EventKind.SUSPECTED, 7, 84, {})])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(*words: str) -> Result:
    return CliRunner().invoke(app, ["journal", *words])


def test_a_whole_journal_is_said_to_be_whole_and_a_broken_one_ends_with_1(folder: Path) -> None:
    found = asked("check")
    assert (found.exit_code, found.output) == (0, f"the journal {folder / 'journal.sqlite'} is whole\n")
    with closing(SqliteJournal(folder / "journal.sqlite", identity={"chain_id": "31337"})) as journal:
        journal._db.execute("UPDATE cases SET status = 'settled' WHERE case_id = 'case2'")
    found = asked("check")
    assert (found.exit_code, found.output) == (
        1,
        "case case2 is settled, and its events lead to suspected\n",
    )


@pytest.mark.parametrize("block", ["-1", str(2**63)])
@pytest.mark.parametrize("words", [("accounts", "--at"), ("replay", "journal.sqlite", "--until")])
def test_a_block_that_no_chain_has_is_refused(folder: Path, words: tuple[str, ...], block: str) -> None:
    del folder
    found = CliRunner().invoke(app, [*words, block])
    assert (found.exit_code, "Invalid value" in found.output) == (2, True)


def test_an_output_that_is_full_ends_with_one_line(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "keeper", "journal", "export"]
        found = subprocess.run(
            command, cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "keeper: the output cannot be written: No space left on device\n"
    assert (found.returncode, found.stderr) == (2, said)


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-"])
def test_a_process_whose_streams_are_closed_ends_as_any_other(folder: Path, streams: str) -> None:
    """The event loop, whose connections would take their numbers, ends by a signal where one is closed."""
    (folder / "keeper.toml").rename(folder / "dead.toml")
    shell = f'exec "$0" -m keeper risk stress --config dead.toml {streams}'
    found = subprocess.run(
        ["/bin/bash", "-c", shell, sys.executable], cwd=folder, capture_output=True, text=True, check=False
    )
    said = "" if "2>&-" in streams else "keeper: eth_chainId at http://127.0.0.1:1: no answer"
    assert (found.returncode, found.stdout, found.stderr[: len(said)]) == (2, "", said)
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("torn", [b"no tape", zlib.compress(b'["head", {'), zlib.compress(b"[]" * 99)[:-5]])
def test_a_row_of_the_tape_that_is_damaged_is_named(folder: Path, torn: bytes) -> None:
    journal = folder / "journal.sqlite"
    with closing(SqliteJournal(journal, identity={"chain_id": "31337"})) as written, written.together():
        db = written._db
        db.execute("INSERT INTO runs (run, events, started) VALUES (3, 0, '{}')")
        db.execute("INSERT INTO tape VALUES (7, 3, 1, 1, 0, 0, ?)", (torn,))
    with closing(JournalReader(journal)) as reader:
        said = rf"{journal} is damaged: row 7 of its tape cannot be read: .*; keep the file, and go on from"
        with pytest.raises(ConfigError, match=said):
            list(reader.tape(3))
    found = asked("check")
    assert found.exit_code == 1
    assert found.output.startswith("row 7 of the tape cannot be read: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("journal.sqlite", "--book", "book"), "--book belongs to prices"),
        (("keeper.toml", "--book", "book"), "--book belongs to prices"),
        (("prices.csv", "--until", "7"), "--until belongs to a journal"),
    ],
)
def test_what_a_replay_would_not_look_at_is_refused(folder: Path, words: tuple[str, ...], said: str) -> None:
    del folder
    found = CliRunner().invoke(app, ["replay", *words])
    assert isinstance(found.exception, ConfigError)
    assert str(found.exception).startswith(said)


def test_a_backup_is_a_journal(folder: Path) -> None:
    assert asked("backup", "copy.sqlite").exit_code == 0
    with closing(JournalReader(folder / "copy.sqlite")) as copy:
        assert copy.summary().cases == {"suspected": 2}


@pytest.mark.parametrize(("words", "cases"), [((), 2), (("--case", "case2"), 1)])
def test_an_export_is_a_line_for_each_row(folder: Path, words: tuple[str, ...], cases: int) -> None:
    found = asked("export", *words)
    lines = [json.loads(line) for line in found.output.splitlines()]
    assert [line["table"] for line in lines].count("cases") == cases
    assert (folder / "journal.sqlite").exists()


def test_a_file_goes_to_the_server_of_the_configuration(
    folder: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asked("import", str(folder / "journal.sqlite"))
    assert "journal.url is not set" in str(refused.exception)
    monkeypatch.setenv("KEEPER_JOURNAL__URL", server)
    found = asked("import", str(folder / "journal.sqlite"))
    assert (found.exit_code, "cases 2" in found.output.splitlines()) == (0, True)
    whole = asked("check")
    assert (whole.exit_code, "schema keeper is whole" in whole.output) == (0, True)
    drop(server, "keeper")
