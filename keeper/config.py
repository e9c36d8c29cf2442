"""Typed settings, read from a TOML file, with endpoints and secrets from the environment where wanted.

Each section is composed of what its room needs. A file that cannot be used is refused before the first
act, with the place and the reason; unknown names are refused as well, for a typing error must not
silently leave a default in force.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from keeper import ladder, pipeline
from keeper.alerts import Params as AlertParams
from keeper.chain.pool import Params as PoolParams
from keeper.chain.reader import Params as ReaderParams
from keeper.confirm.policy import PRESETS, Divergence, Policies, Policy, tuned
from keeper.deployments import Address, Deployment, Section, name_of
from keeper.desk.hybrid import Params as DeskParams
from keeper.desk.lending import Params as LendingDeskParams
from keeper.desk.perp import Params as PerpDeskParams
from keeper.errors import ConfigError
from keeper.execute import kms, web3signer
from keeper.execute.chains import rules_of
from keeper.execute.fees import GWEI, FeeParams
from keeper.execute.keys import KeyParams
from keeper.execute.sender import Params as SenderParams
from keeper.execute.signers import Elsewhere, SignerParams
from keeper.execute.stuck import Patience
from keeper.execute.transports import Via
from keeper.feeds import AnyFeed, GeneratedFeed, LiveComposite, RecordedFeed, Source
from keeper.feeds.composite import Params as CompositeParams
from keeper.journal.db import Shared
from keeper.journal.guard import BREAKER_BOUNDS, Limits
from keeper.journal.retention import Keep
from keeper.lending.words import Lender
from keeper.oracles.aggregator import Aggregator, Delayed
from keeper.oracles.delayed import Queued
from keeper.oracles.panel import Panel
from keeper.oracles.twap import Twap
from keeper.plan import hybrid as plan
from keeper.plan import lending, perp
from keeper.plan.common import Policy as ClosingPolicy
from keeper.plan.economics import Prudence
from keeper.plan.pace import Kind as PaceKind
from keeper.plan.pace import Pace
from keeper.plan.queue import OLD_BLOCKS
from keeper.plan.rest import Rest
from keeper.ports import Feed, Switch
from keeper.reporter import Params as ReporterParams
from keeper.risk.liquidity import VOLATILITY, Depth
from keeper.steward import EwmaVols, FixedVols, Vols
from keeper.steward import Params as StewardParams
from keeper.units import BPS, WAD, FeedId


def _as_list(value: object) -> object:
    """Take one URL for a list of one; in the environment, commas separate several."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _has_host(url: str) -> str:
    """Refuse a URL that can never be reached; nothing of it is told, whatever is where the port should be."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("a URL needs a host, and a port can only be 1 to 65535")
    return url


def _as_key(name: str) -> str:
    """Write a token's address as the markets do."""
    return name.lower() if name.startswith("0x") else name


AccountName: TypeAlias = Annotated[
    str, Field(pattern=r"^0x([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})$"), AfterValidator(str.lower)
]
"""An owner, or the whole key of an account."""
T = TypeVar("T")
Several: TypeAlias = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_as_list)]
Urls: TypeAlias = Annotated[Several[T], Field(min_length=1)]
HttpUrl: TypeAlias = Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_has_host)]
PeerUrl: TypeAlias = Annotated[
    str, Field(pattern=r"^https?://[^/@?#\s]+(/[^@?#\s]*)?$"), AfterValidator(_has_host)
]
"""Without credentials: those of a group are its token."""
LISTEN = r"^([0-9A-Za-z.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}$"
WsUrl: TypeAlias = Annotated[str, Field(pattern=r"^wss?://"), AfterValidator(_has_host)]


class Chain(Section):
    """The nodes: calls go over HTTP, heads and logs come over a websocket; each one URL, or a list."""

    http: Urls[HttpUrl]
    ws: Urls[WsUrl]
    chain_id: int = Field(gt=0)
    block_time_s: int = Field(default=12, gt=0, le=3600)
    requests_s: float | None = Field(default=None, ge=1)
    """Budget of each endpoint; each call of a batch counts."""
    hedge_ms: int = Field(default=250, gt=0)
    """After how long, at the least, a slow read is asked of a second endpoint as well."""
    broadcast: bool = False
    """Hand each signed transaction to every endpoint."""
    fees: Literal["eip1559", "legacy"] = "eip1559"
    """``legacy``: a chain without base fee, where everybody pays a gas price."""
    l1_fee: Literal["none", "op"] = "none"
    """Whether a transaction pays for its data besides: ``op`` asks the OP stack's GasPriceOracle. Where it is
    left out, as the chain is known for."""
    l1_bytes: int = Field(default=1_000, gt=0, le=131_072)
    """How large a transaction is taken to be for that."""

    @property
    def flat_fees(self) -> bool:
        """Whether the chain has no base fee."""
        return self.fees == "legacy"

    @model_validator(mode="before")
    @classmethod
    def _is_like_the_chain(cls, values: Any) -> Any:
        """Take what is known of the chain where the file leaves it out."""
        if not isinstance(values, dict):
            return values
        try:
            rules = rules_of(int(values["chain_id"]))
        except (KeyError, TypeError, ValueError):
            return values
        return {"block_time_s": rules.block_time_s, "l1_fee": rules.l1_fee} | values


class Wallet(Section):
    """Where the key is (or in KEEPER_PRIVATE_KEY), whose, and which sub-account takes positions over."""

    address: Address | None = None
    """Whose key it has to be; needed where the key is elsewhere."""
    keystore: Path | None = None
    passphrase_file: Path | None = None
    sub_account: int = Field(default=0, ge=0, lt=2**96)


class Signer(Section):
    """Who signs: the keeper itself, or whoever holds the wallet's key elsewhere."""

    kind: Literal["local", "web3signer", "aws_kms"] = "local"
    timeout_ms: int = Field(default=1_000, ge=50, le=60_000)
    url: PeerUrl | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    key_id: str | None = Field(default=None, min_length=1)
    region: str | None = None
    endpoint: PeerUrl | None = None

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> Self:
        named = {name for name in SIGNER_OF if getattr(self, name) is not None}
        if strange := {name for name in named if SIGNER_OF[name] != self.kind}:
            raise ValueError(f"{', '.join(sorted(strange))}: not of the kind {self.kind}")
        needed = {"web3signer": "url", "aws_kms": "key_id"}.get(self.kind)
        if needed is not None and needed not in named:
            raise ValueError(f"{needed} is needed for the kind {self.kind}")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        return self

    def elsewhere(self) -> Elsewhere | None:
        """Return how to ask whoever holds the key; None where the keeper does."""
        timeout_s = self.timeout_ms / 1e3
        if self.url is not None:
            return web3signer.Params(self.url, timeout_s, self.ca_file, self.cert_file, self.key_file)
        if self.key_id is not None:
            return kms.Params(self.key_id, self.region, self.endpoint, timeout_s)
        return None


