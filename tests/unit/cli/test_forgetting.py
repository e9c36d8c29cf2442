"""What the keeper does beside its loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keeper.cli import keeping
from keeper.errors import KeeperError


class Journal:
    """Cannot forget at first."""

    def __init__(self) -> None:
        self.fails: list[Exception] = [KeeperError("the disk is full"), PermissionError("a book")]
        self.forgot = asyncio.Event()

    def forget(self, keep: object) -> bool:
        del keep
        if self.fails:
            raise self.fails.pop()
        self.loop.call_soon_threadsafe(self.forgot.set)
        return False

    loop: asyncio.AbstractEventLoop


class Config:
    """Keeps something."""

    def keep(self) -> None:
        """Say nothing."""


async def test_what_cannot_be_forgotten_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "FORGET_S", 0.0)
    journal: Any = Journal()
    journal.loop = asyncio.get_running_loop()
    config: Any = Config()
    async with keeping._forgetting(journal, config):
        await asyncio.wait_for(journal.forgot.wait(), 5)
    assert journal.fails == []
