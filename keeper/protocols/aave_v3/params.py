"""What a pool of Aave v3 lists, and by which rules it judges."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from keeper.domain import Call
from keeper.errors import ChainFault, ConfigError
from keeper.protocols.aave_v3 import oracles
from keeper.protocols.aave_v3.abi import READER, address
from keeper.protocols.aave_v3.math import Rules
from keeper.protocols.aave_v3.oracles import Trace
from keeper.units import FeedId

LENT_READER: Final = f"0x{b'AaveReader'.hex():0>40}"
"""Where a reader that is not deployed is called: nobody has the key to this address, or code there."""
BASE_UNIT: Final = 10**8
"""One unit of the base currency, a dollar: the bounds of 3.6's dust rule are in such."""
RULES: Final[Mapping[int, Rules]] = {**dict.fromkeys((1, 2, 3), Rules.V3_0), 10: Rules.V3_6}
"""By POOL_REVISION."""
MAX_RESERVES: Final = 128
CATEGORIES: Final = 256
"""E-mode categories that there can be; 0 is none."""
_LISTED_WORDS: Final = 5


@dataclass(frozen=True, slots=True)
class Listed:
    """A reserve: its number in the pool, its contracts, and the source of its price."""

    number: int
    token: str
    atoken: str
    debt_token: str
    source: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """One pool, what it lists, and the feeds that its prices come from."""

    pool: str
    reader: str
    named: Mapping[str, FeedId]
    """Feeds that the configuration names, by token or by source of prices."""
    rules: Rules
    version: int
    reserves: Mapping[int, Listed]
    """By number; a reserve that was dropped has left its number free."""
    traces: Mapping[int, tuple[Trace, ...]]
    """By number of the reserve; none where its price cannot be traced to feeds."""

    @property
    def atokens(self) -> frozenset[str]:
        """The receipts of all reserves."""
        return frozenset(each.atoken for each in self.reserves.values())

    @property
    def feeds(self) -> tuple[str, ...]:
        """The contracts of all feeds, each once."""
        return tuple(dict.fromkeys(each.feed_address for found in self.traces.values() for each in found))


def read_deployment(
    pool: str, named: Mapping[str, FeedId], reader: str = LENT_READER
) -> Generator[list[Call], list[bytes], Deployment]:
    """Read what a pool lists, and trace its prices: yields the calls of each round, is sent their answers.

    ``named`` are feeds by token or by source of prices. Raises ConfigError where the pool judges by rules
    that are not known here, and ChainFault where what is there is no pool.
    """
    named = {at.lower(): feed for at, feed in named.items()}
    [answer] = yield [READER["listing"].call(reader, pool)]
    rules, version, reserves = decode_listing(answer)
    asked = {each.source: named.get(each.token) or named.get(each.source) for each in reserves.values()}
    traces = yield from oracles.trace(reader, asked)
    return Deployment(
        pool=pool.lower(),
        reader=reader,
        named=named,
        rules=rules,
        version=version,
        reserves=reserves,
        traces={number: traces[each.source] for number, each in reserves.items()},
    )


def decode_listing(answer: bytes) -> tuple[Rules, int, Mapping[int, Listed]]:
    """Read rules, version and reserves by number."""
    (revision, unit), words = READER["listing"].result(answer)
    if len(words) % _LISTED_WORDS:
        raise ChainFault(f"expected {_LISTED_WORDS} words a reserve, found {len(words)}")
    rows = [words[at : at + _LISTED_WORDS] for at in range(0, len(words), _LISTED_WORDS)]
    listed = [Listed(number, *map(address, addresses)) for number, *addresses in rows]
    reserves = {each.number: each for each in listed}
    if len(reserves) != len(listed) or any(number >= MAX_RESERVES for number in reserves):
        raise ChainFault(f"expected reserves of different numbers, found {[each.number for each in listed]}")
    version = version_of(revision, [(each.number, each.token, each.source) for each in listed])
    return rules_of(revision, unit), version, reserves


def rules_of(revision: int, unit: int) -> Rules:
    """Return the rules of a pool's revision; raise ConfigError where they are not known here."""
    if revision not in RULES:
        raise ConfigError(f"expected an Aave pool of revision {[*RULES]}, found {revision}")
    if unit != BASE_UNIT:
        raise ConfigError(f"expected a pool that counts in 1e8 to the dollar, found {unit}")
    return RULES[revision]


def version_of(revision: int, listed: Sequence[tuple[int, str, str]]) -> int:
    """Return a number that changes with the code, with any reserve, and with any source of prices."""
    told = [str(revision), *(f"{number} {token} {source}" for number, token, source in listed)]
    return crc32("\n".join(told).encode())
