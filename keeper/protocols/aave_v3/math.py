"""Aave v3's health and liquidations, to the last unit, by the rules of 3.6 and of 3.0.

Each function names the one of the contracts that it mirrors, rounding by rounding. Amounts are in a token's
units, values and prices in the pool's base currency (dollars with eight decimals where nothing else is said),
percentages in basis points, indices and rates in rays. Not modelled: amounts so large that the contract's
arithmetic overflows, a price of zero (its oracle reverts, and nothing is known then), and 3.0's stable debt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias

from keeper.units import BPS, WAD, Bps, UnixS, Wad, mul_div_down, mul_div_up

Ray: TypeAlias = int
"""A factor times 1e27."""

RAY: Final[Ray] = 10**27
YEAR_S: Final = 365 * 86_400
ENDLESS: Final[Wad] = 2**256 - 1
"""The health of an account that owes nothing."""
HEALTHY_WAD: Final[Wad] = WAD
CLOSE_HALF_ABOVE_WAD: Final[Wad] = 95 * WAD // 100
"""Above this health half of a debt is closed at most, at it or below all of it."""
HALF_BPS: Final[Bps] = 5_000
SMALL_VALUE: Final = 2_000 * 10**8
"""3.6: a debt or a collateral worth less may be closed whole."""
LEFTOVER_VALUE: Final = 1_000 * 10**8
"""3.6: of both, at least so much stays, or one of them is taken whole."""

MARGIN: Final = 100_000
"""A part of this, more than ten minutes of interest at 50% a year, is asked for beyond what is there."""


class Rules(Enum):
    """Which contracts judge; told by POOL_REVISION."""

    V3_0 = "3.0"
    V3_6 = "3.6"


class Unmet(Enum):
    """Why the pool refuses a liquidation: the error of 3.6, and the words that 3.0 reverts with."""

    INACTIVE = "ReserveInactive", "27"
    PAUSED = "ReservePaused", "29"
    SENTINEL = "PriceOracleSentinelCheckFailed", "59"
    GRACE = "LiquidationGraceSentinelCheckFailed", None
    HEALTHY = "HealthFactorNotBelowThreshold", "45"
    NOT_COLLATERAL = "CollateralCannotBeLiquidated", "46"
    NOT_BORROWED = "SpecifiedCurrencyNotBorrowedByUser", "47"
    DUST = "MustNotLeaveDust", None
    NOTHING = "InvalidBurnAmount", "25"
    ILLIQUID = "Panic", "Panic"
    """The reserve has not so much to pay out."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """A reserve as the pool stores it, and its price."""

    price: int
    """Of one whole token."""
    decimals: int
    threshold_bps: Bps
    bonus_bps: Bps
    """Value seized for a value of 10,000 repaid: above 10,000."""
    fee_bps: Bps
    """Of the bonus, for the treasury."""
    income_ray: Ray
    income_rate_ray: Ray
    debt_ray: Ray
    debt_rate_ray: Ray
    updated_at_s: UnixS
    liquid: int
    """What it can pay out: the virtual balance (3.6), or the tokens that it holds (3.0)."""
    is_active: bool = True
    is_paused: bool = False
    grace_until_s: UnixS = 0

    @property
    def unit(self) -> int:
        return int(10**self.decimals)


@dataclass(frozen=True, slots=True)
class Category:
    """An e-mode category."""

    threshold_bps: Bps
    bonus_bps: Bps
    bitmap: int
    """The reserves that it concerns: as collateral (3.6), or that are in it (3.0); bit i is reserve i."""
    price: int = 0
    """3.0: instead of the prices of the reserves that are in it; 0 where they keep their own."""

    def holds(self, reserve: int) -> bool:
        return bool(self.bitmap >> reserve & 1)


@dataclass(frozen=True, slots=True)
class World:
    """Everything but the accounts, at one moment."""

    rules: Rules
    reserves: tuple[Reserve, ...]
    categories: Mapping[int, Category]
    sentinel_allows: bool
    """The sentinel's own answer; True where there is none."""
    at_s: UnixS


@dataclass(frozen=True, slots=True)
class Loan:
    """An account: scaled amounts by reserve, of what is flagged as collateral and as borrowed."""

    category: int
    collateral: Mapping[int, int]
    debt: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Health:
    """Values of an account as ``getUserAccountData`` gives them."""

    collateral: int
    debt: int
    factor_wad: Wad


