"""A whole keeper on Morpho Blue: earlier and smaller where the owner agreed, plainly, and into bad debt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keeper.confirm.policy import Policies
from keeper.desk.lending import LendingDesk, Params
from keeper.lab.anvil import anvil
from keeper.lab.foreign.base import gathered, minted
from keeper.lab.foreign.exchange import OWNER, Exchange, deploy_exchange
from keeper.lab.foreign.morpho_blue import Market, Morpho, deploy
from keeper.ladder import Book, Climb
from keeper.lending import tokens
from keeper.lending.routes import Pools, find_pools
from keeper.lending.words import SPARE, Lender
from keeper.oracles.aggregator import Aggregator
from keeper.oracles.panel import Panel
from keeper.pipeline import Params as PipelineParams
from keeper.plan import lending as plan
from keeper.plan.economics import Prudence
from keeper.protocols.morpho_blue import codec
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.protocols.morpho_blue.params import LENT_READER, read_listing
from keeper.risk.liquidity import Depth
from keeper.units import WAD, AccountKey
from tests.anvil.foreign.keeping import Keeping, Spoken, keeping, read
from tests.unit.pipeline.desk import SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GENESIS_S = 1_700_000_000
ETHER, DOLLAR = 10**18, 10**6
HELD, RICH = 10 * ETHER, 100_000 * DOLLAR
WEAK = "0x" + "b0" * 20
LENT = {LENT_READER: codec.reader_creation(), tokens.LENT_READER: tokens.reader_creation()}
NATIVE, PRICED = "WETH/USD", "WETH/USDC"
AT_START = 2_000 * WAD


@dataclass(frozen=True)
class Stage:
    """Markets that lend, one of them with an account to come, and an exchange beside it."""

    morpho: Morpho
    exchange: Exchange
    market: MorphoMarket
    pools: Pools

    @property
    def ether(self) -> Market:
        """Lends dollars on ether up to 86%; its pre-liquidation begins at 80%."""
        return self.morpho.markets[0]

    @property
    def weak(self) -> AccountKey:
        return codec.key_of(WEAK, self.ether.id)

    @property
    def flash(self) -> plan.FlashParams:
        return plan.FlashParams(self.exchange.liquidator, Lender.MORPHO)

    def desk(self, flash: plan.FlashParams | None = None) -> LendingDesk:
        return LendingDesk(SIGNER.address, Params(NATIVE, Policies(), plan.Params(flash=flash)), self.pools)

    def feed(self) -> Spoken:
        return Spoken(dict.fromkeys(self.market.feeds) | {PRICED: AT_START, NATIVE: 2_000 * WAD})

    def open(self, owed: int, *, agrees: bool = False) -> None:
        """Open the account, with ten ether and so many dollars owed."""
        lab, market = self.morpho.lab, self.ether
        opened = [
            self.morpho.act(WEAK, market, "supplyCollateral", HELD, WEAK, b""),
            self.morpho.act(WEAK, market, "borrow", owed * DOLLAR, 0, WEAK, WEAK),
            lab.tx("Morpho", self.morpho.morpho, "setAuthorization", market.pre, agrees, sender=WEAK),
        ]
        lab.run([*minted(lab, WEAK, market.params[1], self.morpho.morpho, HELD), *opened[: 2 + agrees]])

    def enrich(self) -> None:
        """Give the keeper's wallet dollars, and nobody leave to take them."""
        lab = self.morpho.lab
        lab.run([lab.tx("TestToken", self.morpho.tokens["USDC"], "mint", SIGNER.address, RICH)])

    async def fall(self, kept: Keeping, feed: Spoken, factor: float) -> None:
        """Let the fast price fall, and the oracle follow a block later, with the exchange."""
        feed.prices[PRICED] = int(AT_START * factor)
        await kept.head()
        assert kept.told(self.weak) == ["Suspected", "Waited confirm.oracle_lags"]
        self.morpho.price([(factor, factor), *[(1.0, 1.0)] * 3])
        self.exchange.price({self.morpho.tokens["WETH"].lower(): 2_000 * factor})
        for _ in range(4):
            await kept.head()

    def position(self) -> tuple[int, int]:
        """Return shares of the debt, and the collateral."""
        asked = ("Morpho", self.morpho.morpho, "position", self.ether.id, WEAK)
        _, shares, collateral = self.morpho.lab.ask(*asked)
        return shares, collateral

    def health(self, price: float) -> float:
        """Return what the rest of the ether allows over what is owed, interest of the last seconds apart."""
        shares, collateral = self.position()
        _, _, owed, of, *_ = self.morpho.lab.ask("Morpho", self.morpho.morpho, "market", self.ether.id)
        return float(collateral / ETHER * price * 0.86 * DOLLAR * of / (shares * owed))

    def held(self, symbol: str, who: str) -> int:
        found: int = self.morpho.lab.ask("TestToken", self.morpho.tokens[symbol], "balanceOf", who)
        return found


