"""What a person sees of a drill: its progress, and at the end what it came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from keeper.domain import Phase
from keeper.lab.audit import Report
from keeper.lab.drill import Moment, Watcher
from keeper.lab.paths import Paths
from keeper.lab.world import World
from keeper.units import WAD

PLAIN_LINES = 20
REFRESH_S = 0.2
ACTS = {
    "Flagged": "alarms",
    "Confirmed": "confirmed",
    "Cleared": "cleared",
    "Expired": "expired",
    "Tranche": "slices",
    "Cured": "cured",
    "Insolvent": "written off",
}


class PlainWatcher:
    """A line now and then, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, moment: Moment) -> None:
        """Print every twentieth part of the way."""
        if moment.block % max(1, moment.blocks // PLAIN_LINES) == 0 or moment.block == moment.blocks:
            prices = ", ".join(
                f"{feed[:3]} {view.fast_wad / WAD:,.2f}" for feed, view in moment.oracles.items()
            )
            counts = ", ".join(f"{moment.tally.acts[act]} {word}" for act, word in ACTS.items())
            self._console.print(f"block {moment.block}/{moment.blocks}: {prices}; {counts}", soft_wrap=True)


class LiveWatcher:
    """One picture that changes in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._starts: dict[str, float] = {}
        self._shown_at = -1.0

    def show(self, moment: Moment) -> None:
        """Redraw, a few times a second."""
        for feed, view in moment.oracles.items():
            self._starts.setdefault(feed, view.fast_wad / WAD)
        if moment.wall_s - self._shown_at >= REFRESH_S or moment.block == moment.blocks:
            self._shown_at = moment.wall_s
            self._live.update(self._picture(moment), refresh=True)

    def _picture(self, moment: Moment) -> RenderableType:
        clock = datetime.fromtimestamp(moment.timestamp_s, UTC).strftime("%H:%M:%S")
        left = moment.wall_s / moment.block * (moment.blocks - moment.block)
        line = Text.assemble(
            ("block ", "dim"), f"{moment.block}/{moment.blocks}", ("  chain time ", "dim"), clock,
            ("  left ", "dim"), f"{left:.0f} s", ("  late ", "dim"), f"{moment.late_blocks}",
            *((("  kills ", "dim"), f"{moment.kills}") if moment.kills else ()),
        )  # fmt: skip
        bar = Table.grid()
        bar.add_row(ProgressBar(total=moment.blocks, completed=moment.block, width=76))
        return Group(line, bar, self._prices(moment), _counts(moment))

    def _prices(self, moment: Moment) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("market", "fast price", "since start", "slow price", "apart"):
            table.add_column(column, justify="left" if column == "market" else "right", min_width=10)
        for feed, view in moment.oracles.items():
            fast, slow = view.fast_wad / WAD, view.slow_wad / WAD
            change = fast / self._starts[feed] - 1
            style = "red" if change < -0.005 else "green" if change > 0.005 else ""
            table.add_row(
                feed, f"{fast:,.2f}", Text(f"{change:+.1%}", style), f"{slow:,.2f}", f"{fast / slow - 1:+.2%}"
            )
        return table


def _counts(moment: Moment) -> Text:
    tally = moment.tally
    now = [f"{tally.count(phase)} {phase}" for phase in (Phase.HEALTHY, Phase.FLAGGED, Phase.CONFIRMED)]
    so_far = [f"{tally.acts[act]} {word}" for act, word in ACTS.items()]
    return Text.assemble(("now  ", "dim"), ", ".join(now), ("\nsince the start  ", "dim"), ", ".join(so_far))


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """Give a watcher that suits the console."""
    if not console.is_terminal:
        yield PlainWatcher(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield LiveWatcher(live)


def introduce(console: Console, paths: Paths, accounts: int, folder: str) -> None:
    """Say what is about to happen."""
    falls = ", ".join(
        f"{feed[:3]} {paths.true[:, i].min() / paths.true[0, i] - 1:+.0%}"
        for i, feed in enumerate(paths.feeds)
    )
    minutes = paths.blocks * 12 / 60
    console.print(
        f"HybridMargin on a local Anvil: {accounts} accounts, {paths.blocks} blocks of 12 s "
        f"({minutes:.0f} minutes of chain time), seed {paths.seed}.\n"
        f"BTC and ETH fall as on 2020-03-12, SYN is synthetic; lowest in this window: {falls}.\n"
        f"Working in {folder}",
        soft_wrap=True,
        highlight=False,
    )


def opened(console: Console, world: World) -> None:
    """Say what stands on the chain before the processes start."""
    apart = sum(len(hedge.apart) for hedge in world.hedges)
    hedged = f", {len(world.hedges)} books with options and their {apart} legs apart" if apart else ""
    steward = ", reporter and steward" if apart else " and reporter"
    accounts = f"{len(world.owners)} accounts opened against one maker{hedged}"
    console.print(f"{accounts}; starting keeper{steward}", soft_wrap=True, highlight=False)


def summarise(console: Console, report: Report) -> None:
    """Print what a drill came to, for people."""
    figures = report.figures
    for title, rows in _sections(figures):
        console.print()
        console.print(section(title, rows))
    if figures["hedges"]:
        console.print()
        console.print(_hedges(figures))
    verdict(console, report.violations)


def section(title: str, rows: Rows) -> Table:
    """Return one part of a report."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, title=title, title_justify="left")
    table.add_column(width=32)
    table.add_column(justify="right", width=15)
    table.add_column(style="dim", overflow="fold")
    for name, value, remark in rows:
        table.add_row(name, value, remark)
    return table


def verdict(console: Console, violations: Sequence[str]) -> None:
    """Say what was broken, or that nothing was."""
    console.print()
    for line in violations:
        console.print(f"BROKEN: {line}", style="bold red", soft_wrap=True, highlight=False)
    if not violations:
        console.print("Every invariant held.", style="green")


def whats_next(console: Console, folder: str | None) -> None:
    """Say what to try after the demo."""
    at = folder or "FOLDER"
    kept = f"  its journal, configuration and prices are in {folder}\n" if folder else (
        "  keep journal and prices:     ./scripts/demo --fast --keep FOLDER\n"
    )  # fmt: skip
    console.print(
        "\nNext:\n"
        f"{kept}"
        f"  who was nearest to breach:   .venv/bin/keeper accounts --config {at}/keeper.toml\n"
        f"  why this was done, or not:   .venv/bin/keeper explain ACCOUNT --config {at}/keeper.toml\n"
        f"  decide all of it again:      .venv/bin/keeper replay {at}/journal.sqlite\n"
        "  another crash:               ./scripts/demo --seed 7 --accounts 500\n"
        "  hedged books, with options:  ./scripts/demo --fast --options\n"
        "  kill the keeper on the way:  ./scripts/demo --fast --kills 5\n"
        "  a node of your own:          .venv/bin/keeper run --config keeper.toml --dry-run\n"
        "                               (README.md says what it needs)",
        soft_wrap=True,
        highlight=False,
    )


Rows: TypeAlias = list[tuple[str, str, str]]
"""Name, value, remark."""


def _sections(f: Mapping[str, Any]) -> Iterator[tuple[str, Rows]]:
    yield "Alarms", _alarms(f)
    yield "Slope against cliff", _closings(f)
    yield "Keeper", _keeper(f)
    yield "Why it waited, refused, or was refused", _reasons(f)
    yield "Machine", _machine(f)


def _hedges(f: Mapping[str, Any]) -> Table:
    """Show each kind of book beside its legs apart."""
    title = "Options: hedged books, and the same legs each in an account of its own"
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", title=title, title_justify="left")
    healths = ("lowest health", "at both")
    for column in ("hedged book", "books", *healths, "flagged", "confirmed", "sliced", "gain"):
        is_name = column == "hedged book"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for column in ("legs", "reduced", "closed", "gain of these"):
        table.add_column(column, justify="right")
    for row in f["hedges"]:
        counts = (row["flagged"], row["confirmed"], row["sliced"])
        apart = (row["legs"], row["legs_reduced"], row["legs_closed"])
        table.add_row(
            row["book"],
            _count(row["books"]),
            _health(row["lowest_health_fast"]),
            _health(row["lowest_health_both"]),
            *map(_count, counts),
            usd(row["gain"]),
            *map(_count, apart),
            usd(row["legs_reduced_gain"]),
        )
    posted = f"{f['risk_arrays']:,} risk arrays accepted, {f['options_settled']:,} options paid out"
    health = "lowest health (equity / requirement) at the fast price, and that both oracles agreed on"
    wick = "a false print leaves arrays of its own price behind for a block: too short to be confirmed"
    table.caption = f"{health}\n{wick}\n{posted}"
    table.caption_justify = "left"
    return table


def _alarms(f: Mapping[str, Any]) -> Rows:
    wick = f["wick"]
    false_print = f"{wick['flagged']} by a false print, {wick['feed'][:3]} {wick['depth']:.0%}"
    return [
        ("alarms raised", _count(f["flagged"]), false_print),
        ("confirmed by the slow oracle", _count(f["confirmed"]), ""),
        ("cleared, bond slashed", _count(f["cleared"]), "both oracles spoke against it"),
        ("expired", _count(f["expired"]), ""),
        ("cured before that, or still open", _count(_otherwise(f)), ""),
        ("false closes", _count(f["false_closes"]), "must be 0"),
    ]


def _otherwise(f: Mapping[str, Any]) -> int:
    return int(f["flagged"] - f["confirmed"] - f["cleared"] - f["expired"])


def _closings(f: Mapping[str, Any]) -> Rows:
    cliff = f["cliff_notional_closed"]
    share = f["notional_closed"] / cliff - 1 if cliff else 0.0
    highest = _health(f["max_health_after_slice"])
    return [
        ("slices", _count(f["tranches"]), f"{f['dust_slices']} of them dust"),
        ("notional closed, slope", usd(f["notional_closed"]), f"{share:+.0%} against the cliff"),
        ("notional closed, cliff", usd(cliff), f"{f['cliff_accounts']} accounts, all at once"),
        ("cured", _count(f["cured"]), f"owners who topped up: {f['owners_topped_up']}"),
        ("closed, written off", _count(f["closed"]), f"bad debt {usd(f['bad_debt'])}"),
        ("lowest health after a slice", _health(f["min_health_after_slice"]), "equity / requirement"),
        ("highest health after a slice", highest, "at most 1.15, dust apart"),
        (
            "least health gained by a slice",
            _health(f["min_health_gain"]),
            "with equity never negative",
        ),
    ]


def _keeper(f: Mapping[str, Any]) -> Rows:
    reverted = sum(f["keeper_reverted"].values())
    sent = f"{f['keeper_transactions']} transactions, {reverted} reverted"
    return [
        (
            "fees of slices",
            usd(f["keeper_fees"]),
            f"owners paid {usd(f['owner_fees'])}, a fifth to insurance",
        ),
        ("rewards for alarms", usd(f["keeper_rewards"]), ""),
        ("bonds slashed", usd(-f["keeper_bonds_slashed"]), ""),
        ("gas", usd(-f["keeper_gas"]), sent),
        (
            "profit on inventory",
            usd(f["keeper_inventory_pnl"]),
            f"on a margin of {usd(f['keeper_margin'])}",
        ),
        ("in all", usd(_in_all(f)), "positions are sold at the fast price"),
    ]


def _in_all(f: Mapping[str, Any]) -> float:
    earned = f["keeper_fees"] + f["keeper_rewards"] + f["keeper_inventory_pnl"]
    return float(earned - f["keeper_bonds_slashed"] - f["keeper_gas"])


def _reasons(f: Mapping[str, Any]) -> Rows:
    kinds = (
        ("waited", f["waits"]),
        ("refused", f["refusals"]),
        ("abandoned", f["abandoned"]),
        ("reverted on chain", f["keeper_reverted"]),
    )
    return [
        (rule, _count(count), kind)
        for kind, rules in kinds
        for rule, count in sorted(rules.items(), key=lambda item: -item[1])
    ]


def _machine(f: Mapping[str, Any]) -> Rows:
    latency, blocks = f["tick_to_tx_ms"], f["block_ms"]
    kills = f"{f['kills']} kills of the keeper" if f["kills"] else ""
    twins = f"{f['twin_mismatches']} differ, {f['twin_skipped']} skipped"
    pace = f"{f['chain_seconds_per_wall_second']:.0f} chain seconds a second"
    return [
        ("head to accepted send, p50 / p99", f"{_ms(latency['p50'])} / {_ms(latency['p99'])}", ""),
        ("a whole block, p50 / p99", f"{_ms(blocks['p50'])} / {_ms(blocks['p99'])}", ""),
        ("late blocks", _count(f["late_blocks"]), kills),
        ("time of the crash itself", f"{f['wall_seconds']:.1f} s", pace),
        ("slices foreseen to the wei", _count(f["twin_checked"] - f["twin_mismatches"]), twins),
    ]


def _count(value: int) -> str:
    return f"{value:,}"


def usd(value: float) -> str:
    """Write whole dollars."""
    return f"{'-' if value < 0 else ''}${abs(value):,.0f}"


def _health(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
