"""Parts of a deployment's accounts: each account is in one of them, with all that its owner has."""

from hypothesis import given
from hypothesis import strategies as st

from keeper.state.part import WHOLE, Part

ACCOUNTS = st.binary(min_size=32, max_size=32)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    of = draw(st.integers(1, 12))
    return Part(draw(st.integers(1, of)), of)


@given(ACCOUNTS, st.integers(1, 99))
def test_each_account_is_in_one_part_of_any_number(account: bytes, of: int) -> None:
    assert sum(account in Part(number, of) for number in range(1, of + 1)) == 1
    assert account in WHOLE


@given(ACCOUNTS, st.binary(min_size=12, max_size=12), parts())
def test_all_accounts_of_an_owner_are_in_the_same_part(account: bytes, sub: bytes, part: Part) -> None:
    assert (account in part) == (account[:20] + sub in part)


@given(parts(), parts())
def test_two_parts_meet_exactly_where_an_account_is_in_both(one: Part, other: Part) -> None:
    owners = [number.to_bytes(20) + bytes(12) for number in range(one.of * other.of)]
    assert one.meets(other) == any(each in one and each in other for each in owners)


@given(st.lists(ACCOUNTS), parts())
def test_what_is_picked_is_what_is_in_the_part_in_its_order(accounts: list[bytes], part: Part) -> None:
    assert list(part.pick(accounts)) == [each for each in accounts if each in part]
