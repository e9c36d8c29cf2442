"""Who acts in a drill beside the keeper: owners who come to help, and the maker who takes its inventory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from keeper.domain import Account, Fact, FeedView, OracleView, Phase
from keeper.lab.anvil import Node, Tx
from keeper.lab.deploy import QUOTE
from keeper.lab.world import FOREVER, World, trade
from keeper.protocols.hybrid import codec, math
from keeper.protocols.hybrid.params import Rules
from keeper.protocols.hybrid.portfolio import (
    Position,
    Setting,
    is_current,
    setting_at,
    unit_value_wad,
)
from keeper.protocols.hybrid.rows import accounts_of
from keeper.protocols.hybrid.signing import Order
from keeper.units import WAD, AccountKey, UnixS, Wad

HELP_AFTER_BLOCKS = (3, 6)
"""When owners who help do so, counted from the alarm; the last is excluded."""
HELP_ABOVE_CURE = (0.15, 0.5)
"""How far above the cure level they lift their account's health."""
MAKER_EVERY_BLOCKS = 4
MAKER_BAND = 0.9
"""The part of the contract's trade band that the maker uses: prices may move before the trade is included."""


def read_accounts(node: Node, world: World, keys: Sequence[AccountKey]) -> tuple[Account, ...]:
    """Read accounts at the newest block."""
    call = codec.rows_call(world.deployed.protocol.reader, keys)
    return accounts_of(node.call(call.to, call.data))


def lift_wad(account: Account, oracles: OracleView, rules: Rules, level_wad: Wad, now_s: UnixS) -> Wad:
    """Return the deposit that brings an account to E = level x M at the lower of its two healths."""
    setting, missing = setting_at(rules, oracles, now_s), 0
    for prices in (
        {feed: view.fast_wad for feed, view in oracles.items()},
        {feed: view.slow_wad for feed, view in oracles.items()},
    ):
        found = math.maintenance(account, prices, setting)
        missing = max(missing, level_wad * found.requirement_wad // WAD - found.equity_wad)
    return missing


@dataclass(slots=True)
class Helpers:
    """Owners who top up: some blocks after an alarm, where it still stands and they have enough."""

    node: Node
    world: World
    seed: int
    top_ups: int = 0
    too_poor: int = 0
    topped_up: set[AccountKey] = field(default_factory=set)
    _pockets: dict[AccountKey, Wad] = field(init=False)
    _due: dict[int, list[AccountKey]] = field(default_factory=dict)
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng([self.seed, 0x4E1B])
        owners = self.world.owners
        self._pockets = {o.person.account: o.plan.pocket_wad for o in owners if o.plan.tops_up}

    def hear(self, facts: Iterable[Fact], block: int) -> None:
        """Note the alarms of a block."""
        for fact in facts:
            if fact.act == "Flagged" and fact.args["account"] in self._pockets:
                due = block + int(self._rng.integers(*HELP_AFTER_BLOCKS))
                self._due.setdefault(due, []).append(fact.args["account"])

    def act(self, block: int, at_s: UnixS, oracles: OracleView) -> list[Tx]:
        """Build the deposits that are due in a block."""
        keys = self._due.pop(block, [])
        if not keys:
            return []
        rules = self.world.deployed.protocol.rules
        transactions = []
        for account in read_accounts(self.node, self.world, keys):
            above = WAD * int(1000 * self._rng.uniform(*HELP_ABOVE_CURE)) // 1000
            if account.phase not in {Phase.FLAGGED, Phase.CONFIRMED}:
                continue
            level_wad = WAD + rules.at(at_s).slope_of(account).beta_cure_wad + above
            needed = lift_wad(account, oracles, rules, level_wad, at_s)
            if not 0 < needed <= self._pockets[account.key]:
                self.too_poor += needed > 0
                continue
            self._pockets[account.key] -= needed
            self.top_ups += 1
            self.topped_up.add(account.key)
            deposit = self.world.deployed.deposit(account.key, QUOTE, needed, sender=account.owner)
            transactions.append(deposit)
        return transactions


@dataclass(slots=True)
class Maker:
    """Takes what the keeper holds, at the fast price, where the contract's band around both prices allows it.

    Options go to their dealer at their marks, where the risk array is current at both prices or the dealer
    too gets rid of something. The keeper's side of each trade is signed with its key, as the treasury behind
    a keeper would; the keeper's own process knows nothing of it and sees the trades on chain.
    """

    node: Node
    world: World
    traded: int = 0
    out_of_band: int = 0

    def act(self, block: int, at_s: UnixS, oracles: OracleView) -> list[Tx]:
        """Build the trades of a block."""
        if block % MAKER_EVERY_BLOCKS:
            return []
        keeper, deployed = self.world.keeper, self.world.deployed
        setting = setting_at(deployed.protocol.rules, oracles, at_s)
        dealers = [dealer.account for dealer in self.world.dealers.values()]
        held, *others = read_accounts(self.node, self.world, [keeper.account, *dealers])
        inventory = {(other.owner, leg.market): leg.size_wad for other in others for leg in other.legs}
        transactions = []
        for leg in held.legs:
            position, opposite = setting.position(leg), self.world.opposite(leg.market)
            view = oracles[position.market.feed]
            other_size = inventory.get((opposite.address, leg.market), 0)
            reduces = other_size * leg.size_wad < 0 and abs(other_size) >= abs(leg.size_wad)
            if not _tradable(position, view, setting, reduces=reduces):
                self.out_of_band += 1
                continue
            self.traded += 1
            nonce, price_wad = 100 * block + leg.market, unit_value_wad(position, view.fast_wad)
            order = Order(keeper.account, leg.market, -leg.size_wad, price_wad, nonce, FOREVER)
            transactions.append(trade(deployed, keeper, opposite, order))
        return transactions


def _tradable(position: Position, view: FeedView, setting: Setting, *, reduces: bool) -> bool:
    """Tell whether the Clearing takes a trade at the mark of the fast price (Clearing._requirePrice)."""
    market, prices = position.market, (view.fast_wad, view.slow_wad)
    at_fast, at_slow = (unit_value_wad(position, price) for price in prices)
    band = MAKER_BAND * setting.terms.risks[market.feed].mmr_wad * view.slow_wad
    if 2 * abs(at_fast - at_slow) * WAD > band:
        return False
    if not market.is_option:
        return True
    current = all(is_current(position.array, price, setting.now_s) for price in prices)
    return setting.now_s < market.expiry_s and (current or reduces)
