"""A journal's runs made again: the same events, or the first that differ.

Each run is played over the journal as it stood when the run began, in a temporary file.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

from keeper.domain import CaseEvent
from keeper.errors import ConfigError
from keeper.execute.sender import ChainSender
from keeper.execute.sender import Params as SenderParams
from keeper.journal import runs
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader, Reel
from keeper.journal.runs import Run
from keeper.journal.store import SqliteJournal
from keeper.journal.tape import Record
from keeper.journal.wallet import TapedWallet, Wallet
from keeper.pipeline import Pipeline
from keeper.ports import BlockUpdate, Journal
from keeper.replay.deck import Deck
from keeper.units import AccountKey, Block

WALL_CLOCK = frozenset({"tick_to_tx_ms"})
"""What events hold that is of the day on which they were made."""

Made: TypeAlias = Callable[[Deck, Journal, ChainSender, Path | None], Awaitable[Pipeline[Any]]]
"""Makes the pipeline of a run, with the book that it took up, if any."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event as two replays can be compared by it."""

    case_id: str
    kind: str
    block: Block
    at_s: int
    data: Mapping[str, Any]

    @classmethod
    def of(cls, event: CaseEvent) -> Event:
        data = {name: value for name, value in event.data.items() if name not in WALL_CLOCK}
        return cls(event.case_id, event.kind.value, event.block, event.at_s, data)

    @property
    def account(self) -> str:
        return self.case_id.partition("@")[0]

    def __str__(self) -> str:
        named = self.data.get("rule") or self.data.get("act") or self.data.get("kind") or ""
        if isinstance(named, Mapping):
            named = ""
        return f"block {self.block}, {self.account}: {self.kind} {named}".rstrip()


@dataclass(frozen=True, slots=True)
class Played:
    """What came of playing one run."""

    run: int
    blocks: tuple[Block, Block] | None
    heads: int
    was: list[Event]
    now: list[Event]
    beyond: list[str]
    """What was asked that the tape does not have."""
    unasked: int
    cut: int
    """Events of the run that came after its tape."""
    has_ended: bool
    """Whether these came because no more was taped, and not because the keeper was killed."""

    @property
    def differences(self) -> Iterator[tuple[Event | None, Event | None]]:
        """Yield events that are otherwise, in their order; None where there is none."""
        return ((was, now) for was, now in zip_longest(self.was, self.now) if was != now)

    @property
    def is_equal(self) -> bool:
        return self.was == self.now

    def otherwise(self) -> tuple[Counter[str], Counter[str]]:
        """Count by kind and name what was done then only, and what is done now only."""
        was, now = (Counter(_name(event) for event in events) for events in (self.was, self.now))
        return was - now, now - was


def _name(event: Event) -> str:
    if event.kind == "Observed":
        return f"Observed {event.data.get('act')}"
    named = event.data.get("rule") or (event.data.get("kind") if event.kind == "Reserved" else None)
    return f"{event.kind} {named}" if named else event.kind


