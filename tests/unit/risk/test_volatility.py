"""What volatility quotes show; over longer paths it is tested with the steward's."""

import math

import pytest

from keeper.domain import Quote, Unknown
from keeper.risk.options import YEAR_S
from keeper.risk.volatility import Ewma
from keeper.units import WAD

NOW_S = 1_700_000_000


def test_a_feed_begins_with_the_volatility_that_it_is_given() -> None:
    ewma = Ewma({"BTC/USD": 0.6})
    assert ewma.vol("BTC/USD") == pytest.approx(0.6)
    ewma.hear(Quote("ETH/USD", WAD, NOW_S))
    assert ewma.vol("ETH/USD") == Unknown("ETH/USD", "no volatility to start from is set for it")


def test_after_a_half_life_half_of_the_variance_is_that_of_the_return() -> None:
    ewma = Ewma({"BTC/USD": 0.6}, half_life_s=3600)
    for price, at_s in ((100.0, 0), (101.0, 30), (100 * math.exp(0.01), 3600)):
        ewma.hear(Quote("BTC/USD", int(price * WAD), NOW_S + at_s))
    shown = 0.01**2 / 3600 * YEAR_S
    assert ewma.vol("BTC/USD") == pytest.approx(math.sqrt((0.6**2 + shown) / 2), rel=1e-6)
