"""For any weather the mirror is the chain: blocks, reorgs, faults, kills and books on disk in any order."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keeper.domain import Account
from keeper.errors import ChainFault
from keeper.pipeline import Shelf, mirror
from keeper.units import WAD
from tests.unit.pipeline.desk import BREACHED, EMPTY, FIRST, KEEPER, Desk, cured

NOBODY = Account(bytes(32), EMPTY.phase, 0, (), ())
KEYS = [bytes([number]) * 20 + bytes(12) for number in range(60, 66)]

CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 10**6)), max_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("block"), CHANGES),
        st.tuples(st.just("unseen"), CHANGES),
        st.tuples(st.just("reorg"), st.integers(1, 6)),
        st.tuples(st.just("away"), st.integers(1, 6)),
        st.tuples(st.just("fault"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("stop"), st.just(0)),
        st.tuples(st.just("lose the book"), st.just(0)),
    ),
    max_size=24,
)


class World:
    """A desk whose chain knows the state of every account at every block of its branch."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder / "journal.sqlite", restarting=False)
        self.desk.from_block = FIRST
        self.desk.shelf = Shelf(folder / "book", 31337, "0xreader", every_blocks=4)
        self.desk.start()
        self.states = [dict(self.desk.chain.accounts)]
        self.pending: tuple[list, list] = ([], [])  # type: ignore[type-arg]

    def block(self, changes: list[tuple[bytes, int]]) -> None:
        chain = self.desk.chain
        self.pending[1].append(chain.extend())
        for key, cash in changes:
            chain.put(replace(cured(BREACHED), key=key, cash_wad=9_000 * WAD + cash))
        self.states.append(dict(chain.accounts))

    def cut(self, depth: int) -> None:
        chain = self.desk.chain
        depth = min(depth, len(chain.heads) - 1)
        if depth == 0:
            return
        orphaned, adopted = self.pending
        gone = chain.cut(depth)
        del self.states[-depth:]
        chain.accounts = dict(self.states[-1])
        for head in gone:
            if head in adopted:
                adopted.remove(head)
            else:
                orphaned.append(head)
        for _ in range(depth + 1):
            self.block([])

    async def hear(self) -> None:
        orphaned, adopted = self.pending
        self.pending = ([], [])
        await self.desk.hear(orphaned, adopted)

    def start(self) -> None:
        self.pending = ([], [])
        self.desk.start()

    async def step(self, what: str, how: object) -> None:
        if what in {"block", "unseen"}:
            self.block(how)  # type: ignore[arg-type]
        elif what in {"reorg", "away"}:
            self.cut(how)  # type: ignore[arg-type]
        elif what == "fault":
            self.block([])
            # Twice: where accounts are to be checked as well, the read is tried once more without them.
            self.desk.chain.fails += ["call_many", "call_many"]
            with pytest.raises(ChainFault):
                await self.hear()
            self.desk.chain.fails.clear()
            return
        elif what == "stop":
            self.desk.pipeline.save()
            self.start()
        elif what == "kill":
            self.start()
        elif self.desk.shelf:
            self.desk.shelf.path.unlink(missing_ok=True)
        if what in {"block", "reorg"}:
            await self.hear()

    def mirror(self) -> dict[bytes, object]:
        book = self.desk.pipeline.mirror.book
        return {key: book.exact(key) for key in book.keys.tolist()}

    def chain(self) -> dict[bytes, Account]:
        """Return what a fresh reading would find of the accounts that the mirror has, and of all touched."""
        known = self.desk.chain.accounts
        keys = known.keys() | set(self.mirror())
        return {key: known.get(key, replace(NOBODY, key=key)) for key in keys}


@pytest.mark.parametrize("settled", [8, 64])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
async def test_the_mirror_is_the_chain_whatever_has_happened(
    settled: int, steps: list[tuple[str, object]]
) -> None:
    before, mirror.SETTLED = mirror.SETTLED, settled
    try:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder))
            for what, how in steps:
                await world.step(what, how)
            world.block([])
            await world.hear()
            assert world.mirror() == world.chain()
            assert world.desk.pipeline.vitals.differences == 0
            assert KEEPER in world.mirror()
            world.desk.close()
    finally:
        mirror.SETTLED = before
