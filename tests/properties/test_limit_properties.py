"""Whatever is asked, in whatever order, and whatever becomes of it: no limit is ever exceeded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain import Agree, CaseEvent, Economics, EventKind, Liquidate, Permit, Reason, Step
from keeper.journal.guard import EACH, Limits
from keeper.journal.store import SqliteJournal
from keeper.journal.tally import DAY_S, GWEI, HOUR_S
from keeper.ports import Outcome
from keeper.units import WAD

E = EventKind
GAS = 10**6
MARKETS = ("BTC/USD", "ETH/USD")
LIMITS = Limits(
    spend_hour_wei=40 * GAS * GWEI,
    spend_day_wei=90 * GAS * GWEI,
    floor_wei=5 * GAS * GWEI,
    notional_block_wad=40 * WAD,
    notional_hour_wad=70 * WAD,
    market_day_wad={EACH: 80 * WAD},
    inventory_wad={EACH: 50 * WAD, "BTC/USD": 30 * WAD},
    loss_hour_wad=12 * WAD,
    loss_day_wad=30 * WAD,
    attempts_hour=6,
    backoff_s=60,
)
BALANCE_WEI = 60 * GAS * GWEI


@dataclass
class Told:
    """A step as the test knows it, without the journal."""

    account: int
    at_s: int
    block: int
    most_wei: int
    notional_wad: int
    takes: dict[str, int]
    risk_wad: int
    due_wad: int
    state: str = "reserved"
    paid_wei: int | None = None

    @property
    def is_live(self) -> bool:
        return self.state == "reserved"

    @property
    def loss_wad(self) -> int:
        gone = {"Abandoned": 0, "Displaced": 0, "Included": self.due_wad}
        return gone.get(self.state, self.risk_wad)


@dataclass(frozen=True)
class Asked:
    """One ask, how long after the one before, and what becomes of it, now or later."""

    account: int
    wait_s: int
    fee_gwei: int
    sizes: tuple[int, int]
    profit: int
    ends: tuple[tuple[int, EventKind, int], ...]
    """Which of the steps in flight end then, how, and what share of their most they cost."""


ENDS = (E.INCLUDED, E.REVERTED, E.DISPLACED, E.ABANDONED)
asks = st.builds(
    Asked,
    account=st.integers(1, 5),
    wait_s=st.sampled_from((0, 12, 12, 600, HOUR_S, DAY_S // 3)),
    fee_gwei=st.integers(1, 30),
    sizes=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    profit=st.integers(-8, 8),
    ends=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(ENDS), st.integers(0, 100)), max_size=3).map(
        tuple
    ),
)


def exceeded(steps: list[Told], at_s: int, block: int) -> Iterator[str]:
    """Yield every limit that is, added up anew."""

    def since(of_s: int) -> list[Told]:
        return [each for each in steps if each.at_s > at_s - of_s or each.is_live]

    for name, of_s, most_wei in (
        ("spend_hour", HOUR_S, LIMITS.spend_hour_wei),
        ("spend_day", DAY_S, LIMITS.spend_day_wei),
    ):
        spent = sum(each.most_wei if each.paid_wei is None else each.paid_wei for each in since(of_s))
        if spent > (most_wei or 0):
            yield f"{name}: {spent}"
    for name, of_s, most_wad in (
        ("loss_hour", HOUR_S, LIMITS.loss_hour_wad),
        ("loss_day", DAY_S, LIMITS.loss_day_wad),
    ):
        if sum(each.loss_wad for each in since(of_s)) > (most_wad or 0):
            yield name
    yield from _taken(steps, at_s, block)
    in_flight_wei = sum(each.most_wei for each in steps if each.is_live)
    if in_flight_wei and BALANCE_WEI - in_flight_wei < LIMITS.floor_wei:
        yield "wallet_floor"
    for account in range(1, 6):
        own = [each for each in steps if each.account == account and each.at_s > at_s - HOUR_S]
        if len(own) > LIMITS.attempts_hour or sum(each.is_live for each in own) > 1:
            yield f"attempts of {account}"


def _taken(steps: list[Told], at_s: int, block: int) -> Iterator[str]:
    counted = [each for each in steps if each.state != "Abandoned"]
    if sum(each.notional_wad for each in counted if each.block == block) > LIMITS.notional_block_wad:
        yield "notional_block"
    hour = [each for each in counted if each.at_s > at_s - HOUR_S or each.is_live]
    if sum(each.notional_wad for each in hour) > (LIMITS.notional_hour_wad or 0):
        yield "notional_hour"
    for market in MARKETS:
        day = [each for each in counted if each.at_s > at_s - DAY_S]
        if sum(abs(each.takes.get(market, 0)) for each in day) > LIMITS.market_day_wad[EACH]:
            yield f"market_day {market}"
        held = sum(each.takes.get(market, 0) for each in steps if each.state == "Included")
        flying = [each.takes.get(market, 0) for each in steps if each.is_live]
        rising, falling = sum(w for w in flying if w > 0), sum(w for w in flying if w < 0)
        if max(held + rising, -(held + falling)) > (LIMITS.of_market(LIMITS.inventory_wad, market) or 0):
            yield f"inventory {market}"


def asked_of(case_id: str, asked: Asked, number: int) -> Step:
    account = bytes([asked.account]) * 32
    act = Liquidate(account, b"\x09" * 32, number, 2_000, 0, WAD, 0)
    takes = tuple((market, size * WAD) for market, size in zip(MARKETS, asked.sizes, strict=True) if size)
    return Step(
        case_id,
        act,
        10**9,
        GAS,
        asked.profit * WAD,
        sum(abs(wad) for _, wad in takes),
        takes,
        economics=Economics(0, 0, WAD, 2 * WAD),
    )


def ended(journal: SqliteJournal, step_id: str, told: Told, kind: EventKind, share: int, at_s: int) -> None:
    told.state = kind.value
    if kind is E.ABANDONED:
        told.paid_wei = 0
        journal.abandon(step_id, Reason("test", "", ""), block=at_s // 12, at_s=at_s)
        return
    told.paid_wei = 0 if kind is E.DISPLACED else told.most_wei * share // 100 // GWEI * GWEI
    journal.sign(step_id, step_id.encode(), f"0x{step_id}")
    journal.sent(step_id, block=at_s // 12, at_s=at_s)
    journal.settle(step_id, Outcome(kind, at_s // 12, "0xb", told.paid_wei), at_s=at_s)


@settings(max_examples=30, deadline=None)
@given(st.lists(asks, min_size=5, max_size=40))
def test_no_limit_is_ever_exceeded(sequence: list[Asked]) -> None:
    at_s, steps = 10**6, dict[str, Told]()
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(
            SqliteJournal(Path(folder) / "db", identity={"of": "a test"}, limits=LIMITS, durable=False)
        ) as journal,
    ):
        for number, asked in enumerate(sequence):
            at_s += asked.wait_s
            for which, kind, share in asked.ends:
                live = [(step_id, told) for step_id, told in steps.items() if told.is_live]
                if live:
                    ended(journal, *live[which % len(live)], kind, share, at_s)
            account = bytes([asked.account]) * 32
            case_id = journal.open_case(account) or f"case{number}"
            if journal.status(case_id) not in {"reserved", "in_flight"}:
                journal.record([CaseEvent(case_id, account, E.SUSPECTED, at_s // 12, at_s, {})])
            wanted = asked_of(case_id, asked, number)
            found = journal.reserve(
                wanted,
                {"gas": GAS, "maxFeePerGas": asked.fee_gwei * GWEI},
                agreed=Agree("a test", account=account, block=at_s // 12 + 1),
                balance_wei=BALANCE_WEI,
                chain_nonce=0,
                block=at_s // 12,
                at_s=at_s,
            )
            if isinstance(found, Permit):
                due_wad = max(-asked.profit * WAD, 0)
                steps[found.step_id] = Told(
                    asked.account,
                    at_s,
                    at_s // 12,
                    GAS * asked.fee_gwei * GWEI,
                    wanted.notional_wad,
                    dict(wanted.takes),
                    max(due_wad, 2 * WAD),
                    due_wad,
                )
                assert list(exceeded(list(steps.values()), at_s, at_s // 12)) == []
            else:
                assert found.reason.rule.startswith("limit.")
