"""The relay that a configuration names, put together: its key, and the stream of an auction."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from keeper.cli.keeping import _relay
from keeper.cli.parts import Parts
from keeper.config import load
from keeper.domain import Head
from keeper.errors import ConfigError
from keeper.execute.keys import RELAY_KEY_VARIABLE
from keeper.execute.transports import PENDING_UPDATES
from tests.stub_relay import StubRelay

KEY = "0x" + "7e" * 32
WALLET = "0x" + "22" * 20
ORACLE = "0x" + "0a" * 20
UPDATE = "0x" + "fe" * 32


def parts_of(folder: Path, stack: AsyncExitStack, send: str) -> Parts[Any]:
    path = folder / "keeper.toml"
    path.write_text(
        '[chain]\nhttp = "http://127.0.0.1:1"\nws = "ws://127.0.0.1:1"\nchain_id = 31337\n'
        f'[deployment]\nreader = "0x{"11" * 20}"\n[feed]\npath = "prices.csv"\n[send]\n{send}\n'
    )
    nothing: Any = None
    return Parts(load(path), nothing, nothing, nothing, Head(1, "0x1", "0x0", 12, 7), stack)


async def test_where_everything_is_public_no_relay_is_asked_for_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RELAY_KEY_VARIABLE, raising=False)
    async with AsyncExitStack() as stack:
        assert await _relay(parts_of(tmp_path, stack, 'relay = "http://127.0.0.1:1"'), WALLET) is None
        bundled = parts_of(tmp_path, stack, 'relay = "http://127.0.0.1:1"\nvia = ["bundle", "public"]')
        with pytest.raises(ConfigError, match=f"set {RELAY_KEY_VARIABLE}"):
            await _relay(bundled, WALLET)


async def test_a_relay_knows_the_keeper_by_its_key_and_an_auction_hears_of_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RELAY_KEY_VARIABLE, KEY)
    async with StubRelay() as stub, AsyncExitStack() as stack:
        send = (
            f'relay = "{stub.url}"\nhints = "{stub.url}"\noracles = "{ORACLE}"\nvia = ["auction", "public"]'
        )
        relay = await _relay(parts_of(tmp_path, stack, send), WALLET)
        assert relay is not None
        await relay.request("eth_sendPrivateTransaction", [{"tx": "0x00"}])
        assert stub.signers == {Account.from_key(KEY).address}
        async with asyncio.timeout(10):
            while not stub.streams:  # noqa: ASYNC110 nothing announces it
                await asyncio.sleep(0.005)
            await stub.tell(f'data: {{"hash":"{UPDATE}","logs":null,"txs":[{{"to":"{ORACLE}"}}]}}')
            while await relay.request(PENDING_UPDATES, []) != [UPDATE]:  # noqa: ASYNC110 as above
                await asyncio.sleep(0.005)
