"""Fetch the pinned packages of ``tools/packages.toml`` with npm and unpack each where the list says.

Only the standard library, because it runs before anything is installed. ``npm pack`` is used and not
``npm install``: it fetches the one package asked for, runs no script and follows no dependency.
"""

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
PROGRAMS = TOOLS / "bin"
LIST = TOOLS / "packages.toml"
LEVELS = {
    "demo": {"demo"},
    "protocols": {"demo", "protocols"},
    "dev": {"demo", "dev", "protocols"},
}
"""Which packages of the list are fetched for what the set-up is asked for."""
SOLC = """#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
exec "$here/node" "$here/../solc.js" {version} "$@"
"""


class FetchError(Exception):
    """A tool cannot be had; the text is one line for the person who runs the set-up."""


@dataclass(frozen=True)
class Package:
    """One ``[[package]]`` of the list: what to fetch, what it must hash to, what to keep of it."""

    name: str
    version: str
    integrity: str
    level: str
    into: str
    program: str | None = None
    platform: str | None = None
    keep: tuple[str, ...] = ()
    strip: str = ""
    links: str = ""
    """The file that lists what are symbolic links: npm's tarballs hold none."""

    @property
    def spec(self) -> str:
        """The name and version as npm wants them."""
        return f"{self.name}@{self.version}"

    @property
    def folder(self) -> Path:
        """Where the package is unpacked."""
        return ROOT / self.into

    @property
    def is_here(self) -> bool:
        """Whether this very version was unpacked to its end."""
        mark = self.folder / ".integrity"
        return mark.is_file() and mark.read_text() == self.integrity


def read_packages(path: Path) -> list[Package]:
    """Read the list of pinned packages."""
    rows = tomllib.loads(path.read_text())["package"]
    return [Package(**{**row, "keep": tuple(row.get("keep", ()))}) for row in rows]


def this_platform() -> str:
    """Name the system and processor as the list does, such as ``linux-x86_64``."""
    machine = platform.machine().lower()
    processor = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    return f"{platform.system().lower()}-{processor}"


def first_error(run: subprocess.CompletedProcess[str]) -> str:
    """Return what npm complained of first, in one line."""
    errors = [line for line in run.stderr.splitlines() if line.startswith(("npm error", "npm ERR!"))]
    return errors[0].split(maxsplit=2)[-1] if errors else f"exit {run.returncode}"


def download(package: Package, npm: list[str], folder: Path) -> Path:
    """Fetch one package with npm and return the tarball, refused unless its sha512 is the pinned one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [*npm, "pack", package.spec, "--ignore-scripts", "--pack-destination", str(folder)]
    run = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
    tarballs = list(folder.glob("*.tgz"))
    if run.returncode or len(tarballs) != 1:
        raise FetchError(f"npm could not fetch {package.spec} from its registry: {first_error(run)}")
    digest = hashlib.sha512(tarballs[0].read_bytes()).digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != package.integrity:
        raise FetchError(f"{package.spec}: expected {package.integrity}, found {found}; nothing was unpacked")
    return tarballs[0]


def unpack(package: Package, tarball: Path) -> None:
    """Unpack what is kept; the mark is written last, so that a broken run is not taken for a whole one."""
    shutil.rmtree(package.folder, ignore_errors=True)
    package.folder.mkdir(parents=True)
    with tarfile.open(tarball) as archive:
        for member in archive.getmembers():
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            kept = not package.keep or any(inside.is_relative_to(path) for path in package.keep)
            if not (kept and member.isfile()):
                continue
            if inside.is_absolute() or ".." in inside.parts:
                raise FetchError(f"{package.spec}: refused the path {member.name} in its tarball")
            target = package.folder / inside.relative_to(package.strip)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.extractfile(member) as source, target.open("wb") as sink:  # type: ignore[union-attr]
                shutil.copyfileobj(source, sink)
            target.chmod(0o755 if member.mode & 0o100 else 0o644)
    if package.links:
        link_inside(package)
    (package.folder / ".integrity").write_text(package.integrity)


def link_inside(package: Package) -> None:
    """Make the symbolic links of a package, each beside the file that it points to."""

    def placed(path: str) -> Path:
        return package.folder / PurePosixPath(path).relative_to(package.strip)

    for row in json.loads(placed(package.links).read_text()):
        source, target = placed(row["source"]), placed(row["target"])
        if source.parent != target.parent or ".." in source.parts:
            raise FetchError(f"{package.spec}: refused the link {row['target']} to {row['source']}")
        target.symlink_to(source.name)


def link(name: str, target: Path) -> None:
    """Point ``tools/bin/NAME`` at a program, in one step."""
    fresh = PROGRAMS / f".{name}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, PROGRAMS) if target.is_relative_to(TOOLS) else target)
    fresh.replace(PROGRAMS / name)


def write_solc(version: str) -> None:
    """Write ``tools/bin/solc-VERSION``, the command that forge calls."""
    script = PROGRAMS / f"solc-{version}"
    script.write_text(SOLC.format(version=version))
    script.chmod(0o755)


def provide_programs(packages: list[Package]) -> None:
    """Link the programs fetched, take from PATH what is not pinned for this platform, try each one."""
    for name in sorted({package.program for package in packages if package.program}):
        pinned = [package for package in packages if package.program == name]
        here = [package for package in pinned if package.platform == this_platform()]
        if here:
            link(name, here[0].folder / here[0].keep[0])
        elif other := shutil.which(name):
            print(f"note: {name} {pinned[0].version} is not pinned for {this_platform()}; using {other}")
            link(name, Path(other))
        else:
            want = f"{name} {pinned[0].version}"
            raise FetchError(f"{want} is not pinned for {this_platform()}; put one on PATH and run again")
        trial = subprocess.run([PROGRAMS / name, "--version"], capture_output=True, text=True, check=False)
        if trial.returncode:
            raise FetchError(f"{name} does not run here: {' '.join(trial.stderr.split())[:200]}")


def fetch(level: str, npm: list[str]) -> None:
    """Bring every package of the level that is not there yet; ``npm`` is the command that fetches."""
    packages = [package for package in read_packages(LIST) if package.level in LEVELS[level]]
    for package in packages:
        if package.platform in (None, this_platform()) and not package.is_here:
            folder = ROOT / ".cache" / "pack"
            unpack(package, download(package, npm, folder))
            shutil.rmtree(folder)
    provide_programs(packages)
    for package in packages:
        if package.name == "solc":
            write_solc(package.version)


def lock(npm: list[str]) -> None:
    """Write the sha512 that the registry gives for each version in the list."""
    lines = LIST.read_text().splitlines()
    given = iter(read_packages(LIST))
    for at, line in enumerate(lines):
        if line.startswith("integrity = "):
            spec = next(given).spec
            command = [*npm, "view", spec, "dist.integrity"]
            run = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
            if not run.stdout.startswith("sha512-"):
                raise FetchError(f"npm knows no sha512 of {spec}: {first_error(run)}")
            lines[at] = f'integrity = "{run.stdout.strip()}"'
    LIST.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        if sys.argv[1] == "--lock":
            lock(sys.argv[2:])
        else:
            fetch(sys.argv[1], sys.argv[2:])
    except FetchError as error:
        sys.exit(f"setup: {error}")
