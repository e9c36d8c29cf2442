"""What becomes of a nonce that nobody holds any more, below transactions that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain import Permit
from keeper.journal.guard import Limits
from keeper.journal.wallet import Wallet as Shared
from keeper.ports import StepState, Switch
from tests.unit.execute.geth import GWEI, Geth
from tests.unit.execute.wallets import MARKET, Wallet, foreign

S = StepState
FILL_WEI = 21_000 * 2 * GWEI
"""What a fill pays at a base fee of 1 gwei."""
POOR = "insufficient funds for gas * price + value"


@pytest.fixture
async def wallet(tmp_path: Path) -> AsyncIterator[Wallet]:
    wallet = Wallet(tmp_path / "journal.db")
    await wallet.start()
    yield wallet
    wallet.journal.close()


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Wallet, Wallet]]:
    """Two deployments with one wallet, before one node; the first one's signer knows no nonce 0."""
    node, shared = Geth(), Shared()
    one, other = (Wallet(tmp_path / f"{name}.db", node=node, shared=shared) for name in ("one", "other"))
    one.signer.silent_for = {0}
    for each in (one, other):
        await each.start()
    yield one, other
    for each in (one, other):
        each.journal.close()


async def taken_back(wallet: Wallet, *, steps: int = 1, restart: bool = False) -> list[str]:
    """Have a reorg take back what was done by hand with nonce 0 before a start, below steps in flight."""
    wallet.node.take(foreign(0))
    await wallet.blocks(1)
    sent = [await wallet.send(case, blocks=30) for case in range(1, steps + 1)]
    orphaned = wallet.node.cut(1)
    if restart:
        await wallet.restart()
    await wallet.sender.track(wallet.node.mine(empty=True), orphaned)
    return sent


def refused(wallet: Wallet, case: int = 1) -> tuple[str, str]:
    """Return why the step of a case was given up."""
    told = wallet.journal.history(f"case{case}")[-1]
    return told.kind.value, told.data["rule"]


@pytest.mark.parametrize("restart", [False, True], ids=["while it runs", "at a start"])
async def test_a_nonce_that_a_reorg_frees_below_is_filled_at_once(wallet: Wallet, restart: bool) -> None:
    [step_id] = await taken_back(wallet, restart=restart)
    assert wallet.node.pool[0].to == wallet.sender.address
    [fill] = wallet.journal.step(step_id).fills
    assert (fill.nonce, fill.tx_hash) == (0, wallet.node.pool[0].hash)
    await wallet.blocks(1)
    step = wallet.journal.step(step_id)
    assert step.state is S.INCLUDED
    assert step.outcome is not None
    assert step.outcome.gas_cost_wei == 2 * FILL_WEI, "what it waited for is part of what it has cost"
    assert wallet.told() == ["Suspected", "Reserved", "Sent", "Fill", "Included"]
    assert wallet.violations() == []


async def test_a_nonce_given_up_in_one_deployment_is_filled_by_the_one_that_waits_for_it(
    both: tuple[Wallet, Wallet],
) -> None:
    one, other = both
    silent, out = await one.send(1, blocks=2), await other.send(1, blocks=30)
    assert (one.journal.step(silent).nonce, other.journal.step(out).nonce) == (0, 1)
    for _ in range(2):
        head = one.node.mine()
        for each in both:
            await each.sender.track(head, ())
    assert refused(one) == ("Abandoned", "send.unsigned")
    assert [fill.nonce for fill in other.journal.step(out).fills] == [0]
    assert one.journal.live_steps() == ()
    await other.blocks(1)
    assert other.journal.step(out).state is S.INCLUDED
    assert other.violations() == []


async def test_what_fills_a_gap_holds_its_nonce_in_every_journal_of_the_wallet(
    both: tuple[Wallet, Wallet],
) -> None:
    one, other = both
    await one.send(1, blocks=1)
    await other.send(1, blocks=30)
    head = one.node.mine()
    for each in both:
        await each.sender.track(head, ())
    for each in both:
        await each.sender.prepare()
        granted = each.reserve(2)
        assert isinstance(granted, Permit)
        assert granted.nonce == (2 if each is one else 3)


