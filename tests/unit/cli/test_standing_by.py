"""A standby that has stood by for long begins anew, in the same process."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from keeper.cli import keeping
from keeper.cli.keeping import TapeTooLong


async def test_who_has_stood_by_for_long_begins_anew_and_still_heeds_signals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lives: list[int] = []

    async def keep(*_: object, **__: object) -> None:
        lives.append(len(lives))
        loop = asyncio.get_running_loop()
        if len(lives) == 1:
            loop.add_signal_handler(signal.SIGTERM, lambda: None)
            raise TapeTooLong
        # Nobody of the life before hears a signal that comes now: it would be lost.
        assert not loop.remove_signal_handler(signal.SIGTERM)

    monkeypatch.setattr(keeping, "_keep", keep)
    nothing: Any = ()
    await keeping._run(nothing, nothing, {}, snapshot=None, dry_run=False)
    assert lives == [0, 1]
