"""What the pipeline asks of whoever decides for one kind of protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from keeper.columns.snapshot import Snapshot
from keeper.domain import (
    Agree,
    Booking,
    Call,
    ChainTime,
    Log,
    Posture,
    Quote,
    Record,
    Refuse,
    Seen,
    Step,
    Unknown,
    Wait,
    Witnesses,
)
from keeper.errors import ConfigError
from keeper.ports import Market
from keeper.remedies import Remedy
from keeper.risk.marks import Marks
from keeper.state.book import Book
from keeper.units import AccountKey, FeedId, UnixS, Wad, Wei

MarketT_contra = TypeVar("MarketT_contra", bound=Market[Any, Any], contravariant=True)
Sitting = TypeVar("Sitting")
"""All that decisions of one head rest on."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """The case of an account, as it stands when the account is judged."""

    case_id: str
    suspected: bool
    """Whether the fast trigger suspects it at these prices."""
    since: ChainTime
    """The head of its first suspicion since its owner was called last; without one, that of its beginning."""
    agreed: bool = False
    """Whether something was done for it with an agreement: then it was no false alarm, and does not end."""
    first: Seen | None = None
    """When it was first suspected, and how healthy it was; None where it is only now."""
    closed: Seen | None = None
    """When the keeper last did what should have ended its breach; its best health before that, of an hour."""
    shown: ChainTime | None = None
    """Since which head the protocol's own prices have shown its breach, at all that were judged; None where
    they did not at the last."""


@dataclass(frozen=True, slots=True)
class Judgement(Generic[Sitting]):
    """What is to be done about one account now, and what that follows from."""

    phase: str
    health: float | None
    """For people; decisions never use it."""
    cared: bool
    """Whether it needs a case."""
    state: str
    """Changes when the same act on the account is another one: a dry run says each once."""
    decision: tuple[Step, ...] | Wait | Refuse | None
    """Several steps are sizes or routes of one act: all are simulated, and ``Desk.pick`` takes one."""
    agreed: Agree | None
    """What both clocks said, where the step needs it."""
    left: Sitting
    """What the next step of the same block finds."""
    markets: tuple[str, ...] = ()
    """What its alarm is counted for: its feeds, and the protocol's own market where that has several."""
    solvent: bool = True
    """Whether its equity covers what it owes."""
    shown: bool = False
    """Whether the protocol's own prices show a breach."""


@dataclass(frozen=True, slots=True)
class MarginCall:
    """How far an account is below its buffer, and what brings that back, each by itself."""

    health: float | None
    """For people."""
    buffer_wad: Wad
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """A step as it went in a simulation of its block: what the contract returned, or why it would not."""

    step: Step
    call: Call
    result: bytes | Wait | Refuse


def expect_all(feeds: Collection[FeedId], native: FeedId, served: Collection[FeedId]) -> None:
    """Raise ConfigError where gas is valued by none of some feeds, or one of them has no fast price."""
    if native not in feeds:
        known = ", ".join(sorted(feeds))
        raise ConfigError(f"economics.native_feed {native} is not a feed of the deployment: {known}")
    if unserved := sorted(set(feeds) - set(served)):
        raise ConfigError(f"the price source has no entry for {', '.join(unserved)}")


def expect_depths(known: Collection[str], depths: Collection[FeedId]) -> None:
    """Raise ConfigError where a depth is of nothing that the keeper could take over."""
    if strange := sorted(set(depths) - set(known)):
        found = ", ".join(sorted(known))
        raise ConfigError(f"depth: {', '.join(strange)} is nothing that the deployment lists: {found}")


