"""Who signs for a keeper on a real node: it acts with each of them, and shows nothing of any key."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest
from eth_account import Account

from keeper.lab.anvil import Node
from keeper.ports import StepState
from tests.anvil.test_cli_on_anvil import AFTER, KEEPER, KEY, Site, environment, running, write
from tests.secrecy import command_lines, expect_nothing_of, forms_of, written_in
from tests.unit.execute.stub_web3signer import StubWeb3Signer

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(240)]

PASSPHRASE = "a passphrase that is typed nowhere else"
SECRETS = (KEEPER.key, PASSPHRASE.encode())
FILES = ("keystore.json", "passphrase")
PATIENCE_S = 60.0
"""For a keeper to start, and to act, on a machine that has much else to do."""


@pytest.fixture
def site(anvil: Node, tmp_path: Path) -> Site:
    """An owner in breach, a keeper configured, and its key in a keystore."""
    site = Site(anvil, tmp_path)
    site.breach()
    site.configure()
    locked = Account.encrypt(KEEPER.key, PASSPHRASE, kdf="pbkdf2", iterations=2)
    (tmp_path / "keystore.json").write_text(json.dumps(locked))
    (tmp_path / "passphrase").touch(0o600)
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n")
    return site


def add(site: Site, section: str) -> None:
    with (site.folder / "keeper.toml").open("a") as file:
        file.write(section)


@contextmanager
def signing(stub: StubWeb3Signer, port: int = 0) -> Iterator[int]:
    """Serve a signer in a thread of its own; yield its port."""
    ready: SimpleQueue[int] = SimpleQueue()
    ended = threading.Event()

    async def serve() -> None:
        async with stub.serving(port=port):
            ready.put(int(stub.url.rpartition(":")[2]))
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        yield ready.get(timeout=20)
    finally:
        ended.set()
        thread.join(20)


@pytest.mark.parametrize(
    ("wallet", "secrets"),
    [
        ("", {"KEEPER_PRIVATE_KEY": KEY}),
        ('keystore = "keystore.json"\npassphrase_file = "passphrase"\n', {}),
        ('keystore = "keystore.json"\n', {"KEEPER_PASSPHRASE": PASSPHRASE}),
    ],
    ids=["key", "file", "variable"],
)
def test_a_keeper_that_acts_shows_no_form_of_its_key_or_passphrase(
    site: Site, wallet: str, secrets: dict[str, str]
) -> None:
    add(site, f"[wallet]\n{wallet}")
    with running(site.folder, "run", secrets=secrets) as keeper:
        keeper.until(lambda: site.sent() == 1, PATIENCE_S)
        shown = command_lines(keeper.process.pid)
        keeper.end()
    assert b"keeper.toml" in shown
    said = json.dumps(keeper.lines).encode()
    assert KEEPER.address.encode() in said
    written = written_in(site.folder, *FILES)
    assert KEEPER.address.encode() in written
    expect_nothing_of(SECRETS, b"\n".join([shown, said, written]))


@pytest.mark.parametrize(("chain_id", "is_warned"), [("1", True), ("31337", False)])
def test_a_key_that_lies_open_is_warned_of_but_on_chains_of_ones_own(
    tmp_path: Path, chain_id: str, *, is_warned: bool
) -> None:
    write(tmp_path, chain_id=chain_id)
    done = subprocess.run(
        [sys.executable, "-m", "keeper", "run", "--config", "keeper.toml"],
        cwd=tmp_path, env=environment({"KEEPER_PRIVATE_KEY": KEY}), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ('"wallet.key_in_environment"' in done.stdout) is is_warned
    assert "eth_chainId at http://127.0.0.1:1: no answer" in done.stderr


def test_every_form_of_a_secret_would_be_found(tmp_path: Path) -> None:
    for number, form in enumerate(sorted(forms_of(KEEPER.key))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "log").write_bytes(b"before " + form + b" after")
        with pytest.raises(AssertionError):
            expect_nothing_of([KEEPER.key], written_in(folder))


def test_a_keeper_acts_by_a_signer_elsewhere_and_waits_for_it_while_it_is_away(site: Site) -> None:
    stub = StubWeb3Signer(KEEPER.key)
    with signing(stub) as port:
        pass
    url = f'kind = "web3signer"\nurl = "http://127.0.0.1:{port}"\ntimeout_ms = 20000\n'
    add(site, f'[wallet]\naddress = "{KEEPER.address}"\n[signer]\n{url}')
    with running(site.folder, "run", secrets={}) as keeper:
        keeper.until(lambda: keeper.heard("signer.lost", wallet=KEEPER.address), PATIENCE_S)
        keeper.until(lambda: keeper.heard("tx.unsigned", nonce=0), PATIENCE_S)
        with closing(site.journal()) as journal:
            assert journal.summary().steps == {StepState.RESERVED: 1}
        assert site.sent() == 0
        with signing(stub, port):
            site.post(AFTER)
            keeper.until(lambda: site.sent() == 1, PATIENCE_S)
        keeper.end()
    with closing(site.journal()) as journal:
        assert journal.verify() == []
        assert journal.summary().steps == {StepState.SENT: 1}
    expect_nothing_of([KEEPER.key], written_in(site.folder, *FILES))
