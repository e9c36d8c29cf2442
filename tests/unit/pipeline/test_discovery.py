"""What a start knows: from the journal, from the book on disk, and from the blocks that neither has seen."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from keeper.domain import Account, Call
from keeper.errors import ChainFault, ConfigError
from keeper.pipeline import SETTLED, Shelf, mirror
from keeper.ports import Searched
from keeper.state.book import Book
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, EMPTY, FIRST, KEEPER, MARKET, Desk, cured

OLD = replace(cured(BREACHED), key=b"\x21" * 20 + bytes(12))
LATER = replace(cured(BREACHED), key=b"\x22" * 20 + bytes(12))


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "book.snapshot", 31337, "0xreader", every_blocks=10_000)


def grow(desk: Desk, *blocks: Account | None) -> None:
    """Add blocks that nobody looks at, each with an account that it touches, or with none."""
    for account in blocks:
        desk.chain.extend()
        if account is not None:
            desk.chain.put(account)


def held(desk: Desk) -> dict[bytes, object]:
    book = desk.pipeline.mirror.book
    return {key: book.exact(key) for key in book.keys.tolist()}


async def test_an_account_of_the_first_block_is_found_however_long_ago_it_was(kept: Desk) -> None:
    grow(kept, OLD, *[None] * 3 * SETTLED)
    kept.chain.span = 10
    await kept.hear()
    assert held(kept) == kept.chain.accounts


async def test_what_was_searched_is_never_searched_again_however_often_the_keeper_is_killed(
    kept: Desk,
) -> None:
    grow(kept, OLD, *[None] * 3 * SETTLED)
    kept.chain.span, kept.from_block = 10, FIRST

    class Killed:
        def at(self, done: int, of: int) -> None:
            raise KeyboardInterrupt(done, of)

    settled = kept.chain.tip.number - SETTLED
    for _ in range(FIRST, settled, 10):
        with pytest.raises(KeyboardInterrupt):
            await kept.pipeline.discover(FIRST, kept.chain.tip, progress=Killed())
        kept.start()
    await kept.hear()
    assert [low for low, _ in kept.chain.searched] == list(range(FIRST, settled + 1, 10))
    assert held(kept) == kept.chain.accounts
    assert kept.journal.searched() == Searched(FIRST, settled, await kept.chain.hash_at(settled) or "")


async def test_the_cursor_follows_the_head_and_a_restart_searches_what_came_since(kept: Desk) -> None:
    kept.from_block = FIRST
    grow(kept, OLD)
    for _ in range(SETTLED + 5):
        await kept.head()
    searched = kept.journal.searched()
    assert searched is not None
    assert searched.last == kept.chain.tip.number - SETTLED
    grow(kept, LATER, *[None] * SETTLED)
    kept.chain.searched.clear()
    kept.start()
    await kept.hear()
    assert kept.chain.searched == [(searched.last + 1, kept.chain.tip.number - SETTLED)]
    assert held(kept) == kept.chain.accounts


async def test_a_search_of_another_chain_begins_anew(kept: Desk) -> None:
    kept.from_block = FIRST
    grow(kept, OLD, *[None] * SETTLED)
    await kept.hear()
    kept.journal.note_found([], Searched(FIRST, FIRST + 1, "0xelsewhere"))
    kept.chain.searched.clear()
    kept.start()
    with capture_logs() as said:
        await kept.hear()
    assert "search.begins_anew" in {each["event"] for each in said}
    assert kept.chain.searched[0][0] == FIRST


@pytest.mark.parametrize(
    ("before", "now", "begins_anew"),
    [
        ("a b", "a b", False),
        ("a b", "b", False),
        ("", "a b", False),
        ("a b", "a b c", True),
        ("b", "a", True),
    ],
    ids=["the same", "fewer", "from before it was noted", "one more", "another"],
)
async def test_a_market_that_was_not_searched_for_has_the_search_begin_anew(
    kept: Desk, before: str, now: str, *, begins_anew: bool
) -> None:
    kept.from_block = FIRST
    kept.scope = before
    kept.start()
    grow(kept, OLD, *[None] * SETTLED)
    await kept.hear()
    kept.chain.searched.clear()
    kept.scope = now
    for _ in range(2):
        kept.start()
        await kept.head()
    searched = kept.journal.searched()
    assert searched is not None
    assert searched.scope == now
    assert [first for first, _ in kept.chain.searched].count(FIRST) == begins_anew


async def test_a_first_block_further_back_has_it_searched(kept: Desk) -> None:
    grow(kept, OLD, *[None] * 2 * SETTLED)
    kept.from_block = FIRST + 50
    await kept.hear()
    assert OLD.key not in kept.pipeline.mirror.book
    kept.from_block = FIRST
    kept.start()
    await kept.hear()
    assert held(kept) == kept.chain.accounts


# --- the book on disk ----------------------------------------------------------------------------


async def test_a_restart_reads_again_only_what_changed_since_the_book_was_written(
    kept: Desk, shelf: Shelf
) -> None:
    kept.shelf = shelf
    kept.start()
    grow(kept, OLD, LATER, *[None] * SETTLED)
    await kept.hear()
    kept.pipeline.save()
    grow(kept, replace(LATER, cash_wad=7 * WAD), *[None] * 2 * SETTLED)
    kept.chain.read.clear()
    kept.start()
    await kept.hear()
    assert set(kept.chain.read) == {LATER.key, KEEPER}
    assert held(kept) == kept.chain.accounts


async def test_a_book_of_a_block_that_is_gone_is_read_again_whole(kept: Desk, shelf: Shelf) -> None:
    kept.shelf = shelf
    kept.start()
    grow(kept, OLD, *[None] * SETTLED)
    await kept.head(LATER)
    kept.pipeline.save()
    kept.chain.cut(1)
    kept.chain.accounts[LATER.key] = replace(EMPTY, key=LATER.key)
    grow(kept, None, None)
    kept.start()
    await kept.hear()
    assert held(kept) == kept.chain.accounts


async def test_the_book_is_written_now_and_then(kept: Desk, shelf: Shelf) -> None:
    kept.shelf = replace(shelf, every_blocks=3)
    kept.start()
    blocks = []
    for _ in range(7):
        await kept.head()
        _, stamp = Book.load(shelf.path, MARKET.shape, chain_id=31337, deployment="0xreader")
        blocks.append(stamp.block - FIRST)
    assert blocks == [1, 1, 1, 4, 4, 4, 7]


async def test_a_book_of_ones_own_that_is_damaged_is_passed_over_aloud(kept: Desk, shelf: Shelf) -> None:
    shelf.path.write_bytes(b"not a book")
    kept.shelf = shelf
    kept.start()
    grow(kept, OLD)
    with capture_logs() as said:
        await kept.hear()
    assert "book.unusable" in {each["event"] for each in said}
    assert held(kept) == kept.chain.accounts


async def test_a_new_keeper_starts_from_a_published_book(kept: Desk, shelf: Shelf, tmp_path: Path) -> None:
    grow(kept, OLD, *[None] * 2 * SETTLED)
    kept.shelf = shelf
    kept.start()
    await kept.hear()
    kept.pipeline.save()
    published = shelf.path.rename(tmp_path / "published")
    written_at = kept.chain.tip.number
    grow(kept, LATER, *[None] * 2 * SETTLED)
    kept.path, kept.published = tmp_path / "new.sqlite", published
    kept.chain.searched.clear()
    for _ in range(2):
        # A second start has the accounts in its journal, and needs the published book no more.
        kept.start()
        await kept.hear()
        assert held(kept) == kept.chain.accounts
        kept.published = None
    assert kept.chain.searched[0][0] == written_at + 1


async def test_a_published_book_that_is_damaged_is_refused(kept: Desk, shelf: Shelf, tmp_path: Path) -> None:
    kept.shelf, kept.published = shelf, tmp_path / "published"
    kept.published.write_bytes(b"not a book")
    kept.start()
    with pytest.raises(ConfigError, match="published is not a book"):
        await kept.hear()


# --- the first read ------------------------------------------------------------------------------


async def test_a_first_read_folds_each_group_before_it_asks_for_the_next(
    kept: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.pipeline.mirror._params = replace(kept.pipeline.mirror._params, page=2)
    monkeypatch.setattr(mirror, "GROUP", 3)
    accounts = [replace(OLD, key=bytes([number]) * 20 + bytes(12)) for number in range(60, 90)]
    grow(kept, *accounts)
    most, known = 0, []
    call_many = kept.chain.call_many

    async def watched(calls: Sequence[Call], at_hash: str) -> list[bytes]:
        nonlocal most
        most = max(most, len(calls))
        known.append(len(kept.pipeline.mirror.book))
        return await call_many(calls, at_hash)

    monkeypatch.setattr(kept.chain, "call_many", watched)
    await kept.hear()
    assert most == 3 + 2
    assert known == [0, 6, 12, 18, 24, 30]
    assert held(kept) == kept.chain.accounts


async def test_a_fault_between_two_groups_reads_only_the_rest_again(
    kept: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.pipeline.mirror._params = replace(kept.pipeline.mirror._params, page=2)
    monkeypatch.setattr(mirror, "GROUP", 3)
    grow(kept, *[replace(OLD, key=bytes([number]) * 20 + bytes(12)) for number in range(60, 90)])
    call_many, asked = kept.chain.call_many, 0

    async def fails_once(calls: Sequence[Call], at_hash: str) -> list[bytes]:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise ChainFault("no answer")
        return await call_many(calls, at_hash)

    monkeypatch.setattr(kept.chain, "call_many", fails_once)
    with pytest.raises(ChainFault):
        await kept.hear()
    kept.chain.read.clear()
    await kept.head()
    assert len(kept.chain.read) < 30
    assert held(kept) == kept.chain.accounts


@pytest.mark.parametrize("gone", [True, False])
async def test_a_book_whose_block_goes_before_anybody_follows_the_chain_is_read_again(
    kept: Desk, shelf: Shelf, gone: bool
) -> None:
    kept.shelf = shelf
    kept.start()
    grow(kept, OLD, *[None] * SETTLED)
    await kept.head(LATER)
    kept.pipeline.save()
    kept.start()
    first = await kept.pipeline.discover(0, kept.chain.tip)
    if gone:
        kept.chain.cut(1)
        del kept.chain.accounts[LATER.key]
    grow(kept, None, None)
    kept.chain.read.clear()
    kept.discovered = True
    await kept.hear((), [each for each in kept.chain.heads if each.number >= first])
    assert (OLD.key in kept.chain.read) == gone, "all is read again, and only where it must be"
    assert held(kept)[LATER.key] == (replace(EMPTY, key=LATER.key) if gone else LATER)
