"""What it costs to sell quickly: how a price gives way to a size, and the largest size that a cost allows.

Three models of a market's depth, each with its inverse. Costs are fractions of the notional, 0.001 being ten
basis points; notionals and volumes are in quote. All take scalars or float64 arrays of shape [n].
They estimate, and so bound and price what is planned; what moves is sized in exact integers, to which `Depth`
rounds against the keeper. `lvar_exogenous` and
`liquidity_adjusted_es` put such a cost on top of a VaR or an ES; `almgren_chriss` spreads a sale over time.

Sources: the square-root law, Almgren, Thum, Hauptmann, Li, "Direct estimation of equity market impact" (2005)
and Donier, Bonart (arXiv 1412.4503: it holds on Bitcoin over four decades of size).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keeper.errors import BadInput
from keeper.risk.inputs import count, finite, not_negative, positive, scalar, shaped, within
from keeper.units import BPS, WAD, Wad, mul_div_up

Column: TypeAlias = NDArray[np.float64]
Levels: TypeAlias = Sequence[tuple[float, float]]
"""Of one side of an order book: the distance from the mid as a fraction, rising, and the notional there."""

DAYS_A_YEAR = 365
VOLATILITY = 0.8
"""Annualised: what a feed's is taken for where nothing else is said."""


LARGEST = 1e15
"""Quote: where a price is said not to move at all, so much is as good as everything."""


def sqrt_impact(
    notional: Column | float,
    *,
    volume_day: Column | float,
    volatility_day: Column | float,
    y: Column | float = 1.0,
) -> Column:
    """Return Y sigma sqrt(Q / V): how far selling Q moves a market that trades V a day.

    Counted whole as the cost of the sale: its mean on the way there is two thirds of it.
    Raises BadInput for a negative notional, volatility or Y, and for a volume that is not above 0.
    """
    _check_market(volume_day, volatility_day, y)
    not_negative("notional", notional)
    return np.asarray(np.multiply(y, volatility_day) * np.sqrt(np.divide(notional, volume_day)))


def most_by_sqrt_impact(
    cost: Column | float,
    *,
    volume_day: Column | float,
    volatility_day: Column | float,
    y: Column | float = 1.0,
) -> Column:
    """Return V (cost / Y sigma)^2, the largest notional whose `sqrt_impact` is no more than a cost.

    Infinite where the price does not move. Raises BadInput as `sqrt_impact`, and for a negative cost.
    """
    _check_market(volume_day, volatility_day, y)
    not_negative("cost", cost)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.divide(cost, np.multiply(y, volatility_day))
    still = np.multiply(y, volatility_day) == 0
    return np.asarray(np.where(still, np.inf, np.multiply(volume_day, np.square(ratio))))


def walk_book(notional: Column | float, levels: Levels) -> Column:
    """Return the mean distance at which a notional is sold, level by level; infinite beyond the last one.

    0 for nothing. Raises BadInput for a negative notional, and for levels that do not rise or hold nothing.
    """
    not_negative("notional", notional)
    distances, filled, paid = _summed(levels)
    asked = np.asarray(notional, np.float64)
    at = np.minimum(np.searchsorted(filled[1:], asked, side="left"), len(distances) - 1)
    cost = paid[at] + (asked - filled[at]) * distances[at]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(asked == 0, 0.0, cost / asked)
    return np.asarray(np.where(asked > filled[-1], np.inf, mean))


