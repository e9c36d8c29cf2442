"""A fall with all that decisions hang on: margin calls, a depth, a witness, and levels of the book."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from eth_abi.abi import encode

from keeper.abi import load
from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.desk.port import Alarm, Judgement
from keeper.domain import Unknown
from keeper.ladder import Book
from keeper.oracles.aggregator import Aggregator
from keeper.oracles.panel import Panel
from keeper.pipeline import Params
from keeper.plan import hybrid as plan
from keeper.plan.economics import Prudence
from keeper.risk.liquidity import Depth
from keeper.units import WAD, AccountKey, Block, Wad
from tests.unit.pipeline.desk import BREACHED, Desk, confirmed, cured, flagged

BTC = "BTC/USD"
LINK = Aggregator("link", "0x" + "fe" * 20, 3_600, WAD // 200)
PANEL = Panel({BTC: (LINK,)})
DEPTH = {BTC: Depth(most_bps=20, volume_day=400_000)}
TIDE = Book(flow=(100.0, 200.0, 300.0))
"""The flow paces every step here, and leaves the level to other signs."""
PLAN = plan.Params(prudence=Prudence(depth=DEPTH))
SECOND = replace(BREACHED, key=b"\x0c" * 20 + bytes(12))
NEAR = replace(BREACHED, key=b"\x0e" * 20 + bytes(12), cash_wad=2_060 * WAD)
"""E = 1,060 of M = 1,000."""


@dataclass
class Heard:
    """What a desk was asked and said, by head and account."""

    found: dict[tuple[Block, AccountKey], Judgement[Any] | Unknown] = field(default_factory=dict)

    def deciding(self, wallet: str, taker: AccountKey, params: DeskParams) -> HybridDesk:
        """Make a desk that is listened to."""
        heard = self.found

        class Listened(HybridDesk):
            def judge(self, sitting: Any, account: AccountKey, alarm: Alarm) -> Any:
                found = HybridDesk.judge(self, sitting, account, alarm)
                heard[sitting.at.block - 1, account] = found
                return found

        return Listened(wallet, taker, replace(params, plan=PLAN))


def params() -> Params:
    """Return the parameters of the loop."""
    return Params(depth=DEPTH, tide=TIDE)


def prepare(desk: Desk) -> Heard:
    """Have a desk keep all of that in mind; it is to be started anew."""
    heard = Heard()
    desk.taping, desk.panel, desk.depth, desk.tide = True, PANEL, DEPTH, TIDE
    desk.deciding = heard.deciding  # type: ignore[assignment]
    say(desk, 202 * WAD)
    desk.start()
    return heard


def say(desk: Desk, price_wad: Wad) -> None:
    """Have the witness say a price from now on, anew in every block."""

    def answer() -> bytes:
        told = [7, price_wad // 10**10, 0, desk.chain.tip.timestamp_s, 7]
        newest = encode(["uint80", "int256", "uint256", "uint256", "uint80"], told)
        outputs = load("readers", "WitnessReader").functions["tried"].outputs
        return encode(outputs, [[newest, (8).to_bytes(32)]])

    desk.chain.witnessed = answer


async def fall(desk: Desk) -> None:
    """Two are breached, held up by a witness and by the state of the book, and taken; a third is called."""
    await desk.head(BREACHED, SECOND, NEAR)
    alarmed = [flagged(each, desk.chain.next) for each in (BREACHED, SECOND)]
    await desk.head(*alarmed, mined=True)
    for _ in range(2):
        await desk.head()
    desk.lagging = 0.5
    await desk.head()
    desk.lagging = 0.0
    say(desk, 199 * WAD)
    for _ in range(3):
        await desk.head()
    agreed = [confirmed(each, desk.chain.next) for each in alarmed]
    await desk.head(*agreed, mined=True)
    await desk.head(replace(NEAR, cash_wad=1_950 * WAD))
    taken = [replace(each, flag=replace(each.flag, tranche_nonce=1)) for each in agreed]
    await desk.head(*taken, mined=True)
    for _ in range(4):
        await desk.head()
    await desk.head(cured(taken[0]), replace(NEAR, cash_wad=2_300 * WAD))
    for _ in range(12):
        await desk.head()
