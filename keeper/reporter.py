"""The reporter: signs its own fast prices, and in its turn posts a bundle of everybody's.

Every key signs its own value, as often as it moves, a second apart at least, and what was signed last is
there for the others to ask for. Who may post is decided by the head alone (``Quorum.turn``), what is worth
posting by the chain and the bundle: so that there are never two bundles for one round. A reporter without
peers is a quorum of its own, and it is always its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from keeper.domain import Bundle, Call, ChainTime, FeedView, Head, Log, Observation, Quote, Report, Unknown
from keeper.errors import ChainFault, ConfigError
from keeper.ports import BlockUpdate, Feed, LiveFeed, Reader
from keeper.protocols.hybrid.quorum import (
    MAX_CONFIDENCE_BPS,
    MAX_SPREAD_S,
    Quorum,
    pick,
    said_by,
    unusable_among,
)
from keeper.protocols.hybrid.signing import address_of
from keeper.units import BPS, FeedId, UnixS

log = structlog.get_logger()

SIGN_S = 1.0
"""How often prices are looked at that do not move."""
ASK_AGAIN_S = 0.05
"""How soon peers are asked again that have not yet signed what this reporter has."""


@dataclass(frozen=True, slots=True)
class Params:
    """When to post. Times in seconds of chain time."""

    deviation_bps: int = 10
    heartbeat_s: int = 12
    validity_s: int = 30
    lead_s: int = 10
    """How long after a head the price is observed: late enough to be young in the block after the next."""
    confidence_bps: int = 10
    block_time_s: int = 12
    patience_s: int = 12
    """How long each reporter has its turn, and its bundle to be seen on chain."""
    gather_s: float = 1.0
    """How long, of real time, peers are waited for that are behind."""


class Oracle(Protocol):
    """The fast oracle of one deployment: pure encoding, decoding and signing."""

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Return the feeds that it has; no other is signed."""
        ...

    def prices_call(self) -> Call:
        """Build the read of both prices of every feed."""
        ...

    def decode_prices(self, answer: bytes) -> Mapping[FeedId, FeedView]:
        """Decode its answer."""
        ...

    def sign_report(self, observation: Observation, key: bytes) -> Report:
        """Sign one observation with one reporter's key (EIP-712)."""
        ...

    def post_call(self, bundles: Sequence[Bundle]) -> Call:
        """Build the transaction that posts one bundle of signed observations per feed."""
        ...

    def resigned(self, log_: Log) -> bool:
        """Tell whether a log says that other reporters may sign from now on."""
        ...


class Postman(Protocol):
    """Sends transactions that may safely be repeated: the oracle takes each observation once."""

    async def post(self, call: Call, head: Head) -> str:
        """Sign and send; return the hash."""
        ...

    async def has_pending(self) -> bool:
        """Tell whether one of its transactions waits to be included."""
        ...


class Roll(Protocol):
    """Who may sign, as the chain says."""

    @property
    def quorum(self) -> Quorum:
        """Return what was read last."""
        ...

    async def read(self, at: ChainTime) -> None:
        """Read it anew, as block ``at`` will have it."""
        ...


class Peers(Protocol):
    """The other reporters."""

    async def ask(self) -> Sequence[Report]:
        """Ask all of them at once for what they have signed; return what those say that answer in time."""
        ...

    def heard(self) -> Sequence[Report]:
        """Return what they said last, whenever that was; each with a signature that is one."""
        ...


def due(view: FeedView, quote: Quote, params: Params) -> bool:
    """Tell whether a quote is worth posting: newer than the stored price, and moved or overdue."""
    if quote.observed_at_s <= view.fast_observed_at_s:
        return False
    if quote.observed_at_s - view.fast_observed_at_s >= params.heartbeat_s:
        return True
    return abs(quote.price_wad - view.fast_wad) * BPS >= params.deviation_bps * view.fast_wad


