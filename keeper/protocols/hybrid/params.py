"""What one deployment is: its addresses, its instruments and the parameters of its slope."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from keeper.domain import Call
from keeper.protocols.hybrid.abi import load
from keeper.units import FeedId, Wad

_RAW_FEED_CHARACTERS = 2 + 64


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
class Perp:
    """A perp market: its feed, and the fractions of notional that margin asks for."""

    market: int
    feed: FeedId
    mmr_wad: Wad
    imr_wad: Wad


@dataclass(frozen=True, slots=True)
class CollateralTerms:
    """A collateral: its haircut factors, and the deepest discount of a forced sale."""

    collateral: int
    token: str
    feed: FeedId
    h_mm_wad: Wad
    h_im_wad: Wad
    sale_disc_max_wad: Wad


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that margin and the slope depend on beside the account and the prices."""

    slope: SlopeParams
    perps: Mapping[int, Perp]
    collaterals: Mapping[int, CollateralTerms]

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Every feed of an instrument, each once: perps first."""
        perps = (perp.feed for perp in self.perps.values())
        return tuple(dict.fromkeys((*perps, *(terms.feed for terms in self.collaterals.values()))))


@dataclass(frozen=True, slots=True)
class Deployment:
    """One HybridMargin on one chain. Addresses are in lower case."""

    chain_id: int
    vault: str
    fast_oracle: str
    router: str
    clearing: str
    liquidator: str
    reader: str
    quote: str
    """The token that cash is counted in."""
    fast_max_age_s: int
    rules: Rules

    @property
    def contracts(self) -> tuple[str, ...]:
        """The contracts whose logs ``codec.decode`` understands."""
        return (self.fast_oracle, self.clearing, self.liquidator)


def read_deployment(chain_id: int, reader: str) -> Generator[list[Call], list[bytes], Deployment]:
    """Find out a whole deployment from the address of its MarginReader.

    Yields the calls of each of four rounds, is sent what they returned, and returns the deployment: so the
    I/O stays with the caller. All rounds belong to one block.
    """
    clearing, liquidator = yield from _ask(
        *(("MarginReader", reader, name) for name in ("clearing", "liquidator")),
    )
    parts = ("vault", "router", "quote", "perpCount", "collateralCount")
    vault, router, quote, perp_count, collateral_count, slope = yield from _ask(
        *(("Clearing", clearing, name) for name in parts),
        ("Liquidator", liquidator, "slope"),
    )
    fast_oracle, *listed = yield from _ask(
        ("OracleRouter", router, "fastOracle"),
        *(("Clearing", clearing, "perps", market) for market in range(1, perp_count + 1)),
        *(("Clearing", clearing, "collaterals", number) for number in range(1, collateral_count + 1)),
    )
    (max_age_s,) = yield from _ask(("FastOracle", fast_oracle, "MAX_AGE"))
    perps, collaterals = listed[:perp_count], listed[perp_count:]
    rules = Rules(
        slope=SlopeParams(*slope),
        perps={market: _perp(market, row) for market, row in enumerate(perps, 1)},
        collaterals={number: _collateral(number, row) for number, row in enumerate(collaterals, 1)},
    )
    return Deployment(
        chain_id=chain_id,
        vault=vault,
        fast_oracle=fast_oracle,
        router=router,
        clearing=clearing,
        liquidator=liquidator,
        reader=reader.lower(),
        quote=quote,
        fast_max_age_s=max_age_s,
        rules=rules,
    )


def _ask(*questions: tuple[Any, ...]) -> Generator[list[Call], list[bytes], list[Any]]:
    """Ask (contract, address, function, arguments...) and return the one value that each gives."""
    functions = [load(contract).functions[name] for contract, _, name, *_ in questions]
    asked = zip(functions, questions, strict=True)
    answers = yield [function.call(address, *arguments) for function, (_, address, _, *arguments) in asked]
    return [function.result(answer)[0] for function, answer in zip(functions, answers, strict=True)]


def _perp(market: int, row: tuple[bytes, int, int]) -> Perp:
    feed_id, mmr, imr = row
    return Perp(market, feed_name(feed_id), mmr, imr)


def _collateral(number: int, row: tuple[str, bytes, int, int, int, int]) -> CollateralTerms:
    token, feed_id, h_mm, h_im, sale_disc_max, _cap = row
    return CollateralTerms(number, token, feed_name(feed_id), h_mm, h_im, sale_disc_max)
