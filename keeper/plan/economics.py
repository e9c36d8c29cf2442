"""Whether a step is worth sending: what it brings, what it costs, and what an operator pays to stay solvent.

``profit = p (income - exit) - gas``: p is how likely the step does what it should (the journal's own count
of its kind), exit what selling the inventory should cost. Gas is counted whole either way: whoever loses the
race pays for the revert, and is taken to pay as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from keeper.domain import Economics, Reason, Record, Refuse, Step
from keeper.plan.pace import Pace
from keeper.plan.queue import OLD_BLOCKS
from keeper.plan.rest import Rest
from keeper.risk.liquidity import DAYS_A_YEAR, VOLATILITY, Depth
from keeper.units import WAD, Block, FeedId, Wad, Wei, mul_div_up

HOURS_A_DAY = 24


@dataclass(frozen=True, slots=True)
class Prudence:
    """What the operator asks of every step, whatever the protocol."""

    depth: Mapping[FeedId, Depth] = field(default_factory=dict)
    """By feed; by the token's address where a protocol seizes tokens."""
    pace: Pace = field(default_factory=Pace)
    rest: Rest = field(default_factory=Rest)
    at_worst_fee: bool = False
    """Whether a step must pay at the highest fee that may be bid; else at the current one."""
    solvency_day_wad: Wad = 0
    """What steps may lose in a day on accounts that would else leave bad debt."""

    old_blocks: Block = OLD_BLOCKS
    """A case older than so many goes before all others."""

    def counted_wad(self, step: Step) -> Wad:
        """Return what of the profit that a simulation left is held against the floor."""
        if not self.at_worst_fee or step.economics is None:
            return step.expected_profit_wad
        return step.economics.worst_profit_wad

    def volatility(self, feed: FeedId) -> float:
        """Return the volatility of a feed, annualised."""
        return self.depth[feed].volatility if feed in self.depth else VOLATILITY


class Means(Protocol):
    """What pays for gas."""

    @property
    def gas_price_wei(self) -> Wei: ...
    @property
    def native_price_wad(self) -> Wad: ...
    @property
    def record(self) -> Record: ...


def weigh(kind: str, means: Means, *, income_wad: Wad, exit_wad: Wad, gas: int) -> Economics:
    """Put the terms of one step together."""
    worst_wei = max(means.gas_price_wei, means.record.worst_gas_wei)
    return Economics(
        income_wad=income_wad,
        exit_wad=exit_wad,
        gas_wad=_cost_wad(gas, means.gas_price_wei, means),
        worst_gas_wad=_cost_wad(gas, worst_wei, means),
        won_wad=means.record.won_wad.get(kind, means.record.presumed_wad),
        gas_price_wei=means.gas_price_wei,
    )


def least_income_wad(kind: str, means: Means, prudence: Prudence, min_profit_wad: Wad, *, gas: int) -> Wad:
    """Return from which income on a step pays whose inventory costs nothing to sell."""
    costs = weigh(kind, means, income_wad=0, exit_wad=0, gas=gas)
    gas_wad = costs.worst_gas_wad if prudence.at_worst_fee else costs.gas_wad
    return mul_div_up(gas_wad + min_profit_wad, WAD, costs.won_wad)


def loss_wad(
    rule: str, found: Economics, prudence: Prudence, min_profit_wad: Wad, *, endangered: bool
) -> Wad | Refuse:
    """Return what a step may lose, 0 where it pays; refuse one that loses where nothing speaks for it.

    ``endangered`` says that the account would leave bad debt, now or after the next adverse move. What a
    day's losses have come to is for the journal's guard to know; more in one step is refused here.
    """
    profit_wad = found.worst_profit_wad if prudence.at_worst_fee else found.profit_wad
    if profit_wad >= min_profit_wad:
        return 0
    loses_wad = max(0, -profit_wad)
    if endangered and 0 < prudence.solvency_day_wad >= loses_wad:
        return loses_wad
    fee = " at the highest fee" if prudence.at_worst_fee else ""
    return Refuse(Reason(rule, str(found), f">= {min_profit_wad / WAD:.4f}{fee}"))


def after(record: Record, step: Step) -> Record:
    """Return the record as the next step of the same block finds it."""
    moved = dict(record.moved_wad)
    for feed, wad in step.takes:
        moved[feed] = moved.get(feed, 0) + abs(wad)
    return replace(record, moved_wad=moved)


def is_endangered(equity_wad: Wad, exposures_wad: Mapping[FeedId, Wad], prudence: Prudence) -> bool:
    """Tell whether an account's equity is less than what one adverse deviation of an hour's move takes of it.

    Feeds are taken to move together, each against the account: nothing that it holds is counted as a hedge.
    """
    hourly = math.sqrt(1 / (DAYS_A_YEAR * HOURS_A_DAY))
    at_risk = sum(
        mul_div_up(abs(wad), math.ceil(prudence.volatility(feed) * hourly * WAD), WAD)
        for feed, wad in exposures_wad.items()
    )
    return equity_wad < at_risk


def _cost_wad(gas: int, price_wei: Wei, means: Means) -> Wad:
    record = means.record
    gas_wei = (gas + record.data_gas) * price_wei + record.data_fee_wei
    return mul_div_up(gas_wei, means.native_price_wad, WAD)
