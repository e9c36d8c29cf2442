"""A wallet on Anvil: whatever befalls its transactions, each step is paid for once, and the journal knows.

Anvil is laxer than geth about replacements: what its pool asks for is held in the unit tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from keeper.chain.pool import Pool
from keeper.chain.wire import head_of
from keeper.domain import CaseEvent, EventKind, Fees, Flag, Head, Permit, Refuse, Step
from keeper.execute.keys import LocalSigner
from keeper.execute.levy import OP_ORACLE, OpStack
from keeper.execute.sender import ChainSender, Params
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal
from keeper.lab.anvil import Node
from keeper.ports import BidKind, StepState
from keeper.units import WAD, Block

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GWEI = 10**9
KEY = "0x" + "4c" * 32
MARKET = "0x" + "d1" * 20
S = StepState


class Wallet:
    """A sender and its journal over a node that mines on demand."""

    def __init__(self, node: Node, pool: Pool, path: Path, **params: Any) -> None:
        self.node = node
        self.path = path
        self.journal = SqliteJournal(path, identity={})
        signer = LocalSigner(Account.from_key(KEY))
        self.sender = ChainSender(pool, self.journal, signer, chain_id=node.chain_id, params=Params(**params))
        self.cases = 0
        node.fund([signer.address])

    def head(self) -> Head:
        return head_of(self.node.rpc("eth_getBlockByNumber", "latest", False))

    async def mine_first(self) -> None:
        """Begin at a block with the base fee that all others have."""
        self.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        self.node.mine()
        await self.sender.resume(self.head())

    async def track(self, *orphaned: Head) -> None:
        await self.sender.track(self.head(), orphaned)

    async def mine(self, blocks: int = 1, *, base_fee_wei: int = GWEI) -> None:
        for _ in range(blocks):
            self.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
            self.node.mine()
            await self.track()

    async def reserve(self, *, blocks: Block = 30) -> Permit | Refuse:
        self.cases += 1
        name, account, head = f"case{self.cases}", self.cases.to_bytes(32), self.head()
        event = CaseEvent(name, account, EventKind.SUSPECTED, head.number, head.timestamp_s, {})
        self.journal.record([event])
        await self.sender.prepare()
        step = Step(name, Flag(account, WAD), head.number + blocks, 100_000, WAD)
        fees = self.sender.bid(step, head)
        assert isinstance(fees, Fees)
        tx = {"to": MARKET, "data": "0x12", "value": 0, "gas": 100_000, "chainId": self.node.chain_id}
        return self.journal.reserve(
            step,
            tx | fees.fields(),
            chain_nonce=self.sender.chain_nonce,
            block=head.number,
            at_s=head.timestamp_s,
        )

    async def send(self, *, blocks: Block = 30) -> Permit:
        permit = await self.reserve(blocks=blocks)
        assert isinstance(permit, Permit)
        await self.sender.send([permit])
        return permit

    def state(self, permit: Permit) -> StepState:
        return self.journal.step(permit.step_id).state

    def bids(self, permit: Permit) -> list[BidKind]:
        return [each.kind for each in self.journal.step(permit.step_id).bids]

    def effects(self) -> int:
        """Count what the market was sent, and hold the journal against every block of the chain."""
        ours = {tx_hash: step for step in self.journal.settled_since(0) for tx_hash in step.hashes}
        sent = 0
        for number in range(self.node.block_number() + 1):
            block = self.node.rpc("eth_getBlockByNumber", hex(number), True)
            for tx in block["transactions"]:
                if tx["from"] == self.sender.address and tx["to"] == MARKET:
                    sent += 1
                    outcome = ours[tx["hash"]].outcome
                    assert outcome is not None
                    assert (outcome.block, outcome.block_hash) == (number, block["hash"])
        included = [step for step in self.journal.settled_since(0) if step.state is S.INCLUDED]
        assert len(included) == sent
        assert self.journal.live_steps() == ()
        reader = JournalReader(self.path)
        assert reader.verify() == []
        reader.close()
        return sent


@pytest.fixture
async def pool(anvil: Node) -> AsyncIterator[Pool]:
    async with Pool([anvil.http_url]) as pool:
        yield pool


@pytest.fixture
async def wallet(anvil: Node, pool: Pool, tmp_path: Path) -> AsyncIterator[Wallet]:
    wallet = Wallet(anvil, pool, tmp_path / "journal.db")
    await wallet.mine_first()
    yield wallet
    wallet.journal.close()


async def spike(wallet: Wallet, permit: Permit) -> None:
    """The base fee rises tenfold before the transaction is included."""
    await wallet.mine(base_fee_wei=10 * GWEI)
    assert wallet.bids(permit) == [BidKind.RAISE]
    await wallet.mine(base_fee_wei=10 * GWEI)


async def left_out(wallet: Wallet, permit: Permit) -> None:
    """Blocks have no room for it, until they have."""
    limit = wallet.node.rpc("eth_getBlockByNumber", "latest", False)["gasLimit"]
    wallet.node.rpc("evm_setBlockGasLimit", hex(50_000))
    await wallet.mine(5)
    assert wallet.bids(permit) == [BidKind.RAISE] * 2
    wallet.node.rpc("evm_setBlockGasLimit", limit)
    await wallet.mine()


async def idle(wallet: Wallet, permit: Permit) -> None:
    """No block comes for an hour; meanwhile it is handed over again and again."""
    for _ in range(3):
        await wallet.sender.send([permit])
    wallet.node.rpc("evm_increaseTime", 3_600)
    assert (wallet.state(permit), wallet.bids(permit)) == (S.SENT, [])
    await wallet.mine()


async def evicted(wallet: Wallet, permit: Permit) -> None:
    """The pool forgets everything."""
    wallet.node.rpc("anvil_dropAllTransactions")
    await wallet.mine(3)
    assert wallet.state(permit) in {S.SENT, S.INCLUDED}
    await wallet.mine(2)


async def dropped(wallet: Wallet, permit: Permit) -> None:
    """The pool forgets this one."""
    wallet.node.rpc("anvil_dropTransaction", wallet.journal.step(permit.step_id).tx_hash)
    await wallet.mine(5)


async def known(wallet: Wallet, permit: Permit) -> None:
    """It is handed over once more, and the node says that it has it."""
    await wallet.sender.send([permit])
    assert wallet.state(permit) is S.SENT
    await wallet.mine()


async def reorganised(wallet: Wallet, permit: Permit) -> None:
    """Its block is replaced by one without it."""
    await wallet.mine()
    assert wallet.state(permit) is S.INCLUDED
    orphaned = wallet.head()
    wallet.node.rpc("anvil_reorg", 1, [])
    await wallet.track(orphaned)
    assert wallet.state(permit) is S.SENT
    await wallet.mine(2)


STORIES: list[Callable[[Wallet, Permit], Awaitable[None]]] = [
    spike, left_out, idle, evicted, dropped, known, reorganised
]  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_a_step_is_paid_for_once(
    wallet: Wallet, story: Callable[[Wallet, Permit], Awaitable[None]]
) -> None:
    permit = await wallet.send()
    await story(wallet, permit)
    assert wallet.state(permit) is S.INCLUDED
    assert wallet.effects() == 1


async def test_what_is_late_is_cancelled_and_the_next_nonce_goes_on(wallet: Wallet) -> None:
    late = await wallet.send(blocks=1)
    await wallet.mine(base_fee_wei=10 * GWEI)
    assert wallet.bids(late) == [BidKind.CANCEL]
    await wallet.mine(base_fee_wei=10 * GWEI)
    assert wallet.state(late) is S.DISPLACED
    following = await wallet.send()
    assert following.nonce == late.nonce + 1
    await wallet.mine(2, base_fee_wei=2 * GWEI)
    assert wallet.state(following) is S.INCLUDED
    assert wallet.effects() == 1


def act_by_hand(wallet: Wallet) -> None:
    """Send something with the wallet's key that no journal knows."""
    foreign = {"from": wallet.sender.address, "to": "0x" + "11" * 20, "value": "0x1", "gas": hex(21_000)}
    wallet.node.rpc("eth_sendTransaction", foreign)


