"""The shapes of the parts with I/O, and of a protocol adapter: what the pipeline asks of each.

One to a few methods each, so that a second implementation (a replay, a test, another venue) is small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from keeper.columns.shape import Row, RowT_co, Shape
from keeper.domain import (
    Account,
    Act,
    Agree,
    Announced,
    Assessment,
    Booking,
    Bundle,
    Call,
    CaseEvent,
    ChainTime,
    EventKind,
    Fact,
    FeedView,
    Fees,
    Head,
    Level,
    Log,
    OracleView,
    Permit,
    Quote,
    Reason,
    Record,
    Refuse,
    Rival,
    Seen,
    Step,
    Unknown,
    Valuation,
    Wait,
)
from keeper.lending.words import Close, Sight, Standing, Sweep, Way
from keeper.lifecycle import Status
from keeper.remedies import Health, Mend
from keeper.risk.inputs import Floats
from keeper.risk.marks import Marks
from keeper.units import WAD, AccountKey, Block, FeedId, UnixS, Wad, Wei

Found = TypeVar("Found")
Drawn = TypeVar("Drawn", int, float | None, list[Any])


class Feed(Protocol):
    """A source of fast prices: a live stream, a recording, a generated path."""

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        """Return, for every feed served, the newest quote not from after ``now_s``, or why there is none."""
        ...


@runtime_checkable
class LiveFeed(Feed, Protocol):
    """A feed whose prices move between the heads too."""

    def listening(self) -> AbstractAsyncContextManager[None]:
        """Hear prices for as long as the context is open."""
        ...

    async def tick(self) -> int:
        """Wait until a price has moved since the last call; return the ``time.monotonic_ns`` of its arrival.

        What moves meanwhile coalesces: one call answers for all of it, by the arrival of the first.
        """
        ...


class Reports(Protocol):
    """What reporters sign, for whoever posts it with an act."""

    def bundles(self, oracles: Mapping[FeedId, FeedView], at: ChainTime) -> Mapping[FeedId, Bundle]:
        """Return the newest bundle of every feed that block ``at`` would take, and that is not posted yet."""
        ...


@dataclass(frozen=True, slots=True)
class BlockUpdate:
    """A new canonical head: what it orphaned, newest first, what it adopted, oldest first, and its logs."""

    head: Head
    orphaned: tuple[Head, ...]
    adopted: tuple[Head, ...]
    logs: tuple[Log, ...]
    heard_ns: int = field(default=0, compare=False)
    """``time.monotonic_ns`` when the head was heard of: where latencies are counted from."""


@dataclass(frozen=True, slots=True)
class Range:
    """Blocks that were searched: the last of them, and the logs of all, in order."""

    last: Block
    last_hash: str
    logs: tuple[Log, ...]


class Reader(Protocol):
    """Reads the chain. Every answer belongs to the block it was asked at."""

    def updates(self) -> AsyncIterator[BlockUpdate]:
        """Yield one update per new head, with missed heads filled and reorgs resolved by parent hash."""
        ...

    def watch(self, addresses: Sequence[str]) -> None:
        """Deliver the logs of these contracts from the next head on."""
        ...

    def search(self, first: Block, last: Block) -> AsyncIterator[Range]:
        """Yield the logs of a range of blocks, both ends included, piece by piece and in order."""
        ...

    async def hash_at(self, number: Block) -> str | None:
        """Return the hash of a block of the chain, None where it has none of that number yet."""
        ...

    async def call(self, call: Call, at_hash: str) -> bytes:
        """Run ``eth_call`` pinned to a block hash."""
        ...

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        """Run several ``eth_call``, all pinned to one block hash."""
        ...

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        """Run a transaction as if it were in block ``at``; a revert comes back as a Refuse with its data."""
        ...

    async def simulate_in_order(
        self, sender: str, calls: Sequence[tuple[Call, int]], at: ChainTime
    ) -> list[bytes | Refuse] | None:
        """Run transactions, each with its gas limit, on top of one another; None where no node does that."""
        ...

    async def rerun(self, sender: str, call: Call, at_hash: str, gas_limit: int) -> bytes | Refuse:
        """Run a transaction again as the last of a block; a revert comes back as from ``simulate``."""
        ...


async def read_through(
    reader: Reader, rounds: Generator[list[Call], list[bytes], Found], at_hash: str
) -> Found:
    """Carry out a reading of several rounds, each of which may need the answers of the one before."""
    try:
        calls = next(rounds)
        while True:
            calls = rounds.send(await reader.call_many(calls, at_hash))
    except StopIteration as found:
        result: Found = found.value
        return result


class World(Protocol):
    """What the chain says at one block of prices and of the protocol as a whole, in the protocol's words."""

    @property
    def version(self) -> int:
        """Return the listing that it belongs to."""
        ...


WorldT = TypeVar("WorldT", bound=World)


