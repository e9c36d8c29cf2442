"""The answer of ``MarginReader.rows``, decoded by numpy without looking at any account; and one account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from keeper.columns import wide
from keeper.columns.keys import Rows
from keeper.columns.ledger import Ledger, Page
from keeper.columns.legs import Floats, Twins
from keeper.columns.pool import Entries, Entry, Pool, places
from keeper.columns.shape import rows_of
from keeper.domain import Account, FlagState, Holding, Leg, Phase
from keeper.errors import ChainFault
from keeper.units import WAD, AccountKey

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

CELLS: Entry = {"phases": (np.uint8,), "slopes": (np.uint16,), "cash": (wide.WIDE,), "times": (np.uint64, 3)}
"""The times: last risk in seconds and as a block, and since when there is debt only."""
LEGS: Entry = {"market": (np.uint16,), "size": (wide.WIDE,), "quote_leg": (wide.WIDE,)}
HOLDINGS: Entry = {"collateral": (np.uint8,), "amount": (wide.WIDE,)}
EPISODES: Entry = {
    "flagger": ("V20",),
    "bond": (wide.WIDE,),
    "aid": (wide.WIDE,),
    "words": (np.uint64, len(NARROW)),
}
"""An entry for each row that has anything to say of an alarm, or of what came since."""
RUNS: Mapping[str, Entry] = {"legs": LEGS, "holdings": HOLDINGS, "episodes": EPISODES}


@dataclass(frozen=True, slots=True)
class HybridRows:
    """The shape of a book with so many markets and collaterals listed, numbered from 1 as on chain.

    Legs and holdings keep the contract's order: it sells the first holding first.
    """

    markets: int = MARKETS_EVER
    collaterals: int = COLLATERALS_EVER
    order: Sequence[int] = ()
    """The numbers of the markets in the order of their columns; as on chain where it is empty."""
    cells: ClassVar[Entry] = CELLS
    runs: ClassVar[Mapping[str, Entry]] = RUNS
    classes: ClassVar[str] = "slopes"
    """The slope that each owner chose; 0 is the default one."""
    shown: ClassVar[Sequence[str]] = ("phases",)
    """``PHASES`` by number."""

    @property
    def _places(self) -> Rows:
        """The column of every market."""
        return np.argsort(np.array(self.order)) if self.order else np.arange(self.markets)

    @property
    def columns(self) -> Sequence[tuple[str, int]]:
        """Every market, perp or option, then every collateral."""
        markets = (("market", number) for number in self.order or range(1, self.markets + 1))
        return (*markets, *(("collateral", number) for number in range(1, self.collaterals + 1)))

    def decode(self, page: bytes) -> Page:
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
        _at_most("market", market, self.markets)
        _at_most("collateral", collateral, self.collaterals)
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
            cells={
                "phases": state.copy(),
                "slopes": _narrow(heads[:, STANDING, 3:], ">u2")[:, 0].astype(np.uint16),
                "cash": wide.halves(heads[:, CASH])[:, 0],
                "times": heads[:, STANDING, :3].astype(np.uint64),
            },
            counts={
                "legs": held.sum(axis=1, dtype=np.uint8),
                "holdings": kept.sum(axis=1, dtype=np.uint8),
                "episodes": told.copy(),
            },
            runs={
                "legs": {
                    "market": market[held].astype(np.uint16),
                    "size": wide.halves(legs)[:, 0],
                    "quote_leg": wide.halves(legs)[:, 1],
                },
                "holdings": {"collateral": collateral[kept], "amount": _unsigned(amounts)},
                "episodes": _episodes(episodes.reshape(-1, EPISODE_WORDS, 4)),
            },
        )

    def check_names(self, page: bytes, accounts: Sequence[AccountKey]) -> None:
        """Raise ChainFault where a page is not of these accounts, in this order."""
        heads, *_ = _columns(page)
        if np.ascontiguousarray(heads[::HEAD_WORDS]).tobytes() != b"".join(accounts):
            raise ChainFault(
                f"expected the rows of {len(accounts)} accounts asked for, found {len(heads) // HEAD_WORDS}"
                " of others or in another order"
            )

    def broken_rule(self, page: Page) -> str | None:
        """Say that a page has a state that is none."""
        highest = page.cells["phases"].max(initial=0)
        return f"an account has the state {highest}" if highest >= len(PHASES) else None

    def twins(self, ledger: Ledger, rows: Rows) -> Twins:
        """Return cash and quote legs of some rows in quote, added up exactly; and positions."""
        legs = ledger.runs["legs"]
        sizes, amounts = (
            _listed(legs, rows, "market", "size", self.markets),
            _listed(ledger.runs["holdings"], rows, "collateral", "amount", self.collaterals),
        )
        return Twins(
            cash=_cash(ledger["cash"][rows], legs, rows),
            of=np.concatenate([sizes[0], amounts[0]]),
            columns=np.concatenate([self._places[sizes[1]], self.markets + amounts[1]]),
            sizes=np.concatenate([sizes[2], amounts[2]]),
        )

    def holders(self, ledger: Ledger, markets: Sequence[int]) -> Rows:
        """Return the rows, in order, that have a position in one of some markets.

        Found among the legs rather than in the columns: expired options may be hundreds.
        """
        listed = [market for market in markets if market <= self.markets]
        wanted = np.zeros(MARKETS_EVER + 1, np.bool_)
        wanted[listed] = True
        return ledger.runs["legs"].owners("market", wanted)

    def alike(self, mirror: Account, chain: Account) -> bool:
        """Tell whether both are the same to the wei: only acts change an account."""
        return mirror == chain

    def row(self, ledger: Ledger, key: AccountKey, row: int) -> Account:
        """Return one account."""
        legs, holdings, episodes = (ledger.runs[name] for name in RUNS)
        at, of = legs.run(row), holdings.run(row)
        last_risk_s, last_risk_block, debt_since_s = ledger["times"][row].tolist()
        return Account(
            key=key,
            phase=PHASES[ledger["phases"][row]],
            cash_wad=wide.to_ints(ledger["cash"][row : row + 1])[0],
            legs=tuple(
                map(
                    Leg,
                    legs["market"][at].tolist(),
                    wide.to_ints(legs["size"][at]),
                    wide.to_ints(legs["quote_leg"][at]),
                )
            ),
            holdings=tuple(
                map(
                    Holding,
                    holdings["collateral"][of].tolist(),
                    wide.to_ints(holdings["amount"][of]),
                )
            ),
            last_risk_s=last_risk_s,
            last_risk_block=last_risk_block,
            flag=_flag(episodes, episodes.run(row)),
            debt_since_s=debt_since_s,
            slope_choice=int(ledger["slopes"][row]),
        )


def accounts_of(page: bytes) -> tuple[Account, ...]:
    """Read one answer of ``MarginReader.rows`` by itself, in its order; raise ChainFault where it is none."""
    return rows_of(HybridRows(), page)


def _cash(cash: wide.Wides, legs: Pool, rows: Rows) -> Floats:
    at, counts = legs.runs(rows)
    terms = np.zeros((len(rows), 1 + int(counts.max(initial=0))), wide.WIDE)
    terms[:, 0] = cash
    terms[np.repeat(np.arange(len(rows)), counts), 1 + places(counts)] = legs["quote_leg"][at]
    return wide.sum_to_floats(terms) / WAD


def _listed(pool: Pool, rows: Rows, numbers: str, values: str, listed: int) -> tuple[Rows, Rows, Floats]:
    """Return the runs of some rows: of which row, number from 0 on, and size; not of what is not listed."""
    at, counts = pool.runs(rows)
    number = pool[numbers][at].astype(np.intp) - 1
    known = number < listed
    of = np.repeat(np.arange(len(rows)), counts)
    return of[known], number[known], wide.to_floats(pool[values][at[known]]) / WAD


def _flag(episodes: Pool, run: slice) -> FlagState:
    if run.start == run.stop:
        return FlagState()
    [bond, aid] = (wide.to_ints(episodes[name][run])[0] for name in ("bond", "aid"))
    reduced, flagged_at, flagged_block, *rest = episodes["words"][run.start].tolist()
    tau_at_flag, tau, last_poke, tau_at_confirm, confirmed_at, *rest = rest
    fee_cap, step_start, step_used, nonce, *rest = rest
    carry_tau, carried_at, slope, insolvent_tau = rest
    return FlagState(
        flagger="0x" + episodes["flagger"][run].tobytes().hex(),
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
        aid_wad=aid,
        reduced=bool(reduced),
        carry_tau_s=carry_tau,
        carried_at_s=carried_at,
        slope=slope,
        insolvent_tau_s=insolvent_tau,
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
