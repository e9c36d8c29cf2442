"""Several processes on one journal, and processes that die in the middle of it."""

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from keeper.domain import CaseEvent, EventKind
from keeper.errors import ConfigError
from keeper.journal.db import Shared
from keeper.journal.reader import JournalReader
from keeper.journal.shared import PostgresJournal
from keeper.journal.store import SqliteJournal

pytestmark = pytest.mark.timeout(240)
"""Ten processes that start at once take their time on a busy machine."""

WORDS = """
import sys, time
from pathlib import Path
from keeper.domain import CaseEvent, EventKind as E, Flag, Head, Permit, Step
from keeper.journal.guard import Limits
from keeper.journal.store import SqliteJournal
from keeper.ports import Outcome

limits = Limits(spend_day_wei=10**30)
journal = SqliteJournal(Path(sys.argv[1]), identity={"chain_id": "1"}, limits=limits)
tx = {"to": "0x" + "d1" * 20, "data": "0x", "gas": 10**6, "maxFeePerGas": 10**9}

def suspect(n):
    journal.record([CaseEvent(f"case{n}", n.to_bytes(32, "big"), E.SUSPECTED, n, n, {"n": 10**30})])

def reserve(n, chain_nonce):
    step = Step(f"case{n}", Flag(n.to_bytes(32, "big"), 1), n + 9, 10**6, 1)
    return journal.reserve(step, tx, chain_nonce=chain_nonce, block=n, at_s=n)
"""

RACE = (
    WORDS
    + """
print("ready", flush=True)
sys.stdin.readline()
answer = reserve(1, 0)
print("permit" if isinstance(answer, Permit) else answer.reason.rule)
"""
)

ENDLESS = (
    WORDS
    + """
n = 0
while True:
    n += 1
    suspect(n)
    permit = reserve(n, n - 1)
    journal.sign(permit.step_id, b"raw" + bytes([n % 256]), f"0x{n:064x}")
    journal.sent(permit.step_id, block=n, at_s=n)
    journal.settle(permit.step_id, Outcome(E.INCLUDED, n, f"0x{n:x}", n), at_s=n)
    journal.head_done(Head(n, f"0x{n:x}", "0x", n, 1))
"""
)


SHARED = WORDS.replace(
    'SqliteJournal(Path(sys.argv[1]), identity={"chain_id": "1"}, limits=limits)',
    'PostgresJournal(shared, identity={"chain_id": "1"}, limits=limits, lease_s=60)',
).replace(
    "limits = ",
    """
import os
from keeper.journal.db import Shared
from keeper.journal.shared import PostgresJournal
shared = Shared(os.environ["URL"], os.environ["SCHEMA"], Path(sys.argv[1]))
limits = """,
    1,
)
"""The same words on the other store."""

LED = "journal._db.tokens = {shared.schema: 1}\n"
"""What makes a process write as the one does that leads: as if it were a thread of it."""


def _start(script: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _race(racers: list[subprocess.Popen[str]]) -> list[str]:
    """Let all go at once; return their answers in order."""
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline().endswith("ready\n")
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return sorted(racer.communicate()[0].strip() for racer in racers)


def test_ten_racing_processes_get_one_permit(path: Path) -> None:
    subprocess.run([sys.executable, "-c", f"{WORDS}\nsuspect(1)", str(path)], check=True)
    answers = _race([_start(RACE, path) for _ in range(10)])
    assert answers == ["limit.duplicate"] * 9 + ["permit"]


def test_ten_racing_processes_get_one_permit_of_a_shared_journal_too(
    path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Shared(server, f"test_{uuid4().hex}", path)
    monkeypatch.setenv("URL", place.url)
    monkeypatch.setenv("SCHEMA", place.schema)
    with closing(PostgresJournal(place, identity={"chain_id": "1"}, lease_s=600)) as leader:
        assert leader.leads()
        leader.record([CaseEvent("case1", (1).to_bytes(32), EventKind.SUSPECTED, 1, 1, {})])
        racing = RACE.replace(WORDS, SHARED + LED)
        answers = _race([_start(racing, path) for _ in range(10)])
        assert answers == ["limit.duplicate"] * 9 + ["permit"]
        assert len(leader.live_steps()) == 1


def test_ten_processes_may_create_the_same_journal(path: Path) -> None:
    creators = [_start(WORDS, path) for _ in range(10)]
    for creator in creators:
        creator.communicate()
    assert [creator.returncode for creator in creators] == [0] * 10


def test_a_journal_is_sound_after_its_writer_was_killed(path: Path) -> None:
    done = 0
    for _ in range(3):
        path.unlink(missing_ok=True)
        for left in path.parent.glob("journal.db-*"):
            left.unlink()
        writer = _start(ENDLESS, path)
        _wait_for_head(path, 10)
        writer.kill()
        writer.communicate()
        reader = JournalReader(path)
        assert reader.verify() == []
        done += reader.summary().cases["settled"]
        reader.close()
        journal = SqliteJournal(path, identity={"chain_id": "1"})
        assert len(journal.live_steps()) <= 1
        journal.close()
    assert done >= 30


def test_a_head_is_seen_as_done_from_another_process_while_the_keeper_writes(path: Path) -> None:
    writer = _start(ENDLESS, path)
    _wait_for_head(path, 3)
    reader = JournalReader(path)
    assert reader.head_done(3)
    assert reader.head_done(3, "0x3")
    assert not reader.head_done(3, "0x4")
    assert not reader.head_done(10**9)
    reader.close()
    writer.kill()
    writer.communicate()


def _wait_for_head(path: Path, number: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and _done(path, number):
            return
        time.sleep(0.01)
    raise AssertionError(f"head {number} was not done in time")


def _done(path: Path, number: int) -> bool:
    try:
        reader = JournalReader(path)
    except ConfigError:
        return False
    with closing(reader):
        return reader.head_done(number)
