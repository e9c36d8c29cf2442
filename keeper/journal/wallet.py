"""One wallet, and a journal for each deployment that a process keeps with it.

Each journal says which nonces its transactions hold and what its steps have cost; no Permit is granted but by
a look at all of them. They share one lock, held until a grant is committed: so no two grants miss each other.
Journals that several processes share are led together, too, and looked at in the grant's own transaction.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol

from keeper.domain import Step
from keeper.journal.guard import NO_CLAIMS, Claims, Limits
from keeper.journal.tally import Inventory, Sums
from keeper.ports import Thrown
from keeper.units import Block, UnixS

if TYPE_CHECKING:
    from keeper.journal.lease import Tenure


class Member(Protocol):
    """A journal, as far as others of its wallet look at it."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    def held(self, step: Step | None, limits: Limits, chain_nonce: int, block: Block, at_s: UnixS) -> Claims:
        """Return what its steps mean for a step of the same wallet in another journal, by its limits."""
        ...

    def own_next_nonce(self) -> int:
        """Return one more than the highest nonce that it ever gave out."""
        ...

    def used(self, limits: Limits, block: Block, at_s: UnixS) -> Claims:
        """Return what its steps use of some limits, as of a head."""
        ...

    def own_foreign(self) -> tuple[Thrown, ...]:
        """Return what it has noted of another program that uses the wallet's key."""
        ...


class Wallet:
    """What the journals of one wallet share, in one process; a journal alone has one to itself."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tenure: Tenure | None = None
        """By which shared journals are led, all of a wallet together."""
        self._journals: list[Member] = []

    def join(self, journal: Member) -> None:
        """Take in a journal that has been opened."""
        self._journals.append(journal)

    def leave(self, journal: Member) -> None:
        """Forget one that is closed."""
        self._journals = self._others(journal)

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one."""
        return len(self._journals) > 1

    def _others(self, journal: Member) -> list[Member]:
        return [each for each in self._journals if each is not journal]

    def beside(
        self, journal: Member, step: Step | None, limits: Limits, chain_nonce: int, block: Block, at_s: UnixS
    ) -> Claims:
        """Return what all journals but one hold."""
        held = (each.held(step, limits, chain_nonce, block, at_s) for each in self._others(journal))
        return sum(held, NO_CLAIMS)

    def next_nonce_beside(self, journal: Member) -> int:
        """Return one more than the highest nonce that any other journal gave out; 0 where none did."""
        return max((each.own_next_nonce() for each in self._others(journal)), default=0)

    def used_beside(self, journal: Member, limits: Limits, block: Block, at_s: UnixS) -> Claims:
        """Return what the steps of all other journals use of the limits of one."""
        return sum((each.used(limits, block, at_s) for each in self._others(journal)), Claims())

    def foreign_beside(self, journal: Member) -> tuple[Thrown, ...]:
        """Return what any other journal has noted of another program: it uses the key of all of them."""
        others = self._others(journal)
        return tuple(noted_in(each.name, noted) for each in others for noted in each.own_foreign())


def noted_in(name: str, noted: Thrown) -> Thrown:
    """Say in which journal it was noted, for that is where it is cleared."""
    return replace(noted, why=f"{noted.why}, noted in {name}")


class TapedWallet(Wallet):
    """The wallet of a replay: what its other journals held then is on the tape."""

    def __init__(self, told: Callable[[list[Any]], list[Any]]) -> None:
        super().__init__()
        self._told = told

    def next_nonce_beside(self, journal: Member) -> int:
        """Return what was noted when this was asked."""
        del journal
        return int(self._told([0])[0])

    def beside(
        self, journal: Member, step: Step | None, limits: Limits, chain_nonce: int, block: Block, at_s: UnixS
    ) -> Claims:
        """Return what was noted when this was asked."""
        del journal, step, limits, chain_nonce, block, at_s
        return of_record(self._told(to_record(Claims())))


def to_record(held: Claims) -> list[Any]:
    """Write down what is held as a tape has it, large numbers as text."""
    told = asdict(replace(held, nonces=frozenset()))
    return [sorted(held.nonces), json.dumps({**told, "nonces": []})]


def of_record(record: list[Any]) -> Claims:
    """Read it again."""
    nonces, text = record
    told = json.loads(text)
    sums = {name: Sums(**told[name]) for name in ("hour", "day")}
    inventory = {market: Inventory(**each) for market, each in told["inventory"].items()}
    return Claims(**{**told, **sums, "inventory": inventory, "nonces": frozenset(nonces)})
