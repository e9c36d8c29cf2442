"""Questions to contracts that may not answer, asked by a reader that is lent."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from keeper.abi import Function, load
from keeper.domain import Call
from keeper.errors import ChainFault
from keeper.lending.feeds import Answers


def tried(reader: str, contract: str, *questions: Any) -> Generator[list[Call], list[bytes], list[Answers]]:
    """Ask (address, function, arguments...); what is not answered, or in another form, comes back empty.

    ``contract`` is our reader at the address ``reader``, one that is ``Trying``.
    """
    asked = [(address, each, each.call(address, *arguments)) for address, each, *arguments in questions]
    function = load("readers", contract).functions["tried"]
    [page] = yield [function.call(reader, [to for to, *_ in asked], [call.data for *_, call in asked])]
    [answers] = function.result(page)
    if len(answers) != len(asked):
        raise ChainFault(f"expected {len(asked)} answers, found {len(answers)}")
    return [_read(each, answer) for (_, each, _), answer in zip(asked, answers, strict=True)]


def _read(asked: Function, answer: bytes) -> Answers:
    try:
        return asked.result(answer)
    except ChainFault:
        return ()
