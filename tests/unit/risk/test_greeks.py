"""Prices and greeks with rates: published examples, QuantLib's numbers, derivatives, and the edges."""

import builtins
import json
import math
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.errors import BadInput, ConfigError, KeeperError
from keeper.risk.options import Greeks, black_76, black_scholes, implied_volatility, in_coin

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "options.json").read_text())
NAMES = ("price", "delta", "gamma", "vega", "theta", "rho")
GIVEN = {"spot": 105.0, "strike": 100.0, "rate": 0.04, "dividend": 0.01, "sd": 0.45, "expiry_y": 0.3}


def test_hulls_example_of_a_stock_at_42_is_met() -> None:
    """Hull, chapter on Black-Scholes-Merton: the call is worth 4.76, the put 0.81."""
    given = {"spot": 42.0, "strike": 40.0, "rate": 0.10, "dividend": 0.0, "sd": 0.20, "expiry_y": 0.5}
    worth = [float(black_scholes(**given, is_call=kind).price) for kind in (True, False)]
    assert [round(each, 2) for each in worth] == [4.76, 0.81]


def test_hulls_greeks_of_a_stock_at_49_are_met() -> None:
    """Hull, chapter on the greek letters: stock 49, strike 50, 5%, 20%, 20 weeks."""
    given = {"spot": 49.0, "strike": 50.0, "rate": 0.05, "dividend": 0.0, "sd": 0.20, "expiry_y": 0.3846}
    found = black_scholes(**given, is_call=True)
    assert float(found.delta) == pytest.approx(0.522, abs=5e-4)
    assert float(found.gamma) == pytest.approx(0.066, abs=5e-4)
    assert float(found.vega) == pytest.approx(12.1, abs=0.05)
    assert float(found.theta) == pytest.approx(-4.31, abs=5e-3)
    assert float(found.rho) == pytest.approx(8.91, abs=5e-3)


def test_hulls_example_of_a_futures_option_is_met() -> None:
    """Hull, chapter on futures options: a put on oil at 20, strike 20, four months, 9%, 25%."""
    found = black_76(forward=20.0, strike=20.0, rate=0.09, sd=0.25, expiry_y=4 / 12, is_call=False)
    assert round(float(found.price), 2) == 1.12


@pytest.mark.parametrize("formula", ["black_scholes", "black_76"])
def test_every_greek_is_quantlibs(formula: str) -> None:
    functions: dict[str, Callable[..., Greeks]] = {"black_scholes": black_scholes, "black_76": black_76}
    rows = [each for each in GOLDEN["rows"] if each["formula"] == formula]
    assert len(rows) >= 20
    for row in rows:
        found = functions[formula](**row["given"])
        for name in NAMES:
            expected = row["found"][name]
            assert float(getattr(found, name)) == pytest.approx(expected, rel=1e-9, abs=1e-9), (row, name)


@pytest.mark.parametrize("is_call", [True, False])
@pytest.mark.parametrize(
    ("greek", "of", "by", "sign"),
    [
        ("delta", "price", "spot", 1.0),
        ("gamma", "delta", "spot", 1.0),
        ("vega", "price", "sd", 1.0),
        ("theta", "price", "expiry_y", -1.0),
        ("rho", "price", "rate", 1.0),
    ],
)
def test_every_greek_is_the_derivative_that_it_is_called(
    greek: str, of: str, by: str, sign: float, is_call: bool
) -> None:
    step = 1e-5 * max(1.0, GIVEN[by])
    high, low = (
        float(getattr(black_scholes(**(GIVEN | {by: GIVEN[by] + each}), is_call=is_call), of))
        for each in (step, -step)
    )
    slope = sign * (high - low) / (2 * step)
    assert float(getattr(black_scholes(**GIVEN, is_call=is_call), greek)) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("is_call", [True, False])
@pytest.mark.parametrize(("greek", "of"), [("delta", "price"), ("gamma", "delta")])
def test_an_inverse_options_greeks_are_derivatives_in_coin(greek: str, of: str, is_call: bool) -> None:
    def at(spot: float) -> Greeks:
        return in_coin(black_scholes(**(GIVEN | {"spot": spot}), is_call=is_call), spot=spot)

    slope = float(getattr(at(105.001), of) - getattr(at(104.999), of)) / 0.002
    assert float(getattr(at(105.0), greek)) == pytest.approx(slope, rel=1e-6)
    assert float(at(105.0).price) * 105.0 == pytest.approx(
        float(black_scholes(**GIVEN, is_call=is_call).price)
    )


@given(
    spot=st.floats(1e-3, 1e6),
    moneyness=st.floats(0.01, 100.0),
    rate=st.floats(-0.2, 0.5),
    dividend=st.floats(-0.2, 0.5),
    sd=st.floats(0.0, 5.0),
    years=st.floats(0.0, 5.0),
)
def test_call_less_put_is_the_forward_to_1e_12(
    spot: float, moneyness: float, rate: float, dividend: float, sd: float, years: float
) -> None:
    strike = spot * moneyness
    terms = {"spot": spot, "strike": strike, "rate": rate, "dividend": dividend, "sd": sd, "expiry_y": years}
    call, put = (black_scholes(**terms, is_call=kind) for kind in (True, False))
    held, owed = spot * math.exp(-dividend * years), strike * math.exp(-rate * years)
    assert abs(float(call.price - put.price) - (held - owed)) <= 1e-12 * max(held, owed)
    assert float(call.delta - put.delta) == pytest.approx(math.exp(-dividend * years), abs=1e-12)
    assert float(call.price) >= max(held - owed, 0.0) - 1e-12 * max(held, owed)


