import copy
import getpass
import json
import os
import pickle
import pty
import sys
import traceback
import warnings
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from structlog.testing import capture_logs

from keeper.errors import ConfigError, InvariantBroken, KeeperError
from keeper.execute.keys import (
    KEY_VARIABLE,
    PASSPHRASE_VARIABLE,
    KeyParams,
    LocalSigner,
    load_exchange_token,
    load_signer,
)

PASSPHRASE = "correct horse battery"
TX: dict[str, Any] = {
    "type": 2,
    "chainId": 1,
    "nonce": 0,
    "to": "0x" + "d1" * 20,
    "data": "0x",
    "value": 0,
    "gas": 21_000,
    "maxFeePerGas": 10**9,
    "maxPriorityFeePerGas": 10**9,
}


@pytest.fixture(autouse=True)
def _no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY_VARIABLE, PASSPHRASE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def signer(key: str) -> LocalSigner:
    return LocalSigner(Account.from_key(key))


@pytest.fixture
def stored(tmp_path: Path, key: str) -> KeyParams:
    """Store the key in a keystore, and its passphrase with the newline that editors leave."""
    keystore, passphrase_file = tmp_path / "wallet.json", tmp_path / "passphrase"
    keystore.write_text(
        json.dumps(Account.encrypt(bytes.fromhex(key[2:]), PASSPHRASE, kdf="pbkdf2", iterations=2))
    )
    passphrase_file.touch(0o600)
    passphrase_file.write_text(PASSPHRASE + "\n")
    return KeyParams(keystore, passphrase_file)


def told_by(error: BaseException) -> str:
    """Return all that an exception shows, with its context and the local variables of our frames."""
    assert error.__traceback__
    ours = error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, ours, capture_locals=True).format())


def test_a_key_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, key: str, signer: LocalSigner
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f" {key}\n")
    assert load_signer(KeyParams()).address == signer.address


def test_a_key_comes_from_a_keystore(stored: KeyParams, signer: LocalSigner) -> None:
    assert load_signer(stored).address == signer.address


def test_no_key_at_all_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=f"set {KEY_VARIABLE}, or a keystore"):
        load_signer(KeyParams())


def test_two_keys_are_one_too_many(monkeypatch: pytest.MonkeyPatch, key: str, stored: KeyParams) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match="which key is meant"):
        load_signer(stored)


@pytest.mark.parametrize("cut", [slice(0, -2), slice(3, None)])
def test_a_malformed_key_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, key: str, cut: slice
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key[cut])
    with pytest.raises(ConfigError, match="not a private key of 32 bytes") as refused:
        load_signer(KeyParams())
    assert "4c4c" not in told_by(refused.value)


@pytest.mark.parametrize("malformed", ["0x" + "4c4cZZ" * 10 + "4c4c", "0x" + "00" * 32, "0x" + "ff" * 32])
def test_a_key_out_of_range_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, malformed: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, malformed)
    with pytest.raises(ConfigError) as refused:
        load_signer(KeyParams())
    assert malformed[2:14] not in told_by(refused.value)


def test_a_wrong_passphrase_is_refused_without_showing_it(stored: KeyParams) -> None:
    assert stored.passphrase_file
    stored.passphrase_file.write_text("wrong horse battery")
    with pytest.raises(ConfigError, match="not opened by the passphrase in") as refused:
        load_signer(stored)
    assert "wrong horse" not in told_by(refused.value)


@pytest.mark.parametrize("content", ["", "[]", "not json", '{"version": 3}', '{"version": 3, "crypto": {}}'])
def test_a_damaged_keystore_is_refused(stored: KeyParams, content: str) -> None:
    assert stored.keystore
    stored.keystore.write_text(content)
    with pytest.raises(ConfigError, match=r"wallet\.json") as refused:
        load_signer(stored)
    assert PASSPHRASE not in told_by(refused.value)


def test_missing_files_are_named(stored: KeyParams, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no keystore .*none\.json"):
        load_signer(KeyParams(tmp_path / "none.json", stored.passphrase_file))
    with pytest.raises(ConfigError, match=r"the passphrase file .*none cannot be read"):
        load_signer(KeyParams(stored.keystore, tmp_path / "none"))
    with pytest.raises(ConfigError, match="needs a passphrase file"):
        load_signer(KeyParams(stored.keystore))


def without_file(stored: KeyParams) -> KeyParams:
    return KeyParams(stored.keystore)


def test_a_passphrase_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, stored: KeyParams, signer: LocalSigner
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    assert load_signer(without_file(stored)).address == signer.address
    with pytest.raises(ConfigError, match="which passphrase is meant"):
        load_signer(stored)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "wrong horse battery")
    with pytest.raises(
        ConfigError, match=f"not opened by the passphrase in {PASSPHRASE_VARIABLE}"
    ) as refused:
        load_signer(without_file(stored))
    assert "wrong horse" not in told_by(refused.value)


