"""What a collection of garbage has to look through while a keeper runs."""

import gc
from collections.abc import Iterator
from weakref import ref

import pytest

from keeper.cli import keeping


class Cycle:
    """As the parts of a keeper, which know one another."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_what_was_built_at_the_start_is_left_out() -> None:
    built = [[number] for number in range(10)]
    keeping._spare_what_stays()
    seen = {id(each) for each in gc.get_objects()}
    assert not seen & {id(each) for each in built}
    assert gc.isenabled()


def test_what_was_built_before_a_start_anew_is_given_up() -> None:
    built = Cycle()
    keeping._spare_what_stays()
    left = ref(built)
    del built
    assert left() is not None
    keeping._spare_what_stays()
    assert left() is None


def test_garbage_is_not_collected_in_the_middle_of_an_act() -> None:
    keeping._spare_what_stays()
    ended = list[str]()
    gc.callbacks.append(lambda phase, _: ended.append(phase))
    try:
        kept = [[number] for number in range(10_000)]
        assert ended == []
        more = [[number] for number in range(keeping.YOUNG_OBJECTS)]
        assert ended
    finally:
        gc.callbacks.pop()
    assert len(kept) + len(more) == 10_000 + keeping.YOUNG_OBJECTS
