import copy
import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from structlog.testing import capture_logs

from keeper.errors import ConfigError, InvariantBroken, KeeperError
from keeper.execute.keys import KEY_VARIABLE, KeyParams, LocalSigner, load_exchange_token, load_signer

PASSPHRASE = "correct horse battery"
TX = {
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
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


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
