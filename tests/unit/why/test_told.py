"""What an event of a case is called in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from keeper.units import WAD
from keeper.why.explain import words_of

STEP = {"kind": "repay", "tx_hash": "0x7", "gas_cost_wei": WAD // 1_000}
GAS = "gas 0.001000 of the native currency"
BOOKED = {"worth_wad": 12 * WAD, "gas_wad": 2 * WAD, "profit_wad": 10 * WAD}


def told(kind: str, data: dict[str, Any]) -> str:
    event = {"block": 9, "at_s": 108, "kind": kind, "data": data}
    case = {"case_id": "c", "status": "settled", "opened_block": 8, "events": [event]}
    *_, last = words_of({"account": "0xa", "without": "there is no tape", "cases": [case]})
    return last.strip()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, GAS),
        ({"worth_wad": 12 * WAD}, f"{GAS}, brought 12.00 in quote"),
        (BOOKED, f"{GAS} (2.00 in quote), brought 12.00 in quote, 10.00 after gas"),
        ({**BOOKED, "gas_wad": None, "profit_wad": None}, f"{GAS}, brought 12.00 in quote"),
        ({**BOOKED, "worth_wad": 0, "profit_wad": -2 * WAD}, f"{GAS} (2.00 in quote)"),
    ],
)
def test_what_was_included_is_told_with_what_it_brought_and_has_left(
    data: dict[str, Any], words: str
) -> None:
    assert told("Included", {**STEP, **data}) == f"block 9: repay included, transaction 0x7, {words}"


LOST = {"lost_to": {"act": "Tranche", "tx_hash": "0x5", "block": 9}}
RACE = "; race lost to Tranche, block 9, transaction 0x5"


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("Reverted", {}, f"reverted, transaction 0x7, {GAS}"),
        ("Reverted", {"why": "NotBreached(1, 2)"}, f"reverted, transaction 0x7, {GAS}; by NotBreached(1, 2)"),
        ("Reverted", {"why": "ACCT", **LOST}, f"reverted, transaction 0x7, {GAS}; by ACCT{RACE}"),
        (
            "Displaced",
            {"bid": "cancel", **LOST},
            f"displaced by its own cancel, transaction 0x7, {GAS}{RACE}",
        ),
        ("Displaced", {}, f"displaced by another transaction of the wallet, transaction 0x7, {GAS}"),
    ],
)
def test_what_did_not_do_what_it_should_is_told_with_why_and_who_was_before(
    kind: str, data: dict[str, Any], words: str
) -> None:
    assert told(kind, {**STEP, **data}) == f"block 9: repay {words}"
