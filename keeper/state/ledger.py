"""The exact rows: narrow columns, and pools for what most accounts have little of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from keeper.columns import wide
from keeper.columns.column import Column
from keeper.columns.keys import KeyArray, Rows
from keeper.columns.pool import Pool, places
from keeper.domain import Account, FlagState, Holding, Leg
from keeper.state.page import EPISODES, HOLDINGS, LEGS, MARKETS_EVER, PHASES, Page, decode
from keeper.units import WAD, AccountKey

Floats = NDArray[np.float64]


class Ledger:
    """What the contract says of the account in each row, to the wei.

    The legs and holdings keep the contract's order: it sells the first holding first. Which account a row is
    of, others know.
    """

    def __init__(self) -> None:
        self.phases: Column[np.uint8] = Column(np.uint8)
        self.slopes: Column[np.uint16] = Column(np.uint16)
        self.cash: Column[np.void] = Column(wide.WIDE)
        self.times: Column[np.uint64] = Column(np.uint64, 3)
        self.legs = Pool(LEGS)
        self.holdings = Pool(HOLDINGS)
        self.episodes = Pool(EPISODES)

    def grow(self, rows: int) -> None:
        """Make room for so many rows."""
        for each in (self.phases, self.slopes, self.cash, self.times, *self._pools()):
            each.grow(rows)

    def entries(self) -> tuple[int, ...]:
        """Return how many legs, holdings and episodes there are."""
        return tuple(pool.live for pool in self._pools())

    def reserve(self, entries: Iterable[int]) -> None:
        """Make room for so many of each, so that no pool moves while they are put in."""
        for pool, count in zip(self._pools(), entries, strict=True):
            pool.reserve(count)

    def put(self, rows: Rows, page: Page) -> None:
        """Write a page into some rows, none of them twice."""
        self.phases.own[rows] = page.phases
        self.slopes.own[rows] = page.slopes
        self.cash.own[rows] = page.cash
        self.times.own[rows] = page.times
        self.legs.put(rows, page.leg_counts, page.legs)
        self.holdings.put(rows, page.holding_counts, page.holdings)
        self.episodes.put(rows, page.episode_counts, page.episodes)

    def remove(self, rows: Rows, holes: Rows, movers: Rows) -> None:
        """Take some rows away, and move others into the holes that are to be filled."""
        for pool in self._pools():
            pool.clear(rows)
            pool.move(movers, holes)
        for column in (self.phases, self.slopes, self.cash, self.times):
            column.own[holes] = column.cells[movers]

    def cash_of(self, rows: Rows) -> Floats:
        """Return cash and quote legs of some rows in quote, added up exactly and rounded once."""
        at, counts = self.legs.runs(rows)
        terms = np.zeros((len(rows), 1 + int(counts.max(initial=0))), wide.WIDE)
        terms[:, 0] = self.cash.cells[rows]
        terms[np.repeat(np.arange(len(rows)), counts), 1 + places(counts)] = self.legs["quote_leg"][at]
        return wide.sum_to_floats(terms) / WAD

    def positions_of(self, rows: Rows, *, markets: int, collaterals: int) -> Floats:
        """Return the positions of some rows in units, [n, markets + collaterals]."""
        dense = np.zeros((len(rows), markets + collaterals))
        _scatter(dense[:, :markets], self.legs, rows, "market", "size")
        _scatter(dense[:, markets:], self.holdings, rows, "collateral", "amount")
        return dense

    def holders(self, markets: Sequence[int]) -> Rows:
        """Return the rows, in order, that have a position in one of some markets."""
        wanted = np.zeros(MARKETS_EVER + 1, np.bool_)
        wanted[markets] = True
        return self.legs.owners("market", wanted)

    def page(self, keys: KeyArray, rows: Rows) -> Page:
        """Return some rows as ``put`` takes them."""
        legs, leg_counts = self.legs.take(rows)
        holdings, holding_counts = self.holdings.take(rows)
        episodes, episode_counts = self.episodes.take(rows)
        return Page(
            keys=keys,
            phases=self.phases.cells[rows],
            slopes=self.slopes.cells[rows],
            cash=self.cash.cells[rows],
            times=self.times.cells[rows],
            leg_counts=leg_counts,
            legs=legs,
            holding_counts=holding_counts,
            holdings=holdings,
            episode_counts=episode_counts,
            episodes=episodes,
        )

    def account(self, key: AccountKey, row: int) -> Account:
        """Return one account."""
        legs, holdings = self.legs.run(row), self.holdings.run(row)
        last_risk_s, last_risk_block, debt_since_s = self.times.cells[row].tolist()
        return Account(
            key=key,
            phase=PHASES[self.phases.cells[row]],
            cash_wad=wide.to_ints(self.cash.cells[row : row + 1])[0],
            legs=tuple(
                map(
                    Leg,
                    self.legs["market"][legs].tolist(),
                    wide.to_ints(self.legs["size"][legs]),
                    wide.to_ints(self.legs["quote_leg"][legs]),
                )
            ),
            holdings=tuple(
                map(
                    Holding,
                    self.holdings["collateral"][holdings].tolist(),
                    wide.to_ints(self.holdings["amount"][holdings]),
                )
            ),
            last_risk_s=last_risk_s,
            last_risk_block=last_risk_block,
            flag=self._flag(self.episodes.run(row)),
            debt_since_s=debt_since_s,
            slope_choice=int(self.slopes.cells[row]),
        )

    def _flag(self, run: slice) -> FlagState:
        if run.start == run.stop:
            return FlagState()
        [bond, aid] = (wide.to_ints(self.episodes[name][run])[0] for name in ("bond", "aid"))
        reduced, flagged_at, flagged_block, *rest = self.episodes["words"][run.start].tolist()
        tau_at_flag, tau, last_poke, tau_at_confirm, confirmed_at, *rest = rest
        fee_cap, step_start, step_used, nonce, *rest = rest
        carry_tau, carried_at, slope, insolvent_tau = rest
        return FlagState(
            flagger="0x" + self.episodes["flagger"][run].tobytes().hex(),
            bond_wad=bond,
            flagged_at_s=flagged_at,
            flagged_block=flagged_block,
            tau_at_flag_s=tau_at_flag,
            tau_s=tau,
            last_poke_s=last_poke,
            tau_at_confirm_s=tau_at_confirm,
            confirmed_at_s=confirmed_at,
            fee_cap_wad=fee_cap,
            step_start_s=step_start,
            step_used_wad=step_used,
            tranche_nonce=nonce,
            aid_wad=aid,
            reduced=bool(reduced),
            carry_tau_s=carry_tau,
            carried_at_s=carried_at,
            slope=slope,
            insolvent_tau_s=insolvent_tau,
        )

    def _pools(self) -> tuple[Pool, Pool, Pool]:
        return self.legs, self.holdings, self.episodes


def accounts_of(page: bytes) -> tuple[Account, ...]:
    """Read one answer of ``MarginReader.rows`` by itself, in its order; raise ChainFault where it is none."""
    read, ledger = decode(page), Ledger()
    ledger.grow(len(read))
    ledger.put(np.arange(len(read)), read)
    return tuple(ledger.account(key, row) for row, key in enumerate(read.keys.tolist()))


def _scatter(dense: Floats, pool: Pool, rows: Rows, numbers: str, values: str) -> None:
    """Write the runs of some rows into [n, columns], number 1 first; what is not listed has no column."""
    at, counts = pool.runs(rows)
    of, number = np.repeat(np.arange(len(rows)), counts), pool[numbers][at].astype(np.intp)
    listed = number <= dense.shape[1]
    dense[of[listed], number[listed] - 1] = wide.to_floats(pool[values][at[listed]]) / WAD
