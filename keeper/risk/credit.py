"""How likely an account is to default, from what the chain shows of its past, and what margin that asks for.

A `Scorecard` turns named features into a yearly probability of default and says what each of them added; the
rest turns that into a multiplier of margin. No weights are given here: they are `fit` to accounts whose end
is known. Probabilities are fractions; all functions take scalars or float64 arrays of shape [n].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, ndtr, ndtri

from keeper.errors import BadInput
from keeper.risk.inputs import Floats, between, finite, not_negative, positive, scalar, shaped, within


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that the chain shows of an account, and what it says."""

    name: str
    """Such as ``liquidations_past``, ``health_below_1_count``, ``age_days``, ``leverage``."""
    weight: float
    """What one scale above the centre adds to the log-odds of default."""
    centre: float = 0.0
    scale: float = 1.0
    least: float = -np.inf
    most: float = np.inf
    """Values beyond these count as these: nobody is judged by how far out of all experience it is."""

    def __post_init__(self) -> None:
        finite("weight", self.weight)
        finite("centre", self.centre)
        positive("scale", self.scale)
        if not self.least < self.most:
            raise BadInput(f"{self.name} must have least below most, found {self.least} and {self.most}")

    def log_odds(self, value: ArrayLike) -> Floats:
        """Return what a value adds to the log-odds."""
        counted = np.clip(finite(self.name, value), self.least, self.most)
        return np.asarray(self.weight * (counted - self.centre) / self.scale)


@dataclass(frozen=True, slots=True)
class Score:
    """A probability of default, and why."""

    pd: Floats
    contributions: Mapping[str, Floats]
    """By feature, what it added to the log-odds; with the intercept they add up to those of ``pd``."""

    def worst(self, row: int = 0) -> Sequence[str]:
        """Return the features of one account, the one first that speaks most against it."""
        of_row = {name: float(np.atleast_1d(added)[row]) for name, added in self.contributions.items()}
        return sorted(of_row, key=lambda name: -of_row[name])


@dataclass(frozen=True, slots=True)
class Scorecard:
    """A logistic model: the log-odds of default are the intercept plus what each feature adds."""

    intercept: float
    """The log-odds of an account all of whose features are at their centres."""
    features: tuple[Feature, ...]

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if not names or len(set(names)) < len(names):
            raise BadInput(f"expected features, each with a name of its own, found {names}")
        finite("intercept", self.intercept)

    def score(self, values: Mapping[str, ArrayLike]) -> Score:
        """Score accounts by all features of the card; what a name holds is one number or [n].

        Raises BadInput for a feature that is missing, unknown or not finite: what was not read is not 0.
        """
        names = {feature.name for feature in self.features}
        if names != set(values):
            raise BadInput(f"expected the features {sorted(names)}, found {sorted(values)}")
        added = {feature.name: feature.log_odds(values[feature.name]) for feature in self.features}
        return Score(np.asarray(expit(self.intercept + sum(added.values()))), added)


def fit(values: Mapping[str, ArrayLike], defaulted: ArrayLike, *, ridge: float = 0.0) -> Scorecard:
    """Return the likeliest scorecard of accounts [n], given whether each defaulted, 0 or 1.

    Features are centred on their means and scaled by their deviations, and clamped to what was seen of them.
    ``ridge`` times half the sum of squared weights is taken off the log-likelihood; it keeps weights finite
    where a feature parts the two kinds without error.

    Raises BadInput for shapes that do not fit, inputs that are not finite, a feature that does not vary,
    fewer than one of either kind, and where no finite weights are likeliest and ``ridge`` is 0.

    Source: maximum likelihood by Newton's steps; McCullagh, Nelder, "Generalized linear models", chapter 4.
    """
    ended = within("defaulted", defaulted, 0.0, 1.0)
    ended = shaped("defaulted", ended, None)
    penalty = scalar("ridge", not_negative("ridge", ridge))
    if set(np.unique(ended)) != {0.0, 1.0}:
        raise BadInput("defaulted must be 0 or 1, with some of either")
    columns = {name: shaped(name, finite(name, value), len(ended)) for name, value in values.items()}
    still = [name for name, column in columns.items() if np.ptp(column) == 0]
    if still or not columns:
        raise BadInput(f"expected features that vary, found {still or 'none'}")
    standard = np.stack([(column - column.mean()) / column.std() for column in columns.values()], axis=1)
    intercept, *weights = _likeliest(standard, ended, penalty)
    features = (
        Feature(name, weight, column.mean(), column.std(), column.min(), column.max())
        for (name, column), weight in zip(columns.items(), weights, strict=True)
    )
    return Scorecard(intercept, tuple(features))


