"""What other libraries make of the same returns: covariances, GARCH and quantiles."""

from typing import Any

import numpy as np
import pandas as pd
import QuantLib
from arch import arch_model
from sklearn.covariance import ledoit_wolf

LIBRARIES = ("arch", "pandas", "quantlib", "scikit-learn")
DECAYS = (0.94, 0.97)
LEVELS = (0.9, 0.95, 0.975, 0.99, 0.999)


def make() -> dict[str, Any]:
    """Return inputs and outputs, the inputs rounded so that they are exactly what the file says."""
    generator = np.random.default_rng(1)
    mixed = generator.standard_normal((60, 5)) @ generator.standard_normal((5, 5))
    returns = np.round(mixed * 0.02 + 0.001, 6)
    series = np.round(clustered(generator, 600), 6)
    return {
        "returns": returns.tolist(),
        "series": series.tolist(),
        "ledoit_wolf": shrunk(returns),
        "ledoit_wolf_wide": shrunk(returns[:4]),
        "ewma": {str(decay): smoothed(series, decay) for decay in DECAYS},
        "garch": fitted(series, asymmetric=False),
        "gjr": fitted(series, asymmetric=True),
        "var": [[level, value_at_risk(series[:-1], level)] for level in LEVELS],
    }


def clustered(generator: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Draw returns whose volatility follows them, more after a fall."""
    found, variance = np.empty(n), 4e-4
    for place, shock in enumerate(generator.standard_normal(n)):
        found[place] = np.sqrt(variance) * shock
        variance = 2e-5 + (0.06 + 0.08 * (shock < 0)) * found[place] ** 2 + 0.85 * variance
    return found


def shrunk(returns: Any) -> dict[str, Any]:
    covariance, shrinkage = ledoit_wolf(returns)
    return {"covariance": covariance.tolist(), "shrinkage": float(shrinkage)}


def smoothed(series: Any, decay: float) -> list[float]:
    found: list[float] = pd.Series(series**2).ewm(alpha=1 - decay, adjust=False).mean().tolist()
    return found


def fitted(series: Any, *, asymmetric: bool) -> dict[str, Any]:
    """Fit percent, as arch advises, and return parameters and variances of that."""
    model = arch_model(100 * series, mean="Zero", vol="GARCH", p=1, o=int(asymmetric), q=1, rescale=False)
    found = model.fit(disp="off", tol=1e-10)
    variance = found.conditional_volatility**2
    ahead = found.forecast(horizon=1).variance.to_numpy()[-1, 0]
    return {"parameters": dict(found.params), "variance": variance.tolist(), "next": float(ahead)}


def value_at_risk(series: Any, level: float) -> float:
    """Ask of 599 returns: between two of them, all conventions but interpolation agree."""
    statistics = QuantLib.RiskStatistics()
    for move in series:
        statistics.add(float(move))
    found: float = statistics.valueAtRisk(level)
    return found