SIGNER_OF = {
    **dict.fromkeys(("url", "ca_file", "cert_file", "key_file"), "web3signer"),
    **dict.fromkeys(("key_id", "region", "endpoint"), "aws_kms"),
}
"""Which kind of signer each of its settings is for."""


class RecordedSource(Section):
    """Fast prices from a CSV file of ``timestamp_s,feed,price``, read by chain time."""

    kind: Literal["recorded"] = "recorded"
    path: Path
    max_age_s: int = Field(default=15, gt=0)

    def open(self) -> RecordedFeed:
        """Read the file."""
        return RecordedFeed(self.path, max_age_s=self.max_age_s)


class Quoted(Section):
    """A symbol of a venue, and the feed of what it is quoted in, where that is not the quote of the feed."""

    symbol: str
    quoted_in: FeedId | None = Field(default=None, alias="in")


def _as_quoted(value: object) -> object:
    return {"symbol": value} if isinstance(value, str) else value


Symbol: TypeAlias = Annotated[Quoted, BeforeValidator(_as_quoted)] | None


class Venues(Section):
    """What a feed is at each venue."""

    binance: Symbol = None
    coinbase: Symbol = None
    kraken: Symbol = None
    okx: Symbol = None
    pyth: Symbol = None


class VenueUrls(Section):
    """Where venues are listened to, instead of their public endpoints; may hold a key."""

    binance: WsUrl | None = None
    coinbase: WsUrl | None = None
    kraken: WsUrl | None = None
    okx: WsUrl | None = None
    pyth: HttpUrl | None = None


class LiveSource(Section):
    """Fast prices from venues: the median of those that are fresh and agree."""

    kind: Literal["live"]
    sources: dict[FeedId, Venues] = Field(min_length=1)
    urls: VenueUrls = VenueUrls()
    min_venues: int = Field(default=2, ge=1, le=5)
    max_age_ms: int = Field(default=3_000, ge=100, le=60_000)
    max_standing_ms: int = Field(default=60_000, ge=1_000, le=3_600_000)
    max_future_ms: int = Field(default=500, ge=0, le=10_000)
    outlier_bps: int = Field(default=100, ge=1, le=1_000)
    max_dispersion_bps: int = Field(default=150, ge=1, le=2_000)

    def open(self) -> LiveComposite:
        """Put the sources together; raise ConfigError where they make no sense."""
        sources = {
            feed: [
                Source(venue, quoted.symbol, quoted.quoted_in)
                for venue, quoted in venues
                if quoted is not None
            ]
            for feed, venues in self.sources.items()
        }
        params = self.model_dump(exclude={"kind", "sources", "urls"})
        return LiveComposite(sources, CompositeParams(**params), urls=self.urls.model_dump(exclude_none=True))


class GeneratedSource(Section):
    """Invented prices, for load tests and dry runs: a seeded random walk that ticks in real time."""

    kind: Literal["generated"]
    start: dict[FeedId, Annotated[Decimal, Field(ge=Decimal("1e-8"), lt=10**9)]] = Field(min_length=1)
    seed: int = Field(default=1, ge=0)
    volatility: float = Field(default=0.8, gt=0, le=5)
    """Annualised."""
    tick_ms: int = Field(default=100, ge=1, le=60_000)

    def open(self) -> GeneratedFeed:
        """Begin the walk."""
        return GeneratedFeed(self.start, seed=self.seed, volatility=self.volatility, tick_ms=self.tick_ms)


def _kind(raw: Any) -> str | None:
    """Tell the kind of a section [feed]; recorded where it names none, None where it is no section."""
    return str(raw.get("kind", "recorded")) if isinstance(raw, dict) else getattr(raw, "kind", None)


FeedSource: TypeAlias = Annotated[
    Annotated[RecordedSource, Tag("recorded")]
    | Annotated[LiveSource, Tag("live")]
    | Annotated[GeneratedSource, Tag("generated")],
    Discriminator(
        _kind,
        custom_error_type="feed_kind",
        custom_error_message="kind should be 'recorded', 'live' or 'generated'",
    ),
]
"""Where fast prices come from."""
TEST_CHAINS = frozenset({1337, 31337})
"""Ids of chains on which nothing has a worth."""


class JournalPlace(Section):
    """Where the case history is, and how much of it is kept."""

    path: Path = Path("journal.sqlite")
    """The SQLite file; of a shared journal, beside which a keeper keeps what is its own."""
    url: SecretStr | None = None
    """Of PostgreSQL: the journal is shared by several keepers, one of which leads."""
    schema_name: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,40}$")] = "keeper"
    lease_s: float = Field(default=5, ge=1, le=60)
    """How long a leader that is not heard of stays the leader."""
    tape: bool = True
    """Keep what decisions depend on, so that they can be explained and replayed."""
    keep_days: int = Field(default=30, ge=2)
    """What is over is forgotten after so long; open cases never are."""
    keep_mb: int = Field(default=2_000, ge=16)
    """Beyond so much the oldest of the tape goes earlier, and closed cases after it."""


class Mirror(Section):
    """The book of accounts: where it lies on disk, so that a start reads little, and how it is checked."""

    snapshot: Path = Path("book.snapshot")
    snapshot_blocks: int = Field(default=300, gt=0)
    """Written so often, and at the end."""
    check_blocks: int = Field(default=10, gt=0)
    """So often ``check_rows`` accounts are read again and compared, in turn."""
    check_rows: int = Field(default=200, gt=0, le=3200)


