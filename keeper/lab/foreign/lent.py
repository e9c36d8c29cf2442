"""A reader's code lent to a node of the lab with every call, as ``ChainReader.lend`` does it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Self, TypeVar

from keeper.domain import Call
from keeper.lab.anvil import Node

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Lent:
    """Where the code is called, and what it is."""

    node: Node
    address: str
    code: str

    @classmethod
    def of(cls, node: Node, address: str, creation: bytes) -> Self:
        return cls(node, address, node.rpc("eth_call", {"data": "0x" + creation.hex()}, "latest"))

    def call(self, call: Call) -> bytes:
        to = {"to": call.to, "data": "0x" + call.data.hex()}
        lent = {self.address: self.code} if call.to == self.address else {}
        codes = {address: {"code": code} for address, code in {**lent, **dict(call.codes)}.items()}
        return bytes.fromhex(self.node.rpc("eth_call", to, "latest", codes)[2:])

    def read(self, rounds: Generator[list[Call], list[bytes], Found]) -> Found:
        """Carry out a reading of several rounds."""
        try:
            calls = next(rounds)
            while True:
                calls = rounds.send([self.call(each) for each in calls])
        except StopIteration as found:
            result: Found = found.value
            return result
