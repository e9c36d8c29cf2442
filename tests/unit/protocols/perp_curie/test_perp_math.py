"""Worked numbers of Perpetual's margin; that they are the contract's own is proven on Anvil."""

import pytest

from keeper.protocols.perp_curie import math
from keeper.protocols.perp_curie.math import Close, Market, Position, Trader, Unmet
from keeper.units import WAD, Wad
from tests.unit.protocols.perp_curie.perps import TERMS, wad


def at(mark: float, *, is_open: bool = True) -> dict[int, Market]:
    return {0: Market(wad(mark), is_open)}


def wads(*amounts: float) -> tuple[Wad, ...]:
    return tuple(map(wad, amounts))


LONG = Trader(1_000 * WAD, {0: Position(10 * WAD, -20_000 * WAD, 0)})
"""Ten bought at 2,000 each, for a deposit of 1,000."""


def test_value_is_money_and_unrealised_profit_and_the_requirement_a_share_of_the_worth() -> None:
    found = math.health(LONG, at(1_980), TERMS)
    assert (found.value_wad, found.required_wad) == wads(800, 1_237.5)
    assert not found.is_healthy
    assert math.health(LONG, at(2_100), TERMS).is_healthy


def test_half_is_offered_and_all_once_value_is_below_half_of_what_is_required() -> None:
    assert math.most(LONG, 0, at(2_100), TERMS) == 0
    assert math.most(LONG, 0, at(1_980), TERMS) == 5 * WAD
    assert math.most(LONG, 0, at(1_950), TERMS) == 10 * WAD


def test_a_position_of_little_worth_is_offered_whole() -> None:
    small = Trader(0, {0: Position(WAD // 20, -98 * WAD, 0)})
    assert math.most(small, 0, at(1_990), TERMS) == WAD // 20


def test_a_takeover_moves_size_at_the_mark_and_takes_the_penalty() -> None:
    found = math.close(LONG, 0, 0, at(1_980), TERMS)
    assert isinstance(found, Close)
    moved = (found.size_wad, found.notional_wad, found.penalty_wad, found.reward_wad)
    assert moved == wads(5, 9_900, 247.5, 123.75)
    assert found.trader == Trader(wad(652.5), {0: Position(5 * WAD, -10_000 * WAD, 0)})
    left = math.health(found.trader, at(1_980), TERMS)
    assert (left.value_wad, left.required_wad) == wads(552.5, 618.75)


def test_below_nothing_the_whole_penalty_is_the_takers_and_the_fund_pays_what_is_owed() -> None:
    found = math.close(LONG, 0, 0, at(1_880), TERMS)
    assert isinstance(found, Close)
    assert (found.reward_wad, found.penalty_wad) == wads(470, 470)
    assert found.trader == Trader(0, {})


@pytest.mark.parametrize(
    ("mark", "asked", "unmet"),
    [
        (2_100, 1, Unmet.HEALTHY),
        (1_980, -1, Unmet.WRONG_SIDE),
        (1_700, 0, Unmet.UNINSURED),
    ],
)
def test_what_the_contract_refuses_is_named_as_it_does(mark: int, asked: int, unmet: Unmet) -> None:
    assert math.close(LONG, 0, asked * WAD, at(mark), TERMS) is unmet


def test_a_closed_market_a_maker_and_an_empty_account_are_refused() -> None:
    assert math.close(LONG, 0, 0, at(1_980, is_open=False), TERMS) is Unmet.NOT_OPEN
    maker = Trader(LONG.cash_wad, LONG.positions, has_order=True)
    assert math.close(maker, 0, 0, at(1_980), TERMS) is Unmet.HAS_ORDER
    other = {**at(1_980), 1: Market(WAD)}
    assert math.close(LONG, 1, 0, other, TERMS) is Unmet.NO_POSITION


def test_a_taker_without_a_position_buys_for_the_notional_less_the_reward() -> None:
    found = math.taken(Trader(1_000 * WAD, {}), 0, 5 * WAD, wad(-9_776.25))
    assert found == Trader(1_000 * WAD, {0: Position(5 * WAD, wad(-9_776.25), 0)})
    # Unrealised profit frees nothing; of what was borrowed a tenth is required.
    assert math.free_wad(found, at(1_980), 100_000) == wad(22.375)
    assert math.free_wad(found, at(1_900), 100_000) == wad(1_000 - 276.25 - 977.625)


def test_a_taker_on_the_other_side_realises_a_part_of_its_profit() -> None:
    short = Trader(0, {0: Position(-10 * WAD, 20_000 * WAD, 3 * WAD)})
    found = math.taken(short, 0, 5 * WAD, wad(-9_776.25))
    assert found == Trader(wad(220.75), {0: Position(-5 * WAD, 10_000 * WAD, 0)})
    assert math.free_wad(found, at(1_980), 100_000) == wad(220.75 - 990)


def test_a_taker_that_gets_more_than_it_was_short_turns_long() -> None:
    short = Trader(0, {0: Position(-2 * WAD, 4_000 * WAD, 0)})
    found = math.taken(short, 0, 5 * WAD, wad(-9_776.25))
    assert found == Trader(wad(89.5), {0: Position(3 * WAD, wad(-5_865.75), 0)})


def test_a_taker_that_gets_as_much_as_it_was_short_is_left_without_a_position() -> None:
    short = Trader(0, {0: Position(-5 * WAD, 10_000 * WAD, 0)})
    assert math.taken(short, 0, 5 * WAD, wad(-9_776.25)) == Trader(wad(223.75), {})


@pytest.mark.parametrize(
    ("spot", "twap", "index", "premium", "mark"),
    [(1_800, 2_000, 1_700, 0, 1_800), (1_800, 2_000, 1_700, 150, 1_850), (1_800, 2_000, 2_300, -10, 2_000)],
)
def test_the_mark_is_the_one_in_the_middle(spot: int, twap: int, index: int, premium: int, mark: int) -> None:
    assert math.mark_wad(spot * WAD, twap * WAD, index * WAD, premium * WAD) == mark * WAD
