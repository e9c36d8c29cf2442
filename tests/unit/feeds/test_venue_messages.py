"""What venues say, message by message, as their documentation shows it."""

import json

import pytest

from keeper.feeds.venues import VENUES
from keeper.feeds.venues.words import (
    MALFORMED,
    Dated,
    Event,
    Halted,
    Limited,
    Numbered,
    Refused,
    Told,
    Unreadable,
    ms_of_rfc3339,
    number_of,
    wad_of,
)
from keeper.units import WAD

CENT = WAD // 100
ID = "e62df6c8b4a85fe1a67db44dc12de5db330f7ac66b72dc658afedf0f4a415b43"
BOOK = """{"stream":"bnbusdt@bookTicker","data":
  {"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21","a":"25.36520000","A":"40.66"}}"""
TRADE = """{"stream":"bnbusdt@aggTrade","data":{"e":"aggTrade","E":1672515782136,"s":"BNBUSDT","a":12345,
  "p":"0.001","q":"100","f":100,"l":105,"T":1672515782136,"m":true,"M":true}}"""
COINBASE = """{"channel":"ticker","client_id":"","timestamp":"2023-02-09T20:30:37.167359596Z",
  "sequence_num":0,"events":[{"type":"snapshot","tickers":[{"type":"ticker","product_id":"BTC-USD","price":"21932.98",
  "volume_24_h":"16038.28770938","low_24_h":"21835.29","high_24_h":"23011.18","low_52_w":"15460",
  "high_52_w":"48240","price_percent_chg_24_h":"-4.15775596190603","best_bid":"21931.98",
  "best_bid_quantity":"8000.21","best_ask":"21933.98","best_ask_quantity":"8038.07770938"}]}]}"""
HEARTBEATS = """{"channel":"heartbeats","client_id":"","timestamp":"2023-06-23T20:31:26.122969572Z",
  "sequence_num":4,"events":[{"current_time":"2023-06-23 20:31:56 +0000 UTC","heartbeat_counter":"3049"}]}"""
KRAKEN = """{"channel":"ticker","type":"%s","data":[{"symbol":"ALGO/USD","bid":0.10025,"bid_qty":740.0,
  "ask":0.10036,"ask_qty":1361.44813783,"last":0.10035,"volume":997038.98383185,"vwap":0.10148,"low":0.09979,
  "high":0.10285,"change":-0.00017,"change_pct":-0.17,"timestamp":"2023-09-25T09:04:31.742648Z"}]}"""
OKX = """{"arg":{"channel":"bbo-tbt","instId":"BCH-USDT"},"data":[{"asks":[["111.06","55154","0","2"]],
  "bids":[["111.05","57745","0","2"]],"ts":"1670324386802","seqId":363996337}]}"""
PYTH = f"""{{"binary":{{"data":["string"],"encoding":"hex"}},"parsed":[{{"ema_price":{{"conf":"1","expo":-8,
  "price":"9","publish_time":1717632000}},"id":"{ID}","metadata":{{"prev_publish_time":1717632000,
  "proof_available_time":1717632000,"slot":85480034}},"price":{{"conf":"509500001","expo":-8,
  "price":"2920679499999","publish_time":1717632000}}}}]}}"""


