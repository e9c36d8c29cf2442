"""The command line: puts the real parts together, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TextIO, TypeAlias, TypeVar

import structlog
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from keeper import __version__, ladder, metrics, ports, progress
from keeper.alerts import Teller, load_urls, open_messengers
from keeper.chain.mempool import Mempool
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.chain.relay import Relay, Updates
from keeper.chain.stream import expect_chain
from keeper.chain.wire import head_of
from keeper.config import Config, Ladder, load
from keeper.deployments import ForeignDeployment, in_common, name_of
from keeper.desk.hybrid import HybridDesk
from keeper.desk.lending import LendingDesk
from keeper.desk.perp import PerpDesk
from keeper.desk.port import Desk
from keeper.doctor import foreign, hybrid
from keeper.doctor.examine import examine
from keeper.doctor.finding import Mark, table_of
from keeper.domain import ChainTime, Head
from keeper.errors import ChainFault, ConfigError, KeeperError
from keeper.execute.keys import (
    LocalSigner,
    load_exchange_token,
    load_relay_key,
    load_reporter_keys,
    signer_of,
)
from keeper.execute.plain import PlainSender
from keeper.execute.relay_auth import relay_headers
from keeper.execute.sender import ChainSender
from keeper.execute.signer import Signer
from keeper.execute.signers import SignerParams, open_signer, unlock
from keeper.execute.transports import PENDING_UPDATES, Via
from keeper.feeds import AnyFeed, listening
from keeper.journal import opening
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.lock import alone
from keeper.journal.reader import JournalReader
from keeper.journal.runs import Run
from keeper.journal.store import StoredJournal
from keeper.journal.tape import Recorder, of_head, to_head
from keeper.journal.wallet import Wallet
from keeper.oracles.panel import reader_creation
from keeper.pipeline import PAGE, Pipeline
from keeper.ports import (
    BREAKERS,
    Journal,
    LendingMarket,
    Market,
    Measure,
    Notice,
    PerpMarket,
    Reports,
    Switch,
    Thrown,
)
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.signing import address_of
from keeper.replay.deck import Deck
from keeper.replay.play import Made, play_run, playable
from keeper.replay.prices import Clock, Clocks, decide
from keeper.replay.prices import words_of as words_of_decided
from keeper.replay.scene import Parts as ScenedParts
from keeper.replay.scene import Scene, scene_at
from keeper.replay.told import words_of
from keeper.reporter import Reporter
from keeper.reports import Exchange, Roll, hearing, served
from keeper.state.part import WHOLE
from keeper.steward import Steward
from keeper.units import BPS, WAD, AccountKey, Block
from keeper.why.explain import explain
from keeper.why.explain import words_of as words_of_account
from keeper.why.nearest import nearest
from keeper.why.nearest import words_of as words_of_nearest

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
LAG_BLOCKS = 3
"""An endpoint further behind the best is a sign of drift."""
NEVER: Block = 2**62
"""A replay writes no book."""
FORGET_S, FORGET_SOON_S = 60.0, 0.5
YOUNG_OBJECTS = 100_000
"""So many more than were freed, and garbage is collected wherever the keeper is."""
"""How often the journal forgets a piece of what is old: while there is none, and while there is more."""
STANDING_BYTES = 2**24
"""What a standby has heard since its start takes so much memory at most, packed: a day or so."""
LAST_SWITCHED = 10
"""So many switches are shown with the limits."""
PATIENCE_S = 2.0
"""How long the work on a head may still take after a signal; given up later, it is a crash, which is safe."""

app = typer.Typer(
    name="keeper",
    help="A liquidation keeper: a fast alarm, a slow confirmation, and small steps along a slope.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

HERE = Path("keeper.toml")
"""The configuration, where only something is looked up."""
ConfigOption = Annotated[Path, typer.Option(help="TOML file; docs/configuration.md lists its keys.")]
ConfigOptions = Annotated[
    list[Path],
    typer.Option(help="TOML file; docs/configuration.md lists its keys. Again for each further deployment."),
]
ConfigsHere = Annotated[
    list[Path] | None,
    typer.Option(help="TOML file, keeper.toml by default. Again for each further deployment."),
]
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
def run(config: ConfigOptions, *, snapshot: Published = None, dry_run: DryRun = False) -> None:
    """Keep deployments of one chain until told to stop (SIGTERM or Ctrl-C)."""
    _log_to_stdout()
    configs = [load(path) for path in config]
    _expect_apart(dict(zip(config, configs, strict=True)), snapshot)
    # Before there is a loop: a passphrase may have to be typed, once for each keystore.
    keys = {signer: unlock(signer) for signer in dict.fromkeys(each.signer_params() for each in configs)}
    uvloop.run(_until_told(_run(config, configs, keys, snapshot=snapshot, dry_run=dry_run)))


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
    _console().print(table_of(findings))
    raise typer.Exit(int(any(each.mark is Mark.BAD for each in findings)))


@app.command("prices")
def see_prices(config: ConfigOption) -> None:
    """Show the fast prices of the section feed, once a second: of which venues, and why not of the others."""
    from keeper.feeds.show import show

    _log_to(sys.stderr)
    uvloop.run(_until_told(show(load(config).open_feed(dry_run=True), Console())))


@app.command("ladder")
def see_ladder(
    config: Annotated[
        Path | None, typer.Option(help="Show the bounds of this file, not the defaults.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show both ladders, of an account and of the book: what leads up, what each rung does, what ends it."""
    bounds = load(config).ladder if config is not None else Ladder()
    found = ladder.told(bounds.climb(), bounds.book.book())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(PLAIN_WIDTH, console.width))
    for title, rows in found.items():
        table = Table(*rows[0], title=title)
        for row in rows:
            table.add_row(*map(ladder.plain, row.values()))
        console.print(table)


