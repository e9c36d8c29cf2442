"""The demo, of HybridMargin and of the protocols of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeper.errors import ConfigError

FOREIGN = ("aave_v3", "morpho_blue", "compound_v2", "perp_curie")
"""Protocols that are not our own, and have a demo too."""


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
