"""Scenario grids as data: by how much spot and volatility move together, and how much of the loss counts.

A `Grid` is a table with one row a scenario. ``margin`` prices every instrument once in each of its rows, so
that one engine speaks for every venue; ``scenarios.grid`` finds a preset by name. A venue's charges beside
the scenarios are no part of its grid: ``margin.AddOns`` has them.

Volatility moves by a share of itself or by points. Where `powers` are set, a shock is multiplied by
(30 / days)^power, with the first power below 30 days and the second from there on: short options move more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadInput

Column: TypeAlias = NDArray[np.float64]
Row: TypeAlias = tuple[float, float, float]
"""Move of the spot, shock of volatility, weight; all as fractions."""

PIVOT_DAYS = 30.0
"""The time to expiry at which a shock of volatility is what the table says."""


class Mode(Enum):
    """What a shock of volatility is a fraction of."""

    RELATIVE = "relative"
    """Of the volatility itself: 0.40 takes 50% to 70%."""
    ABSOLUTE = "absolute"
    """Of one: 0.40 takes 50% to 90%."""


@dataclass(frozen=True, slots=True)
class Grid:
    """One table of scenarios [s], and how its shocks are to be read."""

    name: str
    source: str
    rows: tuple[Row, ...]
    mode: Mode = Mode.RELATIVE
    powers: tuple[float, float] = (0.0, 0.0)
    """Below 30 days, and from there on."""
    least_days: float = 1.0
    """An option with less time left is shocked as one with so much."""
    least_vol_up: float = 0.0
    """Where volatility rises, it rises to this at least."""
    roll_days: float = 0.0
    """Time that passes in every scenario."""
    initial: float = 1.0
    """What the worst loss is multiplied with for initial margin,"""
    maintenance: float = 1.0
    """and for maintenance margin,"""
    of_all: bool = False
    """add-ons included."""

    def __post_init__(self) -> None:
        table = np.asarray(self.rows, np.float64)
        if table.ndim != 2 or table.shape[1] != 3 or not len(table) or not np.isfinite(table).all():
            raise BadInput(f"grid {self.name}: expected rows of three finite numbers, found {self.rows}")
        if (table[:, 0] < -1.0).any() or (table[:, 2] < 0.0).any():
            raise BadInput(f"grid {self.name}: no spot falls by more than all, and no weight is negative")
        if not self.least_days > 0.0 or not self.roll_days >= 0.0:
            raise BadInput(f"grid {self.name}: least_days must be above 0 and roll_days not negative")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def moves(self) -> Column:
        """The spot's move in each scenario [s]."""
        return np.array([row[0] for row in self.rows])

    @property
    def shocks(self) -> Column:
        """The shock of volatility in each scenario [s], at 30 days."""
        return np.array([row[1] for row in self.rows])

    @property
    def weights(self) -> Column:
        """The share of each scenario's profit or loss that counts [s]."""
        return np.array([row[2] for row in self.rows])

    @property
    def weights_in_coin(self) -> Column:
        """The same of what is told in coin [s], which is dear where it has fallen.

        A far move counts as if its coin were priced at the outermost spot that counts whole: so a future
        loses in it what it loses there, as in Deribit's example.
        """
        moves, weights = self.moves, self.weights
        whole = moves[weights == 1.0]
        priced = np.clip(moves, whole.min(), whole.max()) if len(whole) else moves
        return np.asarray(weights * (1.0 + moves) / (1.0 + priced))

    def label(self, scenario: int) -> str:
        """Say what one scenario is."""
        move, shock, weight = self.rows[scenario]
        unit = "%" if self.mode is Mode.RELATIVE else " points"
        part = "" if weight == 1.0 else f", {weight:.4g} of it"
        return f"#{scenario + 1} spot {100 * move:+g}%, volatility {100 * shock:+g}{unit}{part}"

    def vols(self, vol: Column | float, days: Column | float) -> Column:
        """Return volatilities [i] in every scenario [i, s], for options with so many days left [i].

        None falls below 0. Raises BadInput for what is negative or not finite.
        """
        vol, days = np.broadcast_arrays(np.asarray(vol, np.float64), np.asarray(days, np.float64))
        for name, values in (("vol", vol), ("days", days)):
            if not (np.isfinite(values) & (values >= 0.0)).all():
                raise BadInput(f"{name} must be finite and not negative, found {values}")
        short, long = self.powers
        power = np.where(days < PIVOT_DAYS, short, long)
        scale = (PIVOT_DAYS / np.maximum(days, self.least_days)) ** power
        unit = vol if self.mode is Mode.RELATIVE else np.ones_like(vol)
        shocks = self.shocks
        shocked = vol[..., None] + (unit * scale)[..., None] * shocks
        least = np.where(shocks > 0.0, self.least_vol_up, 0.0)
        return np.asarray(np.maximum(shocked, least))


def ladder(moves: Iterable[float], shocks: Iterable[float]) -> tuple[Row, ...]:
    """Return each move with each shock, in full weight."""
    kinds = tuple(shocks)
    return tuple((move, shock, 1.0) for move in moves for shock in kinds)


