"""How fast a breach is worked off, and when an account at the edge is left alone."""

import pytest

from keeper.domain import ChainTime, Seen
from keeper.plan.pace import Kind, Pace
from keeper.plan.rest import Rest
from keeper.units import WAD, Wad

AT = ChainTime(100, 1_000)
ALARM = Seen(AT.timestamp_s - 60, WAD)
SEVERE = Pace(Kind.SEVERITY, share_wad=WAD // 4, full_fall_wad=WAD // 50)
CENT = WAD // 100


def test_plain_takes_the_same_share_whatever_happens() -> None:
    assert Pace().of(ALARM, WAD // 2, AT.timestamp_s) == WAD
    assert Pace(share_wad=WAD // 3).of(ALARM, WAD // 2, AT.timestamp_s) == WAD // 3


@pytest.mark.parametrize(
    ("alarm", "health", "share"),
    [
        (ALARM, WAD, WAD // 4),
        (ALARM, 2 * WAD, WAD // 4),
        (ALARM, 99 * CENT, 625 * WAD // 1_000),
        (ALARM, 98 * CENT, WAD),
        (ALARM, 50 * CENT, WAD),
        (Seen(AT.timestamp_s - 120, WAD), 98 * CENT, 625 * WAD // 1_000),
        (Seen(AT.timestamp_s, WAD), 50 * CENT, WAD // 4),
        (None, 50 * CENT, WAD // 4),
        (ALARM, 0, WAD),
        (ALARM, -1, WAD),
        (ALARM, None, WAD),
    ],
)
def test_severity_takes_more_where_health_has_fallen_faster(
    alarm: Seen | None, health: Wad | None, share: Wad
) -> None:
    assert SEVERE.of(alarm, health, AT.timestamp_s) == share


REST = Rest(rest_s=60, band_wad=CENT, block_time_s=12)


@pytest.mark.parametrize(
    ("closed", "health", "until_block"),
    [
        (None, 90 * CENT, None),
        (Seen(AT.timestamp_s - 60, 98 * CENT), 99 * CENT, None),
        (Seen(AT.timestamp_s - 59, 98 * CENT), 99 * CENT, 101),
        (Seen(AT.timestamp_s - 10, 98 * CENT), 99 * CENT, 105),
        (Seen(AT.timestamp_s - 10, 98 * CENT), 99 * CENT - 1, None),
        (Seen(AT.timestamp_s - 10, 120 * CENT), 119 * CENT, 105),
        (Seen(AT.timestamp_s - 10, 120 * CENT), 119 * CENT - 1, None),
        (Seen(AT.timestamp_s - 10, 98 * CENT), None, None),
    ],
)
def test_who_was_restored_rests_at_the_edge_until_the_time_is_over(
    closed: Seen | None, health: Wad | None, until_block: int | None
) -> None:
    found = REST.wait(closed, health, AT)
    assert (found.until_block if found else None) == until_block
    assert found is None or found.reason.rule == "size.rest"
