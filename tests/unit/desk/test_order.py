"""In which order accounts are judged, by what their rows say."""

from keeper.desk.order import RANKED, ordered
from keeper.domain import ChainTime
from keeper.units import AccountKey
from tests.unit.protocols.perp_curie.perps import MARKET, NOW_S, account, book_of, key, world

AT = ChainTime(1_000, NOW_S)
SMALL_AND_LOW = account(1, 0, {0: (1, -2_000)})
"""Nothing is left of it: all of its requirement is missing."""
LARGE_AND_NEAR = account(2, 1_200, {0: (10, -20_000)})
FINE = account(3, 9_000, {0: (10, -20_000)})


def order(cases: dict[AccountKey, ChainTime], *accounts: AccountKey, old_blocks: int = 25) -> list[bytes]:
    book, seen = book_of(SMALL_AND_LOW, LARGE_AND_NEAR, FINE), world(2_000)
    return ordered(
        accounts,
        cases,
        book=book,
        snapshot=book.freeze(),
        marks=MARKET.marks(seen, {}, NOW_S),
        at=AT,
        old_blocks=old_blocks,
    )


def test_more_harm_per_depth_goes_before_less_however_large_the_account_is() -> None:
    assert order({}, key(3), key(2), key(1)) == [key(1), key(2), key(3)]


def test_an_old_case_goes_before_all_others() -> None:
    cases = {key(3): ChainTime(974, 0), key(2): ChainTime(975, 0)}
    assert order(cases, key(1), key(2), key(3)) == [key(3), key(1), key(2)]


def test_an_account_that_was_never_read_is_judged_all_the_same_and_each_once() -> None:
    assert order({}, key(8), key(1), key(1)) == [key(1), key(8)]
    assert order({}) == []


def test_beyond_those_that_are_ranked_only_old_cases_move_forward() -> None:
    crowd = [key(number) for number in range(100, 100 + RANKED)]
    found = order({key(3): ChainTime(1, 0)}, *crowd, key(1), key(3))
    assert found[0] == key(3)
    assert found[1:] == [*crowd, key(1)]
