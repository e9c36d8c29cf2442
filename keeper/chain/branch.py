"""The newest canonical heads, linked by parent hash; pure. Every reorg shows itself here and nowhere else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import takewhile

from keeper.domain import Head
from keeper.errors import ChainFault
from keeper.units import Block


class DeepReorg(ChainFault):
    """The chain changed below everything remembered. What was built on it cannot be undone: stop."""


class Branch:
    """At most ``depth`` + 1 heads, each the parent of the next: what can be told apart from a reorg.

    ``first`` is the block to begin with while no head is known.
    """

    def __init__(self, seed: Iterable[Head], *, first: Block, depth: int) -> None:
        self._heads: deque[Head] = deque(maxlen=depth + 1)
        self._depth = depth
        for head in seed:
            if self._heads and self._heads[-1].hash != head.parent_hash:
                self._heads.clear()
            self._heads.append(head)
        self._first = first

    def __iter__(self) -> Iterator[Head]:
        return iter(self._heads)

    def __contains__(self, block_hash: str) -> bool:
        return any(head.hash == block_hash for head in self._heads)

    @property
    def tip_number(self) -> Block:
        """The number of the newest head, or that of the block before the first."""
        return self._heads[-1].number if self._heads else self._first - 1

    def joins(self, head: Head) -> bool:
        """Tell whether ``head`` continues what is known; raise DeepReorg where nothing below it can."""
        if head.parent_hash in self or (not self._heads and head.number == self._first):
            return True
        lowest = self._heads[0].number + 1 if self._heads else self._first
        if head.number <= lowest:
            raise DeepReorg(
                f"block {head.number} {head.hash} continues none of the {len(self._heads)} heads up to "
                f"{self.tip_number} known: a reorg deeper than {self._depth} blocks, or another chain"
            )
        return False

    def orphaned_by(self, head: Head) -> tuple[Head, ...]:
        """Return the known heads above the parent of ``head``, newest first."""
        return tuple(takewhile(lambda known: known.hash != head.parent_hash, reversed(self._heads)))

    def adopt(self, heads: Iterable[Head]) -> None:
        """Replace what the first of ``heads`` orphans; oldest first."""
        for head in heads:
            while self._heads and self._heads[-1].hash != head.parent_hash:
                self._heads.pop()
            self._heads.append(head)
