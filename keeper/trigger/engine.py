"""Which loops the sieve runs: compiled ones where numba is there, else those in numpy."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from keeper.columns.legs import Floats
from keeper.trigger.terms import Fills, Held, Singles, Terms

Numbers = NDArray[np.int32]


class Engine(Fills, Protocol):
    """The loops; ``compiled`` says what each does."""

    def sieve(
        self,
        held: Held,
        terms: Terms,
        rows: Numbers,
        begin: int,
        end: int,
        surplus: Floats,
        out: Numbers,
        /,
    ) -> tuple[int, int]: ...

    def measure(
        self,
        held: Held,
        terms: Terms,
        units: Floats,
        rows: Numbers,
        begin: int,
        end: int,
        surplus: Floats,
        away: Singles,
        /,
    ) -> None: ...

    def apart(self, now: Terms, then: Terms, units: Floats, out: Floats, /) -> None: ...

    def index(self, held: Held, width: int, away: Singles, /) -> tuple[NDArray[np.int64], Numbers]: ...


def engine(*, compiled: bool | None = None) -> Engine:
    """Return the loops; ``compiled`` asks for one kind, None for the fastest that there is."""
    if compiled is None:
        compiled = find_spec("numba") is not None
    if compiled:
        from keeper.trigger import compiled as loops
    else:
        from keeper.trigger import plain as loops  # type: ignore[no-redef]
    return cast("Engine", loops)
