"""Scores that say why: published numbers, a solver, and accounts that were made by known weights."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit

from keeper.risk.credit import Feature, Scorecard, fit, multiplier, stressed_pd, wrong_way

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "statistics.json").read_text())
CARD = Scorecard(
    -4.0,
    (
        Feature("health_below_1_count", 1.2, most=5.0),
        Feature("age_days", -0.5, centre=365.0, scale=180.0, least=0.0, most=1_095.0),
    ),
)


def test_a_score_is_the_intercept_and_what_each_feature_adds() -> None:
    found = CARD.score({"health_below_1_count": 2, "age_days": 5})
    assert found.contributions["health_below_1_count"] == pytest.approx(2.4)
    assert found.contributions["age_days"] == pytest.approx(1.0)
    assert found.pd == pytest.approx(1 / (1 + math.exp(4 - 3.4)))
    assert found.worst() == ["health_below_1_count", "age_days"]


def test_many_accounts_are_scored_at_once_and_none_beyond_experience() -> None:
    found = CARD.score({"health_below_1_count": [0, 5, 500], "age_days": [1_095, 0, 0]})
    assert found.pd[1] == found.pd[2]
    assert sum(found.contributions.values()) - 4 == pytest.approx(logit(found.pd))
    assert found.worst(1)[0] == "health_below_1_count"
    assert found.worst(0)[-1] == "age_days"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"age_days": 5}, "expected the features"),
        ({"age_days": 5, "health_below_1_count": 0, "luck": 1}, "expected the features"),
        ({"age_days": math.nan, "health_below_1_count": 0}, "age_days must be finite"),
    ],
)
def test_what_was_not_read_is_not_scored(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CARD.score(values)


def test_cards_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="each with a name of its own"):
        Scorecard(0.0, (Feature("a", 1.0), Feature("a", 2.0)))
    with pytest.raises(ValueError, match="least below most"):
        Feature("a", 1.0, least=1.0, most=0.0)
    with pytest.raises(ValueError, match="scale must be above 0"):
        Feature("a", 1.0, scale=0.0)


def made(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    values = {"breaches": rng.poisson(1.0, n).astype(float), "leverage": rng.uniform(1, 10, n)}
    pd = expit(-3 + 0.8 * values["breaches"] + 0.2 * (values["leverage"] - 5))
    return values, (rng.random(n) < pd).astype(float)


def test_weights_are_found_again_by_which_accounts_were_made() -> None:
    values, ended = made(40_000, 7)
    card = fit(values, ended)
    weights = {feature.name: feature.weight / feature.scale for feature in card.features}
    assert weights["breaches"] == pytest.approx(0.8, abs=0.06)
    assert weights["leverage"] == pytest.approx(0.2, abs=0.03)
    # Of a likeliest model with an intercept, expected defaults are those that were.
    assert card.score(values).pd.sum() == pytest.approx(ended.sum(), rel=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 5.0])
def test_a_solver_finds_no_likelier_weights(ridge: float) -> None:
    values, ended = made(500, 3)
    card = fit(values, ended, ridge=ridge)
    standard = np.stack([(column - column.mean()) / column.std() for column in values.values()], axis=1)

    def unlikely(found: np.ndarray) -> float:
        odds = found[0] + standard @ found[1:]
        return float(np.logaddexp(0, odds).sum() - ended @ odds + ridge / 2 * found[1:] @ found[1:])

    solved = minimize(unlikely, np.zeros(3), method="BFGS", options={"gtol": 1e-8})
    ours = np.array([card.intercept, *(feature.weight for feature in card.features)])
    assert ours == pytest.approx(solved.x, abs=1e-4)
    assert unlikely(ours) <= solved.fun + 1e-9


def test_a_fit_is_the_logit_of_statsmodels() -> None:
    columns = np.array(GOLDEN["features"])
    values = {name: columns[:, at] for at, name in enumerate(("breaches", "age", "leverage"))}
    card = fit(values, GOLDEN["defaulted"])
    assert card.score(values).pd == pytest.approx(np.array(GOLDEN["logit"]["pd"]), rel=1e-9)
    slopes = [feature.weight / feature.scale for feature in card.features]
    assert slopes == pytest.approx(GOLDEN["logit"]["parameters"][1:], rel=1e-9)


def test_what_parts_the_two_kinds_without_error_needs_a_ridge() -> None:
    values, ended = {"leverage": [1.0, 2.0, 8.0, 9.0]}, [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="set a ridge"):
        fit(values, ended)
    card = fit(values, ended, ridge=1.0)
    low, high = card.score({"leverage": [1.0, 9.0]}).pd
    assert 0 < low < 0.5 < high < 1


@pytest.mark.parametrize(
    ("leverage", "ended", "words"),
    [
        ([1.0, 2.0], [0.0, 0.0], "some of either"),
        ([1.0, 2.0], [0.0, 0.5], "0 or 1"),
        ([1.0, 1.0], [0.0, 1.0], "features that vary, found .*leverage"),
        ([1.0], [0.0, 1.0], r"leverage must have the shape \[2\]"),
    ],
)
def test_accounts_that_teach_nothing_are_refused(
    leverage: list[float], ended: list[float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        fit({"leverage": leverage}, ended)


def test_a_bad_year_is_hulls() -> None:
    # Hull, "Risk Management and Financial Institutions": PD 2%, correlation 0.1, 99.9% give 12.8%.
    assert stressed_pd(0.02, rho=0.1) == pytest.approx(0.128, abs=5e-4)
    assert stressed_pd(0.02, rho=0.0) == pytest.approx(0.02)


@given(
    less=st.floats(1e-6, 0.5),
    more=st.floats(1e-6, 0.5),
    rho=st.floats(0.0, 0.9),
    level=st.floats(0.5, 0.9999),
)
def test_a_worse_pd_is_never_asked_for_less(less: float, more: float, rho: float, level: float) -> None:
    less, more = sorted((less, more))
    stressed = stressed_pd(np.array([less, more]), rho=rho, level=level)
    assert stressed[0] <= stressed[1]
    assert 0 <= stressed.min() <= stressed.max() <= 1
    first, second = multiplier([less, more], pd_ref=0.02)
    assert 0.8 <= first <= second <= 2.0


def test_the_account_of_reference_is_asked_for_once_its_margin() -> None:
    reference = stressed_pd(0.02, rho=0.1)
    assert multiplier(reference, pd_ref=reference) == 1
    # Φ⁻¹(0.16) − Φ⁻¹(0.02) = −0.994 + 2.054.
    assert multiplier(0.16, pd_ref=0.02, kappa=0.5) == pytest.approx(1 + 0.5 * 1.0593, abs=1e-4)
    assert multiplier(0.999, pd_ref=0.02) == 2.0
    assert multiplier(1e-9, pd_ref=0.02) == 0.8


@pytest.mark.parametrize("pd", [0.0, 1.0, -0.1, math.nan])
def test_what_is_no_probability_is_refused(pd: float) -> None:
    with pytest.raises(ValueError, match="pd must"):
        multiplier(pd, pd_ref=0.02)
    with pytest.raises(ValueError, match="pd must"):
        stressed_pd(pd, rho=0.1)


def test_collateral_that_falls_with_what_it_secures_is_flagged() -> None:
    rng = np.random.default_rng(1)
    driver = rng.normal(0, 0.03, 500)
    own_token = 0.8 * driver + rng.normal(0, 0.01, 500)
    assert wrong_way(own_token, driver).flagged
    assert wrong_way(own_token, driver).correlation == pytest.approx(np.corrcoef(own_token, driver)[0, 1])
    assert not wrong_way(-own_token, driver).flagged
    assert not wrong_way(own_token, driver, most=0.99).flagged
    for collateral in ([0.1, 0.2], [0.1, 0.1, 0.1]):
        with pytest.raises(ValueError, match="two series that vary"):
            wrong_way(collateral, [0.1, 0.2, 0.3][: len(collateral)])
