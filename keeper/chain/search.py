"""The logs of a long past: in ranges as wide as the nodes allow, and not believed where headers object.

A range that a node refuses as too much is halved; the next ones grow again, each halfway to what was refused
until they are close to it, and every ``FORGET`` ranges the refusal is forgotten, for the density of logs
changes along a chain. A node that is silent is waited for: what was searched is with the caller, and nothing
is searched twice. Silence at one range, time and again, halves it too: some nodes and proxies run into a time
limit, or drop an answer for its size, and say no more.

Of every range ``SAMPLE`` headers are looked at, drawn anew by chance, all of a range that has no more: where
the bloom filter of a block without logs allows for one of ours, the block is asked about by its hash. A node
that leaves out the share s of the blocks is so found with a chance of 1 - (1 - s)^16 a range. All headers of
a range would cost a request for each block, thousands of times what the search costs; and a filter proves
nothing on a busy chain, where most of its bits are set in every block.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from eth_utils.crypto import keccak

from keeper.chain.pool import INTERNAL, Pool
from keeper.chain.rpc import RpcError, Throttled, Unreachable
from keeper.chain.wire import MALFORMED, data, log_of, lower_hex, quantity
from keeper.domain import Log
from keeper.errors import ChainFault
from keeper.ports import Range
from keeper.units import Block

log = structlog.get_logger()

LIMIT_EXCEEDED = -32005
TOO_MUCH = re.compile(
    r"more than|too (many|large|big|wide|long)|limit|exceed|maximum|\brange\b|response size|time.?d? ?out",
    re.IGNORECASE,
)
"""How nodes refuse a range of logs: geth, reth, Erigon, Nethermind, Besu, and the large providers."""
FIRST_SPAN = 2_000
WIDEST_SPAN = 1_000_000
FORGET = 32
SILENT = 3
"""A range is narrowed after so many silences in a row; fewer are the weather."""
SAMPLE = 16
BLOOM_BITS = 2048
CERTAIN = 1e-3
"""A filter that allows for us by chance more seldom than so is asked about at a second endpoint too."""


class Span:
    """How many blocks to ask for; pure."""

    def __init__(self, blocks: Block = FIRST_SPAN) -> None:
        self.blocks = blocks
        self._refused: Block | None = None
        self._taken = 0

    def taken(self, blocks: Block) -> None:
        """Grow after an answer; one to a shorter range than was allowed says nothing."""
        if blocks < self.blocks:
            return
        self._taken += 1
        if self._taken % FORGET == 0:
            self._refused = None
        if self._refused is None:
            self.blocks = min(2 * blocks, WIDEST_SPAN)
        elif self._refused - blocks > blocks // 8:
            self.blocks = (blocks + self._refused) // 2

    def refused(self, blocks: Block) -> None:
        """Halve after a refusal."""
        self._refused, self.blocks = blocks, max(1, blocks // 2)


@dataclass(frozen=True, slots=True)
class Header:
    """What the check needs of a header; ``bloom`` is None where the node does not give it."""

    number: Block
    hash: str
    bloom: int | None


class Search:
    """Searches one chain for the logs of some addresses."""

    def __init__(
        self,
        rpc: Pool,
        addresses: Sequence[str],
        *,
        longest_pause_s: float = 5.0,
        most_failures: int | None = None,
    ) -> None:
        """Search with a pause after each failure; give up after so many in a row, or never."""
        self._rpc = rpc
        self._addresses = list(addresses)
        self._masks = [bloom_mask(each) for each in addresses]
        self._longest_pause_s = longest_pause_s
        self._most_failures = most_failures

    async def ranges(self, first: Block, last: Block) -> AsyncIterator[Range]:
        """Yield the blocks from ``first`` to ``last``, each once and in order.

        A fault that may pass is said and waited out, until there were too many in a row; any other refusal is
        raised.
        """
        span, failures, silent = Span(), 0, 0
        while first <= last:
            end = min(first + span.blocks - 1, last)
            try:
                found = await self._range(first, end)
            except ChainFault as fault:
                is_silence = isinstance(fault, Unreachable) and not isinstance(fault, Throttled)
                silent = silent + 1 if is_silence else 0
                if first < end and (silent == SILENT or _is_too_much(fault)):
                    span.refused(end - first + 1)
                    silent = 0
                    continue
                if isinstance(fault, RpcError) and fault.code != INTERNAL:
                    raise
                failures += 1
                if failures == self._most_failures:
                    raise
                pause_s = min(0.05 * 2 ** min(failures, 10), self._longest_pause_s)
                log.warning("chain.search_failed", block=first, why=str(fault), pause_s=pause_s)
                await asyncio.sleep(pause_s)
                continue
            failures, silent = 0, 0
            span.taken(end - first + 1)
            yield found
            first = end + 1

    async def _range(self, first: Block, last: Block) -> Range:
        asked = {"address": self._addresses, "fromBlock": hex(first), "toBlock": hex(last)}
        logs = [log_of(raw) for raw in await self._rpc.request("eth_getLogs", [asked])]
        blocks = {each.block_number for each in logs}
        drawn = random.sample(range(first, last + 1), min(SAMPLE, last - first + 1))
        headers = await self._headers([*(each for each in drawn if each not in blocks), last])
        for header in headers[:-1]:
            if await self._is_left_out(header):
                self._rpc.accuse(asked, f"left the logs of block {header.number} out")
                raise ChainFault(
                    f"expected the logs of blocks {first} to {last}, found none of block {header.number}"
                )
        ordered = sorted(logs, key=lambda each: (each.block_number, each.index))
        return Range(last, headers[-1].hash, tuple(ordered))

    async def _headers(self, numbers: Iterable[Block]) -> list[Header]:
        calls = [("eth_getBlockByNumber", [hex(number), False]) for number in numbers]
        return [_header_of(raw) for raw in await self._rpc.batch(calls)]

    async def _is_left_out(self, header: Header) -> bool:
        """Tell whether a block of which no log was found has one.

        Asked by its hash; where the filter can hardly err, and that answer is empty as well, once more, of
        another endpoint if there is one.
        """
        if header.bloom is None or not any(header.bloom & mask == mask for mask in self._masks):
            return False
        asked = {"address": self._addresses, "blockHash": header.hash}
        if await self._logs_of(asked):
            return True
        by_chance = len(self._masks) * (header.bloom.bit_count() / BLOOM_BITS) ** 3
        if by_chance > CERTAIN:
            return False
        self._rpc.accuse(asked, f"finds no log in block {header.number}, whose bloom filter has one")
        found = bool(await self._logs_of(asked))
        if not found:
            log.warning("chain.bloom_unexplained", block=header.number, hash=header.hash)
        return found

    async def _logs_of(self, asked: Mapping[str, Any]) -> list[Log]:
        return [log_of(raw) for raw in await self._rpc.request("eth_getLogs", [asked])]


def bloom_mask(address: str) -> int:
    """Return the three bits that a log of an address sets (yellow paper, section 4.3.1)."""
    digest = keccak(hexstr=address)
    return sum({1 << (int.from_bytes(digest[at : at + 2]) % BLOOM_BITS) for at in (0, 2, 4)})


def _header_of(raw: Mapping[str, Any] | None) -> Header:
    if raw is None:
        raise ChainFault("expected a block header, found null: the node does not have that block")
    try:
        given = raw.get("logsBloom")
        bloom = None if given is None else int.from_bytes(data(given, BLOOM_BITS // 8))
        return Header(quantity(raw["number"]), lower_hex(raw["hash"], 32), bloom)
    except MALFORMED as error:
        raise ChainFault(f"a block header cannot be read: {error!r}") from error


def _is_too_much(fault: ChainFault) -> bool:
    if not isinstance(fault, RpcError):
        return False
    return fault.code == LIMIT_EXCEEDED or TOO_MUCH.search(fault.message) is not None
