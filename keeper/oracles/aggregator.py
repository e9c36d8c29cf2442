"""Chainlink's AggregatorV3, and whatever answers like it: the newest round, or the newest one so old.

A round that was carried over from an earlier one is not an answer of its own (``answeredInRound``), an
unfinished one has no time, and one from the future is of a clock that cannot be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keeper.abi import function, load
from keeper.domain import Call, Unknown, Witnessed
from keeper.errors import ChainFault
from keeper.oracles.words import LENT_READER, MOST_DECIMALS
from keeper.units import WAD, UnixS, Wad, mul_div_down

DECIMALS: Final = function("decimals()", "uint8")
LATEST: Final = function("latestRoundData()", "uint80,int256,uint256,uint256,uint80")
MOST_ROUNDS: Final = 64
"""So many rounds are gone back to find one that is old enough."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round: its number and the one it was answered in, its answer, and its time."""

    number: int
    answer: int
    updated_at_s: UnixS
    answered_in: int


@dataclass(frozen=True, slots=True)
class Aggregator:
    """Implements ``Witness``: the newest round."""

    witness: str
    address: str
    heartbeat_s: int
    deviation_wad: Wad

    def questions(self) -> Sequence[Call]:
        """Ask for the newest round and for the decimals."""
        return LATEST.call(self.address), DECIMALS.call(self.address)

    def read(self, answers: Sequence[bytes], at_s: UnixS) -> Witnessed | Unknown:
        """Read it."""
        newest, decimals = answers
        try:
            number, answer, _, updated_at_s, answered_in = LATEST.result(newest)
        except ChainFault:
            return Unknown(self.witness, "no newest round")
        found = _price_wad(Round(number, answer, updated_at_s, answered_in), decimals, at_s)
        if isinstance(found, str):
            return Unknown(self.witness, found)
        return Witnessed(self.witness, found, updated_at_s, self.heartbeat_s, self.deviation_wad)


@dataclass(frozen=True, slots=True)
class Delayed:
    """Implements ``Witness``: the newest round that is so old, as a queue would let it through."""

    witness: str
    address: str
    delay_s: int
    heartbeat_s: int
    """Of the aggregator; the round is older than that by the delay at the most."""
    deviation_wad: Wad
    reader: str = LENT_READER

    def questions(self) -> Sequence[Call]:
        """Ask our reader to go back, and the aggregator for its decimals."""
        before = load("readers", "WitnessReader").functions["roundBefore"]
        asked = before.call(self.reader, self.address, self.delay_s, MOST_ROUNDS)
        return asked, DECIMALS.call(self.address)

    def read(self, answers: Sequence[bytes], at_s: UnixS) -> Witnessed | Unknown:
        """Read it."""
        old, decimals = answers
        try:
            told = Round(*load("readers", "WitnessReader").functions["roundBefore"].result(old))
        except ChainFault:
            return Unknown(self.witness, f"no round of {self.delay_s} s ago among the last {MOST_ROUNDS}")
        found = _price_wad(told, decimals, at_s - self.delay_s)
        if isinstance(found, str):
            return Unknown(self.witness, found)
        heartbeat_s = self.heartbeat_s + self.delay_s
        return Witnessed(self.witness, found, told.updated_at_s, heartbeat_s, self.deviation_wad)


def _price_wad(told: Round, decimals: bytes, until_s: UnixS) -> Wad | str:
    """Return the price of a round, rounded down, or why it has none."""
    try:
        [places] = DECIMALS.result(decimals)
    except ChainFault:
        return "it tells no decimals"
    if places > MOST_DECIMALS:
        return f"{places} decimals, at most {MOST_DECIMALS}"
    if told.answer <= 0:
        return f"answer {told.answer}, above 0"
    if told.updated_at_s == 0:
        return f"round {told.number} is not answered yet"
    if told.updated_at_s > until_s:
        return f"a round of {told.updated_at_s - until_s} s too late"
    if told.answered_in < told.number:
        return f"round {told.number} was answered in {told.answered_in}"
    price_wad = mul_div_down(told.answer, WAD, 10**places)
    return price_wad or "less than the least price"
