"""Run Slither over our contracts and hold its findings against ``contracts/slither.toml``.

A finding that the page does not explain fails, and so does an explanation that explains nothing any more. The
compiler is asked for the syntax tree alone: Slither needs no bytecode, and making it would take minutes.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
PAGE = CONTRACTS / "slither.toml"
CACHE = ROOT / ".cache" / "slither"
SLITHER = CACHE / "venv" / "bin" / "slither"
SOLC = ROOT / "tools" / "bin" / "solc-0.8.28"
IMPORT = re.compile(r'^\s*(?:import|\} from|import .* from) "([^"]+)";', re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """What one detector says of one place, a function or a variable with its contract's name before it."""

    detector: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.detector} at {self.place}\n    " + self.text.strip().replace("\n", "\n    ")


@dataclass(frozen=True)
class Explanation:
    """One place of an ``[[explained]]`` entry; ``detail`` narrows it to findings that say these words."""

    detector: str
    place: str
    detail: str

    def explains(self, finding: Finding) -> bool:
        same = (self.detector, self.place) == (finding.detector, finding.place)
        return same and self.detail in finding.text

    def __str__(self) -> str:
        return f"{self.detector} at {self.place}" + (f": {self.detail}" if self.detail else "")


def resolve(name: str, importer: str, remappings: dict[str, str]) -> str:
    """Return where an imported file lies below ``contracts/``, as the compiler would look for it."""
    if name.startswith("."):
        return os.path.normpath(Path(importer).parent / name)
    prefix = max((prefix for prefix in remappings if name.startswith(prefix)), key=len)
    return remappings[prefix] + name.removeprefix(prefix)


def sources(remappings: dict[str, str]) -> dict[str, dict[str, str]]:
    """Read our contracts and whatever they import, as the compiler's standard input lists them."""
    found: dict[str, dict[str, str]] = {}
    left = [str(path.relative_to(CONTRACTS)) for path in sorted((CONTRACTS / "src").rglob("*.sol"))]
    while left:
        name = left.pop()
        if name not in found:
            text = (CONTRACTS / name).read_text()
            found[name] = {"content": text}
            left += [resolve(imported, name, remappings) for imported in IMPORT.findall(text)]
    return dict(sorted(found.items()))


def compile_to(folder: Path) -> None:
    """Write what forge calls a build info: syntax trees and interfaces, without bytecode."""
    profile = tomllib.loads((CONTRACTS / "foundry.toml").read_text())["profile"]["default"]
    remappings = dict(line.split("=") for line in profile["remappings"])
    job = {
        "language": "Solidity",
        "sources": sources(remappings),
        "settings": {
            "remappings": profile["remappings"],
            "evmVersion": profile["evm_version"],
            "viaIR": profile["via_ir"],
            "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
            "outputSelection": {"*": {"": ["ast"], "*": ["abi"]}},
        },
    }
    answer = subprocess.run(
        [SOLC, "--standard-json"], input=json.dumps(job), capture_output=True, check=True, text=True
    )
    output = json.loads(answer.stdout)
    if errors := [e["formattedMessage"] for e in output.get("errors", []) if e["severity"] == "error"]:
        sys.exit("slither: our contracts do not compile\n" + "\n".join(errors))
    code = {"object": "", "sourceMap": ""}
    for contracts in output["contracts"].values():
        for contract in contracts.values():
            contract["evm"] = {"bytecode": code, "deployedBytecode": code}
    folder.mkdir(parents=True, exist_ok=True)
    build = {"solcVersion": SOLC.name.removeprefix("solc-"), "input": job, "output": output}
    (folder / "build.json").write_text(json.dumps(build))


def place_of(element: dict[str, Any]) -> str:
    """Name a contract, function or variable: ``Clearing.deposit``, ``Backstop._assign.total``."""
    name: str = element["name"]
    parent = element.get("type_specific_fields", {}).get("parent")
    if parent is None:
        return name
    # An expression has no name of its own.
    return place_of(parent) if element["type"] == "node" else f"{place_of(parent)}.{name}"


def findings(excluded: Iterable[str]) -> Iterator[Finding]:
    """Run Slither with all of its detectors but those excluded."""
    report = CACHE / "report.json"
    report.unlink(missing_ok=True)
    ran = subprocess.run(
        [
            SLITHER,
            ".",
            "--ignore-compile",
            f"--foundry-out-directory={CACHE}",
            "--filter-paths=lib/",
            f"--exclude={','.join(excluded)}",
            f"--json={report}",
        ],
        cwd=CONTRACTS,
        env={**os.environ, "HOME": str(CACHE), "PATH": f"{ROOT / 'tools' / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
        text=True,
    )
    if not report.is_file():
        sys.exit(f"slither: it ended without a report\n{ran.stdout}{ran.stderr}")
    found = json.loads(report.read_text())
    if not found["success"]:
        sys.exit(f"slither: {found['error']}")
    for entry in found["results"].get("detectors", []):
        yield Finding(entry["check"], place_of(entry["elements"][0]), entry["description"])


def explanations(page: dict[str, Any]) -> Iterator[Explanation]:
    """Read the ``[[explained]]`` entries; each place may narrow itself by words after a colon."""
    for entry in page["explained"]:
        if not entry["reason"].strip():
            sys.exit(f"slither: {entry['detector']} is explained without a reason")
        for where in entry["where"]:
            place, _, detail = where.partition(": ")
            yield Explanation(entry["detector"], place, detail)


def main() -> None:
    """Say what is unexplained and what explains nothing; fail where there is either."""
    page = tomllib.loads(PAGE.read_text())
    compile_to(CACHE / "build-info")
    found = sorted(findings(page["excluded"]), key=lambda finding: (finding.detector, finding.place))
    explained = list(explanations(page))
    open_ones = [finding for finding in found if not any(e.explains(finding) for e in explained)]
    idle = [e for e in explained if not any(e.explains(finding) for finding in found)]
    for finding in open_ones:
        print(f"unexplained: {finding}")
    for explanation in idle:
        print(f"explains nothing: {explanation}")
    print(
        f"slither: {len(found)} findings, {len(open_ones)} unexplained; {len(idle)} explanations of nothing"
    )
    if open_ones or idle:
        sys.exit(f"slither: fix what is a fault, and explain the rest in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
