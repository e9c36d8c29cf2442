"""``keeper risk stress``: scenarios added up by hand, the likeliest break, and what is refused."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from keeper.cli import app
from keeper.cli.assets import free, resolved
from keeper.cli.stresses import of_book, of_crashes
from keeper.errors import BadInput, ConfigError, KeeperError
from keeper.risk.stress import crashes, reverse

BOOK: dict[str, Any] = {
    "spots": {"BTC": 100.0, "ETH": 10.0},
    "instruments": {
        "B": {"underlying": "BTC", "kind": "perp"},
        "E": {"underlying": "ETH", "kind": "perp"},
    },
    "accounts": {"long": {"B": 10}, "both": {"B": 1, "E": 10}, "short": {"E": -10}},
    "equity": {"long": 200, "both": 100, "short": 40},
}
"""Of BTC and ETH alike span16 asks for 15%."""


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "book.json"
    path.write_text(json.dumps(BOOK | changes))
    return path


def asked(*words: str) -> str:
    done = CliRunner().invoke(app, ["risk", "stress", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def told(*words: str) -> Any:
    return json.loads(asked(*words, "--json"))


def closes(tmp_path: Path, rows: int = 400) -> tuple[Path, np.ndarray[Any, np.dtype[np.float64]]]:
    """Daily closes, and the covariance of their log returns."""
    returns = np.random.default_rng(3).normal(0, 0.04, (rows, 2)) @ np.array([[1.0, 0.9], [0.0, 0.5]])
    prices = np.exp(np.cumsum(returns, axis=0))
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    lines = [
        f"{(begin + timedelta(days=row)).isoformat()},{btc!r},{eth!r}"
        for row, (btc, eth) in enumerate(prices.tolist())
    ]
    path = tmp_path / "closes.csv"
    path.write_text("\n".join(["time,BTC,ETH", *lines]))
    later = np.diff(np.log(prices), axis=0)
    return path, later.T @ later / len(later)


def test_a_move_is_added_up_by_hand(tmp_path: Path) -> None:
    said = told(str(written(tmp_path)), "--move", "BTC=-0.25,ETH=0.5")
    assert said["now"] == {
        "equity": pytest.approx(340),
        "accounts": 3,
        "breached": 0,
        "bad_debt": 0,
        "worst": [],
    }
    [there] = said["scenarios"]
    # long 200 − 250, both 100 − 25 + 50, short 40 − 50; of 75, and of 15, 15% are required of long and short.
    assert there["moves"] == {"BTC": -0.25, "ETH": 0.5}
    assert there["equity"] == pytest.approx(-50 + 125 - 10)
    assert there["change"] == pytest.approx(-275)
    assert (there["breached"], there["bad_debt"]) == (2, pytest.approx(60))
    assert [each["account"] for each in there["worst"]] == ["long", "short"]
    assert [each["lacks"] for each in there["worst"]] == pytest.approx([50 + 0.15 * 750, 10 + 0.15 * 150])


def test_without_a_wish_every_crash_is_played(tmp_path: Path) -> None:
    path = written(tmp_path)
    said = told(str(path))["scenarios"]
    assert [each["name"] for each in said] == list(crashes(24))
    assert said[0]["moves"] == dict(crashes(24)["2020-03-12 covid"])
    [luna] = told(str(path), "--crash", "luna", "--hours", "1")["scenarios"]
    assert luna["moves"] == {"BTC": -0.0791, "ETH": -0.1167}


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    said = told(str(written(tmp_path)), "--grid", "BTC=-0.1/0,ETH=0.1/0.2/0.3")["scenarios"]
    assert [tuple(each["moves"].values()) for each in said] == [
        (btc, eth) for btc in (-0.1, 0.0) for eth in (0.1, 0.2, 0.3)
    ]


def test_a_person_reads_a_row_a_scenario(tmp_path: Path) -> None:
    said = asked(str(written(tmp_path)), "--crash", "luna", "--move", "BTC=-0.25")
    assert "now: 3 accounts, equity 340, 0 in breach, bad debt 0" in said
    [luna] = [line.split() for line in said.splitlines() if "luna" in line]
    assert luna[2:6] == ["BTC", "-16.15%,", "ETH", "-26.11%"]
    [move] = [line.split() for line in said.splitlines() if line.strip().startswith("move")]
    assert move[1:] == ["BTC", "-25%", "65", "-275", "1", "50", "long:", "162"]


def test_the_likeliest_break_of_one_long_is_the_formulas(tmp_path: Path) -> None:
    lone = written(tmp_path, accounts={"long": {"B": 10}}, equity={"long": 200})
    path, covariance = closes(tmp_path)
    said = told(str(lone), "--reverse", "--prices", str(path), "--fund", "50", "--horizon", "2d")["reverse"]
    # 250 of 1,000 are lost at a fall of a quarter: in logs, as far as the formula has it.
    found = reverse([1.0, 0.0], 2 * covariance, -math.log(0.75))
    assert said["distance"] == pytest.approx(found.distance, rel=1e-3)
    assert said["moves"]["BTC"] == pytest.approx(-0.25, abs=1e-3)
    assert said["moves"]["ETH"] == pytest.approx(math.expm1(found.shock[1]), abs=5e-3)
    assert said["bad_debt"] == pytest.approx(50, rel=1e-2)
    assert (said["horizon"], said["still"]) == ("2 d", [])
    words = asked(str(lone), "--reverse", "--prices", str(path), "--fund", "50")
    assert "likeliest shock that leaves a bad debt of 50: BTC -25" in words
    assert "they are not, and it is likelier" in words


def test_what_no_shock_breaks_and_what_has_no_prices_is_said(tmp_path: Path) -> None:
    path, _ = closes(tmp_path)
    short = path.read_text().splitlines()
    path.write_text("\n".join(line.rsplit(",", 1)[0] for line in short))
    said = asked(str(written(tmp_path)), "--reverse", "--prices", str(path), "--fund", "1e9")
    assert "no shock within 30 standard deviations of 1 d leaves a bad debt of 1,000,000,000" in said
    assert "no prices of ETH, which stay" in said


def test_a_plot_names_scenarios_and_accounts_in_breach(tmp_path: Path) -> None:
    drawn = tmp_path / "stress.svg"
    pytest.importorskip("matplotlib")
    asked(str(written(tmp_path)), "--crash", "luna", "--plot", str(drawn))
    assert "2022-05-09 luna (1)" in drawn.read_text()


def test_assets_are_meant_by_their_names_or_in_short() -> None:
    feeds = ["BTC/USD", "ETH/USD", "WSTETH/ETH", "USDC/USD", "ETH/BTC"]
    assert resolved({"BTC": 1, "USDC": 2, "WSTETH/ETH": 3}, feeds, "x") == {
        "BTC/USD": 1,
        "USDC/USD": 2,
        "WSTETH/ETH": 3,
    }
    assert [free(each) for each in feeds] == [True, True, False, False, False]
    assert of_book({"ETH": -0.1, "BTC": -0.2}, ["ETH/USD", "WBTC/USD", "WSTETH/ETH", "LINK/USD"]) == {
        "ETH/USD": -0.1,
        "WBTC/USD": -0.2,
    }
    with pytest.raises(ConfigError, match=r"x: ETH could be ETH/USD or ETH/USDC, of the book's assets"):
        resolved({"ETH": 1}, ["ETH/USD", "ETH/USDC"], "x")
    with pytest.raises(ConfigError, match="crashes tell of BTC, ETH, SOL, and the book has LINK/USD"):
        list(of_crashes(["all"], 24, ["LINK/USD"]))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--crash", "tulips"], ConfigError, "no crash is called 'tulips'; there are 2020-03-12 covid"),
        (["--hours", "5"], BadInput, "hours must be one of"),
        (["--move", "BTC=x"], BadInput, "expected a finite number for BTC"),
        (["--move", "BTC=-0.5,ETH=-1.5"], BadInput, r"--move ETH must lie in \[-1, 1e\+06\], found -1\.5"),
        (["--grid", "BTC=-0.5,ETH=-1.5/0"], BadInput, r"--grid ETH must lie in \[-1, 1e\+06\], found -1\.5"),
        (["--fund", "9"], ConfigError, "--fund without --reverse says nothing: name --reverse as well"),
        (["--horizon", "4h"], ConfigError, "--horizon without --reverse says nothing"),
        (["--columns", "BTC=btc"], ConfigError, "--columns without --reverse says nothing"),
        (["--move", "BTC=-0.5", "--hours", "4"], ConfigError, "--hours without --crash says nothing"),
        (["--crash", ""], ConfigError, "no crash is called ''; there are 2020-03-12 covid"),
        (["--move", "SOL=-0.5"], ConfigError, "--move: SOL is none of the book's assets BTC, ETH"),
        (["--grid", "BTC=a/b"], BadInput, "--grid: expected numbers"),
        (
            ["--grid", "BTC=" + "/".join(["0"] * 10**6) + ",ETH=" + "/".join(["0"] * 10**6)],
            ConfigError,
            "at most 1000 combinations, found 1000000000000",
        ),
        (["--reverse"], ConfigError, "--reverse and --prices go together"),
        (["--snapshot"], ConfigError, "--snapshot and --dry-run are of a configuration"),
        (["--margin", "x"], BadInput, "unknown grid 'x'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, words: list[str], error: type[KeeperError], message: str
) -> None:
    with pytest.raises(error, match=message):
        asked(str(written(tmp_path)), *words)


def test_too_few_prices_and_no_fund_are_refused(tmp_path: Path) -> None:
    path, _ = closes(tmp_path, rows=20)
    reverse_of = [str(written(tmp_path)), "--reverse", "--prices", str(path)]
    with pytest.raises(BadInput, match="expected 30 returns at least, found 19: too thin to tell"):
        asked(*reverse_of, "--fund", "50")
    with pytest.raises(ConfigError, match="--reverse needs --fund"):
        asked(*reverse_of)
    with pytest.raises(ConfigError, match="--fund: expected more than 0, found 0: any bad debt breaks"):
        asked(*reverse_of, "--fund", "0")
    path.write_text("time,SOL\n2024-01-01,1\n2024-01-02,2")
    with pytest.raises(BadInput, match=r"closes\.csv: expected prices of BTC, ETH, found SOL"):
        asked(*reverse_of, "--fund", "50")


@pytest.mark.parametrize("horizon", ["0s", "400d", "999999999999d"])
def test_a_horizon_of_which_the_prices_do_not_tell_is_refused(tmp_path: Path, horizon: str) -> None:
    path, _ = closes(tmp_path)
    reverse_of = [str(written(tmp_path)), "--reverse", "--prices", str(path), "--fund", "50"]
    assert told(*reverse_of, "--horizon", "399d")["reverse"]["horizon"] == "399 d"
    said = r"closes\.csv: expected a horizon within the 399 d of the prices, found [049]"
    with pytest.raises(BadInput, match=said):
        asked(*reverse_of, "--horizon", horizon)


def test_what_is_less_than_a_hundred_is_not_rounded_away(tmp_path: Path) -> None:
    """A book in coin is told in quote, and a fund of half a coin may be less than one of it."""
    inverse = {"underlying": "BTC", "kind": "perp", "inverse": True}
    legs: dict[str, Any] = {"instruments": {"I": inverse}, "accounts": {"a": {"I": 100}}}
    book = written(tmp_path, spots={"BTC": 100.0}, equity={"a": 0.0054321}, in_coin=True, **legs)
    path, _ = closes(tmp_path)
    said = asked(str(book), "--reverse", "--prices", str(path), "--fund", "0.25", "--move", "BTC=-0.01")
    assert "now: 1 accounts, equity 0.54321, 1 in breach, bad debt 0" in said
    assert "likeliest shock that leaves a bad debt of 0.25: BTC -0.78" in said
    [move] = [line.split() for line in said.splitlines() if line.strip().startswith("move")]
    # A hundred contracts of 1 lose 1 of quote, and the coin of the account loses a hundredth.
    assert move[3:7] == ["-0.462222", "-1.01", "1", "0.462222"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"equity": {}}, "nobody knows who is in breach without the equity of long, both, short"),
        ({"equity": BOOK["equity"] | {"who": 1}}, "equity: who is not among the accounts"),
    ],
)
def test_a_book_that_does_not_say_what_accounts_have_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(str(written(tmp_path, **changes)))


def test_exactly_one_book_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name one book"):
        asked()
    with pytest.raises(ConfigError, match="name one book"):
        asked(str(written(tmp_path)), "--config", "keeper.toml")


CONFIG = """
[chain]
http = "http://127.0.0.1:1"
ws = "ws://127.0.0.1:1"
chain_id = 31337

