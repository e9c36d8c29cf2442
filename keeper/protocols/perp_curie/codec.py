"""Between bytes and words: logs into facts, acts into calldata, answers into the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.abi import Event, event, function
from keeper.domain import Call, Fact, Log, TakeOver
from keeper.errors import ChainFault
from keeper.protocols.perp_curie.math import Terms
from keeper.protocols.perp_curie.params import Deployment, load, version_of
from keeper.protocols.perp_curie.rows import ADDRESS
from keeper.units import AccountKey, UnixS, Wad

_CLEARING_HOUSE: Final = (
    event(
        "PositionChanged(address indexed trader, address indexed baseToken, int256 exchangedPositionSize,"
        " int256 exchangedPositionNotional, uint256 fee, int256 openNotional, int256 realizedPnl,"
        " uint256 sqrtPriceAfterX96)"
    ),
    event(
        "PositionClosed(address indexed trader, address indexed baseToken, int256 closedPositionSize,"
        " int256 closedPositionNotional, int256 openNotional, int256 realizedPnl, uint256 closedPrice)"
    ),
    event(
        "PositionLiquidated(address indexed trader, address indexed baseToken, uint256 positionNotional,"
        " uint256 positionSize, uint256 liquidationFee, address liquidator)"
    ),
    event("FundingPaymentSettled(address indexed trader, address indexed baseToken, int256 fundingPayment)"),
    event(
        "LiquidityChanged(address indexed maker, address indexed baseToken, address indexed quoteToken,"
        " int24 lowerTick, int24 upperTick, int256 base, int256 quote, int128 liquidity, uint256 quoteFee)"
    ),
)
_VAULT: Final = (
    event("Deposited(address indexed collateralToken, address indexed trader, uint256 amount)"),
    event("Withdrawn(address indexed collateralToken, address indexed trader, uint256 amount)"),
    event(
        "CollateralLiquidated(address indexed trader, address indexed collateralToken,"
        " address indexed liquidator, uint256 collateral,"
        " uint256 repaidSettlementWithoutInsuranceFundFeeX10_S, uint256 insuranceFundFeeX10_S,"
        " uint24 discountRatio)"
    ),
    event("BadDebtSettled(address indexed trader, uint256 amount)"),
)
_ACCOUNTS: Final = ("trader", "maker", "liquidator")
"""The parameters that name an account."""

_LIQUIDATE: Final = function("liquidate(address,address,int256)")
_ERROR: Final = function("Error(string)", returns="string")
_WORDS: Final[Mapping[str, str]] = {
    "CH_EAV": "the account has enough value",
    "CH_CLWTISO": "the account still has orders",
    "CH_PSZ": "there is no position",
    "CH_WLD": "the position is on the other side",
    "CH_MNO": "the market is not open",
    "CH_IIC": "the insurance fund cannot bear the bad debt",
    "CH_NEFCI": "the taker has not enough free collateral",
    "AB_MNE": "the taker has positions in too many markets",
}
"""What the contract's codes mean."""


@dataclass(frozen=True, slots=True)
class MarketView:
    """One market at one block. What makes up the mark of an open one is 0 while it is not open."""

    mark_wad: Wad
    """0 where it cannot be had."""
    is_open: bool
    spot_wad: Wad
    twap_wad: Wad
    premium_wad: Wad
    index_wad: Wad
    updated_at_s: UnixS
    """When the index's own feed was answered last; 0 where it does not say."""


@dataclass(frozen=True, slots=True)
class PerpWorld:
    """What the chain says of Perpetual at one block; the markets in the order of the columns."""

    version: int
    markets: tuple[MarketView, ...]
    terms: Terms
    initial: int
    """The initial margin of what was borrowed, in millionths."""
    funding_rate: int
    """The most of funding a day, in millionths of the index."""
    paused: bool


def key_of(trader: str) -> AccountKey:
    """Return the row of a trader's account."""
    return bytes.fromhex(trader[2:]) + bytes(12)


def decode(log: Log, deployment: Deployment) -> Fact | None:
    """Say what a log means; None for one of another contract, or that changes no account.

    Raises ChainFault where a log of ours cannot be read.
    """
    contracts: Mapping[str, Sequence[Event]] = {
        deployment.clearing_house: _CLEARING_HOUSE,
        deployment.vault: _VAULT,
    }
    known = contracts.get(log.address.lower(), ())
    shape = next((each for each in known if log.topics and each.topic == log.topics[0]), None)
    if shape is None:
        return None
    names = [name for name, *_ in shape.parameters]
    args = dict(zip(names, shape.values(log.topics, log.data), strict=True))
    return Fact(
        block=log.block_number,
        tx_hash=log.tx_hash,
        log_index=log.index,
        act=shape.name,
        touched=tuple(key_of(args[name]) for name in _ACCOUNTS if name in args),
        args=args,
        block_hash=log.block_hash,
        closes=shape.name == "PositionLiquidated",
    )


def encode(act: TakeOver, deployment: Deployment) -> Call:
    """Build the calldata of a takeover."""
    trader = "0x" + act.account[:ADDRESS].hex()
    return _LIQUIDATE.call(deployment.clearing_house, trader, act.market, act.size_wad)


def rows_call(deployment: Deployment, keys: Sequence[AccountKey]) -> Call:
    """Ask for the exact state of many accounts."""
    traders = ["0x" + key[:ADDRESS].hex() for key in keys]
    return load("PerpReader").functions["rows"].call(deployment.reader, traders, deployment.bases)


def world_call(deployment: Deployment) -> Call:
    """Ask for all markets, and what holds for all of them."""
    return load("PerpReader").functions["world"].call(deployment.reader, deployment.bases)


def decode_world(answer: bytes, deployment: Deployment) -> PerpWorld:
    """Read the world; raise ChainFault where the answer is none."""
    shared, rows = load("PerpReader").functions["world"].result(answer)
    if len(rows) != len(deployment.bases):
        raise ChainFault(f"expected {len(deployment.bases)} markets, found {len(rows)}")
    maintenance, initial, penalty, funding_rate, decimals, insurance_wad, paused = shared
    return PerpWorld(
        version=version_of([(feed, description) for *_, feed, description in rows]),
        markets=tuple(MarketView(*row[:-2]) for row in rows),
        terms=Terms(maintenance, penalty, decimals, insurance_wad),
        initial=initial,
        funding_rate=funding_rate,
        paused=paused,
    )


def revert_words(data: bytes) -> str:
    """Say why a call reverted, such as ``CH_EAV: the account has enough value``."""
    if data[:4] != _ERROR.selector:
        return f"unknown error 0x{data.hex()}" if data else "reverted without a reason"
    try:
        (code,) = _ERROR.result(data[4:])
    except ChainFault:
        return f"an error that is unreadable: 0x{data.hex()}"
    return words_of(code)


def words_of(code: str) -> str:
    """Say what one of the contract's codes means."""
    return f"{code}: {_WORDS[code]}" if code in _WORDS else code
