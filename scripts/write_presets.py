"""Write ``keeper/presets/``: where Aave v3 and Morpho Blue are, as their own packages say it.

Nothing is typed by hand: Node reads the packages that ``tools/packages.toml`` pins, and what it prints
becomes TOML, one table a chain.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / ".cache" / "protocols"
PRESETS = ROOT / "keeper" / "presets"
CHAINS = {"ethereum": "Ethereum", "base": "Base", "arbitrum": "Arbitrum"}
"""What a chain is called in a preset, and in Aave's book."""

AAVE = """
const found = {};
for (const [name, file] of Object.entries(JSON.parse(process.argv[1]))) {
    const book = require(`${process.argv[2]}/dist/AaveV3${file}.js`);
    found[name] = {
        chain_id: book.CHAIN_ID, pool: book.POOL, implementation: book.POOL_IMPL,
    };
}
console.log(JSON.stringify(found));
"""
MORPHO = """
const { addressesRegistry, deployments } = require(`${process.argv[2]}/lib/cjs/addresses.js`);
const ids = JSON.parse(process.argv[1]);
const found = {};
for (const [name, id] of Object.entries(ids)) {
    const at = addressesRegistry[id];
    found[name] = {
        chain_id: id, morpho: at.morpho, pre_liquidation_factory: at.preLiquidationFactory,
        from_block: Number(deployments[id].morpho),
    };
}
console.log(JSON.stringify(found));
"""


def ask(script: str, argument: Mapping[str, Any], package: Path) -> dict[str, dict[str, Any]]:
    """Run a script in Node, which is given an argument and where a package lies."""
    command = [str(ROOT / "tools/bin/node"), "-e", script, json.dumps(argument), str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"presets: {package.name} cannot be read: {done.stderr.strip()}")
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def told(tables: Mapping[str, Mapping[str, Any]], package: Path) -> str:
    """Write one file; a JSON string and an integer are TOML as well."""
    made = json.loads((package / "package.json").read_text())
    source = f"{made['name']} {made['version']} ({made['license']})"
    lines = [f"# Written by scripts/presets from {source}."]
    for chain, values in tables.items():
        lines += ["", f"[{chain}]"]
        lines += [f"{name} = {json.dumps(_lower(value))}" for name, value in values.items()]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def main() -> None:
    """Write the files, or with ``--check`` name those that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args().check

    aave, morpho = PACKAGES / "aave-address-book", PACKAGES / "morpho-ts"
    by_aave = ask(AAVE, CHAINS, aave)
    ids = {chain: values["chain_id"] for chain, values in by_aave.items()}
    files = {
        PRESETS / "aave_v3.toml": told(by_aave, aave),
        PRESETS / "morpho_blue.toml": told(ask(MORPHO, ids, morpho), morpho),
    }
    changed = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    names = ", ".join(path.name for path in changed) or "none"
    if check and changed:
        sys.exit(f"presets: not as their packages have it: {names}; run scripts/presets")
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    print(f"presets: {len(files)} files, changed: {names}")


if __name__ == "__main__":
    main()