[deployment]
reader = "0x00000000000000000000000000000000000000a1"

[feed]
kind = "recorded"
path = "prices.csv"
max_age_s = 15
"""


def test_a_book_on_disk_that_is_not_there_or_has_no_prices_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keeper.toml"
    path.write_text(CONFIG)
    of = ["--config", str(path), "--snapshot"]
    with pytest.raises(ConfigError, match=r"the book .*book\.snapshot is not there: a keeper writes it"):
        asked(*of)
    with pytest.raises(ConfigError, match=r"the book .*book\.dry-run\.snapshot is not there"):
        asked(*of, "--dry-run")
    (tmp_path / "book.snapshot").mkdir()
    with pytest.raises(ConfigError, match=r"the book .*book\.snapshot cannot be read: Is a directory$"):
        asked(*of)
    (tmp_path / "book.snapshot").rmdir()
    (tmp_path / "book.snapshot").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"the book .*book\.snapshot does not say of which block it is"):
        asked(*of)
    (tmp_path / "book.snapshot").write_text('{"block": 7, "block_hash": "0x07"}\n')
    with pytest.raises(ConfigError, match=r"the journal .*journal\.sqlite cannot be read"):
        asked(*of)


PAGE = Path(__file__).parents[3] / "docs" / "risk" / "stress.md"


def test_the_page_shows_what_the_commands_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PAGE.parents[2])
    shown = re.findall(
        r"^    keeper (risk [^\n]*)\n\n```text\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert [command.split()[1] for command, _ in shown] == ["stress", "flow"]
    for command, words in shown:
        done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
        assert [line.rstrip() for line in done.stdout.splitlines()] == words.splitlines()
