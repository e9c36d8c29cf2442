"""``keeper risk backtest``, on closes that are made: storms and calm, heavy tails, busy hours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit
from typer.testing import CliRunner

from keeper.cli import app
from keeper.errors import BadInput
from keeper.risk.inputs import Floats

NEW_YEAR, DAY, HOUR = 1_577_836_800, 86_400, 3_600


def stormy(n: int, seed: int = 5) -> Floats:
    """Return returns [n] of Student's t with 4 degrees of freedom, whose volatility follows them (GARCH)."""
    unit = np.random.default_rng(seed).standard_t(4, n) / np.sqrt(2)
    returns, variance = np.empty(n), 0.03**2
    for step in range(n):
        returns[step] = np.sqrt(variance) * unit[step]
        variance = 0.04 * 0.03**2 + 0.06 * returns[step] ** 2 + 0.90 * variance
    return returns


def written(path: Path, returns: Floats, *, step_s: int = DAY, start_s: int = NEW_YEAR) -> Path:
    """Write closes [n + 1] that have these returns, [n] of one asset or [n, a]."""
    moves = returns.reshape(len(returns), -1)
    closes = 100 * np.exp(np.vstack([np.zeros(moves.shape[1]), moves.cumsum(axis=0)]))
    lines = [["time", *"ABCDEF"[: moves.shape[1]]]]
    lines += [[start_s + step_s * at, *row] for at, row in enumerate(closes.tolist())]
    path.write_text("\n".join(",".join(map(str, line)) for line in lines))
    return path


