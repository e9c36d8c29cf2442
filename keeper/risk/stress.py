"""What if: crashes that were, shocks made up, the likeliest one that breaks, and what each sets off.

Moves are fractions of a price, −0.25 for a quarter down; falls are the same with the sign turned; money is in
quote. A shock is a vector [a], one move an asset; a book that is linear in prices is one of notionals w [a],
above 0 where it is long, and what it makes of shocks [s, a] is ``shocks @ w``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from keeper.errors import BadInput
from keeper.risk.engine import compiles
from keeper.risk.holdings import Standings
from keeper.risk.inputs import (
    Floats,
    finite,
    not_negative,
    positive,
    positive_semidefinite,
    scalar,
    shaped,
    within,
)

THREADS = 2
MANY = 10_000_000
"""From so many accounts at so many levels on, loading the compiler is worth its time."""


@dataclass(frozen=True, slots=True)
class Crash:
    """How one asset fared in one of the crashes that were."""

    name: str
    asset: str
    worst: Mapping[int, float]
    """By hours, the move from the last hourly close before to the lowest print within so many hours."""
    volatility: float
    """Realised in that window, from hourly closes, annualised on 8,760 hours."""
    widest_hour: float
    """From the highest to the lowest print of one hour, over the lowest."""
    volume: float
    """The largest hourly volume, over the median of the thirty days before."""


HORIZONS_H = (1, 4, 24, 72)


def _crash(name: str, asset: str, *row: float) -> Crash:
    *worst, volatility, widest, volume = row
    return Crash(name, asset, dict(zip(HORIZONS_H, worst, strict=True)), volatility, widest, volume)


CRASHES: tuple[Crash, ...] = (
    _crash("2020-03-12 covid", "BTC", -0.2453, -0.3482, -0.5064, -0.5350, 3.832, 0.3952, 20.7),
    _crash("2020-03-12 covid", "ETH", -0.2558, -0.3242, -0.5329, -0.5814, 4.122, 0.3977, 17.2),
    _crash("2021-05-19 china", "BTC", -0.1605, -0.2560, -0.3134, -0.3867, 2.191, 0.2667, 15.6),
    _crash("2021-05-19 china", "ETH", -0.2797, -0.3651, -0.4497, -0.4936, 3.145, 0.4151, 11.8),
    _crash("2021-05-19 china", "SOL", -0.3973, -0.4622, -0.5444, -0.5444, 4.274, 0.6793, 18.6),
    _crash("2022-05-09 luna", "BTC", -0.0791, -0.0911, -0.1615, -0.2070, 1.480, 0.0946, 21.4),
    _crash("2022-05-09 luna", "ETH", -0.1167, -0.1448, -0.2611, -0.2695, 1.862, 0.1413, 17.9),
    _crash("2022-05-09 luna", "SOL", -0.2181, -0.2726, -0.4337, -0.5005, 3.500, 0.3319, 21.4),
    _crash("2022-06-13 celsius", "BTC", -0.0638, -0.0957, -0.1964, -0.2905, 1.383, 0.1109, 13.6),
    _crash("2022-06-13 celsius", "ETH", -0.0724, -0.1108, -0.2362, -0.3587, 1.986, 0.1744, 17.5),
    _crash("2022-06-13 celsius", "SOL", -0.0562, -0.1028, -0.2340, -0.3454, 2.198, 0.1455, 11.6),
    _crash("2022-11-08 ftx", "BTC", -0.0771, -0.1573, -0.1766, -0.2625, 1.317, 0.0907, 9.3),
    _crash("2022-11-08 ftx", "ETH", -0.0840, -0.2024, -0.2650, -0.3297, 1.811, 0.1103, 18.6),
    _crash("2022-11-08 ftx", "SOL", -0.1869, -0.3214, -0.4926, -0.6365, 4.085, 0.3045, 41.6),
    _crash("2023-03-10 usdc", "BTC", -0.0389, -0.0669, -0.1001, -0.1272, 0.767, 0.0411, 6.4),
    _crash("2023-03-10 usdc", "ETH", -0.0539, -0.0794, -0.1114, -0.1272, 0.911, 0.0585, 11.8),
    _crash("2023-03-10 usdc", "SOL", -0.0592, -0.0799, -0.1389, -0.2184, 1.373, 0.0814, 13.3),
    _crash("2024-08-05 yen", "BTC", -0.0705, -0.1093, -0.1975, -0.2488, 1.305, 0.0815, 23.7),
    _crash("2024-08-05 yen", "ETH", -0.1646, -0.2269, -0.2779, -0.3347, 1.845, 0.2033, 52.0),
    _crash("2024-08-05 yen", "SOL", -0.0899, -0.1600, -0.2409, -0.3376, 2.234, 0.1236, 21.1),
    _crash("2025-10-10 tariff", "BTC", -0.1074, -0.1328, -0.1622, -0.1776, 0.547, 0.1286, 50.4),
    _crash("2025-10-10 tariff", "ETH", -0.1127, -0.1610, -0.2159, -0.2431, 1.052, 0.2751, 32.5),
    _crash("2025-10-10 tariff", "SOL", -0.1425, -0.1950, -0.2445, -0.2640, 1.187, 0.1799, 18.9),
)
"""Computed from Binance's public hourly klines. Other venues printed lower on some of these days."""


