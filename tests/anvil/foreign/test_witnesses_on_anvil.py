"""Witnesses asked of real contracts: an aggregator, Uniswap's own pool, and a few that say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.domain import Unknown, Witnessed, Witnesses
from keeper.lab.anvil import Node
from keeper.lab.foreign.base import Lab, gathered
from keeper.lab.foreign.exchange import Exchange, deploy_exchange
from keeper.oracles.aggregator import Aggregator, Delayed
from keeper.oracles.panel import Panel, reader_creation
from keeper.oracles.twap import Twap
from keeper.oracles.words import Witness
from keeper.units import WAD

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

FEED: Final = "ETH/USD"
WINDOW_S: Final = 1_800
NOBODY: Final = "0x" + "77" * 20


def deployed(node: Node) -> tuple[Exchange, str, str]:
    """Deploy ether, dollars, a pool of both at 2,000 with some history, and an aggregator that says 2,010."""
    lab = Lab.of(node, "exchange")
    ether, dollar = lab.create("TestToken", "Ether", "ETH", 18), lab.create("TestToken", "Dollar", "USD", 6)
    lab.contracts["PriceSource"] = gathered("subjects")["PriceSource"]
    source = lab.create("PriceSource", 8, 2_010 * 10**8)
    exchange = deploy_exchange(lab, {ether: 2_000.0}, quote=dollar)
    lab.do("UniswapV3Pool", exchange.pools[ether], "increaseObservationCardinalityNext", 10)
    return exchange, ether, source


async def heard(node: Node, *witnesses: Witness) -> Sequence[Witnessed | Unknown]:
    """Ask them as a keeper does: one call to a reader that is lent, pinned to the newest block."""
    panel = Panel({FEED: witnesses})
    async with Pool([node.http_url]) as pool:
        reader = ChainReader(pool, [node.ws_url], [])
        await reader.lend(panel.reader, reader_creation())
        head = await pool.request("eth_getBlockByNumber", ["latest", False])
        answers = await reader.call_many(panel.calls(), head["hash"])
    found: Witnesses = panel.decode(answers, int(head["timestamp"], 16))
    return found[FEED]


async def test_each_says_what_its_contract_does_and_who_is_silent_spoils_nothing(anvil: Node) -> None:
    exchange, ether, source = deployed(anvil)
    lab, [pool] = exchange.lab, exchange.pools.values()
    aggregator = Aggregator("link", source, 3_600, WAD // 200)
    delayed = Delayed("late", source, 600, 3_600, WAD // 200)
    mean = Twap("pool", pool, ether, exchange.quote, WINDOW_S)
    nobody = Aggregator("nobody", NOBODY, 3_600, WAD // 200)
    link, late, young, silent = await heard(anvil, aggregator, delayed, mean, nobody)
    assert isinstance(link, Witnessed)
    assert link.price_wad == 2_010 * WAD
    assert link.at_s < lab.now_s
    # The round is too young, and of the pool nobody has traded in a later block.
    for each in (late, young, silent):
        assert isinstance(each, Unknown)
    assert [each.why for each in (late, young, silent) if isinstance(each, Unknown)] == [
        "no round of 600 s ago among the last 64",
        "it keeps 1 observations, at least 2",
        "no newest round",
    ]

    exchange.price({ether: 2_010.0})
    exchange.price({ether: 2_000.0})
    [short] = await heard(anvil, mean)
    assert short == Unknown("pool", f"no history of {WINDOW_S} s")
    lab.pass_time(WINDOW_S)
    late, settled = await heard(anvil, delayed, mean)
    assert isinstance(late, Witnessed)
    assert late.price_wad == 2_010 * WAD
    assert isinstance(settled, Witnessed)
    assert settled.price_wad == pytest.approx(2_000 * WAD, rel=2e-4)
    assert settled.at_s == lab.now_s

    # A tenth of the window at 1,500 is a tenth of the way, by logarithms.
    exchange.price({ether: 1_500.0})
    lab.pass_time(WINDOW_S // 10)
    [moved] = await heard(anvil, mean)
    assert isinstance(moved, Witnessed)
    assert moved.price_wad == pytest.approx(2_000 * 0.75**0.1 * WAD, rel=3e-4)
