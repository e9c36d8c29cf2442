"""``keeper risk stress``: what crashes, other moves, and the likeliest that breaks a fund make of a book."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from keeper.cli.assets import free, means, resolved, short
from keeper.cli.books import BookFile, Deployed, GridName, Snapshot, open_book
from keeper.cli.options import Json, Rehearsed, refuse_without
from keeper.cli.output import empty_table, rounded, terminal
from keeper.cli.plots import BLUE, MUTED, RED, Plot, drawing
from keeper.cli.price_files import Columns, by_asset, numbers_by_asset, of_file, read_prices
from keeper.errors import BadInput, ConfigError
from keeper.risk import breaking
from keeper.risk.holdings import Held, Standings
from keeper.risk.inputs import Floats, within
from keeper.risk.prices import Prices, seconds_of, span
from keeper.risk.stress import CRASHES, HIGHEST, HORIZONS_H, crashes, hypothetical

WORST = 5
"""Accounts that are named in each scenario, for programs; a person reads of the first."""
FEWEST = 30
"""Returns from which nothing is said of how likely a shock is."""
MOST = 1_000
"""Scenarios of one grid."""
HOURS, HORIZON = 24, "1d"
"""Of a crash, and of the likeliest shock, unless told."""

Crash = Annotated[
    list[str] | None, typer.Option("--crash", help="A crash by a part of its name, such as luna; or all.")
]
Hours = Annotated[
    int | None,
    typer.Option("--hours", help=f"Its worst moves within 1, 4, 24 or 72 hours; {HOURS} unless told."),
]
Move = Annotated[
    list[str] | None, typer.Option("--move", help="Moves as fractions, BTC=-0.2,ETH=-0.3; again for another.")
]
Moves = Annotated[
    str | None, typer.Option("--grid", help="Every combination, such as BTC=-0.3/-0.1/0.1,ETH=-0.4/0.")
]
Reverse = Annotated[bool, typer.Option("--reverse", help="Find the likeliest shock that breaks the fund.")]
Closes = Annotated[
    Path | None, typer.Option("--prices", help="With --reverse, closes as CSV: docs/risk/tail.md says how.")
]
Fund = Annotated[
    float | None,
    typer.Option(help="What insurance holds, in quote; else what HybridMargin's says on chain."),
]
Horizon = Annotated[
    str | None,
    typer.Option(
        help=f"With --reverse, over how long the shock is meant, such as 4h; {HORIZON} unless told."
    ),
]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Moves of a book's assets as fractions, 0 of those that are left out."""

    name: str
    moves: Mapping[str, float]

    @property
    def words(self) -> str:
        """Say what moves."""
        return words_of(self.moves)


def words_of(moves: Mapping[str, float]) -> str:
    """Say moves in short."""
    told = (f"{short(asset)} {100 * move:+.4g}%" for asset, move in moves.items() if move)
    return ", ".join(told) or "nothing moves"