class Reporter:
    """Signs what a feed says, and posts what a quorum has signed."""

    def __init__(
        self,
        *,
        reader: Reader,
        oracle: Oracle,
        feed: Feed,
        postman: Postman,
        keys: Sequence[bytes],
        roll: Roll,
        params: Params,
        peers: Peers | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if peers is None and len(set(keys)) < roll.quorum.size:
            needed = f"the oracle's quorum needs {roll.quorum.size}"
            raise ConfigError(f"{len(set(keys))} different reporter keys given and no peers, {needed}")
        self._reader = reader
        self._oracle = oracle
        self._feed = feed
        self._postman = postman
        self._keys = list(dict.fromkeys(keys))
        self._addresses = {address_of(key) for key in keys}
        self._roll = roll
        self._params = params
        self._peers = peers
        self._clock = clock
        self._signed: dict[FeedId, list[Report]] = {}
        """What each key has signed last."""
        self._sent: dict[FeedId, tuple[UnixS, int]] = {}
        """The round of each feed that was posted last: what the chain had of it, and whose turn it was."""
        self._unknown_until: int | None = None
        """The turn that this process was started in: what one before it has sent in it, it does not know."""
        self.busy = asyncio.Lock()
        """Held while a head is worked on."""

    def __repr__(self) -> str:
        return f"Reporter({len(self._keys)} keys)"

    @property
    def reports(self) -> Sequence[Report]:
        """Return what each key has signed last, of every feed."""
        return [report for reports in self._signed.values() for report in reports]

    async def run(self) -> None:
        """Report at every head until cancelled; where prices move between heads, sign them as they do."""
        signing = asyncio.create_task(self._sign_for_ever())
        try:
            async for update in self._reader.updates():
                await self._until_late(update.head)
                async with self.busy:
                    if signing.done():
                        signing.result()
                    try:
                        await self._heed(update)
                        posted = await self.on_head(update.head)
                    except ChainFault as fault:
                        log.warning("head.failed", block=update.head.number, why=str(fault))
                        continue
                log.info("reporter.head_done", block=update.head.number, posted=posted)
        finally:
            signing.cancel()

    async def on_head(self, head: Head) -> list[FeedId]:
        """Sign what the feed says; in its turn post one bundle for every feed that is due, and name them."""
        answer = await self._reader.call(self._oracle.prices_call(), head.hash)
        views = self._oracle.decode_prices(answer)
        quotes = self._feed.latest(self._now_s(head))
        self._sign(quotes)
        self._warn(views, quotes, head)
        turn = head.timestamp_s // self._params.patience_s
        if not await self._may_post(head, turn):
            return []
        reports = [*self.reports, *await self._gather()]
        at_s = head.timestamp_s + self._params.block_time_s
        for signer, reason in dict(unusable_among(reports, views, at_s)).items():
            log.warning("report.unusable", signer=signer, why=str(reason))
        bundles = {
            feed: bundle
            for feed, view in views.items()
            if (bundle := self._bundle(reports, view, at_s)) is not None
            and self._sent.get(feed) != (view.fast_observed_at_s, turn)
        }
        if bundles:
            await self._postman.post(self._oracle.post_call([*bundles.values()]), head)
            self._sent |= {feed: (views[feed].fast_observed_at_s, turn) for feed in bundles}
        return [*bundles]

    def _bundle(self, reports: Sequence[Report], view: FeedView, at_s: UnixS) -> Bundle | None:
        """Return the bundle of one feed that is worth posting, if any."""
        of_feed = [report for report in reports if report.observation.feed == view.feed]
        bundle = pick(of_feed, self._roll.quorum, view, at_s)
        return bundle if bundle is not None and due(view, said_by(bundle), self._params) else None

    async def _may_post(self, head: Head, turn: int) -> bool:
        """Tell whether it is its turn, and nothing is on its way that a process before this one has sent."""
        whose = self._roll.quorum.turn(head.timestamp_s, self._params.patience_s)
        if self._peers is not None and whose not in self._addresses:
            return False
        if self._unknown_until is None:
            self._unknown_until = turn
        if turn == self._unknown_until and await self._postman.has_pending():
            log.info("reporter.holds", block=head.number, why="an earlier post is pending")
            return False
        return True

    async def _gather(self) -> Sequence[Report]:
        """Ask the peers; for a moment again, while some are behind what this reporter has itself."""
        if self._peers is None:
            return ()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._params.gather_s):
                said = await self._peers.ask()
                while any(self._is_behind(report) for report in said):
                    await asyncio.sleep(ASK_AGAIN_S)
                    said = await self._peers.ask()
        return self._peers.heard()

    def _is_behind(self, report: Report) -> bool:
        seen = report.observation
        own_s = max((each.observation.observed_at_s for each in self._signed.get(seen.feed, ())), default=0)
        return (own_s - seen.observed_at_s) * 2 > MAX_SPREAD_S

    # --- what it signs ---

    def _now_s(self, head: Head) -> UnixS:
        """Return the time of its prices: a recording is read by chain time, late in the slot."""
        if isinstance(self._feed, LiveFeed):
            return int(self._clock())
        return head.timestamp_s + self._params.lead_s

    async def _until_late(self, head: Head) -> None:
        """Wait until so late in the slot that a price posted now is young in the block after the next."""
        if isinstance(self._feed, LiveFeed):
            left_s = head.timestamp_s + self._params.lead_s - self._clock()
            await asyncio.sleep(max(0.0, min(left_s, self._params.lead_s)))

    async def _sign_for_ever(self) -> None:
        """Sign what moves between heads, so that what is asked for is young."""
        if not isinstance(self._feed, LiveFeed):
            return
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SIGN_S):
                    await self._feed.tick()
            self._sign(self._feed.latest(int(self._clock())))

    def _sign(self, quotes: Mapping[FeedId, Quote | Unknown]) -> None:
        """Sign what is newer than what was signed: a key never says two things of one feed and second."""
        for feed in self._oracle.feeds:
            quote, last = quotes.get(feed), self._signed.get(feed)
            if not isinstance(quote, Quote) or self._confidence_bps(quote) > MAX_CONFIDENCE_BPS:
                continue
            if last and quote.observed_at_s <= last[0].observation.observed_at_s:
                continue
            observation = Observation(
                feed=feed,
                price_wad=quote.price_wad,
                confidence_bps=self._confidence_bps(quote),
                observed_at_s=quote.observed_at_s,
                valid_until_s=quote.observed_at_s + self._params.validity_s,
            )
            self._signed[feed] = [self._oracle.sign_report(observation, key) for key in self._keys]

    def _confidence_bps(self, quote: Quote) -> int:
        return max(self._params.confidence_bps, quote.confidence_bps)

    def _warn(
        self, views: Mapping[FeedId, FeedView], quotes: Mapping[FeedId, Quote | Unknown], head: Head
    ) -> None:
        """Say aloud of which feeds it has no price of its own that counts."""
        for feed, view in views.items():
            quote = quotes.get(feed, Unknown(feed, "the feed does not serve it"))
            if isinstance(quote, Unknown):
                log.warning("feed.unknown", feed=feed, why=quote.why)
                continue
            age_s = head.timestamp_s + self._params.block_time_s - quote.observed_at_s
            if age_s > view.fast_max_age_s:
                log.warning("feed.too_old", feed=feed, age_s=age_s, bound_s=view.fast_max_age_s)
            elif self._confidence_bps(quote) > MAX_CONFIDENCE_BPS:
                found = self._confidence_bps(quote)
                log.warning("feed.unconfident", feed=feed, bps=found, bound_bps=MAX_CONFIDENCE_BPS)

    async def _heed(self, update: BlockUpdate) -> None:
        """Read anew who may sign, where a block that came or went has changed it."""
        if update.orphaned or any(self._oracle.resigned(each) for each in update.logs):
            head = update.head
            at = ChainTime(head.number + 1, head.timestamp_s + self._params.block_time_s)
            await self._roll.read(at)
