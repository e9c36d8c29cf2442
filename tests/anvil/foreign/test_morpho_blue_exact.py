"""Morpho Blue's real contracts against our mathematics: equal to the last unit.

Pre-liquidation has no package: its contract here is ours, written from the public specification.

There are 500 random accounts of fixed seeds in four markets, one of them without interest; MORPHO_SEED sets
another seed, MORPHO_ACCOUNTS more accounts. The contract itself is the judge: ``liquidate`` says what it
takes, by eth_call.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pytest
from eth_abi.abi import decode
from eth_utils.crypto import keccak

from keeper.lab.anvil import Tx, anvil
from keeper.lab.foreign import morpho_blue as lab
from keeper.lab.foreign.morpho_blue import Morpho, deploy, populate
from keeper.protocols.morpho_blue import math
from keeper.protocols.morpho_blue.math import Close, Market, Position, PreTerms, Unmet
from keeper.units import UnixS

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(600)]

SEED: Final = int(os.environ.get("MORPHO_SEED", "20240110"))
ACCOUNTS: Final = int(os.environ.get("MORPHO_ACCOUNTS", "500"))
GENESIS_S: Final = 1_700_000_000
BLOCK_S: Final = 12
LIQUIDATOR: Final = "0x" + "1f" * 20
CLOSED: Final = keccak(text="Liquidate(bytes32,address,address,uint256,uint256,uint256,uint256,uint256)")
WORDS: Final = {Unmet.INCONSISTENT, Unmet.HEALTHY, Unmet.NOT_LESS_RISKY, Unmet.NOTHING}
"""Reasons that the contract tells in words; the others are errors with a selector."""


@dataclass(frozen=True, slots=True)
class Populated:
    """A deployment with its accounts: owner, market and position."""

    morpho: Morpho
    accounts: Sequence[tuple[str, int]]
    positions: Sequence[Position]

    def markets(self, at_s: UnixS) -> list[Market]:
        """Every market as stored, with its interest carried on by our own mathematics."""
        morpho, chain = self.morpho, self.morpho.lab
        rows = chain.ask_many([("Morpho", morpho.morpho, "market", each.id) for each in morpho.markets])
        prices = chain.ask_many([("PriceSource", each.oracle, "price") for each in morpho.markets])
        rates = chain.ask_many(
            [("AdaptiveCurveIrm", morpho.irm, "rateAtTarget", each.id) for each in morpho.markets]
        )
        found = []
        for each, row, price, at_target in zip(morpho.markets, rows, prices, rates, strict=True):
            market = Market(*(*row, each.spec.lltv_wad, price))
            rate_wad = math.adaptive_rate_wad(market, at_target, at_s) if each.spec.is_adaptive else 0
            found.append(math.accrued(market, at_s, rate_wad))
        return found

    def terms(self) -> list[PreTerms | None]:
        """What pre-liquidation may do in each market, at its own price."""
        asked = [("PriceSource", each.pre_oracle, "price") for each in self.morpho.markets if each.pre]
        prices = iter(self.morpho.lab.ask_many(asked))
        return [
            PreTerms(pre.lltv_wad, pre.close_wad, pre.incentive_wad, next(prices)) if pre else None
            for pre in (each.spec.pre for each in self.morpho.markets)
        ]

    def fall(self, rng: random.Random, low: float, high: float) -> None:
        """Move every price, pre-liquidation's own a little differently, after up to ten days."""
        factors = [rng.uniform(low, high) for _ in self.morpho.markets]
        pairs = [(factor, factor * rng.uniform(0.97, 1.03)) for factor in factors]
        self.morpho.price(pairs, after_s=rng.randint(1, 864_000))


@pytest.fixture(scope="module")
def populated() -> Iterator[Populated]:
    with anvil(timestamp_s=GENESIS_S) as node:
        morpho = deploy(node)
        accounts = populate(morpho, ACCOUNTS, SEED)
        node.fund([LIQUIDATOR])
        pres = [each.pre for each in morpho.markets if each.pre]
        morpho.lab.run(morpho.fund(LIQUIDATOR, list(lab.DECIMALS), pres))
        yield Populated(morpho, accounts, positions(morpho, accounts))


def positions(morpho: Morpho, accounts: Sequence[tuple[str, int]]) -> list[Position]:
    asked = [
        ("Morpho", morpho.morpho, "position", morpho.markets[number].id, who) for who, number in accounts
    ]
    return [Position(shares, collateral) for _, shares, collateral in morpho.lab.ask_many(asked)]


