"""The wallet's key in this process: loaded once, and never shown again.

No text, pickle or exception of this module holds key material. Errors are raised outside the handlers
that catch the libraries' own exceptions: one in ``__context__`` would carry along what those quote, and
the local variables of their frames, which some tracebacks print.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import stat
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from coincurve import PrivateKey
from eth_account import Account
from eth_hash.auto import keccak

from keeper.errors import ConfigError
from keeper.execute.signer import Signed, fields_of

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

KEY_VARIABLE = "KEEPER_PRIVATE_KEY"
PASSPHRASE_VARIABLE = "KEEPER_PASSPHRASE"  # noqa: S105 the name of it
REPORTER_KEYS_VARIABLE = "KEEPER_REPORTER_KEYS"
RELAY_KEY_VARIABLE = "KEEPER_RELAY_KEY"
TOKEN_VARIABLE = "KEEPER_EXCHANGE_TOKEN"  # noqa: S105 the name of it
TOKEN = re.compile(r"[!-~]{16,256}")
"""Long enough not to be guessed, and of characters that a header takes."""


@dataclass(frozen=True, slots=True)
class KeyParams:
    """Where the key is: an encrypted JSON keystore, or the environment variable KEEPER_PRIVATE_KEY.

    A keystore's passphrase is in a file, in KEEPER_PASSPHRASE, or typed on the terminal.
    """

    keystore: Path | None = None
    passphrase_file: Path | None = None
    address: str | None = None
    """Whose key it has to be; None: whichever is found."""


class LocalSigner:
    """Implements ``Signer`` with a key in this process. Neither prints nor pickles it."""

    __slots__ = ("__key", "address")
    fault: str | None = None

    def __init__(self, account: LocalAccount) -> None:
        self.__key = PrivateKey(bytes(account.key))
        self.address = account.address.lower()

    async def sign(self, tx: Mapping[str, Any]) -> Signed:
        """Sign a transaction; the same one always gives the same bytes (RFC 6979)."""
        return self.at_once(tx)

    def at_once(self, tx: Mapping[str, Any]) -> Signed:
        """Sign a transaction without a loop."""
        fields = fields_of(tx)
        signature = self.__key.sign_recoverable(keccak(fields.unsigned), hasher=None)
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])
        return fields.signed(signature[64], r, s)

    def __repr__(self) -> str:
        return f"LocalSigner({self.address})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signer does not leave its process")


def load_signer(params: KeyParams) -> LocalSigner:
    """Load the wallet's key; raise ConfigError where it is missing, malformed, locked, or of another wallet.

    May ask for a passphrase on the terminal, and a loop that calls it then waits with it.
    """
    if params.keystore is None:
        signer = _from_environment()
    else:
        if os.environ.get(KEY_VARIABLE):
            raise ConfigError(f"both a keystore and {KEY_VARIABLE} are set: which key is meant?")
        signer = _from_keystore(params.keystore, params.passphrase_file)
    if params.address not in {None, signer.address}:
        raise ConfigError(f"wallet.address is {params.address}, and the key is that of {signer.address}")
    return signer


def expect_private(path: Path) -> None:
    """Refuse a file of secrets that everybody on this machine may read; a group may be meant to."""
    try:
        is_open = bool(path.stat().st_mode & stat.S_IROTH)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if is_open:
        raise ConfigError(f"{path} holds a secret and may be read by everybody: chmod o-r {path}")


def load_reporter_keys() -> tuple[bytes, ...]:
    """Load the reporter's keys, comma-separated; raise ConfigError where one is missing or malformed."""
    if not os.environ.get(REPORTER_KEYS_VARIABLE, "").strip():
        raise ConfigError(f"no reporter keys: set {REPORTER_KEYS_VARIABLE}")
    texts = os.environ[REPORTER_KEYS_VARIABLE].split(",")
    accounts = [_account(text.strip()) for text in texts]
    keys = []
    for number, account in enumerate(accounts, start=1):
        if account is None:
            raise ConfigError(
                f"{REPORTER_KEYS_VARIABLE}: key {number} is not a private key of 32 bytes in hexadecimal"
            )
        keys.append(bytes(account.key))
    return tuple(keys)


