"""What keeps the tables of the contracts' checks true between the runs that are too long for every day."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

CONTRACTS = Path(__file__).parents[2] / "contracts"
MUTANTS: list[dict[str, Any]] = tomllib.loads((CONTRACTS / "mutants.toml").read_text())["mutant"]
SLITHER: dict[str, Any] = tomllib.loads((CONTRACTS / "slither.toml").read_text())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["name"])
def test_every_fault_has_its_place_and_its_tests(mutant: dict[str, Any]) -> None:
    assert (CONTRACTS / mutant["file"]).read_text().count(mutant["old"]) == 1
    assert mutant["new"] != mutant["old"]
    assert mutant["tests"]
    assert all((CONTRACTS / file).is_file() for file in mutant["tests"])


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [mutant["name"] for mutant in MUTANTS]
    assert len(set(names)) == len(names)


def test_every_explanation_is_one_sentence() -> None:
    reasons = [entry["reason"] for entry in SLITHER["explained"]] + list(SLITHER["excluded"].values())
    assert [reason for reason in reasons if not reason.endswith(".") or ". " in reason] == []


def test_every_test_that_the_page_names_is_there() -> None:
    page = (CONTRACTS.parent / "docs" / "contract-tests.md").read_text()
    named = set(re.findall(r"`((?:test|invariant)_\w+)`", page))
    told = set(re.findall(r"walk: \*([\w ]+)\*", page))
    solidity = "\n".join(path.read_text() for path in (CONTRACTS / "test").rglob("*.sol"))
    faults = " ".join(re.findall(r'broken = "([^"]+)"', solidity))
    assert named
    assert [name for name in sorted(named) if f"function {name}(" not in solidity] == []
    assert [words for words in sorted(told) if words not in faults] == []
