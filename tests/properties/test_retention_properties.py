"""Whatever a journal holds, what it forgets is over and old, and what stays is sound."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain import CaseEvent, EventKind, Flag, Head, Permit, Reason, Step
from keeper.journal.reader import JournalReader
from keeper.journal.retention import DAY_S, LEAST_DAYS, Keep
from keeper.journal.store import SqliteJournal
from keeper.journal.tape import Recorder
from keeper.ports import Outcome, StepState
from keeper.units import WAD

NOW_S = 1_000 * DAY_S
TX: dict[str, Any] = {"gas": 1, "maxFeePerGas": 1}
ENDS = ("none", "reserved", "sent", "abandoned", "included", "reverted", "displaced")


@dataclass(frozen=True)
class Story:
    """A case: when it began and how long it took, how its step ended, whether it was closed."""

    began_days: float
    took_days: float
    end: str
    closed: bool


stories = st.lists(
    st.builds(
        Story,
        began_days=st.floats(0, 40),
        took_days=st.floats(0, 40),
        end=st.sampled_from(ENDS),
        closed=st.booleans(),
    ),
    max_size=12,
)


def tell(journal: SqliteJournal, number: int, story: Story) -> None:
    account, case_id = bytes([number]) * 32, f"case{number}"
    began_s = NOW_S - int(story.began_days * DAY_S)
    last_s = min(NOW_S, began_s + int(story.took_days * DAY_S))

    def event(kind: EventKind, at_s: int) -> CaseEvent:
        return CaseEvent(case_id, account, kind, at_s // 12, at_s, {})

    journal.record([event(EventKind.SUSPECTED, began_s)])
    if story.end != "none":
        step = Step(case_id, Flag(account, WAD), 2**40, 1, 0)
        permit = journal.reserve(step, TX, chain_nonce=0, block=began_s // 12, at_s=began_s)
        assert isinstance(permit, Permit)
        _end(journal, permit.step_id, story.end, last_s)
    if story.closed and story.end not in {"reserved", "sent"}:
        journal.record([event(EventKind.CLOSED, last_s)])


def _end(journal: SqliteJournal, step_id: str, end: str, at_s: int) -> None:
    if end == "abandoned":
        journal.abandon(step_id, Reason("a", "b", "c"), block=at_s // 12, at_s=at_s)
    elif end != "reserved":
        journal.sign(step_id, b"raw", "0xaa")
        journal.sent(step_id, block=at_s // 12, at_s=at_s)
        if end != "sent":
            outcome = Outcome(EventKind(end.capitalize()), at_s // 12, "0xb", 1)
            journal.settle(step_id, outcome, at_s=at_s)


@settings(deadline=None, max_examples=40)
@given(stories, st.integers(2, 35), st.booleans())
def test_only_what_is_over_and_old_is_forgotten(stories: list[Story], days: int, small: bool) -> None:
    told = sorted(stories, key=lambda story: -story.began_days)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        with closing(SqliteJournal(path, identity={"chain_id": "1"}, durable=False)) as journal:
            for number, story in enumerate(told):
                tell(journal, number, story)
            journal.head_done(Head(NOW_S // 12, "0xa", "0xb", NOW_S, 1))
            keep = Keep(days, 0 if small else 10_000)
            while journal.forget(keep):
                pass
            kept_days = LEAST_DAYS if small else days
            horizon_s = NOW_S - kept_days * DAY_S
            for number, story in enumerate(told):
                began_s = NOW_S - int(story.began_days * DAY_S)
                last_s = min(NOW_S, began_s + int(story.took_days * DAY_S))
                closed = story.closed and story.end not in {"reserved", "sent"}
                touched_s = last_s if closed or story.end not in {"none", "reserved"} else began_s
                goes = closed and touched_s < horizon_s
                assert (journal.status(f"case{number}") is None) == goes
            lived = {story.end for story in told} & {"reserved", "sent"}
            assert {step.state for step in journal.live_steps()} == set(map(StepState, lived))
        with closing(JournalReader(path)) as reader:
            assert reader.verify() == []


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=4),
    st.integers(2, 30),
    st.integers(0, 5),
)
def test_what_stays_of_a_tape_begins_with_a_start_or_a_kept_book(
    lives: list[tuple[int, int]], days: int, book_every: int
) -> None:
    """Each life of a keeper is so many days long, with a head a day."""
    with tempfile.TemporaryDirectory() as folder:
        path, book = Path(folder) / "journal.sqlite", Path(folder) / "book"
        book.write_bytes(b"book")
        day = 0
        with closing(SqliteJournal(path, identity={"chain_id": "1"}, durable=False)) as journal:
            for length, _ in lives:
                journal.keep_tape(Recorder(), {})
                for passed in range(length):
                    day += 1
                    _tape_a_day(journal, day)
                    if book_every and passed % book_every == book_every - 1:
                        journal.keep_book(book, day * 7_200)
            while journal.forget(Keep(days, 10_000)):
                pass
            horizon = day - days
            rows = journal._rows("SELECT run, number / 7200 AS day FROM tape ORDER BY seq")
            assert {row["day"] for row in rows} >= {each for each in range(1, day + 1) if each >= horizon}
            kept = {row[0] for row in journal._rows("SELECT file FROM books")}
            assert kept == {each.name for each in Path(folder).iterdir() if ".book-" in each.name}
        with closing(JournalReader(path)) as reader:
            for run in reader.runs():
                days_of = [reel.number // 7_200 for reel in reader.tape(run.run)]
                gaps = [late for early, late in pairwise(days_of) if late > early + 1]
                books = {seq for seq, _ in reader.books(run, 2**60)}
                assert not gaps or (run.started.get("cut") and books)
            assert reader.verify() == []


def _tape_a_day(journal: SqliteJournal, day: int) -> None:
    tape = journal._tape
    assert tape is not None
    tape.note("q", {})
    tape._packed = tape.take_rest()
    journal.head_done(Head(day * 7_200, f"0x{day}", "0x", day * DAY_S, 1))