class Trigger(Section):
    """What is done between the heads, where prices move there, and how near the nearest accounts are."""

    ready: int = Field(default=32, ge=0, le=500)
    """So many accounts nearest to breach have their acts built and simulated after every head."""
    late_ms: float = Field(default=50, gt=0)
    """How late after a tick its suspects may be known before the log warns."""
    measure_blocks: int = Field(default=10, gt=0)
    """So often the distance of the nearest accounts to breach is measured."""
    vol: float = Field(default=0.8, gt=0, le=5)
    """Annualised: what the volatility of a feed is taken for until its prices have shown another."""
    announced: tuple[Address, ...] = ()
    """Contracts of oracles: behind what is sent to them, and in no block yet, the keeper looks at once."""


class Rung(Section):
    """Below which health, and how near to breach, an account comes to a rung; and when it leaves it."""

    health: float = Field(gt=1, le=10)
    sigmas: float = Field(gt=0, le=100)
    leave_health: float = Field(gt=1, le=20)
    leave_sigmas: float = Field(gt=0, le=200)
    leave_after_s: int = Field(ge=0, le=86_400)

    @model_validator(mode="after")
    def _comes_down_farther_off(self) -> Self:
        if self.leave_health <= self.health or self.leave_sigmas <= self.sigmas:
            raise ValueError("leave_health and leave_sigmas must be more than health and sigmas")
        return self

    def bounds(self) -> ladder.Bounds:
        """Return them as the ladder takes them."""
        return ladder.Bounds(**self.model_dump())


def _rung(bounds: ladder.Bounds) -> Rung:
    return Rung(**asdict(bounds))


def _finite(bounds: ladder.Triple) -> tuple[float, ...]:
    return tuple(bound for bound in bounds if bound != ladder.NEVER)


Triple: TypeAlias = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=3)]


class Tide(Section):
    """At which value of each sign the book is elevated, stressed, halted; with fewer it goes no further."""

    false_alarms: Triple = _finite(ladder.Book().false_alarms)
    reverts: Triple = _finite(ladder.Book().reverts)
    divergence: Triple = _finite(ladder.Book().divergence)
    feeds_lost: Triple = _finite(ladder.Book().feeds_lost)
    head_age: Triple = _finite(ladder.Book().head_age)
    lagging: Triple = _finite(ladder.Book().lagging)
    flow: Triple = _finite(ladder.Book().flow)
    calm: float = Field(default=ladder.Book().calm, gt=0, lt=1)
    """A level is left where every sign is below so much of its bound,"""
    calm_s: int = Field(default=ladder.Book().calm_s, ge=0, le=86_400)
    """for so long."""

    def book(self) -> ladder.Book:
        """Return them as the ladder takes them; raise ConfigError where they do not rise."""
        signs = {}
        for sign in ladder.Sign:
            bounds: tuple[float, ...] = getattr(self, sign)
            if list(bounds) != sorted(bounds):
                raise ConfigError(f"ladder.book.{sign}: expected bounds that rise, found {list(bounds)}")
            first, second, third = (*bounds, *[ladder.NEVER] * 3)[:3]
            signs[sign.value] = (first, second, third)
        return ladder.Book(**signs, calm=self.calm, calm_s=self.calm_s)


class Ladder(Section):
    """The bounds of both ladders; ``keeper ladder`` shows them in force."""

    watch: Rung = Field(default_factory=lambda: _rung(ladder.Climb().watch))
    call: Rung = Field(default_factory=lambda: _rung(ladder.Climb().call))
    most_called: int = Field(default=ladder.Climb().most_called, ge=0, le=1_000_000)
    """Accounts that are called at the same time, the nearest first; 0 calls nobody."""
    book: Tide = Tide()

    @model_validator(mode="after")
    def _calls_whom_it_watches(self) -> Self:
        if self.call.health > self.watch.health or self.call.sigmas > self.watch.sigmas:
            raise ValueError("call must lie within watch, in health and in sigmas")
        return self

    def climb(self) -> ladder.Climb:
        """Return the bounds of the account's ladder."""
        return ladder.Climb(self.watch.bounds(), self.call.bounds(), self.most_called)


class Alerts(Section):
    """How many notices there may be; where they go is in KEEPER_ALERT_URLS."""

    burst: int = Field(default=20, ge=1, le=1_000)
    """At once,"""
    every_s: float = Field(default=30, gt=0, le=86_400)
    """and one more in so many seconds; the rest is summed up in one."""
    timeout_s: float = Field(default=15, gt=0, le=300)
    """How long a messenger may take."""


class Health(Section):
    """Where /metrics and /healthz of ``keeper run`` are served: on 127.0.0.1, and nowhere without a port."""

    port: int | None = Field(default=None, ge=0, lt=65_536)


class MarketLimits(Section):
    """What may be taken of one market; quote amounts."""

    notional_day: Decimal | None = Field(default=None, ge=0)
    inventory: Decimal | None = Field(default=None, ge=0)
    """Taken over and not sold."""


class Breakers(Section):
    """At which figure each breaker trips, 0 for never; and for how long it holds."""

    reverts: float = Field(default=BREAKER_BOUNDS[Switch.REVERTS], ge=0, le=1)
    """Share of the last own steps of an hour that take something."""
    drift: int = Field(default=int(BREAKER_BOUNDS[Switch.DRIFT]), ge=0)
    """Accounts found otherwise than in the mirror since all were found the same."""
    jump: float = Field(default=BREAKER_BOUNDS[Switch.JUMP], ge=0, le=10)
    """Move of a fast price within a minute, as a share."""
    divergence: float = Field(default=BREAKER_BOUNDS[Switch.DIVERGENCE], ge=0, le=10)
    """Widest distance of a fast price from the chain's, as a share."""
    rest_s: int = Field(default=600, ge=1, le=86_400)

    def bounds(self) -> dict[str, float]:
        """Return the bounds of those that trip at all."""
        named = self.model_dump(exclude={"rest_s"})
        return {name: float(bound) for name, bound in named.items() if bound}


