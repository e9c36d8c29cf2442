"""A volatility surface of listed options: total variance by log-moneyness, without static arbitrage.

`Surface.of` takes the volatilities of listed options, expiry by expiry, and refuses those of which one could
buy some and sell others for a sure gain: a butterfly, that is a call price that is not convex in the strike
or falls faster than the strike rises; or a calendar, that is a total variance that falls with time at the
same log-moneyness. So the instruments listed are free of it. Between them variance is interpolated in a
straight line along log-moneyness and along time, which promises nothing of strikes that are not listed.

Source: Gatheral, Jacquier, "Arbitrage-free SVI volatility surfaces" (2014), sections 2.1 and 2.2 for both
conditions; Carr, Madan, "A note on sufficient conditions for no arbitrage" (2005) for those between strikes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadInput
from keeper.risk import options

Column: TypeAlias = NDArray[np.float64]

ROUNDING = 1e-12
"""Of the forward: how far prices may miss a condition."""


@dataclass(frozen=True, slots=True)
class Smile:
    """What is listed at one expiry, strikes rising."""

    years: float
    forward: float
    moneyness: Column
    """ln(strike / forward) [k]."""
    variance: Column
    """vol^2 years [k]."""

    def at(self, moneyness: Column | float) -> Column:
        """Return the total variance; beyond the outermost strikes that of these."""
        return np.asarray(np.interp(moneyness, self.moneyness, self.variance))

    def check_butterflies(self) -> None:
        """Raise BadInput where calls are not worth less and less, ever more slowly, as strikes rise."""
        strikes = np.concatenate([[0.0], np.exp(self.moneyness)])
        spreads = np.concatenate([[0.0], np.sqrt(self.variance)])
        calls = options.value(spot=np.ones(len(strikes)), strike=strikes, spread=spreads, is_call=True)
        slopes = np.diff(calls) / np.diff(strikes)
        # A call falls by no more than the strike rises, and never rises with it.
        bends = np.diff(np.concatenate([[-1.0], slopes, [0.0]]))
        # What a rounding of the prices can do to a slope.
        slack = ROUNDING / np.diff(strikes).min()
        if bends[worst := int(bends.argmin())] < -slack:
            raise BadInput(
                f"butterfly arbitrage at {self.years:g} years and strike {self.forward * strikes[worst]:g}: "
                f"call prices must fall ever more slowly, found a bend of {bends[worst]:.3g}"
            )

    def check_calendar(self, earlier: Smile) -> None:
        """Raise BadInput where total variance is below that of an earlier expiry."""
        both = np.union1d(self.moneyness, earlier.moneyness)
        inside = (both >= max(self.moneyness[0], earlier.moneyness[0])) & (
            both <= min(self.moneyness[-1], earlier.moneyness[-1])
        )
        shared = both[inside]
        falls = earlier.at(shared) - self.at(shared)
        if len(shared) and (worst := float(falls.max())) > ROUNDING:
            place = float(shared[falls.argmax()])
            raise BadInput(
                f"calendar arbitrage between {earlier.years:g} and {self.years:g} years at strike "
                f"{self.forward * np.exp(place):g}: total variance falls by {worst:.3g}"
            )


@dataclass(frozen=True, slots=True)
class Surface:
    """Smiles by expiry, earliest first."""

    smiles: tuple[Smile, ...]

    @classmethod
    def of(
        cls,
        quotes: Mapping[float, tuple[Column | list[float], Column | list[float]]],
        forwards: Mapping[float, float],
    ) -> Surface:
        """Make a surface of strikes and volatilities [k] by years to expiry, and of its forwards.

        Raises BadInput for what is not finite and above 0, for strikes that do not rise, and for arbitrage:
        what kind, and at which strike and expiry.
        """
        if not quotes:
            raise BadInput("a surface needs one expiry at least")
        smiles = tuple(_smile(years, *quotes[years], forwards) for years in sorted(quotes))
        for smile in smiles:
            smile.check_butterflies()
        for place, smile in enumerate(smiles):
            for earlier in smiles[:place]:
                smile.check_calendar(earlier)
        return cls(smiles)

    def vol(self, *, strike: Column | float, forward: float, years: float) -> Column:
        """Return volatilities of strikes [k] at one time to expiry.

        Total variance lies on a line through the origin before the first expiry, on one between expiries, and
        after the last volatility stays. Raises BadInput for what is not above 0.
        """
        options.check(above_0={"strike": strike, "forward": forward, "years": years})
        moneyness = np.log(np.divide(strike, forward))
        times = np.array([0.0, *(smile.years for smile in self.smiles)])
        variances = np.stack([np.zeros_like(moneyness), *(smile.at(moneyness) for smile in self.smiles)])
        if years >= times[-1]:
            return np.asarray(np.sqrt(variances[-1] / times[-1]))
        after = int(np.searchsorted(times, years, side="right"))
        part = (years - times[after - 1]) / (times[after] - times[after - 1])
        total = (1.0 - part) * variances[after - 1] + part * variances[after]
        return np.asarray(np.sqrt(total / years))


def _smile(
    years: float, strikes: Column | list[float], vols: Column | list[float], forwards: Mapping[float, float]
) -> Smile:
    """Return one expiry's smile, of numbers that can be."""
    if years not in forwards:
        raise BadInput(f"there is no forward for {years:g} years")
    at, vol, forward = np.asarray(strikes, np.float64), np.asarray(vols, np.float64), forwards[years]
    options.check(above_0={"years": years, "forward": forward, "strikes": at, "vols": vol})
    if at.ndim != 1 or not len(at) or at.shape != vol.shape or not (np.diff(at) > 0.0).all():
        raise BadInput(
            f"at {years:g} years: expected rising strikes and a volatility for each, found {at}, {vol}"
        )
    return Smile(years, forward, np.log(at / forward), vol * vol * years)
