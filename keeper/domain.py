"""Every message that flows between the rooms: frozen values, exact integers, no behaviour but naming.

Read top to bottom, it is the path of a breach: what the chain and the feeds say, what the mirror knows
of an account, what was suspected, decided, planned, permitted, and what the journal keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, ClassVar, Protocol, Self, TypeAlias

from keeper.units import WAD, AccountKey, Block, FeedId, UnixS, Wad, Wei, mul_div_up

# --- what the chain says -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """A block header, as far as the keeper needs it."""

    number: Block
    hash: str
    parent_hash: str
    timestamp_s: UnixS
    base_fee_wei: Wei | None
    """None on a chain without EIP-1559."""


@dataclass(frozen=True, slots=True)
class Log:
    """One raw event log of one block."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block_number: Block
    block_hash: str
    tx_hash: str
    index: int
    tx_index: int | None = None
    """Which transaction of its block; None where the node does not say."""


class Phase(StrEnum):
    """What the contract says of an account; the order is that of ``HybridTypes.State`` on chain."""

    HEALTHY = "healthy"
    FLAGGED = "flagged"
    CONFIRMED = "confirmed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Fact:
    """What one log says, in the words of the domain.

    ``touched`` are the accounts whose rows are dirty because of it. ``act`` names a protocol event that
    belongs into a case's history (``Flagged``, ``Tranche``, …) with its decoded ``args``. ``markets`` are
    those of which it changes the position of whoever has one.
    """

    block: Block
    tx_hash: str
    log_index: int
    act: str
    touched: tuple[AccountKey, ...]
    args: Mapping[str, Any]
    block_hash: str = ""
    markets: tuple[int, ...] = ()
    closes: bool = False
    """Whether it tells that somebody closed an account, in part or whole."""
    tx_index: int | None = None
    """Which transaction of its block did it; None where that is not known."""


# --- prices --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quote:
    """A fast price off chain."""

    feed: FeedId
    price_wad: Wad
    observed_at_s: UnixS
    confidence_bps: int = 0
    """Half width of the interval that it is believed to lie in."""
    dispersion_bps: int = 0
    """How far apart the prices were that it is the median of."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What a witness on chain, other than the protocol's own source, says of a feed."""

    witness: str
    """What the configuration calls it."""
    price_wad: Wad
    at_s: UnixS
    """Up to when what it says goes."""
    heartbeat_s: int
    """By when it says something new even where nothing has moved."""
    deviation_wad: Wad
    """By how far a price has to move for it to say something new before that."""


Witnesses: TypeAlias = Mapping[FeedId, "tuple[Witnessed | Unknown, ...]"]
"""By feed, what each of its witnesses says, or why one says nothing."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one reporter signs of one feed."""

    feed: FeedId
    price_wad: Wad
    confidence_bps: int
    observed_at_s: UnixS
    valid_until_s: UnixS


@dataclass(frozen=True, slots=True)
class Report:
    """An observation, with the signature of whoever made it."""

    observation: Observation
    signature: bytes
    signer: str
    """The address that the signature recovers to, in lower case."""


