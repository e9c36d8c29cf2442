"""Closes that are made, for the example of the docs: ``python -m tests.closes > docs/risk/closes.csv``.

Two assets of no market: their returns share most of their surprises, which are Student's t with 4 degrees of
freedom, and their volatility follows their returns.
"""

from __future__ import annotations

import math
import sys
from datetime import date, timedelta

import numpy as np

DAYS = 1_500
FIRST = date(2021, 1, 1)
SPOTS = {"BTC": 60_000.0, "ETH": 3_000.0}
"""Where they end."""
TOGETHER = np.array([[1.0, 0.0], [0.85, 0.7]])
SD = 0.03


def made(seed: int = 1) -> str:
    """Return the file, byte by byte."""
    shocks = np.random.default_rng(seed).standard_t(4, (DAYS - 1, 2)) / math.sqrt(2)
    returns, variance = np.empty_like(shocks), np.full(2, SD**2)
    for day, shock in enumerate(shocks):
        returns[day] = np.sqrt(variance) * (TOGETHER @ shock)
        variance = 0.04 * SD**2 + 0.06 * returns[day] ** 2 + 0.90 * variance
    path = np.vstack([np.zeros(2), returns.cumsum(axis=0)])
    closes = np.array(list(SPOTS.values())) * np.exp(path - path[-1])
    days = [FIRST + timedelta(days=number) for number in range(DAYS)]
    rows = [f"{day},{btc:.2f},{eth:.2f}\n" for day, (btc, eth) in zip(days, closes.tolist(), strict=True)]
    return "".join([f"day,{','.join(SPOTS)}\n", *rows])


if __name__ == "__main__":
    sys.stdout.write(made())
