"""No sequence of inputs sends what takes of an account without an agreement that the journal tells."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eth_abi.abi import decode
from hypothesis import given
from hypothesis import strategies as st

from keeper.desk.hybrid import HybridDesk, Params, Sitting
from keeper.desk.port import Alarm, Judgement
from keeper.domain import Account, Agree, EventKind, Head, Liquidate, Step, Unknown
from keeper.protocols.hybrid.abi import load
from keeper.units import WAD, AccountKey
from tests.unit.pipeline.desk import BREACHED, KEEPER, Desk, act_of, confirmed, flagged
from tests.unit.pipeline.ticking import Ticker

BTC = "BTC/USD"
BATCH = load("Liquidator").functions["batch"]
PRICES = st.integers(170, 230).map(lambda dollars: dollars * WAD)
KEYS = [bytes([number]) * 20 + bytes(12) for number in range(60, 63)]
FAULTS = st.sampled_from(
    ["none", "forgets to ask", "takes without asking", "agrees to everything", "mixes up"]
)
EVENTS = st.one_of(
    st.tuples(st.just("tick"), PRICES),
    st.tuples(st.just("head"), st.tuples(PRICES, PRICES)),
    st.tuples(st.just("mined"), st.booleans()),
    st.tuples(st.just("reorg"), st.integers(1, 2)),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("ready"), st.none()),
    st.tuples(st.just("fault"), FAULTS),
)


@dataclass(frozen=True)
class Faulty(HybridDesk):
    """A desk that goes wrong in the way that it is told to."""

    faults: Any = None

    def judge(self, sitting: Sitting, account: AccountKey, alarm: Alarm) -> Judgement[Sitting] | Unknown:
        found = super().judge(sitting, account, alarm)
        if isinstance(found, Unknown) or account == KEEPER:
            return found
        match self.faults():
            case "forgets to ask":
                return replace(found, agreed=None)
            case "takes without asking":
                return replace(found, cared=True, decision=(_slice(sitting, account, alarm),), agreed=None)
            case "agrees to everything":
                return replace(found, agreed=Agree("nothing was asked", "faulty", account, sitting.at.block))
            case "mixes up":
                about = account if sitting.at.block % 2 else KEEPER
                return replace(found, agreed=Agree("of long ago", "mixed up", about, sitting.at.block - 1))
        return found


def _slice(sitting: Sitting, account: AccountKey, alarm: Alarm) -> Step:
    act = Liquidate(account, KEEPER, 0, sitting.at.timestamp_s + 60, 0, WAD, 0)
    return Step(alarm.case_id, act, sitting.at.block + 3, 1_000_000, 0)


def going_wrong(desk: Desk, faults: Callable[[], str]) -> None:
    """Have a desk decide that goes wrong as ``faults`` says, and start anew with it."""

    def deciding(wallet: str, taker: AccountKey, params: Params) -> Faulty:
        return Faulty(wallet, taker, params, None, faults)

    desk.deciding = deciding  # type: ignore[assignment]
    desk.start()


def breached(tip: Head) -> tuple[Account, Account, Account]:
    """Return accounts in breach at 200, healthy, flagged and confirmed."""
    healthy, alarmed, closing = (replace(BREACHED, key=key) for key in KEYS)
    return healthy, flagged(alarmed, tip), confirmed(flagged(closing, tip), tip)


def sent(desk: Desk) -> dict[str, str]:
    """Return what every transaction that was signed does, by its steps: those of a batch in its own order."""
    query = "SELECT step_id, unsigned_tx FROM steps WHERE tx_hash IS NOT NULL AND place = 0"
    found: dict[str, str] = {}
    for row in desk.journal._rows(query):
        data = bytes.fromhex(json.loads(row["unsigned_tx"])["data"].removeprefix("0x"))
        carried = [each.step_id for each in desk.journal.step(row["step_id"]).carries]
        calls = decode(BATCH.inputs, data[4:])[0] if data[:4] == BATCH.selector else [data]
        found |= zip((row["step_id"], *carried), map(act_of, calls), strict=True)
    return found


async def test_a_desk_that_asks_nobody_is_refused_at_the_door(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    going_wrong(desk, lambda: "takes without asking")
    await desk.head(*breached(desk.chain.tip))
    assert desk.acts() == []
    assert {desk.told(case)[-1] for case in range(3)} == {"Refused limit.agreement"}
    desk.close()


async def test_an_agreement_of_another_block_is_refused_at_the_door(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    going_wrong(desk, lambda: "mixes up")
    await desk.head(*breached(desk.chain.tip))
    await desk.head()
    assert "Refused limit.agreement" in desk.told(2)
    desk.close()


@given(events=st.lists(EVENTS, max_size=10), batch=st.sampled_from([1, 3]))
async def test_nothing_is_taken_without_a_recorded_agreement(
    events: list[tuple[str, Any]], batch: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder) / "journal.sqlite", restarting=False)
        fault, desk.batch = "none", batch
        feed = desk.feed = Ticker(desk.chain)
        going_wrong(desk, lambda: fault)
        await desk.head(*breached(desk.chain.tip))
        for what, how in events:
            match what:
                case "tick":
                    desk.pipeline.on_tick(feed.move(BTC, how))
                    await desk.pipeline.on_alarm()
                case "head":
                    desk.chain.fast[BTC], desk.chain.slow[BTC] = how
                    await desk.head()
                case "mined":
                    await desk.head(mined=True, status=int(how))
                case "reorg" if len(desk.chain.heads) > how + 1:
                    await desk.head(reorg=how)
                case "restart":
                    desk.start()
                    await desk.head()
                case "ready":
                    await desk.pipeline.prepare()
                case "fault":
                    fault = how
        history = [event for case in range(len(desk.cases())) for event in desk.history(case)]
        agreed = {
            event.data["step_id"]
            for event in history
            if event.kind is EventKind.RESERVED and event.data.get("agreed")
        }
        mixed_up = (event for event in history if event.data.get("agreed", {}).get("policy") == "mixed up")
        assert not any(event.data["closes"] for event in mixed_up)
        # What went out, by its own calldata, and not by what the keeper calls it.
        taking = {step for step, act in sent(desk).items() if act in {"liquidate", "buyCollateral"}}
        assert taking <= agreed
        assert not any("no agreement" in each for each in desk.violations())
        desk.close()
