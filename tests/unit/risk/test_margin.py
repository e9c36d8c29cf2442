"""Grids, risk arrays and margins: venue tables, books small enough to reckon by hand, and large ones."""

import math
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from scipy.sparse import coo_array

from keeper.domain import Kind
from keeper.errors import BadInput
from keeper.risk import options, scenarios
from keeper.risk.grids import PRESETS, Grid, Mode
from keeper.risk.margin import AddOns, Book, Instrument, revalued, risk_arrays, scan
from keeper.risk.scenarios import VolShocks, array_of, on_chain
from keeper.units import WAD

PERP = Instrument("PERP", "BTC")
FUTURE = Instrument("FUTURE", "BTC", expiry_y=0.25)
CALL = Instrument("CALL", "BTC", Kind.CALL, 60e3, 0.6, 30 / 365)
PUT = Instrument("PUT", "BTC", Kind.PUT, 60e3, 0.6, 30 / 365)
ETH = Instrument("ETH", "ETH")
ALL = (PERP, FUTURE, CALL, PUT, ETH)
SPOTS = {"BTC": 60e3, "ETH": 3e3}
PARADEX = scenarios.grid("paradex24")
NOW_S = 1_700_000_000


def book(*rows: list[float], instruments: tuple[Instrument, ...] = ALL, in_coin: bool = False) -> Book:
    spots = {name: SPOTS[name] for name in dict.fromkeys(each.underlying for each in instruments)}
    return Book.of(instruments, spots, np.array(rows), in_coin=in_coin)


# --- books ----------------------------------------------------------------------------------------


def test_of_some_underlyings_all_accounts_keep_what_they_hold() -> None:
    whole = book([1, 0, 2, 0, 5], [0, 0, 0, 0, 7], [0, -3, 0, 0, 0])
    part = whole.of_underlyings({"BTC"})
    assert (whole.held, part.held, book([0, 0, 0, 0, 7]).held) == (("BTC", "ETH"), ("BTC",), ("ETH",))
    assert (part.accounts, part.instruments, dict(part.spots)) == (3, ALL[:4], {"BTC": 60e3})
    assert part.account.tolist() == [0, 2]
    assert part.legs.toarray().tolist() == [[1, 0, 2, 0], [0, -3, 0, 0]]
    assert whole.of_underlyings(SPOTS).legs.toarray().tolist() == whole.legs.toarray().tolist()


def test_underlyings_may_move_apart() -> None:
    moves = np.array([[0.1, -0.1], [0.1, -0.1], [0.1, -0.1], [0.1, -0.1], [0.5, 0.0]])
    gains = revalued(book([1, 1, 1, 1, 1]), moves)
    together = revalued(book([1, 1, 1, 1, 1]), moves[0])
    assert gains[:4].tolist() == together[:4].tolist()
    assert gains[4].tolist() == [1_500, 0]
    assert gains[0].tolist() == pytest.approx([6_000, -6_000])


# --- grids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "moves", "mode"),
    [
        ("span16", 16, (-0.45, 0.45), Mode.ABSOLUTE),
        ("paradex24", 24, (-0.66, 5.0), Mode.RELATIVE),
        ("deribit", 35, (-0.66, 5.0), Mode.RELATIVE),
        ("derive_pm1", 23, (-0.20, 0.20), Mode.RELATIVE),
        ("derive_pm2", 31, (-0.66, 5.0), Mode.RELATIVE),
        ("okx", 23, (-0.24, 0.24), Mode.ABSOLUTE),
        ("tims10", 10, (-0.15, 0.15), Mode.RELATIVE),
    ],
)
def test_a_preset_is_its_venues_table(name: str, size: int, moves: tuple[float, float], mode: Mode) -> None:
    found = scenarios.grid(name)
    assert (len(found), found.mode) == (size, mode)
    assert (found.moves.min(), found.moves.max()) == pytest.approx(moves)
    assert found.source


