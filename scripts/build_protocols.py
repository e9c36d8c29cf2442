"""Gather the contracts of other protocols for the tests and the demo: ``.cache/protocols/NAME.json``.

    .venv/bin/python scripts/build_protocols.py [NAME ...]

What a package of ``tools/packages.toml`` brings as source is compiled by one call of ``tools/solc.js``; what
it brings compiled is taken as it is. A file holds ABI, creation code and places of libraries by contract, and
the hash of what it was made from: a second run takes a second. Needs scripts/setup --protocols, and nothing
of the network.
"""

import json
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / ".cache" / "protocols"
IMPORT = re.compile(r"""\bimport\s+(?:[^;"']*?\sfrom\s+)?["']([^"']+)["']\s*;""")
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)

Contracts: TypeAlias = dict[str, dict[str, Any]]


class BuildError(Exception):
    """A protocol cannot be gathered; the text is one line for the person who runs it."""


@dataclass(frozen=True)
class Job:
    """Sources for one call of the compiler; paths are from the root of the repository."""

    entries: tuple[str, ...]
    """The files whose contracts are wanted."""
    remappings: Mapping[str, str] = field(default_factory=dict)
    """What an import begins with, and the folder that it means."""
    version: str = "0.8.28"
    runs: int = 200
    via_ir: bool = False
    evm: str = "cancun"


@dataclass(frozen=True)
class Recipe:
    """What one protocol is made of."""

    jobs: tuple[Job, ...] = ()
    artifacts: tuple[str, ...] = ()
    """Files of ABI and code as their authors compiled them, or folders of such."""


PACKAGES = ".cache/protocols/"
LIBRARIES = "contracts/lib/"
OPENZEPPELIN = LIBRARIES + "openzeppelin-contracts/"
AAVE = PACKAGES + "aave-v3.6/src/contracts/"
IRM = PACKAGES + "adaptive-irm/domains/morphoIrm/contracts/"
SUBJECTS = "contracts/test/subjects/"
PROXY = Job((OPENZEPPELIN + "proxy/ERC1967/ERC1967Proxy.sol",), {"@openzeppelin/contracts/": OPENZEPPELIN})
AAVE_ENTRIES = (
    "protocol/libraries/logic/BorrowLogic",
    "protocol/libraries/logic/ConfiguratorLogic",
    "protocol/libraries/logic/FlashLoanLogic",
    "protocol/libraries/logic/LiquidationLogic",
    "protocol/libraries/logic/PoolLogic",
    "protocol/libraries/logic/SupplyLogic",
    "protocol/configuration/PoolAddressesProvider",
    "protocol/configuration/ACLManager",
    "instances/PoolInstance",
    "instances/PoolConfiguratorInstance",
    "instances/ATokenInstance",
    "instances/VariableDebtTokenInstance",
    "misc/DefaultReserveInterestRateStrategyV2",
    "misc/AaveOracle",
    "misc/PriceOracleSentinel",
    "mocks/oracle/SequencerOracle",
    "helpers/LiquidationDataProvider",
)
SUBJECT_NAMES = ("PriceSource", "FeedOracle", "PreLiquidation", "PoolMaker", "OddToken")
RECIPES: Mapping[str, Recipe] = {
    "subjects": Recipe(jobs=(Job(tuple(f"{SUBJECTS}{name}.sol" for name in SUBJECT_NAMES)),)),
    "aave_v3.6": Recipe(
        jobs=(
            Job(
                tuple(f"{AAVE}{name}.sol" for name in AAVE_ENTRIES),
                {
                    "openzeppelin-contracts/contracts/": OPENZEPPELIN,
                    "@openzeppelin/contracts/": OPENZEPPELIN,
                    "solidity-utils/": PACKAGES + "solidity-utils/src/",
                },
            ),
        )
    ),
    "aave_v3.0": Recipe(artifacts=(PACKAGES + "aave-core-v3/artifacts",)),
    "morpho_blue": Recipe(
        jobs=(
            Job(
                (PACKAGES + "morpho-blue/src/Morpho.sol",),
                version="0.8.19",
                runs=999_999,
                via_ir=True,
                evm="paris",
            ),
            Job((IRM + "AdaptiveCurveIrm.sol",)),
        )
    ),
    "compound_v2": Recipe(jobs=(PROXY,), artifacts=(PACKAGES + "venus/artifacts",)),
    "perp_curie": Recipe(
        artifacts=(PACKAGES + "perp/artifacts", LIBRARIES + "uniswap-v3-core/artifacts"),
    ),
    "exchange": Recipe(
        artifacts=(
            PACKAGES + "uniswap-v2-core/build",
            PACKAGES + "uniswap-v3-periphery/artifacts",
            LIBRARIES + "uniswap-v3-core/artifacts",
        ),
    ),
}


