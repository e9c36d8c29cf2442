"""The keeper's Morpho Blue against the real contracts: rows, judgement, facts and acts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pytest
from eth_abi.abi import decode

from keeper import trigger
from keeper.domain import ChainTime, Log, Quote, Reason, Refuse, Unknown
from keeper.lab.anvil import Tx, anvil
from keeper.lab.foreign import morpho_blue as lab
from keeper.lab.foreign.lent import Lent
from keeper.lab.foreign.morpho_blue import Morpho, deploy, populate
from keeper.lending.words import By, Close, Repay, Standing, Way
from keeper.protocols.morpho_blue import codec
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.protocols.morpho_blue.params import LENT_READER, Chosen, World, read_listing
from keeper.protocols.morpho_blue.rows import Loan
from keeper.state.book import Book
from keeper.units import AccountKey

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

SEED: Final = 20240110
ACCOUNTS: Final = 240
BLOCK_S: Final = 12
LIQUIDATOR: Final = "0x" + "1f" * 20


@dataclass(frozen=True, slots=True)
class Kept:
    """A deployment, the keeper's view of it, and every account that it has heard of."""

    morpho: Morpho
    lent: Lent
    market: MorphoMarket
    keys: Sequence[AccountKey]

    def world(self) -> World:
        return self.market.decode_prices(self.lent.call(self.market.prices_call()))

    def book(self) -> Book[Loan]:
        book = Book(self.market.shape)
        book.mark_dirty(self.keys, 1)
        for first in range(0, len(self.keys), 200):
            page = self.lent.call(self.market.rows_call(self.keys[first : first + 200]))
            self.market.shape.check_names(page, self.keys[first : first + 200])
            book.fold_rows(page, 1)
        return book

    def loans(self) -> list[Loan]:
        book = self.book()
        return [exact(book, key) for key in self.keys]

    def fall(self, rng: random.Random, low: float, high: float) -> None:
        factors = [rng.uniform(low, high) for _ in self.morpho.markets]
        pairs = [(factor, factor * rng.uniform(0.97, 1.03)) for factor in factors]
        self.morpho.price(pairs, after_s=rng.randint(1, 864_000))

    def tx(self, repay: Repay) -> Tx:
        call = self.market.encode(repay)
        return Tx(LIQUIDATOR, call.to, call.data, 2_000_000)


def exact(book: Book[Loan], key: AccountKey) -> Loan:
    loan = book.exact(key)
    assert not isinstance(loan, Unknown)
    return loan


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with anvil(timestamp_s=1_700_000_000) as node:
        morpho = deploy(node)
        accounts = populate(morpho, ACCOUNTS, SEED)
        rng = random.Random(SEED)
        withdrawn = [
            morpho.lab.tx(
                "Morpho", morpho.morpho, "setAuthorization", morpho.markets[at].pre, False, sender=who
            )
            for who, at in accounts
            if morpho.markets[at].pre and rng.random() < 0.3
        ]
        node.fund([LIQUIDATOR])
        pres = [each.pre for each in morpho.markets if each.pre]
        morpho.lab.run([*withdrawn, *morpho.fund(LIQUIDATOR, list(lab.DECIMALS), pres)])
        lent = Lent.of(node, LENT_READER, codec.reader_creation())
        market = MorphoMarket(lent.read(read_listing(morpho.chosen)))
        keys = [codec.key_of(who, morpho.markets[at].id) for who, at in accounts]
        yield Kept(morpho, lent, market, keys)


def repay_of(loan: Loan, way: Way, close: Close) -> Repay:
    return Repay(loan.key, way, close.by, close.asked, close.repaid)


def largest(kept: Kept, loan: Loan, way: Way, world: World) -> Close:
    found = kept.market.close(loan, way, kept.market.most(loan, way, world), world)
    assert isinstance(found, Close)
    return found


def standing(kept: Kept, loan: Loan, world: World) -> Standing:
    found = kept.market.stand(loan, world)
    assert isinstance(found, Standing)
    return found


# --- rows, judgement -----------------------------------------------------------------------------


def test_rows_are_what_the_contract_stores(kept: Kept) -> None:
    morpho = kept.morpho
    of = {each.id[:12]: each for each in morpho.markets}
    questions = [
        ("Morpho", morpho.morpho, "position", of[key[20:]].id, "0x" + key[:20].hex()) for key in kept.keys
    ]
    loans = kept.loans()
    assert [(0, each.borrow_shares, each.collateral) for each in loans] == morpho.lab.ask_many(questions)
    allowed = [
        ("Morpho", morpho.morpho, "isAuthorized", "0x" + key[:20].hex(), of[key[20:]].pre)
        for key in kept.keys
        if of[key[20:]].pre
    ]
    told = [each.authorised == (0,) for each in loans if of[each.key[20:]].pre]
    assert told == morpho.lab.ask_many(allowed)
    assert 20 < sum(told) < len(told) - 20


