"""A node with geth's rules for its pool, which Anvil is laxer about, and blocks made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_abi.abi import decode
from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from keeper.domain import Head
from keeper.errors import ChainFault
from keeper.execute.levy import ENVELOPE_BYTES
from keeper.units import WAD, Block, Wei

GWEI = 10**9
GAS_USED = 21_000
NO_TIPS = {"reward": [["0x0"]]}
"""What a node says of tips where nobody pays one."""


@dataclass(frozen=True)
class Tx:
    """A transaction as a pool has it."""

    hash: str
    sender: str
    nonce: int
    to: str
    data: bytes
    gas: int
    max_fee_wei: Wei
    tip_wei: Wei

    @classmethod
    def of(cls, raw: str) -> Tx:
        """Decode signed bytes."""
        bare = bytes.fromhex(raw[2:])
        tx = TypedTransaction.from_bytes(HexBytes(bare)).as_dict()
        return cls(
            hash="0x" + keccak(bare).hex(),
            sender=Account.recover_transaction(raw).lower(),
            nonce=tx["nonce"],
            to="0x" + bytes(tx["to"]).hex(),
            data=bytes(tx["data"]),
            gas=tx["gas"],
            max_fee_wei=tx["maxFeePerGas"],
            tip_wei=tx["maxPriorityFeePerGas"],
        )


@dataclass
class Geth:
    """One node and its chain. What it refused for its price is in ``underpriced``."""

    base_fee_wei: Wei = GWEI
    number: Block = 100
    pool: dict[int, Tx] = field(default_factory=dict)
    """By nonce: there is one wallet."""
    chain: list[tuple[Block, Tx, Wei]] = field(default_factory=list)
    """What was included, in which block, and at which price."""
    heard: list[Tx] = field(default_factory=list)
    underpriced: list[Tx] = field(default_factory=list)
    deaf: list[str] = field(default_factory=list)
    """What becomes of the next transactions: ``lost`` on the way, taken with the ``answer`` lost, or refused
    in any other words."""
    byte_gas: int = 0
    """What each byte of a transaction takes besides, as on Arbitrum."""
    fork: str = "b"
    tells_receipts: bool = True

    def head(self) -> Head:
        return self._head_at(self.number)

    def _head_at(self, number: Block) -> Head:
        return Head(number, self._hash(number), self._hash(number - 1), number * 12, self.base_fee_wei)

    def _hash(self, number: Block) -> str:
        return f"0x{self.fork}{number}"

    @property
    def nonce(self) -> int:
        return len(self.chain)

    def mine(self, *, empty: bool = False) -> Head:
        """Add a block with what its base fee lets in, in the order of the nonces."""
        self.number += 1
        while not empty and (tx := self.pool.get(self.nonce)) and tx.max_fee_wei >= self.base_fee_wei:
            price_wei = min(tx.max_fee_wei, self.base_fee_wei + tx.tip_wei)
            self.chain.append((self.number, self.pool.pop(self.nonce), price_wei))
        return self.head()

    def cut(self, depth: int) -> tuple[Head, ...]:
        """Take back the newest blocks, with what was in them; return them, newest first."""
        orphaned = tuple(self._head_at(self.number - up) for up in range(depth))
        self.number -= depth
        self.chain = [each for each in self.chain if each[0] <= self.number]
        self.fork += "'"
        return orphaned

    def take(self, tx: Tx) -> None:
        """Let a transaction into the pool, or refuse it in geth's words."""
        self.heard.append(tx)
        if tx.gas < GAS_USED + self.byte_gas * (ENVELOPE_BYTES + len(tx.data)):
            raise ChainFault("intrinsic gas too low")
        if any(tx.hash == each.hash for _, each, _ in self.chain):
            raise ChainFault("nonce too low")
        if tx.nonce < self.nonce:
            raise ChainFault(f"nonce too low: next nonce {self.nonce}, tx nonce {tx.nonce}")
        rival = self.pool.get(tx.nonce)
        if rival is not None and rival.hash == tx.hash:
            raise ChainFault("already known")
        if rival is not None and not all(
            10 * new >= 11 * old and new > old
            for new, old in ((tx.max_fee_wei, rival.max_fee_wei), (tx.tip_wei, rival.tip_wei))
        ):
            self.underpriced.append(tx)
            raise ChainFault("replacement transaction underpriced")
        self.pool[tx.nonce] = tx

    async def request(self, method: str, params: list[Any]) -> Any:
        if method == "eth_getBalance":
            return hex(7 * WAD)
        if method == "eth_feeHistory":
            return NO_TIPS
        if method == "eth_call":
            asked = decode(["address", "bool", "bytes"], bytes.fromhex(params[0]["data"][10:]))[2]
            return (self.byte_gas * (ENVELOPE_BYTES + len(asked))).to_bytes(32)
        assert method == "eth_sendRawTransaction"
        fate = self.deaf.pop(0) if self.deaf else ""
        if fate == "lost":
            raise ChainFault("no answer (TimeoutError)")
        if fate not in {"", "answer"}:
            raise ChainFault(fate)
        tx = Tx.of(params[0])
        self.take(tx)
        if fate == "answer":
            raise ChainFault("no answer (TimeoutError)")
        return tx.hash

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        return [self._answer(method, params) for method, params in calls]

    def _answer(self, method: str, params: list[Any]) -> Any:
        if method == "eth_getBalance":
            return hex(7 * WAD)
        if method == "eth_getTransactionCount":
            return hex(sum(block <= int(params[1], 16) for block, _, _ in self.chain))
        assert method == "eth_getTransactionReceipt"
        for block, tx, price_wei in self.chain if self.tells_receipts else ():
            if tx.hash == params[0]:
                return {
                    "status": "0x1",
                    "blockNumber": hex(block),
                    "blockHash": self._hash(block),
                    "gasUsed": hex(min(tx.gas, GAS_USED)),
                    "effectiveGasPrice": hex(price_wei),
                }
        return None
