"""Puts the parts of a keeper together, and runs one or several."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path

import structlog
import uvloop

from keeper import __version__, metrics, ports, progress
from keeper.alerts import Teller, load_urls, open_messengers
from keeper.chain.mempool import Mempool
from keeper.chain.pool import Pool
from keeper.chain.relay import Relay, Updates
from keeper.cli.daemons import Work, until_stopped, until_told
from keeper.cli.options import ConfigOptions, DryRun, Published
from keeper.cli.output import log_to_stdout
from keeper.cli.parts import PROTOCOLS, Kind, MarketT, Parts, reached
from keeper.cli.together import Berth, Board, expect_apart, expect_only_keeper, on_switches
from keeper.config import Config, load
from keeper.deployments import name_of
from keeper.errors import ChainFault, KeeperError
from keeper.execute.keys import LocalSigner, load_relay_key
from keeper.execute.relay_auth import relay_headers
from keeper.execute.sender import ChainSender
from keeper.execute.signer import Signer
from keeper.execute.signers import SignerParams, open_signer, unlock
from keeper.execute.transports import PENDING_UPDATES, Via
from keeper.feeds import AnyFeed, listening
from keeper.journal import opening
from keeper.journal.guard import Limits
from keeper.journal.lock import alone
from keeper.journal.store import StoredJournal
from keeper.journal.tape import Recorder, of_head
from keeper.journal.wallet import Wallet
from keeper.oracles.panel import reader_creation
from keeper.pipeline import Pipeline
from keeper.ports import Measure

log = structlog.get_logger()

LAG_BLOCKS = 3
"""An endpoint further behind the best is a sign of drift."""
FORGET_S, FORGET_SOON_S = 60.0, 0.5
YOUNG_OBJECTS = 100_000
"""So many more than were freed, and garbage is collected wherever the keeper is."""
"""How often the journal forgets a piece of what is old: while there is none, and while there is more."""
STANDING_BYTES = 2**24
"""What a standby has heard since its start takes so much memory at most, packed: a day or so."""


def run(config: ConfigOptions, *, snapshot: Published = None, dry_run: DryRun = False) -> None:
    """Keep deployments of one chain until told to stop (SIGTERM or Ctrl-C)."""
    log_to_stdout()
    configs = [load(path) for path in config]
    expect_apart(dict(zip(config, configs, strict=True)), snapshot)
    # Before there is a loop: a passphrase may have to be typed, once for each keystore.
    keys = {signer: unlock(signer) for signer in dict.fromkeys(each.signer_params() for each in configs)}
    uvloop.run(until_told(_run(config, configs, keys, snapshot=snapshot, dry_run=dry_run)))


class TapeTooLong(Exception):
    """A standby has heard so much that it is to begin anew, with a book that is newer."""


async def _run(
    paths: Sequence[Path],
    configs: Sequence[Config],
    keys: Mapping[SignerParams, LocalSigner | None],
    *,
    snapshot: Path | None,
    dry_run: bool,
) -> None:
    while True:
        try:
            return await _keep(paths, configs, keys, snapshot=snapshot, dry_run=dry_run)
        except TapeTooLong:
            log.info("standby.begins_anew", bound_bytes=STANDING_BYTES)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)


async def _keep(
    paths: Sequence[Path],
    configs: Sequence[Config],
    keys: Mapping[SignerParams, LocalSigner | None],
    *,
    snapshot: Path | None,
    dry_run: bool,
) -> None:
    chain = configs[0]
    async with (
        Pool(chain.chain.http, chain.pool_params(), handing=chain.handing()) as rpc,
        AsyncExitStack() as stack,
    ):
        berth = Berth(rpc, defaultdict(Wallet), keys, [each.signer_params() for each in configs])
        on_switches(berth.boards)
        works = [
            await stack.enter_async_context(_keeper(berth, path, config, snapshot=snapshot, dry_run=dry_run))
            for path, config in zip(paths, configs, strict=True)
        ]
        if unkept := sorted({each for board in berth.boards for each in board.journal.unkept()}):
            log.warning("wallet.unkept", schemas=unkept, mend="keep all deployments of a wallet together")
        await until_stopped(*works)


@asynccontextmanager
async def _keeper(
    berth: Berth, file: Path, config: Config, *, snapshot: Path | None, dry_run: bool
) -> AsyncIterator[Work]:
    """Make ready to keep one deployment: all that it takes is open while the block lasts."""
    kind, signing = PROTOCOLS[config.deployment.protocol], config.signer_params()
    tape = Recorder() if config.journal.tape else None
    if berth.of > 1:
        structlog.contextvars.bind_contextvars(deployment=name_of(config.deployment))
    _warn_of_open_key(config, signing)
    async with (
        reached(berth.rpc, config, kind.find, tape) as parts,
        open_signer(signing, berth.keys[signing]) as signer,
    ):
        expect_only_keeper(berth, file, config, parts.market)
        teller = _teller(berth, config, signer.address)
        identity = await _identity(parts, signer.address, dry_run=dry_run)
        limits, feed, panel = config.limits_for_guard(), config.open_feed(dry_run=dry_run), config.panel()
        if panel.feeds:
            await parts.reader.lend(panel.reader, reader_creation())
        wallet = berth.wallets[signer.address]
        with _journal(config, wallet, identity=identity, limits=limits, dry_run=dry_run) as journal:
            if tape is not None:
                begin_tape(
                    journal,
                    tape,
                    parts,
                    wallet=signer.address,
                    signs_at_once=signer.at_once is not None,
                    shares_wallet=berth.is_shared(signer.address),
                    snapshot=snapshot,
                    dry_run=dry_run,
                )
            sender = await _sender(parts, journal, signer, dry_run=dry_run)
            pipeline = await _pipeline(parts, kind, journal, sender, feed, teller, dry_run=dry_run)
            read = partial(_reading, parts, pipeline, teller, signer, journal, sender)
            async with (
                teller.sending(),
                listening(feed),
                metrics.served(config.health.port, read, block_time_s=config.chain.block_time_s),
            ):
                berth.boards.append(Board(file, journal, teller))
                with progress.shown() as blocks:
                    first = await pipeline.discover(
                        config.deployment.from_block, parts.head, published=snapshot, progress=blocks
                    )
                begun = {"wallet": signer.address, "block": parts.head.number, "dry_run": dry_run}
                log.info("keeper.started", accounts=pipeline.accounts, **begun)
                context = copy_context()
                structlog.contextvars.clear_contextvars()
                _spare_what_stays()
                async with _forgetting(journal, config):
                    yield Work(parts.reader, pipeline, first, context)
                pipeline.save()


def _warn_of_open_key(config: Config, signing: SignerParams) -> None:
    if signing.is_in_environment and not config.is_rehearsal:
        mend = "a keystore, or whoever signs elsewhere: docs/signers.md"
        log.warning("wallet.key_in_environment", chain_id=config.chain.chain_id, mend=mend)


def _teller(berth: Berth, config: Config, wallet: str) -> Teller:
    """Return who tells of one deployment, and say in its notices and in the log whose it is among several."""
    about = ""
    if berth.of > 1:
        about = f"{config.deployment.protocol} {name_of(config.deployment)} by {wallet}: "
        structlog.contextvars.bind_contextvars(wallet=wallet)
    return Teller(open_messengers(load_urls()), config.alert_params(), about=about)


async def _identity(parts: Parts[MarketT], wallet: str, *, dry_run: bool) -> Mapping[str, str]:
    """Return whose journal it is."""
    return {
        "chain_id": str(parts.config.chain.chain_id),
        "genesis": await _genesis(parts.rpc),
        "deployment": name_of(parts.config.deployment),
        "wallet": wallet,
        "mode": "dry run" if dry_run else "live",
    }


async def _sender(
    parts: Parts[MarketT], journal: StoredJournal, signer: Signer, *, dry_run: bool
) -> ChainSender:
    """Return who sends; what it asks and is answered goes to the tape."""
    tape, relay = parts.tape, await _relay(parts, signer.address)
    return ChainSender(
        tape.rpc(parts.rpc) if tape else parts.rpc,
        journal,
        tape.signer(signer) if tape else signer,
        chain_id=parts.config.chain.chain_id,
        params=parts.config.sender_params(dry_run=dry_run),
        relay=tape.rpc(relay) if tape and relay else relay,
    )


async def _pipeline(
    parts: Parts[MarketT],
    kind: Kind[MarketT],
    journal: StoredJournal,
    sender: ChainSender,
    feed: AnyFeed,
    teller: Teller,
    *,
    dry_run: bool,
) -> Pipeline[MarketT]:
    """Return the loop, with all that it asks behind the tape."""
    config, tape = parts.config, parts.tape
    return Pipeline(
        reader=parts.reader,
        market=parts.market,
        desk=await kind.desk(parts, sender.address),
        feed=tape.feed(feed) if tape else feed,
        journal=journal,
        sender=sender,
        params=config.pipeline_params(dry_run=dry_run, page=kind.page),
        shelf=config.shelf(dry_run=dry_run),
        panel=config.panel(),
        alerts=teller,
        lagging=partial(_lagging, parts),
        tape=tape,
        leads=partial(_leads, journal, tape),
        mempool=_mempool(parts),
    )


def _spare_what_stays() -> None:
    """Have no later collection of garbage look through all that was built at the start, or come at any time.

    What was built stays for as long as the process, and a look through it would hold up an act. The young are
    looked through after each head (``Pipeline.prepare``), and where so many came between two. A standby that
    begins anew leaves behind what it built before.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def _leads(journal: StoredJournal, tape: Recorder | None) -> bool:
    """Tell whether a keeper may act; raise TapeTooLong where it has stood by for long.

    Whoever takes over writes down all that it heard from its start on: its replay begins there.
    """
    if journal.leads():
        return True
    if tape is not None and (tape.has_ended or tape.waiting_bytes > STANDING_BYTES):
        raise TapeTooLong
    return False