class Spending(Section):
    """The limits that every Permit is checked against."""

    halted: bool = False
    kill_file: Path = Path("keeper.halt")
    """As long as it exists, nothing new is permitted."""
    spend_hour_native: Decimal | None = Field(default=None, ge=0)
    spend_day_native: Decimal = Field(default=Decimal("0.5"), ge=0)
    wallet_floor_native: Decimal = Field(default=Decimal(0), ge=0)
    """What the wallet must have left once all in flight has cost its most."""
    loss_hour: Decimal | None = Field(default=None, ge=0)
    loss_day: Decimal | None = Field(default=None, ge=0)
    notional_block: Decimal = Field(default=Decimal(10_000_000), ge=0)
    notional_hour: Decimal | None = Field(default=None, ge=0)
    attempts_hour: int = Field(default=60, ge=1)
    backoff_s: int = Field(default=30, ge=0, le=3_600)
    """Pause of an account after a revert, twice as long after each further one in a row,"""
    backoff_max_s: int = Field(default=1_800, ge=0, le=86_400)
    """up to this."""
    accounts_allow: tuple[AccountName, ...] = ()
    accounts_deny: tuple[AccountName, ...] = ()
    markets_allow: tuple[FeedId, ...] = ()
    markets_deny: tuple[FeedId, ...] = ()
    markets: dict[Annotated[FeedId, AfterValidator(_as_key)], MarketLimits] = Field(default={})
    """By feed, or by token where tokens are seized; ``*`` for all that are not named."""
    breakers: Breakers = Breakers()
    priority_fee_gwei: Decimal = Field(default=Decimal(1), ge=0, le=10_000)
    max_fee_gwei: Decimal = Field(default=Decimal(500), ge=Decimal("0.001"), le=1_000_000)


class Send(Section):
    """What is bid, and how long is waited (docs/sending.md); and who is handed it (docs/transports.md)."""

    tip_percentile: int = Field(default=50, ge=0, le=100)
    """Which of the tips that others paid of late is bid, where it is more than ``priority_fee_gwei``."""
    max_priority_fee_gwei: Decimal = Field(default=Decimal(50), ge=0, le=10_000)
    full_blocks: int = Field(default=6, ge=1, le=24)
    """How many full blocks in a row a first bid outlasts at most."""
    raise_after_blocks: int = Field(default=2, ge=1, le=1_000)
    """A transaction that is next in line and waits for so long is outbid, or cancelled when late."""
    in_flight: int = Field(default=16, ge=1, le=1_000)
    """Transactions of the wallet that wait at the same time."""
    batch: int = Field(default=1, ge=1, le=64)
    """Acts in one transaction, at the most, where the protocol has a contract for that."""
    foreign: Literal["stop", "warn"] = "stop"
    """What another program does that uses the wallet's key: no new steps, or words only."""
    via: Annotated[Several[Via], Field(min_length=1)] = (Via.PUBLIC,)
    """One after the other; each but the last has a transaction to itself for a while."""
    private_blocks: int = Field(default=3, ge=1, le=25)
    """So long."""
    relay: HttpUrl | None = None
    """Of ``bundle``, ``private`` and ``auction``; its key is in KEEPER_RELAY_KEY."""
    relay_ms: int = Field(default=1_000, ge=50, le=10_000)
    """How long it may take to answer."""
    hints: HttpUrl | None = None
    """The stream of ``auction``."""
    oracles: Several[Address] = ()
    """Whose pending updates are followed there."""

    @model_validator(mode="after")
    def _can_send(self) -> Self:
        if len(set(self.via)) != len(self.via):
            raise ValueError("via names each transport once")
        if self.via[-1] is Via.AUCTION:
            raise ValueError("via cannot end with auction: it takes nothing while no update is pending")
        if self.relay is None and set(self.via) != {Via.PUBLIC}:
            raise ValueError("bundle, private and auction need send.relay")
        if Via.AUCTION in self.via and (self.hints is None or not self.oracles):
            raise ValueError("auction needs send.hints and send.oracles")
        return self


FIELDS = (
    "agree",
    "band_bps",
    "min_delay_s",
    "min_blocks",
    "confirmations",
    "divergence",
    "max_divergence",
    "timeout_s",
    "trust_chain_after_s",
    "max_oracle_age_s",
)
"""Of a policy, as the configuration calls them."""


class Closing(Section):
    """How loans of lending protocols are closed, and what with."""

    policy: ClosingPolicy = ClosingPolicy.RESTORE
    """``restore``: the least that brings an account up to ``target_health``; ``max``: all that is allowed."""
    target_health: Decimal = Field(default=Decimal("1.05"), gt=1, le=2)
    slippage: Decimal = Field(default=Decimal("0.01"), ge=0, lt=1)
    """How far below its price what is seized may sell."""
    liquidator: Address | None = None
    """A FlashLiquidator that the wallet operates; without it the wallet pays, and keeps what it seizes."""
    lender: Lender = Lender.MORPHO
    """Who lends to it."""
    seized: Literal["keep", "convert"] = "keep"
    """What becomes of what the wallet itself seizes."""
    into: Address | None = None
    """The token that it is converted into; all others that the protocol lists are sold."""


class Exchange(Section):
    """Where what is seized is sold: every pool that these factories made of a listed token and a bridge."""

    uniswap_v3: Address | None = None
    uniswap_v2: Address | None = None
    router: Address | None = None
    """Uniswap's SwapRouter of v3, by which the wallet sells what it seized."""
    bridges: tuple[Address, ...] = ()
    """Tokens whose pools with every other are looked up, and over which two others are exchanged."""


class Economics(Section):
    """What makes an act worth its gas; quote amounts."""

    min_profit: Decimal = Decimal(0)
    upkeep: bool = True
    native_feed: str = "ETH/USD"
    """The feed whose price values gas."""
    at_worst_fee: bool = False
    """Whether a step has to pay at the highest fee that may be bid for it."""
    solvency_day: Decimal = Field(default=Decimal(0), ge=0)
    """What steps may lose in 24 h on accounts that would else leave bad debt."""
    rest_s: int = Field(default=60, ge=0, le=3600)
    """How long an account is left alone that the keeper has restored,"""
    rest_band: Decimal = Field(default=Decimal("0.01"), ge=0, le=1)
    """unless its health is below 1, or below what it was, by more than this."""


