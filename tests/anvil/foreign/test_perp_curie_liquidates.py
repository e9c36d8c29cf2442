"""A whole keeper on Perpetual v2: a fall, the wait for the contract's own mark, and takeovers in steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.desk.perp import Params, PerpDesk
from keeper.lab.anvil import Node, anvil
from keeper.lab.foreign.perp_curie import Perp, deploy
from keeper.pipeline import Params as PipelineParams
from keeper.ports import Margin
from keeper.protocols.perp_curie.codec import key_of
from keeper.protocols.perp_curie.market import PerpCurieMarket
from keeper.protocols.perp_curie.params import LENT_READER, read_deployment, reader_creation
from keeper.protocols.perp_curie.rows import Account
from keeper.units import WAD
from tests.anvil.foreign.keeping import Keeping, Spoken, keeping, read
from tests.unit.pipeline.desk import SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GENESIS_S = 1_700_000_000
HALF_AN_HOUR = 80
"""In heads, of two blocks each, and a little more."""
OWNER, CALM = "0x" + "b1" * 20, "0x" + "c2" * 20


@pytest.fixture
def perp() -> Iterator[Perp]:
    """Two traders, one of them with eight times the deposit; the keeper has an account of its own."""
    with anvil(timestamp_s=GENESIS_S) as node:
        perp = deploy(node)
        node.fund([OWNER, CALM, SIGNER.address])
        perp.lab.run(
            [
                *perp.deposit(SIGNER.address, 20_000),
                *perp.deposit(OWNER, 2_600),
                *perp.deposit(CALM, 10_000),
                perp.trade(OWNER, "ETH", 20_000 * WAD, sell=False),
                perp.trade(CALM, "ETH", 10_000 * WAD, sell=False),
            ]
        )
        yield perp


def market_of(perp: Perp, node: Node) -> PerpCurieMarket:
    house = perp.at["ClearingHouse"]
    markets = {base: f"{symbol}/USD" for symbol, base in perp.bases.items()}
    rounds = read_deployment(house, markets)
    return PerpCurieMarket(read(node, rounds, {LENT_READER: reader_creation(house)}))


def margin(perp: Perp, owner: str) -> Margin:
    value = perp.lab.ask("ClearingHouse", perp.at["ClearingHouse"], "getAccountValue", owner)
    asked = ("AccountBalance", perp.at["AccountBalance"], "getMarginRequirementForLiquidation", owner)
    return Margin(value, perp.lab.ask(*asked))


async def test_the_keeper_sees_a_fall_waits_for_the_mark_and_takes_over_in_steps(
    perp: Perp, tmp_path: Path
) -> None:
    """Pool and fast price fall at once; the contract's mark follows with its means, for half an hour."""
    node, owner = perp.lab.node, key_of(OWNER)
    feed = Spoken({"ETH/USD": 2_000 * WAD, "BTC/USD": 40_000 * WAD})
    desk = PerpDesk(SIGNER.address, Params("ETH/USD"))
    lent = {LENT_READER: reader_creation(perp.at["ClearingHouse"])}
    market, few = market_of(perp, node), PipelineParams(page=2)
    async with keeping(node, market, desk, feed, tmp_path, lent=lent, params=few) as kept:
        await kept.head()
        assert kept.told(owner) == []
        for _ in range(5):
            perp.press({"ETH": 550}, sell=True)
        feed.prices["ETH/USD"] = 1_720 * WAD
        await kept.head()
        assert margin(perp, OWNER).covers()
        assert kept.told(owner) == ["Suspected", "Waited confirm.oracle_lags"]
        perp.index({"ETH": 0.86})
        lowest_wad = WAD
        for _ in range(HALF_AN_HOUR):
            await kept.head(24)
            now = margin(perp, OWNER)
            lowest_wad = min(lowest_wad, now.value_wad * WAD // now.required_wad)
        told = kept.told(owner)
        assert told.count("Included") == len(taken(kept, OWNER)) >= 2
        assert not [each for each in told if each.startswith(("Refused", "Reverted"))]
        assert told[-1].startswith("Closed")
        assert lowest_wad > WAD * 95 // 100
        assert margin(perp, OWNER).covers()
        assert kept.told(key_of(CALM)) == []
        assert kept.violations() == []
        assert held(kept, SIGNER.address) == sum(taken(kept, OWNER))
        assert 0 < held(kept, OWNER) < 10 * WAD


def taken(kept: Keeping, owner: str) -> list[int]:
    """Return what each takeover moved, as the contract told it."""
    liquidated = [
        event for event in kept.history(key_of(owner)) if event.data.get("act") == "PositionLiquidated"
    ]
    return [event.data["positionSize"] for event in liquidated]


def held(kept: Keeping, owner: str) -> int:
    """Return the size of an account's only position, as the keeper's book has it."""
    account = kept.book.exact(key_of(owner))
    assert isinstance(account, Account)
    (position,) = account.trader.positions.values()
    return position.size_wad
