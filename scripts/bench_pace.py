"""Compare paces on the demo's prices: ``scripts/bench pace [--json [FILE]]``.

Forty long books of each market, margined at 6% to 20%, walk through the four hours of ``lab.paths`` block
by block: fall, rebound, second fall. Whoever is in breach at both prices for two blocks is confirmed; then
the keeper's own plan takes slices, carried out by the twin of the contract. Nothing is sent, and nobody else
acts. Told are what owners had closed and paid, how many books are left with positions, and the bad debt.
``docs/planning.md`` keeps the figures; it takes three minutes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from rich.console import Console
from rich.table import Table

from keeper.domain import (
    Account,
    Agree,
    BucketView,
    ChainTime,
    FeedView,
    FlagState,
    Globals,
    Leg,
    OracleView,
    Phase,
    Seen,
    Unknown,
)
from keeper.lab.bench import STDOUT, arguments, write_json
from keeper.lab.deploy import Spec
from keeper.lab.paths import BLOCK_S, SHAPES, START_S, Floats, four_hours, wad
from keeper.plan.hybrid import Means, Params, Slice, plan_slice
from keeper.plan.pace import Kind, Pace
from keeper.protocols.hybrid import liquidator
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import Deployment
from keeper.units import WAD, FeedId, Wad

BOOKS = 40
NOTIONAL = 100_000
LAG_S = 45
"""How far the slow price is behind."""
CONFIRMED_AFTER = 2
"""Blocks of breach at both prices."""
PACES = {
    "plain, all": Pace(),
    "plain, 1/2": Pace(share_wad=WAD // 2),
    "plain, 1/4": Pace(share_wad=WAD // 4),
    "severity, from 1/4": Pace(Kind.SEVERITY, share_wad=WAD // 4),
}
RULES = Spec().rules()
NAMES = (
    *("vault", "fast_oracle", "router", "instruments", "risk_arrays", "engine", "clearing"),
    *("backstop", "breaker", "liquidator", "slopes", "reader", "quote"),
)
MARKET = HybridMarket(
    Deployment(
        chain_id=31337,
        fast_max_age_s=15,
        fast_silent_after_s=600,
        version=0,
        rules=RULES,
        **dict.fromkeys(NAMES, "0x" + "00" * 20),
    )
)
TAKER = Account(b"\xff" * 32, Phase.HEALTHY, 10**12 * WAD, (), ())
AGREED = Agree("both")


@dataclass
class Result:
    """What one pace led to on one market; quote."""

    market: FeedId
    pace: str
    slices: int = 0
    closed: float = 0.0
    fees: float = 0.0
    open_books: int = 0
    bad_debt: float = 0.0


@dataclass
class Book:
    """One account, since when it is in breach, and how its alarm found it."""

    account: Account
    breached: int = 0
    first: Seen | None = None


def main() -> None:
    """Walk every market at every pace."""
    chosen = arguments(__doc__ or "")
    truth = four_hours(np.random.default_rng([1, 0x9A7]))
    found = [walk(market, pace, truth) for market in range(len(SHAPES)) for pace in PACES]
    if chosen.json is not None:
        write_json([asdict(each) for each in found], chosen.json)
    if chosen.json == STDOUT:
        return
    table = Table("market", "pace", "slices", "closed", "fees", "open books", "bad debt")
    for each in found:
        sums = (f"{value:,.0f}" for value in (each.closed, each.fees))
        table.add_row(
            each.market, each.pace, str(each.slices), *sums, str(each.open_books), f"{each.bad_debt:,.0f}"
        )
    Console(width=110).print(table)


def walk(market: int, name: str, truth: Floats) -> Result:
    """Walk one market's books through its prices at one pace."""
    feed, prices = SHAPES[market].feed, truth[:, market]
    found, books = Result(feed, name), books_of(market + 1, float(prices[0]))
    buckets = {feed: BucketView(0, 0, 10**15 * WAD)}
    for block in range(5, len(prices) // BLOCK_S):
        now_s = START_S + block * BLOCK_S
        fast, slow = (wad(round(float(prices[block * BLOCK_S - lag]), 4)) for lag in (0, LAG_S))
        view = FeedView(feed, fast, now_s, 15, slow, now_s - LAG_S, True, WAD // 200, 3600, 12)
        oracles = OracleView({feed: view}, buckets=buckets, world=Globals())
        for book in books:
            attend(book, oracles, ChainTime(block, now_s), PACES[name], found)
    for book in books:
        if book.account.legs:
            found.open_books += 1
            found.bad_debt += max(0.0, -worth(book.account, float(prices[-1])))
    return found


def attend(book: Book, oracles: OracleView, at: ChainTime, pace: Pace, found: Result) -> None:
    """Do for one book in one block what contract and keeper would."""
    account = book.account
    case = MARKET.assess(account, oracles, at)
    if isinstance(case, Unknown) or not account.legs:
        return
    if account.phase is Phase.HEALTHY:
        book.breached = book.breached + 1 if case.fast.breaches() and case.slow.breaches() else 0
        if book.breached == 1:
            book.first = Seen(at.timestamp_s, case.health_wad or 0)
        if book.breached > CONFIRMED_AFTER:
            book.account = confirmed(account, at)
        return
    if case.curable:
        book.account, book.breached = replace(account, phase=Phase.HEALTHY), 0
        return
    means = Means(TAKER, 0, 0, WAD, pace_wad=pace.of(book.first, case.health_wad, at.timestamp_s))
    planned = plan_slice("case", case, AGREED, market=MARKET, oracles=oracles, means=means, params=Params())
    if not isinstance(planned, Slice):
        book.account = replace(account, flag=liquidator.poked(account.flag, at.timestamp_s))
        return
    most_wad = planned.preview.fraction_wad
    done = liquidator.liquidate(account, TAKER, oracles, at, RULES, max_fraction_wad=most_wad)
    assert isinstance(done, liquidator.Slice), done
    found.slices += 1
    found.closed += done.notional_wad / WAD
    found.fees += done.fee.whole_wad / WAD
    found.bad_debt += done.bad_debt_wad / WAD
    book.account = done.account


def confirmed(account: Account, at: ChainTime) -> Account:
    """Return an account whose alarm is confirmed in this block."""
    tau_s = CONFIRMED_AFTER * BLOCK_S
    flag = FlagState(
        flagged_at_s=at.timestamp_s - tau_s,
        flagged_block=at.block - CONFIRMED_AFTER,
        tau_s=tau_s,
        tau_at_confirm_s=tau_s,
        last_poke_s=at.timestamp_s,
        confirmed_at_s=at.timestamp_s,
        fee_cap_wad=2**64 - 1,
    )
    return replace(account, phase=Phase.CONFIRMED, flag=flag)


def books_of(market: int, price: float) -> list[Book]:
    """Return long books of one market, evenly margined."""
    return [
        Book(_book(number, market, price, part)) for number, part in enumerate(np.linspace(0.06, 0.2, BOOKS))
    ]


def _book(number: int, market: int, price: float, part: float) -> Account:
    size_wad: Wad = round(NOTIONAL / price * 1e6) * (WAD // 10**6)
    paid_wad = -size_wad * wad(round(price, 4)) // WAD
    cash_wad = round(NOTIONAL * max(part, 0.06 if market < 3 else 0.09)) * WAD
    return Account(
        number.to_bytes(20) + bytes(12), Phase.HEALTHY, cash_wad, (Leg(market, size_wad, paid_wad),), ()
    )


def worth(account: Account, price: float) -> float:
    """Return the equity of an account at a price."""
    legs = sum(leg.size_wad / WAD * price + leg.quote_leg_wad / WAD for leg in account.legs)
    return account.cash_wad / WAD + legs


if __name__ == "__main__":
    main()
