"""What all tests share."""

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from tests import postgres

# How long an example takes tells how busy the machine is, not whether the code is right: benchmarks measure.
settings.register_profile("keeper", deadline=None)
settings.load_profile("keeper")


@pytest.fixture(autouse=True)
def log_of_its_own() -> Iterator[None]:
    """Take back where a command has sent its log: that file is closed by the next test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Run PostgreSQL, once a worker; return the URL of its database."""
    with postgres.serving() as url:
        yield url
