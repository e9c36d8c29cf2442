"""From prices to marks, in float64: HybridMargin's instruments as the trigger sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from keeper.domain import ArrayView, Instrument, Kind, Quote, Unknown
from keeper.risk.marks import Marks
from keeper.risk.netting import Expiry, Floats, Underlying
from keeper.risk.scenarios import MOVES, WEIGHTS
from keeper.units import WAD, FeedId, UnixS, Wad, mul_div_down

NAN = float("nan")
CURRENT_FOR_S = 600
"""How long a risk array may be judged by; from ``LOST_AFTER_S`` on it is lost, and between silent."""
LOST_AFTER_S = 4200
NEAR = 50
"""One over how far the price may have moved from an array's: 2%."""


@dataclass(frozen=True, slots=True)
class _Column:
    """A market that is priced and not settled, and its place in the book."""

    place: int
    market: Instrument
    price_wad: Wad

    @property
    def is_option(self) -> bool:
        return self.market.kind is not Kind.PERP

    @property
    def range(self) -> float:
        """What one unit of the underlying moves over the whole range."""
        return _wad2(self.price_wad * self.market.range_wad)


def marks_of(
    instruments: Sequence[Instrument],
    prices: Mapping[FeedId, Quote | Unknown],
    at_s: UnixS,
    levels_wad: Sequence[Wad] = (WAD,),
) -> Marks:
    """Mark every instrument, in the order of the book's columns, as the contract would at ``at_s``.

    ``levels_wad`` are the flag levels, by the slope that an owner chose.
    """
    found = [prices.get(each.feed) for each in instruments]
    known = [quote.price_wad if isinstance(quote, Quote) else None for quote in found]
    priced = list(zip(instruments, known, strict=True))
    return Marks(
        value=np.array([_value(each, price_wad) for each, price_wad in priced]),
        gross=np.array([_gross(each, price_wad) for each, price_wad in priced]),
        levels=np.array([level_wad / WAD for level_wad in levels_wad]),
        underlyings=(*_underlyings(priced, at_s), *_settled(instruments)),
    )


def _is_option(instrument: Instrument) -> bool:
    return instrument.kind in {Kind.CALL, Kind.PUT}


def _value(instrument: Instrument, price_wad: Wad | None) -> float:
    """Return what one unit counts for; a settled option's does not hang on the price."""
    if instrument.settlement_wad is not None:
        return payoff_wad(instrument, instrument.settlement_wad) / WAD
    if price_wad is None:
        return NAN
    if _is_option(instrument):
        return mark_wad(instrument, price_wad) / WAD
    return _wad2(price_wad * instrument.value_wad)


def _gross(instrument: Instrument, price_wad: Wad | None) -> float:
    if _is_option(instrument):
        return 0.0
    return NAN if price_wad is None else _wad2(price_wad * instrument.range_wad)


def payoff_wad(option: Instrument, price_wad: Wad) -> Wad:
    """Return what one unit pays with the underlying at a price."""
    apart = price_wad - option.strike_wad
    return max(0, apart if option.kind is Kind.CALL else -apart)


def mark_wad(option: Instrument, price_wad: Wad) -> Wad:
    """Return what one unit is worth with the underlying at a price, to the wei.

    The array's mark moved along delta, rounded down, and held between the payoff and the underlying's price
    (call) or the strike (put); the payoff where there is no array (Portfolio.unitValue).
    """
    least = payoff_wad(option, price_wad)
    array = option.array
    if array is None:
        return least
    moved = array.mark_wad + mul_div_down(array.delta_wad, price_wad - array.ref_wad, WAD)
    return min(price_wad if option.kind is Kind.CALL else option.strike_wad, max(least, moved))


def is_doubtful(array: ArrayView | None, price_wad: Wad, at_s: UnixS) -> bool:
    """Tell whether an option counts by the most that it can lose: its array is lost, or the price left it.

    An array that is silent counts as it is: until it is lost nobody can act on who holds the option, and the
    next one is judged by again (Portfolio.current, Portfolio.silent).
    """
    if array is None or at_s >= array.observed_at_s + LOST_AFTER_S:
        return True
    if at_s > array.observed_at_s + CURRENT_FOR_S:
        return False
    return abs(price_wad - array.ref_wad) * NEAR > array.ref_wad