def load_relay_key(wallet: str) -> bytes:
    """Load the key by which relays know us; raise ConfigError where it is none, or the wallet's own."""
    text = os.environ.get(RELAY_KEY_VARIABLE, "").strip()
    if not text:
        raise ConfigError(f"no key for the relay: set {RELAY_KEY_VARIABLE} to one that holds nothing")
    account = _account(text)
    if account is None:
        raise ConfigError(f"{RELAY_KEY_VARIABLE} is not a private key of 32 bytes in hexadecimal")
    if account.address.lower() == wallet:
        raise ConfigError(
            f"{RELAY_KEY_VARIABLE} is the wallet's own key: a relay needs one that holds nothing"
        )
    return bytes(account.key)


def load_exchange_token() -> str:
    """Load the token by which reporters and keepers of one group know each other."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not TOKEN.fullmatch(token):
        found = "set, but is not" if token else "not set: make it"
        raise ConfigError(f"{TOKEN_VARIABLE} is {found} 16 to 256 printable characters without a space")
    return token


def signer_of(key: bytes) -> LocalSigner:
    """Return a signer for a key that was loaded before."""
    return LocalSigner(Account.from_key(key))


def _from_environment() -> LocalSigner:
    if not os.environ.get(KEY_VARIABLE):
        raise ConfigError(f"no key: set {KEY_VARIABLE}, or a keystore with its passphrase file")
    account = _account(os.environ[KEY_VARIABLE].strip())
    if account is None:
        raise ConfigError(f"{KEY_VARIABLE} is not a private key of 32 bytes in hexadecimal")
    return LocalSigner(account)


def _from_keystore(keystore: Path, passphrase_file: Path | None) -> LocalSigner:
    if not keystore.is_file():
        raise ConfigError(f"there is no keystore {keystore}")
    if _json(keystore) is None:
        raise ConfigError(f"{keystore} cannot be read as a JSON keystore")
    source = _source(keystore, passphrase_file)
    account = _unlock(keystore, source)
    if account is None:
        raise ConfigError(
            f"the keystore {keystore} is not opened by the passphrase {source.said}, or is damaged"
        )
    return LocalSigner(account)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a passphrase comes from. Only what opens the keystore holds it, and no longer than that."""

    said: str
    read: Callable[[], str | None]


def _source(keystore: Path, passphrase_file: Path | None) -> Source:
    """Choose the one source that there is."""
    in_environment = bool(os.environ.get(PASSPHRASE_VARIABLE))
    if passphrase_file is not None:
        if in_environment:
            raise ConfigError(
                f"both a passphrase file and {PASSPHRASE_VARIABLE} are set: which passphrase is meant?"
            )
        if _text(passphrase_file) is None:
            raise ConfigError(f"the passphrase file {passphrase_file} cannot be read")
        expect_private(passphrase_file)
        return Source(f"in {passphrase_file}", partial(_text, passphrase_file))
    if in_environment:
        return Source(f"in {PASSPHRASE_VARIABLE}", _from_variable)
    if not sys.stdin.isatty():
        raise ConfigError(
            f"the keystore {keystore} needs a passphrase file, {PASSPHRASE_VARIABLE},"
            " or a terminal to type its passphrase on"
        )
    return Source("that was typed", partial(_prompted, keystore))


def _from_variable() -> str | None:
    """Read the variable: a method of the environment itself would show all of it, where it is shown."""
    return os.environ.get(PASSPHRASE_VARIABLE)


def _prompted(keystore: Path) -> str | None:
    """Ask on the terminal, without an echo; where that cannot be kept back, do not ask."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"Passphrase of {keystore}: ")
        except (EOFError, getpass.GetPassWarning):
            return None


def _account(key: str | bytes) -> LocalAccount | None:
    """Take exactly 32 bytes: the library itself would pad a key that has lost its first digit."""
    try:
        raw = key if isinstance(key, bytes) else bytes.fromhex(key.removeprefix("0x"))
        account: LocalAccount = Account.from_key(raw)
    except Exception:  # noqa: BLE001 whatever the library quotes must not travel on
        return None
    return account


def _unlock(keystore: Path, source: Source) -> LocalAccount | None:
    document, passphrase = _json(keystore), source.read()
    if document is None or passphrase is None:
        return None
    try:
        return _account(Account.decrypt(document, passphrase))
    except Exception:  # noqa: BLE001 as above
        return None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _text(path: Path) -> str | None:
    """Read a secret without the newline that editors put at its end."""
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, ValueError):
        return None