def peaked(moves: tuple[float, ...], *, up: float, others: tuple[float, ...]) -> tuple[Row, ...]:
    """Return each move with volatility up and as else, but the outermost moves with volatility up only."""
    inner = ladder(moves[1:-1], (up, *others))
    return ((moves[0], up, 1.0), *inner, (moves[-1], up, 1.0))


def tails(weights: Mapping[float, float], *, up: float) -> tuple[Row, ...]:
    """Return far moves with volatility up, each with the share of its loss that counts."""
    return tuple((move, up, weight) for move, weight in weights.items())


def span_rows(price_range: float, *, up: float, down: float) -> tuple[Row, ...]:
    """Return SPAN's 16 scenarios of a range in SPAN's order: thirds of it, and three times it at a third."""
    thirds = (0, 1, -1, 2, -2, 3, -3)
    plain = ladder((third / 3 * price_range for third in thirds), (up, -down))
    # No price falls below 0.
    return (*plain, (3 * price_range, 0.0, 1 / 3), (max(-3 * price_range, -1.0), 0.0, 1 / 3))


FAR = (-0.66, -0.33, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
"""Moves against which far short options are held, at three venues alike."""

SPAN16 = Grid(
    "span16",
    "CME SPAN's 16 scenarios, extremes three times the range at 33%, volatility by points, one day ahead; "
    "CME sets both ranges by product, these (15% and 15 points) are ours",
    span_rows(0.15, up=0.15, down=0.15),
    mode=Mode.ABSOLUTE,
    roll_days=1.0,
)
PARADEX24 = Grid(
    "paradex24",
    "docs.paradex.trade/risk/portfolio-margin, the table of 24 scenarios; maintenance is 50% of initial",
    (
        *peaked((0.16, 0.12, 0.08, 0.04, 0.0, -0.04, -0.08, -0.12, -0.16), up=0.40, others=(-0.22,)),
        *tails(dict(zip(FAR, (0.24, 0.48, 0.32, 0.16, 0.08, 0.0533, 0.04, 0.032), strict=True)), up=0.40),
    ),
    powers=(0.30, 0.13),
    maintenance=0.5,
)
DERIBIT = Grid(
    "deribit",
    "support.deribit.com, Portfolio Margin, and the example of private/pme/simulate, for BTC; the fraction "
    "of the far moves is not published: 16% over the move stands for it, as in the example, and the dampener "
    "is left out",
    (
        *ladder((0.16, 0.12, 0.08, 0.04, 0.0, -0.04, -0.08, -0.12, -0.16), (0.50, 0.0, -0.25)),
        *tails({move: 0.16 / abs(move) for move in FAR}, up=0.50),
    ),
    powers=(0.30, 0.13),
    least_vol_up=0.50,
    maintenance=0.8,
    of_all=True,
)
DERIVE_PM1 = Grid(
    "derive_pm1",
    "derivexyz/v2-core, scripts/config-mainnet.sol, getDefaultScenarios and getPMRMParams",
    peaked((0.20, 0.15, 0.10, 0.05, 0.0, -0.05, -0.10, -0.15, -0.20), up=0.60, others=(0.0, -0.30)),
    powers=(0.30, 0.13),
    initial=1.25,
)
DERIVE_PM2 = Grid(
    "derive_pm2",
    "docs.derive.xyz, PM2 and Portfolio Margin Parameters, for BTC and ETH; that the outermost moves have "
    "volatility up only is as in PM1. Its two scenarios of skew, which take the absolute loss of every "
    "expiry, are no row of a grid and are left out",
    (
        *peaked((0.18, 0.135, 0.09, 0.045, 0.0, -0.045, -0.09, -0.135, -0.18), up=0.50, others=(0.0, -0.275)),
        *tails(dict(zip(FAR, (0.21, 0.42, 0.27, 0.13, 0.069, 0.046, 0.034, 0.027), strict=True)), up=0.50),
    ),
    powers=(0.30, 0.13),
    least_vol_up=0.45,
    maintenance=0.8,
)
OKX = Grid(
    "okx",
    "OKX, Portfolio margin mode, for BTC and ETH since January 2025: MR1, and MR6 of which half counts (not "
    "verified); volatility by 30 points, which is what it says of an option at its expiry, less of others",
    (
        *ladder((0.0, 0.04, -0.04, 0.08, -0.08, 0.12, -0.12), (0.30, 0.0, -0.30)),
        (0.24, 0.0, 0.5),
        (-0.24, 0.0, 0.5),
    ),
    mode=Mode.ABSOLUTE,
)
TIMS10 = Grid(
    "tims10",
    "OCC, RBH/CPM User Guide 1.13: ten equidistant points, here of the 15% for equities; volatility stays",
    ladder((-0.15, -0.12, -0.09, -0.06, -0.03, 0.03, 0.06, 0.09, 0.12, 0.15), (0.0,)),
)
PRESETS: Mapping[str, Grid] = MappingProxyType(
    {each.name: each for each in (SPAN16, PARADEX24, DERIBIT, DERIVE_PM1, DERIVE_PM2, OKX, TIMS10)}
)
