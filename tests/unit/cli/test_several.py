"""Which deployments one process can keep: refused before any node is asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keeper.cli import app
from keeper.errors import ConfigError

LEAST = """\
[chain]
http = "http://127.0.0.1:9"
ws = "ws://127.0.0.1:9"
chain_id = {chain_id}

[deployment]
reader = "0x{deployment:040x}"

[feed]
path = "prices.csv"

[journal]
path = "{name}.sqlite"
{journal}

[mirror]
snapshot = "{book}.book"

[health]
port = {port}
"""


URL = "postgresql://keeper:hunter2@127.0.0.1:9/none"


def written(path: Path, **other: object) -> str:
    name = path.stem
    told = {"chain_id": 31337, "deployment": 7, "name": name, "book": name, "port": 9_000 + ord(name)}
    told["journal"] = ""
    path.write_text(LEAST.format(**told | other))
    return str(path)


def refusal(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["run", *arguments])
    assert isinstance(done.exception, ConfigError)
    return str(done.exception)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"chain_id": 1}, r"b.toml: \[chain\] is not that of .*a.toml, and one process keeps one chain"),
        ({"name": "a"}, r"b.toml: journal.path is that of .*a.toml: .*a.sqlite"),
        ({"book": "a"}, r"b.toml: mirror.snapshot is that of .*a.toml: .*a.book"),
        ({"port": 9_097}, r"b.toml: health.port is that of .*a.toml: 9097"),
        (
            {"journal": f'url = "{URL}"'},
            r"b.toml: journal.url is not that of .*a.toml, and one wallet has one",
        ),
    ],
    ids=["chain", "journal", "book", "port", "server"],
)
def test_what_two_deployments_cannot_share_is_named(
    other: dict[str, object], words: str, tmp_path: Path
) -> None:
    configs = written(tmp_path / "a.toml"), written(tmp_path / "b.toml", **other)
    assert re.search(words, refusal("--config", configs[0], "--config", configs[1]))


def test_deployments_on_one_server_have_a_schema_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPER_JOURNAL__URL", URL)
    configs = written(tmp_path / "a.toml"), written(tmp_path / "b.toml")
    said = refusal("--config", configs[0], "--config", configs[1])
    assert re.search(r"b.toml: journal.schema_name is that of .*a.toml: keeper$", said)


def test_a_published_book_is_of_one_deployment(tmp_path: Path) -> None:
    book = tmp_path / "book"
    configs = written(tmp_path / "a.toml"), written(tmp_path / "b.toml")
    said = refusal("--config", configs[0], "--config", configs[1], "--snapshot", str(book))
    assert said.startswith("--snapshot is the book of one deployment")
