"""What is told, and what is only counted."""

from keeper.alerts.notices import Params, Sieve
from keeper.ports import Notice


def notice(rung: str, about: str = "0xa", *, recovered: bool = False) -> Notice:
    return Notice(about, rung, f"{about} {rung}", recovered)


def test_a_rung_is_told_once_until_it_is_left() -> None:
    sieve = Sieve(Params())
    said = ["called", "called", "suspected", "suspected", "called"]
    assert [sieve.take(notice(rung), 0) is not None for rung in said] == [True, False, True, False, True]
    assert sieve.take(notice("suspected", "0xb"), 0) is not None


def test_a_recovery_is_told_where_its_trouble_was_and_ends_it() -> None:
    sieve = Sieve(Params())
    over = notice("closed", recovered=True)
    assert sieve.take(over, 0) is None
    assert sieve.take(notice("called"), 0) is not None
    assert sieve.take(over, 0) is over
    assert sieve.take(over, 0) is None
    assert sieve.take(notice("called"), 0) is not None


def test_a_burst_is_bounded_and_the_rest_is_summed_up_in_one() -> None:
    sieve = Sieve(Params(burst=3, every_s=10))
    taken = [sieve.take(notice("called", f"0x{number}"), 0.0) for number in range(200_000)]
    assert sum(each is not None for each in taken) == 3
    assert sieve.take(notice("suspected", "0xb"), 0.0) is None
    assert sieve.summary(5.0) is None
    assert sieve.summary(10.0) == "and 199998 more: 199997 called, 1 suspected"
    assert sieve.summary(100.0) is None
    assert sieve.take(notice("called", "0xc"), 100.0) is not None