class Market(Protocol[RowT_co, WorldT]):
    """One deployment of one protocol: pure codecs and exact mathematics, no I/O."""

    @property
    def shape(self) -> Shape[RowT_co]:
        """Return of what its accounts are made, with a column for every instrument listed."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the contracts whose logs it decodes."""
        ...

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Return every feed of an instrument, each once."""
        ...

    @property
    def version(self) -> int:
        """Return the ``World.version`` at which the listing was read; another one makes it out of date."""
        ...

    @property
    def drifts(self) -> bool:
        """Tell whether accounts change with time alone: then who is judged is read again just before."""
        ...

    def refresh(self) -> Generator[list[Call], list[bytes], Self]:
        """Find out the listing anew: yields the calls of each round, is sent the answers of one block."""
        ...

    def rows_call(self, accounts: Sequence[AccountKey]) -> Call:
        """Build the bulk read of accounts, whose answer the shape decodes."""
        ...

    def prices_call(self) -> Call:
        """Build the read of all prices, and of what the protocol says of itself."""
        ...

    def decode_prices(self, answer: bytes) -> WorldT:
        """Decode its answer; raise ChainFault where it is not one."""
        ...

    def marks(self, world: WorldT, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Marks:
        """Mark the columns of its book at the fast prices, on the terms of ``at_s``."""
        ...

    def worths(self, world: WorldT, quotes: Mapping[FeedId, Quote | Unknown], at_s: UnixS) -> Floats:
        """Return what one unit of each column is worth in quote at some prices, below 0 of a debt.

        [i], or [k, i] by class, as ``Marks.value`` without what that holds back; NaN without a price.
        """
        ...

    def spots(self, world: WorldT) -> Mapping[FeedId, Wad]:
        """Return what the protocol's own oracle says of each feed, in the order of their names."""
        ...

    def decode(self, log: Log) -> Fact | None:
        """Say what a log of this deployment means; None for one that concerns no one."""
        ...

    def encode(self, act: Act) -> Call:
        """Build the calldata of an act."""
        ...

    def explain(self, reverted: Refuse) -> Refuse:
        """Put the name of the protocol's own error in the place of raw revert data."""
        ...


class SlopeMarket(Market[Account, OracleView], Protocol):
    """What HybridMargin's desk and its plans ask besides, in the contract's own integers."""

    @property
    def market_count(self) -> int:
        """Return how many columns of its book are markets; they come first, market 1 at their head."""
        ...

    def feeds_of(self, account: Account) -> tuple[FeedId, ...]:
        """Return every feed that an account's margin hangs on, each once."""
        ...

    def posted(self, oracles: OracleView, bundles: Mapping[FeedId, Bundle], at: ChainTime) -> OracleView:
        """Return what the chain says of prices once bundles were posted in block ``at``."""
        ...

    def mends(self, account: Account, oracles: OracleView, at: ChainTime) -> tuple[Mend, ...] | Unknown:
        """Return what its owner can do about a call: deposits, and a reduction of every position alike."""
        ...

    def measured(self, account: Account, oracles: OracleView, at: ChainTime) -> Health:
        """Return how its health is measured: equity, and its level of what the fast price requires."""
        ...

    def gained(self, logs: Sequence[Log], own: Collection[str]) -> Counter[str]:
        """Return what a transaction brought some owners, by what their accounts with the protocol say."""
        ...

    def sliced_wad(self, logs: Sequence[Log], own: Collection[str]) -> Wad | None:
        """Return the notional that some owners took over in slices, by the contract; None without any."""
        ...

    def worth_wad(self, what: str, amount: int, world: OracleView) -> Wad | Unknown:
        """Return what an amount of it, not below 0, is worth in quote, rounded down."""
        ...

    def credit_call(self, holder: str) -> Call:
        """Build the read of what a wallet can pay bonds with; the answer is one word, WAD."""
        ...

    def assess(self, account: Account, oracles: OracleView, at: ChainTime) -> Assessment | Unknown:
        """Judge one account by the contract's own integers at the three price vectors."""
        ...

    def preview(
        self, target: Assessment, taker: Account, oracles: OracleView, max_fraction_wad: Wad
    ) -> SlicePreview | Refuse:
        """Compute, to the wei, what one slice would do to the account and to the taker."""
        ...

    def exposures(self, account: Account, oracles: OracleView, at: ChainTime) -> Mapping[FeedId, Wad]:
        """Return what an account's positions come to on each feed, at the fast price; short is below 0.

        Of an option with a risk array, as much as hedges it.
        """
        ...

    def purchase(
        self, account: Account, oracles: OracleView, at: ChainTime, max_quote_wad: Wad
    ) -> Purchase | Refuse:
        """Compute what buying the first collateral of an account that has only debt would bring."""
        ...


class LendingMarket(Market[RowT_co, WorldT], Protocol):
    """What the desk of lending protocols asks besides, in the contract's own integers.

    A loan is a row of its book. A world is what every answer belongs to: its prices, and its time.
    """

    @property
    def untraced(self) -> tuple[str, ...]:
        """Return the prices without a feed, each with the reason: the chain's stands at both clocks."""
        ...

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return every token that may be repaid or seized."""
        ...

    @property
    def receipts(self) -> Mapping[str, str]:
        """Return what is seized in the place of tokens, and the token that each is redeemed for."""
        ...

    @property
    def spending(self) -> tuple[tuple[str, str], ...]:
        """Return every token that may be repaid, with whoever takes it from the caller."""
        ...

    def market_of(self, loan: Any) -> str:
        """Return the market that an account is in, where the protocol keeps several apart; else nothing."""
        ...

    def carried(self, world: WorldT, at: ChainTime) -> WorldT:
        """Return the world as it will be in block ``at`` if nobody acts: interest has grown till then."""
        ...

    def fast(self, world: WorldT, quotes: Mapping[FeedId, Quote | Unknown]) -> WorldT:
        """Return the world at the fast prices: each price times fast quote over the feed's newest answer.

        Where a feed is not known, or has no fast price, the protocol's own price stays.
        """
        ...

    def sights(self, loan: Any, world: WorldT, quotes: Mapping[FeedId, Quote | Unknown]) -> tuple[Sight, ...]:
        """Return what both clocks say of the feeds that an account hangs on, as far as they are known."""
        ...

    def unseen(self, loan: Any, world: WorldT) -> tuple[str, ...]:
        """Name the prices that an account hangs on and no sight tells of: no known feed of them answers."""
        ...

    def stand(self, loan: Any, world: WorldT) -> Standing | Unknown:
        """Return how an account stands, equal to the contract's own view of the same prices and time."""
        ...

    def ways(self, loan: Any, world: WorldT) -> tuple[Way, ...]:
        """Return the ways that the protocol accepts, the one that takes least of the owner first."""
        ...

    def most(self, loan: Any, way: Way, world: WorldT) -> int:
        """Return the most of the debt that one closing can repay, 0 where it takes none."""
        ...

    def close(self, loan: Any, way: Way, amount: int, world: WorldT) -> Close | Refuse:
        """Return what repaying at most so much of the debt does, or the contract's own refusal."""
        ...

    def sweep(self, loan: Any, world: WorldT) -> Sweep | None:
        """Return the act that closes an account whole, where the protocol has one and asks for it."""
        ...

    def mends(self, loan: Any, world: WorldT) -> tuple[Mend, ...]:
        """Return what its owner can do: more of each collateral that it has, less of each debt."""
        ...

    def worth_wad(self, token: str, amount: int, world: WorldT) -> Wad | Unknown:
        """Return what an amount of a token, or of a receipt, is worth in quote, rounded down."""
        ...


