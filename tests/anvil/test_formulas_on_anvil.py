"""Every formula of the contracts against the keeper's, on random states in bulk: equal to the wei.

No difference is allowed but one: the exact decay of ``keeper.risk.slope`` may lie up to 3 wei below the
contract's. The seed is printed with a failure; FORMULA_SEED sets another one, FORMULA_STATES more states.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
import pytest

from keeper.domain import SCENARIOS
from keeper.lab.anvil import Node, Tx, anvil
from keeper.protocols.hybrid.abi import artifact, load
from keeper.protocols.hybrid.params import SlopeParams
from keeper.protocols.hybrid.portfolio import THIRDS
from keeper.risk import slope as exact
from keeper.units import WAD, Wad, mul_div_up
from tests.formulas import FORMULAS, Words, World

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(600)]

SEED: Final = int(os.environ.get("FORMULA_SEED", "20200312"))
STATES: Final = int(os.environ.get("FORMULA_STATES", "100000"))
"""Random states of each formula, at least."""
STATES_A_CALL: Final = 2_500
ROWS_A_CALL: Final = 400
ADMIN: Final = "0x" + "ad" * 20
WORD: Final = 2**256
NOW_S: Final = 1_700_000_000

UINT64: Final = 2**64 - 1
UINT128: Final = 2**128 - 1
INT64: Final = 2**63 - 1
INT128: Final = 2**127 - 1
MOST_PRICE: Final = 10**36
MOST_SIZE: Final = 2**124
"""A book's eight legs together then fit int128, as each one does by itself on chain."""
MOST_MONEY: Final = 2**187
"""Of an equity, a requirement, a notional: eight of the largest legs at the largest price."""
PRICE_UNIT: Final = 10**10
DELTA_UNIT: Final = 10**9


