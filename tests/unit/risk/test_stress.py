"""Crashes that were, shocks that break a fund, and what liquidations do to the prices that caused them."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from keeper.risk.liquidity import sqrt_impact
from keeper.risk.stress import (
    CRASHES,
    HORIZONS_H,
    Books,
    Closing,
    bought_back,
    cascade,
    cliff,
    flow,
    historical,
    hypothetical,
    reverse,
    share_to_close,
)

Floats = NDArray[np.float64]


def test_every_crash_is_worse_the_longer_it_is_looked_at() -> None:
    assert len({(crash.name, crash.asset) for crash in CRASHES}) == len(CRASHES) == 23
    for crash in CRASHES:
        moves = [crash.worst[hours] for hours in HORIZONS_H]
        assert all(-1 < later <= sooner < 0 for sooner, later in pairwise(moves)), crash
        assert crash.volume > 1


def test_historical_moves_are_told_crash_by_crash() -> None:
    found = historical(["BTC", "ETH"], hours=24)
    assert next(iter(found)) == "2020-03-12 covid"
    assert list(found["2020-03-12 covid"]) == [-0.5064, -0.5329]
    assert len(found) == 8
    # Solana was not there yet.
    assert "2020-03-12 covid" not in historical(["BTC", "SOL"], hours=24)
    book = np.array([2e6, -1e6])
    assert min(float(moves @ book) for moves in found.values()) == pytest.approx(-0.5064 * 2e6 + 0.5329e6)


@pytest.mark.parametrize(
    ("assets", "hours", "words"),
    [
        (["BTC", "DOGE"], 24, "expected assets among BTC, ETH, SOL"),
        ([], 24, "expected assets among"),
        (["BTC"], 2, r"hours must be one of \(1, 4, 24, 72\), found 2"),
    ],
)
def test_what_no_crash_tells_is_refused(assets: list[str], hours: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        historical(assets, hours=hours)


def test_hypothetical_shocks_are_every_combination() -> None:
    assert hypothetical([-0.1, 0.0], [-0.2, 0.0, 0.2]).tolist() == [
        [-0.1, -0.2],
        [-0.1, 0.0],
        [-0.1, 0.2],
        [0.0, -0.2],
        [0.0, 0.0],
        [0.0, 0.2],
    ]
    for moves, words in (((), "one asset at least"), (([-1.5],), r"moves 0 must lie in"), (([],), "empty")):
        with pytest.raises(ValueError, match=words):
            hypothetical(*moves)


COVARIANCE = np.array([[0.0016, 0.0018], [0.0018, 0.0025]])


def test_the_likeliest_shock_that_breaks_a_book_is_known_by_hand() -> None:
    # w'Σw = 0.0016 + 4 * 0.0018 + 4 * 0.0025 = 0.0188 (in millions²), Σw = (0.0052, 0.0068).
    found = reverse([1e6, 2e6], COVARIANCE, 3e5)
    assert found.shock == pytest.approx([-0.3 * 0.0052 / 0.0188, -0.3 * 0.0068 / 0.0188])
    assert found.distance == pytest.approx(0.3 / math.sqrt(0.0188))
    assert found.probability == pytest.approx(0.0143, abs=5e-4)


@st.composite
def linear(draw: st.DrawFn) -> tuple[Floats, Floats, float]:
    assets = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    root = rng.normal(0, 0.05, (assets, assets)) + np.eye(assets) * 0.02
    return rng.normal(0, 1e6, assets), root @ root.T, draw(st.floats(1e3, 1e6))


@given(book=linear(), seed=st.integers(0, 2**32 - 1))
def test_no_shock_that_loses_as_much_is_likelier(book: tuple[Floats, Floats, float], seed: int) -> None:
    weights, covariance, loss = book
    found = reverse(weights, covariance, loss)
    assert float(found.shock @ weights) == pytest.approx(-loss, rel=1e-9)
    root = np.linalg.cholesky(covariance)
    assert np.linalg.norm(np.linalg.solve(root, found.shock)) == pytest.approx(found.distance, rel=1e-6)
    aside = np.random.default_rng(seed).normal(size=len(weights))
    aside -= weights * (aside @ weights) / (weights @ weights)
    other = found.shock + 0.1 * np.linalg.norm(found.shock) * aside
    assert np.linalg.norm(np.linalg.solve(root, other)) >= found.distance * (1 - 1e-6)


def test_a_solver_finds_the_same_shock() -> None:
    inverse = np.linalg.inv(COVARIANCE)

    def losing(first: float) -> Floats:
        """Of all shocks with x + 2 y = −0.3."""
        return np.array([first, -0.15 - first / 2])

    def unlikely(free: Floats) -> float:
        shock = losing(float(free[0]))
        return float(shock @ inverse @ shock)

    likeliest = losing(float(minimize(unlikely, np.array([-0.1])).x[0]))
    assert reverse([1e6, 2e6], COVARIANCE, 3e5).shock == pytest.approx(likeliest, rel=1e-4)


@pytest.mark.parametrize(
    ("weights", "covariance", "loss", "words"),
    [
        ([1, -1], [[1, 1], [1, 1]], 1, "a book without risk"),
        ([1, 1], [[1, 2], [2, 1]], 1, "positive semidefinite"),
        ([1, 1], [[1, 0.5], [0.2, 1]], 1, "symmetric"),
        ([1, 1], [[1]], 1, r"covariance must have the shape \[2, 2\]"),
        ([1], [[1]], 0, "loss must be above 0"),
        ([math.nan], [[1]], 1, "weights must be finite"),
    ],
)
def test_books_that_no_shock_can_break_are_refused(
    weights: list[float], covariance: list[list[float]], loss: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        reverse(weights, covariance, loss)


@pytest.mark.parametrize(
    ("equity", "required", "share"),
    [(60, 50, 0), (50, 50, 0), (20, 46, 26 / 46), (0, 45, 1), (-10, 45, 1), (5, 0, 0), (-5, 0, 1)],
)
def test_what_ends_a_breach_is_what_is_missing_over_what_is_required(
    equity: float, required: float, share: float
) -> None:
    assert share_to_close(equity, required) == pytest.approx(share)
    assert cliff(equity, required) == (share > 0)
    assert np.isnan(share_to_close(math.nan, required))


def books(*rows: tuple[float, float]) -> Books:
    """Accounts of cash and of one asset at 100, of which a twentieth is required."""
    cash, held = np.array(rows, float).T
    return Books(cash, held[:, None], np.array([100.0]), np.array([0.05]))


NEAR = (-900.0, 10.0)
"""E = 100 and M = 50 at a price of 100; at 92, 20 and 46; at 90, 0 and 45: all of it is closed."""


def test_the_flow_of_every_level_is_added_up_by_hand() -> None:
    found = flow(books(NEAR, (0.0, 10.0)), [0.0, 0.08, 0.10])
    assert found[:, 0] == pytest.approx([0.0, 26 / 46 * 920, 900.0])
    assert flow(books(NEAR), [0.08], closing=cliff)[0, 0] == pytest.approx(920.0)
    # Who is short buys back, which is not counted.
    assert flow(books((900.0, -10.0)), [0.0], closing=cliff)[0, 0] == 0
    with pytest.raises(ValueError, match="falls must lie in"):
        flow(books(NEAR), [1.5])


def test_who_is_short_buys_back_as_prices_rise() -> None:
    # E = 1,100 - 1,090 = 10 of 54.5 at 109; nothing is left of it at 110.
    short = books((1_100.0, -10.0), NEAR)
    back = bought_back(short, [0.0, -0.09, -0.10])
    assert back[:, 0] == pytest.approx([0.0, 44.5 / 54.5 * 1_090, 1_100])
    assert bought_back(short, [-0.09], closing=cliff)[0, 0] == pytest.approx(1_090)
    assert flow(short, [-0.09])[0, 0] == 0


RATES = st.sampled_from([0.0, 0.05, 0.3])


@given(
    seed=st.integers(0, 2**32 - 1),
    accounts=st.integers(1, 40),
    margins=st.tuples(RATES, RATES, RATES),
    closing=st.sampled_from([share_to_close, cliff]),
    shorts=st.booleans(),
    rising=st.booleans(),
)
def test_the_flow_of_compiled_loops_is_that_of_its_definition(
    seed: int, accounts: int, margins: tuple[float, ...], closing: Closing, shorts: bool, rising: bool
) -> None:
    dice = np.random.default_rng(seed)
    positions = dice.integers(-1 if shorts else 0, 3, (accounts, 3)) * dice.uniform(0, 10, (accounts, 3))
    prices = np.array([100.0, 7.0, 2_000.0])
    cash = -(positions @ prices) * dice.uniform(0.3, 1.1, accounts)
    many = Books(cash, positions, prices, np.array(margins))
    falls = dice.uniform(-1, 1, (12, 3))
    falls = np.sort(falls, axis=0) if rising else falls
    plain, loops = (flow(many, falls, closing=closing, compiled=each) for each in (False, True))
    assert loops == pytest.approx(plain, rel=1e-9, abs=1e-6)


def test_a_closing_of_ones_own_is_not_compiled() -> None:
    def half(equity: Floats, requirement: Floats, left: Floats) -> Floats:
        return cliff(equity, requirement, left) / 2

    assert flow(books(NEAR), [0.10], closing=half)[0, 0] == 450.0
    with pytest.raises(ValueError, match="only Books closed by share_to_close or cliff are compiled"):
        flow(books(NEAR), [0.10], closing=half, compiled=True)


def test_a_shock_that_liquidates_nobody_ends_there() -> None:
    found = cascade(books(NEAR), [0.01], lambda sold: sold / 1e4)
    assert (found.falls[0], found.sold[0], found.bad_debt, found.rounds) == (0.01, 0.0, 0.0, 1)
    assert found.amplification[0] == 1


def test_a_market_that_takes_everything_is_not_moved() -> None:
    found = cascade(books(NEAR), [0.08], lambda sold: sold * 0)
    assert found.falls[0] == 0.08
    assert found.sold[0] == pytest.approx(26 / 46 * 1_000)


def test_selling_that_moves_the_price_sells_more() -> None:
    found = cascade(books(NEAR), [0.08], lambda sold: sold / 1e5)
    fall, sold = float(found.falls[0]), float(found.sold[0])
    assert fall == pytest.approx(1 - 0.92 * (1 - sold / 1e5), abs=1e-8)
    equity, required = 100 - 1_000 * fall, 50 * (1 - fall)
    assert sold == pytest.approx(1_000 * (required - equity) / required, abs=1e-3)
    assert fall > 0.08


CROWD = [(-100.0 * 10 * (1 - 0.06 - 0.002 * place), 10.0) for place in range(100)]
"""A hundred longs that breach one after the other, from a fall of 1% on."""


@pytest.mark.parametrize("closing", [share_to_close, cliff])
def test_a_cascade_ends_at_a_fixed_point(closing: Closing) -> None:
    def impact(sold: Floats) -> Floats:
        return np.minimum(1.0, sqrt_impact(sold, volume_day=2e6, volatility_day=0.1))

    crowd = books(*CROWD)
    found = cascade(crowd, [0.05], impact, closing=closing)
    at = crowd.standing(found.falls)
    again = closing(at.equity, at.requirement, at.left) @ at.sold
    assert found.falls == pytest.approx(1 - 0.95 * (1 - impact(again)), abs=1e-6)
    assert found.sold == pytest.approx(again, rel=1e-5)


def test_a_slope_falls_less_than_a_cliff() -> None:
    """The example of docs/risk/stress.md."""
    found = {
        closing: cascade(
            books(*CROWD),
            [0.05],
            lambda sold: np.minimum(1.0, sqrt_impact(sold, volume_day=2e6, volatility_day=0.1)),
            closing=closing,
        )
        for closing in (share_to_close, cliff)
    }
    slope, all_of_it = found[share_to_close], found[cliff]
    assert slope.bad_debt <= all_of_it.bad_debt
    ends = [slope.falls[0], slope.sold[0], all_of_it.falls[0], all_of_it.sold[0]]
    assert ends == pytest.approx([0.0570, 10_795, 0.0604, 24_000], rel=1e-3)


@given(
    shock=st.floats(0.0, 0.3),
    depth=st.floats(1e4, 1e7),
    equities=st.lists(st.floats(0.06, 0.5), min_size=1, max_size=20),
)
def test_a_deeper_market_or_a_smaller_shock_never_falls_further(
    shock: float, depth: float, equities: list[float]
) -> None:
    crowd = books(*((-1_000 * (1 - equity), 10.0) for equity in equities))

    def fall(of: float, volume: float, closing: Closing = share_to_close) -> float:
        def impact(sold: Floats) -> Floats:
            return np.minimum(1.0, sold / volume)

        return float(cascade(crowd, [of], impact, closing=closing).falls[0])

    found = fall(shock, depth)
    assert found >= shock
    assert fall(shock, 2 * depth) <= found + 1e-6
    assert fall(shock / 2, depth) <= found + 1e-6
    assert fall(shock, depth, cliff) >= found - 1e-6


@pytest.mark.parametrize(
    ("shock", "impact", "words"),
    [
        ([1.5], 0.0, r"shock must lie in \[0, 1\]"),
        ([0.1, 0.1], 0.0, r"shock must have the shape \[1\]"),
        ([0.1], 2.0, r"impact must lie in \[0, 1\]"),
        ([0.1], math.nan, "impact must be finite"),
    ],
)
def test_cascades_that_make_no_sense_are_refused(shock: list[float], impact: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cascade(books(NEAR), shock, lambda sold: np.full(sold.shape, impact))


def test_books_whose_parts_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cash must have the shape \[2\], found \[1\]"):
        Books(np.zeros(1), np.zeros((2, 1)), np.ones(1), np.zeros(1))
    with pytest.raises(ValueError, match="spots must be above 0"):
        Books(np.zeros(1), np.zeros((1, 1)), np.zeros(1), np.zeros(1))
