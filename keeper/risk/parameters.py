"""Margins of underlyings from their closes: how much a price moves before a position can be closed.

An underlying's initial margin is a `dynamic.requirement` of one unit of quote in it, long or short, whichever
loses more; its maintenance margin is the part of it that `dynamic.MAINTENANCE` says. Every figure is a
fraction of the price: of a log-move r a long gains e^r − 1, which a short loses. The same closes give the
same margins everywhere, but for the rounding of floats: whoever is asked to sign some can estimate them anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from keeper.domain import Reason, Refuse
from keeper.errors import BadInput
from keeper.risk.covariance import ewma_path, stress_correlation
from keeper.risk.dynamic import STRESSED_WEIGHT, Requirement, buffered, requirement
from keeper.risk.inputs import Floats
from keeper.risk.liquidity import DEPTH_LEFT, sqrt_impact
from keeper.risk.options import YEAR_S
from keeper.risk.prices import DAY_S, Prices, span
from keeper.risk.tail import TailRisk, filtered_returns, historical, historical_weights
from keeper.units import UnixS

WARM_UP = 10
"""One over the part of the returns by which an EWMA has forgotten with what it began, at most."""
TILE = 1 << 20
"""So many losses are in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How margins are estimated, and from what data they are not."""

    horizon_s: int = 4 * 3600
    """How long a position may stay open against its owner's will: returns are over so long."""
    level: float = 0.99
    """Of the expected shortfall."""
    half_life_s: float = 10 * DAY_S
    """Of the volatility's memory."""
    stressed_weight: float = STRESSED_WEIGHT
    """Of the highest volatility that the closes show."""
    joint_stress: float = 0.5
    """How far correlations are moved towards 1."""
    buffer: float = 0.0
    """Over what is calculated, to be used up before margins rise."""
    least_returns: int = 500
    """Of the horizon's length."""
    max_age_s: int = DAY_S
    """How old the last close may be."""
    most_apart: float = 0.1
    """Between the last close and what another source says of the price."""
    most_error: float = 0.5
    """Standard error of the value at risk, over the value at risk."""
    most_still: int = 24
    """How many closes in a row may be the same: more, and their source stands still."""


@dataclass(frozen=True, slots=True)
class Market:
    """What is to be sold in a hurry, and into how much."""

    largest: float
    """The largest position, in quote."""
    volume_day: float | None
    """What is traded in a day, in quote; without it no charge can be told."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The margins of one underlying, and of what they are made. Fractions of its price, but for the times."""

    asset: str
    observed_at_s: UnixS
    """When the last close was."""
    volatility: float
    """Annualised, now."""
    shortfall: float
    """Expected, at today's volatility."""
    stressed: float
    """Expected, at the highest volatility that the closes show."""
    long_run: float
    """Expected, at the volatility of all closes: the floor."""
    joint: float
    """Lost when another underlying loses its own shortfall, at stressed correlations."""
    joint_with: str
    """Which one; empty where there is no other."""
    error: float
    """Standard error of the value at risk, over it."""
    buffer: float
    """Held over what is calculated."""
    liquidity: float
    """Cost of closing the largest position; nothing where no volume is known."""
    binding: str
    """Which piece is the largest: floor (the long run), scan (jointly) or shortfall (stressed in part)."""
    maintenance: float
    initial: float


