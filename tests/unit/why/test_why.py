"""What is said of accounts, in a case or not, from the journal and its tape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import EventKind
from keeper.errors import ConfigError
from keeper.execute.fees import FeeParams
from keeper.journal import store
from keeper.journal.reader import JournalReader
from keeper.journal.runs import Run
from keeper.pipeline import Params, Shelf
from keeper.ports import Reports
from keeper.protocols.hybrid.market import HybridMarket
from keeper.replay.scene import Parts, Scene, scene_at
from keeper.units import WAD
from keeper.why.account import find, parse, told_decision
from keeper.why.explain import explain, words_of
from keeper.why.nearest import nearest
from keeper.why.nearest import words_of as rows_of
from tests.unit.pipeline.desk import BREACHED, KEEPER, SIGNER, Desk, confirmed, flagged
from tests.unit.protocols.hybrid.books import deployment
from tests.unit.replay import fall

KEY = "0x" + BREACHED.key.hex()
CALM = replace(BREACHED, key=b"\x0d" * 20 + bytes(12), cash_wad=4_000 * WAD)
SUB = replace(CALM, key=b"\x0d" * 20 + (7).to_bytes(12))


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    desk.taping = True
    desk.shelf = Shelf(tmp_path / "book", 31337, "hybrid", 2)
    desk.start()
    yield desk
    desk.close()


async def open_parts(run: Run, answers: Any, said: Reports) -> Parts:
    del run, answers, said
    return Parts(
        market=HybridMarket(deployment()),
        desk=HybridDesk(SIGNER.address, KEEPER, DeskParams("ETH/USD")),
        params=Params(),
        fees=FeeParams(),
        chain_id=31337,
        deployment="hybrid",
    )


async def story(desk: Desk) -> None:
    """Two accounts that are never near, and one that is flagged, confirmed and then out of window."""
    await desk.head(CALM, BREACHED)
    alarmed = flagged(BREACHED, desk.chain.next)
    await desk.head(alarmed, mined=True)
    await desk.head()
    await desk.head()
    await desk.head(confirmed(alarmed, desk.chain.next), mined=True)
    await desk.head()


async def asked(desk: Desk, text: str, at: int | None = None) -> dict[str, Any]:
    desk.close()
    with closing(JournalReader(desk.path)) as reader:
        said = explain(reader, await scene_at(reader, open_parts, at), text, at)
    json.dumps(said, default=str, allow_nan=False)
    return said


async def test_an_account_that_nobody_acted_on_is_judged_from_the_tape(kept: Desk) -> None:
    await story(kept)
    said = await asked(kept, "0x" + CALM.key.hex())
    assert (said["cases"], said["suspect"], said["decision"]["kind"]) == ([], False, "nothing")
    assert (said["E"], said["M"]) == (3_000, 1_000)
    assert said["clocks"]["slow"] == {"E": 3_000, "M": 1_000, "health": 3}
    [change] = said["would_change"]
    assert (change["what"], change["feed"], change["now"]) == ("price", "BTC/USD", 200)
    # E = 4,000 + 100 (p - 210) meets M = 5 p.
    assert change["price"] == pytest.approx(17_000 / 95, rel=2e-4)
    words = "\n".join(words_of(said))
    assert "Nothing: the trigger clears it." in words
    assert "Another answer at BTC/USD 178.9" in words
    assert "the journal has no case of it" in words


async def test_what_was_decided_and_done_is_told_block_by_block(kept: Desk) -> None:
    await story(kept)
    said = await asked(kept, KEY)
    [case] = said["cases"]
    assert [step["kind"] for step in case["steps"]] == ["flag", "confirm", "liquidate"]
    assert said["decision"]["kind"] == "in flight"
    words = "\n".join(words_of(said))
    assert "suspected: score E 900.00, M 1000.00" in words
    assert "reserved liquidate with nonce 2, agreed by the policy balanced: breach at the fast" in words
    assert "included" in words


@pytest.mark.parametrize("restarting", [False, True])
async def test_what_is_explained_is_what_was_decided_at_every_head(tmp_path: Path, restarting: bool) -> None:
    desk = Desk(tmp_path / "journal.sqlite", restarting=restarting)
    heard = fall.prepare(desk)
    await fall.fall(desk)
    told = {(event.block, event.account): event for case in range(3) for event in desk.history(case)}
    desk.close()
    kinds = set()
    with closing(JournalReader(desk.path)) as reader:
        for block in range(101, desk.chain.tip.number + 1):
            scene = await scene_at(reader, fallen, block)
            for key in (BREACHED.key, fall.SECOND.key, fall.NEAR.key):
                said = explain(reader, scene, f"0x{key.hex()}", block)
                decision = {name: found for name, found in said["decision"].items() if name != "done"}
                kinds.add(decision["kind"])
                if decision["kind"] == "in flight":
                    assert (block, key) not in heard.found
                elif (block, key) in heard.found:
                    assert decision == told_decision(scene, heard.found[block, key])
                else:
                    assert decision["kind"] == "nothing"
                last = told.get((block, key))
                if last is not None and last.kind in {EventKind.WAITED, EventKind.REFUSED}:
                    assert decision["rule"] == last.data["rule"]
                if last is not None and last.kind is EventKind.SENT:
                    assert [step["act"] for step in decision["steps"]] == [last.data["kind"]]
                assert list(words_of(said))
    assert kinds == {"step", "wait", "in flight", "nothing"}


async def test_what_held_a_step_up_and_made_it_small_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "journal.sqlite", restarting=False)
    fall.prepare(desk)
    await fall.fall(desk)
    desk.close()

    async def told(key: bytes, at: int) -> str:
        with closing(JournalReader(desk.path)) as reader:
            scene = await scene_at(reader, fallen, at)
            return "\n".join(words_of(explain(reader, scene, f"0x{key.hex()}", at)))

    held = await told(BREACHED.key, 105)
    assert "The book is elevated (lagging 0.5, bound 0.34): confirmations a preset slower" in held
    assert "What is decided, by the policy cautious" in held
    assert "Wait until block 107, by confirm.witnesses: BTC/USD: link +1.00%" in held
    assert "BTC/USD, link: 202, " in held
    taken = await told(BREACHED.key, 109)
    assert "It stands on the rung confirmed" in taken
    assert "Due: liquidate, " in taken
    assert "; no more by size.pace: " in taken
    assert "Then, block 109: reserved liquidate with nonce" in taken
    assert "At the level normal it would be otherwise. Due: liquidate" in taken
    called = await told(fall.NEAR.key, 101)
    assert "It stands on the rung margin_call: E/M 1.060" in called
    assert "called: health 1.0600, buffer 1.15: deposit 90 0x" in called
    assert "Its buffer, a health of 1.15, is back with: deposit 90 0x" in called


def test_what_was_left_to_others_is_told_with_the_rule() -> None:
    why = {"rule": "confirm.witnesses", "evidence": "1 of 2", "bound": "2 of 2"}
    left = {**why, "act": "Tranche", "block": 7, "tx_hash": "0xab"}
    closed = {"block": 8, "kind": "Closed", "data": {"phase": "healthy", "left_to_others": left}}
    case = {"case_id": "c", "status": "closed", "opened_block": 5, "events": [closed]}
    *_, line = words_of({"account": "0x12", "without": "no tape", "cases": [case]})
    assert line == (
        "  block 8: closed: phase healthy; left to others (Tranche, block 7, transaction 0xab),"
        " held back by confirm.witnesses: 1 of 2, asked for 2 of 2"
    )


async def test_from_the_last_rung_nothing_leads_up(kept: Desk) -> None:
    await kept.head(replace(BREACHED, cash_wad=900 * WAD))
    said = await asked(kept, "0x" + BREACHED.key.hex())
    assert (said["rung"]["rung"], said["rung"]["up"]) == ("backstop", None)
    assert not any("Up to" in line for line in words_of(said))


def test_an_agreement_as_an_older_keeper_wrote_it_down_is_told() -> None:
    agreed = {"block": 8, "kind": "Observed", "data": {"act": "Agreed", "evidence": "breach at both"}}
    case = {"case_id": "c", "status": "suspected", "opened_block": 5, "events": [agreed]}
    *_, line = words_of({"account": "0x12", "without": "no tape", "cases": [case]})
    assert line == "  block 8: agreed: breach at both"


async def fallen(run: Run, answers: Any, said: Reports) -> Parts:
    parts = await open_parts(run, answers, said)
    desk = HybridDesk(SIGNER.address, KEEPER, DeskParams("ETH/USD", plan=fall.PLAN))
    return replace(parts, desk=desk, params=fall.params(), panel=fall.PANEL)


async def test_an_earlier_block_is_told_as_it_was_known_then(kept: Desk) -> None:
    await story(kept)
    said = await asked(kept, KEY, at=102)
    assert said["block"] == 102
    assert (said["decision"]["kind"], said["decision"]["rule"]) == ("wait", "confirm.min_blocks")
    assert {event["block"] for event in said["cases"][0]["events"]} <= {101, 102}
    assert {"what": "block", "block": said["decision"]["until_block"]} in said["would_change"]
    remedy, *_ = [change for change in said["would_change"] if change["what"] == "remedy"]
    # E = 900 + 250 is 1.15 times M = 1,000.
    assert (remedy["buffer"], remedy["text"]) == (
        1.15,
        "deposit 250 0x00000000000000000000000000000000000000dc",
    )
    assert {each["source"] for each in said["witnesses"]} == {
        "fast, on chain",
        "slow, on chain",
        "the keeper's feed",
    }


async def test_a_scene_is_the_same_from_a_book_that_was_kept_and_from_the_start(
    kept: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BOOK_BLOCKS", 1)
    await story(kept)
    kept.close()
    with closing(JournalReader(kept.path)) as reader:
        [run] = reader.runs()
        assert reader.books(run, 2**60)
        scene = await scene_at(reader, open_parts, None)
        for _, book in reader.books(run, 2**60):
            book.unlink()
        again = await scene_at(reader, open_parts, None)
    for account in (BREACHED, CALM):
        assert scene.book.exact(account.key) == again.book.exact(account.key)
    assert (scene.world, scene.quotes, scene.head) == (again.world, again.quotes, again.head)


async def test_a_listing_that_grew_is_known_in_the_scene(kept: Desk) -> None:
    await kept.head(CALM)
    listed = kept.chain.deployment.rules.markets[1]
    kept.chain.relist(replace(listed, market=max(kept.chain.deployment.rules.markets) + 1))
    await kept.head()
    kept.close()
    with closing(JournalReader(kept.path)) as reader:
        scene = await scene_at(reader, open_parts, None)
    assert scene.market.version == kept.chain.deployment.version
    assert len(scene.market.shape.columns) == len(HybridMarket(kept.chain.deployment).shape.columns)


async def test_the_nearest_are_told_with_the_price_and_the_slice(kept: Desk) -> None:
    await kept.head(CALM, replace(SUB, cash_wad=3_000 * WAD))
    kept.close()
    with closing(JournalReader(kept.path)) as reader:
        scene: Scene = await scene_at(reader, open_parts, None)
        found = nearest(reader, scene, 5)
        assert len(nearest(reader, scene, 1)) == 1
    assert [each["account"] for each in found] == ["0x" + SUB.key.hex(), "0x" + CALM.key.hex()]
    assert found[0]["sigmas"] < found[1]["sigmas"]
    assert [each["there"]["steps"][0]["act"] for each in found] == ["liquidate", "liquidate"]
    [first, _] = rows_of(found)
    assert first[7] == "liquidate, 3,751 in quote"


async def test_of_what_has_no_price_no_figures_are_told(kept: Desk) -> None:
    kept.feed.unknown.add("BTC/USD")
    idle = replace(CALM, key=b"\x0e" * 20 + bytes(12), legs=())
    await kept.head(CALM, idle)
    said = await asked(kept, "0x" + CALM.key.hex())
    assert (said["unpriced"], said["E"], said["M"]) == (True, None, None)
    assert "  It holds something without a price" in "\n".join(words_of(said))
    said = await asked(kept, "0x" + idle.key.hex())
    assert (said["unpriced"], said["M"]) == (False, 0)


async def test_the_keepers_own_account_is_said_to_be_that(kept: Desk) -> None:
    await story(kept)
    assert (await asked(kept, "0x" + KEEPER.hex()))["own"]


async def test_without_a_tape_the_journal_alone_speaks(kept: Desk) -> None:
    kept.taping = False
    kept.start()
    await kept.head(BREACHED)
    kept.close()
    with closing(JournalReader(kept.path)) as reader:
        said = explain(reader, "nothing on tape", KEY, None)
        assert said["without"] == "nothing on tape"
        assert "The journal alone speaks: nothing on tape." in list(words_of(said))
        with pytest.raises(ConfigError, match="is not known"):
            explain(reader, "nothing on tape", "0x" + CALM.key.hex(), None)


async def test_a_block_before_the_tape_is_refused(kept: Desk) -> None:
    await story(kept)
    kept.close()
    with (
        closing(JournalReader(kept.path)) as reader,
        pytest.raises(ConfigError, match="nothing on tape up to block 7"),
    ):
        await scene_at(reader, open_parts, 7)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("0x12", "is no account"),
        ("alice", "is no account"),
        ("0d" * 20, "is no account"),
        ("0x" + "0d" * 20 + ":x", "is no sub-account"),
        ("0x" + "0d" * 20 + f":{2**96}", "is no sub-account"),
        ("0x" + "0d" * 32 + ":1", "is no account"),
        ("0x" + "0e" * 20, "owner 0x0e.* is not known"),
        ("0x" + "0d" * 20 + ":8", "account 0x0d.*08 is not known"),
        ("0x" + "0d" * 20, "has 2 accounts, which one is meant"),
    ],
)
def test_what_names_no_account_is_refused(text: str, refusal: str) -> None:
    with pytest.raises(ConfigError, match=refusal):
        find(text, None, {CALM.key, SUB.key})


def test_accounts_are_named_in_three_ways() -> None:
    cases = {CALM.key, SUB.key, BREACHED.key}
    assert find("0x" + "0D" * 20 + ":7", None, cases) == SUB.key
    assert find("0x" + SUB.key.hex(), None, cases) == SUB.key
    assert find("0x" + BREACHED.key[:20].hex(), None, cases) == BREACHED.key
    assert parse(KEY) == (BREACHED.key, None)
