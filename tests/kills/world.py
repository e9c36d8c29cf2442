"""The other side: a chain that outlives every keeper, what happens on it, and what keepers ask of it.

The chain is HybridMargin by the twin of its contracts. Its node takes what the wallet signed and nothing
else, includes by nonce, and keeps all that it was ever handed: it, and not the journal, is what a keeper is
held to. It stands still while a keeper works and while none lives, unless blocks are let pass; so a keeper
that was killed has missed nothing that one without kills has not.
"""

from __future__ import annotations

import random
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from eth_abi.abi import decode, encode
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from keeper.domain import Account, ChainTime, Head, Phase, Quote
from keeper.errors import ChainFault
from keeper.ports import BlockUpdate, Range
from keeper.protocols.hybrid.abi import load
from keeper.units import WAD, AccountKey, Block, FeedId, UnixS, Wei
from tests.scenarios.chains import MarginChain, share_of
from tests.scenarios.stage import LONG
from tests.stub_node import Tx, _decoded
from tests.unit.pipeline.desk import EMPTY, FIRST, KEEPER, NAMES, SIGNER
from tests.unit.protocols.hybrid.books import PRICES

T = TypeVar("T")
GWEI: Wei = 10**9
FEED: FeedId = "BTC/USD"
BATCH = load("Liquidator").functions["batch"]
EDGES = (0.985, 0.97, 0.955, 0.90)
"""The shares of the first price below which each account is in breach."""
QUIET = 12
"""Blocks at the end in which nothing happens any more."""


# --- what happens ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Beat:
    """One block, and what has happened before it."""

    fast: float
    """What the market says, as a share of the first price;"""
    slow: float
    """and the protocol's own source."""
    mined: bool = True
    reverts: bool = False
    """Whether somebody was faster, so that what is included reverts."""
    reorg: int = 0
    """How many of the newest blocks it replaces, beside coming after them."""
    deposit: int | None = None
    """Which owner pays in."""
    base_fee_wei: Wei = GWEI
    ticks: tuple[float, ...] = ()
    """What the market says after it."""


def story(seed: int) -> tuple[Beat, ...]:
    """Draw what happens: a fall, accidents of every kind while accounts are closed, a recovery and quiet."""
    chance = random.Random(f"{seed} story")
    floor = chance.uniform(0.925, 0.965)
    falls = [Beat(1.0, 1.0), Beat(1.0, 1.0, ticks=(chance.uniform(0.96, 1.0), floor))]
    falls += [Beat(floor, 1.0)] * chance.randrange(3)
    rest = [_accident(chance, floor) for _ in range(14)]
    return (*falls, Beat(floor, floor), *rest, *[Beat(1.0, 1.0)] * QUIET)


def _accident(chance: random.Random, floor: float) -> Beat:
    plain = Beat(floor, floor)
    return chance.choice(
        [
            *[plain] * 4,
            *[replace(plain, mined=False)] * 2,
            *[replace(plain, reorg=chance.randint(1, 3))] * 2,
            replace(plain, reorg=chance.randint(1, 2), mined=False),
            replace(plain, reverts=True),
            # Beyond what was bid: all that is out waits.
            *[replace(plain, base_fee_wei=chance.randint(3, 10) * GWEI)] * 2,
            replace(plain, deposit=chance.randrange(len(EDGES))),
            replace(plain, fast=floor * 0.94),
            replace(plain, ticks=(floor * chance.uniform(0.95, 1.01), floor)),
        ]
    )


# --- the chain -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handed:
    """A transaction that a node was handed, for the first time."""

    tx: Tx
    data: bytes
    gas: int
    at: Head

    @property
    def name(self) -> str:
        """Name the function that it calls; without one it only uses its nonce up."""
        return NAMES[self.data[:4]] if self.data else "cancel"

    @property
    def calls(self) -> tuple[bytes, ...]:
        """Return the acts in it; none, where it calls nothing."""
        if self.data[:4] == BATCH.selector:
            return tuple(decode(BATCH.inputs, self.data[4:])[0])
        return (self.data,) if self.data else ()

    @property
    def accounts(self) -> tuple[AccountKey, ...]:
        """Return whom each act is about."""
        functions = load("Liquidator").functions
        return tuple(decode(functions[NAMES[each[:4]]].inputs, each[4:])[0] for each in self.calls)

    @property
    def most_wei(self) -> Wei:
        """Return the most that it may cost."""
        return self.gas * self.tx.max_fee_wei