async def play_run(
    place: Path | Shared,
    run: Run,
    made: Made,
    *,
    limits: Limits,
    sender: SenderParams,
    until: Block | None = None,
    reloads: bool = True,
) -> Played:
    """Play one run of a journal, up to a block if one is given; raise ConfigError where that cannot be.

    The sender takes what it asks, and signs, from the tape; ``made`` gets it with the journal to write to.
    Limits that were read anew then are so again, unless it is played by others (``reloads``).
    """
    with (
        closing(JournalReader(place)) as reader,
        tempfile.TemporaryDirectory(prefix="keeper-replay-") as folder,
    ):
        reels: list[Reel] = []
        signed = reader.signed()
        deck = Deck(_wound(reader, run, reels), signed)
        before = Path(folder) / "journal.sqlite"
        wallet = TapedWallet(deck.chance) if run.started.get("shares_wallet") else None
        with closing(rewound(reader, run, before, limits, wallet)) as journal:
            journal.go_by(
                deck.standing if reloads else lambda found: replace(deck.standing(found), limits=None)
            )
            book = reader.book(run)
            if not reader.has_book(run):
                raise ConfigError(f"run {run.run}: its book is not beside {reader.path}: {book}")
            await _played(deck, journal, run, made, book, sender, until)
            now = journal.events_after(run.events)
        last = reels[-1].events if reels else run.events
        following = next((each.events for each in reader.runs() if each.run > run.run), None)
        has_ended = bool(run.started.get("ended"))
        if has_ended and following is None:
            following = 2**62
        if until is not None:
            last = max((reel.events for reel in reels if reel.number <= until), default=run.events)
        was = reader.events(run.events, last)
        blocks = (reels[0].number, reels[-1].number) if reels else None
        cut = len(reader.events(last, following)) if following is not None and until is None else 0
    return Played(
        run.run,
        blocks,
        deck.heads,
        list(map(Event.of, was)),
        list(map(Event.of, now)),
        deck.beyond,
        deck.unasked,
        cut,
        has_ended,
    )


def _wound(reader: JournalReader, run: Run, reels: list[Reel]) -> Iterator[list[Record]]:
    """Yield the records of a run, and remember what they came with."""
    for reel in reader.tape(run.run):
        yield reel.records
        reels.append(Reel(reel.seq, reel.number, reel.at_s, reel.events, []))


def rewound(
    reader: JournalReader,
    run: Run,
    target: Path,
    limits: Limits | None = None,
    wallet: Wallet | None = None,
) -> SqliteJournal:
    """Open a new journal that stands where another one stood when a run began."""
    identity = {key: value for key, value in reader.identity.items() if key != "schema"}
    SqliteJournal(target, identity=identity).close()
    with tempfile.TemporaryDirectory(prefix="keeper-then-") as folder:
        source = reader.as_file(Path(folder) / "journal.sqlite")
        runs.rewind(source, target, run, _found(reader, run))
    # What its switches said then is on the tape.
    unhalted = replace(limits or Limits(), kill_file=None)
    return SqliteJournal(target, identity=identity, limits=unhalted, durable=False, wallet=wallet)


def _found(reader: JournalReader, run: Run) -> Iterator[AccountKey]:
    """Yield the accounts that the run took from the journal: what it noted before its first head."""
    for reel in reader.tape(run.run):
        for record in reel.records:
            if record[0] == "found":
                yield from map(bytes.fromhex, record[1])
            elif record[0] == "head":
                return


async def _played(
    deck: Deck,
    journal: SqliteJournal,
    run: Run,
    made: Made,
    book: Path | None,
    sender: SenderParams,
    until: Block | None,
) -> Pipeline[Any] | None:
    wallet = _Wallet(run.started["wallet"], deck, at_once=bool(run.started.get("signs_at_once")))
    away = ChainSender(
        deck.rpc, journal, wallet, chain_id=run.started["chain_id"], params=sender, relay=deck.rpc
    )

    async def build(deck: Deck) -> Pipeline[Any]:
        return await made(deck, journal, away, book)

    def is_after(update: BlockUpdate) -> bool:
        return until is not None and update.head.number > until

    return await deck.play(build, is_after)


class _Wallet:
    """Signs what was signed then, without a key."""

    fault: str | None = None

    def __init__(self, address: str, deck: Deck, *, at_once: bool) -> None:
        self.address = address
        self.sign = deck.sign
        self.at_once = deck.signed_then if at_once else None


def playable(reader: JournalReader) -> list[Run]:
    """Return the runs whose tape is whole from the start; raise ConfigError where there is none."""
    found = [run for run in reader.runs() if not run.started.get("cut")]
    taped = [run for run in found if next(reader.tape(run.run), None) is not None]
    if not taped:
        raise ConfigError(
            f"the journal {reader.place} has no tape that begins with a start: it was written without"
            " [journal] tape, or what is left begins in the middle of a run"
        )
    return taped
