"""Commands that say, from the journal's tape, what was known and which rule decided."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from keeper.cli.options import HERE, At, ConfigOption, Json, Rehearsed
from keeper.cli.output import log_to_nobody, terminal
from keeper.cli.parts import PROTOCOLS, Parts
from keeper.config import Config, load
from keeper.deployments import name_of
from keeper.errors import ChainFault, ConfigError
from keeper.journal.reader import JournalReader
from keeper.journal.runs import Run
from keeper.journal.tape import to_head
from keeper.ports import Reports
from keeper.replay.scene import Parts as ScenedParts
from keeper.replay.scene import Scene, scene_at
from keeper.units import Block
from keeper.why.explain import explain
from keeper.why.explain import words_of as words_of_account
from keeper.why.nearest import nearest
from keeper.why.nearest import words_of as words_of_nearest


def see_why(
    account: Annotated[str, typer.Argument(help="0xowner, 0xowner:sub, or the key of 32 bytes.")],
    *,
    config: ConfigOption = HERE,
    at: At = None,
    as_json: Json = False,
    dry_run: Rehearsed = False,
) -> None:
    """Say what was known of an account, which rule decided, and what would change the answer."""
    log_to_nobody()
    settings = load(config)
    with closing(JournalReader(settings.journal_place(dry_run=dry_run))) as reader:
        said = explain(reader, asyncio.run(taped_scene(reader, at)), account, at)
    if as_json:
        typer.echo(json.dumps(said, indent=2, default=str))
        return
    for line in words_of_account(said):
        terminal().print(line, soft_wrap=True, highlight=False, markup=False)


def see_accounts(
    *,
    config: ConfigOption = HERE,
    top: Annotated[int, typer.Option(min=1, max=1_000, help="How many.")] = 10,
    at: At = None,
    as_json: Json = False,
    dry_run: Rehearsed = False,
) -> None:
    """Show the accounts nearest to breach: where each breaks, and what would be taken of it there."""
    log_to_nobody()
    settings = load(config)
    with closing(JournalReader(settings.journal_place(dry_run=dry_run))) as reader:
        scene = asyncio.run(taped_scene(reader, at))
        if isinstance(scene, str):
            raise ConfigError(scene)
        found = nearest(reader, scene, top)
    if as_json:
        typer.echo(json.dumps({"block": scene.head.number, "accounts": found}, indent=2, default=str))
        return
    table = Table("account", "rung", "feed", "now", "breaks at", "move", "sigmas", "there")
    for row in words_of_nearest(found):
        table.add_row(*row)
    terminal().print(f"block {scene.head.number}", highlight=False)
    terminal().print(table)


async def taped_scene(reader: JournalReader, at: Block | None, other: Config | None = None) -> Scene | str:
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


def settings_of(run: Run, config: Path | None) -> Config:
    """Return the settings that a run was made with, or others on the same deployment."""
    told = Config(**run.started["config"])
    if config is None:
        return told
    other = load(config)
    if (found := name_of(other.deployment)) != (kept := name_of(told.deployment)):
        raise ConfigError(f"{config}: {other.deployment.setting} is {found}, and the journal is of {kept}")
    return other
