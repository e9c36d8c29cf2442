"""The tape of a keeper that keeps none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from keeper.ports import Drawn


class Blank:
    """Implements ``ports.Tape`` and keeps nothing."""

    def note(self, what: str, *values: Any) -> None:
        """Forget a record."""

    async def mark(self, what: str) -> None:
        """Go on."""

    def chance(self, drawn: Drawn) -> Drawn:
        """Leave to chance what is."""
        return drawn

    def said(self, what: str, said: Drawn) -> Drawn:
        """Take the journal at its word."""
        del what
        return said

    async def pack(self) -> None:
        """Have nothing to pack."""

    def aside(self) -> AbstractContextManager[None]:
        """Leave nothing out of nothing."""
        return nullcontext()