async def test_a_gap_below_both_deployments_is_filled_by_one_of_them_where_they_look_at_once(
    both: tuple[Wallet, Wallet], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = both
    await one.send(1, blocks=2)
    one.signer.silent_for = set()
    out = [await other.send(1, blocks=30), await one.send(2, blocks=30)]
    one.signer.silent_for = {0}
    asked = one.node.request

    async def after_a_turn(method: str, params: list[Any]) -> Any:
        await asyncio.sleep(0)
        return await asked(method, params)

    monkeypatch.setattr(one.node, "request", after_a_turn)
    for _ in range(3):
        head = one.node.mine()
        await asyncio.gather(*(each.sender.track(head, ()) for each in both))
    waiting = [other.journal.step(out[0]), one.journal.step(out[1])]
    assert sorted(len(step.fills) for step in waiting) == [0, 1]
    one.signer.silent_for = set()
    for _ in range(2):
        await block(both)
    expect_all_through(both)


async def test_a_nonce_that_the_node_refuses_below_others_is_filled_before_the_next_head(
    both: tuple[Wallet, Wallet],
) -> None:
    one, other = both
    await one.send(1, blocks=2)
    above = await other.send(1, blocks=30)
    head = one.node.mine()
    await other.sender.track(head, ())
    await one.sender.track(one.node.mine(), ())
    one.node.deaf.append(POOR)
    refused_id = await other.send(2, blocks=30)
    step = other.journal.step(refused_id)
    assert (step.nonce, step.state) == (0, S.ABANDONED)
    assert other.node.pool[0].to == other.sender.address
    await other.blocks(1)
    assert other.journal.step(above).state is S.INCLUDED
    assert other.violations() == []


async def test_what_was_never_signed_above_a_gap_is_given_up_and_the_next_step_fills_it(
    wallet: Wallet,
) -> None:
    await wallet.sender.prepare()
    permits = [wallet.reserve(case, blocks=30) for case in (1, 2)]
    wallet.signer.silent_for, wallet.node.deaf = {1}, [POOR]
    await wallet.sender.send([each for each in permits if isinstance(each, Permit)])
    assert refused(wallet, 1) == ("Abandoned", "send.refused")
    assert refused(wallet, 2) == ("Abandoned", "send.gap")
    assert wallet.node.pool == {}
    step_id = await wallet.send(3)
    assert wallet.journal.step(step_id).nonce == 0


async def test_a_fill_is_outbid_where_the_fee_rises_and_paid_for_once(wallet: Wallet) -> None:
    [step_id] = await taken_back(wallet)
    await wallet.blocks(1, base_fee_wei=20 * GWEI)
    assert [fill.nonce for fill in wallet.journal.step(step_id).fills] == [0, 0]
    await wallet.blocks(1)
    step = wallet.journal.step(step_id)
    assert (step.state, len(wallet.node.chain)) == (S.INCLUDED, 2)
    assert (wallet.node.underpriced, wallet.violations()) == ([], [])


async def test_a_fill_counts_besides_what_waits_for_it_and_a_halt_lets_it_pass(wallet: Wallet) -> None:
    wallet.node.take(foreign(0))
    await wallet.blocks(1)
    step_id = await wallet.send(1, blocks=30)
    [(alone,)] = wallet.journal._rows("SELECT max_cost_wei FROM steps")
    wallet.journal.throw(Switch.HALT, "", on=True, who="a test")
    orphaned = wallet.node.cut(1)
    await wallet.sender.track(wallet.node.mine(empty=True), orphaned)
    [fill] = wallet.journal.step(step_id).fills
    [(whole,)] = wallet.journal._rows("SELECT max_cost_wei FROM steps")
    assert int(whole) - int(alone) == 21_000 * int(fill.unsigned_tx["maxFeePerGas"])
    [(most,)] = wallet.journal._rows("SELECT most_gwei FROM stakes WHERE market = ''")
    assert most * GWEI == int(whole)


async def test_a_fill_that_the_limits_refuse_is_asked_for_again_at_the_next_head(wallet: Wallet) -> None:
    wallet.node.take(foreign(0))
    await wallet.blocks(1)
    step_id = await wallet.send(1, blocks=30)
    [(alone,)] = wallet.journal._rows("SELECT max_cost_wei FROM steps")
    wallet.journal.reload(Limits(spend_day_wei=int(alone)), "a test", "")
    orphaned = wallet.node.cut(1)
    await wallet.sender.track(wallet.node.mine(empty=True), orphaned)
    assert wallet.journal.step(step_id).fills == ()
    wallet.journal.reload(Limits(), "a test", "")
    await wallet.blocks(2)
    assert wallet.journal.step(step_id).state is S.INCLUDED


async def test_a_fill_that_nobody_signs_waits_and_keeps_its_nonce(wallet: Wallet) -> None:
    wallet.signer.silent_for = {0}
    [step_id] = await taken_back(wallet)
    await wallet.blocks(2)
    assert wallet.journal.step(step_id).state is S.SENT
    granted = wallet.reserve(2)
    assert isinstance(granted, Permit)
    assert granted.nonce == 2
    wallet.signer.silent_for = set()
    await wallet.restart()
    await wallet.blocks(3)
    assert wallet.journal.step(step_id).state is S.INCLUDED


async def test_whoever_does_not_sign_is_asked_for_one_fill_at_a_head(wallet: Wallet) -> None:
    for nonce in (0, 1):
        wallet.node.take(foreign(nonce))
    await wallet.blocks(1)
    step_id = await wallet.send(1, blocks=30)
    wallet.signer.silent_for = {0, 1}
    orphaned = wallet.node.cut(1)
    wallet.signer.asked.clear()
    await wallet.sender.track(wallet.node.mine(empty=True), orphaned)
    assert wallet.signer.asked == [0]
    assert [fill.nonce for fill in wallet.journal.step(step_id).fills] == [0, 1]
    wallet.signer.silent_for = set()
    await wallet.blocks(2)
    assert wallet.journal.step(step_id).state is S.INCLUDED


async def test_what_is_filled_goes_back_and_forth_with_a_reorg(wallet: Wallet) -> None:
    first, second = await taken_back(wallet, steps=2)
    await wallet.blocks(1)
    assert [wallet.journal.step(each).state for each in (first, second)] == [S.INCLUDED] * 2
    await wallet.reorg()
    assert [wallet.journal.step(each).state for each in (first, second)] == [S.SENT] * 2
    assert sorted(wallet.node.pool) == [0, 1, 2]
    await wallet.blocks(1)
    assert [tx.nonce for _, tx, _ in wallet.node.chain] == [0, 1, 2]
    assert wallet.violations() == []


async def test_where_no_nonce_is_free_below_nothing_is_filled(wallet: Wallet) -> None:
    sent = [await wallet.send(case, blocks=30) for case in (1, 2, 3)]
    await wallet.blocks(3, empty=True)
    assert [wallet.journal.step(each).fills for each in sent] == [()] * 3
    assert len({tx.nonce for tx in wallet.node.heard}) == 3


FATES = ("one", "other", "mine", "skip", "refuse", "mute", "speak", "cut", "restart")


@settings(max_examples=25, deadline=None)
@given(fates=st.lists(st.sampled_from(FATES), min_size=6, max_size=40), blocks=st.integers(1, 5))
async def test_whatever_two_deployments_give_up_all_that_is_out_comes_through(
    tmp_path_factory: pytest.TempPathFactory, fates: list[str], blocks: int
) -> None:
    place, node, shared = tmp_path_factory.mktemp("gaps"), Geth(), Shared()
    both = [Wallet(place / f"{name}.db", node=node, shared=shared) for name in ("one", "other")]
    for each in both:
        await each.start()
    for case, fate in enumerate(fates, start=1):
        if fate in {"one", "other"}:
            await both[fate == "other"].send(case, blocks=blocks)
        elif fate == "refuse":
            node.deaf.append(POOR)
        elif fate in {"mute", "speak"}:
            both[case % 2].signer.silent_for = {node.nonce + blocks % 3} if fate == "mute" else set()
        elif fate == "restart":
            await both[case % 2].restart()
        elif fate != "cut" or node.number > 101:
            await block(both, empty=fate != "mine", cut=fate == "cut")
    node.deaf.clear()
    for each in both:
        each.signer.silent_for = set()
    for _ in range(14):
        await block(both)
    expect_all_through(both)


async def block(both: Sequence[Wallet], *, empty: bool = False, cut: bool = False) -> None:
    """Add a block, or an empty one in the place of the newest; both deployments hear of it."""
    node = both[0].node
    orphaned = node.cut(1) if cut else ()
    head = node.mine(empty=empty)
    for each in both:
        await each.sender.track(head, orphaned)


def expect_all_through(both: Sequence[Wallet]) -> None:
    """Hold both journals against the chain: nothing waits, and nothing was included unknown to them."""
    node = both[0].node
    assert [each.journal.live_steps() for each in both] == [(), ()]
    assert [tx.nonce for _, tx, _ in node.chain] == list(range(len(node.chain)))
    assert node.pool == {}
    included = [step for each in both for step in each.journal.settled_since(0) if step.state is S.INCLUDED]
    assert len(included) == sum(tx.to == MARKET for _, tx, _ in node.chain)
    assert [each.journal.thrown() for each in both] == [(), ()]
    for each in both:
        each.journal.close()
