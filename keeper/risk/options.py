"""European options by the formulas of Black, Scholes and Merton: prices and greeks in float64.

`price` and `delta` are what the contracts' risk arrays rest on: the premium is marked every day like a
future's and paid when the position ends, so nothing is discounted (Lieu 1990), and the underlying's price
stands for its forward. An input that is NaN, infinite or negative gives NaN in its place and nowhere else.
The integers that are signed come from ``keeper.risk.scenarios.pack``.

`black_scholes` and `black_76` are the same with rates, and with all greeks; `in_coin` turns them into those
of an inverse option, `implied_volatility` turns a price back. They raise BadInput where an input cannot be.

All take arrays or scalars that broadcast against each other: `spot`, `forward` and `strike` in quote per unit
of the underlying, volatility (`vol`, `sd`) annualised as a fraction, `years` and `expiry_y` of 365 days to
expiry, `rate` and `dividend` continuously compounded a year, `is_call` a mask.

Source: Black (1976), "The pricing of commodity contracts", equation 16; Hull, "Options, Futures, and Other
Derivatives", chapters on futures options, on Black-Scholes-Merton and on the greek letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from keeper.errors import BadInput, ConfigError
from keeper.risk import inputs

Column: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

YEAR_S = 365 * 86_400
"""Markets that never close: 365 days of 24 hours."""


WORDS = {"finite": "finite", "least_0": "finite and not negative", "above_0": "finite and above 0"}
"""What `check` asks."""
ROOT_TWO_PI = math.sqrt(2 * math.pi)


@dataclass(frozen=True, slots=True)
class Greeks:
    """What options are worth and how that changes, each in the shape that the inputs broadcast to.

    In quote for one unit of the underlying; `gamma` and `theta` are infinite where the limit is: on the
    strike, at the moment of expiry.
    """

    price: Column
    delta: Column
    """By the spot, or the forward in `black_76`."""
    gamma: Column
    """Change of the delta."""
    vega: Column
    """For 1.00 of volatility, that is for a hundred points."""
    theta: Column
    """For a year that passes, all else being equal."""
    rho: Column
    """For 1.00 of the rate; in `black_76` the forward stays where it is."""


def black_scholes(
    *,
    spot: Column | float,
    strike: Column | float,
    rate: Column | float,
    dividend: Column | float,
    sd: Column | float,
    expiry_y: Column | float,
    is_call: Mask | bool,
) -> Greeks:
    """Return price and greeks of an option on an underlying that yields `dividend`.

    Raises BadInput for what is not finite, for a negative price, volatility or time, for a mask of anything
    but true and false, and for shapes that do not broadcast.

    Source: Merton (1973); Hull, "Options, Futures, and Other Derivatives", chapters 17 and 19.

    Property: call less put is the discounted spot less the discounted strike, to 1e-12 of the larger; every
    greek is the derivative of the price.
    """
    signed, unsigned = {"rate": rate, "dividend": dividend}, {"spot": spot, "strike": strike}
    check(finite=signed, least_0={**unsigned, "sd": sd, "expiry_y": expiry_y})
    is_call = inputs.mask("is_call", is_call)
    inputs.together(**signed, **unsigned, sd=sd, expiry_y=expiry_y, is_call=is_call)
    spot, years = np.asarray(spot, np.float64), np.asarray(expiry_y, np.float64)
    with np.errstate(over="ignore"):
        carried, paid = np.exp(-np.multiply(dividend, years)), np.exp(-np.multiply(rate, years))
    check(finite={"exp(-dividend expiry_y)": carried, "exp(-rate expiry_y)": paid})
    parts = _Parts.of(spot * carried, np.multiply(strike, paid), sd, years, is_call=is_call)
    with np.errstate(all="ignore"):
        per_spot = np.where(parts.density == 0.0, 0.0, carried * parts.density / (spot * parts.spread))
    shrinks = np.multiply(dividend, parts.held) - np.multiply(rate, parts.owed)
    return Greeks(
        price=parts.worth,
        delta=carried * parts.up,
        gamma=per_spot[()],
        vega=parts.vega,
        theta=shrinks - parts.decay,
        rho=years * parts.owed,
    )


def black_76(
    *,
    forward: Column | float,
    strike: Column | float,
    rate: Column | float,
    sd: Column | float,
    expiry_y: Column | float,
    is_call: Mask | bool,
) -> Greeks:
    """Return price and greeks of an option on a forward or future, its premium paid at once.

    Raises BadInput as `black_scholes`.

    Source: Black (1976), equation 16: `black_scholes` of an underlying that yields the rate itself. Only
    `rho` is another one: with the forward given, a rate does no more than discount.
    """
    found = black_scholes(
        spot=forward, strike=strike, rate=rate, dividend=rate, sd=sd, expiry_y=expiry_y, is_call=is_call
    )
    rho = -np.multiply(expiry_y, found.price)
    return Greeks(found.price, found.delta, found.gamma, found.vega, found.theta, rho)


def in_coin(greeks: Greeks, *, spot: Column | float) -> Greeks:
    """Return price and greeks of the inverse option: the payoff is paid in the underlying, at its last price.

    An inverse option costs C = P / S of the underlying, so its delta is (D - C) / S and its gamma
    (G - 2 (D - C) / S) / S, both in coin for 1 quote of the spot.
    Raises BadInput for a spot that is not above 0.

    Source: Alexander, Chen, Imeraj, "Crypto quanto and inverse options" (2023), the direct product P / S.
    """
    check(above_0={"spot": spot})
    worth = greeks.price / spot
    slope = (greeks.delta - worth) / spot
    return Greeks(
        price=worth,
        delta=slope,
        gamma=(greeks.gamma - 2.0 * slope) / spot,
        vega=greeks.vega / spot,
        theta=greeks.theta / spot,
        rho=greeks.rho / spot,
    )


def implied_volatility(
    *,
    price: Column | float,
    forward: Column | float,
    strike: Column | float,
    rate: Column | float,
    expiry_y: Column | float,
    is_call: Mask | bool,
) -> Column:
    """Return the volatility at which `black_76` gives a price.

    Raises BadInput for a price at or outside the bounds within which a volatility exists, and as `black_76`;
    ConfigError where the library is missing. One option after the other: some tens of microseconds each.

    Source: Jaeckel (2015), "Let's be rational", by the library lets_be_rational.
    """
    solve = _solver()
    check(finite={"rate": rate})
    above = {"forward": forward, "strike": strike, "expiry_y": expiry_y}
    check(least_0={"price": price}, above_0=above)
    is_call = inputs.mask("is_call", is_call)
    inputs.together(price=price, rate=rate, **above, is_call=is_call)
    undiscounted = np.multiply(price, np.exp(np.multiply(rate, expiry_y)))
    given = np.broadcast_arrays(undiscounted, forward, strike, expiry_y, is_call)
    found = np.empty(given[0].shape)
    for place in np.ndindex(found.shape):
        worth, ahead, at, years, call = (each[place].item() for each in given)
        least = max(ahead - at if call else at - ahead, 0.0)
        most = ahead if call else at
        if not least < worth < most:
            raise BadInput(f"an undiscounted price must lie between {least} and {most}, found {worth}")
        found[place] = solve(worth, ahead, at, years, 1.0 if call else -1.0)
    return found


def _solver() -> Callable[[float, float, float, float, float], float]:
    """Return the library's function: of price, forward, strike, years and +1 of a call."""
    try:
        from lets_be_rational import implied_volatility_from_a_transformed_rational_guess as solve
    except ModuleNotFoundError:
        raise ConfigError(
            "implied volatilities need lets_be_rational: pip install hybrid-keeper[risk]"
        ) from None
    return cast("Callable[[float, float, float, float, float], float]", solve)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the price and the greeks of an option are made of."""

    worth: Column
    spread: Column
    """Standard deviation of the log price until expiry."""
    density: Column
    """Of the normal distribution at d1."""
    up: Column
    """N(d1) of a call, -N(-d1) of a put: how much of the underlying hedges it, undiscounted."""
    held: Column
    """The discounted underlying in the hedge,"""
    owed: Column
    """and the discounted strike owed for it."""
    vega: Column
    decay: Column
    """What a year takes of the time value."""

    @classmethod
    def of(
        cls, spot: Column, strike: Column, sd: Column | float, years: Column, *, is_call: Mask | bool
    ) -> _Parts:
        """Put them together from the discounted spot and strike."""
        spot, strike, vol, years, is_call = np.broadcast_arrays(spot, strike, sd, years, is_call)
        root = np.sqrt(years)
        with np.errstate(all="ignore"):
            spread = vol * root
            d1 = _d1(spot, strike, spread)
            # Infinite volatility, and a call without a strike: there inf - inf would say nothing.
            d2 = np.where(strike == 0.0, np.inf, np.where(np.isinf(spread), -np.inf, d1 - spread))
            density = np.exp(-d1 * d1 / 2) / ROOT_TWO_PI
            decay = np.where((density == 0.0) | (vol == 0.0), 0.0, spot * density * vol / (2 * root))
        up = np.where(is_call, ndtr(d1), -ndtr(-d1))
        owed = strike * np.where(is_call, ndtr(d2), -ndtr(-d2))
        worth = value(spot=spot, strike=strike, spread=spread, is_call=is_call)
        return cls(worth, spread, density, up, spot * up, owed, spot * density * root, decay)


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
    return np.where(valid, value(spot=spot, strike=strike, spread=spread, is_call=is_call), np.nan)


def value(*, spot: Column, strike: Column, spread: Column, is_call: Mask | bool) -> Column:
    """Return `price` of what is known to be valid; `spread` is the volatility times the root of the time."""
    return payoff(spot=spot, strike=strike, is_call=is_call) + _time_value(spot, strike, spread)


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
    d1 = _d1(spot, strike, spread)
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


def _d1(spot: Column, strike: Column, spread: Column) -> Column:
    """Return how many deviations the spot lies above the strike, half a variance included."""
    with np.errstate(all="ignore"):
        d1 = np.log(spot / strike) / spread + spread / 2
    # 0/0 on the strike without volatility; a call without a strike is the underlying, even one worth nothing.
    d1 = np.where((spread == 0.0) & (spot == strike), 0.0, d1)
    d1 = np.where(spot == 0.0, -np.inf, d1)
    return np.where(strike == 0.0, np.inf, d1)


def _inputs(
    spot: Column | float, strike: Column | float, vol: Column | float, years: Column | float
) -> tuple[Column, Column, Column, Mask]:
    """Return spot, strike, the standard deviation of the log price until expiry, and where all are valid."""
    given = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in (spot, strike, vol, years)))
    valid = np.logical_and.reduce([np.isfinite(each) & (each >= 0.0) for each in given])
    spot, strike, vol, years = (np.where(valid, each, 0.0) for each in given)
    return spot, strike, vol * np.sqrt(years), valid


def check(**asked: Mapping[str, Column | float]) -> None:
    """Raise BadInput for what is not as its group's name says, one of `WORDS`; with its own name."""
    for kind, values in asked.items():
        for name, value in values.items():
            try:
                numbers = np.asarray(value, np.float64)
            except (TypeError, ValueError) as error:
                raise BadInput(f"{name} must be numbers: {error}") from error
            good = np.isfinite(numbers)
            if kind != "finite":
                good &= numbers > 0.0 if kind == "above_0" else numbers >= 0.0
            if not good.all():
                raise BadInput(f"{name} must be {WORDS[kind]}, found {numbers[~good].flat[0]}")
