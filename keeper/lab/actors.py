"""Who acts in a drill beside the keeper: owners who come to help, and the maker who takes its inventory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from keeper.domain import Account, Fact, FeedView, Phase
from keeper.lab.anvil import Node, Tx
from keeper.lab.deploy import QUOTE
from keeper.lab.world import FOREVER, World, trade
from keeper.protocols.hybrid import codec, math
from keeper.protocols.hybrid.params import Rules
from keeper.protocols.hybrid.signing import Order
from keeper.units import WAD, AccountKey, FeedId, Wad

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
    return codec.decode_rows(node.call(call.to, call.data))


def lift_wad(account: Account, views: Mapping[FeedId, FeedView], rules: Rules, level_wad: Wad) -> Wad:
    """Return the deposit that brings an account to E = level x M at the lower of its two healths."""
    missing = 0
    for prices in (
        {feed: view.fast_wad for feed, view in views.items()},
        {feed: view.slow_wad for feed, view in views.items()},
    ):
        found = math.maintenance(account, prices, rules)
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

    def act(self, block: int, views: Mapping[FeedId, FeedView]) -> list[Tx]:
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
            needed = lift_wad(account, views, rules, WAD + rules.slope.beta_cure_wad + above)
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

    The keeper's side of each trade is signed with its key, as the treasury behind a keeper would; the
    keeper's own process knows nothing of it and sees the trades on chain.
    """

    node: Node
    world: World
    traded: int = 0
    out_of_band: int = 0

    def act(self, block: int, views: Mapping[FeedId, FeedView]) -> list[Tx]:
        """Build the trades of a block."""
        if block % MAKER_EVERY_BLOCKS:
            return []
        keeper, deployed = self.world.keeper, self.world.deployed
        (held,) = read_accounts(self.node, self.world, [keeper.account])
        transactions = []
        for leg in held.legs:
            perp = deployed.protocol.rules.perps[leg.market]
            view = views[perp.feed]
            apart = abs(view.fast_wad - view.slow_wad)
            if 2 * apart * WAD > MAKER_BAND * perp.mmr_wad * view.slow_wad:
                self.out_of_band += 1
                continue
            self.traded += 1
            nonce = 100 * block + leg.market
            order = Order(keeper.account, leg.market, -leg.size_wad, view.fast_wad, nonce, FOREVER)
            transactions.append(trade(deployed, keeper, self.world.maker, order))
        return transactions
