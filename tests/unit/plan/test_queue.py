"""Who goes first, whatever is claimed."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from keeper.plan.queue import Claim, ordered

AT = 1_000
OLD = 25
claims = st.lists(
    st.builds(
        Claim,
        account=st.binary(min_size=2, max_size=2),
        since_block=st.none() | st.integers(900, AT),
        harm=st.floats(0, 1e6),
        depth=st.floats(0, 1e9),
    ),
    unique_by=lambda claim: claim.account,
    max_size=12,
)


def is_old(claim: Claim) -> bool:
    return claim.since_block is not None and AT - claim.since_block > OLD


@given(claims)
def test_old_cases_come_first_and_the_oldest_before_the_others(found: list[Claim]) -> None:
    order = ordered(found, AT, old_blocks=OLD)
    ages = [claim.since_block for claim in order if is_old(claim)]
    assert [is_old(claim) for claim in order] == sorted(map(is_old, order), reverse=True)
    assert ages == sorted(ages, key=lambda block: block or 0)


@given(claims)
def test_more_harm_per_depth_comes_before_less(found: list[Claim]) -> None:
    young = [claim for claim in ordered(found, AT, old_blocks=OLD) if not is_old(claim)]
    for first, second in pairwise(young):
        if second.harm > 0 and first.depth > 0 and second.depth > 0:
            assert first.harm / first.depth >= second.harm / second.depth


@given(claims, st.randoms(use_true_random=False))
def test_the_order_is_total_and_no_matter_how_claims_come(found: list[Claim], shuffle: st.DataObject) -> None:
    order = ordered(found, AT, old_blocks=OLD)
    assert sorted(order, key=lambda claim: claim.account) == sorted(found, key=lambda claim: claim.account)
    again = list(found)
    shuffle.shuffle(again)  # type: ignore[attr-defined]
    assert ordered(again, AT, old_blocks=OLD) == order


def test_what_needs_no_depth_goes_before_what_does_and_no_harm_comes_last() -> None:
    free, dear, idle = Claim(b"a", None, 1.0, 0.0), Claim(b"b", None, 9.0, 1.0), Claim(b"c", None, 0.0, 0.0)
    assert ordered([idle, dear, free], AT) == [free, dear, idle]
