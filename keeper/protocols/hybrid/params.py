"""What one deployment is: its addresses, its instruments on their terms, and its slopes."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from keeper.domain import Account, Call, Kind, Phase
from keeper.protocols.hybrid.abi import load
from keeper.units import FeedId, UnixS, Wad, mul_div_trunc

_RAW_FEED_CHARACTERS = 2 + 64
_KINDS = tuple(Kind)
LENT_READER: Final = f"0x{b'MarginReader'.hex():0>40}"
"""Where a reader that is not deployed is called: nobody has the key to this address, or code there."""


def feed_bytes(feed: FeedId) -> bytes:
    """Return a feed's 32 bytes: its name in ASCII, padded; what ``feed_name`` gave in hex, as it was."""
    if feed.startswith("0x") and len(feed) == _RAW_FEED_CHARACTERS:
        return bytes.fromhex(feed[2:])
    name = feed.encode("ascii")
    if not 0 < len(name) <= 32:
        raise ValueError(f"a feed's name has 1 to 32 characters, found {feed!r}")
    return name.ljust(32, b"\0")


def feed_name(feed_id: bytes) -> FeedId:
    """Return the name in a feed's 32 bytes; in hex where they are no printable name."""
    name = feed_id.rstrip(b"\0")
    if name and name.isascii() and name.decode("ascii").isprintable():
        return name.decode("ascii")
    return "0x" + feed_id.hex()


@dataclass(frozen=True, slots=True)
class SlopeParams:
    """The parameters of a slope, in the order of the contract's struct (Slope.sol)."""

    beta_wad: Wad
    """The end of the slope restores H = 1 + beta."""
    beta_cure_wad: Wad
    """H = 1 + beta_cure at both oracles ends an episode."""
    beta_flag_wad: Wad
    """An account is flagged below H = 1 + beta_flag."""
    lambda_wad: Wad
    """Decay per second."""
    q_min_wad: Wad
    slope_s: int
    k0_wad: Wad
    """Fee at confirmation; ``k1_wad`` the fee reached with the time constant ``fee_growth_s``."""
    k1_wad: Wad
    fee_growth_s: int
    theta_wad: Wad
    """The most of the account's equity that all fees together may take."""
    band_base_wad: Wad
    """How far p_L may lie from the slow price, growing by ``band_rate_wad`` a minute to ``band_max_wad``."""
    band_rate_wad: Wad
    band_max_wad: Wad
    step_cap_wad: Wad
    """The most of the book that goes within ``step_window_s``, while E > M / 2."""
    step_window_s: int
    min_slice_wad: Wad
    """A slice is raised to this notional; a book at or below ``dust_wad`` goes whole."""
    dust_wad: Wad


@dataclass(frozen=True, slots=True)
class Ramp:
    """A term that moves in a straight line from one value to another (Instruments.Ramp)."""

    from_wad: Wad
    to_wad: Wad
    start_s: UnixS
    end_s: UnixS

    def at(self, now_s: UnixS) -> Wad:
        """Return its value at one moment, between the two rounded toward the old one (Instruments._at)."""
        if now_s >= self.end_s:
            return self.to_wad
        if now_s <= self.start_s:
            return self.from_wad
        passed_s, span_s = now_s - self.start_s, self.end_s - self.start_s
        return self.from_wad + mul_div_trunc(self.to_wad - self.from_wad, passed_s, span_s)


@dataclass(frozen=True, slots=True)
class Underlying:
    """What the margin of a feed's perps and options asks, as fractions of the underlying's price."""

    feed: FeedId
    mmr: Ramp
    imr: Ramp
    short_min: Ramp


@dataclass(frozen=True, slots=True)
class Listed:
    """A market: what it trades, on which feed. Strike and expiry are 0 for a perp."""

    market: int
    feed: FeedId
    kind: Kind = Kind.PERP
    strike_wad: Wad = 0
    expiry_s: UnixS = 0

    @property
    def is_option(self) -> bool:
        """Tell whether it expires."""
        return self.kind is not Kind.PERP

    def payoff_wad(self, price_wad: Wad) -> Wad:
        """Return what one option is worth if the underlying ends at a price; a perp its price."""
        if self.kind is Kind.PERP:
            return price_wad
        over_wad = price_wad - self.strike_wad
        return max(0, over_wad if self.kind is Kind.CALL else -over_wad)


@dataclass(frozen=True, slots=True)
class Collateral:
    """A collateral: its haircut factors, and the deepest discount of a forced sale."""

    collateral: int
    token: str
    feed: FeedId
    h_mm: Ramp
    h_im: Ramp
    sale_disc_max_wad: Wad


