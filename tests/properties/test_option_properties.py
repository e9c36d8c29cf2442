"""What must hold of every option, of every array of one, and of every book of them."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Kind
from keeper.risk import options
from keeper.risk.scenarios import (
    SPAN,
    Group,
    Option,
    OptionLeg,
    PackedArray,
    VolShocks,
    array_of,
    losses,
    mark_at,
    max_loss,
    pack,
    requirement,
)
from keeper.units import WAD

NOW_S = 1_700_000_000
DAY_S = 86_400
SHORT_MIN = 0.01

KINDS = st.sampled_from([Kind.CALL, Kind.PUT])
CALLS = st.booleans()
SPOTS = st.floats(1e-4, 1e7)
MONEYNESS = st.one_of(st.floats(0.5, 2.0), st.floats(1e-3, 1e3), st.just(1.0))
VOLS = st.one_of(st.floats(0.01, 3.0), st.just(0.0), st.floats(1e-9, 50.0))
YEARS = st.one_of(st.floats(0.0, 2.0), st.floats(0.0, 1e-6))
MMRS_WAD = st.one_of(st.integers(WAD // 100, 30 * WAD // 100), st.integers(0, WAD))
SIZES = st.floats(-100.0, 100.0)
SHOCKS = st.builds(VolShocks, up=st.floats(0, 1), down=st.floats(0, 1), power=st.floats(0, 0.5))


@dataclass(frozen=True)
class Terms:
    """One option's terms in floats."""

    spot: float
    strike: float
    vol: float
    years: float

    def price(self, *, is_call: bool) -> float:
        return float(options.price(**vars(self), is_call=is_call))

    def delta(self, *, is_call: bool) -> float:
        return float(options.delta(**vars(self), is_call=is_call))

    @property
    def rounding(self) -> float:
        """A few roundings of the largest number that enters."""
        return 8e-16 * max(self.spot, self.strike)


@st.composite
def terms(draw: st.DrawFn) -> Terms:
    spot = draw(SPOTS)
    return Terms(spot, spot * draw(MONEYNESS), draw(VOLS), draw(YEARS))


@dataclass(frozen=True)
class World:
    """An option and everything that its array is computed from."""

    option: Option
    spot: float
    vol: float
    mmr_wad: int
    shocks: VolShocks

    def packed(self, *later_mmrs_wad: int) -> PackedArray:
        array = array_of(
            self.option,
            spot=self.spot,
            vol=self.vol,
            mmr=self.mmr_wad / WAD,
            now_s=NOW_S,
            shocks=self.shocks,
        )
        return pack(self.option, array, mmrs_wad=[self.mmr_wad, *later_mmrs_wad])


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Underlyings of 0.0001 to ten million, strikes to the wei, from a year before expiry until then."""
    spot = draw(SPOTS)
    strike_wad = max(int(spot * draw(MONEYNESS) * WAD), 10**10)
    left_s = draw(st.one_of(st.integers(0, 365 * DAY_S), st.integers(0, 600)))
    option = Option(1, draw(KINDS), strike_wad, NOW_S + left_s)
    return World(option, spot, draw(VOLS), draw(MMRS_WAD), draw(SHOCKS))


def accepted(option: Option, packed: PackedArray, mmr_wad: int, *, slack_e8: int) -> bool:
    """Check an array as the contract does, in WAD, with a slack in units of 1e-8."""

    def inside(value_e8: int, price_wad: int) -> bool:
        call = option.kind is Kind.CALL
        payoff = max(price_wad - option.strike_wad if call else option.strike_wad - price_wad, 0)
        most = price_wad if call else option.strike_wad
        return payoff - slack_e8 * 10**10 <= value_e8 * 10**10 <= most + slack_e8 * 10**10

    ref_wad = packed.ref_e8 * 10**10
    thirds = [0, 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 9, -9]
    moved = [max(ref_wad + ref_wad * mmr_wad * each // (3 * WAD), 0) for each in thirds]
    values = [packed.mark_e8 + pnl for pnl in packed.pnl_e8]
    least, most = (0, 10**9) if option.kind is Kind.CALL else (-(10**9), 0)
    return (
        inside(packed.mark_e8, ref_wad)
        and all(inside(value, price_wad) for value, price_wad in zip(values, moved, strict=True))
        and least <= packed.delta_e9 <= most
    )


def fits(packed: PackedArray) -> bool:
    """Tell whether every field fits the contract's integers."""
    unsigned = 0 < packed.ref_e8 < 2**64 and 0 <= packed.mark_e8 < 2**64
    signed = all(-(2**63) <= pnl < 2**63 for pnl in packed.pnl_e8)
    return unsigned and signed and len(packed.pnl_e8) == len(SPAN)


