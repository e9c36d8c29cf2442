"""The mirror: every account of one deployment in columns, exact, with float64 twins for the trigger.

A row is what ``MarginReader`` returns, word by word, so that a page of rows is decoded and scattered by
numpy without looking at any account. The legs and holdings keep the contract's order: it sells the first
holding first. The twins are dense: one column for each market, perp or option, then one for each collateral.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from keeper.domain import Account, FlagState, Head, Holding, Leg, Phase, Unknown
from keeper.errors import ChainFault
from keeper.state import wide
from keeper.units import WAD, AccountKey, Block

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Scalar = TypeVar("Scalar", bound=np.generic)

# MarginReader.Row, in words; the Flag struct lies inline.
ACCT, STATE, CASH, LAST_RISK_AT, LAST_RISK_BLOCK, DEBT_SINCE, AID, REDUCED, SLOPE, FLAGGER = range(10)
FLAG = slice(10, 26)
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
MONEY = np.r_[CASH, QUOTE_LEGS]
IDENTIFIERS = np.r_[ACCT, FLAGGER]
SIGNED = np.isin(np.arange(WORDS), np.r_[CASH, SIZES, QUOTE_LEGS])
SLOPES = 2**16
"""Slopes have numbers below this."""
REMEMBERED_BLOCKS = 256
"""How many blocks back it is known which accounts each touched."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A book as the trigger sees it: quote and units as float64, n rows and i instruments.

    ``cash`` [n] includes the quote legs, and is NaN in a row whose account has changed and was not read
    since: nobody acts on it. ``positions`` is [n, i]. ``phases`` [n] holds ``PHASES`` by number, ``slopes``
    [n] the slope that each owner chose, 0 for the default.
    """

    keys: NDArray[np.void]
    phases: NDArray[np.uint8]
    slopes: NDArray[np.uint16]
    cash: Floats
    positions: Floats

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> AccountKey:
        """Return the account of a row."""
        return bytes(self.keys[row].tobytes())


class Book:
    """The accounts of one deployment. Markets and collaterals are numbered from 1, as on chain.

    Facts make accounts dirty; folding the rows read anew makes them clean. A reorg makes dirty whatever the
    orphaned blocks had touched.
    """

    def __init__(self, *, markets: int, collaterals: int) -> None:
        self._markets = markets
        self._collaterals = collaterals
        self._index: dict[AccountKey, int] = {}
        self._keys: NDArray[np.void] = np.zeros(0, "V32")
        self._flaggers: NDArray[np.void] = np.zeros(0, "V20")
        self._cells: wide.Wides = np.zeros((0, WORDS), wide.WIDE)
        self._cash: Floats = np.zeros(0)
        self._positions: Floats = np.zeros((0, markets + collaterals))
        self._shared = False
        self._dirty: dict[AccountKey, None] = {}
        self._touched: dict[Block, set[AccountKey]] = {}
        self._complete_after: Block = 0

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: AccountKey) -> bool:
        return key in self._index

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """Every account, in the order of the rows."""
        return tuple(self._index)

    def relist(self, *, markets: int, collaterals: int) -> None:
        """Give every listed instrument its column; the accounts stay as they were read.

        Fewer than before are listed only where a reorg took a listing back: then it took back, and made
        dirty, whatever held a position there.
        """
        old, kept = self._positions, min(markets, self._markets)
        self._positions = np.zeros((len(old), markets + collaterals))
        self._positions[:, :kept] = old[:, :kept]
        kept = min(collaterals, self._collaterals)
        self._positions[:, markets : markets + kept] = old[:, self._markets : self._markets + kept]
        self._markets, self._collaterals, self._shared = markets, collaterals, False

    # --- what changed ---

    def mark_holders_dirty(self, market: int, block: Block) -> None:
        """Note that ``block`` touched whoever has a position in a market, and whoever may have one by now."""
        self.mark_dirty([*self.holders([market]), *self._dirty], block)

    def mark_dirty(self, keys: Iterable[AccountKey], block: Block) -> None:
        """Note that ``block`` touched some accounts, known or new: their rows must be read again."""
        keys = tuple(keys)
        self._dirty.update(dict.fromkeys(keys))
        if block not in self._touched:
            self._complete_after = max(self._complete_after, block - REMEMBERED_BLOCKS)
            for old in [each for each in self._touched if each <= self._complete_after]:
                del self._touched[old]
        self._touched.setdefault(block, set()).update(keys)

    def unwind(self, orphaned: Sequence[Head]) -> None:
        """Make dirty what orphaned blocks touched; everything, where one is older than memory.

        Call it before marking what the adopted blocks touch: these have the same numbers.
        """
        for head in orphaned:
            if head.number <= self._complete_after:
                self._dirty.update(dict.fromkeys(self._index))
            self._dirty.update(dict.fromkeys(self._touched.pop(head.number, ())))

    def dirty(self) -> tuple[AccountKey, ...]:
        """Return the accounts to read, oldest mark first."""
        return tuple(self._dirty)

    # --- what was read ---

    def fold_rows(self, page: bytes, block: Block) -> int:
        """Take over one answer of ``MarginReader.rows``, read at ``block``; return the number of rows.

        Raises ChainFault, and changes nothing, where the page is not a whole number of believable rows.
        """
        words = _words(page)
        cells = self._checked(words)
        keys: list[AccountKey] = _identifiers(words, ACCT, 32).tolist()
        if any(key not in self._index and key not in self._dirty for key in keys):
            # Found by looking, not by an event: what touched it before this block is not on record.
            self._complete_after = max(self._complete_after, block)
        rows = self._rows_of(keys)
        self._keys[rows] = _identifiers(words, ACCT, 32)
        self._flaggers[rows] = _identifiers(words, FLAGGER, 20)
        self._cells[rows] = cells
        self._derive(rows)
        for key in keys:
            self._dirty.pop(key, None)
        return len(keys)

    def _checked(self, words: wide.Words) -> wide.Wides:
        """Decode the words of a page, and hold them to what a row may say."""
        cells = _cells(words)
        if (cells["hi"][:, ~SIGNED] < 0).any():
            raise ChainFault("expected unsigned integers below 2^127 in a page of rows, found a larger one")
        limits = (
            ("state", STATE, len(PHASES) - 1),
            ("slope", SLOPE, SLOPES - 1),
            ("market", MARKETS, self._markets),
            ("collateral", COLLATERALS, self._collaterals),
        )
        for name, columns, limit in limits:
            if (largest := wide.to_floats(cells[:, columns]).max(initial=0)) > limit:
                raise ChainFault(f"expected a {name} up to {limit} in a page of rows, found {largest:.0f}")
        return cells

    def _rows_of(self, keys: Sequence[AccountKey]) -> Rows:
        """Return the row of every key; new ones get the next, and the columns grow by doubling."""
        rows = np.array([self._index.setdefault(key, len(self._index)) for key in keys], np.intp)
        if (missing := len(self._index) - len(self._keys)) > 0:
            more = max(missing, len(self._keys))
            self._keys = _grown(self._keys, more)
            self._flaggers = _grown(self._flaggers, more)
            self._cells = _grown(self._cells, more)
            self._cash = _grown(self._cash, more)
            self._positions = _grown(self._positions, more)
            self._shared = False
        return rows

    def _derive(self, rows: Rows) -> None:
        """Compute the float64 twins of some rows; a snapshot handed out keeps its own."""
        if self._shared:
            self._positions, self._shared = self._positions.copy(), False
        cells = self._cells[rows]
        self._cash[rows] = wide.sum_to_floats(cells[:, MONEY]) / WAD
        self._positions[rows] = np.hstack(
            [
                _dense(cells, MARKETS, SIZES, self._markets),
                _dense(cells, COLLATERALS, AMOUNTS, self._collaterals),
            ]
        )

    # --- what is known ---

    def freeze(self) -> Snapshot:
        """Return the book as it is; later folds do not change what was handed out."""
        n = len(self)
        cash = self._cash[:n].copy()
        cash[[self._index[key] for key in self._dirty if key in self._index]] = np.nan
        self._shared = True
        positions = self._positions[:n]
        positions.flags.writeable = False
        chosen = self._cells["lo"][:n]
        phases, slopes = chosen[:, STATE].astype(np.uint8), chosen[:, SLOPE].astype(np.uint16)
        return Snapshot(self._keys[:n], phases, slopes, cash, positions)

    def holders(self, markets: Sequence[int]) -> tuple[AccountKey, ...]:
        """Return the accounts that had a position in one of some markets when they were last read.

        Found in the few slots of each row rather than in the columns: expired options may be hundreds.
        """
        listed = np.array([market for market in markets if market <= self._markets], np.uint64)
        if not listed.size:
            return ()
        held = np.isin(self._cells["lo"][: len(self), MARKETS], listed).any(axis=1)
        return tuple(bytes(key) for key in self._keys[: len(self)][held].tolist())

    def exact(self, key: AccountKey) -> Account | Unknown:
        """Return the exact state of one account; Unknown where it was never read, or changed since."""
        row = self._index.get(key)
        if row is None or key in self._dirty:
            return Unknown(
                f"account 0x{key.hex()}", "never read" if row is None else "changed, and not read since"
            )
        return _account(key, wide.to_ints(self._cells[row]), self._flaggers[row].tobytes())


def accounts_of(page: bytes) -> tuple[Account, ...]:
    """Read one answer of ``MarginReader.rows`` by itself, in its order; raise ChainFault where it is none."""
    words = _words(page)
    rows = zip(
        _identifiers(words, ACCT, 32).tolist(),
        map(wide.to_ints, _cells(words)),
        _identifiers(words, FLAGGER, 20).tolist(),
        strict=True,
    )
    return tuple(_account(key, numbers, flagger) for key, numbers, flagger in rows)


def _account(key: AccountKey, words: Sequence[int], flagger: bytes) -> Account:
    bond, flagged_at, flagged_block, tau_at_flag, tau, last_poke, tau_at_confirm, *rest = words[FLAG]
    confirmed_at, fee_cap, step_start, step_used, nonce, carry_tau, carried_at, slope, insolvent_tau = rest
    legs = zip(words[MARKETS], words[SIZES], words[QUOTE_LEGS], strict=True)
    holdings = zip(words[COLLATERALS], words[AMOUNTS], strict=True)
    return Account(
        key=key,
        phase=PHASES[words[STATE]],
        cash_wad=words[CASH],
        legs=tuple(Leg(*leg) for leg in legs if leg[0]),
        holdings=tuple(Holding(*holding) for holding in holdings if holding[0]),
        last_risk_s=words[LAST_RISK_AT],
        last_risk_block=words[LAST_RISK_BLOCK],
        debt_since_s=words[DEBT_SINCE],
        flag=FlagState(
            flagger="0x" + flagger.hex(),
            bond_wad=bond,
            flagged_at_s=flagged_at,
            flagged_block=flagged_block,
            tau_at_flag_s=tau_at_flag,
            tau_s=tau,
            last_poke_s=last_poke,
            tau_at_confirm_s=tau_at_confirm,
            confirmed_at_s=confirmed_at,
            fee_cap_wad=fee_cap,
            step_start_s=step_start,
            step_used_wad=step_used,
            tranche_nonce=nonce,
            aid_wad=words[AID],
            reduced=bool(words[REDUCED]),
            carry_tau_s=carry_tau,
            carried_at_s=carried_at,
            slope=slope,
            insolvent_tau_s=insolvent_tau,
        ),
        slope_choice=words[SLOPE],
    )


def _words(page: bytes) -> wide.Words:
    """Cut an ABI-encoded ``Row[]`` into words [n, WORDS, 4]."""
    n = int.from_bytes(page[32:64])
    if len(page) != 32 * (HEADER + n * WORDS) or int.from_bytes(page[:32]) != 32:
        raise ChainFault(
            f"expected a page of rows of {WORDS} words, found {len(page)} bytes that say {n} rows"
        )
    return np.frombuffer(page, wide.BIG_ENDIAN, offset=32 * HEADER).reshape(n, WORDS, 4)


def _cells(words: wide.Words) -> wide.Wides:
    """Decode words [n, WORDS, 4]; the identifiers, which are no integers, become zero."""
    numbers = words.copy()
    numbers[:, IDENTIFIERS] = 0
    return wide.decode(numbers)


def _identifiers(words: wide.Words, word: int, width: int) -> NDArray[np.void]:
    """Return the last ``width`` bytes of one word of every row."""
    column = np.ascontiguousarray(words[:, word]).view(np.uint8)
    return np.ascontiguousarray(column[:, -width:]).view(f"V{width}")[:, 0]


def _dense(cells: wide.Wides, numbers: slice, values: slice, columns: int) -> Floats:
    """Scatter slots of (number, value) to [n, columns], number 1 first; an unused slot has number 0."""
    dense = np.zeros((len(cells), columns + 1))
    dense[np.arange(len(cells))[:, None], cells["lo"][:, numbers].astype(np.intp)] = (
        wide.to_floats(cells[:, values]) / WAD
    )
    return dense[:, 1:]


def _grown(column: NDArray[Scalar], more: int) -> NDArray[Scalar]:
    return np.concatenate([column, np.zeros((more, *column.shape[1:]), column.dtype)])
