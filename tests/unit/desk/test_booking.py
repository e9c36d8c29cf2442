"""What the keeper's transactions moved, by their logs, on each kind of protocol."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.abi import Event
from keeper.desk.booking import TRANSFER, booking, transfers
from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as HybridParams
from keeper.desk.lending import LendingDesk
from keeper.desk.lending import Params as LendingParams
from keeper.desk.perp import Params as PerpParams
from keeper.desk.perp import PerpDesk
from keeper.domain import QUOTE, Account, Booking, Holding, Leg, Log, Phase, Quote, Unknown
from keeper.lending.words import Lender
from keeper.plan import lending as lending_plan
from keeper.plan import perp as perp_plan
from keeper.plan.lending import FlashParams, Purse
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.units import WAD
from tests.unit.protocols.hybrid.books import COLLATERALS, deployment, oracles
from tests.unit.protocols.perp_curie.perps import ETH, HOUSE, MARKET, USDC, account, book_of, world
from tests.unit.toy_lending import COLLATERAL, DEBT, ONE, market

WALLET, LIQUIDATOR, OTHER = "0x" + "0a" * 20, "0x" + "1b" * 20, "0x" + "cd" * 20
FLASH = FlashParams(LIQUIDATOR, Lender.MORPHO)


def logged(address: str, event: Event, values: Sequence[Any]) -> Log:
    rows = list(zip(event.parameters, values, strict=True))
    indexed = [encode([kind], [value]) for (_, kind, is_indexed), value in rows if is_indexed]
    plain = [(kind, value) for (_, kind, is_indexed), value in rows if not is_indexed]
    data = encode([kind for kind, _ in plain], [value for _, value in plain])
    return Log(address, (event.topic, *indexed), data, 7, "0xb", "0xt", 2)


def sent(token: str, giver: str, taker: str, units: int) -> Log:
    return logged(token, TRANSFER, (giver, taker, units))


def test_what_own_addresses_receive_counts_less_what_they_give_away() -> None:
    logs = [
        sent(DEBT, WALLET, OTHER, 40),
        sent(DEBT, OTHER, WALLET, 3),
        sent(DEBT, WALLET, LIQUIDATOR, 500),
        sent(COLLATERAL.upper().replace("X", "x"), OTHER, LIQUIDATOR, 21),
        sent(COLLATERAL, OTHER, OTHER, 1_000),
    ]
    assert transfers(logs, {WALLET, LIQUIDATOR}) == {DEBT: -37, COLLATERAL: 21}


def test_what_only_looks_like_a_transfer_of_tokens_counts_for_nothing() -> None:
    whole = sent(DEBT, OTHER, WALLET, 7)
    numbered = replace(whole, topics=(*whole.topics, bytes(32)), data=b"")
    torn = replace(whole, data=whole.data[:-1])
    other = replace(whole, topics=(keccak(text="Approval(address,address,uint256)"), *whole.topics[1:]))
    assert not transfers([numbered, torn, other, replace(whole, topics=())], {WALLET})


def test_a_booking_rounds_against_the_keeper_and_says_what_it_cannot_value() -> None:
    def worth_wad(what: str, amount: int) -> int | Unknown:
        return amount * 2 // 3 if what != "strange" else Unknown(what, "no price")

    found = booking({"a": 10, "b": -10, "c": 0}, worth_wad)
    assert found == Booking((("a", 10), ("b", -10)), 6 - 7, (("a", 6), ("b", -7)))
    found = booking({"a": 10, "strange": 1}, worth_wad)
    assert found == Booking((("a", 10), ("strange", 1)), None, (("a", 6),))
    assert booking({}, worth_wad) == Booking((), 0)


@pytest.mark.parametrize(("payer", "flash"), [(WALLET, None), (LIQUIDATOR, FLASH)])
def test_a_closing_brings_what_was_seized_less_what_was_repaid(payer: str, flash: FlashParams | None) -> None:
    desk = LendingDesk(WALLET, LendingParams("ETH/USD", plan=lending_plan.Params(flash=flash)), {})  # type: ignore[arg-type]
    logs = [sent(DEBT, payer, OTHER, 1_000 * ONE), sent(COLLATERAL, OTHER, payer, 525_000)]
    found = desk.booked(market(), 2_000 * WAD, logs)
    assert found.moved == ((COLLATERAL, 525_000), (DEBT, -1_000 * ONE))
    assert found.worth_wad == 50 * WAD - 1


def changed(trader: str, size_wad: int, notional_wad: int) -> Log:
    topics = (
        keccak(text="PositionChanged(address,address,int256,int256,uint256,int256,int256,uint256)"),
        *(bytes(12) + bytes.fromhex(each[2:]) for each in (trader, ETH)),
    )
    values = [size_wad, notional_wad, WAD, 0, 0, 1]
    kinds = ["int256", "int256", "uint256", "int256", "int256", "uint256"]
    return Log(HOUSE, topics, encode(kinds, values), 9, "0xblock", "0xtx", 3)


def test_a_takeover_brings_the_position_at_its_mark_less_what_was_paid_for_it() -> None:
    desk = PerpDesk(WALLET, PerpParams("ETH/USD"))
    logs = [changed(OTHER, -5 * WAD, 9_900 * WAD), changed(WALLET, 5 * WAD, -9_776 * WAD)]
    found = desk.booked(MARKET, world(1_980), logs)
    assert dict(found.moved) == {ETH: 5 * WAD, QUOTE: -9_777 * WAD}
    assert found.worth_wad == (5 * 1_980 - 9_777) * WAD - 1
    assert desk.booked(MARKET, world(0), logs).worth_wad is None


def test_with_borrowed_margin_only_the_tokens_that_are_left_count() -> None:
    desk = PerpDesk(WALLET, PerpParams("ETH/USD", plan=perp_plan.Params(flash=FLASH)))
    logs = [
        changed(LIQUIDATOR, 5 * WAD, -9_776 * WAD),
        changed(LIQUIDATOR, -5 * WAD, 9_900 * WAD),
        sent(USDC, OTHER, LIQUIDATOR, 700 * ONE),
        sent(USDC, LIQUIDATOR, OTHER, 600 * ONE),
    ]
    found = desk.booked(MARKET, world(1_980), logs)
    assert (found.moved, found.worth_wad) == (((USDC, 100 * ONE),), 100 * WAD)


@dataclass
class Known:
    """A book of one account."""

    one: Account | Unknown

    def exact(self, key: bytes) -> Account | Unknown:
        assert key == TAKER
        return self.one


DEPLOYMENT = deployment()
HYBRID = HybridMarket(DEPLOYMENT)
TAKER = bytes.fromhex(WALLET[2:]) + bytes(12)
ACCOUNT = bytes.fromhex(OTHER[2:]) + bytes(12)
TOKEN = COLLATERALS[1].token


def told(contract: str, name: str, *values: Any) -> Log:
    address = {
        "Liquidator": DEPLOYMENT.liquidator,
        "Clearing": DEPLOYMENT.clearing,
        "Vault": DEPLOYMENT.vault,
    }
    return logged(address[contract], load(contract).events[name], values)


def slice_of(taker: bytes) -> Log:
    return told("Liquidator", "Tranche", ACCOUNT, taker, 1, 1, 1, 900 * WAD, 10 * WAD, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("logs", "moved"),
    [
        ([slice_of(TAKER)], {QUOTE: 8 * WAD}),
        ([slice_of(ACCOUNT)], {}),
        ([slice_of(TAKER), told("Clearing", "InsurancePaid", ACCOUNT, TAKER, 3 * WAD)], {QUOTE: 11 * WAD}),
        ([told("Clearing", "InsurancePaid", ACCOUNT, ACCOUNT, 3 * WAD)], {}),
        # A bond is posted, and comes back whole, in part, or not.
        ([told("Vault", "CreditMoved", DEPLOYMENT.quote, WALLET, DEPLOYMENT.liquidator, 25 * WAD)], {}),
        ([told("Vault", "CreditMoved", DEPLOYMENT.quote, DEPLOYMENT.liquidator, WALLET, 25 * WAD)], {}),
        ([told("Liquidator", "BondSettled", ACCOUNT, WALLET, 15 * WAD, 10 * WAD)], {QUOTE: -10 * WAD}),
        ([told("Liquidator", "BondSettled", ACCOUNT, OTHER, 15 * WAD, 10 * WAD)], {}),
        # The reward of whose alarm was confirmed.
        (
            [told("Vault", "CreditMoved", DEPLOYMENT.quote, DEPLOYMENT.clearing, WALLET, 2 * WAD)],
            {QUOTE: 2 * WAD},
        ),
        ([told("Vault", "CreditMoved", DEPLOYMENT.quote, DEPLOYMENT.clearing, OTHER, 2 * WAD)], {}),
        (
            [
                told("Vault", "CreditMoved", TOKEN, DEPLOYMENT.clearing, WALLET, WAD),
                told("Liquidator", "CollateralSold", ACCOUNT, 1, WALLET, WAD, 1_900 * WAD),
            ],
            {TOKEN: WAD, QUOTE: -1_900 * WAD},
        ),
        ([told("Liquidator", "CollateralSold", ACCOUNT, 1, OTHER, WAD, 1_900 * WAD)], {}),
    ],
)
def test_hybrid_margin_pays_fees_rewards_and_collateral_and_may_keep_a_bond(
    logs: list[Log], moved: dict[str, int]
) -> None:
    desk = HybridDesk(WALLET, TAKER, HybridParams("ETH/USD"))
    assert dict(desk.booked(HYBRID, oracles(), logs).moved) == moved


@pytest.mark.parametrize(
    ("logs", "sliced_wad"),
    [([slice_of(TAKER), slice_of(ACCOUNT), slice_of(TAKER)], 1_800 * WAD), ([slice_of(ACCOUNT)], None)],
)
def test_positions_taken_over_are_told_by_the_notional_of_the_slices(
    logs: list[Log], sliced_wad: int | None
) -> None:
    desk = HybridDesk(WALLET, TAKER, HybridParams("ETH/USD"))
    assert desk.booked(HYBRID, oracles(), logs).sliced_wad == sliced_wad


def test_collateral_that_was_bought_is_worth_what_the_slow_price_says() -> None:
    desk = HybridDesk(WALLET, TAKER, HybridParams("ETH/USD"))
    seen = oracles()
    sold = told("Liquidator", "CollateralSold", ACCOUNT, 1, WALLET, WAD, 19 * WAD // 10)
    slow_wad = seen[COLLATERALS[1].feed].slow_wad
    assert slow_wad > 0
    assert desk.booked(HYBRID, seen, [sold]).worth_wad == slow_wad - 19 * WAD // 10 - 1


QUOTED = Quote("ETH/USD", 1_990 * WAD, 0)
SILENT = Unknown("the venue", "silent for 40 s")
LENDING = LendingDesk(WALLET, LendingParams("ETH/USD"), {})  # type: ignore[arg-type]
PERP, BNB = (PerpDesk(WALLET, PerpParams(feed)) for feed in ("ETH/USD", "BNB/USD"))


@pytest.mark.parametrize(
    ("desk", "listing", "prices", "quote", "price"),
    [
        (LENDING, market(), 0, QUOTED, QUOTED.price_wad),
        (LENDING, market(), 0, SILENT, Unknown("ETH/USD", SILENT.why)),
        (LENDING, market(), 0, None, Unknown("ETH/USD", "the price source does not serve it")),
        (PERP, MARKET, world(1_980), QUOTED, QUOTED.price_wad),
        (PERP, MARKET, world(1_980), SILENT, 1_980 * WAD),
        (BNB, MARKET, world(1_980), None, Unknown("BNB/USD", "has no price")),
    ],
)  # fmt: skip
def test_gas_is_valued_by_the_fast_price_and_on_perpetual_else_by_an_index(
    desk: Any, listing: Any, prices: Any, quote: Quote | Unknown | None, price: int | Unknown
) -> None:
    quotes = {} if quote is None else {"ETH/USD": quote}
    assert desk.native_price_wad(listing, prices, quotes) == price


def test_on_hybrid_margin_gas_is_valued_by_the_fast_price_on_chain_or_the_slow_one() -> None:
    desk, seen = HybridDesk(WALLET, TAKER, HybridParams("ETH/USD")), oracles()
    view = seen["ETH/USD"]
    never = replace(seen, feeds={"ETH/USD": replace(view, fast_wad=0, slow_wad=view.slow_wad + 1)})
    gone = replace(seen, feeds={"ETH/USD": replace(view, fast_wad=0, slow_wad=0)})
    assert desk.native_price_wad(HYBRID, seen, {"ETH/USD": QUOTED}) == view.fast_wad
    assert desk.native_price_wad(HYBRID, never, {}) == view.slow_wad + 1
    assert desk.native_price_wad(HYBRID, gone, {}) == Unknown("ETH/USD", "has no price on chain")


def test_what_the_keeper_has_nothing_of_any_more_was_sold() -> None:
    purse, unread = Purse({COLLATERAL: 0, DEBT: 5}, {}), book_of()
    assert LENDING.parted(market(), unread, purse, [COLLATERAL, DEBT, "0xnever read"]) == [COLLATERAL]
    house = replace(account(7, 100, {0: (1, -1_980)}), key=PERP.taker)
    [ether, bitcoin] = MARKET.markets
    assert PERP.parted(MARKET, book_of(house), None, [ether, bitcoin, "ETH/USD"]) == [bitcoin]
    assert PERP.parted(MARKET, unread, None, [bitcoin]) == []


def test_a_margin_account_keeps_what_it_has_a_position_or_collateral_in() -> None:
    desk = HybridDesk(WALLET, TAKER, HybridParams("ETH/USD"))
    taker = Account(TAKER, Phase.HEALTHY, WAD, (Leg(1, -WAD, 0),), (Holding(1, WAD),))
    kept = HYBRID.feeds_of(taker)
    read: Any = Known(taker)
    assert desk.parted(HYBRID, read, 0, [*kept, "DOGE/USD"]) == ["DOGE/USD"]
    unread: Any = Known(Unknown("account", "not read"))
    assert desk.parted(HYBRID, unread, 0, ["DOGE/USD"]) == []