def test_every_account_stands_as_the_contract_judges_it(kept: Kept) -> None:
    rng = random.Random(SEED)
    seen: Counter[str] = Counter()
    loans = kept.loans()
    with kept.morpho.lab.undone():
        for low, high in ((0.75, 1.0), (0.85, 1.05), (0.4, 0.9)):
            kept.fall(rng, low, high)
            world = kept.world()
            asked = [each for loan in loans for each in everything(kept, loan, world)]
            outcomes = kept.morpho.lab.outcomes([kept.tx(repay) for repay, _ in asked])
            for (repay, expected), outcome in zip(asked, outcomes, strict=True):
                if isinstance(expected, Close):
                    assert decode(["uint256", "uint256"], outcome.data) == (expected.seized, expected.repaid)
                    seen["pre" if repay.way.venue != kept.morpho.morpho else "plain"] += 1
                    seen["bad debt"] += expected.bad_debt > 0
                else:
                    refused = Refuse(Reason("simulation.reverted", "0x" + outcome.data.hex(), ""))
                    assert kept.market.explain(refused).reason.evidence.startswith(expected), repay
                    seen[expected] += 1
    assert min(seen[each] for each in ("pre", "plain", "bad debt", "position is healthy")) > 20
    assert min(seen["NotPreLiquidatablePosition"], seen["LiquidatablePosition"]) > 20


def everything(kept: Kept, loan: Loan, world: World) -> Iterator[tuple[Repay, Close | str]]:
    """Ask for the most by each way that is open; by one that is not, expect the words of its refusal."""
    stands = standing(kept, loan, world)
    open_ways = kept.market.ways(loan, world)
    assert (stands.unmet is None) == bool(open_ways)
    for way in open_ways:
        close = largest(kept, loan, way, world)
        assert stands.is_breached
        yield repay_of(loan, way, close), close
    listed = kept.market.listing.of(
        next(each.id for each in kept.morpho.markets if each.id[:12] == loan.key[20:])
    )
    assert listed
    venues = {kept.morpho.morpho, *(listed.pres[number].address for number in loan.authorised)}
    for venue in venues - {way.venue for way in open_ways}:
        way = Way(venue, listed.loan, listed.collateral, 0, 0, listed.name)
        refused = kept.market.close(loan, way, 10**40, world)
        assert isinstance(refused, Refuse)
        yield Repay(loan.key, way, By.SHARES, loan.borrow_shares, 1), refused.reason.evidence


def test_no_account_that_can_be_closed_goes_unsuspected(kept: Kept) -> None:
    """At the contract's own price, and at a fast price that is ahead of it."""
    rng = random.Random(SEED + 1)
    book = kept.book()
    snapshot = book.freeze()
    seen = 0
    with kept.morpho.lab.undone():
        for low, high in ((0.8, 1.0), (0.7, 0.95)):
            kept.fall(rng, low, high)
            world = kept.world()
            quotes = {
                feed.feed: Quote(
                    feed.feed, int(world.heard[feed.address].price_wad * rng.uniform(0.85, 1.1)), 0
                )
                for feed in kept.market.listing.feeds
            }
            marks = kept.market.marks(world, quotes, world.at.timestamp_s)
            scores = trigger.score(
                cash=snapshot.cash, positions=snapshot.positions, marks=marks, classes=snapshot.classes
            )
            assert not scores.unknown.any()
            level = marks.levels[snapshot.classes]
            suspects = {snapshot.key(int(row)) for row in trigger.suspects(scores, level=level)}
            clocks = (world, kept.market.fast(world, quotes))
            breached = {
                key
                for key in kept.keys
                if any(standing(kept, exact(book, key), clock).is_breached for clock in clocks)
            }
            open_now = {key for key in kept.keys if kept.market.ways(exact(book, key), world)}
            assert open_now <= breached
            assert suspects == breached
            seen += len(suspects)
            assert len(suspects) < len(kept.keys)
    assert seen > 60


# --- facts ---------------------------------------------------------------------------------------


