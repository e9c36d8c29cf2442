"""The command line: puts the real parts together, and nothing else."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TextIO, TypeAlias, TypeVar

import structlog
import typer
import uvloop
from rich.console import Console

from keeper import __version__, metrics, progress
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.chain.stream import expect_chain
from keeper.chain.wire import head_of
from keeper.config import Config, load
from keeper.deployments import ForeignDeployment
from keeper.desk.hybrid import HybridDesk
from keeper.desk.lending import LendingDesk
from keeper.desk.perp import PerpDesk
from keeper.desk.port import Desk
from keeper.doctor import foreign, hybrid
from keeper.doctor.examine import examine
from keeper.doctor.finding import Mark, table_of
from keeper.domain import ChainTime, Head
from keeper.errors import ChainFault, ConfigError, KeeperError
from keeper.execute.keys import load_exchange_token, load_reporter_keys, load_signer, signer_of
from keeper.execute.plain import PlainSender
from keeper.execute.sender import ChainSender
from keeper.feeds import listening
from keeper.journal.lock import alone
from keeper.journal.store import SqliteJournal
from keeper.pipeline import PAGE, Pipeline
from keeper.ports import LendingMarket, Market, PerpMarket
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.signing import address_of
from keeper.reporter import Reporter
from keeper.reports import Exchange, Roll, hearing, served
from keeper.steward import Steward
from keeper.units import AccountKey, Block

log = structlog.get_logger()
MarketT = TypeVar("MarketT", bound=Market[Any, Any])

PLAIN_WIDTH = 160
"""Where there is no terminal: addresses and endpoints stay whole."""

FOREIGN = ("aave_v3", "morpho_blue", "compound_v2", "perp_curie")
"""Protocols that are not our own, and have a demo too."""
PERP_PAGE = 50
"""A row of Perpetual takes some 200,000 gas to read: nodes bound a call by 50 million or so."""
REPORT_GAS = 1_500_000
"""Gas limit of a transaction that posts bundles of several feeds."""
ARRAY_GAS = 180_000
"""Gas for each risk array of a post; the first one of an option takes some 140,000."""
PATIENCE_S = 2.0
"""How long the work on a head may still take after a signal; given up later, it is a crash, which is safe."""

app = typer.Typer(
    name="keeper",
    help="A liquidation keeper: a fast alarm, a slow confirmation, and small steps along a slope.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigOption = Annotated[Path, typer.Option(help="TOML file; docs/configuration.md lists its keys.")]
Published = Annotated[
    Path | None,
    typer.Option(help="Start from a published book of the deployment, where the keeper has none of its own."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do all but send; journal what would be sent.")]


def main() -> None:
    """Run the command line; what the operator must know is one line on stderr, never a traceback."""
    try:
        app()
    except KeeperError as error:
        typer.echo(f"keeper: {error}", err=True)
        raise SystemExit(2) from None


@app.command()
def run(config: ConfigOption, *, snapshot: Published = None, dry_run: DryRun = False) -> None:
    """Keep one deployment until told to stop (SIGTERM or Ctrl-C)."""
    _log_to_stdout()
    uvloop.run(_until_told(_run(config, snapshot=snapshot, dry_run=dry_run)))


@app.command("report-prices")
def report_prices(config: ConfigOption) -> None:
    """Sign and post fast prices with the keys in KEEPER_REPORTER_KEYS; the first key pays the gas."""
    _log_to_stdout()
    uvloop.run(_until_told(_report(config)))


@app.command("report-options")
def report_options(config: ConfigOption) -> None:
    """Value, sign and post what options are worth, and settle them, with the keys in KEEPER_REPORTER_KEYS.

    The last key pays the gas, so that its wallet is not the one of report-prices.
    """
    _log_to_stdout()
    uvloop.run(_until_told(_report_options(config)))


@app.command("doctor")
def see_doctor(config: ConfigOption) -> None:
    """Look at all that a keeper needs, and say how to mend what is amiss; ends with 1 where it cannot run."""
    findings = uvloop.run(examine(load(config)))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(PLAIN_WIDTH, console.width))
    console.print(table_of(findings))
    raise typer.Exit(int(any(each.mark is Mark.BAD for each in findings)))


@app.command("prices")
def see_prices(config: ConfigOption) -> None:
    """Show the fast prices that [feed] gives, once a second: of which venues, and why not of the others."""
    from keeper.feeds.show import show

    _log_to(sys.stderr)
    uvloop.run(_until_told(show(load(config).open_feed(dry_run=True), Console())))


@app.command()
def demo(
    context: typer.Context,
    *,
    protocol: Annotated[
        str, typer.Option(help="hybrid, or whose real contracts to play on: " + ", ".join(FOREIGN) + ".")
    ] = "hybrid",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of accounts, price paths and owners.")] = 1,
    accounts: Annotated[int, typer.Option(min=20, max=500, help="How many accounts.")] = 200,
    fast: Annotated[bool, typer.Option("--fast", help="A shorter window with the same fall.")] = False,
    options: Annotated[
        bool, typer.Option("--options", help="Add hedged books, and their legs apart.")
    ] = False,
    kills: Annotated[int, typer.Option(min=0, help="Kill the keeper this often, at random moments.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Keep journal, configuration and prices here.")] = None,
) -> None:
    """Deploy a protocol on a local Anvil and walk a crash through it, block by block."""
    if protocol != "hybrid":
        raise typer.Exit(_foreign_demo(context, protocol, seed=seed, json_file=json_file))
    from keeper.lab.demo import run_demo

    code = run_demo(
        seed=seed,
        accounts=accounts,
        fast=fast,
        options=options,
        json_path=json_file,
        kills=kills,
        keep_dir=keep,
    )
    raise typer.Exit(code)


def _foreign_demo(context: typer.Context, protocol: str, *, seed: int, json_file: Path | None) -> int:
    """Run the demo of another protocol, which has no other options than these."""
    if protocol not in FOREIGN:
        raise ConfigError(f"--protocol: expected one of hybrid, {', '.join(FOREIGN)}, found {protocol}")
    for name in ("accounts", "fast", "options", "kills", "keep"):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise ConfigError(f"--{name} belongs to the demo of hybrid; with --protocol leave it out")
    from keeper.lab.foreign.show import run_show

    return run_show(protocol, seed=seed, json_path=json_file)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


# --- putting the parts together -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts(Generic[MarketT]):
    """What all daemons need: a node, and the deployment it was found to hold."""

    config: Config
    rpc: Pool
    reader: ChainReader
    market: MarketT
    head: Head
    open: AsyncExitStack
    """What is opened on the way is closed with it."""


Find: TypeAlias = Callable[[ChainReader, Config, Head], Awaitable[MarketT]]


@dataclass(frozen=True, slots=True)
class Kind(Generic[MarketT]):
    """What it takes to keep one kind of protocol: how its deployment is found, and who decides."""

    find: Find[MarketT]
    desk: Callable[[Parts[MarketT], str], Awaitable[Desk[MarketT, Any]]]
    """For a wallet."""
    page: int = PAGE
    """Accounts per bulk read."""


async def _hybrid_desk(parts: Parts[HybridMarket], wallet: str) -> HybridDesk:
    config = parts.config
    taker: AccountKey = bytes.fromhex(wallet[2:]) + config.wallet.sub_account.to_bytes(12)
    reports = None
    if config.reports.endpoints:
        exchange = Exchange(config.reports.endpoints, load_exchange_token(), parts.market, await _roll(parts))
        reports = await parts.open.enter_async_context(hearing(exchange))
    return HybridDesk(wallet, taker, config.desk_params(), reports)


async def _lending_desk(parts: Parts[LendingMarket[Any, Any]], wallet: str) -> LendingDesk:
    config = parts.config
    if config.closing.liquidator is not None:
        await foreign.expect_operator(parts.reader, config, wallet, parts.head)
    pools = await foreign.read_pools(parts.reader, config, parts.market, parts.head)
    return LendingDesk(wallet, config.lending_params(), pools)


async def _perp_desk(parts: Parts[PerpMarket[Any, Any]], wallet: str) -> PerpDesk:
    config = parts.config
    if config.closing.liquidator is not None:
        await foreign.expect_operator(parts.reader, config, wallet, parts.head)
    return PerpDesk(wallet, config.perp_params())


PROTOCOLS: Mapping[str, Kind[Any]] = {
    "hybrid": Kind(hybrid.find, _hybrid_desk),
    "aave_v3": Kind(foreign.find_aave, _lending_desk),
    "morpho_blue": Kind(foreign.find_morpho, _lending_desk),
    "compound_v2": Kind(foreign.find_venus, _lending_desk),
    "perp_curie": Kind(foreign.find_perp, _perp_desk, page=PERP_PAGE),
}
"""By ``deployment.protocol``."""


@asynccontextmanager
async def _connected(config: Config, find: Find[MarketT]) -> AsyncIterator[Parts[MarketT]]:
    """Reach the node, and find the deployment; everything in the configuration is checked on the way."""
    async with Pool(config.chain.http, config.pool_params()) as rpc:
        scout = ChainReader(rpc, config.chain.ws, [])
        await scout.verify(config.chain.chain_id, {config.deployment.setting: config.deployment.address})
        await expect_chain(config.chain.ws, config.chain.chain_id)
        head = head_of(await rpc.request("eth_getBlockByNumber", ["latest", False]))
        if config.deployment.from_block > head.number:
            bound = f"the chain's head is block {head.number}"
            raise ConfigError(f"deployment.from_block is {config.deployment.from_block}, but {bound}")
        if isinstance(config.deployment, ForeignDeployment):
            await foreign.expect_code(rpc, config.deployment)
        market = await find(scout, config, head)
        beacons: tuple[str, ...] = ()
        if isinstance(config.deployment, ForeignDeployment):
            beacons = await foreign.beacons_of(rpc, market.addresses)
        reader = ChainReader(
            rpc, config.chain.ws, market.addresses, config.reader_params(), lent=scout.lent, always=beacons
        )
        async with AsyncExitStack() as stack:
            yield Parts(config, rpc, reader, market, head, stack)


async def _run(config_path: Path, *, snapshot: Path | None, dry_run: bool) -> None:
    config = load(config_path)
    kind = PROTOCOLS[config.deployment.protocol]
    async with _connected(config, kind.find) as parts:
        market, reader = parts.market, parts.reader
        signer = load_signer(config.key_params())
        path = config.journal_path(dry_run=dry_run)
        identity = {
            "chain_id": str(config.chain.chain_id),
            "genesis": await _genesis(parts.rpc),
            "deployment": config.deployment.address,
            "wallet": signer.address,
            "mode": "dry run" if dry_run else "live",
        }
        limits, feed = config.limits_for_guard(), config.open_feed(dry_run=dry_run)
        with alone(path), closing(SqliteJournal(path, identity=identity, limits=limits)) as journal:
            sender = ChainSender(
                parts.rpc,
                journal,
                signer,
                chain_id=config.chain.chain_id,
                params=config.sender_params(dry_run=dry_run),
            )
            pipeline = Pipeline(
                reader=reader,
                market=market,
                desk=await kind.desk(parts, sender.address),
                feed=feed,
                journal=journal,
                sender=sender,
                params=config.pipeline_params(dry_run=dry_run, page=kind.page),
                shelf=config.shelf(dry_run=dry_run),
            )
            read, block_time_s = partial(_reading, parts, pipeline), config.chain.block_time_s
            async with listening(feed), metrics.served(config.health.port, read, block_time_s=block_time_s):
                with progress.shown() as blocks:
                    first = await pipeline.discover(
                        config.deployment.from_block, parts.head, published=snapshot, progress=blocks
                    )
                started = {"wallet": signer.address, "block": parts.head.number, "dry_run": dry_run}
                log.info("keeper.started", accounts=pipeline.accounts, **started)
                await _until_stopped(reader, pipeline, first)
                pipeline.save()


def _reading(parts: Parts[MarketT], pipeline: Pipeline[MarketT]) -> metrics.Reading:
    reader = parts.reader
    return metrics.Reading(
        vitals=pipeline.vitals,
        endpoints=parts.rpc.health(),
        listening=reader.listening,
        fault=reader.fault,
        clock_off_s=reader.clock.off_s,
        logs_left_out=reader.discrepancies,
        logs_heard=reader.logs_heard,
    )


async def _report(path: Path) -> None:
    keys, config = load_reporter_keys(), load(path)
    exchanges = config.reporter.peers or config.reporter.listen
    token = load_exchange_token() if exchanges else ""
    async with _connected(config, hybrid.find) as parts:
        market = parts.market
        wallet = signer_of(keys[0])
        roll, feed = await _roll(parts), config.open_feed()
        if strangers := {address_of(key) for key in keys} - {*roll.quorum.signers}:
            at = f"the oracle {market.deployment.fast_oracle}"
            raise ConfigError(f"{', '.join(sorted(strangers))} is no signer of {at}")
        peers = None
        if config.reporter.peers:
            exchange = Exchange(config.reporter.peers, token, market, roll)
            peers = await parts.open.enter_async_context(exchange)
        reporter = Reporter(
            reader=parts.reader,
            oracle=market,
            feed=feed,
            postman=PlainSender(
                parts.rpc,
                wallet,
                chain_id=config.chain.chain_id,
                gas_limit=REPORT_GAS,
                fees=config.fee_params(),
            ),
            keys=keys,
            roll=roll,
            params=config.reporter_params(),
            peers=peers,
        )
        if config.reporter.listen:
            serving = served(config.reporter.listen, token, lambda: reporter.reports, market.fast_domain)
            await parts.open.enter_async_context(serving)
        log.info("reporter.started", wallet=wallet.address, keys=len(keys), quorum=roll.quorum.size)
        async with listening(feed):
            await _until_stopped(parts.reader, reporter, parts.head.number)


async def _report_options(path: Path) -> None:
    keys = load_reporter_keys()
    async with _connected(load(path), hybrid.find) as parts:
        config, market = parts.config, parts.market
        rules, wallet = market.deployment.rules, signer_of(keys[-1])
        if not rules.options:
            raise ConfigError(f"{config.deployment.setting} {config.deployment.address} lists no option")
        feeds = {rules.markets[number].feed for number in rules.options}
        if unvalued := sorted(feeds - config.steward.vols.keys()):
            raise ConfigError(f"steward.vols has no volatility for {', '.join(unvalued)}")
        roll, feed, params = await _roll(parts), config.open_feed(), config.steward_params()
        steward = Steward(
            reader=parts.reader,
            venue=market,
            feed=feed,
            vols=config.open_vols(feed),
            publish=PlainSender(
                parts.rpc,
                wallet,
                chain_id=config.chain.chain_id,
                gas_limit=REPORT_GAS + ARRAY_GAS * params.most_arrays,
                fees=config.fee_params(),
            ),
            keys=keys,
            quorum=roll.quorum.size,
            params=params,
        )
        log.info("steward.started", wallet=wallet.address, keys=len(keys), options=len(rules.options))
        async with listening(feed):
            await _until_stopped(parts.reader, steward, parts.head.number)


async def _genesis(rpc: Pool) -> str:
    """Return the hash of block 0; its header may be older than EIP-1559."""
    block = await rpc.request("eth_getBlockByNumber", ["0x0", False])
    if not isinstance(block, dict) or "hash" not in block:
        raise ChainFault(f"{rpc.endpoint} does not have block 0, by which the journal knows its chain")
    return str(block["hash"])


async def _roll(parts: Parts[HybridMarket]) -> Roll:
    """Read who may sign fast prices."""
    roll, head = Roll(parts.reader, parts.market.deployment.fast_oracle), parts.head
    await roll.read(ChainTime(head.number + 1, head.timestamp_s + parts.config.chain.block_time_s))
    return roll


def _log_to_stdout() -> None:
    _log_to(sys.stdout)


def _log_to(file: TextIO) -> None:
    """Write one JSON object per event where a program reads, coloured lines where a person does."""
    renderer = structlog.dev.ConsoleRenderer() if file.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(file),
    )


class Daemon(Protocol):
    """A loop that can be cancelled while it is not busy."""

    busy: asyncio.Lock

    async def run(self) -> None:
        """Work on every head until cancelled."""
        ...


async def _until_told(work: Coroutine[None, None, None]) -> None:
    """Do the work of a daemon; SIGTERM and SIGINT give up whatever comes before its loop."""
    task = asyncio.ensure_future(work)
    _on_signal(task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    log.info("stopped")


async def _until_stopped(reader: ChainReader, daemon: Daemon, first: Block) -> None:
    """Run until SIGTERM or SIGINT; the work on a head that has begun is finished first."""
    stop = asyncio.Event()
    stopping = asyncio.create_task(stop.wait())
    try:
        await reader.start(first)
        _on_signal(stop.set)
        working = asyncio.create_task(daemon.run())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(daemon.busy.acquire(), PATIENCE_S)
            working.cancel()
            await asyncio.wait({working})
        if not working.cancelled():
            working.result()
    finally:
        stopping.cancel()
        await reader.close()


def _on_signal(act: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act)
