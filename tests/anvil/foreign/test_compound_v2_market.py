"""The keeper's Venus against the real contracts: rows, judgement, facts and acts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from keeper import trigger
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.domain import Act, ChainTime, Log, Quote, Reason, Refuse, Unknown
from keeper.errors import ChainFault
from keeper.lab.anvil import Tx, anvil
from keeper.lab.foreign.compound_v2 import ASSETS, Venus, deploy, populate
from keeper.lab.foreign.lent import Lent
from keeper.lending.words import Approve, By, Close, Redeem, Repay, Standing, Way
from keeper.ports import read_through
from keeper.protocols.compound_v2 import codec, math
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.compound_v2.params import LENT_READER, Chosen, World, read_listing
from keeper.protocols.compound_v2.rows import Loan
from keeper.state.book import Book
from keeper.units import WAD, AccountKey

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

SEED: Final = 20230627
ACCOUNTS: Final = 240
SYMBOLS: Final = list(ASSETS)
LIQUIDATOR: Final = "0x" + "1f" * 20


@dataclass(frozen=True, slots=True)
class Kept:
    """A deployment, the keeper's view of it, and every account that it has heard of."""

    venus: Venus
    lent: Lent
    market: VenusMarket
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
        factors = {symbol: rng.uniform(low, high) for symbol in SYMBOLS}
        self.venus.price(factors, blocks=rng.randint(1, 8))

    def tx(self, act: Act) -> Tx:
        call = self.market.encode(act)
        return Tx(LIQUIDATOR, call.to, call.data, 8_000_000)

    def next_block(self) -> ChainTime:
        chain = self.venus.lab
        return ChainTime(chain.node.block_number() + 1, chain.now_s + 1)


def exact(book: Book[Loan], key: AccountKey) -> Loan:
    loan = book.exact(key)
    assert not isinstance(loan, Unknown)
    return loan


def standing(kept: Kept, loan: Loan, world: World) -> Standing:
    found = kept.market.stand(loan, world)
    assert isinstance(found, Standing)
    return found


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with anvil(timestamp_s=1_700_000_000, code_size_limit=False) as node:
        venus = deploy(node)
        owners = populate(venus, ACCOUNTS, SEED)
        node.fund([LIQUIDATOR])
        venus.lab.run(venus.fund(LIQUIDATOR, SYMBOLS))
        lent = Lent.of(node, LENT_READER, codec.reader_creation())
        market = VenusMarket(lent.read(read_listing(venus.chosen)))
        yield Kept(venus, lent, market, [codec.key_of(who) for who in owners])


# --- rows, judgement -----------------------------------------------------------------------------


def test_debts_are_read_as_they_are_stored_and_not_as_views_tell_them(kept: Kept) -> None:
    loans = kept.loans()
    stored = iter(kept.venus.debts(["0x" + key[:20].hex() for key in kept.keys]))
    for loan in loans:
        debts = {number: next(stored) for number in range(len(SYMBOLS))}
        told = {number: (debt.principal, debt.index_wad) for number, debt in loan.state.debts.items()}
        assert told == {number: debt for number, debt in debts.items() if debt[0]}
    vtokens = list(kept.venus.vtokens.values())
    for loan, balances in zip(loans, held(kept, vtokens), strict=True):
        assert loan.state.held == {n: balances[n] for n in loan.state.entered if balances[n]}


def held(kept: Kept, vtokens: Sequence[str]) -> list[list[int]]:
    questions = [
        ("VToken", vtoken, "balanceOf", "0x" + key[:20].hex()) for key in kept.keys for vtoken in vtokens
    ]
    found = kept.venus.lab.ask_many(questions)
    return [found[at : at + len(vtokens)] for at in range(0, len(found), len(vtokens))]


async def test_the_keepers_own_reader_lends_the_code_that_this_takes(kept: Kept) -> None:
    node = kept.venus.lab.node
    async with Pool([node.http_url]) as pool:
        reader = ChainReader(pool, [node.ws_url], [])
        await reader.lend(LENT_READER, codec.reader_creation())
        head = await pool.request("eth_getBlockByNumber", ["latest", False])
        listed = await read_through(reader, read_listing(kept.venus.chosen), head["hash"])
        calls = [kept.market.rows_call(kept.keys), kept.market.prices_call()]
        rows, prices = await reader.call_many(calls, head["hash"])
    assert listed == kept.market.listing
    assert (rows, prices) == (kept.lent.call(calls[0]), kept.lent.call(calls[1]))


