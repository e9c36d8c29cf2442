"""Several journals of one wallet: nonces and limits hold across them, and nothing else is shared."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from keeper.domain import CaseEvent, EventKind, Flag, Permit, Reason, Refuse, Step
from keeper.errors import KeeperError
from keeper.journal.guard import Claims, Limits
from keeper.journal.store import SqliteJournal
from keeper.journal.tally import Inventory, Sums
from keeper.journal.tape import Recorder, unpack
from keeper.journal.wallet import TapedWallet, Wallet, of_record, to_record
from keeper.ports import Switch
from keeper.units import WAD

WEALTHY = Limits(spend_day_wei=10**30, in_flight=100)
ACCOUNT = b"\x07" * 32

Fleet: TypeAlias = Callable[..., list[SqliteJournal]]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    opened: list[SqliteJournal] = []

    def _open(limits: Limits = WEALTHY, *, of: int = 2, wallet: Wallet | None = None) -> list[SqliteJournal]:
        shared = wallet or Wallet()
        for number in range(len(opened), len(opened) + of):
            identity = {"deployment": str(number)}
            path = tmp_path / f"{number}.sqlite"
            opened.append(SqliteJournal(path, identity=identity, limits=limits, wallet=shared))
        return opened[-of:]

    yield _open
    for each in opened:
        each.close()


def asked(tx: dict[str, Any], case: int = 1, **terms: Any) -> tuple[Step, dict[str, Any]]:
    step = Step(f"case{case}", Flag(ACCOUNT[:31] + bytes([case]), 1), 1_000, 1_000_000, WAD)
    return replace(step, **terms), tx


def reserve(journal: SqliteJournal, step: Step, tx: dict[str, Any], *, at_s: int = 1_200) -> Permit | Refuse:
    suspected = CaseEvent(step.case_id, step.act.account, EventKind.SUSPECTED, 100, 1_200, {})
    if journal.status(step.case_id) is None:
        journal.record([suspected])
    return journal.reserve(step, tx, chain_nonce=5, block=100, at_s=at_s)


def nonce_of(granted: Permit | Refuse) -> int:
    assert isinstance(granted, Permit)
    return granted.nonce


def test_a_nonce_is_given_out_once_whichever_journal_asks(fleet: Fleet, tx: dict[str, Any]) -> None:
    journals = fleet(of=3)
    turns = list(islice(cycle(journals), 7))
    granted = [reserve(each, *asked(tx, case)) for case, each in enumerate(turns)]
    assert list(map(nonce_of, granted)) == [5, 6, 7, 8, 9, 10, 11]


def test_the_hole_that_one_journal_leaves_another_fills(fleet: Fleet, tx: dict[str, Any]) -> None:
    one, other = fleet()
    first = reserve(one, *asked(tx, 1))
    assert nonce_of(reserve(other, *asked(tx, 2))) == 6
    assert isinstance(first, Permit)
    one.abandon(first.step_id, Reason("send.refused", "", ""), block=100, at_s=1_200)
    assert nonce_of(reserve(other, *asked(tx, 3))) == 5


def test_the_same_account_elsewhere_is_another_case(fleet: Fleet, tx: dict[str, Any]) -> None:
    one, other = fleet()
    assert isinstance(reserve(one, *asked(tx)), Permit)
    assert isinstance(reserve(other, *asked(tx)), Permit)
    refused = reserve(one, *asked(tx))
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.duplicate"


def test_a_stranger_that_one_journal_notices_stops_all_of_the_wallet(
    fleet: Fleet, tx: dict[str, Any]
) -> None:
    one, other, third = fleet(of=3)
    [elsewhere] = fleet(of=1)
    one.note_foreign("nonce 5 of step x was used by another", at_s=1_200)
    other.note_foreign("nonce 5 is used and was not given out", at_s=1_212)
    for each in (one, other, third):
        refused = reserve(each, *asked(tx))
        assert isinstance(refused, Refuse)
        assert (refused.reason.rule, refused.reason.bound) == ("wallet.foreign", "keeper resume")
        assert refused.reason.evidence.startswith("nonce 5 of step x was used by another")
        assert [thrown.switch for thrown in each.thrown()] == [Switch.FOREIGN]
    assert "0.sqlite" in third.thrown()[0].why
    assert isinstance(reserve(elsewhere, *asked(tx)), Permit)
    one.throw(Switch.FOREIGN, "", on=False, who="a test")
    assert [nonce_of(reserve(each, *asked(tx))) for each in (one, other, third)] == [5, 6, 7]


def test_whoever_only_warns_of_a_stranger_goes_on(fleet: Fleet, tx: dict[str, Any]) -> None:
    shared = Wallet()
    [one] = fleet(of=1, wallet=shared)
    [warns] = fleet(replace(WEALTHY, foreign_stops=False), of=1, wallet=shared)
    one.note_foreign("nonce 5 was used by another", at_s=1_200)
    assert isinstance(reserve(warns, *asked(tx)), Permit)
    assert warns.thrown() == ()


def test_a_stranger_stays_noted_over_a_restart_of_either_journal(fleet: Fleet, tx: dict[str, Any]) -> None:
    [noticed] = fleet(of=1)
    noticed.note_foreign("nonce 5 was used by another", at_s=1_200)
    path, shared = noticed._path, Wallet()
    noticed.close()
    [other] = fleet(of=1, wallet=shared)
    with closing(SqliteJournal(path, identity={"deployment": "0"}, limits=WEALTHY, wallet=shared)):
        assert isinstance(reserve(other, *asked(tx)), Refuse)
    assert isinstance(reserve(other, *asked(tx)), Permit)


TAKES = (("ETH/USD", -3 * WAD),)
COST = 10**6 * 3 * 10**9
SUMS: dict[str, tuple[Limits, dict[str, Any]]] = {
    "spend_day": (Limits(spend_day_wei=2 * COST - 1), {}),
    "notional_block": (replace(WEALTHY, notional_block_wad=2 * WAD - 1), {"notional_wad": WAD}),
    "solvency_day": (replace(WEALTHY, solvency_day_wad=2 * WAD - 1), {"loss_wad": WAD}),
    "depth_minute": (replace(WEALTHY, depth_minute_wad={"ETH/USD": 6 * WAD - 1}), {"takes": TAKES}),
}


@pytest.mark.parametrize("rule", SUMS)
def test_a_limit_counts_what_all_journals_of_the_wallet_hold(
    fleet: Fleet, tx: dict[str, Any], rule: str
) -> None:
    limits, terms = SUMS[rule]
    one, other = fleet(limits)
    assert isinstance(reserve(one, *asked(tx, 1, **terms)), Permit)
    refused = reserve(other, *asked(tx, 2, **terms))
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == f"limit.{rule}"
    [stranger] = fleet(limits, of=1)
    assert isinstance(reserve(stranger, *asked(tx, 3, **terms)), Permit)


def test_depth_that_a_deployment_took_at_a_later_head_is_not_granted_again(
    fleet: Fleet, tx: dict[str, Any]
) -> None:
    limits, terms = SUMS["depth_minute"]
    one, other = fleet(limits)
    assert isinstance(reserve(one, *asked(tx, 1, **terms), at_s=1_212), Permit)
    refused = reserve(other, *asked(tx, 2, **terms))
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.depth_minute"


def test_each_journal_shows_what_all_of_the_wallet_use_and_what_is_its_own(
    fleet: Fleet, tx: dict[str, Any]
) -> None:
    limits = replace(WEALTHY, inventory_wad={"ETH/USD": 9 * WAD}, depth_minute_wad={"ETH/USD": 20 * WAD})
    one, other = fleet(limits)
    for number in (1, 2, 3):
        assert isinstance(reserve(one if number == 1 else other, *asked(tx, number, takes=TAKES)), Permit)
    shown = [{each.limit: (each.used, each.own) for each in journal.measures()} for journal in (one, other)]
    assert shown[0]["spend_day"] == (3 * COST / WAD, COST / WAD)
    assert shown[1]["spend_day"] == (3 * COST / WAD, 2 * COST / WAD)
    assert [each["in_flight"] for each in shown] == [(3, 1), (3, 2)]
    assert [each["inventory"] for each in shown] == [(9, 3), (9, 6)]
    assert [each["market_day"] for each in shown] == [(9, 3), (9, 6)]


def test_racing_threads_on_several_journals_never_share_a_nonce(fleet: Fleet, tx: dict[str, Any]) -> None:
    journals = fleet(of=3)
    races = [(each, case) for case, each in enumerate(islice(cycle(journals), 24))]
    with ThreadPoolExecutor(8) as threads:
        granted = list(threads.map(lambda race: reserve(race[0], *asked(tx, race[1])), races))
    assert sorted(map(nonce_of, granted)) == list(range(5, 29))


def test_a_grant_that_is_taken_back_leaves_its_nonce_to_others(fleet: Fleet, tx: dict[str, Any]) -> None:
    one, other = fleet()

    def give_up() -> None:
        with one.together():
            assert nonce_of(reserve(one, *asked(tx, 1))) == 5
            assert nonce_of(reserve(other, *asked(tx, 2))) == 6
            raise KeeperError("the disk is full")

    with pytest.raises(KeeperError, match="full"):
        give_up()
    assert nonce_of(reserve(other, *asked(tx, 3))) == 5


def test_a_replay_grants_by_what_the_tape_says_that_others_held(fleet: Fleet, tx: dict[str, Any]) -> None:
    one, other = fleet(of=2)
    tape = Recorder()
    other.keep_tape(tape, {})
    assert nonce_of(reserve(one, *asked(tx, 1))) == 5
    assert nonce_of(reserve(other, *asked(tx, 2))) == 6
    records = [record for packed in tape.take_rest() for record in unpack(packed.data)]
    [told] = [said for kind, said, *_ in records if kind == "chance"]
    held = of_record(told)
    assert (held.nonces, held.in_flight_wei, held.day.spent_wei) == (frozenset({5}), COST, COST)
    [replayed] = fleet(of=1, wallet=TapedWallet(lambda _: told))
    assert nonce_of(reserve(replayed, *asked(tx, 2))) == 6


def test_what_is_held_comes_back_from_a_tape_as_it_was() -> None:
    sums, moved = Sums(10**30, 2 * 10**30, 3), {"ETH/USD": 4 * 10**30}
    held = Claims(
        frozenset({7, 5}), 10**30, 5, 6, sums, sums, moved, moved, {"ETH/USD": Inventory(7, 8, -(10**30))}
    )
    assert of_record(to_record(held)) == held
    assert held + Claims() == held
    assert (held + held).moved_minute_wad == {"ETH/USD": 8 * 10**30}
    assert (held + held).inventory == {"ETH/USD": Inventory(14, 16, -2 * 10**30)}
    assert (held + held).day == Sums(2 * 10**30, 4 * 10**30, 6)
