"""Venus's real contracts against our mathematics: equal to the last unit.

There are 500 random accounts of fixed seeds in five markets; VENUS_SEED sets another seed, VENUS_ACCOUNTS
more accounts.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pytest
from eth_utils.crypto import keccak

from keeper.lab.anvil import Tx, anvil
from keeper.lab.foreign import compound_v2 as lab
from keeper.lab.foreign.compound_v2 import ASSETS, Venus, deploy, populate
from keeper.protocols.compound_v2 import math
from keeper.protocols.compound_v2.math import Action, Close, Debt, Loan, Market, Order, Pool, Unmet

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(600)]

SEED: Final = int(os.environ.get("VENUS_SEED", "20230627"))
ACCOUNTS: Final = int(os.environ.get("VENUS_ACCOUNTS", "500"))
GENESIS_S: Final = 1_700_000_000
SYMBOLS: Final = list(ASSETS)
LIQUIDATOR: Final = "0x" + "1f" * 20
STATED: Final = (
    "getCash",
    "totalBorrows",
    "badDebt",
    "totalReserves",
    "totalSupply",
    "borrowIndex",
    "accrualBlockNumber",
    "borrowRatePerBlock",
    "reserveFactorMantissa",
    "protocolSeizeShareMantissa",
)


@dataclass(frozen=True, slots=True)
class Populated:
    """A deployment with its accounts."""

    venus: Venus
    owners: Sequence[str]
    loans: Sequence[Loan]

    @property
    def block(self) -> int:
        return self.venus.lab.node.block_number()

    def pool(self, paused: frozenset[Action] = frozenset(), forced: frozenset[str] = frozenset()) -> Pool:
        """Read every market as it is stored."""
        venus, chain = self.venus, self.venus.lab
        answers = iter(
            chain.ask_many([("VToken", venus.vtokens[symbol], each) for symbol in SYMBOLS for each in STATED])
        )
        prices = chain.ask_many(
            [("MockPriceOracle", venus.oracle, "assetPrices", venus.tokens[symbol]) for symbol in SYMBOLS]
        )
        markets = []
        for symbol, price in zip(SYMBOLS, prices, strict=True):
            cash, borrows, bad, reserves, supply, index, block, rate, factor, share = (
                next(answers) for _ in STATED
            )
            markets.append(
                Market(
                    price=price,
                    threshold_wad=ASSETS[symbol].threshold * lab.PERCENT,
                    cash=cash,
                    borrows=borrows,
                    bad_debt=bad,
                    reserves=reserves,
                    supply=supply,
                    first_rate_wad=0,
                    borrow_index_wad=index,
                    accrued_at=block,
                    borrow_rate_wad=rate,
                    reserve_factor_wad=factor,
                    seize_share_wad=share,
                    paused=paused if symbol == "USDC" else frozenset(),
                    is_forced=symbol in forced,
                )
            )
        return Pool(tuple(markets), lab.CLOSE_FACTOR_WAD, lab.INCENTIVE_WAD, lab.LEAST_COLLATERAL)

    def fall(self, rng: random.Random, low: float, high: float) -> None:
        """Move every price, after up to eight blocks."""
        factors = {symbol: rng.uniform(low, high) for symbol in SYMBOLS}
        self.venus.price(factors, blocks=rng.randint(1, 8))


@pytest.fixture(scope="module")
def populated() -> Iterator[Populated]:
    with anvil(timestamp_s=GENESIS_S, code_size_limit=False) as node:
        venus = deploy(node)
        owners = populate(venus, ACCOUNTS, SEED)
        node.fund([LIQUIDATOR])
        venus.lab.run(venus.fund(LIQUIDATOR, SYMBOLS))
        yield Populated(venus, owners, loans(venus, owners))


def loans(venus: Venus, owners: Sequence[str]) -> list[Loan]:
    """Read accounts as they are stored."""
    chain, vtokens = venus.lab, list(venus.vtokens.values())
    entered = chain.ask_many([("Comptroller", venus.comptroller, "getAssetsIn", each) for each in owners])
    places = {vtoken: number for number, vtoken in enumerate(vtokens)}
    balances = iter(
        chain.ask_many([("VToken", each, "balanceOf", who) for who in owners for each in vtokens])
    )
    debts = iter(venus.debts(owners))
    found = []
    for markets in entered:
        held = {number: next(balances) for number in range(len(SYMBOLS))}
        owed = {number: Debt(*next(debts)) for number in range(len(SYMBOLS))}
        found.append(
            Loan(
                tuple(places[each] for each in markets),
                {number: tokens for number, tokens in held.items() if tokens},
                {number: debt for number, debt in owed.items() if debt.principal},
            )
        )
    return found


def seen_by_views(populated: Populated, pool: Pool) -> list[Loan]:
    """Return the accounts as views tell them: debts as they are now, at the markets' own index."""
    return [
        Loan(
            loan.entered,
            loan.held,
            {
                each: Debt(math.owed(loan, pool, each), pool.markets[each].borrow_index_wad)
                for each in loan.debts
            },
        )
        for loan in populated.loans
    ]


