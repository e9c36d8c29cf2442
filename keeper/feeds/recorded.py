"""A recorded or generated price path, read by chain time.

The file has a header and lines ``timestamp_s,feed,price``, ordered by time within each feed. A price that is
not a plain positive decimal is kept as what it is, an ``Unknown`` from that moment on; a line that cannot be
placed in time makes the whole file unusable, for nobody knows what else is wrong with it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path

from keeper.domain import Quote, Unknown
from keeper.errors import ConfigError
from keeper.units import FeedId, UnixS

HEADER = "timestamp_s,feed,price"
TIME = re.compile(r"[0-9]{1,12}")
PRICE = re.compile(r"(?P<whole>[0-9]{1,20})(\.(?P<fraction>[0-9]{1,18}))?")


class RecordedFeed:
    """Implements ``ports.Feed`` over a CSV file that is read once."""

    def __init__(self, path: Path, *, max_age_s: int) -> None:
        """Read the file; raise ConfigError, with the line, where it is missing or malformed."""
        self._max_age_s = max_age_s
        self._times: dict[FeedId, list[UnixS]] = {}
        self._quotes: dict[FeedId, list[Quote | Unknown]] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the price file {path} cannot be read: {error}") from error
        if not lines or lines[0].strip() != HEADER:
            raise ConfigError(f"the price file {path} must begin with the line {HEADER!r}")
        for number, line in enumerate(lines[1:], start=2):
            self._add(line, f"{path}:{number}")

    def _add(self, line: str, place: str) -> None:
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 3 or not TIME.fullmatch(parts[0]) or not parts[1]:
            raise ConfigError(f"{place}: expected {HEADER}, found {line!r}")
        at_s, feed = int(parts[0]), parts[1]
        times = self._times.setdefault(feed, [])
        if times and at_s < times[-1]:
            raise ConfigError(f"{place}: {feed} goes back in time, from {times[-1]} to {at_s}")
        times.append(at_s)
        self._quotes.setdefault(feed, []).append(_quote(feed, parts[2], at_s))

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        """Return the newest entry of each feed that is not from after ``now_s``, unless it is too old."""
        return {feed: self._latest(feed, now_s) for feed in self._times}

    def _latest(self, feed: FeedId, now_s: UnixS) -> Quote | Unknown:
        index = bisect_right(self._times[feed], now_s) - 1
        if index < 0:
            return Unknown(feed, f"the recording begins after {now_s} s")
        age_s = now_s - self._times[feed][index]
        if age_s > self._max_age_s:
            return Unknown(feed, f"the newest price is {age_s} s old, bound {self._max_age_s} s")
        return self._quotes[feed][index]


def _quote(feed: FeedId, text: str, at_s: UnixS) -> Quote | Unknown:
    """Read a price exactly, digit by digit: no float, no rounding, no exponent, no NaN can pass."""
    digits = PRICE.fullmatch(text)
    if digits is None:
        return Unknown(feed, f"the price {text!r} is not a decimal of at most 20 + 18 digits")
    price_wad = int(digits["whole"] + (digits["fraction"] or "").ljust(18, "0"))
    return (
        Quote(feed, price_wad, at_s)
        if price_wad > 0
        else Unknown(feed, f"the price {text!r} is not positive")
    )
