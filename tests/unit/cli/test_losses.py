"""``keeper risk var``: what it says of books in files, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from keeper.cli import app
from keeper.errors import BadInput, ConfigError, KeeperError
from keeper.risk.at_risk import Method, Model, at_risk
from keeper.risk.margin import Book, Instrument
from keeper.risk.prices import DAY_S, Prices
from tests import closes

NEW_YEAR, HOUR = 1_704_067_200, 3_600
SPOTS = {"BTC": 60e3, "ETH": 3e3}
BOOK: dict[str, Any] = {
    "spots": SPOTS,
    "instruments": {
        "BTC-PERP": {"underlying": "BTC", "kind": "perp"},
        "ETH-PERP": {"underlying": "ETH", "kind": "perp"},
    },
    "accounts": {"long": {"BTC-PERP": 1}, "hedged": {"BTC-PERP": 1, "ETH-PERP": -20}, "none": {}},
}
PUT = {"underlying": "BTC", "kind": "put", "strike": 50e3, "vol": 0.7, "days": 30}


def made(step_s: int = DAY_S, n: int = 401) -> Prices:
    generator = np.random.default_rng(3)
    both = 0.02 * generator.standard_t(5, (n, 1)) + 0.015 * generator.standard_normal((n, 2))
    return Prices(tuple(SPOTS), NEW_YEAR + step_s * np.arange(n), 100 * np.exp(both.cumsum(axis=0)))


def written(folder: Path, *, prices: Prices | None = None, **changes: Any) -> tuple[str, ...]:
    """Write a book and prices; return the words that name them."""
    told = prices or made()
    rows = [
        ["time", *told.assets],
        *([at, *row] for at, row in zip(told.times, told.closes.tolist(), strict=True)),
    ]
    (folder / "closes.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    (folder / "book.json").write_text(json.dumps(BOOK | changes))
    return str(folder / "book.json"), "--prices", str(folder / "closes.csv")


def asked(*words: str) -> str:
    done = CliRunner().invoke(app, ["risk", "var", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def told(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(asked(*words, "--json"))
    return found


@pytest.mark.parametrize("method", [each for each in Method if each is not Method.CORNISH_FISHER])
def test_each_method_says_what_the_engine_finds(method: Method, tmp_path: Path) -> None:
    found = told(*written(tmp_path), "--method", method.value, "--paths", "1000")
    instruments = (Instrument("BTC-PERP", "BTC"), Instrument("ETH-PERP", "ETH"))
    book = Book.of(instruments, SPOTS, [[1, 0], [1, -20], [0, 0]])
    wanted = at_risk(book, made(), Model(method, paths=1_000))
    hedged = found["accounts"]["hedged"]
    assert hedged["var"] == pytest.approx(float(wanted.accounts.var[1]))
    assert hedged["es"] == pytest.approx(float(wanted.accounts.es[1]))
    assert hedged["standard_error"] == pytest.approx(float(wanted.accounts.standard_error[1]))
    assert hedged["assets"] == pytest.approx(dict(zip(SPOTS, wanted.by_asset[1], strict=True)))
    assert found["accounts"]["none"]["es"] == 0.0
    assert found["whole"]["es"] == pytest.approx(float(wanted.whole.es))
    assert found["whole"]["es"] == pytest.approx(sum(found["whole"]["assets"].values()))
    assert found["whole"]["es"] == pytest.approx(sum(found["adds"].values()))


def test_a_person_reads_what_a_program_does(tmp_path: Path) -> None:
    words = written(tmp_path)
    found, lines = told(*words), asked(*words).splitlines()
    assert lines[0].endswith("book.json")
    assert lines[1] == "filtered at 99% over 1 d (a step of 1 d); no options"
    assert lines[2].split() == ["account", "VaR", "+-", "ES", "BTC", "ETH", "adds", "to", "all"]
    last = [float(each.replace(",", "")) for each in lines[-1].removeprefix(" all as one").split()]
    whole = found["whole"]
    figures = [whole["var"], whole["standard_error"], whole["es"], *whole["assets"].values(), whole["es"]]
    assert last == [pytest.approx(each, abs=0.006) for each in figures]
    # A name is no markup; who adds most comes first, and no more than asked for.
    assert " [red]none" in asked(*written(tmp_path, accounts={"[red]none": {"BTC-PERP": 1}}))
    words = written(tmp_path)
    assert lines[3].split()[0] == "long"
    assert len(asked(*words, "--top", "1").splitlines()) == 5


DOCS = Path(__file__).parents[3] / "docs" / "risk"


def test_the_closes_of_the_docs_are_made_and_of_no_market() -> None:
    assert (DOCS / "closes.csv").read_text() == closes.made()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "keeper risk var",
            (
                *("var", "docs/risk/desk.json", "--prices", "docs/risk/closes.csv"),
                *("--oracle", "1h", "--finality", "19min"),
                *("--volume", "BTC=2e9,ETH=1e9", "--depth", "stressed"),
            ),
        ),
        ("keeper risk backtest", ("backtest", "docs/risk/closes.csv", "--weights", "BTC=0.6,ETH=0.4")),
    ],
)
def test_a_person_reads_the_figures_of_the_docs(
    command: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(DOCS.parents[1])
    done = CliRunner().invoke(app, ["risk", *words], catch_exceptions=False)
    page = (DOCS / "tail.md").read_text().split(f"    {command} docs/")[1]
    shown = page.split("```text\n")[1].split("```")[0].splitlines()
    assert [line.split() for line in shown] == [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("var.svg", ("var", "desk.json", "--prices", "closes.csv")),
        ("backtest.svg", ("backtest", "closes.csv", "--weights", "BTC=0.6,ETH=0.4", "--level", "0.99")),
    ],
)
def test_the_pictures_of_the_docs_are_those_that_the_commands_draw(
    name: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the coordinates, in whose last digits libraries of other machines may differ."""
    monkeypatch.chdir(DOCS)
    CliRunner().invoke(app, ["risk", *words, "--plot", str(tmp_path / name)], catch_exceptions=False)
    drawn, kept = (
        re.sub(r"\b[mp][0-9a-f]{10}\b|-?\d+(\.\d+)?", "0", (folder / name).read_text())
        for folder in (tmp_path, DOCS)
    )
    assert drawn == kept


