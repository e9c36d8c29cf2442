"""What is known of sending on each chain, and that it is written where an operator looks."""

import re
from pathlib import Path

import pytest

from keeper.execute.chains import KNOWN, UNKNOWN, DataFee, Pool, rules_of
from keeper.execute.transports import Via

ROW = re.compile(r"^\| (\d+) \| ([^|]+) \|(.*)\|$", re.MULTILINE)
DOCS = (Path(__file__).parents[3] / "docs/transports.md").read_text()
WAITS = {
    Pool.PUBLIC: "a public mempool",
    Pool.SEQUENCER: "the sequencer's pool",
    Pool.NONE: "nothing: first come, first served",
}
PAYS = {
    DataFee.NONE: "nothing",
    DataFee.BESIDES_GAS: "a fee for its bytes",
    DataFee.IN_GAS: "nothing: its bytes are in its gas",
}


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    told = {int(row[1]): [row[2], *map(str.strip, row[3].split("|"))] for row in ROW.finditer(DOCS)}
    known = {
        chain_id: [
            rules.name,
            WAITS[rules.pool],
            "goes first" if rules.tip_orders else "buys nothing",
            "yes" if rules.outbids else "no",
            PAYS[rules.data_fee],
            f"{rules.block_s:g} s",
            f"{rules.final_blocks} blocks",
            "all"
            if len(rules.relays) == len(Via) - 1
            else ", ".join(f"`{via}`" for via in Via if via in rules.relays) or "`public`",
        ]
        for chain_id, rules in KNOWN.items()
    }
    assert told == known


@pytest.mark.parametrize("chain_id", KNOWN)
def test_every_entry_names_its_sources(chain_id: int) -> None:
    rules = rules_of(chain_id)
    assert rules.sources
    assert all(re.match(r"docs\.[a-z.-]+\b", source) for source in rules.sources)
    assert Via.PUBLIC not in rules.relays
    assert not rules.relays or rules.pool is Pool.PUBLIC


@pytest.mark.parametrize(("chain_id", "block_time_s"), [(1, 12), (8453, 2), (42161, 1), (56, 1), (31337, 12)])
def test_blocks_are_told_in_whole_seconds(chain_id: int, block_time_s: int) -> None:
    assert rules_of(chain_id).block_time_s == block_time_s


def test_a_chain_that_is_not_listed_has_no_relays() -> None:
    assert rules_of(31337) is UNKNOWN
    assert UNKNOWN.relays == frozenset()
