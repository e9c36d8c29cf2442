"""Accounts as the real contract would encode them: by the names in MarginReader's ABI, through eth_abi."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eth_abi.abi import encode

from keeper.domain import Account, Phase

ABI = Path(__file__).parents[3] / "abis" / "hybrid" / "MarginReader.json"


def _row_components() -> list[dict[str, Any]]:
    functions = json.loads(ABI.read_text())["abi"]
    [rows] = [each for each in functions if each.get("name") == "rows"]
    components: list[dict[str, Any]] = rows["outputs"][0]["components"]
    return components


def _type(component: dict[str, Any]) -> str:
    if component["type"] != "tuple":
        return str(component["type"])
    return "(" + ",".join(_type(each) for each in component["components"]) + ")"


COMPONENTS = _row_components()
ROW = "(" + ",".join(_type(each) for each in COMPONENTS) + ")"


def _slots(values: Sequence[int], count: int) -> list[int]:
    return [*values, *[0] * (count - len(values))]


def _values(account: Account) -> dict[str, Any]:
    flag = account.flag
    return {
        "acct": account.key,
        "state": list(Phase).index(account.phase),
        "cash": account.cash_wad,
        "lastRiskAt": account.last_risk_s,
        "lastRiskBlock": account.last_risk_block,
        "debtSince": account.debt_since_s,
        "aid": flag.aid_wad,
        "reduced": flag.reduced,
        "slopeChoice": account.slope_choice,
        "flag": {
            "flagger": flag.flagger,
            "bond": flag.bond_wad,
            "flaggedAt": flag.flagged_at_s,
            "flaggedBlock": flag.flagged_block,
            "tauAtFlag": flag.tau_at_flag_s,
            "tau": flag.tau_s,
            "lastPoke": flag.last_poke_s,
            "tauAtConfirm": flag.tau_at_confirm_s,
            "confirmedAt": flag.confirmed_at_s,
            "feeCap": flag.fee_cap_wad,
            "stepStart": flag.step_start_s,
            "stepUsed": flag.step_used_wad,
            "trancheNonce": flag.tranche_nonce,
            "carryTau": flag.carry_tau_s,
            "carriedAt": flag.carried_at_s,
            "slope": flag.slope,
            "insolventTau": flag.insolvent_tau_s,
        },
        "markets": _slots([leg.market for leg in account.legs], 8),
        "sizes": _slots([leg.size_wad for leg in account.legs], 8),
        "quoteLegs": _slots([leg.quote_leg_wad for leg in account.legs], 8),
        "collaterals": _slots([holding.collateral for holding in account.holdings], 4),
        "amounts": _slots([holding.amount_wad for holding in account.holdings], 4),
    }


def _ordered(components: Sequence[dict[str, Any]], values: dict[str, Any]) -> tuple[Any, ...]:
    assert {each["name"] for each in components} == values.keys()
    return tuple(
        _ordered(each["components"], values[each["name"]])
        if each["type"] == "tuple"
        else values[each["name"]]
        for each in components
    )


def page_of(accounts: Sequence[Account]) -> bytes:
    """Encode the answer of ``rows`` for these accounts."""
    return encode([f"{ROW}[]"], [[_ordered(COMPONENTS, _values(account)) for account in accounts]])
