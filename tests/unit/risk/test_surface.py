"""Surfaces of listed options: what they say between quotes, and which quotes are refused."""

import numpy as np
import pytest

from keeper.errors import BadInput
from keeper.risk.surface import Surface

STRIKES = [40e3, 50e3, 60e3, 70e3, 80e3]
SMILE = [0.8, 0.7, 0.6, 0.62, 0.7]
FORWARDS = {0.1: 60e3, 0.5: 61e3}


def test_listed_options_have_their_own_volatility_and_between_them_variance_is_a_line() -> None:
    surface = Surface.of({0.1: (STRIKES, SMILE), 0.5: (STRIKES, [0.66] * 5)}, FORWARDS)
    assert surface.vol(strike=np.array(STRIKES), forward=60e3, years=0.1) == pytest.approx(SMILE)
    assert surface.vol(strike=np.array(STRIKES), forward=61e3, years=0.5) == pytest.approx([0.66] * 5)
    between = surface.vol(strike=60e3, forward=60e3, years=0.3)
    assert float(between) ** 2 * 0.3 == pytest.approx((0.6**2 * 0.1 + 0.66**2 * 0.5) / 2)
    middle = surface.vol(strike=np.sqrt(60e3 * 70e3), forward=60e3, years=0.1)
    assert float(middle) ** 2 == pytest.approx((0.6**2 + 0.62**2) / 2)


@pytest.mark.parametrize(("strike", "years", "vol"), [(1e3, 0.1, 0.8), (1e6, 0.05, 0.7), (60e3, 2.0, 0.6)])
def test_beyond_what_is_listed_volatility_stays(strike: float, years: float, vol: float) -> None:
    surface = Surface.of({0.1: (STRIKES, SMILE)}, FORWARDS)
    assert float(surface.vol(strike=strike, forward=60e3, years=years)) == pytest.approx(vol)


@pytest.mark.parametrize(
    ("strikes", "vols", "strike"),
    [
        ([59e3, 60e3, 61e3], [0.2, 0.6, 0.2], 60000),  # the middle one costs more than its wings
        ([50e3, 60e3], [0.2, 2.0], 60000),  # a higher strike costs more
        ([30e3, 60e3], [5.0, 0.1], 30000),
    ],
)
def test_butterflies_are_refused_with_strike_and_expiry(
    strikes: list[float], vols: list[float], strike: int
) -> None:
    with pytest.raises(BadInput, match=rf"^butterfly arbitrage at 0\.1 years and strike {strike}"):
        Surface.of({0.1: (strikes, vols)}, FORWARDS)


def test_calendars_are_refused_with_both_expiries() -> None:
    with pytest.raises(BadInput, match=r"^calendar arbitrage between 0\.1 and 0\.5 years at strike 40\d\d\d"):
        Surface.of({0.1: (STRIKES, SMILE), 0.5: (STRIKES, [0.3] * 5)}, FORWARDS)


@pytest.mark.parametrize(
    ("quotes", "words"),
    [
        ({}, "one expiry at least"),
        ({0.2: ([60e3], [0.5])}, "no forward for 0.2"),
        ({0.1: ([60e3, 50e3], [0.5, 0.5])}, "expected rising strikes"),
        ({0.1: ([60e3, 70e3], [0.5])}, "a volatility for each"),
        ({0.1: ([60e3], [float("nan")])}, "vols must be finite and above 0"),
        ({-1.0: ([60e3], [0.5])}, "no forward"),
    ],
)
def test_what_is_no_surface_is_refused(
    quotes: dict[float, tuple[list[float], list[float]]], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        Surface.of(quotes, FORWARDS)
