"""What became of alarms: lead time, false ones, markets that are slowed, breakers, and what others took."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keeper.domain import CaseEvent, EventKind
from keeper.pipeline.alarms import Alarms, Params, left_to_others

E = EventKind
ETH, BTC = "ETH/USD", "BTC/USD"
AGREED = {"agreed": {"policy": "balanced", "evidence": "both"}}
PARAMS = Params(last=10, least=4, most_false=0.5, rest_s=600)


def event(kind: EventKind, case: int = 1, block: int = 100, **data: Any) -> CaseEvent:
    return CaseEvent(f"case{case}", bytes(32), kind, block, block * 12, data)


def raised(case: int = 1, block: int = 100, *markets: str) -> CaseEvent:
    return event(E.SUSPECTED, case, block, score="E 1, M 2", markets=markets or (ETH,))


def ended(case: int, *, was_agreed: bool, market: str = ETH) -> Iterator[CaseEvent]:
    yield raised(case, 100, market)
    if was_agreed:
        yield event(E.RESERVED, case, 102, **AGREED)
    yield event(E.CLOSED, case, 103)


def heard(*events: CaseEvent) -> Alarms:
    alarms = Alarms(PARAMS)
    alarms.hear(events)
    return alarms


# --- lead time and false alarms ------------------------------------------------------------------


def test_lead_time_goes_from_the_alarm_to_the_first_agreement_in_seconds_and_blocks() -> None:
    alarms = heard(
        raised(1, 100, ETH, BTC),
        event(E.SUSPECTED, 1, 101, score="again", markets=(ETH,)),
        event(E.RESERVED, 1, 101),
        event(E.RESERVED, 1, 103, **AGREED),
        event(E.RESERVED, 1, 109, **AGREED),
        raised(2, 200),
        event(E.RESERVED, 2, 205, **AGREED),
    )
    assert (alarms.records[ETH].lead_s, alarms.records[ETH].lead_blocks) == (48, 4)
    assert (alarms.records[BTC].lead_s, alarms.records[BTC].lead_blocks) == (36, 3)
    assert alarms.records[ETH].false_rate is None


def test_an_alarm_that_ended_without_an_agreement_was_false() -> None:
    alarms = heard(*ended(1, was_agreed=False), *ended(2, was_agreed=True))
    assert (alarms.records[ETH].ended, alarms.records[ETH].false_rate) == (2, 0.5)


def test_one_that_somebody_else_acted_on_was_not() -> None:
    alarms = heard(raised(), event(E.CLOSED, left_to_others={"rule": "confirm.fast_disagrees"}))
    assert alarms.records[ETH].false_rate == 0


def test_of_all_markets_together_an_alarm_counts_once_however_many_it_hangs_on() -> None:
    alarms = heard(
        raised(1, 100, ETH, BTC, "SOL/USD"), event(E.CLOSED, 1), *ended(2, was_agreed=True),
        *ended(3, was_agreed=True),
    )  # fmt: skip
    rates = [alarms.false_rate]
    alarms.hear(ended(4, was_agreed=True))
    assert [*rates, alarms.false_rate] == [None, 0.25]
    assert (alarms.records[BTC].false_rate, alarms.records[ETH].false_rate) == (1, 0.25)


def test_a_market_that_an_alarm_hangs_on_twice_is_one() -> None:
    alarms = heard(raised(1, 100, ETH, ETH), event(E.CLOSED, 1))
    assert alarms.records[ETH].ended == 1


def test_a_case_without_a_suspicion_is_no_alarm() -> None:
    alarms = heard(event(E.SUSPECTED, score=None, markets=(ETH,)), event(E.CLOSED), event(E.CLOSED, 9))
    assert alarms.records == {}


# --- slowed --------------------------------------------------------------------------------------


def test_a_market_is_slowed_above_the_bound_and_trusted_again_well_below_it() -> None:
    alarms = Alarms(PARAMS)
    told = []
    for case, was_agreed in enumerate([False] * 3 + [False] + [True] * 7):
        alarms.hear(ended(case, was_agreed=was_agreed))
        told.append(alarms.slowed)
    # 4 of 4 are false, then 4 of 5, ... 4 of 10, and 3 of 10 once the first one is forgotten.
    slowed = frozenset({ETH})
    assert told == [frozenset()] * 3 + [slowed] * 7 + [frozenset()]
    assert not alarms.records[ETH].is_slowed


def test_one_market_is_slowed_and_others_are_not() -> None:
    alarms = heard(
        *(each for case in range(9) for each in ended(case, was_agreed=False)),
        *(each for case in range(9) for each in ended(case + 20, was_agreed=True, market=BTC)),
    )
    assert alarms.slowed == {ETH}


# --- breakers ------------------------------------------------------------------------------------


def test_a_breaker_holds_for_a_while_from_when_it_tripped_last() -> None:
    alarms = heard(
        event(E.REFUSED, rule="oracle.breaker", feed=ETH),
        event(E.REFUSED, rule="oracle.divergent", feed=BTC),
    )
    assert alarms.tripped(1_200 + 599) == {ETH}
    assert alarms.tripped(1_200 + 600) == frozenset()
    alarms.hear([event(E.REFUSED, block=150, rule="oracle.breaker", feed=ETH)])
    assert alarms.tripped(1_800 + 599) == {ETH}


# --- what was left to others ---------------------------------------------------------------------

WAITED = event(E.WAITED, rule="confirm.fast_disagrees", evidence="0.98 and 1.02", bound="a breach at both")
THEIRS = event(E.OBSERVED, block=103, act="LiquidationCall", tx_hash="0xaa", closes=True)
OURS = event(E.SENT, tx_hash="0xaa")
RESERVED = event(E.RESERVED)
LATE = CaseEvent(
    "case1", bytes(32), E.REVERTED, 103, 1_236,
    {"kind": "repay", "tx_hash": "0xcc", "why": "HealthFactorNotBelowThreshold", "lost_to": {"block": 103}},
)  # fmt: skip
ABANDONED = event(E.ABANDONED, rule="send.refused", evidence="underpriced", bound="accepted by the node")


@pytest.mark.parametrize(
    ("history", "rule"),
    [
        ([raised(), WAITED, THEIRS], "confirm.fast_disagrees"),
        ([raised(), THEIRS], "race.lost"),
        ([raised(), WAITED, OURS, THEIRS], None),
        ([raised(), WAITED, event(E.OBSERVED, act="Repay", tx_hash="0xbb")], None),
        (
            [raised(), WAITED, THEIRS, event(E.WAITED, rule="later", evidence="", bound="")],
            "confirm.fast_disagrees",
        ),
        ([event(E.CALLED), THEIRS, raised(), WAITED], None),
        ([event(E.CALLED), raised(), WAITED, THEIRS], "confirm.fast_disagrees"),
        ([raised(), WAITED, RESERVED, THEIRS], "race.lost"),
        ([raised(), WAITED, RESERVED, ABANDONED, THEIRS], "send.refused"),
        ([raised(), WAITED, RESERVED, LATE, THEIRS], "race.lost"),
        ([raised(), RESERVED, LATE], None),
    ],
    ids=[
        "held back",
        "not held back",
        "our own",
        "repaid by the owner",
        "what was said later",
        "before the alarm",
        "since the alarm",
        "while ours was out",
        "ours was refused by the node",
        "ours was behind",
        "ours was behind what closed nothing",
    ],
)
def test_what_others_took_is_told_with_the_rule_that_held_us_back(
    history: list[CaseEvent], rule: str | None
) -> None:
    found = left_to_others(history)
    assert (found and found["rule"]) == rule
    if found:
        assert (found["tx_hash"], found["act"], found["block"]) == ("0xaa", "LiquidationCall", 103)


@pytest.mark.parametrize("order", [[LATE, THEIRS], [THEIRS, LATE]], ids=["at the same head", "before"])
def test_a_race_that_was_run_says_how_ours_ended(order: list[CaseEvent]) -> None:
    found = left_to_others([raised(), RESERVED, *order])
    assert found is not None
    assert found["evidence"] == "repay reverted: HealthFactorNotBelowThreshold"
    assert (found["rule"], found["tx_hash"]) == ("race.lost", "0xaa")
