"""Sends notices beside the loop: through a bounded queue, within a time, and without a word of any URL."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import structlog

from keeper.alerts.notices import Params, Sent, Sieve
from keeper.errors import ConfigError
from keeper.ports import Notice

log = structlog.get_logger()

URLS_VARIABLE = "KEEPER_ALERT_URLS"
ENDS_S = 5.0
"""How long at most what waits is still sent for at the end."""


class Messenger(Protocol):
    """Somebody who brings a text to people; may block, and is called in a thread that it has to itself."""

    def send(self, text: str) -> bool:
        """Send a text; tell whether it was taken."""
        ...


class Teller:
    """Implements ``ports.Alerts``: takes notices at once, and sends them from a task of its own."""

    def __init__(
        self,
        messengers: Sequence[Messenger],
        params: Params | None = None,
        *,
        about: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tell by these messengers; ``about`` begins every text, where there are several tellers."""
        self._messengers = messengers
        self._about = about
        # Not the loop's own threads: whoever hangs there would hold up name look-ups, and the head itself.
        self._threads = [ThreadPoolExecutor(1, "alerts") for _ in messengers]
        self._params = params or Params()
        self._sieve = Sieve(self._params)
        self._queue: asyncio.Queue[str] = asyncio.Queue(self._params.queued)
        self._clock = clock
        self.counts = Sent()

    def tell(self, notice: Notice) -> None:
        """Take a notice, to be sent when and if its bounds allow it."""
        if not self._messengers:
            return
        before = self._sieve.held
        news = self._sieve.take(notice, self._clock())
        if news is not None:
            self._put(news.text)
        self.counts.suppressed += self._sieve.held - before

    def _put(self, text: str) -> None:
        try:
            self._queue.put_nowait(self._about + text)
        except asyncio.QueueFull:
            self.counts.suppressed += 1

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send while the block lasts; what waits at its end still goes out, for a few seconds at most."""
        if not self._messengers:
            yield
            return
        tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._sum_up())]
        try:
            yield
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._queue.join(), ENDS_S)
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for thread in self._threads:
                thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while True:
            text = await self._queue.get()
            try:
                await asyncio.gather(*(self._send(number, text) for number in range(len(self._messengers))))
            finally:
                self._queue.task_done()

    async def _sum_up(self) -> None:
        """Tell now and then in one notice what was too much."""
        while True:
            await asyncio.sleep(self._params.every_s)
            if (summary := self._sieve.summary(self._clock())) is not None:
                self._put(summary)

    async def _send(self, number: int, text: str) -> None:
        """Send a text by one messenger; of a failure only its kind is told, for the rest may be secret."""
        send, thread = self._messengers[number].send, self._threads[number]
        sending = asyncio.get_running_loop().run_in_executor(thread, send, text)
        try:
            taken = await asyncio.wait_for(sending, self._params.timeout_s)
            why = None if taken else "it did not take it"
        except TimeoutError:
            why = f"no answer within {self._params.timeout_s:g} s"
        except Exception as error:  # noqa: BLE001 - a messenger fails as it likes; the keeper goes on
            why = type(error).__name__
        if why is None:
            self.counts.sent += 1
        else:
            self.counts.failed += 1
            log.warning("alert.failed", messenger=number, why=why)


class _Service:
    """One service of apprise; its URL is a secret, and nowhere to be read."""

    def __init__(self, notify: Callable[..., object]) -> None:
        self._notify = notify

    def __repr__(self) -> str:
        return "Messenger(***)"

    def send(self, text: str) -> bool:
        """Send a text; tell whether it was taken."""
        return bool(self._notify(body=text, title="keeper"))


def load_urls() -> list[str]:
    """Load the URLs of the services that are told, set apart by white space: commas may be part of one."""
    return os.environ.get(URLS_VARIABLE, "").split()


def open_messengers(urls: Sequence[str]) -> list[Messenger]:
    """Open what KEEPER_ALERT_URLS names; raise ConfigError by its place where one of them is no service."""
    if not urls:
        return []
    with warnings.catch_warnings():
        # It imports what newer Pythons do without; that is none of the operator's business.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from apprise import Apprise
        except ImportError as error:
            lacks = "apprise is not installed: it comes with the extra alerts"
            raise ConfigError(f"{URLS_VARIABLE} is set, but {lacks}") from error
        # Its own log writes URLs, and so does that of the library it posts by.
        logging.getLogger("apprise").disabled = True
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)
        found: list[Messenger] = []
        for number, url in enumerate(urls, 1):
            service = Apprise()
            if not service.add(url):
                place = f"the {number}. of {len(urls)}"
                raise ConfigError(f"{URLS_VARIABLE}: {place} is no URL that apprise knows")
            found.append(_Service(service.notify))
    return found
