"""``keeper risk margin``: what accounts require by the scenarios of a venue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from keeper.cli.books import BookFile, Deployed, Snapshot, open_book
from keeper.cli.options import Json, Rehearsed
from keeper.cli.output import amount, empty_table, terminal
from keeper.cli.plots import AMBER, BLUE, GRID, RED, Plot, drawing, shortened
from keeper.risk import scenarios
from keeper.risk.holdings import Portfolios
from keeper.risk.margin import Scan, scan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS = 12


def see_margin(
    book: BookFile = None,
    *,
    config: Deployed = None,
    snapshot: Snapshot = False,
    dry_run: Rehearsed = False,
    grid: Annotated[str, typer.Option(help="The scenarios: paradex24, deribit and others.")] = "span16",
    top: Annotated[
        int | None, typer.Option(min=1, help="Only so many accounts, those that require most.")
    ] = None,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """Show what each account of a book requires: net against gross, the worst scenarios, each leg's part."""
    source = open_book(book, config, snapshot=snapshot, dry_run=dry_run, grid=grid, judged=False)
    held, positions = source.held, source.margined
    add_ons = held.add_ons if isinstance(held, Portfolios) else None
    found = scan(positions, scenarios.grid(grid), add_ons=add_ons)
    names, accounts = list(held.accounts), as_data(found, list(held.accounts))
    if top is not None:
        most = np.argsort(-found.initial, kind="stable")[:top].tolist()
        accounts = {names[row]: accounts[names[row]] for row in most}
    settled_in = "coin" if positions.in_coin else "quote"
    if plot is not None:
        with drawing(plot, height_in=1.4 + 0.45 * min(len(accounts), MOST_BARS)) as figure:
            draw(figure.subplots(), accounts, f"by {grid}, in {settled_in}")
    if as_json:
        told = {**source.told, "grid": grid, "settled_in": settled_in, "accounts": accounts}
        typer.echo(json.dumps(told, indent=2))
        return
    for name, data in accounts.items():
        for part in tables_of(name, data, in_coin=positions.in_coin):
            terminal().print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))


def as_data(found: Scan, accounts: list[str]) -> dict[str, Any]:
    """Say of every account what it requires, and of each underlying that it holds which scenario is worst."""
    totals = {name: getattr(found, name) for name in ("net", "gross", "initial", "maintenance")}
    told: dict[str, Any] = {
        account: {name: float(values[row]) for name, values in totals.items()}
        | {"add_ons": {name: float(values[row]) for name, values in found.charges.items()}}
        | {"underlyings": {}}
        for row, account in enumerate(accounts)
    }
    legs, underlyings, costs = found.book.legs, list(found.book.spots), found.costs
    parts = list(zip(legs.indices, legs.data, found.alone, found.contributions, strict=True))
    for row, (begin, end) in enumerate(zip(legs.indptr, legs.indptr[1:], strict=False)):
        of_account = told[accounts[found.book.account[row]]]["underlyings"]
        of_account[underlyings[found.book.group[row]]] = {
            "loss": float(found.loss[row]),
            "least": float(found.floor[row]),
            "worst": found.grid.label(int(found.worst[row])) if costs[row] else None,
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


def tables_of(account: str, data: dict[str, Any], *, in_coin: bool) -> Iterator[Table | str]:
    """Yield what a person reads of one account: its sums, and a table for each underlying."""
    say = partial(amount, in_coin=in_coin)
    yield (
        f"{account}: initial margin {say(data['initial'])}, maintenance {say(data['maintenance'])}; "
        f"worst loss net {say(data['net'])} against {say(data['gross'])} leg by leg, "
        f"hedges take {say(data['gross'] - data['net'])}"
    )
    if data["add_ons"]:
        yield "  add-ons: " + ", ".join(f"{name} {say(value)}" for name, value in data["add_ons"].items())
    for underlying, part in data["underlyings"].items():
        worst = part["worst"] or "no scenario costs anything"
        yield f"  {underlying}: {worst}"
        table = empty_table("leg", "size", "alone", "adds", words={"leg"})
        for name, leg in part["legs"].items():
            table.add_row(name, f"{leg['size']:,g}", say(leg["alone"]), say(leg["adds"]))
        yield table


def draw(axes: Axes, accounts: Mapping[str, dict[str, Any]], title: str) -> None:
    """Draw of those accounts that require most what hedges leave of the loss leg by leg, and the margins."""
    shown = sorted(accounts, key=lambda name: -accounts[name]["initial"])[:MOST_BARS]
    places = np.arange(len(shown))
    for name, said, colour, height in (
        ("gross", "worst loss leg by leg", GRID, 0.7),
        ("net", "with hedges", BLUE, 0.4),
    ):
        axes.barh(places, [accounts[each][name] for each in shown], height, color=colour, label=said)
    for name, colour in (("initial", RED), ("maintenance", AMBER)):
        found = [accounts[each][name] for each in shown]
        axes.plot(found, places, linestyle="none", marker="D", color=colour, label=f"{name} margin")
    axes.set_yticks(places, list(map(shortened, shown)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.use_sticky_edges = False
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.set_xlabel(title)
    axes.legend(fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0.0, 1.0))
