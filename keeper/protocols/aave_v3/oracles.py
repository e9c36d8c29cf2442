"""Where prices come from: each source of the pool's oracle, walked down to the feeds that it multiplies.

Adapters scale a feed by a ratio, cap it, or multiply two; what they do to it stays in the price that the
oracle says. Only which feeds move that price is found out here.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.abi import Function, function
from keeper.domain import Call
from keeper.errors import ChainFault
from keeper.protocols.aave_v3.abi import DECIMALS, DESCRIPTION, NEWEST, READER, address
from keeper.units import FeedId

GETTERS: Final = (
    ("ASSET_TO_USD_AGGREGATOR",),
    ("BASE_TO_USD_AGGREGATOR",),
    ("ASSET_TO_PEG", "PEG_TO_BASE"),
    ("aggregator",),
)
"""What adapters call the feeds that their price is proportional to, looked for in this order."""
DEPTH: Final = 4
"""So many contracts, one behind another, are looked into."""
PAIR: Final = re.compile(r"([^\s/]+) / ([^\s/]+)")
"""How a feed describes itself: ``ETH / USD``."""
MOST_DECIMALS: Final = 36
DOLLAR_DECIMALS: Final = 8
"""Of the prices that the pool's oracle says."""
_BATCH: Final = 20
"""Sources asked in one call."""
_WORD: Final = 32


@dataclass(frozen=True, slots=True)
class Trace:
    """A feed that a price moves with."""

    feed: FeedId
    feed_address: str
    decimals: int
    is_oracle: bool = False
    """Whether it is the source itself, of which only the pool's own oracle says a price."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a contract turned out to be: a feed, or a product of what is behind others."""

    trace: Trace | None
    behind: tuple[str, ...]


_QUESTIONS: Final[tuple[Function, ...]] = (
    DESCRIPTION,
    DECIMALS,
    NEWEST,
    *(function(f"{name}()", "address") for group in GETTERS for name in group),
)


def trace(
    reader: str, sources: Mapping[str, FeedId | None]
) -> Generator[list[Call], list[bytes], Mapping[str, tuple[Trace, ...]]]:
    """Find the feeds behind each source; none where one of them is not to be found.

    A source that comes with the name of a feed is that feed, or as good as that where nothing is found behind
    it. Yields the calls of each round, is sent their answers.
    """
    found: dict[str, _Found] = {}
    wanted: Sequence[str] = list(sources)
    for _ in range(DEPTH):
        batches = [wanted[at : at + _BATCH] for at in range(0, len(wanted), _BATCH)]
        pages = yield [_asked(reader, batch) for batch in batches]
        for batch, page in zip(batches, pages, strict=True):
            for source, answers in zip(batch, _answers(page, len(batch)), strict=True):
                found[source] = _recognised(source, sources.get(source), answers)
        behind = dict.fromkeys(each for source in wanted for each in found[source].behind)
        wanted = [each for each in behind if each not in found]
        if not wanted:
            break
    traced = {source: _traces(source, found, DEPTH) for source in sources}
    return {source: traced[source] or _itself(source, name) for source, name in sources.items()}


def _itself(source: str, name: FeedId | None) -> tuple[Trace, ...]:
    return (Trace(name, source, DOLLAR_DECIMALS, is_oracle=True),) if name else ()


def _traces(source: str, found: Mapping[str, _Found], depth: int) -> tuple[Trace, ...]:
    """Collect the feeds behind a source; none where one is missing, or where adapters stand in a circle."""
    if depth == 0 or source not in found:
        return ()
    here = found[source]
    if here.trace:
        return (here.trace,)
    parts = [_traces(each, found, depth - 1) for each in here.behind]
    return tuple(each for part in parts for each in part) if all(parts) else ()


def _asked(reader: str, sources: Sequence[str]) -> Call:
    asked = [(source, question.selector) for source in sources for question in _QUESTIONS]
    return READER["tried"].call(reader, *zip(*asked, strict=True))


def _answers(page: bytes, sources: int) -> Iterator[Sequence[bytes]]:
    [answers] = READER["tried"].result(page)
    width = len(_QUESTIONS)
    if len(answers) != sources * width:
        raise ChainFault(f"expected {sources * width} answers of sources of prices, found {len(answers)}")
    return (answers[at : at + width] for at in range(0, len(answers), width))


def _recognised(source: str, named: FeedId | None, answers: Sequence[bytes]) -> _Found:
    described, decimals, newest, *getters = answers
    feed = named or _feed(described)
    answering = len(newest) == 5 * _WORD and len(decimals) == _WORD
    if feed and answering and int.from_bytes(decimals) <= MOST_DECIMALS:
        return _Found(Trace(feed, source, int.from_bytes(decimals)), ())
    of = iter(getters)
    for group in GETTERS:
        words = [next(of) for _ in group]
        if all(len(word) == _WORD and any(word) for word in words):
            return _Found(None, tuple(address(int.from_bytes(word)) for word in words))
    return _Found(None, ())


def _feed(described: bytes) -> FeedId | None:
    """Return the name of a feed that describes itself as a pair; None for anything else."""
    try:
        [text] = DESCRIPTION.result(described)
    except ChainFault:
        return None
    pair = PAIR.fullmatch(text)
    return f"{pair[1]}/{pair[2]}" if pair else None
