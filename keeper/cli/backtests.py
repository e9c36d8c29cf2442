"""The command that holds forecasts of the tail against what was lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.table import Table

from keeper.cli.options import Json
from keeper.cli.output import empty_table, terminal
from keeper.cli.plots import AMBER, BLUE, GREEN, INK, MUTED, RED, Plot, drawing
from keeper.cli.price_files import (
    Columns,
    Decay,
    DegreesOfFreedom,
    PriceFile,
    decay_of,
    numbers_by_asset,
    of_file,
    read_prices,
)
from keeper.errors import BadInput
from keeper.risk.at_risk import Method, Model
from keeper.risk.inputs import Floats
from keeper.risk.prices import DAY_S, Prices, Times, span
from keeper.risk.tail_backtest import (
    SIGNIFICANCE,
    Backtest,
    Verdict,
    backtest,
    walk_forward,
    walk_forward_by_slot,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

USUAL = (Method.FILTERED, Method.PARAMETRIC)
LEVELS = (0.975, 0.99)


def see_backtest(
    prices: PriceFile,
    *,
    weights: Annotated[
        str | None, typer.Option(help="What is held of each asset, BTC=0.6,ETH=0.4; of one alone all.")
    ] = None,
    columns: Columns = None,
    method: Annotated[
        list[Method] | None, typer.Option(help="How to forecast; filtered and parametric unless told.")
    ] = None,
    level: Annotated[list[float] | None, typer.Option(help="0.975 and 0.99 unless told.")] = None,
    window: Annotated[int, typer.Option(min=2, help="How many returns each forecast is told.")] = 500,
    decay: Decay = None,
    dof: DegreesOfFreedom = None,
    by_hour: Annotated[
        bool, typer.Option("--by-hour", help="Of steps below a day: know busy hours, jumps apart.")
    ] = False,
    significance: Annotated[float, typer.Option(help="A test refutes below such a p-value.")] = SIGNIFICANCE,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """Walk through past returns, forecast the tail of each next one, and say which forecasts are refuted."""
    held = of_weights(told := read_prices(prices, columns), weights)
    with of_file(prices):
        told = told.of(list(held))
    models = [
        Model(each, part, decay_of(told, decay), dof) for each in method or USUAL for part in level or LEVELS
    ]
    returns = np.expm1(told.returns) @ np.array(list(held.values()))
    found = [
        (model, walked(told, returns, model, window, by_hour=by_hour, significance=significance))
        for model in models
    ]
    about = {
        "prices": str(prices),
        "weights": held,
        "from": _day(told.times[window + 1]),
        "to": _day(told.times[-1]),
        "step_s": told.step_s,
        "window": window,
        "by_hour": by_hour,
    }
    if as_json:
        forecasts = [as_data(model, each) for model, each in found]
        typer.echo(json.dumps(about | {"forecasts": forecasts}, indent=2))
    else:
        terminal().print(heading(about), highlight=False, markup=False)
        terminal().print(table_of(found), highlight=False)
    if plot is not None:
        methods = list(dict.fromkeys(model.method for model, _ in found))
        with drawing(plot, height_in=1 + 2.4 * len(methods)) as figure:
            panels = figure.subplots(len(methods), sharex=True, sharey=True, squeeze=False)[:, 0]
            for axes, each in zip(panels, methods, strict=True):
                draw(axes, told.times[window + 1 :], [pair for pair in found if pair[0].method is each])


def of_weights(told: Prices, said: str | None) -> dict[str, float]:
    """Return what is held of each asset. Raises BadInput where that is not said of several."""
    if said is not None:
        return numbers_by_asset("weights", said)
    if len(told.assets) > 1:
        raise BadInput(f"expected --weights of some of {', '.join(told.assets)}")
    return {told.assets[0]: 1.0}


def walked(
    told: Prices,
    returns: Floats,
    model: Model,
    window: int,
    *,
    by_hour: bool,
    significance: float,
) -> Backtest:
    """Forecast each of the returns [n] after the first window, and test the forecasts.

    Raises BadInput for a window too short for the model or not shorter than the returns, one in which nothing
    is lost, for hours of steps that are no part of a day, and as the model does.
    """
    try:
        _check_window(len(returns), window, model)
        forecast = model.forecast()
        if by_hour:
            slots, count = slots_of(told)
            losses, var, es = walk_forward_by_slot(returns, slots, forecast, window=window, count=count)
        else:
            losses, var, es = walk_forward(returns, forecast, window=window)
        _check_shortfalls(es, told.times[window + 1 :], window)
        return backtest(losses, var=var, es=es, level=model.level, dof=model.dof, significance=significance)
    except BadInput as error:
        raise BadInput(f"{name_of(model)}: {error}") from None


def _check_window(returns: int, window: int, model: Model) -> None:
    if window < model.least_returns:
        raise BadInput(f"expected a window of {model.least_returns} returns at least, found {window}")
    if returns < window + 2:
        raise BadInput(f"expected {window + 2} returns at least, a window and two to judge, found {returns}")


def _check_shortfalls(es: Floats, times: Times, window: int) -> None:
    if not (es > 0).all():
        at = int((es <= 0).argmax())
        raise BadInput(
            f"expected losses in every window of {window} returns, found an ES of {es[at]:.4g} for "
            f"{_day(times[at])}: prices that stand still or only rise before it tell of no tail"
        )


def slots_of(told: Prices) -> tuple[Times, int]:
    """Return of which part of the day each return is [n], and how many parts there are."""
    count, rest = divmod(DAY_S, told.step_s)
    if rest or count < 2:
        raise BadInput(f"expected steps of which a day has several for --by-hour, found {span(told.step_s)}")
    return told.times[:-1] % DAY_S // told.step_s, count


def name_of(model: Model) -> str:
    return f"{model.method.value} at {100 * model.level:g}%"


def verdict_of(found: Backtest) -> str:
    return f"refuted: {', '.join(found.refuted)}" if found.refuted else "not refuted"


def heading(about: dict[str, Any]) -> str:
    """Say of what the forecasts are."""
    held = ", ".join(f"{weight:g} {asset}" for asset, weight in about["weights"].items())
    hours = ", by the hour of the day" if about["by_hour"] else ""
    return (
        f"{held}, forecast {about['from']} to {about['to']} for {span(about['step_s'])} each, "
        f"from the {about['window']} returns before{hours}"
    )


def table_of(found: Sequence[tuple[Model, Backtest]]) -> Table:
    """Return what a person reads: p-values of number, order and size, and the verdict."""
    head = ("forecast", "level", "expected", "found", "zone", "Kupiec p", "order p", "Z2", "Z2 p", "verdict")
    table = empty_table(*head, words={"forecast", "zone", "verdict"})
    for model, each in found:
        table.add_row(
            model.method.value,
            f"{100 * model.level:g}%",
            f"{each.expected:.1f}",
            str(each.exceptions),
            each.light.zone,
            f"{each.coverage.unconditional.p_value:.4f}",
            f"{each.coverage.independence.p_value:.4f}",
            f"{each.size.unconditional.statistic:.2f}",
            f"{each.size.unconditional.p_value:.4f}",
            verdict_of(each),
        )
    return table


def as_data(model: Model, found: Backtest) -> dict[str, Any]:
    """Say all of one series of forecasts that the tests say."""
    tests = {
        "kupiec": found.coverage.unconditional,
        "independence": found.coverage.independence,
        "conditional_coverage": found.coverage.conditional,
        "z1": found.size.conditional,
        "z2": found.size.unconditional,
    }
    return {
        "method": model.method.value,
        "level": model.level,
        "decay": model.decay,
        "dof": model.dof,
        "n": len(found.losses),
        "expected": found.expected,
        "exceptions": found.exceptions,
        "traffic_light": asdict(found.light),
        "tests": {name: None if each is None else _told(each) for name, each in tests.items()},
        "refuted": list(found.refuted),
        "verdict": verdict_of(found),
    }


def draw(axes: Axes, times: Times, found: Sequence[tuple[Model, Backtest]]) -> None:
    """Draw returns, what one method forecast of them at each level, and which fell below the highest."""
    days = times.astype("datetime64[s]")
    _, last = max(found, key=lambda pair: pair[0].level)
    axes.plot(days, -100 * last.losses, color=MUTED, linewidth=0.5)
    for (model, each), colour in zip(found, (BLUE, AMBER, GREEN, INK), strict=False):
        said = f"{name_of(model)}: {each.exceptions} beyond, {each.expected:.1f} expected; {verdict_of(each)}"
        axes.plot(days, -100 * each.var, color=colour, linewidth=1.2, label=said)
    below = -100 * last.losses[last.hits]
    axes.plot(days[last.hits], below, color=RED, marker="o", markersize=3.5, linestyle="none")
    axes.set_ylabel("return, %")
    axes.margins(x=0.01)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), fontsize=9)


def _told(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict) | {"reject": verdict.reject}


def _day(time: int) -> str:
    """Say when a step ends."""
    return datetime.fromtimestamp(int(time), UTC).strftime("%Y-%m-%d %H:%M").removesuffix(" 00:00")