@dataclass
class Ledger(MarginChain):
    """HybridMargin, with a node that is strict about transactions."""

    handed: dict[str, Handed] = field(default_factory=dict)
    """All, by hash, also those that were refused."""
    unincluded: set[str] = field(default_factory=set)
    """Whatever a reorg has put back once."""
    paid_wei: dict[str, Wei] = field(default_factory=dict)
    """What each has cost where it was included, at the least where a reorg had it included twice."""
    lost: dict[str, frozenset[int]] = field(default_factory=dict)
    """Of each that was included, the places of the acts that failed."""
    most_exposed_wei: Wei = 0
    """The most that was paid and could still be asked for, whenever something new was handed over."""

    @property
    def used(self) -> int:
        """How many transactions of the wallet are included."""
        return len(self.receipts)

    async def request(self, method: str, params: list[Any]) -> Any:
        if method != "eth_sendRawTransaction":
            return await super().request(method, params)
        tx = _decoded(params[0])
        if tx.sender != SIGNER.address.lower():
            raise ChainFault(f"invalid sender {tx.sender}")
        self._note(tx, params[0])
        if tx.hash in self.pending:
            raise ChainFault("already known")
        if tx.nonce < self.used:
            raise ChainFault("nonce too low")
        rivals = [self.handed[each].tx for each in self.pending if self.handed[each].tx.nonce == tx.nonce]
        # geth's price bump: both fees at least 10 % higher.
        if any(
            10 * tx.max_fee_wei < 11 * rival.max_fee_wei or 10 * tx.tip_wei < 11 * rival.tip_wei
            for rival in rivals
        ):
            raise ChainFault("replacement transaction underpriced")
        if tx.max_fee_wei < (self.tip.base_fee_wei or 0):
            raise ChainFault("max fee per gas less than block base fee")
        return await super().request(method, params)

    def _note(self, tx: Tx, raw: str) -> None:
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        self.handed.setdefault(tx.hash, Handed(tx, bytes(fields["data"]), int(fields["gas"]), self.tip))
        most: dict[int, Wei] = {}
        for of in self.handed.values():
            most[of.tx.nonce] = max(most.get(of.tx.nonce, 0), of.most_wei)
        paid = {self.handed[each].tx.nonce: wei for each, wei in self.paid_wei.items()}
        exposed = sum((most | paid).values())
        self.most_exposed_wei = max(self.most_exposed_wei, exposed)

    def acts_of(self, tx_hash: str) -> list[tuple[str, str, bool]]:
        """Return of an included transaction what each act is, about whom, and whether it went through."""
        each = self.handed[tx_hash]
        return [
            (NAMES[call[:4]], account.hex()[:2], place not in self.lost[tx_hash])
            for place, (call, account) in enumerate(zip(each.calls, each.accounts, strict=True))
        ] or [("cancel", "", True)]

    def cut(self, depth: int) -> list[Head]:
        """Take back the newest blocks; what they held of ours is pending again."""
        before = {*self.pending}
        orphaned = super().cut(depth)
        self.unincluded |= self.pending.keys() - before
        return orphaned

    def mine(self, *, status: int = 1) -> None:
        """Include what can be in the newest block, by nonce."""
        head = self.tip
        for each in sorted(
            (self.handed[tx_hash] for tx_hash in self.pending), key=lambda each: each.tx.nonce
        ):
            tx = each.tx
            if tx.nonce != self.used or tx.max_fee_wei < (head.base_fee_wei or 0):
                return
            at = ChainTime(head.number, head.timestamp_s)
            done = [bool(status) and self.carry_out(call, at, tx.hash) for call in each.calls]
            self.lost[tx.hash] = frozenset(place for place, is_done in enumerate(done) if not is_done)
            # A batch goes through whatever becomes of its acts.
            goes_through = len(done) > 1 or all(done)
            del self.pending[tx.hash]
            receipt: dict[str, Any] = {
                "status": hex(goes_through),
                "blockNumber": hex(head.number),
                "blockHash": head.hash,
                "gasUsed": hex(200_000),
                "effectiveGasPrice": hex(min(tx.max_fee_wei, (head.base_fee_wei or 0) + tx.tip_wei)),
            }
            if goes_through:
                receipt["logs"] = [self._failure(place, tx, receipt) for place in sorted(self.lost[tx.hash])]
            self.receipts[tx.hash] = receipt
            cost = cost_wei(self.receipts[tx.hash])
            self.paid_wei[tx.hash] = min(cost, self.paid_wei.get(tx.hash, cost))

    def _failure(self, place: int, tx: Tx, receipt: dict[str, Any]) -> dict[str, Any]:
        """Return the log by which the contract tells that an act of a batch has failed."""
        topic = load("Liquidator").events["ActFailed"].topic
        return {
            "address": self.deployment.liquidator,
            "topics": ["0x" + topic.hex()],
            "data": "0x" + encode(["uint256", "bytes4"], [place, bytes(4)]).hex(),
            "blockNumber": receipt["blockNumber"],
            "blockHash": receipt["blockHash"],
            "transactionHash": tx.hash,
            "logIndex": hex(place),
        }


