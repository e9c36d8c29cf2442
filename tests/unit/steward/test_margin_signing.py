"""What signers of margins sign, held against another implementation of EIP-712."""

from dataclasses import replace
from typing import Any

from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from eth_utils.crypto import keccak

from keeper.protocols.hybrid.params import feed_bytes
from keeper.protocols.hybrid.signing import margins_digest, sign_margins
from keeper.protocols.hybrid.steward import MarginChange
from keeper.units import WAD

CONTRACT, CHAIN_ID, KEY = "0x" + "5a" * 20, 31337, bytes([7]) * 32
CHANGE = MarginChange("ETH/USD", 6 * WAD // 100, 9 * WAD // 100, 86_400, 1_700_000_000, 1_700_000_600)
FIELDS = {
    "feedId": "bytes32",
    "mmr": "uint64",
    "imr": "uint64",
    "duration": "uint40",
    "observedAt": "uint40",
    "validUntil": "uint40",
}


def typed(change: MarginChange, **domain: Any) -> SignableMessage:
    """The same by eth-account."""
    return encode_typed_data(
        domain_data={
            "name": "HybridMargin RiskSteward",
            "version": "1",
            "chainId": CHAIN_ID,
            "verifyingContract": CONTRACT,
            **domain,
        },
        message_types={"MarginChange": [{"name": name, "type": kind} for name, kind in FIELDS.items()]},
        message_data=dict(zip(FIELDS, change.fields, strict=True)),
    )


def digest(change: MarginChange, **domain: Any) -> bytes:
    return margins_digest(change, **{"steward": CONTRACT, "chain_id": CHAIN_ID, **domain})


def test_digest_and_signature_are_those_of_another_implementation() -> None:
    message = typed(CHANGE)
    assert digest(CHANGE) == keccak(b"\x19" + message.version + message.header + message.body)
    found = sign_margins(KEY, CHANGE, steward=CONTRACT, chain_id=CHAIN_ID)
    assert found == bytes(Account.sign_message(message, KEY).signature)


def test_whatever_changes_changes_the_digest() -> None:
    numbers = ("mmr_wad", "imr_wad", "duration_s", "observed_at_s", "valid_until_s")
    changed = [replace(CHANGE, **{name: getattr(CHANGE, name) + 1}) for name in numbers]
    digests = [digest(CHANGE), *map(digest, changed), digest(replace(CHANGE, feed="BTC/USD"))]
    digests += [digest(CHANGE, chain_id=1), digest(CHANGE, steward="0x" + "5b" * 20)]
    assert len(set(digests)) == len(digests)
    assert feed_bytes("ETH/USD") == CHANGE.fields[0]
