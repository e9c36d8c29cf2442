"""Aave v3's real contracts against our mathematics, by both rules: equal to the last unit.

There are 500 random accounts of fixed seeds; AAVE_SEED sets another one, AAVE_ACCOUNTS more accounts. 3.6's
own ``LiquidationDataProvider`` is the second judge of the largest close.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
from eth_utils.crypto import keccak

from keeper.lab.anvil import BLOCK_TXS, anvil
from keeper.lab.foreign.aave_v3 import ASSETS, Aave, deploy, deploy_v3_0, populate
from keeper.protocols.aave_v3 import math
from keeper.protocols.aave_v3.math import Close, Health, Loan, Rules, Unmet, World
from keeper.units import UnixS
from tests.anvil.foreign.aave_reads import loans, stored_world, told_healths

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(600)]

SEED: Final = int(os.environ.get("AAVE_SEED", "20201126"))
ACCOUNTS: Final = int(os.environ.get("AAVE_ACCOUNTS", "500"))
GENESIS_S: Final = 1_700_000_000
BLOCK_S: Final = 12
ALL: Final = 2**256 - 1
SYMBOLS: Final = list(ASSETS)
CLOSED: Final = keccak(text="LiquidationCall(address,address,address,uint256,uint256,address,bool)")
DEFICIT: Final = keccak(text="DeficitCreated(address,address,uint256)")
LIQUIDATOR: Final = "0x" + "1f" * 20
LENDER: Final = "0x" + "11" * 20


@dataclass(frozen=True, slots=True)
class Populated:
    """A deployment with its accounts, as they are before a test."""

    aave: Aave
    owners: Sequence[str]
    loans: Sequence[Loan]

    @property
    def rules(self) -> Rules:
        return stored_world(self.aave).rules

    def world(self, at_s: UnixS) -> World:
        """The newest block's world, carried on."""
        return math.carried(stored_world(self.aave), at_s)

    def now(self) -> World:
        return self.world(self.aave.lab.now_s)

    def fall(self, rng: random.Random, low: float, high: float) -> None:
        """Move every price, after up to ten days."""
        self.aave.price(
            {symbol: rng.uniform(low, high) for symbol in SYMBOLS}, after_s=rng.randint(1, 864_000)
        )


@pytest.fixture(scope="module", params=[deploy, deploy_v3_0], ids=["3.6", "3.0"])
def populated(request: pytest.FixtureRequest) -> Iterator[Populated]:
    with anvil(timestamp_s=GENESIS_S) as node:
        aave: Aave = request.param(node)
        owners = populate(aave, ACCOUNTS, SEED)
        node.fund([LIQUIDATOR])
        aave.lab.run(aave.fund(LIQUIDATOR, SYMBOLS))
        yield Populated(aave, owners, loans(aave, owners))


def pairs(loan: Loan) -> list[tuple[int, int]]:
    return [(collateral, debt) for collateral in loan.collateral for debt in loan.debt]


def expected_error(unmet: Unmet, rules: Rules) -> str:
    """Return what the contract reverts with: a selector, or the words of 3.0."""
    name, words = unmet.value
    if unmet is Unmet.ILLIQUID:
        return "0x" + keccak(text="Panic(uint256)")[:4].hex()
    assert rules is Rules.V3_6 or words
    return "0x" + keccak(text=f"{name}()")[:4].hex() if rules is Rules.V3_6 else str(words)


# --- health --------------------------------------------------------------------------------------


def test_health_is_the_pools_own_answer_to_the_last_unit(populated: Populated) -> None:
    rng = random.Random(SEED)
    seen: Counter[str] = Counter()
    with populated.aave.lab.undone():
        for _ in range(20):
            populated.fall(rng, 0.5, 1.3)
            world = populated.now()
            told = told_healths(populated.aave, populated.owners)
            ours = [math.health(loan, world) for loan in populated.loans]
            assert ours == told
            seen.update("low" if each.factor_wad < math.HEALTHY_WAD else "well" for each in told)
    assert seen.total() == 20 * ACCOUNTS
    assert min(seen["low"], seen["well"]) > ACCOUNTS


