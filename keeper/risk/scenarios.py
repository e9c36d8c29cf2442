"""What an option is worth in each of 16 scenarios.

The scenarios are SPAN's: the underlying moves by 0, 1/3, 2/3 and 3/3 of a range, up and down, each with
volatility up and down, and twice by an extreme of which a third counts. The range is the underlying's
maintenance margin, so that a perp alone requires what it would without options. Nothing looks ahead in time:
arrays are renewed every two minutes.

The contracts' 16 are a grid like those of venues (``grids``): `on_chain` says them as one, `grid` finds a
venue's. They differ from the preset ``span16`` in three ways: the range is the underlying's own, volatility
moves by a share of itself instead of points, and no day passes.

A *risk array* holds the value now and the change of it in every scenario, for one option held long.
`array_of` computes one in floats; `pack` makes it the integers that a quorum signs, and holds them inside the
bounds that the contract checks.

Source: CME's description of the risk array, cmegroup.com/clearing/risk-management/span-overview.html;
McMillan, "Options as a Strategic Investment", chapter 34, for the order of the scenarios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.domain import ArrayView, Kind
from keeper.errors import BadInput
from keeper.risk import options
from keeper.risk.grids import PRESETS, Grid, span_rows
from keeper.units import WAD, UnixS, Wad

Column: TypeAlias = NDArray[np.float64]

DAY_S = 86_400
_E8_WAD = 10**10
"""One unit of a price with 8 decimals, in WAD."""
_E9_WAD = 10**9
"""One unit of a delta with 9 decimals, in WAD."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One state of the world: what moves, and how much of its loss counts."""

    move: Fraction
    """Move of the underlying, in ranges."""
    vol: int
    """1 where volatility rises, -1 where it falls, 0 where it stays."""
    weight: Fraction


def _span() -> tuple[Scenario, ...]:
    """Return SPAN's 16 scenarios in SPAN's order."""
    thirds = (0, 1, -1, 2, -2, 3, -3)
    plain = (Scenario(Fraction(move, 3), vol, Fraction(1)) for move in thirds for vol in (1, -1))
    extreme = (Scenario(Fraction(move), 0, Fraction(1, 3)) for move in (3, -3))
    return (*plain, *extreme)


SPAN: tuple[Scenario, ...] = _span()
"""The 16 scenarios, in the order of an array."""
MOVES: Column = np.array([float(each.move) for each in SPAN])
"""[16], what the underlying moves by in each scenario, in ranges."""
_VOLS = np.array([each.vol for each in SPAN])
WEIGHTS: Column = np.array([float(each.weight) for each in SPAN])
"""[16], the share of each scenario's loss that counts."""


@dataclass(frozen=True, slots=True)
class VolShocks:
    """How volatility moves in a scenario, relative to itself."""

    up: float = 0.30
    down: float = 0.30
    power: float = 0.0
    """Short options move more: a shock is multiplied by (30 / days)^power. 0.30 is what venues use below 30
    days."""

    def shocked(self, vol: float, days: float) -> Column:
        """Return the volatility in every scenario [16]; with less than a day left as with one."""
        scale = (30.0 / max(days, 1.0)) ** self.power
        relative = np.where(_VOLS > 0, self.up, -self.down) * scale * np.abs(_VOLS)
        shocked: Column = np.maximum(vol * (1.0 + relative), 0.0)
        return shocked


