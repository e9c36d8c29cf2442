"""Between bytes and words: logs into facts, acts into calldata, answers into what the chain says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from keeper import abi
from keeper.abi import Event, artifact, errors, event, function, load
from keeper.domain import Call, ChainTime, Fact, Log
from keeper.errors import ChainFault, InvariantBroken
from keeper.lending.words import By, Heal, Repay, RepayAll
from keeper.protocols.compound_v2.math import Action, Market, Pool
from keeper.protocols.compound_v2.oracles import NOBODY
from keeper.protocols.compound_v2.params import READER, Listed, Listing, World
from keeper.units import AccountKey

POOL_WORDS: Final = 6
MARKET_WORDS: Final = 15
NONE: Final = 2**256 - 1
"""What the reader says where there was no answer."""
SUB: Final = bytes(12)
"""What follows an owner in a key: one account each."""

# --- logs ----------------------------------------------------------------------------------------

_OF_MARKETS: Final[Mapping[bytes, Event]] = {
    each.topic: each
    for each in map(
        event,
        (
            "Transfer(address indexed sender, address indexed receiver, uint256 units)",
            "Borrow(address indexed owner, uint256 got, uint256 owed, uint256 all)",
            "RepayBorrow(address indexed by, address indexed owner, uint256 paid, uint256 owed, uint256 all)",
            (
                "LiquidateBorrow(address indexed by, address indexed owner, uint256 paid,"
                " address indexed collateral, uint256 seized)"
            ),
            "HealBorrow(address indexed by, address indexed owner, uint256 paid)",
        ),
    )
}
"""The events of a vToken that change accounts; the names of the parameters are ours."""
_OF_POOL: Final[Mapping[bytes, Event]] = {
    each.topic: each
    for each in map(
        event,
        (
            "MarketEntered(address indexed market, address indexed owner)",
            "MarketExited(address indexed market, address indexed owner)",
        ),
    )
}
_ACCOUNTS: Final = ("owner", "sender", "receiver")


def key_of(owner: str) -> AccountKey:
    """Return the row of an owner."""
    return bytes.fromhex(owner[2:]) + SUB


def decode(log: Log, listing: Listing) -> Fact | None:
    """Say what a log means; None for one that changes no account.

    Raises ChainFault where a log of ours cannot be read.
    """
    address = log.address.lower()
    of_market = _OF_MARKETS if address in listing.numbers else {}
    shape = (_OF_POOL if address == listing.chosen.comptroller else of_market).get(
        log.topics[0] if log.topics else b""
    )
    if shape is None:
        return None
    values = zip(shape.parameters, shape.values(log.topics, log.data), strict=True)
    args: dict[str, Any] = {
        name: value.lower() if kind == "address" else value for (name, kind, _), value in values
    }
    # Minting and burning name nobody, and a market is no account of its own.
    owners = {args[name] for name in _ACCOUNTS if name in args} - {NOBODY, address}
    return Fact(
        block=log.block_number,
        tx_hash=log.tx_hash,
        log_index=log.index,
        act=shape.name,
        touched=tuple(key_of(owner) for owner in sorted(owners)),
        args=args,
        block_hash=log.block_hash,
        closes=shape.name == "LiquidateBorrow",
    )


# --- acts ----------------------------------------------------------------------------------------

_LIQUIDATE: Final = function("liquidateBorrow(address,uint256,address)", "uint256")
_LIQUIDATE_ALL: Final = function("liquidateAccount(address,(address,address,uint256)[])")
_HEAL: Final = function("healAccount(address)")


def encode(act: Heal | Repay | RepayAll, listing: Listing) -> Call:
    """Build the calldata of an act from the caller's own tokens."""
    owner, comptroller = "0x" + act.account[:20].hex(), listing.chosen.comptroller
    match act:
        case Repay():
            if act.by is not By.REPAID:
                raise InvariantBroken(f"Venus takes an amount {By.REPAID}, found {act}")
            return _LIQUIDATE.call(act.way.venue, owner, act.asked, act.way.market)
        case RepayAll():
            orders = [(each.collateral, each.debt, each.amount) for each in act.orders]
            return _LIQUIDATE_ALL.call(comptroller, owner, orders)
        case Heal():
            return _HEAL.call(comptroller, owner)


# --- answers -------------------------------------------------------------------------------------


def reader_creation() -> bytes:
    """Return what creates the reader."""
    return bytes.fromhex(artifact("readers", READER)["bytecode"][2:])


