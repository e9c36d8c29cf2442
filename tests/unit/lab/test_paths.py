"""The generator: what it promises for every seed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.lab.paths import (
    BLOCK_S,
    SHAPES,
    UNITS,
    WINDOW,
    Paths,
    close_to_low,
    four_hours,
    generate,
    realised_volatility,
    wad,
)
from keeper.units import WAD

seeds = st.integers(0, 2**32)
slow = settings(max_examples=10, deadline=None)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 0x9A7])


@slow
@given(seed=seeds)
def test_the_four_hours_have_the_measured_falls_and_volatility(seed: int) -> None:
    prices = four_hours(rng(seed))
    assert (prices > 0).all()
    for column, shape in zip(prices.T, SHAPES, strict=True):
        assert close_to_low(column, 1) == pytest.approx(shape.worst_1h, abs=1e-4)
        assert close_to_low(column, 4) == pytest.approx(shape.worst_4h, abs=1e-4)
        assert realised_volatility(column) == pytest.approx(shape.volatility, rel=0.05)


@slow
@given(seed=seeds)
def test_bitcoin_and_ether_move_together(seed: int) -> None:
    returns = np.diff(np.log(four_hours(rng(seed))[::60]), axis=0)
    assert np.corrcoef(returns.T)[0, 1] > 0.6


@slow
@given(seed=seeds, fast=st.booleans())
def test_the_same_seed_gives_the_same_run(seed: int, fast: bool) -> None:
    first, second = generate(seed, fast=fast), generate(seed, fast=fast)
    assert np.array_equal(first.true, second.true)
    assert np.array_equal(first.fast, second.fast)
    assert (first.wick, first.rounds) == (second.wick, second.rounds)


def test_another_seed_gives_another_run() -> None:
    assert not np.array_equal(generate(1).true, generate(2).true)


@slow
@given(seed=seeds, fast=st.booleans())
def test_the_window_holds_the_fall_and_part_of_a_rebound(seed: int, fast: bool) -> None:
    paths = generate(seed, fast=fast)
    assert paths.blocks == (200 if fast else 600)
    assert len(paths.true) == paths.blocks * BLOCK_S + 1
    for column, shape in zip(paths.true.T, SHAPES, strict=True):
        assert column.min() / column[0] - 1 < shape.worst_1h + 0.03
        assert column[-1] > 1.02 * column.min()


@slow
@given(seed=seeds)
def test_the_short_run_has_the_same_prices_in_a_third_of_the_time(seed: int) -> None:
    full, short = generate(seed), generate(seed, fast=True)
    assert np.array_equal(full.true[::3], short.true)
    assert len(full.true) == WINDOW + 1


@slow
@given(seed=seeds, fast=st.booleans())
def test_only_the_wick_tells_the_fast_price_from_the_true_one(seed: int, fast: bool) -> None:
    paths = generate(seed, fast=fast)
    column = paths.feeds.index(paths.wick.feed)
    off = np.argwhere(paths.fast != paths.true)
    first, last = paths.wick.first_s - paths.start_s, paths.wick.last_s - paths.start_s
    assert off[:, 0].tolist() == list(range(first, last))
    assert set(off[:, 1]) == {column}
    share = paths.fast[first:last, column] / paths.true[first:last, column] - 1
    assert ((share > -0.121) & (share < -0.079)).all()


@slow
@given(seed=seeds, fast=st.booleans())
def test_the_wick_comes_early_lasts_two_or_three_blocks_and_meets_a_calm_market(
    seed: int, fast: bool
) -> None:
    paths = generate(seed, fast=fast)
    wick = paths.wick
    assert wick.last_s - wick.first_s in {2 * BLOCK_S, 3 * BLOCK_S}
    assert wick.last_s < paths.block_time_s(paths.blocks // 6)
    around = paths.true[: wick.last_s - paths.start_s + 60]
    assert (around / around[0] - 1 > -0.04).all()


@slow
@given(seed=seeds)
def test_a_slow_round_is_a_true_price_of_thirty_to_sixty_seconds_ago(seed: int) -> None:
    paths = generate(seed)
    for block, rounds in paths.rounds.items():
        if block < 6:
            continue
        second = BLOCK_S * block
        for found in rounds:
            past = paths.true[second - 60 : second - 29, paths.feeds.index(found.feed)]
            assert found.price_wad in {wad(float(price)) for price in past}


@slow
@given(seed=seeds)
def test_slow_rounds_come_on_deviation_or_heartbeat_only(seed: int) -> None:
    paths = generate(seed)
    for feed in paths.feeds:
        last, last_block = 0, 0
        for block in sorted(paths.rounds):
            for found in paths.rounds[block]:
                if found.feed != feed:
                    continue
                moved = last == 0 or abs(found.price_wad / last - 1) >= 0.0049
                assert moved or (block - last_block) * BLOCK_S >= 3600
                last, last_block = found.price_wad, block


def test_a_price_is_written_exactly_as_it_goes_on_chain(tmp_path: Path) -> None:
    paths = generate(3, fast=True)
    paths.write_csv(tmp_path / "prices.csv")
    lines = (tmp_path / "prices.csv").read_text().splitlines()
    assert lines[0] == "timestamp_s,feed,price"
    assert len(lines) == 1 + 3 * (paths.blocks * BLOCK_S + 1)
    at, feed, price = lines[-1].split(",")
    assert int(at) == paths.block_time_s(paths.blocks)
    assert round(float(price) * UNITS) * WAD // UNITS == wad(last_true(paths, feed))


def last_true(paths: Paths, feed: str) -> float:
    return paths.true_at(paths.block_time_s(paths.blocks))[feed]
