"""A scenario as data, and a whole keeper to which it happens: taped, so that it can be decided again.

A scenario is a table of blocks, played on HybridMargin and on Morpho Blue alike, or on Aave v3: prices are
shares of those at the start, and the account at risk is in breach below ``EDGE`` of them on any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

from keeper.confirm.policy import BALANCED, Policies, Policy
from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as HybridParams
from keeper.desk.lending import LendingDesk
from keeper.desk.lending import Params as LendingParams
from keeper.desk.port import Judgement
from keeper.domain import CaseEvent, EventKind, Leg, Quote, Unknown
from keeper.execute.fees import FeeParams
from keeper.execute.sender import ChainSender
from keeper.execute.sender import Params as SenderParams
from keeper.feeds.composite import Offer, compose
from keeper.feeds.composite import Params as Asked
from keeper.feeds.heard import VenueQuote
from keeper.journal.reader import JournalReader
from keeper.journal.runs import Run
from keeper.ladder import NEVER, Book
from keeper.lending.routes import Hop, Pool, Route
from keeper.pipeline import Params, Pipeline
from keeper.plan.lending import Params as Closing
from keeper.ports import Journal, Reports
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.aave_v3.rows import AaveRow
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.replay.deck import Deck
from keeper.replay.play import play_run, playable
from keeper.replay.scene import Parts, scene_at
from keeper.units import WAD, AccountKey, FeedId, Wad
from keeper.why.explain import explain, words_of
from tests.scenarios.chains import (
    CLOSING,
    LendingChain,
    LoanChain,
    MarginChain,
    Reacting,
    Said,
    share_of,
)
from tests.scenarios.pool_chains import HELD, AaveChain, VenusChain
from tests.unit.pipeline.desk import EMPTY, FIRST, KEEPER, SIGNER, Desk, _short
from tests.unit.pipeline.ticking import Ticker
from tests.unit.protocols.aave_v3 import pools
from tests.unit.protocols.compound_v2 import made as venus
from tests.unit.protocols.hybrid.books import PRICES
from tests.unit.protocols.morpho_blue import made

EDGE = 0.97
"""The share of the first price below which the account is in breach."""
OWNER = b"\x0a" * 20
CALM = b"\x0c" * 20
"""The owner at risk, and one who is never near."""
LONG = Leg(1, 100 * WAD, -21_000 * WAD)
OWED = round(2_000 * EDGE * 0.86 * 10**6)
"""What both hold, or owe in millionths of a dollar at the most: by these the edge is where it is."""
BORROWED = round(5 * 2_000 * EDGE * 0.8)
"""What is owed in a pool at the most, in dollars, against five ether."""
VENUES = 3
GAS = "GAS/USD"
SIGHTED = Book(feeds_lost=(NEVER, NEVER, NEVER))
"""For a book that no lost feed makes more cautious: then each preset is itself."""
HYBRID, MORPHO, AAVE, VENUS = "HybridMargin", "Morpho Blue", "Aave v3", "Venus"
PROTOCOLS = (HYBRID, MORPHO)
"""Those on which every story is played."""
POOLS = (AAVE, VENUS)
"""Those on which each story ends as it does on Morpho Blue."""
CHAINS: Mapping[str, type[Reacting]] = {
    HYBRID: MarginChain,
    MORPHO: LoanChain,
    AAVE: AaveChain,
    VENUS: VenusChain,
}


@dataclass(frozen=True, slots=True)
class Beat:
    """One block, and what has happened before it. What is not said stays as it was."""

    fast: float | None = None
    """What the venues say."""
    chain: float | None = None
    """What the protocol's own source answers, anew in this block."""
    depegged: float | None = None
    """What one venue of three says, times that; 1 again where it is back."""
    silent: bool | None = None
    """Whether there is no fast price, off chain and on."""
    posted: bool = True
    """Whether the protocol's fast price, where it has one, follows the venues."""
    aged_s: int | None = None
    """How old the answer of the protocol's own source is by this block."""
    late_s: int = 0
    """How much later than twelve seconds after the last one it comes."""
    mined: bool = True
    """Whether what is pending is included."""
    reverts: bool = False
    """Whether somebody was faster, so that what is included reverts."""
    deposit: float = 0.0
    """What the owner pays in, over what was held at first."""
    taken: bool = False
    """Whether somebody else closes the account."""
    reorg: int = 0
    """How many of the newest blocks it replaces, beside coming after them."""
    restart: bool = False
    """Whether the keeper has been started anew."""
    missed: int = 0
    """Of how many blocks before it the keeper never hears, since it is not there."""
    ticks: tuple[float, ...] = ()
    """What the venues say after it, tick by tick."""
    lagging: float = 0.0
    """What share of the endpoints is behind."""
    times: int = 1
    """So many such blocks, one after the other."""


