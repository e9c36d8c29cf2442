"""The words of lending: how an account stands, the ways to close it, what a closing does, and the acts.

Tokens and contracts are addresses in lower case; amounts are in a token's units, worths in quote, WAD.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from keeper.domain import Reason
from keeper.lending.routes import Route
from keeper.units import WAD, AccountKey, FeedId, UnixS, Wad

# --- what is known -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """An account at one set of prices, in the protocol's own integers."""

    health_wad: Wad | None
    """What its collateral allows over what it owes; None where it owes nothing. Below 1 it can be closed, but
    for what ``unmet`` says. Where several limits apply, it is measured by the first to be met."""
    debt_wad: Wad
    collateral_wad: Wad
    """Its worth, not weighed by any threshold."""
    unmet: Reason | None
    """Why the protocol would refuse every way of closing it; None where it accepts one."""

    @property
    def is_breached(self) -> bool:
        """Tell whether the account is below its limit, whatever else stands against closing it."""
        return self.health_wad is not None and self.health_wad < WAD


@dataclass(frozen=True, slots=True)
class Sight:
    """One feed that an account hangs on, as both clocks have it."""

    feed: FeedId
    fast_wad: Wad | None
    """None while there is no fast price."""
    chain_wad: Wad
    """The newest answer of the feed that the protocol's oracle reads."""
    answered_at_s: UnixS


@dataclass(frozen=True, slots=True)
class Way:
    """One way of closing an account: a debt, and the collateral that is seized for it."""

    venue: str
    """Who is called, and takes the debt's tokens from the caller."""
    debt: str
    """The token that is repaid."""
    collateral: str
    """The token that is seized, or what that is redeemed for."""
    bonus_wad: Wad
    """What is seized for one that is repaid, less one: 5% is 0.05."""
    gas: int
    """What closing by it typically uses."""
    market: str = ""
    """What names it beside the venue, where something has to: the id of a market, or the receipt that is
    seized and can be redeemed for the collateral."""


SPARE = 100_000
"""One over the part of a debt that interest may add between planning and inclusion."""


class By(StrEnum):
    """What an order counts in."""

    REPAID = "repaid"
    """Units of the debt."""
    SHARES = "shares"
    """Shares of a market's debt."""
    SEIZED = "seized"
    """Units of the collateral."""


@dataclass(frozen=True, slots=True)
class Close:
    """What one closing does, to the unit."""

    by: By
    asked: int
    """The order that does it."""
    repaid: int
    """By the caller, in units of the debt."""
    seized: int
    """For the caller, in units of the collateral."""
    health_after_wad: Wad | None
    """None where nothing is owed any more."""
    is_whole: bool
    """Whether it takes all of the debt, or all of the collateral."""
    bad_debt: int = 0
    """What the lenders lose by it, in units of the debt."""

    @property
    def takes(self) -> int:
        """Return the most that the order may take: interest grows until it is carried out."""
        return self.asked if self.by is By.REPAID else self.repaid + self.repaid // SPARE + 1


@dataclass(frozen=True, slots=True)
class Due:
    """Tokens that somebody takes from the caller."""

    token: str
    spender: str
    amount: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """An account closed whole, by an act of its own: what that takes, and what it gives."""

    act: RepayAll | Heal
    pays: tuple[Due, ...]
    gets: tuple[tuple[str, int], ...]
    """Tokens, or what receipts are redeemed for, and units of them."""
    gas: int


# --- acts ----------------------------------------------------------------------------------------


class Lender(StrEnum):
    """Who lends for the length of a transaction; the order is that of ``FlashLiquidator.Lender`` on chain."""

    MORPHO = "morpho"
    AAVE = "aave"
    UNISWAP_V3 = "uniswap_v3"


@dataclass(frozen=True, slots=True)
class Flash:
    """A closing that lends what it repays, and sells what it seizes, all in one transaction."""

    liquidator: str
    """Our contract, of which the keeper's wallet is the operator."""
    lender: Lender
    pool: str
    """The pool that lends where ``lender`` is Uniswap v3; else empty."""
    route: Route
    """From the collateral to the debt; empty where they are the same token."""
    min_profit: int
    """In units of the debt: with less it reverts."""


@dataclass(frozen=True, slots=True)
class Repay:
    """Repay a part of a debt, and seize collateral for it."""

    closes: ClassVar[bool] = True
    account: AccountKey
    way: Way
    by: By
    asked: int
    takes: int
    """The most of the debt that it may take: what is lent, or has to be allowed."""
    flash: Flash | None = None
    """None: from the wallet, which keeps what is seized."""


@dataclass(frozen=True, slots=True)
class FlashTakeOver:
    """Take over a part of a position of Perpetual, with margin that is lent, and close it in the pool."""

    closes: ClassVar[bool] = True
    account: AccountKey
    market: str
    """Its virtual token, in lower case."""
    size_wad: Wad
    """With the sign of the position."""
    lent: int
    """In units of the settlement token: the margin that holds the position until it is closed."""
    flash: Flash
    """Its route is empty: what comes back is the token that was lent."""


@dataclass(frozen=True, slots=True)
class Order:
    """A debt and a collateral, by the contracts that keep them, and how much of the debt is repaid."""

    collateral: str
    debt: str
    amount: int


@dataclass(frozen=True, slots=True)
class RepayAll:
    """Repay all debts of a small account, each against collateral."""

    closes: ClassVar[bool] = True
    account: AccountKey
    orders: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class Heal:
    """Take all collateral of a small account for a part of its debts; the rest is bad debt."""

    closes: ClassVar[bool] = True
    account: AccountKey


@dataclass(frozen=True, slots=True)
class Approve:
    """Let somebody take so many tokens of the wallet, no more."""

    closes: ClassVar[bool] = False
    account: AccountKey
    """Whom they are to be repaid for."""
    token: str
    spender: str
    amount: int


@dataclass(frozen=True, slots=True)
class Redeem:
    """Turn receipts that were seized into the tokens that they stand for."""

    closes: ClassVar[bool] = False
    account: AccountKey
    """The wallet's own."""
    receipt: str
    amount: int


@dataclass(frozen=True, slots=True)
class Convert:
    """Sell a token of the wallet along a route, by a router of Uniswap v3."""

    closes: ClassVar[bool] = False
    account: AccountKey
    """The wallet's own."""
    router: str
    route: Route
    amount: int
    min_out: int
    deadline_s: UnixS
