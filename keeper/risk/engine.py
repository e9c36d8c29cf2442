"""Which loops run: compiled ones where numba is there and enough is to be done, else those in numpy."""

from __future__ import annotations

from importlib.util import find_spec


def compiles(*, asked: bool | None, enough: bool) -> bool:
    """Tell whether to compile: as it was asked, or by None where there is enough to pay for it."""
    return enough and find_spec("numba") is not None if asked is None else asked
