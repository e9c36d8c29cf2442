"""One keeper to a journal."""

import subprocess
import sys
from pathlib import Path

import pytest

from keeper.errors import ConfigError
from keeper.journal.lock import alone

HOLDS = """
import sys
from pathlib import Path
from keeper.journal.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_keeper_is_refused_for_as_long_as_the_first_one_lives(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match="another keeper works with the journal"), alone(journal):
        pass
    first.kill()
    first.communicate()
    with alone(journal), pytest.raises(ConfigError, match="another keeper"), alone(journal):
        pass
    with alone(journal):
        pass


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"), alone(tmp_path / "nowhere" / "journal.sqlite"):
        pass