def test_what_is_unknown_is_not_called_a_number(tmp_path: Path) -> None:
    """Of 100 returns at 99% none is beyond the one: how far the quantile may be off, nobody knows."""
    words = (*written(tmp_path, prices=made(n=101)), "--method", "historical", "--level", "0.99")
    error = told(*words)["whole"]["standard_error"]
    assert error is None or error > 0
    assert "inf" not in asked(*words)


@pytest.mark.parametrize(
    ("step_s", "times", "steps", "said"),
    [
        (HOUR, (), 1, "over 1 h (a step of 1 h)"),
        (
            HOUR,
            ("--liquidation", "4h 12min", "--oracle", "1h", "--finality", "19min"),
            5,
            "over 5 h (liquidation 4 h 12 min, oracle 1 h, finality 19 min, 5 steps of 1 h)",
        ),
        (HOUR, ("--oracle", "2h"), 2, "over 2 h (oracle 2 h, 2 steps of 1 h)"),
        (DAY_S, ("--finality", "19min"), 1, "over 1 d (finality 19 min, a step of 1 d)"),
    ],
)
def test_a_loss_is_counted_over_the_slowest_of_three(
    step_s: int, times: tuple[str, ...], steps: int, said: str, tmp_path: Path
) -> None:
    words = (*written(tmp_path, prices=made(step_s)), *times, "--paths", "500")
    assert said in asked(*words)
    found = told(*words)
    assert found["horizon"]["steps"] == steps
    assert found["horizon"]["seconds"] == steps * step_s
    assert found["decay"] == (0.94 if step_s == DAY_S else 0.97)


def test_by_volumes_selling_takes_time_and_costs(tmp_path: Path) -> None:
    words = (*written(tmp_path), "--volume", "BTC=1e6,ETH=1e6", "--paths", "500")
    found = told(*words)
    # All as one hold two bitcoins and are short twenty ether: 120,000 at a tenth of a million a day.
    assert found["horizon"]["liquidation_s"] == pytest.approx(1.2 * DAY_S)
    assert found["horizon"]["steps"] == 2
    for row in (*found["accounts"].values(), found["whole"]):
        assert row["es_and_selling"] == pytest.approx(row["es"] + row["selling"])
    assert found["accounts"]["none"]["selling"] == 0.0
    stressed = told(*words, "--depth", "stressed")
    assert stressed["whole"]["selling"] == pytest.approx(found["whole"]["selling"] / 0.35**0.5)
    faster = told(*words, "--share", "0.5")
    assert faster["horizon"]["liquidation_s"] == pytest.approx(0.24 * DAY_S)
    assert told(*words, "--liquidation", "5d")["horizon"]["steps"] == 5
    assert asked(*words).splitlines()[2].split()[6:9] == ["selling", "with", "it"]