def test_no_edge_is_nan_or_warns() -> None:
    spots, strikes = (0.0, 1e-300, 50.0, 100.0, 1e9), (0.0, 1e-300, 100.0, 1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for spot, strike, rate, sd, years, is_call in product(
            spots, strikes, (0.0, 0.05), (0.0, 1e-9, 0.5, 1e200), (0.0, 1e-12, 1.0), (True, False)
        ):
            found = black_scholes(
                spot=spot, strike=strike, rate=rate, dividend=0.03, sd=sd, expiry_y=years, is_call=is_call
            )
            assert not any(np.isnan(getattr(found, name)).any() for name in NAMES)


@pytest.mark.parametrize(("sd", "years"), [(0.0, 1.0), (0.6, 0.0)])
@pytest.mark.parametrize(("spot", "call", "slope"), [(80.0, 0.0, 0.0), (120.0, 20.0, 1.0)])
def test_without_time_or_volatility_only_the_payoff_is_left(
    sd: float, years: float, spot: float, call: float, slope: float
) -> None:
    found = black_scholes(
        spot=spot, strike=100.0, rate=0.0, dividend=0.0, sd=sd, expiry_y=years, is_call=True
    )
    assert [float(getattr(found, name)) for name in NAMES] == [
        call,
        slope,
        0.0,
        0.0,
        0.0,
        years * 100 * slope,
    ]


def test_without_volatility_the_forward_counts_and_not_the_spot() -> None:
    found = black_scholes(
        spot=100.0, strike=101.0, rate=0.05, dividend=0.0, sd=0.0, expiry_y=1.0, is_call=True
    )
    assert float(found.price) == pytest.approx(100 - 101 * math.exp(-0.05), rel=1e-13)
    assert float(found.delta) == 1.0


def test_on_the_strike_the_limits_at_expiry_and_without_volatility_are_exact() -> None:
    now = black_76(forward=100.0, strike=100.0, rate=0.0, sd=0.5, expiry_y=0.0, is_call=True)
    assert (float(now.delta), float(now.vega)) == (0.5, 0.0)
    assert (float(now.gamma), float(now.theta)) == (math.inf, -math.inf)
    still = black_76(forward=100.0, strike=100.0, rate=0.0, sd=0.0, expiry_y=4.0, is_call=True)
    assert float(still.vega) == pytest.approx(100 * 2 / math.sqrt(2 * math.pi))
    assert float(still.theta) == 0.0


def test_arrays_broadcast() -> None:
    found = black_76(
        forward=np.array([[90.0], [110.0]]),
        strike=100.0,
        rate=0.02,
        sd=np.array([0.3, 0.4, 0.5]),
        expiry_y=0.5,
        is_call=np.array([True, False, True]),
    )
    assert {getattr(found, name).shape for name in NAMES} == {(2, 3)}
    one = black_76(forward=110.0, strike=100.0, rate=0.02, sd=0.4, expiry_y=0.5, is_call=False)
    assert [float(getattr(found, name)[1, 1]) for name in NAMES] == [
        float(getattr(one, name)) for name in NAMES
    ]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("spot", -1.0),
        ("strike", math.nan),
        ("rate", math.inf),
        ("dividend", math.nan),
        ("sd", -0.1),
        ("expiry_y", -1e-9),
    ],
)
def test_what_cannot_be_priced_is_refused_by_name(name: str, bad: float) -> None:
    with pytest.raises(BadInput, match=rf"^{name} must be finite.*, found {bad}"):
        black_scholes(**(GIVEN | {name: bad}), is_call=True)
    assert issubclass(BadInput, KeeperError)
    assert issubclass(BadInput, ValueError)


def test_a_coin_of_no_price_has_no_inverse_option() -> None:
    with pytest.raises(BadInput, match=r"^spot must be finite and above 0, found 0\.0"):
        in_coin(black_scholes(**GIVEN, is_call=True), spot=0.0)


# --- implied volatility ---------------------------------------------------------------------------


def test_a_price_gives_back_its_volatility() -> None:
    strikes, kinds = np.array([[60.0], [95.0], [100.0], [180.0]]), np.array([True, False])
    sds = np.array([[0.5], [0.3], [0.8], [1.2]])
    terms: dict[str, Any] = {"forward": 100.0, "strike": strikes, "rate": 0.05, "expiry_y": 0.25}
    priced = black_76(**terms, sd=sds, is_call=kinds).price
    found = implied_volatility(**terms, price=priced, is_call=kinds)
    assert found == pytest.approx(np.broadcast_to(sds, (4, 2)), rel=1e-9)


@pytest.mark.parametrize("worth", [9.9, 10.0, 110.0, 111.0])
def test_a_price_outside_the_bounds_has_no_volatility(worth: float) -> None:
    with pytest.raises(BadInput, match=r"must lie between 10\.0 and 110\.0"):
        implied_volatility(price=worth, forward=110.0, strike=100.0, rate=0.0, expiry_y=1.0, is_call=True)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "lets_be_rational":
            raise ModuleNotFoundError(name)
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install hybrid-keeper\[risk\]"):
        implied_volatility(price=5.0, forward=100.0, strike=100.0, rate=0.0, expiry_y=1.0, is_call=True)