class Desk(Protocol[MarketT_contra, Sitting]):
    """Decides for the keeper on one deployment; the market it is given is the listing of the moment."""

    @property
    def own(self) -> Sequence[AccountKey]:
        """Return the accounts that it acts with; they are read at every head."""
        ...

    def expect(self, market: MarketT_contra, served: Collection[FeedId]) -> None:
        """Raise ConfigError where deployment or source of prices lack what the desk relies on."""
        ...

    def calls(self, market: MarketT_contra) -> list[Call]:
        """Build the reads of what the wallet has to act with, beside its accounts."""
        ...

    def decode(self, market: MarketT_contra, answers: Sequence[bytes]) -> Any:
        """Decode their answers; raise ChainFault where they are none."""
        ...

    def lacking(self, book: Book[Any], funds: Any) -> list[str]:
        """Name what there is nothing of to act with."""
        ...

    def sit(
        self,
        market: MarketT_contra,
        book: Book[Any],
        world: Any,
        funds: Any,
        *,
        quotes: Mapping[FeedId, Quote | Unknown],
        gas_price_wei: Wei,
        at: ChainTime,
        posture: Posture,
        witnesses: Witnesses,
        record: Record,
    ) -> Sitting:
        """Put together what decisions of one head rest on, for steps in block ``at``.

        Raises ChainFault where something that all of them need is not known.
        """
        ...

    def carry(self, left: Sitting, sitting: Sitting) -> Sitting:
        """Return a later sitting of the same head with no more means than an earlier one left."""
        ...

    def under_care(
        self,
        sitting: Sitting,
        snapshot: Snapshot,
        suspects: Mapping[AccountKey, str],
        cases: Mapping[AccountKey, ChainTime],
    ) -> Sequence[AccountKey]:
        """List the accounts to be judged, each once and the most urgent first: suspects come worst first.

        ``cases`` are those under care, each with the head at which that began.
        """
        ...

    def judge(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> Judgement[Sitting] | Unknown:
        """Judge one account by exact integers; plan a step where one is due."""
        ...

    def marks(
        self, market: MarketT_contra, world: Any, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS
    ) -> Marks:
        """Mark the columns at the fast prices alone: how far they have to move is asked of one clock.

        A market's own marks are those of the worse clock, wherever the chain has a price of its own: who is
        long and short of one feed would look near to a breach whichever way that moves.
        """
        ...

    def is_own(self, account: AccountKey) -> bool:
        """Tell whether an account is the keeper's: a tick raises no alarm for it."""
        ...

    def call(self, sitting: Sitting, account: AccountKey, buffer_wad: Wad) -> MarginCall | None:
        """Say what would bring an account's health up to a buffer; None where it is, or is not known.

        By the exact integers of what the protocol judges it by, at the prices of a breach.
        """
        ...

    def divergence(
        self, market: MarketT_contra, world: Any, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> float | None:
        """Return how far the fast price is from the chain's at most, as a share; None where there is none."""
        ...

    def ready(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> tuple[Step, ...]:
        """Return the steps that would be due at once, were the account in breach at the fast price too.

        None where anything else stands in the way.
        """
        ...

    def booked(self, market: MarketT_contra, world: Any, logs: Sequence[Log]) -> Booking:
        """Say what one of the wallet's transactions moved, by its logs, and what that is worth in a world."""
        ...

    def parted(
        self, market: MarketT_contra, book: Book[Any], funds: Any, held: Sequence[FeedId]
    ) -> Sequence[FeedId]:
        """Return those of some markets that were taken over of which the keeper has nothing any more.

        By its own account or its balances of the same head; what is not known of those it keeps.
        """
        ...

    def native_price_wad(
        self, market: MarketT_contra, world: Any, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> Wad | Unknown:
        """Return the price by which steps value the gas that they take."""
        ...

    def vouches(self, tried: Tried, step: Step) -> bool:
        """Tell whether what a simulation showed holds for a step, so that it may go without one of its own.

        Only where all that the contract reads of its calldata is the same, or is known to change nothing.
        """
        ...

    def pick(self, sitting: Sitting, tried: Sequence[Tried]) -> Tried:
        """Choose among the steps of one decision, simulated all; what did not go through is not sent.

        ``sitting`` is what the decision left.
        """
        ...
