"""What becomes of transactions that are not included, against a node with geth's rules."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain import Fees, Head, Permit, Refuse
from keeper.execute.stuck import Patience, due
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.tape import Recorder
from keeper.ports import Bid, BidKind, StepRecord, StepState, Switch
from keeper.replay.play import rewound
from keeper.units import WAD, Block
from tests.unit.execute.geth import GWEI
from tests.unit.execute.wallets import MARKET, Wallet, foreign

S = StepState


@pytest.fixture
async def wallet(tmp_path: Path) -> Any:
    wallet = Wallet(tmp_path / "journal.db")
    await wallet.start()
    yield wallet
    wallet.journal.close()


def in_flight(
    *, valid_until: Block = 110, nonce: int = 0, bid: Fees | None = None, at: Block = 100
) -> StepRecord:
    tx = {"nonce": nonce, **(bid or Fees(3 * GWEI, GWEI)).fields()}
    return StepRecord("s", "c", b"", "flag", nonce, S.SENT, at, valid_until, tx, b"raw", "0x1", None)


CANCELLED = replace(
    in_flight(),
    bids=(Bid(2, BidKind.CANCEL, 101, {"nonce": 0, **Fees(4 * GWEI, 2 * GWEI).fields()}, b"", "0x2"),),
)
DUE: dict[str, tuple[StepRecord, Block, int, BidKind | None]] = {
    "in the block it was sent at": (in_flight(), 100, 9 * GWEI, None),
    "the first block it could be in has passed": (in_flight(), 101, GWEI, None),
    "two blocks, and next in line": (in_flight(), 102, GWEI, BidKind.RAISE),
    "two blocks, behind another": (in_flight(nonce=1), 102, GWEI, None),
    "priced out": (in_flight(), 101, 3 * GWEI + 1, BidKind.RAISE),
    "priced out behind another": (in_flight(nonce=1), 101, 3 * GWEI + 1, BidKind.RAISE),
    "late": (in_flight(valid_until=102), 102, GWEI, BidKind.CANCEL),
    "late behind another": (in_flight(valid_until=102, nonce=1), 102, GWEI, None),
    "the last block for it": (in_flight(valid_until=103), 102, GWEI, BidKind.RAISE),
    "a cancel that is new": (CANCELLED, 102, GWEI, None),
    "a cancel that waits": (CANCELLED, 103, GWEI, BidKind.CANCEL),
    "a cancel that is priced out": (CANCELLED, 102, 5 * GWEI, BidKind.CANCEL),
    "put back at this head by a reorg": (
        replace(in_flight(valid_until=102), returned_block=105), 105, GWEI, None
    ),
    "put back at an earlier head": (
        replace(in_flight(valid_until=102), returned_block=104), 105, GWEI, BidKind.CANCEL
    ),
    "not handed over yet": (replace(in_flight(), state=S.RESERVED), 105, GWEI, None),
    "a bid without its bytes": (
        replace(in_flight(), bids=(replace(CANCELLED.bids[0], signed_tx=None),)), 105, GWEI, None
    ),
}  # fmt: skip


@pytest.mark.parametrize(("step", "block", "base_fee_wei", "kind"), DUE.values(), ids=DUE)
def test_a_bid_follows_when_the_last_one_no_longer_does(
    step: StepRecord, block: Block, base_fee_wei: int, kind: BidKind | None
) -> None:
    head = Head(block, f"0xb{block}", "", 0, base_fee_wei)
    assert due(step, head, 0, Patience(2)) is kind


async def test_what_miners_leave_out_is_outbid_and_paid_for_once(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=9)
    await wallet.blocks(4, empty=True)
    assert wallet.kinds(step_id) == [BidKind.RAISE] * 2
    await wallet.blocks(2)
    assert wallet.journal.step(step_id).state is S.INCLUDED
    assert wallet.told() == ["Suspected", "Reserved", "Sent", "Outbid", "Outbid", "Included"]
    assert wallet.journal.history("case1")[-1].data["tx_hash"] == wallet.node.chain[0][1].hash
    assert (len(wallet.node.chain), wallet.node.underpriced, wallet.violations()) == (1, [], [])


async def test_a_fee_that_rises_tenfold_is_followed_at_once_and_paid_for_once(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=9)
    await wallet.blocks(1, base_fee_wei=10 * GWEI)
    assert wallet.kinds(step_id) == [BidKind.RAISE]
    await wallet.blocks(1)
    assert wallet.journal.step(step_id).state is S.INCLUDED
    assert (len(wallet.node.chain), wallet.violations()) == (1, [])


async def test_no_more_is_bid_than_a_step_brings_and_late_it_is_cancelled(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=4, income_wad=4 * WAD)
    await wallet.blocks(3, base_fee_wei=10 * GWEI)
    assert wallet.kinds(step_id) == []
    await wallet.blocks(1)
    assert wallet.kinds(step_id) == [BidKind.CANCEL]
    await wallet.blocks(2)
    step = wallet.journal.step(step_id)
    assert (step.state, step.outcome and step.outcome.gas_cost_wei) == (S.DISPLACED, 21_000 * 11_125_000_000)
    assert wallet.told()[-2:] == ["Cancel", "Displaced"]
    assert wallet.journal.history("case1")[-1].data["bid"] == "cancel"
    assert wallet.violations() == []
    await wallet.send(2)
    await wallet.blocks(1)
    assert [tx.nonce for _, tx, _ in wallet.node.chain] == [0, 1]


async def test_a_cancel_keeps_the_nonces_behind_it_moving(wallet: Wallet) -> None:
    first = await wallet.send(1, blocks=3)
    second = await wallet.send(2, blocks=30)
    await wallet.blocks(4, empty=True)
    assert (wallet.kinds(first)[-1], wallet.kinds(second)) == (BidKind.CANCEL, [])
    await wallet.blocks(2)
    assert wallet.journal.step(first).state is S.DISPLACED
    assert wallet.journal.step(second).state is S.INCLUDED
    assert wallet.violations() == []


async def test_a_raise_that_is_stopped_before_it_is_out_never_goes_out(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=30)
    wallet.signer.on_sign = lambda: wallet.journal.throw(Switch.HALT, "", on=True, who="a test")
    await wallet.blocks(2, empty=True)
    wallet.signer.on_sign = int
    await wallet.blocks(2, empty=True)
    assert len({tx.hash for tx in wallet.node.heard}) == 1
    assert (wallet.kinds(step_id), wallet.told()[-2:]) == ([], ["Outbid", "Dropped"])
    assert wallet.journal.history("case1")[-1].data["rule"] == "send.halted"
    wallet.journal.throw(Switch.HALT, "", on=False, who="a test")
    await wallet.blocks(1, empty=True)
    assert [(bid.kind, bid.number) for bid in wallet.journal.step(step_id).bids] == [(BidKind.RAISE, 3)]
    await wallet.blocks(1)
    assert (wallet.journal.step(step_id).state, wallet.violations()) == (S.INCLUDED, [])


async def test_who_is_to_sign_a_raise_is_asked_at_every_head(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=30)
    wallet.signer.silent_for = {0}
    await wallet.blocks(2, empty=True)
    wallet.signer.silent_for, asked = set(), len(wallet.signer.asked)
    await wallet.blocks(1, empty=True)
    assert len(wallet.signer.asked) == asked + 1
    assert wallet.node.pool[0].hash == wallet.journal.step(step_id).last.tx_hash


async def test_a_raise_that_nobody_signs_for_long_is_bid_anew_at_the_fees_of_then(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=30)
    wallet.signer.silent_for = {0}
    await wallet.blocks(2, empty=True)
    stale_wei = Fees.of(wallet.journal.step(step_id).last.unsigned_tx).max_fee_wei
    await wallet.blocks(2, empty=True, base_fee_wei=9 * GWEI)
    assert wallet.told()[-3:] == ["Outbid", "Dropped", "Outbid"]
    assert Fees.of(wallet.journal.step(step_id).last.unsigned_tx).max_fee_wei > 2 * stale_wei


async def test_a_raise_that_is_signed_too_late_is_dropped_and_the_nonce_cancelled(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=3)
    wallet.signer.silent_for = {0}
    await wallet.blocks(2, empty=True)
    assert wallet.kinds(step_id) == [BidKind.RAISE]
    wallet.signer.silent_for = set()
    await wallet.blocks(1, empty=True)
    assert wallet.kinds(step_id) == [BidKind.CANCEL]
    assert wallet.told()[-3:] == ["Outbid", "Dropped", "Cancel"]
    await wallet.blocks(1)
    assert wallet.journal.step(step_id).state is S.DISPLACED
    assert {tx.to for tx in wallet.node.heard} == {MARKET, wallet.sender.address}


async def test_where_transactions_run_as_they_come_no_more_is_bid_but_what_a_block_asks_for(
    tmp_path: Path,
) -> None:
    wallet = Wallet(tmp_path / "journal.db", patience=Patience(outbids=False))
    await wallet.start()
    step_id = await wallet.send(blocks=9)
    await wallet.blocks(6, empty=True)
    assert wallet.kinds(step_id) == []
    await wallet.blocks(1, empty=True, base_fee_wei=9 * GWEI)
    assert wallet.kinds(step_id) == [BidKind.RAISE]
    await wallet.blocks(5, empty=True)
    assert wallet.kinds(step_id) == [BidKind.RAISE, BidKind.CANCEL], "what is late gives way, once"
    wallet.journal.close()


async def test_what_was_outbid_may_still_be_the_one_that_is_included(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=9)
    first = wallet.node.pool[0]
    await wallet.blocks(2, empty=True)
    assert wallet.node.pool[0] != first
    wallet.node.pool[0] = first
    await wallet.blocks(1)
    step = wallet.journal.step(step_id)
    assert (step.state, step.outcome and step.outcome.gas_cost_wei) == (S.INCLUDED, 21_000 * 2 * GWEI)
    assert wallet.violations() == []


async def test_above_the_operators_cap_nothing_is_bid_and_the_same_bytes_wait(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path / "journal.db", cap_wei=4 * GWEI)
    await wallet.start()
    step_id = await wallet.send(blocks=2)
    await wallet.blocks(8, base_fee_wei=5 * GWEI)
    assert wallet.kinds(step_id) == []
    assert len({tx.hash for tx in wallet.node.heard}) == 1
    await wallet.blocks(1, base_fee_wei=GWEI)
    assert wallet.journal.step(step_id).state is S.INCLUDED
    wallet.journal.close()


@pytest.mark.parametrize(
    ("limits", "kinds"),
    [
        (Limits(halted=True), [BidKind.CANCEL]),
        (Limits(spend_day_wei=100_000 * 7 * GWEI // 2), [BidKind.RAISE, BidKind.CANCEL]),
        (Limits(spend_day_wei=100_000 * 3 * GWEI), [BidKind.CANCEL]),
        (Limits(spend_day_wei=21_000 * 3 * GWEI), []),
    ],
    ids=["halted", "one raise", "a cancel alone", "nothing"],
)
async def test_a_raise_is_bound_by_the_limits_and_a_halt_and_a_cancel_by_what_it_costs(
    tmp_path: Path, limits: Limits, kinds: list[BidKind]
) -> None:
    wallet = Wallet(tmp_path / "journal.db")
    await wallet.start()
    step_id = await wallet.send(blocks=6)
    wallet.limits = limits
    await wallet.restart()
    await wallet.blocks(7, empty=True)
    found = wallet.kinds(step_id)
    assert list(dict.fromkeys(found)) == kinds
    assert found.count(BidKind.RAISE) == kinds.count(BidKind.RAISE)
    wallet.journal.close()


@pytest.mark.parametrize(
    "limits", [Limits(loss_hour_wad=5 * WAD), Limits(loss_day_wad=5 * WAD)], ids=["hour", "day"]
)
async def test_a_raise_risks_more_and_is_held_to_what_may_be_lost(tmp_path: Path, limits: Limits) -> None:
    wallet = Wallet(tmp_path / "journal.db")
    await wallet.start()
    step_id = await wallet.send(blocks=9, income_wad=100 * WAD)
    bid_wei = Fees.of(wallet.journal.step(step_id).unsigned_tx).max_fee_wei
    wallet.limits = limits  # of which its gas takes a fifth at 2 gwei
    await wallet.restart()
    await wallet.blocks(2, base_fee_wei=4 * GWEI)
    assert wallet.kinds(step_id) == [BidKind.RAISE]
    raised_wei = Fees.of(wallet.journal.step(step_id).last.unsigned_tx).max_fee_wei
    assert bid_wei < raised_wei <= 10 * GWEI
    [risk] = wallet.journal._rows("SELECT risk_micro FROM stakes WHERE market = ''")
    assert risk[0] == -(-raised_wei * 10**6 // (2 * GWEI))
    await wallet.blocks(1, base_fee_wei=40 * GWEI)
    assert wallet.kinds(step_id) == [BidKind.RAISE]
    wallet.journal.close()


async def test_of_all_bids_on_a_nonce_the_dearest_counts_against_the_limits(wallet: Wallet) -> None:
    await wallet.send(blocks=9)
    await wallet.blocks(2, empty=True)
    [step] = wallet.journal.live_steps()
    dearest = 100_000 * max(Fees.of(each.unsigned_tx).max_fee_wei for each in (step.last, *step.bids))
    wallet.limits = Limits(spend_day_wei=dearest + 100_000 * 3 * GWEI - 1)
    await wallet.restart()
    await wallet.sender.prepare()
    refused = wallet.reserve(2, blocks=9)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.spend_day"
    assert f"{dearest} wei in 24 h" in refused.reason.evidence


async def test_an_emptied_pool_is_filled_again_with_the_same_bytes(wallet: Wallet) -> None:
    for case in (1, 2, 3):
        await wallet.send(case, blocks=40)
    wallet.node.pool.clear()
    await wallet.blocks(3, empty=True)
    assert sorted(wallet.node.pool) == [0, 1, 2]
    await wallet.blocks(1)
    assert (len(wallet.node.chain), wallet.violations()) == (3, [])


async def test_of_the_wallets_transactions_no_more_wait_than_it_may_have_in_flight(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path / "journal.db", limits=Limits(in_flight=2))
    await wallet.start()
    for case in (1, 2):
        await wallet.send(case)
    refused = wallet.reserve(3)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.in_flight"
    await wallet.blocks(1)
    await wallet.sender.prepare()
    assert isinstance(wallet.reserve(4), Permit)
    wallet.journal.close()


@pytest.mark.parametrize("takes_ours", [True, False], ids=["a nonce of ours", "a nonce of nobody"])
@pytest.mark.parametrize("foreign_stops", [True, False], ids=["stop", "warn"])
async def test_another_program_with_the_key_stops_new_steps_until_an_operator_has_looked(
    tmp_path: Path, takes_ours: bool, foreign_stops: bool
) -> None:
    wallet = Wallet(tmp_path / "journal.db", limits=Limits(foreign_stops=foreign_stops))
    await wallet.start()
    await wallet.blocks(1)
    await wallet.sender.prepare()
    if takes_ours:
        await wallet.send(1)
        wallet.node.pool.clear()
    wallet.node.take(foreign(0))
    wallet.node.take(foreign(1)) if not takes_ours else None
    await wallet.blocks(4)
    await wallet.sender.prepare()
    await wallet.restart()
    await wallet.sender.prepare()
    answer = wallet.reserve(2)
    assert isinstance(answer, Refuse) is foreign_stops
    assert [each.switch for each in wallet.journal.thrown()] == [Switch.FOREIGN] * foreign_stops
    if isinstance(answer, Refuse):
        assert answer.reason.rule == "wallet.foreign"
        assert "nonce" in answer.reason.evidence
        wallet.journal.throw(Switch.FOREIGN, "", on=False, who="a test")
        assert isinstance(wallet.reserve(3), Permit)
    wallet.journal.close()


async def test_what_was_sent_by_hand_while_no_keeper_ran_is_the_operators_own(wallet: Wallet) -> None:
    await wallet.send(1)
    await wallet.blocks(1)
    wallet.node.take(foreign(1))
    wallet.node.mine()
    await wallet.restart()
    await wallet.sender.prepare()
    permit = wallet.reserve(2)
    assert isinstance(permit, Permit)
    assert permit.nonce == 2


@pytest.mark.parametrize("restarts_late", [True, False], ids=["deep", "at the head"])
async def test_a_nonce_of_ours_that_was_used_by_hand_while_no_keeper_ran_stops_nothing(
    wallet: Wallet, restarts_late: bool
) -> None:
    step_id = await wallet.send(1)
    wallet.node.pool[0] = foreign(0)
    for _ in range(3 if restarts_late else 1):
        wallet.node.mine()
    await wallet.restart()
    await wallet.blocks(3)
    assert wallet.journal.step(step_id).state is S.DISPLACED
    assert wallet.journal.thrown() == ()
    await wallet.send(2)


async def test_a_cancel_that_a_node_tells_of_late_is_booked_with_what_it_cost(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=1)
    await wallet.blocks(2, empty=True)
    assert wallet.kinds(step_id) == [BidKind.CANCEL]
    wallet.node.tells_receipts = False
    await wallet.blocks(3)
    step = wallet.journal.step(step_id)
    assert (step.state, step.outcome and step.outcome.gas_cost_wei) == (S.DISPLACED, 0)
    wallet.node.tells_receipts = True
    await wallet.blocks(1)
    step, price_wei = wallet.journal.step(step_id), wallet.node.chain[0][2]
    assert step.outcome is not None
    assert (step.state, step.outcome.gas_cost_wei) == (S.DISPLACED, 21_000 * price_wei)
    assert wallet.told()[-3:] == ["Displaced", "Unincluded", "Displaced"]
    assert wallet.violations() == []


async def test_a_displacement_by_a_stranger_is_told_once(wallet: Wallet) -> None:
    await wallet.send(1)
    wallet.node.pool[0] = foreign(0)
    await wallet.blocks(6)
    assert wallet.told()[-2:] == ["Sent", "Displaced"]


async def test_a_reorg_that_drops_an_inclusion_puts_the_last_bid_back_in_flight(wallet: Wallet) -> None:
    step_id = await wallet.send(blocks=40)
    await wallet.blocks(2, empty=True)
    await wallet.blocks(1)
    assert wallet.journal.step(step_id).state is S.INCLUDED
    await wallet.reorg()
    assert wallet.journal.step(step_id).state is S.SENT
    await wallet.blocks(1)
    assert wallet.journal.step(step_id).state is S.INCLUDED
    assert (len(wallet.node.chain), wallet.violations()) == (1, [])


@pytest.mark.parametrize("restarts", [False, True], ids=["lives on", "starts anew"])
async def test_what_comes_back_late_goes_out_as_it_was_before_it_is_cancelled(
    wallet: Wallet, restarts: bool
) -> None:
    step_id = await wallet.send(blocks=2)
    await wallet.blocks(1)
    await wallet.blocks(2, empty=True)
    assert wallet.journal.step(step_id).state is S.INCLUDED
    orphaned = wallet.node.cut(3)
    heads = [wallet.node.mine(empty=True) for _ in range(3)]
    await wallet.sender.track(heads[-1], orphaned)
    if restarts:
        await wallet.restart()
    assert (wallet.journal.step(step_id).state, wallet.kinds(step_id)) == (S.SENT, [])
    await wallet.blocks(2, empty=True)
    assert BidKind.CANCEL in wallet.kinds(step_id)
    await wallet.blocks(2)
    assert (len(wallet.node.chain), wallet.violations()) == (1, [])


TABLES = (
    "SELECT step_id, bid, kind, nonce, block, unsigned_tx, signed_tx, tx_hash FROM sends",
    "SELECT step_id, market, at_s, most_gwei, paid_gwei, risk_micro FROM stakes",
    "SELECT step_id, state, max_cost_wei, signed_tx FROM steps",
)


@pytest.mark.parametrize("signs", [True, False], ids=["signed later", "dropped later"])
async def test_a_replay_begins_with_the_bids_and_the_stakes_of_then(
    wallet: Wallet, tmp_path: Path, signs: bool
) -> None:
    await wallet.send(blocks=40, income_wad=100 * WAD)
    await wallet.blocks(2, empty=True)
    wallet.signer.silent_for = {0}
    await wallet.blocks(2, empty=True, base_fee_wei=3 * GWEI)
    wallet.journal.keep_tape(Recorder(), {})
    before = [[tuple(row) for row in wallet.journal._rows(query)] for query in TABLES]
    assert [(row[2], row[3], row[6] is None) for row in before[0]] == [
        ("raise", 0, False), ("raise", 0, True)
    ]  # fmt: skip
    wallet.signer.silent_for = set() if signs else {0}
    await wallet.blocks(2, empty=True, base_fee_wei=9 * GWEI)
    wallet.signer.silent_for = set()
    await wallet.blocks(3, base_fee_wei=9 * GWEI)
    with closing(JournalReader(wallet.path)) as reader:
        [run] = reader.runs()
        journal = rewound(reader, run, tmp_path / "replay.db")
    found = [[tuple(row) for row in journal._rows(query)] for query in TABLES]
    journal.close()
    assert found == before


FATES = ("send", "mine", "skip", "spike", "calm", "drop", "lose", "unheard", "restart", "crash", "cut",
    "refuse", "mute", "speak")  # fmt: skip


DEAF = {"lose": "lost", "unheard": "answer", "refuse": "insufficient funds for gas * price + value"}


def disturb(wallet: Wallet, fate: str, nonce: int) -> None:
    """Have the pool forget all, or the signer fall silent for a nonce, or speak again."""
    if fate == "drop":
        wallet.node.pool.clear()
    else:
        wallet.signer.silent_for = {nonce} if fate == "mute" else set()


class Crash(BaseException):
    """The end of the process."""


@settings(max_examples=25, deadline=None)
@given(fates=st.lists(st.sampled_from(FATES), min_size=4, max_size=40), seed=st.integers(0, 30))
async def test_whatever_happens_each_nonce_is_paid_for_once_and_the_journal_says_what_the_chain_does(
    tmp_path_factory: pytest.TempPathFactory, fates: list[str], seed: int
) -> None:
    wallet = Wallet(tmp_path_factory.mktemp("stuck") / "journal.db")
    await wallet.start()
    node, case = wallet.node, 0
    for fate in fates:
        if fate == "send":
            case += 1
            await wallet.send(case, blocks=2 + seed % 5)
        elif fate in {"mine", "skip"}:
            await wallet.blocks(1, empty=fate == "skip")
        elif fate in {"spike", "calm"}:
            await wallet.blocks(1, base_fee_wei=10 * GWEI if fate == "spike" else GWEI)
        elif fate in DEAF:
            node.deaf.append(DEAF[fate])
        elif fate in {"drop", "mute", "speak"}:
            disturb(wallet, fate, node.nonce + seed % 3)
        elif fate == "cut" and node.number > 101:
            await wallet.reorg()
        elif fate == "restart":
            await wallet.restart()
        elif fate == "crash":
            await crash(wallet, after=seed % 7)
    node.deaf.clear()
    wallet.signer.silent_for = set()
    await wallet.restart()
    await wallet.blocks(12, base_fee_wei=GWEI)
    assert wallet.journal.live_steps() == ()
    assert wallet.violations() == []
    assert [tx.nonce for _, tx, _ in node.chain] == list(range(len(node.chain)))
    acts = [tx for _, tx, _ in node.chain if tx.to == MARKET]
    included = [step for step in wallet.journal.settled_since(0) if step.state is S.INCLUDED]
    assert len(acts) == len(included)
    wallet.journal.close()


async def crash(wallet: Wallet, *, after: int) -> None:
    """End the process at a write to the journal or a request, while a block is worked on; begin again."""
    left = [after]

    def dying(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return call(*given, **named)

        return called

    for name in ("rebid", "sign", "sent", "settle", "unsettle"):
        setattr(wallet.journal, name, dying(getattr(wallet.journal, name)))
    wallet.node.request = dying(wallet.node.request)  # type: ignore[method-assign]
    with suppress(Crash):
        await wallet.blocks(2, empty=True)
    del wallet.node.request
    await wallet.restart()
