"""The command that decides again what is on tape, or over recorded prices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from keeper.cli.options import LAST_BLOCK
from keeper.cli.output import log_to_nobody, terminal
from keeper.cli.parts import PROTOCOLS, Parts
from keeper.cli.why import settings_of, taped_scene
from keeper.config import Config, load
from keeper.errors import ConfigError
from keeper.execute.sender import ChainSender
from keeper.journal.db import Shared
from keeper.journal.reader import JournalReader
from keeper.journal.runs import Run
from keeper.journal.tape import to_head
from keeper.pipeline import Pipeline
from keeper.ports import Journal
from keeper.replay.deck import Deck
from keeper.replay.play import Made, play_run, playable
from keeper.replay.prices import Clock, Clocks, decide
from keeper.replay.prices import words_of as words_of_decided
from keeper.replay.told import words_of
from keeper.units import BPS, WAD, Block

NEVER: Block = 2**62
"""A replay writes no book."""


def see_replay(
    source: Annotated[
        Path,
        typer.Argument(
            help="A journal, a configuration (.toml) for its, or a CSV of timestamp_s,feed,price."
        ),
    ],
    *,
    until: Annotated[int | None, typer.Option(min=0, max=LAST_BLOCK, help="End with this block.")] = None,
    config: Annotated[Path | None, typer.Option(help="Decide by this configuration instead.")] = None,
    book: Annotated[Path | None, typer.Option(help="With prices: whose accounts, a book on disk.")] = None,
) -> None:
    """Decide again what a journal has on tape, and compare event for event; or decide over recorded prices.

    Ends with 0 where all is equal, or where another configuration was asked for; with 1 where it is not.
    """
    log_to_nobody()
    is_journal = source.suffix != ".csv"
    if is_journal and book is not None:
        raise ConfigError("--book belongs to prices: a journal is decided again with the books of its runs")
    if not is_journal and until is not None:
        raise ConfigError("--until belongs to a journal: prices are decided to their end")
    if source.suffix == ".toml":
        place = load(source).journal_place(dry_run=False)
        raise typer.Exit(asyncio.run(_replay(place, until=until, config=config)))
    if is_journal:
        raise typer.Exit(asyncio.run(_replay(source, until=until, config=config)))
    if config is None or book is None:
        raise ConfigError("to decide over prices takes --config, and --book with the accounts")
    for line in asyncio.run(_decide(source, load(config), book)):
        terminal().print(line, soft_wrap=True, highlight=False, markup=False)


async def _decide(prices: Path, config: Config, book: Path) -> Iterator[str]:
    with closing(JournalReader(config.journal_place(dry_run=False))) as reader:
        scene = await taped_scene(reader, None, config)
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
    console, equal = terminal(), True
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