@dataclass(frozen=True, slots=True)
class Risk:
    """An underlying's terms at one moment: the range of the scenarios, and what goes beyond them."""

    mmr_wad: Wad
    imr_wad: Wad
    short_min_wad: Wad


@dataclass(frozen=True, slots=True)
class CollateralTerms:
    """A collateral's terms at one moment."""

    collateral: int
    token: str
    feed: FeedId
    h_mm_wad: Wad
    h_im_wad: Wad
    sale_disc_max_wad: Wad


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything that margin and the slope depend on at one moment, beside the account and the prices."""

    slopes: tuple[SlopeParams, ...]
    default_slope: int
    risks: Mapping[FeedId, Risk]
    markets: Mapping[int, Listed]
    collaterals: Mapping[int, CollateralTerms]

    def slope_number(self, account: Account) -> int:
        """Return the slope of the account's running episode, else that of its next (Liquidator.slopeOf)."""
        if account.phase in {Phase.FLAGGED, Phase.CONFIRMED}:
            return account.flag.slope
        return account.slope_choice or self.default_slope

    def slope_of(self, account: Account) -> SlopeParams:
        """Return the parameters of that slope."""
        return self.slopes[self.slope_number(account)]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is listed, and on which terms from when on; the terms move along ramps."""

    slopes: tuple[SlopeParams, ...]
    default_slope: int
    underlyings: Mapping[FeedId, Underlying]
    markets: Mapping[int, Listed]
    collaterals: Mapping[int, Collateral]
    done: Mapping[int, Wad] = field(default_factory=dict)
    """The settlement prices of options that nobody holds and nobody can open any more, by market."""

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Every feed of an instrument, each once: markets first."""
        markets = (market.feed for market in self.markets.values())
        return tuple(dict.fromkeys((*markets, *(each.feed for each in self.collaterals.values()))))

    @property
    def options(self) -> tuple[int, ...]:
        """The options about which the chain may still say something new."""
        return tuple(
            number for number, market in self.markets.items() if market.is_option and number not in self.done
        )

    def at(self, now_s: UnixS) -> Terms:
        """Return the terms of one moment."""
        return Terms(
            slopes=self.slopes,
            default_slope=self.default_slope,
            risks={
                feed: Risk(each.mmr.at(now_s), each.imr.at(now_s), each.short_min.at(now_s))
                for feed, each in self.underlyings.items()
            },
            markets=self.markets,
            collaterals={
                number: CollateralTerms(
                    number,
                    each.token,
                    each.feed,
                    each.h_mm.at(now_s),
                    each.h_im.at(now_s),
                    each.sale_disc_max_wad,
                )
                for number, each in self.collaterals.items()
            },
        )


@dataclass(frozen=True, slots=True)
class Deployment:
    """One HybridMargin on one chain. Addresses are in lower case."""

    chain_id: int
    vault: str
    fast_oracle: str
    router: str
    instruments: str
    risk_arrays: str
    engine: str
    clearing: str
    backstop: str
    breaker: str
    liquidator: str
    slopes: str
    reader: str
    quote: str
    """The token that cash is counted in."""
    fast_max_age_s: int
    fast_silent_after_s: int
    version: int
    """``Globals.version`` of the rules."""
    rules: Rules

    @property
    def contracts(self) -> tuple[str, ...]:
        """The contracts whose logs ``codec.decode`` understands."""
        return (
            self.fast_oracle,
            self.instruments,
            self.risk_arrays,
            self.clearing,
            self.backstop,
            self.breaker,
            self.liquidator,
            self.slopes,
        )


def read_liquidator(clearing: str) -> Generator[list[Call], list[bytes], str]:
    """Find out the Liquidator that a Clearing is bound to for good: a reader is made of the two."""
    (liquidator,) = yield from ask(("Clearing", clearing, "liquidator"))
    return str(liquidator)


