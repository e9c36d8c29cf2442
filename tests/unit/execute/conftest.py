"""A wallet, its journal, and a node small enough to see through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from keeper.domain import Call, CaseEvent, EventKind, Fees, Flag, Head, Permit, Step
from keeper.errors import ChainFault
from keeper.execute.keys import LocalSigner
from keeper.execute.sender import ChainSender, Params
from keeper.execute.signer import Signer
from keeper.execute.stuck import Patience
from keeper.execute.transports import Asked
from keeper.journal.store import SqliteJournal
from keeper.lifecycle import Status
from keeper.ports import StepState
from keeper.units import WAD, AccountKey, Block
from tests.unit.execute.geth import NO_TIPS

KEY = "0x" + "4c" * 32
PATIENT = Patience(raise_after=1_000)
"""Whoever tests something else has time: nothing is outbid but what cannot be included at all."""
ACCOUNT = b"\x01" * 32


@dataclass
class Node:
    """Takes transactions, mines those it is told to, and fails on demand."""

    faults: list[ChainFault] = field(default_factory=list)
    batch_faults: list[ChainFault] = field(default_factory=list)
    raws: list[str] = field(default_factory=list)
    receipts: dict[str, dict[str, str]] = field(default_factory=dict)
    nonces_used_at: list[Block] = field(default_factory=list)
    on_send: Callable[[str], object] = len
    says: dict[str, Any] = field(default_factory=lambda: {"eth_feeHistory": NO_TIPS})
    """What else it answers, by method; a fault is raised."""
    asked: list[tuple[str, list[Any]]] = field(default_factory=list)

    async def request(self, method: str, params: list[Any]) -> Any:
        if method == "eth_getBalance":
            return hex(7 * WAD)
        if method in self.says:
            self.asked.append((method, params))
            if isinstance(self.says[method], ChainFault):
                raise self.says[method]
            return self.says[method]
        assert method == "eth_sendRawTransaction"
        self.on_send(params[0])
        self.raws.append(params[0])
        if self.faults:
            raise self.faults.pop(0)
        return hash_of(params[0])

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        if self.batch_faults:
            raise self.batch_faults.pop(0)
        return [self._answer(method, params) for method, params in calls]

    def _answer(self, method: str, params: list[Any]) -> Any:
        if method == "eth_getTransactionCount":
            return hex(sum(block <= int(params[1], 16) for block in self.nonces_used_at))
        if method == "eth_getBalance":
            return hex(7 * WAD)
        assert method == "eth_getTransactionReceipt"
        return self.receipts.get(params[0])

    def mine(self, tx_hash: str, block: Block, *, status: int = 1, fork: str = "b") -> None:
        self.nonces_used_at.append(block)
        self.receipts[tx_hash] = {
            "status": hex(status),
            "blockNumber": hex(block),
            "blockHash": f"0x{fork}{block}",
            "gasUsed": hex(200_000),
            "effectiveGasPrice": hex(2 * 10**9),
        }

    def drop(self, tx_hash: str) -> None:
        self.nonces_used_at.remove(int(self.receipts.pop(tx_hash)["blockNumber"], 16))


def hash_of(raw: str) -> str:
    return "0x" + keccak(bytes.fromhex(raw[2:])).hex()


def head(number: Block) -> Head:
    return Head(number, f"0xb{number}", f"0xb{number - 1}", number * 12, 10**9)


Update = tuple[Head, tuple[Head, ...]]


def update(number: Block, *orphaned: Block) -> Update:
    """A new head, and the heads it orphaned."""
    return head(number), tuple(map(head, orphaned))


class Desk:
    """What a test works with; ``restart`` is a crash: the file stays, all else is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node = Node()
        self.restart()

    def restart(self, *, signer: Signer | None = None, relay: Asked | None = None, **params: Any) -> None:
        self.close()
        self.journal = SqliteJournal(self.path, identity={"chain_id": "31337"})
        signer = signer or LocalSigner(Account.from_key(KEY))
        self.sender = ChainSender(
            self.node,
            self.journal,
            signer,
            chain_id=31337,
            params=Params(**{"patience": PATIENT, **params}),
            relay=relay,
        )

    def close(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()

    def reserve(
        self, block: Block = 100, *, valid_until: Block = 1_000, account: AccountKey = ACCOUNT
    ) -> Permit:
        case = "case" if account == ACCOUNT else f"case of {account.hex()}"
        if self.journal.status(case) in (None, Status.SETTLED):
            suspected = CaseEvent(case, account, EventKind.SUSPECTED, block, block * 12, {})
            self.journal.record([suspected])
        call = Call("0x" + "d1" * 20, b"\x12\x34")
        tx = self.sender.transaction(call, 1_000_000, Fees(3 * 10**9, 10**9))
        step = Step(case, Flag(account, WAD), valid_until, 1_000_000, WAD)
        permit = self.journal.reserve(step, tx, chain_nonce=0, block=block, at_s=block * 12)
        assert isinstance(permit, Permit)
        return permit

    def state(self, permit: Permit) -> StepState:
        return self.journal.step(permit.step_id).state

    def kinds(self) -> list[str]:
        return [event.kind.value for event in self.journal.history("case")]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "journal.db")
    yield desk
    desk.close()


@pytest.fixture
def key() -> str:
    return KEY


@pytest.fixture
def heads() -> Callable[[Block], Head]:
    return head


@pytest.fixture
def updates() -> Callable[..., Update]:
    return update