def see_stress(
    book: BookFile = None,
    *,
    config: Deployed = None,
    snapshot: Snapshot = False,
    dry_run: Rehearsed = False,
    crash: Crash = None,
    hours: Hours = None,
    move: Move = None,
    grid: Moves = None,
    reverse: Reverse = False,
    prices: Closes = None,
    columns: Columns = None,
    fund: Fund = None,
    horizon: Horizon = None,
    margin: GridName = "span16",
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Show equity, accounts in breach and bad debt after crashes and other moves; all crashes by default."""
    if reverse != (prices is not None):
        raise ConfigError("--reverse and --prices go together: how likely a shock is prices tell")
    if not reverse:
        refuse_without("--reverse", fund=fund, horizon=horizon, columns=columns)
    source = open_book(book, config, snapshot=snapshot, dry_run=dry_run, grid=margin)
    held = source.held
    if not (crash or move or grid or reverse):
        crash = ["all"]
    if not crash:
        refuse_without("--crash", hours=hours)
    scenarios = [
        *of_crashes(crash or [], HOURS if hours is None else hours, held.assets),
        *of_moves(move or [], held.assets),
        *of_grid(grid, held.assets),
    ]
    before = held.standing(np.zeros(len(held.assets)))
    told: dict[str, Any] = {**source.told, "now": as_data(held, before), "scenarios": []}
    told["scenarios"] = [outcome(held, each, before) for each in scenarios]
    if prices is not None:
        holds = to_fund(fund, source.fund)
        over_s = seconds_of(HORIZON if horizon is None else horizon)
        closes = read_prices(prices, columns)
        with of_file(prices):
            closes = closes_of(held.assets, closes, over_s)
        told["reverse"] = likeliest(held, closes, holds, over_s)
    if plot is not None:
        draw(plot, told)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    for part in parts_of(source.words, told):
        terminal().print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))


# --- scenarios -----------------------------------------------------------------------------------


def of_crashes(names: Sequence[str], hours: int, assets: Sequence[str]) -> Iterator[Scenario]:
    """Yield the crashes that are named, by what each tells of the book's assets.

    Raises ConfigError for a name that none of them has, and where none tells of any asset of the book.
    """
    if hours not in HORIZONS_H:
        raise BadInput(f"--hours must be one of {', '.join(map(str, HORIZONS_H))}, found {hours}")
    told = crashes(hours)
    for name in names:
        if name != "all" and not (name and any(name in each for each in told)):
            raise ConfigError(f"no crash is called {name!r}; there are {', '.join(told)}")
    wanted = {
        each: told[each] for each in told if any(name in ("all", each) or name in each for name in names)
    }
    found = [Scenario(name, of_book(moves, assets)) for name, moves in wanted.items()]
    if found and not any(each.moves for each in found):
        known = ", ".join(dict.fromkeys(crash.asset for crash in CRASHES))
        raise ConfigError(f"crashes tell of {known}, and the book has {', '.join(assets)}")
    yield from (each for each in found if each.moves)


def of_book(moves: Mapping[str, float], assets: Sequence[str]) -> Mapping[str, float]:
    """Return the moves by the book's names; a wrapped asset moves as what is wrapped."""
    names = {asset: short(asset) for asset in assets if free(asset)}
    names = {asset: name if name in moves else name.removeprefix("W") for asset, name in names.items()}
    return {asset: moves[name] for asset, name in names.items() if name in moves}


def of_moves(said: Sequence[str], assets: Sequence[str]) -> Iterator[Scenario]:
    """Yield the moves that are named."""
    for each in said:
        moves = resolved(numbers_by_asset("--move", each), assets, "--move")
        for asset, move in moves.items():
            within(f"--move {asset}", move, -1.0, HIGHEST)
        yield Scenario("move", moves)


def of_grid(said: str | None, assets: Sequence[str]) -> Iterator[Scenario]:
    """Yield every combination of the moves that are named of each asset."""
    if said is None:
        return
    named = resolved(by_asset("--grid", said), assets, "--grid")
    axes = {asset: within(f"--grid {asset}", _numbers(each), -1.0, HIGHEST) for asset, each in named.items()}
    if (found := math.prod(map(len, axes.values()))) > MOST:
        raise ConfigError(f"--grid: expected at most {MOST} combinations, found {found}")
    for row in hypothetical(*axes.values()).tolist():
        yield Scenario("grid", dict(zip(axes, row, strict=True)))


def _numbers(said: str) -> list[float]:
    try:
        return [float(each) for each in said.split("/")]
    except ValueError:
        raise BadInput(f"--grid: expected numbers such as -0.3/-0.1/0, found {said!r}") from None


# --- what becomes of the book --------------------------------------------------------------------


def outcome(held: Held, scenario: Scenario, before: Standings) -> dict[str, Any]:
    """Say what a scenario makes of a book."""
    there = held.standing(np.array([-scenario.moves.get(asset, 0.0) for asset in held.assets]))
    lost = {"change": float(there.net.sum() - before.net.sum())}
    return {"name": scenario.name, "moves": dict(scenario.moves), **as_data(held, there), **lost}


def as_data(held: Held, at: Standings) -> dict[str, Any]:
    """Say how a book stands, and who is short of most."""
    lacking = np.where(at.breached, at.requirement - at.equity, 0.0)
    order = np.argsort(-lacking, kind="stable")[:WORST].tolist()
    names = held.accounts
    return {
        "equity": float(at.net.sum()),
        "accounts": len(at.net),
        "breached": int(at.breached.sum()),
        "bad_debt": float(at.bad_debt.sum()),
        "worst": [
            {"account": names[row], "lacks": float(lacking[row]), "net": float(at.net[row])}
            for row in order
            if lacking[row] > 0
        ],
    }


def to_fund(said: float | None, on_chain: float | None) -> float:
    """Return what a fund holds. Raises ConfigError where nobody says that, and where it is nothing."""
    found = on_chain if said is None else said
    if found is None:
        raise ConfigError("--reverse needs --fund: what the insurance of this book holds nobody says")
    if not found > 0:
        raise ConfigError(f"--fund: expected more than 0, found {found:g}: any bad debt breaks such a fund")
    return found


def closes_of(assets: Sequence[str], prices: Prices, horizon_s: int) -> Prices:
    """Return the closes of those assets of a book that have any, by the book's names.

    Raises BadInput where none has, and for too few closes to tell of a horizon.
    """
    told = {asset: name for name in prices.assets for asset in assets if means(name, asset)}
    if not told:
        raise BadInput(
            f"expected prices of {', '.join(map(short, assets))}, found {', '.join(prices.assets)}"
        )
    if (found := len(prices.returns)) < FEWEST:
        raise BadInput(f"expected {FEWEST} returns at least, found {found}: too thin to tell")
    if not 0 < horizon_s <= found * prices.step_s:
        most = span(found * prices.step_s)
        raise BadInput(f"expected a horizon within the {most} of the prices, found {span(horizon_s)}")
    return replace(prices.of(list(told.values())), assets=tuple(told))


def likeliest(held: Held, prices: Prices, fund: float, horizon_s: int) -> dict[str, Any]:
    """Say which shock that leaves as much bad debt as a fund holds is the likeliest.

    Assets without prices stay where they are. Raises BadInput as `breaking.nearest`.
    """
    places, returns = [list(held.assets).index(each) for each in prices.assets], prices.returns

    def there(moves: Floats) -> Standings:
        falls = np.zeros(len(held.assets))
        falls[places] = -moves
        return held.standing(falls)

    covariance = returns.T @ returns / len(returns) * (horizon_s / prices.step_s)
    found = breaking.nearest(lambda logs: float(there(np.expm1(logs)).bad_debt.sum()), covariance, fund)
    still = [each for each in held.assets if each not in prices.assets]
    said = {"fund": fund, "horizon": span(horizon_s), "still": still}
    if found is None:
        return {**said, "moves": None, "distance": None, "probability": None}
    moves = dict(zip(prices.assets, found.shock.tolist(), strict=True))
    how = {"moves": moves, "distance": found.distance, "probability": found.probability}
    return {**said, **how, **as_data(held, there(found.shock))}


# --- for people ----------------------------------------------------------------------------------


def parts_of(words: str, told: Mapping[str, Any]) -> Iterator[Table | str]:
    """Yield what a person reads."""
    now = told["now"]
    yield words
    yield (
        f"now: {now['accounts']:,} accounts, equity {rounded(now['equity'])}, "
        f"{now['breached']:,} in breach, bad debt {rounded(now['bad_debt'])}"
    )
    if told["scenarios"]:
        yield table_of(told["scenarios"])
    if "reverse" in told:
        yield words_of_reverse(told["reverse"])


def table_of(scenarios: Iterable[Mapping[str, Any]]) -> Table:
    """Return a row a scenario."""
    head = ("scenario", "moves", "equity", "change", "in breach", "bad debt", "lacks most")
    table = empty_table(*head, words={"scenario", "moves", "lacks most"})
    for each in scenarios:
        worst = each["worst"][0] if each["worst"] else None
        table.add_row(
            each["name"],
            words_of(each["moves"]),
            rounded(each["equity"]),
            rounded(each["change"], signed=True),
            f"{each['breached']:,}",
            rounded(each["bad_debt"]),
            f"{worst['account']}: {rounded(worst['lacks'])}" if worst else "-",
        )
    return table


def words_of_reverse(said: Mapping[str, Any]) -> str:
    """Say which shock breaks the fund."""
    still = f"; no prices of {', '.join(said['still'])}, which stay" if said["still"] else ""
    if said["moves"] is None:
        most = f"{breaking.FARTHEST:g} standard deviations of {said['horizon']}"
        return f"no shock within {most} leaves a bad debt of {rounded(said['fund'])}{still}"
    return (
        f"likeliest shock that leaves a bad debt of {rounded(said['fund'])}: {words_of(said['moves'])}, "
        f"{said['distance']:.2f} standard deviations of {said['horizon']} "
        f"({said['probability']:.2g} were moves normal; they are not, and it is likelier){still}"
    )


def draw(path: Path, told: Mapping[str, Any]) -> None:
    """Draw what each scenario takes, and the bad debt that it leaves."""
    rows = told["scenarios"]
    if not rows:
        raise ConfigError("--plot draws scenarios, and none was asked for")
    places = np.arange(len(rows))
    with drawing(path, height_in=1.6 + 0.38 * len(rows)) as figure:
        axes = figure.subplots()
        axes.barh(places - 0.2, [each["change"] for each in rows], 0.4, color=BLUE, label="change of equity")
        axes.barh(places + 0.2, [-each["bad_debt"] for each in rows], 0.4, color=RED, label="bad debt")
        axes.set_yticks(places, [_label(each) for each in rows])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_xlabel("quote")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_title("Equity lost and bad debt left (accounts in breach)")
        axes.legend(loc="best")


def _label(row: Mapping[str, Any]) -> str:
    name = row["name"] if row["name"] not in {"move", "grid"} else words_of(row["moves"])
    return f"{name} ({row['breached']:,})"
