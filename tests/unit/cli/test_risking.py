"""``keeper risk margin``: what it says of the example in the docs, and of files that say no book."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from keeper.cli import app
from keeper.errors import BadInput, ConfigError, KeeperError

EXAMPLE = Path(__file__).parents[3] / "docs" / "risk" / "book.json"
LEAST: dict[str, Any] = {
    "spots": {"BTC": 100.0},
    "instruments": {"P": {"underlying": "BTC", "kind": "perp"}},
    "accounts": {"a": {"P": 1}},
}


def asked(path: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["risk", "margin", str(path), *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "book.json"
    path.write_text(json.dumps(LEAST | changes))
    return path


def test_the_example_of_the_docs_says_net_against_gross_and_what_each_leg_adds() -> None:
    told = json.loads(asked(EXAMPLE, "--grid", "paradex24", "--json"))
    assert (told["grid"], told["settled_in"]) == ("paradex24", "quote")
    covered = told["accounts"]["covered"]
    legs = covered["underlyings"]["BTC"]["legs"]
    assert covered["net"] == pytest.approx(sum(leg["adds"] for leg in legs.values()))
    assert covered["gross"] == pytest.approx(sum(leg["alone"] for leg in legs.values()))
    assert legs["BTC-PERP"]["adds"] > 0 > legs["BTC-30D-60000-C"]["adds"]
    assert covered["underlyings"]["BTC"]["worst"] == "#17 spot -66%, volatility +40%, 0.24 of it"
    conversion = told["accounts"]["conversion"]
    assert conversion["net"] == pytest.approx(0.0, abs=1e-6)
    assert conversion["underlyings"]["BTC"]["worst"] is None


def test_a_person_reads_the_figures_of_the_docs() -> None:
    said = asked(EXAMPLE, "--grid", "paradex24")
    page = (EXAMPLE.parent / "margin.md").read_text()
    shown = [line.strip() for line in page.split("```text\n")[1].split("```")[0].splitlines()]
    assert shown == [line.strip() for line in said.splitlines()][: len(shown)]
    assert "hedges take" in said
    assert "no scenario costs anything" in said


def test_figures_of_legs_end_under_the_ends_of_their_names() -> None:
    head, *legs = asked(EXAMPLE, "--grid", "paradex24").splitlines()[3:6]
    for name in ("size", "alone", "adds"):
        end = head.index(name) + len(name)
        assert all(leg[end - 1].isdigit() and leg[end] == " " for leg in legs), name


def test_the_accounts_that_require_most_come_first(tmp_path: Path) -> None:
    path = written(tmp_path, accounts={"a": {"P": 1}, "b": {"P": -3}, "c": {"P": 2}})
    assert list(json.loads(asked(path, "--json"))["accounts"]) == ["a", "b", "c"]
    assert list(json.loads(asked(path, "--json", "--top", "2"))["accounts"]) == ["b", "c"]


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_margins_are_drawn_beside_what_hedges_leave(name: str, tmp_path: Path) -> None:
    asked(EXAMPLE, "--plot", str(tmp_path / name))
    drawn = (tmp_path / name).read_bytes()
    assert len(drawn) > 5_000
    asked(EXAMPLE, "--plot", str(tmp_path / name), "--json")
    assert (tmp_path / name).read_bytes() == drawn
    asked(EXAMPLE, "--plot", str(tmp_path / name), "--top", "1")
    assert (tmp_path / name).read_bytes() != drawn


def test_of_a_coin_a_person_reads_millionths(tmp_path: Path) -> None:
    inverse = {"underlying": "BTC", "kind": "perp", "inverse": True}
    path = written(tmp_path, in_coin=True, instruments={"P": inverse})
    # At -15% a contract of 1 is worth 1 / 85 of a coin, of which 1 / 100 was there before.
    assert asked(path).startswith("a: initial margin 0.001765, maintenance 0.001765; worst loss net 0.001765")


def test_without_add_ons_none_are_told(tmp_path: Path) -> None:
    said = asked(written(tmp_path))
    assert said.startswith("a: initial margin 15.00, maintenance 15.00")
    assert "add-ons" not in said
    assert "spot -15%" in said


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"spot": {}}, ConfigError, r"book\.json: spot: there is no such setting; there are accou"),
        ({"spots": {"BTC": "x"}}, ConfigError, r"spots\.BTC: expected a number, found 'x'"),
        ({"spots": {"BTC": "100"}}, ConfigError, r"spots\.BTC: expected a number, found '100'"),
        ({"spots": {"BTC": True}}, ConfigError, r"spots\.BTC: expected a number, found True"),
        ({"spots": {"BTC": -1}}, BadInput, r"book\.json: the spot of BTC must be finite and above 0"),
        ({"spots": {"ETH": 1}}, BadInput, r"book\.json: there is no spot of BTC"),
        ({"accounts": {}}, ConfigError, r"book\.json: accounts: expected at least 1 of them, found 0"),
        ({"accounts": {"a": {"P": 1e19}}}, ConfigError, r"accounts\.a\.P: expected at most 1e"),
        ({"accounts": {"a": {"P": float("nan")}}}, ConfigError, r"a\.P: expected a finite number, found nan"),
        (
            {"accounts": {"a": {"Q": 1}}},
            ConfigError,
            r"\.json: a holds Q, which is not among",
        ),
        ({"instruments": {"P": {"underlying": "BTC", "kind": "swap"}}}, ConfigError, r"instruments\.P\.kind"),
        (
            {"instruments": {"P": {"underlying": "BTC", "kind": "call", "strike": 1, "days": 1}}},
            ConfigError,
            "P: a call has days, strike, vol, found days, strike",
        ),
        (
            {"instruments": {"P": {"underlying": "BTC", "kind": "perp", "days": 1}}},
            ConfigError,
            "P: a perp has neither strike, vol nor days, found days",
        ),
        (
            {"add_ons": {"shorts": 1}},
            ConfigError,
            r"\.json: unknown add-on shorts; there are short",
        ),
        ({"add_ons": {"short_option": "x"}}, ConfigError, "add-ons must be numbers"),
        ({"add_ons": {"volume_day": 1}}, ConfigError, "volume_day by underlying, found"),
    ],
)
def test_a_file_that_says_no_book_is_refused_with_the_place(
    tmp_path: Path, changes: dict[str, Any], error: type[KeeperError], words: str
) -> None:
    with pytest.raises(error, match=words):
        asked(written(tmp_path, **changes))


def test_files_that_are_not_there_or_no_json_and_unknown_grids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        asked(tmp_path / "none.json")
    for said in ("{", "", "[" * 100_000):
        (tmp_path / "broken.json").write_text(said)
        with pytest.raises(ConfigError, match=r"broken\.json: Invalid JSON: "):
            asked(tmp_path / "broken.json")
    (tmp_path / "broken.json").write_bytes(b'{"\xe9": 1}')
    with pytest.raises(ConfigError, match=r"broken\.json: expected text in UTF-8"):
        asked(tmp_path / "broken.json")
    with pytest.raises(BadInput, match="unknown grid 'mine'"):
        asked(written(tmp_path), "--grid", "mine")


def test_a_key_that_is_there_twice_is_refused_for_one_of_both_would_be_lost(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace('"a": {"P": 1}', '"a": {"P": 1}, "a": {"P": -9}'))
    with pytest.raises(ConfigError, match=r"book\.json: 'a' is there twice"):
        asked(path)


def test_a_byte_order_mark_is_no_part_of_a_book(tmp_path: Path) -> None:
    path = written(tmp_path)
    said = asked(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert asked(path) == said
