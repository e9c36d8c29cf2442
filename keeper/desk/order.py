"""In which order a head's accounts are judged: ``plan.queue`` by what their rows say, in float64.

What is judged first has the first claim on what all share: the market's depth, the contract's window, the
wallet. Everything exact comes afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keeper.columns.snapshot import Snapshot
from keeper.domain import ChainTime
from keeper.plan import queue
from keeper.plan.queue import Claim
from keeper.risk.marks import Marks
from keeper.state.book import Book
from keeper.trigger.scores import score
from keeper.units import AccountKey, Block

RANKED = 1024
"""So many of those to be judged are put in order; they come worst first, and the others stay behind them."""


def ordered(
    accounts: Iterable[AccountKey],
    cases: Mapping[AccountKey, ChainTime],
    *,
    book: Book[Any],
    snapshot: Snapshot,
    marks: Marks,
    at: ChainTime,
    old_blocks: Block,
) -> list[AccountKey]:
    """Return each account once: old cases, then those with the most harm per depth, then all the others."""
    listed = list(dict.fromkeys(accounts))
    # Wherever an old case stands, it is among those that are put in order.
    old = [each for each in listed[RANKED:] if each in cases and at.block - cases[each].block > old_blocks]
    some = [*listed[:RANKED], *old]
    rows = book.rows(some)
    known = np.flatnonzero(rows >= 0)
    harm, depth = np.zeros(len(some)), np.zeros(len(some))
    harm[known], depth[known] = _harm_and_depth(snapshot, rows[known], marks)
    claims = [
        Claim(account, cases[account].block if account in cases else None, *claim)
        for account, *claim in zip(some, harm.tolist(), depth.tolist(), strict=True)
    ]
    first = [each.account for each in queue.ordered(claims, at.block, old_blocks=old_blocks)]
    return list(dict.fromkeys((*first, *listed)))


def _harm_and_depth(snapshot: Snapshot, rows: Any, marks: Marks) -> tuple[Any, Any]:
    """Return what is missing to what rows must be worth, and what all that they hold is worth [n]."""
    positions, classes = snapshot.legs.dense(rows), snapshot.classes[rows]
    found = score(cash=snapshot.cash[rows], positions=positions, marks=marks, classes=classes)
    missing = marks.levels[classes] * found.requirement - found.equity
    value = np.abs(np.nan_to_num(marks.value))
    held = np.abs(positions) * (value if value.ndim == 1 else value[classes])
    return np.where(found.unknown, 0.0, np.maximum(missing, 0.0)), held.sum(axis=1)
