"""The one shape of a benchmark."""

import json
import sys
from pathlib import Path

import pytest

from keeper.lab.bench import STDOUT, Row, arguments, report, timed


def test_a_case_is_measured_without_its_warm_up_and_told_per_account() -> None:
    done: list[int] = []
    row = timed("case", 500, [lambda: done.append(1)] * 4, per=10, warm_up=2)
    assert (row.case, row.n, len(done)) == ("case", 500, 4)
    assert 0 <= row.min_us <= row.median_us <= row.p99_us


def test_a_baseline_is_told_with_how_many_times_as_long_it_takes() -> None:
    slow, fast = Row("slow", 1, 7.0, 10.0, 20.0), Row("fast", 1, 1.0, 2.0, 3.0)
    assert fast.against(slow) == Row("fast", 1, 1.0, 2.0, 3.0, "slow", 5.0)


@pytest.mark.parametrize(
    ("bounds", "passed"),
    [
        ({"median_us": 2.0, "p99_us": 3.0, "ratio": 5.0}, True),
        ({"median_us": 1.9}, False),
        ({"median_us": 2.0, "p99_us": 2.9}, False),
        ({"ratio": 5.1}, False),
    ],
)
def test_a_row_passes_where_it_is_within_all_its_bounds(bounds: dict[str, float], *, passed: bool) -> None:
    row = Row("fast", 1, 1.0, 2.0, 3.0, "slow", 5.0).within(**bounds)
    assert (row.bounds, row.passed) == (bounds, passed)


def test_a_row_without_a_baseline_is_not_so_many_times_as_fast() -> None:
    assert Row("alone", 1, 1.0, 2.0, 3.0).within(ratio=1.0).passed is False


def test_the_table_says_what_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row("slow", 1000, 7.0, 10.0, 20.0).within(p99_us=10.0),
        Row("fast", 1000, 1.0, 2.0, 3.0, "slow", 5.0).within(median_us=2_500.0, ratio=2),
    ]
    report("Title", rows, json_path=tmp_path / "found.json", notes={"memory": "3 MB"})
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() == {"commit", "machine", "rows", "notes"}
    assert found["notes"] == {"memory": "3 MB"}
    assert [Row(**each) for each in found["rows"]] == rows
    printed = capsys.readouterr().out
    assert "5.0 x slow" in printed
    assert "p99_us <= 10: failed" in printed
    assert "median_us <= 2,500, ratio >= 2: passed" in printed
    assert "memory: 3 MB" in printed


def test_without_a_file_the_rows_are_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("slow", 1000, 7.0, 10.0, 20.0)]
    report("Title", rows, json_path=STDOUT)
    assert [Row(**each) for each in json.loads(capsys.readouterr().out)["rows"]] == rows


def test_the_file_may_be_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for words, path in (([], None), (["--json"], STDOUT), (["--json", str(tmp_path / "a")], tmp_path / "a")):
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        assert arguments("What it measures.").json == path