# --- what nets -----------------------------------------------------------------------------------


def _underlyings(priced: Sequence[tuple[Instrument, Wad | None]], at_s: UnixS) -> Iterator[Underlying]:
    """Put together the markets of each feed that has more than one, none of them settled or without price."""
    if not _may_net([each for each, _ in priced]):
        return
    columns = [
        _Column(place, each, price_wad)
        for place, (each, price_wad) in enumerate(priced)
        if each.kind is not None and each.settlement_wad is None and price_wad is not None
    ]
    for _, markets in groupby(sorted(columns, key=_feed), key=_feed):
        found = list(markets)
        if len(found) > 1 or found[0].is_option:
            yield _underlying(found, at_s)


def _may_net(instruments: Sequence[Instrument]) -> bool:
    """Tell whether any of them is an option, or two trade one feed: without prices, and cheaply."""
    feeds = [each.feed for each in instruments if each.kind is not None and each.settlement_wad is None]
    return len({*feeds}) < len(feeds) or any(map(_is_option, instruments))


def _settled(instruments: Sequence[Instrument]) -> Iterator[Underlying]:
    """Put together the settled options: they require nothing, and yet one that was sold is owed."""
    places = [place for place, each in enumerate(instruments) if each.settlement_wad is not None]
    if places:
        nothing = np.zeros(len(places))
        yield Underlying(
            np.array(places, np.intp), nothing[:, None], nothing, nothing, np.zeros(len(places), np.bool_)
        )


def _feed(column: _Column) -> FeedId:
    return column.market.feed


def _underlying(markets: Sequence[_Column], at_s: UnixS) -> Underlying:
    doubtful = np.array(
        [each.is_option and is_doubtful(each.market.array, each.price_wad, at_s) for each in markets],
        np.bool_,
    )
    return Underlying(
        columns=_places(markets),
        risk=np.array([_risk(each) for each in markets]),
        perps=np.array([0.0 if each.is_option else each.range for each in markets]),
        short=np.array(
            [_wad2(each.price_wad * each.market.short_wad) if each.is_option else 0.0 for each in markets]
        ),
        doubtful=doubtful,
        expiries=tuple(_expiries(markets)) if doubtful.any() else (),
    )


def _risk(column: _Column) -> Floats:
    if not column.is_option:
        return column.range * (MOVES * WEIGHTS)
    array = column.market.array
    return np.zeros(len(WEIGHTS)) if array is None else _weighted(array.pnl_wad)


@lru_cache(maxsize=4096)
def _weighted(pnl_wad: tuple[Wad, ...]) -> Floats:
    """Return an array's scenarios in float64 and weighted; it stays the same for many ticks."""
    return np.array([each / WAD for each in pnl_wad]) * WEIGHTS


def _expiries(markets: Sequence[_Column]) -> Iterator[Expiry]:
    options = sorted((each for each in markets if each.is_option), key=_expiry_s)
    for _, together in groupby(options, key=_expiry_s):
        yield _expiry(list(together))


def _expiry_s(column: _Column) -> UnixS:
    return column.market.expiry_s


def _expiry(options: Sequence[_Column]) -> Expiry:
    ends_wad = sorted({0, *(each.market.strike_wad for each in options)})
    change = [
        [(payoff_wad(each.market, end) - mark_wad(each.market, each.price_wad)) / WAD for end in ends_wad]
        for each in options
    ]
    return Expiry(
        columns=_places(options),
        ends=np.array([end_wad / WAD for end_wad in ends_wad]),
        change=np.array(change),
        calls=np.array([float(each.market.kind is Kind.CALL) for each in options]),
        # Bought at the end of the range above the price (Portfolio._maxLoss).
        cover=options[0].price_wad / WAD + options[0].range,
    )


def _places(columns: Sequence[_Column]) -> NDArray[np.intp]:
    return np.array([each.place for each in columns], np.intp)


def _wad2(product: int) -> float:
    """Return a product of two WADs as a float64, rounded once."""
    return product / (WAD * WAD)