class PerpMarket(Market[RowT_co, WorldT], Protocol):
    """What the desk of Perpetual asks besides, in the contract's own integers.

    An account is a row of its book. A world is what every answer belongs to.
    """

    @property
    def untraced(self) -> tuple[str, ...]:
        """Return the markets without a feed, each with the reason: the chain's mark stands at both clocks."""
        ...

    def fast(self, world: WorldT, quotes: Mapping[FeedId, Quote | Unknown]) -> WorldT:
        """Return the world with every mark as it would be were the index at the fast price."""
        ...

    def sights(
        self, account: Any, world: WorldT, quotes: Mapping[FeedId, Quote | Unknown]
    ) -> tuple[Sight, ...]:
        """Return what both clocks say of the feeds that an account hangs on, as far as they are known."""
        ...

    def unseen(self, account: Any, world: WorldT) -> tuple[str, ...]:
        """Name the prices that an account hangs on and no sight tells of: no feed of them is known."""
        ...

    def gained(self, logs: Sequence[Log], own: Collection[str]) -> Counter[str]:
        """Return what a transaction brought some owners, by what their accounts with the protocol say."""
        ...

    def worth_wad(self, what: str, amount: int, world: WorldT) -> Wad | Unknown:
        """Return what an amount of it, not below 0, is worth in quote, rounded down."""
        ...

    def index_wad(self, feed: FeedId, world: WorldT) -> Wad | None:
        """Return the price of a feed as the protocol has it; None where no market has one now."""
        ...

    def stand(self, account: Any, world: WorldT) -> Margin | Unknown:
        """Return how an account stands, equal to the contract's own view of the same block."""
        ...

    def free_wad(self, account: Any, world: WorldT) -> Wad | Unknown:
        """Return what an account has beyond its initial margin; below 0 it may take nothing over."""
        ...

    def mends(self, account: Any, world: WorldT) -> tuple[Mend, ...]:
        """Return what its owner can do about a call: a deposit, and less of each position."""
        ...

    def offers(self, account: Any, world: WorldT) -> tuple[Offer, ...]:
        """Return what may be taken over of each position now, the largest worth first."""
        ...

    def take_over(self, account: Any, offer: Offer, size_wad: Wad, world: WorldT) -> Takeover | Refuse:
        """Return what taking over a size does, 0 meaning the most, or the contract's own refusal."""
        ...

    @property
    def markets(self) -> tuple[str, ...]:
        """Return the virtual tokens of its markets."""
        ...

    def size_wad(self, account: Any, market: str) -> Wad:
        """Return the size of an account's position in a market, with its sign; 0 where it has none."""
        ...

    def taken(self, taker: Any, takeover: Takeover) -> Any:
        """Return the account of whoever takes over, as it is afterwards."""
        ...

    def margin_wad(self, takeover: Takeover, world: WorldT) -> Wad:
        """Return what an empty account has to deposit so that it may take over."""
        ...

    def unit_wad(self, world: WorldT) -> Wad:
        """Return the worth of a unit of the token that deposits are made in."""
        ...


@dataclass(frozen=True, slots=True)
class Margin:
    """What an account is worth, and what it must be worth at least."""

    value_wad: Wad
    required_wad: Wad

    def covers(self, level_wad: Wad = WAD) -> bool:
        """Tell whether value >= level x requirement, exactly."""
        return self.value_wad * WAD >= level_wad * self.required_wad


@dataclass(frozen=True, slots=True)
class Offer:
    """A position that may be taken over, and how much of it at once, with its sign."""

    market: str
    most_wad: Wad


@dataclass(frozen=True, slots=True)
class Takeover:
    """What one takeover moves, at the mark, and how it leaves the account."""

    market: str
    size_wad: Wad
    notional_wad: Wad
    """With the sign of the size."""
    reward_wad: Wad
    """What the taker pays less than that."""
    margin: Margin


@dataclass(frozen=True, slots=True)
class Purchase:
    """Collateral bought at the sale discount: ``amount`` for ``paid``, worth ``mark`` more at p_F."""

    collateral: int
    amount_wad: Wad
    paid_wad: Wad
    mark_wad: Wad


