"""What books of perps, futures and options require by a grid of scenarios, for many accounts at once.

Every instrument is priced once in every scenario (`risk_arrays`, [i, s]). What an account holds is a sparse
row, so that the profits of all are one product, and a margin is the worst of them: within an underlying gains
and losses net scenario by scenario, and what several underlyings require is added up. `scan` does that;
what it found tells net against gross, and what each leg adds. Charges beside the scenarios are `AddOns`.

Amounts are in quote, or in the underlying's coin where a book settles in it (`Book.in_coin`). In float64, for
screening, policy and research: what the contracts hold an account to is ``protocols``' integers.

Sources: the grids' own (``grids``); CME SPAN for scanning risk and its minimum for short options.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from keeper.domain import Kind
from keeper.errors import BadInput
from keeper.risk import liquidity, options
from keeper.risk.engine import compiles
from keeper.risk.grids import Grid

Column: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.intp]

DAYS_A_YEAR = 365.0
ROUNDING = 1e-12
"""Of what legs cost apart: a loss of all together that is no more is none."""
MANY_LEGS = 100_000
"""From so many on, loading the compiler is worth its time."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """A perp, or a future or option that expires; settled in quote, or where `inverse` in the underlying.

    One unit is one of the underlying; of an inverse perp or future it is a contract of 1 quote.
    """

    name: str
    underlying: str
    kind: Kind = Kind.PERP
    strike: float = 0.0
    vol: float = 0.0
    """Annualised."""
    expiry_y: float = 0.0
    """Years of 365 days; 0 of a perp, and of an option that expires now."""
    inverse: bool = False

    def __post_init__(self) -> None:
        numbers = {"strike": self.strike, "vol": self.vol, "expiry_y": self.expiry_y}
        for name, value in numbers.items():
            if not (np.isfinite(value) and value >= 0.0):
                raise BadInput(f"{self.name}: {name} must be finite and not negative, found {value}")
        if self.is_option and self.strike == 0.0:
            raise BadInput(f"{self.name}: an option needs a strike above 0")

    @property
    def is_option(self) -> bool:
        return self.kind is not Kind.PERP


@dataclass(frozen=True, slots=True)
class Book:
    """What accounts hold of some instruments, and the spots of these."""

    instruments: tuple[Instrument, ...]
    spots: Mapping[str, float]
    """By underlying, in quote."""
    accounts: int
    legs: csr_array
    """[m, i], sizes in units, negative where sold: one row for each underlying that an account holds."""
    account: Numbers
    """[m], whose row it is,"""
    group: Numbers
    """[m], and of which underlying, by its place in `spots`."""
    in_coin: bool
    """Whether the book settles in its one underlying's coin instead of quote."""
    columns: Columns = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", Columns.of(self.instruments, self.spots))

    @classmethod
    def of(
        cls,
        instruments: Sequence[Instrument],
        spots: Mapping[str, float],
        positions: Any,
        *,
        in_coin: bool = False,
    ) -> Book:
        """Make a book of positions [n, i], dense or sparse; equal instruments of one account net.

        Raises BadInput for a spot that is missing or not above 0, for positions that are not finite or of
        another shape, and for a book in coin with the spots of several underlyings.
        """
        held = coo_array(positions)
        if held.ndim != 2 or held.shape[1] != len(instruments):
            raise BadInput(f"positions must be [accounts, {len(instruments)}], found {held.shape}")
        if not np.isfinite(held.data).all():
            raise BadInput("positions must be finite")
        for name, spot in spots.items():
            if not (np.isfinite(spot) and spot > 0.0):
                raise BadInput(f"the spot of {name} must be finite and above 0, found {spot}")
        missing = {each.underlying for each in instruments} - set(spots)
        if missing:
            raise BadInput(f"there is no spot of {', '.join(sorted(missing))}")
        if in_coin and len(spots) > 1:
            found = ", ".join(spots)
            raise BadInput(f"a book in coin has one underlying only, found {found}: two coins do not add up")
        held.sum_duplicates()
        held.eliminate_zeros()
        groups = {name: place for place, name in enumerate(spots)}
        of_column = np.array([groups[each.underlying] for each in instruments], np.intp)
        rows, columns = held.coords
        keys, row_of = np.unique(rows * np.intp(len(spots)) + of_column[columns], return_inverse=True)
        shape = (len(keys), len(instruments))
        legs = csr_array((held.data.astype(np.float64), (row_of, columns)), shape=shape)
        # Neighbours lie close together in the risk arrays.
        legs.sort_indices()
        account, group = np.divmod(keys, max(len(spots), 1))
        return cls(tuple(instruments), spots, held.shape[0], legs, account, group, in_coin)

    @property
    def unit(self) -> float:
        """What one of its money is in quote: a book in coin has one underlying, and is told at its spot."""
        return float(self.columns.spot[0]) if self.in_coin and self.instruments else 1.0

    @property
    def deltas(self) -> Column:
        """What each account gains in quote where an underlying doubles, to first order [n, a]."""
        found = np.zeros((self.accounts, len(self.spots)))
        found[self.account, self.group] = self.legs @ self.columns.deltas
        return found

    @property
    def held(self) -> tuple[str, ...]:
        """Return the underlyings that some account holds."""
        places = set(self.group.tolist())
        return tuple(name for place, name in enumerate(self.spots) if place in places)

    def of_underlyings(self, names: Collection[str]) -> Book:
        """Return the book of what is held of these underlyings alone."""
        kept = [place for place, each in enumerate(self.instruments) if each.underlying in names]
        rows = coo_array(self.legs)
        shape = (self.accounts, len(self.instruments))
        positions = csr_array((rows.data, (self.account[rows.coords[0]], rows.coords[1])), shape=shape)
        spots = {name: spot for name, spot in self.spots.items() if name in names}
        instruments = [self.instruments[place] for place in kept]
        return Book.of(instruments, spots, positions[:, kept], in_coin=self.in_coin)

    @property
    def row_of_leg(self) -> Numbers:
        """The row of each leg, in the order of ``legs.data``."""
        return np.repeat(np.arange(len(self.account)), np.diff(self.legs.indptr))

    def by_row(self, values: Column) -> Column:
        """Add up what is told of each leg to what it comes to for each row [m]."""
        return np.bincount(self.row_of_leg, values, len(self.account)).astype(np.float64)

    def by_account(self, values: Column) -> Column:
        """Add up what is told of each row [m] to what it comes to for each account [n]."""
        return np.bincount(self.account, values, self.accounts).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Columns:
    """Instruments side by side [i], as numbers."""

    spot: Column
    strike: Column
    vol: Column
    years: Column
    inverse: NDArray[np.bool_]
    is_call: NDArray[np.bool_]
    options: Numbers
    """Which of them are options."""

    @classmethod
    def of(cls, instruments: Sequence[Instrument], spots: Mapping[str, float]) -> Columns:
        return cls(
            np.array([spots[each.underlying] for each in instruments], np.float64),
            np.array([each.strike for each in instruments], np.float64),
            np.array([each.vol for each in instruments], np.float64),
            np.array([each.expiry_y for each in instruments], np.float64),
            np.array([each.inverse for each in instruments], np.bool_),
            np.array([each.kind is Kind.CALL for each in instruments], np.bool_),
            np.flatnonzero([each.is_option for each in instruments]),
        )

    @property
    def spot_of_options(self) -> Column:
        """The spot of what is an option, 0 of others [i]."""
        spots = np.zeros(len(self.spot))
        spots[self.options] = self.spot[self.options]
        return spots

    @property
    def marks(self) -> Column:
        """What one unit is worth now, in quote [i]: the spot, or the option's price."""
        at = self.options
        marks = self.spot.copy()
        marks[at] = options.price(
            spot=self.spot[at],
            strike=self.strike[at],
            vol=self.vol[at],
            years=self.years[at],
            is_call=self.is_call[at],
        )
        return marks

    @property
    def deltas(self) -> Column:
        """What one unit gains in quote where the spot doubles, to first order [i]."""
        at = self.options
        deltas = np.where(self.inverse, 1.0, self.spot)
        slopes = options.delta(
            spot=self.spot[at],
            strike=self.strike[at],
            vol=self.vol[at],
            years=self.years[at],
            is_call=self.is_call[at],
        )
        # What was paid for an inverse option is coin, and rises with it.
        paid = np.where(self.inverse[at], self.marks[at], 0.0)
        deltas[at] = slopes * self.spot[at] - paid
        return deltas


