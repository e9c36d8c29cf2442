"""The answer of ``PerpReader.rows``, decoded by numpy without looking at any account; and one account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from keeper.columns import wide
from keeper.columns.keys import Rows
from keeper.columns.ledger import Ledger, Page
from keeper.columns.legs import Twins
from keeper.columns.pool import Entry, places
from keeper.errors import ChainFault
from keeper.protocols.perp_curie.math import Position, Trader
from keeper.units import WAD, AccountKey

COLUMNS = 2
"""Columns of words in the answer: heads and entries."""
HEAD_WORDS = ENTRY_WORDS = 2
ADDRESS = 20
HAS_ORDER, OTHER_COLLATERAL, UNLISTED, UNREADABLE = 1, 2, 4, 8
BARRED: Mapping[int, str] = {
    HAS_ORDER: "has orders, and makers are not judged",
    OTHER_COLLATERAL: "has collateral beside the settlement token",
    UNLISTED: "has a position in a market that is not listed",
    UNREADABLE: "cannot be read",
}
"""Why an account is not judged, by its flag."""
FLAGS = 16

CELLS: Entry = {"barred": (np.uint8,), "cash": (wide.WIDE,)}
POSITIONS: Entry = {
    "market": (np.uint16,),
    "size": (wide.WIDE,),
    "notional": (wide.WIDE,),
    "funding": (wide.WIDE,),
}


@dataclass(frozen=True, slots=True)
class Account:
    """One account as its row has it; ``barred`` are the flags for which it is not judged."""

    key: AccountKey
    trader: Trader
    barred: int = 0

    @property
    def owner(self) -> str:
        """Its address in lower case."""
        return "0x" + self.key[:ADDRESS].hex()


@dataclass(frozen=True, slots=True)
class PerpRows:
    """The shape of a book with these markets listed, by their virtual tokens, in their order."""

    bases: tuple[str, ...]
    cells: ClassVar[Entry] = CELLS
    runs: ClassVar[Mapping[str, Entry]] = {"positions": POSITIONS}
    classes: ClassVar[str] = "barred"
    shown: ClassVar[Sequence[str]] = ()

    @property
    def columns(self) -> Sequence[str]:
        """Every market."""
        return self.bases

    def decode(self, page: bytes) -> Page:
        """Decode a page, but for accounts that the contract could not read: these stay unread.

        Raises ChainFault where it is not a whole number of believable rows.
        """
        heads, entries = _columns(page)
        if len(heads) % HEAD_WORDS or len(entries) % ENTRY_WORDS:
            raise _cut_off(len(heads), len(entries), "whole rows")
        heads = heads.reshape(-1, HEAD_WORDS, 4)
        entries = entries.reshape(-1, ENTRY_WORDS, 4)
        names = np.ascontiguousarray(heads[:, 0]).view(np.uint8)
        count, flags = names[:, 31].copy(), names[:, 30].copy()
        if len(entries) != count.sum(dtype=np.intp):
            raise _cut_off(len(heads), len(entries), f"{count.sum(dtype=np.intp)} positions")
        first, second = wide.halves(entries[:, 0]), wide.halves(entries[:, 1])
        market = second["lo"][:, 1]
        if second["hi"][:, 1].any() or market.max(initial=0) >= max(1, len(self.bases)):
            raise ChainFault(f"expected markets below {len(self.bases)} in a page of rows, found others")
        if flags.max(initial=0) >= FLAGS or names[:, ADDRESS:30].any():
            raise ChainFault(f"expected flags below {FLAGS} in a page of rows, found others")
        read = flags & UNREADABLE == 0
        if count[~read].any():
            raise ChainFault("expected no positions of accounts that cannot be read, found some")
        keys = np.zeros((read.sum(), 32), np.uint8)
        keys[:, :ADDRESS] = names[read, :ADDRESS]
        return Page(
            keys=keys.view("V32")[:, 0],
            cells={"barred": flags[read], "cash": wide.decode(heads[read, 1])},
            counts={"positions": count[read]},
            runs={
                "positions": {
                    "market": market.astype(np.uint16),
                    "size": first[:, 0],
                    "notional": first[:, 1],
                    "funding": second[:, 0],
                }
            },
        )

    def check_names(self, page: bytes, accounts: Sequence[AccountKey]) -> None:
        """Raise ChainFault where a page is not of these accounts, in this order."""
        heads, _ = _columns(page)
        names = np.ascontiguousarray(heads[::HEAD_WORDS]).view(np.uint8)[:, :ADDRESS]
        if names.tobytes() != b"".join(account[:ADDRESS] for account in accounts):
            raise ChainFault(
                f"expected the rows of {len(accounts)} accounts asked for, found {len(names)} of others or"
                " in another order"
            )

    def broken_rule(self, page: Page) -> str | None:
        """Say that a page has flags that are none, or a market that is not listed."""
        if page.cells["barred"].max(initial=0) >= FLAGS:
            return f"an account has the flags {page.cells['barred'].max()}"
        highest = page.runs["positions"]["market"].max(initial=0)
        return (
            f"an account has a position in market {highest}" if highest >= max(1, len(self.bases)) else None
        )

    def twins(self, ledger: Ledger, rows: Rows) -> Twins:
        """Return settled money, what was paid for positions and the funding due in one, and the sizes.

        The money of an account that is not judged is no number, so that nobody takes it for healthy.
        """
        positions = ledger.runs["positions"]
        at, counts = positions.runs(rows)
        of = np.repeat(np.arange(len(rows)), counts)
        terms = np.zeros((2, len(rows), 1 + int(counts.max(initial=0))), wide.WIDE)
        terms[0, :, 0] = ledger["cash"][rows]
        terms[0, of, 1 + places(counts)] = positions["notional"][at]
        terms[1, of, 1 + places(counts)] = positions["funding"][at]
        cash = (wide.sum_to_floats(terms[0]) - wide.sum_to_floats(terms[1])) / WAD
        cash[ledger["barred"][rows] != 0] = np.nan
        columns, sizes = positions["market"][at].astype(np.intp), wide.to_floats(positions["size"][at]) / WAD
        return Twins(cash, of, columns, sizes)

    def holders(self, ledger: Ledger, markets: Sequence[int]) -> Rows:
        """Return the rows, in order, that have a position in one of some markets."""
        wanted = np.zeros(max(1, len(self.bases)), np.bool_)
        wanted[list(markets)] = True
        return ledger.runs["positions"].owners("market", wanted)

    def alike(self, mirror: Account, chain: Account) -> bool:
        """Tell whether both are the same but for the funding due, and the fees that a maker earns."""
        if mirror.barred or chain.barred:
            return mirror.barred == chain.barred
        return _without_funding(mirror) == _without_funding(chain)

    def row(self, ledger: Ledger, key: AccountKey, row: int) -> Account:
        """Return one account."""
        positions = ledger.runs["positions"]
        at = positions.run(row)
        columns = (wide.to_ints(positions[name][at]) for name in ("size", "notional", "funding"))
        numbers: list[int] = positions["market"][at].tolist()
        held = dict(zip(numbers, map(Position, *columns), strict=True))
        barred = int(ledger["barred"][row])
        cash_wad = wide.to_ints(ledger["cash"][row : row + 1])[0]
        return Account(key, Trader(cash_wad, held, bool(barred & HAS_ORDER)), barred)


def why_barred(account: Account) -> str:
    """Say why an account is not judged; empty where it is."""
    return " and ".join(words for flag, words in BARRED.items() if account.barred & flag)


def _without_funding(account: Account) -> Account:
    held = {number: replace(each, funding_wad=0) for number, each in account.trader.positions.items()}
    return replace(account, trader=replace(account.trader, positions=held))


def _columns(page: bytes) -> tuple[wide.Words, wide.Words]:
    """Cut an answer of two ABI-encoded ``uint256[]`` into words [k, 4] each."""
    words: NDArray[Any] = np.frombuffer(page, wide.BIG_ENDIAN, count=len(page) // 32 * 4).reshape(-1, 4)
    columns, at = list[wide.Words](), COLUMNS
    for number in range(COLUMNS):
        begins, count = _word(page, number), _word(page, at)
        column = words[at + 1 : at + 1 + count]
        if begins != 32 * at or len(column) != count:
            raise _cut_off(len(words), count, f"a column at {32 * at}, told {begins}")
        columns.append(column)
        at += 1 + count
    if len(page) != 32 * at:
        raise ChainFault(f"expected a page of rows of {32 * at} bytes, found {len(page)}")
    heads, entries = columns
    return heads, entries


def _word(page: bytes, number: int) -> int:
    return int.from_bytes(page[32 * number : 32 * (number + 1)])


def _cut_off(heads: int, entries: int, expected: str) -> ChainFault:
    return ChainFault(f"expected {expected} in a page of rows, found {heads} and {entries} words")
