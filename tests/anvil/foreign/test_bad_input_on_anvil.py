"""What deployments and tokens do that nobody expects: a whole keeper sees it, tells it, guesses nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper import abi
from keeper.confirm.policy import BALANCED, Policies, tuned
from keeper.desk.lending import LendingDesk, Params
from keeper.domain import CaseEvent
from keeper.lab.anvil import Tx, anvil
from keeper.lab.foreign import morpho_blue
from keeper.lab.foreign.aave_v3 import ASSETS, CENT, ISOLATED, Aave, deploy
from keeper.lab.foreign.base import minted
from keeper.lab.foreign.exchange import OWNER, Exchange, deploy_exchange
from keeper.lending import tokens
from keeper.lending.feeds import QUOTE
from keeper.lending.routes import Pools, find_pools
from keeper.lending.words import Lender
from keeper.plan import lending as plan
from keeper.protocols.aave_v3.abi import reader_creation
from keeper.protocols.aave_v3.codec import key_of
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.aave_v3.params import LENT_READER, read_deployment
from keeper.protocols.morpho_blue import codec as morpho_codec
from keeper.protocols.morpho_blue import params as morpho_params
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.units import WAD
from tests.anvil.foreign.keeping import Keeping, Spoken, keeping, read
from tests.unit.pipeline.desk import SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GENESIS_S = 1_700_000_000
ETHER, DOLLAR = 10**18, 10**6
RICH = 100_000
WEAK, OTHER, LENDER = "0x" + "b0" * 20, "0x" + "ca" * 20, "0x" + "11" * 20
LENT = {LENT_READER: reader_creation(), tokens.LENT_READER: tokens.reader_creation()}
FEED = "ETH/USD"
ODD = "ODD"
"""The symbol of a token with habits of its own, worth ten dollars."""
BESIDE = {"Observed BalanceTransfer"}
BELIEVING = Policies(tuned(BALANCED, trust_chain_after_s=24))
"""The protocol is believed about prices of which nobody else speaks."""
ALWAYS_A_DOLLAR = "0x6305f5e10060005260206000f3"
"""PUSH4 1e8, MSTORE, RETURN of one word."""
BOUND_S = 3.0
CLOSED = ("Suspected", "Reserved repay", "Sent", "Included", "Observed LiquidationCall", "Closed")
APPROVED = ("Reserved approve", "Sent", "Included")


@dataclass(frozen=True)
class Stage:
    """A pool, an exchange for the odd token beside it, and what a keeper is made of."""

    aave: Aave
    exchange: Exchange
    source: str
    folder: Path

    def open(self, who: str, held: str, units: int, owed: str, debt: int) -> None:
        aave = self.aave
        opened = [aave.supply(who, held, units), aave.borrow(who, owed, debt)]
        aave.lab.run([*aave.fund(who, [held]), *opened])

    def weaken(self) -> None:
        """Open an account with five ether that owes 8,000 dollars: 8,250 at most, so that 5% are too much."""
        self.open(WEAK, "WETH", 5 * ETHER, "USDC", 8_000 * DOLLAR)

    def list_odd(self) -> None:
        """List the odd token, with a price, as collateral and to be borrowed."""
        aave, token = self.aave, self.aave.tokens[ODD]
        aave.add_reserve(token, 18)
        aave.lab.do("AaveOracle", aave.oracle, "setAssetSources", [token], [self.source])
        aave.configure("configureReserveAsCollateral", token, 6_000, 7_000, 10_500)
        aave.configure("setReserveBorrowing", token, True)
        aave.lab.run([*aave.fund(LENDER, [ODD]), aave.supply(LENDER, ODD, 10**6 * ETHER)])

    def price_odd(self, feed: Spoken, dollars: int) -> None:
        """Have it fall at both clocks."""
        lab, feed.prices[feed_of(ODD)] = self.aave.lab, dollars * WAD
        lab.run([lab.tx("PriceSource", self.source, "set", int(dollars * 100 * CENT))])

    def fee(self, bps: int) -> None:
        self.aave.lab.do("OddToken", self.aave.tokens[ODD], "setFee", bps)

    def enrich(self, symbol: str, units: int) -> None:
        lab = self.aave.lab
        lab.run([lab.tx("TestToken", self.aave.tokens[symbol], "mint", SIGNER.address, units)])

    def give(self, symbol: str, who: str, to: str, units: int) -> None:
        """Transfer receipts."""
        aave = self.aave
        receipt = aave.lab.ask(aave.names.pool, aave.pool, "getReserveAToken", aave.tokens[symbol])
        aave.lab.do("TestToken", receipt, "transfer", to, units, sender=who)

    def held(self, symbol: str) -> int:
        found: int = self.aave.lab.ask("TestToken", self.aave.tokens[symbol], "balanceOf", SIGNER.address)
        return found

    def factor(self, owner: str) -> float:
        asked = (self.aave.names.pool, self.aave.pool, "getUserAccountData", owner)
        return int(self.aave.lab.ask(*asked)[5]) / WAD

    def keeping(self, feed: Spoken, *, flash: bool = False) -> AbstractAsyncContextManager[Keeping]:
        """Keep the pool as it is listed now."""
        node, pools = self.aave.lab.node, Pools({}, ())
        named = {source: feed_of(symbol) for symbol, source in self.aave.sources.items()}
        market = AaveMarket(read(node, read_deployment(self.aave.pool, named), LENT))
        params = plan.Params()
        if flash:
            params = replace(params, flash=plan.FlashParams(self.exchange.liquidator, Lender.MORPHO))
            rounds = find_pools(
                [self.aave.tokens[ODD].lower()], [self.exchange.quote], v3_factory=self.exchange.v3_factory
            )
            pools = read(node, rounds)
        desk = LendingDesk(SIGNER.address, Params(FEED, Policies(), params), pools)
        return keeping(node, market, desk, feed, self.folder, lent=LENT)


@pytest.fixture(scope="module")
def deployed() -> Iterator[tuple[Aave, Exchange, str]]:
    with anvil(timestamp_s=GENESIS_S) as node:
        aave = deploy(node)
        lab = aave.lab
        odd, source = lab.create("OddToken", 18), lab.create("PriceSource", 8, 1_000 * CENT)
        aave = replace(aave, tokens={**aave.tokens, ODD: odd}, sources={**aave.sources, ODD: source})
        exchange = deploy_exchange(lab, {odd: 10.0}, quote=aave.tokens["USDC"])
        lab.do("FlashLiquidator", exchange.liquidator, "setOperator", SIGNER.address, sender=OWNER)
        node.fund([WEAK, OTHER, SIGNER.address])
        yield aave, exchange, source


@pytest.fixture
def stage(deployed: tuple[Aave, Exchange, str], tmp_path: Path) -> Iterator[Stage]:
    with deployed[0].lab.undone():
        yield Stage(*deployed, tmp_path)


def feed_of(symbol: str) -> str:
    """Name the feed of a token; of one a dollar is said to be a dollar."""
    return {"WETH": FEED, "USDC": QUOTE}.get(symbol, f"{symbol}/USD")


def at_start() -> Spoken:
    """Say of every token what its oracle does at first."""
    dollars = {symbol: asset.cents * WAD // 100 for symbol, asset in ASSETS.items()} | {ODD: 10 * WAD}
    return Spoken({feed_of(symbol): price_wad for symbol, price_wad in dollars.items() if symbol != "USDC"})


def told(kept: Keeping, owner: str = WEAK) -> list[str]:
    return [each for each in kept.told(key_of(owner)) if each not in BESIDE]


def last(kept: Keeping, owner: str = WEAK) -> CaseEvent:
    return kept.history(key_of(owner))[-1]


async def fall(stage: Stage, kept: Keeping, feed: Spoken, blocks: int) -> None:
    """Let ether fall by 5% at both clocks."""
    feed.prices[FEED] = 1_900 * WAD
    stage.aave.price({"WETH": 0.95})
    for _ in range(blocks):
        await kept.head()


# --- the deployment -------------------------------------------------------------------------------


async def test_a_reserve_that_is_listed_later_is_kept_as_well(stage: Stage) -> None:
    stage.enrich("USDC", RICH * DOLLAR)
    feed = at_start()
    async with stage.keeping(feed) as kept:
        stage.list_odd()
        await kept.head()
        stage.open(WEAK, ODD, 1_000 * ETHER, "USDC", 5_900 * DOLLAR)
        await kept.head()
        # Of what is given away its receipts alone tell; without them it would be in breach below 8.43 only.
        stage.give(ODD, WEAK, OTHER, 100 * ETHER)
        await kept.head()
        assert kept.told(key_of(WEAK)) == []
        stage.price_odd(feed, 9)
        for _ in range(4):
            await kept.head()
        assert told(kept) == ["Suspected", *APPROVED, *CLOSED]
        assert stage.factor(WEAK) > 1.05
        assert kept.violations() == []


async def test_a_reserve_that_is_paused_is_waited_for_in_the_pools_own_words(stage: Stage) -> None:
    stage.weaken()
    stage.enrich("USDC", RICH * DOLLAR)
    feed = at_start()
    async with stage.keeping(feed) as kept:
        stage.aave.configure("setReservePause", stage.aave.tokens["USDC"], True)
        await fall(stage, kept, feed, 2)
        assert told(kept) == ["Suspected", "Waited pool.paused"]
        assert last(kept).data["evidence"] == "ReservePaused"
        stage.aave.configure("setReservePause", stage.aave.tokens["USDC"], False)
        for _ in range(4):
            await kept.head()
        assert told(kept)[2:] == [*APPROVED, *CLOSED]
        assert kept.violations() == []


@pytest.mark.parametrize("reverts", [False, True], ids=["of zero", "that is not to be had"])
async def test_by_a_price_that_is_none_nobody_acts(stage: Stage, *, reverts: bool) -> None:
    aave, node = stage.aave, stage.aave.lab.node
    stage.weaken()
    stage.open(OTHER, "WBTC", ASSETS["WBTC"].units(10_000), "USDC", 7_200 * DOLLAR)
    stage.enrich("USDC", RICH * DOLLAR)
    feed, source = at_start(), aave.sources["WETH"]
    code = node.rpc("eth_getCode", source, "latest")
    async with stage.keeping(feed) as kept:
        feed.prices[FEED] = 1_900 * WAD
        await kept.head()
        if reverts:
            node.rpc("anvil_setCode", source, "0xfe")
        feed.prices[feed_of("WBTC")] = 36_000 * WAD
        aave.price({"WBTC": 0.9} if reverts else {"WBTC": 0.9, "WETH": 0.0})
        for _ in range(4):
            await kept.head()
        assert told(kept) == ["Suspected", "Waited confirm.oracle_lags", "Waited unknown"]
        assert aave.tokens["WETH"].lower() in str(last(kept).data["evidence"])
        assert told(kept, OTHER)[-1] == "Closed", "who has none of it is kept meanwhile"
        node.rpc("anvil_setCode", source, code)
        await fall(stage, kept, feed, 4)
        assert told(kept)[-len(CLOSED) :] == [*CLOSED]
        assert kept.violations() == []


async def test_a_source_that_knows_no_rounds_is_taken_for_a_feed_by_name(stage: Stage) -> None:
    """It answers whatever it is asked with a dollar, as contracts of a fixed price do their only question."""
    aave, node = stage.aave, stage.aave.lab.node
    stage.weaken()
    stage.enrich("USDC", RICH * DOLLAR)
    node.rpc("anvil_setCode", aave.sources["USDC"], ALWAYS_A_DOLLAR)
    feed = at_start()
    async with stage.keeping(feed) as kept:
        market = kept.pipeline.mirror.market
        assert market.untraced == ()
        assert QUOTE not in market.feeds
        await fall(stage, kept, feed, 4)
        assert told(kept) == ["Suspected", *APPROVED, *CLOSED]
        agreed = [each.data["agreed"] for each in kept.history(key_of(WEAK)) if each.data.get("agreed")]
        assert agreed
        assert all(f"{QUOTE} by own" in each["evidence"] for each in agreed)
        assert kept.violations() == []


async def test_an_account_with_dust_in_every_reserve_is_closed_in_time(stage: Stage) -> None:
    aave = stage.aave
    held = [symbol for symbol in ASSETS if symbol not in {ISOLATED, "WETH"}]
    owed = ("USDC", "LINK", "WBTC", "EURS")
    supplied = [aave.supply(WEAK, symbol, ASSETS[symbol].units(1)) for symbol in held]
    aave.lab.run([*aave.fund(WEAK, ["WETH", *held]), aave.supply(WEAK, "WETH", 5 * ETHER), *supplied])
    aave.lab.run([aave.borrow(WEAK, symbol, ASSETS[symbol].units(2_000)) for symbol in owed])
    for symbol in owed:
        stage.enrich(symbol, ASSETS[symbol].units(RICH))
    feed = at_start()
    async with stage.keeping(feed) as kept:
        feed.prices[FEED] = 1_900 * WAD
        aave.price({"WETH": 0.95})
        for _ in range(6):
            began = time.monotonic()
            await kept.head()
            assert time.monotonic() - began < BOUND_S
        assert told(kept) == ["Suspected", *APPROVED, *CLOSED]
        assert stage.factor(WEAK) > 1
        assert kept.violations() == []


async def test_where_other_code_stands_behind_the_pool_nothing_more_is_sent(stage: Stage) -> None:
    aave = stage.aave
    stage.weaken()
    stage.enrich("USDC", RICH * DOLLAR)
    feed = at_start()
    async with stage.keeping(feed) as kept:
        rates = aave.lab.libraries[aave.names.rates]
        provider = aave.lab.ask(aave.names.pool, aave.pool, "ADDRESSES_PROVIDER")
        code = aave.lab.create(aave.names.pool, provider, rates)
        upgrade = abi.function("upgradeTo(address)").call(aave.pool, code)
        aave.lab.node.fund([provider])
        aave.lab.run([Tx(provider, upgrade.to, upgrade.data)])
        await fall(stage, kept, feed, 3)
        assert told(kept) == ["Suspected", "Refused code.changed"]
        assert code.lower() in str(last(kept).data["evidence"])
    async with stage.keeping(feed) as again:
        for _ in range(4):
            await again.head()
        assert told(again)[-1] == "Closed", "whoever starts anew has looked"
        assert again.violations() == []


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_debt_whose_transfers_lose_a_part_is_repaid_to_the_unit(stage: Stage) -> None:
    """It returns nothing, and an allowance that is left has to be taken back before another is given."""
    stage.list_odd()
    stage.open(WEAK, "WETH", 5 * ETHER, ODD, 800 * ETHER)
    stage.fee(100)
    stage.enrich(ODD, RICH * ETHER)
    lab = stage.aave.lab
    left = lab.tx("TestToken", stage.aave.tokens[ODD], "approve", stage.aave.pool, 1, sender=SIGNER.address)
    lab.run([left])
    feed = at_start()
    async with stage.keeping(feed) as kept:
        await fall(stage, kept, feed, 6)
        assert told(kept) == ["Suspected", *APPROVED, "Suspected", *APPROVED, *CLOSED]
        assert [act["amount"] == 0 for act in kept.acts(key_of(WEAK))[:2]] == [True, False]
        assert stage.held(ODD) == RICH * ETHER - kept.acts(key_of(WEAK))[-1]["takes"]
        assert stage.factor(WEAK) > 1.05
        assert kept.violations() == []


async def test_a_collateral_whose_transfers_lose_a_part_is_not_sold(stage: Stage) -> None:
    stage.list_odd()
    stage.open(WEAK, ODD, 1_000 * ETHER, "USDC", 5_900 * DOLLAR)
    feed = at_start()
    async with stage.keeping(feed, flash=True) as kept:
        stage.fee(100)
        stage.price_odd(feed, 8)
        for _ in range(2):
            await kept.head()
        assert told(kept) == ["Suspected", "Refused simulation.reverted"]
        assert kept.acts(key_of(WEAK)) == []
        stage.fee(0)
        for _ in range(3):
            await kept.head()
        assert told(kept)[2:] == [*CLOSED[1:]]
        assert kept.violations() == []


@pytest.mark.parametrize("is_loan", [False, True], ids=["collateral", "loan"])
async def test_a_token_without_decimals_is_not_valued(stage: Stage, *, is_loan: bool) -> None:
    """On Morpho Blue, where anybody opens a market of any tokens."""
    node = stage.aave.lab.node
    morpho = morpho_blue.deploy(node)
    lab = morpho.lab
    odd = lab.create("OddToken", 0)
    named = {**morpho.tokens, "USDC" if is_loan else "WETH": odd}
    spec = replace(morpho_blue.SPECS[0], pre=None, lltv_wad=75 * morpho_blue.PERCENT)
    market = morpho_blue.open_market(lab, morpho.morpho, morpho.irm, named, spec)
    lender = morpho_blue.LENDER
    lab.run(
        [
            *minted(lab, lender, market.params[0], morpho.morpho),
            morpho.act(lender, market, "supply", 10**6 * DOLLAR, 0, lender, b""),
            *minted(lab, WEAK, market.params[1], morpho.morpho),
            morpho.act(WEAK, market, "supplyCollateral", ETHER, WEAK, b""),
            morpho.act(WEAK, market, "borrow", 1_450 * DOLLAR, 0, WEAK, WEAK),
            lab.tx("TestToken", market.params[0], "mint", SIGNER.address, RICH * DOLLAR),
        ]
    )
    chosen = replace(
        morpho.chosen,
        markets=("0x" + market.id.hex(),),
        pres=(),
        tokens={market.params[0]: "USD"},
    )
    lent = {**LENT, morpho_params.LENT_READER: morpho_codec.reader_creation()}
    found = MorphoMarket(read(node, morpho_params.read_listing(chosen), lent))
    desk = LendingDesk(SIGNER.address, Params(FEED, BELIEVING), Pools({}, ()))
    feed = Spoken(dict.fromkeys(found.feeds) | {FEED: 2_000 * WAD})
    key = morpho_codec.key_of(WEAK, market.id)
    with capture_logs() as said:
        async with keeping(node, found, desk, feed, stage.folder, lent=lent) as kept:
            lab.run([lab.tx("PriceSource", market.oracle, "set", int(spec.price * 0.95))])
            for _ in range(6):
                await kept.head()
            short = [each for each in kept.told(key) if each not in BESIDE]
            # A collateral is worth what the oracle says, in loans; a loan that cannot be counted nothing.
            waited = "Waited confirm.unsupported"
            closed = ["Suspected", waited, *APPROVED, "Suspected", "Reserved repay", "Sent", "Included"]
            assert short == ([] if is_loan else [*closed, "Observed Liquidate", "Closed"])
            unjudged = [each["accounts"] for each in said if each["event"] == "accounts.unjudged"]
            assert unjudged == ([{f"token {odd}: it tells no decimals": 1}] if is_loan else [])
            assert kept.violations() == []