async def _relay(parts: Parts[MarketT], wallet: str) -> Relay | None:
    """Return the relay of the configuration, None where there is none; its key is not the wallet's."""
    config = parts.config
    send = config.send
    if send.relay is None or set(send.via) == {Via.PUBLIC}:
        return None
    local = {}
    if send.hints is not None and Via.AUCTION in send.via:
        updates = Updates(send.hints, send.oracles, fresh_s=2 * config.chain.block_time_s)
        await parts.open.enter_async_context(updates.listening())
        local[PENDING_UPDATES] = updates.pending
    headers = relay_headers(load_relay_key(wallet))
    relay = Relay(send.relay, timeout_s=send.relay_ms / 1e3, headers=headers, local=local)
    await parts.open.enter_async_context(relay.at_hand())
    return relay


def _mempool(parts: Parts[MarketT]) -> ports.Mempool | None:
    """Return whoever hears what is announced to oracles, where any are named."""
    chain, oracles = parts.config.chain, parts.config.trigger.announced
    if not oracles:
        return None
    heard = Mempool(parts.rpc, chain.ws, oracles, parts.reader.lent)
    return parts.tape.mempool(heard) if parts.tape else heard


def _lagging(parts: Parts[MarketT]) -> float | None:
    """Return the share of endpoints that are out of service, or so many blocks behind the best."""
    found = parts.rpc.health()
    behind = [each.why is not None or (each.lag or 0) > LAG_BLOCKS for each in found]
    return sum(behind) / len(behind) if behind else None


