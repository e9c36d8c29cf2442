"""What no type checker and no linter sees: that words, drawings, files and code tell the same story."""

import ast
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from typer.main import get_group

from keeper.alerts.teller import URLS_VARIABLE
from keeper.cli import app
from keeper.config import Config
from keeper.domain import EventKind, HybridAct
from keeper.execute.keys import (
    KEY_VARIABLE,
    PASSPHRASE_VARIABLE,
    RELAY_KEY_VARIABLE,
    REPORTER_KEYS_VARIABLE,
    TOKEN_VARIABLE,
)
from keeper.lifecycle import TABLE, Status, diagram
from keeper.protocols.hybrid import codec
from keeper.protocols.hybrid.abi import CONTRACTS, artifact, load

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "keeper").rglob("*.py"))
ARTIFACTS = sorted((ROOT / "abis").rglob("*.json"))
SPOKEN = codec._EVENTS
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = set(get_group(app).commands)
FORBIDDEN = {
    "the host of a package registry": r"registry[.](npmjs|yarnpkg)|pypi[.]org|pythonhosted[.]org|crates[.]io",
    "a path in somebody's home": r"([/]home|[/]Users)/\w|(?<![\w.])[/]root/",
    "a path of a workshop": r"(?<![\w.])[/]work/\w",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
}


def ours() -> list[Path]:
    """Return every file that is tracked, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


# --- the life of a case --------------------------------------------------------------------------


def test_the_lifecycle_is_drawn_from_its_table() -> None:
    drawn = re.findall(r"```mermaid\n(.*?)\n```", (ROOT / "docs" / "lifecycle.md").read_text(), re.DOTALL)
    assert drawn == [diagram()]


def test_every_event_and_every_status_has_its_place_in_the_table() -> None:
    assert {kind for _, kind in TABLE} == set(EventKind)
    assert {source for source, _ in TABLE} == {None, *Status}
    assert set(TABLE.values()) == set(Status)


# --- files ---------------------------------------------------------------------------------------


def test_the_example_environment_names_what_the_keeper_reads() -> None:
    example = (ROOT / ".env.example").read_text()
    lines = re.findall(r"^#?(\w+)=(.*)$", example, re.MULTILINE)
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    settings = {
        f"KEEPER_{section}__{setting}".upper()
        for section, model in sections.items()
        for setting in getattr(model, "model_fields", ())
    }
    named = [name for name, _ in lines]
    secrets = {
        KEY_VARIABLE,
        PASSPHRASE_VARIABLE,
        RELAY_KEY_VARIABLE,
        REPORTER_KEYS_VARIABLE,
        TOKEN_VARIABLE,
        URLS_VARIABLE,
    }
    assert set(named) <= settings | secrets
    assert secrets <= set(named)
    assert all(not value or "://127.0.0.1:" in value for _, value in lines), "an example holds no secret"


@pytest.mark.parametrize(("what", "pattern"), FORBIDDEN.items(), ids=list(FORBIDDEN))
def test_no_file_of_ours_tells_where_it_was_made(what: str, pattern: str) -> None:
    found = []
    for path in ours():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {what}: {match[0]}" for match in re.finditer(pattern, text)]
    assert found == []


def test_no_source_of_another_licence_is_ours() -> None:
    sources = [path for path in ours() if path.suffix == ".sol"]
    assert sources
    foreign = [path for path in sources if "SPDX-License-Identifier: MIT\n" not in path.read_text()]
    assert [str(path.relative_to(ROOT)) for path in foreign] == []


def test_an_environment_that_is_a_link_is_refused_and_not_emptied(tmp_path: Path) -> None:
    theirs, clone = tmp_path / "theirs", tmp_path / "clone"
    for folder in (theirs, clone / "scripts"):
        folder.mkdir(parents=True)
    kept = theirs / "kept"
    kept.touch()
    (clone / ".venv").symlink_to(theirs)
    setup = shutil.copy(ROOT / "scripts" / "setup", clone / "scripts")
    done = subprocess.run([setup], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f".venv is a symbolic link to {theirs}" in done.stderr
    assert kept.exists()


def test_no_two_test_files_share_a_name() -> None:
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_module_says_what_it_is_for() -> None:
    told = {path.relative_to(ROOT): ast.get_docstring(ast.parse(path.read_text())) for path in MODULES}
    assert [str(path) for path, words in told.items() if not words] == []


# --- pages ---------------------------------------------------------------------------------------


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+[.]md)", (ROOT / "README.md").read_text()))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    files = re.findall(r"`((?:keeper|tests|scripts|contracts|docs|tools|abis)/[\w./-]+)`", text)
    commands = re.findall(r"(?:`|^ {4})(?:[\w.]+/)*keeper ([a-z][a-z-]*)", text, re.MULTILINE)
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [name for name in files if "NAME" not in name and not (ROOT / name).exists()] == []
    assert {*commands} <= COMMANDS


# --- the contracts' interfaces -------------------------------------------------------------------


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_contract_that_is_spoken_to_has_a_published_interface(contract: str) -> None:
    assert load(contract).functions
    published = artifact(contract)
    assert published["contractName"] == contract
    assert int(published["deployedBytecode"].removeprefix("0x"), 16)
    for name, words in SPOKEN.get(contract, {}).items():
        assert len(words) == len(load(contract).events[name].parameters), name


def test_every_act_has_a_function_of_the_contracts() -> None:
    functions = {name.lower() for contract in ("Liquidator", "Clearing") for name in load(contract).functions}
    assert {kind.__name__.lower() for kind in HybridAct.__args__} <= functions


def test_every_published_interface_is_the_file_that_its_source_is_told_of() -> None:
    sources = tomllib.loads((ROOT / "abis" / "SOURCES.toml").read_text())
    hashes = {name: told["artifact_sha256"] for name, told in sources.items() if name != "compiler"}
    folder = ROOT / "abis"
    found = {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in ARTIFACTS}
    assert found == hashes
    assert {f"hybrid/{contract}.json" for contract in CONTRACTS} <= found.keys()
