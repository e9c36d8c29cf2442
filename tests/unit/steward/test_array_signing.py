"""What signers of risk arrays sign, held against another implementation of EIP-712."""

from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from eth_utils.crypto import keccak

from keeper.protocols.hybrid.signing import risk_arrays_digest, sign_risk_arrays
from keeper.risk.scenarios import PackedArray

CONTRACT = "0x" + "5a" * 20
CHAIN_ID = 31337
KEY = bytes([7]) * 32
UNTIL_S = 1_700_000_060
ARRAYS = [
    PackedArray(1, 1_700_000_000, 6_000_000_000_000, 480_000_000_000, 580_983_848, tuple(range(-8, 8))),
    PackedArray(65_535, 2**40 - 1, 2**64 - 1, 2**64 - 1, -(10**9), (2**63 - 1, -(2**63)) * 8),
]


def typed(arrays: list[PackedArray], *, until_s: int = UNTIL_S, **domain: Any) -> SignableMessage:
    """The same by eth-account: the struct holds one hash of what abi.encode gives."""
    fields = [array.fields for array in arrays]
    return encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                "RiskArrays": [
                    {"name": "arraysHash", "type": "bytes32"},
                    {"name": "validUntil", "type": "uint40"},
                ],
            },
            "primaryType": "RiskArrays",
            "domain": {
                "name": "HybridMargin RiskArrays",
                "version": "1",
                "chainId": CHAIN_ID,
                "verifyingContract": CONTRACT,
                **domain,
            },
            "message": {
                "arraysHash": keccak(encode(["(uint16,uint40,uint64,uint64,int32,int64[16])[]"], [fields])),
                "validUntil": until_s,
            },
        }
    )


def digest_of(message: SignableMessage) -> bytes:
    return keccak(b"\x19" + message.version + message.header + message.body)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_digest_is_that_of_another_implementation(count: int) -> None:
    found = risk_arrays_digest(ARRAYS[:count], UNTIL_S, risk_arrays=CONTRACT, chain_id=CHAIN_ID)
    assert found == digest_of(typed(ARRAYS[:count]))


def test_the_signature_is_that_of_another_implementation() -> None:
    signed = Account.sign_message(typed(ARRAYS), KEY)
    found = sign_risk_arrays(KEY, ARRAYS, UNTIL_S, risk_arrays=CONTRACT, chain_id=CHAIN_ID)
    assert found == bytes(signed.signature)
    assert Account.recover_message(typed(ARRAYS), signature=found) == Account.from_key(KEY).address


def test_the_arrays_are_hashed_as_a_contract_encodes_them() -> None:
    """Word by word: where the array begins, how many there are, and 21 words for each of them."""
    words = [32, 2]
    for array in ARRAYS:
        words += [*array.fields[:5], *array.pnl_e8]
    encoded = b"".join((word % 2**256).to_bytes(32) for word in words)
    message = typed(ARRAYS)
    struct = keccak(text="RiskArrays(bytes32 arraysHash,uint40 validUntil)")
    assert message.body == keccak(struct + keccak(encoded) + UNTIL_S.to_bytes(32))


def test_whatever_changes_changes_the_digest() -> None:
    def digest(arrays: list[PackedArray], until_s: int = UNTIL_S, **domain: Any) -> bytes:
        return risk_arrays_digest(
            arrays, until_s, **{"risk_arrays": CONTRACT, "chain_id": CHAIN_ID, **domain}
        )

    first, second = ARRAYS
    changed = [
        [first],
        [second, first],
        [first, first],
        *([replace(first, **{name: getattr(first, name) + 1}), second] for name in NUMBERS),
        *(
            [replace(first, pnl_e8=(*first.pnl_e8[:at], 99, *first.pnl_e8[at + 1 :])), second]
            for at in range(16)
        ),
    ]
    digests = [digest(ARRAYS), *map(digest, changed)]
    digests += [digest(ARRAYS, UNTIL_S + 1), digest(ARRAYS, chain_id=1), digest(ARRAYS, risk_arrays=OTHER)]
    assert len(set(digests)) == len(digests)


NUMBERS = ("market", "observed_at_s", "ref_e8", "mark_e8", "delta_e9")
OTHER = "0x" + "5b" * 20
