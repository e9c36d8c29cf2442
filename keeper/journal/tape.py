"""The tape: all that decisions depend on, in the order in which it came, so that they can be made again.

A record is a JSON array, its kind first; a row of the tape is the records of one head and of what came before
it, packed. Recorders stand around the ports: what is asked goes through, and what is answered is noted at the
moment at which whoever asked goes on. Nothing is written before the head is done, and then in its commit.

    c                                        answers of several calls: of what, the calls, the answers
    a, !, x                                  another answer, a fault, a question given up: of what, and it
    q, b                                     quotes that changed; bundles heard, null where they are as before
    discover, head, tick, settle, alarm, prepare, announced
                                             what began
    mark                                     what went on after a wait that no port has seen
    chance, found                            what was drawn; accounts of the journal that the book had not
    doubt, known                             how many differences were not healed; how far others had come
    stood                                    that another keeper led at a head
    listing                                  that it was read anew
    posture                                  what decisions of a head go by: the event of the journal up to
                                             which cases are known, how the keeper as a whole stands, and
                                             since when the chain has shown the breach of which accounts
    door                                     what a grant goes by: switches, and limits read anew

A call is known by its selector and a digest of all of it; no key, no URL and no signed bytes are on a tape.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, astuple, dataclass
from hashlib import blake2b
from typing import Any, TypeAlias, TypeVar, cast

import orjson
import structlog

from keeper.domain import (
    Announced,
    Bundle,
    Call,
    ChainTime,
    FeedView,
    Fees,
    Head,
    Level,
    Log,
    Observation,
    Posture,
    Quote,
    Reason,
    Refuse,
    Report,
    Unknown,
)
from keeper.errors import ChainFault, SignerFault
from keeper.journal import rows, switches
from keeper.journal.guard import Limits, Standing
from keeper.ports import BlockUpdate, Drawn, Feed, LiveFeed, Mempool, Range, Reader, Reports
from keeper.units import AccountKey, Block, FeedId, UnixS

Record: TypeAlias = list[Any]
ReaderT = TypeVar("ReaderT", bound=Reader)
RpcT = TypeVar("RpcT")
SignerT = TypeVar("SignerT")
log = structlog.get_logger()

LEVEL = 6
ANEW = 256
"""Heads after which quotes and bundles are told whole again, so that a tape can be read from near there."""
LARGE = 2**16
"""Bytes of records from which on they are packed in a thread: ticks are not to wait for it."""
MOST = 2**26
"""Bytes of records that wait for a head at most, once one was done: hours of ticks without a node."""


# --- words of the tape ---------------------------------------------------------------------------


def call_id(call: Call) -> str:
    """Name a call: its selector, and a digest of all that it is."""
    whole = blake2b(call.data, digest_size=8)
    whole.update(repr((call.to.lower(), call.codes)).encode())
    return call.data[:4].hex() + whole.hexdigest()


def key_of(*asked: object) -> str:
    """Name any other question by its kind and a digest of it."""
    return f"{asked[0]}:{blake2b(repr(asked[1:]).encode(), digest_size=8).hexdigest()}"


def calls_key(of: str, ids: Sequence[str]) -> str:
    """Name several calls at a block, or to a node."""
    return f"{of}:{','.join(ids)}"


def at_block(at_hash: str) -> str:
    """Name a block by the beginning of its hash."""
    return at_hash[:18]


RPC = "rpc"
"""What several requests of a sender are of."""
SIGN = "sign"
"""What a signature is asked by. Only that there was none is noted: what was signed is in the journal."""


def simulation_key(sender: str, call: Call, at: ChainTime, gas_limit: int) -> str:
    """Name a simulation."""
    return key_of("simulate", sender, call_id(call), at.block, at.timestamp_s, gas_limit)


def rerun_key(sender: str, call: Call, at_hash: str, gas_limit: int) -> str:
    """Name a run of what reverted."""
    return key_of("rerun", sender, call_id(call), at_hash, gas_limit)


def behind_key(before: Sequence[Announced], call: Call, at: ChainTime, sender: str, gas_limit: int) -> str:
    """Name a simulation behind announced transactions."""
    hashes = [each.tx_hash for each in before]
    return key_of("behind", hashes, call_id(call), at.block, at.timestamp_s, sender, gas_limit)


def pack(records: Sequence[bytes]) -> bytes:
    """Pack records, each a line of JSON."""
    return zlib.compress(b"\n".join(records), LEVEL)


TORN = (zlib.error, ValueError)
"""What is raised where a row of the tape is damaged."""


def unpack(data: bytes) -> list[Record]:
    """Read the records of a row; raise one of ``TORN`` where there are none."""
    return [json.loads(line) for line in zlib.decompress(data).split(b"\n") if line]


def of_announced(each: Announced) -> Record:
    """Write down an announced transaction."""
    call, fees = each.call, asdict(each.fees)
    return [each.tx_hash, each.sender, call.to, call.data.hex(), each.gas, fees]


def to_announced(row: Sequence[Any]) -> Announced:
    tx_hash, sender, to, data, gas, fees = row
    return Announced(tx_hash, sender, Call(to, bytes.fromhex(data)), gas, Fees(**fees))


def of_head(head: Head) -> Record:
    return list(astuple(head))


def to_head(row: Sequence[Any]) -> Head:
    return Head(*row)


def _of_log(log: Log) -> Record:
    topics: Any = [topic.hex() for topic in log.topics]
    return [
        log.address, topics, log.data.hex(), log.block_number, log.block_hash, log.tx_hash, log.index,
        log.tx_index,
    ]  # fmt: skip


def _to_log(row: Sequence[Any]) -> Log:
    address, topics, data, *rest = row
    return Log(address, tuple(map(bytes.fromhex, topics)), bytes.fromhex(data), *rest)


def of_range(found: Range) -> Record:
    return [found.last, found.last_hash, [_of_log(each) for each in found.logs]]


def to_range(row: Sequence[Any]) -> Range:
    return Range(row[0], row[1], tuple(map(_to_log, row[2])))


def to_update(row: Sequence[Any]) -> BlockUpdate:
    """Read a head update, heard at no time of the day."""
    head, orphaned, adopted, logs = row
    return BlockUpdate(
        to_head(head),
        tuple(map(to_head, orphaned)),
        tuple(map(to_head, adopted)),
        tuple(map(_to_log, logs)),
    )


def _of_quote(quote: Quote | Unknown) -> Record:
    if isinstance(quote, Unknown):
        return [quote.what, quote.why]
    # As text: JSON that others read ends at 64 bits.
    return [str(quote.price_wad), quote.observed_at_s, quote.confidence_bps, quote.dispersion_bps]


def to_quote(feed: FeedId, row: Sequence[Any]) -> Quote | Unknown:
    return Unknown(*row) if len(row) == 2 else Quote(feed, int(row[0]), *row[1:])


def _of_report(report: Report) -> Record:
    said = report.observation
    return [
        said.feed, str(said.price_wad), said.confidence_bps, said.observed_at_s, said.valid_until_s,
        report.signature.hex(), report.signer,
    ]  # fmt: skip


def to_report(row: Sequence[Any]) -> Report:
    feed, price, confidence_bps, observed_at_s, valid_until_s, signature, signer = row
    said = Observation(feed, int(price), confidence_bps, observed_at_s, valid_until_s)
    return Report(said, bytes.fromhex(signature), signer)


def stacked_key(sender: str, calls: Sequence[tuple[Call, int]], at: ChainTime) -> str:
    """Name a simulation of several on top of one another."""
    named = [[call_id(call), gas_limit] for call, gas_limit in calls]
    return key_of("simulate_in_order", sender, named, at.block, at.timestamp_s)


def of_posture(posture: Posture) -> Record:
    """Write down how the keeper as a whole stands."""
    named = [sorted(posture.slowed), sorted(posture.tripped)]
    return [int(posture.level), posture.caution, posture.pace_wad, *named]


def to_posture(row: Sequence[Any]) -> Posture:
    level, caution, pace_wad, slowed, tripped = row
    return Posture(Level(level), caution, pace_wad, frozenset(slowed), frozenset(tripped))


def to_shown(rows: Sequence[Sequence[Any]]) -> Mapping[AccountKey, ChainTime]:
    """Read since which head the chain had shown the breach of some accounts."""
    return {bytes.fromhex(account): ChainTime(block, at_s) for account, block, at_s in rows}


def of_standing(standing: Standing) -> Record:
    """Write down what a grant goes by."""
    limits = None if standing.limits is None else json.dumps(asdict(standing.limits), default=_listed)
    return [[switches.of_thrown(each) for each in standing.thrown], limits]


def to_standing(row: Sequence[Any]) -> Standing:
    thrown, text = row
    limits = None
    if text is not None:
        values = json.loads(text)
        lists = {name: frozenset(each) for name, each in values.items() if isinstance(each, list)}
        limits = Limits(**{**values, **lists, "kill_file": None})
    return Standing(tuple(map(switches.to_thrown, thrown)), limits)


def _listed(value: object) -> Any:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def of_simulated(result: bytes | Refuse) -> Any:
    return list(astuple(result.reason)) if isinstance(result, Refuse) else result.hex()


def of_stacked(results: list[bytes | Refuse] | None) -> Any:
    return None if results is None else [of_simulated(each) for each in results]


def to_stacked(found: Any) -> list[bytes | Refuse] | None:
    return None if found is None else [to_simulated(each) for each in found]


def to_simulated(found: Any) -> bytes | Refuse:
    return Refuse(Reason(*found)) if isinstance(found, list) else bytes.fromhex(found)


# --- recording -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packed:
    """Records as they are written, and whether a listing is among them."""

    data: bytes
    listing: bool


class Recorder:
    """Implements ``ports.Tape``: keeps records in memory until the journal takes them with a head.

    Where no head comes for long, the tape of the run ends at the last one that was done.
    """

    def __init__(self) -> None:
        self._records: list[bytes] = []
        self._bytes = 0
        self._packed: list[Packed] = []
        self._listing = False
        self.has_ended = False
        """Whether nothing more is kept: too much had come since the last head."""
        self.times = 0
        """How often quotes and bundles were to be told whole."""
        self._heads = 0
        self.is_aside = False
        """Whether what is looked at now is left out."""

    def note(self, what: str, *values: Any) -> None:
        """Note a record."""
        self._listing = self._listing or what == "listing"
        self._add(_written([what, *values]))

    def _add(self, record: bytes) -> None:
        if self.has_ended:
            return
        self._records.append(record)
        self._bytes += len(record)
        if self._heads and self._bytes > MOST:
            log.warning("tape.ended", held_bytes=self._bytes, bound_bytes=MOST)
            self._records, self._bytes, self._listing, self.has_ended = [], 0, False, True

    async def mark(self, what: str) -> None:
        """Note that work goes on after a wait that no port has seen."""
        self.note("mark", what)

    def chance(self, drawn: Drawn) -> Drawn:
        """Note what was drawn by chance."""
        self.note("chance", drawn)
        return drawn

    def said(self, what: str, said: Drawn) -> Drawn:
        """Note what a journal says that another keeper may write."""
        self.note(what, said)
        return said

    def standing(self, standing: Standing) -> Standing:
        """Note what a grant goes by."""
        self.note("door", *of_standing(standing))
        return standing

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave out what is looked at inside, where nobody else has a turn."""
        self.is_aside = True
        try:
            yield
        finally:
            self.is_aside = False

    @property
    def waiting_bytes(self) -> int:
        """How much is packed, and not in the journal yet."""
        return sum(len(each.data) for each in self._packed)

    async def pack(self) -> None:
        """Pack what was noted, in a thread where it is much."""
        if self.has_ended:
            return
        records, self._records = self._records, []
        size, self._bytes = self._bytes, 0
        listing, self._listing = self._listing, False
        self._heads += 1
        if self._heads % ANEW == 0:
            self.times += 1
        if size < LARGE:
            self._packed.append(Packed(pack(records), listing))
            return
        try:
            self._packed.append(Packed(await asyncio.to_thread(pack, records), listing))
        except asyncio.CancelledError:
            self._records, self._bytes = [*records, *self._records], self._bytes + size
            self._listing = self._listing or listing
            raise

    def take(self) -> list[Packed]:
        """Return what was packed since the last time, for the journal to write."""
        packed, self._packed = self._packed, []
        return packed

    def take_rest(self) -> list[Packed]:
        """Return that and all else, at the end of a run."""
        rest, self._records, self._bytes = self._records, [], 0
        return [*self.take(), *([Packed(pack(rest), self._listing)] if rest else [])]

    # --- around the ports ---

    def reader(self, reader: ReaderT) -> ReaderT:
        """Stand around a reader; whatever else it can do, it can do as before."""
        return cast("ReaderT", _TapedReader(self, reader))

    def rpc(self, rpc: RpcT) -> RpcT:
        """Stand around what a sender asks the nodes by."""
        return cast("RpcT", _TapedRpc(self, rpc))

    def signer(self, signer: SignerT) -> SignerT:
        """Stand around whoever holds the wallet's key."""
        return cast("SignerT", _TapedSigner(self, signer))

    def feed(self, feed: Feed) -> Feed:
        """Stand around a source of prices."""
        return _TapedLiveFeed(self, feed) if isinstance(feed, LiveFeed) else _TapedFeed(self, feed)

    def mempool(self, mempool: Mempool) -> Mempool:
        """Stand around whoever hears what is announced."""
        return _TapedMempool(self, mempool)

    def reports(self, reports: Reports) -> Reports:
        """Stand around whoever hears reporters."""
        return _TapedReports(self, reports)

    async def answer(self, key: str, asked: Any, plain: Callable[[Any], Any] = lambda value: value) -> Any:
        """Await an answer and note it, or the fault, or that nobody waits for it any more."""
        try:
            found = await asked
        except ChainFault as fault:
            self.note("!", key, str(fault))
            raise
        except asyncio.CancelledError:
            self.note("x", key)
            raise
        self.note("a", key, plain(found))
        return found

    async def answers(self, of: str, ids: Sequence[str], asked: Any) -> Any:
        """Await the answers of several calls and note them."""
        key = calls_key(of, ids)
        try:
            found = await asked
            said = ["c", of, ids, found]
            if sum(len(each) for each in found if isinstance(each, bytes)) < LARGE:
                self.note(*said)
            else:
                self._add(await asyncio.to_thread(_written, said))
        except ChainFault as fault:
            self.note("!", key, str(fault))
            raise
        except asyncio.CancelledError:
            self.note("x", key)
            raise
        return found


