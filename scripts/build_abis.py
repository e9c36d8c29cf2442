"""Write ``abis/`` from a fresh forge build of our contracts, or check that it is up to date.

Each concrete contract under ``contracts/src`` and ``contracts/demo`` becomes ``abis/FOLDER/NAME.json``, where
``FOLDERS`` says which, and ``abis/SOURCES.toml`` says what each was made from. The same sources give the same
bytes on every machine: no path outside the repository, no time, and the whole set compiled at once, since
what else is compiled with a contract may change its code.
"""

import argparse
import hashlib
import json
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ABIS = ROOT / "abis"
CONTRACTS = ROOT / "contracts"
OWN = ("src/", "demo/")
FOLDERS = {"src/readers/": "readers", "src/flash/": "flash"}
"""Where the contracts go that are not HybridMargin's own."""
SETTINGS = ("evmVersion", "viaIR", "optimizer", "metadata")
"""The compiler's settings that decide what comes out."""


@dataclass(frozen=True)
class Built:
    """One contract as forge built it."""

    name: str
    source: str
    artifact: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def file(self) -> str:
        """Where it is published, below ``abis/``."""
        folders = (folder for begins, folder in FOLDERS.items() if self.source.startswith(begins))
        return f"{next(folders, 'hybrid')}/{self.name}.json"

    @property
    def text(self) -> str:
        """The published artifact; the same for the same sources."""
        published: dict[str, Any] = {
            "contractName": self.name,
            "abi": self.artifact["abi"],
            "bytecode": self.artifact["bytecode"]["object"],
            "deployedBytecode": self.artifact["deployedBytecode"]["object"],
        }
        if links := self.artifact["bytecode"]["linkReferences"]:
            published["linkReferences"] = links
        return json.dumps(published, indent=1, sort_keys=True) + "\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def has_code_to_deploy(artifact: dict[str, Any]) -> bool:
    """Tell a contract, or a library with functions of its own, from an interface or a library inlined."""
    callable_parts = {"function", "receive", "fallback"} & {part["type"] for part in artifact["abi"]}
    return artifact["bytecode"]["object"] != "0x" and bool(callable_parts)


def read_build(out: Path) -> Iterator[Built]:
    """Read our own concrete contracts from forge's output folder."""
    for path in sorted(out.glob("*.sol/*.json")):
        artifact = json.loads(path.read_text())
        metadata = artifact.get("metadata") or {}
        for source, name in metadata.get("settings", {}).get("compilationTarget", {}).items():
            if source.startswith(OWN) and has_code_to_deploy(artifact):
                yield Built(name, source, artifact, metadata)


def tree_hash(sources: list[str]) -> str:
    """Hash the files a contract is made of: the sha256 of lines ``sha256 path`` sorted by path."""
    lines = [f"{sha256((CONTRACTS / source).read_bytes())} {source}\n" for source in sorted(sources)]
    return sha256("".join(lines).encode())


def packages_of(sources: list[str]) -> list[str]:
    """Name the packages, with version, that some of the files come from."""
    pinned = tomllib.loads((ROOT / "tools" / "packages.toml").read_text())["package"]
    return sorted(
        f"{package['name']}@{package['version']}"
        for package in pinned
        if any(f"contracts/{source}".startswith(package["into"] + "/") for source in sources)
    )


def describe(contracts: list[Built]) -> str:
    """Write the text of ``SOURCES.toml``; a JSON string is also a TOML string."""
    metadata = contracts[0].metadata
    lines = [
        "# Written by scripts/build-contracts: what each artifact in this folder was made from.",
        "# sources_sha256 covers the contract's file and every file it imports, libraries included.",
        "",
        "[compiler]",
        f"solc = {json.dumps(metadata['compiler']['version'])}",
    ]
    for key in SETTINGS:
        value = metadata["settings"].get(key, False)
        parts = (
            {f"{key}.{part}": inner for part, inner in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
        lines += [f"{name} = {json.dumps(inner)}" for name, inner in sorted(parts.items())]
    for contract in contracts:
        sources = list(contract.metadata["sources"])
        lines += [
            "",
            f'["{contract.file}"]',
            f'source = "contracts/{contract.source}"',
            f"packages = {json.dumps(packages_of(sources))}",
            f'sources_sha256 = "{tree_hash(sources)}"',
            f'artifact_sha256 = "{sha256(contract.text.encode())}"',
        ]
    return "\n".join(lines) + "\n"


def render(out: Path) -> dict[Path, str]:
    """Return every file of ``abis/`` and its text."""
    contracts = sorted(read_build(out), key=lambda contract: contract.name)
    names = [contract.name for contract in contracts]
    if not names:
        sys.exit(f"build-contracts: expected our contracts in {out}, found none")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        sys.exit(f"build-contracts: expected one contract of each name, found two called {', '.join(twice)}")
    files = {ABIS / contract.file: contract.text for contract in contracts}
    return {**files, ABIS / "SOURCES.toml": describe(contracts)}


def main() -> None:
    """Write the files, or with ``--check`` name those that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="forge's output folder")
    parser.add_argument(
        "--check", action="store_true", help="compare with the committed files, write nothing"
    )
    arguments = parser.parse_args()

    wanted = render(arguments.out)
    stale = {path for path in ABIS.glob("*/*.json") if path not in wanted}
    differing = {path for path, text in wanted.items() if not path.is_file() or path.read_text() != text}
    changed = sorted(str(path.relative_to(ROOT)) for path in stale | differing)
    if arguments.check:
        if changed:
            sys.exit(f"build-contracts: out of date: {', '.join(changed)}; run scripts/build-contracts")
        print(f"build-contracts: {len(wanted)} files match a fresh build")
        return
    for path in stale:
        path.unlink()
    for path in differing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
    print(f"build-contracts: {len(wanted)} files, changed: {', '.join(changed) or 'none'}")


if __name__ == "__main__":
    main()
