"""``keeper risk flow``: what each level of prices would have liquidated, and where that ends once sold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from keeper.cli.assets import free, resolved, short
from keeper.cli.books import BookFile, Deployed, GridName, Snapshot, open_book
from keeper.cli.options import Json, Rehearsed, refuse_without
from keeper.cli.output import empty_table, rounded, terminal
from keeper.cli.plots import AMBER, BLUE, GREEN, MUTED, RED, Plot, drawing
from keeper.cli.price_files import numbers_by_asset
from keeper.errors import BadInput, ConfigError
from keeper.risk.holdings import Held
from keeper.risk.inputs import Floats, within
from keeper.risk.liquidity import DAYS_A_YEAR, VOLATILITY, pool_move, sqrt_impact
from keeper.risk.stress import (
    HIGHEST,
    Cascade,
    Closing,
    cascade,
    cliff,
    closed,
    share_to_close,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = "0.02/0.05/0.1/0.15/0.2/0.3/0.4/0.5"
CLOSINGS: Mapping[str, Closing] = {"slope": share_to_close, "cliff": cliff}
"""How much of an account in breach goes: what ends the breach, or all of it."""
FEE = 0.003
"""Of a pool of Uniswap v2."""
Impact = Callable[[Floats], Floats]

Levels = Annotated[str, typer.Option(help="How far prices fall, as fractions; below 0 where they rise.")]
Falling = Annotated[
    str | None,
    typer.Option(help="Which assets fall, such as BTC,ETH; by default all but stable ones and ratios."),
]
Volume = Annotated[
    str | None,
    typer.Option(help="What markets trade a day in quote, BTC=2e9,ETH=1e9: by the square-root law."),
]
Volatility = Annotated[
    str | None, typer.Option(help=f"With --volume, annualised, BTC=0.5,ETH=0.7; {VOLATILITY} unless named.")
]
Reserve = Annotated[
    str | None, typer.Option(help="Or what pools of a constant product hold in quote, ETH=5e6.")
]
Fee = Annotated[float | None, typer.Option(help=f"With --reserve, what these pools keep; {FEE} unless told.")]


def see_flow(
    book: BookFile = None,
    *,
    config: Deployed = None,
    snapshot: Snapshot = False,
    dry_run: Rehearsed = False,
    levels: Levels = LEVELS,
    falling: Falling = None,
    volume: Volume = None,
    volatility: Volatility = None,
    reserve: Reserve = None,
    fee: Fee = None,
    margin: GridName = "span16",
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Show what would be liquidated at lower prices; with depths, where each fall ends once that is sold."""
    if reserve is None:
        refuse_without("--reserve", fee=fee)
    source = open_book(book, config, snapshot=snapshot, dry_run=dry_run, grid=margin)
    held = source.held
    falls = to_levels(levels)
    moving = to_falling(falling, held.assets)
    impact = to_impact(held.assets, volume, volatility, reserve, FEE if fee is None else fee)
    told: dict[str, Any] = {
        **source.told,
        "falling": [asset for asset, moves in zip(held.assets, moving, strict=True) if moves],
        "levels": flows_of(held, falls, moving),
    }
    if impact is not None:
        told["cascades"] = [
            each for fall in falls if fall >= 0 for each in cascades_of(held, fall * moving, impact)
        ]
    if plot is not None:
        draw(plot, told)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    for part in parts_of(source.words, told):
        terminal().print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))


# --- what is asked -------------------------------------------------------------------------------


def to_levels(said: str) -> list[float]:
    """Return the levels, each once and rising."""
    try:
        found = [float(each) for each in said.split("/")]
    except ValueError:
        raise BadInput(f"--levels: expected fractions such as 0.05/0.1/0.2, found {said!r}") from None
    return sorted({float(each) for each in within("--levels", found, -HIGHEST, 1.0)})


def to_falling(said: str | None, assets: Sequence[str]) -> Floats:
    """Return 1 of each asset that falls, 0 of the others. Raises ConfigError where nothing would."""
    if said is not None:
        wanted: Mapping[str, Any] = resolved(
            dict.fromkeys(each.strip() for each in said.split(",")), assets, "--falling"
        )
    else:
        wanted = dict.fromkeys(asset for asset in assets if free(asset))
    if not wanted:
        raise ConfigError(f"--falling: of {', '.join(assets)} none falls by itself; name those that shall")
    return np.array([float(asset in wanted) for asset in assets])


