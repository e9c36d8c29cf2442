"""What a sender asks of whoever holds the wallet's key, and the check of what came from elsewhere.

A signer elsewhere is asked for nothing but a signature over bytes that are ours: the transaction is put
together here, so that it cannot come back with other fields, and the signature has to recover to the
wallet's address, so that it cannot be of another key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed transaction as it goes over the wire, and its hash."""

    raw: bytes
    tx_hash: str


class Signer(Protocol):
    """Signs for one address. Neither prints nor pickles what it signs with."""

    @property
    def address(self) -> str:
        """The wallet's address in lower case."""
        ...

    @property
    def fault(self) -> str | None:
        """Why it could not sign when it was asked last; None where it could."""
        ...

    async def sign(self, tx: Mapping[str, Any]) -> Signed:
        """Sign a transaction. With a key of this process it comes back without giving up its turn.

        Raises SignerFault where there is no signature of the wallet, and InvariantBroken where the
        transaction is none.
        """
        ...
