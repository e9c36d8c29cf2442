"""How returns move, each and together: covariances that forecast, that are stable, and that are stressed.

Returns are [n] of one asset or [n, i] of several, oldest first, per step of whatever length; variances are
per step as well. No mean is taken off unless a function says so: over short steps it is smaller than its
error. What hourly returns need besides, the hour of the day and jumps, is in ``keeper.risk.intraday``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import lfilter

from keeper.errors import BadInput, ConfigError
from keeper.risk import inputs
from keeper.risk.inputs import Floats


class Shrunk(NamedTuple):
    """A covariance between the sample's and a simple one's."""

    covariance: Floats
    """[i, i]"""
    shrinkage: float
    """The part that the simple one has, in [0, 1]."""


class Nearest(NamedTuple):
    """A correlation that may stand for a matrix that is none."""

    correlation: Floats
    """[i, i]"""
    distance: float
    """From what was given, by Frobenius: the root of the sum of all squared differences."""


@dataclass(frozen=True, slots=True)
class Garch:
    """A variance that follows returns: h' = omega + (alpha + gamma [r < 0]) r^2 + beta h."""

    omega: float
    alpha: float
    beta: float
    gamma: float = 0.0
    """What a fall adds beyond a rise (GJR); 0 of the plain model."""

    def __post_init__(self) -> None:
        for name in ("omega", "alpha", "beta"):
            inputs.not_negative(name, getattr(self, name))
        inputs.not_negative("alpha + gamma", self.alpha + self.gamma)

    @property
    def persistence(self) -> float:
        """Return what is left of a surprise a step later, falls being as likely as rises."""
        return self.alpha + self.gamma / 2 + self.beta

    def path(self, returns: ArrayLike, *, initial: float | None = None) -> Floats:
        """Return [n + 1] the variance expected of each return, from earlier ones alone, and of the next.

        ``initial`` is that of the first; without it the mean of the squared returns is taken, which no
        forecaster knew then.
        """
        moves = inputs.finite("returns", returns, 1)
        squares = moves**2
        first = float(inputs.not_negative("initial", np.mean(squares) if initial is None else initial))
        news = self.omega + (self.alpha + self.gamma * (moves < 0)) * squares
        rest, _ = lfilter([1.0], [1.0, -self.beta], news, zi=[self.beta * first])
        return np.concatenate([[first], rest])


def ewma(returns: ArrayLike, *, decay: float) -> Floats:
    """Return what is expected of the next returns: the variance of a series [n], the covariance of [n, i].

    S' = decay S + (1 - decay) r r', from S = r0 r0' of the first return on.

    Raises BadInput for returns that are not finite or not there, and a decay outside (0, 1).
    Source: RiskMetrics Technical Document (1996), section 5.2: 0.94 for days.
    Property: positive semidefinite; the last of `ewma_path`.
    """
    moves = inputs.finite("returns", returns, 1, 2)
    kept = inputs.probability("decay", decay)
    counted = (1 - kept) * kept ** np.arange(len(moves) - 1, -1, -1.0)
    counted[0] /= 1 - kept
    return np.asarray((moves.T * counted) @ moves)[()]


def ewma_path(returns: ArrayLike, *, decay: float) -> Floats:
    """Return `ewma` after each return, [n] or [n, i, i]: entry t knows returns up to t, and expects t + 1.

    Raises BadInput as `ewma`.
    """
    moves = inputs.finite("returns", returns, 1, 2)
    kept = inputs.probability("decay", decay)
    products = moves**2 if moves.ndim == 1 else moves[:, :, None] * moves[:, None, :]
    path, _ = lfilter([1 - kept], [1.0, -kept], products, axis=0, zi=kept * products[:1])
    return np.asarray(path)


def ledoit_wolf(returns: ArrayLike) -> Shrunk:
    """Return the covariance of returns [n, i] shrunk towards one variance for all and no covariance.

    The mean is taken off, and sums are divided by n. Raises BadInput for returns that are not finite, no
    matrix, or of one step alone.

    Source: Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004),
    lemmas 3.2 to 3.4.
    Property: equal to scikit-learn's; the trace is the sample's, and positive definite unless nothing moves.
    """
    moves, sample = _sample(returns)
    n, size = moves.shape
    target = np.trace(sample) / size * np.eye(size)
    apart = float(((sample - target) ** 2).sum())
    noise = float(((moves**2).sum(axis=1) ** 2).sum() / n - (sample**2).sum()) / n
    return _shrunk(sample, target, noise, apart)


def constant_correlation(returns: ArrayLike) -> Shrunk:
    """Return the covariance of returns [n, i] shrunk towards one correlation, the mean, for every pair.

    The mean is taken off, and sums are divided by n. Raises BadInput for returns that are not finite, fewer
    than 2 assets, and an asset that does not move.

    Source: Ledoit, Wolf, "Honey, I shrunk the sample covariance matrix" (2003), appendix.
    Property: the variances are the sample's.
    """
    moves, sample = _sample(returns)
    n, size = moves.shape
    deviation = np.sqrt(np.diag(sample))
    if size < 2 or not (deviation > 0).all():
        raise BadInput("returns must be of 2 or more assets, all of which move")
    apart = ~np.eye(size, dtype=bool)
    mean = float((sample / np.outer(deviation, deviation))[apart].mean())
    target = np.where(apart, mean * np.outer(deviation, deviation), sample)
    noise = (moves**2).T @ moves**2 / n - sample**2
    # How the noise of a covariance goes with that of the variance of its first asset.
    shared = (moves**3).T @ moves / n - np.diag(sample)[:, None] * sample
    along = mean * (shared * deviation / deviation[:, None])[apart].sum() + np.trace(noise)
    return _shrunk(sample, target, (noise.sum() - along) / n, float(((sample - target) ** 2).sum()))


