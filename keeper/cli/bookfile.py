"""A book as a file says it: spots, instruments, what accounts hold of them, and what each has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from keeper.config.mistakes import mistakes
from keeper.domain import Kind
from keeper.errors import BadInput, ConfigError
from keeper.risk import scenarios
from keeper.risk.grids import Grid
from keeper.risk.holdings import Portfolios
from keeper.risk.margin import DAYS_A_YEAR, AddOns, Book, Instrument

MOST = 1e18
"""More units or quote is told in the smallest unit of a token; and squares of it stay finite."""
Number = Annotated[FiniteFloat, Field(ge=-MOST, le=MOST)]


class _Said(BaseModel):
    """A part of a book as its file says it; what it does not know is refused, and words are no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SaidInstrument(_Said):
    """One instrument; what a kind does not have stays away."""

    underlying: str
    kind: Literal["perp", "future", "call", "put"]
    strike: Number = 0.0
    vol: Number = 0.0
    days: Number = 0.0
    inverse: bool = False


class SaidBook(_Said):
    """A book; docs/risk/margin.md says what each key means."""

    spots: dict[str, Number]
    instruments: dict[str, SaidInstrument]
    accounts: Annotated[dict[str, dict[str, Number]], Field(min_length=1)]
    equity: dict[str, Number] = {}
    in_coin: bool = False
    add_ons: dict[str, Any] | None = None


def read_book(path: Path) -> SaidBook:
    """Read a book from its file.

    Raises ConfigError where it cannot be read, and where it does not say a book: which key, and why.
    """
    try:
        # What some editors save begins with a byte order mark.
        text = path.read_text("utf-8-sig")
        said = SaidBook.model_validate_json(text)
        json.loads(text, object_pairs_hook=_each_once)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected text in UTF-8") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {mistakes(error, SaidBook)[0]}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return said


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of a file. Raises ConfigError for a key that is there twice, of which one is lost."""
    found = dict[str, Any]()
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"{key!r} is there twice")
        found[key] = value
    return found


def to_book(said: SaidBook) -> Book:
    """Return the book that a file says. Raises ConfigError for what is not listed, BadInput as `Book.of`."""
    names = {name: place for place, name in enumerate(said.instruments)}
    positions = np.zeros((len(said.accounts), len(names)))
    for row, (account, legs) in enumerate(said.accounts.items()):
        for name, size in legs.items():
            if name not in names:
                raise ConfigError(f"{account} holds {name}, which is not among the instruments")
            positions[row, names[name]] = size
    instruments = [to_instrument(name, each) for name, each in said.instruments.items()]
    return Book.of(instruments, said.spots, positions, in_coin=said.in_coin)


def to_instrument(name: str, said: SaidInstrument) -> Instrument:
    """Return an instrument, which has what its kind asks for and nothing else; else raises ConfigError."""
    wanted = {"perp": set(), "future": {"days"}}.get(said.kind, {"strike", "vol", "days"})
    given = said.model_fields_set & {"strike", "vol", "days"}
    if given != wanted:
        asked = ", ".join(sorted(wanted)) or "neither strike, vol nor days"
        raise ConfigError(f"{name}: a {said.kind} has {asked}, found {', '.join(sorted(given)) or 'none'}")
    kind = Kind.PERP if said.kind in {"perp", "future"} else Kind(said.kind)
    years = said.days / DAYS_A_YEAR
    return Instrument(name, said.underlying, kind, said.strike, said.vol, years, said.inverse)


def to_add_ons(said: SaidBook) -> AddOns | None:
    """Return the charges beside the scenarios. Raises ConfigError for one that there is not."""
    if said.add_ons is None:
        return None
    unknown = set(said.add_ons) - set(AddOns.__slots__)
    if unknown:
        raise ConfigError(f"unknown add-on {min(unknown)}; there are {', '.join(AddOns.__slots__)}")
    try:
        return AddOns(**said.add_ons)
    except (TypeError, AttributeError):
        raise ConfigError(
            f"add-ons must be numbers, and volume_day by underlying, found {said.add_ons}"
        ) from None


def read_portfolios(path: Path, grid: str, *, judged: bool = True) -> Portfolios:
    """Return the accounts of a book in a file; raises as `read_book` and `to_portfolios`, the file named."""
    said, scenario = read_book(path), scenarios.grid(grid)
    try:
        return to_portfolios(said, scenario, judged=judged)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def to_portfolios(said: SaidBook, grid: Grid, *, judged: bool = True) -> Portfolios:
    """Return the accounts of a book with what each has, margined by a grid.

    ``judged`` asks for the equity of each; else who says none has none. Raises ConfigError where it is not
    said of an account, or said of one that there is not, and as `to_book` and `to_add_ons`.
    """
    accounts = list(said.accounts)
    if strangers := set(said.equity) - set(accounts):
        raise ConfigError(f"equity: {min(strangers)} is not among the accounts")
    if judged and (missing := [each for each in accounts if each not in said.equity]):
        raise ConfigError(f"nobody knows who is in breach without the equity of {', '.join(missing)}")
    equity = np.array([said.equity.get(each, 0.0) for each in accounts])
    return Portfolios(accounts, to_book(said), equity, grid, to_add_ons(said))
