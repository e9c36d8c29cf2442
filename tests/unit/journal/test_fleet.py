"""Deployments of one wallet on one server: led together, and one door for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from keeper.domain import CaseEvent, EventKind, Permit, Reason, Refuse, Step
from keeper.errors import ConfigError, Deposed
from keeper.journal import migrations, rows
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.lease import Lease
from keeper.journal.postgres import connect
from keeper.journal.shared import PostgresJournal
from keeper.journal.tape import Recorder, unpack
from keeper.journal.wallet import Wallet, of_record
from keeper.ports import Switch
from keeper.units import WAD
from tests.postgres import drop
from tests.unit.journal.test_lease import freeze, wait_until
from tests.unit.journal.test_wallet import COST, SUMS, WEALTHY, asked, nonce_of

SHORT_S = 2.0
WALLET = {"chain_id": "1", "wallet": "0x" + "e2" * 20, "mode": "live"}


class Process:
    """A keeper of some deployments; within one Python process, several stand for several."""

    def __init__(self, name: str, places: dict[str, Shared], lease_s: float, limits: Limits) -> None:
        self.name = name
        self._places = places
        self._lease_s = lease_s
        self._limits = limits
        self._wallet = Wallet()
        self.journals: list[PostgresJournal] = []

    def keep(self, *deployments: str, **identity: str) -> list[PostgresJournal]:
        """Open the journals of some deployments."""
        for each in deployments:
            told = {**WALLET, "deployment": each, **identity}
            self.journals.append(
                PostgresJournal(
                    self._places[each],
                    identity=told,
                    limits=self._limits,
                    holder=self.name,
                    lease_s=self._lease_s,
                    wallet=self._wallet,
                )
            )
        return self.journals

    def leads(self) -> list[bool]:
        return [each.leads() for each in self.journals]

    def freeze(self) -> None:
        """Have it do nothing any more, and not notice."""
        freeze(self.journals[0])

    def close(self) -> None:
        for each in reversed(self.journals):
            each.close()


Processes: TypeAlias = Callable[..., Process]


@pytest.fixture
def places(server: str, tmp_path: Path) -> Iterator[dict[str, Shared]]:
    run = uuid4().hex
    found = {name: Shared(server, f"test_{run}_{name}", tmp_path / name) for name in "abc"}
    yield found
    for each in found.values():
        drop(each.url, each.schema)


@pytest.fixture
def process(places: dict[str, Shared]) -> Iterator[Processes]:
    begun: list[Process] = []

    def _begin(name: str = "one", *, lease_s: float = 60, limits: Limits = WEALTHY) -> Process:
        begun.append(Process(name, places, lease_s, limits))
        return begun[-1]

    yield _begin
    for each in begun:
        each.close()


def reserve(journal: PostgresJournal, step: Step, tx: dict[str, Any]) -> Permit | Refuse:
    if journal.status(step.case_id) is None:
        journal.record([CaseEvent(step.case_id, step.act.account, EventKind.SUSPECTED, 100, 1_200, {})])
    return journal.reserve(step, tx, chain_nonce=5, block=100, at_s=1_200)


def test_a_nonce_is_given_out_once_whichever_deployment_asks(process: Processes, tx: dict[str, Any]) -> None:
    a, b, c = process().keep("a", "b", "c")
    granted = [reserve(each, *asked(tx, case)) for case, each in enumerate([a, b, c, b, a])]
    assert list(map(nonce_of, granted)) == [5, 6, 7, 8, 9]
    first = granted[0]
    assert isinstance(first, Permit)
    a.abandon(first.step_id, Reason("send.refused", "", ""), block=100, at_s=1_200)
    assert nonce_of(reserve(c, *asked(tx, 7))) == 5
    assert [each.next_nonce() for each in (a, b, c)] == [10, 10, 10]


def test_a_permit_counts_what_others_hold_though_the_leases_are_lost_in_its_transaction(
    process: Processes, tx: dict[str, Any]
) -> None:
    a, b = process().keep("a", "b")
    assert nonce_of(reserve(a, *asked(tx, 1))) == 5
    with b.together():
        tokens, b._db.tokens = b._db.tokens, {}
        assert nonce_of(reserve(b, *asked(tx, 2))) == 6
    b._db.tokens = tokens


@pytest.mark.parametrize("rule", SUMS)
def test_a_limit_counts_what_all_deployments_of_the_wallet_hold(
    process: Processes, tx: dict[str, Any], rule: str
) -> None:
    limits, terms = SUMS[rule]
    a, b = process(limits=limits).keep("a", "b")
    assert isinstance(reserve(a, *asked(tx, 1, **terms)), Permit)
    refused = reserve(b, *asked(tx, 2, **terms))
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == f"limit.{rule}"


def test_a_newer_keeper_brings_up_the_journals_of_all_its_deployments(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = process()
    before.keep("a", "b")
    before.close()
    before.journals.clear()
    newer = {**migrations.MIGRATIONS, migrations.VERSION + 1: ("CREATE TABLE newer (x INTEGER) STRICT",)}
    monkeypatch.setattr(migrations, "MIGRATIONS", newer)
    for module in (migrations, rows):
        monkeypatch.setattr(module, "VERSION", max(newer))
    after = process("two")
    assert ["newer" in each._db.tables() for each in after.keep("a", "b")] == [True, True]
    assert after.leads() == [True, True]


def test_a_stranger_that_one_deployment_notices_stops_all_of_the_wallet(
    process: Processes, places: dict[str, Shared], tx: dict[str, Any]
) -> None:
    a, b, c = process().keep("a", "b", "c")
    b.note_foreign("nonce 5 of step x was used by another", at_s=1_200)
    a.note_foreign("nonce 5 is used and was not given out", at_s=1_212)
    for each in (a, b, c):
        refused = reserve(each, *asked(tx))
        assert isinstance(refused, Refuse)
        assert refused.reason.evidence.startswith("nonce 5 of step x was used by another")
        assert [thrown.switch for thrown in each.thrown()] == [Switch.FOREIGN]
    assert c.thrown()[0].why.endswith(f", noted in {places['b'].schema}")
    b.throw(Switch.FOREIGN, "", on=False, who="a test")
    assert [nonce_of(reserve(each, *asked(tx))) for each in (a, b, c)] == [5, 6, 7]


def test_each_journal_shows_what_all_of_the_wallet_use_and_what_is_its_own(
    process: Processes, tx: dict[str, Any]
) -> None:
    a, b = process().keep("a", "b")
    for case, journal in enumerate((a, b, b), start=1):
        assert isinstance(reserve(journal, *asked(tx, case)), Permit)
    shown = [{each.limit: (each.used, each.own) for each in journal.measures()} for journal in (a, b)]
    assert [each["in_flight"] for each in shown] == [(3, 1), (3, 2)]
    assert shown[0]["spend_day"] == (3 * COST / WAD, COST / WAD)


def test_deployments_of_another_wallet_or_mode_are_led_apart(process: Processes, tx: dict[str, Any]) -> None:
    [a] = process("one").keep("a")
    [b] = process("two").keep("b", wallet="0x" + "e3" * 20)
    [c] = process("three").keep("c", mode="dry run")
    assert [each.leads() for each in (a, b, c)] == [True] * 3
    assert [nonce_of(reserve(each, *asked(tx))) for each in (a, b, c)] == [5, 5, 5]


def test_who_takes_over_takes_all_deployments_with_their_nonces(
    process: Processes, tx: dict[str, Any]
) -> None:
    leader, standby = process("one", lease_s=SHORT_S), process("two")
    old, new = leader.keep("a", "b"), standby.keep("b", "a")
    assert (leader.leads(), standby.leads()) == ([True, True], [False, False])
    for case, each in enumerate(old):
        nonce_of(reserve(each, *asked(tx, case)))
    leader.freeze()
    wait_until(lambda: all(standby.leads()))
    for each in old:
        with pytest.raises(Deposed, match="two leads by lease 2, and this keeper had lease 1"):
            reserve(each, *asked(tx, 4))
    assert [nonce_of(reserve(each, *asked(tx, 5))) for each in new] == [7, 8]


def test_a_leader_that_is_frozen_in_one_deployment_keeps_nobody_from_the_others(
    process: Processes, tx: dict[str, Any]
) -> None:
    leader, standby = process("one", lease_s=SHORT_S), process("two")
    [a, _], [b, _] = leader.keep("a", "b"), standby.keep("b", "a")
    a.record([CaseEvent("case1", asked(tx)[0].act.account, EventKind.SUSPECTED, 100, 1_200, {})])
    a._db.begin()
    a._db.execute("UPDATE cases SET status = 'closed'")
    leader.freeze()
    wait_until(lambda: all(standby.leads()))
    assert nonce_of(reserve(b, *asked(tx))) == 5


def test_a_deployment_that_nobody_keeps_is_held_and_counted_and_told(
    process: Processes, places: dict[str, Shared], tx: dict[str, Any]
) -> None:
    before = process("one")
    _, b = before.keep("a", "b")
    assert nonce_of(reserve(b, *asked(tx))) == 5
    before.close()
    later = process("two")
    [a] = later.keep("a")
    wait_until(a.leads)
    assert nonce_of(reserve(a, *asked(tx, 2))) == 6
    assert a.unkept() == [places["b"].schema]
    other = process("three")
    other.keep("b")
    assert other.leads() == [False]
    later.keep("c")
    assert later.leads() == [True, True]
    assert nonce_of(reserve(later.journals[1], *asked(tx, 3))) == 7


@pytest.mark.parametrize(
    ("version", "mend"),
    [
        (migrations.VERSION - 1, "start this keeper once with the configuration of that deployment, too"),
        (migrations.VERSION + 1, "start a keeper as new as that one"),
    ],
)
def test_a_journal_of_the_wallet_with_other_tables_is_named_at_the_start_and_at_a_grant(
    process: Processes, places: dict[str, Shared], tx: dict[str, Any], version: int, mend: str
) -> None:
    before = process("one")
    before.keep("a", "b")
    before.close()
    with closing(connect(places["b"])) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(version),))
        db.execute("ALTER TABLE steps DROP COLUMN returned_block")
    [a] = process("two").keep("a")
    wait_until(a.leads)
    told = (
        f"schema {places['a'].schema} cannot be used: its wallet has a journal in schema"
        f" {places['b'].schema} of version {version}, and this keeper's are of version"
        f" {migrations.VERSION}; {mend}"
    )
    for ask in (a.unkept, lambda: reserve(a, *asked(tx)), a.measures, a.next_nonce):
        with pytest.raises(ConfigError) as refused:
            ask()
        assert str(refused.value).endswith(told)
    assert a.live_steps() == ()


def test_leases_are_not_taken_where_one_of_the_wallet_is_left_out(
    process: Processes, places: dict[str, Shared]
) -> None:
    before = process()
    before.keep("a", "b")
    before.close()
    a, b = places["a"].schema, places["b"].schema
    with closing(Lease(places["a"], "two", 60)) as lease, closing(connect(places["a"])) as db:
        assert lease.take([a], {a: db.session}) is None
        assert lease.take([a, b], {a: db.session}) == {a: 2, b: 2}


def test_what_a_process_begins_to_keep_it_leads_by_the_lease_that_it_has(
    process: Processes, tx: dict[str, Any]
) -> None:
    before = process("one")
    before.keep("a", "b")
    before.close()
    leader, standby = process("two", lease_s=SHORT_S), process("three")
    leader.keep("a")
    wait_until(lambda: leader.leads() == [True])
    leader.keep("b")
    assert leader.leads() == [True, True]
    standby.keep("a", "b")
    late = leader.journals[1]
    # Frozen in a transaction on the one that came later: its session, too, is ended.
    late._db.begin()
    leader.freeze()
    wait_until(lambda: all(standby.leads()))
    assert nonce_of(reserve(standby.journals[1], *asked(tx))) == 5


def test_each_tape_has_what_the_other_deployments_held(process: Processes, tx: dict[str, Any]) -> None:
    a, b = process().keep("a", "b")
    tape = Recorder()
    b.keep_tape(tape, {})
    reserve(a, *asked(tx, 1))
    assert nonce_of(reserve(b, *asked(tx, 2))) == 6
    records = [record for packed in tape.take_rest() for record in unpack(packed.data)]
    [told] = [said for kind, said, *_ in records if kind == "chance"]
    held = of_record(told)
    assert (held.nonces, held.in_flight_wei) == (frozenset({5}), COST)


RACER = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from keeper.domain import Flag, Permit, Step
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.lease import Lease
from keeper.journal.postgres import connect
from keeper.journal.shared import PostgresJournal
from keeper.journal.wallet import Wallet

tokens, mine, most = json.loads(os.environ["TOKENS"]), int(sys.argv[2]), int(os.environ["MOST"])
wallet, journals = Wallet(), []
for number, schema in enumerate(tokens):
    place = Shared(os.environ["URL"], schema, Path(sys.argv[1]) / f"{mine}{number}")
    told = {"chain_id": "1", "wallet": "0x" + "e2" * 20, "mode": "live", "deployment": "ab"[number]}
    limits = Limits(spend_day_wei=most, in_flight=100)
    journals.append(PostgresJournal(place, identity=told, limits=limits, wallet=wallet, lease_s=60))
for each in journals:
    # As if it were a part of the one that leads.
    each._db.tokens = tokens
tx = {"to": "0x" + "d1" * 20, "data": "0x", "gas": 10**6, "maxFeePerGas": 3 * 10**9}

def reserve(case):
    step = Step(f"case{case}", Flag(bytes([7]) * 31 + bytes([case]), 1), 1_000, 10**6, 1)
    found = journals[case % 2].reserve(step, tx, chain_nonce=5, block=100, at_s=1_200)
    return found.nonce if isinstance(found, Permit) else found.reason.rule

print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(5) as threads:
    print(json.dumps(list(threads.map(reserve, range(5 * mine, 5 * mine + 5)))))
"""


