"""A keeper of one part of a deployment: of the accounts of other wallets it reads and journals nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keeper.domain import Account
from keeper.pipeline import SETTLED, Shelf
from keeper.state.book import Book
from keeper.state.part import WHOLE, Part
from tests.unit.pipeline.desk import BREACHED, FIRST, KEEPER, MARKET, Desk, cured

HALVES = Part(1, 2), Part(2, 2)
EVEN, ODD = (replace(BREACHED, key=bytes(19) + bytes([last]) + bytes(12)) for last in (0x22, 0x23))
LATER = {Part(1, 2): bytes(19) + b"\x44" + bytes(12), Part(2, 2): bytes(19) + b"\x45" + bytes(12)}


def known(desk: Desk) -> set[bytes]:
    return {*desk.pipeline.mirror.book.keys.tolist()}


async def kept_by(desk: Desk, part: Part, *accounts: Account) -> None:
    """Start a keeper of a part after some accounts were found on chain."""
    desk.part = part
    desk.start()
    desk.from_block = FIRST
    for each in accounts:
        desk.chain.extend()
        desk.chain.put(each)
    for _ in range(SETTLED):
        desk.chain.extend()
    await desk.hear()


async def test_each_account_is_under_the_care_of_one_keeper_only(tmp_path: Path) -> None:
    cared = []
    for number, part in enumerate(HALVES):
        desk = Desk(tmp_path / f"{number}.sqlite", restarting=False)
        await kept_by(desk, part, EVEN, ODD)
        await desk.head(replace(BREACHED, key=LATER[HALVES[0]]), replace(BREACHED, key=LATER[HALVES[1]]))
        cared.append({case.account for case in desk.journal.open_cases()})
        assert known(desk) == {KEEPER, *cared[-1]}
        assert {each for page in desk.journal.found() for each in page} - {KEEPER} == cared[-1]
        assert desk.chain.sent
        desk.close()
    assert cared == [{EVEN.key, LATER[HALVES[0]]}, {ODD.key, LATER[HALVES[1]]}]


async def test_a_reorg_and_a_restart_bring_back_no_account_of_another_part(kept: Desk) -> None:
    await kept_by(kept, HALVES[0], EVEN, cured(ODD))
    await kept.head(ODD, EVEN)
    await kept.head(ODD, EVEN, reorg=1)
    assert known(kept) == {KEEPER, EVEN.key}
    kept.start()
    await kept.hear()
    assert known(kept) == {KEEPER, EVEN.key}
    assert {case.account for case in kept.journal.open_cases()} == {EVEN.key}


async def test_the_account_that_takes_positions_over_is_read_whatever_its_part(kept: Desk) -> None:
    other = HALVES[KEEPER in HALVES[0]]
    await kept_by(kept, other, EVEN, ODD)
    assert isinstance(kept.pipeline.mirror.book.exact(KEEPER), Account)


async def test_a_book_of_a_part_is_not_taken_for_the_whole(kept: Desk, tmp_path: Path) -> None:
    path = tmp_path / "book"
    kept.shelf = Shelf(path, 31337, "0xreader part 1/2", every_blocks=10_000)
    await kept_by(kept, HALVES[0], EVEN, ODD)
    kept.pipeline.save()
    book, _ = Book.load(path, MARKET.shape, chain_id=31337, deployment="0xreader part 1/2")
    assert {*book.keys.tolist()} == {KEEPER, EVEN.key}
    whole = Desk(tmp_path / "whole.sqlite", restarting=False, chain=kept.chain)
    whole.shelf = replace(kept.shelf, deployment="0xreader")
    await kept_by(whole, WHOLE)
    assert known(whole) == {KEEPER, EVEN.key, ODD.key}
    whole.close()