def jump(wallet: Wallet) -> None:
    """Have the wallet's nonce be one more than it was, by whatever means."""
    wallet.node.rpc("anvil_setNonce", wallet.sender.address, hex(1))


@pytest.mark.parametrize("use", [act_by_hand, jump])
async def test_that_somebody_else_uses_the_key_is_noticed(
    wallet: Wallet, use: Callable[[Wallet], None]
) -> None:
    permit = await wallet.send()
    wallet.node.rpc("anvil_dropAllTransactions")
    use(wallet)
    await wallet.mine(3)
    assert wallet.state(permit) is S.DISPLACED
    refused = await wallet.reserve()
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "wallet.foreign"
    assert wallet.effects() == 0


async def test_a_nonce_that_a_reorg_frees_below_is_filled_and_what_is_above_included(
    anvil: Node, pool: Pool, tmp_path: Path
) -> None:
    wallet = Wallet(anvil, pool, tmp_path / "journal.db")
    act_by_hand(wallet)
    await wallet.mine_first()
    permits = [await wallet.send() for _ in range(2)]
    assert [each.nonce for each in permits] == [1, 2]
    orphaned = wallet.head()
    anvil.rpc("anvil_reorg", 1, [])
    await wallet.track(orphaned)
    [fill] = wallet.journal.step(permits[0].step_id).fills
    assert fill.nonce == 0
    # Anvil's pool may forget them with the block.
    await wallet.mine(4)
    assert [wallet.state(each) for each in permits] == [S.INCLUDED] * 2
    assert wallet.effects() == 2
    wallet.journal.close()


async def test_tips_and_the_fee_of_data_are_asked_of_the_node(
    anvil: Node, pool: Pool, tmp_path: Path
) -> None:
    fee_wei = 3 * 10**13
    anvil.rpc("anvil_setCode", OP_ORACLE, f"0x7f{fee_wei:064x}60005260206000f3")
    wallet = Wallet(anvil, pool, tmp_path / "journal.db", levy=OpStack(1_000))
    await wallet.mine_first()
    other = {"from": "0x" + "22" * 20, "to": MARKET, "gas": hex(50_000), "maxFeePerGas": hex(50 * GWEI)}
    anvil.fund([other["from"]])
    for nonce in range(3):
        tip = {"maxPriorityFeePerGas": hex(4 * GWEI), "nonce": hex(nonce)}
        anvil.rpc("eth_sendTransaction", other | tip)
        await wallet.mine()
    await wallet.sender.prepare()
    fees = wallet.sender.fees(wallet.head())
    assert isinstance(fees, Fees)
    assert fees.priority_fee_wei == 4 * GWEI
    assert wallet.sender.data_fee_wei == 2 * fee_wei
    wallet.journal.close()
