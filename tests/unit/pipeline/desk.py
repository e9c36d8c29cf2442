"""A whole keeper but for the node: real market, journal and sender over a chain small enough to see through.

``Desk.head`` is one block: what was sent may be mined in it, and the pipeline is told. A desk that restarts
does so after every block, before it has heard of it: the journal and the chain stay, all else is new.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode
from eth_account import Account as Wallet
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import (
    Account,
    ArrayView,
    Call,
    CaseEvent,
    ChainTime,
    EventKind,
    FeedView,
    FlagState,
    Head,
    Leg,
    Log,
    Phase,
    Quote,
    Reason,
    Refuse,
    Unknown,
)
from keeper.errors import ChainFault
from keeper.execute.keys import LocalSigner
from keeper.execute.sender import ChainSender
from keeper.execute.sender import Params as SenderParams
from keeper.execute.signer import Signer
from keeper.execute.transports import Asked, Via
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal, StoredJournal
from keeper.journal.tape import Recorder
from keeper.ladder import Book, Climb
from keeper.oracles.panel import Panel
from keeper.oracles.words import LENT_READER
from keeper.pipeline import AlarmParams, Params, Pipeline, Shelf
from keeper.plan import hybrid as plan
from keeper.ports import BlockUpdate, Feed, Notice, Range
from keeper.protocols.hybrid import codec
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import Deployment, Listed, SlopeParams, feed_name
from keeper.risk.liquidity import Depth
from keeper.state.part import WHOLE
from keeper.units import WAD, AccountKey, Block, FeedId, Wad
from tests.unit.protocols.hybrid.books import CAP, NOW_S, OWNER, PRICES, deployment, feed_view
from tests.unit.protocols.hybrid.pages import page_of
from tests.unit.protocols.hybrid.test_codec import FakeChain

KEY = "0x" + "4c" * 32
SIGNER = LocalSigner(Wallet.from_key(KEY))
KEEPER = bytes.fromhex(SIGNER.address[2:]) + bytes(12)
MARKET = HybridMarket(deployment())
"""The market as it is listed at first."""
FIRST = 100
"""The number of the first block."""
EMPTY = Account(bytes(32), Phase.HEALTHY, 0, (), ())


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Chain:
    """Node and reader in one. It fails where it is told to, once for each time the method is named."""

    heads: list[Head] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    fast: dict[FeedId, Wad] = field(default_factory=lambda: dict(PRICES))
    slow: dict[FeedId, Wad] = field(default_factory=lambda: dict(PRICES))
    fast_age_s: int = 0
    silent: set[FeedId] = field(default_factory=set)
    """Feeds whose fast price was observed an hour ago."""
    base_fee_wei: int = 10**9
    credit: bytes = (10_000 * WAD).to_bytes(32)
    insurance_wad: Wad = 0
    deployment: Deployment = field(default_factory=deployment)
    """What is listed now."""
    version_ahead: int = 0
    """How far the version that the reader tells is ahead of the listing's."""
    arrays: dict[int, ArrayView] = field(default_factory=dict)
    settlements: dict[int, Wad] = field(default_factory=dict)
    breaker_level: int = 0
    bucket_cap_wad: Wad = CAP
    balance_wei: int = WAD
    reverts: Mapping[str, bytes] = field(default_factory=dict)
    stacked: list[bytes | Refuse] | None = None
    stacks: bool = False
    """Whether it runs transactions on top of one another, all of which go through."""
    lines: list[int] = field(default_factory=list)
    """How many were to be run on top of one another."""
    """How transactions end on top of one another, where the node can tell."""
    """Revert data of functions, by name."""
    reverted: Mapping[str, bytes] = field(default_factory=dict)
    """The same, where they are run again behind their block."""
    fails: list[str] = field(default_factory=list)
    garbled: set[int] = field(default_factory=set)
    """Logs, by their index, whose data comes without its last byte."""
    pending: dict[str, str] = field(default_factory=dict)
    nonces: dict[str, int] = field(default_factory=dict)
    """By transaction: of one nonce the last one is pending."""
    sent: list[str] = field(default_factory=list)
    """Every transaction handed over, by hash."""
    receipts: dict[str, dict[str, str]] = field(default_factory=dict)
    places: tuple[int, int] | None = None
    """Where in their block others' transactions are, and where ours; None where the node does not say."""
    read: list[AccountKey] = field(default_factory=list)
    misread: Callable[[list[AccountKey]], list[AccountKey]] = lambda keys: keys
    """Whose rows come for those that are asked for."""
    asked_about: list[int] = field(default_factory=list)
    """The options that the last reading of the world was of."""
    simulated: list[str] = field(default_factory=list)
    on_send: Callable[[], None] = lambda: None
    witnessed: Callable[[], bytes] = bytes
    """What the reader of witnesses answers."""
    fork: str = "a"
    span: int = 1_000
    """Blocks in one range of a search."""
    watched: tuple[str, ...] = ()
    searched: list[tuple[Block, Block]] = field(default_factory=list)
    """Every range asked for."""
    asked: list[str] = field(default_factory=list)
    """Every request, by its method."""
    answering: asyncio.Event = field(default_factory=_set)
    """Cleared, it lets simulations hang."""

    @property
    def tip(self) -> Head:
        return self.heads[-1]

    @property
    def next(self) -> Head:
        """The block that comes next."""
        number = FIRST + len(self.heads)
        parent = self.heads[-1].hash if self.heads else "0xroot"
        timestamp_s = NOW_S + 12 * (number - FIRST)
        return Head(number, f"0x{self.fork}{number}", parent, timestamp_s, self.base_fee_wei)

    def extend(self) -> Head:
        """Add a block."""
        self.heads.append(self.next)
        return self.tip

    def cut(self, depth: int) -> list[Head]:
        """Take back the newest blocks; what they held of ours is pending again."""
        orphaned = self.heads[: -depth - 1 : -1]
        del self.heads[-depth:]
        self.logs = [each for each in self.logs if each.block_number <= self.tip.number]
        for tx_hash, receipt in list(self.receipts.items()):
            if int(receipt["blockNumber"], 16) > self.tip.number:
                del self.receipts[tx_hash]
                self.pending[tx_hash] = ""
        self.fork += "'"
        return orphaned

    def mine(self, *, status: int = 1) -> None:
        """Include all that is pending in the newest block."""
        for tx_hash in self.pending:
            self.receipts[tx_hash] = {
                "status": hex(status),
                "blockNumber": hex(self.tip.number),
                "blockHash": self.tip.hash,
                "gasUsed": hex(200_000),
                "effectiveGasPrice": hex(2 * 10**9),
            }
            if self.places is not None:
                self.receipts[tx_hash]["transactionIndex"] = hex(self.places[1])
        self.pending.clear()

    def emit(self, contract: str, name: str, *values: object) -> None:
        """Write a log into the newest block, laid out as the EVM does."""
        event = load(contract).events[name]
        rows = list(zip(event.parameters, values, strict=True))
        indexed = [encode([kind], [value]) for (_, kind, is_indexed), value in rows if is_indexed]
        plain = [(kind, value) for (_, kind, is_indexed), value in rows if not is_indexed]
        data = encode([kind for kind, _ in plain], [value for _, value in plain])
        address = codec._address(self.deployment, contract)
        topics = (event.topic, *indexed)
        tip, index = self.tip, len(self.logs)
        tx_index = self.places[0] if self.places else None
        self.logs.append(Log(address, topics, data, tip.number, tip.hash, f"0xtx{index}", index, tx_index))

    def put(self, account: Account) -> None:
        """Change an account in the newest block, with some event that says so."""
        self.accounts[account.key] = account
        self.emit("Liquidator", "Poked", account.key, 0)

    def relist(self, *markets: Listed, slopes: tuple[SlopeParams, ...] = ()) -> None:
        """List more markets, and add more slopes."""
        rules = self.deployment.rules
        longer = replace(
            rules,
            markets={**rules.markets, **{each.market: each for each in markets}},
            slopes=(*rules.slopes, *slopes),
        )
        self.deployment = replace(self.deployment, rules=longer, version=self.deployment.version + 1)

    def views(self) -> dict[FeedId, FeedView]:
        """Both prices, observed in the newest block."""
        now_s = self.tip.timestamp_s
        return {
            feed: replace(
                feed_view(feed, self.fast[feed], self.slow[feed]),
                fast_observed_at_s=now_s - (3_600 if feed in self.silent else self.fast_age_s),
                slow_updated_at_s=now_s,
            )
            for feed in PRICES
        }

    def _may_fail(self, method: str) -> None:
        if method in self.fails:
            self.fails.remove(method)
            raise ChainFault(f"{method}: no answer")

    # --- the reader ---

    async def updates(self) -> AsyncIterator[BlockUpdate]:
        """Two more blocks, the first one with all that there were before."""
        for adopted in ([*self.heads], []):
            head = self.extend()
            adopted.append(head)
            logs = tuple(log for each in adopted for log in self.logs_of(each))
            yield BlockUpdate(head, (), tuple(adopted), logs)

    def logs_of(self, head: Head) -> tuple[Log, ...]:
        return tuple(self._served(each) for each in self.logs if each.block_hash == head.hash)

    def _served(self, log: Log) -> Log:
        return replace(log, data=log.data[:-1]) if log.index in self.garbled else log

    def watch(self, addresses: Sequence[str]) -> None:
        self.watched = tuple(addresses)

    async def search(self, first: Block, last: Block) -> AsyncIterator[Range]:
        """One range after the other."""
        for low in range(first, last + 1, self.span):
            high = min(low + self.span - 1, last)
            self.searched.append((low, high))
            self._may_fail("search")
            logs = (self._served(each) for each in self.logs if low <= each.block_number <= high)
            yield Range(high, await self.hash_at(high) or "", tuple(logs))

    async def hash_at(self, number: Block) -> str | None:
        if number < FIRST:
            return f"0xold{number}"
        return next((head.hash for head in self.heads if head.number == number), None)

    async def call(self, call: Call, at_hash: str) -> bytes:
        return (await self.call_many([call], at_hash))[0]

    async def call_many(self, calls: Sequence[Call], at_hash: str) -> list[bytes]:
        self.asked.append("call_many")
        self._may_fail("call_many")
        assert at_hash == self.tip.hash
        return [self._answer(call) for call in calls]

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        self.asked.append("simulate")
        self._may_fail("simulate")
        await self.answering.wait()
        assert (sender, at.block) == (SIGNER.address, self.tip.number + 1)
        assert gas_limit > 0
        name = act_of(call.data)
        self.simulated.append(name)
        if name in self.reverts:
            return Refuse(Reason("simulation.reverted", "0x" + self.reverts[name].hex(), "must not revert"))
        return b""

    async def simulate_in_order(
        self, sender: str, calls: Sequence[tuple[Call, int]], at: ChainTime
    ) -> list[bytes | Refuse] | None:
        self.asked.append("simulate_in_order")
        self._may_fail("simulate_in_order")
        assert (sender, at.block) == (SIGNER.address, self.tip.number + 1)
        self.lines.append(len(calls))
        if self.stacks:
            return [b""] * len(calls)
        assert self.stacked is None or len(self.stacked) == len(calls)
        return self.stacked

    def named(self, data: bytes) -> str:
        """Name the function that calldata calls."""
        return act_of(data)

    async def rerun(self, sender: str, call: Call, at_hash: str, gas_limit: int) -> bytes | Refuse:
        self.asked.append("rerun")
        self._may_fail("rerun")
        assert sender == SIGNER.address
        assert at_hash in {head.hash for head in self.heads}
        assert gas_limit > 0
        data = self.reverted.get(self.named(call.data))
        return b"" if data is None else Refuse(Reason("simulation.reverted", "0x" + data.hex(), "no revert"))

    def _answer(self, call: Call) -> bytes:
        reads = load("MarginReader").functions
        if call.data[:4] == reads["world"].selector:
            return self._world(call)
        if call.data[:4] == reads["rows"].selector:
            return self._rows(call)
        if call.to == LENT_READER:
            return self.witnessed()
        if call == HybridMarket(self.deployment).credit_call(SIGNER.address):
            return self.credit
        self._may_fail("listing")
        return FakeChain(self.deployment).answer(call)

    def _world(self, call: Call) -> bytes:
        world = load("MarginReader").functions["world"]
        feeds, options = decode(world.inputs, call.data[4:])
        insurance, rules = self.insurance_wad, self.deployment.rules
        self.asked_about = list(options)
        if unknown := [each for each in options if each not in rules.markets]:
            raise ChainFault(f"reverted: UnknownMarket(id={unknown[0]})")
        version = self.deployment.version + self.version_ahead
        said = (version, self.breaker_level, 0, insurance, 0, 0, insurance, 0, rules.default_slope)
        rows = [self._feed_row(feed_name(each)) for each in feeds]
        return encode(world.outputs, [said, rows, [self._option_row(each) for each in options]])

    def _feed_row(self, feed: FeedId) -> tuple[Any, ...]:
        v = self.views()[feed]
        both = (v.fast_wad, v.fast_observed_at_s, v.slow_wad, v.slow_updated_at_s)
        rules = (v.slow_deviation_wad, v.slow_heartbeat_s, v.min_delay_s)
        return (*both, True, v.slow_ok, False, *rules), 0, 0, self.bucket_cap_wad

    def _option_row(self, market: int) -> tuple[Any, ...]:
        array = self.arrays.get(market, ArrayView(0, 0, 0, 0, (0,) * 16))
        posted = (array.ref_wad, array.mark_wad, array.delta_wad, array.observed_at_s, array.pnl_wad)
        legs = (leg for account in self.accounts.values() for leg in account.legs if leg.market == market)
        return posted, self.settlements.get(market, 0), sum(abs(leg.size_wad) for leg in legs)

    def _rows(self, call: Call) -> bytes:
        keys = self.misread(list(decode(["bytes32[]"], call.data[4:])[0]))
        self.read += keys
        return page_of([self.accounts.get(key, replace(EMPTY, key=key)) for key in keys])

    # --- the sender's node ---

    async def request(self, method: str, params: list[Any]) -> Any:
        self.asked.append(method)
        self._may_fail(method)
        if method == "eth_getBalance":
            return hex(self.balance_wei)
        if method == "eth_feeHistory":
            return {"reward": [["0x0"]]}
        assert method == "eth_sendRawTransaction"
        self.on_send()
        raw: str = params[0]
        tx_hash = "0x" + keccak(bytes.fromhex(raw[2:])).hex()
        self.sent.append(tx_hash)
        if tx_hash not in self.receipts:
            nonce = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["nonce"]
            for each in [each for each in self.pending if self.nonces.get(each) == nonce]:
                del self.pending[each]
            self.nonces[tx_hash] = nonce
            self.pending[tx_hash] = raw
        return tx_hash

    async def batch(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        self.asked.append("batch")
        self._may_fail("batch")
        return [self._state(method, params) for method, params in calls]

    def _state(self, method: str, params: list[Any]) -> Any:
        if method == "eth_getTransactionCount":
            blocks = [int(receipt["blockNumber"], 16) for receipt in self.receipts.values()]
            return hex(sum(block <= int(params[1], 16) for block in blocks))
        if method == "eth_getBalance":
            return hex(self.balance_wei)
        assert method == "eth_getTransactionReceipt"
        return self.receipts.get(params[0])


NAMES = {
    function.selector: name
    for contract in ("Clearing", "Liquidator")
    for name, function in load(contract).functions.items()
}


def act_of(data: bytes) -> str:
    """Name the function that calldata calls."""
    return NAMES[data[:4]]


Emitted = tuple[Any, ...]
"""An event: its contract, its name, and its values."""


@dataclass
class Tape:
    """A feed that says what the chain's fast price is, unless it knows better or nothing at all."""

    chain: Chain
    known: dict[FeedId, Wad] = field(default_factory=dict)
    unknown: set[FeedId] = field(default_factory=set)
    unserved: set[FeedId] = field(default_factory=set)

    def latest(self, now_s: int) -> dict[FeedId, Quote | Unknown]:
        return {
            feed: Unknown(feed, "the price 'nan' is not a decimal")
            if feed in self.unknown
            else Quote(feed, price, now_s)
            for feed, price in (self.chain.fast | self.known).items()
            if feed not in self.unserved
        }


@dataclass
class Told:
    """Hands notices to whatever a test has put there."""

    desk: Desk

    def tell(self, notice: Notice) -> None:
        self.desk.notices(notice)


class Desk:
    """What a test works with."""

    def __init__(self, path: Path, *, restarting: bool, chain: Chain | None = None) -> None:
        self.path = path
        self.place: Path | Shared = path
        """Where its journal is."""
        self.restarting = restarting
        self.dry_run = False
        self.limits = Limits()
        self.plan = plan.Params()
        self.alarms = AlarmParams()
        self.native_feed = "ETH/USD"
        self.batch = 1
        self.protocol = HybridMarket
        self.deciding = HybridDesk
        self.from_block = 0
        self.taping = False
        self.shelf: Shelf | None = None
        self.climb = Climb()
        self.tide = Book()
        self.depth: Mapping[FeedId, Depth] = {}
        self.part = WHOLE
        self.scope = ""
        self.panel = Panel()
        self.lagging: float | None = None
        """What share of the endpoints is behind."""
        self.via: tuple[Via, ...] = (Via.PUBLIC,)
        self.relay: Asked | None = None
        self.notices: Callable[[Notice], None] = lambda _: None
        self.published: Path | None = None
        self.chain = chain or Chain()
        self.feed = Tape(self.chain)
        self.signer: Signer = SIGNER
        self.chain.extend()
        self.chain.put(replace(EMPTY, key=KEEPER, cash_wad=100_000 * WAD))
        self.start()

    def start(self) -> None:
        """Start anew from the journal, as after a crash."""
        self.close()
        self.journal = self.open_journal()
        self.tape = tape = self._tape()
        chain = self.chain
        feed: Feed = self.feed
        if tape is not None:
            chain, feed = tape.reader(chain), tape.feed(feed)
        sender = ChainSender(
            tape.rpc(self.chain) if tape else self.chain,
            self.journal,
            tape.signer(self.signer) if tape else self.signer,
            chain_id=31337,
            params=SenderParams(dry_run=self.dry_run, via=self.via),
            relay=tape.rpc(self.relay) if tape and self.relay else self.relay,
        )
        self.pipeline = Pipeline(
            reader=chain,
            market=self.protocol(self.chain.deployment),
            desk=self.deciding(SIGNER.address, KEEPER, DeskParams(self.native_feed, plan=self.plan)),
            feed=feed,
            journal=self.journal,
            sender=sender,
            params=Params(
                dry_run=self.dry_run,
                alarms=self.alarms,
                climb=self.climb,
                tide=self.tide,
                depth=self.depth,
                part=self.part,
                scope=self.scope,
                batch=self.batch,
            ),
            shelf=self.shelf,
            panel=self.panel,
            lagging=lambda: self.lagging,
            alerts=Told(self),
            tape=tape,
            leads=self.journal.leads,
        )
        self.discovered = False

    def open_journal(self) -> StoredJournal:
        """Open the journal; a test may have it elsewhere."""
        return SqliteJournal(self.path, identity={"chain_id": "31337"}, limits=self.limits)

    def _tape(self) -> Recorder | None:
        """Begin a tape, where the journal is to have one."""
        if not self.taping:
            return None
        tape = Recorder()
        at_once = self.signer.at_once is not None
        started = {"wallet": SIGNER.address, "signs_at_once": at_once, "chain_id": 31337}
        book = self.shelf.path if self.shelf and self.shelf.path.exists() else self.published
        self.journal.keep_tape(tape, started, book=book)
        return tape

    def close(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()

    async def head(
        self, *changes: Account, mined: bool = False, status: int = 1, reorg: int = 0, emitted: Emitted = ()
    ) -> None:
        """Add a block that changes accounts, and tell the pipeline; a reorg replaces the newest ones."""
        chain = self.chain
        orphaned = chain.cut(reorg) if reorg else []
        adopted = [chain.extend() for _ in range(max(reorg, 1))]
        for account in changes:
            chain.put(account)
        if emitted:
            chain.emit(*emitted)
        if mined:
            chain.mine(status=status)
        if self.restarting:
            self.start()
        await self.hear(orphaned, adopted)

    async def hear(self, orphaned: Sequence[Head] = (), adopted: Sequence[Head] = ()) -> None:
        """Tell the pipeline of new blocks; after a start, of those that it asks for, as the reader does."""
        chain = self.chain
        if not self.discovered:
            first = await self.pipeline.discover(self.from_block, chain.tip, published=self.published)
            self.discovered = True
            orphaned, adopted = [], [each for each in chain.heads if each.number >= first]
        logs = tuple(log for head in adopted for log in chain.logs_of(head))
        await self.pipeline.on_update(BlockUpdate(chain.tip, tuple(orphaned), tuple(adopted), logs))

    # --- what came of it ---

    def cases(self) -> list[str]:
        """Return the cases, oldest first."""
        return [row["case_id"] for row in self.journal._rows("SELECT case_id FROM cases ORDER BY rowid")]

    def history(self, case: int = 0) -> tuple[CaseEvent, ...]:
        """Return the events of one case; none where there is no such case."""
        cases = self.cases()
        return self.journal.history(cases[case]) if case < len(cases) else ()

    def told(self, case: int = 0) -> list[str]:
        """Return a case's history in short: its events, with the act or the rule in question.

        Without the rungs that it came to, which follow from the others.
        """
        return [_short(event) for event in self.history(case) if event.kind is not EventKind.MOVED]

    def rungs(self, case: int = 0) -> list[str]:
        """Return the rungs above suspicion that a case came to."""
        return [event.data["rung"] for event in self.history(case) if event.kind is EventKind.MOVED]

    def heads_done(self) -> list[Block]:
        return [row["number"] for row in self.journal._rows("SELECT number FROM heads ORDER BY seq")]

    def acts(self) -> list[str]:
        """Return what was reserved, whatever became of it."""
        return [row["kind"] for row in self.journal._rows("SELECT kind FROM steps ORDER BY rowid")]

    def violations(self) -> list[str]:
        """Return what is wrong with the journal, as an auditor in another process sees it."""
        reader = JournalReader(self.place)
        try:
            return [*reader.verify(), *self._unfounded()]
        finally:
            reader.close()

    def _unfounded(self) -> Iterator[str]:
        """Yield what took something from an account without the agreement of both clocks beside it."""
        for case in range(len(self.cases())):
            events = self.history(case)
            for event in events:
                rests = event.kind is EventKind.RESERVED and event.data["kind"] in {"confirm", "liquidate"}
                if rests and not event.data.get("agreed"):
                    yield f"{event.data['step_id']} without agreement"


def _short(event: CaseEvent) -> str:
    if event.kind is EventKind.OBSERVED:
        return f"Observed {event.data['act']}"
    named = event.data.get("rule") or (event.data.get("kind") if event.kind is EventKind.RESERVED else None)
    return f"{event.kind} {named}" if named else event.kind.value


# --- accounts ------------------------------------------------------------------------------------

BREACHED = replace(EMPTY, key=OWNER, cash_wad=1_900 * WAD, legs=(Leg(1, 100 * WAD, -21_000 * WAD),))
"""Long 100 at 210, the price at 200: E = 900, M = 1,000, N = 20,000."""


def cured(account: Account) -> Account:
    """Return the account after a deposit that lifts it far above the cure level."""
    return replace(account, cash_wad=account.cash_wad + 5_000 * WAD)


def flagged(account: Account, head: Head, *, by: str = SIGNER.address) -> Account:
    """Return the account as the Liquidator has it after a flag in a block."""
    flag = FlagState(
        flagger=by,
        bond_wad=50 * WAD,
        flagged_at_s=head.timestamp_s,
        flagged_block=head.number,
        last_poke_s=head.timestamp_s,
    )
    return replace(account, phase=Phase.FLAGGED, flag=flag)


def confirmed(account: Account, head: Head) -> Account:
    """Return the account after its confirmation in a block."""
    tau_s = head.timestamp_s - account.flag.flagged_at_s
    flag = replace(
        account.flag,
        bond_wad=0,
        tau_s=tau_s,
        tau_at_confirm_s=tau_s,
        last_poke_s=head.timestamp_s,
        confirmed_at_s=head.timestamp_s,
        fee_cap_wad=WAD // 50,
    )
    return replace(account, phase=Phase.CONFIRMED, flag=flag)
