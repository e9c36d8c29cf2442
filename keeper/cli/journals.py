"""Commands that look after the journal."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from keeper.cli.options import HERE, ConfigOption, Rehearsed
from keeper.config import load
from keeper.deployments import name_of
from keeper.journal import opening
from keeper.journal.reader import JournalReader


def check_journal(*, config: ConfigOption = HERE, dry_run: Rehearsed = False) -> None:
    """Look for damage, and for what contradicts itself; ends with 1 where there is any."""
    with closing(JournalReader(load(config).journal_place(dry_run=dry_run))) as reader:
        broken = reader.verify()
        for each in broken or [f"the journal {reader.place} is whole"]:
            typer.echo(each)
    raise typer.Exit(int(bool(broken)))


def back_up_journal(
    file: Annotated[Path, typer.Argument(help="A new SQLite file, also of a shared journal.")],
    *,
    config: ConfigOption = HERE,
    dry_run: Rehearsed = False,
) -> None:
    """Copy the journal as of one moment, while the keeper writes it."""
    with closing(JournalReader(load(config).journal_place(dry_run=dry_run))) as reader:
        reader.back_up(file)


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