def cost_wei(receipt: dict[str, str]) -> Wei:
    """Return what an included transaction has cost."""
    return int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a story has ended."""

    accounts: Mapping[AccountKey, Account] = field(default_factory=dict)
    acts: tuple[str, ...] = ()
    """What was included, in which block, about whom, and whether it went through.

    In no order within a block: who was refused at the head before goes last, which a start does not know.
    """

    @property
    def cared_for(self) -> set[AccountKey]:
        """Return whom the contract still has under care; not who was closed to the last leg."""
        over = {Phase.HEALTHY, Phase.CLOSED}
        return {key for key, account in self.accounts.items() if account.phase not in over}


# --- and who looks at it ---------------------------------------------------------------------------


class World:
    """A chain, its story, and the answers to whatever a keeper asks; all in the process that survives."""

    def __init__(self, seed: int) -> None:
        self.ledger = Ledger()
        self._beats = list(story(seed))
        self._ticks: list[float] = []
        self._market = 1.0
        self.ledger.slow[FEED] = self.ledger.fast[FEED] = PRICES[FEED]
        self.ledger.extend()
        self.ledger.put(replace(EMPTY, key=KEEPER, cash_wad=100_000 * WAD))
        for number, edge in enumerate(EDGES):
            cash_wad = 21_000 * WAD - share_of(19_000 * WAD, edge)
            self.ledger.put(replace(EMPTY, key=owner(number), cash_wad=cash_wad, legs=(LONG,)))

    @property
    def is_quiet(self) -> bool:
        """Whether nothing more happens but blocks."""
        return len(self._beats) <= QUIET

    def answer(self, what: str, *asked: Any) -> Any:
        """Do or say what a keeper asks for; raise what the node answers it with."""
        return getattr(self, f"say_{what}")(*asked)

    def say_latest(self, now_s: UnixS) -> dict[FeedId, Quote]:
        """Return the market's prices."""
        return {
            feed: Quote(feed, share_of(price, self._market) if feed == FEED else price, now_s)
            for feed, price in PRICES.items()
        }

    def say_tip(self) -> Head:
        return self.ledger.tip

    def say_since(self, first: Block) -> BlockUpdate:
        """Return all blocks from one on, as the reader does after a start."""
        return self._update((), [each for each in self.ledger.heads if each.number >= first])

    def say_next(self) -> BlockUpdate | float | None:
        """Let the next thing happen, and tell it: a block, a price between two, or that all is over."""
        if self._ticks:
            self._market = self._ticks.pop(0)
            return self._market
        return self.go_on() if self._beats else None

    def go_on(self) -> BlockUpdate:
        """Let a block come."""
        beat, ledger = self._beats.pop(0), self.ledger
        self._ticks = list(beat.ticks)
        ledger.base_fee_wei = beat.base_fee_wei
        orphaned = ledger.cut(beat.reorg) if beat.reorg else []
        adopted = [ledger.extend() for _ in range(beat.reorg + 1)]
        self._market = beat.fast
        ledger.fast[FEED] = share_of(PRICES[FEED], beat.fast)
        ledger.answer(FEED, share_of(PRICES[FEED], beat.slow))
        if beat.mined:
            ledger.mine(status=int(not beat.reverts))
        if beat.deposit is not None:
            found = ledger.accounts[owner(beat.deposit)]
            ledger.put(replace(found, cash_wad=found.cash_wad + 3_000 * WAD))
        return self._update(orphaned, adopted)

    def _update(self, orphaned: Sequence[Head], adopted: Sequence[Head]) -> BlockUpdate:
        logs = tuple(log for head in adopted for log in self.ledger.logs_of(head))
        return BlockUpdate(self.ledger.tip, tuple(orphaned), tuple(adopted), logs)

    def say_watch(self, addresses: Sequence[str]) -> None:
        self.ledger.watch(addresses)

    def say_search(self, first: Block, last: Block) -> list[Range]:
        async def all_of() -> list[Range]:
            return [each async for each in self.ledger.search(first, last)]

        return at_once(all_of())

    def say_hash_at(self, number: Block) -> str | None:
        return at_once(self.ledger.hash_at(number))

    def say_call_many(self, *asked: Any) -> list[bytes]:
        return at_once(self.ledger.call_many(*asked))

    def say_simulate(self, *asked: Any) -> Any:
        return at_once(self.ledger.simulate(*asked))

    def say_rerun(self, *asked: Any) -> Any:
        return at_once(self.ledger.rerun(*asked))

    def say_request(self, *asked: Any) -> Any:
        return at_once(self.ledger.request(*asked))

    def say_batch(self, *asked: Any) -> Any:
        return at_once(self.ledger.batch(*asked))

    # --- how it ends ---

    def ended(self) -> Ended:
        """Return how all stands."""
        ledger = self.ledger
        acts = sorted(
            (int(receipt["blockNumber"], 16) - FIRST, f"{name} of {account}, {is_done}")
            for tx_hash, receipt in ledger.receipts.items()
            for name, account, is_done in ledger.acts_of(tx_hash)
        )
        return Ended(dict(ledger.accounts), tuple(f"{block}: {act}" for block, act in acts))


def owner(number: int) -> AccountKey:
    """Return the account of an owner."""
    return bytes([0xA0 + number]) * 20 + bytes(12)


def at_once(asked: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that waits for nothing."""
    try:
        asked.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("the chain has waited for something")
