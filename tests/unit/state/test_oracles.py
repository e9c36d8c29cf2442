"""The oracle board: bulk reads, fast prices in between, and what a reorg takes away again."""

from dataclasses import replace

from keeper.domain import FeedView, Head
from keeper.state.oracles import OracleBoard
from keeper.units import WAD

BTC = FeedView("BTC/USD", 60_000 * WAD, 100, 15, 59_900 * WAD, 90, True, WAD // 100, 3600, 60)
ETH = replace(BTC, feed="ETH/USD", fast_wad=3_000 * WAD)


def head(number: int) -> Head:
    return Head(number, f"0x{number:064x}", f"0x{number - 1:064x}", 0, 0)


def board() -> OracleBoard:
    made = OracleBoard(["BTC/USD", "ETH/USD"])
    made.fold_read({"BTC/USD": BTC, "ETH/USD": ETH}, 100)
    return made


def test_a_feed_is_missing_until_it_was_read() -> None:
    made = OracleBoard(["BTC/USD", "ETH/USD"])
    assert made.missing() == ("BTC/USD", "ETH/USD")
    made.fold_read({"ETH/USD": ETH}, 100)
    assert made.missing() == ("BTC/USD",)
    assert dict(made.view) == {"ETH/USD": ETH}


def test_a_fast_price_changes_the_fast_side_only() -> None:
    made = board()
    made.fold_fast("BTC/USD", 58_000 * WAD, 112, 101)
    assert made.view["BTC/USD"] == replace(BTC, fast_wad=58_000 * WAD, fast_observed_at_s=112)
    assert made.view["ETH/USD"] == ETH


def test_a_fast_price_alone_makes_no_view() -> None:
    made = OracleBoard(["BTC/USD"])
    made.fold_fast("BTC/USD", 58_000 * WAD, 112, 101)
    assert made.missing() == ("BTC/USD",)


def test_a_view_handed_out_does_not_change() -> None:
    made = board()
    before = made.view
    made.fold_fast("BTC/USD", 58_000 * WAD, 112, 101)
    assert before["BTC/USD"] == BTC


def test_what_an_orphaned_block_said_is_forgotten_until_it_is_read_again() -> None:
    made = board()
    made.fold_fast("BTC/USD", 58_000 * WAD, 112, 102)
    made.unwind([head(102), head(101)])
    assert made.missing() == ("BTC/USD",)
    assert dict(made.view) == {"ETH/USD": ETH}
    made.fold_read({"BTC/USD": BTC, "ETH/USD": ETH}, 101)
    assert made.missing() == ()


def test_without_orphans_nothing_is_forgotten() -> None:
    made = board()
    made.unwind([])
    assert made.missing() == ()