def _written(record: Record) -> bytes:
    return orjson.dumps(record, default=_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS)


def _plain(value: object) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Head):
        return of_head(value)
    if isinstance(value, BlockUpdate):
        return of_update(value)
    if isinstance(value, Announced):
        return of_announced(value)
    if isinstance(value, Posture):
        return of_posture(value)
    raise TypeError(f"{type(value).__name__} does not go onto the tape: {value!r}")


class _TapedReader:
    def __init__(self, tape: Recorder, reader: Any) -> None:
        self._tape = tape
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def search(self, first: Block, last: Block) -> AsyncIterator[Range]:
        key = key_of("search", first, last)
        found = aiter(self._reader.search(first, last))
        while True:
            try:
                each = await anext(found)
            except StopAsyncIteration:
                self._tape.note("a", key, None)
                return
            except ChainFault as fault:
                self._tape.note("!", key, str(fault))
                raise
            except asyncio.CancelledError:
                self._tape.note("x", key)
                raise
            self._tape.note("a", key, of_range(each))
            yield each

    async def hash_at(self, number: Block) -> str | None:
        found: str | None = await self._tape.answer(key_of("hash_at", number), self._reader.hash_at(number))
        return found

    async def call(self, call: Call, at_hash: str) -> bytes:
        ids = [call_id(call)]
        answer: bytes
        [answer] = await self._tape.answers(at_block(at_hash), ids, self._one(call, at_hash))
        return answer

    async def _one(self, call: Call, at_hash: str) -> list[bytes]:
        return [await self._reader.call(call, at_hash)]

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        ids, asked = [call_id(call) for call in calls], self._reader.call_many(calls, at_hash)
        found: list[bytes] = await self._tape.answers(at_block(at_hash), ids, asked)
        return found

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        key = simulation_key(sender, call, at, gas_limit)
        asked = self._reader.simulate(sender, call, at, gas_limit)
        result: bytes | Refuse = await self._tape.answer(key, asked, of_simulated)
        return result

    async def simulate_in_order(
        self, sender: str, calls: Sequence[tuple[Call, int]], at: ChainTime
    ) -> list[bytes | Refuse] | None:
        asked = self._reader.simulate_in_order(sender, calls, at)
        results: list[bytes | Refuse] | None = await self._tape.answer(
            stacked_key(sender, calls, at), asked, of_stacked
        )
        return results

    async def rerun(self, sender: str, call: Call, at_hash: str, gas_limit: int) -> bytes | Refuse:
        asked = self._reader.rerun(sender, call, at_hash, gas_limit)
        result: bytes | Refuse = await self._tape.answer(
            rerun_key(sender, call, at_hash, gas_limit), asked, of_simulated
        )
        return result


