"""Closes of some assets at equal steps, as a CSV tells them; what is missing or wrong is refused, not filled.

The first line names the columns. The first column is the time, in ISO 8601 (UTC where it says no zone) or
unix seconds; the others are closes in quote, one asset each. Rows are in order of time, and the step between
them is found out.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from keeper.errors import BadInput
from keeper.risk.inputs import Floats, count

Times = NDArray[np.int64]

FIRST_S, LAST_S = 10**8, 10**11
"""Unix seconds lie between: 20240131 is a date without dashes, and 1706659200000 are milliseconds."""
DAY_S = 86_400
UNITS_S = {"d": DAY_S, "h": 3_600, "min": 60, "s": 1}
DIGITS = 12
"""Of a number of units, at most: no time of which there are prices is longer."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Closes of some assets, oldest first."""

    assets: tuple[str, ...]
    times: Times
    """[n], unix seconds, 2 or more and equally far apart."""
    closes: Floats
    """[n, a], in quote, above 0."""

    @property
    def step_s(self) -> int:
        return int(self.times[1] - self.times[0])

    @property
    def returns(self) -> Floats:
        """Return the logarithmic returns [n - 1, a]."""
        return np.diff(np.log(self.closes), axis=0)

    def of(self, assets: Sequence[str]) -> Prices:
        """Return the closes of these assets, in this order and by these names.

        Of a feed such as BTC/USD they may be those of BTC. Raises BadInput for one that is not told.
        """
        names = [asset if asset in self.assets else asset.partition("/")[0] for asset in assets]
        missing = [name for name in names if name not in self.assets]
        if missing:
            raise BadInput(f"expected prices of {', '.join(missing)}, found {', '.join(self.assets)}")
        places = [self.assets.index(name) for name in names]
        return Prices(tuple(assets), self.times, self.closes[:, places])

    def until(self, time_s: int) -> Prices:
        """Return the closes up to a time; none where all are later."""
        kept = self.times <= time_s
        return Prices(self.assets, self.times[kept], self.closes[kept])

    def every(self, steps: int) -> Prices:
        """Return each so many-th close, the last among them. Raises BadInput where fewer than 2 are left."""
        taken = slice((len(self.times) - 1) % count("steps", steps), None, steps)
        if len(self.times[taken]) < 2:
            raise BadInput(
                f"expected closes over {span(steps * self.step_s)} at least, "
                f"found {span(self.times[-1] - self.times[0])}"
            )
        return Prices(self.assets, self.times[taken], self.closes[taken])


def read(lines: Iterable[str], columns: Mapping[str, str] | None = None) -> Prices:
    """Return the prices that the lines of a CSV tell.

    ``columns`` says by asset which column has its closes; without it every column but the first is an asset
    of its name, and all must be filled.

    Raises BadInput for columns that are not there or there twice, rows of another length, what is no time or
    no price, prices that are not finite or not above 0, times twice, out of order or with a gap between, and
    fewer than 2 rows. It names the line, the column and what was found.
    """
    rows = csv.reader(lines, strict=True)
    try:
        names = _names(next(rows, []))
        wanted = _wanted(names, columns)
        told = [_row(rows.line_num, cells, names, wanted) for cells in rows]
    except csv.Error as error:
        raise BadInput(f"line {rows.line_num}: {error}") from error
    if len(told) < 2:
        raise BadInput(f"expected 2 rows of prices at least, found {len(told)}")
    numbers, times, closes = zip(*told, strict=True)
    _check_steps(np.array(times, np.int64), numbers)
    return Prices(tuple(wanted), np.array(times, np.int64), np.array(closes, np.float64))


def span(seconds: float) -> str:
    """Say a time in days, hours, minutes and seconds."""
    left, parts = round(seconds), []
    for unit, size_s in UNITS_S.items():
        number, left = divmod(left, size_s)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts) or "0 s"


def seconds_of(said: str) -> int:
    """Return what a time such as 1d, 4h, 90min or 1h 30min is in seconds. Raises BadInput for another."""
    if not re.fullmatch(rf"(\s*\d{{1,{DIGITS}}}\s*(d|h|min|s))+\s*", said):
        raise BadInput(f"expected a time in d, h, min or s, such as 4h 30min, found {said!r}")
    return sum(int(number) * UNITS_S[unit] for number, unit in re.findall(r"(\d+)\s*(d|h|min|s)", said))


def _names(header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    if len(names) < 2:
        raise BadInput("line 1: expected a column of times and one of prices at least, found " + _list(names))
    twice = {name for name in names if names.count(name) > 1 or not name}
    if twice:
        raise BadInput(f"line 1: expected a name of its own for each column, found {_list(names)}")
    return names


def _wanted(names: list[str], columns: Mapping[str, str] | None) -> dict[str, int]:
    """Return in which place the closes of each asset are."""
    said = {name: name for name in names[1:]} if columns is None else columns
    missing = [column for column in said.values() if column not in names[1:]]
    if missing:
        raise BadInput(f"line 1: expected the columns {_list(missing)}, found {_list(names[1:])}")
    return {asset: names.index(column) for asset, column in said.items()}


def _row(
    line: int, cells: list[str], names: list[str], wanted: Mapping[str, int]
) -> tuple[int, int, list[float]]:
    """Return the number of the line, its time and its closes."""
    if len(cells) != len(names):
        raise BadInput(f"line {line}: expected {len(names)} cells, found {len(cells)}")
    time = _time(f"line {line}: {names[0]}", cells[0].strip())
    return line, time, [_close(f"line {line}: {names[at]}", cells[at].strip()) for at in wanted.values()]


def _time(place: str, said: str) -> int:
    """Return unix seconds."""
    expected = f"{place}: expected ISO 8601 or unix seconds, found {said!r}"
    if said.isdecimal():
        if not FIRST_S <= int(said) < LAST_S:
            raise BadInput(expected)
        return int(said)
    try:
        found = datetime.fromisoformat(said)
    except ValueError:
        raise BadInput(expected) from None
    exact = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    if not exact.is_integer():
        raise BadInput(f"{place}: expected whole seconds, found {said!r}")
    return int(exact)


def _close(place: str, said: str) -> float:
    try:
        found = float(said)
    except ValueError:
        raise BadInput(f"{place}: expected a price, found {said!r}") from None
    if not 0 < found < math.inf:
        raise BadInput(f"{place}: expected a price that is finite and above 0, found {said!r}")
    return found


def _check_steps(times: Times, lines: Sequence[int]) -> None:
    """Refuse times that are not in order, or not all as far apart as most are."""
    apart = np.diff(times)
    found, often = np.unique(apart, return_counts=True)
    step = int(found[often.argmax()])
    for wrong, why in (
        (apart < 0, "{time} is before the {before} of the row above: rows must be in order of time"),
        (apart == 0, "{time} is there twice"),
        (apart != step, "{time} is {apart} after the row above, and most rows are {step} apart: a gap"),
    ):
        if wrong.any():
            at = int(wrong.argmax())
            before, time = map(_iso, times[at : at + 2].tolist())
            said = why.format(time=time, before=before, apart=span(apart[at]), step=span(step))
            raise BadInput(f"line {lines[at + 1]}: time: {said}")


def _iso(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat()


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