# --- the formula ----------------------------------------------------------------------------------


@given(given_terms=terms(), is_call=CALLS)
def test_a_price_lies_between_the_payoff_and_the_most_an_option_can_be_worth(
    given_terms: Terms, is_call: bool
) -> None:
    worth = given_terms.price(is_call=is_call)
    payoff = float(options.payoff(spot=given_terms.spot, strike=given_terms.strike, is_call=is_call))
    most = given_terms.spot if is_call else given_terms.strike
    assert payoff <= worth <= most + given_terms.rounding
    slope = given_terms.delta(is_call=is_call)
    assert (0 <= slope <= 1) if is_call else (-1 <= slope <= 0)


@given(given_terms=terms())
def test_a_call_less_its_put_is_the_underlying_less_the_strike(given_terms: Terms) -> None:
    call, put = (given_terms.price(is_call=kind) for kind in (True, False))
    assert abs((call - put) - (given_terms.spot - given_terms.strike)) <= given_terms.rounding
    slopes = given_terms.delta(is_call=True) - given_terms.delta(is_call=False)
    assert abs(slopes - 1) <= 4e-16


@given(given_terms=terms(), is_call=CALLS, more=st.floats(1.0, 10.0))
def test_a_price_never_falls_with_volatility_or_time(given_terms: Terms, is_call: bool, more: float) -> None:
    worth = given_terms.price(is_call=is_call) - given_terms.rounding
    assert replace(given_terms, vol=given_terms.vol * more).price(is_call=is_call) >= worth
    assert replace(given_terms, years=given_terms.years * more).price(is_call=is_call) >= worth


@given(given_terms=terms(), is_call=CALLS, more=st.floats(1.0, 3.0))
def test_a_price_moves_with_the_underlying_by_no_less_and_no_more_than_its_deltas(
    given_terms: Terms, is_call: bool, more: float
) -> None:
    higher = replace(given_terms, spot=given_terms.spot * more)
    change = higher.price(is_call=is_call) - given_terms.price(is_call=is_call)
    step = higher.spot - given_terms.spot
    slack = 4 * higher.rounding
    assert given_terms.delta(is_call=is_call) * step - slack <= change
    assert change <= higher.delta(is_call=is_call) * step + slack


@given(given_terms=terms(), is_call=CALLS, power=st.integers(-20, 20), factor=st.floats(0.01, 100.0))
def test_a_price_scales_with_the_underlying_and_the_strike(
    given_terms: Terms, is_call: bool, power: int, factor: float
) -> None:
    def scaled(by: float) -> Terms:
        return replace(given_terms, spot=given_terms.spot * by, strike=given_terms.strike * by)

    by_two, by_any = scaled(2.0**power), scaled(factor)
    assert by_two.price(is_call=is_call) == given_terms.price(is_call=is_call) * 2.0**power
    gap = by_any.price(is_call=is_call) - given_terms.price(is_call=is_call) * factor
    assert abs(gap) <= 4 * by_any.rounding


# --- arrays ---------------------------------------------------------------------------------------


@given(world=worlds())
def test_every_array_lies_inside_the_contracts_bounds(world: World) -> None:
    packed = world.packed()
    assert fits(packed)
    assert accepted(world.option, packed, world.mmr_wad, slack_e8=1)


@given(world=worlds(), change=st.integers(-(10**14), 10**14), share=st.fractions(0, 1))
def test_while_a_margin_ramps_the_contract_takes_an_array_at_any_moment(
    world: World, change: int, share: Fraction
) -> None:
    """Ranges up to 0.01% of the price apart, as a ramp of a day moves within minutes."""
    later_wad = max(world.mmr_wad + change, 0)
    drift = Fraction(9 * abs(later_wad - world.mmr_wad), 3 * WAD) * Fraction(world.spot)
    strike = Fraction(world.option.strike_wad, WAD)
    packed = world.packed(later_wad)
    between_wad = world.mmr_wad + int((later_wad - world.mmr_wad) * share)
    # A call with almost no strike is the underlying itself: no one value suits two prices of that.
    if world.option.kind is Kind.PUT or strike > drift + Fraction(2, 10**8):
        for mmr_wad in (world.mmr_wad, between_wad, later_wad):
            assert accepted(world.option, packed, mmr_wad, slack_e8=2)


