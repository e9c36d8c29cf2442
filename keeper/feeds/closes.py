"""Closes of a feed, kept in a file as time goes by: what margins are estimated from.

A CSV with a column of times, in unix seconds, and one for each feed, as `keeper.risk.prices` reads it. Rows
are equally far apart: where one is missed, the file is put aside and another begun, for nobody knows what a
price did meanwhile. A row is there whole or not at all: it ends with its line, and what a full disk or a
power cut has left of one is dropped.
"""

from __future__ import annotations

import asyncio
import csv
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog

from keeper.domain import Quote, Unknown
from keeper.errors import ConfigError
from keeper.ports import Feed
from keeper.units import WAD, FeedId, UnixS

log = structlog.get_logger()

LATE = 10
"""One over the part of a step by which a close may be late; later it is none of its time."""
LOOKS_EVERY_S = 1.0


class Closes:
    """A file to which a row is added at each step."""

    def __init__(self, path: Path, feeds: Sequence[FeedId], *, step_s: int) -> None:
        """Take up a file, or begin one with the first row. Of a last row that is torn nothing is left.

        Raises ConfigError for a file of other feeds, of another step, or of something else.
        """
        self._path = path
        self._feeds = list(feeds)
        self._step_s = step_s
        self._last_s: UnixS = self._take_up() if path.exists() else 0

    def hear(self, quotes: Mapping[FeedId, Quote | Unknown], now_s: UnixS) -> None:
        """Add the row of a step that has just begun, once, where every feed has a price."""
        at_s = now_s - now_s % self._step_s
        if at_s <= self._last_s or now_s - at_s > self._step_s // LATE:
            return
        found = [quotes.get(feed) for feed in self._feeds]
        prices = [quote.price_wad / WAD for quote in found if isinstance(quote, Quote)]
        if len(prices) == len(self._feeds):
            self._add(at_s, prices)

    def _add(self, at_s: UnixS, prices: Sequence[float]) -> None:
        if self._last_s and at_s != self._last_s + self._step_s:
            self._put_aside(at_s)
        row = _line(at_s, *prices)
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            left = row if end else self._header + row
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                # To what a disk that filled up took of it the next row would be glued.
                file.truncate(end)
                raise
        self._last_s = at_s

    def _put_aside(self, now_s: UnixS) -> None:
        """Keep under another name what is there, once: what is begun in its place must not replace it."""
        aside = self._path.with_name(f"{self._path.stem}.until-{self._last_s}{self._path.suffix}")
        with suppress(FileNotFoundError):
            self._path.rename(aside)
            log.warning("closes.gap", last_s=self._last_s, now_s=now_s, aside=str(aside))
        self._last_s = 0

    def _take_up(self) -> UnixS:
        """Return the time of the last row, and drop what is torn of one after it; 0 where there is none."""
        try:
            text = self._path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            # Of a file that was just begun the header may be torn.
            last_s = self._last_of(whole) if whole or not self._header.startswith(text) else 0
            if len(whole) < len(text):
                os.truncate(self._path, len(whole))
                log.warning("closes.torn", path=str(self._path), dropped_bytes=len(text) - len(whole))
        except (OSError, ValueError, IndexError, csv.Error) as error:
            raise ConfigError(f"{self._path} is no file of closes: {error}") from error
        return last_s

    def _last_of(self, text: bytes) -> UnixS:
        """Return the time of the last row of a file's text; 0 where it has a header alone."""
        header, *rows = csv.reader(text.decode().splitlines())
        times = [int(row[0]) for row in rows[-2:]]
        apart = self._step_s if len(times) < 2 else times[1] - times[0]
        if (header, apart) != (["time", *self._feeds], self._step_s):
            found = f"found {', '.join(header)} every {apart} s"
            raise ConfigError(
                f"{self._path}: expected time, {', '.join(self._feeds)} every {self._step_s} s, {found}"
            )
        return times[-1] if times else 0

    @property
    def _header(self) -> bytes:
        return _line("time", *self._feeds)


def _line(*cells: object) -> bytes:
    """Return a line of the file."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


@asynccontextmanager
async def keeping(feed: Feed, closes: Closes, clock: Callable[[], float] = time.time) -> AsyncIterator[None]:
    """Keep what a feed says for as long as the context is open."""
    task = asyncio.create_task(_keep(feed, closes, clock))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep(feed: Feed, closes: Closes, clock: Callable[[], float]) -> None:
    while True:
        now_s = int(clock())
        try:
            closes.hear(feed.latest(now_s), now_s)
        except OSError as error:
            # A row is missed, and the file says so; prices are reported all the same.
            log.warning("closes.not_kept", why=str(error))
        await asyncio.sleep(LOOKS_EVERY_S)
