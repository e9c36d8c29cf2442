"""A pool as the desk asks it: standing, ways and closes in small numbers, and what is not known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper import trigger
from keeper.domain import ChainTime, Cure, Quote, Reason, Refuse, Unknown
from keeper.errors import InvariantBroken
from keeper.lending.feeds import QUOTE
from keeper.lending.flash import Kind, flash_call
from keeper.lending.routes import Hop, Pool
from keeper.lending.words import Approve, By, Close, Flash, Heal, Lender, Repay, Sight, Standing
from keeper.protocols.aave_v3.abi import LIQUIDATE
from keeper.protocols.aave_v3.codec import AaveWorld
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.aave_v3.math import RAY, Rules
from keeper.protocols.aave_v3.oracles import Trace
from keeper.protocols.aave_v3.params import BASE_UNIT
from keeper.protocols.aave_v3.rows import AaveRow
from keeper.state.book import Book
from keeper.units import WAD, FeedId
from tests.unit.protocols.aave_v3.pools import (
    LINK,
    NOW_S,
    POOL,
    POOLED,
    UNPRICED,
    USDC,
    WETH,
    Terms,
    at,
    deployment,
    key,
    owner,
    page_of,
    row,
    token,
    world_answer,
)

ETHER, DOLLAR = 10**18, 10**6
BORROWER = row(1, {WETH: 10 * ETHER}, {USDC: 15_000 * DOLLAR})
"""$20,000 at a threshold of 80%: health 16/15."""


def market(rules: Rules = Rules.V3_6) -> AaveMarket:
    return AaveMarket(deployment(rules))


def world(rules: Rules = Rules.V3_6, pooled: Mapping[int, Terms] = POOLED, **told: Any) -> AaveWorld:
    return market(rules).decode_prices(world_answer(pooled, rules=rules, **told))


def eth_at(dollars: int) -> AaveWorld:
    return world(pooled={**POOLED, WETH: replace(POOLED[WETH], price=dollars * BASE_UNIT)})


def quotes(**dollars: float) -> dict[FeedId, Quote | Unknown]:
    return {f"{name}/USD": Quote(f"{name}/USD", int(price * WAD), NOW_S) for name, price in dollars.items()}


def stand(of: AaveRow, here: AaveWorld) -> Standing:
    found = market().stand(of, here)
    assert isinstance(found, Standing)
    return found


# --- the two clocks ------------------------------------------------------------------------------


def test_a_fast_price_moves_the_pools_own_by_quote_over_answer() -> None:
    capped = world(pooled={**POOLED, WETH: replace(POOLED[WETH], price=2_100 * BASE_UNIT)})
    moved = market().fast(capped, quotes(ETH=1_000, LINK=10, USDC=3))
    assert [each.price for each in moved.now.reserves] == [
        1_050 * BASE_UNIT,
        BASE_UNIT,
        0,
        10 * BASE_UNIT,
    ]
    assert moved.at(NOW_S + 12).now.reserves[WETH].price == 1_050 * BASE_UNIT


def test_a_product_moves_with_each_feed_that_is_known() -> None:
    both = (Trace("WBTC/BTC", at(0xCE, WETH), 8), Trace("BTC/USD", at(0xCE, LINK), 8))
    here = AaveMarket(replace(deployment(), traces={**deployment().traces, WETH: both}))
    assert here.fast(world(), quotes(BTC=11)).now.reserves[WETH].price == 2_200 * BASE_UNIT
    either = {**quotes(BTC=11), "WBTC/BTC": Quote("WBTC/BTC", 1_000 * WAD, NOW_S)}
    assert here.fast(world(), either).now.reserves[WETH].price == 1_100 * BASE_UNIT


@pytest.mark.parametrize(
    ("known", "answers"),
    [
        ({"ETH/USD": Unknown("ETH/USD", "too old")}, ((2_000 * BASE_UNIT, NOW_S), (0, 0))),
        ({}, ((2_000 * BASE_UNIT, NOW_S), (0, 0))),
        (quotes(ETH=1), ((0, 0), (0, 0))),
    ],
)
def test_without_a_quote_or_an_answer_the_chains_price_stays(
    known: dict[FeedId, Quote | Unknown], answers: Sequence[tuple[int, int]]
) -> None:
    here = world(answers=answers)
    assert market().fast(here, known) == here


def test_both_clocks_of_an_account_are_told() -> None:
    held = row(1, {WETH: ETHER, USDC: 1}, {LINK: 1})
    assert market().sights(held, world(), quotes(ETH=1_999)) == (
        Sight("ETH/USD", 1_999 * WAD, 2_000 * WAD, NOW_S - 60),
        Sight("LINK/USD", None, 10 * WAD, NOW_S - 90),
    )
    assert market().sights(BORROWER, world(answers=((0, 0), (0, 0))), {}) == ()


def test_what_an_account_hangs_on_and_no_feed_tells_of_is_named() -> None:
    here = market()
    assert here.unseen(row(1, {WETH: ETHER}, {LINK: 1}), world()) == ()
    assert here.unseen(row(1, {WETH: ETHER, USDC: 1}, {LINK: 1}), world()) == (f"token {token(USDC)}",)
    assert here.unseen(row(1, {WETH: ETHER}, {USDC: 1}), world()) == (f"token {token(USDC)}",)
    # A feed that does not answer tells nothing either, nor does the half of a product.
    mute = world(answers=((2_000 * BASE_UNIT, NOW_S), (0, 0)))
    assert here.unseen(row(1, {WETH: ETHER}, {LINK: 1}), mute) == (f"token {token(LINK)}",)
    both = (Trace("WBTC/BTC", at(0xCE, WETH), 8), Trace("BTC/USD", at(0xCE, LINK), 8))
    half = AaveMarket(replace(deployment(), traces={**deployment().traces, WETH: both}))
    assert half.unseen(row(1, {WETH: ETHER}, {}), mute) == (f"token {token(WETH)}",)


@pytest.mark.parametrize("rules", Rules)
def test_collateral_that_weighs_nothing_is_no_price_that_an_account_hangs_on(rules: Rules) -> None:
    weightless = {**POOLED, USDC: replace(POOLED[USDC], threshold_bps=0)}
    here, held = AaveMarket(deployment(rules)), {WETH: ETHER, USDC: 1}
    there = world(pooled=weightless, rules=rules)
    assert here.unseen(row(1, held, {LINK: 1}), there) == ()
    assert here.unseen(row(1, held, {USDC: 1}), there) == (f"token {token(USDC)}",)
    weighs = world(pooled=weightless, rules=rules, categories=((1, 9_000, 10_100, 1 << USDC, 0),))
    inside = replace(row(1, held, {LINK: 1}), category=1)
    assert here.unseen(inside, weighs) == ((f"token {token(USDC)}",) if rules is Rules.V3_6 else ())


def test_the_own_price_of_a_category_is_traced_to_nothing() -> None:
    here = AaveMarket(deployment(Rules.V3_0))
    terms = (1, 9_000, 10_100, 1 << WETH | 1 << USDC, 1_990 * BASE_UNIT)
    there = world(rules=Rules.V3_0, categories=(terms,))
    inside = replace(row(1, {WETH: ETHER}, {LINK: 1}), category=1)
    assert here.unseen(inside, there) == ("e-mode category 1",)
    assert here.unseen(replace(inside, category=0), there) == ()
    assert here.unseen(replace(inside, collateral=((LINK, ETHER),)), there) == ()


def test_a_price_of_the_pools_own_oracle_can_be_taken_for_a_feed() -> None:
    itself = (Trace("USDC/USD", at(0xCE, USDC), 8, is_oracle=True),)
    here = AaveMarket(replace(deployment(), traces={USDC: itself, WETH: ()}))
    depegged = {**POOLED, USDC: replace(POOLED[USDC], price=BASE_UNIT * 9 // 10)}
    there = here.decode_prices(world_answer(depegged, answers=((0, 0),)))
    owed = row(1, {WETH: ETHER}, {USDC: 1})
    assert here.sights(owed, there, quotes(USDC=1)) == (Sight("USDC/USD", WAD, 9 * WAD // 10, NOW_S),)
    assert here.unseen(owed, there) == (f"token {token(WETH)}",)
    assert here.fast(there, quotes(USDC=1)).now.reserves[USDC].price == BASE_UNIT
    unpriced = here.decode_prices(world_answer({WETH: POOLED[WETH]}, answers=((0, 0),)))
    assert unpriced.answers == {}


def test_what_is_worth_one_of_quote_asks_for_no_price_source() -> None:
    fixed = (Trace(QUOTE, at(0xCE, USDC), 8, is_oracle=True),)
    here = AaveMarket(replace(deployment(), traces={**deployment().traces, USDC: fixed}))
    assert here.feeds == ("ETH/USD", "LINK/USD")


def test_what_is_not_traced_is_named() -> None:
    assert market().untraced == (token(USDC),)
    assert market().feeds == ("ETH/USD", "LINK/USD")


def test_what_can_be_upgraded_is_named() -> None:
    assert market().addresses == (POOL, *(at(0xA7, each) for each in (WETH, USDC, LINK)))
    assert market().spending == tuple((token, POOL) for token in market().tokens)


# --- the trigger ---------------------------------------------------------------------------------


def suspected(
    rows: Sequence[AaveRow], here: AaveWorld, known: Mapping[FeedId, Quote | Unknown], of: AaveMarket
) -> tuple[set[bytes], set[bytes]]:
    """Return suspects and unknown accounts."""
    book = Book(of.shape)
    book.fold_rows(page_of(rows), 1)
    frozen, marks = book.freeze(), of.marks(here, known, here.now.at_s)
    scores = trigger.score(cash=frozen.cash, positions=frozen.positions, marks=marks, classes=frozen.classes)
    low = trigger.suspects(scores, level=np.asarray(marks.levels[frozen.classes]))
    return {frozen.key(int(n)) for n in low}, {frozen.key(int(n)) for n in np.flatnonzero(scores.unknown)}


def test_a_breach_at_either_clock_is_suspected() -> None:
    well, short = (
        row(2, {WETH: 20 * ETHER}, {USDC: 15_000 * DOLLAR}),
        row(3, {USDC: 20_000 * DOLLAR}, {WETH: 7 * ETHER}),
    )
    rows = [BORROWER, well, short]
    assert suspected(rows, world(), {}, market()) == (set(), set())
    assert suspected(rows, world(), quotes(ETH=1_800), market()) == ({BORROWER.key}, set())
    assert suspected(rows, eth_at(1_800), quotes(ETH=2_000), market())[0] == {BORROWER.key}
    assert suspected(rows, world(), quotes(ETH=2_200), market())[0] == {short.key}


def test_who_is_barely_above_one_is_let_go_and_at_one_kept() -> None:
    at_one = row(1, {WETH: 10 * ETHER}, {USDC: 16_000 * DOLLAR})
    above = row(2, {WETH: 10 * ETHER}, {USDC: 15_999 * DOLLAR})
    assert suspected([at_one, above], world(), {}, market())[0] == {at_one.key}


def test_e_mode_counts_for_who_is_in_it() -> None:
    here = world(categories=[(1, 9_500, 10_100, 1 << WETH, 0)])
    rows = [
        row(1, {WETH: 10 * ETHER}, {USDC: 18_000 * DOLLAR}, 1),
        row(2, {WETH: 10 * ETHER}, {USDC: 18_000 * DOLLAR}),
    ]
    assert suspected(rows, here, {}, market()) == ({key(2)}, set())
    assert [market().stand(each, here).is_breached for each in rows] == [False, True]  # type: ignore[union-attr]


def test_a_category_of_3_0_may_have_a_price_of_its_own() -> None:
    old, owes = market(Rules.V3_0), {USDC: 15_000 * DOLLAR}
    rows = [
        row(1, {WETH: 10 * ETHER}, owes, 1),
        row(2, {WETH: 10 * ETHER}, owes),
        row(3, {WETH: 10 * ETHER}, owes, 2),
    ]
    told = [(1, 9_000, 10_100, 1 << WETH, 1_500 * BASE_UNIT), (2, 9_000, 10_100, 1 << WETH, UNPRICED)]
    here = old.decode_prices(world_answer(rules=Rules.V3_0, categories=told))
    assert suspected(rows, here, {}, old) == ({key(1)}, {key(3)})
    stands = [old.stand(each, here) for each in rows]
    assert isinstance(stands[0], Standing)
    assert stands[0].health_wad == 9 * WAD // 10
    assert stands[2] == Unknown("e-mode category 2", "its price is not to be had")


def test_without_a_threshold_of_its_own_collateral_counts_for_nothing_in_a_category_of_3_0() -> None:
    pooled = {**POOLED, WETH: replace(POOLED[WETH], threshold_bps=0)}
    loan = row(1, {WETH: 10 * ETHER}, {USDC: 15_000 * DOLLAR}, 1)
    for rules, found in ((Rules.V3_0, {loan.key}), (Rules.V3_6, set[bytes]())):
        here = world(rules, pooled, categories=[(1, 9_000, 10_100, 1 << WETH, 0)])
        standing = market(rules).stand(loan, here)
        assert isinstance(standing, Standing)
        assert standing.is_breached is bool(found)
        assert suspected([loan], here, {}, market(rules))[0] == found


def test_3_0_rounds_the_mean_threshold_and_is_suspected_for_it() -> None:
    old = market(Rules.V3_0)
    mixed = row(1, {WETH: 10 * ETHER, USDC: 1}, {USDC: 15_999 * DOLLAR})
    here = old.decode_prices(world_answer(rules=Rules.V3_0))
    found = old.stand(mixed, here)
    assert isinstance(found, Standing)
    assert found.is_breached
    assert suspected([mixed], here, {}, old)[0] == {mixed.key}
    assert suspected([mixed], world(), {}, market())[0] == set()


amounts = st.one_of(st.just(0), st.integers(1, 1_000), st.integers(1, 10**22))
holdings = st.dictionaries(st.sampled_from((WETH, USDC, LINK)), amounts, max_size=3)
prices = st.integers(1, 10**13)
indices = st.integers(RAY, 3 * RAY)


@given(
    st.sampled_from(Rules),
    st.lists(st.tuples(holdings, holdings, st.integers(0, 1)), min_size=1, max_size=4),
    st.lists(st.tuples(prices, indices, indices, st.sampled_from((0, 1, 7_777))), min_size=3, max_size=3),
    st.tuples(prices, prices),
)
def test_whoever_is_below_one_at_either_clock_is_suspected(
    rules: Rules,
    drawn: Sequence[tuple[Mapping[int, int], Mapping[int, int], int]],
    terms: Sequence[tuple[int, int, int, int]],
    fast: tuple[int, int],
) -> None:
    pooled = {
        number: replace(POOLED[number], price=price, income_ray=income, debt_ray=debt, threshold_bps=bps)
        for number, (price, income, debt, bps) in zip(POOLED, terms, strict=True)
    }
    of = market(rules)
    here = world(rules, pooled, categories=[(1, 9_333, 10_100, 1 << WETH | 1 << LINK, 0)])
    known = quotes(ETH=fast[0] / BASE_UNIT, LINK=fast[1] / BASE_UNIT)
    rows = [row(number, *each) for number, each in enumerate(drawn)]
    low = {
        each.key
        for each in rows
        for seen in (here, of.fast(here, known))
        for found in [of.stand(each, seen)]
        if isinstance(found, Standing) and found.is_breached
    }
    assert low <= suspected(rows, here, known, of)[0]


def test_interest_is_in_the_marks() -> None:
    grown = world(pooled={**POOLED, USDC: replace(POOLED[USDC], debt_ray=RAY * 11 // 10)})
    assert suspected([BORROWER], grown, {}, market())[0] == {BORROWER.key}


# --- what is not known ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "gone", "found"),
    [
        (BORROWER, WETH, Unknown(f"token {token(WETH)}", "the pool's oracle has no price for it")),
        (BORROWER, USDC, Unknown(f"token {token(USDC)}", "the pool's oracle has no price for it")),
        (row(1, {5: 1}, {USDC: 1}), LINK, Unknown("reserve 5", "not listed by the pool")),
        (row(1, {2: 1}, {USDC: 1}), LINK, Unknown("reserve 2", "not listed by the pool")),
        (
            row(1, {WETH: 1}, {}, stable_debt=[USDC]),
            LINK,
            Unknown("debt of reserve 1", "at a stable rate, which is not computed"),
        ),
    ],
)
def test_an_account_that_is_not_known_is_not_judged(of: AaveRow, gone: int, found: Unknown) -> None:
    here = world(pooled={**POOLED, gone: replace(POOLED[gone], price=0)})
    assert market().stand(of, here) == found
    assert market().ways(of, here) == ()
    [way] = market().ways(BORROWER, eth_at(1_800))
    assert market().most(of, way, here) == 0
    refused = market().close(of, way, 1, here)
    assert refused == Refuse(Reason("oracle.unknown", f"{found.what}: {found.why}", "a price"))


def test_a_price_that_is_gone_concerns_its_holders_alone() -> None:
    other = row(2, {LINK: 1_000 * ETHER}, {USDC: 5_000 * DOLLAR})
    here = world(pooled={**POOLED, WETH: replace(POOLED[WETH], price=0)})
    assert suspected([BORROWER, other], here, quotes(ETH=1), market()) == (set(), {BORROWER.key})
    assert stand(other, here).health_wad == 7 * WAD // 5


def test_a_token_is_worth_what_the_pool_says() -> None:
    here = world(pooled={**POOLED, LINK: replace(POOLED[LINK], price=0)})
    assert market().worth_wad(token(WETH).upper().replace("0X", "0x"), ETHER // 2, here) == 1_000 * WAD
    assert market().worth_wad(token(USDC), 1, here) == WAD // DOLLAR
    assert market().worth_wad(token(LINK), 1, here) == Unknown(
        f"token {token(LINK)}", "the pool's oracle has no price for it"
    )
    assert market().worth_wad(at(1, 1), 1, here) == Unknown(f"token {at(1, 1)}", "not listed by the pool")


# --- standing and closing ------------------------------------------------------------------------


def test_an_account_stands_as_the_pool_says() -> None:
    healthy = Reason("pool.healthy", "HealthFactorNotBelowThreshold", "what the pool accepts")
    assert stand(BORROWER, world()) == Standing(16 * WAD // 15, 15_000 * WAD, 20_000 * WAD, healthy)
    assert stand(BORROWER, eth_at(1_800)) == Standing(96 * WAD // 100, 15_000 * WAD, 18_000 * WAD, None)


def test_who_owes_nothing_has_no_health() -> None:
    found = stand(row(1, {WETH: ETHER}, {}), world())
    assert (found.health_wad, found.debt_wad, found.is_breached) == (None, 0, False)
    assert found.unmet is not None
    assert found.unmet.rule == "pool.not_borrowed"


def test_who_has_no_collateral_cannot_be_closed() -> None:
    found = stand(row(1, {}, {USDC: DOLLAR}), world())
    assert (found.health_wad, found.is_breached) == (0, True)
    assert found.unmet is not None
    assert found.unmet.rule == "pool.not_collateral"


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"is_paused": True}, "pool.paused"),
        ({"grace_until_s": NOW_S}, "pool.grace"),
    ],
)
def test_a_reserve_that_is_closed_stands_against_it(changed: dict[str, Any], rule: str) -> None:
    low = replace(POOLED[WETH], price=1_800 * BASE_UNIT, **changed)
    found = stand(BORROWER, world(pooled={**POOLED, WETH: low}))
    assert found.is_breached
    assert found.unmet is not None
    assert found.unmet.rule == rule


def test_a_pair_that_is_open_is_enough() -> None:
    paused = replace(POOLED[WETH], is_paused=True, price=1_000 * BASE_UNIT)
    both = row(1, {WETH: 10 * ETHER, LINK: 100 * ETHER}, {USDC: 15_000 * DOLLAR})
    here = world(pooled={**POOLED, WETH: paused})
    assert stand(both, here).unmet is None
    assert [way.collateral for way in market().ways(both, here)] == [token(LINK)]


def test_the_way_that_takes_least_of_the_owner_comes_first() -> None:
    both = row(1, {LINK: 100 * ETHER, WETH: 10 * ETHER}, {USDC: 15_000 * DOLLAR})
    first, second = market().ways(both, eth_at(1_500))
    assert (first.venue, first.debt, first.collateral, first.market) == (POOL, token(USDC), token(WETH), "")
    assert (first.bonus_wad, second.bonus_wad) == (WAD // 20, 7 * WAD // 100)
    assert first.gas > market().ways(BORROWER, eth_at(1_500))[0].gas


def test_a_close_says_what_it_moves_and_what_is_left() -> None:
    here = eth_at(1_800)
    [way] = market().ways(BORROWER, here)
    assert market().most(BORROWER, way, here) == 7_500 * DOLLAR
    done = market().close(BORROWER, way, 3_600 * DOLLAR, here)
    assert isinstance(done, Close)
    # 2.1 ether with the bonus, a tenth of which is the treasury's.
    assert (done.by, done.asked, done.repaid, done.seized) == (
        By.REPAID,
        3_600 * DOLLAR,
        3_600 * DOLLAR,
        21 * ETHER // 10 - ETHER // 100,
    )
    assert done.health_after_wad == 11_376 * WAD // 11_400
    assert (done.is_whole, done.bad_debt) == (False, 0)


def test_more_than_may_be_closed_is_cut_and_dust_is_refused() -> None:
    here = eth_at(1_800)
    [way] = market().ways(BORROWER, here)
    cut = market().close(BORROWER, way, 10**12, here)
    assert isinstance(cut, Close)
    assert cut.repaid == 7_500 * DOLLAR
    small = row(1, {WETH: ETHER}, {USDC: 1_500 * DOLLAR})
    assert market().close(small, way, 1_000 * DOLLAR, here) == Refuse(
        Reason("pool.dust", "MustNotLeaveDust", "what the pool accepts")
    )


def test_an_order_for_all_asks_for_a_little_more() -> None:
    small, here = row(1, {WETH: ETHER}, {USDC: 1_500 * DOLLAR}), eth_at(1_800)
    [way] = market().ways(small, here)
    most = market().most(small, way, here)
    done = market().close(small, way, most, here)
    assert isinstance(done, Close)
    assert (done.repaid, done.health_after_wad, done.is_whole) == (1_500 * DOLLAR, None, True)
    assert 1_500 * DOLLAR < done.asked < 1_500 * DOLLAR * 10_001 // 10_000


def test_what_no_collateral_is_left_for_is_bad_debt() -> None:
    here = eth_at(1_000)
    under = row(1, {WETH: ETHER}, {USDC: 1_500 * DOLLAR, LINK: 10 * ETHER})
    way = next(way for way in market().ways(under, here) if way.debt == token(USDC))
    done = market().close(under, way, market().most(under, way, here), here)
    assert isinstance(done, Close)
    assert done.is_whole
    assert done.health_after_wad is None
    assert done.bad_debt == 1_600 * DOLLAR - done.repaid


def test_a_refusal_of_a_close_is_by_the_pools_own_name() -> None:
    [way] = market().ways(BORROWER, eth_at(1_800))
    refused = market().close(BORROWER, way, 1, world())
    assert isinstance(refused, Refuse)
    assert refused.reason.evidence == "HealthFactorNotBelowThreshold"


def test_time_carries_interest() -> None:
    owing = replace(POOLED[USDC], debt_rate_ray=RAY)
    here = world(pooled={**POOLED, USDC: owing})
    later = market().carried(here, ChainTime(1, NOW_S + 86_400))
    assert stand(BORROWER, later).debt_wad > stand(BORROWER, here).debt_wad == 15_000 * WAD


def test_a_pool_sweeps_nobody() -> None:
    assert market().sweep(BORROWER, eth_at(1_800)) is None


# --- acts ----------------------------------------------------------------------------------------


def test_an_order_is_for_exactly_what_was_asked() -> None:
    [way] = market().ways(BORROWER, eth_at(1_800))
    call = market().encode(Repay(BORROWER.key, way, By.REPAID, 8, 7))
    assert call == LIQUIDATE.call(POOL, token(WETH), token(USDC), owner(1), 8, False)
    approval = market().encode(Approve(BORROWER.key, token(USDC), POOL, 8))
    assert approval.to == token(USDC)
    assert approval.data[-32:] == (8).to_bytes(32)


def test_acts_that_the_pool_does_not_know_are_ours_to_mend() -> None:
    [way] = market().ways(BORROWER, eth_at(1_800))
    unknown = (
        Heal(BORROWER.key),
        Cure(BORROWER.key),
        Repay(BORROWER.key, way, By.SHARES, 8, 7),
    )
    for act in unknown:
        with pytest.raises(InvariantBroken, match="Aave v3 knows no such"):
            market().encode(act)


def test_a_loan_for_one_transaction_goes_to_our_own_contract() -> None:
    [way] = market().ways(BORROWER, eth_at(1_800))
    hop = Hop(Pool("0x" + "90" * 20, way.collateral, way.debt, 500), way.collateral)
    ours = "0x" + "f1" * 20
    act = Repay(BORROWER.key, way, By.REPAID, 8, 8, Flash(ours, Lender.AAVE, "", (hop,), 1))
    assert market().encode(act) == flash_call(act, Kind.AAVE_V3)
    assert market().encode(act).to == ours


def test_what_was_not_revert_data_is_left_as_it_is() -> None:
    told = Refuse(Reason("simulation.reverted", "out of gas", ""))
    assert market().explain(told) is told
    raw = Refuse(Reason("simulation.reverted", "0x" + "930bb771", ""))
    assert market().explain(raw).reason.rule == "simulation.reverted"
