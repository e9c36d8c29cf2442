"""What volatility a price shows."""

import math
from collections.abc import Mapping

import pytest

from keeper.domain import Kind, Quote, Unknown
from keeper.risk.options import YEAR_S
from keeper.risk.scenarios import Option
from keeper.steward.arrays import EwmaVols, FixedVols
from keeper.units import WAD, FeedId, UnixS

NOW_S = 1_700_000_000
CALL = Option(1, Kind.CALL, WAD, NOW_S + 86_400)


class Path:
    """A feed that follows a list of prices, one every ``step_s``."""

    def __init__(self, prices: list[float], *, step_s: int = 60) -> None:
        self._prices, self._step_s = prices, step_s

    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        index = (now_s - NOW_S) // self._step_s
        if not 0 <= index < len(self._prices):
            return {"BTC/USD": Unknown("BTC/USD", "the path is over")}
        return {"BTC/USD": Quote("BTC/USD", int(self._prices[index] * WAD), NOW_S + index * self._step_s)}


def zigzag(vol: float, *, count: int, step_s: int = 60) -> Path:
    """A price that moves by the same share of itself up and down, as much as ``vol`` a year makes it."""
    step = math.exp(vol * math.sqrt(step_s / YEAR_S))
    return Path([100.0 * step ** (number % 2) for number in range(count)], step_s=step_s)


def walked(vols: EwmaVols, seconds: int, *, every_s: int = 60) -> float:
    found: float | Unknown = math.nan
    for at_s in range(0, seconds + 1, every_s):
        found = vols.vol("BTC/USD", CALL, NOW_S + at_s)
    assert isinstance(found, float)
    return found


def test_a_fixed_volatility_is_what_was_set() -> None:
    vols = FixedVols({"BTC/USD": 0.6})
    assert vols.vol("BTC/USD", CALL, NOW_S) == 0.6
    assert vols.vol("ETH/USD", CALL, NOW_S) == Unknown("ETH/USD", "no volatility is set for it")


def test_before_the_first_return_the_volatility_is_the_one_to_start_from() -> None:
    vols = EwmaVols(zigzag(0.9, count=10), initial={"BTC/USD": 0.6})
    assert walked(vols, 0) == pytest.approx(0.6)
    assert isinstance(vols.vol("ETH/USD", CALL, NOW_S), Unknown)


def test_after_one_half_life_half_of_the_variance_is_what_the_price_showed() -> None:
    vols = EwmaVols(zigzag(0.9, count=100), initial={"BTC/USD": 0.6}, half_life_s=3600.0)
    assert walked(vols, 3600) == pytest.approx(math.sqrt((0.6**2 + 0.9**2) / 2), rel=1e-9)


def test_in_the_end_only_the_price_counts() -> None:
    vols = EwmaVols(zigzag(0.9, count=700), initial={"BTC/USD": 0.2}, half_life_s=600.0)
    assert walked(vols, 690 * 60) == pytest.approx(0.9, rel=1e-9)


def test_how_often_one_asks_changes_nothing() -> None:
    often, seldom = (EwmaVols(zigzag(0.9, count=200), initial={"BTC/USD": 0.5}) for _ in range(2))
    assert walked(often, 6000, every_s=12) == pytest.approx(walked(seldom, 6000, every_s=60), rel=1e-12)


def test_returns_are_not_taken_over_less_than_the_sample() -> None:
    vols = EwmaVols(zigzag(2.0, count=500, step_s=12), initial={"BTC/USD": 0.5}, sample_s=24)
    assert walked(vols, 4800, every_s=12) < 0.5


def test_a_silent_feed_leaves_the_volatility_as_it_is() -> None:
    vols = EwmaVols(zigzag(0.9, count=61), initial={"BTC/USD": 0.6}, half_life_s=3600.0)
    before = walked(vols, 3600)
    assert vols.vol("BTC/USD", CALL, NOW_S + 36_000) == before


@pytest.mark.parametrize(("shown", "expected"), [(0.0, 0.05), (50.0, 5.0)])
def test_a_volatility_stays_within_its_bounds(shown: float, expected: float) -> None:
    vols = EwmaVols(zigzag(shown, count=700), initial={"BTC/USD": 0.5}, half_life_s=600.0)
    assert walked(vols, 690 * 60) == expected


def test_a_feed_is_heard_once_however_many_options_ask() -> None:
    vols = EwmaVols(Path([100.0, 110.0, 110.0]), initial={"BTC/USD": 0.5}, half_life_s=3600.0)
    walked(vols, 60)
    first, second = (vols.vol("BTC/USD", CALL, NOW_S + 60) for _ in range(2))
    assert first == second
