"""The judgement after a drill, on small made-up histories."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from io import StringIO
from typing import Any

import numpy as np
import pytest
from eth_abi.abi import encode
from rich.console import Console

from keeper.domain import Account, Fact, FeedView, Holding, Leg, OracleView, Phase
from keeper.lab import report
from keeper.lab.actors import lift_wad
from keeper.lab.audit import (
    Healths,
    Report,
    Slices,
    _Books,
    is_dust,
    judge,
    measure_slices,
    repeated_tranches,
    unknown_transactions,
)
from keeper.lab.chronicle import Chronicle
from keeper.lab.deploy import Spec
from keeper.lab.drill import Moment, Tally
from keeper.lab.twin import terms_of
from keeper.protocols.hybrid import math
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.portfolio import setting_at
from keeper.units import WAD

SPEC = Spec()
RULES = SPEC.rules()
FEEDS = ("BTC/USD", "ETH/USD", "SYN/USD")
ACCOUNT, TAKER = b"\1" * 32, b"\2" * 32


def tranche(changes: Mapping[str, int] | None = None, tx_hash: str = "0x1") -> Fact:
    """A slice from E/M = 900/1000 to 875/875; changes in whole quote units."""
    amounts = {
        "notional_wad": 2500,
        "fee_wad": 25,
        "equity_before_wad": 900,
        "requirement_before_wad": 1000,
        "equity_after_wad": 875,
        "requirement_after_wad": 875,
    } | dict(changes or {})
    args: dict[str, Any] = {name: value * WAD for name, value in amounts.items()}
    return Fact(5, tx_hash, 0, "Tranche", (ACCOUNT, TAKER), {"account": ACCOUNT, "taker": TAKER, **args})


def calldata(nonce: int) -> bytes:
    function = load("Liquidator").functions["liquidate"]
    terms = (TAKER, nonce, 99, 0, WAD // 2, 0)
    return function.selector + encode(function.inputs, (ACCOUNT, terms, []))


def chronicle(facts: tuple[Fact, ...], sent: Mapping[str, bytes] | None = None) -> Chronicle:
    return Chronicle(
        first=0,
        last=10,
        timestamps={},
        facts=facts,
        rounds=(),
        views={},
        spent=(),
        calldata=sent or {},
        drawable_wad={},
        _states={},
    )


def test_health_after_and_gained_are_exact_fractions() -> None:
    found = measure_slices(chronicle((tranche(), tranche({"equity_after_wad": 1000}))), RULES)
    assert found.highest == Fraction(1000, 875)
    assert found.lowest == 1
    assert found.least_gain == 1 - Fraction(9, 10)
    assert found.dust == 0


def test_of_an_account_without_equity_a_slice_takes_no_more_than_its_fee() -> None:
    deep = {"equity_before_wad": -900, "equity_after_wad": -925}
    for after_wad, overdrawn in ((-925, 0), (-926, 1), (-800, 0)):
        found = measure_slices(chronicle((tranche(deep | {"equity_after_wad": after_wad}),)), RULES)
        assert (found.least_gain, found.overdrawn_wad) == (None, overdrawn * WAD)


@pytest.mark.parametrize("changes", [{"notional_wad": 100}, {"requirement_after_wad": 0}])
def test_a_slice_that_took_all_or_was_raised_to_the_smallest_is_dust(changes: dict[str, int]) -> None:
    fact = tranche(changes)
    assert is_dust(fact, SPEC.slope)
    assert measure_slices(chronicle((fact,)), RULES).highest is None


def test_a_sound_drill_breaks_nothing() -> None:
    acts = {"Tranche": 1, "Cured": 1, "Cleared": 1}
    slices = Slices(Fraction(115, 100), Fraction(1), Fraction(0), 0, Fraction(115, 100))
    assert list(judge(acts, slices, Healths())) == []


@pytest.mark.parametrize(
    ("slices", "healths", "acts", "said"),
    [
        (
            Slices(Fraction(12, 10), bound=Fraction(115, 100)),
            Healths(),
            {},
            "a slice left health 1.200000000",
        ),
        (Slices(least_gain=Fraction(-1, 10)), Healths(), {}, "a slice lowered health by 1.000e-01"),
        (Slices(overdrawn_wad=WAD // 10), Healths(), {}, "a slice took 1.000e-01 beyond its fee"),
        (Slices(), Healths(false_closes=["0xab"]), {}, "false close: 0xab"),
        (Slices(), Healths(), {"Cured": 0}, "expected at least one cure, found none"),
        (Slices(), Healths(), {"Cleared": 0}, "expected at least one cleared alarm, found none"),
        (Slices(), Healths(), {"Tranche": 0}, "expected at least one slice, found none"),
    ],
)
def test_each_broken_promise_is_one_line(
    slices: Slices, healths: Healths, acts: dict[str, int], said: str
) -> None:
    lines = list(judge({"Tranche": 1, "Cured": 1, "Cleared": 1, **acts}, slices, healths))
    assert len(lines) == 1
    assert said in lines[0]


def test_the_terms_of_a_slice_come_from_its_calldata() -> None:
    terms = terms_of(calldata(3))
    assert (terms.account, terms.taker, terms.tranche_nonce) == (ACCOUNT, TAKER, 3)
    assert terms.max_fraction_wad == WAD // 2


@pytest.mark.parametrize(
    ("nonces", "sound"), [((0, 1, 2), True), ((0, 0), False), ((1, 2), False), ((0, 2), False)]
)
def test_tranches_are_numbered_without_gap_or_repetition(nonces: tuple[int, ...], sound: bool) -> None:
    facts = tuple(tranche(tx_hash=f"0x{i}") for i in range(len(nonces)))
    sent = {f"0x{i}": calldata(nonce) for i, nonce in enumerate(nonces)}
    assert (list(repeated_tranches(chronicle(facts, sent))) == []) is sound


@pytest.mark.parametrize(("on_chain", "sound"), [(3, True), (4, True), (5, True), (2, False), (6, False)])
def test_every_transaction_of_the_wallet_went_through_the_journal(on_chain: int, sound: bool) -> None:
    steps = {"included": 2, "reverted": 1, "sent": 2, "abandoned": 7}
    assert (list(unknown_transactions(on_chain, steps)) == []) is sound


def some_account() -> Account:
    legs = (Leg(1, 2 * WAD, -14_000 * WAD), Leg(3, -100 * WAD, 2_600 * WAD))
    return Account(ACCOUNT, Phase.HEALTHY, 1_500 * WAD, legs, (Holding(1, 3 * WAD),))


def test_columns_give_the_health_that_exact_integers_give() -> None:
    books = _Books([ACCOUNT], RULES.at(0), FEEDS)
    books.put(some_account())
    prices = {"BTC/USD": 7_100 * WAD, "ETH/USD": 180 * WAD, "SYN/USD": 25 * WAD}
    exact = math.maintenance(some_account(), prices, setting_at(RULES, OracleView(), 0))
    found = books.health(np.array([[7_100.0, 180.0, 25.0]]))
    assert found[0, 0] == pytest.approx(exact.equity_wad / exact.requirement_wad, rel=1e-12)
    assert books.size[0] @ [7_100.0, 180.0, 25.0] == pytest.approx(exact.notional_wad / WAD)


def test_an_account_without_positions_is_healthy_whatever_the_price() -> None:
    books = _Books([ACCOUNT], RULES.at(0), FEEDS)
    assert books.health(np.ones((2, 3))).tolist() == [[np.inf, np.inf]]


def view(feed: str, fast: int, slow: int) -> FeedView:
    return FeedView(feed, fast * WAD, 0, 15, slow * WAD, 0, True, WAD // 100, 3600, 12)


def test_help_lifts_health_to_the_level_at_the_worse_of_both_prices() -> None:
    account = some_account()
    views = {
        "BTC/USD": view("BTC/USD", 6_800, 6_500),
        "ETH/USD": view("ETH/USD", 170, 171),
        "SYN/USD": view("SYN/USD", 26, 26),
    }
    needed = lift_wad(account, OracleView(views), RULES, 12 * WAD // 10, 0)
    helped = Account(ACCOUNT, Phase.FLAGGED, account.cash_wad + needed, account.legs, account.holdings)
    healths = []
    for prices in ({f: v.fast_wad for f, v in views.items()}, {f: v.slow_wad for f, v in views.items()}):
        found = math.maintenance(helped, prices, setting_at(RULES, OracleView(), 0))
        healths.append(found.equity_wad / found.requirement_wad)
    assert min(healths) == pytest.approx(1.2, rel=1e-9)


FIGURES: dict[str, Any] = {
    "flagged": 9, "confirmed": 4, "cleared": 3, "expired": 0, "false_closes": 0, "tranches": 12, "cured": 4,
    "closed": 0, "bad_debt": 0.0, "notional_closed": 100_000.0, "cliff_notional_closed": 150_000.0,
    "cliff_accounts": 5, "dust_slices": 1, "max_health_after_slice": 1.05, "min_health_after_slice": 0.7,
    "min_health_gain": 0.001, "owner_fees": 900.0, "owners_topped_up": 2, "top_ups": 3,
    "keeper_fees": 700.0, "keeper_rewards": 80.0, "keeper_bonds_slashed": 150.0, "keeper_gas": 60.0,
    "keeper_transactions": 40, "keeper_reverted": {"NotBreached": 2}, "keeper_inventory_pnl": -20.0,
    "keeper_margin": 100_000.0, "tick_to_tx_ms": {"p50": 20.0, "p99": None},
    "block_ms": {"p50": 40.0, "p99": 90.0}, "late_blocks": 0, "kills": 0, "wall_seconds": 12.0,
    "chain_seconds_per_wall_second": 200.0, "waits": {"confirm.min_blocks": 4}, "refusals": {},
    "abandoned": {}, "twin_checked": 12, "twin_mismatches": 0, "twin_skipped": 0,
    "wick": {"feed": "BTC/USD", "depth": -0.1, "seconds": 24, "flagged": 3},
    "risk_arrays": 0, "options_settled": 0, "hedges": [],
}  # fmt: skip
IRON_FLY: dict[str, Any] = {
    "book": "iron fly, delta-hedged", "books": 2, "lowest_health_fast": 0.987, "lowest_health_both": 1.654,
    "flagged": 1, "confirmed": 0, "sliced": 0, "gain": -12.0, "legs": 10, "legs_reduced": 4,
    "legs_closed": 3, "legs_reduced_gain": -4_567.0, "legs_gain": 89.0,
}  # fmt: skip
HEDGES: dict[str, Any] = {"risk_arrays": 1_234, "options_settled": 6, "hedges": [IRON_FLY]}


def printed(found: Report) -> str:
    out = StringIO()
    report.summarise(Console(file=out, width=110), found)
    return out.getvalue()


def test_the_summary_says_what_happened_and_what_it_cost() -> None:
    text = printed(Report(FIGURES, ()))
    for words in ("-33% against the cliff", "$100,000", "-$20", "1.0500", "NotBreached", "40 ms / 90 ms"):
        assert words in text
    assert "Every invariant held." in text


def test_the_summary_shows_hedged_books_beside_their_legs() -> None:
    text = printed(Report(FIGURES | HEDGES, ()))
    for words in ("iron fly, delta-hedged", "0.9870", "1.6540", "-$12", "-$4,567", "1,234 risk arrays"):
        assert words in text
    assert "Options" not in printed(Report(FIGURES, ()))


def test_the_summary_names_every_broken_promise() -> None:
    text = printed(Report(FIGURES | {"max_health_after_slice": None}, ("one", "two")))
    assert "BROKEN: one" in text
    assert "BROKEN: two" in text
    assert "Every invariant" not in text


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_suits_the_console(terminal: bool) -> None:
    out = StringIO()
    console = Console(file=out, width=110, force_terminal=terminal)
    views = {"BTC/USD": view("BTC/USD", 6_800, 6_900)}
    tally = Tally({ACCOUNT: Phase.HEALTHY})
    tally.add([Fact(1, "0x1", 0, "Flagged", (ACCOUNT,), {"account": ACCOUNT})])
    with report.watching(console) as watcher:
        for block in (1, 2):
            watcher.show(Moment(block, 2, 1_584_005_412, OracleView(views), tally, 0, 1, 0.5 * block))
    assert "6,800.00" in out.getvalue()
    assert "2/2" in out.getvalue()