Bundle: TypeAlias = tuple[Report, ...]
"""Reports of one feed, from as many distinct reporters as the quorum asks for."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that could not be read or is not believable. Nobody acts on it."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class FeedView:
    """Both on-chain prices of one feed, with the rules by which the contract judges their age."""

    feed: FeedId
    fast_wad: Wad
    fast_observed_at_s: UnixS
    fast_max_age_s: int
    slow_wad: Wad
    slow_updated_at_s: UnixS
    slow_ok: bool
    slow_deviation_wad: Wad
    slow_heartbeat_s: int
    min_delay_s: int
    fast_silent_after_s: int = 600
    """Without a fast price for so long, the slow one may act alone."""
    fast_ok: bool = True
    """Whether the chain counted the fast price when it was read: not while its sequencer is down."""

    def fast_fresh(self, now_s: UnixS) -> bool:
        """Tell whether the fast price counts at chain time ``now_s`` (FastOracle.read)."""
        young = now_s - self.fast_observed_at_s <= self.fast_max_age_s
        return self.fast_ok and self.fast_wad > 0 and young

    def slow_alone(self, now_s: UnixS) -> bool:
        """Tell whether the slow price acts alone at chain time ``now_s``, the fast one being silent."""
        return self.slow_ok and now_s - self.fast_observed_at_s >= self.fast_silent_after_s


@dataclass(frozen=True, slots=True)
class ArrayView:
    """An option's risk array as it is on chain: its worth at ``ref`` and how each scenario changes it."""

    ref_wad: Wad
    mark_wad: Wad
    delta_wad: Wad
    """Change of the mark with the underlying's price."""
    observed_at_s: UnixS
    pnl_wad: tuple[Wad, ...]
    """[16], the two extremes unweighted."""


@dataclass(frozen=True, slots=True)
class BucketView:
    """What slices have moved of one underlying within the last minute, as the contract keeps it."""

    used_wad: Wad
    at_s: UnixS
    """When ``used`` was written; since then it has been leaking."""
    cap_wad: Wad


@dataclass(frozen=True, slots=True)
class Globals:
    """What the protocol says of itself as a whole."""

    version: int = 0
    """Rises whenever a listing, a ramp or a slope changes."""
    breaker_level: int = 0
    """As it stands at the block: it falls by itself from what it was raised to."""
    breaker_raised_at_s: UnixS = 0
    insurance_wad: Wad = 0
    bad_debt_wad: Wad = 0
    drawable_wad: Wad = 0
    """What the insurance may still pay in its epoch, of which one account gets no more than a share."""


@dataclass(frozen=True, slots=True)
class OracleView(Mapping[FeedId, FeedView]):
    """What the chain says of prices and of itself at one block; read as a mapping, both prices of feeds."""

    feeds: Mapping[FeedId, FeedView] = field(default_factory=dict)
    arrays: Mapping[int, ArrayView] = field(default_factory=dict)
    """By market; none where an option never had one."""
    settlements: Mapping[int, Wad] = field(default_factory=dict)
    """The underlying's price at expiry, by market, once it is settled."""
    buckets: Mapping[FeedId, BucketView] = field(default_factory=dict)
    world: Globals = Globals()

    def __getitem__(self, feed: FeedId) -> FeedView:
        return self.feeds[feed]

    def __iter__(self) -> Iterator[FeedId]:
        return iter(self.feeds)

    def __len__(self) -> int:
        return len(self.feeds)

    @property
    def version(self) -> int:
        """The listing that all of it belongs to."""
        return self.world.version


@dataclass(frozen=True, slots=True)
class ChainTime:
    """The block in which a step could run at the earliest, and its expected timestamp."""

    block: Block
    timestamp_s: UnixS


class Kind(StrEnum):
    """What a market trades; the order is that of ``HybridTypes.Kind`` on chain."""

    PERP = "perp"
    CALL = "call"
    PUT = "put"


SCENARIOS = 16
"""Scenarios of a risk array; ``risk.scenarios`` says what each one is."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One column of a book: what one unit of it adds to equity, and what it requires as margin.

    A collateral is (feed, haircut) and requires nothing. A perp counts in full and moves with its underlying
    over ``range``. An option is worth what its array or its settlement says.
    """

    feed: FeedId
    value_wad: Wad = WAD
    """Share of the price that counts as equity; of an option's mark, all of it."""
    kind: Kind | None = None
    """None for a collateral."""
    range_wad: Wad = 0
    """The move of the underlying that the scenarios cover: its maintenance margin."""
    short_wad: Wad = 0
    """Least requirement of a short option, as a fraction of the underlying's price."""
    strike_wad: Wad = 0
    expiry_s: UnixS = 0
    array: ArrayView | None = None
    settlement_wad: Wad | None = None
    """The underlying's price at expiry, once it is settled."""


