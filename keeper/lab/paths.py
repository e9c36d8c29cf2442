"""True prices through a crash, second by second, and what a fast and a slow feed make of them.

Generated from a seed, and shaped by what was measured on 2020-03-12 (hourly bars; figures computed from
Binance public klines). Nothing here is a recording, and SYN is a synthetic market that never existed.

Four hours are made: a calm one, the fall, a rebound, a second fall. Each hour's close-to-low is met exactly;
the noise around the skeleton is correlated, and scaled until the realised volatility of one-minute returns
over the four hours is the measured one. The demo sees two hours of it: half an hour of calm, the fall, and
half an hour of rebound.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from keeper.units import WAD, FeedId, UnixS, Wad

Floats: TypeAlias = NDArray[np.float64]

HOUR = 3600
SPAN = 4 * HOUR
HOURS_A_YEAR = 8760
BLOCK_S = 12
WINDOW_START = HOUR // 2
WINDOW = 2 * HOUR
"""The demo's part of the four hours, in seconds."""
START_S: UnixS = 1_584_005_400
"""2020-03-12 09:30 UTC: the hour of the fall begins half an hour later."""
LAG_S = (30, 60)
"""How far a slow feed is behind the truth, at least and at most."""
PRICE_PLACES = 4
UNITS = 10_000
"""Of a price, in one quote unit: as many as its decimal places tell apart."""
WILDEST = 1.5e-3
"""More noise a second than any of the shapes needs."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one market's four hours look like; falls are close-to-low, as fractions of the close before."""

    feed: FeedId
    start: float
    worst_1h: float
    worst_4h: float
    volatility: float
    """Realised, annualised over 8,760 hours."""
    rebound: float
    """How far above the low of the first fall the second hour comes."""


SHAPES = (
    Shape("BTC/USD", 7300.0, worst_1h=-0.2453, worst_4h=-0.3482, volatility=3.832, rebound=0.10),
    Shape("ETH/USD", 185.0, worst_1h=-0.2558, worst_4h=-0.3242, volatility=4.122, rebound=0.10),
    # Made up: a smaller fall and a stronger rebound, so that sellers come into danger as well.
    Shape("SYN/USD", 25.0, worst_1h=-0.19, worst_4h=-0.26, volatility=4.5, rebound=0.15),
)
CORRELATION = np.array([[1.0, 0.9, 0.6], [0.9, 1.0, 0.6], [0.6, 0.6, 1.0]])
CALM, FALL, AFTER = 0.25, 1.3, 1.0
"""Noise of the hours relative to one another: volatility comes in clusters."""
CALM_DRIFT = -0.01
BOUNCE = 0.04
"""From the low of the first fall to its hour's close."""


@dataclass(frozen=True, slots=True)
class Wick:
    """A false print: from ``first_s`` until ``last_s`` one market's fast feed is off by ``depth`` < 0."""

    feed: FeedId
    first_s: UnixS
    last_s: UnixS
    depth: float


@dataclass(frozen=True, slots=True)
class Round:
    """A round of a slow feed."""

    feed: FeedId
    price_wad: Wad


