"""The command that says what a book may lose: how much, how surely, and through which assets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from keeper.cli.assets import free, means, resolved
from keeper.cli.books import BookFile, Deployed, Snapshot, Source, open_book
from keeper.cli.options import Json, Rehearsed, refuse_without
from keeper.cli.output import amount, empty_table, terminal
from keeper.cli.plots import AMBER, BLUE, GREEN, INK, MUTED, RED, Plot, drawing, shortened
from keeper.cli.price_files import (
    Columns,
    Decay,
    DegreesOfFreedom,
    decay_of,
    numbers_by_asset,
    of_file,
    read_prices,
)
from keeper.errors import BadInput, ConfigError
from keeper.risk import tail
from keeper.risk.at_risk import AtRisk, Method, Model, at_risk, cost_of_selling, time_to_sell_s
from keeper.risk.inputs import Floats
from keeper.risk.liquidity import DEPTH_LEFT, VOLATILITY
from keeper.risk.margin import Book
from keeper.risk.prices import Prices, seconds_of, span
from keeper.risk.tail import OutsideDomain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL = "all as one"
SHARE = 0.1
"""Of a market's volume, what one may be while closing."""
MOST_ASSETS = 5
"""With columns of their own, in a table or a picture."""
MOST_BARS = 12


Closes = Annotated[Path, typer.Option("--prices", help="Closes as CSV; docs/risk/tail.md says how.")]
How = Annotated[Method, typer.Option("--method", help="How to find the tail.")]
Level = Annotated[float, typer.Option(help="The part of outcomes that lose no more.")]
Liquidation = Annotated[
    str | None, typer.Option(help="How long closing takes, such as 4h; by --volume unless told.")
]
Oracle = Annotated[str | None, typer.Option(help="Until the oracle tells of a move, such as 1h.")]
Finality = Annotated[str | None, typer.Option(help="Until the chain is final, such as 19min.")]
Volume = Annotated[
    str | None, typer.Option(help="What trades a day in quote, BTC=2e9,ETH=1e9: adds what selling costs.")
]
Share = Annotated[
    float | None, typer.Option(help=f"Of the volume, what one may be while closing; {SHARE} unless told.")
]
Depth = Annotated[
    str | None,
    typer.Option(help=f"What is left of the volume: a part, or {', '.join(DEPTH_LEFT)}; all unless told."),
]
Volatility = Annotated[
    float | None, typer.Option(help=f"For what selling costs, annualised; {VOLATILITY} unless told.")
]
Paths = Annotated[int, typer.Option(help="How many are drawn, where any are.")]
Seed = Annotated[int, typer.Option(help="What they are drawn by.")]
Top = Annotated[int, typer.Option(min=1, help="How many accounts a table has, those that add most.")]