@given(world=worlds())
def test_packing_only_rounds(world: World) -> None:
    array = array_of(
        world.option,
        spot=world.spot,
        vol=world.vol,
        mmr=world.mmr_wad / WAD,
        now_s=NOW_S,
        shocks=world.shocks,
    )
    packed = world.packed()
    # The reference price itself is rounded, and moves every value by as much: up to fourfold in the extreme.
    unit = 3.5e-8 + 1e-14 * max(world.spot, world.option.strike)
    assert abs(packed.ref_e8 / 1e8 - array.spot) <= unit
    assert abs(packed.mark_e8 / 1e8 - array.mark) <= unit
    assert abs(packed.delta_e9 / 1e9 - array.delta) <= 1e-9
    for got, expected in zip(packed.pnl_e8, array.pnl, strict=True):
        assert abs(got / 1e8 - expected) <= 2 * unit


@given(world=worlds())
def test_in_arrays_a_call_rises_and_a_put_falls_with_the_underlying(world: World) -> None:
    """Values with volatility up (even places) and down (odd places), ordered by the underlying's move."""
    packed = world.packed()
    sign = 1 if world.option.kind is Kind.CALL else -1
    slack = 2 + int(1e-6 * max(world.spot, world.option.strike))
    for first in (0, 1):
        ordered = sorted(range(first, 14, 2), key=lambda index: SPAN[index].move)
        changes = [sign * packed.pnl_e8[index] for index in ordered]
        assert all(late - early >= -slack for early, late in pairwise(changes))
    ups, downs = packed.pnl_e8[0:14:2], packed.pnl_e8[1:14:2]
    assert all(up - down >= -slack for up, down in zip(ups, downs, strict=True))


# --- books ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Books:
    """Two books in one underlying, at a price near the arrays' own."""

    price: float
    mmr: float
    first: Group
    second: Group

    def requirement(self, group: Group, *, current: bool) -> float:
        return requirement(group, price=self.price, mmr=self.mmr, short_min=SHORT_MIN, current=current)

    @property
    def rounding(self) -> float:
        return 1e-9 * self.price


def joined(first: Group, second: Group) -> Group:
    return Group(first.perps + second.perps, first.legs + second.legs)


def scaled(group: Group, by: float) -> Group:
    legs = tuple(replace(leg, size=leg.size * by) for leg in group.legs)
    return Group(tuple(size * by for size in group.perps), legs)


def without_sold_calls(group: Group) -> Group:
    return Group(group.perps, tuple(leg for leg in group.legs if leg.size > 0 or not leg.option.is_call))


@st.composite
def legs(draw: st.DrawFn, *, spot: float, mmr: float, vol: float) -> OptionLeg:
    strike = spot * draw(st.floats(0.5, 2.0))
    days = draw(st.sampled_from([1, 7, 30]))
    option = Option(1, draw(KINDS), int(strike * WAD), NOW_S + days * DAY_S)
    return OptionLeg(draw(SIZES), option, array_of(option, spot=spot, vol=vol, mmr=mmr, now_s=NOW_S))


@st.composite
def books(draw: st.DrawFn) -> Books:
    spot, mmr = draw(st.floats(1.0, 1e5)), draw(st.floats(0.01, 0.30))
    vol = draw(st.floats(0.1, 2.0))
    each = legs(spot=spot, mmr=mmr, vol=vol)
    groups = st.builds(
        Group,
        perps=st.lists(SIZES, max_size=2).map(tuple),
        legs=st.lists(each, max_size=4).map(tuple),
    )
    return Books(spot * draw(st.floats(0.98, 1.02)), mmr, draw(groups), draw(groups))


@given(pair=books(), current=st.booleans(), by=st.floats(0.0, 50.0))
def test_a_requirement_grows_in_proportion_to_the_book(pair: Books, current: bool, by: float) -> None:
    whole = pair.requirement(scaled(pair.first, by), current=current)
    assert math.isclose(
        whole, by * pair.requirement(pair.first, current=current), rel_tol=1e-9, abs_tol=pair.rounding * 100
    )


