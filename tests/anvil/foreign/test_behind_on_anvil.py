"""Closings in the block of the oracle's own transaction, right behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeper.lab.anvil import GWEI, Tx, anvil
from keeper.lab.foreign.aave_v3 import deploy
from keeper.plan.common import Policy
from keeper.protocols.aave_v3.codec import key_of
from keeper.units import WAD
from tests.anvil.foreign.keeping import Keeping, Spoken, keeping
from tests.anvil.foreign.test_aave_v3_liquidates import FEED, GENESIS_S, LENT, WEAK, Stage, at_start, staged
from tests.unit.pipeline.desk import SIGNER

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]


def fall(stage: Stage, factor: float) -> list[Tx]:
    """Build what the oracle tells, and the trade that moves the exchange."""
    lab, ether = stage.aave.lab, stage.aave.tokens["WETH"]
    told = lab.tx("PriceSource", stage.aave.sources["WETH"], "set", int(2_000 * factor * 10**8))
    return [told, stage.exchange.moved(ether, 2_000 * factor)]


async def warned(kept: Keeping, feed: Spoken) -> None:
    """Let the fast price fall, and the keeper wait for the oracle's."""
    feed.prices[FEED] = 1_900 * WAD
    await kept.head()
    assert kept.told(key_of(WEAK)) == ["Suspected", "Waited confirm.oracle_lags"]


async def test_an_account_is_closed_in_the_block_of_the_answer_that_it_waited_for(tmp_path: Path) -> None:
    with anvil(timestamp_s=GENESIS_S) as node:
        stage, feed, weak = staged(deploy(node)), at_start(), key_of(WEAK)
        desk = stage.desk(Policy.RESTORE, stage.flash)
        async with keeping(node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
            await warned(kept, feed)
            [oracle, _] = await kept.announce(fall(stage, 0.95))
            assert kept.told(weak)[2:] == ["Reserved repay", "Sent"]
            await kept.head()
            assert "Included" in kept.told(weak)
            assert stage.factor(WEAK) > 1.05
            receipts = node.receipts()
            [own] = [each for each in receipts.values() if each["from"] == SIGNER.address]
            places = [int(each["transactionIndex"], 16) for each in (receipts[oracle], own)]
            assert places == sorted(places)
            sent = node.rpc("eth_getTransactionByHash", own["transactionHash"])
            assert int(sent["maxPriorityFeePerGas"], 16) < GWEI
            assert kept.violations() == []


async def test_an_answer_that_never_comes_costs_a_revert_and_nothing_else(tmp_path: Path) -> None:
    with anvil(timestamp_s=GENESIS_S) as node:
        stage, feed, weak = staged(deploy(node)), at_start(), key_of(WEAK)
        desk = stage.desk(Policy.RESTORE, stage.flash)
        async with keeping(node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
            await warned(kept, feed)
            before = stage.factor(WEAK)
            for tx_hash in await kept.announce(fall(stage, 0.95)):
                node.rpc("anvil_dropTransaction", tx_hash)
            await kept.head()
            assert kept.told(weak)[2:5] == ["Reserved repay", "Sent", "Reverted"]
            assert stage.factor(WEAK) == pytest.approx(before, rel=1e-6)
            assert kept.violations() == []


async def test_what_breaches_nothing_leads_to_nothing(tmp_path: Path) -> None:
    with anvil(timestamp_s=GENESIS_S) as node:
        stage, feed, weak = staged(deploy(node)), at_start(), key_of(WEAK)
        desk = stage.desk(Policy.RESTORE, stage.flash)
        async with keeping(node, stage.market, desk, feed, tmp_path, lent=LENT) as kept:
            await warned(kept, feed)
            await kept.announce(fall(stage, 0.99))
            assert kept.told(weak) == ["Suspected", "Waited confirm.oracle_lags"]
            await kept.head()
            assert kept.violations() == []