@pytest.fixture(scope="module")
def deployed() -> Iterator[Stage]:
    with anvil(timestamp_s=GENESIS_S) as node:
        morpho = deploy(node)
        lab = morpho.lab
        ether, dollars = (morpho.tokens[symbol].lower() for symbol in ("WETH", "USDC"))
        exchange = deploy_exchange(lab, {ether: 2_000.0}, quote=dollars, morpho=morpho.morpho)
        node.fund([WEAK, SIGNER.address])
        lab.do("FlashLiquidator", exchange.liquidator, "setOperator", SIGNER.address, sender=OWNER)
        market = MorphoMarket(read(node, read_listing(morpho.chosen), LENT))
        pools = read(node, find_pools([ether], [dollars], v3_factory=exchange.v3_factory))
        yield Stage(morpho, exchange, market, pools)


@pytest.fixture
def stage(deployed: Stage) -> Iterator[Stage]:
    with deployed.morpho.lab.undone():
        yield deployed


def told(kept: Keeping, stage: Stage) -> list[str]:
    """Return what became of the account, but for what the same commit tells beside it."""
    return kept.told(stage.weak)


async def test_what_the_owner_agreed_to_comes_first_and_takes_less(stage: Stage, tmp_path: Path) -> None:
    stage.open(15_500, agrees=True)
    stage.enrich()
    feed = stage.feed()
    async with keeping(stage.morpho.lab.node, stage.market, stage.desk(), feed, tmp_path, lent=LENT) as kept:
        await stage.fall(kept, feed, 0.95)
        assert told(kept, stage) == [
            *("Suspected", "Waited confirm.oracle_lags", "Reserved approve", "Sent", "Included"),
            *("Suspected", "Reserved repay", "Sent", "Included"),
            *("Observed Repay", "Observed WithdrawCollateral", "Closed"),
        ]
        approve, repay = kept.acts(stage.weak)
        assert (approve["spender"], repay["way"]["venue"]) == (stage.ether.pre, stage.ether.pre)
        # A quarter of the way from 80% to 86%, so 5% and a quarter of the 45% up to a half; and 1.8% for it.
        paid = RICH - stage.held("USDC", SIGNER.address)
        assert paid == pytest.approx(15_500 * DOLLAR * 0.168, rel=0.01)
        assert paid + paid // SPARE + 1 == repay["takes"]
        seized = stage.held("WETH", SIGNER.address) * 1_900 * DOLLAR // ETHER
        assert seized == pytest.approx(paid * 1.0178, rel=1e-3)
        assert kept.violations() == []


