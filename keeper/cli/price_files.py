"""Prices from a file, and what is said by asset beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from keeper.errors import BadInput, ConfigError
from keeper.risk import prices
from keeper.risk.prices import DAY_S, Prices

PriceFile = Annotated[Path, typer.Argument(help="Closes as CSV; docs/risk/tail.md says how.")]
Columns = Annotated[
    str | None,
    typer.Option(
        help="Which column has whose closes, such as BTC=btc_close,ETH=eth_close; else all, by their names."
    ),
]
Decay = Annotated[
    float | None,
    typer.Option(help="Of weighted volatilities, a step; 0.94 from a day on and 0.97 below, unless told."),
]
DegreesOfFreedom = Annotated[
    float | None, typer.Option("--dof", help="Of Student's t, where a method would take returns for normal.")
]
DAILY, HOURLY = 0.94, 0.97
"""The decay of RiskMetrics for days, and what is usual for hours."""


def decay_of(told: Prices, decay: float | None) -> float:
    """Return how much of a weighted volatility is left a step later."""
    if decay is not None:
        return decay
    return DAILY if told.step_s >= DAY_S else HOURLY


def read_prices(path: Path, columns: str | None = None) -> Prices:
    """Read prices from a CSV file; ``columns`` as the option says them.

    Raises ConfigError where the file cannot be read, and BadInput as `prices.read`, the file named.
    """
    wanted = None if columns is None else by_asset("columns", columns)
    try:
        # What spreadsheets save begins with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file, of_file(path):
            return prices.read(file, wanted)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: expected text in UTF-8") from None


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Name the file where a `BadInput` says what it lacks."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def by_asset(name: str, said: str) -> dict[str, str]:
    """Return what BTC=this,ETH=that says of each asset. Raises BadInput for what says nothing, or twice."""
    pairs = [each.partition("=") for each in said.split(",")]
    found = {asset.strip(): value.strip() for asset, _, value in pairs}
    if len(found) < len(pairs) or not all(asset and value for asset, value in found.items()):
        raise BadInput(f"{name}: expected each asset once, such as BTC=...,ETH=..., found {said!r}")
    return found


def numbers_by_asset(name: str, said: str) -> dict[str, float]:
    """Return the numbers that BTC=0.6,ETH=0.4 says. Raises BadInput as `by_asset`, and for no numbers."""
    found = dict[str, float]()
    for asset, value in by_asset(name, said).items():
        try:
            found[asset] = float(value)
        except ValueError:
            found[asset] = math.nan
        if not math.isfinite(found[asset]):
            raise BadInput(f"{name}: expected a finite number for {asset}, found {value!r}")
    return found
