"""A keeper on a fork of a local chain, where it acts; and on Ethereum as it is, where it only reads.

Ethereum is read where KEEPER_FORK_RPC_URL names a node of it. What is done there is tried here as well, on
the local chain.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keeper import abi
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.chain.wire import head_of
from keeper.config import Config, load
from keeper.confirm.policy import Policies
from keeper.deployments import ForeignDeployment
from keeper.desk.lending import LendingDesk, Params
from keeper.doctor import foreign
from keeper.doctor.finding import Mark
from keeper.domain import Call, Fact, Head
from keeper.lab.anvil import anvil
from keeper.lab.foreign import morpho_blue
from keeper.lab.foreign.aave_v3 import Aave, deploy, populate
from keeper.lending import tokens
from keeper.lending.routes import Pools
from keeper.lending.words import Standing
from keeper.plan import lending as plan
from keeper.ports import LendingMarket
from keeper.protocols.aave_v3.abi import reader_creation
from keeper.protocols.aave_v3.codec import key_of
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.aave_v3.params import LENT_READER, read_deployment
from keeper.state.book import Book
from keeper.units import WAD, AccountKey
from tests.anvil.foreign.keeping import Spoken, keeping, read
from tests.unit.pipeline.desk import SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GENESIS_S = 1_700_000_000
ETHER, DOLLAR = 10**18, 10**6
WEAK = "0x" + "b0" * 20
LENT = {LENT_READER: reader_creation(), tokens.LENT_READER: tokens.reader_creation()}
FEED, STABLE = "ETH/USD", "USDC/USD"


@pytest.fixture
def parent() -> Iterator[Aave]:
    """A pool with an account that ether at 1,900 would put into breach."""
    with anvil(timestamp_s=GENESIS_S) as node:
        aave = deploy(node)
        node.fund([WEAK])
        opened = [aave.supply(WEAK, "WETH", 5 * ETHER), aave.borrow(WEAK, "USDC", 8_000 * DOLLAR)]
        aave.lab.run([*aave.fund(WEAK, ["WETH"]), *opened])
        yield aave


def factor(aave: Aave) -> float:
    return int(aave.lab.ask(aave.names.pool, aave.pool, "getUserAccountData", WEAK)[5]) / WAD


async def test_an_account_is_found_and_closed_on_a_fork_of_which_the_chain_hears_nothing(
    parent: Aave, tmp_path: Path
) -> None:
    tip = parent.lab.node.rpc("eth_getBlockByNumber", "latest", False)["hash"]
    before = factor(parent)
    with anvil(timestamp_s=GENESIS_S, fork_url=parent.lab.node.http_url) as fork:
        aave = replace(parent, lab=replace(parent.lab, node=fork))
        lab, feed = aave.lab, Spoken({FEED: 2_000 * WAD, STABLE: WAD})
        fork.fund([SIGNER.address])
        lab.run([lab.tx("TestToken", aave.tokens["USDC"], "mint", SIGNER.address, 100_000 * DOLLAR)])
        named = {aave.sources["WETH"]: FEED, aave.sources["USDC"]: STABLE}
        market = AaveMarket(read(fork, read_deployment(aave.pool, named), LENT))
        params = Params(FEED, Policies(), plan.Params())
        desk = LendingDesk(SIGNER.address, params, Pools({}, ()))
        async with keeping(fork, market, desk, feed, tmp_path, lent=LENT) as kept:
            assert key_of(WEAK) in kept.book
            feed.prices[FEED] = 1_900 * WAD
            aave.price({"WETH": 0.95})
            for _ in range(4):
                await kept.head()
            assert kept.told(key_of(WEAK))[-2:] == ["Observed LiquidationCall", "Closed"]
            assert kept.violations() == []
        assert factor(aave) > 1.05
    assert factor(parent) == before
    assert parent.lab.node.rpc("eth_getBlockByNumber", "latest", False)["hash"] == tip


# --- what is only read ----------------------------------------------------------------------------

NODE = os.environ.get("KEEPER_FORK_RPC_URL", "")
ON_ETHEREUM = pytest.mark.skipif(not NODE, reason="KEEPER_FORK_RPC_URL names no node of Ethereum")
ETHEREUM = 1
BORROWERS = 20
MARKETS = 5
BACK, STEP = 50_000, 2_000
"""How far back borrowers are looked for, and how many blocks at a time."""
SETTLED = 4
"""How far below the newest block all is read: not every node behind one URL has that one."""
ACCOUNT_DATA = abi.function("getUserAccountData(address)", "uint256,uint256,uint256,uint256,uint256,uint256")
POSITION = abi.function("position(bytes32,address)", "uint256,uint128,uint128")
TERMS = abi.function("idToMarketParams(bytes32)", "address,address,address,address,uint256")
ENDLESS = 2**256 - 1


@dataclass(frozen=True)
class View:
    """One block of a chain, seen through one node."""

    config: Config
    rpc: Pool
    reader: ChainReader
    head: Head

    async def ask(self, call: Call, function: abi.Function) -> tuple[Any, ...]:
        return function.result(await self.reader.call(call, self.head.hash))

    async def expect_well(self, market: LendingMarket[Any, Any]) -> None:
        """Check that the deployment runs the code that is trusted, and that the doctor finds nothing bad."""
        assert isinstance(self.config.deployment, ForeignDeployment)
        await foreign.expect_code(self.rpc, self.config.deployment)
        findings = [each async for each in foreign.look(market, self.rpc, self.reader, self.head)]
        assert [each for each in findings if each.mark is Mark.BAD] == []

    async def borrowed(self, market: LendingMarket[Any, Any], enough: int) -> list[Fact]:
        """Return the newest borrowings, each of an account of its own, as many as are wanted or are there."""
        scout = ChainReader(self.rpc, self.config.chain.ws, market.addresses[:1])
        found: dict[AccountKey, Fact] = {}
        for last in range(self.head.number, max(0, self.head.number - BACK), -STEP):
            async for part in scout.search(max(0, last - STEP + 1), last):
                facts = [fact for fact in map(market.decode, part.logs) if fact and fact.act == "Borrow"]
                found.update({fact.touched[0]: fact for fact in facts})
            if len(found) >= enough:
                break
        return list(found.values())[:enough]

    async def read(
        self, market: LendingMarket[Any, Any], keys: Sequence[AccountKey]
    ) -> list[tuple[Any, Standing]]:
        """Return the rows of accounts, and how each stands."""
        world = market.decode_prices(await self.reader.call(market.prices_call(), self.head.hash))
        page = await self.reader.call(market.rows_call(keys), self.head.hash)
        market.shape.check_names(page, keys)
        book: Book[Any] = Book(market.shape)
        book.fold_rows(page, self.head.number)
        found = []
        for loan in map(book.exact, keys):
            standing = market.stand(loan, world)
            assert isinstance(standing, Standing), standing
            found.append((loan, standing))
        return found


@asynccontextmanager
async def view(url: str, folder: Path, chain_id: int, *deployment: str) -> AsyncIterator[View]:
    lines = ["[chain]", f'http = "{url}"', 'ws = "ws://127.0.0.1:1"', f"chain_id = {chain_id}"]
    lines += ["[deployment]", *deployment, "[feed]", 'path = "prices.csv"']
    (folder / "keeper.toml").write_text("\n".join(lines) + "\n")
    config = load(folder / "keeper.toml")
    async with Pool(config.chain.http, config.pool_params()) as rpc:
        await rpc.expect(chain_id)
        newest = head_of(await rpc.request("eth_getBlockByNumber", ["latest", False]))
        head = head_of(await rpc.request("eth_getBlockByNumber", [hex(newest.number - SETTLED), False]))
        yield View(config, rpc, ChainReader(rpc, config.chain.ws, []), head)


async def compare_aave(url: str, folder: Path, chain_id: int, deployment: str) -> None:
    """Hold accounts against the pool's own view of them."""
    async with view(url, folder, chain_id, 'protocol = "aave_v3"', deployment) as seen:
        market = await foreign.find_aave(seen.reader, seen.config, seen.head)
        await seen.expect_well(market)
        keys = [fact.touched[0] for fact in await seen.borrowed(market, BORROWERS)]
        assert len(keys) == BORROWERS
        for key, (_, standing) in zip(keys, await seen.read(market, keys), strict=True):
            call = ACCOUNT_DATA.call(market.deployment.pool, "0x" + key[:20].hex())
            collateral, debt, *_, factor_wad = await seen.ask(call, ACCOUNT_DATA)
            assert standing.collateral_wad == collateral * 10**10
            assert standing.debt_wad == debt * 10**10
            assert (ENDLESS if standing.health_wad is None else standing.health_wad) == factor_wad


