"""Whoever applies what a branch says, orphaned first, has the chain, for every history of reorgs and gaps."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from keeper.chain.branch import Branch
from keeper.domain import Head

DEPTH = 6
MOVES = st.lists(st.tuples(st.integers(0, DEPTH), st.integers(1, 4)), max_size=25)


@given(MOVES)
def test_orphaned_and_adopted_heads_rebuild_every_new_chain(moves: list[tuple[int, int]]) -> None:
    names = count()
    blocks = {"0": Head(0, "0", "", 0, 0)}
    chain = ["0"]
    branch = Branch(blocks.values(), first=1, depth=DEPTH)
    mirrored = ["0"]
    for dropped, added in moves:
        known = len(list(branch))
        del chain[len(chain) - min(dropped, known - 1) :]
        for name in (f"b{next(names)}" for _ in range(added)):
            blocks[name] = Head(len(chain), name, chain[-1], 0, 0)
            chain.append(name)

        line = [blocks[chain[-1]]]
        while not branch.joins(line[-1]):
            line.append(blocks[line[-1].parent_hash])
        for orphan in branch.orphaned_by(line[-1]):
            assert mirrored.pop() == orphan.hash
        branch.adopt(line[::-1])
        mirrored += [head.hash for head in line[::-1]]

        assert mirrored == chain
        remembered = [head.hash for head in branch]
        assert remembered == chain[-len(remembered) :]
        assert len(remembered) == min(DEPTH + 1, known - min(dropped, known - 1) + added)