@pytest.mark.parametrize(
    ("venue", "message", "events"),
    [
        ("binance", BOOK, [Told("BNBUSDT", 253_519 * WAD // 10**4, 253_652 * WAD // 10**4, None, 400900217)]),
        ("binance", TRADE, [Numbered(12345, "BNBUSDT"), Dated("BNBUSDT", 1672515782136)]),
        ("binance", '{"result":null,"id":1}', []),
        ("binance", '{"stream":"bnbusdt@kline_1m","data":{"s":"BNBUSDT"}}', []),
        ("binance", '{"e":"serverShutdown","E":1770123456789}', []),
        ("binance", '{"error":{"code":2,"msg":"Invalid request"},"id":1}', [Refused("2 Invalid request")]),
        ("binance", '{"code":3,"msg":"Invalid JSON"}', [Refused("3 Invalid JSON")]),
        (
            "coinbase",
            COINBASE,
            [Numbered(0), Told("BTC-USD", 2_193_198 * CENT, 2_193_398 * CENT, 1675974637167, None)],
        ),
        ("coinbase", HEARTBEATS, [Numbered(4)]),
        (
            "coinbase",
            '{"channel":"subscriptions","sequence_num":1,"events":[{"subscriptions":{"ticker":["X"]}}]}',
            [Numbered(1)],
        ),
        ("coinbase", '{"type":"error","message":"no such product"}', [Refused("no such product")]),
        ("coinbase", '{"type":"error","message":"Rate limit exceeded"}', [Limited("Rate limit exceeded")]),
        (
            "kraken",
            KRAKEN % "update",
            [Told("ALGO/USD", 10_025 * WAD // 10**5, 10_036 * WAD // 10**5, 1695632671742, None)],
        ),
        (
            "kraken",
            KRAKEN % "snapshot",
            [Told("ALGO/USD", 10_025 * WAD // 10**5, 10_036 * WAD // 10**5, None, None)],
        ),
        ("kraken", '{"channel":"heartbeat"}', []),
        ("kraken", '{"method":"pong","req_id":101,"time_in":"2023-09-24T14:10:23.799685Z"}', []),
        ("kraken", '{"method":"subscribe","result":{"channel":"ticker"},"success":true}', []),
        ("kraken", '{"channel":"status","type":"update","data":[{"system":"online"}]}', [Halted("")]),
        (
            "kraken",
            '{"channel":"status","type":"update","data":[{"system":"cancel_only"}]}',
            [Halted("its system is cancel_only")],
        ),
        (
            "kraken",
            '{"error":"Currency pair not supported","method":"subscribe","success":false,"symbol":"NO/USD"}',
            [Refused("Currency pair not supported", "NO/USD")],
        ),
        ("kraken", '{"error":"Exceeded msg rate","success":false}', [Limited("Exceeded msg rate")]),
        (
            "okx",
            OKX,
            [Told("BCH-USDT", 11_105 * WAD // 100, 11_106 * WAD // 100, 1670324386802, 363996337)],
        ),
        ("okx", "pong", []),
        ("okx", '{"event":"subscribe","arg":{"channel":"bbo-tbt","instId":"BTC-USDT"},"connId":"a"}', []),
        (
            "okx",
            '{"event":"notice","code":"64008","msg":"The connection will soon be closed","connId":"a"}',
            [],
        ),
        ("okx", '{"event":"error","code":"60018","msg":"no such","connId":"a"}', [Refused("60018 no such")]),
        ("okx", '{"event":"error","code":"60014","msg":"Too frequent"}', [Limited("60014 Too frequent")]),
        (
            "okx",
            '{"arg":{"instId":"A-B"},"data":[{"asks":[],"bids":[["1","1","0","1"]],"ts":"5","seqId":1}]}',
            [Unreadable("A-B", "one side of its book is empty")],
        ),
        (
            "pyth",
            PYTH,
            [Told(ID, 2_920_169_999_998 * 10**10, 2_921_189_000_000 * 10**10, 1717632000000, 85480034)],
        ),
        ("pyth", '{"parsed":[]}', []),
    ],
)
def test_a_documented_message_is_read_exactly(venue: str, message: str, events: list[Event]) -> None:
    assert list(VENUES[venue].read(message)) == events


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "abc", "", "Infinity", "1e99", "1_0", "1.0.0", "1e-19"])
@pytest.mark.parametrize(
    ("venue", "message", "old"),
    [
        ("binance", BOOK, "25.35190000"),
        ("coinbase", COINBASE, "21931.98"),
        ("okx", OKX, "111.05"),
        ("kraken", (KRAKEN % "update").replace("0.10025", '"0.10025"'), "0.10025"),
    ],
)
def test_a_price_that_is_none_is_said_of_its_symbol(venue: str, message: str, old: str, price: str) -> None:
    assert old in message
    *_, event = VENUES[venue].read(message.replace(old, price, 1))
    assert isinstance(event, Unreadable)
    assert "the price" in event.why


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"2920679499999"', '"0"'),
        ('"2920679499999"', '"-5"'),
        ('"509500001"', '"2920679499999"'),
        ('"509500001"', '"-1"'),
        ('"expo":-8,\n  "price":"2', '"expo":-19,\n  "price":"2'),
        ('"expo":-8,\n  "price":"2', '"expo":18,\n  "price":"2'),
        ('"expo":-8,\n  "price":"2', '"expo":999999999,\n  "price":"2'),
    ],
)
def test_a_price_of_pyth_that_is_none_is_said_of_its_id(old: str, new: str) -> None:
    assert old in PYTH
    [event] = VENUES["pyth"].read(PYTH.replace(old, new))
    assert isinstance(event, Unreadable)


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize(
    "message",
    [
        *("", "{", "7", "null", '"x"', "[]", "[[]]", "NaN", "[" * 100_000, "9" * 5_000, "\ud800"),
        *(json.dumps({key: None}) for key in ("stream", "channel", "arg", "parsed", "data", "events")),
        '{"stream":"x@bookTicker","channel":"ticker","data":[null]}',
        '{"stream":"x@bookTicker","channel":"ticker","data":[{}]}',
        TRADE.replace("12345", "-1"),
        TRADE.replace("1672515782136", "1" * 15),
        COINBASE.replace("37.167359596Z", "37.167359596"),
        COINBASE.replace('"sequence_num":0', '"sequence_num":true'),
        OKX.replace("1670324386802", ""),
        OKX.replace("363996337", "1.5"),
        PYTH.replace("1717632000}}]", "-7}}]"),
    ],
)
def test_a_message_of_another_shape_raises_what_is_counted(venue: str, message: str) -> None:
    try:
        events = VENUES[venue].read(message)
    except MALFORMED:
        return
    assert not [event for event in events if isinstance(event, Told | Dated)]


@pytest.mark.parametrize(
    ("text", "wad"),
    [
        ("25.35190000", 2_535_190 * WAD // 10**5),
        ("0.000000000000000001", 1),
        ("1e-05", WAD // 10**5),
        ("1.5E+3", 1_500 * WAD),
        (7, 7 * WAD),
        (108359.8, 1_083_598 * WAD // 10),
        (0.00001234, 1_234 * WAD // 10**8),
        (123456789.012345, 123_456_789_012_345 * WAD // 10**6),
        ("0.1000000000000000000000", WAD // 10),
        ("99999999999999999999", 99_999_999_999_999_999_999 * WAD),
    ],
)
def test_a_price_is_read_digit_by_digit(text: object, wad: int) -> None:
    assert wad_of(text) == wad


@pytest.mark.parametrize(
    "value", [True, None, float("inf"), [1], {"a": 1}, "١٢", " 1", "1 ", "1e100", "1e20", "+1", ".5"]
)
def test_what_is_no_price_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="the price"):
        wad_of(value)


def test_times_and_numbers_are_read_exactly() -> None:
    assert ms_of_rfc3339("2023-02-09T20:30:37.999999999Z") == 1675974637999
    assert ms_of_rfc3339("2023-02-09T20:30:37Z") == 1675974637000
    assert ms_of_rfc3339("2023-02-09T22:30:37.5+02:00") == 1675974637500
    assert (number_of("0042"), number_of(7)) == (42, 7)


@pytest.mark.parametrize(
    ("venue", "symbols", "said"),
    [
        (
            "binance",
            ["ETHUSDT", "BTCUSDT"],
            [
                {
                    "method": "SUBSCRIBE",
                    "params": [
                        *("ethusdt@bookTicker", "ethusdt@aggTrade", "btcusdt@bookTicker", "btcusdt@aggTrade")
                    ],
                    "id": 1,
                }
            ],
        ),
        (
            "coinbase",
            ["ETH-USD"],
            [
                {"type": "subscribe", "channel": "heartbeats"},
                {"type": "subscribe", "channel": "ticker", "product_ids": ["ETH-USD"]},
            ],
        ),
        (
            "kraken",
            ["ETH/USD"],
            [
                {
                    "method": "subscribe",
                    "params": {
                        "channel": "ticker",
                        "symbol": ["ETH/USD"],
                        "event_trigger": "bbo",
                        "snapshot": True,
                    },
                    "req_id": 1,
                }
            ],
        ),
        (
            "okx",
            ["ETH-USDT"],
            [{"op": "subscribe", "args": [{"channel": "bbo-tbt", "instId": "ETH-USDT"}]}],
        ),
        ("pyth", [ID], []),
    ],
)
def test_what_is_wanted_is_asked_for_as_documented(
    venue: str, symbols: list[str], said: list[object]
) -> None:
    assert [json.loads(message) for message in VENUES[venue].subscriptions(symbols)] == said


def test_the_address_of_a_stream_names_its_feeds_and_keeps_a_key() -> None:
    asked = VENUES["pyth"].address("https://example.org/hermes/?key=k", [ID, "ab" * 32])
    path = "https://example.org/hermes/v2/updates/price/stream?key=k"
    assert asked == f"{path}&ids%5B%5D={ID}&ids%5B%5D={'ab' * 32}&parsed=true&encoding=base64"
    assert VENUES["kraken"].address("wss://example.org/v2?key=k", ["A/B"]) == "wss://example.org/v2?key=k"
