"""The account's ladder: what chain and clocks show, and that the docs draw what is in force."""

import json
from pathlib import Path

import pytest

from keeper.ladder import RUNGS, Book, Bounds, Climb, Rung, markdown, shown, told

DOC = Path(__file__).parents[3] / "docs/escalation.md"


@pytest.mark.parametrize(
    ("agreed", "taken", "solvent", "rung"),
    [
        (False, False, True, Rung.SUSPECTED),
        (True, False, True, Rung.CONFIRMED),
        (True, True, True, Rung.DELEVERAGING),
        (False, True, True, Rung.DELEVERAGING),
        (True, True, False, Rung.BACKSTOP),
        (False, False, False, Rung.BACKSTOP),
    ],
)
def test_a_suspect_stands_where_chain_and_clocks_put_it(
    agreed: bool, taken: bool, solvent: bool, rung: Rung
) -> None:
    assert shown(agreed=agreed, taken=taken, solvent=solvent) is rung


def test_every_rung_has_a_row_in_order() -> None:
    assert [row.rung for row in RUNGS] == [*Rung]


@pytest.mark.parametrize("bounds", [Climb().watch, Climb().call])
def test_down_is_beyond_up(bounds: Bounds) -> None:
    assert bounds.leave_health > bounds.health > 1
    assert bounds.leave_sigmas > bounds.sigmas


def test_the_document_draws_both_ladders() -> None:
    assert markdown(Climb(), Book()) in DOC.read_text()


def test_the_bounds_in_force_are_told_as_plain_values() -> None:
    found = json.loads(json.dumps(told(Climb(), Book()), allow_nan=False))
    assert found["account"][2]["up"] == "E/M < 1.1 and breach within 2 sigmas"
    assert found["book"][3]["up"] == {"reverts": 0.9, "head_age": 100.0, "lagging": 1.0}
