"""What commands are given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeper.errors import ConfigError


def _some(market: str) -> str:
    """Refuse an empty name, which a variable that is not set makes of it."""
    if not market.strip():
        raise typer.BadParameter("expected the name of a market, found nothing")
    return market


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
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
LAST_BLOCK = 2**63 - 1
"""The highest that a journal can hold."""
At = Annotated[
    int | None,
    typer.Option(
        min=0, max=LAST_BLOCK, help="As of the head done last up to this block; else of the last one."
    ),
]
Rehearsed = Annotated[bool, typer.Option("--dry-run", help="From the journal of dry runs.")]
Reason = Annotated[str, typer.Option(help="Why; it goes into the journal.")]
MarketName = Annotated[
    str,
    typer.Argument(help="A feed, such as ETH/USD, or the protocol's own market.", callback=_some),
]


def refuse_without(option: str, **said: object) -> None:
    """Refuse what is said beside an option that is not there, and would count for nothing.

    Raises ConfigError that names both.
    """
    for name, value in said.items():
        if value is not None:
            raise ConfigError(
                f"--{name} without {option} says nothing: name {option} as well, or leave it out"
            )
