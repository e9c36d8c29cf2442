"""How the failure of one becomes that of others: who pays whom what is left, and how distress spreads.

Nodes are of any kind: chains, bridges, protocols, stablecoins, makers, large accounts. What they owe each
other is a matrix L [n, n], ``L[i, j]`` being what i owes j, in quote; nobody owes itself. Two questions are
asked of it. `clearing_vector`: all debts fall due now; what does everybody pay? `debtrank`: nobody has to pay
yet, but a claim on a weaker debtor is worth less; how far does a loss travel before anybody defaults?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from keeper.errors import BadInput
from keeper.risk.inputs import Floats, finite, not_negative, positive, scalar, shaped, within

ROUNDING = 1e-12
"""Relative: who is short of its debts by less has been rounded, and pays them."""

SETTLED = 1e-14
"""A round of `debtrank` that distresses nobody by more ends it."""

ROUNDS = 100_000


def clearing_vector(
    liabilities: ArrayLike,
    external_assets: ArrayLike,
    *,
    external_liabilities: ArrayLike | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Floats:
    """Return what every node pays in all [n], in quote: the greatest vector that clears.

    Whoever can pays its debts p̄ in full. Who cannot pays alpha of its external assets and beta of what it
    receives, to all its creditors in proportion; ``external_liabilities`` [n] go to creditors outside, of the
    same rank. With alpha = beta = 1 nothing is lost by a default: p = min(p̄, e + Πᵀ p).

    Found by fictitious default: take those who cannot pay even so as defaulted, solve for what they pay, look
    again. Nobody is ever taken back, so that n rounds are enough.

    Raises BadInput for shapes that do not fit, for debts, assets or claims that are negative or not finite,
    for a node that owes itself, and for alpha or beta outside [0, 1].

    Source: Eisenberg, Noe, "Systemic risk in financial systems" (2001), and its fictitious defaults; default
    costs: Rogers, Veraart, "Failure and rescue in an interbank network" (2013), definition 3.6.
    Property: limited liability, absolute priority, proportional payments; no vector that clears pays anybody
    more.
    """
    owed = _owed(liabilities)
    nodes = len(owed)
    assets = shaped("external_assets", not_negative("external_assets", external_assets), nodes)
    outside = np.zeros(nodes) if external_liabilities is None else external_liabilities
    outside = shaped("external_liabilities", not_negative("external_liabilities", outside), nodes)
    alpha = scalar("alpha", within("alpha", alpha, 0.0, 1.0))
    beta = scalar("beta", within("beta", beta, 0.0, 1.0))
    due = owed.sum(axis=1) + outside
    shares = owed / np.where(due > 0, due, 1.0)[:, None]
    failed = np.zeros(nodes, np.bool_)
    paid: Floats = due.copy()
    while True:
        short = failed | (assets + paid @ shares < due * (1 - ROUNDING))
        if (short == failed).all():
            return paid
        failed = short
        paid = np.where(failed, 0.0, due)
        received = alpha * assets + beta * (paid @ shares)
        inside = np.eye(int(failed.sum())) - beta * shares[np.ix_(failed, failed)].T
        paid[failed] = np.clip(np.linalg.solve(inside, received[failed]), 0.0, due[failed])


@dataclass(frozen=True, slots=True)
class Distress:
    """How far a shock went."""

    levels: Floats
    """[n], the part of each node's equity that is lost in the end; 1 has defaulted."""
    added: float
    """What the network added to the shock: the weighted mean of the levels, less that of the shock."""
    rounds: int

    @property
    def defaulted(self) -> int:
        """Return how many nodes have no equity left."""
        return int((self.levels >= 1).sum())


def debtrank(
    liabilities: ArrayLike,
    equity: ArrayLike,
    shock: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    single_hit: bool = False,
) -> Distress:
    """Spread a shock: a debtor that lost a part of its equity is worth so much less to each of its creditors.

    ``shock`` is the part of its equity that each node [n] loses at first, or one number for all; ``weights``
    [n] say how much each matters, by default its equity. With W[i, j] = L[j, i] / E[i], what i has lent to j
    over i's equity:

    - linear, the default: h(t+1) = min(1, h(t) + W (h(t) − h(t−1))); whatever a node loses later is passed on
      too.
    - ``single_hit``: W is cut at 1, and a node passes on only what it had lost when it was first hit. Losses
      that come back around a cycle, or by a longer way, stop there: it tells of less.

    Raises BadInput for shapes that do not fit, equity or weights that are not above 0 (weights: not below),
    and shocks outside [0, 1].

    Source: Bardoscia, Battiston, Caccioli, Caldarelli, "DebtRank: a microscopic foundation for shock
    propagation" (PLoS ONE 10(6), e0130406, 2015); ``single_hit``: Battiston, Puliga, Kaushik, Tasca,
    Caldarelli, "DebtRank: too central to fail?" (2012).
    Property: of the linear levels, h = min(1, h(0) + W h), and no lesser levels from the shock on hold it.
    """
    owed = _owed(liabilities)
    nodes = len(owed)
    capital = shaped("equity", positive("equity", equity), nodes)
    first = within("shock", shock, 0.0, 1.0)
    first = shaped("shock", np.full(nodes, float(first)) if not first.ndim else first, nodes)
    counted = capital if weights is None else shaped("weights", not_negative("weights", weights), nodes)
    if not counted.sum() > 0:
        raise BadInput(f"weights must not all be 0, found {counted}")
    lent = owed.T / capital[:, None]
    levels, rounds = (_hit_once if single_hit else _hit_again)(lent, first)
    added = float((levels - first) @ counted / counted.sum())
    return Distress(levels, added, rounds)


def _hit_again(lent: Floats, first: Floats) -> tuple[Floats, int]:
    # Sum h(t+1) - h(t) over the rounds: all that a node ever lost is passed on exactly once.
    levels = first
    for rounds in range(ROUNDS):
        after = np.minimum(1.0, first + lent @ levels)
        if float((after - levels).max()) <= SETTLED:
            return after, rounds
        levels = after
    raise BadInput(f"distress must settle within {ROUNDS} rounds; it still grows, ever more slowly")


def _hit_once(lent: Floats, first: Floats) -> tuple[Floats, int]:
    lent, levels = np.minimum(lent, 1.0), first
    done, rounds = np.zeros(len(first), np.bool_), 0
    while True:
        firing = (levels > 0) & ~done
        if not firing.any():
            return levels, rounds
        levels = np.minimum(1.0, levels + lent @ np.where(firing, levels, 0.0))
        done, rounds = done | firing, rounds + 1


def _owed(liabilities: ArrayLike) -> Floats:
    owed = finite("liabilities", liabilities)
    owed = shaped("liabilities", owed, None, None)
    owed = not_negative("liabilities", shaped("liabilities", owed, len(owed), len(owed)))
    if np.diag(owed).any():
        raise BadInput(f"nobody may owe itself, found {np.diag(owed)} on the diagonal of liabilities")
    return owed
