"""The trigger never misses: what exact arithmetic finds in breach is suspect, for every book and every mark.

The exact side is written from the rules, scenario by scenario and payoff by payoff, in rationals. Cash is
chosen so that an account lies within a wei of its breach, where only the rounding margin keeps it suspect;
and as far above it as rounding cannot reach, where it must be left alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from random import Random
from typing import TypeAlias

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import ArrayView, Instrument, Kind, Quote, Unknown
from keeper.protocols.hybrid.marks import marks_of
from keeper.trigger.scores import Floats, Scores, score, suspects
from keeper.units import WAD, FeedId, Wad

AT_S = 1_700_000_000
FEEDS = ("BTC/USD", "ETH/USD")
MOVES = [Fraction(third, 3) for third in (0, 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 9, -9)]
WEIGHTS = [Fraction(1)] * 14 + [Fraction(1, 3)] * 2
EXPIRIES_S = (AT_S + 86_400, AT_S + 7 * 86_400)

Book: TypeAlias = Mapping[int, Wad]
"""Sizes by column."""
Prices: TypeAlias = Mapping[FeedId, Wad]


@dataclass(frozen=True)
class Terms:
    """Margin terms of an underlying."""

    range_wad: Wad
    short_wad: Wad


# --- books and marks -----------------------------------------------------------------------------

# Even draws from few values: integers of a wide range come out near its ends more often than not.
PRICES = st.sampled_from([WAD, 200 * WAD, 60_000 * WAD + 1]) | st.integers(1, 10**24 * WAD)
RATES = st.builds(
    Terms,
    st.sampled_from([WAD // 100, WAD // 20, 3 * WAD // 10]),
    st.sampled_from([0, WAD // 100, WAD // 10]),
)
UNITS = st.sampled_from([-3, -2, -1, 1, 2, 3]).map(lambda units: units * WAD)
SIZES = UNITS | UNITS | st.integers(-(2**127), 2**127 - 1)
AMOUNTS = SIZES.map(abs)
AGES_S = st.sampled_from([30, 30, 600, 601, 4199, 4200])
AWAY = st.sampled_from([Fraction(percent, 100) for percent in (97, 98, 99, 100, 101, 102, 103)])
TENTHS = st.sampled_from([5, 8, 10, 10, 12, 20])
THOUSANDTHS = st.integers(0, 1000)
SEEDS = st.integers(0, 2**32 - 1)
LEVELS = st.sampled_from([Fraction(1), Fraction(13, 10), Fraction(5, 2)])


@st.composite
def options(draw: st.DrawFn, prices: Prices) -> Instrument:
    """An option with or without a risk array, which may be of any age and near to the price or not."""
    feed = draw(st.sampled_from(FEEDS))
    kind = draw(st.sampled_from([Kind.CALL, Kind.PUT]))
    price_wad = prices[feed]
    option = Instrument(
        feed,
        kind=kind,
        strike_wad=price_wad * draw(TENTHS) // 10,
        expiry_s=draw(st.sampled_from(EXPIRIES_S)),
        settlement_wad=draw(st.sampled_from([None, None, None, None, 0, price_wad, 2 * price_wad])),
    )
    is_posted = draw(st.sampled_from([True, True, True, True, False]))
    return replace(option, array=draw(arrays(option, price_wad)) if is_posted else None)


@st.composite
def arrays(draw: st.DrawFn, option: Instrument, price_wad: Wad) -> ArrayView:
    ref_wad = int(price_wad * draw(AWAY))
    most_wad = ref_wad if option.kind is Kind.CALL else option.strike_wad
    mark_wad, delta_wad = most_wad * draw(THOUSANDTHS) // 1000, draw(THOUSANDTHS) * WAD // 1000
    chance = Random(draw(SEEDS))
    values_wad = [2 * most_wad * chance.randint(0, 1000) // 1000 for _ in range(16)]
    return ArrayView(
        ref_wad=ref_wad,
        mark_wad=mark_wad,
        delta_wad=delta_wad if option.kind is Kind.CALL else -delta_wad,
        observed_at_s=AT_S - draw(AGES_S),
        pnl_wad=tuple(value_wad - mark_wad for value_wad in values_wad),
    )


@st.composite
def listings(draw: st.DrawFn) -> tuple[tuple[Instrument, ...], Prices]:
    """Two underlyings with one perp or two, some options, and a collateral of each."""
    prices = {feed: draw(PRICES) for feed in FEEDS}
    terms = {feed: draw(RATES) for feed in FEEDS}
    perps = [
        Instrument(feed, kind=Kind.PERP)
        for feed in (*FEEDS, *draw(st.lists(st.sampled_from(FEEDS), max_size=1)))
    ]
    listed = [*perps, *draw(st.lists(options(prices), min_size=2, max_size=5))]
    markets = draw(st.permutations(listed))
    collaterals = [Instrument(feed, draw(st.integers(WAD // 10, WAD))) for feed in FEEDS]
    charged = [
        replace(each, range_wad=terms[each.feed].range_wad, short_wad=terms[each.feed].short_wad)
        for each in markets
    ]
    return (*charged, *collaterals), prices


@st.composite
def books(draw: st.DrawFn, instruments: Sequence[Instrument]) -> Book:
    """Sizes of some columns; a collateral's is not negative."""
    return {
        column: draw(AMOUNTS if each.kind is None else SIZES)
        for column, each in enumerate(instruments)
        if draw(st.booleans())
    }