@dataclass(frozen=True, slots=True)
class Paths:
    """One run's prices: row i is second ``start_s + i``; block k comes at ``start_s + 12 k``, k from 1."""

    seed: int
    start_s: UnixS
    blocks: int
    feeds: tuple[FeedId, ...]
    true: Floats
    """[seconds, feed], quote units."""
    fast: Floats
    """The same, with the wick."""
    wick: Wick
    rounds: Mapping[int, tuple[Round, ...]]
    """Slow rounds by block; those of block 0 belong to the set-up."""

    def block_time_s(self, block: int) -> UnixS:
        return self.start_s + BLOCK_S * block

    def true_at(self, timestamp_s: UnixS) -> dict[FeedId, float]:
        """Return the true prices at a second of the run."""
        row = self.true[timestamp_s - self.start_s]
        return {feed: float(price) for feed, price in zip(self.feeds, row, strict=True)}

    def write_csv(self, path: Path) -> None:
        """Write what the fast feed prints, for a recorded feed: ``timestamp_s,feed,price``."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["timestamp_s", "feed", "price"])
            writer.writerows(self._prints())

    def _prints(self) -> Iterator[tuple[int, str, str]]:
        for second, row in enumerate(self.fast.tolist()):
            for feed, price in zip(self.feeds, row, strict=True):
                yield self.start_s + second, feed, f"{price:.{PRICE_PLACES}f}"


def wad(price: float) -> Wad:
    """Return a generated price exactly as its decimal digits say it."""
    return round(price * UNITS) * (WAD // UNITS)


def generate(seed: int, *, fast: bool = False) -> Paths:
    """Make the prices of one run: 600 blocks; with ``fast`` 200.

    The short run is the same film played three times as fast: prices and the lag of the slow feed alike. What
    the protocol and the chain count in seconds stays as it is, so that it is the harder one.
    """
    rng = np.random.default_rng([seed, 0x9A7])
    hours = four_hours(rng)
    step = 3 if fast else 1
    seconds = WINDOW // step
    true = np.round(hours[WINDOW_START : WINDOW_START + WINDOW + 1 : step], PRICE_PLACES)
    before = np.round(hours[: WINDOW_START + 1 : step], PRICE_PLACES)
    blocks = seconds // BLOCK_S
    feeds = tuple(shape.feed for shape in SHAPES)
    wick = _wick(rng, blocks, feeds)
    prints = true.copy()
    span = slice(wick.first_s - START_S, wick.last_s - START_S)
    column = feeds.index(wick.feed)
    prints[span, column] = np.round(prints[span, column] * (1 + wick.depth), PRICE_PLACES)
    lags = rng.integers(*LAG_S, len(feeds), endpoint=True) // step
    rounds = _slow_rounds(lags, np.vstack([before[:-1], true]), len(before) - 1, blocks, feeds)
    return Paths(seed, START_S, blocks, feeds, true, prints, wick, rounds)


def four_hours(rng: np.random.Generator) -> Floats:
    """Make the true prices of the four hours, [14401, 3], shaped by SHAPES."""
    noise = _noise(rng)
    lag_s = rng.uniform(-20, 20, len(SHAPES))
    bursts = _bursts(rng)
    columns = []
    for i, shape in enumerate(SHAPES):
        fall = _monotone(bursts, lag_s[i])
        low_at = HOUR + int(rng.uniform(0.80, 0.92) * HOUR)
        columns.append(_calibrated(shape, noise[:, i], fall, low_at))
    return np.column_stack(columns)


def realised_volatility(prices: Floats) -> float:
    """Return the volatility of one-minute log returns, annualised over 8,760 hours of 60 minutes."""
    returns = np.diff(np.log(prices[::60]))
    return float(np.sqrt(np.mean(returns**2) * 60 * HOURS_A_YEAR))


def close_to_low(prices: Floats, hours: int) -> float:
    """Return the worst fall from an hour's close to the lowest price of the ``hours`` after it."""
    closes = range(0, len(prices) - hours * HOUR, HOUR)
    return min(float(prices[t : t + hours * HOUR + 1].min() / prices[t] - 1) for t in closes)


def _noise(rng: np.random.Generator) -> Floats:
    """Make correlated noise in log prices, [14401, 3], zero at every full hour."""
    scale = np.repeat([CALM, FALL, AFTER, AFTER], HOUR)
    # Regimes change over ten minutes, not at a stroke.
    scale = np.convolve(np.pad(scale, 300, mode="edge"), np.full(601, 1 / 601), mode="valid")
    steps = rng.standard_normal((SPAN, len(SHAPES))) @ np.linalg.cholesky(CORRELATION).T
    walk = np.vstack([np.zeros(len(SHAPES)), np.cumsum(steps * scale[:, None], axis=0)])
    ramp = np.linspace(0, 1, HOUR, endpoint=False)[:, None]
    for start in range(0, SPAN, HOUR):
        first, last = walk[start].copy(), walk[start + HOUR].copy()
        walk[start : start + HOUR] -= first + ramp * (last - first)
    walk[SPAN] = 0
    return walk


