"""Prices in files, and what is said by asset on the command line."""

from pathlib import Path

import pytest

from keeper.cli.price_files import by_asset, numbers_by_asset, read_prices
from keeper.errors import BadInput, ConfigError, KeeperError


def test_a_file_is_read_with_or_without_a_mark_at_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "closes.csv"
    for text in (
        b"day,a\r\n2024-01-01,1\r\n2024-01-02,2\r\n",
        b"\xef\xbb\xbfday,a\n2024-01-01,1\n2024-01-02,2",
    ):
        path.write_bytes(text)
        assert read_prices(path).closes.tolist() == [[1], [2]]
        assert read_prices(path, "BTC=a").assets == ("BTC",)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (None, ConfigError, r"closes\.csv: No such file or directory"),
        (b"day,a\n2024-01-01,\xff\n", BadInput, r"closes\.csv: expected text in UTF-8"),
        (b"day,a\n2024-01-01,-1\n", BadInput, r"closes\.csv: line 2: a: expected a price that is finite"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_name(
    text: bytes | None, error: type[KeeperError], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "closes.csv"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(error, match=said):
        read_prices(path)


def test_what_is_said_by_asset_is_said_once_of_each() -> None:
    assert by_asset("columns", "BTC=a, ETH = b=c") == {"BTC": "a", "ETH": "b=c"}
    assert numbers_by_asset("weights", "BTC=0.6,ETH=-4e-1") == {"BTC": 0.6, "ETH": -0.4}
    for said in ("", "BTC", "BTC=", "=1", "BTC=1,", "BTC=1,BTC=2"):
        with pytest.raises(BadInput, match="weights: expected each asset once"):
            by_asset("weights", said)
    for said in ("BTC=much", "BTC=nan", "BTC=1,ETH=inf"):
        with pytest.raises(BadInput, match="weights: expected a finite number for"):
            numbers_by_asset("weights", said)
