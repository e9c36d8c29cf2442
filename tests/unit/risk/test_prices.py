"""Prices from a CSV: what is read of one, and what is refused of it, by line and column."""

import numpy as np
import pytest

from keeper.errors import BadInput
from keeper.risk.prices import Prices, read, seconds_of, span

HOUR = 3_600
NEW_YEAR = 1_704_067_200
HEAD = "time,BTC,ETH"
ROWS = ["2024-01-01T00:00Z,100,10", "2024-01-01T01:00Z,110,11", "2024-01-01T02:00Z,99,11"]


def changed(line: int, row: str) -> list[str]:
    """Return the rows above with one changed, by the number of its line."""
    lines = [HEAD, *ROWS]
    lines[line - 1] = row
    return lines


def hours(n: int) -> Prices:
    return read([HEAD, *(f"{NEW_YEAR + HOUR * hour},{hour + 1},{2 * hour + 1}" for hour in range(n))])


# --- read ----------------------------------------------------------------------------------------


def test_closes_are_read_with_their_times_and_step() -> None:
    found = read([HEAD, *ROWS])
    assert found.assets == ("BTC", "ETH")
    assert found.times.tolist() == [NEW_YEAR, NEW_YEAR + HOUR, NEW_YEAR + 2 * HOUR]
    assert found.closes.tolist() == [[100, 10], [110, 11], [99, 11]]
    assert found.step_s == HOUR
    assert found.returns == pytest.approx(np.log([[1.1, 1.1], [0.9, 1.0]]))


@pytest.mark.parametrize(
    "time",
    ["1704067200", "2024-01-01", "2024-01-01T00:00", "2024-01-01 00:00:00Z", "2024-01-01T02:00+02:00"],
)
def test_a_time_is_told_in_unix_seconds_or_iso_8601_and_without_a_zone_it_is_utc(time: str) -> None:
    assert read(changed(2, f"{time},100,10")).times[0] == NEW_YEAR


def test_a_column_is_told_by_its_name_and_what_the_others_hold_does_not_matter() -> None:
    lines = ["day,open,close,sol", "2024-01-01,,1,", "2024-01-02,n/a,2,-1"]
    found = read(lines, {"BTC": "close"})
    assert (found.assets, found.closes.tolist()) == (("BTC",), [[1], [2]])


def test_assets_are_taken_in_the_order_that_is_asked_for() -> None:
    assert read([HEAD, *ROWS]).of(["ETH", "BTC"]).closes[0].tolist() == [10, 100]
    assert read([HEAD, *ROWS]).of(["ETH"]).closes.tolist() == [[10], [11], [11]]
    assert read([HEAD, *ROWS]).of(["ETH/USD"]).assets == ("ETH/USD",)
    assert read(["time,BTC,BTC/USD", ROWS[0], ROWS[1]]).of(["BTC/USD"]).closes.tolist() == [[10], [11]]
    with pytest.raises(BadInput, match="expected prices of SOL, found BTC, ETH"):
        read([HEAD, *ROWS]).of(["BTC", "SOL"])


