"""A chain of one's own for every test that asks: Anvil starts in some 50 ms.

It mines on demand only, so that a test decides what is in a block. Without ``tools/bin/anvil`` these tests
fail rather than pass by being skipped.
"""

from collections.abc import Iterator

import pytest

from keeper.lab.anvil import Node
from keeper.lab.anvil import anvil as running_anvil

GENESIS_S = 1_700_000_000


@pytest.fixture
def anvil() -> Iterator[Node]:
    with running_anvil(timestamp_s=GENESIS_S) as node:
        yield node
