"""Golden vectors of the slope: our own in 60-digit arithmetic, and those of protocols that share it."""

import warnings
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from keeper.risk import slope
from keeper.units import WAD

BETA = 15 * WAD // 100
LAMBDA = 116468285312632
FLOOR = 869565217391304348

REQUIREMENT = 1000 * WAD
NOTIONAL = 20_000 * WAD

CLOSEABLE = {"equity_wad": 0, "requirement_wad": 0, "notional_wad": 0, "fee_wad": 0, "q_wad": 0}
FEE = {
    "since_confirmation_s": 0,
    "equity_wad": 0,
    "notional_wad": 0,
    "base_wad": 0,
    "max_wad": 0,
    "ramp_s": 1,
    "cap_wad": 0,
    "theta_wad": 0,
}


def fee_of(equity: int) -> int:
    return slope.fee_wad(
        since_confirmation_s=0,
        equity_wad=equity * WAD,
        notional_wad=NOTIONAL,
        base_wad=WAD // 100,
        max_wad=WAD // 100,
        ramp_s=300,
        cap_wad=WAD,
        theta_wad=WAD // 2,
    )


def closeable_of(equity: int, tau_s: int) -> int:
    return slope.closeable_fraction_wad(
        equity_wad=equity * WAD,
        requirement_wad=REQUIREMENT,
        notional_wad=NOTIONAL,
        fee_wad=fee_of(equity),
        q_wad=slope.decay_wad(tau_s, lambda_wad=LAMBDA, floor_wad=FLOOR),
    )


def rate_of(cut: str) -> int:
    """The lambda whose decay multiplies by `cut` each second, to the nearest 1e-18."""
    with localcontext(prec=60):
        return round(-Decimal(cut).ln() * WAD)


def test_lambda_and_floor_of_the_default_slope_are_the_published_ones() -> None:
    assert slope.lambda_wad(beta_wad=BETA, slope_s=1200) == LAMBDA
    assert slope.floor_wad(BETA) == FLOOR


def test_without_a_target_buffer_nothing_decays() -> None:
    assert slope.lambda_wad(beta_wad=0, slope_s=1200) == 0
    assert slope.floor_wad(0) == WAD
    assert slope.decay_wad(3600, lambda_wad=0, floor_wad=0) == WAD


@pytest.mark.parametrize(
    ("tau_s", "q", "f", "equity_after", "requirement_after"),
    [
        (0, 10**18, 125000000000000000, 875000000000000000000, 875000000000000000000),
        (1, 999883538496854805, 125127376060463190, 874974524787907362000, 874872623939536810000),
        (60, 993036262855595249, 132603350567999618, 873479329886400076400, 867396649432000382000),
        (300, 965662885400652594, 162236570000190435, 867552685999961913000, 837763429999809565000),
        (600, 932504808240313905, 197597864294186716, 860480427141162656800, 802402135705813284000),
        (900, 900485283775323769, 231202054052852784, 853759589189429443200, 768797945947147216000),
        (1199, 869666500059136515, 263054000300324847, 847389199939935030600, 736945999699675153000),
        (1200, 869565217391304607, 263157894736841839, 847368421052631632200, 736842105263158161000),
        (1201, 869565217391304348, 263157894736842105, 847368421052631579000, 736842105263157895000),
        (3600, 869565217391304348, 263157894736842105, 847368421052631579000, 736842105263157895000),
    ],
)
def test_the_slope_matches_its_60_digit_vectors(
    tau_s: int, q: int, f: int, equity_after: int, requirement_after: int
) -> None:
    assert slope.decay_wad(tau_s, lambda_wad=LAMBDA, floor_wad=FLOOR) == q
    assert fee_of(900) == WAD // 100
    assert closeable_of(900, tau_s) == f
    assert 900 * WAD - Fraction(fee_of(900) * f * NOTIONAL, WAD * WAD) == equity_after
    assert REQUIREMENT - Fraction(f * REQUIREMENT, WAD) == requirement_after


