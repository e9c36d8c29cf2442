"""The contracts' margin and slope formulas, to the wei.

Mirrors ``contracts/src/MarginMath.sol`` and ``contracts/src/Slope.sol``, function by function and rounding by
rounding; what one underlying's positions require is in ``portfolio``. What should hold of the slope is in
``keeper/risk/slope.py``; this is what the chain will compute. Amounts so large that the contract's arithmetic
overflows and reverts are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from keeper.domain import Account, Valuation
from keeper.protocols.hybrid.exp import exp_wad
from keeper.protocols.hybrid.params import CollateralTerms, Risk, SlopeParams
from keeper.protocols.hybrid.portfolio import Position, Setting, requirement_wad, unit_value_wad
from keeper.units import WAD, FeedId, Wad, mul_div_down, mul_div_up

Marks: TypeAlias = Mapping[FeedId, Wad]
"""One price a feed, the underlying's where options are traded on it."""

UINT64_MAX: Final = 2**64 - 1


def maintenance(account: Account, marks: Marks, setting: Setting) -> Valuation:
    """Return E, M and N at maintenance, M being what the underlyings require at their mmr.

    E = cash + sum h_mm a p + sum (s x unit value + quote leg), N = sum |s| p of what has not settled.
    Collateral and profit round down, requirements up (MarginMath.maintenance).
    """
    collateral = _collateral(account, marks, setting, lambda terms: terms.h_mm_wad)
    return Valuation(
        equity_wad=account.cash_wad + _profit(account, marks, setting) + collateral,
        requirement_wad=_requirement(account, marks, setting, lambda risk: risk.mmr_wad),
        notional_wad=_notional(account, marks, setting),
    )


def worth_wad(account: Account, marks: Marks, setting: Setting) -> Wad:
    """Return the equity without haircuts (MarginMath.worth)."""
    collateral = _collateral(account, marks, setting, lambda _: WAD)
    return account.cash_wad + _profit(account, marks, setting) + collateral


def initial(account: Account, marks: Marks, setting: Setting, beta_wad: Wad) -> Valuation:
    """Return E, M and N at initial margin (MarginMath.initial).

    Like maintenance with h_im and ``initial_rate``; a profit that is not realised counts for nothing.
    """
    collateral = _collateral(account, marks, setting, lambda terms: terms.h_im_wad)
    return Valuation(
        equity_wad=account.cash_wad + min(0, _profit(account, marks, setting)) + collateral,
        requirement_wad=_requirement(account, marks, setting, lambda risk: initial_rate(risk, beta_wad)),
        notional_wad=_notional(account, marks, setting),
    )


def initial_rate(risk: Risk, beta_wad: Wad) -> Wad:
    """Return imr, or (1 + beta) mmr where that is more (MarginMath.initialRate)."""
    return max(risk.imr_wad, mul_div_up(risk.mmr_wad, WAD + beta_wad, WAD))


def leg_value_wad(position: Position, price_wad: Wad) -> Wad:
    """Return s x unit value + quote leg, rounded against the account."""
    worth = mul_div_down(position.size_wad, unit_value_wad(position, price_wad), WAD)
    return worth + position.quote_leg_wad


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


def band_wad(p: SlopeParams, since_confirmation_s: int) -> Wad:
    """Return how far p_L may lie from the slow price (Slope.band)."""
    return min(p.band_max_wad, p.band_base_wad + p.band_rate_wad * since_confirmation_s // 60)


def execution_price(fast_wad: Wad, slow_wad: Wad, band_wad: Wad) -> Wad:
    """Return p_L: the fast price within a band around the slow one (Slope.executionPrice)."""
    lowest = mul_div_down(slow_wad, WAD - band_wad, WAD)
    highest = mul_div_down(slow_wad, WAD + band_wad, WAD)
    return min(highest, max(lowest, fast_wad))


def _requirement(account: Account, marks: Marks, setting: Setting, rate: Callable[[Risk], Wad]) -> Wad:
    """Add up what each underlying requires for those positions on it that have not settled."""
    groups: dict[FeedId, list[Position]] = {}
    for position in setting.positions(account):
        if not position.is_settled:
            groups.setdefault(position.market.feed, []).append(position)
    risks = setting.terms.risks
    return sum(
        requirement_wad(group, marks[feed], risk=risks[feed], rate_wad=rate(risks[feed]), now_s=setting.now_s)
        for feed, group in groups.items()
    )


def _notional(account: Account, marks: Marks, setting: Setting) -> Wad:
    return sum(
        mul_div_down(abs(position.size_wad), marks[position.market.feed], WAD)
        for position in setting.positions(account)
        if not position.is_settled
    )


def _profit(account: Account, marks: Marks, setting: Setting) -> Wad:
    return sum(
        leg_value_wad(position, marks[position.market.feed]) for position in setting.positions(account)
    )


def _collateral(
    account: Account, marks: Marks, setting: Setting, haircut: Callable[[CollateralTerms], Wad]
) -> Wad:
    total = 0
    for holding in account.holdings:
        terms = setting.terms.collaterals[holding.collateral]
        worth = mul_div_down(holding.amount_wad, marks[terms.feed], WAD)
        total += mul_div_down(worth, haircut(terms), WAD)
    return total
