"""The mirror against the chain: whatever differs is found in its turn, told with both values, and healed."""

import json
from dataclasses import replace

from structlog.testing import capture_logs

from keeper.domain import Account
from keeper.pipeline import Params
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, KEEPER, Desk, cured

ACCOUNTS = [replace(cured(BREACHED), key=bytes([number]) * 20 + bytes(12)) for number in range(60, 75)]


async def checked(desk: Desk, *, blocks: int, rows: int) -> None:
    """Take up the accounts, then check so many of them every so many blocks."""
    await desk.head(*ACCOUNTS)
    desk.pipeline._params = replace(desk.pipeline._params, check_blocks=blocks, check_rows=rows)


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
    assert kept.pipeline._book.exact(before.key) == after
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


async def test_a_check_that_fails_holds_nothing_up_and_is_made_up_for(kept: Desk) -> None:
    await checked(kept, blocks=1, rows=16)
    hide(kept, ACCOUNTS[3])
    call_many, asked = kept.chain.call_many, 0

    async def fails(calls: list[object], at_hash: str) -> list[bytes]:
        nonlocal asked
        asked += 1
        kept.chain.fails += ["call_many"] if asked == 2 else []
        return await call_many(calls, at_hash)  # type: ignore[arg-type]

    kept.chain.call_many = fails  # type: ignore[method-assign, assignment]
    with capture_logs() as said:
        await kept.head()
    assert "mirror.unchecked" in {each["event"] for each in said}
    assert kept.journal.last_head() == kept.chain.tip
    await kept.head()
    assert kept.pipeline.vitals.differences == 1


async def test_what_changed_with_an_event_is_no_difference(kept: Desk) -> None:
    await checked(kept, blocks=1, rows=16)
    for number in range(8):
        await kept.head(replace(ACCOUNTS[number], cash_wad=(number + 9_000) * WAD))
    await kept.head(reorg=3)
    assert kept.pipeline.vitals.differences == 0


def test_every_two_minutes_is_the_default() -> None:
    assert Params("ETH/USD").check_blocks * Params("ETH/USD").block_time_s == 120
