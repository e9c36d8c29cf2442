"""Write tests/golden/NAME.json from every tests/golden/make_NAME.py; run by scripts/golden_risk.

Each of these modules has ``LIBRARIES``, the packages that its values come from, and ``make()``, which returns
the values. The file says which versions they came from.
"""

import json
import runpy
import sys
from importlib.metadata import version
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
MAKERS = {path.stem.removeprefix("make_"): path for path in sorted(GOLDEN.glob("make_*.py"))}


def main(names: list[str]) -> None:
    """Write the files of these names, or of all."""
    unknown = sorted(set(names) - MAKERS.keys())
    if unknown:
        sys.exit(f"golden_risk: no {', '.join(unknown)}; there are {', '.join(MAKERS)}")
    for name in names or MAKERS:
        maker = runpy.run_path(str(MAKERS[name]))
        made_with = {library: version(library) for library in maker["LIBRARIES"]}
        path = GOLDEN / f"{name}.json"
        values = {"made_with": made_with, **maker["make"]()}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(f"{path.name}: {', '.join(f'{each} {number}' for each, number in made_with.items())}")


if __name__ == "__main__":
    main(sys.argv[1:])