def most_by_book(cost: Column | float, levels: Levels) -> Column:
    """Return the largest notional that `walk_book` sells at no more than a mean distance.

    Raises BadInput as `walk_book`, and for a negative cost.
    """
    not_negative("cost", cost)
    distances, filled, paid = _summed(levels)
    allowed = np.asarray(cost, np.float64)
    # Within level i the mean is reached where paid_i + (Q - filled_i) d_i = cost Q. It never falls with Q, so
    # that the first level whose end costs too much is the last one to be touched.
    beyond, spare = distances - allowed[..., None], filled[:-1] * distances - paid[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = np.where(beyond > 0, spare / beyond, np.inf)
    return np.asarray(np.minimum(reached, filled[-1]).min(axis=-1))


def pool_cost(notional: Column | float, *, reserve: Column | float, fee: Column | float = 0.0) -> Column:
    """Return what a constant-product pool keeps of a sale, the fee included.

    ``reserve`` is the pool's own quote, and ``fee`` the part of what is put in that it charges: of u = Q / R
    in, u (1 − fee) / (1 + u (1 − fee)) comes out. Raises BadInput for a negative notional, a reserve that
    is not above 0, and a fee outside [0, 1).

    Source: Uniswap v2, `UniswapV2Library.getAmountOut`, without its rounding.
    """
    put_in, kept = _put_in(notional, reserve), _kept(fee)
    return np.asarray(1 - kept / (1 + put_in * kept))


def most_by_pool(cost: Column | float, *, reserve: Column | float, fee: Column | float = 0.0) -> Column:
    """Return the largest notional of which a pool keeps no more than a cost; infinite where that is all.

    Raises BadInput as `pool_cost`, and for a negative cost.
    """
    allowed = not_negative("cost", cost)
    with np.errstate(divide="ignore"):
        put_in = 1 / np.maximum(1 - allowed, 0.0) - 1 / _kept(fee)
    return np.asarray(np.maximum(put_in, 0.0) * positive("reserve", reserve))


def pool_move(notional: Column | float, *, reserve: Column | float, fee: Column | float = 0.0) -> Column:
    """Return how far a sale into a constant-product pool lowers its price, as a fraction.

    The fee stays in the pool. Raises BadInput as `pool_cost`.
    """
    put_in, kept = _put_in(notional, reserve), _kept(fee)
    return np.asarray(1 - 1 / ((1 + put_in) * (1 + put_in * kept)))


def _put_in(notional: Column | float, reserve: Column | float) -> Column:
    return np.asarray(not_negative("notional", notional) / positive("reserve", reserve))


def _kept(fee: Column | float) -> Column:
    return np.asarray(1 - within("fee", fee, 0.0, math.nextafter(1.0, 0.0)))


def lvar_exogenous(
    *,
    notional: Column | float,
    var: Column | float,
    spread_mean: Column | float,
    spread_sd: Column | float,
    k: Column | float = 3.0,
) -> Column:
    """Return a VaR with the cost of crossing a spread that widens: VaR + ½ P (μ + k σ), in quote.

    The spread is relative, (ask − bid) / mid; ``k`` says how many of its deviations are meant, 2 to 4.5 by
    how far from normal spreads are. The two bad cases are taken to come together, which they often do. Raises
    ValueError for a negative notional, VaR, spread, deviation or k.

    Source: Bangia, Diebold, Schuermann, Stroughair, "Modeling liquidity risk, with implications for
    traditional market risk measurement and management" (1999).
    """
    not_negative("k", k)
    spread = not_negative("spread_mean", spread_mean) + k * not_negative("spread_sd", spread_sd)
    return np.asarray(not_negative("var", var) + not_negative("notional", notional) * spread / 2)


DEPTH_LEFT: Mapping[str, float] = MappingProxyType({"thin": 0.65, "stressed": 0.35, "crash": 0.10})
"""What is left of a market's volume: a policy, to be held against one's own markets."""


def liquidity_adjusted_es(
    *,
    es: Column | float,
    notional: Column | float,
    volume_day: Column | float,
    volatility_day: Column | float,
    y: Column | float = 1.0,
    depth: Column | float = 1.0,
) -> Column:
    """Return an ES with what selling costs in the market that is left: ES + Q Y sigma sqrt(Q / (depth V)).

    ``depth`` is the part of the usual volume that is left, such as one of `DEPTH_LEFT`. Nobody loses more by
    selling than all of it: the cost is Q at most. Raises BadInput as `sqrt_impact`, for a negative ES, and
    for a depth outside (0, 1].

    Property: more than in proportion to Q, hence neither positively homogeneous nor sub-additive.
    """
    left = np.multiply(volume_day, within("depth", positive("depth", depth), 0.0, 1.0))
    impact = sqrt_impact(notional, volume_day=left, volatility_day=volatility_day, y=y)
    return np.asarray(not_negative("es", es) + notional * np.minimum(impact, 1.0))


@dataclass(frozen=True, slots=True)
class Unwinding:
    """A sale over time: how much when, what it is expected to cost, and how far that may be off."""

    trajectory: Column
    """[n + 1], what is held before the first trade and after each."""
    expected_cost: float
    """In quote."""
    variance: float
    """In quote squared."""

    @property
    def trades(self) -> Column:
        """Return what each trade sells [n]; below 0 what it buys back."""
        return -np.diff(self.trajectory)

    @property
    def residual(self) -> float:
        """Return what the market does not take within the horizon."""
        return float(self.trajectory[-1])

    @property
    def feasible(self) -> bool:
        """Tell whether all of it is sold within the horizon."""
        return self.residual == 0

    @property
    def standard_deviation(self) -> float:
        """Return it of the cost, in quote."""
        return math.sqrt(self.variance)


def almgren_chriss(
    *,
    quantity: float,
    n: int,
    horizon: float,
    sd: float,
    eta: float,
    gamma: float,
    risk_aversion: float,
    epsilon: float = 0.0,
    most: ArrayLike | None = None,
) -> Unwinding:
    """Return how to sell a quantity in n equal steps so that E + lambda V of the cost is least.

    ``quantity`` X in units, below 0 where it is bought back; ``horizon`` T in any unit of time; ``sd`` of the
    price in quote per unit and root of time; ``eta`` what selling one unit per time lowers the price for that
    trade; ``gamma`` what each unit lowers it for good; ``epsilon`` what one unit always costs (half a
    spread); ``risk_aversion`` lambda per quote: with 0 all trades are equal (TWAP), and the more, the sooner.

    With ``most``, one number or [n], no trade is larger: what the depth of each step takes, times the share
    of it that one wants to be. Where that does not suffice, all caps are used, the rest is the `Unwinding`'s
    ``residual``, and it is priced as sold at once in one step more.

    Raises BadInput for inputs that are not finite, a horizon or eta that is not above 0, a negative sd,
    gamma, epsilon or risk aversion, and where eta <= gamma tau / 2 with tau = T / n: trading faster would
    then cost less than nothing, and no best schedule exists; more steps mend it.

    Source: Almgren, Chriss, "Optimal execution of portfolio transactions" (2000), sections 1.5 and 2.2; with
    caps, the same cost under Kuhn and Tucker's conditions.
    Property: no schedule within the caps has a lower E + lambda V.
    """
    steps, start = count("n", n), scalar("quantity", finite("quantity", quantity))
    tau = scalar("horizon", positive("horizon", horizon)) / steps
    sd = scalar("sd", not_negative("sd", sd))
    gamma = scalar("gamma", not_negative("gamma", gamma))
    aversion = scalar("risk_aversion", not_negative("risk_aversion", risk_aversion))
    epsilon = scalar("epsilon", not_negative("epsilon", epsilon))
    slope = scalar("eta", positive("eta", eta)) - gamma * tau / 2
    if slope <= 0:
        raise BadInput(f"eta must be above gamma tau / 2, {gamma * tau / 2:g}, found {eta}: take more steps")
    size, bend = abs(start), aversion * (sd * tau) ** 2 / slope
    held = size * _decay(steps, math.sqrt(bend))
    if most is not None:
        caps = np.broadcast_to(not_negative("most", most), steps) if np.ndim(most) == 0 else most
        caps = shaped("most", not_negative("most", caps), steps)
        held = _within_caps(held, caps, bend)
    # The last entry is 0, or the rest: sold in a step of its own.
    squares = float(np.square(np.diff(held)).sum() + held[-1] ** 2)
    cost = gamma * size * size / 2 + epsilon * size + slope / tau * squares
    variance = sd * sd * tau * float(np.square(held[1:]).sum())
    return Unwinding(math.copysign(1.0, start) * held, cost, variance)


def _decay(steps: int, kappa_tilde_tau: float) -> Column:
    """Return sinh(kappa (T − t)) / sinh(kappa T) at every step [n + 1], without overflow or cancellation."""
    # cosh(kappa tau) = 1 + (kappa~ tau)² / 2, solved for kappa tau where it may be small.
    rate = 2 * math.asinh(kappa_tilde_tau / 2)
    done = np.arange(steps + 1, dtype=np.float64)
    left = steps - done
    if rate * steps < 1e-9:
        return left / steps
    return np.exp(-rate * done) * np.expm1(-2 * rate * left) / math.expm1(-2 * rate * steps)


def _within_caps(held: Column, caps: Column, bend: float) -> Column:
    """Return the best schedule [n + 1] none of whose trades is above its cap; it may leave something over.

    A trade that wants more than its cap still wants more once others are cut as well, for what they leave
    must be sold by the rest. So those too large are set to their caps, the rest is solved for, and so on.
    """
    size, steps = float(held[0]), len(caps)
    if caps.sum() <= size:
        trades = caps
    else:
        trades, cut = -np.diff(held), np.zeros(steps, np.bool_)
        # Half the gradient of sum n² + bend sum x² is the same for all that are free; x_k = X − n_1 … − n_k.
        after = steps - np.arange(1, steps + 1)
        curve = np.eye(steps) + bend * np.minimum(after[:, None], after)
        while (over := ~cut & (trades > caps * (1 + 1e-12))).any():
            cut |= over
            trades = np.where(cut, caps, 0.0)
            free = np.flatnonzero(~cut)
            ones = np.ones((len(free), 1))
            system = np.block([[curve[np.ix_(free, free)], -ones], [ones.T, np.zeros((1, 1))]])
            wanted = bend * size * after - curve @ trades
            trades[free] = np.linalg.solve(system, [*wanted[free], size - trades.sum()])[:-1]
    left = size - np.cumsum(trades)
    left[-1] = max(size - caps.sum(), 0.0)
    return np.concatenate([[size], left])


@dataclass(frozen=True, slots=True)
class Depth:
    """How deep the market of one feed is taken to be, and what the keeper may hold of it.

    By a day's volume, by a book, or by both: then the dearer one counts.
    """

    most_bps: float
    """The expected cost of selling what the keeper takes within a minute is to be no more."""
    volume_day: float | None = None
    volatility: float = VOLATILITY
    """Annualised."""
    y: float = 1.0
    levels: tuple[tuple[float, float], ...] = ()
    """As `Levels`."""
    inventory_wad: Wad | None = None
    """The most that the keeper holds of it, long or short; None sets no limit."""

    def __post_init__(self) -> None:
        if self.volume_day is None and not self.levels:
            raise BadInput("a depth needs a day's volume, or the levels of a book")

    @property
    def volatility_day(self) -> float:
        """Return one standard deviation of a day's move."""
        return self.volatility / math.sqrt(DAYS_A_YEAR)

    def cost(self, notional: float) -> float:
        """Return what selling costs as a fraction, 1 at most: beyond a book nothing is sold."""
        costs = list[float]()
        if self.volume_day is not None:
            by = {"volume_day": self.volume_day, "volatility_day": self.volatility_day, "y": self.y}
            costs.append(float(sqrt_impact(notional, **by)))
        if self.levels:
            costs.append(float(walk_book(notional, self.levels)))
        return min(1.0, max(costs))

    def cost_wad(self, notional_wad: Wad) -> Wad:
        """Return what selling costs in quote, rounded up."""
        return mul_div_up(notional_wad, math.ceil(self.cost(notional_wad / WAD) * WAD), WAD)

    @property
    def most_wad(self) -> Wad:
        """Return the largest notional that costs no more than `most_bps`, rounded down to whole quote."""
        cost, found = self.most_bps / BPS, [LARGEST]
        if self.volume_day is not None:
            by = {"volume_day": self.volume_day, "volatility_day": self.volatility_day, "y": self.y}
            found.append(float(most_by_sqrt_impact(cost, **by)))
        if self.levels:
            found.append(float(most_by_book(cost, self.levels)))
        return math.floor(min(found)) * WAD


def _summed(levels: Levels) -> tuple[Column, Column, Column]:
    """Return the distances [l], and what is sold and paid for it before each level and after all [l + 1]."""
    book = np.asarray(levels, np.float64).reshape(-1, 2)
    distances, notionals = book[:, 0], book[:, 1]
    rises = bool((np.diff(distances) > 0).all()) and bool((distances >= 0).all())
    if not len(book) or not rises or not (notionals > 0).all():
        raise BadInput(f"expected levels further and further away, each with a notional, found {levels}")
    filled = np.concatenate([[0.0], np.cumsum(notionals)])
    return distances, filled, np.concatenate([[0.0], np.cumsum(distances * notionals)])


def _check_market(volume_day: Column | float, volatility_day: Column | float, y: Column | float) -> None:
    positive("volume_day", volume_day)
    not_negative("volatility_day", volatility_day)
    not_negative("y", y)
