"""A margin call is exact: so much of each remedy restores the buffer, and one unit less does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from keeper.domain import Account, Holding, Leg, Phase, Unknown
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.aave_v3.math import RAY, Rules
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.remedies import Do, Health, Mend, least, remedies, scaled
from keeper.units import WAD
from tests.unit.protocols.aave_v3 import pools
from tests.unit.protocols.compound_v2 import made as venus
from tests.unit.protocols.hybrid import books
from tests.unit.protocols.morpho_blue import made as morpho
from tests.unit.protocols.perp_curie import perps

BUFFERS = st.integers(101 * WAD // 100, 3 * WAD // 2)


def holds(account: Any, mends: Sequence[Mend], health: Health, buffer_wad: int) -> list[Do]:
    """Check every remedy to the unit; return what can be done."""

    def stands(row: Any) -> bool:
        has, needs = health(row)
        return has * WAD >= buffer_wad * needs

    found = remedies(account, mends, health, buffer_wad)
    assert (found is None) == stands(account)
    by_name = {(mend.do, mend.of): mend for mend in mends}
    for remedy in found or ():
        mend = by_name[remedy.do, remedy.of]
        assert 0 < remedy.amount <= mend.most
        assert stands(mend.applied(remedy.amount))
        assert not stands(mend.applied(remedy.amount - 1))
    return [remedy.do for remedy in found or ()]


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_least_is_found_from_any_guess(bound: int, guess: int, most: int) -> None:
    found = least(lambda amount: amount >= bound, guess, most)
    assert found == (bound if bound <= most else None)


def test_amounts_are_written_with_every_digit() -> None:
    assert [scaled(*each) for each in ((90 * WAD, 18), (1, 18), (150, 2), (7, 0))] == [
        "90", "0.000000000000000001", "1.5", "7"
    ]  # fmt: skip


# --- HybridMargin --------------------------------------------------------------------------------

legs = st.builds(
    Leg, st.sampled_from([1, 2, 3]), st.integers(-(10**21), 10**21), st.integers(-(10**24), 10**24)
)
accounts = st.builds(
    lambda cash, legs, holdings, tiny: Account(
        books.OWNER,
        Phase.HEALTHY,
        cash + tiny,
        tuple({leg.market: leg for leg in legs if leg.size_wad}.values()),
        tuple({each.collateral: each for each in holdings}.values()),
    ),
    st.integers(-(10**23), 10**23),
    st.lists(legs, min_size=1, max_size=3),
    st.lists(st.builds(Holding, st.sampled_from([1, 2]), st.integers(1, 10**20)), max_size=2),
    st.integers(0, 10**6),
)


@given(accounts, BUFFERS)
def test_hybrid_margin(account: Account, buffer_wad: int) -> None:
    market, oracles = HybridMarket(books.deployment()), books.oracles()
    assume(account.legs)
    mends = market.mends(account, oracles, books.AT)
    assert not isinstance(mends, Unknown)
    health = market.measured(account, oracles, books.AT)
    assessed = market.assess(account, oracles, books.AT)
    assert not isinstance(assessed, Unknown)
    has, needs = health(account)
    assert (has, needs) == (assessed.fast.equity_wad * WAD, assessed.fast.requirement_wad * WAD)
    done = holds(account, mends, health, buffer_wad)
    if has * WAD < buffer_wad * needs:
        assert done.count(Do.DEPOSIT) == 3


def test_hybrid_margin_says_the_deposit_and_the_reduction() -> None:
    """Long 100 at 210, the price at 200: E = 1,060, M = 1,000; at the buffer of 1.15 E is to be 1,150."""
    account = Account(books.OWNER, Phase.HEALTHY, 2_060 * WAD, (Leg(1, 100 * WAD, -21_000 * WAD),), ())
    market, oracles = HybridMarket(books.deployment()), books.oracles()
    mends = market.mends(account, oracles, books.AT)
    assert not isinstance(mends, Unknown)
    health = market.measured(account, oracles, books.AT)
    found = remedies(account, mends, health, 115 * WAD // 100)
    assert found is not None
    told = [str(remedy) for remedy in found]
    quote, btc, syn = (mend.of for mend in mends[:3])
    assert told[:2] == [f"deposit 90 {quote}", f"deposit 0.5625 {btc}"]
    assert told[2].startswith("deposit 32.142857142857142")
    assert told[2].endswith(syn)
    assert told[3].startswith("reduce 7.8260869565217")


# --- lending -------------------------------------------------------------------------------------


def measured(market: Any, world: Any) -> Health:
    def health(loan: Any) -> tuple[int, int]:
        standing = market.stand(loan, world)
        assert not isinstance(standing, Unknown)
        if standing.health_wad is None:
            return 1, 0
        return standing.health_wad * max(1, standing.debt_wad), WAD * max(1, standing.debt_wad)

    return health


@given(
    st.sampled_from(Rules),
    st.integers(10**15, 10**19),
    st.integers(0, 10**21),
    st.integers(10**6, 2 * 10**10),
    st.integers(RAY, 2 * RAY),
    BUFFERS,
)
def test_aave(rules: Rules, weth: int, link: int, usdc: int, index_ray: int, buffer_wad: int) -> None:
    market = AaveMarket(pools.deployment(rules))
    pooled = {
        number: replace(terms, income_ray=index_ray, debt_ray=index_ray)
        for number, terms in pools.POOLED.items()
    }
    world = market.decode_prices(pools.world_answer(pooled, rules=rules))
    held = {pools.WETH: weth} | ({pools.LINK: link} if link else {})
    loan = pools.row(1, held, {pools.USDC: usdc})
    holds(loan, market.mends(loan, world), measured(market, world), buffer_wad)


@given(st.integers(1, 1_700 * 10**6), st.integers(10**15, 2 * 10**18), BUFFERS)
def test_morpho(owed: int, held: int, buffer_wad: int) -> None:
    market, loan = MorphoMarket(morpho.LISTING), morpho.loan(owed, held)
    holds(loan, market.mends(loan, morpho.WORLD), measured(market, morpho.WORLD), buffer_wad)


@given(st.integers(1, 3_000), st.floats(0.5, 3.0), BUFFERS)
def test_venus(dollars: int, ether: float, buffer_wad: int) -> None:
    market, loan = VenusMarket(venus.LISTING), venus.loan(dollars, ether)
    holds(loan, market.mends(loan, venus.WORLD), measured(market, venus.WORLD), buffer_wad)


# --- Perpetual -----------------------------------------------------------------------------------


@given(
    st.floats(1, 100_000),
    st.floats(-50, 50).filter(lambda size: abs(size) > 0.01),
    st.floats(-2, 2).filter(lambda size: abs(size) > 0.001),
    st.floats(-0.1, 0.1),
    BUFFERS,
)
def test_perpetual(cash: float, eth: float, btc: float, profit: float, buffer_wad: int) -> None:
    world = perps.world(2_000)
    account = perps.account(1, cash, {0: (eth, -eth * 2_000 * (1 + profit)), 1: (btc, -btc * 40_000)})

    def health(row: Any) -> tuple[int, int]:
        margin = perps.MARKET.stand(row, world)
        assert not isinstance(margin, Unknown)
        return margin.value_wad, margin.required_wad

    holds(account, perps.MARKET.mends(account, world), health, buffer_wad)
