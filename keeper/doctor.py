"""What a keeper needs, looked at one by one before it runs: each finding says how to mend it.

Nothing is written but a probe file that is gone again, and no key is ever shown.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from rich.table import Table
from rich.text import Text

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.chain.rpc import Unreachable, without_secrets
from keeper.chain.stream import expect_chain
from keeper.chain.wire import data, head_of
from keeper.config import Config
from keeper.domain import FeedView, Head, OracleView, Unknown
from keeper.errors import ChainFault, ConfigError, KeeperError
from keeper.execute.keys import load_signer
from keeper.journal.reader import JournalReader
from keeper.ports import read_through
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.codec import reader_creation
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import LENT_READER, Deployment, read_deployment, read_liquidator
from keeper.protocols.hybrid.rows import accounts_of
from keeper.units import WAD, AccountKey

ROOM_BYTES = 2 * 2**30
LEAST_BYTES = 64 * 2**20
"""A journal of years and a book of a million accounts, twice while it is written."""
CLOCK_S = 2.0
PUSH0 = 0x5F


class Mark(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    """The keeper can run, and lacks something that it may need."""
    BAD = "bad"
    """It cannot run, or must not."""


STYLES: Mapping[Mark, str | None] = {Mark.OK: None, Mark.WARN: "yellow", Mark.BAD: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found, and what to do about it."""

    what: str
    mark: Mark
    found: str
    mend: str = ""
    silent: bool = False
    """An endpoint did not answer; others of its kind may do."""


class NoDeployment(ConfigError):
    """The deployment cannot be read in the way that is configured."""

    def __init__(self, found: str, mend: str) -> None:
        self.found = found
        self.mend = mend
        """What to do about it."""
        super().__init__(f"{found}; {mend}")