def answers(
    populated: Populated, asked: Sequence[tuple[int, int, int]], *, pre: bool = False
) -> Counter[Unmet | None]:
    """Hold closes (account, seized, shares) against what the contract answers now; count the answers."""
    morpho = populated.morpho
    markets, terms = populated.markets(morpho.lab.now_s), populated.terms()
    predicted, txs = [], []
    for number, seized, shares in asked:
        who, place = populated.accounts[number]
        position, market, agreed = populated.positions[number], markets[place], terms[place]
        if pre:
            assert agreed
            found = math.pre_close(position, market, agreed, seized=seized, shares=shares)
        else:
            found = math.close(position, market, seized=seized, shares=shares)
        build = morpho.pre_close if pre else morpho.close
        predicted.append(found)
        txs.append(build(LIQUIDATOR, morpho.markets[place], who, seized, shares))
    wrong = []
    for line, ours, outcome in zip(asked, predicted, morpho.lab.outcomes(txs), strict=True):
        told = decode(["uint256", "uint256"], outcome.data) if outcome.ok else outcome.error
        said = (ours.seized, ours.repaid) if isinstance(ours, Close) else reverts_with(ours)
        if told != said:
            wrong.append((line, ours, told))
    assert wrong == []
    return Counter(each if isinstance(each, Unmet) else None for each in predicted)


def reverts_with(unmet: Unmet) -> str:
    if unmet in WORDS:
        return unmet.value
    types = {Unmet.PANIC: "uint256", Unmet.PRE_TOO_LARGE: "uint256,uint256"}
    return "0x" + keccak(text=f"{unmet.value}({types.get(unmet, '')})")[:4].hex()


