"""What is said of transactions that ended: what they moved and cost, why they failed, who was before them."""

from __future__ import annotations

from typing import Any

import pytest

from keeper.desk.hybrid import HybridDesk
from keeper.domain import CaseEvent, EventKind, Unknown
from keeper.errors import ChainFault
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, Desk, flagged
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