class DepthOf(Section):
    """How deep the market of one feed is, and what the keeper may hold of it; quote amounts."""

    volume_day: Decimal | None = Field(default=None, gt=0)
    volatility: float = Field(default=VOLATILITY, ge=0, le=5)
    """Annualised."""
    y: float = Field(default=1.0, ge=0, le=10)
    """What the square-root law is multiplied by."""
    levels: tuple[tuple[Annotated[float, Field(ge=0, le=10_000)], Annotated[Decimal, Field(gt=0)]], ...] = ()
    """Of the book: basis points from the mid, rising, and the notional there."""
    most_bps: float = Field(default=20, gt=0, le=10_000)
    """The most that selling what is taken within a minute is expected to cost."""
    inventory: Decimal | None = Field(default=None, ge=0)
    """The most that the keeper holds of it, long or short."""

    @model_validator(mode="after")
    def _is_a_market(self) -> Self:
        _ = self.depth().most_wad
        return self

    def depth(self) -> Depth:
        """Return it in the planner's units."""
        return Depth(
            most_bps=self.most_bps,
            volume_day=None if self.volume_day is None else float(self.volume_day),
            volatility=self.volatility,
            y=self.y,
            levels=tuple((bps / BPS, float(notional)) for bps, notional in self.levels),
            inventory_wad=None if self.inventory is None else int(self.inventory * WAD),
        )


class Pacing(Section):
    """How fast a breach is worked off, and who goes first."""

    kind: PaceKind = PaceKind.PLAIN
    share: Decimal = Field(default=Decimal(1), gt=0, le=1)
    """Of what is permitted: what ``plain`` takes in a step, and the least that ``severity`` takes."""
    full_fall: Decimal = Field(default=Decimal("0.02"), gt=0, le=1)
    """``severity``: the fall of health in a minute from which on all is taken."""
    old_blocks: int = Field(default=OLD_BLOCKS, ge=0)
    """A case older than so many blocks goes before all others."""
    flow_fall: float = Field(default=0.05, gt=0, lt=0.9)
    """The further fall of all prices at which the book's liquidations are measured."""