@pytest.mark.parametrize(
    ("tau_s", "health"),
    [
        (0, "1.000000"),
        (1, "1.000116"),
        (60, "1.007013"),
        (300, "1.035558"),
        (600, "1.072381"),
        (900, "1.110512"),
        (1199, "1.149866"),
        (1200, "1.150000"),
        (3600, "1.150000"),
    ],
)
def test_a_closing_restores_the_health_of_its_moment_on_the_slope(tau_s: int, health: str) -> None:
    f = Fraction(closeable_of(900, tau_s), WAD)
    equity = 900 * WAD - Fraction(fee_of(900), WAD) * f * NOTIONAL
    assert f"{float(equity / ((1 - f) * REQUIREMENT)):.6f}" == health


@pytest.mark.parametrize(
    ("equity", "fractions"),
    [
        pytest.param(990, ("0.012500", "0.094432", "0.168421"), id="barely in breach"),
        pytest.param(500, ("0.625000", "0.656113", "0.684211"), id="deep in breach"),
        pytest.param(150, ("0.918919", "0.924803", "0.930233"), id="fee capped by equity"),
        pytest.param(0, ("1.000000", "1.000000", "1.000000"), id="no equity"),
        pytest.param(-50, ("1.000000", "1.000000", "1.000000"), id="negative equity"),
        pytest.param(1100, ("0.000000", "0.000000", "0.052632"), id="closeable only once decayed"),
    ],
)
def test_the_slope_matches_its_edge_rows_at_start_middle_and_end(
    equity: int, fractions: tuple[str, str, str]
) -> None:
    assert tuple(f"{closeable_of(equity, tau_s) / WAD:.6f}" for tau_s in (0, 600, 1200)) == fractions


def test_a_thin_account_pays_a_fee_its_equity_can_bear() -> None:
    assert fee_of(150) == 375 * WAD // 100_000
    assert fee_of(0) == fee_of(-50) == 0


def test_without_notional_there_is_nothing_to_pay_for() -> None:
    assert slope.fee_wad(**(FEE | {"equity_wad": WAD, "max_wad": WAD, "base_wad": WAD, "cap_wad": WAD})) == 0


@pytest.mark.parametrize("q", [0, FLOOR, WAD])
def test_without_a_requirement_nothing_may_be_closed(q: int) -> None:
    for equity in (-WAD, 0, WAD):
        assert (
            slope.closeable_fraction_wad(
                equity_wad=equity, requirement_wad=0, notional_wad=WAD, fee_wad=WAD, q_wad=q
            )
            == 0
        )


