"""The reporter: signs its fast prices and posts them, on deviation and on heartbeat.

Every key signs its own value; one transaction carries the bundles that are due. A reporter that observes
late in the slot gives the next two blocks a price that is young enough: see ``Params.lead_s``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from keeper.domain import Call, FeedView, Head, Quote, Unknown
from keeper.errors import ChainFault, ConfigError
from keeper.ports import Feed, Reader
from keeper.units import BPS, FeedId, UnixS, Wad

log = structlog.get_logger()


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


@dataclass(frozen=True, slots=True)
class Observation:
    """What one reporter key signs."""

    feed: FeedId
    price_wad: Wad
    confidence_bps: int
    observed_at_s: UnixS
    valid_until_s: UnixS


class Oracle(Protocol):
    """The fast oracle of one deployment: pure encoding, decoding and signing."""

    def prices_call(self) -> Call:
        """Build the read of both prices of every feed."""
        ...

    def decode_prices(self, answer: bytes) -> Mapping[FeedId, FeedView]:
        """Decode its answer."""
        ...

    def sign_report(self, observation: Observation, key: bytes) -> bytes:
        """Sign one observation with one reporter's key (EIP-712)."""
        ...

    def post_call(self, bundles: Sequence[Sequence[tuple[Observation, bytes]]]) -> Call:
        """Build the transaction that posts one bundle of signed observations per feed."""
        ...


class Postman(Protocol):
    """Sends transactions that may safely be repeated: the oracle takes each observation once."""

    async def post(self, call: Call, head: Head) -> str:
        """Sign and send; return the hash."""
        ...


def due(view: FeedView, quote: Quote, params: Params) -> bool:
    """Tell whether a quote is worth posting: newer than the stored price, and moved or overdue."""
    if quote.observed_at_s <= view.fast_observed_at_s:
        return False
    if quote.observed_at_s - view.fast_observed_at_s >= params.heartbeat_s:
        return True
    return abs(quote.price_wad - view.fast_wad) * BPS >= params.deviation_bps * view.fast_wad


class Reporter:
    """Posts what a feed says, signed by as many keys as the quorum needs."""

    def __init__(
        self,
        *,
        reader: Reader,
        oracle: Oracle,
        feed: Feed,
        postman: Postman,
        keys: Sequence[bytes],
        quorum: int,
        params: Params,
    ) -> None:
        if len(set(keys)) < quorum:
            raise ConfigError(
                f"{len(set(keys))} different reporter keys given, the oracle's quorum needs {quorum}"
            )
        self._reader = reader
        self._oracle = oracle
        self._feed = feed
        self._postman = postman
        self._keys = list(dict.fromkeys(keys))
        self._quorum = quorum
        self._params = params
        self.busy = asyncio.Lock()
        """Held while a head is worked on."""

    def __repr__(self) -> str:
        return f"Reporter({len(self._keys)} keys)"

    async def run(self) -> None:
        """Report at every head until cancelled."""
        async for update in self._reader.updates():
            async with self.busy:
                try:
                    posted = await self.on_head(update.head)
                except ChainFault as fault:
                    log.warning("head.failed", block=update.head.number, why=str(fault))
                    continue
            log.info("reporter.head_done", block=update.head.number, posted=posted)

    async def on_head(self, head: Head) -> list[FeedId]:
        """Post one bundle for every feed that is due; return their names."""
        answer = await self._reader.call(self._oracle.prices_call(), head.hash)
        views = self._oracle.decode_prices(answer)
        quotes = self._feed.latest(head.timestamp_s + self._params.lead_s)
        bundles, posted = [], []
        for name, view in views.items():
            quote = quotes.get(name, Unknown(name, "the feed does not serve it"))
            if isinstance(quote, Unknown):
                log.warning("feed.unknown", feed=name, why=quote.why)
            elif (
                age_s := head.timestamp_s + self._params.block_time_s - quote.observed_at_s
            ) > view.fast_max_age_s:
                # One report too old for the next block would take the others of its transaction down with it.
                log.warning("feed.too_old", feed=name, age_s=age_s, bound_s=view.fast_max_age_s)
            elif due(view, quote, self._params):
                bundles.append(self._signed(quote, round_number=head.number))
                posted.append(name)
        if bundles:
            await self._postman.post(self._oracle.post_call(bundles), head)
        return posted

    def _signed(self, quote: Quote, *, round_number: int) -> list[tuple[Observation, bytes]]:
        """Sign a quote with a quorum of the keys; who takes part goes round."""
        observation = Observation(
            feed=quote.feed,
            price_wad=quote.price_wad,
            confidence_bps=self._params.confidence_bps,
            observed_at_s=quote.observed_at_s,
            valid_until_s=quote.observed_at_s + self._params.validity_s,
        )
        first = round_number % len(self._keys)
        turn = (self._keys[first:] + self._keys[:first])[: self._quorum]
        return [(observation, self._oracle.sign_report(observation, key)) for key in turn]
