"""The mirror against the chain: whatever differs is found in its turn, told with both values, and healed."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from keeper.domain import Account, Call
from keeper.errors import ChainFault
from keeper.pipeline import Params
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, KEEPER, Chain, Desk, cured

ACCOUNTS = [replace(cured(BREACHED), key=bytes([number]) * 20 + bytes(12)) for number in range(60, 75)]


async def checked(desk: Desk, *, blocks: int, rows: int) -> None:
    """Take up the accounts, then check so many of them every so many blocks."""
    await desk.head(*ACCOUNTS)
    desk.pipeline.mirror._params = replace(desk.pipeline.mirror._params, check_blocks=blocks, check_rows=rows)


def hide(desk: Desk, account: Account) -> Account:
    """Change an account on chain without an event."""
    changed = replace(account, cash_wad=account.cash_wad + 1)
    desk.chain.accounts[account.key] = changed
    return changed


async def test_every_account_has_its_turn(kept: Desk) -> None:
    await checked(kept, blocks=2, rows=4)
    kept.chain.read.clear()
    for _ in range(8):
        await kept.head()
    read = [key for key in kept.chain.read if key != KEEPER]
    assert set(read) >= {each.key for each in ACCOUNTS}
    assert len(read) <= 4 * 4
    assert kept.pipeline.vitals.degraded is None
    assert kept.pipeline.vitals.differences == 0


async def test_a_difference_of_one_wei_is_found_told_and_healed(kept: Desk) -> None:
    await checked(kept, blocks=1, rows=4)
    before = ACCOUNTS[7]
    after = hide(kept, before)
    with capture_logs() as said:
        while kept.pipeline.vitals.differences == 0:
            assert kept.pipeline.vitals.degraded is None
            await kept.head()
    assert "1 accounts differed" in (kept.pipeline.vitals.degraded or "")
    assert [each["log_level"] for each in said if each["event"] == "mirror.differs"] == ["error"]
    assert kept.pipeline.mirror.book.exact(before.key) == after
    [row] = kept.journal._rows("SELECT * FROM differences")
    assert (row["account"], row["block"]) == (before.key, kept.chain.tip.number)
    cash = [json.loads(row[side])["cash_wad"] for side in ("mirror", "chain")]
    assert cash == [before.cash_wad, after.cash_wad]


async def test_a_degraded_keeper_checks_the_whole_book_at_the_next_head_and_is_well_again(kept: Desk) -> None:
    await checked(kept, blocks=1, rows=16)
    hide(kept, ACCOUNTS[3])
    await kept.head()
    said = [kept.pipeline.vitals.degraded]
    hide(kept, ACCOUNTS[5])
    await kept.head()
    said.append(kept.pipeline.vitals.degraded)
    assert None not in said
    with capture_logs() as logs:
        await kept.head()
    assert kept.pipeline.vitals.degraded is None
    assert "mirror.healed" in {each["event"] for each in logs}
    assert kept.pipeline.vitals.differences == 2


class Spoilt:
    """Spoils requests of a chain, in the order in which they are sent."""

    def __init__(self, chain: Chain, *, failing: Collection[int] = (), cut: Collection[int] = ()) -> None:
        self.asked: list[int] = []
        """How many calls each request held."""
        self._call_many, self._failing, self._cut = chain.call_many, failing, cut
        chain.call_many = self  # type: ignore[method-assign]

    async def __call__(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        self.asked += [len(calls)] if calls else []
        if len(self.asked) in self._failing:
            raise ChainFault("call_many: no answer")
        answers = await self._call_many(calls, at_hash)
        return [*answers[:-1], answers[-1][:-1]] if len(self.asked) in self._cut else answers


@pytest.mark.parametrize(
    ("failing", "cut", "requests"),
    [({1}, (), [4, 3, 4, 1]), ((), {1}, [4, 3, 4, 1]), ({2}, (), [4, 1, 3, 1])],
)
async def test_a_check_that_fails_holds_nothing_up_and_is_made_up_for(
    kept: Desk, failing: set[int], cut: set[int], requests: list[int]
) -> None:
    await checked(kept, blocks=1, rows=16)
    after = hide(kept, ACCOUNTS[3])
    spoilt = Spoilt(kept.chain, failing=failing, cut=cut)
    with capture_logs() as said:
        await kept.head()
    assert "mirror.unchecked" in {each["event"] for each in said}
    assert kept.journal.last_head() == kept.chain.tip
    await kept.head()
    assert kept.pipeline.vitals.differences == 1
    assert kept.pipeline.mirror.book.exact(ACCOUNTS[3].key) == after
    assert spoilt.asked[: len(requests)] == requests


async def test_what_is_checked_comes_with_the_reads_of_the_head(kept: Desk) -> None:
    await checked(kept, blocks=3, rows=16)
    asked = Spoilt(kept.chain).asked
    for _ in range(6):
        await kept.head()
    assert asked == [3, 3, 4, 3, 3, 4], "prices, credit, the keeper's row; and now and then some others"
    assert kept.pipeline.vitals.checked == 2 * 16


async def test_what_many_checks_ask_for_keeps_nobody_waiting(kept: Desk) -> None:
    await checked(kept, blocks=1, rows=16)
    hide(kept, ACCOUNTS[3])
    await kept.head()
    asked = Spoilt(kept.chain).asked
    await kept.head(replace(BREACHED, key=ACCOUNTS[9].key))
    assert kept.acts() == ["flag"]
    assert asked == [3, 1], "the check of a degraded keeper comes after the acts, by itself"


async def test_what_changed_with_an_event_is_no_difference(kept: Desk) -> None:
    await checked(kept, blocks=1, rows=16)
    for number in range(8):
        await kept.head(replace(ACCOUNTS[number], cash_wad=(number + 9_000) * WAD))
    await kept.head(reorg=3)
    assert kept.pipeline.vitals.differences == 0


async def test_a_page_of_other_accounts_than_asked_for_is_not_believed(kept: Desk) -> None:
    await checked(kept, blocks=100, rows=16)
    hide(kept, ACCOUNTS[0])
    kept.chain.misread = lambda _: [ACCOUNTS[0].key]
    with pytest.raises(ChainFault, match="expected the rows of 1 accounts asked for"):
        await kept.head()
    assert kept.pipeline.mirror.book.exact(ACCOUNTS[0].key) == ACCOUNTS[0]


async def test_a_check_that_is_answered_with_nothing_is_no_check(kept: Desk) -> None:
    await checked(kept, blocks=1, rows=16)
    hide(kept, ACCOUNTS[3])
    kept.chain.misread = lambda keys: [key for key in keys if key == KEEPER]
    with capture_logs() as said:
        await kept.head()
        await kept.head()
    assert [each["event"] for each in said].count("mirror.unchecked") == 2
    kept.chain.misread = lambda keys: keys
    await kept.head()
    assert kept.pipeline.vitals.differences == 1


async def test_the_doubt_outlives_a_restart_until_a_whole_round_is_clean(kept: Desk) -> None:
    await checked(kept, blocks=1, rows=16)
    hide(kept, ACCOUNTS[3])
    await kept.head()
    for _ in range(2):
        kept.start()
        assert kept.pipeline.vitals.degraded == "1 differences before the start, and no clean round since"
    await kept.head()
    assert kept.pipeline.vitals.degraded is None
    kept.start()
    assert kept.pipeline.vitals.degraded is None


def test_every_two_minutes_is_the_default() -> None:
    assert Params().check_blocks * Params().block_time_s == 120