def any_size(populated: Populated, number: int, market: Market, rng: random.Random) -> tuple[int, int, int]:
    """Ask for the most, for a part by collateral or by shares, for a little, or for too much."""
    position = populated.positions[number]
    part = rng.randint(1, 1_000)
    sizes = (
        math.most(position, market),
        (0, position.borrow_shares * part // 1_000),
        (position.collateral * part // 1_000, 0),
        (0, 1),
        (1, 0),
        (0, 0),
        (position.collateral + 1, 0),
        (0, position.borrow_shares + 1),
    )
    return number, *rng.choice(sizes)


# --- interest, health ----------------------------------------------------------------------------


def test_interest_is_carried_to_a_later_time_exactly(populated: Populated) -> None:
    morpho = populated.morpho
    with morpho.lab.undone():
        for elapsed_s in (1, 12, 3_600, 86_400 * 3, 86_400 * 300, 86_400 * 2_000):
            at_s = morpho.lab.now_s + elapsed_s
            expected = populated.markets(at_s)
            accrue = [morpho.act(morpho.lab.admin, each, "accrueInterest") for each in morpho.markets]
            morpho.lab.run(accrue, after_s=elapsed_s)
            assert populated.markets(at_s) == expected


def test_health_seized_and_repaid_are_the_contracts_own(populated: Populated) -> None:
    rng = random.Random(SEED)
    seen: Counter[Unmet | None] = Counter()
    with populated.morpho.lab.undone():
        for _ in range(20):
            populated.fall(rng, 0.5, 1.1)
            markets = populated.markets(populated.morpho.lab.now_s)
            asked = [
                any_size(populated, number, markets[place], rng)
                for number, (_, place) in enumerate(populated.accounts)
            ]
            seen += answers(populated, asked)
    assert seen.total() == 20 * ACCOUNTS
    assert min(seen[None], seen[Unmet.HEALTHY]) > 2 * ACCOUNTS
    assert min(seen[Unmet.INCONSISTENT], seen[Unmet.PANIC]) > ACCOUNTS


def test_a_price_of_zero_gives_collateral_away_and_refuses_shares(populated: Populated) -> None:
    with populated.morpho.lab.undone():
        populated.morpho.price([(0, 1)] * len(populated.morpho.markets))
        held = [(number, each.collateral, 0) for number, each in enumerate(populated.positions)]
        assert answers(populated, held) == {None: ACCOUNTS}
        owed = [(number, 0, each.borrow_shares) for number, each in enumerate(populated.positions)]
        assert answers(populated, owed) == {Unmet.PANIC: ACCOUNTS}


# --- closes --------------------------------------------------------------------------------------


def test_a_block_of_closes_leaves_what_was_predicted_one_after_the_other(populated: Populated) -> None:
    rng = random.Random(SEED + 1)
    seen: Counter[str] = Counter()
    for _ in range(10):
        with populated.morpho.lab.undone():
            populated.fall(rng, 0.4, 0.9)
            _closed_one_after_the_other(populated, rng, seen)
    assert seen["closes"] > 800
    assert min(seen["bad debt"], seen["all"], seen["part"]) > 100


def _closed_one_after_the_other(populated: Populated, rng: random.Random, seen: Counter[str]) -> None:
    """Send up to 150 closes in one block: each changes its market, and so what the next one moves."""
    morpho = populated.morpho
    at_s = morpho.lab.now_s + BLOCK_S
    markets = populated.markets(at_s)
    chosen: list[tuple[int, Close]] = []
    txs: list[Tx] = []
    for number in rng.sample(range(ACCOUNTS), ACCOUNTS):
        who, place = populated.accounts[number]
        _, seized, shares = any_size(populated, number, markets[place], rng)
        found = math.close(populated.positions[number], markets[place], seized=seized, shares=shares)
        if isinstance(found, Close) and len(txs) < 150:
            markets[place] = found.market
            chosen.append((number, found))
            txs.append(morpho.close(LIQUIDATOR, morpho.markets[place], who, seized, shares))
    receipts = morpho.lab.include(txs, after_s=BLOCK_S)
    for (_, found), receipt in zip(chosen, receipts, strict=True):
        assert receipt["status"] == "0x1"
        (data,) = [log["data"] for log in receipt["logs"] if log["topics"][0] == "0x" + CLOSED.hex()]
        repaid, shares, seized, bad_debt, _ = decode(["uint256"] * 5, bytes.fromhex(data[2:]))
        assert (repaid, shares, seized, bad_debt) == (
            found.repaid,
            found.repaid_shares,
            found.seized,
            found.bad_debt,
        )
        seen["closes"] += 1
        seen["bad debt"] += found.bad_debt > 0
        seen["all" if found.position.borrow_shares == 0 else "part"] += 1
    touched = [populated.accounts[number] for number, _ in chosen]
    assert positions(morpho, touched) == [found.position for _, found in chosen]
    assert populated.markets(at_s) == markets


# --- pre-liquidation -----------------------------------------------------------------------------


def test_pre_liquidation_takes_what_its_straight_lines_allow(populated: Populated) -> None:
    rng = random.Random(SEED + 2)
    seen: Counter[Unmet | None] = Counter()
    with populated.morpho.lab.undone():
        for _ in range(12):
            populated.fall(rng, 0.75, 1.05)
            markets, terms = populated.markets(populated.morpho.lab.now_s), populated.terms()
            asked = []
            for number, (_, place) in enumerate(populated.accounts):
                agreed = terms[place]
                if agreed:
                    most = math.pre_most(populated.positions[number], markets[place], agreed)
                    asked += [(number, 0, most + more) for more in (0, 1) if most]
                    asked.append(any_size(populated, number, markets[place], rng))
            seen += answers(populated, asked, pre=True)
    assert seen[None] > 200
    told = (Unmet.PRE_TOO_LARGE, Unmet.PRE_TOO_LATE, Unmet.PRE_HEALTHY, Unmet.PRE_INCONSISTENT)
    assert min(seen[each] for each in told) > 100


def test_a_pre_liquidation_leaves_what_was_predicted(populated: Populated) -> None:
    rng = random.Random(SEED + 3)
    morpho = populated.morpho
    seen = 0
    with morpho.lab.undone():
        morpho.price([(0.93, 0.93)] * len(morpho.markets))
        at_s = morpho.lab.now_s + BLOCK_S
        markets, terms = populated.markets(at_s), populated.terms()
        chosen: list[tuple[int, Close]] = []
        txs: list[Tx] = []
        for number in rng.sample(range(ACCOUNTS), ACCOUNTS):
            who, place = populated.accounts[number]
            agreed, position = terms[place], populated.positions[number]
            most = math.pre_most(position, markets[place], agreed) if agreed else 0
            if agreed and most and len(txs) < 150:
                found = math.pre_close(position, markets[place], agreed, shares=most)
                if isinstance(found, Close):
                    markets[place] = found.market
                    chosen.append((number, found))
                    txs.append(morpho.pre_close(LIQUIDATOR, morpho.markets[place], who, 0, most))
        receipts = morpho.lab.include(txs, after_s=BLOCK_S)
        assert {receipt["status"] for receipt in receipts} == {"0x1"}
        touched = [populated.accounts[number] for number, _ in chosen]
        assert positions(morpho, touched) == [found.position for _, found in chosen]
        assert populated.markets(at_s) == markets
        seen += len(chosen)
    assert seen > 20