Errs: TypeAlias = Callable[[Judgement[Any]], Judgement[Any]]


@dataclass(frozen=True, slots=True)
class Erring:
    """A desk that means well, and gets what it decides wrong: the door is there for it."""

    desk: Any
    errs: Errs

    def judge(self, *asked: Any) -> Judgement[Any] | Unknown:
        """Judge an account wrongly."""
        found = self.desk.judge(*asked)
        return found if isinstance(found, Unknown) else self.errs(found)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.desk, name)


@dataclass
class Venues(Ticker):
    """Composes three venues into a price, by the keeper's own rule."""

    over: dict[FeedId, float] = field(default_factory=dict)
    """The prices of the world, over those at the start."""
    depegged: float = 1.0
    silent: set[FeedId] = field(default_factory=set)
    base: dict[FeedId, Wad] = field(default_factory=dict)

    def latest(self, now_s: int) -> dict[FeedId, Quote | Unknown]:
        return {feed: self._price(feed, now_s) for feed in self.base}

    def _price(self, feed: FeedId, now_s: int) -> Quote | Unknown:
        if feed in self.silent:
            return Unknown(feed, "no venue speaks")
        price_wad = share_of(self.base[feed], self.over.get(feed, 1.0))
        odd_wad = share_of(price_wad, self.depegged if feed in self.over else 1.0)
        said = [price_wad] * (VENUES - 1) + [odd_wad]
        offers = [
            Offer(f"venue {number}", VenueQuote(each, each, now_s * 1000, 0))
            for number, each in enumerate(said)
        ]
        return compose(feed, offers, now_s * 1000, Asked()).quote