def _likeliest(standard: Floats, ended: Floats, ridge: float) -> list[float]:
    design = np.column_stack([np.ones(len(ended)), standard])
    penalty = np.diag([0.0, *[ridge] * standard.shape[1]])
    found = np.zeros(design.shape[1])
    for _ in range(100):
        pd = expit(design @ found)
        gradient = design.T @ (ended - pd) - penalty @ found
        curvature = (design.T * (pd * (1 - pd))) @ design + penalty
        # Where features part the kinds, weights run away, the curvature vanishes and no step is the last.
        if np.linalg.cond(curvature) > 1e14:
            break
        step = np.linalg.solve(curvature, gradient)
        found = found + np.clip(step, -5.0, 5.0)
        if float(np.abs(step).max()) < 1e-10:
            return [float(each) for each in found]
    raise BadInput("no weights are likeliest: features part the two kinds, or repeat each other; set a ridge")


def stressed_pd(pd: ArrayLike, *, rho: ArrayLike, level: ArrayLike = 0.999) -> Floats:
    """Return the probability of default in a bad year: Φ((Φ⁻¹(PD) + √ρ Φ⁻¹(level)) / √(1 − ρ)).

    ``rho`` is the share of what drives defaults that all accounts have in common; ``level`` how bad the year
    is: with 0.999, one in a thousand is worse. Raises BadInput for a PD or level outside (0, 1) or a rho
    outside [0, 1).

    Source: Vasicek, "The distribution of loan portfolio value" (2002); Basel framework, CRE31.
    Property: monotone in PD and level; PD itself at rho = 0.
    """
    common = within("rho", rho, 0.0, float(np.nextafter(1.0, 0.0)))
    shift = np.sqrt(common) * ndtri(between("level", level, 0.0, 1.0))
    return np.asarray(ndtr((ndtri(between("pd", pd, 0.0, 1.0)) + shift) / np.sqrt(1 - common)))


def multiplier(
    pd: ArrayLike,
    *,
    pd_ref: ArrayLike,
    kappa: ArrayLike = 0.5,
    least: ArrayLike = 0.8,
    most: ArrayLike = 2.0,
) -> Floats:
    """Return what margin is multiplied by: 1 + κ (Φ⁻¹(PD) − Φ⁻¹(PD_ref)), within [least, most].

    1 at ``pd_ref``, by convention the stressed PD of a usual account where ``pd`` is stressed as well. Bounds
    and κ are policy. Raises BadInput for probabilities outside (0, 1), a negative κ, a least that is not
    above 0 or is above 1, and a most below 1.

    Property: never falls as PD rises.
    """
    steep = not_negative("kappa", kappa)
    lowest = within("least", positive("least", least), 0.0, 1.0)
    highest = within("most", most, 1.0, np.inf)
    apart = ndtri(between("pd", pd, 0.0, 1.0)) - ndtri(between("pd_ref", pd_ref, 0.0, 1.0))
    return np.asarray(np.clip(1 + steep * apart, lowest, highest))


@dataclass(frozen=True, slots=True)
class WrongWay:
    """Whether collateral is worth least when it is needed."""

    correlation: float
    flagged: bool


def wrong_way(collateral: ArrayLike, driver: ArrayLike, *, most: float = 0.0) -> WrongWay:
    """Hold the returns of collateral [t] against those of what keeps the account solvent [t].

    That is the price whose fall would end it, such as of its largest holding. Flagged where their correlation
    is above ``most``: both then fall together, and the PD and the loss rise at once. Raises BadInput for
    fewer than three returns, lengths that differ, series that do not vary, and a bound outside [−1, 1].
    """
    first = shaped("collateral", finite("collateral", collateral), None)
    second = shaped("driver", finite("driver", driver), len(first))
    bound = scalar("most", within("most", most, -1.0, 1.0))
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        raise BadInput("expected three returns at least, of two series that vary")
    correlation = float(np.clip(np.corrcoef(first, second)[0, 1], -1.0, 1.0))
    return WrongWay(correlation, correlation > bound)
