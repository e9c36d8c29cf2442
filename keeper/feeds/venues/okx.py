"""OKX, version 5: ``bbo-tbt``, the best bid and ask at every change, at most every 10 ms.

Each message is whole, with its time and a ``seqId`` that rises by no fixed step: one that falls back tells of
a reset. The server closes what was silent for 30 s, and answers the text "ping" with "pong"; as that is the
only sign of life while a price stands still, it is asked every second. Subscriptions: three requests a
second, 480 an hour; each symbol has a request of its own, so that one that is refused takes no other along.

https://www.okx.com/docs-v5/en/#overview-websocket-connect
https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-order-book-channel
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from keeper.feeds.venues.words import (
    Event,
    Limited,
    Refused,
    Unreadable,
    Venue,
    decoded,
    ms_of,
    number_of,
    told,
)

TOO_FREQUENT = "60014"


def subscriptions(symbols: Sequence[str]) -> tuple[str, ...]:
    """Ask for each symbol."""
    return tuple(
        json.dumps({"op": "subscribe", "args": [{"channel": "bbo-tbt", "instId": symbol}]})
        for symbol in symbols
    )


def read(text: str) -> tuple[Event, ...]:
    """Read one message; pongs, acknowledgements and notices say nothing."""
    if text == "pong":
        return ()
    message = decoded(text)
    if message.get("event") == "error":
        why = f"{message['code']} {message['msg']}"
        return (Limited(why) if message["code"] == TOO_FREQUENT else Refused(why),)
    if "event" in message:
        return ()
    symbol = str(message["arg"]["instId"])
    return tuple(
        told(symbol, book["bids"][0][0], book["asks"][0][0], ms_of(book["ts"]), number_of(book["seqId"]))
        if book["bids"] and book["asks"]
        else Unreadable(symbol, "one side of its book is empty")
        for book in message["data"]
    )


VENUE = Venue(
    name="okx",
    url="wss://ws.okx.com:8443/ws/v5/public",
    pattern=re.compile(r"[A-Z0-9]+-(?P<quote>[A-Z0-9]+)"),
    read=read,
    stands=True,
    subscriptions=subscriptions,
    ping="ping",
)
