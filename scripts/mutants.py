"""Ask whether the tests would notice if a core formula were wrong.

Each entry of ``contracts/mutants.toml`` is a fault. It is put into a copy of the contracts under
``.cache/mutate``, the tests that it names are run, and one of them must fail. A copy holds tests and what
they import, and each fault goes into a build of the contracts as they are, so that little is compiled again.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"
TABLE = CONTRACTS / "mutants.toml"
SCRATCH = ROOT / ".cache" / "mutate"
BUILD = ("out", "cache")
IMPORT = re.compile(r'(?:import|from) "(\.[^"]+)"')
FAILED = re.compile(r"\[FAIL[^\n]*\] (\w+)\(")
PASSED = re.compile(r"\b[1-9]\d* tests? passed")
FUZZ_SEED = "1"
"""The same cases in every run, so that a fault noticed today is noticed tomorrow."""


@dataclass(frozen=True)
class Mutant:
    """One fault: what stands in a file, what is put there instead, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    breaks: str
    tests: Sequence[str]
    only: str = ""

    def of(self, text: str) -> str:
        """Return the file's text with the fault in it."""
        if (count := text.count(self.old)) != 1:
            sys.exit(
                f"mutate: {self.name}: expected its old text once in {self.file}, found it {count} times"
            )
        return text.replace(self.old, self.new)


class Copy:
    """Some tests and what they import, with a build of them without any fault."""

    def __init__(self, name: str, files: Iterable[str]) -> None:
        self._kept = SCRATCH / name
        self._contracts = self._kept / "contracts"
        for file in files:
            (self._contracts / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CONTRACTS / file, self._contracts / file)
        shutil.copy(CONTRACTS / "foundry.toml", self._contracts)
        (self._contracts / "lib").symlink_to(CONTRACTS / "lib")
        (self._kept / "tools").symlink_to(ROOT / "tools")

    def build(self) -> None:
        """Compile it, see that no test fails without a fault, and keep the build."""
        if failed := self._first_failure():
            sys.exit(f"mutate: {failed} fails without any fault")
        self._copy_build(self._contracts, self._kept)

    def notices(self, mutant: Mutant) -> str | None:
        """Put a fault in, run its tests, take it out again; return the first test that failed."""
        self._copy_build(self._kept, self._contracts)
        file = self._contracts / mutant.file
        text = file.read_text()
        file.write_text(mutant.of(text))
        path = mutant.tests[0] if len(mutant.tests) == 1 else "{" + ",".join(mutant.tests) + "}"
        narrowed = ("--match-test", mutant.only) if mutant.only else ()
        try:
            return self._first_failure("--match-path", path, *narrowed)
        finally:
            file.write_text(text)

    def _copy_build(self, source: Path, target: Path) -> None:
        for name in BUILD:
            shutil.rmtree(target / name, ignore_errors=True)
            shutil.copytree(source / name, target / name)

    def _first_failure(self, *chosen: str) -> str | None:
        """Run tests; return the name of one that failed, None when all passed."""
        ran = subprocess.run(
            ["../tools/bin/forge", "test", "--fuzz-seed", FUZZ_SEED, *chosen],
            cwd=self._contracts,
            env={**os.environ, "HOME": str(ROOT / ".cache" / "home")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
        )
        if failed := FAILED.search(ran.stdout):
            return failed[1]
        if ran.returncode != 0 or not PASSED.search(ran.stdout):
            sys.exit(
                f"mutate: forge did not get as far as the tests {' '.join(chosen)}\n{ran.stdout[-4000:]}"
            )
        return None


def closure(files: Iterable[str]) -> frozenset[str]:
    """Return files of ours with all that they import of ours."""
    found: set[str] = set()
    left = list(files)
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            folder = Path(file).parent
            left += [
                os.path.normpath(folder / imported)
                for imported in IMPORT.findall((CONTRACTS / file).read_text())
            ]
    return frozenset(found)


def read_table(names: Sequence[str]) -> list[Mutant]:
    """Read the faults, or those of some names."""
    mutants = [Mutant(**entry) for entry in tomllib.loads(TABLE.read_text())["mutant"]]
    if unknown := set(names) - {mutant.name for mutant in mutants}:
        sys.exit(f"mutate: {TABLE.relative_to(ROOT)} has no {', '.join(sorted(unknown))}")
    for mutant in mutants:
        mutant.of((CONTRACTS / mutant.file).read_text())
        if mutant.file not in closure(mutant.tests):
            sys.exit(f"mutate: {mutant.name}: no test of {', '.join(mutant.tests)} imports {mutant.file}")
    return [mutant for mutant in mutants if not names or mutant.name in names]


def by_sources(mutants: Iterable[Mutant]) -> dict[frozenset[str], list[Mutant]]:
    """Group faults whose tests import the same contracts, so that they share a copy."""
    groups = defaultdict(list)
    for mutant in mutants:
        groups[frozenset(f for f in closure(mutant.tests) if not f.startswith("test/"))].append(mutant)
    return groups


def main() -> None:
    """Say for each fault which test noticed it; fail when none did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="faults to try, all when none is named")
    mutants = read_table(parser.parse_args().names)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    began = time.monotonic()
    survivors = []
    tried = 0
    for number, group in enumerate(by_sources(mutants).values()):
        copy = Copy(str(number), closure(test for mutant in group for test in mutant.tests))
        copy.build()
        for mutant in group:
            failed = copy.notices(mutant)
            tried += 1
            if failed is None:
                survivors.append(mutant)
            seen = f"noticed by {failed}" if failed else f"NOT NOTICED: {mutant.breaks}"
            print(
                f"{time.monotonic() - began:6.0f} s  {tried:3}/{len(mutants)}  {mutant.name}: {seen}",
                flush=True,
            )
    print(f"mutate: {len(mutants)} faults, {len(mutants) - len(survivors)} noticed, {len(survivors)} not")
    if survivors:
        sys.exit("mutate: a test is missing for each that is not noticed")


if __name__ == "__main__":
    main()