# --- the rules, in rationals ---------------------------------------------------------------------


def payoff(option: Instrument, price_wad: Wad) -> Fraction:
    apart = Fraction(price_wad - option.strike_wad, WAD)
    return max(Fraction(0), apart if option.kind is Kind.CALL else -apart)


def unit_value(instrument: Instrument, price_wad: Wad) -> Fraction:
    if instrument.settlement_wad is not None:
        return payoff(instrument, instrument.settlement_wad)
    if instrument.kind in {None, Kind.PERP}:
        return Fraction(price_wad * instrument.value_wad, WAD * WAD)
    array = instrument.array
    if array is None:
        return payoff(instrument, price_wad)
    moved_wad = array.mark_wad + array.delta_wad * (price_wad - array.ref_wad) // WAD
    most_wad = price_wad if instrument.kind is Kind.CALL else instrument.strike_wad
    return min(Fraction(most_wad, WAD), max(payoff(instrument, price_wad), Fraction(moved_wad, WAD)))


def judged_by_max_loss(option: Instrument, price_wad: Wad) -> bool:
    """Lost, or young and left behind by the price; one that is silent counts as it was."""
    array = option.array
    if array is None:
        return True
    age_s = AT_S - array.observed_at_s
    moved = abs(price_wad - array.ref_wad) > Fraction(array.ref_wad, 50)
    return age_s >= 4200 or (age_s <= 600 and moved)


def requirement(instruments: Sequence[Instrument], book: Book, prices: Prices) -> Fraction:
    total = Fraction(0)
    for feed in FEEDS:
        legs = [
            (instruments[column], Fraction(size_wad, WAD))
            for column, size_wad in book.items()
            if size_wad
            and instruments[column].feed == feed
            and instruments[column].kind is not None
            and instruments[column].settlement_wad is None
        ]
        if legs:
            total += of_underlying(legs, prices[feed])
    return total


Legs: TypeAlias = Sequence[tuple[Instrument, Fraction]]


def of_underlying(legs: Legs, price_wad: Wad) -> Fraction:
    price = Fraction(price_wad, WAD)
    range_ = price * Fraction(legs[0][0].range_wad, WAD)
    held = [(option, size) for option, size in legs if option.kind is not Kind.PERP]
    perps = sum((size for perp, size in legs if perp.kind is Kind.PERP), start=Fraction(0))
    shorts = sum((max(Fraction(0), -size) for _, size in held), start=Fraction(0))
    least = shorts * price * Fraction(legs[0][0].short_wad, WAD)
    losses = [
        -weight
        * (perps * range_ * move + sum(size * Fraction(array_of(option)[s], WAD) for option, size in held))
        for s, (move, weight) in enumerate(zip(MOVES, WEIGHTS, strict=True))
    ]
    worst = max(Fraction(0), *losses)
    if any(judged_by_max_loss(option, price_wad) for option, _ in held):
        alone, covered = (abs(perps) * range_ + most for most in max_loss(legs, price_wad, range_))
        worst = max(covered, min(alone, worst))
    return least + worst


def array_of(option: Instrument) -> Sequence[Wad]:
    return option.array.pnl_wad if option.array else [0] * len(MOVES)


def max_loss(legs: Legs, price_wad: Wad, range_: Fraction) -> tuple[Fraction, Fraction]:
    alone = covered = Fraction(0)
    for expiry_s in EXPIRIES_S:
        most, less = (
            loss_at_expiry([leg for leg in held if leg[0].expiry_s == expiry_s], price_wad, range_)
            for held in (options_of(legs), uncovered(legs))
        )
        alone, covered = alone + most, covered + min(most, less)
    return alone, covered


def options_of(legs: Legs) -> Legs:
    return [(option, size) for option, size in legs if option.kind is not Kind.PERP]


def uncovered(legs: Legs) -> Legs:
    """Return the options without the part of each sold one that the perps cover."""
    perps = sum((size for perp, size in legs if perp.kind is Kind.PERP), start=Fraction(0))
    kind = Kind.PUT if perps < 0 else Kind.CALL
    sold = -sum((min(size, Fraction(0)) for option, size in legs if option.kind is kind), start=Fraction(0))
    left = max(Fraction(0), 1 - abs(perps) / sold) if sold else Fraction(1)
    return [
        (option, size * left if option.kind is kind and size < 0 else size)
        for option, size in options_of(legs)
    ]