@dataclass(frozen=True, slots=True)
class _Side:
    """The outcomes in which a long, or a short, of one unit of quote loses most."""

    sign: int
    """1 of a long, −1 of a short."""
    moves: Floats
    """[k], log-moves in standard deviations."""
    weights: Floats
    """[k], by which they count; their sum is 1."""

    @classmethod
    def of(cls, moves: Floats, sign: int, level: float) -> _Side:
        """Take of log-moves [n] in standard deviations those beyond a level: the same at every volatility."""
        weights = historical_weights(-sign * moves, level)
        return cls(sign, moves[weights > 0], weights[weights > 0])

    def lost(self, deviations: Floats) -> Floats:
        """Return what is lost in them on average at some standard deviations [t]."""
        parts = np.array_split(deviations, 1 + len(deviations) * len(self.moves) // TILE)
        return np.concatenate(
            [-self.sign * (np.expm1(np.outer(d, self.moves)) @ self.weights) for d in parts]
        )


@dataclass(frozen=True, slots=True)
class _Tails:
    """Of every asset [a] or of every return's time [t, a], oldest first, without the first of them."""

    deviation: Floats
    """[t, a]: what was expected of the next return's standard deviation."""
    sides: tuple[tuple[_Side, _Side], ...]
    """[a]: long and short."""
    error: Floats
    """[a], of the side that loses more."""
    correlation: Floats
    """[a, a], stressed."""
    average: Floats
    """[a]: root of the mean square of all returns."""

    def shortfall(self, asset: int, deviations: Floats) -> Floats:
        """Return what one unit of an asset is expected to lose at some standard deviations [t].

        Of the side that loses more there.
        """
        long, short = self.sides[asset]
        return np.maximum(long.lost(deviations), short.lost(deviations))


def unsound(
    prices: Prices, policy: Policy, *, now_s: UnixS, marks: Mapping[str, float]
) -> Iterator[tuple[str, Refuse]]:
    """Say of which assets no margin can be told from these closes, and why; each reason has its bound.

    ``marks`` are the prices by another source. What concerns all is said of each. Gaps, times twice and what
    is no price `prices.read` has refused before.
    """
    for at, asset in enumerate(prices.assets):
        closes = prices.closes[:, at]
        for rule, found, bound in (
            _thin(prices, policy),
            _stale(int(prices.times[-1]), policy, now_s),
            _still(closes, policy),
            _apart(float(closes[-1]), marks.get(asset), policy),
        ):
            if found:
                yield asset, Refuse(Reason(f"data.{rule}", found, bound))
                break


def estimate(prices: Prices, policy: Policy, markets: Mapping[str, Market]) -> tuple[Estimate, ...]:
    """Estimate the margins of every asset, liquidity by its market where that is known.

    Raises BadInput for a step of which the horizon is no multiple, closes that never move, and as few as
    leave no return.
    """
    moves = _of_horizon(prices, policy)
    tails = _tails(moves.returns, policy)
    pieces = _pieces(tails)
    required = _required(pieces, policy)
    margins = buffered(required.risk, buffer=policy.buffer)[-1]
    whole = replace(required, risk=margins, add_ons=_liquidity(tails, moves.assets, markets, policy))
    a_year = np.sqrt(YEAR_S / policy.horizon_s)
    return tuple(
        Estimate(
            asset=asset,
            observed_at_s=int(moves.times[-1]),
            volatility=float(tails.deviation[-1, at] * a_year),
            shortfall=float(pieces.calm[-1, at]),
            stressed=float(pieces.stressed[at]),
            long_run=float(pieces.long_run[at]),
            joint=float(pieces.joint[-1, at]),
            joint_with=pieces.joint_with(at, moves.assets),
            error=float(tails.error[at]),
            buffer=float(margins[at] / required.risk[-1, at] - 1),
            liquidity=float(whole.add_ons[at]),
            binding=str(required.binding[-1, at]),
            maintenance=float(whole.maintenance[at]),
            initial=float(whole.initial[at]),
        )
        for at, asset in enumerate(moves.assets)
    )


def uncertain(found: Estimate, policy: Policy) -> Refuse | None:
    """Refuse an estimate that its own sample does not bear."""
    if found.error <= policy.most_error:
        return None
    return Refuse(
        Reason("data.uncertain", f"a standard error of {found.error:.0%}", f"{policy.most_error:.0%}")
    )


# --- what is wrong with closes -------------------------------------------------------------------


def _thin(prices: Prices, policy: Policy) -> tuple[str, str, str]:
    returns = int(prices.times[-1] - prices.times[0]) // policy.horizon_s
    found = f"{returns} returns of {span(policy.horizon_s)}" if returns < policy.least_returns else ""
    return "thin", found, f"{policy.least_returns} or more"


def _stale(last_s: UnixS, policy: Policy, now_s: UnixS) -> tuple[str, str, str]:
    age_s = now_s - last_s
    said = f"{age_s} s old" if age_s >= 0 else f"{-age_s} s ahead of the chain"
    found = "" if 0 <= age_s <= policy.max_age_s else f"the last close is {said}"
    return "stale", found, f"0 to {policy.max_age_s} s"


def _still(closes: Floats, policy: Policy) -> tuple[str, str, str]:
    ends = np.flatnonzero(np.r_[True, np.diff(closes) != 0, True])
    longest = int(np.diff(ends).max())
    found = f"{longest} closes in a row are the same" if longest > policy.most_still else ""
    return "still", found, str(policy.most_still)


def _apart(close: float, mark: float | None, policy: Policy) -> tuple[str, str, str]:
    """A jump that nobody else has seen, a column of another asset, or another unit."""
    if mark is None:
        return "alone", "no other source tells its price", "one that does"
    apart = abs(close / mark - 1)
    found = (
        f"the last close is {close:,.6g} where {mark:,.6g} is said elsewhere"
        if apart > policy.most_apart
        else ""
    )
    return "apart", found, f"{policy.most_apart:.1%}"


# --- the estimate --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pieces:
    """What one unit of each asset may lose, at every time [t, a] or whenever [a]."""

    calm: Floats
    stressed: Floats
    long_run: Floats
    joint: Floats
    partner: NDArray[np.intp]
    """[a]: which asset's loss brings most with it; the asset itself where there is no other."""

    def joint_with(self, at: int, assets: tuple[str, ...]) -> str:
        """Name the asset that an asset loses most with."""
        partner = int(self.partner[at])
        return "" if partner == at else assets[partner]


def _of_horizon(prices: Prices, policy: Policy) -> Prices:
    """Return closes as far apart as the horizon is long, the last one among them."""
    steps, rest = divmod(policy.horizon_s, prices.step_s)
    if rest or not steps:
        raise BadInput(
            f"expected closes of whose step the horizon of {span(policy.horizon_s)} is a multiple, "
            f"found them {span(prices.step_s)} apart"
        )
    return prices.every(steps)


def _tails(returns: Floats, policy: Policy) -> _Tails:
    decay = 0.5 ** (policy.horizon_s / policy.half_life_s)
    path = ewma_path(returns, decay=decay)
    variances = np.einsum("tii->ti", path)
    last = np.sqrt(variances[-1])
    moves = filtered_returns(returns, decay=decay)
    return _Tails(
        deviation=np.sqrt(variances[len(returns) // WARM_UP :]),
        sides=tuple(
            (_Side.of(column, 1, policy.level), _Side.of(column, -1, policy.level))
            for column in (moves / last).T
        ),
        error=np.array([_error(_worse(np.expm1(column), policy.level)) for column in moves.T]),
        correlation=stress_correlation(path[-1] / np.outer(last, last), policy.joint_stress),
        average=np.sqrt(np.mean(returns**2, axis=0)),
    )


def _worse(gains: Floats, level: float) -> TailRisk:
    """Return the tail of the side, long or short, that loses more of what a long gains [n]."""
    return max((historical(side * gains, level) for side in (-1, 1)), key=lambda tail: float(tail.es))


def _error(tail: TailRisk) -> float:
    """Return the standard error of a value at risk, over it; endless where that is no loss at all."""
    var = float(tail.var)
    return float(tail.standard_error) / var if var > 0 else math.inf


def _pieces(tails: _Tails) -> _Pieces:
    assets = range(len(tails.sides))
    calm = np.column_stack([tails.shortfall(at, tails.deviation[:, at]) for at in assets])
    partner = np.array([_partner(tails, at) for at in assets])
    return _Pieces(
        calm=calm,
        stressed=calm.max(axis=0),
        long_run=np.array([tails.shortfall(at, tails.average[at : at + 1])[0] for at in assets]),
        joint=np.column_stack([_joint(tails, at, partner[at], tails.deviation[:, at]) for at in assets]),
        partner=partner,
    )


def _partner(tails: _Tails, asset: int) -> int:
    """Return which asset's losses bring most with them now; itself where there is no other."""
    now = tails.deviation[-1:, asset]
    others = [each for each in range(len(tails.sides)) if each != asset]
    return max(others, key=lambda other: float(_joint(tails, asset, other, now)[0]), default=asset)


def _joint(tails: _Tails, asset: int, other: int, deviations: Floats) -> Floats:
    """Return what an asset loses at its standard deviations [t] in the outcomes in which another loses most.

    It moves as many of its own deviations as the other one of its, times their correlation.
    """
    if asset == other:
        return np.zeros(len(deviations))
    along = tails.correlation[asset, other]
    return np.maximum(tails.shortfall(other, along * deviations), 0.0)


def _required(pieces: _Pieces, policy: Policy) -> Requirement:
    """Return what one unit of quote in each asset requires, at every time [t, a]."""
    return requirement(
        notional=1.0,
        scan=pieces.joint,
        es_unstressed=pieces.calm,
        es_stressed=pieces.stressed,
        floor=np.minimum(pieces.long_run, 1.0),
        stressed_weight=policy.stressed_weight,
    )


def _liquidity(
    tails: _Tails, assets: tuple[str, ...], markets: Mapping[str, Market], policy: Policy
) -> Floats:
    """Return what closing the largest position of each asset costs while its market is under stress."""
    a_day = np.sqrt(DAY_S / policy.horizon_s)
    costs = np.zeros(len(assets))
    for at, asset in enumerate(assets):
        market = markets.get(asset)
        if market and market.volume_day:
            left = market.volume_day * DEPTH_LEFT["stressed"]
            deviation = float(tails.deviation[-1, at] * a_day)
            costs[at] = sqrt_impact(market.largest, volume_day=left, volatility_day=deviation)
    return costs
