"""What became of the hedged books, and of the same legs apart, followed block by block in exact integers.

Every account is valued at both on-chain prices with the adapter's own mathematics, from the risk arrays that
the chain had, and held against what was done to it: nobody is touched without a breach, and whoever stays in
breach is reduced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from keeper.domain import Account, Phase, Valuation
from keeper.lab.chronicle import Chronicle
from keeper.lab.hedges import Strategy
from keeper.lab.world import World
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.params import Rules
from keeper.protocols.hybrid.portfolio import setting_at
from keeper.units import WAD, AccountKey, Block, Wad

ENDS = frozenset({"Cured", "Cleared", "Expired"})
PATIENCE = 20
"""Blocks in a row in which an account may be in breach at both oracles before it is first reduced."""
LEAST_WAD = 1_000 * WAD
"""Notional from which on an account is worth the gas of that."""


@dataclass(slots=True)
class Followed:
    """One account through a drill."""

    key: AccountKey
    strategy: Strategy
    hedged: bool
    lowest_fast: float = inf
    """The least E/M at the fast price."""
    lowest_both: float = inf
    """The least that both oracles agreed on: of each block the higher E/M of the two."""
    flagged: int = 0
    confirmed: int = 0
    slices: int = 0
    closed: bool = False
    """Whether slices took the last of it."""
    gain_wad: Wad = 0
    """At the fast price, negative where it lost."""
    breached_fast: bool = False
    """Whether it was in breach at the fast price since it was last healthy."""
    breached_both: bool = False
    """And at both at once."""
    streak: int = 0
    """Blocks in a row up to now in which it was, and nothing was taken."""
    longest: int = 0

    def note(self, at_fast: Valuation, at_slow: Valuation, level_wad: Wad) -> bool:
        """Take in one valuation; tell whether it shows a breach at both prices."""
        healths = (_health(at_fast), _health(at_slow))
        self.lowest_fast = min(self.lowest_fast, healths[0])
        self.lowest_both = min(self.lowest_both, max(healths))
        fast, slow = at_fast.breaches(level_wad), at_slow.breaches(level_wad)
        self.breached_fast = self.breached_fast or fast
        self.breached_both = self.breached_both or (fast and slow)
        return fast and slow

    def count(self, *, breached: bool) -> None:
        """Take in whether a block left it in breach, with nothing taken so far."""
        self.streak = self.streak + 1 if breached else 0
        self.longest = max(self.longest, self.streak)

    def end(self) -> None:
        """Begin anew, healthy."""
        self.breached_fast = self.breached_both = False
        self.streak = 0


def follow(chronicle: Chronicle, world: World) -> tuple[list[Followed], list[str]]:
    """Follow every account with options; return them, and one line for each broken promise."""
    accounts = [
        Followed(person.account, hedge.plan.strategy, hedged=person is hedge.whole)
        for hedge in world.hedges
        for person, _ in hedge.stakes
    ]
    broken: list[str] = []
    rules = world.deployed.protocol.rules
    for block in range(chronicle.first, chronicle.last + 1):
        stage = _Stage(chronicle, rules, block)
        for account in accounts:
            broken += stage.play(account)
    for account in accounts:
        before, after = (
            _worth(chronicle, rules, account.key, block) for block in (chronicle.first, chronicle.last)
        )
        account.gain_wad = after - before
    return accounts, [*broken, *judge(accounts)]


def judge(accounts: Sequence[Followed]) -> Iterator[str]:
    """Yield one line for every promise that was broken over the whole of a drill."""
    for account in accounts:
        if account.longest > PATIENCE and not account.slices:
            found = f"in breach at both oracles for {account.longest} blocks and never reduced"
            yield f"{_name(account)}: {found}"
    if accounts and not any(account.slices for account in accounts if not account.hedged):
        yield "expected at least one leg apart to be reduced, found none"


def rows(accounts: Iterable[Followed]) -> list[dict[str, Any]]:
    """Sum up each strategy: its books, and their legs apart."""
    every = list(accounts)
    return [
        _row(strategy, [account for account in every if account.strategy is strategy])
        for strategy in dict.fromkeys(account.strategy for account in every)
    ]


def _row(strategy: Strategy, accounts: Sequence[Followed]) -> dict[str, Any]:
    whole = [account for account in accounts if account.hedged]
    apart = [account for account in accounts if not account.hedged]
    reduced = [account for account in apart if account.slices]
    return {
        "book": str(strategy),
        "books": len(whole),
        "lowest_health_fast": _lowest(account.lowest_fast for account in whole),
        "lowest_health_both": _lowest(account.lowest_both for account in whole),
        "flagged": sum(account.flagged > 0 for account in whole),
        "confirmed": sum(account.confirmed > 0 for account in whole),
        "sliced": sum(account.slices > 0 for account in whole),
        "gain": _gain(whole),
        "legs": len(apart),
        "legs_reduced": len(reduced),
        "legs_closed": sum(account.closed for account in reduced),
        "legs_reduced_gain": _gain(reduced),
        "legs_gain": _gain(apart),
    }


def _health(found: Valuation) -> float:
    return found.equity_wad / found.requirement_wad if found.requirement_wad > 0 else inf


def _lowest(healths: Iterable[float]) -> float | None:
    """Return the least of all; None where nobody ever had a requirement."""
    least = min(healths, default=inf)
    return None if least == inf else round(least, 4)


def _gain(accounts: Iterable[Followed]) -> float:
    return round(sum(account.gain_wad for account in accounts) / WAD, 2)


class _Stage:
    """One block, for every account."""

    def __init__(self, chronicle: Chronicle, rules: Rules, block: Block) -> None:
        self._chronicle = chronicle
        self._block = block
        view = chronicle.views[block]
        self._fast = {feed: each.fast_wad for feed, each in view.items()}
        self._slow = {feed: each.slow_wad for feed, each in view.items()}
        self._setting = setting_at(rules, view, chronicle.timestamps[block])
        self._told: dict[AccountKey, list[str]] = {}
        for fact in chronicle.facts_of(block):
            if (key := fact.args.get("account")) is not None:
                self._told.setdefault(key, []).append(fact.act)

    def play(self, account: Followed) -> Iterator[str]:
        """Judge what the block did to an account by its book before it, and value what it left."""
        told = self._told.get(account.key, ())
        if told and self._block > self._chronicle.first:
            self._note(account, self._chronicle.at(account.key, self._block - 1))
        for act in told:
            yield from self._judge(account, act)
        breached = self._note(account, self._chronicle.at(account.key, self._block))
        account.count(breached=breached and not account.slices)

    def _judge(self, account: Followed, act: str) -> Iterator[str]:
        where = f"{_name(account)} in block {self._block}"
        if act == "Flagged":
            account.flagged += 1
            if not account.breached_fast:
                yield f"{where}: flagged, though never in breach at the fast price"
        elif act == "Confirmed":
            account.confirmed += 1
        elif act == "Tranche":
            account.slices += 1
            account.closed = account.closed or not self._chronicle.at(account.key, self._block).legs
            if not account.breached_both:
                yield f"{where}: reduced, though never in breach at both oracles"
        elif act in ENDS:
            account.end()

    def _note(self, followed: Followed, account: Account) -> bool:
        if not account.legs or account.phase is Phase.CLOSED:
            return False
        level_wad = WAD + self._setting.terms.slope_of(account).beta_flag_wad
        fast, slow = (math.maintenance(account, marks, self._setting) for marks in (self._fast, self._slow))
        return followed.note(fast, slow, level_wad) and fast.notional_wad >= LEAST_WAD


def _worth(chronicle: Chronicle, rules: Rules, key: AccountKey, block: Block) -> Wad:
    """Value an account at the fast prices of a block, without haircuts."""
    view = chronicle.views[block]
    setting = setting_at(rules, view, chronicle.timestamps[block])
    fast = {feed: each.fast_wad for feed, each in view.items()}
    return math.worth_wad(chronicle.at(key, block), fast, setting)


def _name(account: Followed) -> str:
    kind = "hedged book" if account.hedged else "leg apart"
    return f"{kind} 0x{account.key.hex()} ({account.strategy})"
