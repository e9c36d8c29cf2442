"""What a further fall of prices would have liquidated: of the whole book, and against which market's depth.

One pass of the trigger's own loops over the book, at marks whose prices have fallen; of whom that breaches it
is then added up what closing would move (``mirrored``). In float64, and an estimate: who deposits, or is
closed on the way, is not foreseen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keeper.columns.snapshot import Snapshot
from keeper.domain import Quote
from keeper.risk.marks import Marks
from keeper.risk.stress import share_to_close
from keeper.trigger.distance import Price, Quotes, moved
from keeper.trigger.engine import engine
from keeper.trigger.mirrored import Mirrored, Worth
from keeper.trigger.scores import Rows
from keeper.trigger.terms import Held, Terms
from keeper.trigger.watch import COMPILED_FROM, NO_ROWS, NOTHING
from keeper.units import FeedId

SAMPLE = 4_096
"""Of more rows than this in breach, so many, evenly spread, stand for all."""


def flows(
    book: Snapshot, quotes: Quotes, price: Price, worth: Worth, feeds: Collection[FeedId], fall: float
) -> Mapping[FeedId, float]:
    """Return what would be liquidated on each of some feeds, in quote, if all of them fell by a fraction.

    Of an account so much as ends its breach, as ``risk.stress.flow`` has it of everybody; here what is bought
    back counts as well, for it takes of the same depth. Whoever is in breach already counts, too. A feed
    without a quote is left out.
    """
    fallen = {feed: moved(quotes[feed], 1 - fall) for feed in feeds if isinstance(quotes.get(feed), Quote)}
    if not fallen:
        return {}
    found = _breached(book, price({**quotes, **fallen}))
    every = -(-len(found) // SAMPLE) or 1
    held = Mirrored(book, quotes, price, worth, assets=fallen, rows=found[::every])
    there = held.standing(np.full(len(fallen), fall))
    share = share_to_close(there.equity, there.requirement, there.left)
    closed = share @ (there.sold + there.bought) * (1 - fall) * every
    return dict(zip(held.assets, closed.tolist(), strict=True))


def _breached(book: Snapshot, marks: Marks) -> Rows:
    """Return the rows that are not clear at some marks; those that are not known are left out."""
    loops = engine() if len(book) >= COMPILED_FROM else engine(compiled=False)
    held, terms, out = Held.of(book), Terms.of(marks, loops), np.empty(len(book), np.int32)
    middle = len(book) // 2

    def part(begin: int, end: int) -> Rows:
        found, _ = loops.sieve(held, terms, NO_ROWS, begin, end, NOTHING, out)
        return out[begin : begin + found].astype(np.intp)

    with ThreadPoolExecutor(1) as other:
        rest = other.submit(part, middle, len(book))
        return np.concatenate([part(0, middle), rest.result()])
