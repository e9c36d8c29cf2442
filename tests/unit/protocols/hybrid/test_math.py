"""The formulas of the slope and of margin, against published rows and the exact slope."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Holding, Leg, Valuation
from keeper.protocols.hybrid import math
from keeper.risk import slope as exact
from keeper.units import WAD
from tests.unit.protocols.hybrid.books import FLAT, PRICES, SLOPE, confirmed, setting, worked_example

KAPPA = WAD // 100
BREACHED = Valuation(900 * WAD, 1_000 * WAD, 20_000 * WAD)

# tau, q and f_max in 60-digit arithmetic: E = 900, M = 1000, N = 20000, kappa 1%, beta 15%, T_slope 1200 s.
TABLE = [
    (0, 1_000000000000000000, 125000000000000000),
    (1, 999883538496854805, 125127376060463190),
    (60, 993036262855595249, 132603350567999618),
    (300, 965662885400652594, 162236570000190435),
    (600, 932504808240313905, 197597864294186716),
    (900, 900485283775323769, 231202054052852784),
    (1199, 869666500059136515, 263054000300324847),
    (1200, 869565217391304607, 263157894736841839),
    (1201, 869565217391304348, 263157894736842105),
    (3600, 869565217391304348, 263157894736842105),
]
EDGES = [
    (990, (12_500_000, 94_432_000, 168_421_000)),
    (500, (625_000_000, 656_113_000, 684_211_000)),
    (150, (918_919_000, 924_803_000, 930_233_000)),
    (0, (10**9,) * 3),
    (-50, (10**9,) * 3),
    (1100, (0, 0, 52_632_000)),
]
"""E, and f_max at tau 0, 600 and 1200, in 1e-9, printed to six digits."""


@pytest.mark.parametrize(("tau_s", "q_wad", "f_wad"), TABLE)
def test_the_twin_follows_the_exact_slope_within_three_wei_of_q(tau_s: int, q_wad: int, f_wad: int) -> None:
    q = math.decay(SLOPE, tau_s)
    assert q_wad <= q <= q_wad + 3
    # 3 wei of q move f by 3 E / (M - q kappa N), and the roundings by one more.
    assert f_wad - 5 <= math.closeable(BREACHED, KAPPA, q) <= f_wad


@pytest.mark.parametrize("tau_s", [0, 1201, 3600])
def test_the_ends_of_the_slope_are_exact(tau_s: int) -> None:
    row = next(row for row in TABLE if row[0] == tau_s)
    q = math.decay(SLOPE, tau_s)
    assert (tau_s, q, math.closeable(BREACHED, KAPPA, q)) == row


@pytest.mark.parametrize(("equity", "expected"), EDGES)
def test_edge_rows_of_the_slope(equity: int, expected: Sequence[int]) -> None:
    m = Valuation(equity * WAD, 1_000 * WAD, 20_000 * WAD)
    kappa = min(KAPPA, math.fee_cap(SLOPE, m))
    fractions = [math.closeable(m, kappa, math.decay(SLOPE, tau_s)) for tau_s in (0, 600, 1200)]
    assert [round(f / 10**12) * 1000 for f in fractions] == list(expected)


def test_the_fee_of_a_poor_account_is_what_its_equity_allows() -> None:
    assert math.fee_cap(SLOPE, Valuation(150 * WAD, 1_000 * WAD, 20_000 * WAD)) == 375 * WAD // 100_000
    assert math.fee_cap(SLOPE, Valuation(0, 1, 1)) == 0
    assert math.fee_cap(SLOPE, Valuation(1, 0, 0)) == 2**64 - 1


def test_the_fee_grows_from_k0_to_k1_and_no_further_than_its_cap() -> None:
    assert math.fee(SLOPE, 0, WAD) == SLOPE.k0_wad
    assert math.fee(SLOPE, 300, WAD) == 5 * 10**15 + 25 * 10**15 * (WAD - 367_879_441_171_442_321 - 1) // WAD
    assert SLOPE.k1_wad - 1 <= math.fee(SLOPE, 10**6, WAD) <= SLOPE.k1_wad
    assert math.fee(SLOPE, 10**6, 7) == 7
    assert math.fee(FLAT, 123, WAD) == WAD // 100


@pytest.mark.parametrize(
    ("fast", "since_s", "expected"),
    [
        (100, 0, 100),
        (99, 0, 99),
        (98, 0, 99),
        (102, 0, 101),
        (98, 60, 98),
        (50, 60, 98),
        (50, 30, 98.5),
        (50, 10**6, 85),
        (200, 10**6, 115),
    ],
)
def test_the_execution_price_keeps_to_a_band_that_widens_with_time(
    fast: int, since_s: int, expected: float
) -> None:
    found = math.execution_price(fast * WAD, 100 * WAD, math.band_wad(SLOPE, since_s))
    assert found == int(expected * 10) * WAD // 10


def test_margin_of_the_worked_example() -> None:
    account = worked_example()
    assert math.maintenance(account, PRICES, setting()) == BREACHED
    initial = math.initial(account, PRICES, setting(), SLOPE.beta_wad)
    assert initial == Valuation(800 * WAD, 1_600 * WAD, 20_000 * WAD)


def test_a_profit_that_is_not_realised_counts_for_nothing_at_initial_margin() -> None:
    account = confirmed(cash_wad=WAD, legs=(Leg(1, WAD, -150 * WAD), Leg(3, -WAD, 2 * WAD)))
    assert math.maintenance(account, PRICES, setting()).equity_wad == (1 + 50 - 5) * WAD
    assert math.initial(account, PRICES, setting(), SLOPE.beta_wad).equity_wad == WAD


def test_initial_margin_reaches_at_least_to_the_end_of_the_accounts_slope() -> None:
    account = worked_example()
    for beta, percent in ((0, 8), (60, 8), (61, 8.05), (100, 10)):
        found = math.initial(account, PRICES, setting(), beta * WAD // 100)
        assert found.requirement_wad == int(percent * 200 * 100) * WAD // 100


def test_every_rounding_goes_against_the_account() -> None:
    odd = {"BTC/USD": 3, "ETH/USD": 1, "SYN/USD": 3}
    account = confirmed(cash_wad=0, legs=(Leg(1, 1, 0), Leg(2, -1, 0)), holdings=(Holding(1, WAD - 1),))
    found = math.maintenance(account, odd, setting())
    # 3e-18 of profit counts 0 and 1e-18 of loss counts 1 wei; each requirement at least 1 wei; collateral
    # worth 2 wei counts 1.
    assert found == Valuation(0 - 1 + 1, 2, 0)


wads = st.integers(min_value=0, max_value=10**27)
taus = st.integers(min_value=0, max_value=10_000)


@given(tau_s=taus)
def test_q_is_the_exact_decay_or_at_most_three_wei_more(tau_s: int) -> None:
    ideal = exact.decay_wad(tau_s, lambda_wad=SLOPE.lambda_wad, floor_wad=SLOPE.q_min_wad)
    assert ideal <= math.decay(SLOPE, tau_s) <= min(WAD, ideal + 3)


@given(equity=st.integers(-(10**27), 10**27), requirement=wads, notional=wads, tau_s=taus)
def test_f_max_is_the_exact_one_for_the_same_q(
    equity: int, requirement: int, notional: int, tau_s: int
) -> None:
    m = Valuation(equity, requirement, notional)
    q = math.decay(SLOPE, tau_s)
    kappa = math.fee(SLOPE, tau_s, math.fee_cap(SLOPE, m))
    found = math.closeable(m, kappa, q)
    assert 0 <= found <= WAD
    assert (found > 0) <= m.breaches_scaled(q)
    if equity > 0 and 0 < found < WAD:
        numerator = requirement * WAD - q * equity
        denominator = requirement * WAD - q * kappa * notional // WAD
        ideal = numerator * WAD // denominator
        # q E is rounded up by less than a wei, q kappa N down by less than three.
        assert ideal - 4 * WAD // (requirement // 2 + 1) - 2 <= found <= ideal + 1


@given(equity=st.integers(-(10**27), 10**27), q=st.integers(SLOPE.q_min_wad, WAD))
def test_decay_never_improves_a_negative_equity_and_is_the_domains_own(equity: int, q: int) -> None:
    scaled = math.scaled(equity, q)
    assert scaled <= equity or (equity > 0 and scaled <= equity + 1)
    for requirement in (scaled, scaled + 1):
        if requirement >= 0:
            assert Valuation(equity, requirement, 0).breaches_scaled(q) == (scaled < requirement)
