"""What one venue has said on its present connection; pure: times come in.

A quote is dropped, with the reason, when messages were lost, when its sequence falls back, when its prices
are none, and when the connection ends; the next whole message brings it back. A message that cannot be read
is counted by what is wrong with it, and changes nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

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
    Venue,
)
from keeper.units import Wad

SHOWN = 160
"""So much of a venue's own words is repeated."""


class VenueQuote(NamedTuple):
    """The best bid and ask at one venue, as they came in."""

    bid_wad: Wad
    ask_wad: Wad
    heard_ms: int
    """By the local clock."""
    lag_ms: int
    """How long it was under way; negative where the venue's clock is ahead of ours."""


class Heard:
    """Folds the messages of one venue into a quote for each symbol, or why there is none."""

    def __init__(self, venue: Venue, symbols: Sequence[str]) -> None:
        self.venue = venue
        self.quotes: dict[str, VenueQuote | str] = dict.fromkeys(symbols, "not connected yet")
        self.faults: Counter[str] = Counter()
        """What was wrong with messages, how often since the start."""
        self.limited = ""
        """What the venue said when it was asked too often; empty where it was not."""
        self._alive_ms = 0
        self._open()

    def _open(self) -> None:
        self._numbers: dict[str | None, int] = {}
        self._orders: dict[str, int] = {}
        self._lags: dict[str, int] = {}
        self._halted = ""

    @property
    def stands_ms(self) -> int:
        """Return when the venue was last heard, for quotes that stand until the next one; 0 for others."""
        return self._alive_ms if self.venue.stands else 0

    def connected(self) -> None:
        """Begin anew: nothing that an earlier connection said counts."""
        self._open()
        self.limited = ""
        self._drop("connected, nothing heard yet")

    def lost(self, why: str) -> None:
        """Drop everything: the connection ended, or could not be made."""
        self._drop(f"not connected: {why}")

    def _drop(self, why: str) -> None:
        for symbol in self.quotes:
            self.quotes[symbol] = why

    def take(self, text: str, now_ms: int) -> Collection[str]:
        """Take in a message; return the symbols of which it changed something."""
        try:
            events = self.venue.read(text)
        except MALFORMED as error:
            self.faults[f"malformed message ({type(error).__name__})"] += 1
            return ()
        self._alive_ms = now_ms
        touched: set[str] = set()
        for event in events:
            touched.update(self._fold(event, now_ms))
        return touched

    def _fold(self, event: Event, now_ms: int) -> Collection[str]:
        match event:
            case Told() | Unreadable() | Dated() if event.symbol not in self.quotes:
                self.faults["symbol that was not asked for"] += 1
            case Told():
                self.quotes[event.symbol] = self._quote(event, now_ms)
                return (event.symbol,)
            case Unreadable(symbol, why):
                self.faults["unreadable price"] += 1
                self.quotes[symbol] = why
                return (symbol,)
            case Dated(symbol, at_ms):
                self._lags[symbol] = now_ms - at_ms
            case Numbered(number, symbol):
                return self._count(number, symbol)
            case Halted(why):
                self._halted = _shown(why)
                if why:
                    self._drop(self._halted)
                    return self.quotes
            case Refused():
                return self._refuse(event)
            case Limited(why):
                self.limited = _shown(why)
        return ()

    def _quote(self, told: Told, now_ms: int) -> VenueQuote | str:
        last = self._orders.get(told.symbol, 0)
        if told.order is not None:
            self._orders[told.symbol] = told.order
            if told.order < last:
                self.faults["sequence fell back"] += 1
                return f"its sequence fell back, from {last} to {told.order}"
        if self._halted:
            return self._halted
        lag_ms = self._lags.get(told.symbol, 0) if told.at_ms is None else now_ms - told.at_ms
        return VenueQuote(told.bid_wad, told.ask_wad, now_ms, lag_ms)

    def _count(self, number: int, symbol: str | None) -> Collection[str]:
        """Count on; after a gap what may have been meant by the lost messages is unknown."""
        last = self._numbers.get(symbol)
        self._numbers[symbol] = number
        if last is None or number == last + 1:
            return ()
        self.faults["gap in the sequence"] += 1
        lost = tuple(self.quotes) if symbol is None else (symbol,)
        for each in self.quotes.keys() & lost:
            self.quotes[each] = f"a gap in its sequence, from {last} to {number}"
        return lost

    def _refuse(self, refused: Refused) -> Collection[str]:
        """Say it of the symbol, or where none is named, of all of which nothing was heard."""
        self.faults["refusal"] += 1
        if refused.symbol is None:
            silent = [symbol for symbol, quote in self.quotes.items() if isinstance(quote, str)]
        else:
            silent = [symbol for symbol in self.quotes if symbol == refused.symbol]
        for symbol in silent:
            self.quotes[symbol] = f"refused: {_shown(refused.why)}"
        return silent


def _shown(words: str) -> str:
    """Return the beginning of a venue's own words, without what ends a line or steers a terminal."""
    return "".join(each if each.isprintable() else " " for each in words[:SHOWN])
