"""The script that backtests one's own closes, run on made ones."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "backtest_tail.py"


def run(monkeypatch: pytest.MonkeyPatch, *given: object) -> None:
    monkeypatch.setattr(sys, "argv", ["backtest_tail.py", *map(str, given)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture
def closes(tmp_path: Path) -> Path:
    moves = 0.03 * np.random.default_rng(1).standard_t(4, (900, 2))
    lines = [
        f"{day},{one:.6f},{two:.6f}" for day, (one, two) in enumerate(100 * np.exp(moves.cumsum(axis=0)))
    ]
    path = tmp_path / "closes.csv"
    path.write_text("\n".join(["day,one,two", *lines]))
    return path


def test_ones_own_closes_are_walked_through(
    closes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    book = ("--close", "one", "two", "--weights", 0.6, 0.4)
    run(monkeypatch, closes, *book, "--level", 0.99, "--window", 400)
    head, filtered, normal = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["forecast", "level", "n", "expected", "found"]
    assert filtered.split()[:4] == ["filtered", "0.99", "499", "5.0"]
    assert normal.split()[:5] == ["EWMA", "normal", "0.99", "499", "5.0"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--close", "three"), "must have a column 'three', found day, one, two"),
        (("--close", "one", "two"), "weights must have the shape [2], found [1]"),
        (("--close", "one", "--window", 899), "window must be a whole number in [1, 898], found 899"),
        (("--close", "one", "--level", 99), "level must lie in (0, 1), found 99.0"),
    ],
)
def test_what_cannot_be_walked_through_is_told(
    closes: Path,
    given: tuple[object, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, closes, *given)
    assert said in capsys.readouterr().err
