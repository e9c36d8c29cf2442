"""The reporters' exchange: signed reports over HTTP, between reporters, and to keepers that post them.

A report proves itself: its signature recovers to the address of a signer, or it is dropped and named. The
group's token only says who may ask. Nothing that comes from a peer ends a loop, or is waited for long.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import aiohttp
import orjson
import structlog
from aiohttp import web

from keeper.domain import Bundle, Call, ChainTime, FeedView, Observation, Reason, Refuse, Report
from keeper.errors import ChainFault, ConfigError
from keeper.ports import Reader
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.quorum import Quorum, pick, unusable_among
from keeper.units import FeedId

log = structlog.get_logger()

PATH: Final = "/v1/reports"
MAX_BYTES: Final = 64 * 1024
"""Of an answer: some two hundred reports."""
MAX_REPORTS: Final = 128
"""Of an answer that are looked at: each takes a fraction of a millisecond to verify."""
REQUESTS_S: Final = 100
"""Requests a second that one address may make."""
KEEP_S: Final = 15.0
"""How long a connection without requests is kept."""
DIGITS: Final = re.compile(r"[0-9]{1,39}")
SIGNATURE: Final = re.compile(r"0x[0-9a-f]{130}")
MOST_UINT40: Final = 2**40 - 1
MOST_UINT128: Final = 2**128 - 1
ROLL_S: Final = 60.0
"""How often a keeper reads anew who may sign."""
GAS: Final = 100_000
"""For a read of the roll."""
NOBODY: Final = "0x" + "00" * 20


@dataclass(frozen=True, slots=True)
class Params:
    """How peers are asked."""

    deadline_s: float = 0.5
    """How long one may take to answer."""
    poll_s: float = 0.25
    """How often a keeper asks."""
    quiet_s: float = 10.0
    """How long nothing is said of a peer after something was, so that who comes and goes fills no log."""


class Oracle(Protocol):
    """The fast oracle that reports are for."""

    @property
    def feeds(self) -> tuple[FeedId, ...]:
        """Return the feeds that it has."""
        ...

    @property
    def fast_domain(self) -> tuple[int, str]:
        """Return the chain's id and the oracle's address, in lower case: what a signature is bound to."""
        ...

    def read_report(self, observation: Observation, signature: bytes) -> Report | None:
        """Find out who signed an observation; None where the signature is none."""
        ...


# --- who may sign --------------------------------------------------------------------------------


class Roll:
    """The oracle's signers, as the chain has them."""

    def __init__(self, reader: Reader, fast_oracle: str) -> None:
        self._reader = reader
        self._fast_oracle = fast_oracle
        self.quorum = Quorum((), 0)

    async def read(self, at: ChainTime) -> None:
        """Read them anew. Their number is told by nobody, but a quorum is more than half of it."""
        functions = load("FastOracle").functions
        answer = await self._ask(functions["quorum"].call(self._fast_oracle), at)
        if answer is None:
            raise ChainFault(f"{self._fast_oracle} tells no quorum")
        size = int(functions["quorum"].result(answer)[0])
        calls = [functions["signers"].call(self._fast_oracle, i) for i in range(max(0, 2 * size - 1))]
        answers = await asyncio.gather(*(self._ask(call, at) for call in calls))
        signers = [str(functions["signers"].result(each)[0]).lower() for each in answers if each is not None]
        self.quorum = Quorum(tuple(signers), size)

    async def _ask(self, call: Call, at: ChainTime) -> bytes | None:
        answer = await self._reader.simulate(NOBODY, call, at, GAS)
        return None if isinstance(answer, Refuse) else answer


# --- what is said --------------------------------------------------------------------------------


def write(reports: Iterable[Report], place: tuple[int, str]) -> bytes:
    """Lay reports out as JSON; docs/reporters.md describes it."""
    chain_id, fast_oracle = place
    rows = [
        {
            "feed": each.observation.feed,
            "price": str(each.observation.price_wad),
            "confidence_bps": each.observation.confidence_bps,
            "observed_at": each.observation.observed_at_s,
            "valid_until": each.observation.valid_until_s,
            "signature": "0x" + each.signature.hex(),
        }
        for each in reports
    ]
    return orjson.dumps({"chain_id": chain_id, "fast_oracle": fast_oracle, "reports": rows})


@dataclass(frozen=True, slots=True)
class Heard:
    """What one peer said last, and what was wrong with it, each with how often."""

    reports: tuple[Report, ...] = ()
    faults: Mapping[str, int] = field(default_factory=dict)


