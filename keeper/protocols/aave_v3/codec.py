"""Between bytes and words: logs into facts, acts into calldata, answers into a world, reverts into names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from eth_utils.crypto import keccak

from keeper.abi import Error, Event
from keeper.domain import Call, Fact, Log
from keeper.errors import ChainFault
from keeper.lending.words import Repay
from keeper.protocols.aave_v3 import math
from keeper.protocols.aave_v3.abi import LIQUIDATE, POOL_EVENTS, READER, TRANSFERRED, address
from keeper.protocols.aave_v3.math import Category, Reserve, Rules, Unmet
from keeper.protocols.aave_v3.params import CATEGORIES, MAX_RESERVES, RULES, Deployment, version_of
from keeper.units import WAD, AccountKey, UnixS, Wad

NO_SUB_ACCOUNT: Final = bytes(12)
WORD: Final = 32

# --- logs ----------------------------------------------------------------------------------------

_POOL: Final[Mapping[bytes, Event]] = {event.topic: event for event in POOL_EVENTS}
_WHO: Final[Mapping[str, tuple[str, ...]]] = {
    "Supply": ("on_behalf_of",),
    "MintUnbacked": ("on_behalf_of",),
    "Borrow": ("on_behalf_of",),
    "Repay": ("user", "repayer"),
    "BalanceTransfer": ("sender", "receiver"),
    "DeficitCovered": ("caller",),
}
"""Whose rows an event changes, where it is not ``user`` alone. Who repays may do so with receipts."""


def key_of(user: str) -> AccountKey:
    """Return the row of a user."""
    return bytes.fromhex(user[2:]) + NO_SUB_ACCOUNT


def owner_of(key: AccountKey) -> str:
    """Return whose row it is."""
    return "0x" + key[: -len(NO_SUB_ACCOUNT)].hex()


def decode(log: Log, deployment: Deployment) -> Fact | None:
    """Say what a log means; None for one that changes no row.

    Raises ChainFault where a log of ours cannot be read.
    """
    event = _event(log, deployment)
    if event is None:
        return None
    names = [name for name, *_ in event.parameters]
    args = dict(zip(names, event.values(log.topics, log.data), strict=True))
    users = dict.fromkeys(args[name] for name in _WHO.get(event.name, ("user",)))
    return Fact(
        block=log.block_number,
        tx_hash=log.tx_hash,
        log_index=log.index,
        act=event.name,
        touched=tuple(map(key_of, users)),
        args=args,
        block_hash=log.block_hash,
        closes=event.name == "LiquidationCall",
    )


def _event(log: Log, deployment: Deployment) -> Event | None:
    topic, where = log.topics[0] if log.topics else b"", log.address.lower()
    if where == deployment.pool:
        return _POOL.get(topic)
    is_transfer = topic == TRANSFERRED.topic
    return TRANSFERRED if is_transfer and where in deployment.atokens else None


# --- acts ----------------------------------------------------------------------------------------


def repay_call(act: Repay) -> Call:
    """Repay from the wallet exactly so much, and take the collateral itself rather than receipts."""
    way, user = act.way, owner_of(act.account)
    return LIQUIDATE.call(way.venue, way.collateral, way.debt, user, act.asked, False)


# --- reads ---------------------------------------------------------------------------------------

_WORLD_WORDS: Final = 4
_RESERVE_WORDS: Final = 6
_CATEGORY_WORDS: Final = 3
_ANSWER_WORDS: Final = 2
_UNPRICED: Final = 2**256 - 1


@dataclass(frozen=True, slots=True)
class Answer:
    """The newest answer of a feed."""

    price_wad: Wad
    at_s: UnixS


@dataclass(frozen=True, slots=True)
class AaveWorld:
    """Everything but the accounts: as the pool stores it, and as it is at one moment."""

    version: int
    stored: math.World
    """The indices as they were last updated, from which interest is counted."""
    now: math.World
    tokens: Mapping[int, str]
    """By number; a reserve that was dropped has none."""
    answers: Mapping[str, Answer]
    """By the feed's contract; none where it gives no answer."""
    silent: frozenset[int]
    """3.0: e-mode categories that have a price of their own which is not to be had."""

    def at(self, at_s: UnixS) -> AaveWorld:
        """Return the world at another time, not before the last act on any reserve."""
        return replace(self, now=math.carried(self.stored, at_s))

    def priced(self, prices: Mapping[int, int]) -> AaveWorld:
        """Return the world at other prices of some reserves."""
        return replace(self, stored=_priced(self.stored, prices), now=_priced(self.now, prices))