def stress_correlation(correlation: ArrayLike, k: float) -> Floats:
    """Return (1 - k) C + k 11': correlations [i, i] moved by the part k of the way to 1, as in a crash.

    Raises BadInput for k outside [0, 1], and what is no correlation (see `nearest_correlation`).
    Property: positive semidefinite, and no entry below what it was.
    """
    part = inputs.scalar("k", inputs.within("k", k, 0.0, 1.0))
    found = inputs.positive_semidefinite("correlation", correlation)
    if not np.allclose(np.diag(found), 1.0, rtol=0, atol=1e-9):
        raise BadInput("correlation must have 1 everywhere on its diagonal")
    return np.asarray((1 - part) * found + part)


def nearest_correlation(matrix: ArrayLike, *, tolerance: float = 1e-10, rounds: int = 10_000) -> Nearest:
    """Return the correlation nearest to a symmetric matrix [i, i], and how far it is from it.

    For correlations that were set one by one, and so may contradict each other. Raises BadInput for a
    matrix that is not symmetric or not finite, and where so many rounds do not come to rest.

    Source: Higham, "Computing the nearest correlation matrix: a problem from finance" (2002), algorithm 3.3.
    Property: a correlation is its own nearest.
    """
    given = inputs.symmetric("matrix", matrix)
    unit, correction = given.copy(), np.zeros_like(given)
    for _ in range(rounds):
        before = unit
        shifted = unit - correction
        eigenvalues, vectors = np.linalg.eigh(shifted)
        semidefinite = (vectors * np.maximum(eigenvalues, 0.0)) @ vectors.T
        correction = semidefinite - shifted
        unit = semidefinite.copy()
        np.fill_diagonal(unit, 1.0)
        if np.linalg.norm(unit - before) <= tolerance * np.linalg.norm(unit):
            # One projection leaves a diagonal not quite 1, the other eigenvalues a little below 0.
            scale = np.sqrt(np.diag(semidefinite))
            found = semidefinite / np.outer(scale, scale)
            np.fill_diagonal(found, 1.0)
            return Nearest(found, float(np.linalg.norm(given - found)))
    raise BadInput(f"no nearest correlation within {tolerance} was found in {rounds} rounds")


def absorption_ratio(covariance: ArrayLike, *, components: int = 1) -> float:
    """Return the part of all variance that the largest components explain: 1 where everything moves as one.

    Raises BadInput for a covariance [i, i] that is none, without variance, and more components than assets.
    Source: Kritzman, Li, Page, Rigobon, "Principal components as a measure of systemic risk" (2011), equation
    1.
    """
    found = inputs.positive_semidefinite("covariance", covariance)
    inputs.count("components", components, least=1, most=len(found))
    eigenvalues = np.maximum(np.linalg.eigvalsh(found), 0.0)
    if not eigenvalues[-1] > 0:
        raise BadInput("covariance must have a variance above 0")
    return float(eigenvalues[-components:].sum() / eigenvalues.sum())


def fit_garch(returns: ArrayLike, *, asymmetric: bool = False) -> Garch:
    """Return the GARCH(1,1), or GJR where falls may count for more, that fits returns [n] of mean 0 best.

    By normal maximum likelihood, which is consistent for other distributions as well. Raises BadInput for
    returns that do not move, and where no fit is found; ConfigError where the extra ``risk`` is not
    installed.

    Source: Bollerslev (1986); Glosten, Jagannathan, Runkle (1993).
    """
    moves = inputs.finite("returns", returns, 1)
    try:
        from arch import arch_model
    except ImportError as error:
        raise ConfigError("to fit a GARCH needs the extra: pip install 'hybrid-keeper[risk]'") from error
    unit = float(np.sqrt(np.mean(moves**2)))
    if not unit > 0:
        raise BadInput("returns must move")
    # Of a variance near 1 the search finds its way best.
    model = arch_model(moves / unit, mean="Zero", vol="GARCH", p=1, o=int(asymmetric), q=1, rescale=False)
    fitted = model.fit(disp="off", show_warning=False)
    if fitted.convergence_flag != 0:
        raise BadInput(f"no GARCH was found for {len(moves)} returns: {fitted.optimization_result.message}")
    found = fitted.params
    gamma = float(found["gamma[1]"]) if asymmetric else 0.0
    return Garch(float(found["omega"]) * unit**2, float(found["alpha[1]"]), float(found["beta[1]"]), gamma)


def _sample(returns: ArrayLike) -> tuple[Floats, Floats]:
    """Return returns [n, i] without their means, and their covariance [i, i]."""
    moves = inputs.finite("returns", returns, 2)
    if len(moves) < 2:
        raise BadInput("returns must be 2 or more: of one, less its mean, nothing is left")
    moves = moves - moves.mean(axis=0)
    return moves, np.asarray(moves.T @ moves / len(moves))


def _shrunk(sample: Floats, target: Floats, noise: float, apart: float) -> Shrunk:
    """Shrink by the part of the distance that is noise; not at all where there is no distance."""
    part = min(max(noise / apart, 0.0), 1.0) if apart > 0 else 0.0
    return Shrunk((1 - part) * sample + part * target, part)