@given(pair=books())
def test_two_books_together_never_need_more_than_apart(pair: Books) -> None:
    apart = sum(pair.requirement(group, current=True) for group in (pair.first, pair.second))
    together = pair.requirement(joined(pair.first, pair.second), current=True)
    assert 0 <= together <= apart * (1 + 1e-12) + 100 * pair.rounding


@given(pair=books())
def test_by_their_worst_payoffs_too_two_books_without_bare_calls_never_need_more_than_apart(
    pair: Books,
) -> None:
    groups = [without_sold_calls(group) for group in (pair.first, pair.second)]
    apart = sum(pair.requirement(group, current=False) for group in groups)
    together = pair.requirement(joined(*groups), current=False)
    assert 0 <= together <= apart * (1 + 1e-12) + 100 * pair.rounding


@given(pair=books(), current=st.booleans())
def test_a_book_and_its_opposite_need_only_the_minimum_of_what_is_short(pair: Books, current: bool) -> None:
    both = joined(pair.first, scaled(pair.first, -1.0))
    minimum = sum(abs(leg.size) for leg in pair.first.legs) * pair.price * SHORT_MIN
    assert abs(pair.requirement(both, current=current) - minimum) <= 1000 * pair.rounding


@given(pair=books(), vol=st.floats(0.1, 2.0), size=st.floats(0.01, 100.0), moneyness=st.floats(0.5, 2.0))
def test_a_bought_call_and_a_sold_put_are_covered_by_a_sold_perp(
    pair: Books, vol: float, size: float, moneyness: float
) -> None:
    """Put-call parity holds in every scenario, so the three need nothing but the put's minimum."""
    arrays, taken = [], []
    for kind, sign in ((Kind.CALL, 1), (Kind.PUT, -1)):
        option = Option(1, kind, int(pair.price * moneyness * WAD), NOW_S + 7 * DAY_S)
        arrays.append(array_of(option, spot=pair.price, vol=vol, mmr=pair.mmr, now_s=NOW_S))
        taken.append(OptionLeg(sign * size, option, arrays[-1]))
    group = Group(perps=(-size,), legs=tuple(taken))
    assert np.abs(losses(group, price=pair.price, mmr=pair.mmr)).max() <= 100 * pair.rounding
    minimum = size * pair.price * SHORT_MIN
    assert abs(pair.requirement(group, current=True) - minimum) <= 100 * pair.rounding


@given(pair=books(), vol=st.floats(0.1, 2.0), size=st.floats(0.01, 100.0), moneyness=st.floats(0.5, 2.0))
def test_a_sold_call_adds_only_its_minimum_to_the_perp_that_covers_it(
    pair: Books, vol: float, size: float, moneyness: float
) -> None:
    """With volatility held, for a call never moves by more than its underlying."""
    option = Option(1, Kind.CALL, int(pair.price * moneyness * WAD), NOW_S + 7 * DAY_S)
    array = array_of(
        option, spot=pair.price, vol=vol, mmr=pair.mmr, now_s=NOW_S, shocks=VolShocks(up=0.0, down=0.0)
    )
    perp = Group(perps=(size,))
    covered = Group(perps=(size,), legs=(OptionLeg(-size, option, array),))
    least = pair.requirement(perp, current=True) + size * pair.price * SHORT_MIN
    assert pair.requirement(covered, current=True) <= least * (1 + 1e-12) + 100 * pair.rounding


@given(pair=books())
def test_after_the_most_that_options_can_lose_no_payoff_is_worse(pair: Books) -> None:
    """What is left of the marks, less what of a bare call's charge is not used up, is paid at any price."""
    for days in (1, 7, 30):
        one = [leg for leg in pair.first.legs if leg.option.expiry_s == NOW_S + days * DAY_S]
        worth = sum(leg.size * mark_at(leg.option, leg.array, pair.price) for leg in one)
        left = worth - max_loss(one, price=pair.price)
        bare = max(0.0, -sum(leg.size for leg in one if leg.option.is_call))
        top = max((leg.option.strike for leg in one), default=0.0)
        for settled in np.linspace(0.0, top + pair.price, 50).tolist():
            paid = sum(leg.size * leg.option.payoff(settled) for leg in one)
            unused = bare * (pair.price - max(settled - top, 0.0))
            assert left <= paid - unused + 100 * pair.rounding
