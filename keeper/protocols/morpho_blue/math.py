"""Morpho Blue's interest, health and liquidations, to the last unit, and those of pre-liquidation.

Each function names the one of the contracts that it mirrors, rounding by rounding. Amounts are in a token's
units, or in shares of a market's debt; a price is what one unit of collateral is worth in units of the loan,
times 1e36; rates are per second. Not modelled: amounts that leave 128 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from keeper.units import WAD, UnixS, Wad, mul_div_down, mul_div_trunc, mul_div_up

SCALE: Final = 10**36
VIRTUAL_ASSETS: Final = 1
VIRTUAL_SHARES: Final = 10**6
CURSOR_WAD: Final[Wad] = 3 * WAD // 10
MOST_INCENTIVE_WAD: Final[Wad] = 115 * WAD // 100

# Of the adaptive interest rate model, and of its exponential.
YEAR_S: Final = 365 * 86_400
TARGET_WAD: Final[Wad] = 9 * WAD // 10
STEEPNESS_WAD: Final[Wad] = 4 * WAD
SPEED_WAD: Final[Wad] = 50 * WAD // YEAR_S
FIRST_RATE_WAD: Final[Wad] = 4 * WAD // 100 // YEAR_S
LEAST_RATE_WAD: Final[Wad] = WAD // 1_000 // YEAR_S
MOST_RATE_WAD: Final[Wad] = 2 * WAD // YEAR_S
LN_2_WAD: Final[Wad] = 693_147_180_559_945_309
LEAST_POWER_WAD: Final[Wad] = -41_446_531_673_892_822_312
MOST_POWER_WAD: Final[Wad] = 93_859_467_695_000_404_319
MOST_EXP_WAD: Final[Wad] = 57_716_089_161_558_943_949_701_069_502_944_508_345_128_422_502_756_744_429_568


class Unmet(Enum):
    """Why a liquidation is refused: the contract's words, or the name of its error."""

    INCONSISTENT = "inconsistent input"
    """Neither or both of collateral and shares were named."""
    HEALTHY = "position is healthy"
    PANIC = "Panic"
    """More than there is, or a price of zero."""
    PRE_INCONSISTENT = "InconsistentInput"
    PRE_HEALTHY = "NotPreLiquidatablePosition"
    PRE_TOO_LATE = "LiquidatablePosition"
    PRE_TOO_LARGE = "PreLiquidationTooLarge"
    NOT_LESS_RISKY = "insufficient collateral"
    """The market's own oracle does not allow what is left."""
    NOTHING = "zero assets"


@dataclass(frozen=True, slots=True)
class Market:
    """A market as it is stored, its limit and its price."""

    supply_assets: int
    supply_shares: int
    borrow_assets: int
    borrow_shares: int
    updated_at_s: UnixS
    fee_wad: Wad
    lltv_wad: Wad
    price: int


@dataclass(frozen=True, slots=True)
class Position:
    """What one account has in one market."""

    borrow_shares: int
    collateral: int


@dataclass(frozen=True, slots=True)
class PreTerms:
    """What an owner agreed to below the market's limit; the second of each pair holds at the limit itself."""

    lltv_wad: Wad
    close_wad: tuple[Wad, Wad]
    incentive_wad: tuple[Wad, Wad]
    price: int
    """Of its own oracle."""


@dataclass(frozen=True, slots=True)
class Health:
    """What an account owes, and the most that its collateral would allow it to."""

    owed: int
    allowed: int

    @property
    def is_healthy(self) -> bool:
        return self.allowed >= self.owed


@dataclass(frozen=True, slots=True)
class Close:
    """What one liquidation moves, and what it leaves."""

    repaid: int
    repaid_shares: int
    seized: int
    bad_debt: int
    """What the lenders lose, in units of the loan."""
    position: Position
    market: Market


# --- interest ------------------------------------------------------------------------------------


def accrued(market: Market, at_s: UnixS, rate_wad: Wad) -> Market:
    """Return the market with its interest up to a later time (Morpho._accrueInterest).

    ``rate_wad`` is what its interest rate model says for that time; 0 for a market without one.
    """
    elapsed_s = at_s - market.updated_at_s
    if elapsed_s == 0:
        return market
    interest = mul_div_down(market.borrow_assets, _compounded_wad(rate_wad, elapsed_s), WAD)
    supply_assets = market.supply_assets + interest
    fee = mul_div_down(interest, market.fee_wad, WAD)
    fee_shares = mul_div_down(
        fee, market.supply_shares + VIRTUAL_SHARES, supply_assets - fee + VIRTUAL_ASSETS
    )
    return replace(
        market,
        supply_assets=supply_assets,
        supply_shares=market.supply_shares + fee_shares,
        borrow_assets=market.borrow_assets + interest,
        updated_at_s=at_s,
    )


def _compounded_wad(rate_wad: Wad, elapsed_s: int) -> Wad:
    """Return the first three terms of e^(rate x time) - 1 (MathLib.wTaylorCompounded)."""
    first = rate_wad * elapsed_s
    second = mul_div_down(first, first, 2 * WAD)
    return first + second + mul_div_down(second, first, 3 * WAD)