class _TapedMempool:
    def __init__(self, tape: Recorder, mempool: Mempool) -> None:
        self._tape = tape
        self._mempool = mempool

    def announced(self) -> AsyncGenerator[Announced, None]:
        return self._mempool.announced()

    async def behind(
        self, before: Sequence[Announced], call: Call, at: ChainTime, sender: str, gas_limit: int
    ) -> bytes | Refuse:
        key = behind_key(before, call, at, sender, gas_limit)
        asked = self._mempool.behind(before, call, at, sender, gas_limit)
        result: bytes | Refuse = await self._tape.answer(key, asked, of_simulated)
        return result


class _TapedRpc:
    def __init__(self, tape: Recorder, rpc: Any) -> None:
        self._tape = tape
        self._rpc = rpc

    async def request(self, method: str, params: list[Any]) -> Any:
        return await self._tape.answer(key_of(method, params), self._rpc.request(method, params))

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        ids = [key_of(method, params) for method, params in calls]
        found: list[Any] = await self._tape.answers(RPC, ids, self._rpc.batch(calls))
        return found


class _TapedSigner:
    def __init__(self, tape: Recorder, signer: Any) -> None:
        self._tape = tape
        self._signer = signer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._signer, name)

    async def sign(self, tx: Mapping[str, Any]) -> Any:
        try:
            return await self._signer.sign(tx)
        except SignerFault as fault:
            self._tape.note("!", key_of(SIGN, rows.dumps(tx)), str(fault))
            raise


