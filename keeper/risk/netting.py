"""What positions on one underlying require together, for many books at once, in float64.

Positions are dense, [n, i]: one row an account, one column an instrument. ``protocols`` says the same of one
account in the contract's integers; here it is said of all of them, fast enough for every head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Columns = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Expiry:
    """Options on one underlying that expire together, charged by the most that they can lose.

    Calls sold beyond those bought are covered by buying the underlying. What a row then holds is worth a
    line over the price at expiry, broken at its own strikes and flat or rising beyond them: the worst end is
    a price of 0 or a strike, and the strikes of others change nothing.
    """

    columns: Columns
    """[k], where the options are in a book."""
    ends: Floats
    """[e], 0 and every strike."""
    change: Floats
    """[k, e], payoff less mark of one unit at every end."""
    calls: Floats
    """[k], 1 of a call, 0 of a put."""
    cover: float
    """What one unit of the underlying costs to cover a call with."""

    def loss(self, positions: Floats) -> Floats:
        """Return the most that every row can lose [n], 0 where it cannot."""
        held = positions[:, self.columns]
        uncovered = np.maximum(-(held @ self.calls), 0.0)
        worst = (self.change.T @ held.T + np.outer(self.ends, uncovered)).min(axis=0)
        loss: Floats = np.maximum(self.cover * uncovered - worst, 0.0)
        return loss

    @property
    def money(self) -> Floats:
        """The most that one unit of each option can be charged [k]."""
        money: Floats = np.abs(self.change).max(axis=1) + self.calls * (self.cover + self.ends.max())
        return money


@dataclass(frozen=True, slots=True)
class Underlying:
    """Perps and unsettled options on one underlying: their gains and losses net, scenario by scenario."""

    columns: Columns
    """[k], where they are in a book."""
    risk: Floats
    """[k, s], what one unit gains in each scenario, weighted."""
    perps: Floats
    """[k], what one unit of a perp loses over the whole range; 0 of an option."""
    short: Floats
    """[k], least requirement of one unit sold; 0 of a perp."""
    doubtful: NDArray[np.bool_]
    """[k], options whose ``risk`` may not be judged by: whoever holds one is charged by ``expiries``."""
    expiries: tuple[Expiry, ...] = ()
    """All options, by expiry; needed only where one is doubtful."""

    def requirement(self, positions: Floats) -> Floats:
        """Return what every row [n] requires for this underlying: its worst scenario, and so much a short.

        Where a row holds a doubtful option, perps require their range and the options of each expiry the most
        that they can lose; without what the perps cover, but not less than the last arrays ask for.
        """
        held = positions[:, self.columns]
        worst: Floats = np.maximum(-(self.risk.T @ held.T).min(axis=0), 0.0)
        in_doubt = np.flatnonzero((held[:, self.doubtful] != 0).any(axis=1))
        if len(in_doubt):
            rows = positions[in_doubt]
            bare = self._uncovered(rows)
            alone = covered = np.abs(held[in_doubt] @ self.perps)
            for expiry in self.expiries:
                most = expiry.loss(rows)
                alone = alone + most
                covered = covered + np.minimum(most, expiry.loss(bare))
            worst[in_doubt] = np.clip(worst[in_doubt], covered, alone)
        worst += np.maximum(-held, 0.0) @ self.short
        return worst

    def _uncovered(self, positions: Floats) -> Floats:
        """Leave out what perps cover: an equal part of every call sold, or put where they are short."""
        columns = np.concatenate([expiry.columns for expiry in self.expiries])
        calls = np.concatenate([expiry.calls for expiry in self.expiries]) > 0
        perps = positions[:, self.columns] @ np.sign(self.perps)
        sold = np.maximum(-positions[:, columns], 0.0) * (calls == (perps >= 0)[:, None])
        total = sold.sum(axis=1)
        part = np.minimum(np.abs(perps), total) / np.where(total > 0, total, 1.0)
        bare = positions.copy()
        bare[:, columns] += sold * part[:, None]
        return bare

    @property
    def money(self) -> Floats:
        """The most that one unit of each column can be charged [k]: what rounding is measured by."""
        money: Floats = np.abs(self.risk).max(axis=1) + self.perps + self.short
        for expiry in self.expiries:
            money[np.isin(self.columns, expiry.columns)] += expiry.money
            # How much of an option is covered depends on the sizes of all.
            money += expiry.money.max()
        return money