def test_paradexs_24_rows_are_in_its_order() -> None:
    assert PARADEX.rows[:4] == ((0.16, 0.4, 1.0), (0.12, 0.4, 1.0), (0.12, -0.22, 1.0), (0.08, 0.4, 1.0))
    assert PARADEX.rows[15:18] == ((-0.16, 0.4, 1.0), (-0.66, 0.4, 0.24), (-0.33, 0.4, 0.48))
    assert PARADEX.label(17) == "#18 spot -33%, volatility +40%, 0.48 of it"


def test_an_unknown_grid_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        BadInput, match=r"^unknown grid 'span'; there are span16, paradex24, deribit, .*tims10$"
    ):
        scenarios.grid("span")


@pytest.mark.parametrize(
    ("days", "scale"), [(30.0, 1.0), (7.5, 4**0.30), (0.1, 30**0.30), (120.0, 4**-0.13), (29.999, 1.0)]
)
def test_relative_shocks_grow_as_an_option_gets_short_down_to_a_day(days: float, scale: float) -> None:
    found = PARADEX.vols(0.5, days)
    assert found[:3] == pytest.approx([0.5 * (1 + 0.4 * scale)] * 2 + [0.5 * (1 - 0.22 * scale)], rel=1e-4)


def test_absolute_shocks_are_points_and_no_volatility_falls_below_0() -> None:
    assert scenarios.grid("okx").vols(np.array([0.8, 0.1]), 7.0)[:, :3] == pytest.approx(
        np.array([[1.1, 0.8, 0.5], [0.4, 0.1, 0.0]])
    )


def test_volatility_that_rises_reaches_deribits_floor() -> None:
    found = scenarios.grid("deribit").vols(0.2, 30.0)
    assert found[:3] == pytest.approx([0.5, 0.2, 0.15])


@pytest.mark.parametrize("bad", [-0.1, math.nan])
def test_a_volatility_that_cannot_be_is_refused(bad: float) -> None:
    with pytest.raises(BadInput, match=r"^vol must be"):
        PARADEX.vols(bad, 30.0)


@pytest.mark.parametrize(
    "rows", [(), ((0.1, 0.0),), ((-1.1, 0.0, 1.0),), ((0.1, 0.0, -1.0),), ((math.nan, 0, 1),)]
)
def test_a_table_that_is_no_grid_is_refused(rows: tuple[tuple[float, float, float], ...]) -> None:
    with pytest.raises(BadInput, match=r"^grid mine: "):
        Grid("mine", "", rows)


@pytest.mark.parametrize("power", [0.0, 0.3])
@pytest.mark.parametrize("mmr", [0.05, 0.4])
def test_on_chain_the_16_scenarios_are_those_of_the_signed_arrays(mmr: float, power: float) -> None:
    shocks = VolShocks(up=0.4, down=0.2, power=power)
    option = scenarios.Option(1, Kind.PUT, 55_000 * WAD, NOW_S + 7 * 86_400)
    signed = array_of(option, spot=60e3, vol=0.6, mmr=mmr, now_s=NOW_S, shocks=shocks)
    put = Instrument("PUT", "BTC", Kind.PUT, 55e3, 0.6, 7 / 365)
    found = risk_arrays(book([1.0], instruments=(put,)), on_chain(mmr=mmr, shocks=shocks))
    assert found[0] == pytest.approx(np.array(signed.pnl) * scenarios.WEIGHTS, abs=1e-8)


# --- risk arrays ----------------------------------------------------------------------------------


def test_a_unit_gains_what_it_is_worth_in_a_scenario_less_its_mark() -> None:
    found = risk_arrays(book([0.0] * 5), PARADEX)
    assert found[0] == pytest.approx(60e3 * PARADEX.moves * PARADEX.weights)
    terms = {"strike": 60e3, "years": 30 / 365, "is_call": True}
    now = float(options.price(spot=60e3, vol=0.6, **terms))  # type: ignore[arg-type]
    then = float(options.price(spot=69_600.0, vol=0.84, **terms))  # type: ignore[arg-type]
    assert found[2, 0] == pytest.approx(then - now)


