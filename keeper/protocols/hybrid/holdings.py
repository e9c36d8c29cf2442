"""What accounts hold in the risk engine's words: perps, collateral, options at their arrays' volatility."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from keeper.domain import Instrument, Kind
from keeper.protocols.hybrid.marks import payoff_wad
from keeper.risk import margin
from keeper.risk.options import YEAR_S, implied_volatility
from keeper.units import WAD, UnixS

NEAR_MOST = 1 - 1e-9
"""Of the most that an option can be worth: there no volatility is high enough."""


def described(
    columns: Sequence[Instrument], at_s: UnixS, *, collateral: bool = True
) -> Iterator[tuple[int, margin.Instrument]]:
    """Yield the place and the description of every column that still hangs on a price.

    Collateral, where it is wanted, gains and loses as a perp does. An option that is settled, or only waits
    for that, is worth what it is worth, and left out. Raises ConfigError where volatilities cannot be told,
    for want of the extra ``risk``.
    """
    names = Counter[str]()
    for place, each in enumerate(columns):
        is_over = each.settlement_wad is not None or (_is_option(each) and each.expiry_s <= at_s)
        if is_over or (each.kind is None and not collateral):
            continue
        found = _option(each, at_s) if _is_option(each) else _linear(each)
        names[found.name] += 1
        again = names[found.name]
        yield place, found if again == 1 else replace(found, name=f"{found.name} #{again}")


def _is_option(each: Instrument) -> bool:
    return each.kind in {Kind.CALL, Kind.PUT}


def _linear(each: Instrument) -> margin.Instrument:
    return margin.Instrument(f"{each.feed} {'collateral' if each.kind is None else 'perp'}", each.feed)


def _option(option: Instrument, at_s: UnixS) -> margin.Instrument:
    kind = option.kind
    assert kind is not None  # an option
    day = datetime.fromtimestamp(option.expiry_s, UTC).date().isoformat()
    strike = option.strike_wad / WAD
    return margin.Instrument(
        f"{option.feed} {day} {strike:g} {kind.value}",
        option.feed,
        kind,
        strike=strike,
        vol=_volatility(option),
        expiry_y=(option.expiry_s - at_s) / YEAR_S,
    )


def _volatility(option: Instrument) -> float:
    """Return what its array was computed with; 0 of one that is no more than its payoff, or is not there."""
    array = option.array
    if array is None or array.mark_wad <= payoff_wad(option, array.ref_wad):
        return 0.0
    is_call = option.kind is Kind.CALL
    most = (array.ref_wad if is_call else option.strike_wad) / WAD
    found = implied_volatility(
        price=min(array.mark_wad / WAD, most * NEAR_MOST),
        forward=array.ref_wad / WAD,
        strike=option.strike_wad / WAD,
        rate=0.0,
        expiry_y=(option.expiry_s - array.observed_at_s) / YEAR_S,
        is_call=is_call,
    )
    return float(found)