class Bounds(Section):
    """Fields of a policy that the operator sets; what is left out is as the preset has it."""

    policy: Literal["fast", "balanced", "cautious"] | None = None
    agree: int | Literal["all"] | None = Field(default=None, union_mode="left_to_right")
    """So many of a feed's witnesses, the protocol's own price counted; or all."""
    band_bps: int | None = Field(default=None, ge=0, le=1_000)
    min_delay_s: int | None = Field(default=None, ge=0, le=3_600)
    min_blocks: int | None = Field(default=None, ge=1, le=100)
    confirmations: int | None = Field(default=None, ge=1, le=100)
    divergence: Divergence | None = None
    max_divergence: Decimal | None = Field(default=None, gt=0, le=Decimal("0.3"))
    timeout_s: int | None = Field(default=None, ge=60, le=604_800)
    trust_chain_after_s: int | Literal["never"] | None = Field(default=None, union_mode="left_to_right")
    max_oracle_age_s: int | None = Field(default=None, gt=0)

    @field_validator("agree")
    @classmethod
    def _some_agree(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least 1: the protocol's own price always counts")
        return value

    @field_validator("trust_chain_after_s")
    @classmethod
    def _no_future(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 0:
            raise ValueError("at least 0")
        return value

    def chosen(self, base: Bounds | None = None) -> Policy:
        """Return the policy: the preset that is named here, or else in ``base``, with what both change.

        Naming another preset leaves behind what ``base`` changes of its own.
        """
        over = base if base is not None and self.policy in (None, base.policy) else None
        name = self.policy or (base.policy if base else None) or "balanced"
        [preset] = (each for each in PRESETS if each.name == name)
        return tuned(preset, **{**(over.changes() if over else {}), **self.changes()})

    def changes(self) -> dict[str, object]:
        """Return the fields of a policy that are set, in its own words."""
        said = {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}
        for name, new in (("max_divergence", "max_divergence_wad"), ("max_oracle_age_s", "max_age_s")):
            if name in said:
                value = said.pop(name)
                said[new] = int(value * WAD) if name == "max_divergence" else value
        for name, endless in (("agree", "all"), ("trust_chain_after_s", "never")):
            if said.get(name) == endless:
                said[name] = None
        return said


class AggregatorWitness(Section):
    """The newest round of an aggregator like Chainlink's."""

    kind: Literal["aggregator"]
    address: Address
    heartbeat_s: int = Field(default=3_600, gt=0)
    deviation_bps: int = Field(default=50, gt=0, le=1_000)

    def called(self, witness: str, feed: FeedId) -> Aggregator:
        """Return the witness, by its name."""
        del feed
        return Aggregator(witness, self.address, self.heartbeat_s, self.deviation_bps * WAD // BPS)


class DelayedWitness(Section):
    """An aggregator's newest round that is so old, or the value of an oracle that lets each wait."""

    kind: Literal["delayed"]
    address: Address
    delay_s: int | None = Field(default=None, ge=60, le=86_400)
    """Of an aggregator; without it ``address`` is a queue, which has a delay of its own."""
    heartbeat_s: int = Field(default=3_600, gt=0)
    deviation_bps: int = Field(default=50, gt=0, le=1_000)

    def called(self, witness: str, feed: FeedId) -> Delayed | Queued:
        """Return the witness, by its name."""
        deviation_wad = self.deviation_bps * WAD // BPS
        if self.delay_s is None:
            return Queued(witness, self.address, feed, self.heartbeat_s, deviation_wad)
        return Delayed(witness, self.address, self.delay_s, self.heartbeat_s, deviation_wad)


class TwapWitness(Section):
    """The mean price of a Uniswap v3 pool over a window."""

    kind: Literal["twap"]
    pool: Address
    base: Address
    """The token that is priced."""
    quote: Address
    """What it is priced in, such as a dollar."""
    window_s: int = Field(default=1_800, ge=600, le=86_400)
    least_observations: int = Field(default=2, ge=2, le=65_535)
    least_liquidity: int = Field(default=0, ge=0)

    def called(self, witness: str, feed: FeedId) -> Twap:
        """Return the witness, by its name."""
        del feed
        told = self.model_dump(exclude={"kind"})
        return Twap(witness, **told)


AnyWitness: TypeAlias = Annotated[
    AggregatorWitness | DelayedWitness | TwapWitness, Field(discriminator="kind")
]


class Confirmation(Bounds):
    """What the keeper asks of the slow evidence, beyond what the contract asks (docs/confirmation.md)."""

    policy: Literal["fast", "balanced", "cautious"] | None = "balanced"
    witnesses: dict[FeedId, dict[str, AnyWitness]] = Field(default={})
    """By feed and name: who else on chain is asked."""
    last_alarms: int = Field(default=50, ge=10, le=1_000)
    """So many of a market's ended alarms are looked at."""
    least_alarms: int = Field(default=10, ge=1, le=1_000)
    """With fewer nothing is said of it."""
    most_false: float = Field(default=0.8, gt=0, le=1)
    """The share of false ones above which a market is confirmed by a preset more cautious."""
    feeds: dict[FeedId, Bounds] = Field(default={})
    """Another policy for what hangs on a feed."""


class Reporter(Section):
    """When ``keeper report-prices`` posts; its keys are in KEEPER_REPORTER_KEYS."""

    deviation_bps: int = Field(default=10, ge=0, le=10_000)
    heartbeat_s: int = Field(default=12, gt=0)
    validity_s: int = Field(default=30, gt=0)
    lead_s: int = Field(default=10, ge=0)
    """How long after a head the price is observed."""
    confidence_bps: int = Field(default=10, ge=0, le=100)
    patience_s: int | None = Field(default=None, gt=0)
    """How long each reporter has its turn; a block by default, and never less."""
    listen: str | None = Field(default=None, pattern=LISTEN)
    """Where its reports are served, as host:port; nowhere without it."""
    peers: Several[PeerUrl] = ()
    """The other reporters; without any it is a quorum of its own."""


class Reports(Section):
    """Where ``keeper run`` hears reports, to post them with its own acts."""

    endpoints: Several[PeerUrl] = ()
    deviation_bps: int = Field(default=10, ge=0, le=10_000)
    """How far a signed price must be from a fresh one on chain to be posted with an act."""


class Steward(Section):
    """When ``keeper report-options`` posts, and at which volatilities; its keys are the reporters' own."""

    deviation_bps: int = Field(default=100, ge=1, le=200)
    """At 200 the contract takes an array for out of date."""
    heartbeat_s: int = Field(default=120, gt=0, lt=600)
    validity_s: int = Field(default=60, gt=0)
    most_arrays: int = Field(default=16, gt=0)
    """In one transaction."""
    vols: dict[FeedId, Annotated[float, Field(gt=0, le=5)]] = Field(default={})
    """Annualised, by feed: one volatility for all its options, or what the estimate starts from."""
    half_life_s: float | None = Field(default=None, gt=0)
    """Of an estimate from the feed's own returns; without it the volatilities stay as they are."""


class Config(BaseSettings):
    """One keeper on one deployment."""

    model_config = SettingsConfigDict(
        env_prefix="KEEPER_", env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True
    )

    chain: Chain
    deployment: Deployment
    feed: FeedSource
    wallet: Wallet = Wallet()
    signer: Signer = Signer()
    journal: JournalPlace = JournalPlace()
    mirror: Mirror = Mirror()
    trigger: Trigger = Trigger()
    ladder: Ladder = Ladder()
    alerts: Alerts = Alerts()
    health: Health = Health()
    limits: Spending = Spending()
    send: Send = Send()
    economics: Economics = Economics()
    depth: dict[Annotated[FeedId, AfterValidator(_as_key)], DepthOf] = Field(default={})
    pace: Pacing = Pacing()
    closing: Closing = Closing()
    exchange: Exchange = Exchange()
    confirmation: Confirmation = Confirmation()
    reporter: Reporter = Reporter()
    reports: Reports = Reports()
    steward: Steward = Steward()

    @model_validator(mode="after")
    def _can_share(self) -> Self:
        url = self.journal.url.get_secret_value() if self.journal.url else "postgresql://"
        if not url.startswith(("postgresql://", "postgres://")):
            raise ValueError("journal.url is no URL of PostgreSQL: postgresql://user:password@host/database")
        return self

    @model_validator(mode="after")
    def _can_convert(self) -> Self:
        needed = (self.closing.into, self.exchange.router, self.exchange.uniswap_v3)
        if self.closing.seized == "convert" and None in needed:
            raise ValueError(
                'closing.seized = "convert" needs closing.into, exchange.router and exchange.uniswap_v3'
            )
        return self

    @model_validator(mode="after")
    def _has_witnesses(self) -> Self:
        for feed, asked in self.confirmation.feeds.items():
            there = 1 + len(self.confirmation.witnesses.get(feed, {}))
            if isinstance(asked.agree, int) and asked.agree > there:
                raise ValueError(f"confirmation.feeds.{feed}: agree = {asked.agree}, and {there} are there")
        return self

    @model_validator(mode="after")
    def _can_post(self) -> Self:
        if self.reports.endpoints and self.deployment.protocol != "hybrid":
            raise ValueError("reports.endpoints: other protocols than hybrid take no reports")
        return self

    @model_validator(mode="after")
    def _can_batch(self) -> Self:
        if self.send.batch > 1 and self.deployment.protocol != "hybrid":
            raise ValueError("send.batch: no contract of other protocols than hybrid carries several acts")
        return self

    @model_validator(mode="after")
    def _can_borrow(self) -> Self:
        lends = self.closing.liquidator is None or self.closing.lender is not Lender.UNISWAP_V3
        if self.deployment.protocol == "perp_curie" and not lends:
            raise ValueError('on Perpetual closing.lender is "morpho" or "aave": no pool is looked up there')
        return self

    @model_validator(mode="after")
    def _is_of_one_chain(self) -> Self:
        preset = self.deployment.chain_id
        if preset is not None and preset != self.chain.chain_id:
            raise ValueError(f"the preset is of chain {preset}, chain.chain_id is {self.chain.chain_id}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment (``KEEPER_CHAIN__HTTP``) outrank the file, for endpoints that hold a secret."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    def pool_params(self) -> PoolParams:
        """Return how the endpoints are asked."""
        return PoolParams(
            requests_s=self.chain.requests_s,
            hedge_s=self.chain.hedge_ms / 1e3,
            broadcast=self.chain.broadcast,
            survey_s=self.chain.block_time_s,
        )

    def reader_params(self) -> ReaderParams:
        """Return how the chain is read."""
        return ReaderParams(block_time_s=self.chain.block_time_s, flat_fees=self.chain.flat_fees)

    def limits_for_guard(self) -> Limits:
        """Return the guard's limits in its own units."""
        limits = self.limits
        days = {market: each.notional_day for market, each in limits.markets.items()}
        inventories = {market: each.inventory for market, each in limits.markets.items()}
        return Limits(
            halted=limits.halted,
            kill_file=limits.kill_file,
            spend_day_wei=int(limits.spend_day_native * WAD),
            spend_hour_wei=_wad(limits.spend_hour_native),
            floor_wei=int(limits.wallet_floor_native * WAD),
            max_fee_wei=int(limits.max_fee_gwei * GWEI),
            notional_block_wad=int(limits.notional_block * WAD),
            notional_hour_wad=_wad(limits.notional_hour),
            market_day_wad={market: int(most * WAD) for market, most in days.items() if most is not None},
            inventory_wad={
                market: int(most * WAD) for market, most in inventories.items() if most is not None
            },
            loss_hour_wad=_wad(limits.loss_hour),
            loss_day_wad=_wad(limits.loss_day),
            attempts_hour=limits.attempts_hour,
            backoff_s=limits.backoff_s,
            backoff_max_s=limits.backoff_max_s,
            solvency_day_wad=int(self.economics.solvency_day * WAD),
            in_flight=self.send.in_flight,
            foreign_stops=self.send.foreign == "stop",
            depth_minute_wad={feed: depth.most_wad for feed, depth in self.depths().items()},
            accounts_allow=frozenset(limits.accounts_allow),
            accounts_deny=frozenset(limits.accounts_deny),
            markets_allow=frozenset(limits.markets_allow),
            markets_deny=frozenset(limits.markets_deny),
            breakers=limits.breakers.bounds(),
            breaker_rest_s=limits.breakers.rest_s,
        )

    def depths(self) -> dict[FeedId, Depth]:
        """Return how deep markets are, by feed or token."""
        return {feed: each.depth() for feed, each in self.depth.items()}

    def prudence(self) -> Prudence:
        """Return what is asked of every step, whatever the protocol."""
        economics, pace = self.economics, self.pace
        return Prudence(
            depth=self.depths(),
            pace=Pace(pace.kind, int(pace.share * WAD), int(pace.full_fall * WAD)),
            rest=Rest(economics.rest_s, int(economics.rest_band * WAD), self.chain.block_time_s),
            at_worst_fee=economics.at_worst_fee,
            solvency_day_wad=int(economics.solvency_day * WAD),
            old_blocks=pace.old_blocks,
        )

    def sender_params(self, *, dry_run: bool) -> SenderParams:
        """Return the sender's parameters."""
        return SenderParams(
            dry_run=dry_run,
            fees=self.fee_params(),
            via=self.send.via,
            private_blocks=self.send.private_blocks,
            patience=Patience(self.send.raise_after_blocks, outbids=rules_of(self.chain.chain_id).outbids),
            l1_bytes=self.chain.l1_bytes if self.chain.l1_fee == "op" else None,
        )

    def fee_params(self) -> FeeParams:
        """Return how much to bid."""
        return FeeParams(
            priority_fee_wei=int(self.limits.priority_fee_gwei * GWEI),
            max_fee_cap_wei=int(self.limits.max_fee_gwei * GWEI),
            tip_percentile=self.send.tip_percentile,
            max_priority_fee_wei=int(self.send.max_priority_fee_gwei * GWEI),
            full_blocks=self.send.full_blocks,
        )

    def journal_path(self, *, dry_run: bool) -> Path:
        """Return the journal's file; a dry run has one of its own beside it."""
        return _own(self.journal.path, dry_run=dry_run)

    def journal_place(self, *, dry_run: bool) -> Path | Shared:
        """Return the journal's file, or the schema of a shared one; a dry run has one of its own."""
        path, url = self.journal_path(dry_run=dry_run), self.journal.url
        if url is None:
            return path
        schema = self.journal.schema_name + ("_dry_run" if dry_run else "")
        return Shared(url.get_secret_value(), schema, path)

    def keep(self) -> Keep:
        """Return how much of the journal is kept."""
        return Keep(self.journal.keep_days, self.journal.keep_mb)

    def told(self) -> dict[str, Any]:
        """Return the settings as a tape keeps them: endpoints, which may hold a secret, are not told."""
        told: dict[str, Any] = _without_urls(self.model_dump(mode="json", by_alias=True))
        return told

    def shelf(self, *, dry_run: bool) -> pipeline.Shelf:
        """Return where the book lies on disk; a dry run has one of its own beside it."""
        return pipeline.Shelf(
            path=_own(self.mirror.snapshot, dry_run=dry_run),
            chain_id=self.chain.chain_id,
            deployment=name_of(self.deployment),
            every_blocks=self.mirror.snapshot_blocks,
        )

    def key_params(self) -> KeyParams:
        """Return where a key of this process is."""
        return KeyParams(self.wallet.keystore, self.wallet.passphrase_file, self.wallet.address)

    def signer_params(self) -> SignerParams:
        """Return whose transactions are signed, and by whom."""
        return SignerParams(self.key_params(), self.signer.elsewhere())

    @property
    def is_rehearsal(self) -> bool:
        """Whether the chain is one on which nothing has a worth."""
        return self.chain.chain_id in TEST_CHAINS

    def open_feed(self, *, dry_run: bool = False) -> AnyFeed:
        """Open the source of fast prices; nobody acts on invented ones where they could do harm."""
        if self.feed.kind == "generated" and not (dry_run or self.is_rehearsal):
            raise ConfigError(
                f'feed.kind = "generated" is for --dry-run and test chains, not for {self.chain.chain_id}'
            )
        return self.feed.open()

    def pipeline_params(self, *, dry_run: bool, page: int = pipeline.PAGE) -> pipeline.Params:
        """Return the parameters of the loop."""
        return pipeline.Params(
            block_time_s=self.chain.block_time_s,
            dry_run=dry_run,
            page=page,
            check_blocks=self.mirror.check_blocks,
            check_rows=self.mirror.check_rows,
            alarms=pipeline.AlarmParams(
                last=self.confirmation.last_alarms,
                least=self.confirmation.least_alarms,
                most_false=self.confirmation.most_false,
                rest_s=self.confirmation.chosen().timeout_s,
            ),
            depth=self.depths(),
            flow_fall=self.pace.flow_fall,
            batch=self.send.batch,
            climb=self.ladder.climb(),
            tide=self.ladder.book.book(),
            scope=self.deployment.scope,
            part=self.deployment.accounts,
            **self.trigger.model_dump(exclude={"announced"}),
        )

    def alert_params(self) -> AlertParams:
        """Return how many notices there may be."""
        return AlertParams(**self.alerts.model_dump())

    def desk_params(self) -> DeskParams:
        """Return the parameters of what decides."""
        return DeskParams(
            native_feed=self.economics.native_feed,
            deviation_bps=self.reports.deviation_bps,
            confirm=self.policies(),
            plan=plan.Params(
                min_profit_wad=int(self.economics.min_profit * WAD),
                upkeep=self.economics.upkeep,
                prudence=self.prudence(),
                block_time_s=self.chain.block_time_s,
            ),
        )

    def panel(self) -> Panel:
        """Return who on chain is asked besides the protocol's own oracle."""
        feeds = self.confirmation.witnesses.items()
        return Panel(
            {feed: tuple(each.called(name, feed) for name, each in some.items()) for feed, some in feeds}
        )

    def policies(self) -> Policies:
        """Return by which policy each feed is confirmed."""
        asked = self.confirmation
        feeds = {feed: each.chosen(asked) for feed, each in asked.feeds.items()}
        return Policies(asked.chosen(), feeds, self.chain.block_time_s)

    def lending_params(self) -> LendingDeskParams:
        """Return the parameters of what decides about loans."""
        closing = self.closing
        return LendingDeskParams(
            native_feed=self.economics.native_feed,
            confirm=self.policies(),
            plan=lending.Params(
                policy=closing.policy,
                target_health_wad=int(closing.target_health * WAD),
                slippage_wad=int(closing.slippage * WAD),
                min_profit_wad=int(self.economics.min_profit * WAD),
                flash=self._flash(),
                convert=self._conversion(),
                prudence=self.prudence(),
            ),
        )

    def _flash(self) -> lending.FlashParams | None:
        at = self.closing.liquidator
        return None if at is None else lending.FlashParams(at, self.closing.lender)

    def _conversion(self) -> lending.ConvertParams | None:
        router, into = self.exchange.router, self.closing.into
        if self.closing.seized == "keep" or router is None or into is None:
            return None
        return lending.ConvertParams(router, into)

    def perp_params(self) -> PerpDeskParams:
        """Return the parameters of what decides about Perpetual v2."""
        closing = self.closing
        return PerpDeskParams(
            native_feed=self.economics.native_feed,
            confirm=self.policies(),
            plan=perp.Params(
                policy=closing.policy,
                target_wad=int(closing.target_health * WAD),
                min_profit_wad=int(self.economics.min_profit * WAD),
                flash=self._flash(),
                prudence=self.prudence(),
            ),
        )

    def reporter_params(self) -> ReporterParams:
        """Return when the reporter posts; refuse observations that the next block would call future ones."""
        if self.reporter.lead_s > self.chain.block_time_s:
            bound = f"at most chain.block_time_s, {self.chain.block_time_s} s"
            raise ConfigError(f"reporter.lead_s must be {bound}, found {self.reporter.lead_s} s")
        block_time_s = self.chain.block_time_s
        patience_s = self.reporter.patience_s or block_time_s
        if patience_s < block_time_s:
            bound = f"at least chain.block_time_s, {block_time_s} s"
            raise ConfigError(f"reporter.patience_s must be {bound}, found {patience_s} s")
        when = self.reporter.model_dump(exclude={"listen", "peers", "patience_s"})
        return ReporterParams(block_time_s=block_time_s, patience_s=patience_s, **when)

    def steward_params(self) -> StewardParams:
        """Return when the steward posts."""
        return StewardParams(
            deviation_bps=self.steward.deviation_bps,
            heartbeat_s=self.steward.heartbeat_s,
            validity_s=self.steward.validity_s,
            most_arrays=self.steward.most_arrays,
            block_time_s=self.chain.block_time_s,
        )

    def open_vols(self, feed: Feed) -> Vols:
        """Open the source of volatilities, estimated from ``feed`` where a half-life is given."""
        if self.steward.half_life_s is None:
            return FixedVols(self.steward.vols)
        return EwmaVols(feed, initial=self.steward.vols, half_life_s=self.steward.half_life_s)


def load(path: Path) -> Config:
    """Read a configuration file; raise ConfigError where it is missing, malformed or incomplete.

    Relative paths in it are taken from the folder that the file is in.
    """
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} is not valid TOML: {error}") from error
    _resolve(raw, path.resolve().parent)
    try:
        return Config(**raw)
    except ValidationError as error:
        raise ConfigError(_explain(path, error)) from None
    except SettingsError as error:
        raise ConfigError(f"the environment cannot be used: {error}") from None


def _wad(amount: Decimal | None) -> int | None:
    return None if amount is None else int(amount * WAD)


def _without_urls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_urls(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_urls(each) for each in value]
    is_url = isinstance(value, str) and "://" in value
    return f"{value.partition('://')[0]}://not-told" if is_url else value


def _own(path: Path, *, dry_run: bool) -> Path:
    return path.with_name(f"{path.stem}.dry-run{path.suffix}") if dry_run else path


PATHS = (
    ("feed", "path"),
    ("journal", "path"),
    ("limits", "kill_file"),
    ("mirror", "snapshot"),
    ("wallet", "keystore"),
    ("wallet", "passphrase_file"),
    ("signer", "ca_file"),
    ("signer", "cert_file"),
    ("signer", "key_file"),
)
DEFAULT_PATHS = (
    ("journal", "path", JournalPlace().path),
    ("limits", "kill_file", Spending().kill_file),
    ("mirror", "snapshot", Mirror().snapshot),
)


def _resolve(raw: dict[str, Any], folder: Path) -> None:
    """Take relative paths from ``folder``; the defaults too, wherever the keeper is started."""
    for section, key, default in DEFAULT_PATHS:
        if isinstance(values := raw.setdefault(section, {}), dict):
            values.setdefault(key, str(default))
    for section, key in PATHS:
        values = raw.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            values[key] = folder / values[key]


def _place(parts: Sequence[object]) -> str:
    """Name a place as it is in the file, where the section of a deployment does not carry its protocol."""
    if parts[:1] in {("deployment",), ("feed",)}:
        parts = (parts[0], *parts[2:])
    return "".join(f"{part}." for part in parts)[:-1] or "as a whole"


def _explain(path: Path, error: ValidationError) -> str:
    """Name each place and what is wrong with it; never the value, which may hold a secret."""
    places = [f"{_place(item['loc'])}: {item['msg']}" for item in error.errors()]
    return f"the configuration {path} cannot be used: " + "; ".join(places)
