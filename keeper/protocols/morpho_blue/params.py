"""What one deployment of Morpho Blue is to the keeper: the markets it was told of, on their fixed terms."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final
from zlib import crc32

from keeper.abi import function
from keeper.domain import Call, ChainTime
from keeper.errors import ChainFault, ConfigError
from keeper.lending.feeds import DECIMALS, DESCRIPTION, QUOTE, Answer, Answers, Feed, named
from keeper.lending.trying import tried
from keeper.protocols.morpho_blue import math, oracles
from keeper.protocols.morpho_blue.oracles import Path
from keeper.units import FeedId, UnixS, Wad

_PARAMS: Final = function("idToMarketParams(bytes32)", "(address,address,address,address,uint256)")
_MORPHO: Final = function("MORPHO()", "address")
_ID: Final = function("ID()", "bytes32")
_TERMS: Final = function("preLiquidationParams()", "(uint256,uint256,uint256,uint256,uint256,address)")

READER: Final = "MorphoReader"
LENT_READER: Final = f"0x{READER.encode().hex():0>40}"
"""Where a reader that is not deployed is called: nobody has the key to this address, or code there."""
MOST_PRES: Final = 64
"""Pre-liquidation contracts of one market: a row has so many bits."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the keeper is told of a deployment; addresses and ids in lower case."""

    morpho: str
    markets: tuple[str, ...]
    """Ids. There are thousands, and anybody may open more: none is kept unless it is named."""
    pres: tuple[str, ...] = ()
    """Pre-liquidation contracts, each of one of these markets."""
    feeds: Mapping[str, FeedId] = field(default_factory=dict)
    """What a feed of an oracle, or a whole oracle, is called by the source of fast prices; nothing where the
    chain's price is to stand. Other feeds are called what they say of themselves."""
    tokens: Mapping[str, FeedId] = field(default_factory=dict)
    """What values a loan token in quote: a feed, or ``feeds.QUOTE`` where it is quote itself."""
    reader: str = LENT_READER

    def __post_init__(self) -> None:
        """Raise ConfigError where a row could not tell two markets apart."""
        if not self.markets:
            raise ConfigError("expected the id of at least one market, found none")
        tails: dict[str, str] = {}
        for market in self.markets:
            if other := tails.get(market[:26]):
                raise ConfigError(f"markets {other} and {market} have the same first 12 bytes")
            tails[market[:26]] = market