def crashes(hours: int) -> Mapping[str, Mapping[str, float]]:
    """Return the worst move within so many hours of each asset that a crash tells of, oldest crash first.

    Raises BadInput for hours that are not one of `HORIZONS_H`.
    """
    if hours not in HORIZONS_H:
        raise BadInput(f"hours must be one of {HORIZONS_H}, found {hours}")
    told: dict[str, dict[str, float]] = {}
    for crash in CRASHES:
        told.setdefault(crash.name, {})[crash.asset] = crash.worst[hours]
    return told


def historical(assets: Sequence[str], *, hours: int) -> Mapping[str, Floats]:
    """Return the worst moves [a] of some assets within so many hours, crash by crash, oldest first.

    A crash that does not tell of all of them is left out. Each asset moves by its own worst, which need not
    have been the same hour: of a long book a sum of them says too much, of a hedged one too little.

    Raises BadInput for no assets, an asset that none tells of, and hours that are not one of `HORIZONS_H`.
    """
    told, known = crashes(hours), {crash.asset for crash in CRASHES}
    if not assets or not known.issuperset(assets):
        raise BadInput(f"expected assets among {', '.join(sorted(known))}, found {list(assets)}")
    return {
        name: np.array([moves[asset] for asset in assets])
        for name, moves in told.items()
        if moves.keys() >= set(assets)
    }


