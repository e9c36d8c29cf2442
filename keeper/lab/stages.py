"""A keeper that notes when it comes by the stages from a price to the wire: ``python -m keeper.lab.stages``.

It is ``keeper run`` with the same arguments, but that some functions on the way tell the time when they begin
and end; all of it is written to ``FILE`` in the working directory when the keeper ends. What is noted takes
a little longer for it: the bench measures stages by themselves, and not what it holds to bounds.
"""

from __future__ import annotations

import runpy
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from keeper.chain.handing import Handing
from keeper.chain.reader import ChainReader
from keeper.chain.rpc import Rpc
from keeper.desk.hybrid import HybridDesk
from keeper.execute.keys import LocalSigner
from keeper.execute.sender import ChainSender
from keeper.feeds.heard import Heard
from keeper.feeds.live import LiveComposite
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.pipeline import Pipeline
from keeper.pipeline.acts import Acts
from keeper.pipeline.care import Care
from keeper.pipeline.watch import Watch
from keeper.protocols.hybrid.market import HybridMarket
from keeper.trigger import Trigger

FILE = Path("stages.json")
STAGES: Sequence[tuple[str, type, str]] = (
    ("read the message", Heard, "take"),
    ("compose", LiveComposite, "_moved"),
    ("look at the ready", Watch, "glance"),
    ("marks", HybridMarket, "marks"),
    ("look: trigger", Trigger, "glance"),
    ("score", Watch, "hear"),
    ("score: trigger", Trigger, "tick"),
    ("take suspects", Watch, "take"),
    ("answer", Care, "answer"),
    ("sit down", HybridDesk, "sit"),
    ("judge", Care, "_judge"),
    ("journal the suspicion", StoredJournal, "record"),
    ("act at once", Acts, "act_at_once"),
    ("act", Acts, "act"),
    ("simulate", ChainReader, "simulate"),
    ("permit", StoredJournal, "reserve"),
    ("sign", LocalSigner, "at_once"),
    ("journal the bytes", SqliteJournal, "sign"),
    ("send", ChainSender, "send"),
    ("hand over", Handing, "offer"),
    ("hand over by HTTP", Rpc, "exchange"),
    ("told", StoredJournal, "sent"),
)
"""In the order of the way; marks, one with a colon, and those from answer to hand over lie within others."""


class Span(NamedTuple):
    """One time that a stage was gone through, by ``time.monotonic_ns``."""

    stage: str
    began_ns: int
    ended_ns: int


def note_stages(notes: list[Span]) -> None:
    """Have every stage note when it begins and ends, but for those of a rehearsal."""
    for stage, owner, name in STAGES:
        setattr(owner, name, _noting(stage, getattr(owner, name), notes))
    rehearse = Pipeline.rehearse

    def rehearsed(pipeline: Pipeline[Any]) -> bool:
        noted = len(notes)
        goes_on = rehearse(pipeline)
        del notes[noted:]
        return goes_on

    setattr(Pipeline, "rehearse", rehearsed)  # noqa: B010 mypy knows a method where it is assigned to


def _noting(stage: str, function: Callable[..., Any], notes: list[Span]) -> Callable[..., Any]:
    @wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began_ns = time.monotonic_ns()
        try:
            return function(*args, **kwargs)
        finally:
            notes.append(Span(stage, began_ns, time.monotonic_ns()))

    @wraps(function)
    async def timed_async(*args: Any, **kwargs: Any) -> Any:
        began_ns = time.monotonic_ns()
        try:
            return await function(*args, **kwargs)
        finally:
            notes.append(Span(stage, began_ns, time.monotonic_ns()))

    return timed_async if iscoroutinefunction(function) else timed


def read_stages(folder: Path) -> list[Span]:
    """Read what a keeper has noted that ran in a folder and has ended."""
    return [Span(*each) for each in orjson.loads((folder / FILE).read_bytes())]


class Part(NamedTuple):
    """A stage on the way of many reactions: how often it was gone through, and medians."""

    stage: str
    times: int
    after_us: float
    """From the price until it began."""
    took_us: float


def parts_of(spans: Iterable[Span], ways: Sequence[tuple[int, int]]) -> list[Part]:
    """Sum up the stages that began within some ways, each from a price until the wire [ns], in their order.

    Of a stage that one way goes through several times each time counts by itself.
    """
    found = defaultdict[str, list[tuple[int, int]]](list)
    sorted_spans = sorted(spans, key=lambda span: span.began_ns)
    for price_ns, wire_ns in ways:
        times = Counter[str]()
        for span in sorted_spans:
            if price_ns <= span.began_ns <= wire_ns:
                times[span.stage] += 1
                again = f" ({times[span.stage]})" if times[span.stage] > 1 else ""
                after_ns, took_ns = span.began_ns - price_ns, span.ended_ns - span.began_ns
                found[span.stage + again].append((after_ns, took_ns))
    parts = [_summed_up(stage, each) for stage, each in found.items()]
    return sorted(parts, key=lambda part: part.after_us)


def _summed_up(stage: str, times_ns: Sequence[tuple[int, int]]) -> Part:
    after_ns, took_ns = (median(each) for each in zip(*times_ns, strict=True))
    return Part(stage, len(times_ns), after_ns / 1e3, took_ns / 1e3)


def main() -> None:
    """Run the keeper, and write down what was noted when it ends, however it does."""
    notes: list[Span] = []
    note_stages(notes)
    try:
        runpy.run_module("keeper", run_name="__main__")
    finally:
        FILE.write_bytes(orjson.dumps([tuple(each) for each in notes]))


if __name__ == "__main__":
    main()