def logs_of(kept: Kept) -> list[Log]:
    """Return the newest block's logs of the contracts that the market listens to."""
    found = kept.morpho.lab.node.rpc(
        "eth_getLogs", {"fromBlock": "latest", "toBlock": "latest", "address": list(kept.market.addresses)}
    )
    return [
        Log(
            raw["address"],
            tuple(bytes.fromhex(topic[2:]) for topic in raw["topics"]),
            bytes.fromhex(raw["data"][2:]),
            int(raw["blockNumber"], 16),
            raw["blockHash"],
            raw["transactionHash"],
            int(raw["logIndex"], 16),
        )
        for raw in found
    ]


def test_the_facts_of_a_block_name_just_the_accounts_that_changed(kept: Kept) -> None:
    morpho = kept.morpho
    before = {each.key: each for each in kept.loans()}
    of = {each.id[:12]: each for each in morpho.markets}
    with morpho.lab.undone():
        morpho.price([(0.88, 0.88)] * len(morpho.markets))
        world = kept.market.carried(kept.world(), next_block(kept))
        closes = [repay for loan in before.values() for repay in at_most_one(kept, loan, world)][:30]
        closed = {each.account for each in closes}
        txs = [kept.tx(each) for each in closes]
        for number, key in enumerate(key for key in kept.keys if key not in closed):
            who, market, loan = "0x" + key[:20].hex(), of[key[20:]], before[key]
            acts = (
                [morpho.act(who, market, "repay", 0, loan.borrow_shares // 3, who, b"")],
                [morpho.act(who, market, "supplyCollateral", 1, who, b"")],
                [morpho.act(who, market, "repay", 0, loan.borrow_shares, who, b"")],
                [
                    morpho.act(who, market, "repay", 0, loan.borrow_shares, who, b""),
                    morpho.act(who, market, "withdrawCollateral", loan.collateral // 2, who, who),
                    morpho.act(who, market, "borrow", 1, 0, who, who),
                ],
                authorise(morpho, who, market, allowed=not loan.authorised),
            )
            wanted = acts[number % len(acts)]
            if len(txs) + len(wanted) + 2 <= 150:
                txs += [*morpho.fund(who, [market.spec.loan])[:2], *wanted]
        receipts = morpho.lab.include(txs, after_s=BLOCK_S)
        assert {receipt["status"] for receipt in receipts} == {"0x1"}
        facts = [fact for fact in map(kept.market.decode, logs_of(kept)) if fact]
        touched = {key for fact in facts for key in fact.touched}
        changed = {each.key for each in kept.loans() if each != before[each.key]}
        assert changed == touched & set(kept.keys)
        assert touched <= set(kept.keys)
        acts_seen = {fact.act for fact in facts}
    assert acts_seen == {
        "Borrow",
        "Repay",
        "SupplyCollateral",
        "WithdrawCollateral",
        "Liquidate",
        "SetAuthorization",
    }


def authorise(morpho: Morpho, who: str, market: lab.Market, *, allowed: bool) -> list[Tx]:
    arguments = ("setAuthorization", market.pre, allowed)
    return [morpho.lab.tx("Morpho", morpho.morpho, *arguments, sender=who)] if market.pre else []


def at_most_one(kept: Kept, loan: Loan, world: World) -> list[Repay]:
    ways = kept.market.ways(loan, world)
    return [repay_of(loan, way, largest(kept, loan, way, world)) for way in ways[:1]]


def test_a_market_that_is_not_listed_is_named_once_and_kept_out(kept: Kept) -> None:
    morpho = kept.morpho
    spec = lab.Spec("WBTC", "USDC", 62 * lab.PERCENT)
    with morpho.lab.undone():
        other = lab.open_market(morpho.lab, morpho.morpho, morpho.irm, morpho.tokens, spec)
        who = lab.LENDER
        morpho.lab.run([morpho.act(who, other, "supply", 10**12, 0, who, b"")])
        txs = [
            morpho.act(who, other, "supplyCollateral", 10**8, who, b""),
            *(morpho.act(who, other, "borrow", 10**6, 0, who, who) for _ in range(2)),
        ]
        morpho.lab.run(txs)
        assert [kept.market.decode(each) for each in logs_of(kept)] == [None] * len(logs_of(kept))
        assert list(kept.market.unlisted) == ["0x" + other.id.hex()]
        key = codec.key_of(who, other.id)
        page = kept.lent.call(kept.market.rows_call([key]))
        book = Book(kept.market.shape)
        book.fold_rows(page, 1)
        assert exact(book, key) == Loan(key, 0, 0)
        assert isinstance(kept.market.stand(exact(book, key), kept.world()), Unknown)


# --- acts ----------------------------------------------------------------------------------------


def next_block(kept: Kept) -> ChainTime:
    chain = kept.morpho.lab
    return ChainTime(chain.node.block_number() + 1, chain.now_s + BLOCK_S)


def test_what_is_predicted_for_the_next_block_is_what_it_does(kept: Kept) -> None:
    rng = random.Random(SEED + 2)
    seen: Counter[str] = Counter()
    with kept.morpho.lab.undone():
        kept.morpho.price([(0.9, 0.9)] * len(kept.morpho.markets))
        for loan in rng.sample(kept.loans(), 60):
            at = next_block(kept)
            world = kept.market.carried(kept.world(), at)
            for way in kept.market.ways(loan, world)[:1]:
                amount = kept.market.most(loan, way, world) * rng.choice((1, 1, 2, 3)) // 3
                close = kept.market.close(loan, way, amount, world)
                assert isinstance(close, Close)
                assert close.repaid <= amount
                [receipt] = kept.morpho.lab.include([kept.tx(repay_of(loan, way, close))], after_s=BLOCK_S)
                assert receipt["status"] == "0x1"
                kind = "pre" if way.venue != kept.morpho.morpho else "plain"
                seen[kind] += 1
                assert int(receipt["gasUsed"], 16) < way.gas
                page = kept.lent.call(kept.market.rows_call([loan.key]))
                book = Book(kept.market.shape)
                book.fold_rows(page, 1)
                left = exact(book, loan.key)
                assert standing(kept, left, kept.world()).health_wad == close.health_after_wad
                assert close.is_whole == (not (left.borrow_shares and left.collateral))
                assert left.collateral == loan.collateral - close.seized
    assert min(seen["pre"], seen["plain"]) > 5


def test_a_source_that_does_not_answer_leaves_its_own_market_unknown(kept: Kept) -> None:
    morpho = kept.morpho
    loans = kept.loans()
    with morpho.lab.undone():
        morpho.lab.node.rpc("anvil_setCode", morpho.markets[0].oracle, "0x60006000fd")
        world = kept.world()
        marks = kept.market.marks(world, {}, world.at.timestamp_s)
        snapshot = kept.book().freeze()
        scores = trigger.score(
            cash=snapshot.cash, positions=snapshot.positions, marks=marks, classes=snapshot.classes
        )
        first = [loan.key[20:] == morpho.markets[0].id[:12] for loan in loans]
        assert scores.unknown.tolist() == first
        unknown = [isinstance(kept.market.stand(loan, world), Unknown) for loan in loans]
        assert unknown == first


def test_an_oracle_that_names_its_feeds_is_followed_to_them(kept: Kept) -> None:
    morpho = kept.morpho
    chain = morpho.lab
    with chain.undone():
        base = chain.create("NamedSource", "ETH / USD", 8, 2_000 * 10**8)
        quote = chain.create("NamedSource", "USDC / USD", 8, 10**8)
        oracle = chain.create("FeedOracle", base, quote, 10 ** (36 + 6 - 18))
        spec = lab.Spec("WETH", "USDC", 62 * lab.PERCENT)
        opened = lab.open_market(chain, morpho.morpho, morpho.irm, morpho.tokens, spec, oracle)
        chosen = Chosen(morpho.morpho, ("0x" + opened.id.hex(),), tokens={morpho.tokens["USDC"]: "USDC/USD"})
        market = MorphoMarket(kept.lent.read(read_listing(chosen)))
        assert (market.feeds, market.listing.untraced) == (("ETH/USD", "USDC/USD"), ())
        world = market.decode_prices(kept.lent.call(market.prices_call()))
        assert world.prices == {oracle: spec.price}
        moved = {"ETH/USD": 1_800 * 10**8, "USDC/USD": 99 * 10**6}
        quotes = {feed: Quote(feed, price * 10**10, 0) for feed, price in moved.items()}
        fast = market.fast(world, quotes)
        chain.do("NamedSource", base, "set", moved["ETH/USD"])
        chain.do("NamedSource", quote, "set", moved["USDC/USD"])
        later = market.decode_prices(kept.lent.call(market.prices_call()))
        assert fast.prices == later.prices
        assert market.fast(later, quotes).prices == later.prices
        sights = market.sights(Loan(codec.key_of(lab.LENDER, opened.id), 1, 1), later, quotes)
        assert [(each.feed, each.fast_wad == each.chain_wad) for each in sights] == [
            ("ETH/USD", True),
            ("USDC/USD", True),
        ]