def _bursts(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Draw the cascades that make up the fall: centre and width in seconds, weight."""
    count = int(rng.integers(5, 8))
    centres = np.sort(rng.uniform(0.08, 0.9, count)) * HOUR
    weights = rng.dirichlet(np.full(count, 6.0)) * 0.5
    return [
        (float(centre), float(rng.uniform(300, 600)), float(weight))
        for centre, weight in zip(centres, weights, strict=True)
    ]


def _monotone(bursts: list[tuple[float, float, float]], shift_s: float) -> Floats:
    """Return a curve from 0 to 1 over one hour: a steady part and the bursts."""
    seconds = np.arange(HOUR + 1.0)
    steady = 1 - sum(weight for *_, weight in bursts)
    curve = steady * seconds / HOUR
    for centre, width, weight in bursts:
        curve = curve + weight / (1 + np.exp(-(seconds - centre - shift_s) / (width / 8)))
    scaled: Floats = (curve - curve[0]) / (curve[-1] - curve[0])
    return scaled


def _calibrated(shape: Shape, noise: Floats, fall: Floats, low_at: int) -> Floats:
    """Return prices with the shape's two falls and its volatility."""

    def excess(scale: float) -> float:
        prices = _with_falls(shape, noise * scale, fall, low_at)
        return realised_volatility(prices) - shape.volatility

    # Where the falls alone are already as volatile, there is no room for noise.
    scale = brentq(excess, 0.0, WILDEST, xtol=1e-9) if excess(0.0) < 0 else 0.0
    return _with_falls(shape, noise * scale, fall, low_at)


def _with_falls(shape: Shape, noise: Floats, fall: Floats, low_at: int) -> Floats:
    """Return prices whose two falls are met exactly, whatever the noise adds to the skeleton."""
    log = noise.copy()
    seconds = np.arange(HOUR + 1.0)
    # The calm hour.
    close = math.log1p(CALM_DRIFT)
    log[: HOUR + 1] += close * seconds / HOUR
    # The fall, with a bounce before the hour ends.
    low = close + math.log1p(shape.worst_1h)
    next_close = low + math.log1p(BOUNCE)
    part = slice(HOUR, 2 * HOUR + 1)
    log[part] = _hour(noise[part], close, next_close, low, fall, low_at - HOUR)
    # The rebound, fading a little.
    close = next_close
    next_close = low + math.log1p(shape.rebound * 0.9)
    top = low + math.log1p(shape.rebound) - close
    rise = np.interp(seconds, [0, HOUR / 2, HOUR], [0, top, next_close - close])
    part = slice(2 * HOUR, 3 * HOUR + 1)
    log[part] = noise[part] + close + rise
    # The second fall.
    close, low = next_close, math.log1p(shape.worst_4h)
    part = slice(3 * HOUR, 4 * HOUR + 1)
    log[part] = _hour(noise[part], close, low + math.log1p(BOUNCE), low, fall, int(0.9 * HOUR))
    return shape.start * np.exp(log)


def _hour(noise: Floats, close: float, next_close: float, low: float, fall: Floats, low_at: int) -> Floats:
    """Lay an hour's fall over the noise so that its lowest point is ``low``, near second ``low_at``."""
    seconds = np.arange(HOUR + 1)
    curve = np.interp(seconds * HOUR / low_at, np.arange(HOUR + 1.0), fall)
    after = np.clip((seconds - low_at) / (HOUR - low_at), 0, 1)

    def path(depth: float) -> Floats:
        bottom = close - depth
        skeleton = np.where(seconds <= low_at, close - depth * curve, bottom + (next_close - bottom) * after)
        return noise + skeleton

    while path(0.0).min() < low:
        noise = noise * 0.9  # so wild that it alone falls further: rare, and only while calibrating
    depth = brentq(lambda tried: path(tried).min() - low, 0.0, 2 * (close - low) + 0.1, xtol=1e-12)
    return path(depth)


def _wick(rng: np.random.Generator, blocks: int, feeds: tuple[FeedId, ...]) -> Wick:
    """Draw one false print of two or three blocks, early, while the market is calm."""
    first_block = int(blocks * rng.uniform(0.07, 0.12))
    first_s = START_S + BLOCK_S * first_block + 5
    length = BLOCK_S * int(rng.integers(2, 4))
    return Wick(str(rng.choice(feeds)), first_s, first_s + length, -float(rng.uniform(0.08, 0.12)))


def _slow_rounds(
    lags: NDArray[np.int64],
    true: Floats,
    zero: int,
    blocks: int,
    feeds: tuple[FeedId, ...],
    *,
    deviation: float = 0.005,
    heartbeat_s: int = 3600,
) -> dict[int, tuple[Round, ...]]:
    """Make a slow feed's rounds: the price of ``lags`` seconds ago, where it moved 0.5% or an hour went by.

    ``true`` begins ``zero`` seconds before the run, so that the first blocks have a past to lag behind.
    """
    last = [float(true[zero - lag, i]) for i, lag in enumerate(lags)]
    last_at = [0] * len(feeds)
    rounds = {0: tuple(Round(feed, wad(price)) for feed, price in zip(feeds, last, strict=True))}
    for block in range(1, blocks + 1):
        due = []
        for i, feed in enumerate(feeds):
            price = float(true[zero + BLOCK_S * block - lags[i], i])
            overdue = BLOCK_S * (block - last_at[i]) >= heartbeat_s
            if abs(price / last[i] - 1) >= deviation or overdue:
                last[i], last_at[i] = price, block
                due.append(Round(feed, wad(price)))
        if due:
            rounds[block] = tuple(due)
    return rounds
