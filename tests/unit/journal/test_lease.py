"""Who of several keepers may write the journal that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import psycopg
import pytest

from keeper.domain import Permit
from keeper.errors import ConfigError, Deposed, KeeperError
from keeper.journal.db import Shared
from keeper.journal.lease import Lease
from keeper.journal.postgres import written
from keeper.journal.reader import JournalReader
from keeper.journal.shared import PostgresJournal
from keeper.ports import Searched
from tests.postgres import PASSWORD, Line, drop
from tests.unit.journal.conftest import IDENTITY, Events, Steps

Keepers: TypeAlias = Callable[..., PostgresJournal]
LONG_S = 60.0
SHORT_S = 2.0
PATIENCE_S = 40.0


@pytest.fixture
def shared(server: str, tmp_path: Path) -> Iterator[Shared]:
    place = Shared(server, f"test_{uuid4().hex}", tmp_path / "journal.db")
    yield place
    drop(place.url, place.schema)


@pytest.fixture
def keeper(shared: Shared) -> Iterator[Keepers]:
    """Open the journal as another keeper."""
    opened: list[PostgresJournal] = []

    def _keeper(name: str, *, lease_s: float = LONG_S, place: Shared = shared) -> PostgresJournal:
        opened.append(PostgresJournal(place, identity=IDENTITY, holder=name, lease_s=lease_s))
        return opened[-1]

    yield _keeper
    for each in opened:
        each.close()


def freeze(journal: PostgresJournal) -> None:
    """Have a keeper do nothing for its lease any more, and not notice, as one that is stopped."""
    tenure = journal._tenure
    tenure._over.set()
    for each in tenure._threads:
        each.join()


def wait_until(told: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_two_keepers_one_leads_and_the_other_writes_nothing(keeper: Keepers, event: Events) -> None:
    leader, standby = keeper("a"), keeper("b")
    assert (leader.leads(), standby.leads()) == (True, False)
    with pytest.raises(Deposed, match=r"standby\.deposed: another keeper leads"):
        standby.record([event()])
    leader.record([event()])
    assert standby.status("case1") == "suspected"


def test_who_leads_is_told_to_both(keeper: Keepers) -> None:
    told = [each.leadership for each in (keeper("a"), keeper("b"))]
    assert [(each.leads, each.holder, each.lease) for each in told if each] == [
        (True, "a", 1),
        (False, "a", 1),
    ]


def test_a_leader_that_ends_lets_the_next_one_lead_at_once(keeper: Keepers) -> None:
    leader, standby = keeper("a"), keeper("b")
    leader.close()
    wait_until(standby.leads)
    assert standby._db.tokens == {standby._schema: 2}


def test_a_frozen_leader_is_refused_when_it_thaws(
    keeper: Keepers, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    leader = keeper("a", lease_s=SHORT_S)
    leader.record([event(), event(case=2)])
    permit = leader.reserve(step(), tx, chain_nonce=5, block=101, at_s=1212)
    assert isinstance(permit, Permit)
    freeze(leader)
    standby = keeper("b")
    wait_until(standby.leads)
    for late in (
        lambda: leader.reserve(step(case=2), tx, chain_nonce=5, block=101, at_s=1212),
        lambda: leader.sign(permit.step_id, b"raw", "0xaa"),
        lambda: leader.record([event(case=3)]),
    ):
        with pytest.raises(Deposed, match="b leads by lease 2, and this keeper had lease 1"):
            late()
    assert [each.step_id for each in standby.live_steps()] == [permit.step_id]
    assert standby.step(permit.step_id).signed_tx is None


def test_nonces_go_on_where_the_leader_before_left_them(
    keeper: Keepers, event: Events, step: Steps, tx: dict[str, Any]
) -> None:
    nonces = []
    for case, name in enumerate("abc", start=1):
        leader = keeper(name)
        wait_until(leader.leads)
        leader.record([event(case=case)])
        permit = leader.reserve(step(case=case), tx, chain_nonce=5, block=101, at_s=1212)
        assert isinstance(permit, Permit)
        nonces.append(permit.nonce)
        leader.close()
    assert nonces == [5, 6, 7]


def overtaken(leader: PostgresJournal, keeper: Keepers, event: Events) -> PostgresJournal:
    """Freeze a leader that has written something, and have another one lead and write."""
    leader.record([event()])
    freeze(leader)
    standby = keeper("b")
    wait_until(standby.leads)
    standby.record([event(case=2)])
    return standby


def test_a_leader_that_is_frozen_in_a_transaction_keeps_nobody_out(keeper: Keepers, event: Events) -> None:
    leader = keeper("a", lease_s=SHORT_S)
    with pytest.raises(KeeperError, match="terminating connection"), leader.together():
        standby = overtaken(leader, keeper, event)
    assert [case.case_id for case in standby.open_cases()] == ["case2"]


def test_a_leader_that_is_cut_off_stops_no_later_than_its_lease_ends(
    keeper: Keepers, shared: Shared, event: Events
) -> None:
    line = Line(shared.url)
    with closing(line):
        leader = keeper("a", lease_s=SHORT_S, place=replace(shared, url=line.url))
        assert leader.leads()
        line.cut()
        # It waits for an answer that does not come, until its own guard breaks the line.
        with pytest.raises(KeeperError, match=r"cannot be written|nothing was heard"):
            leader.record([event()])
        wait_until(lambda: leader._tenure.lost is not None)
        with pytest.raises(Deposed, match="nothing was heard"):
            leader.leads()
        standby = keeper("b")
        wait_until(standby.leads)
        assert standby.open_cases() == ()


def test_a_lease_that_is_renewed_outlasts_its_time(keeper: Keepers) -> None:
    leader, standby = keeper("a", lease_s=SHORT_S), keeper("b", lease_s=SHORT_S)
    time.sleep(1.5 * SHORT_S)
    assert (leader.leads(), standby.leads()) == (True, False)


def test_a_transaction_may_last_longer_than_a_lease(keeper: Keepers, event: Events) -> None:
    leader, standby = keeper("a", lease_s=SHORT_S), keeper("b", lease_s=SHORT_S)
    with leader.together():
        leader.record([event()])
        time.sleep(1.5 * SHORT_S)
    assert (leader.leads(), standby.leads()) == (True, False)
    assert standby.status("case1") == "suspected"


def test_what_a_standby_finds_is_kept_until_it_leads(keeper: Keepers) -> None:
    leader, standby = keeper("a"), keeper("b")
    standby.note_found([b"\x01" * 32], Searched(5, 90, "0xab"))
    assert list(standby.found()) == []
    leader.close()
    wait_until(standby.leads)
    assert (list(standby.found()), standby.searched()) == ([[b"\x01" * 32]], None)


def test_the_lease_of_a_token_that_is_gone_is_not_renewed(keeper: Keepers, shared: Shared) -> None:
    keeper("a")
    lease = Lease(shared, "b", LONG_S)
    with closing(lease), pytest.raises(Deposed, match="a leads by lease 1, and this keeper had lease 9"):
        lease.renew({shared.schema: 9})


def test_an_older_journal_is_not_brought_up_under_a_leader(keeper: Keepers) -> None:
    leader = keeper("a")
    leader._db.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
    with pytest.raises(ConfigError, match="a keeper leads that knows schema 1"):
        keeper("b")


@pytest.mark.parametrize(
    "url", ["postgresql://keeper:hunter2@127.0.0.1:1/none", "postgresql://keeper:hunter2@/?nonsense=1"]
)
def test_no_error_and_no_text_has_the_password(shared: Shared, url: str) -> None:
    place = replace(shared, url=url)
    said = [repr(place), str(place)]
    for opened in (lambda: PostgresJournal(place, identity=IDENTITY), lambda: JournalReader(place)):
        with pytest.raises(ConfigError) as refused:
            opened()
        said.append(repr(refused.value))
    with pytest.raises(ConfigError, match="password authentication failed") as refused:
        PostgresJournal(replace(shared, url=shared.url.replace(PASSWORD, "hunter2")), identity=IDENTITY)
    assert not any("hunter2" in text for text in [*said, str(refused.value)])


def test_a_reader_cannot_write_and_needs_no_lease(keeper: Keepers, shared: Shared, event: Events) -> None:
    keeper("a").record([event()])
    with closing(JournalReader(shared)) as reader:
        assert reader.summary().cases == {"suspected": 1}
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            reader._db.execute("UPDATE lease SET token = 9")


def test_tables_are_declared_in_the_words_of_either_store() -> None:
    told = "CREATE TABLE kept (name TEXT PRIMARY KEY, number INTEGER, data BLOB) STRICT"
    row = "rowid BIGINT GENERATED BY DEFAULT AS IDENTITY"
    assert written(told) == f"CREATE TABLE kept (name TEXT PRIMARY KEY, number BIGINT, data BYTEA, {row})"
    assert written("ALTER TABLE kept ADD COLUMN size INTEGER") == "ALTER TABLE kept ADD COLUMN size BIGINT"
    assert written("SELECT 1 % 2 WHERE x = ?") == "SELECT 1 %% 2 WHERE x = %s"
