"""Between bytes and words: logs into facts, acts into calldata, answers into what the chain says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from keeper import abi
from keeper.abi import Event, artifact, errors, event, function, load
from keeper.domain import Call, ChainTime, Fact, Log
from keeper.errors import ChainFault, InvariantBroken
from keeper.lending.words import By, Repay
from keeper.protocols.morpho_blue import math
from keeper.protocols.morpho_blue.params import READER, Listed, Listing, Stored, World
from keeper.units import AccountKey

MARKET_WORDS: Final = 5
"""MorphoReader.world: the state in three words, and two rates."""
NONE: Final = 2**256 - 1
"""What the reader says where there was no answer."""

# --- logs ----------------------------------------------------------------------------------------

_BORROWED: Final = event(
    "Borrow(bytes32 indexed id, address caller, address indexed owner, address indexed receiver,"
    " uint256 assets, uint256 shares)"
)
_CHANGES: Final[Mapping[bytes, Event]] = {
    each.topic: each
    for each in (
        _BORROWED,
        event(
            "Repay(bytes32 indexed id, address indexed caller, address indexed owner, uint256 assets,"
            " uint256 shares)"
        ),
        event(
            "SupplyCollateral(bytes32 indexed id, address indexed caller, address indexed owner,"
            " uint256 assets)"
        ),
        event(
            "WithdrawCollateral(bytes32 indexed id, address caller, address indexed owner,"
            " address indexed receiver, uint256 assets)"
        ),
        event(
            "Liquidate(bytes32 indexed id, address indexed caller, address indexed owner, uint256 repaid,"
            " uint256 repaid_shares, uint256 seized, uint256 bad_debt, uint256 bad_debt_shares)"
        ),
    )
}
"""The events that change the row of an owner in a market; the names of the parameters are ours."""
_AUTHORISED: Final = event(
    "SetAuthorization(address indexed caller, address indexed owner, address indexed authorised,"
    " bool allowed)"
)
_PRE_LIQUIDATED: Final = event(
    "PreLiquidate(bytes32 indexed id, address indexed liquidator, address indexed owner, uint256 repaid,"
    " uint256 repaid_shares, uint256 seized)"
)


_CLOSINGS: Final = frozenset({"Liquidate", "PreLiquidate"})


def key_of(owner: str, market_id: bytes) -> AccountKey:
    """Return the row of an owner in a market."""
    return bytes.fromhex(owner[2:]) + market_id[:12]


def decode(log: Log, listing: Listing) -> Fact | None:
    """Say what a log means; None for one that changes no row of a listed market.

    Raises ChainFault where a log of ours cannot be read.
    """
    topic, address = log.topics[0] if log.topics else b"", log.address.lower()
    is_morpho = address == listing.chosen.morpho
    if is_morpho and topic == _AUTHORISED.topic:
        return _authorisation(log, listing)
    shape = _CHANGES.get(topic) if is_morpho else None
    if address in listing.pres and topic == _PRE_LIQUIDATED.topic:
        shape = _PRE_LIQUIDATED
    # By its topic first: most logs are of markets that are not listed.
    if shape is None or (len(log.topics) > 1 and listing.of(log.topics[1]) is None):
        return None
    args = _arguments(shape, log)
    return _fact(log, shape.name, key_of(args["owner"], bytes.fromhex(args["id"][2:])), args)


def borrowed_elsewhere(log: Log, listing: Listing) -> str | None:
    """Name the market that a log borrows from and that is not listed, if it does."""
    is_borrow = log.address.lower() == listing.chosen.morpho and log.topics[:1] == (_BORROWED.topic,)
    if not is_borrow or len(log.topics) < 2 or listing.of(log.topics[1]):
        return None
    return "0x" + log.topics[1].hex()


def _authorisation(log: Log, listing: Listing) -> Fact | None:
    """Say whose row changes by leave given to a pre-liquidation contract, or taken back from it."""
    args = _arguments(_AUTHORISED, log)
    found = listing.pres.get(args["authorised"])
    return _fact(log, _AUTHORISED.name, key_of(args["owner"], found[0].id), args) if found else None


def _arguments(shape: Event, log: Log) -> dict[str, Any]:
    """Return the parameters by name; bytes in hexadecimal, addresses in lower case."""
    values = zip(shape.parameters, shape.values(log.topics, log.data), strict=True)
    return {
        name: f"0x{value.hex()}"
        if isinstance(value, bytes)
        else value.lower()
        if kind == "address"
        else value
        for (name, kind, _), value in values
    }


def _fact(log: Log, act: str, account: AccountKey, args: Mapping[str, Any]) -> Fact:
    return Fact(
        block=log.block_number,
        tx_hash=log.tx_hash,
        log_index=log.index,
        act=act,
        touched=(account,),
        args=args,
        block_hash=log.block_hash,
        closes=act in _CLOSINGS,
    )


# --- acts ----------------------------------------------------------------------------------------

_LIQUIDATE: Final = function(
    "liquidate((address,address,address,address,uint256),address,uint256,uint256,bytes)", "uint256, uint256"
)
_PRE_LIQUIDATE: Final = function("preLiquidate(address,uint256,uint256,bytes)", "uint256, uint256")


def repay_call(act: Repay, listing: Listing) -> Call:
    """Repay from the caller's own tokens, to Morpho or to a pre-liquidation contract."""
    if act.flash is not None or act.by is By.REPAID:
        raise InvariantBroken(f"Morpho Blue takes an own {By.SHARES} or {By.SEIZED}, found {act}")
    owner = "0x" + act.account[:20].hex()
    sizes = (act.asked, 0) if act.by is By.SEIZED else (0, act.asked)
    if act.way.venue != listing.chosen.morpho:
        return _PRE_LIQUIDATE.call(act.way.venue, owner, *sizes, b"")
    market = listing.of(bytes.fromhex(act.way.market[2:]))
    if market is None:
        raise InvariantBroken(f"market {act.way.market} is not listed")
    return _LIQUIDATE.call(listing.chosen.morpho, market.params, owner, *sizes, b"")


