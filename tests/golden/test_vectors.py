"""The keeper's formulas against vectors that the contracts wrote: equal to the wei, and without a chain.

``contracts/vectors/formulas.json`` is written by ``contracts/test/Vectors.t.sol``, which also checks that it
is what the contracts give now.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.formulas import FORMULAS, World, slope_of

FILE = Path(__file__).parents[2] / "contracts" / "vectors" / "formulas.json"
VECTORS: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text())
"""Of each formula some batches: what its states have in common, and the states with what was found."""


def rows(words: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in words]


def test_there_are_vectors_of_every_formula() -> None:
    assert set(VECTORS) == {*FORMULAS, "groups", "books"}
    assert all(sum(len(batch["states"]) for batch in batches) == 200 for batches in VECTORS.values())


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_gives_what_the_contract_gave(name: str) -> None:
    formula = FORMULAS[name]
    for batch in VECTORS[name]:
        common = (slope_of(batch["slope"]),) if formula.of_a_slope else ()
        for state, found in batch["states"]:
            assert formula.twin(*common, *state) == tuple(found), state


def test_legs_of_one_underlying_require_what_the_contract_said() -> None:
    by_scenarios = 0
    for batch in VECTORS["groups"]:
        world = World(rows(batch["markets"]), ())
        for state, found in batch["states"]:
            assert world.group(tuple(state)) == tuple(found), state
            by_scenarios += found[1]
    assert 50 < by_scenarios < 150, "vectors of one kind alone would show only half"


def test_whole_books_are_judged_as_the_contract_judged_them() -> None:
    for batch in VECTORS["books"]:
        world = World(rows(batch["markets"]), rows(batch["collaterals"]))
        for state, found in batch["states"]:
            assert world.book(tuple(state)) == tuple(found), state