# --- what the mirror knows of one account --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leg:
    """A position: its size, and the quote side of what was paid for it: PnL = size x mark + quote_leg."""

    market: int
    size_wad: Wad
    quote_leg_wad: Wad


@dataclass(frozen=True, slots=True)
class Holding:
    """A collateral balance, scaled to WAD."""

    collateral: int
    amount_wad: Wad


@dataclass(frozen=True, slots=True)
class FlagState:
    """The alarm of one account, as the Liquidator stores it; zeros where there is none."""

    flagger: str = "0x" + "00" * 20
    bond_wad: Wad = 0
    flagged_at_s: UnixS = 0
    flagged_block: Block = 0
    tau_at_flag_s: int = 0
    tau_s: int = 0
    last_poke_s: UnixS = 0
    tau_at_confirm_s: int = 0
    confirmed_at_s: UnixS = 0
    fee_cap_wad: Wad = 0
    step_start_s: UnixS = 0
    step_used_wad: Wad = 0
    tranche_nonce: int = 0
    aid_wad: Wad = 0
    reduced: bool = False
    carry_tau_s: int = 0
    carried_at_s: UnixS = 0
    slope: int = 0
    """The slope that the episode keeps, whatever the owner chooses meanwhile."""
    insolvent_tau_s: UnixS = 0
    """The tau, and one more, from which on nothing is left that bears a fee, as far as anyone has noted it; 0
    while it is not so."""


@dataclass(frozen=True, slots=True)
class Account:
    """Exact state of one account at one block."""

    key: AccountKey
    phase: Phase
    cash_wad: Wad
    legs: tuple[Leg, ...]
    holdings: tuple[Holding, ...]
    last_risk_s: UnixS = 0
    last_risk_block: Block = 0
    flag: FlagState = FlagState()
    debt_since_s: UnixS = 0
    """Since when there is no position and negative cash; 0 while there is not."""
    slope_choice: int = 0
    """The slope that the next episode follows; 0 is the default one."""

    @property
    def owner(self) -> str:
        """The owner's address in lower case."""
        return "0x" + self.key[:20].hex()