@dataclass(frozen=True, slots=True)
class SlicePreview:
    """What the contract would do in one slice, in its own integers."""

    fraction_wad: Wad
    notional_wad: Wad
    taker_fee_wad: Wad
    taker_mark_wad: Wad
    """What the slice is worth to the taker at the fast price over what it pays; negative is adverse."""
    taker_after: Account
    taker_passes: bool
    """Whether the taker meets its initial margin at both oracles afterwards."""
    oracles_after: OracleView
    """What the next slice of the same block finds: buckets filled, insurance drawn."""
    before: Valuation = field(default_factory=lambda: Valuation(0, 0, 0))
    after: Valuation = field(default_factory=lambda: Valuation(0, 0, 0))
    """The account at the execution price, and as the slice leaves it."""
    takes: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What the taker then has more of each feed, at the execution price; below 0 where it is short."""


@dataclass(frozen=True, slots=True)
class Case:
    """One account under care, as the journal holds it; the status is the fold of its history."""

    case_id: str
    account: AccountKey
    status: Status
    opened_block: Block
    opened_at_s: UnixS
    suspected: ChainTime | None = None
    """The first suspicion since the last margin call, if there was one."""
    rung: str | None = None
    """The last rung above suspicion that the chain showed since then."""
    agreed: bool = False
    """Whether something was reserved with an agreement since the last margin call."""


@dataclass(frozen=True, slots=True)
class Searched:
    """The blocks whose events were looked through for accounts, both ends included."""

    first: Block
    last: Block
    last_hash: str
    scope: str = ""
    """Which markets' events these were, where only some are kept; empty also where that was not noted yet."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people should hear of."""

    about: str
    """Whom or what: of one thing the same rung is told once, until it has left it."""
    rung: str
    """What it has come to: a rung, a level, a state."""
    text: str
    recovered: bool = False
    """It is well again: told only where it was told that it was not."""


class Switch(StrEnum):
    """What stops the wallet, whole or in part, or is thrown to say something."""

    HALT = "halt"
    PAUSE = "pause"
    """Of one market."""
    REVERTS = "reverts"
    DRIFT = "drift"
    JUMP = "jump"
    DIVERGENCE = "divergence"
    FOREIGN = "foreign"
    """Another program uses the wallet's key."""
    SOLD = "sold"
    """What was taken over of a market up to then has been sold."""
    LIMITS = "limits"
    """Other limits hold from then on."""


BREAKERS = (Switch.REVERTS, Switch.DRIFT, Switch.JUMP, Switch.DIVERGENCE)
"""Those that rules trip, and that close by themselves in time."""


@dataclass(frozen=True, slots=True)
class Thrown:
    """A switch as it was thrown."""

    switch: Switch
    subject: str
    """The market or feed that it is of; empty where it is of all."""
    who: str
    why: str
    at_s: UnixS
    """Chain time of the head that was done last."""
    until_s: UnixS | None = None
    """When it closes by itself."""
    mark: int = 0
    """Of what was sold: the last stake that is part of it."""

    @property
    def name(self) -> str:
        """The switch with its subject."""
        return f"{self.switch} {self.subject}".rstrip()

    @property
    def told(self) -> str:
        """Who threw it, and why."""
        return f"by {self.who}: {self.why}" if self.why else f"by {self.who}"

    def holds(self, at_s: UnixS) -> bool:
        """Tell whether it has not closed by itself yet."""
        return self.until_s is None or at_s < self.until_s


@dataclass(frozen=True, slots=True)
class Measure:
    """How much of a limit is used."""

    limit: str
    subject: str
    """The market; empty where it is of all."""
    used: float
    """By all journals of the wallet."""
    bound: float | None
    """None where it is not bounded."""
    unit: str
    own: float
    """What this journal alone has used of it."""


class Mempool(Protocol):
    """What is on its way into the next block, as far as it moves prices."""

    def announced(self) -> AsyncGenerator[Announced, None]:
        """Yield each transaction to an oracle once, as a node announces it."""
        ...

    async def behind(
        self, before: Sequence[Announced], call: Call, at: ChainTime, sender: str, gas_limit: int
    ) -> bytes | Refuse:
        """Run a transaction in block ``at`` right behind others that are announced.

        A revert of it comes back as of ``Reader.simulate``; ChainFault where one of the others reverts.
        """
        ...


class Alerts(Protocol):
    """Whoever tells people; it never holds anybody up, and never fails."""

    def tell(self, notice: Notice) -> None:
        """Take a notice, to be told when and if its bounds allow it."""
        ...