def test_time_that_passes_is_taken_from_an_option() -> None:
    still = Grid("still", "", ((0.0, 0.0, 1.0),), roll_days=1.0)
    found = risk_arrays(book([0.0] * 5), still)[2, 0]
    prices = [options.price(spot=60e3, strike=60e3, vol=0.6, years=d / 365, is_call=True) for d in (29, 30)]
    assert found == pytest.approx(float(prices[0] - prices[1]))
    assert found < 0


def test_in_coin_a_fall_costs_an_inverse_perp_more_than_a_rise_brings() -> None:
    inverse = replace(PERP, inverse=True)
    grid = Grid("both", "", ((-0.16, 0.0, 1.0), (0.16, 0.0, 1.0)))
    down, up = risk_arrays(book([1.0], instruments=(inverse,), in_coin=True), grid)[0] * 60e3
    assert (down, up) == pytest.approx((1 - 1 / 0.84, 1 - 1 / 1.16))
    assert -down / up == pytest.approx(1.38, abs=0.005)
    in_quote = risk_arrays(book([1.0], instruments=(inverse,)), grid)[0]
    assert in_quote == pytest.approx([-0.16, 0.16])


def test_an_inverse_option_gains_in_coin_what_its_price_in_coin_does() -> None:
    inverse = replace(CALL, inverse=True)
    grid = Grid("one", "", ((0.1, 0.2, 1.0),))
    terms = {"strike": 60e3, "years": 30 / 365, "is_call": True}
    now = float(options.price(spot=60e3, vol=0.6, **terms)) / 60e3  # type: ignore[arg-type]
    then = float(options.price(spot=66e3, vol=0.72, **terms)) / 66e3  # type: ignore[arg-type]
    found = risk_arrays(book([1.0], instruments=(inverse,), in_coin=True), grid)[0, 0]
    assert found == pytest.approx(then - now, rel=1e-12)


# --- scans ----------------------------------------------------------------------------------------


def test_a_perp_requires_its_range_and_underlyings_add_up() -> None:
    found = scan(book([1.0, 0, 0, 0, 0], [0, 0, 0, 0, -2.0], [-1.0, 0, 0, 0, 2.0], [0.0] * 5), PARADEX)
    assert found.net == pytest.approx([9_600, 960, 10_560, 0])
    assert found.initial == pytest.approx(found.net)
    assert found.maintenance == pytest.approx(found.net / 2)


def test_venues_take_initial_and_maintenance_margin_as_they_say() -> None:
    held = book([1.0, 0, 0, 0, 0])
    by_grid = {name: scan(held, scenarios.grid(name)) for name in PRESETS}
    assert by_grid["derive_pm1"].initial == pytest.approx(15_000.0)
    assert by_grid["derive_pm1"].maintenance == pytest.approx(12_000.0)
    assert by_grid["deribit"].maintenance == pytest.approx(0.8 * by_grid["deribit"].initial)
    assert by_grid["tims10"].initial == pytest.approx(9_000.0)


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_perfect_hedge_requires_nothing_before_add_ons(name: str) -> None:
    # The future is the spot's; a call bought, a put sold and a perp sold are nothing at all.
    found = scan(book([2.0, -2.0, 0, 0, 0], [-1.0, 0, 1.0, -1.0, 0]), scenarios.grid(name))
    assert found.net == pytest.approx([0.0, 0.0], abs=1e-9)
    assert (found.gross > 10_000).all()


def test_equal_instruments_of_one_account_net_in_a_sparse_book() -> None:
    held = coo_array(([1.5, -1.5], ([0, 0], [0, 0])), shape=(1, 5))
    found = scan(Book.of(ALL, SPOTS, held), PARADEX)
    assert (found.net.tolist(), found.gross.tolist()) == ([0.0], [0.0])


def test_net_against_gross_and_what_each_leg_adds() -> None:
    held = book([1.0, 0, -1.0, 0, 1.0])
    found = scan(held, PARADEX)
    assert found.loss.tolist() == [-(found.risk[0] - found.risk[2]).min(), 480.0]
    assert found.gross[0] == pytest.approx(9_600 + found.risk[2].max() + 480)
    legs = dict(zip(held.legs.indices.tolist(), found.contributions.tolist(), strict=True))
    assert legs[0] > 0 > legs[2]
    assert held.by_row(found.contributions) == pytest.approx(found.loss)


