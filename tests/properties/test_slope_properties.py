"""What must hold of the slope for every account, in exact rational arithmetic."""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from keeper.risk import slope
from keeper.units import WAD

DOLLAR = WAD
RATES = st.integers(0, 10**16)
TIMES_S = st.integers(0, 10**5)
FRACTIONS = st.integers(0, WAD)
BETAS = st.integers(2 * WAD // 100, 150 * WAD // 100)


def exp_bounds(numerator: int, denominator: int) -> tuple[Fraction, Fraction]:
    """Bracket exp(-numerator / denominator), for arguments up to 64, by the Taylor series of its reciprocal.

    Every term is cut to 1e-120; 400 terms lose at most 400 * e^64 < 1e31 units of that, and what follows them
    is smaller still.
    """
    unit = 10**120
    term = total = unit
    for n in range(1, 400):
        term = term * numerator // (denominator * n)
        total += term
    return Fraction(unit, total + 10**32), Fraction(unit, total)


@dataclass(frozen=True)
class Book:
    """One account as exact rationals, so that slices lose nothing to rounding but what the slope rounds."""

    equity: Fraction
    requirement: Fraction
    notional: Fraction

    def closeable(self, *, fee: int, q: int) -> int:
        return slope.closeable_fraction_wad(
            equity_wad=round(self.equity),
            requirement_wad=round(self.requirement),
            notional_wad=round(self.notional),
            fee_wad=fee,
            q_wad=q,
        )

    def fee(self, *, since_s: int, cap: int, theta: int) -> int:
        return slope.fee_wad(
            since_confirmation_s=since_s,
            equity_wad=round(self.equity),
            notional_wad=round(self.notional),
            base_wad=5 * WAD // 1000,
            max_wad=30 * WAD // 1000,
            ramp_s=300,
            cap_wad=cap,
            theta_wad=theta,
        )

    def affordable(self, theta: int) -> int:
        return theta * max(round(self.equity), 0) // round(self.notional)

    def cost(self, *, fraction: int, fee: int) -> Fraction:
        return Fraction(fee, WAD) * Fraction(fraction, WAD) * self.notional

    def after(self, *, fraction: int, fee: int) -> "Book":
        left = 1 - Fraction(fraction, WAD)
        return Book(
            self.equity - self.cost(fraction=fraction, fee=fee), left * self.requirement, left * self.notional
        )

    def repriced(self, *, rise: Fraction, equity: Fraction) -> "Book":
        return Book(self.equity + equity, self.requirement * rise, self.notional * rise)


@st.composite
def books(draw: st.DrawFn) -> Book:
    """Books of 1000 to 1e9 dollars, maintenance 0.5 % to 20 % of notional, health from -0.5 to 1.5."""
    notional = draw(st.integers(1000 * DOLLAR, 10**9 * DOLLAR))
    requirement = notional * draw(st.integers(5, 200)) // 1000
    equity = requirement * draw(st.integers(-500, 1500)) // 1000 + draw(st.integers(-3, 3))
    return Book(Fraction(equity), Fraction(requirement), Fraction(notional))


@given(tau_s=TIMES_S, later_s=TIMES_S, rate=RATES, floor=FRACTIONS)
def test_decay_stays_between_its_floor_and_one_and_never_rises(
    tau_s: int, later_s: int, rate: int, floor: int
) -> None:
    early = slope.decay_wad(tau_s, lambda_wad=rate, floor_wad=floor)
    late = slope.decay_wad(tau_s + later_s, lambda_wad=rate, floor_wad=floor)
    assert floor <= late <= early <= WAD


@given(exponent=st.one_of(st.integers(0, 43 * WAD), st.integers(0, 1000), st.integers(0, WAD)))
def test_decay_is_the_least_integer_at_or_above_the_true_value(exponent: int) -> None:
    q = slope.decay_wad(1, lambda_wad=exponent, floor_wad=0)
    least, most = exp_bounds(exponent, WAD)
    if exponent == 0:
        assert q == WAD
    else:
        assert q - 1 < least * WAD
        assert most * WAD <= q


@given(beta=BETAS, slope_s=st.integers(300, 7200))
def test_the_decay_reaches_its_floor_just_after_the_slopes_length(beta: int, slope_s: int) -> None:
    rate = slope.lambda_wad(beta_wad=beta, slope_s=slope_s)
    floor = slope.floor_wad(beta)
    assert floor - 1 < Fraction(WAD * WAD, WAD + beta) <= floor
    assert slope.decay_wad(slope_s, lambda_wad=rate + 1, floor_wad=0) <= floor
    assert slope.decay_wad(slope_s, lambda_wad=rate, floor_wad=0) >= floor
    assert slope.decay_wad(slope_s + 1, lambda_wad=rate, floor_wad=floor) == floor


@given(
    equity=st.integers(-(10**30), 10**30),
    requirement=st.integers(0, 10**30),
    notional=st.integers(0, 10**32),
    fee=FRACTIONS,
    q=FRACTIONS,
)
def test_the_fraction_is_the_largest_that_does_not_overshoot_the_decayed_requirement(
    equity: int, requirement: int, notional: int, fee: int, q: int
) -> None:
    f = slope.closeable_fraction_wad(
        equity_wad=equity, requirement_wad=requirement, notional_wad=notional, fee_wad=fee, q_wad=q
    )
    counted = Fraction(q, WAD) * max(equity, 0)
    fees = Fraction(q, WAD) * Fraction(fee, WAD) * notional

    def overshoots(fraction: int) -> bool:
        share = Fraction(fraction, WAD)
        return counted - share * fees > (1 - share) * requirement

    assert 0 <= f <= WAD
    if counted >= requirement:
        assert f == 0
    elif f < WAD:
        assert not overshoots(f)
        assert overshoots(f + 1) or (f + 1 == WAD and counted == fees)
    else:
        assert not overshoots(WAD)


@given(book=books(), beta=BETAS, tau_s=TIMES_S, since_s=TIMES_S, theta=st.integers(0, 8 * WAD // 10))
def test_a_closing_never_lowers_health_and_never_lifts_it_above_the_target(
    book: Book, beta: int, tau_s: int, since_s: int, theta: int
) -> None:
    assume(book.equity > 0)
    rate = slope.lambda_wad(beta_wad=beta, slope_s=1200)
    q = slope.decay_wad(tau_s, lambda_wad=rate, floor_wad=slope.floor_wad(beta))
    fee = book.fee(since_s=since_s, cap=WAD, theta=theta)
    f = book.closeable(fee=fee, q=q)
    assume(0 < f < WAD)
    after = book.after(fraction=f, fee=fee)
    assert after.equity / after.requirement >= book.equity / book.requirement
    assert after.equity / after.requirement <= Fraction(WAD, q) <= 1 + Fraction(beta, WAD)


@given(
    book=books(),
    q=st.integers(4 * WAD // 10, WAD),
    since_s=st.integers(0, 2000),
    steps=st.lists(st.integers(WAD // 1000, WAD), min_size=1, max_size=12),
)
def test_slices_at_one_moment_close_what_one_closing_would_within_2_wei_each(
    book: Book, q: int, since_s: int, steps: list[int]
) -> None:
    assume(book.equity > 0)
    fee = book.fee(since_s=since_s, cap=WAD, theta=WAD // 2)
    at_once = book.closeable(fee=fee, q=q)
    assume(0 < at_once < WAD)

    sliced = book
    for step in [*steps, WAD]:
        sliced = sliced.after(fraction=min(step, sliced.closeable(fee=fee, q=q)), fee=fee)

    closed = WAD * (1 - sliced.notional / book.notional)
    assert abs(closed - at_once) <= 2 * (len(steps) + 1)


@given(
    book=books(),
    q=st.integers(4 * WAD // 10, WAD),
    since_s=st.integers(0, 2000),
    theta=st.integers(WAD // 100, 8 * WAD // 10),
    loss=st.integers(0, 900),
    steps=st.lists(st.integers(WAD // 1000, WAD), min_size=1, max_size=12),
)
def test_slicing_after_a_fall_pays_no_more_than_one_closing(
    *, book: Book, q: int, since_s: int, theta: int, loss: int, steps: list[int]
) -> None:
    assume(book.equity > 0)
    cap = book.affordable(theta)
    fallen = replace(book, equity=book.equity * (1000 - loss) / 1000)
    fee = fallen.fee(since_s=since_s, cap=cap, theta=theta)
    at_once = fallen.cost(fraction=fallen.closeable(fee=fee, q=q), fee=fee)

    paid = Fraction(0)
    for step in [*steps, WAD]:
        if fallen.notional < DOLLAR:
            break
        cap = min(cap, fallen.affordable(theta))
        fee = fallen.fee(since_s=since_s, cap=cap, theta=theta)
        fraction = min(step, fallen.closeable(fee=fee, q=q))
        paid += fallen.cost(fraction=fraction, fee=fee)
        fallen = fallen.after(fraction=fraction, fee=fee)

    # One wei of every fraction may round the other way: at most that share of the notional, per slice.
    assert paid <= at_once + 2 * (len(steps) + 1) * (book.notional / WAD + 1)


@given(
    book=books(),
    theta=st.integers(WAD // 100, 8 * WAD // 10),
    tranches=st.lists(
        st.tuples(
            st.integers(4 * WAD // 10, WAD),
            st.integers(900, 1100),
            st.integers(-200, 200),
            st.integers(WAD // 100, WAD),
        ),
        min_size=1,
        max_size=20,
    ),
)
def test_the_fees_of_an_episode_stay_below_theta_of_equity_at_confirmation(
    book: Book, theta: int, tranches: list[tuple[int, int, int, int]]
) -> None:
    """The bound rises with the notional's own price; the next test shows that it must."""
    assume(book.equity > 0)
    budget = Fraction(theta, WAD) * book.equity
    cap = book.affordable(theta)
    price = highest = Fraction(1)
    paid = Fraction(0)
    for since_s, (q, rise_permille, gain_permille, step) in enumerate(tranches):
        rise = Fraction(rise_permille, 1000)
        price, highest = price * rise, max(highest, price * rise)
        book = book.repriced(rise=rise, equity=book.requirement * gain_permille / 1000)
        if book.notional < DOLLAR:
            break
        cap = min(cap, book.affordable(theta))
        fee = book.fee(since_s=60 * since_s, cap=cap, theta=theta)
        fraction = min(step, book.closeable(fee=fee, q=q))
        paid += book.cost(fraction=fraction, fee=fee)
        book = book.after(fraction=fraction, fee=fee)
    assert paid <= budget * highest


def test_a_short_sliced_through_a_long_squeeze_pays_a_little_more_than_theta_of_its_equity() -> None:
    """After each slice the price rises until equity is 4.5 % of notional again, as on confirmation."""
    share, theta = Fraction(45, 1000), WAD // 2
    book = Book(share * 10**6 * DOLLAR, Fraction(50_000 * DOLLAR), Fraction(10**6 * DOLLAR))
    budget = book.equity / 2
    cap = book.affordable(theta)
    price, paid = Fraction(1), Fraction(0)
    for _ in range(40):
        cap = min(cap, book.affordable(theta))
        fee = book.fee(since_s=3600, cap=cap, theta=theta)
        fraction = book.closeable(fee=fee, q=WAD)
        paid += book.cost(fraction=fraction, fee=fee)
        book = book.after(fraction=fraction, fee=fee)
        rise = round((1 + book.equity / book.notional) / (1 + share), 30)
        book = book.repriced(rise=rise, equity=(1 - rise) * book.notional)
        price *= rise
    assert budget * Fraction(102, 100) < paid < budget * Fraction(103, 100)
    assert price > Fraction(102, 100)


@given(tau_s=TIMES_S, rate=RATES, floor=FRACTIONS)
def test_the_array_decay_equals_the_exact_one_within_1e_15(tau_s: int, rate: int, floor: int) -> None:
    exact = slope.decay_wad(tau_s, lambda_wad=rate, floor_wad=floor) / WAD
    array = slope.decay(np.array([float(tau_s)]), rate_per_s=rate / WAD, floor=floor / WAD)
    np.testing.assert_allclose(array, [exact], rtol=0, atol=1e-15)


@given(
    rows=st.lists(st.tuples(books(), FRACTIONS, st.integers(0, 2000)), min_size=1, max_size=8),
    cap=FRACTIONS,
    theta=st.integers(0, WAD // 2),
)
def test_the_array_fee_and_fraction_equal_the_exact_ones(
    rows: list[tuple[Book, int, int]], cap: int, theta: int
) -> None:
    equity = np.array([float(book.equity / WAD) for book, _, _ in rows])
    requirement = np.array([float(book.requirement / WAD) for book, _, _ in rows])
    notional = np.array([float(book.notional / WAD) for book, _, _ in rows])
    q = np.array([q / WAD for _, q, _ in rows])
    fee = slope.fee(
        since_confirmation_s=np.array([float(since_s) for _, _, since_s in rows]),
        equity=equity,
        notional=notional,
        base=0.005,
        most=0.03,
        ramp_s=300.0,
        cap=cap / WAD,
        theta=theta / WAD,
    )
    fraction = slope.closeable_fraction(
        equity=equity, requirement=requirement, notional=notional, fee=fee, q=q
    )
    fee_exact = [book.fee(since_s=since_s, cap=cap, theta=theta) for book, _, since_s in rows]
    fraction_exact = [
        book.closeable(fee=kappa, q=q) for (book, q, _), kappa in zip(rows, fee_exact, strict=True)
    ]
    np.testing.assert_allclose(fee, np.array(fee_exact, dtype=float) / WAD, rtol=0, atol=1e-15)
    np.testing.assert_allclose(fraction, np.array(fraction_exact, dtype=float) / WAD, rtol=0, atol=1e-14)


@given(book=books(), other=st.integers(-2000, 0), q=st.integers(1, 1000), fee=st.integers(0, 30))
def test_decaying_raw_collateral_never_closes_less_where_other_equity_is_negative(
    book: Book, other: int, q: int, fee: int
) -> None:
    requirement = np.array([float(book.requirement / WAD)])
    notional = np.array([float(book.notional / WAD)])
    equity = np.array([float(book.equity / WAD)])
    kappa = np.minimum(fee / 1000, 0.5 * np.maximum(equity, 0.0) / notional)
    other_equity = requirement * other / 1000
    collateral = equity - other_equity
    assume(collateral[0] >= 0)

    def both(q: float) -> tuple[float, float]:
        raw = slope.closeable_fraction_raw_collateral(
            collateral=collateral,
            other_equity=other_equity,
            requirement=requirement,
            notional=notional,
            fee=kappa,
            q=q,
        )
        decayed = slope.closeable_fraction(
            equity=equity, requirement=requirement, notional=notional, fee=kappa, q=q
        )
        return float(raw[0]), float(decayed[0])

    raw, decayed = both(q / 1000)
    assert raw >= decayed - 1e-9
    raw, decayed = both(1.0)
    assert abs(raw - decayed) <= 1e-9
