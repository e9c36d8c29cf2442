"""Sales over time: the published example, and what a solver finds; costs on top of a VaR or an ES."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize

from keeper.risk.liquidity import (
    DEPTH_LEFT,
    Unwinding,
    almgren_chriss,
    liquidity_adjusted_es,
    lvar_exogenous,
    most_by_pool,
    pool_cost,
    pool_move,
    sqrt_impact,
)

Floats = NDArray[np.float64]

PAPER: dict[str, Any] = {
    "quantity": 1e6,
    "n": 5,
    "horizon": 5.0,
    "sd": 0.95,
    "eta": 2.5e-6,
    "gamma": 2.5e-7,
    "epsilon": 0.0625,
}
"""Table 1 of Almgren and Chriss (2000): a million shares at 50 in five days."""


def unwinding(**changed: Any) -> Unwinding:
    return almgren_chriss(**{"risk_aversion": 1e-6, **PAPER, **changed})


@pytest.mark.parametrize(
    ("risk_aversion", "cost", "variance"),
    [
        (0.0, 662_500.0, 1.083e12),
        # As printed of it, in millions, by DROP's AlmgrenChriss sample (lakshmidrip.github.io/DROP).
        (1e-9, 0.6625e6, 1.0812e12),
        (5e-9, 0.6625e6, 1.0740e12),
        (9e-9, 0.6626e6, 1.0669e12),
    ],
)
def test_the_published_example_costs_what_it_is_published_to(
    risk_aversion: float, cost: float, variance: float
) -> None:
    found = unwinding(risk_aversion=risk_aversion)
    assert found.expected_cost == pytest.approx(cost, abs=51)
    assert found.variance == pytest.approx(variance, abs=0.51e8)


def test_the_published_example_decays_at_the_published_rate() -> None:
    # Section 3.1 has kappa = 0.61 a day: sinh of what is left of the five days, over sinh of all of them.
    held = unwinding().trajectory / 1e6
    kappa = math.acosh(1 + 1e-6 * 0.95**2 / (2.5e-6 - 1.25e-7) / 2)
    assert kappa == pytest.approx(0.61, abs=0.005)
    assert held == pytest.approx([math.sinh(kappa * (5 - t)) / math.sinh(kappa * 5) for t in range(6)])


@pytest.mark.parametrize(
    ("risk_aversion", "most", "trades"),
    [
        (1e-6, None, [458, 252, 142, 86, 62]),
        (2e-6, None, [571, 246, 107, 49, 28]),
        (2e-6, 3e5, [300, 300, 233, 106, 60]),
    ],
)
def test_the_page_shows_what_is_sold_day_by_day(
    risk_aversion: float, most: float | None, trades: list[float]
) -> None:
    found = unwinding(risk_aversion=risk_aversion, most=most)
    assert found.trades / 1_000 == pytest.approx(trades, abs=0.5)


@pytest.mark.parametrize("risk_aversion", [0.0, 1e-30, 1e-18])
def test_who_does_not_mind_risk_sells_evenly(risk_aversion: float) -> None:
    found = unwinding(risk_aversion=risk_aversion, n=50)
    assert found.trades == pytest.approx(np.full(50, 2e4))
    n = 50
    assert found.variance == pytest.approx(0.95**2 * 1e12 * 5 / 3 * (1 - 1 / n) * (1 - 1 / (2 * n)))


def test_who_minds_nothing_but_risk_sells_at_once() -> None:
    found = unwinding(risk_aversion=1e6, n=1_000)
    assert found.trades[0] == pytest.approx(1e6)
    assert np.isfinite(found.trajectory).all()
    assert found.variance == pytest.approx(0.0, abs=1e-3)


def test_buying_back_mirrors_selling() -> None:
    sold, bought = unwinding(), unwinding(quantity=-1e6)
    assert bought.trajectory == pytest.approx(-sold.trajectory)
    assert (bought.expected_cost, bought.variance) == (sold.expected_cost, sold.variance)


@given(
    n=st.integers(2, 12),
    aversion=st.floats(0.0, 1e-4),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_other_schedule_is_better(n: int, aversion: float, seed: int) -> None:
    best = unwinding(n=n, risk_aversion=aversion)
    trades = np.random.default_rng(seed).dirichlet(np.full(n, 2.0)) * 1e6
    mixed = 0.9 * best.trades + 0.1 * trades
    assert _objective(mixed, aversion) >= _objective(best.trades, aversion) * (1 - 1e-12)
    assert best.expected_cost + aversion * best.variance == pytest.approx(_objective(best.trades, aversion))
    assert best.feasible
    assert (best.trades > 0).all()


def _objective(trades: Any, aversion: float) -> float:
    tau = 5 / len(trades)
    held = 1e6 - np.cumsum(trades)
    slope = 2.5e-6 - 2.5e-7 * tau / 2
    cost = 2.5e-7 * 1e12 / 2 + 0.0625e6 + slope / tau * np.square(trades).sum()
    return float(cost + aversion * 0.95**2 * tau * np.square(held).sum())


@settings(max_examples=20, deadline=None)
@given(
    aversion=st.floats(0.0, 1e-5),
    caps=st.lists(st.floats(0.05e6, 0.6e6), min_size=6, max_size=6).filter(lambda caps: sum(caps) > 1.01e6),
)
def test_within_the_depth_of_every_step_a_solver_finds_nothing_better(
    aversion: float, caps: list[float]
) -> None:
    found = unwinding(n=6, risk_aversion=aversion, most=caps)
    assert found.feasible
    assert (found.trades <= np.array(caps) * (1 + 1e-9)).all()
    assert (found.trades >= -1e-6).all()
    scale = _objective(found.trades, aversion)

    def worse(part: Floats) -> float:
        return _objective(part * 1e6, aversion) / scale

    limits: dict[str, Any] = {
        "bounds": [(0, cap / 1e6) for cap in caps],
        "constraints": LinearConstraint(np.ones((1, 6)), 1.0, 1.0),
        "tol": 1e-12,
    }
    assert minimize(worse, np.array(caps) / sum(caps), **limits).fun == pytest.approx(1, rel=1e-5)


def test_a_depth_that_does_not_bind_changes_nothing() -> None:
    assert unwinding(most=1e6).trajectory == pytest.approx(unwinding().trajectory)


def test_what_the_depth_does_not_take_is_said_and_priced() -> None:
    found = unwinding(most=1e5)
    assert not found.feasible
    assert found.residual == 5e5
    assert found.trades == pytest.approx(np.full(5, 1e5))
    # 125,000 + 62,500 for good and for spreads; five trades of 1e5, and one of 5e5.
    assert found.expected_cost == pytest.approx(187_500 + 2.375e-6 * (5 * 1e10 + 25e10))
    assert found.variance == pytest.approx(0.95**2 * (0.81 + 0.64 + 0.49 + 0.36 + 0.25) * 1e12)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n": 0}, "n must be a whole number of at least 1, found 0"),
        ({"n": 2.5}, "n must be a whole number"),
        ({"quantity": math.nan}, "quantity must be finite"),
        ({"quantity": [1.0, 2.0]}, "quantity must be one number"),
        ({"horizon": 0.0}, "horizon must be above 0"),
        ({"sd": -0.1}, "sd must not be negative"),
        ({"eta": 0.0}, "eta must be above 0"),
        ({"gamma": -1e-7}, "gamma must not be negative"),
        ({"risk_aversion": -1e-6}, "risk_aversion must not be negative"),
        ({"eta": 1.25e-7}, "eta must be above gamma tau / 2"),
        ({"most": -1.0}, "most must not be negative"),
        ({"most": [1e6, 1e6]}, r"most must have the shape \[5\], found \[2\]"),
    ],
)
def test_a_sale_that_makes_no_sense_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unwinding(**changed)


@pytest.mark.parametrize(
    ("put_in", "reserve_in", "reserve_out", "out"),
    [
        (1, 5, 10, 1662497915624478906),
        (1, 10, 5, 453305446940074565),
        (2, 5, 10, 2851015155847869602),
        (2, 10, 5, 831248957812239453),
        (1, 10, 10, 906610893880149131),
        (1, 100, 100, 987158034397061298),
        (1, 1000, 1000, 996006981039903216),
    ],
)
def test_a_pool_gives_what_uniswaps_own_tests_expect(
    put_in: int, reserve_in: int, reserve_out: int, out: int
) -> None:
    # UniswapV2Pair.spec.ts, swapTestCases: amounts in tokens, what comes out in 1e-18 of one.
    worth = put_in * reserve_out / reserve_in
    cost = pool_cost(worth, reserve=float(reserve_out), fee=0.003)
    assert worth * (1 - float(cost)) * 1e18 == pytest.approx(out, rel=1e-12)


@given(share=st.floats(1e-6, 10.0), fee=st.floats(0.0, 0.3), reserve=st.floats(1.0, 1e12))
def test_the_largest_sale_into_a_pool_costs_what_is_allowed(share: float, fee: float, reserve: float) -> None:
    cost = pool_cost(share * reserve, reserve=reserve, fee=fee)
    assert most_by_pool(cost, reserve=reserve, fee=fee) == pytest.approx(share * reserve, rel=1e-6)
    assert fee <= cost < 1
    # A sale is paid for on the way, and moves the price to the end of it.
    assert pool_move(share * reserve, reserve=reserve) >= pool_cost(share * reserve, reserve=reserve)


def test_a_cost_below_the_fee_allows_nothing_and_the_whole_worth_allows_all() -> None:
    assert list(most_by_pool(np.array([0.0, 0.003, 1.0]), reserve=1e6, fee=0.003)) == [0.0, 0.0, math.inf]
    assert pool_cost(0.0, reserve=1.0) == 0
    with pytest.raises(ValueError, match="reserve must be above 0"):
        pool_cost(1.0, reserve=0.0)
    with pytest.raises(ValueError, match="fee must lie in"):
        pool_cost(1.0, reserve=1.0, fee=1.0)


def test_a_spread_adds_half_of_itself_to_a_var() -> None:
    # 100 with 2% a day at 1.65 deviations and a spread of 1%, which never changes: 3.30 and 0.50.
    var = 100 * 1.65 * 0.02
    assert lvar_exogenous(notional=100, var=var, spread_mean=0.01, spread_sd=0.0) == pytest.approx(3.80)
    wide = lvar_exogenous(notional=100, var=var, spread_mean=0.01, spread_sd=0.004, k=4.5)
    assert wide == pytest.approx(3.30 + 100 * (0.01 + 4.5 * 0.004) / 2)
    with pytest.raises(ValueError, match="spread_sd must not be negative"):
        lvar_exogenous(notional=100, var=var, spread_mean=0.01, spread_sd=-0.1)


def test_an_es_pays_for_the_market_that_is_left() -> None:
    market = {"volume_day": 1e8, "volatility_day": 0.04}
    usual = liquidity_adjusted_es(es=5e4, notional=1e6, **market)
    assert usual == pytest.approx(5e4 + 1e6 * 0.004)
    crash = liquidity_adjusted_es(es=5e4, notional=1e6, depth=DEPTH_LEFT["crash"], **market)
    assert crash - 5e4 == pytest.approx((usual - 5e4) * math.sqrt(10))
    assert sqrt_impact(1e12, **market) > 1
    assert liquidity_adjusted_es(es=0.0, notional=1e12, **market) == 1e12
    for depth in (0.0, 1.5):
        with pytest.raises(ValueError, match="depth must"):
            liquidity_adjusted_es(es=5e4, notional=1e6, depth=depth, **market)
