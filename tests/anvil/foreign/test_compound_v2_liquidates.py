"""A whole keeper on a pool of Venus: closings in parts, and small accounts closed whole or healed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from keeper.confirm.policy import Policies
from keeper.desk.lending import LendingDesk, Params
from keeper.lab.anvil import anvil
from keeper.lab.foreign.base import minted
from keeper.lab.foreign.compound_v2 import Venus, deploy
from keeper.lab.foreign.exchange import OWNER, Exchange, deploy_exchange
from keeper.lending import tokens
from keeper.lending.routes import Pools, find_pools
from keeper.lending.words import Lender
from keeper.plan import lending as plan
from keeper.protocols.compound_v2 import codec
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.compound_v2.params import LENT_READER, read_listing
from keeper.units import WAD
from tests.anvil.foreign.keeping import Keeping, Spoken, keeping, read
from tests.unit.pipeline.desk import SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GENESIS_S = 1_700_000_000
ETHER, DOLLAR = 10**18, 10**6
RICH = 100_000 * DOLLAR
WHO = "0x" + "b0" * 20
WEAK = codec.key_of(WHO)
LENT = {LENT_READER: codec.reader_creation(), tokens.LENT_READER: tokens.reader_creation()}
FEED = "WETH/USD"
BESIDE = {"Observed RepayBorrow", "Observed Transfer", "Observed AccrueInterest"}
"""What the same transaction tells beside its own event."""


@dataclass(frozen=True)
class Stage:
    """A pool that lends dollars on ether up to 80%, and an exchange beside it."""

    venus: Venus
    exchange: Exchange
    market: VenusMarket
    pools: Pools

    @property
    def flash(self) -> plan.FlashParams:
        return plan.FlashParams(self.exchange.liquidator, Lender.MORPHO)

    def desk(self, flash: plan.FlashParams | None = None) -> LendingDesk:
        return LendingDesk(SIGNER.address, Params(FEED, Policies(), plan.Params(flash=flash)), self.pools)

    def feed(self) -> Spoken:
        return Spoken(dict.fromkeys(self.market.feeds) | {FEED: 2_000 * WAD, "USDC/USD": WAD})

    def open(self, ether: float, dollars: float) -> None:
        """Open the account, and give the keeper's wallet dollars that nobody may take yet."""
        lab, given = self.venus.lab, int(ether * ETHER)
        weth, usdc = (self.venus.tokens[symbol] for symbol in ("WETH", "USDC"))
        lab.run(
            [
                self.venus.pool(WHO, "enterMarkets", [self.venus.vtokens["WETH"]]),
                *minted(lab, WHO, weth, self.venus.vtokens["WETH"], given),
                self.venus.act(WHO, "WETH", "mint", given),
                self.venus.act(WHO, "USDC", "borrow", int(dollars * DOLLAR)),
                lab.tx("TestToken", usdc, "mint", SIGNER.address, RICH),
            ]
        )

    async def fall(self, kept: Keeping, feed: Spoken, factor: float) -> None:
        """Let the fast price fall, and the oracle follow a block later, with the exchange."""
        feed.prices[FEED] = int(2_000 * factor) * WAD
        await kept.head()
        assert kept.told(WEAK) == ["Suspected", "Waited confirm.oracle_lags"]
        self.venus.price({"WETH": factor})
        self.exchange.price({self.venus.tokens["WETH"].lower(): 2_000 * factor})
        for _ in range(4):
            await kept.head()

    def owed(self) -> float:
        found: int = self.venus.lab.ask("VToken", self.venus.vtokens["USDC"], "borrowBalanceStored", WHO)
        return found / DOLLAR

    def held(self, symbol: str, who: str) -> int:
        found: int = self.venus.lab.ask("TestToken", self.venus.tokens[symbol], "balanceOf", who)
        return found

    def worth(self, who: str) -> float:
        """Return the dollars that somebody's receipts of ether are worth, by the pool's own view."""
        _, held, _, rate = self.venus.lab.ask("VToken", self.venus.vtokens["WETH"], "getAccountSnapshot", who)
        price: int = self.venus.lab.ask(
            "MockPriceOracle", self.venus.oracle, "getUnderlyingPrice", self.venus.vtokens["WETH"]
        )
        return float(held * rate // WAD * price / WAD / WAD)


@pytest.fixture(scope="module")
def deployed() -> Iterator[Stage]:
    with anvil(timestamp_s=GENESIS_S, code_size_limit=False) as node:
        venus = deploy(node)
        ether, dollars = (venus.tokens[symbol].lower() for symbol in ("WETH", "USDC"))
        exchange = deploy_exchange(venus.lab, {ether: 2_000.0}, quote=dollars)
        node.fund([WHO, SIGNER.address])
        venus.lab.do("FlashLiquidator", exchange.liquidator, "setOperator", SIGNER.address, sender=OWNER)
        market = VenusMarket(read(node, read_listing(venus.chosen), LENT))
        pools = read(node, find_pools([ether], [dollars], v3_factory=exchange.v3_factory))
        yield Stage(venus, exchange, market, pools)


@pytest.fixture
def stage(deployed: Stage) -> Iterator[Stage]:
    with deployed.venus.lab.undone():
        yield deployed


def told(kept: Keeping) -> list[str]:
    return [each for each in kept.told(WEAK) if each not in BESIDE]


BY_WALLET = ("Suspected", "Waited confirm.oracle_lags", "Reserved approve", "Sent", "Included", "Suspected")


async def test_from_the_wallet_the_least_that_restores_is_repaid(stage: Stage, tmp_path: Path) -> None:
    stage.open(10, 14_900)
    feed = stage.feed()
    async with keeping(stage.venus.lab.node, stage.market, stage.desk(), feed, tmp_path, lent=LENT) as kept:
        await stage.fall(kept, feed, 0.9)
        done = ("Reserved repay", "Sent", "Included", "Observed LiquidateBorrow", "Closed")
        assert told(kept) == [*BY_WALLET, *done]
        assert stage.worth(WHO) * 0.8 / stage.owed() == pytest.approx(1.05, rel=2e-3)
        [_, repay] = kept.acts(WEAK)
        paid = RICH - stage.held("USDC", SIGNER.address)
        assert paid == repay["takes"]
        # The protocol keeps five points of the hundred and ten.
        assert stage.worth(SIGNER.address) == pytest.approx(paid / DOLLAR * 1.05, rel=1e-3)
        assert kept.violations() == []


async def test_receipts_are_redeemed_and_sold_where_that_is_the_policy(stage: Stage, tmp_path: Path) -> None:
    stage.open(5, 7_000)
    dollars = stage.venus.tokens["USDC"].lower()
    convert = plan.ConvertParams(stage.exchange.router, dollars)
    desk = LendingDesk(SIGNER.address, Params(FEED, plan=plan.Params(convert=convert)), stage.pools)
    feed, wallet = stage.feed(), codec.key_of(SIGNER.address)
    async with keeping(stage.venus.lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        await stage.fall(kept, feed, 0.85)
        for _ in range(4):
            await kept.head()
        kinds = [each for each in kept.told(wallet) if each.startswith("Reserved")]
        assert kinds == ["Reserved redeem", "Reserved approve", "Reserved convert"]
        assert stage.worth(SIGNER.address) == 0
        assert stage.held("WETH", SIGNER.address) == 0
        assert stage.held("USDC", SIGNER.address) > RICH
        assert kept.violations() == []


async def test_with_borrowed_tokens_receipts_are_redeemed_and_sold(stage: Stage, tmp_path: Path) -> None:
    stage.open(10, 14_900)
    desk, feed = stage.desk(stage.flash), stage.feed()
    async with keeping(stage.venus.lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        await stage.fall(kept, feed, 0.9)
        done = ("Reserved repay", "Sent", "Included", "Observed LiquidateBorrow", "Closed")
        assert told(kept) == [*BY_WALLET[:2], *done]
        assert stage.worth(WHO) * 0.8 / stage.owed() == pytest.approx(1.05, rel=2e-3)
        [repay] = kept.acts(WEAK)
        assert repay["flash"]["min_profit"] <= stage.held("USDC", stage.exchange.liquidator)
        assert stage.worth(stage.exchange.liquidator) == stage.worth(SIGNER.address) == 0
        assert stage.held("USDC", SIGNER.address) == RICH
        assert kept.violations() == []


@pytest.mark.parametrize(
    ("owed", "factor", "act"),
    [(72, 0.9, "repayall"), (73, 0.8, "heal")],
    ids=["repaid whole", "healed"],
)
async def test_a_small_account_is_closed_whole(
    stage: Stage, tmp_path: Path, owed: int, factor: float, act: str
) -> None:
    stage.open(0.049, owed)
    feed = stage.feed()
    async with keeping(stage.venus.lab.node, stage.market, stage.desk(), feed, tmp_path, lent=LENT) as kept:
        await stage.fall(kept, feed, factor)
        assert told(kept)[: len(BY_WALLET) + 3] == [*BY_WALLET, f"Reserved {act}", "Sent", "Included"]
        assert told(kept)[-1] == "Closed"
        assert stage.owed() == 0
        assert (stage.worth(WHO) == 0) == (act == "heal")
        paid = (RICH - stage.held("USDC", SIGNER.address)) / DOLLAR
        bad = stage.venus.lab.ask("VToken", stage.venus.vtokens["USDC"], "badDebt") / DOLLAR
        assert paid + bad == pytest.approx(owed, rel=1e-3)
        assert (bad > 1) == (act == "heal")
        assert stage.worth(SIGNER.address) > paid * 1.04
        assert kept.violations() == []
