"""Kraken, version 2: ``ticker`` at every change of the best bid and ask, with a heartbeat a second.

Quotes are numbers with a time and without a sequence: a message that is lost here cannot be told. The first
one is a snapshot, as of the subscription, however old its time is. ``status`` says when the venue does not
trade.

https://docs.kraken.com/api/docs/websocket-v2/ticker
https://docs.kraken.com/api/docs/websocket-v2/heartbeat
https://docs.kraken.com/api/docs/websocket-v2/status
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from keeper.feeds.venues.words import (
    Event,
    Halted,
    Limited,
    Refused,
    Venue,
    decoded,
    ms_of_rfc3339,
    told,
)


def subscriptions(symbols: Sequence[str]) -> tuple[str, ...]:
    """Ask for all symbols at once; each is acknowledged or refused for itself."""
    params = {"channel": "ticker", "symbol": list(symbols), "event_trigger": "bbo", "snapshot": True}
    return (json.dumps({"method": "subscribe", "params": params, "req_id": 1}),)


def read(text: str) -> tuple[Event, ...]:
    """Read one message; heartbeats, pongs and acknowledgements say nothing."""
    message = decoded(text)
    if message.get("error"):
        return (_refusal(str(message["error"]), message.get("symbol")),)
    if message.get("channel") == "status":
        return tuple(_state(str(status["system"])) for status in message["data"])
    if message.get("channel") != "ticker":
        return ()
    is_snapshot = message["type"] == "snapshot"
    return tuple(_quote(ticker, is_snapshot=is_snapshot) for ticker in message["data"])


def _quote(ticker: Mapping[str, Any], *, is_snapshot: bool) -> Event:
    at = None if is_snapshot else ticker.get("timestamp")
    at_ms = None if at is None else ms_of_rfc3339(at)
    return told(str(ticker["symbol"]), ticker["bid"], ticker["ask"], at_ms, None)


def _state(system: str) -> Event:
    return Halted("" if system == "online" else f"its system is {system}")


def _refusal(why: str, symbol: object) -> Event:
    if any(words in why.lower() for words in ("msg rate", "rate limit")):
        return Limited(why)
    return Refused(why, None if symbol is None else str(symbol))


VENUE = Venue(
    name="kraken",
    url="wss://ws.kraken.com/v2",
    pattern=re.compile(r"[A-Z0-9.]+/(?P<quote>[A-Z0-9.]+)"),
    read=read,
    stands=True,
    subscriptions=subscriptions,
)
