"""The commands that ask the risk engine about a book in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError
from rich.table import Table

from keeper.cli.options import Json
from keeper.cli.output import terminal
from keeper.domain import Kind
from keeper.errors import ConfigError
from keeper.risk import scenarios
from keeper.risk.margin import DAYS_A_YEAR, AddOns, Book, Instrument, Scan, scan

ROUNDING = 1e-12
"""Of a book's gross loss: what a perfect hedge may leave."""


class _Said(BaseModel):
    """A part of a book as its file says it; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SaidInstrument(_Said):
    """One instrument; what a kind does not have stays away."""

    underlying: str
    kind: Literal["perp", "future", "call", "put"]
    strike: FiniteFloat = 0.0
    vol: FiniteFloat = 0.0
    days: FiniteFloat = 0.0
    inverse: bool = False


class SaidBook(_Said):
    """A book; docs/risk/margin.md says what each key means."""

    spots: dict[str, FiniteFloat]
    instruments: dict[str, SaidInstrument]
    accounts: dict[str, dict[str, FiniteFloat]]
    in_coin: bool = False
    add_ons: dict[str, Any] | None = None


def see_margin(
    book: Annotated[Path, typer.Argument(help="A book as JSON; docs/risk/margin.md says how.")],
    *,
    grid: Annotated[str, typer.Option(help="The scenarios: paradex24, deribit and others.")] = "span16",
    as_json: Json = False,
) -> None:
    """Show what each account of a book requires: net against gross, the worst scenarios, each leg's part."""
    said = read_book(book)
    found = scan(to_book(said), scenarios.grid(grid), add_ons=to_add_ons(said))
    accounts = list(said.accounts)
    if as_json:
        told = {"grid": grid, "settled_in": "coin" if said.in_coin else "quote"}
        typer.echo(json.dumps(told | {"accounts": as_data(found, accounts)}, indent=2))
        return
    for name, data in as_data(found, accounts).items():
        for part in tables_of(name, data):
            terminal().print(part, highlight=False, markup=False)


def read_book(path: Path) -> SaidBook:
    """Read a book from its file.

    Raises ConfigError where it cannot be read, and where it does not say a book: which key, and why.
    """
    try:
        return SaidBook.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from None


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


def as_data(found: Scan, accounts: list[str]) -> dict[str, Any]:
    """Say of every account what it requires, and of each underlying that it holds which scenario is worst."""
    totals = {name: getattr(found, name) for name in ("net", "gross", "initial", "maintenance")}
    told: dict[str, Any] = {
        account: {name: float(values[row]) for name, values in totals.items()}
        | {"add_ons": {name: float(values[row]) for name, values in found.charges.items()}}
        | {"underlyings": {}}
        for row, account in enumerate(accounts)
    }
    legs, underlyings = found.book.legs, list(found.book.spots)
    parts = list(zip(legs.indices, legs.data, found.alone, found.contributions, strict=True))
    for row, (begin, end) in enumerate(zip(legs.indptr, legs.indptr[1:], strict=False)):
        of_account = told[accounts[found.book.account[row]]]["underlyings"]
        of_account[underlyings[found.book.group[row]]] = {
            "loss": float(found.loss[row]),
            "least": float(found.floor[row]),
            "worst": worst_of(found, row, sum(float(alone) for _, _, alone, _ in parts[begin:end])),
            "legs": {
                found.book.instruments[column].name: {
                    "size": float(size),
                    "alone": float(alone),
                    "adds": float(adds),
                }
                for column, size, alone, adds in parts[begin:end]
            },
        }
    return told


def worst_of(found: Scan, row: int, gross: float) -> str | None:
    """Name the worst scenario; None where what it costs is a rounding of what the legs cost apart."""
    return found.grid.label(int(found.worst[row])) if found.loss[row] > ROUNDING * gross else None


def tables_of(account: str, data: dict[str, Any]) -> Iterator[Table | str]:
    """Yield what a person reads of one account: its sums, and a table for each underlying."""
    saved = data["gross"] - data["net"]
    yield (
        f"{account}: initial margin {data['initial']:,.2f}, maintenance {data['maintenance']:,.2f}; "
        f"worst loss net {data['net']:,.2f} against {data['gross']:,.2f} leg by leg, hedges take {saved:,.2f}"
    )
    if data["add_ons"]:
        yield "  add-ons: " + ", ".join(f"{name} {value:,.2f}" for name, value in data["add_ons"].items())
    for underlying, part in data["underlyings"].items():
        worst = part["worst"] or "no scenario costs anything"
        yield f"  {underlying}: {worst}"
        table = Table("leg", "size", "alone", "adds", box=None)
        for name, leg in part["legs"].items():
            table.add_row(name, f"{leg['size']:,g}", f"{leg['alone']:,.2f}", f"{leg['adds']:,.2f}")
        yield table