@dataclass(frozen=True, slots=True)
class Valuation:
    """Equity E, requirement M and notional N of one account at one price vector."""

    equity_wad: Wad
    requirement_wad: Wad
    notional_wad: Wad

    def breaches(self, level_wad: Wad = WAD) -> bool:
        """Tell whether E < level x M, exactly."""
        return self.equity_wad * WAD < level_wad * self.requirement_wad

    def breaches_scaled(self, q_wad: Wad) -> bool:
        """Tell whether q E < M, with q applied to positive equity only and rounded up, as on chain."""
        equity = self.equity_wad
        scaled = -(-equity * q_wad // WAD) if equity > 0 else equity
        return scaled < self.requirement_wad


@dataclass(frozen=True, slots=True)
class Assessment:
    """An account judged by exact integers at the three price vectors, for one moment of chain time."""

    account: Account
    at: ChainTime
    fast: Valuation
    slow: Valuation
    execution: Valuation
    feeds: tuple[FeedId, ...]
    fresh: bool
    flag_level_wad: Wad
    tau_s: int
    since_confirmation_s: int
    q_wad: Wad
    fee_wad: Wad
    closeable_wad: Wad
    step_room_wad: Wad
    least_q_wad: Wad = 0
    """Where q ends on its slope: from there on the clock changes no slice's condition any more."""
    fast_fresh: bool = False
    """Whether every fast price of the account counts at ``at``; ``fresh`` asks it of both oracles."""
    earliest_alarm: ChainTime = ChainTime(0, 0)
    """Before this the owner's last risk-increasing act protects the account from an alarm."""
    bond_wad: Wad = 0
    """What an alarm raised now takes as a bond."""
    reward_wad: Wad = 0
    """What a confirmation now would pay the flagger."""
    curable: bool = False
    """Whether the episode would end by ``Cure``."""
    expirable: bool = False
    """Whether the alarm has stood long enough to end by ``Expire``."""
    slope: int = 0
    """The slope by which the account is judged."""
    slow_only: bool = False
    """Whether the slow oracle acts alone, because the fast one has been silent for long."""
    arrays_silent: bool = False
    """Whether a risk array is too old to judge the account by, and not yet given up."""
    breaker_level: int = 0
    """0 normal, 1 no new risk, 2 also no flag or confirmation, 3 also no slice."""
    slices_halted: bool = False
    """Whether the breaker keeps this account from being sliced."""
    bucket_room_wad: Wad = WAD
    """What the buckets of its feeds still allow, as a fraction of the book."""
    bucket_feed: FeedId = ""
    """The feed whose bucket allows the least."""
    incentive_wad: Wad = 0
    """What the insurance would pay for taking over the whole of an insolvent account."""
    incentive_most_wad: Wad = 0
    """What that may rise to."""
    incentive_step_wad: Wad = 0
    """What one poke can raise it by."""
    settlable: tuple[int, ...] = ()
    """The markets of its expired options that have a settlement price."""
    smallest_wad: Wad = 0
    """The smallest slice, as a fraction of the book."""
    exposures: tuple[tuple[FeedId, Wad], ...] = ()
    """What its positions come to on each feed at the execution price, below 0 where it is short."""

    @property
    def health_wad(self) -> Wad | None:
        """E/M at the fast price, rounded down; None without requirement. No breach is told by it."""
        required_wad = self.fast.requirement_wad
        return self.fast.equity_wad * WAD // required_wad if required_wad > 0 else None

    @property
    def health(self) -> float | None:
        """E/M at the fast price, for people; None without requirement. Decisions never use it."""
        return self.fast.equity_wad / self.fast.requirement_wad if self.fast.requirement_wad > 0 else None


# --- decisions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: a dotted rule name, the evidence found and the bound it was held against, in stated units."""

    rule: str
    evidence: str
    bound: str
    feed: FeedId = ""
    """Whose price it is about, where it is one's alone."""

    def __str__(self) -> str:
        return f"{self.rule}: {self.evidence}, bound {self.bound}"


@dataclass(frozen=True, slots=True)
class Agree:
    """The evidence asked for is there: about one account, for one block."""

    evidence: str
    """How the account stands, and who on chain says so."""
    policy: str = ""
    """By what was asked for."""
    account: AccountKey = b""
    """Whom it is about. One about nobody permits nothing."""
    block: Block = 0
    """The block that it was given for: nothing rests on it in another one."""

    @property
    def told(self) -> Mapping[str, str]:
        """Return what an event says of it, which has account and block of its own."""
        return {"evidence": self.evidence, "policy": self.policy}


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: the answer can change at ``until_block``."""

    until_block: Block
    reason: Reason


@dataclass(frozen=True, slots=True)
class Refuse:
    """No, on this evidence and this bound."""

    reason: Reason


Verdict: TypeAlias = Agree | Wait | Refuse


class Level(IntEnum):
    """How the keeper as a whole stands: the higher, the more it asks for and the less it takes."""

    NORMAL = 0
    ELEVATED = 1
    STRESSED = 2
    HALTED = 3


@dataclass(frozen=True, slots=True)
class Posture:
    """What the state of the whole book changes in the decisions about one account."""

    level: Level = Level.NORMAL
    caution: int = 0
    """By how many presets every confirmation is slower."""
    pace_wad: Wad = WAD
    """Of what a step could take, what it takes."""
    slowed: frozenset[FeedId] = frozenset()
    """Feeds that raised too many false alarms: confirmations that hang on one are a preset slower."""
    tripped: frozenset[FeedId] = frozenset()
    """Feeds whose prices were so far apart of late that nothing is taken that hangs on one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How healthy an account was at some time."""

    at_s: UnixS
    health_wad: Wad


@dataclass(frozen=True, slots=True)
class Record:
    """What the keeper's own past, and its fees, mean for the next act."""

    won_wad: Mapping[str, Wad] = field(default_factory=dict)
    """By kind of act, how likely one that is sent does what it should."""
    presumed_wad: Wad = WAD
    """The same of a kind of which nothing is known yet."""
    moved_wad: Mapping[FeedId, Wad] = field(default_factory=dict)
    """What its steps took of each feed within the last minute, whatever became of those in flight."""
    worst_gas_wei: Wei = 0
    """The most that an act may pay for gas; never less than the current price."""
    data_fee_wei: Wei = 0
    """What a transaction pays besides for its data, on a chain that writes it to another."""
    data_gas: int = 0
    """The same, where it is paid as more gas."""


@dataclass(frozen=True, slots=True)
class Economics:
    """What a step should bring, term by term, in quote: p (income - exit) - gas."""

    income_wad: Wad
    """Fee, reward or bonus."""
    exit_wad: Wad
    """What it is expected to cost to sell what the step takes over."""
    gas_wad: Wad
    """At the current fee; whoever loses the race is taken to pay as much."""
    worst_gas_wad: Wad
    """At the highest fee that may be bid."""
    won_wad: Wad = WAD
    """How likely the step does what it should."""
    gas_price_wei: Wei = 0
    """The current fee; 0 where it was not noted."""

    @property
    def profit_wad(self) -> Wad:
        """Return the expected profit at the current fee, rounded down."""
        return self._gross_wad - self.gas_wad

    @property
    def worst_profit_wad(self) -> Wad:
        """Return it at the highest fee."""
        return self._gross_wad - self.worst_gas_wad

    @property
    def affordable_wei(self) -> Wei | None:
        """Return the price of gas at which nothing is left, rounded down; None for what never pays.

        What the step pays for its data is taken to rise with it.
        """
        if self.profit_wad <= 0 or not self.gas_wad or not self.gas_price_wei:
            return None
        return self.gas_price_wei * self._gross_wad // self.gas_wad

    def gas_at_wad(self, price_wei: Wei) -> Wad:
        """Return what its gas comes to at another price, rounded up; 0 where the current one was not noted.

        What the step pays for its data is taken to rise with it.
        """
        return mul_div_up(self.gas_wad, price_wei, self.gas_price_wei) if self.gas_price_wei else 0

    @property
    def _gross_wad(self) -> Wad:
        return (self.income_wad - self.exit_wad) * self.won_wad // WAD

    def __str__(self) -> str:
        """List the terms."""
        income, exit_ = self.income_wad / WAD, self.exit_wad / WAD
        gas = f"gas {self.gas_wad / WAD:.4f} (at worst {self.worst_gas_wad / WAD:.4f})"
        sold = f"{self.won_wad / WAD:.2f} x (income {income:.4f} - exit {exit_:.4f})"
        return f"expected {self.profit_wad / WAD:.4f} after gas: {sold} - {gas}"


@dataclass(frozen=True, slots=True)
class Booking:
    """What a transaction moved into what the keeper has, or out of it, and what it paid for gas."""

    moved: tuple[tuple[str, int], ...]
    """By token, in its units; by market of Perpetual, in base, WAD; under ``QUOTE`` money, WAD."""
    worth_wad: Wad | None
    """All of it in quote, at the protocol's prices of the head where it was booked: what the step brought, or
    cost where it is below 0. None where the price of a part is not known."""
    parts_wad: tuple[tuple[str, Wad], ...] = ()
    """Of what moved and has a price, what that is worth, below 0 where it was given away."""
    sliced_wad: Wad | None = None
    """On HybridMargin, where positions are taken over at their mark and move nothing: their notional."""
    gas_wad: Wad | None = None
    """What was paid for gas in quote, rounded up, at the native currency's price of that head, as steps are
    weighed by it; None where it has none."""

    @property
    def profit_wad(self) -> Wad | None:
        """Return what is left after gas, below 0 where the step has cost; None where a price is not known."""
        return None if self.worth_wad is None or self.gas_wad is None else self.worth_wad - self.gas_wad


@dataclass(frozen=True, slots=True)
class Rival:
    """Another's transaction, by which an account was not any more what ours was made for."""

    act: str
    tx_hash: str
    block: Block


QUOTE = "quote"
"""What a booking calls money that a protocol keeps for an account."""


# --- acts ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flag:
    """Raise the alarm on an account, against a bond from the keeper's credit."""

    closes: ClassVar[bool] = False
    account: AccountKey
    bond_wad: Wad
    reports: tuple[Bundle, ...] = ()
    """Posted first, a bundle a feed."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """State on chain that the slow oracle agrees."""

    closes: ClassVar[bool] = False
    account: AccountKey
    reports: tuple[Bundle, ...] = ()


@dataclass(frozen=True, slots=True)
class Liquidate:
    """Take over one proportional slice of the account's book."""

    closes: ClassVar[bool] = True
    account: AccountKey
    taker: AccountKey
    tranche_nonce: int
    deadline_s: UnixS
    min_fraction_wad: Wad
    max_fraction_wad: Wad
    min_fee_wad: Wad
    reports: tuple[Bundle, ...] = ()


@dataclass(frozen=True, slots=True)
class Cure:
    """End an episode whose account is safe again."""

    closes: ClassVar[bool] = False
    account: AccountKey
    reports: tuple[Bundle, ...] = ()


@dataclass(frozen=True, slots=True)
class Clear:
    """End an alarm that both oracles contradict."""

    closes: ClassVar[bool] = False
    account: AccountKey
    reports: tuple[Bundle, ...] = ()


@dataclass(frozen=True, slots=True)
class Expire:
    """End an alarm that nothing confirmed in time."""

    closes: ClassVar[bool] = False
    account: AccountKey


@dataclass(frozen=True, slots=True)
class BuyCollateral:
    """Buy collateral at the sale discount from an account without positions whose cash is negative."""

    closes: ClassVar[bool] = True
    account: AccountKey
    taker: AccountKey
    collateral: int
    max_quote_wad: Wad
    min_amount_wad: Wad = 1
    """The least collateral wanted; less than that and the chain refuses."""


@dataclass(frozen=True, slots=True)
class WriteOff:
    """Book the residual of an account that has nothing left as bad debt, and close it."""

    closes: ClassVar[bool] = False
    account: AccountKey


@dataclass(frozen=True, slots=True)
class Settle:
    """Turn an expired option of an account into cash, at its settlement price."""

    closes: ClassVar[bool] = False
    account: AccountKey
    market: int


@dataclass(frozen=True, slots=True)
class Poke:
    """Have the contract look at an account's clock, and note since when it has nothing left."""

    closes: ClassVar[bool] = False
    account: AccountKey


PostingAct: TypeAlias = Flag | Confirm | Liquidate | Cure | Clear
"""What can post the prices that it needs itself."""
HybridAct: TypeAlias = PostingAct | Expire | BuyCollateral | WriteOff | Settle | Poke


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Take over a part of an account's position, into the account of the keeper's wallet."""

    closes: ClassVar[bool] = True
    account: AccountKey
    market: str
    """Its virtual token, in lower case."""
    size_wad: Wad
    """With the sign of the position."""


class Act(Protocol):
    """What a keeper may do: a frozen dataclass of one of the protocols."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    closes: ClassVar[bool]
    """Whether it takes something of the account: then it goes through the door with an agreement alone."""

    @property
    def account(self) -> AccountKey:
        """Whose case it belongs to."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One act, worth doing now: what it may cost, what it should bring, and until when it holds."""

    case_id: str
    act: Act
    valid_until_block: Block
    gas_limit: int
    expected_profit_wad: Wad
    """Fee or reward less gas at the current price, in quote; negative for upkeep."""
    notional_wad: Wad = 0
    takes: tuple[tuple[FeedId, Wad], ...] = ()
    """What the keeper then has more of each feed and has to sell, in quote; below 0 where it is short."""
    bounds: tuple[Reason, ...] = ()
    """What kept the step from being larger, the tightest first."""
    economics: Economics | None = None
    loss_wad: Wad = 0
    """What it is expected to lose, where an account is kept solvent at a cost."""
    ends_at_wad: Wad | None = None
    """The account's health now, where the step should end its breach; None where more may follow at once."""
    sells: tuple[FeedId, ...] = ()
    """What it sells all of that was taken over."""

    @property
    def kind(self) -> str:
        """The act's name in lower case, as the journal writes it."""
        return type(self.act).__name__.lower()


@dataclass(frozen=True, slots=True)
class Call:
    """Calldata for one contract."""

    to: str
    data: bytes
    codes: tuple[tuple[str, str], ...] = ()
    """Addresses that have another code while it is only run, each with that in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Fees:
    """What a transaction bids for a unit of gas."""

    max_fee_wei: Wei
    priority_fee_wei: Wei
    is_flat: bool = False
    """On a chain without EIP-1559: one gas price, which is paid whole; both fees are that."""

    @classmethod
    def of(cls, tx: Mapping[str, Any]) -> Self:
        """Return what a transaction bids; one that names no tip gives none."""
        if "gasPrice" in tx:
            return cls(int(tx["gasPrice"]), int(tx["gasPrice"]), is_flat=True)
        return cls(int(tx["maxFeePerGas"]), int(tx.get("maxPriorityFeePerGas", 0)))

    def fields(self) -> dict[str, int]:
        """Return the part of a transaction that says so."""
        if self.is_flat:
            return {"gasPrice": self.max_fee_wei}
        return {"type": 2, "maxFeePerGas": self.max_fee_wei, "maxPriorityFeePerGas": self.priority_fee_wei}

    def within(self, most: Fees) -> Fees:
        """Return the same, but no more than others."""
        max_fee_wei = min(self.max_fee_wei, most.max_fee_wei)
        return Fees(max_fee_wei, min(self.priority_fee_wei, most.priority_fee_wei, max_fee_wei), self.is_flat)

    def price_wei(self, base_fee_wei: Wei | None) -> Wei:
        """Return what a unit costs at a base fee."""
        if self.is_flat:
            return self.max_fee_wei
        return min(self.max_fee_wei, (base_fee_wei or 0) + self.priority_fee_wei)

    def tip_wei(self, base_fee_wei: Wei | None) -> Wei:
        """Return what of a unit's price is above a base fee, by which blocks are ordered."""
        return max(0, self.price_wei(base_fee_wei) - (base_fee_wei or 0))


@dataclass(frozen=True, slots=True)
class Announced:
    """A transaction that a node has in its pool, and that is in no block yet."""

    tx_hash: str
    sender: str
    call: Call
    gas: int
    fees: Fees


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to send exactly one transaction; granted only by ``journal.guard.reserve``."""

    step_id: str
    case_id: str
    nonce: int
    unsigned_tx: Mapping[str, Any]


# --- history -------------------------------------------------------------------------------------


class EventKind(StrEnum):
    """What can happen to a case; ``lifecycle.TABLE`` says when."""

    CALLED = "Called"
    SUSPECTED = "Suspected"
    MOVED = "Moved"
    WAITED = "Waited"
    REFUSED = "Refused"
    OBSERVED = "Observed"
    RESERVED = "Reserved"
    SENT = "Sent"
    INCLUDED = "Included"
    REVERTED = "Reverted"
    DISPLACED = "Displaced"
    ABANDONED = "Abandoned"
    UNINCLUDED = "Unincluded"
    CLOSED = "Closed"


@dataclass(frozen=True, slots=True)
class CaseEvent:
    """One entry of a case's history; the journal gives it its sequence number."""

    case_id: str
    account: AccountKey
    kind: EventKind
    block: Block
    at_s: UnixS
    data: Mapping[str, Any]
