"""Fast prices to look at, once a second: a table for a person, a line of JSON for a program."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import orjson
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from keeper.domain import Quote
from keeper.feeds import AnyFeed, LiveComposite, listening
from keeper.feeds.composite import Composite
from keeper.units import WAD, FeedId

EVERY_S = 1.0


async def show(feed: AnyFeed, console: Console) -> None:
    """Show what a feed says, until cancelled."""
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    async with listening(feed):
        with live or nullcontext():
            while True:
                await asyncio.sleep(EVERY_S)
                composites = composites_of(feed)
                if live is not None:
                    live.update(table_of(composites), refresh=True)
                else:
                    faults = feed.faults if isinstance(feed, LiveComposite) else {}
                    console.file.write(line_of(composites, faults, int(time.time())) + "\n")
                    console.file.flush()


def composites_of(feed: AnyFeed) -> Mapping[FeedId, Composite]:
    """Return what a feed says now, with the venues where it is of venues."""
    if isinstance(feed, LiveComposite):
        return feed.composites()
    return {name: Composite(quote, (), {}) for name, quote in feed.latest(int(time.time())).items()}


def line_of(
    composites: Mapping[FeedId, Composite], faults: Mapping[str, Mapping[str, int]], at_s: int
) -> str:
    """Return one line of JSON; prices are text, so that no digit is lost."""
    told = {name: _told(each) for name, each in composites.items()}
    return orjson.dumps({"at_s": at_s, "feeds": told, "faults": faults}).decode()


def _told(composite: Composite) -> dict[str, Any]:
    quote, venues = composite.quote, {"used": composite.used, "dropped": composite.dropped}
    if not isinstance(quote, Quote):
        return {"price": None, "why": quote.why, **venues}
    return {
        "price": _decimal(quote),
        "observed_at_s": quote.observed_at_s,
        "confidence_bps": quote.confidence_bps,
        "dispersion_bps": quote.dispersion_bps,
        **venues,
    }


def table_of(composites: Mapping[FeedId, Composite]) -> Table:
    """Lay prices out for a person."""
    table = Table("", "price", "+- bps", "apart bps", "of", "without")
    for name, composite in composites.items():
        quote, without = composite.quote, [f"{venue}: {why}" for venue, why in composite.dropped.items()]
        if isinstance(quote, Quote):
            figures = (_decimal(quote), str(quote.confidence_bps), str(quote.dispersion_bps))
        else:
            figures, without = ("unknown", "", ""), without or [quote.why]
        row = (name, *figures, ", ".join(composite.used), "\n".join(without))
        table.add_row(*map(Text, row), style=None if isinstance(quote, Quote) else "yellow")
    return table


def _decimal(quote: Quote) -> str:
    whole, rest = divmod(quote.price_wad, WAD)
    return f"{whole}.{rest:018}".rstrip("0").rstrip(".")