async def compare_morpho(url: str, folder: Path, chain_id: int, deployment: str) -> None:
    """Hold accounts of the markets that were last borrowed from against what Morpho stores of them."""
    kind = 'protocol = "morpho_blue"'
    async with view(url, folder, chain_id, kind, deployment, f'markets = ["0x{"00" * 32}"]') as seen:
        morpho = seen.config.deployment.address
        ids = await borrowed_from(seen, morpho)
        assert ids
        lent = [(await seen.ask(TERMS.call(morpho, bytes.fromhex(each[2:])), TERMS))[0] for each in ids]
    markets = ", ".join(f'"{each}"' for each in ids)
    tokens_ = ", ".join(f'"{each}" = "USD"' for each in dict.fromkeys(lent))
    chosen = (f"markets = [{markets}]", f"tokens = {{ {tokens_} }}")
    async with view(url, folder, chain_id, kind, deployment, *chosen) as seen:
        market = await foreign.find_morpho(seen.reader, seen.config, seen.head)
        await seen.expect_well(market)
        facts = await seen.borrowed(market, BORROWERS)
        keys = [fact.touched[0] for fact in facts]
        assert keys
        for fact, key, (loan, _) in zip(facts, keys, await seen.read(market, keys), strict=True):
            call = POSITION.call(morpho, bytes.fromhex(fact.args["id"][2:]), "0x" + key[:20].hex())
            _, *stored = await seen.ask(call, POSITION)
            assert [loan.borrow_shares, loan.collateral] == stored


