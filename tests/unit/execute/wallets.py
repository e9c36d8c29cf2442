"""A wallet before a node with geth's rules, its journal in a file, and its signer at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eth_account import Account

from keeper.domain import Call, CaseEvent, Economics, EventKind, Fees, Flag, Permit, Refuse, Step
from keeper.execute.fees import FeeParams
from keeper.execute.levy import Levy
from keeper.execute.sender import ChainSender, Params
from keeper.execute.stuck import Patience
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal
from keeper.journal.wallet import Wallet as Shared
from keeper.ports import BidKind, StepState
from keeper.units import WAD, Block
from tests.unit.execute.distant import Distant
from tests.unit.execute.geth import GWEI, Geth, Tx

KEY = "0x" + "4c" * 32
OTHER = Account.from_key(KEY)
MARKET = "0x" + "d1" * 20
E = EventKind
S = StepState


class Wallet:
    """A keeper's wallet: ``restart`` is a crash, after which the file is all there is."""

    def __init__(
        self,
        path: Path,
        *,
        limits: Limits | None = None,
        cap_wei: int = 500 * GWEI,
        patience: Patience | None = None,
        node: Geth | None = None,
        shared: Shared | None = None,
        levy: Levy | None = None,
    ) -> None:
        self.path = path
        self.node = node or Geth()
        self.limits = limits or Limits()
        fees = FeeParams(max_fee_cap_wei=cap_wei)
        self.params = Params(fees=fees, patience=patience or Patience(), levy=levy)
        self.signer = Distant(KEY)
        self.shared = shared
        self._open()

    def _open(self) -> None:
        self.journal = SqliteJournal(
            self.path, identity={}, limits=self.limits, durable=False, wallet=self.shared
        )
        self.sender = ChainSender(self.node, self.journal, self.signer, chain_id=1, params=self.params)

    async def start(self) -> None:
        await self.sender.resume(self.node.head())

    async def restart(self) -> None:
        self.journal.close()
        self._open()
        await self.start()

    def reserve(self, case: int = 1, *, blocks: Block = 3, income_wad: int = 0) -> Permit | Refuse:
        name, account, head = f"case{case}", case.to_bytes(32), self.node.head()
        economics = Economics(income_wad, 0, WAD, WAD, gas_price_wei=2 * GWEI) if income_wad else None
        step = Step(name, Flag(account, WAD), head.number + blocks, 100_000, WAD, economics=economics)
        event = CaseEvent(name, account, EventKind.SUSPECTED, head.number, head.timestamp_s, {})
        self.journal.record([event])
        fees = self.sender.bid(step, head)
        assert isinstance(fees, Fees)
        tx = self.sender.transaction(Call(MARKET, b"\x12"), step.gas_limit, fees)
        nonce = self.sender.chain_nonce
        return self.journal.reserve(step, tx, chain_nonce=nonce, block=head.number, at_s=head.timestamp_s)

    async def send(self, case: int = 1, **asked: Any) -> str:
        await self.sender.prepare()
        permit = self.reserve(case, **asked)
        assert isinstance(permit, Permit)
        await self.sender.send([permit])
        return permit.step_id

    async def blocks(self, count: int, *, base_fee_wei: int | None = None, empty: bool = False) -> None:
        for _ in range(count):
            if base_fee_wei is not None:
                self.node.base_fee_wei = base_fee_wei
            await self.sender.track(self.node.mine(empty=empty), ())

    async def reorg(self) -> None:
        """Replace the newest block by an empty one."""
        orphaned = self.node.cut(1)
        await self.sender.track(self.node.mine(empty=True), orphaned)

    def kinds(self, step_id: str) -> list[BidKind]:
        return [bid.kind for bid in self.journal.step(step_id).bids]

    def told(self, case: int = 1) -> list[str]:
        """Return what the case was told, bids by what they do."""
        events = self.journal.history(f"case{case}")
        return [
            event.data["act"] if "bid" in event.data and event.kind is E.OBSERVED else event.kind.value
            for event in events
        ]

    def violations(self) -> list[str]:
        """Return what the journal contradicts of itself, or of the chain."""
        reader = JournalReader(self.path)
        found = reader.verify()
        reader.close()
        settled = self.journal.settled_since(0)
        ours = {tx_hash: step for step in settled for tx_hash in step.hashes}
        fills = {tx_hash for step in settled for tx_hash in step.fill_hashes}
        for block, tx, _ in self.node.chain:
            step = ours.get(tx.hash)
            if tx.hash in fills:
                continue
            if step is None or step.outcome is None or step.outcome.block != block:
                found.append(f"nonce {tx.nonce} of block {block} is not in the journal")
            elif (step.state is S.INCLUDED) != (tx.to == MARKET):
                found.append(f"step {step.step_id} is {step.state}, and its nonce went to {tx.to}")
        return found


def foreign(nonce: int) -> Tx:
    """A transaction of the same key that no journal knows."""
    raw = OTHER.sign_transaction({
        "type": 2, "chainId": 1, "to": "0x" + "11" * 20, "data": b"", "value": 0, "gas": 21_000,
        "nonce": nonce, "maxFeePerGas": 99 * GWEI, "maxPriorityFeePerGas": 50 * GWEI,
    }).raw_transaction  # fmt: skip
    return Tx.of("0x" + bytes(raw).hex())