async def test_without_it_an_account_is_closed_plainly_with_borrowed_tokens(
    stage: Stage, tmp_path: Path
) -> None:
    stage.open(16_500)
    desk, feed = stage.desk(stage.flash), stage.feed()
    async with keeping(stage.morpho.lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        await stage.fall(kept, feed, 0.95)
        assert told(kept, stage) == [
            *("Suspected", "Waited confirm.oracle_lags", "Reserved repay", "Sent", "Included"),
            *("Observed Liquidate", "Closed"),
        ]
        [repay] = kept.acts(stage.weak)
        assert (repay["way"]["venue"], repay["by"]) == (stage.morpho.morpho.lower(), "shares")
        profit = stage.held("USDC", stage.exchange.liquidator)
        assert repay["flash"]["min_profit"] <= profit
        assert stage.held("USDC", SIGNER.address) == stage.held("WETH", SIGNER.address) == 0
        # The least that brings it to a health of 1.05.
        assert stage.health(1_900) == pytest.approx(1.05, rel=2e-3)
        assert kept.violations() == []


async def test_a_fall_with_calls_depth_a_witness_and_levels_is_explained_and_replayed(
    stage: Stage, tmp_path: Path
) -> None:
    stage.open(16_500)
    stage.enrich()
    lab, feed, ether = stage.morpho.lab, stage.feed(), stage.morpho.tokens["WETH"].lower()
    lab.contracts["PriceSource"] = gathered("subjects")["PriceSource"]
    source = lab.create("PriceSource", 8, 2_000 * 10**8)
    panel = Panel({PRICED: (Aggregator("link", source, 3_600, WAD // 200),)})
    depth = {ether: Depth(most_bps=50, volume_day=1_000_000)}
    desk = stage.desk()
    paced = replace(desk.params, plan=replace(desk.params.plan, prudence=Prudence(depth=depth)))
    desk, behind = replace(desk, params=paced), [0.0]
    async with keeping(
        lab.node,
        stage.market,
        desk,
        feed,
        tmp_path,
        lent=LENT,
        # Of the other markets nobody says a price here.
        params=PipelineParams(tide=Book(feeds_lost=(0.9, 0.95, 1.0))),
        climb=Climb(),
        panel=panel,
        lagging=lambda: behind[0],
        explained=True,
    ) as kept:
        feed.prices[PRICED] = 1_900 * WAD
        await kept.head()
        stage.morpho.price([(0.95, 0.95), *[(1.0, 1.0)] * 3])
        stage.exchange.price({ether: 1_900.0})
        await kept.head()
        behind[0] = 0.5
        await kept.head()
        behind[0] = 0.0
        lab.do("PriceSource", source, "set", 1_900 * 10**8)
        for _ in range(16):
            await kept.head()
        found = kept.told(stage.weak)
        assert found[:2] == ["Called", "Suspected"]
        assert {"Waited confirm.witnesses", "Reserved repay", "Included"} <= {*found}
        levels = kept.journal._rows("SELECT level FROM levels ORDER BY seq")
        assert [row["level"] for row in levels] == ["elevated", "normal"]


@pytest.mark.parametrize("is_flash", [False, True], ids=["from the wallet", "with borrowed tokens"])
async def test_where_nothing_heals_it_all_collateral_goes_and_bad_debt_remains(
    stage: Stage, tmp_path: Path, *, is_flash: bool
) -> None:
    stage.open(17_000)
    stage.enrich()
    desk, feed = stage.desk(stage.flash if is_flash else None), stage.feed()
    async with keeping(stage.morpho.lab.node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
        await stage.fall(kept, feed, 0.8)
        repay = kept.acts(stage.weak)[-1]
        assert (repay["by"], repay["asked"]) == ("seized", HELD)
        assert told(kept, stage)[-2:] == ["Observed Liquidate", "Closed"]
        assert stage.position() == (0, 0)
        paid = RICH - stage.held("USDC", SIGNER.address)
        assert repay["takes"] < 16_000 * DOLLAR
        assert paid == 0 if is_flash else paid + paid // SPARE + 1 == repay["takes"]
        assert stage.held("WETH", SIGNER.address) == (0 if is_flash else HELD)
        assert kept.violations() == []
