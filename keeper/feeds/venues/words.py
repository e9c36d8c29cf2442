"""What venues say, in one vocabulary: prices are exact WAD integers, times are Unix milliseconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from keeper.units import Wad

DECIMAL = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,24}))?(?:[eE]([+-]?[0-9]{1,2}))?")
HIGHEST_WAD: Wad = 10**38
LATEST_MS = 10**14
"""Some thousand years on: what is beyond is no time in milliseconds."""
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a message of another shape raises."""


@dataclass(frozen=True, slots=True)
class Told:
    """The best bid and ask of a symbol."""

    symbol: str
    bid_wad: Wad
    ask_wad: Wad
    at_ms: int | None = None
    """When it was so at the venue, where the venue says."""
    order: int | None = None
    """Rises from one message about the symbol to the next, by no fixed step."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A quote of a symbol whose prices are none."""

    symbol: str
    why: str


@dataclass(frozen=True, slots=True)
class Dated:
    """When a message about a symbol left the venue."""

    symbol: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Numbered:
    """A number that rises by one: with every message of the connection, or of one symbol."""

    number: int
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The venue refused something: a symbol, or what it does not say."""

    why: str
    symbol: str | None = None


@dataclass(frozen=True, slots=True)
class Halted:
    """The venue does not trade, so that none of its quotes counts; without a reason, it trades again."""

    why: str


@dataclass(frozen=True, slots=True)
class Limited:
    """The venue was asked too often."""

    why: str


Event: TypeAlias = Told | Unreadable | Dated | Numbered | Refused | Halted | Limited


def _nothing(_: Sequence[str]) -> tuple[str, ...]:
    return ()


def _as_it_is(url: str, _: Sequence[str]) -> str:
    return url


@dataclass(frozen=True, slots=True)
class Venue:
    """How one venue is listened to; ``read`` raises one of MALFORMED where a message is not as documented."""

    name: str
    url: str
    pattern: re.Pattern[str]
    """Of its symbols; the group ``quote`` is what they are quoted in, where a symbol tells."""
    read: Callable[[str], tuple[Event, ...]]
    stands: bool
    """Whether every change is pushed, so that a quote stands until the next one."""
    subscriptions: Callable[[Sequence[str]], tuple[str, ...]] = _nothing
    address: Callable[[str, Sequence[str]], str] = _as_it_is
    canonical: Callable[[str], str] = str.upper
    """Returns a symbol as the venue writes it."""
    pace_s: float = 0.35
    """Between two messages to it."""
    ping: str | None = None
    """Said so often as ``pace_s`` allows besides: once a second."""
    silence_s: float = 10.0
    """A connection that was silent for so long is given up."""
    is_stream: bool = False
    """Server-sent events over HTTP, in the place of a websocket."""


def decoded(text: str) -> Any:
    """Decode JSON, by a decoder that bounds how deep it nests: Python's own can exhaust the stack.

    A number with a fraction is a float, which says 15 digits exactly: more than any price has.
    """
    return orjson.loads(text)


def told(symbol: str, bid: object, ask: object, at_ms: int | None, order: int | None) -> Told | Unreadable:
    """Read both prices of a quote; what is wrong with them is a message too."""
    try:
        return Told(symbol, wad_of(bid), wad_of(ask), at_ms, order)
    except ValueError as error:
        return Unreadable(symbol, str(error))


def wad_of(value: object) -> Wad:
    """Read a price exactly, digit by digit; raise ValueError where it is no positive decimal."""
    digits = DECIMAL.fullmatch(str(value))
    if digits is None or isinstance(value, bool):
        raise ValueError(f"the price {str(value)[:40]!r} is no decimal")
    whole, fraction, exponent = digits[1], digits[2] or "", int(digits[3] or 0)
    wad, rest = _scaled(int(whole + fraction), 18 - len(fraction) + exponent)
    if rest:
        raise ValueError(f"the price {digits[0]} has more than 18 decimals")
    if not 0 < wad < HIGHEST_WAD:
        raise ValueError(f"the price {digits[0]} is not positive, or beyond 20 digits")
    return wad


def _scaled(value: int, places: int) -> tuple[int, int]:
    return (value * 10**places, 0) if places >= 0 else divmod(value, 10**-places)


def number_of(value: object) -> int:
    """Read a whole number, written as one or as text; raise ValueError where it is none."""
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(text)


def ms_of(value: object) -> int:
    """Read a time in milliseconds."""
    ms = number_of(value)
    if not 0 < ms < LATEST_MS:
        raise ValueError(f"{ms} is no time in milliseconds")
    return ms


def ms_of_rfc3339(value: object) -> int:
    """Read a time such as 2023-02-09T20:30:37.167359Z, rounded down to milliseconds."""
    at = datetime.fromisoformat(str(value))
    if at.tzinfo is None:
        raise ValueError(f"the time {str(value)[:40]!r} has no zone")
    return ms_of(int(at.timestamp()) * 1000 + at.microsecond // 1000)