def rows_call(deployment: Deployment, keys: Sequence[AccountKey]) -> Call:
    """Ask for many accounts; ``rows`` reads it.

    Put together by hand, for eth_abi takes longer over the users than the book over the answer.
    """
    head = (int(deployment.pool, 16), 2 * WORD, len(keys))
    users = (NO_SUB_ACCOUNT + key[: -len(NO_SUB_ACCOUNT)] for key in keys)
    words = b"".join((*(number.to_bytes(WORD) for number in head), *users))
    return Call(deployment.reader, READER["rows"].selector + words)


def world_call(deployment: Deployment) -> Call:
    """Ask for all that the accounts share, and for the newest answer of every feed."""
    return READER["world"].call(deployment.reader, deployment.pool, deployment.feeds)


def decode_world(data: bytes, deployment: Deployment) -> AaveWorld:
    """Read the world, as it is at the block's own time."""
    found, reserves, categories, answers = READER["world"].result(data)
    if len(found) != _WORLD_WORDS or len(answers) != _ANSWER_WORDS * len(deployment.feeds):
        raise ChainFault(
            f"expected {_WORLD_WORDS} words of a pool and {len(deployment.feeds)} answers of feeds, found"
            f" {len(found)} and {len(answers)} words"
        )
    now_s, revision, allows, _ = found
    rows = {row[0] >> 240: row for row in _rows(reserves, _RESERVE_WORDS)}
    if len(rows) * _RESERVE_WORDS != len(reserves) or max(rows, default=0) >= MAX_RESERVES:
        raise ChainFault(f"expected reserves of different numbers, found {[*rows]} in {len(reserves)} words")
    tokens = {number: address(row[0]) for number, row in rows.items()}
    # Another revision is another version: these rules are not asked of it.
    rules = RULES.get(revision, deployment.rules)
    terms = {row[0] >> 32: row for row in _rows(categories, _CATEGORY_WORDS)}
    if max(terms, default=0) >= CATEGORIES:
        raise ChainFault(f"expected e-mode categories below {CATEGORIES}, found {[*terms]}")
    stored = math.World(
        rules=rules,
        reserves=tuple(
            _reserve(rows[number], now_s) if number in rows else _DROPPED
            for number in range(max(rows, default=-1) + 1)
        ),
        categories={number: _category(row) for number, row in terms.items()},
        sentinel_allows=bool(allows),
        at_s=now_s,
    )
    listed = [(number, tokens[number], address(row[5])) for number, row in rows.items()]
    return AaveWorld(
        version=version_of(revision, listed),
        stored=stored,
        now=math.carried(stored, now_s),
        tokens=tokens,
        answers={**dict(_answered(answers, deployment)), **dict(_said(stored, deployment))},
        silent=frozenset(number for number, row in terms.items() if row[2] == _UNPRICED),
    )


def _reserve(row: Sequence[int], now_s: UnixS) -> Reserve:
    named, bits, income, debt, money, _ = row
    updated_at_s = named >> 160 & 0xFF_FFFF_FFFF
    if updated_at_s > now_s:
        raise ChainFault(f"expected indices of {now_s} or before, found some of {updated_at_s}")
    return Reserve(
        price=money >> 128,
        decimals=bits >> 48 & 0xFF,
        threshold_bps=bits >> 16 & 0xFFFF,
        bonus_bps=bits >> 32 & 0xFFFF,
        fee_bps=bits >> 152 & 0xFFFF,
        income_ray=income >> 128,
        income_rate_ray=_low(income),
        debt_ray=debt >> 128,
        debt_rate_ray=_low(debt),
        updated_at_s=updated_at_s,
        liquid=_low(money),
        is_active=bool(bits >> 56 & 1),
        is_paused=bool(bits >> 60 & 1),
        grace_until_s=named >> 200 & 0xFF_FFFF_FFFF,
    )


