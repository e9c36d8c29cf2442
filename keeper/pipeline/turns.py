"""Turns on the loop: long work is done a piece at a time, and others go in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

TURN_NS = 5_000_000
"""How long the work on many accounts keeps the loop to itself."""


class Turns:
    """Gives others their turn on the loop, wherever work goes on for long."""

    def __init__(self) -> None:
        self._since_ns = time.monotonic_ns()

    async def pass_on(self) -> None:
        """Let others go first, if the last time is long ago."""
        if time.monotonic_ns() - self._since_ns >= TURN_NS:
            await asyncio.sleep(0)
            self._since_ns = time.monotonic_ns()


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items so many at a time."""
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])