@app.command()
def demo(
    context: typer.Context,
    *,
    protocol: Annotated[
        str,
        typer.Option(
            help="hybrid, or whose real contracts to play on: "
            + ", ".join(FOREIGN)
            + "; or all of these on one chain."
        ),
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
    false_print: Annotated[
        bool, typer.Option(help="With all: whether the fast price is false for a block at first.")
    ] = True,
) -> None:
    """Deploy a protocol on a local Anvil and walk a crash through it, block by block."""
    if protocol != "all" and _is_given(context, "false_print"):
        raise ConfigError("--no-false-print belongs to the demo with --protocol all")
    if protocol != "hybrid":
        of = accounts if _is_given(context, "accounts") else None
        raise typer.Exit(
            _foreign_demo(
                context, protocol, seed=seed, accounts=of, false_print=false_print, json_file=json_file
            )
        )
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


def _foreign_demo(
    context: typer.Context,
    protocol: str,
    *,
    seed: int,
    accounts: int | None,
    false_print: bool,
    json_file: Path | None,
) -> int:
    """Run the demo of another protocol, or of all; they have no other options than these."""
    if protocol not in (*FOREIGN, "all"):
        raise ConfigError(f"--protocol: expected one of hybrid, {', '.join(FOREIGN)}, all; found {protocol}")
    others = ("fast", "options", "kills", "keep") + (() if protocol == "all" else ("accounts",))
    for name in others:
        if _is_given(context, name):
            raise ConfigError(f"--{name} belongs to the demo of hybrid; with --protocol leave it out")
    if protocol == "all":
        from keeper.lab.foreign.crash import ACCOUNTS, run_crash

        return run_crash(
            seed=seed, accounts=accounts or ACCOUNTS, false_print=false_print, json_path=json_file
        )
    from keeper.lab.foreign.show import run_show

    return run_show(protocol, seed=seed, json_path=json_file)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
At = Annotated[
    int | None, typer.Option(help="As of the head done last up to this block; else of the last one.")
]
Rehearsed = Annotated[bool, typer.Option("--dry-run", help="From the journal of dry runs.")]


@app.command("explain")
def see_why(
    account: Annotated[str, typer.Argument(help="0xowner, 0xowner:sub, or the key of 32 bytes.")],
    *,
    config: ConfigOption = HERE,
    at: At = None,
    as_json: Json = False,
    dry_run: Rehearsed = False,
) -> None:
    """Say what was known of an account, which rule decided, and what would change the answer."""
    _log_to_nobody()
    settings = load(config)
    with closing(JournalReader(settings.journal_place(dry_run=dry_run))) as reader:
        said = explain(reader, asyncio.run(_scene(reader, at)), account, at)
    if as_json:
        typer.echo(json.dumps(said, indent=2, default=str))
        return
    for line in words_of_account(said):
        _console().print(line, soft_wrap=True, highlight=False, markup=False)


@app.command("accounts")
def see_accounts(
    *,
    config: ConfigOption = HERE,
    top: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 10,
    at: At = None,
    as_json: Json = False,
    dry_run: Rehearsed = False,
) -> None:
    """Show the accounts nearest to breach: where each breaks, and what would be taken of it there."""
    _log_to_nobody()
    settings = load(config)
    with closing(JournalReader(settings.journal_place(dry_run=dry_run))) as reader:
        scene = asyncio.run(_scene(reader, at))
        if isinstance(scene, str):
            raise ConfigError(scene)
        found = nearest(reader, scene, top)
    if as_json:
        typer.echo(json.dumps({"block": scene.head.number, "accounts": found}, indent=2, default=str))
        return
    table = Table("account", "rung", "feed", "now", "breaks at", "move", "sigmas", "there")
    for row in words_of_nearest(found):
        table.add_row(*row)
    _console().print(f"block {scene.head.number}", highlight=False)
    _console().print(table)


async def _scene(reader: JournalReader, at: Block | None, other: Config | None = None) -> Scene | str:
    """Put together what the tape has of a head; or say why that cannot be."""

    async def open_parts(run: Run, answers: Any, said: Reports) -> ScenedParts:
        config = other or settings_of(run, None)
        kind, head = PROTOCOLS[config.deployment.protocol], to_head(run.started["head"])
        market = await kind.find(answers, config, head)
        reports = said if config.reports.endpoints else None
        nodes: Any = answers
        parts: Parts[Any] = Parts(config, nodes, answers, market, head, AsyncExitStack(), reports=reports)
        return ScenedParts(
            market=market,
            desk=await kind.desk(parts, run.started["wallet"]),
            params=config.pipeline_params(dry_run=run.started["dry_run"], page=kind.page),
            fees=config.fee_params(),
            chain_id=config.chain.chain_id,
            deployment=name_of(config.deployment),
            panel=config.panel(),
            policies=config.policies(),
        )

    try:
        return await scene_at(reader, open_parts, at)
    except (ConfigError, ChainFault) as fault:
        return str(fault)


@app.command("replay")
def see_replay(
    source: Annotated[
        Path,
        typer.Argument(
            help="A journal, a configuration (.toml) for its, or a CSV of timestamp_s,feed,price."
        ),
    ],
    *,
    until: Annotated[int | None, typer.Option(help="End with this block.")] = None,
    config: Annotated[Path | None, typer.Option(help="Decide by this configuration instead.")] = None,
    book: Annotated[Path | None, typer.Option(help="With prices: whose accounts, a book on disk.")] = None,
) -> None:
    """Decide again what a journal has on tape, and compare event for event; or decide over recorded prices.

    Ends with 0 where all is equal, or where another configuration was asked for; with 1 where it is not.
    """
    _log_to_nobody()
    if source.suffix == ".toml":
        place = load(source).journal_place(dry_run=False)
        raise typer.Exit(asyncio.run(_replay(place, until=until, config=config)))
    if source.suffix != ".csv":
        raise typer.Exit(asyncio.run(_replay(source, until=until, config=config)))
    if config is None or book is None:
        raise ConfigError("to decide over prices takes --config, and --book with the accounts")
    for line in asyncio.run(_decide(source, load(config), book)):
        _console().print(line, soft_wrap=True, highlight=False, markup=False)


async def _decide(prices: Path, config: Config, book: Path) -> Iterator[str]:
    with closing(JournalReader(config.journal_place(dry_run=False))) as reader:
        scene = await _scene(reader, None, config)
    if isinstance(scene, str):
        raise ConfigError(f"what is listed is taken from the tape: {scene}")
    max_age_s = config.feed.max_age_s if config.feed.kind == "recorded" else config.chain.block_time_s
    fast = Clock(config.reporter.deviation_bps * WAD // BPS, config.reporter.heartbeat_s)
    clocks = Clocks(fast=fast)
    limits = config.limits_for_guard()
    decided = await decide(scene, prices, book, max_age_s=max_age_s, limits=limits, clocks=clocks)
    return words_of_decided(decided, clocks, is_hybrid=config.deployment.protocol == "hybrid")


async def _replay(journal: Path | Shared, *, until: int | None, config: Path | None) -> int:
    with closing(JournalReader(journal)) as reader:
        runs = playable(reader)
        elsewhere = [run for run in runs if isinstance(journal, Shared) and not reader.has_book(run)]
    console, equal = _console(), True
    for run in elsewhere:
        console.print(f"run {run.run}: its book is where that keeper ran, and so is its replay")
    for run in (each for each in runs if each not in elsewhere):
        settings = settings_of(run, config)
        limits, fees = settings.limits_for_guard(), settings.sender_params(dry_run=run.started["dry_run"])
        if config is not None:
            # What was sent then counts as nobody's where other things are done now.
            limits = replace(limits, foreign_stops=False)
        made = studio(run, settings)
        played = await play_run(
            journal, run, made, limits=limits, sender=fees, until=until, reloads=config is None
        )
        for line in words_of(played, other=config is not None):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        equal = equal and played.is_equal
    return 0 if equal or config is not None else 1


# --- what stops the wallet ------------------------------------------------------------------------

Reason = Annotated[str, typer.Option(help="Why; it goes into the journal.")]
MarketName = Annotated[str, typer.Argument(help="A feed, such as ETH/USD, or the protocol's own market.")]


@app.command()
def halt(*, config: ConfigsHere = None, reason: Reason = "", dry_run: Rehearsed = False) -> None:
    """Permit nothing new from the next grant on; what is in flight is still followed."""
    with _switchboards(config, dry_run=dry_run) as journals:
        for journal in journals:
            journal.throw(Switch.HALT, "", on=True, who=_operator(), why=reason)
    typer.echo("halted")


@app.command()
def resume(*, config: ConfigsHere = None, reason: Reason = "", dry_run: Rehearsed = False) -> None:
    """Take back a halt by command or signal, or for another user of the key; says what still holds."""
    with _switchboards(config, dry_run=dry_run) as journals:
        for journal, switch in product(journals, (Switch.HALT, Switch.FOREIGN)):
            journal.throw(switch, "", on=False, who=_operator(), why=reason)
        still = [metrics.stopped(each) for journal in journals for each in journal.thrown()]
    typer.echo("\n".join(["resumed", *still]))


@app.command()
def pause(
    market: MarketName, *, config: ConfigOption = HERE, reason: Reason = "", dry_run: Rehearsed = False
) -> None:
    """Permit nothing that hangs on a market, until it is unpaused."""
    with _switchboard(config, dry_run=dry_run) as journal:
        journal.throw(Switch.PAUSE, market, on=True, who=_operator(), why=reason)
    typer.echo(f"{market} paused")


@app.command()
def unpause(
    market: MarketName, *, config: ConfigOption = HERE, reason: Reason = "", dry_run: Rehearsed = False
) -> None:
    """Take back the pause of a market."""
    with _switchboard(config, dry_run=dry_run) as journal:
        _expect_on(journal, Switch.PAUSE, market)
        journal.throw(Switch.PAUSE, market, on=False, who=_operator(), why=reason)
    typer.echo(f"{market} unpaused")


@app.command("reset")
def reset_breaker(
    breaker: Annotated[str, typer.Argument(help="One of " + ", ".join(BREAKERS) + ".")],
    *,
    market: Annotated[str, typer.Option(help="Of one feed only.")] = "",
    config: ConfigOption = HERE,
    reason: Reason = "",
    dry_run: Rehearsed = False,
) -> None:
    """Close a breaker before its time; it trips again where its figure says so."""
    if breaker not in {*BREAKERS}:
        raise ConfigError(f"expected one of {', '.join(BREAKERS)}, found {breaker}")
    with _switchboard(config, dry_run=dry_run) as journal:
        found = _expect_on(journal, breaker, market)
        for each in found:
            journal.throw(each.switch, each.subject, on=False, who=_operator(), why=reason)
    typer.echo("\n".join(f"{each.name} closed" for each in found))


@app.command()
def sold(
    market: MarketName, *, config: ConfigOption = HERE, reason: Reason = "", dry_run: Rehearsed = False
) -> None:
    """Say that what was taken over of a market up to now has been sold: it is no inventory any more."""
    with _switchboard(config, dry_run=dry_run) as journal:
        journal.throw(Switch.SOLD, market, on=True, who=_operator(), why=reason)
    typer.echo(f"{market} sold")


@app.command("limits")
def see_limits(*, config: ConfigsHere = None, as_json: Json = False, dry_run: Rehearsed = False) -> None:
    """Show how much of each limit of the file is used, and what is halted, paused or tripped.

    Of several files each is held against what all journals of its wallet have used.
    """
    with _switchboards(config, dry_run=dry_run) as journals:
        standing = [_standing_of(each) for each in journals]
    if as_json:
        said = {
            "limits": [
                {"journal": each.journal, **asdict(one)} for each in standing for one in each.measures
            ],
            "stopped": [{"journal": each.journal, **asdict(one)} for each in standing for one in each.thrown],
        }
        typer.echo(json.dumps(said, indent=2))
        return
    for each in standing:
        _show(each, is_one_of_many=len(standing) > 1)


@dataclass(frozen=True, slots=True)
class Standing:
    """How the limits of one journal stand, and its switches."""

    journal: str
    measures: Sequence[Measure]
    thrown: Sequence[Thrown]
    switched: Sequence[tuple[Thrown, bool]]


def _standing_of(journal: StoredJournal) -> Standing:
    return Standing(journal.name, journal.measures(), journal.thrown(), journal.switched(LAST_SWITCHED))


def _show(standing: Standing, *, is_one_of_many: bool) -> None:
    title, own = (standing.journal, ["of these here"]) if is_one_of_many else (None, [])
    table = Table("limit", "market", "used", *own, "bound", "unit", title=title)
    for each in standing.measures:
        here = [f"{each.own:,.6g}"] if is_one_of_many else []
        bound = "-" if each.bound is None else f"{each.bound:,.6g}"
        table.add_row(each.limit, each.subject, f"{each.used:,.6g}", *here, bound, each.unit)
    _console().print(table)
    lines = [
        f"{each.at_s}: {each.name} {'on' if on else 'off'} {each.told}" for each, on in standing.switched
    ]
    for line in (*map(metrics.stopped, standing.thrown), "", "thrown last, by chain time:", *lines):
        _console().print(line, soft_wrap=True, highlight=False, markup=False)


def _switchboard(path: Path, *, dry_run: bool) -> closing[StoredJournal]:
    """Open the journal of a keeper that may be running."""
    config = load(path)
    return closing(opening.to_switch(config.journal_place(dry_run=dry_run), config.limits_for_guard()))


@contextmanager
def _switchboards(paths: Sequence[Path] | None, *, dry_run: bool) -> Iterator[list[StoredJournal]]:
    """Open the journals of deployments that one process may keep: those of one wallet look at each other."""
    wallets = defaultdict[str, Wallet](Wallet)
    configs = [load(path) for path in paths or [HERE]]
    found = {each.journal_place(dry_run=dry_run): each.limits_for_guard() for each in configs}
    with ExitStack() as stack:
        opened = (opening.to_switch(place, limits, wallets) for place, limits in found.items())
        yield [stack.enter_context(closing(journal)) for journal in opened]


def _expect_on(journal: StoredJournal, switch: str, subject: str) -> list[Thrown]:
    """Return the switches of a kind that are on, of one subject where it is given; there must be one."""
    found = [each for each in journal.thrown() if each.switch == switch and subject in {"", each.subject}]
    if not found:
        raise ConfigError(f"{switch} {subject}".rstrip() + " is not on")
    return found


def _operator() -> str:
    return f"command of user {os.getuid()}"


journal_app = typer.Typer(no_args_is_help=True, help="Look after the journal.")
app.add_typer(journal_app, name="journal")


@journal_app.command("check")
def check_journal(*, config: ConfigOption = HERE, dry_run: Rehearsed = False) -> None:
    """Look for damage, and for what contradicts itself; ends with 1 where there is any."""
    with closing(JournalReader(load(config).journal_place(dry_run=dry_run))) as reader:
        broken = reader.verify()
        for each in broken or [f"the journal {reader.place} is whole"]:
            typer.echo(each)
    raise typer.Exit(int(bool(broken)))


@journal_app.command("backup")
def back_up_journal(
    file: Annotated[Path, typer.Argument(help="A new SQLite file, also of a shared journal.")],
    *,
    config: ConfigOption = HERE,
    dry_run: Rehearsed = False,
) -> None:
    """Copy the journal as of one moment, while the keeper writes it."""
    with closing(JournalReader(load(config).journal_place(dry_run=dry_run))) as reader:
        reader.back_up(file)


@journal_app.command("export")
def export_journal(
    *,
    case: Annotated[str | None, typer.Option(help="Only this case.")] = None,
    config: ConfigOption = HERE,
    dry_run: Rehearsed = False,
) -> None:
    """Print the journal as lines of JSON, a row each."""
    with closing(JournalReader(load(config).journal_place(dry_run=dry_run))) as reader:
        for line in reader.export(case):
            typer.echo(line)


@journal_app.command("import")
def import_journal(
    file: Annotated[Path, typer.Argument(help="The journal.sqlite of a keeper that is stopped.")],
    *,
    config: ConfigOption = HERE,
    dry_run: Rehearsed = False,
) -> None:
    """Bring a journal from its file to the shared one of a configuration, where there is none yet."""
    settings = load(config)
    expected = {
        "chain_id": str(settings.chain.chain_id),
        "deployment": name_of(settings.deployment),
        "mode": "dry run" if dry_run else "live",
    }
    place = settings.journal_place(dry_run=dry_run)
    for table, rows in opening.take_in(file, place, expected).items():
        typer.echo(f"{table} {rows}")


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
    tape: Recorder | None = None
    """What takes down all that is read."""
    reports: Reports | None = None
    """Who hears reporters, where that is not the keeper itself."""


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
    reports = parts.reports
    if config.reports.endpoints and reports is None:
        exchange = Exchange(config.reports.endpoints, load_exchange_token(), parts.market, await _roll(parts))
        reports = await parts.open.enter_async_context(hearing(exchange))
        reports = parts.tape.reports(reports) if parts.tape else reports
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
    async with Pool(config.chain.http, config.pool_params()) as rpc, _found(rpc, config, find) as parts:
        yield parts


@asynccontextmanager
async def _found(
    rpc: Pool, config: Config, find: Find[MarketT], tape: Recorder | None = None
) -> AsyncIterator[Parts[MarketT]]:
    """Find the deployment at a node, as ``_connected`` does."""
    scout = ChainReader(rpc, config.chain.ws, [])
    await scout.verify(config.chain.chain_id, {config.deployment.setting: config.deployment.address})
    await expect_chain(config.chain.ws, config.chain.chain_id)
    head = head_of(
        await rpc.request("eth_getBlockByNumber", ["latest", False]), flat_fees=config.chain.flat_fees
    )
    if config.deployment.from_block > head.number:
        bound = f"the chain's head is block {head.number}"
        raise ConfigError(f"deployment.from_block is {config.deployment.from_block}, but {bound}")
    if isinstance(config.deployment, ForeignDeployment):
        await foreign.expect_code(rpc, config.deployment)
    market = await find(tape.reader(scout) if tape else scout, config, head)
    beacons: tuple[str, ...] = ()
    if isinstance(config.deployment, ForeignDeployment):
        beacons = await foreign.beacons_of(rpc, market.addresses)
    reader = ChainReader(
        rpc, config.chain.ws, market.addresses, config.reader_params(), lent=scout.lent, always=beacons
    )
    async with AsyncExitStack() as stack:
        yield Parts(config, rpc, tape.reader(reader) if tape else reader, market, head, stack, tape)


@dataclass(frozen=True, slots=True)
class Board:
    """What signals act on, of one deployment."""

    file: Path
    """Its configuration."""
    journal: StoredJournal
    teller: Teller

    def throw(self, number: signal.Signals, *, on: bool) -> None:
        """Halt, or resume."""
        try:
            self.journal.throw(Switch.HALT, "", on=on, who=number.name)
        except KeeperError as error:
            log.warning("halt.not_written", signal=number.name, why=str(error))

    def reload(self) -> None:
        """Read the limits of the file anew; one that cannot be used changes nothing."""
        try:
            found = load(self.file).limits_for_guard()
            changes = self.journal.limits.changes(found)
            if changes:
                self.journal.reload(found, signal.SIGHUP.name, changes)
        except KeeperError as error:
            log.warning("limits.not_reloaded", why=str(error))
            self.teller.tell(Notice("limits", "not reloaded", f"the limits stay as they are: {error}"))
            return
        log.warning("limits.reloaded", changes=changes)
        self.teller.tell(
            Notice("limits", "reloaded", f"the limits were read anew: {changes}", recovered=True)
        )


def _on_switches(boards: Sequence[Board]) -> None:
    """Halt at SIGUSR1, resume at SIGUSR2, and read limits anew at SIGHUP."""

    def each(act: Callable[[Board], None]) -> None:
        for board in boards:
            act(board)

    loop = asyncio.get_running_loop()
    for number, on in ((signal.SIGUSR1, True), (signal.SIGUSR2, False)):
        loop.add_signal_handler(number, each, partial(Board.throw, number=number, on=on))
    loop.add_signal_handler(signal.SIGHUP, each, Board.reload)


@dataclass(frozen=True, slots=True)
class Berth:
    """What the deployments that one process keeps have in common, or apart."""

    rpc: Pool
    wallets: defaultdict[str, Wallet]
    """By address: journals of one wallet are one door."""
    keys: Mapping[SignerParams, LocalSigner | None]
    """Those of this process."""
    signing: Sequence[SignerParams]
    """Of each deployment, who signs for it."""
    boards: list[Board] = field(default_factory=list)
    kept: list[tuple[Path, Config, frozenset[str]]] = field(default_factory=list)
    """By which contracts each is known on chain."""

    @property
    def of(self) -> int:
        """How many deployments there are."""
        return len(self.signing)

    def is_shared(self, wallet: str) -> bool:
        """Tell whether several deployments have this wallet."""
        keys = ((self.keys[each], each.keys.address) for each in self.signing)
        return sum(wallet == (key.address if key else address) for key, address in keys) > 1


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
    async with Pool(chain.chain.http, chain.pool_params()) as rpc, AsyncExitStack() as stack:
        berth = Berth(rpc, defaultdict(Wallet), keys, [each.signer_params() for each in configs])
        _on_switches(berth.boards)
        works = [
            await stack.enter_async_context(_keeper(berth, path, config, snapshot=snapshot, dry_run=dry_run))
            for path, config in zip(paths, configs, strict=True)
        ]
        if unkept := sorted({each for board in berth.boards for each in board.journal.unkept()}):
            log.warning("wallet.unkept", schemas=unkept, mend="keep all deployments of a wallet together")
        await _until_stopped(*works)


def _expect_apart(configs: Mapping[Path, Config], snapshot: Path | None) -> None:
    """Raise ConfigError where deployments cannot be kept by one process."""
    (first, one), *others = configs.items()
    if snapshot is not None and (others or one.deployment.accounts != WHOLE):
        raise ConfigError("--snapshot is the book of one whole deployment: give it with one --config")
    for path, config in others:
        if config.chain != one.chain:
            raise ConfigError(f"{path}: [chain] is not that of {first}, and one process keeps one chain")
        if config.journal.url != one.journal.url:
            raise ConfigError(f"{path}: journal.url is not that of {first}, and one wallet has one door")
    for (path, config), (before, other) in combinations([*configs.items()][::-1], 2):
        if config.deployment.address == other.deployment.address:
            _expect_none_twice(path, config, before, other)
    for name, of in APART.items():
        taken: dict[object, Path] = {}
        for path, config in configs.items():
            value = of(config)
            if value is not None and taken.setdefault(value, path) is not path:
                raise ConfigError(f"{path}: {name} is that of {taken[value]}: {value}")


def _expect_none_twice(path: Path, config: Config, before: Path, other: Config) -> None:
    """Raise ConfigError where two wallets of one deployment could act on the same account."""
    if shared := in_common(config.deployment, other.deployment):
        mend = "name other markets, or another part"
        raise ConfigError(f"{path}: [deployment] keeps what {before} does, {shared}; {mend}")


def _expect_only_keeper(berth: Berth, path: Path, config: Config, market: Market[Any, Any]) -> None:
    """Raise ConfigError where one deployment goes by two addresses, such as those of two readers of it."""
    for before, other, addresses in berth.kept:
        if not addresses.isdisjoint(market.addresses):
            _expect_none_twice(path, config, before, other)
    berth.kept.append((path, config, frozenset(market.addresses)))


APART: Mapping[str, Callable[[Config], object]] = {
    "journal.path": lambda config: config.journal.path,
    "journal.schema_name": lambda config: config.journal.schema_name if config.journal.url else None,
    "mirror.snapshot": lambda config: config.mirror.snapshot,
    "health.port": lambda config: config.health.port or None,
}
"""What each deployment of a process has to itself; of port 0 everybody gets another."""


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
        _found(berth.rpc, config, kind.find, tape) as parts,
        open_signer(signing, berth.keys[signing]) as signer,
    ):
        _expect_only_keeper(berth, file, config, parts.market)
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
    looked through after each head (``Pipeline.prepare``), and where so many came between two.
    """
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
    parts.open.push_async_callback(relay.close)
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
        "shares_wallet": shares_wallet,
        "dry_run": dry_run,
        "live": config.feed.kind != "recorded",
        "head": of_head(parts.head),
        "config": config.told(),
    }
    book = config.shelf(dry_run=dry_run).path
    journal.keep_tape(tape, started, book=book if book.exists() else snapshot)


def studio(run: Run, config: Config) -> Made:
    """Return what makes a pipeline of a run that was taped, with its own settings or with others."""
    kind = PROTOCOLS[config.deployment.protocol]

    async def make(deck: Deck, journal: Journal, sender: ChainSender, book: Path | None) -> Pipeline[Any]:
        reader, head = deck.reader, to_head(run.started["head"])
        market = await kind.find(reader, config, head)
        reports = deck.reports if config.reports.endpoints else None
        # No node is asked: what would be goes to the tape.
        parts: Parts[Any] = Parts(config, deck.rpc, reader, market, head, AsyncExitStack(), reports=reports)
        return Pipeline(
            reader=reader,
            market=market,
            desk=await kind.desk(parts, run.started["wallet"]),
            feed=deck.feed(live=run.started["live"]),
            journal=journal,
            sender=sender,
            params=config.pipeline_params(dry_run=run.started["dry_run"], page=kind.page),
            shelf=None
            if book is None
            else replace(config.shelf(dry_run=False), path=book, every_blocks=NEVER),
            panel=config.panel(),
            tape=deck,
            leads=deck.leads,
            mempool=deck.mempool if config.trigger.announced else None,
        )

    return make


def settings_of(run: Run, config: Path | None) -> Config:
    """Return the settings that a run was made with, or others on the same deployment."""
    told = Config(**run.started["config"])
    if config is None:
        return told
    other = load(config)
    if (found := name_of(other.deployment)) != (kept := name_of(told.deployment)):
        raise ConfigError(f"{config}: {other.deployment.setting} is {found}, and the journal is of {kept}")
    return other


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
            await _until_stopped(Work(parts.reader, reporter, parts.head.number))


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
            await _until_stopped(Work(parts.reader, steward, parts.head.number))


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


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(PLAIN_WIDTH, console.width))


def _log_to_nobody() -> None:
    """Keep quiet what a replay would say of chain and nodes."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _log_to_stdout() -> None:
    _log_to(sys.stdout)


def _log_to(file: TextIO) -> None:
    """Write one JSON object per event where a program reads, coloured lines where a person does."""
    renderer = structlog.dev.ConsoleRenderer() if file.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
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


@dataclass(frozen=True, slots=True)
class Work:
    """A daemon, and what it follows: the chain, from its first block on."""

    reader: ChainReader
    daemon: Daemon
    first: Block
    context: Context = field(default_factory=copy_context)
    """What its words in the log say of it."""


async def _until_stopped(*works: Work) -> None:
    """Run until SIGTERM or SIGINT; the work on a head that has begun is finished first.

    Where one of several ends by itself, all do.
    """
    stop = asyncio.Event()
    stopping = asyncio.create_task(stop.wait())
    try:
        for each in works:
            await each.reader.start(each.first)
        _on_signal(stop.set)
        running = [asyncio.create_task(each.daemon.run(), context=each.context) for each in works]
        await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*map(_finished, works, running))
        for task in running:
            if not task.cancelled():
                task.result()
    finally:
        stopping.cancel()
        for each in works:
            await each.reader.close()


async def _finished(work: Work, running: asyncio.Task[None]) -> None:
    """End a daemon that has not ended by itself."""
    if not running.done():
        with suppress(TimeoutError):
            await asyncio.wait_for(work.daemon.busy.acquire(), PATIENCE_S)
        running.cancel()
        await asyncio.wait({running})


def _on_signal(act: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act)
