"""What is asked of a witness, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from keeper.domain import Call, Unknown, Witnessed
from keeper.units import UnixS

LENT_READER: Final = f"0x{b'WitnessReader'.hex():0>40}"
"""Where the reader is said to be, for it is deployed nowhere."""
MOST_DECIMALS: Final = 36


class Witness(Protocol):
    """A source of one feed's price on chain."""

    @property
    def witness(self) -> str:
        """Return what the configuration calls it."""
        ...

    def questions(self) -> Sequence[Call]:
        """Return what it is asked; each may go unanswered."""
        ...

    def read(self, answers: Sequence[bytes], at_s: UnixS) -> Witnessed | Unknown:
        """Return what it says at a block of the time ``at_s``; why it says nothing, where it does not.

        An answer of no bytes is none.
        """
        ...
