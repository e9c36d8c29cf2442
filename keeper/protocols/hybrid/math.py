"""The contracts' margin and slope formulas, to the wei.

Mirrors ``contracts/src/MarginMath.sol`` and ``contracts/src/Slope.sol``, function by function and rounding by
rounding. What should hold is in ``keeper/risk/slope.py``; this is what the chain will compute. Amounts so
large that the contract's arithmetic overflows and reverts are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from keeper.domain import Account, Leg, Valuation
from keeper.protocols.hybrid.exp import exp_wad
from keeper.protocols.hybrid.params import CollateralTerms, Perp, Rules, SlopeParams
from keeper.units import WAD, FeedId, Wad, mul_div_down, mul_div_up

Marks: TypeAlias = Mapping[FeedId, Wad]
"""One price a feed."""

UINT64_MAX: Final = 2**64 - 1


def maintenance(account: Account, marks: Marks, rules: Rules) -> Valuation:
    """Return E, M and N at maintenance: E = cash + sum h_mm a p + sum (s p + quote leg), M = sum mmr |s| p.

    Collateral and profit round down, requirements up (MarginMath.maintenance).
    """
    requirement, notional = _requirement(account, marks, rules, lambda perp: perp.mmr_wad)
    collateral = _collateral(account, marks, rules, lambda terms: terms.h_mm_wad)
    return Valuation(account.cash_wad + _profit(account, marks, rules) + collateral, requirement, notional)


def worth_wad(account: Account, marks: Marks, rules: Rules) -> Wad:
    """Return the equity without haircuts (MarginMath.worth)."""
    collateral = _collateral(account, marks, rules, lambda _: WAD)
    return account.cash_wad + _profit(account, marks, rules) + collateral


def initial(account: Account, marks: Marks, rules: Rules) -> Valuation:
    """Return E, M and N at initial margin (MarginMath.initial).

    Like maintenance with imr and h_im; a profit that is not realised counts for nothing.
    """
    requirement, notional = _requirement(account, marks, rules, lambda perp: perp.imr_wad)
    collateral = _collateral(account, marks, rules, lambda terms: terms.h_im_wad)
    loss = min(0, _profit(account, marks, rules))
    return Valuation(account.cash_wad + loss + collateral, requirement, notional)


def leg_profit_wad(leg: Leg, price_wad: Wad) -> Wad:
    """Return s p + quote leg, rounded against the account."""
    return mul_div_down(leg.size_wad, price_wad, WAD) + leg.quote_leg_wad


def decay(p: SlopeParams, tau_s: int) -> Wad:
    """Return q(tau) = min(1, max(q_min, e^(-lambda tau))), never below the exact value (Slope.decay)."""
    return min(WAD, max(p.q_min_wad, exp_wad(-p.lambda_wad * tau_s) + 2))


def scaled(equity_wad: Wad, q_wad: Wad) -> Wad:
    """Return q E rounded up; only positive equity decays (Slope.scaled)."""
    return mul_div_up(equity_wad, q_wad, WAD) if equity_wad > 0 else equity_wad


def closeable(m: Valuation, kappa_wad: Wad, q_wad: Wad) -> Wad:
    """Return f_max = clamp((M - q E) / (M - q kappa N)), rounded down (Slope.closeable)."""
    gap = m.requirement_wad - scaled(m.equity_wad, q_wad)
    if gap <= 0:
        return 0
    if m.equity_wad <= 0:
        return WAD
    cost = kappa_wad * m.notional_wad // WAD * q_wad // WAD
    if cost >= m.requirement_wad or gap >= m.requirement_wad - cost:
        return WAD
    return mul_div_down(gap, WAD, m.requirement_wad - cost)


def fee_cap(p: SlopeParams, m: Valuation) -> Wad:
    """Return theta E / N, rounded down: all fees together then stay within theta E (Slope.feeCap)."""
    if m.equity_wad <= 0:
        return 0
    if m.notional_wad == 0:
        return UINT64_MAX
    return min(UINT64_MAX, mul_div_down(p.theta_wad, m.equity_wad, m.notional_wad))


def fee(p: SlopeParams, since_confirmation_s: int, cap_wad: Wad) -> Wad:
    """Return kappa = min(k0 + (k1 - k0)(1 - e^(-t / t_k)), cap), rounded down (Slope.fee)."""
    left = exp_wad(-(since_confirmation_s * WAD // p.fee_growth_s))
    grown = 0 if left >= WAD else WAD - left - 1
    return min(cap_wad, p.k0_wad + mul_div_down(p.k1_wad - p.k0_wad, grown, WAD))


def execution_price(p: SlopeParams, fast_wad: Wad, slow_wad: Wad, since_confirmation_s: int) -> Wad:
    """Return p_L: the fast price within a band around the slow one that widens (Slope.executionPrice)."""
    band = min(p.band_max_wad, p.band_base_wad + p.band_rate_wad * since_confirmation_s // 60)
    lowest = mul_div_down(slow_wad, WAD - band, WAD)
    highest = mul_div_down(slow_wad, WAD + band, WAD)
    return min(highest, max(lowest, fast_wad))


def _requirement(
    account: Account, marks: Marks, rules: Rules, rate: Callable[[Perp], Wad]
) -> tuple[Wad, Wad]:
    requirement = notional = 0
    for leg in account.legs:
        perp = rules.perps[leg.market]
        size, price = abs(leg.size_wad), marks[perp.feed]
        requirement += mul_div_up(mul_div_up(size, price, WAD), rate(perp), WAD)
        notional += mul_div_down(size, price, WAD)
    return requirement, notional


def _profit(account: Account, marks: Marks, rules: Rules) -> Wad:
    return sum(leg_profit_wad(leg, marks[rules.perps[leg.market].feed]) for leg in account.legs)


def _collateral(
    account: Account, marks: Marks, rules: Rules, haircut: Callable[[CollateralTerms], Wad]
) -> Wad:
    total = 0
    for holding in account.holdings:
        terms = rules.collaterals[holding.collateral]
        worth = mul_div_down(holding.amount_wad, marks[terms.feed], WAD)
        total += mul_div_down(worth, haircut(terms), WAD)
    return total