class _TapedFeed:
    def __init__(self, tape: Recorder, feed: Any) -> None:
        self._tape = tape
        self._feed = feed
        self._last: Mapping[FeedId, Quote | Unknown] = {}
        self._times = 0

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        quotes: Mapping[FeedId, Quote | Unknown] = self._feed.latest(now_s)
        last = self._last if self._times == self._tape.times else {}
        self._times = self._tape.times
        changed: dict[FeedId, Any] = {
            feed: _of_quote(quote) for feed, quote in quotes.items() if last.get(feed) != quote
        }
        changed |= dict.fromkeys(last.keys() - quotes.keys())
        self._last = dict(quotes)
        self._tape.note("q", changed)
        return quotes


class _TapedLiveFeed(_TapedFeed):
    def listening(self) -> AbstractAsyncContextManager[None]:
        found: AbstractAsyncContextManager[None] = self._feed.listening()
        return found

    async def tick(self) -> int:
        heard_ns: int = await self._feed.tick()
        return heard_ns


class _TapedReports:
    def __init__(self, tape: Recorder, reports: Reports) -> None:
        self._tape = tape
        self._reports = reports
        self._last: Mapping[FeedId, Bundle] = {}
        self._times = 0

    def bundles(self, oracles: Mapping[FeedId, FeedView], at: ChainTime) -> Mapping[FeedId, Bundle]:
        found = self._reports.bundles(oracles, at)
        if self._tape.is_aside:
            return found
        said = {feed: [_of_report(each) for each in bundle] for feed, bundle in found.items()}
        as_before = found == self._last and self._times == self._tape.times
        self._tape.note("b", None if as_before else said)
        self._last, self._times = dict(found), self._tape.times
        return found


def of_update(update: BlockUpdate) -> Record:
    """Write down a head update."""
    return [
        of_head(update.head),
        [of_head(each) for each in update.orphaned],
        [of_head(each) for each in update.adopted],
        [_of_log(each) for each in update.logs],
    ]
