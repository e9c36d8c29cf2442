"""The likeliest shock that breaks something, where what it breaks is no straight line: an insurance fund.

Of a linear book ``stress.reverse`` has it in one formula. What a fund must bear is bent, for nobody owes it
before equity is gone, and is asked of whole revaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from keeper.errors import BadInput
from keeper.risk.inputs import Floats, positive, positive_semidefinite, scalar
from keeper.risk.stress import Breaking

Loss = Callable[[Floats], float]
"""What a shock of log-moves [a] costs, in quote."""
FARTHEST = 30.0
"""Standard deviations: beyond, nothing is looked for."""
TOLERANCE = 1e-4
"""How exactly a distance is known, relative to itself."""
BUMP = 1e-4
"""Standard deviations by which a slope is measured,"""
ROUNDS = 30
"""and how often the direction of a search follows it at most."""


def nearest(loss: Loss, covariance: Floats, bound: float) -> Breaking | None:
    """Return the shock of least Mahalanobis distance that costs a bound; None where none does.

    ``covariance`` [a, a] of log-moves over the horizon that is meant, which may be singular. Searched from
    each asset's own likeliest rise and fall, and from all of them together; from where such a ray meets the
    bound the search turns to the steepest ascent of the loss there, as long as that brings it nearer. A loss
    that is not monotone along rays, or has valleys, may be broken nearer still.

    The shock is told in simple moves, −0.25 for a quarter down. Raises BadInput for a covariance that is not
    positive semidefinite, a bound that is not above 0, and one that is met without any shock.

    Source: the design point of Hasofer and Lind, "Exact and invariant second-moment code format" (1974), and
    Rackwitz and Fiessler's iteration (1978), with a search along each ray in the place of its step.
    Property: of a linear loss it is ``stress.reverse``.
    """
    bound = scalar("bound", positive("bound", bound))
    spread = positive_semidefinite("covariance", covariance)
    if loss(np.zeros(len(spread))) >= bound:
        raise BadInput(f"{bound:,.2f} are lost without any shock: nothing is left to be broken")
    values, vectors = np.linalg.eigh(spread)
    kept = values > 1e-12 * max(float(values[-1]), 0.0)
    root = vectors[:, kept] * np.sqrt(values[kept])
    found = [each for start in _starts(root) if (each := _descended(loss, root, bound, start)) is not None]
    if not found:
        return None
    best = min(found, key=lambda at: float(at @ at))
    return Breaking(np.expm1(root @ best), float(np.linalg.norm(best)))


def _starts(root: Floats) -> Iterator[Floats]:
    """Yield directions: of each asset, and of all, the likeliest in which it moves."""
    for toward in (*root, root.sum(axis=0)):
        length = float(np.linalg.norm(toward))
        if length > 0:
            yield from (-toward / length, toward / length)


def _descended(loss: Loss, root: Floats, bound: float, start: Floats) -> Floats | None:
    """Return where the bound is met that is nearest, from a direction on; None where its ray meets none."""
    at = _met(loss, root, bound, start, FARTHEST)
    if at is None:
        return None
    for _ in range(ROUNDS):
        there = loss(root @ at)
        slope = np.array([loss(root @ (at + BUMP * axis)) - there for axis in np.eye(len(at))])
        steepest = float(np.linalg.norm(slope))
        if steepest == 0:
            return at
        nearer = _turned(loss, root, bound, at, slope / steepest)
        if nearer is None:
            return at
        at = nearer
    return at


def _turned(loss: Loss, root: Floats, bound: float, at: Floats, toward: Floats) -> Floats | None:
    """Return where a turn toward a direction, or a part of it, meets the bound nearer; None if nowhere."""
    distance = float(np.linalg.norm(at))
    for part in (1.0, 0.5, 0.25, 0.1):
        mixed = (1 - part) * at / distance + part * toward
        length = float(np.linalg.norm(mixed))
        if length > 0:
            found = _met(loss, root, bound, mixed / length, distance * (1 - TOLERANCE))
            if found is not None:
                return found
    return None


def _met(loss: Loss, root: Floats, bound: float, ray: Floats, most: float) -> Floats | None:
    """Return where a ray meets the bound, within a distance; None where it does not."""
    if loss(root @ (most * ray)) < bound:
        return None
    low, high = 0.0, most
    while high - low > TOLERANCE * high / 4:
        middle = math.sqrt(low * high) if low else high / 2
        low, high = (low, middle) if loss(root @ (middle * ray)) >= bound else (middle, high)
    return high * ray