@dataclass(frozen=True, slots=True)
class Close:
    """What one liquidation moves."""

    repaid: int
    """By the liquidator, in units of the debt."""
    seized: int
    """To the liquidator, in units of the collateral."""
    fee: int
    """To the treasury, in units of the collateral, besides."""
    deficit: Mapping[int, int]
    """Debt by reserve that no collateral is left for, and that the reserve writes off (3.6)."""
    after: Loan

    def takes_all_of(self, collateral: int, debt: int) -> bool:
        """Tell whether nothing is left of one of the two."""
        return collateral not in self.after.collateral or debt not in self.after.debt


# --- interest ------------------------------------------------------------------------------------


def carried(world: World, at_s: UnixS) -> World:
    """Return the world with every index grown to a later time (ReserveLogic.getNormalizedIncome, -Debt).

    Exact as long as nobody acts on a reserve in between: acting changes its rates.
    """
    reserves = tuple(_carried(world.rules, reserve, at_s) for reserve in world.reserves)
    return replace(world, reserves=reserves, at_s=at_s)


def _carried(rules: Rules, reserve: Reserve, at_s: UnixS) -> Reserve:
    elapsed_s = at_s - reserve.updated_at_s
    if elapsed_s == 0:
        return reserve
    income = RAY + reserve.income_rate_ray * elapsed_s // YEAR_S
    growth = _compounded if rules is Rules.V3_6 else _compounded_v3_0
    return replace(
        reserve,
        income_ray=_ray_mul(income, reserve.income_ray),
        debt_ray=_ray_mul(growth(reserve.debt_rate_ray, elapsed_s), reserve.debt_ray),
        updated_at_s=at_s,
    )


