"""The steward: computes what listed options are worth, signs it and posts it, and settles what has expired.

One transaction carries the risk arrays of all options that are due; a quorum of the oracle's signers signs
one digest over them. Here one operator holds all keys, as in a lab, and its bad volatility moves margin as
far as the contract's bounds let it. Signers who check another's arrays by their own are not built.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from keeper.domain import (
    Agree,
    ArrayView,
    Call,
    FeedView,
    Head,
    Instrument,
    Kind,
    OracleView,
    Quote,
    Reason,
    Refuse,
    Unknown,
)
from keeper.errors import ChainFault, ConfigError
from keeper.ports import Feed, Reader, read_through
from keeper.risk.scenarios import Option, PackedArray, VolShocks, array_of, pack
from keeper.risk.volatility import HALF_LIFE_S, SAMPLE_S, Ewma
from keeper.units import BPS, WAD, FeedId, UnixS, Wad

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Params:
    """When to post and to settle. Times in seconds of chain time."""

    deviation_bps: int = 100
    """Half of the move after which the contract takes an array for out of date."""
    heartbeat_s: int = 120
    validity_s: int = 60
    """How long signatures count; an option that expires sooner is no longer posted."""
    max_age_s: int = 60
    """The oldest price that the contract takes an array of."""
    most_arrays: int = 16
    """The most arrays of one transaction: what waits longest goes first."""
    settle_every_s: int = 60
    """Between two attempts at a settlement: each takes the wallet's one transaction of a head."""
    block_time_s: int = 12
    shocks: VolShocks = field(default_factory=VolShocks)


@dataclass(frozen=True, slots=True)
class Listed:
    """A live option as a deployment lists it."""

    option: Option
    feed: FeedId
    posted: ArrayView | None
    """What the chain holds."""
    mmrs_wad: tuple[Wad, Wad]
    """Its underlying's maintenance margin in the next block, and when the signatures lapse."""


@dataclass(frozen=True, slots=True)
class Post:
    """What a quorum signs."""

    arrays: tuple[PackedArray, ...]
    valid_until_s: UnixS


@dataclass(frozen=True, slots=True)
class Expiry:
    """All options of one underlying that expire at one moment: they settle together."""

    feed: FeedId
    expiry_s: UnixS


class Venue(Protocol):
    """The options of one deployment: pure encoding, decoding and signing."""

    @property
    def version(self) -> int:
        """Return the ``Globals.version`` at which the listing was read; another one makes it out of date."""
        ...

    def refresh(self) -> Generator[list[Call], list[bytes], Venue]:
        """Find out the listing anew: yields the calls of each round, is sent the answers of one block."""
        ...

    def prices_call(self) -> Call:
        """Build the read of prices, risk arrays and settlements."""
        ...

    def decode_prices(self, answer: bytes) -> OracleView:
        """Decode its answer."""
        ...

    def instruments(self, oracles: OracleView, at_s: UnixS) -> tuple[Instrument, ...]:
        """Return what is listed, market 1 first, with the terms of chain time ``at_s``."""
        ...

    def broken_bound(self, market: int, array: ArrayView, at_s: UnixS) -> Reason | None:
        """Say which bound the chain would refuse an array for at chain time ``at_s``, if any."""
        ...

    def sign_arrays(self, post: Post, key: bytes) -> bytes:
        """Sign a post with one signer's key (EIP-712)."""
        ...

    def post_arrays_call(self, post: Post, signatures: Sequence[bytes]) -> Call:
        """Build the transaction that posts arrays."""
        ...

    def settle_call(self, feed: FeedId, expiry_s: UnixS) -> Call:
        """Build the transaction that settles an expiry."""
        ...


class Publisher(Protocol):
    """Sends transactions that may safely be repeated: a post counts once, and so does a settlement."""

    async def post(self, call: Call, head: Head) -> str:
        """Sign and send, in the place of what an earlier head left pending; return the hash."""
        ...


class Vols(Protocol):
    """A source of volatilities."""

    def vol(self, feed: FeedId, option: Option, now_s: UnixS) -> float | Unknown:
        """Return the annualised volatility at which an option is valued at ``now_s``."""
        ...


# --- decisions -----------------------------------------------------------------------------------