def read(body: bytes, oracle: Oracle, signers: Collection[str], before: Sequence[Report] = ()) -> Heard:
    """Read what a peer said, after what it said ``before``; only what a signer of the oracle signed is kept.

    An answer that is none leaves what was said before; what was verified then is not verified again. A report
    older than the one before is named and kept: it may be that one that was wrong, and ``pick`` takes what is
    newest and counts.
    """
    rows = _rows(body, oracle)
    if isinstance(rows, str):
        return Heard(tuple(before), {rows: 1})
    known = {(each.observation, each.signature): each for each in before}
    last = {(each.observation.feed, each.signer): each for each in before}
    kept: dict[tuple[FeedId, str], Report] = {}
    faults: Counter[str] = Counter()
    for row in rows:
        signed = _signed(row, oracle.feeds)
        report = signed and (known.get(signed) or oracle.read_report(*signed))
        if report is None:
            faults["a report cannot be read, or has no signature"] += 1
            continue
        place = (report.observation.feed, report.signer)
        if report.signer not in signers:
            faults["a report is signed by a stranger, or was altered"] += 1
        elif place in kept:
            faults[f"{report.signer} is there twice with one feed"] += 1
        else:
            faults.update(_contradiction(report, last.get(place)))
            kept[place] = report
    return Heard(tuple(kept.values()), faults)


def _rows(body: bytes, oracle: Oracle) -> list[Any] | str:
    """Take an answer apart; return what is wrong with it where that cannot be."""
    try:
        said = orjson.loads(body)
    except ValueError:
        return "the answer is not JSON"
    rows = said.get("reports") if isinstance(said, dict) else None
    if not isinstance(rows, list):
        return "the answer holds no reports"
    if (said.get("chain_id"), str(said.get("fast_oracle")).lower()) != oracle.fast_domain:
        return "the answer is of another oracle"
    return rows if len(rows) <= MAX_REPORTS else f"the answer holds more than {MAX_REPORTS} reports"


def _contradiction(report: Report, last: Report | None) -> Iterator[str]:
    """Say how a report does not follow from the one before."""
    if last is None or report.observation == last.observation:
        return
    newer_s = report.observation.observed_at_s - last.observation.observed_at_s
    if newer_s < 0:
        yield f"a report of {report.signer} is older than the one before"
    elif newer_s == 0:
        yield f"{report.signer} has signed two things of one feed and second"


def _signed(row: Any, feeds: Collection[FeedId]) -> tuple[Observation, bytes] | None:
    """Read one report exactly, within the types that the contract has; None where it is none."""
    if not isinstance(row, dict) or row.get("feed") not in feeds:
        return None
    price, signature = row.get("price"), row.get("signature")
    numbers = [
        # True is an int to Python, and no number here.
        each
        for each in (row.get(name) for name in ("confidence_bps", "observed_at", "valid_until"))
        if type(each) is int and 0 <= each <= MOST_UINT40
    ]
    if len(numbers) < 3 or not (isinstance(price, str) and DIGITS.fullmatch(price)):
        return None
    if int(price) > MOST_UINT128 or not (isinstance(signature, str) and SIGNATURE.fullmatch(signature)):
        return None
    confidence_bps, observed_at_s, valid_until_s = numbers
    observation = Observation(row["feed"], int(price), confidence_bps, observed_at_s, valid_until_s)
    return observation, bytes.fromhex(signature[2:])


# --- serving -------------------------------------------------------------------------------------


@asynccontextmanager
async def served(
    listen: str, token: str, newest: Callable[[], Iterable[Report]], place: tuple[int, str]
) -> AsyncIterator[int]:
    """Serve the newest reports while the block lasts, to whoever has the token; port 0 takes a free one."""
    expected, seen = f"Bearer {token}".encode(), _Rate()

    async def reports(request: web.Request) -> web.Response:
        if not seen.allows(str(request.remote)):
            raise web.HTTPTooManyRequests(headers={"Retry-After": "1"})
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected):
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        if request.can_read_body:
            raise web.HTTPRequestEntityTooLarge(max_size=0, actual_size=request.content_length or 1)
        return web.Response(body=write(newest(), place), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get(PATH, reports)])
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=KEEP_S, lingering_time=0.0, shutdown_timeout=0.5
    )
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"reporter.listen {listen} cannot be listened on: {error}") from error
        bound: int = runner.addresses[0][1]
        log.info("reports.served", address=f"http://{host}:{bound}", page=PATH)
        yield bound
    finally:
        await runner.cleanup()


class _Rate:
    """Counts requests by the second; what it holds is gone with the second."""

    def __init__(self) -> None:
        self._second = 0
        self._counts: Counter[str] = Counter()

    def allows(self, remote: str) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._counts = second, Counter()
        self._counts[remote] += 1
        return self._counts[remote] <= REQUESTS_S


# --- asking --------------------------------------------------------------------------------------


