"""What a keeper needs, looked at one by one before it runs: each finding says how to mend it.

Nothing is written but a probe file that is gone again, and no key is ever shown.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from keeper.alerts.teller import URLS_VARIABLE, load_urls, open_messengers
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.chain.rpc import without_secrets
from keeper.chain.stream import expect_chain
from keeper.chain.wire import head_of
from keeper.config import Config
from keeper.confirm.policy import Policies
from keeper.deployments import ForeignDeployment, name_of
from keeper.doctor import foreign, hybrid
from keeper.doctor.finding import Finding, Mark, NoDeployment, amount
from keeper.doctor.sending import look_at_sending
from keeper.domain import Head, Posture, Quote, Unknown, Witnesses
from keeper.errors import ChainFault, ConfigError, KeeperError, SignerFault
from keeper.execute import web3signer
from keeper.execute.keys import load_signer
from keeper.execute.signers import Elsewhere, reached, unlock
from keeper.feeds import LiveComposite
from keeper.feeds.composite import Composite
from keeper.journal.opening import is_there
from keeper.journal.reader import JournalReader
from keeper.oracles.panel import reader_creation
from keeper.ports import Market
from keeper.units import WAD, FeedId, UnixS, in_figures

ROOM_BYTES = 2 * 2**30
"""A journal of years and a book of a million accounts, twice while it is written."""
LEAST_BYTES = 64 * 2**20
"""With less a keeper does not start, or not for long."""
CLOCK_S = 2.0
HEAR_S = 5.0
"""So long venues are waited for."""
LOOK_S = 0.1
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
MEND_SIGNER = "see to [signer] and wallet.address, and to whoever holds the key: docs/signers.md"
MEND_DAMAGE = "keep the file, and go on from the last backup: docs/journal.md"
MarketT = TypeVar("MarketT", bound=Market[Any, Any])


@dataclass(frozen=True, slots=True)
class Looks(Generic[MarketT]):
    """What is looked at of one kind of protocol."""

    find: Callable[[ChainReader, Config, Head], Awaitable[MarketT]]
    """Raises NoDeployment where there is none to look at."""
    look: Callable[[MarketT, Pool, ChainReader, Head], AsyncIterator[Finding]]
    look_at_means: Callable[[MarketT, Config, str, ChainReader, Head], AsyncIterator[Finding]]
    needs_all_feeds: bool = True
    """Whether a fast price is needed of each, or the chain's own does as well."""


LOOKS: Mapping[str, Looks[Any]] = {
    "hybrid": Looks(hybrid.find, hybrid.look, hybrid.look_at_means),
    "aave_v3": Looks(foreign.find_aave, foreign.look, foreign.look_at_purse, needs_all_feeds=False),
    "morpho_blue": Looks(foreign.find_morpho, foreign.look, foreign.look_at_purse, needs_all_feeds=False),
    "compound_v2": Looks(foreign.find_venus, foreign.look, foreign.look_at_purse, needs_all_feeds=False),
    "perp_curie": Looks(foreign.find_perp, foreign.look, foreign.look_at_deposit),
}
"""By ``deployment.protocol``."""


