"""The trigger may over-suspect; it never misses."""

from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.risk.marks import Marks
from keeper.risk.netting import Underlying
from keeper.trigger.scores import BLOCK, Floats, Scores, score, suspects

NAN = float("nan")


def scored(cash: list[float], positions: list[list[float]], value: list[float], gross: list[float]) -> Scores:
    return score(
        cash=np.array(cash),
        positions=np.array(positions, dtype=np.float64).reshape(len(cash), len(value)),
        marks=marked(value, gross),
    )


def marked(value: list[Any], gross: list[Any]) -> Marks:
    """Marks of instruments that do not net; by class where they are lists of lists."""
    return Marks(np.array(value, np.float64), np.array(gross, np.float64), np.ones(1))


def test_equity_and_requirement_are_those_of_the_worked_example() -> None:
    scores = scored([300 - 21_000], [[100, 10]], [200, 160], [10, 0])
    assert scores.equity.tolist() == [900]
    assert scores.requirement.tolist() == [1000]
    assert suspects(scores).tolist() == [0]


@pytest.mark.parametrize(
    ("cash", "size", "suspected"),
    [
        (11.0, 1.0, False),
        (10.0, 1.0, True),  # exactly at the threshold: cannot be cleared
        (9.999, 1.0, True),
        (10.0 + 1e-12, 1.0, True),  # within what rounding could explain
        (10.0 + 1e-3, 1.0, False),
        (-5.0, 0.0, True),  # bad debt without a requirement
        (0.0, 0.0, False),  # nothing at all
        (5.0, 0.0, False),
    ],
)
def test_an_account_is_cleared_only_when_rounding_cannot_explain_its_surplus(
    cash: float, size: float, suspected: bool
) -> None:
    scores = scored([cash - 100 * size], [[size]], [100.0], [10.0])
    assert bool(suspects(scores).size) is suspected


def test_the_worst_comes_first() -> None:
    scores = scored([-95.0, -99.0, -92.0, 50.0], [[1]] * 4, [100.0], [10.0])
    assert suspects(scores).tolist() == [1, 0, 2]


def test_a_mark_without_a_price_makes_unknown_exactly_the_rows_that_hold_it() -> None:
    scores = scored([0.0, 0.0], [[1, 0], [0, 1]], [100.0, NAN], [10.0, 1.0])
    assert scores.unknown.tolist() == [False, True]
    assert np.isfinite(scores.equity[0])
    assert suspects(scores).tolist() == []


def test_infinite_or_missing_cash_is_never_cleared_and_never_acted_on() -> None:
    scores = scored([float("inf"), NAN], [[1], [1]], [100.0], [10.0])
    assert scores.unknown.tolist() == [True, True]
    assert suspects(scores).tolist() == []


def test_an_empty_book_has_no_suspects() -> None:
    assert suspects(scored([], [], [100.0], [10.0])).tolist() == []


amounts = st.integers(-(10**12), 10**12)


@given(
    cash=amounts,
    sizes=st.lists(amounts, min_size=3, max_size=3),
    prices=st.lists(st.integers(1, 10**9), min_size=3, max_size=3),
    rates=st.lists(st.integers(1, 1000), min_size=3, max_size=3),
)
def test_what_exact_arithmetic_finds_in_breach_is_always_suspect(
    cash: int, sizes: list[int], prices: list[int], rates: list[int]
) -> None:
    exact = [Fraction(p, 1000) for p in prices]
    charges = [p * Fraction(r, 10_000) for p, r in zip(exact, rates, strict=True)]
    equity = cash + sum(s * p for s, p in zip(sizes, exact, strict=True))
    requirement = sum(abs(s) * c for s, c in zip(sizes, charges, strict=True))
    scores = score(
        cash=np.array([float(cash)]),
        positions=_row(sizes),
        marks=marked([float(p) for p in exact], [float(c) for c in charges]),
    )
    if equity < requirement:
        assert suspects(scores).tolist() == [0]


def _row(sizes: list[int]) -> Floats:
    return np.array([[float(s) for s in sizes]])


# --- what nets -----------------------------------------------------------------------------------

HEDGED = Underlying(
    columns=np.array([0, 1]),
    risk=np.array([[10.0, -10.0], [-10.0, 10.0]]),
    perps=np.array([10.0, 0.0]),
    short=np.zeros(2),
    doubtful=np.zeros(2, np.bool_),
)
"""A perp and an option that moves against it, and two columns more."""


NETTED = Marks(
    value=np.array([100.0, 5.0, 1.0, 7.0]),
    gross=np.array([10.0, 0.0, 0.5, 0.0]),
    underlyings=(HEDGED,),
    levels=np.ones(1),
)


def netted(cash: list[float], positions: list[list[float]]) -> Scores:
    return score(
        cash=np.array(cash),
        positions=np.array(positions),
        marks=NETTED,
    )


def test_a_row_that_holds_what_nets_is_charged_by_its_underlying_and_others_by_themselves() -> None:
    scores = netted([0.0] * 4, [[2, 0, 0, 0], [2, 2, 0, 0], [2, 1, 4, 0], [0, 0, 4, 1]])
    assert scores.requirement.tolist() == [20.0, 0.0, 10.0 + 2.0, 2.0]
    assert scores.equity.tolist() == [200.0, 210.0, 209.0, 11.0]


def test_a_hedge_that_cancels_is_not_taken_for_nothing_at_all() -> None:
    # A requirement of nothing may be what rounding left of a little.
    scores = netted([-210.0, 0.0], [[2, 2, 0, 0], [0, 0, 0, 0]])
    assert (scores.equity.tolist(), scores.requirement.tolist()) == ([0.0, 0.0], [0.0, 0.0])
    assert suspects(scores).tolist() == [0]


def test_every_row_has_its_own_level() -> None:
    scores = scored([12.0 - 100, 12.0 - 100], [[1], [1]], [100.0], [10.0])
    assert suspects(scores, level=np.array([1.0, 1.3])).tolist() == [1]


def test_a_book_of_many_blocks_is_scored_like_its_rows() -> None:
    rows = 2 * BLOCK + 3
    cash = np.linspace(-95.0, 5.0, rows).tolist()
    scores = scored(cash, [[1.0]] * rows, [100.0], [10.0])
    assert scores.requirement.tolist() == [10.0] * rows
    assert suspects(scores).tolist() == [row for row in range(rows) if cash[row] <= -90.0]


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("nets", [False, True])
def test_a_row_is_scored_by_the_marks_of_its_class(nets: bool) -> None:
    rng = np.random.default_rng(1)
    rows, several = BLOCK + 5, 3
    cash, positions = rng.normal(size=rows), rng.normal(size=(rows, 4)) * rng.integers(0, 2, (rows, 4))
    classes = rng.integers(0, several, rows).astype(np.uint16)
    value, gross = rng.normal(size=(several, 4)), rng.random((several, 4))
    value[1, 2] = NAN
    marks = replace(NETTED, value=value, gross=gross) if nets else marked(value.tolist(), gross.tolist())
    together = score(cash=cash, positions=positions, marks=marks, classes=classes)
    for each in range(several):
        of = classes == each
        alone = replace(marks, value=value[each], gross=gross[each])
        expected = score(cash=cash[of], positions=positions[of], marks=alone)
        for name in (field.name for field in fields(Scores)):
            np.testing.assert_allclose(getattr(together, name)[of], getattr(expected, name), rtol=1e-12)
