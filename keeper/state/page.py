"""One answer of ``MarginReader.rows``, decoded by numpy without looking at any account."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.domain import Phase
from keeper.errors import ChainFault
from keeper.state import wide
from keeper.state.keys import KeyArray
from keeper.state.pool import Entries, Entry

# MarginReader.Row, in words; the Flag struct lies inline, its flagger first.
ACCT, STATE, CASH, LAST_RISK_AT, LAST_RISK_BLOCK, DEBT_SINCE, AID, REDUCED, SLOPE, FLAGGER, BOND = range(11)
TIMES = slice(LAST_RISK_AT, DEBT_SINCE + 1)
FLAG = slice(11, 26)
MARKETS = slice(26, 34)
SIZES = slice(34, 42)
QUOTE_LEGS = slice(42, 50)
COLLATERALS = slice(50, 54)
AMOUNTS = slice(54, 58)
WORDS = 58
"""Words of a row, 32 bytes each."""
HEADER = 2
"""Words before the rows: where the array begins, and its length."""

PHASES = tuple(Phase)
SIGNED = np.isin(np.arange(WORDS), np.r_[CASH, SIZES, QUOTE_LEGS])
BOUNDED = ~SIGNED & ~np.isin(np.arange(WORDS), np.r_[AID, BOND, AMOUNTS])
"""Words that lie in 64 bits on chain, and some in fewer."""
EPISODE = np.r_[REDUCED, FLAG]
"""The narrow words of an alarm."""
SLOPES = 2**16
"""Slopes have numbers below this."""
MARKETS_EVER, COLLATERALS_EVER = 2**16 - 1, 2**8 - 1
"""The highest numbers that the contract can give."""

LEGS: Entry = {"market": (np.uint16,), "size": (wide.WIDE,), "quote_leg": (wide.WIDE,)}
HOLDINGS: Entry = {"collateral": (np.uint8,), "amount": (wide.WIDE,)}
EPISODES: Entry = {
    "flagger": ("V20",),
    "bond": (wide.WIDE,),
    "aid": (wide.WIDE,),
    "words": (np.uint64, len(EPISODE)),
}


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in columns [n], as exact as they came; of legs, holdings and alarms as many as each row has.

    ``episodes`` has an entry for each row in which any word of the alarm, or of what came since, is not zero.
    """

    keys: KeyArray
    phases: NDArray[np.uint8]
    slopes: NDArray[np.uint16]
    cash: wide.Wides
    times: NDArray[np.uint64]
    """[n, 3]: last risk in seconds and as a block, and since when there is debt only."""
    leg_counts: NDArray[np.uint8]
    legs: Entries
    holding_counts: NDArray[np.uint8]
    holdings: Entries
    episode_counts: NDArray[np.uint8]
    episodes: Entries

    def __len__(self) -> int:
        return len(self.keys)


def decode(page: bytes, *, markets: int = MARKETS_EVER, collaterals: int = COLLATERALS_EVER) -> Page:
    """Decode a page, and hold it to what a row may say with so many markets and collaterals listed.

    Raises ChainFault where it is not a whole number of believable rows.
    """
    words = _words(page)
    cells = _checked(words, markets, collaterals)
    low = cells["lo"]
    held, kept = low[:, MARKETS] != 0, low[:, COLLATERALS] != 0
    flaggers = _identifiers(words, FLAGGER, 20)
    alarms = low[:, EPISODE]
    told = (alarms != 0).any(axis=1) | (flaggers != np.zeros((), "V20"))
    for word in (AID, BOND):
        told |= (low[:, word] != 0) | (cells["hi"][:, word] != 0)
    return Page(
        keys=_identifiers(words, ACCT, 32),
        phases=low[:, STATE].astype(np.uint8),
        slopes=low[:, SLOPE].astype(np.uint16),
        cash=cells[:, CASH],
        times=low[:, TIMES],
        leg_counts=held.sum(axis=1, dtype=np.uint8),
        legs={
            "market": low[:, MARKETS][held],
            "size": cells[:, SIZES][held],
            "quote_leg": cells[:, QUOTE_LEGS][held],
        },
        holding_counts=kept.sum(axis=1, dtype=np.uint8),
        holdings={"collateral": low[:, COLLATERALS][kept], "amount": cells[:, AMOUNTS][kept]},
        episode_counts=told.astype(np.uint8),
        episodes={
            "flagger": flaggers[told],
            "bond": cells[told, BOND],
            "aid": cells[told, AID],
            "words": alarms[told],
        },
    )


def _checked(words: wide.Words, markets: int, collaterals: int) -> wide.Wides:
    """Decode the words of a page, and hold them to what a row may say; identifiers become zero."""
    numbers = words.copy()
    numbers[:, [ACCT, FLAGGER]] = 0
    cells = wide.decode(numbers)
    if (cells["hi"][:, ~SIGNED] < 0).any():
        raise ChainFault("expected unsigned integers below 2^127 in a page of rows, found a larger one")
    limits = {
        "state": (slice(STATE, STATE + 1), len(PHASES) - 1),
        "slope": (slice(SLOPE, SLOPE + 1), SLOPES - 1),
        "market": (MARKETS, markets),
        "collateral": (COLLATERALS, collaterals),
    }
    highest = np.full(WORDS, 2**64 - 1, np.uint64)
    for columns, limit in limits.values():
        highest[columns] = limit
    outside = BOUNDED & ((cells["hi"] != 0) | (cells["lo"] > highest))
    if outside.any():
        row, word = np.argwhere(outside)[0].tolist()
        names = (name for name, (columns, _) in limits.items() if columns.start <= word < columns.stop)
        name = next(names, "number")
        [found] = wide.to_ints(cells[row, word : word + 1])
        raise ChainFault(f"expected a {name} up to {highest[word]} in a page of rows, found {found}")
    return cells


def _words(page: bytes) -> wide.Words:
    """Cut an ABI-encoded ``Row[]`` into words [n, WORDS, 4]."""
    n = int.from_bytes(page[32:64])
    if len(page) != 32 * (HEADER + n * WORDS) or int.from_bytes(page[:32]) != 32:
        raise ChainFault(
            f"expected a page of rows of {WORDS} words, found {len(page)} bytes that say {n} rows"
        )
    return np.frombuffer(page, wide.BIG_ENDIAN, offset=32 * HEADER).reshape(n, WORDS, 4)


def _identifiers(words: wide.Words, word: int, width: int) -> NDArray[np.void]:
    """Return the last ``width`` bytes of one word of every row."""
    column = np.ascontiguousarray(words[:, word]).view(np.uint8)
    return np.ascontiguousarray(column[:, -width:]).view(f"V{width}")[:, 0]