def test_where_no_scenario_costs_anything_no_leg_adds_to_it() -> None:
    """A conversion, whose gains cancel to the last bits and perhaps not in them."""
    for name in PRESETS:
        found = scan(book([0.7, 0, -0.7, 0.7, 0]), scenarios.grid(name))
        assert found.net[0] <= 1e-9
        assert found.contributions.tolist() == [0.0, 0.0, 0.0]


def test_the_volume_of_what_is_not_in_the_book_is_refused() -> None:
    with pytest.raises(BadInput, match="volume_day names DOGE, of which there is no spot"):
        scan(book([1, 0, 0, 0, 0]), PARADEX, add_ons=AddOns(volume_day={"DOGE": 1e6}))


def test_the_compiled_loop_finds_the_same_to_the_bit() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.normal(size=(500, 5)) * (rng.random((500, 5)) < 0.6)
    plain, loops = (scan(book(*sizes.tolist()), PARADEX, compiled=each) for each in (False, True))
    assert plain.loss.tolist() == loops.loss.tolist()
    assert plain.worst.tolist() == loops.worst.tolist()


# --- add-ons --------------------------------------------------------------------------------------


def test_add_ons_charge_what_they_say() -> None:
    asked = AddOns(
        short_option=0.01,
        basis_year=0.08,
        basis_least=0.01,
        concentration=0.1,
        concentration_above=50_000.0,
        volume_day={"BTC": 1e9},
        volatility=0.5,
    )
    found = scan(book([-2.0, 2.0, 0, 0, 0], [1.0, 0, 0, 0, 0], [0, 0, 0, -3.0, 0]), PARADEX, add_ons=asked)
    charges = found.charges
    assert charges["short_option"] == pytest.approx([0.0, 0.0, 1_800.0])
    assert charges["basis"][:2] == pytest.approx([120_000 * 0.02, 0.0])
    assert charges["concentration"][:2] == pytest.approx([0.0, 1_000.0])
    impact = 60_000 * (0.5 / math.sqrt(365)) * math.sqrt(60_000 / 1e9)
    assert charges["liquidity"][:2] == pytest.approx([0.0, impact])
    assert found.initial == pytest.approx(found.net + sum(charges.values()))
    assert found.maintenance == pytest.approx(found.net / 2 + sum(charges.values()))


def test_the_least_by_delta_counts_where_scenarios_ask_for_less() -> None:
    asked = AddOns(net_delta=0.02, hedged_delta=0.01)
    found = scan(book([-2.0, 2.0, 0, 0, 0], [1.0, 0, 0, 0, 0], [-1.0, 3.0, 0, 0, 0]), PARADEX, add_ons=asked)
    assert found.floor == pytest.approx([1_200.0, 1_200.0, 0.02 * 120_000 + 600.0])
    assert found.initial == pytest.approx([1_200.0, 9_600.0, 19_200.0])


