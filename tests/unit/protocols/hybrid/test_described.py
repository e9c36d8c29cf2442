"""HybridMargin's columns in the risk engine's words: what is left out, and an array's volatility."""

import pytest

from keeper.domain import Instrument, Kind
from keeper.protocols.hybrid.holdings import described
from keeper.protocols.hybrid.market import HybridMarket
from keeper.risk.scenarios import Option, array_of, pack
from keeper.units import WAD
from tests.unit.protocols.hybrid.books import (
    CALL,
    EXPIRY_S,
    LATER,
    NOW_S,
    OPTIONS,
    PERPS,
    PUT,
    array,
    deployment,
    oracles,
)


def valued(market: int, vol: float) -> Instrument:
    """An option of the books with the array that a volatility makes."""
    listed = OPTIONS[market]
    option = Option(market, listed.kind, listed.strike_wad, listed.expiry_s)
    found = pack(
        option, array_of(option, spot=200.0, vol=vol, mmr=0.05, now_s=NOW_S - 60), mmrs_wad=[WAD // 20]
    )
    return Instrument(
        listed.feed,
        kind=listed.kind,
        strike_wad=listed.strike_wad,
        expiry_s=listed.expiry_s,
        array=found.view,
    )


@pytest.mark.parametrize("market", [CALL, PUT, LATER])
@pytest.mark.parametrize("vol", [0.2, 0.8, 2.0])
def test_an_option_has_the_volatility_of_its_array(market: int, vol: float) -> None:
    pytest.importorskip("lets_be_rational")
    [(place, found)] = described([valued(market, vol)], NOW_S)
    assert (place, found.kind) == (0, OPTIONS[market].kind)
    assert found.vol == pytest.approx(vol, rel=1e-4)
    assert found.expiry_y * 365 * 86_400 == pytest.approx(OPTIONS[market].expiry_s - NOW_S)


def test_every_column_that_hangs_on_a_price_is_told_in_its_place() -> None:
    market = HybridMarket(deployment(markets=PERPS | OPTIONS))
    # The call is worth no more than its payoff, the put is settled, the later call has no array.
    view = oracles(arrays={CALL: array(0, ref=190 * WAD)}, settlements={PUT: 180 * WAD})
    found = dict(market.described(view, NOW_S))
    assert {place: each.name for place, each in found.items()} == {
        0: "BTC/USD perp",
        1: "BTC/USD 2023-12-14 210 call",
        3: "BTC/USD 2023-12-15 220 call",
        4: "ETH/USD perp",
        5: "SYN/USD perp",
        6: "BTC/USD collateral",
        7: "SYN/USD collateral",
    }
    assert [found[place].vol for place in (1, 3)] == [0, 0]
    assert set(dict(market.described(view, NOW_S, collateral=False))) == {0, 1, 3, 4, 5}
    assert 1 not in dict(market.described(view, EXPIRY_S))


def test_two_of_one_name_are_told_apart() -> None:
    perp = Instrument("BTC/USD", kind=Kind.PERP)
    assert [each.name for _, each in described([perp, perp], NOW_S)] == ["BTC/USD perp", "BTC/USD perp #2"]