async def find_deployment(reader: ChainReader, config: Config, head: Head) -> Deployment:
    """Read the deployment that is configured, through its reader, or one lent to the nodes with every call.

    Raises NoDeployment where that is not to be had, and Unreachable where no node answers.
    """
    named = config.deployment
    address, contract = named.reader or LENT_READER, "MarginReader" if named.reader else "Clearing"
    try:
        if named.clearing:
            liquidator = await read_through(reader, read_liquidator(named.clearing), head.hash)
            await reader.lend(address, reader_creation(named.clearing, liquidator))
        return await read_through(reader, read_deployment(config.chain.chain_id, address), head.hash)
    except Unreachable:
        raise
    except ConfigError as error:
        mend = "deploy MarginReader and give its address as deployment.reader, or use another node"
        raise NoDeployment(str(error), mend) from error
    except ChainFault as fault:
        found = f"{named.setting} {named.address} does not answer as a {contract}: {fault}"
        raise NoDeployment(found, f"correct {named.setting}, or chain.chain_id") from fault


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
        for each in (*self._key(), *disks, *self._journal()):
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

    def _key(self) -> Iterator[Finding]:
        mend = "set KEEPER_PRIVATE_KEY, or wallet.keystore with wallet.passphrase_file"
        try:
            self._wallet = load_signer(self.config.key_params()).address
        except ConfigError as error:
            yield Finding("key", Mark.BAD, str(error), mend)
        else:
            yield Finding("key", Mark.OK, f"signs for {self._wallet}")

    def _journal(self) -> Iterator[Finding]:
        path = self.config.journal_path(dry_run=False)
        if not path.exists():
            yield Finding("journal", Mark.OK, f"{path} will be made")
            return
        try:
            with closing(JournalReader(path)) as reader:
                identity, broken = reader.identity, reader.verify()
        except ConfigError as error:
            yield Finding("journal", Mark.BAD, str(error), "name another file in journal.path")
            return
        ours = {
            "chain_id": str(self.config.chain.chain_id),
            "deployment": self.config.deployment.address,
            "wallet": self._wallet or identity.get("wallet", ""),
        }
        other = [name for name, value in ours.items() if identity.get(name) != value]
        if other:
            found = f"{path} is that of another {', '.join(other)}"
            yield Finding("journal", Mark.BAD, found, "name another file in journal.path")
        elif broken:
            mend = "keep a copy, and report it: the keeper writes no such journal"
            yield Finding("journal", Mark.BAD, f"{path}: {broken[0]}", mend)
        else:
            yield Finding("journal", Mark.OK, f"{path} is whole")

    # --- the nodes ---

    async def _http(self, url: str) -> Finding:
        what, wanted = f"node {without_secrets(url)}", self.config.chain.chain_id
        async with Pool([url], self.config.pool_params()) as rpc:
            try:
                await rpc.expect(wanted)
                head = head_of(await rpc.request("eth_getBlockByNumber", ["latest", False]))
            except ConfigError as error:
                return Finding(what, Mark.BAD, str(error), "correct chain.chain_id, or the URL")
            except ChainFault as fault:
                return Finding(
                    what, Mark.BAD, str(fault), "start the node, or correct chain.http", silent=True
                )
        return Finding(what, Mark.OK, f"chain {wanted}, block {head.number}")

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
        head = head_of(await rpc.request("eth_getBlockByNumber", ["latest", False]))
        yield look_at_clock(head, self.clock(), config.chain.block_time_s)
        if config.deployment.from_block > head.number:
            found = f"from_block {config.deployment.from_block} is above the head, block {head.number}"
            yield Finding("deployment", Mark.BAD, found, "correct deployment.from_block")
        try:
            deployment = await find_deployment(reader, config, head)
        except NoDeployment as error:
            yield Finding("deployment", Mark.BAD, error.found, error.mend)
            return
        for name, address in addresses_of(deployment).items():
            if address == LENT_READER:
                yield Finding(name, Mark.OK, "not deployed; the nodes take its code with every call")
                continue
            code = data(await rpc.request("eth_getCode", [address, "latest"]))
            yield look_at_code(name, address, code)
        market = HybridMarket(deployment)
        oracles = market.decode_prices(await reader.call(market.prices_call(), head.hash))
        for finding in look_at_oracles(oracles, market.feeds, head.timestamp_s):
            yield finding
        for finding in self._feed(market, head):
            yield finding
        if self._wallet is not None:
            async for finding in self._means(rpc, reader, market, head):
                yield finding

    def _feed(self, market: HybridMarket, head: Head) -> Iterator[Finding]:
        mend = "see to the source named in [feed]"
        try:
            quotes = self.config.open_feed().latest(head.timestamp_s)
        except ConfigError as error:
            yield Finding("price source", Mark.BAD, str(error), mend)
            return
        unserved = sorted(set(market.feeds) - quotes.keys())
        if unserved:
            yield Finding("price source", Mark.BAD, f"it has no entry for {', '.join(unserved)}", mend)
        unknown = {feed: quotes[feed] for feed in market.feeds if isinstance(quotes.get(feed), Unknown)}
        for feed, why in unknown.items():
            assert isinstance(why, Unknown)
            yield Finding(f"price source {feed}", Mark.WARN, why.why, mend)
        if not unserved and not unknown:
            yield Finding("price source", Mark.OK, f"{len(market.feeds)} feeds have a price")
        native = self.config.economics.native_feed
        if native not in market.feeds:
            known = f"name one of {', '.join(sorted(market.feeds))} in economics.native_feed"
            yield Finding("native feed", Mark.BAD, f"{native} is not a feed of the deployment", known)

    async def _means(
        self, rpc: Pool, reader: ChainReader, market: HybridMarket, head: Head
    ) -> AsyncIterator[Finding]:
        assert self._wallet is not None
        taker: AccountKey = bytes.fromhex(self._wallet[2:]) + self.config.wallet.sub_account.to_bytes(12)
        native = int(await rpc.request("eth_getBalance", [self._wallet, "latest"]), 16)
        credit, page = await reader.call_many(
            [market.credit_call(self._wallet), market.rows_call([taker])], head.hash
        )
        market.shape.check_names(page, [taker])
        [account] = accounts_of(page)
        funded = account.cash_wad > 0 or bool(account.holdings)
        wallet = self._wallet
        yield _amount("gas", native, f"send native currency to {wallet}")
        yield _amount(
            "credit for bonds", int.from_bytes(credit), f"deposit quote for {wallet} into the Vault"
        )
        yield Finding(
            "margin account",
            Mark.OK if funded else Mark.WARN,
            f"cash {account.cash_wad / WAD:,.2f}, {len(account.holdings)} collaterals",
            "" if funded else f"deposit collateral into 0x{taker.hex()} in Clearing",
        )


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


