"""One answer of ``MarginReader.rows``, decoded by numpy without looking at any account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from keeper.columns import wide
from keeper.columns.keys import KeyArray
from keeper.columns.pool import Entries, Entry
from keeper.domain import Phase
from keeper.errors import ChainFault
from keeper.units import AccountKey

COLUMNS = 4
"""Columns of words in the answer: heads, legs, amounts and episodes."""
HEAD_WORDS = 3
ACCT, CASH, STANDING = range(HEAD_WORDS)
"""A head: who it is, cash and markets, and the rest."""
EPISODE_WORDS = 19
FLAGGER, BOND, AID, REDUCED = 0, 1, 17, 18
NARROW = np.r_[REDUCED, BOND + 1 : AID]
"""The words of an episode that lie in 64 bits on chain, and most in fewer."""

PHASES = tuple(Phase)
MARKETS_EVER, COLLATERALS_EVER = 2**16 - 1, 2**8 - 1
"""The highest numbers that the contract can give."""

LEGS: Entry = {"market": (np.uint16,), "size": (wide.WIDE,), "quote_leg": (wide.WIDE,)}
HOLDINGS: Entry = {"collateral": (np.uint8,), "amount": (wide.WIDE,)}
EPISODES: Entry = {
    "flagger": ("V20",),
    "bond": (wide.WIDE,),
    "aid": (wide.WIDE,),
    "words": (np.uint64, len(NARROW)),
}


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in columns [n], as exact as they came; of legs, holdings and alarms as many as each row has.

    ``episodes`` has an entry for each row that has anything to say of an alarm, or of what came since.
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
    heads, legs, amounts, episodes = _columns(page)
    if len(heads) % HEAD_WORDS:
        raise _cut_off("heads", len(heads), f"a multiple of {HEAD_WORDS}")
    heads = heads.reshape(-1, HEAD_WORDS, 4)
    market = _narrow(heads[:, CASH, 2:], ">u2")
    standing = _narrow(heads[:, STANDING, 3:], np.uint8)
    state, told, collateral = standing[:, 2], standing[:, 3], standing[:, 4:]
    _at_most("state", state, len(PHASES) - 1)
    _at_most("mark of an episode", told, 1)
    _at_most("market", market, markets)
    _at_most("collateral", collateral, collaterals)
    held, kept = _from_the_left(market), _from_the_left(collateral)
    for name, column, count in (
        ("legs", legs, held.sum()),
        ("amounts", amounts, kept.sum()),
        ("episodes", episodes, EPISODE_WORDS * told.sum(dtype=np.intp)),
    ):
        if len(column) != count:
            raise _cut_off(name, len(column), str(count))
    return Page(
        keys=_identifiers(heads[:, ACCT], 32),
        phases=state.copy(),
        slopes=_narrow(heads[:, STANDING, 3:], ">u2")[:, 0].astype(np.uint16),
        cash=wide.halves(heads[:, CASH])[:, 0],
        times=heads[:, STANDING, :3].astype(np.uint64),
        leg_counts=held.sum(axis=1, dtype=np.uint8),
        legs={
            "market": market[held].astype(np.uint16),
            "size": wide.halves(legs)[:, 0],
            "quote_leg": wide.halves(legs)[:, 1],
        },
        holding_counts=kept.sum(axis=1, dtype=np.uint8),
        holdings={"collateral": collateral[kept], "amount": _unsigned(amounts)},
        episode_counts=told.copy(),
        episodes=_episodes(episodes.reshape(-1, EPISODE_WORDS, 4)),
    )


def check_names(page: bytes, accounts: Sequence[AccountKey]) -> None:
    """Raise ChainFault where a page is not of these accounts, in this order."""
    heads, *_ = _columns(page)
    if np.ascontiguousarray(heads[::HEAD_WORDS]).tobytes() != b"".join(accounts):
        raise ChainFault(
            f"expected the rows of {len(accounts)} accounts asked for, found {len(heads) // HEAD_WORDS}"
            " of others or in another order"
        )


def _episodes(words: wide.Words) -> Entries:
    """Read the words of episodes [k, EPISODE_WORDS, 4]."""
    narrow = _unsigned(words[:, NARROW])
    if narrow["hi"].any():
        raise ChainFault("expected times and counts of 64 bits in an episode, found a larger one")
    return {
        "flagger": _identifiers(words[:, FLAGGER], 20),
        "bond": _unsigned(words[:, BOND]),
        "aid": _unsigned(words[:, AID]),
        "words": narrow["lo"],
    }


def _columns(page: bytes) -> list[wide.Words]:
    """Cut an answer of several ABI-encoded ``uint256[]`` into words [k, 4] each."""
    columns, at = list[wide.Words](), COLUMNS
    words = np.frombuffer(page, wide.BIG_ENDIAN, count=len(page) // 32 * 4).reshape(-1, 4)
    for number in range(COLUMNS):
        begins, count = _word(page, number), _word(page, at)
        column = words[at + 1 : at + 1 + count]
        if begins != 32 * at or len(column) != count:
            raise ChainFault(
                f"expected {COLUMNS} whole columns of words, found {len(page)} bytes, of which {count} words"
                f" at {begins}"
            )
        columns.append(column)
        at += 1 + count
    if len(page) != 32 * at:
        raise ChainFault(f"expected a page of rows of {32 * at} bytes, found {len(page)}")
    return columns


def _word(page: bytes, number: int) -> int:
    return int.from_bytes(page[32 * number : 32 * (number + 1)])


def _cut_off(name: str, found: int, expected: str) -> ChainFault:
    return ChainFault(f"expected {expected} words of {name} in a page of rows, found {found}")


def _at_most(name: str, numbers: NDArray[Any], limit: int) -> None:
    """Raise ChainFault where one of some numbers is higher than any that there is."""
    if (numbers > limit).any():
        raise ChainFault(f"expected a {name} up to {limit} in a page of rows, found {numbers.max()}")


def _from_the_left(numbers: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which places [n, places] are used; raise ChainFault where one is used behind one that is not."""
    used: NDArray[np.bool_] = numbers != 0
    if (used[:, 1:] & ~used[:, :-1]).any():
        raise ChainFault("expected the markets and collaterals of a row side by side, found a gap")
    return used


def _unsigned(words: wide.Words) -> wide.Wides:
    """Read words [..., 4] of numbers below 2^127."""
    cells = wide.decode(words)
    if (cells["hi"] < 0).any():
        raise ChainFault("expected unsigned integers below 2^127 in a page of rows, found a larger one")
    return cells


def _narrow(limbs: wide.Words, dtype: DTypeLike) -> NDArray[Any]:
    """See limbs [n, limbs] as numbers of fewer bits [n, numbers], the highest first."""
    return np.ascontiguousarray(limbs).view(dtype)


def _identifiers(words: wide.Words, width: int) -> NDArray[np.void]:
    """Return the last ``width`` bytes of words [n, 4]."""
    column = _narrow(words, np.uint8)
    return np.ascontiguousarray(column[:, -width:]).view(f"V{width}")[:, 0]
