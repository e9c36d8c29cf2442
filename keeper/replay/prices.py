"""Decisions over recorded prices: the accounts of a book, and a chain whose prices follow those of a file.

Both clocks are simulated. The chain begins where the journal's tape ends, in agreement with the first prices,
and moves by deviation and heartbeat; nobody acts on it but on paper, so that each act is told once for each
state of an account, and no account ever changes.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from keeper.domain import Call, CaseEvent, ChainTime, FeedView, Head, OracleView, Quote, Refuse, Unknown
from keeper.errors import ConfigError
from keeper.execute.sender import ChainSender
from keeper.execute.sender import Params as SenderParams
from keeper.feeds.recorded import HEADER, PRICE, RecordedFeed
from keeper.journal.guard import Limits
from keeper.journal.store import SqliteJournal
from keeper.pipeline import Pipeline, Shelf
from keeper.ports import BlockUpdate, Range
from keeper.replay.scene import Scene
from keeper.state import archive
from keeper.units import BPS, WAD, Block, FeedId, UnixS, Wad

NEVER: Block = 2**62
RICH = hex(10**24)


@dataclass(frozen=True, slots=True)
class Clock:
    """When one of the chain's two prices of a feed follows."""

    deviation_wad: Wad
    heartbeat_s: int

    def is_due(self, price_wad: Wad, last: Quote, now_s: UnixS) -> bool:
        """Tell whether a price is told, seen the last one that was."""
        apart = abs(price_wad - last.price_wad) * WAD >= self.deviation_wad * last.price_wad
        return apart or now_s - last.observed_at_s >= self.heartbeat_s


