"""The adapter on Aave's real contracts, by both rules: found, mirrored, suspected, judged and closed."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import pytest

from keeper import trigger
from keeper.abi import artifact
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.domain import Call, ChainTime, Fact, Log, Quote, Reason, Refuse, Unknown
from keeper.lab.anvil import BLOCK_TXS, Tx, anvil
from keeper.lab.foreign.aave_v3 import (
    ASSETS,
    CENT,
    EMODE,
    EMODE_BPS,
    TREASURY,
    V3_6,
    VARIABLE,
    Aave,
    deploy,
    deploy_v3_0,
    populate,
)
from keeper.lending.words import Approve, By, Close, Repay
from keeper.ports import read_through
from keeper.protocols.aave_v3.abi import reader_creation
from keeper.protocols.aave_v3.codec import AaveWorld, key_of
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.aave_v3.params import LENT_READER, read_deployment
from keeper.protocols.aave_v3.rows import AaveRow
from keeper.state.book import Book
from keeper.units import WAD, AccountKey, FeedId
from tests.anvil.foreign.aave_reads import loans, told_healths

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

SEED: Final = 20201203
ACCOUNTS: Final = 200
BLOCK_S: Final = 12
LIQUIDATOR: Final = "0x" + "1f" * 20
CODE: Final = artifact("readers", "AaveReader")["deployedBytecode"]
CRASH: Final = {"WETH": 0.6, "WBTC": 0.8, "LINK": 0.7, "EURS": 1.2}
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Kept:
    """A pool with accounts, and what a keeper knows of it at the start."""

    aave: Aave
    owners: Sequence[str]
    market: AaveMarket
    book: Book[AaveRow]
    block: int

    def ask(self, call: Call) -> bytes:
        return ask(self.aave, call)

    def world(self) -> AaveWorld:
        return self.market.decode_prices(self.ask(self.market.prices_call()))

    def read(self, owners: Sequence[str]) -> list[AaveRow]:
        return list(self.book.read(self.ask(self.market.rows_call([key_of(each) for each in owners]))))

    def rows(self) -> list[AaveRow]:
        found = [self.book.exact(key_of(each)) for each in self.owners]
        assert not any(isinstance(row, Unknown) for row in found)
        return [row for row in found if isinstance(row, AaveRow)]

    def suspects(self, world: AaveWorld, quotes: Mapping[FeedId, Quote | Unknown]) -> set[AccountKey]:
        book = self.book.freeze()
        marks = self.market.marks(world, quotes, world.now.at_s)
        scores = trigger.score(cash=book.cash, positions=book.positions, marks=marks, classes=book.classes)
        found = trigger.suspects(scores, level=np.asarray(marks.levels[book.classes]))
        return {book.key(int(row)) for row in found}

    def facts(self, first_block: int) -> list[Fact]:
        return facts(self.aave, self.market, first_block)


def ask(aave: Aave, call: Call) -> bytes:
    """Run a call, for which the reader's code is lent."""
    params = {"to": call.to, "data": "0x" + call.data.hex()}
    return bytes.fromhex(aave.lab.node.rpc("eth_call", params, "latest", {LENT_READER: {"code": CODE}})[2:])


def through(aave: Aave, rounds: Generator[list[Call], list[bytes], Found]) -> Found:
    """Carry out a reading of several rounds."""
    try:
        calls = next(rounds)
        while True:
            calls = rounds.send([ask(aave, call) for call in calls])
    except StopIteration as found:
        result: Found = found.value
        return result


def facts(aave: Aave, market: AaveMarket, first_block: int) -> list[Fact]:
    """Decode every log of the market's addresses."""
    wanted = {"fromBlock": hex(first_block), "toBlock": "latest", "address": list(market.addresses)}
    found = [market.decode(_log(each)) for each in aave.lab.node.rpc("eth_getLogs", wanted)]
    return [fact for fact in found if fact is not None]


def _log(raw: Mapping[str, Any]) -> Log:
    return Log(
        address=raw["address"],
        topics=tuple(bytes.fromhex(topic[2:]) for topic in raw["topics"]),
        data=bytes.fromhex(raw["data"][2:]),
        block_number=int(raw["blockNumber"], 16),
        block_hash=raw["blockHash"],
        tx_hash=raw["transactionHash"],
        index=int(raw["logIndex"], 16),
    )


