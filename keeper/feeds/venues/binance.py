"""Binance spot: the best bid and ask, and beside them trades, by which the quotes are dated and counted.

``bookTicker`` is pushed at every change and has no time, only an id that rises. ``aggTrade`` of the same
symbol, on the same socket, has the time it was sent at, ``E``, and an id ``a`` that rises by one: it tells
how late the socket is, and whether messages were lost. The server pings by frames, closes after a day, and
takes five messages a second, of which one is enough.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from keeper.feeds.venues.words import Dated, Event, Numbered, Refused, Venue, decoded, ms_of, number_of, told


def subscriptions(symbols: Sequence[str]) -> tuple[str, ...]:
    """Ask for both streams of every symbol at once."""
    streams = [f"{symbol.lower()}@{stream}" for symbol in symbols for stream in ("bookTicker", "aggTrade")]
    return (json.dumps({"method": "SUBSCRIBE", "params": streams, "id": 1}),)


def read(text: str) -> tuple[Event, ...]:
    """Read one message of a combined stream."""
    message = decoded(text)
    if "stream" not in message:
        error = message.get("error", message)
        return (Refused(f"{error['code']} {error['msg']}"),) if "code" in (error or ()) else ()
    data = message["data"]
    if message["stream"].endswith("@bookTicker"):
        return (told(str(data["s"]), data["b"], data["a"], None, number_of(data["u"])),)
    if message["stream"].endswith("@aggTrade"):
        symbol = str(data["s"])
        return (Numbered(number_of(data["a"]), symbol), Dated(symbol, ms_of(data["E"])))
    return ()


VENUE = Venue(
    name="binance",
    url="wss://stream.binance.com:9443/stream",
    pattern=re.compile(r"[A-Z0-9]{4,30}"),
    read=read,
    stands=True,
    subscriptions=subscriptions,
    silence_s=30.0,
)
