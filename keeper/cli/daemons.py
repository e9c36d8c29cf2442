"""How daemons run and end: a signal is heard between two heads."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from keeper.chain.reader import ChainReader
from keeper.units import Block

log = structlog.get_logger()

PATIENCE_S = 2.0
"""How long the work on a head may still take after a signal; given up later, it is a crash, which is safe."""


class Daemon(Protocol):
    """A loop that can be cancelled while it is not busy."""

    busy: asyncio.Lock

    async def run(self) -> None:
        """Work on every head until cancelled."""
        ...


async def until_told(work: Coroutine[None, None, None]) -> None:
    """Do the work of a daemon; SIGTERM and SIGINT give up whatever comes before its loop."""
    task = asyncio.ensure_future(work)
    _on_signal(task.cancel)
    with suppress(asyncio.CancelledError):
        await task
    log.info("stopped")


@dataclass(frozen=True, slots=True)
class Work:
    """A daemon, and what it follows: the chain, from its first block on."""

    reader: ChainReader
    daemon: Daemon
    first: Block
    context: Context = field(default_factory=copy_context)
    """What its words in the log say of it."""


async def until_stopped(*works: Work) -> None:
    """Run until SIGTERM or SIGINT; the work on a head that has begun is finished first.

    Where one of several ends by itself, all do.
    """
    stop = asyncio.Event()
    stopping = asyncio.create_task(stop.wait())
    try:
        for each in works:
            await each.reader.start(each.first)
        _on_signal(stop.set)
        running = [asyncio.create_task(each.daemon.run(), context=each.context) for each in works]
        await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*map(_finished, works, running))
        for task in running:
            if not task.cancelled():
                task.result()
    finally:
        stopping.cancel()
        for each in works:
            await each.reader.close()


async def _finished(work: Work, running: asyncio.Task[None]) -> None:
    """End a daemon that has not ended by itself."""
    if not running.done():
        with suppress(TimeoutError):
            await asyncio.wait_for(work.daemon.busy.acquire(), PATIENCE_S)
        running.cancel()
        await asyncio.wait({running})


def _on_signal(act: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, act)
