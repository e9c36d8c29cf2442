"""A short run of what ``scripts/kills`` does at length; and that it finds what is wrong, where it is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def kills(found: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Kill keepers; return with what code that ended, and what was found."""
    # In a process of its own: keepers are forked, and a process with threads is better not.
    command = [sys.executable, "-m", "tests.kills", "--json", str(found), *options]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    return done.returncode, json.loads(found.read_text())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "postgres", "power"])
def test_whoever_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path, store: str) -> None:
    code, found = kills(tmp_path / "found", "--store", store, "--kills", "10", "--seed", "5")
    assert found["wrong"] == []
    assert code == 0
    assert found["kills"] >= 10
    assert found["transactions"] > 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broken", "store", "seed", "words"),
    [
        ("signs-late", "sqlite", 3, "the journal has no such bytes"),
        ("forgets", "sqlite", 1, "for ever"),
        ("gives-up", "sqlite", 1, "was given up"),
        ("spends-freely", "sqlite", 1, "wei were spent or out at once"),
        ("never-syncs", "power", 1, "transactions are out, and"),
    ],
)
def test_a_keeper_that_is_broken_is_found_out(
    tmp_path: Path, broken: str, store: str, seed: int, words: str
) -> None:
    options = ("--broken", broken, "--store", store, "--seed", str(seed), "--kills", "100")
    code, found = kills(tmp_path / "found", *options)
    assert code == 1
    assert words in "; ".join(found["wrong"])
