"""All witnesses of a keeper, asked together in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keeper.abi import artifact, load
from keeper.domain import Call, Witnesses
from keeper.errors import ChainFault
from keeper.oracles.words import LENT_READER, Witness
from keeper.units import FeedId, UnixS


@dataclass(frozen=True, slots=True)
class Panel:
    """The witnesses of each feed; none, unless some are configured."""

    feeds: Mapping[FeedId, tuple[Witness, ...]] = field(default_factory=dict)
    reader: str = LENT_READER

    def calls(self) -> list[Call]:
        """Build the one call that asks all of them; none where there is nobody to ask."""
        asked = [each for some in self.feeds.values() for one in some for each in one.questions()]
        if not asked:
            return []
        tried = load("readers", "WitnessReader").functions["tried"]
        return [tried.call(self.reader, [each.to for each in asked], [each.data for each in asked])]

    def decode(self, answers: Sequence[bytes], at_s: UnixS) -> Witnesses:
        """Read what each says at a block of the time ``at_s``; raise ChainFault where one is left out."""
        if not answers:
            return {}
        [page] = answers
        [told] = load("readers", "WitnessReader").functions["tried"].result(page)
        counts = [len(one.questions()) for some in self.feeds.values() for one in some]
        if len(told) != sum(counts):
            raise ChainFault(f"expected {sum(counts)} answers of witnesses, found {len(told)}")
        rest = iter(told)
        return {
            feed: tuple(one.read([next(rest) for _ in one.questions()], at_s) for one in some)
            for feed, some in self.feeds.items()
        }


def reader_creation() -> bytes:
    """Return the creation code of a WitnessReader."""
    return bytes.fromhex(artifact("readers", "WitnessReader")["bytecode"][2:])
