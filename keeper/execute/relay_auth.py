"""Who a relay takes us for: every request is signed by a key of its own, which holds nothing.

The scheme is Flashbots' (docs.flashbots.net, "JSON-RPC Endpoints", section Authentication): the header is
the address, a colon, and the EIP-191 signature of the Keccak hash of the body, which is signed as text,
``0x`` and hexadecimal digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak

SIGNATURE_HEADER = "X-Flashbots-Signature"
Headers: TypeAlias = Callable[[bytes], Mapping[str, str]]


def relay_headers(key: bytes) -> Headers:
    """Return what makes the headers of a body, without showing the key to whoever holds it."""
    account = Account.from_key(key)

    def sign(body: bytes) -> dict[str, str]:
        signed = account.sign_message(encode_defunct(text=f"0x{keccak(body).hex()}"))
        return {SIGNATURE_HEADER: f"{account.address}:0x{signed.signature.hex()}"}

    return sign