def read_deployment(chain_id: int, reader: str) -> Generator[list[Call], list[bytes], Deployment]:
    """Find out a whole deployment from the address of its MarginReader.

    Yields the calls of each of seven rounds, is sent what they returned, and returns the deployment: so the
    I/O stays with the caller. All rounds belong to one block.
    """
    clearing, liquidator = yield from ask(
        *(("MarginReader", reader, name) for name in ("clearing", "liquidator")),
    )
    parts = ("vault", "router", "quote", "instruments", "riskArrays", "engine", "backstop", "breaker")
    vault, router, quote, instruments, risk_arrays, engine, backstop, breaker = yield from ask(
        *(("Clearing", clearing, name) for name in parts)
    )
    fast_oracle, silent_after_s, slopes = yield from ask(
        ("OracleRouter", router, "fastOracle"),
        ("OracleRouter", router, "SLOW_ONLY_AFTER"),
        ("Liquidator", liquidator, "registry"),
    )
    (max_age_s,) = yield from ask(("FastOracle", fast_oracle, "MAX_AGE"))
    bare = Deployment(
        chain_id=chain_id,
        vault=vault,
        fast_oracle=fast_oracle,
        router=router,
        instruments=instruments,
        risk_arrays=risk_arrays,
        engine=engine,
        clearing=clearing,
        backstop=backstop,
        breaker=breaker,
        liquidator=liquidator,
        slopes=slopes,
        reader=reader.lower(),
        quote=quote,
        fast_max_age_s=max_age_s,
        fast_silent_after_s=silent_after_s,
        version=0,
        rules=Rules((), 0, {}, {}, {}),
    )
    return (yield from read_rules(bare))


def read_rules(deployment: Deployment) -> Generator[list[Call], list[bytes], Deployment]:
    """Read what is listed, and the slopes, anew, in three rounds of one block."""
    instruments = ("Instruments", deployment.instruments)
    registry = ("Slopes", deployment.slopes)
    markets, collaterals, slopes, default_slope, *versions = yield from ask(
        (*instruments, "marketCount"),
        (*instruments, "collateralCount"),
        (*registry, "slopeCount"),
        (*registry, "defaultSlope"),
        (*instruments, "version"),
        (*registry, "version"),
    )
    listed = yield from ask(
        *((*instruments, "market", number) for number in range(1, markets + 1)),
        *((*instruments, "collateralTerms", number) for number in range(1, collaterals + 1)),
        *((*registry, "slopes", number) for number in range(slopes)),
    )
    rows = [_listed(number, row) for number, row in enumerate(listed[:markets], 1)]
    feeds = tuple(dict.fromkeys(row.feed for row in rows))
    options = [row.market for row in rows if row.is_option]
    *underlyings, (_, _, states) = yield from ask_all(
        *((*instruments, "underlying", feed_bytes(feed)) for feed in feeds),
        ("MarginReader", deployment.reader, "world", [], options),
    )
    rules = Rules(
        slopes=tuple(SlopeParams(*row) for row in listed[markets + collaterals :]),
        default_slope=default_slope,
        underlyings={feed: _underlying(feed, row) for feed, (row,) in zip(feeds, underlyings, strict=True)},
        markets={row.market: row for row in rows},
        collaterals={
            number: _collateral(number, row)
            for number, row in enumerate(listed[markets : markets + collaterals], 1)
        },
        done={
            number: settlement
            for number, (_, settlement, open_interest) in zip(options, states, strict=True)
            if settlement and not open_interest
        },
    )
    return replace(deployment, version=sum(versions), rules=rules)


def ask(*questions: tuple[Any, ...]) -> Generator[list[Call], list[bytes], list[Any]]:
    """Ask (contract, address, function, arguments...) and return the one value that each gives."""
    answers = yield from ask_all(*questions)
    return [value for value, *_ in answers]


def ask_all(*questions: tuple[Any, ...]) -> Generator[list[Call], list[bytes], list[tuple[Any, ...]]]:
    """Ask the same way, and return all values that each gives."""
    functions = [load(contract).functions[name] for contract, _, name, *_ in questions]
    asked = zip(functions, questions, strict=True)
    answers = yield [function.call(address, *arguments) for function, (_, address, _, *arguments) in asked]
    return [function.result(answer) for function, answer in zip(functions, answers, strict=True)]


def _listed(number: int, row: tuple[bytes, int, int, int]) -> Listed:
    feed_id, kind, expiry_s, strike = row
    return Listed(number, feed_name(feed_id), _KINDS[kind], strike, expiry_s)


def _underlying(feed: FeedId, row: tuple[Any, ...]) -> Underlying:
    mmr, imr, short_min, _bucket_cap = row
    return Underlying(feed, Ramp(*mmr), Ramp(*imr), Ramp(*short_min))


def _collateral(number: int, row: tuple[Any, ...]) -> Collateral:
    token, feed_id, h_mm, h_im, sale_disc_max, _cap = row
    return Collateral(number, token, feed_name(feed_id), Ramp(*h_mm), Ramp(*h_im), sale_disc_max)
