"""Commands that stop the wallet, or let it go on, while a keeper runs."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from keeper import metrics
from keeper.cli.options import HERE, ConfigOption, ConfigsHere, Json, MarketName, Reason, Rehearsed
from keeper.cli.output import terminal
from keeper.config import load
from keeper.errors import ConfigError
from keeper.journal import opening
from keeper.journal.store import StoredJournal
from keeper.journal.wallet import Wallet
from keeper.ports import BREAKERS, Measure, Switch, Thrown
from keeper.units import in_figures

LAST_SWITCHED = 10
"""So many switches are shown with the limits."""


def halt(*, config: ConfigsHere = None, reason: Reason = "", dry_run: Rehearsed = False) -> None:
    """Permit nothing new from the next grant on; what is in flight is still followed."""
    with _switchboards(config, dry_run=dry_run) as journals:
        for journal in journals:
            journal.throw(Switch.HALT, "", on=True, who=_operator(), why=reason)
    typer.echo("halted")


def resume(*, config: ConfigsHere = None, reason: Reason = "", dry_run: Rehearsed = False) -> None:
    """Take back a halt by command or signal, or for another user of the key; says what still holds."""
    with _switchboards(config, dry_run=dry_run) as journals:
        for journal, switch in product(journals, (Switch.HALT, Switch.FOREIGN)):
            journal.throw(switch, "", on=False, who=_operator(), why=reason)
        still = [metrics.stopped(each) for journal in journals for each in journal.thrown()]
    typer.echo("\n".join(["resumed", *still]))


def pause(
    market: MarketName, *, config: ConfigOption = HERE, reason: Reason = "", dry_run: Rehearsed = False
) -> None:
    """Permit nothing that hangs on a market, until it is unpaused."""
    _expect_known(market, load(config).known_markets())
    with _switchboard(config, dry_run=dry_run) as journal:
        journal.throw(Switch.PAUSE, market, on=True, who=_operator(), why=reason)
    typer.echo(f"{market} paused")


def unpause(
    market: MarketName, *, config: ConfigOption = HERE, reason: Reason = "", dry_run: Rehearsed = False
) -> None:
    """Take back the pause of a market."""
    with _switchboard(config, dry_run=dry_run) as journal:
        _expect_on(journal, Switch.PAUSE, market)
        journal.throw(Switch.PAUSE, market, on=False, who=_operator(), why=reason)
    typer.echo(f"{market} unpaused")


def reset_breaker(
    breaker: Annotated[str, typer.Argument(help="One of " + ", ".join(BREAKERS) + ".")],
    *,
    market: Annotated[str, typer.Option(help="Of one feed only.")] = "",
    config: ConfigOption = HERE,
    reason: Reason = "",
    dry_run: Rehearsed = False,
) -> None:
    """Close a breaker before its time; it trips again where its figure says so."""
    if breaker not in {*BREAKERS}:
        raise ConfigError(f"expected one of {', '.join(BREAKERS)}, found {breaker}")
    with _switchboard(config, dry_run=dry_run) as journal:
        found = _expect_on(journal, breaker, market)
        for each in found:
            journal.throw(each.switch, each.subject, on=False, who=_operator(), why=reason)
    typer.echo("\n".join(f"{each.name} closed" for each in found))


def sold(
    market: MarketName, *, config: ConfigOption = HERE, reason: Reason = "", dry_run: Rehearsed = False
) -> None:
    """Say that what was taken over of a market up to now has been sold: it is no inventory any more."""
    with _switchboard(config, dry_run=dry_run) as journal:
        _expect_known(market, journal.taken_over())
        journal.throw(Switch.SOLD, market, on=True, who=_operator(), why=reason)
    typer.echo(f"{market} sold")


def see_limits(*, config: ConfigsHere = None, as_json: Json = False, dry_run: Rehearsed = False) -> None:
    """Show how much of each limit of the file is used, and what is halted, paused or tripped.

    Of several files each is held against what all journals of its wallet have used.
    """
    with _switchboards(config, dry_run=dry_run) as journals:
        standing = [_standing_of(each) for each in journals]
    if as_json:
        said = {
            "limits": [
                {"journal": each.journal, **asdict(one)} for each in standing for one in each.measures
            ],
            "stopped": [{"journal": each.journal, **asdict(one)} for each in standing for one in each.thrown],
        }
        typer.echo(json.dumps(said, indent=2))
        return
    for each in standing:
        _show(each, is_one_of_many=len(standing) > 1)


@dataclass(frozen=True, slots=True)
class Standing:
    """How the limits of one journal stand, and its switches."""

    journal: str
    measures: Sequence[Measure]
    thrown: Sequence[Thrown]
    switched: Sequence[tuple[Thrown, bool]]


def _standing_of(journal: StoredJournal) -> Standing:
    return Standing(journal.name, journal.measures(), journal.thrown(), journal.switched(LAST_SWITCHED))


def _show(standing: Standing, *, is_one_of_many: bool) -> None:
    title, own = (standing.journal, ["of these here"]) if is_one_of_many else (None, [])
    table = Table("limit", "market", "used", *own, "bound", "unit", title=title)
    for each in standing.measures:
        here = [in_figures(each.own)] if is_one_of_many else []
        bound = "-" if each.bound is None else in_figures(each.bound)
        table.add_row(each.limit, each.subject, in_figures(each.used), *here, bound, each.unit)
    terminal().print(table)
    lines = [
        f"{each.at_s}: {each.name} {'on' if on else 'off'} {each.told}" for each, on in standing.switched
    ]
    for line in (*map(metrics.stopped, standing.thrown), "", "thrown last, by chain time:", *lines):
        terminal().print(line, soft_wrap=True, highlight=False, markup=False)


def _switchboard(path: Path, *, dry_run: bool) -> closing[StoredJournal]:
    """Open the journal of a keeper that may be running."""
    config = load(path)
    return closing(opening.to_switch(config.journal_place(dry_run=dry_run), config.limits_for_guard()))


@contextmanager
def _switchboards(paths: Sequence[Path] | None, *, dry_run: bool) -> Iterator[list[StoredJournal]]:
    """Open the journals of deployments that one process may keep: those of one wallet look at each other."""
    wallets = defaultdict[str, Wallet](Wallet)
    configs = [load(path) for path in paths or [HERE]]
    found = {each.journal_place(dry_run=dry_run): each.limits_for_guard() for each in configs}
    with ExitStack() as stack:
        opened = (opening.to_switch(place, limits, wallets) for place, limits in found.items())
        yield [stack.enter_context(closing(journal)) for journal in opened]


def _expect_known(market: str, known: Sequence[str]) -> None:
    if market not in known:
        raise ConfigError(f"expected one of {', '.join(known) or 'none'}, found {market}")


def _expect_on(journal: StoredJournal, switch: str, subject: str) -> list[Thrown]:
    """Return the switches of a kind that are on, of one subject where it is given; there must be one."""
    found = [each for each in journal.thrown() if each.switch == switch and subject in {"", each.subject}]
    if not found:
        raise ConfigError(f"{switch} {subject}".rstrip() + " is not on")
    return found


def _operator() -> str:
    return f"command of user {os.getuid()}"
