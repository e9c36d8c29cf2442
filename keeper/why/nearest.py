"""The accounts nearest to breach: how far each is, where it breaks, and what would be taken there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keeper.domain import Quote
from keeper.journal.reader import JournalReader
from keeper.replay.scene import Scene
from keeper.trigger import Trigger
from keeper.trigger.mirrored import named
from keeper.units import WAD, AccountKey, in_figures
from keeper.why import account as stands

LOOKED_AT = 4
"""For so many times as many accounts as are told it is measured how far they are."""


def nearest(reader: JournalReader, scene: Scene, top: int) -> list[dict[str, Any]]:
    """Return the accounts in breach at the fast price, and the nearest to it, at most so many."""
    keys = [key for key in _chosen(scene, LOOKED_AT * top) if not scene.parts.desk.is_own(key)]
    if not keys:
        return []
    far, sigmas = stands.far(scene, keys)
    least = np.fmin.reduce(sigmas, axis=1, initial=np.inf)
    order = np.argsort(least, kind="stable")[:top].tolist()
    return [
        {**_told(scene, keys[row], far, sigmas, row), "rung": _rung(reader, scene, keys[row])}
        for row in order
        if np.isfinite(least[row])
    ]


def _chosen(scene: Scene, most: int) -> Sequence[AccountKey]:
    """Return suspects, and whom the trigger finds nearest by their margin."""
    trigger, book = Trigger(threads=1), scene.book.freeze()
    marks = scene.market.marks(scene.world, scene.quotes, scene.at.timestamp_s)
    found = trigger.tick(book, marks, None)
    trigger.prepare(book, marks)
    rows = [*found.rows.tolist()[:most], *trigger.nearest(most).tolist()]
    return [book.key(row) for row in dict.fromkeys(rows)]


def _rung(reader: JournalReader, scene: Scene, key: AccountKey) -> str:
    return str(stands.rung(scene, key, reader.cases_of(key, scene.head.number))["rung"])


def _told(scene: Scene, key: AccountKey, far: Any, sigmas: Any, row: int) -> dict[str, Any]:
    place = int(np.nanargmin(sigmas[row]))
    feed, factor = far.feeds[place], float(far.factors[row, place])
    quote = scene.quotes[feed]
    assert isinstance(quote, Quote)
    return {
        "account": f"0x{key.hex()}",
        "feed": feed,
        "now": quote.price_wad / WAD,
        "price": quote.price_wad / WAD * factor,
        "move": factor - 1,
        "sigmas": float(sigmas[row, place]),
        "there": stands.at_breach(scene, key, feed, factor),
    }


def words_of(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Tell them as rows of a table."""
    for each in found:
        yield (
            named(bytes.fromhex(each["account"][2:])),
            each["rung"],
            each["feed"],
            in_figures(each["now"]),
            in_figures(each["price"]),
            f"{each['move']:+.2%}",
            f"{each['sigmas']:.2f}",
            _taken(each["there"]),
        )


def _taken(there: Mapping[str, Any]) -> str:
    """Say in short what would be taken; a slice has a bound, and its notional is what it should come to."""
    if there["kind"] != "step":
        return f"{there['kind']}: {there.get('rule', '')}".rstrip(": ")
    step = there["steps"][0]
    share = step.get("max_fraction_wad")
    part = f" at most {share / WAD:.1%}" if isinstance(share, int) and share < WAD else ""
    return f"{step['act']}{part}, {step['notional']:,.0f} in quote"
