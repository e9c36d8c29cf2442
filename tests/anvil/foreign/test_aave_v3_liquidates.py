"""A whole keeper on Aave v3: a false print, a fall that the oracle follows, and closings in small steps."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keeper.chain.pool import Pool
from keeper.confirm.policy import CAUTIOUS, Policies
from keeper.desk.lending import LendingDesk, Params
from keeper.domain import EventKind
from keeper.lab.anvil import anvil
from keeper.lab.foreign.aave_v3 import ASSETS, Aave, deploy, deploy_v3_0
from keeper.lab.foreign.base import minted
from keeper.lab.foreign.exchange import OWNER, Exchange, deploy_exchange
from keeper.lending import tokens
from keeper.lending.routes import Pools, find_pools
from keeper.lending.words import Lender
from keeper.plan import lending as plan
from keeper.plan.common import Policy
from keeper.protocols.aave_v3.abi import reader_creation
from keeper.protocols.aave_v3.codec import key_of
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.aave_v3.params import LENT_READER, read_deployment
from keeper.units import WAD
from tests.anvil.foreign.keeping import Spoken, keeping, read
from tests.unit.pipeline.desk import SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GENESIS_S = 1_700_000_000
ETHER, DOLLAR = 10**18, 10**6
WEAK, CALM = "0x" + "b0" * 20, "0x" + "ca" * 20
LENT = {LENT_READER: reader_creation(), tokens.LENT_READER: tokens.reader_creation()}
FEED, STABLE = "ETH/USD", "USDC/USD"
BESIDE = {"Observed BalanceTransfer"}


@dataclass(frozen=True)
class Stage:
    """A pool with two accounts that have ether and owe dollars, and an exchange beside it."""

    aave: Aave
    exchange: Exchange
    market: AaveMarket
    pools: Pools

    def factor(self, owner: str) -> float:
        """Return an account's health by the pool's own view."""
        asked = (self.aave.names.pool, self.aave.pool, "getUserAccountData", owner)
        return int(self.aave.lab.ask(*asked)[5]) / WAD

    def desk(self, policy: Policy, flash: plan.FlashParams | None = None) -> LendingDesk:
        chosen = plan.Params(policy=policy, flash=flash)
        return LendingDesk(SIGNER.address, Params(FEED, Policies(), chosen), self.pools)

    @property
    def flash(self) -> plan.FlashParams:
        return plan.FlashParams(self.exchange.liquidator, Lender.MORPHO)

    def held(self, symbol: str, who: str) -> int:
        found: int = self.aave.lab.ask("TestToken", self.aave.tokens[symbol], "balanceOf", who)
        return found

    def fall(self, factor: float) -> None:
        """Let the oracle and the exchange follow to a part of the price at the start."""
        self.aave.price({"WETH": factor})
        self.exchange.price({self.aave.tokens["WETH"]: 2_000 * factor})


@pytest.fixture
def stage() -> Iterator[Stage]:
    with anvil(timestamp_s=GENESIS_S) as node:
        yield staged(deploy(node))


@pytest.fixture
def older() -> Iterator[Stage]:
    """The same by the rules of 3.0."""
    with anvil(timestamp_s=GENESIS_S) as node:
        yield staged(deploy_v3_0(node))


def staged(aave: Aave) -> Stage:
    lab, ether, dollars = aave.lab, aave.tokens["WETH"], aave.tokens["USDC"]
    node = lab.node
    exchange = deploy_exchange(lab, {ether: 2_000.0}, quote=dollars, aave=aave.pool)
    node.fund([WEAK, CALM, SIGNER.address])
    for who, owed in ((WEAK, 8_000), (CALM, 5_000)):
        lab.run(aave.fund(who, ["WETH"]))
        lab.run([aave.supply(who, "WETH", 5 * ETHER)])
        lab.run([aave.borrow(who, "USDC", owed * DOLLAR)])
    lab.do("FlashLiquidator", exchange.liquidator, "setOperator", SIGNER.address, sender=OWNER)
    named = {aave.sources["WETH"]: FEED, aave.sources["USDC"]: STABLE}
    market = AaveMarket(read(node, read_deployment(aave.pool, named), LENT))
    pools = read(node, find_pools([ether], [dollars], v3_factory=exchange.v3_factory))
    return Stage(aave, exchange, market, pools)


def at_start() -> Spoken:
    return Spoken({FEED: 2_000 * WAD, STABLE: WAD})


async def test_from_the_wallet_a_fall_is_closed_in_the_least_that_restores(
    stage: Stage, tmp_path: Path
) -> None:
    lab = stage.aave.lab
    lab.run(minted(lab, SIGNER.address, stage.aave.tokens["USDC"], "0x" + "01" * 20, 100_000 * DOLLAR))
    feed, weak = at_start(), key_of(WEAK)
    desk = stage.desk(Policy.RESTORE)
    async with keeping(lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        assert kept.told(weak) == []

        # A false print: the oracle does not follow, and nothing is sent.
        feed.prices[FEED] = 1_700 * WAD
        await kept.head()
        feed.prices[FEED] = 2_000 * WAD
        await kept.head()
        assert kept.told(weak) == ["Suspected", "Waited confirm.oracle_lags", "Closed"]

        feed.prices[FEED] = 1_900 * WAD
        await kept.head()
        stage.fall(0.95)
        for _ in range(4):
            await kept.head()
        assert 1.05 <= stage.factor(WEAK) < 1.052
        told = [each for each in kept.told(weak)[3:] if each not in BESIDE]
        assert told == [
            *("Suspected", "Waited confirm.oracle_lags"),
            *("Reserved approve", "Sent", "Included"),
            *("Suspected", "Reserved repay", "Sent", "Included", "Observed LiquidationCall", "Closed"),
        ]
        assert kept.told(key_of(CALM)) == []
        assert kept.violations() == []
        [_, repay] = kept.acts(key_of(WEAK))
        spent = 100_000 * DOLLAR - stage.held("USDC", SIGNER.address)
        assert spent == repay["asked"]
        seized = stage.held("WETH", SIGNER.address) * 1_900 / ETHER
        ether, dollars = stage.aave.tokens["WETH"], stage.aave.tokens["USDC"]
        assert kept.booked(weak) == {ether: stage.held("WETH", SIGNER.address), dollars: -spent}
        [brought_wad] = [
            event.data["worth_wad"] for event in kept.history(weak) if event.data.get("worth_wad")
        ]
        assert brought_wad / WAD == pytest.approx(seized - spent / DOLLAR, abs=1e-4)
        assert seized == pytest.approx(repay["takes"] / DOLLAR * (1 + 0.05 * 0.9), rel=1e-4)


async def test_what_the_wallet_seized_is_sold_where_that_is_the_policy(stage: Stage, tmp_path: Path) -> None:
    lab, dollars = stage.aave.lab, stage.aave.tokens["USDC"]
    lab.run([lab.tx("TestToken", dollars, "mint", SIGNER.address, 100_000 * DOLLAR)])
    feed, wallet = at_start(), key_of(SIGNER.address)
    convert = plan.ConvertParams(stage.exchange.router, dollars)
    desk = LendingDesk(SIGNER.address, Params(FEED, plan=plan.Params(convert=convert)), stage.pools)
    async with keeping(lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        feed.prices[FEED] = 1_900 * WAD
        stage.fall(0.95)
        for _ in range(4):
            await kept.head()
        before = stage.held("USDC", SIGNER.address)
        seized = stage.held("WETH", SIGNER.address)
        assert before < 100_000 * DOLLAR
        assert seized > ETHER
        for _ in range(3):
            await kept.head()
        approve, sale = kept.acts(wallet)
        assert (approve["spender"], approve["amount"]) == (stage.exchange.router, seized)
        assert sale["amount"] == seized
        assert stage.held("WETH", SIGNER.address) == 0
        brought = stage.held("USDC", SIGNER.address) - before
        assert sale["min_out"] <= brought < seized * 1_900 * DOLLAR // ETHER
        booked = kept.booked(key_of(WEAK), wallet)
        assert booked == {stage.aave.tokens["WETH"]: 0, dollars: before + brought - 100_000 * DOLLAR}
        # The bonus, less the pool's fee and what the sale moved it by.
        assert stage.held("USDC", SIGNER.address) > 100_000 * DOLLAR
        assert kept.told(wallet)[-1] == "Closed"
        assert kept.violations() == []


async def test_with_borrowed_tokens_a_closing_pays_for_itself(stage: Stage, tmp_path: Path) -> None:
    feed, weak = at_start(), key_of(WEAK)
    desk = stage.desk(Policy.RESTORE, stage.flash)
    async with keeping(stage.aave.lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        feed.prices[FEED] = 1_900 * WAD
        await kept.head()
        stage.fall(0.95)
        for _ in range(3):
            await kept.head()
        assert "Included" in kept.told(weak)
        assert stage.factor(WEAK) > 1.05
        [repay] = kept.acts(key_of(WEAK))
        profit = stage.held("USDC", stage.exchange.liquidator)
        assert repay["flash"]["min_profit"] <= profit
        assert kept.booked(weak) == {stage.aave.tokens["USDC"]: profit}
        assert stage.held("USDC", SIGNER.address) == stage.held("WETH", SIGNER.address) == 0
        [expected] = [event.data for event in kept.history(weak) if event.kind == "Reserved"]
        assert expected["expected_profit_wad"] < profit * WAD // DOLLAR
        assert kept.violations() == []


class Ticking(Spoken):
    """The same, for a keeper that is told of every move."""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        yield

    async def tick(self) -> int:
        raise NotImplementedError


async def test_what_waits_for_the_fast_price_is_closed_at_a_tick_without_a_question(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, weak = Ticking(at_start().prices), key_of(WEAK)
    desk, asked = stage.desk(Policy.RESTORE, stage.flash), []
    request = Pool.request

    async def heard(pool: Pool, method: str, params: list[Any]) -> Any:
        asked.append(method)
        return await request(pool, method, params)

    monkeypatch.setattr(Pool, "request", heard)
    async with keeping(stage.aave.lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        stage.fall(0.95)
        await kept.head(after_s=1)
        assert kept.told(weak) == ["Suspected", "Waited confirm.fast_disagrees"]
        await kept.pipeline.prepare()
        # Gas is valued by the same feed, so that the least profit is another one by now.
        feed.prices[FEED] = 1_890 * WAD
        asked.clear()
        monkeypatch.setattr(Pool, "batch", None)
        kept.pipeline.on_tick(time.monotonic_ns())
        await kept.pipeline.on_alarm()
        assert asked == ["eth_sendRawTransaction"]
        monkeypatch.undo()
        await kept.head(after_s=1)
        told = [each for each in kept.told(weak)[2:] if each != "Observed BalanceTransfer"]
        assert told[:3] == ["Reserved repay", "Sent", "Included"]
        assert stage.factor(WEAK) > 1.05
        assert kept.violations() == []


async def test_the_most_is_closed_where_that_is_the_policy(stage: Stage, tmp_path: Path) -> None:
    feed = at_start()
    desk = stage.desk(Policy.MAX, stage.flash)
    async with keeping(stage.aave.lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        feed.prices[FEED] = 1_900 * WAD
        stage.fall(0.95)
        for _ in range(3):
            await kept.head()
        [repay] = kept.acts(key_of(WEAK))
        # Close to half the debt above a health of 0.95, with what interest came to.
        assert repay["takes"] == pytest.approx(4_000 * DOLLAR, rel=1e-3)
        assert stage.held("USDC", stage.exchange.liquidator) > ASSETS["USDC"].units(50)


async def test_by_the_rules_of_3_0_from_the_wallet(older: Stage, tmp_path: Path) -> None:
    lab = older.aave.lab
    lab.run([lab.tx("TestToken", older.aave.tokens["USDC"], "mint", SIGNER.address, 100_000 * DOLLAR)])
    feed, weak, desk = at_start(), key_of(WEAK), older.desk(Policy.RESTORE)
    async with keeping(lab.node, older.market, desk, feed, tmp_path, lent=LENT) as kept:
        feed.prices[FEED] = 1_900 * WAD
        await kept.head()
        older.fall(0.95)
        for _ in range(4):
            await kept.head()
        told = [each for each in kept.told(weak) if each not in BESIDE]
        assert told == [
            *("Suspected", "Waited confirm.oracle_lags", "Reserved approve", "Sent", "Included"),
            *("Suspected", "Reserved repay", "Sent", "Included", "Observed LiquidationCall", "Closed"),
        ]
        assert 1.05 <= older.factor(WEAK) < 1.052
        assert kept.told(key_of(CALM)) == []
        assert kept.violations() == []


async def test_several_at_once_are_approved_and_closed_with_none_in_vain(
    stage: Stage, tmp_path: Path
) -> None:
    """One wallet pays for all, so that what it allows is to be enough for all together."""
    aave, lab = stage.aave, stage.aave.lab
    others = ["0x" + f"{number:02x}" * 20 for number in range(0xD1, 0xD5)]
    lab.node.fund(others)
    for who in others:
        opened = [aave.supply(who, "WETH", 5 * ETHER), aave.borrow(who, "USDC", 7_950 * DOLLAR)]
        lab.run([*aave.fund(who, ["WETH"]), *opened])
    lab.run([lab.tx("TestToken", aave.tokens["USDC"], "mint", SIGNER.address, 100_000 * DOLLAR)])
    feed, desk = at_start(), stage.desk(Policy.RESTORE)
    async with keeping(lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        feed.prices[FEED] = 1_900 * WAD
        stage.fall(0.95)
        for _ in range(4):
            await kept.head()
        for who in (WEAK, *others):
            told = [each for each in kept.told(key_of(who)) if each not in BESIDE]
            assert told == [
                *("Suspected", "Reserved approve", "Sent", "Included"),
                *("Suspected", "Reserved repay", "Sent", "Included", "Observed LiquidationCall", "Closed"),
            ]
        assert kept.violations() == []


async def test_an_oracle_that_jumps_before_the_market_is_left_to_others_and_the_journal_says_so(
    stage: Stage, tmp_path: Path
) -> None:
    aave, lab, other = stage.aave, stage.aave.lab, "0x" + "07" * 20
    lab.node.fund([other])
    lab.run(minted(lab, SIGNER.address, aave.tokens["USDC"], aave.pool, 100_000 * DOLLAR))
    lab.run(minted(lab, other, aave.tokens["USDC"], aave.pool, 100_000 * DOLLAR))
    feed, desk = at_start(), stage.desk(Policy.MAX)
    desk = replace(desk, params=replace(desk.params, confirm=Policies(CAUTIOUS)))
    async with keeping(lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        aave.price({"WETH": 0.95})
        for _ in range(6):
            await kept.head()
        assert kept.acts(key_of(WEAK)) == []
        assert kept.told(key_of(WEAK))[-1] == "Waited confirm.fast_disagrees"
        lab.node.send([aave.close(other, "WETH", "USDC", WEAK, 8_000 * DOLLAR)])
        for _ in range(2):
            await kept.head()
        closed = kept.history(key_of(WEAK))[-1]
        assert closed.kind is EventKind.CLOSED
        assert closed.data["left_to_others"]["rule"] == "confirm.fast_disagrees"
        assert closed.data["left_to_others"]["act"] == "LiquidationCall"
        assert kept.pipeline.vitals.alarms[FEED].false_rate == 0
        assert kept.violations() == []
