"""The slope: how much of a breached account may be closed, and at what fee, as time passes.

From the alarm on, positive equity counts for ``q = exp(-lambda * tau)``, down to a floor. The part that
may be closed starts at the least that ends the breach (q = 1) and grows to the part that restores a health
of 1 + beta (q = 1 / (1 + beta)).

Functions named ``..._wad`` are exact: integers in, integers out, rounded once and in the direction that
the docstring gives. Their twins without the suffix take float64 arrays of shape [n], in plain units, with
scalars where one value holds for every row, and return fractions; NaN stays NaN. The twins are for screening
and research: only the exact functions may size or price a step.

Source: HybridMargin's `Slope` library, whose own decay (``keeper.protocols.hybrid.exp``) stays within
3 wei of `decay_wad`.
"""

import math
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.units import WAD, Wad, mul_div_down, mul_div_up

Column: TypeAlias = NDArray[np.float64]


def decay_wad(tau_s: int, *, lambda_wad: Wad, floor_wad: Wad) -> Wad:
    """Return q, the share of positive equity that counts after `tau_s` active seconds, rounded up.

    Exactly max(floor, ceil(1e18 * exp(-lambda * tau / 1e18))), with `lambda_wad` per second: rounded up for
    the owner. Raises ValueError for a negative time or rate, and for a floor outside [0, 1].

    Property: within [floor, 1e18], never rising with tau, and the least integer at or above the true value.
    """
    _check_at_least("tau_s", tau_s, 0)
    _check_at_least("lambda_wad", lambda_wad, 0)
    _check_fraction("floor_wad", floor_wad)
    return max(floor_wad, _scaled_exp_up(WAD, lambda_wad * tau_s, WAD))


def closeable_fraction_wad(
    *, equity_wad: Wad, requirement_wad: Wad, notional_wad: Wad, fee_wad: Wad, q_wad: Wad
) -> Wad:
    """Return the largest fraction of the book that may be closed now, rounded down (for the owner).

    f = (M - q E) / (M - q kappa N), clamped to [0, 1]: after closing it, q E' = M'. It is 0 where q E >= M or
    nothing is required, and 1 where nothing is left to decay (E <= 0). Amounts are those before the slice;
    `fee_wad` is kappa. Raises ValueError for a negative requirement or notional, and for a fee or q outside
    [0, 1].

    Source: no close-factor looping, arXiv 2106.06389; no closing that costs more health than it buys, arXiv
    2212.07306.
    Property: while E > kappa N, closing f never lowers E / M, never lifts it above 1 / q, and slices at one q
    close what one closing would, within 2 wei a slice.
    """
    _check_at_least("requirement_wad", requirement_wad, 0)
    _check_at_least("notional_wad", notional_wad, 0)
    _check_fraction("fee_wad", fee_wad)
    _check_fraction("q_wad", q_wad)
    # All three are amounts times 1e36. A negative E must not decay: a smaller loss would look like health.
    requirement = requirement_wad * WAD * WAD
    shortfall = requirement - q_wad * max(equity_wad, 0) * WAD
    relief = requirement - q_wad * fee_wad * notional_wad
    if shortfall <= 0:
        return 0
    # Exactly where E <= kappa N, which a fee from `fee_wad` never reaches while theta < 1: closing everything
    # covers less than is short, and with relief <= 0 its fee outweighs it. No part ends the breach, so the
    # whole may go; f tends to 1 as E falls to kappa N.
    if relief <= shortfall:
        return WAD
    return mul_div_down(WAD, shortfall, relief)


def fee_wad(
    *,
    since_confirmation_s: int,
    equity_wad: Wad,
    notional_wad: Wad,
    base_wad: Wad,
    max_wad: Wad,
    ramp_s: int,
    cap_wad: Wad,
    theta_wad: Wad,
) -> Wad:
    """Return kappa, the fee as a fraction of the notional moved, rounded down (for the owner).

    The least of: k0 + (k1 - k0)(1 - exp(-t / T)), with k0 = `base_wad`, k1 = `max_wad` and T = `ramp_s`; the
    episode's `cap_wad`; and theta E / N. It is 0 where E <= 0 or N = 0: nothing to pay from, or for. The cap
    starts at theta E / N on confirmation, and the caller lowers it to theta E / N before each tranche;
    without that, slicing after a fall would raise the total. Raises ValueError for a negative time, notional
    or cap, a ramp below 1 s, k0 > k1, and fractions outside [0, 1].

    Property: kappa N <= theta E; with the cap kept, slices at one moment and price pay no more than one
    closing would, and all fees of an episode at most theta E at confirmation times the highest rise of the
    notional's price since (1 if it only fell).
    """
    _check_at_least("since_confirmation_s", since_confirmation_s, 0)
    _check_at_least("notional_wad", notional_wad, 0)
    _check_at_least("ramp_s", ramp_s, 1)
    _check_at_least("cap_wad", cap_wad, 0)
    _check_fraction("theta_wad", theta_wad)
    _check_fraction("max_wad", max_wad)
    _check_fraction("base_wad", base_wad, at_most=max_wad)
    if equity_wad <= 0 or notional_wad == 0:
        return 0
    ramp_wad = max_wad - _scaled_exp_up(max_wad - base_wad, since_confirmation_s, ramp_s)
    return min(ramp_wad, cap_wad, mul_div_down(theta_wad, equity_wad, notional_wad))


