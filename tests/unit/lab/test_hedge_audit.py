"""What the audit says of hedged books and their legs, on small made-up histories."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from keeper.domain import (
    Account,
    ArrayView,
    BucketView,
    Fact,
    FeedView,
    Kind,
    Leg,
    OracleView,
    Phase,
)
from keeper.lab.chronicle import Chronicle
from keeper.lab.deploy import OptionSpec, Spec
from keeper.lab.hedge_audit import PATIENCE, Followed, follow, judge, rows
from keeper.lab.hedges import Strategy
from keeper.lab.world import World
from keeper.units import WAD

START_S = 1_000
PUT = 4
RULES = Spec(options=(OptionSpec("BTC/USD", Kind.PUT, 1_000 * WAD, START_S + 10**6),)).rules()
WHOLE, APART = b"\1" * 32, b"\2" * 32
BLOCKS = 30


def put_array(price: int, at_s: int) -> ArrayView:
    """Worth 40 at a price of 1,000, and what it pays besides; each of its scenarios a straight line."""
    moves = (0, 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 9, -9)
    mark = 40 + max(0, 1_000 - price)
    pnl = tuple(-min(price * move * WAD // 60 // 2, 40 * WAD) for move in moves)
    return ArrayView(price * WAD, mark * WAD, -WAD // 2, at_s, pnl)


def seen(block: int, fast: int, slow: int | None = None) -> OracleView:
    at_s = START_S + 12 * block
    feeds = {
        feed: FeedView(feed, level * WAD, at_s, 15, behind * WAD, at_s, True, WAD // 100, 3600, 12)
        for feed, level, behind in (
            ("BTC/USD", fast, slow or fast),
            ("ETH/USD", 100, 100),
            ("SYN/USD", 10, 10),
        )
    }
    buckets = {feed: BucketView(0, 0, 10**6 * WAD) for feed in feeds}
    return OracleView(feeds, {PUT: put_array(fast, at_s)}, {}, buckets)


def hedged(phase: Phase = Phase.HEALTHY) -> Account:
    """Long 10 from 1,000, and 10 puts bought for 40 each."""
    legs = (Leg(1, 10 * WAD, -10_000 * WAD), Leg(PUT, 10 * WAD, -400 * WAD))
    return Account(WHOLE, phase, 900 * WAD, legs, ())


def bare(phase: Phase = Phase.HEALTHY) -> Account:
    """Long 10 from 1,000 with 600 of cash: below maintenance under about 989.47."""
    return Account(APART, phase, 600 * WAD, (Leg(1, 10 * WAD, -10_000 * WAD),), ())


PEOPLE = SimpleNamespace(
    hedges=(
        SimpleNamespace(
            plan=SimpleNamespace(strategy=Strategy.PROTECTIVE_PUT),
            whole=(whole := SimpleNamespace(account=WHOLE)),
            stakes=((whole, None), (SimpleNamespace(account=APART), None)),
        ),
    ),
    deployed=SimpleNamespace(protocol=SimpleNamespace(rules=RULES)),
)
WORLD = cast("World", PEOPLE)


def chronicle(facts: tuple[Fact, ...], fast: dict[int, int], slow: dict[int, int] | None = None) -> Chronicle:
    """``fast`` and ``slow`` are prices of BTC by block, from that block on."""
    views, levels = {}, [1_000, 1_000]
    for block in range(BLOCKS + 1):
        levels[0] = fast.get(block, levels[0])
        levels[1] = (slow if slow is not None else fast).get(block, levels[1])
        views[block] = seen(block, *levels)
    return Chronicle(
        first=0,
        last=BLOCKS,
        timestamps={block: START_S + 12 * block for block in range(BLOCKS + 1)},
        facts=facts,
        rounds=(),
        views=views,
        spent=(),
        calldata={},
        drawable_wad={},
        _states={WHOLE: ((0,), (hedged(),)), APART: ((0,), (bare(),))},
    )


def event(act: str, block: int, account: bytes = APART) -> Fact:
    return Fact(block, "0x1", 0, act, (account,), {"account": account})


def followed(
    facts: tuple[Fact, ...], fast: dict[int, int], slow: dict[int, int] | None = None
) -> tuple[dict[bytes, Followed], list[str]]:
    accounts, broken = follow(chronicle(facts, fast, slow), WORLD)
    return {account.key: account for account in accounts}, broken


def test_in_a_fall_the_leg_breaches_and_the_hedged_book_does_not() -> None:
    facts = (event("Flagged", 3), event("Confirmed", 5), event("Tranche", 6))
    found, broken = followed(facts, {3: 950})
    assert broken == []
    assert found[APART].lowest_both < 1 < found[WHOLE].lowest_fast
    assert (found[APART].flagged, found[APART].confirmed, found[APART].slices) == (1, 1, 1)
    assert (found[WHOLE].flagged, found[WHOLE].slices) == (0, 0)
    assert found[APART].gain_wad == -500 * WAD
    assert found[WHOLE].gain_wad == 0


def test_a_hedged_book_reduced_without_a_breach_is_a_broken_promise() -> None:
    facts = (event("Tranche", 6), event("Tranche", 7, WHOLE))
    _, broken = followed(facts, {3: 950})
    assert len(broken) == 1
    assert f"hedged book 0x{WHOLE.hex()}" in broken[0]
    assert "reduced, though never in breach at both oracles" in broken[0]


def test_a_slice_on_the_fast_price_alone_is_a_broken_promise() -> None:
    found, broken = followed((event("Flagged", 3), event("Tranche", 6)), {3: 950}, slow={})
    assert found[APART].lowest_fast < 1 < found[APART].lowest_both
    assert len(broken) == 1
    assert "in block 6: reduced, though never in breach at both oracles" in broken[0]


def test_an_alarm_without_a_breach_at_the_fast_price_is_a_broken_promise() -> None:
    _, broken = followed((event("Flagged", 2), event("Tranche", 6)), {3: 950})
    assert [line.partition(": ")[2] for line in broken] == [
        "flagged, though never in breach at the fast price"
    ]


def test_an_old_breach_does_not_excuse_a_slice_after_the_cure() -> None:
    facts = (event("Tranche", 4), event("Cured", 6), event("Tranche", 9))
    _, broken = followed(facts, {3: 950, 5: 1_000})
    assert len(broken) == 1
    assert "in block 9: reduced" in broken[0]


def test_a_leg_that_stays_in_breach_must_be_reduced() -> None:
    _, broken = followed((), {3: 950})
    assert len(broken) == 2
    assert f"in breach at both oracles for {BLOCKS - 2} blocks and never reduced" in broken[0]
    assert broken[1] == "expected at least one leg apart to be reduced, found none"


@pytest.mark.parametrize(("longest", "sound"), [(PATIENCE, True), (PATIENCE + 1, False)])
def test_patience_with_a_breach_ends(longest: int, sound: bool) -> None:
    book = Followed(WHOLE, Strategy.COLLAR, hedged=True, longest=longest)
    leg = Followed(APART, Strategy.COLLAR, hedged=False, slices=1)
    assert (list(judge([book, leg])) == []) is sound


def test_each_strategy_is_one_row() -> None:
    book = Followed(
        WHOLE, Strategy.COLLAR, hedged=True, lowest_fast=0.9, lowest_both=1.25, gain_wad=-3 * WAD, flagged=2
    )
    leg = Followed(APART, Strategy.COLLAR, hedged=False, slices=4, closed=True, gain_wad=-5 * WAD)
    other = replace(leg, slices=0, closed=False, gain_wad=9 * WAD)
    (row,) = rows([book, leg, other])
    assert row == {
        "book": "collar", "books": 1, "lowest_health_fast": 0.9, "lowest_health_both": 1.25, "flagged": 1,
        "confirmed": 0, "sliced": 0, "gain": -3.0, "legs": 2, "legs_reduced": 1, "legs_closed": 1,
        "legs_reduced_gain": -5.0, "legs_gain": 4.0,
    }  # fmt: skip
