"""What books may lose: the methods held against formulas and against a plain loop, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from keeper.domain import Kind
from keeper.errors import BadInput
from keeper.risk import at_risk as module
from keeper.risk import covariance, options, tail
from keeper.risk.at_risk import Method, Model, at_risk, cost_of_selling, time_to_sell_s
from keeper.risk.inputs import Floats
from keeper.risk.liquidity import sqrt_impact
from keeper.risk.margin import Book, Instrument
from keeper.risk.prices import DAY_S, Prices

SPOTS = {"BTC": 60e3, "ETH": 3e3}
PERPS = (Instrument("BTC-PERP", "BTC"), Instrument("ETH-PERP", "ETH"))
PUT = Instrument("PUT", "BTC", Kind.PUT, 50e3, 0.7, 30 / 365)
EXPOSURES = np.array([60e3, 2 * 3e3])


def made(n: int = 401, *, dof: float = 5.0) -> Prices:
    generator = np.random.default_rng(3)
    both = 0.02 * generator.standard_t(dof, (n, 1)) + 0.015 * generator.standard_normal((n, 2))
    return Prices(tuple(SPOTS), 1_704_067_200 + DAY_S * np.arange(n), 100 * np.exp(both.cumsum(axis=0)))


PRICES = made()


def worth(spot: Floats | float, days: float) -> Floats:
    """Return what the put is worth."""
    return options.price(spot=spot, strike=50e3, vol=0.7, years=days / 365, is_call=False)


def perps(*rows: tuple[float, float]) -> Book:
    return Book.of(PERPS, SPOTS, np.array(rows))


# --- of a linear book, by each method --------------------------------------------------------------


def losses(returns: Floats) -> Floats:
    """Return what a bitcoin and two ether lose."""
    return np.asarray(-np.expm1(returns) @ EXPOSURES)


def test_history_is_what_past_returns_would_make_of_the_book_of_now() -> None:
    found = at_risk(perps((1, 2)), PRICES, Model(Method.HISTORICAL))
    wanted = tail.historical(losses(PRICES.returns), 0.99)
    assert (found.whole.var, found.whole.es) == pytest.approx((wanted.var, wanted.es))
    assert found.whole.standard_error == pytest.approx(float(wanted.standard_error))
    parts = tail.historical_contributions(np.expm1(PRICES.returns), EXPOSURES, 0.99)
    assert found.whole_by_asset == pytest.approx(parts.component)


def test_filtered_history_is_that_at_the_volatility_of_now() -> None:
    found = at_risk(perps((1, 2)), PRICES, Model(Method.FILTERED, decay=0.9))
    wanted = tail.historical(losses(tail.filtered_returns(PRICES.returns, decay=0.9)), 0.99)
    assert found.whole.es == pytest.approx(float(wanted.es))


@pytest.mark.parametrize("dof", [None, 4.0])
def test_a_closed_form_takes_the_covariance_that_is_expected_now(dof: float | None) -> None:
    found = at_risk(perps((1, 2)), PRICES, Model(Method.PARAMETRIC, dof=dof))
    expected = covariance.ewma(np.expm1(PRICES.returns), decay=0.94)
    wanted = tail.parametric_contributions(EXPOSURES, expected, 0.99, dof=dof)
    assert found.whole.es == pytest.approx(wanted.es)
    assert found.whole_by_asset == pytest.approx(wanted.component)
    sd = np.sqrt(EXPOSURES @ expected @ EXPOSURES)
    assert found.whole.var == pytest.approx(float(tail.parametric(mean=0, sd=sd, level=0.99, dof=dof).var))


def test_of_moves_of_a_tenth_a_long_and_a_short_lose_what_is_found_by_hand() -> None:
    """Prices of 100 and 90, and of 100 and 110, in turns: simple returns of a tenth down, or up."""
    times = PRICES.times[:201]
    for moved, size, wanted in ((90.0, 1, 60e3 * 0.1), (110.0, -1, 60e3 * 0.1)):
        steps = np.where(np.arange(200) % 2, math.log(100 / moved), math.log(moved / 100))
        path = 100 * np.exp(np.concatenate([[0.0], steps.cumsum()]))
        prices = Prices(("BTC",), times, path[:, None])
        book = Book.of(PERPS[:1], {"BTC": 60e3}, [[size]])
        found = at_risk(book, prices, Model(Method.HISTORICAL, level=0.9))
        assert (found.whole.var, found.whole.es) == pytest.approx((wanted, wanted))
    # What moves by a tenth of itself up and down has a deviation of a tenth, long or short.
    even = 100 * np.cumprod(np.concatenate([[1.0], np.where(np.arange(200) % 2, 0.9, 1.1)]))
    for size in (1, -1):
        book, prices = Book.of(PERPS[:1], {"BTC": 60e3}, [[size]]), Prices(("BTC",), times, even[:, None])
        found = at_risk(book, prices, Model(Method.PARAMETRIC))
        assert found.whole.var == pytest.approx(60e3 * 0.1 * 2.3263478740408408)


@pytest.mark.parametrize("dof", [None, 4.0])
def test_what_is_drawn_is_what_the_closed_form_says_within_its_error(dof: float | None) -> None:
    """Of small moves: a fall of a tenth is less than a logarithm of a tenth."""
    calm = replace(PRICES, closes=PRICES.closes**0.01)
    drawn = at_risk(perps((1, 2)), calm, Model(Method.MONTE_CARLO, dof=dof))
    wanted = at_risk(perps((1, 2)), calm, Model(Method.PARAMETRIC, dof=dof))
    assert abs(drawn.whole.var - wanted.whole.var) < 4 * drawn.whole.standard_error
    assert drawn.whole_by_asset == pytest.approx(wanted.whole_by_asset, rel=0.05)


def test_an_expansion_is_by_the_moments_of_what_the_book_would_have_lost() -> None:
    heavy = made(dof=9.0)
    found = at_risk(perps((1, 2)), heavy, Model(Method.CORNISH_FISHER))
    wanted = tail.cornish_fisher_of(losses(heavy.returns), 0.99)
    assert (found.whole.var, found.whole.es) == pytest.approx((wanted.var, wanted.es))
    assert found.whole_by_asset.sum() == pytest.approx(float(wanted.es))
    assert found.whole_by_asset == pytest.approx(
        -np.expm1(heavy.returns).T
        * EXPOSURES[:, None]
        @ tail.cornish_fisher_weights(losses(heavy.returns), 0.99)
    )


# --- of options, coins and many accounts -----------------------------------------------------------


def test_options_are_priced_anew_in_every_scenario_a_step_later() -> None:
    found = at_risk(Book.of([PUT], {"BTC": 60e3}, [[-1.0]]), PRICES, Model(Method.HISTORICAL))
    moved = 60e3 * np.exp(PRICES.returns[:, 0])
    lost = worth(moved, 29) - worth(60e3, 30)
    assert found.whole.es == pytest.approx(float(tail.historical(lost, 0.99).es))
    by_delta = at_risk(Book.of([PUT], {"BTC": 60e3}, [[-1.0]]), PRICES, Model(Method.PARAMETRIC))
    delta = options.delta(spot=60e3, strike=50e3, vol=0.7, years=30 / 365, is_call=False)
    sd = 60e3 * abs(float(delta)) * np.sqrt(covariance.ewma(np.expm1(PRICES.returns[:, 0]), decay=0.94))
    assert by_delta.whole.var == pytest.approx(float(tail.parametric(mean=0, sd=sd, level=0.99).var))


def test_a_put_takes_away_what_it_protects_from() -> None:
    book = Book.of([PERPS[0], PUT], {"BTC": 60e3}, [[1, 0], [1, 1]])
    bare, protected = at_risk(book, PRICES, Model()).accounts.es
    assert protected < 0.97 * bare


def test_a_book_in_coin_loses_more_coin_in_a_fall() -> None:
    inverse = Instrument("INVERSE", "BTC", inverse=True)
    book = Book.of([inverse], {"BTC": 60e3}, [[60e3]], in_coin=True)
    found = at_risk(book, PRICES, Model(Method.HISTORICAL))
    moved = np.exp(PRICES.returns[:, 0])
    assert found.whole.es == pytest.approx(float(tail.historical(1 / moved - 1, 0.99).es))
    linear = at_risk(book, PRICES, Model(Method.PARAMETRIC))
    sd = np.sqrt(covariance.ewma(np.expm1(PRICES.returns[:, 0]), decay=0.94))
    assert linear.whole.es == pytest.approx(float(tail.parametric(mean=0, sd=sd, level=0.99).es))


def test_accounts_are_told_apart_and_added_up() -> None:
    found = at_risk(perps((1, 0), (0, 0), (-1, 0), (0, 5)), PRICES, Model(Method.HISTORICAL))
    alone = at_risk(perps((1, 0)), PRICES, Model(Method.HISTORICAL))
    assert found.accounts.es[0] == pytest.approx(float(alone.whole.es))
    assert (found.accounts.var[1], found.accounts.es[1]) == (0.0, 0.0)
    assert found.by_asset[3].tolist() == [0.0, pytest.approx(found.accounts.es[3])]
    assert found.whole.es == pytest.approx(found.accounts.es[3])
    assert found.whole_by_account == pytest.approx(
        [-found.whole_by_account[2], 0.0, found.whole_by_account[2], found.accounts.es[3]]
    )


@pytest.mark.parametrize("method", [Method.HISTORICAL, Method.CORNISH_FISHER])
def test_a_few_accounts_at_a_time_find_what_all_at_once_do(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, heavy = perps((1, 0), (0, 0), (-1, 3), (0, 5), (2, 2)), made(dof=9.0)
    whole = at_risk(book, heavy, Model(method))
    monkeypatch.setattr(module, "TILE", 2 * len(heavy.returns))
    found = at_risk(book, heavy, Model(method))
    for name in ("var", "es", "standard_error"):
        assert getattr(found.accounts, name).tolist() == getattr(whole.accounts, name).tolist()
    assert found.by_asset.tolist() == whole.by_asset.tolist()


# --- over several steps ----------------------------------------------------------------------------


def test_over_several_steps_returns_are_of_as_many_and_paths_are_of_single_ones() -> None:
    three = at_risk(perps((1, 2)), PRICES, Model(Method.HISTORICAL, level=0.9, steps=3))
    wanted = tail.historical(losses(PRICES.every(3).returns), 0.9)
    assert three.whole.es == pytest.approx(float(wanted.es))
    paths = at_risk(perps((1, 2)), PRICES, Model(Method.FILTERED, steps=3, paths=5_000, seed=7))
    drawn = tail.filtered_returns(PRICES.returns, steps=3, paths=5_000, seed=7)
    assert paths.whole.es == pytest.approx(float(tail.historical(losses(drawn), 0.99).es))


def test_an_option_loses_the_time_of_all_steps() -> None:
    still = replace(PRICES, closes=1 + 1e-9 * PRICES.closes)
    book = Book.of([PUT], {"BTC": 60e3}, [[1.0]])
    found = at_risk(book, still, Model(Method.HISTORICAL, level=0.9, steps=7))
    assert found.whole.var == pytest.approx(float(worth(60e3, 30) - worth(60e3, 23)), rel=1e-6)


# --- what selling costs, and how long it takes -----------------------------------------------------

VOLUMES = {"BTC": 1e6, "ETH": 1e5}


def test_selling_costs_the_root_of_its_size_asset_by_asset() -> None:
    costs, whole = cost_of_selling(perps((1, 0), (0, 0), (-1, 2)), VOLUMES, volatility=0.8, depth=0.5)
    day = 0.8 / 365**0.5
    btc = 60e3 * float(sqrt_impact(60e3, volume_day=5e5, volatility_day=day))
    eth = 6e3 * float(sqrt_impact(6e3, volume_day=5e4, volatility_day=day))
    assert costs == pytest.approx([btc, 0.0, btc + eth])
    # As one they hold no bitcoin.
    assert whole == pytest.approx(eth)


def test_selling_takes_until_the_slowest_is_sold() -> None:
    book = perps((1, 0), (1, 4))
    assert time_to_sell_s(book, VOLUMES, share=0.1) == pytest.approx(DAY_S * 1.2)
    assert time_to_sell_s(book, VOLUMES | {"ETH": 1e4}, share=0.1) == pytest.approx(DAY_S * 12)
    assert time_to_sell_s(perps((1, 0)), {"BTC": 1e6}, share=1.0) == pytest.approx(DAY_S * 0.06)


# --- the next of a series --------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(Method))
def test_a_series_is_forecast_as_a_book_of_its_own_is(method: Method) -> None:
    """Of small moves, whose logarithms are what they are."""
    calm = made(dof=9.0)
    calm = replace(calm, closes=calm.closes**1e-4)
    model = Model(method, paths=20_000)
    found = at_risk(Book.of(PERPS[:1], {"BTC": 1.0}, [[1.0]]), calm, model).whole
    wanted = model.forecast()(calm.returns[:, 0])
    assert (found.var, found.es) == pytest.approx((wanted.var, wanted.es), rel=1e-3)


# --- refused ---------------------------------------------------------------------------------------


def few(returns: int) -> Prices:
    prices = made(dof=9.0)
    return replace(prices, times=prices.times[: returns + 1], closes=prices.closes[: returns + 1])


@pytest.mark.parametrize(
    ("model", "least"),
    [
        (Model(Method.HISTORICAL), 100),
        (Model(Method.HISTORICAL, level=0.975), 40),
        (Model(Method.HISTORICAL, level=0.99, steps=3), 300),
        (Model(Method.CORNISH_FISHER), 100),
        (Model(Method.FILTERED), 112),
        (Model(Method.FILTERED, level=0.9), 49),
        (Model(Method.FILTERED, level=0.9, steps=3, paths=100), 49),
        (Model(Method.PARAMETRIC), 49),
        (Model(Method.PARAMETRIC, decay=0.97), 99),
        (Model(Method.MONTE_CARLO, paths=100), 49),
    ],
)
def test_too_few_returns_for_a_method_are_refused(model: Model, least: int) -> None:
    assert np.isfinite(at_risk(perps((1, 2)), few(least), model).whole.es)
    with pytest.raises(BadInput, match=rf"{model.method.value} at {100 * model.level:g}%: expected .* found"):
        at_risk(perps((1, 2)), few(least - 1), model)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Model(level=1.0), r"level must lie in \(0, 1\)"),
        (lambda: Model(decay=0.0), r"decay must lie in \(0, 1\)"),
        (lambda: Model(steps=0), "steps must be a whole number of at least 1"),
        (lambda: at_risk(Book.of(PERPS, SPOTS, np.zeros((0, 2))), PRICES, Model()), "found 0 and 2"),
        (
            lambda: at_risk(Book.of([], {}, np.zeros((3, 0))), PRICES, Model()),
            "found 3 and 0",
        ),
        (
            lambda: at_risk(Book.of(PERPS, SPOTS, [[1, 1]]), PRICES.of(["BTC"]), Model()),
            "expected prices of ETH, found BTC",
        ),
        (lambda: cost_of_selling(perps((1, 1)), {"BTC": 1.0}), "expected a day's volume of ETH, found BTC"),
        (lambda: cost_of_selling(perps((1, 1)), VOLUMES, depth=0.0), "depth must be above 0"),
        (lambda: cost_of_selling(perps((1, 1)), VOLUMES | {"BTC": -1.0}), "volume_day must be above 0"),
        (lambda: time_to_sell_s(perps((1, 1)), VOLUMES, share=1.1), r"share must lie in \[0, 1\]"),
        (lambda: time_to_sell_s(perps((1, 1)), {}, share=0.1), "a day's volume of BTC, ETH, found none"),
    ],
)
def test_what_has_no_answer_is_refused(ask: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask()