def test_storage_that_is_laid_out_in_another_way_is_refused_by_name(kept: Kept) -> None:
    chosen = Chosen(kept.venus.comptroller, {}, debts_slot=216)
    market = VenusMarket(kept.lent.read(read_listing(chosen)))
    with pytest.raises(ChainFault, match="eth_call failed") as fault:
        kept.lent.call(market.rows_call(kept.keys))
    misplaced = "0x" + next(s for s, e in codec._ERRORS.items() if e.name == "Misplaced").hex()
    assert misplaced in str(fault.value)


def test_every_account_stands_as_the_comptroller_judges_it(kept: Kept) -> None:
    rng = random.Random(SEED)
    seen: Counter[str] = Counter()
    venus, loans = kept.venus, kept.loans()
    questions = [
        ("Comptroller", venus.comptroller, "getAccountLiquidity", "0x" + key[:20].hex()) for key in kept.keys
    ]
    with venus.lab.undone():
        for _ in range(3):
            kept.fall(rng, 0.5, 1.2)
            world = kept.world()
            stands = [standing(kept, loan, world) for loan in loans]
            told = venus.lab.ask_many(questions)
            for ours, (_, liquidity, shortfall) in zip(stands, told, strict=True):
                assert ours.health_wad is not None
                assert ours.is_breached == (shortfall > 0)
                if ours.unmet:
                    weighted = ours.debt_wad + liquidity - shortfall
                    assert ours.health_wad == weighted * WAD // ours.debt_wad
            asked = [
                each
                for loan, ours in zip(loans, stands, strict=True)
                for each in everything(kept, loan, world, ours)
            ]
            outcomes = venus.lab.outcomes([kept.tx(act) for act, _ in asked])
            for (act, words), outcome in zip(asked, outcomes, strict=True):
                refused = Refuse(Reason("simulation.reverted", "0x" + outcome.data.hex(), ""))
                found = "" if outcome.ok else kept.market.explain(refused).reason.evidence
                assert found.split("(")[0] == words, act
                seen[words or type(act).__name__] += 1
    assert (
        min(seen[each] for each in ("Repay", "RepayAll", "Heal", "InsufficientShortfall", "TooMuchRepay")) > 5
    )


def everything(kept: Kept, loan: Loan, world: World, stands: Standing) -> Iterator[tuple[Act, str]]:
    """Ask for the most by every way, and for the whole; what is not open is to be refused by name."""
    ways, sweep = kept.market.ways(loan, world), kept.market.sweep(loan, world)
    assert (stands.unmet is None) == bool(ways or sweep)
    for way in ways:
        most = kept.market.most(loan, way, world)
        close = kept.market.close(loan, way, most, world)
        assert isinstance(close, Close)
        assert close.repaid == most
        yield repay_of(loan, way, most), ""
    for way in ways[:1]:
        refused = kept.market.close(loan, way, 10**40, world)
        assert isinstance(refused, Refuse)
        yield repay_of(loan, way, 10**40), refused.reason.evidence.split("(")[0]
    if sweep:
        yield sweep.act, ""
    if stands.unmet:
        debt, collateral = (
            kept.market.listing.markets[next(iter(numbers))]
            for numbers in (loan.state.debts, loan.state.held)
        )
        way = Way(debt.vtoken, debt.token, collateral.token, 0, 0, collateral.vtoken)
        refused = kept.market.close(loan, way, 1, world)
        assert isinstance(refused, Refuse)
        yield repay_of(loan, way, 1), refused.reason.evidence.split("(")[0]


def repay_of(loan: Loan, way: Way, amount: int) -> Repay:
    return Repay(loan.key, way, By.REPAID, amount, amount)


def test_no_account_that_can_be_closed_goes_unsuspected(kept: Kept) -> None:
    """At the contract's own prices, and at fast prices that are ahead of them."""
    rng = random.Random(SEED + 1)
    book = kept.book()
    snapshot = book.freeze()
    seen = 0
    with kept.venus.lab.undone():
        for _ in range(3):
            kept.fall(rng, 0.6, 1.2)
            world = kept.world()
            quotes = {
                feed.feed: Quote(
                    feed.feed, int(world.heard[feed.address].price_wad * rng.uniform(0.85, 1.1)), 0
                )
                for feed in kept.market.listing.feeds
            }
            marks = kept.market.marks(world, quotes, kept.next_block().timestamp_s)
            scores = trigger.score(
                cash=snapshot.cash, positions=snapshot.positions, marks=marks, classes=snapshot.classes
            )
            assert not scores.unknown.any()
            level = marks.levels[snapshot.classes]
            suspects = {snapshot.key(int(row)) for row in trigger.suspects(scores, level=level)}
            clocks = [kept.market.carried(world, kept.next_block())]
            clocks.append(kept.market.fast(clocks[0], quotes))
            breached = {
                key
                for key in kept.keys
                for loan in [exact(book, key)]
                for clock in clocks
                if standing(kept, loan, clock).is_breached or standing(kept, loan, clock).unmet is None
            }
            assert breached <= suspects
            seen += len(suspects)
            assert len(suspects) < len(kept.keys)
    assert seen > 60