def look_at_code(name: str, address: str, code: bytes) -> Finding:
    """Tell whether there is code at an address, and whether it dispatches every function of the interface.

    By its selectors, for immutables and libraries make the bytes of each deployment its own.
    """
    what, mend = f"{name}", "correct [deployment]; or use the release that belongs to this deployment"
    if not code:
        return Finding(what, Mark.BAD, f"no code at {address}", mend)
    missing = [each.name for each in load(name).functions.values() if not _pushes(code, each.selector)]
    if missing:
        return Finding(what, Mark.BAD, f"{address} has no {', '.join(missing[:3])}", mend)
    return Finding(what, Mark.OK, f"{address}, {len(load(name).functions)} functions")


def _pushes(code: bytes, selector: bytes) -> bool:
    short = selector.lstrip(b"\0")
    return bytes([PUSH0 + len(short)]) + short in code


def look_at_oracles(oracles: OracleView, feeds: tuple[str, ...], now_s: int) -> Iterator[Finding]:
    """Yield for every feed whether both clocks count, by the contract's own rules."""
    for feed in feeds:
        view = oracles[feed]
        yield _oracle(view, now_s)


def _oracle(view: FeedView, now_s: int) -> Finding:
    fast_s, slow_s = now_s - view.fast_observed_at_s, now_s - view.slow_updated_at_s
    fast = f"fast {fast_s} s old, bound {view.fast_max_age_s}" if view.fast_wad > 0 else "fast none"
    slow = f"slow {slow_s} s old, heartbeat {view.slow_heartbeat_s}" if view.slow_wad > 0 else "slow none"
    faults = {
        "have a quorum of reporters run `keeper report-prices`": not view.fast_fresh(now_s),
        "see to the slow feed: without it nothing is confirmed": not view.slow_ok,
    }
    mend = "; ".join(text for text, is_amiss in faults.items() if is_amiss)
    return Finding(f"oracle {view.feed}", Mark.WARN if mend else Mark.OK, f"{fast}; {slow}", mend)


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


def addresses_of(deployment: Deployment) -> Mapping[str, str]:
    """Return where each contract is whose interface the keeper relies on."""
    return {
        "MarginReader": deployment.reader,
        "Clearing": deployment.clearing,
        "Liquidator": deployment.liquidator,
        "MarginEngine": deployment.engine,
        "Instruments": deployment.instruments,
        "Slopes": deployment.slopes,
        "RiskArrays": deployment.risk_arrays,
        "OracleRouter": deployment.router,
        "FastOracle": deployment.fast_oracle,
        "Vault": deployment.vault,
        "Backstop": deployment.backstop,
        "Breaker": deployment.breaker,
    }


def _amount(what: str, wad: int, mend: str) -> Finding:
    return Finding(what, Mark.OK if wad else Mark.WARN, f"{wad / WAD:,.4f}", "" if wad else mend)


def table_of(findings: list[Finding]) -> Table:
    """Lay findings out for a person."""
    table = Table("", "", "found", "to mend it")
    for each in findings:
        # As text: brackets in a finding are no markup.
        table.add_row(*map(Text, (each.what, each.mark, each.found, each.mend)), style=STYLES[each.mark])
    return table


async def examine(config: Config) -> list[Finding]:
    """Return every finding; one that cannot be had is a finding as well."""
    findings: list[Finding] = []
    try:
        async for each in Doctor(config).examine():
            findings.append(each)  # noqa: PERF401 what was found before a fault is kept
    except KeeperError as error:
        findings.append(Finding("doctor", Mark.BAD, str(error), "mend what is above, then ask again"))
    return findings
