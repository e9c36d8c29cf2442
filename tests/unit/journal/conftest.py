"""A journal on either store, and the words to fill it with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest

from keeper.domain import CaseEvent, EventKind, Flag, Head, Liquidate, Step
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.shared import PostgresJournal
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.units import WAD, Block
from tests.postgres import drop

IDENTITY = {"chain_id": "31337", "deployment": "0x" + "d1" * 20, "wallet": "0x" + "e2" * 20}

Events: TypeAlias = Callable[..., CaseEvent]
Steps: TypeAlias = Callable[..., Step]
Journals: TypeAlias = Callable[..., StoredJournal]

on_sqlite = pytest.mark.parametrize("place", ["sqlite"], indirect=True)
"""For what is only true of a file."""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | Shared]:
    """Yield where the journal of a test is: each is run on both stores."""
    path = tmp_path / "journal.db"
    if request.param == "sqlite":
        yield path
        return
    shared = Shared(request.getfixturevalue("server"), f"test_{uuid4().hex}", path)
    yield shared
    drop(shared.url, shared.schema)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def opened(place: Path | Shared, limits: Limits | None = None, **identity: str) -> StoredJournal:
    told = IDENTITY | identity
    if isinstance(place, Path):
        return SqliteJournal(place, identity=told, limits=limits)
    return PostgresJournal(place, identity=told, limits=limits, lease_s=60)


@pytest.fixture
def open_journal(place: Path | Shared) -> Iterator[Journals]:
    """Open the journal again and again, as threads of one keeper would."""
    journals: list[StoredJournal] = []

    def _open(limits: Limits | None = None, **identity: str) -> StoredJournal:
        journal = opened(place, limits, **identity)
        if isinstance(journal, PostgresJournal) and not journal.leads():
            first = next(each for each in journals if isinstance(each, PostgresJournal) and each.leads())
            journal._db.tokens = first._db.tokens
        journals.append(journal)
        return journal

    yield _open
    for each in reversed(journals):
        each.close()


@pytest.fixture
def journal(open_journal: Journals) -> StoredJournal:
    return open_journal()


@pytest.fixture
def tx() -> dict[str, Any]:
    return {
        "type": 2,
        "chainId": 31337,
        "to": "0x" + "d1" * 20,
        "data": "0x12",
        "value": 0,
        "gas": 1_000_000,
        "maxFeePerGas": 3 * 10**9,
        "maxPriorityFeePerGas": 10**9,
    }


@pytest.fixture
def event() -> Events:
    def _event(
        kind: EventKind = EventKind.SUSPECTED, *, case: int = 1, block: Block = 100, **data: object
    ) -> CaseEvent:
        return CaseEvent(f"case{case}", bytes([case]) * 32, kind, block, block * 12, data)

    return _event


@pytest.fixture
def step() -> Steps:
    def _step(
        *, case: int = 1, tranche: int | None = None, notional_wad: int = 0, valid_until: Block = 1_000_000
    ) -> Step:
        account = bytes([case]) * 32
        act: Flag | Liquidate = Flag(account, 5 * WAD)
        if tranche is not None:
            act = Liquidate(account, b"\x09" * 32, tranche, 2_000, 0, WAD, 0)
        return Step(f"case{case}", act, valid_until, 1_000_000, 7 * WAD, notional_wad)

    return _step


@pytest.fixture
def head() -> Callable[[int], Head]:
    return lambda number: Head(
        number, f"0x{number:064x}", f"0x{number - 1:064x}", number * 12, 10**9 + number
    )
