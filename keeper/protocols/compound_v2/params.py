"""What one pool of Venus is to the keeper: its markets, their feeds, and what the chain says of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from keeper.abi import function
from keeper.domain import Call, ChainTime
from keeper.errors import ChainFault
from keeper.lending.feeds import DECIMALS, DESCRIPTION, Answer, Answers, Feed, named
from keeper.lending.trying import tried
from keeper.protocols.compound_v2 import oracles
from keeper.protocols.compound_v2.math import Pool
from keeper.units import FeedId

READER: Final = "VenusReader"
LENT_READER: Final = f"0x{READER.encode().hex():0>40}"
"""Where a reader that is not deployed is called: nobody has the key to this address, or code there."""
DEBTS_SLOT: Final = 217
"""Where a vToken of the isolated pools stores debts by account: principal and index."""

_MARKETS: Final = function("getAllMarkets()", "address[]")
_ORACLE: Final = function("oracle()", "address")
_LISTING: Final = function("listing(address)", "uint256")
_UNDERLYING: Final = function("underlying()", "address")
_IS_TIMED: Final = function("isTimeBased()", "bool")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the keeper is told of a pool; addresses in lower case."""

    comptroller: str
    feeds: Mapping[str, FeedId] = field(default_factory=dict)
    """What a feed, or the price of a token as a whole, is called by the source of fast prices; nothing where
    the chain's price is to stand. Other feeds are called what they say of themselves."""
    debts_slot: int = DEBTS_SLOT
    reader: str = LENT_READER


@dataclass(frozen=True, slots=True)
class Listed:
    """A market of the pool, and the feed that its price follows."""

    vtoken: str
    token: str
    feed: str
    """Its address, or the token's own where its whole price is taken for one; empty where none is known."""


@dataclass(frozen=True)
class Listing:
    """The markets of a pool, in its own order: a number once given stays."""

    chosen: Chosen
    markets: tuple[Listed, ...]
    feeds: tuple[Feed, ...]
    untraced: tuple[str, ...]
    """Tokens and feeds whose own price stands at both clocks, each with the reason."""
    version: int
    """Of the markets and of the oracle."""
    is_timed: bool
    """Whether interest is by the second and not by the block."""

    def clock(self, at: ChainTime) -> int:
        """Return a time as its markets count it."""
        return at.timestamp_s if self.is_timed else at.block

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of a market by its vToken."""
        return {market.vtoken: number for number, market in enumerate(self.markets)}

    @cached_property
    def named(self) -> Mapping[str, Feed]:
        """The feeds by address."""
        return {feed.address: feed for feed in self.feeds}


@dataclass(frozen=True, slots=True)
class World:
    """What the chain says of a pool, and the time that it is meant for."""

    at: ChainTime
    version: int
    pool: Pool
    """As it is stored: whoever closes an account brings two of its markets up to date."""
    unpriced: frozenset[int]
    """Markets whose price is not known."""
    heard: Mapping[str, Answer]
    """The newest answer of each feed, by its address."""


def read_listing(chosen: Chosen) -> Generator[list[Call], list[bytes], Listing]:
    """Find out the markets of a pool and what their prices come from, in five rounds of one block.

    Raises ChainFault where it does not answer as a pool of Venus.
    """
    found, oracle, version = yield from tried(
        chosen.reader,
        READER,
        (chosen.comptroller, _MARKETS),
        (chosen.comptroller, _ORACLE),
        (chosen.reader, _LISTING, chosen.comptroller),
    )
    if not (found and found[0] and oracle and version):
        raise ChainFault(f"{chosen.comptroller} does not answer as a Comptroller that has markets")
    vtokens = [vtoken.lower() for vtoken in found[0]]
    answers = yield from tried(
        chosen.reader, READER, *((vtoken, each) for vtoken in vtokens for each in (_UNDERLYING, _IS_TIMED))
    )
    tokens = dict(zip(vtokens, map(_token, vtokens, answers[::2]), strict=True))
    # Older markets do not know of seconds.
    clocks = {bool(told and told[0]) for told in answers[1::2]}
    if len(clocks) > 1:
        raise ChainFault(f"some markets of {chosen.comptroller} count blocks and others seconds")
    sources, feeds, untraced = yield from _sources(chosen, oracle[0], [*dict.fromkeys(tokens.values())])
    return Listing(
        chosen=chosen,
        markets=tuple(Listed(vtoken, token, sources[token]) for vtoken, token in tokens.items()),
        feeds=feeds,
        untraced=untraced,
        version=version[0],
        is_timed=clocks.pop(),
    )


def _sources(
    chosen: Chosen, oracle: str, tokens: list[str]
) -> Generator[list[Call], list[bytes], tuple[Mapping[str, str], tuple[Feed, ...], tuple[str, ...]]]:
    """Walk from the oracle to feeds; return sources by token, all feeds, and what has none."""
    answers = yield from tried(
        chosen.reader,
        READER,
        *((token, DECIMALS) for token in tokens),
        *((oracle, oracles.TOKEN_CONFIG, token) for token in tokens),
    )
    decimals = {token: found[0] for token, found in zip(tokens, answers, strict=False) if found}
    mains = [oracles.main_oracle(found) for found in answers[len(tokens) :]]
    answers = yield from tried(
        chosen.reader,
        READER,
        *((main or oracle, oracles.FEED_CONFIG, token) for main, token in zip(mains, tokens, strict=True)),
    )
    sources = {
        token: oracles.source_of(token, main, found, chosen.feeds)
        for token, main, found in zip(tokens, mains, answers, strict=True)
    }
    met = [feed for feed in dict.fromkeys(sources.values()) if feed and feed not in tokens]
    answers = yield from tried(
        chosen.reader, READER, *((feed, getter) for feed in met for getter in (DESCRIPTION, DECIMALS))
    )
    told = dict(zip(met, zip(answers[::2], answers[1::2], strict=True), strict=True))
    feeds, unnamed = named(told, chosen.feeds)
    whole = tuple(
        Feed(token, chosen.feeds[token], 36 - decimals[token], is_oracle=True)
        for token in tokens
        if chosen.feeds.get(token) and token in decimals
    )
    known = {feed.address for feed in (*feeds, *whole)}
    untraced = (f"token {token}: no feed of it is known" for token in tokens if sources[token] not in known)
    return sources, (*feeds, *whole), (*untraced, *unnamed)


def _token(vtoken: str, answer: Answers) -> str:
    if not answer:
        raise ChainFault(f"{vtoken} does not answer as a vToken")
    return str(answer[0]).lower()