class Exchange:
    """Asks peers for their reports, and keeps what each said last."""

    def __init__(
        self, endpoints: Sequence[str], token: str, oracle: Oracle, roll: Roll, params: Params | None = None
    ) -> None:
        self._origins = {url.rstrip("/") + PATH: _origin(url) for url in endpoints}
        """What may be shown of each."""
        self._heard = {url: Heard() for url in self._origins}
        self._faults: dict[str, Counter[str]] = {url: Counter() for url in self._heard}
        """All that was ever wrong with the answers of each."""
        self._told = dict.fromkeys(self._heard, (frozenset[str](), -math.inf))
        """What was last said to be wrong with each, and when."""
        self._headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        self._oracle = oracle
        self._roll = roll
        self._params = params or Params()
        self._session: aiohttp.ClientSession | None = None
        self._at: ChainTime | None = None
        """The block that the newest bundles were picked for."""
        self._unusable: set[tuple[str, str]] = set()
        """Signers, and the rules by which their reports do not count."""

    async def __aenter__(self) -> Self:
        # What is packed could be any size, and nobody's cookies are carried from one answer to the next.
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._params.deadline_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    def __repr__(self) -> str:
        return f"Exchange({', '.join(self._origins.values())})"

    @property
    def faults(self) -> Sequence[str]:
        """Return what was wrong with the last answers."""
        return [fault for heard in self._heard.values() for fault in heard.faults]

    def heard(self) -> Sequence[Report]:
        """Return what peers said last, each with the signature of a signer."""
        return [report for heard in self._heard.values() for report in heard.reports]

    async def ask(self) -> Sequence[Report]:
        """Ask all of them at once; return what those say that answer in time.

        One that stalls delays no other, and what it said before is kept.
        """
        said = await asyncio.gather(*(self._ask(url) for url in self._heard))
        return [report for reports in said for report in reports]

    async def _ask(self, url: str) -> Sequence[Report]:
        before = self._heard[url]
        body = await self._fetch(url)
        if isinstance(body, str):
            now = Heard(before.reports, {body: 1})
        else:
            now = read(body, self._oracle, self._roll.quorum.signers, before.reports)
        self._faults[url].update(now.faults)
        self._tell(url, now.faults)
        self._heard[url] = now
        return () if isinstance(body, str) else now.reports

    def _tell(self, url: str, faults: Mapping[str, int]) -> None:
        """Say aloud what is wrong with a peer, or no longer, where that is not what was said last."""
        (told, at_s), now_s = self._told[url], time.monotonic()
        if faults.keys() == told or now_s - at_s < self._params.quiet_s:
            return
        say = log.warning if faults else log.info
        what = "reports.faulty" if faults else "reports.in_order"
        say(what, peer=self._origins[url], why=[*faults], since_start=dict(self._faults[url]))
        self._told[url] = frozenset(faults), now_s

    async def _fetch(self, url: str) -> bytes | str:
        """Return an answer, or why there is none. Redirects are not followed: the token is for this peer."""
        assert self._session is not None
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return f"answered {response.status}"
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        return f"the answer is larger than {MAX_BYTES} bytes"
                return bytes(body)
        except TimeoutError:
            return f"no answer within {self._params.deadline_s} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"cannot be reached: {type(error).__name__}"

    # --- for a keeper ---

    def bundles(self, oracles: Mapping[FeedId, FeedView], at: ChainTime) -> Mapping[FeedId, Bundle]:
        """Return the bundle of every feed that block ``at`` would take."""
        self._at = at
        reports, found = self.heard(), {}
        for feed, view in oracles.items():
            of_feed = [report for report in reports if report.observation.feed == feed]
            if bundle := pick(of_feed, self._roll.quorum, view, at.timestamp_s):
                found[feed] = bundle
        self._name(dict(unusable_among(reports, oracles, at.timestamp_s)))
        return found

    def _name(self, unusable: Mapping[str, Reason]) -> None:
        """Say aloud whose reports do not count, whenever that changes."""
        found = {(signer, reason.rule) for signer, reason in unusable.items()}
        if found - self._unusable:
            log.warning("reports.unusable", why={signer: str(each) for signer, each in unusable.items()})
        self._unusable = found

    async def run(self) -> None:
        """Ask again and again, so that what a keeper needs at a tick is there."""
        read_at = time.monotonic()
        while True:
            await self.ask()
            if self._at is not None and time.monotonic() - read_at > ROLL_S:
                read_at = time.monotonic()
                try:
                    await self._roll.read(self._at)
                except ChainFault as fault:
                    log.warning("reports.roll_unread", why=str(fault))
            await asyncio.sleep(self._params.poll_s)


@asynccontextmanager
async def hearing(exchange: Exchange) -> AsyncIterator[Exchange]:
    """Keep asking while the block lasts."""
    async with exchange:
        asking = asyncio.create_task(exchange.run())
        asking.add_done_callback(_tell)
        try:
            yield exchange
        finally:
            asking.cancel()
            await asyncio.wait({asking})


def _tell(asking: asyncio.Task[None]) -> None:
    """Say aloud where asking ended by a fault of our own: a keeper goes on with what the chain has."""
    if not asking.cancelled() and (fault := asking.exception()):
        log.error("reports.ended", why=repr(fault))


def _origin(url: str) -> str:
    """Return of a URL what may be shown; raise ConfigError where it is none."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        raise ConfigError("the URL of a reporter cannot be used") from None
