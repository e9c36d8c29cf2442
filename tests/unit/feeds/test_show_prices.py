"""What `keeper prices` shows, and what the doctor says of venues."""

import asyncio
import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from keeper.doctor import examine
from keeper.doctor.examine import hear, look_at_venues
from keeper.doctor.finding import Mark
from keeper.domain import Quote, Unknown
from keeper.feeds import LiveComposite, Source, show
from keeper.feeds.composite import Composite, Params
from keeper.feeds.socket import wall_ms
from keeper.feeds.venues import VENUES
from keeper.units import WAD
from tests.stub_venues import StubVenues

KNOWN = Composite(
    Quote("ETH/USD", 3_000_120 * WAD // 1000, 100, 7, 3),
    ("kraken", "coinbase"),
    {"okx": "not connected [yet]"},
)
NONE = Composite(Unknown("BTC/USD", "0 of 1 venues agree, 1 needed; okx: x"), (), {"okx": "x"})
BOTH = {"ETH/USD": KNOWN, "BTC/USD": NONE}


def test_a_line_has_every_digit_and_every_reason() -> None:
    assert json.loads(show.line_of(BOTH, {"okx": {"refusal": 1}}, 12)) == {
        "at_s": 12,
        "faults": {"okx": {"refusal": 1}},
        "feeds": {
            "ETH/USD": {
                "price": "3000.12",
                "observed_at_s": 100,
                "confidence_bps": 7,
                "dispersion_bps": 3,
                "used": ["kraken", "coinbase"],
                "dropped": {"okx": "not connected [yet]"},
            },
            "BTC/USD": {
                "price": None,
                "why": "0 of 1 venues agree, 1 needed; okx: x",
                "used": [],
                "dropped": {"okx": "x"},
            },
        },
    }


@pytest.mark.parametrize(
    ("price_wad", "text"),
    [
        (1, "0.000000000000000001"),
        (10 * WAD, "10"),
        (12345678901234567890_123456789012345678, "12345678901234567890.123456789012345678"),
    ],
)
def test_a_price_is_shown_with_all_its_digits(price_wad: int, text: str) -> None:
    composite = Composite(Quote("X/USD", price_wad, 1), ("okx",), {})
    assert json.loads(show.line_of({"X/USD": composite}, {}, 1))["feeds"]["X/USD"]["price"] == text


def test_a_table_shows_the_same_to_a_person() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(show.table_of({**BOTH, "X/USD": Composite(Unknown("X/USD", "too old"), (), {})}))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for words in ("3000.12", "kraken, coinbase", "okx: not connected [yet]", "unknown", "too old"):
        assert words in shown


def test_the_doctor_names_the_venues_of_each_price_and_why_others_are_left_out() -> None:
    [one] = look_at_venues(BOTH, "mend it")
    assert (one.what, one.mark, one.mend) == ("price source ETH/USD", Mark.WARN, "mend it")
    assert one.found == "3,000.12 of kraken, coinbase; without okx: not connected [yet]"
    [well] = look_at_venues({"ETH/USD": Composite(KNOWN.quote, KNOWN.used, {})}, "mend it")
    assert (well.mark, well.mend) == (Mark.OK, "")


async def telling(stubs: StubVenues) -> None:
    """Say a price on Kraken again and again, as of now."""
    while True:
        await stubs.kraken.say(*stubs.kraken.quote("ETH/USD", "3000", "3000", wall_ms()))
        await asyncio.sleep(0.02)


def feed_of(stubs: StubVenues, *venues: str) -> LiveComposite:
    named = {"kraken": "ETH/USD", "coinbase": "ETH-USD"}
    return LiveComposite(
        {"ETH/USD": [Source(venue, named[venue]) for venue in venues]},
        Params(min_venues=1),
        urls=stubs.urls,
        venues={name: replace(venue, pace_s=0.001) for name, venue in VENUES.items()},
    )


async def test_the_doctor_waits_until_all_venues_are_heard_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examine, "HEAR_S", 0.3)
    async with StubVenues() as stubs:
        task = asyncio.create_task(telling(stubs))
        assert (await hear(feed_of(stubs, "kraken")))["ETH/USD"].used == ("kraken",)
        silent = (await hear(feed_of(stubs, "kraken", "coinbase")))["ETH/USD"]
        task.cancel()
    assert silent.used == ("kraken",)
    assert silent.dropped == {"coinbase": "connected, nothing heard yet"}


async def test_prices_are_shown_again_and_again_until_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "EVERY_S", 0.05)
    console = Console(file=io.StringIO())
    assert isinstance(console.file, io.StringIO)
    async with StubVenues() as stubs:
        task = asyncio.create_task(telling(stubs))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(show.show(feed_of(stubs, "kraken"), console), 0.4)
        task.cancel()
    lines = [json.loads(line) for line in console.file.getvalue().splitlines()]
    assert len(lines) >= 3
    assert lines[-1]["feeds"]["ETH/USD"]["price"] == "3000"
