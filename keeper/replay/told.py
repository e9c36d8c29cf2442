"""What came of a replay, in words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from keeper.replay.play import Event, Played

SHOWN = 10
"""So many differences are told one by one."""


def words_of(played: Played, *, other: bool) -> Iterator[str]:
    """Say what came of a run; ``other``: by another configuration than it was made with."""
    blocks = f"blocks {played.blocks[0]} to {played.blocks[1]}" if played.blocks else "no block"
    yield f"run {played.run}: {blocks}, {played.heads} heads, {len(played.was)} events"
    if played.cut:
        why = "the tape had ended" if played.has_ended else "the keeper was killed"
        yield f"  {played.cut} events came after the last head on tape: {why}"
    if played.is_equal:
        yield "  equal, event for event"
    else:
        yield "  otherwise than it was:" if other else "  not equal:"
        yield from _counted(played)
        for was, now in islice(played.differences, SHOWN):
            yield from _difference(was, now)
    if played.beyond:
        yield f"  beyond the tape: {len(played.beyond)} questions that nobody asked then, first"
        yield f"    {played.beyond[0]}; a step that hangs on one counts as not simulated"


def _counted(played: Played) -> Iterator[str]:
    for title, found in zip(("then only", "now only"), played.otherwise(), strict=True):
        yield from (f"    {title}: {count} x {name}" for name, count in sorted(found.items()))


def _difference(was: Event | None, now: Event | None) -> Iterator[str]:
    """Tell two events that should be one, and in what they differ where they are of one kind."""
    yield f"    was {was or 'nothing'}"
    yield f"    now {now or 'nothing'}"
    if was and now and (was.kind, was.case_id) == (now.kind, now.case_id):
        for name in sorted({*was.data, *now.data}):
            if was.data.get(name) != now.data.get(name):
                yield f"        {name}: was {was.data.get(name)}, now {now.data.get(name)}"