def risk_arrays(book: Book, grid: Grid) -> Column:
    """Return what one unit of each instrument gains in each scenario [i, s], weighted; else as `revalued`."""
    at = book.columns.options
    vols = grid.vols(book.columns.vol[at], book.columns.years[at] * DAYS_A_YEAR)
    weights = grid.weights_in_coin if book.in_coin else grid.weights
    return revalued(book, grid.moves, vols=vols, roll_days=grid.roll_days) * weights


def revalued(book: Book, moves: Column, *, vols: Column | None = None, roll_days: float = 0.0) -> Column:
    """Return what one unit of each instrument gains [i, s] where spots move by fractions, and time passes.

    ``moves`` [s], or [i, s] where underlyings move apart. ``vols`` [o, s] of the options, in their order;
    without it theirs stay. In quote, or in coin at the scenario's spot where the book settles in it: there
    -16% cost an inverse perp 38% more than +16% bring. Raises BadInput where a coin is left without a price.
    """
    columns = book.columns
    moved = columns.spot[:, None] * (1.0 + moves)
    marks = columns.marks
    gains = moved - columns.spot[:, None]
    at = columns.options
    left = np.maximum(columns.years[at] - roll_days / DAYS_A_YEAR, 0.0)
    spread = (columns.vol[at, None] if vols is None else vols) * np.sqrt(left)[:, None]
    worth = options.value(
        spot=moved[at], strike=columns.strike[at, None], spread=spread, is_call=columns.is_call[at, None]
    )
    gains[at] = worth - marks[at][:, None]
    inverse = np.flatnonzero(columns.inverse)
    gains[inverse] = _of_inverse(columns, marks, gains, moved, inverse)
    if book.in_coin:
        if not (moved > 0.0).all():
            raise BadInput("a book in coin has no value at a spot of 0")
        gains /= moved
    return gains