def grid(name: str) -> Grid:
    """Return a preset by its name.

    Raises BadInput for an unknown one, listing those that there are.
    """
    if name not in PRESETS:
        raise BadInput(f"unknown grid {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def on_chain(*, mmr: float, shocks: VolShocks | None = None) -> Grid:
    """Return the contracts' 16 scenarios as a grid; `mmr` is the range as a fraction of the spot.

    Property: the profits of an option in it, unweighted, are those of `array_of`.
    """
    by = shocks or VolShocks()
    rows = span_rows(mmr, up=by.up, down=by.down)
    return Grid("on_chain", "HybridMargin's risk arrays", rows, powers=(by.power, by.power))


@dataclass(frozen=True, slots=True)
class Option:
    """A European option, settled in cash."""

    market: int
    kind: Kind
    strike_wad: Wad
    expiry_s: UnixS

    @property
    def is_call(self) -> bool:
        """Whether it is a call."""
        return self.kind is Kind.CALL

    @property
    def strike(self) -> float:
        """The strike in quote."""
        return self.strike_wad / WAD


@dataclass(frozen=True, slots=True)
class RiskArray:
    """One option held long, in quote: its worth at `spot`, and the change of it in every scenario."""

    spot: float
    mark: float
    delta: float
    observed_at_s: UnixS
    pnl: tuple[float, ...]
    """[16], the extremes unweighted."""


@dataclass(frozen=True, slots=True)
class PackedArray:
    """A risk array in the integers that are signed (HybridTypes.RiskArray): e8 has 8 decimals, e9 has 9."""

    market: int
    observed_at_s: UnixS
    ref_e8: int
    mark_e8: int
    delta_e9: int
    pnl_e8: tuple[int, ...]

    @property
    def fields(self) -> tuple[int, int, int, int, int, tuple[int, ...]]:
        """The struct in the contract's order."""
        return (self.market, self.observed_at_s, self.ref_e8, self.mark_e8, self.delta_e9, self.pnl_e8)

    @property
    def view(self) -> ArrayView:
        """The array as the chain shows it once it is posted."""
        return ArrayView(
            ref_wad=self.ref_e8 * _E8_WAD,
            mark_wad=self.mark_e8 * _E8_WAD,
            delta_wad=self.delta_e9 * _E9_WAD,
            observed_at_s=self.observed_at_s,
            pnl_wad=tuple(pnl * _E8_WAD for pnl in self.pnl_e8),
        )


def array_of(
    option: Option,
    *,
    spot: float,
    vol: float,
    mmr: float,
    now_s: UnixS,
    shocks: VolShocks | None = None,
) -> RiskArray:
    """Value an option now and in every scenario.

    `vol` is annualised, `mmr` the range as a fraction of the spot. Where a range above a third takes the
    extreme below 0, the spot there is 0. Holds NaN where a price cannot be computed: past the expiry, or
    from an input that is NaN, infinite or negative; `pack` refuses it.
    """
    left_s = option.expiry_s - now_s
    years, strike, is_call = left_s / options.YEAR_S, option.strike, option.is_call
    moved = np.maximum(spot * (1.0 + MOVES * mmr), 0.0)
    vols = (shocks or VolShocks()).shocked(vol, left_s / DAY_S)
    mark = options.price(spot=spot, strike=strike, vol=vol, years=years, is_call=is_call)
    then = options.price(spot=moved, strike=strike, vol=vols, years=years, is_call=is_call)
    delta = options.delta(spot=spot, strike=strike, vol=vol, years=years, is_call=is_call)
    return RiskArray(spot, float(mark), float(delta), now_s, tuple((then - mark).tolist()))


def pack(option: Option, array: RiskArray, *, mmrs_wad: Sequence[Wad]) -> PackedArray:
    """Round an array to the contract's integers, inside the bounds that the contract holds it to.

    At the reference price and in every scenario the value lies between the payoff and the underlying's price
    (call) or the strike (put). While a margin ramps, the contract's range is that of the block which takes
    the array: `mmrs_wad` names the ranges between which it may be, and the bounds of all of them hold. Where
    no integer lies inside, because they are less than 1e-8 apart or the ranges contradict each other, the
    upper bound holds.

    Raises ValueError for a value that is not finite, and for one that does not fit its integer.

    Property: the contract's own bounds, in exact rationals, hold to less than one unit of 1e-8.
    """
    values = (array.spot, array.mark, array.delta, *array.pnl)
    if not all(map(math.isfinite, values)):
        raise ValueError(f"the risk array of market {option.market} must be finite, found {values}")
    ref = _fitting("refPrice", round(array.spot * 10**8), 1, 2**64 - 1)
    mark = _fitting("mark", _bounded(option, array.mark, [Fraction(ref)]), 0, 2**64 - 1)
    pnl = []
    for scenario, change in zip(SPAN, array.pnl, strict=True):
        moved = [ref * max(1 + scenario.move * Fraction(mmr, WAD), Fraction(0)) for mmr in mmrs_wad]
        value = _bounded(option, array.mark + change, moved)
        pnl.append(_fitting("pnl", value - mark, -(2**63), 2**63 - 1))
    least, most = (0, 10**9) if option.is_call else (-(10**9), 0)
    delta = min(max(round(array.delta * 10**9), least), most)
    return PackedArray(option.market, array.observed_at_s, ref, mark, delta, tuple(pnl))


def _bounded(option: Option, value: float, prices_e8: Sequence[Fraction]) -> int:
    """Round a value, and hold it inside what an option can be worth at each of several prices."""
    strike = Fraction(option.strike_wad, _E8_WAD)
    if option.is_call:
        least = max(max(price - strike, Fraction(0)) for price in prices_e8)
        most = min(prices_e8)
    else:
        least = max(max(strike - price, Fraction(0)) for price in prices_e8)
        most = strike
    return min(max(round(value * 10**8), math.ceil(least)), math.floor(most))


def _fitting(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError(f"{name} must lie in [{least}, {most}], found {value}")
    return value