def named(aave: Aave) -> dict[str, FeedId]:
    """Name a feed for every token: the lab's sources do not describe themselves."""
    return {token: f"{symbol}/USD" for symbol, token in aave.tokens.items()}


def quotes_at(factors: Mapping[str, float]) -> dict[FeedId, Quote | Unknown]:
    """Quote the prices that ``Aave.price`` sets."""
    cents = {symbol: int(ASSETS[symbol].cents * CENT * factor) for symbol, factor in factors.items()}
    return {f"{symbol}/USD": Quote(f"{symbol}/USD", price * 10**10, 0) for symbol, price in cents.items()}


@pytest.fixture(scope="module", params=[deploy, deploy_v3_0], ids=["3.6", "3.0"])
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    with anvil(timestamp_s=1_700_000_000) as node:
        aave: Aave = request.param(node)
        owners = populate(aave, ACCOUNTS, SEED)
        node.fund([LIQUIDATOR])
        aave.lab.run(aave.fund(LIQUIDATOR, list(ASSETS)))
        market = AaveMarket(through(aave, read_deployment(aave.pool, named(aave))))
        book = Book(market.shape)
        found = dict.fromkeys(key for fact in facts(aave, market, 0) for key in fact.touched)
        book.mark_dirty(found, node.block_number())
        book.fold_rows(ask(aave, market.rows_call(list(found))), node.block_number())
        yield Kept(aave, owners, market, book, node.block_number())


def fall(rng: random.Random) -> Mapping[str, float]:
    return {symbol: rng.uniform(0.6, 1.2) for symbol in ASSETS}


async def test_a_pool_is_read_through_code_that_is_lent(kept: Kept) -> None:
    node, key = kept.aave.lab.node, key_of(kept.owners[0])
    async with Pool([node.http_url]) as pool:
        reader = ChainReader(pool, [node.ws_url], [])
        await reader.lend(LENT_READER, reader_creation())
        at_hash = (await pool.request("eth_getBlockByNumber", ["latest", False]))["hash"]
        rounds = read_deployment(kept.aave.pool, named(kept.aave))
        assert await read_through(reader, rounds, at_hash) == kept.market.deployment
        page = await reader.call(kept.market.rows_call([key]), at_hash)
    kept.market.shape.check_names(page, [key])
    assert kept.book.read(page) == (kept.book.exact(key),)


def test_every_account_is_found_from_logs_and_mirrored_to_the_unit(kept: Kept) -> None:
    assert {key_of(each) for each in kept.owners} <= set(kept.book.keys.tolist())
    assert [row.loan for row in kept.rows()] == loans(kept.aave, kept.owners)


def test_health_is_the_pools_own_answer_at_prices_and_a_time_foreseen(kept: Kept) -> None:
    rng, aave = random.Random(SEED + 1), kept.aave
    before, rows = kept.world(), kept.rows()
    low = 0
    for after_s in (BLOCK_S, 86_400, 864_000):
        with aave.lab.undone():
            factors, at = fall(rng), ChainTime(0, aave.lab.now_s + after_s)
            foreseen = kept.market.fast(kept.market.carried(before, at), quotes_at(factors))
            stands = [kept.market.stand(row, foreseen) for row in rows]
            aave.price(factors, after_s=after_s)
            assert aave.lab.now_s == at.timestamp_s
            now = kept.world()
            assert [kept.market.stand(row, now) for row in rows] == stands
            for stand, told in zip(stands, told_healths(aave, kept.owners), strict=True):
                assert not isinstance(stand, Unknown)
                assert (stand.health_wad, stand.debt_wad) == (told.factor_wad, told.debt * 10**10)
                assert stand.collateral_wad == told.collateral * 10**10
                assert stand.is_breached == (stand.unmet is None)
                low += stand.is_breached
    assert low > ACCOUNTS // 2


def test_who_is_below_one_at_either_clock_is_suspected_and_hardly_anyone_else(kept: Kept) -> None:
    rng = random.Random(SEED + 2)
    low = 0
    for _ in range(4):
        with kept.aave.lab.undone():
            kept.aave.price(fall(rng), after_s=86_400)
            world, quotes = kept.world(), quotes_at(fall(rng))
            worlds = (world, kept.market.fast(world, quotes))
            breached = {row.key for each in worlds for row in kept.rows() if _is_low(kept, row, each)}
            assert breached <= kept.suspects(world, quotes)
            alone = {row.key for row in kept.rows() if _is_low(kept, row, world)}
            suspects = kept.suspects(world, {})
            assert alone <= suspects
            assert len(suspects - alone) <= 2
            low += len(breached)
    assert low > ACCOUNTS


