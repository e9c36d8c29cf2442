"""The command line: puts the real parts together, and nothing else."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import UnsupportedOperation
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from keeper.cli import (
    backtests,
    demos,
    flows,
    journals,
    keeping,
    looking,
    losses,
    replaying,
    reporting,
    risking,
    stewarding,
    stresses,
    switches,
    why,
)
from keeper.errors import KeeperError

COMMANDS: Mapping[str, Callable[..., None]] = {
    "run": keeping.run,
    "report-prices": reporting.report_prices,
    "report-options": reporting.report_options,
    "steward": stewarding.publish_risk,
    "doctor": looking.see_doctor,
    "prices": looking.see_prices,
    "ladder": looking.see_ladder,
    "demo": demos.demo,
    "explain": why.see_why,
    "accounts": why.see_accounts,
    "replay": replaying.see_replay,
    "halt": switches.halt,
    "resume": switches.resume,
    "pause": switches.pause,
    "unpause": switches.unpause,
    "reset": switches.reset_breaker,
    "sold": switches.sold,
    "limits": switches.see_limits,
    "version": looking.version,
}
JOURNAL: Mapping[str, Callable[..., None]] = {
    "check": journals.check_journal,
    "backup": journals.back_up_journal,
    "export": journals.export_journal,
    "import": journals.import_journal,
}
"""Those of ``keeper journal``."""

RISK: Mapping[str, Callable[..., None]] = {
    "var": losses.see_var,
    "margin": risking.see_margin,
    "stress": stresses.see_stress,
    "flow": flows.see_flow,
    "backtest": backtests.see_backtest,
}
"""Those of ``keeper risk``."""

STANDARD_ERROR = 2
"""The highest number that a process may find open."""
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What is wrong with a disk, and not with the keeper."""

app = typer.Typer(
    name="keeper",
    help="A liquidation keeper: a fast alarm, a slow confirmation, and small steps along a slope.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
journal_app = typer.Typer(no_args_is_help=True, help="Look after the journal.")

risk_app = typer.Typer(
    no_args_is_help=True, help="Ask the risk engine about a book: in a file, on disk, or on chain."
)

for name, command in COMMANDS.items():
    app.command(name)(command)
for name, command in JOURNAL.items():
    journal_app.command(name)(command)
app.add_typer(journal_app, name="journal")
for name, command in RISK.items():
    risk_app.command(name)(command)
app.add_typer(risk_app, name="risk")


def main() -> None:
    """Run the command line; what the operator must know is one line on stderr, never a traceback."""
    _hold_standard_streams()
    try:
        app()
    except KeeperError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = "the output" if error.filename is None else error.filename
        _end(f"{where} cannot be written: {error.strerror}")


def _hold_standard_streams() -> None:
    """Open what was closed at the start, so that no file or connection of ours takes its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        pass
    os.close(descriptor)
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def _end(why: str) -> NoReturn:
    """Say why, and end with 2, whatever is left of the output that nobody could write."""
    typer.echo(f"keeper: {why}", err=True)
    # What stands in for the output where commands are tried in one process has no descriptor, and needs none.
    with suppress(UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(2) from None