def lambda_wad(*, beta_wad: Wad, slope_s: int) -> Wad:
    """Return the decay rate per second that reaches 1 / (1 + beta) in `slope_s`, rounded down (slower).

    Raises ValueError for a negative beta or a slope below 1 s.
    """
    _check_at_least("beta_wad", beta_wad, 0)
    _check_at_least("slope_s", slope_s, 1)
    if beta_wad == 0:
        return 0
    return _transcendental_down(lambda: (Decimal(WAD + beta_wad) / WAD).ln() * WAD / slope_s)


def floor_wad(beta_wad: Wad) -> Wad:
    """Return 1 / (1 + beta), the least q, rounded up: no slice may lift health above 1 + beta.

    Raises ValueError for a negative beta.
    """
    _check_at_least("beta_wad", beta_wad, 0)
    return mul_div_up(WAD, WAD, WAD + beta_wad)


def decay(tau_s: Column | float, *, rate_per_s: Column | float, floor: Column | float) -> Column:
    """Return q [n]: the float twin of `decay_wad`, within 1e-15 of it."""
    return np.maximum(floor, np.exp(-np.multiply(rate_per_s, tau_s)))


def closeable_fraction(
    *,
    equity: Column,
    requirement: Column,
    notional: Column,
    fee: Column | float,
    q: Column | float,
) -> Column:
    """Return f [n]: the float twin of `closeable_fraction_wad`, within 1e-14 of it where kappa N <= E / 2."""
    return _closeable(requirement, counted=q * equity, cost=q * fee * notional)


def closeable_fraction_raw_collateral(
    *,
    collateral: Column,
    other_equity: Column,
    requirement: Column,
    notional: Column,
    fee: Column | float,
    q: Column | float,
) -> Column:
    """Return f [n] if q multiplied the collateral's value instead of equity: a research option, not the rule.

    `other_equity` is cash plus marked profit and loss; closing leaves the collateral where it is. A closing
    ends at health 1 + (1 - q) collateral / M', not at a fixed buffer, and a book whose losses use up most of
    its collateral is closed whole while its equity is still positive: why the protocol decays equity.

    Property: equal to `closeable_fraction` at q = 1, and never below it where `other_equity` <= 0.
    """
    return _closeable(requirement, counted=q * collateral + other_equity, cost=fee * notional)


def fee(
    *,
    since_confirmation_s: Column | float,
    equity: Column,
    notional: Column,
    base: Column | float,
    most: Column | float,
    ramp_s: Column | float,
    cap: Column | float,
    theta: Column | float,
) -> Column:
    """Return kappa [n]: the float twin of `fee_wad`, within 1e-15 of it; k1 is `most`."""
    elapsed = np.divide(since_confirmation_s, ramp_s)
    ramp = base + np.subtract(most, base) * -np.expm1(-elapsed)
    with np.errstate(all="ignore"):
        payable = theta * np.maximum(equity, 0.0)
        affordable = np.divide(payable, notional, out=np.zeros_like(payable), where=notional != 0.0)
    return np.minimum(np.minimum(ramp, cap), affordable)


def _closeable(requirement: Column, *, counted: Column, cost: Column) -> Column:
    """Return the fraction that lifts `counted` equity to the requirement; `cost`: the fee of closing all."""
    with np.errstate(all="ignore"):
        shortfall = requirement - np.maximum(counted, 0.0)
        relief = requirement - cost
        partial = np.divide(shortfall, relief)
    fraction = np.where(relief <= shortfall, 1.0, partial)
    fraction = np.where(shortfall <= 0.0, 0.0, fraction)
    return np.where(np.isfinite(shortfall) & np.isfinite(relief), fraction, np.nan)


def _scaled_exp_up(scale: int, numerator: int, denominator: int) -> int:
    """Return ceil(scale * exp(-numerator / denominator)), for numerator >= 0 and scale >= 0."""
    if numerator == 0 or scale == 0:
        return scale
    # exp(-x) < 2^-x, so the product is below 1; it also keeps the argument of exp below 64.
    if numerator >= denominator * scale.bit_length():
        return 1
    return 1 + _transcendental_down(lambda: scale * (Decimal(-numerator) / denominator).exp())


def _transcendental_down(approximate: Callable[[], Decimal]) -> int:
    """Return the floor of a positive transcendental number, `approximate` of the current decimal context.

    exp and ln of a rational, other than exp(0) and ln(1), are transcendental (Lindemann): never an integer,
    so enough digits always tell between which two they lie. Digits are doubled until both ends of the error
    interval agree (Ziv). The interval is safe: `Decimal` rounds exp and ln correctly, arguments of exp stay
    below 64, and the few roundings then leave a relative error under 10 ** (3 - digits), of which 10 times
    is allowed for. The first 60 digits decide unless the number lies within 1e-37 of an integer.
    """
    digits = 60
    while True:
        with localcontext(Context(prec=digits)):
            value = approximate()
            slack = value.scaleb(4 - digits)
            low, high = math.floor(value - slack), math.floor(value + slack)
        if low == high:
            return low
        digits *= 2


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, found {value}")


def _check_fraction(name: str, value: int, *, at_most: int = WAD) -> None:
    if not 0 <= value <= at_most:
        raise ValueError(f"{name} must lie in [0, {at_most}], found {value}")
