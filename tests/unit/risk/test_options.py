"""Golden vectors of Black's formula: published ones, and our own in 50-digit arithmetic."""

import math
import warnings
from decimal import Decimal, localcontext

import numpy as np
import pytest

from keeper.risk import options

CALL, PUT = True, False


def black(*, spot: str, strike: str, vol: str, years: str, is_call: bool) -> tuple[Decimal, Decimal]:
    """Price and delta to 50 digits: logarithm and root by `decimal`, the normal distribution by a series."""
    with localcontext(prec=120):
        s, k, spread = Decimal(spot), Decimal(strike), Decimal(vol) * Decimal(years).sqrt()
        d1 = (s / k).ln() / spread + spread / 2
        sign = 1 if is_call else -1
        up, down = normal(sign * d1), normal(sign * (d1 - spread))
        return sign * (s * up - k * down), sign * up


def normal(x: Decimal) -> Decimal:
    """N(x) = 1/2 + phi(x) (x + x^3/3 + x^5/15 + ...); all terms of one sign, so none of them cancel."""
    root = (2 * pi()).sqrt()
    term = total = x
    odd = 1
    while abs(term) > Decimal("1e-110"):
        odd += 2
        term *= x * x / odd
        total += term
    return Decimal("0.5") + total * (-x * x / 2).exp() / root


def pi() -> Decimal:
    """Machin's formula."""

    def arctan_of_inverse(n: int) -> Decimal:
        power = total = 1 / Decimal(n)
        odd = 1
        while abs(power) > Decimal("1e-118"):
            power /= -n * n
            odd += 2
            total += power / odd
        return total

    return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


# --- published ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_call", "spot", "years", "vol", "value"),
    [
        (CALL, 90, 0.1, 0.15, 0.0205),
        (CALL, 100, 0.1, 0.15, 1.8734),
        (CALL, 110, 0.1, 0.15, 9.9413),
        (CALL, 90, 0.1, 0.25, 0.3150),
        (CALL, 110, 0.1, 0.35, 11.1381),
        (CALL, 90, 0.5, 0.15, 0.8069),
        (CALL, 100, 0.5, 0.25, 6.6997),
        (CALL, 110, 0.5, 0.35, 15.3086),
        (PUT, 90, 0.1, 0.15, 9.9210),
        (PUT, 100, 0.1, 0.25, 3.1217),
        (PUT, 110, 0.1, 0.15, 0.0408),
        (PUT, 110, 0.1, 0.35, 1.2376),
        (PUT, 90, 0.5, 0.35, 14.4452),
        (PUT, 100, 0.5, 0.15, 4.0232),
        (PUT, 110, 0.5, 0.25, 3.2734),
    ],
)
def test_a_table_of_futures_options_is_met_within_one_of_its_last_digits(
    is_call: bool, spot: float, years: float, vol: float, value: float
) -> None:
    """Haug, "Option Pricing Formulas" (1998), page 24: strike 100, r = 10%. Its 1.8734 is 1.87334 in full."""
    undiscounted = options.price(spot=spot, strike=100.0, vol=vol, years=years, is_call=is_call)
    assert abs(undiscounted * math.exp(-0.10 * years) - value) < 1e-4


@pytest.mark.parametrize(
    ("is_call", "strike", "years", "future", "rate", "vol", "value", "digits"),
    [
        (PUT, 298, 0.25, 350, 0.06, 0.25, 1.85980563934967, 13),
        (PUT, 145, 0.5, 170, 0.05, 0.2, 1.41234979911583, 13),
        (CALL, 1000, 0.5, 950, 4, 2, 65.335687119, 9),
        (CALL, 850, 2.5, 125, 3, 1, 0.012649067, 9),
    ],
)
def test_the_examples_of_a_statistics_package_are_met(
    is_call: bool,
    strike: float,
    years: float,
    future: float,
    rate: float,
    vol: float,
    value: float,
    digits: int,
) -> None:
    """SAS documentation, functions BLACKPTPRC and BLACKCLPRC, section Example."""
    undiscounted = options.price(spot=future, strike=strike, vol=vol, years=years, is_call=is_call)
    assert abs(undiscounted * math.exp(-rate * years) - value) < 0.6 * 10.0**-digits


def test_the_textbook_examples_are_met() -> None:
    """Hull: a stock at 42 (chapter on Black-Scholes-Merton), whose forward is 42 e^rT; a future at 20."""
    grown = {"spot": 42 * math.exp(0.10 * 0.5), "strike": 40.0, "vol": 0.20, "years": 0.5}
    call, put = (options.price(**grown, is_call=is_call) * math.exp(-0.10 * 0.5) for is_call in (CALL, PUT))
    assert (round(float(call), 2), round(float(put), 2)) == (4.76, 0.81)
    oil = options.price(spot=20.0, strike=20.0, vol=0.25, years=4 / 12, is_call=PUT) * math.exp(
        -0.09 * 4 / 12
    )
    assert round(float(oil), 2) == 1.12


@pytest.mark.parametrize(("is_call", "value"), [(CALL, 0.5946), (PUT, -0.3566)])
def test_the_published_deltas_of_a_futures_option_are_met(is_call: bool, value: float) -> None:
    """Haug (1998), pages 11-16: future 105, strike 100, half a year, r = 10%, volatility 36%."""
    slope = options.delta(spot=105.0, strike=100.0, vol=0.36, years=0.5, is_call=is_call)
    assert abs(slope * math.exp(-0.10 * 0.5) - value) <= 0.5e-4