def test_a_book_in_coin_is_charged_in_coin() -> None:
    grid = Grid("one", "", ((-0.16, 0.0, 1.0),))
    asked = AddOns(short_option=0.01)
    inverse = replace(CALL, inverse=True)
    found = scan(book([-2.0], instruments=(inverse,), in_coin=True), grid, add_ons=asked)
    assert found.charges["short_option"] == pytest.approx([0.02])


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positions", "spots", "words"),
    [
        ([[1.0, 2.0]], SPOTS, r"positions must be \[accounts, 5\], found \(1, 2\)"),
        ([[math.nan, 0, 0, 0, 0]], SPOTS, "positions must be finite"),
        ([[0.0] * 5], {"BTC": 60e3}, "there is no spot of ETH"),
        ([[0.0] * 5], {"BTC": 60e3, "ETH": 0.0}, "the spot of ETH must be finite and above 0, found 0"),
    ],
)
def test_a_book_that_cannot_be_is_refused(
    positions: list[list[float]], spots: dict[str, float], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        Book.of(ALL, spots, positions)


def test_two_coins_do_not_add_up() -> None:
    for instruments in (ALL, (PERP,)):
        with pytest.raises(BadInput, match="one underlying only, found BTC, ETH"):
            Book.of(instruments, SPOTS, [[0.0] * len(instruments)], in_coin=True)


def test_a_coin_that_is_worth_nothing_has_no_margin() -> None:
    with pytest.raises(BadInput, match="no value at a spot of 0"):
        scan(book([1.0], instruments=(PERP,), in_coin=True), on_chain(mmr=0.4))


@pytest.mark.parametrize("bad", [{"vol": -0.1}, {"strike": math.nan}, {"expiry_y": -1.0}, {"strike": 0.0}])
def test_an_option_that_cannot_be_is_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=r"^CALL: "):
        replace(CALL, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"short_option": -0.1}, {"volume_day": {"BTC": math.inf}}])
def test_an_add_on_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=f"^{next(iter(bad))} must be finite and not negative"):
        AddOns(**bad)  # type: ignore[arg-type]


def test_no_account_and_no_leg_is_no_margin() -> None:
    assert scan(book([0.0] * 5), PARADEX, add_ons=AddOns(short_option=0.01)).initial.tolist() == [0.0]
    assert list(combinations_with_replacement(scan(book([0.0] * 5), PARADEX).contributions, 2)) == []


def test_deribits_published_example_is_met_to_its_digits() -> None:
    """The response example of private/pme/simulate: a perpetual bought, a future of 11 days sold, in coin."""
    spot, held = 65_666.19, (0.314538364, -0.001187534)
    listed = (
        Instrument("BTC-PERPETUAL", "BTC", inverse=True),
        Instrument("BTC-28JUN24", "BTC", expiry_y=11 / 365, inverse=True),
    )
    both = Book.of(listed, {"BTC": spot}, [[size * spot for size in held]], in_coin=True)
    asked = AddOns(basis_year=0.075, basis_least=0.01, basis_perp=0.01)
    found = scan(both, scenarios.grid("deribit"), add_ons=asked)
    perp, future = found.risk * np.array(held)[:, None] * spot
    # From -16% to +16% in steps of 4%, three volatilities each; then the eight far moves.
    down, up = [0.05991206933333334, 0.04289159509090909], [0.033700538999999995, 0.043384601931034494]
    assert perp[[24, 21, 3, 0]] == pytest.approx([-down[0], -down[1], up[0], up[1]], rel=1e-12)
    assert perp[27:] == pytest.approx([-down[0]] * 2 + [0.04338460193103449] * 6, rel=1e-12)
    assert future[[24, 0]] == pytest.approx([0.0002261969523809524, -0.00016379779310344832], rel=1e-12)
    assert found.net[0] == pytest.approx(0.05968587238095239, rel=1e-12)
    assert found.charges["basis"][0] == pytest.approx(0.00315725898, rel=1e-9)
    # Of these two the example itself has but eight digits: they are not its sum of the others to the last.
    assert found.initial[0] == pytest.approx(0.06284313098, rel=1e-8)
    assert found.maintenance[0] == pytest.approx(0.050274504784, rel=1e-8)


def test_paradexs_published_example_is_met() -> None:
    """A perp bought, five calls of delta 0.3 sold, at 70,000; net 0.5 and hedged 1.0: 1,400."""
    call = Instrument("CALL", "BTC", Kind.CALL, 80_000.0, 0.5, 30 / 365)
    spots = {"BTC": 70_000.0}
    delta = float(Book.of([call], spots, [[1.0]]).columns.deltas[0]) / 70_000.0
    hedged = Book.of([Instrument("PERP", "BTC"), call], spots, [[1.0, -5 * 0.3 / delta]])
    found = scan(hedged, PARADEX, add_ons=AddOns(net_delta=0.02, hedged_delta=0.01))
    assert found.floor == pytest.approx([1_400.0])
