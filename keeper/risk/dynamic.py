"""Margin that moves with risk, and not so fast that it makes the crash it is meant for.

The requirement of an account from its pieces, tools that keep it from falling too low in calm times and from
rising too fast in bad ones, and measures of how far it swings. Amounts are in quote; all functions take
scalars or float64 arrays, and where time matters, the first axis [t].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from keeper.errors import BadInput
from keeper.risk.inputs import Floats, count, finite, not_negative, positive, shaped, within

MAINTENANCE = 0.8
"""Maintenance margin, over the risk part of initial margin."""

STRESSED_WEIGHT = 0.25
"""The least weight of stressed observations by which they are a tool against procyclicality."""

BUFFER = 0.25
"""The least buffer over calculated margin by which it is one."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What accounts [n] require, and of what it is made."""

    risk: Floats
    """The credit multiplier, times the largest of floor, scan and expected shortfall."""
    add_ons: Floats
    """Liquidity, concentration and what is on its way between chains."""
    binding: np.ndarray[tuple[int, ...], np.dtype[np.str_]]
    """Which one is the largest: ``floor``, ``scan`` or ``shortfall``."""

    @property
    def initial(self) -> Floats:
        """Return what opening asks for."""
        return np.asarray(self.risk + self.add_ons)

    @property
    def maintenance(self) -> Floats:
        """Return below what an account is in breach; add-ons only keep it from growing."""
        return np.asarray(MAINTENANCE * self.risk)


def requirement(
    *,
    notional: ArrayLike,
    scan: ArrayLike,
    es_unstressed: ArrayLike,
    es_stressed: ArrayLike,
    floor: ArrayLike,
    credit: ArrayLike = 1.0,
    stressed_weight: ArrayLike = STRESSED_WEIGHT,
    liquidity: ArrayLike = 0.0,
    concentration: ArrayLike = 0.0,
    cross_chain: ArrayLike = 0.0,
) -> Requirement:
    """Return IM = c max(floor N, SCAN, w_u ES_unstressed + w_s ES_stressed) + add-ons, with w_u = 1 − w_s.

    Raises BadInput for amounts that are negative or not finite, a credit multiplier that is not above 0,
    and a floor or weight outside [0, 1].

    Source: EMIR RTS 153/2013, Article 28(1)(b) for the stressed weight.
    Property: never falls with any piece; homogeneous of the first degree in all amounts together.
    """
    pieces = np.broadcast_arrays(
        within("floor", floor, 0.0, 1.0) * not_negative("notional", notional),
        not_negative("scan", scan),
        stressed_mix(es_unstressed, es_stressed, weight=stressed_weight),
    )
    add_ons = (
        not_negative("liquidity", liquidity)
        + not_negative("concentration", concentration)
        + not_negative("cross_chain", cross_chain)
    )
    risk = positive("credit", credit) * np.max(pieces, axis=0)
    names = np.array(["floor", "scan", "shortfall"])
    return Requirement(risk, np.asarray(add_ons), np.asarray(names[np.argmax(pieces, axis=0)]))


def stressed_mix(
    unstressed: ArrayLike, stressed: ArrayLike, *, weight: ArrayLike = STRESSED_WEIGHT
) -> Floats:
    """Return (1 − w) times what recent observations say, and w times what stressed ones say.

    Raises BadInput for negative amounts and a weight outside [0, 1].

    Source: EMIR RTS 153/2013, Article 28(1)(b): at least a quarter.
    """
    part = within("weight", weight, 0.0, 1.0)
    calm = not_negative("unstressed", unstressed)
    return np.asarray((1 - part) * calm + part * not_negative("stressed", stressed))


def floored(calculated: ArrayLike, long_run: ArrayLike) -> Floats:
    """Return no less than what the volatility of a long look-back would ask for.

    Source: EMIR RTS 153/2013, Article 28(1)(c): ten years; so long as there are not as many, all there are.
    """
    return np.maximum(not_negative("calculated", calculated), not_negative("long_run", long_run))


def buffered(calculated: ArrayLike, *, buffer: float = BUFFER, rebuilt: float = 0.05) -> Floats:
    """Return margins [t, ...] that hold a buffer over what is calculated, and use it up before they rise.

    In calm times a margin is (1 + buffer) times what is calculated. When that rises the margin stays where it
    was until it would be too little; while it does not rise, ``rebuilt`` of what the buffer lacks comes back
    at every step. Raises BadInput for amounts that are negative or not finite, a negative buffer, and a
    part rebuilt outside [0, 1].

    Source: EMIR RTS 153/2013, Article 28(1)(a): at least a quarter, which may be exhausted for a time.
    Property: within [calculated, (1 + buffer) calculated] at every step.
    """
    asked = not_negative("calculated", calculated)
    if not asked.ndim:
        raise BadInput("calculated must be a series over time, found one number")
    whole = (1 + not_negative("buffer", buffer)) * asked
    part = within("rebuilt", rebuilt, 0.0, 1.0)
    margins = whole.copy()
    for now in range(1, len(asked)):
        held = np.clip(margins[now - 1], asked[now], whole[now])
        rises = asked[now] > asked[now - 1]
        margins[now] = np.where(rises, held, held + part * (whole[now] - held))
    return margins


def limited(
    previous: ArrayLike,
    target: ArrayLike,
    *,
    elapsed_h: ArrayLike,
    most_per_h: ArrayLike,
    in_breach: ArrayLike = False,
) -> Floats:
    """Return the margin on its way to a target: at most (1 + rate) ^ hours times the previous one.

    A fall is not held up, and neither is who is already in breach [n]: waiting would be at the expense of
    others. From 0 nothing could ever rise by a rate: a new account is at its target at once. Raises
    ValueError for amounts, times or rates that are negative or not finite.
    """
    before, wanted = not_negative("previous", previous), not_negative("target", target)
    growth = (1 + not_negative("most_per_h", most_per_h)) ** not_negative("elapsed_h", elapsed_h)
    free = np.asarray(in_breach, np.bool_) | (before == 0)
    return np.asarray(np.where(free, wanted, np.minimum(wanted, before * growth)))


def peak_to_trough(margins: ArrayLike) -> float:
    """Return the highest over the lowest margin of a constant portfolio [t]; 1 is no swing at all.

    Raises BadInput for margins that are not finite and above 0.

    Source: Murphy, Vasios, Vause, "An investigation into the procyclicality of risk-based initial margin
    models" (Bank of England, Financial Stability Paper 29, 2014).
    """
    held = shaped("margins", positive("margins", margins), None)
    return float(held.max() / held.min())


def largest_rise(margins: ArrayLike, *, steps: int = 5) -> float:
    """Return the largest rise of a constant portfolio's margin [t] within so many steps, as a fraction.

    0 if it never rises. Raises BadInput as `peak_to_trough`, and for fewer margins than steps and one.

    Source: as `peak_to_trough`, its n-day measure; over the margin before, so that portfolios compare.
    """
    held = shaped("margins", positive("margins", margins), None)
    within_steps = count("steps", steps)
    if len(held) <= within_steps:
        raise BadInput(f"expected more than {within_steps} margins, found {len(held)}")
    rises = [held[ahead:] / held[:-ahead] - 1 for ahead in range(1, within_steps + 1)]
    return max(0.0, *(float(finite("margins", rise).max()) for rise in rises))
