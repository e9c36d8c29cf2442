"""The answer of ``MorphoReader.rows``, decoded by numpy; and one account in one market.

A class is a market, or a market with a pre-liquidation contract that the owner authorised: with one level for
both, whoever has not authorised any would be judged at every head between the two limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keeper.columns import wide
from keeper.columns.keys import Rows
from keeper.columns.ledger import Ledger, Page
from keeper.columns.legs import Twins
from keeper.columns.pool import Entry
from keeper.errors import ChainFault, InvariantBroken
from keeper.protocols.morpho_blue.math import Position
from keeper.units import AccountKey

ROW_WORDS = 3
COLLATERAL, SHARES = range(2)
"""The columns of a book: units of the collateral, and shares of the debt, of whichever market it is."""


@dataclass(frozen=True, slots=True)
class Loan:
    """What one owner has in one market."""

    key: AccountKey
    collateral: int
    borrow_shares: int
    authorised: tuple[int, ...] = ()
    """The numbers of its market's pre-liquidation contracts that may be used."""

    @property
    def position(self) -> Position:
        """Return it in the words of the formulas."""
        return Position(self.borrow_shares, self.collateral)


@dataclass(frozen=True, slots=True)
class MorphoRows:
    """The shape of a book under one listing.

    A row whose key names a market that is not listed is empty, and has the first class.
    """

    places: Mapping[bytes, int]
    """The number of a market by the first 12 bytes of its id."""
    mark: int
    """Of the listing; it is kept in the rows."""
    cells: ClassVar[Entry] = {
        "classes": (np.uint16,),
        "authorised": (np.uint64,),
        "mark": (np.uint32,),
        "collateral": (wide.WIDE,),
        "shares": (wide.WIDE,),
    }
    runs: ClassVar[Mapping[str, Entry]] = {}
    columns: ClassVar[Sequence[str]] = ("collateral", "shares")
    classes: ClassVar[str] = "classes"
    """Twice the number of the market, and one more with a pre-liquidation contract authorised."""
    shown: ClassVar[Sequence[str]] = ()

    def decode(self, page: bytes) -> Page:
        """Decode a page; raise ChainFault where it is not a whole number of believable rows."""
        heads = _heads(page)
        amounts = wide.halves(np.ascontiguousarray(heads[:, 1]))
        if (amounts["hi"] < 0).any():
            raise ChainFault("expected amounts below 2^127 in a page of rows, found a larger one")
        keys = np.ascontiguousarray(heads[:, 0]).view(np.uint8).reshape(-1, 32).view("V32")[:, 0]
        authorised = heads[:, 2, 3].astype(np.uint64)
        if heads[:, 2, :3].any():
            raise ChainFault("expected at most 64 pre-liquidation contracts in a page of rows, found more")
        places = [self.places.get(key[20:], 0) for key in keys.tolist()]
        return Page(
            keys=keys,
            cells={
                "classes": 2 * np.array(places, np.uint16) + (authorised != 0),
                "authorised": authorised,
                "mark": np.full(len(keys), self.mark, np.uint32),
                "collateral": amounts[:, 0],
                "shares": amounts[:, 1],
            },
            counts={},
            runs={},
        )

    def check_names(self, page: bytes, accounts: Sequence[AccountKey]) -> None:
        """Raise ChainFault where a page is not of these accounts, in this order."""
        heads = _heads(page)
        if np.ascontiguousarray(heads[:, 0]).tobytes() != b"".join(accounts):
            raise ChainFault(
                f"expected the rows of {len(accounts)} accounts asked for, found {len(heads)} of others or in"
                " another order"
            )

    def broken_rule(self, page: Page) -> str | None:
        """Say that rows were read under another listing: their classes and bits mean something else."""
        if (page.cells["mark"] == self.mark).all():
            return None
        return "its accounts were read while other markets or pre-liquidation contracts were listed"

    def twins(self, ledger: Ledger, rows: Rows) -> Twins:
        """Return no cash, and collateral and shares in units, each rounded once."""
        sizes = np.concatenate([wide.to_floats(ledger[name][rows]) for name in self.columns])
        columns, of = np.divmod(np.arange(len(sizes)), max(1, len(rows)))
        return Twins(np.zeros(len(rows)), of, columns, sizes)

    def holders(self, ledger: Ledger, markets: Sequence[int]) -> Rows:
        """Raise InvariantBroken: no event of Morpho changes the accounts of a market without naming them."""
        del ledger
        raise InvariantBroken(f"events of Morpho Blue name accounts, found markets {list(markets)}")

    def alike(self, mirror: Loan, chain: Loan) -> bool:
        """Tell whether both are the same: only acts change a row."""
        return mirror == chain

    def row(self, ledger: Ledger, key: AccountKey, row: int) -> Loan:
        """Return one account."""
        bits = int(ledger["authorised"][row])
        [collateral], [shares] = (wide.to_ints(ledger[name][row : row + 1]) for name in self.columns)
        authorised = tuple(number for number in range(bits.bit_length()) if bits >> number & 1)
        return Loan(key, collateral, shares, authorised)


def _heads(page: bytes) -> wide.Words:
    """Cut an ABI-encoded ``uint256[]`` into rows of words [n, ROW_WORDS, 4]."""
    words = np.frombuffer(page, wide.BIG_ENDIAN, count=len(page) // 32 * 4).reshape(-1, 4)
    count = int.from_bytes(page[32:64])
    if len(page) != 32 * (2 + count) or int.from_bytes(page[:32]) != 32 or count % ROW_WORDS:
        raise ChainFault(f"expected rows of {ROW_WORDS} words each, found {len(page)} bytes, {count} words")
    heads: wide.Words = words[2:].reshape(-1, ROW_WORDS, 4)
    return heads