@dataclass(frozen=True, slots=True)
class Pre:
    """A pre-liquidation contract, on its terms."""

    address: str
    lltv_wad: Wad
    close_wad: tuple[Wad, Wad]
    incentive_wad: tuple[Wad, Wad]
    oracle: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A market on its terms, none of which ever changes."""

    id: bytes
    loan: str
    collateral: str
    oracle: str
    irm: str
    lltv_wad: Wad
    pres: tuple[Pre, ...] = ()
    """In the order of their bits in a row."""

    @property
    def params(self) -> tuple[str, str, str, str, Wad]:
        """What the contract calls MarketParams."""
        return self.loan, self.collateral, self.oracle, self.irm, self.lltv_wad

    @property
    def name(self) -> str:
        """Its id in hexadecimal."""
        return "0x" + self.id.hex()


@dataclass(frozen=True)
class Listing:
    """The markets that are kept, in the order in which they were named."""

    chosen: Chosen
    markets: tuple[Listed, ...]
    decimals: Mapping[str, int]
    """Of every token that says how many it has."""
    paths: Mapping[str, Path]
    """What the price of each oracle is made of."""
    feeds: tuple[Feed, ...]
    untraced: tuple[str, ...]
    """Oracles and feeds whose own price stands at both clocks, each with the reason."""

    @cached_property
    def places(self) -> Mapping[bytes, int]:
        """The number of a market by the first 12 bytes of its id."""
        return {market.id[:12]: number for number, market in enumerate(self.markets)}

    def of(self, market_id: bytes) -> Listed | None:
        """Return a market by its whole id."""
        number = self.places.get(market_id[:12])
        return self.markets[number] if number is not None and self.markets[number].id == market_id else None

    @cached_property
    def pres(self) -> Mapping[str, tuple[Listed, Pre]]:
        """The pre-liquidation contracts by address, each with its market."""
        return {pre.address: (market, pre) for market in self.markets for pre in market.pres}

    @cached_property
    def named(self) -> Mapping[str, Feed]:
        """The feeds by address."""
        return {feed.address: feed for feed in self.feeds}

    @cached_property
    def mark(self) -> int:
        """What tells listings apart: in rows that were read under another one numbers and bits differ."""
        return crc32(repr([(each.id, [pre.address for pre in each.pres]) for each in self.markets]).encode())


@dataclass(frozen=True, slots=True)
class Stored:
    """A market as the contract stores it, and what its rate model says."""

    market: math.Market
    """Its price is left at 0: that depends on the clock."""
    rate_wad: Wad | None
    """The mean rate since its last interest; None where the model does not answer."""
    at_target_wad: Wad | None
    """What the adaptive model keeps; None where the model is another one, and its rate is taken to stay."""

    def up_to(self, at_s: UnixS) -> math.Market | None:
        """Return the market with its interest up to a time; None where nobody can tell it."""
        if self.rate_wad is None:
            return None
        rate_wad = self.rate_wad
        if self.at_target_wad is not None:
            rate_wad = math.adaptive_rate_wad(self.market, self.at_target_wad, at_s)
        return math.accrued(self.market, at_s, rate_wad)


@dataclass(frozen=True, slots=True)
class World:
    """What the chain says of all markets, and the time that it is meant for."""

    at: ChainTime
    stored: tuple[Stored, ...]
    prices: Mapping[str, int]
    """Of each oracle that tells one above zero, by its address."""
    heard: Mapping[str, Answer]
    """The newest answer of each feed, by its address."""
    fast: Mapping[FeedId, Wad] = field(default_factory=dict)
    """The fast prices that its prices were brought to."""
    version: int = 0
    """Nothing of a market that is listed ever changes."""


def read_listing(chosen: Chosen) -> Generator[list[Call], list[bytes], Listing]:
    """Find out all that is fixed of the markets chosen, in three rounds of one block.

    Raises ChainFault where one of them is not there, or a pre-liquidation contract is of none of them, and
    ConfigError where a token is to be valued by a feed that nothing reads on chain.
    """
    answers = yield from tried(
        chosen.reader,
        READER,
        *((chosen.morpho, _PARAMS, bytes.fromhex(each[2:])) for each in chosen.markets),
        *((each, getter) for each in chosen.pres for getter in (_MORPHO, _ID, _TERMS)),
    )
    count = len(chosen.markets)
    markets = [_market(*each) for each in zip(chosen.markets, answers[:count], strict=True)]
    for at, address in enumerate(chosen.pres):
        _add_pre(chosen, markets, address, answers[count + 3 * at : count + 3 * at + 3])
    return (yield from _with_oracles(chosen, tuple(markets)))


def _with_oracles(chosen: Chosen, markets: tuple[Listed, ...]) -> Generator[list[Call], list[bytes], Listing]:
    """Ask tokens for their decimals, and walk from every oracle to its feeds."""
    priced = {
        oracle: market for market in markets for oracle in (market.oracle, *(p.oracle for p in market.pres))
    }
    tokens = tuple(dict.fromkeys((*(t for m in markets for t in (m.loan, m.collateral)), *chosen.tokens)))
    answers = yield from tried(
        chosen.reader,
        READER,
        *((token, DECIMALS) for token in tokens),
        *((oracle, getter) for oracle in priced for getter in oracles.GETTERS),
    )
    decimals = {token: found[0] for token, found in zip(tokens, answers, strict=False) if found}
    each = len(oracles.GETTERS)
    parts = [answers[at : at + each] for at in range(len(tokens), len(answers), each)]
    paths = {
        oracle: oracles.path_of(oracle, part, chosen.feeds)
        for oracle, part in zip(priced, parts, strict=True)
    }
    met = dict.fromkeys((*(feed for path in paths.values() for feed in path.feeds), *chosen.feeds))
    asked = [feed for feed in met if feed not in paths]
    answers = yield from tried(
        chosen.reader, READER, *((feed, getter) for feed in asked for getter in (DESCRIPTION, DECIMALS))
    )
    told = dict(zip(asked, zip(answers[::2], answers[1::2], strict=True), strict=True))
    feeds, unnamed = named(told, chosen.feeds)
    whole = [
        Feed(oracle, chosen.feeds[oracle], 36 + decimals[market.loan] - decimals[market.collateral], True)
        for oracle, market in priced.items()
        if chosen.feeds.get(oracle) and {market.loan, market.collateral} <= decimals.keys()
    ]
    known = {feed.address for feed in (*feeds, *whole)}
    told_of = {QUOTE, *(feed.feed for feed in (*feeds, *whole))}
    for token, feed in chosen.tokens.items():
        if feed not in told_of:
            found = f"no feed of an oracle, nor one in deployment.feeds, is {feed}"
            raise ConfigError(f"deployment.tokens: {token} cannot be valued on chain, {found}")
    untraced = [
        f"oracle {oracle}: no feed of it is known"
        for oracle, path in paths.items()
        if known.isdisjoint(path.feeds)
    ]
    return Listing(chosen, markets, decimals, paths, (*feeds, *whole), (*untraced, *unnamed))


def _market(name: str, params: Answers) -> Listed:
    """Read MarketParams; all of them are zero where there is no such market."""
    if not params or not params[0][-1]:
        raise ChainFault(f"expected a market {name}, found none")
    [(*addresses, lltv_wad)] = params
    loan, collateral, oracle, irm = map(str.lower, addresses)
    return Listed(bytes.fromhex(name[2:]), loan, collateral, oracle, irm, lltv_wad)


def _add_pre(chosen: Chosen, markets: list[Listed], address: str, answers: Sequence[Answers]) -> None:
    """Give a pre-liquidation contract to its market."""
    if not all(answers):
        raise ChainFault(f"{address} does not answer as a pre-liquidation contract")
    (morpho,), (market_id,), ((lltv_wad, close1, close2, incentive1, incentive2, oracle),) = answers
    if morpho.lower() != chosen.morpho:
        raise ChainFault(f"pre-liquidation {address} is of the Morpho at {morpho}, expected {chosen.morpho}")
    of = [number for number, market in enumerate(markets) if market.id == market_id]
    if not of:
        raise ChainFault(f"pre-liquidation {address} is of market 0x{market_id.hex()}, which is not listed")
    market = markets[of[0]]
    pre = Pre(address, lltv_wad, (close1, close2), (incentive1, incentive2), oracle.lower())
    markets[of[0]] = replace(market, pres=(*market.pres, pre))
    if len(market.pres) >= MOST_PRES:
        raise ChainFault(f"market {market.name} has more than {MOST_PRES} pre-liquidation contracts")
