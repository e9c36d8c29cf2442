"""FlashLiquidator among real contracts: accounts of Aave, Morpho and Venus, sold on Uniswap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from keeper import abi
from keeper.domain import Call
from keeper.lab.anvil import Node, Tx, anvil
from keeper.lab.foreign import aave_v3, compound_v2, morpho_blue
from keeper.lab.foreign.base import Lab, minted
from keeper.lab.foreign.exchange import FEE, OPERATOR, OWNER, Exchange, deploy_exchange
from keeper.lending.flash import Job, Kind, flash_call, profit, revert_name, run_call
from keeper.lending.routes import Pools, Route, find_pools
from keeper.lending.tokens import LENT_READER, approve_call, convert_call, purse, purse_call, reader_creation
from keeper.lending.words import Approve, By, Convert, Flash, Lender, Repay, Way
from keeper.units import AccountKey

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GENESIS_S: Final = 1_700_000_000
ETHER: Final = 10**18
DOLLAR: Final = 10**6
FALL: Final = 0.95
PREMIUM_BPS: Final = 5
BOB, CARL, STRANGER = ("0x" + each * 20 for each in ("b0", "ca", "99"))
GAS: Final = 5_000_000
MOST_GAS: Final = 650_000
"""Measured: Morpho 276,000, Aave 451,000 to 492,000 by who lends, Venus 562,000, two of Aave 613,000."""


@dataclass(frozen=True, slots=True)
class Market:
    """A protocol with two accounts that have ether and owe dollars, after the fall, and how one is closed."""

    exchange: Exchange
    pools: Pools
    kind: Kind
    way: Way
    by: By
    asked: int
    repaid: int

    @property
    def lab(self) -> Lab:
        return self.exchange.lab

    @property
    def route(self) -> Route:
        """Along the pool of v3."""
        return self.routes[0]

    @property
    def routes(self) -> tuple[Route, ...]:
        return self.pools.routes(self.way.collateral, self.way.debt)

    def act(self, lender: Lender = Lender.MORPHO, pool: str = "", route: Route = (), least: int = 1) -> Repay:
        flash = Flash(self.exchange.liquidator, lender, pool, route or self.route, least)
        return Repay(key(BOB), self.way, self.by, self.asked, self.repaid, flash)

    def held(self, token: str) -> int:
        found: int = self.lab.ask("TestToken", token, "balanceOf", self.exchange.liquidator)
        return found


def key(owner: str) -> AccountKey:
    return bytes.fromhex(owner[2:]) + bytes(12)


def tx(call: Call, sender: str = OPERATOR) -> Tx:
    return Tx(sender, call.to, call.data, GAS)


def carried_out(market: Market, call: Call) -> int:
    """Simulate a run and carry it out; return the profit, which is what the simulation told."""
    foreseen = profit(market.lab.outcomes([tx(call)])[0].data)
    before = market.held(market.way.debt), market.held(market.way.collateral)
    [receipt] = market.lab.include([tx(call)])
    assert receipt["status"] == "0x1"
    assert int(receipt["gasUsed"], 16) < MOST_GAS
    gained = market.held(market.way.debt) - before[0]
    # Interest of a second more may make it a unit less.
    assert gained > 0
    assert abs(gained - foreseen) <= foreseen // 10**6
    assert market.held(market.way.collateral) == before[1]
    return gained


def refusal(market: Market, call: Call, sender: str = OPERATOR) -> str | None:
    [outcome] = market.lab.outcomes([tx(call, sender)])
    assert not outcome.ok
    return revert_name(outcome.data)


def found_pools(exchange: Exchange, tokens: Sequence[str]) -> Pools:
    """Find pools as the keeper does, round by round."""
    rounds = find_pools(
        tokens, [exchange.quote], v3_factory=exchange.v3_factory, v2_factory=exchange.v2_factory
    )
    calls = next(rounds)
    try:
        while True:
            calls = rounds.send(exchange.lab.node.call_many([(call.to, call.data) for call in calls]))
    except StopIteration as found:
        pools: Pools = found.value
        return pools


# --- three protocols -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with anvil(timestamp_s=GENESIS_S, code_size_limit=False) as started:
        started.fund([BOB, CARL, STRANGER])
        yield started


@pytest.fixture(scope="module")
def aave(node: Node) -> Market:
    found = aave_v3.deploy(node)
    found.configure("updateFlashloanPremium", PREMIUM_BPS)
    tokens = {symbol: token.lower() for symbol, token in found.tokens.items()}
    weth, usdc = tokens["WETH"], tokens["USDC"]
    exchange = deploy_exchange(found.lab, {weth: 2_000, tokens["LINK"]: 10}, quote=usdc, aave=found.pool)
    for who in (BOB, CARL):
        opened = [found.supply(who, "WETH", 10 * ETHER), found.borrow(who, "USDC", 15_800 * DOLLAR)]
        found.lab.run([*found.fund(who, ["WETH"]), *opened])
    found.price({"WETH": FALL})
    exchange.price({weth: 2_000 * FALL})
    way = Way(found.pool, usdc, weth, ETHER // 20, 400_000)
    repaid = 7_900 * DOLLAR
    return Market(exchange, found_pools(exchange, [weth]), Kind.AAVE_V3, way, By.REPAID, repaid, repaid)


@pytest.fixture(scope="module")
def morpho(node: Node) -> Market:
    return on_morpho(node, FALL)


@pytest.fixture(scope="module")
def pre_liquidation(node: Node) -> Market:
    """The same account before the fall, when only a pre-liquidation takes it, and of it a fifth at most."""
    found = on_morpho(node, 1.0)
    way = replace(found.way, venue=found.lab.libraries["PreLiquidation"])
    part = replace(found, kind=Kind.PRE_LIQUIDATION, way=way, asked=found.asked // 10)
    return replace(part, repaid=found.repaid // 10)


def on_morpho(node: Node, price: float) -> Market:
    """Open an account that allows pre-liquidation, and ask for all of it, with a dollar for interest."""
    found = morpho_blue.deploy(node)
    market = found.markets[0]
    usdc, weth = (each.lower() for each in market.params[:2])
    exchange = deploy_exchange(found.lab, {weth: 2_000}, quote=usdc, morpho=found.morpho)
    opened = [
        found.act(BOB, market, "supplyCollateral", 10 * ETHER, BOB, b""),
        found.act(BOB, market, "borrow", 16_500 * DOLLAR, 0, BOB, BOB),
        found.lab.tx("Morpho", found.morpho, "setAuthorization", market.pre, True, sender=BOB),
    ]
    found.lab.run([*found.fund(BOB, ["WETH"]), *opened])
    found.price([(price, price)] + [(1.0, 1.0)] * 3)
    exchange.price({weth: 2_000 * price})
    way = Way(found.morpho, usdc, weth, ETHER // 20, 200_000, "0x" + market.id.hex())
    _, shares, _ = found.lab.ask("Morpho", found.morpho, "position", market.id, BOB)
    repaid = 16_501 * DOLLAR
    return Market(exchange, found_pools(exchange, [weth]), Kind.MORPHO_BLUE, way, By.SHARES, shares, repaid)


@pytest.fixture(scope="module")
def venus(node: Node) -> Market:
    found = compound_v2.deploy(node)
    weth, usdc = (found.tokens[symbol].lower() for symbol in ("WETH", "USDC"))
    exchange = deploy_exchange(found.lab, {weth: 2_000}, quote=usdc)
    opened = [
        found.act(BOB, "WETH", "mint", 10 * ETHER),
        found.act(BOB, "USDC", "borrow", 14_900 * DOLLAR),
    ]
    found.lab.run([*found.fund(BOB, ["WETH"]), *opened])
    found.price({"WETH": 0.9})
    exchange.price({weth: 2_000 * 0.9})
    way = Way(found.vtokens["USDC"], usdc, weth, ETHER // 10, 500_000, found.vtokens["WETH"])
    repaid = 7_000 * DOLLAR
    return Market(exchange, found_pools(exchange, [weth]), Kind.COMPOUND_V2, way, By.REPAID, repaid, repaid)


# --- what it does --------------------------------------------------------------------------------


def test_an_account_of_aave_is_closed_with_what_each_lender_lends(aave: Market) -> None:
    link = next(pool for token, pool in aave.exchange.pools.items() if token != aave.way.collateral)
    lenders = {
        (Lender.MORPHO, ""): 0,
        (Lender.AAVE, ""): aave.repaid * PREMIUM_BPS // 10_000,
        (Lender.UNISWAP_V3, link): aave.repaid * FEE // 10**6,
    }
    gained = {}
    for lender, pool in lenders:
        with aave.lab.undone():
            gained[lender, pool] = carried_out(aave, flash_call(aave.act(lender, pool), aave.kind))
            assert allowances(aave) == {0}
    free = gained[Lender.MORPHO, ""]
    for each, fee in lenders.items():
        assert abs(free - gained[each] - fee) < DOLLAR // 100


def allowances(market: Market) -> set[int]:
    """Return what anybody may still take of what the contract has."""
    exchange, way = market.exchange, market.way
    spenders = (
        exchange.morpho,
        way.venue,
        exchange.router,
        *exchange.pools.values(),
        *exchange.pairs.values(),
    )
    return {
        market.lab.ask("TestToken", token, "allowance", exchange.liquidator, spender)
        for token in (way.debt, way.collateral)
        for spender in spenders
    }


def test_pools_and_pairs_are_found_and_sold_in(aave: Market) -> None:
    pool, pair = aave.routes
    assert [hop.pool.fee for route in (pool, pair) for hop in route] == [FEE, None]
    # The pair still has the price of before the fall, and pays better.
    with aave.lab.undone():
        by_pool = carried_out(aave, flash_call(aave.act(route=pool), aave.kind))
    with aave.lab.undone():
        by_pair = carried_out(aave, flash_call(aave.act(route=pair), aave.kind))
    assert by_pair > by_pool


def test_two_accounts_are_closed_in_one_transaction(aave: Market) -> None:
    act = aave.act()
    assert act.flash
    jobs = [Job(aave.kind, key(owner), aave.way, aave.by, aave.asked, aave.route) for owner in (BOB, CARL)]
    with aave.lab.undone():
        one = carried_out(aave, flash_call(act, aave.kind))
    with aave.lab.undone():
        both = carried_out(aave, run_call(act.flash, jobs, aave.way.debt, 2 * aave.repaid))
    assert both == pytest.approx(2 * one, rel=0.02)


@pytest.mark.parametrize("protocol", ["morpho", "pre_liquidation", "venus"])
def test_accounts_of_morpho_and_venus_are_closed(protocol: str, request: pytest.FixtureRequest) -> None:
    market: Market = request.getfixturevalue(protocol)
    with market.lab.undone():
        gained = carried_out(market, flash_call(market.act(), market.kind))
        assert gained > market.repaid // 1_000
        assert allowances(market) == {0}
        if market.kind is Kind.COMPOUND_V2:
            assert market.held(market.way.market) == 0


def test_what_a_run_leaves_is_the_owners(aave: Market) -> None:
    usdc, ours = aave.way.debt, aave.exchange.liquidator
    swept = Call(ours, abi.load("flash", "FlashLiquidator").functions["sweep"].call(ours, usdc).data)
    with aave.lab.undone():
        gained = carried_out(aave, flash_call(aave.act(), aave.kind))
        assert "OwnableUnauthorizedAccount" in (refusal(aave, swept) or "")
        aave.lab.run([tx(swept, OWNER)])
        assert aave.lab.ask("TestToken", usdc, "balanceOf", OWNER) == gained


# --- what it refuses -----------------------------------------------------------------------------


def test_less_than_the_profit_wanted_is_refused_with_what_it_would_be(aave: Market) -> None:
    call = flash_call(aave.act(), aave.kind)
    foreseen = profit(aave.lab.outcomes([tx(call)])[0].data)
    dear = flash_call(aave.act(least=foreseen + 1), aave.kind)
    assert refusal(aave, dear) == f"Unprofitable(got={foreseen}, wanted={foreseen + 1})"


def test_strangers_are_refused_and_nobody_calls_back(aave: Market) -> None:
    call = flash_call(aave.act(), aave.kind)
    assert refusal(aave, call, STRANGER) == f"NotOperator(caller={STRANGER})"
    functions = abi.load("flash", "FlashLiquidator").functions
    ours, pool = aave.exchange.liquidator, aave.route[0].pool.address
    for sender in (STRANGER, OPERATOR, aave.exchange.morpho, pool):
        for name, values in (
            ("onMorphoFlashLoan", (1, b"")),
            ("uniswapV3FlashCallback", (0, 0, b"")),
            ("uniswapV3SwapCallback", (1, 0, bytes(12) + bytes.fromhex(aave.way.debt[2:]))),
            ("executeOperation", (aave.way.debt, 1, 0, ours, b"")),
        ):
            assert (
                refusal(aave, functions[name].call(ours, *values), sender) == f"NotExpected(caller={sender})"
            )
    named = aave.lab.data("PoolInstance", "flashLoanSimple", ours, aave.way.debt, DOLLAR, b"", 0)
    told = refusal(aave, Call(aave.way.venue, named), STRANGER)
    assert told == f"NotExpected(caller={aave.way.venue.lower()})"


def test_a_healthy_account_is_refused_in_the_protocols_own_words(aave: Market) -> None:
    call = flash_call(replace(aave.act(), account=key(STRANGER)), aave.kind)
    [outcome] = aave.lab.outcomes([tx(call)])
    assert not outcome.ok
    assert revert_name(outcome.data) is None


def test_the_pool_that_lends_cannot_be_sold_in(aave: Market) -> None:
    act = aave.act(Lender.UNISWAP_V3, aave.route[0].pool.address)
    [outcome] = aave.lab.outcomes([tx(flash_call(act, aave.kind))])
    assert outcome.error == "LOK"


# --- the wallet's own tokens ---------------------------------------------------------------------


def test_a_purse_is_read_in_one_call_whatever_a_token_does(aave: Market) -> None:
    exchange, way = aave.exchange, aave.way
    pockets = [(way.collateral, exchange.router), (exchange.morpho, exchange.router), (BOB, exchange.router)]
    code = aave.lab.node.rpc("eth_call", {"data": "0x" + reader_creation().hex()}, "latest")
    with aave.lab.undone():
        aave.lab.run(minted(aave.lab, STRANGER, way.collateral, exchange.morpho, 7))
        aave.lab.run([tx(approve_call(Approve(key(STRANGER), way.collateral, exchange.router, 5)), STRANGER)])
        call = purse_call(STRANGER, pockets)
        answer: Any = aave.lab.node.rpc(
            "eth_call",
            {"to": call.to, "data": "0x" + call.data.hex()},
            "latest",
            {LENT_READER: {"code": code}},
        )
    assert purse(bytes.fromhex(answer[2:])) == ((7, 5), (0, 0), (0, 0))


def test_the_wallet_sells_through_the_router(aave: Market) -> None:
    way, router = aave.way, aave.exchange.router
    with aave.lab.undone():
        aave.lab.run(minted(aave.lab, STRANGER, way.collateral, aave.exchange.morpho, ETHER))
        sale = Convert(key(STRANGER), router, aave.route, ETHER, 1_890 * DOLLAR, aave.lab.now_s + 60)
        approval = approve_call(Approve(key(STRANGER), way.collateral, router, ETHER))
        aave.lab.run([tx(approval, STRANGER), tx(convert_call(sale), STRANGER)])
        bought = aave.lab.ask("TestToken", way.debt, "balanceOf", STRANGER)
    assert bought == pytest.approx(1_900 * DOLLAR * 0.997, rel=1e-3)