def _is_low(kept: Kept, row: AaveRow, world: AaveWorld) -> bool:
    stand = kept.market.stand(row, world)
    assert not isinstance(stand, Unknown)
    return stand.is_breached


def test_logs_touch_exactly_the_accounts_whose_rows_change(kept: Kept) -> None:
    aave, lab = kept.aave, kept.aave.lab
    with lab.undone():
        aave.price(CRASH)
        world = kept.world()
        rows = dict(zip(kept.owners, kept.rows(), strict=True))
        everyone = [*kept.owners, LIQUIDATOR, TREASURY]
        before, first = kept.read(everyone), lab.node.block_number() + 1
        receipts = {number: each.atoken for number, each in kept.market.deployment.reserves.items()}
        tokens = {number: each.token for number, each in kept.market.deployment.reserves.items()}
        txs = [aave.supply(LIQUIDATOR, "WETH", 10**18), aave.borrow(LIQUIDATOR, "USDC", 10**6)]
        for number, (who, row) in enumerate(rows.items()):
            (held, _), (owed, _) = row.collateral[0], row.debt[0]
            repaid = (tokens[owed], 1_000, VARIABLE)
            if number % 6 == 0:
                txs.append(aave.act(who, "supply", tokens[held], 10_000, who, 0))
            elif number % 6 == 1:
                txs.append(aave.act(LIQUIDATOR, "repay", *repaid, who))
            elif number % 6 == 2 and _is_low(kept, row, world):
                pair = (tokens[held], tokens[owed])
                txs.append(aave.act(LIQUIDATOR, "liquidationCall", *pair, who, 10**40, number % 4 == 2))
            elif number % 6 == 3:
                txs.append(lab.tx(aave.names.atoken, receipts[held], "transfer", LIQUIDATOR, 0, sender=who))
        txs += [
            lab.tx(aave.names.atoken, receipts[0], "transfer", kept.owners[4], 10**15, sender=LIQUIDATOR),
            aave.act(LIQUIDATOR, "repayWithATokens", aave.tokens["WETH"], 1, VARIABLE),
            aave.act(LIQUIDATOR, "withdraw", aave.tokens["WETH"], 10**15, LIQUIDATOR),
            aave.act(kept.owners[2], "setUserEMode", 0),
        ]
        included = [
            receipt
            for at in range(0, len(txs), BLOCK_TXS)
            for receipt in lab.include(txs[at : at + BLOCK_TXS])
        ]
        assert sum(receipt["status"] == "0x1" for receipt in included) > ACCOUNTS // 3
        after = kept.read(everyone)
        changed = {one.key for one, other in zip(before, after, strict=True) if one != other}
        happened = kept.facts(first)
        touched = {key for fact in happened for key in fact.touched}
    assert changed <= touched
    assert {"Supply", "Repay", "LiquidationCall", "BalanceTransfer", "Withdraw"} <= {f.act for f in happened}
    assert len(changed) > ACCOUNTS // 4
    # A transfer of nothing changes nobody, nor does one of what its receiver does not use as collateral.
    idle = {key_of(each) for number, each in enumerate(kept.owners) if number % 6 == 3 or number == 4}
    assert touched - changed <= idle | {key_of(TREASURY)}


def closes(kept: Kept, world: AaveWorld) -> list[tuple[AaveRow, Close, Tx]]:
    """Close as many accounts as go into a block, each as far as one call can by its first way."""
    found = []
    for row in kept.rows():
        ways = kept.market.ways(row, world)
        assert list(ways) == sorted(ways, key=lambda way: way.bonus_wad)
        for way in ways[:1]:
            most = kept.market.most(row, way, world)
            done = kept.market.close(row, way, most, world)
            if isinstance(done, Refuse):
                assert most == 0
                continue
            assert done.repaid == most <= done.asked
            call = kept.market.encode(Repay(row.key, way, By.REPAID, done.asked, done.repaid))
            found.append((row, done, Tx(LIQUIDATOR, call.to, call.data, 3 * way.gas)))
    return found[:BLOCK_TXS]