def due(posted: ArrayView | None, quote: Quote, params: Params) -> bool:
    """Tell whether an array is worth posting: newer than the posted one, and moved or overdue."""
    if posted is None:
        return True
    if quote.observed_at_s <= posted.observed_at_s:
        return False
    if quote.observed_at_s - posted.observed_at_s >= params.heartbeat_s:
        return True
    return abs(quote.price_wad - posted.ref_wad) * BPS >= params.deviation_bps * posted.ref_wad


def live(
    now: Sequence[Instrument], later: Sequence[Instrument], *, valid_until_s: UnixS
) -> tuple[Listed, ...]:
    """Return the options that cannot expire before a post lapses, market 1 first.

    ``now`` and ``later`` are the same list with the terms of the next block and of ``valid_until_s``.
    """
    return tuple(
        Listed(option, each.feed, each.array, (each.range_wad, then.range_wad))
        for (option, each), then in zip(_numbered(now), later, strict=True)
        if option is not None and option.expiry_s > valid_until_s
    )


def expired(instruments: Sequence[Instrument], now_s: UnixS) -> tuple[Expiry, ...]:
    """Return the expiries that have passed without being settled, the oldest first."""
    found = {
        Expiry(each.feed, option.expiry_s)
        for option, each in _numbered(instruments)
        if option is not None and each.settlement_wad is None and option.expiry_s <= now_s
    }
    return tuple(sorted(found, key=lambda each: (each.expiry_s, each.feed)))


def settleable(expiry: Expiry, view: FeedView, now_s: UnixS) -> Agree | Refuse:
    """Tell whether the contract settles an expiry now: both prices since then, fresh, and close together."""
    if not view.fast_fresh(now_s):
        age_s = now_s - view.fast_observed_at_s
        return _refuse("settle.fast_stale", f"{age_s} s old", f"{view.fast_max_age_s} s")
    if not view.slow_ok or view.slow_wad <= 0:
        return _refuse("settle.slow_stale", f"updated at {view.slow_updated_at_s}", "a price that counts")
    oldest_s = min(view.fast_observed_at_s, view.slow_updated_at_s)
    if oldest_s < expiry.expiry_s:
        return _refuse("settle.price_before_expiry", f"{oldest_s}", f"{expiry.expiry_s}")
    apart_wad = abs(view.fast_wad - view.slow_wad) * WAD // view.slow_wad
    if apart_wad > view.slow_deviation_wad:
        return _refuse("settle.prices_apart", f"{apart_wad} WAD", f"{view.slow_deviation_wad} WAD")
    return Agree(f"both prices of {oldest_s} or later, {apart_wad} WAD apart")


def proposed(listed: Listed, quote: Quote, vol: float, shocks: VolShocks) -> PackedArray | Unknown:
    """Compute the array of one option at one price, or say why there is none."""
    mmrs_wad = listed.mmrs_wad
    array = array_of(
        listed.option,
        spot=quote.price_wad / WAD,
        vol=vol,
        mmr=mmrs_wad[0] / WAD,
        now_s=quote.observed_at_s,
        shocks=shocks,
    )
    try:
        return pack(listed.option, array, mmrs_wad=mmrs_wad)
    except ValueError as error:
        return Unknown(f"market {listed.option.market}", str(error))


def _numbered(instruments: Sequence[Instrument]) -> Iterator[tuple[Option | None, Instrument]]:
    """Give every market its number and its option, None for a perp; collaterals come after the markets."""
    for market, each in enumerate(instruments, 1):
        if each.kind in {Kind.CALL, Kind.PUT}:
            yield Option(market, each.kind, each.strike_wad, each.expiry_s), each
        else:
            yield None, each


def _refuse(rule: str, evidence: str, bound: str) -> Refuse:
    return Refuse(Reason(rule, evidence, bound))


# --- volatilities --------------------------------------------------------------------------------


class FixedVols:
    """One volatility for every option of a feed."""

    def __init__(self, vols: Mapping[FeedId, float]) -> None:
        self._vols = vols

    def vol(self, feed: FeedId, option: Option, now_s: UnixS) -> float | Unknown:
        """Return the feed's volatility."""
        del option, now_s
        return self._vols.get(feed, Unknown(feed, "no volatility is set for it"))