# --- our own --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_call", [CALL, PUT])
@pytest.mark.parametrize(
    ("spot", "strike", "vol", "years"),
    [
        ("60000", "60000", "0.6", "0.08"),
        ("60000", "75000", "0.55", "0.25"),
        ("60000", "45000", "0.7", "0.02"),
        ("60000", "60001", "0.4", "0.0001"),
        ("3000", "4000", "1.5", "1"),
        ("0.00001", "0.000012", "2", "0.1"),
        ("60000", "120000", "0.5", "0.03"),
        ("60000", "30000", "0.5", "0.03"),
        ("1", "1", "5", "4"),
    ],
)
def test_price_and_delta_match_50_digit_arithmetic(
    spot: str, strike: str, vol: str, years: str, is_call: bool
) -> None:
    worth, slope = black(spot=spot, strike=strike, vol=vol, years=years, is_call=is_call)
    given = {"spot": float(spot), "strike": float(strike), "vol": float(vol), "years": float(years)}
    highest = max(float(spot), float(strike))
    assert abs(float(options.price(**given, is_call=is_call)) - float(worth)) <= 4e-15 * highest
    assert abs(float(options.delta(**given, is_call=is_call)) - float(slope)) <= 1e-13


def test_far_out_of_the_money_the_leading_digits_still_hold() -> None:
    worth, _ = black(spot="60000", strike="120000", vol="0.5", years="0.03", is_call=CALL)
    found = float(options.price(spot=60_000.0, strike=120_000.0, vol=0.5, years=0.03, is_call=CALL))
    assert 0 < worth < Decimal("1e-9")
    assert found == pytest.approx(float(worth), rel=1e-12)


# --- where nothing more can happen ----------------------------------------------------------------


@pytest.mark.parametrize(("vol", "years"), [(0.0, 1.0), (0.8, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize(
    ("spot", "call", "put", "slope"),
    [
        (0.0, 0.0, 100.0, 0.0),
        (99.5, 0.0, 0.5, 0.0),
        (100.0, 0.0, 0.0, 0.5),
        (100.5, 0.5, 0.0, 1.0),
        (1e9, 1e9 - 100, 0.0, 1.0),
    ],
)
def test_without_time_or_volatility_an_option_is_its_payoff(
    vol: float, years: float, spot: float, call: float, put: float, slope: float
) -> None:
    given = {"spot": spot, "strike": 100.0, "vol": vol, "years": years}
    assert options.price(**given, is_call=CALL) == call
    assert options.price(**given, is_call=PUT) == put
    assert options.delta(**given, is_call=CALL) == slope
    assert options.delta(**given, is_call=PUT) == slope - 1.0


def test_an_underlying_worth_nothing_stays_so_and_a_call_without_strike_is_the_underlying() -> None:
    worthless = {"spot": 0.0, "strike": 100.0, "vol": 0.8, "years": 1.0}
    assert [float(options.price(**worthless, is_call=kind)) for kind in (CALL, PUT)] == [0.0, 100.0]
    assert [float(options.delta(**worthless, is_call=kind)) for kind in (CALL, PUT)] == [0.0, -1.0]
    free = {"spot": 100.0, "strike": 0.0, "vol": 0.8, "years": 1.0}
    assert [float(options.price(**free, is_call=kind)) for kind in (CALL, PUT)] == [100.0, 0.0]
    assert [float(options.delta(**free, is_call=kind)) for kind in (CALL, PUT)] == [1.0, 0.0]


@pytest.mark.parametrize(("spot", "call", "put"), [(1e-12, 0.0, 100.0), (1e12, 1e12 - 100.0, 0.0)])
def test_deep_in_and_out_of_the_money_an_option_is_its_payoff_to_the_last_bit(
    spot: float, call: float, put: float
) -> None:
    given = {"spot": spot, "strike": 100.0, "vol": 0.5, "years": 0.1}
    assert options.price(**given, is_call=CALL) == call
    assert options.price(**given, is_call=PUT) == put - (spot if put else 0.0)


def test_no_rounding_makes_a_price_negative() -> None:
    """28 deviations from the strike, where the two terms cancel to the last bit and beyond."""
    given = {"spot": 1.0, "strike": 1.00000000002342, "vol": 8.55679903879496e-13, "years": 1.0}
    assert options.price(**given, is_call=CALL) == 0.0


def test_immense_volatility_makes_a_call_the_underlying_and_a_put_its_strike() -> None:
    given = {"spot": 90.0, "strike": 100.0, "vol": 1e200, "years": 1e200}
    assert options.price(**given, is_call=CALL) == 90.0
    assert options.price(**given, is_call=PUT) == 100.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-300])
@pytest.mark.parametrize("name", ["spot", "strike", "vol", "years"])
def test_what_cannot_be_priced_is_nan_in_its_place_and_nowhere_else(name: str, bad: float) -> None:
    good = {"spot": 100.0, "strike": 100.0, "vol": 0.5, "years": 1.0}
    given = {key: np.array([value, bad if key == name else value]) for key, value in good.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in (options.price, options.delta):
            found = function(**given, is_call=True)
            assert np.isnan(found).tolist() == [False, True]


def test_arrays_and_scalars_broadcast_against_each_other() -> None:
    spots = np.array([[90.0], [110.0]])
    kinds = np.array([True, False, True])
    found = options.price(spot=spots, strike=100.0, vol=0.5, years=0.5, is_call=kinds)
    assert found.shape == (2, 3)
    for row, spot in enumerate((90.0, 110.0)):
        for column, is_call in enumerate((CALL, PUT, CALL)):
            one = options.price(spot=spot, strike=100.0, vol=0.5, years=0.5, is_call=is_call)
            assert found[row, column] == one
