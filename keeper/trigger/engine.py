"""Which loops the sieve runs: compiled ones where numba is there, else those in numpy."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from keeper.columns.legs import Floats
from keeper.trigger.terms import Fills, Held, Terms

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
        state: Floats,
        bar: float,
        keep: bool,  # noqa: FBT001 - compiled loops know arguments by their place only
        out: Numbers,
        /,
    ) -> tuple[int, int]: ...

    def measure(
        self, held: Held, units: Floats, rows: Numbers, begin: int, end: int, state: Floats, /
    ) -> None: ...

    def shift(
        self,
        rows: Numbers,
        sizes: Floats,
        classes: NDArray[np.unsignedinteger[Any]],
        moved: Floats,
        stale: NDArray[np.bool_],
        state: Floats,
        bar: float,
        begin: int,
        end: int,
        out: Numbers,
        /,
    ) -> int: ...

    def within(self, rows: Numbers, state: Floats, bar: float, out: Numbers, /) -> int: ...

    def apart(self, now: Terms, then: Terms, units: Floats, out: Floats, /) -> None: ...

    def index(
        self, held: Held, width: int, starts: NDArray[np.int64], rows: Numbers, sizes: Floats, /
    ) -> None: ...


def engine(*, compiled: bool | None = None) -> Engine:
    """Return the loops; ``compiled`` asks for one kind, None for the fastest that there is."""
    if compiled is None:
        compiled = find_spec("numba") is not None
    if compiled:
        from keeper.trigger import compiled as loops
    else:
        from keeper.trigger import plain as loops  # type: ignore[no-redef]
    return cast("Engine", loops)