def test_of_a_coin_a_person_reads_millionths(tmp_path: Path) -> None:
    inverse = {"underlying": "BTC", "kind": "perp", "inverse": True}
    held = {"instruments": {"I": inverse}, "accounts": {"a": {"I": 600}}}
    changes: dict[str, Any] = held | {"spots": {"BTC": 60e3}, "in_coin": True}
    words = written(tmp_path, **changes)
    var = told(*words)["accounts"]["a"]["var"]
    assert 1e-4 < var < 1e-2
    said = asked(*words).splitlines()
    assert said[1].endswith("; in coin")
    assert said[3].split()[:2] == ["a", f"{var:.6f}"]


def test_of_what_nobody_holds_no_prices_are_asked_for(tmp_path: Path) -> None:
    found = told(*written(tmp_path, spots=SPOTS | {"SOL": 1.0}))
    assert found["whole"] == told(*written(tmp_path))["whole"]
    assert found["still"] == []


def test_the_account_outside_of_an_expansions_domain_is_named_with_its_moments(tmp_path: Path) -> None:
    moves = 0.02 * np.random.default_rng(3).standard_t(9, (401, 2))
    moves[200, 1] = -0.4
    prices = Prices(tuple(SPOTS), made().times, 100 * np.exp(moves.cumsum(axis=0)))
    words = ("--method", "cornish-fisher")
    accounts = {"calm": {"BTC-PERP": 1}, "heavy": {"ETH-PERP": 20}}
    lost = -np.expm1(moves[1:, 1])
    unit = (lost - lost.mean()) / lost.std()
    found = f"{np.mean(unit**3):.4g} and {np.mean(unit**4) - 3:.4g}"
    with pytest.raises(
        BadInput, match=rf"^heavy: skew and excess_kurtosis must .* found {re.escape(found)}$"
    ):
        asked(*written(tmp_path, prices=prices, accounts=accounts), *words)
    assert "calm" in asked(*written(tmp_path, prices=prices, accounts={"calm": accounts["calm"]}), *words)
    # Two accounts whose own losses are even, and one that is left once they have taken each other's away.
    pair = {"long": {"BTC-PERP": 1e3, "ETH-PERP": 20}, "short": {"BTC-PERP": -1e3}}
    with pytest.raises(BadInput, match=r"^all as one: skew and excess_kurtosis must"):
        asked(*written(tmp_path, prices=prices, accounts=pair), *words)


@pytest.mark.parametrize(
    ("method", "said"),
    [("filtered", "options in full, at the volatility of now"), ("parametric", "options by their delta")],
)
def test_how_options_are_priced_is_said(method: str, said: str, tmp_path: Path) -> None:
    instruments = {**BOOK["instruments"], "PUT": PUT}
    words = written(tmp_path, instruments=instruments, accounts={"a": {"PUT": -1}})
    assert said in asked(*words, "--method", method)
    assert told(*words, "--method", method)["pricing"].startswith(said)


def test_of_many_assets_those_that_add_most_have_a_column_and_the_others_share_one(tmp_path: Path) -> None:
    names = [f"A{number}" for number in range(8)]
    closes = np.repeat(made().closes[:, :1], 8, axis=1)
    words = written(
        tmp_path,
        prices=Prices(tuple(names), made().times, closes),
        spots=dict.fromkeys(names, 100.0),
        instruments={name: {"underlying": name, "kind": "perp"} for name in names},
        accounts={"all": {name: number for number, name in enumerate(names)}},
    )
    *_, head, row, _ = asked(*words).splitlines()
    assert head.split()[4:10] == ["A3", "A4", "A5", "A6", "A7", "others"]
    figures = [float(each.replace(",", "")) for each in row.split()[1:]]
    assert sum(figures[3:9]) == pytest.approx(figures[2], abs=0.03)
    assert figures[8] == pytest.approx(figures[2] * 3 / 28, abs=0.02)


def test_what_is_stable_stays_unless_its_closes_are_told(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "spots": {"BTC/USD": 60e3, "USDC/USD": 1.0},
        "instruments": {name: {"underlying": f"{name}/USD", "kind": "perp"} for name in ("BTC", "USDC")},
        "accounts": {"loan": {"BTC": 1, "USDC": -40_000}, "saver": {"USDC": 10}},
    }
    words = written(tmp_path, **changes)
    found = told(*words)
    assert found["still"] == ["USDC/USD"]
    assert found["accounts"]["loan"]["assets"].keys() == {"BTC/USD"}
    assert found["accounts"]["saver"]["es"] == 0.0
    assert asked(*words).splitlines()[1].endswith("; USDC/USD stay")
    whole = Book.of([Instrument("BTC", "BTC")], {"BTC": 60e3}, [[1.0]])
    assert found["whole"]["es"] == pytest.approx(float(at_risk(whole, made(), Model()).whole.es))
    assert told(*words, "--volume", "BTC=1e9")["whole"]["selling"] > 0
    pegged = Prices(("BTC", "USDC"), made().times, made().closes)
    unstable = told(*written(tmp_path, prices=pegged, **changes))
    assert unstable["still"] == []
    assert unstable["accounts"]["saver"]["es"] > 0