async def borrowed_from(seen: View, morpho: str) -> list[str]:
    """Return the markets that were borrowed from last."""
    topic = abi.event(
        "Borrow(bytes32 indexed id, address caller, address indexed owner, address indexed receiver,"
        " uint256 assets, uint256 shares)"
    ).topic
    scout, found = ChainReader(seen.rpc, seen.config.chain.ws, [morpho]), dict[str, None]()
    for last in range(seen.head.number, max(0, seen.head.number - BACK), -STEP):
        async for part in scout.search(max(0, last - STEP + 1), last):
            found.update(
                {"0x" + log.topics[1].hex(): None for log in part.logs if log.topics[:1] == (topic,)}
            )
        if len(found) >= MARKETS:
            break
    return list(found)[:MARKETS]


async def test_what_is_compared_on_ethereum_holds_here(parent: Aave, tmp_path: Path) -> None:
    node = parent.lab.node
    populate(parent, 2 * BORROWERS, 1)
    morpho = morpho_blue.deploy(node)
    morpho_blue.populate(morpho, BORROWERS, 1)
    for _ in range(SETTLED):
        node.mine()
    await compare_aave(node.http_url, tmp_path, node.chain_id, f'pool = "{parent.pool}"')
    await compare_morpho(node.http_url, tmp_path, node.chain_id, f'morpho = "{morpho.morpho}"')


@ON_ETHEREUM
@pytest.mark.timeout(600)
async def test_the_accounts_of_aave_on_ethereum_stand_as_the_pool_says(tmp_path: Path) -> None:
    await compare_aave(NODE, tmp_path, ETHEREUM, 'preset = "ethereum"')


@ON_ETHEREUM
@pytest.mark.timeout(600)
async def test_the_accounts_of_morpho_on_ethereum_are_what_it_stores(tmp_path: Path) -> None:
    await compare_morpho(NODE, tmp_path, ETHEREUM, 'preset = "ethereum"')
