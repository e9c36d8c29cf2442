"""The engine's public names, one by one: by hand with scalars and arrays, and what each refuses and why."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from keeper.errors import BadInput
from keeper.risk import contagion, covariance, liquidity, margin, options, scenarios, tail, tail_backtest

NAN, INF = math.nan, math.inf
ONES = np.eye(2)
SALE: dict[str, Any] = {
    "quantity": 1e6,
    "n": 5,
    "horizon": 5,
    "sd": 0.95,
    "eta": 2.5e-6,
    "gamma": 2.5e-7,
    "risk_aversion": 0.0,
}
STOCK: dict[str, Any] = {
    "spot": 42,
    "strike": 40,
    "rate": 0.1,
    "dividend": 0,
    "sd": 0.2,
    "expiry_y": 0.5,
    "is_call": True,
}
FUTURE: dict[str, Any] = {
    "forward": 20,
    "strike": 20,
    "rate": 0.09,
    "sd": 0.25,
    "expiry_y": 4 / 12,
    "is_call": False,
}
BOOK = margin.Book.of([margin.Instrument("PERP", "BTC")], {"BTC": 100.0}, [[1], [-2]])


def implied(**changed: Any) -> Any:
    given = {"price": 5, "forward": 100, "strike": 100, "rate": 0, "expiry_y": 0.5, "is_call": True}
    return options.implied_volatility(**{**given, **changed})


CALLS: list[tuple[str, Callable[[], Any], Any]] = [
    ("historical", lambda: tail.historical([3, 1, 2, 4], 0.75).es, 4.0),
    ("historical by column", lambda: tail.historical([[1, 2], [3, 4]], 0.5).var, [1, 2]),
    ("parametric", lambda: tail.parametric(mean=0, sd=1, level=0.99).var, 2.3263479),
    ("parametric of arrays", lambda: tail.parametric(mean=[0, 1], sd=2, level=0.5).var, [0, 1]),
    ("Student's t", lambda: tail.parametric(mean=0, sd=1, level=0.99, dof=[4, 4]).es, [3.6915105] * 2),
    (
        "cornish_fisher",
        lambda: tail.cornish_fisher(mean=0, sd=1, skew=[0, 0.5], excess_kurtosis=[0, 2], level=0.99).var,
        [2.3263479, 3.0674968],
    ),
    ("filtered_historical", lambda: tail.filtered_historical([1, -1, 1, -1], 0.5).var, 1.0),
    ("kupiec", lambda: tail_backtest.kupiec(exceptions=9, n=250, level=0.99).statistic, 10.2290306),
    (
        "kupiec of a sum",
        lambda: tail_backtest.kupiec(exceptions=np.int64(9), n=250.0, level=0.99).critical,
        3.8414588,
    ),
    (
        "christoffersen",
        lambda: tail_backtest.christoffersen([True, False, False, True], 0.9).transitions,
        [[1, 1], [1, 0]],
    ),
    (
        "traffic_light",
        lambda: tail_backtest.traffic_light(exceptions=4, n=250, level=0.99).cumulative,
        0.8921876,
    ),
    ("ewma", lambda: covariance.ewma([1, -2], decay=0.94), 0.94 + 0.06 * 4),
    ("ewma of assets", lambda: covariance.ewma([[1, 2], [0, 0]], decay=0.5), [[0.5, 1], [1, 2]]),
    ("ledoit_wolf", lambda: covariance.ledoit_wolf([[1, 0], [-1, 0]]).covariance, [[1, 0], [0, 0]]),
    (
        "stress_correlation",
        lambda: covariance.stress_correlation([[1, 0.2], [0.2, 1]], 0.5),
        [[1, 0.6], [0.6, 1]],
    ),
    ("black_scholes", lambda: options.black_scholes(**STOCK).price, 4.7594224),
    (
        "black_scholes of arrays",
        lambda: options.black_scholes(**{**STOCK, "is_call": [True, False]}).price,
        [4.7594224, 0.8085994],
    ),
    ("black_76", lambda: options.black_76(**FUTURE).price, 1.1166415),
    (
        "black_76 of arrays",
        lambda: options.black_76(**{**FUTURE, "rate": [0.0, 0.09]}).rho,
        [-0.3835494, -0.3722138],
    ),
    ("almgren_chriss", lambda: liquidity.almgren_chriss(**SALE).trades, [2e5] * 5),
    ("clearing_vector", lambda: contagion.clearing_vector([[0, 10], [0, 0]], [5, 0]), [5, 0]),
    ("debtrank", lambda: contagion.debtrank([[0, 10], [0, 0]], [5, 20], 0.1).levels, [0.1, 0.15]),
    ("grid", lambda: len(scenarios.grid("paradex24")), 24),
    ("scan", lambda: margin.scan(BOOK, scenarios.grid("tims10")).net, [15.0, 30.0]),
]


@pytest.mark.parametrize(("ask", "found"), [call[1:] for call in CALLS], ids=[call[0] for call in CALLS])
def test_a_public_name_takes_scalars_and_arrays(ask: Callable[[], Any], found: Any) -> None:
    assert np.asarray(ask()) == pytest.approx(np.asarray(found), rel=1e-6, abs=1e-12)


OFF: list[tuple[Callable[[], object], str]] = [
    *(
        (lambda level=level, name=name: name(level), words)
        for name in (
            lambda level: tail.historical([1.0, 2.0], level),
            lambda level: tail.parametric(mean=0, sd=1, level=level),
            lambda level: tail.cornish_fisher(mean=0, sd=1, skew=0, excess_kurtosis=0, level=level),
            lambda level: tail.filtered_historical([1.0, -1.0, 1.0], level),
            lambda level: tail_backtest.kupiec(exceptions=1, n=250, level=level),
            lambda level: tail_backtest.christoffersen([0, 1, 0], level),
            lambda level: tail_backtest.traffic_light(exceptions=1, n=250, level=level),
        )
        for level, words in (
            (99, r"level must lie in \(0, 1\), found 99.0"),
            (0, r"level must lie in \(0, 1\), found 0.0"),
            (1, r"level must lie in \(0, 1\), found 1.0"),
            (NAN, "level must be finite"),
            ("high", "level must be numbers"),
        )
    ),
    (lambda: tail.historical([1.0, INF], 0.9), "losses must be finite, found inf"),
    (lambda: tail.historical([], 0.9), "losses must not be empty"),
    (
        lambda: tail.parametric(mean=[0, 1, 2], sd=[1, 2], level=0.9),
        r"shapes must broadcast, found mean \[3\]",
    ),
    (lambda: tail.parametric(mean=0, sd=1, level=0.9, dof=NAN), "dof must be finite"),
    (
        lambda: tail.cornish_fisher(mean=0, sd=1, skew=3, excess_kurtosis=1, level=0.9),
        "domain of the expansion",
    ),
    (lambda: tail.filtered_historical([1.0, NAN], 0.9), "returns must be finite"),
    (lambda: tail.filtered_historical([1.0, -1.0], 0.9, decay=1), r"decay must lie in \(0, 1\)"),
    (
        lambda: tail_backtest.kupiec(exceptions=251, n=250, level=0.99),
        r"exceptions must be a whole number in \[0, 250\]",
    ),
    (lambda: tail_backtest.kupiec(exceptions=1.5, n=250, level=0.99), "exceptions must be a whole number"),
    (
        lambda: tail_backtest.traffic_light(exceptions=-1, n=250, level=0.99),
        "exceptions must be a whole number",
    ),
    (lambda: tail_backtest.christoffersen([0, 2], 0.9), "hits must be 2 or more, each 0 or 1"),
    (lambda: covariance.ewma([], decay=0.94), "returns must not be empty"),
    (lambda: covariance.ewma([1.0], decay=94), r"decay must lie in \(0, 1\), found 94.0"),
    (lambda: covariance.ledoit_wolf([1.0, 2.0]), "returns must have 2 dimensions"),
    (lambda: covariance.ledoit_wolf([[1.0, 2.0]]), "returns must be 2 or more"),
    (lambda: covariance.stress_correlation(ONES, 2), r"k must lie in \[0, 1\], found 2.0"),
    (lambda: covariance.stress_correlation(ONES, [0.1, 0.2]), "k must be one number"),  # type: ignore[arg-type]
    (
        lambda: covariance.stress_correlation([[1, 2], [2, 1]], 0.5),
        "correlation must be positive semidefinite",
    ),
    (
        lambda: options.black_scholes(**{**STOCK, "is_call": "put"}),
        "is_call must be true or false, found 'put'",
    ),
    (lambda: options.black_scholes(**{**STOCK, "is_call": -1}), "is_call must be true or false, found -1"),
    (lambda: options.black_scholes(**{**STOCK, "spot": "high"}), "spot must be numbers"),
    (
        lambda: options.black_scholes(**{**STOCK, "spot": [1, 2, 3], "strike": [1, 2]}),
        "shapes must broadcast",
    ),
    (
        lambda: options.black_scholes(**{**STOCK, "rate": -1e4}),
        r"exp\(-rate expiry_y\) must be finite, found inf",
    ),
    (lambda: options.black_scholes(**{**STOCK, "sd": INF}), "sd must be finite"),
    (
        lambda: options.black_76(**{**FUTURE, "expiry_y": -1}),
        "expiry_y must be finite and not negative, found -1",
    ),
    (lambda: implied(is_call="c"), "is_call must be true or false, found 'c'"),
    (lambda: implied(strike=[90, 100], price=[5, 6, 7]), r"shapes must broadcast, found price \[3\]"),
    (lambda: liquidity.almgren_chriss(**{**SALE, "n": 0}), "n must be a whole number of at least 1"),
    (lambda: liquidity.almgren_chriss(**{**SALE, "quantity": [1e6]}), "quantity must be one number"),
    (lambda: liquidity.almgren_chriss(**{**SALE, "gamma": 1.0}), "eta must be above gamma tau / 2"),
    (lambda: contagion.clearing_vector([[0, 10], [0, 0]], [5]), r"external_assets must have the shape \[2\]"),
    (lambda: contagion.clearing_vector([[1]], [5]), "nobody may owe itself"),
    (lambda: contagion.debtrank([[0, 1], [0, 0]], [5, 0], 0.1), "equity must be above 0"),
    (lambda: scenarios.grid("PARADEX"), "unknown grid 'PARADEX'; there are span16, paradex24"),
]


@pytest.mark.parametrize(("ask", "words"), OFF)
def test_odd_input_is_refused_by_its_name(ask: Callable[[], object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        ask()


def test_basels_table_of_exceptions_is_met() -> None:
    """BCBS 22, table 2: the probability of so many exceptions or fewer of 250 at 99%, in percent."""
    printed = [8.11, 28.58, 54.32, 75.81, 89.22, 95.88, 98.63, 99.60, 99.89, 99.97, 99.99]
    lights = [tail_backtest.traffic_light(exceptions=each, n=250, level=0.99) for each in range(11)]
    assert [round(100 * each.cumulative, 2) for each in lights] == printed
    assert [each.zone for each in lights] == ["green"] * 5 + ["yellow"] * 5 + ["red"]
