"""Walk through the closes of a CSV, forecast the tail of each next return, and say what is refuted.

    .venv/bin/python scripts/backtest_tail.py FILE --close COLUMN... [--weights W...] [--level L...]

The rows are in order of time, one a step. Several columns with weights are one book of constant weights.
"""

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from keeper.errors import BadInput
from keeper.risk import covariance, inputs, tail, tail_backtest
from keeper.risk.inputs import Floats

Forecast = Callable[[Floats], tail.TailRisk]
COLUMNS = "{:<12}{:>7}{:>6}{:>9}{:>6}{:>8}{:>7}{:>7}{:>8}"
HEAD = COLUMNS.format("forecast", "level", "n", "expected", "found", "Kupiec", "order", "Z2", "p")


def returns_of(path: Path, columns: list[str], weights: list[float]) -> Floats:
    """Read the log returns of the columns' book [n]."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        closes = [[float(row[column]) for column in columns] for row in rows]
    except KeyError as error:
        raise BadInput(f"{path} must have a column {error}, found {', '.join(rows[0])}") from error
    except ValueError as error:
        raise BadInput(f"{path} must hold a number in every row of {', '.join(columns)}: {error}") from error
    moves = np.diff(np.log(inputs.positive("closes", closes)), axis=0)
    return np.asarray(moves @ inputs.shaped("weights", inputs.finite("weights", weights), len(columns)))


def filtered(level: float) -> Forecast:
    return lambda past: tail.filtered_historical(past, level)


def normal(level: float) -> Forecast:
    def forecast(past: Floats) -> tail.TailRisk:
        return tail.parametric(mean=0.0, sd=math.sqrt(covariance.ewma(past, decay=0.94)), level=level)

    return forecast


def line(name: str, returns: Floats, forecast: Forecast, *, level: float, window: int) -> str:
    losses, var, es = tail_backtest.walk_forward(returns, forecast, window=window)
    hits = losses > var
    coverage = tail_backtest.christoffersen(hits, level)
    size = tail_backtest.acerbi_szekely(losses, var=var, es=es, level=level).unconditional
    p_values = (coverage.unconditional.p_value, coverage.independence.p_value, size.p_value)
    number, order, p = (f"{each:.4f}" for each in p_values)
    expected = f"{(1 - level) * len(hits):.1f}"
    return COLUMNS.format(
        name, level, len(hits), expected, int(hits.sum()), number, order, f"{size.statistic:.2f}", p
    )


def main() -> None:
    """Print a line for each forecast and level: exceptions, and p-values of number, order and size."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("file", type=Path)
    asked.add_argument("--close", nargs="+", required=True, metavar="COLUMN")
    asked.add_argument("--weights", nargs="+", type=float, default=[1.0], metavar="W")
    asked.add_argument("--level", nargs="+", type=float, default=[0.975, 0.99], metavar="L")
    asked.add_argument("--window", type=int, default=500, metavar="N")
    given = asked.parse_args()
    try:
        returns = returns_of(given.file, given.close, given.weights)
        print(HEAD)
        for name, forecaster in (("filtered", filtered), ("EWMA normal", normal)):
            for level in given.level:
                print(line(name, returns, forecaster(level), level=level, window=given.window))
    except (BadInput, OSError) as error:
        asked.error(str(error))


if __name__ == "__main__":
    main()
