"""What became of alarms, market by market: how long one took to be agreed to, and how many never were.

Folded from the events of cases and nothing else, so that a restart knows what was known before, as far back
as it reads: the newest cases, and all that are open. A market is a feed, or the protocol's own market where
it keeps several apart; one whose alarms were false too often is slowed until they no longer are.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import structlog

from keeper.domain import CaseEvent, ChainTime, EventKind
from keeper.ports import AlarmRecord
from keeper.units import Block, FeedId, UnixS

log = structlog.get_logger()

CASES: Final = 4_096
"""So many of the newest cases are read at a start."""
TRUSTED_AGAIN: Final = 0.75
"""A market is trusted again at this share of the bound: it does not go to and fro at every alarm."""
BREAKER: Final = "oracle.breaker"
LOST: Final[Mapping[str, Any]] = {
    "rule": "race.lost",
    "evidence": "nothing held us back",
    "bound": "to be first",
}


@dataclass(frozen=True, slots=True)
class Params:
    """When a market is slowed, and how long a breaker holds."""

    last: int = 50
    """So many of a market's ended alarms are looked at, and of those of all markets together."""
    least: int = 10
    """With fewer than so many nothing is said of it."""
    most_false: float = 0.8
    """The share of false alarms above which it is slowed."""
    rest_s: int = 3_600
    """How long nothing is taken that hangs on a feed whose breaker tripped."""


@dataclass(slots=True)
class _Open:
    """An alarm that has not ended."""

    markets: tuple[str, ...]
    since: ChainTime
    is_agreed: bool = False


@dataclass(slots=True)
class _Market:
    """The last alarms of one market."""

    false: deque[bool]
    """Of those that ended, whether each was false, the newest last."""
    leads: deque[tuple[int, Block]]
    """Of those that were agreed to, seconds and blocks until then."""
    is_slowed: bool = False

    @property
    def false_rate(self) -> float | None:
        return sum(self.false) / len(self.false) if self.false else None


@dataclass(slots=True)
class Alarms:
    """The alarms of a keeper."""

    params: Params = field(default_factory=Params)
    _open: dict[str, _Open] = field(default_factory=dict)
    _markets: dict[str, _Market] = field(init=False)
    _false: deque[bool] = field(init=False)
    """Of the last that ended, of whatever markets, whether each was false."""
    _tripped: dict[FeedId, UnixS] = field(default_factory=dict)

    def __post_init__(self) -> None:
        last = self.params.last
        self._markets = defaultdict(lambda: _Market(deque(maxlen=last), deque(maxlen=last)))
        self._false = deque(maxlen=last)

    def hear(self, events: Iterable[CaseEvent], *, aloud: bool = True) -> None:
        """Take events into account, in the order of the journal; say so where a market changes."""
        for event in events:
            match event.kind:
                case EventKind.SUSPECTED:
                    self._raise(event)
                case EventKind.RESERVED if event.data.get("agreed"):
                    self._agree(event)
                case EventKind.REFUSED if event.data.get("rule") == BREAKER:
                    self._tripped[str(event.data["feed"])] = event.at_s
                case EventKind.CLOSED | EventKind.CALLED:
                    self._end(event, aloud=aloud)

    @property
    def slowed(self) -> frozenset[str]:
        """The markets that are slowed."""
        return frozenset(name for name, each in self._markets.items() if each.is_slowed)

    @property
    def false_rate(self) -> float | None:
        """The share of false ones of the last alarms of all markets; None where too few have ended.

        One that hangs on several markets is one alarm here.
        """
        return sum(self._false) / len(self._false) if len(self._false) >= self.params.least else None

    def tripped(self, now_s: UnixS) -> frozenset[FeedId]:
        """Return the feeds whose breaker holds."""
        return frozenset(feed for feed, at_s in self._tripped.items() if now_s < at_s + self.params.rest_s)

    @property
    def records(self) -> Mapping[str, AlarmRecord]:
        """What is known of each market."""
        return {name: _record(each) for name, each in self._markets.items()}

    def _raise(self, event: CaseEvent) -> None:
        """Begin an alarm; a case without a suspicion, such as one to settle an option, is none."""
        if event.case_id not in self._open and event.data.get("score") is not None:
            markets = tuple(dict.fromkeys(event.data.get("markets", ())))
            self._open[event.case_id] = _Open(markets, ChainTime(event.block, event.at_s))

    def _agree(self, event: CaseEvent) -> None:
        found = self._open.get(event.case_id)
        if found is None or found.is_agreed:
            return
        found.is_agreed = True
        lead = (event.at_s - found.since.timestamp_s, event.block - found.since.block)
        for market in found.markets:
            self._markets[market].leads.append(lead)

    def _end(self, event: CaseEvent, *, aloud: bool) -> None:
        """End an alarm. One that somebody else acted on was none of the false ones."""
        found = self._open.pop(event.case_id, None)
        if found is None:
            return
        is_false = not (found.is_agreed or event.data.get("left_to_others"))
        self._false.append(is_false)
        for name in found.markets:
            market = self._markets[name]
            market.false.append(is_false)
            if self._turns(market):
                market.is_slowed = not market.is_slowed
                if aloud:
                    told = {"market": name, "false_rate": market.false_rate, "bound": self.params.most_false}
                    log.warning(
                        "market.slowed" if market.is_slowed else "market.trusted_again",
                        block=event.block,
                        **told,
                    )

    def _turns(self, market: _Market) -> bool:
        """Tell whether a market is slowed from now on, or no longer is."""
        rate = market.false_rate
        if rate is None or len(market.false) < self.params.least:
            return False
        bound = self.params.most_false
        return rate <= bound * TRUSTED_AGAIN if market.is_slowed else rate > bound


