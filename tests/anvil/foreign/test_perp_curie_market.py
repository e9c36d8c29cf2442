"""Perpetual v2 through our lent reader: all that is judged is the contracts' own, and no breach is missed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest

from keeper import trigger
from keeper.domain import Call, Quote, Unknown
from keeper.lab.anvil import anvil
from keeper.lab.foreign.perp_curie import MAKER, SPECS, Perp, deploy, populate
from keeper.ports import Margin, Takeover
from keeper.protocols.perp_curie.codec import PerpWorld, key_of
from keeper.protocols.perp_curie.market import PerpCurieMarket
from keeper.protocols.perp_curie.params import LENT_READER, read_deployment, reader_creation
from keeper.protocols.perp_curie.rows import Account
from keeper.state.book import Book
from keeper.units import WAD, AccountKey, FeedId
from tests.anvil.foreign.keeping import ask, read

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

SEED = 20230307
ACCOUNTS = 160
GENESIS_S = 1_700_000_000
LIQUIDATOR, POOR = "0x" + "1f" * 20, "0x" + "2f" * 20


@dataclass
class Read:
    """A deployment with its accounts, and all that our reader tells of it."""

    perp: Perp
    owners: Sequence[str]
    market: PerpCurieMarket
    lent: Mapping[str, bytes]

    def ask(self, call: Call) -> bytes:
        return ask(self.perp.lab.node, call, self.lent)

    def world(self) -> PerpWorld:
        return self.market.decode_prices(self.ask(self.market.prices_call()))

    def book(self, owners: Sequence[str]) -> Book[Account]:
        keys = [key_of(owner) for owner in owners]
        page = self.ask(self.market.rows_call(keys))
        book = Book(self.market.shape)
        self.market.shape.check_names(page, keys)
        book.fold_rows(page, 1)
        return book

    def accounts(self, owners: Sequence[str]) -> list[Account]:
        book = self.book(owners)
        found = [book.exact(key_of(owner)) for owner in owners]
        return [each for each in found if isinstance(each, Account)]

    def told(self, owners: Sequence[str]) -> list[Margin]:
        """What the contracts themselves say of accounts."""
        chain, at = self.perp.lab, self.perp.at
        values = chain.ask_many(
            [("ClearingHouse", at["ClearingHouse"], "getAccountValue", who) for who in owners]
        )
        required = chain.ask_many(
            [
                ("AccountBalance", at["AccountBalance"], "getMarginRequirementForLiquidation", who)
                for who in owners
            ]
        )
        return [Margin(*each) for each in zip(values, required, strict=True)]

    def suspects(self, world: PerpWorld, quotes: Mapping[FeedId, Quote | Unknown]) -> set[AccountKey]:
        book = self.book(self.owners).freeze()
        marks = self.market.marks(world, quotes, self.perp.lab.now_s)
        scores = trigger.score(cash=book.cash, positions=book.positions, marks=marks, classes=book.classes)
        rows = trigger.suspects(scores, level=marks.levels[book.classes])
        return {book.key(int(row)) for row in rows}


@pytest.fixture(scope="module")
def populated() -> Iterator[Read]:
    with anvil(timestamp_s=GENESIS_S) as node:
        perp = deploy(node)
        owners = populate(perp, ACCOUNTS, SEED)
        node.fund([LIQUIDATOR, POOR])
        perp.lab.run([*perp.deposit(LIQUIDATOR, 10**6), *perp.deposit(POOR, 60)])
        house = perp.at["ClearingHouse"]
        lent = {LENT_READER: reader_creation(house)}
        markets = {base: f"{symbol}/USD" for symbol, base in perp.bases.items()}
        deployment = read(node, read_deployment(house, markets), lent)
        yield Read(perp, owners, PerpCurieMarket(deployment), lent)


def move(perp: Perp, rng: random.Random, step: int) -> None:
    perp.press({"ETH": 700, "BTC": 35}, sell=step < 5)
    perp.index({symbol: rng.uniform(0.75, 0.95) for symbol in SPECS})
    perp.lab.pass_time(rng.randint(60, 4_000))


def test_the_margin_of_every_taker_is_the_contracts_own_and_no_breach_is_missed(populated: Read) -> None:
    rng, perp = random.Random(SEED), populated.perp
    seen: Counter[str] = Counter()
    with perp.lab.undone():
        for step in range(7):
            move(perp, rng, step)
            if step < 3:
                continue
            world = populated.world()
            quotes = {
                feed: Quote(feed, int(market.index_wad * rng.uniform(0.9, 1.1)), perp.lab.now_s)
                for feed, market in zip(populated.market.feeds, world.markets, strict=True)
            }
            fast = populated.market.fast(world, quotes)
            accounts = populated.accounts(populated.owners)
            stands = [populated.market.stand(each, world) for each in accounts]
            assert stands == populated.told(populated.owners)
            quick = [populated.market.stand(each, fast) for each in accounts]
            breached = {
                each.key
                for each, *found in zip(accounts, stands, quick, strict=True)
                if any(isinstance(margin, Margin) and not margin.covers() for margin in found)
            }
            suspects = populated.suspects(world, quotes)
            assert breached <= suspects
            seen.update(breached=len(breached), suspects=len(suspects), judged=len(accounts))
            seen["moved"] += fast != world
    assert seen["breached"] > ACCOUNTS // 2
    assert seen["suspects"] < 1.5 * seen["breached"], seen
    assert seen["moved"] > 1


def test_the_mark_is_the_contracts_own_and_moves_with_the_index_alone(populated: Read) -> None:
    perp, market = populated.perp, populated.market
    with perp.lab.undone():
        perp.index({"ETH": 0.97, "BTC": 1.02})
        perp.lab.pass_time(30)
        world = populated.world()
        as_is = {
            feed: Quote(feed, each.index_wad, 0)
            for feed, each in zip(market.feeds, world.markets, strict=True)
        }
        assert market.fast(world, as_is) == world == market.fast(world, {})
        assert [each.mark_wad for each in world.markets] == perp.lab.ask_many(
            [
                ("AccountBalance", perp.at["AccountBalance"], "getMarkPrice", base)
                for base in perp.bases.values()
            ]
        )
        assert all(each.updated_at_s > GENESIS_S for each in world.markets)


def test_a_takeover_leaves_both_accounts_as_predicted(populated: Read) -> None:
    """The block has the time of the one before it, so that mark and funding are those read."""
    rng, perp, market = random.Random(SEED + 1), populated.perp, populated.market
    symbols = {base: symbol for symbol, base in perp.bases.items()}
    seen: Counter[str] = Counter()
    with perp.lab.undone():
        for step in range(5):
            move(perp, rng, step)
        perp.lab.run([perp.trade(LIQUIDATOR, symbol, 1_500 * WAD, sell=True) for symbol in SPECS])
        world = populated.world()
        for account in populated.accounts(populated.owners[:100]):
            for offer in market.offers(account, world)[:1]:
                (taker,) = populated.accounts([LIQUIDATOR])
                found = market.take_over(
                    account, offer, offer.most_wad * rng.randint(1, 1_000) // 1_000, world
                )
                if not isinstance(found, Takeover):
                    continue
                expected = market.taken(taker, found)
                free_wad = market.free_wad(expected, world)
                assert isinstance(free_wad, int)
                assert free_wad >= 0
                close = perp.close(LIQUIDATOR, symbols[offer.market], account.owner, found.size_wad)
                (receipt,) = perp.lab.include([close], after_s=0)
                assert receipt["status"] == "0x1"
                (left, after) = populated.accounts([LIQUIDATOR, account.owner])
                assert left == expected
                assert market.stand(after, world) == found.margin
                asked = ("Vault", perp.at["Vault"], "getFreeCollateralByRatio", LIQUIDATOR, world.initial)
                assert perp.lab.ask(*asked) == free_wad // 10**12
                same = [
                    each
                    for number, each in taker.trader.positions.items()
                    if market.deployment.bases[number] == offer.market
                ]
                seen["reducing" if same and same[0].size_wad * found.size_wad < 0 else "adding"] += 1
    assert min(seen["reducing"], seen["adding"]) > 3, seen


def test_whether_the_takers_own_margin_suffices_is_foreseen(populated: Read) -> None:
    rng, perp, market = random.Random(SEED + 2), populated.perp, populated.market
    symbols = {base: symbol for symbol, base in perp.bases.items()}
    with perp.lab.undone():
        for step in range(5):
            move(perp, rng, step)
        world, (poor,) = populated.world(), populated.accounts([POOR])
        txs, predicted = [], []
        for account in populated.accounts(populated.owners):
            for offer in market.offers(account, world):
                found = market.take_over(
                    account, offer, offer.most_wad * rng.randint(1, 1_000) // 1_000, world
                )
                if isinstance(found, Takeover):
                    free_wad = market.free_wad(market.taken(poor, found), world)
                    assert isinstance(free_wad, int)
                    predicted.append("CH_NEFCI" if free_wad < 0 else "")
                    txs.append(perp.close(POOR, symbols[offer.market], account.owner, found.size_wad))
        assert [outcome.error for outcome in perp.lab.outcomes(txs)] == predicted
    assert min(Counter(predicted).values()) > 5
    assert len(set(predicted)) == 2


def test_makers_are_refused_by_name(populated: Read) -> None:
    (maker,) = populated.accounts([MAKER])
    found = populated.market.stand(maker, populated.world())
    assert found == Unknown(f"trader {MAKER}", "has orders, and makers are not judged")
    assert not populated.market.shape.alike(maker, populated.accounts([LIQUIDATOR])[0])


def test_a_market_that_is_not_listed_bars_whoever_is_in_it(populated: Read) -> None:
    whole = populated.market.deployment
    first = dict(list(whole.named.items())[:1])
    part = PerpCurieMarket(replace(whole, named=first, feeds=whole.feeds[:1]))
    some = Read(populated.perp, populated.owners, part, populated.lent)
    barred = [each.barred for each in some.accounts(populated.owners)]
    assert set(barred) == {0, 4}
