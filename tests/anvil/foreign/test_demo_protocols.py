"""The demo of each other protocol, on its real contracts and with a real keeper process, on a short path."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from keeper.lab.foreign.show import Script, rehearse

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

SHORT = Script(calm=4, false_at=2, fall=8, depth=0.14)


@pytest.mark.parametrize("protocol", ["aave_v3", "morpho_blue", "compound_v2", "perp_curie"])
def test_a_short_fall_breaks_no_promise(protocol: str, tmp_path: Path) -> None:
    found = rehearse(protocol, tmp_path, console=Console(quiet=True), accounts=12, script=SHORT)
    assert found.violations == ()
    figures = found.figures
    assert figures["false_print"]["closed"] == 0
    # The mark of Perpetual is a median: one price alone does not move it.
    assert (figures["false_print"]["suspected"] > 0) == (protocol != "perp_curie")
    assert figures["closings"] >= figures["breached"] > 0
    assert figures["keeper_transactions"] == figures["steps"]["included"] == figures["closings"]
    assert figures["keeper_reverted"] == 0
    assert 0 < figures["paid"] < figures["closed"]
    assert 0.9 < figures["lowest_health"] < 1
    assert figures["cliff_accounts"] == figures["breached"]
    if protocol != "perp_curie":
        assert figures["keeper_profit"] > 0
