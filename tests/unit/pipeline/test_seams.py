"""What the loop does for any protocol, whichever of it HybridMargin needs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keeper.desk.hybrid import HybridDesk, Sitting
from keeper.desk.port import Judgement, Tried
from keeper.domain import Log, Unknown
from keeper.pipeline import UPGRADED
from keeper.plan.common import GAS_RESERVE
from keeper.protocols.hybrid.market import HybridMarket
from tests.unit.pipeline.desk import BREACHED, EMPTY, KEEPER, MARKET, Desk, cured
from tests.unit.protocols.hybrid.books import OWNER

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
