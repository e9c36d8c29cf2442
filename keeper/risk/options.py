"""European options by Black's formula: price and delta in float64.

The premium is marked every day like a future's and paid when the position ends, so nothing is discounted
(Lieu 1990); the underlying's price stands for its forward.

Every function takes arrays or scalars that broadcast against each other: `spot` and `strike` in quote per
unit of the underlying, `vol` annualised as a fraction, `years` of 365 days to expiry, `is_call` a mask. An
input that is NaN, infinite or negative gives NaN in its place and nowhere else. For risk arrays, screening
and research: the integers that are signed come from ``keeper.risk.scenarios.pack``.

Source: Black (1976), "The pricing of commodity contracts", equation 16; Hull, "Options, Futures, and Other
Derivatives", chapters on futures options and on Black-Scholes-Merton.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Column: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

YEAR_S = 365 * 86_400
"""Markets that never close: 365 days of 24 hours."""


def price(
    *,
    spot: Column | float,
    strike: Column | float,
    vol: Column | float,
    years: Column | float,
    is_call: Mask | bool,
) -> Column:
    """Return what one option is worth, in quote.

    Exactly the payoff where nothing more can happen: without time, without volatility, at a spot or strike of
    0.

    Property: between the payoff and the spot (call) or the strike (put), to one rounding; call less put is
    spot less strike; never falling with volatility or time.
    """
    spot, strike, spread, valid = _inputs(spot, strike, vol, years)
    worth = payoff(spot=spot, strike=strike, is_call=is_call) + _time_value(spot, strike, spread)
    return np.where(valid, worth, np.nan)


def delta(
    *,
    spot: Column | float,
    strike: Column | float,
    vol: Column | float,
    years: Column | float,
    is_call: Mask | bool,
) -> Column:
    """Return the change of the price with the spot: 0 to 1 for a call, -1 to 0 for a put.

    Where nothing more can happen it is the payoff's own slope, and half of it at the strike, where that has
    none: the limit of ever less volatility.
    """
    spot, strike, spread, valid = _inputs(spot, strike, vol, years)
    with np.errstate(all="ignore"):
        d1 = np.log(spot / strike) / spread + spread / 2
    # 0/0 on the strike without volatility; a call without a strike is the underlying, even one worth nothing.
    d1 = np.where((spread == 0.0) & (spot == strike), 0.0, d1)
    d1 = np.where(spot == 0.0, -np.inf, d1)
    d1 = np.where(strike == 0.0, np.inf, d1)
    slope = np.where(is_call, ndtr(d1), -ndtr(-d1))
    return np.where(valid, slope, np.nan)


def payoff(*, spot: Column | float, strike: Column | float, is_call: Mask | bool) -> Column:
    """Return what one option pays when it expires with the underlying at `spot`, in quote."""
    above = np.subtract(spot, strike)
    paid: Column = np.maximum(np.where(is_call, above, -above), 0.0)
    return paid


def _time_value(spot: Column, strike: Column, spread: Column) -> Column:
    """Return what an option is worth over its payoff: the same for a call and for its put.

    It is the price of whichever of the two is out of the money, so parity holds by construction and no
    digits are lost in the money. Far out there, rounding may leave less than nothing.
    """
    low, high = np.minimum(spot, strike), np.maximum(spot, strike)
    with np.errstate(all="ignore"):
        distance = np.log(low / high) / spread
        worth = low * ndtr(distance + spread / 2) - high * ndtr(distance - spread / 2)
    return np.where((spread == 0.0) | (low == 0.0), 0.0, np.maximum(worth, 0.0))


def _inputs(
    spot: Column | float, strike: Column | float, vol: Column | float, years: Column | float
) -> tuple[Column, Column, Column, Mask]:
    """Return spot, strike, the standard deviation of the log price until expiry, and where all are valid."""
    given = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in (spot, strike, vol, years)))
    valid = np.logical_and.reduce([np.isfinite(each) & (each >= 0.0) for each in given])
    spot, strike, vol, years = (np.where(valid, each, 0.0) for each in given)
    return spot, strike, vol * np.sqrt(years), valid