def to_impact(
    assets: Sequence[str], volume: str | None, volatility: str | None, reserve: str | None, fee: float
) -> Impact | None:
    """Return how far selling lowers each price; None where nothing is said of any market.

    A market that nothing is said of takes everything. Raises ConfigError for one of which too much is said.
    """
    volumes, volatilities, reserves = (
        {} if said is None else resolved(numbers_by_asset(name, said), assets, name)
        for name, said in (("--volume", volume), ("--volatility", volatility), ("--reserve", reserve))
    )
    if both := volumes.keys() & reserves.keys():
        raise ConfigError(f"{min(both)}: its market is given by --volume or by --reserve, not by both")
    if bare := volatilities.keys() - volumes.keys():
        raise ConfigError(f"{min(bare)}: --volatility without --volume says nothing of its market")
    if not volumes and not reserves:
        return None

    moves = [_impact_of(asset, volumes, volatilities, reserves, fee) for asset in assets]

    def impact(sold: Floats) -> Floats:
        return np.array([move(each) for move, each in zip(moves, sold.tolist(), strict=True)])

    impact(np.zeros(len(assets)))
    return impact


def _impact_of(
    asset: str,
    volumes: Mapping[str, float],
    volatilities: Mapping[str, float],
    reserves: Mapping[str, float],
    fee: float,
) -> Callable[[float], float]:
    """Return how far selling so much quote of one asset lowers its price."""
    if asset in volumes:
        day = volatilities.get(asset, VOLATILITY) / DAYS_A_YEAR**0.5
        return lambda sold: min(1.0, float(sqrt_impact(sold, volume_day=volumes[asset], volatility_day=day)))
    if asset in reserves:
        return lambda sold: float(pool_move(sold, reserve=reserves[asset], fee=fee))
    return lambda _: 0.0


# --- what is found -------------------------------------------------------------------------------


def flows_of(held: Held, falls: Sequence[float], moving: Floats) -> list[dict[str, Any]]:
    """Say of every level who is in breach there, and what would be sold in quote at its prices."""
    return [_flow_of(held, fall, fall * moving) for fall in falls]


def _flow_of(held: Held, fall: float, level: Floats) -> dict[str, Any]:
    """Say of one level what `flow` and `bought_back` do of all: accounts are judged there only once."""
    there, left = held.standing(level), 1 - level
    parts = {name: closed(there, closing) for name, closing in CLOSINGS.items()}
    return {
        "fall": fall,
        "breached": int(there.breached.sum()),
        "bad_debt": float(there.bad_debt.sum()),
        **{name: _by_asset(held, part @ there.sold * left) for name, part in parts.items()},
        "bought_back": _by_asset(held, parts["slope"] @ there.bought * left),
    }


def cascades_of(held: Held, shock: Floats, impact: Impact) -> Iterator[dict[str, Any]]:
    """Yield where a fall ends, by each way of closing."""
    for name, closing in CLOSINGS.items():
        found = cascade(held, shock, impact, closing=closing)
        yield {
            "shock": _by_asset(held, shock),
            "closing": name,
            "falls": _by_asset(held, found.falls),
            "sold": _by_asset(held, found.sold),
            "bad_debt": found.bad_debt,
            "rounds": found.rounds,
            "amplification": _largest(found),
        }


def _by_asset(held: Held, values: Floats) -> dict[str, float]:
    return {asset: float(value) for asset, value in zip(held.assets, values, strict=True) if value}


def _largest(found: Cascade) -> float | None:
    """Return how many times its shock the most amplified price fell; None where no price was shocked."""
    known = found.amplification[np.isfinite(found.amplification)]
    return float(known.max()) if len(known) else None


# --- for people ----------------------------------------------------------------------------------


def parts_of(words: str, told: Mapping[str, Any]) -> Iterator[Table | str]:
    """Yield what a person reads."""
    yield words
    falling = told["falling"]
    move = "move together" if len(falling) > 1 else "moves"
    yield f"{', '.join(falling)} {move}; what is closed, in quote at the moved prices:"
    yield flow_table(told["levels"])
    if "cascades" in told:
        yield "where that ends, once selling it has moved prices; sold, in quote at the prices now:"
        yield cascade_table(told["cascades"])