def read(unit: str) -> str:
    """Return the text of a file of the repository or of a package."""
    try:
        return (ROOT / unit).read_text()
    except FileNotFoundError:
        raise BuildError(f"expected the file {unit}; run scripts/setup --protocols") from None


def sources(job: Job) -> dict[str, str]:
    """Return the entries and every file that they import, by path."""
    found: dict[str, str] = {}
    todo = list(job.entries)
    while todo:
        unit = todo.pop()
        if unit not in found:
            found[unit] = read(unit)
            todo += [resolved(unit, path, job) for path in IMPORT.findall(COMMENT.sub("", found[unit]))]
    return found


def resolved(unit: str, path: str, job: Job) -> str:
    """Return the path that an import in ``unit`` means."""
    if path.startswith("."):
        return posixpath.normpath(posixpath.join(posixpath.dirname(unit), path))
    for prefix, folder in job.remappings.items():
        if path.startswith(prefix):
            return folder + path.removeprefix(prefix)
    raise BuildError(f"{unit} imports {path}, which no remapping explains")


def compiler_input(job: Job) -> str:
    """Write the job as the compiler's standard JSON."""
    settings = {
        "optimizer": {"enabled": True, "runs": job.runs},
        "viaIR": job.via_ir,
        "evmVersion": job.evm,
        "remappings": [f"{prefix}={folder}" for prefix, folder in job.remappings.items()],
        "metadata": {"bytecodeHash": "none"},
        "outputSelection": {unit: {"*": ["abi", "evm.bytecode"]} for unit in job.entries},
    }
    units = {unit: {"content": text} for unit, text in sorted(sources(job).items())}
    return json.dumps({"language": "Solidity", "sources": units, "settings": settings}, sort_keys=True)


def compiled(job: Job, text: str) -> Contracts:
    """Compile, or raise BuildError with the first errors."""
    command = [str(ROOT / "tools/bin/node"), str(ROOT / "tools/solc.js"), job.version, "--standard-json"]
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if run.returncode:
        raise BuildError(f"solc {job.version} did not run: {run.stderr.strip()[-400:]}")
    output = json.loads(run.stdout)
    errors = [each["formattedMessage"] for each in output.get("errors", ()) if each["severity"] == "error"]
    if errors:
        raise BuildError(f"solc {job.version} refuses: {errors[0]}")
    return {
        name: {
            "abi": contract["abi"],
            "bytecode": "0x" + contract["evm"]["bytecode"]["object"],
            "linkReferences": contract["evm"]["bytecode"]["linkReferences"],
        }
        for unit in job.entries
        for name, contract in output["contracts"][unit].items()
    }


def shipped(folder: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each artifact of a package."""
    files = sorted(path for path in (ROOT / folder).rglob("*.json") if not path.name.endswith(".dbg.json"))
    if not files:
        raise BuildError(f"expected artifacts in {folder}; run scripts/setup --protocols")
    for path in files:
        yield path.stem, path.read_text()


def build(name: str) -> bool:
    """Gather one protocol; return whether anything had to be done."""
    recipe = RECIPES[name]
    jobs = [(job, compiler_input(job)) for job in recipe.jobs]
    files = [each for folder in recipe.artifacts for each in shipped(folder)]
    made_from = [f"{job.version}\n{text}" for job, text in jobs] + [text for _, text in files]
    key = sha256("\0".join([Path(__file__).read_text(), *made_from]).encode()).hexdigest()
    path = BUILT / f"{name}.json"
    if path.is_file() and json.loads(path.read_text())["key"] == key:
        return False
    contracts: Contracts = {}
    for job, text in jobs:
        contracts |= compiled(job, text)
    for contract, text in files:
        artifact = json.loads(text)
        contracts[contract] = {
            "abi": artifact["abi"],
            # Older compilers wrote it without the prefix, and nothing where nothing is linked.
            "bytecode": "0x" + artifact["bytecode"].removeprefix("0x"),
            "linkReferences": artifact.get("linkReferences", {}),
        }
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"key": key, "contracts": contracts}))
    fresh.replace(path)
    return True


def main(names: Sequence[str]) -> None:
    for name in names or RECIPES:
        if name not in RECIPES:
            raise BuildError(f"expected one of {', '.join(RECIPES)}, found {name}")
        print(f"build_protocols: {name} {'gathered' if build(name) else 'is up to date'}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BuildError as error:
        sys.exit(f"build_protocols: {error}")