@pytest.mark.parametrize(
    ("typed", "opens"), [(PASSPHRASE, True), ("wrong horse battery", False), ("", False)]
)
def test_a_passphrase_is_typed_on_a_terminal_and_not_echoed(
    stored: KeyParams, signer: LocalSigner, typed: str, opens: bool
) -> None:
    """A process with a terminal of its own as its controlling one loads the keystore."""
    load = (
        "import sys; from pathlib import Path; from keeper.execute.keys import *\n"
        "try: print(load_signer(KeyParams(Path(sys.argv[1]))).address)\n"
        "except Exception as error: print(error)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", load, str(stored.keystore)])  # noqa: S606 not by a shell
    with os.fdopen(terminal, "r+b", buffering=0) as screen:
        shown = b""
        while b"Passphrase of" not in shown:
            shown += screen.read(4096)
        screen.write(typed.encode() + b"\n")
        # Linux says EIO where the other side of a terminal is gone.
        with suppress(OSError):
            while more := screen.read(4096):
                shown += more
    os.waitpid(pid, 0)
    said = shown.decode()
    assert (signer.address in said) is opens
    assert opens or "not opened by the passphrase that was typed" in said
    assert not typed or typed not in said


def test_a_passphrase_that_would_be_echoed_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, stored: KeyParams
) -> None:
    def echoing(prompt: str) -> str:
        warnings.warn(prompt, getpass.GetPassWarning, stacklevel=1)
        return PASSPHRASE

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", echoing)
    with pytest.raises(ConfigError, match="not opened by the passphrase that was typed"):
        load_signer(without_file(stored))


@pytest.mark.parametrize(
    ("mode", "is_refused"), [(0o600, False), (0o640, False), (0o604, True), (0o644, True)]
)
def test_a_passphrase_that_everybody_may_read_is_refused(
    stored: KeyParams, mode: int, is_refused: bool
) -> None:
    assert stored.passphrase_file
    stored.passphrase_file.chmod(mode)
    with pytest.raises(ConfigError, match="may be read by everybody") if is_refused else nullcontext():
        load_signer(stored)


def test_a_key_of_another_wallet_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: str, stored: KeyParams, signer: LocalSigner
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    assert load_signer(KeyParams(address=signer.address)).address == signer.address
    for named in (KeyParams(address=TX["to"]), replace(stored, address=TX["to"])):
        if named.keystore is not None:
            monkeypatch.delenv(KEY_VARIABLE)
        with pytest.raises(ConfigError, match=f"is {TX['to']}, and the key is that of {signer.address}"):
            load_signer(named)


def test_the_token_of_a_group_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_EXCHANGE_TOKEN", "0123456789abcdef")
    assert load_exchange_token() == "0123456789abcdef"


@pytest.mark.parametrize(
    ("token", "found"),
    [
        ("", "not set"),
        ("0123456789abcde", "set, but"),
        ("0123456789 abcdef", "set, but"),
        ("é" * 20, "set, but"),
        ("x" * 257, "set, but"),
        ("0123456789abcdef\n", "set, but"),
    ],
)
def test_a_token_that_is_none_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, token: str, found: str
) -> None:
    monkeypatch.setenv("KEEPER_EXCHANGE_TOKEN", token)
    with pytest.raises(ConfigError, match=f"KEEPER_EXCHANGE_TOKEN is {found}") as caught:
        load_exchange_token()
    assert not token or token not in str(caught.value)


def test_a_signer_shows_its_address_only(signer: LocalSigner, key: str) -> None:
    shown = [repr(signer), str(signer), f"{signer}", f"{[signer]}", f"{signer!a}", " ".join(dir(signer))]
    assert shown[0] == f"LocalSigner({signer.address})"
    for text in shown:
        assert key[2:] not in text
    with pytest.raises(TypeError):
        vars(signer)


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_signer_does_not_leave_its_process(signer: LocalSigner, key: str, leave: Any) -> None:
    with pytest.raises(TypeError, match="does not leave") as refused:
        leave(signer)
    assert key[2:] not in told_by(refused.value)


def test_a_logged_signer_shows_no_key(
    signer: LocalSigner, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    import structlog

    with capture_logs() as logged:
        structlog.get_logger().info("keeper.started", signer=signer)
    assert key[2:] not in str(logged)
    assert key[2:] not in caplog.text


async def test_what_cannot_be_signed_is_our_own_fault_and_shows_no_key(signer: LocalSigner, key: str) -> None:
    for broken in ({**TX, "gas": None}, {k: v for k, v in TX.items() if k != "to"}, {**TX, "to": "0xzz"}):
        with pytest.raises(InvariantBroken, match="cannot be signed") as refused:
            await signer.sign(broken)
        assert isinstance(refused.value, KeeperError)
        assert key[2:] not in told_by(refused.value)


async def test_the_same_transaction_is_signed_into_the_same_bytes(signer: LocalSigner) -> None:
    first, again = await signer.sign(TX), await signer.sign(dict(reversed(TX.items())))
    assert first == again
    assert Account.recover_transaction(first.raw).lower() == signer.address
    assert (await signer.sign({**TX, "nonce": 1})).tx_hash != first.tx_hash