def rows_call(keys: Sequence[AccountKey], listing: Listing) -> Call:
    """Ask for the exact state of many accounts; for that the vTokens tell how they store debts."""
    vtokens, chosen = [*listing.numbers], listing.chosen
    rows = load("readers", READER).functions["rows"]
    call = rows.call(chosen.reader, chosen.comptroller, vtokens, list(keys), chosen.debts_slot)
    teller: str = artifact("readers", "VTokenTeller")["deployedBytecode"]
    return Call(call.to, call.data, tuple((vtoken, teller) for vtoken in vtokens))


def world_call(listing: Listing) -> Call:
    """Ask for the state and the price of every market and the answer of every feed."""
    world = load("readers", READER).functions["world"]
    feeds = [feed.address for feed in listing.feeds]
    return world.call(listing.chosen.reader, listing.chosen.comptroller, [*listing.numbers], feeds)


def decode_world(answer: bytes, listing: Listing) -> World:
    """Read its answer; raise ChainFault where it is not one."""
    [words] = load("readers", READER).functions["world"].result(answer)
    states = MARKET_WORDS * len(listing.markets)
    expected = POOL_WORDS + states + 2 * len(listing.feeds)
    if len(words) != expected:
        raise ChainFault(f"expected {expected} words of {len(listing.markets)} markets, found {len(words)}")
    block, at_s, close_factor_wad, incentive_wad, least_collateral, version = words[:POOL_WORDS]
    told = iter(words[POOL_WORDS:])
    markets = tuple(_market(listed, [next(told) for _ in range(MARKET_WORDS)]) for listed in listing.markets)
    prices = {listed.token: market.price for listed, market in zip(listing.markets, markets, strict=True)}
    heard = {}
    for feed in listing.feeds:
        price, updated_at_s = next(told), next(told)
        if feed.is_oracle:
            price, updated_at_s = prices[feed.address], at_s
        if answer_ := feed.answer(price, updated_at_s):
            heard[feed.address] = answer_
    return World(
        at=ChainTime(block, at_s),
        version=version,
        pool=Pool(markets, close_factor_wad, incentive_wad, least_collateral),
        unpriced=frozenset(number for number, market in enumerate(markets) if market.price == 0),
        heard=heard,
    )


def _market(listed: Listed, words: Sequence[int]) -> Market:
    """Read a market; its price is 0 where none is known."""
    price, threshold_wad, cash, borrows, bad_debt, reserves, supply, rate_wad, *rest = words
    index_wad, accrued_at, borrow_rate_wad, reserve_factor_wad, seize_share_wad, paused, forced = rest
    market = Market(
        price=0 if price == NONE else price,
        threshold_wad=threshold_wad,
        cash=cash,
        borrows=borrows,
        bad_debt=bad_debt,
        reserves=reserves,
        supply=supply,
        first_rate_wad=rate_wad,
        borrow_index_wad=index_wad,
        accrued_at=accrued_at,
        borrow_rate_wad=borrow_rate_wad,
        reserve_factor_wad=reserve_factor_wad,
        seize_share_wad=seize_share_wad,
        paused=frozenset(action for action in Action if paused >> action.value & 1),
        is_forced=bool(forced),
    )
    if market.exchange_rate_wad != rate_wad:
        ours = market.exchange_rate_wad
        raise ChainFault(f"expected the exchange rate of {listed.vtoken} to be {ours}, found {rate_wad}")
    return market


# --- refusals ------------------------------------------------------------------------------------

_ERRORS: Final = errors(
    "ActionPaused(address,uint8)",
    "CollateralExceedsThreshold(uint256,uint256)",
    "ForceLiquidateBorrowUnauthorized()",
    "HealBorrowUnauthorized()",
    "InsufficientCollateral(uint256,uint256)",
    "InsufficientShortfall()",
    "LiquidateCloseAmountIsUintMax()",
    "LiquidateCloseAmountIsZero()",
    "LiquidateLiquidatorIsBorrower()",
    "MarketNotCollateral(address,address)",
    "MarketNotListed(address)",
    "MinimalCollateralViolated(uint256,uint256)",
    "Misplaced(address,address)",
    "PriceError(address)",
    "RedeemTransferOutNotPossible()",
    "SnapshotError(address,address)",
    "TooMuchRepay()",
)


def revert_name(data: bytes) -> str:
    """Say why a call reverted, such as ``TooMuchRepay()``."""
    return abi.revert_name(data, _ERRORS)
