"""Venus's interest, health and liquidations, to the last unit.

Each function names the one of the contracts that it mirrors, rounding by rounding. Amounts are in a token's
units or in vTokens; a price is what one unit is worth, times 1e18 (so 36 decimals less those of the token),
and rates are per block. Liquidating brings two markets up to date, the debt's and the collateral's; the
others count as they are stored. Not modelled: rewards, amounts that overflow, and what a market pays to its
reserve when it accrues, which changes neither its debts nor its exchange rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from keeper.units import WAD, Block, Wad


class Action(Enum):
    """What may be paused in a market; the values are the contract's."""

    REPAY = 3
    SEIZE = 4
    LIQUIDATE = 5


class Unmet(Enum):
    """Why a liquidation is refused: the error's signature, or the words of a plain revert."""

    PAUSED = "ActionPaused(address,uint8)"
    SMALL = "MinimalCollateralViolated(uint256,uint256)"
    """So little collateral that the account is closed whole, or healed."""
    NOT_SMALL = "CollateralExceedsThreshold(uint256,uint256)"
    HEALTHY = "InsufficientShortfall()"
    TOO_MUCH = "TooMuchRepay()"
    NOTHING = "LiquidateCloseAmountIsZero()"
    NOT_ENOUGH_HELD = "LIQUIDATE_SEIZE_TOO_MUCH"
    NOT_COLLATERAL = "MarketNotCollateral(address,address)"
    TO_BE_HEALED = "InsufficientCollateral(uint256,uint256)"
    DEBT_LEFT = "Nonzero borrow balance after liquidation"
    ILLIQUID = "Panic(uint256)"
    """The market has not enough cash for the protocol's part of what is seized."""


@dataclass(frozen=True, slots=True)
class Market:
    """A vToken as it is stored, and its price."""

    price: int
    threshold_wad: Wad
    cash: int
    borrows: int
    bad_debt: int
    reserves: int
    supply: int
    """In vTokens."""
    first_rate_wad: Wad
    """The exchange rate while nobody has supplied anything."""
    borrow_index_wad: Wad
    accrued_at: Block
    borrow_rate_wad: Wad
    """What ``borrowRatePerBlock`` says, and the next accrual takes."""
    reserve_factor_wad: Wad
    seize_share_wad: Wad
    """The protocol's part of what is seized, over the incentive."""
    paused: frozenset[Action] = frozenset()
    is_forced: bool = False
    """Whether debts in it may be closed whatever their health."""

    @property
    def exchange_rate_wad(self) -> Wad:
        """Units of the token for 1e18 vTokens, times 1e18 (VToken._exchangeRateStored)."""
        if self.supply == 0:
            return self.first_rate_wad
        return (self.cash + self.borrows + self.bad_debt - self.reserves) * WAD // self.supply


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything but the accounts."""

    markets: tuple[Market, ...]
    close_factor_wad: Wad
    incentive_wad: Wad
    least_collateral: int
    """In 1e18ths of a dollar: with no more, an account is closed whole."""

    def up_to(self, block: Block, *markets: int) -> Pool:
        """Return the pool with some markets up to date."""
        fresh = list(self.markets)
        for each in markets:
            fresh[each] = accrued(fresh[each], block)
        return replace(self, markets=tuple(fresh))

    def having(self, market: int, changed: Market) -> Pool:
        """Return the pool with one market changed."""
        return replace(self, markets=(*self.markets[:market], changed, *self.markets[market + 1 :]))


@dataclass(frozen=True, slots=True)
class Debt:
    """A debt as it is stored, and the index of that time."""

    principal: int
    index_wad: Wad


@dataclass(frozen=True, slots=True)
class Loan:
    """An account: the markets that it entered, in its own order, its vTokens in each, and its debts."""

    entered: tuple[int, ...]
    held: Mapping[int, int]
    debts: Mapping[int, Debt]


@dataclass(frozen=True, slots=True)
class Health:
    """Values in 1e18ths of a dollar, as the Comptroller's snapshot has them."""

    collateral: int
    weighted: int
    owed: int

    @property
    def shortfall(self) -> int:
        return max(0, self.owed - self.weighted)

    @property
    def liquidity(self) -> int:
        return max(0, self.weighted - self.owed)


@dataclass(frozen=True, slots=True)
class Order:
    """A part of a debt, to be repaid for a part of a collateral."""

    collateral: int
    debt: int
    amount: int


@dataclass(frozen=True, slots=True)
class Close:
    """What liquidating moves, summed up by market, and what it leaves."""

    repaid: Mapping[int, int]
    seized: Mapping[int, int]
    """In vTokens, with the protocol's part."""
    taken: Mapping[int, int]
    """In vTokens, what the liquidator gets of it."""
    loan: Loan
    pool: Pool
    bad_debt: Mapping[int, int] = field(default_factory=dict)


