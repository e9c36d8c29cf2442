"""Coinbase Advanced Trade: ``ticker``, pushed at every match, and ``heartbeats``, one a second.

Every message of a connection has a ``sequence_num`` that rises by one, and the time it was sent at. A quote
is as old as the last match: the book may have moved since. Each product is asked for by a message of its
own, so that one that is refused takes no other along; eight a second are allowed. What is quoted in USDC is
answered with what is quoted in USD.

https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from keeper.feeds.venues.words import (
    Event,
    Limited,
    Numbered,
    Refused,
    Venue,
    decoded,
    ms_of_rfc3339,
    number_of,
    told,
)


def subscriptions(symbols: Sequence[str]) -> tuple[str, ...]:
    """Ask for heartbeats, and for each product."""
    tickers = ({"type": "subscribe", "channel": "ticker", "product_ids": [symbol]} for symbol in symbols)
    return tuple(map(json.dumps, ({"type": "subscribe", "channel": "heartbeats"}, *tickers)))


def read(text: str) -> tuple[Event, ...]:
    """Read one message; those of other channels count in the sequence, and say nothing else."""
    message = decoded(text)
    if message.get("type") == "error":
        why = str(message["message"])
        return (Limited(why) if "rate limit" in why.lower() else Refused(why),)
    number = Numbered(number_of(message["sequence_num"]))
    if message["channel"] != "ticker":
        return (number,)
    at_ms = ms_of_rfc3339(message["timestamp"])
    tickers = (ticker for event in message["events"] for ticker in event["tickers"])
    return (
        number,
        *(told(str(t["product_id"]), t["best_bid"], t["best_ask"], at_ms, None) for t in tickers),
    )


VENUE = Venue(
    name="coinbase",
    url="wss://advanced-trade-ws.coinbase.com",
    pattern=re.compile(r"[A-Z0-9]+-(?P<quote>[A-Z0-9]+)"),
    read=read,
    stands=False,
    subscriptions=subscriptions,
    pace_s=0.2,
)
