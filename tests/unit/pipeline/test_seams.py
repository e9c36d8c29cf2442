"""What the loop does for any protocol, whichever of it HybridMargin needs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from keeper.desk.hybrid import HybridDesk, Sitting
from keeper.desk.port import Judgement, Tried
from keeper.domain import Account, Log, Unknown
from keeper.ladder import Climb
from keeper.pipeline import UPGRADED, Params, rungs
from keeper.pipeline.rungs import CYCLE
from keeper.plan.common import GAS_RESERVE
from keeper.protocols.hybrid.market import HybridMarket
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, EMPTY, KEEPER, MARKET, Desk, cured
from tests.unit.protocols.hybrid.books import OWNER
from tests.unit.protocols.hybrid.pages import page_of

FLAGGED = ["Suspected", "Reserved flag", "Sent"]
OTHER = replace(EMPTY, key=b"\x0c" * 20 + bytes(12))


class Torn(HybridDesk):
    """Has two sizes of everything, and takes the last one that goes through."""

    def judge(self, *args: Any, **kwargs: Any) -> Judgement[Sitting] | Unknown:
        judged = super().judge(*args, **kwargs)
        if isinstance(judged, Judgement) and isinstance(judged.decision, tuple):
            [step] = judged.decision
            return replace(judged, decision=(step, replace(step, gas_limit=step.gas_limit - 1)))
        return judged

    def pick(self, sitting: Sitting, tried: Sequence[Tried]) -> Tried:
        del sitting
        return [each for each in tried if isinstance(each.result, bytes) or each is tried[0]][-1]


async def test_all_steps_of_a_choice_are_simulated_and_one_of_them_is_sent(desk: Desk) -> None:
    desk.deciding = Torn
    desk.start()
    await desk.head(BREACHED)
    assert desk.chain.simulated == ["flag", "flag"]
    assert (desk.told(), desk.acts()) == (FLAGGED, ["flag"])
    [(unsigned,)] = desk.journal._rows("SELECT unsigned_tx FROM steps")
    assert json.loads(unsigned)["gas"] == 2 * (230_000 + 60_000) + GAS_RESERVE - 1


async def test_a_choice_of_which_nothing_goes_through_is_refused(desk: Desk) -> None:
    desk.deciding = Torn
    desk.start()
    desk.chain.reverts = {"flag": b""}
    await desk.head(BREACHED)
    assert desk.acts() == []
    assert desk.told() == ["Suspected", "Refused simulation.reverted"]


class Drifting(HybridMarket):
    """Its accounts are said to change by themselves."""

    drifts = True  # type: ignore[misc]


async def test_who_is_judged_is_read_again_before_where_accounts_drift(kept: Desk) -> None:
    kept.protocol = Drifting
    kept.start()
    kept.chain.reverts = {"flag": b""}
    await kept.head(BREACHED, OTHER)
    kept.chain.read.clear()
    kept.chain.accounts[OWNER] = cured(BREACHED)
    await kept.head()
    assert kept.chain.read == [KEEPER, OWNER]
    # Suspected on what the mirror had, judged on what is there now.
    assert kept.told() == ["Suspected", "Refused simulation.reverted", "Waited alarm.not_on_chain"]


async def test_who_is_on_a_rung_is_read_again_in_turn_though_every_other_block_is_missed(kept: Desk) -> None:
    near = [replace(BREACHED, key=bytes([n]) * 20 + bytes(12), cash_wad=2_060 * WAD) for n in range(1, 5)]
    kept.protocol = Drifting
    kept.climb = Climb(most_called=0)
    kept.start()
    await kept.head(*near)
    kept.chain.read.clear()
    moment = kept.pipeline._moment
    assert moment is not None
    for number in range(0, 2 * CYCLE, 2):
        await kept.pipeline._rungs.refresh(replace(moment, head=replace(moment.head, number=number)))
    assert sorted(kept.chain.read) == [each.key for each in near]


async def test_who_of_a_turn_is_nearest_is_read_again_first(
    kept: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    cash = {n: (2_000 + 10 * abs(n - 30)) * WAD for n in range(1, 45)}
    near = [replace(BREACHED, key=bytes([n]) * 20 + bytes(12), cash_wad=each) for n, each in cash.items()]
    kept.protocol = Drifting
    kept.climb = Climb(most_called=0)
    kept.start()
    await kept.head(*near)
    monkeypatch.setattr(rungs, "GROUP", 1)
    monkeypatch.setattr(kept.pipeline._rungs, "_params", Params(page=1))
    book = kept.pipeline.mirror.book
    kept.chain.read.clear()
    moment = kept.pipeline._moment
    assert moment is not None
    for number in range(CYCLE):
        await kept.pipeline._rungs.refresh(replace(moment, head=replace(moment.head, number=number)))
    worst: dict[int, Account] = {}
    for each in near:
        turn = int(book.rows([each.key])[0]) % CYCLE
        worst[turn] = min(worst.get(turn, each), each, key=lambda account: account.cash_wad)
    assert kept.chain.read == [worst[turn].key for turn in range(CYCLE)]


async def test_who_cannot_be_read_again_is_read_once_more_at_the_next_head(
    kept: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.start()
    await kept.head(OTHER)
    mirror, said = kept.pipeline.mirror, [OTHER, Unknown("account", "cannot be read")]
    monkeypatch.setattr(type(mirror.book), "exact", lambda *_: said.pop(0))
    await mirror.read_again([OTHER.key], kept.chain.tip)
    assert mirror.book.dirty() == (OTHER.key,)


async def test_an_account_that_a_page_leaves_out_is_not_believed_to_be_as_it_was(
    kept: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.start()
    await kept.head(OTHER)
    mirror = kept.pipeline.mirror
    none = mirror.market.shape.decode(page_of([]))
    assert mirror.book.exact(OTHER.key) == OTHER
    with monkeypatch.context() as patch:
        patch.setattr(type(mirror.market.shape), "decode", lambda *_: none)
        await mirror.read_again([OTHER.key], kept.chain.tip)
    assert isinstance(mirror.book.exact(OTHER.key), Unknown)
    await kept.head()
    assert mirror.book.exact(OTHER.key) == OTHER


async def test_nothing_more_is_sent_once_a_contract_has_other_code(kept: Desk) -> None:
    kept.start()
    await kept.head()
    block, code = kept.chain.next, bytes(12) + b"\xc0" * 20
    upgrade = Log("0x" + "51" * 20, (UPGRADED.topic, code), b"", block.number, block.hash, "0xtx", 0)
    kept.chain.logs.append(upgrade)
    await kept.head(BREACHED)
    assert (kept.chain.simulated, kept.acts()) == ([], [])
    assert kept.told() == ["Suspected", "Refused code.changed"]
    await kept.head()
    assert kept.chain.simulated == []
    # Whoever starts anew has looked: the block with the upgrade is heard once more, and is of the past.
    kept.start()
    await kept.head()
    assert kept.acts() == ["flag"]


async def test_contracts_that_a_new_listing_brings_are_watched(kept: Desk) -> None:
    kept.start()
    await kept.head()
    kept.chain.watched = ()
    kept.chain.relist()
    await kept.head()
    assert kept.chain.watched == MARKET.addresses
