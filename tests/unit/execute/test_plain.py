"""A sender of what may be repeated: one transaction a head, with the chain's own next nonce."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from keeper.domain import Call, Head
from keeper.errors import ChainFault
from keeper.execute.fees import FeeParams
from keeper.execute.keys import LocalSigner
from keeper.execute.plain import PlainSender

GWEI = 10**9
CALL = Call("0x" + "d1" * 20, b"\x12\x34")
HEAD = Head(100, "0xb100", "0xb99", 1_200, 10 * GWEI)


@dataclass
class Node:
    """Counts nonces, takes transactions, and refuses them with a node's words."""

    nonce: int = 7
    pending: int = 7
    words: str = ""
    raws: list[bytes] = field(default_factory=list)

    async def request(self, method: str, params: list[Any]) -> str:
        if method == "eth_getTransactionCount":
            return hex({"latest": self.nonce, "pending": self.pending}[params[1]])
        assert method == "eth_sendRawTransaction"
        if self.words:
            raise ChainFault(self.words)
        self.raws.append(bytes.fromhex(params[0][2:]))
        return "0x" + keccak(self.raws[-1]).hex()

    async def batch(self, calls: Any) -> list[Any]:
        raise NotImplementedError


def sender(node: Node, key: str, **fees: int) -> PlainSender:
    wallet = LocalSigner(Account.from_key(key))
    return PlainSender(node, wallet, chain_id=31337, gas_limit=1_500_000, fees=FeeParams(**fees))


def sent(raw: bytes) -> dict[str, Any]:
    return TypedTransaction.from_bytes(HexBytes(raw)).as_dict()


@pytest.mark.parametrize(("pending", "expected"), [(7, False), (8, True), (6, False)])
async def test_what_waits_to_be_included_is_seen(key: str, pending: int, expected: bool) -> None:
    assert await sender(Node(pending=pending), key).has_pending() is expected


async def test_a_call_becomes_a_signed_transaction_with_the_next_nonce(key: str) -> None:
    node = Node()
    tx_hash = await sender(node, key).post(CALL, HEAD)
    (raw,) = node.raws
    assert tx_hash == "0x" + keccak(raw).hex()
    assert Account.recover_transaction(raw).lower() == sender(node, key).address
    found = sent(raw)
    assert (found["chainId"], found["nonce"], found["gas"], found["value"]) == (31337, 7, 1_500_000, 0)
    assert (bytes(found["to"]).hex(), bytes(found["data"])) == ("d1" * 20, b"\x12\x34")
    assert (found["maxFeePerGas"], found["maxPriorityFeePerGas"]) == (21 * GWEI, GWEI)


async def test_what_is_still_pending_is_replaced_by_the_same_nonce(key: str) -> None:
    node = Node()
    plain = sender(node, key)
    for data in (b"\x01", b"\x02"):
        await plain.post(Call(CALL.to, data), HEAD)
    assert [sent(raw)["nonce"] for raw in node.raws] == [7, 7]


async def test_a_base_fee_above_the_cap_sends_nothing_and_says_so(key: str) -> None:
    node = Node()
    with pytest.raises(ChainFault, match=r"no report sent: fees\.cap: base fee 10000000000 wei"):
        await sender(node, key, max_fee_cap_wei=9 * GWEI).post(CALL, HEAD)
    assert node.raws == []


async def test_a_nodes_refusal_is_passed_on_without_the_key(key: str) -> None:
    plain = sender(Node(words="replacement transaction underpriced"), key)
    with pytest.raises(ChainFault, match="underpriced") as caught:
        await plain.post(CALL, HEAD)
    assert key[2:] not in str(caught.value) + repr(plain) + repr(vars(plain))