def _compounded(rate_ray: Ray, elapsed_s: int) -> Ray:
    """Return 1 + x + x²/2 + x³/6 (MathUtils.calculateCompoundedInterest of 3.6)."""
    x = rate_ray * elapsed_s // YEAR_S
    return RAY + x + _ray_mul(x, x // 2 + _ray_mul(x, x // 6))


def _compounded_v3_0(rate_ray: Ray, elapsed_s: int) -> Ray:
    """Return the first four terms of (1 + rate / year)^seconds (the same function of 3.0)."""
    squared = _ray_mul(rate_ray, rate_ray) // YEAR_S**2
    cubed = _ray_mul(squared, rate_ray) // YEAR_S
    pairs = elapsed_s * (elapsed_s - 1)
    return (
        RAY
        + rate_ray * elapsed_s // YEAR_S
        + pairs * squared // 2
        + pairs * max(0, elapsed_s - 2) * cubed // 6
    )


# --- health --------------------------------------------------------------------------------------


def supplied(world: World, reserve: int, scaled: int) -> int:
    """Return the balance of an aToken (AToken.balanceOf): 3.6 rounds down, 3.0 to the nearest."""
    income_ray = world.reserves[reserve].income_ray
    return scaled * income_ray // RAY if world.rules is Rules.V3_6 else _ray_mul(scaled, income_ray)


def owed(world: World, reserve: int, scaled: int) -> int:
    """Return the balance of a debt token (VariableDebtToken.balanceOf): 3.6 rounds up, 3.0 to the nearest."""
    debt_ray = world.reserves[reserve].debt_ray
    return mul_div_up(scaled, debt_ray, RAY) if world.rules is Rules.V3_6 else _ray_mul(scaled, debt_ray)


def scaled_supply(world: World, reserve: int, amount: int) -> int:
    """Return what a supply of so much is credited with (AToken.mint): 3.6 rounds down, 3.0 to the nearest."""
    income_ray = world.reserves[reserve].income_ray
    return amount * RAY // income_ray if world.rules is Rules.V3_6 else _nearest(amount, RAY, income_ray)


def scaled_repaid(world: World, reserve: int, scaled: int, amount: int) -> int:
    """Return by what a repayment lowers a debt (VariableDebtToken.burn): all of it where all is repaid."""
    if amount >= owed(world, reserve, scaled):
        return scaled
    debt_ray = world.reserves[reserve].debt_ray
    found = amount * RAY // debt_ray if world.rules is Rules.V3_6 else _nearest(amount, RAY, debt_ray)
    return min(scaled, found)


def health(loan: Loan, world: World) -> Health:
    """Return what ``getUserAccountData`` returns at ``world.at_s`` (GenericLogic.calculateUserAccountData).

    In 3.0 collateral of a reserve without a threshold counts for nothing; in 3.6 it has value and weighs
    nothing.
    """
    collateral = weighted = 0
    for reserve, scaled in loan.collateral.items():
        if world.rules is Rules.V3_6 or world.reserves[reserve].threshold_bps:
            value = _value(loan, world, reserve, supplied(world, reserve, scaled))
            collateral += value
            weighted += value * _threshold_bps(loan, world, reserve)
    debt = sum(_debt_value(loan, world, each, owed(world, each, n)) for each, n in loan.debt.items())
    return Health(collateral, debt, _factor(world.rules, collateral, weighted, debt))


def _factor(rules: Rules, collateral: int, weighted: int, debt: int) -> Wad:
    """Return the health factor; 3.0 takes the mean threshold in whole basis points."""
    if debt == 0:
        return ENDLESS
    if rules is Rules.V3_6:
        return _nearest(weighted, WAD, debt) // BPS
    mean_bps = weighted // collateral if collateral else 0
    return _nearest(_percent_mul(collateral, mean_bps), WAD, debt)


def _category(loan: Loan, world: World, reserve: int) -> Category | None:
    """Return the e-mode category that this reserve is under for this account."""
    category = world.categories.get(loan.category) if loan.category else None
    return category if category is not None and category.holds(reserve) else None


def _threshold_bps(loan: Loan, world: World, reserve: int) -> Bps:
    category = _category(loan, world, reserve)
    return category.threshold_bps if category else world.reserves[reserve].threshold_bps


def bonus_bps(loan: Loan, world: World, reserve: int) -> Bps:
    category = _category(loan, world, reserve)
    return category.bonus_bps if category else world.reserves[reserve].bonus_bps


def counts(loan: Loan, world: World, reserve: int) -> bool:
    """Tell whether a reserve has a part in an account's health: owed, or held and with some weight.

    In 3.0 nothing weighs that has no threshold of its own, in a category either.
    """
    own_bps = world.reserves[reserve].threshold_bps
    weighs = _threshold_bps(loan, world, reserve) and (world.rules is Rules.V3_6 or own_bps)
    return reserve in loan.debt or bool(weighs)


def has_own_price(loan: Loan, world: World, reserve: int) -> bool:
    """Tell whether a reserve is judged by its own price, and not by that of the account's e-mode category."""
    category = _category(loan, world, reserve)
    return category is None or not category.price


def _price(loan: Loan, world: World, reserve: int) -> int:
    if has_own_price(loan, world, reserve):
        return world.reserves[reserve].price
    return world.categories[loan.category].price


def _value(loan: Loan, world: World, reserve: int, amount: int) -> int:
    """Return what an amount is worth, rounded down."""
    return mul_div_down(amount, _price(loan, world, reserve), world.reserves[reserve].unit)


def _debt_value(loan: Loan, world: World, reserve: int, amount: int) -> int:
    """Return what a debt counts for: 3.6 rounds up, 3.0 down."""
    rounded = mul_div_up if world.rules is Rules.V3_6 else mul_div_down
    return rounded(amount, _price(loan, world, reserve), world.reserves[reserve].unit)


# --- liquidation ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pair:
    """A collateral and a debt of one account, with all that the amounts follow from."""

    loan: Loan
    world: World
    collateral: int
    debt: int
    health: Health
    held: int
    """All of the account's collateral in this reserve."""
    owed: int
    """All of its debt in this reserve."""
    bonus_bps: Bps

    def base(self, amount: int) -> int:
        """Return the collateral that is worth as much as an amount of the debt, rounded down."""
        (price, unit), (debt_price, debt_unit) = self.terms(self.collateral), self.terms(self.debt)
        return debt_price * amount * unit // (price * debt_unit)

    def cost(self, amount: int) -> int:
        """Return the debt that is worth as much as an amount of the collateral, rounded down."""
        (price, unit), (debt_price, debt_unit) = self.terms(self.collateral), self.terms(self.debt)
        return price * amount * debt_unit // (debt_price * unit)

    def terms(self, reserve: int) -> tuple[int, int]:
        return _price(self.loan, self.world, reserve), self.world.reserves[reserve].unit

    def value(self, amount: int) -> int:
        return _value(self.loan, self.world, self.collateral, amount)

    def debt_value(self, amount: int) -> int:
        return _debt_value(self.loan, self.world, self.debt, amount)


def unmet(loan: Loan, collateral: int, debt: int, world: World) -> Unmet | None:
    """Return why the pool refuses this pair now, in its order (ValidationLogic.validateLiquidationCall)."""
    return _unmet(loan, collateral, debt, world, health(loan, world).factor_wad)


def unmet_by_pair(loan: Loan, world: World) -> Mapping[tuple[int, int], Unmet | None]:
    """Return the same of every collateral and debt of an account."""
    factor_wad = health(loan, world).factor_wad
    pairs = [(collateral, debt) for collateral in loan.collateral for debt in loan.debt]
    return {pair: _unmet(loan, *pair, world, factor_wad) for pair in pairs}


def _unmet(loan: Loan, collateral: int, debt: int, world: World, factor_wad: Wad) -> Unmet | None:
    reserves = (world.reserves[collateral], world.reserves[debt])
    if not all(reserve.is_active for reserve in reserves):
        return Unmet.INACTIVE
    if any(reserve.is_paused for reserve in reserves):
        return Unmet.PAUSED
    if factor_wad >= CLOSE_HALF_ABOVE_WAD and not world.sentinel_allows:
        return Unmet.SENTINEL
    if any(reserve.grace_until_s >= world.at_s for reserve in reserves):
        return Unmet.GRACE
    if factor_wad >= HEALTHY_WAD:
        return Unmet.HEALTHY
    counts = world.rules is Rules.V3_6 or reserves[0].threshold_bps
    if collateral not in loan.collateral or not counts:
        return Unmet.NOT_COLLATERAL
    return None if owed(world, debt, loan.debt.get(debt, 0)) else Unmet.NOT_BORROWED


def close(loan: Loan, collateral: int, debt: int, amount: int, world: World) -> Close | Unmet:
    """Return what ``liquidationCall`` of some debt does (LiquidationLogic.executeLiquidationCall).

    More than may be closed is cut to that, as the contract does.
    """
    refused = unmet(loan, collateral, debt, world)
    if refused:
        return refused
    pair = _pair(loan, collateral, debt, world)
    repaid, taken, fee = _amounts(pair, min(amount, _closeable(pair)))
    if _leaves_dust(pair, repaid, taken):
        return Unmet.DUST
    seized = taken - fee
    # Without collateral left, all debt goes: what is not repaid becomes a deficit.
    is_last = world.rules is Rules.V3_6 and pair.value(taken) == pair.health.collateral
    burnt_debt = _burnt_debt(pair, pair.owed if is_last else repaid)
    burnt = _burnt(pair, seized)
    if not (burnt_debt and burnt):
        return Unmet.NOTHING
    # What is repaid comes in before the collateral goes out.
    if seized > world.reserves[collateral].liquid + (repaid if collateral == debt else 0):
        return Unmet.ILLIQUID

    debts = {**loan.debt, debt: loan.debt[debt] - burnt_debt}
    deficit = {debt: pair.owed - repaid} if is_last else {}
    if is_last:
        for other in [each for each in debts if each != debt and world.reserves[each].is_active]:
            deficit[other] = owed(world, other, debts.pop(other))
    if repaid == pair.owed or is_last:
        del debts[debt]
    left = loan.collateral[collateral] - burnt
    holdings = {**loan.collateral, collateral: left - min(left, _burnt(pair, fee))}
    if taken == pair.held:
        del holdings[collateral]
    written_off = {reserve: debt_left for reserve, debt_left in deficit.items() if debt_left}
    return Close(repaid, seized, fee, written_off, Loan(loan.category, holdings, debts))


def close_at_most(
    loan: Loan, collateral: int, debt: int, amount: int, world: World
) -> tuple[int, Close | Unmet]:
    """Return what to ask for so that no more than an amount is repaid, and what asking for it does.

    What all of a debt or of a collateral takes, asked for to the unit, leaves a last unit of it: by rounding,
    or by the interest until a later block. 3.6 refuses that as dust. Then a little more is asked, which the
    pool cuts to what there is.
    """
    done = close(loan, collateral, debt, amount, world)
    if done is Unmet.DUST or (isinstance(done, Close) and done.takes_all_of(collateral, debt)):
        more = amount + amount // MARGIN + _pair(loan, collateral, debt, world).cost(2) + 1
        cut = close(loan, collateral, debt, more, world)
        if isinstance(cut, Close) and cut.repaid <= amount:
            return more, cut
    return amount, done


def most(loan: Loan, collateral: int, debt: int, world: World) -> int:
    """Return the largest amount of debt that one call closes, or 0 where it closes none.

    The close factor bounds it, the collateral does, and in 3.6 the dust rule, found by bisection: what is
    left of both only falls with the amount. What the reserve can pay out does not bound it: ``close`` tells.
    """
    if unmet(loan, collateral, debt, world):
        return 0
    pair = _pair(loan, collateral, debt, world)
    largest = _closeable(pair)
    repaid, taken, _ = _amounts(pair, largest)
    if not _leaves_dust(pair, repaid, taken):
        return repaid
    fits, too_much = 0, largest
    while too_much - fits > 1:
        middle = (fits + too_much) // 2
        repaid, taken, _ = _amounts(pair, middle)
        fits, too_much = (fits, middle) if _leaves_dust(pair, repaid, taken) else (middle, too_much)
    return fits


def _pair(loan: Loan, collateral: int, debt: int, world: World) -> _Pair:
    return _Pair(
        loan=loan,
        world=world,
        collateral=collateral,
        debt=debt,
        health=health(loan, world),
        held=supplied(world, collateral, loan.collateral.get(collateral, 0)),
        owed=owed(world, debt, loan.debt.get(debt, 0)),
        bonus_bps=bonus_bps(loan, world, collateral),
    )


def _closeable(pair: _Pair) -> int:
    """Return what the close factor allows.

    3.0: half of this debt. 3.6: half of all debt, and all where this pair's debt or collateral is small.
    """
    is_weak = pair.health.factor_wad <= CLOSE_HALF_ABOVE_WAD
    if pair.world.rules is Rules.V3_0:
        return _percent_mul(pair.owed, BPS if is_weak else HALF_BPS)
    value = pair.debt_value(pair.owed)
    if is_weak or min(value, pair.value(pair.held)) < SMALL_VALUE:
        return pair.owed
    half = _percent_mul(pair.health.debt, HALF_BPS)
    price, unit = pair.terms(pair.debt)
    return half * unit // price if value > half else pair.owed


def _amounts(pair: _Pair, amount: int) -> tuple[int, int, int]:
    """Return repaid, taken, and the treasury's part of that (_calculateAvailableCollateralToLiquidate).

    Where the collateral ends first, the debt for it rounds up in 3.6, to the nearest in 3.0.
    """
    taken = _percent_mul(pair.base(amount), pair.bonus_bps)
    repaid = amount
    if taken > pair.held:
        taken = pair.held
        cost = pair.cost(taken)
        is_new = pair.world.rules is Rules.V3_6
        repaid = mul_div_up(cost, BPS, pair.bonus_bps) if is_new else _percent_div(cost, pair.bonus_bps)
    bonus = taken - _percent_div(taken, pair.bonus_bps)
    return repaid, taken, _percent_mul(bonus, pair.world.reserves[pair.collateral].fee_bps)


def _leaves_dust(pair: _Pair, repaid: int, taken: int) -> bool:
    """Tell whether 3.6 refuses what would be left: neither whole, and one of them worth less than $1,000."""
    if pair.world.rules is Rules.V3_0 or repaid >= pair.owed or taken >= pair.held:
        return False
    left = (pair.debt_value(pair.owed - repaid), pair.value(pair.held - taken))
    return min(left) < LEFTOVER_VALUE


def _burnt_debt(pair: _Pair, amount: int) -> int:
    """Return the scaled debt that repaying takes away: 3.6 rounds down, 3.0 to the nearest."""
    debt_ray = pair.world.reserves[pair.debt].debt_ray
    is_new = pair.world.rules is Rules.V3_6
    return mul_div_down(amount, RAY, debt_ray) if is_new else _nearest(amount, RAY, debt_ray)


def _burnt(pair: _Pair, amount: int) -> int:
    """Return the scaled collateral that an amount of it takes away: 3.6 rounds up, 3.0 to the nearest."""
    income_ray = pair.world.reserves[pair.collateral].income_ray
    is_new = pair.world.rules is Rules.V3_6
    return mul_div_up(amount, RAY, income_ray) if is_new else _nearest(amount, RAY, income_ray)


# --- rounding to the nearest (WadRayMath, PercentageMath) ----------------------------------------


def _nearest(a: int, b: int, divisor: int) -> int:
    return (a * b + divisor // 2) // divisor


def _ray_mul(a: int, b: Ray) -> int:
    return _nearest(a, b, RAY)


def _percent_mul(amount: int, bps: Bps) -> int:
    return _nearest(amount, bps, BPS)


def _percent_div(amount: int, bps: Bps) -> int:
    return _nearest(amount, BPS, bps)
