"""What every deployment of a foreign protocol needs: its contracts by name, one admin, and bulk questions.

The contracts are those that ``scripts/build_protocols.py`` gathered in ``.cache``; nothing of them is part of
this project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from eth_abi.abi import decode, encode
from eth_utils.abi import (
    abi_to_signature,
    function_abi_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)

from keeper.errors import ConfigError, InvariantBroken
from keeper.lab.anvil import BLOCK_TXS, Node, Tx
from keeper.lab.deploy import created_address
from keeper.protocols.hybrid.abi import artifact
from keeper.units import UnixS

BUILT = Path(__file__).resolve().parents[3] / ".cache" / "protocols"
GAS_CREATE = 30_000_000
GAS_CALL = 28_000_000
NOBODY = "0x" + "00" * 20
ENDLESS = 2**256 - 1
"""An allowance that no transfer uses up."""

NONE: Mapping[str, str] = {}
"""No tokens of others."""

Contracts: TypeAlias = Mapping[str, Mapping[str, Any]]
Question: TypeAlias = tuple[Any, ...]
"""A contract's name, its address, a function, and its arguments."""


@cache
def gathered(name: str) -> Contracts:
    """Return the contracts of one protocol by name; ConfigError where they were not gathered."""
    try:
        contracts: Contracts = json.loads((BUILT / f"{name}.json").read_text())["contracts"]
    except FileNotFoundError:
        raise ConfigError(
            f"no contracts of {name} in {BUILT}: in a copy of the project's repository,"
            f" scripts/setup --protocols fetches them, and scripts/build_protocols.py {name} compiles them"
        ) from None
    return contracts


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transaction would end now: what it returns, or the reason of its revert."""

    ok: bool
    data: bytes

    @property
    def error(self) -> str:
        """The words of the revert, else its selector in hexadecimal; empty where there was none."""
        if self.ok:
            return ""
        if self.data[:4] == _ERROR:
            return str(decode(["string"], self.data[4:])[0])
        return "0x" + self.data[:4].hex()


_ERROR = bytes.fromhex("08c379a0")
"""Of Error(string), the built-in revert with words."""


@dataclass(slots=True)
class Lab:
    """A node, the contracts that may be deployed on it, and the admin who does."""

    node: Node
    contracts: dict[str, Mapping[str, Any]]
    admin: str = "0x" + "a0" * 20
    libraries: dict[str, str] = field(default_factory=dict)
    """The first address of each contract, for those that are linked to it."""
    _functions: dict[tuple[str, str, int], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: Node, *names: str) -> Lab:
        """Return a lab of the named protocols' contracts, with a token and a price source of ours."""
        contracts = {name: each for source in ("subjects", *names) for name, each in gathered(source).items()}
        lab = cls(node, {**contracts, "TestToken": artifact("TestToken")})
        node.fund([lab.admin], 10**24)
        return lab

    # --- transactions ----------------------------------------------------------------------------

    def run(self, transactions: Sequence[Tx], *, after_s: int = 1) -> None:
        """Mine the transactions, ``after_s`` after the newest block; ChainFault where one fails."""
        self.node.run(transactions, self.now_s + after_s)

    def include(self, transactions: Sequence[Tx], *, after_s: int = 1) -> list[Mapping[str, Any]]:
        """Mine at most 150 transactions in one block, and return their receipts, failed or not."""
        assert len(transactions) <= BLOCK_TXS
        hashes = self.node.send(transactions)
        self.node.mine(self.now_s + after_s)
        receipts = self.node.receipts()
        return [receipts[each] for each in hashes]

    def pass_time(self, seconds: int) -> None:
        """Mine an empty block, some seconds after the newest."""
        self.node.mine(self.now_s + seconds)

    @property
    def now_s(self) -> UnixS:
        """The timestamp of the newest block."""
        return self.node.timestamp_s()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Take back, in the end, whatever happens inside."""
        mark = self.node.rpc("evm_snapshot")
        try:
            yield
        finally:
            self.node.rpc("evm_revert", mark)

    # --- contracts -------------------------------------------------------------------------------

    def token(self, symbol: str, decimals: int, given: Mapping[str, str]) -> str:
        """Return a token: one that is there already, or else a new one."""
        return given.get(symbol) or self.create("TestToken", symbol, symbol, decimals)

    def create(self, name: str, *arguments: object) -> str:
        """Deploy a contract or a library, linked to what is there already, and return its address."""
        contract = self.contracts[name]
        constructors = [part for part in contract["abi"] if part["type"] == "constructor"]
        types = get_abi_input_types(constructors[0]) if constructors else []
        nonce = int(self.node.rpc("eth_getTransactionCount", self.admin, "latest"), 16)
        self.run([Tx(self.admin, None, self._linked(contract) + encode(types, arguments), GAS_CREATE)])
        address = created_address(self.admin, nonce)
        self.libraries.setdefault(name, address)
        return address

    def tx(self, name: str, to: str, function: str, *arguments: object, sender: str = "") -> Tx:
        """Build a call of the contract, by the admin unless another sender is named."""
        return Tx(sender or self.admin, to, self.data(name, function, *arguments), GAS_CALL)

    def do(self, name: str, to: str, function: str, *arguments: object, sender: str = "") -> None:
        """Call the contract in a block of its own."""
        self.run([self.tx(name, to, function, *arguments, sender=sender)])

    def data(self, name: str, function: str, *arguments: object) -> bytes:
        """Return calldata; ``function`` is a name, or a signature where the name is ambiguous."""
        selector, types, _ = self._function(name, function, len(arguments))
        encoded: bytes = selector + encode(types, arguments)
        return encoded

    def ask(self, name: str, to: str, function: str, *arguments: object) -> Any:
        """Return what a view answers: the value, or a tuple of several."""
        (answer,) = self.ask_many([(name, to, function, *arguments)])
        return answer

    def ask_many(self, questions: Sequence[Question]) -> list[Any]:
        """Return what many views answer, in their order."""
        calls = [(to, self.data(name, function, *args)) for name, to, function, *args in questions]
        answers = []
        for (name, _, function, *args), data in zip(questions, self.node.call_many(calls), strict=True):
            values = decode(self._function(name, function, len(args))[2], data)
            answers.append(values[0] if len(values) == 1 else values)
        return answers

    def outcomes(self, transactions: Sequence[Tx]) -> list[Outcome]:
        """Say how each transaction would end by itself, in the newest block."""
        tracer = {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": True}}
        calls = [
            (
                {"from": tx.sender, "to": tx.to, "data": "0x" + tx.data.hex(), "gas": hex(tx.gas)},
                "latest",
                tracer,
            )
            for tx in transactions
        ]
        traces = self.node.batch([("debug_traceCall", call) for call in calls])
        return [
            Outcome("error" not in trace, bytes.fromhex(str(trace.get("output", "0x"))[2:]))
            for trace in traces
        ]

    def _function(self, name: str, function: str, count: int) -> tuple[bytes, list[str], list[str]]:
        key = (name, function, count)
        if key not in self._functions:
            named = [
                part
                for part in self.contracts[name]["abi"]
                if part["type"] == "function"
                and function in (part["name"], abi_to_signature(part))
                and len(part["inputs"]) == count
            ]
            if len(named) != 1:
                raise InvariantBroken(
                    f"expected one {name}.{function} of {count} arguments, found {len(named)}"
                )
            selector = function_abi_to_4byte_selector(named[0])
            self._functions[key] = (selector, get_abi_input_types(named[0]), get_abi_output_types(named[0]))
        found: tuple[bytes, list[str], list[str]] = self._functions[key]
        return found

    def _linked(self, contract: Mapping[str, Any]) -> bytes:
        code: str = contract["bytecode"][2:]
        for file in contract.get("linkReferences", {}).values():
            for name, places in file.items():
                for place in places:
                    start, end = 2 * place["start"], 2 * (place["start"] + place["length"])
                    code = code[:start] + self.libraries[name][2:] + code[end:]
        return bytes.fromhex(code)


def minted(lab: Lab, who: str, token: str, spender: str, amount: int = 10**30) -> list[Tx]:
    """Mint a token, by its owner so that the order of the two is kept, and let ``spender`` take it."""
    return [
        lab.tx("TestToken", token, "mint", who, amount, sender=who),
        lab.tx("TestToken", token, "approve", spender, ENDLESS, sender=who),
    ]
