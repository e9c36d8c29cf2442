"""``keeper ladder`` shows both ladders with the bounds in force."""

import json
from pathlib import Path

from typer.testing import CliRunner

from keeper.cli import app
from tests.unit.config.test_config import LEAST


def test_both_ladders_are_shown_as_tables() -> None:
    shown = CliRunner().invoke(app, ["ladder"])
    assert shown.exit_code == 0
    for word in ("margin_call", "deleveraging", "E/M < 1.1", "stressed", "reverts 0.5", "feeds_lost"):
        assert word in shown.output


def test_json_has_the_bounds_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keeper.toml"
    path.write_text(LEAST + "[ladder.book]\nreverts = [0.1, 0.2]\n")
    found = json.loads(CliRunner().invoke(app, ["ladder", "--json", "--config", str(path)]).output)
    assert [each["up"].get("reverts") for each in found["book"]] == [None, 0.1, 0.2, None]
    assert [each["rung"] for each in found["account"]][1:4] == ["watch", "margin_call", "suspected"]