def test_one_asset_in_another_does_not_move_by_the_closes_of_one(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "spots": {"BTC/USD": 60e3, "ETH/BTC": 0.05},
        "instruments": {name: {"underlying": name, "kind": "perp"} for name in ("BTC/USD", "ETH/BTC")},
        "accounts": {"both": {"BTC/USD": 1, "ETH/BTC": 1e6}},
    }
    assert told(*written(tmp_path, **changes))["still"] == ["ETH/BTC"]
    ratio = Prices(("BTC", "ETH/BTC"), made().times, made().closes)
    assert told(*written(tmp_path, prices=ratio, **changes))["still"] == []


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_what_each_asset_adds_is_drawn(name: str, tmp_path: Path) -> None:
    words = (*written(tmp_path), "--plot", str(tmp_path / name))
    asked(*words)
    drawn = (tmp_path / name).read_bytes()
    assert len(drawn) > 5_000
    asked(*words)
    assert (tmp_path / name).read_bytes() == drawn


@pytest.mark.parametrize(
    ("changes", "words", "error", "said"),
    [
        ({"accounts": {"none": {}}}, (), BadInput, "expected a book of what moves, found nothing in it"),
        (
            {
                "spots": {"USDC": 1},
                "instruments": {"U": {"underlying": "USDC", "kind": "perp"}},
                "accounts": {"a": {"U": 1}},
            },
            (),
            BadInput,
            "expected a book of what moves, found USDC in it",
        ),
        ({}, ("--oracle", "401d"), BadInput, "expected a return for each of 401 steps, found 400"),
        ({}, ("--volume", "BTC=1,ETH=1"), BadInput, "expected a return for each of 1200000 steps"),
        ({}, ("--volume", "BTC=1,ETH=0"), BadInput, r"volume_day must be above 0, found 0\.0"),
        ({}, ("--depth", "crash"), ConfigError, "--depth without --volume says nothing"),
        ({}, ("--share", "0.5"), ConfigError, "--share without --volume says nothing"),
        ({}, ("--volatility", "0.5"), ConfigError, "--volatility without --volume says nothing"),
        ({}, ("--seed", "-1"), BadInput, "seed must be a whole number of at least 0, found -1"),
        ({}, ("--paths", "1000000000"), BadInput, r"paths must be a whole number in \[1, 10000000\]"),
        ({}, ("--columns", "BTC=BTC"), BadInput, r"closes\.csv: expected prices of ETH, found BTC"),
        ({}, ("--oracle", f"{'9' * 400}d"), BadInput, "expected a time in d, h, min or s"),
        ({}, ("--oracle", f"{'9' * 12}d"), BadInput, "expected a return for each of 999999999999 steps"),
        ({}, ("--columns", "BTC=btc"), BadInput, "line 1: expected the columns btc, found BTC, ETH"),
        ({}, ("--level", "99"), BadInput, r"level must lie in \(0, 1\)"),
        ({}, ("--oracle", "soon"), BadInput, "expected a time in d, h, min or s"),
        (
            {},
            ("--oracle", "399d", "--method", "historical"),
            BadInput,
            "expected 100 returns at least, found 1",
        ),
        ({}, ("--volume", "BTC=1e9"), BadInput, "expected a day's volume of ETH, found BTC"),
        ({}, ("--volume", "SOL=1e9"), ConfigError, "volume: SOL is none of the book's assets BTC, ETH"),
        (
            {},
            ("--volume", "BTC=1e9,ETH=1e9", "--depth", "deep"),
            ConfigError,
            "depth: expected a number, or thin",
        ),
        ({}, ("--config", "keeper.toml"), ConfigError, "name one book"),
        ({}, ("--method", "cornish-fisher", "--level", "0.999"), BadInput, "expected 1000 returns at least"),
    ],
)
def test_what_cannot_be_told_is_refused(
    changes: dict[str, Any], words: tuple[str, ...], error: type[KeeperError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        asked(*written(tmp_path, **changes), *words)
