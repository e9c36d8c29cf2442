"""Perpetual v2's real contracts against our mathematics: equal to the last unit.

There are 500 random takers of fixed seeds in two markets; PERP_SEED sets another seed, PERP_ACCOUNTS more of
them.
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

from keeper.lab.anvil import anvil
from keeper.lab.foreign.perp_curie import SPECS, Perp, deploy, populate
from keeper.protocols.perp_curie import math
from keeper.protocols.perp_curie.math import Close, Market, Position, Terms, Trader, Unmet
from keeper.units import WAD

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(600)]

SEED: Final = int(os.environ.get("PERP_SEED", "20211130"))
ACCOUNTS: Final = int(os.environ.get("PERP_ACCOUNTS", "500"))
GENESIS_S: Final = 1_700_000_000
SYMBOLS: Final = list(SPECS)
LIQUIDATOR: Final = "0x" + "1f" * 20
LIQUIDATED: Final = keccak(text="PositionLiquidated(address,address,uint256,uint256,uint256,address)")


@dataclass(frozen=True, slots=True)
class Populated:
    """A deployment with its accounts."""

    perp: Perp
    owners: Sequence[str]

    def traders(self, owners: Sequence[str]) -> list[Trader]:
        """Read accounts at the newest block."""
        perp, chain, at = self.perp, self.perp.lab, self.perp.at
        balances = chain.ask_many([("Vault", at["Vault"], "getBalance", who) for who in owners])
        owed = chain.ask_many(
            [("AccountBalance", at["AccountBalance"], "getPnlAndPendingFee", who) for who in owners]
        )
        orders = chain.ask_many([("AccountBalance", at["AccountBalance"], "hasOrder", who) for who in owners])
        pairs = [(who, base) for who in owners for base in perp.bases.values()]
        infos = iter(
            chain.ask_many(
                [("AccountBalance", at["AccountBalance"], "getAccountInfo", *each) for each in pairs]
            )
        )
        dues = iter(
            chain.ask_many(
                [("Exchange", at["Exchange"], "getPendingFundingPayment", *each) for each in pairs]
            )
        )
        found = []
        for balance, (realized, _, fee), has_order in zip(balances, owed, orders, strict=True):
            positions = {}
            for number in range(len(SYMBOLS)):
                (size, notional, *_), due = next(infos), next(dues)
                if size or notional:
                    positions[number] = Position(size, notional, due)
            found.append(Trader(balance * 10**12 + realized + fee, positions, has_order))
        return found

    def markets(self) -> dict[int, Market]:
        balance = self.perp.at["AccountBalance"]
        asked = [("AccountBalance", balance, "getMarkPrice", base) for base in self.perp.bases.values()]
        opened = [("BaseToken", base, "isOpen") for base in self.perp.bases.values()]
        rows = zip(self.perp.lab.ask_many(asked), self.perp.lab.ask_many(opened), strict=True)
        return {number: Market(mark, is_open) for number, (mark, is_open) in enumerate(rows)}

    def terms(self) -> Terms:
        chain, at = self.perp.lab, self.perp.at
        config = ("ClearingHouseConfig", at["ClearingHouseConfig"])
        fund = at["InsuranceFund"]
        (account,) = self.traders([fund])
        wallet = chain.ask("TestToken", self.perp.usdc, "balanceOf", fund)
        ratios = [chain.ask(*config, name) for name in ("getMmRatio", "getLiquidationPenaltyRatio")]
        return Terms(ratios[0], ratios[1], 6, account.cash_wad + wallet * 10**12)

    def move(self, rng: random.Random, step: int) -> None:
        """Press on the pools, down first and then up again, move the index, and let time pass."""
        self.perp.press({"ETH": 500, "BTC": 25}, sell=step < 6)
        self.perp.index({symbol: rng.uniform(0.75, 0.95) for symbol in SYMBOLS})
        self.perp.lab.pass_time(rng.randint(60, 4_000))


@pytest.fixture(scope="module")
def populated() -> Iterator[Populated]:
    with anvil(timestamp_s=GENESIS_S) as node:
        perp = deploy(node)
        owners = populate(perp, ACCOUNTS, SEED)
        node.fund([LIQUIDATOR])
        perp.lab.run(perp.deposit(LIQUIDATOR, 10**8))
        yield Populated(perp, owners)


def any_size(trader: Trader, rng: random.Random, most: Mapping[int, int]) -> tuple[int, int]:
    """Ask for the most, for a part, for too much, or for the wrong side; sometimes where there is nothing."""
    number = rng.choice(list(trader.positions)) if rng.random() < 0.95 else rng.randrange(len(SYMBOLS))
    size = most.get(number, 0)
    part = size * rng.randint(1, 1_000) // 1_000
    return number, rng.choice((0, size, part, part, 2 * size, -part, WAD, -WAD))


def test_health_and_largest_takeover_are_the_contracts_own(populated: Populated) -> None:
    rng = random.Random(SEED)
    perp, at = populated.perp, populated.perp.at
    seen: Counter[str] = Counter()
    with perp.lab.undone():
        for step in range(8):
            populated.move(rng, step)
            markets, terms, traders = (
                populated.markets(),
                populated.terms(),
                populated.traders(populated.owners),
            )
            ours = [math.health(each, markets, terms) for each in traders]
            values = perp.lab.ask_many(
                [("ClearingHouse", at["ClearingHouse"], "getAccountValue", who) for who in populated.owners]
            )
            balance = ("AccountBalance", at["AccountBalance"])
            required = perp.lab.ask_many(
                [(*balance, "getMarginRequirementForLiquidation", who) for who in populated.owners]
            )
            told = list(zip(values, required, strict=True))
            assert [(each.value_wad, each.required_wad) for each in ours] == told
            pairs = [
                (who, base, value)
                for who, value in zip(populated.owners, values, strict=True)
                for base in perp.bases.values()
            ]
            largest = perp.lab.ask_many([(*balance, "getLiquidatablePositionSize", *each) for each in pairs])
            predicted = [
                math.most(each, number, markets, terms) for each in traders for number in range(len(SYMBOLS))
            ]
            assert predicted == largest
            seen["low"] += sum(not each.is_healthy for each in ours)
            seen["takeovers"] += sum(size != 0 for size in largest)
    assert min(seen["low"], seen["takeovers"]) > ACCOUNTS // 2


def test_every_takeover_is_taken_or_refused_as_predicted(populated: Populated) -> None:
    rng = random.Random(SEED + 1)
    perp = populated.perp
    seen: Counter[Unmet | None] = Counter()
    with perp.lab.undone():
        for step in range(8):
            populated.move(rng, step)
            markets, terms, traders = (
                populated.markets(),
                populated.terms(),
                populated.traders(populated.owners),
            )
            predicted, txs = [], []
            for who, trader in zip(populated.owners, traders, strict=True):
                most = {each: math.most(trader, each, markets, terms) for each in trader.positions}
                number, size = any_size(trader, rng, most)
                predicted.append(math.close(trader, number, size, markets, terms))
                txs.append(perp.close(LIQUIDATOR, SYMBOLS[number], who, size))
            errors = [outcome.error for outcome in perp.lab.outcomes(txs)]
            assert errors == [each.value if isinstance(each, Unmet) else "" for each in predicted]
            seen.update(each if isinstance(each, Unmet) else None for each in predicted)
    assert set(seen) >= {Unmet.HEALTHY, Unmet.WRONG_SIDE, Unmet.UNINSURED, None}
    assert seen[None] > 80


def test_a_takeover_leaves_what_was_predicted(populated: Populated) -> None:
    """The takeover's block has the time of the one before it, so that mark and funding are those read."""
    rng = random.Random(SEED + 2)
    perp = populated.perp
    seen: Counter[str] = Counter()
    with perp.lab.undone():
        for step in range(6):
            populated.move(rng, step)
        markets, terms, traders = populated.markets(), populated.terms(), populated.traders(populated.owners)
        for who, trader in zip(populated.owners, traders, strict=True):
            most = {each: math.most(trader, each, markets, terms) for each in trader.positions}
            number = rng.choice(list(trader.positions))
            size = rng.choice((0, most[number] * rng.randint(1, 999) // 1_000))
            found = math.close(trader, number, size, markets, terms)
            if isinstance(found, Close) and seen["closes"] < 100:
                with perp.lab.undone():
                    (receipt,) = perp.lab.include(
                        [perp.close(LIQUIDATOR, SYMBOLS[number], who, size)], after_s=0
                    )
                    assert receipt["status"] == "0x1"
                    (data,) = [
                        log["data"] for log in receipt["logs"] if log["topics"][0] == "0x" + LIQUIDATED.hex()
                    ]
                    words = [int(data[2 + 64 * i : 66 + 64 * i], 16) for i in range(3)]
                    assert words == [abs(found.notional_wad), abs(found.size_wad), found.penalty_wad]
                    assert populated.traders([who]) == [found.trader]
                    (left,) = populated.traders([LIQUIDATOR])
                    taken = found.reward_wad - found.notional_wad
                    assert left.positions[number] == Position(found.size_wad, taken, 0)
                seen["closes"] += 1
                seen["whole" if number not in found.trader.positions else "part"] += 1
    assert seen["closes"] > 60
    assert min(seen["whole"], seen["part"]) > 10


def test_makers_are_refused_by_name(populated: Populated) -> None:
    (maker,) = populated.traders(["0x" + "11" * 20])
    assert maker.has_order
    markets, terms = populated.markets(), populated.terms()
    assert math.close(maker, 0, 0, markets, terms) is Unmet.HAS_ORDER
    (outcome,) = populated.perp.lab.outcomes([populated.perp.close(LIQUIDATOR, "ETH", "0x" + "11" * 20, 0)])
    assert outcome.error == Unmet.HAS_ORDER.value