def hypothetical(*moves: ArrayLike) -> Floats:
    """Return every combination of the moves of some assets, [s, a], the last asset's changing fastest.

    Raises BadInput without assets, and for moves that are not finite or lose more than everything.
    """
    if not moves:
        raise BadInput("expected the moves of one asset at least")
    axes = [
        shaped(f"moves {place}", within(f"moves {place}", each, -1.0, 1e6), None)
        for place, each in enumerate(moves)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


@dataclass(frozen=True, slots=True)
class Breaking:
    """The likeliest shock that loses so much."""

    shock: Floats
    """[a], the move of each asset."""
    distance: float
    """Mahalanobis: standard deviations of the book between a usual day and this one."""

    @property
    def probability(self) -> float:
        """Return how likely as great a loss were if moves were normal; they are not, it is likelier."""
        return float(ndtr(-self.distance))


def reverse(weights: ArrayLike, covariance: ArrayLike, loss: float) -> Breaking:
    """Return the likeliest shock by which a linear book loses so much, such as what insurance holds.

    x* = −L Σ w / (wᵀ Σ w), of all x with wᵀ x = −L that with the least xᵀ Σ⁻¹ x, which is L² / (wᵀ Σ w).
    ``weights`` w [a] in quote, ``covariance`` Σ [a, a] of the moves over the horizon that is meant, which may
    be singular. A shock below −1 is a fall to nothing and more: linear is then too simple.

    Raises BadInput for shapes that do not fit, a covariance that is not symmetric or not positive
    semi-definite, a loss that is not above 0, and a book without risk, which no shock breaks.

    Source: Breuer, Jandačka, Rheinberger, Summer, "How to find plausible, severe, and useful stress
    scenarios" (2009); the formula is that of Lagrange for one linear constraint.
    """
    held = shaped("weights", finite("weights", weights), None)
    spread = positive_semidefinite("covariance", covariance)
    shaped("covariance", spread, len(held), len(held))
    lost = scalar("loss", positive("loss", loss))
    toward = spread @ held
    variance = float(held @ toward)
    if variance <= 1e-12 * float(np.abs(spread).max()) * float(held @ held):
        raise BadInput(f"no shock breaks a book without risk, found a variance of {variance:g}")
    return Breaking(-lost * toward / variance, lost / math.sqrt(variance))


def share_to_close(equity: ArrayLike, requirement: ArrayLike, left: ArrayLike | None = None) -> Floats:
    """Return the part of each book whose closing ends its breach, in [0, 1].

    Closing a part relieves the same part of the requirement, and brings equity the same part of the way to
    what would be ``left`` of it: by default equity stays as it is, and the part is what is missing over what
    is required. Of a loan collateral goes that had counted. All of a book goes where nothing would be left.
    NaN stays NaN.
    """
    held, required = np.asarray(equity, np.float64), np.asarray(requirement, np.float64)
    missing = required - held
    relieved = required if left is None else missing + np.asarray(left, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(relieved > 0, missing / relieved, missing > 0)
    return np.asarray(np.where(np.isnan(missing), np.nan, np.clip(share, 0.0, 1.0)))


def cliff(equity: ArrayLike, requirement: ArrayLike, left: ArrayLike | None = None) -> Floats:
    """Return the part of each book that a venue closes which closes all of it or nothing: 0 or 1."""
    return np.ceil(share_to_close(equity, requirement, left))


HIGHEST = 1e6
"""Times a price: no rise is greater."""

Closing = Callable[[Floats, Floats, Floats], Floats]
"""From equity, requirement and what would be left [n] to the part of each book that is closed, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Books:
    """Accounts that hold some assets, each requiring a part of what it is worth."""

    cash: Floats
    """[n], in quote; below 0 of a debt."""
    positions: Floats
    """[n, a], in units; below 0 where short."""
    spots: Floats
    """[a]."""
    margin: Floats
    """[a], what is required of a position, over its worth; 0 where only debts must be covered."""

    def __post_init__(self) -> None:
        positions = shaped("positions", finite("positions", self.positions), None, None)
        rows, assets = positions.shape
        shaped("cash", finite("cash", self.cash), rows)
        shaped("spots", positive("spots", self.spots), assets)
        shaped("margin", not_negative("margin", self.margin), assets)

    def standing(self, falls: Floats) -> Standings:
        """Return where they stand once prices fell by fractions [a]."""
        prices = self.spots * (1 - falls)
        equity = self.cash + self.positions @ prices
        required = np.abs(self.positions) @ (prices * self.margin)
        held = self.positions * self.spots
        sold, bought = np.maximum(held, 0.0), np.maximum(-held, 0.0)
        return Standings(equity, required, equity, equity, sold, bought)


class Falling(Protocol):
    """The part of ``holdings.Held`` that a fall needs."""

    @property
    def spots(self) -> Floats:
        """Return the prices now [a]."""
        ...

    def standing(self, falls: Floats) -> Standings:
        """Return where accounts stand once each price fell by a fraction."""
        ...


def closed(at: Standings, closing: Closing) -> Floats:
    """Return the part of each account [n] that is closed where it stands so."""
    return closing(at.equity, at.requirement, at.left)


def flow(
    books: Falling, falls: ArrayLike, *, closing: Closing = share_to_close, compiled: bool | None = None
) -> Floats:
    """Return what would be sold of each asset at each level of prices, [l, a], in quote at the moved prices.

    ``falls`` [l, a], or [l] where all assets fall alike; below 0 where they rise. What those short of an
    asset buy back is not counted against it: it holds prices up, but not surely at the same moment. As in
    ``keeper.trigger.cascade``, which asks it of the mirrored book: what a level closes does not include what
    the way there would have closed. ``compiled`` asks for loops of numba or none, of `Books` closed by
    `share_to_close` or `cliff`; by None many of these have them where numba is there.

    Raises BadInput for shapes that do not fit, falls above 1, and what there are no such loops for.
    """
    levels = _levels(books, falls)
    known = isinstance(books, Books) and closing in {share_to_close, cliff}
    if compiled and not known:
        raise BadInput("only Books closed by share_to_close or cliff are compiled")
    if isinstance(books, Books) and compiles(
        asked=compiled, enough=known and len(books.cash) * len(levels) >= MANY
    ):
        found = _compiled_flow(books, levels, whole=closing is cliff or not books.margin.any())
    else:
        found = np.array([closed(at, closing) @ at.sold for at in map(books.standing, levels)])
    return np.asarray(found * (1 - levels))


def bought_back(books: Falling, falls: ArrayLike, *, closing: Closing = share_to_close) -> Floats:
    """Return what would be bought back of each asset at each level, as `flow` says what would be sold."""
    levels = _levels(books, falls)
    found = np.array([closed(at, closing) @ at.bought for at in map(books.standing, levels)])
    return np.asarray(found * (1 - levels))


def _levels(books: Falling, falls: ArrayLike) -> Floats:
    assets = len(books.spots)
    levels = within("falls", falls, -HIGHEST, 1.0)
    levels = np.repeat(levels[:, None], assets, axis=1) if levels.ndim == 1 else levels
    return shaped("falls", levels, None, assets)


def _compiled_flow(books: Books, levels: Floats, *, whole: bool) -> Floats:
    """Return what is sold [l, a], at the prices before, by compiled loops; each thread has some accounts."""
    from keeper.risk.compiled import linear_sold

    prices = np.ascontiguousarray((books.spots * (1 - levels)).T)
    margins = prices * books.margin[:, None]
    # Who is only long has no more left where prices are lower, if a margin is no more than what it is of.
    lasts = bool((np.diff(levels, axis=0) >= 0).all() and (books.margin <= 1).all())
    ends = np.linspace(0, len(books.cash), THREADS + 1).astype(int).tolist()

    def part(begin: int, end: int) -> Floats:
        sold = np.zeros_like(prices)
        linear_sold(books.cash, books.positions, prices, margins, (begin, end, whole, lasts), sold)
        return sold

    with ThreadPoolExecutor(THREADS) as threads:
        return np.asarray(np.sum(list(threads.map(part, ends, ends[1:])), axis=0).T * books.spots)


@dataclass(frozen=True, slots=True)
class Cascade:
    """Where a fall ends once what it liquidates has moved prices, and what that liquidates, and so on."""

    falls: Floats
    """[a], of prices, the shock included."""
    sold: Floats
    """[a], in quote at the prices before."""
    bad_debt: float
    """What accounts owe beyond all that they have, in quote, as if nothing were sold on the way."""
    rounds: int
    amplification: Floats
    """[a], the fall over its shock; NaN of what was not shocked and did not fall."""


def cascade(
    books: Falling,
    shock: ArrayLike,
    impact: Callable[[Floats], ArrayLike],
    *,
    closing: Closing = share_to_close,
    tolerance: float = 1e-9,
) -> Cascade:
    """Let prices fall, sell what that liquidates, let prices give way to it, and so on until nothing changes.

    ``shock`` [a] as fractions. ``impact`` takes what is sold of each asset in all, [a] in quote at the prices
    before, and returns how far that lowers its price, as a fraction; it must not fall with size. What was
    sold stays sold, so that falls only grow and end, at a fixed point or with everything sold. ``closing``
    says how much of a book goes: `share_to_close` what ends its breach, `cliff` all of it.

    Raises BadInput for shapes that do not fit, a shock outside [0, 1], and an impact that is not in [0, 1].

    Source: the map of Cont, Schaanning, "Fire sales, indirect contagion and systemic stress testing" (2017),
    with margin accounts in the place of banks.
    Property: of books that are only long, with margins up to 1, `cliff` falls at least as far as
    `share_to_close`.
    """
    assets = len(books.spots)
    first = shaped("shock", within("shock", shock, 0.0, 1.0), assets)
    sold, gone, falls, rounds = np.zeros(assets), np.zeros(1), first, 0
    while True:
        rounds += 1
        at = books.standing(falls)
        gone = np.maximum(gone, closed(at, closing))
        sold = np.maximum(sold, gone @ at.sold)
        moved = shaped("impact", within("impact", impact(sold), 0.0, 1.0), assets)
        after = np.maximum(falls, first + (1 - first) * moved)
        settled = float((after - falls).max()) <= tolerance
        falls = after
        if settled:
            break
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        amplification = falls / first
    return Cascade(falls, sold, float(books.standing(falls).bad_debt.sum()), rounds, amplification)
