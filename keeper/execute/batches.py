"""What became of each act of a batch, by the logs of the transaction that carried all of them.

A batch contract carries acts out in their order, each by itself: one that fails changes nothing, and leaves
the event ``ActFailed`` with its place (contracts/src/Liquidator.sol, ``batch``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from eth_utils.crypto import keccak

from keeper.domain import EventKind, Log
from keeper.ports import Outcome, StepRecord
from keeper.units import AccountKey

ACT_FAILED: Final = keccak(text="ActFailed(uint256,bytes4)")


def apart(step: StepRecord, whole: Outcome) -> Outcome:
    """Say how each act ended that the transaction of a step carried, what it moved, and its share of the gas.

    The first bears what cannot be divided.
    """
    if not step.carries:
        return whole
    accounts = [each.account for each in (step, *step.carries)]
    errors = failed(whole.logs, step.unsigned_tx["to"])
    logs = by_act([log for log in whole.logs if log.topics[:1] != (ACT_FAILED,)], accounts)
    share_wei = whole.gas_cost_wei // len(accounts)
    first, *others = (
        replace(whole, kind=EventKind.REVERTED, gas_cost_wei=share_wei, logs=(), error=errors[place])
        if place in errors
        else replace(whole, gas_cost_wei=share_wei, logs=logs[place])
        for place in range(len(accounts))
    )
    return replace(first, gas_cost_wei=whole.gas_cost_wei - share_wei * len(others), carried=tuple(others))


def failed(logs: Sequence[Log], contract: str) -> dict[int, bytes]:
    """Return the places of the acts that a contract's batch tells have failed, each with its error."""
    return {
        int.from_bytes(log.data[:32]): log.data[32:36]
        for log in logs
        if log.topics[:1] == (ACT_FAILED,) and log.address == contract.lower()
    }


def by_act(logs: Sequence[Log], accounts: Sequence[AccountKey]) -> list[tuple[Log, ...]]:
    """Return the logs of each act, by the account that its events name in a topic.

    A log that names none, such as that of a transfer, is of the act whose event comes next, or came last.
    """
    places = {account: place for place, account in enumerate(accounts)}
    named = [next((places[each] for each in log.topics[1:] if each in places), None) for log in logs]
    place = next((each for each in reversed(named) if each is not None), 0)
    parts: list[list[Log]] = [[] for _ in accounts]
    for log, own in zip(reversed(logs), reversed(named), strict=True):
        place = place if own is None else own
        parts[place].insert(0, log)
    return [tuple(each) for each in parts]
