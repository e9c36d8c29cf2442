"""Calls of FlashLiquidator, our contract that closes accounts with what is lent for one transaction.

What it returns is the profit, so that a simulation of the very transaction says what it would bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from keeper import abi
from keeper.domain import Act, Call
from keeper.errors import ChainFault
from keeper.lending.routes import NOBODY, Route
from keeper.lending.words import By, Flash, FlashTakeOver, Lender, Repay, Way
from keeper.units import AccountKey

CONTRACT: Final = ("flash", "FlashLiquidator")
ADDRESS_BYTES: Final = 20
_LENDERS: Final = tuple(Lender)
_BY: Final = tuple(By)


class Kind(IntEnum):
    """By whose rules an account is closed; the order is that of ``FlashLiquidator.Kind`` on chain."""

    AAVE_V3 = 0
    MORPHO_BLUE = 1
    PRE_LIQUIDATION = 2
    COMPOUND_V2 = 3
    PERP_CURIE = 4


@dataclass(frozen=True, slots=True)
class Job:
    """One account to be closed, and the way from its collateral back to what was lent."""

    kind: Kind
    account: AccountKey
    way: Way
    by: By
    asked: int
    route: Route


def flash_call(act: Repay, kind: Kind) -> Call:
    """Build the closing of one account; what it may take is lent.

    Raises ValueError for an act that is no flash loan, or whose route does not begin at the collateral.
    """
    if act.flash is None:
        raise ValueError(f"expected a flash loan for 0x{act.account.hex()}, found none")
    job = Job(kind, act.account, act.way, act.by, act.asked, act.flash.route)
    return run_call(act.flash, [job], act.way.debt, act.takes)


def takeover_call(act: FlashTakeOver, house: str, token: str) -> Call:
    """Build a takeover at a clearing house of Perpetual that settles in a token; its margin is lent."""
    way = Way(house, token, token, 0, 0, act.market)
    job = Job(Kind.PERP_CURIE, act.account, way, By.REPAID, act.size_wad % 2**256, act.flash.route)
    return run_call(act.flash, [job], token, act.lent)


def run_call(flash: Flash, jobs: Sequence[Job], token: str, amount: int) -> Call:
    """Build the closing of several accounts that owe one token, of which so much is lent for all."""
    pool = flash.pool or NOBODY
    plan = (
        _LENDERS.index(flash.lender),
        pool,
        token,
        amount,
        [_fields(job) for job in jobs],
        flash.min_profit,
    )
    return abi.load(*CONTRACT).functions["run"].call(flash.liquidator, plan)


def profit(result: bytes) -> int:
    """Read what a run returned: the profit, in units of the token that was lent."""
    found: int = abi.load(*CONTRACT).functions["run"].result(result)[0]
    return found


def goes_through_as(act: Act, result: bytes, due: Act) -> bool:
    """Tell whether an act that returned ``result`` shows that another one goes through.

    That is the same act; with borrowed tokens another least profit is fine, where so much was left.
    """
    if not (isinstance(act, Repay | FlashTakeOver) and isinstance(due, Repay | FlashTakeOver)):
        return act == due
    if act.flash is None or due.flash is None:
        return act == due
    wanted = due.flash.min_profit
    return replace(act, flash=replace(act.flash, min_profit=wanted)) == due and profit(result) >= wanted


def revert_name(data: bytes) -> str | None:
    """Say why a run reverted, such as ``Unprofitable(got=-5, wanted=7)``; None for an error of others.

    What a venue, a pool or a token refuses comes through as it is.
    """
    for error in abi.load(*CONTRACT).errors.values():
        if error.selector == data[:4]:
            try:
                values = zip(error.names, error.decode(data[4:]), strict=True)
            except ChainFault:
                return f"{error.name}, unreadable: 0x{data.hex()}"
            return f"{error.name}({', '.join(f'{name}={value}' for name, value in values)})"
    return None


def named(others: Callable[[bytes], str]) -> Callable[[bytes], str]:
    """Return what names the errors of a run: its own, or those of the protocol that it closes on."""
    return lambda data: revert_name(data) or others(data)


def _fields(job: Job) -> tuple[object, ...]:
    way, hops = job.way, job.route
    sold = [way.collateral, *(hop.buys for hop in hops)][: len(hops)]
    if [hop.sells for hop in hops] != sold:
        raise ValueError(f"expected a route that sells {sold}, found {[hop.sells for hop in hops]}")
    return (
        job.kind,
        way.venue,
        bytes.fromhex(way.market.removeprefix("0x")).rjust(32, b"\0"),
        way.collateral,
        job.account[:ADDRESS_BYTES],
        _BY.index(job.by),
        job.asked,
        [(hop.buys, hop.pool.fee or 0) for hop in hops],
    )
