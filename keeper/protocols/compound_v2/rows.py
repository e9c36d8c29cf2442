"""The answer of ``VenusReader.rows``, decoded by numpy without looking at any account; and one account."""

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
from keeper.protocols.compound_v2 import math
from keeper.units import WAD, AccountKey

ENTRY_WORDS = 3
OWNER_BYTES = 20
MOST_ENTERED = 127
"""A book counts the legs of a row in a byte, and each market can be two: held and owed."""
AMOUNTS = ("held", "principal", "index")


@dataclass(frozen=True, slots=True)
class Loan:
    """An account in a pool."""

    key: AccountKey
    state: math.Loan


@dataclass(frozen=True, slots=True)
class VenusRows:
    """The shape of a book with these vTokens listed.

    Only markets that an account has entered are its own: the others' vTokens count for nothing.
    """

    vtokens: tuple[str, ...]
    cells: ClassVar[Entry] = {"classes": (np.uint8,)}
    """All accounts are of one class."""
    runs: ClassVar[Mapping[str, Entry]] = {
        "entered": {
            "market": (np.uint16,),
            "held": (wide.WIDE,),
            "principal": (wide.WIDE,),
            "index": (wide.WIDE,),
        }
    }
    classes: ClassVar[str] = "classes"
    shown: ClassVar[Sequence[str]] = ()

    @property
    def columns(self) -> Sequence[tuple[str, str]]:
        """Every vToken as a collateral, then every one as a debt."""
        return [(side, vtoken) for side in ("held", "owed") for vtoken in self.vtokens]

    def decode(self, page: bytes) -> Page:
        """Decode a page; raise ChainFault where it is not a whole number of believable rows."""
        heads, entries = _columns(page)
        owners = np.ascontiguousarray(heads).view(np.uint8).reshape(-1, 32).copy()
        counts = owners[:, -1].copy()
        if owners[:, OWNER_BYTES:-1].any() or counts.max(initial=0) > MOST_ENTERED:
            raise ChainFault(f"expected at most {MOST_ENTERED} markets entered by an account, found more")
        owners[:, -1] = 0
        if len(entries) != ENTRY_WORDS * counts.sum(dtype=np.intp):
            expected = f"{ENTRY_WORDS * counts.sum(dtype=np.intp)} words of markets entered"
            raise ChainFault(f"expected {expected} in a page of rows, found {len(entries)}")
        entries = entries.reshape(-1, ENTRY_WORDS, 4)
        if (entries[:, 0, :3] != 0).any() or (entries[:, 0, 3] >= len(self.vtokens)).any():
            raise ChainFault("expected markets that are listed in a page of rows, found another")
        amounts, index = wide.halves(np.ascontiguousarray(entries[:, 1])), wide.decode(entries[:, 2])
        if (amounts["hi"] < 0).any() or (index["hi"] < 0).any():
            raise ChainFault("expected amounts below 2^127 in a page of rows, found a larger one")
        owed = (amounts[:, 1]["lo"] != 0) | (amounts[:, 1]["hi"] != 0)
        if (owed & (index["lo"] == 0) & (index["hi"] == 0)).any():
            raise ChainFault("expected an index with every debt in a page of rows, found none")
        return Page(
            keys=owners.view("V32")[:, 0],
            cells={"classes": np.zeros(len(owners), np.uint8)},
            counts={"entered": counts},
            runs={
                "entered": {
                    "market": entries[:, 0, 3].astype(np.uint16),
                    "held": amounts[:, 0],
                    "principal": amounts[:, 1],
                    "index": index,
                }
            },
        )

    def check_names(self, page: bytes, accounts: Sequence[AccountKey]) -> None:
        """Raise ChainFault where a page is not of these accounts, in this order."""
        found = self.decode(page).keys.tolist()
        if found != [*accounts]:
            raise ChainFault(
                f"expected the rows of {len(accounts)} accounts asked for, found {len(found)} of others or in"
                " another order"
            )

    def broken_rule(self, page: Page) -> str | None:
        """Say that an account has entered a market that is not listed."""
        highest = page.runs["entered"]["market"].max(initial=0)
        return f"an account is in market {highest}" if highest >= len(self.vtokens) else None

    def twins(self, ledger: Ledger, rows: Rows) -> Twins:
        """Return no cash; and vTokens, and debts over their index."""
        entered = ledger.runs["entered"]
        at, counts = entered.runs(rows)
        of, market = np.repeat(np.arange(len(rows)), counts), entered["market"][at].astype(np.intp)
        held, principal, index = (wide.to_floats(entered[name][at]) for name in AMOUNTS)
        owed = principal * WAD / np.where(principal > 0, index, 1)
        columns = np.concatenate([market, len(self.vtokens) + market])
        return Twins(np.zeros(len(rows)), np.tile(of, 2), columns, np.concatenate([held, owed]))

    def holders(self, ledger: Ledger, markets: Sequence[int]) -> Rows:
        """Raise InvariantBroken: no event of Venus changes the accounts of a market without naming them."""
        del ledger
        raise InvariantBroken(f"events of Venus name accounts, found markets {list(markets)}")

    def alike(self, mirror: Loan, chain: Loan) -> bool:
        """Tell whether both are the same: principal and index change by acts only."""
        return mirror == chain

    def row(self, ledger: Ledger, key: AccountKey, row: int) -> Loan:
        """Return one account."""
        entered = ledger.runs["entered"]
        at = entered.run(row)
        markets = entered["market"][at].tolist()
        held, principals, indices = (wide.to_ints(entered[name][at]) for name in AMOUNTS)
        debts = zip(markets, principals, indices, strict=True)
        state = math.Loan(
            tuple(markets),
            {market: units for market, units in zip(markets, held, strict=True) if units},
            {market: math.Debt(principal, index) for market, principal, index in debts if principal},
        )
        return Loan(key, state)


def _columns(page: bytes) -> tuple[wide.Words, wide.Words]:
    """Cut an answer of two ABI-encoded ``uint256[]`` into words [k, 4] each."""
    words = np.frombuffer(page, wide.BIG_ENDIAN, count=len(page) // 32 * 4).reshape(-1, 4)
    heads, entries = _word(page, 2), _word(page, 3 + _word(page, 2))
    starts = (_word(page, 0), _word(page, 1))
    if starts != (64, 32 * (3 + heads)) or len(page) != 32 * (4 + heads + entries):
        raise ChainFault(f"expected two whole columns of words in a page of rows, found {len(page)} bytes")
    return words[3 : 3 + heads], words[4 + heads :]


def _word(page: bytes, number: int) -> int:
    return int.from_bytes(page[32 * number : 32 * (number + 1)])