@dataclass(frozen=True, slots=True)
class Clocks:
    """How a simulated chain follows; of HybridMargin each feed has a slow clock of its own on chain."""

    fast: Clock = field(default_factory=lambda: Clock(10 * WAD // BPS, 12))
    slow: Clock = field(default_factory=lambda: Clock(50 * WAD // BPS, 3_600))


@dataclass(frozen=True, slots=True)
class Decided:
    """What would have been done."""

    first: Head
    last: Head
    events: Sequence[CaseEvent]


def check(path: Path, max_age_s: int) -> tuple[UnixS, UnixS]:
    """Return the first and the last time of a file of prices.

    Raises ConfigError, with the line, where a price is none, comes twice, goes back in time, or comes so late
    that the one before has grown too old meanwhile.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the price file {path} cannot be read: {error}") from error
    if not lines or lines[0].strip() != HEADER or len(lines) < 2:
        raise ConfigError(f"the price file {path} must begin with the line {HEADER!r}, and have prices")
    last: dict[FeedId, UnixS] = {}
    times = [_checked(line, f"{path}:{number}", last, max_age_s) for number, line in enumerate(lines[1:], 2)]
    return min(times), max(times)


def _checked(line: str, place: str, last: dict[FeedId, UnixS], max_age_s: int) -> UnixS:
    """Check one line, seen when each feed was told last; return its time."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 3 or not parts[0].isdecimal():
        raise ConfigError(f"{place}: expected {HEADER}, found {line!r}")
    at_s, feed, text = int(parts[0]), parts[1], parts[2]
    digits = PRICE.fullmatch(text)
    if digits is None or not float(text) > 0:
        raise ConfigError(f"{place}: the price of {feed} must be a positive decimal, found {text!r}")
    before_s = last.get(feed, at_s - 1)
    if at_s == before_s:
        raise ConfigError(f"{place}: {feed} is told twice at {at_s}")
    if at_s < before_s:
        raise ConfigError(f"{place}: {feed} goes back in time, from {before_s} to {at_s}")
    if at_s - before_s > max_age_s:
        gap = f"from {before_s} to {at_s} there is no price of {feed}"
        raise ConfigError(f"{place}: {gap}, longer than feed.max_age_s, {max_age_s} s")
    last[feed] = at_s
    return at_s


async def decide(
    scene: Scene, prices: Path, book: Path, *, max_age_s: int, limits: Limits, clocks: Clocks
) -> Decided:
    """Run the decisions of a scene's keeper over a file of prices, for the accounts of a book."""
    first_s, last_s = check(prices, max_age_s)
    block, block_hash = archive.stamp_of(book)
    started = replace(scene.head, number=block, hash=block_hash)
    feed = _Shifted(RecordedFeed(prices, max_age_s=max_age_s), first_s - scene.head.timestamp_s)
    chain = _Chain(scene, started, feed, clocks)
    with tempfile.TemporaryDirectory(prefix="keeper-replay-") as folder:
        path = Path(folder) / "journal.sqlite"
        with closing(SqliteJournal(path, identity={"of": "prices"}, limits=limits, durable=False)) as journal:
            wallet: Any = _Wallet(scene.run.started["wallet"])
            paper: Any = _Paper()
            params = SenderParams(dry_run=True, fees=scene.parts.fees)
            pipeline: Pipeline[Any] = Pipeline(
                reader=chain,
                market=_Market(scene.market, chain),
                desk=_Desk(scene),
                feed=feed,
                journal=journal,
                sender=ChainSender(paper, journal, wallet, chain_id=scene.parts.chain_id, params=params),
                params=replace(scene.parts.params, dry_run=True, check_blocks=NEVER),
                shelf=Shelf(book, scene.parts.chain_id, scene.parts.deployment, NEVER),
            )
            head = first = chain.next()
            await pipeline.discover(head.number, head)
            while head.timestamp_s <= last_s - first_s + scene.head.timestamp_s:
                await pipeline.on_update(BlockUpdate(head, (), (head,), ()))
                head = chain.next()
            return Decided(first, chain.head, journal.events_after(0))


def words_of(decided: Decided, clocks: Clocks, *, is_hybrid: bool) -> Iterator[str]:
    """Tell what would have been done."""
    heads = decided.last.number - decided.first.number
    yield f"{heads} heads from block {decided.first.number}; both clocks are simulated, and nothing is sent:"
    fast, slow = (
        f"{each.deviation_wad * BPS / WAD:g} bps or {each.heartbeat_s} s"
        for each in (clocks.fast, clocks.slow)
    )
    if is_hybrid:
        yield f"  the fast price on chain follows at {fast}, the slow one as its feed is configured on chain"
    else:
        yield f"  the oracle on chain follows at {slow}"
    yield "  simulations of acts are taken to go through; accounts stay as the book has them"
    for event in decided.events:
        named = event.data.get("rule") or event.data.get("kind") or event.data.get("act") or ""
        yield f"block {event.block}, 0x{event.account.hex()}: {event.kind.value} {named}".rstrip()
    yield ""
    counts = Counter(event.kind.value for event in decided.events)
    cases = len({event.case_id for event in decided.events})
    yield f"{cases} cases, " + ", ".join(f"{count} x {kind}" for kind, count in sorted(counts.items()))


class _Shifted:
    """A recording whose time is brought to that of the chain."""

    def __init__(self, feed: RecordedFeed, by_s: int) -> None:
        self._feed = feed
        self._by_s = by_s

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        found = self._feed.latest(now_s + self._by_s)
        return {
            feed: replace(quote, observed_at_s=quote.observed_at_s - self._by_s)
            if isinstance(quote, Quote)
            else quote
            for feed, quote in found.items()
        }


class _Chain:
    """Implements ``ports.Reader`` over a world that follows prices."""

    def __init__(self, scene: Scene, head: Head, feed: _Shifted, clocks: Clocks) -> None:
        self._scene = scene
        self.head = head
        self._feed = feed
        self._clocks = clocks
        self._stamp = head
        self._fast: dict[FeedId, Quote] = {}
        self._slow: dict[FeedId, Quote] = {}
        self._begun = False

    def next(self) -> Head:
        """Add a block, and let the chain's prices follow."""
        step_s = self._scene.parts.params.block_time_s if self._begun else 0
        self._begun = True
        number, at_s = self.head.number + 1, self.head.timestamp_s + step_s
        self.head = Head(number, f"0x{number:064x}", self.head.hash, at_s, self.head.base_fee_wei)
        for feed, quote in self._feed.latest(at_s).items():
            if isinstance(quote, Quote):
                self._follow(feed, replace(quote, observed_at_s=at_s))
        return self.head

    def _follow(self, feed: FeedId, quote: Quote) -> None:
        for told, clock in ((self._fast, self._clocks.fast), (self._slow, self._slow_clock(feed))):
            last = told.get(feed)
            if last is None or clock.is_due(quote.price_wad, last, quote.observed_at_s):
                told[feed] = quote

    def _slow_clock(self, feed: FeedId) -> Clock:
        world = self._scene.world
        if isinstance(world, OracleView) and feed in world:
            return Clock(world[feed].slow_deviation_wad, world[feed].slow_heartbeat_s)
        return self._clocks.slow

    @property
    def world(self) -> Any:
        """What the chain says of prices now."""
        world = self._scene.world
        if isinstance(world, OracleView):
            return replace(world, feeds={feed: self._view(view) for feed, view in world.feeds.items()})
        follows: Any = self._scene.market
        return follows.fast(world, self._slow)

    def _view(self, view: FeedView) -> FeedView:
        fast, slow = self._fast.get(view.feed), self._slow.get(view.feed)
        if fast is None or slow is None:
            return view
        return replace(
            view,
            fast_wad=fast.price_wad,
            fast_observed_at_s=fast.observed_at_s,
            slow_wad=slow.price_wad,
            slow_updated_at_s=slow.observed_at_s,
            slow_ok=True,
            fast_ok=True,
        )

    # --- ports.Reader ---

    def updates(self) -> AsyncIterator[BlockUpdate]:
        raise NotImplementedError("blocks are told one by one")

    def watch(self, addresses: Sequence[str]) -> None:
        """Have no logs."""

    async def search(self, first: Block, last: Block) -> AsyncIterator[Range]:
        if first <= last:
            yield Range(last, self._stamp.hash, ())

    async def hash_at(self, number: Block) -> str | None:
        return self._stamp.hash if number == self._stamp.number else f"0x{number:064x}"

    async def call(self, call: Call, at_hash: str) -> bytes:
        return (await self.call_many([call], at_hash))[0]

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        del at_hash
        return [b""] * len(calls)

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        del sender, call, at, gas_limit
        return bytes(32)

    async def simulate_in_order(self, *_: object) -> None:
        """Leave each to be simulated by itself."""

    async def rerun(self, *_: object) -> bytes | Refuse:
        raise NotImplementedError("nothing is sent, so that nothing reverts")


class _Market:
    """A market whose prices are those of a simulated chain, and whose accounts stand still."""

    drifts = False

    def __init__(self, market: Any, chain: _Chain) -> None:
        self._market = market
        self._chain = chain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._market, name)

    def decode_prices(self, answer: bytes) -> Any:
        del answer
        return self._chain.world


class _Desk:
    """A desk that needs nothing read: what it acts with is as the tape has it."""

    own = ()

    def __init__(self, scene: Scene) -> None:
        self._desk: Any = scene.parts.desk
        self._funds = scene.funds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._desk, name)

    def calls(self, market: Any) -> list[Call]:
        del market
        return []

    def decode(self, market: Any, answers: Sequence[bytes]) -> Any:
        del market, answers
        return self._funds


class _Wallet:
    """Has an address, and no key."""

    def __init__(self, address: str) -> None:
        self.address = address


class _Paper:
    """The node of a wallet that never sends, and of a chain where nobody pays a tip."""

    async def request(self, method: str, params: list[Any]) -> Any:
        del params
        return {"reward": []} if method == "eth_feeHistory" else RICH

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        known = {"eth_getTransactionCount": "0x0", "eth_getBalance": RICH}
        return [known.get(method) for method, _ in calls]