def see_var(
    book: BookFile = None,
    *,
    prices: Closes,
    config: Deployed = None,
    snapshot: Snapshot = False,
    dry_run: Rehearsed = False,
    columns: Columns = None,
    method: How = Method.FILTERED,
    level: Level = 0.99,
    liquidation: Liquidation = None,
    oracle: Oracle = None,
    finality: Finality = None,
    volume: Volume = None,
    share: Share = None,
    depth: Depth = None,
    volatility: Volatility = None,
    decay: Decay = None,
    dof: DegreesOfFreedom = None,
    paths: Paths = 100_000,
    seed: Seed = 0,
    top: Top = 20,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """Say what a book may lose at most at a level, and on average beyond: whose, and through which assets."""
    if volume is None:
        refuse_without("--volume", share=share, depth=depth, volatility=volatility)
    source = open_book(book, config, snapshot=snapshot, dry_run=dry_run, judged=False)
    held, still, told = held_of(source, prices, columns)
    times = times_of(liquidation=liquidation, oracle=oracle, finality=finality)
    selling = None if volume is None else selling_of(held, volume, share, volatility, depth)
    if selling is not None:
        times.setdefault("liquidation", selling.takes_s)
    model = Model(method, level, decay_of(told, decay), dof, steps_of(told, times), paths, seed)
    found = found_of(held, told, model, source)
    answer = Answer(source, held, still, told, model, times, found, selling)
    if as_json:
        typer.echo(json.dumps(answer.data | {"prices": str(prices)}, indent=2))
    else:
        answer.show(top)
    if plot is not None:
        answer.draw_into(plot)


def held_of(source: Source, path: Path, columns: str | None) -> tuple[Book, Sequence[str], Prices]:
    """Return what is held and moves, which assets that are held stay, and the closes of those that move.

    Raises BadInput as `moving`, and with the file where it lacks closes; else as `read_prices`.
    """
    told, positions = read_prices(path, columns), source.positions
    held = moving(positions, told)
    still = [name for name in positions.held if name not in held.spots]
    with of_file(path):
        return held, still, told.of(list(held.spots))


def found_of(book: Book, told: Prices, model: Model, source: Source) -> AtRisk:
    """Return what is at risk. Raises BadInput as `at_risk`, naming the account outside a method's domain."""
    try:
        return at_risk(book, told, model)
    except OutsideDomain as error:
        who = ALL if error.place is None else source.held.accounts[error.place]
        raise BadInput(f"{who}: {error}") from None


def selling_of(
    book: Book, volume: str, share: float | None, volatility: float | None, depth: str | None
) -> Selling:
    """Return what selling costs, and how long it takes.

    Raises ConfigError as `resolved` and `depth_of`, BadInput as `numbers_by_asset` and `cost_of_selling`.
    """
    volumes = resolved(numbers_by_asset("volume", volume), list(book.spots), "volume")
    takes_s = time_to_sell_s(book, volumes, share=SHARE if share is None else share)
    moves = VOLATILITY if volatility is None else volatility
    left = 1.0 if depth is None else depth_of(depth)
    return Selling(*cost_of_selling(book, volumes, volatility=moves, depth=left), takes_s)


def times_of(**said: str | None) -> dict[str, float]:
    """Return in seconds what is told of how long something takes. Raises BadInput as `seconds_of`."""
    return {name: float(seconds_of(time)) for name, time in said.items() if time is not None}


def steps_of(told: Prices, times: Mapping[str, float]) -> int:
    """Return over how many steps of the prices a loss is counted: what the slowest takes, one at least."""
    waits = {name: times.get(name, 0.0) for name in ("liquidation", "oracle", "finality")}
    return max(1, math.ceil(float(tail.horizon(**waits)) / told.step_s))


def moving(book: Book, told: Prices) -> Book:
    """Return what is held of a book and moves: not what is stable, unless prices of it are told.

    Raises BadInput where nothing is.
    """
    found = [each for each in book.held if free(each) or any(means(name, each) for name in told.assets)]
    if not found:
        raise BadInput(f"expected a book of what moves, found {', '.join(book.held) or 'nothing'} in it")
    return book.of_underlyings(found)


def depth_of(said: str) -> float:
    """Return the part of a volume that is left. Raises ConfigError for what is none."""
    try:
        return DEPTH_LEFT[said] if said in DEPTH_LEFT else float(said)
    except ValueError:
        raise ConfigError(f"depth: expected a number, or {', '.join(DEPTH_LEFT)}, found {said!r}") from None


@dataclass(frozen=True, slots=True)
class Selling:
    """What selling all costs, beside what is lost until then."""

    accounts: Floats
    """[n]"""
    whole: float
    takes_s: float
    """How long selling the whole takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked, and what was found."""

    source: Source
    book: Book
    """What is held of the source, and moves,"""
    still: Sequence[str]
    """and the assets that stay at their price."""
    prices: Prices
    model: Model
    times: Mapping[str, float]
    found: AtRisk
    selling: Selling | None

    @property
    def accounts(self) -> Sequence[str]:
        return self.source.held.accounts

    @property
    def horizon_s(self) -> int:
        return self.model.steps * self.prices.step_s

    @property
    def pricing(self) -> str:
        """Say how instruments are priced."""
        if not any(each.is_option for each in self.book.instruments):
            return "no options"
        if self.model.method is Method.PARAMETRIC:
            return "options by their delta"
        return "options in full, at the volatility of now and with the time gone"

    @property
    def heading(self) -> list[str]:
        """Say what was asked."""
        step, steps = span(self.prices.step_s), self.model.steps
        waits = [f"{name} {span(seconds)}" for name, seconds in self.times.items()]
        counted = f"{steps} steps of {step}" if steps > 1 else f"a step of {step}"
        still = f"; {', '.join(self.still)} stay" if self.still else ""
        coin = "; in coin" if self.book.in_coin else ""
        return [
            self.source.words,
            f"{self.title} ({', '.join([*waits, counted])}); {self.pricing}{still}{coin}",
        ]

    @property
    def title(self) -> str:
        """Say how the tail was found."""
        return f"{self.model.method.value} at {100 * self.model.level:g}% over {span(self.horizon_s)}"

    @property
    def data(self) -> dict[str, Any]:
        """Say all of it to a program."""
        model, found = self.model, self.found
        return dict(self.source.told) | {
            "method": model.method.value,
            "level": model.level,
            "decay": model.decay,
            "dof": model.dof,
            "horizon": {
                "seconds": self.horizon_s,
                "steps": model.steps,
                "step_s": self.prices.step_s,
                **{f"{name}_s": seconds for name, seconds in self.times.items()},
            },
            "pricing": self.pricing,
            "still": self.still,
            "settled_in": "coin" if self.book.in_coin else "quote",
            "accounts": {name: self._row(at) for at, name in enumerate(self.accounts)},
            "whole": self._row(None),
            "adds": dict(zip(self.accounts, found.whole_by_account.tolist(), strict=True)),
        }

    def _row(self, at: int | None) -> dict[str, Any]:
        """Say what is found of an account, or of all as one."""
        found = self.found
        risk = found.whole if at is None else found.accounts
        by_asset = found.whole_by_asset if at is None else found.by_asset[at]
        var, es, error = (
            float(each if at is None else each[at]) for each in (risk.var, risk.es, risk.standard_error)
        )
        row = {
            "var": var,
            "standard_error": error if math.isfinite(error) else None,
            "es": es,
            "assets": dict(zip(self.book.spots, by_asset.tolist(), strict=True)),
        }
        if self.selling is not None:
            cost = self.selling.whole if at is None else float(self.selling.accounts[at])
            row |= {"selling": cost, "es_and_selling": es + cost}
        return row

    @property
    def shown(self) -> list[str]:
        """The assets that add most, by themselves; the others are one."""
        sizes = np.abs(self.found.whole_by_asset) + np.abs(self.found.by_asset).sum(axis=0)
        order = np.argsort(-sizes, kind="stable")[:MOST_ASSETS].tolist()
        return [list(self.book.spots)[at] for at in sorted(order)]

    def by_shown(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Return what the shown assets add, and all others together."""
        parts = {name: row["assets"][name] for name in self.shown}
        if len(parts) < len(row["assets"]):
            parts["others"] = sum(row["assets"].values()) - sum(parts.values())
        return parts

    def rows(self, most: int) -> list[tuple[str, dict[str, Any], float]]:
        """Return the accounts that add most to all as one, that itself last, each with what it adds."""
        adds = self.found.whole_by_account
        order = np.argsort(-adds, kind="stable")[:most].tolist()
        whole = self._row(None)
        return [(self.accounts[at], self._row(at), float(adds[at])) for at in order] + [
            (ALL, whole, whole["es"])
        ]

    def show(self, most: int) -> None:
        """Print what a person reads."""
        for line in self.heading:
            terminal().print(line, highlight=False, markup=False)
        terminal().print(self.table(most), highlight=False)

    def table(self, most: int) -> Table:
        """Return what a person reads."""
        rows, say = self.rows(most), partial(amount, in_coin=self.book.in_coin)
        costs = ("selling", "with it") if self.selling is not None else ()
        parts = self.by_shown(rows[-1][1])
        table = empty_table("account", "VaR", "+-", "ES", *parts, *costs, "adds to all", words={"account"})
        for name, row, adds in rows:
            error = "unknown" if row["standard_error"] is None else say(row["standard_error"])
            costing = (row[key] for key in ("selling", "es_and_selling") if key in row)
            figures = [say(each) for each in (row["es"], *self.by_shown(row).values(), *costing, adds)]
            table.add_row(Text(name), say(row["var"]), error, *figures)
        return table

    def draw_into(self, path: Path) -> None:
        """Draw as many accounts as a picture has room for."""
        with drawing(path, height_in=1.4 + 0.4 * min(len(self.accounts) + 1, MOST_BARS)) as figure:
            self.draw(figure.subplots())

    def draw(self, axes: Axes) -> None:
        """Draw what each asset adds to the ES of each account, and its VaR with twice its error."""
        rows = self.rows(MOST_BARS - 1)[::-1]
        places = np.arange(len(rows))
        above, below = np.zeros(len(rows)), np.zeros(len(rows))
        colours = (BLUE, AMBER, GREEN, RED, MUTED, INK)
        for asset, colour in zip(self.by_shown(rows[0][1]), colours, strict=False):
            parts = np.array([self.by_shown(row)[asset] for _, row, _ in rows])
            start = np.where(parts >= 0, above, below)
            axes.barh(places, parts, left=start, height=0.6, color=colour, alpha=0.8, label=asset)
            above, below = above + np.maximum(parts, 0), below + np.minimum(parts, 0)
        var = [row["var"] for _, row, _ in rows]
        errors = [2 * (row["standard_error"] or 0.0) for _, row, _ in rows]
        axes.errorbar(
            var, places, xerr=errors, color=INK, fmt="D", markersize=4, capsize=3, linewidth=1, label="VaR"
        )
        axes.set_yticks(places, [shortened(name) for name, _, _ in rows])
        axes.grid(visible=False, axis="y")
        axes.use_sticky_edges = False
        axes.axvline(0, color=MUTED, linewidth=0.8)
        unit = "coin" if self.book.in_coin else "quote"
        axes.set_xlabel(f"expected shortfall by asset, and value at risk with two standard errors, in {unit}")
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.set_title(self.title, fontsize=11)
        axes.legend(fontsize=8, ncols=7, loc="lower left", bbox_to_anchor=(0.4, 1.0))