@dataclass(slots=True)
class Doctor:
    """Examines everything that a configuration names."""

    config: Config
    clock: Callable[[], float] = time.time
    _wallet: str | None = field(default=None, init=False)

    async def examine(self) -> AsyncIterator[Finding]:
        """Yield every finding, in an order in which the first bad one is the one to mend first."""
        folders = dict.fromkeys((self.config.journal.path.parent, self.config.mirror.snapshot.parent))
        disks = (each for folder in folders for each in look_at_disk(folder))
        yield await self._key()
        for each in (*look_at_alerts(), *disks, *self._journal()):
            yield each
        for each in look_at_sending(self.config, self._wallet):
            yield each
        for look, urls in ((self._http, self.config.chain.http), (self._ws, self.config.chain.ws)):
            for each in without_silent([await look(url) for url in urls]):
                yield each
        async with Pool(self.config.chain.http, self.config.pool_params()) as rpc:
            try:
                async for each in self._chain(rpc):
                    yield each
            except ChainFault as fault:
                yield Finding("chain", Mark.BAD, str(fault), "mend the endpoints above, or wait for them")

    # --- what is here ---

    async def _key(self) -> Finding:
        """Look whether there is somebody who signs for the wallet, and have something signed."""
        params = self.config.signer_params()
        self._wallet = params.keys.address
        try:
            if params.elsewhere is not None:
                unlock(params)
                async with reached(params) as signer:
                    await signer.check()
                    await signer.prove()
                return look_at_signer(params.elsewhere, signer.address)
            self._wallet = load_signer(params.keys).address
        except ConfigError as error:
            mend = "set KEEPER_PRIVATE_KEY, or wallet.keystore with wallet.passphrase_file"
            return Finding("key", Mark.BAD, str(error), mend if params.elsewhere is None else MEND_SIGNER)
        except SignerFault as fault:
            return Finding("key", Mark.BAD, str(fault), MEND_SIGNER)
        if params.is_in_environment and not self.config.is_rehearsal:
            found = f"signs for {self._wallet}, and lies open in the environment"
            return Finding("key", Mark.WARN, found, "use a keystore, or a signer elsewhere: docs/signers.md")
        return Finding("key", Mark.OK, f"signs for {self._wallet}")

    def _journal(self) -> Iterator[Finding]:
        place = self.config.journal_place(dry_run=False)
        is_file = isinstance(place, Path)
        mend = "name another file in journal.path" if is_file else "mend journal.url, or journal.schema_name"
        was_one = f"{mend}; where it was the journal: {MEND_DAMAGE}" if is_file else mend
        try:
            if not is_there(place):
                yield Finding("journal", Mark.OK, f"{place} will be made")
                return
            with closing(JournalReader(place)) as reader:
                identity, broken, leader = reader.identity, _broken(reader), reader.leader
        except ConfigError as error:
            yield Finding("journal", Mark.BAD, str(error), was_one)
            return
        if leader is not None:
            yield Finding("lease", Mark.OK, f"{leader} leads: a keeper started now stands by")
        ours = {
            "chain_id": str(self.config.chain.chain_id),
            "deployment": name_of(self.config.deployment),
            "wallet": self._wallet or identity.get("wallet", ""),
        }
        other = [name for name, value in ours.items() if identity.get(name) != value]
        if other:
            yield Finding("journal", Mark.BAD, f"{place} is that of another {', '.join(other)}", mend)
        elif broken:
            yield Finding("journal", Mark.BAD, f"{place}: {broken[0]}", MEND_DAMAGE)
        else:
            yield Finding("journal", Mark.OK, f"{place} is whole")

    # --- the nodes ---

    async def _http(self, url: str) -> Finding:
        what, wanted = f"node {without_secrets(url)}", self.config.chain.chain_id
        async with Pool([url], self.config.pool_params()) as rpc:
            try:
                await rpc.expect(wanted)
                head = self._head_of(await rpc.request("eth_getBlockByNumber", ["latest", False]))
            except ConfigError as error:
                return Finding(what, Mark.BAD, str(error), "correct chain.chain_id, or the URL")
            except ChainFault as fault:
                return Finding(
                    what, Mark.BAD, str(fault), "start the node, or correct chain.http", silent=True
                )
        return Finding(what, Mark.OK, f"chain {wanted}, block {head.number}")

    def _head_of(self, raw: Any) -> Head:
        return head_of(raw, flat_fees=self.config.chain.flat_fees)

    async def _ws(self, url: str) -> Finding:
        what, wanted = f"websocket {without_secrets(url)}", self.config.chain.chain_id
        try:
            await expect_chain([url], wanted)
        except ConfigError as error:
            return Finding(what, Mark.BAD, str(error), "correct chain.chain_id, or the URL")
        except ChainFault as fault:
            mend = "open the node's websocket, or correct chain.ws"
            return Finding(what, Mark.BAD, str(fault), mend, silent=True)
        return Finding(what, Mark.OK, f"chain {wanted}")

    # --- the deployment, all at one head ---

    async def _chain(self, rpc: Pool) -> AsyncIterator[Finding]:
        config = self.config
        reader = ChainReader(rpc, config.chain.ws, [])
        head = self._head_of(await rpc.request("eth_getBlockByNumber", ["latest", False]))
        yield look_at_clock(head, self.clock(), config.chain.block_time_s)
        if config.deployment.from_block > head.number:
            found = f"from_block {config.deployment.from_block} is above the head, block {head.number}"
            yield Finding("deployment", Mark.BAD, found, "correct deployment.from_block")
        if isinstance(config.deployment, ForeignDeployment):
            async for finding in foreign.look_at_code(rpc, config.deployment):
                yield finding
        looks = LOOKS[config.deployment.protocol]
        try:
            market = await looks.find(reader, config, head)
        except NoDeployment as error:
            yield Finding("deployment", Mark.BAD, error.found, error.mend)
            return
        async for finding in looks.look(market, rpc, reader, head):
            yield finding
        async for finding in self._feed(market, head):
            yield finding
        async for finding in self._witnesses(reader, head):
            yield finding
        if self._wallet is not None:
            native = int(await rpc.request("eth_getBalance", [self._wallet, "latest"]), 16)
            yield amount("gas", native, f"send native currency to {self._wallet}")
            async for finding in looks.look_at_means(market, config, self._wallet, reader, head):
                yield finding

    async def _witnesses(self, reader: ChainReader, head: Head) -> AsyncIterator[Finding]:
        """Ask every witness that is configured, as the keeper does at each head."""
        panel = self.config.panel()
        if not panel.feeds:
            return
        try:
            await reader.lend(panel.reader, reader_creation())
        except ConfigError as error:
            mend = "use other nodes, or leave [confirmation.witnesses] out"
            yield Finding("witnesses", Mark.BAD, str(error), mend)
            return
        heard = panel.decode(await reader.call_many(panel.calls(), head.hash), head.timestamp_s)
        for finding in look_at_witnesses(heard, head.timestamp_s):
            yield finding

    async def _feed(self, market: Market[Any, Any], head: Head) -> AsyncIterator[Finding]:
        mend = "see to the source named in [feed]"
        try:
            source = self.config.open_feed(dry_run=True)
        except ConfigError as error:
            yield Finding("price source", Mark.BAD, str(error), mend)
            return
        quotes = source.latest(head.timestamp_s)
        if isinstance(source, LiveComposite):
            composites = await hear(source)
            quotes = {name: composite.quote for name, composite in composites.items()}
            for finding in look_at_venues(composites, mend):
                yield finding
        needs_all = LOOKS[self.config.deployment.protocol].needs_all_feeds
        for finding in look_at_feeds(market.feeds, quotes, Mark.BAD if needs_all else Mark.WARN, mend):
            yield finding
        if not needs_all:
            spoken_of = quotes.keys() | self.config.panel().feeds.keys()
            for finding in look_at_support(market.feeds, spoken_of, self.config.policies()):
                yield finding
        native = self.config.economics.native_feed
        if needs_all and native not in market.feeds:
            known = f"name one of {', '.join(sorted(market.feeds))} in economics.native_feed"
            yield Finding("native feed", Mark.BAD, f"{native} is not a feed of the deployment", known)
        elif native not in quotes:
            yield Finding("native feed", Mark.BAD, f"the price source has no entry for {native}", mend)


