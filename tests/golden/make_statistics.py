"""What statsmodels makes of the same numbers: a logistic fit, a smoothed variance, a nearest correlation."""

import warnings
from typing import Any

import numpy as np
from statsmodels.discrete.discrete_model import Logit
from statsmodels.stats.correlation_tools import corr_nearest
from statsmodels.tools.sm_exceptions import IterationLimitWarning
from statsmodels.tsa.holtwinters import SimpleExpSmoothing

LIBRARIES = ("statsmodels",)
DECAYS = (0.94, 0.97)
INCONSISTENT = ((1.0, 0.9, -0.4, 0.2), (0.9, 1.0, 0.5, 0.1), (-0.4, 0.5, 1.0, 0.7), (0.2, 0.1, 0.7, 1.0))
"""Correlations that were set one by one: the first two go together, and the third with one of them alone."""


def make() -> dict[str, Any]:
    """Return inputs and outputs, the inputs rounded so that they are exactly what the file says."""
    generator = np.random.default_rng(7)
    features = np.round(generator.standard_normal((200, 3)) * (1.0, 5.0, 0.2) + (0.0, 20.0, 1.0), 6)
    odds = -1.0 + 0.8 * features[:, 0] + 0.1 * (features[:, 1] - 20) - 2.0 * (features[:, 2] - 1)
    defaulted = (generator.random(200) < 1 / (1 + np.exp(-odds))).astype(int)
    series = np.round(0.02 * generator.standard_t(4, 300), 6)
    return {
        "features": features.tolist(),
        "defaulted": defaulted.tolist(),
        "logit": fitted(features, defaulted),
        "series": series.tolist(),
        "ewma": {str(decay): smoothed(series, decay) for decay in DECAYS},
        "inconsistent": [list(row) for row in INCONSISTENT],
        "nearest": nearest(np.array(INCONSISTENT)),
    }


def fitted(features: Any, defaulted: Any) -> dict[str, Any]:
    """Fit with an intercept, and return the slopes and what each account's probability is."""
    columns = np.column_stack([np.ones(len(features)), features])
    found = Logit(defaulted, columns).fit(method="newton", tol=1e-12, maxiter=100, disp=False)
    return {"parameters": found.params.tolist(), "pd": found.predict(columns).tolist()}


def smoothed(series: Any, decay: float) -> list[float]:
    """Smooth squares, from the first of them on."""
    model = SimpleExpSmoothing(series**2, initialization_method="known", initial_level=series[0] ** 2)
    found: list[float] = model.fit(smoothing_level=1 - decay, optimized=False).level.tolist()
    return found


def nearest(matrix: Any) -> list[list[float]]:
    """Have it run through all its rounds, which it warns of: the least eigenvalue nears 0 from below."""
    with warnings.catch_warnings(action="ignore", category=IterationLimitWarning):
        found: list[list[float]] = corr_nearest(matrix, threshold=1e-15, n_fact=1_000).tolist()
    return found
