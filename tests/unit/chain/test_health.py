"""An endpoint's standing, and the local clock: pure, so that years pass in a test."""

import pytest

from keeper.chain.clock import HEADS, BlockClock
from keeper.chain.health import Standing


def standing() -> Standing:
    return Standing(shortest_pause_s=1, longest_pause_s=60)


def test_pauses_double_up_to_the_longest() -> None:
    it = standing()
    now_s = 0.0
    for pause_s in (1, 2, 4, 8, 16, 32, 60, 60):
        assert it.set_aside(now_s, "down") == pause_s
        assert not it.due(now_s + pause_s - 0.1)
        now_s += pause_s
        assert it.due(now_s)
    assert it.why == "down"


def test_many_faults_at_once_are_one() -> None:
    it = standing()
    assert [it.set_aside(0.5 * number, f"fault {number}") for number in range(3)] == [1, None, 2]
    assert it.why == "fault 2"


def test_old_faults_are_forgotten_after_a_long_time_without_one() -> None:
    it = standing()
    it.set_aside(0, "down")
    it.set_aside(2, "down")
    it.put_back(10)
    it.answered(11, 0.1)
    assert it.set_aside(12, "down") == 4
    it.put_back(20)
    it.answered(81, 0.1)
    assert it.set_aside(82, "down") == 1


def test_a_provider_s_own_wish_outlasts_the_pause() -> None:
    it = standing()
    it.set_aside(0, "HTTP 429")
    it.hush(30)
    it.hush(20)
    assert not it.due(29.9)
    assert it.due(30)


def test_noise_changes_no_order_and_a_factor_does() -> None:
    quick, noisy, slow, faulty = standing(), standing(), standing(), standing()
    for it, latency_s in ((quick, 0.002), (noisy, 0.006), (slow, 0.08), (faulty, 0.002)):
        it.answered(0, latency_s)
    faulty.set_aside(0, "down")
    faulty.put_back(1)
    assert quick.rank == noisy.rank < slow.rank
    assert quick.rank < faulty.rank


def test_an_answer_is_slow_beyond_four_deviations() -> None:
    it = standing()
    assert it.slow_after_s == 0
    for second in range(100):
        it.answered(second, 0.1 if second % 2 else 0.2)
    assert 0.2 < it.slow_after_s < 0.5
    it.outrun(3)
    assert it.slow_after_s > 3


def test_a_fault_fades_from_the_error_rate() -> None:
    it = standing()
    it.set_aside(0, "down")
    assert it.error_rate == pytest.approx(0.2)
    for second in range(20):
        it.answered(second, 0.1)
    assert it.error_rate < 0.01


# --- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ages_s", "off_s"),
    [
        ([0.3], 0),
        ([12.5], 0),
        ([14.0], 0),
        ([20.0], 0),
        ([20.0, 20.0], 6),
        ([-1.5], 0),
        ([-7.0], -5),
        ([400.0, 25.0, 30.0], 11),
        ([400.0, 2.0], 0),
        ([1.0, 1.0, -62.0], -60),
    ],
)
def test_a_clock_is_off_by_what_block_time_cannot_explain(ages_s: list[float], off_s: float) -> None:
    clock = BlockClock(12)
    for number, age_s in enumerate(ages_s):
        timestamp_s = 1_700_000_000 + 12 * number
        assert clock.heard(timestamp_s, timestamp_s + age_s) == clock.off_s
    assert clock.off_s == pytest.approx(off_s)


def test_a_clock_that_was_mended_is_believed_again() -> None:
    clock = BlockClock(12)
    clock.heard(100, 0)
    assert clock.off_s == -98
    for number in range(HEADS):
        off_s = clock.heard(200 + 12 * number, 201 + 12 * number)
        assert (off_s == 0) == (number == HEADS - 1)