def left_to_others(history: Iterable[CaseEvent]) -> Mapping[str, Any] | None:
    """Tell who closed an account in our place, and by which rule we had held back; None where nobody did.

    Since the last alarm began: what was closed while the owner was only called, no alarm held us back from.
    """
    ours: set[str] = set()
    found: Mapping[str, Any] | None = None
    held: Mapping[str, Any] = LOST
    is_called = False
    for event in history:
        data = event.data
        if event.kind is EventKind.CALLED:
            # What was before belongs to an alarm that has ended.
            found, held, is_called = None, LOST, True
        elif event.kind is EventKind.SUSPECTED:
            is_called = False
        elif event.kind in {EventKind.SENT, EventKind.INCLUDED}:
            ours.add(data["tx_hash"])
        elif event.kind in {EventKind.WAITED, EventKind.REFUSED, EventKind.ABANDONED}:
            held = {name: data[name] for name in ("rule", "evidence", "bound")}
        elif event.kind is EventKind.RESERVED:
            held = LOST
        elif data.get("lost_to"):
            held = {**LOST, "evidence": _late(event)}
            found = found and {**found, **held}
        elif is_called or event.kind is not EventKind.OBSERVED:
            continue
        elif data.get("closes") and data["tx_hash"] not in ours:
            found = {**held, "act": data["act"], "tx_hash": data["tx_hash"], "block": event.block}
    return found


def _late(event: CaseEvent) -> str:
    """Say of a step of ours how it came too late."""
    why = f": {event.data['why']}" if "why" in event.data else ""
    return f"{event.data['kind']} {event.kind.lower()}{why}"


def _record(market: _Market) -> AlarmRecord:
    return AlarmRecord(
        ended=len(market.false),
        false_rate=market.false_rate,
        lead_s=float(median(seconds for seconds, _ in market.leads)) if market.leads else None,
        lead_blocks=float(median(blocks for _, blocks in market.leads)) if market.leads else None,
        is_slowed=market.is_slowed,
    )
