"""What a crash of all protocols shows of the keeper, and of a plain bot beside it."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from keeper.lab.audit import Report
from keeper.lab.foreign.crash import summarise


def side(liquidated: int, late: list[int], **more: Any) -> dict[str, Any]:
    return {
        "breached": 4, "liquidated": liquidated, "below_at_end": 1, "bad_debt": 26_105.0, "blocks_late": late,
        "gas_wasted": 8.0, **more,
    }  # fmt: skip


def test_who_was_missed_and_who_was_closed_behind_the_oracle_is_shown_of_both() -> None:
    keeper = side(4, [0, 0, 0, 2], keeper_reverted=1, keeper_profit=-50_214.0)
    keeper |= {"left_alone": {"limit.in_flight": 3}, "held_back": {"confirm.oracle_lags": 7}}
    bot = side(1, [31], reverted=6, gas=14.0)
    out = io.StringIO()
    figures = {"protocols": {"aave_v3": keeper}, "tutorial_bot": {"aave_v3": bot}}
    summarise(Console(file=out, width=160), Report(figures, ()))
    rows = [line.split("│")[1:-1] for line in out.getvalue().splitlines() if "│ aave_v3" in line]
    told = [[cell.strip() for cell in row] for row in rows]
    assert told == [
        ["aave_v3", "4", "4", "0", "1", "$26,105", "3 of 4", "median 0, most 2", "1", "$8", "-$50,214"],
        ["aave_v3", "below its limit", "limit.in_flight", "3"],
        ["aave_v3", "above it all the time", "confirm.oracle_lags", "7"],
        ["aave_v3", "4", "1", "3", "1", "$26,105", "0 of 4", "median 31, most 31", "6", "$8", "$14"],
    ]
    assert "A plain bot as tutorials write it" in out.getvalue()