# --- answers -------------------------------------------------------------------------------------


def reader_creation() -> bytes:
    """Return what creates the reader."""
    return bytes.fromhex(artifact("readers", READER)["bytecode"][2:])


def rows_call(keys: Sequence[AccountKey], listing: Listing) -> Call:
    """Ask for the exact state of many accounts."""
    numbers = [listing.places.get(key[20:]) for key in keys]
    markets = {number: listing.markets[number] for number in numbers if number is not None}
    ids = [bytes(32) if number is None else markets[number].id for number in numbers]
    pres = [key_of(pre.address, market.id) for market in markets.values() for pre in market.pres]
    rows = load("readers", READER).functions["rows"]
    return rows.call(listing.chosen.reader, listing.chosen.morpho, list(keys), ids, pres)


def world_call(listing: Listing) -> Call:
    """Ask for the state of every market, the price of every oracle and the answer of every feed."""
    world = load("readers", READER).functions["world"]
    ids, feeds = [market.id for market in listing.markets], [feed.address for feed in listing.feeds]
    return world.call(listing.chosen.reader, listing.chosen.morpho, ids, [*listing.paths], feeds)


def decode_world(answer: bytes, listing: Listing) -> World:
    """Read its answer; raise ChainFault where it is not one."""
    [words] = load("readers", READER).functions["world"].result(answer)
    states, sources, rounds = MARKET_WORDS * len(listing.markets), len(listing.paths), 2 * len(listing.feeds)
    if len(words) != 2 + states + sources + rounds:
        expected = f"{2 + states + sources + rounds} words of {len(listing.markets)} markets"
        raise ChainFault(f"expected {expected}, found {len(words)}")
    (block, at_s), told = words[:2], iter(words[2:])
    stored = tuple(
        _stored(market, [next(told) for _ in range(MARKET_WORDS)], at_s) for market in listing.markets
    )
    prices = {oracle: price for oracle in listing.paths for price in [next(told)] if 0 < price < NONE}
    heard = {}
    for feed in listing.feeds:
        price, updated_at_s = next(told), next(told)
        if feed.is_oracle:
            price, updated_at_s = (
                prices.get(feed.address, NONE),
                at_s if updated_at_s == NONE else updated_at_s,
            )
        if told_ := feed.answer(price, updated_at_s):
            heard[feed.address] = told_
    return World(ChainTime(block, at_s), stored, prices, heard)


def _stored(listed: Listed, words: Sequence[int], at_s: int) -> Stored:
    """Read a market; its model is the adaptive one where that says just what the formula does."""
    state = [half for word in words[:3] for half in (word >> 128, word % 2**128)]
    market = math.Market(*(*state, listed.lltv_wad, 0))
    if not 0 < market.updated_at_s <= at_s:
        raise ChainFault(f"market {listed.name} was updated at {market.updated_at_s}, in a block of {at_s}")
    at_target_wad, rate_wad = words[3:]
    if rate_wad == NONE:
        return Stored(market, None, None)
    is_adaptive = at_target_wad <= math.MOST_RATE_WAD and rate_wad == math.adaptive_rate_wad(
        market, at_target_wad, at_s
    )
    return Stored(market, rate_wad, at_target_wad if is_adaptive else None)


# --- refusals ------------------------------------------------------------------------------------

_ERRORS: Final = errors(
    "InconsistentInput()",
    "LiquidatablePosition()",
    "NotPreLiquidatablePosition()",
    "PreLiquidationTooLarge(uint256,uint256)",
    "NotMorpho()",
)


def revert_name(data: bytes) -> str:
    """Say why a call reverted: Morpho in words, pre-liquidation by the name of an error."""
    return abi.revert_name(data, _ERRORS)