def first_loan(protocol: str, owner: bytes, part: int = 1) -> Any:
    """Return the loan of an owner as it is at first: so large a part of what makes it break at the edge."""
    key = owner + bytes(12)
    if protocol == AAVE:
        return AaveRow(key, 0, ((pools.WETH, HELD),), ((pools.USDC, BORROWED * 10**6 // part),))
    if protocol == VENUS:
        # Less by what grows within these blocks: on the edge itself it is in no breach.
        return replace(venus.loan((BORROWED - 1) // part, HELD / WAD), key=key)
    return replace(made.loan(OWED // part), key=owner + made.FIRST[:12])


class Stage:
    """A keeper on one of the protocols, the world around it, and what it has journaled."""

    def __init__(
        self, path: Path, protocol: str, policy: Policy = BALANCED, *, restarting: bool = False
    ) -> None:
        self.protocol = protocol
        self.policy = policy
        self.is_margin = protocol == HYBRID
        self.feed_id: FeedId = "BTC/USD" if self.is_margin else "ETH/USD"
        self.base_wad = PRICES["BTC/USD"] if self.is_margin else 2_000 * WAD
        self.native = "ETH/USD" if self.is_margin else GAS
        self.chain: Reacting = CHAINS[protocol]()
        self.desk = desk = Desk(path, restarting=restarting, chain=self.chain)
        others = {feed: price for feed, price in self.chain.slow.items() if feed != self.feed_id}
        self.venues = Venues(
            self.chain,
            base={**others, "USDC/USD": WAD, GAS: 2_000 * WAD, self.feed_id: self.base_wad},
            over={self.feed_id: 1.0},
        )
        self.chain.slow[self.feed_id] = self.chain.fast[self.feed_id] = self.base_wad
        desk.feed = self.venues
        desk.taping = True
        desk.native_feed = self.native
        desk.protocol = self._market  # type: ignore[assignment]
        desk.deciding = self._live  # type: ignore[assignment]
        self.loans = Closing()
        """By which loans are closed; ``desk.plan`` by which accounts of HybridMargin are."""
        self.roads = Roads()
        self.errs: Errs | None = None
        """How its desk goes wrong, where it does."""
        self.listing = made.LISTING
        """What a keeper of Morpho Blue has read of its markets before the start."""
        self.reports: Reports | None = None
        """Whom a keeper of HybridMargin hears."""
        self.margin = replace(EMPTY, key=OWNER + bytes(12), cash_wad=2_570 * WAD, legs=(LONG,))
        """The account at risk as it is at first; of Morpho Blue it is the loan."""
        self.loan = first_loan(protocol, OWNER)
        self.share = self.chain_share = 1.0
        self.chain.clocks = self._said
        # A confirmed account of HybridMargin is closed until it is cured.
        self.edge = EDGE + 0.01 if self.is_margin else EDGE

    def open(self) -> None:
        """Start the keeper, as all is set now."""
        self.desk.start()
        if isinstance(self.chain, MarginChain):
            self.chain.put(self.margin)
            self.chain.put(replace(EMPTY, key=CALM + bytes(12), cash_wad=19_000 * WAD, legs=(LONG,)))
        elif isinstance(self.chain, LendingChain):
            self.chain.lend(self.loan)
            self.chain.lend(first_loan(self.protocol, CALM, 4))

    @property
    def key(self) -> AccountKey:
        """The account at risk."""
        return OWNER + (made.FIRST[:12] if self.protocol == MORPHO else bytes(12))

    @property
    def tokens(self) -> tuple[str, ...]:
        """What a closing seizes, where that is a token."""
        return () if self.is_margin else (made.WETH,)

    def _said(self) -> Said:
        return Said(None if self.venues.silent else self.share, self.chain_share, self._edge())

    def _edge(self) -> float:
        """Return the share below which the account is in breach, with what was paid in and taken since."""
        if not isinstance(self.chain, LendingChain):
            return self.edge
        held, owed = self.chain.amounts(self.chain.loans[self.key])
        held_first, owed_first = self.chain.amounts(self.loan)
        return self.edge * owed * held_first / (held * owed_first) if held else inf

    def _market(self, deployment: Any) -> Any:
        if isinstance(self.chain, AaveChain):
            return AaveMarket(self.chain.pool)
        if isinstance(self.chain, VenusChain):
            return VenusMarket(venus.LISTING)
        return HybridMarket(deployment) if self.is_margin else MorphoMarket(self.listing)

    def _live(self, *_: Any) -> Any:
        tape = self.desk.tape
        return self._deciding(tape.reports(self.reports) if tape and self.reports else None)

    def _deciding(self, reports: Reports | None) -> Any:
        desk = self._desk(reports)
        return Erring(desk, self.errs) if self.errs else desk

    def _desk(self, reports: Reports | None) -> Any:
        policies = Policies(self.policy)
        if self.is_margin:
            params = HybridParams(self.native, confirm=policies, plan=self.desk.plan)
            return HybridDesk(SIGNER.address, KEEPER, params, reports)
        return LendingDesk(
            SIGNER.address.lower(), LendingParams(self.native, policies, self.loans), self.roads
        )

    # --- what happens ---

    async def play(self, beats: Sequence[Beat]) -> None:
        """Let a table happen."""
        for beat in beats:
            for _ in range(beat.times):
                await self.block(beat)

    async def stood(self, beats: Sequence[Beat], of: Callable[[], str]) -> str:
        """Let a table happen; say where something stood, and for how many blocks each time."""
        stands = []
        for beat in beats:
            for _ in range(beat.times):
                await self.block(beat)
                stands.append(of())
        return ", ".join(f"{stand} {len(list(blocks))}" for stand, blocks in groupby(stands))

    async def block(self, beat: Beat) -> None:
        """Let one block come, and have the keeper hear of it."""
        self.chain.late_s += beat.late_s
        for _ in range(beat.missed):
            self.chain.extend()
        orphaned = self.chain.cut(beat.reorg) if beat.reorg else []
        adopted = [self.chain.extend() for _ in range(beat.reorg + 1)]
        self._price(beat)
        if beat.mined:
            self.chain.mine(status=int(not beat.reverts))
        if beat.deposit:
            self._deposit(beat.deposit)
        if beat.taken:
            self.chain.taken(self.key)  # type: ignore[attr-defined]
        self.desk.lagging = beat.lagging
        if self.desk.restarting or beat.restart:
            self.desk.start()
        await self.desk.hear(orphaned, adopted)
        if beat.ticks:
            await self.desk.pipeline.prepare()
        for price in beat.ticks:
            await self.tick(price)

    async def tick(self, share: float) -> None:
        """Have the venues say something else between two heads."""
        self.share = self.venues.over[self.feed_id] = share
        self.desk.pipeline.on_tick(self.venues.move(self.feed_id, 0))
        await self.desk.pipeline.on_alarm()

    def _price(self, beat: Beat) -> None:
        feed, chain = self.feed_id, self.chain
        if beat.fast is not None:
            self.share = self.venues.over[feed] = beat.fast
        if beat.depegged is not None:
            self.venues.depegged = beat.depegged
        if beat.silent is not None:
            self.venues.silent = chain.silent = {feed} if beat.silent else set()
        quote = self.venues.latest(chain.tip.timestamp_s)[feed]
        if beat.posted and isinstance(quote, Quote):
            chain.fast[feed] = quote.price_wad
        if beat.chain is not None:
            self.chain_share = beat.chain
            chain.answer(feed, share_of(self.base_wad, beat.chain))
        if beat.aged_s is not None:
            chain.slow_at_s = chain.tip.timestamp_s - beat.aged_s

    def _deposit(self, share: float) -> None:
        if isinstance(self.chain, MarginChain):
            found = self.chain.accounts[self.key]
            self.chain.put(replace(found, cash_wad=found.cash_wad + share_of(20_000 * WAD, share)))
        elif isinstance(self.chain, LendingChain):
            self.chain.pay_in(self.key, share)

    # --- what came of it ---

    @property
    def events(self) -> list[CaseEvent]:
        """All that was journaled, in order."""
        return self.desk.journal.events_after(0)

    def told(self) -> str:
        """Say in short what was journaled, block by block: ``2: Suspected, Sent; 3: Included``."""
        blocks: dict[int, list[str]] = {}
        for event in self.events:
            if said := short(event):
                blocks.setdefault(event.block - FIRST, []).append(said)
        return "; ".join(f"{block}: {', '.join(said)}" for block, said in blocks.items())

    def rung(self) -> str:
        """Return on which rung the account stands."""
        care = self.desk.pipeline._care
        case = care._cases.get(self.key)
        if case is None or case.status == "called":
            return self.desk.pipeline._rungs.of(self.key).label
        return case.rung.label

    def level(self) -> str:
        """Return on which level the book stands."""
        return self.desk.pipeline.vitals.level.name.lower()

    def taking(self) -> dict[str, CaseEvent | None]:
        """Return whatever was sent that takes something of an account, with its reserved event."""
        steps = self.desk.journal._rows(
            "SELECT step_id, tx_hash FROM steps UNION SELECT step_id, tx_hash FROM sends"
        )
        of = {row["tx_hash"]: row["step_id"] for row in steps}
        reserved = {event.data["step_id"]: event for event in self.events if event.kind is EventKind.RESERVED}
        return {
            tx_hash: reserved.get(of.get(tx_hash, ""))
            for tx_hash, data in self.chain.calldata.items()
            if data and self.chain.named(data) in CLOSING
        }

    # --- and again ---

    async def make(
        self, deck: Deck, journal: Journal, sender: ChainSender, book: Path | None
    ) -> Pipeline[Any]:
        """Make the same keeper again, for a tape."""
        assert book is None
        return Pipeline(
            reader=deck.reader,
            market=self._market(self.chain.deployment),
            desk=self._deciding(self.reports and deck.reports),
            feed=deck.feed(live=True),
            journal=journal,
            sender=sender,
            params=self.params,
            panel=self.desk.panel,
            tape=deck,
        )

    @property
    def params(self) -> Params:
        """What the loop goes by."""
        desk = self.desk
        return Params(alarms=desk.alarms, climb=desk.climb, tide=desk.tide, depth=desk.depth)

    async def replayed(self) -> list[str]:
        """Decide all of the tape again; return what is otherwise."""
        assert self.desk.violations() == []
        recorded = len(self.events)
        self.desk.close()
        with closing(JournalReader(self.desk.path)) as reader:
            runs = playable(reader)
        found = [
            await play_run(self.desk.path, run, self.make, limits=self.desk.limits, sender=SenderParams())
            for run in runs
        ]
        otherwise = [f"run {each.run}: {was} | {now}" for each in found for was, now in each.differences]
        asked = [f"run {each.run}: {each.beyond}, {each.unasked} unasked, {each.cut} cut" for each in found
                 if each.beyond or each.unasked or each.cut]  # fmt: skip
        assert sum(len(each.now) for each in found) == recorded
        return [*otherwise, *asked]

    async def explained(self, block: int | None = None) -> dict[str, dict[str, Any]]:
        """Ask of every account why it stands where it does, or did at a block; return what was answered."""
        self.desk.close()
        with closing(JournalReader(self.desk.path)) as reader:
            scene = await scene_at(reader, self._parts, block)
            said = {
                "0x" + key.hex(): explain(reader, scene, "0x" + key.hex(), block)
                for key in scene.book.keys.tolist()
            }
        for each in said.values():
            json.dumps(each, allow_nan=False)
            assert list(words_of(each))
        return said

    async def _parts(self, run: Run, answers: Any, said: Reports) -> Parts:
        del run, answers
        market: Any = self._market(self.chain.deployment)
        return Parts(
            market,
            self._deciding(self.reports and said),
            self.params,
            FeeParams(),
            31337,
            "hybrid",
            panel=self.desk.panel,
            policies=Policies(self.policy),
        )


@dataclass(frozen=True, slots=True)
class Roads:
    """Where tokens are sold: nowhere, unless a pool is there; and nobody lends beside it."""

    pools: tuple[Pool, ...] = ()

    def routes(self, sell: str, buy: str) -> Sequence[Route]:
        """Return the way over each pool."""
        del buy
        return [(Hop(pool, sell),) for pool in self.pools]

    def lender(self, token: str, route: Route) -> Pool | None:
        """Return nobody."""
        del token, route
        return None


def short(event: CaseEvent) -> str:
    """Say an event in short; nothing of what the chain shows, but that something was taken."""
    if event.kind is EventKind.OBSERVED:
        return "Taken" if event.data.get("closes") else ""
    if event.kind is EventKind.MOVED:
        return f"Moved {event.data['rung']}"
    if event.kind is EventKind.CLOSED and (left := event.data.get("left_to_others")):
        return f"Closed, left to others by {left['rule']}"
    return _short(event)