class Dice:
    """Random integers of any size, column by column."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def wide(self, count: int, most: int, edges: Sequence[int] = ()) -> list[int]:
        """Up to ``most``, every order of magnitude alike; one in eight is an end, 1 or one of ``edges``."""
        bits = self.rng.integers(0, most.bit_length() + 1, count).tolist()
        raw = self.rng.bytes(32 * count)
        drawn = (int.from_bytes(raw[32 * i : 32 * i + 32]) >> (256 - bits[i]) for i in range(count))
        return self.mixed([min(most, value) for value in drawn], [0, 1, most - 1, most, *edges])

    def signed(self, count: int, most: int) -> list[int]:
        """Up to ``most`` on either side of nothing."""
        signs = self.rng.integers(0, 2, count).tolist()
        drawn = self.wide(count, most)
        return [-value if sign else value for value, sign in zip(drawn, signs, strict=True)]

    def even(self, count: int, least: int, most: int) -> list[int]:
        """Between two ends that fit 63 bits, each value alike; one in eight is an end."""
        drawn: list[int] = self.rng.integers(least, most, count, endpoint=True).tolist()
        return self.mixed(drawn, [least, most])

    def one(self, least: int, most: int) -> int:
        return self.even(1, least, most)[0]

    def among(self, count: int, values: Sequence[int]) -> list[int]:
        return [values[i] for i in self.rng.integers(0, len(values), count).tolist()]

    def mixed(self, values: list[int], edges: Sequence[int], share: float = 1 / 8) -> list[int]:
        """Put edges into the place of a share of the values."""
        for i in np.flatnonzero(self.rng.random(len(values)) < share).tolist():
            values[i] = edges[int(self.rng.integers(len(edges)))]
        return values

    def nudged(self, values: Sequence[int], least: int = 0) -> list[int]:
        """Leave values as they are, or one more, or one less."""
        nudges = self.rng.integers(-1, 2, len(values)).tolist()
        return [max(least, value + nudge) for value, nudge in zip(values, nudges, strict=True)]


@dataclass(frozen=True)
class Chain:
    """The contract on a node of its own. Calls go out in a thread: meanwhile the twin computes."""

    node: Node
    address: str
    threads: ThreadPoolExecutor

    def ask(self, name: str, *arguments: Words | list[Words]) -> Future[bytes]:
        """Call a function; a list of rows is a dynamic array, whose length is that of its rows."""
        data = load("Formulas").functions[name].selector + encoded(arguments)
        return self.threads.submit(self.node.call, self.address, data)


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    tell(f"FORMULA_SEED={SEED} FORMULA_STATES={STATES}")
    with anvil(timestamp_s=NOW_S) as node, ThreadPoolExecutor(1) as threads:
        node.fund([ADMIN])
        code = bytes.fromhex(artifact("Formulas")["bytecode"].removeprefix("0x"))
        node.run([Tx(ADMIN, None, code, gas=12_000_000)])
        (receipt,) = node.receipts().values()
        yield Chain(node, receipt["contractAddress"], threads)


def tell(text: str) -> None:
    print(text)  # noqa: T201  # pytest shows it with a failure, and with -s


def encoded(arguments: Sequence[Words | list[Words]]) -> bytes:
    """Encode as ABI does: what is static in its place, the arrays behind, each with its length first."""
    heads = sum(1 if isinstance(each, list) else len(each) for each in arguments)
    head, tail = b"", b""
    for each in arguments:
        if isinstance(each, list):
            head += (32 * heads + len(tail)).to_bytes(32)
            tail += len(each).to_bytes(32) + words(each)
        else:
            head += words([each])
    return head + tail


def words(rows: Sequence[Words]) -> bytes:
    return b"".join([(word % WORD).to_bytes(32) for row in rows for word in row])


def check(told: bytes, states: Sequence[Words], expected: Sequence[Words], common: object) -> None:
    """Compare what the chain returned with the twin; name the first state where they differ."""
    if told[64:] == words(expected):
        return
    assert len(told) == 64 + len(words(expected))
    width = 32 * len(expected[0])
    for i, (state, twin) in enumerate(zip(states, expected, strict=True)):
        found = told[64 + i * width : 64 + (i + 1) * width]
        numbers = [int.from_bytes(found[at : at + 32], signed=True) for at in range(0, width, 32)]
        assert found == words([twin]), f"chain {numbers}, twin {twin}, state {state}, common {common}"


# --- states of one formula -----------------------------------------------------------------------


def random_slope(dice: Dice) -> SlopeParams:
    """Draw parameters as wide as the contract admits."""
    beta, slope_s = dice.one(2 * WAD // 100, 3 * WAD // 2), dice.one(300, 7_200)
    k1 = dice.one(0, 5 * WAD // 100)
    return SlopeParams(
        beta_wad=beta,
        beta_cure_wad=beta // 2,
        beta_flag_wad=0,
        lambda_wad=exact.lambda_wad(beta_wad=beta, slope_s=slope_s),
        q_min_wad=exact.floor_wad(beta),
        slope_s=slope_s,
        k0_wad=dice.one(0, k1),
        k1_wad=k1,
        fee_growth_s=max(1, dice.wide(1, 2**32 - 1, [300])[0]),
        theta_wad=dice.one(1, 8 * WAD // 10),
        band_base_wad=dice.one(0, WAD // 10),
        band_rate_wad=dice.wide(1, UINT64, [WAD // 100])[0],
        band_max_wad=dice.one(WAD // 10, WAD // 4),
        step_cap_wad=WAD // 5,
        step_window_s=30,
        min_slice_wad=1,
        dust_wad=1,
    )


def exponents(dice: Dice, count: int, _: SlopeParams) -> list[Words]:
    """Everything from where e^x is nothing up to where the contract reverts."""
    least, most = -41446531673892822312, 135305999368893231589
    low = [-x for x in dice.wide(count // 2, 42 * WAD, [-least, -least + 1, -least - 1, 2**255])]
    high = dice.wide(count - count // 2, most - 1)
    return [(x,) for x in low + high]


def times(dice: Dice, count: int, slope: SlopeParams) -> list[Words]:
    """Along the slope, at its end, and long after."""
    end_s = slope.slope_s
    drawn = dice.even(count, 0, end_s + end_s // 5)
    return [(tau_s,) for tau_s in dice.mixed(drawn, [end_s - 1, end_s, end_s + 1, 2**40 - 1])]


def equities(dice: Dice, count: int, _: SlopeParams) -> list[Words]:
    return list(zip(dice.signed(count, MOST_MONEY), dice.wide(count, WAD), strict=True))


def breaches(dice: Dice, count: int, _: SlopeParams) -> list[Words]:
    """Accounts around their breach: q E near M, equal to it, a wei off it, and M near what the fee takes."""
    rows: list[Words] = []
    equity, spread = dice.signed(count, MOST_MONEY), dice.even(count, 1, 2 * WAD)
    notional, kappa = dice.wide(count, MOST_MONEY), dice.mixed(dice.even(count, 0, WAD // 10), [UINT64])
    q = dice.mixed(dice.even(count, WAD // 3, WAD), [WAD, 1])
    which, nudge = dice.even(count, 0, 9), dice.even(count, -1, 1)
    free = dice.wide(count, MOST_MONEY)
    for i in range(count):
        counted = max(0, mul_div_up(equity[i], q[i], WAD))
        requirement = free[i]
        if which[i] < 5:
            requirement = counted * spread[i] // WAD
            notional[i] = min(MOST_MONEY, requirement * (20 + i % 300) // 10)
        elif which[i] < 7:
            requirement = counted + nudge[i]
        elif which[i] < 8:
            requirement = kappa[i] * notional[i] // WAD * q[i] // WAD + counted + nudge[i]
        rows.append((equity[i], min(MOST_MONEY, max(0, requirement)), notional[i], kappa[i], q[i]))
    return rows


def levels(dice: Dice, count: int, _: SlopeParams) -> list[Words]:
    """Equity around a level of the requirement, on it, and one wei off it."""
    rows: list[Words] = []
    requirement, level = dice.wide(count, MOST_MONEY), dice.even(count, WAD, 5 * WAD // 2)
    free, nudge, near = dice.signed(count, MOST_MONEY), dice.even(count, -1, 1), dice.even(count, 0, 1)
    for i in range(count):
        equity = requirement[i] * level[i] // WAD + nudge[i] if near[i] else free[i]
        rows.append((equity, requirement[i], 0, level[i]))
    return rows


def margins(dice: Dice, count: int, slope: SlopeParams) -> list[Words]:
    """Equity and notional of any size, and such that the cap is just below or above the most of its type."""
    rows: list[Words] = []
    equity, notional = dice.signed(count, MOST_MONEY), dice.wide(count, MOST_MONEY)
    near, nudge = dice.even(count, 0, 3), dice.even(count, -1, 1)
    for i in range(count):
        if near[i] == 0:
            notional[i] = max(0, slope.theta_wad * equity[i] // UINT64 + nudge[i])
        elif near[i] == 1:
            notional[i] = max(0, equity[i]) * (2 + i % 50)
        rows.append((equity[i], 0, notional[i]))
    return rows


def charges(dice: Dice, count: int, slope: SlopeParams) -> list[Words]:
    """Caps below, above and at the fee itself."""
    since_s = dice.mixed(dice.wide(count, 2**40), [slope.fee_growth_s])
    caps = dice.mixed(dice.even(count, 0, 6 * WAD // 100), [0, slope.k0_wad, slope.k1_wad, UINT64], 0.3)
    at_the_fee = FORMULAS["fee"].twin
    for i in range(0, count, 8):
        (caps[i],) = at_the_fee(slope, since_s[i], UINT64)
    caps[::16] = dice.nudged(caps[::16])
    return list(zip(since_s, caps, strict=True))


def pairs(dice: Dice, count: int, slope: SlopeParams) -> list[Words]:
    """Fast prices within the band, outside it, at its ends and one wei off them."""
    rows: list[Words] = []
    slow, free = dice.wide(count, UINT128), dice.wide(count, UINT128)
    since_s, spread = dice.wide(count, 2**40, [60, 61]), dice.even(count, 0, 2 * WAD)
    which, nudge = dice.even(count, 0, 9), dice.even(count, -1, 1)
    end = FORMULAS["executionPrice"].twin
    for i in range(count):
        fast = free[i] if which[i] < 2 else slow[i] * spread[i] // WAD
        if which[i] > 6:
            (at_end,) = end(slope, 0 if which[i] == 7 else UINT128 * 2, slow[i], since_s[i])
            fast = max(0, at_end + nudge[i])
        rows.append((fast, slow[i], since_s[i]))
    return rows


def moments(dice: Dice, count: int, _: SlopeParams) -> list[Words]:
    """Before, along, at the ends of and after a ramp; some of no length at all."""
    rows: list[Words] = []
    start, span = dice.wide(count, 2**39 - 1), dice.wide(count, 2**39 - 1, [86_400])
    part, nudge = dice.even(count, 0, WAD), dice.even(count, -1, 1)
    ends, moved = (dice.wide(count, UINT64) for _ in range(2))
    which = dice.even(count, 0, 9)
    for i in range(count):
        at = start[i] + span[i] * part[i] // WAD
        if which[i] < 4:
            at = max(0, start[i] + (which[i] % 2) * span[i] + nudge[i])
        rows.append((ends[i], moved[i], start[i], start[i] + span[i], at))
    return rows


def options(dice: Dice, count: int, _: SlopeParams) -> list[Words]:
    """Perps and options: settled, without an array, with one of any age, at a price near its own or not."""
    rows: list[Words] = []
    kinds, ref = dice.among(count, [0, 1, 1, 1, 2, 2, 2]), dice.wide(count, UINT64)
    mark, delta = dice.wide(count, UINT64), dice.signed(count, 2**31 - 1)
    price = prices_near(dice, [each * PRICE_UNIT for each in ref])
    strike, near = dice.wide(count, UINT128), dice.even(count, WAD // 3, 3 * WAD)
    settlement, which = dice.wide(count, UINT128), dice.even(count, 0, 15)
    age_s, nudge = ages(dice, count), dice.even(count, -1, 1)
    for i in range(count):
        if which[i] < 9:
            strike[i] = min(UINT128, price[i] * near[i] // WAD)
            mark[i] = min(UINT64, (price[i] // PRICE_UNIT) * (i % 97) // 97)
        elif which[i] < 12:
            strike[i] = max(0, price[i] + nudge[i])
        array = (ref[i] * PRICE_UNIT, mark[i] * PRICE_UNIT, delta[i] * DELTA_UNIT, NOW_S)
        if which[i] == 14:
            array = (0, 0, 0, 0)
        settled = settlement[i] if which[i] in {8, 15} else 0
        rows.append((kinds[i], strike[i], settled, *array, price[i], NOW_S + age_s[i]))
    return rows


def prices_near(dice: Dice, refs: Sequence[Wad]) -> list[Wad]:
    """Of each array's price: near it, at exactly 2% from it and one wei off that, and anywhere else."""
    count = len(refs)
    spread, which = dice.even(count, 980 * WAD // 1000, 1020 * WAD // 1000), dice.even(count, 0, 19)
    free, nudge = dice.wide(count, MOST_PRICE), dice.even(count, -1, 1)
    prices = []
    for i, ref in enumerate(refs):
        price = ref * spread[i] // WAD
        if which[i] < 2:
            price = free[i]
        elif which[i] < 6:
            price = ref + (ref // 50) * (1 if which[i] < 4 else -1) + nudge[i]
        prices.append(min(MOST_PRICE, max(0, price)))
    return prices


def ages(dice: Dice, count: int) -> list[int]:
    """Mostly young; and at the seconds where an array falls silent and where it is lost."""
    return dice.mixed(dice.even(count, 0, 650), [0, 599, 600, 601, 2_000, 4_199, 4_200, 4_201, 10**6], 0.2)


STATES_OF: Final[dict[str, Callable[[Dice, int, SlopeParams], list[Words]]]] = {
    "expWad": exponents,
    "decay": times,
    "scaled": equities,
    "closeable": breaches,
    "below": levels,
    "feeCap": margins,
    "fee": charges,
    "executionPrice": pairs,
    "valueAt": moments,
    "options": options,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_on_chain_equals_the_twin_to_the_wei(chain: Chain, name: str) -> None:
    formula, dice = FORMULAS[name], Dice(SEED)
    for _ in range(0, STATES, STATES_A_CALL):
        slope = random_slope(dice)
        states = STATES_OF[name](dice, STATES_A_CALL, slope)
        common: tuple[Words, ...] = (astuple(slope),) if formula.of_a_slope else ()
        told = chain.ask(name, *common, states)
        first = (slope,) if formula.of_a_slope else ()
        expected = [formula.twin(*first, *state) for state in states]
        check(told.result(), states, expected, slope)


def test_the_decay_on_chain_is_the_exact_one_or_at_most_3_wei_more(chain: Chain) -> None:
    dice, most = Dice(SEED + 1), 0
    for _ in range(0, STATES, STATES_A_CALL):
        slope = random_slope(dice)
        states = times(dice, STATES_A_CALL, slope)
        told = chain.ask("decay", astuple(slope), states)
        ideals = [
            exact.decay_wad(tau_s, lambda_wad=slope.lambda_wad, floor_wad=slope.q_min_wad)
            for (tau_s,) in states
        ]
        found = told.result()[64:]
        for i, ideal in enumerate(ideals):
            above = int.from_bytes(found[32 * i : 32 * i + 32]) - ideal
            assert 0 <= above <= 3, (above, states[i], slope)
            most = max(most, above)
    tell(f"at most {most} wei above the exact decay")


# --- legs and books ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """Markets and collaterals that the rows of one call share, and around which prices they are drawn."""

    markets: list[Words]
    """Words of ``Leg``: 0 market, 1 feed, 2 kind, 3 expiry, 4 strike, 5 settlement, 8 mmr, 9 imr, 11 ref."""
    collaterals: list[Words]
    """Words of ``Holding``, 1 the feed."""
    refs: dict[int, Wad]
    """A price around which each feed's arrays, strikes and rows are."""


@dataclass(frozen=True)
class Habit:
    """How many there are of what, and what its options may be without."""

    feeds: int
    perps: int
    options: int
    collaterals: int = 0
    lacking: bool = False
    """One option in eight has no array."""
    settled: bool = False
    """One option in eight has its settlement price."""


def random_terms(dice: Dice, habit: Habit) -> Terms:
    """List a few markets and collaterals on terms as wide as Instruments admits, and post their arrays."""
    refs = {feed: random_ref(dice) for feed in range(1, habit.feeds + 1)}
    markets: list[Words] = []
    for feed, ref in refs.items():
        mmr = dice.one(5 * WAD // 1000, WAD // 2)
        risk = (mmr, dice.one(mmr + 1, WAD), dice.one(0, mmr))
        for _ in range(habit.perps):
            markets.append((len(markets) + 1, feed, *[0] * 6, *risk, *[0] * 20))
        for _ in range(habit.options):
            kind, expiry_s = dice.among(1, [1, 2])[0], NOW_S + dice.among(1, [1, 2, 3])[0]
            near = ref * dice.one(WAD // 2, 2 * WAD) // WAD
            strike = dice.mixed([near], [1, ref, UINT128])[0]
            settlement = 0
            if habit.settled and dice.one(0, 7) == 3:
                settlement = max(1, dice.wide(1, UINT128, [strike])[0])
            array = [0] * 20
            if not habit.lacking or dice.one(0, 7) != 3:
                array = random_array(dice, ref, kind, strike, mmr)
            leg = (len(markets) + 1, feed, kind, expiry_s, strike, settlement, 0, 0)
            markets.append((*leg, *risk, *array))
    collaterals: list[Words] = []
    for number in range(1, habit.collaterals + 1):
        # Half of them are underlyings as well.
        feed = number if number % 2 else 100 + number
        refs.setdefault(feed, random_ref(dice))
        h_mm = dice.one(0, WAD)
        collaterals.append((number, feed, 0, h_mm, dice.one(0, h_mm), 0))
    return Terms(markets, collaterals, refs)


def random_ref(dice: Dice) -> Wad:
    """Draw a price that a risk array can hold, small enough for three ranges above it."""
    return max(1, dice.wide(1, 2**60)[0]) * PRICE_UNIT


def random_array(dice: Dice, base: Wad, kind: int, strike: Wad, mmr: Wad) -> list[int]:
    """Draw an array within RiskArrays' bounds: between payoff and ceiling, here and in every scenario."""
    ref = base * dice.among(1, [1000, 1000, 1000, 998, 1002])[0] // 1000 // PRICE_UNIT * PRICE_UNIT
    ends = [max(0, ref + ref * mmr // (3 * WAD) * moved) for moved in THIRDS]
    parts = dice.even(SCENARIOS + 1, 0, 1000)
    mark, *values = (
        random_value(kind, strike, end, part) for end, part in zip((ref, *ends), parts, strict=True)
    )
    pnl = [min(INT64, max(-INT64 - 1, value - mark)) * PRICE_UNIT for value in values]
    delta = dice.one(0, WAD // DELTA_UNIT) * DELTA_UNIT
    return [ref, mark * PRICE_UNIT, delta if kind == 1 else -delta, NOW_S - dice.one(0, 50), *pnl]


def random_value(kind: int, strike: Wad, price: Wad, part: int) -> int:
    """Take a part, in thousandths, of the way from payoff to ceiling; 8 decimals."""
    low, high = (max(0, price - strike), price) if kind == 1 else (max(0, strike - price), strike)
    return min(UINT64, (low + (high - low) * part // 1000) // PRICE_UNIT)


class Draws:
    """What the rows of one call are put together from: columns of random numbers."""

    def __init__(self, dice: Dice, terms: Terms, *, most_legs: int) -> None:
        count, self._most = ROWS_A_CALL, most_legs
        self._order = some_order(dice, count, len(terms.markets))
        self.pledged = some_order(dice, count, len(terms.collaterals))
        # Mostly few legs; one row in sixteen has as many as it may.
        few = np.minimum(dice.rng.geometric(0.5, count), most_legs)
        self.legs: list[int] = np.where(dice.rng.random(count) < 1 / 16, most_legs, few).tolist()
        self._wide = dice.signed(count * most_legs, MOST_SIZE)
        self._alike = dice.signed(count, MOST_SIZE)
        self._parts = dice.even(count * most_legs, -1000, 1000)
        self._ways = dice.even(count, 0, 7)
        self.now_s = [NOW_S + age_s for age_s in ages(dice, count)]
        self.prices = {feed: prices_near(dice, [ref] * count) for feed, ref in terms.refs.items()}
        self.betas = dice.even(count, 2 * WAD // 100, 3 * WAD // 2)

    def positions(self, row: int) -> list[tuple[int, int]]:
        """Draw markets and sizes: of any magnitudes, all of one, or such that they cancel out."""
        found = []
        for i in range(self.legs[row]):
            at, size = row * self._most + i, self._alike[row]
            if self._ways[row] < 3:
                size = self._wide[at]
            elif self._ways[row] < 7:
                size = size * self._parts[at] // 1000
            elif i % 2:
                size = -size
            found.append((self._order[row][i], size or 1))
        return found


def some_order(dice: Dice, count: int, of: int) -> list[list[int]]:
    """Shuffle the numbers below ``of``, anew for every row."""
    shuffled: list[list[int]] = dice.rng.permuted(np.tile(np.arange(of), (count, 1)), axis=1).tolist()
    return shuffled


def group_rows(dice: Dice, terms: Terms) -> list[Words]:
    """Legs of one underlying, judged at maintenance or at initial margin."""
    draws = Draws(dice, terms, most_legs=8)
    (prices,) = draws.prices.values()
    rows: list[Words] = []
    mmr, imr = terms.markets[0][8:10]
    for i in range(ROWS_A_CALL):
        rate = (mmr, imr, mul_div_up(mmr, WAD + draws.betas[i], WAD))[i % 3]
        legs = [word for position in draws.positions(i) for word in position]
        rows.append((rate, draws.now_s[i], prices[i], draws.legs[i], *legs))
    return rows


def book_rows(dice: Dice, terms: Terms) -> list[Words]:
    """Whole books: cash, perps and options on several underlyings, and collateral."""
    draws = Draws(dice, terms, most_legs=8)
    rows: list[Words] = []
    cash, quotes = (dice.signed(ROWS_A_CALL * k, INT128) for k in (1, 8))
    amounts, counts = dice.wide(ROWS_A_CALL * 4, UINT128), dice.even(ROWS_A_CALL, 0, 4)
    for i in range(ROWS_A_CALL):
        row = [cash[i], draws.now_s[i], draws.betas[i], draws.legs[i]]
        for k, (market, size) in enumerate(draws.positions(i)):
            row += [market, size, quotes[8 * i + k], draws.prices[terms.markets[market][1]][i]]
        row.append(counts[i])
        for k, number in enumerate(draws.pledged[i][: counts[i]]):
            row += [number, amounts[4 * i + k], draws.prices[terms.collaterals[number][1]][i]]
        rows.append(tuple(row))
    return rows


def test_a_requirement_on_chain_equals_the_twin_to_the_wei_by_scenarios_and_by_max_loss(chain: Chain) -> None:
    dice, seen = Dice(SEED), Counter[str]()
    while min(seen["by scenarios"], seen["by max loss"]) < STATES:
        terms = random_terms(dice, Habit(feeds=1, perps=2, options=8, lacking=dice.one(0, 7) == 1))
        world, rows = World(terms.markets, ()), group_rows(dice, terms)
        told = chain.ask("groups", terms.markets, flat(rows), (ROWS_A_CALL,))
        expected = [world.group(row) for row in rows]
        check(told.result(), rows, expected, terms)
        for row, (_, judged) in zip(rows, expected, strict=True):
            options = any(terms.markets[market][2] for market in row[4::2])
            seen[("by scenarios" if judged else "by max loss") if options else "perps"] += 1
    tell(f"{dict(seen)}")


def test_a_book_on_chain_equals_the_twin_to_the_wei(chain: Chain) -> None:
    dice, seen = Dice(SEED), Counter[str]()
    habit = Habit(feeds=3, perps=1, options=3, collaterals=4, lacking=True, settled=True)
    while seen["books"] < STATES:
        terms = random_terms(dice, habit)
        world, rows = World(terms.markets, terms.collaterals), book_rows(dice, terms)
        told = chain.ask("books", terms.markets, terms.collaterals, flat(rows), (ROWS_A_CALL,))
        expected = [world.book(row) for row in rows]
        check(told.result(), rows, expected, terms)
        seen.update(books=len(rows), large=sum(row[3] == 8 for row in rows), legs=sum(row[3] for row in rows))
    tell(f"{dict(seen)}")


def flat(rows: Sequence[Words]) -> list[Words]:
    """Put rows of different lengths behind each other, as one array of words."""
    return [(word,) for row in rows for word in row]