def race(racers: list[subprocess.Popen[str]]) -> list[int | str]:
    """Let all go at once; return what each reserve came to."""
    for each in racers:
        assert each.stdout
        while "ready" not in each.stdout.readline():
            assert each.poll() is None
    for each in racers:
        assert each.stdin
        each.stdin.write("go\n")
        each.stdin.flush()
    return [found for each in racers for found in json.loads(each.communicate()[0].splitlines()[-1])]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("affordable", [10, 7])
def test_ten_racing_reserves_of_two_deployments_in_two_processes_never_share_a_nonce(
    process: Processes, places: dict[str, Shared], tx: dict[str, Any], tmp_path: Path, affordable: int
) -> None:
    leader = process()
    a, b = leader.keep("a", "b")
    for case in range(10):
        account = asked(tx, case)[0].act.account
        suspected = CaseEvent(f"case{case}", account, EventKind.SUSPECTED, 100, 1_200, {})
        (a, b)[case % 2].record([suspected])
    told = {
        "URL": places["a"].url,
        "TOKENS": json.dumps(a._db.tokens),
        "MOST": str(affordable * COST),
    }
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(number)],
            env={**os.environ, **told}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    said = race(racers)
    nonces = sorted(each for each in said if isinstance(each, int))
    assert nonces == list(range(5, 5 + affordable))
    assert said.count("limit.spend_day") == 10 - affordable
    assert len(a.live_steps()) + len(b.live_steps()) == affordable
