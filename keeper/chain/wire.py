"""JSON-RPC as nodes send it, to the words of the domain; what is not of its exact shape is a ChainFault.

Quantities and data are hex text, nothing else: Python's own ``int`` would take ``0x_1`` and blanks as well.
Addresses and hashes become lower-case hex.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from keeper.domain import Head, Log
from keeper.errors import ChainFault

QUANTITY = re.compile("0x(?:0|[1-9a-fA-F][0-9a-fA-F]{0,63})")
MALFORMED = (LookupError, TypeError, ValueError, AttributeError)


def quantity(value: str) -> int:
    """Read a quantity; raise ValueError or TypeError where it is none."""
    if QUANTITY.fullmatch(value) is None:
        raise ValueError(f"expected a quantity, found {value[:80]!r}")
    return int(value, 16)


def data(value: str, size: int | None = None) -> bytes:
    """Read bytes, ``size`` of them if given; raise ValueError or TypeError where they are none."""
    read = bytes.fromhex(value[2:])
    # fromhex passes over blanks.
    if value[:2] != "0x" or len(value) != 2 + 2 * len(read) or size not in {None, len(read)}:
        raise ValueError(f"expected {'' if size is None else f'{size} '}bytes in hex, found {value[:80]!r}")
    return read


def lower_hex(value: str, size: int) -> str:
    data(value, size)
    return value.lower()


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {type(value).__name__}")
    return value


def head_of(raw: Mapping[str, Any] | None, *, flat_fees: bool = False) -> Head:
    """Read a block header; raise ChainFault where there is none, or a part of it is missing.

    A base fee may be missing only where the chain is said to have none, and everybody pays a gas price.
    """
    if raw is None:
        raise ChainFault("expected a block header, found null: the node does not have that block")
    if "baseFeePerGas" not in raw and not flat_fees:
        raise ChainFault('a block header without baseFeePerGas: chain.fees = "legacy" is for such chains')
    try:
        return Head(
            number=quantity(raw["number"]),
            hash=lower_hex(raw["hash"], 32),
            parent_hash=lower_hex(raw["parentHash"], 32),
            timestamp_s=quantity(raw["timestamp"]),
            base_fee_wei=quantity(raw["baseFeePerGas"]) if "baseFeePerGas" in raw else None,
        )
    except MALFORMED as error:
        raise ChainFault(f"a block header cannot be read: {error!r}") from error


def log_of(raw: Mapping[str, Any]) -> Log:
    """Read a log of an included transaction; raise ChainFault where a part of it is missing."""
    try:
        return Log(
            address=lower_hex(raw["address"], 20),
            topics=tuple(data(topic, 32) for topic in _list(raw["topics"])),
            data=data(raw["data"]),
            block_number=quantity(raw["blockNumber"]),
            block_hash=lower_hex(raw["blockHash"], 32),
            tx_hash=lower_hex(raw["transactionHash"], 32),
            index=quantity(raw["logIndex"]),
            tx_index=quantity(raw["transactionIndex"]),
        )
    except MALFORMED as error:
        raise ChainFault(f"a log cannot be read: {error!r}") from error


# --- what a result must be, by method -------------------------------------------------------------


def read_result(method: str, params: list[Any], result: Any) -> Any:
    """Raise ChainFault where a result has not the shape of its method, or answers another question.

    It is returned as the node sent it, but for what ``eth_call`` gives: a page of accounts is read from its
    hex only once. Null is an answer where a node may not have what was asked for. Methods that are not known
    here pass.
    """
    check = CHECKS.get(method)
    try:
        if method == "eth_call":
            return data(result)
        if check is not None:
            check(params, result)
    except MALFORMED as error:
        raise ChainFault(f"the result of {method} cannot be read: {error!r}") from error
    return result


def _is_quantity(_: list[Any], result: Any) -> None:
    quantity(result)


def _is_data(_: list[Any], result: Any) -> None:
    data(result)


def _is_hash(_: list[Any], result: Any) -> None:
    data(result, 32)


def _is_text(_: list[Any], result: Any) -> None:
    if not isinstance(result, str):
        raise TypeError(f"expected text, found {type(result).__name__}")


def _same(what: str, asked: Any, found: Any) -> None:
    if asked != found:
        raise ValueError(f"expected {what} {asked}, found {found}")


def _is_block(params: list[Any], result: Any) -> None:
    if result is None:
        return
    number, block_hash = quantity(result["number"]), lower_hex(result["hash"], 32)
    lower_hex(result["parentHash"], 32)
    quantity(result["timestamp"])
    if "baseFeePerGas" in result:
        quantity(result["baseFeePerGas"])
    asked = params[0].lower()
    if asked.startswith("0x"):
        found = block_hash if len(asked) == 66 else hex(number)
        _same("block", asked, found)


def _is_transaction(params: list[Any], result: Any) -> None:
    if result is not None:
        _same("transaction", params[0].lower(), lower_hex(result["hash"], 32))


def _is_receipt(params: list[Any], result: Any) -> None:
    if result is None:
        return
    _same("the receipt of", params[0].lower(), lower_hex(result["transactionHash"], 32))
    lower_hex(result["blockHash"], 32)
    for key in ("blockNumber", "gasUsed", "effectiveGasPrice"):
        quantity(result[key])
    if result["status"] not in {"0x0", "0x1"}:
        raise ValueError(f"expected a status of 0x0 or 0x1, found {result['status']!r}")


def _is_fee_history(_: list[Any], result: Any) -> None:
    quantity(result["oldestBlock"])
    for fee in _list(result["baseFeePerGas"]):
        quantity(fee)
    for block in _list(result.get("reward") or []):
        for tip in _list(block):
            quantity(tip)


def _is_logs(params: list[Any], result: Any) -> None:
    asked = params[0]
    addresses = {each.lower() for each in _listed(asked.get("address"))}
    topics = [{data(each) for each in _listed(choice)} for choice in asked.get("topics", ())]
    low, high = (_tag(asked.get(key)) for key in ("fromBlock", "toBlock"))
    seen = set()
    for raw in _list(result):
        log = log_of(raw)
        if raw.get("removed"):
            raise ValueError(f"log {log.index} of {log.block_hash} is said to be removed")
        if (log.block_hash, log.index) in seen:
            raise ValueError(f"log {log.index} of {log.block_hash} comes twice")
        seen.add((log.block_hash, log.index))
        if "blockHash" in asked:
            _same("the logs of", asked["blockHash"].lower(), log.block_hash)
        if log.block_number < (low or 0) or (high is not None and log.block_number > high):
            raise ValueError(f"expected logs of blocks {low} to {high}, found one of {log.block_number}")
        if addresses and log.address not in addresses:
            raise ValueError(f"expected logs of the addresses asked for, found one of {log.address}")
        if any(
            choice and topic not in choice for choice, topic in zip_longest(topics, log.topics, fillvalue=())
        ):
            raise ValueError(f"log {log.index} of {log.block_hash} has other topics than those asked for")


def _is_simulation(params: list[Any], result: Any) -> None:
    """A node may fill the gap to the block asked for with empty ones: the last is that block."""
    asked = params[0]["blockStateCalls"][-1]
    last = _list(result)[-1]
    _same("block", asked["blockOverrides"]["number"], hex(quantity(last["number"])))
    _same("so many calls", len(asked["calls"]), len(_list(last["calls"])))
    for call in last["calls"]:
        data(call["returnData"])
        if call["status"] not in {"0x0", "0x1"}:
            raise ValueError(f"expected a status of 0x0 or 0x1, found {call['status']!r}")


def _listed(choice: Any) -> Sequence[Any]:
    """Return the members of a filter's choice; none where anything will do."""
    return [] if choice is None else [choice] if isinstance(choice, str) else choice


def _tag(value: str | None) -> int | None:
    """Return a block's number, None where it is named by a word such as ``latest``, or not at all."""
    return quantity(value) if value is not None and value.startswith("0x") else None


CHECKS: Mapping[str, Callable[[list[Any], Any], None]] = {
    "eth_blockNumber": _is_quantity,
    "eth_chainId": _is_quantity,
    "eth_estimateGas": _is_quantity,
    "eth_feeHistory": _is_fee_history,
    "eth_gasPrice": _is_quantity,
    "eth_getBalance": _is_quantity,
    "eth_getBlockByHash": _is_block,
    "eth_getBlockByNumber": _is_block,
    "eth_getCode": _is_data,
    "eth_getLogs": _is_logs,
    "eth_getStorageAt": _is_data,
    "eth_getTransactionByHash": _is_transaction,
    "eth_getTransactionCount": _is_quantity,
    "eth_getTransactionReceipt": _is_receipt,
    "eth_sendRawTransaction": _is_hash,
    "eth_simulateV1": _is_simulation,
    "web3_clientVersion": _is_text,
}
