"""What must hold of every option, of every array of one, and of every book of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Kind
from keeper.protocols.hybrid.params import Listed, Risk
from keeper.protocols.hybrid.portfolio import (
    Position,
    max_loss_wad,
    requirement_wad,
    unit_value_wad,
)
from keeper.risk import options
from keeper.risk.scenarios import (
    SPAN,
    Option,
    PackedArray,
    VolShocks,
    array_of,
    pack,
)
from keeper.units import WAD

NOW_S = 1_700_000_000
DAY_S = 86_400
LATE_S = NOW_S + 601
"""When the arrays may be judged by no more."""

KINDS = st.sampled_from([Kind.CALL, Kind.PUT])
CALLS = st.booleans()
SPOTS = st.floats(1e-4, 1e7)
MONEYNESS = st.one_of(st.floats(0.5, 2.0), st.floats(1e-3, 1e3), st.just(1.0))
VOLS = st.one_of(st.floats(0.01, 3.0), st.just(0.0), st.floats(1e-9, 50.0))
YEARS = st.one_of(st.floats(0.0, 2.0), st.floats(0.0, 1e-6))
MMRS_WAD = st.one_of(st.integers(WAD // 100, 30 * WAD // 100), st.integers(0, WAD))
SIZES = st.integers(-100 * WAD, 100 * WAD).filter(bool)
SOME = st.integers(WAD // 100, 100 * WAD)
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
    """Positions in one underlying by the contract's integers, at a price near their arrays' own."""

    price_wad: int
    risk: Risk
    positions: tuple[Position, ...]

    def requirement(self, *positions: Position, now_s: int = NOW_S) -> int:
        rate_wad = self.risk.mmr_wad
        return requirement_wad(positions, self.price_wad, risk=self.risk, rate_wad=rate_wad, now_s=now_s)

    def minimum(self, size_wad: int) -> int:
        return size_wad * self.price_wad * self.risk.short_min_wad // WAD**2

    def slack(self, size_wad: int) -> int:
        """What 8 decimals of an array may come to, and the roundings of the formula."""
        return abs(size_wad) * (5 * 10**10 + self.price_wad // 10**11) // WAD + 100

    def option(self, kind: Kind, size_wad: int, moneyness: float, vol: float, shocks: VolShocks) -> Position:
        """A position in an option of a week, valued at this price."""
        option = Option(1, kind, int(self.price_wad * moneyness), NOW_S + 7 * DAY_S)
        return valued(option, size_wad, self.price_wad / WAD, self.risk.mmr_wad, vol, shocks)


def valued(
    option: Option, size_wad: int, spot: float, mmr_wad: int, vol: float, shocks: VolShocks
) -> Position:
    array = array_of(option, spot=spot, vol=vol, mmr=mmr_wad / WAD, now_s=NOW_S, shocks=shocks)
    market = Listed(option.market, "BTC/USD", option.kind, option.strike_wad, option.expiry_s)
    return Position(market, size_wad, 0, pack(option, array, mmrs_wad=[mmr_wad]).view)


def perp(size_wad: int) -> Position:
    return Position(Listed(9, "BTC/USD"), size_wad, 0)


def opposite(positions: Sequence[Position]) -> list[Position]:
    return [replace(each, size_wad=-each.size_wad) for each in positions]


@st.composite
def books(draw: st.DrawFn) -> Books:
    spot_e8 = draw(st.integers(10**8, 10**13))
    risk = Risk(draw(st.integers(WAD // 100, 30 * WAD // 100)), 30 * WAD // 100, WAD // 100)
    vol = draw(st.floats(0.1, 2.0))
    positions = [perp(size_wad) for size_wad in draw(st.lists(SIZES, max_size=2))]
    for size_wad in draw(st.lists(SIZES, max_size=4)):
        strike_wad = int(spot_e8 * 10**10 * draw(st.floats(0.5, 2.0)))
        expiry_s = NOW_S + draw(st.sampled_from([1, 7, 30])) * DAY_S
        option = Option(1, draw(KINDS), strike_wad, expiry_s)
        positions.append(valued(option, size_wad, spot_e8 / 10**8, risk.mmr_wad, vol, VolShocks()))
    price_wad = spot_e8 * draw(st.integers(98 * 10**8, 102 * 10**8))
    return Books(price_wad, risk, tuple(positions))


@given(book=books(), now_s=st.sampled_from([NOW_S, LATE_S]))
def test_a_book_and_its_opposite_need_only_the_minimum_of_what_is_short(book: Books, now_s: int) -> None:
    found = book.requirement(*book.positions, *opposite(book.positions), now_s=now_s)
    minimum = sum(book.minimum(abs(each.size_wad)) for each in book.positions if each.market.is_option)
    # Every position rounds by a few wei, in its marks, its payoffs and its minimum.
    assert 0 <= found - minimum <= 8 * len(book.positions)


@given(book=books(), vol=st.floats(0.1, 2.0), size_wad=SOME, moneyness=st.floats(0.5, 2.0))
def test_a_bought_call_and_a_sold_put_are_covered_by_a_sold_perp(
    book: Books, vol: float, size_wad: int, moneyness: float
) -> None:
    """Put-call parity holds in every scenario, so the three need nothing but the put's minimum."""
    bought, sold = (
        book.option(kind, sign * size_wad, moneyness, vol, VolShocks())
        for kind, sign in ((Kind.CALL, 1), (Kind.PUT, -1))
    )
    found = book.requirement(bought, sold, perp(-size_wad))
    assert abs(found - book.minimum(size_wad)) <= book.slack(size_wad)


@given(book=books(), vol=st.floats(0.1, 2.0), size_wad=SOME, moneyness=st.floats(0.5, 2.0))
def test_a_sold_call_adds_only_its_minimum_to_the_perp_that_covers_it(
    book: Books, vol: float, size_wad: int, moneyness: float
) -> None:
    """With volatility held, for a call never moves by more than its underlying."""
    sold = book.option(Kind.CALL, -size_wad, moneyness, vol, VolShocks(up=0.0, down=0.0))
    most = book.requirement(perp(size_wad)) + book.minimum(size_wad)
    assert book.requirement(perp(size_wad), sold) <= most + book.slack(size_wad)


@given(book=books(), ends=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=20))
def test_after_the_most_that_options_can_lose_no_payoff_is_worse(book: Books, ends: list[float]) -> None:
    """Wherever the underlying ends, bare calls being covered at the end of the range above the price."""
    price_wad = book.price_wad
    for days in (1, 7, 30):
        one = [each for each in book.positions if each.market.expiry_s == NOW_S + days * DAY_S]
        worth = sum(each.size_wad * unit_value_wad(each, price_wad) for each in one) // WAD
        left = worth - max_loss_wad(one, price_wad, book.risk)[0]
        bare = max(0, -sum(each.size_wad for each in one if each.market.kind is Kind.CALL))
        cover_wad = price_wad * (WAD + book.risk.mmr_wad) // WAD
        for end_wad in (int(price_wad * end) for end in ends):
            paid = sum(each.size_wad * each.market.payoff_wad(end_wad) for each in one)
            assert left <= (paid + bare * (end_wad - cover_wad)) // WAD + 8 * len(one)
