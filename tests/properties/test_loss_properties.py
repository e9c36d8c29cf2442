"""What must hold of what a book may lose, by every method: of any accounts of perps, futures and options."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain import Kind
from keeper.risk.at_risk import AtRisk, Method, Model, at_risk
from keeper.risk.inputs import Floats
from keeper.risk.margin import Book, Instrument
from keeper.risk.prices import DAY_S, Prices

NEW_YEAR = 1_704_067_200
SPOTS = {"BTC": 60e3, "ETH": 3e3}
LISTED = (
    Instrument("PERP", "BTC"),
    Instrument("FUTURE", "BTC", expiry_y=0.25),
    Instrument("CALL", "BTC", Kind.CALL, 66e3, 0.6, 30 / 365),
    Instrument("PUT", "BTC", Kind.PUT, 50e3, 0.7, 7 / 365),
    Instrument("INVERSE", "BTC", inverse=True),
    Instrument("ETH-PERP", "ETH"),
    Instrument("ETH-PUT", "ETH", Kind.PUT, 3e3, 0.8, 1 / 365),
)
SIZES = st.lists(
    st.floats(-100.0, 100.0).map(lambda size: round(size, 3)), min_size=len(LISTED), max_size=len(LISTED)
).map(np.array)
BOOKS = st.lists(SIZES, min_size=1, max_size=3).map(np.array)
METHODS = st.sampled_from([each for each in Method if each is not Method.CORNISH_FISHER])
MODELS = st.builds(
    Model,
    method=METHODS,
    level=st.sampled_from([0.9, 0.975, 0.99]),
    dof=st.sampled_from([None, 5.0]),
    steps=st.integers(1, 2),
    paths=st.just(2_000),
)


def made(n: int = 501) -> Prices:
    """Return closes that are made: two assets that fall together, whose returns are heavy-tailed."""
    generator = np.random.default_rng(17)
    both = 0.03 * generator.standard_t(4, (n, 1)) + 0.01 * generator.standard_normal((n, 2))
    return Prices(tuple(SPOTS), NEW_YEAR + DAY_S * np.arange(n), 100 * np.exp(both.cumsum(axis=0)))


PRICES = made()


def asked(positions: Floats, model: Model) -> AtRisk:
    return at_risk(Book.of(LISTED, SPOTS, positions), PRICES, model)


@settings(max_examples=50)
@given(positions=BOOKS, model=MODELS)
def test_a_shortfall_is_no_less_than_its_quantile_and_both_rise_with_the_level(
    positions: Floats, model: Model
) -> None:
    found, higher = asked(positions, model), asked(positions, replace(model, level=0.995))
    for one, other in ((found.accounts, higher.accounts), (found.whole, higher.whole)):
        slack = 1e-9 * (1 + np.abs(one.es))
        assert (one.es >= one.var - slack).all()
        assert (other.var >= one.var - slack).all()
        assert (other.es >= one.es - slack).all()


@settings(max_examples=50)
@given(positions=BOOKS, model=MODELS)
def test_what_assets_and_accounts_add_is_the_whole(positions: Floats, model: Model) -> None:
    found = asked(positions, model)
    # Parts may be large and hedge each other.
    size = 1e-9 * np.abs(positions).sum() * 60e3
    assert found.by_asset.sum(axis=1) == pytest.approx(found.accounts.es, abs=size)
    assert found.whole_by_asset.sum() == pytest.approx(float(found.whole.es), abs=size)
    assert found.whole_by_account.sum() == pytest.approx(float(found.whole.es), abs=size)


@settings(max_examples=50)
@given(positions=BOOKS, model=MODELS, scale=st.floats(0.01, 100))
def test_a_book_of_another_size_loses_in_proportion(positions: Floats, model: Model, scale: float) -> None:
    found, scaled = asked(positions, model), asked(scale * positions, model)
    size = 1e-9 * np.abs(positions).sum() * 60e3 * max(scale, 1.0)
    assert scaled.accounts.es == pytest.approx(scale * found.accounts.es, abs=size)
    assert scaled.accounts.var == pytest.approx(scale * found.accounts.var, abs=size)
    assert scaled.whole_by_asset == pytest.approx(scale * found.whole_by_asset, abs=size)


@settings(max_examples=50)
@given(positions=BOOKS, model=MODELS)
def test_accounts_together_lose_on_average_no_more_than_apart(positions: Floats, model: Model) -> None:
    found = asked(positions, model)
    size = 1e-9 * (1 + np.abs(positions).sum() * 60e3)
    assert found.whole.es <= found.accounts.es.sum() + size
    assert (found.whole_by_account <= found.accounts.es + size).all()