@contextmanager
def _journal(
    config: Config, wallet: Wallet, *, identity: Mapping[str, str], limits: Limits, dry_run: bool
) -> Iterator[StoredJournal]:
    """Open the journal: a file that nobody else writes, or the one that several keepers share."""
    place, lease_s = config.journal_place(dry_run=dry_run), config.journal.lease_s
    with ExitStack() as held:
        if isinstance(place, Path):
            held.enter_context(alone(place))
        opened = opening.to_write(place, identity=identity, limits=limits, lease_s=lease_s, wallet=wallet)
        yield held.enter_context(closing(opened))


@asynccontextmanager
async def _forgetting(journal: StoredJournal, config: Config) -> AsyncIterator[None]:
    """Forget what is older than it is kept while the keeper runs, a piece now and then.

    What cannot be forgotten now is tried again: nobody is to find out by a full disk.
    """

    async def forget() -> None:
        while True:
            more = False
            try:
                more = await asyncio.to_thread(journal.forget, config.keep())
            except (KeeperError, OSError) as error:
                log.warning("journal.not_forgotten", why=str(error))
            await asyncio.sleep(FORGET_SOON_S if more else FORGET_S)

    forgetting = asyncio.create_task(forget())
    try:
        yield
    finally:
        forgetting.cancel()
        with suppress(asyncio.CancelledError):
            await forgetting


def begin_tape(
    journal: StoredJournal,
    tape: Recorder,
    parts: Parts[MarketT],
    *,
    wallet: str,
    signs_at_once: bool,
    shares_wallet: bool = False,
    snapshot: Path | None,
    dry_run: bool,
) -> None:
    """Begin a run on the tape, with the book that it takes up and all that it takes to play it."""
    config = parts.config
    started = {
        "keeper": __version__,
        "chain_id": config.chain.chain_id,
        "wallet": wallet,
        "signs_at_once": signs_at_once,
        "shares_wallet": shares_wallet,
        "dry_run": dry_run,
        "live": config.feed.kind != "recorded",
        "head": of_head(parts.head),
        "config": config.told(),
    }
    book = config.shelf(dry_run=dry_run).path
    journal.keep_tape(tape, started, book=book if book.exists() else snapshot)


def _measured(journal: StoredJournal) -> tuple[Sequence[Measure], Mapping[str, int]]:
    """Return how much of each limit is used, and how steps ended; nothing where that cannot be read."""
    try:
        return journal.measures(), journal.endings()
    except KeeperError as error:
        log.warning("limits.unread", why=str(error))
        return (), {}


def _reading(
    parts: Parts[MarketT],
    pipeline: Pipeline[MarketT],
    teller: Teller,
    signer: Signer,
    journal: StoredJournal,
    sender: ChainSender,
) -> metrics.Reading:
    reader = parts.reader
    measures, endings = _measured(journal)
    return metrics.Reading(
        vitals=pipeline.vitals,
        endpoints=parts.rpc.health(),
        listening=reader.listening,
        fault=reader.fault,
        clock_off_s=reader.clock.off_s,
        logs_left_out=reader.discrepancies,
        logs_heard=reader.logs_heard,
        alerts=teller.counts,
        signer_fault=signer.fault,
        measures=measures,
        endings=endings,
        leadership=journal.leadership,
        transports=sender.tallies,
    )


async def _genesis(rpc: Pool) -> str:
    """Return the hash of block 0; its header may be older than EIP-1559."""
    block = await rpc.request("eth_getBlockByNumber", ["0x0", False])
    if not isinstance(block, dict) or "hash" not in block:
        raise ChainFault(f"{rpc.endpoint} does not have block 0, by which the journal knows its chain")
    return str(block["hash"])
