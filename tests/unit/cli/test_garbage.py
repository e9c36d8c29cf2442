"""What a collection of garbage has to look through while a keeper runs."""

import gc
from collections.abc import Iterator

import pytest

from keeper import cli


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_was_built_at_the_start_is_left_out() -> None:
    built = [[number] for number in range(10)]
    cli._spare_what_stays()
    seen = {id(each) for each in gc.get_objects()}
    assert not seen & {id(each) for each in built}
    assert gc.isenabled()
