"""What is noted of the stages between a price and the wire."""

from keeper.lab import stages
from keeper.lab.stages import Span, parts_of


class Worker:
    def work(self, twice: int) -> int:
        return 2 * twice

    async def wait(self) -> str:
        return "done"


async def test_a_function_does_what_it_did_and_is_noted() -> None:
    notes: list[Span] = []
    for name in ("work", "wait"):
        setattr(Worker, name, stages._noting(name, getattr(Worker, name), notes))
    assert Worker().work(4) == 8
    assert await Worker().wait() == "done"
    assert [note.stage for note in notes] == ["work", "wait"]
    assert all(note.began_ns <= note.ended_ns for note in notes)


def test_stages_are_summed_up_over_all_ways_in_their_order() -> None:
    spans = [
        Span("send", 5_000, 9_000),
        Span("score", 1_000, 3_000),
        Span("send", 25_000, 27_000),
        Span("score", 22_000, 23_000),
        Span("score", 24_000, 28_000),
        Span("score", 19_999, 20_001),
    ]
    assert [tuple(part) for part in parts_of(spans, [(0, 10_000), (20_000, 30_000)])] == [
        ("score", 2, 1.5, 1.5),
        ("score (2)", 1, 4.0, 4.0),
        ("send", 2, 5.0, 3.0),
    ]