def test_of_longer_steps_the_last_close_is_one() -> None:
    found = hours(8).every(3)
    assert (found.step_s, found.closes[:, 0].tolist()) == (3 * HOUR, [2, 5, 8])
    assert hours(8).every(1).closes.tolist() == hours(8).closes.tolist()
    assert hours(8).every(7).closes[:, 0].tolist() == [1, 8]
    with pytest.raises(BadInput, match="expected closes over 8 h at least, found 7 h"):
        hours(8).every(8)


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "line 1: expected a column of times and one of prices at least, found none"),
        (["time"], "line 1: expected a column of times and one of prices at least, found time"),
        (["time,BTC,BTC"], "line 1: expected a name of its own for each column, found time, BTC, BTC"),
        (["time,BTC,"], "line 1: expected a name of its own for each column, found time, BTC, "),
        ([HEAD], "expected 2 rows of prices at least, found 0"),
        ([HEAD, ROWS[0]], "expected 2 rows of prices at least, found 1"),
        (changed(3, "2024-01-01T01:00Z,110"), "line 3: expected 3 cells, found 2"),
        (changed(3, "2024-01-01T01:00Z,110,11,12"), "line 3: expected 3 cells, found 4"),
        (changed(3, ""), "line 3: expected 3 cells, found 0"),
        (changed(3, '2024-01-01T01:00Z,"110,11'), "line 4: unexpected end of data"),
        (changed(3, "2024-01-01T01:00Z,110,"), "line 3: ETH: expected a price, found ''"),
        (changed(3, "2024-01-01T01:00Z,110,much"), "line 3: ETH: expected a price, found 'much'"),
        (changed(4, "2024-01-01T02:00Z,0,11"), "line 4: BTC: .*finite and above 0, found '0'"),
        (changed(4, "2024-01-01T02:00Z,-99,11"), "line 4: BTC: .*finite and above 0, found '-99'"),
        (changed(4, "2024-01-01T02:00Z,nan,11"), "line 4: BTC: .*finite and above 0, found 'nan'"),
        (changed(4, "2024-01-01T02:00Z,inf,11"), "line 4: BTC: .*finite and above 0, found 'inf'"),
        (changed(2, "yesterday,1,1"), "line 2: time: expected ISO 8601 or unix seconds, found 'yesterday'"),
        (changed(2, "20240101,1,1"), "line 2: time: expected ISO 8601 or unix seconds, found '20240101'"),
        (changed(2, "1704067200000,1,1"), "line 2: time: .*unix seconds, found '1704067200000'"),
        (changed(2, "2024-01-01T00:00:00.5Z,1,1"), "line 2: time: expected whole seconds"),
        (
            changed(4, "2024-01-01T00:30Z,99,11"),
            "line 4: time: 2024-01-01T00:30:00[+]00:00 is before the 2024-01-01T01:00:00[+]00:00 of the row",
        ),
        (changed(4, "2024-01-01T01:00Z,99,11"), r"line 4: time: 2024-01-01T01:00:00\+00:00 is there twice"),
        (
            [HEAD, *ROWS, "2024-01-01T04:30Z,1,1", "2024-01-01T05:30Z,1,1"],
            r"line 5: time: .* is 2 h 30 min after the row above, and most rows are 1 h apart: a gap",
        ),
        (
            [HEAD, ROWS[0], "2024-01-03T00:00Z,1,1", "2024-01-04T00:00Z,1,1", "2024-01-05T00:00Z,1,1"],
            "line 3: time: .* is 2 d after the row above, and most rows are 1 d apart: a gap",
        ),
    ],
)
def test_what_is_no_series_of_prices_is_refused_by_line_and_column(lines: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=f"^{said}"):
        read(lines)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(BadInput, match="line 1: expected the columns btc_close, found BTC, ETH"):
        read([HEAD, *ROWS], {"BTC": "btc_close", "ETH": "ETH"})
    with pytest.raises(BadInput, match="line 1: expected the columns time, found BTC, ETH"):
        read([HEAD, *ROWS], {"BTC": "time"})


# --- times in words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.6, "1 min"), (HOUR, "1 h"), (90_061, "1 d 1 h 1 min 1 s"), (7 * 86_400, "7 d")],
)
def test_a_time_is_said_in_its_units(seconds: float, said: str) -> None:
    assert span(seconds) == said
    assert seconds_of(said) == round(seconds)


def test_a_time_may_be_given_without_spaces_and_nothing_else_is_one() -> None:
    assert seconds_of("1h30min") == 5_400
    for said in ("", "4", "h", "4 weeks", "-1h", "1.5h"):
        with pytest.raises(BadInput, match="expected a time in d, h, min or s, such as 4h 30min, found"):
            seconds_of(said)
