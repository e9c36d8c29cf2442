"""What commands say: to a terminal, or to whoever reads the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from typing import TextIO

import structlog
from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 160
"""Where there is no terminal: addresses and endpoints stay whole."""


def amount(value: float, *, in_coin: bool) -> str:
    """Say an amount to a person: to the cent in quote, and to the millionth of a coin."""
    return f"{value:z,.{6 if in_coin else 2}f}"


def rounded(value: float, *, signed: bool = False) -> str:
    """Say money to a person in short: whole from 100 on, to the cent from 1 on, to the millionth below."""
    digits = 0 if abs(value) >= 100 else 2 if abs(value) >= 1 else 6
    said = f"{value:{'+' if signed else ''}z,.{digits}f}"
    return said.rstrip("0").rstrip(".") if digits else said


def empty_table(*columns: str, words: Collection[str]) -> Table:
    """Return a table without lines, to be filled: words begin at the left, and figures end at the right."""
    table = Table(box=None)
    for name in columns:
        table.add_column(name, justify="left" if name in words else "right")
    return table


def terminal() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(PLAIN_WIDTH, console.width))


def log_to_nobody() -> None:
    """Keep quiet what a replay would say of chain and nodes."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def log_to_stdout() -> None:
    log_to(sys.stdout)


def log_to(file: TextIO) -> None:
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
