"""The parent-hash chain: what continues it, what a new head orphans, and where it stops."""

import pytest

from keeper.chain.branch import Branch, DeepReorg
from keeper.domain import Head


def head(number: int, fork: str = "a", parent: str | None = None) -> Head:
    """Block ``number`` of a fork; its parent is of the same fork unless said otherwise."""
    return Head(number, f"{fork}{number}", parent or f"{fork}{number - 1}", 0, 0)


def branch(first: int, last: int, depth: int = 64) -> Branch:
    return Branch([head(number) for number in range(first, last + 1)], first=last + 1, depth=depth)


def test_a_head_whose_parent_is_known_continues_the_branch() -> None:
    assert branch(1, 5).joins(head(6))
    assert branch(1, 5).joins(head(4, "b", parent="a3"))


def test_a_head_with_an_unknown_parent_needs_its_parent_first() -> None:
    assert not branch(1, 5).joins(head(7))
    assert not branch(1, 5).joins(head(5, "b"))


def test_the_heads_above_the_common_parent_are_orphaned_newest_first() -> None:
    orphaned = branch(1, 5).orphaned_by(head(4, "b", parent="a3"))
    assert [each.hash for each in orphaned] == ["a5", "a4"]
    assert branch(1, 5).orphaned_by(head(6)) == ()


def test_adopting_replaces_what_was_orphaned() -> None:
    known = branch(1, 5)
    known.adopt([head(4, "b", parent="a3"), head(5, "b")])
    assert [each.hash for each in known] == ["a1", "a2", "a3", "b4", "b5"]
    assert "a5" not in known
    assert known.tip_number == 5


def test_only_so_many_heads_are_remembered() -> None:
    known = branch(1, 5, depth=3)
    known.adopt([head(6)])
    assert [each.number for each in known] == [3, 4, 5, 6]


def test_a_reorg_as_deep_as_remembered_is_joined_and_one_deeper_is_not() -> None:
    known = branch(1, 10, depth=3)
    assert known.joins(head(8, "b", parent="a7"))
    assert not known.joins(head(9, "b"))
    with pytest.raises(DeepReorg, match="deeper than 3 blocks"):
        known.joins(head(8, "b"))


def test_a_seed_that_does_not_link_counts_from_its_last_break() -> None:
    known = Branch([head(1), head(2), head(4), head(5)], first=6, depth=64)
    assert [each.number for each in known] == [4, 5]


def test_an_empty_branch_begins_at_its_first_block_and_nowhere_below() -> None:
    empty = Branch([], first=3, depth=64)
    assert empty.tip_number == 2
    assert not empty.joins(head(4))
    assert empty.joins(head(3))
    assert empty.orphaned_by(head(3)) == ()
    with pytest.raises(DeepReorg):
        empty.joins(head(2))
