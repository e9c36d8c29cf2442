"""A desk for every scenario: once running through, once started from its journal before every head."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.pipeline.desk import Desk


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Desk]:
    """A keeper that runs through."""
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    yield desk
    assert desk.violations() == []
    desk.close()


@pytest.fixture(params=[False, True], ids=["running", "restarted before every head"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    """A keeper that runs through, and one that starts from its journal at every head."""
    desk = Desk(tmp_path / "journal.sqlite", restarting=request.param)
    yield desk
    assert desk.violations() == []
    desk.close()