class Journal(Protocol):
    """The case history, and the one door to the wallet."""

    def together(self, *, lasting: bool = True) -> AbstractContextManager[None]:
        """Commit all that is written inside at once, or nothing of it.

        A Permit counts only after the block is left: before that it is not committed.

        What need not be ``lasting`` is committed without waiting for the disk. Others see it, no kill undoes
        it, and the next commit that lasts takes it along, for nothing is on disk before what was committed
        before it. Until then the power may take it, with all that came after. So may be written what a start
        makes good: a suspicion, which its first head has again; a permit, for nothing leaves the keeper
        before ``Outbox.sign``, which always lasts; and that bytes were sent, for a start sends all bytes
        again of which it does not know how they ended.
        """
        ...

    def record(self, events: Sequence[CaseEvent]) -> None:
        """Append events in one transaction; raise InvariantBroken where the lifecycle forbids one.

        It does not last by itself: whoever lost them with the power finds the same again, or what is so now.
        Not for the events of a transaction: these belong to ``reserve`` and to the ``Outbox``. A decision
        (Waited, Refused) carries the ``rule``, ``evidence`` and ``bound`` of its Reason in ``data``.
        """
        ...

    def open_cases(self) -> tuple[Case, ...]:
        """Return every case that is not closed, oldest first: what a start takes up again."""
        ...

    def history(self, case_id: str) -> tuple[CaseEvent, ...]:
        """Return the events of a case in the order they were recorded."""
        ...

    def alarms(self, last: int) -> tuple[CaseEvent, ...]:
        """Return what began, agreed to, tripped and ended the newest cases, and those that are open."""
        ...

    def alarm(self, case_id: str) -> Seen | None:
        """Return when a case was first suspected, and how healthy its account was; None if not told."""
        ...

    def closed_since(self, at_s: UnixS) -> Mapping[AccountKey, Seen]:
        """Return whom included steps should have restored since: when last, and the best health before."""
        ...

    def record_at(self, at_s: UnixS) -> Record:
        """Return what the steps so far mean for the next one.

        That is how likely each kind is to do what it should, by the last fifty of it and ten presumed, nine
        of which did; and what was taken of each feed within a minute. A batch that reverted whole counts as
        one step.
        """
        ...

    def failed_whole(self, account: AccountKey) -> bool:
        """Tell whether an account's last transaction reverted as a whole, and no race was lost by it."""
        ...

    def last_event(self) -> int:
        """Return the number of the newest event, 0 where there is none."""
        ...

    def moved_since(self, event: int) -> Mapping[AccountKey, Case | None]:
        """Return the newest open case, if any, of each account whose case a later event has moved."""
        ...

    def reserve(
        self,
        step: Step,
        tx: Mapping[str, Any],
        *,
        agreed: Agree | None = None,
        markets: Iterable[str] = (),
        balance_wei: Wei | None = None,
        chain_nonce: int,
        block: Block,
        at_s: UnixS,
        data_fee_wei: Wei = 0,
        joins: Permit | None = None,
    ) -> Permit | Refuse:
        """Check every limit and commit the whole unsigned transaction; only then grant the Permit.

        What takes of an account needs ``agreed``, which goes into the same event as the step. ``markets``
        are those that the account hangs on, ``balance_wei`` is the wallet's at the newest head.
        ``chain_nonce`` is the wallet's next nonce as the chain has it; the journal gives out the lowest
        one from there up that none of its own transactions holds. ``data_fee_wei`` is the most that the
        transaction may cost besides its gas.

        A step that ``joins`` goes in the transaction of another, which is not signed yet: ``tx`` then takes
        the place of that one, and holds the acts of both. It is held to every limit as any other step, with
        what it adds to the cost, and takes no nonce.
        """
        ...

    def holding(self) -> tuple[FeedId, ...]:
        """Return the markets of which something was taken over and is not sold, with nothing in flight."""
        ...

    def note_sold(self, market: FeedId, why: str, *, at_s: UnixS) -> None:
        """Keep that all that was taken over of a market up to now has been sold, as a head shows."""
        ...

    def unsell(self, since_s: UnixS) -> None:
        """Take back what was so noted at heads from a time on; what an operator has said stays."""
        ...

    def watch(self, figures: Mapping[tuple[Switch, str], float], at_s: UnixS) -> tuple[Thrown, ...]:
        """Trip the breakers whose figure is at its bound; return what stops the wallet, whole or in part.

        Figures are by breaker and by what it is of; those that follow from the journal itself it adds.
        """
        ...

    def outcomes_since(self, at_s: UnixS, most: int) -> list[bool]:
        """Return of the newest own steps mined since then that take something over, whether each did."""
        ...

    def note_level(self, head: Head, level: Level, why: str, signs: Mapping[str, float]) -> None:
        """Keep that the book has come to another level at a head, and by which signs."""
        ...

    def level(self) -> Level:
        """Return the level that the book came to last."""
        ...

    def head_done(self, head: Head) -> None:
        """Note that everything the keeper had to do at a head is done."""
        ...

    def rest(self) -> None:
        """Do now what a later commit would have to, and an act would wait for; from any thread.

        Writers go on meanwhile.
        """
        ...

    def rehearse(self, step: Step, *, chain_nonce: int, block: Block, at_s: UnixS) -> int | None:
        """Look at what the permit of a step would look at; return the nonce that it would get, if seen.

        Nothing is granted or written, and nobody is waited for. What was seen a permit need not look at
        again, as long as nobody writes anything by which it would be otherwise.
        """
        ...

    def keep_book(self, book: Path, block: Block) -> None:
        """Keep a book as it lies on disk, read at the block that was done last, where there is a tape."""
        ...

    def last_head(self) -> Head | None:
        """Return the head that was done last; None in a new journal."""
        ...

    def note_found(self, accounts: Iterable[AccountKey], searched: Searched | None) -> None:
        """Keep accounts that events named, and up to where they were looked for, in one transaction."""
        ...

    def found(self) -> Iterator[list[AccountKey]]:
        """Yield every account that was ever found, many at a time."""
        ...

    def searched(self) -> Searched | None:
        """Return where the search stands; None where it has not begun."""
        ...

    def note_difference(self, head: Head, mirror: Row, chain: Row) -> None:
        """Keep both values of an account that the mirror had otherwise than the chain at a head."""
        ...

    def note_healed(self) -> None:
        """Note that since the last difference every account was found as the chain has it."""
        ...

    def unhealed(self) -> int:
        """Return how many differences came after that."""
        ...


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads of several keepers that share a journal, as one of them saw it last."""

    leads: bool
    """Whether that is this keeper."""
    holder: str
    lease: int
    """The number of the lease, one more with every leader."""
    left_s: float
    """Until it ends, if it is not renewed."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, every time that it was done."""

    within: Mapping[float, int]
    """How often it took no longer than so many seconds."""
    count: int
    total_s: float
    most_s: float


