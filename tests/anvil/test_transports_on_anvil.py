"""A relay in front of a real node: whatever it does, a transaction takes effect once, as journaled."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from eth_account import Account

from keeper.chain.pool import Pool
from keeper.chain.relay import Relay
from keeper.chain.wire import head_of
from keeper.domain import Call, CaseEvent, EventKind, Fees, Flag, Head, Permit, Step
from keeper.execute.keys import LocalSigner
from keeper.execute.relay_auth import relay_headers
from keeper.execute.sender import ChainSender, Params
from keeper.execute.transports import Via
from keeper.journal.store import SqliteJournal
from keeper.lab.anvil import Node
from keeper.ports import StepState
from keeper.units import WAD
from tests.stub_relay import Manner, StubRelay

pytestmark = pytest.mark.anvil

COUNTER = "0x" + "c2" * 20
COUNTS_ITS_CALLS = "0x5f54600101805f555f5260205ff3"
ACCOUNT = b"\x01" * 32
SIGNER = LocalSigner(Account.from_key("0x" + "4c" * 32))
GWEI = 10**9


@asynccontextmanager
async def relayed(anvil: Node, stub: StubRelay) -> AsyncIterator[tuple[Pool, Relay]]:
    anvil.rpc("anvil_setCode", COUNTER, COUNTS_ITS_CALLS)
    anvil.fund([SIGNER.address])
    relay = Relay(stub.url, timeout_s=0.2, headers=relay_headers(b"\x7e" * 32))
    async with Pool([anvil.http_url]) as pool:
        try:
            yield pool, relay
        finally:
            await relay.close()


def tip(anvil: Node) -> Head:
    return head_of(anvil.rpc("eth_getBlockByNumber", "latest", False))


def reserve(journal: SqliteJournal, sender: ChainSender, head: Head) -> Permit:
    suspected = CaseEvent("case", ACCOUNT, EventKind.SUSPECTED, head.number, head.timestamp_s, {})
    journal.record([suspected])
    tx = sender.transaction(Call(COUNTER, b""), 100_000, Fees(3 * GWEI, GWEI))
    step = Step("case", Flag(ACCOUNT, WAD), head.number + 100, 100_000, WAD)
    permit = journal.reserve(step, tx, chain_nonce=0, block=head.number, at_s=head.timestamp_s)
    assert isinstance(permit, Permit)
    return permit


def calls(anvil: Node) -> int:
    """Return how often the contract was called."""
    return int(anvil.rpc("eth_getStorageAt", COUNTER, "0x0", "latest"), 16)


@pytest.mark.parametrize("via", [Via.BUNDLE, Via.PRIVATE])
@pytest.mark.parametrize(
    ("manner", "blocks"), [(manner, 4 if manner is Manner.SWALLOWS else 1) for manner in Manner]
)
async def test_whatever_a_relay_does_a_transaction_is_paid_once(
    anvil: Node, tmp_path: Path, via: Via, manner: Manner, blocks: int
) -> None:
    async with StubRelay(manner) as stub, relayed(anvil, stub) as (pool, relay):
        with closing(SqliteJournal(tmp_path / "journal.db", identity={"chain_id": "31337"})) as journal:
            params = Params(via=(via, Via.PUBLIC))
            sender = ChainSender(pool, journal, SIGNER, chain_id=anvil.chain_id, params=params, relay=relay)
            first = tip(anvil)
            await sender.resume(first)
            permit = reserve(journal, sender, first)
            await sender.send([permit])
            for _ in range(6):
                for raw in stub.block(tip(anvil).number + 1):
                    if not calls(anvil):
                        anvil.rpc("eth_sendRawTransaction", raw)
                anvil.mine()
                await sender.track(tip(anvil), ())
            settled = journal.step(permit.step_id)
            assert settled.state is StepState.INCLUDED
            assert settled.outcome is not None
            assert settled.outcome.block == first.number + blocks
            assert [event.kind for event in journal.history("case")].count(EventKind.INCLUDED) == 1
    assert calls(anvil) == 1
    assert int(anvil.rpc("eth_getTransactionCount", SIGNER.address, "latest"), 16) == 1