def _broken(reader: JournalReader) -> list[str]:
    """Return what is broken in a journal, be it that it cannot be read to its end."""
    try:
        return reader.verify()
    except ConfigError as error:
        return [str(error)]


async def hear(feed: LiveComposite) -> Mapping[FeedId, Composite]:
    """Listen until every venue of every feed was heard, for a few seconds at the most."""
    async with feed.listening():
        composites = feed.composites()
        for _ in range(int(HEAR_S / LOOK_S)):
            if not any(composite.dropped for composite in composites.values()):
                break
            await asyncio.sleep(LOOK_S)
            composites = feed.composites()
    return composites


# --- pure looks -----------------------------------------------------------------------------------


def look_at_clock(head: Head, now_s: float, block_time_s: float) -> Finding:
    """Hold the local clock against the newest head: one from the future proves the clock wrong."""
    age_s = now_s - head.timestamp_s
    found = f"block {head.number} is {age_s:,.0f} s old by the local clock"
    if age_s < -CLOCK_S:
        return Finding("clock", Mark.BAD, found, "set the clock: run an NTP client")
    if age_s > 3 * block_time_s + CLOCK_S:
        return Finding("clock", Mark.WARN, found, "set the clock, or wait until the node has caught up")
    return Finding("clock", Mark.OK, found)


def look_at_venues(composites: Mapping[FeedId, Composite], mend: str) -> Iterator[Finding]:
    """Yield of which venues each price is, and why the others are left out."""
    for feed, composite in composites.items():
        if isinstance(composite.quote, Quote):
            price = f"{in_figures(composite.quote.price_wad / WAD, 8)} of {', '.join(composite.used)}"
            without = "".join(f"; without {venue}: {why}" for venue, why in composite.dropped.items())
            mark = Mark.WARN if without else Mark.OK
            yield Finding(f"price source {feed}", mark, price + without, mend if without else "")


