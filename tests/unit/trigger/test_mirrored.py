"""What the mirrored book would be at other prices, held against accounts that can be added up by hand."""

import numpy as np
import pytest

from keeper.columns.legs import Legs
from keeper.columns.snapshot import Snapshot
from keeper.domain import Quote, Unknown
from keeper.risk.inputs import Floats
from keeper.risk.marks import Marks
from keeper.risk.stress import cliff, flow
from keeper.trigger import mirrored
from keeper.trigger.distance import Quotes
from keeper.trigger.mirrored import Mirrored
from keeper.units import WAD

ETH, USD = "ETH/USD", "USDC/USD"
NOW: dict[str, Quote | Unknown] = {ETH: Quote(ETH, 100 * WAD, 0), USD: Quote(USD, WAD, 0)}
THRESHOLD = 0.8


def rows(columns: int, *accounts: tuple[float, ...], classes: tuple[int, ...] | None = None) -> Snapshot:
    """Accounts of cash, and of every column."""
    table = np.array(accounts, np.float64)
    sizes = table[:, 1:].ravel()
    count = len(table)
    codes = np.tile(2 * np.arange(columns), count) + (sizes < 0)
    keys = np.array([bytes(19) + bytes([row]) + bytes(12) for row in range(count)], "V32")
    legs = Legs(
        (columns * np.arange(count)).astype(np.uint32),
        np.full(count, columns, np.uint8),
        codes.astype(np.uint16),
        sizes,
        columns,
    )
    of = np.zeros(count, np.uint8) if classes is None else np.array(classes, np.uint8)
    return Snapshot(keys, of, {}, table[:, 0], legs)


def of(quotes: Quotes, feed: str) -> float:
    return quotes[feed].price_wad / WAD  # type: ignore[union-attr]


# --- perps: one column, a twentieth of which is required -------------------------------------------


def perp_marks(quotes: Quotes) -> Marks:
    value = np.array([of(quotes, ETH)])
    return Marks(value, value * 0.05, np.ones(1))


def perps(*accounts: tuple[float, float]) -> Mirrored:
    return Mirrored(rows(1, *accounts), NOW, perp_marks, lambda q: perp_marks(q).value, assets=[ETH])


def test_a_perp_has_what_the_marks_say() -> None:
    some = perps((-900.0, 10.0), (1_100.0, -10.0))
    there = some.standing(np.array([0.08]))
    assert there.equity == pytest.approx([20, 180])
    assert there.requirement == pytest.approx([46, 46])
    assert there.breached.tolist() == [True, False]
    assert there.net == pytest.approx([20, 180])
    assert there.left == pytest.approx([20, 180])
    assert there.sold[:, 0] == pytest.approx([1_000, 0])
    assert there.bought[:, 0] == pytest.approx([0, 1_000])
    assert some.exposures[:, 0] == pytest.approx([1_000, -1_000])
    assert some.accounts == ["0x" + "00" * 20 + ":0", "0x" + "00" * 19 + "01:0"]


def test_who_cannot_be_judged_is_left_out_and_counted() -> None:
    some = perps((float("nan"), 10.0), (-900.0, 10.0))
    assert (len(some), some.unknown) == (1, 1)
    assert flow(some, [0.1])[0, 0] == pytest.approx(900.0)


def test_blocks_of_rows_say_what_all_of_them_do(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = [(-900.0 - row, 10.0) for row in range(7)]
    whole = perps(*crowd).standing(np.array([0.05]))
    monkeypatch.setattr(mirrored, "BLOCK", 3)
    assert perps(*crowd).standing(np.array([0.05])).equity == pytest.approx(whole.equity)


# --- loans: ether held and owed, dollars held and owed ----------------------------------------------


def loan_marks(quotes: Quotes) -> Marks:
    eth, usd = of(quotes, ETH), of(quotes, USD)
    value = np.array([eth * THRESHOLD, usd * THRESHOLD, 0.0, 0.0])
    return Marks(value, np.array([0.0, 0.0, eth, usd]), np.ones(1))


def loan_worths(quotes: Quotes) -> Floats:
    eth, usd = of(quotes, ETH), of(quotes, USD)
    return np.array([eth, usd, -eth, -usd])


def loans(*accounts: tuple[float, float, float, float]) -> Mirrored:
    return Mirrored(rows(4, *((0.0, *each) for each in accounts)), NOW, loan_marks, loan_worths)


DOLLARS = (10.0, 0.0, 0.0, 760.0)
"""1,000 of ether, 800 of which count, against 760: in breach from a fall of 5% on."""


def test_a_loan_has_its_collateral_by_thresholds_and_must_cover_its_debts() -> None:
    there = loans(DOLLARS).standing(np.array([0.1, 0.0]))
    assert there.equity == pytest.approx([720])
    assert there.requirement == pytest.approx([760])
    assert there.net == pytest.approx([900 - 760])
    # 760 of the 900 go, and a share of what counts with them.
    assert there.left == pytest.approx([720 * (1 - 760 / 900)])
    assert there.sold == pytest.approx(np.array([[1_000 * 760 / 900, 0.0]]))


def test_what_ends_a_breach_of_a_loan_is_sold_at_the_fallen_price() -> None:
    some = loans(DOLLARS)
    # Repaying R with collateral: 0.8 (900 - R) = 760 - R, so that R = 200.
    assert flow(some, np.array([[0.1, 0.0]]))[0] == pytest.approx([200, 0])
    assert flow(some, np.array([[0.1, 0.0]]), closing=cliff)[0] == pytest.approx([760, 0])


def test_who_owes_more_than_it_has_sells_all_and_leaves_a_bad_debt() -> None:
    there = loans(DOLLARS).standing(np.array([0.3, 0.0]))
    assert there.bad_debt == pytest.approx([60])
    assert there.left == pytest.approx([0])
    assert there.sold[0, 0] == pytest.approx(1_000)


def test_what_is_owed_in_what_is_held_needs_no_market() -> None:
    # 1,000 of ether against 400 of ether and 360 dollars: all of 760 repaid takes 360 dollars from outside.
    some = loans((10.0, 0.0, 4.0, 360.0))
    assert some.exposures == pytest.approx(np.array([[600.0, -360.0]]))
    now = some.standing(np.zeros(2))
    assert now.sold == pytest.approx(np.array([[360.0, 0.0]]))
    assert now.bought == pytest.approx(np.array([[0.0, 360.0]]))


# --- classes that count in something else -----------------------------------------------------------


def test_classes_have_marks_and_a_money_of_their_own() -> None:
    def marks(quotes: Quotes) -> Marks:
        eth = of(quotes, ETH)
        value = np.array([[eth * THRESHOLD, 0.0], [eth * THRESHOLD * 100, 0.0]])
        return Marks(value, np.array([[0.0, 1.0], [0.0, 100.0]]), np.ones(2), quote=np.array([1.0, 0.01]))

    def worths(quotes: Quotes) -> Floats:
        return np.array([[of(quotes, ETH), -1.0]] * 2)

    same = rows(2, (0.0, 10.0, 760.0), (0.0, 10.0, 760.0), classes=(0, 1))
    there = Mirrored(same, NOW, marks, worths, assets=[ETH]).standing(np.array([0.1]))
    assert there.equity == pytest.approx([720, 720])
    assert there.requirement == pytest.approx([760, 760])
    assert there.net == pytest.approx([140, 140])