def test_a_close_goes_through_as_predicted_in_the_block_foreseen(kept: Kept) -> None:
    aave, market = kept.aave, kept.market
    with aave.lab.undone():
        aave.price(CRASH)
        foreseen = closes(kept, market.carried(kept.world(), ChainTime(0, aave.lab.now_s + BLOCK_S)))
        receipts = aave.lab.include([tx for *_, tx in foreseen], after_s=BLOCK_S)
        happened = [
            fact for fact in kept.facts(aave.lab.node.block_number()) if fact.act == "LiquidationCall"
        ]
        world, left = kept.world(), kept.read(["0x" + row.key[:20].hex() for row, *_ in foreseen])
        for (row, done, _), receipt, fact, after in zip(foreseen, receipts, happened, left, strict=True):
            assert receipt["status"] == "0x1"
            assert (fact.args["repaid"], fact.args["seized"]) == (done.repaid, done.seized)
            assert fact.touched == (row.key,)
            stand = market.stand(after, world)
            assert not isinstance(stand, Unknown)
            assert stand.health_wad == done.health_after_wad
    assert len(foreseen) > 40
    assert sum(done.is_whole for _, done, _ in foreseen) > 10


def test_a_close_goes_through_some_blocks_later_as_well(kept: Kept) -> None:
    aave = kept.aave
    with aave.lab.undone():
        aave.price(CRASH)
        foreseen = closes(kept, kept.world())
        receipts = aave.lab.include([tx for *_, tx in foreseen], after_s=10 * BLOCK_S)
    assert {receipt["status"] for receipt in receipts} == {"0x1"}


def test_a_refusal_is_predicted_and_explained_by_the_same_name(kept: Kept) -> None:
    aave, market = kept.aave, kept.market
    world, row = kept.world(), kept.rows()[0]
    stand = market.stand(row, world)
    assert not isinstance(stand, Unknown)
    assert stand.unmet is not None
    assert market.ways(row, world) == ()
    with aave.lab.undone():
        pair = (world.tokens[row.collateral[0][0]], world.tokens[row.debt[0][0]])
        tx = aave.act(LIQUIDATOR, "liquidationCall", *pair, kept.owners[0], 1, False)
        (outcome,) = aave.lab.outcomes([tx])
    reverted = Refuse(Reason("simulation.reverted", "0x" + outcome.data.hex(), ""))
    assert market.explain(reverted).reason.evidence == stand.unmet.evidence
    assert "HealthFactorNotBelowThreshold" in stand.unmet.evidence


def test_an_approval_is_for_exactly_so_much(kept: Kept) -> None:
    token = kept.aave.tokens["USDC"].lower()
    with kept.aave.lab.undone():
        call = kept.market.encode(Approve(bytes(32), token, kept.market.deployment.pool, 7))
        kept.aave.lab.run([Tx(LIQUIDATOR, call.to, call.data, 100_000)])
        assert kept.aave.lab.ask("TestToken", token, "allowance", LIQUIDATOR, kept.aave.pool) == 7


def test_a_price_that_is_gone_makes_its_holders_unknown_and_nobody_else(kept: Kept) -> None:
    with kept.aave.lab.undone():
        kept.aave.price({"LINK": 0})
        world = kept.world()
        lacking = next(
            number for number, at in world.tokens.items() if at == kept.aave.tokens["LINK"].lower()
        )
        for row in kept.rows():
            holds = lacking in dict((*row.collateral, *row.debt))
            assert isinstance(kept.market.stand(row, world), Unknown) == holds
        marks, book = kept.market.marks(world, {}, world.now.at_s), kept.book.freeze()
        scores = trigger.score(cash=book.cash, positions=book.positions, marks=marks, classes=book.classes)
        unknown = {book.key(int(row)) for row in np.flatnonzero(scores.unknown)}
    everyone = [each for key in kept.book.keys.tolist() for each in [kept.book.exact(key)]]
    held = {
        row.key
        for row in everyone
        if isinstance(row, AaveRow) and lacking in dict((*row.collateral, *row.debt))
    }
    assert held == unknown