# --- facts ---------------------------------------------------------------------------------------


def logs_of(kept: Kept) -> list[Log]:
    """Return the newest block's logs of the contracts that the market listens to."""
    found = kept.venus.lab.node.rpc(
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
    venus = kept.venus
    before = {each.key: each for each in kept.loans()}
    with venus.lab.undone():
        venus.price(dict.fromkeys(SYMBOLS, 1.0) | {"WETH": 0.75, "WBTC": 0.8, "LINK": 0.7})
        world = kept.market.carried(kept.world(), kept.next_block())
        txs, by = list[Tx](), Counter[str]()
        for number, (key, loan) in enumerate(before.items()):
            act = act_on(kept, loan, world)
            if act and by[type(act).__name__] < 8:
                by[type(act).__name__] += 1
                txs.append(kept.tx(act))
            elif act is None and number % 2 and len(txs) < 120:
                txs += done_by("0x" + key[:20].hex(), loan, venus, number)
        receipts = venus.lab.include(txs)
        assert {receipt["status"] for receipt in receipts} == {"0x1"}
        facts = [fact for fact in map(kept.market.decode, logs_of(kept)) if fact]
        touched = {key for fact in facts for key in fact.touched}
        changed = {each.key for each in kept.loans() if each != before[each.key]}
        # Who entered a market and left it again in the same block is as before.
        back = {key for fact in facts if fact.act == "MarketExited" for key in fact.touched}
        assert changed == touched & set(kept.keys) - back
        assert touched - set(kept.keys) <= {codec.key_of(LIQUIDATOR), codec.key_of("0x" + "5e" * 20)}
        named = {fact.act for fact in facts}
    assert named == {
        "Transfer",
        "Borrow",
        "RepayBorrow",
        "LiquidateBorrow",
        "HealBorrow",
        "MarketEntered",
        "MarketExited",
    }
    assert set(by) == {"Repay", "RepayAll", "Heal"}


def done_by(who: str, loan: Loan, venus: Venus, number: int) -> list[Tx]:
    """Let an owner repay, borrow, redeem, or enter a market and leave it again."""
    owed, held = (SYMBOLS[next(iter(numbers))] for numbers in (loan.state.debts, loan.state.held))
    kind = number // 2 % 4
    if kind == 0:
        return [*venus.fund(who, [owed])[1:], venus.act(who, owed, "repayBorrow", 10**4)]
    if kind in {1, 2}:
        supplied = venus.act(who, held, "mint", ASSETS[held].units(10**6))
        wanted = venus.act(who, owed, "borrow", 1) if kind == 1 else venus.act(who, held, "redeem", 10**4)
        return [*venus.fund(who, [held])[1:], supplied, wanted]
    other = [symbol for at, symbol in enumerate(SYMBOLS) if at not in loan.state.entered]
    entered = [venus.pool(who, "enterMarkets", [venus.vtokens[each]]) for each in other[:1]]
    left = [venus.pool(who, "exitMarket", venus.vtokens[each]) for each in other[:1]]
    return entered if number % 16 == 7 else [*entered, *left]


def act_on(kept: Kept, loan: Loan, world: World) -> Act | None:
    sweep = kept.market.sweep(loan, world)
    if sweep:
        return sweep.act
    for way in kept.market.ways(loan, world)[:1]:
        return repay_of(loan, way, kept.market.most(loan, way, world) // 2)
    return None


# --- acts ----------------------------------------------------------------------------------------


def test_what_is_predicted_for_the_next_block_is_what_it_does(kept: Kept) -> None:
    """One after the other: a part of a debt, a small account whole, and one that is healed."""
    venus = kept.venus
    tokens = list(venus.tokens.values())
    seen: Counter[str] = Counter()
    with venus.lab.undone():
        venus.price({"WETH": 0.6, "WBTC": 0.65, "LINK": 0.55, "ALT": 1.1, "USDC": 1.0}, blocks=5)
        for loan in kept.loans():
            world = kept.market.carried(kept.world(), kept.next_block())
            act = act_on(kept, loan, world)
            if act is None or seen[type(act).__name__] >= 6:
                continue
            before = balances(kept, tokens)
            pays, gets, gas, health = foreseen(kept, loan, act, world)
            [receipt] = venus.lab.include([kept.tx(act)])
            assert receipt["status"] == "0x1"
            assert int(receipt["gasUsed"], 16) < gas
            paid = Counter(before) - Counter(balances(kept, tokens))
            assert dict(paid) == pays
            left = read(kept, loan.key)
            after = math.health(left.state, kept.world().pool)
            assert (after.weighted * WAD // after.owed if after.owed else None) == health
            assert redeemable(kept) >= Counter(gets)
            seen[type(act).__name__] += 1
    assert min(seen[each] for each in ("Repay", "RepayAll", "Heal")) > 3


def foreseen(
    kept: Kept, loan: Loan, act: Act, world: World
) -> tuple[dict[str, int], dict[str, int], int, int | None]:
    """Return what an act takes of the caller, what it gives, the gas it may use and the health it leaves."""
    if not isinstance(act, Repay):
        sweep = kept.market.sweep(loan, world)
        assert sweep
        pays = Counter[str]()
        for due in sweep.pays:
            pays[due.token] += due.amount
        return dict(pays), dict(sweep.gets), sweep.gas, None
    close = kept.market.close(loan, act.way, act.asked, world)
    assert isinstance(close, Close)
    return (
        {act.way.debt: close.repaid},
        {act.way.collateral: close.seized},
        act.way.gas,
        close.health_after_wad,
    )


def balances(kept: Kept, tokens: Sequence[str]) -> dict[str, int]:
    found = kept.venus.lab.ask_many([("TestToken", token, "balanceOf", LIQUIDATOR) for token in tokens])
    return dict(zip(tokens, found, strict=True))


def redeemable(kept: Kept) -> Counter[str]:
    """Return what the caller's vTokens redeem for, at the rates of the newest block."""
    vtokens = kept.venus.vtokens
    found = kept.venus.lab.ask_many(
        [
            (("VToken", vtoken, name, *who))
            for vtoken in vtokens.values()
            for name, who in (("balanceOf", [LIQUIDATOR]), ("exchangeRateStored", []))
        ]
    )
    units = zip(kept.venus.tokens.values(), found[::2], found[1::2], strict=True)
    return Counter({token: held * rate // WAD for token, held, rate in units})


def read(kept: Kept, key: AccountKey) -> Loan:
    book = Book(kept.market.shape)
    book.fold_rows(kept.lent.call(kept.market.rows_call([key])), 1)
    return exact(book, key)


def test_what_was_seized_is_redeemed_for_what_was_foreseen(kept: Kept) -> None:
    venus = kept.venus
    with venus.lab.undone():
        venus.price({"WETH": 0.7, "WBTC": 0.7, "LINK": 0.7})
        world = kept.market.carried(kept.world(), kept.next_block())
        loan, way = next((each, way) for each in kept.loans() for way in kept.market.ways(each, world)[:1])
        close = kept.market.close(loan, way, kept.market.most(loan, way, world), world)
        assert isinstance(close, Close)
        seized = repay_of(loan, way, close.asked)
        approved = kept.tx(Approve(loan.key, way.debt, way.venue, close.repaid))
        [_, receipt] = venus.lab.include([approved, kept.tx(seized)])
        assert receipt["status"] == "0x1"
        assert venus.lab.ask("TestToken", way.debt, "allowance", LIQUIDATOR, way.venue) == 0
        receipts = venus.lab.ask("VToken", way.market, "balanceOf", LIQUIDATOR)
        before = venus.lab.ask("TestToken", way.collateral, "balanceOf", LIQUIDATOR)
        venus.lab.run([kept.tx(Redeem(codec.key_of(LIQUIDATOR), way.market, receipts))])
        got = venus.lab.ask("TestToken", way.collateral, "balanceOf", LIQUIDATOR) - before
        # A block later, and by that block's interest, no less than that.
        assert close.seized <= got < close.seized * (1 + 1e-6) + 2


def test_a_new_oracle_makes_the_listing_out_of_date_and_no_price_makes_accounts_unknown(kept: Kept) -> None:
    venus, loans = kept.venus, kept.loans()
    with venus.lab.undone():
        oracle = venus.lab.create("MockPriceOracle")
        venus.configure("setPriceOracle", oracle)
        world = kept.world()
        assert world.version != kept.market.version
        assert world.unpriced == set(range(len(SYMBOLS)))
        assert kept.lent.read(kept.market.refresh()).version == world.version
        assert all(isinstance(kept.market.stand(loan, world), Unknown) for loan in loans)
        marks = kept.market.marks(world, {}, world.at.timestamp_s)
        snapshot = kept.book().freeze()
        scores = trigger.score(
            cash=snapshot.cash, positions=snapshot.positions, marks=marks, classes=snapshot.classes
        )
        assert scores.unknown.all()
