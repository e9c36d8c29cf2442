"""Whatever ticks come between the heads, nothing is taken without the agreement of both clocks."""

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from keeper.domain import Account, Head
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, Desk, confirmed, flagged
from tests.unit.pipeline.ticking import Ticker

BTC = "BTC/USD"
PRICES = st.integers(150, 250).map(lambda dollars: dollars * WAD)
KEYS = [bytes([number]) * 20 + bytes(12) for number in range(60, 63)]
EVENTS = st.one_of(
    st.tuples(st.just("tick"), PRICES),
    st.tuples(st.just("head"), st.tuples(PRICES, PRICES)),
    st.tuples(st.just("ready"), st.none()),
)


def breached(tip: Head) -> tuple[Account, Account, Account]:
    """Return accounts in breach at 200, healthy, flagged and confirmed."""
    healthy, alarmed, closing = (replace(BREACHED, key=key) for key in KEYS)
    return healthy, flagged(alarmed, tip), confirmed(flagged(closing, tip), tip)


@given(events=st.lists(EVENTS, max_size=12))
async def test_a_tick_alone_takes_nothing(events: list[tuple[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder) / "journal.sqlite", restarting=False)
        feed = desk.feed = Ticker(desk.chain)
        desk.start()
        desk.chain.slow[BTC] = 250 * WAD
        await desk.head(*breached(desk.chain.tip))
        for what, how in events:
            before = desk.acts()
            match what, how:
                case "tick", int(price):
                    heard_ns = feed.move(BTC, price)
                    if desk.pipeline.on_news(heard_ns):
                        await desk.pipeline.on_alarm()
                    desk.pipeline.on_tick(heard_ns)
                    await desk.pipeline.on_alarm()
                    assert set(desk.acts()[len(before) :]) <= {"flag"}
                case "head", (int(fast), int(slow)):
                    desk.chain.fast[BTC], desk.chain.slow[BTC] = fast, slow
                    await desk.head()
                case _:
                    await desk.pipeline.prepare()
                    assert desk.acts() == before
        assert desk.violations() == []
        desk.close()