# --- interest, health ----------------------------------------------------------------------------


def accrued(market: Market, block: Block) -> Market:
    """Return a market with its interest up to a block (VToken.accrueInterest)."""
    factor_wad = market.borrow_rate_wad * (block - market.accrued_at)
    interest = factor_wad * market.borrows // WAD
    return replace(
        market,
        borrows=market.borrows + interest,
        reserves=market.reserves + market.reserve_factor_wad * interest // WAD,
        borrow_index_wad=market.borrow_index_wad + factor_wad * market.borrow_index_wad // WAD,
        accrued_at=block,
    )


def owed(loan: Loan, pool: Pool, market: int) -> int:
    """Return a debt at the market's stored index, rounded down (VToken._borrowBalanceStored)."""
    debt = loan.debts.get(market)
    return debt.principal * pool.markets[market].borrow_index_wad // debt.index_wad if debt else 0


def health(loan: Loan, pool: Pool) -> Health:
    """Return the account's values by liquidation thresholds (Comptroller._getCurrentLiquiditySnapshot)."""
    collateral = weighted = debts = 0
    for number in loan.entered:
        market, held = pool.markets[number], loan.held.get(number, 0)
        unit_wad = market.exchange_rate_wad * market.price // WAD
        collateral += unit_wad * held // WAD
        weighted += market.threshold_wad * unit_wad // WAD * held // WAD
        debts += market.price * owed(loan, pool, number) // WAD
    return Health(collateral, weighted, debts)


# --- liquidation ---------------------------------------------------------------------------------


def seized_for(amount: int, pool: Pool, collateral: int, debt: int) -> int:
    """Return the vTokens for an amount repaid (Comptroller.liquidateCalculateSeizeTokens)."""
    against = pool.markets[collateral]
    dividend = pool.incentive_wad * pool.markets[debt].price // WAD
    divisor = against.price * against.exchange_rate_wad // WAD
    return dividend * WAD // divisor * amount // WAD


