"""Pyth's price service Hermes: server-sent events, several a second, each with a confidence interval.

Price and confidence are whole numbers times 10**expo; bid and ask are the ends of the interval. Times are
whole seconds, rounded down; the slot rises. The server closes after a day; an address that asks more than 30
times in 10 s is answered with 429 for a minute. A key, where a provider wants one, is part of the URL.

https://docs.pyth.network/api-reference/pyth-core/hermes/price_stream_sse_handler
https://docs.pyth.network/price-feeds/core/rate-limits
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from keeper.feeds.venues.words import HIGHEST_WAD, Event, Told, Unreadable, Venue, decoded, ms_of, number_of

PATH = "/v2/updates/price/stream"
PLACES = range(-18, 19)


def address(url: str, symbols: Sequence[str]) -> str:
    """Name the feeds in the query, beside what the URL has there already."""
    parts = urlsplit(url)
    asked = urlencode(
        [("ids[]", symbol) for symbol in symbols] + [("parsed", "true"), ("encoding", "base64")]
    )
    query = "&".join(filter(None, (parts.query, asked)))
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + PATH, query=query))


def canonical(symbol: str) -> str:
    """Return an id as the service writes it: without 0x, in lower case."""
    return symbol.lower().removeprefix("0x")


def read(text: str) -> tuple[Event, ...]:
    """Read the data of one event."""
    return tuple(_quote(each) for each in decoded(text)["parsed"])


def _quote(parsed: Mapping[str, Any]) -> Event:
    symbol, price = canonical(str(parsed["id"])), parsed["price"]
    at_ms, slot = ms_of(1000 * number_of(price["publish_time"])), parsed.get("metadata", {}).get("slot")
    places, value, half = (int(price[each]) for each in ("expo", "price", "conf"))
    if places not in PLACES or not 0 <= half < value < HIGHEST_WAD:
        return Unreadable(symbol, f"the price {value} +- {half} times 10**{places} is not positive")
    unit = 10 ** (18 + places)
    order = None if slot is None else number_of(slot)
    if value * unit >= HIGHEST_WAD:
        return Unreadable(symbol, f"the price {value} times 10**{places} is beyond 20 digits")
    return Told(symbol, (value - half) * unit, (value + half) * unit, at_ms, order)


VENUE = Venue(
    name="pyth",
    url="https://hermes.pyth.network",
    pattern=re.compile(r"[0-9a-f]{64}"),
    read=read,
    stands=False,
    address=address,
    canonical=canonical,
    is_stream=True,
)
