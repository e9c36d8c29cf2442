"""A recorded feed: the newest believable price, by chain time; never a bad number."""

from pathlib import Path

import pytest

from keeper.domain import Quote, Unknown
from keeper.errors import ConfigError
from keeper.feeds.recorded import RecordedFeed
from keeper.units import WAD

HEADER = "timestamp_s,feed,price"


def feed_of(tmp_path: Path, *lines: str, header: str = HEADER, max_age_s: int = 15) -> RecordedFeed:
    path = tmp_path / "prices.csv"
    path.write_text("\n".join([header, *lines, ""]))
    return RecordedFeed(path, max_age_s=max_age_s)


@pytest.mark.parametrize(
    ("now_s", "price_wad", "at_s"),
    [(100, 60_000, 100), (104, 60_000, 100), (105, 61_000, 105), (120, 61_000, 105)],
)
def test_the_newest_price_not_from_the_future_is_given(
    tmp_path: Path, now_s: int, price_wad: int, at_s: int
) -> None:
    feed = feed_of(tmp_path, "100,BTC/USD,60000", "105,BTC/USD,61000", "121,BTC/USD,1")
    assert feed.latest(now_s) == {"BTC/USD": Quote("BTC/USD", price_wad * WAD, at_s)}


def test_before_the_first_and_after_the_oldest_bearable_there_is_none(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, "100,BTC/USD,60000")
    assert feed.latest(99) == {"BTC/USD": Unknown("BTC/USD", "the recording begins after 99 s")}
    assert isinstance(feed.latest(115)["BTC/USD"], Quote)
    assert feed.latest(116) == {"BTC/USD": Unknown("BTC/USD", "the newest price is 16 s old, bound 15 s")}


def test_every_feed_is_judged_for_itself(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, "100,BTC/USD,60000", "90,ETH/USD,3000", "110,ETH/USD,3100")
    latest = feed.latest(109)
    assert latest["BTC/USD"] == Quote("BTC/USD", 60_000 * WAD, 100)
    assert latest["ETH/USD"] == Unknown("ETH/USD", "the newest price is 19 s old, bound 15 s")


def test_of_two_lines_of_one_second_the_later_one_counts(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, "100,BTC/USD,60000", "100,BTC/USD,60001")
    assert feed.latest(100)["BTC/USD"] == Quote("BTC/USD", 60_001 * WAD, 100)


@pytest.mark.parametrize(
    ("text", "price_wad"),
    [
        ("60000", 60_000 * WAD),
        ("0.1", WAD // 10),
        ("0.000000000000000001", 1),
        ("12345678901234567890.123456789012345678", 12345678901234567890123456789012345678),
        ("1.10", 1_100_000_000_000_000_000),
        (" 7 ", 7 * WAD),
    ],
)
def test_a_decimal_price_is_read_exactly(tmp_path: Path, text: str, price_wad: int) -> None:
    assert feed_of(tmp_path, f"100,BTC/USD,{text}").latest(100) == {
        "BTC/USD": Quote("BTC/USD", price_wad, 100)
    }


@pytest.mark.parametrize(
    "text",
    [
        *("", "NaN", "nan", "inf", "-inf", "Infinity", "0", "0.0", "-1", "+1", "-0", "1e3", "1E999999999"),
        *("1_000", ".5", "5.", "1.0.0", "0x10", "abc", "١٢", "0.0000000000000000001", "1" * 21),
    ],
)
def test_a_price_that_is_no_plain_positive_decimal_is_unknown_from_then_on(tmp_path: Path, text: str) -> None:
    feed = feed_of(tmp_path, "100,BTC/USD,60000", f"105,BTC/USD,{text}", "110,BTC/USD,61000")
    assert isinstance(feed.latest(104)["BTC/USD"], Quote)
    assert isinstance(feed.latest(105)["BTC/USD"], Unknown)
    assert isinstance(feed.latest(109)["BTC/USD"], Unknown)
    assert isinstance(feed.latest(110)["BTC/USD"], Quote)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "prices.csv:3: expected timestamp_s,feed,price, found ''"),
        ("101,BTC/USD", "prices.csv:3: expected"),
        ("101,BTC/USD,1,2", "prices.csv:3: expected"),
        ("101.5,BTC/USD,1", "prices.csv:3: expected"),
        ("-101,BTC/USD,1", "prices.csv:3: expected"),
        ("nan,BTC/USD,1", "prices.csv:3: expected"),
        ("101,,1", "prices.csv:3: expected"),
        ("99,BTC/USD,1", "prices.csv:3: BTC/USD goes back in time, from 100 to 99"),
    ],
)
def test_a_line_that_has_no_place_in_time_makes_the_file_unusable(
    tmp_path: Path, line: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        feed_of(tmp_path, "100,BTC/USD,1", line, "120,BTC/USD,1")


def test_a_file_without_the_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must begin with the line 'timestamp_s,feed,price'"):
        feed_of(tmp_path, "100,BTC/USD,1", header="time,feed,price")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv cannot be read"):
        RecordedFeed(tmp_path / "none.csv", max_age_s=15)


def test_a_recording_of_many_lines_answers_at_once(tmp_path: Path) -> None:
    feed = feed_of(tmp_path, *(f"{second},BTC/USD,{60_000 + second}" for second in range(30_000)))
    for now_s in range(0, 30_000, 7):
        assert feed.latest(now_s)["BTC/USD"] == Quote("BTC/USD", (60_000 + now_s) * WAD, now_s)