@pytest.mark.parametrize(
    ("equity", "fee", "f"),
    [
        pytest.param(900, 0, WAD // 10, id="no fee"),
        pytest.param(200, WAD // 100, WAD, id="E = kappa N"),
        pytest.param(199, WAD // 100, WAD, id="E < kappa N"),
        pytest.param(999, WAD // 20, WAD, id="kappa N = M: denominator 0"),
        pytest.param(999, WAD // 10, WAD, id="kappa N > M: denominator below 0"),
        pytest.param(1000, WAD // 10, 0, id="at the requirement, whatever the fee"),
    ],
)
def test_where_the_fee_eats_what_a_slice_buys_the_whole_may_be_closed(equity: int, fee: int, f: int) -> None:
    assert (
        slope.closeable_fraction_wad(
            equity_wad=equity * WAD,
            requirement_wad=REQUIREMENT,
            notional_wad=NOTIONAL,
            fee_wad=fee,
            q_wad=WAD,
        )
        == f
    )


@pytest.mark.parametrize(
    ("since_s", "kappa"),
    # 0.5 % + 2.5 % (1 - exp(-t / 300)) in 50-digit arithmetic, rounded down.
    [
        (0, 5000000000000000),
        (1, 5083194598636916),
        (300, 20803013970713941),
        (900, 28755323290803401),
        (10**6, 29999999999999999),
    ],
)
def test_the_fee_climbs_from_its_base_towards_its_maximum(since_s: int, kappa: int) -> None:
    assert (
        slope.fee_wad(
            since_confirmation_s=since_s,
            equity_wad=NOTIONAL,
            notional_wad=NOTIONAL,
            base_wad=5 * WAD // 1000,
            max_wad=30 * WAD // 1000,
            ramp_s=300,
            cap_wad=WAD,
            theta_wad=WAD // 2,
        )
        == kappa
    )


@pytest.mark.parametrize(("tau_s", "top"), [(0, 4000), (900, 2000), (1800, 1000), (2700, 500), (3600, 250)])
def test_the_decay_agrees_with_makers_exponential_decrease(tau_s: int, top: int) -> None:
    # makerdao/dss src/test/abaci.t.sol:164-178, cut 0.999230132966 per second, within 0.001.
    q = slope.decay_wad(tau_s, lambda_wad=rate_of("0.999230132966"), floor_wad=0)
    assert 4000 * q / WAD == pytest.approx(top, abs=0.001)


def test_the_decay_agrees_with_makers_clipper_price_after_30_steps() -> None:
    # makerdao/dss src/test/clip.t.sol:1114-1122: 5 * 0.99^30, printed there to 15 digits;
    # 3698501866941402113 is what its rpow gives. lambda is rounded to 1e-18, which 30 s and the 5 multiply.
    q = slope.decay_wad(30, lambda_wad=rate_of("0.99"), floor_wad=0)
    assert 5 * q / WAD == pytest.approx(3.698501866941401, abs=2e-15)
    assert 5 * q == pytest.approx(3698501866941402113, abs=80)


def test_the_decay_agrees_with_liquitys_minute_decay_factor() -> None:
    # liquity/bold contracts/src/Dependencies/Constants.sol:62-63: (1/2)^(1/360), given to 16 digits; here tau
    # counts minutes.
    rate = rate_of("0.5") // 360
    assert slope.decay_wad(1, lambda_wad=rate, floor_wad=0) == pytest.approx(998076443575628800, abs=100)
    assert slope.decay_wad(360, lambda_wad=rate, floor_wad=0) == pytest.approx(WAD // 2, abs=360)


@pytest.mark.parametrize(
    ("minus_x", "rounded_down"),
    [
        (3 * WAD, 49787068367863942),
        (2 * WAD, 135335283236612691),
        (WAD, 367879441171442321),
        (5 * WAD // 10, 606530659712633423),
        (3 * WAD // 10, 740818220681717866),
    ],
)
def test_the_decay_is_one_wei_above_soladys_rounded_down_exponential(minus_x: int, rounded_down: int) -> None:
    # Vectorized/solady test/FixedPointMathLib.t.sol, testExpWad.
    assert slope.decay_wad(1, lambda_wad=minus_x, floor_wad=0) == rounded_down + 1


@pytest.mark.parametrize(("bid", "permille"), [(300, 318), (270, 341)])
def test_the_fraction_agrees_with_derives_solvent_auction(bid: int, permille: int) -> None:
    # derivexyz/v2-core test/auction/unit-tests/SolventAuction.t.sol, testStartSolventAuction and
    # testCanBidWithMaxPercentage: mark to market 300, buffer margin -140. The discount of the whole book is
    # what the fee is here.
    f = slope.closeable_fraction_wad(
        equity_wad=300 * WAD,
        requirement_wad=440 * WAD,
        notional_wad=(300 - bid) * WAD,
        fee_wad=WAD,
        q_wad=WAD,
    )
    assert f * 1000 // WAD == permille


def test_a_decay_too_small_to_see_still_rounds_up() -> None:
    assert slope.decay_wad(1, lambda_wad=41 * WAD, floor_wad=0) == 2
    assert slope.decay_wad(1, lambda_wad=42 * WAD, floor_wad=0) == 1
    assert slope.decay_wad(10**9, lambda_wad=10**30, floor_wad=0) == 1


def test_a_decay_just_below_one_rounds_up_to_one() -> None:
    assert slope.decay_wad(1, lambda_wad=1, floor_wad=0) == WAD
    assert slope.decay_wad(1, lambda_wad=2, floor_wad=0) == WAD - 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("requirement_wad", -1),
        ("notional_wad", -1),
        ("fee_wad", -1),
        ("fee_wad", WAD + 1),
        ("q_wad", -1),
        ("q_wad", WAD + 1),
    ],
)
def test_the_fraction_refuses_what_cannot_be(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must .* found {value}$"):
        slope.closeable_fraction_wad(**(CLOSEABLE | {name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("since_confirmation_s", -1),
        ("notional_wad", -1),
        ("base_wad", -1),
        ("base_wad", 1),
        ("max_wad", WAD + 1),
        ("ramp_s", 0),
        ("cap_wad", -1),
        ("theta_wad", -1),
        ("theta_wad", WAD + 1),
    ],
)
def test_the_fee_refuses_what_cannot_be(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must .* found {value}$"):
        slope.fee_wad(**(FEE | {name: value}))


def test_the_decay_and_its_parameters_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"^tau_s must be at least 0, found -1$"):
        slope.decay_wad(-1, lambda_wad=LAMBDA, floor_wad=FLOOR)
    with pytest.raises(ValueError, match=r"^lambda_wad must be at least 0, found -1$"):
        slope.decay_wad(1, lambda_wad=-1, floor_wad=FLOOR)
    with pytest.raises(ValueError, match=r"^floor_wad must lie in "):
        slope.decay_wad(1, lambda_wad=LAMBDA, floor_wad=WAD + 1)
    with pytest.raises(ValueError, match=r"^beta_wad must be at least 0, found -1$"):
        slope.lambda_wad(beta_wad=-1, slope_s=1200)
    with pytest.raises(ValueError, match=r"^slope_s must be at least 1, found 0$"):
        slope.lambda_wad(beta_wad=BETA, slope_s=0)
    with pytest.raises(ValueError, match=r"^beta_wad must be at least 0, found -1$"):
        slope.floor_wad(-1)


def test_the_array_twins_take_edge_rows_without_a_warning() -> None:
    equity = np.array([900.0, 1100.0, 0.0, -50.0, 0.0, -50.0, 50.0, 900.0, np.nan, np.inf])
    requirement = np.array([1000.0, 1000.0, 1000.0, 1000.0, 0.0, 0.0, 0.0, 1000.0, 1000.0, 1000.0])
    notional = np.array([20000.0, 20000.0, 20000.0, 20000.0, 0.0, 0.0, 0.0, 0.0, 20000.0, 20000.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q = slope.decay(np.array([0.0, 1e9]), rate_per_s=LAMBDA / WAD, floor=FLOOR / WAD)
        kappa = slope.fee(
            since_confirmation_s=0.0,
            equity=equity,
            notional=notional,
            base=0.01,
            most=0.03,
            ramp_s=300.0,
            cap=np.inf,
            theta=0.5,
        )
        f = slope.closeable_fraction(
            equity=equity, requirement=requirement, notional=notional, fee=kappa, q=1.0
        )
    assert q.tolist() == [1.0, FLOOR / WAD]
    assert kappa.tolist()[:8] == [0.01, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(f, [0.125, 0, 1, 1, 0, 0, 0, 0.1, np.nan, np.nan], rtol=0, atol=1e-15)


def test_the_array_fraction_is_whole_where_the_fee_eats_what_a_slice_buys() -> None:
    f = slope.closeable_fraction(
        equity=np.array([200.0, 199.0, 999.0, 999.0, 1000.0]),
        requirement=np.full(5, 1000.0),
        notional=np.full(5, 20_000.0),
        fee=np.array([0.01, 0.01, 0.05, 0.10, 0.10]),
        q=1.0,
    )
    assert f.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_decaying_raw_collateral_closes_a_whole_account_that_equity_decay_would_halve() -> None:
    # 2000 of collateral less a marked loss of 1300: equity 700 of 1000 required; q at its floor.
    book = {"requirement": np.array([1000.0]), "notional": np.array([20_000.0])}
    raw = slope.closeable_fraction_raw_collateral(
        collateral=np.array([2000.0]), other_equity=np.array([-1300.0]), fee=0.0, q=0.65, **book
    )
    equity = slope.closeable_fraction(equity=np.array([700.0]), fee=0.0, q=0.65, **book)
    assert raw.tolist() == [1.0]
    np.testing.assert_allclose(equity, [0.545], rtol=0, atol=1e-12)
