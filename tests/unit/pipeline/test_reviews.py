"""What is said of transactions that ended: what they moved and cost, why they failed, who was before them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode

from keeper.desk.hybrid import HybridDesk
from keeper.domain import CaseEvent, EventKind, Unknown
from keeper.errors import ChainFault
from keeper.ports import Switch
from keeper.protocols.hybrid.abi import load
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, KEEPER, Desk, confirmed, cured, flagged
from tests.unit.protocols.hybrid.books import PRICES

GAS_WEI = 200_000 * 2 * 10**9
GAS_WAD = GAS_WEI * PRICES["ETH/USD"] // WAD


def ended(desk: Desk, kind: EventKind) -> CaseEvent:
    return next(event for event in desk.history() if event.kind is kind)


def paid(event: CaseEvent) -> dict[str, Any]:
    names = ("moved", "worth_wad", "gas_wad", "profit_wad")
    return {name: event.data[name] for name in names if name in event.data}


async def test_what_was_included_is_booked_with_its_gas_in_quote(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True)
    found = paid(ended(desk, EventKind.INCLUDED))
    assert found == {"moved": {}, "worth_wad": 0, "gas_wad": GAS_WAD, "profit_wad": -GAS_WAD}


async def test_the_gas_of_a_revert_is_booked_too(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(mined=True, status=0)
    assert ended(desk, EventKind.REVERTED).data["profit_wad"] == -GAS_WAD


async def test_gas_is_valued_by_the_price_of_the_head_that_shows_the_inclusion(desk: Desk) -> None:
    await desk.head(BREACHED)
    desk.chain.fast["ETH/USD"] = PRICES["ETH/USD"] - WAD
    await desk.head(mined=True, status=0)
    lower_wad = GAS_WEI * (PRICES["ETH/USD"] - WAD)
    assert ended(desk, EventKind.REVERTED).data["gas_wad"] == -(-lower_wad // WAD)


async def test_gas_without_a_price_leaves_the_profit_open(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.head(BREACHED)
    monkeypatch.setattr(HybridDesk, "native_price_wad", lambda *_: Unknown("ETH/USD", "has no price"))
    with pytest.raises(ChainFault, match="gas cannot be valued"):
        await desk.head(mined=True, status=0)
    found = paid(ended(desk, EventKind.REVERTED))
    assert found == {"moved": {}, "worth_wad": 0, "gas_wad": None, "profit_wad": None}


async def test_logs_that_cannot_be_read_hold_up_no_outcome(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def garbled(*_: object) -> None:
        raise ChainFault("a log of 31 bytes")

    monkeypatch.setattr(HybridDesk, "booked", garbled)
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True)
    assert paid(ended(desk, EventKind.INCLUDED)) == {}


async def test_what_a_reorg_takes_back_is_booked_again_where_it_is_included_anew(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True)
    desk.chain.fast["ETH/USD"] = PRICES["ETH/USD"] - WAD
    await desk.head(reorg=1)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True)
    booked = [event for event in desk.history() if event.kind is EventKind.INCLUDED]
    first, second = (each.data["gas_wad"] for each in booked)
    assert (first, second) == (GAS_WAD, GAS_WAD - GAS_WEI)


# --- why it reverted -----------------------------------------------------------------------------

STALE = load("Liquidator").errors["StaleOracle"].selector + BREACHED.key
PANIC = bytes.fromhex("4e487b71") + (0x11).to_bytes(32)
WORDS = bytes.fromhex("08c379a0") + encode(["string"], ["too late"])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (STALE, f"StaleOracle(acct=0x{BREACHED.key.hex()})"),
        (PANIC, "Panic(0x11): an arithmetic overflow"),
        (WORDS, "too late"),
        (b"", "reverted without a reason"),
        (b"\x01\x02\x03\x04" + bytes(2_000), f"unknown error 0x01020304{'00' * 2_000}"[:500]),
        (None, "nothing: run at the end of its block it goes through"),
    ],
    ids=["an error of its own", "a panic", "words", "nothing", "a stranger's error", "no revert"],
)
async def test_a_revert_says_why_in_the_contracts_words(kept: Desk, data: bytes | None, why: str) -> None:
    kept.chain.reverted = {} if data is None else {"flag": data}
    await kept.head(BREACHED)
    await kept.head(mined=True, status=0)
    assert ended(kept, EventKind.REVERTED).data["why"] == why


async def test_a_node_that_cannot_run_it_again_holds_up_no_outcome(desk: Desk) -> None:
    await desk.head(BREACHED)
    desk.chain.fails.append("rerun")
    await desk.head(mined=True, status=0)
    assert "why" not in ended(desk, EventKind.REVERTED).data
    assert "profit_wad" in ended(desk, EventKind.REVERTED).data


async def test_what_went_through_is_not_run_again(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True)
    assert "rerun" not in desk.chain.asked


# --- who was before it ---------------------------------------------------------------------------


@pytest.mark.parametrize("places", [None, (3, 4)], ids=["somewhere in its block", "before it in its block"])
async def test_who_changed_the_account_before_ours_ran_has_won_the_race(
    desk: Desk, places: tuple[int, int] | None
) -> None:
    desk.chain.places = places
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True, status=0)
    rival = desk.chain.logs[-1]
    told = {"act": "Poked", "tx_hash": rival.tx_hash, "block": rival.block_number}
    assert ended(desk, EventKind.REVERTED).data["lost_to"] == told
    assert desk.journal.endings() == {
        "included": 0, "reverted": 0, "race_lost": 1, "displaced": 0, "in_flight": 0
    }  # fmt: skip


async def test_who_came_behind_ours_in_its_block_has_not_won_it(desk: Desk) -> None:
    desk.chain.places = (4, 3)
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True, status=0)
    assert "lost_to" not in ended(desk, EventKind.REVERTED).data
    assert desk.journal.endings()["reverted"] == 1


async def test_a_race_may_have_been_lost_some_blocks_before(desk: Desk) -> None:
    desk.chain.places = (9, 0)
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next))
    rival = desk.chain.logs[-1]
    await desk.head(mined=True, status=0)
    assert ended(desk, EventKind.REVERTED).data["lost_to"]["tx_hash"] == rival.tx_hash


async def test_what_was_known_when_it_was_reserved_and_what_is_of_others_is_no_race(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(replace(BREACHED, key=b"\x0e" * 32), mined=True, status=0)
    assert "lost_to" not in ended(desk, EventKind.REVERTED).data


async def test_our_own_transaction_is_no_rival(desk: Desk) -> None:
    await desk.head(BREACHED)
    [ours] = desk.chain.pending
    desk.chain.put(BREACHED)
    desk.chain.logs[-1] = replace(desk.chain.logs[-1], tx_hash=ours)
    desk.chain.logs[-1] = replace(desk.chain.logs[-1], block_number=desk.chain.next.number)
    desk.chain.logs[-1] = replace(desk.chain.logs[-1], block_hash=desk.chain.next.hash)
    await desk.head(mined=True, status=0)
    assert "lost_to" not in ended(desk, EventKind.REVERTED).data


async def test_of_several_the_one_that_closed_something_is_named(desk: Desk) -> None:
    await desk.head(BREACHED)
    values = (BREACHED.key, b"\x0f" * 32, 1, 1, 1, 900 * WAD, 10 * WAD, 0, 0, 0, 0)
    await desk.head(BREACHED, mined=True, status=0, emitted=("Liquidator", "Tranche", *values))
    assert ended(desk, EventKind.REVERTED).data["lost_to"]["act"] == "Tranche"


async def test_a_reorg_takes_back_what_was_said_of_an_outcome(desk: Desk) -> None:
    await desk.head(BREACHED)
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True, status=0)
    await desk.head(BREACHED, reorg=1)
    assert desk.journal.endings()["race_lost"] == 0
    assert desk.journal.endings()["in_flight"] == 1
    query = "SELECT profit_wad, lost_to FROM steps WHERE state = 'sent'"
    assert [tuple(row) for row in desk.journal._db.execute(query)] == [(None, None)]


async def test_a_reorg_takes_the_booked_loss_back_until_there_is_another(desk: Desk) -> None:
    def lost() -> float:
        return next(each.used for each in desk.journal.measures() if each.limit == "loss_day")

    await desk.head(BREACHED)
    most = lost()
    await desk.head(BREACHED, mined=True, status=0)
    paid_once = GAS_WAD / WAD
    assert lost() == pytest.approx(paid_once, abs=1e-6)
    assert most > paid_once
    await desk.head(BREACHED, reorg=1)
    assert lost() == most
    await desk.head(flagged(BREACHED, desk.chain.next), mined=True)
    assert lost() == pytest.approx(paid_once, abs=1e-6)


# --- what is held until it is sold ---------------------------------------------------------------


async def test_what_was_taken_over_is_held_for_as_long_as_the_keepers_account_has_it(desk: Desk) -> None:
    def held() -> dict[str, float]:
        found = (each for each in desk.journal.measures() if each.limit == "inventory")
        return {each.subject: each.used for each in found}

    taker = desk.chain.accounts[KEEPER]
    await desk.head(BREACHED)
    alarmed = flagged(BREACHED, desk.chain.next)
    await desk.head(alarmed, mined=True)
    await desk.head()
    agreed = confirmed(alarmed, desk.chain.next)
    await desk.head(agreed, mined=True)
    await desk.head(cured(agreed), replace(taker, legs=BREACHED.legs), mined=True)
    await desk.head()
    [(market, units)] = held().items()
    assert units > 0
    assert desk.journal.holding() == (market,)
    await desk.head(taker)
    assert held() == {market: 0}
    assert desk.journal.holding() == ()
    [(thrown, is_on)] = desk.journal.switched(9)
    assert (thrown.switch, thrown.subject, thrown.who, is_on) == (Switch.SOLD, market, "rule", True)


async def test_a_reorg_that_takes_a_sale_back_gives_the_keeper_what_it_held(desk: Desk) -> None:
    def held() -> dict[str, float]:
        found = (each for each in desk.journal.measures() if each.limit == "inventory")
        return {each.subject: each.used for each in found}

    taker = desk.chain.accounts[KEEPER]
    await desk.head(BREACHED)
    alarmed = flagged(BREACHED, desk.chain.next)
    await desk.head(alarmed, mined=True)
    await desk.head()
    agreed = confirmed(alarmed, desk.chain.next)
    await desk.head(agreed, mined=True)
    holding = replace(taker, legs=BREACHED.legs)
    await desk.head(cured(agreed), holding, mined=True)
    await desk.head()
    before = held()
    await desk.head(taker)
    assert [*held().values()] == [0]
    await desk.head(holding, reorg=1)
    assert held() == before
    await desk.head(taker)
    assert [*held().values()] == [0]
