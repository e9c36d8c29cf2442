"""Published risk arrays, on chain and off: ten thousand random books require the same, to the wei.

Options are listed, valued, packed, signed and posted as reporters do it. What the contracts then tell of
markets and arrays goes back into their own libraries (``contracts/demo/Formulas.sol``) with random books, and
is held against the keeper's integers, made of what was signed, and against the risk engine in floats.

The seed is printed with a failure; ARRAY_SEED sets another one, ARRAY_BOOKS more books.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest

from keeper.domain import Account, Leg, Phase, Valuation
from keeper.lab.anvil import Tx
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.abi import artifact, load
from keeper.protocols.hybrid.params import Listed
from keeper.protocols.hybrid.portfolio import Setting
from keeper.risk.inputs import Floats
from keeper.risk.margin import AddOns, Book, Instrument, scan
from keeper.risk.options import YEAR_S
from keeper.risk.scenarios import on_chain
from keeper.units import WAD, FeedId, Wad
from tests.anvil.twin_world import VOL, World, world_of

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(600)]

SEED: Final = int(os.environ.get("ARRAY_SEED", "7"))
BOOKS: Final = int(os.environ.get("ARRAY_BOOKS", "10000"))
BOOKS_A_CALL: Final = 500
MOST_LEGS: Final = 8
BETA_WAD: Final = WAD // 4
WORDS_OF_FOUND: Final = 8
"""``BookFound``: equity, requirement and notional at maintenance and initially, worth, and whether silent."""


@dataclass(frozen=True)
class Drawn:
    """A random book: markets with their sizes and quote legs, and the prices of their underlyings."""

    cash_wad: Wad
    legs: tuple[Leg, ...]
    prices: dict[FeedId, Wad]


@dataclass(frozen=True)
class Posted:
    """A deployment whose arrays have just been posted, and the contract that has its formulas."""

    world: World
    formulas: str
    setting: Setting
    """With the arrays that were signed."""

    def judged(self, book: Drawn, legs: tuple[Leg, ...], beta_wad: Wad | None = None) -> Valuation:
        """Judge some legs with a book's cash and prices in the keeper's integers: by beta initially."""
        account = Account(bytes(32), Phase.HEALTHY, book.cash_wad, legs, ())
        if beta_wad is None:
            return math.maintenance(account, book.prices, self.setting)
        return math.initial(account, book.prices, self.setting, beta_wad)


@pytest.fixture(scope="module")
def posted() -> Iterator[Posted]:
    print(f"ARRAY_SEED={SEED} ARRAY_BOOKS={BOOKS}")  # noqa: T201  # pytest shows it with a failure
    with world_of(SEED) as world:
        world.refresh()
        code = bytes.fromhex(artifact("Formulas")["bytecode"].removeprefix("0x"))
        world.run([Tx(world.deployed.admin, None, code, gas=12_000_000)])
        (receipt,) = world.node.receipts().values()
        world.post_prices(5)
        options = (market for market in world.rules.markets.values() if market.is_option)
        arrays = {option.market: world.packed(option).view for option in options}
        setting = Setting(world.rules.at(world.now_s), arrays, {}, world.now_s)
        yield Posted(world, receipt["contractAddress"], setting)


@pytest.fixture(scope="module")
def drawn(posted: Posted) -> list[Drawn]:
    """Books of every size; half of them at the arrays' own prices, the others up to 1.9% away."""
    rng = np.random.default_rng(SEED)
    return [draw(rng, posted.world, moved=bool(number % 2)) for number in range(BOOKS)]


def draw(rng: np.random.Generator, world: World, *, moved: bool) -> Drawn:
    markets = list(world.rules.markets.values())
    chosen = rng.permutation(len(markets))[: rng.integers(1, MOST_LEGS + 1)]
    scale = 10.0 ** rng.uniform(-3, 5)
    legs = []
    for market in (markets[place] for place in chosen):
        units = scale * rng.normal() / world.fast[market.feed] * WAD
        legs.append(Leg(market.market, int(units * WAD) or 1, int(rng.normal() * scale * WAD)))
    prices = dict(world.fast)
    if moved:
        prices = {feed: int(price * rng.uniform(0.981, 1.019)) for feed, price in prices.items()}
    return Drawn(int(rng.normal() * scale * WAD), tuple(legs), prices)


# --- on chain -------------------------------------------------------------------------------------


def test_arrays_give_the_same_margin_on_chain_and_off(posted: Posted, drawn: Sequence[Drawn]) -> None:
    hedged = 0
    for book, words in zip(drawn, judged_on_chain(posted, drawn), strict=True):
        maintenance = posted.judged(book, book.legs)
        assert words[:3] == words_of(maintenance), book
        assert words[3:6] == words_of(posted.judged(book, book.legs, BETA_WAD)), book
        alone = sum(posted.judged(book, (leg,)).requirement_wad for leg in book.legs)
        hedged += maintenance.requirement_wad < alone * 9 // 10
    assert hedged > len(drawn) // 10, "books in which nothing nets would show half of it"