@dataclass(frozen=True, slots=True)
class Ticks:
    """What came of the ticks of prices between the heads."""

    count: int
    coalesced: int
    """Ticks whose suspects joined others that were still waiting to be judged."""
    suspects: int
    """Accounts that were handed over to be judged."""
    late: Spread
    """From a tick's arrival until its suspects were known."""
    scored: Spread
    """What scoring took of that."""
    answered: Spread
    """From the arrival of the first tick until whoever it made suspect was judged, and acted on."""
    ready: int
    """Accounts whose acts are built and simulated."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """How far the accounts nearest to breach are from it, in standard deviations of a day's move."""

    sigmas: float | None
    """Of the nearest that is in none yet; None where no move of one price would breach any."""
    within: Mapping[int, int]
    """How many of those looked at are no further than so many."""


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """What became of the last alarms of one market."""

    ended: int
    false_rate: float | None
    """The share of them that nothing came of; None before the first one has ended."""
    lead_s: float | None
    """From an alarm to its agreement, the median; None where there was none yet."""
    lead_blocks: float | None
    is_slowed: bool
    """Whether so many were false that it is confirmed more cautiously."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What the book would have liquidated, were prices lower, and what the markets there can take."""

    block: Block
    fall: float
    """The further fall of prices, as a fraction."""
    by_feed: Mapping[FeedId, tuple[Wad, Wad]]
    """Of each feed whose depth is known, in quote: the flow, and what a minute takes at its bound."""

    @property
    def worst(self) -> FeedId:
        """Return the feed whose flow is the most times its depth."""
        return max(self.by_feed, key=lambda feed: (self._times(feed), feed))

    @property
    def flow_wad(self) -> Wad:
        """Return the flow on the worst feed."""
        return self.by_feed[self.worst][0]

    @property
    def depth_wad(self) -> Wad:
        """Return its depth."""
        return self.by_feed[self.worst][1]

    @property
    def ratio(self) -> float:
        """Return how many times the depth the flow is there: in so many minutes the market takes it."""
        return self._times(self.worst)

    def _times(self, feed: FeedId) -> float:
        flow_wad, depth_wad = self.by_feed[feed]
        return flow_wad / depth_wad if depth_wad else float("inf") if flow_wad else 0.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a keeper does, for whoever watches it."""

    accounts: int
    dirty: int
    """Accounts to be read at the next head."""
    done: Head | None
    """The head that was done last; None until the first one has begun."""
    mirror_at_s: UnixS | None
    """The time of the head at which the rows were last read, all that were dirty."""
    degraded: str | None
    """Why the mirror is not believed whole; None while it is."""
    checked: int
    differences: int
    """Accounts that were found otherwise on chain, of all that were checked."""
    cases: int
    logs_waiting: int
    """Logs that could not be decoded yet, and facts that are not in the journal yet."""
    facts_waiting: int
    ticks: Ticks | None = None
    """None where prices do not move between the heads."""
    nearest: Nearest | None = None
    """None until it was measured."""
    alarms: Mapping[str, AlarmRecord] = field(default_factory=dict)
    """By feed, and by market where the protocol has several."""
    flow: Flow | None = None
    """None until it was measured, and where no depth is known."""
    rungs: Mapping[str, int] = field(default_factory=dict)
    """Accounts on each rung of their ladder."""
    level: Level = Level.NORMAL
    """Where the book stands on its own,"""
    why: str = ""
    """and why."""
    thrown: tuple[Thrown, ...] = ()
    """What stops the wallet, whole or in part, as of that head."""


class Tape(Protocol):
    """Takes down what decisions depend on and no port has seen; in a replay it says the same again."""

    def note(self, what: str, *values: Any) -> None:
        """Note what began, or was found."""
        ...

    async def mark(self, what: str) -> None:
        """Note that work goes on after a wait of its own, such as for several answers or for a thread."""
        ...

    def chance(self, drawn: Drawn) -> Drawn:
        """Note what was drawn by chance, or is not of the chain; return what counts."""
        ...

    def said(self, what: str, said: Drawn) -> Drawn:
        """Note what a journal says that another keeper may write; return what counts."""
        ...

    async def pack(self) -> None:
        """Make ready for the journal what was noted up to now."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Leave out what is looked at inside: a replay does nothing of it."""
        ...


class Progress(Protocol):
    """Whoever is told how far a long piece of work is."""

    def at(self, done: int, of: int) -> None:
        """Take note that so much of it is done."""
        ...


class StepState(StrEnum):
    """Where the one transaction of a reserved step stands."""

    RESERVED = "reserved"
    SENT = "sent"
    INCLUDED = "included"
    REVERTED = "reverted"
    DISPLACED = "displaced"
    ABANDONED = "abandoned"


LIVE = (StepState.RESERVED, StepState.SENT)
"""The states in which a transaction may still be included: the account takes no other step."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Chain evidence of how a step ended: included, reverted, or displaced by another transaction."""

    kind: EventKind
    block: Block
    block_hash: str
    gas_cost_wei: Wei
    tx_hash: str | None = field(default=None, compare=False)
    """Which of its transactions was included; None where it was displaced by one that is not ours."""
    logs: tuple[Log, ...] = field(default=(), compare=False, repr=False)
    """Of the transaction, where it did what it was for; the journal does not keep them."""
    tx_index: int | None = field(default=None, compare=False)
    """Which transaction of its block; the journal does not keep that either."""
    error: bytes = field(default=b"", compare=False)
    """Of an act of a batch that failed alone: the selector of the contract's error."""
    carried: tuple[Outcome, ...] = field(default=(), compare=False)
    """How the steps ended that the same transaction carries, in their order."""


