"""What commands say: to a terminal, or to whoever reads the log."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from rich.console import Console

PLAIN_WIDTH = 160
"""Where there is no terminal: addresses and endpoints stay whole."""


def amount(value: float, *, in_coin: bool) -> str:
    """Say an amount to a person: to the cent in quote, and to the millionth of a coin."""
    return f"{value:z,.{6 if in_coin else 2}f}"


def terminal() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(PLAIN_WIDTH, console.width))


def log_to_nobody() -> None:
    """Keep quiet what a replay would say of chain and nodes."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


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