_DROPPED: Final = Reserve(
    price=0,
    decimals=0,
    threshold_bps=0,
    bonus_bps=0,
    fee_bps=0,
    income_ray=math.RAY,
    income_rate_ray=0,
    debt_ray=math.RAY,
    debt_rate_ray=0,
    updated_at_s=0,
    liquid=0,
    is_active=False,
)
"""Stands where a number is free."""


def _category(row: Sequence[int]) -> Category:
    terms, bitmap, price = row
    return Category(terms >> 16 & 0xFFFF, terms & 0xFFFF, bitmap, 0 if price == _UNPRICED else price)


def _answered(words: Sequence[int], deployment: Deployment) -> Iterator[tuple[str, Answer]]:
    decimals = {each.feed_address: each.decimals for found in deployment.traces.values() for each in found}
    for feed, (price, at_s) in zip(deployment.feeds, _rows(words, _ANSWER_WORDS), strict=True):
        if price_wad := price * WAD // 10 ** decimals[feed]:
            yield feed, Answer(price_wad, at_s)


def _said(world: math.World, deployment: Deployment) -> Iterator[tuple[str, Answer]]:
    """Yield what the pool's own oracle says of sources that are feeds themselves, answered in this block."""
    for number, found in deployment.traces.items():
        price = world.reserves[number].price if number < len(world.reserves) else 0
        for each in found:
            if each.is_oracle and price:
                yield each.feed_address, Answer(price * WAD // 10**each.decimals, world.at_s)


def _priced(world: math.World, prices: Mapping[int, int]) -> math.World:
    reserves = tuple(
        replace(reserve, price=prices.get(number, reserve.price))
        for number, reserve in enumerate(world.reserves)
    )
    return replace(world, reserves=reserves)


def _rows(words: Sequence[int], width: int) -> list[Sequence[int]]:
    """Cut words into rows; raise ChainFault where the last one is not whole."""
    if len(words) % width:
        raise ChainFault(f"expected rows of {width} words, found {len(words)} words")
    return [words[at : at + width] for at in range(0, len(words), width)]


def _low(word: int) -> int:
    return word & (1 << 128) - 1


# --- reverts -------------------------------------------------------------------------------------

_STRING: Final = Error("Error", bytes.fromhex("08c379a0"), ("reason",), ("string",))
_PANIC: Final = Error("Panic", bytes.fromhex("4e487b71"), ("code",), ("uint256",))
_ERRORS: Final[Mapping[bytes, str]] = {
    keccak(text=signature)[:4]: signature.removesuffix("()")
    for signature in (
        *(f"{unmet.value[0]}()" for unmet in Unmet if unmet is not Unmet.ILLIQUID),
        "SelfLiquidation()",
        "InvalidAmount()",
        "ReserveFrozen()",
        "NotEnoughAvailableUserBalance()",
        "ERC20InsufficientBalance(address,uint256,uint256)",
        "ERC20InsufficientAllowance(address,uint256,uint256)",
        "SafeERC20FailedOperation(address)",
    )
}
"""What a liquidation by 3.6 and the tokens that it moves may revert with."""
_WORDS: Final[Mapping[str, str]] = {words: name for name, words in (unmet.value for unmet in Unmet) if words}
"""The numbers that 3.0 reverts with, by the names that 3.6 gave them."""


def revert_name(data: bytes) -> str:
    """Say why a call reverted, such as ``HealthFactorNotBelowThreshold``."""
    if not data:
        return "reverted without a reason"
    try:
        if data[:4] == _STRING.selector:
            [words] = _STRING.decode(data[4:])
            return f"{_WORDS[words]} ({words})" if words in _WORDS else str(words)
        if data[:4] == _PANIC.selector:
            return f"Panic({_PANIC.decode(data[4:])[0]:#04x})"
    except ChainFault:
        return f"unreadable: 0x{data.hex()}"
    return _ERRORS.get(data[:4], f"unknown error 0x{data.hex()}")


def refusal_name(unmet: Unmet, rules: Rules) -> str:
    """Return what ``revert_name`` says of a refusal."""
    name, words = unmet.value
    if unmet is Unmet.ILLIQUID:
        return f"{name}(0x11)"
    return name if rules is Rules.V3_6 else f"{name} ({words})"