def flow_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row a level."""
    assets = list(dict.fromkeys(asset for each in levels for asset in (*each["slope"], *each["cliff"])))
    sums = ("slope: all", "cliff: all", "bought back", "bad debt")
    table = empty_table("fall", "in breach", *map(short, assets), *sums, words=())
    for each in levels:
        table.add_row(
            f"{100 * each['fall']:.4g}%",
            f"{each['breached']:,}",
            *(rounded(each["slope"].get(asset, 0.0)) for asset in assets),
            *(rounded(sum(each[name].values())) for name in (*CLOSINGS, "bought_back")),
            rounded(each["bad_debt"]),
        )
    return table


def cascade_table(cascades: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each level and way of closing."""
    words = ("shock", "closing", "ends at")
    table = empty_table(*words, "times", "sold", "bad debt", "rounds", words=words)
    for each in cascades:
        times = each["amplification"]
        table.add_row(
            _fallen(each["shock"]),
            each["closing"],
            _fallen(each["falls"]),
            "-" if times is None else f"{times:.3f}",
            rounded(sum(each["sold"].values())),
            rounded(each["bad_debt"]),
            str(each["rounds"]),
        )
    return table


def _fallen(falls: Mapping[str, float]) -> str:
    """Say falls in short: one figure where all are the same."""
    told = {asset: f"{100 * fall:.4g}%" for asset, fall in falls.items()}
    if len(set(told.values())) <= 1:
        return next(iter(told.values()), "0%")
    return ", ".join(f"{short(asset)} {fall}" for asset, fall in told.items())


def draw(path: Path, told: Mapping[str, Any]) -> None:
    """Draw the flow of every level, and with depths how far each fall goes on."""
    with drawing(path, height_in=7.5 if "cascades" in told else 4.5) as figure:
        panels = figure.subplots(2 if "cascades" in told else 1, 1, squeeze=False)[:, 0]
        _draw_flow(panels[0], told["levels"])
        if "cascades" in told:
            _draw_cascades(panels[1], told["cascades"])


def _draw_flow(axes: Axes, levels: Sequence[Mapping[str, Any]]) -> None:
    """Draw a bar a level: by asset what a slope sells, below what it buys back, marked what a cliff sells."""
    places, below = np.arange(len(levels)), np.zeros(len(levels))
    assets = list(dict.fromkeys(asset for each in levels for asset in each["slope"]))
    for asset, colour in zip(assets, _colours(assets), strict=True):
        sold = np.array([each["slope"].get(asset, 0.0) for each in levels])
        axes.bar(places, sold, 0.6, below, color=colour, label=f"{short(asset)}, slope")
        below = below + sold
    back = np.array([sum(each["bought_back"].values()) for each in levels])
    if back.any():
        axes.bar(places, -back, 0.6, color=MUTED, label="bought back, slope")
    whole = [sum(each["cliff"].values()) for each in levels]
    axes.plot(places, whole, color=RED, marker="D", linestyle="none", label="all, cliff")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(places, [f"{-100 * each['fall']:+.4g}%" if each["fall"] else "now" for each in levels])
    axes.set_ylabel("sold, in quote")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title("What each level of prices would have liquidated")
    axes.legend(loc="best")


def _draw_cascades(axes: Axes, cascades: Sequence[Mapping[str, Any]]) -> None:
    for name, colour in zip(CLOSINGS, (BLUE, RED), strict=True):
        of = [each for each in cascades if each["closing"] == name]
        first, last = (
            [100 * max(each[at].values(), default=0.0) for each in of] for at in ("shock", "falls")
        )
        further = np.subtract(last, first)
        axes.plot(first, further, color=colour, marker="o", markersize=3, label=name)
    axes.set_xlabel("first fall, %")
    axes.set_ylabel("further fall, percentage points")
    axes.set_ylim(bottom=0)
    axes.set_title("How much further the price that falls most goes once that is sold")
    axes.legend(loc="best")


def _colours(assets: Sequence[str]) -> list[str]:
    return [(BLUE, GREEN, AMBER, MUTED)[place % 4] for place in range(len(assets))]