def look_at_feeds(
    feeds: Sequence[FeedId], quotes: Mapping[FeedId, Quote | Unknown], lacking: Mark, mend: str
) -> Iterator[Finding]:
    """Yield which feeds a price source has no entry for, how bad that is, and of which it has no price."""
    if unserved := sorted(set(feeds) - quotes.keys()):
        yield Finding("price source", lacking, f"it has no entry for {', '.join(unserved)}", mend)
    unknown = [found for feed in feeds if isinstance(found := quotes.get(feed), Unknown)]
    for each in unknown:
        yield Finding(f"price source {each.what}", Mark.WARN, each.why, mend)
    if not unserved and not unknown:
        yield Finding("price source", Mark.OK, f"{len(feeds)} feeds have a price")


def look_at_support(
    feeds: Iterable[FeedId], spoken_of: Collection[FeedId], policies: Policies
) -> Iterator[Finding]:
    """Yield the feeds of which nobody speaks but the protocol's own source, and what that comes to."""
    mend = "name a price source in [feed], or a witness in [confirmation.witnesses]"
    for feed in sorted({*feeds} - {*spoken_of}):
        after_s = policies.of([feed], Posture()).trust_chain_after_s
        never = "nothing that hangs on it is ever closed"
        comes_to = never if after_s is None else f"its print counts after {after_s} s"
        found = f"no price source and no witness speaks of it: {comes_to}"
        yield Finding(f"confirmation {feed}", Mark.WARN, found, mend)


def look_at_witnesses(heard: Witnesses, now_s: UnixS) -> Iterator[Finding]:
    """Yield of every witness what it says, or why it says nothing."""
    for feed, some in heard.items():
        for each in some:
            if isinstance(each, Unknown):
                mend = "correct it in [confirmation.witnesses], or leave it out"
                yield Finding(f"witness {feed} {each.what}", Mark.WARN, each.why, mend)
            else:
                said = f"{in_figures(each.price_wad / WAD, 8)}, {now_s - each.at_s} s old"
                yield Finding(f"witness {feed} {each.witness}", Mark.OK, said)


def look_at_signer(elsewhere: Elsewhere, address: str) -> Finding:
    """Look whether anybody on the way to a signer could have it sign: it asks for no password of its own."""
    found = f"a signer elsewhere signs for {address}"
    url = urlsplit(elsewhere.url) if isinstance(elsewhere, web3signer.Params) else None
    if url is not None and url.scheme == "http" and url.hostname not in LOOPBACK:
        mend = "let it speak TLS, and ask for a certificate: docs/signers.md"
        return Finding("key", Mark.WARN, f"{found}, over a line that is not encrypted", mend)
    return Finding("key", Mark.OK, found)


def look_at_alerts() -> Iterator[Finding]:
    """Look whether the services that are to be told can be; nothing is sent to them."""
    try:
        services = len(open_messengers(load_urls()))
    except ConfigError as error:
        yield Finding("alerts", Mark.BAD, str(error), f"correct {URLS_VARIABLE}")
        return
    if services:
        yield Finding("alerts", Mark.OK, f"services that are told: {services}")


def look_at_disk(folder: Path) -> Iterator[Finding]:
    """Yield whether a folder can be written, and has room."""
    mend = f"make {folder} a folder that the keeper may write to"
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"probe")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding("disk", Mark.BAD, f"{folder}: {error.strerror}", mend)
        return
    enough = free >= ROOM_BYTES
    yield Finding(
        "disk",
        Mark.OK if enough else Mark.WARN if free >= LEAST_BYTES else Mark.BAD,
        f"{folder} has {free / 2**30:,.2f} GiB free",
        "" if enough else f"make room: {ROOM_BYTES / 2**30:.0f} GiB are enough for years",
    )


def without_silent(endpoints: Sequence[Finding]) -> Iterator[Finding]:
    """Yield what was found of endpoints of one kind: a keeper runs where one of them is silent, not all."""
    one_is_well = any(each.mark is Mark.OK for each in endpoints)
    for each in endpoints:
        yield replace(each, mark=Mark.WARN) if each.silent and one_is_well else each


async def examine(config: Config) -> list[Finding]:
    """Return every finding; one that cannot be had is a finding as well."""
    findings: list[Finding] = []
    try:
        async for each in Doctor(config).examine():
            findings.append(each)  # noqa: PERF401 what was found before a fault is kept
    except KeeperError as error:
        findings.append(Finding("doctor", Mark.BAD, str(error), "mend what is above, then ask again"))
    return findings