def test_interest_is_carried_to_a_later_time_exactly(populated: Populated) -> None:
    aave = populated.aave
    with aave.lab.undone():
        before = stored_world(aave)
        for elapsed_s in (1, 2, 3, 3_600, 86_400 * 400):
            aave.lab.pass_time(elapsed_s)
            world = math.carried(before, aave.lab.now_s)
            told = told_healths(aave, populated.owners)
            assert [math.health(loan, world) for loan in populated.loans] == told


# --- closes --------------------------------------------------------------------------------------


def test_every_close_moves_what_was_predicted_and_leaves_what_was_predicted(populated: Populated) -> None:
    rng = random.Random(SEED + 1)
    seen: Counter[str] = Counter()
    for _ in range(12):
        with populated.aave.lab.undone():
            populated.fall(rng, 0.4, 1.2)
            at_s = populated.aave.lab.now_s + BLOCK_S
            world = populated.world(at_s)
            chosen = list(_chosen(populated, world, rng))[:BLOCK_TXS]
            _closed_as_predicted(populated, chosen, at_s, seen)
    assert seen["closes"] > 600
    assert min(seen["e-mode"], seen["many"], seen["all that is there"], seen["part"]) > 40
    if populated.rules is Rules.V3_6:
        assert seen["deficits"] > 40


