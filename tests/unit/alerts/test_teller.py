"""Notices on their way, over real HTTP to a stub, and what becomes of those that do not arrive."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from keeper.alerts import Params, Teller, open_messengers
from keeper.errors import ConfigError
from keeper.ports import Notice

SECRET = "s3cr3t"


@dataclass
class Stub:
    """A service that takes what is posted to it."""

    port: int = 0
    status: int = 200
    waits_s: float = 0.0
    got: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.waits_s)
        self.got.append(json.loads(await request.text()))
        return web.Response(status=self.status)


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    stub = Stub()
    app = web.Application()
    app.router.add_post("/{path:.*}", stub.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stub.port = runner.addresses[0][1]
    yield stub
    await runner.cleanup()


def teller(stub: Stub, **params: Any) -> Teller:
    return Teller(open_messengers([f"json://user:{SECRET}@127.0.0.1:{stub.port}/{SECRET}"]), Params(**params))


def called(number: int = 1) -> Notice:
    return Notice(f"0x{number}", "margin_call", f"0x{number} called: deposit 90")


async def test_a_notice_arrives(stub: Stub) -> None:
    found = teller(stub)
    async with found.sending():
        found.tell(called())
        found.tell(called())
    assert [each["message"] for each in stub.got] == ["0x1 called: deposit 90"]
    assert (found.counts.sent, found.counts.failed) == (1, 0)


async def test_what_was_too_much_is_summed_up(stub: Stub) -> None:
    found = teller(stub, burst=2, every_s=0.05)
    async with found.sending():
        for number in range(50):
            found.tell(called(number))
        await asyncio.sleep(0.2)
    assert [each["message"] for each in stub.got[2:]] == ["and 48 more: 48 margin_call"]
    assert (found.counts.sent, found.counts.suppressed) == (3, 48)


async def test_a_service_that_refuses_is_told_of_without_its_url(stub: Stub) -> None:
    stub.status, found = 500, teller(stub)
    with capture_logs() as logs:
        async with found.sending():
            found.tell(called())
    [failed] = [each for each in logs if each["event"] == "alert.failed"]
    assert failed["why"] == "it did not take it"
    assert SECRET not in str(logs) + repr(found._messengers) + str(vars(found))
    assert found.counts.failed == 1


async def test_a_slow_service_holds_nobody_up(stub: Stub) -> None:
    stub.waits_s, found = 1.0, teller(stub, timeout_s=0.1, queued=2)
    with capture_logs() as logs:
        async with found.sending():
            began_s = time.monotonic()
            for number in range(5):
                found.tell(called(number))
            await asyncio.sleep(0)
            assert time.monotonic() - began_s < 0.1
    assert "no answer within 0.1 s" in {each.get("why") for each in logs}
    assert found.counts.suppressed == 3


async def test_a_service_that_hangs_takes_no_thread_of_others() -> None:
    class Hanging:
        def send(self, text: str) -> bool:
            return over.wait() and bool(text)

    over, found = threading.Event(), Teller([Hanging()], Params(timeout_s=0.05))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    with capture_logs():
        async with found.sending():
            for number in range(4):
                found.tell(called(number))
            await found._queue.join()
            try:
                assert await asyncio.wait_for(asyncio.to_thread(lambda: True), 2)
            finally:
                over.set()


def test_the_library_that_posts_writes_no_log_of_urls() -> None:
    open_messengers(["json://127.0.0.1"])
    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.WARNING)


async def test_an_unreachable_service_is_told_of_without_its_url() -> None:
    found = teller(Stub(port=1))
    with capture_logs() as logs:
        async with found.sending():
            found.tell(called())
    assert SECRET not in str(logs)
    assert found.counts.failed == 1


def test_what_is_no_service_is_refused_by_its_place() -> None:
    with pytest.raises(ConfigError, match=r"the 2\. of 2") as refused:
        open_messengers(["json://127.0.0.1", f"nonsense://{SECRET}"])
    assert SECRET not in str(refused.value)


async def test_nobody_is_told_where_nobody_is_named() -> None:
    found = Teller(open_messengers([]))
    async with found.sending():
        found.tell(called())
    assert found.counts.sent == found.counts.suppressed == 0
