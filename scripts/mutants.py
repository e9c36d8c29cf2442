"""Ask whether the tests would notice if a core formula were wrong.

Each entry of ``contracts/mutants.toml`` is a fault. All of them are put into one copy of the contracts, under
``.cache/mutate``, each behind a switch of its own: where a function has a fault, its body stands there twice,
and who builds the block decides which of the two is run. So the contracts are compiled once and not for each
fault, and the run with no switch on says that the copy is as good as what it was made from.
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
COPY = SCRATCH / "contracts"
IMPORT = re.compile(r'(?:import|from) "(\.[^"]+)"')
FAILED = re.compile(r"\[FAIL[^\n]*\] (\w+)\(")
PASSED = re.compile(r"\b[1-9]\d* tests? passed")
FUZZ_SEED = "1"
"""The same cases in every run, so that a fault noticed today is noticed tomorrow."""
FIRST_SWITCH = 0xFA017000
ABOUT_CODE = "fits_the_size_limit|of_eight_legs|of_four_holdings"
"""Tests of size and gas: the copy's functions have more than one body."""


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


def read_table() -> list[Mutant]:
    """Read the faults, and see that each has its place."""
    mutants = [Mutant(**entry) for entry in tomllib.loads(TABLE.read_text())["mutant"]]
    for mutant in mutants:
        count = (CONTRACTS / mutant.file).read_text().count(mutant.old)
        if count != 1:
            sys.exit(
                f"mutate: {mutant.name}: expected its old text once in {mutant.file}, found {count} times"
            )
        if mutant.file not in closure(mutant.tests):
            sys.exit(f"mutate: {mutant.name}: no test of {', '.join(mutant.tests)} imports {mutant.file}")
    return mutants


def closure(files: Iterable[str]) -> set[str]:
    """Return files of ours with all that they import of ours."""
    found: set[str] = set()
    left = list(files)
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            folder = Path(file).parent
            imported = IMPORT.findall((CONTRACTS / file).read_text())
            left += [os.path.normpath(folder / name) for name in imported]
    return found


def body_around(text: str, at: int) -> tuple[int, int]:
    """Find the body of the function that holds a place: just inside its first and its last brace."""
    start = text.index("{", text.rindex("\n    function ", 0, at)) + 1
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            if not start <= at < end:
                break
            return start, end
    sys.exit(f"mutate: expected a fault inside a function, found it after {text[start - 80 : start]!r}")


def switch(number: int) -> str:
    """Name who builds the blocks in which a fault is on."""
    return f"0x{FIRST_SWITCH + number:040x}"


def with_faults(text: str, mutants: Sequence[tuple[int, Mutant]]) -> str:
    """Give each function that has faults a further body for each of them."""
    bodies = defaultdict(list)
    for number, mutant in mutants:
        bodies[body_around(text, text.index(mutant.old))].append((number, mutant))
    for (start, end), faults in sorted(bodies.items(), reverse=True):
        whole = text[start:end]
        choices = "".join(
            f"if (uint160(address(block.coinbase)) == {FIRST_SWITCH + number}) "
            f"{{{whole.replace(mutant.old, mutant.new)}}} else "
            for number, mutant in faults
        )
        text = f"{text[:start]} {choices} {{{whole}}} {text[end:]}"
    return text


def write_copy(mutants: Sequence[Mutant]) -> None:
    """Copy the tests that are named, and what they import, and put all faults in."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    by_file = defaultdict(list)
    for number, mutant in enumerate(mutants):
        by_file[mutant.file].append((number, mutant))
    for file in closure(test for mutant in mutants for test in mutant.tests):
        text = with_faults((CONTRACTS / file).read_text(), by_file[file])
        (COPY / file).parent.mkdir(parents=True, exist_ok=True)
        # Who asks for the builder of the block is not pure.
        (COPY / file).write_text(re.sub(r"\bpure\b", "view", text))
    shutil.copy(CONTRACTS / "foundry.toml", COPY)
    (COPY / "lib").symlink_to(CONTRACTS / "lib")
    (SCRATCH / "tools").symlink_to(ROOT / "tools")


def first_failure(*chosen: str) -> str | None:
    """Run tests in the copy; return the name of one that failed, None when all passed."""
    ran = subprocess.run(
        ["../tools/bin/forge", "test", "--fuzz-seed", FUZZ_SEED, "--no-match-test", ABOUT_CODE, *chosen],
        cwd=COPY,
        env={**os.environ, "HOME": str(ROOT / ".cache" / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    if failed := FAILED.search(ran.stdout):
        return failed[1]
    if ran.returncode != 0 or not PASSED.search(ran.stdout):
        sys.exit(f"mutate: forge did not get as far as the tests {' '.join(chosen)}\n{ran.stdout[-4000:]}")
    return None


def notices(number: int, mutant: Mutant) -> str | None:
    """Run a fault's tests with it on; return the first that failed."""
    path = mutant.tests[0] if len(mutant.tests) == 1 else "{" + ",".join(mutant.tests) + "}"
    narrowed = ("--match-test", mutant.only) if mutant.only else ()
    return first_failure("--block-coinbase", switch(number), "--match-path", path, *narrowed)


def main() -> None:
    """Say for each fault which test noticed it; fail when none did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="faults to try, all when none is named")
    names = parser.parse_args().names
    table = read_table()
    if unknown := set(names) - {mutant.name for mutant in table}:
        sys.exit(f"mutate: {TABLE.relative_to(ROOT)} has no {', '.join(sorted(unknown))}")
    mutants = [mutant for mutant in table if not names or mutant.name in names]

    began = time.monotonic()
    write_copy(mutants)
    if failed := first_failure():
        sys.exit(f"mutate: {failed} fails without any fault")
    print(f"{time.monotonic() - began:6.0f} s  without a fault every test passes", flush=True)
    survivors = 0
    for number, mutant in enumerate(mutants):
        failed = notices(number, mutant)
        survivors += failed is None
        said = f"noticed by {failed}" if failed else f"NOT NOTICED: {mutant.breaks}"
        print(f"{time.monotonic() - began:6.0f} s  {mutant.name}: {said}", flush=True)
    print(f"mutate: {len(mutants)} faults, {len(mutants) - survivors} noticed, {survivors} not")
    if survivors:
        sys.exit("mutate: a test is missing for each that is not noticed")


if __name__ == "__main__":
    main()