def judged_on_chain(posted: Posted, drawn: Sequence[Drawn]) -> list[list[int]]:
    """Have the contracts' libraries judge books by what the chain says of their markets."""
    world = posted.world
    numbers = list(world.rules.markets)
    legs = words_of_legs(world, numbers)
    found: list[list[int]] = []
    for start in range(0, len(drawn), BOOKS_A_CALL):
        rows = [row_of(world, book, numbers) for book in drawn[start : start + BOOKS_A_CALL]]
        flat = [word for row in rows for word in row]
        # Four arguments: two arrays of structs (no collaterals), the rows one behind the other, how many.
        offsets = [128, 160 + 32 * len(legs), 192 + 32 * len(legs), len(rows)]
        asked = [*offsets, len(numbers), *legs, 0, len(flat), *flat]
        data = load("Formulas").functions["books"].selector + encoded(asked)
        answer = words_in(world.node.call(posted.formulas, data))[2:]
        found += [answer[at : at + WORDS_OF_FOUND] for at in range(0, len(answer), WORDS_OF_FOUND)]
    return found


def words_of_legs(world: World, numbers: Sequence[int]) -> list[int]:
    """Put a ``Leg`` together for every market, of the words in which the contracts describe it."""
    count, protocol = len(numbers), world.protocol
    terms = asked_of(world, "Instruments", protocol.instruments, "terms", numbers)
    arrays = asked_of(world, "RiskArrays", protocol.risk_arrays, "quotes", numbers)
    assert (terms[2], terms[3 + 4 * count], arrays[1]) == (count, count, count)
    legs: list[int] = []
    for place, number in enumerate(numbers):
        feed, kind, expiry_s, strike_wad = terms[3 + 4 * place : 7 + 4 * place]
        risk = terms[4 + 4 * count + 3 * place :][:3]
        quote = arrays[2 + 20 * place :][:20]
        legs += [number, feed, kind, expiry_s, strike_wad, 0, 0, 0, *risk, *quote]
    return legs


def asked_of(world: World, contract: str, to: str, name: str, numbers: Sequence[int]) -> list[int]:
    return words_in(world.node.call(to, load(contract).functions[name].call(to, list(numbers)).data))


def row_of(world: World, book: Drawn, numbers: Sequence[int]) -> list[int]:
    row = [book.cash_wad, world.now_s, BETA_WAD, len(book.legs)]
    for leg in book.legs:
        price = book.prices[world.rules.markets[leg.market].feed]
        row += [numbers.index(leg.market), leg.size_wad, leg.quote_leg_wad, price]
    return [*row, 0]


def words_of(margin: Valuation) -> list[int]:
    return [margin.equity_wad, margin.requirement_wad, margin.notional_wad]


def encoded(words: Sequence[int]) -> bytes:
    return b"".join((word % 2**256).to_bytes(32) for word in words)


def words_in(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 32], signed=True) for at in range(0, len(data), 32)]


# --- in floats ------------------------------------------------------------------------------------


def test_the_engine_in_floats_is_as_near_as_arrays_are_rounded(
    posted: Posted, drawn: Sequence[Drawn]
) -> None:
    world, still, most = posted.world, drawn[::2], 0.0
    floats = np.sum([scanned(world, still, feed) for feed in world.fast], axis=0)
    for book, found in zip(still, floats.tolist(), strict=True):
        exact = posted.judged(book, book.legs).requirement_wad / WAD
        # An array's values are rounded to 8 decimals, and a change of them is told by two.
        units = sum(abs(leg.size_wad) for leg in book.legs if world.rules.markets[leg.market].is_option) / WAD
        assert found == pytest.approx(exact, rel=1e-9, abs=1e-8 * units + 1e-9)
        most = max(most, abs(found / exact - 1) if exact > 1e-3 else 0.0)
    print(f"at most {most:.1e} of a requirement away")  # noqa: T201  # shown with -s


def scanned(world: World, drawn: Sequence[Drawn], feed: FeedId) -> Floats:
    """Return what books require for one underlying by the scenarios of its range, in floats."""
    markets = [market for market in world.rules.markets.values() if market.feed == feed]
    listed = [
        Instrument(str(each.market), feed, each.kind, each.strike_wad / WAD, VOL, years_of(world, each))
        if each.is_option
        else Instrument(str(each.market), feed)
        for each in markets
    ]
    held = [{leg.market: leg.size_wad / WAD for leg in book.legs} for book in drawn]
    sizes = np.array([[each.get(market.market, 0.0) for market in markets] for each in held])
    risk = world.rules.at(world.now_s).risks[feed]
    book = Book.of(listed, {feed: world.fast[feed] / WAD}, sizes)
    charges = AddOns(short_option=risk.short_min_wad / WAD)
    return scan(book, on_chain(mmr=risk.mmr_wad / WAD), add_ons=charges).maintenance


def years_of(world: World, market: Listed) -> float:
    return (market.expiry_s - world.now_s) / YEAR_S