def loss_at_expiry(legs: Legs, price_wad: Wad, range_: Fraction) -> Fraction:
    worth = sum((size * unit_value(option, price_wad) for option, size in legs), start=Fraction(0))
    ends = [0, *(option.strike_wad for option, _ in legs)]
    calls = sum((size for option, size in legs if option.kind is Kind.CALL), start=Fraction(0))
    cover = max(Fraction(0), -calls)
    pays = [
        sum((size * payoff(option, end) for option, size in legs), start=cover * Fraction(end, WAD))
        for end in ends
    ]
    return max(Fraction(0), worth - min(pays) + cover * (Fraction(price_wad, WAD) + range_))


def worth(instruments: Sequence[Instrument], book: Book, prices: Prices) -> Fraction:
    return sum(
        (
            Fraction(size_wad, WAD) * unit_value(instruments[column], prices[instruments[column].feed])
            for column, size_wad in book.items()
        ),
        start=Fraction(0),
    )


def money(instruments: Sequence[Instrument], book: Book, prices: Prices) -> Fraction:
    """What a book can come to at the very most: rounding reaches for a small part of it."""
    return sum(
        (
            Fraction(abs(size_wad), WAD)
            * Fraction(
                10 * (prices[instruments[column].feed] + instruments[column].strike_wad)
                + (instruments[column].settlement_wad or 0),
                WAD,
            )
            for column, size_wad in book.items()
        ),
        start=Fraction(0),
    )


# --- what the trigger finds ----------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An account, and the cash with which its equity is exactly ``level`` x its requirement."""

    book: Book
    level: Fraction
    edge: Fraction


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Sequence[Instrument], Prices, list[Row]]:
    """A listing, and the books of several accounts."""
    instruments, prices = draw(listings())
    rows = []
    for _ in range(8):
        book, level = draw(books(instruments)), draw(LEVELS)
        edge = level * requirement(instruments, book, prices) - worth(instruments, book, prices)
        rows.append(Row(book, level, edge))
    return instruments, prices, rows


def scores_of(
    instruments: Sequence[Instrument],
    quotes: Mapping[FeedId, Quote | Unknown],
    held: Sequence[Book],
    cash: Floats,
) -> Scores:
    marks = marks_of(instruments, quotes, AT_S)
    columns = range(len(instruments))
    return score(
        cash=cash,
        positions=np.array(
            [[float(Fraction(book.get(column, 0), WAD)) for column in columns] for book in held]
        ),
        marks=marks,
    )


def suspected(
    instruments: Sequence[Instrument], prices: Prices, rows: Sequence[Row], cash: Sequence[Fraction]
) -> set[int]:
    quotes = {feed: Quote(feed, price_wad, AT_S) for feed, price_wad in prices.items()}
    held = [row.book for row in rows]
    scores = scores_of(instruments, quotes, held, np.array([float(each) for each in cash]))
    assert not scores.unknown.any()
    return set(suspects(scores, level=np.array([float(row.level) for row in rows])).tolist())


@given(worlds(), st.integers(1, 1000))
def test_an_account_a_wei_below_its_level_is_suspect(
    world: tuple[Sequence[Instrument], Prices, list[Row]], below_wad: int
) -> None:
    instruments, prices, rows = world
    cash = [row.edge - Fraction(below_wad, WAD) for row in rows]
    assert suspected(instruments, prices, rows, cash) == set(range(len(rows)))


@given(worlds())
def test_an_account_that_no_rounding_could_endanger_is_left_alone(
    world: tuple[Sequence[Instrument], Prices, list[Row]],
) -> None:
    instruments, prices, rows = world
    cash = [row.edge + money(instruments, row.book, prices) / 10**7 + Fraction(1, 10**6) for row in rows]
    assert suspected(instruments, prices, rows, cash) == set()


@given(worlds())
def test_an_unknown_price_makes_unknown_whoever_holds_what_hangs_on_it_and_nobody_else(
    world: tuple[Sequence[Instrument], Prices, list[Row]],
) -> None:
    instruments, prices, rows = world
    known, unpriced = FEEDS
    quotes = {known: Quote(known, prices[known], AT_S)} | {unpriced: Unknown(unpriced, "stale")}
    scores = scores_of(instruments, quotes, [row.book for row in rows], np.full(len(rows), -1e30))
    gone = {
        column
        for column, each in enumerate(instruments)
        if each.feed == unpriced and each.settlement_wad is None
    }
    hangs = np.array([any(row.book.get(column) for column in gone) for row in rows])
    assert (scores.unknown == hangs).all()
    assert not set(suspects(scores)) & set(np.flatnonzero(hangs))
    assert np.isfinite(scores.equity[~hangs]).all()
    assert np.isfinite(scores.requirement[~hangs]).all()
