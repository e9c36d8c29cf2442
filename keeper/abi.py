"""Interfaces of contracts, as selectors and ABI types.

Our own are read from the published artifacts; those of others are written down as signatures where they are
used. Calldata is made by eth_abi alone: a contract object of web3 costs some forty times as much a call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from keeper.domain import Call, Reason, Refuse
from keeper.errors import ChainFault


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a contract."""

    name: str
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def call(self, to: str, *values: object) -> Call:
        """Build the call; structs are tuples."""
        return Call(to, self.selector + encode(self.inputs, values))

    def result(self, data: bytes) -> tuple[Any, ...]:
        """Decode what a call returned; raise ChainFault where it is not that."""
        return _decode(self.name, self.outputs, data)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a contract. Its indexed parameters here are all of one word."""

    name: str
    topic: bytes
    parameters: tuple[tuple[str, str, bool], ...]
    """Name, type, and whether it is indexed."""

    def values(self, topics: Sequence[bytes], data: bytes) -> tuple[Any, ...]:
        """Decode a log's parameters, in the order declared; raise ChainFault where it has others."""
        indexed = [kind for _, kind, is_indexed in self.parameters if is_indexed]
        plain = [kind for _, kind, is_indexed in self.parameters if not is_indexed]
        from_topics = iter(_decode(self.name, indexed, b"".join(topics[1:])))
        from_data = iter(_decode(self.name, plain, data))
        return tuple(next(from_topics if is_indexed else from_data) for *_, is_indexed in self.parameters)


@dataclass(frozen=True, slots=True)
class Error:
    """A custom error: its parameters' names and types."""

    name: str
    selector: bytes
    names: tuple[str, ...]
    types: tuple[str, ...]

    def decode(self, data: bytes) -> tuple[Any, ...]:
        """Decode what follows the selector; raise ChainFault where it is not that."""
        return _decode(self.name, self.types, data)


@dataclass(frozen=True, slots=True)
class Abi:
    """The interface of one contract. No function, event or error here is overloaded."""

    functions: Mapping[str, Function]
    events: Mapping[str, Event]
    errors: Mapping[str, Error]


def artifact(folder: str, contract: str) -> Mapping[str, Any]:
    """Return a published artifact: ``contractName``, ``abi``, ``bytecode`` and ``deployedBytecode``.

    In a wheel the artifacts lie in ``keeper/_abis``, in the repository in ``abis`` beside the package.
    """
    packaged = files("keeper") / "_abis"
    root = packaged if packaged.is_dir() else files("keeper") / ".." / "abis"
    loaded: Mapping[str, Any] = json.loads((root / folder / f"{contract}.json").read_text())
    return loaded


@cache
def load(folder: str, contract: str) -> Abi:
    """Read the interface of one of our contracts."""
    parts = artifact(folder, contract)["abi"]
    return Abi(
        functions={part["name"]: _function(part) for part in parts if part["type"] == "function"},
        events={part["name"]: _event(part) for part in parts if part["type"] == "event"},
        errors={part["name"]: _error(part) for part in parts if part["type"] == "error"},
    )


def function(signature: str, returns: str = "") -> Function:
    """Write down a function: its canonical signature, and the types that it returns, with commas between."""
    name, inputs = _parted(signature)
    return Function(name, keccak(text=signature)[:4], tuple(inputs), tuple(_split(returns)))


def event(signature: str) -> Event:
    """Write down an event: the type of each parameter, ``indexed`` where it is, and its name."""
    name, declared = _parted(signature)
    parameters = tuple(
        (words[-1], words[0], words[1] == "indexed") for each in declared for words in [each.split()]
    )
    return Event(name, keccak(text=f"{name}({','.join(kind for _, kind, _ in parameters)})"), parameters)


def errors(*signatures: str) -> Mapping[bytes, Error]:
    """Write down errors by their selectors, the two that Solidity has of its own among them."""
    written = map(function, (*signatures, "Error(string)", "Panic(uint256)"))
    return {each.selector: Error(each.name, each.selector, each.inputs, each.inputs) for each in written}


def revert_name(data: bytes, known: Mapping[bytes, Error]) -> str:
    """Say why a call reverted, such as ``TooMuchRepay()``."""
    if not data:
        return "reverted without a reason"
    error = known.get(data[:4])
    if error is None:
        return f"unknown error 0x{data.hex()}"
    try:
        values = error.decode(data[4:])
    except ChainFault:
        return f"{error.name}, unreadable: 0x{data.hex()}"
    return str(values[0]) if error.name == "Error" else f"{error.name}({', '.join(map(str, values))})"


def explained(reverted: Refuse, name: Callable[[bytes], str]) -> Refuse:
    """Put a name in the place of the revert data of a refusal; one of another kind stays as it is."""
    reason = reverted.reason
    if not reason.evidence.startswith("0x"):
        return reverted
    return Refuse(Reason(reason.rule, name(bytes.fromhex(reason.evidence[2:])), reason.bound))


def _parted(signature: str) -> tuple[str, list[str]]:
    name, _, rest = signature.partition("(")
    return name, _split(rest.removesuffix(")"))


def _split(types: str) -> list[str]:
    """Split at the commas that are in no parentheses."""
    parts, depth = [""], 0
    for letter in types:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _function(part: Mapping[str, Any]) -> Function:
    return Function(
        part["name"], _hash(part)[:4], tuple(_types(part["inputs"])), tuple(_types(part["outputs"]))
    )


def _event(part: Mapping[str, Any]) -> Event:
    named = zip(part["inputs"], _types(part["inputs"]), strict=True)
    return Event(part["name"], _hash(part), tuple((p["name"], kind, p["indexed"]) for p, kind in named))


def _error(part: Mapping[str, Any]) -> Error:
    names = tuple(parameter["name"] for parameter in part["inputs"])
    return Error(part["name"], _hash(part)[:4], names, tuple(_types(part["inputs"])))


def _hash(part: Mapping[str, Any]) -> bytes:
    return keccak(text=f"{part['name']}({','.join(_types(part['inputs']))})")


def _types(parameters: Sequence[Mapping[str, Any]]) -> list[str]:
    return [_type(parameter) for parameter in parameters]


def _type(parameter: Mapping[str, Any]) -> str:
    kind: str = parameter["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_types(parameter['components']))}){kind.removeprefix('tuple')}"


def _decode(name: str, types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    try:
        return decode(types, data)
    except (DecodingError, OverflowError) as error:
        found = f"expected {name} to give ({', '.join(types)}), found {len(data)} bytes"
        raise ChainFault(f"{found}: {error}") from None