def adaptive_rate_wad(market: Market, rate_at_target_wad: Wad, at_s: UnixS) -> Wad:
    """Return the adaptive model's mean rate since the market was updated (AdaptiveCurveIrm.borrowRateView).

    ``rate_at_target_wad`` is as the model stores it, 0 before the market's first interest.
    """
    use_wad = mul_div_down(market.borrow_assets, WAD, market.supply_assets) if market.supply_assets else 0
    span_wad = WAD - TARGET_WAD if use_wad > TARGET_WAD else TARGET_WAD
    error_wad = mul_div_trunc(use_wad - TARGET_WAD, WAD, span_wad)
    mean_wad = FIRST_RATE_WAD
    if rate_at_target_wad:
        adaptation_wad = mul_div_trunc(SPEED_WAD, error_wad, WAD) * (at_s - market.updated_at_s)
        end_wad = _adapted_wad(rate_at_target_wad, adaptation_wad)
        middle_wad = _adapted_wad(rate_at_target_wad, mul_div_trunc(adaptation_wad, 1, 2))
        is_still = adaptation_wad == 0
        total_wad = rate_at_target_wad + end_wad + 2 * middle_wad
        mean_wad = rate_at_target_wad if is_still else total_wad // 4
    slope_wad = STEEPNESS_WAD - WAD if error_wad >= 0 else WAD - WAD * WAD // STEEPNESS_WAD
    return mul_div_trunc(mul_div_trunc(slope_wad, error_wad, WAD) + WAD, mean_wad, WAD)


def _adapted_wad(rate_wad: Wad, adaptation_wad: Wad) -> Wad:
    """Return the rate at target after an adaptation, in its bounds (AdaptiveCurveIrm._newRateAtTarget)."""
    return min(MOST_RATE_WAD, max(LEAST_RATE_WAD, mul_div_trunc(rate_wad, _exp_wad(adaptation_wad), WAD)))


def _exp_wad(power_wad: Wad) -> Wad:
    """Return e^power by powers of two and three terms of a series (ExpLib.wExp)."""
    if power_wad < LEAST_POWER_WAD:
        return 0
    if power_wad >= MOST_POWER_WAD:
        return MOST_EXP_WAD
    half = LN_2_WAD // 2 if power_wad >= 0 else -(LN_2_WAD // 2)
    doublings = mul_div_trunc(power_wad + half, 1, LN_2_WAD)
    rest_wad = power_wad - doublings * LN_2_WAD
    small_wad = WAD + rest_wad + rest_wad * rest_wad // WAD // 2
    return small_wad << doublings if doublings >= 0 else small_wad >> -doublings


# --- health --------------------------------------------------------------------------------------


def owed(market: Market, shares: int) -> int:
    """Return what shares of the debt come to, rounded up (SharesMathLib.toAssetsUp)."""
    return mul_div_up(shares, *_totals(market))


def debt_per_share(market: Market) -> float:
    """Return what one share of the debt comes to, for scores."""
    assets, shares = _totals(market)
    return assets / shares


def shares_for(market: Market, assets: int) -> int:
    """Return the most shares of the debt that cost no more than some assets (SharesMathLib.toSharesDown)."""
    all_assets, all_shares = _totals(market)
    return mul_div_down(assets, all_shares, all_assets)


def health(position: Position, market: Market) -> Health:
    """Return both sides of Morpho._isHealthy at the time up to which the market is accrued."""
    worth = mul_div_down(position.collateral, market.price, SCALE)
    return Health(owed(market, position.borrow_shares), mul_div_down(worth, market.lltv_wad, WAD))


def _totals(market: Market) -> tuple[int, int]:
    """Return the debt's assets and shares with the virtual ones."""
    return market.borrow_assets + VIRTUAL_ASSETS, market.borrow_shares + VIRTUAL_SHARES


# --- liquidation ---------------------------------------------------------------------------------


def incentive_wad(lltv_wad: Wad) -> Wad:
    """Return what is seized for one that is repaid (the first lines of Morpho.liquidate)."""
    left_wad = WAD - mul_div_down(CURSOR_WAD, WAD - lltv_wad, WAD)
    return min(MOST_INCENTIVE_WAD, mul_div_down(WAD, WAD, left_wad))


def most(position: Position, market: Market) -> tuple[int, int]:
    """Return collateral and shares to ask ``close`` for the most: one of them is 0.

    All shares, or all collateral where that ends first: then what is left of the debt is bad.
    """
    if market.price == 0:
        return position.collateral, 0
    all_wad = incentive_wad(market.lltv_wad)
    is_enough = _seized(market, position.borrow_shares, market.price, all_wad) <= position.collateral
    return (0, position.borrow_shares) if is_enough else (position.collateral, 0)