def _of_inverse(columns: Columns, marks: Column, gains: Column, moved: Column, inverse: Numbers) -> Column:
    """Return what inverse instruments gain in quote: a contract is 1 quote, a premium is coin that moved."""
    spot = columns.spot[inverse, None]
    is_option = np.isin(inverse, columns.options)[:, None]
    premium = marks[inverse, None] * (moved[inverse] / spot - 1.0)
    return np.where(is_option, gains[inverse] - premium, gains[inverse] / spot)


@dataclass(frozen=True, slots=True)
class AddOns:
    """Charges beside the scenarios; all fractions, and none unless it is said.

    All but the last four are positively homogeneous and sub-additive: twice the book costs twice as much, and
    two books together no more than apart. `concentration` and `volume_day` grow faster, on purpose.
    """

    short_option: float = 0.0
    """Of the spot, for each unit of an option sold, bought ones not counting against it."""
    net_delta: float = 0.0
    """Of the net delta: what the scenarios require is no less than this"""
    hedged_delta: float = 0.0
    """and this of the smaller of long and short delta (Paradex: 2% and 1%)."""
    basis_year: float = 0.0
    """Of the delta at each expiry, a year ahead: how far a future may move away from its spot,"""
    basis_least: float = 0.0
    """and at least so far (Deribit: 7.5% and 1% for BTC);"""
    basis_perp: float = 0.0
    """a perp by this (Deribit: 1%)."""
    concentration: float = 0.0
    """Of the net delta beyond"""
    concentration_above: float = 0.0
    """this much quote."""
    volume_day: Mapping[str, float] = field(default_factory=dict)
    """What an underlying trades a day, in quote: selling the net delta is charged by `sqrt_impact`."""
    volatility: float = liquidity.VOLATILITY
    """For that, annualised."""

    def __post_init__(self) -> None:
        for name in AddOns.__slots__:
            values = self.volume_day.values() if name == "volume_day" else [getattr(self, name)]
            if not all(np.isfinite(value) and value >= 0.0 for value in values):
                raise BadInput(f"{name} must be finite and not negative, found {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found, of every account [n], and of each underlying that it holds [m] as in `Book.legs`."""

    book: Book
    grid: Grid
    risk: Column
    """[i, s], as `risk_arrays`."""
    loss: Column
    """[m], in the worst scenario; 0 where none loses."""
    worst: Numbers
    """[m], which scenario that is."""
    floor: Column
    """[m], what the loss counts for at least, by its delta."""
    charges: Mapping[str, Column]
    """[n] each, where add-ons were asked for: short_option, basis, concentration, liquidity."""

    @property
    def net(self) -> Column:
        """What the worst scenarios cost [n], before add-ons."""
        return self.book.by_account(self.loss)

    @property
    def gross(self) -> Column:
        """What they would cost if no leg hedged another [n]."""
        return self.book.by_account(self.book.by_row(self.alone))

    @property
    def alone(self) -> Column:
        """What each leg would require by itself, in the order of ``legs.data``."""
        legs = self.book.legs
        bought = np.maximum(-self.risk.min(axis=1), 0.0)[legs.indices]
        sold = np.maximum(self.risk.max(axis=1), 0.0)[legs.indices]
        cost: Column = np.where(legs.data > 0.0, legs.data * bought, -legs.data * sold)
        return cost

    @property
    def contributions(self) -> Column:
        """What each leg adds to the worst scenario's cost, in the order of ``legs.data``; a hedge takes away.

        Property: of every row they sum to its loss; to that of one that costs nothing nobody adds.
        """
        legs, row = self.book.legs, self.book.row_of_leg
        lost = -legs.data * self.risk[legs.indices, self.worst[row]]
        return np.where(self.costs[row], lost, 0.0)

    @property
    def costs(self) -> NDArray[np.bool_]:
        """Whether the worst scenario costs more than a rounding of what the legs cost apart [m]."""
        return np.asarray(self.loss > ROUNDING * self.book.by_row(self.alone))

    @property
    def initial(self) -> Column:
        """Initial margin [n]."""
        return self._with(self.grid.initial)

    @property
    def maintenance(self) -> Column:
        """Maintenance margin [n]."""
        return self._with(self.grid.maintenance)

    def _with(self, factor: float) -> Column:
        required: Column = factor * self.book.by_account(np.maximum(self.loss, self.floor))
        for charge in self.charges.values():
            required = required + (factor * charge if self.grid.of_all else charge)
        return required


def scan(book: Book, grid: Grid, *, add_ons: AddOns | None = None, compiled: bool | None = None) -> Scan:
    """Return what every account of a book requires in the worst scenario of a grid, and add-ons.

    ``compiled`` asks for loops of numba or none; by None large books have them where numba is there. Raises
    BadInput for the volume of an underlying that the book has no spot of.

    Property: the cost of the worst scenario is positively homogeneous and sub-additive, and 0 of a book in
    which every leg is matched by its opposite.
    """
    risk = risk_arrays(book, grid)
    loss, worst = _worst(book.legs.nnz, compiled=compiled)(book.legs, risk)
    if add_ons is None:
        return Scan(book, grid, risk, loss, worst, np.zeros(len(loss)), {})
    if strangers := set(add_ons.volume_day) - set(book.spots):
        raise BadInput(f"volume_day names {', '.join(sorted(strangers))}, of which there is no spot")
    deltas = _Deltas.of(book)
    floor = add_ons.net_delta * deltas.net + add_ons.hedged_delta * deltas.hedged
    charges = {
        "short_option": _short_options(book, add_ons),
        "basis": _basis(book, deltas, add_ons),
        "concentration": add_ons.concentration * np.maximum(deltas.net - add_ons.concentration_above, 0.0),
        "liquidity": _liquidity(book, deltas, add_ons),
    }
    by_account = {name: book.by_account(charge / book.unit) for name, charge in charges.items()}
    return Scan(book, grid, risk, loss, worst, floor / book.unit, by_account)


Worst: TypeAlias = Callable[[csr_array, Column], tuple[Column, Numbers]]


def _worst(legs: int, *, compiled: bool | None) -> Worst:
    """Return what finds the worst scenario of each row, and what it costs."""
    if not compiles(asked=compiled, enough=legs >= MANY_LEGS):
        return worst_scenarios
    from keeper.risk.compiled import worst_scenarios as loops

    return loops


def worst_scenarios(legs: csr_array, risk: Column) -> tuple[Column, Numbers]:
    """Return the cost of each row's worst scenario [m], 0 at least, and which it is; the first of equals."""
    gains = legs @ risk
    worst = gains.argmin(axis=1)
    loss = -np.take_along_axis(gains, worst[:, None], axis=1)[:, 0]
    return np.maximum(loss, 0.0), worst


@dataclass(frozen=True, slots=True)
class _Deltas:
    """What rows [m] gain in quote where the spot doubles, to first order."""

    unit: Column
    """[i], of one unit."""
    net: Column
    """Without sign."""
    hedged: Column
    """The smaller of long and short."""

    @classmethod
    def of(cls, book: Book) -> _Deltas:
        unit = book.columns.deltas
        net = np.abs(book.legs @ unit)
        return cls(unit, net, (abs(book.legs) @ np.abs(unit) - net) / 2)


def _short_options(book: Book, add_ons: AddOns) -> Column:
    """Return a share of the spot for every option sold."""
    charge = add_ons.short_option * book.columns.spot_of_options
    return np.asarray((abs(book.legs) - book.legs) @ charge / 2)


def _basis(book: Book, deltas: _Deltas, add_ons: AddOns) -> Column:
    """Return what it costs that every expiry's forward moves away from the spot, each by itself."""
    expiries, column = np.unique(book.columns.years, return_inverse=True)
    moves = np.maximum(add_ons.basis_year * expiries, add_ons.basis_least)
    moves[expiries == 0.0] = add_ons.basis_perp
    spread = np.zeros((len(book.instruments), len(expiries)))
    spread[np.arange(len(column)), column] = deltas.unit
    return np.asarray(np.abs(book.legs @ spread) @ moves)


def _liquidity(book: Book, deltas: _Deltas, add_ons: AddOns) -> Column:
    """Return what selling the net delta of a row costs, by the square root law."""
    cost = np.zeros(len(book.account))
    day = add_ons.volatility / DAYS_A_YEAR**0.5
    for place, name in enumerate(book.spots):
        volume = add_ons.volume_day.get(name)
        rows = book.group == place
        if volume is not None and rows.any():
            net = deltas.net[rows]
            cost[rows] = net * liquidity.sqrt_impact(net, volume_day=volume, volatility_day=day)
    return cost
