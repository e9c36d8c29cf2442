"""The answer of ``AaveReader.rows``, decoded by numpy without looking at any account; and one account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from keeper.columns import wide
from keeper.columns.keys import KEY, KeyArray, Rows
from keeper.columns.ledger import Ledger, Page
from keeper.columns.legs import Twins
from keeper.columns.pool import Entry
from keeper.errors import ChainFault
from keeper.protocols.aave_v3.math import Loan
from keeper.protocols.aave_v3.params import CATEGORIES, MAX_RESERVES
from keeper.units import AccountKey

COLLATERAL, DEBT, STABLE_DEBT = range(3)
"""Kinds of entries; the last there is in 3.0 alone."""
OWNER_BYTES: Final = 20
MOST_ENTRIES: Final = 255
_COLUMNS: Final = 2
"""Columns of words in the answer: heads and entries."""


@dataclass(frozen=True, slots=True)
class AaveRow:
    """An account: its e-mode category, and scaled amounts by reserve of what is flagged."""

    key: AccountKey
    category: int
    collateral: tuple[tuple[int, int], ...]
    debt: tuple[tuple[int, int], ...]
    stable_debt: tuple[int, ...] = ()
    """3.0: the reserves owed at a stable rate, which our mathematics does not know."""

    @property
    def loan(self) -> Loan:
        """It as the mathematics takes it."""
        return Loan(self.category, dict(self.collateral), dict(self.debt))


@dataclass(frozen=True, slots=True)
class AaveRows:
    """The shape of a book of a pool with so many numbers of reserves."""

    reserves: int = MAX_RESERVES
    cells: ClassVar[Entry] = {"category": (np.uint8,)}
    runs: ClassVar[Mapping[str, Entry]] = {
        "entries": {"kind": (np.uint8,), "reserve": (np.uint8,), "amount": (wide.WIDE,)}
    }
    classes: ClassVar[str] = "category"
    shown: ClassVar[Sequence[str]] = ()

    @property
    def columns(self) -> Sequence[tuple[str, int]]:
        """Every reserve as collateral, then every one as debt."""
        return [(kind, number) for kind in ("collateral", "debt") for number in range(self.reserves)]

    def decode(self, page: bytes) -> Page:
        """Decode a page, and hold it to what a row may say with so many reserves listed.

        Raises ChainFault where it is not a whole number of believable rows.
        """
        heads, entries = _columns(page)
        category, counts = heads[:, 3] >> 16, heads[:, 3] & 0xFFFF
        _at_most("e-mode category", category, CATEGORIES - 1)
        _at_most("number of entries", counts, MOST_ENTRIES)
        if (heads[:, 2] & wide.LOW).any():
            raise ChainFault("expected nothing between a user and its category, found a larger number")
        kind, reserve = entries[:, 1] >> 8, entries[:, 1] & 0xFF
        if entries[:, 0].any():
            raise ChainFault("expected nothing above the kind of an entry, found a larger number")
        _at_most("kind of an entry", kind, STABLE_DEBT)
        _at_most("reserve", reserve, self.reserves - 1)
        if counts.sum() != len(entries):
            raise ChainFault(f"expected {counts.sum()} entries in a page of rows, found {len(entries)}")
        amounts = wide.halves(entries)[:, 1]
        if (amounts["hi"] < 0).any():
            raise ChainFault("expected scaled amounts below 2^127 in a page of rows, found a larger one")
        return Page(
            keys=_keys(heads),
            cells={"category": category.astype(np.uint8)},
            counts={"entries": counts.astype(np.uint8)},
            runs={
                "entries": {
                    "kind": kind.astype(np.uint8),
                    "reserve": reserve.astype(np.uint8),
                    "amount": amounts,
                }
            },
        )

    def check_names(self, page: bytes, accounts: Sequence[AccountKey]) -> None:
        """Raise ChainFault where a page is not of these accounts, in this order."""
        heads, _ = _columns(page)
        if _keys(heads).tobytes() != b"".join(accounts):
            raise ChainFault(
                f"expected the rows of {len(accounts)} accounts asked for, found {len(heads)} of others or in"
                " another order"
            )

    def broken_rule(self, page: Page) -> str | None:
        """Say that a page has an entry of a kind that is none."""
        highest = page.runs["entries"]["kind"].max(initial=0)
        return f"an account has an entry of kind {highest}" if highest > STABLE_DEBT else None

    def twins(self, ledger: Ledger, rows: Rows) -> Twins:
        """Return no cash, and scaled amounts of reserves held and owed in units of the tokens.

        The cash of an account with stable debt is no number: nobody knows what it owes.
        """
        entries = ledger.runs["entries"]
        at, counts = entries.runs(rows)
        of, kind = np.repeat(np.arange(len(rows)), counts), entries["kind"][at]
        reserve = entries["reserve"][at].astype(np.intp)
        listed = (reserve < self.reserves) & (kind != STABLE_DEBT)
        cash = np.zeros(len(rows))
        cash[of[kind == STABLE_DEBT]] = np.nan
        column = np.where(kind == DEBT, self.reserves, 0) + reserve
        return Twins(cash, of[listed], column[listed], wide.to_floats(entries["amount"][at[listed]]))

    def holders(self, ledger: Ledger, markets: Sequence[int]) -> Rows:
        """Return the rows, in order, that hold or owe one of some reserves."""
        wanted = np.zeros(256, np.bool_)
        wanted[list(markets)] = True
        return ledger.runs["entries"].owners("reserve", wanted)

    def alike(self, mirror: AaveRow, chain: AaveRow) -> bool:
        """Tell whether both are the same to the unit: only acts change scaled amounts."""
        return mirror == chain

    def row(self, ledger: Ledger, key: AccountKey, row: int) -> AaveRow:
        """Return one account."""
        entries = ledger.runs["entries"]
        at = entries.run(row)
        kinds, reserves = entries["kind"][at].tolist(), entries["reserve"][at].tolist()
        found = list(zip(kinds, reserves, wide.to_ints(entries["amount"][at]), strict=True))
        return AaveRow(
            key=key,
            category=int(ledger["category"][row]),
            collateral=tuple((reserve, scaled) for kind, reserve, scaled in found if kind == COLLATERAL),
            debt=tuple((reserve, scaled) for kind, reserve, scaled in found if kind == DEBT),
            stable_debt=tuple(reserve for kind, reserve, _ in found if kind == STABLE_DEBT),
        )


def _columns(page: bytes) -> list[wide.Words]:
    """Cut an answer of two ABI-encoded ``uint256[]`` into words [k, 4] each."""
    columns, at = list[wide.Words](), _COLUMNS
    words = np.frombuffer(page, wide.BIG_ENDIAN, count=len(page) // 32 * 4).reshape(-1, 4).astype(np.uint64)
    for number in range(_COLUMNS):
        begins, count = (int.from_bytes(page[32 * word : 32 * (word + 1)]) for word in (number, at))
        column = words[at + 1 : at + 1 + count]
        if begins != 32 * at or len(column) != count:
            raise ChainFault(
                f"expected {_COLUMNS} whole columns of words, found {len(page)} bytes, of which {count} words"
                f" at {begins}"
            )
        columns.append(column)
        at += 1 + count
    if len(page) != 32 * at:
        raise ChainFault(f"expected a page of rows of {32 * at} bytes, found {len(page)}")
    return columns


def _keys(heads: wide.Words) -> KeyArray:
    """Return the owners, each followed by zeros."""
    named = heads.astype(wide.BIG_ENDIAN).view(np.uint8).reshape(-1, 32)
    named[:, OWNER_BYTES:] = 0
    return named.view(KEY)[:, 0]


def _at_most(name: str, numbers: NDArray[Any], limit: int) -> None:
    """Raise ChainFault where one of some numbers is higher than any that there is."""
    if (numbers > limit).any():
        raise ChainFault(f"expected a {name} up to {limit} in a page of rows, found {numbers.max()}")