def close(position: Position, market: Market, *, seized: int = 0, shares: int = 0) -> Close | Unmet:
    """Return what a liquidation by collateral or by shares does (Morpho.liquidate)."""
    if (seized == 0) == (shares == 0):
        return Unmet.INCONSISTENT
    if health(position, market).is_healthy:
        return Unmet.HEALTHY
    found = _converted(market, seized, shares, market.price, incentive_wad(market.lltv_wad))
    if found is None:
        return Unmet.PANIC
    seized, shares = found
    if shares > position.borrow_shares or seized > position.collateral:
        return Unmet.PANIC
    repaid = owed(market, shares)
    market = _repaid(market, repaid, shares)
    left = Position(position.borrow_shares - shares, position.collateral - seized)
    if left.collateral:
        return Close(repaid, shares, seized, 0, left, market)
    bad_debt = min(market.borrow_assets, owed(market, left.borrow_shares))
    market = replace(
        market,
        supply_assets=market.supply_assets - bad_debt,
        borrow_assets=market.borrow_assets - bad_debt,
        borrow_shares=market.borrow_shares - left.borrow_shares,
    )
    return Close(repaid, shares, seized, bad_debt, Position(0, 0), market)


def pre_most(position: Position, market: Market, terms: PreTerms) -> int:
    """Return the most shares that pre-liquidation takes now; 0 where it takes none."""
    found = _steepness_wad(position, market, terms)
    if isinstance(found, Unmet):
        return 0
    share_wad = _between_wad(terms.close_wad, found)
    return min(position.borrow_shares, mul_div_down(position.borrow_shares, share_wad, WAD))


def pre_incentive_wad(position: Position, market: Market, terms: PreTerms) -> Wad:
    """Return what pre-liquidation seizes now for one that is repaid; 0 where it takes none."""
    found = _steepness_wad(position, market, terms)
    return 0 if isinstance(found, Unmet) else _between_wad(terms.incentive_wad, found)


def pre_close(
    position: Position, market: Market, terms: PreTerms, *, seized: int = 0, shares: int = 0
) -> Close | Unmet:
    """Return what a pre-liquidation by collateral or by shares does (PreLiquidation.preLiquidate)."""
    if (seized == 0) == (shares == 0):
        return Unmet.PRE_INCONSISTENT
    steepness_wad = _steepness_wad(position, market, terms)
    if isinstance(steepness_wad, Unmet):
        return steepness_wad
    incentive = _between_wad(terms.incentive_wad, steepness_wad)
    found = _converted(market, seized, shares, terms.price, incentive)
    if found is None:
        return Unmet.PANIC
    seized, shares = found
    if shares > mul_div_down(position.borrow_shares, _between_wad(terms.close_wad, steepness_wad), WAD):
        return Unmet.PRE_TOO_LARGE
    if shares > position.borrow_shares:
        return Unmet.PANIC
    repaid = owed(market, shares)
    market = _repaid(market, repaid, shares)
    if seized == 0:
        return Unmet.NOTHING
    if seized > position.collateral:
        return Unmet.PANIC
    left = Position(position.borrow_shares - shares, position.collateral - seized)
    if left.borrow_shares and not health(left, market).is_healthy:
        return Unmet.NOT_LESS_RISKY
    return Close(repaid, shares, seized, 0, left, market)


def _steepness_wad(position: Position, market: Market, terms: PreTerms) -> Wad | Unmet:
    """Return how far the account is on the way from the agreed limit (0) to the market's (1)."""
    worth = mul_div_down(position.collateral, terms.price, SCALE)
    debt = owed(market, position.borrow_shares)
    if debt > mul_div_down(worth, market.lltv_wad, WAD):
        return Unmet.PRE_TOO_LATE
    if debt <= mul_div_down(worth, terms.lltv_wad, WAD):
        return Unmet.PRE_HEALTHY
    ltv_wad = mul_div_up(debt, WAD, worth)
    return mul_div_down(ltv_wad - terms.lltv_wad, WAD, market.lltv_wad - terms.lltv_wad)


def _between_wad(ends_wad: tuple[Wad, Wad], steepness_wad: Wad) -> Wad:
    low_wad, high_wad = ends_wad
    return mul_div_down(steepness_wad, high_wad - low_wad, WAD) + low_wad


def _converted(
    market: Market, seized: int, shares: int, price: int, reward_wad: Wad
) -> tuple[int, int] | None:
    """Return collateral and shares where one of them is given; None where that divides by zero."""
    if seized:
        quoted = mul_div_up(mul_div_up(seized, price, SCALE), WAD, reward_wad)
        assets, all_shares = _totals(market)
        return seized, mul_div_up(quoted, all_shares, assets)
    return (_seized(market, shares, price, reward_wad), shares) if price else None


def _seized(market: Market, shares: int, price: int, reward_wad: Wad) -> int:
    """Return the collateral for some shares, rounded down at each step."""
    rewarded = mul_div_down(mul_div_down(shares, *_totals(market)), reward_wad, WAD)
    return mul_div_down(rewarded, SCALE, price)


def _repaid(market: Market, assets: int, shares: int) -> Market:
    """Return the market after a repayment; what is repaid may be one unit more than there is."""
    return replace(
        market,
        borrow_assets=max(0, market.borrow_assets - assets),
        borrow_shares=market.borrow_shares - shares,
    )