def asked(path: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["risk", "backtest", str(path), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def told(path: Path, *words: str) -> list[dict[str, Any]]:
    forecasts: list[dict[str, Any]] = json.loads(asked(path, *words, "--json"))["forecasts"]
    return forecasts


@pytest.fixture(scope="module")
def closes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    both = np.stack([stormy(1_800, seed=13), stormy(1_800, seed=14)], axis=1)
    return written(tmp_path_factory.mktemp("closes") / "closes.csv", both)


def test_filtered_history_is_not_refuted_and_a_normal_is_with_its_reasons(closes: Path) -> None:
    found = told(closes, "--weights", "A=0.6,B=0.4")
    assert [(each["method"], each["level"]) for each in found] == [
        ("filtered", 0.975),
        ("filtered", 0.99),
        ("parametric", 0.975),
        ("parametric", 0.99),
    ]
    assert all(each["n"] == 1_300 for each in found)
    assert [each["verdict"] for each in found[:2]] == ["not refuted", "not refuted"]
    assert found[3]["refuted"] == ["too many exceptions", "larger than ES says"]
    assert found[3]["tests"]["kupiec"]["p_value"] < 0.05
    assert found[3]["traffic_light"]["zone"] == "yellow"


def test_a_person_reads_the_same_as_a_program(closes: Path) -> None:
    words = ("--weights", "A=0.6,B=0.4", "--level", "0.99")
    head, names, *lines = asked(closes, *words).splitlines()
    assert head.startswith("0.6 A, 0.4 B, forecast 2021-05-16 to 2024-12-05 for 1 d each, from the 500")
    assert names.split()[:5] == ["forecast", "level", "expected", "found", "zone"]
    for line, each in zip(lines, told(closes, *words), strict=True):
        assert line.split()[0] == each["method"]
        assert line.split()[2:5] == ["13.0", str(each["exceptions"]), each["traffic_light"]["zone"]]
        assert line.strip().endswith(each["verdict"])


def test_the_last_forecast_is_of_the_last_close_and_the_first_of_the_one_after_the_window(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "a.csv", stormy(200))
    found = json.loads(asked(path, "--window", "150", "--level", "0.9", "--json"))
    assert (found["from"], found["to"]) == ("2020-05-31", "2020-07-19")
    assert found["forecasts"][0]["n"] == 50


@pytest.mark.parametrize("method", ["historical", "filtered", "parametric", "monte-carlo", "cornish-fisher"])
def test_every_method_can_be_asked_for(method: str, tmp_path: Path) -> None:
    # Every window has nearly these returns in another order: a tail that an expansion can tell of.
    mild, generator = 0.02 * stdtrit(5, (np.arange(40) + 0.5) / 40), np.random.default_rng(2)
    path = written(tmp_path / "a.csv", np.concatenate([generator.permutation(mild) for _ in range(4)]))
    (found,) = told(path, "--window", "120", "--level", "0.95", "--method", method)
    assert (found["method"], found["n"]) == (method, 40)
    assert found["exceptions"] <= 6


def test_hours_that_are_busy_are_reckoned_with_where_that_is_asked_for(tmp_path: Path) -> None:
    """A plain model has its exceptions in the busy hours: they come together, and the test says so."""
    shape = np.where(np.arange(24 * 90) % 24 < 4, 4.0, 1.0)
    returns = 0.002 * np.random.default_rng(8).standard_normal(24 * 90) * shape
    path = written(tmp_path / "a.csv", returns, step_s=HOUR)
    words = ("--method", "historical", "--level", "0.95", "--window", str(24 * 60))
    (plain,), (by_hour,) = told(path, *words), told(path, *words, "--by-hour")
    assert "exceptions come together" in plain["refuted"]
    assert by_hour["refuted"] == []
    assert by_hour["tests"]["independence"]["p_value"] > 0.1
    assert "by the hour of the day" in asked(path, *words, "--by-hour")


@pytest.mark.parametrize(("weight", "side"), [("A=1", -1), ("A=-1", 1)])
def test_long_and_short_lose_simple_returns_by_hand(weight: str, side: int, tmp_path: Path) -> None:
    """Of 20 days two lose a quarter: an ES of 0.25 at 90%. One of the ten that follow loses half: twice that.

    Z2 is 1 less 2 over the one that is expected among ten, for a long and for a short.
    """
    simple = np.zeros(30)
    simple[[15, 17, 20]] = side * np.array([0.25, 0.25, 0.5])
    path = written(tmp_path / "a.csv", np.log1p(simple))
    words = ("--weights", weight, "--method", "historical", "--level", "0.9", "--window", "20")
    (found,) = told(path, *words)
    assert found["exceptions"] == 1
    assert found["tests"]["z2"]["statistic"] == pytest.approx(-1.0)


def test_a_decay_is_that_of_days_or_of_hours_unless_it_is_told(tmp_path: Path) -> None:
    words = ("--window", "150", "--level", "0.9", "--method", "parametric")
    for step_s, decay in ((DAY, 0.94), (HOUR, 0.97)):
        path = written(tmp_path / "a.csv", stormy(200), step_s=step_s)
        assert told(path, *words)[0]["decay"] == decay
        assert told(path, *words, "--decay", "0.9")[0]["decay"] == 0.9


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_what_was_forecast_is_drawn(name: str, closes: Path, tmp_path: Path) -> None:
    words = ("--weights", "A=1", "--level", "0.99", "--plot", str(tmp_path / name))
    assert "filtered" in asked(closes, *words)
    drawn = (tmp_path / name).read_bytes()
    asked(closes, *words)
    assert drawn == (tmp_path / name).read_bytes()
    assert len(drawn) > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "expected --weights of some of A, B"),
        (("--weights", "A=1,C=1"), r"closes\.csv: expected prices of C, found A, B"),
        (("--weights", "A=1", "--window", "1799"), "filtered at 97.5%: expected 1801 returns .* found 1800"),
        (
            ("--weights", "A=1", "--window", "111", "--level", "0.99"),
            "at 99%: .* window of 112 returns",
        ),
        (("--weights", "A=1", "--level", "99"), r"level must lie in \(0, 1\), found 99.0"),
        (("--weights", "A=1", "--by-hour"), "filtered at 97.5%: expected steps of which a day has several"),
        (("--weights", "A=1", "--method", "cornish-fisher"), "cornish-fisher at 97.5%: skew and excess_kurt"),
        (("--weights", "A=1", "--significance", "1"), r"significance must lie in \(0, 1\), found 1.0"),
    ],
)
def test_what_cannot_be_forecast_is_told(words: tuple[str, ...], said: str, closes: Path) -> None:
    with pytest.raises(BadInput, match=said):
        asked(closes, *words)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("filtered", "filtered at 99%: returns must move from the start, found none .* among the first 20"),
        (
            "historical",
            r"expected losses in every window of 200 returns, found an ES of 0 for 2020-07-20: pri",
        ),
        ("parametric", r"parametric at 99%: expected losses .* found an ES of 0 for 2020-07-20: prices that"),
    ],
)
def test_prices_that_stand_still_tell_of_no_tail_and_that_is_said(
    method: str, said: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.csv", np.zeros(400))
    with pytest.raises(BadInput, match=said):
        asked(path, "--method", method, "--level", "0.99", "--window", "200")


def test_the_day_is_named_before_which_nothing_was_lost(tmp_path: Path) -> None:
    """Only the 200 returns before day 300 rise without a loss; the day before has one in its window."""
    returns = 0.01 * np.random.default_rng(1).standard_normal(400)
    returns[99:300] = [-0.05, *200 * [0.001]]
    path = written(tmp_path / "a.csv", returns)
    with pytest.raises(BadInput, match=r"found an ES of -0\.001\d* for 2020-10-28"):
        asked(path, "--method", "historical", "--level", "0.99", "--window", "200")


def test_figures_end_at_the_right_and_words_begin_at_the_left(closes: Path) -> None:
    head, *rows = asked(closes, "--weights", "A=1").splitlines()[1:]
    for name in ("level", "expected", "found", "Kupiec p", "order p", " Z2", "Z2 p"):
        end = head.index(name) + len(name)
        assert all(row[end - 1] != " " and row[end] == " " for row in rows), name
    for name in ("forecast", "zone", "verdict"):
        begin = head.index(name)
        assert all(row[begin] != " " and row[begin - 1] == " " for row in rows), name
