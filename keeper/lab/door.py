"""The one door with a node behind it that takes everything: what from permit to wire is timed on.

Each transaction is in the next block, before the next one is due, so that none waits behind others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eth_abi.abi import encode
from eth_account import Account as Wallet

from keeper.domain import Call, CaseEvent, EventKind, Fees, Flag, Head, Permit, Reason, Refuse, Step
from keeper.execute.keys import LocalSigner
from keeper.execute.sender import ChainSender
from keeper.journal.guard import Limits
from keeper.journal.store import SqliteJournal
from keeper.lab.world import person
from keeper.pipeline.turns import batches
from keeper.protocols.hybrid.abi import load
from keeper.units import WAD, Block

HEAD = Head(1_000, "0x" + "ab" * 32, "0x" + "aa" * 32, 1_700_000_000, 10**9)
CALL = Call("0x" + "d1" * 20, bytes(132))
FEES = Fees(3 * 10**9, 10**9)
GAS = 400_000
RECEIPT = {"blockHash": HEAD.hash, "status": "0x1", "gasUsed": hex(GAS), "effectiveGasPrice": hex(10**9)}
BATCH = load("Liquidator").functions["batch"]
AT_ONCE = 8
"""Steps that a keeper reserves in one commit, at the least (``pipeline.acts.BATCH``)."""
BLOCKS = 300
"""Of an hour: so many have the steps that were before."""


@dataclass
class Taker:
    """A node that includes whatever it is handed, and keeps when it was."""

    handed_ns: list[int] = field(default_factory=list)
    newest: Block = HEAD.number

    async def request(self, method: str, params: list[Any]) -> Any:
        """Take a transaction, or know of no tips that others paid."""
        del params
        if method == "eth_feeHistory":
            return {"reward": []}
        self.handed_ns.append(time.perf_counter_ns())
        return None

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        """Know of a rich wallet, all of whose transactions are in the newest block."""
        return [self._answer(method, params) for method, params in calls]

    def _answer(self, method: str, params: list[Any]) -> Any:
        if method == "eth_getTransactionReceipt":
            return {**RECEIPT, "transactionHash": params[0], "blockNumber": hex(self.newest)}
        return hex(len(self.handed_ns) if method == "eth_getTransactionCount" else 10**6 * WAD)


class Door:
    """A wallet with its journal in a file, and accounts without end that something is to be done about."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        limits = Limits(spend_day_wei=10**6 * WAD, in_flight=1_000)
        self.journal = SqliteJournal(path, identity={"of": "a benchmark"}, limits=limits, durable=durable)
        self.node = Taker()
        signer = LocalSigner(Wallet.from_key(person(1, "keeper").key))
        self._sender = ChainSender(self.node, self.journal, signer, chain_id=31337)
        self._head = HEAD
        self._accounts = 0

    async def open(self, before: int) -> None:
        """Have so many steps of the last hour in the journal, none of them in flight any more."""
        await self._sender.resume(HEAD)
        await self._sender.prepare()
        over = Reason("send.refused", "a step of the day", "none in flight")
        with self.journal.together():
            for number in range(before):
                permit = self._reserve(self._due(), block=HEAD.number - 1 - number % BLOCKS)
                self.journal.abandon(permit.step_id, over, block=HEAD.number, at_s=HEAD.timestamp_s)

    async def pass_through(self) -> float:
        """Take the step of a new account to the node; return how long that took [us]."""
        step = self._due()
        began_ns = time.perf_counter_ns()
        with self.journal.together():
            permit = self._reserve(step)
            sealed = self._sender.seal([permit])
        await self._sender.send([permit], sealed=sealed)
        took_us = (self.node.handed_ns[-1] - began_ns) / 1e3
        await self._mine()
        return took_us

    async def burst(self, count: int, batch: int) -> list[float]:
        """Take the steps of many accounts to the node that one tick makes suspect, some to a transaction.

        Returns of each act how long after the tick its transaction was there [us]. What is reserved in one go
        is what a keeper reserves in one.
        """
        steps = [self._due() for _ in range(count)]
        known, acts = len(self.node.handed_ns), list[int]()
        began_ns = time.perf_counter_ns()
        for some in batches(steps, max(AT_ONCE, batch)):
            with self.journal.together():
                permits = [self._reserve_together(each) for each in batches(some, batch)]
                sealed = self._sender.seal(permits)
            await self._sender.send(permits, sealed=sealed)
            acts += [len(each) for each in batches(some, batch)]
        handed_ns = self.node.handed_ns[known:]
        await self._mine()
        return [
            (at_ns - began_ns) / 1e3 for at_ns, size in zip(handed_ns, acts, strict=True) for _ in range(size)
        ]

    def _reserve_together(self, steps: Sequence[Step]) -> Permit:
        """Have steps permitted one by one, all in the transaction of the first; return its permit."""
        first: Permit | None = None
        for acts in range(1, len(steps) + 1):
            call = (
                CALL
                if acts == 1
                else Call(CALL.to, BATCH.selector + encode(BATCH.inputs, [[CALL.data] * acts]))
            )
            granted = self._reserve(steps[acts - 1], call=call, acts=acts, joins=first)
            first = first or granted
        assert first is not None
        return first

    async def _mine(self) -> None:
        """Have a block include what was sent, and the journal know of it."""
        self._head = replace(self._head, number=self._head.number + 1)
        self.node.newest = self._head.number
        await self._sender.track(self._head, ())
        await self._sender.prepare()

    def _due(self) -> Step:
        """Return the step of an account that is newly suspect, by the journal too."""
        self._accounts += 1
        account = self._accounts.to_bytes(32)
        case_id = f"0x{account.hex()}@{self._head.number}"
        suspected = {"score": "E 1.00, M 2.00", "markets": ["BTC/USD"], "health": 0.5}
        head = self._head
        event = CaseEvent(case_id, account, EventKind.SUSPECTED, head.number, head.timestamp_s, suspected)
        self.journal.record([event])
        return Step(case_id, Flag(account, 50 * WAD), head.number + 25, GAS, WAD)

    def _reserve(
        self,
        step: Step,
        block: Block | None = None,
        call: Call = CALL,
        acts: int = 1,
        joins: Permit | None = None,
    ) -> Permit:
        granted = self.journal.reserve(
            step,
            self._sender.transaction(call, acts * GAS, FEES),
            chain_nonce=self._sender.chain_nonce,
            block=self._head.number if block is None else block,
            at_s=self._head.timestamp_s,
            joins=joins,
        )
        assert not isinstance(granted, Refuse), granted.reason
        return granted
