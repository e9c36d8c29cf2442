"""Commands that look at a set-up, and change nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from keeper import __version__, ladder
from keeper.cli.daemons import until_told
from keeper.cli.options import ConfigOption
from keeper.cli.output import PLAIN_WIDTH, log_to, terminal
from keeper.config import load
from keeper.config.watching import Ladder
from keeper.doctor.examine import examine
from keeper.doctor.finding import Mark, table_of


def see_doctor(config: ConfigOption) -> None:
    """Look at all that a keeper needs, and say how to mend what is amiss; ends with 1 where it cannot run."""
    findings = uvloop.run(examine(load(config)))
    terminal().print(table_of(findings))
    raise typer.Exit(int(any(each.mark is Mark.BAD for each in findings)))


def see_prices(config: ConfigOption) -> None:
    """Show the fast prices of the section feed, once a second: of which venues, and why not of the others."""
    from keeper.feeds.show import show

    log_to(sys.stderr)
    uvloop.run(until_told(show(load(config).open_feed(dry_run=True), Console())))


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


def version() -> None:
    """Print the version."""
    typer.echo(__version__)
