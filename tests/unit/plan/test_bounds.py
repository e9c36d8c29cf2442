"""What each bound leaves, to the wei."""

from dataclasses import replace

import pytest

from keeper.domain import Reason, Valuation
from keeper.plan.bounds import binding, harms, of_market, of_pace, taken
from keeper.risk.liquidity import Depth
from keeper.units import WAD, FeedId, Wad

ETH, BTC = "ETH/USD", "BTC/USD"
BOOK = ((0.001, 1_000.0), (0.003, 1_000.0))
DEPTH = Depth(20.0, levels=BOOK)
"""At 20 bps the whole 2,000 of it: the mean is then 20 bps."""
LIMITED = replace(DEPTH, inventory_wad=500 * WAD)


def parts(
    whole: dict[FeedId, Wad],
    depth: Depth = DEPTH,
    *,
    moved: Wad = 0,
    held: Wad = 0,
) -> list[tuple[str, Wad]]:
    found = of_market(whole, {ETH: depth}, moved_wad={ETH: moved}, held_wad={ETH: held})
    return [(each.reason.rule, each.part_wad) for each in found]


@pytest.mark.parametrize(
    ("whole", "moved", "expected"),
    [
        (2_000 * WAD, 0, []),
        (2_000 * WAD + 1, 0, [("size.depth", 2_000 * WAD * WAD // (2_000 * WAD + 1))]),
        (-4_000 * WAD, 0, [("size.depth", WAD // 2)]),
        (3_000 * WAD, 500 * WAD, [("size.depth", WAD // 2)]),
        (WAD, 2_000 * WAD - WAD, []),
        (WAD, 2_000 * WAD, [("size.depth", 0)]),
        (WAD, 9_000 * WAD, [("size.depth", 0)]),
        (0, 9_000 * WAD, []),
    ],
)
def test_depth_leaves_what_a_minute_has_not_taken_yet(
    whole: Wad, moved: Wad, expected: list[tuple[str, Wad]]
) -> None:
    assert parts({ETH: whole}, moved=moved) == expected


@pytest.mark.parametrize(
    ("whole", "held", "expected"),
    [
        (500 * WAD, 0, []),
        (1_000 * WAD, 0, [("size.inventory", WAD // 2)]),
        (1_000 * WAD, 250 * WAD, [("size.inventory", WAD // 4)]),
        (1_000 * WAD, 500 * WAD, [("size.inventory", 0)]),
        (1_000 * WAD, 600 * WAD, [("size.inventory", 0)]),
        (1_000 * WAD, -500 * WAD, []),
        (-1_000 * WAD, 500 * WAD, []),
        (-1_000 * WAD, -250 * WAD, [("size.inventory", WAD // 4)]),
        (-1_200 * WAD, 500 * WAD, [("size.inventory", 1_000 * WAD * WAD // (1_200 * WAD))]),
    ],
)
def test_inventory_leaves_what_is_not_held_yet_and_what_goes_the_other_way_first(
    whole: Wad, held: Wad, expected: list[tuple[str, Wad]]
) -> None:
    assert parts({ETH: whole}, LIMITED, held=held) == expected


def test_a_feed_without_a_depth_bounds_nothing() -> None:
    assert parts({BTC: 10**9 * WAD}) == []


def test_a_bound_tells_what_it_found_and_what_it_was_held_against() -> None:
    [found] = of_market({ETH: 4_000 * WAD}, {ETH: DEPTH}, moved_wad={ETH: 500 * WAD}, held_wad={})
    evidence = "ETH/USD: 4000.00, and 500.00 taken within a minute"
    assert found.reason == Reason("size.depth", evidence, "2000.00, sold at 20 bps")


@pytest.mark.parametrize(
    ("pace", "permitted", "smallest", "expected"),
    [
        (WAD, WAD // 3, 0, []),
        (WAD // 2, WAD // 3, 0, [WAD // 3 // 2]),
        (WAD // 100, WAD // 3, WAD // 10, [WAD // 10]),
        (WAD // 100, WAD // 20, WAD // 10, [WAD // 20]),
    ],
)
def test_a_pace_takes_its_share_but_no_less_than_the_smallest_slice(
    pace: Wad, permitted: Wad, smallest: Wad, expected: list[Wad]
) -> None:
    assert [each.part_wad for each in of_pace(pace, permitted, smallest)] == expected


def test_of_several_bounds_the_tightest_comes_first_and_those_that_do_not_bind_are_left_out() -> None:
    found = of_market({ETH: 4_000 * WAD}, {ETH: LIMITED}, moved_wad={}, held_wad={})
    tight = binding([*found, *of_pace(WAD // 4, WAD)], WAD)
    assert [each.reason.rule for each in tight] == ["size.inventory", "size.pace", "size.depth"]
    assert [each.reason.rule for each in binding(found, WAD // 4)] == ["size.inventory"]
    assert binding(found, WAD // 8) == ()


@pytest.mark.parametrize(
    ("held", "takes", "cost"),
    [
        (0, 1_000 * WAD, WAD),
        (0, -2_000 * WAD, 4 * WAD),
        (1_000 * WAD, 1_000 * WAD, 3 * WAD),
        (-1_000 * WAD, 1_000 * WAD, 0),
        (-2_000 * WAD, 1_000 * WAD, 0),
        (-1_000 * WAD, 3_000 * WAD, 3 * WAD),
        (0, 5_000 * WAD, 5_000 * WAD),
    ],
)
def test_selling_costs_more_with_what_is_held_already_and_never_less_than_nothing(
    held: Wad, takes: Wad, cost: Wad
) -> None:
    found = taken({ETH: takes, BTC: WAD}, {ETH: held}, {ETH: DEPTH})
    assert found == pytest.approx(cost, abs=10**6)
    assert found >= cost


@pytest.mark.parametrize(
    ("before", "after", "is_harmful"),
    [
        ((900, 1_000), (890, 980), False),
        ((900, 1_000), (882, 980), False),
        ((900, 1_000), (881, 980), True),
        ((900, 1_000), (0, 0), False),
        ((0, 1_000), (-10, 500), False),
        ((-5, 1_000), (-10, 500), False),
    ],
)
def test_a_part_that_costs_more_health_than_it_buys_does_harm(
    before: tuple[int, int], after: tuple[int, int], is_harmful: bool
) -> None:
    then, now = (Valuation(equity * WAD, requirement * WAD, 0) for equity, requirement in (before, after))
    found = harms(then, now)
    assert (found is not None) == is_harmful
    assert found is None or found.rule == "size.harm"


def test_rounding_alone_is_no_harm() -> None:
    before = Valuation(900 * WAD, 1_000 * WAD, 0)
    assert harms(before, Valuation(450 * WAD - 2, 500 * WAD + 2, 0)) is None