def test_a_new_reserve_and_another_source_make_the_listing_out_of_date(kept: Kept) -> None:
    aave, lab, market = kept.aave, kept.aave.lab, kept.market
    assert kept.world().version == market.version
    with lab.undone():
        source = lab.create("PriceSource", 8, 10**8)
        lab.do("AaveOracle", aave.oracle, "setAssetSources", [aave.tokens["WETH"]], [source])
        assert kept.world().version != market.version
        assert kept.world().version == through(aave, market.refresh()).version
    with lab.undone():
        token = lab.create("TestToken", "new", "new", 18)
        aave.add_reserve(token, 18)
        assert kept.world().version != market.version
        anew = through(aave, market.refresh())
        assert (anew.version, anew.untraced) == (kept.world().version, (token.lower(),))
        assert anew.shape.reserves == market.shape.reserves + 1
        kept.book.relist(anew.shape)
        assert [row.loan for row in kept.rows()] == loans(aave, kept.owners)
        kept.book.relist(market.shape)
        aave.configure("dropReserve", token)
        assert kept.world().version == market.version


def test_a_number_that_became_free_is_nobodys_until_it_is_given_away_again(kept: Kept) -> None:
    aave, lab, market = kept.aave, kept.aave.lab, kept.market
    with lab.undone():
        first, second = (lab.create("TestToken", name, name, 18) for name in ("first", "second"))
        aave.add_reserve(first, 18)
        aave.add_reserve(second, 18)
        number = market.shape.reserves
        aave.configure("dropReserve", first)
        world = kept.world()
        assert [*world.tokens][-1] == number + 1
        assert number not in world.tokens
        assert len(world.now.reserves) == number + 2
        told = [each.factor_wad for each in told_healths(aave, kept.owners)]
        stands = [kept.market.stand(row, world) for row in kept.rows()]
        assert [each.health_wad for each in stands if not isinstance(each, Unknown)] == told
        third = lab.create("TestToken", "third", "third", 18)
        aave.add_reserve(third, 18)
        assert kept.world().tokens[number] == third.lower()


def test_what_is_not_traced_is_named_and_keeps_the_chains_price(kept: Kept) -> None:
    weth = kept.aave.tokens["WETH"]
    market = AaveMarket(through(kept.aave, read_deployment(kept.aave.pool, {weth: "ETH/USD"})))
    assert market.feeds == ("ETH/USD",)
    assert set(market.untraced) == {each.lower() for each in kept.aave.tokens.values()} - {weth.lower()}
    world = market.decode_prices(kept.ask(market.prices_call()))
    fast = market.fast(world, {"ETH/USD": Quote("ETH/USD", 1_000 * WAD, 0)})
    prices = [each.price for each in fast.now.reserves]
    assert prices == [1_000 * 10**8, *(each.price for each in world.now.reserves[1:])]
    row = next(each for each in kept.rows() if 0 in dict(each.collateral))
    [sight] = market.sights(row, world, {})
    assert (sight.feed, sight.fast_wad, sight.chain_wad) == ("ETH/USD", None, 2_000 * WAD)


def test_a_category_may_have_a_price_of_its_own_in_3_0_alone(kept: Kept) -> None:
    aave, lab = kept.aave, kept.aave.lab
    if aave.names is V3_6:
        assert all(each.price == 0 for each in kept.world().now.categories.values())
        return
    with lab.undone():
        asset, source = "0x" + "ca" * 20, lab.create("PriceSource", 8, 1_500 * 10**8)
        lab.do("AaveOracle", aave.oracle, "setAssetSources", [asset], [source])
        aave.configure("setEModeCategory", EMODE, *EMODE_BPS, asset, "at one price")
        world, told = kept.world(), [each.factor_wad for each in told_healths(aave, kept.owners)]
        assert world.now.categories[EMODE].price == 1_500 * 10**8
        stands = [kept.market.stand(row, world) for row in kept.rows()]
        assert [each.health_wad for each in stands if not isinstance(each, Unknown)] == told
        low = {row.key for row, health in zip(kept.rows(), told, strict=True) if health < WAD}
        assert low <= kept.suspects(world, {})
        lab.do("PriceSource", source, "set", 0)
        world = kept.world()
        assert world.silent == {EMODE}
        stands = [kept.market.stand(row, world) for row in kept.rows()]
        unknown = [isinstance(each, Unknown) for each in stands]
        assert unknown == [row.category == EMODE for row in kept.rows()]


def test_e_mode_and_both_rules_are_in_the_crowd(kept: Kept) -> None:
    assert any(row.category == EMODE for row in kept.rows())
    assert (kept.aave.names is V3_6) == (kept.world().now.rules.value == "3.6")
