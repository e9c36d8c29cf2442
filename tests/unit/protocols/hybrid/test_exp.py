"""The integer twin of Solady's expWad, against its published values and against the exact exponential."""

from itertools import pairwise

import pytest

from keeper.protocols.hybrid.exp import exp_wad
from keeper.risk.slope import decay_wad
from keeper.units import WAD

LAMBDA = 116468285312632

# Vectorized/solady test/FixedPointMathLib.t.sol, testExpWad.
PUBLISHED = [
    (-42139678854452767551, 0),
    (-3 * WAD, 49787068367863942),
    (-2 * WAD, 135335283236612691),
    (-WAD, 367879441171442321),
    (-5 * WAD // 10, 606530659712633423),
    (-3 * WAD // 10, 740818220681717866),
    (0, 1000000000000000000),
    (3 * WAD // 10, 1349858807576003103),
    (5 * WAD // 10, 1648721270700128146),
    (WAD, 2718281828459045235),
    (2 * WAD, 7389056098930650227),
    (3 * WAD, 20085536923187667741),
    (10 * WAD, 22026465794806716516980),
    (50 * WAD, 5184705528587072464_148529318587763226117),
    (100 * WAD, 268811714181613544841_34666106240937146178367581647816351662017),
    (
        135305999368893231588,
        578960446186580976_50144101621524338577433870140581303254786265309376407432913,
    ),
]


@pytest.mark.parametrize(("x", "expected"), PUBLISHED)
def test_the_twin_gives_soladys_published_values(x: int, expected: int) -> None:
    assert exp_wad(x) == expected


def test_the_twin_is_zero_below_the_least_argument_that_counts() -> None:
    assert exp_wad(-41446531673892822312) == 1
    assert exp_wad(-41446531673892822313) == 0
    assert exp_wad(-(2**255)) == 0


def test_the_twin_refuses_what_the_contract_reverts_on() -> None:
    with pytest.raises(OverflowError, match=r"found 135305999368893231589$"):
        exp_wad(135305999368893231589)


def test_the_contracts_decay_is_never_below_the_exact_one_and_at_most_3_wei_above() -> None:
    excess = {
        exp_wad(-LAMBDA * tau_s) + 2 - decay_wad(tau_s, lambda_wad=LAMBDA, floor_wad=0)
        for tau_s in range(3601)
    }
    assert excess <= {0, 1, 2, 3}


def test_the_contracts_decay_never_rises() -> None:
    decays = [exp_wad(-LAMBDA * tau_s) for tau_s in range(3601)]
    assert all(later < earlier for earlier, later in pairwise(decays))


def test_the_twin_differs_from_the_floor_by_at_most_a_wei_over_all_negative_arguments() -> None:
    step = 41 * WAD // 4000 + 7
    for x in range(0, 41 * WAD, step):
        rounded_up = decay_wad(1, lambda_wad=x, floor_wad=0)
        assert rounded_up - 2 <= exp_wad(-x) <= rounded_up
