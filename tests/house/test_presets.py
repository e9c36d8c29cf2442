"""Where other protocols are is as their own packages say it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_presets_are_what_their_packages_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "write_presets.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