def told_healths(populated: Populated) -> list[tuple[int, int]]:
    venus = populated.venus
    asked = [("Comptroller", venus.comptroller, "getAccountLiquidity", each) for each in populated.owners]
    return [(liquidity, shortfall) for _, liquidity, shortfall in venus.lab.ask_many(asked)]


def reverts_with(unmet: Unmet) -> str:
    if unmet in {Unmet.NOT_ENOUGH_HELD, Unmet.DEBT_LEFT}:
        return str(unmet.value)
    return "0x" + keccak(text=unmet.value)[:4].hex()


def held_against(
    populated: Populated, predicted: Sequence[Close | Unmet], txs: Sequence[Tx]
) -> Counter[Unmet | None]:
    """Hold predictions against how the transactions would end now; count them by reason."""
    expected = [reverts_with(each) if isinstance(each, Unmet) else "" for each in predicted]
    found = [outcome.error for outcome in populated.venus.lab.outcomes(txs)]
    wrong = [line for line in zip(predicted, expected, found, strict=True) if line[1] != line[2]]
    assert wrong == []
    return Counter(each if isinstance(each, Unmet) else None for each in predicted)


def any_order(loan: Loan, pool: Pool, block: int, rng: random.Random) -> Order:
    """Ask for the most, a part, nothing or too much of a pair, which is not always there."""
    debt = rng.choice(list(loan.debts)) if rng.random() < 0.9 else rng.randrange(len(SYMBOLS))
    collateral = rng.choice(loan.entered) if rng.random() < 0.9 else rng.randrange(len(SYMBOLS))
    most = math.most(loan, pool, collateral, debt, block)
    balance = math.owed(loan, pool.up_to(block, debt), debt)
    amount = rng.choice((most, most + 1, most * rng.randint(1, 999) // 1_000, balance, 0, balance // 2))
    return Order(collateral, debt, amount)


def preferred(markets: Mapping[int, object], rng: random.Random) -> int:
    usdc = SYMBOLS.index("USDC")
    return usdc if usdc in markets else rng.choice(list(markets))


def fair_order(loan: Loan, pool: Pool, block: int, rng: random.Random) -> Order:
    """Ask for the most of a pair, or for a part of that; of USDC wherever there is some."""
    pair = (preferred(loan.held, rng), preferred(loan.debts, rng))
    amount = math.most(loan, pool, *pair, block)
    return Order(*pair, rng.choice((amount, amount * rng.randint(1, 999) // 1_000)))


# --- health --------------------------------------------------------------------------------------


def test_health_is_the_comptrollers_own_answer_to_the_last_unit(populated: Populated) -> None:
    rng = random.Random(SEED)
    short = 0
    with populated.venus.lab.undone():
        for _ in range(12):
            populated.fall(rng, 0.5, 1.3)
            pool = populated.pool()
            ours = [math.health(loan, pool) for loan in populated.loans]
            told = told_healths(populated)
            assert [(each.liquidity, each.shortfall) for each in ours] == told
            short += sum(shortfall > 0 for _, shortfall in told)
    assert short > ACCOUNTS


def test_interest_is_carried_to_a_later_block_exactly(populated: Populated) -> None:
    venus = populated.venus
    with venus.lab.undone():
        for blocks in (1, 7, 40):
            before = populated.pool()
            venus.lab.node.rpc("anvil_mine", hex(blocks))
            expected = before.up_to(populated.block + 1, *range(len(SYMBOLS)))
            venus.lab.run([venus.act(LIQUIDATOR, each, "accrueInterest") for each in SYMBOLS])
            after = populated.pool()
            for ours, theirs in zip(expected.markets, after.markets, strict=True):
                assert ours.borrow_index_wad == theirs.borrow_index_wad
                assert ours.borrows == theirs.borrows
                assert ours.exchange_rate_wad == theirs.exchange_rate_wad
            # A debt that was read by a view, and not as it is stored, is a unit too small at the most.
            for loan, near in zip(populated.loans, seen_by_views(populated, before), strict=True):
                for each in loan.debts:
                    assert 0 <= math.owed(loan, after, each) - math.owed(near, after, each) <= 1
            assert [
                (each.liquidity, each.shortfall)
                for each in (math.health(loan, after) for loan in populated.loans)
            ] == told_healths(populated)


# --- closes --------------------------------------------------------------------------------------


def test_every_close_is_taken_or_refused_as_predicted(populated: Populated) -> None:
    rng = random.Random(SEED + 1)
    seen: Counter[Unmet | None] = Counter()
    with populated.venus.lab.undone():
        for _ in range(8):
            populated.fall(rng, 0.4, 1.3)
            pool, block = populated.pool(), populated.block
            orders = [any_order(loan, pool, block, rng) for loan in populated.loans]
            seen += answered(populated, orders, pool, block)
    told = {Unmet.SMALL, Unmet.HEALTHY, Unmet.TOO_MUCH, Unmet.NOTHING, Unmet.NOT_ENOUGH_HELD, None}
    assert set(seen) >= told
    assert seen[None] > 80


def answered(populated: Populated, orders: Sequence[Order], pool: Pool, block: int) -> Counter[Unmet | None]:
    venus = populated.venus
    pairs = [(SYMBOLS[each.collateral], SYMBOLS[each.debt]) for each in orders]
    txs = [
        venus.close(LIQUIDATOR, *pair, who, each.amount)
        for who, pair, each in zip(populated.owners, pairs, orders, strict=True)
    ]
    predicted = [
        math.close(loan, pool, each.collateral, each.debt, each.amount, block)
        for loan, each in zip(populated.loans, orders, strict=True)
    ]
    return held_against(populated, predicted, txs)


def test_a_block_of_closes_leaves_what_was_predicted_one_after_the_other(populated: Populated) -> None:
    rng = random.Random(SEED + 2)
    venus = populated.venus
    seen = 0
    for _ in range(8):
        with venus.lab.undone():
            populated.fall(rng, 0.4, 1.3)
            block, pool = populated.block + 1, populated.pool()
            chosen: list[tuple[int, Close]] = []
            txs: list[Tx] = []
            for number in rng.sample(range(ACCOUNTS), ACCOUNTS):
                order = fair_order(populated.loans[number], pool, block, rng)
                found = math.close(
                    populated.loans[number], pool, order.collateral, order.debt, order.amount, block
                )
                if isinstance(found, Close) and len(txs) < 150:
                    pool = found.pool
                    chosen.append((number, found))
                    pair = (SYMBOLS[order.collateral], SYMBOLS[order.debt])
                    txs.append(venus.close(LIQUIDATOR, *pair, populated.owners[number], order.amount))
            receipts = venus.lab.include(txs)
            assert {receipt["status"] for receipt in receipts} == {"0x1"}
            assert populated.block == block
            left_as_predicted(populated, chosen, pool)
            seen += len(chosen)
    assert seen > 200


def left_as_predicted(populated: Populated, chosen: Sequence[tuple[int, Close]], pool: Pool) -> None:
    """Compare every account and every market with what was predicted."""
    venus = populated.venus
    left = loans(venus, [populated.owners[number] for number, _ in chosen])
    assert left == [found.loan for _, found in chosen]
    for ours, theirs in zip(pool.markets, populated.pool().markets, strict=True):
        assert ours.exchange_rate_wad == theirs.exchange_rate_wad
        assert (ours.borrows, ours.bad_debt, ours.supply) == (theirs.borrows, theirs.bad_debt, theirs.supply)


# --- small accounts ------------------------------------------------------------------------------


def test_small_accounts_are_closed_whole_or_healed_as_predicted(populated: Populated) -> None:
    rng = random.Random(SEED + 3)
    venus = populated.venus
    seen: Counter[Unmet | None] = Counter()
    with venus.lab.undone():
        for _ in range(5):
            populated.fall(rng, 0.5, 1.1)
            pool, block = populated.pool(), populated.block
            predicted, txs = [], []
            for who, loan in zip(populated.owners, populated.loans, strict=True):
                orders = math.orders(loan, pool, block)
                told = [
                    (venus.vtokens[SYMBOLS[each.collateral]], venus.vtokens[SYMBOLS[each.debt]], each.amount)
                    for each in orders
                ]
                predicted.append(math.close_all(loan, pool, orders, block))
                txs.append(venus.pool(LIQUIDATOR, "liquidateAccount", who, told))
                predicted.append(math.heal(loan, pool, block))
                txs.append(venus.pool(LIQUIDATOR, "healAccount", who))
            seen += held_against(populated, predicted, txs)
    assert set(seen) >= {Unmet.NOT_SMALL, Unmet.HEALTHY, Unmet.TO_BE_HEALED, None}
    assert seen[None] > 100


def test_a_block_of_healings_leaves_bad_debt_as_predicted(populated: Populated) -> None:
    venus = populated.venus
    with venus.lab.undone():
        venus.price({"WETH": 0.5, "WBTC": 0.55, "USDC": 1.0, "LINK": 0.9, "ALT": 1.1}, blocks=5)
        block, pool = populated.block + 1, populated.pool()
        chosen: list[tuple[int, Close]] = []
        txs: list[Tx] = []
        for number, loan in enumerate(populated.loans):
            orders = math.orders(loan, pool, block)
            whole = math.close_all(loan, pool, orders, block)
            found = whole if isinstance(whole, Close) else math.heal(loan, pool, block)
            if isinstance(found, Close) and len(txs) < 150:
                pool = found.pool
                chosen.append((number, found))
                told = [
                    (venus.vtokens[SYMBOLS[each.collateral]], venus.vtokens[SYMBOLS[each.debt]], each.amount)
                    for each in orders
                ]
                who = populated.owners[number]
                txs.append(
                    venus.pool(LIQUIDATOR, "liquidateAccount", who, told)
                    if found is whole
                    else venus.pool(LIQUIDATOR, "healAccount", who)
                )
        receipts = venus.lab.include(txs)
        assert {receipt["status"] for receipt in receipts} == {"0x1"}
        left_as_predicted(populated, chosen, pool)
    assert sum(any(found.bad_debt.values()) for _, found in chosen) > 8
    assert sum(not found.bad_debt for _, found in chosen) > 5


# --- pauses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", list(Action))
def test_a_paused_action_refuses_where_it_would_be_needed(populated: Populated, action: Action) -> None:
    rng = random.Random(SEED + 4)
    venus = populated.venus
    with venus.lab.undone():
        populated.fall(rng, 0.4, 1.3)
        open_pool, block = populated.pool(), populated.block
        orders = [fair_order(loan, open_pool, block, rng) for loan in populated.loans]
        venus.configure("setActionsPaused", [venus.vtokens["USDC"]], [action.value], True)
        pool, block = populated.pool(frozenset({action})), populated.block
        assert answered(populated, orders, pool, block)[Unmet.PAUSED] > 2


def test_a_forced_market_closes_healthy_debts_too(populated: Populated) -> None:
    rng = random.Random(SEED + 5)
    venus = populated.venus
    with venus.lab.undone():
        venus.configure("setForcedLiquidation", venus.vtokens["USDC"], True)
        pool, block = populated.pool(forced=frozenset({"USDC"})), populated.block
        orders = [any_order(loan, pool, block, rng) for loan in populated.loans]
        seen = answered(populated, orders, pool, block)
    assert seen[None] > 20
    assert seen[Unmet.HEALTHY] > 20
