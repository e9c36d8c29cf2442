"""How far a search is, and how long the rest will take."""

from structlog.testing import capture_logs

from keeper.progress import LOG_EVERY_S, WINDOW_S, Blocks, Pace


def test_the_time_left_follows_the_pace_of_the_last_minute() -> None:
    pace = Pace()
    assert pace.left_s(0, 0, 1_000) is None
    assert pace.left_s(10, 100, 1_000) == 90
    left_s = [pace.left_s(second, 100 + second // 10, 1_000) for second in range(20, 200, 10)]
    assert left_s[-1] == (1_000 - 119) * WINDOW_S / 6


def test_without_a_terminal_it_is_logged_now_and_then_and_at_the_end() -> None:
    now_s = [0.0]
    blocks = Blocks(None, clock=lambda: now_s[0])
    with capture_logs() as said:
        for done in range(1, 31):
            now_s[0] += LOG_EVERY_S / 5
            blocks.at(done, 31)
        blocks.at(31, 31)
    assert [each["blocks"] for each in said] == [5, 10, 15, 20, 25, 30, 31]
    assert said[0]["left_s"] == 52
