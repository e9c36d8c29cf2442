"""The book: every account of one deployment as columns, exact, and the float64 view the trigger scores.

Rows are accounts, keyed by 32 fixed bytes. A page of the reader's rows is folded in by numpy without a
Python object per account; one account is turned into exact integers only when somebody must decide on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeper.domain import Account, FlagState, Holding, Instrument, Leg, Phase
from keeper.errors import ChainFault, InvariantBroken
from keeper.state import wide
from keeper.units import WAD, AccountKey, FeedId

Floats = NDArray[np.float64]

PHASES = tuple(Phase)
LEGS = 8
HOLDINGS = 4
# The words of MarginReader.Row, in order.
HEADER = (
    "key", "phase", "cash", "last_risk_s", "last_risk_block", "debt_since_s", "aid", "reduced",
    "flagger", "bond", "flagged_at_s", "flagged_block", "tau_at_flag_s", "tau_s", "last_poke_s",
    "tau_at_confirm_s", "confirmed_at_s", "fee_cap", "step_start_s", "step_used", "tranche_nonce",
    "carry_tau_s", "carried_at_s",
)  # fmt: skip
AT = {name: index for index, name in enumerate(HEADER)}
MARKETS = len(HEADER)
SIZES = MARKETS + LEGS
QUOTE_LEGS = SIZES + LEGS
COLLATERALS = QUOTE_LEGS + LEGS
AMOUNTS = COLLATERALS + HOLDINGS
ROW_WORDS = AMOUNTS + HOLDINGS
REORG_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Marks:
    """What one unit of each instrument is worth, and demands, at some prices; NaN where unknown. [i]."""

    value: Floats
    gross: Floats


def marks_at(instruments: Sequence[Instrument], prices: Mapping[FeedId, float]) -> Marks:
    """Compute the marks of all instruments; a missing price makes NaN."""
    price = np.array([prices.get(each.feed, np.nan) for each in instruments], dtype=np.float64)
    value = np.array([each.value for each in instruments], dtype=np.float64)
    gross = np.array([each.gross for each in instruments], dtype=np.float64)
    return Marks(price * value, price * gross)


@dataclass(frozen=True, slots=True)
class Frozen:
    """What the trigger scores: cash [n], which includes the quote legs, and positions [n, i], in units."""

    keys: NDArray[np.void]
    cash: Floats
    positions: Floats

    def key(self, row: int) -> AccountKey:
        """Return the key of a row."""
        return bytes(self.keys[row])


class Book:
    """The mirror of one deployment."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self._column = {(each.kind, each.number): i for i, each in enumerate(instruments)}
        self._rows: dict[AccountKey, int] = {}
        self._words = np.zeros((0, ROW_WORDS, wide.WORD), dtype=np.uint8)
        self._cash = np.zeros(0)
        self._positions = np.zeros((0, len(instruments)))
        self._dirty: set[AccountKey] = set()
        self._touched: OrderedDict[str, set[AccountKey]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    # --- what must be read again ---

    def touch(self, block_hash: str, accounts: Iterable[AccountKey]) -> None:
        """Note that a block changed these accounts: they are dirty, and again if the block is orphaned."""
        touched = self._touched.setdefault(block_hash, set())
        touched.update(accounts)
        self._dirty |= touched
        while len(self._touched) > REORG_DEPTH:
            self._touched.popitem(last=False)

    def unwind(self, orphaned: Iterable[str]) -> None:
        """Make dirty what orphaned blocks had changed."""
        for block_hash in orphaned:
            self._dirty |= self._touched.pop(block_hash, set())

    def mark_dirty(self, accounts: Iterable[AccountKey]) -> None:
        """Ask for accounts to be read, known or not."""
        self._dirty.update(accounts)

    def dirty(self) -> frozenset[AccountKey]:
        """Return the accounts that wait to be read."""
        return frozenset(self._dirty)

    # --- what is known ---

    def fold_rows(self, page: bytes) -> None:
        """Fold one ABI-encoded ``MarginReader.Row[]`` into the columns; its accounts are clean then.

        Raises ChainFault where the bytes are not such a page; nothing is changed then.
        """
        rows = _rows_of(page)
        keys = [key.tobytes() for key in rows[:, 0]]
        index = np.array([self._rows.setdefault(key, len(self._rows)) for key in keys], dtype=np.intp)
        self._grow(len(self._rows))
        self._words[index] = rows
        self._cash[index], self._positions[index] = self._derive(rows)
        self._dirty.difference_update(keys)

    def _grow(self, needed: int) -> None:
        capacity = len(self._cash)
        if needed <= capacity:
            return
        more = max(needed, 2 * capacity, 64) - capacity
        self._words = np.concatenate([self._words, np.zeros((more, *self._words.shape[1:]), dtype=np.uint8)])
        self._cash = np.concatenate([self._cash, np.zeros(more)])
        self._positions = np.concatenate([self._positions, np.zeros((more, self._positions.shape[1]))])

    def _derive(self, rows: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Derive float64 cash, with the quote legs in it, and positions in whole units."""
        amounts = wide.to_float(wide.to_wide(rows)) / WAD
        cash = amounts[:, AT["cash"]] + amounts[:, QUOTE_LEGS:COLLATERALS].sum(axis=1)
        positions = np.zeros((len(rows), self._positions.shape[1]))
        numbers = wide.small(rows)
        for slot in range(LEGS):
            self._scatter(positions, "perp", numbers[:, MARKETS + slot], amounts[:, SIZES + slot])
        for slot in range(HOLDINGS):
            self._scatter(positions, "collateral", numbers[:, COLLATERALS + slot], amounts[:, AMOUNTS + slot])
        return cash, positions

    def _scatter(self, positions: Floats, kind: str, numbers: NDArray[np.int64], amounts: Floats) -> None:
        for number in np.unique(numbers[numbers != 0]):
            column = self._column.get((kind, int(number)))
            if column is None:
                raise InvariantBroken(f"{kind} {number} was listed after the keeper started: start it again")
            held = numbers == number
            positions[held, column] += amounts[held]

    def freeze(self) -> Frozen:
        """Return the trigger's view, row by row in the order in which accounts were first seen."""
        n = len(self._rows)
        keys = np.ascontiguousarray(self._words[:n, 0]).view("V32")[:, 0] if n else np.empty(0, dtype="V32")
        return Frozen(keys, self._cash[:n], self._positions[:n])

    def keys_in(self, phases: Iterable[Phase]) -> list[AccountKey]:
        """Return the accounts that the contract has in one of these phases."""
        n = len(self._rows)
        wanted = [PHASES.index(phase) for phase in phases]
        held = np.isin(self._words[:n, AT["phase"], -1], wanted)
        return [key.tobytes() for key in self._words[:n, 0][held]]

    def exact(self, account: AccountKey) -> Account:
        """Return one account in exact integers; raise InvariantBroken where it was never read."""
        row = self._rows.get(account)
        if row is None:
            raise InvariantBroken(f"account 0x{account.hex()} was never read")
        return _account(self._words[row].tobytes())


def _account(row: bytes) -> Account:
    """Read one row in exact integers."""
    cells = [row[i : i + wide.WORD] for i in range(0, len(row), wide.WORD)]
    numbers = [int.from_bytes(cell, signed=True) for cell in cells]
    named = dict(zip(HEADER, numbers, strict=False))
    return Account(
        key=cells[0],
        phase=PHASES[named["phase"]],
        cash_wad=named["cash"],
        legs=tuple(Leg(*leg) for leg in _slots(numbers[MARKETS:COLLATERALS], LEGS)),
        holdings=tuple(Holding(*holding) for holding in _slots(numbers[COLLATERALS:], HOLDINGS)),
        last_risk_s=named["last_risk_s"],
        last_risk_block=named["last_risk_block"],
        debt_since_s=named["debt_since_s"],
        flag=FlagState(
            flagger="0x" + cells[AT["flagger"]][12:].hex(),
            bond_wad=named["bond"],
            flagged_at_s=named["flagged_at_s"],
            flagged_block=named["flagged_block"],
            tau_at_flag_s=named["tau_at_flag_s"],
            tau_s=named["tau_s"],
            last_poke_s=named["last_poke_s"],
            tau_at_confirm_s=named["tau_at_confirm_s"],
            confirmed_at_s=named["confirmed_at_s"],
            fee_cap_wad=named["fee_cap"],
            step_start_s=named["step_start_s"],
            step_used_wad=named["step_used"],
            tranche_nonce=named["tranche_nonce"],
            aid_wad=named["aid"],
            reduced=bool(named["reduced"]),
            carry_tau_s=named["carry_tau_s"],
            carried_at_s=named["carried_at_s"],
        ),
    )


def _slots(numbers: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Turn columns of slots into tuples, one per slot in use; the contract's order is kept."""
    columns = [numbers[i : i + count] for i in range(0, len(numbers), count)]
    return [slot for slot in zip(*columns, strict=True) if slot[0] != 0]


def _rows_of(page: bytes) -> NDArray[np.uint8]:
    """Check and cut off the two words, offset and length, that stand before the rows."""
    head, body = page[:64], page[64:]
    count = int.from_bytes(head[32:64])
    if len(head) < 64 or int.from_bytes(head[:32]) != 32 or len(body) != count * ROW_WORDS * wide.WORD:
        raise ChainFault(f"expected a page of rows of {ROW_WORDS} words, found {len(page)} bytes")
    return wide.words(body, ROW_WORDS)
