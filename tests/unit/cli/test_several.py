"""Which deployments one process can keep: refused before any node is asked."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keeper.cli import app
from keeper.cli.together import Berth, expect_apart, expect_only_keeper
from keeper.config import load
from keeper.deployments import MorphoDeployment, in_common, name_of
from keeper.errors import ConfigError
from keeper.journal.wallet import Wallet
from keeper.state.part import Part

LEAST = """\
[chain]
http = "http://127.0.0.1:9"
ws = "ws://127.0.0.1:9"
chain_id = {chain_id}

[deployment]
reader = "0x{deployment:040x}"
part = "{part}"

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
    told = {
        "chain_id": 31337,
        "deployment": ord(name),
        "part": "1/1",
        "name": name,
        "book": name,
        "port": 9_000 + ord(name),
        "journal": "",
    }
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


def test_a_published_book_is_of_one_whole_deployment(tmp_path: Path) -> None:
    book = str(tmp_path / "book")
    configs = written(tmp_path / "a.toml"), written(tmp_path / "b.toml")
    said = refusal("--config", configs[0], "--config", configs[1], "--snapshot", book)
    assert said.startswith("--snapshot is the book of one whole deployment")
    half = written(tmp_path / "c.toml", part="1/2")
    said = refusal("--config", half, "--snapshot", book)
    assert said.startswith("--snapshot is the book of one whole deployment")


SAME = {"deployment": 7}


@pytest.mark.parametrize(
    ("parts", "shared"),
    [
        (("1/1", "1/1"), "accounts of 0x0000000000000000000000000000000000000007"),
        (("1/2", "1/2"), "accounts of 0x0000000000000000000000000000000000000007 part 1/2"),
        (("1/1", "2/3"), "accounts of 0x0000000000000000000000000000000000000007;"),
        (("1/2", "3/4"), "accounts of 0x0000000000000000000000000000000000000007 part 1/2"),
        (("1/2", "2/3"), "accounts of 0x0000000000000000000000000000000000000007 part 1/2"),
        (("1/2", "2/2"), ""),
        (("1/2", "2/4"), ""),
    ],
    ids=str,
)
def test_an_account_is_kept_by_one_wallet_only(parts: tuple[str, str], shared: str, tmp_path: Path) -> None:
    one, other = (
        written(tmp_path / f"{name}.toml", part=part, **SAME) for name, part in zip("ab", parts, strict=True)
    )
    files = {Path(each): load(Path(each)) for each in (one, other)}
    if not shared:
        expect_apart(files, None)
        return
    said = refusal("--config", one, "--config", other)
    assert said.startswith(f"{other}: [deployment] keeps what {one} does, {shared}")


@dataclass(frozen=True)
class Listed:
    """A market, as far as it is known by its contracts."""

    addresses: tuple[str, ...]


def test_a_deployment_that_goes_by_two_readers_is_recognised_by_its_contracts(tmp_path: Path) -> None:
    def kept(name: str, part: str, *contracts: str) -> None:
        file, market = Path(written(tmp_path / f"{name}.toml", part=part)), Listed(contracts)
        expect_only_keeper(berth, file, load(file), market)  # type: ignore[arg-type]

    berth = Berth(None, defaultdict(Wallet), {}, ())  # type: ignore[arg-type]
    kept("a", "1/2", "0xclearing", "0xoracle")
    kept("b", "2/2", "0xclearing", "0xoracle")
    kept("c", "1/1", "0xother")
    with pytest.raises(
        ConfigError, match=r"d\.toml: \[deployment\] keeps what .*a\.toml does, accounts of 0x"
    ):
        kept("d", "1/1", "0xoracle")


@pytest.mark.parametrize(
    ("markets", "parts", "shared"),
    [
        (("ab", "cd"), ("1/1", "1/1"), ""),
        (("ab", "bc"), ("1/1", "1/1"), "b"),
        (("abc", "cxa"), ("1/1", "1/1"), "ac"),
        (("ab", "ab"), ("1/2", "2/2"), ""),
        (("ab", "bc"), ("2/2", "2/2"), "b"),
    ],
    ids=str,
)
def test_markets_of_morpho_blue_are_divided_among_wallets(
    markets: tuple[str, str], parts: tuple[str, str], shared: str
) -> None:
    one, other = (
        MorphoDeployment(
            protocol="morpho_blue",
            morpho="0x" + "07" * 20,
            part=part,
            markets=tuple(f"0x{ord(each):064x}" for each in some),
        )
        for some, part in zip(markets, parts, strict=True)
    )
    assert in_common(one, other) == ", ".join(f"market 0x{ord(each):064x}" for each in shared)


def test_markets_that_are_kept_are_the_scope_of_the_search(tmp_path: Path) -> None:
    ids = [f"0x{number:064x}" for number in (9, 7)]
    morpho = MorphoDeployment(protocol="morpho_blue", morpho="0x" + "07" * 20, markets=tuple(ids))
    whole = load(Path(written(tmp_path / "a.toml")))
    listed = whole.model_copy(update={"deployment": morpho})
    scopes = [each.pipeline_params(dry_run=False).scope for each in (whole, listed)]
    assert scopes == ["", " ".join(ids[::-1])]


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "1/2/3", "-1/2", "1/100", "a/b"])
def test_a_part_that_is_none_is_refused(part: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"deployment\.part: "):
        load(Path(written(tmp_path / "a.toml", part=part)))


def test_journal_and_book_know_the_part_of_a_deployment(tmp_path: Path) -> None:
    whole, half = (
        load(Path(written(tmp_path / f"{name}.toml", part=part, **SAME)))
        for name, part in {"a": "1/1", "b": "1/2"}.items()
    )
    address = whole.deployment.address
    assert [name_of(each.deployment) for each in (whole, half)] == [address, f"{address} part 1/2"]
    assert half.shelf(dry_run=False).deployment == f"{address} part 1/2"
    assert half.pipeline_params(dry_run=False).part == Part(1, 2)
    assert type(half)(**half.told()).deployment == half.deployment