class EwmaVols:
    """One volatility for every option of a feed: what its price shows.

    For a lab, and as a check of another source; what a market implies is the better measure.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        initial: Mapping[FeedId, float],
        half_life_s: float = HALF_LIFE_S,
        sample_s: int = SAMPLE_S,
        least: float = 0.05,
        most: float = 5.0,
    ) -> None:
        """Start from ``initial``; the rest as ``risk.volatility.Ewma`` has it."""
        self._feed = feed
        self._ewma = Ewma(initial, half_life_s=half_life_s, sample_s=sample_s, least=least, most=most)

    def vol(self, feed: FeedId, option: Option, now_s: UnixS) -> float | Unknown:
        """Take in the feed's newest quote, and return its volatility within the bounds."""
        del option
        quote = self._feed.latest(now_s).get(feed)
        if isinstance(quote, Quote):
            self._ewma.hear(quote)
        return self._ewma.vol(feed)


# --- the engine ----------------------------------------------------------------------------------


class Steward:
    """Posts the risk arrays of one deployment, signed by as many keys as the quorum needs."""

    def __init__(
        self,
        *,
        reader: Reader,
        venue: Venue,
        feed: Feed,
        vols: Vols,
        publish: Publisher,
        keys: Sequence[bytes],
        quorum: int,
        params: Params,
    ) -> None:
        if len(set(keys)) < quorum:
            raise ConfigError(
                f"{len(set(keys))} different signer keys given, the oracle's quorum needs {quorum}"
            )
        self._reader = reader
        self._venue = venue
        self._feed = feed
        self._vols = vols
        self._publish = publish
        self._keys = list(dict.fromkeys(keys))
        self._quorum = quorum
        self._params = params
        self._tried_s: dict[Expiry, UnixS] = {}
        self._settled_s: UnixS = 0
        """When the last settlement was sent, whatever became of it."""
        self._reorged = False
        """Whether the listing was read on a branch that is no more."""
        self.busy = asyncio.Lock()
        """Held while a head is worked on."""

    def __repr__(self) -> str:
        return f"Steward({len(self._keys)} keys)"

    async def run(self) -> None:
        """Post at every head until cancelled."""
        async for update in self._reader.updates():
            async with self.busy:
                self._reorged = self._reorged or bool(update.orphaned)
                try:
                    sent = await self.on_head(update.head)
                except ChainFault as fault:
                    log.warning("head.failed", block=update.head.number, why=str(fault))
                    continue
            log.info("steward.head_done", block=update.head.number, **_told(sent))

    async def on_head(self, head: Head) -> Post | Expiry | None:
        """Send the one transaction that this head asks for; return what it does."""
        found = await self.propose(head)
        if isinstance(found, Post):
            turn = self._signers(head.number)
            signatures = [self._venue.sign_arrays(found, key) for key in turn]
            await self._publish.post(self._venue.post_arrays_call(found, signatures), head)
        elif found:
            # Noted before it is sent: one that the node refuses waits as well, and holds nothing up.
            self._tried_s[found] = self._settled_s = head.timestamp_s
            await self._publish.post(self._venue.settle_call(found.feed, found.expiry_s), head)
        return found

    async def propose(self, head: Head) -> Post | Expiry | None:
        """Return what a head asks for.

        Arrays come before settlements, which can wait, but for one settlement every ``settle_every_s``: in a
        market that moves arrays may be due at every head.
        """
        oracles = await self._read(head)
        now = self._venue.instruments(oracles, head.timestamp_s + self._params.block_time_s)
        settlement = self._settlement(now, oracles, head.timestamp_s)
        if settlement and self._turn(head):
            return settlement
        return self._post(now, oracles, head) or settlement

    async def _read(self, head: Head) -> OracleView:
        """Read prices and arrays; where they say that the listing is out of date, it and then them anew.

        After a reorg in any case: a version says nothing across branches, and a market that is gone reverts.
        """
        if self._reorged:
            await self._relist(head)
        oracles = await self._prices(head)
        if oracles.world.version != self._venue.version:
            await self._relist(head)
            oracles = await self._prices(head)
            if oracles.world.version != self._venue.version:
                found = f"has version {self._venue.version}, its prices have {oracles.world.version}"
                raise ChainFault(f"the listing of block {head.number} {found}")
        return oracles

    async def _prices(self, head: Head) -> OracleView:
        return self._venue.decode_prices(await self._reader.call(self._venue.prices_call(), head.hash))

    async def _relist(self, head: Head) -> None:
        self._venue = await read_through(self._reader, self._venue.refresh(), head.hash)
        self._reorged = False
        log.info("listing.read", block=head.number, version=self._venue.version)

    def _turn(self, head: Head) -> bool:
        """Tell whether a settlement goes before arrays: none was sent for a while."""
        return head.timestamp_s - self._settled_s >= self._params.settle_every_s

    def _settlement(
        self, instruments: Sequence[Instrument], oracles: OracleView, now_s: UnixS
    ) -> Expiry | None:
        """Return an expiry that the contract would settle, the one not tried for longest, if not just now."""
        waiting = expired(instruments, now_s)
        self._tried_s = {each: at_s for each, at_s in self._tried_s.items() if each in waiting}
        for expiry in sorted(waiting, key=lambda each: self._tried_s.get(each, 0)):
            if now_s - self._tried_s.get(expiry, 0) < self._params.settle_every_s:
                continue
            found = settleable(expiry, oracles[expiry.feed], now_s + self._params.block_time_s)
            if isinstance(found, Agree):
                return expiry
            log.info("settlement.waits", feed=expiry.feed, expiry_s=expiry.expiry_s, why=str(found.reason))
        return None

    def _post(self, now: Sequence[Instrument], oracles: OracleView, head: Head) -> Post | None:
        """Return the arrays that are due, those that wait longest first where they are too many."""
        in_block_s = head.timestamp_s + self._params.block_time_s
        valid_until_s = head.timestamp_s + self._params.validity_s
        later = self._venue.instruments(oracles, valid_until_s)
        options = live(now, later, valid_until_s=valid_until_s)
        quotes = self._quotes({each.feed for each in options}, head)
        waiting = [
            each
            for each in options
            if each.feed in quotes and due(each.posted, quotes[each.feed], self._params)
        ]
        waiting.sort(key=lambda each: each.posted.observed_at_s if each.posted else 0)
        arrays = []
        for each in waiting:
            array = self._array(each, quotes[each.feed], (in_block_s, valid_until_s))
            if isinstance(array, Unknown):
                log.warning("array.unknown", market=each.option.market, what=array.what, why=array.why)
                continue
            arrays.append(array)
            if len(arrays) == self._params.most_arrays:
                break
        return Post(tuple(arrays), valid_until_s) if arrays else None

    def _array(self, listed: Listed, quote: Quote, span_s: tuple[UnixS, UnixS]) -> PackedArray | Unknown:
        """Compute an array that the chain takes at both ends of the time in which it may be included.

        One that it does not take would take the others of its transaction down with it.
        """
        vol = self._vols.vol(listed.feed, listed.option, quote.observed_at_s)
        array = vol if isinstance(vol, Unknown) else proposed(listed, quote, vol, self._params.shocks)
        if isinstance(array, Unknown):
            return array
        for at_s in span_s:
            broken = self._venue.broken_bound(array.market, array.view, at_s)
            if broken is not None:
                return Unknown(f"market {array.market}", str(broken))
        return array

    def _quotes(self, feeds: set[FeedId], head: Head) -> dict[FeedId, Quote]:
        """Return the newest price of each feed that an array may be of; say which others there are."""
        latest = self._feed.latest(head.timestamp_s)
        found = {}
        for name in sorted(feeds):
            quote = latest.get(name, Unknown(name, "the feed does not serve it"))
            if isinstance(quote, Unknown):
                log.warning("feed.unknown", feed=name, why=quote.why)
            elif (
                age_s := head.timestamp_s + self._params.block_time_s - quote.observed_at_s
            ) > self._params.max_age_s:
                # One array too old for the next block would take the others of its transaction down with it.
                log.warning("feed.too_old", feed=name, age_s=age_s, bound_s=self._params.max_age_s)
            else:
                found[name] = quote
        return found

    def _signers(self, round_number: int) -> list[bytes]:
        """Return a quorum of the keys; who takes part goes round."""
        first = round_number % len(self._keys)
        return (self._keys[first:] + self._keys[:first])[: self._quorum]


def _told(sent: Post | Expiry | None) -> dict[str, object]:
    """Say in a log's words what was sent at a head."""
    if isinstance(sent, Post):
        return {"posted": [array.market for array in sent.arrays]}
    if isinstance(sent, Expiry):
        return {"settling": sent.feed, "expiry_s": sent.expiry_s}
    return {"posted": []}