def _chosen(
    populated: Populated, world: World, rng: random.Random
) -> Iterator[tuple[int, tuple[int, int], int, Close]]:
    """Yield account, pair, amount and prediction of one close for every account that may be liquidated."""
    for number, loan in enumerate(populated.loans):
        if math.health(loan, world).factor_wad >= math.HEALTHY_WAD:
            continue
        pair = rng.choice(pairs(loan))
        most = math.most(loan, *pair, world)
        amount = rng.choice((ALL, most, most * rng.randint(1, 999) // 1_000 + 1))
        predicted = math.close(loan, *pair, amount, world)
        if isinstance(predicted, Close):
            yield number, pair, amount, predicted


def _closed_as_predicted(
    populated: Populated,
    chosen: Sequence[tuple[int, tuple[int, int], int, Close]],
    at_s: UnixS,
    seen: Counter[str],
) -> None:
    aave, owners = populated.aave, populated.owners
    names = [(SYMBOLS[collateral], SYMBOLS[debt]) for _, (collateral, debt), _, _ in chosen]
    txs = [
        aave.close(LIQUIDATOR, *pair, owners[number], amount)
        for (number, _, amount, _), pair in zip(chosen, names, strict=True)
    ]
    receipts = aave.lab.include(txs, after_s=BLOCK_S)
    assert aave.lab.now_s == at_s
    for (number, _, _, predicted), receipt in zip(chosen, receipts, strict=True):
        assert receipt["status"] == "0x1", (owners[number], predicted)
        assert _moved(aave, receipt) == (predicted.repaid, predicted.seized, predicted.deficit)
    touched = [owners[number] for number, *_ in chosen]
    left = loans(aave, touched)
    assert left == [predicted.after for *_, predicted in chosen]
    after = populated.now()
    assert [math.health(loan, after) for loan in left] == told_healths(aave, touched)
    for number, pair, _, predicted in chosen:
        loan = populated.loans[number]
        seen.update(["closes", "part" if pair[0] in predicted.after.collateral else "all that is there"])
        seen["e-mode"] += loan.category != 0
        seen["many"] += len(loan.collateral) > 5
        seen["deficits"] += len(predicted.deficit)


def _moved(aave: Aave, receipt: Mapping[str, Any]) -> tuple[int, int, dict[int, int]]:
    """Return what the events say: repaid, seized, and deficits by reserve."""
    places = {token.lower(): number for number, token in enumerate(aave.tokens.values())}
    logs = [(log["topics"], bytes.fromhex(log["data"][2:])) for log in receipt["logs"]]
    (closed,) = [data for topics, data in logs if topics[0] == "0x" + CLOSED.hex()]
    deficits = {
        places["0x" + topics[2][-40:]]: int.from_bytes(data[:32])
        for topics, data in logs
        if topics[0] == "0x" + DEFICIT.hex()
    }
    return int.from_bytes(closed[:32]), int.from_bytes(closed[32:64]), deficits


def test_the_largest_close_is_the_pools_and_one_unit_more_is_cut_or_refused(populated: Populated) -> None:
    rng = random.Random(SEED + 2)
    aave, owners = populated.aave, populated.owners
    bounded = 0
    with aave.lab.undone():
        for _ in range(6):
            populated.fall(rng, 0.4, 1.2)
            world = populated.now()
            asked = []
            for number, loan in enumerate(populated.loans):
                for collateral, debt in pairs(loan)[:6]:
                    most = math.most(loan, collateral, debt, world)
                    if most and math.close(loan, collateral, debt, ALL, world) is Unmet.DUST:
                        asked.append((number, collateral, debt, most))
                    elif most:
                        whole = math.close(loan, collateral, debt, ALL, world)
                        assert isinstance(whole, Close)
                        assert whole.repaid == most
            txs = [
                aave.close(LIQUIDATOR, SYMBOLS[collateral], SYMBOLS[debt], owners[number], most + more)
                for number, collateral, debt, most in asked
                for more in (0, 1)
            ]
            errors = [outcome.error for outcome in aave.lab.outcomes(txs)]
            dust = expected_error(Unmet.DUST, Rules.V3_6)
            assert errors == ["", dust] * len(asked)
            bounded += len(asked)
    assert bounded > 10 if populated.rules is Rules.V3_6 else bounded == 0


def test_the_largest_close_is_what_the_liquidation_data_provider_says(populated: Populated) -> None:
    """Where it trims for the dust rule, it rounds otherwise: the pool refuses much of what it then names."""
    if populated.rules is Rules.V3_0:
        assert int(populated.aave.judge, 16) == 0
        return
    rng = random.Random(SEED + 3)
    aave, owners = populated.aave, populated.owners
    tokens = list(aave.tokens.values())
    equal = 0
    seen: Counter[Unmet | None] = Counter()
    with aave.lab.undone():
        for _ in range(6):
            populated.fall(rng, 0.4, 1.2)
            world = populated.now()
            asked = [
                (number, *pair)
                for number, loan in enumerate(populated.loans)
                if math.health(loan, world).factor_wad < math.HEALTHY_WAD
                for pair in pairs(loan)[:6]
            ]
            judge = ("LiquidationDataProvider", aave.judge, "getLiquidationInfo(address,address,address)")
            answers = aave.lab.ask_many(
                [
                    (*judge, owners[number], tokens[collateral], tokens[debt])
                    for number, collateral, debt in asked
                ]
            )
            trimmed = []
            for (number, collateral, debt), (*_, seized, repaid, fee, _) in zip(asked, answers, strict=True):
                ours = math.close(populated.loans[number], collateral, debt, ALL, world)
                if ours is Unmet.DUST:
                    trimmed.append((number, collateral, debt, repaid))
                else:
                    assert isinstance(ours, Close)
                    assert (ours.repaid, ours.seized, ours.fee) == (repaid, seized, fee)
                    equal += 1
            seen += refusals(populated, trimmed)
    assert equal > 1_000
    assert min(seen[None], seen[Unmet.DUST]) > 0


# --- refusals ------------------------------------------------------------------------------------


def refusals(populated: Populated, asked: Sequence[tuple[int, int, int, int]]) -> Counter[Unmet | None]:
    """Hold closes (account, collateral, debt, amount) against what the pool says; count the answers."""
    aave = populated.aave
    world = populated.now()
    predicted = [
        math.close(populated.loans[number], collateral, debt, amount, world)
        for number, collateral, debt, amount in asked
    ]
    txs = [
        aave.close(LIQUIDATOR, SYMBOLS[collateral], SYMBOLS[debt], populated.owners[number], amount)
        for number, collateral, debt, amount in asked
    ]
    expected = [expected_error(each, world.rules) if isinstance(each, Unmet) else "" for each in predicted]
    found = [outcome.error for outcome in aave.lab.outcomes(txs)]
    wrong = [line for line in zip(asked, predicted, expected, found, strict=True) if line[2] != line[3]]
    assert wrong == []
    return Counter(each if isinstance(each, Unmet) else None for each in predicted)


def any_asked(populated: Populated, rng: random.Random) -> list[tuple[int, int, int, int]]:
    """Ask of each account for a pair of its own and for one of chance, for all and for little."""
    asked = []
    for number, loan in enumerate(populated.loans):
        asked.append((number, *rng.choice(pairs(loan)), rng.choice((0, 1, 10**6, ALL))))
        asked.append((number, rng.randrange(len(SYMBOLS)), rng.randrange(len(SYMBOLS)), ALL))
    return asked


def test_every_refusal_has_the_predicted_reason(populated: Populated) -> None:
    rng = random.Random(SEED + 4)
    seen: Counter[Unmet | None] = Counter()
    with populated.aave.lab.undone():
        for _ in range(4):
            populated.fall(rng, 0.4, 1.1)
            seen += refusals(populated, any_asked(populated, rng))
    common = {Unmet.HEALTHY, Unmet.NOT_COLLATERAL, Unmet.NOT_BORROWED, Unmet.NOTHING, None}
    assert set(seen) >= common | ({Unmet.DUST} if populated.rules is Rules.V3_6 else set())
    assert seen[None] > 100


def test_a_paused_reserve_is_refused_and_so_is_its_time_of_grace(populated: Populated) -> None:
    rng = random.Random(SEED + 5)
    aave = populated.aave
    with aave.lab.undone():
        populated.fall(rng, 0.4, 0.9)
        weth = aave.tokens["WETH"]
        aave.configure("setReservePause(address,bool)", weth, True)
        assert refusals(populated, any_asked(populated, rng))[Unmet.PAUSED] > 50
        if populated.rules is Rules.V3_6:
            aave.configure("setReservePause(address,bool,uint40)", weth, False, 3_600)
            assert refusals(populated, any_asked(populated, rng))[Unmet.GRACE] > 50
            aave.lab.pass_time(3_601)
            assert refusals(populated, any_asked(populated, rng))[Unmet.GRACE] == 0


def test_the_sentinel_shields_who_is_barely_below_one(populated: Populated) -> None:
    rng = random.Random(SEED + 6)
    aave = populated.aave
    with aave.lab.undone():
        aave.price(dict.fromkeys(("WETH", "WBTC", "LINK"), 0.9))
        aave.lab.do("SequencerOracle", aave.sequencer, "setAnswer", True, aave.lab.now_s)
        down = refusals(populated, any_asked(populated, rng))
        aave.lab.do("SequencerOracle", aave.sequencer, "setAnswer", False, aave.lab.now_s)
        back = refusals(populated, any_asked(populated, rng))
        aave.lab.pass_time(3_700)
        allowed = refusals(populated, any_asked(populated, rng))
    assert min(down[Unmet.SENTINEL], back[Unmet.SENTINEL]) > 50
    assert allowed[Unmet.SENTINEL] == 0


def test_a_reserve_that_was_emptied_pays_nothing_out(populated: Populated) -> None:
    rng = random.Random(SEED + 7)
    aave, weth = populated.aave, SYMBOLS.index("WETH")
    with aave.lab.undone():
        liquid = populated.now().reserves[weth].liquid
        aave.lab.run([aave.borrow(LENDER, "WETH", liquid - 10)])
        populated.fall(rng, 0.5, 0.9)
        asked = [
            (number, weth, rng.choice(list(loan.debt)), ALL)
            for number, loan in enumerate(populated.loans)
            if weth in loan.collateral
        ]
        assert refusals(populated, asked)[Unmet.ILLIQUID] > 10


def test_who_owes_nothing_is_endlessly_healthy(populated: Populated) -> None:
    lender = loans(populated.aave, [LENDER])
    assert lender[0].debt == {}
    ours = [math.health(loan, populated.now()) for loan in lender]
    assert ours == told_healths(populated.aave, [LENDER])
    assert ours == [Health(ours[0].collateral, 0, math.ENDLESS)]