class BidKind(StrEnum):
    """What one of the transactions does that a step has on its nonce."""

    FIRST = "first"
    """What it was reserved for."""
    RAISE = "raise"
    """The same, at higher fees."""
    CANCEL = "cancel"
    """Nothing: it uses the nonce up."""
    FILL = "fill"
    """Nothing either: it uses up a nonce below the step's own that no other transaction holds."""


@dataclass(frozen=True, slots=True)
class Bid:
    """One of the transactions on the nonce of a step; whichever of them is included excludes the others."""

    number: int
    """1 for the first."""
    kind: BidKind
    block: Block
    """At which it was permitted."""
    unsigned_tx: Mapping[str, Any]
    signed_tx: bytes | None
    tx_hash: str | None

    @property
    def nonce(self) -> int:
        """The nonce of its transaction."""
        return int(self.unsigned_tx["nonce"])


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A reserved step and what became of its transaction, as the journal holds it."""

    step_id: str
    case_id: str
    account: AccountKey
    kind: str
    nonce: int
    state: StepState
    reserved_block: Block
    valid_until_block: Block
    unsigned_tx: Mapping[str, Any]
    signed_tx: bytes | None
    tx_hash: str | None
    outcome: Outcome | None
    bids: tuple[Bid, ...] = ()
    """What was to take its transaction's place, oldest first."""
    fills: tuple[Bid, ...] = ()
    """What uses up nonces below its own, without which it cannot be included, oldest first."""
    place: int = 0
    """Which of the acts of its transaction it is; the first one, 0, has that for its own."""
    carries: tuple[StepRecord, ...] = ()
    """The steps of other accounts that go in its transaction, a batch, in their order.

    They have no bytes and no bids of their own: they go where it goes.
    """
    returned_block: Block | None = None
    """The head at which a reorg put it back into flight; None where none did."""

    @property
    def last(self) -> Bid:
        """Return what was bid last."""
        if self.bids:
            return self.bids[-1]
        sent = self.signed_tx, self.tx_hash
        return Bid(1, BidKind.FIRST, self.reserved_block, self.unsigned_tx, *sent)

    def bid_of(self, tx_hash: str | None) -> Bid | None:
        """Return which of the later bids a transaction is; None where it is none of them."""
        return next((each for each in self.bids if each.tx_hash == tx_hash), None) if tx_hash else None

    @property
    def hashes(self) -> tuple[str, ...]:
        """Return every transaction of it that may be out, oldest first."""
        all_of = (self.tx_hash, *(each.tx_hash for each in self.bids))
        return tuple(each for each in all_of if each is not None)

    @property
    def fill_hashes(self) -> tuple[str, ...]:
        """Return every transaction below it that was to make way for it."""
        return tuple(each.tx_hash for each in self.fills if each.tx_hash is not None)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A step with bytes that were signed in the commit of its permit: they were never out before."""

    step: StepRecord
    """As it was permitted."""
    raw: bytes
    tx_hash: str


class Outbox(Protocol):
    """The part of the journal that a sender keeps: every transaction from its permit to its outcome.

    Each move writes the step and the event of its case in one transaction, and raises InvariantBroken
    where the step does not stand where the move begins.
    """

    def together(self, *, lasting: bool = True) -> AbstractContextManager[None]:
        """Commit all that is written inside at once, or nothing of it; see ``Journal.together``."""
        ...

    def step(self, step_id: str) -> StepRecord:
        """Return one step; raise InvariantBroken where it is not known."""
        ...

    def live_steps(self) -> tuple[StepRecord, ...]:
        """Return the reserved and the sent steps, lowest nonce first."""
        ...

    def last_head(self) -> Head | None:
        """Return the head that was done last; None in a new journal."""
        ...

    def settled_since(self, block: Block) -> tuple[StepRecord, ...]:
        """Return the steps whose outcome is of ``block`` or later, lowest nonce first."""
        ...

    def sign(self, step_id: str, raw: bytes, tx_hash: str, *, bid: int = 1) -> None:
        """Commit the signed bytes, before they are first sent. The same bytes again change nothing.

        They are on disk afterwards, with all that was committed before.
        """
        ...

    def rebid(
        self,
        step_id: str,
        kind: BidKind,
        tx: Mapping[str, Any],
        *,
        balance_wei: Wei | None = None,
        block: Block,
        at_s: UnixS,
        data_fee_wei: Wei = 0,
    ) -> StepRecord | Refuse:
        """Permit another transaction for a step in flight, within the limits: on its nonce, or a fill below.

        The step then counts with the most that any of its transactions may cost, and its fills besides.
        """
        ...

    def drop(self, step_id: str, number: int, reason: Reason, *, block: Block, at_s: UnixS) -> StepRecord:
        """Have a later bid never go out that nobody has signed; return the step as it is without it.

        What the step may cost counts as before.
        """
        ...

    def stopped(self, at_s: UnixS) -> Reason | None:
        """Say why nothing that was not out yet may go out now; None where it may."""
        ...

    def gaps(self, chain_nonce: int, *, block: Block, at_s: UnixS) -> tuple[int, ...]:
        """Return the nonces from the chain's up that nobody holds, below one that a step here holds."""
        ...

    def affordable_wei(self, step_id: str) -> Wei | None:
        """Return the gas price up to which a step pays, None where it was not weighed or never does."""
        ...

    def next_nonce(self) -> int:
        """Return one more than the highest nonce of the wallet that was ever given out; 0 where none was."""
        ...

    def note_foreign(self, evidence: str, *, at_s: UnixS) -> None:
        """Keep that another program uses the wallet's key: nothing new is permitted until that is cleared."""
        ...

    def sent(self, step_id: str, *, block: Block, at_s: UnixS, data: Mapping[str, Any] = ...) -> None:
        """Note that a node was handed the bytes, whatever it answered. Again, it changes nothing."""
        ...

    def abandon(self, step_id: str, reason: Reason, *, block: Block, at_s: UnixS) -> None:
        """End a step whose bytes are certainly nowhere; its nonce is free again."""
        ...

    def settle(
        self,
        step_id: str,
        outcome: Outcome,
        *,
        at_s: UnixS,
        aftermath: Aftermath = ...,
        carried: Sequence[Aftermath] = ...,
    ) -> None:
        """Note how a sent transaction ended, and what is said of it, and of each step it carries, beside."""
        ...

    def unsettle(self, step_id: str, *, block: Block, at_s: UnixS) -> None:
        """Put a transaction back in flight whose outcome a reorg has undone."""
        ...


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What is to be said of how a step ended, beside what its receipt says."""

    booking: Booking | None = None
    """None where its logs cannot be read."""
    why: str = ""
    """Why it reverted, in the contract's words, as a run at the end of its block tells; nothing where nobody
    could be asked."""
    lost_to: Rival | None = None
    """Who was before it, where it came too late."""


NOTHING_MORE = Aftermath()


Review: TypeAlias = Callable[[Sequence[tuple[StepRecord, Outcome]]], Awaitable[Sequence[Aftermath]]]
"""Says it of several steps, in their order. A fault of the node leaves out what it kept from being told."""


class Sender(Protocol):
    """Signs and sends; takes nothing but a Permit."""

    @property
    def address(self) -> str:
        """The wallet's address in lower case."""
        ...

    @property
    def chain_nonce(self) -> int:
        """The wallet's next nonce at the newest head that ``resume`` or ``track`` was given.

        To be had after ``prepare``.
        """
        ...

    @property
    def balance_wei(self) -> Wei:
        """The wallet's native balance at that head, likewise."""
        ...

    @property
    def data_fee_wei(self) -> Wei:
        """What a transaction pays for its data besides its gas, as it was known last."""
        ...

    @property
    def data_gas(self) -> int:
        """What it pays for its data as more gas, likewise."""
        ...

    def fees(self, head: Head) -> Fees | Refuse:
        """Choose the fees that last longest; refuse where the cap is below the next block's base fee."""
        ...

    def bid(self, step: Step, head: Head) -> Fees | Refuse:
        """Choose the fees of one step: for as long as it is valid, and no more than it brings."""
        ...

    def transaction(self, call: Call, gas_limit: int, fees: Fees) -> dict[str, Any]:
        """Build the transaction to reserve, whole but for its nonce."""
        ...

    @property
    def is_prepared(self) -> bool:
        """Whether ``prepare`` would ask nothing."""
        ...

    @property
    def seals(self) -> bool:
        """Whether it can sign within a transaction: the key is in this process, and something is sent."""
        ...

    def rehearse(self, tx: Mapping[str, Any]) -> None:
        """Sign a whole transaction ahead, where it can sign at once; only a permit for it sets it free."""
        ...

    def seal(self, permits: Sequence[Permit]) -> tuple[Sealed, ...]:
        """Sign what was permitted in the transaction that is open, and write the bytes into it.

        It has to be one that lasts. Only where ``seals`` says so; what it returns is for ``send``, once the
        transaction is committed.
        """
        ...

    async def send(
        self,
        permits: Sequence[Permit],
        *,
        sealed: Sequence[Sealed] = (),
        tick_ns: int | None = None,
        in_public: bool = False,
    ) -> tuple[str | Refuse | Wait, ...]:
        """Sign, commit the signed bytes, send them; return the hashes. Sending again gives the same ones.

        What is ``sealed``, all of the permits then, is sent as it is.

        A Wait says that whoever holds the key has not signed: the step stays reserved, and is tried again at
        every head until it is no longer valid.

        A Refuse says that the node definitely took nothing, and that the step is abandoned. A failure of
        which nobody knows whether it arrived returns the hash: the step is in flight. ``tick_ns`` is the
        ``time.monotonic_ns`` at which the tick that led here arrived; the journal keeps the latency.
        ``in_public`` passes over whoever would keep the transactions from the mempool.
        """
        ...

    async def resume(self, head: Head, review: Review | None = None) -> tuple[StepRecord, ...]:
        """Take up at start what the journal holds; return the steps that it settled or unsettled.

        ``review`` says of those that ended what the receipt does not.
        """
        ...

    async def track(
        self, head: Head, orphaned: Sequence[Head], review: Review | None = None
    ) -> tuple[StepRecord, ...]:
        """Look for outcomes at a new head, undo orphaned ones, send again what is due.

        Returns the steps that it settled or unsettled. A ChainFault leaves nothing out: the next call
        looks at the same steps again.
        """
        ...

    async def prepare(self) -> None:
        """Ask for the wallet's nonce and balance, where nothing in flight has had that done at this head."""
        ...

    async def balance(self) -> Wei:
        """Return the wallet's native balance."""
        ...