def most(loan: Loan, pool: Pool, collateral: int, debt: int, block: Block) -> int:
    """Return the largest amount that ``close`` takes, bounded by debt or by collateral; 0 for none."""
    fresh = pool.up_to(block, collateral, debt)
    balance = owed(loan, fresh, debt)
    share_wad = WAD if fresh.markets[debt].is_forced else pool.close_factor_wad
    largest = min(share_wad * balance // WAD, _affordable(loan, fresh, collateral, debt))
    return largest if isinstance(close(loan, pool, collateral, debt, largest, block), Close) else 0


def _affordable(loan: Loan, pool: Pool, collateral: int, debt: int) -> int:
    """Return the most debt that all of a collateral pays for."""
    held = loan.held.get(collateral, 0)
    ratio_wad = seized_for(WAD, pool, collateral, debt)
    return ((held + 1) * WAD - 1) // ratio_wad if ratio_wad else owed(loan, pool, debt)


def close(loan: Loan, pool: Pool, collateral: int, debt: int, amount: int, block: Block) -> Close | Unmet:
    """Return what ``liquidateBorrow`` does in a block (VToken, Comptroller.preLiquidateHook)."""
    pool = pool.up_to(block, collateral, debt)
    market = pool.markets[debt]
    if Action.LIQUIDATE in market.paused:
        return Unmet.PAUSED
    balance = owed(loan, pool, debt)
    if not market.is_forced:
        standing = health(loan, pool)
        if standing.collateral <= pool.least_collateral:
            return Unmet.SMALL
        if standing.shortfall == 0:
            return Unmet.HEALTHY
        balance = pool.close_factor_wad * balance // WAD
    return Unmet.TOO_MUCH if amount > balance else _closed(loan, pool, Order(collateral, debt, amount))


def close_all(loan: Loan, pool: Pool, orders: Sequence[Order], block: Block) -> Close | Unmet:
    """Return what ``liquidateAccount`` does: a small account's debts, all of them (Comptroller).

    The account is judged by what is stored; each order then brings its two markets up to date.
    """
    standing = health(loan, pool)
    if standing.collateral > pool.least_collateral:
        return Unmet.NOT_SMALL
    if pool.incentive_wad * standing.owed // WAD >= standing.collateral:
        return Unmet.TO_BE_HEALED
    if standing.shortfall == 0:
        return Unmet.HEALTHY
    total = Close({}, {}, {}, loan, pool)
    for order in orders:
        fresh = total.pool.up_to(block, order.collateral, order.debt)
        if Action.LIQUIDATE in fresh.markets[order.debt].paused:
            return Unmet.PAUSED
        if order.amount > owed(total.loan, fresh, order.debt):
            return Unmet.TOO_MUCH
        part = _closed(total.loan, fresh, order)
        if isinstance(part, Unmet):
            return part
        total = Close(
            _sum(total.repaid, part.repaid),
            _sum(total.seized, part.seized),
            _sum(total.taken, part.taken),
            part.loan,
            part.pool,
        )
    if any(owed(total.loan, total.pool, each) for each in loan.entered):
        return Unmet.DEBT_LEFT
    return total


def orders(loan: Loan, pool: Pool, block: Block) -> tuple[Order, ...]:
    """Return orders for every debt, each against one collateral after the other while there is some."""
    asked = []
    left = loan
    for debt in loan.debts:
        for collateral in loan.entered:
            fresh = pool.up_to(block, collateral, debt)
            amount = min(owed(left, fresh, debt), _affordable(left, fresh, collateral, debt))
            part = _closed(left, fresh, Order(collateral, debt, amount)) if amount else Unmet.NOTHING
            if isinstance(part, Close):
                asked.append(Order(collateral, debt, amount))
                left, pool = part.loan, part.pool
    return tuple(asked)


def heal(loan: Loan, pool: Pool, block: Block) -> Close | Unmet:
    """Return what ``healAccount`` does: all collateral for a part of each debt, the rest is bad."""
    pool = pool.up_to(block, *loan.entered)
    standing = health(loan, pool)
    if standing.collateral > pool.least_collateral:
        return Unmet.NOT_SMALL
    if standing.shortfall == 0:
        return Unmet.HEALTHY
    share_wad = standing.collateral * WAD // (standing.owed * pool.incentive_wad // WAD)
    if share_wad > WAD:
        return Unmet.NOT_SMALL
    healed = Close({}, {}, {}, Loan(loan.entered, {}, {}), pool)
    repaid, seized, taken, bad_debt = {}, {}, {}, {}
    for number in loan.entered:
        held, balance = loan.held.get(number, 0), owed(loan, pool, number)
        part = share_wad * balance // WAD
        if held:
            found = _seized(pool, number, held)
            if isinstance(found, Unmet):
                return found
            pool, taken[number] = found
            seized[number] = held
        market = pool.markets[number]
        if part and Action.REPAY in market.paused:
            return Unmet.PAUSED
        if balance:
            repaid[number], bad_debt[number] = part, balance - part
            changed = replace(
                market,
                cash=market.cash + part,
                borrows=market.borrows - balance,
                bad_debt=market.bad_debt + balance - part,
            )
            pool = pool.having(number, changed)
    return replace(healed, repaid=repaid, seized=seized, taken=taken, pool=pool, bad_debt=bad_debt)


def _closed(loan: Loan, pool: Pool, order: Order) -> Close | Unmet:
    """Return what one order does in markets that are up to date (VToken._liquidateBorrowFresh)."""
    if order.amount == 0:
        return Unmet.NOTHING
    market = pool.markets[order.debt]
    if Action.REPAY in market.paused:
        return Unmet.PAUSED
    left = owed(loan, pool, order.debt) - order.amount
    changed = replace(market, cash=market.cash + order.amount, borrows=market.borrows - order.amount)
    pool = pool.having(order.debt, changed)
    held = loan.held.get(order.collateral, 0)
    tokens = seized_for(order.amount, pool, order.collateral, order.debt)
    if tokens > held:
        return Unmet.NOT_ENOUGH_HELD
    if Action.SEIZE in pool.markets[order.collateral].paused:
        return Unmet.PAUSED
    if order.collateral not in loan.entered:
        return Unmet.NOT_COLLATERAL
    found = _seized(pool, order.collateral, tokens)
    if isinstance(found, Unmet):
        return found
    pool, taken = found
    debts = {each: debt for each, debt in loan.debts.items() if each != order.debt}
    if left:
        debts[order.debt] = Debt(left, market.borrow_index_wad)
    holdings = {**loan.held, order.collateral: held - tokens}
    return Close(
        {order.debt: order.amount},
        {order.collateral: tokens},
        {order.collateral: taken},
        Loan(loan.entered, {each: n for each, n in holdings.items() if n}, debts),
        pool,
    )


def _seized(pool: Pool, number: int, tokens: int) -> tuple[Pool, int] | Unmet:
    """Return the pool after a seizure, and what the liquidator gets (VToken._seize)."""
    market = pool.markets[number]
    if Action.SEIZE in market.paused:
        return Unmet.PAUSED
    part = tokens * market.seize_share_wad // WAD * WAD // pool.incentive_wad
    units = market.exchange_rate_wad * part // WAD
    if units > market.cash:
        return Unmet.ILLIQUID
    changed = replace(market, supply=market.supply - part, cash=market.cash - units)
    return pool.having(number, changed), tokens - part


def _sum(first: Mapping[int, int], second: Mapping[int, int]) -> dict[int, int]:
    return {each: first.get(each, 0) + second.get(each, 0) for each in {**first, **second}}
