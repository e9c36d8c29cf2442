"""Live feeds against servers that speak the venues' documented messages, over real sockets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from keeper.domain import Quote, Unknown
from keeper.feeds import live
from keeper.feeds import socket as lines
from keeper.feeds.composite import Composite, Params, compose
from keeper.feeds.live import LiveComposite, Source
from keeper.feeds.socket import LIMITED_S, LONGEST_LIMIT_S, LONGEST_WAIT_S, limit_s, pause_s
from keeper.feeds.venues import VENUES
from keeper.units import WAD, FeedId
from tests.stub_venues import PATIENCE_S, PYTH_ID, StubVenues

NOW_MS = 1_700_000_000_500
ETH = "ETH/USD"
SYMBOLS = {
    "binance": "ETHUSDT",
    "coinbase": "ETH-USD",
    "kraken": "ETH/USD",
    "okx": "ETH-USDT",
    "pyth": PYTH_ID,
}
SOCKETS = ("binance", "coinbase", "kraken", "okx")
DOLLAR = [Source("kraken", "USDT/USD")]
EVERY_VENUE = pytest.mark.parametrize("name", SYMBOLS)
EVERY_SOCKET = pytest.mark.parametrize("name", SOCKETS)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PING_S", PATIENCE_S / 8)


@pytest.fixture
async def stubs() -> AsyncIterator[StubVenues]:
    async with StubVenues() as servers:
        yield servers


def sources_of(name: str) -> dict[str, list[Source]]:
    """One venue for ether; where it is quoted in tether, that comes from Kraken."""
    if name in {"binance", "okx"}:
        return {ETH: [Source(name, SYMBOLS[name], "USDT/USD")], "USDT/USD": DOLLAR}
    return {ETH: [Source(name, SYMBOLS[name])]}


class Fixture:
    """A live feed whose clock is set by hand."""

    def __init__(self, stubs: StubVenues, sources: Mapping[str, list[Source]], **changed: Any) -> None:
        self.now_ms = NOW_MS
        self.stubs = stubs
        changes = {"pace_s": 0.001, **changed}
        self.feed = LiveComposite(
            sources,
            Params(min_venues=1),
            urls=stubs.urls,
            venues={name: replace(venue, **changes) for name, venue in VENUES.items()},
            clock_ms=lambda: self.now_ms,
            pause=lambda _: 0.001,
        )

    def of(self, feed: str = ETH) -> Composite:
        return self.feed.composites()[feed]

    def price(self, feed: str = ETH) -> int | None:
        quote = self.of(feed).quote
        return quote.price_wad if isinstance(quote, Quote) else None

    def why(self, feed: str = ETH) -> str:
        quote = self.of(feed).quote
        assert isinstance(quote, Unknown)
        return quote.why

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(3):
            while not holds():  # noqa: ASYNC110  # what is waited for is in another task's hands
                await asyncio.sleep(0.002)

    async def subscribed(self, name: str, times: int = 1) -> None:
        """Wait until the venue is connected, and all that is wanted was asked for."""
        stub = self.stubs.by_name[name]
        await self.until(lambda: stub.opened >= times and "nothing heard" in json.dumps(self.dropped(name)))
        if name == "pyth":
            return
        wanted = [s.symbol for named in self.feed._sources.values() for s in named if s.venue == name]
        await self.until(lambda: all(any(w in t or w.lower() in t for _, t in stub.said) for w in wanted))

    def dropped(self, name: str) -> list[Any]:
        return [composite.dropped.get(name) for composite in self.feed.composites().values()]

    async def say(self, name: str, bid: str = "3000", ask: str = "3002", at_ms: int | None = None) -> None:
        stub = self.stubs.by_name[name]
        await stub.say(*stub.quote(SYMBOLS[name], bid, ask, self.now_ms if at_ms is None else at_ms))

    async def say_dollar(self, price: str = "1") -> None:
        await self.stubs.kraken.say(*self.stubs.kraken.quote("USDT/USD", price, price, self.now_ms))


@asynccontextmanager
async def listening(stubs: StubVenues, name: str, **changed: Any) -> AsyncIterator[Fixture]:
    """Hear one venue until its first quote is in."""
    fixture = Fixture(stubs, sources_of(name), **changed)
    async with fixture.feed.listening():
        await fixture.subscribed(name)
        if "USDT/USD" in fixture.feed.latest(0):
            await fixture.subscribed("kraken")
            await fixture.say_dollar()
            await fixture.until(lambda: fixture.price("USDT/USD"))
        await fixture.say(name)
        await fixture.until(fixture.price)
        yield fixture


@EVERY_VENUE
async def test_a_quote_of_every_venue_is_heard_exactly(stubs: StubVenues, name: str) -> None:
    async with listening(stubs, name) as live:
        await live.say(name, "3000.12", "3000.14")
        await live.until(lambda: live.price() != 3_001 * WAD)
        assert live.price() == 300_013 * WAD // 100
        quote = live.of().quote
        assert isinstance(quote, Quote)
        assert quote.observed_at_s == NOW_MS // 1000
        assert live.of().used == (name,)
        assert live.feed.faults[name] == {}


@EVERY_VENUE
async def test_a_connection_that_is_lost_takes_its_quotes_along_and_is_made_again(
    stubs: StubVenues, name: str
) -> None:
    async with listening(stubs, name) as live:
        opened = stubs.by_name[name].opened
        await stubs.by_name[name].hang_up()
        await live.until(lambda: live.price() is None)
        assert "connected" in live.why()
        await live.subscribed(name, opened + 1)
        await asyncio.sleep(0.01)
        await live.say(name, "3100", "3100")
        await live.until(lambda: live.price() == 3_100 * WAD)


GARBAGE: tuple[str | bytes, ...] = (
    *("", "hello", "null", "7", "[]", "{}", '"pong', '{"channel":', "[" * 5000, '{"data":[{}]}', "NaN"),
    *('{"channel":"ticker","type":"update","data":7}', '{"stream":"ethusdt@bookTicker","data":{}}'),
    *('{"arg":{"channel":"bbo-tbt"},"data":[{"asks":[]}]}', '{"parsed":[{"id":7,"price":{}}]}'),
    *('{"channel":"ticker","sequence_num":"x"}', b"\xff\xfe\x00", b"\x80" * 100),
)


@EVERY_VENUE
async def test_garbage_is_counted_and_named_and_ends_nothing(stubs: StubVenues, name: str) -> None:
    with capture_logs() as logs:
        await hear_garbage(stubs, name)
    told = [each["faults"] for each in logs if each["event"] == "feed.faults" and each["venue"] == name]
    assert [sum(faults.values()) for faults in told] in ([1], [1, 10])


async def hear_garbage(stubs: StubVenues, name: str) -> None:
    async with listening(stubs, name) as live:
        stub = stubs.by_name[name]
        whole = stub.quote(SYMBOLS[name], "1", "1", NOW_MS)[-1]
        stub.number -= 1
        for message in (*GARBAGE, whole[: len(whole) // 2]):
            await stub.say(message)
        await live.say(name, "3100", "3100")
        await live.until(lambda: live.price() == 3_100 * WAD)
        assert stub.opened == 1
        assert sum(live.feed.faults[name].values()) >= 5
        assert all("malformed" in what for what in live.feed.faults[name])


@EVERY_VENUE
async def test_a_symbol_that_was_not_asked_for_is_counted_and_changes_nothing(
    stubs: StubVenues, name: str
) -> None:
    async with listening(stubs, name) as live:
        stub = stubs.by_name[name]
        await stub.say(*stub.quote("DOGE", "7", "7", NOW_MS))
        await live.until(lambda: live.feed.faults[name].get("symbol that was not asked for"))
        assert live.price() == 3_001 * WAD


@EVERY_VENUE
async def test_old_and_future_quotes_are_dropped_and_named(stubs: StubVenues, name: str) -> None:
    async with listening(stubs, name) as live:
        await live.say(name, at_ms=NOW_MS + 2_000)
        await live.until(lambda: live.price() is None)
        assert "ms in the future, bound 500 ms" in live.why()
        await live.say(name, at_ms=NOW_MS - 5_000)
        await live.until(lambda: "ms old, bound 3000 ms" in live.why())
        await live.say(name)
        await live.until(live.price)
        live.now_ms += 3_600
        assert f"{name}: " in live.why() or "USDT/USD is unknown" in live.why()


@EVERY_VENUE
@pytest.mark.parametrize("bad", [("0", "3000"), ("-1", "3000"), ("3002", "3000"), ("1e99", "1e99")])
async def test_a_quote_that_is_none_takes_the_one_before_away(
    stubs: StubVenues, name: str, bad: tuple[str, str]
) -> None:
    async with listening(stubs, name) as live:
        await live.say(name, *bad)
        await live.until(lambda: live.price() is None)
        assert stubs.by_name[name].opened == 1
        await live.say(name)
        await live.until(lambda: live.price() == 3_001 * WAD)


@EVERY_VENUE
async def test_a_venue_that_answers_429_is_left_alone_for_as_long_as_it_says(
    stubs: StubVenues, name: str
) -> None:
    stubs.by_name[name].refusals.append((429, {"Retry-After": "7"}))
    live = Fixture(stubs, sources_of(name))
    with capture_logs() as logs:
        async with live.feed.listening():
            await live.until(lambda: "HTTP status 429" in json.dumps(live.dropped(name)))
    [lost] = [each for each in logs if each.get("venue") == name]
    assert lost["event"] == "feed.line_lost"
    assert (lost["why"], lost["wait_s"]) == ("HTTP status 429", 7.0)


@pytest.mark.parametrize(
    ("asked", "pause"),
    [(None, LIMITED_S), ("12", 12.0), ("0", 0.0), ("99999999", LONGEST_LIMIT_S), ("-5", LIMITED_S)],
)
def test_a_retry_after_is_a_bounded_number_of_seconds(asked: str | None, pause: float) -> None:
    assert limit_s(asked) == pause
    assert limit_s("Wed, 21 Oct 2015 07:28:00 GMT") == LIMITED_S


def test_pauses_are_drawn_from_a_range_that_doubles_up_to_a_bound() -> None:
    for attempt, bound in [(0, 1.0), (1, 2.0), (4, 16.0), (5, LONGEST_WAIT_S), (10_000, LONGEST_WAIT_S)]:
        drawn = [pause_s(attempt) for _ in range(200)]
        assert 0 <= min(drawn) < bound / 4
        assert bound / 2 < max(drawn) <= bound


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coinbase", '{"type":"error","message":"rate limit exceeded"}'),
        ("kraken", '{"error":"Exceeded msg rate","method":"subscribe","success":false}'),
        ("okx", '{"event":"error","code":"60014","msg":"Requests too frequent","connId":"a"}'),
        ("binance", None),
    ],
)
async def test_a_venue_that_says_it_is_asked_too_often_is_left_alone(
    stubs: StubVenues, name: str, message: str | None
) -> None:
    with capture_logs() as logs:
        async with listening(stubs, name) as live:
            stub = stubs.by_name[name]
            await (stub.say(message) if message else stub.hang_up(code=1008))
            await live.until(lambda: "asked too often" in json.dumps(live.dropped(name)))
    assert [each["wait_s"] for each in logs if each.get("venue") == name] == [LIMITED_S]


@pytest.mark.parametrize("name", ["binance", "okx"])
async def test_pings_are_answered_and_the_connection_lasts(stubs: StubVenues, name: str) -> None:
    """The server closes whoever does not answer: see the next test."""
    async with listening(stubs, name) as live:
        await asyncio.sleep(PATIENCE_S * 1.5)
        assert stubs.by_name[name].opened == 1
        assert live.price() == 3_001 * WAD


@EVERY_SOCKET
async def test_the_server_of_these_tests_closes_who_does_not_answer(stubs: StubVenues, name: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(stubs.urls[name], autoping=False) as socket,
        asyncio.timeout(3),
    ):
        ends = {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}
        while (await socket.receive()).type not in ends:
            pass


@EVERY_VENUE
async def test_a_silent_connection_is_given_up(stubs: StubVenues, name: str) -> None:
    # OKX answers our pings, and so is never silent: there the venue is made to have none.
    async with listening(stubs, name, silence_s=0.05, ping=None) as live:
        await live.until(lambda: stubs.by_name[name].opened >= 2)


@EVERY_VENUE
async def test_a_message_without_end_ends_the_connection(
    stubs: StubVenues, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MESSAGE_BYTES", 4_096)
    async with listening(stubs, name) as live:
        await stubs.by_name[name].say('"' + "x" * 10_000)
        await live.until(lambda: stubs.by_name[name].opened >= 2)


async def test_a_lost_message_of_coinbase_drops_every_quote_of_the_connection(stubs: StubVenues) -> None:
    live = Fixture(stubs, {ETH: [Source("coinbase", "ETH-USD")], "BTC/USD": [Source("coinbase", "BTC-USD")]})
    coinbase = stubs.coinbase
    async with live.feed.listening():
        await live.subscribed("coinbase")
        await coinbase.say(*coinbase.quote("BTC-USD", "60000", "60000", NOW_MS))
        await live.say("coinbase")
        await live.until(lambda: live.price() and live.price("BTC/USD"))
        await coinbase.say(coinbase.heartbeat())
        coinbase.heartbeat()  # is lost
        await live.say("coinbase", "3100", "3100")
        await live.until(lambda: live.price() == 3_100 * WAD)
        assert "a gap in its sequence" in live.why("BTC/USD")
        assert live.feed.faults["coinbase"] == {"gap in the sequence": 1}
        await coinbase.say(*coinbase.quote("BTC-USD", "61000", "61000", NOW_MS))
        await live.until(lambda: live.price("BTC/USD") == 61_000 * WAD)


async def test_a_lost_trade_of_binance_drops_the_quote_until_the_next_one(stubs: StubVenues) -> None:
    async with listening(stubs, "binance") as live:
        trade, _ = stubs.binance.quote("ETHUSDT", "3100", "3100", NOW_MS)
        await stubs.binance.say(trade)
        await asyncio.sleep(0.02)
        assert live.price() == 3_001 * WAD
        stubs.binance.number += 1
        trade, book = stubs.binance.quote("ETHUSDT", "3100", "3100", NOW_MS)
        await stubs.binance.say(trade)
        await live.until(lambda: live.price() is None)
        assert "a gap in its sequence" in live.why()
        await stubs.binance.say(book)
        await live.until(lambda: live.price() == 3_100 * WAD)


@pytest.mark.parametrize("name", ["binance", "okx", "pyth"])
async def test_a_sequence_that_falls_back_drops_the_quote_until_it_goes_on(
    stubs: StubVenues, name: str
) -> None:
    async with listening(stubs, name) as live:
        stub = stubs.by_name[name]
        older = stub.quote(SYMBOLS[name], "2900", "2900", NOW_MS)[-1]
        await live.say(name, "3100", "3100")
        await live.until(lambda: live.price() == 3_100 * WAD)
        await stub.say(older)
        await live.until(lambda: live.price() is None)
        assert "its sequence fell back" in live.why()
        await live.say(name)
        await live.until(live.price)


async def heartbeat(live: Fixture) -> None:
    live.now_ms += 1
    await live.stubs.kraken.say('{"channel":"heartbeat"}')
    await live.until(lambda: live.feed._heard["kraken"].stands_ms == live.now_ms)


async def test_a_quote_stands_while_its_venue_lives_but_not_for_ever(stubs: StubVenues) -> None:
    async with listening(stubs, "kraken") as live:
        for _ in range(5):
            live.now_ms += 2_900
            await heartbeat(live)
            assert live.price() == 3_001 * WAD
        live.now_ms += 3_100
        assert "3100 ms old, bound 3000 ms" in live.why()
        live.now_ms = NOW_MS + 60_000
        await heartbeat(live)
        assert "unchanged for 60001 ms, bound 60000 ms" in live.why()


async def test_a_venue_that_halts_is_not_believed(stubs: StubVenues) -> None:
    async with listening(stubs, "kraken") as live:
        await stubs.kraken.say(stubs.kraken.status("maintenance"))
        await live.until(lambda: live.price() is None)
        assert "its system is maintenance" in live.why()
        await live.say("kraken", "3100", "3100")
        await heartbeat(live)
        assert "its system is maintenance" in live.why()
        await stubs.kraken.say(stubs.kraken.status("online"))
        await live.say("kraken", "3100", "3100")
        await live.until(lambda: live.price() == 3_100 * WAD)


async def test_what_a_venue_says_ends_no_line_and_steers_no_terminal(stubs: StubVenues) -> None:
    async with listening(stubs, "kraken") as live:
        await stubs.kraken.say(stubs.kraken.status("\x1b[2J\nonline"))
        await live.until(lambda: live.price() is None)
        assert live.why().isprintable()


@pytest.mark.parametrize("name", ["coinbase", "kraken", "okx", "pyth"])
async def test_a_symbol_that_the_venue_does_not_have_is_named(stubs: StubVenues, name: str) -> None:
    symbol = {"coinbase": "NO-USD", "kraken": "NO/USD", "okx": "NO-USD", "pyth": "ab" * 32}[name]
    live = Fixture(stubs, {"NO/USD": [Source(name, symbol)]})
    words = {"coinbase": "product not found", "kraken": "not supported", "okx": "60018", "pyth": "404"}[name]
    async with live.feed.listening():
        await live.until(lambda: words in json.dumps(live.dropped(name)))


async def test_what_is_quoted_in_tether_goes_by_the_price_of_tether(stubs: StubVenues) -> None:
    async with listening(stubs, "okx") as live:
        await live.say_dollar("0.9")
        await live.until(lambda: live.price() == 27_009 * WAD // 10)
        await stubs.kraken.hang_up()
        await live.until(lambda: live.price() is None)
        assert "okx: USDT/USD is unknown" in live.why()


async def test_subscriptions_go_out_at_a_bounded_pace(stubs: StubVenues) -> None:
    named = {"BTC/USD": [Source("coinbase", "BTC-USD")], ETH: [Source("coinbase", "ETH-USD")]}
    live = Fixture(stubs, named, pace_s=0.05)
    async with live.feed.listening():
        await live.until(lambda: len(stubs.coinbase.said) == 3)
    times = [at for at, _ in stubs.coinbase.said]
    assert all(after - before > 0.04 for before, after in pairwise(times))
    assert all(1 / venue.pace_s <= 5 for venue in VENUES.values())


def test_nothing_is_composed_again_at_once_without_news_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[FeedId] = []
    now_ms = 1_000

    def counted(feed: FeedId, *asked: Any) -> Composite:
        composed.append(feed)
        return compose(feed, *asked)

    monkeypatch.setattr(live, "compose", counted)
    sources = {
        "USDT/USD": [Source("kraken", "USDT/USD")],
        "BTC/USD": [Source("binance", "BTCUSDT", "USDT/USD")],
        ETH: [Source("okx", "ETH-USD")],
    }
    feed = LiveComposite(sources, Params(min_venues=1), clock_ms=lambda: now_ms)

    def newly() -> list[FeedId]:
        composed.clear()
        feed.latest(0)
        return sorted(composed)

    assert newly() == []
    now_ms += live.SAME_MS - 1
    assert newly() == []
    now_ms += 1
    assert (newly(), newly()) == (sorted(sources), [])
    feed._on_news("okx", ["ETH-USD"], 0)
    assert newly() == [ETH]
    # What is quoted in it follows a price.
    feed._on_news("kraken", ["USDT/USD"], 0)
    assert newly() == ["BTC/USD", "USDT/USD"]
    now_ms -= 1
    assert newly() == sorted(sources)


async def test_a_tick_is_a_price_that_moved_by_the_arrival_of_the_first_message(stubs: StubVenues) -> None:
    async with listening(stubs, "kraken") as live:
        await asyncio.wait_for(live.feed.tick(), 1)
        waiting = asyncio.create_task(live.feed.tick())
        await live.say("kraken")
        await stubs.kraken.say('{"channel":"heartbeat"}')
        await asyncio.sleep(0.02)
        assert not waiting.done(), "the same price again is no tick"
        before_ns = time.monotonic_ns()
        await live.say("kraken", "3003", "3003")
        assert before_ns < await asyncio.wait_for(waiting, 1) < time.monotonic_ns()
        before_ns = time.monotonic_ns()
        await live.say("kraken", "3004", "3004")
        await live.until(lambda: live.price() == 3_004 * WAD)
        between_ns = time.monotonic_ns()
        await live.say("kraken", "3005", "3005")
        await live.until(lambda: live.price() == 3_005 * WAD)
        assert before_ns < await asyncio.wait_for(live.feed.tick(), 1) < between_ns
        waiting = asyncio.create_task(live.feed.tick())
        await asyncio.sleep(0.01)
        assert not waiting.done(), "one tick answered for both"
        await stubs.kraken.hang_up()
        await asyncio.wait_for(waiting, 1)


async def test_a_price_that_moves_moves_what_is_quoted_in_it(stubs: StubVenues) -> None:
    async with listening(stubs, "okx") as live:
        await asyncio.wait_for(live.feed.tick(), 1)
        waiting = asyncio.create_task(live.feed.tick())
        await live.say_dollar("0.99")
        await asyncio.wait_for(waiting, 1)
        assert live.feed._last[ETH] == 3_001 * WAD * 99 // 100


async def test_all_tasks_end_with_the_context_and_a_key_is_never_logged(
    stubs: StubVenues, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "5e" * 16
    monkeypatch.setattr(StubVenues, "urls", {"pyth": f"{stubs.urls['pyth']}/{secret}?key={secret}"})
    with capture_logs() as logs:
        async with listening(stubs, "pyth") as live:
            assert any("keeper/feeds" in repr(task) for task in asyncio.all_tasks())
            assert [query.count(secret) for query in stubs.pyth.queries] == [2]
            stubs.pyth.refusals.append((500, {}))
            await stubs.pyth.hang_up()
            await live.until(lambda: stubs.pyth.opened >= 2)
    assert len(logs) >= 2
    assert secret not in repr(logs)
    assert secret not in repr(live.feed.latest(0))
    assert [task for task in asyncio.all_tasks() if "keeper/feeds" in repr(task)] == []
