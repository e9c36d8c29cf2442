"""Acts of several accounts in one transaction, where a protocol's contract carries out each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

from keeper.domain import Call, Fees, Permit, Step
from keeper.ports import Market
from keeper.units import Block

MOST_GAS = 2**24
"""Of one transaction, since Osaka (EIP-7825)."""
MOST_BYTES = 96 * 1024
"""Of its calldata: pools take no transaction above 128 KiB (geth's ``txMaxSize``)."""

Terms: TypeAlias = tuple[Fees, Block]
"""What acts of one transaction share: what it bids, and the block up to which it is of use."""


@runtime_checkable
class Batching(Protocol):
    """A market whose contract carries out several calls, none of which stops another by failing."""

    def batch(self, calls: Sequence[Call]) -> Call | None:
        """Build the call that carries out others in their order; None where they cannot go together."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """A transaction that is not signed yet, and the acts in it."""

    call: Call
    acts: tuple[Call, ...]
    acts_gas: int
    """What all of them may take, each with the cost of a transaction of its own."""
    permit: Permit | None = None
    """By which it goes: that of its first act."""

    @property
    def gas_limit(self) -> int:
        """Return the gas of the transaction: a caller keeps a 64th back of what it hands on (EIP-150)."""
        return self.acts_gas if len(self.acts) == 1 else -(-self.acts_gas * 64 // 63)


class Batches:
    """The transactions of one commit that still take acts along."""

    def __init__(self, market: Market[Any, Any], most: int) -> None:
        self._market = market if most > 1 and isinstance(market, Batching) else None
        self._most = most
        self._open: dict[Terms, Batch] = {}

    def place(self, step: Step, call: Call, terms: Terms | None) -> Batch:
        """Return the transaction in which an act is to go: one with the same terms and room, or its own.

        Without terms that it could share, it goes alone.
        """
        alone, found = Batch(call, (call,), step.gas_limit), terms and self._open.get(terms)
        if self._market is None or found is None or len(found.acts) >= self._most:
            return alone
        acts = (*found.acts, call)
        whole = self._market.batch(acts)
        if whole is None or len(whole.data) > MOST_BYTES:
            return alone
        wider = Batch(whole, acts, found.acts_gas + step.gas_limit, found.permit)
        return wider if wider.gas_limit <= MOST_GAS else alone

    def note(self, batch: Batch, permit: Permit, terms: Terms | None) -> None:
        """Take it that the newest act of a transaction has its permit: others with its terms may join it."""
        if terms is not None:
            self._open[terms] = replace(batch, permit=batch.permit or permit)
